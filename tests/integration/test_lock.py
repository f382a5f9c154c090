"""One run at a time, whoever starts it, and everybody is told who has the turn."""

from __future__ import annotations

import contextlib
import getpass
import re
import shutil
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
from aftermath import Followed, edit, things
from harness import FULL, IMAGES, Make, eventually
from hosts import SOCKET
from relay import relay

from bluegreen import lock as locks
from bluegreen.errors import Locked

SINCE = r"since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"


def test_a_second_run_is_told_who_holds_the_lock(make_service: Make, engine: docker.DockerClient) -> None:
    service = make_service()
    service.deploy("v1")
    edit(service, 'timeout = "30s"', 'timeout = "1h"')
    holder = Followed(service, "deploy", "v4-never-ready")
    holder.until("probe", "started")
    before = things(engine, service)
    who = f"{getpass.getuser()}@{socket.gethostname()}, process {holder.process.pid}"

    for command in (["deploy", "v2"], ["rollback"], ["down", "--yes"]):
        ran = service.run(*command)
        assert ran.code == 4, ran.text
        assert f"{service.name} is locked by {who} (deploy v4-never-ready, " in ran.err
        assert re.search(SINCE, ran.err)
        assert "--wait" in ran.err
    assert things(engine, service) == before, "a refused run changes nothing"

    status = service.status()
    assert status["live"]["release"] == "v1"
    assert status["lock"].startswith(f"{who} (deploy v4-never-ready, ")
    assert f"locked by {who}" in service.ok("status").out

    holder.process.send_signal(signal.SIGINT)
    assert holder.end().code == 130
    assert service.status()["lock"] is None


def test_a_run_that_waits_has_its_turn_and_acts_on_what_is_true_then(make_service: Make) -> None:
    service = make_service()
    service.deploy("v1")
    edit(service, "seconds = 0.5", "seconds = 8")
    holder = Followed(service, "deploy", "v2")
    holder.until("start", "started")
    waiting = Followed(service, "deploy", "v3", "--wait", "300")
    waiting.until("lock", "progress")
    assert f"process {holder.process.pid} (deploy v2, " in waiting.events[0]["detail"]
    edit(service, "seconds = 8", "seconds = 0.5")
    assert holder.end().code == 0
    assert waiting.end().code == 0
    assert (waiting.receipt()["from"], waiting.receipt()["to"]) == ("v2", "v3")
    assert list(service.containers().values()) == ["v3"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM] if FULL else [signal.SIGTERM])
def test_a_run_that_waits_can_be_interrupted(make_service: Make, number: signal.Signals) -> None:
    service = make_service(bake=3600)
    holder = Followed(service, "deploy", "v1")
    holder.until("bake", "started")
    waiting = Followed(service, "deploy", "v2", "--wait", "300")
    waiting.until("lock", "progress")
    waiting.process.send_signal(number)
    assert waiting.end().code == 130
    assert holder.process.poll() is None
    assert set(service.containers().values()) == {"v1"}
    holder.process.send_signal(number)
    assert holder.end().code == 130


def test_of_many_deploys_at_once_each_runs_or_is_refused(
    make_service: Make, engine: docker.DockerClient, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    service, count, waiting = make_service(), 20 if FULL else 6, 4 if FULL else 3
    releases = [f"v{100 + number}" for number in range(count)]
    image = engine.images.get(f"{IMAGES}:v1")
    try:
        for release in releases:
            image.tag(IMAGES, release)
        with relay(free_port(), SOCKET) as way:
            runs = []
            for number, release in enumerate(releases):
                directory = tmp_path / release
                shutil.copytree(service.directory, directory)
                mine = replace(service, directory=directory)
                mine.env = {"DOCKER_HOST": way.address} if number % 2 else {}
                edit(mine, 'body = "version {number}"', 'body = "version 1"')  # what they all are
                wait = ["--wait", "300"] if number < waiting else []
                runs.append(Followed(mine, "deploy", release, *wait))
            # Reading commands take no lock.
            assert all(service.run(*command).code == 0 for command in (["status"], ["deploy", "v1", "--plan"]))
            ended = {run: run.end(300) for run in runs}
        codes = [ran.code for ran in ended.values()]
        assert set(codes) <= {0, 4}, "\n".join(ran.text for ran in ended.values())
        assert codes[:waiting] == [0] * waiting, "those that wait have their turn"
        who = f"locked by {getpass.getuser()}@{socket.gethostname()}, process "
        for run in [run for run, ran in ended.items() if ran.code == 4]:
            assert re.search(rf"{re.escape(who)}\d+ \(deploy v1\d\d, {SINCE}\)", run.events[-1]["message"])
        status = service.status()
        receipts = [run.receipt() for run, ran in ended.items() if ran.code == 0]
        assert (status["standby"], status["unfinished"], status["lock"]) == (None, None, None)
        assert list(service.containers().values()) == [status["live"]["release"]]
        # One after the other: each took over from the one before it, and the last is live.
        took_over = {each["from"]: each["to"] for each in receipts}
        last = None
        for _ in receipts:
            last = took_over[last]
        assert last == status["live"]["release"]
    finally:
        for name in (f"bluegreen-lock-{service.name}", f"{service.name}-blue-1", f"{service.name}-green-1"):
            with contextlib.suppress(docker.errors.NotFound):
                engine.containers.get(name).remove(force=True)
        for release in releases:
            with contextlib.suppress(docker.errors.ImageNotFound):
                engine.images.remove(f"{IMAGES}:{release}")


def test_a_run_that_loses_its_lock_does_not_commit(make_service: Make, engine: docker.DockerClient) -> None:
    service = make_service()
    service.deploy("v1")
    edit(service, "seconds = 0.5", "seconds = 10")
    deploy = Followed(service, "deploy", "v2")
    deploy.until("bake", "started")
    engine.containers.get(f"bluegreen-lock-{service.name}").remove(force=True)
    ran = deploy.end()
    assert ran.code == 1
    assert "was lost" in deploy.events[-1]["message"]
    assert deploy.receipt()["result"] == "undone"
    assert list(service.containers().values()) == ["v1"]
    assert service.get().text.strip() == "version 1"


def test_a_lock_whose_holder_died_before_it_started_is_taken_over(
    make_service: Make, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service()

    def lock() -> Any:
        return locks.Lock(engine, service.name, "nginx:stable")

    dead = locks.Holder("somebody@elsewhere, process 1", "deploy v9", "2020-01-01T00:00:00+00:00")
    engine.containers.create(
        "nginx:stable",
        ["true"],
        name=f"bluegreen-lock-{service.name}",
        labels={"bluegreen.lock": service.name, **dead.labels()},
    )
    monkeypatch.setattr(locks, "STILLBORN", 3600)
    with pytest.raises(Locked, match=re.escape("somebody@elsewhere, process 1 (deploy v9, since 2020")):
        lock().take("deploy v1")
    monkeypatch.setattr(locks, "STILLBORN", 1)
    mine = lock()
    mine.take("deploy v1", wait=60)
    mine.check()
    held = lock().holder()
    assert held is not None
    assert held.doing == "deploy v1"
    mine.release()
    eventually(lambda: lock().holder() is None, "the lock is free")
