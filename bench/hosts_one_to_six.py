"""A deploy on six hosts against one on one of them: time and the command's memory."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from figures import Section, at_most, in_turn, median, number, ratio, spread
from ground import LABELS, NGINX, QUICK, REPOSITORY, Ground, Ran

sys.path.insert(0, os.fspath(REPOSITORY / "tests" / "integration"))

from hosts import Host, running_host

MOST = 6
TIME, MEMORY = 1.5, 1.3
"""How many times that of one host six may take."""


def several_hosts(ground: Ground) -> Section:
    """A deploy on one host and on six, in turn, and the bare calls to start and end a container on each at once."""
    count, turns = ground.pick(MOST, 2), ground.pick(3, 1)
    section = Section(
        "Several hosts",
        f"A deploy on one host and on {count}, in turn, with an app that costs next to nothing. Each host is a"
        " container on this machine with an engine of its own, reached over tcp, and all share its cores. What the"
        " machine itself makes of that is told by the bare calls, in turn with them: a container is created, started,"
        " stopped and removed on every host at once.",
        ["hosts", "runs", "run, s", "against one", "memory, MB", "against one"],
    )
    images = [NGINX, f"{QUICK}:v1", f"{QUICK}:v2"]
    with contextlib.ExitStack() as stack:
        hosts = []
        for number_ in range(count):
            directory = ground.directory / f"host-{number_}"
            directory.mkdir()
            hosts.append(stack.enter_context(running_host(ground.client, directory, images=images)))
        jobs = {str(n): _job(ground, stack, hosts[:n]) for n in (1, count)}
        clients = [stack.enter_context(host.engine()) for host in hosts]
        bare: dict[str, list[float]] = {"1": [], str(count): []}

        def measured(n: int) -> Callable[[], Ran]:
            def job() -> Ran:
                bare[str(n)].append(_bare(clients[:n]))
                return jobs[str(n)]()

            return job

        found = in_turn(turns, {str(n): measured(n) for n in (1, count)})
    one, all_ = found["1"], found[str(count)]
    seconds = {name: [ran.receipt["seconds"] for ran in runs] for name, runs in found.items()}
    memory = {name: [ran.megabytes for ran in runs] for name, runs in found.items()}
    for name in found:
        section.rows.append(
            [
                name,
                str(len(found[name])),
                spread(seconds[name]),
                f"{ratio(seconds[name], seconds['1']):.2f}",
                spread(memory[name]),
                f"{ratio(memory[name], memory['1']):.2f}",
            ]
        )
    for name, values in bare.items():
        row = [f"{name}, bare calls", str(len(values)), spread(values), f"{ratio(values, bare['1']):.2f}", "", ""]
        section.rows.append(row)
    slowest = max(_steps(all_), key=lambda step: _steps(all_)[step] - _steps(one).get(step, 0.0))
    section.targets += [
        at_most(
            f"time on {count} hosts against one",
            ratio(seconds[str(count)], seconds["1"]),
            TIME,
            reason=f"all hosts are on this machine's {os.cpu_count()} cores, where {count} engines start and end"
            f" containers at once: the bare calls to start and end one on each at once take"
            f" {ratio(bare[str(count)], bare['1']):.2f} times those on one. Most of the difference is in the step"
            f" {slowest}: {number(_steps(one).get(slowest, 0.0))} s on one host, {number(_steps(all_)[slowest])} s on"
            f" {count}.",
        ),
        at_most(f"memory of the command, {count} hosts against one", ratio(memory[str(count)], memory["1"]), MEMORY),
        at_most(f"memory of the command, {count} hosts", max(memory[str(count)]), 80, unit=" MB"),
    ]
    return section


def _steps(runs: Sequence[Ran]) -> dict[str, float]:
    """How many seconds each step took until its last host was done, as the median of the runs."""
    names = {step["step"] for ran in runs for step in ran.receipt["steps"]}
    return {
        name: median(
            max((step["seconds"] for step in ran.receipt["steps"] if step["step"] == name), default=0.0) for ran in runs
        )
        for name in names
    }


def _job(ground: Ground, stack: contextlib.ExitStack, hosts: Sequence[Host]) -> Callable[[], Ran]:
    """Deploys one release after the other on these hosts, where one is live already."""
    engines = [f'{{ engine = "{host.tcp}", name = "host{n}", tls = false }}' for n, host in enumerate(hosts, 1)]
    service = stack.enter_context(ground.service(NGINX, "live", app=QUICK))
    file = service.directory / "bluegreen.toml"
    text = file.read_text().replace(f'"127.0.0.1:{service.port}"', f'"0.0.0.0:{service.port}"', 1)
    url = f'url = "http://{hosts[0].address}:{service.port}"'
    text = text.replace("[proxy]\n", f"[proxy]\n{url}\n").replace(
        "\n[image]", f"\nhosts = [{', '.join(engines)}]\n[image]"
    )
    # Not where this machine's engine takes the hosts' own addresses from.
    file.write_text(f'{text}[network]\npool = "100.64.0.0/16"\n')
    service.command_of("deploy", "v1")
    live = "v1"

    def job() -> Ran:
        nonlocal live
        live = "v2" if live == "v1" else "v1"
        return service.command_of("deploy", live)

    return job


def _bare(clients: Sequence[Any]) -> float:
    """Seconds in which a container was started and ended on each of these engines, all at once."""

    def one(client: Any) -> None:
        made = client.containers.create(f"{QUICK}:v1", labels=LABELS)
        made.start()
        made.kill()  # not `stop`: a container that is not up yet does not hear it, and waits until it is killed
        made.wait()
        made.remove(v=True)

    start = time.monotonic()
    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(one, clients))
    return time.monotonic() - start
