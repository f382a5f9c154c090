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

ROOT = "/bluegreen"
"""Where the volume is mounted in the container."""

PORT = 8080
"""What the proxy listens on inside the container; over 1024, so that it needs no privilege to bind."""

TLS_PORT = 8443
"""The same for https."""


class ProxyContainer:
    """The container at one address of the host. Its name comes from the address, so that services share it."""

    def __init__(self, client: Any, kind: str, listen: str, image: str, tls: str | None = None) -> None:
        self._client = client
        self.kind = kind
        self.listen = listen
        self._ports = {f"{TLS_PORT}/tcp": _host_port(tls)} if tls else {}
        if tls != listen:
            self._ports[f"{PORT}/tcp"] = _host_port(listen)
        self.image = image
        slug = re.sub(r"[^0-9A-Za-z.]+", "-", listen).strip("-")
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
            self._check_ports(container)
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

    def _create(self, command: Sequence[str], files: Mapping[str, str]) -> Any:
        labels = {"bluegreen.proxy": self.kind}
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
                ports=self._ports,
                volumes={self.name: {"bind": ROOT, "mode": "rw"}},
                restart_policy={"Name": "always"},
                log_config={"type": "json-file", "config": {"max-size": "10m", "max-file": "3"}},
            )
        except ImageNotFound as error:
            self.remove()
            raise Failed(f"the proxy's image {self.image} is not here", hint=f"docker pull {self.image}") from error
        container.put_archive(ROOT, _archive(files))
        return container

    @property
    def _keys(self) -> str:
        """The settings that say what is published."""
        return "proxy.listen or proxy.tls.listen" if len(self._ports) > 1 else "proxy.listen"

    def _check_ports(self, container: Any) -> None:
        """Raises Failed if the container, whose ports were fixed when it was made, does not publish what it should."""
        published = container.attrs["HostConfig"]["PortBindings"] or {}
        for inside, (address, port) in self._ports.items():
            if {"HostIp": address, "HostPort": str(port)} not in (published.get(inside) or []):
                what = "https" if inside == f"{TLS_PORT}/tcp" else "plain http"
                raise Failed(
                    f"the proxy {self.name} does not publish {address}:{port} for {what}, and the ports of a container"
                    " are fixed when it is made",
                    hint="`bluegreen down` for each service of this proxy and deploy again, which interrupts them;"
                    " or set another proxy.listen, which gets a proxy of its own",
                )

    def _start(self, container: Any, new: bool) -> None:
        try:
            container.start()
        except APIError as error:
            words = error.explanation or str(error)
            if new:
                self.remove()
            if "already allocated" in words or "address already in use" in words:
                ports = " or ".join(f"{address}:{port}" for address, port in self._ports.values())
                sport = " or ".join(f"sport = :{port}" for _, port in self._ports.values())
                raise Failed(
                    f"the address {ports} is taken by another program",
                    hint=f"see which: ss -ltnp '{sport}'; or change {self._keys}",
                ) from error
            if "cannot assign requested address" in words:
                hosts = " or ".join(dict.fromkeys(address for address, _ in self._ports.values()))
                raise Failed(f"the engine's host has no address {hosts}", hint=f"change {self._keys}") from error
            raise Failed(f"the proxy {self.name} does not start: {words}") from error
        deadline = time.monotonic() + 10
        while True:
            container.reload()
            if container.status == "running":
                return
            if time.monotonic() > deadline:
                raise Failed(f"the proxy {self.name} does not stay up: {self.log()}")
            time.sleep(0.1)


def _host_port(listen: str) -> tuple[str, int]:
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
