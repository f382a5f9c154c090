"""The shapes that programs rely on: of the receipt, and of `status --json`."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fakes import Clock, FakeLock, FakeProxy, FakeRuntime, World, quick_settings

from bluegreen.errors import BluegreenError
from bluegreen.model import Colour, Event, Plan, Release
from bluegreen.proxies.agent import Answer
from bluegreen.receipt import Start, receipt
from bluegreen.service import Options, Service
from bluegreen.witness import Answer as Sent
from bluegreen.witness import Witness

PLAN = Plan("deploy", Release("v2"), Colour.GREEN, "shop:v2", Colour.BLUE, Release("v1"), (), 2)
REQUESTS = {"total", "ok", "failed", "by_release", "failures"}
FIGURES = {"p50", "p99", "max"}


def in_shape(made: dict[str, Any]) -> dict[str, Any]:
    """The receipt, which has every field that is promised."""
    assert set(made) >= {"service", "run", "action", "from", "to", "result"}
    assert set(made) >= {"requests", "latency_ms", "switch", "steps"}
    assert set(made) >= {"started", "seconds", "who", "image", "digest", "colours", "proxy", "series"}
    assert made["result"] in ("done", "undone", "unchanged", "failed")
    assert set(made["requests"]) >= REQUESTS
    assert set(made["latency_ms"]) == {"before", "during", "after"}
    assert all(set(figures) >= FIGURES for figures in made["latency_ms"].values())
    assert set(made["switch"]) >= {"at", "first_new_ms", "last_old_ms"}
    assert made["bake"] is None or set(made["bake"]) >= {"seconds", "limits", "old", "new", "decided"}
    assert all(set(step) >= {"step", "host", "state", "at", "seconds", "detail"} for step in made["steps"])
    assert json.loads(json.dumps(made)) == made
    return made


def witness() -> Witness:
    return Witness(
        "http://127.0.0.1:9",
        "/version",
        host=None,
        expected={"v1": "version 1", "v2": "version 2"},
        rate=1,
        connections=1,
        timeout=1,
    )


@pytest.mark.parametrize("watched", [True, False])
def test_a_receipt_has_its_shape_with_a_witness_and_without(watched: bool) -> None:
    made = in_shape(receipt("shop", "run-1", PLAN, "done", [], witness=witness() if watched else None))
    assert made["witness"] is watched
    assert (made["requests"]["total"], made["requests"]["failed"], made["requests"]["failures"]) == (0, 0, [])
    assert (made["service"], made["run"], made["action"], made["from"], made["to"]) == (
        "shop",
        "run-1",
        "deploy",
        "v1",
        "v2",
    )


def test_the_steps_of_a_receipt_are_how_each_step_ended() -> None:
    events = [
        Event("start", "started", "local"),
        Event("start", "progress", "local", detail="pulling"),
        Event("start", "done", "local", 1.23456, "shop-green-1", at=2.3456),
        Event("probe", "failed", "local", 0.5, "not ready"),
        Event("start", "undone", "local", 0.25, "removed shop-green-1"),
    ]
    made = in_shape(receipt("shop", "run-1", PLAN, "undone", events, reason="not ready"))
    assert made["steps"][0] == {
        "step": "start",
        "host": "local",
        "state": "done",
        "at": 2.346,
        "seconds": 1.235,
        "detail": "shop-green-1",
    }
    assert [step["state"] for step in made["steps"]] == ["done", "failed", "undone"]
    assert made["reason"] == "not ready"


def test_a_receipt_says_when_and_by_whom_the_run_was_begun_and_what_it_took_live() -> None:
    start = Start(time.monotonic() - 60, datetime(2026, 5, 1, 12, 0, 3, 250_000, UTC), "ann@laptop, process 7")
    proxy = {"kind": "nginx", "version": "1.26.3", "url": "http://127.0.0.1:8080", "switch": "live"}
    built = Release("v2", "sha256:built")
    made = in_shape(receipt("shop", "run-1", PLAN, "done", [], start=start, release=built, proxy=proxy))
    assert (made["started"], made["who"]) == ("2026-05-01T12:00:03.250+00:00", "ann@laptop, process 7")
    assert made["seconds"] >= 60
    assert (made["image"], made["digest"]) == ("shop:v2", "sha256:built")
    assert made["colours"] == {"from": "blue", "to": "green"}
    assert made["proxy"] == proxy
    assert made["series"] is None, "nobody watched"
    watched = witness()
    watched._tally.add(Sent(start.clock + 4, 0.001, "fresh", 200, "version 1", ""), "v1", "")
    made = in_shape(receipt("shop", "run-1", PLAN, "done", [], start=start, witness=watched))
    assert made["series"]["run"]["begins"] == 4


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr("bluegreen.service.Lock", lambda *_: FakeLock())
    world = World().has("v1", "v2")
    world.add_image("nginx:stable", "sha256:proxy")
    return world


SETTINGS = quick_settings(retire={"old": "standby"})


def service(world: World) -> Service:
    return Service(SETTINGS, None, FakeRuntime(world, SETTINGS), FakeProxy(world, SETTINGS))


def deploy(world: World, release: str) -> dict[str, Any]:
    return in_shape(service(world).deploy(release, Options(witness=False), lambda event: None))


def status(world: World) -> dict[str, Any]:
    """The status, which has every field that is promised."""
    found = service(world).status()
    assert set(found) >= {"service", "live", "standby", "rollback", "proxy", "hosts"}
    for role in ("live", "standby"):
        if found[role] is not None:
            assert set(found[role]) >= {"colour", "release", "image", "digest", "since", "replicas"}
            assert set(found[role]["replicas"]) >= {"running", "wanted"}
    assert set(found["rollback"]) >= {"release", "ready", "how", "why"}
    assert found["rollback"]["how"] in (None, "standby", "image", "registry")
    assert set(found["proxy"]) >= {"kind", "version", "address", "switch"}
    assert found["proxy"]["address"] == "http://127.0.0.1:8080"
    assert isinstance(found["hosts"], list)
    assert json.loads(json.dumps(found)) == found
    return found


def test_readme_names_every_field_of_a_status(world: World) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    table = readme.partition("## The status as data")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(status(world))


def test_the_status_of_nothing(world: World) -> None:
    found = status(world)
    assert (found["service"], found["live"], found["standby"]) == ("shop", None, None)
    assert found["rollback"] == {"release": None, "ready": False, "how": None, "why": "nothing is live"}


def test_the_status_of_a_first_release(world: World) -> None:
    made = deploy(world, "v1")
    found = status(world)
    assert (made["from"], made["to"], made["result"]) == (None, "v1", "done")
    live = found["live"]
    assert (live["colour"], live["release"], live["image"], live["digest"]) == ("blue", "v1", "shop:v1", "sha256:v1")
    assert live["replicas"] == {"running": 1, "wanted": 1}
    assert found["standby"] is None
    assert (found["rollback"]["ready"], found["rollback"]["why"]) == (False, "v1 has no release before it")


def test_the_status_with_a_standby_without_it_and_without_its_image(world: World) -> None:
    deploy(world, "v1")
    deploy(world, "v2")
    found = status(world)
    assert (found["live"]["release"], found["standby"]["release"]) == ("v2", "v1")
    rollback = found["rollback"]
    assert (rollback["release"], rollback["ready"], rollback["how"]) == ("v1", True, "standby")
    del world.containers["shop-blue-1"]
    rollback = status(world)["rollback"]
    assert (rollback["release"], rollback["ready"], rollback["how"]) == ("v1", True, "image")
    del world.images["sha256:v1"]
    rollback = status(world)["rollback"]
    assert (rollback["release"], rollback["ready"], rollback["how"]) == ("v1", False, None)
    assert "is gone" in rollback["why"]


def test_the_time_since_which_a_release_is_live_is_that_of_its_switch(world: World) -> None:
    deploy(world, "v1")
    since = status(world)["live"]["since"]
    assert since.startswith("20")
    assert since != "2024-05-01T12:00:00Z", "which is when its container was made"


def test_the_receipts_of_what_was_not_done(world: World) -> None:
    deploy(world, "v1")
    unchanged = deploy(world, "v1")
    assert (unchanged["result"], unchanged["steps"], unchanged["reason"]) == ("unchanged", [], "v1 is live already")
    world.answers["v2"] = lambda: Answer(500, "")
    with pytest.raises(BluegreenError) as caught:
        deploy(world, "v2")
    assert caught.value.receipt
    undone = in_shape(caught.value.receipt)
    assert (undone["result"], undone["from"], undone["to"]) == ("undone", "v1", "v2")
    assert [step["state"] for step in undone["steps"]] == ["done", "failed", "undone"]
    began = [step["at"] for step in undone["steps"]]
    assert 0 <= began[0] <= began[1] <= began[2]
    assert undone["steps"][1]["at"] + undone["steps"][1]["seconds"] <= undone["seconds"] + 0.01
    assert unchanged["started"] <= undone["started"]
    assert "process" in undone["who"]
    assert (undone["digest"], undone["proxy"]["kind"]) == ("sha256:v2", "nginx")
