"""A swarm of three nodes, each with a proxy: what is live moves, grows and loses a node, and no client sees it."""

from __future__ import annotations

import contextlib
import csv
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
from aftermath import GENTLE, Followed, edit
from evidence import log
from harness import FULL, IMAGES, PREFIX, TestService, eventually, executed
from hosts import LOADED, NAMES, Host, is_manager, join_again, three_managers, write_settings
from load import Load

pytestmark = pytest.mark.xdist_group("hosts")

BOTH = ["nginx:stable", "haproxy:3.2"]
NGINX, HAPROXY = (BOTH if FULL else [image] for image in BOTH)
"""The proxy of a test in the main job; in the soak, both."""
PHASES = [("start", "done"), ("probe", "done"), ("switch", "done"), ("drain", "started")]
LEAST = 5000 if FULL else 1500
"""How many requests the clients of the nodes that are left send while one is lost: in the soak 20,000 over the four
phases."""

ASK = 'my $s = IO::Socket::UNIX->new("/tmp/bluegreen-admin.sock") or die; print $s "show stat\\n"; print while <$s>'
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def nodes(
    engine: docker.DockerClient, releases: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Host]]:
    """Three hosts that are one swarm, of which each is a manager."""
    with three_managers(engine, tmp_path_factory.mktemp("nodes"), [*LOADED, f"{IMAGES}:v4-exits"]) as hosts:
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

    def write(
        self, image: str, *, hosts: int = 3, first: int = 0, more: str = "", runtime: str = "swarm"
    ) -> None:
        """The settings, with the ports by which the nodes' engines are reached now; number `first` is asked first."""
        write_settings(self, "0.0.0.0:8080", image=image, url=self.url, bake=0.2)
        file = self.directory / "bluegreen.toml"
        named = list(zip(NAMES, self.nodes[:hosts], strict=False))
        rows = ", ".join(
            f'{{ name = "{name}", engine = "{host.tcp}", tls = false }}'
            for name, host in [*named[first:], *named[:first]]
        )
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

    def id_of(self, colour: str) -> str:
        with self.manager() as client:
            return str(client.services.get(f"{self.name}-{colour}").id)

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


@dataclass
class Loss:
    """When a node was lost, and when the proxies of the others had all noticed; by the wall clock."""

    begun: float = float("inf")
    noticed: float = float("inf")

    def explains(self, failure: dict[str, Any]) -> bool:
        """The lost node may have held the request: it was under way, and nobody knew not to send it there."""
        return failure["sent_at"] + failure["seconds"] >= self.begun and failure["sent_at"] <= self.noticed


