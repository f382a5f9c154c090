"""The main job: a release goes live, the next one takes over, and the way back is open."""

from __future__ import annotations

import json

import docker
import pytest
from harness import Make, ways


@pytest.mark.parametrize(("image", "switch"), ways(1))
def test_a_release_goes_live_the_next_takes_over_and_rollback_brings_it_back(
    make_service: Make, image: str, switch: str
) -> None:
    service = make_service(image=image, switch=switch)

    first = service.deploy("v1")
    assert (first["result"], first["from"], first["to"]) == ("done", None, "v1")
    assert service.get().text.strip() == "version 1"

    second = service.deploy("v2")
    assert (second["result"], second["from"], second["to"]) == ("done", "v1", "v2")
    assert second["requests"]["failed"] == 0
    assert service.get().text.strip() == "version 2"
    assert set(service.containers().values()) == {"v2"}, "the old release is removed"

    back = service.rollback()
    assert (back["action"], back["from"], back["to"]) == ("rollback", "v2", "v1")
    assert back["requests"]["failed"] == 0
    assert service.get().text.strip() == "version 1"
    assert set(service.containers().values()) == {"v1"}


def test_what_is_live_is_not_deployed_again(make_service: Make) -> None:
    service = make_service()
    service.deploy("v1")
    before = service.containers()
    receipt = service.deploy("v1")
    assert receipt["result"] == "unchanged"
    assert receipt["steps"] == []
    assert service.containers() == before


def test_changed_settings_are_deployed_though_the_release_is_the_same(make_service: Make) -> None:
    service = make_service()
    service.deploy("v1")
    file = service.directory / "bluegreen.toml"
    file.write_text(file.read_text().replace("port = 9000", 'port = 9000\nenv = { COLOUR = "red" }'))
    assert service.deploy("v1")["result"] == "done"


def test_a_standby_is_kept_running_and_rollback_needs_no_start(make_service: Make) -> None:
    service = make_service(extra='[retire]\nold = "standby"')
    service.deploy("v1")
    service.deploy("v2")
    status = service.status()
    assert status["live"]["release"] == "v2"
    assert status["standby"]["release"] == "v1"
    assert status["rollback"]["release"] == "v1"
    assert status["rollback"]["how"] == "standby"

    before = service.containers()
    receipt = service.rollback()
    steps = [step["step"] for step in receipt["steps"]]
    assert "start" not in steps
    assert service.containers() == before
    assert service.live() == "v1"


def test_a_second_rollback_goes_further_back_and_not_to_the_release_just_left(make_service: Make) -> None:
    service = make_service()
    for release in ("v1", "v2", "v3"):
        service.deploy(release)
    assert service.rollback()["to"] == "v2"
    assert service.rollback()["to"] == "v1"
    ran = service.run("rollback")
    assert ran.code == 1
    assert "no release before it" in ran.text
    assert service.rollback("v3")["to"] == "v3"


def test_rollback_to_a_release_whose_image_is_gone_fails_and_says_so(
    make_service: Make, engine: docker.DockerClient
) -> None:
    service = make_service()
    service.deploy("v1")
    ran = service.run("rollback", "v77")
    assert ran.code == 1
    assert "v77" in ran.text
    assert service.live() == "v1"


@pytest.mark.parametrize("action", ["deploy", "rollback"])
def test_the_plan_is_what_then_runs(make_service: Make, action: str) -> None:
    service = make_service()
    service.deploy("v1")
    service.deploy("v2")
    arguments = ["deploy", "v3"] if action == "deploy" else ["rollback"]
    before = service.containers()
    plan = service.ok(*arguments, "--plan", "--json").json()
    assert service.containers() == before, "a plan changes nothing"
    file = service.directory / "receipt.json"
    service.ok(*arguments, "--receipt", str(file))
    receipt = json.loads(file.read_text())
    assert [step["step"] for step in plan["steps"]] == [step["step"] for step in receipt["steps"]]
    assert (plan["release"], plan["from"]) == (receipt["to"], receipt["from"])


def test_down_leaves_nothing_of_the_service(make_service: Make, engine: docker.DockerClient) -> None:
    service = make_service()
    service.deploy("v1")
    service.ok("down", "--yes")
    assert service.containers() == {}
    assert not engine.networks.list(names=[f"bluegreen-net-{service.name}"])
    assert not engine.volumes.list(filters={"name": f"bluegreen-proxy-127.0.0.1-{service.port}"})
    assert service.status()["live"] is None
