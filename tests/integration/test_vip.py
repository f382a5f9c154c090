"""An address that two hosts share: Keepalived as `bluegreen vip boot` runs it, on two hosts with engines of their own.

A client beside them pings the address and requests it, ten times a second each, through every failure.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import httpx
import pytest
from evidence import log
from harness import FULL, PREFIX, TestService, eventually
from hosts import Host, own_network, running_host

from bluegreen import archive, doctor
from bluegreen.doctor import Finding
from bluegreen.settings import parse
from bluegreen.vip import render

IMAGE = "bluegreen-lab/keepalived:latest"
PINGER = (Path(__file__).parents[1] / "pinger.py").read_text()

SECONDS = 'auth_pass = "1010"'
"""As the usual example has it: version 2, an advert a second, by multicast."""

TENTHS = 'version = 3\nadvert = "100ms"'
VIPS = [SECONDS, TENTHS] if FULL else [SECONDS]

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

    def bluegreen(self, node: int, vip: str, interface: str = "eth0") -> TestService:
        """The command with the engine of a node, and these settings of the pair."""
        directory = self.directory / f"command-{next(_numbers)}"
        directory.mkdir()
        service = TestService(f"{PREFIX}-vip", directory, 80, {"DOCKER_HOST": self.hosts[node - 1].tcp})
        (directory / "bluegreen.toml").write_text(
            f'service = "{service.name}"\n[app]\nport = 9000\n[proxy]\nlisten = "0.0.0.0:80"\n'
            f'[vip]\naddress = "{self.address}"\ninterface = "{interface}"\n{vip}\n'
        )
        return service

    def boot(self, vip: str) -> list[str]:
        """Keepalived runs with these settings on both, and node 1 answers; what the commands said."""
        commands = [self.bluegreen(node, vip) for node in (1, 2)]
        begun = [command.start("vip", "boot", "--node", str(node)) for node, command in enumerate(commands, 1)]
        ran = [command.finish(process) for command, process in zip(commands, begun, strict=True)]
        assert [each.code for each in ran] == [0, 0], ran
        self.answered_by(1)
        return [each.out for each in ran]

    def started(self, node: int) -> str:
        """When Keepalived on the node was started."""
        with self.hosts[node - 1].engine() as client:
            return client.containers.get(f"bluegreen-vip-{self.address}").attrs["State"]["StartedAt"]

    def answers(self) -> str:
        """Who answers at the address just now; empty if nobody does."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://{self.address}/", timeout=1, trust_env=False).text
        return ""

    def answered_by(self, node: int) -> None:
        eventually(lambda: self.answers() == f"node{node}", f"node {node} answers at {self.address}", timeout=120)

    @contextlib.contextmanager
    def client(self, what: str) -> Iterator[Client]:
        """A client is at work inside, served by node 1 at first; afterwards what it counted is there and in the log."""
        container = self.engine.containers.run(
            "bluegreen-lab/host",
            ["-c", PINGER, self.address],
            entrypoint=["python3"],
            network=self.network.name,
            labels={"bluegreen.test": PREFIX},
            detach=True,
        )
        client = Client(container)
        try:
            client.answered_by(1)
            yield client
            container.stop(timeout=60)
            client.counted = json.loads(container.logs().decode().splitlines()[-1])
            log(f"vip: {what}: {json.dumps(client.counted)}")
        finally:
            container.remove(force=True)


@dataclass
class Client:
    """What pings the shared address and requests it, in a container of its own."""

    container: Any
    counted: dict[str, Any] = field(default_factory=dict)

    def answered_by(self, node: int) -> None:
        def last() -> bool:
            said = [line for line in self.container.logs().decode().splitlines() if line.startswith("answers ")]
            return said[-1:] == [f"answers node{node}"]

        eventually(last, f"node {node} answers the client", timeout=120)


