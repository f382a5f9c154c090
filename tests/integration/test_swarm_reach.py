"""What the nodes of a swarm reach, and by whom they are reached: a registry that lets in who has a password, managers
on which no proxy runs, and an address that two of the nodes share."""

from __future__ import annotations

import contextlib
import io
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
from aftermath import GENTLE, edit
from certificates import Authority
from evidence import log
from harness import IMAGES, PREFIX, eventually
from hosts import Host, is_manager, join_again
from load import Load
from test_swarm import NAMES, SwarmService, clients, make, nodes, running  # noqa: F401

pytestmark = pytest.mark.xdist_group("hosts")

USER, PASSWORD = "deployer", "correct horse"
KEEPALIVED = "bluegreen-lab/keepalived:latest"
HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n"


@dataclass
class Registry:
    """A registry that lets in who has the password, by TLS with an authority that the nodes know."""

    server: str
    authority: bytes

    @property
    def image(self) -> str:
        return f"{self.server}/shop"

    def known_to(self, host: Host, *, known: bool = True) -> None:
        """Whether the host's engine trusts the registry's certificate."""
        directory = f"/etc/docker/certs.d/{self.server}"
        host.sh(f"mkdir -p {directory}; rm -f {directory}/ca.crt")
        if known:
            host.container.put_archive("/", _tar({f"{directory}/ca.crt": self.authority}))


@pytest.fixture
def registry(engine: docker.DockerClient, nodes: list[Host], tmp_path: Path) -> Iterator[Registry]:  # noqa: F811
    """The registry, in the network of the nodes, each of which trusts it; no engine has ever logged in there."""
    [network] = nodes[0].container.attrs["NetworkSettings"]["Networks"]
    address = f"{nodes[0].address.rpartition('.')[0]}.50"
    authority = Authority(tmp_path)
    certificate, key = authority.pair("registry", address)
    container = engine.containers.create(
        "registry:2",
        labels={"bluegreen.test": PREFIX},
        network=network,
        environment={
            "REGISTRY_AUTH": "htpasswd",
            "REGISTRY_AUTH_HTPASSWD_REALM": "test",
            "REGISTRY_AUTH_HTPASSWD_PATH": "/etc/docker/registry/htpasswd",
            "REGISTRY_HTTP_TLS_CERTIFICATE": "/etc/docker/registry/registry.crt",
            "REGISTRY_HTTP_TLS_KEY": "/etc/docker/registry/registry.key",
        },
    )
    try:
        where = "etc/docker/registry"
        files = {"htpasswd": HTPASSWD.encode(), certificate.name: certificate.read_bytes(), key.name: key.read_bytes()}
        container.put_archive("/", _tar({f"{where}/{name}": content for name, content in files.items()}))
        own = engine.networks.get(network)
        own.disconnect(container)
        own.connect(container, ipv4_address=address)
        container.start()
        made = Registry(f"{address}:5000", authority.file.read_bytes())
        for host in nodes:
            made.known_to(host)
        eventually(lambda: _refuses(address), "the registry answers")
        yield made
    finally:
        container.remove(force=True, v=True)
        for host in nodes:
            host.sh(f"rm -rf /etc/docker/certs.d; docker image rm -f $(docker images -q '{address}:5000/shop') || true")


def _refuses(address: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"https://{address}:5000/v2/", verify=False, trust_env=False).status_code == 401
    return False


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def behind(service: SwarmService, registry: Registry) -> None:
    """The service takes its images from the registry, and only the first node has v1, v2 and v3 yet."""
    server, _, name = registry.image.partition("/")
    service.write("nginx:stable", more=f'[registry]\nserver = "{server}"\nrepository = "{name}"\n')
    service.env = {"CI_REGISTRY_USER": USER, "CI_REGISTRY_PASSWORD": PASSWORD}
    service.env |= {"DOCKER_CONFIG": str(service.directory / "no-docker-config")}
    with service.nodes[0].engine() as client:
        for release in ("v1", "v2", "v3"):  # with a label that no image has, so that nobody else can have them
            made = client.containers.create(f"{IMAGES}:v1")
            changes = [f"LABEL pushed-by={service.name}", f"ENV RELEASE={release}"]
            made.commit(registry.image, release, changes=changes)
            made.remove()


def has(host: Host, image: str) -> bool:
    with host.engine() as client:
        return any(image in (each["RepoDigests"] or []) for each in client.api.images())


