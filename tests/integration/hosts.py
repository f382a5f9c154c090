"""Hosts of their own for the tests: containers with an engine, and with sshd, that no container of ours shares."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import itertools
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from certificates import Authority
from evidence import log
from harness import IMAGES, PREFIX, REPOSITORY, Ran, TestService, eventually, executed

from bluegreen.runtimes.connect import with_own_authority

IMAGE = "bluegreen-lab/host"
LOADED = ["nginx:stable", "haproxy:3.2", f"{IMAGES}:v1", f"{IMAGES}:v2"]
"""The images that a host is given."""

APPS = "198.51.100.0/24"
"""Where a host's apps get their addresses: a range that nobody has a route to."""

SOCKET = "/var/run/docker.sock"

NAMES = ("one", "two", "three")
"""What three hosts are called."""

_numbers = itertools.count(1)


@dataclass
class Host:
    """A container that plays a host, and the ways to its engine."""

    container: Any
    directory: Path
    """For keys and settings."""
    certificates: Path | None = None
    """A directory with what its engine lets in, if that is by TLS alone."""

    @property
    def address(self) -> str:
        """Where it is reached from this machine; not where its containers are."""
        self.container.reload()
        [network] = self.container.attrs["NetworkSettings"]["Networks"].values()
        return network["IPAddress"]

    def port(self, inside: int) -> int:
        """The port of the loopback address on which `inside` is published."""
        self.container.reload()
        return int(self.container.attrs["NetworkSettings"]["Ports"][f"{inside}/tcp"][0]["HostPort"])

    @property
    def tcp(self) -> str:
        return f"tcp://127.0.0.1:{self.port(2376 if self.certificates else 2375)}"

    def _client(self, timeout: int) -> docker.DockerClient:
        tls: Any = False
        if self.certificates:
            ca, cert, key = (str(self.certificates / f"{name}.pem") for name in ("ca", "cert", "key"))
            tls = with_own_authority(docker.tls.TLSConfig(client_cert=(cert, key), ca_cert=ca, verify=True))
        return docker.DockerClient(base_url=self.tcp, tls=tls, timeout=timeout)

    @property
    def ssh(self) -> str:
        return f"ssh://root@127.0.0.1:{self.port(22)}"

    @contextlib.contextmanager
    def engine(self) -> Iterator[docker.DockerClient]:
        """A client of the host's engine, beside the command."""
        with contextlib.closing(self._client(60)) as client:
            yield client

    def answers(self) -> bool:
        try:
            with contextlib.closing(self._client(5)) as client:
                return bool(client.ping())
        except (docker.errors.DockerException, OSError, KeyError, TypeError):  # not up, or its ports not yet published
            return False

    def wait(self) -> None:
        """Its engine answers. One that ends as it starts is started again, as by its unit of systemd."""

        def up() -> bool:
            if self.answers():
                return True
            self.container.reload()
            if self.container.status == "exited":
                words = self.container.logs(tail=3).decode(errors="replace")
                log(f"{self.container.name} ended as it started: {words}")
                self.container.start()
            return False

        eventually(up, f"the engine of the host {self.container.name}", timeout=120)

    def load(self, engine: docker.DockerClient, images: Sequence[str] = LOADED) -> None:
        """The images of this machine's engine are on the host's too."""
        with self.engine() as client:
            for image in images:
                client.images.load(engine.images.get(image).save(named=image))

    def clear(self) -> None:
        """Only images are left on its engine."""
        with self.engine() as client:
            for container in client.containers.list(all=True, ignore_removed=True):
                with contextlib.suppress(docker.errors.APIError):
                    container.remove(force=True, v=True)
            client.networks.prune()
            for volume in client.volumes.list():
                with contextlib.suppress(docker.errors.APIError):
                    volume.remove(force=True)

    def sh(self, script: str) -> str:
        """What a script says that a person runs on the host."""
        code, words = executed(self.container, ["sh", "-ec", script])
        assert code == 0, words.decode()
        return words.decode()

    def dockerd(self) -> int:
        """The process of its engine, by the host's own count; 0 if there is none."""
        found = executed(self.container, ["pidof", "dockerd"])
        return int(found.output.split()[0]) if found.exit_code == 0 else 0

    def signal(self, name: str, process: int) -> None:
        code, words = executed(self.container, ["kill", f"-{name}", str(process)])
        assert code == 0, words


