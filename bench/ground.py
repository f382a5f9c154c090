"""What measurements stand on: the engine, images, ports, and services that are gone afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import json
import os
import re
import select
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, os.fspath(REPOSITORY / "tests"))

from harness import PORTS, PREFIX, TestService  # noqa: E402

APP = f"{PREFIX}/bench-app"
"""The reference app: Flask, about half a second until it is ready."""

QUICK = f"{PREFIX}/bench-quick"
"""An app that costs next to nothing, so that what is around it can be seen: nginx with a constant answer."""

NGINX, NGINX_OLD, HAPROXY = "nginx:stable", "nginx:1.22", "haproxy:3.2"
LABELS = {"bluegreen.test": "bench"}

_QUICK_CONFIG = """worker_processes 1; pid /tmp/nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000; keepalive_timeout 300s;
    client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u;
    scgi_temp_path /tmp/s;
    server {{ listen 9000; default_type text/plain; add_header X-Release {release}; return 200 "version {number}\\n"; }}
}}
"""


@dataclass(frozen=True)
class Ran:
    """A command of bluegreen's that has succeeded."""

    seconds: float
    """From its start to its end."""
    began: float
    """Wall clock."""
    megabytes: float
    """The most memory that it had."""
    receipt: Mapping[str, Any]

    def step(self, *names: str) -> float:
        """How many seconds these steps took together."""
        return sum(step["seconds"] for step in self.receipt["steps"] if step["step"] in names)

    def begun(self, name: str) -> float:
        """When a step began, by the wall clock."""
        at = next(step["at"] for step in self.receipt["steps"] if step["step"] == name)
        return moment(self.receipt["started"]) + at


