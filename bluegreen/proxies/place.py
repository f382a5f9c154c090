"""Where a proxy runs, as a driver sees it: a container of its own, or a host that a person has installed it on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from bluegreen.model import Endpoint
from bluegreen.proxies.agent import Agent


class Place(Protocol):
    """The proxy's files, processes and network, without knowing which proxy it is."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    @property
    def agent(self) -> Agent: ...

    @property
    def root(self) -> str:
        """The directory in which bluegreen keeps what it needs beside the config."""

    @property
    def services(self) -> str:
        """The directory from which the proxy reads a file for each service."""

    @property
    def streams(self) -> str:
        """The same for what nginx has outside `http`: the directory that is included in `stream`."""

    @property
    def prefix(self) -> str:
        """How the names of bluegreen's files in that directory begin."""

    @property
    def main(self) -> str:
        """The main config file if it is bluegreen's own, else empty."""

    @property
    def pid_file(self) -> str:
        """Where the proxy's first process writes its id."""

    @property
    def bind(self) -> str:
        """What the proxy listens on for clients: an address and port, or a port of any address."""

    @property
    def tls_bind(self) -> str:
        """The same for https; empty without TLS."""

    @property
    def front(self) -> Endpoint:
        """Where a client at the proxy's place reaches it."""

    @property
    def admin(self) -> str:
        """The admin socket of a proxy that has one."""

    @property
    def owns_process(self) -> bool:
        """Whether the proxy's process is bluegreen's own, so that its global options are too."""

    @property
    def reload(self) -> Sequence[str]:
        """The command that a person wants for a reload; empty for the proxy's own way."""

    def exists(self) -> bool: ...

    def running(self) -> bool: ...

    def master(self) -> int:
        """The process id of the proxy's first process, as the agent sees it."""

    def boot(
        self, command: Sequence[str], files: Mapping[str, str], networks: Sequence[str], published: Sequence[str] = ()
    ) -> bool:
        """The proxy runs and reaches the networks. True if it is new: then `files` are in `root`, and what it listens
        on at the ports of these addresses is `published` there."""

    def service_files(self, suffix: str) -> list[str]:
        """The services that have a file, whether the proxy runs or not."""

    def detach(self, network: str) -> None:
        """The proxy is not in the network."""

    def remove(self) -> list[str]:
        """What bluegreen made of the proxy itself is gone. Says what went."""

    def log(self) -> str:
        """The last lines that the proxy wrote, or where to find them."""

    def output(self, *command: str) -> str:
        """What a command of the proxy's program prints, even when the proxy does not run."""
