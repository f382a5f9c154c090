"""The words of the product as values: frozen, and without any input or output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any


class Colour(StrEnum):
    """One of the two slots of a service."""

    BLUE = "blue"
    GREEN = "green"

    @property
    def other(self) -> Colour:
        return Colour.GREEN if self is Colour.BLUE else Colour.BLUE


@dataclass(frozen=True)
class Release:
    """What is deployed: a name such as `v2`, the digest of its image, and the hash of the settings it runs with.

    One that is a `floor` can't be rolled back past.
    """

    name: str
    digest: str = ""
    settings_hash: str = ""
    floor: bool = False

    @property
    def number(self) -> str:
        """The name without a leading `v`, whatever follows: `2` for `v2`."""
        return self.name[1:] if self.name.startswith("v") else self.name

    def is_same(self, other: Release) -> bool:
        """The same content under the same name, whatever settings it ran with."""
        return (self.name, self.digest) == (other.name, other.digest)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Endpoint:
    """Where one replica answers, as the proxy reaches it."""

    address: str
    port: int
    host: str = ""
    """On which of several hosts: the same address may be there on each."""
    public: str = field(default="", compare=False)
    """Where the other hosts reach it, address:port; empty if they don't."""
    follows: str = field(default="", compare=False)
    """The name under which Swarm's DNS has its service's tasks, wherever they are moved; empty if it has none."""

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Source:
    """What an image was built from: a commit, 40 hex digits, and the branch or tag that it was reached by."""

    commit: str = ""
    ref: str = ""
    tag: bool = False


@dataclass(frozen=True)
class Image:
    """An image on the engine. `digest` is its content's id (`sha256:...`); with a registry, that of its manifest there,
    and empty while it was never pushed."""

    reference: str
    digest: str
    size: int = 0
    source: Source = Source()


@dataclass(frozen=True)
class OneShot:
    """A command that runs once, in a container of a release's image with the app's settings and more variables."""

    hook: str
    command: tuple[str, ...]
    release: Release
    image: str
    run: str
    timeout: float
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Replica:
    """One container of a colour, as the engine reports it."""

    name: str
    id: str
    running: bool
    endpoint: Endpoint
    status: str = ""
    exit_code: int | None = None
    restarts: int = 0
    out_of_memory: bool = False
    """Whether the kernel ended it for its memory limit."""
    made: str = ""
    """When Swarm made it, as its managers write times, which sort; empty elsewhere."""


