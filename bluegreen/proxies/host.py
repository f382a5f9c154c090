"""A proxy that a person has installed on a host: this machine, or the one that DOCKER_HOST reaches by ssh.

bluegreen owns its own file in a directory that the main config includes (or the main config, if asked), and a directory
for what it must remember. It edits nothing else, and starts and stops nothing.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from bluegreen.errors import Failed, SettingsError
from bluegreen.model import Endpoint
from bluegreen.proxies.agent import SILENCE, Agent, AgentError
from bluegreen.runtimes.session import LocalSession
from bluegreen.settings import Settings

STATE = "/var/lib/bluegreen"

PID_FILE = 0.5
"""Seconds in which a proxy that runs has written its pid file."""


class ProxyHost:
    """The proxy of one kind on the host of the engine at `address`. Raises SettingsError if it is a tcp address."""

    def __init__(self, settings: Settings, address: str) -> None:
        if address.startswith("tcp://"):
            raise SettingsError(
                f'proxy.where: "host" means this machine or one reached by ssh, but the engine is at {address}',
                hint='use DOCKER_HOST=ssh://..., or proxy.where = "container"',
            )
        self._settings = settings
        self._host = settings.proxy.host
        self._ssh = _ssh(address) if address.startswith("ssh://") else []
        self.kind = settings.proxy.kind
        self.name = f"{self.kind} on {urlsplit(address).hostname if self._ssh else 'this host'}"
        self.agent = Agent(lambda command: LocalSession(self._here(command), timeout=SILENCE))
        self.root = STATE
        self.main = self._host.main if self._host.whole else ""
        self.services = f"{STATE}/services" if self._host.whole else self._host.directory
        self.streams = f"{STATE}/streams" if self._host.whole else self._host.streams
        self.prefix = "" if self._host.whole else "bluegreen-"
        self.pid_file = self._host.pid_file
        self.owns_process = self._host.whole
        self.bind = settings.proxy.listen
        self.tls_bind = settings.proxy.tls_listen or ""
        self.front = Endpoint(_reached(settings.proxy.address), settings.proxy.port)
        self.admin = self._host.socket
        self._master = 0

    @property
    def reload(self) -> Sequence[str]:
        if self._host.reload or not self.agent.exists("/run/systemd/system"):
            return self._host.reload
        return ["systemctl", "reload", self.kind]

    def exists(self) -> bool:
        return True

    def running(self) -> bool:
        try:
            state = self.agent.read(f"/proc/{self.master()}/stat").rpartition(")")[2].split()[0]
            return state != "Z"  # a first process that was killed, and that nobody has taken note of yet
        except (AgentError, Failed):
            return False

    def master(self) -> int:
        if not (self._master and self.agent.exists(f"/proc/{self._master}/stat")):
            self._master = self._read_pid()
        return self._master

    def _read_pid(self) -> int:
        """What the pid file says. A proxy that is just reloading writes it anew, so that it is empty for a moment."""
        deadline = time.monotonic() + PID_FILE
        while True:
            try:
                return int(self.agent.read(self._host.pid_file).split()[0])
            except (AgentError, IndexError, ValueError) as error:
                if time.monotonic() > deadline:
                    raise Failed(
                        f"{self.name} does not run, or writes no {self._host.pid_file}",
                        hint=f"start it: systemctl start {self.kind}; or set proxy.host.pid_file",
                    ) from error
            time.sleep(0.05)

    def boot(
        self, command: Sequence[str], files: Mapping[str, str], networks: Sequence[str], published: Sequence[str] = ()
    ) -> bool:
        if not self.running():
            raise self._down()
        # Only what is remembered: the config is the driver's to install, tested.
        for directory in ("", "/state", "/services"):
            code, words = self.agent.run("mkdir", "-p", f"{self.root}{directory}")
            if code:
                raise Failed(f"{self.root} can't be made on {self.name}: {words}", hint="run as root there")
        for path, content in files.items():
            if path.endswith(".map") and not self.agent.exists(f"{self.root}/{path}"):
                self.agent.write(f"{self.root}/{path}", content)
        return False

    def _down(self) -> Failed:
        """That it does not run, and what is left of it."""
        orphans = [str(pid) for pid, line in self.agent.children(1).items() if f"{self.kind}: worker" in line]
        if not orphans:
            return Failed(f"{self.name} does not run", hint=f"start it: systemctl start {self.kind}")
        return Failed(
            f"{self.name} has lost its first process: its workers serve on without it, and can't be switched;"
            " nothing was changed",
            hint=f"kill {' '.join(orphans)}; systemctl start {self.kind}",
        )

    def service_files(self, suffix: str) -> list[str]:
        names = self.agent.run("ls", self.services)[1].split()
        mine = [name for name in names if name.startswith(self.prefix) and name.endswith(suffix)]
        return [service for name in mine if (service := name.removeprefix(self.prefix).removesuffix(suffix))]

    def detach(self, network: str) -> None:
        """A host reaches every network of its engine."""

    def remove(self) -> list[str]:
        return []

    def log(self) -> str:
        return f"see the log of {self.name}"

    def output(self, *command: str) -> str:
        return self.agent.run(*command)[1]

    def _here(self, command: Sequence[str]) -> list[str]:
        return [*self._ssh, shlex.join(command)] if self._ssh else list(command)


def _ssh(address: str) -> list[str]:
    parts = urlsplit(address)
    target = f"{parts.username}@{parts.hostname}" if parts.username else str(parts.hostname)
    port = ["-p", str(parts.port)] if parts.port else []
    return ["ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", *port, "--", target]


def _reached(address: str) -> str:
    """Where a client on the same host reaches what listens on an address. The agent speaks IPv4."""
    return "127.0.0.1" if address in ("0.0.0.0", "::", "::1") else address  # noqa: S104
