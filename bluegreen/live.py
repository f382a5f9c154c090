"""A run as it goes on, on a terminal: a block of lines that is drawn anew in its place, a few times a second.

Only `console` imports this, and only for a terminal: rich takes a while to load.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bluegreen.model import Event
from bluegreen.words import plain

RATE = 8
"""How often a second it is drawn."""

WIDEST = 100
"""Columns that the bars take with what stands around them, at most."""

NARROW = 60
"""Columns below which there is no room to say what is yet to come."""

WINDOW = 1.5
"""Seconds over which shares of the traffic are taken."""

PATIENCE = 2.0
"""Seconds for which a terminal that takes nothing is waited for at the end."""

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
MARKS = {"done": ("✓", "green"), "failed": ("✗", "red"), "undone": ("↩", "yellow"), "undo-failed": ("✗", "red")}
MARKS |= {"leftover": ("!", "yellow")}
NAME = 11
"""Columns of a step's name, as wide as the longest."""
WORDS = NAME + 15
"""Columns before the words on a step."""

COLUMN = 10
"""Columns of a host's cell, at least."""


@dataclass
class Cell:
    """A step on a host."""

    state: str = "started"
    began: float = 0.0
    seconds: float = 0.0
    words: str = ""


@dataclass
class Scene:
    """What the events have told so far. Times are of `time.monotonic`."""

    title: str
    began: float
    steps: list[str] = field(default_factory=list)
    """In the order in which they are shown."""
    planned: dict[str, str] = field(default_factory=dict)
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    """By step and host."""
    whole: str = ""
    """What the run as a whole is said to be on: the host, or all of them."""
    hosts: list[str] = field(default_factory=list)
    """Each of them, if there are several."""
    notes: dict[str, str] = field(default_factory=dict)
    """What was last said of something that is no step under way."""
    undone: list[tuple[str, str, Cell]] = field(default_factory=list)
    colours: dict[str, str] = field(default_factory=dict)
    """By release."""
    counts: Mapping[str, Any] = field(default_factory=dict)
    window: deque[tuple[float, Mapping[str, int]]] = field(default_factory=deque)

    def take(self, event: Event, now: float) -> None:
        step, state, words = event.step, event.state, first_line(event.detail)
        if state == "planned":
            self._plan(event.data, event.host)
        elif state == "counts":
            self._count(event, now)
        elif state == "started":
            self._cells(step, event.host)[event.host] = Cell(began=now, words=words)
        elif state == "progress":
            self._say(step, event.host, words, now)
        elif state in ("undone", "undo-failed"):
            self.undone.append((step, event.host, Cell(state, seconds=event.seconds, words=words)))
        else:
            self._end(step, event.host, Cell(state, seconds=event.seconds, words=words))

    def shares(self) -> dict[str, float]:
        """The share of each release in the good answers of the last moments."""
        if not self.window:
            return {}
        first, last = self.window[0][1], self.window[-1][1]
        came = {name: count - first.get(name, 0) for name, count in last.items()}
        if len(self.window) == 1 or not sum(came.values()):
            came = dict(last)
        total = sum(came.values())
        return {name: count / total if total else 0.0 for name, count in came.items()}

    def _plan(self, plan: Mapping[str, Any], host: str) -> None:
        self.title = f"{plan['action']} {plan['from'] or 'nothing'} → {plan['release']}"
        self.planned = {step["step"]: first_line(step["detail"]) for step in plan["steps"]}
        self.whole = host
        self.hosts = [name for name in plan["hosts"] if name != host]
        self.notes.pop("lock", None)
        self.steps += [step for step in self.planned if step not in self.steps]
        other = "green" if plan["colour"] == "blue" else "blue"
        self.colours = {plan["from"]: other} if plan["from"] else {}
        self.colours[plan["release"]] = plan["colour"]

    def _count(self, event: Event, now: float) -> None:
        if event.step == "witness":
            self.counts = event.data
            self.window.append((now, event.data["by_release"]))
            while len(self.window) > 2 and now - self.window[0][0] > WINDOW:
                self.window.popleft()
        else:
            self._say(event.step, event.host, in_words(event.data), now)

    def _cells(self, step: str, host: str) -> dict[str, Cell]:
        """The cells of a step, and the host is one of those that are known."""
        self.notes.pop(step, None)
        if step not in self.steps:
            self.steps.append(step)
        self.whole = self.whole or host
        if host != self.whole and host not in self.hosts:
            self.hosts.append(host)
        return self.cells.setdefault(step, {})

    def _end(self, step: str, host: str, ended: Cell) -> None:
        cells = self._cells(step, host)
        cells[host] = ended
        if host == self.whole:  # and with it what each of the hosts was at; whose failure it was is in the words
            under_way = [name for name, cell in cells.items() if cell.state == "started"]
            for name in under_way:
                del cells[name]
                if ended.state == "done":
                    cells[name] = replace(ended, words="")

    def _say(self, step: str, host: str, words: str, now: float) -> None:
        cells = self.cells.get(step, {})
        cell = cells.get(host)
        whole = cells.get(self.whole)
        if cell and cell.state == "started":
            cell.words = words
        elif host in self.hosts and whole and whole.state == "started":
            cells[host] = Cell(began=whole.began, words=words)
        else:
            self.notes[step] = words


