"""What every proxy driver does, on every driver."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import httpx
import pytest
from benches import EDIT, ContainerBench, ProxyBench
from harness import HAPROXY, NGINX, eventually, executed

from bluegreen import archive
from bluegreen.errors import BluegreenError, Failed
from bluegreen.model import Colour, Counts, Endpoint, SwitchRecord
from bluegreen.proxies import Proxy
from bluegreen.proxies.agent import AgentError
from bluegreen.proxies.container import ProxyContainer

BLUE, GREEN = Colour.BLUE, Colour.GREEN
VERSION = {BLUE: (200, "version 1"), GREEN: (200, "version 2")}


def record(number: int, origin: Colour | None, to: Colour, *, committed: bool = False) -> SwitchRecord:
    return SwitchRecord(number, f"run-{number}", origin, to, committed, "2024-05-01T12:00:00.000+00:00")


def first_switch(bench: ProxyBench, proxy: Proxy) -> SwitchRecord:
    """The proxy runs and serves blue, committed."""
    proxy.boot([bench.apps.network])
    proxy.prepare(bench.apps.upstreams, None)
    first = record(1, None, BLUE)
    proxy.switch(first, bench.apps.upstreams)
    committed = record(1, None, BLUE, committed=True)
    proxy.commit(committed)
    return committed


def to_green(bench: ProxyBench, proxy: Proxy) -> SwitchRecord:
    """The proxy serves green, uncommitted."""
    second = record(2, BLUE, GREEN)
    proxy.prepare(bench.apps.upstreams, BLUE)
    proxy.switch(second, bench.apps.upstreams)
    return second


def test_before_anything_there_is_no_proxy_and_asking_makes_none(proxies: ProxyBench) -> None:
    state = proxies.driver().observe()
    there = proxies.installed
    assert (state.exists, state.running, state.colour, state.record, state.config) == (there, there, None, None, "")
    assert state.switch in ("live", "reload")
    assert proxies.left() == []


def test_boot_is_idempotent_and_what_has_just_started_serves_nothing(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    assert proxy.boot([proxies.apps.network]) is not proxies.installed
    assert proxy.boot([proxies.apps.network]) is False
    assert proxies.driver().boot([]) is False
    state = proxy.observe()
    assert (state.exists, state.running, state.colour, state.record) == (True, True, None, None)
    assert state.version


def test_blue_then_green_is_what_is_observed_recorded_and_answered(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first = first_switch(proxies, proxy)
    state = proxy.observe()
    assert (state.colour, state.record) == (BLUE, first)
    assert proxies.request() == VERSION[BLUE]
    second = to_green(proxies, proxy)
    state = proxy.observe()
    assert (state.colour, state.record) == (GREEN, second)
    assert proxies.request() == VERSION[GREEN]
    answer = proxy.get("/version", "test", 5)
    assert (answer.status, answer.body) == VERSION[GREEN]


def test_and_back_again(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    second = to_green(proxies, proxy)
    back = record(3, GREEN, BLUE, committed=True)
    proxy.switch(back, proxies.apps.upstreams)
    state = proxies.driver().observe()
    assert (state.colour, state.record) == (BLUE, second), "a process that dies here leaves what is taken up"
    proxy.commit(back)
    state = proxies.driver().observe()
    assert (state.colour, state.record) == (BLUE, back)
    assert proxies.request() == VERSION[BLUE]


def test_preparing_changes_nothing_that_is_served(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first = first_switch(proxies, proxy)
    proxy.prepare(proxies.apps.refusing(GREEN), BLUE)
    state = proxies.driver().observe()
    assert (state.colour, state.record) == (BLUE, first)
    assert proxies.request() == VERSION[BLUE]


def test_a_switch_that_is_made_twice_is_made_once(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    second = to_green(proxies, proxy)
    file = proxies.file()
    proxy.switch(second, proxies.apps.upstreams)
    assert proxies.driver().observe().record == second
    assert proxies.file() == file
    assert proxies.request() == VERSION[GREEN]


def test_an_uncommitted_switch_is_seen_by_a_process_that_knows_nothing(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    second = to_green(proxies, proxy)
    seen = proxies.driver().observe()
    assert (seen.colour, seen.record) == (GREEN, second)
    assert seen.record
    assert not seen.record.committed


def test_a_note_stands_in_the_record_and_nothing_is_switched_by_it(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    noted = record(2, BLUE, GREEN)
    proxy.note(noted)
    seen = proxies.driver().observe()
    assert (seen.colour, seen.record) == (BLUE, noted)
    assert proxies.request() == VERSION[BLUE]


def test_a_note_ends_a_trial_that_was_left(proxies: ProxyBench) -> None:
    """As when a run is killed between its switch back and the commit of that."""
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    to_green(proxies, proxy)
    broken = proxies.apps.refusing(BLUE)
    proxy.prepare(broken, GREEN)
    proxy.switch(record(3, GREEN, BLUE, committed=True), broken)
    proxies.driver().note(record(4, BLUE, GREEN))
    assert {proxies.request()[0] for _ in range(2)} == {proxies.refused}


def test_a_commit_stands_in_the_record_and_changes_nothing_that_is_served(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    to_green(proxies, proxy)
    committed = record(2, BLUE, GREEN, committed=True)
    proxy.commit(committed)
    seen = proxies.driver().observe()
    assert (seen.colour, seen.record) == (GREEN, committed)
    assert proxies.request() == VERSION[GREEN]


def test_what_is_at_work_on_the_old_colour_is_counted_until_it_has_ended(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    upload = proxies.upload()
    to_green(proxies, proxy)
    blue = proxies.apps.upstreams[BLUE]
    assert proxies.request() == VERSION[GREEN]
    assert proxy.in_flight(blue) >= 1
    assert proxies.driver().in_flight(blue) >= 1, "a process that comes later counts it too"
    assert upload.finish() == "hello"
    eventually(lambda: proxy.in_flight(blue) == 0, "the old colour is still at work")
    assert proxies.driver().in_flight(blue) == 0


def test_answers_and_errors_are_counted_for_the_colour_in_use(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    before = proxy.counts()
    assert [proxies.request() for _ in range(3)] == [VERSION[BLUE]] * 3
    eventually(lambda: proxy.counts()[BLUE].since(before[BLUE]) == Counts(3, 0), "blue is not counted")
    assert proxy.counts()[GREEN] == before[GREEN]
    _prepare_and_switch(proxy, proxies.apps.refusing(GREEN))
    proxy.commit(record(2, BLUE, GREEN, committed=True))
    before = proxy.counts()
    assert {proxies.request()[0] for _ in range(2)} == {proxies.refused}
    eventually(lambda: proxy.counts()[GREEN].since(before[GREEN]) == Counts(2, 2), "green is not counted")


def test_in_trial_the_old_colour_answers_what_the_new_one_refuses_and_after_the_commit_not(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    broken = proxies.apps.refusing(GREEN)
    proxy.prepare(broken, BLUE)
    proxy.switch(record(2, BLUE, GREEN), broken)
    assert proxy.observe().colour is GREEN
    assert [proxies.request() for _ in range(4)] == [VERSION[BLUE]] * 4
    proxy.commit(record(2, BLUE, GREEN, committed=True))
    assert {proxies.request()[0] for _ in range(2)} == {proxies.refused}


def test_a_switch_back_ends_the_trial(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    to_green(proxies, proxy)
    broken = proxies.apps.refusing(BLUE)
    proxy.prepare(broken, GREEN)
    back = record(3, GREEN, BLUE, committed=True)
    proxy.switch(back, broken)
    proxy.commit(back)
    assert {proxies.request()[0] for _ in range(2)} == {proxies.refused}


def test_a_refused_config_is_not_loaded_and_the_file_from_before_is_back(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    before = proxies.file()
    assert before
    garbage = {**proxies.apps.upstreams, GREEN: (Endpoint("not an address!", 0),)}
    with pytest.raises(Failed, match="refuses"):
        _prepare_and_switch(proxy, garbage)
    assert proxies.file() == before
    assert proxies.request() == VERSION[BLUE]
    assert proxies.driver().observe().colour is BLUE


def _prepare_and_switch(proxy: Proxy, upstreams: dict[Colour, tuple[Endpoint, ...]]) -> None:
    proxy.prepare(upstreams, BLUE)
    proxy.switch(record(2, BLUE, GREEN), upstreams)


def test_a_first_config_that_is_refused_leaves_a_proxy_that_serves_nothing(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    proxy.boot([proxies.apps.network])
    garbage = {**proxies.apps.upstreams, BLUE: (Endpoint("not an address!", 0),)}
    with pytest.raises(Failed, match="refuses"):
        proxy.switch(record(1, None, BLUE), garbage)
    assert proxies.file() == ""
    assert proxies.driver().observe().colour is None


def test_after_a_refusal_the_next_switch_works(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    with pytest.raises(Failed):
        _prepare_and_switch(proxy, {**proxies.apps.upstreams, GREEN: (Endpoint("not an address!", 0),)})
    to_green(proxies, proxy)
    assert proxies.request() == VERSION[GREEN]


def test_what_is_rendered_is_what_then_stands(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    rendered = proxy.render(proxies.apps.upstreams, GREEN)
    to_green(proxies, proxy)
    assert proxies.file() == rendered == proxies.driver().observe().config


def test_a_replica_is_asked_from_the_place_of_the_proxy(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    proxy.boot([proxies.apps.network])
    for colour, endpoint in proxies.apps.endpoints.items():
        answer = proxy.get_from(endpoint, "/version", "test", 5)
        assert (answer.status, answer.body) == VERSION[colour]
        proxy.connect_to(endpoint, 5)
    refusing = proxies.apps.refusing(BLUE)[BLUE][0]
    with pytest.raises(AgentError, match="refused"):
        proxy.get_from(refusing, "/version", "test", 5)
    with pytest.raises(AgentError, match="refused"):
        proxy.connect_to(refusing, 5)


def test_a_connection_is_made_as_clients_make_it(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    with pytest.raises(BluegreenError):
        proxy.connect(5)
    first_switch(proxies, proxy)
    proxy.connect(5)


def test_remove_leaves_nothing_and_may_be_repeated(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    assert proxies.left()
    assert proxy.remove()
    assert proxies.left() == []
    assert proxy.remove() == []
    assert proxies.driver().observe().exists is proxies.installed


def test_after_remove_it_starts_from_nothing(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    to_green(proxies, proxy)
    proxy.remove()
    again = proxies.driver()
    assert again.boot([proxies.apps.network]) is not proxies.installed
    state = again.observe()
    assert (state.colour, state.record) == (None, None)


# What only a container has

images = pytest.mark.parametrize("image", [NGINX[0], HAPROXY[1]])


def made(bench: ContainerBench) -> Any:
    return bench.client.containers.get(f"bluegreen-proxy-127.0.0.1-{bench.port}")


@images
def test_a_container_of_a_proxy_may_do_no_more_than_it_needs(image: str, request: pytest.FixtureRequest) -> None:
    bench = ContainerBench(image, "live", request)
    first_switch(bench, bench.driver())
    container = made(bench)
    host = container.attrs["HostConfig"]
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (host["ReadonlyRootfs"], host["PidsLimit"]) == (True, 1024)
    look = "cat /proc/1/status; stat -c 'owner %u' /bluegreen /bluegreen/services /bluegreen/state; touch /etc/x"
    seen = executed(container, ["sh", "-c", look]).output.decode()
    status = dict(line.split(":\t", 1) for line in seen.splitlines() if ":\t" in line)
    assert status["Uid"].split() == ["65532"] * 4
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert seen.count("owner 65532\n") == 3
    assert "Read-only file system" in seen
    # A body that is too large for memory is kept on the volume, where there is room.
    assert bench.post("x" * 3_000_000) == (200, 3_000_000)


@images
def test_it_runs_as_root_with_a_writable_root_where_the_settings_want_that(
    image: str, request: pytest.FixtureRequest
) -> None:
    bench = ContainerBench(image, "reload", request)
    proxy = bench.settings.proxy.model_copy(update={"user": "root", "read_only": False})
    bench.settings = bench.settings.model_copy(update={"proxy": proxy})
    driver = bench.driver()
    first_switch(bench, driver)
    to_green(bench, driver)
    assert bench.request() == VERSION[GREEN]
    host = made(bench).attrs["HostConfig"]
    assert host["ReadonlyRootfs"] is False
    assert len(host["CapAdd"]) == 6
    assert bench.post("x" * 3_000_000) == (200, 3_000_000)


@images
def test_what_a_killed_run_left_before_the_files_were_in_place_is_taken_up(
    image: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = ContainerBench(image, "live", request)

    class Killed(Exception):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(ProxyContainer, "_fill", die)
        with pytest.raises(Killed):
            bench.driver().boot([bench.apps.network])
    assert made(bench).status == "created"
    first_switch(bench, bench.driver())
    assert bench.request() == VERSION[BLUE]


@images
def test_one_that_was_made_before_proxies_were_confined_works_on_as_it_is(
    image: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = ContainerBench(image, "live", request)

    def create(place: ProxyContainer, command: list[str], published: object) -> Any:
        labels = {"bluegreen.proxy": place.kind, "bluegreen.mode": "http"}
        bench.client.networks.create(place._network, labels=labels)
        ports = {"8080/tcp": ("127.0.0.1", bench.port)}
        volumes = {place.name: {"bind": "/bluegreen", "mode": "rw"}}
        options = {"name": place.name, "labels": labels, "network": place._network, "ports": ports, "volumes": volumes}
        return bench.client.containers.create(image, command, user="0", restart_policy={"Name": "always"}, **options)

    def fill(place: ProxyContainer, files: dict[str, str], user: str) -> None:
        assert user == "0"
        there = {path: text.encode() for path, text in files.items() if not path.startswith("http/")}
        made(bench).put_archive("/bluegreen", archive.pack(there, mode=0o644))

    with monkeypatch.context() as patched:
        patched.setattr(ProxyContainer, "_create", create)
        patched.setattr(ProxyContainer, "_fill", fill)
        first_switch(bench, bench.driver())
    proxy = bench.driver()
    to_green(bench, proxy)
    proxy.commit(record(2, BLUE, GREEN, committed=True))
    assert bench.request() == VERSION[GREEN]
    proxy.reload()
    assert bench.post("x" * 3_000_000) == (200, 3_000_000)
    made(bench).restart(timeout=5)
    eventually(lambda: proxies_answer(bench) == VERSION[GREEN], "it does not come back")


def proxies_answer(bench: ContainerBench) -> tuple[int, str]:
    with contextlib.suppress(httpx.TransportError):
        return bench.request()
    return 0, ""


def test_what_a_person_edits_is_shown_and_what_bluegreen_writes_is_no_edit(proxies: ProxyBench) -> None:
    proxy = proxies.driver()
    first_switch(proxies, proxy)
    assert proxies.driver().observe().edits == ""
    proxies.edit()
    state = proxies.driver().observe()
    assert [line for line in state.edits.splitlines() if re.match(r"[+-](?![+-])", line)] == [f"+{EDIT}"]
    assert state.kept_in
    to_green(proxies, proxy)
    assert proxies.driver().observe().edits == ""
