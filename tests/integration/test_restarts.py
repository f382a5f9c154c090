"""Containers restart, crash and are stopped; traffic comes back to the live release with no command typed."""

from __future__ import annotations

import itertools

import docker
import httpx
import pytest
from aftermath import things
from harness import FULL, MODES, RELOAD_CLOSES, Make, TestService, eventually, ways


def crash(engine: docker.DockerClient, name: str) -> None:
    """The container's main process is killed as by a crash; `docker kill` would count as a wish to have it stopped."""
    pid = engine.containers.get(name).attrs["State"]["Pid"]
    command = ["sh", "-c", f"kill -9 {pid}"]
    engine.containers.run("nginx:stable", command, entrypoint=[], pid_mode="host", remove=True)


def serves(service: TestService, version: str) -> bool:
    try:
        answer = service.get()
    except httpx.HTTPError:
        return False
    return (answer.status_code, answer.text.strip()) == (200, version)


@pytest.mark.parametrize(("image", "switch"), ways(1, RELOAD_CLOSES))
def test_traffic_comes_back_after_restarts_and_crashes(
    make_service: Make, engine: docker.DockerClient, image: str, switch: str
) -> None:
    service = make_service(image=image, switch=switch)
    service.deploy("v1")
    service.deploy("v2")
    before = things(engine, service)
    app, proxy = f"{service.name}-green-1", f"bluegreen-proxy-127.0.0.1-{service.port}"
    for name in (app, proxy):
        for how in ("restart", "crash"):
            began = engine.containers.get(name).attrs["State"]["StartedAt"]
            if how == "restart":
                engine.containers.get(name).restart(timeout=10)
            else:
                crash(engine, name)

            def restarted(name: str = name, began: str = began) -> bool:
                state = engine.containers.get(name).attrs["State"]
                return state["Running"] and state["StartedAt"] != began

            eventually(restarted, f"{name} is up after a {how}")
            eventually(lambda: serves(service, "version 2"), f"v2 answers after a {how} of {name}")
    assert things(engine, service) == before
    status = service.status()
    assert (status["live"]["release"], status["live"]["colour"], status["unfinished"]) == ("v2", "green", None)
    receipt = service.deploy("v3")
    assert (receipt["from"], receipt["requests"]["failed"]) == ("v2", 0)


@pytest.mark.parametrize(
    ("image", "switch"),
    list(itertools.product(["nginx:stable", "haproxy:3.2"], MODES))
    if FULL
    else [("nginx:stable", "live"), ("haproxy:3.2", "reload")],
)
def test_a_deploy_starts_a_proxy_that_is_down_and_knows_what_was_live(
    make_service: Make, engine: docker.DockerClient, image: str, switch: str
) -> None:
    service = make_service(image=image, switch=switch)
    service.deploy("v1")
    proxy = engine.containers.get(f"bluegreen-proxy-127.0.0.1-{service.port}")
    proxy.stop(timeout=5)
    status = service.status()
    assert status["proxy"]["running"] is False
    receipt = service.deploy("v2")
    assert (receipt["from"], receipt["to"]) == ("v1", "v2")
    assert receipt["requests"]["failed"] == 0
    proxy.restart(timeout=5)
    receipt = service.deploy("v3")  # at once: it may not be up yet
    assert receipt["from"] == "v2"
    assert serves(service, "version 3")
    assert list(service.containers().values()) == ["v3"]
