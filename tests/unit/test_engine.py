"""Runs on a host in memory, in which something goes wrong at every point there is."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError
from fakes import Clock, Crash, FakeLock, FakeProxy, FakeRegistry, FakeRuntime, Process, World, quick_settings
from twin import no_warming_up

from bluegreen import doctor
from bluegreen.engine import Interrupts, interrupts
from bluegreen.errors import BluegreenError, Failed, Interrupted, Locked, NeedsPerson, SettingsError
from bluegreen.lock import Holder
from bluegreen.model import Colour, Event
from bluegreen.proxies.agent import AgentError, Answer
from bluegreen.secret import Secrets
from bluegreen.service import Options, Service
from bluegreen.settings import Settings

BLUE, GREEN = Colour.BLUE, Colour.GREEN
QUICK = {"successes": 1}
SETTINGS = quick_settings(app={"replicas": 2}, probe=QUICK)
REGISTRY = quick_settings(app={"replicas": 2}, probe=QUICK, registry={"server": "gitlab.test:8001"})
STANDBY = quick_settings(app={"replicas": 2}, probe=QUICK, retire={"old": "standby"})
HOOKS = quick_settings(
    probe=QUICK,
    hooks={
        name: {"command": f"echo {name} of $BLUEGREEN_RELEASE", "run": "image"}
        for name in ("pre_deploy", "post_switch", "post_deploy")
    },
)
COMPARED = quick_settings(probe=QUICK, bake={"seconds": 1, "max_error_ratio": 0.01})
OPTIONS = Options(witness=False)
lock = FakeLock
REAL_SLEEP, REAL_MONOTONIC = time.sleep, time.monotonic


@pytest.fixture(autouse=True)
def _no_engine_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr("bluegreen.service.Lock", lambda *_: lock())
    no_warming_up(monkeypatch)
    yield
    monkeypatch.undo()


def service(world: World, settings: Settings = SETTINGS) -> Service:
    """The service as a new process sees it."""
    process = Process(world)
    registry: Any = FakeRegistry(world, settings, process) if settings.registry.server else None
    return Service(settings, None, FakeRuntime(world, settings, process), FakeProxy(world, settings, process), registry)


def a_world(*deployed: str, settings: Settings = SETTINGS) -> World:
    """A host on which these releases were deployed, one after the other."""
    world = World().has("v1", "v2", "v3")
    world.add_image(settings.proxy.image, "sha256:proxy")
    for release in deployed:
        assert service(world, settings).deploy(release, OPTIONS, quiet)["result"] == "done"
    world.points.clear()
    return world


def quiet(event: Event) -> None:
    pass


@dataclass
class Job:
    """A run: the host before it, what is called, and what serves before and after."""

    name: str
    deployed: tuple[str, ...]
    run: Callable[[Service], dict[str, Any]]
    old: str | None
    new: str
    settings: Settings = field(default_factory=lambda: SETTINGS)
    _world: World | None = None
    _points: list[str] = field(default_factory=list)

    def world(self) -> World:
        """The host before the run, a new one for each who asks; what was deployed on it is deployed once."""
        self._world = self._world or a_world(*self.deployed, settings=self.settings)
        return self._world.fork()

    def go(self, world: World) -> dict[str, Any]:
        return self.run(service(world, self.settings))

    def points(self) -> list[str]:
        """Every point that the run passes when nothing goes wrong."""
        if not self._points:
            world = self.world()
            assert self.go(world)["result"] == "done"
            self._points = world.points
        return list(self._points)


def deploy(name: str) -> Callable[[Service], dict[str, Any]]:
    return lambda service: service.deploy(name, OPTIONS, quiet)


def rollback(name: str | None = None) -> Callable[[Service], dict[str, Any]]:
    return lambda service: service.rollback(name, OPTIONS, quiet)


JOBS = [
    Job("first deploy", (), deploy("v1"), None, "v1"),
    Job("first deploy with a build", (), deploy("v9"), None, "v9"),
    Job("next deploy", ("v1",), deploy("v2"), "v1", "v2"),
    Job("third deploy", ("v1", "v2"), deploy("v3"), "v2", "v3"),
    Job("deploy that keeps the old", ("v1",), deploy("v2"), "v1", "v2", STANDBY),
    Job("deploy with limits", ("v1",), deploy("v2"), "v1", "v2", COMPARED),
    Job("rollback from image", ("v1", "v2"), rollback(), "v2", "v1"),
    Job("next deploy by way of a registry", ("v1",), deploy("v2"), "v1", "v2", REGISTRY),
    Job("rollback by way of a registry", ("v1", "v2"), rollback(), "v2", "v1", REGISTRY),
    Job("rollback from standby", ("v1", "v2"), rollback(), "v2", "v1", STANDBY),
    Job("first deploy with hooks", (), deploy("v1"), None, "v1", HOOKS),
    Job("next deploy with hooks", ("v1",), deploy("v2"), "v1", "v2", HOOKS),
]
every_job = pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)


class Traffic:
    """A client that asks at every point of a run."""

    def __init__(self, world: World, old: str | None, new: str, then: Callable[[int, str], None]) -> None:
        self._world, self._then = world, then
        self._right = {f"version {name[1:]}" for name in (old, new) if name}
        self._served = old is not None

    def __call__(self, number: int, name: str) -> None:
        if self._served:
            answer = self._world.request("shop")
            assert (answer.status, answer.body in self._right) == (200, True), f"{answer} at {number} {name}"
        self._then(number, name)


def at(number: int, do: Callable[[], None]) -> Callable[[int, str], None]:
    def act(passed: int, name: str) -> None:
        if passed == number:
            do()

    return act


def raising(error: BaseException) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it


def live(world: World) -> str | None:
    world.at = lambda number, name: None
    found = service(world).status()["live"]
    return found["release"] if found else None


def served(world: World) -> str | None:
    answer = world.request("shop") if world.proxy else None
    return f"v{answer.body.removeprefix('version ')}" if answer and answer.status == 200 else None


def settled(world: World) -> None:
    """No run is unfinished, no hook's container stands, and the record agrees with what is served."""
    world.at = lambda number, name: None
    state = service(world)
    assert state.status()["unfinished"] is None
    assert world.one_shots == {}
    carried = (world.proxy or {}).get("shop")
    if carried:
        assert carried.record.committed
        assert carried.record.to_colour is carried.colour


