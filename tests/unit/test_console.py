"""What a person sees of a run, and what a program does."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from terminal import Reader, pseudo_terminal

from bluegreen.console import Console
from bluegreen.errors import Failed
from bluegreen.model import Colour, Event, Plan, PlannedStep, Release
from bluegreen.receipt import receipt as make_receipt

PLAN = Plan("deploy", Release("v2"), Colour.GREEN, "shop:v2", Colour.BLUE, Release("v1"), (), 2)
STEPS = (PlannedStep("start", "start 1 container of v2 as green"), PlannedStep("switch", "live: all new requests"))
TIME = re.compile(r"^\d\d:\d\d:\d\dZ ", re.MULTILINE)
COUNTS = {"total": 30, "ok": 30, "failed": 0, "by_release": {"v2": 10, "v1": 20}}
LONG = "v2 was not ready after 30 s: /version answered 503 where it should have answered as the new release does"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _nowhere_in_particular(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITLAB_CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


def shown(capsys: Capture) -> str:
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Event("start", "done", "local", 1.234, "shop-green-1"), "  ✓ start       shop-green-1  (1.23 s)\n"),
        (Event("post_deploy", "done", "local", 1.234, "told"), "  ✓ post_deploy told  (1.23 s)\n"),
        (Event("probe", "failed", "local", 0.5, "not ready"), "  ✗ probe       not ready  (0.50 s)\n"),
        (Event("switch", "undone", "local", 0.5, "blue is back"), "  ↩ switch      blue is back  (0.50 s)\n"),
        (Event("probe", "progress", "local", 0.0, "refused"), "    probe       refused\n"),
        (Event("start", "started", "local"), ""),
        (Event("witness", "counts", "local", data={"total": 1}), ""),
        (Event("plan", "planned", "local", data={"steps": []}), ""),
    ],
)
def test_an_event_is_a_line_with_its_time(capsys: Capture, event: Event, line: str) -> None:
    Console().event(event)
    text = shown(capsys)
    assert bool(TIME.match(text)) is bool(line)
    assert TIME.sub("", text) == line


def test_of_several_hosts_each_line_that_is_not_of_all_has_its_own(capsys: Capture) -> None:
    console = Console()
    console.event(Event("plan", "planned", "2 hosts", data={**PLAN.outline(), "hosts": ["app-1", "app-2"]}))
    console.event(Event("start", "started", "2 hosts"))
    console.event(Event("start", "done", "app-1", 0.5))
    console.event(Event("start", "done", "app-2", 0.6, "runs"))
    console.event(Event("start", "done", "2 hosts", 0.7, "all run"))
    assert TIME.sub("", shown(capsys)).splitlines() == [
        "  ✓ start       app-1  (0.50 s)",
        "  ✓ start       app-2: runs  (0.60 s)",
        "  ✓ start       all run  (0.70 s)",
    ]


def a_run(console: Console) -> None:
    console.event(Event("lock", "progress", "local", detail="waiting for ann@laptop"))
    outline = replace(PLAN, steps=STEPS).outline()
    console.event(Event("plan", "planned", "local", data={"run": "r1", **outline, "hosts": ["local"]}))
    console.event(Event("start", "started", "local"))
    console.event(Event("start", "done", "local", 1.234, "shop-green-1"))
    console.event(Event("probe", "started", "local"))
    console.event(Event("probe", "progress", "local", detail="Connection refused"))
    console.event(Event("witness", "counts", "local", data={**COUNTS, "probe": "http"}))
    console.event(Event("probe", "failed", "local", 0.5, f"{LONG}\n  Traceback"))


def on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: int, run: Callable[[Console], None] = a_run, **environment: str
) -> Reader:
    """What a run has left on a terminal of so many columns."""
    for name, value in {"TERM": "xterm-256color", "COLUMNS": str(columns), **environment}.items():
        monkeypatch.setenv(name, value)
    with pseudo_terminal(columns) as screen:
        console = Console()
        with contextlib.suppress(Failed), console.watching("deploy v2"):
            run(console)
        console.line("the end")
        screen.until("the end\r\n")
    return screen


@pytest.mark.parametrize("colours", [True, False])
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_on_a_terminal_the_lines_of_a_run_stay_when_it_has_ended(
    monkeypatch: pytest.MonkeyPatch, columns: int, colours: bool
) -> None:
    screen = on_a_terminal(monkeypatch, columns, **({} if colours else {"NO_COLOR": "1"}))
    lines = screen.shown()
    assert lines[:3] == [
        "    lock        waiting for ann@laptop",
        "  ✓ start       shop-green-1  (1.23 s)",
        "  ✗ probe       " + lines[2][16:],
    ]
    assert lines[-3:] == [" " * 18 + "Traceback", "the end", ""]
    assert " ".join(line.strip() for line in [lines[2][16:], *lines[3:-3]]) == f"{LONG}  (0.50 s)"
    assert all(line.startswith(" " * 16) for line in lines[3:-3]), "folded under itself"
    assert max(map(len, lines)) <= columns
    assert bool(re.search(r"\x1b\[[\d;]*3[0-7]m", screen.written)) is colours
    assert screen.written.rstrip().rpartition("\x1b[?25")[2].startswith("h"), "the cursor is back"


def test_on_a_terminal_that_cannot_be_drawn_on_lines_are_all(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_a_terminal(monkeypatch, 80, TERM="dumb")
    assert "\x1b" not in screen.written
    assert "    probe       Connection refused" in screen.shown()
    assert not TIME.match(screen.written), "a person sees for himself when they come"


def test_however_a_run_ends_the_terminal_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(console: Console) -> None:
        console.event(Event("start", "started", "local"))
        raise Failed("no")

    screen = on_a_terminal(monkeypatch, 80, fails)
    assert screen.shown() == ["the end", ""]
    assert screen.written.rpartition("\x1b[?25")[2].startswith("h")


def test_counts_are_wanted_by_who_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert (Console().wants_counts, Console(as_json=True).wants_counts) == (False, True)
    with pseudo_terminal():
        assert Console().wants_counts
        monkeypatch.setenv("TERM", "dumb")
        assert not Console().wants_counts


def test_in_a_job_of_gitlab_each_step_is_a_section(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("GITLAB_CI", "true")
    console = Console()
    with console.watching("deploy v2"):
        a_run(console)
        console.event(Event("start", "undone", "local", 0.1, "removed shop-green-1"))
        console.event(Event("recover", "started", "local", detail="it never ends"))
    text = shown(capsys)
    marks = re.findall(r"^\x1b\[0Ksection_(start|end):\d{10}:([\w.-]+)\r\x1b\[0K(.*)$", text, re.MULTILINE)
    assert [(which, name.rpartition("_")[2]) for which, name, _ in marks] == [
        *[("start", "start"), ("end", "start"), ("start", "probe"), ("end", "probe")],
        *[("start", "recover"), ("end", "recover")],
    ]
    assert marks[0][2] == "start       start 1 container of v2 as green"
    assert {name for which, name, _ in marks if which == "start"} == {name for _, name, _ in marks}
    inside = re.findall(r"section_start:.*?section_end:", text, re.DOTALL)
    assert "✓ start       shop-green-1" in inside[0]
    assert "Connection refused" in inside[1]
    assert "✗ probe" in inside[1]
    outside = re.sub(r"section_start:.*?section_end:", "", text, flags=re.DOTALL)
    assert "waiting for ann@laptop" in outside
    assert "↩ start       removed" in outside


@pytest.mark.parametrize("environment", [{}, {"GITLAB_CI": "true"}])
def test_json_is_the_same_wherever_it_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    console = Console(as_json=True)
    with console.watching("deploy v2"):
        a_run(console)
    events = [json.loads(line) for line in shown(capsys).splitlines()]
    assert [event["event"] for event in events][:3] == ["progress", "planned", "started"]
    assert [step["step"] for step in events[1]["data"]["steps"]] == ["start", "switch"]
    assert [event["data"]["total"] for event in events if event["event"] == "counts"] == [30]


def test_what_fails_is_told_with_all_its_lines(capsys: Capture) -> None:
    Console().event(Event("probe", "failed", "local", 0.5, "v2 ended\n  Traceback\n  Boom"))
    assert TIME.sub("", shown(capsys)).splitlines() == [
        "  ✗ probe       v2 ended  (0.50 s)",
        " " * 26 + "  Traceback",
        " " * 26 + "  Boom",
    ]


@pytest.mark.parametrize("state", ["progress", "failed", "done", "undo-failed", "leftover", "undone"])
def test_nothing_that_a_terminal_acts_on_is_printed(capsys: Capture, state: str) -> None:
    Console().event(Event("probe", state, "local", 0.0, "\x1b[2Jgone\x07\n\x1b]0;title\x07x\x9b1m"))
    Console().error(Failed("\x1b[2Jgone\x07", hint="\x1b[31mred"))
    captured = capsys.readouterr()
    assert not set(captured.out + captured.err) & set("\x1b\x07\x9b")
    assert "gone" in captured.out
    assert "error: gone" in captured.err
    assert "next: red" in captured.err


def test_a_program_gets_one_object_a_line(capsys: Capture) -> None:
    console = Console(as_json=True)
    console.event(Event("start", "started", "local"))
    console.event(Event("probe", "failed", "local", 0.12345, "two\nlines \x1b[2J", {"output": "its words"}, 2.5))
    console.receipt(make_receipt("shop", "run", PLAN, "done", []))
    console.error(Failed("no", hint="do"))
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert lines[0] == {
        "event": "started",
        "step": "start",
        "host": "local",
        "at": 0.0,
        "seconds": 0.0,
        "detail": "",
        "data": {},
    }
    assert (lines[1]["at"], lines[1]["seconds"], lines[1]["data"]) == (2.5, 0.123, {"output": "its words"})
    assert lines[1]["detail"] == "two\nlines \x1b[2J"
    assert (lines[2]["event"], lines[2]["result"]) == ("receipt", "done")
    assert lines[3] == {"event": "error", "message": "no", "hint": "do", "exit_code": 1}
    assert "\x1b" not in captured.out, "escaped, as JSON does"


def test_a_plan_is_printed_with_its_steps_and_the_config_that_changes(capsys: Capture) -> None:
    Console().plan(replace(PLAN, steps=STEPS, diff="-old\n+new"))
    text = shown(capsys)
    assert "deploy v2 would:" in text
    assert "start 1 container of v2 as green" in text
    assert "  +new" in text
    assert "nothing was changed" in text
    Console().plan(replace(PLAN, steps=STEPS))
    assert "the proxy's config stays as it is" in shown(capsys)
    Console().plan(replace(PLAN, reason="v2 is live already"))
    assert shown(capsys) == "nothing to do: v2 is live already\n"
    Console(as_json=True).plan(replace(PLAN, steps=STEPS))
    assert json.loads(shown(capsys))["steps"][0]["step"] == "start"


def receipt_of(**changes: Any) -> dict[str, Any]:
    return {**make_receipt("shop", "run", PLAN, "done", []), **changes}


def test_a_receipt_says_what_the_users_saw(capsys: Capture) -> None:
    figures = {"p50": 1.25, "p99": 3.5, "max": 9.0}
    nothing = {"p50": None, "p99": None, "max": None}
    failure = {"count": 2, "why": "reset on a reused connection", "connection": "kept", "status": 0}
    Console().receipt(
        receipt_of(
            witness=True,
            requests={"total": 50, "ok": 48, "failed": 2, "by_release": {"v1": 30, "v2": 18}, "failures": [failure]},
            latency_ms={"before": figures, "during": figures, "after": nothing},
            switch={"at": "2024-05-01T12:00:00Z", "first_new_ms": 3.2, "last_old_ms": 1.0},
            cut=1,
            leftover=["retire: busy"],
            warnings=["the hook post_deploy failed: x ended with exit code 1\n  its words"],
        )
    )
    text = shown(capsys)
    assert "deploy v1 → v2: done" in text
    assert "50 requests, 2 failed (v1 30, v2 18)" in text
    assert "2 x reset on a reused connection (kept connection)" in text
    assert "before      p50 1.2 ms, p99 3.5 ms, max 9.0 ms" in text
    assert "after" not in text.split("switch")[0]
    assert "first new answer 3 ms after the flip, last old one at 1 ms" in text
    assert "1 requests were still in flight" in text
    assert "leftover    retire: busy; the next run takes it up" in text
    assert "warning     the hook post_deploy failed: x ended with exit code 1; this changes nothing" in text
    assert "its words" not in text, "which were told when it failed"


def test_of_several_hosts_the_first_answers_before_the_last_is_switched(capsys: Capture) -> None:
    switch = {"at": "2024-05-01T12:00:00Z", "first_new_ms": -645.2, "last_old_ms": -792.0}
    requests = {"total": 9, "ok": 9, "failed": 0, "by_release": {"v1": 4, "v2": 5}, "failures": []}
    Console().receipt(receipt_of(witness=True, requests=requests, switch=switch))
    text = shown(capsys)
    assert "first new answer 645 ms before the flip was whole\n" in text, "no old one came after it"


def test_a_receipt_says_how_two_releases_compared(capsys: Capture) -> None:
    old = {"requests": 812, "errors": 0, "error_ratio": 0.0, "p99_ms": 8.1}
    new = {"requests": 640, "errors": 93, "error_ratio": 0.14531, "p99_ms": 9.04}
    Console().receipt(receipt_of(bake={"old": old, "new": new}))
    assert (
        "    bake        v1 0 errors in 812 requests (0.00%), p99 8.1 ms; "
        "v2 93 errors in 640 requests (14.53%), p99 9.0 ms\n"
    ) in shown(capsys)
    unseen = {"requests": None, "errors": None, "error_ratio": None, "p99_ms": None}
    Console().receipt(receipt_of(bake={"old": None, "new": {**unseen, "requests": 0, "errors": 0}}))
    Console().receipt(receipt_of(bake={"old": unseen, "new": {**unseen, "p99_ms": 5.0}}))
    text = shown(capsys)
    assert "    bake        v2 0 errors in 0 requests\n" in text
    assert "    bake        v1 not seen; v2 p99 5.0 ms\n" in text


def test_a_receipt_without_a_witness_says_so(capsys: Capture) -> None:
    Console().receipt(receipt_of())
    assert "    witness     none\n" in shown(capsys)
    Console().receipt(receipt_of(result="unchanged", reason="v2 is live already"))
    assert shown(capsys) == "deploy v1 → v2: unchanged (v2 is live already)\n"
    Console().receipt(receipt_of(**{"from": None}))
    assert "deploy nothing → v2: done" in shown(capsys)


STATUS: dict[str, Any] = {
    "service": "shop",
    "live": {
        "colour": "green",
        "release": "v2",
        "image": "shop:v2",
        "digest": "sha256:0123456789abcdef",
        "since": "2024-05-01T12:00:00Z",
        "replicas": {"running": 2, "wanted": 3},
    },
    "standby": None,
    "rollback": {"release": "v1", "ready": True, "how": "image", "why": "its image is kept"},
    "proxy": {
        "kind": "nginx",
        "version": "1.26.3",
        "address": "http://127.0.0.1:8080",
        "switch": "live",
        "running": True,
        "edits": None,
    },
    "unfinished": None,
    "next": None,
    "lock": None,
    "hosts": [],
    "nodes": [],
}


def test_a_status_says_what_was_left_and_what_the_next_run_will_do(capsys: Capture) -> None:
    Console().status({**STATUS, "unfinished": "r7", "next": "the next deploy or rollback will go back to v1"})
    text = shown(capsys)
    assert "the run r7 ended before its commit" in text
    assert "the next deploy or rollback will go back to v1" in text
    Console().status({**STATUS, "unfinished": "r7", "next": "the next deploy will go back to v1", "lock": "ann"})
    text = shown(capsys)
    assert "the run r7 is under way" in text
    assert "go back" not in text, "it is not over"


def test_a_status_says_what_is_live_and_what_a_rollback_would_do(capsys: Capture) -> None:
    Console().status(STATUS)
    text = shown(capsys)
    assert "shop at http://127.0.0.1:8080 (nginx 1.26.3, switched live)" in text
    assert "v2 (green), 2 of 3 running" in text
    assert "rollback v1 is ready: its image is kept" in text
    assert "standby" not in text


def test_a_status_names_the_nodes_that_are_away_and_a_standby_that_waits_without_a_replica(capsys: Capture) -> None:
    def node(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "manager": False, "answers": True, "availability": "active", **more}

    lost = node("n3", manager=True, answers=False)
    nodes = [node("n1"), node("n2", availability="drain"), lost, {**lost, "name": "n4", "availability": "pause"}]
    waiting = {**STATUS["live"], "release": "v1", "colour": "blue", "replicas": {"running": 0, "wanted": 3}}
    Console().status({**STATUS, "standby": waiting, "nodes": nodes})
    text = shown(capsys)
    assert "  standby  v1 (blue), scaled to none, since" in text
    assert [line.split(None, 1)[1] for line in text.splitlines() if line.startswith("  node")] == [
        "n2 is drained",
        "n3 (manager) does not answer",
        "n4 (manager) does not answer, and is given no new replicas",
    ]


def test_a_status_of_nothing(capsys: Capture) -> None:
    proxy = {**STATUS["proxy"], "running": False}
    rollback = {"release": None, "ready": False, "how": None, "why": "nothing is live"}
    Console().status({**STATUS, "live": None, "proxy": proxy, "rollback": rollback, "unfinished": "r7", "lock": "ann"})
    text = shown(capsys)
    assert "(nginx, not running, switched live)" in text
    assert "live     nothing" in text
    assert "rollback not possible: nothing is live" in text
    assert "the run r7 is under way" in text
    assert "locked by ann" in text


def test_a_status_as_json_is_the_status(capsys: Capture) -> None:
    Console(as_json=True).status(STATUS)
    assert json.loads(shown(capsys)) == STATUS


def test_what_a_person_has_edited_is_shown_by_status_and_plan(capsys: Capture) -> None:
    Console().status({**STATUS, "proxy": {**STATUS["proxy"], "edits": "-old\n+new\x1b[2J"}})
    text = shown(capsys)
    assert "edited   by a person" in text
    assert "-old\n" in text
    assert "+new" in text
    assert "\x1b[2J" not in text
    plan = Plan("deploy", Release("v2"), Colour.GREEN, "shop:v2", None, None, (), 1, (PlannedStep("start", "x"),))
    Console().plan(replace(plan, edits="+new"))
    assert "without --overwrite-edits it is refused:\n  +new" in shown(capsys)
    Console().plan(replace(plan, action="rollback", edits="+new"))
    assert "refused" not in shown(capsys)
