"""The lock, on an engine in memory whose side of the conversation the test speaks."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError, NotFound
from hypothesis import given, settings
from hypothesis import strategies as st

from bluegreen import lock as module
from bluegreen.errors import BluegreenError, Locked
from bluegreen.lock import STILLBORN, Holder, Lock
from bluegreen.runtimes.session import Session, SessionEnded


@given(st.text(), st.text(), st.text(), st.text())
@settings(deadline=None, max_examples=50)
def test_a_holder_is_read_from_the_labels_as_it_was_written(who: str, doing: str, since: str, run: str) -> None:
    holder = Holder(who, doing, since, run)
    assert Holder.of({**holder.labels(), "other": "label"}) == holder


def test_a_holder_whose_labels_are_missing_is_unknown() -> None:
    assert Holder.of({}) == Holder("unknown", "unknown", "unknown")


def test_a_holder_says_who_what_and_since_when() -> None:
    holder = Holder("ann@laptop, process 7", "deploy v2", "2024-05-01T12:00:00+00:00")
    assert str(holder) == "ann@laptop, process 7 (deploy v2, since 2024-05-01T12:00:00+00:00)"


def test_this_process_as_a_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI_JOB_URL", raising=False)
    me = Holder.me("deploy v2")
    assert re.fullmatch(r".+@.+, process \d+", me.who)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", me.since)
    monkeypatch.setenv("CI_JOB_URL", "https://gitlab.example.com/-/jobs/7")
    assert Holder.me("deploy v2").who == f"{me.who}, https://gitlab.example.com/-/jobs/7"


def test_a_user_without_a_name_is_named_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(module.getpass, "getuser", nameless)
    assert re.match(r"\d+@", Holder.me("x").who)


class Container:
    """A lock's container; its process answers every byte until it is told to end."""

    def __init__(self, engine: Engine, name: str, labels: dict[str, str]) -> None:
        self.id, self.name, self.labels, self.status = "id", name, labels, "created"
        self.attrs = {"Created": "2024-05-01T12:00:00.123456789Z"}
        self._engine = engine
        self._mine, self.theirs = socket.socketpair()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self.status = "running"
        self._thread = threading.Thread(target=self._speak)
        self._thread.start()

    def _speak(self) -> None:
        with contextlib.suppress(OSError):
            self._say(b"held\n")
            while self._mine.recv(1) == b".":
                self._say(b".\n")
        self._mine.close()

    def _say(self, words: bytes) -> None:
        self._mine.sendall(struct.pack(">BxxxL", 1, len(words)) + words)

    def die(self) -> None:
        """As at the end of its lease, or of the engine."""
        with contextlib.suppress(OSError):
            self._mine.shutdown(socket.SHUT_RDWR)

    def remove(self, force: bool = False) -> None:
        self.die()
        if self._thread:
            self._thread.join(10)
        self._mine.close()
        self._engine.standing.pop(self.name, None)


class Engine:
    """As much of a docker client as the lock uses."""

    def __init__(self) -> None:
        self.standing: dict[str, Container] = {}
        self.options: dict[str, Any] = {}
        self.now = "2024-05-01T12:00:01.5Z"
        self.containers = self
        self.api = SimpleNamespace(attach_socket=lambda id, params: self.standing["bluegreen-lock-shop"].theirs)

    def create(self, image: str, command: list[str], *, name: str, labels: dict[str, str], **options: Any) -> Container:
        if name in self.standing:
            raise APIError("conflict", response=SimpleNamespace(status_code=409))  # type: ignore[arg-type]
        self.options = options
        made = self.standing[name] = Container(self, name, labels)
        return made

    def get(self, name: str) -> Container:
        if name not in self.standing:
            raise NotFound("no such container")
        return self.standing[name]

    def info(self) -> dict[str, str]:
        return {"SystemTime": self.now}


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    for container in list(engine.standing.values()):
        container.remove()
        container.theirs.close()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_a_lock_is_held_until_it_is_released(engine: Engine) -> None:
    lock = Lock(engine, "shop", "nginx:stable")
    lock.take("deploy v2")
    lock.check()
    holder = lock.holder()
    assert holder
    assert holder.doing == "deploy v2"
    assert engine.options["auto_remove"] is True
    assert engine.options["network_mode"] == "none"
    lock.release()
    assert engine.standing == {}
    assert lock.holder() is None
    again = Lock(engine, "shop", "nginx:stable")
    again.take("again")
    again.check()
    again.release()


def test_a_second_taker_is_told_who_holds_it(engine: Engine) -> None:
    first, second = Lock(engine, "shop", "nginx:stable"), Lock(engine, "shop", "nginx:stable")
    first.take("deploy v2")
    with pytest.raises(Locked, match=r"shop is locked by .+, process \d+ \(deploy v2, since ") as caught:
        second.take("deploy v3")
    assert "--wait" in caught.value.hint
    first.check()
    first.release()