@every_job
def test_a_run_in_which_nothing_goes_wrong(job: Job) -> None:
    world = job.world()
    world.at = Traffic(world, job.old, job.new, lambda number, name: None)
    receipt = job.go(world)
    assert (receipt["result"], receipt["from"], receipt["to"]) == ("done", job.old, job.new)
    assert receipt["leftover"] == []
    assert served(world) == live(world) == job.new
    settled(world)
    kept = {job.new, job.old} if job.settings is STANDBY else {job.new}
    assert {each.release.name for each in world.standing("shop")} == kept
    assert all(each.kept for each in world.standing("shop"))


@pytest.mark.parametrize("kind", [Failed, APIError, RuntimeError])
@every_job
def test_a_failure_at_any_point_before_the_commit_is_undone_and_after_it_takes_nothing_back(
    job: Job, kind: type[Exception]
) -> None:
    points = job.points()
    commit = points.index("commit:end")
    begun = _begins(points)
    for number, name in enumerate(points):
        where = f"{kind.__name__} at {number} ({name})"
        world = job.world()
        before = world.truth("shop")
        world.at = Traffic(world, job.old, job.new, at(number, raising(kind("injected"))))
        if number > commit:
            receipt = job.go(world)
            assert receipt["result"] == "done", where
            if not name.startswith("ended"):  # its trace, which says no more than what is true
                assert "injected" in [*receipt["leftover"], *receipt["warnings"]][0], where
            assert served(world) == live(world) == job.new, where
            continue
        with pytest.raises(BluegreenError if number >= begun else Exception) as caught:
            job.go(world)
        assert "injected" in str(caught.value), where
        assert world.truth("shop") == before, where
        assert served(world) == live(world) == job.old, where
        settled(world)
        if number >= begun:
            error = caught.value
            assert isinstance(error, BluegreenError)
            assert error.exit_code == (5 if kind is RuntimeError else 1), where
            assert error.message.endswith(f"{job.old} still serves" if job.old else "as before"), where
            assert error.receipt, where
            assert error.receipt["result"] == "undone", where
            failed = [step for step in error.receipt["steps"] if step["state"] == "failed"]
            assert len(failed) == (0 if name.startswith(("keep", "commit")) else 1), where


