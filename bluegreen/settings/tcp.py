"""[proxy.tcp] and [[proxy.static]]: connections that nobody looks into."""

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from bluegreen.settings.values import SERVICE, Duration, Listen, Published, Table, between, distinct, matching
from bluegreen.words import shown

TcpBalance = Literal["roundrobin", "static-rr", "leastconn", "source"]
"""How connections are spread, of which nothing is known but the client's address."""


def _names_a_machine(value: str) -> str:
    if ipaddress.ip_address(value.rpartition(":")[0].strip("[]")).is_unspecified:
        raise ValueError(f"{shown(value)} is the address of no machine")
    return value


NOT_FOR_TCP = "must be left out in tcp mode, in which nobody looks into connections"
Silence = Annotated[Duration, between("1s", "24h")]
Acceptance = Annotated[Duration, between("100ms", "1m")]


class TcpTable(Table):
    """How connections are carried in tcp mode."""

    timeout: Silence = Field(default=300.0, description="How long a connection may be silent before it is closed.")
    connect_timeout: Acceptance = Field(default=1.0, description="How long the app may take to accept a connection.")


class StaticTable(Table):
    """A plain TCP load balancer in front of fixed servers, beside the service."""

    name: Annotated[
        str, matching(SERVICE.pattern, "a name: a-z, 0-9, _ and -, at most 41, a letter or digit first")
    ] = Field(description="Its name.")
    listen: Published = Field(description="Where clients reach it: IPv4:port or [IPv6]:port.")
    servers: Annotated[
        tuple[Annotated[Listen, AfterValidator(_names_a_machine)], ...],
        Field(strict=False, min_length=1, max_length=100),
        AfterValidator(distinct),
    ] = Field(description="The servers, as addresses with a port.")
    balance: TcpBalance = Field(
        default="leastconn",
        description="How connections are spread: to the server with the fewest (leastconn), in turn (roundrobin,"
        " static-rr), or by the client's address (source).",
    )
    timeout: Silence = Field(default=300.0, description="How long a connection may be silent before it is closed.")
    connect_timeout: Acceptance = Field(default=1.0, description="How long a server may take to accept a connection.")

    @property
    def port(self) -> int:
        """The port of `listen`, on the host and in the proxy's container."""
        return int(self.listen.rpartition(":")[2])
