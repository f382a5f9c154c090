"""What every runtime driver does, on every driver."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from benches import DockerBench, RuntimeBench, SwarmBench
from harness import IMAGES, eventually, executed

from bluegreen.errors import Failed
from bluegreen.model import Colour, OneShot, Release, Replica
from bluegreen.runtimes import Runtime
from bluegreen.runtimes.docker import DockerRuntime
from bluegreen.runtimes.swarm import SwarmRuntime
from bluegreen.secret import Secrets
from bluegreen.settings import parse

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


def test_two_services_have_addresses_that_are_apart(fixed_runtimes: RuntimeBench) -> None:
    one, other = fixed_runtimes.driver(), fixed_runtimes.other()
    one.prepare()
    other.prepare()
    mine, theirs = ({each.address for c in Colour for each in runtime.endpoints(c, 2)} for runtime in (one, other))
    assert len(mine) == len(theirs) == 4
    assert not mine & theirs


def test_a_colour_has_the_same_addresses_whoever_asks_and_the_other_has_others(fixed_runtimes: RuntimeBench) -> None:
    runtime = fixed_runtimes.driver()
    runtime.prepare()
    blue = runtime.endpoints(BLUE, 2)
    assert len(set(blue)) == 2
    assert fixed_runtimes.driver().endpoints(BLUE, 2) == blue
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


def test_a_run_leaves_a_trace_from_its_beginning_to_its_end(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    assert runtime.begun() == ()
    for run in ("run-2", "run-1"):
        runtime.begin(run)
    assert runtimes.driver().begun() == ("run-1", "run-2")
    runtime.ended("run-1", "run-3")
    assert runtimes.driver().begun() == ("run-2",)
    runtime.ended("run-2")
    assert runtimes.driver().begun() == ()


def test_a_start_replaces_what_stood_in_the_colour_and_only_there(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    start(runtimes, runtime, BLUE, "v1")
    start(runtimes, runtime, GREEN, "v1")
    start(runtimes, runtime, GREEN, "v2", "run-2", 2)
    slots = runtime.slots()
    assert {colour: slot.release.name for colour, slot in slots.items()} == {BLUE: "v1", GREEN: "v2"}
    assert len(slots[GREEN].replicas) == 2
    assert slots[BLUE].running == 2


def test_addresses_outlast_a_restart_of_the_containers(fixed_runtimes: RuntimeBench) -> None:
    runtime = fixed_runtimes.driver()
    before = start(fixed_runtimes, runtime, BLUE, "v1")
    start(fixed_runtimes, runtime, GREEN, "v2")
    for replica in reversed(before):
        fixed_runtimes.restart(replica)
    after = fixed_runtimes.driver().replicas(BLUE)
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
    assert runtime.slots()[BLUE].kept is False
    runtime.keep(BLUE)
    assert runtimes.driver().slots()[BLUE].kept is True
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


def job(bench: RuntimeBench, script: str, *, run: str = "run-1", timeout: float = 60) -> OneShot:
    wanted = release(bench, "v1")
    told = {"BLUEGREEN_HOOK": "pre_deploy"}
    return OneShot("pre_deploy", ("sh", "-c", script), wanted, wanted.digest, run, timeout, told)


def silent(data: bytes) -> None:
    pass


def nothing() -> None:
    pass


def test_a_job_runs_once_with_the_apps_environment_and_its_own_and_is_gone(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    runtime.prepare()
    heard: list[bytes] = []
    code = runtime.run_once(job(runtimes, "echo $BLUEGREEN_HOOK in $TOWN; exit 3"), heard.append, nothing)
    assert (code, b"".join(heard)) == (3, b"pre_deploy in Paris\n")
    assert runtime.remove_one_shots() == []
    assert runtime.remove_network(), "and nothing of it stands on the network"


def test_a_job_is_no_replica_and_ends_with_what_ends_the_watch(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    start(runtimes, runtime, BLUE, "v1")
    heard: list[bytes] = []
    standing = []

    def watch() -> None:
        if heard:
            standing.append((len(runtime.replicas(BLUE)), set(runtime.slots())))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runtime.run_once(job(runtimes, "echo begun; sleep 600"), heard.append, watch)
    assert standing == [(2, {BLUE})]
    assert runtime.remove_one_shots() == []
    assert runtime.slots()[BLUE].running == 2


def test_a_job_that_takes_too_long_is_ended_and_gone(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    runtime.prepare()
    assert runtime.run_once(job(runtimes, "sleep 600", timeout=1), silent, nothing) is None
    assert runtime.remove_one_shots() == []


def test_a_job_that_cannot_start_is_told_in_words_and_leaves_nothing(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    runtime.prepare()
    missing = Release("v9", "sha256:" + "0" * 64)
    with pytest.raises(Failed, match="the hook pre_deploy can't run in a container of v9"):
        runtime.run_once(OneShot("pre_deploy", ("sh", "-c", "echo"), missing, missing.digest, "r", 1), silent, nothing)
    assert runtime.remove_one_shots() == []


def test_a_jobs_container_that_a_killed_process_left_is_removed_by_another(runtimes: RuntimeBench) -> None:
    runtime, other = runtimes.driver(), runtimes.driver()
    runtime.prepare()
    heard: list[bytes] = []
    gone: list[list[str]] = []

    def watch() -> None:
        if heard and not gone:
            gone.append(other.remove_one_shots(run="run-2"))
            gone.append(runtimes.other().remove_one_shots())
            gone.append(other.remove_one_shots())
            raise KeyboardInterrupt  # nobody is left to see how it ended

    with pytest.raises(KeyboardInterrupt):
        runtime.run_once(job(runtimes, "echo begun; sleep 600"), heard.append, watch)
    assert gone[:2] == [[], []]
    assert len(gone[2]) == 1
    assert "-hook-pre_deploy-run-1" in gone[2][0]


def test_a_floor_is_told_to_a_fresh_process(runtimes: RuntimeBench) -> None:
    runtime = runtimes.driver()
    runtime.prepare()
    two = release(runtimes, "v2")
    stamped = Release(two.name, two.digest, two.settings_hash, floor=True)
    before = (Release("v1", "sha256:one"), Release("v0", "sha256:zero", floor=True))
    runtime.start(GREEN, stamped, two.digest, "run-7", 7, before)
    slot = runtimes.driver().slots()[GREEN]
    assert slot.release == stamped
    assert slot.before == before


def test_what_runs_has_the_secrets_that_it_was_started_with(runtimes: RuntimeBench) -> None:
    runtimes.secrets = Secrets({"KEY": b"\0one\n"}, {"WORD": "a=b"})
    runtime = runtimes.driver()
    assert not runtime.has_secrets(BLUE)
    one, _ = start(runtimes, runtime, BLUE, "v1")
    assert runtimes.driver().has_secrets(BLUE)
    assert not runtime.has_secrets(GREEN)
    _listens(runtime, one)
    runtimes.restart(one)
    assert runtimes.driver().has_secrets(BLUE)
    for other in (Secrets({"KEY": b"two"}, {"WORD": "a=b"}), Secrets({"KEY": b"\0one\n"}, {"WORD": "b"}), Secrets()):
        runtimes.secrets = other
        assert not runtimes.driver().has_secrets(BLUE)
    start(runtimes, runtimes.driver(), BLUE, "v1", "run-2", 2)
    assert runtimes.driver().has_secrets(BLUE)


# What only a real engine shows


@pytest.fixture
def docker_bench(request: pytest.FixtureRequest) -> DockerBench:
    return DockerBench(request)


def _with(bench: DockerBench, **app: Any) -> DockerRuntime:
    """A driver of the same service with other settings of the app."""
    data = bench.settings.model_dump(exclude_unset=True)
    bench.settings = parse({**data, "app": {"port": 9000, "stop_timeout": "2s", **app}})
    return bench.driver()


@contextlib.contextmanager
def _as_root(bench: DockerBench) -> Iterator[str]:
    """An image of v1 that says of no user."""
    tag = f"{bench.settings.service}:as-root"
    made = bench.client.containers.create(f"{IMAGES}:v1")
    try:
        made.commit(*tag.split(":"), changes=["USER root"])
    finally:
        made.remove()
    try:
        yield tag
    finally:
        bench.client.images.remove(tag, force=True)


def _inside(bench: DockerBench, replica: Replica, program: str) -> str:
    """What a program prints that runs as the app does."""
    lines: list[str] = []
    code = bench.driver().run(replica, ["python3", "-c", program], lambda line, is_error: lines.append(line))
    text = "\n".join(lines)
    assert code == 0, text
    return text.strip()


def test_a_container_may_do_no_more_than_it_needs(docker_bench: DockerBench) -> None:
    one, _ = start(docker_bench, docker_bench.driver(), BLUE, "v1")
    attrs = docker_bench.client.containers.get(one.name).attrs
    host = attrs["HostConfig"]
    assert attrs["Config"]["User"] == "10001:10001", "the image's own"
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (host["ReadonlyRootfs"], host["Tmpfs"], host["PidsLimit"]) == (True, {"/tmp": ""}, 2048)
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert host["NetworkMode"].startswith("bluegreen-net-")
    seen = _inside(docker_bench, one, "print(open('/proc/1/status').read())")
    status = dict(line.split(":\t", 1) for line in seen.splitlines() if ":\t" in line)
    assert status["Uid"].split() == ["10001"] * 4
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert _inside(docker_bench, one, "print(open('/tmp/x', 'w').write('yes'))") == "3"
    for path in ("/app/x", "/etc/x", "/run/x"):
        assert "Read-only" in _inside(
            docker_bench, one, f"try: open('{path}', 'w')\nexcept OSError as error: print(error)"
        )


def test_each_part_of_it_can_be_loosened(docker_bench: DockerBench) -> None:
    runtime = _with(
        docker_bench,
        user="root",
        read_only=False,
        tmpfs=["/run:size=1m,exec"],
        cap_add=["CHOWN"],
        no_new_privileges=False,
        pids_limit=0,
        init=True,
        logging={"driver": "local"},
    )
    [one] = start(docker_bench, runtime, BLUE, "v1")
    attrs = docker_bench.client.containers.get(one.name).attrs
    host = attrs["HostConfig"]
    assert attrs["Config"]["User"] == "root"
    assert [each.removeprefix("CAP_") for each in host["CapAdd"]] == ["CHOWN"], "engines differ in how they show it"
    assert (host["CapDrop"], host["SecurityOpt"] or []) == (["ALL"], [])
    assert (host["ReadonlyRootfs"], host["Tmpfs"]) == (False, {"/run": "size=1m,exec"})
    assert not host["PidsLimit"]
    assert (host["Init"], host["LogConfig"]["Type"]) == (True, "local")
    _listens(runtime, one)
    assert _inside(docker_bench, one, "import os; open('/app/x', 'w'); os.chown('/app/x', 1, 1)") == ""


def test_an_image_of_no_user_does_not_run_as_root_and_may_listen_on_a_port_below_1024(
    docker_bench: DockerBench,
) -> None:
    runtime = _with(docker_bench, port=80, env={"PORT": "80"})
    runtime.prepare()
    with _as_root(docker_bench) as image:
        [one] = runtime.start(BLUE, Release("v1", "sha256:1"), image, "run-1", 1, ())
        eventually(lambda: "listening on 80" in runtime.log(one), "the app does not start")
        assert _inside(docker_bench, one, "import os; print(os.getuid(), os.getgid())") == "65532 65532"
        runtime.remove(BLUE)


@pytest.mark.parametrize(("user", "number"), [(None, 10001), ("nobody", 65534), ("root", 0), ("1234:5", 1234)])
def test_a_secret_is_a_file_for_the_apps_user_alone_that_nothing_else_shows(
    docker_bench: DockerBench, user: str | None, number: int
) -> None:
    docker_bench.secrets = Secrets({"PASSWORD": b"correct horse"}, {"TOKEN": "as a variable"})
    runtime = _with(docker_bench, **({"user": user} if user else {}))
    [one] = start(docker_bench, runtime, BLUE, "v1")
    look = "import os; s = os.stat('/run/secrets/PASSWORD'); print(oct(s.st_mode), s.st_uid)"
    assert _inside(docker_bench, one, look) == f"0o100400 {number}"
    read = "import os; print(open('/run/secrets/PASSWORD').read(), os.environ['TOKEN'])"
    assert _inside(docker_bench, one, read) == "correct horse as a variable"
    container = docker_bench.client.containers.get(one.name)
    container.restart(timeout=2)
    assert _inside(docker_bench, one, read) == "correct horse as a variable"
    shown = json.dumps(container.attrs)
    assert "as a variable" in shown, "which is why doctor warns of it"
    assert "correct horse" not in shown
    if number:
        fail = "try: open('/run/secrets/OTHER', 'w')\nexcept OSError as error: print(error)"
        assert "Permission denied" in _inside(docker_bench, one, fail)
        code, _ = executed(container, ["cat", "/run/secrets/PASSWORD"], user="4321")
        assert code, "another user of the container can't read it"


def _volumes(client: docker.DockerClient, runtime: DockerRuntime) -> list[Any]:
    service = runtime.network.removeprefix("bluegreen-net-")
    return list(client.volumes.list(filters={"label": [f"bluegreen.service={service}", "bluegreen.secrets"]}))


def test_secrets_go_with_their_containers_and_what_a_person_left_of_them_goes_too(docker_bench: DockerBench) -> None:
    docker_bench.secrets = Secrets({"PASSWORD": b"correct horse"})
    runtime, client = docker_bench.driver(), docker_bench.client
    one, _ = start(docker_bench, runtime, BLUE, "v1")
    start(docker_bench, runtime, GREEN, "v2")
    assert len(_volumes(client, runtime)) == 4
    client.containers.get(one.name).remove(force=True)  # as a person does it, who leaves the volume behind
    assert len(_volumes(client, runtime)) == 4
    runtime.remove(BLUE)
    assert len(_volumes(client, runtime)) == 2, "those of green"
    assert runtime.has_secrets(GREEN)
    runtime.remove(GREEN)
    assert _volumes(client, runtime) == []


def test_a_start_that_the_confinement_prevents_is_told_with_the_setting_that_loosens_it(
    docker_bench: DockerBench,
) -> None:
    runtime = _with(docker_bench, command=["/etc/passwd"])
    runtime.prepare()
    with pytest.raises(Failed, match=r"v1 can't start: .*permission denied") as caught:
        runtime.start(BLUE, release(docker_bench, "v1"), f"{IMAGES}:v1", "run-1", 1, ())
    assert "app.user" in caught.value.hint


def test_an_engine_that_is_there_answers(runtimes: RuntimeBench) -> None:
    assert runtimes.driver().answers()


@pytest.mark.xdist_group("swarm")
def test_a_task_has_its_secrets_and_configs_and_may_do_no_more_than_it_needs(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bench = SwarmBench(request)
    (tmp_path / "app.toml").write_text("town = 'Paris'")
    data = bench.settings.model_dump(exclude_unset=True)
    swarm = {"configs": {"/etc/app.toml": "app.toml"}, "constraints": ["node.role == manager"], "max_per_node": 2}
    bench.settings = parse({**data, "swarm": swarm}, root=tmp_path)
    bench.secrets = Secrets({"KEY": b"\0one\n"}, {"WORD": "a=b"})
    runtime = bench.driver()
    one, _ = start(bench, runtime, BLUE, "v1")
    container = bench.client.containers.get(bench.container(one).id)

    def inside(program: str) -> str:
        code, out = executed(container, ["python3", "-c", program])
        assert code == 0, out.decode()
        return str(out.decode()).strip()

    assert inside("print(open('/etc/app.toml').read())") == "town = 'Paris'"
    look = (
        "import os; s = os.stat('/run/secrets/KEY'); print(oct(s.st_mode), s.st_uid, open('/run/secrets/KEY').read())"
    )
    assert inside(look).replace("\0", "NUL") == "0o100400 10001 NULone"
    status = dict(
        line.split(":\t", 1) for line in inside("print(open('/proc/1/status').read())").splitlines() if ":" in line
    )
    assert status["Uid"].split() == ["10001"] * 4
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert inside("print(open('/tmp/x', 'w').write('yes'))") == "3"
    assert "Read-only" in inside("try: open('/app/x', 'w')\nexcept OSError as error: print(error)")
    label = {"label": f"bluegreen.service={bench.settings.service}"}
    assert (len(bench.client.secrets.list(filters=label)), len(bench.client.configs.list(filters=label))) == (1, 1)
    runtime.remove(BLUE)
    assert bench.client.secrets.list(filters=label) + bench.client.configs.list(filters=label) == []


@pytest.mark.xdist_group("swarm")
def test_a_config_that_swarm_does_not_take_is_named_and_leaves_no_secret_behind(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bench = SwarmBench(request)
    (tmp_path / "app.toml").write_bytes(b"")
    data = bench.settings.model_dump(exclude_unset=True)
    bench.settings = parse({**data, "swarm": {"configs": {"/etc/app.toml": "app.toml"}}}, root=tmp_path)
    bench.secrets = Secrets({"KEY": b"one"})
    runtime = bench.driver()
    runtime.prepare()
    with pytest.raises(Failed, match=r"^Swarm does not take the config /etc/app.toml: config data must be larger"):
        runtime.start(BLUE, release(bench, "v1"), f"{IMAGES}:v1", "run-1", 1, ())
    label = {"label": f"bluegreen.service={bench.settings.service}"}
    assert len(bench.client.secrets.list(filters=label)) == 1
    runtime.remove(BLUE, run="run-1")
    assert bench.client.secrets.list(filters=label) == []


@pytest.fixture
def swarm_bench(request: pytest.FixtureRequest) -> SwarmBench:
    return SwarmBench(request)


def test_what_a_later_process_would_pull_with_replaces_no_task(request: pytest.FixtureRequest) -> None:
    bench = SwarmBench(request)

    def logged_in(password: str) -> SwarmRuntime:
        auth = {"username": "shop", "password": password}
        return SwarmRuntime({"node": bench.client}, bench.settings, auth=lambda: auth)

    before = {replica.id for replica in start(bench, logged_in("one"), BLUE, "v1")}
    logged_in("two").keep(BLUE)
    time.sleep(4)  # in which Swarm would have replaced one
    assert bench.driver().slots()[BLUE].kept
    assert {replica.id for replica in bench.driver().replicas(BLUE)} == before
    [service] = bench.client.services.list(filters={"label": f"bluegreen.service={bench.settings.service}"})
    assert {task["ID"] for task in service.tasks()} == before


def test_a_standby_of_a_swarm_is_scaled_to_none_and_up_again_unless_it_would_differ(swarm_bench: SwarmBench) -> None:
    runtime = swarm_bench.driver()
    label = {"label": f"bluegreen.service={swarm_bench.settings.service}"}

    def services() -> list[Any]:
        return list(swarm_bench.client.services.list(filters=label))

    first = start(swarm_bench, runtime, BLUE, "v1")
    runtime.keep(BLUE)
    _listens(runtime, first[0])
    swarm_bench.crash(first[0])  # whose task Swarm remembers, as one that has ended
    eventually(lambda: runtime.replicas(BLUE)[0].id != first[0].id and runtime.slots()[BLUE].running == 2, "replaced")
    [service] = services()
    assert sorted(runtime.stand_by(BLUE)) == [f"{service.name}.1", f"{service.name}.2"]
    slot = swarm_bench.driver().slots()[BLUE]
    assert (slot.scaled_to_none, slot.kept, slot.running, slot.wanted) == (True, True, 0, 2)
    assert services()[0].tasks({"desired-state": "running"}) == []

    again = start(swarm_bench, swarm_bench.driver(), BLUE, "v1", "run-3", 3)
    assert [each.running for each in again] == [True, True]
    slot = runtime.slots()[BLUE]
    assert (slot.scaled_to_none, slot.kept, slot.run, slot.number, slot.wanted) == (False, False, "run-3", 3, 2)
    assert [each.id for each in services()] == [service.id]
    assert runtime.remove(BLUE, run="run-1") == [], "it is of another run now"

    runtime.stand_by(BLUE)
    swarm_bench.secrets = Secrets({}, {"TOKEN": "new"})
    start(swarm_bench, swarm_bench.driver(), BLUE, "v1", "run-4", 4)
    assert [each.id for each in services()] != [service.id]
    data = swarm_bench.settings.model_dump(exclude_unset=True)
    swarm_bench.settings = parse({**data, "swarm": {"standby_replicas": "all"}})
    assert swarm_bench.driver().stand_by(BLUE) == []
    assert runtime.slots()[BLUE].running == 2


@pytest.mark.parametrize("mode", ["dnsrr", "vip"])
def test_replicas_have_addresses_of_their_own_whatever_the_name_of_their_service_leads_to(
    request: pytest.FixtureRequest, mode: str
) -> None:
    bench = SwarmBench(request)
    data = bench.settings.model_dump(exclude_unset=True)
    bench.settings = parse({**data, "swarm": {"endpoint_mode": mode}})
    runtime = bench.driver()
    replicas = start(bench, runtime, BLUE, "v1")
    [service] = bench.client.services.list(filters={"label": f"bluegreen.service={bench.settings.service}"})
    assert service.attrs["Spec"]["EndpointSpec"]["Mode"] == mode
    lookup = "import socket; print(*sorted({found[4][0] for found in socket.getaddrinfo('%s', 9000)}))"
    own = " ".join(sorted(replica.endpoint.address for replica in replicas))
    container = bench.container(replicas[0])
    for name, leads_there in ((replicas[0].endpoint.follows, True), (service.name, mode == "dnsrr")):
        code, said = executed(container, ["python3", "-c", lookup % name])
        assert code == 0, said
        assert (said.decode().strip() == own) is leads_there, name


def _as_task(bench: SwarmBench, **app: Any) -> SwarmRuntime:
    """A driver of the same service with other settings of the app."""
    data = bench.settings.model_dump(exclude_unset=True)
    bench.settings = parse({**data, "app": {"port": 9000, "stop_timeout": "2s", **app}})
    return bench.driver()


def _in_task(bench: SwarmBench, replica: Replica, program: str) -> str:
    """What a program prints that runs as the app does."""
    code, said = executed(bench.container(replica), ["python3", "-c", program])
    assert code == 0, said.decode()
    return str(said.decode()).strip()


def test_each_part_of_a_tasks_confinement_can_be_loosened(swarm_bench: SwarmBench) -> None:
    loose = {"user": "root", "read_only": False, "tmpfs": ["/run:size=1m,mode=700"], "cap_add": ["CHOWN"]}
    runtime = _as_task(swarm_bench, **loose, pids_limit=0, init=True, logging={"driver": "local"})
    [one] = start(swarm_bench, runtime, BLUE, "v1")
    attrs = swarm_bench.container(one).attrs
    host = attrs["HostConfig"]
    assert (attrs["Config"]["User"], host["ReadonlyRootfs"], host["Init"]) == ("root", False, True)
    assert [each.removeprefix("CAP_") for each in host["CapAdd"]] == ["CHOWN"]
    assert (host["CapDrop"], host["LogConfig"]["Type"], bool(host["PidsLimit"])) == (["ALL"], "local", False)
    [memory] = [each["TmpfsOptions"] for each in host["Mounts"] if each["Target"] == "/run"]
    assert memory == {"SizeBytes": 1 << 20, "Mode": 0o700}
    assert _in_task(swarm_bench, one, "import os; open('/app/x', 'w'); os.chown('/app/x', 1, 1)") == ""


@pytest.mark.parametrize(("user", "number"), [("nobody", 65534), ("root", 0), ("1234:5", 1234)])
def test_a_tasks_secret_is_for_the_apps_user_alone(swarm_bench: SwarmBench, user: str, number: int) -> None:
    swarm_bench.secrets = Secrets({"PASSWORD": b"correct horse"})
    [one] = start(swarm_bench, _as_task(swarm_bench, user=user), BLUE, "v1")
    look = "import os; s = os.stat('/run/secrets/PASSWORD'); print(oct(s.st_mode), s.st_uid)"
    assert _in_task(swarm_bench, one, look) == f"0o100400 {number}"
    assert _in_task(swarm_bench, one, "print(open('/run/secrets/PASSWORD').read())") == "correct horse"


def test_a_task_that_the_confinement_prevents_is_told_with_the_setting_that_loosens_it(
    swarm_bench: SwarmBench,
) -> None:
    runtime = _as_task(swarm_bench, command=["/etc/passwd"])
    runtime.prepare()
    with pytest.raises(Failed, match=r"v1 can't start: .*permission denied") as caught:
        runtime.start(BLUE, release(swarm_bench, "v1"), release(swarm_bench, "v1").digest, "run-1", 1, ())
    assert "app.user" in caught.value.hint
