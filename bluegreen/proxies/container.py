"""A proxy that runs in a container of its own, with its files in a named volume."""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from bluegreen.errors import Failed
from bluegreen.proxies.agent import Agent
from bluegreen.settings import ProxyTable

ROOT = "/bluegreen"
"""Where the volume is mounted in the container."""

PORT = 8080
TCP_PORT = 8081
"""What the proxy listens on inside the container, in http and in tcp mode; over 1024, so that it needs no privilege."""


class ProxyContainer:
    """The container at one address of the host. Its name comes from the address, so that services share it."""

    def __init__(self, client: Any, settings: ProxyTable) -> None:
        self._client = client
        self.kind = settings.kind
        self.mode = settings.mode
        self.listen = settings.listen
        self.port = PORT if settings.mode == "http" else TCP_PORT
        self.image = settings.image
        self._statics = settings.static
        slug = re.sub(r"[^0-9A-Za-z.]+", "-", self.listen).strip("-")
        self.name = f"bluegreen-proxy-{slug}"
        # Docker publishes ports on the network whose name sorts first: this one must come before every service's
        # (bluegreen-net-...), or joining one would move the ports and cut every connection.
        self._network = f"bluegreen-edge-{slug}"
        self.agent = Agent(client, self.name)

    def inspect(self) -> Any | None:
        """The container, or None."""
        try:
            return self._client.containers.get(self.name)
        except NotFound:
            return None

    def boot(self, command: Sequence[str], files: Mapping[str, str], networks: Sequence[str]) -> bool:
        """It runs, with `files` in its volume if it is new, and is attached to `networks`. True if it is new."""
        container = self.inspect()
        new = container is None
        if container is None:
            container = self._create(command, files)
        elif (kind := container.labels.get("bluegreen.proxy")) != self.kind:
            raise Failed(
                f"the container {self.name} is a proxy of another kind ({kind or 'not made by bluegreen'})",
                hint=f"free the address {self.listen}, or choose another proxy.listen",
            )
        elif networks:
            self._check(container)
        attached = container.attrs["NetworkSettings"]["Networks"]
        for network in networks:
            if network not in attached:
                self._client.networks.get(network).connect(container)
        if container.status != "running":
            self._start(container, new)
        return new

    def log(self, lines: int = 5) -> str:
        """The last lines that the proxy wrote."""
        container = self.inspect()
        return "" if container is None else container.logs(tail=lines).decode(errors="replace").strip()

    def output(self, *command: str) -> str:
        """What a command of the image prints, run in a container made for it."""
        try:
            raw: bytes = self._client.containers.run(
                self.image, list(command), entrypoint=[], network_mode="none", remove=True, stdout=True, stderr=True
            )
        except ImageNotFound as error:
            raise Failed(f"the proxy's image {self.image} is not here", hint=f"docker pull {self.image}") from error
        except DockerException as error:
            raise Failed(f"{self.image} can't run {command[0]}: {error}") from error
        return raw.decode(errors="replace")

    def files(self, directory: str) -> list[str]:
        """The names of the files in a directory of the volume, whether the proxy runs or not."""
        container = self.inspect()
        if container is None:
            return []
        try:
            pieces, _ = container.get_archive(f"{ROOT}/{directory}")
        except NotFound:
            return []
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
            return [entry.name.rpartition("/")[2] for entry in tar if entry.isfile()]

    def detach(self, network: str) -> None:
        """The proxy is not in the network."""
        with contextlib.suppress(NotFound, APIError):
            self._client.networks.get(network).disconnect(self.name, force=True)

    def remove(self) -> list[str]:
        """The container, its volume and its own network are gone. Says which were there."""
        self.agent.close()
        gone = []
        with contextlib.suppress(NotFound):
            self._client.containers.get(self.name).remove(force=True, v=True)
            gone.append(f"container {self.name}")
        with contextlib.suppress(NotFound):
            self._client.volumes.get(self.name).remove()
            gone.append(f"volume {self.name}")
        with contextlib.suppress(NotFound):
            self._client.networks.get(self._network).remove()
            gone.append(f"network {self._network}")
        return gone

    def _check(self, container: Any) -> None:
        """The container, made by an earlier run, can carry what the settings ask for now. Raises Failed if not."""
        mode = container.labels.get("bluegreen.mode", "http")
        if mode != self.mode:
            raise Failed(
                f"{self.name} was made for proxy.mode = {mode!r} and can't change it while it runs",
                hint="bluegreen down, then deploy; or choose another proxy.listen",
            )
        published = container.attrs["HostConfig"]["PortBindings"] or {}
        for entry in self._statics:
            wanted = _binding(entry.listen)
            found = [(each["HostIp"], int(each["HostPort"])) for each in published.get(f"{entry.port}/tcp") or ()]
            if wanted not in found:
                raise Failed(
                    f"proxy.static: {self.name} runs without publishing {entry.listen} ({entry.name}), "
                    "and a container's published ports can't change without making it anew",
                    hint="bluegreen down, then deploy, which cuts the service; or leave the entry out",
                )

    def _create(self, command: Sequence[str], files: Mapping[str, str]) -> Any:
        labels = {"bluegreen.proxy": self.kind, "bluegreen.mode": self.mode}
        if not self._client.networks.list(names=[f"^{self._network}$"]):
            self._client.networks.create(self._network, driver="bridge", labels=labels)
        self._client.volumes.create(self.name, labels=labels)
        try:
            container = self._client.containers.create(
                self.image,
                list(command),
                name=self.name,
                labels=labels,
                network=self._network,
                ports={
                    f"{self.port}/tcp": _binding(self.listen),
                    **{f"{entry.port}/tcp": _binding(entry.listen) for entry in self._statics},
                },
                volumes={self.name: {"bind": ROOT, "mode": "rw"}},
                restart_policy={"Name": "always"},
                log_config={"type": "json-file", "config": {"max-size": "10m", "max-file": "3"}},
            )
        except ImageNotFound as error:
            self.remove()
            raise Failed(f"the proxy's image {self.image} is not here", hint=f"docker pull {self.image}") from error
        container.put_archive(ROOT, _archive(files))
        return container

    def _start(self, container: Any, new: bool) -> None:
        try:
            container.start()
        except APIError as error:
            words = error.explanation or str(error)
            if new:
                self.remove()
            if "already allocated" in words or "address already in use" in words:
                taken = next((e.listen for e in self._statics if re.search(rf":{e.port}\b", words)), self.listen)
                raise Failed(
                    f"the address {taken} is taken by another program",
                    hint=f"see which: ss -ltnp 'sport = :{taken.rpartition(':')[2]}'; or change the settings",
                ) from error
            if "cannot assign requested address" in words:
                raise Failed(
                    f"the engine's host has no address {self.listen.rpartition(':')[0]}", hint="change proxy.listen"
                ) from error
            raise Failed(f"the proxy {self.name} does not start: {words}") from error
        deadline = time.monotonic() + 10
        while True:
            container.reload()
            if container.status == "running":
                return
            if time.monotonic() > deadline:
                raise Failed(f"the proxy {self.name} does not stay up: {self.log()}")
            time.sleep(0.1)


def _binding(listen: str) -> tuple[str, int]:
    """The address as the engine publishes it."""
    address, _, port = listen.rpartition(":")
    return address.strip("[]"), int(port)


def _archive(files: Mapping[str, str]) -> bytes:
    """A tar of the files, and of the directories they stand in, readable to all."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        directories = sorted({path.rpartition("/")[0] for path in files if "/" in path})
        for directory in directories:
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, content in files.items():
            if not path.endswith("/"):
                entry = tarfile.TarInfo(path)
                data = content.encode()
                entry.size, entry.mode = len(data), 0o644
                tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
