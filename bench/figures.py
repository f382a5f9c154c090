"""Figures, and what is said of them: pure, so that it can be tested without an engine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """What bluegreen must show, and what it showed. `reached` is None where this run can't tell."""

    what: str
    wanted: str
    measured: str
    reached: bool | None
    reason: str = ""
    """Why it was not reached, as far as measured."""


@dataclass(frozen=True)
class Zero:
    """A count that must be 0."""

    what: str
    count: int


@dataclass(frozen=True)
class Bar:
    """A line of a plot: values of one subject, of which the median is drawn, and the lowest and the highest."""

    label: str
    values: tuple[float, ...]
    ours: bool = False
    words: str = ""
    """What stands behind the bar; empty for the median."""


@dataclass(frozen=True)
class Plot:
    file: str
    title: str
    unit: str
    bars: tuple[Bar, ...]


@dataclass
class Section:
    """What one measurement found."""

    title: str
    text: str
    """How it was measured."""
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    zeros: list[Zero] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)


def median(values: Iterable[float]) -> float:
    """The middle value; raises ValueError without any."""
    found = list(values)
    if not found:
        raise ValueError("no values, so no median")
    return statistics.median(found)


def percentile(values: Iterable[float], part: float) -> float:
    """The value that `part` (0 to 1) of all are at most; raises ValueError without any."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values, so no percentile")
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def number(value: float) -> str:
    """With three digits that count, and commas from a thousand on: 0.21, 1.53, 15.3, 153, 1,530."""
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"


def spread(values: Iterable[float]) -> str:
    """The median, and from where to where the values go: `12 (10 to 15)`; a dash without any."""
    found = list(values)
    if not found:
        return "-"
    if min(found) == max(found):
        return number(found[0])
    return f"{number(median(found))} ({number(min(found))} to {number(max(found))})"


def ratio(of: Iterable[float], to: Iterable[float]) -> float:
    """How many times the one median is the other."""
    return median(of) / median(to)


def in_turn(turns: int, subjects: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """What each gives, called in turn (A B A B ...), so that what disturbs the machine disturbs all alike."""
    found: dict[str, list[T]] = {name: [] for name in subjects}
    for _ in range(turns):
        for name, measure in subjects.items():
            found[name].append(measure())
    return found


def at_most(what: str, measured: float, limit: float, *, unit: str = "x", reason: str = "") -> Target:
    """The target that a figure, by default a ratio, is at most so high. The reason is told only if it is not."""
    reached = measured <= limit
    return Target(
        what, f"at most {number(limit)}{unit}", f"{number(measured)}{unit}", reached, "" if reached else reason
    )


def failed(sections: Iterable[Section]) -> list[Zero]:
    """The counts that must be 0 and are not."""
    return [zero for section in sections for zero in section.zeros if zero.count]
