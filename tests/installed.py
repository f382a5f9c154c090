"""An nginx or HAProxy as a person installs it on a host, which a container plays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import docker
from harness import PREFIX, eventually, executed

from bluegreen.proxies.host import ProxyHost
from bluegreen.runtimes.connect import LOCAL
from bluegreen.settings import Settings

NGINX = """
mkdir -p /etc/nginx/conf.d /etc/nginx/streams.d
{streams}
exec nginx -g "daemon off;"
"""
HAPROXY = """
mkdir -p /etc/haproxy/conf.d /run/haproxy /var/lib/bluegreen/services
cat >/etc/haproxy/haproxy.cfg <<END
global
    stats socket /run/haproxy/admin.sock mode 600 level admin expose-fd listeners
    hard-stop-after 60s
frontend persons-own
    mode http
    timeout client 60s
    bind :8090
    http-request return status 200 content-type text/plain string own
END
exec haproxy -W -p /run/haproxy.pid -f /etc/haproxy/haproxy.cfg -f {directory}
"""


class PlayedHost(ProxyHost):
    """The proxy on a host that a container plays, which is entered where the real one is this machine."""

    def __init__(self, settings: Settings, machine: Any) -> None:
        super().__init__(settings, LOCAL)
        self._machine = machine

    def _here(self, command: Sequence[str]) -> list[str]:
        return ["docker", "exec", "-i", self._machine.name, *command]


@contextlib.contextmanager
def installed(
    engine: docker.DockerClient,
    name: str,
    image: str,
    ports: Sequence[int],
    *,
    whole: bool = False,
    streams: bool = False,
) -> Iterator[Any]:
    """A container in which the proxy runs as on a host, with these ports published on the loopback address.

    With `whole`, HAProxy has been told to read the directory that goes with `proxy.host.whole`; with `streams`, nginx
    the one of its stream module.
    """
    directory = "/var/lib/bluegreen/services" if whole else "/etc/haproxy/conf.d"
    include = "echo 'stream { include /etc/nginx/streams.d/*.conf; }' >>/etc/nginx/nginx.conf" if streams else ""
    start = NGINX if image.startswith("nginx") else HAPROXY
    start = start.replace("{directory}", directory).replace("{streams}", include)
    machine = engine.containers.run(
        image,
        ["-ec", start],
        entrypoint=["sh"],
        name=name,
        detach=True,
        user="0",
        ports={f"{port}/tcp": ("127.0.0.1", port) for port in ports},
        labels={"bluegreen.test": PREFIX},
    )
    pid_file = f"/run/{image.partition(':')[0]}.pid"
    try:
        eventually(lambda: executed(machine, ["test", "-s", pid_file]).exit_code == 0, f"{image} runs")
        yield machine
    finally:
        machine.remove(force=True, v=True)


def files(machine: Any, *directories: str) -> dict[str, tuple[str, str]]:
    """The mode and the content of each file with something in it below these directories of the host."""
    listed = executed(machine, ["grep", "-rl", "", *directories], stderr=False).output.decode().split()
    return {path: (run(machine, "stat", "-c", "%a", path).strip(), run(machine, "cat", path)) for path in listed}


def run(machine: Any, *command: str) -> str:
    """What a command on the host prints."""
    code, raw = executed(machine, list(command))
    assert code == 0, raw.decode()
    return raw.decode()
