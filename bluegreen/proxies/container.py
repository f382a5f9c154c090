"""A proxy that runs in a container of its own, with its files in a named volume."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from bluegreen import archive
from bluegreen.errors import Failed
from bluegreen.model import Endpoint
from bluegreen.proxies.agent import SILENCE, Agent
from bluegreen.runtimes.confined import confined, is_root, unprivileged
from bluegreen.runtimes.once import output
from bluegreen.runtimes.session import Session, SessionEnded
from bluegreen.settings import ProxyTable

ROOT = "/bluegreen"
"""Where the volume is mounted in the container."""

PORT = 8080
"""What the proxy listens on inside the container; over 1024, so that it needs no privilege to bind."""

TLS_PORT = 8443
"""The same for https."""

PIDS = 1024
"""How many processes and threads the proxy and what works beside it may be at once."""

AS_ROOT = ("CHOWN", "DAC_OVERRIDE", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID")
"""What a proxy needs that the settings want to be started by root: it gives its workers, and their files, to a user."""

MAIN = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}


class ProxyContainer:
    """The container at one address of the host. Its name comes from the address, so that services share it."""

    def __init__(self, client: Any, settings: ProxyTable) -> None:
        self._client = client
        self.kind = settings.kind
        self.listen = settings.listen
        self.image = settings.image
        self.mode = settings.mode
        self._user = settings.user
        self._read_only = settings.read_only
        self._logging = settings.logging
        tls = settings.tls_listen
        self._ports: dict[str, str] = {f"{TLS_PORT}/tcp": tls} if tls else {}
        if tls != self.listen:
            self._ports[f"{PORT}/tcp"] = self.listen
        self._ports |= {f"{entry.port}/tcp": entry.listen for entry in settings.static}
        keys = {"proxy.tls.listen": tls, "proxy.listen": self.listen, "proxy.static": settings.static}
        self._keys = " or ".join(sorted(key for key, is_set in keys.items() if is_set))
        """The settings that say what is published."""
        slug = re.sub(r"[^0-9A-Za-z.]+", "-", self.listen).strip("-")
        self.name = f"bluegreen-proxy-{slug}"
        # Docker publishes ports on the network whose name sorts first: this one must come before every service's
        # (bluegreen-net-...), or joining one would move the ports and cut every connection.
        self._network = f"bluegreen-edge-{slug}"
        self._filler = f"bluegreen-filler-{slug}"
        self.agent = Agent(self._session)
        self.root = ROOT
        self.services = f"{ROOT}/services"
        self.streams = f"{ROOT}/streams"
        self.prefix = ""
        self.main = f"{ROOT}/{MAIN[self.kind]}"
        self.pid_file = "/tmp/nginx.pid"
        self.owns_process = True
        self.bind = str(PORT)
        self.tls_bind = str(TLS_PORT) if tls else ""
        self.front = Endpoint("127.0.0.1", PORT)
        self.admin = "/tmp/bluegreen-admin.sock"
        self.reload: Sequence[str] = ()

    def exists(self) -> bool:
        return self._inspect() is not None

    def running(self) -> bool:
        container = self._inspect()
        return container is not None and container.status == "running"

    def master(self) -> int:
        return 1

    def service_files(self, suffix: str) -> list[str]:
        container = self._inspect()
        if container is None:
            return []
        try:
            names = [path.rpartition("/")[2] for path in archive.read(container, self.services)]
        except NotFound:
            return []
        return [name.removesuffix(suffix) for name in names if name.endswith(suffix)]

    def _inspect(self) -> Any | None:
        try:
            return self._client.containers.get(self.name)
        except NotFound:
            return None

    def boot(
        self, command: Sequence[str], files: Mapping[str, str], networks: Sequence[str], published: Sequence[str] = ()
    ) -> bool:
        """It runs and is attached to `networks`. True if it is new: with `files` in its volume, and its ports on these
        addresses of the host `published` beside the one it listens on."""
        container = self._inspect()
        new = container is None
        if container is None:
            container = self._create(command, published)
        elif (kind := container.labels.get("bluegreen.proxy")) != self.kind:
            raise Failed(
                f"the container {self.name} is a proxy of another kind ({kind or 'not made by bluegreen'})",
                hint=f"free the address {self.listen}, or choose another proxy.listen",
            )
        elif networks:
            self._check(container)
        if container.status == "created" and not new:  # whoever made it may have died before its files were in
            container.put_archive(ROOT, _packed(files))
        attached = container.attrs["NetworkSettings"]["Networks"]
        for network in networks:
            if network not in attached:
                # By name: an engine that is no manager learns of a swarm's network when it joins it.
                self._client.api.connect_container_to_network(container.id, network)
        if container.status == "created":  # just now, or by a run that was killed before it had the files in place
            self._fill(files, container.labels.get("bluegreen.user", "0"))
        if container.status != "running":
            self._start(container, new)
        return new

    def log(self) -> str:
        """The last lines that the proxy wrote."""
        container = self._inspect()
        return "" if container is None else container.logs(tail=5).decode(errors="replace").strip()

    def output(self, *command: str) -> str:
        """What a command of the image prints, run in a container made for it."""
        try:
            raw = output(self._client, self.image, command, of=self.name, network_mode="none")
        except ImageNotFound as error:
            raise Failed(f"the proxy's image {self.image} is not here", hint=f"docker pull {self.image}") from error
        except DockerException as error:
            raise Failed(f"{self.image} can't run {command[0]}: {error}") from error
        return raw.decode(errors="replace")

    def detach(self, network: str) -> None:
        """The proxy is not in the network."""
        with contextlib.suppress(NotFound, APIError):
            self._client.networks.get(network).disconnect(self.name, force=True)

    def remove(self) -> list[str]:
        """The container, its volume and its own network are gone. Says which were there."""
        self.agent.close()
        gone = []
        self._remove_filler()
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

    def _session(self, command: Sequence[str]) -> Session:
        """A conversation with a command in the container, as the user who runs the proxy and owns its volume."""
        api = self._client.api
        try:
            # One made before proxies had a user of their own has none noted: all is root's there.
            user = self._client.containers.get(self.name).labels.get("bluegreen.user", "0")
            run = api.exec_create(self.name, list(command), stdin=True, user=user)
            return Session(api.exec_start(run["Id"], socket=True), timeout=SILENCE)
        except (APIError, NotFound) as error:
            raise SessionEnded(f"{self.name} does not run: {error.explanation or error}") from error

    def _create(self, command: Sequence[str], published: Sequence[str]) -> Any:
        try:
            user = unprivileged(self._client, self.image, self._user)
        except ImageNotFound as error:
            raise Failed(f"the proxy's image {self.image} is not here", hint=f"docker pull {self.image}") from error
        labels = {"bluegreen.proxy": self.kind, "bluegreen.mode": self.mode}
        ports = self._ports | {f"{address.rpartition(':')[2]}/tcp": address for address in published}
        if not self._client.networks.list(names=[f"^{self._network}$"]):
            self._client.networks.create(self._network, driver="bridge", labels=labels)
        self._client.volumes.create(self.name, labels=labels)
        low = any(int(inside.partition("/")[0]) < 1024 for inside in ports)
        return self._client.containers.create(
            self.image,
            list(command),
            name=self.name,
            labels={**labels, "bluegreen.user": user},
            environment={} if is_root(user) else {"BLUEGREEN_UNPRIVILEGED": "1"},
            network=self._network,
            ports={inside: _address(address) for inside, address in ports.items()},
            # What the engine's default is, too: to bind a port, nobody in here needs a privilege.
            sysctls={"net.ipv4.ip_unprivileged_port_start": "0"} if low else {},
            volumes={self.name: {"bind": ROOT, "mode": "rw"}},
            restart_policy={"Name": "always"},
            log_config={"type": self._logging.driver, "config": self._logging.wanted},
            **confined(
                user=user,
                read_only=self._read_only,
                tmpfs={"/tmp": ""},
                cap_add=AS_ROOT if is_root(user) else (),
                pids_limit=PIDS,
            ),
        )

    def _fill(self, files: Mapping[str, str], user: str) -> None:
        """The volume holds the files, and all of it is the user's."""
        self._remove_filler()
        filler = self._client.containers.create(
            self.image,
            ["chown", "-R", user, ROOT],
            entrypoint=[],
            name=self._filler,
            labels={"bluegreen.proxy.filler": self.kind},
            network_mode="none",
            volumes={self.name: {"bind": ROOT, "mode": "rw"}},
            **confined(user="0", cap_add=["CHOWN", "DAC_OVERRIDE"]),
        )
        filler.put_archive(ROOT, _packed(files))
        filler.start()
        code = filler.wait()["StatusCode"]
        words = filler.logs(tail=5).decode(errors="replace").strip()
        filler.remove(force=True)
        if code:
            self.remove()
            raise Failed(f"{self.image} can't give the volume {self.name} to {user}: {words}", hint="set proxy.user")

    def _remove_filler(self) -> None:
        with contextlib.suppress(NotFound):
            self._client.containers.get(self._filler).remove(force=True)

    def _check(self, container: Any) -> None:
        """Raises Failed if the container, made by an earlier run, can't carry what the settings ask for now."""
        mode = container.labels.get("bluegreen.mode", "http")
        if mode != self.mode:
            raise Failed(
                f"the proxy {self.name} was made for proxy.mode = {mode!r} and can't change it while it runs",
                hint="bluegreen down, then deploy, which interrupts the service; or choose another proxy.listen",
            )
        published = container.attrs["HostConfig"]["PortBindings"] or {}
        for inside, listen in self._ports.items():
            address, port = _address(listen)
            if {"HostIp": address, "HostPort": str(port)} not in (published.get(inside) or []):
                what = {f"{TLS_PORT}/tcp": "https", f"{PORT}/tcp": "plain http"}.get(inside, "proxy.static")
                raise Failed(
                    f"the proxy {self.name} does not publish {listen} for {what}, and the ports of a container"
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
                taken = [each for each in self._ports.values() if re.search(rf":{_address(each)[1]}\b", words)]
                taken = taken or list(self._ports.values())
                sport = " or ".join(f"sport = :{_address(each)[1]}" for each in taken)
                raise Failed(
                    f"the address {' or '.join(taken)} is taken by another program",
                    hint=f"see which: ss -ltnp '{sport}'; or change {self._keys}",
                ) from error
            if "cannot assign requested address" in words:
                hosts = dict.fromkeys(each.rpartition(":")[0] for each in self._ports.values())
                raise Failed(
                    f"the engine's host has no address {' or '.join(hosts)}",
                    hint=f"change {self._keys}",
                ) from error
            hint = ""
            if "attaching to network failed" in words:
                hint = "docker node ls, on a manager: only on Active nodes does Swarm let containers into its networks"
            raise Failed(f"the proxy {self.name} does not start: {words}", hint=hint) from error
        deadline = time.monotonic() + 10
        while True:
            container.reload()
            if container.status == "running":
                return
            if time.monotonic() > deadline:
                raise Failed(f"the proxy {self.name} does not stay up: {self.log()}")
            time.sleep(0.1)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _packed(files: Mapping[str, str]) -> bytes:
    """A tar of the files, and of the directories they stand in, readable to all."""
    return archive.pack({path: content.encode() for path, content in files.items()}, mode=0o644)
