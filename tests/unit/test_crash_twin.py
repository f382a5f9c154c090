"""`kill -9` at every point of a deploy and a rollback, on a host in memory; then what the next command makes of it.

The same is done to the command itself, on the real engine, by tests/integration/test_crash.py.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import Clock, Crash, FakeLock, FakeProxy, FakeRegistry, FakeRuntime, Process, World, quick_settings
from harness import FULL

from bluegreen.errors import Failed
from bluegreen.model import Colour, Event
from bluegreen.service import Options, Service
from bluegreen.settings import Settings

OPTIONS = Options(witness=False)
STRIDE = 1 if FULL else 11
"""How many points lie between two second kills."""

PATIENCE = 3
"""How often an upload is counted until it has ended."""


def made(**tables: Any) -> Settings:
    return quick_settings(**{"probe": {"successes": 1}, **tables})


SETTINGS = {
    "live": made(),
    "two replicas, reload": made(app={"replicas": 2}, proxy={"switch": "reload"}),
    "two replicas, standby": made(app={"replicas": 2}, retire={"old": "standby"}),
    "standby, reload": made(retire={"old": "standby"}, proxy={"switch": "reload"}),
    "registry": made(registry={"server": "gitlab.test:8001"}),
}
JOBS = {
    "first deploy": ((), "deploy v1"),
    "first deploy with a build": ((), "deploy v9"),
    "second deploy": (("v1",), "deploy v2"),
    "third deploy": (("v1", "v2"), "deploy v3"),
    "rollback": (("v1", "v2", "v3"), "rollback"),
    "named rollback": (("v1", "v2", "v3"), "rollback v1"),
}
NEXT = ["the same", "deploy v8", "rollback", "rollback v1"]


@pytest.fixture(autouse=True)
def _no_engine_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr("bluegreen.service.Lock", lambda process, *_: Locking(process))
    # A thread that loads libraries which are loaded already would take a third of the time.
    no_thread = SimpleNamespace(start=lambda: None)
    monkeypatch.setattr("bluegreen.service.threading", SimpleNamespace(Thread=lambda **_: no_thread))
    yield
    monkeypatch.undo()


class Locking(FakeLock):
    """A lock that is free, with a point at which it has just been taken, and one at which it is about to be let go."""

    def __init__(self, process: Any) -> None:
        super().__init__()
        self._process = process

    def take(self, doing: str, **options: Any) -> None:
        super().take(doing, **options)
        self._process.point("lock")

    def release(self) -> None:
        if not self._process.crashed:
            self._process.point("unlock")
        super().release()


class Rules:
    """Clients who send a request and begin an upload at every point of a run, and what has to hold there."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._counted: dict[int, int] = {}
        self.kill = -1
        """The number of the point, from the beginning of this command, at which it is killed."""
        self.passed = 0

    def __call__(self, number: int, name: str) -> None:
        self.hold(name)
        if name == "in_flight":
            self._go_on()
        if self.passed == self.kill:
            raise Crash
        self.passed += 1

    def hold(self, where: str) -> None:
        """Who was served is served, by what has passed its probe, and no upload was cut."""
        world = self._world
        carried = (world.proxy or {}).get("shop")
        assert world.cut == 0, f"an upload was cut at {where}"
        if carried is None or carried.colour is None:
            assert not world.uploads, f"nothing is served any more at {where}"
            return
        answer = world.request("shop")
        assert answer.status == 200, f"{answer} at {where}"
        standing = {each.endpoint: each for each in world.standing("shop")}
        for endpoint in carried.upstreams[carried.colour]:
            assert standing[endpoint].running, f"{endpoint} is live and does not run at {where}"
            assert standing[endpoint].proved, f"{endpoint} is live and was not probed at {where}"
            if endpoint not in world.uploads:
                world.uploads.append(endpoint)
        for endpoint in carried.upstreams.get(carried.colour.other, ()) if carried.trial else ():
            there = standing.get(endpoint)
            assert there is None or there.proved or not there.running, f"{endpoint} may get requests at {where}"

    def _go_on(self) -> None:
        """Uploads to what is not live end some time, one after the other; to what is live new ones begin."""
        uploads = self._world.uploads
        for endpoint in list(uploads):
            self._counted[id(endpoint)] = self._counted.get(id(endpoint), 0) + 1
            if self._counted[id(endpoint)] >= PATIENCE:
                uploads.remove(endpoint)
                self._counted[id(endpoint)] = 0


