"""The command need not run where the apps are: engines over tcp, over ssh, by context, and from a container."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
from harness import FULL, PREFIX, eventually
from hosts import (
    APPS,
    ContainedService,
    Host,
    HostService,
    Ssh,
    gateway,
    running_host,
    scanned,
    write_settings,
)

pytestmark = pytest.mark.xdist_group("host")
WAYS = ["tcp", "ssh"]
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def session_host(
    engine: docker.DockerClient, releases: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    with running_host(engine, tmp_path_factory.mktemp("host")) as host:
        yield host


@pytest.fixture
def host(session_host: Host) -> Iterator[Host]:
    """A host with nothing on it but images."""
    yield session_host
    session_host.clear()


@pytest.fixture
def on_host(host: Host, tmp_path: Path) -> Callable[..., HostService]:
    """Makes a service on the host."""

    def make(way: str = "", *, url: str = "", bake: float = 0.5) -> HostService:
        name = f"{PREFIX}-{os.getpid()}-remote-{next(_numbers)}"
        directory = tmp_path / name
        directory.mkdir()
        service = HostService(name, directory, 8080, host=host)
        if way == "tcp":
            service.env = {"DOCKER_HOST": host.tcp}
        elif way == "ssh":
            service.env = Ssh(host, directory).env
        write_settings(service, "0.0.0.0:8080", url=url or service.url, bake=bake, subnet=APPS)
        return service

    return make


def deploy_twice_and_roll_back(service: Any) -> None:
    first = service.deploy("v1")
    assert (first["result"], first["from"], first["to"]) == ("done", None, "v1")
    assert service.get().text.strip() == "version 1"
    second = service.deploy("v2")
    assert (second["result"], second["from"], second["to"]) == ("done", "v1", "v2")
    assert service.get().text.strip() == "version 2"
    back = service.rollback()
    assert (back["result"], back["from"], back["to"]) == ("done", "v2", "v1")
    assert service.get().text.strip() == "version 1"
    for receipt in (first, second, back):
        requests = receipt["requests"]
        assert receipt["witness"]
        assert requests["failed"] == 0, requests
        assert requests["total"] > 0
        assert receipt["leftover"] == []
    assert {"v1", "v2"} <= set(second["requests"]["by_release"])


def asked_from_here(url: str) -> str:
    """What answers, if anything does: a network may well have something that answers everything."""
    try:
        return httpx.get(url, timeout=2, trust_env=False).text
    except httpx.HTTPError:
        return ""


@pytest.mark.parametrize("way", WAYS)
def test_deploy_and_rollback_on_an_engine_whose_apps_have_no_route_from_here(
    host: Host, on_host: Callable[..., HostService], way: str
) -> None:
    service = on_host(way)
    deploy_twice_and_roll_back(service)
    status = service.status()
    assert status["live"]["release"] == "v1"
    assert status["live"]["replicas"] == {"running": 1, "wanted": 1}
    assert status["proxy"]["address"] == service.url
    assert set(service.containers().values()) == {"v1"}

    with host.engine() as client:
        [name] = service.containers()
        [network] = client.containers.get(name).attrs["NetworkSettings"]["Networks"].values()
    assert "version" not in asked_from_here(f"http://{network['IPAddress']}:9000/version")

    service.ok("down", "--yes")
    assert service.status()["live"] is None
    with host.engine() as client:
        assert client.containers.list(all=True) == []
        assert client.volumes.list() == []
        assert {each.name for each in client.networks.list()} == {"bridge", "host", "none"}


def test_deploy_and_rollback_from_a_container_that_has_only_the_engines_socket(
    contained: ContainedService, engine: docker.DockerClient
) -> None:
    deploy_twice_and_roll_back(contained)
    assert contained.status()["live"]["release"] == "v1"
    contained.ok("down", "--yes")
    assert contained.containers() == {}
    assert contained.status()["live"] is None


@pytest.mark.parametrize("way", WAYS if FULL else ["tcp"])
def test_a_proxy_that_the_witness_cannot_reach_is_refused_unless_told_to_go_without(
    host: Host, on_host: Callable[..., HostService], way: str
) -> None:
    service = on_host(way)
    service.deploy("v1")
    before = service.containers()
    # The engine's port, where no proxy is: everything between here and there works.
    write_settings(service, "0.0.0.0:8080", url=f"http://{host.address}:8081", subnet=APPS)
    refused = service.run("deploy", "v2")
    assert refused.code == 1, refused.text
    assert "the witness can't reach the proxy" in refused.text
    assert "v1 still serves" in refused.text
    assert "--no-witness" in refused.text
    assert service.containers() == before
    assert service.get().text.strip() == "version 1"

    receipt = service.deploy("v2", "--no-witness")
    assert receipt["result"] == "done"
    assert receipt["witness"] is False
    assert receipt["requests"]["total"] == 0
    assert service.get().text.strip() == "version 2"


@pytest.mark.parametrize("known", ["another key", "no key"])
def test_a_host_with_a_key_that_is_not_the_known_one_is_refused_in_words(
    host: Host, on_host: Callable[..., HostService], tmp_path: Path, known: str
) -> None:
    lines = ""
    if known == "another key":
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
        kind, key, *_ = (tmp_path / "other.pub").read_text().split()
        names = {line.split()[0] for line in scanned(host).splitlines()}
        lines = "".join(f"{name} {kind} {key}\n" for name in names)
    service = on_host()
    service.env = Ssh(host, tmp_path, known_hosts=lines).env
    for arguments in (["deploy", "v1"], ["status"]):
        ran = service.run(*arguments)
        assert ran.code == 1, ran.text
        assert "ssh can't reach root@127.0.0.1" in ran.text
        assert "Host key verification failed" in ran.text
        assert "Traceback" not in ran.text
    assert service.containers() == {}


def test_a_run_over_ssh_is_one_ssh_process_which_ends_with_it(host: Host, on_host: Callable[..., HostService]) -> None:
    service = on_host()
    ssh = Ssh(host, service.directory)
    service.env = ssh.env
    for number, arguments in enumerate((["deploy", "v1"], ["deploy", "v2"], ["status"]), start=1):
        service.ok(*arguments)
        assert len(ssh.started()) == number, f"{arguments} started more than one ssh"
        eventually(lambda: not ssh.running(), "the ssh of a run that has ended is gone")


@pytest.mark.parametrize("way", WAYS if FULL else ["ssh"])
def test_a_command_that_is_killed_leaves_no_lock_and_no_ssh(
    host: Host, on_host: Callable[..., HostService], way: str
) -> None:
    service = on_host(bake=60)
    ssh = Ssh(host, service.directory)
    service.env = ssh.env if way == "ssh" else {"DOCKER_HOST": host.tcp}
    write_settings(service, "0.0.0.0:8080", url=service.url, subnet=APPS)
    service.deploy("v1")
    write_settings(service, "0.0.0.0:8080", url=service.url, subnet=APPS, bake=60)

    process = service.start("deploy", "v2")
    try:
        eventually(lambda: service.get().text.strip() == "version 2", "v2 is being watched")
        with host.engine() as client:
            lock = f"bluegreen-lock-{service.name}"
            assert client.containers.get(lock).status == "running"
            if way == "ssh":
                assert len(ssh.running()) == 1
            os.kill(process.pid, signal.SIGKILL)
            eventually(
                lambda: not client.containers.list(all=True, filters={"name": lock}, ignore_removed=True),
                "the lock is free",
            )
    finally:
        process.kill()
        service.finish(process)
    eventually(lambda: not ssh.running(), "the ssh of the killed command is gone")

    write_settings(service, "0.0.0.0:8080", url=service.url, subnet=APPS)
    receipt = service.deploy("v2")
    assert receipt["steps"][0]["step"] == "recover"
    assert receipt["requests"]["failed"] == 0
    assert service.live() == "v2"
    assert set(service.containers().values()) == {"v2"}


@pytest.mark.parametrize("chosen", ["currentContext", "DOCKER_CONTEXT", "DOCKER_HOST"] if FULL else ["currentContext"])
def test_a_docker_context_is_followed_as_docker_does(
    host: Host, on_host: Callable[..., HostService], tmp_path: Path, chosen: str
) -> None:
    service = on_host()
    config = {"DOCKER_CONFIG": os.fspath(tmp_path / "docker"), "DOCKER_HOST": "", "DOCKER_CONTEXT": ""}

    def context(*arguments: str) -> None:
        command = ["docker", "context", *arguments]
        subprocess.run(command, env={**os.environ, **config}, check=True, capture_output=True)

    context("create", "far", "--docker", f"host={host.tcp}")
    context("create", "nowhere", "--docker", "host=tcp://127.0.0.1:1")
    if chosen == "currentContext":
        context("use", "far")
    elif chosen == "DOCKER_CONTEXT":
        config["DOCKER_CONTEXT"] = "far"
    else:
        context("use", "nowhere")
        config |= {"DOCKER_CONTEXT": "nowhere", "DOCKER_HOST": host.tcp}
    service.env = config
    service.deploy("v1")
    assert set(service.containers().values()) == {"v1"}


@pytest.mark.parametrize("chosen", ["currentContext", "DOCKER_CONTEXT"])
def test_a_docker_context_that_does_not_exist_is_said_in_words(
    on_host: Callable[..., HostService], tmp_path: Path, chosen: str
) -> None:
    service = on_host()
    service.env = {"DOCKER_CONFIG": os.fspath(tmp_path), "DOCKER_HOST": "", "DOCKER_CONTEXT": ""}
    if chosen == "currentContext":
        (tmp_path / "config.json").write_text(json.dumps({"currentContext": "lost"}))
    else:
        service.env["DOCKER_CONTEXT"] = "lost"
    ran = service.run("status")
    assert ran.code == 1, ran.text
    assert "the Docker context lost does not exist" in ran.text
    assert "Traceback" not in ran.text


@pytest.fixture
def contained(
    engine: docker.DockerClient, tmp_path: Path, free_port: Callable[[], int]
) -> Iterator[ContainedService]:
    """A service on this machine's engine, driven from a container."""
    name = f"{PREFIX}-{os.getpid()}-contained-{next(_numbers)}"
    service = ContainedService(name, tmp_path, free_port(), engine=engine, gateway=gateway(engine))
    listen = f"{service.gateway}:{service.port}"
    write_settings(service, listen)
    yield service
    slug = listen.replace(":", "-")
    history = f"bluegreen-history-{name}"
    leftovers = [*service.ran, f"bluegreen-lock-{name}", f"bluegreen-proxy-{slug}", history, *service.containers()]
    for each in leftovers:
        with contextlib.suppress(docker.errors.APIError):
            engine.containers.get(each).remove(force=True, v=True)
    for network in (f"bluegreen-net-{name}", f"bluegreen-edge-{slug}"):
        with contextlib.suppress(docker.errors.APIError):
            engine.networks.get(network).remove()
    for volume in (f"bluegreen-proxy-{slug}", history):
        with contextlib.suppress(docker.errors.APIError):
            engine.volumes.get(volume).remove(force=True)