def test_who_waits_is_told_once_for_whom_and_then_has_it(engine: Engine) -> None:
    first, second = Lock(engine, "shop", "nginx:stable"), Lock(engine, "shop", "nginx:stable")
    first.take("deploy v2")
    told: list[Holder] = []
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            first.release()

    second.take("deploy v3", wait=60, waiting=told.append, sleep=nap)
    assert [holder.doing for holder in told] == ["deploy v2"]
    second.check()
    second.release()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            {"BLUEGREEN_RUNS": "run-1", "BLUEGREEN_RUN": "run-1", "BLUEGREEN_HOOK": "pre_deploy"},
            "called from the hook pre_deploy of run run-1, which holds the lock",
        ),
        (
            {"BLUEGREEN_RUNS": "run-1 run-2", "BLUEGREEN_RUN": "run-2", "BLUEGREEN_HOOK": "pre_deploy"},
            "called from a hook of run run-1, which holds the lock",
        ),
    ],
    ids=["from its hook", "from a hook of a run of another service that its hook began"],
)
def test_what_the_holder_waits_for_does_not_wait_for_the_holder(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: str
) -> None:
    first, second = Lock(engine, "shop", "nginx:stable"), Lock(engine, "shop", "nginx:stable")
    first.take("deploy v2", run="run-1")
    for key, value in environment.items():
        monkeypatch.setenv(key, value)

    def never(seconds: float) -> None:
        raise AssertionError("it waits")

    with pytest.raises(Locked, match=words) as caught:
        second.take("deploy v3", run="run-3", wait=3600, sleep=never)
    assert caught.value.exit_code == 4
    first.release()
    second.take("deploy v3", run="run-3")  # what a hook left in the background outlives the run
    second.release()


def test_a_hook_waits_for_a_lock_that_no_run_around_it_holds(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Lock(engine, "shop", "nginx:stable"), Lock(engine, "shop", "nginx:stable")
    first.take("deploy v2", run="run-1")
    monkeypatch.setenv("BLUEGREEN_RUNS", "run-9")
    second.take("deploy v3", wait=60, sleep=lambda seconds: first.release())
    second.release()


def test_a_lock_whose_container_is_gone_is_lost(engine: Engine) -> None:
    lock = Lock(engine, "shop", "nginx:stable")
    lock.take("deploy v2")
    lock.check()
    engine.standing["bluegreen-lock-shop"].die()

    def lost() -> bool:
        try:
            lock.check()
        except BluegreenError as error:
            return "the lock on shop was lost" in error.message
        return False

    until(lost)
    lock.release()


@pytest.mark.parametrize("zone", [0, 9, -5])
@pytest.mark.parametrize(
    ("status", "age", "held"),
    [
        ("running", 100_000, True),
        ("created", 0, True),
        ("created", STILLBORN - 0.5, True),
        ("created", STILLBORN + 0.5, False),
        ("exited", 0, False),
        ("dead", 0, False),
    ],
)
def test_a_lock_that_never_lived_or_has_ended_is_nobodys(
    engine: Engine, status: str, age: float, held: bool, zone: int
) -> None:
    container = engine.create("", [], name="bluegreen-lock-shop", labels=Holder("ann", "down", "now").labels())
    container.status = status
    created = datetime.fromisoformat(container.attrs["Created"])
    engine.now = (created + timedelta(seconds=age)).astimezone(timezone(timedelta(hours=zone))).isoformat()
    lock = Lock(engine, "shop", "nginx:stable")
    assert lock.holder() == (Holder("ann", "down", "now") if held else None)
    assert bool(engine.standing) is held
    container.theirs.close()


def test_an_engine_that_refuses_is_not_taken_for_a_holder(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise APIError("no space left", response=SimpleNamespace(status_code=500))  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "create", broken)
    with pytest.raises(APIError):
        Lock(engine, "shop", "nginx:stable").take("deploy v2")


def frame(kind: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", kind, len(data)) + data


def test_a_session_unmixes_the_frames_of_the_engine() -> None:
    mine, theirs = socket.socketpair()
    session = Session(mine, timeout=10)
    whole = frame(1, b"first li") + frame(2, b"oops") + frame(1, b"ne\nsecond\nand") + frame(1, b" more")
    for at in range(0, len(whole), 5):
        theirs.sendall(whole[at : at + 5])
    assert session.read_line() == b"first line"
    assert session.read_line() == b"second"
    assert session.read(8) == b"and more"
    assert session.errors == b"oops"
    theirs.close()
    with pytest.raises(SessionEnded, match="the process in the container has ended: oops"):
        session.read(1)
    session.close()
    with pytest.raises(SessionEnded):
        session.send(b"x")


def test_a_session_in_which_nothing_is_said_ends() -> None:
    mine, theirs = socket.socketpair()
    session = Session(mine, timeout=0.05)
    with pytest.raises(SessionEnded, match="timed out"):
        session.read_line()
    session.close()
    theirs.close()
