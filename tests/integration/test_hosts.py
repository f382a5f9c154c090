"""Several hosts, each with an engine, a proxy and an address of its own: all of them are moved, or none."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
from aftermath import GENTLE, Followed
from certificates import Authority
from evidence import log
from harness import FULL, IMAGES, PREFIX, TestService, eventually, executed
from hosts import NAMES, Host, Ssh, releases, scanned, three_hosts, write_settings
from load import Load

pytestmark = pytest.mark.xdist_group("three hosts")

PHASES = [("start", "started"), ("probe", "done"), ("switch", "done"), ("drain", "started")]
"""After which event a host is killed: while the release starts, before the switch, after the first one, after all."""
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def three(
    engine: docker.DockerClient, releases: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Host]]:
    """Three hosts in one network; the first is reached over tcp with TLS, the others by ssh."""
    with three_hosts(engine, tmp_path_factory.mktemp("hosts"), tls=["one"]) as hosts:
        yield hosts


@dataclass
class SeveralService(TestService):
    """A service on several hosts, each of which is asked at its own address."""

    hosts: Sequence[Host] = field(default_factory=list)

    def url_of(self, host: Host) -> str:
        return f"http://{host.address}:8080"

    @property
    def url(self) -> str:
        return self.url_of(self.hosts[0])

    def answers(self) -> list[str]:
        """What each host answers to clients."""
        return [self.answer(host) for host in self.hosts]

    def answer(self, host: Host) -> str:
        return httpx.get(f"{self.url_of(host)}/version", timeout=30, trust_env=False).text.strip()

    def standing(self) -> list[dict[str, str]]:
        """The service's containers on each host, with their releases."""
        found = []
        for host in self.hosts:
            with host.engine() as client:
                found.append(releases(client, self.name))
        return found

    def rows(self) -> list[dict[str, Any]]:
        """What `status` says of each host, whatever it ends with."""
        rows: list[dict[str, Any]] = self.run("status", "--json").json()["hosts"]
        return rows

    def agreed(self, release: str) -> None:
        """Every host serves the release, and nothing else of the service is there."""
        number = release.removeprefix("v")
        assert self.answers() == [f"version {number}"] * len(self.hosts)
        assert [set(found.values()) for found in self.standing()] == [{release}] * len(self.hosts)
        rows = self.rows()
        assert [(row["live"], row["behind"]) for row in rows] == [(release, None)] * len(self.hosts)
        assert len({(row["switch"], row["colour"]) for row in rows}) == 1
        for host in self.hosts:
            with host.engine() as client:
                assert not client.volumes.list(filters={"label": f"bluegreen.begun={self.name}"})


@pytest.fixture
def service(three: list[Host], tmp_path: Path) -> Iterator[SeveralService]:
    """A service on the three hosts, on which v1 is live; nothing but images is left on them afterwards."""
    made = make(three, tmp_path)
    receipt = made.deploy("v1")
    assert receipt["result"] == "done"
    yield made
    for host in three:
        host.container.reload()
        if host.container.status != "running":
            host.container.start()
            host.wait()
        host.clear()


def make(
    hosts: Sequence[Host],
    directory: Path,
    *,
    image: str = "nginx:stable",
    switch: str = "auto",
    upstreams: str = "local",
) -> SeveralService:
    directory.mkdir(exist_ok=True)
    name = f"{PREFIX}-{os.getpid()}-several-{next(_numbers)}"
    made = SeveralService(name, directory, 8080, hosts=hosts)
    ssh = Ssh(hosts[1], directory, "".join(scanned(host) for host in hosts[1:]))
    with (directory / "config").open("a") as config:
        config.writelines(f"  IdentityFile {host.directory / 'key'}\n" for host in hosts[2:])
    made.env = {"PATH": ssh.env["PATH"]}
    proxy = f'upstreams = "{upstreams}"'
    write_settings(made, "0.0.0.0:8080", image=image, switch=switch, url=made.url, bake=0.2, proxy=proxy)
    engines = [
        {"name": name, "engine": host.ssh, "address": host.address} for name, host in zip(NAMES, hosts, strict=False)
    ]
    engines[0] |= {"engine": hosts[0].tcp, "certificates": os.fspath(hosts[0].directory)}
    rows = [", ".join(f"{key} = {json.dumps(value)}" for key, value in each.items()) for each in engines]
    tables = ", ".join(f"{{ {row} }}" for row in rows)
    file = directory / "bluegreen.toml"
    text = file.read_text().replace("[app]", "[app]\npublish = 20000") if upstreams == "all" else file.read_text()
    file.write_text(f"hosts = [{tables}]\n{text}")
    return made


