"""Several hosts in memory, and commands typed on them, each in new processes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from fakes import Crash, FakeLock, FakeProxy, FakeRegistry, FakeRuntime, Process, World
from twin import Harm, no_engine_and_no_waiting

from bluegreen.hosts import Host, Hosts
from bluegreen.model import Event
from bluegreen.service import Options, Service
from bluegreen.settings import Settings

NAMES = ("one", "two", "three")


class Serial:
    """An executor that does what it is given at once, so that a test's points have an order."""

    def __init__(self, workers: int) -> None:
        pass

    def __enter__(self) -> Serial:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future


def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine, no waiting, and no threads."""
    no_engine_and_no_waiting(monkeypatch)
    for module in ("hosts", "steps"):
        monkeypatch.setattr(f"bluegreen.{module}.ThreadPoolExecutor", Serial)


class AwayProcess(Process):
    """A process's view of a host that may go away: then whatever is asked of it fails as a call to a dead one does."""

    away: Callable[[], bool] = staticmethod(lambda: False)

    def point(self, name: str) -> None:
        if self.away():
            raise requests.ConnectionError("no route to host")
        super().point(name)
        if self.away():
            raise requests.ConnectionError("no route to host")


@dataclass
class Several:
    """The hosts' worlds, by name, and those of them that are away."""

    settings: Settings
    worlds: dict[str, World]
    away: set[str] = field(default_factory=set)
    points: list[tuple[str, str]] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)
    options: Options = field(default_factory=lambda: Options(witness=False))

    def fork(self) -> Several:
        for world in self.worlds.values():
            world.at = lambda number, name: None
        return Several(self.settings, copy.deepcopy(self.worlds), set(self.away), options=self.options)

    def service(self, at: Callable[[int, str, str], None] | None = None) -> Service:
        """The service, of which whoever was away at the start knows nothing; `at` is called at every point of it."""
        members, processes = [], []
        self.points.clear()

        def passing(host: str) -> Callable[[int, str], None]:
            def pass_point(number: int, name: str) -> None:
                self.points.append((host, name))
                try:
                    if at:
                        at(len(self.points) - 1, host, name)
                except Crash:
                    for process in processes:
                        process.crashed = True
                    raise

            return pass_point

        for name, world in self.worlds.items():
            if name in self.away:
                continue
            world.at = passing(name)
            process = AwayProcess(world)
            process.away = lambda name=name: name in self.away  # type: ignore[misc]
            processes.append(process)
            runtime = FakeRuntime(world, self.settings, process)
            runtime.answers = lambda name=name: name not in self.away  # type: ignore[method-assign,misc]
            client = SimpleNamespace(info=lambda name=name: {"ID": name})
            registry: Any = FakeRegistry(world, self.settings, process) if self.settings.registry.server else None
            proxy = FakeProxy(world, self.settings, process)
            members.append(Host(name, client, runtime, proxy, registry, lock=FakeLock()))
        service = Service(self.settings, None, members[0].runtime, members[0].proxy, members[0].registry)
        service._become_several(Hosts(members))
        service.history = None
        service.unreachable = dict.fromkeys(sorted(self.away), "no route to host")
        return service

    def type(self, command: str, at: Callable[[int, str, str], None] | None = None) -> dict[str, Any]:
        try:
            return self._type(command, at)
        except Harm as harm:
            raise AssertionError(f"{command} at {len(self.points)} {self.points[-1]}: {harm}") from None

    def _type(self, command: str, at: Callable[[int, str, str], None] | None) -> dict[str, Any]:
        word, _, name = command.partition(" ")
        self.told.clear()
        service = self.service(at)
        if word == "deploy":
            return service.deploy(name, self.options, self.told.append)
        if word == "sync":
            return {"result": service.sync(self.options, self.told.append)}
        return service.rollback(name or None, self.options, self.told.append)

    def live(self) -> dict[str, str | None]:
        """What each host serves, by the labels of its containers."""
        return {name: live_on(world) for name, world in self.worlds.items()}

    def agreed(self, release: str | None, where: str = "") -> None:
        """Every host serves the release, with the same number and nothing unfinished, and nothing else stands there."""
        assert self.live() == dict.fromkeys(self.worlds, release), where
        numbers = set()
        for name, world in self.worlds.items():
            standing = world.standing("shop")
            if release is None:
                assert standing == [], where
                continue
            carried = (world.proxy or {})["shop"]
            numbers.add((carried.record.number, carried.record.to_colour))
            assert (carried.trial, carried.record.committed) == (False, True), f"{name}: {where}"
            mine = {(each.release.name, each.running, each.kept) for each in standing if each.colour is carried.colour}
            assert mine == {(release, True, True)}, f"{name}: {where}"
            if self.settings.retire.old == "remove":
                assert {each.colour for each in standing} == {carried.colour}, f"{name}: {where}"
        assert len(numbers) == (0 if release is None else 1), where
        status = self.service().status()
        assert (status["unfinished"], status["next"]) == (None, None), where
        assert [host["behind"] for host in status["hosts"]] == [None] * len(self.worlds), where
        assert all(not world.begun for world in self.worlds.values()), where


def live_on(world: World) -> str | None:
    carried = (world.proxy or {}).get("shop")
    if carried is None or carried.colour is None:
        return None
    there = {each.release.name for each in world.standing("shop") if each.colour is carried.colour}
    assert len(there) < 2
    return there.pop() if there else None


def serves(world: World, *, gently: bool = True) -> None:
    """Whoever is served there is served by what has passed its probe, and if `gently` no upload was cut. Raises Harm
    otherwise."""
    carried = (world.proxy or {}).get("shop")
    if carried is None or carried.colour is None:
        return
    standing = {each.endpoint: each for each in world.standing("shop") if each.running}
    live = carried.upstreams[carried.colour]
    if not set(live) <= set(standing):
        raise Harm(f"what is live does not run: {live} of {sorted(world.containers)}")
    if not all(standing[endpoint].proved for endpoint in live):
        raise Harm("what is live was not probed")
    if gently and world.cut:
        raise Harm("an upload was cut")
    world.uploads.extend(each for each in live if each not in world.uploads)


def hosts_of(settings: Settings, *deployed: str) -> Several:
    """Three hosts on which these releases were deployed, one after the other."""
    worlds: dict[str, World] = {}
    published: dict[str, str] = {}
    for name in NAMES:
        worlds[name] = World(published=published).has("v1", "v2", "v3")
        worlds[name].add_image(settings.proxy.image, "sha256:proxy")
    hosts = Several(settings, worlds)
    for release in deployed:
        assert hosts.type(f"deploy {release}")["result"] == "done"
    return hosts