@contextlib.contextmanager
def running_host(
    engine: docker.DockerClient,
    directory: Path,
    entrypoint: Sequence[str] | None = None,
    *,
    images: Sequence[str] = LOADED,
    beside: tuple[Any, str] | None = None,
    tls: bool = False,
) -> Iterator[Host]:
    """A host whose engine answers and has the images; nothing is left of it afterwards.

    With `beside` it is in that network, at that address, and not in one of its own. With `tls` its engine is reached
    over tcp by TLS alone.
    """
    key = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    name = f"{PREFIX}-host-{os.getpid()}-{next(_numbers)}"
    network = container = None
    try:
        if beside is None:
            network = engine.networks.create(name, driver="bridge")
        container = engine.containers.create(
            IMAGE,
            name=name,
            entrypoint=entrypoint,
            labels={"bluegreen.test": PREFIX},
            environment={"TCP": "1"},
            network=name if beside is None else beside[0].name,
            ports={f"{port}/tcp": ("127.0.0.1", None) for port in (2376 if tls else 2375, 22)},
            volumes=["/sys/fs/cgroup:/sys/fs/cgroup", "/var/lib/docker"],
            cap_add=["ALL"],
            cap_drop=["SYS_RESOURCE"],
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            cgroupns="host",
        )
        container.put_archive("/", _authorized(key.with_suffix(".pub").read_bytes()))
        if tls:
            container.put_archive("/", _certified(directory))
        if beside is not None:
            beside[0].disconnect(container)
            beside[0].connect(container, ipv4_address=beside[1])
        container.start()
        host = Host(container, directory, directory if tls else None)
        host.wait()
        host.load(engine, images)
        yield host
    finally:
        if container:
            container.remove(force=True, v=True)
        if network:
            network.remove()


def own_network(engine: docker.DockerClient) -> tuple[Any, str]:
    """A network in which addresses can be chosen, and how they begin."""
    for number in range(256):
        prefix = f"198.19.{(os.getpid() + number) % 256}"
        pool = docker.types.IPAMPool(subnet=f"{prefix}.0/24", iprange=f"{prefix}.128/25")
        with contextlib.suppress(docker.errors.APIError):  # somebody has this one
            ipam = docker.types.IPAMConfig(pool_configs=[pool])
            name = f"{PREFIX}-own-{os.getpid()}-{next(_numbers)}"
            return engine.networks.create(name, driver="bridge", ipam=ipam), prefix
    raise AssertionError("no network is free")


@contextlib.contextmanager
def three_hosts(
    engine: docker.DockerClient, directory: Path, *, images: Sequence[str] = LOADED, tls: Sequence[str] = ()
) -> Iterator[list[Host]]:
    """Three hosts in one network, with a directory each; `tls` names those whose engines are reached by that alone."""
    with contextlib.ExitStack() as stack:
        network, prefix = own_network(engine)
        stack.callback(network.remove)

        def host_of(number: int, name: str) -> contextlib.AbstractContextManager[Host]:
            (mine := directory / name).mkdir()
            return running_host(engine, mine, images=images, beside=(network, f"{prefix}.{number}"), tls=name in tls)

        with ThreadPoolExecutor() as pool:
            hosts = list(pool.map(stack.enter_context, itertools.starmap(host_of, enumerate(NAMES, 11))))
        yield hosts


@contextlib.contextmanager
def three_managers(
    engine: docker.DockerClient, directory: Path, images: Sequence[str] = LOADED
) -> Iterator[list[Host]]:
    """Three hosts that are one swarm, of which each is a manager."""
    with three_hosts(engine, directory, images=images) as hosts:
        with hosts[0].engine() as client:
            client.swarm.init(advertise_addr=hosts[0].address)
            token = client.swarm.attrs["JoinTokens"]["Manager"]
        for host in hosts[1:]:
            with host.engine() as client:
                client.swarm.join([f"{hosts[0].address}:2377"], token, advertise_addr=host.address)
        yield hosts


def join_again(manager: Host, host: Host) -> None:
    """What has been made a worker is a manager again, as a new node. One that is promoted may find the log of its time
    as a manager, by which engine 20.10 ends whenever it starts (a panic in raft.RestartNode)."""
    with host.engine() as client:
        client.swarm.leave(force=True)
    with manager.engine() as client:
        for node in client.nodes.list():
            if node.attrs["Status"]["Addr"] == host.address:
                node.remove(force=True)
        client.swarm.reload()
        token = client.swarm.attrs["JoinTokens"]["Manager"]
    with host.engine() as client:
        client.swarm.join([f"{manager.address}:2377"], token, advertise_addr=host.address)
    eventually(lambda: is_manager(host), f"{host.container.name} is a manager", 60)


def is_manager(host: Host) -> bool:
    with host.engine() as client:
        return bool(client.info()["Swarm"]["ControlAvailable"])


def _certified(directory: Path) -> bytes:
    """A tar with the engine's certificate. The directory has what lets a client in, under Docker's own names."""
    authority = Authority(directory)
    host, client = authority.pair("host", "127.0.0.1"), authority.pair("client")
    for path, name in zip(client, ("cert.pem", "key.pem"), strict=True):
        path.rename(directory / name)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in (authority.file, *host):
            tar.add(path, f"certs/{path.name}")
    return buffer.getvalue()


