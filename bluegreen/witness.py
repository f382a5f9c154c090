"""Requests through the public address with no retry, and what their answers say about a switch.

`Prober` makes one request and says how it ended, `Tally` keeps what came of many, and `Witness` drives
several probers during a run and judges the new release by their answers.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import select
import socket
import threading
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from bluegreen.errors import SettingsError

if TYPE_CHECKING:
    import ssl

FRESH = "fresh"
KEPT = "kept"

RESET = {FRESH: "reset on a fresh connection", KEPT: "reset on a reused connection"}
WRONG = "wrong answer"
UNTOLD = "unknown"
"""Counts good answers that don't tell which release gave them."""

BODY_LIMIT = 64 * 1024
RECORD_LIMIT = 100_000
OUTCOME_LIMIT = 500
SHOWN_LIMIT = 60

LOOK = 0.1
"""Seconds for which a `Connector` looks whether a connection is closed at once."""

SPAN = 0.25
"""Seconds that the spans of a series are wide, at least."""

SPANS_LIMIT = 120
"""How many spans a series has, at most."""

NEAR = 5.0
"""Seconds before the first switch and after the last one that a series of the hand-over tells of."""

STOP_GRACE = 2.0
"""Seconds that `Witness.stop` waits, at most, for requests in flight."""


class Answer(NamedTuple):
    """How one request ended. `why` is empty after a 2xx status, else the kind of failure in words.

    `sent` is in seconds of `time.monotonic`, `connection` tells whether the request opened its connection
    (`fresh`) or reused one (`kept`), and `status` is 0 where no whole answer came.
    """

    sent: float
    seconds: float
    connection: str
    status: int
    body: str
    why: str
    detail: str = ""