def first_line(text: str) -> str:
    """The first line, without anything that a terminal would act on."""
    return plain(text).partition("\n")[0].expandtabs(4)


def in_words(figures: Mapping[str, Any]) -> str:
    """What a probe or a registry counts, in a few words."""
    if "tries" in figures:
        if figures["in_a_row"]:
            return f"try {figures['tries']}: {figures['in_a_row']} of {figures['wanted']} right in a row"
        return f"try {figures['tries']}: {first_line(figures['reason'])}"
    if "layers" in figures:
        words = f"{figures['ended']} of {figures['layers']} layers"
        if figures["size"]:
            words += f", {figures['bytes'] / 1e6:.1f} of {figures['size'] / 1e6:.1f} MB"
        return words
    return ""


@dataclass(frozen=True)
class Line:
    """A line of the block. Of those with a rank, the highest goes first where the terminal is too low for all."""

    text: Text
    rank: float = 0


def draw(scene: Scene, width: int, height: int, now: float) -> list[Text]:
    """The block, no line of which is wider than `width`; as high as `height` at most, if that is 4 or more."""
    lines = [Line(_title(scene, now)), *_steps(scene, width, now)]
    lines += [Line(_row(" ", "", step, "", words)) for step, words in scene.notes.items()]
    traffic = _traffic(scene, min(width, WIDEST))
    lines += [Line(Text(), 9), *traffic] if traffic else []
    while len(lines) > height and any(line.rank for line in lines):
        lines.remove(max(lines, key=lambda line: line.rank))
    for line in lines:
        line.text.rstrip()
        line.text.truncate(width, overflow="ellipsis")
    return [line.text for line in lines][:height]


def _title(scene: Scene, now: float) -> Text:
    text = Text(f"{_spin(now)} ", style="cyan")
    text.append(scene.title, style="bold")
    on = f" on {scene.whole}" if scene.whole else ""
    return text.append(f"{on}, {now - scene.began:.0f} s", style="dim")


def _spin(now: float) -> str:
    return SPINNER[int(now * RATE) % len(SPINNER)]


def _row(mark: str, style: str, name: str, seconds: str, words: str, dim: bool = False) -> Text:
    text = Text(style="dim" if dim else "")
    text.append(f"  {mark} ", style=style)
    text.append(f"{name:{NAME}} {seconds:>8}  ")
    return text.append(words)


def _steps(scene: Scene, width: int, now: float) -> list[Line]:
    """A line for each step; several hosts stand in it side by side, and what they are at below, if there is room."""
    column = max(COLUMN, *(len(host) + 2 for host in scene.hosts)) if scene.hosts else 0
    beside = bool(scene.hosts) and WORDS + column * len(scene.hosts) <= width
    head = " " * WORDS + "".join(f"{host:{column}}" for host in scene.hosts)
    lines = [Line(Text(head, style="bold"))] if beside else []
    for number, step in enumerate(scene.steps):
        cell = scene.cells.get(step, {}).get(scene.whole)
        if cell is None:
            if not scene.undone:
                words = "" if beside or width < NARROW else scene.planned.get(step, "")
                lines.append(Line(_row(" ", "", step, "", words, dim=True), 8 + number / 100))
            continue
        mark, style, seconds = _seen(cell, now)
        text = _row(mark, style, step, seconds, "" if beside else _words(scene, step, cell))
        if beside:
            for host in scene.hosts:
                text.append_text(_beside(scene.cells[step].get(host), column, now))
        lines.append(Line(text, 0 if cell.state == "started" else 7))
    return lines + _undone(scene, now) + (_under_way(scene, beside, now) if scene.hosts else [])


def _words(scene: Scene, step: str, cell: Cell) -> str:
    return cell.words or (scene.planned.get(step, "") if cell.state == "started" else "")


def _seen(cell: Cell, now: float) -> tuple[str, str, str]:
    """A cell's mark, its style, and the time that it took so far."""
    if cell.state == "started":
        return _spin(now), "cyan", f"{now - cell.began:.1f} s"
    mark, style = MARKS.get(cell.state, (" ", ""))
    return mark, style, f"{cell.seconds:.1f} s"


def _beside(cell: Cell | None, column: int, now: float) -> Text:
    if cell is None:
        return Text(" " * column)
    mark, style, seconds = _seen(cell, now)
    return Text(f"{mark} ", style=style).append(f"{seconds:{column - 2}}", style="default")


