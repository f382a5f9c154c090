"""A receipt as a page to look at: one file of HTML, without a script and without a request to anywhere.

Figures are inline SVG. What is horizontal in them is in percent of the width and what is vertical in pixels, so that
they fit a phone as well as a wide screen while their letters keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bluegreen.witness import UNTOLD
from bluegreen.words import plain

if TYPE_CHECKING:
    import jinja2

HEIGHT = 180
"""Of a figure's plot, in pixels."""

DURING = -0.5, 1.0
"""Seconds from the switch between which a request counts as during it, as the receipt has it."""

MINUS = "\N{MINUS SIGN}"

MARKS = {"done": "✓", "failed": "✗", "undone": "↩", "undo-failed": "✗", "leftover": "!", "unchanged": "="}


def render(receipt: Mapping[str, Any]) -> str:
    """The page of the receipt. What an older version did not yet put into a receipt is left out."""
    series, who = receipt.get("series"), answerers(receipt)
    whole = figure(series["run"], series["switches"], receipt["from"], who) if series else None
    near = series and series["switch"] and figure(series["switch"], series["switches"], receipt["from"], who)
    return _template().render(
        receipt=receipt,
        marks=MARKS,
        answerers=who,
        verdict=verdict(receipt),
        users=users(receipt),
        handover=near or whole,
        whole=whole,
        latency=latency(series["run"], whole) if series and whole else None,
        timeline=timeline(receipt["steps"], series["switches"] if series else []),
        height=HEIGHT,
    )


@cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bluegreen"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
    )
    environment.filters.update(lines=lines, duration=duration, ms=milliseconds, when=when)
    return environment.get_template("report.html.j2")


@dataclass(frozen=True)
class Answerer:
    """Somebody who answered: under which name they are counted, in which words and which colour they are shown."""

    name: str
    label: str
    colour: str


def answerers(receipt: Mapping[str, Any]) -> list[Answerer]:
    """All who answered, in the order in which they are stacked: the old release, the new one, and who can't be told."""
    slots = receipt.get("colours") or {}
    new = slots.get("to") or "green"
    old = slots.get("from") or ("blue" if new == "green" else "green")
    untold = "connections accepted" if receipt["probe"] == "tcp" else "can't be told"
    shown = {receipt["from"]: (receipt["from"], old), receipt["to"]: (receipt["to"], new), UNTOLD: (untold, UNTOLD)}
    answered = receipt["requests"]["by_release"]
    return [Answerer(name, *words) for name, words in shown.items() if answered.get(name)]


def verdict(receipt: Mapping[str, Any]) -> str:
    """What is true now, in one sentence."""
    old, new = receipt["from"], receipt["to"]
    if receipt["result"] == "failed":
        return "Something could not be undone: a person is needed."
    if receipt["result"] == "undone":
        return f"It was undone: {old} still serves." if old else "It was undone: nothing is served, as before."
    if receipt["result"] == "unchanged":
        return "There was nothing to do."
    return f"{new} is live again." if receipt["action"] == "rollback" else f"{new} is live."


def users(receipt: Mapping[str, Any]) -> str:
    """What those who used the service saw of it, in one sentence."""
    requests = receipt["requests"]
    total, failed = requests["total"], requests["failed"]
    if not receipt["witness"]:
        return "" if receipt["result"] == "unchanged" else "No witness looked on, so what users saw was not counted."
    if not total:
        return "The witness had nothing to ask yet."
    what = "connections" if receipt["probe"] == "tcp" else "requests"
    return f"{f'{failed:,}' if failed else 'None'} of the witness's {total:,} {what} failed."


@dataclass(frozen=True)
class Scale:
    """The time that a figure shows, in seconds from the first switch or, unless `signed`, from the run's start."""

    begins: float
    ends: float
    signed: bool

    def x(self, at: float) -> float:
        """Where the moment is, in percent of the width."""
        return place(at, self.begins, self.ends - self.begins)

    def moment(self, at: float) -> str:
        """The moment in words."""
        return offset(at) if self.signed else f"{number(round(at, 2))} s"

    def marks(self) -> list[tuple[float, str]]:
        """Round moments, each with its place."""
        return [(self.x(at), self.moment(at)) for at in between(self.begins, self.ends)]


@dataclass(frozen=True)
class Bar:
    """One span of time: where it stands, what it says, and its parts from the ground up as (colour, y, height)."""

    x: float
    width: float
    parts: list[tuple[str, float, float]]
    at: float
    answers: list[int]
    failed: int
    words: str


@dataclass(frozen=True)
class Switch:
    """Where a switch is, and to which release; `left` says on which side of its line its words have room."""

    x: float
    at: float
    release: str
    left: bool