INSTALLED = {
    "nginx": """
        rm -f /etc/nginx/sites-enabled/*
        nginx
        """,
    "haproxy": """
        mkdir -p /etc/haproxy/conf.d /run/haproxy
        printf '%s\\n' 'global' '    stats socket /run/haproxy/admin.sock mode 600 level admin expose-fd listeners' \\
            >/etc/haproxy/haproxy.cfg
        haproxy -W -D -p /run/haproxy.pid -f /etc/haproxy/haproxy.cfg -f /etc/haproxy/conf.d
        """,
}
"""What a person does on a host before bluegreen comes: the proxy runs, with a main file of the person's own."""

MAIN = {"nginx": "/etc/nginx/nginx.conf", "haproxy": "/etc/haproxy/haproxy.cfg"}


@pytest.fixture
def installed(host: Host, on_host: Callable[..., HostService], request: pytest.FixtureRequest) -> Iterator[HostService]:
    """A service behind a proxy that a person has installed on the host and started."""
    kind = request.param
    host.sh(INSTALLED[kind])
    service = on_host("ssh")
    image = {"nginx": "nginx:stable", "haproxy": "haproxy:3.2"}[kind]
    write_settings(service, "0.0.0.0:8080", image=image, url=service.url, subnet=APPS, proxy='where = "host"')
    yield service
    host.sh(f"kill -9 $(pidof {kind}); rm -rf /etc/{kind}/conf.d/* /var/lib/bluegreen")


