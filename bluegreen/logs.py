"""What the replicas of a service write, and commands run in them, each line with who it is from."""

from __future__ import annotations

import heapq
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from bluegreen.errors import Failed, UsageError
from bluegreen.model import Colour, Line, Observed, Replica, Slot
from bluegreen.runtimes import Runtime

LOOK_INTERVAL = 1.0
"""Seconds between two looks for replicas that are new."""

TOGETHER = 0.2
"""Seconds in which lines that arrive are put in the order in which they were written."""


@dataclass(frozen=True, order=True)
class Source:
    """A replica as a line names it."""

    release: str
    replica: str

    def __str__(self) -> str:
        return f"{self.release} {self.replica}"


@dataclass(frozen=True, order=True)
class Written:
    """A line, and the replica that wrote it."""

    at: str
    source: Source
    text: str


def read(runtime: Runtime, colour: Colour | None, *, tail: int | None = None, since: float = 0) -> Iterator[Written]:
    """What was written so far, in order of time. Raises Failed if nothing stands."""
    found = _standing(runtime, colour)
    if not found:
        raise Failed(f"{'no replica' if colour is None else f'nothing of {colour}'} is there", hint="bluegreen status")
    streams = [_written(source, runtime.lines(replica, tail=tail, since=since)) for source, replica in found]
    return heapq.merge(*streams, key=lambda line: line.at)


def follow(runtime: Runtime, colour: Colour | None, *, tail: int | None = None, since: float = 0) -> Iterator[Written]:
    """What was written so far and is being written, without an end: replicas that a run starts are followed too."""
    lines: queue.SimpleQueue[Written] = queue.SimpleQueue()
    followed: dict[str, _Follower] = {}
    first = True
    while True:
        for source, replica in _standing(runtime, colour):
            before = followed.get(replica.id)
            if before is None or (replica.running and not before.is_alive()):  # it is new, or has come back
                last = before.last if before else ""
                known = tail if first else None
                followed[replica.id] = _Follower(runtime, source, replica, lines, known, since, last)
        first = False
        again = time.monotonic() + LOOK_INTERVAL
        while (left := again - time.monotonic()) > 0:
            yield from sorted(_together(lines, left), key=lambda line: line.at)


class _Follower(threading.Thread):
    """Puts what a replica writes into a queue until it ends, but nothing up to the time `last`."""

    def __init__(
        self,
        runtime: Runtime,
        source: Source,
        replica: Replica,
        lines: queue.SimpleQueue[Written],
        tail: int | None,
        since: float,
        last: str,
    ) -> None:
        super().__init__(name=f"logs of {source}", daemon=True)
        self._read = partial(runtime.lines, replica, follow=True, tail=tail, since=since)
        self._source = source
        self._lines = lines
        self.last = last
        self.start()

    def run(self) -> None:
        seen = self.last
        with suppress(Exception):  # an engine that is gone is found out by who looks for replicas
            for line in _written(self._source, self._read()):
                if line.at > seen:
                    self.last = line.at
                    self._lines.put(line)


def _together(lines: queue.SimpleQueue[Written], patience: float) -> list[Written]:
    """The lines that come soon after one another; none if there was none for so long."""
    found = []
    with suppress(queue.Empty):
        found.append(lines.get(timeout=patience))
        until = time.monotonic() + TOGETHER
        while (left := until - time.monotonic()) > 0:
            found.append(lines.get(timeout=left))
    return found


def _standing(runtime: Runtime, colour: Colour | None) -> list[tuple[Source, Replica]]:
    slots = runtime.slots()
    wanted = [slots[each] for each in Colour if each in slots and colour in (None, each)]
    return [(_source(slot, number), replica) for slot in wanted for number, replica in enumerate(slot.replicas, 1)]


def _source(slot: Slot, number: int) -> Source:
    return Source(slot.release.name, f"{slot.colour}-{number}")


def _written(source: Source, lines: Iterator[Line]) -> Iterator[Written]:
    for line in lines:
        for text in line.text.split("\n"):
            yield Written(line.at, source, text)


def run_in(
    runtime: Runtime,
    observed: Observed,
    command: Sequence[str],
    emit: Callable[[Source, str, bool], None],
    *,
    colour: Colour | None = None,
    number: int | None = None,
) -> int:
    """The command has run in every running replica of what is live, or of a colour, or in the one of that number.

    Gives the exit code of the first that failed. `emit` is called by one thread at a time.
    """
    slot = observed.slots.get(colour) if colour else observed.live
    if slot is None:
        raise Failed(f"nothing of {colour} is there" if colour else "nothing is live", hint="bluegreen status")
    numbered = list(enumerate(slot.replicas, 1))
    chosen = [(each, replica) for each, replica in numbered if replica.running and number in (None, each)]
    if not chosen:
        which = f"replica {number}" if number else "replica"
        raise Failed(f"no {which} of {slot.colour} ({slot.release}) is running", hint="bluegreen status")
    one_at_a_time = threading.Lock()

    def one(chosen: tuple[int, Replica]) -> int:
        source = _source(slot, chosen[0])

        def say(text: str, is_error: bool) -> None:
            with one_at_a_time:
                for line in text.split("\n"):
                    emit(source, line, is_error)

        return runtime.run(chosen[1], command, say)

    with ThreadPoolExecutor(max_workers=len(chosen)) as pool:
        codes = list(pool.map(one, chosen))
    return next((code for code in codes if code), 0)


_AGO = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>[smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(text: str) -> float:
    """The time (of `time.time`) that `10m` ago was, or that an ISO 8601 time is, in UTC unless it says otherwise.

    Raises UsageError for anything else.
    """
    if ago := _AGO.fullmatch(text):
        with suppress(OverflowError):
            return max(1.0, time.time() - timedelta(**{_UNITS[ago["unit"]]: int(ago["number"])}).total_seconds())
    with suppress(ValueError, OverflowError):
        found = datetime.fromisoformat(text)
        return max(1.0, (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    raise UsageError(f"{text[:40]!r} is not a time such as 30s, 10m, 2h, 1d or 2024-05-01T12:00:00")