@dataclass(frozen=True)
class Figure:
    """Answers over time as bars, one for each span."""

    scale: Scale
    width: float
    """Of a span, in seconds."""
    peak: float
    """The most answers a second."""
    bars: list[Bar]
    switches: list[Switch]
    names: list[tuple[float, str]]
    """Of the releases, each in the middle of the time in which it is the one to answer."""
    y_ticks: list[tuple[float, str]]


def figure(
    spans: Mapping[str, Any], switches: list[Mapping[str, Any]], old: str | None, who: list[Answerer]
) -> Figure:
    """The spans of a series as a figure; `old` is who answered before the first switch."""
    width, failed = spans["width"], spans["failed"]
    answers = [spans["answers"].get(each.name, [0] * len(failed)) for each in who]
    totals = [sum(each) for each in zip(failed, *answers, strict=True)]
    zero = switches[0]["at"] if switches else 0.0
    begins = spans["begins"] - zero
    ends = begins + width * len(failed)
    scale = Scale(begins, ends, bool(switches))
    peak = max(totals) / width
    inner = max(totals[1:-1], default=0) / width
    if inner:  # the first and the last are as narrow as they were watched, or they would seem to be lulls
        peak = inner
        # One may be switched back to when nobody has answered since.
        reached = [at for switch in switches if (at := switch["at"] - zero) <= ends + width]
        last = max(min(ends, spans["last"] - zero + 1 / inner), *reached, begins)
        scale = Scale(max(begins, spans["first"] - zero), last, bool(switches))
    steps = ticks(peak)
    colours = [*((each.label, each.colour) for each in who), ("failed", "failed")]
    bars = [
        bar(scale, begins + width * index, width, list(zip(colours, counts, strict=True)), peak, steps[-1])
        for index, counts in enumerate(zip(*answers, failed, strict=True))
    ]
    shown = switches_on(scale, [(switch["at"] - zero, switch["release"]) for switch in switches])
    y_ticks = [(level(tick, steps[-1]), number(tick)) for tick in steps]
    return Figure(scale, width, peak, bars, shown, names_on(shown, old, who), y_ticks)


def bar(
    scale: Scale, at: float, width: float, counts: list[tuple[tuple[str, str], int]], peak: float, top: float
) -> Bar:
    """The bar of the span from `at` on; it is as high as its answers a second, at most `peak`, on a scale to `top`.

    `counts` are those of each label and colour, of failures last.
    """
    left, right = max(at, scale.begins), min(at + width, scale.ends)
    seconds = max(right - left, sum(count for _, count in counts) / peak)
    parts: list[tuple[str, float, float]] = []
    below = 0
    for (_, colour), count in counts:
        if count:
            y = level((below + count) / seconds, top)
            parts.append((colour, y, round(level(below / seconds, top) - y, 1)))
            below += count
    *answers, failed = (count for _, count in counts)
    told = ", ".join(f"{label} {count}" for (label, _), count in counts if count)
    x = scale.x(left)
    return Bar(
        x, round(scale.x(right) - x, 3), parts, at, answers, failed, f"{scale.moment(at)}: {told or 'nothing'}"
    )


def switches_on(scale: Scale, switches: list[tuple[float, str]]) -> list[Switch]:
    """The switches that the scale reaches."""
    shown = []
    for index, (at, release) in enumerate(switches):
        another = index + 1 < len(switches)  # whose line these words had better not cross
        x = scale.x(at)
        if 0 <= x <= 100:
            shown.append(Switch(x, at, release, x > (30 if another else 50)))
    return shown


def names_on(switches: list[Switch], old: str | None, who: list[Answerer]) -> list[tuple[float, str]]:
    """The releases, each in the middle of the time between the switch to it and the next, if there is room for it."""
    turns = [(0.0, old), *((switch.x, switch.release) for switch in switches), (100.0, None)]
    told = {each.name for each in who}
    return [
        ((x + following) / 2, release)
        for (x, release), (following, _) in pairwise(turns)
        if release in told and following - x > 12
    ]


@dataclass(frozen=True)
class Latency:
    """Latencies over time as paths on a field of 1000 x HEIGHT; `during` is where the switch is, as (x, width)."""

    p50: str
    p99: str
    band: str
    during: tuple[float, float] | None
    y_ticks: list[tuple[float, str]]
    rows: list[tuple[float, float, float]]


