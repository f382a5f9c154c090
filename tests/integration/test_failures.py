"""A release that is no good never costs a request, and leaves nothing behind but the reason."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Any

import docker
import pytest
from aftermath import GENTLE, edit, things
from harness import FULL, RELOAD_CLOSES, Make, Ran, TestService, ways
from load import Load, Result

BROKEN = {
    "v4-never-ready": ["was not ready after 6 s", "/version answered 503", "hippo_flask v4-never-ready: listening"],
    "v4-wrong-version": ["was not ready after 6 s", "'version 0', not 'version 4-wrong-version'", "listening on 9000"],
    "v4-exits": ["ended with exit code 1", "RuntimeError: built with BROKEN=exits", "giving up"],
}
"""What is said of each: the reason, and the last lines of its container."""


def refused(service: TestService, release: str, timeout: float = 180) -> tuple[Ran, dict[str, Any]]:
    """The deploy fails; what it said, and its receipt."""
    file = service.directory / "receipt.json"
    ran = service.run("deploy", release, "--receipt", os.fspath(file), timeout=timeout)
    assert ran.code == 1, ran.text
    assert "Traceback (most recent call last):\n  File" not in ran.text.replace('  File "/app/server.py"', "")
    return ran, json.loads(file.read_text())


def deploy_under_load(
    engine: docker.DockerClient, service: TestService, release: str, **load: Any
) -> tuple[Ran, dict[str, Any], Result]:
    """The deploy of a broken release over v1 fails under load, and leaves all as it was."""
    service.deploy("v1")
    edit(service, "seconds = 0.5", "seconds = 60")
    before = things(engine, service)
    with Load(service.url, **{**GENTLE, **load}) as clients:
        clients.wait_for_requests(100)
        ran, receipt = refused(service, release)
        clients.wait_for_requests(clients.snapshot().total + 100)
        result = clients.stop()
    assert result.failed == 0, result.explain()
    assert things(engine, service) == before, "nothing of the new release is left, and all of the old one"
    assert receipt["result"] == "undone"
    assert (receipt["from"], receipt["to"]) == ("v1", release)
    assert "v1 still serves" in ran.err
    status = service.status()
    assert (status["live"]["release"], status["standby"], status["unfinished"]) == ("v1", None, None)
    return ran, receipt, result


@pytest.mark.parametrize("release", BROKEN)
def test_a_release_that_does_not_become_ready_gets_no_request(
    make_service: Make, engine: docker.DockerClient, release: str
) -> None:
    # A container that is dead is not waited for: the time-out is longer than this test may take.
    service = make_service(probe='timeout = "1h"' if release == "v4-exits" else 'timeout = "6s"')
    ran, receipt, result = deploy_under_load(engine, service, release)
    for words in BROKEN[release]:
        assert words in ran.err, ran.text
    assert set(result.by_release) == {"v1"}
    assert receipt["requests"]["failed"] == 0
    steps = [(step["step"], step["state"]) for step in receipt["steps"]]
    assert steps == [("start", "done"), ("probe", "failed"), ("start", "undone")]


@pytest.mark.parametrize(("image", "switch"), ways(2))
def test_a_release_that_dies_after_the_switch_is_taken_back(
    make_service: Make, engine: docker.DockerClient, image: str, switch: str
) -> None:
    service = make_service(image=image, switch=switch)
    load = {"keepalive": 0, "fresh": 6} if (image, switch) == RELOAD_CLOSES else {}
    ran, receipt, result = deploy_under_load(engine, service, "v4-dies", **load)
    assert re.search("v4-dies ended with exit code 1|does not answer right any more", ran.err), ran.err
    assert "built with BROKEN=dies: ending" in ran.err
    assert result.by_release["v4-dies"] > 0, "it was live for a while"
    states = [(step["step"], step["state"]) for step in receipt["steps"]]
    assert ("bake", "failed") in states
    assert ("switch", "undone") in states


@pytest.mark.parametrize("release", [*BROKEN, "v4-dies"] if FULL else ["v4-dies"])
def test_a_broken_first_release_leaves_an_empty_host_empty(
    make_service: Make, engine: docker.DockerClient, release: str
) -> None:
    service = make_service(probe='timeout = "6s"', bake=60)
    ran, receipt = refused(service, release)
    assert things(engine, service) == set()
    assert "nothing is served, as before" in ran.err
    assert receipt["result"] == "undone"
    assert service.status()["live"] is None


def test_a_build_that_fails_shows_its_last_lines_and_changes_nothing(
    make_service: Make, engine: docker.DockerClient, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM nginx:stable\nRUN printf 'nearly \\033[45mthere\\007\\n'; exit 7\n", encoding="utf-8"
    )
    service = make_service()
    service.deploy("v1")
    before = things(engine, service)
    text = (service.directory / "bluegreen.toml").read_text()
    edit(service, re.findall(r'^context = ".*"$', text, re.MULTILINE)[0], f'context = "{context}"')
    ran, receipt = refused(service, "v9-does-not-build")
    assert "the build of" in ran.err
    assert "returned a non-zero code: 7" in ran.err
    assert "nearly there" in ran.err
    assert "\x07" not in ran.text
    assert "v1 still serves" in ran.err
    assert receipt["result"] == "undone"
    assert things(engine, service) == before
    build = service.run("build", "v9-does-not-build")
    assert build.code == 1
    assert "nearly there" in build.err


COMMAND = r"""[
    "python3", "-c", 'print("\x1b[45mpainted\x07 \x1b]0;title\x07 \x9b45m over\rwritten"); raise SystemExit(3)'
]"""


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_container_does_not_control_the_terminal(make_service: Make, arguments: list[str]) -> None:
    service = make_service(app=f"command = {COMMAND}")
    output, code = on_a_terminal(service, "deploy", "v1", *arguments)
    assert code == 1
    assert "painted" in output
    # Our own colours, and what a view that is written over itself takes: up, erase, and the cursor hidden and shown.
    own = re.sub(r"\x1b\[(?:(?:[0-2]|3[0-9]|9[0-7])(?:;[0-9]+)*m|[0-9]*A|[0-2]?K|\?25[lh])", "", output)
    assert not re.findall(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", own), repr(output)
    assert "\x1b[45m" not in output
    assert "exit code 3" in output


def on_a_terminal(service: TestService, *arguments: str) -> tuple[str, int]:
    """What the command writes to a terminal, and its exit code."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        service.command(*arguments),
        cwd=service.directory,
        env={**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parents[2]), "TERM": "xterm", "NO_COLOR": ""},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    output = b""
    try:
        while piece := os.read(ours, 65536):
            output += piece
    except OSError:  # the terminal's other end is closed
        pass
    finally:
        os.close(ours)
    return output.decode(errors="replace"), process.wait(60)
