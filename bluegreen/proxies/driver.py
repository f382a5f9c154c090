"""What the drivers have in common: the running proxy is asked, and a file is installed or put back whole."""

from __future__ import annotations

import contextlib
import difflib
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from bluegreen.certificate import Pair
from bluegreen.errors import BluegreenError, Failed
from bluegreen.model import Colour, Counts, Endpoint, ProxyState, SwitchRecord
from bluegreen.proxies import Upstreams
from bluegreen.proxies.agent import AgentError, Answer
from bluegreen.proxies.place import Place
from bluegreen.proxies.templates import seal_holds, sealed, stamp_of, unsealed
from bluegreen.runtimes.session import SessionEnded
from bluegreen.settings import Settings

INSIDE_PORT = 8078
"""Where, on the proxy's loopback, a service that clients reach by https alone is served without it."""

STATUS_PORT = 8079
"""Where, on the proxy's loopback, a running worker tells what it serves."""

EFFECT = 30
"""Seconds that a reload may take until it has taken effect; a healthy proxy takes 0.1 to 0.2."""

ANSWERS = 15
"""Seconds that a proxy which has just started may take to say what it serves."""


ROOM = 64 * 1024
"""Bytes that must be free where the proxy's files are; a service's are about 10 kB."""


class Driver(ABC):
    """One service's place in a proxy."""

    kind: str
    suffix: str
    """How the names of a service's files end."""

    def __init__(self, settings: Settings, place: Place) -> None:
        self._settings = settings
        self._service = settings.service
        self._place = place
        self._agent = place.agent
        self._file = f"{place.services}/{place.prefix}{self._service}{self.suffix}"
        self._state = f"{place.root}/state/{self._service}"
        self._secrets = f"{place.root}/tls"
        """The directory of the certificates and keys of all services."""
        self._live = settings.proxy.live
        self._version = ""
        self.tell: Callable[[int], object] = lambda number: None
        """Is called with the number of a switch once it is committed, and with 0 once there is none any more."""
        self._leaving: set[int] | None = None
        """The workers from before this run's last reload; None when another run made it, or nobody."""

    @property
    def name(self) -> str:
        return self._place.name

    def observe(self) -> ProxyState:
        """What the running proxy serves. Raises Failed if it runs and has the service's file, but does not say."""
        how = "live" if self._live else "reload"
        if not self._place.running():
            return ProxyState(exists=self._place.exists(), switch=how)
        colour = self._serving()[1]
        deadline = time.monotonic() + ANSWERS
        ours = [*self._alone, *self._shared]
        files = self._agent.read_there([*ours, *map(self._written, ours), self._record])
        config, record = self._joined(files), _record_in(files.get(self._record, ""))
        # The file of a first run that was killed may stand without being loaded.
        first = record is not None and not record.committed and record.from_colour is None
        while config and colour is None and not first:
            if time.monotonic() > deadline:
                raise Failed(
                    f"{self.name} runs, but does not say what it serves: {self._place.log()}",
                    hint="look at its log",
                )
            time.sleep(0.1)
            colour = self._serving()[1]
        return ProxyState(
            exists=True,
            running=True,
            version=self._running_version(),
            colour=colour,
            record=record,
            config=config,
            switch=how,
            edits=self._edits(files),
            kept_in=f"{self._place.root}/edited of {self.name}",
        )

    def boot(self, networks: Sequence[str]) -> bool:
        new = self._boot(networks)
        if networks and self._settings.proxy.mode == "tcp" and ":" not in self._place.bind and self._others():
            raise Failed(
                f"{self.name} serves {', '.join(self._others())}, and in tcp mode an address is for one service",
                hint="choose another proxy.listen",
            )
        return new

    @abstractmethod
    def _boot(self, networks: Sequence[str]) -> bool:
        """The proxy runs and is attached to the networks. True if it did not exist before."""

    @abstractmethod
    def render(self, upstreams: Upstreams, colour: Colour) -> str: ...

    def note(self, record: SwitchRecord) -> None:
        self._write_record(record)

    @abstractmethod
    def switch(self, record: SwitchRecord, upstreams: Upstreams) -> None: ...

    @abstractmethod
    def commit(self, record: SwitchRecord) -> None: ...

    @abstractmethod
    def in_flight(self, endpoints: Sequence[Endpoint]) -> int: ...

    @abstractmethod
    def counts(self) -> Mapping[Colour, Counts]: ...

    def prepare(self, upstreams: Upstreams, colour: Colour | None) -> None:
        self.have_room()
        # Of several proxies none is switched before each has taken the file.
        if colour and (self._live or self._settings.hosts):
            self._install(self.render(upstreams, colour))

    def renew(self, upstreams: Upstreams, colour: Colour) -> None:
        self.have_room()
        self._install(self.render(upstreams, colour))

    def have_room(self) -> None:
        """Raises Failed if there is no room for all that a switch, and taking it back, may write."""
        # As one order, so that nothing stays behind when who gives it dies.
        try_it = 'mkdir -p "$1" && head -c "$2" /dev/zero >"$1/room"; code=$?; rm -f "$1/room"; exit $code'
        code, words = self._agent.run("sh", "-c", try_it, "sh", self._state, str(ROOM))
        if code:
            raise Failed(
                f"{self.name} has no room for its files: {words}",
                hint="make room on the disk that they are on, then deploy again: bluegreen doctor; docker system df",
            )

    def reload(self) -> None:
        if not self._place.running():
            raise Failed(f"{self.name} does not run", hint="bluegreen proxy boot")
        code, words = self._test()
        if code:
            raise Failed(f"{self.kind} refuses its config, and nothing was loaded: {words}")
        there = self._agent.exists(self._file)
        self._reload(expect=stamp_of(self._agent.read(self._file)) if there else None)

    def websockets(self, endpoints: Sequence[Endpoint]) -> int:
        return self._agent.kept_alive(endpoints)

    def get(self, path: str, host: str, timeout: float) -> Answer:
        front = self._place.front if self._settings.proxy.plain else Endpoint("127.0.0.1", INSIDE_PORT)
        return self._agent.get(front, path, host=host, timeout=timeout)

    def get_from(self, endpoint: Endpoint, path: str, host: str, timeout: float) -> Answer:
        return self._agent.get(endpoint, path, host=host, timeout=timeout)

    def connect(self, timeout: float) -> None:
        self._agent.connect(self._place.front, timeout=timeout)

    def connect_to(self, endpoint: Endpoint, timeout: float) -> None:
        self._agent.connect(endpoint, timeout=timeout)

    def remove(self) -> list[str]:
        self.tell(0)
        services = self._place.service_files(self.suffix)
        last, running = set(services) <= {self._service}, self._place.running()
        if running:  # the files first: whoever dies in the middle leaves none that a new proxy would find and serve by
            with contextlib.suppress(SessionEnded) if last else contextlib.nullcontext():
                self._forget(last=last)
                self._agent.run("rm", "-rf", self._state)
                if self._service in services:
                    copies = [copy(path) for path in self._alone for copy in (self._written, self._kept)]
                    self._agent.remove(self._file, *self._pair_files(None), *copies)
        if last and (gone := self._place.remove()):
            return gone
        if not running or self._service not in services:
            return []
        self._reload(expect="")
        for network in ("net", "overlay"):
            self._place.detach(f"bluegreen-{network}-{self._service}")
        return [f"{self._service} from {self.name}"]

    def close(self) -> None:
        self._agent.close()

    def _others(self) -> list[str]:
        """The other services that have a file of this proxy."""
        return sorted(set(self._place.service_files(self.suffix)) - {self._service})

    def _inside(self, address: str) -> str:
        """What to bind for an address of the host: on a host that one, in a container its port."""
        return address if ":" in self._place.bind else address.rpartition(":")[2]

    def _joined(self, files: Mapping[str, str]) -> str:
        """What `render` gave for the config that stands in these files; empty if there is none."""
        return unsealed(files.get(self._file, ""))

    @property
    def _alone(self) -> Sequence[str]:
        """The service's own files, which nobody but bluegreen is to write, and no other service."""
        return [self._file]

    @property
    def _shared(self) -> Sequence[str]:
        """The same of those that services share."""
        return []

    def _edits(self, files: Mapping[str, str]) -> str:
        """What a person has changed since bluegreen wrote them, as one diff; empty if nothing.

        `files`: what they hold, and the copies of them, as bluegreen wrote them.
        """
        lines: list[str] = []
        for path in (*self._alone, *self._shared):
            text, written = files.get(path), files.get(self._written(path))
            if text is not None and _is_edited(text, written):
                names = f"{path}, as bluegreen wrote it", f"{path}, as it is"
                before, after = unsealed(written or "").splitlines(), unsealed(text).splitlines()
                lines += difflib.unified_diff(before, after, *names, lineterm="")
        return "\n".join(lines)

    def _written(self, path: str) -> str:
        """Where a copy of a file is, as bluegreen wrote it."""
        return f"{self._place.root}/written/{path.strip('/').replace('/', '-')}"

    def _kept(self, path: str) -> str:
        """Where a copy of a file goes that a person had edited, before it is written over."""
        return f"{self._place.root}/edited/{path.strip('/').replace('/', '-')}"

    def _is_secret(self, path: str) -> bool:
        return path.startswith(f"{self._secrets}/")

    def _files(self, text: str) -> Mapping[str, str | None]:
        """All files that go with the service's own, `text`; None for one that must not be there."""
        return {**self._pair_files(self._settings.pair), self._file: text}

    @abstractmethod
    def _pair_files(self, pair: Pair | None) -> Mapping[str, str | None]:
        """The files with the service's certificate and its key, in the form that this proxy reads; None without TLS."""

    def _https_port(self) -> str | None:
        """What stands behind the host where plain http is redirected to: `:8443`, or nothing for the usual port.

        None if it is not redirected.
        """
        proxy = self._settings.proxy
        if not proxy.redirects:
            return None
        url = urlsplit(proxy.url)
        port = str(url.port or 443) if url.scheme == "https" else (proxy.tls_listen or "").rpartition(":")[2]
        return f":{port}" if port != "443" else ""

    def _forget(self, *, last: bool) -> None:  # noqa: B027  (most proxies have no such file)
        """The service stands in no file that it shares with others; nor does any such file if it was the last."""

    @abstractmethod
    def _test(self) -> tuple[int, str]:
        """The exit code and the words of the proxy's own test of its config."""

    @abstractmethod
    def _own_reload(self) -> Sequence[str]:
        """The command that has the proxy load its config, now or soon."""

    def _workers(self) -> Mapping[int, bool]:
        """The process ids of all workers, and whether one is known to be leaving."""
        return {
            pid: "shutting down" in line
            for pid, line in self._agent.children(self._place.master()).items()
            if self.kind in line
        }

    def _took_effect(self, before: set[int]) -> bool:
        """Whether no worker from before takes new connections any more."""
        workers = self._workers()
        return not {pid for pid in before & set(workers) if not workers[pid]}

    def _install(self, text: str) -> None:
        """The running workers have this file. All that stood before is back if the proxy refuses it."""
        stamp = stamp_of(text)
        files = {
            path: content if content is None or self._is_secret(path) else sealed(content)
            for path, content in self._files(text).items()
        }
        there = self._agent.read_there([*files, *map(self._written, files)])
        old = {path: there.get(path) for path in files}
        if files == old and self._serving()[0] == stamp:
            return
        changed = {path: content for path, content in files.items() if content != old[path]}
        for path in changed:
            if path in there and not self._is_secret(path) and _is_edited(there[path], there.get(self._written(path))):
                self._agent.write(self._kept(path), there[path])
        try:
            self._lay(changed)
            code, words = self._test()
            if code:
                raise Failed(f"{self.kind} refuses the new config, and the old one is back: {words}")
            self._reload(expect=stamp)
        except BluegreenError:
            self._lay({path: old[path] for path in changed})
            raise
        self._remember(changed)

    def _remember(self, files: Mapping[str, str | None]) -> None:
        """There is a copy of each as it was written, by which an edit can be shown."""
        for path, content in files.items():
            if content is None:
                self._agent.remove(self._written(path))
            elif not self._is_secret(path):
                self._agent.write(self._written(path), content)

    def _stands(self, colour: Colour, upstreams: Upstreams) -> bool:
        """The file that stands is the one that is served, with this colour in use: to put that back takes no reload,
        which might be refused for the same reason as the one that is being undone."""
        text, (stamp, serving) = self._joined(self._agent.read_there(self._alone)), self._serving()
        known = all(str(endpoint) in text for endpoint in upstreams[colour])
        return serving is colour and stamp == stamp_of(text) and known

    def _lay(self, files: Mapping[str, str | None]) -> None:
        """The files are as given, one with None is gone, and a secret is for the proxy alone."""
        for path, content in files.items():
            if content is None:
                self._agent.remove(path)
            elif self._is_secret(path):
                self._agent.write(path, content, only_for=self._place.master())
            else:
                self._agent.write(path, content)

    def _reload(self, expect: str | None) -> None:
        """Every worker from before is leaving or gone, and the new ones serve the file stamped `expect`."""
        before = set(self._workers())
        code, words = self._agent.run(*(self._place.reload or self._own_reload()))
        if code:
            raise Failed(f"{self.kind} does not reload: {words}")
        deadline = time.monotonic() + EFFECT
        while not (self._took_effect(before) and (expect is None or self._serving()[0] == expect)):
            if time.monotonic() > deadline:
                raise Failed(
                    f"{self.kind} still runs its old config {EFFECT} s after the reload: {self._place.log()}"
                )
            time.sleep(0.02)
        self._leaving = before

    def _serving(self) -> tuple[str, Colour | None]:
        """The stamp of the file that a running worker has, and the colour it sends requests to."""
        host = f"{self._service}.bluegreen"
        try:
            answer = self._agent.get(Endpoint("127.0.0.1", STATUS_PORT), "/", host=host, timeout=5)
        except AgentError:
            return "", None
        stamp, _, pool = answer.body.partition(" ")
        found = re.fullmatch(rf"{re.escape(self._service)}_(blue|green)(_first)?", pool)
        return (stamp, Colour(found[1])) if answer.status == 200 and found else ("", None)

    @property
    def _record(self) -> str:
        """Where the record of the last switch is."""
        return f"{self._state}/record"

    def _write_record(self, record: SwitchRecord) -> None:
        self._agent.write(self._record, record.to_json() + "\n")
        if record.committed:
            self.tell(record.number)

    def _running_version(self) -> str:
        """The version of the proxy that runs, or of the image while none does; such as 1.30.6."""
        if not self._version:
            try:
                words = self._agent.run(self.kind, "-v")[1]
            except SessionEnded:
                words = self._place.output(self.kind, "-v")
            found = re.search(r"[/ ]([0-9]+(?:\.[0-9]+)+)", words)
            self._version = found[1] if found else ""
        return self._version


def _record_in(text: str) -> SwitchRecord | None:
    with contextlib.suppress(ValueError):
        return SwitchRecord.from_json(text)
    return None


def _is_edited(text: str, written: str | None) -> bool:
    """Whether a file has been edited since it was `written`.

    One without a seal is of an older bluegreen, unless a later one has written it since.
    """
    holds = seal_holds(text)
    return not holds if holds is not None else written not in (None, text)
