"""Asks for the version at a steady pace, never retries, and tells of each request when it was sent and who answered.

A program: python asker.py URL RATE LINES; ends when its standard input does, and then prints one JSON list a request:
sent, ended (both wall clock), release or null, and what went wrong or "". One line is a fresh connection each time, the
others are kept alive. `Asker` runs it in a process of its own.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

MOST = 600.0
"""Seconds after which it ends by itself."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    sent: float
    ended: float
    release: str | None
    wrong: str = ""

    @property
    def ms(self) -> float:
        return (self.ended - self.sent) * 1000


class Asker:
    """Requests from the beginning of the `with` block until `stop`."""

    def __init__(self, url: str, rate: float, lines: int = 4) -> None:
        self._command = [sys.executable, "-I", __file__, url, f"{rate:g}", str(lines)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "asking\n":
            raise RuntimeError("the asker did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def stop(self) -> list[Asked]:
        """What was asked, in order of sending."""
        out, _ = self._process.communicate(timeout=60)
        return sorted((Asked(*json.loads(line)) for line in out.splitlines()), key=lambda asked: asked.sent)


@dataclass(frozen=True)
class Flip:
    """What clients saw of a switch that was called at one moment and had returned at another, in ms from the call."""

    first_new: float | None
    last_old: float | None
    stale: int
    """Requests sent after it had returned and answered by the old release."""


def flip(asked: Iterable[Asked], old: str, new: str, called: float, returned: float, until: float) -> Flip:
    """`until` is when the next switch begins."""
    near = [each for each in asked if each.ended >= called - 5 and each.sent < until]
    first = min((each.ended for each in near if each.release == new and each.ended >= called), default=None)
    last = max((each.sent for each in near if each.release == old), default=None)
    return Flip(
        None if first is None else (first - called) * 1000,
        None if last is None else (last - called) * 1000,
        sum(each.release == old and each.sent > returned for each in near),
    )


def near_and_away(
    asked: Iterable[Asked], moments: Iterable[float], near: float = 1.0
) -> tuple[list[float], list[float]]:
    """How long good answers took, in ms: to what was sent within `near` seconds of a moment, and to all else."""
    times = list(moments)
    close: list[float] = []
    far: list[float] = []
    for each in asked:
        if not each.wrong:
            (close if any(abs(each.sent - moment) <= near for moment in times) else far).append(each.ms)
    return close, far


def main() -> None:
    url, rate, lines = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    parts = urlsplit(url)
    stop, found, pace = threading.Event(), [], lines / rate

    def ask(line: int) -> None:
        connection: http.client.HTTPConnection | None = None
        due = time.monotonic() + pace * line / lines
        while not stop.is_set():
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + pace, time.monotonic() - pace)
            sent, release, wrong = time.time(), None, ""
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
                connection.request("GET", "/version")
                answer = connection.getresponse()
                body = answer.read().decode()
                release = answer.headers.get("X-Release") or f"v{body.removeprefix('version ').strip()}"
                if answer.status != 200:
                    release, wrong = None, f"status {answer.status}"
            except (OSError, http.client.HTTPException) as error:
                wrong = type(error).__name__
            found.append((sent, time.time(), release, wrong))
            if connection and (wrong or line == 0 or connection.sock is None):
                connection.close()
                connection = None

    threads = [threading.Thread(target=ask, args=[line], daemon=True) for line in range(lines)]
    _each(threads, threading.Thread.start)
    print("asking", flush=True)
    ender = threading.Timer(MOST, stop.set)
    ender.daemon = True
    ender.start()
    sys.stdin.read()
    stop.set()
    _each(threads, lambda thread: thread.join(35))
    for each in found:
        print(json.dumps(each))


def _each(threads: list[threading.Thread], do: Callable[[threading.Thread], None]) -> None:
    for thread in threads:
        do(thread)


if __name__ == "__main__":
    main()
