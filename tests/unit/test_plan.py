"""What a run will do, from what was observed: tables of situations and plans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes import quick_settings

from bluegreen.errors import Failed
from bluegreen.model import Colour, Endpoint, Image, Observed, ProxyState, Release, Replica, Slot, SwitchRecord
from bluegreen.plan import (
    REMEMBERED,
    after_recovery,
    first,
    floor_above,
    leftover,
    next_run,
    plan_deploy,
    plan_rollback,
    plan_scale,
    rollback_target,
    with_recovery,
)

BLUE, GREEN = Colour.BLUE, Colour.GREEN
SETTINGS = quick_settings()
STANDBY = quick_settings(retire={"old": "standby"})
SCALED = quick_settings(retire={"old": "standby"}, runtime="swarm")


def release(name: str, digest: str | None = None, settings_hash: str = SETTINGS.hash) -> Release:
    return Release(name, f"sha256:{name}" if digest is None else digest, settings_hash)


def slot(colour: Colour, name: str, number: int, *before: str, running: int = 1, wanted: int = 1, **more: Any) -> Slot:
    replicas = tuple(Replica(f"{name}-{n}", f"{n}", n < running, Endpoint("10.0.0.2", 80)) for n in range(wanted))
    known = tuple(release(each, settings_hash="") for each in before)
    made = Slot(colour, release(name), f"shop:{name}", f"run-{number}", "", wanted, replicas, number, known)
    return replace(made, **more)


def followed(slot: Slot) -> Slot:
    """The same as tasks of Swarm's."""
    endpoints = [replace(each.endpoint, follows=f"tasks.shop-{slot.colour}") for each in slot.replicas]
    pairs = zip(slot.replicas, endpoints, strict=True)
    return replace(slot, replicas=tuple(replace(replica, endpoint=endpoint) for replica, endpoint in pairs))


def image(name: str) -> Image:
    return Image(f"shop:{name}", f"sha256:{name}", 1)


def seen(
    *slots: Slot,
    colour: Colour | None = None,
    number: int = 0,
    committed: bool = True,
    image: Image | None = None,
    exists: bool = True,
) -> Observed:
    record = None
    if colour:
        origin = colour.other if number > 1 else None
        record = SwitchRecord(number, f"run-{number}", origin, colour, committed)
    proxy = ProxyState(exists, exists, "1", colour, record, switch="live")
    return Observed({each.colour: each for each in slots}, proxy, image)


LIVE_V1 = seen(slot(BLUE, "v1", 1), colour=BLUE, number=1)
LIVE_V2 = seen(slot(GREEN, "v2", 2, "v1"), colour=GREEN, number=2)
LIVE_V3 = seen(slot(BLUE, "v3", 3, "v2", "v1"), colour=BLUE, number=3)
STANDBY_V1 = seen(slot(BLUE, "v1", 1), slot(GREEN, "v2", 2, "v1"), colour=GREEN, number=2)
NOTHING = seen(exists=False)


@pytest.mark.parametrize(
    ("observed", "has_image", "steps", "colour", "number", "before"),
    [
        (NOTHING, False, "build start probe switch verify", BLUE, 1, ()),
        (NOTHING, True, "start probe switch verify", BLUE, 1, ()),
        (seen(), True, "start probe switch verify", BLUE, 1, ()),
        (LIVE_V1, False, "build start probe switch verify drain retire", GREEN, 2, ("v1",)),
        (LIVE_V1, True, "start probe switch verify drain retire", GREEN, 2, ("v1",)),
        (LIVE_V2, True, "start probe switch verify drain retire", BLUE, 3, ("v2", "v1")),
        (STANDBY_V1, True, "start probe switch verify drain retire", BLUE, 3, ("v2", "v1")),
    ],
    ids=[
        "first, to be built",
        "first, built",
        "first, the proxy runs",
        "next, to be built",
        "next, built",
        "the one after",
        "over a standby",
    ],
)
def test_the_steps_of_a_deploy(
    observed: Observed, has_image: bool, steps: str, colour: Colour, number: int, before: tuple[str, ...]
) -> None:
    plan = plan_deploy(SETTINGS, replace(observed, image=image("v9") if has_image else None), "v9")
    assert [step.step for step in plan.steps] == steps.split()
    assert (plan.colour, plan.number) == (colour, number)
    assert tuple(each.name for each in plan.before) == before
    assert plan.release.digest == ("sha256:v9" if has_image else "")
    assert plan.from_release == (observed.live.release if observed.live else None)


