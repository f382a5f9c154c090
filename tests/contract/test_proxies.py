"""What every proxy driver does, on every driver."""

from __future__ import annotations

import pytest
from benches import ProxyBench
from harness import eventually

from bluegreen.errors import BluegreenError, Failed
from bluegreen.model import Colour, Endpoint, SwitchRecord
from bluegreen.proxies import Proxy
from bluegreen.proxies.agent import AgentError

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
