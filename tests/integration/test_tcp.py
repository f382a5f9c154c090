"""Connections instead of requests: blue-green in tcp mode, and plain load balancers beside it."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import docker
import pytest
from harness import FULL, HAPROXY, NGINX, Make, TestService
from load import Load

EACH = [("nginx:stable", "reload"), ("haproxy:2.6", "live"), ("haproxy:3.2", "reload")]
"""Nginx has no live switch of connections."""


@pytest.mark.parametrize(("image", "switch"), EACH if FULL else EACH[:2])
def test_a_service_in_tcp_mode_is_switched_without_a_failed_connection(
    make_service: Make, image: str, switch: str
) -> None:
    service = make_service(
        image=image, switch=switch, proxy='mode = "tcp"', probe='kind = "http"\ntimeout = "30s"'
    )
    service.deploy("v1")
    # A connection that is kept stays with its release, so that every client here closes its own.
    with Load(service.url, keepalive=0, fresh=10, slow=3, stream=1, slow_seconds=1.0, rate=150, closing=1) as load:
        load.wait_for_requests(200)
        for receipt, release in ((service.deploy("v2"), "v2"), (service.rollback(), "v1")):
            assert (receipt["result"], receipt["to"], receipt["probe"]) == ("done", release, "http")
            assert receipt["requests"]["failed"] == 0
            assert receipt["requests"]["by_release"][release] > 0
            assert receipt["cut"] == 0
        load.wait_for_requests(200)
        result = load.stop()
    assert result.failed == 0, result.explain()
    assert set(result.by_release) == {"v1", "v2"}
    assert service.get().text.strip() == "version 1"
    assert set(service.containers().values()) == {"v1"}
    print(f"{image} {switch}: {result.failed} failed of {result.total}")


@pytest.mark.parametrize(("image", "switch"), [*(EACH if FULL else EACH[2:]), ("nginx:1.22", "reload")])
def test_an_open_connection_is_kept_until_it_ends_and_only_then_the_old_release_goes(
    make_service: Make, image: str, switch: str
) -> None:
    service = tcp_probed(make_service, image, switch)
    service.deploy("v1")
    with socket.create_connection(("127.0.0.1", service.port), 10) as kept:
        kept.settimeout(30)
        assert ask(kept) == "version 1"
        process = service.start("deploy", "v2")
        while service.get(headers={"Connection": "close"}).text.strip() != "version 2":
            assert process.poll() is None
        assert ask(kept) == "version 1"
    ran = service.finish(process)
    assert ran.code == 0, ran.text
    assert "not accepted" in ran.text, "the receipt says what the witness could see"
    assert set(service.containers().values()) == {"v2"}


def test_a_release_that_opens_no_port_never_gets_a_connection(make_service: Make) -> None:
    service = tcp_probed(make_service, "haproxy:3.2", "live")
    receipt = service.deploy("v1")
    assert (receipt["probe"], receipt["requests"]["failed"]) == ("tcp", 0)
    ran = service.run("deploy", "v4-exits")
    assert ran.code == 1, ran.text
    assert service.get().text.strip() == "version 1"


@pytest.mark.parametrize("image", [*NGINX, *HAPROXY] if FULL else [NGINX[1]])
def test_a_plain_load_balancer_passes_over_a_stopped_server(
    make_service: Make, servers: Servers, free_port: Callable[[], int], image: str
) -> None:
    port = free_port()
    service = make_service(image=image, proxy=static(port, servers.addresses))
    service.deploy("v1")
    assert set(answers(port, 30)) == {"0", "1", "2"}
    servers.stop(1)
    found = answers(port, 60)
    assert set(found) == {"0", "2"}, found
    assert service.deploy("v2")["requests"]["failed"] == 0
    assert set(answers(port, 30)) == {"0", "2"}, "as before, after a deploy of the service"
    assert service.get().text.strip() == "version 2"


def test_a_load_balancer_that_the_running_container_does_not_publish_is_refused(
    make_service: Make, free_port: Callable[[], int]
) -> None:
    service = make_service()
    service.deploy("v1")
    port = free_port()
    file = service.directory / "bluegreen.toml"
    file.write_text(file.read_text().replace("[bake]", static(port, ["127.0.0.1:1"]) + "\n[bake]"))
    ran = service.run("deploy", "v2")
    assert ran.code == 1
    assert f"does not publish 127.0.0.1:{port} for proxy.static" in ran.text
    assert service.get().text.strip() == "version 1"


def test_a_proxy_made_for_http_does_not_change_to_tcp_while_it_runs(make_service: Make) -> None:
    service = make_service()
    service.deploy("v1")
    file = service.directory / "bluegreen.toml"
    file.write_text(
        file.read_text().replace("[proxy]", '[proxy]\nmode = "tcp"').replace("[probe]", '[probe]\nkind = "http"')
    )
    ran = service.run("deploy", "v2")
    assert ran.code == 1
    assert "was made for proxy.mode = 'http'" in ran.text
    assert service.get().text.strip() == "version 1"


def tcp_probed(make_service: Make, image: str, switch: str) -> TestService:
    """A service in tcp mode whose probe is a connection."""
    service = make_service(image=image, switch=switch, proxy='mode = "tcp"')
    file = service.directory / "bluegreen.toml"
    unasked = ('path = "/version"\n', 'body = "version {number}"\n')
    text = file.read_text()
    for line in unasked:
        assert line in text
        text = text.replace(line, "")
    file.write_text(text)
    return service


def static(port: int, servers: list[str]) -> str:
    return f'[[proxy.static]]\nname = "masters"\nlisten = "127.0.0.1:{port}"\nservers = {servers}\n'


def ask(connection: socket.socket) -> str:
    connection.sendall(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = b""
    while not answer.partition(b"\r\n\r\n")[2]:
        data = connection.recv(4096)
        assert data, "the connection was closed"
        answer += data
    return answer.partition(b"\r\n\r\n")[2].decode().strip()


def answers(port: int, count: int) -> Counter[str]:
    """What so many connections were told, "" where nothing was."""
    found: Counter[str] = Counter()
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                found[connection.recv(10).decode()] += 1
    return found


class Servers:
    """Three TCP servers on the engine's bridge that tell their number and close."""

    def __init__(self, gateway: str) -> None:
        self._servers = [self._start(gateway, number) for number in range(3)]
        self.addresses = ["{}:{}".format(*server.server_address) for server in self._servers]

    @staticmethod
    def _start(gateway: str, number: int) -> socketserver.ThreadingTCPServer:
        class Tell(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    self.request.sendall(str(number).encode())

        server = socketserver.ThreadingTCPServer((gateway, 0), Tell)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def stop(self, number: int) -> None:
        self._servers[number].shutdown()
        self._servers[number].server_close()

    def close(self) -> None:
        for number in range(3):
            self.stop(number)


@pytest.fixture
def servers(engine: docker.DockerClient) -> Iterator[Servers]:
    subnet = ipaddress.ip_network(engine.networks.get("bridge").attrs["IPAM"]["Config"][0]["Subnet"])
    with contextlib.closing(Servers(str(next(subnet.hosts())))) as started:
        yield started