@pytest.mark.parametrize(("changed", "reason"), [(True, ""), (False, "is live already"), (None, "is not known here")])
def test_what_is_live_is_deployed_anew_if_its_secrets_have_changed(changed: bool | None, reason: str) -> None:
    plan = plan_deploy(SETTINGS, replace(LIVE_V1, image=image("v1"), secrets_changed=changed), "v1")
    assert plan.unchanged is not bool(changed)
    assert reason in plan.reason


def test_the_words_of_the_steps_say_what_will_be_done() -> None:
    settings = quick_settings(retire={"drain_timeout": "45s"}, bake={"seconds": 5}, app={"replicas": 2})
    plan = plan_deploy(settings, LIVE_V1, "v2")
    assert {step.step: step.detail for step in plan.steps} == {
        "build": "build shop:v2 from .",
        "start": "start 2 containers of v2 as green",
        "probe": "ask /version until it answers 'version 2' 2 times in a row",
        "switch": "live: all new requests from blue (v1) to green (v2)",
        "verify": "ask for /version through the proxy until v2 answers",
        "bake": "watch v2 for 5 s",
        "drain": "wait until nothing is in flight to v1, 45 s at most",
        "retire": "stop and remove v1 (blue)",
    }


def test_the_words_of_a_bake_name_its_limits() -> None:
    settings = quick_settings(bake={"seconds": 5, "max_error_ratio": 0.01, "max_p99_ms": 500})
    words = {step.step: step.detail for step in plan_deploy(settings, LIVE_V1, "v2").steps}
    assert words["bake"] == "watch v2 for 5 s, within max_error_ratio = 0.01, max_p99_ms = 500"


def test_the_words_of_a_first_deploy_name_the_proxy_that_is_started() -> None:
    plan = plan_deploy(SETTINGS, NOTHING, "v1")
    words = {step.step: step.detail for step in plan.steps}
    assert words["start"] == "start 1 container of v1 as blue, and nginx on 127.0.0.1:8080"
    assert words["switch"].endswith(": all new requests to blue (v1)")


def test_the_words_say_what_a_start_replaces_and_that_the_old_release_stays() -> None:
    words = {step.step: step.detail for step in plan_deploy(STANDBY, STANDBY_V1, "v3").steps}
    assert words["start"] == "start 1 container of v3 as blue, in the place of v1"
    assert words["retire"] == "keep v2 running as standby"


def test_a_standby_in_a_swarm_is_scaled_to_none_unless_it_is_to_run_on() -> None:
    def retired(live: Slot, **swarm: str) -> str:
        settings = quick_settings(runtime="swarm", retire={"old": "standby"}, swarm=swarm)
        plan = plan_deploy(settings, seen(live, colour=BLUE, number=1), "v2")
        return {step.step: step.detail for step in plan.steps}["retire"]

    tasks = followed(slot(BLUE, "v1", 1))
    assert retired(tasks) == "scale v1 (blue) to none, as standby"
    assert retired(tasks, standby_replicas="all") == "keep v1 running as standby"
    assert retired(slot(BLUE, "v1", 1)) == "keep v1 running as standby", "what is left of the time before Swarm"


def test_the_words_say_which_hooks_will_be_called_and_where() -> None:
    hooks = {
        "pre_build": {"command": ["make", "all the\nassets"]},
        "pre_deploy": {"command": "./migrate | tee log", "run": "image"},
        "post_deploy": {"command": ["x"] * 99},
    }
    plan = plan_deploy(quick_settings(hooks=hooks), LIVE_V1, "v2")
    words = {step.step: step.detail for step in plan.steps}
    assert [step.step for step in plan.steps][:4] == ["pre_build", "build", "pre_deploy", "start"]
    assert plan.steps[-1].step == "post_deploy"
    assert words["pre_build"] == "run make 'all the assets'"
    assert words["pre_deploy"] == "run ./migrate | tee log in a container of v2"
    assert len(words["post_deploy"]) < 70
    assert plan_deploy(quick_settings(hooks=hooks), LIVE_V2, "v2", build=True).steps[0].step == "pre_build"


def test_without_a_body_any_2xx_is_asked_for() -> None:
    settings = quick_settings(probe={"path": "/health"})
    settings = settings.model_copy(update={"probe": settings.probe.model_copy(update={"body": None})})
    words = {step.step: step.detail for step in plan_deploy(settings, LIVE_V1, "v2").steps}
    assert words["probe"] == "ask /health until it answers 2xx 2 times in a row"


