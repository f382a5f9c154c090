"""Faults around a run, on a host in memory: those that take too long on a real one, or can't be made there."""

from __future__ import annotations

import itertools
import re
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo

import pytest
import requests
from fakes import Crash, World
from test_engine import JOBS, OPTIONS, Job, _no_engine_and_no_waiting, a_world, at, every_job, quiet, raising, service
from test_engine import live as live_in
from test_engine import served as served_in

from bluegreen.engine import PATIENCE
from bluegreen.errors import BluegreenError, Failed, NeedsPerson
from bluegreen.model import Event
from bluegreen.runtimes import connect as connecting

__all__ = ["_no_engine_and_no_waiting"]

BACK, FORTH = timedelta(hours=-1), timedelta(days=400)


def jumping(step: timedelta) -> type[datetime]:
    """A wall clock that jumps by so much whenever somebody looks at it."""
    looks = itertools.count()

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Jumping:
            then = datetime(2024, 5, 1, 12, tzinfo=UTC) + next(looks) * step
            return cls.fromisoformat(then.isoformat())

    return Jumping


@pytest.fixture(params=[BACK, FORTH], ids=["back", "forth"])
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock jumps all the time."""
    clock = jumping(request.param)
    for module in ("flow", "steps", "lock"):
        monkeypatch.setattr(f"bluegreen.{module}.datetime", clock)
    monkeypatch.setattr(time, "time", lambda: clock.now().timestamp())


@every_job
def test_a_wall_clock_that_jumps_changes_nothing_in_a_run(job: Job, clock: None) -> None:
    world = job.world()
    receipt = job.go(world)
    assert (receipt["result"], receipt["to"]) == ("done", job.new)
    assert served_in(world) == live_in(world) == job.new


def test_what_came_last_is_known_by_number_when_the_clock_has_jumped(clock: None) -> None:
    world = a_world("v1", "v2", "v3")
    assert world.proxy
    assert world.proxy["shop"].record.number == 3
    assert service(world).rollback(None, OPTIONS, quiet)["to"] == "v2"
    assert service(world).rollback(None, OPTIONS, quiet)["to"] == "v1"
    assert world.proxy["shop"].record.number == 5


def test_a_run_that_was_killed_is_taken_up_whatever_the_clock_says_then(clock: None) -> None:
    job = JOBS[2]
    verify = job.points().index("get")
    world = job.world()
    world.at = at(verify, raising(Crash()))
    with pytest.raises(Crash):
        job.go(world)
    world.at = lambda number, name: None
    receipt = service(world).deploy("v3", OPTIONS, quiet)
    assert (receipt["from"], receipt["to"]) == ("v1", "v3")


def away(
    world: World, monkeypatch: pytest.MonkeyPatch, until: Callable[[], bool], moment: str = "get"
) -> Callable[[int, str], None]:
    """The engine goes away at a moment, by default when the new release is verified, until one that is asked for
    whenever it is asked."""
    gone = False

    def act(number: int, name: str) -> None:
        nonlocal gone
        gone = gone or name == moment
        if gone and not until():
            raise BluegreenError("the engine is gone")

    monkeypatch.setattr("fakes.FakeRuntime.answers", lambda self: not gone or until())
    return act


@pytest.mark.parametrize("moment", ["start", "get"])
def test_a_run_waits_for_its_engine_and_is_then_undone(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    world = a_world("v1")
    before, back, told = world.truth("shop"), time.monotonic() + PATIENCE / 2, list[Event]()
    world.at = away(world, monkeypatch, lambda: time.monotonic() > back, moment)
    with pytest.raises(BluegreenError, match="the engine is gone") as caught:
        service(world).deploy("v2", OPTIONS, told.append)
    assert (caught.value.exit_code, caught.value.message) == (1, "the engine is gone\nv1 still serves")
    assert world.truth("shop") == before
    assert [event.step for event in told if "does not answer: waiting for it, 60 s at most" in event.detail] == ["undo"]


def test_what_is_not_undone_at_once_is_told_with_why_and_tried_again() -> None:
    world, told, answers, removals = a_world("v1"), list[Event](), itertools.count(), itertools.count()

    def act(number: int, name: str) -> None:
        if name == "get" and next(answers) == 0:
            raise Failed("not ready")
        if name == "remove" and next(removals) < 3:
            raise requests.ConnectionError("the swarm has no leader")

    world.at = act
    with pytest.raises(Failed, match="not ready"):
        service(world).deploy("v2", OPTIONS, told.append)
    words = [event.detail for event in told if event.state == "progress" and "not undone" in event.detail]
    assert words == ["not undone yet: the swarm has no leader; trying again"]
    assert {each.release.name for each in world.standing("shop")} == {"v1"}


def test_an_engine_that_stays_away_needs_a_person_and_the_next_command_takes_the_run_up() -> None:
    world = a_world("v1")
    with pytest.MonkeyPatch.context() as patch:
        world.at = away(world, patch, lambda: False)
        with pytest.raises(NeedsPerson, match="could not be undone") as caught:
            service(world).deploy("v2", OPTIONS, quiet)
    assert caught.value.receipt
    assert caught.value.receipt["result"] == "failed"
    world.at = lambda number, name: None
    assert service(world).status()["unfinished"]
    assert service(world).rollback(None, OPTIONS, quiet)["to"] == "v1"
    assert served_in(world) == live_in(world) == "v1"
    assert [each.release.name for each in world.standing("shop")] == ["v1", "v1"]


def test_the_new_release_runs_on_while_the_proxy_that_may_send_to_it_is_down() -> None:
    world = a_world("v1")

    def act(number: int, name: str) -> None:
        if name == "get":
            world.proxy_running = False
            raise Failed("the proxy is gone")
        if name == "boot" and not world.proxy_running:
            raise Failed("nginx on this host does not run")

    world.at = act
    with pytest.raises(NeedsPerson, match="still carries the traffic, so it runs on"):
        service(world).deploy("v2", OPTIONS, quiet)
    assert {each.release.name for each in world.standing("shop")} == {"v1", "v2"}


def test_an_engine_that_takes_connections_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # this one waits in earnest, and not for long
    monkeypatch.setattr(connecting, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("DOCKER_HOST", address)
        with pytest.raises(BluegreenError, match=re.escape(f"no Docker engine answers at {address}")) as caught:
            connecting.connect()
    assert (caught.value.exit_code, caught.value.hint) == (1, "is it running? try: docker info")
