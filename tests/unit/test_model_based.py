"""Whatever happens in whatever order, the rules hold after each thing, and a deploy then converges.

Deploys, rollbacks, kills, errors of the engine, deaths, what people do by hand, and repairs, drawn by hypothesis.
"""

from __future__ import annotations

from typing import Any

import pytest
from docker.errors import APIError
from fakes import Crash, World, quick_settings
from harness import FULL
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twin import Host, Rules, no_engine_and_no_waiting

from bluegreen.errors import BluegreenError, Failed, NeedsPerson
from bluegreen.proxies.agent import Answer
from bluegreen.settings import Settings

SETTINGS = {
    "live": quick_settings(probe={"successes": 1}),
    "two replicas, reload, standby": quick_settings(
        probe={"successes": 1}, app={"replicas": 2}, proxy={"switch": "reload"}, retire={"old": "standby"}
    ),
}
GOOD, BAD = ["v1", "v2", "v3"], "v4"
releases = st.sampled_from(GOOD)
moments = st.none() | st.integers(0, 70)
"""The point of a command at which something happens to it, if anything does."""


class Life(RuleBasedStateMachine):
    """A host, and what its users may rely on."""

    shop: Settings

    def __init__(self) -> None:
        super().__init__()
        world = World().has(*GOOD, BAD)
        world.add_image(self.shop.proxy.image, "sha256:proxy")
        world.answers[BAD] = lambda: Answer(500, "")
        self.host = Host(world, self.shop)
        self.harmed = False
        """Whether something of ours was broken that nobody has mended since."""
        self.stable: str | None = None
        """What was live when the last run had committed."""
        self.moved = 0

    @property
    def world(self) -> World:
        return self.host.world

    # What is typed

    @rule(name=releases, kill=moments, fail=moments)
    def deploy(self, name: str, kill: int | None, fail: int | None) -> None:
        self._type(f"deploy {name}", kill, fail, name)

    @rule(kill=moments, fail=moments)
    def rollback(self, kill: int | None, fail: int | None) -> None:
        other = self.host.fork()
        other.world.proxy_running = other.world.proxy is not None  # as it will be, whatever became of it
        status = other.status()
        wanted = status["rollback"]["release"]
        if status["unfinished"]:
            wanted = self.stable  # what was live before the run that was killed, and never what was before that
        if self.harmed:
            wanted = None  # it depends on what is whole
        self._type("rollback", kill, fail, wanted)

    @rule(name=releases, kill=moments)
    def rollback_to(self, name: str, kill: int | None) -> None:
        self._type(f"rollback {name}", kill, None, name)

    @rule(kill=moments)
    def deploy_what_never_answers_right(self, kill: int | None) -> None:
        try:
            self._type(f"deploy {BAD}", kill, None, None)
        except Failed:
            assert self.host.live() == self.stable or self.harmed

    # What happens

    @rule(number=st.integers(0, 3))
    @precondition(lambda self: self.world.standing("shop"))
    def a_container_dies_for_good(self, number: int) -> None:
        standing = self.world.standing("shop")
        container = standing[number % len(standing)]
        container.running = False
        self._lost(container.endpoint)

    @rule(number=st.integers(0, 3))
    @precondition(lambda self: self.world.standing("shop"))
    def a_person_removes_a_container(self, number: int) -> None:
        standing = self.world.standing("shop")
        container = self.world.containers.pop(standing[number % len(standing)].name)
        self._lost(container.endpoint)

    @rule()
    @precondition(lambda self: self.world.proxy is not None)
    def the_proxy_stops(self) -> None:
        self.world.proxy_running = False

    @rule(name=releases)
    def a_person_removes_an_image(self, name: str) -> None:
        gone = self.world.images.pop(f"shop:{name}", None)
        if gone:
            self.world.images.pop(gone.digest, None)

    @rule(name=releases)
    def a_tag_is_moved(self, name: str) -> None:
        self.moved += 1
        self.world.add_image(f"shop:{name}", f"sha256:{name}-again-{self.moved}")

    @rule()
    @precondition(lambda self: self.harmed or not self.world.proxy_running)
    def a_person_repairs(self) -> None:
        for container in self.world.standing("shop"):
            container.running = True
        self.world.proxy_running = self.world.proxy is not None
        self.harmed = self._is_harmed()
        self._settle()

    # What holds

    @invariant()
    def the_rules_hold(self) -> None:
        rules = Rules(self.world, strict=not self.harmed)
        rules.hold("rest")
        assert self.host.live() != BAD
        if self.world.proxy_running:
            self.host.status()

    def teardown(self) -> None:
        """From wherever it came to: one deploy converges."""
        if self.harmed:
            self.a_person_repairs()
        self.host.type("deploy v2", strict=not self.harmed)
        if self._is_known():
            self.host.settled("v2", "the end", before=set(GOOD))
        assert self.host.type("deploy v2")["result"] == "unchanged"

    def _type(self, command: str, kill: int | None, fail: int | None, wanted: str | None) -> None:
        """The command has done what it is for, or was killed, or said what is wrong and left what was live alone."""
        before = self.host.live()
        # What fails at its first deploy is taken away, whoever has begun to use it.
        strict = not self.harmed and not (before is None and fail is not None)
        try:
            receipt = self.host.type(
                command, kill=-1 if kill is None else kill, fail=-1 if fail is None else fail, strict=strict
            )
        except Crash:
            event("killed")
            self._settle()
        except NeedsPerson:
            event("a person is needed")
            assert self.harmed or fail is not None
            self.harmed = self.harmed or self._is_harmed()
            self._settle()
        except (BluegreenError, APIError):
            event("failed")
            assert self.host.live() == (self.stable or before) or self.harmed or fail is not None, command
            self._settle()
        else:
            event(receipt["result"])
            self.harmed = self._is_harmed()  # a rollback may go back to what has lost a replica meanwhile
            live = self.host.live()
            assert live == (wanted or live) or self.harmed, f"{command}: {live}, not {wanted}"
            if not receipt["leftover"] and not self.harmed and self._is_known():
                self.host.settled(live, command, before=set(GOOD))
            self.stable = live

    def _settle(self) -> None:
        """What a command committed before it was killed is what counts from now on."""
        carried = (self.world.proxy or {}).get("shop")
        if carried is None or carried.record.committed:
            self.stable = self.host.live()
        elif self.harmed:
            self.stable = None  # the command may have committed the run before it, and died in its own

    def _is_known(self) -> bool:
        """Whether the last switch came from something: if not, what else stands there may serve at another address."""
        carried = (self.world.proxy or {}).get("shop")
        return carried is not None and carried.record.from_colour is not None

    def _lost(self, endpoint: Any) -> None:
        """A replica is gone, and with it the uploads to it."""
        self.world.uploads = [each for each in self.world.uploads if each != endpoint]
        self.harmed = True

    def _is_harmed(self) -> bool:
        carried = (self.world.proxy or {}).get("shop")
        if carried is None or carried.colour is None:
            return False
        live = carried.upstreams.get(carried.colour, ())
        running = {each.endpoint for each in self.world.standing("shop") if each.running}
        return len(live) < self.shop.app.replicas or not set(live) <= running


@pytest.mark.parametrize("shop", SETTINGS.values(), ids=SETTINGS.keys())
def test_whatever_happens_the_rules_hold_and_a_deploy_converges(
    shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_engine_and_no_waiting(monkeypatch)

    class Shop(Life):
        pass

    Shop.shop = shop
    run_state_machine_as_test(
        Shop,
        settings=settings(
            max_examples=1000 if FULL else 40,
            stateful_step_count=30 if FULL else 15,
            derandomize=not FULL,  # a change is judged by what it changes; `bench/crash` looks for what nobody has seen
            deadline=None,
            report_multiple_bugs=False,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink an example takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
    monkeypatch.undo()
