"""The benches of benches.py as fixtures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import docker
import pytest
from benches import (
    FIXED,
    PROXIES,
    RUNTIMES,
    Apps,
    ProxyBench,
    RuntimeBench,
    fresh_name,
    settings_of,
    some_proxies,
    start,
)
from harness import FULL, IMAGES
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of proxies has its turn by its place in the file; in the soak, it runs on all."""
    if "proxies" in metafunc.fixturenames:
        tests = [name for name in vars(metafunc.module) if name.startswith("test_")]
        turn = tests.index(metafunc.function.__name__)
        metafunc.parametrize("proxies", list(PROXIES) if FULL else some_proxies(turn), indirect=True)


@pytest.fixture
def proxies(request: pytest.FixtureRequest) -> ProxyBench:
    return PROXIES[request.param](request)


SWARM = pytest.mark.xdist_group("swarm")
"""In one worker, so that one host is played for all."""


@pytest.fixture(params=[pytest.param(name, marks=[SWARM] if name == "swarm" else []) for name in RUNTIMES])
def runtimes(request: pytest.FixtureRequest) -> RuntimeBench:
    return RUNTIMES[request.param](request)


@pytest.fixture(params=FIXED)
def fixed_runtimes(request: pytest.FixtureRequest) -> RuntimeBench:
    return RUNTIMES[request.param](request)
