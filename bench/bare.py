"""What a deploy and a rollback need of the engine and the proxy, and no more: the calls, one after the other.

On a network, addresses and a proxy that bluegreen has made, so that both are measured on the same ground. It takes the
same lock, a container of a fixed name; asks as often for the version; stops and removes the old container. It notes
nothing, watches nothing and could undo nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from ground import Service
from harness import executed

OTHER = {"blue": "green", "green": "blue"}
IN_A_ROW = 3
FLIP_HAPROXY = (
    "use IO::Socket::UNIX; $s = IO::Socket::UNIX->new(Peer => shift) or die; print $s shift, qq(\\n); print <$s>"
)


@dataclass
class Bare:
    client: Any
    service: Service
    kind: str
    """nginx or haproxy"""
    repository: str
    addresses: dict[str, str]
    containers: dict[str, Any]
    """The one that each colour has."""
    live: str
    releases: dict[str, str]

    @property
    def proxy(self) -> str:
        return f"bluegreen-proxy-127.0.0.1-{self.service.port}"

    def deploy(self, release: str) -> float:
        """The release is live and the other is gone. Seconds that it took, without the wait for the app."""
        start = time.monotonic()
        old, new = self.live, OTHER[self.live]
        with self._locked():
            image = f"{self.repository}:{release}"
            self.client.images.get(image)
            self.client.containers.list(all=True, filters={"label": f"bluegreen.service={self.service.name}"})
            api = self.client.api
            network = f"bluegreen-net-{self.service.name}"
            place = api.create_networking_config(
                {network: api.create_endpoint_config(ipv4_address=self.addresses[new])}
            )
            made = api.create_container(
                image,
                name=f"{self.service.name}-bare-{new}",
                labels={"bluegreen.test": "bench"},
                host_config=api.create_host_config(
                    network_mode=network, read_only=True, cap_drop=["ALL"], tmpfs={"/tmp": ""}
                ),
                networking_config=place,
            )
            api.start(made["Id"])
            waiting = time.monotonic()
            url, right = f"http://{self.addresses[new]}:9000/version", f"version {release.removeprefix('v')}"
            while not _answers(url, right):
                time.sleep(0.005)
            waited = time.monotonic() - waiting
            _ask(url, right)
            self._flip(new)
            _ask(f"{self.service.url}/version", right)
            api.stop(self.containers[old].id, timeout=35)
            api.remove_container(self.containers[old].id, v=True)
            self.containers[new], self.live = self.client.containers.get(made["Id"]), new
        return time.monotonic() - start - waited

    def rollback(self) -> float:
        """The other colour, which runs, is live again. Seconds that it took."""
        start = time.monotonic()
        new = OTHER[self.live]
        right = f"version {self.releases[new].removeprefix('v')}"
        with self._locked():
            self.client.containers.list(all=True, filters={"label": f"bluegreen.service={self.service.name}"})
            _ask(f"http://{self.addresses[new]}:9000/version", right)
            self._flip(new)
            _ask(f"{self.service.url}/version", right)
            self.live = new
        return time.monotonic() - start

    def _flip(self, colour: str) -> None:
        state = f"/bluegreen/state/{self.service.name}"
        if self.kind == "nginx":
            command = ["touch", f"{state}/green"] if colour == "green" else ["rm", "-f", f"{state}/green"]
        else:
            order = f"set map /bluegreen/live.map {self.service.name} {self.service.name}_{colour}"
            command = ["perl", "-e", FLIP_HAPROXY, "/tmp/bluegreen-admin.sock", order]
        code, words = executed(self.client.containers.get(self.proxy), command)
        if code:
            raise RuntimeError(words.decode(errors="replace"))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        image = self.client.containers.get(self.proxy).image
        lock = self.client.containers.create(
            image,
            ["60"],
            entrypoint=["sleep"],
            name=f"{self.service.name}-bare-lock",
            labels={"bluegreen.test": "bench"},
            network_mode="none",
            log_config={"type": "none"},
        )
        try:
            lock.start()
            yield
        finally:
            lock.remove(force=True)

    def close(self) -> None:
        """The containers that it made are gone."""
        for container in self.containers.values():
            with contextlib.suppress(Exception):
                if container.name.startswith(f"{self.service.name}-bare-"):
                    container.remove(force=True, v=True)


def bare(client: Any, service: Service, kind: str, repository: str) -> Bare:
    """On what bluegreen has deployed: one colour, or both."""
    containers, addresses, releases = {}, {}, {}
    network = client.networks.get(f"bluegreen-net-{service.name}")
    subnet = network.attrs["IPAM"]["Config"][0]["Subnet"].rpartition(".")[0]
    for container in client.containers.list(filters={"label": f"bluegreen.service={service.name}"}):
        if colour := container.labels.get("bluegreen.colour"):
            containers[colour] = container
            releases[colour] = container.labels["bluegreen.release"]
    live = service.status()["live"]["colour"]
    for colour, last in (("blue", 2), ("green", 64)):
        addresses[colour] = f"{subnet}.{last}"
    return Bare(client, service, kind, repository, addresses, containers, live, releases)


def _answers(url: str, right: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).text.strip() == right
    except httpx.HTTPError:
        return False


def _ask(url: str, right: str) -> None:
    with httpx.Client(timeout=5, trust_env=False) as client:
        for _ in range(IN_A_ROW):
            if (said := client.get(url).text.strip()) != right:
                raise RuntimeError(f"{url} said {said!r}, not {right!r}")
