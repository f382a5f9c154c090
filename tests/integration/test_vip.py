"""An address that two hosts share: Keepalived as `bluegreen vip boot` runs it, on two hosts with engines of their own.

A client beside them pings the address and requests it, ten times a second each, through every failure.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
from evidence import log
from harness import PREFIX, TestService, eventually
from hosts import Host, running_host

IMAGE = "bluegreen-lab/keepalived:latest"
PINGER = (Path(__file__).parents[1] / "pinger.py").read_text()

SECONDS = 'auth_pass = "1010"'
"""As the usual example has it: version 2, an advert a second, by multicast."""

pytestmark = pytest.mark.xdist_group("vip")
_numbers = itertools.count(1)


def proxy_of(node: int) -> list[str]:
    """A host's first process: an nginx that says whose it is, and then the host's own."""
    config = f"events {{}} http {{ access_log off; server {{ listen 80; return 200 node{node}; }} }}"
    return ["sh", "-c", f"echo '{config}' >/etc/nginx/vip.conf; nginx -c /etc/nginx/vip.conf; exec host-entrypoint"]


@dataclass
class Pair:
    """Two hosts, the address that they share, and the network that a client is in, too."""

    engine: docker.DockerClient
    network: Any
    address: str
    hosts: list[Host]
    own: list[str]
    """The hosts' own addresses."""
    directory: Path

    def bluegreen(self, node: int, vip: str) -> TestService:
        """The command with the engine of a node, and these settings of the pair."""
        directory = self.directory / f"command-{next(_numbers)}"
        directory.mkdir()
        service = TestService(f"{PREFIX}-vip", directory, 80, {"DOCKER_HOST": self.hosts[node - 1].tcp})
        (directory / "bluegreen.toml").write_text(
            f'service = "{service.name}"\n[app]\nport = 9000\n[proxy]\nlisten = "0.0.0.0:80"\n'
            f'[vip]\naddress = "{self.address}"\ninterface = "eth0"\n{vip}\n'
        )
        return service

    def boot(self, vip: str) -> list[str]:
        """Keepalived runs with these settings on both; what the commands said."""
        return [self.bluegreen(node, vip).ok("vip", "boot", "--node", str(node)).out for node in (1, 2)]

    def answers(self) -> str:
        """Who answers at the address just now; empty if nobody does."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://{self.address}/", timeout=1, trust_env=False).text
        return ""

    def answered_by(self, node: int) -> None:
        eventually(lambda: self.answers() == f"node{node}", f"node {node} answers at {self.address}", timeout=120)

    def said(self, node: int) -> str:
        """What Keepalived on the node has said."""
        with self.hosts[node - 1].engine() as client:
            return client.containers.get(f"bluegreen-vip-{self.address}").logs().decode()

    @contextlib.contextmanager
    def client(self, what: str) -> Iterator[dict[str, Any]]:
        """A client is at work inside; afterwards what it counted is there and in the log."""
        container = self.engine.containers.run(
            "bluegreen-lab/host",
            ["-c", PINGER, self.address],
            entrypoint=["python3"],
            network=self.network.name,
            labels={"bluegreen.test": PREFIX},
            detach=True,
        )
        counted: dict[str, Any] = {}
        try:
            eventually(lambda: b"started" in container.logs(), "the client runs")
            yield counted
            container.stop(timeout=60)
            counted |= json.loads(container.logs().decode().splitlines()[-1])
            log(f"vip: {what}: {json.dumps(counted)}")
        finally:
            container.remove(force=True)


@pytest.fixture(scope="module")
def pair(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("vip")
    network, prefix = own_network(engine)
    own = [f"{prefix}.11", f"{prefix}.12"]
    try:
        with contextlib.ExitStack() as stack:
            hosts = []
            for node, address in enumerate(own, 1):
                mine = directory / f"node{node}"
                mine.mkdir()
                hosts.append(
                    stack.enter_context(
                        running_host(engine, mine, proxy_of(node), images=[IMAGE], beside=(network, address))
                    )
                )
            yield Pair(engine, network, f"{prefix}.100", hosts, own, directory)
    finally:
        network.remove()


def own_network(engine: docker.DockerClient) -> tuple[Any, str]:
    """A network in which addresses can be chosen, and how they begin."""
    for number in range(256):
        prefix = f"198.19.{(os.getpid() + number) % 256}"
        pool = docker.types.IPAMPool(subnet=f"{prefix}.0/24", iprange=f"{prefix}.128/25")
        with contextlib.suppress(docker.errors.APIError):  # somebody has this one
            ipam = docker.types.IPAMConfig(pool_configs=[pool])
            return engine.networks.create(f"{PREFIX}-vip-{os.getpid()}", driver="bridge", ipam=ipam), prefix
    raise AssertionError("no network is free")


def test_a_master_that_stops_hands_the_address_over_and_takes_it_back(pair: Pair) -> None:
    pair.boot(SECONDS)
    pair.answered_by(1)
    with pair.client("MASTER shut down and started again") as counted:
        pair.hosts[0].container.stop(timeout=30)
        pair.answered_by(2)
        pair.hosts[0].container.start()
        pair.answered_by(1)
    assert counted["turns"] == ["node1", "node2", "node1"]
    assert "received priority 0" in pair.said(2)  # it did not have to wait for three adverts in vain


def test_a_keepalived_that_is_stopped_and_started_gives_the_address_and_gets_it_back(pair: Pair) -> None:
    pair.boot(SECONDS)
    pair.answered_by(1)
    with pair.hosts[0].engine() as client:
        keepalived = client.containers.get(f"bluegreen-vip-{pair.address}")
        with pair.client("keepalived stopped and started on MASTER") as counted:
            keepalived.stop()
            pair.answered_by(2)
            keepalived.start()
            pair.answered_by(1)
    assert counted["turns"] == ["node1", "node2", "node1"]


def test_the_address_returns_by_itself_once_the_network_of_the_master_is_back(pair: Pair) -> None:
    pair.boot(SECONDS)
    pair.answered_by(1)
    before = pair.said(1)
    with pair.client("network of MASTER cut and restored") as counted:
        # As ifdown does it, addresses and all.
        pair.hosts[0].sh("ip link set eth0 down; ip addr flush dev eth0")
        pair.answered_by(2)
        pair.hosts[0].sh(f"ip link set eth0 up; ip addr add {pair.own[0]}/24 dev eth0")
        pair.answered_by(1)
    assert counted["turns"] == ["node1", "node2", "node1"]
    assert pair.said(1).startswith(before)  # nobody started it anew
