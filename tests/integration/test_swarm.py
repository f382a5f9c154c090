"""A swarm of three nodes, each with a proxy: what is live moves, grows and loses a node, and no client sees it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
from aftermath import GENTLE, Followed
from evidence import log
from harness import FULL, IMAGES, PREFIX, TestService, eventually
from hosts import LOADED, Host, running_host, write_settings
from load import Load
from test_vip import own_network

pytestmark = pytest.mark.xdist_group("hosts")

NAMES = ("one", "two", "three")
PROXIES = ["nginx:stable", "haproxy:3.2"] if FULL else ["nginx:stable"]
PHASES = [("start", "done"), ("probe", "done"), ("switch", "done"), ("drain", "started")]
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def nodes(
    engine: docker.DockerClient, releases: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Host]]:
    """Three hosts that are one swarm, of which each is a manager."""
    with contextlib.ExitStack() as stack:
        network, subnet = own_network(engine)
        stack.callback(network.remove)
        hosts = []
        for number, name in enumerate(NAMES, 11):
            beside, directory = (network, f"{subnet}.{number}"), tmp_path_factory.mktemp(f"node-{name}")
            images = [*LOADED, f"{IMAGES}:v4-exits"]
            hosts.append(stack.enter_context(running_host(engine, directory, images=images, beside=beside)))
        with hosts[0].engine() as client:
            client.swarm.init(advertise_addr=hosts[0].address)
            token = client.swarm.attrs["JoinTokens"]["Manager"]
        for host in hosts[1:]:
            with host.engine() as client:
                client.swarm.join([f"{hosts[0].address}:2377"], token, advertise_addr=host.address)
        yield hosts


@dataclass
class SwarmService(TestService):
    """A service in a swarm, that is asked at any of these nodes."""

    nodes: Sequence[Host] = field(default_factory=list)

    def url_of(self, host: Host) -> str:
        return f"http://{host.address}:8080"

    @property
    def url(self) -> str:
        return self.url_of(self.nodes[0])

    def write(self, image: str, *, hosts: int = 3, more: str = "", runtime: str = "swarm") -> None:
        """The settings, with the ports by which the nodes' engines are reached now."""
        write_settings(self, "0.0.0.0:8080", image=image, url=self.url, bake=0.2)
        file = self.directory / "bluegreen.toml"
        named = zip(NAMES, self.nodes[:hosts], strict=False)
        rows = ", ".join(f'{{ name = "{name}", engine = "{host.tcp}", tls = false }}' for name, host in named)
        text = file.read_text().replace("[app]\n", '[app]\nreplicas = 3\nstop_timeout = "5s"\n')
        file.write_text(f'hosts = [{rows}]\nruntime = "{runtime}"\n{text}\n{more}')

    def answer(self, host: Host) -> str:
        return httpx.get(f"{self.url_of(host)}/version", timeout=30, trust_env=False).text.strip()

    def answers(self, hosts: Sequence[Host] = ()) -> list[str]:
        return [self.answer(host) for host in hosts or self.nodes]

    def services(self) -> dict[str, int]:
        """The service's services, with how many tasks of each run."""
        with self.manager() as client:
            found = client.services.list(filters={"label": f"bluegreen.service={self.name}"})
            return {each.name.removeprefix(f"{self.name}-"): len(running(each)) for each in found}

    @contextlib.contextmanager
    def manager(self) -> Iterator[docker.DockerClient]:
        with self.nodes[0].engine() as client:
            yield client

    def left(self) -> list[str]:
        """What there is of it in the swarm."""
        with self.manager() as client:
            label = {"label": f"bluegreen.service={self.name}"}
            found = [each.name for each in client.services.list(filters=label)]
            found += [each.name for each in client.secrets.list(filters=label)]
            found += [each.name for each in client.configs.list() if "bluegreen" in each.name]
            return found + [each.name for each in client.networks.list() if self.name in each.name]


def running(service: Any) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = service.tasks({"desired-state": "running"})
    return [each for each in tasks if each["Status"]["State"] == "running"]


@pytest.fixture
def make(nodes: list[Host], tmp_path: Path) -> Iterator[Any]:
    """Makes a service; nothing is left of it afterwards."""

    def one(image: str, **options: Any) -> SwarmService:
        name = f"{PREFIX}-{os.getpid()}-swarm-{next(_numbers)}"
        made.append(SwarmService(name, tmp_path, 8080, nodes=nodes))
        made[-1].write(image, **options)
        return made[-1]

    made: list[SwarmService] = []
    yield one
    for host in nodes:
        host.container.reload()
        if host.container.status != "running":
            host.container.start()
            host.wait()
    eventually(lambda: _whole(nodes), "the swarm is whole again")
    with nodes[0].engine() as client:
        for each in client.services.list():
            each.remove()
    for host in nodes:
        host.clear()
    with nodes[0].engine() as client:
        for each in [*client.configs.list(), *client.secrets.list()]:
            each.remove()


