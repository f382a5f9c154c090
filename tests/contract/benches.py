"""Every driver on a bench of its own, so that the same tests run on all. A new driver is a new line in a table here."""

from __future__ import annotations

import contextlib
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
from harness import ALL_WAYS, IMAGES, PAIRS, PREFIX, REPOSITORY, executed
from installed import PlayedHost, installed

from bluegreen.model import Colour, Endpoint, Release, Replica
from bluegreen.proxies import Proxy
from bluegreen.proxies.container import ProxyContainer
from bluegreen.proxies.place import Place
from bluegreen.proxies.templates import unsealed
from bluegreen.reach import DRIVERS
from bluegreen.runtimes import Runtime
from bluegreen.runtimes.docker import DockerRuntime
from bluegreen.runtimes.swarm import SwarmRuntime
from bluegreen.secret import Secrets
from bluegreen.settings import Settings, parse

_numbers = itertools.count(1)

EDIT = "# for the night shift"
"""What a person adds to a file of bluegreen's."""


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
    installed = False
    """Whether it is a person's own, which runs before the first service and after the last."""
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
    def edit(self) -> None:
        """A person adds a line, `EDIT`, to that file."""

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

    def edit(self) -> None:
        assert self.world.proxy
        self.world.proxy["shop"].edit = EDIT

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
        self.image = image
        self.kind = image.partition(":")[0]
        self.refused = {"nginx": 502, "haproxy": 503}[self.kind]
        proxy = {"kind": self.kind, "image": image, "switch": switch, **self._where()}
        self.settings = settings_of(fresh_name(), proxy=proxy, bake={"max_error_ratio": 0.5})
        self._made: list[Proxy] = []
        request.addfinalizer(self._remove)

    def _where(self) -> dict[str, Any]:
        return {"listen": f"127.0.0.1:{self.port}"}

    def place(self) -> Place:
        return ProxyContainer(self.client, self.settings.proxy)

    def driver(self) -> Proxy:
        made = DRIVERS[self.kind](self.settings, self.place())
        self._made.append(made)
        return made

    def request(self, path: str = "/version") -> tuple[int, str]:
        answer = httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=30, trust_env=False)
        return answer.status_code, answer.text.strip()

    def post(self, body: str) -> tuple[int, int]:
        """Status of the answer to a request with this body, which the app sends back, and how long it is."""
        answer = httpx.post(f"http://127.0.0.1:{self.port}/echo", content=body, timeout=60, trust_env=False)
        return answer.status_code, len(answer.content)

    def upload(self) -> Upload:
        return HeldUpload(self.port)

    def file(self) -> str:
        name = f"bluegreen-proxy-127.0.0.1-{self.port}"
        path = f"/bluegreen/services/{self.settings.service}{DRIVERS[self.kind].suffix}"
        code, raw = executed(self.client.containers.get(name), ["cat", path], stderr=False)
        return "" if code else unsealed(raw.decode())

    def edit(self) -> None:
        path = f"/bluegreen/services/{self.settings.service}{DRIVERS[self.kind].suffix}"
        container = self.client.containers.get(f"bluegreen-proxy-127.0.0.1-{self.port}")
        assert executed(container, ["sh", "-c", f"echo '{EDIT}' >>{path}"]).exit_code == 0

    def left(self) -> list[str]:
        named = {"name": f"-{self.port}"}  # with the dash: a volume of no name has one of digits
        containers = [each.name for each in self.client.containers.list(all=True, filters=named)]
        volumes = [each.name for each in self.client.volumes.list(filters=named)]
        return containers + volumes + [each.name for each in self.client.networks.list(filters=named)]

    def _remove(self) -> None:
        for made in self._made:
            made.close()
        self.place().remove()


