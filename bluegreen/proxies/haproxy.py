"""HAProxy: switched in place by its runtime API, or by a reload of its worker."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence

from bluegreen.errors import Failed
from bluegreen.model import Colour, Endpoint, SwitchRecord
from bluegreen.proxies import Upstreams
from bluegreen.proxies.container import PORT, ROOT, TLS_PORT
from bluegreen.proxies.driver import INSIDE_PORT, SECRETS, STATUS_PORT, Driver
from bluegreen.proxies.templates import render
from bluegreen.runtimes.session import SessionEnded

MAIN = f"{ROOT}/haproxy.cfg"
SERVICES = f"{ROOT}/services"
ADMIN = "/tmp/bluegreen-admin.sock"
HOSTS, DOMAINS, LIVE = (f"{ROOT}/{name}.map" for name in ("hosts", "domains", "live"))


class HAProxy(Driver):
    """One service's place in HAProxy."""

    kind = "haproxy"
    suffix = ".cfg"

    def boot(self, networks: Sequence[str]) -> bool:
        # The certificates come with the first install: a directory without one would keep HAProxy from starting.
        files = {"haproxy.cfg": self._main(own=False), "services/": "", "state/": ""}
        files |= {path.removeprefix(f"{ROOT}/"): "" for path in (HOSTS, DOMAINS, LIVE)}
        return self._container.boot(["haproxy", "-W", "-db", "-f", MAIN, "-f", SERVICES], files, networks)

    def render(self, upstreams: Upstreams, colour: Colour) -> str:
        proxy, pair = self._settings.proxy, self._settings.pair
        return render(
            "haproxy-service.cfg.j2",
            salt=self._main() + (pair.fingerprint if pair else ""),
            service=self._service,
            blue=upstreams[Colour.BLUE],
            green=upstreams[Colour.GREEN],
            colour=colour,
            switch="live" if self._live else "reload",
            live=LIVE,
            max_body=proxy.max_body.bytes,
            plain=proxy.plain,
            redirect=self._https_port() if proxy.redirects else None,
        )

    def switch(self, record: SwitchRecord, upstreams: Upstreams) -> None:
        if not record.committed:
            self._write_record(record)
        trial = not record.committed and record.from_colour is not None
        backend = f"{self._service}_{record.to_colour}" + ("_first" if trial else "")
        self._write_routes(backend)
        self._install(self.render(upstreams, record.to_colour))
        if trial:
            # Their checks have not seen them yet, and until then the old colour would stand in for them.
            for index in range(len(upstreams[record.to_colour])):
                self._ask(f"set server {backend}/new{index + 1} health up")
        self._flip(backend)
        if record.committed:
            self._write_record(record)  # only now: a crash before this leaves an uncommitted one, which is taken up
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
        if not self._live:
            return len(leaving)
        wanted = {str(endpoint) for endpoint in endpoints}
        rows = csv.DictReader(self._ask("show stat").lstrip("# ").splitlines())
        return len(leaving) + sum(int(row["scur"] or 0) for row in rows if row.get("addr") in wanted)

    def _main(self, *, own: bool = True) -> str:
        """The main file; without what this service needs in it unless `own`."""
        settings = self._settings
        tls = settings.proxy.tls if own else None
        return render(
            "haproxy.cfg.j2",
            admin=ADMIN,
            hard_stop_s=round(settings.retire.drain_timeout + settings.bake.seconds + 60),
            read_timeout_ms=round(settings.proxy.read_timeout * 1000),
            port=PORT,
            inside_port=INSIDE_PORT,
            tls_port=TLS_PORT if tls or self._others_have_tls() else None,
            secrets=SECRETS,
            http2=tls is None or tls.http2,
            hosts=HOSTS,
            domains=DOMAINS,
            live=LIVE,
            status_port=STATUS_PORT,
        )

    def _files(self, text: str) -> Mapping[str, str | None]:
        return {**super()._files(text), MAIN: self._main()}

    def _secrets(self) -> Mapping[str, str | None]:
        pair = self._settings.pair
        return {f"{self._secret}.pem": f"{pair.certificate.rstrip()}\n{pair.key}" if pair else None}

    def _others_have_tls(self) -> bool:
        """Whether the directory of certificates, which the main file names, holds another service's."""
        try:
            names = self._agent.run("ls", SECRETS)[1].split()
        except SessionEnded:
            return False
        return bool({name for name in names if name.endswith(".pem")} - {f"{self._service}.pem"})

    def _write_routes(self, backend: str) -> None:
        """After a restart, too, the service's hosts lead to it, and it to this backend."""
        hosts = self._settings.proxy.hosts or ("*",)
        exact = "".join(f"{host} {self._service}\n" for host in hosts if not host.startswith("*."))
        domains = "".join(f"{host[1:]} {self._service}\n" for host in hosts if host.startswith("*."))
        self._agent.replace_lines(HOSTS, 1, self._service, exact)
        self._agent.replace_lines(DOMAINS, 1, self._service, domains)
        self._agent.replace_lines(LIVE, 0, self._service, f"{self._service} {backend}\n")

    def _forget(self) -> None:
        self._agent.replace_lines(HOSTS, 1, self._service, "")
        self._agent.replace_lines(DOMAINS, 1, self._service, "")
        self._agent.replace_lines(LIVE, 0, self._service, "")
        self._agent.write(MAIN, self._main(own=False))

    def _flip(self, backend: str) -> None:
        """The running worker sends all new requests to the backend."""
        self._ask(f"set map {LIVE} {self._service} {backend}")

    def _ask(self, command: str) -> str:
        return self._agent.ask_socket(ADMIN, command)

    def _test(self) -> tuple[int, str]:
        return self._agent.run("haproxy", "-c", "-q", "-f", MAIN, "-f", SERVICES)

    def _signal_reload(self) -> tuple[int, str]:
        return self._agent.run("sh", "-c", "kill -USR2 1")

    def _workers(self) -> Mapping[int, bool]:
        """The master is the container's first process. Which worker is leaving, its command line does not tell."""
        processes = self._agent.processes().items()
        return {pid: False for pid, line in processes if pid != 1 and line.startswith("haproxy ")}

    def _took_effect(self, before: set[int]) -> bool:
        """The listening sockets pass from worker to worker, so that several answers in a row must be the new one's."""
        if not set(self._workers()) - before:
            return False
        return len({self._serving()[0] for _ in range(5)}) == 1
