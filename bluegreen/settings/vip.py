"""[vip]: the address that two load balancers share."""

import ipaddress
import math
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from bluegreen.settings.image import Image
from bluegreen.settings.values import LIST, Duration, Table, between, distinct
from bluegreen.words import shown


def _plain_ip(value: str) -> str:
    try:
        if "%" in value:
            raise ValueError
        address = ipaddress.ip_address(value)
    except ValueError:
        raise ValueError(f'{shown(value)} is not an address such as "192.168.100.250"') from None
    if address.is_loopback or address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255":
        raise ValueError(f"{shown(value)} can't be the address of one machine in a network")
    return str(address)


def _virtual_address(value: str) -> str:
    host, slash, length = value.partition("/")
    host = _plain_ip(host)
    most = 128 if ":" in host else 32
    if slash and not (re.fullmatch(r"[0-9]{1,3}", length) and 1 <= int(length) <= most):
        raise ValueError(f"{shown(value)} must have a prefix length from /1 to /{most}, or none")
    return f"{host}/{int(length)}" if slash else host


def _interface(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,15}:[A-Za-z0-9_.-]+", value):
        raise ValueError(f"{shown(value)} is an alias: name the interface itself, {value.partition(':')[0]}")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", value) or value in (".", ".."):
        raise ValueError(f'{shown(value)} is not an interface such as "eth1"')
    return value


def _same_everywhere(value: object) -> object:
    if isinstance(value, list | tuple):
        raise ValueError(
            "must be one number: nodes with different ones don't hear each other, and all of them take the address"
        )
    return value


def _priorities(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(values) < 2:
        raise ValueError("must be of two nodes at least: one alone has nobody to hand the address to")
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value} is there twice: which of the two holds the address would be left to chance")
        if value == 255:
            raise ValueError("255 is for a router that owns the address, which nobody could take over: at most 254")
    return values


class VipTable(Table):
    """An address that two load balancers share by Keepalived: the one that lives holds it."""

    address: Annotated[str, AfterValidator(_virtual_address)] = Field(
        description="The address that clients know: IPv4 or IPv6, with a prefix length (such as /24) if it needs one."
    )
    interface: Annotated[str, AfterValidator(_interface)] = Field(
        description="The hosts' interface that carries it, such as eth1."
    )
    router_id: Annotated[int, BeforeValidator(_same_everywhere), Field(ge=1, le=255)] = Field(
        default=51, description="The number of the pair, from 1 to 255: no other pair in this network may have it."
    )
    priorities: Annotated[tuple[Annotated[int, Field(ge=1, le=255)], ...], LIST, AfterValidator(_priorities)] = Field(
        default=(200, 100),
        description="Of each node, from 1 to 254: of those that live, the highest holds the address.",
    )
    version: Literal[2, 3] = Field(default=2, validate_default=True, description="The version of VRRP.")
    advert: Annotated[Duration, between("10ms", "255s")] = Field(
        default=1.0,
        description="How often the holder says that it lives. After three in vain the next takes over."
        " Under a second needs version 3.",
    )
    auth_pass: str = Field(
        default="",
        repr=False,
        description="A password of at most 8 characters, with version 2 only. It crosses the network in clear.",
    )
    preempt: bool = Field(
        default=True, description="Whether a node of a higher priority that comes back takes the address back."
    )
    peers: Annotated[tuple[Annotated[str, AfterValidator(_plain_ip)], ...], LIST, AfterValidator(distinct)] = Field(
        default=(),
        description="The nodes' own addresses in the order of `priorities`, for networks without multicast."
        " With `hosts` a node that missed a switch learns it from these. Default: multicast.",
    )
    image: Image = Field(
        default="bluegreen-lab/keepalived",
        description="The image that `vip boot` runs: any with keepalived 2 and perl.",
    )

    @property
    def ip(self) -> str:
        """The address without its prefix length."""
        return self.address.partition("/")[0]

    @field_validator("version")
    @classmethod
    def _of_its_family(cls, value: int, info: ValidationInfo) -> int:
        if value == 2 and ":" in info.data.get("address", ""):
            raise ValueError("must be 3 for an IPv6 address: VRRP version 2 knows IPv4 alone")
        return value

    @field_validator("advert")
    @classmethod
    def _as_the_version_counts(cls, value: float, info: ValidationInfo) -> float:
        version = info.data.get("version")
        if version == 2 and value != int(value):
            raise ValueError(
                f"can't be {value:g} s with version 2, which counts whole seconds, so that keepalived would round it:"
                " set vip.version = 3"
            )
        if version == 3 and (value > 40.95 or not math.isclose(value * 100, round(value * 100), abs_tol=1e-6)):
            raise ValueError(
                f"can't be {value:g} s with version 3, which counts hundredths of a second, at most 40.95 s"
            )
        return value

    @field_validator("auth_pass")
    @classmethod
    def _compared_as_a_whole(cls, value: str, info: ValidationInfo) -> str:
        if not value:
            return value
        if info.data.get("version") == 3:
            raise ValueError("does nothing with version 3, which has no passwords: leave it out, or vip.version = 2")
        if not re.fullmatch(r"[A-Za-z0-9_.,:@%+=/^~*?&-]+", value):
            raise ValueError("may hold letters, digits and _.,:@%+=/^~*?&- only")
        if len(value) > 8:
            raise ValueError(
                f"has {len(value)} characters, and keepalived cuts a password after 8: all that begin alike would do"
            )
        return value

    @field_validator("peers")
    @classmethod
    def _one_a_node(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not value:
            return value
        priorities, address = info.data.get("priorities"), info.data.get("address", "")
        if priorities and len(value) != len(priorities):
            raise ValueError(
                f"has {len(value)} addresses for {len(priorities)} priorities: each node, this one too, has one of both"
            )
        for peer in value:
            if address and peer == address.partition("/")[0]:
                raise ValueError(f"{peer} is the shared address: a peer is named by its own")
            if address and (":" in peer) != (":" in address):
                raise ValueError(f"{peer} is of another IP version than vip.address")
        return value
