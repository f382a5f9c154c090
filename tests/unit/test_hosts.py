"""Several hosts as one: all or none, whatever dies in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import Crash, quick_settings
from harness import FULL
from several import NAMES, Several, hosts_of, in_order, live_on, serves

from bluegreen import doctor
from bluegreen.doctor import Finding
from bluegreen.errors import BluegreenError, Failed
from bluegreen.hosts import Host, Hosts, agree
from bluegreen.model import Colour, Endpoint, ProxyState, SwitchRecord
from bluegreen.proxies.agent import AgentError, Answer
from bluegreen.proxies.hosts import HostsProxy
from bluegreen.service import Options, Service
from bluegreen.settings import Settings

BLUE, GREEN = Colour.BLUE, Colour.GREEN
ENGINES = [{"engine": f"ssh://{name}", "name": name} for name in NAMES]
STRIDE = 1 if FULL else 5
"""How many points lie between two that are tried."""


def made(**tables: Any) -> Settings:
    return quick_settings(**{"probe": {"successes": 1}, "hosts": ENGINES, **tables})


SETTINGS = {
    "live": made(),
    "standby, reload": made(retire={"old": "standby"}, proxy={"switch": "reload"}),
    "registry": made(registry={"server": "gitlab.test:8001"}),
}
JOBS = {
    "first deploy": ((), "deploy v1"),
    "deploy": (("v1",), "deploy v2"),
    "rollback": (("v1", "v2", "v3"), "rollback"),
}
every_job = pytest.mark.parametrize(("deployed", "command"), JOBS.values(), ids=JOBS)
every_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


@pytest.fixture(autouse=True)
def _in_order(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    in_order(monkeypatch)
    yield
    monkeypatch.undo()


def harmless(hosts: Several, *, gently: bool = True) -> Callable[[int, str, str], None]:
    """What is looked at at every point: each host serves what has passed its probe, and uploads end some time."""

    def at(number: int, host: str, name: str) -> None:
        world = hosts.worlds[host]
        serves(world, gently=gently)
        if name == "in_flight":
            world.uploads.clear()

    return at


@every_setting
@every_job
def test_a_deploy_and_a_rollback_are_one_of_all_hosts(
    settings: Settings, deployed: tuple[str, ...], command: str
) -> None:
    hosts = hosts_of(settings, *deployed)
    receipt = hosts.type(command, harmless(hosts))
    assert receipt["result"] == "done"
    hosts.agreed(receipt["to"])
    switched = [step["host"] for step in receipt["steps"] if step["step"] == "switch" and step["state"] == "done"]
    assert switched == [*NAMES, "3 hosts"]
    assert hosts.type(f"deploy {receipt['to']}")["result"] == "unchanged"


def points(hosts: Several, command: str) -> int:
    other = hosts.fork()
    other.type(command)
    return len(other.points)


@every_setting
@every_job
def test_after_a_kill_anywhere_the_next_command_makes_all_hosts_agree(
    settings: Settings, deployed: tuple[str, ...], command: str
) -> None:
    hosts = hosts_of(settings, *deployed)
    count = points(hosts, command)
    assert count > 60
    for number in range(0, count, STRIDE):
        killed = hosts.fork()
        look = harmless(killed)

        def at(passed: int, host: str, name: str, number: int = number, look: Any = look) -> None:
            look(passed, host, name)
            if passed == number:
                raise Crash

        with pytest.raises(Crash):
            killed.type(command, at)
        where = f"{command} killed at {number} {killed.points[-1]}"
        serving = {each for each in killed.live().values() if each}
        killed.service().status()
        following = ("deploy v1", "deploy v2", "rollback")[number % 3]
        if following == "rollback" and not deployed:
            following = "deploy v3"
        where += f", then {following}"
        receipt = killed.type(following, harmless(killed))
        if following == "rollback":
            assert receipt["to"] in serving | {*deployed, "v1"}, where
        else:
            assert receipt["to"] == following.split()[1], where
        killed.agreed(receipt["to"], where)


@every_setting
@every_job
@pytest.mark.parametrize("name", ["one", "three"])
def test_a_host_that_dies_anywhere_never_leaves_two_releases_on_the_others(
    settings: Settings, deployed: tuple[str, ...], command: str, name: str
) -> None:
    hosts = hosts_of(settings, *deployed)
    old, count = live_on(hosts.worlds["one"]), points(hosts, command)
    results = set()
    for number in range(0, count, STRIDE):
        other = hosts.fork()
        look = harmless(other)

        def at(passed: int, host: str, point: str, number: int = number, other: Any = other, look: Any = look) -> None:
            look(passed, host, point)
            if passed == number:
                other.away.add(name)

        result, error = ended(other, command, at)
        if error:
            assert error.exit_code == 1, f"{number}: {error.message}"
            assert name in error.message or "no route to host" in error.message, error.message
        where = f"{command}, {name} gone at {number}: {result}"
        left = {live_on(world) for each, world in other.worlds.items() if each != name}
        wanted = (old,) if result == "undone" else (command.partition(" ")[2] or "v2",)
        assert left == {*wanted}, where
        results.add(result)
        serves(other.worlds[name], gently=bool(deployed))
        other.away.clear()
        following = "deploy v3" if number % 2 else "deploy v1"
        other.type(following, harmless(other, gently=bool(deployed)))  # a first one that was undone has no clients
        other.agreed(following.split()[1], f"{where}, then {following}")
    assert results == {"done", "undone"}


def ended(hosts: Several, command: str, at: Callable[[int, str, str], None]) -> tuple[str, BluegreenError | None]:
    """The result of the command, and its error if it was undone."""
    try:
        return str(hosts.type(command, at)["result"]), None
    except BluegreenError as error:
        return "undone", error


def test_a_host_that_is_away_before_is_refused_and_left_out_when_asked_and_brought_back_later() -> None:
    hosts = hosts_of(SETTINGS["live"], "v1")
    hosts.away.add("two")
    with pytest.raises(Failed, match="two can't be reached, and nothing was changed"):
        hosts.type("deploy v2")
    hosts.options = Options(witness=False, skip_unreachable=True)
    for release in ("v2", "v3"):
        assert hosts.type(f"deploy {release}")["result"] == "done"
        assert "two is left out: no route to host" in [event.detail for event in hosts.told]
    assert hosts.live() == {"one": "v3", "two": "v1", "three": "v3"}
    hosts.away.clear()
    status = hosts.service().status()
    assert [host["behind"] for host in status["hosts"]] == [None, "its switch 1 is older than 3", None]
    assert [each.what for each in doctor.hosts(hosts.service())] == ["two is behind: its switch 1 is older than 3"]
    assert (status["live"]["release"], status["live"]["replicas"]) == ("v3", {"running": 2, "wanted": 2})
    # What it serves stands in the colour that is wanted: it is brought there by way of the other one.
    look = harmless(hosts)
    assert hosts.type("sync", look)["result"] == ["two: v3 serves there now, in the place of v1"]
    hosts.agreed("v3")
    assert list(doctor.hosts(hosts.service())) == []
    assert hosts.type("sync")["result"] == ["every host serves what is live"]


def test_hosts_that_were_left_out_by_turns_are_brought_to_the_latest_of_them() -> None:
    hosts = hosts_of(SETTINGS["live"], "v1")
    hosts.options = Options(witness=False, skip_unreachable=True)
    for away, release in (({"one", "two"}, "v2"), ({"three"}, "v3")):
        hosts.away = set(away)
        hosts.type(f"deploy {release}")
    hosts.away.clear()
    assert hosts.live() == {"one": "v3", "two": "v3", "three": "v2"}
    numbers = [(world.proxy or {})["shop"].record.number for world in hosts.worlds.values()]
    assert numbers == [2, 2, 2]
    assert "is that of another run" in hosts.service().status()["hosts"][2]["behind"]
    hosts.type("sync", harmless(hosts))
    hosts.agreed("v3")


def test_what_does_not_pass_its_probe_is_not_committed_where_the_others_have_committed_it() -> None:
    hosts = hosts_of(SETTINGS["live"], "v1", "v2")
    world = hosts.worlds["three"]
    carried = (world.proxy or {})["shop"]
    carried.record = replace(carried.record, committed=False)
    for container in world.standing("shop"):
        container.running = False
    with pytest.raises(Failed, match="three can't be brought to v2, which it is switched to"):
        hosts.type("sync")
    assert not carried.record.committed
    for container in world.standing("shop"):
        container.running = True
    hosts.type("sync")
    hosts.agreed("v2")


def test_a_host_that_is_new_gets_what_is_live() -> None:
    hosts = hosts_of(SETTINGS["live"], "v1", "v2")
    fresh = hosts_of(SETTINGS["live"]).worlds["three"]
    fresh.images.pop("shop:v2")
    fresh.images.pop("sha256:v2")
    hosts.worlds["three"] = fresh
    assert hosts.service().status()["hosts"][2]["behind"] == "it has never served"
    assert hosts.type("sync")["result"] == ["three: v2 serves there now"]
    hosts.agreed("v2")


def test_without_a_registry_images_travel_from_one_host_to_the_others() -> None:
    hosts = hosts_of(SETTINGS["live"], "v1")
    receipt = hosts.type("deploy v9")
    assert [step["host"] for step in receipt["steps"] if step["step"] == "copy"] == ["two", "three", "3 hosts"]
    hosts.agreed("v9")
    for name in ("two", "three"):
        for image in ("shop:v1", "sha256:v1"):
            hosts.worlds[name].images.pop(image, None)
    assert "copy" in [step.step for step in hosts.service().plan_rollback(None).steps]
    assert hosts.type("rollback")["to"] == "v1"
    hosts.agreed("v1")


def test_a_proxy_that_refuses_its_file_changes_nothing_on_any() -> None:
    hosts = hosts_of(SETTINGS["live"], "v1")

    def at(number: int, host: str, name: str) -> None:
        if (host, name) == ("three", "prepare_proxy:end"):
            raise Failed("nginx refuses the new config")

    with pytest.raises(Failed) as caught:
        hosts.type("deploy v2", at)
    assert caught.value.message == "three: nginx refuses the new config\nv1 still serves"
    assert not [event for event in hosts.told if (event.step, event.state) == ("switch", "done")]
    hosts.agreed("v1")


def test_a_proxy_that_does_not_answer_right_after_its_switch_keeps_the_next_from_being_switched() -> None:
    hosts = hosts_of(SETTINGS["live"], "v1")
    switched: list[str] = []

    def at(number: int, host: str, name: str) -> None:
        if name == "switch:end":
            switched.append(host)
        if (host, name) == ("two", "get"):
            raise Failed("two answers nonsense")

    with pytest.raises(Failed, match="two answers nonsense"):
        hosts.type("deploy v2", at)
    assert switched[:2] == ["one", "two"]
    assert "three" not in switched[:2]
    hosts.agreed("v1")


def state(number: int, to: Colour, *, committed: bool = True, serving: Colour | None = None, **more: Any) -> ProxyState:
    record = SwitchRecord(number, more.pop("run", f"run-{number}"), to.other, to, committed, **more)
    return ProxyState(exists=True, running=True, colour=serving or to, record=record)


def agreed(*states: ProxyState) -> tuple[int, Colour | None, bool, dict[str, str]]:
    found, behind = agree(dict(zip(NAMES, states, strict=False)))
    assert found.record
    return found.record.number, found.colour, found.record.committed, behind


def test_what_one_has_committed_holds_for_all() -> None:
    assert agreed(state(2, GREEN), state(2, GREEN), state(2, GREEN)) == (2, GREEN, True, {})
    number, colour, committed, behind = agreed(state(2, GREEN), state(2, GREEN, committed=False), state(1, BLUE))
    assert (number, colour, committed) == (2, GREEN, True)
    assert behind == {"two": "its switch 2 is not committed", "three": "its switch 1 is older than 2"}


def test_a_switch_that_none_has_committed_is_unfinished_and_taken_from_where_it_has_been_made() -> None:
    open_ = state(2, GREEN, committed=False)
    assert agreed(open_, state(1, BLUE), state(1, BLUE)) == (2, GREEN, False, {})
    not_yet = replace(open_, colour=BLUE)
    assert agreed(not_yet, state(1, BLUE), state(1, BLUE)) == (2, BLUE, False, {})
    undone = state(3, BLUE, run="run-2", undone=True)
    assert agreed(undone, open_, undone) == (3, GREEN, False, {})
    assert agreed(undone, state(1, BLUE), undone) == (3, BLUE, True, {"two": "its switch 1 is older than 3"})


def test_a_host_that_was_behind_before_the_unfinished_run_is_behind_still() -> None:
    assert agreed(state(5, GREEN, committed=False), state(4, BLUE), state(3, GREEN))[3] == {
        "three": "its switch 3 is older than 4"
    }


def test_a_proxy_that_is_down_or_serves_another_colour_is_behind() -> None:
    down = ProxyState(exists=True)
    assert agreed(state(2, GREEN), down, state(2, GREEN, serving=BLUE)) == (
        *(2, GREEN, True),
        {"two": "its proxy does not run", "three": "it serves blue, not green"},
    )


class Recording:
    """A proxy that says what it was given to send to."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def render(self, upstreams: Any, colour: Colour) -> str:
        return " ".join(str(each) for each in upstreams[colour])

    def get_from(self, endpoint: Endpoint, path: str, host: str, timeout: float) -> Answer:
        self.given.append(str(endpoint))
        return Answer(200, "version 1" if endpoint.address.startswith("172.") else "version 2")

    def in_flight(self, endpoints: Any) -> int:
        self.given += [str(each) for each in endpoints]
        return len(endpoints)