@pytest.mark.parametrize(
    ("observed", "has", "options", "unchanged"),
    [
        (LIVE_V2, image("v2"), {}, True),
        (STANDBY_V1, image("v2"), {}, True),
        (LIVE_V2, None, {}, False),
        (LIVE_V2, Image("shop:v2", "sha256:other", 1), {}, False),
        (LIVE_V2, image("v2"), {"build": True}, False),
        (seen(slot(GREEN, "v2", 2, running=0), colour=GREEN, number=2), image("v2"), {}, False),
        (seen(slot(GREEN, "v2", 2, running=2, wanted=2), colour=GREEN, number=2), image("v2"), {}, False),
        (
            seen(slot(GREEN, "v2", 2, release=release("v2", settings_hash="old")), colour=GREEN, number=2),
            image("v2"),
            {},
            False,
        ),
    ],
    ids=["same", "same, with standby", "image gone", "content", "build", "not running", "replicas", "settings"],
)
def test_live_already_means_same_release_content_and_settings_and_running(
    observed: Observed, has: Image | None, options: dict[str, bool], unchanged: bool
) -> None:
    plan = plan_deploy(SETTINGS, replace(observed, image=has), "v2", **options)
    assert plan.unchanged is unchanged
    assert plan.reason == ("v2 is live already" if unchanged else "")


def test_a_build_that_is_asked_for_is_done_though_the_image_is_there() -> None:
    plan = plan_deploy(SETTINGS, replace(LIVE_V1, image=image("v2")), "v2", build=True)
    assert plan.steps[0].step == "build"
    assert plan.release.digest == ""


def test_only_so_many_releases_are_remembered() -> None:
    names = [f"v{n}" for n in range(50, 0, -1)]
    plan = plan_deploy(SETTINGS, seen(slot(BLUE, "v51", 51, *names), colour=BLUE, number=51), "v52")
    assert len(plan.before) == REMEMBERED
    assert plan.before[0].name == "v51"


@pytest.mark.parametrize(
    ("observed", "name", "to", "before", "starts"),
    [
        (LIVE_V2, None, "v1", (), True),
        (LIVE_V3, None, "v2", ("v1",), True),
        (LIVE_V3, "v1", "v1", (), True),
        (LIVE_V3, "v2", "v2", ("v1",), True),
        (STANDBY_V1, None, "v1", (), False),
        (STANDBY_V1, "v1", "v1", (), False),
        (LIVE_V2, "v7", "v7", ("v2", "v1"), True),
        (LIVE_V1, "v7", "v7", ("v1",), True),
        # After v1, v2, v3 and a rollback to v2, which forgets v3: further back, or to the one left if it is named.
        (seen(slot(GREEN, "v2", 4, "v1"), colour=GREEN, number=4), None, "v1", (), True),
        (seen(slot(GREEN, "v2", 4, "v1"), colour=GREEN, number=4), "v3", "v3", ("v2", "v1"), True),
        # The same with v3 kept as standby.
        (seen(slot(GREEN, "v2", 2, "v1"), slot(BLUE, "v3", 3, "v2", "v1"), colour=GREEN, number=4), None, "v1", (), 1),
        (
            seen(slot(GREEN, "v2", 2, "v1"), slot(BLUE, "v3", 3, "v2", "v1"), colour=GREEN, number=4),
            "v3",
            "v3",
            ("v2", "v1"),
            False,
        ),
        # A standby that does not run whole is started anew.
        (
            seen(slot(BLUE, "v1", 1, running=1, wanted=2), slot(GREEN, "v2", 2, "v1"), colour=GREEN, number=2),
            None,
            "v1",
            (),
            True,
        ),
    ],
)
def test_where_a_rollback_goes_and_how(
    observed: Observed, name: str | None, to: str, before: tuple[str, ...], starts: bool
) -> None:
    plan = plan_rollback(SETTINGS, replace(observed, image=image(to)), name)
    assert observed.live
    assert plan.release == release(to)
    assert tuple(each.name for each in plan.before) == before
    assert plan.colour is observed.live.colour.other
    steps = ["start", "probe", "switch", "verify", "drain", "retire"]
    assert [step.step for step in plan.steps] == (steps if starts else steps[1:])
    assert (plan.action, plan.from_release) == ("rollback", observed.live.release)
    assert plan.number == (observed.proxy.record.number if observed.proxy.record else 0) + 1


