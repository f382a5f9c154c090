"""nginx: switched in place by a file that it looks at for every request, or by a reload."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources

from bluegreen.certificate import Pair
from bluegreen.errors import Failed
from bluegreen.model import Colour, Counts, Endpoint, SwitchRecord
from bluegreen.proxies import Upstreams
from bluegreen.proxies.driver import INSIDE_PORT, STATUS_PORT, Driver
from bluegreen.proxies.place import Place
from bluegreen.proxies.templates import render, unsealed
from bluegreen.settings import Settings

STREAM = "# For nginx's stream module:\n"
"""In what `render` gives, the line that begins what goes into a file of its own, as it stands outside `http`."""

KEEPALIVE_MIN = (1, 27, 4)
"""The version from which on a leaving worker can be told to wait before it closes idle connections."""


RESOLVE = (1, 27, 3)
"""The version from which on an upstream's server can follow a name in the DNS."""


COUNTED = "counted-"
"""How the names of the files begin that have nginx log what was answered, each for a hundred seconds."""


HTTP2_WORD = (1, 25, 1)
"""The version from which on HTTP/2 is a directive of its own and no word of `listen`."""


class Nginx(Driver):
    """One service's place in nginx."""

    kind = "nginx"
    suffix = ".conf"

    def __init__(self, settings: Settings, place: Place) -> None:
        super().__init__(settings, place)
        self._stream = f"{place.streams}/{place.prefix}{self._service}.conf"
        self._log = f"{place.root}/state/{self._service}.answers"
        self._counted = settings.bake.max_error_ratio is not None

    def _boot(self, networks: Sequence[str]) -> bool:
        files = {"nginx.conf": self._main(), "services/": "", "state/": "", "http/temporary.conf": self._temporary()}
        return self._place.boot(["nginx", "-c", self._place.main, "-g", "daemon off;"], files, networks)

    def render(self, upstreams: Upstreams, colour: Colour) -> str:
        proxy, pair = self._settings.proxy, self._settings.pair
        if not self._running_version():
            raise Failed(f"{self.name} does not say which version it is", hint="nginx -v, where it runs")
        version = tuple(map(int, self._running_version().split(".")))
        return render(
            "nginx-service.conf.j2",
            salt=pair.fingerprint if pair else "",
            service=self._service,
            blue=list(upstreams[Colour.BLUE]),
            green=list(upstreams[Colour.GREEN]),
            follows=version >= RESOLVE,
            colour=colour,
            switch="live" if self._live else "reload",
            state=self._state,
            log=self._log if self._counted else "",
            own_main=bool(self._place.main),
            listen=self._place.bind,
            status_port=STATUS_PORT,
            hosts=proxy.hosts,
            spread=_spread(proxy.balance),
            mode=proxy.mode,
            tcp=proxy.tcp,
            statics=[(entry, self._inside(entry.listen), _spread(entry.balance)) for entry in proxy.static],
            stream=STREAM,
            max_body=proxy.max_body,
            read_timeout_ms=round(proxy.read_timeout * 1000),
            keepalive_min=version >= KEEPALIVE_MIN,
            plain=proxy.plain,
            redirect=self._https_port(),
            inside_port=INSIDE_PORT,
            tls_listen=self._place.tls_bind,
            pair=f"{self._secrets}/{self._service}",
            http2=proxy.tls is not None and proxy.tls.http2,
            http2_word=version >= HTTP2_WORD,
        )

    def note(self, record: SwitchRecord) -> None:
        self._agent.remove(f"{self._state}/trial")  # a run that was killed as it went back may have left it
        self._write_record(record)

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
        if not (record.committed and self._stands(record.to_colour, upstreams)):
            self._install(self.render(upstreams, record.to_colour))
        if record.committed and self._live:
            self._agent.remove(trial)  # after a reload, leaving workers may still need it: it goes with `commit`
        if self._serving()[1] is not record.to_colour:
            raise Failed(f"{self.name} does not serve {record.to_colour}, though it was told to")

    def commit(self, record: SwitchRecord) -> None:
        self._agent.remove(f"{self._state}/trial")
        if self._counted:
            self._agent.run("sh", "-c", f"rm -f {self._state}/{COUNTED}*")
        self._write_record(record)

    def remove(self) -> list[str]:
        gone = super().remove()
        if self._counted and self._place.running():
            self._agent.remove(self._log)
        return gone

    def counts(self) -> Mapping[Colour, Counts]:
        return counted(self._agent.tally(self._log, f"{self._state}/{COUNTED}"), self._service)

    def in_flight(self, endpoints: Sequence[Endpoint]) -> int:
        # In tcp mode, too, that is all there is: a client's connection has one to the app from its beginning on.
        if self._live or self._settings.proxy.mode == "tcp":
            return self._agent.connections(endpoints)
        leaving = {pid for pid, is_leaving in self._workers().items() if is_leaving}
        count = len(leaving if self._leaving is None else leaving & self._leaving)
        # Drained is when they are gone. Until then, what is told is the requests that they hold, not the workers.
        return max(count, self._agent.connections(endpoints)) if count else 0

    def _main(self) -> str:
        text = resources.files("bluegreen").joinpath("templates/nginx.conf").read_text()
        place = self._place
        text = text.replace("/bluegreen/services", place.services).replace("/bluegreen/tls", self._secrets)
        text = text.replace("/tmp/nginx.pid", place.pid_file)
        for directory in ("main", "http"):
            text = text.replace(f"/bluegreen/{directory}/", f"{place.root}/{directory}/")
        return text.replace("listen 8080;", f"listen {self._plain_bind()};")

    def _temporary(self) -> str:
        """What has nginx keep its temporary files beside its config: on a disk, where its user may write."""
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        return "".join(f"{kind}_temp_path {self._place.root}/{kind}_temp;\n" for kind in kinds)

    def _plain_bind(self) -> str:
        """Where plain http is, by which clients come unless https or mode tcp has taken their address."""
        place = self._place
        taken = self._settings.proxy.mode == "tcp" or place.bind == place.tls_bind
        return f"127.0.0.1:{INSIDE_PORT}" if taken else place.bind

    def _joined(self, files: Mapping[str, str]) -> str:
        http, stream = super()._joined(files), files.get(self._stream)
        return http + (STREAM + unsealed(stream) if http and stream is not None else "")

    @property
    def _alone(self) -> Sequence[str]:
        return [self._file, self._stream]

    @property
    def _shared(self) -> Sequence[str]:
        return [self._place.main, f"{self._place.root}/main/stream.conf"] if self._place.main else []

    def _files(self, text: str) -> Mapping[str, str | None]:
        http, _, stream = text.partition(STREAM)
        files, place = dict(super()._files(http)), self._place
        files[self._stream] = stream or None
        if place.main:
            files[place.main] = self._main()
            if stream:
                include = f"stream {{\n    include {place.streams}/*.conf;\n}}\n"
                files[f"{place.root}/main/stream.conf"] = self._load_stream() + include
            if place.tls_bind:
                files[f"{self._secrets}/unclaimed.conf"] = render("nginx-tls.conf.j2", listen=place.tls_bind)
        return files

    def _pair_files(self, pair: Pair | None) -> Mapping[str, str | None]:
        pem = f"{self._secrets}/{self._service}"
        return {f"{pem}.crt": pair.certificate if pair else None, f"{pem}.key": pair.key if pair else None}

    def _load_stream(self) -> str:
        """What loads the stream module, where it is not built in. Raises Failed if this nginx has none."""
        built = self._agent.run("nginx", "-V")[1]
        if "--with-stream=dynamic" in built:
            directory = re.search(r"--modules-path=(\S+)", built)
            return f"load_module {directory[1] if directory else 'modules'}/ngx_stream_module.so;\n"
        if "--with-stream" not in built.split():
            raise Failed(f"{self.name} has no stream module", hint="set proxy.image to one that has, or use HAProxy")
        return ""

    def _forget(self, *, last: bool) -> None:
        self._agent.remove(self._stream)

    def _test(self) -> tuple[int, str]:
        code, words = self._agent.run("nginx", "-t", "-q", *self._config())
        if code or not self._agent.exists(self._stream):
            return code, words
        read = self._agent.run("nginx", "-T", "-q", *self._config())[1]
        if f"# configuration file {self._stream}:" in read:
            return 0, ""
        include = f"stream {{ include {self._place.streams}/*.conf; }}"
        return 1, f"{self._config()[1]} does not read {self._stream}; it must have: {include}"

    def _own_reload(self) -> Sequence[str]:
        return ["nginx", "-s", "reload", *self._config()]

    def _config(self) -> list[str]:
        return ["-c", self._place.main or self._settings.proxy.host.main]


