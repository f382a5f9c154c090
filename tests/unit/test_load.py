"""The load program sees every kind of failure: each is made by a server that misbehaves in just that way."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import load as load_module
import pytest
from load import Client, Load, LoadError, Options, Reader, Record, Result, run

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

NONE = {"keepalive": 0, "fresh": 0, "slow": 0, "stream": 0, "upload": 0}
QUICK = {"post": 0.0, "rate": 0.0, "slow_seconds": 0.02, "stream_seconds": 0.02, "upload_seconds": 0.02}
VERSION = b"HTTP/1.1 200 OK\r\nX-Release: v1\r\nContent-Length: 9\r\n\r\nversion 1"
CHUNKED = b"HTTP/1.1 200 OK\r\nX-Release: v1\r\nTransfer-Encoding: chunked\r\n\r\n"


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The head and the body; an empty head at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        return head, await reader.readexactly(int(length[1])) if length else b""
    except (asyncio.IncompleteReadError, ConnectionError):
        return b"", b""


def reset(writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


def answers(*answers: bytes, end: Callable[[asyncio.StreamWriter], None] | None = None) -> Handler:
    """One answer to each request of a connection, the last one again and again, or then an `end`."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = list(answers)
        while (await read_request(reader))[0]:
            if left:
                writer.write(left[0])
                await writer.drain()
            if end and len(left) < 2:
                end(writer)
                return
            left = left[1:] or left

    return handle


