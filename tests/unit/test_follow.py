"""What a proxy's file says of tasks, beside where they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from bluegreen.follow import astray, follows
from bluegreen.model import Colour, Endpoint, Release, Replica, Slot, SwitchRecord
from bluegreen.proxies import Proxy
from bluegreen.proxies.agent import Answer
from bluegreen.proxies.driver import Driver
from bluegreen.proxies.haproxy import HAProxy
from bluegreen.proxies.nginx import Nginx
from bluegreen.proxies.place import Place
from bluegreen.runtimes import Runtime
from bluegreen.settings import parse
from bluegreen.steps import Run, unfit


def at(*numbers: int) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(f"10.0.1.{number}", 9000, follows="tasks.shop-blue") for number in numbers)


def live(*numbers: int) -> Slot:
    replicas = tuple(Replica(str(each), "", True, each) for each in at(*numbers))
    return Slot(Colour.BLUE, Release("v1"), "", "run", "", len(replicas), replicas)


def driver(kind: str, version: str = "1.30.6") -> Driver:
    proxy = {"kind": kind, "image": f"{kind}:any"}
    settings = parse({"service": "shop", "runtime": "swarm", "app": {"port": 9000}, "proxy": proxy})
    names = ["agent", "services", "prefix", "root", "streams", "bind", "tls_bind", "admin", "main"]
    place = SimpleNamespace(**dict.fromkeys(names, ""), service_files=lambda suffix: [], owns_process=True)
    place.bind = "8080"
    place.agent = SimpleNamespace(run=lambda *command: (1, ""))
    kinds: dict[str, type[Driver]] = {"nginx": Nginx, "haproxy": HAProxy}
    made = kinds[kind](settings, cast(Place, place))
    made._version = version
    return made


def upstreams(*numbers: int) -> dict[Colour, tuple[Endpoint, ...]]:
    return {Colour.BLUE: at(*numbers), Colour.GREEN: (Endpoint("127.0.0.1", 9),)}


def rendered(kind: str, *numbers: int, version: str = "1.30.6") -> str:
    """The file of a proxy whose blue has these tasks."""
    return driver(kind, version).render(upstreams(*numbers), Colour.BLUE)


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
def test_a_file_that_has_the_tasks_as_they_are_is_left(kind: str) -> None:
    assert astray(rendered(kind, 2, 3), "shop", live(2, 3)) == []


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
def test_a_task_that_has_moved_is_missing_where_it_is_and_gone_where_it_was(kind: str) -> None:
    assert astray(rendered(kind, 2, 3), "shop", live(2, 7)) == ["10.0.1.7 is missing", "10.0.1.3 is gone"]


def test_a_new_nginx_follows_the_names_of_tasks_and_an_older_one_has_their_addresses_alone() -> None:
    new, old = rendered("nginx", 2, 3), rendered("nginx", 2, 3, version="1.27.2")
    assert "server tasks.shop-blue:9000 resolve" in new
    assert "resolve" not in old
    assert "server 10.0.1.3:9000 max_fails=1 fail_timeout=1s backup;" in new
    assert "zone" not in old


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
def test_what_was_removed_is_not_asked_for_any_more(kind: str) -> None:
    text = rendered(kind, 2).replace("127.0.0.1:9 ", "tasks.shop-green:9000 ")
    assert astray(text, "shop", live(2)) == []
    assert astray(text, "shop", live(2), alone=True) == ["shop-green is gone"]


def test_haproxy_has_every_server_begin_where_its_task_is_and_follow_it() -> None:
    text = rendered("haproxy", 2, 3)
    begins = "resolvers shop.swarm resolve-prefer ipv4 init-addr"
    assert f"server new2 tasks.shop-blue:9000 weight 1 {begins} 10.0.1.3" in text
    assert "server new1 127.0.0.1:9 weight 1" in text
    assert "resolvers shop.swarm\n    nameserver engine 127.0.0.11:53" in text


@pytest.mark.parametrize("undone", [False, True])
def test_haproxy_counts_no_task_as_up_that_may_be_cut_off_when_a_switch_is_taken_back(
    undone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    proxy = driver("haproxy")
    for name, does in (
        ("_ask", lambda command: asked.extend(command.split("; "))),
        ("_serving", lambda: ("", Colour.BLUE)),
        ("_stands", lambda *_: True),
        ("_install", lambda _: None),
        ("_write_routes", lambda _: None),
        ("_write_record", lambda _: None),
    ):
        monkeypatch.setattr(proxy, name, does)
    proxy.switch(SwitchRecord(2, "run", Colour.GREEN, Colour.BLUE, undone, undone=undone), upstreams(2, 3))
    up = [each for each in asked if "health up" in each]
    assert up == [] if undone else "set server shop_blue/new2 health up" in up
    assert asked[-1].startswith("set map ")


def test_a_task_that_has_moved_during_the_run_is_drained_where_it_was_and_where_it_is() -> None:
    runtime = SimpleNamespace(endpoints=lambda colour, count: at(3, 7) if colour is Colour.BLUE else ())
    settings = SimpleNamespace(app=SimpleNamespace(replicas=2))
    run = cast(Run, SimpleNamespace(old=live(2, 3), runtime=runtime, settings=settings))
    assert Run.old_endpoints.fget(run) == at(2, 3, 7)


def test_haproxy_follows_and_nginx_does_from_the_version_on_that_can() -> None:
    found = [follows("nginx", version) for version in ("1.22.1", "1.27.2", "1.27.3", "1.30.6")]
    assert (found, follows("haproxy", "2.6.12")) == ([False, False, True, True], True)


@pytest.mark.parametrize(
    ("reached", "amiss"), [((5, 6), []), ((6,), []), ((), ["10.0.1.5:9000", "10.0.1.6:9000"])]
)
def test_of_the_tasks_of_a_swarm_one_that_is_reached_can_take_the_traffic_back(
    reached: tuple[int, ...], amiss: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get_from(endpoint: Endpoint, path: str, host: str, timeout: float) -> Answer:
        return Answer(200 if endpoint in at(*reached) else 503, "")

    monkeypatch.setattr("bluegreen.steps.TAKE_BACK", 0)
    settings = parse({"service": "shop", "runtime": "swarm", "app": {"port": 9000}})
    runtime = SimpleNamespace(replicas=lambda colour: live(5, 6).replicas)
    proxy = SimpleNamespace(get_from=get_from)
    found = unfit(settings, cast(Runtime, runtime), cast(Proxy, proxy), live(5, 6))
    assert [each.split(": ")[0] for each in found.split("; ") if each] == amiss