def _begins(points: list[str]) -> int:
    """The number of the first point that belongs to a step."""
    return next(n for n, name in enumerate(points) if name in ("prepare", "build", "get_from", "replicas"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@every_job
def test_an_interrupt_at_any_point_before_the_commit_is_undone_and_after_it_changes_nothing(
    job: Job, number: signal.Signals
) -> None:
    assert threading.current_thread() is threading.main_thread()
    points = job.points()
    commit = points.index("keep")
    for moment, name in enumerate(points):
        where = f"at {moment} ({name})"
        world = job.world()
        before = world.truth("shop")
        world.at = Traffic(world, job.old, job.new, at(moment, lambda: signal.raise_signal(number)))
        if moment >= commit:
            receipt = job.go(world)
            assert (receipt["result"], receipt["leftover"]) == ("done", []), where
            assert served(world) == job.new, where
            continue
        with pytest.raises(Interrupted) as caught:
            job.go(world)
        assert caught.value.exit_code == 130
        assert number.name in caught.value.message
        assert world.truth("shop") == before, where
        assert served(world) == live(world) == job.old, where
        settled(world)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_does_not_stop_the_undo(second: signal.Signals) -> None:
    job = JOBS[2]
    points = job.points()
    verify = points.index("get")

    def twice(number: int, name: str) -> None:
        if number >= verify:
            signal.raise_signal(signal.SIGINT if number == verify else second)

    world = job.world()
    before = world.truth("shop")
    world.at = twice
    with pytest.raises(Interrupted):
        job.go(world)
    assert world.truth("shop") == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_pulls_the_proxys_image_can_be_interrupted(number: signal.Signals) -> None:
    world = World().has("v1")

    def pull(reference: str) -> None:
        signal.raise_signal(number)
        pytest.fail("it was waited for to the end")

    started = service(world)
    started.client = SimpleNamespace(images=SimpleNamespace(pull=pull))
    with pytest.raises(Interrupted):
        started.deploy("v1", OPTIONS, quiet)
    assert world.truth("shop") == World().truth("shop")


def test_signals_go_where_they_went_before_once_a_run_is_over() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interrupts():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_interrupt_that_came_while_it_was_not_wanted_is_told_as_soon_as_it_is() -> None:
    state = Interrupts()
    state.arrive(signal.SIGTERM, None)
    with pytest.raises(Interrupted, match="SIGTERM"):
        state.arm()


@pytest.mark.parametrize("job", [job for job in JOBS if job.old], ids=lambda job: job.name)
def test_an_undo_that_fails_needs_a_person_and_the_others_are_tried_and_traffic_goes_on(job: Job) -> None:
    verify = job.points().index("get")
    world = job.world()
    world.at = at(verify, raising(Failed("verify failed")))
    with pytest.raises(Failed):
        job.go(world)
    undo = [n for n in range(verify + 1, len(world.points)) if not world.points[n].startswith("ended")]
    assert len(undo) > 5
    for number in undo:
        where = f"the undo fails at {number} ({world.points[number]})"
        other = job.world()
        events: list[Event] = []

        def both(passed: int, name: str, number: int = number) -> None:
            if passed == verify:
                raise Failed("verify failed")
            if passed == number:
                raise APIError("undo broke")

        other.at = Traffic(other, job.old, job.new, both)
        started = service(other, job.settings)
        with pytest.raises(NeedsPerson, match="verify failed") as caught:
            job.run(_listening(started, events))
        assert caught.value.exit_code == 5, where
        assert "undo broke" in caught.value.message, where
        assert "still serves" not in caught.value.message, where
        assert caught.value.receipt, where
        assert caught.value.receipt["result"] == "failed", where
        done = [event.step for event in events if event.state == "done" and event.step in ("start", "switch")]
        tried = {event.step for event in events if event.state in ("undone", "undo-failed")}
        assert tried >= set(done), where
        assert served(other) in (job.old, job.new), where


def _listening(service: Service, events: list[Event]) -> Service:
    service.events = events
    return service


def test_the_new_release_is_not_removed_while_it_carries_the_traffic_that_the_old_one_cannot_take() -> None:
    world = a_world("v1")

    def die(number: int, name: str) -> None:
        if name == "get":
            for container in world.standing("shop"):
                if container.release.name == "v1":
                    container.running = False
            raise Failed("verify failed")

    world.at = die
    with pytest.raises(NeedsPerson, match="can't take the traffic back"):
        service(world).deploy("v2", OPTIONS, quiet)
    assert served(world) == "v2"


def test_one_slow_answer_of_the_old_release_does_not_keep_it_from_taking_the_traffic_back() -> None:
    world = a_world("v1")
    missed: list[str] = []

    def miss_one(number: int, name: str) -> None:
        if name == "get":
            missed.append("none yet")
            raise Failed("verify failed")
        if name == "get_from" and missed == ["none yet"]:
            missed.append("this one")
            raise AgentError("no answer within 5 s")

    world.at = miss_one
    with pytest.raises(Failed, match="verify failed"):
        service(world).deploy("v2", OPTIONS, quiet)
    assert missed == ["none yet", "this one"]
    assert served(world) == "v1"


@every_job
def test_a_crash_at_any_point_is_seen_and_mended_by_the_next_run_whichever_that_is(job: Job) -> None:
    points = job.points()
    commit = points.index("commit:end")
    following: list[tuple[str, Callable[[Service], dict[str, Any]]]] = [
        ("the same", deploy(job.new)),
        ("another", deploy("v7")),
    ]
    for number, name in enumerate(points):
        for what, follow in following:
            where = f"crash at {number} ({name}), then {what}"
            world = job.world()
            world.at = Traffic(world, job.old, job.new, at(number, raising(Crash())))
            with pytest.raises(Crash):
                job.go(world)
            after = job.new if number >= commit else job.old
            world.at = Traffic(world, job.old, job.new, lambda number, name: None)
            status = service(world, job.settings).status()
            if job.old:
                assert status["live"], where
            if number >= commit:
                assert status["live"]["release"] == after, where
                assert status["unfinished"] is None, where
            target = job.new if what == "the same" else "v7"
            world.at = Traffic(world, after, target, lambda number, name: None) if after else world.at
            receipt = _converge(world, job, follow)
            assert receipt["result"] in ("done", "unchanged"), where
            assert served(world) == live(world) == target, where
            settled(world)
            _no_orphans(world, job, target, where, unchanged=receipt["result"] == "unchanged")
            if receipt["result"] == "done" and after and after != target:
                assert receipt["from"] == after, where


def _converge(world: World, job: Job, follow: Callable[[Service], dict[str, Any]]) -> dict[str, Any]:
    passing = world.at
    names = {job.old, job.new, "v7"}

    def right(number: int, name: str) -> None:
        if isinstance(passing, Traffic) and passing._served:
            answer = world.request("shop")
            assert answer.status == 200, f"{answer} at {number} {name} of the next run"
            assert f"v{answer.body.removeprefix('version ')}" in names

    world.at = right
    return follow(service(world, job.settings))


def _no_orphans(world: World, job: Job, target: str, where: str, *, unchanged: bool) -> None:
    standing = {each.colour: each for each in world.standing("shop")}
    assert world.proxy
    colour = world.proxy["shop"].colour
    assert standing[colour].release.name == target, where
    others = [each for each in standing.values() if each.colour is not colour]
    # What was live before may stand beside: as standby, or because the crash came between its commit and its removal.
    if others and job.settings is not STANDBY:
        assert unchanged, where
        assert others[0].release.name == job.old, where


@pytest.mark.parametrize("job", [job for job in JOBS if job.old], ids=lambda job: job.name)
def test_a_rollback_after_a_crash_ends_the_run_and_keeps_what_was_live(job: Job) -> None:
    points = job.points()
    commit = points.index("commit:end")
    for number, name in enumerate(points[:commit]):
        world = job.world()
        world.at = at(number, raising(Crash()))
        with pytest.raises(Crash):
            job.go(world)
        world.at = lambda number, name: None
        if not service(world, job.settings).status()["unfinished"]:
            continue
        receipt = service(world, job.settings).rollback(None, OPTIONS, quiet)
        assert (receipt["result"], receipt["to"]) == ("done", job.old), f"crash at {number} ({name})"
        assert "was undone" in receipt["reason"]
        assert served(world) == live(world) == job.old
        settled(world)


@pytest.mark.parametrize("job", [job for job in JOBS if job.old], ids=lambda job: job.name)
def test_a_crash_while_a_crash_is_mended_is_mended_too(job: Job) -> None:
    first = job.points().index("get")
    crashed = job.world()
    crashed.at = at(first, raising(Crash()))
    with pytest.raises(Crash):
        job.go(crashed)
    crashed.at = lambda number, name: None
    start = len(crashed.points)
    job.go(crashed)
    ends = len(crashed.points)
    for number in range(start, ends):
        world = job.world()
        world.at = Traffic(world, job.old, job.new, at(first, raising(Crash())))
        with pytest.raises(Crash):
            job.go(world)
        world.at = Traffic(world, job.old, job.new, at(number, raising(Crash())))
        with pytest.raises(Crash):
            service(world, job.settings).deploy(job.new, OPTIONS, quiet)
        world.at = Traffic(world, job.old, job.new, lambda number, name: None)
        assert service(world, job.settings).deploy(job.new, OPTIONS, quiet)["result"] in ("done", "unchanged")
        assert served(world) == live(world) == job.new
        settled(world)


def crashed_after_the_switch(job: Job) -> World:
    """The job's host, on which its run was killed as it verified."""
    world = job.world()
    world.at = at(job.points().index("get"), raising(Crash()))
    with pytest.raises(Crash):
        job.go(world)
    world.at = lambda number, name: None
    return world


@pytest.mark.parametrize("fate", ["dead", "removed"])
def test_after_a_crash_what_serves_stays_if_what_was_live_before_is_gone(fate: str) -> None:
    world = crashed_after_the_switch(JOBS[2])
    for container in world.standing("shop"):
        if container.release.name == "v1" and fate == "dead":
            container.running = False
        elif container.release.name == "v1":
            del world.containers[container.name]
    status = service(world).status()
    assert status["next"] == "the next deploy or rollback will commit v2, as nothing whole is there to go back to"
    world.at = Traffic(world, "v2", "v3", lambda number, name: None)
    receipt = service(world).deploy("v3", OPTIONS, quiet)
    assert (receipt["result"], receipt["from"]) == ("done", "v2")
    assert receipt["steps"][0]["detail"].startswith("v2 (green) stays live: ")
    assert served(world) == "v3"


def test_a_rollback_after_a_crash_starts_what_was_live_again_if_it_died() -> None:
    world = crashed_after_the_switch(JOBS[3])
    for container in world.standing("shop"):
        container.running = container.release.name == "v3"
    world.at = Traffic(world, "v3", "v2", lambda number, name: None)
    receipt = service(world).rollback(None, OPTIONS, quiet)
    assert (receipt["result"], receipt["to"]) == ("done", "v2")
    assert served(world) == "v2"


def test_a_crash_after_which_neither_release_is_well_needs_a_person_and_changes_nothing() -> None:
    world = crashed_after_the_switch(JOBS[2])
    for container in world.standing("shop"):
        container.running = container.release.name == "v2"
    world.answers["v2"] = lambda: Answer(500, "")
    before = world.truth("shop")
    with pytest.raises(NeedsPerson, match=r"no going back: v1, .*, and v2 does not answer right either"):
        service(world).deploy("v3", OPTIONS, quiet)
    assert world.truth("shop") == before


def test_after_a_crash_before_the_switch_a_deploy_goes_on_though_what_is_live_is_not_well() -> None:
    job = JOBS[2]
    world = job.world()
    world.at = at(job.points().index("start:one"), raising(Crash()))
    with pytest.raises(Crash):
        job.go(world)
    world.at = lambda number, name: None
    for container in world.standing("shop"):
        container.running = False
    receipt = service(world).deploy("v3", OPTIONS, quiet)
    assert (receipt["result"], receipt["from"]) == ("done", "v1")
    assert served(world) == "v3"


def test_after_a_crash_a_deploy_goes_on_when_nothing_runs_any_more() -> None:
    world = crashed_after_the_switch(JOBS[2])
    for container in world.standing("shop"):
        container.running = False
    receipt = service(world).deploy("v3", OPTIONS, quiet)
    assert (receipt["result"], receipt["from"]) == ("done", "v2")
    assert served(world) == "v3"


@pytest.mark.parametrize("released", ["v1", "v2"])
def test_what_a_person_removed_gets_no_successor_in_its_colour_before_that_is_probed(released: str) -> None:
    world = a_world("v1")
    world.containers.clear()
    unproved = []

    def look(number: int, name: str) -> None:
        colour = world.proxy["shop"].colour if world.proxy else None
        unproved.extend(each for each in world.standing("shop") if each.colour is colour and not each.proved)

    world.at = look
    assert service(world).deploy(released, OPTIONS, quiet)["result"] == "done"
    assert unproved == []
    assert served(world) == released


def test_a_deploy_removes_the_images_that_are_too_far_back_and_no_other() -> None:
    few = quick_settings(probe=QUICK, retire={"keep": 1})
    world = a_world("v1", "v2", settings=few)
    world.has("v3", "v8")
    service(world, quick_settings(service="other", probe=QUICK)).deploy("v8", OPTIONS, quiet)
    receipt = service(world, few).deploy("v3", OPTIONS, quiet)
    assert receipt["steps"][-1]["step"] == "prune"
    assert receipt["steps"][-1]["detail"] == "removed shop:v1"
    assert {"shop:v2", "shop:v3", "shop:v8"} <= set(world.images)
    assert "shop:v1" not in world.images


def test_a_deploy_leaves_the_images_that_another_service_may_go_back_to() -> None:
    few = quick_settings(probe=QUICK, retire={"keep": 1})
    world = a_world("v1", "v2", settings=few)
    world.has("v3")
    other = quick_settings(service="other", probe=QUICK)
    for name in ("v1", "v2"):
        service(world, other).deploy(name, OPTIONS, quiet)
    receipt = service(world, few).deploy("v3", OPTIONS, quiet)
    assert receipt["steps"][-1]["detail"] == "nothing to remove"
    assert "shop:v1" in world.images


def test_what_a_failed_cleanup_left_is_taken_up_by_the_next_run() -> None:
    world = a_world("v1")
    world.at = lambda number, name: raising(APIError("the engine is tired"))() if name == "remove" else None
    receipt = None
    job = JOBS[2]
    points = job.points()
    removal = len(points) - 1 - points[::-1].index("remove")
    world.at = at(removal, raising(APIError("the engine is tired")))
    receipt = job.go(world)
    assert receipt["result"] == "done"
    assert receipt["leftover"] == ["retire: APIError: the engine is tired"]
    assert receipt["steps"][-1]["state"] == "leftover"
    assert {each.release.name for each in world.standing("shop")} == {"v1", "v2"}
    world.at = lambda number, name: None
    assert service(world).deploy("v3", OPTIONS, quiet)["leftover"] == []
    assert {each.release.name for each in world.standing("shop")} == {"v3"}


def test_a_rollback_that_ends_a_killed_run_also_removes_what_the_run_before_that_had_left() -> None:
    world = a_world("v1")
    job = JOBS[2]
    removal = len(job.points()) - 1 - job.points()[::-1].index("remove")
    world.at = at(removal, raising(APIError("the engine is tired")))
    assert job.go(world)["leftover"]
    world.at = lambda number, name: raising(Crash())() if name == "start:not-kept" else None
    with pytest.raises(Crash):
        service(world).deploy("v3", OPTIONS, quiet)
    world.at = lambda number, name: None
    assert service(world).rollback(None, OPTIONS, quiet)["to"] == "v2"
    assert {each.release.name for each in world.standing("shop")} == {"v2"}


@pytest.mark.parametrize("checks", range(10))
def test_a_run_whose_lock_is_lost_stops_before_its_next_step(checks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = a_world("v1")
    before = world.truth("shop")
    monkeypatch.setattr("bluegreen.service.Lock", lambda *_: FakeLock(lost_after=checks))
    if checks < 6:
        with pytest.raises(BluegreenError, match="lock on shop was lost"):
            service(world).deploy("v2", OPTIONS, quiet)
        assert world.truth("shop") == before
    else:
        receipt = service(world).deploy("v2", OPTIONS, quiet)
        assert receipt["result"] == "done"
        assert bool(receipt["leftover"]) is (checks < 8)


def test_a_run_that_finds_a_lock_does_nothing_and_names_its_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    world = a_world("v1")
    before = world.truth("shop")
    holder = Holder("ann@laptop, process 7", "deploy v9", "2024-05-01T12:00:00+00:00")
    monkeypatch.setattr("bluegreen.service.Lock", lambda *_: FakeLock(holder))
    with pytest.raises(Locked, match="ann@laptop") as caught:
        service(world).deploy("v2", OPTIONS, quiet)
    assert caught.value.exit_code == 4
    assert world.truth("shop") == before
    assert service(world).status()["lock"] == str(holder)


def test_the_lock_is_released_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    held = FakeLock()
    monkeypatch.setattr("bluegreen.service.Lock", lambda *_: held)
    world = a_world("v1")
    assert not held.held
    world.at = lambda number, name: raising(Failed("no"))() if name == "start" else None
    with pytest.raises(Failed):
        service(world).deploy("v2", OPTIONS, quiet)
    assert not held.held


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(503, "not ready"), "v2 was not ready after 1 s: /version answered 503"),
        (Answer(200, "version 1"), "answered 'version 1', not 'version 2'"),
        (Answer(200, "version 22"), "answered 'version 22', not 'version 2'"),
    ],
)
def test_no_traffic_goes_to_a_release_that_does_not_pass_its_probe(answer: Answer, words: str) -> None:
    world = a_world("v1")
    before = world.truth("shop")
    world.answers["v2"] = lambda: answer
    with pytest.raises(Failed) as caught:
        service(world).deploy("v2", OPTIONS, quiet)
    assert words in caught.value.message
    assert "v2: listening on 9000" in caught.value.message, "the container's last lines"
    assert "switch" not in world.points
    assert world.truth("shop") == before


