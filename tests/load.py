"""Load on a web app that counts every outcome and never retries: the proof of "0 failed requests".

A library::

    with Load("http://127.0.0.1:8080", keepalive=20, slow=4) as load:
        load.wait_for_requests(500)
        ...  # switch releases
        result = load.stop()
    assert result.failed == 0, result.explain()

and a program: python tests/load.py --url http://127.0.0.1:8080 --seconds 30 --json out.json
(exit status 0: requests were sent and none failed). `Load` runs that program in a process of its own, so
that the load has its own interpreter lock.

A request fails if it was not answered in full, with a 2xx status and the expected body, in time. One thing
only is no failure, since nothing was asked: a connection the server closed while it was idle.
"""

import argparse
import asyncio
import atexit
import contextlib
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any, Self, cast
from urllib.parse import urlsplit

MAX_SECONDS = 1800
MAX_DRAIN = 30
MAX_HEAD = 64 * 1024
MAX_BODY = 16 * 1024 * 1024
MAX_FAILURES = 50  # described one by one; all are counted
PAUSE = 0.02  # at least, after a failure and between long requests: a dead server must not make a busy loop
UPLOAD_PIECES = 20
PROGRESS_EVERY = 0.1
UNKNOWN = "unknown"  # the release of an answer that names none

STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: .*)?")
CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;.*)?\r\n")
VERSION = re.compile(rb"\bversion (\w[\w.+-]*)")
VERSION_BODY = re.compile(VERSION.pattern + rb"\s*")


class LoadError(Exception):
    """The load itself did not work, so there is nothing to be said about the server."""


@dataclass(frozen=True)
class Options:
    url: str
    host: str = ""  # of the Host header; else that of the url
    keepalive: int = 20  # clients: GET /version and POST /echo, all on one connection
    fresh: int = 5  # clients: GET /version, each on a new connection
    slow: int = 4  # clients: GET /slow
    stream: int = 2  # clients: GET /stream
    upload: int = 0  # clients: POST /echo, sent bit by bit
    closing: int = 0  # 1: every client has its connection closed after each answer, as a TCP proxy can't do it
    post: float = 0.2  # the part of POST in the requests of keepalive clients
    rate: float = 400.0  # requests/s of all keepalive and fresh clients; 0: no thinking time at all
    timeout: float = 30.0  # for an answer, beyond the time that the request itself asks for
    slow_seconds: float = 3.0
    stream_seconds: float = 2.0
    upload_seconds: float = 5.0
    upload_bytes: int = 100_000
    seconds: float = 600.0  # then the load ends by itself
    requests: int = 3_000_000  # then too
    drain: float = 30.0  # for the requests in flight at the end

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"not an http:// URL: {self.url!r}")
        if not 0 < self.seconds <= MAX_SECONDS:
            raise ValueError(f"seconds must be above 0 and at most {MAX_SECONDS}: {self.seconds}")
        if self.keepalive + self.fresh + self.slow + self.stream + self.upload < 1:
            raise ValueError("no clients")
        if not 0 <= self.drain <= MAX_DRAIN:
            raise ValueError(f"drain must be from 0 to {MAX_DRAIN}: {self.drain}")


@dataclass(slots=True)
class Record:
    kind: str
    sent: float  # monotonic; with the time to connect, if that was needed
    sent_at: float  # wall clock, just before the first byte was sent (or the connect, if that failed)
    answered: float = 0.0
    status: int | None = None
    release: str | None = None
    outcome: str = "ok"  # or refused, reset, truncated, status, wrong, timeout
    detail: str = ""
    reused: bool = False


