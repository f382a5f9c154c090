"""A deploy in a swarm of three nodes, each with an HAProxy, over the number of replicas: the table of docs/scaling.md.

    python bench/replicas.py [--replicas 3,30,100]

The nodes are containers of this machine, each with an engine of its own, and are gone afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, os.fspath(Path(__file__).parents[1]))
sys.path.insert(0, os.fspath(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, os.fspath(Path(__file__).parents[1] / "tests" / "integration"))

import docker
from harness import IMAGES, PREFIX, TestService, executed
from hosts import NAMES, Host, three_managers, write_settings
from load import Load

from bluegreen.follow import upstreams
from bluegreen.service import Service
from bluegreen.settings import load

PROXY = "haproxy:3.2"
STEPS = ("start", "probe", "switch", "retire")
CLIENTS = {"keepalive": 3, "fresh": 3, "slow": 0, "stream": 0, "post": 0, "rate": 60}
"""Few, so that what is measured is the proxies and not the clients."""

PATIENCE = 1200
"""Seconds that a command may take."""


@contextlib.contextmanager
def swarm(directory: Path) -> Iterator[list[Host]]:
    """Three hosts that are one swarm, of which each is a manager."""
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(contextlib.closing(docker.from_env()))
        yield stack.enter_context(three_managers(engine, directory, [PROXY, f"{IMAGES}:v1", f"{IMAGES}:v2"]))


def service(directory: Path, hosts: Sequence[Host]) -> TestService:
    """The service, that has one replica so far."""
    made = TestService(f"{PREFIX}-replicas", directory, 8080)
    write_settings(made, "0.0.0.0:8080", image=PROXY, url=f"http://{hosts[0].address}:8080", subnet="10.77.0.0/22")
    named = zip(NAMES, hosts, strict=True)
    rows = [f'{{ name = "{name}", engine = "{host.tcp}", tls = false }}' for name, host in named]
    file = directory / "bluegreen.toml"
    text = file.read_text().replace("[app]\n", '[app]\nreplicas = 1\nstop_timeout = "5s"\n')
    text += '\n[swarm]\nstart_timeout = "10m"\n[witness]\ntimeout = "20s"\n'
    file.write_text(f'hosts = [{", ".join(rows)}]\nruntime = "swarm"\n{text}')
    return made


def measure(made: TestService, hosts: Sequence[Host], release: str, replicas: int) -> list[str]:
    """A row of the table: a deploy of the release from a live colour of as many replicas."""
    file = made.directory / "receipt.json"
    ran = made.run("deploy", release, "--receipt", os.fspath(file), timeout=PATIENCE)
    assert ran.code == 0, ran.text
    receipt = json.loads(file.read_text())
    steps = {name: sum(_whole(receipt, name)) for name in STEPS}
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(Load(f"http://{host.address}:8080", **CLIENTS)) for host in hosts]
        time.sleep(15)
        results = [load.stop() for load in loads]
    checks = [_checks(host, 5) for host in hosts]
    rendered, loaded = config(made)
    p99 = max(each["p99"] for result in results for each in result.latency.values())
    failed = sum(result.failed for result in results) + receipt["requests"]["failed"]
    total = sum(result.total for result in results) + receipt["requests"]["total"]
    return [
        str(replicas),
        *(f"{steps[name]:.1f} s" for name in STEPS),
        f"{receipt['seconds']:.0f} s",
        f"{rendered:.2f} s, {loaded:.1f} s",
        f"{max(checks):.0f}",
        f"{p99:.0f} ms",
        f"{total:,}, {failed}",
    ]


def config(made: TestService) -> tuple[float, float]:
    """Seconds until the proxies' files are rendered, and until all three proxies have tested and loaded them."""
    settings = load(made.directory / "bluegreen.toml")
    with Service.open(settings) as opened:
        now, live = upstreams(settings, opened.runtime), opened.proxy.observe().colour
        assert live
        opened.proxy.render(now, live)  # once before, with what is loaded at the first time
        begun = time.monotonic()
        opened.proxy.render(now, live)
        rendered = time.monotonic() - begun
        begun = time.monotonic()
        opened.proxy.reload()
        return rendered, time.monotonic() - begun


def _whole(receipt: dict[str, Any], name: str) -> Iterator[float]:
    for step in receipt["steps"]:
        if step["step"] == name and step["host"] not in NAMES:
            yield step["seconds"]


def _proxy(client: docker.DockerClient) -> Any:
    [found] = client.containers.list(filters={"name": "bluegreen-proxy"})
    return found


def _checks(host: Host, seconds: float) -> float:
    """How many checks a second the host's proxy makes: by what the kernel counts of connections that it opens."""

    def opened() -> int:
        with host.engine() as client:
            text = executed(_proxy(client), ["cat", "/proc/net/snmp"]).output.decode()
        names, values = (line.split() for line in text.splitlines() if line.startswith("Tcp:"))
        return int(values[names.index("ActiveOpens")])

    before, begun = opened(), time.monotonic()
    time.sleep(seconds)
    return (opened() - before) / (time.monotonic() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", default="3,30,100")
    arguments = parser.parse_args()
    columns = [*STEPS, "whole deploy", "files rendered, loaded", "checks/s", "p99", "requests, failed"]
    with tempfile.TemporaryDirectory() as directory, swarm(Path(directory)) as hosts:
        (mine := Path(directory) / "command").mkdir()
        made = service(mine, hosts)
        made.ok("deploy", "v1", "--no-witness")
        print(f"| replicas | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}", flush=True)
        for count in map(int, arguments.replicas.split(",")):
            file = mine / "bluegreen.toml"
            file.write_text(re.sub(r"^replicas = \d+", f"replicas = {count}", file.read_text(), flags=re.MULTILINE))
            made.run("scale", str(count), timeout=PATIENCE)
            live = made.live()
            row = measure(made, hosts, "v2" if live == "v1" else "v1", count)
            print(f"| {' | '.join(row)} |", flush=True)
        made.ok("down", "--yes")


if __name__ == "__main__":
    main()
