"""The benches of benches.py as fixtures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import docker
import pytest
from benches import FIXED, PROXIES, RUNTIMES, Apps, ProxyBench, RuntimeBench, fresh_name, settings_of, start
from harness import IMAGES
from hosts import running_host

from bluegreen.model import Colour
from bluegreen.runtimes.docker import DockerRuntime


@pytest.fixture(scope="session")
def apps(engine: docker.DockerClient, releases: None) -> Iterator[Apps]:
    """The apps on the real engine that all tests of proxies share; no test changes them."""
    runtime = DockerRuntime(engine, settings_of(fresh_name()))
    with contextlib.ExitStack() as after:
        after.callback(runtime.remove_network)
        runtime.prepare()
        endpoints = {}
        for colour, name in zip(Colour, ("v1", "v2"), strict=True):
            after.callback(runtime.remove, colour)
            image = runtime.image(f"{IMAGES}:{name}")
            assert image
            endpoints[colour] = start(runtime, colour, name, image.digest)
        yield Apps(endpoints, runtime.network)


@pytest.fixture(scope="session")
def node(
    engine: docker.DockerClient, releases: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[docker.DockerClient]:
    """The engine of a host of its own, which is a swarm of one node."""
    images = ["python:3.13-alpine", *(f"{IMAGES}:{name}" for name in ("v1", "v2", "v4-exits"))]
    with running_host(engine, tmp_path_factory.mktemp("node"), images=images) as host, host.engine() as client:
        client.swarm.init(advertise_addr=host.address)
        yield client


@pytest.fixture(params=PROXIES)
def proxies(request: pytest.FixtureRequest) -> ProxyBench:
    return PROXIES[request.param](request)


@pytest.fixture(params=RUNTIMES)
def runtimes(request: pytest.FixtureRequest) -> RuntimeBench:
    return RUNTIMES[request.param](request)


@pytest.fixture(params=FIXED)
def fixed_runtimes(request: pytest.FixtureRequest) -> RuntimeBench:
    return RUNTIMES[request.param](request)
