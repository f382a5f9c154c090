"""What the dashboard shows: what was found last and since when, who answers, and what a run tells."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from dashboard_host import FILE, Host
from fakes import Clock, quick_settings
from several import NAMES, hosts_of, in_order

from bluegreen import dashboard as board
from bluegreen.dashboard import ROWS, SECONDS, VARIABLE, Story, Traffic, View, environment
from bluegreen.errors import Failed
from bluegreen.settings import load
from bluegreen.vip import Vip
from bluegreen.witness import FRESH, UNTOLD, Answer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.sleep", clock.sleep)
    monkeypatch.setattr("time.monotonic", clock.monotonic)
    return clock


@pytest.fixture
def host(tmp_path: Path, clock: Clock) -> Host:
    return Host(tmp_path / "bluegreen.toml")


def answer(at: float, body: str = "", why: str = "", seconds: float = 0.01) -> Answer:
    return Answer(at, seconds, FRESH, 0 if why else 200, body, why)


def test_a_look_finds_what_status_says_and_what_stands_in_each_colour(host: Host) -> None:
    view = host.dashboard().view
    assert view.found is None
    host.deploy("v1")
    host.deploy("v2")
    view.look()
    found = view.found
    assert found
    assert (found["live"]["release"], found["rollback"]["release"], found["lock"]) == ("v2", "v1", None)
    (slot,) = found["slots"]
    assert (slot["colour"], slot["release"], slot["role"], slot["running"]) == ("green", "v2", "live", 1)
    assert [(run["action"], run["to"], run["result"]) for run in found["runs"]] == [
        ("deploy", "v2", "done"),
        ("deploy", "v1", "done"),
    ]
    assert json.loads(json.dumps(found)) == found


def test_only_a_change_is_a_new_find(host: Host) -> None:
    view = host.dashboard().view
    host.deploy("v1")
    view.look()
    view.look()
    assert view.number == 1
    host.deploy("v2")
    view.look()
    assert view.number == 2


@pytest.mark.parametrize(
    "trouble", [Failed("the Docker engine does not answer", hint="docker info"), OSError("\x1b[2Jno")]
)
def test_what_was_found_is_kept_and_grows_old_while_nothing_can_be_found(
    host: Host, clock: Clock, trouble: Exception
) -> None:
    view = host.dashboard().view
    host.deploy("v1")
    view.look()
    found, age = view.found, view.age()
    host.trouble = trouble
    clock.sleep(20)
    view.look()
    assert view.found == found
    assert view.age() >= age + 20
    assert "does not answer" in view.error or "OSError" in view.error
    assert "\x1b" not in view.error
    assert view.hint
    host.trouble = None
    view.look()
    assert (view.error, view.hint, view.age() < 1) == ("", "", True)


def test_an_edit_of_the_settings_that_is_wrong_is_told_and_one_that_is_right_is_followed(host: Host) -> None:
    view = host.dashboard().view
    host.config.write_text(FILE.replace("9000", "'x'"))
    view.look()
    assert "app.port" in view.error
    host.config.write_text(FILE + '[proxy]\nurl = "http://127.0.0.1:9999"\n')
    view.look()
    assert view.error == ""
    assert view.settings.proxy.url == "http://127.0.0.1:9999"


def test_the_history_is_read_anew_when_something_was_done_and_else_seldom(host: Host, clock: Clock) -> None:
    view = host.dashboard().view
    host.deploy("v1")
    for _ in range(5):
        view.look()
    assert host.history.read == 1
    host.deploy("v2")
    view.look()
    assert host.history.read == 2
    clock.sleep(board.SLOW_LOOK_EVERY)
    view.look()
    assert host.history.read == 3


def test_a_history_that_is_damaged_stops_nothing(host: Host) -> None:
    host.deploy("v1")
    good = host.history.receipts[0]
    for damage in ({"colours": 7}, {"to": {"a": 1}}, {"colours": {"to": "<b>"}}, {"requests": None}, {"to": None}):
        host.history.receipts.append({**good, **damage})
    host.history.receipts.append(None)
    view = host.dashboard().view
    view.look()
    assert view.error == ""
    assert view.found
    assert len(view.found["runs"]) == 7
    assert view.names() == ({"version 1": "v1"}, {"v1": "blue"})


def test_answers_are_told_apart_by_what_the_releases_are_expected_to_say(host: Host) -> None:
    view = host.dashboard().view
    host.deploy("v1")
    host.deploy("v2")
    view.look()
    assert view.names() == ({"version 1": "v1", "version 2": "v2"}, {"v1": "blue", "v2": "green"})
    host.config.write_text(FILE.replace('body = "version {number}"', ""))
    view.look()
    assert view.names()[0] == {}


def test_traffic_is_counted_by_the_second_and_release() -> None:
    traffic = Traffic()
    for at, body, why in [
        (40.9, "version 1", ""),  # more than a minute ago
        (41.1, "version 1", ""),
        (99.2, "version 1", ""),
        (100.1, "version 2", ""),
        (100.3, "version 2", ""),
        (100.5, "", "refused"),
        (101.0, "version 2", ""),  # of a second that is not over
    ]:
        traffic.add(answer(at, body, why), "http")
    shown = traffic.shown(101.7, {"version 1": "v1", "version 2": "v2"}, {"v1": "blue", "v2": "green"})
    assert shown["releases"] == [
        {"name": "v1", "colour": "blue", "count": 2},
        {"name": "v2", "colour": "green", "count": 2},
    ]
    assert len(shown["bars"]) == SECONDS
    assert shown["bars"][0] == [1, 0, 0]
    assert shown["bars"][-2:] == [[1, 0, 0], [0, 2, 1]]
    assert (shown["failed"], shown["failures"]) == (1, [{"why": "refused", "count": 1}])
    assert shown["p50_ms"] == 10.0


def test_an_answer_that_no_release_is_expected_to_give_stands_for_itself() -> None:
    traffic = Traffic()
    traffic.add(answer(9.1, "<script>\x1b[2J" + "x" * 900), "http")
    traffic.add(answer(9.2, ""), "http")
    traffic.add(answer(9.3, "whatever"), "tcp")
    names = [release["name"] for release in traffic.shown(10.0, {}, {})["releases"]]
    assert names[1:] == ["(empty)", UNTOLD]
    assert len(names[0]) <= 60
    assert "\x1b" not in names[0]
    assert traffic.shown(10.0, {}, {})["releases"][0]["colour"] is None
    assert Traffic().shown(10.0, {}, {})["p50_ms"] is None


def test_traffic_is_bounded() -> None:
    traffic = Traffic()
    for number in range(5000):
        traffic.add(answer(number / 1000, str(number)), "http")
    assert len(traffic.shown(5.0, {}, {})["releases"]) <= board.RATE * (SECONDS + 2)


def test_a_page_is_told_what_it_has_not_seen(host: Host) -> None:
    dashboard = host.dashboard()
    host.deploy("v1")
    dashboard.view.look()
    seen: dict[str, Any] = {}
    first = dashboard.news(seen)
    assert first["state"]["live"]["release"] == "v1"
    second = dashboard.news(seen)
    assert "state" not in second
    assert "action" not in second
    assert second["age"] >= 0
    host.deploy("v2")
    dashboard.view.look()
    assert dashboard.news(seen)["state"]["live"]["release"] == "v2"
    json.dumps(first, allow_nan=False)


def test_nothing_is_asked_while_nobody_looks(host: Host, clock: Clock) -> None:
    dashboard = host.dashboard()
    assert not dashboard.is_watched()
    dashboard.viewers = 1
    assert dashboard.is_watched()
    dashboard.viewers = 0
    clock.sleep(board.LINGER / 2)
    assert dashboard.is_watched()
    clock.sleep(board.LINGER)
    assert not dashboard.is_watched()


def told(**event: Any) -> str:
    return json.dumps({"host": "local", "seconds": 0.0, "detail": "", **event})


def test_a_story_has_a_row_for_each_step_as_it_stands() -> None:
    story = Story()
    story.add(told(event="progress", step="lock", detail="waiting for ann"))
    story.add(told(event="started", step="start"))
    story.add(told(event="progress", step="start", detail="pulling"))
    assert story.told()["steps"][-1] == {
        "step": "start",
        "host": "local",
        "state": "started",
        "seconds": 0.0,
        "detail": "pulling",
    }
    story.add(told(event="started", step="start", host="second"))
    story.add(told(event="failed", step="start", seconds=2.5, detail="it ended\nlast lines"))
    story.add(told(event="undone", step="start", seconds=0.1, detail="removed it"))
    assert [(row["step"], row["host"], row["state"]) for row in story.rows] == [
        ("lock", "local", "progress"),
        ("start", "local", "failed"),
        ("start", "second", "started"),
        ("start", "local", "undone"),
    ]
    story.add(
        json.dumps({"event": "receipt", "run": "r1", "result": "undone", "action": "deploy", "requests": {"total": 1}})
    )
    story.add(json.dumps({"event": "error", "message": "it ended", "hint": "bluegreen logs", "exit_code": 1}))
    found = story.told()
    assert (found["receipt"]["run"], found["receipt"]["result"]) == ("r1", "undone")
    assert found["error"] == {"message": "it ended", "hint": "bluegreen logs"}


@pytest.mark.parametrize(
    "line", ["", "Traceback: \x1b[31moh", "[1]", "7", '{"event": "done"}', "[" * 9000, '{"event": []}']
)
def test_what_is_no_event_is_kept_as_words(line: str) -> None:
    story = Story()
    story.add(line)
    assert story.rows == []
    assert len(story.words) == bool(line)
    assert "\x1b" not in "".join(story.words)


def test_a_story_is_bounded() -> None:
    story = Story()
    for number in range(3 * ROWS):
        story.add(told(event="progress", step="hook", detail=f"{number} " + "x" * 9000))
        story.add(f"words {number} " + "x" * 9000)
    assert len(story.rows) == ROWS
    assert story.rows[0]["detail"].startswith("0 ")
    assert story.rows[-1]["detail"].startswith(f"{3 * ROWS - 1} ")
    assert len(json.dumps(story.told())) < 1_000_000


def test_one_run_is_started_here_at_a_time(host: Host) -> None:
    class UnderWay:
        title, process = "deploy v2", 4711

        def is_running(self) -> bool:
            return True

    dashboard = host.dashboard(allow_actions=True)
    dashboard.action = UnderWay()  # type: ignore[assignment]
    with pytest.raises(Failed, match="deploy v2 is under way, started from this dashboard as process 4711"):
        dashboard.begin("rollback", None)


def test_a_run_is_the_command_that_a_person_would_type(host: Host) -> None:
    dashboard = host.dashboard()
    config = os.fspath(host.config)
    assert dashboard._arguments("deploy", "v2") == ["-c", config, "deploy", "--json", "--", "v2"]
    assert dashboard._arguments("rollback", None, "--plan") == ["-c", config, "rollback", "--json", "--plan"]


def test_a_run_does_not_get_the_token() -> None:
    assert environment({VARIABLE: "secret", "PATH": "/bin"}) == {"PATH": "/bin"}


def test_every_host_is_told_of_also_one_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    in_order(monkeypatch)
    tables: dict[str, Any] = {
        "probe": {"successes": 1},
        "hosts": [{"engine": f"ssh://{name}", "name": name} for name in NAMES],
    }
    hosts = hosts_of(quick_settings(**tables), "v1")
    settings = hosts.settings = quick_settings(**tables, vip={"address": "192.0.2.77", "interface": "eth0"})
    monkeypatch.setattr(Vip, "status", lambda self: {"held": self._client.info()["ID"] == "two"})
    view = View(lambda: settings, lambda _: nullcontext(hosts.service()))
    view.look()
    assert view.error == ""
    assert view.found
    assert [(vip["host"], vip["held"]) for vip in view.found["vips"]] == [
        ("one", False),
        ("two", True),
        ("three", False),
    ]
    hosts.away.add("three")
    view.look()
    assert view.error == ""
    assert [(host["name"], host["live"], bool(host["behind"])) for host in view.found["hosts"]] == [
        ("one", "v1", False),
        ("two", "v1", False),
        ("three", None, True),
    ]


def test_a_view_that_nothing_was_found_of_is_old(host: Host) -> None:
    assert View(lambda: load(host.config), host.open).age() > 100
