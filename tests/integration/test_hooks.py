"""Hooks: called at their moments, undone with the run, never a deadlock, and nothing of them is left; and the floor."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from pathlib import Path

import docker
import pytest
from aftermath import GENTLE, Followed, edit, things
from harness import FULL, Make, TestService, eventually
from load import Load

BLUEGREEN = f"{sys.executable} -m bluegreen"
LASTING = {
    "here": "sleep 600 & echo $! >> pids; echo $$ >> pids; echo begun; wait",
    "image": "echo begun; sleep 600",
}
"""Hooks that outlast every test, which tell when they have begun."""


def hook(name: str, script: str, **more: str) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"command": script, **more}.items()]
    return "\n".join([f"[hooks.{name}]", *lines, ""])


def with_hooks(make_service: Make, *hooks: str) -> TestService:
    """v1 is live, and the next run has these hooks."""
    service = make_service()
    service.deploy("v1")
    file = service.directory / "bluegreen.toml"
    file.write_text(file.read_text() + "\n".join(hooks))
    return service


def ended(service: TestService) -> bool:
    """The processes that a hook here has noted have ended, or wait for nothing but that somebody asks how."""

    def has(pid: str) -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return True

    return all(map(has, (service.directory / "pids").read_text().split()))


def test_hooks_are_called_in_order_with_what_they_need_to_know_and_may_call_bluegreen(
    make_service: Make, engine: docker.DockerClient
) -> None:
    told = 'echo "$BLUEGREEN_HOOK $BLUEGREEN_ACTION $BLUEGREEN_FROM $BLUEGREEN_RELEASE $BLUEGREEN_COLOUR" >> told'
    reading = f"{BLUEGREEN} status --json > status.json"
    nested = f"{reading}; {BLUEGREEN} deploy v3 --wait 600 > nested 2>&1; echo $? >> nested"
    service = with_hooks(
        make_service,
        hook("pre_deploy", "echo migrating to $RELEASE in $TOWN", run="image"),
        hook("post_switch", f"{told}; {nested}"),
        hook("post_deploy", f"{told}; exit 5"),
        hook("on_failure", f"{told}"),
    )
    edit(service, "port = 9000\n", 'port = 9000\nenv = { TOWN = "Paris" }\n')
    # A hook's own bluegreen has to find the file that this one was given.
    (service.directory / "bluegreen.toml").rename(service.directory / "other.toml")
    receipt = service.directory / "receipt.json"
    ran = service.ok("-c", "other.toml", "deploy", "v2", "--receipt", str(receipt))

    assert (service.directory / "told").read_text().splitlines() == [
        "post_switch deploy v1 v2 green",
        "post_deploy deploy v1 v2 green",
    ]
    made = json.loads(receipt.read_text())
    states = [(step["step"], step["state"]) for step in made["steps"]]
    order = ["pre_deploy", "start", "probe", "switch", "verify", "post_switch", "bake", "drain", "retire"]
    assert states == [*((step, "done") for step in order), ("post_deploy", "failed")]
    assert made["steps"][0]["detail"].endswith("\nmigrating to v2 in Paris")
    assert "migrating to v2 in Paris" in ran.out
    assert "exit code 5" in made["warnings"][0], "what fails after the commit takes nothing back"

    seen = json.loads((service.directory / "status.json").read_text())
    assert (seen["service"], seen["live"]["release"]) == (service.name, "v2")
    assert made["run"] == seen["unfinished"]
    nested_words = (service.directory / "nested").read_text()
    assert nested_words.rstrip().endswith("\n4"), nested_words
    assert f"called from the hook post_switch of run {made['run']}, which holds the lock" in nested_words
    assert not [thing for thing in things(engine, service) if "-hook-" in thing]


def test_a_hook_that_fails_after_the_switch_takes_it_back_without_a_failed_request(
    make_service: Make, engine: docker.DockerClient
) -> None:
    ask = "urllib.request.urlopen(os.environ['BLUEGREEN_URL'] + '/version').read().decode()"
    smoke = f"import os, sys, urllib.request; sys.exit({ask})"  # whatever the answer, it fails, and says it
    service = with_hooks(
        make_service,
        hook("post_switch", f'{sys.executable} -c "{smoke}"'),
        hook("on_failure", 'echo "$BLUEGREEN_RESULT: $BLUEGREEN_REASON" > told'),
    )
    before = things(engine, service)
    with Load(service.url, **GENTLE) as clients:
        clients.wait_for_requests(50)
        ran = service.run("deploy", "v2", "--receipt", str(service.directory / "receipt.json"))
        clients.wait_for_requests(clients.snapshot().total + 50)
        result = clients.stop()
    assert ran.code == 1, ran.text
    assert result.failed == 0, result.explain()
    assert "the hook post_switch failed" in ran.err
    assert "version 2" in ran.err, "what the hook said stands in the error"
    assert "v1 still serves" in ran.err
    assert (service.directory / "told").read_text().startswith("undone: the hook post_switch failed: ")
    assert things(engine, service) == before
    assert service.get().text.strip() == "version 1"


@pytest.mark.parametrize("place", LASTING if FULL else ["here"])
def test_an_interrupted_hook_ends_with_all_that_it_started_and_the_run_is_undone(
    make_service: Make, engine: docker.DockerClient, place: str
) -> None:
    service = with_hooks(make_service, hook("pre_deploy", LASTING[place], run=place, timeout="1h"))
    before = things(engine, service)
    deploy = Followed(service, "deploy", "v2")
    deploy.until("pre_deploy", "progress")
    deploy.process.send_signal(signal.SIGTERM if place == "here" else signal.SIGINT)
    ran = deploy.end()
    assert ran.code == 130, ran.text
    assert deploy.receipt()["result"] == "undone"
    assert things(engine, service) == before
    if place == "here":
        eventually(lambda: ended(service), "the hook's processes end")


@pytest.mark.parametrize("place", LASTING if FULL else ["image"])
def test_a_hook_of_a_killed_run_is_ended_and_the_next_run_removes_what_is_left(
    make_service: Make, engine: docker.DockerClient, place: str
) -> None:
    service = with_hooks(make_service, hook("pre_deploy", LASTING[place], run=place, timeout="1h"))
    deploy = Followed(service, "deploy", "v2")
    deploy.until("pre_deploy", "progress")
    deploy.process.kill()
    deploy.end()
    if place == "here":
        eventually(lambda: ended(service), "the hook's processes end")
    file = service.directory / "bluegreen.toml"
    file.write_text(file.read_text().replace(json.dumps(LASTING[place]), '"echo quick"'))
    ran = service.ok("deploy", "v2", "--wait", "60")
    assert ("which a killed run had left" in ran.out) is (place == "image")
    assert not [thing for thing in things(engine, service) if "-hook-" in thing]
    assert service.live() == "v2"


def test_a_hook_that_takes_too_long_is_ended_and_the_run_undone(
    make_service: Make, engine: docker.DockerClient
) -> None:
    service = with_hooks(make_service, hook("pre_deploy", LASTING["here"], timeout="5s"))
    before = things(engine, service)
    ran = service.run("deploy", "v2")
    assert ran.code == 1, ran.text
    assert "had not ended after 5 s and was ended" in ran.err
    assert "begun" in ran.err
    assert things(engine, service) == before
    eventually(lambda: ended(service), "the hook's processes end")


def test_a_first_deploy_that_its_migration_fails_leaves_an_empty_host(
    make_service: Make, engine: docker.DockerClient
) -> None:
    service = make_service(extra=hook("pre_deploy", "echo no database; exit 3", run="image"))
    ran = service.run("deploy", "v1")
    assert ran.code == 1, ran.text
    assert "ended with exit code 3\n" in ran.err
    assert "no database" in ran.err
    assert things(engine, service) == set()


def test_a_release_that_cannot_be_rolled_back_past_is_not(make_service: Make) -> None:
    service = make_service()
    service.deploy("v1")
    file = service.directory / "bluegreen.toml"
    text = file.read_text()
    file.write_text(f"rollback_floor = true\n{text}")
    service.deploy("v2")
    file.write_text(text)
    for arguments in (["rollback"], ["rollback", "--plan"]):
        ran = service.run(*arguments)
        assert ran.code == 1, ran.text
        assert "v1 can't come back: v2 was deployed as one that can't be rolled back past" in ran.err
        assert "v2 still serves" in ran.err
    readiness = service.status()["rollback"]
    assert (readiness["release"], readiness["ready"]) == ("v1", False)
    assert "rollback_floor" in readiness["why"]

    service.deploy("v3")
    assert service.run("rollback", "v1").code == 1
    assert service.rollback()["to"] == "v2", "to the floor itself"
