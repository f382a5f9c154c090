"""nginx: switched in place by a file that it looks at for every request, or by a reload."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources

from bluegreen.errors import Failed
from bluegreen.model import Colour, Endpoint, SwitchRecord
from bluegreen.proxies import Upstreams
from bluegreen.proxies.container import PORT, ROOT, TCP_PORT, ProxyContainer
from bluegreen.proxies.driver import STATUS_PORT, Driver
from bluegreen.proxies.templates import render
from bluegreen.settings import Settings

MAIN = f"{ROOT}/nginx.conf"
STREAM_MAIN = f"{ROOT}/main/stream.conf"

STREAM = "# For nginx's stream module:\n"
"""In what `render` gives, the line that begins what goes into a file of its own, as it stands outside `http`."""

KEEPALIVE_MIN = (1, 27, 4)
"""The version from which on a leaving worker can be told to wait before it closes idle connections."""


class Nginx(Driver):
    """One service's place in nginx."""

    kind = "nginx"
    suffix = ".conf"

    def __init__(self, settings: Settings, container: ProxyContainer) -> None:
        super().__init__(settings, container)
        self._stream = f"{ROOT}/streams/{self._service}.conf"

    def _command(self) -> Sequence[str]:
        return ["nginx", "-c", MAIN, "-g", "daemon off;"]

    def _first_files(self) -> Mapping[str, str]:
        main = resources.files("bluegreen").joinpath("templates/nginx.conf").read_text()
        return {"nginx.conf": main, "services/": "", "state/": ""}

    def render(self, upstreams: Upstreams, colour: Colour) -> str:
        proxy = self._settings.proxy
        return render(
            "nginx-service.conf.j2",
            service=self._service,
            blue=upstreams[Colour.BLUE],
            green=upstreams[Colour.GREEN],
            colour=colour,
            switch="live" if self._live else "reload",
            state=self._state,
            port=PORT,
            tcp_port=TCP_PORT,
            status_port=STATUS_PORT,
            hosts=proxy.hosts,
            mode=proxy.mode,
            tcp=proxy.tcp,
            statics=proxy.static,
            stream=STREAM,
            max_body=proxy.max_body,
            read_timeout_ms=round(proxy.read_timeout * 1000),
            keepalive_min=tuple(map(int, self._running_version().split("."))) >= KEEPALIVE_MIN,
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

    def _config(self) -> str:
        stream = self._agent.read(self._stream) if self._agent.exists(self._stream) else ""
        return super()._config() + (STREAM + stream if stream else "")

    def _files(self, text: str) -> Mapping[str, str]:
        http, _, stream = text.partition(STREAM)
        files = {self._file: http}
        if stream:
            files[STREAM_MAIN] = f"{self._load_stream()}stream {{\n    include {ROOT}/streams/*.conf;\n}}\n"
        if stream or self._agent.exists(self._stream):
            files[self._stream] = stream
        return files

    def _load_stream(self) -> str:
        """What loads the stream module, where it is not built in. Raises Failed if the image has none."""
        built = self._agent.run("nginx", "-V")[1]
        if "--with-stream=dynamic" in built:
            directory = re.search(r"--modules-path=(\S+)", built)
            return f"load_module {directory[1] if directory else 'modules'}/ngx_stream_module.so;\n"
        if "--with-stream" not in built.split():
            raise Failed(f"{self._container.image} has no stream module", hint="set proxy.image to one that has")
        return ""

    def _forget(self) -> None:
        self._agent.remove(self._stream)

    def _test(self) -> tuple[int, str]:
        return self._agent.run("nginx", "-t", "-q", "-c", MAIN)

    def _signal_reload(self) -> tuple[int, str]:
        return self._agent.run("nginx", "-s", "reload", "-c", MAIN)

    def _workers(self) -> Mapping[int, bool]:
        processes = self._agent.processes().items()
        return {pid: "shutting down" in line for pid, line in processes if line.startswith("nginx: worker")}