def counted(lines: Mapping[str, int], service: str) -> dict[Colour, Counts]:
    """What each colour has answered, by how often each line stands in the log: the upstream, the status that the client
    got, and those of every server that was asked, such as `shop_green_first 200 502, 200`."""
    totals = {colour: Counts() for colour in Colour}
    for line, number in lines.items():
        name, _, statuses = line.partition(" ")
        pool = re.fullmatch(rf"{re.escape(service)}_(blue|green)(_first)?(_ws)?", name)
        if pool:
            failed = any(int(status) >= 500 for status in re.findall(r"\b[0-9]{3}\b", statuses))
            totals[Colour(pool[1])] += Counts(number, number if failed else 0)
    return totals


def _spread(balance: str) -> Mapping[str, str]:
    """What nginx has for a way to spread requests: the variable that is hashed, made by a map of another or not."""
    way, _, name = balance.replace("hdr(", "hdr ").rstrip(")").partition(" ")
    match way:
        case "leastconn":
            return {"leastconn": way}
        case "source":
            return {"key": "$remote_addr"}
        case "uri":
            return {"key": "$uri"}
        case "url_param":
            return {"key": f"$bluegreen_arg_{name}", "map": f"$arg_{name}"}
        case "hdr":
            name = name.lower().replace("-", "_")
            return {"key": f"$bluegreen_http_{name}", "map": f"$http_{name}"}
    return {}