class Prober:
    """One client that sends GET requests to one address, one at a time and with no retry.

    With `fresh` every request opens a connection of its own, otherwise one connection is kept alive between
    requests. It keeps no cookies, follows no redirects and uses no proxy from the environment. `timeout` is
    in seconds. For https, `host` is also the name that the certificate has to be for, and `ca` a file with the
    only authority that is trusted. Raises SettingsError if that can't be used.
    """

    def __init__(
        self,
        url: str,
        path: str,
        *,
        host: str | None = None,
        fresh: bool = True,
        timeout: float = 5.0,
        ca: Path | None = None,
    ) -> None:
        import httpx

        headers = {"Accept-Encoding": "identity", "User-Agent": "bluegreen"}
        self._extensions: dict[str, Any] = {"trace": self._trace}
        if host:
            headers["Host"] = host
            self._extensions["sni_hostname"] = re.sub(r":\d+$", "", host)
        if fresh:
            headers["Connection"] = "close"
        transport = httpx.HTTPTransport(
            verify=_trust(url, ca),
            trust_env=False,
            retries=0,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=0 if fresh else 1, keepalive_expiry=None),
        )
        self.address = url.rstrip("/") + "/" + path.lstrip("/")
        self._client = httpx.Client(transport=transport, headers=headers, timeout=timeout, trust_env=False)
        self._timeout = timeout
        self._opened = False

    def ask(self) -> Answer:
        """Sends one request and returns how it ended, whatever happens to it."""
        self._opened = False
        status, body, why, detail = 0, b"", "", ""
        sent = time.monotonic()
        try:
            with self._client.stream("GET", self.address, extensions=self._extensions) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if time.monotonic() - sent > self._timeout:
                        why = "timeout"
                    if why or len(body) > BODY_LIMIT:
                        break
                if not why:
                    status = response.status_code
        except Exception as error:
            why, detail = self._why(error), shown(str(error), 200)
        seconds = time.monotonic() - sent
        self._client.cookies.clear()
        if status and not 200 <= status < 300:
            why = f"status {status}"
        text = body.decode("utf-8", "replace").strip()
        return Answer(sent, seconds, FRESH if self._opened else KEPT, status, text, why, detail)

    def close(self) -> None:
        """Closes the connection that was kept, if there is one."""
        self._client.close()

    def _trace(self, event: str, _info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.started":
            self._opened = True

    def _why(self, error: Exception) -> str:
        import httpx

        if isinstance(error, httpx.TimeoutException):
            return "timeout"
        causes = list(_causes(error))
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return "refused"
        cut = isinstance(error, httpx.RemoteProtocolError) and re.search("closed|disconnected", str(error))
        if cut or isinstance(error, httpx.ReadError | httpx.WriteError):
            return RESET[FRESH if self._opened else KEPT]
        if any(isinstance(cause, ConnectionResetError) for cause in causes):
            return RESET[FRESH]
        return "not HTTP" if isinstance(error, httpx.ProtocolError) else "no connection"


class Connector:
    """One client that opens connections to the address of a url, sends nothing on them and closes them.

    A connection is good that was accepted and not closed at once, as a proxy does when nobody answers behind it.
    `timeout` is in seconds.
    """

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self.address = f"{parts.hostname}:{self._port}"
        self._timeout = timeout

    def ask(self) -> Answer:
        """Opens one connection and returns how that ended, whatever happened."""
        why = detail = ""
        sent = time.monotonic()
        took = 0.0
        try:
            with socket.create_connection((self._host, self._port), self._timeout) as connection:
                took = time.monotonic() - sent
                if select.select([connection], [], [], LOOK)[0] and not connection.recv(1):
                    why = "closed at once"
        except TimeoutError:
            why = "timeout"
        except ConnectionRefusedError:
            why = "refused"
        except ConnectionResetError:
            why = RESET[FRESH]
        except OSError as error:
            why, detail = "no connection", shown(str(error), 200)
        return Answer(sent, took or time.monotonic() - sent, FRESH, 0, "" if why else "accepted", why, detail)

    def close(self) -> None:
        """Nothing is kept open."""


def _trust(url: str, ca: Path | None) -> ssl.SSLContext | Literal[False]:
    """What https to this address takes; False for plain http, which is spared the making."""
    return _tls_context(ca) if url.startswith("https:") else False


@functools.cache
def _tls_context(ca: Path | None) -> ssl.SSLContext:
    """Trust in the authority in `ca`, else the usual one, with `SSL_CERT_FILE` and `SSL_CERT_DIR`. Slow, so shared."""
    import ssl

    import httpx

    if ca is None:
        return httpx.create_ssl_context()
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise SettingsError(f"proxy.tls.ca: {ca} can't be used: {error.strerror or error}") from None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def shown(text: str, limit: int = SHOWN_LIMIT) -> str:
    """The text on one line, without control characters and of at most `limit` characters."""
    words = " ".join(text.split())
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in words)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def ticks(rate: float, stop: threading.Event, *, offset: float = 0.0, seconds: float | None = None) -> Iterator[None]:
    """Yields `rate` times a second, first in `offset` seconds, until `stop` is set or `seconds` have passed.

    The moments are fixed from the start: whoever is late leaves out what was missed and shifts nothing.
    """
    start = time.monotonic() + offset
    end = math.inf if seconds is None else start + seconds
    number = 0
    while (due := start + number / rate) < end:
        if stop.wait(max(0.0, due - time.monotonic())):
            return
        yield
        number = max(number + 1, int((time.monotonic() - start) * rate))
    stop.wait(max(0.0, end - time.monotonic()))


class Outcome(NamedTuple):
    """What answers are counted by. `label` names who answered or, where that is wrong, is the body that came.

    `why`, `connection` and `status` are an `Answer`'s.
    """

    label: str
    why: str
    connection: str
    status: int

    @property
    def ok(self) -> bool:
        return not self.why


class Record(NamedTuple):
    """One request: when it was sent (`time.monotonic`), its seconds, on which line, and how it ended."""

    sent: float
    seconds: float
    line: int
    outcome: Outcome

    @property
    def ended(self) -> float:
        return self.sent + self.seconds