@pytest.mark.parametrize("upstreams", ["local", "all"])
def test_each_proxy_sends_to_its_own_host_or_to_all(upstreams: str) -> None:
    engines = [{**each, "address": f"10.0.0.{number}"} for number, each in enumerate(ENGINES, 1)]
    settings = made(hosts=engines, proxy={"upstreams": upstreams}, app={"publish": 20000})
    hosts = [Host(name, None, runtime(name), Recording()) for name in NAMES]  # type: ignore[arg-type]
    proxy = HostsProxy(Hosts(hosts), settings)
    endpoints = [Endpoint("172.29.0.2", 8000, name, f"10.0.0.{number}:20000") for number, name in enumerate(NAMES, 1)]
    rendered = proxy.render({BLUE: endpoints, GREEN: []}, BLUE)
    asked = proxy.get_from(endpoints[1], "/version", "shop", 1)
    count = proxy.in_flight(endpoints)
    if upstreams == "local":
        assert rendered == "172.29.0.2:8000"
        assert (asked.body, count) == ("version 1", 3)
        assert hosts[1].proxy.given == ["172.29.0.2:8000"] * 2
        assert hosts[0].proxy.given == ["172.29.0.2:8000"]
    else:
        assert "# two\n172.29.0.2:8000 10.0.0.1:20000 10.0.0.3:20000" in rendered
        assert (asked.body, count) == ("version 2 and version 1", 9)
        assert hosts[0].proxy.given[0] == "10.0.0.2:20000"


