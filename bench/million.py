"""1,000,000 requests over 100 switches, for each way to switch that promises that none fails; a part of `make soak`.

    python bench/million.py [--requests N] [--switches N] [--rate N] [--only 'PROXY WAY,...']

A switch is a whole deploy, with the old container drained and removed. A line a way goes to stdout and to the file that
BLUEGREEN_SOAK_LOG names (docs/soak.txt unless it is set). Exit status 1: a request failed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import time
from pathlib import Path

from figures import number
from ground import HAPROXY, NGINX, REPOSITORY, Ground, Service, archive, ground
from load import Load
from switches import Seen

WAYS = tuple(f"{proxy} {way}" for proxy in (NGINX, HAPROXY) for way in ("live", "reload"))
"""nginx before 1.27.4 closes idle connections as it reloads, and promises nothing there."""

APP = "bluegreen-test/bench-tiny"
BASE = "python:3.13-alpine"
ROUNDS = 10
"""A load ends by itself after half an hour; so there are several, one after the other."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Count what fails over many switches.")
    parser.add_argument("--requests", type=int, default=1_000_000, help="of each way, at least [default: %(default)s]")
    parser.add_argument("--switches", type=int, default=100, help="of each way, at least [default: %(default)s]")
    parser.add_argument("--rate", type=float, default=1200, help="requests/s, at most [default: %(default)s]")
    parser.add_argument("--only", default=",".join(WAYS), help="[default: %(default)s]")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it leaves nothing behind
    lost = 0
    with ground(quick=False) as place:
        for release in ("v1", "v2"):
            build(place, release)
        for way in given.only.split(","):
            seen = switched(place, way, given.requests, given.switches, given.rate)
            lost += seen.failed
    return 1 if lost else 0


def build(place: Ground, release: str) -> None:
    command = 'CMD ["python3", "/tiny_app.py"]'
    recipe = [f"FROM {BASE}", f"ENV RELEASE={release}", "COPY tiny_app.py /", "USER 10001", command, ""]
    files = {"Dockerfile": "\n".join(recipe), "tiny_app.py": Path(__file__).with_name("tiny_app.py").read_text()}
    place.client.images.build(fileobj=archive(files), custom_context=True, tag=f"{APP}:{release}", rm=True)


def switched(place: Ground, way: str, requests: int, switches: int, rate: float) -> Seen:
    """What was seen of so many deploys under load. Raises RuntimeError if one did not succeed."""
    seen, start, releases = Seen(), time.monotonic(), itertools.cycle(("v2", "v1"))
    proxy, _, mode = way.partition(" ")
    with place.service(proxy, mode, app=APP) as service:
        service.command_of("deploy", "v1")
        for _ in range(ROUNDS):
            a_round(service, seen, -(-switches // ROUNDS), -(-requests // ROUNDS), rate, releases)
            say(f"  {way}: {number(seen.failed)} of {number(seen.requests)} failed, {seen.switches} switches")
    how = ", ".join(f"{what} {n}" for what, n in sorted(seen.outcomes.items())) or "none"
    log(
        f"{time.strftime('%Y-%m-%d', time.gmtime())} {way}: {seen.switches} switches, {number(seen.requests)} requests,"
        f" {number(seen.failed)} failed ({how}), in {time.monotonic() - start:,.0f} s"
    )
    return seen


def a_round(
    service: Service, seen: Seen, switches: int, requests: int, rate: float, releases: itertools.cycle[str]
) -> None:
    """The switches, spread evenly over the requests."""
    each = -(-requests // switches)
    with Load(service.url, keepalive=50, fresh=10, slow=6, stream=2, rate=rate, seconds=1800) as load:
        load.wait_for_requests(100)
        for done in range(1, switches + 1):
            receipt = service.command_of("deploy", next(releases)).receipt
            seen.switches += 1
            seen.failed += receipt["requests"]["failed"]
            load.wait_for_requests(done * each, timeout=600)
        seen.add_load(load.stop())


def log(line: str) -> None:
    say(line)
    with Path(os.environ.get("BLUEGREEN_SOAK_LOG", REPOSITORY / "docs" / "soak.txt")).open("a") as out:
        out.write(f"{line}\n")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
