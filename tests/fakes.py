"""A host in memory: its engine, its proxy, and the drivers for them, which fail, die and crash as a test asks.

`World` is what is true there. `FakeRuntime` and `FakeProxy` are one process's view of it: every process makes its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, fields, replace
from string import Template
from typing import Any

from bluegreen.errors import Failed
from bluegreen.model import (
    Colour,
    Counts,
    Endpoint,
    Image,
    Line,
    OneShot,
    ProxyState,
    Release,
    Replica,
    Slot,
    SwitchRecord,
)
from bluegreen.proxies import Upstreams
from bluegreen.proxies.agent import AgentError, Answer
from bluegreen.prune import Found
from bluegreen.runtimes.session import SessionEnded
from bluegreen.secret import Secrets
from bluegreen.settings import Settings, parse

ASKING_ENGINE = {
    *("slots", "begun", "image", "images", "has_secrets", "needed_elsewhere"),
    *("replicas", "log", "lines", "run", "digest"),
}
ASKING_PROXY = {"observe", "in_flight", "websockets", "counts", "get", "get_from", "have_room"}
READS = frozenset(ASKING_ENGINE | ASKING_PROXY)
"""What changes nothing, so that it makes no difference whether something goes wrong before it or after."""


class Crash(BaseException):
    """`kill -9`: nothing that this process would have done happens any more."""


@dataclass
class Container:
    """A container of the world. It crashes after `lives` more answers, if that is a number."""

    name: str
    service: str
    colour: Colour
    release: Release
    image: str
    run: str
    number: int
    wanted: int
    before: tuple[Release, ...]
    endpoint: Endpoint
    running: bool = True
    kept: bool = False
    exit_code: int | None = None
    lives: int | None = None
    secrets: Secrets = field(default_factory=Secrets)
    proved: bool = False
    """Whether it has given a right answer to a probe."""
    lines: list[str] = field(default_factory=list)

    def end(self, code: int) -> None:
        """Its process has ended; what is kept comes back."""
        if not self.kept:
            self.running, self.exit_code = False, code


@dataclass
class Carried:
    """One service's place in the world's proxy."""

    upstreams: dict[Colour, tuple[Endpoint, ...]]
    colour: Colour | None
    """None while its file stands and is not loaded yet."""
    record: SwitchRecord
    trial: bool = False
    counts: dict[Colour, Counts] = field(default_factory=lambda: {colour: Counts() for colour in Colour})
    edit: str = ""
    """What a person has written into its file."""

    def file(self, service: str) -> str:
        pools = [f"{colour}: {', '.join(map(str, self.upstreams.get(colour, ())))}" for colour in Colour]
        return "\n".join([f"service {service}", *pools]) + "\n"


def nobody(number: int, name: str) -> None:
    pass


@dataclass
class World:
    """What is true on a host. But for containers and what its proxy carries, all that it is made of is frozen."""

    images: dict[str, Image] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    networks: dict[str, int] = field(default_factory=dict)
    begun: dict[str, str] = field(default_factory=dict)
    """The runs that have begun and did not end, with their services."""
    one_shots: dict[str, tuple[str, OneShot]] = field(default_factory=dict)
    """The containers of hooks that stand, with their services."""
    called: list[OneShot] = field(default_factory=list)
    """The jobs that have begun, in order."""
    proxy: dict[str, Carried] | None = None
    proxy_running: bool = True
    uploads: list[Endpoint] = field(default_factory=list)
    """Where the requests go that have begun and not ended."""
    cut: int = 0
    """How many of them their replica's end has cut."""
    websockets: list[Endpoint] = field(default_factory=list)
    published: dict[str, str] = field(default_factory=dict)
    """What the registry has: the digest of each tag."""
    answers: dict[str, Callable[[], Answer]] = field(default_factory=dict)
    """What /version answers instead, by release."""
    lives: dict[str, int] = field(default_factory=dict)
    """After how many answers the containers of a release crash; 0 is at once."""
    broken_builds: set[str] = field(default_factory=set)

    points: list[str] = field(default_factory=list)
    """Every moment at which something could go wrong, as it was passed: `start`, `start:half`, `start:end`."""
    at: Callable[[int, str], None] = nobody
    """Called at every point with its number and name; what it raises happens there."""

    def fork(self) -> World:
        """The same host, which from now on goes its own way; nobody is at its points yet."""
        carried = {
            name: replace(each, upstreams=dict(each.upstreams), counts=dict(each.counts))
            for name, each in (self.proxy or {}).items()
        }
        own = {
            each.name: copy(value)
            for each in fields(self)
            if isinstance(value := getattr(self, each.name), dict | list | set)
        }
        containers = {name: replace(each, lines=list(each.lines)) for name, each in self.containers.items()}
        proxy = None if self.proxy is None else carried
        return replace(self, **{**own, "containers": containers, "proxy": proxy, "at": nobody})

    def has(self, *releases: str, repository: str = "shop") -> World:
        """These releases have images."""
        for release in releases:
            self.add_image(f"{repository}:{release}", f"sha256:{release}")
        return self

    def add_image(self, reference: str, digest: str) -> Image:
        image = Image(reference, digest, 40_000_000)
        self.images[reference] = self.images[digest] = image
        return image

    def standing(self, service: str) -> list[Container]:
        return [each for each in self.containers.values() if each.service == service]

    def ask(self, endpoint: Endpoint) -> Answer:
        """The answer of whatever stands at an address. Raises AgentError where nothing listens."""
        found = next((each for each in self.containers.values() if each.endpoint == endpoint and each.running), None)
        if found is None:
            raise AgentError("Connection refused")
        if found.lives is not None:
            if found.lives <= 0:
                found.end(1)
                raise AgentError("Connection refused")
            found.lives -= 1
        other = self.answers.get(found.release.name)
        return other() if other else Answer(200, f"version {found.release.number}")

    def at_work(self, *endpoints: Endpoint) -> int:
        """How many requests and WebSockets are there."""
        return sum(each in endpoints for each in [*self.uploads, *self.websockets])

    def request(self, service: str) -> Answer:
        """The answer that a client gets through the proxy."""
        if self.proxy is None or not self.proxy_running:
            raise AgentError("Connection refused")
        carried = self.proxy.get(service)
        if carried is None:
            return Answer(404, "")
        if carried.colour is None:
            return Answer(404, "")
        pools = [carried.colour, carried.colour.other] if carried.trial else [carried.colour]
        answer, refused = Answer(502, ""), False
        for endpoint in (each for colour in pools for each in carried.upstreams.get(colour, ())):
            try:
                answer = self.ask(endpoint)
                break
            except AgentError:
                refused = True
        carried.counts[carried.colour] += Counts(1, int(refused or answer.status >= 500))
        return answer

    def truth(self, service: str) -> dict[str, Any]:
        """What a user would call the same or not: releases, containers and what is served, without numbers."""
        carried = (self.proxy or {}).get(service)
        return {
            "containers": sorted((each.name, each.release.name, each.running) for each in self.standing(service)),
            "network": service in self.networks,
            "one_shots": sorted(name for name, (owner, _) in self.one_shots.items() if owner == service),
            "proxy": self.proxy is not None,
            "colour": carried.colour if carried else None,
            "trial": carried.trial if carried else False,
            "committed": carried.record.committed if carried else None,
            "uploads": list(self.uploads),
        }