@contextlib.contextmanager
def clients(
    service: SwarmService, hosts: Sequence[Host], *, loss: Loss | None = None, least: int = 0
) -> Iterator[dict[str, int]]:
    """Clients of each of these nodes, of whose requests none fails but what a lost node held; they are counted
    afterwards, and send so many at the least, together."""
    counted = {"requests": 0, "failed": 0}
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(Load(service.url_of(host), **GENTLE)) for host in hosts]
        for load in loads:
            load.wait_for_requests(30)
        yield counted
        for load in loads:
            load.wait_for_requests(least // len(loads))
            result = load.stop()
            held = [each for each in result.failures if loss and loss.explains(each)]
            # What a client waits for keeps it from sending more.
            assert result.failed == len(held) <= GENTLE["keepalive"] + GENTLE["fresh"], (loss, result.explain())
            counted["requests"] += result.total
            counted["failed"] += result.failed


def lose(service: SwarmService, lost: Host, others: Sequence[Host], loss: Loss) -> None:
    """The node is gone at once, and the HAProxies of the others have noticed: they send nothing to what it ran."""
    address, loss.begun = lost.address, time.time()
    lost.container.kill()
    assert addresses(service, address), "it ran none of the replicas"
    for host in others:
        eventually(lambda host=host: not addresses(service, address) & up(host), "its HAProxy has noticed", 60)
    loss.noticed = time.time()


@contextlib.contextmanager
def cut(service: SwarmService, pair: Sequence[Host], loss: Loss) -> Iterator[None]:
    """Nothing passes between the two nodes, and their HAProxies have noticed; it is as before afterwards."""
    ways = list(itertools.permutations(pair))
    rules = ["INPUT -s {} -j DROP", "OUTPUT -d {} -j DROP"]
    loss.begun = time.time()
    try:
        for here, there in ways:
            here.sh("; ".join(f"iptables -I {rule.format(there.address)}" for rule in rules))
        for here, there in ways:
            eventually(
                lambda here=here, there=there: not addresses(service, there.address) & up(here), "it is noticed", 60
            )
        loss.noticed = time.time()
        yield
    finally:
        for here, there in ways:
            here.sh("; ".join(f"iptables -D {rule.format(there.address)}" for rule in rules))


def addresses(service: SwarmService, node: str) -> set[str]:
    """Those of the service's tasks on the node of this address."""
    with service.manager() as client:
        [wanted] = [each.id for each in client.nodes.list() if each.attrs["Status"]["Addr"] == node]
        found = client.services.list(filters={"label": f"bluegreen.service={service.name}"})
        tasks = [task for each in found for task in each.tasks() if task.get("NodeID") == wanted]
    networks = [network for task in tasks for network in task.get("NetworksAttachments") or []]
    return {network["Addresses"][0].partition("/")[0] for network in networks if network.get("Addresses")}


def up(host: Host) -> set[str]:
    """The addresses that a node's HAProxy sends to."""
    answers = []

    def answered() -> bool:
        with host.engine() as client:
            proxy = client.containers.get("bluegreen-proxy-0.0.0.0-8080")
            answers.append(executed(proxy, ["perl", "-MIO::Socket::UNIX", "-e", ASK]).output.decode())
        return answers[-1].startswith("# pxname") and answers[-1].endswith("\n\n")

    eventually(answered, f"HAProxy of {host.container.name} tells of all its servers", 30)
    rows = csv.DictReader(answers[-1].lstrip("# ").splitlines())
    return {row["addr"].rpartition(":")[0] for row in rows if row["addr"] and row["status"].startswith("UP")}


@pytest.mark.parametrize("image", NGINX)
def test_a_deploy_a_rollback_to_the_standby_and_another_size_lose_no_request_on_any_node(make: Any, image: str) -> None:
    service = make(image, more='[retire]\nold = "standby"\n')
    service.deploy("v1")
    with clients(service, service.nodes) as counted:
        plan = service.ok("deploy", "v2", "--plan").out
        receipt = service.deploy("v2")
        assert service.answers() == ["version 2"] * 3
        assert service.services() == {"blue": 0, "green": 3}
        assert "standby  v1 (blue), scaled to none" in service.ok("status").out
        assert "which is scaled to none" in service.ok("rollback", "--plan").out
        waiting = service.id_of("blue")
        back = service.rollback()
        assert service.id_of("blue") == waiting, "it is scaled up, and not made anew"
        assert service.answers() == ["version 1"] * 3
        assert service.services() == {"blue": 3, "green": 0}
        grown = service._receipt("scale", "5")
        assert service.services() == {"green": 5}
        service.ok("scale", "2")
        assert service.services() == {"blue": 2}
    assert "start 3 containers in the swarm of v2" in plan
    assert [each["requests"]["failed"] for each in (receipt, back, grown)] == [0, 0, 0]
    assert [step["host"] for step in receipt["steps"] if step["step"] == "switch"] == [*NAMES, "swarm"]
    assert [step["step"] for step in back["steps"]].count("start") == 1
    log(f"swarm, {image}: deploy, rollback to a standby, scale: {counted['requests']} requests, 0 failed")
    status = service.status()
    assert (status["live"]["replicas"], status["rollback"]["how"]) == ({"running": 2, "wanted": 2}, None)
    assert {(row["live"], row["behind"]) for row in status["hosts"]} == {("v1", None)}
    assert service.ok("exec", "echo", "here").out.count("here") == 2
    assert service.ok("logs").out.count("listening on 9000") == 2
    service.ok("down", "--yes")
    eventually(lambda: service.left() == [], "Swarm has let go of its network")


@pytest.mark.parametrize("image", NGINX)
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


def update(service: SwarmService, colour: str) -> None:
    """Somebody has Swarm put a release that exits in the place of what runs; it pauses that after a while."""
    how = "--detach --update-order start-first --update-failure-action pause"
    service.nodes[0].sh(f"docker service update {how} --image {IMAGES}:v4-exits {service.name}-{colour}")


def test_a_service_that_is_updated_during_a_deploy_is_a_failed_deploy(make: Any) -> None:
    service = make("haproxy:3.2")
    edit(service, "seconds = 0.2", "seconds = 60")
    service.deploy("v1")
    with clients(service, service.nodes) as counted:
        deploy = Followed(service, "deploy", "v2")
        deploy.until("verify", "done")
        update(service, "green")
        ran = deploy.end(180)
    assert (ran.code, "Swarm says" in ran.text, "v1 still serves" in ran.text) == (1, True, True), ran.text
    assert service.services() == {"blue": 3}
    log(f"swarm, a service updated by hand during a deploy: {counted['requests']} requests, 0 failed")


def test_replicas_of_what_is_live_that_crash_are_told_and_cost_no_request(make: Any) -> None:
    service = make("haproxy:3.2")
    service.deploy("v1")

    def told() -> bool:
        """At once, in a moment in which none of those that crash is up."""
        found = [each["what"] for each in service.run("doctor", "--json").json() if each["check"] == "swarm"]
        return all(
            any(words in each for each in found) for words in ("Swarm says paused", "of 3 replicas of v1 (blue) run")
        )

    with clients(service, service.nodes) as counted:
        update(service, "blue")
        eventually(told, "doctor tells of both", 90)
        assert "listening on 9000" in service.ok("logs").out
        service.ok("sync")
        time.sleep(5)  # for the requests to come that would fail
        service.deploy("v2")
    log(f"swarm, all but one replica crashing: {counted['requests']} requests, 0 failed")
    assert service.answers() == ["version 2"] * 3


@pytest.mark.parametrize("phase", PHASES if FULL else [PHASES[1]], ids=lambda phase: "-".join(phase))
def test_a_node_that_is_lost_during_a_deploy_leaves_one_release_on_the_others(
    make: Any, phase: tuple[str, str]
) -> None:
    service = make("haproxy:3.2")
    service.deploy("v1")
    three, others = service.nodes[2], service.nodes[:2]
    loss = Loss()
    with clients(service, others, loss=loss, least=LEAST) as counted:
        deploy = Followed(service, "deploy", "v2")
        deploy.until(*phase)
        lose(service, three, others, loss)
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


CUTS = [("two", "three"), ("one", "three")]
"""The nodes between which the network is cut: two followers of the managers' leader, or it and one of them."""


@pytest.mark.parametrize("between", CUTS if FULL else CUTS[:1], ids="-".join)
def test_a_network_that_is_cut_between_two_nodes_is_shown_and_what_is_live_serves_on(
    make: Any, between: tuple[str, str]
) -> None:
    service = make("haproxy:3.2")
    service.deploy("v1")
    pair, loss = [service.nodes[NAMES.index(name)] for name in between], Loss()
    with clients(service, service.nodes, loss=loss, least=LEAST) as counted, cut(service, pair, loss):
        ran = service.run("deploy", "v2")
        assert (ran.code, "v1 still serves" in ran.err) == (1, True), ran.text
        assert service.services()["blue"] >= 2
        found = [each["what"] for each in service.run("doctor", "--json").json() if each["check"] == "swarm"]
    log(f"swarm, {' and '.join(between)} cut off: {counted['requests']} requests, {counted['failed']} failed")
    assert any(f"the proxy of {name} gets no right answer from" in what for what in found for name in between), found
    eventually(lambda: _whole(service.nodes), "the managers have found together again")
    eventually(lambda: service.services() == {"blue": 3}, "all replicas run")
    service.ok("sync")
    assert service.deploy("v2")["result"] == "done"
    assert service.answers() == ["version 2"] * 3


@pytest.mark.parametrize("phase", PHASES if FULL else [PHASES[2]], ids=lambda phase: "-".join(phase))
def test_a_network_that_is_cut_during_a_deploy_leaves_one_release_on_all_nodes(
    make: Any, phase: tuple[str, str]
) -> None:
    service = make("haproxy:3.2")
    service.deploy("v1")
    loss = Loss()
    with clients(service, service.nodes, loss=loss, least=LEAST) as counted:
        deploy = Followed(service, "deploy", "v2")
        deploy.until(*phase)
        with cut(service, service.nodes[1:], loss):
            ran = deploy.end(180)
            ended = deploy.receipt()["result"], ran.code, set(service.answers())
        assert ended in [("done", 0, {"version 2"}), ("undone", 1, {"version 1"})], ran.text
    words = f"{ended[0]}; {counted['requests']} requests, {counted['failed']} failed"
    log(f"swarm, a cut between two nodes at {' '.join(phase)}: {words}")
    eventually(lambda: _whole(service.nodes), "the managers have found together again")
    eventually(lambda: list(service.services().values()) == [3], "all replicas run")
    service.ok("sync")
    assert set(service.answers()) == ended[2]
    assert {row["behind"] for row in service.status()["hosts"]} == {None}


def test_a_worker_that_is_lost_is_replaced_and_a_deploy_goes_on_without_it(make: Any) -> None:
    service = make("haproxy:3.2")
    *others, worker = service.nodes
    with a_worker(service, worker):
        service.deploy("v1")
        loss, seen = Loss(), []

        def replicas() -> dict[str, int]:
            seen.append(service.run("status", "--json").json())
            return dict(seen[-1]["live"]["replicas"])

        with clients(service, others, loss=loss, least=LEAST) as counted:
            lose(service, worker, others, loss)
            eventually(lambda: not _whole(service.nodes), "the managers know", 120)
            eventually(lambda: replicas()["running"] == 3, "Swarm has replaced what was there", 120)
            service.deploy("v2", "--skip-unreachable")
        assert [row["reachable"] for row in seen[-1]["hosts"]] == [True, True, False]
        assert service.services() == {"green": 3}
        log(f"swarm, a worker lost: {counted['requests']} requests, {counted['failed']} failed, which it held")
        worker.container.start()
        worker.wait()
        eventually(lambda: _whole(service.nodes), "the node is back")
        service.write("haproxy:3.2")
        service.ok("sync")
        assert service.answers() == ["version 2"] * 3
        service.ok("down", "--yes")


@contextlib.contextmanager
def a_worker(service: SwarmService, host: Host) -> Iterator[None]:
    """The node is a worker, and a manager again afterwards, when it has been started if it was lost."""
    with service.manager() as client:
        [node] = [each for each in client.nodes.list() if each.attrs["Status"]["Addr"] == host.address]
        node.update({**node.attrs["Spec"], "Role": "worker"})
    eventually(lambda: not is_manager(host), f"{host.container.name} is a worker", 60)
    try:
        yield
    finally:
        host.container.start()
        host.wait()
        join_again(service.nodes[0], host)


@pytest.mark.parametrize("image", HAPROXY)
def test_there_is_one_lock_whichever_manager_is_asked_and_it_does_not_outlive_its_holder(
    make: Any, image: str
) -> None:
    service = make(image)
    service.deploy("v1")
    text = (service.directory / "bluegreen.toml").read_text()
    other = SwarmService(service.name, service.directory / "other", 8080, nodes=service.nodes)
    other.directory.mkdir()
    other.write(image, first=1)
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
    other.write(image, hosts=2)
    [found] = [each["what"] for each in other.run("doctor", "--json").json() if "does not name" in each["what"]]
    assert service.nodes[2].container.id[:12] in found
    assert "does not name" not in service.run("doctor").out


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