@contextlib.contextmanager
def clients(service: SeveralService, hosts: Sequence[Host]) -> Iterator[dict[str, int]]:
    """Clients of each of these hosts, none of whose requests fails; their numbers are there afterwards."""
    counted: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(Load(service.url_of(host), **GENTLE)) for host in hosts]
        for load in loads:
            load.wait_for_requests(30)
        yield counted
        for load in loads:
            result = load.stop()
            assert result.failed == 0, result.explain()
            counted["requests"] = counted.get("requests", 0) + result.total


def test_a_deploy_and_a_rollback_move_all_hosts_and_no_request_fails(service: SeveralService) -> None:
    with clients(service, service.hosts) as counted:
        plan = service.ok("deploy", "v2", "--plan").out
        receipt = service.deploy("v2")
        service.agreed("v2")
        back = service.rollback()
        service.agreed("v1")
    assert "on each of one, two, three" in plan
    assert (receipt["result"], receipt["requests"]["failed"]) == ("done", 0)
    assert (back["to"], back["requests"]["failed"]) == ("v1", 0)
    switched = [step["host"] for step in receipt["steps"] if step["step"] == "switch"]
    assert switched == [*NAMES, "3 hosts"]
    log(f"three hosts, deploy and rollback: {counted['requests']} requests, 0 failed")
    assert service.ok("deploy", "v1").out.startswith("deploy v1 → v1: unchanged")
    shown = service.ok("status").out
    assert shown.count("v1 (") == 4
    assert len(service.ok("history", "--json").json()) == 3
    assert service.ok("exec", "echo", "here").out.count("here") == 3


def test_without_a_registry_an_image_that_one_host_has_is_copied_to_the_others(
    service: SeveralService, engine: docker.DockerClient
) -> None:
    with service.hosts[1].engine() as client:
        client.images.load(engine.images.get(f"{IMAGES}:v3").save(named=f"{IMAGES}:v3"))
    receipt = service.deploy("v3")
    assert [step["host"] for step in receipt["steps"] if step["step"] == "copy"] == ["one", "three", "3 hosts"]
    service.agreed("v3")
    for host in service.hosts:
        with host.engine() as client:
            service_images = [tag for image in client.images.list(IMAGES) for tag in image.tags]
            assert f"{IMAGES}:v3" in service_images


def test_an_engine_is_not_reached_without_what_lets_one_in(service: SeveralService) -> None:
    file = service.directory / "bluegreen.toml"
    text = file.read_text()
    one = service.hosts[0]
    empty = service.directory / "empty"
    empty.mkdir()
    file.write_text(text.replace(json.dumps(os.fspath(one.directory)), json.dumps(os.fspath(empty))))
    ran = service.run("status")
    assert (ran.code, "there are no certificates for" in ran.err) == (3, True)
    file.write_text(text)
    known = service.directory / "known_hosts"
    keys = known.read_text()
    its = f"[127.0.0.1]:{service.hosts[2].port(22)} "
    known.write_text("".join(line for line in keys.splitlines(keepends=True) if not line.startswith(its)))
    ran = service.run("deploy", "v2")
    assert ran.code == 1
    assert "three can't be reached, and nothing was changed" in ran.err
    known.write_text(keys)
    service.agreed("v1")


