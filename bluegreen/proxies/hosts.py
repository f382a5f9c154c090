"""The proxies of several hosts as one: each sends to the replicas of its own host, and all are switched or none is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from bluegreen.errors import Failed
from bluegreen.hosts import Host, Hosts, agree, told
from bluegreen.model import Colour, Counts, Endpoint, Event, ProxyState, SwitchRecord
from bluegreen.proxies import Upstreams
from bluegreen.proxies.agent import Answer
from bluegreen.settings import Settings


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
        self._hosts.behind.clear()
        self._hosts.behind.update(behind)
        return state

    def boot(self, networks: Sequence[str]) -> bool:
        return any(self._hosts.each(lambda host: host.proxy.boot(networks)))

    def render(self, upstreams: Upstreams, colour: Colour) -> str:
        return told({host.name: host.proxy.render(_of(upstreams, host), colour) for host in self._hosts.current})

    def prepare(self, upstreams: Upstreams, colour: Colour | None) -> None:
        """The first phase: every one of them has taken the upstreams, before any is switched."""
        self._each(lambda host: host.proxy.prepare(_of(upstreams, host), colour))
        self._last = {host.name for host in self._hosts.there if self._is_last(host)}

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
        host.proxy.switch(record, _of(upstreams, host))
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
        answers = self._hosts.each(lambda host: host.proxy.get(path, name, timeout))
        bodies = list(dict.fromkeys(answer.body for answer in answers))
        worst = max(answers, key=lambda answer: answer.status)
        return worst if len(bodies) == 1 else replace(worst, body=" and ".join(bodies))

    def get_from(self, endpoint: Endpoint, path: str, host: str, timeout: float) -> Answer:
        where, mine = self._hosts.named(endpoint.host), replace(endpoint, host="")
        return self._hosts.on(where, lambda where: where.proxy.get_from(mine, path, host, timeout))

    def connect(self, timeout: float) -> None:
        self._hosts.each(lambda host: host.proxy.connect(timeout))

    def connect_to(self, endpoint: Endpoint, timeout: float) -> None:
        where, mine = self._hosts.named(endpoint.host), replace(endpoint, host="")
        self._hosts.on(where, lambda where: where.proxy.connect_to(mine, timeout))

    def remove(self) -> list[str]:
        gone = self._hosts.each(lambda host: [f"{host.name}: {words}" for words in host.proxy.remove()])
        return [words for said in gone for words in said]

    def close(self) -> None:
        for host in self._hosts.members:
            host.proxy.close()

    def _each(self, work: Callable[[Host], None]) -> None:
        self._hosts.each(lambda host: _whose(host, lambda: work(host)))

    def _in_order(self) -> list[Host]:
        return sorted(self._hosts.there, key=lambda host: host.name in self._last)

    def _sum(self, endpoints: Sequence[Endpoint], count: Callable[[Host, list[Endpoint]], int]) -> int:
        mine = {host.name: _mine(endpoints, host) for host in self._hosts.there}
        asked = [host for host in self._hosts.there if mine[host.name]]
        return sum(self._hosts.each(lambda host: count(host, mine[host.name]), asked)) if asked else 0


def _whose(host: Host, work: Callable[[], None]) -> None:
    """The work, whose failure tells where it was."""
    try:
        work()
    except Failed as error:
        error.message = f"{host.name}: {error.message}"
        raise


def _of(upstreams: Upstreams, host: Host) -> Upstreams:
    """What of them is on the host, as its own proxy knows it."""
    return {colour: _mine(endpoints, host) for colour, endpoints in upstreams.items()}


def _mine(endpoints: Sequence[Endpoint], host: Host) -> list[Endpoint]:
    return [replace(each, host="") for each in endpoints if each.host == host.name]
