"""A service of its own for each test, on the real engine, driven by the command as a user types it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from certificates import Authority
from gitlab_double import GitLab
from gitlab_registry import remove_images
from harness import IMAGES, PREFIX, REPOSITORY, Make, TestService

LONGEST = ["test_zero_loss", "test_crash", "test_in_flight"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest is begun first, so that no worker goes on with it alone at the end.

    Groups are begun before all others by pytest-xdist itself, the largest first.
    """
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _releases(releases: None) -> None:
    """Every release that a test may deploy is built."""


@pytest.fixture
def make_service(
    tmp_path: Path, free_port: Callable[[], int], engine: docker.DockerClient, request: pytest.FixtureRequest
) -> Iterator[Make]:
    """Makes services, all of which are gone after the test."""
    made: list[TestService] = []

    def make(
        *,
        image: str = "nginx:stable",
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
kind = "{image.partition(":")[0]}"
image = "{image}"
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


@pytest.fixture
def gitlab(
    tmp_path: Path, free_port: Callable[[], int], engine: docker.DockerClient
) -> Iterator[Callable[..., GitLab]]:
    """Makes doubles of GitLab, each with a registry, all of which are gone after the test.

    Fails if a double was asked anything that GitLab does not know. A test that wants that clears `mistakes`.
    """
    made: list[GitLab] = []

    def make(**options: Any) -> GitLab:
        authority = None
        if options.get("tls") or options.get("registry_tls"):
            directory = tmp_path / f"gitlab-{len(made) + 1}"
            directory.mkdir()
            authority = Authority(directory)
        double = GitLab(
            engine, container_port=free_port(), port=free_port(), authority=authority, **options
        )
        made.append(double)
        return double

    yield make
    for double in made:
        double.stop()
    remove_images(engine, {double.registry_server for double in made}.__contains__)
    assert [mistake for double in made for mistake in double.mistakes] == []


_numbers = itertools.count(1)


def remove_all(engine: docker.DockerClient, service: TestService) -> None:
    """Nothing of the service is left, whatever the test did to it."""
    at_port, history = f"127.0.0.1-{service.port}", f"bluegreen-history-{service.name}"
    proxy = f"bluegreen-proxy-{at_port}"
    for name in (f"bluegreen-lock-{service.name}", proxy, f"bluegreen-filler-{at_port}", history):
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
    for name in (proxy, history):
        with contextlib.suppress(docker.errors.APIError):
            engine.volumes.get(name).remove(force=True)
