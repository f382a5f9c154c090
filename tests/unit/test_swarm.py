"""What is asked of Swarm, and what is made of its answers, as far as no engine is needed to see it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import requests
from docker.errors import APIError
from test_settings import problems

from bluegreen.errors import Failed
from bluegreen.model import Colour, Endpoint, Release, Replica, Slot
from bluegreen.runtimes.swarm import Managers, SwarmRuntime, _tmpfs
from bluegreen.settings import parse

SWARM = {"service": "shop", "runtime": "swarm", "app": {"port": 9000, "replicas": 2}}


class Engine:
    """An engine that is a manager, until it does not answer."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name = name
        self.error = error
        self.asked = 0

    @property
    def api(self) -> Engine:
        return self

    def inspect_swarm(self) -> dict[str, Any]:
        self.asked += 1
        if self.error:
            raise self.error
        return {}


def test_the_first_manager_that_answers_is_asked_until_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bluegreen.runtimes.swarm.FRESH", 0)
    worker = Engine("worker", APIError("This node is not a swarm manager"))
    one, two = Engine("one"), Engine("two")
    managers = Managers([worker, one, two])
    assert (managers.name, managers.name, two.asked) == ("one", "one", 0)
    one.error = requests.ConnectionError("refused")
    assert managers.name == "two"
    one.error = None
    assert managers.name == "two", "as long as it answers"


def test_without_a_manager_nothing_is_asked_and_the_reason_is_told() -> None:
    managers = Managers([Engine("worker", APIError("This node is not a swarm manager"))])
    with pytest.raises(Failed, match="no manager of the swarm can be asked: This node is not a swarm manager"):
        _ = managers.name


def test_workers_alone_are_answered_with_the_setting_that_names_a_manager() -> None:
    words = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state."
    with pytest.raises(Failed, match="no manager of the swarm can be asked") as caught:
        _ = Managers([Engine("one", APIError(words)), Engine("two", APIError(words))]).name
    assert "swarm.managers" in caught.value.hint
    with pytest.raises(Failed, match="no majority") as caught:
        _ = Managers([Engine("one", APIError(words)), Engine("two", APIError("no majority"))]).name
    assert "swarm.managers" not in caught.value.hint
    with pytest.raises(Failed, match=r"can be asked: boss can't be reached: refused$") as caught:
        _ = Managers([Engine("one", APIError(words))], {"boss": "refused"}).name
    assert "swarm.managers" not in caught.value.hint


def test_which_managers_are_asked_and_how_a_standby_waits_does_not_change_what_is_deployed() -> None:
    asked = {**SWARM, "swarm": {"managers": ["ssh://one"], "standby_replicas": "all"}}
    assert parse(asked).hash == parse(SWARM).hash
    assert parse({**asked, "swarm": {**asked["swarm"], "max_per_node": 1}}).hash != parse(SWARM).hash


def test_a_directory_in_memory_has_its_size_and_mode() -> None:
    assert _tmpfs("/tmp", "") == {"Type": "tmpfs", "Target": "/tmp", "TmpfsOptions": {"Mode": 0o1777}}
    assert _tmpfs("/run", "size=64m,mode=700")["TmpfsOptions"] == {"Mode": 0o700, "SizeBytes": 64 << 20}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"proxy": {"where": "host"}}, "does not reach the network of a swarm"),
        ({"app": {**SWARM["app"], "publish": 20000}}, "has no use in a swarm"),  # type: ignore[dict-item]
        ({"app": {**SWARM["app"], "tmpfs": ["/run:uid=5"]}}, "no other options than size and mode"),  # type: ignore[dict-item]
        ({"swarm": {"constraints": ["zone = a"]}}, "is not a constraint"),
        ({"hosts": ["ssh://one"], "swarm": {"managers": ["ssh://root@one"]}}, "both name 'one'"),  # type: ignore[dict-item]
        ({"swarm": {"configs": {"/etc/app": "there.toml", "app": "x"}}}, "a path such as /etc/app.toml"),
    ],
)
def test_what_swarm_can_not_do_is_refused(table: dict[str, Any], words: str) -> None:
    [found] = problems({**SWARM, **table})
    assert words in found