@dataclass(frozen=True)
class Slot:
    """What stands in a colour: a release and its replicas. `before` are the releases it replaced, latest first."""

    colour: Colour
    release: Release
    image: str
    run: str
    since: str
    wanted: int
    replicas: tuple[Replica, ...]
    number: int = 0
    """The number of the switch that it was started for."""
    before: tuple[Release, ...] = ()
    kept: bool = False
    """Whether a run has committed it, so that its replicas come back after a restart of the engine."""
    scaled_to_none: bool = False
    """Whether it waits for a rollback without any replica, of which it had `wanted`."""

    @property
    def running(self) -> int:
        return sum(replica.running for replica in self.replicas)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Of replicas that are followed by a name, those that run come first, the oldest before the others, as one that
        ends again and again runs for moments only. A HAProxy whose first server begins at an address that the name does
        not lead to gives it that of a later one, which is then without any."""
        if not self.follows:
            return tuple(replica.endpoint for replica in self.replicas)
        first = sorted(self.replicas, key=lambda replica: (not replica.running, replica.made))
        return tuple(replica.endpoint for replica in first)

    @property
    def follows(self) -> bool:
        """Whether its replicas are followed by a name, as they may be elsewhere in a moment."""
        return any(replica.endpoint.follows for replica in self.replicas)


@dataclass(frozen=True)
class SwitchRecord:
    """The proxy's note of its last switch. `number` only rises; `committed` is false until nothing can take it back."""

    number: int
    run: str
    from_colour: Colour | None
    to_colour: Colour
    committed: bool
    at: str = ""
    undone: bool = False
    """Whether this took a switch of the same run back."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SwitchRecord:
        """The record that `to_json` wrote. Raises ValueError for anything else."""
        try:
            data = json.loads(text)
            return cls(
                number=int(data["number"]),
                run=str(data["run"]),
                from_colour=Colour(data["from_colour"]) if data["from_colour"] else None,
                to_colour=Colour(data["to_colour"]),
                committed=bool(data["committed"]),
                at=str(data["at"]),
                undone=bool(data.get("undone")),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not a switch record: {text!r}") from error


@dataclass(frozen=True)
class Counts:
    """How many requests a colour has answered, and how many of them with an error: a status of 500 or more."""

    requests: int = 0
    errors: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.requests + other.requests, self.errors + other.errors)

    def since(self, earlier: Counts) -> Counts:
        """What came after an earlier count; all of it where the counting was begun anew in between."""
        if self.requests < earlier.requests or self.errors < earlier.errors:
            return self
        return Counts(self.requests - earlier.requests, self.errors - earlier.errors)

    def without(self, some: Counts) -> Counts:
        """The rest, when some are taken away; one that was under way may be in the one count and not in the other."""
        requests = max(0, self.requests - some.requests)
        return Counts(requests, min(requests, max(0, self.errors - some.errors)))


@dataclass(frozen=True)
class ProxyState:
    """What the proxy serves now, asked of the running proxy."""

    exists: bool = False
    running: bool = False
    version: str = ""
    colour: Colour | None = None
    record: SwitchRecord | None = None
    config: str = ""
    switch: str = ""
    edits: str = ""
    """What a person has changed in the files that bluegreen wrote, as a diff; empty if nothing."""
    kept_in: str = ""
    """Where a copy goes of an edited file that is written over."""
    everywhere: bool = True
    """Whether each of several proxies serves what the record leads to."""


@dataclass(frozen=True)
class Observed:
    """What is true now, asked of the engine and the proxy under the lock."""

    slots: Mapping[Colour, Slot]
    proxy: ProxyState
    image: Image | None = None
    """The image of the release that is to be deployed, if the engine has it."""
    published: str = ""
    """The digest under which the registry has it; empty if it has not, or there is no registry."""
    secrets_changed: bool | None = False
    """Whether the app's secrets are others than those that what is live was given; None if that is not known here."""
    hosts: tuple[str, ...] = ("",)
    """The hosts that this is true of."""
    lacking: tuple[str, ...] = ()
    """Those of them that have not got the image."""
    begun: tuple[str, ...] = ()
    """The runs that have begun and did not end, the latest last: one under way, or killed, maybe after its commit."""

    def apart_from(self, run: str) -> Observed:
        """The same as the run itself sees it."""
        return replace(self, begun=tuple(each for each in self.begun if each != run))

    @property
    def live(self) -> Slot | None:
        return self.slots.get(self.proxy.colour) if self.proxy.colour else None

    @property
    def idle(self) -> Slot | None:
        """The slot that the proxy does not serve: a standby, or what an unfinished run left."""
        return next((slot for colour, slot in self.slots.items() if colour is not self.proxy.colour), None)

    @property
    def standby(self) -> Slot | None:
        """The idle slot, if its release has been live and all of it runs, on every host, or was scaled to none."""
        idle = self.idle
        whole = idle is not None and (idle.running == idle.wanted or idle.scaled_to_none)
        return idle if whole and not self.half_made else None

    @property
    def settled_colour(self) -> Colour | None:
        """The colour that was live before an unfinished run: in use still, or to be taken back."""
        record = self.proxy.record
        return record.from_colour if record and not record.committed else self.proxy.colour

    @property
    def unfinished(self) -> str:
        """The run that ended before its commit and was not undone, or not to the end, if there is one."""
        live, record = self.live, self.proxy.record
        over = {live.run if live else "", record.run if record and record.committed and not record.undone else ""}
        return self.half_made or next((run for run in reversed(self.begun) if run not in over), "")

    @property
    def half_made(self) -> str:
        """The same, if it has left anything that has to be undone."""
        record, idle = self.proxy.record, self.idle
        if record and not record.committed:
            return record.run
        if idle and not idle.kept and idle.number > (record.number if record else 0):
            return idle.run
        if idle and record and idle.run == record.run:  # its switch was taken back, its containers not removed yet
            return idle.run
        return ""


@dataclass(frozen=True)
class PlannedStep:
    """A step as it will run, and in words what it will do."""

    step: str
    detail: str


@dataclass(frozen=True)
class Plan:
    """Exactly what a run will do. An empty `steps` means that there is nothing to do, and `reason` says why."""

    action: str
    release: Release
    colour: Colour
    image: str
    from_colour: Colour | None
    from_release: Release | None
    before: tuple[Release, ...]
    number: int
    steps: tuple[PlannedStep, ...] = ()
    reason: str = ""
    diff: str = ""
    edits: str = ""
    """What a person has changed in the proxy's files, as a diff; with it a deploy refuses to run."""

    @property
    def unchanged(self) -> bool:
        return not self.steps

    def outline(self) -> dict[str, Any]:
        """What goes where, in which steps."""
        return {
            "action": self.action,
            "release": self.release.name,
            "colour": str(self.colour),
            "from": self.from_release.name if self.from_release else None,
            "steps": [asdict(step) for step in self.steps],
        }

    def to_dict(self) -> dict[str, Any]:
        return {**self.outline(), "reason": self.reason, "diff": self.diff, "edits": self.edits}


PASSING = ("planned", "counts")
"""States of events that are shown while a run goes on and kept nowhere. Their `data` says what the run will do, or has
figures of what is under way: of the witness, of the tries of a probe, of layers."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a run. Console, receipt and history all listen to these."""

    step: str
    state: str
    """started, progress, done, failed, undone, undo-failed, or leftover; or one of PASSING"""
    host: str = ""
    seconds: float = 0.0
    detail: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0.0
    """When it began, in seconds from the run's start."""


@dataclass(frozen=True, order=True)
class Line:
    """A line that a replica wrote. `at` is the engine's time (ISO 8601 of one length, so that it sorts)."""

    at: str
    text: str
