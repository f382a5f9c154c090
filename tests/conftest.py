"""What the tests on the real engine share. Nothing here touches an engine unless a test asks for one."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from gitlab_registry import remove_images
from harness import IMAGES, PORTS, PREFIX, RELEASES, REPOSITORY


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """A client of the engine, on which nothing is left of test runs that were killed."""
    with contextlib.closing(docker.from_env()) as client, _lock("sessions").open("w") as sessions:
        # Held, shared, for as long as this process lives: who gets it alone knows that no other tests are running.
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(sessions, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sweep(client)
        fcntl.flock(sessions, fcntl.LOCK_SH)
        yield client


@pytest.fixture(scope="session")
def releases(engine: docker.DockerClient) -> None:
    """Every release that a test may deploy is built, by whichever worker comes first."""
    with _lock("images").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for release, broken in RELEASES.items():
            engine.images.build(
                path=os.fspath(REPOSITORY / "app"),
                tag=f"{IMAGES}:{release}",
                buildargs={"RELEASE": release, "BROKEN": broken},
                rm=True,
            )


@pytest.fixture(scope="session")
def free_port(worker_id: str) -> Callable[[], int]:
    """Ports of the loopback address that nobody uses and no other worker will choose."""
    worker = int(worker_id.removeprefix("gw")) if worker_id.startswith("gw") else 0
    mine = PORTS[worker * 900 : (worker + 1) * 900]
    start = os.getpid() % len(mine)
    return lambda: next(port for port in itertools.chain(mine[start:], mine) if _is_free(port, _taken))


_taken: set[int] = set()

LABELS = ("bluegreen.service", "bluegreen.lock", "bluegreen.history")
"""Which labels name the service that a container belongs to."""


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


def _lock(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"bluegreen-test-{name}.lock"


def sweep(client: docker.DockerClient) -> None:
    """What a run that was killed has left behind is gone; only names that tests give are touched."""
    for container in client.containers.list(all=True, ignore_removed=True):
        service = next(
            (container.labels[label] for label in LABELS if container.labels.get(label)), ""
        )
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
    remove_images(client, lambda server: (port := server.rpartition(":")[2]).isdigit() and int(port) in PORTS)
    for volume in client.volumes.list():
        port = volume.name.rpartition("-")[2]
        mine = volume.name.startswith("bluegreen-proxy-") and port.isdigit() and int(port) in PORTS
        if mine or volume.name.startswith(f"bluegreen-history-{PREFIX}-"):
            with contextlib.suppress(docker.errors.APIError):
                volume.remove(force=True)
