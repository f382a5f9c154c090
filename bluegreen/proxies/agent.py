"""Work done from the proxy's place in the network and on its files, over one process in its container."""

from __future__ import annotations

import http.client
import io
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from urllib.parse import quote

from bluegreen.errors import BluegreenError
from bluegreen.model import Endpoint
from bluegreen.runtimes.session import SessionEnded, Talk

SILENCE = 60
"""Seconds without a word after which the process counts as gone; no verb takes longer."""

LOOK = 0.1
"""Seconds for which a connection that was taken is looked at: a proxy closes it when nobody answers behind it."""

# States of /proc/net/tcp that hold no request: FIN_WAIT2, TIME_WAIT, CLOSE, CLOSE_WAIT, LISTEN.
QUIET_STATES = frozenset({"05", "06", "07", "08", "0A"})


# Of its timers, by the kernel's documentation (proc_net_tcp): one that is not for a packet under way.
KEEPALIVE_TIMER = "02:"


class AgentError(BluegreenError):
    """What was asked could not be done there; the message says why."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer as the proxy got it: status, and the body without white space around it."""

    status: int
    body: str


class Agent:
    """Talks to one process at the proxy's place, which `start` gives at the first call, or after it was lost."""

    def __init__(self, start: Callable[[Sequence[str]], Talk]) -> None:
        self._begin = start
        self._session: Talk | None = None
        self._lock = threading.Lock()

    def get(self, endpoint: Endpoint, path: str, *, host: str, timeout: float) -> Answer:
        """The answer to one GET on a connection of its own. Raises AgentError when there is none."""
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bluegreen\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
        raw = self.call("tcp", endpoint.address, str(endpoint.port), f"{timeout:g}", request)
        try:
            response = http.client.HTTPResponse(_Recorded(raw))  # type: ignore[arg-type]
            response.begin()
            return Answer(response.status, response.read().decode(errors="replace").strip())
        except (http.client.HTTPException, ValueError) as error:
            raise AgentError(f"not an HTTP answer: {error or raw[:80]!r}") from error

    def connect(self, endpoint: Endpoint, *, timeout: float) -> None:
        """A connection was taken and not closed at once. Raises AgentError when it was not."""
        self.call("connect", endpoint.address, str(endpoint.port), f"{timeout:g}", f"{LOOK:g}")

    def read(self, path: str) -> str:
        return self.call("read", path).decode(errors="replace")

    def exists(self, path: str) -> bool:
        return self.call("exists", path) == b"1"

    def read_there(self, paths: Iterable[str]) -> dict[str, str]:
        """What those of the files hold that exist, for one round trip."""
        wanted = list(paths)
        calls = [(verb, path) for path in wanted for verb in ("exists", "read")]
        answers = iter(self._answers(*calls) if calls else [])
        found = {}
        for path, exists, (state, data) in zip(wanted, answers, answers, strict=True):
            if exists != (b"ok", b"1"):
                continue
            if state != b"ok":
                raise AgentError(data.decode(errors="replace"))
            found[path] = data.decode(errors="replace")
        return found

    def tally(self, log: str, wanted: str) -> dict[str, int]:
        """How often each line was written to a log since this agent began to look at it.

        Who writes to it does so while there is a file `wanted` with the time behind it, in hundreds of seconds. A call
        makes that of now and the next one, and empties the log when it is long.
        """
        rows = (line.split(" ", 1) for line in self.call("tally", log, wanted).decode(errors="replace").splitlines())
        return {line: int(number) for number, line in rows}

    def write(self, path: str, content: str, *, only_for: int | None = None) -> None:
        """The file has this content; a reader sees the old one or the new one whole.

        With the id of a process in `only_for`, nobody but that one's user (and root) can read it.
        """
        self.call("write", path, content, "" if only_for is None else str(only_for))

    def replace_lines(self, path: str, column: int, value: str, lines: str) -> None:
        """The lines of a shared file whose word number `column` is `value` are these; another writer's edit is kept."""
        self.call("replace", path, str(column), value, lines)

    def ask_socket(self, path: str, command: str) -> str:
        """What a program says to a command on its unix socket."""
        return self.call("unix", path, "5", command + "\n").decode(errors="replace").strip()

    def remove(self, *paths: str) -> None:
        """None of the files exists."""
        self.call("remove", *paths)

    def run(self, *command: str) -> tuple[int, str]:
        """The command's exit code and its outputs together."""
        code, _, text = self.call("run", *command).decode(errors="replace").partition("\n")
        if not code.isdecimal():
            raise AgentError(f"{command[0]} ended with {code[:40]!r}, which is no exit code")
        return int(code), text.strip()

    def children(self, parent: int) -> dict[int, str]:
        """The processes that `parent` has started: their pids and command lines."""
        rows = (line.split(" ", 2) for line in self.call("ps").decode(errors="replace").splitlines())
        return {int(row[0]): row[2].strip() for row in rows if int(row[1]) == parent}

    def connections(self, endpoints: Iterable[Endpoint]) -> int:
        """How many connections from the proxy's network to these endpoints are, or may yet be, at work."""
        return sum(1 for _ in self._rows(endpoints))

    def kept_alive(self, endpoints: Iterable[Endpoint]) -> int:
        """How many of them the kernel keeps alive: open, with nothing unconfirmed, and `SO_KEEPALIVE` asked for."""
        return sum(row[5].startswith(KEEPALIVE_TIMER) for row in self._rows(endpoints))

    def _rows(self, endpoints: Iterable[Endpoint]) -> Iterator[list[str]]:
        wanted = {_proc_net(endpoint) for endpoint in endpoints}
        rows = [line.split() for line in self.read("/proc/net/tcp").splitlines()[1:]]
        return (row for row in rows if row[2] in wanted and row[3] not in QUIET_STATES)

    def call(self, verb: str, *arguments: str) -> bytes:
        """What the verb gives. Raises AgentError with its reason, SessionEnded when the container is gone."""
        [(state, data)] = self._answers((verb, *arguments))
        if state != b"ok":
            raise AgentError(data.decode(errors="replace"))
        return data

    def _answers(self, *calls: Sequence[str]) -> list[tuple[bytes, bytes]]:
        """Of several verbs, each with its arguments, whether it did what it was asked, and what it gives, or why not;
        for one round trip. Raises SessionEnded when the container is gone.
        """
        lines = (" ".join(_quoted(word) for word in each).encode() + b"\n" for each in calls)
        with self._lock:
            try:
                session = self._session or self._start()
                session.send(b"".join(lines))
                return [_answer(session) for _ in calls]
            except BaseException:  # an answer that was not read whole would be taken for that of the next call
                self._close()
                raise

    def close(self) -> None:
        with self._lock:
            self._close()

    def _start(self) -> Talk:
        program = resources.files("bluegreen").joinpath("templates/agent.pl").read_text()
        self._session = self._begin(["perl", "-e", program])
        return self._session

    def _close(self) -> None:
        if self._session:
            self._session.close()
            self._session = None


def _quoted(word: str) -> str:
    return quote(word, safe="/:=.,-_")


def _answer(session: Talk) -> tuple[bytes, bytes]:
    """Whether a verb did what it was asked (ok, error), and what it gives, or why not."""
    answer = session.read_line()
    state, _, length = answer.partition(b" ")
    if state not in (b"ok", b"error") or not length.isdigit():
        # What the engine says where a container dies before the process in it has begun.
        words = answer.decode(errors="replace").strip()
        raise SessionEnded(f"the process at the proxy's place did not start: {words}")
    return state, session.read(int(length))


class _Recorded:
    """Bytes already received, in the form that http.client reads from."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def _proc_net(endpoint: Endpoint) -> str:
    """The endpoint as /proc/net/tcp writes it: the address's bytes in the host's order, which is little-endian."""
    octets = bytes(int(part) for part in endpoint.address.split("."))
    return f"{octets[::-1].hex().upper()}:{endpoint.port:04X}"
