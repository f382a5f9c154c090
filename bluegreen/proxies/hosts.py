"""The proxies of several hosts as one: all are switched, or none is.

Each sends to the replicas of its own host, or, with `proxy.upstreams = "all"`, of every host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from bluegreen.errors import Failed, HostLost
from bluegreen.hosts import Host, Hosts, agree, told
from bluegreen.model import Colour, Counts, Endpoint, Event, ProxyState, SwitchRecord
from bluegreen.proxies import Upstreams
from bluegreen.proxies.agent import AgentError, Answer
from bluegreen.settings import Settings

Result = TypeVar("Result")


class HostsProxy:
    """Meets `Proxy`. `last` says of a host whether it is to be switched after the others, as the holder of a VIP is."""

    def __init__(self, hosts: Hosts, settings: Settings, last: Callable[[Host], bool] = lambda host: False) -> None:
        self._hosts = hosts
        self._settings = settings
        self._is_last = last
        self._last: set[str] = set()

    @property
    def name(self) -> str:
        return f"{self._hosts.members[0].proxy.name} of {len(self._hosts.members)} hosts"

    def observe(self) -> ProxyState:
        """What they serve, by `agree`; which of them are behind is then known to the hosts' other drivers, too."""
        hosts = self._hosts.there
        states = self._hosts.each(lambda host: host.proxy.observe(), hosts)
        state, behind = agree({host.name: state for host, state in zip(hosts, states, strict=True)})
        records = {host.name: state.record for host, state in zip(hosts, states, strict=True)}
        self._hosts.numbers = {name: each.number for name, each in records.items() if each and each.committed}
        self._hosts.behind.clear()
        self._hosts.behind.update(behind)
        return state

    def boot(self, networks: Sequence[str]) -> bool:
        return any(self._hosts.each(lambda host: _whose(host, lambda: host.proxy.boot(networks))))

    def render(self, upstreams: Upstreams, colour: Colour) -> str:
        return told({host.name: host.proxy.render(self._of(upstreams, host), colour) for host in self._hosts.current})

    def prepare(self, upstreams: Upstreams, colour: Colour | None) -> None:
        """The first phase: every one of them has taken the upstreams, before any is switched."""
        self._each(lambda host: host.proxy.prepare(self._of(upstreams, host), colour))
        self._last = {host.name for host in self._hosts.there if self._is_last(host)}

    def renew(self, upstreams: Upstreams, colour: Colour) -> None:
        self._each(lambda host: host.proxy.renew(self._of(upstreams, host), colour))

    def have_room(self) -> None:
        self._each(lambda host: host.proxy.have_room())

    def note(self, record: SwitchRecord) -> None:
        self._each(lambda host: host.proxy.note(record))

    def switch(self, record: SwitchRecord, upstreams: Upstreams) -> None:
        """The second phase: one after the other, whoever holds the VIP last. Raises for the first that refuses."""
        for host in self._in_order():
            self._hosts.on(host, lambda host: _whose(host, lambda: self._switch(host, record, upstreams)))
            self._hosts.emit(Event("switch", "done", host.name, detail=f"{record.to_colour} is in use"))

    def _switch(self, host: Host, record: SwitchRecord, upstreams: Upstreams) -> None:
        host.proxy.switch(record, self._of(upstreams, host))
        if not record.committed:
            self._hosts.verify(host.proxy)

    def commit(self, record: SwitchRecord) -> None:
        for host in self._in_order():
            self._hosts.on(host, lambda host: _whose(host, lambda: host.proxy.commit(record)))

    def reload(self) -> None:
        self._each(lambda host: host.proxy.reload())

    def in_flight(self, endpoints: Sequence[Endpoint]) -> int:
        return self._sum(endpoints, lambda host, mine: host.proxy.in_flight(mine))

    def websockets(self, endpoints: Sequence[Endpoint]) -> int:
        return self._sum(endpoints, lambda host, mine: host.proxy.websockets(mine))

    def counts(self) -> Mapping[Colour, Counts]:
        totals = {colour: Counts() for colour in Colour}
        for counts in self._hosts.each(lambda host: host.proxy.counts()):
            for colour, count in counts.items():
                totals[colour] += count
        return totals

    def get(self, path: str, host: str, timeout: float) -> Answer:
        """The answer that all of them give; where they differ, one that is no right answer."""
        name = host
        return _as_one(self._hosts.each(lambda host: host.proxy.get(path, name, timeout)))

    def get_from(self, endpoint: Endpoint, path: str, host: str, timeout: float) -> Answer:
        """The answer that every proxy gets which sends to it; where they differ, one that is no right answer."""
        name = host
        return _as_one(self._of_each_sender(endpoint, lambda host, at: host.proxy.get_from(at, path, name, timeout)))

    def connect(self, timeout: float) -> None:
        self._hosts.each(lambda host: host.proxy.connect(timeout))

    def connect_to(self, endpoint: Endpoint, timeout: float) -> None:
        self._of_each_sender(endpoint, lambda host, at: host.proxy.connect_to(at, timeout))

    def remove(self) -> list[str]:
        gone = self._hosts.each(lambda host: [f"{host.name}: {words}" for words in host.proxy.remove()])
        return [words for said in gone for words in said]

    def close(self) -> None:
        for host in self._hosts.members:
            host.proxy.close()

    def _each(self, work: Callable[[Host], None]) -> None:
        self._hosts.each(lambda host: _whose(host, lambda: work(host)))

    def _of(self, upstreams: Upstreams, host: Host) -> dict[Colour, list[Endpoint]]:
        """What of them the host's proxy sends to, as it reaches it: what is on its own host first, or on no host's, as
        every proxy reaches the tasks of a swarm."""
        found = {}
        for colour, endpoints in upstreams.items():
            own = [each for each in endpoints if each.host in (host.name, "")]
            others = [each for each in endpoints if each not in own] if self._to_all else []
            found[colour] = [seen for each in (*own, *others) if (seen := _seen_from(host, each))]
        return found

    @property
    def _to_all(self) -> bool:
        return self._settings.proxy.upstreams == "all"

    def _of_each_sender(self, endpoint: Endpoint, ask: Callable[[Host, Endpoint], Result]) -> list[Result]:
        """What each proxy that sends to the endpoint is answered."""
        senders = {
            host.name: seen
            for host in self._hosts.there
            if (endpoint.host in (host.name, "") or self._to_all) and (seen := _seen_from(host, endpoint))
        }
        asking = [host for host in self._hosts.there if host.name in senders]

        def asked(host: Host) -> Result:
            try:
                return ask(host, senders[host.name])
            except AgentError as error:
                if len(asking) > 1:
                    error.message = f"asked by the proxy of {host.name}: {error.message}"
                raise

        return self._hosts.each(asked, asking)

    def _in_order(self) -> list[Host]:
        return sorted(self._hosts.there, key=lambda host: host.name in self._last)

    def _sum(self, endpoints: Sequence[Endpoint], count: Callable[[Host, list[Endpoint]], int]) -> int:
        mine = {host.name: self._of({Colour.BLUE: endpoints}, host)[Colour.BLUE] for host in self._hosts.there}
        asked = [host for host in self._hosts.there if mine[host.name]]
        return sum(self._hosts.each(lambda host: count(host, mine[host.name]), asked)) if asked else 0


def _whose(host: Host, work: Callable[[], Result]) -> Result:
    """What comes of the work, whose failure tells where it was."""
    try:
        return work()
    except HostLost:  # it names the one that is gone, which may be another
        raise
    except Failed as error:
        error.message = f"{host.name}: {error.message}"
        raise


def _seen_from(host: Host, endpoint: Endpoint) -> Endpoint | None:
    """The endpoint as the host's own proxy reaches it; None if it does not."""
    if endpoint.host in (host.name, ""):
        return replace(endpoint, host="")
    address, _, port = endpoint.public.rpartition(":")
    return Endpoint(address, int(port)) if address else None


def _as_one(answers: Sequence[Answer]) -> Answer:
    bodies = list(dict.fromkeys(answer.body for answer in answers))
    worst = max(answers, key=lambda answer: answer.status)
    return worst if len(bodies) == 1 else replace(worst, body=" and ".join(bodies))