def _whole(nodes: Sequence[Host]) -> bool:
    with contextlib.suppress(docker.errors.DockerException, OSError), nodes[0].engine() as client:
        return [each.attrs["Status"]["State"] for each in client.nodes.list()] == ["ready"] * len(nodes)
    return False


@contextlib.contextmanager
def clients(service: SwarmService, hosts: Sequence[Host], *, held: int = 0) -> Iterator[dict[str, int]]:
    """Clients of each of these nodes, of whose requests no more fail than are `held`; they are counted afterwards."""
    counted = {"requests": 0, "failed": 0}
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(Load(service.url_of(host), **GENTLE)) for host in hosts]
        for load in loads:
            load.wait_for_requests(30)
        yield counted
        for load in loads:
            result = load.stop()
            assert result.failed <= held, result.explain()
            counted["requests"] += result.total
            counted["failed"] += result.failed


@pytest.mark.parametrize("image", PROXIES)
def test_a_deploy_a_rollback_and_another_size_lose_no_request_on_any_node(make: Any, image: str) -> None:
    service = make(image)
    service.deploy("v1")
    with clients(service, service.nodes) as counted:
        plan = service.ok("deploy", "v2", "--plan").out
        receipt = service.deploy("v2")
        assert service.answers() == ["version 2"] * 3
        back = service.rollback()
        assert service.answers() == ["version 1"] * 3
        grown = service._receipt("scale", "5")
        assert service.services() == {"green": 5}
        service.ok("scale", "2")
        assert service.services() == {"blue": 2}
    assert "start 3 containers in the swarm of v2" in plan
    assert [each["requests"]["failed"] for each in (receipt, back, grown)] == [0, 0, 0]
    assert [step["host"] for step in receipt["steps"] if step["step"] == "switch"] == [*NAMES, "swarm"]
    log(f"swarm, {image}: deploy, rollback, scale: {counted['requests']} requests, 0 failed")
    status = service.status()
    assert (status["live"]["replicas"], status["rollback"]["how"]) == ({"running": 2, "wanted": 2}, None)
    assert {(row["live"], row["behind"]) for row in status["hosts"]} == {("v1", None)}
    assert service.ok("exec", "echo", "here").out.count("here") == 2
    assert service.ok("logs").out.count("listening on 9000") == 2
    service.ok("down", "--yes")
    eventually(lambda: service.left() == [], "Swarm has let go of its network")


@pytest.mark.parametrize("image", PROXIES)
def test_tasks_that_swarm_moves_are_in_the_upstream_without_a_command(make: Any, image: str) -> None:
    service = make(image)
    service.deploy("v1")
    with clients(service, service.nodes[:2]) as counted, service.manager() as client:
        [blue] = client.services.list(filters={"name": service.name})
        before = {task["ID"] for task in running(blue)}
        away = next(node for node in client.nodes.list() if node.attrs["Status"]["Addr"] == service.nodes[2].address)
        moved = {task["ID"] for task in running(blue) if task["NodeID"] == away.id}
        _make(away, "drain")
        try:
            eventually(lambda: not moved & {each["ID"] for each in running(blue)} and len(running(blue)) == 3, "moved")
            time.sleep(5)  # for the requests to come that would fail
        finally:
            _make(away, "active")
        assert before - moved <= {each["ID"] for each in running(blue)}
    log(f"swarm, {image}, a node drained: {counted['requests']} requests, {counted['failed']} failed")
    service.ok("sync")
    assert service.ok("sync").out == "every host serves what is live\n"


def _make(node: Any, availability: str) -> None:
    node.reload()
    node.update({**node.attrs["Spec"], "Availability": availability})


def test_a_release_that_can_not_start_is_undone_and_says_why(make: Any) -> None:
    service = make("haproxy:3.2")
    service.deploy("v1")
    with clients(service, service.nodes):
        ran = service.run("deploy", "v4-exits")
    assert (ran.code, "v1 still serves" in ran.err, "giving up" in ran.err) == (1, True, True), ran.text
    assert service.services() == {"blue": 3}
    assert service.answers() == ["version 1"] * 3