def latency(spans: Mapping[str, Any], figure: Figure) -> Latency | None:
    """The latencies of the figure's spans; None if nothing was answered."""
    p50, p99 = spans["p50_ms"], spans["p99_ms"]
    highest = max((value for value in p99 if value is not None), default=None)
    if highest is None:
        return None
    steps = ticks(highest)

    def point(index: int, value: float) -> tuple[float, float]:
        bar = figure.bars[index]
        return round(10 * (bar.x + bar.width / 2), 1), level(value, steps[-1])

    runs = stretches(p99)
    low = [[point(index, p50[index]) for index in run] for run in runs]
    high = [[point(index, p99[index]) for index in run] for run in runs]
    during = None
    if figure.switches:
        left, right = (min(100.0, max(0.0, figure.scale.x(at))) for at in DURING)
        during = round(left, 3), round(right - left, 3)
    return Latency(
        p50="".join(path(each) for each in low),
        p99="".join(path(each) for each in high),
        band="".join(path([*above, *reversed(below)]) + "z" for above, below in zip(high, low, strict=True)),
        during=during,
        y_ticks=[(level(tick, steps[-1]), mark(tick, steps[-1])) for tick in steps],
        rows=[(figure.bars[i].at, p50[i], p99[i]) for run in runs for i in run],
    )


@dataclass(frozen=True)
class Row:
    """A step as a bar on the line of the run."""

    step: Mapping[str, Any]
    name: str
    x: float
    width: float
    words: str


@dataclass(frozen=True)
class Timeline:
    """The steps on one line of time; where switches are, in percent, and when it begins and ends."""

    rows: list[Row]
    switches: list[float]
    begin: float
    end: float


def timeline(steps: list[Mapping[str, Any]], switches: list[Mapping[str, Any]]) -> Timeline:
    """The steps on one line of time, from the first's beginning to the last's end."""
    spans = [(step.get("at", 0.0), step["seconds"]) for step in steps]
    begin = min((at for at, _ in spans), default=0.0)
    length = max((at + took for at, took in spans), default=0.0) - begin or 1.0
    rows = [
        Row(
            step,
            ("undo " if step["state"].startswith("und") else "") + step["step"],
            place(at, begin, length),
            round(100 * took / length, 3),
            f"from {duration(at)} to {duration(at + took)} of the run",
        )
        for step, (at, took) in zip(steps, spans, strict=True)
    ]
    marks = [x for each in switches if 0 <= (x := place(each["at"], begin, length)) <= 100]
    return Timeline(rows, marks, begin, begin + length)


def place(at: float, begin: float, length: float) -> float:
    """Where the moment is, in percent of the length."""
    return round(100 * (at - begin) / length, 3)


def level(value: float, top: float) -> float:
    """How far below the upper edge of a plot, whose scale ends at `top`, the value is."""
    return round(HEIGHT - HEIGHT * value / top, 1)


def path(points: list[tuple[float, float]]) -> str:
    """A line through the points; a single one is a dot, where line ends are round."""
    words = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f"M{words}h0" if len(points) == 1 else f"M{words}"


def stretches(values: list[float | None]) -> list[list[int]]:
    """The indexes of the values that are there, parted where one is missing."""
    found: list[list[int]] = []
    for index, value in enumerate(values):
        if value is None:
            continue
        if not found or found[-1][-1] != index - 1:
            found.append([])
        found[-1].append(index)
    return found


def step_of(length: float, about: int) -> float:
    """The round number (1, 2 or 5, and tens of them) that parts the length into some `about` pieces."""
    exact = length / about or 1.0
    power = 10.0 ** math.floor(math.log10(exact))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= exact * 0.999)


def ticks(highest: float) -> list[float]:
    """Round values from 0 on, the last of which is at or above the highest."""
    step = step_of(highest, 3)
    return [step * index for index in range(math.ceil(highest / step) + 1)]


def between(begin: float, end: float) -> list[float]:
    """Round moments from begin to end, some five of them, 0 among them if it lies there."""
    step = step_of(end - begin, 5)
    return [step * index for index in range(math.ceil(begin / step), math.floor(end / step) + 1)]


def number(value: float) -> str:
    return f"{value:,.10g}"


def mark(value: float, highest: float) -> str:
    """A latency on a scale, in seconds where milliseconds would be long."""
    return f"{number(value / 1000)} s" if highest >= 1000 else f"{number(value)} ms"


def offset(seconds: float) -> str:
    """A moment as seconds from zero, with its sign."""
    rounded = round(seconds, 2)
    if not rounded:
        return "0 s"
    return f"{'+' if rounded > 0 else MINUS}{number(abs(rounded))} s"


def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{int(seconds + 0.5) // 60} min {int(seconds + 0.5) % 60} s"


def milliseconds(value: float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.1f} ms" if abs(value) < 100 else f"{value:,.0f} ms"


def when(moment: str) -> str:
    """An ISO time as a person writes it; what is none stays as it is."""
    try:
        at = datetime.fromisoformat(moment).astimezone(UTC)
    except ValueError:
        return moment
    return f"{at.day} {at:%b %Y, %H:%M:%S} UTC"


def lines(text: str) -> tuple[str, str]:
    """The first line, and the others."""
    first, _, rest = text.partition("\n")
    return first, rest
