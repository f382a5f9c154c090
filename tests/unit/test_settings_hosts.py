"""What the settings say of several hosts, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from bluegreen.errors import SettingsError
from bluegreen.settings import Settings, parse

LEAST = {"service": "shop", "app": {"port": 8000}}


def with_hosts(*hosts: Any, **tables: Any) -> Settings:
    return parse({**LEAST, "hosts": list(hosts), **tables})


def problem(*hosts: Any, **tables: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        with_hosts(*hosts, **tables)
    return caught.value.message


def test_a_host_is_a_socket_an_address_or_a_context_and_called_after_it() -> None:
    found = with_hosts(
        "unix:///var/run/docker.sock", "ssh://deploy@node1:2222", "tcp://10.0.0.2:2376", "staging",
        {"engine": "ssh://node5", "name": "five", "address": "10.0.0.5"},
    ).hosts  # fmt: skip
    assert [host.name for host in found] == ["local", "node1", "10.0.0.2", "staging", "five"]
    assert [host.reached_at for host in found] == ["", "", "10.0.0.2", "", "10.0.0.5"]
    assert all(host.tls for host in found)


NO_ENGINES = """tcp://node tcp://node:0 tcp://node:99999 tcp://node:2376/x http://node:2375 unix://docker.sock ssh://
    ssh://user:password@node /var/run/docker.sock ssh://node:x -context"""


@pytest.mark.parametrize("engine", [*NO_ENGINES.split(), "a b", ""])
def test_what_is_no_engine_is_refused(engine: str) -> None:
    assert "hosts" in problem(engine)


def test_two_hosts_are_told_apart() -> None:
    assert "two have the engine 'ssh://a'" in problem("ssh://a", "ssh://a").replace('"', "'")
    said = problem("ssh://root@a:1", "ssh://root@a:2")
    assert "two have the name" in said
    assert "give them names" in said


def test_where_the_hosts_are_does_not_make_a_release_another_one() -> None:
    assert with_hosts("ssh://a", "ssh://b").hash == parse(LEAST).hash


def test_a_proxy_that_sends_to_all_hosts_has_to_know_where_they_are() -> None:
    everywhere = {"proxy": {"upstreams": "all"}}
    published = {"app": {"port": 8000, "publish": 20000}}
    assert "proxy.upstreams" in problem("ssh://10.0.0.1", **everywhere, **published)
    assert "needs app.publish" in problem("ssh://10.0.0.1", "ssh://10.0.0.2", **everywhere)
    assert "where node2 is reached" in problem("ssh://10.0.0.1", "ssh://node2", **everywhere, **published)
    assert with_hosts("ssh://10.0.0.1", "ssh://10.0.0.2", **everywhere, **published).proxy.upstreams == "all"
    assert "hosts.0.address" in problem({"engine": "ssh://a", "address": "a"}).replace("[", ".").replace("]", "")
