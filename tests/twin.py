"""A host in memory, commands typed on it, each in a new process, and clients for whom rules hold at every point."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError
from fakes import Clock, Crash, FakeLock, FakeProxy, FakeRegistry, FakeRuntime, Process, World, nobody

from bluegreen.errors import Failed
from bluegreen.model import Colour, Event
from bluegreen.service import Options, Service
from bluegreen.settings import Settings

OPTIONS = Options(witness=False)
Watch = Callable[[int, str], None]
PATIENCE = 3
"""How often an upload is counted until it has ended."""


def no_engine_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sleeping takes no time, and the lock is one of this host."""
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr("bluegreen.service.Lock", lambda process, *_: Locking(process))
    no_warming_up(monkeypatch)


def no_warming_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that loads libraries which are loaded already would take a third of the time."""
    no_thread = SimpleNamespace(start=lambda: None)
    threads = SimpleNamespace(Thread=lambda **_: no_thread, Lock=threading.Lock)
    monkeypatch.setattr("bluegreen.flow.threading", threads)


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


class Harm(BaseException):
    """A rule was broken: nothing in the product may take it for an error that it knows how to live with."""


class Rules:
    """Clients who send a request and begin an upload at every point of a run, and what has to hold there."""

    def __init__(
        self, world: World, *, kill: int = -1, fail: int = -1, strict: bool = True, watch: Watch = nobody
    ) -> None:
        """The command is killed, or an error of the engine comes, at the point with this number, counted from its
        beginning. Unless `strict`, what is live may be dead already. `watch` is told of every point."""
        self._world = world
        self._counted: dict[int, int] = {}
        self._kill, self._fail, self._strict = kill, fail, strict
        self._passed = 0
        self._watch = watch

    def __call__(self, number: int, name: str) -> None:
        self.hold(name)
        if name == "in_flight":
            self._go_on()
        self._watch(self._passed, name)
        self._passed += 1
        if self._passed - 1 == self._kill:
            raise Crash
        if self._passed - 1 == self._fail:
            raise APIError("the engine is tired")

    def hold(self, where: str) -> None:
        """Who was served is served, by what has passed its probe, and no upload was cut. Raises Harm otherwise."""
        world = self._world
        carried = (world.proxy or {}).get("shop")
        if self._strict and world.cut:
            raise Harm(f"an upload was cut at {where}")
        if carried is None or carried.colour is None:
            if self._strict and world.uploads:
                raise Harm(f"nothing is served any more at {where}")
            return
        standing = {each.endpoint: each for each in world.standing("shop") if each.running}
        live = carried.upstreams[carried.colour]
        if self._strict and world.proxy_running:
            answer = world.request("shop")
            if not set(live) <= set(standing):
                raise Harm(f"a replica that is live does not run at {where}")
            if answer.status != 200:
                raise Harm(f"{answer} at {where}")
        for endpoint in (*live, *(carried.upstreams.get(carried.colour.other, ()) if carried.trial else ())):
            there = standing.get(endpoint)
            if there and not there.proved:
                raise Harm(f"{there} may get requests and was not probed at {where}")
        world.uploads.extend(each for each in live if each in standing and each not in world.uploads)

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
        return Host(self.world.fork(), self.settings)

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

    def type(self, command: str, *, strict: bool = True, **rules_of: Any) -> dict[str, Any]:
        """The command has run to its end. Raises Crash if it was killed at that point of it; see Rules."""
        rules = Rules(self.world, strict=strict, **rules_of)
        self.world.at = rules
        word, _, name = command.partition(" ")
        try:
            if word == "deploy":
                receipt = self.service().deploy(name, OPTIONS, quiet)
            else:
                receipt = self.service().rollback(name or None, OPTIONS, quiet)
            rules.hold("the end")
            return receipt
        except Harm as harm:
            raise AssertionError(f"{command}: {harm}") from None
        finally:
            self.world.at = nobody
            if not strict:
                self.world.cut = 0
                self.world.uploads.clear()

    def killed(self, command: str, at: int) -> Host:
        """The host after the command was killed there."""
        other = self.fork()
        with pytest.raises(Crash):
            other.type(command, kill=at)
        return other

    def kills(self, command: str, *, fail: int = -1, start: int = 0, step: int = 1) -> dict[int, tuple[str, Host]]:
        """The names of every `step`th point of the command, with the host as a kill there leaves it.

        Nothing goes wrong in it but at the point `fail`.
        """
        other, found = self.fork(), {}

        def watch(number: int, name: str) -> None:
            if number % step == start:
                found[number] = name, other.fork()

        with nullcontext() if fail < 0 else pytest.raises((Failed, APIError)):
            other.type(command, fail=fail, watch=watch)
        return found

    def status(self) -> dict[str, Any]:
        """What it says, which is true, and it has changed nothing."""
        before = all_of(self.world.fork())
        status = self.service().status()
        assert all_of(self.world) == before
        serving = self.live() if self.world.proxy_running else None
        assert (status["live"]["release"] if status["live"] else None) == serving
        return status

    def live(self) -> str | None:
        """The release that the proxy sends all requests to, by the labels of the containers there."""
        carried = (self.world.proxy or {}).get("shop")
        if carried is None or carried.colour is None:
            return None
        there = {each.release.name for each in self.world.standing("shop") if each.colour is carried.colour}
        assert len(there) < 2
        return there.pop() if there else None

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


def all_of(world: World) -> tuple[Any, ...]:
    """Everything that a command may change on a host."""
    return (world.containers, world.proxy, world.proxy_running, world.networks, world.images, world.published)


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