@pytest.mark.parametrize("lives", [0, 1, 3, 5, 6])
def test_a_release_that_dies_is_seen_at_once_with_its_last_words(lives: int) -> None:
    """At its start, between two probes of one replica, at those of the other, and after the switch."""
    world = a_world("v1")
    before = world.truth("shop")
    world.lives["v2"] = lives
    clock = time.monotonic()
    with pytest.raises(Failed, match=r"v2 ended with exit code 1 \(container shop-green-.\)") as caught:
        service(world, quick_settings(app={"replicas": 2}, bake={"seconds": 5})).deploy("v2", OPTIONS, quiet)
    assert "the last lines of shop-green-" in caught.value.message
    assert time.monotonic() - clock < 1 + 5, "it was not waited for to the end"
    assert world.truth("shop") == before


def test_a_release_that_dies_during_the_bake_is_taken_back() -> None:
    world = a_world("v1")
    before = world.truth("shop")
    settings = quick_settings(bake={"seconds": 5}, app={"replicas": 2})
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        if (event.step, event.state) == ("bake", "started"):
            world.containers["shop-green-2"].end(137)

    with pytest.raises(Failed, match="exit code 137"):
        service(world, settings).deploy("v2", OPTIONS, emit)
    assert [event.step for event in events if event.state == "undone"] == ["switch", "start"]
    assert world.truth("shop") == before
    since = service(world, settings).status()["live"]["since"]
    assert since == "2024-05-01T12:00:00Z", "when its container was made, and not when the other was taken back"


