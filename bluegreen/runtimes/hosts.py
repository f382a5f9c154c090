"""The engines of several hosts as one runtime: every host has its replicas of every colour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from bluegreen.errors import Failed
from bluegreen.hosts import Host, Hosts
from bluegreen.model import Colour, Endpoint, Image, Line, OneShot, Release, Replica, Slot
from bluegreen.prune import Found
from bluegreen.settings import Settings


class HostsRuntime:
    """Meets `Runtime`. What is asked and done is so on all hosts at once; images are built on the first."""

    def __init__(self, hosts: Hosts, settings: Settings) -> None:
        self._hosts = hosts
        self._settings = settings

    @property
    def name(self) -> str:
        return f"{len(self._hosts.members)} hosts"

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(host.name for host in self._hosts.current)

    @property
    def network(self) -> str:
        return self._hosts.members[0].runtime.network

    def slots(self) -> Mapping[Colour, Slot]:
        hosts = self._hosts.current
        found = dict(
            zip((host.name for host in hosts), self._hosts.each(lambda host: host.runtime.slots(), hosts), strict=True)
        )
        return {colour: slot for colour in Colour if (slot := together(colour, found))}

    def image(self, reference: str) -> Image | None:
        found = self._hosts.each(lambda host: host.runtime.image(reference))
        if self._settings.registry.server and not all(found):
            built = found[0]  # where it is built, and pushed from; whoever has not got it pulls it
            return built if built and not built.digest else None
        return next((image for image in found if image), None)

    def lacking(self, image: str) -> tuple[str, ...]:
        found = self._hosts.each(lambda host: host.runtime.image(image))
        return tuple(host.name for host, there in zip(self._hosts.there, found, strict=True) if not there)

    def copy(self, image: str, progress: Callable[[str], None]) -> None:
        """By way of this machine: what one engine gives, the others are given, all at once."""
        lacking = self.lacking(image)
        source = next(host for host in self._hosts.there if host.name not in lacking)

        def one(host: Host) -> None:
            host.runtime.load(source.runtime.save(image))
            if host.runtime.image(image) is None:
                raise Failed(
                    f"{host.name} knows {image} by another name than {source.name}, once it was copied there",
                    hint="set registry.server; or give both engines the same image store (docker info)",
                )
            progress(f"{host.name} has it from {source.name}")

        targets = [host for host in self._hosts.there if host.name in lacking]
        if targets:
            self._hosts.each(one, targets, step="copy")

    def save(self, image: str) -> Iterator[bytes]:
        return next(host for host in self._hosts.there if host.runtime.image(image)).runtime.save(image)

    def load(self, pieces: Iterable[bytes]) -> None:
        whole = list(pieces)
        self._hosts.each(lambda host: host.runtime.load(whole))

    def images(self) -> Sequence[Found]:
        found = self._hosts.each(lambda host: host.runtime.images())
        return list(dict.fromkeys(image for images in found for image in images))

    def needed_elsewhere(self) -> frozenset[str]:
        return frozenset().union(*self._hosts.each(lambda host: host.runtime.needed_elsewhere()))

    def remove_image(self, name: str) -> bool:
        return all(self._hosts.each(lambda host: host.runtime.remove_image(name)))

    def build(self, release: Release, progress: Callable[[str], None]) -> Image:
        return self._hosts.on(self._hosts.there[0], lambda host: host.runtime.build(release, progress))

    def begin(self, run: str) -> None:
        self._hosts.each(lambda host: host.runtime.begin(run))

    def begun(self) -> tuple[str, ...]:
        return tuple(sorted({run for runs in self._hosts.each(lambda host: host.runtime.begun()) for run in runs}))

    def ended(self, *runs: str) -> None:
        self._hosts.each(lambda host: host.runtime.ended(*runs))

    def prepare(self) -> bool:
        return all(self._hosts.each(lambda host: host.runtime.prepare()))

    def endpoints(self, colour: Colour, count: int) -> tuple[Endpoint, ...]:
        found = self._hosts.each(lambda host: _there(host, host.runtime.endpoints(colour, count)), self._hosts.current)
        return tuple(endpoint for endpoints in found for endpoint in endpoints)

    def start(
        self, colour: Colour, release: Release, image: str, run: str, number: int, before: tuple[Release, ...]
    ) -> tuple[Replica, ...]:
        found = self._hosts.each(
            lambda host: _named(host, host.runtime.start(colour, release, image, run, number, before)), step="start"
        )
        return tuple(replica for replicas in found for replica in replicas)

    def keep(self, colour: Colour) -> None:
        self._hosts.each(lambda host: host.runtime.keep(colour))

    def has_secrets(self, colour: Colour) -> bool:
        return all(self._hosts.each(lambda host: host.runtime.has_secrets(colour), self._hosts.current))

    def replicas(self, colour: Colour) -> tuple[Replica, ...]:
        found = self._hosts.each(lambda host: _named(host, host.runtime.replicas(colour)), self._hosts.current)
        return tuple(replica for replicas in found for replica in replicas)

    def log(self, replica: Replica, lines: int = 15) -> str:
        host, mine = self._of(replica)
        return self._hosts.on(host, lambda host: host.runtime.log(mine, lines))

    def lines(
        self, replica: Replica, *, follow: bool = False, tail: int | None = None, since: float = 0
    ) -> Iterator[Line]:
        host, mine = self._of(replica)
        return host.runtime.lines(mine, follow=follow, tail=tail, since=since)

    def run(self, replica: Replica, command: Sequence[str], emit: Callable[[str, bool], None]) -> int:
        host, mine = self._of(replica)
        return self._hosts.on(host, lambda host: host.runtime.run(mine, command, emit))

    def remove(self, colour: Colour, *, run: str | None = None) -> list[str]:
        return self._said(lambda host: host.runtime.remove(colour, run=run))

    def stand_by(self, colour: Colour) -> list[str]:
        return self._said(lambda host: host.runtime.stand_by(colour))

    def run_once(self, job: OneShot, output: Callable[[bytes], None], watch: Callable[[], None]) -> int | None:
        """On the first host alone: what is migrated is shared by all."""
        return self._hosts.on(self._hosts.there[0], lambda host: host.runtime.run_once(job, output, watch))

    def remove_one_shots(self, *, run: str | None = None) -> list[str]:
        return self._said(lambda host: host.runtime.remove_one_shots(run=run))

    def answers(self) -> bool:
        """Whether any host does. Those that do not count as lost: a run does not wait for one of many."""
        for host in self._hosts.there:
            if not host.runtime.answers():
                self._hosts.lose(host, "its engine is silent")
        return bool(self._hosts.there)

    def remove_network(self) -> list[str]:
        return self._said(lambda host: host.runtime.remove_network())

    def _said(self, work: Callable[[Host], list[str]]) -> list[str]:
        def one(host: Host) -> list[str]:
            return [f"{host.name}: {words}" for words in work(host)]

        return [words for said in self._hosts.each(one) for words in said]

    def _of(self, replica: Replica) -> tuple[Host, Replica]:
        """The replica's host, and the replica as that one knows it."""
        host = self._hosts.named(replica.endpoint.host)
        name = replica.name.removeprefix(f"{host.name}/")
        return host, replace(replica, name=name, endpoint=replace(replica.endpoint, host=""))


def together(colour: Colour, found: Mapping[str, Mapping[Colour, Slot]]) -> Slot | None:
    """What stands in the colour on several hosts, as one slot: that of the latest switch, wanted on each of them."""
    standing = {name: slots[colour] for name, slots in found.items() if colour in slots}
    if not standing:
        return None
    latest = max(standing.values(), key=lambda slot: slot.number)
    same = {name: slot for name, slot in standing.items() if (slot.run, slot.release) == (latest.run, latest.release)}
    return replace(
        latest,
        wanted=latest.wanted * len(found),
        replicas=tuple(
            replace(replica, name=f"{name}/{replica.name}", endpoint=replace(replica.endpoint, host=name))
            for name, slot in same.items()
            for replica in slot.replicas
        ),
        kept=all(slot.kept for slot in same.values()),
    )


def _there(host: Host, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    return [replace(endpoint, host=host.name) for endpoint in endpoints]


def _named(host: Host, replicas: Sequence[Replica]) -> list[Replica]:
    return [
        replace(each, name=f"{host.name}/{each.name}", endpoint=replace(each.endpoint, host=host.name))
        for each in replicas
    ]
