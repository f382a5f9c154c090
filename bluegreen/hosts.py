"""Several hosts as one: what a run does, it does on all of them, and what is true is what they agree on.

Each has an engine and a proxy of its own, and knows nothing of the others. A run sees them through one runtime and one
proxy (runtimes/hosts.py, proxies/hosts.py), which ask every host and give one answer. A host that stops answering in
the middle is left out from then on: what it serves when it is back is told by the number in its switch record, and it
is brought to what the others serve by the next command.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from requests import ConnectionError as NoConnection
from requests import Timeout

from bluegreen.errors import BluegreenError, HostLost
from bluegreen.history import History, Kept
from bluegreen.lock import Holder
from bluegreen.model import Event, ProxyState, SwitchRecord
from bluegreen.proxies import Proxy
from bluegreen.registry import Progress, Registry, Tally
from bluegreen.runtimes import Runtime
from bluegreen.runtimes.session import SessionEnded
from bluegreen.words import cause

Result = TypeVar("Result")

GONE = (NoConnection, Timeout, SessionEnded)
"""What comes of asking a host that is not there any more; or only its proxy is not, which is another thing."""


@dataclass
class Host:
    """One host: its engine and the proxy beside it, under the name that the settings give it."""

    name: str
    client: Any
    runtime: Runtime
    proxy: Proxy
    registry: Registry | None = None
    history: History | None = None
    lock: Any = None
    """Its `Lock`."""
    tell: Callable[[int], object] = lambda number: None
    """Has the node of a VIP that it is answer the others with this number of a switch; see `Driver.tell`."""


@dataclass
class Hosts:
    """The hosts of a service, in the order of the settings."""

    members: Sequence[Host]
    lost: dict[str, str] = field(default_factory=dict)
    """Those that do not answer any more, each with what was heard last."""
    behind: dict[str, str] = field(default_factory=dict)
    """Those that serve something else than the others do by now, each with why it is thought so; see `agree`."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Of each, the number of the switch that was last committed there, as far as it was seen."""
    emit: Callable[[Event], None] = lambda event: None
    verify: Callable[[Proxy], object] = lambda proxy: None
    """Raises what is wrong with a proxy that was just switched, before the next one is."""

    @property
    def there(self) -> list[Host]:
        """Those that answer. Raises HostLost if none does."""
        found = [host for host in self.members if host.name not in self.lost]
        if not found:
            raise HostLost("none of the hosts answers: " + "; ".join(f"{k}: {v}" for k, v in self.lost.items()))
        return found

    @property
    def current(self) -> list[Host]:
        """Those of them that serve what is live."""
        return [host for host in self.there if host.name not in self.behind]

    def named(self, name: str) -> Host:
        return next(host for host in self.members if host.name == name)

    def tell(self) -> None:
        """Every node of a VIP answers the others with what is true; it may not, if a run was killed in its commit."""
        self.each(lambda host: host.tell(self.numbers[host.name]) if host.name in self.numbers else None)

    def on(self, host: Host, work: Callable[[Host], Result]) -> Result:
        """What comes of the work there. Raises HostLost, and counts it as lost, if it does not answer any more."""
        try:
            return work(host)
        except GONE as error:
            if host.runtime.answers():  # its engine does: what has gone is the proxy, or a container
                raise
            raise self.lose(host, cause(error)) from error

    def lose(self, host: Host, words: str) -> HostLost:
        """The host counts as lost; the error that says so."""
        self.lost[host.name] = words.partition("\n")[0]
        return HostLost(f"{host.name} does not answer any more: {self.lost[host.name]}")

    def each(self, work: Callable[[Host], Result], among: Iterable[Host] | None = None, step: str = "") -> list[Result]:
        """What comes of the work on each, done on all of them at once. All have ended when the first error is raised.

        With a `step`, it is told that they begin and, in their order, as soon as each is done.
        """
        hosts = self.there if among is None else list(among)
        begun = time.monotonic()

        def one(host: Host) -> tuple[Result, float]:
            result = self.on(host, work)
            return result, time.monotonic() - begun

        def told(host: Host, result: Result, seconds: float) -> Result:
            if step:
                self.emit(Event(step, "done", host.name, seconds))
            return result

        for host in hosts if step else ():
            self.emit(Event(step, "started", host.name))
        if len(hosts) == 1:
            return [told(hosts[0], *one(hosts[0]))]
        with ThreadPoolExecutor(max(1, len(hosts))) as pool:
            futures = [pool.submit(one, host) for host in hosts]
            return [told(host, *future.result()) for host, future in zip(hosts, futures, strict=True)]


