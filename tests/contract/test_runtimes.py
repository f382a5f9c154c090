"""What every runtime driver does, on every driver."""

from __future__ import annotations

import pytest
from benches import RuntimeBench
from harness import eventually

from bluegreen.errors import Failed
from bluegreen.model import Colour, Release, Replica
from bluegreen.runtimes import Runtime

BLUE, GREEN = Colour.BLUE, Colour.GREEN


def release(bench: RuntimeBench, name: str) -> Release:
    """The release with the digest of its image, as a plan has it."""
    image = bench.driver().image(bench.reference(name))
    assert image, f"{name} has no image"
    return Release(name, image.digest, "0123456789ab")


def start(
    bench: RuntimeBench, runtime: Runtime, colour: Colour, name: str, run: str = "run-1", number: int = 1
) -> tuple[Replica, ...]:
    runtime.prepare()
    wanted = release(bench, name)
    return runtime.start(colour, wanted, wanted.digest, run, number, ())


def _listens(runtime: Runtime, replica: Replica) -> None:
    eventually(lambda: "listening on 9000" in runtime.log(replica), "the app does not start")


def test_before_anything_nothing_stands(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    assert dict(runtime.slots()) == {}
    assert runtime.replicas(BLUE) == ()
    assert runtime.remove(BLUE) == []
    assert runtime.remove_network() == []


def test_the_network_is_made_once_and_removed_once(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    assert runtime.prepare() is True
    assert runtime.prepare() is False
    assert runtimes.driver().prepare() is False
    assert runtime.remove_network() == [f"network {runtime.network}"]
    assert runtimes.driver().prepare() is True


def test_two_services_have_addresses_that_are_apart(runtimes: RuntimeBench) -> None:
    one, other = runtimes.driver(), runtimes.other()
    one.prepare()
    other.prepare()
    mine, theirs = ({each.address for c in Colour for each in runtime.endpoints(c, 2)} for runtime in (one, other))
    assert len(mine) == len(theirs) == 4
    assert not mine & theirs


def test_a_colour_has_the_same_addresses_whoever_asks_and_the_other_has_others(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    runtime.prepare()
    blue = runtime.endpoints(BLUE, 2)
    assert len(set(blue)) == 2
    assert runtimes.driver().endpoints(BLUE, 2) == blue
    assert runtime.endpoints(BLUE, 1) == blue[:1]
    assert not set(runtime.endpoints(GREEN, 2)) & set(blue)
    assert {each.port for each in blue} == {9000}


def test_what_is_started_runs_at_its_addresses(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    replicas = start(runtimes, runtime, BLUE, "v1")
    assert [each.running for each in replicas] == [True, True]
    assert tuple(each.endpoint for each in replicas) == runtime.endpoints(BLUE, 2)
    assert tuple(each.name for each in runtimes.driver().replicas(BLUE)) == tuple(each.name for each in replicas)
    assert runtime.replicas(GREEN) == ()


def test_a_slot_tells_a_fresh_process_all_that_was_started(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    runtime.prepare()
    two = release(runtimes, "v2")
    before = (Release("v1", "sha256:one"), Release('odd_"v0', ""))
    runtime.start(GREEN, two, two.digest, "run-7", 7, before)
    slots = runtimes.driver().slots()
    assert set(slots) == {GREEN}
    slot = slots[GREEN]
    assert (slot.colour, slot.release, slot.run, slot.number) == (GREEN, two, "run-7", 7)
    assert slot.before == before
    assert (slot.wanted, slot.running) == (2, 2)
    assert slot.image == runtimes.reference("v2")
    assert slot.since.endswith("Z")


def test_a_start_replaces_what_stood_in_the_colour_and_only_there(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    start(runtimes, runtime, BLUE, "v1")
    start(runtimes, runtime, GREEN, "v1")
    start(runtimes, runtime, GREEN, "v2", "run-2", 2)
    slots = runtime.slots()
    assert {colour: slot.release.name for colour, slot in slots.items()} == {BLUE: "v1", GREEN: "v2"}
    assert len(slots[GREEN].replicas) == 2
    assert slots[BLUE].running == 2


def test_addresses_outlast_a_restart_of_the_containers(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    before = start(runtimes, runtime, BLUE, "v1")
    start(runtimes, runtime, GREEN, "v2")
    for replica in reversed(before):
        runtimes.restart(replica)
    after = runtimes.driver().replicas(BLUE)
    assert [(each.name, each.endpoint, each.running) for each in after] == [
        (each.name, each.endpoint, True) for each in before
    ]


def test_a_replica_that_ends_is_seen_with_its_last_words_and_stays_ended_until_it_is_kept(
    runtimes: RuntimeBench,
) -> None:
    runtime = runtimes.driver()
    one, other = start(runtimes, runtime, BLUE, "v1")
    _listens(runtime, one)
    runtimes.crash(one)
    eventually(lambda: not runtime.replicas(BLUE)[0].running, "the replica still runs")
    ended = runtime.replicas(BLUE)[0]
    assert ended.exit_code == 0
    assert runtime.replicas(BLUE)[1].running
    assert "listening on 9000" in runtime.log(ended)
    assert other.name != ended.name
    assert runtime.slots()[BLUE].running == 1


def test_what_is_kept_comes_back_after_a_crash(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    one, _ = start(runtimes, runtime, BLUE, "v1")
    runtime.keep(BLUE)
    _listens(runtime, one)
    runtimes.crash(one)
    eventually(lambda: all(each.running for each in runtime.replicas(BLUE)), "the replica does not come back")
    assert [each.endpoint for each in runtime.replicas(BLUE)] == list(runtime.endpoints(BLUE, 2))


def test_a_release_that_cannot_start_is_seen_with_its_exit_code_and_its_last_words(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    start(runtimes, runtime, BLUE, "v4-exits")
    eventually(lambda: not any(each.running for each in runtime.replicas(BLUE)), "it still runs")
    ended = runtime.replicas(BLUE)[0]
    assert ended.exit_code == 1
    assert runtime.log(ended).endswith("giving up")
    assert len(runtime.log(ended, 1).splitlines()) == 1


def test_an_image_is_known_by_its_name_and_by_its_digest(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    named = runtime.image(runtimes.reference("v1"))
    assert named
    assert named.digest.startswith("sha256:")
    assert named.size > 0
    by_digest = runtime.image(named.digest)
    assert by_digest
    assert by_digest.digest == named.digest
    assert runtime.image(runtimes.reference("never-built")) is None
    assert runtime.image("sha256:" + "0" * 64) is None


def test_a_start_from_an_image_that_is_not_there_fails_in_words(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    runtime.prepare()
    missing = Release("v9", "sha256:" + "0" * 64)
    with pytest.raises(Failed, match="v9 can't start"):
        runtime.start(BLUE, missing, missing.digest, "run-1", 1, ())
    runtime.remove(BLUE, run="run-1")
    assert dict(runtime.slots()) == {}


def test_a_build_gives_the_image_and_tells_its_progress(runtimes: RuntimeBench) -> None:
    lines: list[str] = []
    image = runtimes.driver().build(Release("v1"), lines.append)
    assert image.reference == runtimes.reference("v1")
    assert runtimes.driver().image(image.reference) == image
    assert lines[0].startswith("Step 1/")


def test_only_what_one_run_made_is_removed_if_a_run_is_named(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    start(runtimes, runtime, BLUE, "v1", "run-1")
    assert runtime.remove(BLUE, run="run-2") == []
    assert runtime.slots()[BLUE].running == 2
    gone = runtime.remove(BLUE, run="run-1")
    assert len(gone) == 2
    assert dict(runtime.slots()) == {}


def test_removing_a_colour_leaves_the_other_and_other_services(runtimes: RuntimeBench) -> None:
    runtime, other = runtimes.driver(), runtimes.other()
    start(runtimes, runtime, BLUE, "v1")
    kept = start(runtimes, runtime, GREEN, "v2")
    start(runtimes, other, BLUE, "v1")
    assert len(runtime.remove(BLUE)) == 2
    assert runtime.replicas(BLUE) == ()
    assert [each.running for each in runtime.replicas(GREEN)] == [True] * len(kept)
    assert [each.running for each in other.replicas(BLUE)] == [True]
    assert other.slots()[BLUE].release.name == "v1"


def test_what_is_gone_can_be_removed_again(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    start(runtimes, runtime, BLUE, "v1")
    assert runtime.remove(BLUE)
    assert runtime.remove(BLUE) == []


def test_an_image_that_a_container_needs_is_left(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    start(runtimes, runtime, BLUE, "v1")
    assert runtime.remove_image(runtimes.reference("v1")) is False
    assert runtime.image(runtimes.reference("v1"))
    assert runtime.remove_image(runtimes.reference("never-built")) is True


def test_what_another_service_runs_or_may_go_back_to_is_needed(runtimes: RuntimeBench) -> None:
    runtime, other = runtimes.driver(), runtimes.other()
    start(runtimes, runtime, BLUE, "v1")
    other.prepare()
    two = release(runtimes, "v2")
    other.start(GREEN, two, two.digest, "run-1", 1, (Release("v0", "sha256:gone"), Release("v0-lost")))
    assert {two.digest, "sha256:gone"} <= runtime.needed_elsewhere()
    assert release(runtimes, "v1").digest in other.needed_elsewhere()


def test_what_a_replica_wrote_can_be_read_line_by_line(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    replica = start(runtimes, runtime, BLUE, "v1")[0]
    _listens(runtime, replica)
    lines = list(runtime.lines(replica))
    assert [line.text for line in lines] == runtime.log(replica).splitlines()
    assert [line.at for line in lines] == sorted(line.at for line in lines)
    assert all(len(line.at) == len("2024-05-01T12:00:00.000000000Z") for line in lines)
    assert list(runtime.lines(replica, tail=1)) == lines[-1:]
    assert list(runtime.lines(replica, tail=0)) == []
    runtime.remove(BLUE)
    assert list(runtime.lines(replica)) == []


def test_a_command_runs_in_a_replica(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    replica = start(runtimes, runtime, BLUE, "v1")[0]
    said: list[tuple[str, bool]] = []

    def run(*command: str) -> int:
        said.clear()
        return runtime.run(replica, command, lambda line, is_error: said.append((line, is_error)))

    assert (run("echo", "a", "b c"), said) == (0, [("a b c", False)])
    assert (run("false"), said) == (1, [])
    assert run("no-such-program") in (126, 127)
    assert "no-such-program" in said[0][0]
    runtime.remove(BLUE)
    with pytest.raises(Failed, match=replica.name):
        run("echo")
