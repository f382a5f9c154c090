"""What a proxy that a person has installed may rely on: its own files, and that nothing untested is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from benches import HostBench
from harness import FULL, HAPROXY, NGINX, eventually
from test_proxies import BLUE, GREEN, VERSION, first_switch, record, to_green

from bluegreen.errors import Failed
from bluegreen.model import Counts, Endpoint

COMMAND = "/usr/local/bin/persons-reload"

Installed = Callable[..., HostBench]


@pytest.fixture(params=[*NGINX, *HAPROXY] if FULL else [NGINX[1], HAPROXY[0]])
def installed(request: pytest.FixtureRequest) -> Installed:
    """Makes a proxy of a person's own, switched by reload, with these settings of `[proxy.host]`."""
    return partial(HostBench, request.param, "reload", request)


def test_nothing_of_the_persons_own_is_edited(installed: Installed) -> None:
    bench = installed()
    before = bench.persons_files()
    assert before.count("\n") >= 1
    proxy = bench.driver()
    first_switch(bench, proxy)
    to_green(bench, proxy)
    assert bench.persons_files() == before
    proxy.remove()
    assert bench.persons_files() == before


def test_a_persons_own_log_has_the_service_too_while_its_answers_are_counted(request: pytest.FixtureRequest) -> None:
    bench = HostBench(NGINX[1], "live", request)
    proxy = bench.driver()
    first_switch(bench, proxy)
    before = proxy.counts()[BLUE]
    assert bench.request("/version?for=both") == VERSION[BLUE]
    eventually(lambda: proxy.counts()[BLUE].since(before) == Counts(1, 0), "blue is not counted")
    eventually(lambda: b"/version?for=both" in bench.machine.logs(), "it does not stand in the log that a person has")


def test_a_file_that_the_proxy_refuses_is_not_loaded_and_the_one_from_before_is_back_byte_for_byte(
    installed: Installed,
) -> None:
    bench = installed()
    proxy = bench.driver()
    first_switch(bench, proxy)
    before, processes = bench.file(), bench.processes()
    with pytest.raises(Failed, match="refuses the new config, and the old one is back"):
        proxy.switch(record(2, BLUE, GREEN), {**bench.apps.upstreams, GREEN: (Endpoint("not an address!", 0),)})
    assert bench.file() == before
    assert bench.processes() == processes, "nothing was reloaded"
    assert bench.request() == VERSION[BLUE]


def test_a_reload_uses_the_command_of_the_settings(installed: Installed) -> None:
    bench = installed(reload=[COMMAND, "now"])
    own = {"nginx": "nginx -s reload", "haproxy": "kill -USR2 1"}[bench.kind]
    script = f"#!/bin/sh\\necho $1 >>/tmp/asked\\n{own}\\n"
    bench.run("sh", "-c", f"mkdir -p /usr/local/bin && printf '{script}' >{COMMAND} && chmod +x {COMMAND}")
    proxy = bench.driver()
    first_switch(bench, proxy)
    asked = bench.run("cat", "/tmp/asked").split()
    assert asked
    assert set(asked) == {"now"}
    proxy.reload()
    assert bench.run("cat", "/tmp/asked").split() == [*asked, "now"]
    assert bench.request() == VERSION[BLUE]


def test_a_reload_command_that_fails_leaves_the_file_from_before(installed: Installed) -> None:
    bench = installed(reload=["/bin/false"])
    with pytest.raises(Failed, match="does not reload"):
        first_switch(bench, bench.driver())
    assert bench.file() == ""
    assert bench.driver().observe().colour is None


def test_a_reload_by_hand_is_tested_first(installed: Installed) -> None:
    bench = installed()
    proxy = bench.driver()
    first_switch(bench, proxy)
    directory = f"/etc/{bench.kind}/conf.d"
    suffix = {"nginx": "conf", "haproxy": "cfg"}[bench.kind]
    bench.run("sh", "-c", f"echo nonsense >{directory}/persons.{suffix}")
    processes = bench.processes()
    with pytest.raises(Failed, match="refuses its config, and nothing was loaded"):
        proxy.reload()
    assert bench.processes() == processes
    bench.run("rm", f"{directory}/persons.{suffix}")
    proxy.reload()
    assert bench.processes() != processes
    assert bench.request() == VERSION[BLUE]


def test_the_main_file_may_be_bluegreens_own(installed: Installed) -> None:
    bench = installed(whole=True)
    proxy = bench.driver()
    first_switch(bench, proxy)
    to_green(bench, proxy)
    assert bench.request() == VERSION[GREEN]