def test_a_host_that_is_down_is_refused_or_left_out_and_brought_back_by_sync(service: SeveralService) -> None:
    two = service.hosts[1]
    two.container.kill()
    others = [service.hosts[0], service.hosts[2]]
    with clients(service, others):
        refused = service.run("deploy", "v2")
        assert (refused.code, "two can't be reached, and nothing was changed" in refused.err) == (1, True)
        receipt = service.deploy("v2", "--skip-unreachable")
    assert receipt["result"] == "done"
    status = service.run("status")
    assert status.code == 1
    assert "two can't be reached" in status.out
    two.container.start()
    two.wait()
    _same_ways(service)
    eventually(lambda: "two: v1" in service.run("status").out, "two serves v1 again")
    row = service.rows()[1]
    assert (row["live"], row["behind"]) == ("v1", "its switch 1 is older than 2")
    with clients(service, service.hosts):
        synced = service.ok("sync")
    assert "two: v2 serves there now, in the place of v1" in synced.out
    service.agreed("v2")
    assert service.ok("sync").out == "every host serves what is live\n"


def _same_ways(service: SeveralService) -> None:
    """The settings file has the ports under which the hosts are reached since the last start of their containers."""
    again = make(service.hosts, service.directory / f"again-{next(_numbers)}")
    text = (again.directory / "bluegreen.toml").read_text().replace(again.name, service.name)
    (service.directory / "bluegreen.toml").write_text(text)
    service.env = again.env


@pytest.mark.parametrize("phase", PHASES if FULL else [PHASES[2]], ids=lambda phase: "-".join(phase))
def test_a_host_that_dies_in_the_middle_leaves_one_release_on_the_others(
    service: SeveralService, phase: tuple[str, str]
) -> None:
    three = service.hosts[2]
    others = service.hosts[:2]
    with clients(service, others) as counted:
        deploy = Followed(service, "deploy", "v2")
        deploy.until(*phase)
        three.container.kill()
        ran = deploy.end()
        left = {service.answer(host) for host in others}
        receipt = deploy.receipt()
        assert len(left) == 1, ran.text
        ended = receipt["result"], ran.code, left
        assert ended in [("done", 0, {"version 2"}), ("undone", 1, {"version 1"})], ran.text
        three.container.start()
        three.wait()
        _same_ways(service)
        eventually(lambda: "three can't be reached" not in service.run("status").out, "three serves again")
        service.ok("sync")
        live = {"done": "v2", "undone": "v1"}[receipt["result"]]
        service.agreed(live)
    log(f"three hosts, one killed {' '.join(phase)}: {receipt['result']}; {counted['requests']} requests, 0 failed")
    assert service.deploy("v1" if live == "v2" else "v2")["result"] == "done"


def test_a_proxy_that_refuses_its_config_keeps_all_from_being_switched(service: SeveralService) -> None:
    with service.hosts[2].engine() as client:
        [proxy] = client.containers.list(filters={"label": "bluegreen.proxy"})
        code, words = executed(proxy, ["sh", "-c", "echo nonsense >/bluegreen/services/zz-broken.conf"])
        assert code == 0, words
    file = service.directory / "bluegreen.toml"
    file.write_text(file.read_text().replace("[bake]", 'read_timeout = "99s"\n[bake]'))
    with clients(service, service.hosts):
        ran = service.run("deploy", "v2")
    assert ran.code == 1
    assert "three: nginx refuses the new config" in ran.err
    assert "v1 still serves" in ran.err
    with service.hosts[2].engine() as client:
        [proxy] = client.containers.list(filters={"label": "bluegreen.proxy"})
        executed(proxy, ["rm", "/bluegreen/services/zz-broken.conf"])
    service.agreed("v1")


@pytest.mark.parametrize(
    ("image", "switch"),
    [("haproxy:3.2", "live"), *([("nginx:stable", "reload"), ("haproxy:3.2", "reload")] if FULL else [])],
)
def test_other_proxies_are_moved_as_one_too(three: list[Host], tmp_path: Path, image: str, switch: str) -> None:
    made = make(three, tmp_path, image=image, switch=switch)
    try:
        made.deploy("v1")
        with clients(made, three):
            receipt = made.deploy("v2")
        assert receipt["requests"]["failed"] == 0
        made.agreed("v2")
        gone = made.ok("down", "--yes").out
        assert all(f"{name}: " in gone for name in NAMES)
        assert made.standing() == [{}, {}, {}]
    finally:
        for host in three:
            host.clear()


