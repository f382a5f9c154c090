"""Waiting until nothing is in flight: counted, not guessed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from fakes import Clock

from bluegreen.drain import drain
from bluegreen.model import Endpoint

OLD = (Endpoint("10.0.0.2", 9000),)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    return clock


class Counting:
    """A proxy of which only the count matters; the last one goes on for ever."""

    def __init__(self, counts: Iterable[int]) -> None:
        self._counts = list(counts)
        self.asked: list[Sequence[Endpoint]] = []

    def in_flight(self, endpoints: Sequence[Endpoint]) -> int:
        self.asked.append(endpoints)
        return self._counts.pop(0) if len(self._counts) > 1 else self._counts[0]


def run(proxy: Counting, timeout: float = 30) -> tuple[int, list[str]]:
    words: list[str] = []
    driver: Any = proxy
    return drain(driver, OLD, timeout=timeout, progress=words.append), words


def test_nothing_in_flight_is_not_waited_for(clock: Clock) -> None:
    proxy = Counting([0])
    before = clock.now
    assert run(proxy) == (0, [])
    assert clock.now == before
    assert proxy.asked == [OLD]


def test_it_ends_as_soon_as_nothing_is_in_flight(clock: Clock) -> None:
    before = clock.now
    assert run(Counting([3, 3, 2, 2, 2, 1, 0, 5])) == (0, [])
    assert clock.now - before < 1


def test_a_long_wait_says_now_and_then_how_many_are_left(clock: Clock) -> None:
    before = clock.now
    count, words = run(Counting([3] * 25 + [2] * 25 + [0]))
    assert count == 0
    assert set(words) == {"3 in flight", "2 in flight"}
    assert len(words) <= clock.now - before


def test_it_gives_up_at_the_limit_and_says_how_many_were_left(clock: Clock) -> None:
    before = clock.now
    assert run(Counting([4, 2]), timeout=12)[0] == 2
    assert 12 <= clock.now - before < 12.5


def test_a_limit_of_nothing_still_counts_once(clock: Clock) -> None:
    assert run(Counting([1]), timeout=0)[0] == 1
    assert run(Counting([0]), timeout=0)[0] == 0
