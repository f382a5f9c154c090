"""Mode tcp and plain load balancers: what the settings admit, what is rendered, and what a connection tells."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness import eventually

from bluegreen.errors import SettingsError
from bluegreen.model import Colour, Endpoint, Release
from bluegreen.proxies.agent import AgentError
from bluegreen.proxies.container import ProxyContainer
from bluegreen.proxies.driver import Driver
from bluegreen.proxies.haproxy import HAProxy
from bluegreen.proxies.host import ProxyHost
from bluegreen.proxies.nginx import STREAM, Nginx
from bluegreen.proxies.templates import stamp_of
from bluegreen.runtimes.connect import LOCAL
from bluegreen.settings import Settings, parse
from bluegreen.steps import Probe, Verify
from bluegreen.witness import Connector, Witness

MASTERS = {
    "name": "masters",
    "listen": "0.0.0.0:6443",
    "servers": ["192.168.0.200:6443", "192.168.0.201:6443", "192.168.0.202:6443"],
}
UPSTREAMS = {Colour.BLUE: [Endpoint("172.29.0.2", 9000)], Colour.GREEN: [Endpoint("172.29.0.3", 9000)]}


def settings(probe: dict[str, Any] | None = None, **proxy: Any) -> Settings:
    return parse({"service": "shop", "app": {"port": 9000}, "probe": probe or {}, "proxy": proxy})


def problem(probe: dict[str, Any] | None = None, **proxy: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        settings(probe, **proxy)
    return caught.value.message.splitlines()[1].strip()


class Nobody:
    """An agent in a place where no file is yet, and nginx has its stream module beside it."""

    def run(self, *command: str) -> tuple[int, str]:
        return 0, "configure arguments: --modules-path=/usr/lib/nginx/modules --with-stream=dynamic"

    def read_there(self, paths: Iterable[str]) -> dict[str, str]:
        return {}

    def exists(self, path: str) -> bool:
        return False

    def read(self, path: str) -> str:
        raise AgentError(f"{path}: No such file or directory")


def driver(**proxy: Any) -> Driver:
    found = settings(**proxy)
    place: Any = ProxyHost(found, LOCAL) if found.proxy.where == "host" else ProxyContainer(None, found.proxy)
    place.agent = Nobody()
    place.service_files = lambda suffix: []
    made = HAProxy(found, place) if found.proxy.kind == "haproxy" else Nginx(found, place)
    made._version = "1.22.1"
    return made


def rendered(colour: Colour = Colour.BLUE, **proxy: Any) -> str:
    return driver(**proxy).render(UPSTREAMS, colour)


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
    with pytest.raises(SettingsError, match=r'proxy\.mode: must be "tcp"'):
        parse({"service": "s", "app": {"port": 9000}, "probe": {"kind": "tcp"}})
    words = problem({"body": "ok", "path": "/"}, mode="tcp")
    assert words.startswith("proxy.mode: ")
    assert "probe.path, probe.body" in words
    assert 'probe.kind = "http"' in words
    assert problem(tcp={"timeout": "0s"}).startswith("proxy.tcp.timeout: ")
    assert problem(mode="tcp", balance="uri").startswith("proxy.balance: 'uri' looks at requests; in tcp mode: ")


@pytest.mark.parametrize(
    ("where", "table"),
    [
        ("proxy.tls", {"tls": {"certificate": "a", "key": "b"}}),
        ("proxy.max_body", {"max_body": "1m"}),
        ("proxy.read_timeout", {"read_timeout": "10s"}),
        ("proxy.haproxy.cookie", {"kind": "haproxy", "haproxy": {"cookie": {"name": "a"}}}),
        ("proxy.haproxy.httpclose", {"kind": "haproxy", "haproxy": {"httpclose": True}}),
    ],
)
def test_what_is_for_requests_alone_is_refused_in_tcp_mode(where: str, table: dict[str, Any]) -> None:
    assert problem(mode="tcp", **table).startswith(f"{where}: must be left out in tcp mode")
    assert settings(**table)


def test_connections_go_where_the_fewest_are_unless_the_settings_say_otherwise() -> None:
    assert settings().proxy.balance == "roundrobin"
    assert settings(mode="tcp").proxy.balance == "leastconn"
    assert settings(mode="tcp", balance="source").proxy.balance == "source"
    assert settings(static=[MASTERS]).proxy.static[0].balance == "leastconn"


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
        ({"listen": "0.0.0.0:8443"}, "proxy.static[0].listen: "),
        ({"balance": "uri"}, "proxy.static[0].balance: "),
        ({"weight": 1}, "proxy.static[0].weight: is not known"),
    ],
)
def test_a_load_balancer_that_can_not_be_is_refused_with_its_path(change: dict[str, Any], where: str) -> None:
    assert problem(static=[{**MASTERS, **change}]).startswith(where)


def test_load_balancers_stand_apart_from_each_other_and_from_the_service() -> None:
    assert "the name masters" in problem(static=[MASTERS, {**MASTERS, "listen": "0.0.0.0:1"}])
    assert "the port 6443" in problem(static=[MASTERS, {**MASTERS, "name": "b", "listen": "127.0.0.1:6443"}])
    assert "as the service does" in problem(listen="0.0.0.0:6443", static=[MASTERS])
    tls = {"certificate": "a", "key": "b", "listen": "0.0.0.0:6443"}
    assert "as the service does" in problem(tls=tls, static=[MASTERS])
    stats = {"uri": "/admin", "bind": "127.0.0.1:6443"}
    assert "as proxy.haproxy.stats.bind does" in problem(kind="haproxy", haproxy={"stats": stats}, static=[MASTERS])


# Rendering


def test_nginx_carries_connections_to_the_colour_in_use() -> None:
    text = rendered(Colour.GREEN, mode="tcp", tcp={"timeout": "5m", "connect_timeout": "1s"})
    http, _, stream = text.partition(STREAM)
    assert f'return 200 "{stamp_of(text)} shop_green\\n";' in http
    assert "upstream" not in http
    for line in (
        "server 172.29.0.2:9000 ",
        "server 172.29.0.3:9000 ",
        "least_conn;",
        "listen 8080;",
        "proxy_pass shop_green;",
        "proxy_timeout 300000ms;",
        "proxy_connect_timeout 1000ms;",
    ):
        assert line in stream
    assert stamp_of(text) != stamp_of(rendered(Colour.BLUE, mode="tcp"))


def test_haproxy_carries_connections_to_the_colour_that_the_map_names() -> None:
    text = rendered(kind="haproxy", mode="tcp")
    frontend = text[text.index("frontend shop.tcp from bluegreen") :]
    assert "bind :8080" in frontend
    assert "use_backend %[str(shop),map_str(/bluegreen/live.map)]" in frontend
    for backend in ("shop_blue", "shop_green", "shop_blue_first", "shop_green_first"):
        part = text[text.index(f"backend {backend} from") :].split("\n\n")[0]
        assert "mode tcp" in part
        assert "balance leastconn" in part
        assert "http-request" not in part
        assert "timeout server 300000ms" in part


@pytest.mark.parametrize("mode", ["http", "tcp"])
@pytest.mark.parametrize(
    ("where", "nginx_listens", "haproxy_listens"),
    [("container", "6443", ":6443"), ("host", "0.0.0.0:6443", "0.0.0.0:6443")],
)
def test_a_fixed_load_balancer_stands_beside_a_service_of_either_mode(
    mode: str, where: str, nginx_listens: str, haproxy_listens: str
) -> None:
    nginx = rendered(mode=mode, where=where, static=[MASTERS]).partition(STREAM)[2]
    assert "upstream shop.static.masters {\n    least_conn;\n    server 192.168.0.200:6443 " in nginx
    assert (
        f"listen {nginx_listens};\n    proxy_pass shop.static.masters;\n"
        "    proxy_timeout 300000ms;\n    proxy_connect_timeout 1000ms;\n"
    ) in nginx
    haproxy = rendered(kind="haproxy", mode=mode, where=where, static=[MASTERS])
    part = haproxy[haproxy.index("listen shop.static.masters from bluegreen\n") :].split("\n\n")[0]
    assert f"bind {haproxy_listens}\n" in part
    assert "balance leastconn" in part
    assert "timeout server 300000ms" in part
    assert "timeout connect 1000ms" in part
    assert part.count("server s") == 3


def test_what_stands_outside_http_is_a_file_of_its_own_which_goes_when_nothing_is_in_it() -> None:
    nginx = driver(static=[MASTERS])
    text = nginx.render(UPSTREAMS, Colour.BLUE)
    files = nginx._files(text)
    assert STREAM not in str(files)
    assert files["/bluegreen/services/shop.conf"] + STREAM + files["/bluegreen/streams/shop.conf"] == text
    assert (files["/bluegreen/main/stream.conf"] or "").splitlines() == [
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;",
        "stream {",
        "    include /bluegreen/streams/*.conf;",
        "}",
    ]
    plain = driver()
    text = plain.render(UPSTREAMS, Colour.BLUE)
    assert STREAM not in text
    assert plain._files(text)["/bluegreen/streams/shop.conf"] is None


def test_on_a_host_the_persons_own_main_file_includes_the_directory() -> None:
    nginx = driver(where="host", mode="tcp", listen="0.0.0.0:6443", host={"streams": "/etc/nginx/tcp.d"})
    files = nginx._files(nginx.render(UPSTREAMS, Colour.BLUE))
    assert "listen 0.0.0.0:6443;" in files["/etc/nginx/tcp.d/bluegreen-shop.conf"]
    assert not any(path.endswith(("nginx.conf", "main/stream.conf")) for path in files)


def test_nothing_listens_for_requests_where_connections_are_carried() -> None:
    nginx = driver(mode="tcp")
    main = nginx._files(nginx.render(UPSTREAMS, Colour.BLUE))["/bluegreen/nginx.conf"]
    assert "listen 127.0.0.1:8078;" in main
    assert "listen 8080;" not in main
    haproxy = driver(kind="haproxy", mode="tcp")
    assert "bluegreen.clients" not in haproxy._files(haproxy.render(UPSTREAMS, Colour.BLUE))["/bluegreen/haproxy.cfg"]


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

        taking = threading.Thread(target=take, daemon=True)
        taking.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            taking.join(10)  # or it could still take one, that nobody would close
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
        eventually(lambda: witness.live_counts().get("unknown", 0) >= 5, "connections are counted")
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
        eventually(lambda: witness.live_counts().get("unknown", 0) >= 3, "connections are counted")
        witness.switched("v2")
    eventually(lambda: witness.verdict() is not None, "the switch is taken back")
    reason = witness.verdict() or ""
    witness.stop()
    assert "failed twice running" in reason
    assert "for a connection, sent" in reason


def test_the_plan_says_that_it_connects() -> None:
    found = settings(mode="tcp")
    plan: Any = type("Plan", (), {"release": Release("v2")})
    observed: Any = None
    assert Probe.describe(plan, found, observed) == "connect until it is accepted 3 times in a row"
    assert "through the proxy" in Verify.describe(plan, found, observed)