def _undone(scene: Scene, now: float) -> list[Line]:
    lines = []
    for step, host, cell in scene.undone:
        mark, style, seconds = _seen(cell, now)
        words = f"{host}: {cell.words}" if host in scene.hosts else cell.words
        lines.append(Line(_row(mark, style, step, seconds, words), 6))
    return lines


def _under_way(scene: Scene, beside: bool, now: float) -> list[Line]:
    """What is done now or has failed, in words, as a whole and on each of several hosts."""
    longest = max(NAME, *(len(host) for host in scene.hosts))
    lines = []
    for step in scene.steps:
        cells = scene.cells.get(step, {})
        whole = cells.get(scene.whole)
        if whole is None or whole.state not in ("started", "failed"):
            continue
        if beside:
            lines.append(Line(Text(f"    {step:{longest}} {_words(scene, step, whole)}"), 5))
        for host in scene.hosts if whole.state == "started" else ():
            cell = cells.get(host)
            if cell and beside and cell.words:
                lines.append(Line(Text(f"    {host:{longest}} {cell.words}"), 5.1))
            elif cell and not beside:
                mark, style, seconds = _seen(cell, now)
                text = Text(f"    {host:{longest}} ").append(f"{mark} ", style=style)
                lines.append(Line(text.append(f"{seconds:>6}  {cell.words}"), 5.1))
    return [Line(Text(), 9), *lines] if lines else []


def _traffic(scene: Scene, width: int) -> list[Line]:
    """A bar for each release, and the witness's counts."""
    if not scene.counts:
        return []
    lines = []
    shares = scene.shares()
    told = [name for name in scene.colours if name in shares]
    if any(scene.counts["by_release"].get(name) for name in told):
        longest = min(max(NAME, *(len(name) for name in told)), width // 2)
        room = max(4, width - longest - 11)
        for name in told:
            filled = round(shares[name] * room)
            head = Text(name)
            head.truncate(longest, overflow="ellipsis", pad=True)
            text = Text("    ").append_text(head).append(" ")
            text.append("━" * filled, style=scene.colours[name])
            text.append("─" * (room - filled), style="dim")
            lines.append(Line(text.append(f" {shares[name]:4.0%}"), 3))
    tcp = scene.counts["probe"] == "tcp"
    failed = scene.counts["failed"]
    text = Text(f"    {'witness':{NAME}} {scene.counts['total']} {'connections' if tcp else 'requests'}, ")
    text.append(f"{failed} {'not accepted' if tcp else 'failed'}", style="bold red" if failed else "")
    return [*lines, Line(text)]


class Block:
    """A block of lines on the terminal, in the place of which the next one is drawn."""

    def __init__(self) -> None:
        self.console = Console(
            file=sys.stdout, force_terminal=True, force_interactive=True, highlight=False, emoji=False, markup=False
        )
        self._live = Live(
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=sys.stderr.isatty(),
            vertical_overflow="crop",
        )

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines that a block may take: one less than there are, so that nothing is folded or scrolls."""
        width, height = self.console.size
        return width - 1, height - 1

    def start(self) -> None:
        self._live.start()

    def show(self, lines: Sequence[Text | str]) -> None:
        """The lines are there, each cut to the terminal's width, and as many as it is high."""
        width, height = self.size
        texts = [Text(line) if isinstance(line, str) else line for line in lines[:height]]
        for text in texts:
            text.truncate(width, overflow="ellipsis")
        self._live.update(Group(*texts), refresh=True)

    def stop(self, *, keep: bool = False) -> None:
        """The block is gone, or kept as it is, and the cursor is back, also when this is interrupted."""
        self._live.transient = not keep
        try:
            self._live.stop()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.write("\x1b[?25h")
                sys.stdout.flush()


class View:
    """Draws what it is told, in a thread of its own: no event waits for the terminal, or fails because of it."""

    def __init__(self, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._scene = Scene(title, clock())
        self._block = Block()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="view", daemon=True)

    def start(self) -> None:
        self._block.start()
        self._thread.start()

    def event(self, event: Event) -> None:
        try:
            with self._lock:
                self._scene.take(event, self._clock())
        except (AttributeError, LookupError, TypeError, ValueError):  # not what a signal raises, which is the run's
            self._over.set()

    def stop(self) -> None:
        """Nothing is drawn any more, and nothing that was drawn is left."""
        self._over.set()
        try:
            self._thread.join(PATIENCE)
        finally:
            self._block.stop()

    def _draw(self) -> None:
        with contextlib.suppress(Exception):  # such as that the terminal has gone: the run goes on
            while not self._over.wait(1 / RATE):
                width, height = self._block.size
                with self._lock:
                    lines = draw(self._scene, width, height, self._clock())
                self._block.show(lines)