TASK = {
    "ID": "t1",
    "Slot": 1,
    "NodeID": "n1",
    "CreatedAt": "2026-01-01T00:00:00Z",
    "DesiredState": "running",
    "Spec": {},
    "Status": {"State": "running", "ContainerStatus": {"ContainerID": "c1"}},
    "NetworksAttachments": [{"Network": {"Spec": {"Name": "bluegreen-overlay-shop"}}, "Addresses": ["10.0.1.5/24"]}],
}
ENDED = {
    **TASK,
    "ID": "t0",
    "DesiredState": "shutdown",
    "Status": {"State": "failed", "Err": "task: non-zero exit (3)", "ContainerStatus": {"ExitCode": 3}},
}


def seen(
    *tasks: dict[str, Any], ready: bool = True, kept: bool = False, state: str = "", start: int = 0
) -> tuple[Any, ...]:
    """What is made of these tasks of a service: each replica with what tells its state."""
    runtime = SwarmRuntime({}, parse(SWARM))
    runtime._nodes = lambda: {"n1": ready}  # type: ignore[method-assign]
    labels = {"bluegreen.colour": "blue", **({"bluegreen.kept": "1"} if kept else {})}
    service = {"Spec": {"Name": "shop-blue", "Labels": labels, "TaskTemplate": {"ForceUpdate": start}}}
    service["Spec"]["Mode"] = {"Replicated": {"Replicas": 1}}
    if state:
        service["UpdateStatus"] = {"State": state, "Message": "update paused due to failure"}
    replicas = runtime._replicas_of(service, tasks)
    return tuple((each.id, each.running, each.exit_code, each.status) for each in replicas)


def test_a_task_that_has_ended_counts_until_its_release_is_committed() -> None:
    assert seen(ENDED, TASK) == (("t0", False, 3, "failed: task: non-zero exit (3)"),)
    assert seen(ENDED, TASK, kept=True) == (("t1", True, None, "running"),)


def test_a_task_that_ended_before_its_service_was_scaled_up_again_is_none_of_that_start() -> None:
    assert seen(ENDED, {**TASK, "Spec": {"ForceUpdate": 2}}, start=2) == (("t1", True, None, "running"),)
    again = {**ENDED, "ID": "t2", "CreatedAt": "2026-01-02T00:00:00Z", "Spec": {"ForceUpdate": 2}}
    assert seen(ENDED, again, TASK, start=2)[0][:3] == ("t2", False, 3)


def test_a_standby_that_somebody_has_updated_is_not_scaled_up_again() -> None:
    runtime, release = SwarmRuntime({}, parse(SWARM)), Release("v1", "sha256:one", "0123456789ab")
    labels = runtime._slot_labels(Colour.BLUE, release, "r1", 1, ()) | {"bluegreen.standby": "2"}
    template = {"ContainerSpec": {"Image": "sha256:one"}}
    spec = {"Name": "shop-blue", "Labels": labels, "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": 0}}}
    service: dict[str, Any] = {"ID": "s1", "Spec": spec, "CreatedAt": "2026-01-01T00:00:00Z"}
    runtime._service_of = lambda colour: service  # type: ignore[method-assign]
    runtime._tasks = lambda service: []  # type: ignore[method-assign]
    runtime._nodes = dict  # type: ignore[method-assign]

    assert runtime._scaled_to_none(Colour.BLUE, release, "sha256:one") == service
    assert runtime._scaled_to_none(Colour.BLUE, Release("v1", "sha256:one", "other"), "sha256:one") is None
    assert runtime._scaled_to_none(Colour.BLUE, release, "sha256:other") is None, "its image was changed"
    service["UpdateStatus"] = {"State": "completed"}
    assert runtime._scaled_to_none(Colour.BLUE, release, "sha256:one") is None


