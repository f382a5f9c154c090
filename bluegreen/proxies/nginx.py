"""nginx: switched in place by a file that it looks at for every request, or by a reload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

from bluegreen.errors import Failed
from bluegreen.model import Colour, Endpoint, SwitchRecord
from bluegreen.proxies import Upstreams
from bluegreen.proxies.container import PORT, ROOT, TLS_PORT
from bluegreen.proxies.driver import INSIDE_PORT, STATUS_PORT, Driver
from bluegreen.proxies.templates import render

MAIN = f"{ROOT}/nginx.conf"

KEEPALIVE_MIN = (1, 27, 4)
"""The version from which on a leaving worker can be told to wait before it closes idle connections."""


HTTP2_WORD = (1, 25, 1)
"""The version from which on HTTP/2 is a directive of its own and no word of `listen`."""


class Nginx(Driver):
    """One service's place in nginx."""

    kind = "nginx"
    suffix = ".conf"

    def boot(self, networks: Sequence[str]) -> bool:
        main = resources.files("bluegreen").joinpath("templates/nginx.conf").read_text()
        files = {"nginx.conf": main, "services/": "", "state/": ""}
        return self._container.boot(["nginx", "-c", MAIN, "-g", "daemon off;"], files, networks)

    def render(self, upstreams: Upstreams, colour: Colour) -> str:
        proxy, pair = self._settings.proxy, self._settings.pair
        version = tuple(map(int, self._running_version().split(".")))
        return render(
            "nginx-service.conf.j2",
            salt=pair.fingerprint if pair else "",
            service=self._service,
            blue=upstreams[Colour.BLUE],
            green=upstreams[Colour.GREEN],
            colour=colour,
            switch="live" if self._live else "reload",
            state=self._state,
            port=PORT,
            status_port=STATUS_PORT,
            hosts=proxy.hosts,
            max_body=proxy.max_body,
            read_timeout_ms=round(proxy.read_timeout * 1000),
            keepalive_min=version >= KEEPALIVE_MIN,
            plain=proxy.plain,
            redirect=self._https_port() if proxy.redirects else None,
            inside_port=INSIDE_PORT,
            tls_port=TLS_PORT if pair else None,
            pair=self._secret,
            http2=proxy.tls is not None and proxy.tls.http2,
            http2_word=version >= HTTP2_WORD,
        )

    def switch(self, record: SwitchRecord, upstreams: Upstreams) -> None:
        trial, green = f"{self._state}/trial", f"{self._state}/green"
        if not record.committed:
            self._write_record(record)
            if record.from_colour:
                self._agent.write(trial, "")
        if self._live:
            if record.to_colour is Colour.GREEN:
                self._agent.write(green, "")
            else:
                self._agent.remove(green)
        self._install(self.render(upstreams, record.to_colour))
        if record.committed:
            if self._live:
                self._agent.remove(trial)  # after a reload, leaving workers may still need it: it goes with `commit`
            self._write_record(record)  # only now: a crash before this leaves an uncommitted one, which is taken up
        if self._serving()[1] is not record.to_colour:
            raise Failed(f"{self.name} does not serve {record.to_colour}, though it was told to")

    def commit(self, record: SwitchRecord) -> None:
        self._agent.remove(f"{self._state}/trial")
        self._write_record(record)

    def in_flight(self, endpoints: Sequence[Endpoint]) -> int:
        if self._live:
            return self._agent.connections(endpoints)
        leaving = {pid for pid, is_leaving in self._workers().items() if is_leaving}
        return len(leaving if self._leaving is None else leaving & self._leaving)

    def _secrets(self) -> Mapping[str, str | None]:
        pair = self._settings.pair
        return {
            f"{self._secret}.crt": pair.certificate if pair else None,
            f"{self._secret}.key": pair.key if pair else None,
        }

    def _test(self) -> tuple[int, str]:
        return self._agent.run("nginx", "-t", "-q", "-c", MAIN)

    def _signal_reload(self) -> tuple[int, str]:
        return self._agent.run("nginx", "-s", "reload", "-c", MAIN)

    def _workers(self) -> Mapping[int, bool]:
        processes = self._agent.processes().items()
        return {pid: "shutting down" in line for pid, line in processes if line.startswith("nginx: worker")}
