"""Mode tcp and plain load balancers: what the settings admit, what is rendered, and what a connection tells."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from bluegreen.errors import SettingsError
from bluegreen.model import Colour, Endpoint, Release
from bluegreen.proxies.container import ProxyContainer
from bluegreen.proxies.haproxy import HAProxy
from bluegreen.proxies.nginx import STREAM, Nginx
from bluegreen.proxies.templates import stamp_of
from bluegreen.settings import Settings, parse
from bluegreen.steps import Probe, Verify
from bluegreen.witness import Connector, Witness

MASTERS = {"name": "masters", "listen": "0.0.0.0:6443", "servers": ["192.168.0.200:6443", "192.168.0.201:6443"]}
UPSTREAMS = {Colour.BLUE: [Endpoint("172.29.0.2", 9000)], Colour.GREEN: [Endpoint("172.29.0.3", 9000)]}


def settings(probe: dict[str, Any] | None = None, **proxy: Any) -> Settings:
    return parse({"service": "shop", "app": {"port": 9000}, "probe": probe or {}, "proxy": proxy})


def problem(probe: dict[str, Any] | None = None, **proxy: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        settings(probe, **proxy)
    return caught.value.message.splitlines()[1].strip()


def rendered(colour: Colour = Colour.BLUE, **proxy: Any) -> str:
    found = settings(**proxy)
    container = ProxyContainer(None, found.proxy)
    driver = HAProxy(found, container) if found.proxy.kind == "haproxy" else Nginx(found, container)
    driver._version = "1.22.1"
    return driver.render(UPSTREAMS, colour)


# Settings


@pytest.mark.parametrize(
    ("kind", "mode", "switch", "live"),
    [
        ("nginx", "http", "auto", True),
        ("nginx", "http", "reload", False),
        ("nginx", "tcp", "auto", False),
        ("haproxy", "tcp", "auto", True),
        ("haproxy", "tcp", "live", True),
        ("haproxy", "tcp", "reload", False),
    ],
)
def test_traffic_is_switched_in_place_where_the_proxy_can(kind: str, mode: str, switch: str, live: bool) -> None:
    assert settings(kind=kind, mode=mode, switch=switch).proxy.live is live


def test_the_probe_is_a_connection_in_tcp_mode_unless_the_settings_say_otherwise() -> None:
    assert settings().probe_kind == "http"
    assert settings(mode="tcp").probe_kind == "tcp"
    assert settings({"kind": "http", "body": "version {number}"}, mode="tcp").probe_kind == "http"


def test_what_can_not_be_is_refused_with_its_path() -> None:
    assert problem(mode="tcp", switch="live").startswith("proxy.switch: can't be live with nginx in tcp mode")
    assert problem(mode="tcp", hosts=["a.com"]).startswith("proxy.hosts: must be left out in tcp mode")
    assert problem({"kind": "tcp"}).startswith('proxy.mode: must be "tcp"')
    words = problem({"body": "ok", "path": "/"}, mode="tcp")
    assert words.startswith("proxy.mode: ")
    assert "probe.path, probe.body" in words
    assert 'probe.kind = "http"' in words
    assert problem(tcp={"timeout": "0s"}).startswith("proxy.tcp.timeout: ")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"name": "a b"}, "proxy.static[0].name: "),
        ({"name": "x;}"}, "proxy.static[0].name: "),
        ({"listen": "6443"}, "proxy.static[0].listen: "),
        ({"listen": "0.0.0.0:8080"}, "proxy.static[0].listen: "),
        ({"servers": []}, "proxy.static[0].servers: "),
        ({"servers": ["a.com:1"]}, "proxy.static[0].servers[0]: "),
        ({"servers": ["0.0.0.0:1"]}, "proxy.static[0].servers[0]: "),
        ({"servers": ["10.0.0.1:1", "10.0.0.1:1"]}, "proxy.static[0].servers: "),
        ({"servers": ["10.0.0.1:1; }"]}, "proxy.static[0].servers[0]: "),
        ({"balance": "source"}, "proxy.static[0].balance: "),
        ({"weight": 1}, "proxy.static[0].weight: is not known"),
    ],
)
def test_a_load_balancer_that_can_not_be_is_refused_with_its_path(change: dict[str, Any], where: str) -> None:
    assert problem(static=[{**MASTERS, **change}]).startswith(where)


def test_load_balancers_stand_apart_from_each_other_and_from_the_service() -> None:
    assert "the name masters" in problem(static=[MASTERS, {**MASTERS, "listen": "0.0.0.0:1"}])
    assert "the port 6443" in problem(static=[MASTERS, {**MASTERS, "name": "b", "listen": "127.0.0.1:6443"}])
    assert "as the service does" in problem(listen="0.0.0.0:6443", static=[MASTERS])


# Rendering


def test_nginx_carries_connections_to_the_colour_in_use() -> None:
    text = rendered(Colour.GREEN, mode="tcp", tcp={"timeout": "5m", "connect_timeout": "1s"})
    http, _, stream = text.partition(STREAM)
    assert f'return 200 "{stamp_of(text)} shop_green\\n";' in http
    assert "upstream" not in http
    for line in (
        "server 172.29.0.2:9000 ",
        "server 172.29.0.3:9000 ",
        "listen 8081;",
        "proxy_pass shop_green;",
        "proxy_timeout 300000ms;",
        "proxy_connect_timeout 1000ms;",
    ):
        assert line in stream
    assert stamp_of(text) != stamp_of(rendered(Colour.BLUE, mode="tcp"))


def test_haproxy_carries_connections_to_the_colour_that_the_map_names() -> None:
    text = rendered(kind="haproxy", mode="tcp")
    frontend = text[text.index("frontend shop_tcp") :]
    assert "use_backend %[str(shop),map_str(/bluegreen/live.map)]" in frontend
    for backend in ("shop_blue", "shop_green", "shop_blue_first", "shop_green_first"):
        part = text[text.index(f"backend {backend}\n") :].split("\n\n")[0]
        assert "mode tcp" in part
        assert "timeout server 300000ms" in part
    assert "http-request deny" not in text


def test_a_fixed_load_balancer_stands_beside_a_service_of_either_mode() -> None:
    for mode in ("http", "tcp"):
        nginx = rendered(mode=mode, static=[{**MASTERS, "balance": "leastconn"}]).partition(STREAM)[2]
        assert "upstream shop_static_masters {\n    least_conn;\n    server 192.168.0.200:6443 " in nginx
        assert "listen 6443;\n    proxy_pass shop_static_masters;" in nginx
        haproxy = rendered(kind="haproxy", mode=mode, static=[{**MASTERS, "balance": "leastconn"}])
        part = haproxy[haproxy.index("listen shop_static_masters\n") :]
        assert "bind :6443" in part
        assert "balance leastconn" in part
        assert part.count("server s") == 2
    assert STREAM not in rendered()


# What a connection tells


@contextmanager
def listening(*, closes: bool) -> Iterator[str]:
    """The url of a server that takes connections and closes each at once, or keeps them."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                if closes:
                    connection.close()
                else:
                    kept.append(connection)

        threading.Thread(target=take, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for connection in kept:
                connection.close()


def test_a_connection_is_good_that_is_taken_and_kept() -> None:
    with listening(closes=False) as url:
        answer = Connector(url).ask()
    assert (answer.why, answer.status, answer.connection) == ("", 0, "fresh")
    with listening(closes=True) as url:
        assert Connector(url).ask().why in ("closed at once", "reset on a fresh connection")
    assert Connector(url).ask().why == "refused"


def test_the_witness_counts_connections_and_does_not_know_whose_they_are() -> None:
    with listening(closes=False) as url:
        witness = Witness(
            url, "/", host=None, expected={"v1": None, "v2": None}, rate=50, connections=0, timeout=5, kind="tcp"
        )
        assert witness.reachable() is None
        witness.start()
        witness.switched("v2")
        while witness.live_counts().get("unknown", 0) < 5:
            time.sleep(0.01)
        assert witness.verdict() is None
        witness.stop()
        summary = witness.summary()
    assert summary["requests"]["failed"] == 0
    assert summary["requests"]["by_release"]["unknown"] >= 5
    assert summary["latency_ms"]["during"]["p50"] is not None
    assert summary["switch"]["first_new_ms"] is None


def test_the_witness_takes_a_switch_back_after_which_nobody_answers() -> None:
    with listening(closes=False) as url:
        witness = Witness(
            url, "/", host=None, expected={"v1": None, "v2": None}, rate=50, connections=0, timeout=5, kind="tcp"
        )
        witness.start()
        while witness.live_counts().get("unknown", 0) < 3:
            time.sleep(0.01)
    with closing(socket.socket()):
        witness.switched("v2")
        while (reason := witness.verdict()) is None:
            time.sleep(0.01)
    witness.stop()
    assert "failed twice running" in reason
    assert "for a connection, sent" in reason


def test_the_plan_says_that_it_connects() -> None:
    found = settings(mode="tcp")
    plan: Any = type("Plan", (), {"release": Release("v2")})
    observed: Any = None
    assert Probe.describe(plan, found, observed) == "connect until it is accepted 3 times in a row"
    assert "through the proxy" in Verify.describe(plan, found, observed)
