"""What people use instead, each as they would write it: two releases behind something that is switched by hand."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from ground import APP, HAPROXY, LABELS, Ground, address, archive, wait_for

HERE = Path(__file__).parent
OTHER = {"v1": "v2", "v2": "v1"}


@dataclass
class Peer(ABC):
    """Serves v1 or v2 at `url`."""

    ground: Ground
    name: str
    url: str
    live: str = "v1"

    def switch(self) -> tuple[str, str, float, float]:
        """The other release serves: from, to, and when (wall clock) it was called and had returned."""
        old, new = self.live, OTHER[self.live]
        called = time.time()
        self.flip(old, new)
        self.live = new
        return old, new, called, time.time()

    @abstractmethod
    def flip(self, old: str, new: str) -> None: ...


def run(*command: str, feed: str | None = None, env: dict[str, str] | None = None) -> None:
    """The command has succeeded."""
    done = subprocess.run(
        command, input=feed, text=True, capture_output=True, timeout=120, env={**os.environ, **(env or {})}
    )
    if done.returncode:
        raise RuntimeError(f"{command[:4]} ended with {done.returncode}: {done.stderr or done.stdout}")


# --- Both releases run all the time, and a proxy is pointed at the other.


@contextlib.contextmanager
def pair(ground: Ground, image: str = APP) -> Iterator[tuple[str, dict[str, str]]]:
    """A network with both releases in it: its name, and where each release is."""
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(ground.network())
        apps = {
            release: stack.enter_context(
                ground.container(
                    f"{image}:{release}", network=network, tmpfs={"/tmp": ""}, environment={"PORT": "9000"}
                )
            )
            for release in OTHER
        }
        found = {release: f"{address(app)}:9000" for release, app in apps.items()}
        for place in found.values():
            wait_for(f"http://{place}/version")
        yield network, found


@dataclass
class Proxied(Peer):
    apps: dict[str, str] | None = None
    container: Any = None

    @abstractmethod
    def config(self, release: str) -> str:
        """The proxy's own file, with this release in use."""


NGINX_BY_HAND = """upstream app {{ server {app}; keepalive 64; }}
server {{
    listen 8080;
    location / {{
        proxy_pass http://app;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
    }}
}}
"""


class NginxReload(Proxied):
    """The upstream's file is rewritten, then `nginx -s reload`."""

    def config(self, release: str) -> str:
        assert self.apps
        return NGINX_BY_HAND.format(app=self.apps[release])

    def flip(self, old: str, new: str) -> None:
        write = "cat >/etc/nginx/conf.d/app.conf && nginx -t -q && nginx -s reload"
        run("docker", "exec", "-i", self.container.name, "sh", "-c", write, feed=self.config(new))


HAPROXY_BY_HAND = """global
    maxconn 4000
    stats socket ipv4@0.0.0.0:9999 level admin
    stats socket /tmp/admin.sock level admin expose-fd listeners
defaults
    mode http
    timeout connect 5s
    timeout client 75s
    timeout server 75s
frontend clients
    bind :8080
    default_backend app
backend app
    server v1 {v1}{v1_state}
    server v2 {v2}{v2_state}
"""


class HAProxyReload(Proxied):
    """The config is rewritten, then the master reloads."""

    def config(self, release: str) -> str:
        assert self.apps
        states = {f"{each}_state": "" if each == release else " disabled" for each in OTHER}
        return HAPROXY_BY_HAND.format(**self.apps, **states)

    def flip(self, old: str, new: str) -> None:
        write = "cat >/usr/local/etc/haproxy/haproxy.cfg && haproxy -c -q -f /usr/local/etc/haproxy/haproxy.cfg"
        run("docker", "exec", "-i", self.container.name, "sh", "-c", write, feed=self.config(new))
        run("docker", "kill", "-s", "USR2", self.container.name)


@dataclass
class HAProxyApi(HAProxyReload):
    """Two commands to the runtime API, over TCP: the new server ready, the old one draining."""

    api: int = 0

    def flip(self, old: str, new: str) -> None:
        ask(self.api, f"set server app/{new} state ready; set server app/{old} state drain")


