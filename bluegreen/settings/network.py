"""[network]: the subnet that the containers are in."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from bluegreen.settings.values import Table
from bluegreen.words import shown


def _ipv4_network(value: str) -> ipaddress.IPv4Network:
    try:
        if not re.fullmatch(r"[0-9.]+/[0-9]{1,2}", value):
            raise ValueError
        network = ipaddress.IPv4Network(value, strict=False)
    except ValueError:
        raise ValueError(f'{shown(value)} is not an IPv4 network such as "172.29.0.0/24"') from None
    if str(network) != value:
        raise ValueError(f"{shown(value)} does not begin at a network address: {network} does")
    for reserved in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"):
        if network.overlaps(ipaddress.IPv4Network(reserved)):
            raise ValueError(f"{shown(value)} lies in {reserved}, which no container network can have")
    return network


def _subnet(value: str) -> str:
    if not 16 <= _ipv4_network(value).prefixlen <= 28:
        raise ValueError(f"{shown(value)} must be from /16 to /28")
    return value


def _pool(value: str) -> str:
    if not 8 <= _ipv4_network(value).prefixlen <= 24:
        raise ValueError(f"{shown(value)} must be from /8 to /24")
    return value


class NetworkTable(Table):
    """The service's own network, with fixed addresses in its lower half."""

    subnet: Annotated[str, AfterValidator(_subnet)] | None = Field(
        default=None,
        description="The network's IPv4 subnet, from /16 to /28. Default: a free one of the pool.",
    )
    pool: Annotated[str, AfterValidator(_pool)] = Field(
        default="172.29.0.0/16", description="Where a subnet is chosen from: an IPv4 network from /8 to /24."
    )
