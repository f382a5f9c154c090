"""What bluegreen asks of a proxy. A new proxy is one file that meets this protocol and passes its contract tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from bluegreen.model import Colour, Counts, Endpoint, ProxyState, SwitchRecord
from bluegreen.proxies.agent import Answer

Upstreams = Mapping[Colour, Sequence[Endpoint]]


class Proxy(Protocol):
    """Carries one service's traffic to one of its two colours."""

    @property
    def name(self) -> str: ...

    def observe(self) -> ProxyState:
        """What the running proxy serves now."""

    def boot(self, networks: Sequence[str]) -> bool:
        """The proxy runs and is attached to the networks. True if it did not exist before."""

    def render(self, upstreams: Upstreams, colour: Colour) -> str:
        """The service's file with `colour` in use."""

    def prepare(self, upstreams: Upstreams, colour: Colour | None) -> None:
        """The running proxy knows these upstreams and still serves `colour`; tested before it was loaded.

        Raises Failed, with the proxy's own words, when it refuses; the file that stood before is back then.
        """

    def renew(self, upstreams: Upstreams, colour: Colour) -> None:
        """The running proxy sends to these upstreams, and to `colour`, as before. Raises Failed as `prepare` does."""

    def have_room(self) -> None:
        """Raises Failed, having changed nothing, if there is no room for all that a run may write."""

    def note(self, record: SwitchRecord) -> None:
        """The record stands beside what is served, which is not switched. Only the live colour gets requests."""

    def switch(self, record: SwitchRecord, upstreams: Upstreams) -> None:
        """Every new request goes to `record.to_colour`. An uncommitted record stands beside it, and the old colour
        takes over requests that the new one refuses. A committed one, of a switch back, is written by `commit`:
        whoever dies before that leaves the uncommitted one, which is taken up."""

    def commit(self, record: SwitchRecord) -> None:
        """The record says that the switch stands, and the old colour gets no request any more."""

    def reload(self) -> None:
        """The running proxy has loaded its files as they stand. Raises Failed, and nothing was loaded, if it can't."""

    def in_flight(self, endpoints: Sequence[Endpoint]) -> int:
        """How many connections are, or may yet be, at work on these endpoints, which are not live any more."""

    def websockets(self, endpoints: Sequence[Endpoint]) -> int:
        """How many WebSockets are open to these endpoints."""

    def counts(self) -> Mapping[Colour, Counts]:
        """What clients were answered while each colour was in use, by the proxy's own count.

        Only what came between two looks tells anything, as a first look may be what begins the counting, and a reload
        may begin it anew. It goes on until `commit`, or for a minute or more after the last look. What another server
        answered in the place of one that failed counts as an error, too.
        """

    def get(self, path: str, host: str, timeout: float) -> Answer:
        """The answer to a request as clients send it: through the proxy."""

    def get_from(self, endpoint: Endpoint, path: str, host: str, timeout: float) -> Answer:
        """The answer of one replica, asked from the proxy's place."""

    def connect(self, timeout: float) -> None:
        """A connection as clients make it, through the proxy, was taken and not closed at once. Raises AgentError."""

    def connect_to(self, endpoint: Endpoint, timeout: float) -> None:
        """The same of one replica, from the proxy's place."""

    def remove(self) -> list[str]:
        """Nothing of this service is left in the proxy; the proxy is gone when it was its last. Says what went."""

    def close(self) -> None:
        """Nothing is held open any more."""
