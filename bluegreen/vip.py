"""The address that two load balancers share: Keepalived's file, and Keepalived itself in a container.

It belongs to the host and its proxy, and to no service: its name comes from the address, and a deploy leaves it alone.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import shlex
import time
from dataclasses import dataclass
from importlib import resources
from typing import Any

from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from bluegreen import archive
from bluegreen.errors import BluegreenError, Failed, SettingsError, UsageError
from bluegreen.hosts import Host
from bluegreen.proxies.templates import render as render_template
from bluegreen.runtimes.executing import said_in
from bluegreen.settings import Settings, VipTable

ROOT = "/bluegreen"
"""Where the volume is mounted in the container."""

FILE = "keepalived.conf"

ASKER = "switches.pl"
"""What the nodes of several hosts tell each other their switches with; see there."""

NODES, SWITCHES = "nodes", "switches"
"""What that reads: who the nodes are, and a directory with the number of each service's last switch."""

FIRST_PORT = 21200
"""By UDP they ask each other at this port and the router's id more, which no other pair of the network has."""

OLDEST = (2, 0)
"""Before 2.0 Keepalived may not notice that the network went and came back, and then holds an address that is gone."""

_ADDRESSES = ("/proc/net/fib_trie", "/proc/net/if_inet6")
_NONLOCAL = "/proc/sys/net/ipv{family}/ip_nonlocal_bind"
_STATE = re.compile(r"Entering (MASTER|BACKUP|FAULT) STATE")
_BEGINS = re.compile(r"^.*(?:Starting Keepalived|Reloading).*$", re.MULTILINE)
_COMPLAINT = re.compile(
    r"^.*(?:invalid passwd|mismatch|unexpected ip number|not present in|Couldn't set).*$", re.MULTILINE
)


def table(settings: Settings) -> VipTable:
    """The settings of the address. Raises SettingsError if there is none."""
    if settings.vip is None:
        raise SettingsError(
            "vip.address: there is no [vip], so no address is shared", hint="set vip.address and vip.interface"
        )
    return settings.vip


def render(settings: Settings, node: int = 1, *, contained: bool = False) -> str:
    """The file of the node of this number, counted from 1 as the priorities are. Raises UsageError for another.

    In a container of bluegreen's own (`contained`) there also is what nodes ask each other with.
    """
    vip = table(settings)
    if not 1 <= node <= len(vip.priorities):
        raise UsageError(f"there is no node {node}: vip.priorities has {len(vip.priorities)}")
    return render_template(
        "keepalived.conf.j2",
        vip=vip,
        node=node,
        advert=f"{vip.advert:g}",
        check=check_command(settings, node),
        switches=f"/usr/bin/perl {ROOT}/{ASKER} check" if contained and asks(settings) else "",
    )


def asks(settings: Settings) -> bool:
    """Whether each node asks the others for their switches: it needs to know who they are."""
    return bool(settings.hosts and settings.vip and settings.vip.peers)


def port(vip: VipTable) -> int:
    """Where each node answers the others, by UDP."""
    return FIRST_PORT + vip.router_id


def _asking(settings: Settings, node: int) -> dict[str, bytes]:
    """What a node asks the others with, and answers them; nothing where they don't."""
    if not asks(settings):
        return {}
    vip = table(settings)
    own = vip.peers[node - 1]
    lines = [f"port {port(vip)}", f"own {own}", *(f"peer {peer}" for peer in vip.peers if peer != own)]
    lines += [f"check {word}" for word in shlex.split(check_command(settings, node))]
    script = resources.files("bluegreen").joinpath(f"templates/{ASKER}").read_bytes()
    return {NODES: "".join(f"{line}\n" for line in lines).encode(), ASKER: script}


