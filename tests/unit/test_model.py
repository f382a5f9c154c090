"""The words of the product as values."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluegreen.model import (
    Colour,
    Endpoint,
    Observed,
    Plan,
    PlannedStep,
    ProxyState,
    Release,
    Replica,
    Slot,
    SwitchRecord,
)

BLUE, GREEN = Colour.BLUE, Colour.GREEN
records = st.builds(
    SwitchRecord,
    number=st.integers(min_value=0),
    run=st.text(),
    from_colour=st.none() | st.sampled_from(Colour),
    to_colour=st.sampled_from(Colour),
    committed=st.booleans(),
    at=st.text(),
)


def slot(colour: Colour, name: str, *, number: int = 1, running: int = 1, wanted: int = 1, run: str = "") -> Slot:
    replicas = tuple(Replica(f"{name}-{n}", f"{n}", n < running, Endpoint("10.0.0.2", 80)) for n in range(wanted))
    return Slot(colour, Release(name), f"shop:{name}", run or f"run-{number}", "", wanted, replicas, number)


def record(number: int, to: Colour, *, committed: bool = True, run: str = "") -> SwitchRecord:
    return SwitchRecord(number, run or f"run-{number}", to.other, to, committed)


def observed(*slots: Slot, colour: Colour | None = None, record: SwitchRecord | None = None) -> Observed:
    return Observed({each.colour: each for each in slots}, ProxyState(True, True, "1", colour, record))


def test_each_colour_has_the_other() -> None:
    assert (BLUE.other, GREEN.other) == (GREEN, BLUE)
    assert [str(colour) for colour in Colour] == ["blue", "green"]


@pytest.mark.parametrize(
    ("name", "number"),
    [("v2", "2"), ("v1.2.3-rc1", "1.2.3-rc1"), ("2024", "2024"), ("version", "ersion"), ("vv1", "v1"), ("v", "")],
)
def test_the_number_of_a_release_is_its_name_without_a_leading_v(name: str, number: str) -> None:
    assert Release(name).number == number


def test_an_ipv6_endpoint_is_written_in_brackets() -> None:
    assert str(Endpoint("172.29.0.2", 9000)) == "172.29.0.2:9000"
    assert str(Endpoint("fd00::2", 9000)) == "[fd00::2]:9000"


def test_values_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Release("v1").name = "v2"  # type: ignore[misc]


@given(records)
def test_a_switch_record_is_read_as_it_was_written(record: SwitchRecord) -> None:
    text = record.to_json()
    assert "\n" not in text
    assert SwitchRecord.from_json(text) == record


@given(
    st.text()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["number", "run"]), inner),
        max_leaves=5,
    ).map(json.dumps)
)
def test_anything_else_is_no_switch_record(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        SwitchRecord.from_json(text)


@pytest.mark.parametrize("key", ["number", "run", "from_colour", "to_colour", "committed", "at"])
def test_a_record_with_a_field_missing_is_none(key: str) -> None:
    data = json.loads(record(1, BLUE).to_json())
    del data[key]
    with pytest.raises(ValueError, match="not a switch record"):
        SwitchRecord.from_json(json.dumps(data))


@pytest.mark.parametrize("value", ["red", [], {}, None, float("inf")])
@pytest.mark.parametrize("key", ["number", "to_colour"])
def test_a_record_with_a_field_that_cannot_be_is_none(key: str, value: object) -> None:
    data = {**json.loads(record(1, BLUE).to_json()), key: value}
    with pytest.raises(ValueError, match=r".*"):
        SwitchRecord.from_json(json.dumps(data))


def test_live_is_what_the_proxy_serves_and_idle_the_other() -> None:
    seen = observed(slot(BLUE, "v1"), slot(GREEN, "v2", number=2), colour=GREEN, record=record(2, GREEN))
    assert seen.live
    assert seen.idle
    assert (seen.live.release.name, seen.idle.release.name) == ("v2", "v1")


def test_a_proxy_that_serves_nothing_makes_nothing_live() -> None:
    seen = observed(slot(BLUE, "v1"))
    assert seen.live is None
    assert seen.idle
    assert seen.idle.release.name == "v1"


def test_a_colour_that_is_served_but_has_no_containers_is_not_live() -> None:
    assert observed(colour=BLUE, record=record(1, BLUE)).live is None


@pytest.mark.parametrize(
    ("idle", "last", "unfinished"),
    [
        (None, record(2, GREEN), ""),
        (slot(BLUE, "v1"), record(2, GREEN), ""),
        (slot(BLUE, "v3", number=3), record(2, GREEN), "run-3"),
        (slot(BLUE, "v3", number=2, run="run-1"), record(2, GREEN), ""),
        (slot(BLUE, "v3", number=2, run="run-2"), record(3, GREEN, run="run-2"), "run-2"),
        (slot(BLUE, "v1"), record(2, GREEN, committed=False), "run-2"),
        (None, record(2, GREEN, committed=False), "run-2"),
    ],
    ids=["alone", "standby", "orphan", "as old as the switch", "taken back", "uncommitted", "uncommitted, alone"],
)
def test_an_unfinished_run_is_known_by_the_record_or_by_what_it_started(
    idle: Slot | None, last: SwitchRecord, unfinished: str
) -> None:
    slots = [slot(GREEN, "v2", number=2), *([idle] if idle else [])]
    seen = observed(*slots, colour=GREEN, record=last)
    assert seen.unfinished == unfinished
    assert bool(seen.standby) is (idle is not None and not unfinished)


def test_what_a_first_run_started_and_never_switched_to_is_unfinished() -> None:
    assert observed(slot(BLUE, "v1", run="run-a")).unfinished == "run-a"


def test_half_a_standby_is_none() -> None:
    half = slot(BLUE, "v1", running=1, wanted=2)
    seen = observed(half, slot(GREEN, "v2", number=2), colour=GREEN, record=record(2, GREEN))
    assert seen.standby is None
    assert half.running == 1
    assert len(half.endpoints) == 2


def test_a_plan_as_data_has_its_steps_in_order() -> None:
    plan = Plan("deploy", Release("v2"), GREEN, "shop:v2", BLUE, Release("v1"), (), 2)
    assert plan.unchanged
    steps = (PlannedStep("start", "one"), PlannedStep("probe", "two"))
    plan = replace(plan, steps=steps, diff="+x")
    assert not plan.unchanged
    assert plan.to_dict() == {
        "action": "deploy",
        "release": "v2",
        "colour": "green",
        "from": "v1",
        "steps": [{"step": "start", "detail": "one"}, {"step": "probe", "detail": "two"}],
        "reason": "",
        "diff": "+x",
        "edits": "",
    }
    assert json.dumps(plan.to_dict())