def test_drain_waits_until_nothing_is_in_flight_and_only_then_is_the_old_release_removed() -> None:
    world = a_world("v1")
    world.uploads.append(world.containers["shop-blue-1"].endpoint)
    counted = []

    def end(number: int, name: str) -> None:
        if name == "in_flight":
            counted.append(number)
            assert "shop-blue-1" in world.containers
            if len(counted) == 20:
                world.uploads.clear()

    world.at = end
    receipt = service(world).deploy("v2", OPTIONS, quiet)
    assert (receipt["result"], receipt["cut"]) == ("done", 0)
    assert len(counted) >= 20
    assert "shop-blue-1" not in world.containers


def test_what_is_still_in_flight_at_the_limit_is_counted_in_the_receipt() -> None:
    world = a_world("v1")
    world.uploads.extend([world.containers["shop-blue-1"].endpoint] * 3)
    receipt = service(world).deploy("v2", OPTIONS, quiet)
    assert (receipt["result"], receipt["cut"]) == ("done", 3)


@pytest.mark.parametrize(("settings", "closed"), [(SETTINGS, 2), (STANDBY, 0)], ids=["removed", "standby"])
def test_websockets_are_counted_at_the_switch_and_at_the_old_releases_end(settings: Settings, closed: int) -> None:
    world = a_world("v1", settings=settings)
    world.websockets.extend([world.containers["shop-blue-1"].endpoint] * 3)

    def one_leaves(number: int, name: str) -> None:
        if name == "in_flight" and len(world.websockets) == 3:
            world.websockets.pop()

    world.at = one_leaves
    receipt = service(world, settings).deploy("v2", OPTIONS, quiet)
    assert (receipt["result"], receipt["websockets"]) == ("done", {"open": 3, "closed": closed})
    assert receipt["cut"] == closed


def test_a_proxy_that_is_down_is_started_before_anything_else() -> None:
    world = a_world("v1")
    world.proxy_running = False
    events: list[Event] = []
    receipt = service(world).deploy("v2", OPTIONS, events.append)
    assert receipt["result"] == "done"
    assert (events[0].step, "starting it" in events[0].detail) == ("proxy", True)


def test_nothing_is_left_of_a_service_that_is_taken_down_and_others_stay() -> None:
    world = a_world("v1", settings=STANDBY)
    assert world.proxy is not None
    other = quick_settings(service="other", image={"repository": "shop"})
    assert service(world, other).deploy("v1", OPTIONS, quiet)["result"] == "done"
    service(world, STANDBY).deploy("v2", OPTIONS, quiet)
    gone = service(world, STANDBY).down(quiet, OPTIONS)
    assert len(gone) == 6
    assert world.standing("shop") == []
    assert "shop" not in world.networks
    assert world.request("other").body == "version 1"
    assert service(world, STANDBY).down(quiet, OPTIONS) == []
    service(world, other).down(quiet, OPTIONS)
    assert world.proxy is None


def test_a_reader_who_has_gone_does_not_stop_a_run_or_its_undo() -> None:
    def gone(event: Event) -> None:
        raise BrokenPipeError

    world = a_world("v1")
    assert service(world).deploy("v2", OPTIONS, gone)["result"] == "done"
    before = world.truth("shop")
    world.answers["v3"] = lambda: Answer(500, "")
    with pytest.raises(Failed):
        service(world).deploy("v3", OPTIONS, gone)
    assert world.truth("shop") == before


KEEPING = {"A": {"env": "A"}, "B": {"env": "B", "as": "env"}}


def with_secrets(world: World, given: Callable[[], Secrets], **tables: Any) -> Service:
    settings = quick_settings(app={"secrets": KEEPING}, probe=QUICK, **tables)
    world.add_image(settings.proxy.image, "sha256:proxy")
    runtime = FakeRuntime(world, settings, secrets=given)
    return Service(settings, None, runtime, FakeProxy(world, settings), secrets=given)


def nowhere() -> Secrets:
    raise SettingsError("the app's secrets can't be had")