def _authorized(key: bytes) -> bytes:
    """A tar that lets the key in as root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        directory = tarfile.TarInfo("root/.ssh")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(directory)
        file = tarfile.TarInfo("root/.ssh/authorized_keys")
        file.size, file.mode = len(key), 0o600
        tar.addfile(file, io.BytesIO(key))
    return buffer.getvalue()


class Ssh:
    """An `ssh` that knows the host and the test's key, as a user's own does after it was set up; counts its starts."""

    def __init__(self, host: Host, directory: Path, known_hosts: str | None = None) -> None:
        self._log = directory / "started"
        known, config, wrapper = directory / "known_hosts", directory / "config", directory / "bin" / "ssh"
        known.write_text(known_hosts if known_hosts is not None else scanned(host))
        # ssh takes the home of the user database, whatever HOME says: only the command line leads elsewhere.
        config.write_text(
            f"Host *\n  IdentityFile {host.directory / 'key'}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n"
        )
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\necho $$ >>"{self._log}"\nexec "{shutil.which("ssh")}" -F "{config}" "$@"\n')
        wrapper.chmod(0o755)
        self.env = {"DOCKER_HOST": host.ssh, "PATH": f"{wrapper.parent}:{os.environ['PATH']}"}

    def started(self) -> list[int]:
        """The process of every ssh that was started."""
        return [int(line) for line in self._log.read_text().split()] if self._log.exists() else []

    def running(self) -> list[int]:
        """Those that have not ended."""
        return [process for process in self.started() if _runs_ssh(process)]


def scanned(host: Host) -> str:
    """The host's keys as a known_hosts file has them."""
    found: list[str] = []

    def scan() -> bool:
        command = ["ssh-keyscan", "-T", "5", "-p", str(host.port(22)), "127.0.0.1"]
        found[:] = [subprocess.run(command, capture_output=True, text=True).stdout]
        return bool(found[0].strip())

    eventually(scan, f"sshd of the host {host.container.name}")
    return found[0]


def _runs_ssh(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return "(ssh)" in state and state.rpartition(")")[2].split()[0] != "Z"


@dataclass
class HostService(TestService):
    """A service on a host; its proxy is reached at the host's address."""

    host: Host | None = None

    @property
    def url(self) -> str:
        assert self.host
        return f"http://{self.host.address}:{self.port}"

    def containers(self) -> dict[str, str]:
        assert self.host
        with self.host.engine() as client:
            return releases(client, self.name)


@dataclass
class ContainedService(TestService):
    """A service whose command runs in a container that has the engine's socket and the settings, and no more."""

    engine: Any = None
    gateway: str = ""
    """Where containers reach this machine."""
    ran: list[str] = field(default_factory=list)
    """The containers that the command ran in, by name."""

    @property
    def url(self) -> str:
        return f"http://{self.gateway}:{self.port}"

    def run(self, *arguments: str, timeout: float = 180) -> Ran:
        mine = os.fspath(self.directory)
        self.ran.append(f"{self.name}-command-{next(_numbers)}")
        container = self.engine.containers.run(
            "bluegreen-lab/command",
            list(arguments),
            name=self.ran[-1],
            labels={"bluegreen.test": PREFIX},
            working_dir=mine,
            volumes=[f"{SOCKET}:{SOCKET}", f"{REPOSITORY / 'bluegreen'}:/src/bluegreen:ro", f"{mine}:{mine}"],
            user=str(os.getuid()),
            group_add=[str(os.stat(SOCKET).st_gid)],
            detach=True,
        )
        try:
            code = container.wait(timeout=timeout)["StatusCode"]
            return Ran(code, *(container.logs(stdout=out, stderr=not out).decode() for out in (True, False)))
        finally:
            container.remove(force=True, v=True)


def gateway(engine: docker.DockerClient) -> str:
    """This machine's address on the bridge that containers are on by default."""
    [config, *_] = engine.networks.get("bridge").attrs["IPAM"]["Config"]
    return config.get("Gateway") or str(ipaddress.ip_network(config["Subnet"])[1])


def write_settings(
    service: TestService,
    listen: str,
    *,
    image: str = "nginx:stable",
    url: str = "",
    switch: str = "auto",
    bake: float = 0.5,
    subnet: str = "",
    proxy: str = "",
) -> None:
    """The service's settings file, for images that are there."""
    (service.directory / "bluegreen.toml").write_text(
        f"""
service = "{service.name}"

[image]
repository = "{IMAGES}"

[app]
port = 9000

[probe]
path = "/version"
body = "version {{number}}"
timeout = "30s"

[proxy]
kind = "{image.partition(":")[0]}"
image = "{image}"
listen = "{listen}"
switch = "{switch}"
{f'url = "{url}"' if url else ""}
{proxy}

[bake]
seconds = {bake}

[network]
{f'subnet = "{subnet}"' if subnet else ""}
"""
    )


def releases(client: docker.DockerClient, service: str) -> dict[str, str]:
    """The service's containers on an engine by name, each with its release."""
    found = client.containers.list(
        all=True, filters={"label": f"bluegreen.service={service}"}, ignore_removed=True
    )
    return {container.name: container.labels["bluegreen.release"] for container in found}
