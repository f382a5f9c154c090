"""Every driver on a bench of its own, so that the same tests run on all. A new driver is a new line in a table here."""

from __future__ import annotations

import itertools
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import httpx
import pytest
from fakes import FakeProxy, FakeRuntime, World, quick_settings
from harness import HAPROXY, IMAGES, MODES, NGINX, PREFIX, REPOSITORY

from bluegreen.model import Colour, Endpoint, Release, Replica
from bluegreen.proxies import Proxy
from bluegreen.proxies.container import ProxyContainer
from bluegreen.runtimes import Runtime
from bluegreen.runtimes.docker import DockerRuntime
from bluegreen.service import DRIVERS
from bluegreen.settings import Settings, parse

_numbers = itertools.count(1)


def fresh_name() -> str:
    return f"{PREFIX}-{os.getpid()}-c{next(_numbers)}"


@dataclass
class Apps:
    """v1 in blue and v2 in green, running."""

    endpoints: dict[Colour, Endpoint]
    network: str

    @property
    def upstreams(self) -> dict[Colour, tuple[Endpoint, ...]]:
        return {colour: (endpoint,) for colour, endpoint in self.endpoints.items()}

    def refusing(self, colour: Colour) -> dict[Colour, tuple[Endpoint, ...]]:
        """The same, but nothing listens where this colour should be."""
        return {**self.upstreams, colour: (replace(self.endpoints[colour], port=9),)}


class Upload(ABC):
    """A request that has begun and is at work on the old colour until `finish`."""

    @abstractmethod
    def finish(self) -> str:
        """It ends; the body of its answer."""


class ProxyBench(ABC):
    """A proxy that does not exist yet, in reach of two apps."""

    apps: Apps
    refused = 502
    """The status of a proxy's own answer when nobody takes the request."""

    @abstractmethod
    def driver(self) -> Proxy:
        """A driver that knows nothing from before."""

    @abstractmethod
    def request(self, path: str = "/version") -> tuple[int, str]:
        """Status and trimmed body of an answer as a client gets it."""

    @abstractmethod
    def upload(self) -> Upload: ...

    @abstractmethod
    def file(self) -> str:
        """What the proxy's file of the service holds; empty if there is none."""

    @abstractmethod
    def left(self) -> list[str]:
        """What there is of the proxy."""


class FakeProxyBench(ProxyBench):
    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.world = World().has("v1", "v2")
        self.settings = quick_settings()
        runtime = FakeRuntime(self.world, self.settings)
        runtime.prepare()
        self.apps = Apps(
            {colour: start(runtime, colour, name) for colour, name in zip(Colour, ("v1", "v2"), strict=True)},
            runtime.network,
        )

    def driver(self) -> Proxy:
        return FakeProxy(self.world, self.settings)

    def request(self, path: str = "/version") -> tuple[int, str]:
        answer = self.world.request("shop")
        return answer.status, answer.body

    def upload(self) -> Upload:
        world = self.world

        class Fake(Upload):
            def __init__(self) -> None:
                assert world.proxy
                carried = world.proxy["shop"]
                self._endpoint = carried.upstreams[carried.colour][0]
                world.uploads.append(self._endpoint)

            def finish(self) -> str:
                world.uploads.remove(self._endpoint)
                return "hello"

        return Fake()

    def file(self) -> str:
        return FakeProxy(self.world, self.settings).observe().config

    def left(self) -> list[str]:
        return ["proxy"] if self.world.proxy is not None else []


def start(runtime: Runtime, colour: Colour, name: str, digest: str = "") -> Endpoint:
    digest = digest or f"sha256:{name}"
    return runtime.start(colour, Release(name, digest), digest, "run", 1, ())[0].endpoint


class ContainerBench(ProxyBench):
    """A proxy in a container, of the kind that its image's name begins with."""

    def __init__(self, image: str, switch: str, request: pytest.FixtureRequest) -> None:
        self.client = request.getfixturevalue("engine")
        self.apps = request.getfixturevalue("apps")
        self.port = request.getfixturevalue("free_port")()
        self.kind = image.partition(":")[0]
        self.refused = {"nginx": 502, "haproxy": 503}[self.kind]
        proxy = {"kind": self.kind, "image": image, "switch": switch, "listen": self.listen}
        self.settings = settings_of(fresh_name(), proxy=proxy)
        self._made: list[Proxy] = []
        request.addfinalizer(self._remove)

    @property
    def listen(self) -> str:
        return f"127.0.0.1:{self.port}"

    def driver(self) -> Proxy:
        made = DRIVERS[self.kind](self.settings, ProxyContainer(self.client, self.settings.proxy))
        self._made.append(made)
        return made

    def request(self, path: str = "/version") -> tuple[int, str]:
        answer = httpx.get(f"http://{self.listen}{path}", timeout=30, trust_env=False)
        return answer.status_code, answer.text.strip()

    def upload(self) -> Upload:
        return HeldUpload(self.port)

    def file(self) -> str:
        name = f"bluegreen-proxy-{self.listen}".replace(":", "-")
        path = f"/bluegreen/services/{self.settings.service}{DRIVERS[self.kind].suffix}"
        code, raw = self.client.containers.get(name).exec_run(["cat", path], stderr=False)
        return "" if code else raw.decode()

    def left(self) -> list[str]:
        named = {"name": str(self.port)}
        containers = [each.name for each in self.client.containers.list(all=True, filters=named)]
        volumes = [each.name for each in self.client.volumes.list(filters=named)]
        return containers + volumes + [each.name for each in self.client.networks.list(filters=named)]

    def _remove(self) -> None:
        for made in self._made:
            made.close()
        ProxyContainer(self.client, self.settings.proxy).remove()


