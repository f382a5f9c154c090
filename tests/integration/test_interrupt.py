"""A run that is interrupted undoes what it did; one that is killed leaves what the next one puts right."""

from __future__ import annotations

import itertools
import signal

import docker
import pytest
from aftermath import GENTLE, Followed, edit, things
from harness import FULL, Make, TestService, eventually
from load import Load

SIGNALS = [signal.SIGINT, signal.SIGTERM]
PHASES = {"probe": "v4-never-ready", "bake": "v2"}
"""In which step of a deploy it happens, and of which release."""

AT = [("probe", "live", signal.SIGINT), ("bake", "reload", signal.SIGTERM)]
DURING = [("start", signal.SIGTERM), ("switch", signal.SIGINT)]
if FULL:  # tests/unit/test_engine.py has both signals at every point there is
    AT = list(itertools.product(PHASES, ["live", "reload"], SIGNALS))
    DURING = [(step, number) for step, _ in DURING for number in SIGNALS]

STUBBORN = """command = ["python3", "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
stop_timeout = "4s"
"""


def with_live_v1(make_service: Make, switch: str = "live") -> TestService:
    """v1 is live; from now on the probe and the bake take longer than any test."""
    service = make_service(switch=switch)
    service.deploy("v1")
    edit(service, 'timeout = "30s"', 'timeout = "1h"')
    edit(service, "seconds = 0.5", "seconds = 3600")
    return service


def patience(service: TestService) -> None:
    """The settings are again such that a deploy ends."""
    edit(service, 'timeout = "1h"', 'timeout = "30s"')
    edit(service, "seconds = 3600", "seconds = 0.5")


def no_lock(engine: docker.DockerClient, service: TestService) -> bool:
    locks = {"name": f"^bluegreen-lock-{service.name}$"}
    return not engine.containers.list(all=True, filters=locks, ignore_removed=True)


@pytest.mark.parametrize(("phase", "switch", "number"), AT)
def test_an_interrupted_deploy_is_undone_without_a_failed_request(
    make_service: Make, engine: docker.DockerClient, phase: str, number: signal.Signals, switch: str
) -> None:
    service = with_live_v1(make_service, switch)
    before = things(engine, service)
    with Load(service.url, **GENTLE) as clients:
        clients.wait_for_requests(100)
        deploy = Followed(service, "deploy", PHASES[phase])
        deploy.until(phase, "started")
        clients.wait_for_requests(clients.snapshot().total + 50)
        deploy.process.send_signal(number)
        ran = deploy.end()
        clients.wait_for_requests(clients.snapshot().total + 50)
        result = clients.stop()
    assert ran.code == 130, ran.text
    assert result.failed == 0, result.explain()
    assert things(engine, service) == before, "nothing is left, and no lock"
    receipt = deploy.receipt()
    assert receipt["result"] == "undone"
    assert f"interrupted by {number.name}" in receipt["reason"]
    error = deploy.events[-1]
    assert error["exit_code"] == 130
    assert "v1 still serves" in error["message"]
    status = service.status()
    assert (status["live"]["release"], status["unfinished"], status["lock"]) == ("v1", None, None)


def test_a_second_interrupt_does_not_disturb_the_undo(make_service: Make, engine: docker.DockerClient) -> None:
    service = with_live_v1(make_service)
    before = things(engine, service)
    edit(service, "port = 9000", f"port = 9000\n{STUBBORN}")
    deploy = Followed(service, "deploy", "v2")
    deploy.until("probe", "progress")
    deploy.process.send_signal(signal.SIGINT)
    deploy.until("probe", "failed")  # the undo has begun, and takes the 4 s that its app is given to end
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        deploy.process.send_signal(number)
    ran = deploy.end()
    assert ran.code == 130, ran.text
    assert deploy.receipt()["result"] == "undone"
    assert things(engine, service) == before


@pytest.mark.parametrize(("step", "number"), DURING)
def test_an_interrupt_in_the_middle_of_a_change_leaves_nothing_behind(
    make_service: Make, engine: docker.DockerClient, step: str, number: signal.Signals
) -> None:
    service = with_live_v1(make_service)
    before = things(engine, service)
    deploy = Followed(service, "deploy", "v2")
    deploy.until(step, "started")
    deploy.process.send_signal(number)
    ran = deploy.end()
    assert ran.code == 130, ran.text
    assert things(engine, service) == before
    assert service.get().text.strip() == "version 1"