def ask(port: int, command: str) -> str:
    """What HAProxy says to a command."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(command.encode() + b"\n")
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


@dataclass
class Caddy(Proxied):
    """The whole config is posted to `/load`."""

    api: int = 0

    def config(self, release: str) -> str:
        assert self.apps
        route = {"handle": [{"handler": "reverse_proxy", "upstreams": [{"dial": self.apps[release]}]}]}
        server = {"listen": [":8080"], "routes": [route], "automatic_https": {"disable": True}}
        return json.dumps({"admin": {"listen": "0.0.0.0:2019"}, "apps": {"http": {"servers": {"app": server}}}})

    def flip(self, old: str, new: str) -> None:
        answer = httpx.post(
            f"http://127.0.0.1:{self.api}/load",
            content=self.config(new),
            headers={"Content-Type": "application/json"},
            timeout=60,
            trust_env=False,
        )
        answer.raise_for_status()


@contextlib.contextmanager
def proxied(
    ground: Ground,
    kind: type[Proxied],
    name: str,
    image: str,
    file: str,
    command: list[str] | None = None,
    api: int = 0,
) -> Iterator[Proxied]:
    """A proxy in a container, in front of both releases; its config is `file`, its API, if any, at `api`."""
    with pair(ground) as (network, apps):
        port, api_port = ground.port(), ground.port()
        extra = {"api": api_port} if api else {}
        peer = kind(ground, name, f"http://127.0.0.1:{port}", apps=apps, **extra)
        ports = {"8080/tcp": ("127.0.0.1", port)} | ({f"{api}/tcp": ("127.0.0.1", api_port)} if api else {})
        made = ground.client.containers.create(
            image,
            command,
            name=ground.name("p"),
            network=network,
            ports=ports,
            labels=LABELS,
        )
        try:
            directory, _, base = file.rpartition("/")
            made.put_archive("/", archive({f"{directory.strip('/')}/{base}": peer.config("v1")}))
            made.start()
            peer.container = made
            wait_for(peer.url + "/version")
            if kind is HAProxyApi:
                # As the config says after a restart: v1 ready, v2 not.
                ask(api_port, "set server app/v2 state maint")
            yield peer
        finally:
            made.remove(force=True, v=True)


def nginx_reload(ground: Ground, image: str) -> Any:
    name = f"{image} reload, by hand"
    return proxied(ground, NginxReload, name, image, "/etc/nginx/conf.d/app.conf")


def haproxy_reload(ground: Ground) -> Any:
    return proxied(ground, HAProxyReload, f"{HAPROXY} reload, by hand", HAPROXY, "/usr/local/etc/haproxy/haproxy.cfg")


def haproxy_api(ground: Ground) -> Any:
    file = "/usr/local/etc/haproxy/haproxy.cfg"
    return proxied(ground, HAProxyApi, f"{HAPROXY} runtime API, by hand", HAPROXY, file, api=9999)


def caddy(ground: Ground) -> Any:
    return proxied(ground, Caddy, "Caddy 2.6 /load, by hand", "bluegreen-lab/caddy", "/etc/caddy/bench.json", api=2019)


# --- The old release is stopped too.


class Recreate(Peer):
    """`docker compose up` with another tag: the container is stopped, and another one made."""

    project = ""

    def flip(self, old: str, new: str) -> None:
        compose(self.ground, self.project, self.url, new, "up", "-d", "--wait")


def compose(ground: Ground, project: str, url: str, release: str, *command: str) -> None:
    """Compose has run on a file with one app."""
    port = url.rpartition(":")[2]
    file = f"""services:
  app:
    image: {APP}:{release}
    labels: ["bluegreen.test=bench"]
    tmpfs: /tmp
    ports: ["127.0.0.1:{port}:9000"]
    healthcheck:
      test: ["CMD", "python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9000/version')"]
      interval: 1s
"""
    mount = ["-v", "/var/run/docker.sock:/var/run/docker.sock"]
    run("docker", "run", "--rm", "-i", "--label", "bluegreen.test=bench", *mount, "bluegreen-lab/compose",
        "-p", project, "-f", "-", *command, feed=file)  # fmt: skip


@contextlib.contextmanager
def recreate(ground: Ground) -> Iterator[Peer]:
    peer = Recreate(ground, "docker compose up (recreate)", f"http://127.0.0.1:{ground.port()}")
    peer.project = ground.name("compose")
    try:
        compose(ground, peer.project, peer.url, "v1", "up", "-d", "--wait")
        wait_for(peer.url + "/version")
        yield peer
    finally:
        compose(ground, peer.project, peer.url, "v1", "down", "-t", "1")


class Script(Peer):
    """bench/by_hand.sh: a new container, a look at it, another upstream, a reload, and the old container is stopped."""

    proxy = network = prefix = ""

    def flip(self, old: str, new: str) -> None:
        names = {"OLD": f"{self.prefix}-{old}", "NEW": f"{self.prefix}-{new}", "IMAGE": f"{APP}:{new}"}
        run("sh", os.fspath(HERE / "by_hand.sh"), env={**names, "PROXY": self.proxy, "NETWORK": self.network})


@contextlib.contextmanager
def script(ground: Ground, image: str) -> Iterator[Peer]:
    peer = Script(ground, f"a shell script with {image}", f"http://127.0.0.1:{ground.port()}")
    peer.prefix = ground.name("script")
    with contextlib.ExitStack() as stack:
        peer.network = stack.enter_context(ground.network())
        proxy = ground.client.containers.create(
            image,
            name=ground.name("p"),
            network=peer.network,
            ports={"8080/tcp": ("127.0.0.1", int(peer.url.rpartition(":")[2]))},
            labels=LABELS,
        )
        stack.callback(proxy.remove, force=True, v=True)
        peer.proxy = proxy.name
        app = ground.client.containers.create(
            f"{APP}:v1", name=f"{peer.prefix}-v1", network=peer.network, labels=LABELS
        )
        stack.callback(subprocess.run, ["docker", "rm", "-f", f"{peer.prefix}-v1", f"{peer.prefix}-v2"],
                       capture_output=True)  # fmt: skip
        app.start()
        place = f"{address(app)}:9000"
        wait_for(f"http://{place}/version")
        proxy.put_archive("/", archive({"etc/nginx/conf.d/app.conf": NGINX_BY_HAND.format(app=place)}))
        proxy.start()
        wait_for(peer.url + "/version")
        yield peer