def test_a_release_that_is_live_runs_anew_with_other_secrets_and_only_then() -> None:
    world = World().has("v1")
    one, other = (lambda value=value: Secrets({"A": value}, {"B": "b"}) for value in (b"1", b"2"))
    assert [with_secrets(world, one).deploy("v1", OPTIONS, quiet)["result"] for _ in range(2)] == ["done", "unchanged"]
    assert with_secrets(world, other).plan_deploy("v1").steps
    assert with_secrets(world, other).deploy("v1", OPTIONS, quiet)["result"] == "done"
    assert with_secrets(world, other).deploy("v1", OPTIONS, quiet)["result"] == "unchanged"
    assert [each.secrets for each in world.standing("shop")] == [other()]


def test_without_its_secrets_nothing_is_started_and_all_that_only_looks_works() -> None:
    world = World().has("v1", "v2")
    given = Secrets({"A": b"1"}, {"B": "b"})
    for release in ("v1", "v2"):
        with_secrets(world, lambda: given).deploy(release, OPTIONS, quiet)
    before = world.truth("shop")
    looking = with_secrets(world, nowhere)
    for run in (lambda: looking.deploy("v2", OPTIONS, quiet), lambda: looking.rollback(None, OPTIONS, quiet)):
        world.points.clear()
        with pytest.raises(SettingsError):
            run()
        assert world.truth("shop") == before
        changes = [point for point in world.points if point.endswith(":end")]
        assert changes == ["begin:end", "remove_one_shots:end", "ended:end"], "nothing was left of hooks"
    assert looking.plan_deploy("v1").steps
    assert "whether its secrets have changed is not known here" in looking.plan_deploy("v2").reason
    assert looking.plan_rollback(None).steps
    assert looking.rollback("v2", OPTIONS, quiet)["result"] == "unchanged"


def test_a_standby_takes_the_traffic_back_where_the_secrets_are_not() -> None:
    world = World().has("v1", "v2")
    for release in ("v1", "v2"):
        with_secrets(world, Secrets, retire={"old": "standby"}).deploy(release, OPTIONS, quiet)
    back = with_secrets(world, nowhere, retire={"old": "standby"}).rollback(None, OPTIONS, quiet)
    assert (back["result"], live(world)) == ("done", "v1")


def test_events_are_told_in_order_and_stand_in_the_receipt() -> None:
    world = a_world("v1")
    events: list[Event] = []
    receipt = service(world).deploy("v2", OPTIONS, events.append)
    steps = ["start", "probe", "switch", "verify", "drain", "retire"]
    assert [event.step for event in events if event.state == "started"] == steps
    assert [event.step for event in events if event.state == "done"] == steps
    assert [(step["step"], step["state"], step["host"]) for step in receipt["steps"]] == [
        (step, "done", "fake") for step in steps
    ]


@every_job
def test_the_plan_that_is_printed_is_the_one_that_runs(job: Job) -> None:
    world = job.world()
    planned = service(world, job.settings)
    plan = planned.plan_rollback(None) if "rollback" in job.name else planned.plan_deploy(job.new)
    before = world.truth("shop")
    receipt = job.go(world)
    assert [step.step for step in plan.steps] == [step["step"] for step in receipt["steps"]]
    assert world.truth("shop") != before or job.settings is STANDBY
    assert bool(plan.diff) is (job.old is None)


def test_the_plan_after_a_crash_says_that_it_is_mended_first() -> None:
    job = JOBS[2]
    world = job.world()
    world.at = at(job.points().index("get"), raising(Crash()))
    with pytest.raises(Crash):
        job.go(world)
    world.at = lambda number, name: None
    before = world.truth("shop")
    plan = service(world).plan_deploy("v2")
    assert world.truth("shop") == before
    receipt = service(world).deploy("v2", OPTIONS, quiet)
    assert [step.step for step in plan.steps] == [step["step"] for step in receipt["steps"]]
    assert plan.steps[0].step == "recover"


# Hooks: in an image, as the fake runtime runs no command here; tests/unit/test_hooks.py runs those


def hooked(**hooks: Any) -> Settings:
    """Settings with these hooks, each a script that runs in the image or a table."""
    in_image = {name: {"command": each, "run": "image"} for name, each in hooks.items() if isinstance(each, str)}
    return quick_settings(probe=QUICK, hooks=hooks | in_image)


def test_hooks_are_called_at_their_moments_and_what_they_say_is_told_and_stands_in_the_receipt() -> None:
    world = a_world("v1", settings=HOOKS)
    world.called.clear()
    events: list[Event] = []
    receipt = service(world, HOOKS).deploy("v2", OPTIONS, events.append)
    assert [step["step"] for step in receipt["steps"]] == [
        "pre_deploy",
        "start",
        "probe",
        "switch",
        "verify",
        "post_switch",
        "drain",
        "retire",
        "post_deploy",
    ]
    told = [event.detail for event in events if event.state == "progress"]
    assert told == ["pre_deploy of v2", "post_switch of v2", "post_deploy of v2"]
    assert receipt["steps"][0]["detail"] == "`echo pre_deploy of $BLUEGREEN_RELEASE` is done\npre_deploy of v2"
    seen = world.called[0].environment
    assert seen == {
        "BLUEGREEN_HOOK": "pre_deploy",
        "BLUEGREEN_SERVICE": "shop",
        "BLUEGREEN_ACTION": "deploy",
        "BLUEGREEN_RUN": receipt["run"],
        "BLUEGREEN_RUNS": receipt["run"],
        "BLUEGREEN_RELEASE": "v2",
        "BLUEGREEN_FROM": "v1",
        "BLUEGREEN_COLOUR": "green",
        "BLUEGREEN_IMAGE": "sha256:v2",
        "BLUEGREEN_URL": "http://127.0.0.1:8080",
    }
    assert {job.image for job in world.called} == {"sha256:v2"}, "the content, and not a tag that may be moved"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo about to fail; exit 3", "ended with exit code 3\n  about to fail"),
        ("sleep 600", "had not ended after 60 s and was ended"),
    ],
)
@pytest.mark.parametrize("hook", ["pre_deploy", "post_switch"])
def test_a_hook_that_fails_before_the_commit_undoes_the_run(hook: str, script: str, words: str) -> None:
    world = a_world("v1")
    before = world.truth("shop")
    settings = hooked(**{hook: script})
    world.at = Traffic(world, "v1", "v2", lambda number, name: None)
    with pytest.raises(Failed) as caught:
        service(world, settings).deploy("v2", OPTIONS, quiet)
    assert caught.value.exit_code == 1
    assert f"the hook {hook} failed: `{script}` {words}" in caught.value.message
    assert caught.value.message.endswith("v1 still serves")
    assert world.truth("shop") == before
    settled(world)