def check_command(settings: Settings, node: int = 1) -> str:
    """What asks whether the proxy of the node answers, run on it; it ends with 0 if so.

    It is Perl alone, without a `$` or a quote, as Keepalived reads those in its file in its own way.
    """
    proxy, vip = settings.proxy, table(settings)
    if proxy.address == vip.ip:
        # Where another node holds the address, connecting to it would ask that node's proxy.
        listening = f" {_as_in_proc(vip.ip)}:{proxy.port:04X} 0+:0000 0A "
        source = "/proc/net/tcp6" if ":" in vip.ip else "/proc/net/tcp"
        return f"/usr/bin/perl -e 'grep(/{listening}/,<>)||exit 1' {source}"
    # A node that lost its own address still sends adverts by unicast, but no answer gets to a client.
    own = vip.peers[node - 1] if vip.peers else ""
    host = {"0.0.0.0": own or "127.0.0.1", "::": own or "::1"}.get(proxy.address, proxy.address)  # noqa: S104
    six = "6" if ":" in host else ""
    address = f"pack_sockaddr_in{six}({proxy.port},inet_pton(AF_INET{six},q({host})))"
    asked = f"socket(S,PF_INET{six},SOCK_STREAM,0)&&connect(S,{address})"
    if proxy.mode == "http" and proxy.listen != proxy.tls_listen:
        # The proxy itself answers what is no request, with 400: no app is asked, so that none which hangs moves the
        # address.
        asked += "&&send(S,qq(x).chr(10).chr(10),0)&&<S>"
    return f"/usr/bin/perl -MSocket=:all -e '{asked}||exit 1'"


def _as_in_proc(address: str) -> str:
    """The address as the kernel of a little-endian machine prints it in /proc/net/tcp: word by word, backwards."""
    packed = ipaddress.ip_address(address).packed
    return "".join(packed[i : i + 4][::-1].hex() for i in range(0, len(packed), 4)).upper()


@dataclass(frozen=True)
class View:
    """What the engine's host says of its network."""

    addresses: frozenset[str]
    interfaces: frozenset[str]
    nonlocal_bind: bool
    """Whether a program may listen on an address that the host does not have."""


def holds(host: Host, settings: Settings) -> bool:
    """Whether the host holds the address just now; False where it can't be told, or there is none."""
    if settings.vip is None:
        return False
    try:
        return settings.vip.ip in Vip(host.client, settings).view().addresses
    except (BluegreenError, DockerException):
        return False