def agree(states: Mapping[str, ProxyState]) -> tuple[ProxyState, dict[str, str]]:
    """What the proxies of several hosts serve, as one, and why each host counts as behind that is.

    A switch that one of them has committed goes forward everywhere; one that none has is the unfinished run's.
    """
    records = {name: state.record for name, state in states.items() if state.record}
    truth = _truth(list(records.values()))
    colour = truth.to_colour if truth else next((each.colour for each in states.values() if each.colour), None)
    if truth and not truth.committed:
        serving = [states[name].colour for name, record in records.items() if not record.committed]
        colour = truth.to_colour if truth.to_colour in serving else truth.from_colour
    behind = {}
    for name, state in states.items():
        if truth and (why := _behind(truth, state)):
            behind[name] = why
    current = [state for name, state in states.items() if name not in behind]
    everywhere = truth is None or all(state.colour is truth.to_colour for state in current)
    there = [state for state in current if state.exists]
    some = next(iter(there), next(iter(states.values())))
    return (
        replace(
            some,
            exists=bool(there),
            running=bool(there) and all(state.running for state in there),
            colour=colour if there else None,
            everywhere=everywhere,
            record=truth,
            config=told({name: state.config for name, state in states.items() if name not in behind}),
            edits=told({name: state.edits for name, state in states.items()}),
        ),
        behind,
    )


def _truth(records: Sequence[SwitchRecord]) -> SwitchRecord | None:
    """The record that holds for all: the latest, but that of the unfinished run if there is one."""
    if not records:
        return None
    # Where some were left out by turns, two runs may have had the same number.
    latest = max(records, key=lambda record: (record.number, record.committed, record.at))
    if latest.committed and not latest.undone:
        return latest
    # It had not committed, or was being undone: where the undo did not come, it is unfinished still.
    left = [record for record in records if not record.committed and record.run == latest.run]
    return replace(left[0], number=latest.number) if left else latest


def _behind(truth: SwitchRecord, state: ProxyState) -> str:
    """Why the proxy with this state does not serve what holds for all; empty if it does."""
    record = state.record
    if state.exists and not state.running:
        return "its proxy does not run"
    if not truth.committed:
        before = truth.number - 1  # what was before the run; or the run's own, or its undo's
        old = record is not None and record.committed and record.number < before
        return f"its switch {record.number} is older than {before}" if record and old else ""
    if record is None:
        return "" if truth.from_colour is None and not state.exists else "it has never served"
    if record.number < truth.number:
        return f"its switch {record.number} is older than {truth.number}"
    if not record.committed:
        return f"its switch {record.number} is not committed"
    if record.run != truth.run:
        return f"its switch {record.number} is that of another run, {record.run}"
    return "" if state.colour is truth.to_colour else f"it serves {state.colour or 'nothing'}, not {truth.to_colour}"


def told(texts: Mapping[str, str]) -> str:
    """The texts of several hosts as one: only once if they are all the same."""
    different = {text for text in texts.values() if text}
    if len(different) < 2:
        return next(iter(different), "")
    return "\n".join(f"# {name}\n{text.rstrip()}\n" for name, text in texts.items() if text)