def test_a_hook_that_fails_after_the_commit_is_told_and_takes_nothing_back() -> None:
    world = a_world("v1")
    receipt = service(world, hooked(post_deploy="exit 1")).deploy("v2", OPTIONS, quiet)
    assert (receipt["result"], receipt["leftover"]) == ("done", [])
    assert receipt["warnings"] == ["the hook post_deploy failed: `exit 1` ended with exit code 1"]
    assert (receipt["steps"][-1]["step"], receipt["steps"][-1]["state"]) == ("post_deploy", "failed")
    assert live(world) == served(world) == "v2"


def test_what_a_cleanup_leaves_keeps_no_hook_from_being_called() -> None:
    world = a_world("v1")
    world.at = lambda number, name: raising(APIError("tired"))() if name == "in_flight" else None
    receipt = service(world, hooked(post_deploy="echo told")).deploy("v2", OPTIONS, quiet)
    assert (receipt["result"], receipt["leftover"]) == ("done", ["drain: APIError: tired"])
    assert [job.hook for job in world.called] == ["post_deploy"]
    assert {each.release.name for each in world.standing("shop")} == {"v1", "v2"}, "nothing is stopped undrained"


def test_hooks_are_for_deploys_unless_they_say_that_they_are_for_rollbacks_too() -> None:
    both = {"command": "echo", "run": "image", "on": ["deploy", "rollback"]}
    settings = hooked(pre_deploy="echo", post_switch=both, post_deploy={**both, "on": ["rollback"]})
    world = a_world("v1", "v2", settings=settings)
    assert [job.hook for job in world.called] == ["pre_deploy", "post_switch"] * 2
    world.called.clear()
    receipt = service(world, settings).rollback(None, OPTIONS, quiet)
    assert [job.hook for job in world.called] == ["post_switch", "post_deploy"]
    assert [job.environment["BLUEGREEN_ACTION"] for job in world.called] == ["rollback"] * 2
    assert receipt["to"] == "v1"


def test_a_run_that_does_nothing_calls_no_hook() -> None:
    world = a_world("v1", settings=HOOKS)
    world.called.clear()
    assert service(world, HOOKS).deploy("v1", OPTIONS, quiet)["result"] == "unchanged"
    assert world.called == []


def test_pre_build_is_called_only_where_there_is_something_to_build() -> None:
    settings = hooked(pre_build={"command": ["true"]})
    world = a_world(settings=settings)
    steps = [step.step for step in service(world, settings).plan_deploy("v9").steps]
    assert steps[:3] == ["pre_build", "build", "start"]
    assert service(world, settings).plan_deploy("v1").steps[0].step == "start"


def test_an_interrupt_ends_a_hook_before_the_commit_and_is_not_heeded_after_it() -> None:
    settings = hooked(post_deploy="echo one; echo two")
    world = a_world("v1")
    begun = "run_once:begun"
    world.at = lambda number, name: signal.raise_signal(signal.SIGTERM) if name == begun else None
    assert service(world, settings).deploy("v2", OPTIONS, quiet)["result"] == "done"
    told: list[Event] = []
    with pytest.raises(Interrupted, match="SIGTERM"):
        service(world, hooked(pre_deploy="echo never said")).deploy("v3", OPTIONS, told.append)
    assert "never said" not in [event.detail for event in told]
    settled(world)


def test_a_hook_ends_when_the_lock_is_lost_as_another_run_may_call_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    world = a_world("v1")
    before = world.truth("shop")
    told: list[Event] = []

    class Lost(FakeLock):
        """Until a hook has said something."""

        def check(self) -> None:
            if any(event.state == "progress" for event in told):
                raise BluegreenError("the lock on shop was lost: cut")

    monkeypatch.setattr("bluegreen.service.Lock", lambda *_: Lost())
    with pytest.raises(BluegreenError, match="lock on shop was lost"):
        service(world, hooked(pre_deploy="echo one; echo two; echo three")).deploy("v2", OPTIONS, told.append)
    assert [event.detail for event in told if event.state == "progress"] == ["one"]
    assert world.truth("shop") == before


def test_harm_that_the_witness_sees_ends_the_hook_after_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    world = a_world("v1")
    before = world.truth("shop")
    told: list[Event] = []

    def judge(run: Any) -> None:
        if "one" in [event.detail for event in told]:
            raise Failed("the witness saw harm done by v2: 500")

    monkeypatch.setattr("bluegreen.steps.judge", judge)
    with pytest.raises(Failed, match="the witness saw harm done by v2"):
        service(world, hooked(post_switch="echo one; echo two")).deploy("v2", OPTIONS, told.append)
    assert "two" not in [event.detail for event in told]
    assert world.truth("shop") == before


def test_what_a_killed_run_left_of_a_hook_is_removed_by_whatever_comes_next() -> None:
    def crash(number: int, name: str) -> None:
        if name == "run_once:begun":
            raise Crash

    def down(service: Service) -> list[str]:
        return service.down(quiet, OPTIONS)

    following: list[tuple[Callable[[Service], Any], bool]] = [(deploy("v3"), True), (rollback(), True), (down, False)]
    for follow, told in following:
        world = a_world("v1", "v2")
        world.at = crash
        with pytest.raises(Crash):
            service(world, hooked(pre_deploy="echo")).deploy("v3", OPTIONS, quiet)
        (name,) = world.one_shots
        world.at = lambda number, name: None
        later = service(world)
        gone = follow(later)
        assert world.one_shots == {}
        if told:
            assert f"removed {name}, which a killed run had left" in [event.detail for event in later.events]
        else:
            assert name in gone


def test_on_failure_is_called_when_all_is_undone_and_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", REAL_SLEEP)  # a process is waited for
    monkeypatch.setattr(time, "monotonic", REAL_MONOTONIC)
    file = tmp_path / "told"
    script = f'echo "$BLUEGREEN_RESULT $BLUEGREEN_RELEASE $BLUEGREEN_REASON" > {file}; exit 7'
    settings = hooked(post_switch="exit 3", on_failure={"command": script})
    world = a_world("v1")
    with pytest.raises(Failed) as caught:
        service(world, settings).deploy("v2", OPTIONS, quiet)
    assert file.read_text() == "undone v2 the hook post_switch failed: `exit 3` ended with exit code 3\n"
    assert caught.value.message.startswith("the hook post_switch failed"), "its own failure changes nothing"
    receipt = caught.value.receipt
    assert receipt
    assert [(step["step"], step["state"]) for step in receipt["steps"]][-1] == ("on_failure", "failed")
    assert "the hook on_failure failed" in receipt["warnings"][0]
    assert served(world) == "v1"