def test_a_rollback_from_standby_needs_no_image() -> None:
    plan = plan_rollback(SETTINGS, replace(STANDBY_V1, image=None))
    assert plan.steps[0].step == "probe"


def test_a_rollback_to_what_is_scaled_to_none_starts_it_and_needs_its_image() -> None:
    waiting = slot(BLUE, "v1", 1, running=0, wanted=3, scaled_to_none=True)
    observed = seen(waiting, slot(GREEN, "v2", 2, "v1"), colour=GREEN, number=2)
    assert observed.standby == waiting
    words = {step.step: step.detail for step in plan_rollback(SCALED, replace(observed, image=image("v1"))).steps}
    assert words["start"] == "start 1 container in the swarm of v1 as blue, which is scaled to none"
    with pytest.raises(Failed, match="v1 can't come back"):
        plan_rollback(SCALED, observed)


def test_a_rollback_runs_the_content_that_was_live_and_not_what_the_tag_now_names() -> None:
    with pytest.raises(Failed, match="v1 can't come back"):
        plan_rollback(SETTINGS, replace(LIVE_V2, image=Image("shop:v1", "sha256:moved", 1)))
    plan = plan_rollback(SETTINGS, replace(LIVE_V2, image=Image("sha256:v1", "sha256:v1", 1)))
    assert plan.image == "sha256:v1"


def test_a_standby_of_the_same_name_and_other_content_is_not_what_a_rollback_takes() -> None:
    moved = slot(BLUE, "v1", 1, release=release("v1", "sha256:moved"))
    observed = seen(moved, slot(GREEN, "v2", 2, "v1"), colour=GREEN, number=2)
    plan = plan_rollback(SETTINGS, replace(observed, image=image("v1")))
    assert plan.steps[0].step == "start"


@pytest.mark.parametrize(
    ("observed", "name", "words"),
    [
        (NOTHING, None, "serves nothing"),
        (NOTHING, "v1", "serves nothing"),
        (LIVE_V1, None, "v1 has no release before it"),
        (LIVE_V1, "v9", "no release v9: v1 still serves"),
        (LIVE_V2, None, "v1 can't come back.*v2 still serves"),
    ],
)
def test_a_rollback_that_cannot_be_says_why_and_what_is_true(observed: Observed, name: str | None, words: str) -> None:
    with pytest.raises(Failed, match=words) as caught:
        plan_rollback(SETTINGS, observed, name)
    assert caught.value.hint
    assert caught.value.exit_code == 1


def history(*names: str) -> tuple[Release, ...]:
    """The releases of these names, v5 being one that can't be rolled back past."""
    return tuple(replace(release(name, settings_hash=""), floor=name == "v5") for name in names)


def on_top_of(*names: str) -> Observed:
    """The first of them is live, the others came before it, latest first."""
    live, *before = history(*names)
    return seen(slot(GREEN, live.name, 9, release=live, before=tuple(before)), colour=GREEN, number=9)


@pytest.mark.parametrize(
    ("observed", "to", "floor"),
    [
        (on_top_of("v5", "v4"), "v4", "v5"),
        (on_top_of("v6", "v5", "v4"), "v5", None),
        (on_top_of("v6", "v5", "v4"), "v4", "v5"),
        (on_top_of("v7", "v6", "v5", "v4"), "v6", None),
        (on_top_of("v7", "v6", "v5", "v4"), "v4", "v5"),
        (on_top_of("v4", "v3"), "v3", None),
        # Nobody remembers v2, which has to lie before whatever is remembered.
        (on_top_of("v6", "v5", "v4"), "v2", "v5"),
        (on_top_of("v6", "v4"), "v2", None),
        (NOTHING, "v4", None),
    ],
)
def test_nothing_goes_back_past_a_floor_that_lies_between(observed: Observed, to: str, floor: str | None) -> None:
    target = rollback_target(observed, to) or Release(to)
    found = floor_above(observed, target)
    assert (found.name if found else None) == floor
    if floor and observed.live:
        with pytest.raises(Failed, match=f"{to} can't come back: {floor} .*; {observed.live.release} still") as caught:
            plan_rollback(SETTINGS, replace(observed, image=image(to)), to)
        assert f"bluegreen deploy {to}" in caught.value.hint