@dataclass
class Result:
    total: int
    ok: int
    failed: int
    by_kind: dict[str, dict[str, int]]
    by_outcome: dict[str, int]
    by_release: dict[str, int]  # ok requests only
    releases: dict[str, dict[str, float]]  # the same: first_sent, last_sent, last_answered (wall clock), n
    failures: list[dict[str, Any]]  # the first ones
    latency: dict[str, dict[str, float]]  # of ok requests, in ms
    idle_closed: int  # connections closed by the server while idle: no failures
    started_at: float
    seconds: float
    ended: str  # "stop", or by itself: "seconds", "requests"

    def explain(self) -> str:
        def counts(of: dict[str, int]) -> str:
            return ", ".join(f"{name} {n}" for name, n in of.items()) or "none"

        kinds = (f"{kind} {n['ok']}/{n['total']}" for kind, n in self.by_kind.items())
        lines = [
            f"{self.failed} of {self.total} requests failed in {self.seconds:.1f} s (ended by: {self.ended})",
            f"  ok by kind: {', '.join(kinds) or 'none'}",
            f"  outcomes: {counts(self.by_outcome)}",
        ]
        for release, sent in self.releases.items():
            first, last = sent["first_sent"] - self.started_at, sent["last_sent"] - self.started_at
            lines.append(f"  release {release}: {sent['n']:.0f} ok, sent +{first:.3f} s to +{last:.3f} s")
        for f in self.failures:
            where = f"{'reused' if f['reused'] else 'new'} connection, release {f['release'] or UNKNOWN}"
            lines.append(
                f"  +{f['sent_at'] - self.started_at:.3f} s {f['kind']}: {f['outcome']}"
                f" after {f['seconds']:.3f} s, {where}: {f['detail']}"
            )
        if self.failed > len(self.failures):
            lines.append(f"  ... and {self.failed - len(self.failures)} more failures")
        return "\n".join(lines)