def test_a_host_whose_app_died_still_answers_where_each_proxy_sends_to_all(three: list[Host], tmp_path: Path) -> None:
    made = make(three, tmp_path, upstreams="all")
    try:
        made.deploy("v1")
        with clients(made, three):
            receipt = made.deploy("v2")
            with three[2].engine() as client:
                client.containers.get(f"{made.name}-green-1").stop()
            for _ in range(20):
                assert made.answers() == ["version 2"] * 3
        assert receipt["requests"]["failed"] == 0
        assert [row["replicas"]["running"] for row in made.rows()] == [1, 1, 0]
        # What is dead is started anew, beside what is there.
        with clients(made, three):
            assert made.deploy("v2")["result"] == "done"
        made.agreed("v2")
    finally:
        for host in three:
            host.clear()


@contextlib.contextmanager
def registry(engine: docker.DockerClient, hosts: Sequence[Host], directory: Path) -> Iterator[str]:
    """A registry in the hosts' network, which they trust; its address."""
    hosts[0].container.reload()
    [network] = hosts[0].container.attrs["NetworkSettings"]["Networks"]
    address = f"{hosts[0].address.rpartition('.')[0]}.20"
    authority = Authority(directory)
    pair = authority.pair("registry", address)
    container = engine.containers.create(
        "registry:2",
        labels={"bluegreen.test": PREFIX},
        network=network,
        environment={
            "REGISTRY_HTTP_TLS_CERTIFICATE": "/certs/registry.crt",
            "REGISTRY_HTTP_TLS_KEY": "/certs/registry.key",
            "REGISTRY_STORAGE_DELETE_ENABLED": "true",
        },
    )
    try:
        container.put_archive("/", packed({f"certs/{path.name}": path.read_bytes() for path in pair}))
        engine.networks.get(network).disconnect(container)
        engine.networks.get(network).connect(container, ipv4_address=address)
        container.start()
        trusted = packed({f"etc/docker/certs.d/{address}:5000/ca.crt": authority.file.read_bytes()})
        for host in hosts:
            host.container.put_archive("/", trusted)
        yield f"{address}:5000"
    finally:
        container.remove(force=True, v=True)


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_with_a_registry_an_image_is_pushed_once_and_pulled_by_all(
    three: list[Host], engine: docker.DockerClient, tmp_path: Path
) -> None:
    made = make(three, tmp_path)
    with contextlib.ExitStack() as stack:
        for host in three:
            stack.callback(host.clear)
        server = stack.enter_context(registry(engine, three, tmp_path))
        file = made.directory / "bluegreen.toml"
        file.write_text(f'{file.read_text()}\n[registry]\nserver = "{server}"\n')
        with three[0].engine() as client:  # where it is built; here it is as if it had been
            for release in ("v1", "v2"):
                client.images.get(f"{IMAGES}:{release}").tag(f"{server}/{IMAGES}", release)
        first, second = made.deploy("v1"), made.deploy("v2")
        for receipt in (first, second):
            wanted = ("push", "pull", "copy")
            steps = [(step["step"], step["host"]) for step in receipt["steps"] if step["step"] in wanted]
            assert steps[0] == ("push", "3 hosts")
            assert set(steps[1:]) == {("pull", name) for name in (*NAMES, "3 hosts")}
            assert receipt["digest"].startswith("sha256:")
        made.agreed("v2")
        assert made.rollback()["to"] == "v1"
        made.agreed("v1")
        with three[2].engine() as client:
            for image in client.images.list(f"{server}/{IMAGES}"):
                if f"{server}/{IMAGES}:v2" in image.tags:
                    client.images.remove(image.id, force=True)
        # One that has lost the image pulls it again.
        assert [step["step"] for step in made.deploy("v2")["steps"]].count("pull") == 4
        made.agreed("v2")
