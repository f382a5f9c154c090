"""HAProxy: switched in place by its runtime API, or by a reload of its worker."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence

from bluegreen.certificate import Pair
from bluegreen.errors import Failed
from bluegreen.model import Colour, Counts, Endpoint, SwitchRecord
from bluegreen.proxies import Upstreams
from bluegreen.proxies.agent import AgentError
from bluegreen.proxies.driver import INSIDE_PORT, STATUS_PORT, Driver
from bluegreen.proxies.place import Place
from bluegreen.proxies.templates import render, sealed
from bluegreen.runtimes.session import SessionEnded
from bluegreen.settings import HAProxyTable, Settings

ANSWERED = ("hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other")
"""HAProxy's counters of whole answers by their status; those of 1xx come before another one, or open a WebSocket."""

SHARE = 0.02
"""Seconds between two checks of a pool at least, all its servers taken together: no number of replicas makes the checks
of one pool more than 50 a second."""

AT_ONCE = 100
"""How many commands the admin socket is given in one line, which may have 16 kB."""


class HAProxy(Driver):
    """One service's place in HAProxy."""

    kind = "haproxy"
    suffix = ".cfg"

    def __init__(self, settings: Settings, place: Place) -> None:
        super().__init__(settings, place)
        self._hosts, self._domains, self._routes = (f"{place.root}/{name}.map" for name in ("hosts", "domains", "live"))
        # On a host one file more among the person's; its name sorts before those of the services.
        self._main_file = place.main or f"{place.services}/{place.prefix}.cfg"

    def _boot(self, networks: Sequence[str]) -> bool:
        # The certificates come with the first install: a directory without one would keep HAProxy from starting.
        files = {"haproxy.cfg": self._main(tls=False), "services/": "", "state/": ""}
        files |= {path.rpartition("/")[2]: "" for path in (self._hosts, self._domains, self._routes)}
        stats = self._options.stats
        published = (stats.bind,) if stats.bind else ()
        new = self._place.boot(["haproxy", "-W", "-db", *self._config()], files, networks, published)
        if networks and (others := self._others()):
            self._check_shared(others)
        return new

    def _check_shared(self, others: Sequence[str]) -> None:
        """Raises Failed if the other services' clients would find nobody, or share an address with ours."""
        for was, will in (
            (self._bound("clients"), self._clients()),
            (self._tls_of_others(), self._tls_bind() if self._place.tls_bind else ""),
        ):
            if was and will and was.split()[0] != will.split()[0]:
                raise Failed(
                    f"{self.name} serves {', '.join(others)} at {was.split()[0]}, and these settings would move it",
                    hint="give all services of one HAProxy the same proxy.listen and the same proxy.tls.listen",
                )
        place, proxy = self._place, self._settings.proxy
        alone = {self._inside(entry.listen) for entry in proxy.static}
        alone |= {self._inside(place.bind)} if proxy.mode == "tcp" else set()
        shared = set(_binds(self._main()))
        for other in others:
            theirs = set(_binds(self._agent.read(f"{place.services}/{place.prefix}{other}{self.suffix}")))
            if taken := sorted((alone | shared) & theirs):
                raise Failed(f"{self.name} listens at {taken[0]} for {other} already", hint="choose another address")
        if taken := sorted(alone & shared):
            raise Failed(f"{self.name} listens at {taken[0]} for all its services", hint="choose another address")

    @property
    def _options(self) -> HAProxyTable:
        return self._settings.proxy.haproxy

    def render(self, upstreams: Upstreams, colour: Colour) -> str:
        proxy, probe, pair = self._settings.proxy, self._settings.probe, self._settings.pair
        return render(
            "haproxy-service.cfg.j2",
            salt=self._main() + (pair.fingerprint if pair else ""),
            service=self._service,
            mode=proxy.mode,
            bind=self._inside(self._place.bind),
            tcp=proxy.tcp,
            statics=[(entry, self._inside(entry.listen)) for entry in proxy.static],
            blue=upstreams[Colour.BLUE],
            green=upstreams[Colour.GREEN],
            follows=[each for colour in Colour for each in upstreams[colour] if each.follows],
            colour=colour,
            switch="live" if self._live else "reload",
            live=self._routes,
            max_body=proxy.max_body.bytes,
            balance=proxy.balance,
            read_timeout=proxy.read_timeout,
            options=proxy.haproxy,
            stats_bind=self._inside(proxy.haproxy.stats.bind or ""),
            share=SHARE,
            check_path=proxy.haproxy.httpchk if isinstance(proxy.haproxy.httpchk, str) else probe.path,
            check_host=probe.host or self._service,
            plain=proxy.plain,
            redirect=self._https_port(),
        )

    def prepare(self, upstreams: Upstreams, colour: Colour | None) -> None:
        if colour:
            self._have_socket()
        super().prepare(upstreams, colour)

    def switch(self, record: SwitchRecord, upstreams: Upstreams) -> None:
        if not record.committed:
            self._write_record(record)
        trial = not record.committed and record.from_colour is not None
        backend = f"{self._service}_{record.to_colour}" + ("_first" if trial else "")
        self._write_routes(backend)
        if not (record.committed and self._stands(record.to_colour, upstreams)):
            self._install(self.render(upstreams, record.to_colour))
        to = upstreams[record.to_colour]
        if not (record.undone and any(endpoint.follows for endpoint in to)):
            self._count_as_up(record.to_colour, len(to))  # of a swarm's tasks one may be cut off: the checks know best
        self._flip(backend)
        if self._serving()[1] is not record.to_colour:
            raise Failed(f"{self.name} does not serve {record.to_colour}, though it was told to")

    def commit(self, record: SwitchRecord) -> None:
        backend = f"{self._service}_{record.to_colour}"
        self._write_routes(backend)
        self._flip(backend)
        self._write_record(record)

    def in_flight(self, endpoints: Sequence[Endpoint]) -> int:
        workers = set(self._workers())
        leaving = workers - {max(workers, default=0)} if self._leaving is None else workers & self._leaving
        if self._settings.proxy.mode == "tcp":
            return self._agent.connections(endpoints)  # all there is: what a client sends first has its connection
        if not self._live:
            return max(len(leaving), self._agent.connections(endpoints)) if leaving else 0
        wanted = {str(endpoint) for endpoint in endpoints}
        rows = csv.DictReader(self._ask("show stat").lstrip("# ").splitlines())
        return len(leaving) + sum(int(row["scur"] or 0) for row in rows if row.get("addr") in wanted)

    def counts(self) -> Mapping[Colour, Counts]:
        return counted(self._ask("show stat -1 2 -1"), self._service)  # of the backends only

    def _main(self, *, tls: bool = True) -> str:
        """The main file; without `tls`, with no certificate of this service in use."""
        settings = self._settings
        return render(
            "haproxy.cfg.j2",
            admin=self._place.admin,
            owns_process=self._place.owns_process,
            hard_stop_s=round(settings.retire.drain_timeout + settings.bake.seconds + 60),
            read_timeout=settings.proxy.read_timeout,
            options=self._options,
            bind=self._clients(),
            inside_port=INSIDE_PORT,
            tls=self._tls_bind() if tls and self._place.tls_bind else self._tls_of_others(),
            hosts=self._hosts,
            domains=self._domains,
            live=self._routes,
            status_port=STATUS_PORT,
        )

    def _clients(self) -> str:
        """What follows `bind` for plain http: the address, empty if nobody needs it."""
        place = self._place
        if self._settings.proxy.mode == "http" and place.bind != place.tls_bind:
            return self._inside(place.bind)
        return self._bound("clients") if self._others() else ""

    def _bound(self, frontend: str) -> str:
        """What follows `bind` in the main file as it stands; empty if there is no such frontend."""
        try:
            text = self._agent.read(self._main_file)
        except (AgentError, SessionEnded):
            return ""
        found = re.search(rf"^frontend bluegreen\.{frontend} .*\n *bind (.+)$", text, re.MULTILINE)
        return found[1] if found else ""

    def _tls_bind(self) -> str:
        """What follows `bind` for https: the address, and how TLS is spoken there."""
        tls = self._settings.proxy.tls
        offers = "h2,http/1.1" if tls and tls.http2 else "http/1.1"
        return f"{self._inside(self._place.tls_bind)} ssl crt {self._secrets} alpn {offers} ssl-min-ver TLSv1.2"

    def _tls_of_others(self) -> str:
        """The same as it stands, if the directory of certificates, which it names, holds another service's."""
        try:
            names = self._agent.run("ls", self._secrets)[1].split()
        except SessionEnded:
            return ""
        others = {name for name in names if name.endswith(".pem")} - {f"{self._service}.pem"}
        return self._bound("tls") if others else ""

    @property
    def _shared(self) -> Sequence[str]:
        return [self._main_file]

    def _files(self, text: str) -> Mapping[str, str | None]:
        # The certificate before the file that needs it.
        return {**self._pair_files(self._settings.pair), self._main_file: self._main(), self._file: text}

    def _pair_files(self, pair: Pair | None) -> Mapping[str, str | None]:
        return {f"{self._secrets}/{self._service}.pem": f"{pair.certificate.rstrip()}\n{pair.key}" if pair else None}

    def _inside(self, address: str) -> str:
        inside = super()._inside(address)
        return inside if ":" in inside else f":{inside}"

    def _write_routes(self, backend: str) -> None:
        """After a restart, too, the service's hosts lead to it, and it to this backend."""
        hosts = self._settings.proxy.hosts or ("*",) if self._settings.proxy.mode == "http" else ()
        exact = "".join(f"{host} {self._service}\n" for host in hosts if not host.startswith("*."))
        domains = "".join(f"{host[1:]} {self._service}\n" for host in hosts if host.startswith("*."))
        self._agent.replace_lines(self._hosts, 1, self._service, exact)
        self._agent.replace_lines(self._domains, 1, self._service, domains)
        self._agent.replace_lines(self._routes, 0, self._service, f"{self._service} {backend}\n")

    def _forget(self, *, last: bool) -> None:
        self._agent.replace_lines(self._hosts, 1, self._service, "")
        self._agent.replace_lines(self._domains, 1, self._service, "")
        self._agent.replace_lines(self._routes, 0, self._service, "")
        if last and not self._place.main:
            self._agent.remove(self._main_file, self._written(self._main_file), self._kept(self._main_file))
        elif self._agent.exists(self._file):
            main = {self._main_file: sealed(self._main(tls=False))}
            self._lay(main)
            self._remember(main)

    def _have_socket(self) -> None:
        """Raises Failed if HAProxy does not answer at its admin socket, without which nothing can be switched."""
        try:
            self._ask("help")
        except AgentError as error:
            how = f"docker restart {self.name}" if self._place.main else f"restart {self.kind}"
            raise Failed(
                f"{self.name} does not answer at its admin socket, and a reload does not bring that back:"
                f" {error.message}",
                hint=f"{how}, which cuts what is in flight; on a host its main file needs the line that"
                " docs/proxies.md shows for proxy.host.socket",
            ) from error

    def _count_as_up(self, colour: Colour, count: int) -> None:
        """The colour's replicas take requests at once. They passed their probe, but the checks, which HAProxy began
        before there was anybody, may not know it yet."""
        pools = (colour, f"{colour}_ws", f"{colour}_first", f"{colour}_first_ws")
        commands = [
            f"set server {self._service}_{pool}/new{number} health up"
            for pool in pools
            for number in range(1, count + 1)
        ]
        for first in range(0, len(commands), AT_ONCE):
            self._ask("; ".join(commands[first : first + AT_ONCE]))

    def _flip(self, backend: str) -> None:
        """The running worker sends all new requests to the backend."""
        self._ask(f"set map {self._routes} {self._service} {backend}")

    def _ask(self, command: str) -> str:
        return self._agent.ask_socket(self._place.admin, command)

    def _test(self) -> tuple[int, str]:
        return self._agent.run("haproxy", "-c", *self._config())

    def _own_reload(self) -> Sequence[str]:
        return ["sh", "-c", f"kill -USR2 {self._place.master()}"]

    def _config(self) -> list[str]:
        """The files that HAProxy is started with."""
        if self._place.main:
            return ["-f", self._place.main, "-f", self._place.services]
        return ["-f", self._settings.proxy.host.main, "-f", self._place.services]

    def _took_effect(self, before: set[int]) -> bool:
        """The listening sockets pass from worker to worker, so that several answers in a row must be the new one's."""
        if not set(self._workers()) - before:
            return False
        return len({self._serving()[0] for _ in range(5)}) == 1


def counted(stats: str, service: str) -> dict[Colour, Counts]:
    """What the backends of each colour have answered, by what `show stat` gives."""
    totals = {colour: Counts() for colour in Colour}
    for row in csv.DictReader(stats.lstrip("# ").splitlines()):
        pool = re.fullmatch(rf"{re.escape(service)}_(blue|green)(_first)?(_ws)?", row["pxname"])
        if pool and row["svname"] == "BACKEND":
            number = {key: int(row.get(key) or 0) for key in (*ANSWERED, "hrsp_5xx", "wredis")}
            requests = sum(number[key] for key in ANSWERED)
            totals[Colour(pool[1])] += Counts(requests, min(requests, number["hrsp_5xx"] + number["wredis"]))
    return totals


def _binds(text: str) -> list[str]:
    """The addresses that a file listens on."""
    return re.findall(r"^ *bind (\S+)", text, re.MULTILINE)
