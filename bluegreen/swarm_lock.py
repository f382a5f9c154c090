"""One run at a time for a service in a swarm, whichever of its managers is asked.

The lock is a config of Swarm of a fixed name. The managers decide together that there is only one of a name, and that a
change is made to the version that it names. Labels tell who holds it, and the holder changes them every few seconds: a
lock that stays as it is for a lease is a dead holder's, and is taken over by a change to that very version.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from docker.errors import APIError, DockerException, NotFound
from requests import RequestException

from bluegreen.errors import BluegreenError, Failed, Locked
from bluegreen.lock import LEASE, Holder

BEAT = 2.0
"""Seconds between two signs of life of a holder."""

DATA = "bG9jaw=="
"""What the config holds, in base64: it can't be empty."""


class SwarmLock:
    """Held from `take` until `release`, or for a lease beyond the death of this process."""

    def __init__(self, client: Any, service: str) -> None:
        self._client = client
        self._service = service
        self._name = f"bluegreen-lock-{service}"
        self._token = secrets.token_hex(8)
        self._labels: dict[str, str] = {}
        self._id = ""
        self._beats = 0
        self._last = 0.0
        self._lost = ""
        self._released = threading.Event()
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
        """Raises Locked if another run lives and holds it for longer than `wait` seconds: whether it lives is known
        after a beat, or, if not, after a lease."""
        deadline = time.monotonic() + wait
        self._labels = {
            "bluegreen.lock": self._service,
            "bluegreen.lock.token": self._token,
            **Holder.me(doing, run).labels(),
        }
        told, seen, since, alive = None, "", time.monotonic(), False
        while True:
            if self._create():
                break
            config = self._inspect()
            if config is None:
                continue
            holder = Holder.of(config["Spec"]["Labels"])
            if holder.waits_for_us:
                raise Locked(
                    f"{self._service} is locked by {holder}, which waits for this very command: it was called from"
                    f" {holder.waits_for_us}, which holds the lock until the run has ended",
                    hint="call it when the run is over; commands that only read work in a hook",
                )
            version = f"{config['ID']} {config['Version']['Index']}"
            if version != seen:
                alive = bool(seen) and seen.split()[0] == config["ID"]
                seen, since = version, time.monotonic()
            elif time.monotonic() - since > LEASE and self._change(config):
                break
            if alive and time.monotonic() >= deadline:
                raise Locked(f"{self._service} is locked by {holder}", hint="wait for it, or pass --wait SECONDS")
            if waiting and alive and holder != told:
                waiting(holder)
                told = holder
            sleep(0.25)
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._hold, name="lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Still held. Raises BluegreenError when the lease was lost: another run may have begun."""
        late = time.monotonic() - self._last
        if self._lost or late > LEASE:
            why = self._lost or f"no manager of the swarm was heard for {late:.0f} s"
            raise BluegreenError(f"the lock on {self._service} was lost: {why}")

    def holder(self) -> Holder | None:
        """Who holds the lock now, if anybody does who lives."""
        config = self._inspect()
        if config is None:
            return None
        now = datetime.fromisoformat(self._client.info()["SystemTime"])
        changed = datetime.fromisoformat(config["UpdatedAt"])
        # The clocks of managers may differ by some seconds.
        return None if (now - changed).total_seconds() > 2 * LEASE else Holder.of(config["Spec"]["Labels"])

    def release(self) -> None:
        """Another run may begin."""
        self._released.set()
        if self._thread:
            self._thread.join(LEASE)
        if self._lost or not self._id or time.monotonic() - self._last > LEASE / 2:
            return  # it may be another's by now, or soon
        with contextlib.suppress(DockerException, RequestException, Failed):
            self._client.api.remove_config(self._id)
        self._id = ""

    def _create(self) -> bool:
        data = {"Name": self._name, "Data": DATA, "Labels": self._labels}
        api = self._client.api
        try:
            self._id = api._result(api._post_json(api._url("/configs/create"), data=data), True)["ID"]
        except APIError as error:
            if error.status_code == 409:
                return False
            raise
        return True

    def _inspect(self) -> Mapping[str, Any] | None:
        try:
            found: Mapping[str, Any] = self._client.api.inspect_config(self._name)
        except NotFound:
            return None
        return found

    def _change(self, config: Mapping[str, Any]) -> bool:
        """The config, as it was seen, is ours now, with a new sign of life. False if it is another one by now."""
        self._beats += 1
        labels = {**self._labels, "bluegreen.lock.beat": str(self._beats)}
        data = {"Name": self._name, "Data": DATA, "Labels": labels}
        api = self._client.api
        url = api._url("/configs/{0}/update", config["ID"]) + f"?version={config['Version']['Index']}"
        try:
            api._raise_for_status(api._post_json(url, data=data))
        except NotFound:
            return False
        except APIError as error:
            if "out of sequence" in str(error.explanation):
                return False
            raise
        self._id = config["ID"]
        return True

    def _hold(self) -> None:
        while not self._released.wait(BEAT):
            begun = time.monotonic()
            with contextlib.suppress(DockerException, RequestException, Failed):  # by the next beat it may answer
                config = self._inspect()
                if config is None or config["Spec"]["Labels"].get("bluegreen.lock.token") != self._token:
                    self._lost = "somebody else has it" if config else "somebody has removed it"
                    return
                if self._change(config):
                    self._last = begun