def moment(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def _most_memory(pid: int) -> float:
    """The process has ended; the most memory that it had, in MB, as it was known every 20 ms.

    Not from wait4, whose figure is at least what the process had that made it: proc(5), getrusage(2).
    """
    most = 0.0
    with open(os.pidfd_open(pid), "rb", buffering=0) as handle:
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        while not ended.poll(20):
            found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            most = max(most, int(found[1]) / 1024) if found else most
    return most


@dataclass
class Service(TestService):
    """A service of the benchmark."""

    __test__ = False

    def command_of(self, *arguments: str, env: Mapping[str, str] | None = None) -> Ran:
        """The command has succeeded; what it took. Raises RuntimeError with its words if it has not."""
        file = self.directory / "receipt.json"
        file.unlink(missing_ok=True)
        began, start = time.time(), time.monotonic()
        with tempfile.TemporaryFile() as words:
            process = subprocess.Popen(
                [*self.command(*arguments), "--receipt", os.fspath(file)],
                cwd=self.directory,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=subprocess.STDOUT,
            )
            megabytes = _most_memory(process.pid)
            process.wait()
            seconds = time.monotonic() - start
            if process.returncode:
                words.seek(0)
                text = words.read().decode(errors="replace")
                raise RuntimeError(f"bluegreen {' '.join(arguments)} ended with {process.returncode}:\n{text}")
        return Ran(seconds, began, megabytes, json.loads(file.read_text()))


@dataclass
class Ground:
    """The engine, and how thorough to be."""

    client: docker.DockerClient
    directory: Path
    quick: bool
    say: Any = print
    notes: dict[str, str] = field(default_factory=dict)
    _ports: Iterator[int] = field(default_factory=lambda: iter(PORTS[7000:7700]))
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def proxies(self) -> tuple[str, ...]:
        """What a measurement is made on that costs much time."""
        return (NGINX,) if self.quick else (NGINX, HAPROXY)

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def port(self) -> int:
        """A port of the loopback address that nobody uses."""
        import socket

        while True:
            port = next(self._ports)
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port

    def name(self, what: str) -> str:
        return f"{PREFIX}-bench-{os.getpid()}-{what}-{next(self._numbers)}"

    @contextlib.contextmanager
    def service(
        self,
        proxy: str,
        switch: str = "auto",
        *,
        app: str = APP,
        replicas: int = 1,
        bake: float = 0,
        old: str = "remove",
    ) -> Iterator[Service]:
        """A service that is gone afterwards."""
        name = self.name("s")
        directory = self.directory / name
        directory.mkdir()
        service = Service(name, directory, self.port())
        (directory / "bluegreen.toml").write_text(
            f"""service = "{name}"
[image]
repository = "{app}"
[app]
port = 9000
replicas = {replicas}
[probe]
path = "/version"
body = "version {{number}}"
[proxy]
kind = "{proxy.partition(":")[0]}"
image = "{proxy}"
listen = "127.0.0.1:{service.port}"
switch = "{switch}"
[retire]
old = "{old}"
[bake]
seconds = {bake}
"""
        )
        try:
            yield service
        finally:
            ran = service.run("down", "--yes")
            if ran.code:
                self.say(f"what {name} left could not be removed: {ran.text}")

    @contextlib.contextmanager
    def container(self, image: str, command: list[str] | None = None, **options: Any) -> Iterator[Any]:
        """A container that runs, and is gone afterwards."""
        name = self.name("c")
        made = self.client.containers.create(image, command, name=name, labels=LABELS, **options)
        try:
            made.start()
            made.reload()
            yield made
        finally:
            with contextlib.suppress(docker.errors.NotFound):
                made.remove(force=True, v=True)

    @contextlib.contextmanager
    def network(self) -> Iterator[str]:
        network = self.client.networks.create(self.name("n"), driver="bridge", labels=LABELS)
        try:
            yield network.name
        finally:
            network.remove()


@contextlib.contextmanager
def ground(*, quick: bool) -> Iterator[Ground]:
    """The engine with the apps' images on it."""
    with (
        Path(tempfile.gettempdir(), "bluegreen-bench.lock").open("w") as alone,
        Path(tempfile.gettempdir(), "bluegreen-test-sessions.lock").open("w") as sessions,
        contextlib.closing(docker.from_env(timeout=180)) as client,
        tempfile.TemporaryDirectory() as directory,
    ):
        try:
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError("another benchmark runs on this machine, and would be measured too") from None
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # users' machines keep byte code
        os.environ["PYTHONPATH"] = os.fspath(REPOSITORY)  # also for the command as it is installed
        fcntl.flock(sessions, fcntl.LOCK_SH)  # a test run that begins meanwhile takes nothing of ours for remains
        sweep_bench(client)
        for release in ("v1", "v2", "v3"):
            client.images.build(
                path=os.fspath(REPOSITORY / "app"), tag=f"{APP}:{release}", buildargs={"RELEASE": release}, rm=True
            )
            client.images.build(fileobj=_quick_app(release), custom_context=True, tag=f"{QUICK}:{release}", rm=True)
        made = Ground(client, Path(directory), quick)
        try:
            yield made
        finally:
            sweep_bench(client)


def sweep_bench(client: docker.DockerClient) -> None:
    """What a run that was killed has left is gone: containers and networks of the benchmark."""
    for container in client.containers.list(all=True, filters={"label": "bluegreen.test=bench"}, ignore_removed=True):
        with contextlib.suppress(docker.errors.APIError):
            container.remove(force=True, v=True)
    for network in client.networks.list(filters={"label": "bluegreen.test=bench"}):
        with contextlib.suppress(docker.errors.APIError):
            network.remove()


def _quick_app(release: str) -> io.BytesIO:
    config = _QUICK_CONFIG.format(release=release, number=release.removeprefix("v"))
    command = 'CMD ["nginx","-c","/bench.conf","-g","daemon off;"]'
    recipe = [f"FROM {NGINX}", "COPY nginx.conf /bench.conf", "STOPSIGNAL SIGTERM", command, ""]
    return archive({"Dockerfile": "\n".join(recipe), "nginx.conf": config})


def archive(files: Mapping[str, str]) -> io.BytesIO:
    """A tar of the files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    buffer.seek(0)
    return buffer


def address(container: Any) -> str:
    """The address of a container in its only network."""
    container.reload()
    return next(each["IPAddress"] for each in container.attrs["NetworkSettings"]["Networks"].values())


def wait_for(url: str, timeout: float = 30) -> None:
    """Somebody answers there with 200."""
    import httpx

    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"nobody answers at {url}")
        time.sleep(0.02)
