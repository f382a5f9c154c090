"""Deploys to two hosts that share an address: through it while all is well, and when its holder dies in the middle.

A client beside the hosts pings the address and requests it, ten times a second each, and counts which release answers.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
from aftermath import Followed, edit
from evidence import Request, log
from harness import IMAGES, PREFIX, TestService, eventually
from hosts import Host, own_network, running_host
from test_vip import PINGER

KEEPALIVED = "bluegreen-lab/keepalived:latest"
NODES = ("node1", "node2")

pytestmark = pytest.mark.xdist_group("vip")


@dataclass
class Shared:
    """Two hosts, the service on both, and the address that they share."""

    engine: docker.DockerClient
    network: Any
    address: str
    hosts: dict[str, Host]
    own: dict[str, str]
    """The hosts' own addresses."""
    service: TestService

    @property
    def one(self) -> Host:
        """The host of the higher priority."""
        return self.hosts["node1"]

    @property
    def two(self) -> Host:
        return self.hosts["node2"]

    def serves(self, name: str) -> str:
        """What a host's own proxy answers; empty if it does not."""
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(f"http://{self.own[name]}/version", timeout=5, trust_env=False)
            return answer.text.strip() if answer.status_code == 200 else ""
        return ""

    def holders(self) -> list[str]:
        """The hosts that live and have the address."""
        found = []
        for name, host in self.hosts.items():
            host.container.reload()
            if host.container.status == "running" and f" {self.address}/" in host.sh("ip -4 addr show eth0"):
                found.append(name)
        return found

    def held_by(self, *names: str) -> None:
        eventually(lambda: self.holders() == list(names), f"{names} hold {self.address}", timeout=120)

    def stays_with(self, name: str, seconds: float) -> None:
        """Whenever one looks, for so long, that host has the address and no other."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.holders() == [name], self.logs()
            time.sleep(0.2)

    def logs(self) -> str:
        """What Keepalived said last on both."""
        said = []
        for name, host in self.hosts.items():
            with host.engine() as client:
                log = client.containers.get(f"bluegreen-vip-{self.address}").logs(tail=25).decode()
            said.append(f"{name}\n{log}")
        return "\n".join(said)

    def node(self, name: str) -> dict[str, Any]:
        """What `vip status` says of a host's node."""
        rows = self.service.ok("vip", "status", "--json").json()
        return next(row for row in rows if row["host"] == name)

    def findings(self) -> list[tuple[str, str]]:
        """What `doctor` says of the nodes as a whole: how bad, and what."""
        found = self.service.run("doctor", "--json").json()
        return [(each["level"], each["what"]) for each in found if each["check"] == "vip nodes"]

    def other(self) -> str:
        """The release that is not live."""
        return "v1" if self.service.live() == "v2" else "v2"

    def well(self) -> None:
        """Both hosts live and serve the same, and node1 holds the address."""
        for host in self.hosts.values():
            host.container.start()
            host.wait()
        self.service.ok("sync")
        self.held_by("node1")

    @contextlib.contextmanager
    def client(self, what: str) -> Iterator[Counted]:
        """A client is at work inside; afterwards what it counted is there and in the log."""
        container = self.engine.containers.run(
            "bluegreen-lab/host",
            ["-c", PINGER, self.address, "/version"],
            entrypoint=["python3"],
            network=self.network.name,
            labels={"bluegreen.test": PREFIX},
            detach=True,
        )
        counted = Counted()
        try:
            eventually(lambda: b"answers version" in container.logs(), "the client is answered", timeout=60)
            yield counted
            container.stop(timeout=60)
            vars(counted).update(json.loads(container.logs().decode().splitlines()[-1]))
            log(f"vip: {what}: {json.dumps(vars(counted))}")
        finally:
            container.remove(force=True)