@pytest.mark.parametrize("installed", ["nginx", "haproxy"] if FULL else ["nginx"], indirect=True)
def test_a_proxy_installed_on_the_host_is_switched_over_ssh_and_a_persons_error_in_it_changes_nothing(
    host: Host, installed: HostService
) -> None:
    kind = json.loads(installed.ok("proxy", "status", "--json").out)["kind"]
    main = host.sh(f"cat {MAIN[kind]}")
    deploy_twice_and_roll_back(installed)
    assert installed.status()["live"]["release"] == "v1"
    assert host.sh(f"cat {MAIN[kind]}") == main
    mine = host.sh(f"ls /etc/{kind}/conf.d").split()
    assert [name for name in mine if installed.name in name]
    with host.engine() as client:
        assert not client.containers.list(filters={"label": "bluegreen.proxy"}), "no proxy of bluegreen's own"
    ours = f"/etc/{kind}/conf.d/bluegreen-{installed.name}.{'conf' if kind == 'nginx' else 'cfg'}"
    before = host.sh(f"cat {ours}")

    host.sh(f"echo nonsense >>{MAIN[kind]}")
    for arguments in (["deploy", "v2"], ["proxy", "reload"]):
        # With as many replicas as before, a live switch loads nothing anew: the number changes the file.
        text = (installed.directory / "bluegreen.toml").read_text()
        (installed.directory / "bluegreen.toml").write_text(text.replace("port = 9000", "port = 9000\nreplicas = 2"))
        ran = installed.run(*arguments)
        assert ran.code == 1, ran.text
        assert "refuses" in ran.err
        assert host.sh(f"cat {ours}") == before
        assert installed.get().text.strip() == "version 1"
        (installed.directory / "bluegreen.toml").write_text(text)
    host.sh(f"sed -i '$d' {MAIN[kind]}")
    assert host.sh(f"cat {MAIN[kind]}") == main
    assert "has loaded its files" in installed.ok("proxy", "reload").out
    assert installed.deploy("v2")["requests"]["failed"] == 0

    installed.ok("down", "--yes")
    assert host.sh(f"ls /etc/{kind}/conf.d").split() == []
    assert host.sh(f"pidof {kind}")


