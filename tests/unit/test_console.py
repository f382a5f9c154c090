"""What a person sees of a run, and what a program does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from bluegreen.console import Console
from bluegreen.errors import Failed
from bluegreen.model import Colour, Event, Plan, PlannedStep, Release
from bluegreen.receipt import receipt as make_receipt

PLAN = Plan("deploy", Release("v2"), Colour.GREEN, "shop:v2", Colour.BLUE, Release("v1"), (), 2)
STEPS = (PlannedStep("start", "start 1 container of v2 as green"), PlannedStep("switch", "live: all new requests"))
Capture = pytest.CaptureFixture[str]


def shown(capsys: Capture) -> str:
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Event("start", "done", "local", 1.234, "shop-green-1"), "  ✓ start    shop-green-1  (1.23 s)\n"),
        (Event("probe", "failed", "local", 0.5, "not ready"), "  ✗ probe    not ready  (0.50 s)\n"),
        (Event("switch", "undone", "local", 0.5, "blue is back"), "  ↩ switch   blue is back  (0.50 s)\n"),
        (Event("probe", "progress", "local", 0.0, "refused"), "    probe    refused\n"),
        (Event("start", "started", "local"), ""),
    ],
)
def test_an_event_is_a_line(capsys: Capture, event: Event, line: str) -> None:
    Console().event(event)
    assert shown(capsys) == line


def test_what_fails_is_told_with_all_its_lines(capsys: Capture) -> None:
    Console().event(Event("probe", "failed", "local", 0.5, "v2 ended\n  Traceback\n  Boom"))
    first, *rest = shown(capsys).splitlines()
    assert first == "  ✗ probe    v2 ended  (0.50 s)"
    assert [line.strip() for line in rest] == ["Traceback", "Boom"]


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
    console.event(Event("probe", "failed", "local", 0.12345, "two\nlines \x1b[2J"))
    console.receipt(make_receipt("shop", "run", PLAN, "done", []))
    console.error(Failed("no", hint="do"))
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert lines[0] == {"event": "started", "step": "start", "host": "local", "seconds": 0.0, "detail": ""}
    assert (lines[1]["seconds"], lines[1]["detail"]) == (0.123, "two\nlines \x1b[2J")
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
    assert "before   p50 1.2 ms, p99 3.5 ms, max 9.0 ms" in text
    assert "after" not in text.split("switch")[0]
    assert "first new answer 3 ms after the flip, last old one sent 1 ms from it" in text
    assert "1 requests were still in flight" in text
    assert "leftover retire: busy; the next run takes it up" in text
    assert "warning  the hook post_deploy failed: x ended with exit code 1; this changes nothing of the result" in text
    assert "its words" not in text, "which were told when it failed"


def test_a_receipt_says_how_two_releases_compared(capsys: Capture) -> None:
    old = {"requests": 812, "errors": 0, "error_ratio": 0.0, "p99_ms": 8.1}
    new = {"requests": 640, "errors": 93, "error_ratio": 0.14531, "p99_ms": 9.04}
    Console().receipt(receipt_of(bake={"old": old, "new": new}))
    assert (
        "  bake     v1 0 errors in 812 requests (0.00%), p99 8.1 ms; "
        "v2 93 errors in 640 requests (14.53%), p99 9.0 ms\n"
    ) in shown(capsys)
    unseen = {"requests": None, "errors": None, "error_ratio": None, "p99_ms": None}
    Console().receipt(receipt_of(bake={"old": None, "new": {**unseen, "requests": 0, "errors": 0}}))
    Console().receipt(receipt_of(bake={"old": unseen, "new": {**unseen, "p99_ms": 5.0}}))
    text = shown(capsys)
    assert "  bake     v2 0 errors in 0 requests\n" in text
    assert "  bake     v1 not seen; v2 p99 5.0 ms\n" in text


def test_a_receipt_without_a_witness_says_so(capsys: Capture) -> None:
    Console().receipt(receipt_of())
    assert "witness  none" in shown(capsys)
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