def test_of_several_proxies_that_ask_one_replica_the_one_that_does_not_reach_it_is_named() -> None:
    class CutOff(Recording):
        def get_from(self, endpoint: Endpoint, path: str, host: str, timeout: float) -> Answer:
            raise AgentError("no connection within 5 s")

    def told(endpoint: Endpoint) -> str:
        proxies = [Recording(), CutOff(), Recording()]
        hosts = [Host(name, None, runtime(name), each) for name, each in zip(NAMES, proxies, strict=True)]  # type: ignore[arg-type]
        with pytest.raises(AgentError) as caught:
            HostsProxy(Hosts(hosts), made()).get_from(endpoint, "/version", "shop", 1)
        return caught.value.message

    assert told(Endpoint("10.0.1.5", 8000)) == "asked by the proxy of two: no connection within 5 s"
    assert told(Endpoint("172.29.0.2", 8000, "two")) == "no connection within 5 s", "no other sends to it"


def runtime(name: str) -> Any:
    return SimpleNamespace(answers=lambda: True)


def test_doctor_asks_every_host_and_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def engine(service: Service) -> Iterator[Finding]:
        yield Finding("engine", "ok", service.client.info()["ID"])

    def hooks(service: Service) -> Iterator[Finding]:
        yield Finding("hooks", "ok", "none")

    def registry(service: Service) -> Iterator[Finding]:
        yield Finding("registry login", "warning", "no credentials")
        raise Failed("it does not let nobody look", hint="docker login")

    monkeypatch.setattr(doctor, "CHECKS", (engine, hooks, registry))
    monkeypatch.setattr(doctor, "OF_A_HOST", {engine})
    hosts = hosts_of(SETTINGS["live"], "v1")
    hosts.away.add("two")
    assert [(each.check, each.level, each.what) for each in doctor.examine(hosts.service())] == [
        ("hosts", "error", "two can't be reached: no route to host"),
        ("engine of one", "ok", "one"),
        ("engine of three", "ok", "three"),
        ("hooks", "ok", "none"),
        ("registry login", "warning", "no credentials"),
        ("registry", "error", "it does not let nobody look"),
    ]