class Tally:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.started = 0  # requests
        self.stopping = False
        self.idle_closed = 0
        self.by_kind: dict[str, Counter[str]] = {}
        self.by_outcome: Counter[str] = Counter()
        self.releases: dict[str, dict[str, float]] = {}
        self.failures: list[dict[str, Any]] = []
        self.latency: dict[str, array[float]] = {}
        self.began = time.monotonic()
        self.began_at = time.time()

    @property
    def full(self) -> bool:
        return self.stopping or self.started >= self.options.requests

    def add(self, record: Record) -> None:
        kind = self.by_kind.setdefault(record.kind, Counter(total=0, ok=0, failed=0))
        kind["total"] += 1
        self.by_outcome[record.outcome] += 1
        seconds = record.answered - record.sent
        if record.outcome != "ok":
            kind["failed"] += 1
            if len(self.failures) < MAX_FAILURES:
                self.failures.append({**asdict(record), "seconds": seconds})
            return
        kind["ok"] += 1
        self.latency.setdefault(record.kind, array("d")).append(seconds * 1000)
        answered_at = record.sent_at + seconds
        release = self.releases.setdefault(
            record.release or UNKNOWN,
            {"first_sent": record.sent_at, "last_sent": 0.0, "last_answered": 0.0, "n": 0},
        )
        release["n"] += 1
        release["first_sent"] = min(release["first_sent"], record.sent_at)
        release["last_sent"] = max(release["last_sent"], record.sent_at)
        release["last_answered"] = max(release["last_answered"], answered_at)

    def progress(self) -> dict[str, Any]:
        total, ok = self.by_outcome.total(), self.by_outcome["ok"]
        by_release = {name: int(release["n"]) for name, release in self.releases.items()}
        return {"total": total, "ok": ok, "failed": total - ok, "by_release": by_release}

    def result(self, ended: str) -> Result:
        latency = {}
        for kind, values in self.latency.items():
            ordered = sorted(values)
            at = {"p50": len(ordered) // 2, "p99": len(ordered) * 99 // 100, "max": -1}
            latency[kind] = {name: round(ordered[i], 3) for name, i in at.items()}
        return Result(
            **self.progress(),
            by_kind={kind: dict(n) for kind, n in self.by_kind.items()},
            by_outcome={outcome: n for outcome, n in self.by_outcome.items() if n},
            releases=self.releases,
            failures=self.failures,
            latency=latency,
            idle_closed=self.idle_closed,
            started_at=self.began_at,
            seconds=time.monotonic() - self.began,
            ended=ended,
        )


class Failed(Exception):
    """The outcome of a request: no error of this program."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(outcome, detail)
        self.outcome, self.detail = outcome, detail


class Reader(asyncio.StreamReader):
    """A reset is an end like any other: what came before it can still be read."""

    ended = False
    error: Exception | None = None

    def feed_eof(self) -> None:
        self.ended = True
        super().feed_eof()

    def set_exception(self, exc: Exception) -> None:
        self.error = exc
        self.feed_eof()

    @property
    def unread(self) -> bytes:
        return bytes(self._buffer)  # type: ignore[attr-defined]

    async def until(self, end: bytes, what: str) -> bytes:
        try:
            return await self.readuntil(end)
        except asyncio.LimitOverrunError:
            raise Failed("wrong", f"{what} too long") from None

    async def body(self, size: int, so_far: int = 0) -> bytes:
        if so_far + size > MAX_BODY:
            raise Failed("wrong", f"a body above {MAX_BODY} bytes")
        return await self.readexactly(size)

    async def chunks(self) -> bytes:
        body = bytearray()
        while True:
            line = await self.until(b"\r\n", "chunk size")
            match = CHUNK_SIZE.fullmatch(line)
            if not match:
                raise Failed("wrong", f"bad chunk size {line[:50]!r}")
            size = int(match[1], 16)
            if not size:
                break
            chunk = await self.body(size + 2, len(body))
            if not chunk.endswith(b"\r\n"):
                raise Failed("wrong", "a chunk without its end")
            body += chunk[:-2]
        for _ in range(100):
            if await self.until(b"\r\n", "trailer") == b"\r\n":
                return bytes(body)
        raise Failed("wrong", "too many trailers")


class Client:
    """One request at a time, on one connection at a time."""

    def __init__(self, kind: str, tally: Tally, delay: float, period: float) -> None:
        self.kind, self.tally, self.options = kind, tally, tally.options
        self.delay, self.period = delay, period
        self.busy = False
        self.reader: Reader | None = None
        self.writer: asyncio.StreamWriter
        self.poll: select.poll
        parts = urlsplit(self.options.url)
        self.address = (cast(str, parts.hostname), parts.port or 80)
        asked = {"slow": "slow_seconds", "stream": "stream_seconds", "upload": "upload_seconds"}
        self.seconds: float = getattr(self.options, asked[kind]) if kind in asked else 0.0
        path = f"/{kind}?seconds={self.seconds:g}" if kind in ("slow", "stream") else "/version"
        headers = f" HTTP/1.1\r\nHost: {self.options.host or parts.netloc}\r\n"
        if kind == "fresh" or self.options.closing:
            headers += "Connection: close\r\n"
        self.get = f"GET {path}{headers}\r\n".encode()
        self.post = f"POST /echo{headers}Content-Type: application/octet-stream\r\n".encode()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(self.delay)
            due = loop.time()
            while not self.tally.full:
                self.busy = True
                ok = await self.request()
                self.busy = False
                if self.tally.full:
                    break
                now = loop.time()
                due = max(due + self.period * random.uniform(0.5, 1.5), now)  # late: no burst to catch up
                if not ok or self.seconds:
                    due = max(due, now + PAUSE)
                if due > now:
                    await asyncio.sleep(due - now)
        except asyncio.CancelledError:
            pass  # told to end
        finally:
            self.disconnect()

    async def request(self) -> bool:
        self.tally.started += 1
        post = self.kind == "keepalive" and random.random() < self.options.post
        record = Record("post" if post else self.kind, time.monotonic(), time.time())
        keep = False
        try:
            async with asyncio.timeout(self.options.timeout + self.seconds):
                reader = await self.connect(record)
                record.sent_at = time.time()
                sent = b""
                if self.kind == "upload":
                    sent = random.randbytes(self.options.upload_bytes)
                    await self.send_slowly(reader, sent, record)
                elif post:
                    sent = random.randbytes(random.randint(1, 200))
                    self.writer.write(b"%bContent-Length: %d\r\n\r\n%b" % (self.post, len(sent), sent))
                else:
                    self.writer.write(self.get)
                keep, body = await self.answer(reader, record)
                check(record, sent, body)
        except Failed as failed:
            record.outcome, record.detail = failed.outcome, failed.detail
        except TimeoutError:
            record.outcome, record.detail = "timeout", "no full answer in time"
        except asyncio.CancelledError:
            record.outcome = "timeout"
            record.detail = f"no full answer within {self.options.drain:g} s of the end of the load"
            raise
        finally:
            record.answered = time.monotonic()
            self.tally.add(record)
            ok = record.outcome == "ok"
            if not ok or not keep or self.kind == "fresh":
                self.disconnect(abort=not ok)
        return ok

    async def connect(self, record: Record) -> Reader:
        if self.reader:
            for _ in range(3):
                if self.reader.ended or not self.poll.poll(0):
                    break
                await asyncio.sleep(0)  # the loop is yet to read what has come
            if not self.reader.ended:
                record.reused = True
                return self.reader
            self.tally.idle_closed += 1
            self.disconnect()
        loop = asyncio.get_running_loop()
        reader = Reader(limit=MAX_HEAD, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.create_connection(lambda: protocol, *self.address)
        except OSError as error:
            raise Failed("refused", f"{type(error).__name__}: {error}") from None
        self.reader, self.writer = reader, asyncio.StreamWriter(transport, protocol, reader, loop)
        self.poll = select.poll()
        self.poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        return reader

    def disconnect(self, abort: bool = False) -> None:
        if self.reader:
            if abort:
                self.writer.transport.abort()
            else:
                self.writer.close()
            self.reader = None

    async def send_slowly(self, reader: Reader, body: bytes, record: Record) -> None:
        self.writer.write(b"%bContent-Length: %d\r\n\r\n" % (self.post, len(body)))
        size = max(1, -(-len(body) // UPLOAD_PIECES))
        for start in range(0, len(body), size):
            if start:
                await asyncio.sleep(self.seconds / UPLOAD_PIECES)
            if reader.ended or reader.unread:
                raise await self.early(reader, record)
            self.writer.write(body[start : start + size])
            with contextlib.suppress(OSError):  # the connection is lost, which the reader tells as well
                await self.writer.drain()

    async def early(self, reader: Reader, record: Record) -> Failed:
        """The server answered or closed before it had the whole request."""
        try:
            await self.answer(reader, record)
        except Failed as failed:
            return failed
        return Failed("wrong", "answered before the body was sent")

    async def answer(self, reader: Reader, record: Record) -> tuple[bool, bytes]:
        """Whether the connection may be used again, and the body."""
        begun = False
        try:
            while True:
                head = await reader.until(b"\r\n\r\n", "head")
                begun = True
                keep, length = parse_head(head, record)
                if cast(int, record.status) >= 200 or record.status == 101:
                    break
            if not 200 <= cast(int, record.status) < 300:
                raise Failed("status", f"{record.status}: {reader.unread[:100]!r}")
            body = await (reader.chunks() if length is None else reader.body(length))
        except asyncio.IncompleteReadError as error:
            why = str(reader.error or "connection closed")
            if begun or error.partial:
                raise Failed("truncated", f"{why}, after {error.partial[-50:]!r}") from None
            raise Failed("reset", why) from None
        if reader.unread:
            raise Failed("wrong", f"bytes after the answer: {reader.unread[:50]!r}")
        return keep, body


def parse_head(head: bytes, record: Record) -> tuple[bool, int | None]:
    """Whether the connection may be used again, and the length of the body (None: chunked)."""
    lines = head[:-4].split(b"\r\n")
    match = STATUS_LINE.fullmatch(lines[0])
    if not match:
        raise Failed("wrong", f"bad status line {lines[0][:50]!r}")
    record.status = int(match[2])
    keep = match[1] == b"1"
    length: int | None = None
    chunked = False
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name or name.strip() != name:
            raise Failed("wrong", f"bad header {line[:50]!r}")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"content-length":
            if not value.isdigit() or length not in (None, int(value)):
                raise Failed("wrong", f"bad Content-Length {value[:50]!r}")
            length = int(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or chunked:
                raise Failed("wrong", f"bad Transfer-Encoding {value[:50]!r}")
            chunked = True
        elif name == b"connection":
            options = [option.strip() for option in value.lower().split(b",")]
            keep = b"close" not in options and (keep or b"keep-alive" in options)
        elif name == b"x-release":
            record.release = value.decode("latin-1")
    if chunked and length is not None:
        raise Failed("wrong", "both Content-Length and chunked")
    if record.status == 204:
        length = 0
    elif length is None and not chunked and 200 <= record.status < 300:
        raise Failed("wrong", "neither Content-Length nor chunked: the end cannot be told from a cut")
    return keep, length


def check(record: Record, sent: bytes, body: bytes) -> None:
    """Raises if the body is not the expected one; notes the release, if only the body names it."""
    if sent:
        if body != sent:
            raise Failed("wrong", f"the echo of {len(sent)} bytes differs: {len(body)} bytes, {body[:50]!r}")
        return
    if record.kind not in ("slow", "stream") and not VERSION_BODY.fullmatch(body):
        raise Failed("wrong", f"not `version N`: {body[:50]!r}")
    if not body:
        raise Failed("wrong", "empty body")
    named = {version.decode() for version in VERSION.findall(body)}
    if len(named) > 1:
        raise Failed("wrong", f"more than one release in one answer: {', '.join(sorted(named))}")
    if record.release:
        lines = body.splitlines()
        mark = record.release.encode("latin-1")
        if mark in lines[0] and not all(mark in line for line in lines):
            raise Failed("wrong", f"not from {record.release} throughout: {body[-50:]!r}")
    elif named:
        version = named.pop()
        record.release = version if version.startswith("v") else f"v{version}"  # as X-Release has it
    else:
        raise Failed("wrong", f"names no release: {body[:50]!r}")


async def run(options: Options, stop: asyncio.Event, report: Callable[[dict[str, Any]], None] | None = None) -> Result:
    """The load itself, until `stop` is set or a limit of the options is reached."""
    tally = Tally(options)
    period = (options.keepalive + options.fresh) / options.rate if options.rate else 0.0
    clients = []
    for kind, n, think in (
        ("keepalive", options.keepalive, period),
        ("fresh", options.fresh, period),
        ("slow", options.slow, 0.0),
        ("stream", options.stream, 0.0),
        ("upload", options.upload, 0.0),
    ):
        spread = think or getattr(options, f"{kind}_seconds", 0.0)  # not all of them at the same time
        clients += [Client(kind, tally, spread * i / n, think) for i in range(n)]
    tasks = {asyncio.create_task(client.run()): client for client in clients}

    async def progress() -> None:
        while report:
            report(tally.progress())
            await asyncio.sleep(PROGRESS_EVERY)

    all_done = asyncio.create_task(asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION))
    stopped = asyncio.create_task(stop.wait())
    reporter = asyncio.create_task(progress())
    await asyncio.wait({all_done, stopped}, timeout=options.seconds, return_when=asyncio.FIRST_COMPLETED)
    ended = "stop" if stop.is_set() else "requests" if all_done.done() else "seconds"
    tally.stopping = True
    for task, client in tasks.items():
        if not client.busy:
            task.cancel()
    _, late = await asyncio.wait(tasks, timeout=options.drain)
    others: list[asyncio.Task[Any]] = [all_done, stopped, reporter]
    for task in [*late, *others]:
        task.cancel()
    for error in await asyncio.gather(*tasks, *others, return_exceptions=True):
        if isinstance(error, Exception):  # a fault of this program: never to be taken for a result
            raise error
    return tally.result(ended)


async def serve(options: Options, control: bool) -> Result:
    """The load as a program; with `control`, as the child of a `Load`."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    if not control:
        return await run(options, stop)
    parent = os.getppid()

    def command() -> None:
        line = os.read(0, 100)
        if not line:
            os._exit(3)  # nobody is there to be told
        if b"stop" in line:
            stop.set()

    def report(progress: dict[str, Any]) -> None:
        if os.getppid() != parent:
            os._exit(3)
        print(json.dumps({"progress": progress}), flush=True)

    loop.add_reader(0, command)
    return await run(options, stop, report)


def main() -> int:
    parser = argparse.ArgumentParser(description="Send requests, never retry, count every outcome.")
    for option in fields(Options):
        required = option.default is MISSING
        name = f"--{option.name.replace('_', '-')}"
        default = None if required else option.default
        parser.add_argument(name, type=cast(type, option.type), required=required, default=default)
    parser.add_argument("--json", type=Path, help="write the result to this file too")
    parser.add_argument("--control", action="store_true", help="obey stdin and tell progress, for Load")
    given = vars(parser.parse_args())
    file, control = given.pop("json"), given.pop("control")
    try:
        options = Options(**given)
    except ValueError as error:
        parser.error(str(error))
    signal.alarm(int(options.seconds + options.drain) + 30)  # whatever happens, this process ends
    result = asyncio.run(serve(options, control))
    if file:
        file.write_text(json.dumps(asdict(result), indent=2) + "\n")
    if control:
        print(json.dumps({"result": asdict(result)}), flush=True)
    else:
        print(json.dumps(asdict(result), indent=2))
        print(result.explain(), file=sys.stderr)
    return 0 if result.total and not result.failed else 1


@dataclass
class Snapshot:
    """The requests ended up to a moment at most about 0.1 s ago."""

    total: int = 0
    ok: int = 0
    failed: int = 0
    by_release: dict[str, int] = field(default_factory=dict)


class Load:
    """The load in a process of its own, which lives no longer than the `with` block. Options: see Options."""

    def __init__(self, url: str, host: str | None = None, **options: Any) -> None:
        self.options = Options(url, host or "", **options)
        self._changed = threading.Condition()
        self._snapshot = Snapshot()
        self._result: Result | None = None
        self._ended = False

    def __enter__(self) -> Self:
        command = [sys.executable, "-I", __file__, "--control"]
        command += [f"--{name.replace('_', '-')}={value}" for name, value in asdict(self.options).items()]
        self._stderr = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, text=True
        )
        atexit.register(self.process.kill)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # no harm if it has ended
        self.process.wait()
        atexit.unregister(self.process.kill)
        self._thread.join()
        for file in (self.process.stdin, self.process.stdout, self._stderr):
            with contextlib.suppress(OSError):
                cast(IO[Any], file).close()

    def _read(self) -> None:
        try:
            for line in self.process.stdout or ():
                if not line.endswith("\n"):
                    break  # cut by the end of the process
                message = json.loads(line)
                with self._changed:
                    if "result" in message:
                        self._result = Result(**message["result"])
                    else:
                        self._snapshot = Snapshot(**message["progress"])
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _error(self, what: str) -> LoadError:
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace")[-2000:]
        state = self._result.explain() if self._result else self._snapshot
        return LoadError(f"{what}; {state}\n{said}".rstrip())

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def wait_for_requests(self, n: int, timeout: float = 120) -> Snapshot:
        """Waits until `n` requests since the start have ended, well or not."""
        with self._changed:
            self._changed.wait_for(lambda: self._snapshot.total >= n or self._result or self._ended, timeout)
        if self._result or self._ended:
            raise self._error(f"the load ended while waiting for {n} requests")
        if self._snapshot.total < n:
            raise self._error(f"no {n} requests in {timeout:g} s")
        return self._snapshot

    def stop(self) -> Result:
        """Lets the requests in flight finish. A load that ended before has seen only a part: an error."""
        if not self._result and self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.write("stop\n")
                self.process.stdin.flush()
        with self._changed:
            self._changed.wait_for(lambda: self._result or self._ended, self.options.drain + 30)
        if not self._result:
            raise self._error("the load gave no result")
        if self._result.ended != "stop":
            raise self._error("the load ended by itself, before stop")
        return self._result


if __name__ == "__main__":
    sys.exit(main())