def test_a_task_of_a_node_that_does_not_answer_does_not_count_as_running() -> None:
    assert seen(TASK, ready=False, kept=True) == (("t1", False, None, "running: its node does not answer"),)


@pytest.mark.parametrize("state", ["updating", "completed", "paused", "rollback_completed"])
def test_a_service_that_somebody_updates_does_not_run_what_it_was_started_as(state: str) -> None:
    [(_, running, _, status)] = seen(TASK, state=state)
    assert (running, status) == (False, f"Swarm says {state.replace('_', ' ')}: update paused due to failure")
    assert seen(TASK, state=state, kept=True)[0][1], "it still serves"


def test_a_replica_is_known_by_its_tasks_address_and_the_name_that_follows_it() -> None:
    runtime = SwarmRuntime({}, parse(SWARM))
    runtime._nodes = lambda: {"n1": True}  # type: ignore[method-assign]
    service = {"Spec": {"Name": "shop-blue", "Labels": {}, "TaskTemplate": {}, "Mode": {"Replicated": {"Replicas": 1}}}}
    [replica] = runtime._replicas_of(service, [TASK])
    endpoint = replica.endpoint
    assert (str(endpoint), endpoint.follows, replica.name) == ("10.0.1.5:9000", "tasks.shop-blue", "shop-blue.1")


def test_a_node_counts_as_a_manager_once_it_is_one_and_answers_as_one() -> None:
    def node(name: str, role: str, state: str = "ready", reached: str = "") -> dict[str, Any]:
        manager = {"ManagerStatus": {"Reachability": reached}} if reached else {}
        spec = {"Role": role, "Availability": "drain" if name == "worker" else "active"}
        return {"Description": {"Hostname": name}, "Spec": spec, "Status": {"State": state}, **manager}

    runtime = SwarmRuntime({}, parse(SWARM))
    told = [
        node("one", "manager", reached="reachable"),
        node("cut", "manager", reached="unreachable"),
        node("promoted", "manager"),
        node("worker", "worker"),
        node("gone", "worker", "down"),
    ]
    runtime._client = SimpleNamespace(api=SimpleNamespace(nodes=lambda: told))  # type: ignore[assignment]
    assert runtime.nodes() == [
        ("cut", True, False, "active"),
        ("gone", False, False, "active"),
        ("one", True, True, "active"),
        ("promoted", False, True, "active"),
        ("worker", False, True, "drain"),
    ]


def test_of_the_addresses_of_tasks_those_come_first_that_run_and_have_done_so_for_long() -> None:
    made = {1: "2026-01-04T00:00:00Z", 2: "2026-01-03T00:00:00Z", 3: "2026-01-01T00:00:00Z", 4: "2026-01-02T00:00:00Z"}

    def slot(follows: str) -> Slot:
        replicas = []
        for number, running in enumerate((False, True, False, True), 1):
            endpoint = Endpoint(f"10.0.1.{number}", 9000, follows=follows)
            replicas.append(Replica(f"shop-blue.{number}", f"t{number}", running, endpoint, made=made[number]))
        return Slot(Colour.BLUE, Release("v1"), "", "", "", 4, tuple(replicas))

    def order(follows: str) -> list[str]:
        return [each.address[-1] for each in slot(follows).endpoints]

    assert order("tasks.shop-blue") == ["4", "2", "3", "1"]
    assert order("") == ["1", "2", "3", "4"], "fixed addresses keep their places"


def test_the_hash_is_what_it_was_for_those_who_have_no_swarm() -> None:
    plain = parse({"service": "shop", "app": {"port": 9000}})
    same = parse({"service": "shop", "app": {"port": 9000}, "runtime": "docker", "swarm": {"endpoint_mode": "dnsrr"}})
    assert plain.hash == same.hash
    assert plain.hash != parse({"service": "shop", "app": {"port": 9000}, "runtime": "swarm"}).hash
    assert plain.sized(2).hash != plain.hash