def test_a_standby_that_came_after_the_floor_may_come_back() -> None:
    (five, four), (six,) = history("v5", "v4"), history("v6")
    live = slot(GREEN, "v5", 9, release=five, before=(four,))
    left = slot(BLUE, "v6", 8, release=six, before=(five, four))
    plan = plan_rollback(STANDBY, seen(live, left, colour=GREEN, number=9), "v6")
    assert plan.release.name == "v6"


def test_a_floor_stays_one_when_it_comes_back_and_is_remembered_however_far_back_it_lies() -> None:
    back = plan_rollback(SETTINGS, replace(on_top_of("v6", "v5", "v4"), image=image("v5")))
    assert back.release.floor
    names = ["v99", *(f"v{n}" for n in range(30, 30 - REMEMBERED, -1)), "v5", "v4"]
    plan = plan_deploy(SETTINGS, on_top_of(*names), "v100")
    assert len(plan.before) == REMEMBERED + 1
    assert plan.before[-1].floor


def test_a_deploy_makes_a_floor_if_its_settings_say_so_and_goes_wherever_it_is_told() -> None:
    settings = quick_settings(rollback_floor=True)
    assert plan_deploy(settings, replace(LIVE_V1, image=image("v2")), "v2").release.floor
    older = plan_deploy(SETTINGS, replace(on_top_of("v6", "v5", "v4"), image=image("v4")), "v4")
    assert older.steps
    assert not older.release.floor


def test_a_release_that_is_live_is_deployed_again_to_become_a_floor() -> None:
    settings = quick_settings(rollback_floor=True)
    assert not plan_deploy(settings, replace(LIVE_V2, image=image("v2")), "v2").unchanged


def test_a_rollback_to_what_is_live_changes_nothing() -> None:
    plan = plan_rollback(SETTINGS, LIVE_V2, "v2")
    assert plan.unchanged
    assert plan.reason == "v2 is live already"


@pytest.mark.parametrize(
    ("observed", "name", "target"),
    [
        (NOTHING, None, None),
        (NOTHING, "v1", None),
        (LIVE_V1, None, None),
        (LIVE_V1, "v9", Release("v9")),
        (LIVE_V3, None, release("v2", settings_hash="")),
        (LIVE_V3, "v1", release("v1", settings_hash="")),
        (STANDBY_V1, "v1", release("v1")),
    ],
)
def test_the_target_of_a_rollback(observed: Observed, name: str | None, target: Release | None) -> None:
    assert rollback_target(observed, name) == target


V2 = slot(GREEN, "v2", 2, "v1")


@pytest.mark.parametrize(
    ("observed", "live", "left", "number"),
    [
        # Switched and not committed: back, and the record says so.
        (seen(slot(BLUE, "v1", 1), slot(GREEN, "v2", 2, "v1"), colour=GREEN, number=2, committed=False), "v1", 1, 3),
        # Started and not switched.
        (seen(slot(BLUE, "v1", 1), slot(GREEN, "v2", 2, "v1"), colour=BLUE, number=1), "v1", 1, 1),
        # What was live before runs no more, or is gone: what serves stays.
        (seen(slot(BLUE, "v1", 1, running=0), V2, colour=GREEN, number=2, committed=False), "v2", 2, 2),
        (seen(V2, colour=GREEN, number=2, committed=False), "v2", 1, 2),
        # A first deploy that had switched, to what runs and to what runs no more.
        (seen(slot(BLUE, "v1", 1), colour=BLUE, number=1, committed=False), "v1", 1, 1),
        (seen(slot(BLUE, "v1", 1, running=0), colour=BLUE, number=1, committed=False), None, 0, 2),
        # A first deploy that had only started.
        (seen(slot(BLUE, "v1", 1)), None, 0, None),
        # A rollback to a standby: its containers are not this run's and stay.
        (seen(slot(BLUE, "v1", 1), slot(GREEN, "v2", 2, "v1"), colour=BLUE, number=3, committed=False), "v2", 2, 4),
    ],
    ids=[
        "switched",
        "started",
        "old one dead",
        "old one gone",
        "first, switched",
        "first, dead",
        "first, started",
        "rollback to standby",
    ],
)
def test_what_will_be_true_once_an_unfinished_run_is_ended(
    observed: Observed, live: str | None, left: int, number: int | None
) -> None:
    assert observed.unfinished
    settled = after_recovery(observed)
    assert settled.unfinished == ""
    assert (settled.live.release.name if settled.live else None) == live
    assert len(settled.slots) == left
    assert (settled.proxy.record.number if settled.proxy.record else None) == number