class HostsLock:
    """The lock of every host, taken in one order from wherever: that of the engines' own ids."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._taken: list[Host] = []

    def take(
        self,
        doing: str,
        *,
        run: str = "",
        wait: float = 0,
        waiting: Callable[[Holder], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """As `Lock.take`: all of them are this run's, or none is."""
        deadline = time.monotonic() + wait
        ids = self._hosts.each(lambda host: str(host.client.info()["ID"]))
        ordered = sorted(zip(ids, self._hosts.there, strict=True), key=lambda pair: pair[0])
        try:
            for _, host in ordered:
                left = max(0.0, deadline - time.monotonic())
                take = partial(host.lock.take, doing, run=run, wait=left, waiting=waiting, sleep=sleep)
                self._hosts.on(host, lambda _, take=take: take())  # type: ignore[misc]
                self._taken.append(host)
        except BaseException:
            self.release()
            raise

    def check(self) -> None:
        """As `Lock.check`; a host that does not answer any more is lost."""
        for host in self._taken:
            if host.name in self._hosts.lost:
                continue
            try:
                host.lock.check()
            except BluegreenError as error:
                if host.runtime.answers():
                    raise
                raise self._hosts.lose(host, error.message) from error

    def holder(self) -> Holder | None:
        found = self._hosts.each(lambda host: host.lock.holder())
        return next((holder for holder in found if holder), None)

    def release(self) -> None:
        """As `Lock.release`, on all at once: who waits takes them in their order, whichever of them is free first."""

        def one(host: Host) -> None:
            with suppress(*GONE, BluegreenError):
                host.lock.release()

        self._hosts.each(one, self._taken)
        self._taken.clear()


class HostsHistory:
    """The history of the service, on every host the same, as far as each was there."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def keep(self, receipt: Mapping[str, Any]) -> None:
        self._hosts.each(lambda host: host.history.keep(receipt) if host.history else None)

    def runs(self) -> list[Kept]:
        """What any host has of each run, the latest first."""
        found: dict[str, Kept] = {}
        for runs in self._hosts.each(lambda host: host.history.runs() if host.history else []):
            for kept in runs:
                found.setdefault(kept.run or kept.file, kept)
        return sorted(found.values(), key=lambda kept: kept.run, reverse=True)

    def remove(self) -> list[str]:
        gone = self._hosts.each(lambda host: host.history.remove() if host.history else [])
        return _of_each(self._hosts, gone)


class HostsRegistry:
    """The registry, asked by way of one engine, and pulled from by all."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def _by_one(self, work: Callable[[Registry], Result]) -> Result:
        def there(host: Host) -> Result:
            assert host.registry
            return work(host.registry)

        return self._hosts.on(self._hosts.there[0], there)

    def digest(self, reference: str, progress: Progress = lambda words: None) -> str:
        return self._by_one(lambda registry: registry.digest(reference, progress))

    def push(
        self, reference: str, progress: Progress, *, overwrite: bool = False, counts: Tally = lambda figures: None
    ) -> str:
        return self._by_one(lambda registry: registry.push(reference, progress, overwrite=overwrite, counts=counts))

    def pull(self, reference: str, tag: str, progress: Progress, counts: Tally = lambda figures: None) -> None:
        """As `Registry.pull`; each host's layers are told by themselves, and not to `counts`."""

        def one(host: Host) -> None:
            def counted(figures: Mapping[str, Any]) -> None:
                self._hosts.emit(Event("pull", "counts", host.name, data=figures))

            if host.registry and host.runtime.image(reference) is None:
                host.registry.pull(reference, tag, lambda words: progress(f"{host.name}: {words}"), counted)

        self._hosts.each(one, step="pull")

    def log_in(self, given: Any = None) -> str:
        return self._hosts.each(lambda host: host.registry.log_in(given) if host.registry else "")[0]


def _of_each(hosts: Hosts, words: Sequence[Sequence[str]]) -> list[str]:
    """What was said on each host, with its name."""
    return [f"{host.name}: {each}" for host, said in zip(hosts.there, words, strict=True) for each in said]