@dataclass
class Process:
    """One run of the command: once it has crashed, it does nothing more."""

    world: World
    crashed: bool = False

    def point(self, name: str) -> None:
        if self.crashed:
            raise Crash
        number = len(self.world.points)
        self.world.points.append(name)
        try:
            self.world.at(number, name)
        except Crash:
            self.crashed = True
            raise

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """What a driver's method does, with a point before it, and one after it if it may have changed something."""
        self.point(name)
        yield
        if name not in READS:
            self.point(f"{name}:end")


class FakeRuntime:
    """Meets `Runtime` in a world."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        process: Process | None = None,
        secrets: Callable[[], Secrets] = Secrets,
    ) -> None:
        self._world = world
        self._settings = settings
        self._service = settings.service
        self._process = process or Process(world)
        self._secrets = secrets

    @property
    def name(self) -> str:
        return "fake"

    @property
    def hosts(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def network(self) -> str:
        return f"bluegreen-net-{self._service}"

    def slots(self) -> Mapping[Colour, Slot]:
        with self._process.call("slots"):
            found = {colour: self._standing(colour) for colour in Colour}
            return {colour: self._slot(colour, standing) for colour, standing in found.items() if standing}

    def image(self, reference: str) -> Image | None:
        with self._process.call("image"):
            return self._seen(self._world.images.get(reference))

    def _seen(self, image: Image | None) -> Image | None:
        """With a registry, an image has no digest until it was pushed."""
        if image is None or not self._settings.registry.server or image.digest in self._world.published.values():
            return image
        return replace(image, digest="")

    def lacking(self, image: str) -> tuple[str, ...]:
        return ()

    def copy(self, image: str, progress: Callable[[str], None]) -> None:
        """There is no other host."""

    def save(self, image: str) -> Iterator[bytes]:
        yield image.encode()

    def load(self, pieces: Iterable[bytes]) -> None:
        with self._process.call("load"):
            reference = b"".join(pieces).decode()
            self._world.add_image(reference, f"sha256:{reference.rpartition(':')[2]}")

    def images(self) -> Sequence[Found]:
        with self._process.call("images"):
            found = {name: image for name, image in self._world.images.items() if name.startswith("shop:")}
            return [Found(name, image.digest, f"2024-05-{n:02}") for n, (name, image) in enumerate(found.items(), 1)]

    def needed_elsewhere(self) -> frozenset[str]:
        with self._process.call("needed_elsewhere"):
            others = [each for each in self._world.containers.values() if each.service != self._service]
            return frozenset(release.digest for each in others for release in (each.release, *each.before))

    def remove_image(self, name: str) -> bool:
        with self._process.call("remove_image"):
            image = self._world.images.get(name)
            if image and any(each.release.digest == image.digest for each in self._world.containers.values()):
                return False
            self._world.images.pop(name, None)
            if image and [each.digest for each in self._world.images.values()].count(image.digest) == 1:
                self._world.images.pop(image.digest, None)  # with its last name the image goes
            return True

    def build(self, release: Release, progress: Callable[[str], None]) -> Image:
        with self._process.call("build"):
            progress("Step 1/1 : FROM scratch")
            if release.name in self._world.broken_builds:
                raise Failed("the build failed: exit code 1\n  Step 1/1 : FROM scratch")
            image = self._seen(self._world.add_image(self._settings.reference(release), f"sha256:{release}"))
            assert image
            return image

    def begin(self, run: str) -> None:
        with self._process.call("begin"):
            self._world.begun[run] = self._service

    def begun(self) -> tuple[str, ...]:
        with self._process.call("begun"):
            return tuple(sorted(run for run, service in self._world.begun.items() if service == self._service))

    def ended(self, *runs: str) -> None:
        with self._process.call("ended"):
            for run in runs:
                self._world.begun.pop(run, None)

    def prepare(self) -> bool:
        with self._process.call("prepare"):
            if self._service in self._world.networks:
                return False
            free = next(n for n in itertools.count(1) if n not in self._world.networks.values())
            self._world.networks[self._service] = free
            return True

    def endpoints(self, colour: Colour, count: int) -> tuple[Endpoint, ...]:
        subnet = self._world.networks.get(self._service, 0)
        first = 2 if colour is Colour.BLUE else 64
        return tuple(Endpoint(f"172.29.{subnet}.{first + n}", self._settings.app.port) for n in range(count))

    def start(
        self, colour: Colour, release: Release, image: str, run: str, number: int, before: tuple[Release, ...]
    ) -> tuple[Replica, ...]:
        with self._process.call("start"):
            for container in self._standing(colour):
                self._end(container, "start")
            if image not in self._world.images:
                raise Failed(f"{release} can't start: no such image: {image}")
            wanted = self._settings.app.replicas
            lives = self._world.lives.get(release.name)
            for n, endpoint in enumerate(self.endpoints(colour, wanted)):
                container = Container(
                    name=f"{self._service}-{colour}-{n + 1}",
                    service=self._service,
                    colour=colour,
                    release=release,
                    image=self._settings.reference(release),
                    run=run,
                    number=number,
                    wanted=wanted,
                    before=before,
                    endpoint=endpoint,
                    lives=lives,
                    secrets=self._secrets(),
                    lines=[f"{release}: starting", f"{release}: listening on {endpoint.port}"],
                )
                container.running = False
                self._world.containers[container.name] = container
                self._process.point("start:created")
                container.running = True
                if lives == 0:
                    container.lines.append(f"{release}: giving up")
                    container.end(1)
                self._process.point("start:one")
            return tuple(_replica(each) for each in self._standing(colour))

    def keep(self, colour: Colour) -> None:
        with self._process.call("keep"):
            for container in self._standing(colour):
                container.kept = True
                self._process.point("keep:one")

    def has_secrets(self, colour: Colour) -> bool:
        with self._process.call("has_secrets"):
            standing = self._standing(colour)
            return bool(standing) and standing[0].secrets == self._secrets()

    def replicas(self, colour: Colour) -> tuple[Replica, ...]:
        with self._process.call("replicas"):
            return tuple(_replica(each) for each in self._standing(colour))

    def log(self, replica: Replica, lines: int = 15) -> str:
        with self._process.call("log"):
            found = self._world.containers.get(replica.name)
            return "\n".join(found.lines[-lines:]) if found else ""

    def lines(
        self, replica: Replica, *, follow: bool = False, tail: int | None = None, since: float = 0
    ) -> Iterator[Line]:
        with self._process.call("lines"):
            found = self._world.containers.get(replica.name)
            lines = list(enumerate(found.lines)) if found and _replica(found).id == replica.id else []
            for number, text in lines[len(lines) - tail :] if tail is not None else lines:
                yield Line(f"2024-05-01T12:00:{number:02}.000000000Z", text)

    def run(self, replica: Replica, command: Sequence[str], emit: Callable[[str, bool], None]) -> int:
        """Knows `echo WORDS...` and `false`."""
        with self._process.call("run"):
            if not any(each.name == replica.name and each.running for each in self._world.containers.values()):
                raise Failed(f"{replica.name}: it is not running")
            program, *words = command
            if program == "echo":
                emit(" ".join(words), False)
                return 0
            if program == "false":
                return 1
            emit(f"{program}: not found", True)
            return 127

    def remove(self, colour: Colour, *, run: str | None = None) -> list[str]:
        with self._process.call("remove"):
            gone = [each for each in self._standing(colour) if run in (None, each.run)]
            for container in gone:
                self._end(container, "remove")
            return [container.name for container in gone]

    def stand_by(self, colour: Colour) -> list[str]:
        with self._process.call("stand_by"):
            return []

    def run_once(self, job: OneShot, output: Callable[[bytes], None], watch: Callable[[], None]) -> int | None:
        with self._process.call("run_once"):
            if job.image not in self._world.images:
                raise Failed(f"the hook {job.hook} can't run in a container of {job.release}: no such image")
            assert self._service in self._world.networks
            name = f"{self._service}-hook-{job.hook}-{job.run}"
            self._world.one_shots[name] = (self._service, job)
            self._world.called.append(job)
            try:
                self._process.point("run_once:begun")
                return self._shell(job, output, watch)
            finally:
                if not self._process.crashed:
                    self._world.one_shots.pop(name, None)

    def _shell(self, job: OneShot, output: Callable[[bytes], None], watch: Callable[[], None]) -> int | None:
        """A shell that knows `echo WORDS`, `exit CODE` and `sleep`, which outlasts every timeout, with `;` between."""
        shell, option, script = job.command
        assert (shell, option) == ("sh", "-c"), "the fake has no other program"
        environment = {**self._settings.app.env, **job.environment}
        for statement in script.split(";"):
            program, _, words = statement.strip().partition(" ")
            watch()
            match program:
                case "echo":
                    output(Template(words).safe_substitute(environment).encode() + b"\n")
                case "exit":
                    return int(words)
                case "sleep":
                    return None
                case _:
                    return 127
        return 0

    def remove_one_shots(self, *, run: str | None = None) -> list[str]:
        with self._process.call("remove_one_shots"):
            standing = self._world.one_shots
            gone = [
                name for name, (owner, job) in standing.items() if owner == self._service and run in (None, job.run)
            ]
            for name in gone:
                del standing[name]
            return gone

    def answers(self) -> bool:
        return True


    def _end(self, container: Container, doing: str) -> None:
        """It is gone, as the engine does it: it shall not come back, then it is stopped, then removed."""
        container.kept = False
        self._process.point(f"{doing}:not-kept")
        if container.running:
            self._world.cut += self._world.at_work(container.endpoint)
        container.running = False
        self._process.point(f"{doing}:stopped")
        self._world.containers.pop(container.name, None)
        self._process.point(f"{doing}:one")

    def remove_network(self) -> list[str]:
        with self._process.call("remove_network"):
            if self._world.networks.pop(self._service, None) is None:
                return []
            return [f"network {self.network}"]

    def _standing(self, colour: Colour) -> list[Container]:
        found = [each for each in self._world.standing(self._service) if each.colour is colour]
        return sorted(found, key=lambda container: container.name)

    def _slot(self, colour: Colour, standing: list[Container]) -> Slot:
        newest = max(standing, key=lambda container: container.number)
        return Slot(
            colour=colour,
            release=newest.release,
            image=newest.image,
            run=newest.run,
            since="2024-05-01T12:00:00Z",
            wanted=newest.wanted,
            replicas=tuple(_replica(each) for each in standing),
            number=newest.number,
            before=newest.before,
            kept=all(each.kept for each in standing),
        )


def _replica(container: Container) -> Replica:
    return Replica(
        name=container.name,
        id=f"id-of-{container.name}",
        running=container.running,
        endpoint=container.endpoint,
        status="running" if container.running else "exited",
        exit_code=container.exit_code,
    )


class FakeRegistry:
    """A registry in a world, with the calls of `Registry`."""

    def __init__(self, world: World, settings: Settings, process: Process | None = None) -> None:
        self._world = world
        self._settings = settings
        self._process = process or Process(world)

    def digest(self, reference: str, progress: Callable[[str], None] = lambda words: None) -> str:
        with self._process.call("digest"):
            published = self._world.published
            name, at, digest = reference.partition("@")
            return (digest if digest in published.values() else "") if at else published.get(name, "")

    def push(
        self,
        reference: str,
        progress: Callable[[str], None],
        *,
        overwrite: bool = False,
        counts: Callable[[Mapping[str, Any]], None] = lambda figures: None,
    ) -> str:
        with self._process.call("push"):
            image = self._world.images[reference]
            digest = image.digest.replace("sha256:", "sha256:manifest-of-")
            if self._world.published.get(reference, digest) != digest and not overwrite:
                raise Failed(f"{reference} is in the registry already, with another content")
            self._world.published[reference] = digest
            self._world.add_image(self._settings.content(digest), digest)
            return digest

    def pull(
        self,
        reference: str,
        tag: str,
        progress: Callable[[str], None],
        counts: Callable[[Mapping[str, Any]], None] = lambda figures: None,
    ) -> None:
        with self._process.call("pull"):
            digest = reference.partition("@")[2]
            if digest not in self._world.published.values():
                raise Failed(f"{reference} is not in the registry")
            self._world.add_image(reference, digest)


class FakeProxy:
    """Meets `Proxy` in a world."""

    def __init__(self, world: World, settings: Settings, process: Process | None = None) -> None:
        self._world = world
        self._settings = settings
        self._service = settings.service
        self._process = process or Process(world)

    @property
    def name(self) -> str:
        return "fake-proxy"

    @property
    def _carried(self) -> Carried | None:
        return (self._world.proxy or {}).get(self._service)

    def observe(self) -> ProxyState:
        with self._process.call("observe"):
            how = "reload" if self._settings.proxy.switch == "reload" else "live"
            if self._world.proxy is None:
                return ProxyState(switch=how)
            if not self._world.proxy_running:
                return ProxyState(exists=True, switch=how)
            carried = self._carried
            return ProxyState(
                exists=True,
                running=True,
                version="1.0",
                colour=carried.colour if carried else None,
                record=carried.record if carried else None,
                config=carried.file(self._service) if carried else "",
                switch=how,
                edits=f"+{carried.edit}" if carried and carried.edit else "",
                kept_in="/kept of fake-proxy",
            )

    def boot(self, networks: Sequence[str]) -> bool:
        with self._process.call("boot"):
            new = self._world.proxy is None
            if self._world.proxy is None:
                self._world.proxy, self._world.proxy_running = {}, False
                self._process.point("boot:created")
            self._world.proxy_running = True
            return new

    def render(self, upstreams: Upstreams, colour: Colour) -> str:
        record = SwitchRecord(0, "", None, colour, committed=True)
        return Carried(_tuples(upstreams), colour, record).file(self._service)

    def prepare(self, upstreams: Upstreams, colour: Colour | None) -> None:
        with self._process.call("prepare_proxy"):
            self._check(upstreams)
            if self._carried:
                self._carried.upstreams = _tuples(upstreams)
                self._carried.edit = ""

    def renew(self, upstreams: Upstreams, colour: Colour) -> None:
        with self._process.call("renew"):
            self._check(upstreams)
            if self._carried:
                self._carried.upstreams = _tuples(upstreams)

    def have_room(self) -> None:
        with self._process.call("have_room"):
            pass

    def note(self, record: SwitchRecord) -> None:
        with self._process.call("note"):
            assert self._carried is not None
            self._carried.trial = False
            self._process.point("note:half")
            self._carried.record = record

    def switch(self, record: SwitchRecord, upstreams: Upstreams) -> None:
        with self._process.call("switch"):
            self._check(upstreams)
            assert self._world.proxy is not None
            carried = self._world.proxy.setdefault(self._service, Carried({}, None, record))
            self._process.point("switch:file")
            if not record.committed:
                carried.record = record
                self._process.point("switch:recorded")
            carried.trial = carried.trial or (not record.committed and record.from_colour is not None)
            self._process.point("switch:trial")
            carried.upstreams = _tuples(upstreams)
            carried.edit = ""
            self._process.point("switch:laid")
            carried.colour = record.to_colour
            self._process.point("switch:flipped")
            if record.committed:
                # After a reload the workers that leave may need the trial still: there it ends with the commit.
                carried.trial = carried.trial and self._settings.proxy.switch == "reload"

    def commit(self, record: SwitchRecord) -> None:
        with self._process.call("commit"):
            assert self._carried is not None
            self._carried.trial = False
            self._process.point("commit:half")
            self._carried.record = record

    def reload(self) -> None:
        with self._process.call("reload"):
            if self._world.proxy is None or not self._world.proxy_running:
                raise Failed(f"{self.name} does not run")

    def in_flight(self, endpoints: Sequence[Endpoint]) -> int:
        with self._process.call("in_flight"):
            if self._world.proxy is None or not self._world.proxy_running:
                raise SessionEnded(f"{self.name} does not run")
            return self._world.at_work(*endpoints)

    def counts(self) -> Mapping[Colour, Counts]:
        with self._process.call("counts"):
            return dict(self._carried.counts) if self._carried else {colour: Counts() for colour in Colour}

    def websockets(self, endpoints: Sequence[Endpoint]) -> int:
        with self._process.call("websockets"):
            return sum(each in endpoints for each in self._world.websockets)

    def get(self, path: str, host: str, timeout: float) -> Answer:
        with self._process.call("get"):
            return self._world.request(self._service)

    def get_from(self, endpoint: Endpoint, path: str, host: str, timeout: float) -> Answer:
        with self._process.call("get_from"):
            answer = self._world.ask(endpoint)
            for container in self._world.standing(self._service):
                right = Answer(200, f"version {container.release.number}")
                container.proved |= container.endpoint == endpoint and answer == right
            return answer

    def connect(self, timeout: float) -> None:
        self.get("/", "any", timeout)

    def connect_to(self, endpoint: Endpoint, timeout: float) -> None:
        self.get_from(endpoint, "/", "any", timeout)

    def remove(self) -> list[str]:
        with self._process.call("remove_proxy"):
            if self._world.proxy is None:
                return []
            there = self._world.proxy.pop(self._service, None)
            if not self._world.proxy:
                self._world.proxy = None
                return [f"container {self.name}"]
            return [f"{self._service} from {self.name}"] if there else []

    def close(self) -> None:
        """Nothing is ever open."""

    def _check(self, upstreams: Upstreams) -> None:
        for endpoint in itertools.chain(*upstreams.values()):
            if not 0 < endpoint.port < 65536 or " " in endpoint.address:
                raise Failed(f"the proxy refuses the new config: {endpoint} is no address")


def _tuples(upstreams: Upstreams) -> dict[Colour, tuple[Endpoint, ...]]:
    return {colour: tuple(endpoints) for colour, endpoints in upstreams.items()}


class FakeLock:
    """A lock that is free, is held by `holder`, or is lost after so many checks."""

    def __init__(self, holder: Any = None, lost_after: int | None = None) -> None:
        self._holder = holder
        self._left = lost_after
        self.held = False

    def take(self, doing: str, **options: Any) -> None:
        from bluegreen.errors import Locked

        if self._holder:
            raise Locked(f"shop is locked by {self._holder}", hint="wait for it")
        self.held = True

    def check(self) -> None:
        from bluegreen.errors import BluegreenError

        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise BluegreenError("the lock on shop was lost: cut")

    def holder(self) -> Any:
        return self._holder

    def release(self) -> None:
        self.held = False


def quick_settings(**tables: Any) -> Settings:
    """The settings of a service `shop` whose runs wait for nothing that a fake does not need."""
    data: dict[str, Any] = {
        "service": "shop",
        "app": {"port": 9000},
        "probe": {"body": "version {number}", "interval": "10ms", "successes": 2, "timeout": "1s"},
        "bake": {"seconds": 0},
    }
    for name, table in tables.items():
        data[name] = {**data.get(name, {}), **table} if isinstance(table, dict) else table
    return parse(data)


def renamed(release: Release, settings: Settings) -> Release:
    """The release as it runs with these settings."""
    return replace(release, settings_hash=settings.hash)


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
