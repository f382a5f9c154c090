"""What is seen of a run while it goes on."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console as RichConsole
from terminal import pseudo_terminal

from bluegreen.errors import Interrupted
from bluegreen.live import Block, Scene, View, draw
from bluegreen.model import Event

STEPS = ["pre_deploy", "pull", "start", "probe", "switch", "verify", "post_switch", "bake", "drain", "post_deploy"]
WIDTHS = [40, 80, 200]
ONE = ["local"]
THREE = ["app-1", "app-2", "app-3"]
LAYERS = {"layers": 7, "ended": 3, "bytes": 12_400_000, "size": 48_000_000}
REFUSED = {"tries": 7, "in_a_row": 0, "wanted": 3, "reason": "/version: Connection refused"}
BACK = "\x1b[?25h"
"""The cursor can be seen."""
COLOUR = re.compile(r"\x1b\[[\d;]*3[0-7][\d;]*m")


def planned(hosts: list[str] = ONE, steps: list[str] = STEPS) -> Event:
    outline = {"run": "r1", "action": "deploy", "release": "v2", "colour": "green", "from": "v1", "hosts": hosts}
    steps_ = [{"step": step, "detail": f"what {step} will do, in words of its plan"} for step in steps]
    return Event("plan", "planned", whole(hosts), data={**outline, "steps": steps_})


def whole(hosts: list[str]) -> str:
    return hosts[0] if len(hosts) == 1 else f"{len(hosts)} hosts"


def counts(old: int, new: int, failed: int = 0, **more: Any) -> Event:
    told = {"total": old + new + failed, "ok": old + new, "failed": failed, "by_release": {"v2": new, "v1": old}}
    return Event("witness", "counts", "local", data={**told, "probe": "http", **more})


def scene(hosts: list[str], until: str, words: str = "") -> Scene:
    """A deploy that has come to this step, which has gone on for 2 seconds at the time of 10."""
    seen = Scene("deploy v2", 0.0)
    seen.take(planned(hosts), 0.0)
    members = hosts if len(hosts) > 1 else []
    for step in STEPS[: STEPS.index(until)]:
        seen.take(Event(step, "started", whole(hosts)), 1.0)
        for host in members:
            seen.take(Event(step, "started", host), 1.0)
            seen.take(Event(step, "done", host, 0.98), 2.0)
        seen.take(Event(step, "done", whole(hosts), 1.23, f"{step} was done"), 2.0)
    seen.take(Event(until, "started", whole(hosts)), 8.0)
    for host in members:
        seen.take(Event(until, "started", host), 8.0)
    if words:
        seen.take(Event(until, "progress", whole(hosts), detail=words), 9.0)
    return seen


def text(seen: Scene, width: int = 80, height: int = 40, now: float = 10.0) -> list[str]:
    return [line.plain for line in draw(seen, width, height, now)]


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}], ids=["colours", "no colours"])
@pytest.mark.parametrize("hosts", [ONE, THREE], ids=["one host", "three hosts"])
@pytest.mark.parametrize("width", WIDTHS)
def test_at_every_width_steps_times_shares_and_counts_are_seen(
    width: int, hosts: list[str], environment: dict[str, str]
) -> None:
    seen = scene(hosts, "bake", "nothing went wrong so far")
    seen.take(counts(100, 0), 9.0)
    seen.take(counts(130, 90, failed=1), 9.5)
    console = RichConsole(
        file=io.StringIO(),
        force_terminal=True,
        width=width,
        record=True,
        highlight=False,
        _environ={"TERM": "xterm-256color", **environment},
    )
    for line in draw(seen, width - 1, 40, 10.0):
        console.print(line)
    assert isinstance(console.file, io.StringIO)
    styled, shown = console.file.getvalue(), console.export_text()
    lines = shown.splitlines()
    assert max(len(line) for line in lines) < width, "nothing is folded, and nothing stands at the edge"
    assert all(line == line.rstrip() for line in lines)
    assert "deploy v1 → v2" in lines[0]
    assert "bake" in shown
    assert "2.0 s" in shown, "which has been under way for so long"
    assert re.search(r"v1 +━+─+ +25%$", shown, re.MULTILINE)
    assert re.search(r"v2 +━+─+ +75%$", shown, re.MULTILINE)
    assert "221 requests, 1 failed" in shown
    assert bool(COLOUR.search(styled)) is not bool(environment)
    for host in hosts:
        assert host in shown
    for step in STEPS:
        assert re.search(rf"^  . {step}\b", shown, re.MULTILINE), step
    assert shown.count("1.2 s") == STEPS.index("bake")
    assert shown.count("✓ 1.0 s") == (3 * STEPS.index("bake") if hosts == THREE and width > 40 else 0)


def test_a_step_under_way_says_what_it_is_at_and_one_to_come_what_it_will_do() -> None:
    seen = scene(ONE, "pull")
    line = next(line for line in text(seen) if "pull" in line)
    assert "what pull will do" in line, "while nothing else is known of it"
    seen.take(Event("pull", "counts", "local", data=LAYERS), 9.0)
    assert "3 of 7 layers, 12.4 of 48.0 MB" in "\n".join(text(seen))
    seen.take(Event("pull", "done", "local", 3.0, "v2 is here\nand more"), 10.0)
    assert re.search(r"✓ pull +3.0 s  v2 is here$", "\n".join(text(seen)), re.MULTILINE)
    assert re.search(r"^    start +what start will do, in words of its plan$", "\n".join(text(seen)), re.MULTILINE)


def test_tries_of_a_probe_are_counted() -> None:
    seen = scene(ONE, "probe")
    seen.take(Event("probe", "counts", "local", data=REFUSED), 9.0)
    assert "try 7: /version: Connection refused" in "\n".join(text(seen))
    seen.take(Event("probe", "counts", "local", data={**REFUSED, "in_a_row": 2, "reason": ""}), 9.0)
    assert "try 7: 2 of 3 right in a row" in "\n".join(text(seen))


def test_shares_are_those_of_the_last_moments() -> None:
    seen = scene(ONE, "switch")
    for moment, (old, new) in enumerate([(100, 0), (104, 1), (104, 6), (104, 11), (104, 16), (104, 21)]):
        seen.take(counts(old, new), moment * 0.5)
        if moment == 0:
            assert seen.shares() == {"v1": 1.0, "v2": 0.0}
    assert seen.shares() == {"v1": 0.0, "v2": 1.0}
    seen.take(counts(104, 21), 60.0)
    seen.take(counts(104, 21), 61.0)
    assert seen.shares()["v2"] == pytest.approx(21 / 125), "of all, where nobody has answered in the last moments"


def test_where_connections_do_not_tell_who_took_them_there_are_no_shares() -> None:
    seen = scene(ONE, "bake")
    seen.take(counts(0, 0, probe="tcp", total=30, by_release={"v1": 0, "v2": 0, "unknown": 30}), 9.0)
    shown = "\n".join(text(seen))
    assert "30 connections, 0 not accepted" in shown
    assert "%" not in shown


def test_a_run_that_is_undone_shows_what_failed_and_what_was_put_back() -> None:
    seen = scene(ONE, "bake")
    seen.take(Event("bake", "failed", "local", 2.0, "v2 does not answer right any more\nits last lines"), 10.0)
    assert any(line.startswith("    drain") for line in text(seen)), "it may be a step after the commit that failed"
    seen.take(Event("switch", "undone", "local", 3.1, "blue (v1) is in use again"), 13.0)
    seen.take(Event("start", "undo-failed", "local", 0.1, "it can't be removed"), 13.0)
    lines = text(seen)
    assert re.fullmatch(r"  ✗ bake +2.0 s  v2 does not answer right any more", lines[-3])
    assert re.fullmatch(r"  ↩ switch +3.1 s  blue \(v1\) is in use again", lines[-2])
    assert re.fullmatch(r"  ✗ start +0.1 s  it can't be removed", lines[-1])
    assert not any("drain" in line for line in lines), "what will not be done any more"


def test_what_is_no_step_is_shown_until_something_else_is_said_of_it() -> None:
    seen = Scene("deploy v2", 0.0)
    seen.take(Event("lock", "progress", "local", detail="waiting for ann@laptop"), 1.0)
    seen.take(Event("gitlab", "progress", "local", detail="it does not answer"), 1.0)
    assert "    lock                  waiting for ann@laptop" in text(seen)
    seen.take(Event("recover", "started", "local", detail="the run r0 ended before its commit"), 2.0)
    assert re.search(r"recover +8.0 s  the run r0 ended", "\n".join(text(seen)))
    seen.take(planned(), 3.0)
    shown = "\n".join(text(seen))
    assert "waiting for" not in shown, "the lock is had"
    assert "it does not answer" in shown
    assert shown.index("recover") < shown.index("start")


def test_hosts_stand_side_by_side_with_what_each_is_at_below() -> None:
    seen = scene(THREE, "probe", "waiting for all")
    for host in ("app-1", "app-3"):
        seen.take(Event("probe", "counts", host, data=REFUSED), 9.0)
    seen.take(Event("probe", "done", "app-2", 1.5, "ready"), 9.5)
    lines = text(seen, 79)
    assert "on 3 hosts" in lines[0]
    assert lines[1].split() == THREE
    row = next(line for line in lines if " probe " in line[:14])
    assert (row.index("1.5 s"), row.rindex("2.0 s")) == (lines[1].index("app-2") + 2, lines[1].index("app-3") + 2)
    below = [line.split(maxsplit=1) for line in lines[-4:]]
    assert below[0] == ["probe", "waiting for all"]
    assert [below[1], below[3]] == [[host, "try 7: /version: Connection refused"] for host in ("app-1", "app-3")]
    seen.take(Event("probe", "done", "3 hosts", 2.5, "ready after 20 tries"), 10.5)
    assert "try 7" not in "\n".join(text(seen, 79)), "what ends for all ends for each"
    assert next(line for line in text(seen, 79) if "probe" in line).count("✓") == 4
    seen.take(Event("switch", "failed", "3 hosts", 2.5, "app-2 does not take it\nthe proxy's words"), 10.5)
    assert next(line for line in text(seen, 79) if "  ✗ switch" in line).count("✗") == 1
    seen.take(Event("start", "undone", "app-1", 0.1, "removed shop-green-1"), 10.0)
    assert text(seen, 79)[-3].endswith("app-1: removed shop-green-1")
    assert text(seen, 79)[-1] == "    switch      app-2 does not take it"


def test_a_host_that_tells_of_itself_only_by_its_tries_is_seen_too() -> None:
    seen = Scene("deploy v2", 0.0)
    seen.take(planned(THREE), 0.0)
    seen.take(Event("probe", "started", "3 hosts"), 1.0)
    seen.take(Event("probe", "counts", "app-2", data=REFUSED), 2.0)
    assert re.search(r"^    app-2 +try 7: /version", "\n".join(text(seen)), re.MULTILINE)
    narrow = "\n".join(text(seen, 50))
    assert re.search(r"^    app-2 +. +9.0 s  try 7: /vers", narrow, re.MULTILINE), "one below the other"


@pytest.mark.parametrize("height", [4, 5, 8, 12])
@pytest.mark.parametrize("hosts", [ONE, THREE])
def test_a_low_terminal_shows_what_matters_most(height: int, hosts: list[str]) -> None:
    seen = scene(hosts, "bake")
    seen.take(counts(10, 0), 9.0)
    lines = text(seen, 80, height)
    assert len(lines) <= height
    assert "deploy v1 → v2" in lines[0]
    assert any("bake" in line for line in lines)
    assert "10 requests" in lines[-1]


def test_nothing_that_a_terminal_acts_on_is_drawn() -> None:
    seen = Scene("deploy v2", 0.0)
    seen.take(planned(steps=["start", "probe"]), 0.0)
    seen.take(Event("start", "started", "local"), 1.0)
    seen.take(Event("start", "progress", "local", detail="\x1b[2Jgone\x07\tand so on"), 1.0)
    seen.take(Event("probe", "started", "local", detail="\x1b]0;title\x07x"), 1.0)
    seen.take(Event("probe", "counts", "local", data={**REFUSED, "reason": "\x1b[31mred"}), 1.0)
    assert not set("\n".join(text(seen))) & set("\x1b\x07\t")


@pytest.fixture(autouse=True)
def _capable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_a_view_is_drawn_in_its_place_and_gone_when_it_ends() -> None:
    with pseudo_terminal() as screen:
        view = View("deploy v2")
        with contextlib.ExitStack() as ending:
            view.start()
            ending.callback(view.stop)
            view.event(planned())
            view.event(Event("start", "started", "local"))
            screen.until("what probe will do")
            view.event(Event("start", "done", "local", 1.23, "shop-green-1"))
            screen.until("1.2 s  shop-green-1")
        drawn = screen.until(BACK)
        assert drawn.count("\x1b[?25l") == 1, "the cursor is hidden once"
        assert "\x1b[2J" not in drawn, "no clearing of the screen, which would flicker"
        assert "\x1b[?1049" not in drawn
        assert screen.shown() == [""]


def test_a_view_that_was_told_nonsense_ends_and_its_run_does_not() -> None:
    with pseudo_terminal() as screen:
        view = View("deploy v2")
        view.start()
        view.event(Event("plan", "planned", "local"))
        view.event(Event("start", "started", "local"))
        view.stop()
        screen.until(BACK)


def test_what_a_signal_raises_in_the_middle_of_a_view_is_the_runs() -> None:
    class Interrupting(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise Interrupted("interrupted by SIGINT")

    with pseudo_terminal(), pytest.raises(Interrupted):
        View("deploy v2").event(Event("plan", "planned", "local", data=Interrupting()))


def test_a_block_takes_the_place_of_the_one_before_and_is_kept_if_wanted() -> None:
    with pseudo_terminal() as screen:
        block = Block()
        block.start()
        block.show(["one", "two", "x" * 200])
        block.show(["three"])
        block.show([f"line {number}" for number in range(50)])
        screen.until("line 22")
        assert len(screen.shown()) == 23, "as many as there is room for"
        block.show(["four", "five"])
        block.stop(keep=True)
        screen.until(BACK)
        assert screen.shown() == ["four", "five", ""]


def test_rich_is_loaded_for_nothing_but_a_terminal() -> None:
    program = """
import sys
from bluegreen import cli, service
from bluegreen.console import Console
from bluegreen.model import Event
for as_json in (False, True):
    console = Console(as_json=as_json)
    with console.watching("deploy v2"):
        console.event(Event("start", "started"))
print("rich" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False"