def test_nodes_pull_by_digest_what_only_a_password_gives_and_without_it_nothing_is_deployed(
    make: Any,  # noqa: F811
    registry: Registry,
) -> None:
    service = make("nginx:stable")
    behind(service, registry)
    assert f"takes {USER}" in service.ok("login").out
    first = service.deploy("v1")
    assert [step["step"] for step in first["steps"]][:2] == ["push", "start"]
    image = f"{registry.image}@{service.status()['live']['digest']}"
    assert [has(host, image) for host in service.nodes] == [True] * 3, "only a pull gives an image its digest"
    with service.manager() as client:
        [blue] = client.services.list(filters={"name": service.name})
        assert blue.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == image
    for host in service.nodes:
        assert host.sh("cat /root/.docker/config.json 2>/dev/null || echo none").strip() == "none"
    with clients(service, service.nodes) as counted:
        service.env["CI_REGISTRY_PASSWORD"] = "wrong-password"
        ran = service.run("deploy", "v2")
        assert (ran.code, f"does not let {USER}" in ran.err) == (1, True), ran.text
        assert "wrong-password" not in ran.text
        assert service.services() == {"blue": 3}
        service.env["CI_REGISTRY_PASSWORD"] = PASSWORD
        assert service.deploy("v2")["requests"]["failed"] == 0
        assert service.answers() == ["version 2"] * 3
        assert service.rollback()["requests"]["failed"] == 0
        assert service.answers() == ["version 1"] * 3
        file = service.directory / "bluegreen.toml"
        file.write_text(f"{file.read_text()}[retire]\nkeep = 1\n")
        service.deploy("v2")
        assert [has(host, image) for host in service.nodes] == [True] * 3
        service.deploy("v3")
        assert [has(host, image) for host in service.nodes] == [False] * 3, "a rollback goes to v2 at most"
    log(f"swarm, a registry with a password: {counted['requests']} requests, 0 failed")


def test_a_node_that_can_not_pull_the_image_fails_the_deploy_which_names_it(
    make: Any,  # noqa: F811
    registry: Registry,
) -> None:
    service = make("nginx:stable")
    behind(service, registry)
    service.deploy("v1")
    away = service.nodes[2]
    registry.known_to(away, known=False)
    ran = service.run("deploy", "v2")
    assert (ran.code, "v1 still serves" in ran.err) == (1, True), ran.text
    assert f"the node {away.sh('hostname').strip()} has not got its image, and can't pull it" in ran.err
    assert (service.services(), service.answers()) == ({"blue": 3}, ["version 1"] * 3)


@contextlib.contextmanager
def workers(one: Host, others: Sequence[Host]) -> Iterator[None]:
    """Only the one node is a manager inside."""
    with one.engine() as client:
        for node in client.nodes.list():
            if node.attrs["Status"]["Addr"] != one.address:
                node.update({**node.attrs["Spec"], "Role": "worker"})
    eventually(lambda: not any(map(is_manager, others)), "each is a worker")
    try:
        yield
    finally:
        for host in others:
            join_again(one, host)


def test_workers_carry_the_proxies_and_a_manager_that_has_none_is_asked(
    make: Any,  # noqa: F811
    registry: Registry,
) -> None:
    service = make("nginx:stable")
    behind(service, registry)
    one, others = service.nodes[0], service.nodes[1:]
    row = f'{{ name = "one", engine = "{one.tcp}", tls = false }}'
    edit(service, f"{row}, ", "")
    edit(service, service.url_of(one), service.url_of(others[0]))
    file = service.directory / "bluegreen.toml"
    with workers(one, others):
        refused = service.run("deploy", "v1")
        assert (refused.code, "no manager of the swarm can be asked" in refused.err) == (1, True), refused.text
        assert "swarm.managers" in refused.err
        file.write_text(f"{file.read_text()}[swarm]\nmanagers = [{row}]\n")
        service.deploy("v1")
        with clients(service, others) as counted:
            receipt = service.deploy("v2")
            assert service.rollback()["to"] == "v1"
            service.ok("scale", "4")
        assert receipt["requests"]["failed"] == 0
        assert [step["host"] for step in receipt["steps"] if step["step"] == "switch"] == [*NAMES[1:], "swarm"]
        assert service.answers(others) == ["version 1"] * 2
        assert service.services() == {"green": 4}
        with one.engine() as client:
            assert client.containers.list(all=True, filters={"label": "bluegreen.proxy"}) == []
        assert [row["name"] for row in service.status()["hosts"]] == [*NAMES[1:]]
        assert service.ok("exec", "echo", "here").out.count("here") == 4
        log(f"swarm, proxies on two workers alone: {counted['requests']} requests, 0 failed")
        service.ok("down", "--yes")