@dataclass
class Host:
    """A host in memory and the commands typed on it, each in a new process."""

    world: World
    settings: Settings

    def fork(self) -> Host:
        self.world.at = lambda number, name: None
        return Host(copy.deepcopy(self.world), self.settings)

    def service(self) -> Service:
        process = Process(self.world)
        registry: Any = FakeRegistry(self.world, self.settings, process) if self.settings.registry.server else None
        return Service(
            self.settings,
            process,
            FakeRuntime(self.world, self.settings, process),
            FakeProxy(self.world, self.settings, process),
            registry,
        )

    def type(self, command: str, *, kill: int = -1) -> dict[str, Any]:
        """The command has run to its end. Raises Crash if it was killed at that point of it."""
        rules = Rules(self.world)
        rules.kill = kill
        self.world.at = rules
        word, _, name = command.partition(" ")
        try:
            if word == "deploy":
                return self.service().deploy(name, OPTIONS, quiet)
            return self.service().rollback(name or None, OPTIONS, quiet)
        finally:
            rules.hold(f"the end of {command}")
            self.world.at = lambda number, name: None

    def points(self, command: str) -> list[str]:
        """The points that it passes if nothing goes wrong."""
        other = self.fork()
        other.world.points.clear()
        other.type(command)
        return list(other.world.points)

    def killed(self, command: str, at: int) -> Host:
        """The host after the command was killed there."""
        other = self.fork()
        with pytest.raises(Crash):
            other.type(command, kill=at)
        return other

    def status(self) -> dict[str, Any]:
        """What it says, which is true, and it has changed nothing."""
        before = self._all()
        status = self.service().status()
        assert self._all() == before
        assert (status["live"]["release"] if status["live"] else None) == self.live()
        return status

    def live(self) -> str | None:
        """The release that the proxy sends all requests to, by the labels of the containers there."""
        carried = (self.world.proxy or {}).get("shop")
        if carried is None or carried.colour is None:
            return None
        there = {each.release.name for each in self.world.standing("shop") if each.colour is carried.colour}
        assert len(there) == 1
        return there.pop()

    def settled(self, release: str | None, where: str, *, before: set[str | None]) -> None:
        """The release is live and nothing else is there, but a standby, if one is wanted, of what was live `before`."""
        status = self.status()
        assert self.live() == release, where
        assert (status["unfinished"], status["next"]) == (None, None), where
        standing = self.world.standing("shop")
        if release is None:
            assert standing == [], where
            return
        carried = (self.world.proxy or {})["shop"]
        mine = [each for each in standing if each.colour is carried.colour]
        assert [(each.running, each.kept) for each in mine] == [(True, True)] * self.settings.app.replicas, where
        assert tuple(each.endpoint for each in mine) == carried.upstreams[carried.colour or Colour.BLUE], where
        assert (carried.trial, carried.record.committed) == (False, True), where
        assert carried.record.to_colour is carried.colour, where
        others = {each.release.name for each in standing if each.colour is not carried.colour}
        assert others <= (before if self.settings.retire.old == "standby" else set()), where

    def _all(self) -> str:
        world = self.world
        return repr((world.containers, world.proxy, world.proxy_running, world.networks, world.images, world.published))


def quiet(event: Event) -> None:
    pass


def a_host(settings: Settings, *deployed: str) -> Host:
    """A host on which these releases were deployed, one after the other."""
    world = World().has("v1", "v2", "v3")
    world.add_image(settings.proxy.image, "sha256:proxy")
    host = Host(world, settings)
    for release in deployed:
        assert host.type(f"deploy {release}")["result"] == "done"
    return host


