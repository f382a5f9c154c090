"""A release that does its users harm where no probe looks is taken back, and the receipt says by which numbers."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from aftermath import GENTLE, edit
from harness import Make, TestService, ways
from load import Load

USERS = {**GENTLE, "post": 0.3}
"""Some of them send what the broken release answers with an error."""


def taken_back(service: TestService, release: str) -> dict[str, Any]:
    """The deploy of a release over v1 is undone by its own figures; what the receipt has of the bake."""
    file = service.directory / "receipt.json"
    ran = service.run("deploy", release, "--receipt", os.fspath(file))
    assert ran.code == 1, ran.text
    receipt = json.loads(file.read_text())
    assert receipt["result"] == "undone"
    assert receipt["requests"]["failed"] == 0, "the witness saw nothing of it"
    states = [(step["step"], step["state"]) for step in receipt["steps"]]
    assert ("bake", "failed") in states
    assert ("switch", "undone") in states
    assert receipt["bake"]["decided"]
    assert f"error: {receipt['bake']['decided']}" in ran.err
    assert "v1 still serves" in ran.err
    assert set(service.containers().values()) == {"v1"}
    return receipt["bake"]


@pytest.mark.parametrize(("image", "switch"), ways(3))
def test_a_release_that_answers_users_with_errors_is_taken_back_and_a_good_one_is_not(
    make_service: Make, image: str, switch: str
) -> None:
    service = make_service(image=image, switch=switch)
    edit(service, "seconds = 0.5", "seconds = 2\nmax_error_ratio = 0.05")
    service.deploy("v1")
    edit(service, "seconds = 2", "seconds = 60")
    with Load(service.url, **USERS) as users:
        users.wait_for_requests(100)
        bake = taken_back(service, "v4-fails")
        edit(service, "seconds = 60", "seconds = 2")
        good = service.deploy("v2")["bake"]
        result = users.stop()
    assert {(failure["status"], failure["release"]) for failure in result.failures} == {(500, "v4-fails")}
    assert bake["limits"] == {"max_error_ratio": 0.05, "max_p99_ms": None}
    assert (bake["old"]["errors"], bake["old"]["error_ratio"]) == (0, 0)
    assert bake["old"]["requests"] > 0
    assert 10 <= bake["new"]["errors"] <= result.failed, "what was counted is what users saw"
    assert bake["new"]["error_ratio"] > 0.05
    assert good["decided"] is None
    assert (good["old"]["errors"], good["new"]["errors"]) == (0, 0)
    assert min(good["old"]["requests"], good["new"]["requests"]) > 0
    assert service.live() == "v2"


def test_a_release_that_is_slow_is_taken_back(make_service: Make) -> None:
    service = make_service()
    edit(service, "seconds = 0.5", "seconds = 0.5\nmax_p99_ms = 400")
    service.deploy("v1")
    edit(service, "seconds = 0.5", "seconds = 8")
    bake = taken_back(service, "v4-slow")
    assert bake["new"]["p99_ms"] > max(400, bake["old"]["p99_ms"])
    assert bake["new"]["requests"] is None, "the proxy counts only where there is a limit for errors"