def test_haproxy_follows_more_tasks_than_a_small_answer_of_dns_has_room_for(make: Any) -> None:  # noqa: F811
    service = make("haproxy:3.2")
    edit(service, "replicas = 3", "replicas = 15")
    service.deploy("v1")
    one, away = service.nodes[0], service.nodes[2]

    def met() -> set[str]:
        return {
            httpx.get(f"{service.url_of(one)}/version", timeout=30, trust_env=False).headers["X-Replica"]
            for _ in range(60)
        }

    before = met()
    with service.manager() as client:
        [blue] = client.services.list(filters={"name": service.name})
        node = next(each for each in client.nodes.list() if each.attrs["Status"]["Addr"] == away.address)
        ended = {each["ID"] for each in running(blue) if each["NodeID"] == node.id}
        node.update({**node.attrs["Spec"], "Availability": "drain"})
        try:
            eventually(
                lambda: not ended & {each["ID"] for each in running(blue)} and len(running(blue)) == 15, "moved", 180
            )
            eventually(lambda: len(met()) == 15, "every task gets requests again, without a command", 180)
        finally:
            node.reload()
            node.update({**node.attrs["Spec"], "Availability": "active"})
    assert (len(before), len(before - met())) == (15, len(ended))


def test_an_address_that_two_nodes_share_loses_nothing_in_a_deploy_and_outlives_its_holder(
    make: Any,  # noqa: F811
    engine: docker.DockerClient,
) -> None:
    one, two = (service := make("haproxy:3.2", hosts=2)).nodes[:2]
    address = f"{one.address.rpartition('.')[0]}.100"
    peers = f'"{one.address}", "{two.address}"'
    edit(service, f'url = "{service.url}"', f'url = "http://{address}:8080"')
    vip = f'[vip]\naddress = "{address}"\ninterface = "eth0"\nauth_pass = "1010"\npeers = [{peers}]\n'
    file = service.directory / "bluegreen.toml"
    file.write_text(f"{file.read_text()}{vip}")

    def held_by() -> list[Host]:
        return [host for host in (one, two) if f" {address}/" in host.sh("ip -4 addr show eth0")]

    for host in (one, two):
        host.load(engine, [KEEPALIVED])
    service.deploy("v1", "--no-witness")
    service.ok("vip", "boot")
    eventually(lambda: held_by() == [one], "the first node holds the address")
    with Load(f"http://{address}:8080", **GENTLE) as load:
        load.wait_for_requests(50)
        receipt = service.deploy("v2")
        result = load.stop()
    assert (result.failed, receipt["requests"]["failed"]) == (0, 0), result.explain()
    assert [step["host"] for step in receipt["steps"] if step["step"] == "switch"] == ["two", "one", "swarm"]
    with Load(f"http://{address}:8080", **GENTLE) as load:
        load.wait_for_requests(50)
        killed = time.monotonic()
        one.container.kill()
        eventually(lambda: f" {address}/" in two.sh("ip -4 addr show eth0"), "the other node holds the address")
        seconds = time.monotonic() - killed
        lost = load.stop()  # what was sent to the lost node, while it had the address, nobody can answer
    with Load(f"http://{address}:8080", **GENTLE) as load:
        load.wait_for_requests(50)
        eventually(lambda: "no manager" not in service.run("status").err, "the managers that are left have a leader")
        back = service.rollback("--skip-unreachable")
        load.wait_for_requests(load.snapshot().total + 50)
        after = load.stop()
    assert after.failed == 0, after.explain()
    assert (back["to"], back["requests"]["failed"]) == ("v1", 0)
    assert httpx.get(f"http://{address}:8080/version", timeout=30, trust_env=False).text.strip() == "version 1"
    left = replace(service, nodes=service.nodes[1:])
    eventually(lambda: left.services() == {"blue": 3}, "as many run as are wanted", timeout=120)
    log(
        f"swarm, a shared address: {result.total} requests, 0 failed; its holder killed: {lost.failed} of {lost.total}"
        f" failed until the other node had the address, after {seconds:.1f} s; then {after.total}, 0 failed"
    )