# The floor: a release that can't be rolled back past


def test_a_floor_outlasts_releases_and_processes_and_a_rollback_past_it_is_refused() -> None:
    floor = quick_settings(app={"replicas": 2}, probe=QUICK, rollback_floor=True)
    world = a_world("v1")
    assert service(world, floor).deploy("v2", OPTIONS, quiet)["result"] == "done"
    for name in (None, "v1"):
        with pytest.raises(Failed, match=r"v1 can't come back: v2 .*rollback_floor.*; v2 still serves") as caught:
            service(world).rollback(name, OPTIONS, quiet)
        assert caught.value.exit_code == 1
        with pytest.raises(Failed, match="v1 can't come back"):
            service(world).plan_rollback(name)
    readiness = service(world).status()["rollback"]
    assert (readiness["release"], readiness["ready"], readiness["how"]) == ("v1", False, None)
    assert "rollback_floor" in readiness["why"]
    (finding,) = doctor.rollback(service(world))
    assert (finding.level, finding.mend) == ("note", ""), "it is as it was meant"

    service(world).deploy("v3", OPTIONS, quiet)
    assert service(world).status()["rollback"]["ready"], "to the floor itself"
    with pytest.raises(Failed, match="v1 can't come back: v2 "):
        service(world).rollback("v1", OPTIONS, quiet)
    assert service(world).rollback(None, OPTIONS, quiet)["to"] == "v2"
    with pytest.raises(Failed, match="v1 can't come back: v2 "):
        service(world).rollback(None, OPTIONS, quiet)
    assert service(world).deploy("v1", OPTIONS, quiet)["result"] == "done", "a deploy is not a rollback"


def test_an_unfinished_run_of_a_floor_is_undone_as_any_other() -> None:
    floor = quick_settings(app={"replicas": 2}, probe=QUICK, rollback_floor=True)
    world = a_world("v1", "v2")
    world.at = lambda number, name: raising(Crash())() if name == "get" else None
    with pytest.raises(Crash):
        service(world, floor).deploy("v3", OPTIONS, quiet)
    world.at = lambda number, name: None
    assert service(world).rollback(None, OPTIONS, quiet)["to"] == "v2"
    assert service(world).rollback(None, OPTIONS, quiet)["to"] == "v1", "v3 was never live"


def edited(*deployed: str) -> World:
    world = a_world(*deployed)
    assert world.proxy
    world.proxy["shop"].edit = "gzip on;"
    return world


def test_a_deploy_does_not_write_over_a_persons_edit_unless_it_is_told_to() -> None:
    world = edited("v1")
    before = world.truth("shop")
    with pytest.raises(Failed) as caught:
        service(world).deploy("v2", OPTIONS, quiet)
    assert world.truth("shop") == before
    assert "a person has edited shop's files in fake-proxy" in caught.value.message
    assert "v1 still serves\n+gzip on;" in caught.value.message
    assert "--overwrite-edits" in caught.value.hint
    assert service(world).plan_deploy("v2").edits == service(world).status()["proxy"]["edits"] == "+gzip on;"
    assert service(world).deploy("v1", OPTIONS, quiet)["result"] == "unchanged", "where nothing is written over"

    told: list[Event] = []
    receipt = service(world).deploy("v2", Options(witness=False, overwrite_edits=True), told.append)
    assert receipt["result"] == "done"
    assert any("is kept in /kept of fake-proxy\n+gzip on;" in event.detail for event in told)
    assert service(world).status()["proxy"]["edits"] is None


def test_a_rollback_is_urgent_and_only_tells_of_an_edit_that_it_writes_over() -> None:
    told: list[Event] = []
    receipt = service(edited("v1", "v2")).rollback(None, OPTIONS, told.append)
    assert (receipt["result"], receipt["to"]) == ("done", "v1")
    assert any("+gzip on;" in event.detail for event in told)


def test_an_unfinished_run_is_ended_whatever_a_person_has_edited_since_and_that_is_told() -> None:
    job = JOBS[2]
    verify = job.points().index("get")
    world = job.world()
    world.at = at(verify, raising(Crash()))
    with pytest.raises(Crash):
        job.go(world)
    world.at = lambda number, name: None
    assert world.proxy
    world.proxy["shop"].edit = "gzip on;"
    told: list[Event] = []
    assert service(world).deploy("v3", OPTIONS, told.append)["from"] == "v1"
    assert any("+gzip on;" in event.detail for event in told)


# Who is told of a run


class Memory:
    """A history that remembers, or breaks."""

    def __init__(self, error: Exception | None = None) -> None:
        self.kept: list[dict[str, Any]] = []
        self.held: list[bool] = []
        self.lock = FakeLock()
        self._error = error

    def keep(self, receipt: dict[str, Any]) -> None:
        self.held.append(self.lock.held)
        if self._error:
            raise self._error
        self.kept.append(receipt)


def remembering(world: World, memory: Any, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr("bluegreen.service.Lock", lambda *_: memory.lock)
    found = service(world)
    found.history = memory
    return found


def test_a_run_is_kept_in_the_history_under_the_lock_however_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    world, memory = a_world("v1"), Memory()
    receipt = remembering(world, memory, monkeypatch).deploy("v2", OPTIONS, quiet)
    assert memory.kept == [receipt]
    world.lives["v3"] = 0
    with pytest.raises(Failed) as caught:
        remembering(world, memory, monkeypatch).deploy("v3", OPTIONS, quiet)
    assert memory.kept == [receipt, caught.value.receipt]
    remembering(world, memory, monkeypatch).deploy("v2", OPTIONS, quiet)
    assert len(memory.kept) == 2, "nothing was to be done"
    assert memory.held == [True, True]


def test_a_history_that_cannot_be_written_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    world, memory = a_world("v1"), Memory(APIError("no space left"))
    events: list[Event] = []
    receipt = remembering(world, memory, monkeypatch).deploy("v2", OPTIONS, events.append)
    assert receipt["result"] == "done"
    assert (events[-1].step, events[-1].state) == ("history", "progress")
    assert "no space left" in events[-1].detail
    world.lives["v3"] = 0
    with pytest.raises(Failed) as caught:
        remembering(world, memory, monkeypatch).deploy("v3", OPTIONS, quiet)
    assert "v2 still serves" in caught.value.message


def test_without_a_receipt_in_the_history_that_is_said() -> None:
    with pytest.raises(Failed, match="no run is kept"):
        service(a_world()).receipt(None)