class HostBench(ContainerBench):
    """A proxy that a person has installed, with a config of the person's own, on a host that a container plays."""

    installed = True

    def __init__(self, image: str, switch: str, request: pytest.FixtureRequest, **host: Any) -> None:
        self._host = host
        super().__init__(image, switch, request)
        self.services = "/var/lib/bluegreen/services" if host.get("whole") else f"/etc/{self.kind}/conf.d"
        stack = contextlib.ExitStack()
        request.addfinalizer(stack.close)
        machine = installed(self.client, fresh_name(), image, [self.port], whole=bool(host.get("whole")))
        self.machine = stack.enter_context(machine)
        self.client.networks.get(self.apps.network).connect(self.machine)
        stack.callback(self._close)

    def _where(self) -> dict[str, Any]:
        return {"where": "host", "listen": f"0.0.0.0:{self.port}", "host": self._host}

    def place(self) -> Place:
        return PlayedHost(self.settings, self.machine)

    def file(self) -> str:
        prefix = "" if self.settings.proxy.host.whole else "bluegreen-"
        path = f"{self.services}/{prefix}{self.settings.service}{DRIVERS[self.kind].suffix}"
        return unsealed(self.run("cat", path))

    def edit(self) -> None:
        prefix = "" if self.settings.proxy.host.whole else "bluegreen-"
        path = f"{self.services}/{prefix}{self.settings.service}{DRIVERS[self.kind].suffix}"
        self.run("sh", "-c", f"echo '{EDIT}' >>{path}")

    def left(self) -> list[str]:
        mine = f"/etc/{self.kind}/*/*bluegreen* /var/lib/bluegreen/state/* /var/lib/bluegreen/*/*-bluegreen-*"
        return self.run("sh", "-c", f'for file in {mine}; do if [ -e "$file" ]; then echo "$file"; fi; done').split()

    def processes(self) -> set[int]:
        """The proxy's own."""
        place = self.place()
        with contextlib.closing(place.agent) as agent:
            return set(agent.children(place.master()))

    def persons_files(self) -> str:
        """All that the person has in the proxy's directory: names and digests."""
        each = 'case $file in *bluegreen-*) ;; *) [ -d "$file" ] || sha256sum "$file" ;; esac'
        return self.run("sh", "-c", f"cd /etc/{self.kind} && for file in * */*; do {each}; done")

    def run(self, *command: str) -> str:
        """What a command on the host prints; nothing if it fails."""
        code, raw = executed(self.machine, list(command), stderr=False)
        return "" if code else raw.decode()

    def _close(self) -> None:
        for made in self._made:
            made.close()

    def _remove(self) -> None:
        """The container that plays the host is all that there is to remove."""


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
    **{f"{image}-{mode}": partial(ContainerBench, image, mode) for image, mode in ALL_WAYS},
    **{f"{image}-{mode}-host": partial(HostBench, image, mode) for image, mode in ALL_WAYS},
}


def some_proxies(turn: int) -> list[str]:
    """The fake, an nginx and a HAProxy, one of them in a container and one on a host: in eight turns, every bench."""
    names = [f"{image}-{mode}" for image, mode in PAIRS[turn // 2 % len(PAIRS)]]
    names[turn % 2] += "-host"
    return ["fake", *names]


class RuntimeBench(ABC):
    """A runtime that holds nothing of the service yet, on an engine that has the images of v1 and v2."""

    secrets = Secrets()
    """What the service's secrets are now."""

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
        wanted = quick_settings(app={"replicas": 2, "env": {"TOWN": "Paris"}})
        return FakeRuntime(self.world, wanted, secrets=lambda: self.secrets)

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
        app = {"port": 9000, "replicas": 2, "stop_timeout": "2s", "env": {"TOWN": "Paris"}}
        self.settings = settings_of(fresh_name(), app=app)
        self.others = settings_of(fresh_name())
        request.addfinalizer(self._remove)

    def driver(self) -> Runtime:
        return DockerRuntime(self.client, self.settings, lambda: self.secrets)

    def other(self) -> Runtime:
        return DockerRuntime(self.client, self.others)

    def reference(self, name: str) -> str:
        return f"{IMAGES}:{name}"

    def restart(self, replica: Replica) -> None:
        self.client.containers.get(replica.name).restart(timeout=2)

    def crash(self, replica: Replica) -> None:
        executed(self.client.containers.get(replica.name), ["python3", "-c", "import os; os.kill(1, 15)"])

    def _remove(self) -> None:
        for runtime in (self.driver(), self.other()):
            for colour in Colour:
                runtime.remove(colour)
            runtime.remove_one_shots()
            runtime.remove_network()


class SwarmBench(RuntimeBench):
    """On a swarm of one node, which a container plays."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.client = request.getfixturevalue("node")
        app = {"port": 9000, "replicas": 2, "stop_timeout": "2s", "env": {"TOWN": "Paris"}}
        swarm = {"runtime": "swarm", "swarm": {"restart_delay": "0s"}}
        self.settings = settings_of(fresh_name(), app=app, **swarm)
        self.others = settings_of(fresh_name(), **swarm)
        request.addfinalizer(self._remove)

    def driver(self) -> SwarmRuntime:
        return SwarmRuntime({"node": self.client}, self.settings, lambda: self.secrets)

    def other(self) -> Runtime:
        return SwarmRuntime({"node": self.client}, self.others)

    def reference(self, name: str) -> str:
        return f"{IMAGES}:{name}"

    def restart(self, replica: Replica) -> None:
        self.container(replica).restart(timeout=2)

    def crash(self, replica: Replica) -> None:
        executed(self.container(replica), ["python3", "-c", "import os; os.kill(1, 15)"])

    def container(self, replica: Replica) -> Any:
        [found] = self.client.containers.list(filters={"label": f"com.docker.swarm.task.id={replica.id}"})
        return found

    def _remove(self) -> None:
        for runtime in (self.driver(), self.other()):
            for colour in Colour:
                runtime.remove(colour)
            runtime.ended(*runtime.begun())
            runtime.remove_one_shots()
            runtime.remove_network()


RUNTIMES: dict[str, Callable[[pytest.FixtureRequest], RuntimeBench]] = {
    "fake": FakeRuntimeBench,
    "docker": DockerBench,
    "swarm": SwarmBench,
}

FIXED = [name for name in RUNTIMES if name != "swarm"]
"""Those that give a colour its addresses before anything runs there."""
