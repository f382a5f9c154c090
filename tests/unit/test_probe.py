"""When a replica counts as ready, and as the right version."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fakes import Clock, FakeProxy, World, quick_settings

from bluegreen.errors import Failed
from bluegreen.model import Endpoint, Release, Replica
from bluegreen.probe import ask_proxy, ask_replica, dead, mismatch, public_host, wait_until_right
from bluegreen.proxies.agent import AgentError, Answer
from bluegreen.settings import Settings

V1 = Release("v1")
SETTINGS = quick_settings(probe={"successes": 3, "interval": "200ms", "timeout": "10s"})


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    return clock


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (Answer(200, "version 1"), True),
        (Answer(204, "version 1"), True),
        (Answer(200, "version 12"), False),
        (Answer(200, "the version 1"), False),
        (Answer(200, "Version 1"), False),
        (Answer(200, ""), False),
        (Answer(199, "version 1"), False),
        (Answer(301, "version 1"), False),
        (Answer(404, "version 1"), False),
        (Answer(503, "version 1"), False),
    ],
)
def test_an_answer_is_right_if_it_is_the_whole_body_with_a_2xx(answer: Answer, right: bool) -> None:
    assert (mismatch(SETTINGS, V1, answer) == "") is right


def test_without_a_body_any_2xx_is_right() -> None:
    settings = SETTINGS.model_copy(update={"probe": SETTINGS.probe.model_copy(update={"body": None})})
    assert mismatch(settings, V1, Answer(200, "anything")) == ""
    assert mismatch(settings, V1, Answer(500, "anything")) == "/version answered 500"


def test_a_wrong_answer_is_told_short_and_harmless() -> None:
    words = mismatch(SETTINGS, V1, Answer(200, "\x1b[2J" + "x" * 1000))
    assert "\x1b" not in words
    assert len(words) < 150
    assert words.endswith("not 'version 1'")


class Asking:
    """What is asked, and by which host name."""

    def __init__(self, answer: Answer | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, ...]] = []

    def get(self, path: str, host: str, timeout: float) -> Answer:
        return self.get_from(None, path, host, timeout)

    def get_from(self, endpoint: Endpoint | None, path: str, host: str, timeout: float) -> Answer:
        self.asked.append((endpoint, path, host))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("probe", "proxy", "to_replica", "to_proxy"),
    [
        ({}, {}, "10.0.0.2:9000", "127.0.0.1:8080"),
        ({"host": "a.example"}, {}, "a.example", "a.example"),
        ({}, {"hosts": ["b.example"]}, "10.0.0.2:9000", "b.example"),
        ({}, {"hosts": ["*.c.example"]}, "10.0.0.2:9000", "any.c.example"),
        ({"host": "a.example"}, {"hosts": ["b.example"]}, "a.example", "b.example"),
    ],
)
def test_the_host_name_that_is_asked_for(
    probe: dict[str, Any], proxy: dict[str, Any], to_replica: str, to_proxy: str
) -> None:
    settings = quick_settings(probe=probe, proxy=proxy)
    asking: Any = Asking(Answer(200, "version 1"))
    endpoint = Endpoint("10.0.0.2", 9000)
    assert ask_replica(settings, V1, asking, endpoint) == ""
    assert ask_proxy(settings, V1, asking) == ""
    assert asking.asked == [(endpoint, "/version", to_replica), (None, "/version", to_proxy)]
    assert public_host(settings) == (None if to_proxy == "127.0.0.1:8080" else to_proxy)


def test_what_cannot_be_asked_is_a_reason_and_no_error() -> None:
    asking: Any = Asking(AgentError("Connection refused"))
    assert ask_proxy(SETTINGS, V1, asking) == "/version: Connection refused"


def wait(
    answers: list[str],
    *,
    settings: Settings = SETTINGS,
    look: Callable[[], None] = lambda: None,
    counts: Callable[[Mapping[str, Any]], None] = lambda figures: None,
) -> tuple[int, list[str]]:
    words: list[str] = []
    left = list(answers)
    tries = wait_until_right(
        settings,
        V1,
        lambda: left.pop(0) if len(left) > 1 else left[0],
        timeout=settings.probe.timeout,
        look=look,
        progress=words.append,
        counts=counts,
    )
    return tries, words


def test_so_many_right_answers_in_a_row_are_needed() -> None:
    assert wait([""]) == (3, [])
    assert wait(["no", "", "", "no", "", "", ""]) == (7, ["no"])


def test_every_try_is_counted() -> None:
    counted: list[Mapping[str, Any]] = []
    wait(["no", "", "", "no", "", "", ""], counts=counted.append)
    assert [each["tries"] for each in counted] == [1, 2, 3, 4, 5, 6, 7]
    assert [each["in_a_row"] for each in counted] == [0, 1, 2, 0, 1, 2, 3]
    assert [each["reason"] for each in counted] == ["no", "", "", "no", "", "", ""]
    assert {each["wanted"] for each in counted} == {3}


def test_each_reason_is_told_when_it_changes() -> None:
    assert wait(["refused", "refused", "503", "503", "refused", ""])[1] == ["refused", "503", "refused"]


def test_the_first_tries_come_quickly_and_then_at_the_interval(clock: Clock) -> None:
    moments: list[float] = []
    with pytest.raises(Failed):
        wait(["no"], look=lambda: moments.append(clock.now))
    gaps = [round(b - a, 3) for a, b in itertools.pairwise(moments)]
    assert 0.05 <= gaps[0] <= 0.07
    assert gaps == sorted(gaps)
    assert gaps[-1] == 0.2
    assert all(gap <= 0.06 for gap, at in zip(gaps, moments[1:], strict=True) if at - moments[0] < 1.0)


def test_at_the_time_out_the_last_reason_is_told(clock: Clock) -> None:
    before = clock.now
    with pytest.raises(Failed, match=r"v1 was not ready after 10 s: /version answered 503"):
        wait(["refused", "/version answered 503"])
    assert 9.5 <= clock.now - before <= 10.5


def test_answers_that_keep_changing_do_not_count() -> None:
    turn = iter(range(10_000))
    with pytest.raises(Failed, match="was not ready after 10 s: flaky"):
        wait_until_right(SETTINGS, V1, lambda: "flaky" if next(turn) % 3 == 2 else "", timeout=10, look=lambda: None)


def test_what_look_sees_ends_the_waiting_at_once(clock: Clock) -> None:
    before = clock.now

    def look() -> None:
        if clock.now - before > 1:
            raise Failed("it died")

    with pytest.raises(Failed, match="it died"):
        wait(["refused"], look=look)
    assert clock.now - before < 1.5


@pytest.mark.parametrize("log", ["line one\nline two", ""])
def test_a_dead_replica_is_told_with_its_exit_code_and_its_last_words(log: str) -> None:
    replica = Replica("shop-blue-1", "id", False, Endpoint("10.0.0.2", 9000), "exited", 137)
    message = dead(SETTINGS, V1, replica, log).message
    assert message.startswith("v1 ended with exit code 137 (container shop-blue-1)")
    assert all(line in message for line in log.splitlines())


def test_a_replica_that_died_of_what_it_may_not_do_is_told_with_the_setting_that_loosens_it() -> None:
    replica = Replica("shop-blue-1", "id", False, Endpoint("10.0.0.2", 9000), "exited", 1)
    assert "app.read_only" in dead(SETTINGS, V1, replica, "open /app/log: Read-only file system").hint
    assert dead(SETTINGS, V1, replica, "no such host: db").hint == ""


def test_a_replica_that_its_memory_limit_killed_is_told_with_the_setting() -> None:
    replica = Replica("shop-blue-1", "id", False, Endpoint("10.0.0.2", 9000), "exited", 137, out_of_memory=True)
    assert "v1 was killed by its memory limit: app.memory is too little" in dead(SETTINGS, V1, replica, "").message


def test_one_that_was_killed_where_the_engine_does_not_know_why_is_asked_about_its_limit_if_it_has_one() -> None:
    replica = Replica("shop-blue-1", "id", False, Endpoint("10.0.0.2", 9000), "exited", 137)
    limited = SETTINGS.model_copy(update={"app": SETTINGS.app.model_copy(update={"memory": "64m"})})
    assert dead(limited, V1, replica, "").hint.startswith("is app.memory too little for it?")
    assert dead(SETTINGS, V1, replica, "").hint == ""


def test_the_fake_proxy_is_asked_like_a_real_one() -> None:
    proxy = FakeProxy(World(), SETTINGS)
    assert ask_proxy(SETTINGS, V1, proxy) == "/version: Connection refused"
