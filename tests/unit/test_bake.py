"""When a release counts as worse than the one before it, and what the receipt says of that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from fakes import Clock, FakeLock, FakeProxy, FakeRuntime, World, quick_settings

from bluegreen.bake import Comparison, Figures, harm
from bluegreen.errors import Failed
from bluegreen.model import Colour, Counts, Event, Plan, Release
from bluegreen.service import Options, Service
from bluegreen.settings import BakeTable
from bluegreen.steps import BAKE_INTERVAL
from bluegreen.witness import FRESH, Answer, Witness

BLUE, GREEN = Colour.BLUE, Colour.GREEN
LIMITS = BakeTable(max_error_ratio=0.01, max_p99_ms=100)


def users(errors: int, requests: int = 1000) -> Figures:
    return Figures(Counts(requests, errors))


def waits(slow: int, ms: float = 300, quick: int = 90) -> Figures:
    return Figures(None, (*[5.0] * quick, *[ms] * slow))


NONE = Figures()
NAMES = ("v1", "v2")


@pytest.mark.parametrize(
    ("old", "new", "worse"),
    [
        (users(0), users(11), True),
        (users(0), users(10), False),  # the limit itself is allowed
        (users(0), users(0), False),
        (users(0), Figures(Counts(2, 1)), False),  # one of two decides nothing,
        (users(0), Figures(Counts(9, 9)), False),  # nor do nine,
        (users(0), Figures(Counts(10, 10)), True),  # but ten do
        (users(100), users(100), False),  # what was as bad before, the new one has not made,
        (users(100), users(150), False),
        (users(100), users(151), True),  # but worse is worse
        (Figures(Counts(0, 0)), users(11), True),  # nobody came before: the limit alone decides
        (NONE, users(11), True),
        (NONE, Figures(Counts(0, 0)), False),
        (waits(0), waits(10), True),
        (waits(0), waits(9), False),  # nine slow answers decide nothing,
        (waits(0), waits(10, ms=100), False),  # nor does the limit itself,
        (waits(0), waits(10, quick=2000), False),  # nor ten of thousands: they are not the p99
        (waits(10), waits(10), False),
        (waits(10, ms=200), waits(10, ms=300), False),
        (waits(10, ms=200), waits(10, ms=301), True),
        (NONE, waits(10), True),
        (NONE, NONE, False),
    ],
)
def test_worse_is_above_the_limit_and_well_above_the_old_release_and_seen_often_enough(
    old: Figures, new: Figures, worse: bool
) -> None:
    assert (harm(LIMITS, old, new, NAMES, over=False) is not None) is worse
    assert harm(BakeTable(), old, new, NAMES, over=True) is None, "without limits nothing is judged"


def test_the_reason_has_the_numbers_that_decide() -> None:
    assert harm(LIMITS, users(2), users(93, 640), NAMES, over=False) == (
        "v2 answered users with 93 errors in 640 requests (14.53%); bake.max_error_ratio allows 1%;"
        " v1 before it: 2 errors in 1000 requests (0.20%)"
    )
    assert harm(LIMITS, waits(0), waits(10), NAMES, over=True) == (
        "v2 has a p99 of 300 ms in 100 requests of the witness; bake.max_p99_ms allows 100 ms; v1 before it: 5 ms"
    )
    first = harm(LIMITS, NONE, users(93, 640), ("None", "v1"), over=False)
    assert first
    assert "None" not in first


@pytest.mark.parametrize(
    ("new", "before_the_end", "at_the_end"),
    [
        (users(10, 10), True, True),
        (users(9, 10), False, True),  # most of few: nobody else will come
        (users(9, 18), False, False),
        (users(2, 3), False, True),
        (users(1, 2), False, False),
        (users(2, 2), False, False),
        (waits(20, quick=80), True, True),
        (waits(20, quick=79), False, True),  # a p99 of fewer than 100 is their maximum
        (waits(9, quick=91), False, False),
        (waits(4, quick=0), False, True),  # each took so long that there are no more of them
        (waits(4, quick=4), False, False),
    ],
)
def test_few_requests_decide_at_the_end_alone_and_if_most_of_them_were_bad(
    new: Figures, before_the_end: bool, at_the_end: bool
) -> None:
    assert (harm(LIMITS, NONE, new, NAMES, over=False) is not None) is before_the_end
    assert (harm(LIMITS, NONE, new, NAMES, over=True) is not None) is at_the_end


def test_counts_go_on_from_zero_where_the_proxy_began_them_anew() -> None:
    assert Counts(100, 5).since(Counts(40, 5)) == Counts(60, 0)
    assert Counts(30, 2).since(Counts(100, 5)) == Counts(30, 2)
    assert Counts(30, 2).without(Counts(20, 3)) == Counts(10, 0)
    assert Counts(30, 25).without(Counts(20, 0)) == Counts(10, 10), "no more errors than requests"
    assert Counts(3, 0).without(Counts(4, 0)) == Counts(0, 0)


PLAN = Plan("deploy", Release("v2"), GREEN, "shop:v2", BLUE, Release("v1"), (), 2)


class Counting:
    """As much of a proxy as a comparison asks: it counts what a test tells it."""

    def __init__(self) -> None:
        self.now = {BLUE: Counts(5000, 70), GREEN: Counts(900, 80)}

    def add(self, colour: Colour, requests: int, errors: int = 0) -> None:
        self.now[colour] += Counts(requests, errors)

    def counts(self) -> dict[Colour, Counts]:
        return dict(self.now)


def witness() -> Witness:
    expected: dict[str, str | None] = {"v1": "version 1", "v2": "version 2"}
    return Witness("http://127.0.0.1:9", "/", host=None, expected=expected, rate=1, connections=1, timeout=1)


def asks(of: Witness, label: str, number: int, seconds: float = 0.005) -> None:
    for _ in range(number):
        of._tally.add(Answer(time.monotonic(), seconds, FRESH, 200, "", ""), label, "")


def compared(limits: BakeTable, proxy: Counting, of: Witness | None, plan: Plan = PLAN) -> Comparison:
    return Comparison(limits, plan, proxy, of)  # type: ignore[arg-type]


def test_each_release_is_told_by_what_came_in_its_own_time_without_the_witnesss_own() -> None:
    proxy, seen = Counting(), witness()
    asks(seen, "v1", 50, seconds=0.02)
    comparison = compared(LIMITS, proxy, seen)
    comparison.begin()
    proxy.add(BLUE, 230, 3)
    asks(seen, "v1", 30)
    comparison.switching()
    assert comparison.summary() is None, "there was no switch yet"
    proxy.add(BLUE, 10, 10)
    proxy.add(GREEN, 7, 7)
    comparison.switched()
    proxy.add(GREEN, 60, 1)
    asks(seen, "v2", 20, seconds=0.01)
    assert comparison.look(over=False) is None
    proxy.add(GREEN, 160, 0)
    assert comparison.look(over=False) is None
    assert comparison.summary() == {
        "seconds": 5.0,
        "limits": {"max_error_ratio": 0.01, "max_p99_ms": 100.0},
        "old": {"requests": 200, "errors": 3, "error_ratio": 0.015, "p99_ms": 20.0},
        "new": {"requests": 200, "errors": 1, "error_ratio": 0.005, "p99_ms": 10.0},
        "decided": None,
    }
    proxy.add(GREEN, 20, 20)
    reason = comparison.look(over=False)
    assert reason
    summary = comparison.summary()
    assert summary
    assert (summary["decided"], summary["new"]["errors"]) == (reason, 21)


def test_a_reload_between_two_looks_loses_nothing_that_was_seen() -> None:
    proxy = Counting()
    comparison = compared(LIMITS, proxy, None)
    comparison.switched()
    proxy.add(GREEN, 100, 4)
    comparison.look(over=False)
    proxy.now = {BLUE: Counts(), GREEN: Counts(50, 2)}
    comparison.look(over=False)
    summary = comparison.summary()
    assert summary
    assert (summary["new"]["requests"], summary["new"]["errors"]) == (150, 6)


def test_a_first_release_has_none_before_it() -> None:
    plan = Plan("deploy", Release("v1"), BLUE, "shop:v1", None, None, (), 1)
    proxy = Counting()
    comparison = compared(LIMITS, proxy, None, plan)
    comparison.begin()
    comparison.switching()
    comparison.switched()
    proxy.add(BLUE, 40, 20)
    reason = comparison.look(over=False)
    assert reason == "v1 answered users with 20 errors in 40 requests (50.00%); bake.max_error_ratio allows 1%"
    summary = comparison.summary()
    assert summary
    assert summary["old"] is None


def test_the_proxy_is_not_asked_to_count_where_errors_have_no_limit() -> None:
    class Refusing(Counting):
        def counts(self) -> dict[Colour, Counts]:
            raise AssertionError("asked")

    seen = witness()
    comparison = compared(BakeTable(max_p99_ms=100), Refusing(), seen)
    comparison.begin()
    comparison.switching()
    comparison.switched()
    asks(seen, "v2", 12, seconds=0.3)
    assert comparison.look(over=True)
    summary = comparison.summary()
    assert summary
    assert summary["new"] == {"requests": None, "errors": None, "error_ratio": None, "p99_ms": 300.0}


# In a run


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr("bluegreen.service.Lock", lambda *_: FakeLock())
    world = World().has("v1", "v2")
    world.add_image("nginx:stable", "sha256:proxy")
    deploy(world, "v1")
    return world


def deploy(
    world: World,
    release: str,
    emit: Callable[[Event], None] = lambda event: None,
    *,
    witness: bool = False,
    **bake: Any,
) -> Any:
    settings = quick_settings(bake=bake)
    service = Service(settings, None, FakeRuntime(world, settings), FakeProxy(world, settings))
    return service.deploy(release, Options(witness=witness), emit)


def answering(world: World, errors: dict[Colour, int]) -> None:
    """From now on the colour in use answers 10 users at every look, with so many errors among them."""

    def serve(number: int, name: str) -> None:
        if name == "counts" and world.proxy:
            carried = world.proxy["shop"]
            carried.counts[carried.colour] += Counts(10, errors[carried.colour])

    world.at = serve


def test_a_run_whose_release_is_worse_is_undone_as_soon_as_that_is_known(world: World) -> None:
    answering(world, {BLUE: 0, GREEN: 4})
    began = time.monotonic()
    with pytest.raises(Failed, match="v2 answered users with 12 errors in 30 requests") as caught:
        deploy(world, "v2", seconds=60, max_error_ratio=0.1)
    assert time.monotonic() - began < 30, "by the clock that only waiting moves"
    assert world.request("shop").body == "version 1"
    receipt = caught.value.receipt
    assert receipt
    assert receipt["result"] == "undone"
    assert receipt["bake"]["decided"] == receipt["reason"]
    assert receipt["bake"]["old"] == {"requests": 10, "errors": 0, "error_ratio": 0.0, "p99_ms": None}
    assert receipt["bake"]["new"] == {"requests": 30, "errors": 12, "error_ratio": 0.4, "p99_ms": None}


def test_a_run_whose_release_is_as_bad_as_the_old_one_goes_through(world: World) -> None:
    answering(world, {BLUE: 4, GREEN: 4})
    receipt = deploy(world, "v2", seconds=5, max_error_ratio=0.1)
    assert receipt["result"] == "done"
    assert receipt["bake"]["decided"] is None
    assert receipt["bake"]["new"]["error_ratio"] == 0.4


def test_a_run_without_limits_counts_nothing(world: World) -> None:
    world.points.clear()
    assert deploy(world, "v2", seconds=5)["bake"] is None
    assert "counts" not in world.points


def test_a_limit_that_needs_the_witness_is_told_of_where_there_is_none(world: World) -> None:
    events: list[Event] = []
    receipt = deploy(world, "v2", events.append, seconds=1, max_p99_ms=100)
    assert receipt["bake"]["new"]["p99_ms"] is None
    assert "without a witness nobody measures bake.max_p99_ms" in [event.detail for event in events]


class LateWitness(Witness):
    """One whose threads get their turn late: it has heard nothing when it is asked for the first times."""

    silent = 3

    def start(self) -> None:
        pass

    def reachable(self) -> str:
        return ""

    def counts(self) -> dict[str, Any]:
        self.silent -= 1
        return {**super().counts(), "total": int(self.silent < 0)}


def test_a_bake_ends_no_sooner_than_the_witness_has_heard_anything_but_does_not_wait_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bluegreen.flow.Witness", LateWitness)

    def baked(release: str) -> float:
        [step] = [each for each in deploy(world, release, witness=True, seconds=0.1)["steps"] if each["step"] == "bake"]
        seconds: float = step["seconds"]
        return seconds

    assert baked("v2") == pytest.approx(3 * BAKE_INTERVAL, abs=BAKE_INTERVAL)
    monkeypatch.setattr(LateWitness, "silent", 10**6)
    timeout = quick_settings().witness.timeout
    assert timeout <= baked("v1") <= timeout + 1