@pytest.mark.parametrize("installed", ["nginx"], indirect=True)
def test_workers_that_have_lost_their_master_serve_on_and_are_told_of(host: Host, installed: HostService) -> None:
    installed.deploy("v1")
    host.sh("kill -9 $(cat /run/nginx.pid)")
    ran = installed.run("deploy", "v2")
    assert ran.code == 1, ran.text
    assert "has lost its first process: its workers serve on without it" in ran.err
    assert list(installed.containers().values()) == ["v1"], "nothing was started"
    assert installed.get().text.strip() == "version 1"
    host.sh(f"{re.findall(r'kill [0-9 ]+', ran.err)[0]}; while pidof nginx; do sleep 0.1; done; nginx")
    assert installed.deploy("v2")["from"] == "v1"


def test_a_proxy_on_a_host_of_which_only_the_engine_is_reached_is_refused(
    host: Host, on_host: Callable[..., HostService]
) -> None:
    service = on_host("tcp")
    write_settings(service, "0.0.0.0:8080", url=service.url, subnet=APPS, proxy='where = "host"')
    ran = service.run("deploy", "v1")
    assert ran.code == 3
    assert "proxy.where" in ran.err
    assert "ssh://" in ran.err
    with host.engine() as client:
        assert client.containers.list(all=True) == []