@dataclass
class Counted:
    """What a client counted."""

    pings: int = 0
    pings_lost: int = 0
    requests: int = 0
    requests_failed: int = 0
    turns: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def shared(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    directory = tmp_path_factory.mktemp("vip-hosts")
    network, prefix = own_network(engine)
    own = {"node1": f"{prefix}.11", "node2": f"{prefix}.12"}
    address = f"{prefix}.100"

    def host_of(name: str) -> AbstractContextManager[Host]:
        mine = directory / name
        mine.mkdir()
        images = ["nginx:stable", f"{IMAGES}:v1", f"{IMAGES}:v2", KEEPALIVED]
        return running_host(engine, mine, images=images, beside=(network, own[name]))

    try:
        with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
            hosts = dict(zip(NODES, pool.map(stack.enter_context, map(host_of, NODES)), strict=True))
            service = settled(directory, address, own)
            service.ok("deploy", "v1", "--no-witness")
            service.ok("vip", "boot")
            shared = Shared(engine, network, address, hosts, own, service)
            shared.held_by("node1")
            yield shared
    finally:
        network.remove()


def settled(directory: Path, address: str, own: dict[str, str]) -> TestService:
    """The command with its settings. Between the two switches there is a second and more: so long verifying takes."""
    engines = ", ".join(
        f'{{ engine = "tcp://{where}:2375", name = "{name}", tls = false }}' for name, where in own.items()
    )
    peers = ", ".join(f'"{where}"' for where in own.values())
    service = TestService(f"{PREFIX}-vip-hosts", directory / "command", 80)
    service.directory.mkdir()
    (service.directory / "bluegreen.toml").write_text(
        f"""
service = "{service.name}"
hosts = [{engines}]

[image]
repository = "{IMAGES}"

[app]
port = 9000

[probe]
path = "/version"
body = "version {{number}}"
timeout = "60s"
successes = 40

[proxy]
image = "nginx:stable"
listen = "0.0.0.0:80"
url = "http://{address}"

[vip]
address = "{address}"
interface = "eth0"
auth_pass = "1010"
peers = [{peers}]
"""
    )
    return service


def test_a_deploy_through_the_address_loses_nothing_and_switches_the_holder_last(shared: Shared) -> None:
    shared.well()
    old, new = shared.service.live(), shared.other()
    with shared.client("a deploy to two hosts") as client:
        receipt = shared.service.deploy(new)
        shared.held_by("node1")
    assert (client.requests_failed, client.pings_lost) == (0, 0)
    assert client.turns == [version(old), version(new)]
    assert switched(receipt) == ["node2", "node1"]
    assert receipt["requests"]["failed"] == 0
    findings = shared.findings()
    assert {level for level, _ in findings} == {"ok"}, findings
    assert f"{shared.address} is held by node1 alone, and node2 hears it" in dict(map(reversed, findings))
    assert any(f"all proxies serve {new}, switch " in what for _, what in findings)


def test_a_host_that_missed_a_switch_stays_away_from_the_address_until_it_was_brought_to_it(shared: Shared) -> None:
    shared.well()
    old, new = shared.service.live(), shared.other()
    with shared.client("MASTER killed, a deploy without it, and its return") as client:
        shared.one.container.kill()
        shared.held_by("node2")
        refused = shared.service.run("deploy", str(new))
        assert (refused.code, "node1 can't be reached, and nothing was changed" in refused.err) == (1, True)
        shared.service.deploy(str(new), "--skip-unreachable")
        shared.one.container.start()
        shared.one.wait()
        eventually(lambda: shared.serves("node1") == version(old), "node1 serves its old release", timeout=120)
        eventually(lambda: shared.node("node1")["running"], "Keepalived runs on node1", timeout=60)
        shared.stays_with("node2", 15)
        kept = shared.node("node1")
        behind = [what for level, what in shared.findings() if level == "warning"]
        status = shared.service.run("status", "--json")
        assert shared.service.ok("sync").out.splitlines()[-1].startswith("node1: ")
        shared.held_by("node1")
    assert client.turns == [version(old), version(new)]
    assert (kept["state"], kept["held"]) == ("FAULT", False)
    assert any(what.startswith("node1 is behind: its switch ") for what in behind), behind
    assert (status.code, status.json()["hosts"][0]["live"]) == (1, old)
    assert shared.serves("node1") == shared.serves("node2") == version(new)


def test_a_holder_killed_between_the_two_switches_leaves_one_release_and_says_which(shared: Shared) -> None:
    shared.well()
    old, new = shared.service.live(), shared.other()
    with shared.client("MASTER killed between the two switches") as client:
        run = Followed(shared.service, "deploy", str(new))
        eventually(lambda: shared.serves("node2") == version(new), "node2 is switched", timeout=120)
        assert shared.serves("node1") == version(old)  # it is the next, once node2 has answered right so often
        shared.one.container.kill()
        ended = run.end()
        receipt = run.receipt()
        live = shared.serves("node2")
        shared.held_by("node2")
        eventually(lambda: not shared.serves("node1"), "node1 is away")
        shared.one.container.start()
        shared.one.wait()
        eventually(lambda: shared.serves("node1") == version(old), "node1 serves its old release", timeout=120)
        eventually(lambda: shared.node("node1")["running"], "Keepalived runs on node1", timeout=60)
        shared.stays_with("node2", 10)
        shared.service.ok("sync")
        shared.held_by("node1")
    log(f"vip: undone after {receipt['seconds']:.0f} s: {receipt['reason']}")
    # Undone on the one that is left: what it answered in between was the new release, which it had verified.
    assert (ended.code, receipt["result"]) == (1, "undone"), ended.text
    assert "node1 does not answer any more" in receipt["reason"]
    assert f"{old} still serves" in ended.text
    assert live == version(old)
    assert set(client.turns) <= {version(old), version(new)}
    assert client.turns[-1] == version(old)
    assert shared.service.live() == old
    assert shared.serves("node1") == shared.serves("node2") == version(old)


def test_a_holder_killed_while_what_was_is_drained_leaves_the_new_release(shared: Shared) -> None:
    shared.well()
    old, new = shared.service.live(), shared.other()
    slow = Request("slow", 20)
    with shared.client("MASTER killed during the drain") as client, ThreadPoolExecutor() as pool:
        run = Followed(shared.service, "deploy", str(new))
        run.until("probe", "done")
        sent = pool.submit(slow.send, (shared.own["node2"], 80))
        run.until("drain", "started")
        shared.one.container.kill()
        ended = run.end()
        receipt = run.receipt()
        sent.result()
        shared.held_by("node2")
        shared.one.container.start()
        shared.one.wait()
        # It has the switch, and so may take the address at once.
        shared.held_by("node1")
    assert (ended.code, receipt["result"]) == (0, "done"), ended.text
    assert "node1 does not answer any more" in "\n".join(receipt["leftover"])
    assert client.turns == [version(old), version(new)]
    assert (slow.wrong, slow.release) == ("", old)
    assert shared.service.live() == new
    shared.service.ok("sync")
    assert shared.serves("node1") == shared.serves("node2") == version(new)


def test_two_nodes_that_do_not_hear_each_other_are_found(shared: Shared) -> None:
    shared.well()
    shared.two.sh("iptables -w 5 -I INPUT -p vrrp -j DROP")
    try:
        shared.held_by("node1", "node2")
        findings = shared.findings()
    finally:
        shared.two.sh("iptables -w 5 -D INPUT -p vrrp -j DROP")
    shared.held_by("node1")
    edit(shared.service, 'interface = "eth0"', 'interface = "eth0"\npriorities = [201, 100]')
    loaded = shared.service.ok("vip", "boot").out.splitlines()
    shared.held_by("node1")
    assert "VRRP_Script(switches) considered successful on reload" in shared.logs()
    [split] = [what for level, what in findings if level == "error"]
    assert split.startswith(f"{shared.address} is held by node1 and node2 at once: none of them hears the others'")
    assert [line.partition(f"-{shared.address} ")[2] for line in loaded] == [
        "has loaded its new file as node 1",
        "runs as node 2, unchanged",
    ]
    told = shared.service.ok("vip", "status").out
    assert [line.partition(" is ")[0] for line in told.splitlines() if " is " in line and "held" in line] == [
        f"{name}: {shared.address}" for name in NODES
    ]


def version(release: str | None) -> str:
    return f"version {str(release).removeprefix('v')}"


def switched(receipt: dict[str, Any]) -> list[str]:
    """The hosts in the order in which they were switched."""
    return [step["host"] for step in receipt["steps"] if step["step"] == "switch" and step["host"] in NODES]
