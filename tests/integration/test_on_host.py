"""TLS and connections at a proxy that a person has installed on the host."""

from __future__ import annotations

import itertools
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
from certificates import Authority
from harness import FULL, IMAGES, PREFIX, eventually
from installed import PlayedHost, files, installed, run
from test_tls import ask

from bluegreen.errors import Failed
from bluegreen.model import Colour, Endpoint, SwitchRecord
from bluegreen.proxies import Upstreams
from bluegreen.proxies.driver import Driver
from bluegreen.reach import DRIVERS
from bluegreen.settings import parse

MAIN = {"nginx": "/etc/nginx/nginx.conf", "haproxy": "/etc/haproxy/haproxy.cfg"}
_numbers = itertools.count(1)


def fresh_name() -> str:
    return f"{PREFIX}-{os.getpid()}-h{next(_numbers)}"


@pytest.fixture(scope="module")
def upstreams(engine: docker.DockerClient, _releases: None) -> Iterator[Upstreams]:
    """v1 in blue and v2 in green, running."""
    started, found = [], {}
    try:
        for colour, release in zip(Colour, ("v1", "v2"), strict=True):
            labels = {"bluegreen.test": PREFIX}
            app = engine.containers.run(f"{IMAGES}:{release}", name=fresh_name(), detach=True, labels=labels)
            started.append(app)
            app.reload()
            found[colour] = [Endpoint(app.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"], 9000)]
        yield found
    finally:
        for app in started:
            app.remove(force=True, v=True)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def driver(machine: Any, image: str, root: Path, **proxy: Any) -> Driver:
    """A service of its own, with these settings of its proxy."""
    kind = image.partition(":")[0]
    table = {"kind": kind, "image": image, "where": "host", **proxy}
    settings = parse({"service": fresh_name(), "app": {"port": 9000}, "proxy": table}, root=root)
    return DRIVERS[kind](settings, PlayedHost(settings, machine))


def deploy(service: Driver, upstreams: Upstreams, to: Colour, number: int = 1) -> None:
    """What a run asks of the proxy."""
    old = to.other if number > 1 else None
    service.boot(["its-network"])
    service.prepare(upstreams, old)
    service.switch(SwitchRecord(number, f"run-{number}", old, to, committed=False), upstreams)
    service.commit(SwitchRecord(number, f"run-{number}", old, to, committed=True))


IMAGES_OF_PROXIES = ["nginx:1.22", "nginx:stable", "haproxy:2.6", "haproxy:3.2"]


@pytest.mark.parametrize(
    ("image", "whole", "separate"),
    list(itertools.product(IMAGES_OF_PROXIES, [False, True], [False, True]))
    if FULL
    else [("nginx:1.22", True, False), ("haproxy:3.2", False, True)],
)
def test_a_service_is_switched_by_https_on_the_address_of_the_host(
    engine: docker.DockerClient,
    authority: Authority,
    tmp_path: Path,
    upstreams: Upstreams,
    free_port: Callable[[], int],
    image: str,
    whole: bool,
    separate: bool,
) -> None:
    plain, tls = free_port(), free_port()
    kind = image.partition(":")[0]
    certificate, key = authority.pair("site", "shop.test")
    table = {"certificate": certificate.name, "key": key.name}
    proxy = {"hosts": ["shop.test"], "host": {"whole": whole}}
    proxy |= {"listen": f"0.0.0.0:{plain}", "tls": {**table, "listen": f"0.0.0.0:{tls}"}} if separate else {}
    proxy |= {} if separate else {"listen": f"0.0.0.0:{tls}", "tls": table}
    with installed(engine, fresh_name(), image, [plain, tls], whole=whole) as machine:
        before = files(machine, f"/etc/{kind}")
        service = driver(machine, image, tmp_path, **proxy)
        deploy(service, upstreams, Colour.BLUE)
        url = f"https://127.0.0.1:{tls}/version"
        eventually(lambda: ask(authority, url, host="shop.test").text.strip() == "version 1", "v1 is served")
        deploy(service, upstreams, Colour.GREEN, 2)
        answer = ask(authority, url, host="shop.test", http2=True)
        assert (answer.http_version, answer.text.strip()) == ("HTTP/2", "version 2")
        assert service.get("/version", "shop.test", 10).body == "version 2", "as bluegreen itself asks"
        if separate:
            answer = httpx.get(f"http://127.0.0.1:{plain}/a?b=c", headers={"Host": "shop.test"}, trust_env=False)
            assert (answer.status_code, answer.headers["location"]) == (308, f"https://shop.test:{tls}/a?b=c")

        after = files(machine, f"/etc/{kind}", "/var/lib/bluegreen")
        kept = {path: held for path, held in before.items() if not (whole and path == MAIN[kind])}
        assert {path: after[path] for path in kept} == kept, "what is the person's own is as it was"
        secret = key.read_text().splitlines()[1]
        holding = {path: mode for path, (mode, text) in after.items() if secret in text}
        assert [(Path(path).parent, mode) for path, mode in holding.items()] == [
            (Path("/var/lib/bluegreen/tls"), "600")
        ]

        service.remove()
        service.close()
        left = files(machine, f"/etc/{kind}", "/var/lib/bluegreen")
        assert not any(secret in text for _, text in left.values())
        assert not any(service._service in path or service._service in text for path, (_, text) in left.items())
        if kind == "haproxy" and not whole:
            assert run(machine, "perl", "-MIO::Socket::INET", "-e", OWN).endswith("own")


OWN = """
my $own = IO::Socket::INET->new("127.0.0.1:8090") or die;
print $own "GET / HTTP/1.0\\r\\n\\r\\n"; print <$own>;
"""


@pytest.mark.parametrize("image", ["nginx:stable", "haproxy:3.2"] if FULL else ["haproxy:3.2"])
def test_a_service_without_tls_takes_nothing_from_one_that_has_it(
    engine: docker.DockerClient,
    authority: Authority,
    tmp_path: Path,
    upstreams: Upstreams,
    free_port: Callable[[], int],
    image: str,
) -> None:
    plain, tls = free_port(), free_port()
    certificate, key = authority.pair("site", "shop.test")
    table = {"certificate": certificate.name, "key": key.name, "listen": f"0.0.0.0:{tls}", "http2": False}
    with installed(engine, fresh_name(), image, [plain, tls]) as machine:
        listen = f"0.0.0.0:{plain}"
        first = driver(machine, image, tmp_path, listen=listen, hosts=["shop.test"], tls=table)
        second = driver(machine, image, tmp_path, listen=listen, hosts=["plain.test"])
        deploy(first, upstreams, Colour.BLUE)
        deploy(second, upstreams, Colour.GREEN)
        url = f"https://127.0.0.1:{tls}/version"
        assert ask(authority, url, host="shop.test").text.strip() == "version 1"
        answer = httpx.get(f"http://127.0.0.1:{plain}/version", headers={"Host": "plain.test"}, trust_env=False)
        assert answer.text.strip() == "version 2"

        first.remove()
        eventually(lambda: not reachable(tls), "nothing listens for https any more")
        assert second.get("/version", "plain.test", 10).body == "version 2"
        for service in (first, second):
            service.close()


def reachable(port: int) -> bool:
    """Whether a TLS client finds anybody; the engine itself takes the connections of a published port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
        try:
            context.wrap_socket(plain, server_hostname="shop.test").close()
        except OSError:
            return False
    return True


def test_haproxy_does_not_move_to_an_address_where_other_services_are_not_found(
    engine: docker.DockerClient,
    authority: Authority,
    tmp_path: Path,
    upstreams: Upstreams,
    free_port: Callable[[], int],
) -> None:
    image, plain, tls = "haproxy:3.2", free_port(), free_port()
    certificate, key = authority.pair("site", "shop.test")
    table = {"certificate": certificate.name, "key": key.name}
    with installed(engine, fresh_name(), image, [plain, tls]) as machine:
        first = driver(machine, image, tmp_path, listen=f"0.0.0.0:{plain}", hosts=["plain.test"])
        moved = driver(machine, image, tmp_path, listen=f"0.0.0.0:{tls}", hosts=["moved.test"])
        second = driver(machine, image, tmp_path, listen=f"0.0.0.0:{tls}", hosts=["shop.test"], tls=table)
        clash = driver(machine, image, tmp_path, listen=f"0.0.0.0:{plain}", mode="tcp")
        deploy(first, upstreams, Colour.BLUE)
        with pytest.raises(Failed, match=rf"at 0\.0\.0\.0:{plain}, and these settings would move it"):
            deploy(moved, upstreams, Colour.GREEN)
        with pytest.raises(Failed, match=rf"listens at 0\.0\.0\.0:{plain} for all its services"):
            deploy(clash, upstreams, Colour.GREEN)
        deploy(second, upstreams, Colour.GREEN)
        assert first.get("/version", "plain.test", 10).body == "version 1"
        url = f"https://127.0.0.1:{tls}/version"
        assert ask(authority, url, host="shop.test").text.strip() == "version 2"
        for service in (first, moved, second, clash):
            service.close()


@pytest.mark.parametrize(
    ("image", "whole"),
    list(itertools.product(IMAGES_OF_PROXIES, [False, True]))
    if FULL
    else [("nginx:stable", False), ("haproxy:2.6", True)],
)
def test_connections_are_carried_beside_requests(
    engine: docker.DockerClient,
    tmp_path: Path,
    upstreams: Upstreams,
    free_port: Callable[[], int],
    image: str,
    whole: bool,
) -> None:
    plain, tcp, masters = free_port(), free_port(), free_port()
    servers = [str(upstreams[colour][0]) for colour in Colour]
    static = {"name": "masters", "listen": f"0.0.0.0:{masters}", "servers": servers, "balance": "roundrobin"}
    host = {"whole": whole}
    with installed(
        engine, fresh_name(), image, [plain, tcp, masters], whole=whole, streams=not whole
    ) as machine:
        requests = driver(machine, image, tmp_path, listen=f"0.0.0.0:{plain}", host=host)
        connections = driver(
            machine, image, tmp_path, mode="tcp", listen=f"0.0.0.0:{tcp}", static=[static], host=host
        )
        deploy(requests, upstreams, Colour.BLUE)
        deploy(connections, upstreams, Colour.BLUE)
        connections.connect(10)
        assert version(tcp) == "version 1"
        deploy(connections, upstreams, Colour.GREEN, 2)
        assert connections.observe().colour is Colour.GREEN
        assert version(tcp) == "version 2"
        assert {version(masters) for _ in range(10)} == {"version 1", "version 2"}
        if not (whole and image.startswith("nginx")):  # whose one main file has one place for requests
            assert version(plain) == "version 1"

        connections.remove()
        eventually(lambda: not listens(machine, tcp, masters), "nothing listens for connections any more")
        assert requests.get("/version", "any", 10).body == "version 1"
        for service in (requests, connections):
            service.close()


def version(port: int) -> str:
    return httpx.get(f"http://127.0.0.1:{port}/version", headers={"Connection": "close"}, trust_env=False).text.strip()


def listens(machine: Any, *ports: int) -> bool:
    """Whether anything on the host listens on one of these ports of any address."""
    rows = [row.split() for row in run(machine, "cat", "/proc/net/tcp").splitlines()[1:]]
    return any(row[1] == f"00000000:{port:04X}" and row[3] == "0A" for row in rows for port in ports)


def test_nginx_that_does_not_read_the_directory_of_streams_is_told_so_and_nothing_changes(
    engine: docker.DockerClient, tmp_path: Path, upstreams: Upstreams, free_port: Callable[[], int]
) -> None:
    port = free_port()
    with installed(engine, fresh_name(), "nginx:stable", [port]) as machine:
        service = driver(machine, "nginx:stable", tmp_path, mode="tcp", listen=f"0.0.0.0:{port}")
        with pytest.raises(Failed, match=r"must have: stream { include /etc/nginx/streams\.d/\*\.conf; }"):
            deploy(service, upstreams, Colour.BLUE)
        service.close()
        assert not [path for path in files(machine, "/etc/nginx") if "bluegreen" in path]
