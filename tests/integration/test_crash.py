"""`kill -9` of the command at every moment of its talk with the engine, under load, and what the next one makes of it.

`make test` samples the moments; with BLUEGREEN_SWITCHES (`make soak`, `bench/crash`) it is all of them, then moments by
chance, then those of the command that recovers. Its twin on a host in memory is tests/unit/test_crash_twin.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import docker
import pytest
from aftermath import GENTLE, Followed, things
from evidence import log
from harness import FULL, REPOSITORY, Make, Ran, TestService, eventually, executed
from killing import MOMENTS, changes
from load import Load

from bluegreen.lock import Lock
from bluegreen.proxies.templates import unsealed
from bluegreen.service import Service
from bluegreen.settings import load

T = TypeVar("T")
WAYS = [("nginx:stable", "live"), ("haproxy:3.2", "live")]
WAYS += [("nginx:stable", "reload"), ("haproxy:2.6", "reload")] if FULL else []
SAMPLE = [
    "after 1 POST /volumes/create",
    "inside 2 POST /containers/ID/start",
    "before 1 POST /containers/ID/update",
    "before 1 POST /containers/ID/stop",
]
"""A run that had only begun, one that was starting its containers, one that had switched, one that was committed."""

RECOVERING = ["after 1 agent write /bluegreen/state/SERVICE/record"]
EVERY = int(os.environ.get("BLUEGREEN_KILLS_EVERY", "1"))
"""In the soak: every so many of all the moments are tried, for a shorter one."""

RANDOM = 30 if FULL else 1
FIRST_SAMPLE = ["before 1 PUT /containers/ID/archive", "before 1 agent run nginx -s reload -c /bluegreen/nginx.conf"]
PER_LOAD = 50
ENDLESS = 3
"""How often a moment is tried that the command did not come by: some are those of a switch to one colour only."""


@dataclass
class Elsewhere:
    """Another machine: another working directory, with the settings file and nothing else."""

    here: TestService
    there: TestService
    engine: docker.DockerClient
    lock_seconds: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, service: TestService, engine: docker.DockerClient) -> Elsewhere:
        directory = service.directory.with_name(service.directory.name + "-elsewhere")
        directory.mkdir()
        (directory / "bluegreen.toml").write_text((service.directory / "bluegreen.toml").read_text())
        return cls(service, TestService(service.name, directory, service.port), engine)

    def killed(self, command: str, moment: str = "", *, after: float = 0) -> bool:
        """The command was killed at this moment, or so many seconds after its beginning, unless it ended before."""
        process = self._start(command, BLUEGREEN_TEST_KILL=moment)
        if after:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(after)
            process.kill()
        ran = self.here.finish(process)
        assert ran.code in (0, -signal.SIGKILL), f"{command}, to be killed {moment or after}: {ran.text}"
        return ran.code != 0

    def moments(self, command: str, *, every: bool) -> list[str]:
        """Those at which something changes; `every` kind of read, too, is one."""
        file = self.here.directory / "events"
        file.unlink(missing_ok=True)
        ran = self.here.finish(self._start(command, BLUEGREEN_TEST_EVENTS=os.fspath(file)))
        assert ran.code == 0, ran.text
        found, reads = [], set()
        for numbered in file.read_text().splitlines():
            name = numbered.partition(" ")[2]
            if changes(name):
                found += [f"{moment} {numbered}" for moment in MOMENTS]
            elif every and name not in reads:
                reads.add(name)
                found.append(f"inside {numbered}")
        return found

    def lock_is_free(self) -> None:
        """The lock of a killed run has ended with nothing typed, or counts as a dead one's."""
        died = time.monotonic()
        lock = Lock(self.engine, self.here.name, "")

        def free() -> bool:
            found = self.engine.containers.list(
                all=True, filters={"name": f"^bluegreen-lock-{self.here.name}$"}, ignore_removed=True
            )
            return not found or (found[0].status == "created" and lock.holder() is None)

        eventually(free, "the lock of a killed run ends by itself")
        self.lock_seconds.append(time.monotonic() - died)

    def status(self) -> dict[str, Any]:
        """What the killed run left, as it is told on the other machine: true, and nothing is changed by it."""
        before = self._things()
        status = self.there.status()
        assert self._things() == before
        serving = self._serving()
        assert (status["live"]["release"] if status["live"] else None) == serving
        return status

    def asked(self, question: Callable[[Service], T]) -> T:
        """The answer of the service as its settings file here has it."""
        with Service.open(load(self.there.directory / "bluegreen.toml")) as service:
            return question(service)

    def type(self, command: str) -> Ran:
        return self.there.run(*command.split())

    def settled(self, release: str, where: str) -> None:
        """The release is live, whole, and all there is."""
        status = self.asked(Service.status)
        assert status["live"]["release"] == release == self._serving(), where
        assert (status["standby"], status["unfinished"], status["next"], status["lock"]) == (None,) * 4, where
        assert status["live"]["replicas"] == {"running": 1, "wanted": 1}, where
        assert list(self.here.containers().values()) == [release], where
        containers = [each for each in things(self.engine, self.here) if each.startswith("container ")]
        assert len(containers) == 2, f"{where}: the release and the proxy, and {containers}"
        strays = self.engine.containers.list(all=True, filters={"label": "bluegreen.once"}, ignore_removed=True)
        mine = (self.here.name, f"-{self.here.port}")
        assert [each.name for each in strays if each.labels["bluegreen.once"].endswith(mine)] == [], where
        file = self._in_proxy("sh", "-c", f"cat /bluegreen/services/{self.here.name}.c*")
        assert unsealed(file) == self.asked(Service.render_proxy), where
        files = self._in_proxy("ls", "-aR", "/bluegreen").split()
        assert [each for each in files if each.endswith(".new")] == [], f"{where}: half-written"
        state = self._in_proxy("ls", f"/bluegreen/state/{self.here.name}").split()
        assert {"record"} <= set(state) <= {"record", "green"}, where

    def _things(self) -> set[str]:
        """All but a lock: one that never came to life is what a look may take away."""
        return {each for each in things(self.engine, self.here) if "bluegreen-lock" not in each}

    def _serving(self) -> str | None:
        """The release that answers, asked as a client asks."""
        with contextlib.suppress(Exception):
            answer = self.here.get()
            if answer.status_code == 200:
                return f"v{answer.text.split()[1]}"
        return None

    def _in_proxy(self, *command: str) -> str:
        proxy = self.engine.containers.get(f"bluegreen-proxy-127.0.0.1-{self.here.port}")
        return executed(proxy, command, stderr=False, user="0").output.decode()

    def _start(self, command: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, os.fspath(REPOSITORY / "tests" / "killing.py"), *command.split()],
            cwd=self.here.directory,
            env={**os.environ, "PYTHONPATH": os.fspath(REPOSITORY), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def others(*releases: str) -> list[str]:
    return [each for each in ("v1", "v2", "v3") if each not in releases]


@dataclass
class Series:
    """Kills, one after the other, of a service that is under load throughout."""

    place: Elsewhere
    way: str
    loads: contextlib.ExitStack
    clients: Load = field(init=False)
    loaded: int = 0
    """How many kills this load has seen."""
    requests: int = 0
    count: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._load()

    def _load(self) -> None:
        """Requests are sent, by a load that ends before its time is over."""
        self.loads.close()
        self.loaded = 0
        self.clients = self.loads.enter_context(Load(self.place.here.url, **GENTLE, seconds=1800))
        self.clients.wait_for_requests(50)

    def _stop(self) -> None:
        result = self.clients.stop()
        self.requests += result.total
        assert result.failed == 0, result.explain()

    def live(self) -> str:
        return str(self.place.asked(Service.status)["live"]["release"])

    def command(self, word: str) -> str:
        """A deploy of what is not live, or the rollback, for which there is something to go back to."""
        if word == "rollback" and not self.place.asked(Service.status)["rollback"]["ready"]:
            self.place.there.deploy(others(self.live())[0])
        return f"deploy {others(self.live())[0]}" if word == "deploy" else word

    def kill(self, word: str, moment: str = "", *, after: float = 0, again: str = "") -> bool:
        """The command was killed, status was true, and the next command, killed at `again` itself if that is given,
        converged. False if it ended before the moment came."""
        command = self.command(word)
        live = self.live()
        if self.loaded == PER_LOAD:
            self._stop()
            self._load()
        self.loaded += 1
        if not self.place.killed(command, moment, after=after):
            self._unharmed(f"{command}, which ended by itself")
            return False
        where = f"{command} over {live}, killed {moment or f'after {after:.2f} s'}"
        status = self._look(where)
        following = self._next(command)
        if again:
            where += f", then {following}, killed {again}"
            if not self.place.killed(following, again):
                self._unharmed(f"{where}, which did not come")
                return False
            status = self._look(where)
            following = self._next(command)
        else:
            where += f", then {following}"
        self._converge(following, status, where)
        self.count += 1
        kind = ("committed" if status["live"]["release"] != live else "not begun") if not status["unfinished"] else ""
        kind = kind or ("switched" if status["live"]["release"] != live else "begun")
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        log(f"{self.way}: {where}: {kind}; 0 failed, {self.live()} live")
        return True

    def _next(self, command: str) -> str:
        """What is typed next: by turns the same, another deploy, and a rollback."""
        other = f"deploy {others(self.live(), command.split()[-1])[-1]}"
        turn = (command, other, "rollback")[self.count % 3]
        status = self.place.asked(Service.status)
        possible = turn != "rollback" or status["unfinished"] or status["rollback"]["ready"]
        return turn if possible else other

    def _look(self, where: str) -> dict[str, Any]:
        self.place.lock_is_free()
        self._unharmed(where)
        # One that the engine was still making when its owner died appears after that, and never comes to life.
        eventually(lambda: self.place.asked(Service.status)["lock"] is None, f"the lock is free: {where}")
        status = self.place.status()
        assert status["lock"] is None, where
        assert bool(status["unfinished"]) <= bool(status["next"]), where
        return status

    def _converge(self, command: str, status: dict[str, Any], where: str) -> None:
        """The next command has done what it said, and nothing else is left."""
        ran = self.place.type(command)
        assert ran.code == 0, f"{where}: {ran.text}"
        self._unharmed(where)
        if status["unfinished"]:
            assert f"the run {status['unfinished']} ended before its commit" in ran.out, where
            assert "✓ recover" in ran.out, where
        wanted = command.split()[1] if "deploy" in command else status["rollback"]["release"]
        if command == "rollback" and status["unfinished"]:
            wanted = str(self.live())
            assert f"keep {wanted} " in status["next"] or f"back to {wanted} " in status["next"], where
        self.place.settled(wanted, where)

    def _unharmed(self, where: str) -> None:
        """Requests go on, and none has failed."""
        seen = self.clients.wait_for_requests(self.clients.snapshot().total + 20)
        assert seen.failed == 0, f"{where}: {self.clients.stop().explain()}"

    def sum_up(self, what: str) -> None:
        """What this part of the series was, for the log."""
        kinds = ", ".join(f"{name} {number}" for name, number in sorted(self.kinds.items()))
        slowest = max(self.place.lock_seconds, default=0)
        kills = self.count - sum(self.parts.values())
        self.parts[what] = kills
        log(
            f"{self.way}: {kills} kills {what} ({kinds}); the lock was free {slowest:.1f} s after one at the latest;"
            f" moments that did not come: {len(self.missed)}"
        )
        self.kinds.clear()

    def conclude(self) -> None:
        self._stop()
        log(f"{self.way}: {self.count} kills, {self.requests} requests, 0 failed")


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{way[1]}")
def series(make_service: Make, engine: docker.DockerClient, request: pytest.FixtureRequest) -> Iterator[Series]:
    """A service with some releases behind it, under load."""
    image, switch = request.param
    service = make_service(image=image, switch=switch, bake=0.2)
    for release in ("v2", "v3", "v1"):
        service.deploy(release, "--no-witness")
    place = Elsewhere.of(service, engine)
    with contextlib.ExitStack() as loads:
        yield Series(place, f"{image}, {switch}", loads)


def union(lists: Sequence[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(each for one in lists for each in one))


def test_after_a_kill_at_any_moment_the_next_command_converges_and_no_request_fails(series: Series) -> None:
    nginx = "nginx" in series.way
    at_the_events(series, SAMPLE[::2] if nginx else SAMPLE[1::2])  # by turns, if it is not all of them
    if FULL or not nginx:
        at_random_times(series)
    if FULL or nginx:
        of_the_command_that_recovers(series)
    series.conclude()
    assert len(series.missed) <= (series.count // 10 if FULL else 0), series.missed


def at_the_events(series: Series, sample: Sequence[str]) -> None:
    for word in ("deploy", "rollback"):
        moments = sample if word == "deploy" else SAMPLE[2:3]
        if FULL:  # a switch to green does other things than one to blue
            found = union([series.place.moments(series.command(word), every=True) for _ in range(2)])
            moments = found[::EVERY]
            log(f"{series.way}: {len(moments)} of {len(found)} moments of a {word}")
        for moment in moments:
            if not any(series.kill(word, moment) for _ in range(ENDLESS)):
                series.missed.append(moment)
    series.sum_up("at an event")


def at_random_times(series: Series) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    log(f"{series.way}: random times, seed {seed}")
    chance = random.Random(seed)
    begun = time.monotonic()
    series.place.there.deploy(others(series.live())[0])
    usual = time.monotonic() - begun
    for _ in range(RANDOM):
        series.kill(chance.choice(["deploy", "rollback"]), after=chance.uniform(0.2, usual))
    series.sum_up("at a random time")


def of_the_command_that_recovers(series: Series) -> None:
    first = SAMPLE[2]
    recovering = RECOVERING
    if FULL:
        assert series.place.killed(series.command("deploy"), first)
        series.place.lock_is_free()
        recovering = series.place.moments(f"deploy {others(series.live())[-1]}", every=False)[::EVERY]
    for moment in recovering:
        if not any(series.kill("deploy", first, again=moment) for _ in range(ENDLESS)):
            series.missed.append(moment)
    series.sum_up("and of the command that recovers")


@pytest.mark.parametrize("image", ["nginx:stable", "haproxy:3.2"] if FULL else ["nginx:stable"])
def test_a_first_deploy_that_was_killed_on_an_empty_host_is_taken_up_by_the_next(
    make_service: Make, engine: docker.DockerClient, image: str
) -> None:
    service = make_service(image=image, bake=0.2)
    place = Elsewhere.of(service, engine)
    moments = FIRST_SAMPLE
    if FULL:
        moments = place.moments("deploy v1", every=False)
        service.ok("down", "--yes")
    for moment in moments:
        assert place.killed("deploy v1", moment), moment
        place.lock_is_free()
        status = place.status()
        assert status["rollback"]["ready"] is False
        served = place._serving()
        with contextlib.ExitStack() as stack:
            clients = stack.enter_context(Load(service.url, **GENTLE)) if served else None
            for command in ("deploy v1", "deploy v2"):
                ran = place.type(command)
                assert ran.code == 0, f"killed {moment}: {ran.text}"
                place.settled(command.split()[1], moment)
            failed = clients.stop().failed if clients else 0
        assert failed == 0, moment
        log(f"{image}: first deploy killed {moment}: {served or 'nothing'} served, then v1 and v2 deployed")
        service.ok("down", "--yes")
        assert things(engine, service) == set(), moment


def test_what_the_engine_still_does_for_a_run_that_was_killed_is_waited_for(
    make_service: Make, engine: docker.DockerClient
) -> None:
    """A name that is not free yet, and a container that only was to print something."""
    service = make_service()
    late = engine.containers.create("nginx:stable", name=f"{service.name}-blue-1", labels={"bluegreen.test": "1"})
    look = engine.containers.create(
        "nginx:stable", ["true"], labels={"bluegreen.once": service.name, "bluegreen.test": "1"}
    )
    deploy = Followed(service, "deploy", "v1")
    deploy.until("start", "started")
    eventually(lambda: not engine.containers.list(all=True, filters={"id": look.id}, ignore_removed=True), "it stays")
    late.remove(force=True)
    assert deploy.end().code == 0
    assert service.live() == "v1"


def test_the_moments_of_the_samples_are_described_as_the_killer_describes_them() -> None:
    for moment in [*SAMPLE, *RECOVERING, *FIRST_SAMPLE]:
        when, number, name = moment.split(" ", 2)
        assert when in MOMENTS
        assert int(number)
        assert changes(name)
    assert json.dumps(SAMPLE)
    assert Path(REPOSITORY / "tests" / "killing.py").exists()