class Vip:
    """Keepalived in a container of the engine's host, with its file in a named volume."""

    def __init__(self, client: Any, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self.vip = table(settings)
        self.name = f"bluegreen-vip-{re.sub(r'[^0-9A-Za-z.]+', '-', self.vip.ip)}"

    def boot(self, node: int | None = None, number: int | None = None) -> str:
        """Keepalived runs with the file that the settings want, tested before; says what was done.

        Without a number it stays the node that it is. A file that changed is loaded without a restart, and nothing is
        touched if it did not. The `number` is that of the service's switch on this host, where nodes ask each other.
        Raises Failed, with all as it was, if Keepalived refuses the file.
        """
        container, current = self._container(), self._file()
        node = node or node_of(current)
        if not node:
            raise UsageError(
                "which of the nodes is this?",
                hint="bluegreen vip boot --node 1 (the first of vip.priorities, and of vip.peers)",
            )
        wanted = render(self._settings, node, contained=True)
        asking = _asking(self._settings, node)
        running = container is not None and container.status == "running"
        if asking and container is not None:
            if self._command() == container.attrs["Config"]["Cmd"]:
                self.tell(number)
                if any(self._file(name).encode() != text for name, text in asking.items()):
                    container.put_archive(ROOT, archive.pack(asking, mode=0o600))
            else:  # made before it had anybody to ask
                self._have_image()
                self._test(wanted)
                self.remove()
                container, running = None, False
        if running and current == wanted:
            return f"{self.name} runs as node {node}, unchanged"
        self._have_image()
        self._test(wanted)
        if container is None:
            container = self._create(wanted)
            if asking:
                container.put_archive(ROOT, archive.pack(asking, mode=0o600))
                self.tell(number)
            done = f"is made and runs as node {node}"
        elif current == wanted:
            done = f"runs again as node {node}"
        else:
            container.put_archive(ROOT, _packed(wanted))
            done = f"has loaded its new file as node {node}" if running else f"runs as node {node} with its new file"
        if running:
            container.kill("HUP")
        else:
            container.start()
            container.reload()
        self._stays_up(container, container.attrs["State"]["StartedAt"])
        return f"{self.name} {done}"

    def tell(self, number: int | None) -> None:
        """The node answers the others with this number of the service's switch; 0 is none, and None changes nothing.

        Nothing is done where there is no Keepalived of bluegreen's.
        """
        container = self._container() if number is not None and asks(self._settings) else None
        if container is not None:
            files = {f"{SWITCHES}/{self._settings.service}": f"{number}\n".encode()}
            with contextlib.suppress(APIError):  # it is just being removed: the next run tells it again
                container.put_archive(ROOT, archive.pack(files, mode=0o600))

    def heard(self) -> list[str]:
        """What the other nodes answer when this one asks, a line each; nothing where it does not."""
        container = self._container() if asks(self._settings) else None
        if container is None or container.status != "running":
            return []
        return said_in(container, ["/usr/bin/perl", f"{ROOT}/{ASKER}", "ask"]).splitlines()

    def status(self) -> dict[str, Any]:
        """What is true on this host."""
        container, current, view = self._container(), self._file(), self.view()
        node = node_of(current)
        running = container is not None and container.status == "running"
        log = container.logs(tail=1000).decode(errors="replace") if container else ""
        held = self.vip.ip in view.addresses
        complaints = _COMPLAINT.findall(log, max((match.end() for match in _BEGINS.finditer(log)), default=0))
        valid = node and node <= len(self.vip.priorities)
        return {
            "name": self.name,
            "address": self.vip.ip,
            "interface": self.vip.interface,
            "interface_there": self.vip.interface in view.interfaces,
            "router_id": self.vip.router_id,
            "node": node,
            "priority": self.vip.priorities[node - 1] if valid else None,
            "exists": container is not None,
            "running": running,
            "version": self._version(container) if running else None,
            "held": held,
            "state": state_of(log, held=held) if running else None,
            "current": bool(valid) and self._is_current(current, node),
            "switch": self._told(),
            "nonlocal_bind": view.nonlocal_bind,
            "complaint": complaints[-1].strip() if complaints and running else None,
        }

    def remove(self) -> list[str]:
        """The container and its volume are gone, and the other node has the address. Says which were there."""
        gone = []
        container = self._container()
        if container is not None:
            container.stop()  # a clean stop tells the others at once; a kill lets them wait
            container.remove(v=True)
            gone.append(f"container {self.name}")
        with contextlib.suppress(NotFound):
            self._client.volumes.get(self.name).remove()
            gone.append(f"volume {self.name}")
        return gone

    def view(self) -> View:
        """What the host says, by way of a container that looks at its network; any image with `cat` will do."""
        family = 6 if ":" in self.vip.ip else 4
        paths = [*_ADDRESSES, "/proc/net/dev", _NONLOCAL.format(family=family)]
        container = self._container()
        if container is not None and container.status == "running":
            words = said_in(container, ["cat", *paths])
        else:
            here = self._client.api.images(self.vip.image)
            words = self._once(self.vip.image if here else self._settings.proxy.image, ["cat", *paths])[1]
        return parse_view(words)

    def _container(self) -> Any | None:
        try:
            return self._client.containers.get(self.name)
        except NotFound:
            return None

    def _file(self, name: str = FILE) -> str:
        """The file that the container has; empty without one."""
        container = self._container()
        if container is None:
            return ""
        try:
            found = archive.read(container, f"{ROOT}/{name}")
        except NotFound:
            return ""
        return found.get(name.rpartition("/")[2], b"").decode(errors="replace")

    def _told(self) -> int | None:
        """The number of the service's switch that the node answers the others with."""
        number = self._file(f"{SWITCHES}/{self._settings.service}").strip() if asks(self._settings) else ""
        return int(number) if number.isdigit() and int(number) else None

    def _is_current(self, text: str, node: int) -> bool:
        """Whether the file, with this text, and what nodes ask each other with are as the settings want them."""
        asking = _asking(self._settings, node)
        current = all(self._file(name).encode() == content for name, content in asking.items())
        return current and text == render(self._settings, node, contained=True)

    def _command(self) -> list[str]:
        command = ["keepalived", "--dont-fork", "--log-console", f"--use-file={ROOT}/{FILE}"]
        return ["/usr/bin/perl", f"{ROOT}/{ASKER}", "run", *command] if asks(self._settings) else command

    def _version(self, container: Any) -> str | None:
        found = re.search(r"Keepalived v([0-9.]+)", said_in(container, ["keepalived", "--version"]))
        return found[1] if found else None

    def _have_image(self) -> None:
        image = self.vip.image
        try:
            self._client.images.get(image)
        except ImageNotFound:
            try:
                self._client.images.pull(image)
            except (APIError, ImageNotFound) as error:
                raise Failed(
                    f"vip.image: {image} is not on the engine and can't be pulled: {error.explanation or error}",
                    hint="set vip.image to an image with keepalived and perl: FROM debian:stable-slim, and"
                    " RUN apt-get update && apt-get install -y keepalived",
                ) from error

    def _test(self, text: str) -> None:
        """Keepalived takes the file, on this host's network. Raises Failed if it does not."""
        code, words = self._once(self.vip.image, ["keepalived", "--config-test", f"--use-file=/{FILE}"], text)
        if code:
            raise Failed(
                f"keepalived refuses its new file, and nothing was changed: {words.strip() or f'exit code {code}'}",
                hint="bluegreen vip render shows it",
            )
        # Keepalived itself would wait for one that comes up later, and so say nothing of one that is misspelt.
        view = self.view()
        if self.vip.interface not in view.interfaces:
            raise Failed(
                f"vip.interface: this host has no {self.vip.interface}, and nothing was changed; it has"
                f" {', '.join(sorted(view.interfaces - {'lo'}))}",
                hint="set vip.interface",
            )

    def _once(self, image: str, command: list[str], file: str = "") -> tuple[int, str]:
        """The exit code and the words of a command in the host's network, in a container that is gone afterwards."""
        try:
            container = self._client.containers.create(image, command, entrypoint=[], network_mode="host")
        except ImageNotFound as error:
            raise Failed(f"{image} is not on the engine", hint=f"docker pull {image}") from error
        try:
            if file:
                container.put_archive("/", _packed(file))
            container.start()
            return container.wait()["StatusCode"], container.logs().decode(errors="replace")
        finally:
            container.remove(force=True, v=True)

    def _create(self, text: str) -> Any:
        labels = {"bluegreen.vip": self.vip.ip}
        self._client.volumes.create(self.name, labels=labels)
        container = self._client.containers.create(
            self.vip.image,
            self._command(),
            entrypoint=[],
            name=self.name,
            labels=labels,
            network_mode="host",
            cap_drop=["ALL"],
            # The first two are its work. Without the third it can't drop groups before it runs the check of the proxy,
            # and then takes the check, which never ran, for passed (seen with 2.2.7).
            cap_add=["NET_ADMIN", "NET_RAW", "SETGID"],
            security_opt=["no-new-privileges"],
            read_only=True,
            pids_limit=64,
            tmpfs={"/run": "", "/tmp": ""},
            volumes={self.name: {"bind": ROOT, "mode": "rw"}},
            restart_policy={"Name": "always"},
            stop_signal="SIGTERM",
            log_config={"type": "json-file", "config": {"max-size": "10m", "max-file": "3"}},
        )
        container.put_archive(ROOT, _packed(text))
        return container

    def _stays_up(self, container: Any, started: str) -> None:
        """Raises Failed if within a second it has ended, or was started anew."""
        time.sleep(1)
        container.reload()
        if container.status != "running" or container.attrs["State"]["StartedAt"] != started:
            last = container.logs(tail=5).decode(errors="replace").strip()
            raise Failed(f"{self.name} does not stay up: {last}", hint=f"docker logs {self.name}")


def state_of(log: str, *, held: bool) -> str | None:
    """The state of the node by what its Keepalived has written, of whose lives only the last counts; None if unknown.

    One whose tracked scripts have not passed since it started is in FAULT, and says nothing of it.
    """
    _, started, now = log.rpartition("Starting Keepalived")
    states = _STATE.findall(now)
    return states[-1] if states else "MASTER" if held else "FAULT" if started else None


def node_of(text: str) -> int:
    """The number of the node whose file this is; 0 for none that was made here."""
    found = re.match(r"# Keepalived for \S+, node (\d+) of \d+, made by bluegreen: \w+\n", text)
    return int(found[1]) if found else 0


def parse_view(words: str) -> View:
    """The addresses, interfaces and the switch in what `cat` printed of the host's /proc."""
    found = {match[1] for match in re.finditer(r"\|-- (\S+)\n\s+/32 host LOCAL", words)}
    for match in re.finditer(r"^([0-9a-f]{32}) [0-9a-f]{2} ", words, re.MULTILINE):
        found.add(str(ipaddress.IPv6Address(int(match[1], 16))))
    interfaces = frozenset(re.findall(r"^\s*([^\s:|]+):\s*\d+ ", words, re.MULTILINE))
    last = words.strip().rpartition("\n")[2].strip()
    return View(frozenset(found), interfaces, last == "1")


def _packed(text: str) -> bytes:
    """A tar of Keepalived's file, which root alone may read, as it may hold a password."""
    return archive.pack({FILE: text.encode()}, mode=0o600)