class Tally:
    """Counts every request and remembers at least the last 100,000 one by one. Any thread may use it."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self._lock = threading.Lock()
        self._ids: dict[Outcome, int] = {}
        self._outcomes: list[Outcome] = []
        self._counts: list[int] = []
        self._first: list[float] = []
        self._sent = array("d")
        self._seconds = array("d")
        self._line = array("H")
        self._outcome = array("H")

    def add(self, answer: Answer, label: str, why: str, line: int = 0) -> None:
        """Counts the answer under `label` and `why`, which is empty for a good one."""
        with self._lock:
            outcome = Outcome(label, why, answer.connection, answer.status)
            if outcome not in self._ids and len(self._ids) >= OUTCOME_LIMIT:
                outcome = outcome._replace(label="other answers")
            number = self._ids.setdefault(outcome, len(self._ids))
            if number == len(self._outcomes):
                self._outcomes.append(outcome)
                self._counts.append(0)
                self._first.append(answer.sent)
            self._counts[number] += 1
            columns = (self._sent, self._seconds, self._line, self._outcome)
            if len(self._sent) >= 2 * RECORD_LIMIT:
                for column in columns:
                    del column[:RECORD_LIMIT]
            self._sent.append(answer.sent)
            self._seconds.append(answer.seconds)
            self._line.append(line)
            self._outcome.append(number)

    def records(self) -> list[Record]:
        """The requests that are remembered, in the order in which they ended."""
        with self._lock:
            columns = self._sent[:], self._seconds[:], self._line[:], self._outcome[:]
            outcomes = self._outcomes[:]
        rows = zip(*columns, strict=True)
        return [Record(sent, took, line, outcomes[number]) for sent, took, line, number in rows]

    def by_label(self) -> dict[str, int]:
        """How many good answers each label has."""
        counts: dict[str, int] = {}
        for outcome, count, _ in self._groups():
            if outcome.ok:
                counts[outcome.label] = counts.get(outcome.label, 0) + count
        return counts

    def failures(self) -> list[dict[str, Any]]:
        """The failures by kind and connection; `at` is when the first was sent, in seconds from the start."""
        kinds: dict[tuple[str, str], dict[str, Any]] = {}
        for outcome, count, first in self._groups():
            if outcome.ok:
                continue
            at = round(first - self.started, 3)
            new = {"at": at, "why": outcome.why, "connection": outcome.connection, "count": 0}
            kind = kinds.setdefault((outcome.why, outcome.connection), new)
            kind["at"] = min(kind["at"], at)
            kind["count"] += count
        return sorted(kinds.values(), key=lambda kind: kind["at"])

    def totals(self) -> dict[str, int]:
        """All requests so far: `total`, `ok` and `failed`."""
        groups = self._groups()
        total = sum(count for _, count, _ in groups)
        failed = sum(count for outcome, count, _ in groups if not outcome.ok)
        return {"total": total, "ok": total - failed, "failed": failed}

    def _groups(self) -> list[tuple[Outcome, int, float]]:
        with self._lock:
            return list(zip(self._outcomes, self._counts, self._first, strict=True))


def latency_ms(requests: Iterable[Record]) -> dict[str, float | None]:
    """p50, p99 and maximum in milliseconds of the requests that got an answer of any status, or a connection."""
    return percentiles_ms(request.seconds for request in requests if request.outcome.status or request.outcome.ok)


def percentiles_ms(seconds: Iterable[float]) -> dict[str, float | None]:
    """p50, p99 and maximum in milliseconds, each None where there is nothing."""
    times = sorted(1000 * value for value in seconds)
    if not times:
        return {"p50": None, "p99": None, "max": None}

    def rank(share: float) -> float:
        return round(times[math.ceil(share * len(times)) - 1], 2)

    return {"p50": rank(0.5), "p99": rank(0.99), "max": rank(1.0)}


def spans(requests: list[Record], names: Iterable[str], origin: float, anchor: float) -> dict[str, Any]:
    """What came of the requests in spans of time of one width, SPANS_LIMIT at most, one of which begins at `anchor`.

    A request belongs to the span in which it was sent. `begins` (the first span), `first` and `last` (requests) are in
    seconds from `origin`, `width` in seconds.
    """
    width = SPAN

    def number(request: Record) -> int:
        return math.floor((request.sent - anchor) / width)

    first = min(requests, key=lambda request: request.sent)
    last = max(requests, key=lambda request: request.sent)
    while number(last) - number(first) >= SPANS_LIMIT:
        width *= 2
    begin, count = number(first), number(last) - number(first) + 1
    answers = {name: [0] * count for name in names}
    failed = [0] * count
    members: list[list[Record]] = [[] for _ in range(count)]
    for request in requests:
        span = number(request) - begin
        members[span].append(request)
        counts = answers.setdefault(request.outcome.label, [0] * count) if request.outcome.ok else failed
        counts[span] += 1
    figures = [latency_ms(each) for each in members]
    return {
        "begins": round(anchor + begin * width - origin, 3),
        "width": width,
        "first": round(first.sent - origin, 3),
        "last": round(last.sent - origin, 3),
        "answers": answers,
        "failed": failed,
        "p50_ms": [each["p50"] for each in figures],
        "p99_ms": [each["p99"] for each in figures],
    }


class _Health(Enum):
    """What the last requests before a switch looked like."""

    GOOD = auto()
    FAILING = auto()
    UNSEEN = auto()


@dataclass(frozen=True)
class _Flip:
    """A switch: from when on (`time.monotonic`, and as a UTC time) which release is meant to answer."""

    began: float
    at: float
    wall: datetime
    release: str
    health: Mapping[str, _Health]


class Witness:
    """Sends requests through the public address from `start` to `stop` and says what came of them.

    `expected` maps a release's name to the trimmed body that tells it, or to None where nothing does. With
    one name alone it is a first deploy. `rate` is in requests a second, shared evenly by `connections`
    connections that are kept alive and one line that opens a fresh connection for each request. `timeout` is
    in seconds. With the kind `tcp` connections are opened instead, each a fresh one. Any thread may call any method.

    Raises ValueError for a rate that is not above 0 or a negative number of connections, and SettingsError if `ca`,
    the only authority that is trusted, can't be used.
    """

    def __init__(
        self,
        url: str,
        path: str,
        *,
        host: str | None,
        expected: Mapping[str, str | None],
        rate: float,
        connections: int,
        timeout: float,
        ca: Path | None = None,
        kind: str = "http",
    ) -> None:
        if rate <= 0 or connections < 0:
            raise ValueError("a witness needs a rate above 0 and no negative number of connections")
        self._url, self._path, self._host, self._timeout, self._ca = url, path, host, timeout, ca
        self._tcp = kind == "tcp"
        if ca:
            _trust(url, ca)
        self._expected = dict(expected)
        self._rate, self._lines = rate, connections + 1
        self._names: dict[str, str] = {}
        for name, body in expected.items():
            if body is not None:
                self._names[body] = UNTOLD if body in self._names else name
        self._tally = Tally()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._over = False
        self._unfinished = 0
        self._began: float | None = None
        self._flips: list[_Flip] = []
        self._committed = False

    def reachable(self) -> str | None:
        """None if one request got any answer over HTTP, or one connection was accepted, else what is wrong."""
        with contextlib.closing(self._prober()) as prober:
            answer = prober.ask()
        if answer.status or not answer.why:
            return None
        address = re.sub(r"//[^/@]*@", "//", prober.address)
        detail = f" ({answer.detail})" if answer.detail else ""
        return f"no answer from {address}: {answer.why}{detail}"

    def start(self) -> None:
        """Begins to send. Does nothing if it has begun already."""
        with self._lock:
            if self._threads or self._over:
                return
            _trust(self._url, self._ca)
            self._tally.started = time.monotonic()
            for line in range(self._lines):
                thread = threading.Thread(target=self._send, args=(line,), name=f"witness-{line}", daemon=True)
                thread.start()
                self._threads.append(thread)

    def stop(self) -> None:
        """Ends the sending; what was counted stays as it is from then on.

        Requests in flight get at most 2 seconds, and those without an answer by then count as unfinished.
        """
        with self._lock:
            threads = self._threads
        self._stop.set()
        deadline = time.monotonic() + min(self._timeout, STOP_GRACE) + 0.1
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            if not self._over:
                self._over = True
                self._unfinished = sum(thread.is_alive() for thread in threads)

    def switching(self) -> None:
        """Marks that a switch begins: what fails until `switched` does not make the witness a failing one."""
        with self._lock:
            self._began = time.monotonic()

    def switched(self, release_name: str, at: float | None = None) -> None:
        """Marks that `release_name` is meant to answer all that is sent from `at` (`time.monotonic`; now) on.

        After a second call (the switch taken back) `verdict` judges by the later one, while `switch` and
        `latency_ms` of the summary still tell of the first.
        """
        now = time.monotonic()
        at = now if at is None else at
        wall = datetime.now(UTC) - timedelta(seconds=now - at)
        records = self._tally.records()
        with self._lock:
            began = at if self._began is None else min(self._began, at)
            self._began = None
            self._flips.append(_Flip(began, at, wall, release_name, self._health(records, began)))

    def committed(self) -> None:
        """Marks the commit: nothing that comes later takes the switch back."""
        with self._lock:
            self._committed = True

    def counts(self) -> dict[str, Any]:
        """What has come so far: `total`, `ok`, `failed`, `by_release`, and of what `probe` it came."""
        probe = "tcp" if self._tcp else "http"
        return {**self._tally.totals(), "by_release": self._by_release(), "probe": probe}

    @property
    def decides(self) -> bool:
        """Whether what is seen after the switch (or after one made now) can take it back.

        False where among the last requests before it, up to 5, one failed on kept and on fresh connections
        alike. A reused connection that was closed is no failure here, and on a first deploy nothing is.
        """
        records = self._tally.records()
        with self._lock:
            health = self._flips[-1].health if self._flips else self._health(records, math.inf)
        return self._first_deploy or any(state is not _Health.FAILING for state in health.values())

    def verdict(self) -> str | None:
        """Why the switch is to be taken back, or None. Always None before the switch and after the commit.

        A reason is a status of 500 or more, a body that no release is known by, or a fresh connection that
        fails twice running, each sent after the switch. Kept and fresh connections are judged apart: a kind
        that was failing before the switch is left out, and one that had no answer yet is judged once the new
        release has answered on it. On a first deploy both are judged then, or when 2 s have passed.
        """
        records = self._tally.records()
        with self._lock:
            if self._committed or not self._flips:
                return None
            flip = self._flips[-1]
        judged_from = {kind: self._judged_from(flip, kind) for kind in flip.health}
        cut: dict[int, bool] = {}
        for record in records:
            outcome, kind = record.outcome, self._kind(record.line)
            start = judged_from[kind]
            if record.sent < flip.at or start is None:
                continue
            if record.sent < start:
                if outcome.ok and outcome.label in (flip.release, UNTOLD):
                    judged_from[kind] = record.sent
                continue
            what = "a connection" if self._tcp else self._path
            after = f"{what}, sent {record.sent - flip.at:.2f} s after the switch"
            if outcome.status >= 500:
                return f"{outcome.why} for {after}"
            if outcome.why == WRONG:
                return f"{WRONG} {outcome.label!r} for {after}"
            failed = not outcome.ok and not outcome.status and outcome.connection == FRESH
            if failed and cut.get(record.line):
                return f"a fresh connection failed twice running ({outcome.why}) for {after}"
            cut[record.line] = failed
        return None

    def answered(self, since: float) -> list[Record]:
        """The requests sent from then on (`time.monotonic`) that got an answer, of whatever status."""
        return [record for record in self._tally.records() if record.sent >= since and record.outcome.status]

    def records(self) -> list[Record]:
        """The requests that are remembered: at least the last 100,000."""
        return self._tally.records()

    def live_counts(self) -> dict[str, int]:
        """How many answers each release has given so far, and how many requests have `failed`."""
        return {**self._by_release(), "failed": self._tally.totals()["failed"]}

    def summary(self) -> dict[str, Any]:
        """`requests`, `latency_ms` and `switch` in the shape of the receipt.

        `stale` are requests sent after a switch and answered by the release before it, `unfinished` those
        that `stop` did not wait for. Latencies are of requests sent until 0.5 s before the switch, then until
        1 s after it, then later. `first_new_ms` (the first answer of the new release arrived) and
        `last_old_ms` (the last request that the old one answered was sent) count from the moment given to
        `switched`, so that what came before it is negative; None where the answers don't tell.
        """
        records = self._tally.records()
        with self._lock:
            flips, unfinished = list(self._flips), self._unfinished
        at = flips[0].at if flips else math.inf
        begins, ends = at - 0.5, at + 1.0
        return {
            "requests": {
                **self._tally.totals(),
                "by_release": self._by_release(),
                "failures": self._tally.failures(),
                "stale": sum(self._stale(record, flips) for record in records),
                "unfinished": unfinished,
            },
            "latency_ms": {
                "before": latency_ms(record for record in records if record.sent < begins),
                "during": latency_ms(record for record in records if begins <= record.sent < ends),
                "after": latency_ms(record for record in records if record.sent >= ends),
            },
            "switch": self._switch(records, flips),
        }

    def series(self, origin: float) -> dict[str, Any] | None:
        """Who answered when, in seconds from `origin` (`time.monotonic`); None if there was no request.

        `run` is the whole run, `switch` what lies near the switches, told apart only where the run is so long that its
        spans are too wide to show a hand-over. Spans begin at the first switch. The earliest requests of a run of more
        than 100,000 may be missing.
        """
        records = self._tally.records()
        with self._lock:
            flips = list(self._flips)
        if not records:
            return None
        anchor = flips[0].at if flips else min(record.sent for record in records)
        run = spans(records, self._expected, origin, anchor)
        near = [r for r in records if flips and flips[0].at - NEAR <= r.sent < flips[-1].at + NEAR]
        return {
            "switches": [{"at": round(flip.at - origin, 3), "release": flip.release} for flip in flips],
            "run": run,
            "switch": spans(near, self._expected, origin, anchor) if near and run["width"] > SPAN else None,
        }

    @property
    def _first_deploy(self) -> bool:
        return len(self._expected) == 1

    @staticmethod
    def _kind(line: int) -> str:
        return KEPT if line else FRESH

    def _send(self, line: int) -> None:
        prober = self._prober(fresh=line == 0)
        try:
            for _ in ticks(self._rate / self._lines, self._stop, offset=line / self._rate):
                answer = prober.ask()
                label, why = self._classify(answer)
                with self._lock:
                    if self._over:
                        return
                    self._tally.add(answer, label, why, line)
        finally:
            prober.close()

    def _prober(self, *, fresh: bool = True) -> Prober | Connector:
        if self._tcp:
            return Connector(self._url, timeout=self._timeout)
        return Prober(self._url, self._path, host=self._host, fresh=fresh, timeout=self._timeout, ca=self._ca)

    def _classify(self, answer: Answer) -> tuple[str, str]:
        """Who answered (or, where it is wrong, what came) and why the answer is a failure, if it is one."""
        if answer.why:
            return "", answer.why
        if name := self._names.get(answer.body):
            return name, ""
        if None in self._expected.values():
            return UNTOLD, ""
        return shown(answer.body), WRONG

    def _health(self, records: list[Record], before: float) -> dict[str, _Health]:
        health = {}
        ended = sorted(record for record in records if record.ended <= before)
        for kind in {self._kind(line) for line in range(self._lines)}:
            last = [record for record in ended if self._kind(record.line) == kind][-5:]
            failing = any(record.outcome.why not in ("", RESET[KEPT]) for record in last)
            seen = any(record.outcome.ok for record in last)
            health[kind] = _Health.FAILING if failing else _Health.GOOD if seen else _Health.UNSEEN
        return health

    def _judged_from(self, flip: _Flip, kind: str) -> float | None:
        """From when on what is sent is judged, None if nothing is. A good answer can bring it forward."""
        health = flip.health[kind]
        if health is _Health.GOOD:
            return flip.at
        if self._first_deploy:
            return flip.at + 2.0
        return math.inf if health is _Health.UNSEEN else None

    def _by_release(self) -> dict[str, int]:
        return dict.fromkeys(self._expected, 0) | self._tally.by_label()

    def _stale(self, record: Record, flips: list[_Flip]) -> bool:
        flip = next((flip for flip in reversed(flips) if flip.at <= record.sent), None)
        return flip is not None and self._answered_by_other(record, flip)

    @staticmethod
    def _answered_by_other(record: Record, flip: _Flip) -> bool:
        return record.outcome.ok and record.outcome.label not in (flip.release, UNTOLD)

    def _switch(self, records: list[Record], flips: list[_Flip]) -> dict[str, Any]:
        if not flips:
            return {"at": None, "first_new_ms": None, "last_old_ms": None}
        flip = flips[0]
        until = flips[1].began if len(flips) > 1 else math.inf
        new = (r.ended for r in records if r.outcome.ok and r.outcome.label == flip.release)
        old = (r.sent for r in records if r.sent < until and self._answered_by_other(r, flip))
        first, last = min(new, default=None), max(old, default=None)
        if self._first_deploy and first is not None and first < flip.began:
            first = None  # the same name on both sides of the switch: its answers don't tell them apart
        return {
            "at": flip.wall.isoformat(timespec="milliseconds"),
            "first_new_ms": None if first is None else round((first - flip.at) * 1000, 1),
            "last_old_ms": None if last is None else round((last - flip.at) * 1000, 1),
        }