async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that does all as it should."""
    while True:
        head, body = await read_request(reader)
        if not head:
            return
        if head.startswith(b"POST /echo "):
            length = len(body)
            writer.write(b"HTTP/1.1 200 OK\r\nX-Release: v1\r\nContent-Length: %d\r\n\r\n%b" % (length, body))
        elif seconds := re.match(rb"GET /slow\?seconds=([\d.]+) ", head):
            await asyncio.sleep(float(seconds[1]))
            writer.write(VERSION)
        elif head.startswith(b"GET /stream?"):
            writer.write(CHUNKED)
            for _ in range(3):
                writer.write(b"a;ext=1\r\nversion 1\n\r\n")
                await asyncio.sleep(0.01)
            writer.write(b"0\r\nTrailer: 1\r\n\r\n")
        elif head.startswith(b"GET /version "):
            writer.write(VERSION)
        if b"Connection: close" in head:
            writer.close()
            return


async def count_in_loop(handler: Handler, options: dict[str, float]) -> Result:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        chosen = Options(f"http://127.0.0.1:{port}", **{**NONE, **QUICK, "seconds": 20, **options})
        return await run(chosen, asyncio.Event())
    finally:
        server.close()


def count(handler: Handler, **options: float) -> Result:
    result = asyncio.run(count_in_loop(handler, options))
    consistent(result)
    return result


def consistent(result: Result) -> None:
    assert result.total == result.ok + result.failed
    assert result.total == sum(kind["total"] for kind in result.by_kind.values())
    assert result.ok == sum(kind["ok"] for kind in result.by_kind.values())
    assert result.failed == sum(kind["failed"] for kind in result.by_kind.values())
    assert result.total == sum(result.by_outcome.values())
    assert result.ok == result.by_outcome.get("ok", 0) == sum(result.by_release.values())
    assert len(result.failures) == min(result.failed, load_module.MAX_FAILURES)
    assert all(failure["detail"] and failure["outcome"] in result.explain() for failure in result.failures)


def ok(body: bytes, *headers: bytes) -> bytes:
    lines = (b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize("kind", ["keepalive", "fresh", "slow", "stream", "upload"])
def test_right_answers_are_ok(kind: str) -> None:
    result = count(app, **{kind: 2, "requests": 6})
    assert result.failed == 0, result.explain()
    assert (result.total, result.by_kind) == (6, {kind: {"total": 6, "ok": 6, "failed": 0}})
    assert result.by_release == {"v1": 6}
    assert result.ended == "requests"
    v1 = result.releases["v1"]
    assert v1["n"] == 6
    assert v1["first_sent"] <= v1["last_sent"] <= v1["last_answered"]
    latency = result.latency[kind]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]


def test_all_kinds_at_once() -> None:
    result = count(app, keepalive=3, fresh=2, slow=2, stream=2, upload=1, post=0.5, requests=300)
    assert result.failed == 0, result.explain()
    assert set(result.by_kind) == {"keepalive", "post", "fresh", "slow", "stream", "upload"}
    assert result.total == 300


VERSION_FAULTS = {
    "close": ("reset", answers(end=lambda writer: writer.close())),
    "reset": ("reset", answers(end=reset)),
    "cut head": ("truncated", answers(b"HTTP/1.1 200 OK\r\nContent-", end=lambda writer: writer.close())),
    "cut body": ("truncated", answers(VERSION[:-1], end=lambda writer: writer.close())),
    "no body": ("truncated", answers(VERSION[:-9], end=lambda writer: writer.close())),
    "cut chunks": ("truncated", answers(CHUNKED + b"9\r\nvers", end=lambda writer: writer.close())),
    "500": ("status", answers(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")),
    "502, cut": ("status", answers(b"HTTP/1.1 502 Oops\r\n\r\nbad", end=lambda writer: writer.close())),
    "404": ("status", answers(b"HTTP/1.1 404 No\r\nContent-Length: 9\r\n\r\nversion 1")),
    "302": ("status", answers(b"HTTP/1.1 302 There\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")),
    "other body": ("wrong", answers(ok(b"hello", b"X-Release: v1"))),
    "empty body": ("wrong", answers(ok(b"", b"X-Release: v1"))),
    "204": ("wrong", answers(b"HTTP/1.1 204 Nothing\r\nX-Release: v1\r\n\r\n")),
    "no http": ("wrong", answers(b"version 1\r\n\r\n")),
    "bad header": ("wrong", answers(ok(b"version 1", b"no colon"))),
    "head too long": ("wrong", answers(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 200_000)),
    "body too long": ("wrong", answers(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")),
    "no length": ("wrong", answers(b"HTTP/1.1 200 OK\r\n\r\nversion 1", end=lambda writer: writer.close())),
    "two lengths": ("wrong", answers(ok(b"version 1", b"Content-Length: 8"))),
    "length and chunked": ("wrong", answers(ok(b"version 1", b"Transfer-Encoding: chunked"))),
    "bad chunk size": ("wrong", answers(CHUNKED + b"x\r\nversion 1\r\n0\r\n\r\n")),
    "bad chunk end": ("wrong", answers(CHUNKED + b"8\r\nversion 1\r\n0\r\n\r\n")),
    "more than the answer": ("wrong", answers(VERSION + b"0")),
}


@pytest.mark.parametrize("kind", ["keepalive", "fresh"])
@pytest.mark.parametrize(("outcome", "handler"), VERSION_FAULTS.values(), ids=VERSION_FAULTS)
def test_fault(kind: str, outcome: str, handler: Handler) -> None:
    result = count(handler, **{kind: 1, "requests": 2})
    assert result.by_outcome == {outcome: 2}, result.explain()
    assert (result.total, result.failed) == (2, 2)
    assert [failure["kind"] for failure in result.failures] == [kind, kind]
    assert not any(failure["reused"] for failure in result.failures)


def test_the_status_is_noted() -> None:
    failure = count(VERSION_FAULTS["502, cut"][1], fresh=1, requests=1).failures[0]
    assert (failure["status"], failure["release"]) == (502, None)
    assert "502" in failure["detail"]
    assert failure["sent_at"] > 0


def test_refused() -> None:
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        options = Options(url, **{**NONE, **QUICK, "keepalive": 1, "fresh": 1, "slow": 1, "requests": 9})
        result = asyncio.run(run(options, asyncio.Event()))
    consistent(result)
    assert result.by_outcome == {"refused": 9}


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\n", VERSION[:-1]])
def test_timeout(begin: bytes) -> None:
    result = count(answers(begin), keepalive=1, fresh=1, requests=2, timeout=0.05)
    assert result.by_outcome == {"timeout": 2}, result.explain()


@pytest.mark.parametrize("end", [lambda writer: writer.close(), reset], ids=["closed", "reset"])
def test_a_reset_of_a_reused_connection_is_not_retried(end: Callable[[asyncio.StreamWriter], None]) -> None:
    asked = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        for _ in range(2):
            await read_request(reader)
            asked += 1
            if _ == 0:
                writer.write(VERSION)
        end(writer)

    result = count(handler=handle, keepalive=1, requests=4)
    assert result.by_outcome == {"ok": 2, "reset": 2}, result.explain()
    assert [failure["reused"] for failure in result.failures] == [True, True]
    assert asked == 4
    assert result.idle_closed == 0


def test_an_announced_close_is_no_failure() -> None:
    closing = ok(b"version 1", b"Connection: keep-alive, Close")
    result = count(answers(closing, end=lambda writer: writer.close()), keepalive=1, requests=5)
    assert (result.ok, result.failed, result.idle_closed) == (5, 0, 0), result.explain()


@pytest.mark.parametrize("end", [lambda writer: writer.close(), reset], ids=["closed", "reset"])
def test_a_close_while_idle_is_no_failure(
    end: Callable[[asyncio.StreamWriter], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    idle, closed = asyncio.Event(), asyncio.Event()
    connect = Client.connect

    async def connect_after_the_close(client: Client, record: Record) -> Reader:
        if client.reader:
            idle.set()
            await closed.wait()
        return await connect(client, record)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        idle.clear()
        closed.clear()
        await read_request(reader)
        writer.write(VERSION)
        await idle.wait()
        end(writer)
        await asyncio.sleep(0)  # for the loop to close it
        await asyncio.sleep(0)
        closed.set()

    monkeypatch.setattr(Client, "connect", connect_after_the_close)
    result = count(handle, keepalive=1, requests=3)
    assert (result.ok, result.failed, result.idle_closed) == (3, 0, 2), result.explain()


def test_what_came_before_a_reset_is_read() -> None:
    async def read() -> bytes:
        reader = Reader()
        reader.feed_data(VERSION)
        reader.set_exception(ConnectionResetError())
        return await reader.until(b"\r\n\r\n", "head") + await reader.body(9)

    assert asyncio.run(read()) == VERSION


def test_informational_answers_are_passed_over() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    assert count(answers(hints + VERSION), keepalive=1, requests=2).ok == 2
    cut = answers(hints, end=lambda writer: writer.close())
    assert count(cut, keepalive=1, requests=1).by_outcome == {"truncated": 1}


def test_the_release_is_that_of_the_header_or_else_of_the_body() -> None:
    first, second = ok(b"version 1\n", b"x-release: blue"), ok(b"version 2")
    result = count(answers(first, second), keepalive=1, requests=3)
    assert result.by_release == {"blue": 1, "v2": 2}, result.explain()
    assert result.releases["blue"]["last_sent"] <= result.releases["v2"]["first_sent"]
    assert result.releases["v2"]["n"] == 2


def test_a_failure_with_a_release() -> None:
    oops = b"HTTP/1.1 500 Oops\r\nX-Release: v2\r\nContent-Length: 0\r\n\r\n"
    result = count(answers(VERSION, oops), keepalive=1, requests=2)
    assert result.by_release == {"v1": 1}
    assert (result.failures[0]["release"], result.failures[0]["reused"]) == ("v2", True)


STREAM_FAULTS = {
    "no terminating chunk": ("truncated", CHUNKED + b"a\r\nversion 1\n\r\n"),
    "cut terminating chunk": ("truncated", CHUNKED + b"a\r\nversion 1\n\r\n0\r\n"),
    "nothing": ("wrong", CHUNKED + b"0\r\n\r\n"),
    "two versions": ("wrong", CHUNKED + b"a\r\nversion 1\n\r\na\r\nversion 2\n\r\n0\r\n\r\n"),
    "two releases": ("wrong", CHUNKED + b"3\r\nv1\n\r\n3\r\nv2\n\r\n0\r\n\r\n"),
    "no release": ("wrong", CHUNKED.replace(b"X-Release: v1\r\n", b"") + b"3\r\nabc\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize(("outcome", "answer"), STREAM_FAULTS.values(), ids=STREAM_FAULTS)
def test_stream_fault(outcome: str, answer: bytes) -> None:
    result = count(answers(answer, end=lambda writer: writer.close()), stream=1, requests=2)
    assert result.by_outcome == {outcome: 2}, result.explain()


@pytest.mark.parametrize(("kind", "post"), [("keepalive", 1.0), ("upload", 0.0)])
def test_a_wrong_echo(kind: str, post: float) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while body := (await read_request(reader))[1]:
            writer.write(ok(body[:-1] + bytes([body[-1] ^ 1])))

    result = count(handle, **{kind: 1, "post": post, "requests": 2})
    assert result.by_outcome == {"wrong": 2}, result.explain()
    assert set(result.by_kind) == {"post" if post else "upload"}


EARLY = {
    "closed": ("reset", b""),
    "refused": ("status", b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
    "answered": ("wrong", VERSION),
    "cut": ("truncated", VERSION[:-1]),
}


@pytest.mark.parametrize(("outcome", "answer"), EARLY.values(), ids=EARLY)
def test_an_upload_answered_before_its_end(outcome: str, answer: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    result = count(handle, upload=1, requests=2, upload_seconds=0.4)
    assert result.by_outcome == {outcome: 2}, result.explain()
    early = "answered before the body was sent"
    assert all((failure["detail"] == early) == (outcome == "wrong") for failure in result.failures)


def test_the_host_header() -> None:
    seen = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, _ = await read_request(reader)
        seen.update(re.findall(rb"\r\nHost: (.*?)\r\n", head))
        writer.write(VERSION)

    count(handle, fresh=1, requests=1, host="app.example")
    count(handle, fresh=1, requests=1)
    assert b"app.example" in seen
    assert any(re.fullmatch(rb"127\.0\.0\.1:\d+", host) for host in seen)


def test_what_is_in_flight_too_long_at_the_end_has_failed() -> None:
    result = count(answers(b""), keepalive=2, fresh=1, seconds=0.1, drain=0.05, rate=1000)
    assert result.by_outcome == {"timeout": 3}, result.explain()
    assert result.ended == "seconds"


def test_many_failures_are_counted_and_some_described() -> None:
    result = count(VERSION_FAULTS["500"][1], keepalive=20, fresh=20, requests=130)
    assert (result.failed, len(result.failures)) == (130, 50)
    assert "... and 80 more failures" in result.explain()


def test_a_fault_of_the_load_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "check", None)
    with pytest.raises(TypeError):
        count(app, keepalive=1, requests=5)


@pytest.mark.parametrize(
    "options",
    [{"url": "https://a"}, {"url": "a:80"}, {"seconds": 1801}, {"seconds": 0}, {"drain": 31}, NONE],
)
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"URL|seconds|clients|drain"):
        Options(**{"url": "http://a", **options})


# The program, in its own process.


@contextlib.contextmanager
def served(handler: Handler) -> Iterator[str]:
    """The URL of a server in a thread of its own."""
    loop = asyncio.new_event_loop()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        server = runner.run(asyncio.start_server(handle, "127.0.0.1", 0))
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            loop.call_soon_threadsafe(server.close)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


@pytest.fixture
def url() -> Iterator[str]:
    with served(app) as url:
        yield url


def test_load_counts_until_stop(url: str) -> None:
    with Load(url, keepalive=4, fresh=2, slow=0, stream=0, post=0.5, seconds=60) as load:
        snapshot = load.wait_for_requests(50)
        assert snapshot.total == snapshot.ok >= 50
        assert snapshot.by_release == {"v1": snapshot.ok}
        assert load.snapshot().total >= 50
        result = load.stop()
        assert load.stop() is result
    consistent(result)
    assert result.failed == 0, result.explain()
    assert result.ended == "stop"
    assert result.total >= snapshot.total
    assert load.process.returncode is not None


def test_stop_lets_the_request_in_flight_finish() -> None:
    stopping = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await read_request(reader))[0]:
            if b"/slow" in head:
                await stopping.wait()
            writer.write(VERSION)
        stopping.set()  # an idle client leaves at once

    with served(handle) as url, Load(url, **{**NONE, "keepalive": 1, "slow": 1, "seconds": 60}, post=0) as load:
        assert load.wait_for_requests(5).failed == 0
        result = load.stop()
    assert result.by_kind["slow"] == {"total": 1, "ok": 1, "failed": 0}, result.explain()
    assert result.failed == 0, result.explain()


def test_a_load_that_ended_by_itself_is_an_error(url: str) -> None:
    with Load(url, **{**NONE, "keepalive": 1}, requests=3) as load:
        with pytest.raises(LoadError, match="the load ended while waiting"):
            load.wait_for_requests(4)
        with pytest.raises(LoadError, match="ended by itself"):
            load.stop()


def test_a_load_that_died_is_an_error(url: str) -> None:
    with Load(url, slow=0, stream=0, seconds=60) as load:
        load.wait_for_requests(1)
        with pytest.raises(LoadError, match="no 1000000 requests in 0"):
            load.wait_for_requests(1_000_000, timeout=0.01)
        os.kill(load.process.pid, signal.SIGKILL)
        with pytest.raises(LoadError, match="the load ended"):
            load.wait_for_requests(1_000_000)
        with pytest.raises(LoadError, match="no result"):
            load.stop()


def test_the_process_ends_with_the_block(url: str) -> None:
    with pytest.raises(KeyError), Load(url, seconds=60) as load:
        raise KeyError
    assert load.process.returncode == -signal.SIGKILL


def test_the_process_ends_with_its_parent(url: str) -> None:
    with Load(url, seconds=60) as load:
        load.wait_for_requests(1)
        assert load.process.stdin
        load.process.stdin.close()
        assert load.process.wait(10) == 3


@pytest.mark.parametrize("good", [True, False])
def test_the_program(url: str, tmp_path: Path, good: bool) -> None:
    file = tmp_path / "out.json"
    command = [sys.executable, str(load_module.__file__), "--url", url if good else "http://127.0.0.1:1"]
    command += ["--seconds", "0.2", "--json", str(file), "--slow-seconds", "0.1", "--stream-seconds=0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    result = Result(**json.loads(file.read_text()))
    consistent(result)
    assert json.loads(done.stdout) == json.loads(file.read_text())
    assert done.stderr == result.explain() + "\n"
    assert (done.returncode, result.ended) == (0 if good else 1, "seconds")
    assert result.total > 0
    assert (result.failed == 0) is good