def test_the_plan_after_an_unfinished_run_begins_with_its_end() -> None:
    observed = seen(slot(BLUE, "v1", 1), slot(GREEN, "v2", 2, "v1"), colour=GREEN, number=2, committed=False)
    plan = with_recovery(plan_deploy(SETTINGS, after_recovery(observed), "v2"), observed.unfinished)
    assert plan.steps[0].step == "recover"
    assert "run-2" in plan.steps[0].detail
    assert (plan.from_release, plan.colour, plan.number) == (release("v1"), GREEN, 4)


@pytest.mark.parametrize(
    ("observed", "words"),
    [
        (seen(V2, colour=GREEN, number=2), ""),
        (
            seen(slot(BLUE, "v1", 1), V2, colour=GREEN, number=2),
            "drain and remove v1 (blue), which v2 replaced",
        ),
        (
            seen(slot(BLUE, "v1", 1), V2, colour=GREEN, number=2, committed=False),
            "go back to v1 and remove what the run had started",
        ),
        (seen(slot(BLUE, "v1", 1), V2, colour=BLUE, number=1), "keep v1 and remove what the run had started"),
        (
            seen(slot(BLUE, "v1", 1, running=0), V2, colour=GREEN, number=2, committed=False),
            "commit v2, as nothing whole is there to go back to",
        ),
        (seen(slot(BLUE, "v1", 1)), "remove what it had started"),
    ],
    ids=["settled", "left over", "switched", "started", "old one dead", "first"],
)
def test_what_comes_first_is_told_in_words(observed: Observed, words: str) -> None:
    assert first(SETTINGS, observed) == words


def test_what_may_serve_by_another_proxy_is_not_left_over() -> None:
    """As when proxy.listen was changed: the first switch at the new address came from nothing."""
    record = SwitchRecord(2, "run-2", None, GREEN, committed=True)
    observed = seen(slot(BLUE, "v1", 1, kept=True), V2, colour=GREEN, number=2)
    assert leftover(SETTINGS, replace(observed, proxy=replace(observed.proxy, record=record))) is None


def test_a_standby_that_is_wanted_is_not_left_over() -> None:
    assert leftover(STANDBY, seen(slot(BLUE, "v1", 1), V2, colour=GREEN, number=2)) is None


def test_a_standby_that_still_runs_and_is_to_be_scaled_to_none_is_left_over() -> None:
    still = followed(slot(BLUE, "v1", 1, kept=True))
    observed = seen(still, V2, colour=GREEN, number=2)
    assert leftover(SCALED, observed) == still
    assert leftover(STANDBY, observed) is None
    assert "will drain and scale v1 (blue) to none, which v2 replaced" in next_run(SCALED, observed)
    waiting = replace(still, replicas=(), scaled_to_none=True)
    assert leftover(SCALED, replace(observed, slots={BLUE: waiting, GREEN: V2})) is None


def test_planning_asks_nothing_and_changes_nothing() -> None:
    before = replace(STANDBY_V1, image=image("v3"))
    plan_deploy(SETTINGS, before, "v3")
    after_recovery(before)
    assert before == replace(STANDBY_V1, image=image("v3"))


def test_another_size_is_the_live_release_in_the_other_colour_with_what_came_before_it() -> None:
    settings = SETTINGS.sized(3)
    plan = plan_scale(settings, replace(LIVE_V2, image=image("v2")))
    assert [step.step for step in plan.steps] == ["start", "probe", "switch", "verify", "drain", "retire"]
    assert (plan.action, plan.colour, plan.release) == ("scale", BLUE, release("v2", settings_hash=settings.hash))
    assert [each.name for each in plan.before] == ["v1"]
    assert (plan.image, plan.reason) == ("sha256:v2", "replicas 1 → 3")
    assert settings.retire.old == "remove"


def test_the_size_that_it_has_is_no_work_and_nothing_has_no_size() -> None:
    live = seen(slot(BLUE, "v1", 1, running=3, wanted=3), colour=BLUE, number=1)
    assert plan_scale(SETTINGS.sized(3), live).reason == "v1 has 3 replicas already"
    assert plan_scale(SETTINGS.sized(3), seen(slot(BLUE, "v1", 1, running=2, wanted=3), colour=BLUE, number=1)).steps
    with pytest.raises(Failed, match="nothing to scale"):
        plan_scale(SETTINGS, NOTHING)