@pytest.mark.parametrize("phase", PHASES if FULL else [PHASES[1]], ids=lambda phase: "-".join(phase))
def test_a_node_that_is_lost_during_a_deploy_leaves_one_release_on_the_others(
    make: Any, phase: tuple[str, str]
) -> None:
    service = make("haproxy:3.2")
    service.deploy("v1")
    three, others = service.nodes[2], service.nodes[:2]
    # What the lost node held when it went can't be answered: no more than each of the clients had sent.
    with clients(service, others, held=GENTLE["keepalive"] + GENTLE["fresh"]) as counted:
        deploy = Followed(service, "deploy", "v2")
        deploy.until(*phase)
        three.container.kill()
        ran = deploy.end(180)
        left = {service.answer(host) for host in others}
        receipt = deploy.receipt()
        ended = receipt["result"], ran.code, left
        assert ended in [("done", 0, {"version 2"}), ("undone", 1, {"version 1"})], ran.text
        eventually(lambda: sum(service.services().values()) == 3, "Swarm has replaced what was on the lost node", 120)
    with clients(service, others) as after:
        other = {"done": "v1", "undone": "v2"}[receipt["result"]]
        service.deploy(other, "--skip-unreachable")
    lost = f"{counted['failed']} of {counted['requests']} requests failed, which it held"
    log(f"swarm, a node lost at {' '.join(phase)}: {receipt['result']}; {lost}; then {after['requests']}, 0 failed")
    three.container.start()
    three.wait()
    eventually(lambda: _whole(service.nodes), "the node is back")
    service.write("haproxy:3.2")
    service.ok("sync")
    assert set(service.answers()) == {f"version {other[1:]}"}
    assert {row["behind"] for row in service.status()["hosts"]} == {None}


def test_there_is_one_lock_whichever_manager_is_asked_and_it_does_not_outlive_its_holder(make: Any) -> None:
    service = make("nginx:stable")
    service.deploy("v1")
    text = (service.directory / "bluegreen.toml").read_text()
    other = SwarmService(service.name, service.directory / "other", 8080, nodes=service.nodes[1:])
    other.directory.mkdir()
    other.write("nginx:stable", hosts=2)
    deploy = Followed(service, "deploy", "v2")
    deploy.until("start", "started")
    refused = other.run("deploy", "v2")
    assert (refused.code, "is locked by" in refused.err) == (4, True), refused.text
    deploy.process.send_signal(signal.SIGKILL)
    deploy.end()
    other.ok("rollback", "--wait", "60")
    assert (service.directory / "bluegreen.toml").read_text() == text
    assert service.answers() == ["version 1"] * 3
    assert service.services() == {"blue": 3}
    assert service.status()["lock"] is None


def test_a_service_moves_from_one_engine_into_the_swarm_by_a_deploy(make: Any) -> None:
    service = make("haproxy:3.2", hosts=1, runtime="docker")
    service.deploy("v1")
    with clients(service, service.nodes[:1]) as counted:
        service.write("haproxy:3.2", hosts=1)
        assert service.status()["live"]["release"] == "v1"
        receipt = service.deploy("v2")
        assert (receipt["from"], receipt["requests"]["failed"]) == ("v1", 0)
        assert service.services() == {"green": 3}
    with service.manager() as client:
        left = client.containers.list(
            all=True, filters={"label": [f"bluegreen.service={service.name}", "bluegreen.colour"]}
        )
        assert left == []
    log(f"from one engine into a swarm: {counted['requests']} requests, 0 failed")
    assert json.loads(service.ok("status", "--json").out)["live"]["replicas"] == {"running": 3, "wanted": 3}


def test_without_a_majority_of_managers_what_runs_serves_on_and_nothing_is_changed(make: Any) -> None:
    service = make("haproxy:3.2")
    service.deploy("v1")
    one, lost = service.nodes[0], service.nodes[1:]
    for host in lost:
        host.container.kill()
    eventually(lambda: "no manager of the swarm can be asked" in service.run("status").err, "no leader is left", 120)
    with clients(service, [one]) as counted:
        refused = service.run("deploy", "v2", "--skip-unreachable")
        time.sleep(5)  # for the requests to come that would fail
    assert (refused.code, "no manager of the swarm can be asked" in refused.err) == (1, True), refused.text
    assert service.answer(one) == "version 1"
    log(f"swarm, two managers of three lost: {counted['requests']} requests, 0 failed")
    for host in lost:
        host.container.start()
        host.wait()
    eventually(lambda: _whole(service.nodes), "the swarm is whole again")
    service.write("haproxy:3.2")
    assert service.deploy("v2")["result"] == "done"
    assert service.answers() == ["version 2"] * 3
