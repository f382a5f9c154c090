"""What there is when nobody deploys: requests/s through the proxy, the first byte of a stream, the app's image."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bare import bare
from figures import Bar, Plot, Section, Target, in_turn, median, number, ratio, spread
from ground import APP, HAPROXY, NGINX, QUICK, REPOSITORY, Ground, Service, archive, wait_for
from said import requests_a_second

STREAM = 2.0
"""Seconds that the stream lasts."""

NGINX_TUNED = """worker_processes auto;
error_log stderr warn;
pid /tmp/nginx.pid;
events {{ worker_connections 16384; multi_accept on; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_requests 100000;
    upstream app {{ server {app}; keepalive 128; keepalive_requests 100000; }}
    server {{
        listen 8080 reuseport;
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"""
HAPROXY_TUNED = """global
    maxconn 4000
defaults
    mode http
    option forwardfor
    http-reuse always
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend clients
    bind :8080
    http-request set-header X-Real-IP %[src]
    http-request set-header X-Forwarded-Proto http
    default_backend app
backend app
    server app {app}
"""


@dataclass(frozen=True)
class Rate:
    """What a proxy did for wrk."""

    a_second: float
    """Requests."""
    microseconds: float
    """CPU time that its container took for each; 0 without a container."""


BEYOND = {
    NGINX: "Counted (callgrind, strace; nginx 1.30 with this app), it is 25.0k instructions of its own, not 20.2k, and"
    " 9 system calls against 7. The two ask for the files that tell which colour is live and whether a switch is on"
    " trial; of the instructions 1.8k find the upstream by that, 0.7k tell WebSockets apart, 0.7k are the headers that"
    " these need, and 0.5k is X-Forwarded-Host. A switch that closes no connection costs that much"
    " (`docs/switching.md`).",
    HAPROXY: "Most of that is the copy of each GET, of two whole buffers of 16 kB, by which it can be sent again if a"
    " connection that was kept open turns out to be closed (`retry-on`): counted (callgrind, HAProxy 3.2), and with"
    " that line alone left out of the file the CPU time was 1.04x where it was 1.18x with it (9 turns of 1 s of wrk on"
    " each). With the backend written down in place of its look-ups by host and by what is live it was 1.10x.",
}
"""What the shipped config does beyond the one by hand, at each request."""


@contextlib.contextmanager
def tuned(ground: Ground, proxy: str, network: str, app: str) -> Iterator[tuple[str, str]]:
    """The same proxy with a config by hand, in front of the same container: its URL and its container's name."""
    port = ground.port()
    nginx = proxy.startswith("nginx")
    file = "etc/nginx/nginx.conf" if nginx else "usr/local/etc/haproxy/haproxy.cfg"
    made = ground.client.containers.create(
        proxy,
        name=ground.name("tuned"),
        network=network,
        ports={"8080/tcp": ("127.0.0.1", port)},
        labels={"bluegreen.test": "bench"},
    )
    try:
        made.put_archive("/", archive({file: (NGINX_TUNED if nginx else HAPROXY_TUNED).format(app=app)}))
        made.start()
        wait_for(f"http://127.0.0.1:{port}/version")
        yield f"http://127.0.0.1:{port}", made.name
    finally:
        made.remove(force=True, v=True)


def wrk(client: Any, url: str, seconds: int, container: str = "") -> Rate:
    """What wrk gets there, of the proxy in this container. Raises RuntimeError if any was not answered with 2xx."""
    before = _cpu(client, container) if container else 0
    said = client.containers.run(
        "bluegreen-lab/wrk",
        ["-t2", "-c64", f"-d{seconds}s", f"{url}/version"],
        network_mode="host",
        remove=True,
        labels={"bluegreen.test": "bench"},
    ).decode()
    used = _cpu(client, container) - before if container else 0
    rate, count = requests_a_second(said)
    return Rate(rate, used / count / 1000)


def _cpu(client: Any, container: str) -> int:
    """The nanoseconds of CPU time that a container has had."""
    found = client.api.stats(container, stream=False, one_shot=True)
    return int(found["cpu_stats"]["cpu_usage"]["total_usage"])


def throughput(ground: Ground) -> Section:
    """Requests/s of the shipped configs and of the same proxies tuned by hand, in turn."""
    seconds, turns = 1, ground.pick(15, 3)
    section = Section(
        "Steady state",
        "Requests/s that wrk (2 threads, 64 connections) gets from an nginx with a constant answer, in turn: directly,"
        " through the proxy as bluegreen configures it, and through the same proxy, in a container too, tuned by hand"
        " for this app alone, with the usual headers. wrk, proxy and app share the cores. Beside it, the CPU time that"
        " the proxy's container takes for a request, which depends less on what else the machine does.",
        ["", "requests/s", "of direct", "against tuned by hand", "CPU, µs a request", "against tuned by hand"],
    )
    bars = []
    with contextlib.ExitStack() as stack:
        jobs: dict[str, Callable[[], Rate]] = {}
        for proxy in (NGINX, HAPROXY):
            service: Service = stack.enter_context(ground.service(proxy, "live", app=QUICK))
            service.command_of("deploy", "v1")
            calls = bare(ground.client, service, proxy.partition(":")[0], QUICK)
            app = f"{calls.addresses[calls.live]}:9000"
            url, by_hand = stack.enter_context(tuned(ground, proxy, f"bluegreen-net-{service.name}", app))
            if not jobs:
                jobs["direct"] = lambda app=app: wrk(ground.client, f"http://{app}", seconds)
            ours = (service.url, calls.proxy)
            for whose, (at, container) in {"bluegreen's": ours, "tuned by hand": (url, by_hand)}.items():
                jobs[f"{proxy}, {whose}"] = lambda at=at, container=container: wrk(
                    ground.client, at, seconds, container
                )
        found = in_turn(turns, jobs)
    for name, rates in found.items():
        proxy = name.partition(",")[0]
        values, used = [each.a_second for each in rates], [each.microseconds for each in rates]
        row = [name, spread(values), f"{ratio(values, [each.a_second for each in found['direct']]):.2f}"]
        bars.append(Bar(name, tuple(values), name.endswith("bluegreen's")))
        if not name.endswith("bluegreen's"):
            section.rows.append([*row, "", spread(used) if any(used) else "", ""])
            continue
        theirs = found[f"{proxy}, tuned by hand"]
        against = ratio(values, [each.a_second for each in theirs])
        work = ratio(used, [each.microseconds for each in theirs])
        section.rows.append([*row, f"{against:.2f}", spread(used), f"{work:.2f}"])
        section.targets.append(
            Target(
                f"{proxy}: requests/s of the shipped config against tuned by hand",
                "at least 95 %",
                f"{100 * against:.0f} %",
                against >= 0.95,
                f"a request takes {work:.2f}x the proxy's CPU time. {BEYOND[proxy]}",
            )
        )
    section.plots.append(Plot("steady.svg", "Requests/s through the proxy", "requests/s", tuple(bars)))
    return section


def stream(host: str, port: int) -> tuple[float, float]:
    """Milliseconds until the first byte of the body of a stream, and until its end."""
    with socket.create_connection((host, port), 30) as connection:
        start = time.monotonic()
        connection.sendall(
            f"GET /stream?seconds={STREAM:g} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        seen = b""
        first = None
        while piece := connection.recv(65536):
            seen += piece
            if first is None and seen.partition(b"\r\n\r\n")[2]:
                first = time.monotonic()
        if first is None or not seen.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"no stream: {seen[:80]!r}")
        return (first - start) * 1000, (time.monotonic() - start) * 1000


def first_byte(ground: Ground) -> Section:
    """The first byte of a stream through the proxy, and directly, in turn."""
    turns = ground.pick(7, 1)
    section = Section(
        "The first byte of a stream",
        f"A stream of {STREAM:g} s, of which the app sends a line every 0.1 s: milliseconds until the first byte of the"
        " body, directly and through the proxy, in turn. A proxy that buffers passes it when the stream is over.",
        ["", "first byte, ms", "whole, ms"],
    )
    with contextlib.ExitStack() as stack:
        jobs: dict[str, Callable[[], tuple[float, float]]] = {}
        for proxy in (NGINX, HAPROXY):
            service = stack.enter_context(ground.service(proxy, "live"))
            service.command_of("deploy", "v1")
            if not jobs:
                calls = bare(ground.client, service, proxy.partition(":")[0], APP)
                jobs["direct"] = lambda address=calls.addresses[calls.live]: stream(address, 9000)
            jobs[f"{proxy}, bluegreen's"] = lambda port=service.port: stream("127.0.0.1", port)
        found = in_turn(turns, jobs)
    for name, values in found.items():
        section.rows.append([name, spread(first for first, _ in values), spread(end for _, end in values)])
        if name == "direct":
            continue
        added = median(first for first, _ in values) - median(first for first, _ in found["direct"])
        part = 100 * added / (STREAM * 1000)
        section.targets.append(
            Target(
                f"{name.partition(',')[0]}: first byte of a stream",
                "not delayed: by less than 1 % of the stream",
                f"{number(added)} ms later than directly, {part:.1f} %",
                part < 1,
            )
        )
    return section


def image(ground: Ground) -> Section:
    """The size of the app's image, and the layers that a rebuild after a change of one line makes anew."""
    context = ground.directory / "app"
    shutil.copytree(REPOSITORY / "app", context, ignore=shutil.ignore_patterns("__pycache__"))
    tag = f"{APP}:rebuilt"

    def build() -> tuple[list[str], float]:
        made, _ = ground.client.images.build(path=os.fspath(context), tag=tag, buildargs={"RELEASE": "v1"}, rm=True)
        return made.attrs["RootFS"]["Layers"], made.attrs["Size"] / 1e6

    before, size = build()
    source = context / "server.py"
    source.write_text(source.read_text().replace('return text("ok\\n")', 'return text("fine\\n")'))
    after, _ = build()
    ground.client.images.remove(tag)
    kept = sum(old == new for old, new in zip(before, after, strict=False))
    section = Section(
        "The app's image",
        "Built from `app/` on the base image that this engine has; then one line of `server.py` is changed, and it is"
        " built again for the same release.",
        ["", ""],
        [["size, MB", number(size)], ["layers", str(len(after))], ["layers of the rebuild that were there", str(kept)]],
    )
    section.targets.append(Target("size of the app's image", "at most 45 MB", f"{number(size)} MB", size <= 45))
    new = len(after) - kept
    section.targets.append(
        Target(
            "layers that a rebuild makes anew",
            "the last one",
            f"{new} of {len(after)}",
            new == 1 and before[:-1] == after[:-1],
        )
    )
    return section
