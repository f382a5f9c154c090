"""nginx: switched in place by a file that it looks at for every request, or by a reload."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Sequence
from importlib import resources

from bluegreen.errors import Failed
from bluegreen.model import Colour, Endpoint, ProxyState, SwitchRecord
from bluegreen.proxies import Upstreams
from bluegreen.proxies.agent import AgentError, Answer
from bluegreen.proxies.container import PORT, ROOT, ProxyContainer
from bluegreen.runtimes.session import SessionEnded
from bluegreen.settings import Settings

STATUS_PORT = 8079
"""Where, on the container's loopback, a running worker tells what it serves."""

EFFECT = 30
"""Seconds that a reload may take until every old worker is leaving; a healthy nginx takes 0.1 to 0.2."""

MAIN = f"{ROOT}/nginx.conf"


class Nginx:
    """One service's place in an nginx container."""

    def __init__(self, settings: Settings, container: ProxyContainer) -> None:
        self._settings = settings
        self._service = settings.service
        self._container = container
        self._agent = container.agent
        self._file = f"{ROOT}/services/{self._service}.conf"
        self._state = f"{ROOT}/state/{self._service}"
        self._live = settings.proxy.switch != "reload"
        self._version = ""
        self._leaving: set[int] | None = None

    @property
    def name(self) -> str:
        return self._container.name

    def observe(self) -> ProxyState:
        container = self._container.inspect()
        how = "live" if self._live else "reload"
        if container is None:
            return ProxyState(switch=how)
        if container.status != "running":
            return ProxyState(exists=True, switch=how)
        self._wait_until_up()
        return ProxyState(
            exists=True,
            running=True,
            version=self._running_version(),
            colour=self._serving()[1],
            record=self._record(),
            config=self._agent.read(self._file) if self._agent.exists(self._file) else "",
            switch=how,
        )

    def boot(self, networks: Sequence[str]) -> bool:
        main = resources.files("bluegreen").joinpath("templates/nginx.conf").read_text()
        files = {"nginx.conf": main, "services/": "", "state/": ""}
        command = ["nginx", "-c", MAIN, "-g", "daemon off;"]
        return self._container.boot(command, files, networks)

    def render(self, upstreams: Upstreams, colour: Colour) -> str:
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("bluegreen"),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,  # nginx, not HTML; settings admit no character that nginx would read as structure
        )
        proxy = self._settings.proxy
        text = environment.get_template("nginx-service.conf.j2").render(
            service=self._service,
            stamp="STAMP",
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
            keepalive_min=_number(self._running_version()) >= (1, 27, 4),
        )
        return text.replace("STAMP", hashlib.sha256(text.encode()).hexdigest()[:12])

    def prepare(self, upstreams: Upstreams, colour: Colour | None) -> None:
        if self._live and colour:
            self._install(self.render(upstreams, colour))

    def switch(self, record: SwitchRecord, upstreams: Upstreams) -> None:
        old = self._serving()[1]
        trial, green = f"{self._state}/trial", f"{self._state}/green"
        if not record.committed:
            self._write_record(record)
        if not record.committed and record.from_colour:
            self._agent.write(trial, "")
        if self._live:
            if record.to_colour is Colour.GREEN:
                self._agent.write(green, "")
            else:
                self._agent.remove(green)
        self._install(self.render(upstreams, record.to_colour))
        if record.committed and self._live:
            self._agent.remove(trial)  # after a reload, leaving workers may still need it: it goes with `commit`
        if record.committed:
            self._write_record(record)  # only now: a crash before this leaves an uncommitted one, which is taken up
        if self._serving()[1] is not record.to_colour:
            raise Failed(f"{self.name} serves {old or 'nothing'} still, though {record.to_colour} was set")

    def commit(self, record: SwitchRecord) -> None:
        self._agent.remove(f"{self._state}/trial")
        self._write_record(record)

    def in_flight(self, endpoints: Sequence[Endpoint]) -> int:
        if self._live:
            return self._agent.connections(endpoints)
        leaving = {pid for pid, line in self._workers().items() if "shutting down" in line}
        count = len(leaving if self._leaving is None else leaving & self._leaving)
        # Drained is when they are gone. Until then, what is told is the requests that they hold, not the workers.
        return max(count, self._agent.connections(endpoints)) if count else 0

    def get(self, path: str, host: str, timeout: float) -> Answer:
        return self._agent.get(Endpoint("127.0.0.1", PORT), path, host=host, timeout=timeout)

    def get_from(self, endpoint: Endpoint, path: str, host: str, timeout: float) -> Answer:
        return self._agent.get(endpoint, path, host=host, timeout=timeout)

    def remove(self) -> list[str]:
        names = self._container.files("services")
        if not [name for name in names if name.endswith(".conf") and name != f"{self._service}.conf"]:
            return self._container.remove()
        if f"{self._service}.conf" not in names:
            return []
        self.boot([])
        self._agent.remove(self._file)
        self._agent.run("rm", "-rf", self._state)
        self._reload(expect=None)
        self._container.detach(f"bluegreen-net-{self._service}")
        return [f"{self._service} from {self.name}"]

    def close(self) -> None:
        self._agent.close()

    def _install(self, text: str) -> None:
        """The running workers have this file. The one that stood before is back if nginx refuses it."""
        stamp = _stamp(text)
        old = self._agent.read(self._file) if self._agent.exists(self._file) else None
        if text == old and self._serving()[0] == stamp:
            return
        self._agent.write(self._file, text)
        code, words = self._agent.run("nginx", "-t", "-q", "-c", MAIN)
        if code:
            if old is None:
                self._agent.remove(self._file)
            else:
                self._agent.write(self._file, old)
            raise Failed(f"nginx refuses the new config, and the old one is back: {words}")
        try:
            self._reload(expect=stamp)
        except Failed:
            if old is not None:
                self._agent.write(self._file, old)
            raise

    def _reload(self, expect: str | None) -> None:
        """Every worker from before is leaving or gone, and the new ones serve the file stamped `expect`."""
        before = set(self._workers())
        code, words = self._agent.run("nginx", "-s", "reload", "-c", MAIN)
        if code:
            raise Failed(f"nginx does not reload: {words}")
        deadline = time.monotonic() + EFFECT
        while True:
            workers = self._workers()
            staying = {pid for pid in before & set(workers) if "shutting down" not in workers[pid]}
            if not staying and (expect is None or self._serving()[0] == expect):
                self._leaving = before
                return
            if time.monotonic() > deadline:
                raise Failed(f"nginx still runs its old config {EFFECT} s after the reload: {self._container.log()}")
            time.sleep(0.02)

    def _wait_until_up(self) -> None:
        """nginx has read its config and listens, so that what it does not serve is really not served."""
        deadline = time.monotonic() + EFFECT
        while not self._agent.listens(PORT):
            if time.monotonic() > deadline:
                raise Failed(f"{self.name} runs, but does not listen: {self._container.log()}")
            time.sleep(0.02)

    def _workers(self) -> dict[int, str]:
        return {pid: line for pid, line in self._agent.processes().items() if line.startswith("nginx: worker")}

    def _serving(self) -> tuple[str, Colour | None]:
        """The stamp of the file that a running worker has, and the colour it sends requests to."""
        try:
            answer = self._agent.get(
                Endpoint("127.0.0.1", STATUS_PORT), "/", host=f"{self._service}.bluegreen", timeout=5
            )
        except AgentError:
            return "", None
        stamp, _, pool = answer.body.partition(" ")
        found = re.fullmatch(rf"{re.escape(self._service)}_(blue|green)(_first)?", pool)
        return (stamp, Colour(found[1])) if answer.status == 200 and found else ("", None)

    def _record(self) -> SwitchRecord | None:
        path = f"{self._state}/record"
        with contextlib.suppress(ValueError):
            return SwitchRecord.from_json(self._agent.read(path)) if self._agent.exists(path) else None
        return None

    def _write_record(self, record: SwitchRecord) -> None:
        self._agent.write(f"{self._state}/record", record.to_json() + "\n")

    def _running_version(self) -> str:
        if not self._version:
            try:
                words = self._agent.run("nginx", "-v")[1]
            except SessionEnded:
                words = self._container.output("nginx", "-v")
            found = re.search(r"nginx/([0-9.]+)", words)
            self._version = found[1] if found else ""
        return self._version


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part)


def _stamp(text: str) -> str:
    """The stamp in a rendered file's first line."""
    return text.split("\n", 1)[0].rsplit(" ", 1)[-1]
