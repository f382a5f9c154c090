"""What bluegreen asks of the engine that runs the containers. A new runtime is one file that meets this protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # so that an engine can be connected to before these are loaded
    from bluegreen.model import Colour, Endpoint, Image, Line, OneShot, Release, Replica, Slot
    from bluegreen.prune import Found


class Runtime(Protocol):
    """The containers, images and network of one service on one host."""

    @property
    def name(self) -> str: ...

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of the hosts that it runs on."""

    @property
    def network(self) -> str:
        """The name of the network on which the proxy reaches the replicas."""

    def slots(self) -> Mapping[Colour, Slot]:
        """What stands in each colour, asked of the engine."""

    def image(self, reference: str) -> Image | None:
        """The image of this tag or digest, if the engine has it."""

    def lacking(self, image: str) -> tuple[str, ...]:
        """Of several hosts of which one has this image, those that have it not."""

    def copy(self, image: str, progress: Callable[[str], None]) -> None:
        """Every host has the image that one of them has. Raises Failed."""

    def save(self, image: str) -> Iterator[bytes]:
        """The image as an archive, piece by piece."""

    def load(self, pieces: Iterable[bytes]) -> None:
        """The engine has the image of such an archive, and its tag."""

    def images(self) -> Sequence[Found]:
        """The images of the service's repository. An image with several names is there once for each."""

    def needed_elsewhere(self) -> frozenset[str]:
        """The digests that other services on this engine run, or have in the history that they may roll back to."""

    def remove_image(self, name: str) -> bool:
        """The engine has no image of this name. False, and it is left, if a container needs it."""

    def build(self, release: Release, progress: Callable[[str], None]) -> Image:
        """The release's image is built and tagged. Raises Failed with the build's last lines."""

    def begin(self, run: str) -> None:
        """Whoever comes next finds that the run has begun, until it is told to have `ended`: the trace of a run that
        was killed before it had made anything else."""

    def begun(self) -> tuple[str, ...]:
        """The runs that have begun and were not told to have ended, the latest last."""

    def ended(self, *runs: str) -> None:
        """There is no trace of these runs any more."""

    def prepare(self) -> bool:
        """The service's network exists. True if it did not before."""

    def endpoints(self, colour: Colour, count: int) -> tuple[Endpoint, ...]:
        """Where `count` replicas of a colour answer; the addresses last across restarts."""

    def start(
        self, colour: Colour, release: Release, image: str, run: str, number: int, before: tuple[Release, ...]
    ) -> tuple[Replica, ...]:
        """The colour holds running replicas of the release and nothing else. They don't restart until `keep`."""

    def keep(self, colour: Colour) -> None:
        """The colour's replicas come back after a crash and after a restart of the engine."""

    def has_secrets(self, colour: Colour) -> bool:
        """Whether the colour's replicas have the app's secrets as they are now. Raises SettingsError where those can't
        be had."""

    def replicas(self, colour: Colour) -> tuple[Replica, ...]:
        """The colour's replicas as they are now."""

    def log(self, replica: Replica, lines: int = 15) -> str:
        """The last lines that the replica wrote."""

    def lines(
        self, replica: Replica, *, follow: bool = False, tail: int | None = None, since: float = 0
    ) -> Iterator[Line]:
        """What the replica wrote: its last `tail` lines, since that time (of `time.time`), and, if told to `follow`,
        what it writes until it ends. None of a replica that is gone."""

    def run(self, replica: Replica, command: Sequence[str], emit: Callable[[str, bool], None]) -> int:
        """The command has run in the replica; its exit code. `emit` has had each line, and whether it is an error's.

        Raises Failed if it can't be begun.
        """

    def remove(self, colour: Colour, *, run: str | None = None) -> list[str]:
        """The colour's replicas (of that run only, if given) have ended, in the time that the settings give them,
        and are gone. Says which."""

    def stand_by(self, colour: Colour) -> list[str]:
        """The colour, which carries no traffic any more, is kept for a rollback as the settings say. Says which
        replicas have ended for that: all, in a swarm that scales it to none, or none."""

    def run_once(self, job: OneShot, output: Callable[[bytes], None], watch: Callable[[], None]) -> int | None:
        """The job has ended, and its container, which no colour counts, is gone. Gives the exit code; None if it was
        ended after its timeout. `output` gets what it writes; `watch` is called now and then, and what it raises ends
        the job and is raised. Raises Failed if it can't start. The network must exist."""

    def remove_one_shots(self, *, run: str | None = None) -> list[str]:
        """What a killed run (only this one, if given) has left of its jobs has ended and is gone. Says which."""

    def answers(self) -> bool:
        """Whether the engine answers now."""

    def remove_network(self) -> list[str]:
        """The service's network is gone. Says so if it was there."""