class HeldUpload(Upload):
    """A POST whose header is through and whose body is not: the proxy has said that it may come."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        headers = ["Host: test", "Content-Length: 5", "Expect: 100-continue", "Connection: close"]
        self._socket.sendall("\r\n".join(["POST /echo HTTP/1.1", *headers, "", ""]).encode())
        assert self._socket.recv(4096).startswith(b"HTTP/1.1 100 ")

    def finish(self) -> str:
        with self._socket as open_socket:
            open_socket.sendall(b"hello")
            answer = b""
            while piece := open_socket.recv(4096):
                answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        return body.decode()


def settings_of(name: str, **tables: Any) -> Settings:
    data = {
        "service": name,
        "image": {"context": os.fspath(REPOSITORY / "app"), "repository": IMAGES},
        "app": {"port": 9000, "stop_timeout": "2s"},
    }
    return parse({**data, **tables})


PROXIES: dict[str, Callable[[pytest.FixtureRequest], ProxyBench]] = {
    "fake": FakeProxyBench,
    **{f"{image}-{mode}": partial(ContainerBench, image, mode) for image in [*NGINX, *HAPROXY] for mode in MODES},
}


class RuntimeBench(ABC):
    """A runtime that holds nothing of the service yet, on an engine that has the images of v1 and v2."""

    @abstractmethod
    def driver(self) -> Runtime:
        """A driver for the same service that knows nothing from before."""

    @abstractmethod
    def other(self) -> Runtime:
        """A driver for another service on the same engine."""

    @abstractmethod
    def reference(self, name: str) -> str:
        """The image of a release."""

    @abstractmethod
    def restart(self, replica: Replica) -> None:
        """As an operator does it, with the engine's own tool."""

    @abstractmethod
    def crash(self, replica: Replica) -> None:
        """Its process ends by itself."""


class FakeRuntimeBench(RuntimeBench):
    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.world = World().has("v1", "v2")
        self.world.add_image("shop:v4-exits", "sha256:v4-exits")
        self.world.lives["v4-exits"] = 0

    def driver(self) -> Runtime:
        return FakeRuntime(self.world, quick_settings(app={"replicas": 2}))

    def other(self) -> Runtime:
        return FakeRuntime(self.world, quick_settings(service="other"))

    def reference(self, name: str) -> str:
        return f"shop:{name}"

    def restart(self, replica: Replica) -> None:
        self.world.containers[replica.name].running = True

    def crash(self, replica: Replica) -> None:
        self.world.containers[replica.name].end(0)


class DockerBench(RuntimeBench):
    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.client = request.getfixturevalue("engine")
        request.getfixturevalue("releases")
        self.settings = settings_of(fresh_name(), app={"port": 9000, "replicas": 2, "stop_timeout": "2s"})
        self.others = settings_of(fresh_name())
        request.addfinalizer(self._remove)

    def driver(self) -> Runtime:
        return DockerRuntime(self.client, self.settings)

    def other(self) -> Runtime:
        return DockerRuntime(self.client, self.others)

    def reference(self, name: str) -> str:
        return f"{IMAGES}:{name}"

    def restart(self, replica: Replica) -> None:
        self.client.containers.get(replica.name).restart(timeout=2)

    def crash(self, replica: Replica) -> None:
        self.client.containers.get(replica.name).exec_run(["python3", "-c", "import os; os.kill(1, 15)"])

    def _remove(self) -> None:
        for runtime in (self.driver(), self.other()):
            for colour in Colour:
                runtime.remove(colour)
            runtime.remove_network()


RUNTIMES: dict[str, Callable[[pytest.FixtureRequest], RuntimeBench]] = {"fake": FakeRuntimeBench, "docker": DockerBench}
