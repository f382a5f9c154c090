"""One run at a time for a service, from whichever machine it is started.

The lock is a container of a fixed name: its creation is atomic, and its labels tell who holds it. Its process lives on
a byte a second from the holder, so that it ends by itself when the holder dies, sleeps or loses the network.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from docker.errors import APIError, DockerException, NotFound
from requests import RequestException

from bluegreen.errors import BluegreenError, Locked
from bluegreen.runtimes.session import Session, SessionEnded

LEASE = 15
"""Seconds after which a lock ends whose holder is no longer heard, as over a network that was cut."""

STILLBORN = 4.0
"""Seconds after which a lock that was created but never started counts as a dead holder's."""

# Says that it is held, then gives back every byte it hears; ends when none came for a lease.
PROCESS = 'echo held; while [ "$(timeout "$1" head -c1)" = . ]; do echo .; done'


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: what they do, as whom and where, since when (ISO 8601, UTC), and in which run, if in one."""

    who: str
    doing: str
    since: str
    run: str = ""

    def __str__(self) -> str:
        return f"{self.who} ({self.doing}, since {self.since})"

    @classmethod
    def me(cls, doing: str, run: str = "") -> Holder:
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a user id without a name
            user = str(os.getuid())
        job = os.environ.get("CI_JOB_URL")
        who = f"{user}@{socket.gethostname()}, process {os.getpid()}" + (f", {job}" if job else "")
        return cls(who=who, doing=doing, since=datetime.now(UTC).isoformat(timespec="seconds"), run=run)

    def labels(self) -> dict[str, str]:
        found = {"who": self.who, "doing": self.doing, "since": self.since, "run": self.run}
        return {f"bluegreen.lock.{key}": value for key, value in found.items()}

    @classmethod
    def of(cls, labels: dict[str, str]) -> Holder:
        def get(key: str) -> str:
            return labels.get(f"bluegreen.lock.{key}", "unknown")

        return cls(who=get("who"), doing=get("doing"), since=get("since"), run=labels.get("bluegreen.lock.run", ""))

    @property
    def waits_for_us(self) -> str:
        """The hook in which the holder waits for this very process to end; empty if it does not."""
        if not self.run or self.run not in os.environ.get("BLUEGREEN_RUNS", "").split():
            return ""
        name = os.environ.get("BLUEGREEN_HOOK", "") if self.run == os.environ.get("BLUEGREEN_RUN") else ""
        return f"the hook {name} of run {self.run}" if name else f"a hook of run {self.run}"


class Lock:
    """Held from `take` until `release` or the death of this process."""

    def __init__(self, client: Any, service: str, image: str) -> None:
        self._client = client
        self._service = service
        self._image = image
        self._name = f"bluegreen-lock-{service}"
        self._container: Any = None
        self._session: Session | None = None
        self._lost: str = ""
        self._released = threading.Event()
        self._held = threading.Event()
        self._created = 0.0
        self._thread: threading.Thread | None = None

    def take(
        self,
        doing: str,
        *,
        run: str = "",
        wait: float = 0,
        waiting: Callable[[Holder], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """The lock is this run's. Raises Locked when another holds it after `wait` seconds, and at once when that one
        waits for this process.

        The lock's process starts in the background.
        """
        me = Holder.me(doing, run)
        deadline = time.monotonic() + wait
        told: Holder | None = None
        while not self._create(me):
            holder = self.holder()
            if holder is None:
                continue
            if holder.waits_for_us:
                raise Locked(
                    f"{self._service} is locked: this was called from {holder.waits_for_us}, which holds the lock"
                    " until the run has ended",
                    hint="call it when the run is over; commands that only read work in a hook",
                )
            if time.monotonic() >= deadline:
                raise Locked(f"{self._service} is locked by {holder}", hint="wait for it, or pass --wait SECONDS")
            if waiting and holder != told:
                waiting(holder)
                told = holder
            sleep(0.25)
        self._thread = threading.Thread(target=self._hold, name="lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Still held. Raises BluegreenError when the lease was lost: another run may have begun.

        Nobody takes over a lock before it is STILLBORN, so that half of that may pass before its start is waited for.
        """
        if time.monotonic() - self._created < STILLBORN / 2 and not self._lost:
            return
        self._held.wait(LEASE)
        if not self._held.is_set() or self._lost:
            raise BluegreenError(f"the lock on {self._service} was lost: {self._lost or 'it did not start'}")

    def holder(self) -> Holder | None:
        """Who holds the lock now, if anybody does. A lock that never came to life is removed."""
        try:
            container = self._client.containers.get(self._name)
        except NotFound:
            return None
        if container.status == "created":
            now = datetime.fromisoformat(self._client.info()["SystemTime"])  # in the time zone of the engine's host
            created = datetime.fromisoformat(container.attrs["Created"])
            if (now - created).total_seconds() > STILLBORN:
                self._remove(container)
                return None
        elif container.status in ("exited", "dead"):
            self._remove(container)
            return None
        return Holder.of(container.labels)

    def release(self) -> None:
        """Another run may begin."""
        self._released.set()
        if self._thread:
            self._held.wait(LEASE)
        if self._session:
            self._session.close()
        if self._container is not None:
            self._remove(self._container)
            self._container = None

    def _create(self, me: Holder) -> bool:
        before = time.monotonic()
        try:
            self._container = self._client.containers.create(
                self._image,
                [PROCESS, "lock", str(LEASE)],
                entrypoint=["sh", "-c"],
                name=self._name,
                labels={"bluegreen.lock": self._service, **me.labels()},
                stdin_open=True,
                auto_remove=True,
                network_mode="none",
                log_config={"type": "none"},
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
            )
        except APIError as error:
            if error.status_code == 409:
                return False
            raise
        self._created = before
        return True

    def _hold(self) -> None:
        try:
            raw = self._client.api.attach_socket(
                self._container.id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            )
            self._session = Session(raw, timeout=LEASE)
            self._container.start()
            self._session.read_line()
            self._held.set()
            while not self._released.wait(1):
                self._session.send(b".")
                self._session.read_line()
        except (SessionEnded, DockerException, OSError) as error:
            if not self._released.is_set():
                self._lost = str(error)
        finally:
            self._held.set()

    def _remove(self, container: Any) -> None:
        with contextlib.suppress(DockerException, RequestException):
            container.remove(force=True)