@dataclass
class Case:
    """A command on a host, and what was live before it and is after it."""

    host: Host
    command: str
    deployed: tuple[str, ...]
    old: str | None
    new: str
    points: list[str]

    def undone(self, at: int) -> bool:
        """Whether a kill there leaves a run that had begun and was not committed."""
        begun = "note:half" if self.old else "prepare"
        return self.points.index(begun) < at <= self.points.index("commit:half")

    def committed(self, at: int) -> bool:
        return at > self.points.index("commit:half")


def cases(settings: Settings) -> Iterator[Case]:
    for deployed, command in JOBS.values():
        host = a_host(settings, *deployed)
        after = host.fork()
        after.type(command)
        yield Case(host, command, deployed, host.live(), str(after.live()), host.points(command))


def expected(case: Case, host: Host, at: int, command: str) -> str | None:
    """What is live after the next command; None if it has to say that there is nothing to go back to."""
    word, _, name = command.partition(" ")
    if word == "deploy" or name:
        return name
    known = host.status()["rollback"]["release"]
    if case.undone(at):
        return case.old or known
    return known


def follow(case: Case, host: Host, at: int, command: str, where: str) -> None:
    """The next command has converged, whatever it had to begin with."""
    command = case.command if command == "the same" else command
    live, wanted = host.live(), expected(case, host, at, command)
    if command == case.command == "rollback" and case.undone(at):
        wanted = case.old  # it ends the run that was killed, and that is all
    known = {*case.deployed} if case.undone(at) and case.old else {*case.deployed, live}
    if wanted is None or name_is_unknown(host, command):
        with pytest.raises(Failed):
            host.type(command)
        wanted = wanted or "v8"
        command = f"deploy {wanted}"
    assert host.type(command)["result"] in ("done", "unchanged"), where
    host.settled(wanted, where, before=known)
    again = f"deploy {wanted}"
    assert host.type(again)["result"] == "unchanged", where


def name_is_unknown(host: Host, command: str) -> bool:
    """Whether it goes back to a release that can't be known here."""
    never_pushed = bool(host.settings.registry.server) and "shop:v1" not in host.world.published
    return command == "rollback v1" and (never_pushed or host.live() is None)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_after_a_kill_anywhere_status_is_true_and_any_next_command_converges(settings: Settings) -> None:
    count = 0
    for case in cases(settings):
        for at, point in enumerate(case.points):
            killed = case.host.killed(case.command, at)
            where = f"{case.command} killed at {at} ({point})"
            status = killed.status()
            if case.old:
                assert bool(status["unfinished"]) is case.undone(at), where
                assert status["live"], where
            if case.committed(at):
                assert (status["live"]["release"], status["unfinished"]) == (case.new, None), where
            for command in NEXT:
                follow(case, killed.fork(), at, command, f"{where}, then {command}")
                count += 1
    assert count > 500


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_after_a_kill_of_the_command_that_recovers_the_next_one_converges(settings: Settings) -> None:
    """Twice killed: at every point (some, in the quick run) of what follows a kill at every point."""
    count = 0
    for case in cases(settings):
        for first in range(len(case.points)):
            once = case.host.killed(case.command, first)
            command = NEXT[first % len(NEXT)].replace("the same", case.command)
            try:
                points = once.points(command)
            except Failed:
                continue
            for second in range(first % STRIDE, len(points), STRIDE):
                where = f"{case.command} killed at {first}, {command} at {second} ({points[second]})"
                twice = once.killed(command, second)
                assert bool(twice.live()) or not case.old, where
                twice.status()
                third = NEXT[second // STRIDE % len(NEXT)].replace("the same", case.command)
                converges(twice, third, where)
                count += 1
    assert count > 100


def converges(host: Host, command: str, where: str) -> None:
    """The next command succeeds, or a deploy after it if there is nothing to go back to; then nothing is left over."""
    try:
        host.type(command)
    except Failed:
        assert command.startswith("rollback"), where
    if host.status()["next"] or not host.live():
        host.type("deploy v8")
    live = host.live()
    assert live, where
    host.settled(live, where, before={"v1", "v2", "v3", "v8", "v9"})
    assert host.type(f"deploy {live}")["result"] == "unchanged", where
