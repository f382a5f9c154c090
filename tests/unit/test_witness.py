"""What the witness promises, against servers on this machine that behave and misbehave."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest

from bluegreen import witness as module
from bluegreen.witness import FRESH, KEPT, Answer, Tally, Witness, latency_ms, shown, ticks

TWO = {"v1": "version 1", "v2": "version 2"}
Reply = Callable[[int, bytes], bytes]
CLOSE, RESET, TRICKLE = b"", b"reset", b"trickle"
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nversion"


def http(body: str = "", status: int = 200, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n{body}".encode()


V1, V2, BAD = http("version 1\n"), http("version 2\n"), http(status=502)


class Server:
    """Answers with `reply`, or what it returns for a request and the number its connection had before."""

    def __init__(self) -> None:
        self.reply: bytes | Reply = V1
        self.requests: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        with socket.socket() as wake:
            self._closing = True
            wake.connect_ex(("127.0.0.1", self.port))
            self._threads[0].join()
        self._socket.close()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(5)

    _closing = False

    def _accept(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            if self._closing:
                connection.close()
                return
            self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            number = 0
            data = b""
            while chunk := connection.recv(65536):
                data += chunk
                if b"\r\n\r\n" not in data:
                    continue
                self.requests.append(data)
                reply = self.reply if isinstance(self.reply, bytes) else self.reply(number, data)
                if reply == RESET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                if reply == TRICKLE:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    while True:
                        connection.sendall(b"1\r\nx\r\n")
                        time.sleep(0.01)
                connection.sendall(reply)
                if reply in (CLOSE, HALF) or b"connection: close" in data.lower():
                    return
                number, data = number + 1, b""
        except OSError:
            pass
        finally:
            self._open.discard(connection)
            connection.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def watched(server: Server) -> Iterator[Callable[..., Witness]]:
    """Starts a witness of the server; it is stopped before the server is."""
    made: list[Witness] = []

    def make(
        expected: dict[str, str | None] = TWO,
        *,
        host: str | None = None,
        rate: float = 500,
        connections: int = 2,
        timeout: float = 3,
    ) -> Witness:
        witness = Witness(
            server.url,
            "/version",
            host=host,
            expected=expected,
            rate=rate,
            connections=connections,
            timeout=timeout,
        )
        made.append(witness)
        witness.start()
        return witness

    yield make
    for witness in made:
        witness.stop()


def until(true: Callable[[], object], what: str = "it") -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.005)


def requests(witness: Witness) -> dict:
    return witness.summary()["requests"]


def more(witness: Witness, number: int = 20) -> None:
    """Waits until so many more requests have ended."""
    goal = requests(witness)["total"] + number
    until(lambda: requests(witness)["total"] >= goal, f"{number} more requests")


def settled(witness: Witness, release: str = "v1", number: int = 20) -> None:
    """Waits until the witness has seen so many good answers of the release."""
    until(lambda: witness.live_counts()[release] >= number, f"{number} answers of {release}")


def whys(witness: Witness) -> set[str]:
    return {failure["why"] for failure in requests(witness)["failures"]}


def flip(server: Server, witness: Witness, reply: bytes | Reply = V2) -> None:
    """Switches from a v1 that answers to `reply`, which nothing meets that was sent before the switch."""
    settled(witness)
    at = time.monotonic()
    witness.switched("v2", at)
    lines = set(range(witness._lines))
    until(lambda: {record.line for record in witness._tally.records() if record.sent >= at} == lines)
    server.reply = reply


def once(reply: bytes, then: bytes) -> Reply:
    left = [reply]
    return lambda *_: left.pop() if left else then


class Fed:
    """A witness that is told its answers, each sent so many seconds after the moment `at` and gone in 5 ms."""

    def __init__(self, expected: dict[str, str | None] = TWO) -> None:
        self.at = time.monotonic()
        self.witness = Witness("http://x", "/version", host=None, expected=expected, rate=1, connections=1, timeout=1)

    def add(
        self,
        after: float,
        label: str = "",
        *,
        why: str = "",
        status: int = 0,
        connection: str = FRESH,
        line: int = 0,
    ) -> None:
        answer = Answer(self.at + after, 0.005, connection, status if why else 200, "", why)
        self.witness._tally.add(answer, label, why, line)


# --- importing, starting, stopping ---


def test_importing_it_does_not_import_httpx() -> None:
    code = "import sys, bluegreen.witness, bluegreen.watch; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("rate", "connections"), [(0, 1), (-1, 1), (1, -1)])
def test_an_impossible_rate_or_number_of_connections_is_refused(rate: float, connections: int) -> None:
    with pytest.raises(ValueError, match="rate"):
        Witness("http://x", "/", host=None, expected={}, rate=rate, connections=connections, timeout=1)


def test_a_second_stop_and_a_stop_without_a_start_do_nothing(watched: Callable[..., Witness]) -> None:
    Witness("http://x", "/", host=None, expected={}, rate=1, connections=1, timeout=1).stop()
    witness = watched()
    settled(witness)
    witness.stop()
    summary = witness.summary()
    witness.stop()
    witness.start()
    assert witness.summary() == summary


def test_stop_comes_back_while_requests_hang_and_counts_them_as_unfinished(
    server: Server, watched: Callable[..., Witness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_GRACE", 0.1)
    gate = threading.Event()

    def hold(*_: object) -> bytes:
        gate.wait(20)
        return V1

    server.reply = hold
    witness = watched(timeout=30)
    until(lambda: len(server.requests) == 3)
    witness.stop()
    before = witness.summary()
    assert (before["requests"]["total"], before["requests"]["unfinished"]) == (0, 3)
    gate.set()
    until(lambda: not any(thread.name.startswith("witness-") for thread in threading.enumerate()))
    assert witness.summary() == before


# --- what is sent ---


def test_it_keeps_as_many_connections_as_told_and_opens_fresh_ones_beside_them(
    server: Server, watched: Callable[..., Witness]
) -> None:
    witness = watched(connections=3, host="app.example.org")
    settled(witness, number=40)
    witness.stop()
    closing = [request for request in server.requests if b"connection: close" in request.lower()]
    total = requests(witness)["total"]
    assert total == len(server.requests)
    assert requests(witness)["failed"] == 0
    assert 0 < len(closing) < total
    assert len(server._threads) - 1 == len(closing) + 3
    assert all(b"\r\nHost: app.example.org\r\n" in request for request in server.requests)
    assert all(request.startswith(b"GET /version HTTP/1.1\r\n") for request in server.requests)


def test_a_failed_request_is_not_sent_again(server: Server, watched: Callable[..., Witness]) -> None:
    server.reply = RESET
    witness = watched()
    more(witness)
    witness.stop()
    assert requests(witness)["failed"] == requests(witness)["total"] == len(server.requests)


def test_cookies_are_not_kept_so_that_no_release_holds_on_to_the_witness(
    server: Server, watched: Callable[..., Witness]
) -> None:
    server.reply = http("version 1", headers="Set-Cookie: server=blue\r\n")
    settled(watched())
    assert not any(b"cookie" in request.lower() for request in server.requests)


def test_a_request_that_hangs_does_not_hold_up_the_other_connections(
    server: Server, watched: Callable[..., Witness]
) -> None:
    gate = threading.Event()
    first = [True]

    def reply(*_: object) -> bytes:
        if first and first.pop():
            gate.wait(20)
        return V1

    server.reply = reply
    witness = watched(timeout=30)
    settled(witness, number=40)
    gate.set()
    settled(witness, number=60)


def test_whoever_is_late_skips_what_was_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(round(timeout or 0, 6))
            now[0] += timeout or 0
            return len(waits) > 5

    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    due = []
    for _ in ticks(10, Stop(), offset=0.05):
        due.append(round(now[0], 6))
        now[0] += 0.35 if len(due) == 2 else 0.01
    assert due == [0.05, 0.15, 0.5, 0.55, 0.65]


# --- how answers are told apart ---


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (BAD, "status 502"),
        (http("version 1", status=404), "status 404"),
        (http("version 12"), "wrong answer"),
        (http(""), "wrong answer"),
        (RESET, "reset on a fresh connection"),
        (CLOSE, "reset on a fresh connection"),
        (HALF, "reset on a fresh connection"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
    ],
)
def test_each_failure_is_told_by_its_kind(
    server: Server, watched: Callable[..., Witness], reply: bytes, why: str
) -> None:
    server.reply = reply
    witness = watched(connections=0)
    more(witness, 3)
    witness.stop()
    (failure,) = requests(witness)["failures"]
    total = requests(witness)["total"]
    assert (failure["why"], failure["connection"], failure["count"]) == (why, FRESH, total)
    assert requests(witness)["failed"] == total
    assert failure["at"] >= 0


def test_a_closed_port_is_told_as_refused(server: Server, watched: Callable[..., Witness]) -> None:
    witness = watched()
    settled(witness)
    server.close()
    until(lambda: "refused" in whys(witness))
    assert {f["connection"] for f in requests(witness)["failures"] if f["why"] == "refused"} == {FRESH}


@pytest.mark.parametrize("trickle", [False, True])
def test_an_answer_that_does_not_end_in_time_is_told_as_a_timeout(
    server: Server, watched: Callable[..., Witness], trickle: bool
) -> None:
    gate = threading.Event()

    def hang(*_: object) -> bytes:
        gate.wait(20)
        return CLOSE

    server.reply = hang
    if trickle:
        server.reply = TRICKLE
    witness = watched(connections=0, timeout=0.1)
    more(witness, 2)
    witness.stop()
    gate.set()
    assert whys(witness) == {"timeout"}


def test_a_body_that_never_ends_is_a_wrong_answer(server: Server, watched: Callable[..., Witness]) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"
    server.reply = head + b"x" * (module.BODY_LIMIT + 2)
    witness = watched(connections=1)
    more(witness, 4)
    assert whys(witness) == {"wrong answer"}


def test_a_kept_connection_that_is_closed_under_a_request_is_told_apart_from_a_fresh_one(
    server: Server, watched: Callable[..., Witness]
) -> None:
    server.reply = lambda number, _: RESET if number == 3 else V1
    witness = watched()
    until(lambda: whys(witness))
    more(witness)
    failures = requests(witness)["failures"]
    assert [(f["why"], f["connection"]) for f in failures] == [("reset on a reused connection", KEPT)]


def test_bodies_that_tell_nothing_count_as_unknown_and_not_as_failures(
    server: Server, watched: Callable[..., Witness]
) -> None:
    server.reply = http("anything")
    blind = watched({"v1": None, "v2": None})
    same = watched({"v1": "anything", "v2": "anything"})
    for witness in (blind, same):
        more(witness)
        witness.switched("v2")
        more(witness)
        witness.stop()
        summary = witness.summary()
        assert summary["requests"]["by_release"] == {
            "v1": 0,
            "v2": 0,
            "unknown": summary["requests"]["total"],
        }
        assert (summary["switch"]["first_new_ms"], summary["switch"]["last_old_ms"]) == (None, None)
        assert summary["requests"]["stale"] == summary["requests"]["failed"] == 0


def test_what_the_network_said_is_shown_without_control_characters_and_not_too_long() -> None:
    assert shown("a\x1b[31mb\r\n c") == "a�[31mb c"
    assert shown("x" * 1000) == "x" * 59 + "…"


# --- reachable ---


@pytest.mark.parametrize("reply", [V1, BAD, http(status=404), http("what?")])
def test_any_http_answer_means_reachable(server: Server, reply: bytes) -> None:
    server.reply = reply
    witness = Witness(server.url, "/", host=None, expected=TWO, rate=1, connections=1, timeout=3)
    assert witness.reachable() is None
    assert len(server.requests) == 1


def test_unreachable_is_said_in_words_and_without_a_password(server: Server) -> None:
    server.close()
    url = f"http://user:secret@127.0.0.1:{server.port}/"
    wrong = Witness(url, "/version", host=None, expected=TWO, rate=1, connections=1, timeout=3).reachable()
    assert wrong is not None
    assert wrong.startswith(f"no answer from http://127.0.0.1:{server.port}/version: refused")
    assert "secret" not in wrong


# --- the verdict ---


def test_a_clean_switch_is_not_taken_back(server: Server, watched: Callable[..., Witness]) -> None:
    witness = watched()
    flip(server, witness)
    settled(witness, "v2", 30)
    assert witness.decides
    assert witness.verdict() is None


def test_an_error_status_after_the_switch_takes_it_back(server: Server, watched: Callable[..., Witness]) -> None:
    witness = watched()
    flip(server, witness, once(BAD, V2))
    until(witness.verdict, "a verdict")
    assert "status 502 for /version" in str(witness.verdict())


def test_an_error_status_below_500_is_counted_and_takes_nothing_back(
    server: Server, watched: Callable[..., Witness]
) -> None:
    witness = watched()
    flip(server, witness, http(status=429))
    until(lambda: whys(witness))
    more(witness)
    assert witness.verdict() is None


def test_a_wrong_answer_after_the_switch_takes_it_back(server: Server, watched: Callable[..., Witness]) -> None:
    witness = watched()
    flip(server, witness, once(http("version 3"), V2))
    until(witness.verdict, "a verdict")
    assert "wrong answer 'version 3'" in str(witness.verdict())


def test_answers_of_the_old_release_after_the_switch_are_stale_and_take_nothing_back(
    server: Server, watched: Callable[..., Witness]
) -> None:
    witness = watched()
    settled(witness)
    witness.switched("v2")
    until(lambda: requests(witness)["stale"] >= 10)
    server.reply = V2
    settled(witness, "v2")
    assert witness.verdict() is None
    assert requests(witness)["failed"] == 0


@pytest.mark.parametrize("reply", [RESET, CLOSE, HALF])
def test_a_fresh_connection_that_fails_twice_running_takes_it_back(
    server: Server, watched: Callable[..., Witness], reply: bytes
) -> None:
    witness = watched(connections=0)
    flip(server, witness, reply)
    until(witness.verdict, "a verdict")
    assert "twice running (reset on a fresh connection)" in str(witness.verdict())


def test_refused_connections_take_it_back(server: Server, watched: Callable[..., Witness]) -> None:
    witness = watched()
    settled(witness)
    witness.switched("v2")
    server.close()
    until(witness.verdict, "a verdict")
    assert "twice running" in str(witness.verdict())


def test_a_fresh_connection_that_fails_now_and_then_is_counted_and_takes_nothing_back(
    server: Server, watched: Callable[..., Witness]
) -> None:
    witness = watched(connections=0)
    settled(witness)
    turn = [0]

    def reply(*_: object) -> bytes:
        turn[0] += 1
        return V2 if turn[0] % 2 else RESET

    witness.switched("v2")
    server.reply = reply
    until(lambda: requests(witness)["failed"] >= 5)
    assert witness.verdict() is None


def test_kept_connections_closed_by_a_reload_are_counted_and_take_nothing_back(
    server: Server, watched: Callable[..., Witness]
) -> None:
    witness = watched()
    flip(server, witness, lambda number, _: RESET if number else V2)
    until(lambda: requests(witness)["failed"] >= 10)
    assert whys(witness) == {"reset on a reused connection"}
    assert witness.verdict() is None


def test_what_was_sent_before_the_switch_is_not_held_against_the_release(
    server: Server, watched: Callable[..., Witness]
) -> None:
    witness = watched()
    settled(witness)
    gate = threading.Event()
    held = []

    def late(*_: object) -> bytes:
        held.append(1)
        gate.wait(20)
        return BAD

    server.reply = late
    until(lambda: len(held) == 3, "a request in flight on every connection")
    witness.switched("v2")
    server.reply = V2
    gate.set()
    settled(witness, "v2")
    assert requests(witness)["failed"] == 3
    assert witness.decides
    assert witness.verdict() is None


def test_nothing_is_judged_before_the_switch_nor_after_the_commit(
    server: Server, watched: Callable[..., Witness]
) -> None:
    witness = watched()
    flip(server, witness)
    settled(witness, "v2")
    witness.committed()
    server.reply = BAD
    until(lambda: "status 502" in whys(witness))
    more(witness)
    assert witness.verdict() is None
    other = watched()
    more(other)
    assert requests(other)["failed"] > 0
    assert other.verdict() is None


def test_a_witness_that_was_failing_before_the_switch_does_not_decide(
    server: Server, watched: Callable[..., Witness]
) -> None:
    server.reply = BAD
    witness = watched()
    more(witness)
    assert not witness.decides
    witness.switched("v2")
    more(witness)
    server.reply = V2
    settled(witness, "v2")
    server.reply = BAD
    more(witness)
    assert not witness.decides
    assert witness.verdict() is None


def test_a_witness_that_failed_once_long_before_the_switch_decides(
    server: Server, watched: Callable[..., Witness]
) -> None:
    server.reply = BAD
    witness = watched()
    more(witness)
    server.reply = V1
    settled(witness, number=60)
    witness.switched("v2")
    server.reply = BAD
    until(witness.verdict, "a verdict")
    assert witness.decides


def test_kept_connections_that_were_failing_do_not_silence_the_fresh_ones(
    server: Server, watched: Callable[..., Witness]
) -> None:
    server.reply = lambda _, request: V1 if b"connection: close" in request.lower() else BAD
    witness = watched()
    more(witness, 30)
    witness.switched("v2")
    assert witness.decides
    more(witness)
    assert witness.verdict() is None
    server.reply = BAD
    until(witness.verdict, "a verdict")


def test_kept_connections_closed_before_the_switch_do_not_silence_the_kept_ones(
    server: Server, watched: Callable[..., Witness]
) -> None:
    server.reply = lambda number, _: RESET if number else V1
    witness = watched()
    until(lambda: requests(witness)["failed"] >= 10)
    witness.switched("v2")
    server.reply = lambda _, request: V2 if b"connection: close" in request.lower() else BAD
    until(witness.verdict, "a verdict")


def test_what_fails_while_the_switch_is_made_does_not_silence_the_witness(
    server: Server, watched: Callable[..., Witness]
) -> None:
    witness = watched()
    settled(witness)
    witness.switching()
    server.reply = BAD
    more(witness, 40)
    witness.switched("v2")
    assert witness.decides
    until(witness.verdict, "a verdict")


def test_a_switch_right_after_the_start_is_judged_once_the_new_release_has_answered(
    server: Server, watched: Callable[..., Witness]
) -> None:
    server.reply = BAD
    witness = watched()
    witness.switched("v2", at=time.monotonic() - 1)
    more(witness)
    assert witness.verdict() is None
    server.reply = V2
    settled(witness, "v2")
    assert witness.verdict() is None
    server.reply = BAD
    until(witness.verdict, "a verdict")


def test_a_first_deploy_is_judged_once_the_new_release_has_answered(
    server: Server, watched: Callable[..., Witness]
) -> None:
    server.reply = BAD
    witness = watched({"v1": "version 1"})
    more(witness)
    witness.switched("v1")
    assert witness.decides
    server.reply = V1
    settled(witness)
    assert witness.verdict() is None
    server.reply = BAD
    until(witness.verdict, "a verdict")


def test_a_first_deploy_that_never_answers_is_judged_when_2_seconds_have_passed() -> None:
    fed = Fed({"v1": "version 1"})
    fed.add(-1, why="status 502", status=502)
    fed.witness.switched("v1", fed.at)
    fed.add(1.9, why="status 502", status=502)
    assert fed.witness.verdict() is None
    fed.add(2.1, why="status 502", status=502)
    assert fed.witness.verdict() == "status 502 for /version, sent 2.10 s after the switch"


def test_a_closed_reused_connection_is_not_the_first_of_two_failures() -> None:
    fed = Fed()
    for line in (0, 1):
        fed.add(-1, "v1", line=line)
    fed.witness.switched("v2", fed.at)
    fed.add(0.1, why=module.RESET[KEPT], connection=KEPT, line=1)
    fed.add(0.2, why="refused", line=1)
    fed.add(0.2, why="refused", line=0)
    assert fed.witness.verdict() is None
    fed.add(0.3, why="timeout", line=1)
    assert "twice running (timeout)" in str(fed.witness.verdict())


def test_an_answer_of_the_old_release_does_not_begin_the_judging() -> None:
    fed = Fed()
    fed.witness.switched("v2", fed.at)
    fed.add(0.1, "v1")
    fed.add(0.2, why="status 502", status=502)
    assert fed.witness.verdict() is None
    fed.add(0.3, "v2")
    fed.add(0.4, why="status 502", status=502)
    assert "sent 0.40 s" in str(fed.witness.verdict())


def test_only_what_was_sent_after_the_switch_and_answered_by_the_old_release_is_stale() -> None:
    fed = Fed()
    fed.add(-1, "v1")
    fed.add(-0.01, "v1")
    fed.witness.switched("v2", fed.at)
    fed.add(0.01, "v1")
    fed.add(0.02, "v2")
    assert requests(fed.witness)["stale"] == 1
    fed.witness.switched("v1", fed.at + 1)
    fed.add(1.1, "v1")
    fed.add(1.2, "v2")
    assert requests(fed.witness)["stale"] == 2
    assert fed.witness.summary()["switch"]["last_old_ms"] == 10


def test_a_switch_taken_back_is_judged_anew(server: Server, watched: Callable[..., Witness]) -> None:
    witness = watched()
    flip(server, witness, BAD)
    until(witness.verdict, "a verdict")
    server.reply = V1
    witness.switched("v1")
    settled(witness, number=60)
    assert witness.verdict() is None
    switch = witness.summary()["switch"]
    assert switch["first_new_ms"] is None
    assert requests(witness)["by_release"]["v2"] == 0


# --- the summary ---


def test_the_summary_adds_up_and_has_the_receipts_shape(server: Server, watched: Callable[..., Witness]) -> None:
    witness = watched()
    assert witness.summary()["switch"] == {"at": None, "first_new_ms": None, "last_old_ms": None}
    flip(server, witness)
    settled(witness, "v2")
    server.reply = BAD
    more(witness)
    witness.stop()
    summary = witness.summary()
    seen = summary["requests"]
    assert seen["total"] == seen["ok"] + seen["failed"] == len(server.requests)
    assert sum(seen["by_release"].values()) == seen["ok"]
    assert sum(failure["count"] for failure in seen["failures"]) == seen["failed"]
    assert set(seen["failures"][0]) == {"at", "why", "connection", "count"}
    assert set(summary["latency_ms"]) == {"before", "during", "after"}
    assert summary["latency_ms"]["during"]["p50"] <= summary["latency_ms"]["during"]["max"]
    assert witness.live_counts() == {**seen["by_release"], "failed": seen["failed"]}
    assert datetime.fromisoformat(summary["switch"]["at"]).utcoffset() == timedelta(0)


def test_first_new_and_last_old_are_told_from_the_moment_given(server: Server, watched: Callable[..., Witness]) -> None:
    witness = watched()
    settled(witness)
    server.reply = V2
    settled(witness, "v2")
    witness.switched("v2", at=time.monotonic() - 1000)
    early = witness.summary()["switch"]
    assert early["first_new_ms"] > 900_000
    assert early["last_old_ms"] > 900_000
    other = watched()
    settled(other, "v2")
    other.switched("v2")
    assert other.summary()["switch"]["first_new_ms"] < 0
    assert other.summary()["switch"]["last_old_ms"] is None


def test_the_same_release_again_claims_no_first_answer(server: Server, watched: Callable[..., Witness]) -> None:
    witness = watched({"v1": "version 1"})
    settled(witness)
    witness.switched("v1")
    more(witness)
    assert witness.summary()["switch"]["first_new_ms"] is None
    assert witness.verdict() is None


def test_latencies_fall_into_before_during_and_after_the_switch() -> None:
    witness = Witness("http://x", "/", host=None, expected=TWO, rate=1, connections=0, timeout=1)
    now = time.monotonic()
    for after, seconds in [(-9, 0.001), (-0.6, 0.003), (-0.4, 0.005), (0.9, 0.007), (1.1, 0.009)]:
        witness._tally.add(Answer(now + after, seconds, FRESH, 200, "version 1", ""), "v1", "")
    witness.switched("v2", at=now)
    assert witness.summary()["latency_ms"] == {
        "before": {"p50": 1.0, "p99": 3.0, "max": 3.0},
        "during": {"p50": 5.0, "p99": 7.0, "max": 7.0},
        "after": {"p50": 9.0, "p99": 9.0, "max": 9.0},
    }


def test_latencies_are_of_answers_and_not_of_requests_that_got_none() -> None:
    tally = Tally()
    tally.add(Answer(1, 0.002, FRESH, 502, "", "status 502"), "", "status 502")
    tally.add(Answer(2, 9.0, FRESH, 0, "", "timeout"), "", "timeout")
    assert latency_ms(tally.records()) == {"p50": 2.0, "p99": 2.0, "max": 2.0}
    assert latency_ms([]) == {"p50": None, "p99": None, "max": None}


def test_who_answered_when_is_told_in_spans_that_part_at_the_switch() -> None:
    fed = Fed()
    fed.add(-0.3, "v1")
    fed.add(-0.01, "v1")
    fed.witness.switched("v2", fed.at)
    fed.add(0.01, "v1")
    fed.add(0.02, "v2")
    fed.add(0.3, why="status 502", status=502)
    fed.add(0.8, why="refused")
    fed.witness.switched("v1", fed.at + 0.75)
    figures = [5.0, 5.0, 5.0, 5.0, None, None, None]
    assert fed.witness.series(fed.at - 4) == {
        "switches": [{"at": 4.0, "release": "v2"}, {"at": 4.75, "release": "v1"}],
        "run": {
            "begins": 3.5,
            "width": 0.25,
            "first": 3.7,
            "last": 4.8,
            "answers": {"v1": [1, 1, 1, 0, 0, 0], "v2": [0, 0, 1, 0, 0, 0]},
            "failed": [0, 0, 0, 1, 0, 1],
            "p50_ms": figures[:6],
            "p99_ms": figures[:6],
        },
        "switch": None,
    }


def test_a_series_counts_what_cannot_be_told_and_of_no_request_there_is_none() -> None:
    fed = Fed({"v1": None, "v2": None})
    assert fed.witness.series(fed.at) is None
    fed.add(1, module.UNTOLD)
    series = fed.witness.series(fed.at)
    assert series
    assert (series["switches"], series["switch"]) == ([], None)
    assert series["run"]["answers"] == {"v1": [0], "v2": [0], "unknown": [1]}
    assert series["run"]["begins"] == 1


@pytest.mark.parametrize("hours", [0.01, 1, 30])
def test_a_series_is_bounded_however_long_the_run_and_still_tells_the_hand_over(hours: float) -> None:
    fed = Fed()
    count = 2000
    seconds = hours * 3600
    moments = [-seconds + number * seconds / count for number in range(count)]
    for moment in [*moments, *(number / 10 for number in range(-50, 0))]:
        fed.add(moment, "v1")
    fed.witness.switched("v2", fed.at)
    for number in range(50):
        fed.add(number / 10, "v2")
    series = fed.witness.series(fed.at)
    assert series
    run = series["run"]
    assert all(len(column) <= module.SPANS_LIMIT for column in (run["failed"], run["p50_ms"], *run["answers"].values()))
    assert sum(map(sum, run["answers"].values())) == count + 100
    near = series["switch"] or run
    assert near["width"] == 0.25
    before = round(-near["begins"] / near["width"])
    assert not any(near["answers"]["v1"][before:])
    assert not any(near["answers"]["v2"][:before])
    assert sum(near["answers"]["v2"]) == 50


def test_memory_is_bounded_and_no_count_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECORD_LIMIT", 100)
    monkeypatch.setattr(module, "OUTCOME_LIMIT", 10)
    tally = Tally()
    for number in range(1234):
        tally.add(Answer(number, 0.001, FRESH, 200, "", ""), f"body {number}", "")
    assert 100 <= len(tally.records()) <= 200
    assert tally.records()[-1].sent == 1233
    assert tally.totals() == {"total": 1234, "ok": 1234, "failed": 0}
    assert len(tally.by_label()) == 11
    assert sum(tally.by_label().values()) == 1234