@pytest.fixture(scope="module")
def pair(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("vip")
    network, prefix = own_network(engine)
    own = [f"{prefix}.11", f"{prefix}.12"]

    def node_of(node: int, address: str) -> AbstractContextManager[Host]:
        mine = directory / f"node{node}"
        mine.mkdir()
        return running_host(engine, mine, proxy_of(node), images=[IMAGE], beside=(network, address))

    try:
        with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
            hosts = list(pool.map(stack.enter_context, [node_of(*each) for each in enumerate(own, 1)]))
            yield Pair(engine, network, f"{prefix}.100", hosts, own, directory)
    finally:
        network.remove()


@pytest.mark.parametrize("vip", VIPS)
@pytest.mark.parametrize("how", ["shut down", "killed"] if FULL else ["shut down"])
def test_a_master_that_stops_hands_the_address_over_and_takes_it_back(pair: Pair, how: str, vip: str) -> None:
    pair.boot(vip)
    with pair.client(f"MASTER {how} and started again, {words(vip)}") as client:
        if how == "killed":
            pair.hosts[0].container.kill()
        else:
            pair.hosts[0].container.stop(timeout=30)
        client.answered_by(2)
        pair.hosts[0].container.start()
        client.answered_by(1)
    there_and_back(client, vip)
    if how != "killed":
        handed_over(client)


@pytest.mark.parametrize("vip", VIPS)
def test_a_keepalived_that_is_stopped_and_started_gives_the_address_and_gets_it_back(pair: Pair, vip: str) -> None:
    pair.boot(vip)
    with pair.hosts[0].engine() as engine:
        keepalived = engine.containers.get(f"bluegreen-vip-{pair.address}")
        with pair.client(f"keepalived stopped and started on MASTER, {words(vip)}") as client:
            keepalived.stop()
            client.answered_by(2)
            keepalived.start()
            client.answered_by(1)
    there_and_back(client, vip)
    handed_over(client)


@pytest.mark.parametrize("vip", VIPS)
def test_the_address_returns_by_itself_once_the_network_of_the_master_is_back(pair: Pair, vip: str) -> None:
    pair.boot(vip)
    started = pair.started(1)
    with pair.client(f"network of MASTER cut and restored, {words(vip)}") as client:
        # As ifdown does it, addresses and all.
        pair.hosts[0].sh("ip link set eth0 down; ip addr flush dev eth0")
        client.answered_by(2)
        pair.hosts[0].sh(f"ip link set eth0 up; ip addr add {pair.own[0]}/24 dev eth0")
        client.answered_by(1)
    there_and_back(client, vip)
    assert pair.started(1) == started  # by itself


def test_a_dead_proxy_moves_the_address_and_a_reload_does_not(pair: Pair) -> None:
    pair.boot(SECONDS)
    one = pair.hosts[0]
    with pair.client("MASTER's proxy reloaded ten times, then stopped and started") as client:
        one.sh("for _ in 1 2 3 4 5 6 7 8 9 10; do nginx -c /etc/nginx/vip.conf -s reload; sleep 0.2; done")
        one.sh("nginx -c /etc/nginx/vip.conf -s stop")
        client.answered_by(2)
        [finding] = doctor_of_vip(pair, one, "0.0.0.0:80")
        one.sh("nginx -c /etc/nginx/vip.conf")
        client.answered_by(1)
    assert client.counted["turns"] == ["node1", "node2", "node1"]
    assert finding.level == "warning"
    assert "FAULT" in finding.what
    assert "the proxy does not answer" in finding.why


def test_nothing_is_changed_by_what_the_host_can_not_do_and_a_removed_node_hands_over(pair: Pair) -> None:
    pair.boot(SECONDS)
    started = pair.started(1)
    refused = pair.bluegreen(1, SECONDS, interface="eth9").run("vip", "boot")
    assert refused.code == 1
    assert "this host has no eth9, and nothing was changed; it has docker0, eth0" in refused.err
    pair.answered_by(1)
    assert pair.started(1) == started
    one = pair.bluegreen(1, SECONDS)
    assert one.ok("vip", "remove").out.splitlines() == [
        f"removed {kind} bluegreen-vip-{pair.address}" for kind in ("container", "volume")
    ]
    pair.answered_by(2)
    assert state(one) == state(one) | {"exists": False, "held": False, "node": 0}
    assert "which of the nodes is this?" in one.run("vip", "boot").err


def test_doctor_knows_where_a_proxy_bound_to_the_address_starts_and_hears_of_mismatches(pair: Pair) -> None:
    pair.boot(SECONDS)
    bound = f"events {{}} http {{ server {{ listen {pair.address}:81; }} }}"
    starts = f"echo '{bound}' >/tmp/bound.conf; nginx -t -c /tmp/bound.conf 2>&1 || true"
    two = pair.hosts[1]
    try:
        assert "Cannot assign requested address" in two.sh(starts)
        [error, _] = doctor_of_vip(pair, two, f"{pair.address}:81")
        assert (error.level, "ip_nonlocal_bind is off" in error.what) == ("error", True)
        two.sh("sysctl -w net.ipv4.ip_nonlocal_bind=1")
        assert "test is successful" in two.sh(starts)
        [finding] = doctor_of_vip(pair, two, f"{pair.address}:81")
    finally:
        two.sh("sysctl -w net.ipv4.ip_nonlocal_bind=0")
    assert "not held by this node; Keepalived 2" in finding.what
    assert "as node 2, BACKUP" in finding.what
    [error, _] = doctor_of_vip(pair, two, "127.0.0.1:81")
    assert (error.level, error.why) == ("error", f"nothing would answer at {pair.address}")
    assert error.mend == 'proxy.listen = "0.0.0.0:81"'
    pair.bluegreen(2, 'auth_pass = "2020"').ok("vip", "boot")
    one = pair.bluegreen(1, SECONDS)
    eventually(lambda: "invalid passwd" in (state(one)["complaint"] or ""), "node 1 hears another password")
    assert any("invalid passwd" in finding.what for finding in doctor_of_vip(pair, pair.hosts[0], "0.0.0.0:80"))


def doctor_of_vip(pair: Pair, host: Host, listen: str) -> list[Finding]:
    """What `doctor` says of the shared address to a host's engine."""
    vip = {"address": pair.address, "interface": "eth0", "auth_pass": "1010"}
    settings = parse({"service": "shop", "app": {"port": 9000}, "proxy": {"listen": listen}, "vip": vip})
    with host.engine() as client:
        return list(doctor.vip(SimpleNamespace(client=client, settings=settings, hosts=None, unreachable={})))


def test_version_3_takes_over_from_a_dead_master_and_without_preempt_keeps_the_address(pair: Pair) -> None:
    preempt = f"{TENTHS}\npeers = {json.dumps(pair.own)}"
    pair.boot(preempt)
    peers = f"{preempt}\npreempt = false"
    started = pair.started(1)
    assert ["has loaded its new file" in words for words in pair.boot(peers)] == [True, True]
    assert ["unchanged" in words for words in pair.boot(peers)] == [True, True]
    assert pair.started(1) == started
    with pair.client(f"MASTER killed, {words(peers)}, no preempt, unicast") as client:
        pair.hosts[0].container.kill()
        client.answered_by(2)
        pair.hosts[0].container.start()
        one, two = pair.bluegreen(1, peers), pair.bluegreen(2, peers)
        eventually(lambda: state(one).get("state") == "BACKUP", "node 1 is there again, as BACKUP", timeout=120)
    handed_over(client)
    holder = {"held": True, "state": "MASTER", "node": 2, "priority": 100, "current": True, "complaint": None}
    assert holder.items() <= state(two).items()
    assert not state(one)["held"]
    # Its adverts would still go out, but no answer.
    pair.hosts[1].sh("ip addr flush dev eth0")
    pair.answered_by(1)
    pair.hosts[1].sh(f"ip addr add {pair.own[1]}/24 dev eth0")


def test_keepalived_takes_every_file_that_is_rendered_without_a_word(engine: docker.DockerClient) -> None:
    least = {"address": "192.168.100.250", "interface": "eth1"}
    ipv6 = least | {"version": 3, "address": "fd00::250/64", "peers": ["fd00::1", "fd00::2"]}
    pairs = [
        least,
        least | {"auth_pass": "1010", "router_id": 255, "priorities": [254, 253], "preempt": False},
        least | {"address": "10.0.0.250/24", "advert": 255, "auth_pass": "_.,:@%+="},
        least | {"auth_pass": "/^~*?&-x", "peers": ["192.168.100.11", "192.168.100.12"]},
        least | {"version": 3, "advert": "10ms", "priorities": [3, 1, 2]},
        least | {"version": 3, "advert": 40.95, "peers": ["192.168.100.11", "192.168.100.12"], "preempt": False},
        ipv6,
    ]
    proxies = ["0.0.0.0:80", "[::]:80", "192.168.100.250:80", "[fd00::250]:80", "10.1.2.3:65535"]
    files = {}
    for number, (vip, listen) in enumerate(itertools.product(pairs, proxies)):
        settings = parse({"service": "shop", "app": {"port": 9000}, "proxy": {"listen": listen}, "vip": vip})
        for node in range(1, len(settings.vip.priorities) + 1):
            files[f"{number}-{node}"] = render(settings, node)
    files["wrong"] = files["0-1"].replace("advert_int", "advert")
    files["cut"] = files["5-1"].replace("1010", "123456789")
    script = 'cd /files; for file in *; do keepalived -t -f "$file" || echo "refused $file"; done'
    container = engine.containers.create(IMAGE, ["sh", "-c", script], labels={"bluegreen.test": PREFIX})
    try:
        packed = {f"files/{name}": text.encode() for name, text in files.items()}
        container.put_archive("/", archive.pack(packed, mode=0o644))
        container.start()
        container.wait()
        said = container.logs().decode().splitlines()
    finally:
        container.remove(force=True)
    assert [line for line in said if line.startswith("refused")] == ["refused cut", "refused wrong"]
    assert all(line.startswith(("(cut:", "(wrong:", "refused ")) for line in said), said


def there_and_back(client: Client, vip: str) -> None:
    """The address moved once and came back once.

    With ten adverts a second a machine busy enough to stop a node for 0.4 s moves it, too: there the order that the
    test waited for must do.
    """
    if vip == SECONDS:
        assert client.counted["turns"] == ["node1", "node2", "node1"]


def handed_over(client: Client) -> None:
    """The address went over without a wait for three adverts of a second each, which alone would cost 30 pings."""
    assert client.counted["pings_lost_in_a_row"] < 25


def words(vip: str) -> str:
    return "version 2, an advert a second" if vip == SECONDS else "version 3, ten adverts a second"


def state(service: TestService) -> dict[str, Any]:
    """What `vip status` says; nothing where no engine answers."""
    ran = service.run("vip", "status", "--json")
    return ran.json() if ran.code == 0 else {}
