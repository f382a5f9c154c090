"""`kill -9` at every point of a deploy and a rollback, on a host in memory; then what the next command makes of it.

The same is done to the command itself, on the real engine, by tests/integration/test_crash.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fakes import quick_settings
from harness import FULL
from twin import Host, a_host, no_engine_and_no_waiting

from bluegreen.errors import Failed
from bluegreen.model import Release
from bluegreen.settings import Settings

STRIDE = 1 if FULL else 43
"""How many points lie between two second kills."""


def made(**tables: Any) -> Settings:
    return quick_settings(**{"probe": {"successes": 1}, **tables})


ALL = {
    "live": made(),
    "two replicas, reload": made(app={"replicas": 2}, proxy={"switch": "reload"}),
    "two replicas, standby": made(app={"replicas": 2}, retire={"old": "standby"}),
    "standby, reload": made(retire={"old": "standby"}, proxy={"switch": "reload"}),
    "registry": made(registry={"server": "gitlab.test:8001"}),
}
SETTINGS = ALL if FULL else {name: ALL[name] for name in ("two replicas, reload", "two replicas, standby", "registry")}
"""Those of `make test` together have all that the others have."""
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
    no_engine_and_no_waiting(monkeypatch)
    yield
    monkeypatch.undo()


@dataclass
class Case:
    """A command on a host, and what was live before it and is after it."""

    host: Host
    command: str
    deployed: tuple[str, ...]
    old: str | None
    new: str
    kills: dict[int, tuple[str, Host]]
    """The host after a kill at each point, by the point's number and name."""

    @property
    def points(self) -> list[str]:
        return [name for name, _ in self.kills.values()]

    def undone(self, at: int) -> bool:
        """Whether a kill there leaves a run that had begun and was not committed."""
        return self.points.index("begin:end") <= at <= self.points.index("commit:half")

    def committed(self, at: int) -> bool:
        return at > self.points.index("commit:half")


def cases(settings: Settings) -> Iterator[Case]:
    for deployed, command in JOBS.values():
        host = a_host(settings, *deployed)
        after = host.fork()
        after.type(command)
        yield Case(host, command, deployed, host.live(), str(after.live()), host.kills(command))


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
    reference = host.settings.reference(Release("v1"))
    never_pushed = bool(host.settings.registry.server) and reference not in host.world.published
    return command == "rollback v1" and (never_pushed or host.live() is None)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_after_a_kill_anywhere_status_is_true_and_any_next_command_converges(settings: Settings) -> None:
    count = 0
    for case in cases(settings):
        for at, (point, left) in case.kills.items():
            killed = case.host.killed(case.command, at)
            where = f"{case.command} killed at {at} ({point})"
            assert left.world.truth("shop") == killed.world.truth("shop"), where
            status = killed.status()
            if case.old:
                assert bool(status["unfinished"]) is case.undone(at), where
                assert status["live"], where
            if case.committed(at):
                assert (status["live"]["release"], status["unfinished"]) == (case.new, None), where
            for command in NEXT if FULL else (NEXT[at % len(NEXT)],):
                follow(case, killed.fork(), at, command, f"{where}, then {command}")
                count += 1
    assert count > 120


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_after_a_kill_of_the_command_that_recovers_the_next_one_converges(settings: Settings) -> None:
    """Twice killed: at every point (some, unless this is the soak) of what follows a kill at every point."""
    count = 0
    for case in cases(settings):
        for first, (_, once) in case.kills.items():
            command = NEXT[first % len(NEXT)].replace("the same", case.command)
            try:
                kills = once.kills(command, start=first % STRIDE, step=STRIDE)
            except Failed:
                continue
            for second, (point, twice) in kills.items():
                where = f"{case.command} killed at {first}, {command} at {second} ({point})"
                assert bool(twice.live()) or not case.old, where
                twice.status()
                third = NEXT[second // STRIDE % len(NEXT)].replace("the same", case.command)
                converges(twice, third, where)
                count += 1
    assert count > 50


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_after_a_kill_in_the_middle_of_an_undo_the_failed_release_is_nobodys_standby(settings: Settings) -> None:
    for case in cases(settings):
        if not case.old:
            continue
        verify = case.points.index("get")
        kills = {at: host for at, (_, host) in case.host.kills(case.command, fail=verify).items() if at > verify}
        assert len(kills) > 4
        for at, killed in kills.items():
            where = f"{case.command} failed at {verify} and killed at {at}"
            status = killed.status()
            assert status["live"]["release"] in (case.old, case.new), where
            standby = status["standby"]["release"] if status["standby"] else None
            assert standby in (None, *case.deployed), where
            if not status["unfinished"]:  # all was undone
                killed.settled(case.old, where, before={*case.deployed})
                continue
            for command, wanted in (("rollback", case.old), ("deploy v8", "v8")):
                after = killed.fork()
                after.type(command)
                after.settled(wanted, where, before={*case.deployed})


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