def test_an_interrupted_first_deploy_leaves_an_empty_host_empty(
    make_service: Make, engine: docker.DockerClient
) -> None:
    service = make_service(bake=3600)
    deploy = Followed(service, "deploy", "v1")
    deploy.until("bake", "started")
    deploy.process.send_signal(signal.SIGTERM)
    assert deploy.end().code == 130
    assert things(engine, service) == set()


@pytest.mark.parametrize("phase", PHASES if FULL else ["bake"])
def test_after_a_kill_the_next_deploy_puts_all_right(
    make_service: Make, engine: docker.DockerClient, phase: str
) -> None:
    service = with_live_v1(make_service)
    with Load(service.url, **GENTLE) as clients:
        clients.wait_for_requests(50)
        killed(service, engine, phase)
        serving = "v1" if phase == "probe" else "v2"
        status = service.status()
        assert status["unfinished"]
        assert status["live"]["release"] == serving, "what is true, and that it is not finished"
        assert status["rollback"]["ready"] is False, "there is nothing before v1"
        assert len(service.containers()) == 2

        patience(service)
        plan = service.ok("deploy", "v3", "--plan", "--json").json()
        assert [step["step"] for step in plan["steps"]][:1] == ["recover"]
        ran = service.ok("deploy", "v3", "--receipt", str(service.directory / "receipt.json"))
        clients.wait_for_requests(clients.snapshot().total + 50)
        result = clients.stop()
    assert f"the run {status['unfinished']} ended before its commit" in ran.out
    assert "✓ recover" in ran.out
    assert result.failed == 0, result.explain()
    assert list(service.containers().values()) == ["v3"]
    after = service.status()
    assert (after["live"]["release"], after["standby"], after["unfinished"]) == ("v3", None, None)
    assert after["rollback"]["release"] == "v1", "what was live before, not what never was"


@pytest.mark.parametrize("phase", PHASES if FULL else ["probe"])
def test_rollback_after_a_killed_deploy_keeps_what_was_live_before_it(
    make_service: Make, engine: docker.DockerClient, phase: str
) -> None:
    service = make_service()
    service.deploy("v3")
    service.deploy("v1")
    edit(service, 'timeout = "30s"', 'timeout = "1h"')
    edit(service, "seconds = 0.5", "seconds = 3600")
    with Load(service.url, **GENTLE) as clients:
        clients.wait_for_requests(50)
        killed(service, engine, phase)
        receipt = service.rollback()
        clients.wait_for_requests(clients.snapshot().total + 50)
        result = clients.stop()
    assert result.failed == 0, result.explain()
    assert "v3" not in result.by_release
    assert receipt["to"] == "v1"
    assert [step["step"] for step in receipt["steps"]] == ["recover"]
    assert list(service.containers().values()) == ["v1"]
    status = service.status()
    assert (status["live"]["release"], status["unfinished"]) == ("v1", None)
    assert status["rollback"]["release"] == "v3", "a second rollback goes further back"


def test_a_first_deploy_that_was_killed_while_it_served_goes_on_serving(
    make_service: Make, engine: docker.DockerClient
) -> None:
    service = make_service(bake=3600)
    killed(service, engine, "bake", "v1")
    edit(service, "seconds = 3600", "seconds = 0.5")
    with Load(service.url, **GENTLE) as clients:
        clients.wait_for_requests(50)
        assert service.deploy("v2")["from"] == "v1"
        result = clients.stop()
    assert result.failed == 0, result.explain()
    assert list(service.containers().values()) == ["v2"]
    assert service.get().text.strip() == "version 2"


def killed(service: TestService, engine: docker.DockerClient, phase: str, release: str | None = None) -> None:
    """A deploy has been killed in this step, and its lock has gone with no command typed."""
    deploy = Followed(service, "deploy", release or PHASES[phase])
    deploy.until(phase, "started")
    deploy.process.kill()
    deploy.end()
    eventually(lambda: no_lock(engine, service), "the lock of a killed run ends by itself")
