"""A service of its own for each test, on the real engine, driven by the command as a user types it."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from harness import IMAGES, PORTS, PREFIX, RELEASES, REPOSITORY, Make, TestService


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    with contextlib.closing(docker.from_env()) as client:
        yield client


@pytest.fixture(scope="session", autouse=True)
def releases(engine: docker.DockerClient) -> None:
    """Every release that a test may deploy is built, by whichever worker comes first."""
    with (Path(tempfile.gettempdir()) / "bluegreen-test-images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for release, broken in RELEASES.items():
            engine.images.build(
                path=os.fspath(REPOSITORY / "app"),
                tag=f"{IMAGES}:{release}",
                buildargs={"RELEASE": release, "BROKEN": broken},
                rm=True,
            )


@pytest.fixture
def free_port(worker_id: str) -> Callable[[], int]:
    """Ports of the loopback address that nobody uses and no other worker will choose."""
    worker = int(worker_id.removeprefix("gw")) if worker_id.startswith("gw") else 0
    mine = PORTS[worker * 900 : (worker + 1) * 900]
    start = os.getpid() % len(mine)
    return lambda: next(port for port in itertools.chain(mine[start:], mine) if _is_free(port, _taken))


_taken: set[int] = set()


def _is_free(port: int, taken: set[int]) -> bool:
    if port in taken:
        return False
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    taken.add(port)
    return True


@pytest.fixture
def make_service(
    tmp_path: Path, free_port: Callable[[], int], engine: docker.DockerClient, request: pytest.FixtureRequest
) -> Iterator[Make]:
    """Makes services, all of which are gone after the test."""
    made: list[TestService] = []

    def make(
        *,
        nginx: str = "nginx:stable",
        kind: str = "nginx",
        image: str | None = None,
        switch: str = "auto",
        port: int | None = None,
        hosts: list[str] | None = None,
        bake: float = 0.5,
        app: str = "",
        probe: str = "",
        proxy: str = "",
        extra: str = "",
    ) -> TestService:
        name = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
        directory = tmp_path / name
        directory.mkdir()
        service = TestService(name, directory, port or free_port())
        (directory / "bluegreen.toml").write_text(
            f"""
service = "{name}"

[image]
context = "{REPOSITORY / "app"}"
repository = "{IMAGES}"

[app]
port = 9000
{app}

[probe]
path = "/version"
body = "version {{number}}"
{probe or 'timeout = "30s"'}

[proxy]
kind = "{kind}"
image = "{image or nginx}"
listen = "127.0.0.1:{service.port}"
switch = "{switch}"
hosts = {json.dumps(hosts or [])}
{proxy}

[bake]
seconds = {bake}

{extra}
"""
        )
        made.append(service)
        return service

    yield make
    for service in made:
        remove_all(engine, service)


_numbers = itertools.count(1)


def remove_all(engine: docker.DockerClient, service: TestService) -> None:
    """Nothing of the service is left, whatever the test did to it."""
    for name in (f"bluegreen-lock-{service.name}", f"bluegreen-proxy-127.0.0.1-{service.port}"):
        with contextlib.suppress(docker.errors.APIError):
            engine.containers.get(name).remove(force=True, v=True)
    for container in engine.containers.list(
        all=True, filters={"label": f"bluegreen.service={service.name}"}, ignore_removed=True
    ):
        with contextlib.suppress(docker.errors.APIError):
            container.remove(force=True, v=True)
    for name in (f"bluegreen-net-{service.name}", f"bluegreen-edge-127.0.0.1-{service.port}"):
        with contextlib.suppress(docker.errors.APIError):
            engine.networks.get(name).remove()
    with contextlib.suppress(docker.errors.APIError):
        engine.volumes.get(f"bluegreen-proxy-127.0.0.1-{service.port}").remove(force=True)


def pytest_sessionstart(session: pytest.Session) -> None:
    """What a run that was killed has left behind is gone; only names that tests give are touched."""
    if hasattr(session.config, "workerinput"):
        return
    with contextlib.closing(docker.from_env()) as client:
        for container in client.containers.list(all=True, ignore_removed=True):
            service = container.labels.get("bluegreen.service") or container.labels.get("bluegreen.lock") or ""
            port = container.name.rpartition("-")[2]
            proxy = "bluegreen.proxy" in container.labels and port.isdigit() and int(port) in PORTS
            if service.startswith(PREFIX) or proxy or "bluegreen.test" in container.labels:
                with contextlib.suppress(docker.errors.APIError):
                    container.remove(force=True, v=True)
        for network in client.networks.list():
            port = network.name.rpartition("-")[2]
            mine = network.name.startswith((f"bluegreen-net-{PREFIX}", f"{PREFIX}-"))
            if mine or (network.name.startswith("bluegreen-edge-") and port.isdigit() and int(port) in PORTS):
                with contextlib.suppress(docker.errors.APIError):
                    network.remove()
        for volume in client.volumes.list():
            port = volume.name.rpartition("-")[2]
            if volume.name.startswith("bluegreen-proxy-") and port.isdigit() and int(port) in PORTS:
                with contextlib.suppress(docker.errors.APIError):
                    volume.remove(force=True)
