"""bluegreen.toml as frozen, typed settings: every problem at once, each with its path.

What is rendered into a proxy's file is checked here against what it may hold, not against what it may not:
no quote, brace, semicolon, `$`, newline or NUL gets through.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import os
import posixpath
import re
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError, core_schema

from bluegreen.certificate import Pair, read_pair
from bluegreen.errors import SettingsError, UsageError
from bluegreen.model import Release

FILE = "bluegreen.toml"
VARIABLE = "BLUEGREEN_CONFIG"

_TEMPLATE = Path(__file__).with_name("templates") / FILE
_SHOWN = 40
_SECRET = (
    *(("app", "env"), ("app", "secrets"), ("image", "args")),
    *(("notify", "webhook"), ("notify", "slack"), ("vip", "auth_pass")),
)
"""Tables whose values are never shown in a message."""

SERVICE = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_ADDRESS_AND_PORT = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*)(?::(?P<port>[0-9]{1,5}))?")
_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,6})?)(?P<unit>ms|s|m|h)")
_SIZE = re.compile(r"(?P<number>[0-9]{1,15})(?P<unit>[kmg]?)")
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_VOLUME = re.compile(r"(?P<source>/[^:]*|[A-Za-z0-9][A-Za-z0-9_.-]+):(?P<target>/[^:]*)(?::(?:ro|rw))?")
_ENVIRONMENT = r"[A-Za-z0-9_.-](?:[A-Za-z0-9_. /-]{0,253}[A-Za-z0-9_.-])?"
URL_PATH = re.compile(r"/(?:[A-Za-z0-9/_.~!&*+,=:@?-]|%[0-9A-Fa-f]{2})*")
PLACEHOLDER = re.compile(r"\{(release|number)\}")
_INFLUX_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_. /@-]{0,62}[A-Za-z0-9_])?"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def shown(value: object) -> str:
    """`value` on one line, with escapes for what does not print, cut at 40 characters."""
    if isinstance(value, str):
        text = repr(value[: _SHOWN + 1])
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, int):
        text = str(value) if abs(value) < 10**_SHOWN else "a huge number"
    else:
        text = str(value) if isinstance(value, float) else type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def printable(value: str, also: str = "") -> bool:
    return not any(char not in also and (char < " " or "\x7f" <= char < "\xa0") for char in value)


def _text(value: str) -> str:
    if not value.strip() or not printable(value):
        raise ValueError("must hold text without control characters")
    return value


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not hold a NUL")
    return value


def matching(pattern: str, what: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"{shown(value)} is not {what}")
        return value

    return AfterValidator(check)


def duration(value: object) -> float:
    """Seconds of `"200ms"`, `"2s"`, `"5m"`, `"1h"` or of a number. Raises ValueError for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        # An int may be too large for a float.
        if abs(value) < 1e12 and math.isfinite(value):
            return float(value)
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return round(float(match["number"]) * _UNITS[match["unit"]], 9)
    raise ValueError(f'{shown(value)} is not a duration such as "200ms", "2s", "5m" or "1h"')


def between(low: str, high: str) -> AfterValidator:
    least, most = duration(low), duration(high)

    def check(value: float) -> float:
        if not least <= value <= most:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return AfterValidator(check)


class Size(str):
    """A size such as `100m`: digits and `k`, `m`, `g` (powers of 1024) or nothing, in lower case."""

    __slots__ = ()

    @property
    def bytes(self) -> int:
        match = _SIZE.fullmatch(self)
        assert match is not None
        return int(match["number"]) * _BYTES[match["unit"]]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> core_schema.CoreSchema:
        text = core_schema.to_string_ser_schema()
        return core_schema.no_info_plain_validator_function(_size, serialization=text)

    @classmethod
    def __get_pydantic_json_schema__(cls, source: object, handler: object) -> dict[str, Any]:
        text = {"type": "string", "pattern": "^[0-9]{1,15}[kmgKMG]?$"}
        return {"anyOf": [text, {"type": "integer", "minimum": 0}]}


def _size(value: object) -> Size:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15:
        value = str(value)
    if not isinstance(value, str) or not _SIZE.fullmatch(value.lower()):
        raise ValueError(f'{shown(value)} is not a size such as "512k", "100m" or "2g"')
    size = Size(value.lower())
    if size.bytes > 1 << 50:
        raise ValueError(f"{shown(value)} is too large")
    return size


def _memory(value: Size) -> Size:
    if value.bytes < 6 << 20:
        raise ValueError("must be at least 6m, as the engine takes no less")
    return value


def distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{shown(value)} is there twice")
    return values


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} must be from 1 to 65535")
    return port


def _ipv6(text: str) -> str:
    """The canonical `[address]` of `[address]`. Raises ValueError for anything else."""
    if not (text.startswith("[") and text.endswith("]")) or "%" in text:
        raise ValueError
    return f"[{ipaddress.IPv6Address(text[1:-1])}]"


def _ip(text: str) -> str:
    return _ipv6(text) if text.startswith("[") else str(ipaddress.IPv4Address(text))


def listen_address(value: str) -> str:
    # HAProxy's old way to say it, "webfarm 10.101.22.76:80", has a name before the address.
    match = _ADDRESS_AND_PORT.fullmatch(re.sub(r"\A[A-Za-z][A-Za-z0-9_.-]{0,63} ", "", value))
    if match and match["port"]:
        try:
            host = _ip(match["host"])
        except ValueError:
            pass
        else:
            return f"{host}:{_port(match['port'])}"
    raise ValueError(f'{shown(value)} is not an address and port such as "127.0.0.1:8080" or "[::1]:8080"')


def is_host(value: str) -> bool:
    return len(value) <= 253 and bool(HOST_NAME.fullmatch(value))


def authority(value: str) -> str:
    """`host` or `host:port` in lower case; host is a name, an IPv4 address or `[IPv6]`. Raises ValueError."""
    match = _ADDRESS_AND_PORT.fullmatch(value)
    if match:
        try:
            host = _ipv6(match["host"]) if match["host"].startswith("[") else match["host"].lower()
        except ValueError:
            host = ""
        if host.startswith("[") or is_host(host):
            return f"{host}:{_port(match['port'])}" if match["port"] else host
    raise ValueError(f"{shown(value)} is not a host name, with or without a port")


def _host_pattern(value: str) -> str:
    if not is_host(value.removeprefix("*.")):
        raise ValueError(f'{shown(value)} is not a host name such as "example.com" or "*.example.com"')
    return value.lower()


def url_path(value: str) -> str:
    if not URL_PATH.fullmatch(value) or value.startswith("//") or len(value) > 2000:
        raise ValueError(f'{shown(value)} is not a path such as "/version"; write other characters as %XX')
    return value


def _url(value: str) -> str:
    match = re.fullmatch(r"(https?)://([^/]*)(/.*)?", value)
    path = (match[3] or "").rstrip("/") if match else ""
    if not match or "?" in path:
        raise ValueError(f'{shown(value)} is not an address such as "http://127.0.0.1:8080"')
    return f"{match[1]}://{authority(match[2])}{url_path(path) if path else ''}"


def _secret_url(value: str) -> str:
    """An address that may hold a secret, and so is never shown."""
    match = re.fullmatch(r"https?://([^/?]*)(/.*)?", value)
    try:
        if not match or len(value) > 2000 or not URL_PATH.fullmatch(match[2] or "/"):
            raise ValueError
        authority(match[1])
    except ValueError:
        raise ValueError('is not an address such as "https://chat.example.com/hooks/abc"') from None
    return value


def check_secret_url(value: str, name: str) -> str:
    """`value`, which the variable `name` has. Raises SettingsError, which does not show it, if it is no address."""
    try:
        return _secret_url(value)
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from None


def repository_name(value: str) -> str:
    first, slash, rest = value.partition("/")
    registry = bool(slash) and (first == "localhost" or "." in first or ":" in first)
    path = rest if registry else value
    if ":" in path or "@" in path:
        raise ValueError(f"{shown(value)} must be without a tag or digest: the release is the tag")
    if value != value.lower():
        raise ValueError(f"{shown(value)} must be in lower case")
    if registry:
        try:
            authority(first)
        except ValueError:
            path = ""
    if len(value) > 255 or not _REPOSITORY.fullmatch(path) or re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError(f'{shown(value)} is not an image repository such as "shop" or "example.com:5000/shop"')
    return value


def _registry_server(value: str) -> str:
    if value != value.lower():
        raise ValueError(f"{shown(value)} must be in lower case")
    first, _, _ = value.partition(":")
    if "." not in value and ":" not in value and first != "localhost":
        raise ValueError(f'{shown(value)} is not a registry such as "gitlab.example.com:8001"')
    return authority(value)


def _repository_path(value: str) -> str:
    if len(value) > 200 or not _REPOSITORY.fullmatch(value):
        raise ValueError(f'{shown(value)} is not a repository in a registry, such as "root/hippo_flask"')
    return value


def image_reference(value: str) -> str:
    name, _, digest = value.partition("@")
    # A colon after the last slash begins the tag; one before it, a registry's port.
    cut = name.find(":", name.rfind("/") + 1)
    name, tag = (name[:cut], name[cut + 1 :]) if cut >= 0 else (name, "latest")
    try:
        repository_name(name)
        valid = bool(_TAG.fullmatch(tag)) and ("@" not in value or bool(re.fullmatch(r"sha256:[0-9a-f]{64}", digest)))
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f'{shown(value)} is not an image such as "nginx:stable"')
    return value


def _absolute(value: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9_.@+-]+)+", value) or ".." in value.split("/"):
        raise ValueError(f'{shown(value)} is not an absolute path of letters, digits and "/_.@+-"')
    return value


def _network_name(value: str) -> str:
    if not _NETWORK.fullmatch(value):
        raise ValueError(f"{shown(value)} is not the name of a network")
    if value in ("host", "none"):
        raise ValueError(f"{shown(value)} can't be joined beside the service's own network")
    return value


def _volume(value: str) -> str:
    match = _VOLUME.fullmatch(value)
    if not match or not printable(value):
        raise ValueError(f'{shown(value)} is not a volume such as "data:/data" or "/srv/data:/data:ro"')
    if not _target(value).strip("/"):
        raise ValueError(f"{shown(value)} would cover the container's root")
    return value


def _target(volume: str) -> str:
    """Where in the container a valid volume stands."""
    match = _VOLUME.fullmatch(volume)
    return posixpath.normpath(match["target"]) if match else ""


_TMPFS = re.compile(
    r"(?P<path>(?:/[A-Za-z0-9_.@+-]+)+)"
    r"(?::(?P<options>(?:(?:size=[0-9]+[kmg]?|mode=[0-7]{3,4}|[ug]id=[0-9]{1,9}|(?:no)?exec)(?:,(?!$)|$))+))?"
)


def _tmpfs(value: str) -> str:
    match = _TMPFS.fullmatch(value)
    if not match or ".." in match["path"].split("/"):
        raise ValueError(f'{shown(value)} is not a path such as "/tmp" or "/run:size=64m,mode=1777,exec"')
    return value


def _one_tmpfs_each(values: tuple[str, ...]) -> tuple[str, ...]:
    return distinct(tuple(value.partition(":")[0] for value in values)) and values


_CAPABILITIES = (
    "ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH"
    " FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN"
    " NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT"
    " SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM"
)
"""Linux's, by capabilities(7), and ALL."""


def _capability(value: str) -> str:
    name = value.upper().removeprefix("CAP_")
    if name not in _CAPABILITIES.split():
        raise ValueError(f'{shown(value)} is not a capability such as "NET_RAW" or "ALL"')
    return name


def _one_volume_each(values: tuple[str, ...]) -> tuple[str, ...]:
    targets = [_target(value) for value in values]
    for target in targets:
        if targets.count(target) > 1:
            raise ValueError(f"{shown(target)} is the place of two volumes")
    return values


def _body(value: str) -> str:
    if not value.strip() or not printable(value, also="\t\r\n"):
        raise ValueError("must hold text without control characters; leave it out if any 2xx answer will do")
    if re.search(r"[{}]", PLACEHOLDER.sub("", value)):
        raise ValueError(f"{shown(value)} may hold {{release}} and {{number}}, and no other braces")
    return value


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


_BALANCE = re.compile(
    r"roundrobin|static-rr|leastconn|source"
    r"|uri(?P<limits>(?: len [1-9][0-9]{0,3})?(?: depth [1-9][0-9]{0,2})?)"
    r"|url_param (?P<param>[A-Za-z0-9_.-]{1,64})"
    r"|hdr\((?P<header>[A-Za-z0-9-]{1,64})\)"
)


TcpBalance = Literal["roundrobin", "static-rr", "leastconn", "source"]
"""How connections are spread, of which nothing is known but the client's address."""


def _balance(value: str, info: ValidationInfo) -> str:
    value = value or ("leastconn" if info.data.get("mode") == "tcp" else "roundrobin")
    match = _BALANCE.fullmatch(value)
    if not match:
        raise ValueError(
            f"{shown(value)} is none of roundrobin, static-rr, leastconn, source, uri, uri len N, uri depth N,"
            " uri len N depth N, url_param NAME and hdr(NAME)"
        )
    if info.data.get("mode") == "tcp" and value not in get_args(TcpBalance):
        raise ValueError(f"{shown(value)} looks at requests; in tcp mode: {', '.join(get_args(TcpBalance))}")
    if info.data.get("kind") == "nginx":
        if match["limits"]:
            raise ValueError("uri with len or depth is HAProxy's; nginx knows uri alone")
        if match["param"] and not re.fullmatch(r"[A-Za-z0-9_]+", match["param"]):
            raise ValueError(f"nginx knows no parameter {shown(match['param'])}: only letters, digits and _")
    return value


def _milliseconds(value: object) -> object:
    """HAProxy's own way to write a time, a whole number of milliseconds, as seconds."""
    return value / 1000 if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**12 else value


_FACILITY = re.compile(
    r"kern|user|mail|daemon|auth2?|syslog|lpr|news|uucp|cron2?|ftp|ntp|audit|alert|local[0-7]",
)
_LEVELS = frozenset(["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"])


def _log_target(value: str) -> str:
    target, _, rest = value.partition(" ")
    facility, _, level = rest.partition(" ")
    known = bool(_FACILITY.fullmatch(facility)) and (level in _LEVELS or rest == facility)
    if target.startswith("/"):
        known = known and bool(re.fullmatch(r"(?:/[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}){1,3}", target))
    elif target not in ("stdout", "stderr"):
        try:
            target = listen_address(target)
        except ValueError:
            known = False
    if not known:
        raise ValueError(
            f'{shown(value)} is not a log target such as "127.0.0.1:514 local0 info", "/dev/log daemon" or'
            ' "stdout local0 notice"'
        )
    return f"{target} {rest}"


def _name_or_true(value: object) -> object:
    if isinstance(value, bool) or (isinstance(value, str) and is_host(value)):
        return value
    raise ValueError(f"{shown(value)} is neither true, nor false, nor a host name")


def _path_or_true(value: object) -> object:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and URL_PATH.fullmatch(value):
        return url_path(value)
    raise ValueError(f'{shown(value)} is neither true, nor false, nor a path such as "/health"')


def _published(value: str) -> str:
    value = listen_address(value)
    if int(value.rpartition(":")[2]) in _TAKEN:
        raise ValueError(f"{shown(value)}: the ports {', '.join(map(str, _TAKEN))} are taken inside the proxy")
    return value


_TAKEN = (8078, 8079, 8080, 8443)
"""The ports that are the proxy's own inside its container."""


def _entry_point(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or not value[0]:
        raise ValueError('must begin with a program, such as ["python3", "server.py"]')
    return value


def _command(value: object) -> tuple[str, ...]:
    """The words of a command; those of a string are for the shell to find. Raises ValueError for anything else."""
    words = ("sh", "-c", value) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not words or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise ValueError('must be a list such as ["./migrate.sh", "--now"], or a string for the shell')
    if not words[0].strip() or (isinstance(value, str) and not value.strip()):
        raise ValueError("must name a program")
    return words


def _some(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise ValueError("must not be empty; leave the hook out if it is never to run")
    return values


def _argument_name(value: str) -> str:
    if value == "RELEASE":
        raise ValueError("is always given: it is the release that is built")
    return value


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


Duration = Annotated[
    float,
    BeforeValidator(duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,6})?(ms|s|m|h)$"},
                {"type": "number", "minimum": 0},
            ]
        }
    ),
]
"""Seconds, written as `"200ms"`, `"2s"`, `"5m"`, `"1h"` or a number of seconds."""

Text = Annotated[str, AfterValidator(_text)]
Value = Annotated[str, AfterValidator(_no_nul)]
Listen = Annotated[str, AfterValidator(listen_address)]
Published = Annotated[str, AfterValidator(_published)]
Authority = Annotated[str, AfterValidator(authority)]
UrlPath = Annotated[str, AfterValidator(url_path)]
Url = Annotated[str, AfterValidator(_url)]
Identifier = Annotated[str, matching(r"[A-Za-z_][A-Za-z0-9_]{0,255}", "a name of letters, digits and _")]
# Strict would refuse the list that TOML gives for a tuple.
LIST = Field(strict=False)


class Table(BaseModel):
    """A table of the settings file: frozen, and with no key but its own."""

    # Deferred, the models are built only by a command that loads the file.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, defer_build=True)


Image = Annotated[str, AfterValidator(image_reference)]


class ImageTable(Table):
    """How the image of a release is built."""

    context: Text = Field(default=".", description="The directory that is built, relative to this file.")
    dockerfile: Text = Field(default="Dockerfile", description="The Dockerfile, relative to the context.")
    repository: Annotated[str, AfterValidator(repository_name)] = Field(
        default="",
        description="The image's repository, in lower case, with a registry or without;"
        " the tag is the release. Default: the service's name.",
    )
    args: dict[Annotated[Identifier, AfterValidator(_argument_name)], Value] = Field(
        default_factory=dict, repr=False, description="Build arguments. RELEASE is always given beside these."
    )
    target: Annotated[str, matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", "a build stage")] | None = Field(
        default=None, description="The stage of the Dockerfile that is built. Default: the last."
    )


class RegistryTable(Table):
    """The registry that the image goes through, such as GitLab's."""

    server: Annotated[str, AfterValidator(_registry_server)] = Field(
        default="", validate_default=False, description="Where it is: host or host:port, in lower case. Default: none."
    )
    repository: Annotated[str, AfterValidator(_repository_path)] = Field(
        default="", validate_default=False, description="The repository in it. Default: image.repository."
    )
    credentials: Text = Field(
        default="",
        validate_default=False,
        description="A file, relative to this one and for its owner alone, with one line: USER:PASSWORD.",
    )


class GitLabTable(Table):
    """The GitLab project that deployments are recorded in."""

    url: Url = Field(
        default="", validate_default=False, description="GitLab's address. Default: CI_SERVER_URL in a job, else none."
    )
    project: Annotated[str, matching(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", "a project")] = Field(
        default="", validate_default=False, description="The project's path or number. Default: CI_PROJECT_ID in a job."
    )
    environment: Annotated[str, matching(_ENVIRONMENT, "an environment's name, such as production")] = Field(
        default="production", description="The environment that deployments go to."
    )
    token: Text = Field(
        default="",
        validate_default=False,
        description="A file, relative to this one and for its owner alone, with an access token of scope api.",
    )
    ca: Text = Field(
        default="", validate_default=False, description="A private authority that GitLab's certificate is from."
    )


LOG_OPTIONS = {"max-size": "10m", "max-file": "3"}
"""What keeps the log of a container from filling the disk, for the drivers that write one there."""

SECRETS = "/run/secrets"
"""The directory in the container in which an app finds its secrets, each in a file of its name."""


_USER = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}"
User = Annotated[str, matching(rf"{_USER}(?::{_USER})?", "a user")]


class LoggingTable(Table):
    """Where the engine puts what is written to the outputs."""

    driver: Annotated[str, matching(r"[a-z0-9][a-z0-9_./:-]{0,127}", "a logging driver")] = Field(
        default="json-file", description="The engine's logging driver."
    )
    options: dict[Annotated[str, matching(r"[a-z0-9][a-z0-9_.-]{0,63}", "an option's name")], Value] = Field(
        default_factory=dict,
        description="The driver's options. Default: for json-file and local, max-size 10m and max-file 3; for fluentd,"
        " fluentd-async true, as nothing starts without a fluentd else.",
    )

    @property
    def wanted(self) -> dict[str, str]:
        """The options that the engine is given."""
        defaults = {"json-file": LOG_OPTIONS, "local": LOG_OPTIONS, "fluentd": {"fluentd-async": "true"}}
        return {**defaults.get(self.driver, {}), **self.options}


class SecretTable(Table):
    """Where the value of a secret is found when containers are made, in one place of three; and how the app gets it."""

    env: Identifier | None = Field(default=None, description="The variable that holds it where bluegreen runs.")
    file: Text | None = Field(
        default=None, description="The file that holds it, relative to this one and for its owner alone."
    )
    gitlab: Identifier | None = Field(
        default=None, description="The CI/CD variable that holds it, of the project that [gitlab] or the job names."
    )
    as_: Literal["file", "env"] = Field(
        default="file",
        alias="as",
        description="A file /run/secrets/NAME (file), or a variable NAME, which `docker inspect` shows (env).",
    )

    @model_validator(mode="after")
    def _one_place(self) -> SecretTable:
        if sum(each is not None for each in (self.env, self.file, self.gitlab)) != 1:
            raise PydanticCustomError("place", "must name one place: env, file or gitlab")
        return self


class AppTable(Table):
    """How a replica of the app runs."""

    port: int = Field(ge=1, le=65535, description="The port that the app listens on in its container.")
    replicas: int = Field(default=1, ge=1, le=50, description="How many containers a colour has.")
    env: dict[Identifier, Value] = Field(
        default_factory=dict, repr=False, description="Environment variables of the app. Not for secrets."
    )
    command: Annotated[tuple[Value, ...], LIST, AfterValidator(_entry_point)] | None = Field(
        default=None, description="The command that is run instead of the image's own."
    )
    networks: Annotated[tuple[Annotated[str, AfterValidator(_network_name)], ...], LIST, AfterValidator(distinct)] = (
        Field(default=(), description="Networks that are joined beside the service's own; they must exist.")
    )
    volumes: Annotated[tuple[Annotated[str, AfterValidator(_volume)], ...], LIST, AfterValidator(_one_volume_each)] = (
        Field(
            default=(),
            description='Volumes as "name:/path" or "/host/path:/path", with ":ro" behind for reading only.',
        )
    )
    stop_timeout: Annotated[Duration, between("1s", "1h")] = Field(
        default=35.0,
        description="How long the app has between SIGTERM and SIGKILL; longer than its longest request.",
    )
    memory: Annotated[Size, AfterValidator(_memory)] | None = Field(
        default=None, description='The memory a container may use, such as "512m". Default: no limit.'
    )
    cpus: float | None = Field(
        default=None,
        ge=0.01,
        le=1024,
        allow_inf_nan=False,
        description="The CPUs a container may use. Default: no limit.",
    )
    user: User | None = Field(
        default=None,
        description='The user, or "user:group", that runs the app. Default: the image\'s own; for root 65532:65532.',
    )
    read_only: bool = Field(default=True, description="Whether the container's root file system is read-only.")
    tmpfs: Annotated[tuple[Annotated[str, AfterValidator(_tmpfs)], ...], LIST, AfterValidator(_one_tmpfs_each)] = Field(
        default=("/tmp",),
        description="Directories in memory that all may write to, empty after each start;"
        ' options behind: "/run:size=64m,mode=1777,uid=1000,gid=1000,exec".',
    )
    cap_add: Annotated[tuple[Annotated[str, AfterValidator(_capability)], ...], LIST, AfterValidator(distinct)] = Field(
        default=(),
        description="Capabilities that are not dropped. Only root has them at once: see user.",
    )
    no_new_privileges: bool = Field(
        default=True, description="Whether no process can get more privileges than its parent, as by a setuid program."
    )
    pids_limit: int = Field(
        default=2048, ge=0, le=4_194_304, description="How many processes and threads there may be; 0 for no limit."
    )
    init: bool = Field(
        default=False, description="Whether the first process is the engine's init, which reaps orphans."
    )
    restart: Literal["always", "unless-stopped", "on-failure"] = Field(
        default="always", description="When the engine starts a container again that has ended, from its commit on."
    )
    logging: LoggingTable = Field(default_factory=LoggingTable)
    secrets: dict[Identifier, SecretTable] = Field(
        default_factory=dict, description="Secrets of the app by name: where each is found, and how the app gets it."
    )

    @property
    def mounted_tmpfs(self) -> dict[str, str]:
        """The options of each directory in memory. Where a volume stands there is none."""
        taken = {_target(volume) for volume in self.volumes}
        parts = (each.partition(":") for each in self.tmpfs)
        return {path: options for path, _, options in parts if path not in taken}

    @model_validator(mode="after")
    def _room_for_secrets(self) -> AppTable:
        for name, secret in self.secrets.items():
            if secret.as_ == "env" and name in self.env:
                words = f"{name} is in app.env, too"
                raise PydanticCustomError("secret", "{words}", {"key": "secrets", "words": words})
        taken = {*map(_target, self.volumes), *(each.partition(":")[0] for each in self.tmpfs)}
        if SECRETS in taken and any(secret.as_ == "file" for secret in self.secrets.values()):
            words = f"need {SECRETS} for themselves, where a volume or tmpfs stands"
            raise PydanticCustomError("secret", "{words}", {"key": "secrets", "words": words})
        return self


class ProbeTable(Table):
    """When a release counts as ready: consecutive right answers from every replica."""

    kind: Literal["http", "tcp"] | None = Field(
        default=None,
        description="What a right answer is: that of the app over http, or that its port accepts a connection (tcp)."
        " Default: http, and tcp where proxy.mode is tcp.",
    )
    path: UrlPath = Field(default="/version", description="The path that is asked for.")
    body: Annotated[str, AfterValidator(_body)] | None = Field(
        default=None,
        description="The whole answer, but for white space around it: {release} is the release's name (v2),"
        " {number} the same without a leading v (2). Default: any 2xx answer will do.",
    )
    interval: Annotated[Duration, between("10ms", "1m")] = Field(default=0.2, description="The time between two tries.")
    successes: int = Field(default=3, ge=1, le=100, description="How many right answers in a row are needed.")
    timeout: Annotated[Duration, between("100ms", "1h")] = Field(
        default=60.0, validate_default=True, description="How long a release may take to become ready."
    )
    host: Authority | None = Field(
        default=None, description="The Host header of the probe. Default: the address that is asked."
    )

    @field_validator("timeout")
    @classmethod
    def _long_enough(cls, value: float, info: ValidationInfo) -> float:
        if "interval" in info.data and "successes" in info.data:
            needed = (info.data["successes"] - 1) * info.data["interval"]
            if value <= needed:
                raise ValueError(
                    f"{value:g}s is too short: {info.data['successes']} tries that lie"
                    f" {info.data['interval']:g}s apart take {needed:g}s at least"
                )
        return value


_CRYPT = matching(
    r"\$[56]\$(?:rounds=[0-9]{4,6}\$)?[A-Za-z0-9./]{1,16}\$[A-Za-z0-9./]{43,86}",
    "a password's hash as `openssl passwd -6` prints it",
)


def _says_something(data: object) -> bool:
    return any(map(_says_something, data.values())) if isinstance(data, dict) else True


IMAGES = {"nginx": "nginx:stable", "haproxy": "haproxy:3.2"}
"""The image of each kind of proxy, unless the settings name one."""


def _image_or_default(value: str, info: ValidationInfo) -> str:
    return image_reference(value or IMAGES.get(info.data.get("kind", ""), IMAGES["nginx"]))


class TlsTable(Table):
    """TLS at the proxy: the pair that clients are shown, and where."""

    certificate: Text = Field(
        description="The certificate with its chain, the server's own first: a PEM file, relative to this file."
    )
    key: Text = Field(description="Its private key without a passphrase: a PEM file, relative to this file.")
    listen: Listen | None = Field(
        default=None,
        description="Where clients reach the proxy by https: IPv4:port or [IPv6]:port. Default: proxy.listen itself.",
    )
    http2: bool = Field(default=True, description="Whether HTTP/2 is offered.")
    redirect: bool = Field(
        default=True,
        description="Whether plain http on proxy.listen is answered by a redirect to https, where `listen` is another.",
    )
    ca: Text | None = Field(
        default=None,
        description="What the witness trusts: a PEM file, relative to this file. Default: the usual authorities.",
    )


AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class HostTable(Table):
    """The proxy that a person has installed on the host."""

    directory: AbsolutePath = Field(
        default="",
        validate_default=False,
        description="The directory that the proxy reads. Default: /etc/nginx/conf.d or /etc/haproxy/conf.d.",
    )
    main: AbsolutePath = Field(
        default="",
        validate_default=False,
        description="The main config file. Default: /etc/nginx/nginx.conf, /etc/haproxy/haproxy.cfg.",
    )
    whole: bool = Field(default=False, description="Whether the main config file is bluegreen's own, to be replaced.")
    pid_file: AbsolutePath = Field(
        default="",
        validate_default=False,
        description="Where the proxy writes its process id. Default: /run/nginx.pid, /run/haproxy.pid.",
    )
    socket: AbsolutePath = Field(
        default="/run/haproxy/admin.sock", description="HAProxy's admin socket (`stats socket ... level admin`)."
    )
    streams: AbsolutePath = Field(
        default="/etc/nginx/streams.d",
        description="The directory that nginx's main config file includes in `stream`, for mode tcp and static.",
    )
    reload: Annotated[tuple[Annotated[str, matching(r"[A-Za-z0-9_./:=@+,-]+", "a word")], ...], LIST] = Field(
        default=(),
        description="The command that reloads the proxy. Default: systemctl where systemd runs, else its own way.",
    )


HOST_DEFAULTS = {
    "nginx": {"directory": "/etc/nginx/conf.d", "main": "/etc/nginx/nginx.conf", "pid_file": "/run/nginx.pid"},
    "haproxy": {
        "directory": "/etc/haproxy/conf.d",
        "main": "/etc/haproxy/haproxy.cfg",
        "pid_file": "/run/haproxy.pid",
    },
}
"""Where each kind of proxy has its files in Debian's packages."""


Connections = Annotated[int, Field(ge=1, le=1_000_000)]
Patience = Annotated[Duration, between("10ms", "24h")]
Milliseconds = Annotated[
    float,
    BeforeValidator(duration),
    BeforeValidator(_milliseconds),
    between("10ms", "24h"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,6})?(ms|s|m|h)$"},
                {"type": "integer", "minimum": 10},
            ]
        }
    ),
]
"""Seconds, written as `"200ms"` or `"2s"`, or as a whole number of milliseconds, as HAProxy has it."""


class TimeoutsTable(Table):
    """How long HAProxy waits for what."""

    connect: Patience = Field(default=2.0, description="For a connection to a replica.")
    client: Patience | None = Field(default=None, description="For a silent client. Default: proxy.read_timeout.")
    server: Patience | None = Field(default=None, description="For a silent replica. Default: proxy.read_timeout.")
    http_request: Patience = Field(default=30.0, description="For the whole head of a request.")
    http_keep_alive: Patience = Field(default=75.0, description="For the next request on a connection.")
    queue: Patience | None = Field(
        default=None, description="For a free connection of a full replica. Default: as connect."
    )
    tunnel: Patience = Field(default=3600.0, description="For a silent WebSocket.")
    check: Patience | None = Field(
        default=None, description="For the answer to a health check. Default: the time between two of them."
    )


class CheckTable(Table):
    """The health check of each replica, where there are several or `httpchk` is set."""

    inter: Milliseconds = Field(
        default=1.0, description='The time between two checks: "1s", or a whole number of milliseconds (1000).'
    )
    rise: int = Field(default=2, ge=1, le=100, description="How many good checks in a row bring a replica back.")
    fall: int = Field(default=2, ge=1, le=100, description="How many bad checks in a row take a replica out.")


class ServerTable(Table):
    """What is said of each replica."""

    weight: int = Field(default=1, ge=1, le=256, description="Its weight; the replicas of a colour all have the same.")
    maxconn: Connections | None = Field(
        default=None, description="How many requests it gets at once; further ones wait. Default: no limit."
    )
    cookie_prefix: Annotated[str, matching(r"[A-Za-z0-9_.-]{0,40}", "the beginning of a cookie's value")] = Field(
        default="",
        description="What begins a replica's value of the cookie; its colour and number follow: portal_blue1.",
    )


class CookieTable(Table):
    """Sticky sessions: the cookie that ties a client to a replica."""

    name: Annotated[str, matching(r"[A-Za-z0-9_.-]{1,64}", "the name of a cookie")] | None = Field(
        default=None, description="The cookie's name. Default: clients are not tied."
    )
    mode: Literal["rewrite", "insert", "prefix"] = Field(
        default="insert",
        description="insert: the proxy sets it; rewrite: the app sets it and the proxy its value;"
        " prefix: the replica's value goes before the app's own.",
    )
    domain: Annotated[str, matching(rf"\.?{HOST_NAME.pattern}", "a domain")] | None = Field(
        default=None, description="The cookie's domain; with insert only. Default: the host that was asked."
    )
    httponly: bool = Field(default=True, description="Scripts in the page can't read it; with insert only.")
    secure: bool = Field(default=False, description="It travels over TLS only; with insert only.")
    maxidle: Annotated[Duration, between("1s", "8760h")] | None = Field(
        default=None, description="After so long without a request it counts no more; with insert only."
    )
    maxlife: Annotated[Duration, between("1s", "8760h")] | None = Field(
        default=None, description="After so long it counts no more; with insert only."
    )

    @model_validator(mode="after")
    def _inserted(self) -> CookieTable:
        only = sorted(self.model_fields_set & {"domain", "httponly", "secure", "maxidle", "maxlife"})
        if self.mode != "insert" and only:
            raise PydanticCustomError("mode", "goes with mode = 'insert' only", {"key": only[0]})
        return self


class StatsTable(Table):
    """HAProxy's page about itself. It is never open to the world: it needs a loopback `bind`, or a user."""

    uri: Annotated[str, matching(r"(?:/[A-Za-z0-9_.-]+)+", 'a path such as "/admin"')] | None = Field(
        default=None, description="The page's path. Default: there is no such page."
    )
    bind: Published | None = Field(
        default=None,
        description="The address of the engine's host that it is published on, when the proxy's container is made."
        " Default: the service's own.",
    )
    user: Annotated[str, matching(r"[A-Za-z0-9_.-]{1,32}", "a user's name")] | None = Field(
        default=None, description="Who may see it. Needed unless `bind` is a loopback address."
    )
    password: Annotated[str, _CRYPT] | None = Field(
        default=None,
        repr=False,
        description="The user's password as `openssl passwd -6` prints it: a hash, so that no file holds the password.",
    )

    @model_validator(mode="after")
    def _closed(self) -> StatsTable:
        key = words = ""
        loopback = self.bind is not None and ipaddress.ip_address(self.bind.rpartition(":")[0].strip("[]")).is_loopback
        if (self.user is None) != (self.password is None):
            key = "password" if self.password is None else "user"
            words = "is missing: user and password go together"
        elif self.uri and not self.user and not loopback:
            key, words = "uri", "would be open to the world: set user and password, or bind it to a loopback address"
        if key:
            raise PydanticCustomError("open", words, {"key": key})
        return self


class HAProxyTable(Table):
    """What only HAProxy has; for kind = "haproxy"."""

    daemon: bool = Field(
        default=False,
        description="Taken as HAProxy's own files have it, without effect in a container, whose first process"
        " stays in the foreground.",
    )
    log: Annotated[tuple[Annotated[str, AfterValidator(_log_target)], ...], LIST, AfterValidator(distinct)] = Field(
        default=(), description='Where it logs: "ADDRESS FACILITY" or "ADDRESS FACILITY LEVEL". Default: nowhere.'
    )
    log_send_hostname: Annotated[bool | str, BeforeValidator(_name_or_true)] = Field(
        default=False, description="Whether log lines carry the host's name, or the name they carry."
    )
    uid: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="The user id that a worker started by root changes to."
    )
    user: Annotated[str, matching(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", "a user")] | None = Field(
        default=None, description="The same by name; the image must know it."
    )
    node: Annotated[str, matching(r"[A-Za-z0-9_.-]{1,64}", "a name")] | None = Field(
        default=None, description="This node's name on the page of statistics, of several that share an address."
    )
    maxconn: Connections = Field(default=4000, description="How many connections it takes at all.")
    frontend_maxconn: Connections | None = Field(
        default=None, description="How many of them clients may have (`maxconn` of `defaults`). Default: all."
    )
    httpchk: Annotated[bool | str, BeforeValidator(_path_or_true)] = Field(
        default=False,
        description="The path that health checks ask for, or true for the probe's. Default: a connection suffices.",
    )
    log_health_checks: bool = Field(default=False, description="Whether every change of a check's result is logged.")
    forwardfor: bool = Field(
        default=True,
        description="Whether the app is told the client's address in X-Forwarded-For; what the client says there"
        " never reaches it.",
    )
    httpclose: bool = Field(default=False, description="Whether each connection is closed after its answer.")
    timeouts: TimeoutsTable = Field(default_factory=TimeoutsTable)
    check: CheckTable = Field(default_factory=CheckTable)
    server: ServerTable = Field(default_factory=ServerTable)
    cookie: CookieTable = Field(default_factory=CookieTable)
    stats: StatsTable = Field(default_factory=StatsTable)

    @model_validator(mode="after")
    def _one_user(self) -> HAProxyTable:
        if self.uid is not None and self.user is not None:
            raise PydanticCustomError("twice", "names the same as user: leave one out", {"key": "uid"})
        return self


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


def _apart(values: tuple[StaticTable, ...]) -> tuple[StaticTable, ...]:
    for key in ("name", "port"):
        found = [getattr(value, key) for value in values]
        for value in found:
            if found.count(value) > 1:
                raise ValueError(f"two entries have the {key} {value}")
    return values


class ProxyTable(Table):
    """The proxy that carries the traffic."""

    kind: Literal["nginx", "haproxy"] = Field(default="nginx", description="Which proxy.")
    mode: Literal["http", "tcp"] = Field(
        default="http",
        description="What is carried: HTTP requests, or TCP connections of any kind (tcp; one service an address).",
    )
    listen: Listen = Field(
        default="127.0.0.1:8080", description="Where clients reach the proxy: IPv4:port or [IPv6]:port."
    )
    # Before url, which follows from it.
    tls: TlsTable | None = Field(default=None, description="TLS at the proxy. Default: none.")
    url: Url = Field(
        default="",
        validate_default=True,
        description="The public address, which the witness asks. Default: http:// and what `listen` says;"
        " with TLS, https:// and what `tls.listen` says.",
    )
    hosts: Annotated[tuple[Annotated[str, AfterValidator(_host_pattern)], ...], LIST, AfterValidator(distinct)] = Field(
        default=(),
        description='The host names that this service answers to, such as "*.example.com". Default: all.',
    )
    where: Literal["container", "host"] = Field(
        default="container", description="Where the proxy runs: in a container of its own, or installed on the host."
    )
    image: Annotated[str, AfterValidator(_image_or_default)] = Field(
        default="",
        validate_default=True,
        description="The image of the proxy's container. Default: nginx:stable or haproxy:3.2.",
    )
    user: User | None = Field(
        default=None,
        description="Who runs the proxy, from when its container is made. Default: the image's own user; 65532:65532 if"
        " that is root.",
    )
    read_only: bool = Field(
        default=True, description="Whether its container's root file system is read-only, from when it is made."
    )
    logging: LoggingTable = Field(default_factory=LoggingTable, description="Of its container, from when it is made.")
    switch: Literal["auto", "reload", "live"] = Field(
        default="auto",
        description="How traffic is switched: in place (live), by a reload, or live if the proxy can (auto).",
    )
    balance: Annotated[str, AfterValidator(_balance)] = Field(
        default="",
        validate_default=True,
        description="How requests are spread over the replicas: roundrobin (the default), static-rr, leastconn (that of"
        " tcp mode), source, uri, url_param NAME or hdr(NAME); with HAProxy also uri len N, uri depth N or both.",
    )
    max_body: Size = Field(default=Size("100m"), description="The largest request body; 0 for no limit.")
    read_timeout: Annotated[Duration, between("1s", "24h")] = Field(
        default=60.0, description="How long the app may be silent in the middle of an answer."
    )
    host: HostTable = Field(default_factory=HostTable, validate_default=True)
    tcp: TcpTable = Field(default_factory=TcpTable)
    haproxy: HAProxyTable = Field(default_factory=HAProxyTable)
    static: Annotated[tuple[StaticTable, ...], LIST, AfterValidator(_apart)] = Field(
        default=(), description="Plain TCP load balancers in front of fixed servers, carried by the same proxy."
    )

    @field_validator("host")
    @classmethod
    def _where_it_is(cls, value: HostTable, info: ValidationInfo) -> HostTable:
        defaults = HOST_DEFAULTS[info.data.get("kind", "nginx")]
        return value.model_copy(update={key: getattr(value, key) or path for key, path in defaults.items()})

    @property
    def address(self) -> str:
        """The address of `listen`, an IPv6 one without its brackets."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port of `listen`."""
        return int(self.listen.rpartition(":")[2])

    @property
    def tls_listen(self) -> str | None:
        """Where the proxy speaks TLS; None if it does not."""
        return (self.tls.listen or self.listen) if self.tls else None

    @property
    def redirects(self) -> bool:
        """Whether `listen` only redirects to https."""
        return self.tls is not None and self.tls.redirect and self.tls_listen != self.listen

    @property
    def plain(self) -> bool:
        """Whether the service is served by plain http."""
        return not self.redirects and self.tls_listen != self.listen

    @property
    def live(self) -> bool:
        """Whether traffic is switched in place."""
        return self.switch != "reload" and not (self.kind == "nginx" and self.mode == "tcp")

    @field_validator("tls", "hosts", "max_body", "read_timeout")
    @classmethod
    def _only_for_requests(cls, value: object, info: ValidationInfo) -> object:
        if value and info.data.get("mode") == "tcp":
            raise ValueError(NOT_FOR_TCP)
        return value

    @field_validator("switch")
    @classmethod
    def _possible(cls, value: str, info: ValidationInfo) -> str:
        if value == "live" and (info.data.get("kind"), info.data.get("mode")) == ("nginx", "tcp"):
            raise ValueError("can't be live with nginx in tcp mode, which only a reload switches: use reload or auto")
        return value

    @field_validator("haproxy")
    @classmethod
    def _only_for_haproxy(cls, value: HAProxyTable, info: ValidationInfo) -> HAProxyTable:
        if info.data.get("kind") == "nginx" and _says_something(value.model_dump(exclude_unset=True)):
            raise ValueError("goes with proxy.kind = 'haproxy' only, not with 'nginx'")
        if info.data.get("mode") == "tcp":
            for key, wrong in (("httpclose", value.httpclose), ("cookie", value.cookie.name)):
                if wrong:
                    raise PydanticCustomError("tcp", NOT_FOR_TCP, {"key": key})
            if value.stats.uri and not value.stats.bind:
                raise PydanticCustomError("tcp", "needs a bind of its own in tcp mode", {"key": "stats"})
        return value

    @field_validator("static")
    @classmethod
    def _beside_the_service(cls, value: tuple[StaticTable, ...], info: ValidationInfo) -> tuple[StaticTable, ...]:
        tls, haproxy = info.data.get("tls"), info.data.get("haproxy")
        stats = haproxy.stats.bind if haproxy else None
        for entry in value:
            if entry.listen in (info.data.get("listen"), tls and tls.listen):
                raise ValueError(f"{entry.name} listens on {entry.listen}, as the service does")
            if stats and stats.rpartition(":")[2] == str(entry.port):
                raise ValueError(f"{entry.name} listens on port {entry.port}, as proxy.haproxy.stats.bind does")
        return value

    @field_validator("url", mode="before")
    @classmethod
    def _from_listen(cls, value: object, info: ValidationInfo) -> object:
        if value != "":
            return value
        # Without a `listen` that is right, its problem is the one to tell.
        listen, tls = info.data.get("listen", "localhost:80"), info.data.get("tls")
        host, _, port = ((tls and tls.listen) or listen).rpartition(":")
        reached = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104
        return f"{'https' if tls else 'http'}://{reached}:{port}"


class NetworkTable(Table):
    """The service's own network, with fixed addresses in its lower half."""

    subnet: Annotated[str, AfterValidator(_subnet)] | None = Field(
        default=None,
        description="The network's IPv4 subnet, from /16 to /28. Default: a free one of the pool.",
    )
    pool: Annotated[str, AfterValidator(_pool)] = Field(
        default="172.29.0.0/16", description="Where a subnet is chosen from: an IPv4 network from /8 to /24."
    )


class RetireTable(Table):
    """What becomes of the old release."""

    old: Literal["remove", "standby"] = Field(
        default="remove",
        description="Remove its containers, or keep them running for an instant rollback (standby).",
    )
    drain_timeout: Annotated[Duration, between("1s", "1h")] = Field(
        default=30.0, description="How long requests in flight to the old release are waited for."
    )
    keep: int = Field(
        default=5, ge=1, le=10, description="How many releases before the live one keep their images for a rollback."
    )


class BakeTable(Table):
    """The time between the switch and the commit in which the witness can take the switch back."""

    seconds: Annotated[Duration, between("0s", "1h")] = Field(default=5.0, description="How long; 0 for not at all.")
    max_error_ratio: float | None = Field(
        default=None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="The share of users' requests that the new release may answer with an error (a status of 500 or"
        " more); above it, and above 1.5 times the old release's, the switch is taken back. Default: not compared.",
    )
    max_p99_ms: float | None = Field(
        default=None,
        ge=1,
        le=300_000,
        allow_inf_nan=False,
        description="The same for the p99 of the witness's requests, in milliseconds. Default: not compared.",
    )

    @field_validator("max_error_ratio", "max_p99_ms")
    @classmethod
    def _in_some_time(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("seconds") == 0:
            raise ValueError("needs bake.seconds above 0: there is no time to compare in")
        return value

    @property
    def compares(self) -> bool:
        """Whether the new release is compared with the old one."""
        return self.max_error_ratio is not None or self.max_p99_ms is not None


class WitnessTable(Table):
    """The requests, never retried, that watch the public address during a run."""

    rate: int = Field(default=20, ge=1, le=1000, description="Requests a second.")
    connections: int = Field(default=2, ge=1, le=50, description="How many connections are kept alive.")
    timeout: Annotated[Duration, between("100ms", "5m")] = Field(
        default=10.0, description="How long an answer may take before it counts as failed."
    )


class HookTable(Table):
    """A command of yours that a run calls at one of its moments."""

    command: Annotated[
        tuple[str, ...],
        BeforeValidator(_command),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    ] = Field(description="The command: a list is run as it is, a string by sh -c.")
    timeout: Annotated[Duration, between("1s", "24h")] = Field(
        default=60.0, description="How long it may take before it is ended, which counts as failed."
    )

    @property
    def words(self) -> str:
        """The command as a person would type it."""
        import shlex  # only a run with hooks needs it

        return self.command[2] if self.command[:2] == ("sh", "-c") else shlex.join(self.command)


class LocalHookTable(HookTable):
    """A hook of a moment that has no image to run in."""

    run: Literal["here"] = Field(default="here", description="On the machine that runs bluegreen; there is no image.")


class PlacedHookTable(HookTable):
    """A hook that runs here or in a container of the release."""

    run: Literal["here", "image"] = Field(
        default="here",
        description="On the machine that runs bluegreen (here), or in a container of the release, with the app's"
        " settings (image).",
    )
    on: Annotated[tuple[Literal["deploy", "rollback"], ...], LIST, AfterValidator(distinct), AfterValidator(_some)] = (
        Field(default=("deploy",), description="Which runs call it: deploy, rollback, or both.")
    )


class HooksTable(Table):
    """Commands of yours that a run calls; one that fails before the commit undoes the run."""

    pre_build: LocalHookTable | None = Field(default=None, description="Before an image is built.")
    pre_deploy: PlacedHookTable | None = Field(
        default=None, description="When the image is there and nothing of the release runs yet: for migrations."
    )
    post_switch: PlacedHookTable | None = Field(
        default=None, description="When the release has the traffic and can still be taken back: for smoke tests."
    )
    post_deploy: PlacedHookTable | None = Field(
        default=None, description="When all is done; one that fails is told, and takes nothing back."
    )
    on_failure: LocalHookTable | None = Field(default=None, description="When a run has failed and been undone.")

    def of(self, name: str, action: str) -> LocalHookTable | PlacedHookTable | None:
        """The hook of this name, if a run of this action calls one."""
        hook: LocalHookTable | PlacedHookTable | None = getattr(self, name)
        return None if isinstance(hook, PlacedHookTable) and action not in hook.on else hook


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
        " Default: multicast.",
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


class NotifyTable(Table):
    """Who is told how a run ended."""

    webhook: Annotated[str, AfterValidator(_secret_url)] = Field(
        default="", validate_default=False, repr=False, description="An address to which JSON is posted."
    )
    slack: Annotated[str, AfterValidator(_secret_url)] = Field(
        default="",
        validate_default=False,
        repr=False,
        description="An incoming webhook of Slack, or of a chat that takes the same, such as Mattermost.",
    )
    on: Annotated[tuple[Literal["done", "undone", "failed"], ...], LIST, AfterValidator(distinct)] = Field(
        default=("done", "undone", "failed"), description="Which ends they are told of."
    )


class MetricsTable(Table):
    """Where the figures of every run go."""

    influxdb: Url = Field(default="", validate_default=False, description="The address of an InfluxDB. Default: none.")
    database: Annotated[str, matching(_INFLUX_NAME, "the name of a database")] = Field(
        default="fluentdb", description="Its database (InfluxDB 1.x), which is made if it is not there."
    )
    user: Annotated[str, matching(_INFLUX_NAME, "the name of a user")] = Field(
        default="", validate_default=False, description="Its user, whose password is in BLUEGREEN_INFLUXDB_PASSWORD."
    )
    bucket: Annotated[str, matching(_INFLUX_NAME, "the name of a bucket")] = Field(
        default="",
        validate_default=False,
        description="A bucket (InfluxDB 2.x), whose token is in BLUEGREEN_INFLUXDB_TOKEN; database and user are then"
        " not used.",
    )
    org: Annotated[str, matching(_INFLUX_NAME, "the name of an organization")] = Field(
        default="", validate_default=False, description="The organization that the bucket is in."
    )
    textfile: Annotated[str, matching(r"[^\x00-\x1f]{1,1000}\.prom", 'a file whose name ends with ".prom"')] = Field(
        default="",
        validate_default=False,
        description="A file for the textfile collector of Prometheus's node exporter, on the machine that deploys.",
    )

    @field_validator("org")
    @classmethod
    def _of_a_bucket(cls, value: str, info: ValidationInfo) -> str:
        if value and not info.data.get("bucket", "x"):
            raise ValueError("goes with metrics.bucket only")
        return value


class Settings(Table):
    """All of bluegreen.toml, checked. Two with the same content, root and file are equal."""

    service: Annotated[
        str,
        matching(SERVICE.pattern, "a service name: a-z, 0-9, _ and -, at most 41, a letter or digit first"),
    ] = Field(description="The service's name; containers, networks and upstreams carry it.")
    rollback_floor: bool = Field(
        default=False,
        description="Whether a release that is deployed with these settings can't be rolled back past, as after a"
        " migration that earlier ones can't live with.",
    )
    image: ImageTable = Field(default_factory=ImageTable)
    registry: RegistryTable = Field(default_factory=RegistryTable)
    gitlab: GitLabTable = Field(default_factory=GitLabTable)
    app: AppTable
    probe: ProbeTable = Field(default_factory=ProbeTable)
    proxy: ProxyTable = Field(default_factory=ProxyTable)
    # Behind app, against which it is checked.
    network: NetworkTable = Field(default_factory=NetworkTable)
    retire: RetireTable = Field(default_factory=RetireTable)
    bake: BakeTable = Field(default_factory=BakeTable)
    witness: WitnessTable = Field(default_factory=WitnessTable, validate_default=True)
    vip: VipTable | None = Field(default=None, description="The address that this load balancer shares with another.")
    hooks: HooksTable = Field(default_factory=HooksTable)
    notify: NotifyTable = Field(default_factory=NotifyTable)
    metrics: MetricsTable = Field(default_factory=MetricsTable)

    _root: Path = PrivateAttr(default_factory=Path)
    _file: Path | None = PrivateAttr(default=None)

    @property
    def root(self) -> Path:
        """The directory of the settings file."""
        return self._root

    @property
    def file(self) -> Path | None:
        """Where they were read from, absolute, if from a file."""
        return self._file

    @property
    def context(self) -> Path:
        """The directory that is built."""
        return self._root / self.image.context

    @cached_property
    def pair(self) -> Pair | None:
        """The certificate and the key of `proxy.tls`, read once. Raises SettingsError if they will not do."""
        tls = self.proxy.tls
        return read_pair(self._root / tls.certificate, self._root / tls.key, self.proxy.hosts) if tls else None

    @property
    def ca(self) -> Path | None:
        """The file with the authority that the witness trusts; None for the usual ones."""
        tls = self.proxy.tls
        return self._root / tls.ca if tls and tls.ca else None

    @property
    def hash(self) -> str:
        """12 hex digits over what decides how a release runs and is routed, a certificate's content included.

        A default that is written out does not change it, nor does a key that a later version adds.
        Raises SettingsError if the certificate and its key will not do.
        """
        tables = {"app", "probe", "proxy", "network", "rollback_floor"}
        data = self.model_dump(include=tables, exclude_defaults=True)
        data["repository"] = self.repository
        if self.pair:
            data["certificate"] = self.pair.fingerprint
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def repository(self) -> str:
        """The image's repository, with the registry before it if there is one."""
        registry = self.registry
        if not registry.server:
            return self.image.repository
        return f"{registry.server}/{registry.repository or self.image.repository}"

    def reference(self, release: Release) -> str:
        """The name of the image of `release`: `repository:tag`."""
        return f"{self.repository}:{release.name}"

    def content(self, digest: str) -> str:
        """What names an image by its content: `repository@digest` with a registry, else the id that `digest` is."""
        return f"{self.repository}@{digest}" if self.registry.server else digest

    @property
    def probe_kind(self) -> Literal["http", "tcp"]:
        """What the probe and the witness ask for: an answer over http, or an accepted connection."""
        return self.probe.kind or self.proxy.mode

    def expected_body(self, release: Release) -> str | None:
        """What the probe of `release` must answer, white space around it aside; None if any 2xx will do."""
        if self.probe.body is None:
            return None
        words = {"release": release.name, "number": release.number}
        return PLACEHOLDER.sub(lambda match: words[match[1]], self.probe.body).strip()

    @model_validator(mode="before")
    @classmethod
    def _named_after_the_service(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        service, image = data.get("service"), data.get("image", {})
        if isinstance(image, dict) and "repository" not in image:
            valid = isinstance(service, str) and SERVICE.fullmatch(service)
            return {**data, "image": {**image, "repository": service if valid else "x"}}
        return data

    @field_validator("proxy")
    @classmethod
    def _probed_as_it_can_be(cls, proxy: ProxyTable, info: ValidationInfo) -> ProxyTable:
        probe = info.data.get("probe")
        if probe is None:
            return proxy
        words = ""
        if proxy.mode == "http" and probe.kind == "tcp":
            words = 'must be "tcp" for probe.kind = "tcp": an accepted connection says nothing of the app behind HTTP'
        elif (probe.kind or proxy.mode) == "tcp":
            unused = [f"probe.{key}" for key in ("path", "body", "host") if key in probe.model_fields_set]
            if unused:
                words = (
                    f"makes the probe a connection, which has no use for {', '.join(unused)}:"
                    ' probe.kind = "http" asks the app'
                )
        if words:
            raise PydanticCustomError("probe", "{words}", {"key": "mode", "words": words})
        return proxy

    @field_validator("bake")
    @classmethod
    def _only_of_requests(cls, bake: BakeTable, info: ValidationInfo) -> BakeTable:
        proxy = info.data.get("proxy")
        for key in ("max_error_ratio", "max_p99_ms"):
            if getattr(bake, key) is not None and proxy and proxy.mode == "tcp":
                raise PydanticCustomError("tcp", NOT_FOR_TCP, {"key": key})
        return bake

    @field_validator("witness")
    @classmethod
    def _patient(cls, witness: WitnessTable, info: ValidationInfo) -> WitnessTable:
        limit = info.data["bake"].max_p99_ms if "bake" in info.data else None
        if limit is not None and 1000 * witness.timeout <= limit:
            words = "must be longer than bake.max_p99_ms, or no answer could be slower than that"
            raise PydanticCustomError("timeout", "{words}", {"key": "timeout", "words": words})
        return witness

    @field_validator("network")
    @classmethod
    def _roomy(cls, network: NetworkTable, info: ValidationInfo) -> NetworkTable:
        if network.subnet and "app" in info.data:
            needed = 1 + 2 * info.data["app"].replicas
            usable = ipaddress.IPv4Network(network.subnet).num_addresses // 2 - 1
            if usable < needed:
                fits = 32 - needed.bit_length() - 1
                raise PydanticCustomError(
                    "too_small",
                    "{subnet} is too small for {replicas} replicas a colour: it must be /{fits} or larger",
                    {
                        "key": "subnet",
                        "subnet": network.subnet,
                        "replicas": info.data["app"].replicas,
                        "fits": fits,
                    },
                )
        return network


def load(path: Path | None = None) -> Settings:
    """The settings in `path`, else in the file that BLUEGREEN_CONFIG names, else in ./bluegreen.toml.

    Raises SettingsError, with every problem in its message, when the file is missing, broken or asks for what
    can't be.
    """
    file = path or Path(os.environ.get(VARIABLE) or FILE)
    name = _name(file)
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SettingsError(
            f"there is no settings file {name}",
            hint=f"write one with `bluegreen init`, or name it with -c or {VARIABLE}",
        ) from None
    except OSError as error:
        raise SettingsError(f"{name} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{name} is not TOML: not UTF-8 (at line {line})") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{name} is not TOML: {_one_line(str(error))}") from None
    except RecursionError:
        raise SettingsError(f"{name} is nested too deeply") from None
    except ValueError as error:
        # A number with thousands of digits, or a NUL in the file's own name.
        raise SettingsError(f"{name} can't be read: {_one_line(str(error))}") from None
    settings = parse(data, root=file.absolute().parent, name=name)
    settings._file = file.absolute()
    return settings


def parse(data: Mapping[str, Any], *, root: Path | None = None, name: str = FILE) -> Settings:
    """The settings in `data`, as TOML gives them. Raises SettingsError, with every problem in its message."""
    try:
        settings = Settings.model_validate(dict(data))
    except ValidationError as error:
        problems = [problem(found) for found in error.errors(include_url=False)]
    except RecursionError:
        raise SettingsError(f"{name} is nested too deeply") from None
    else:
        settings._root = root or Path()
        return settings
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise SettingsError("\n  ".join([f"{name} has {count}:", *problems]))


def check_release_name(name: str) -> str:
    """`name`, if it can be the tag of an image. Raises UsageError for anything else."""
    if not _TAG.fullmatch(name):
        raise UsageError(
            f"{shown(name)} can't be the name of a release",
            hint="it becomes the image's tag: at most 128 of a-z, A-Z, 0-9 and `_.-`, no `.` or `-` first",
        )
    return name


def example(service: str) -> str:
    """The commented settings file that `bluegreen init` writes. Raises UsageError for an impossible name."""
    if not SERVICE.fullmatch(service):
        raise UsageError(
            f"{shown(service)} can't be the name of a service",
            hint="use a-z, 0-9, `_` and `-`, at most 41, with a letter or digit first",
        )
    return _TEMPLATE.read_text(encoding="utf-8").replace("SERVICE", service)


def schema() -> dict[str, Any]:
    """The JSON Schema of the settings file, for editors."""
    found = _without_null(Settings.model_json_schema())
    assert isinstance(found, dict)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": FILE}


def _without_null(part: object) -> object:
    """`part` of a schema without what TOML has not: null, and defaults that stand for something computed."""
    if isinstance(part, list):
        return [_without_null(item) for item in part if item != {"type": "null"}]
    if not isinstance(part, dict):
        return part
    kept = {key: _without_null(value) for key, value in part.items() if key != "default" or value not in (None, "")}
    match kept.get("anyOf"):
        case [dict(only)]:
            del kept["anyOf"]
            kept = {**only, **kept}
    return kept


def problem(found: ErrorDetails) -> str:
    where: tuple[int | str, ...] = found["loc"]
    context = found.get("ctx", {})
    if where and where[-1] == "[key]":
        where = where[:-1]
    if "key" in context:
        where = (*where, context["key"])
    kind = found["type"]
    if kind == "missing" and (table := _table(where)):
        needed = [key for key, field in table.model_fields.items() if field.is_required()]
        return "\n  ".join(f"{dotted((*where, key))}: is missing" for key in needed)
    return f"{dotted(where)}: {_words(kind, where, found, context)}"


_KINDS = {
    "missing": "is missing",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def _words(kind: str, where: tuple[int | str, ...], found: ErrorDetails, context: dict[str, Any]) -> str:
    if kind == "extra_forbidden":
        return f"is not known{_suggestion(where)}"
    if kind == "value_error":
        return str(context["error"])
    if kind not in _KINDS:
        return found["msg"]
    words = _KINDS[kind].format(**context)
    if kind == "missing" or any(where[: len(table)] == table for table in _SECRET):
        return words
    return f"{words}, not {shown(found['input'])}"


def _suggestion(where: tuple[int | str, ...]) -> str:
    import difflib  # only an unknown key needs it

    *parents, key = where
    table = _table(tuple(parents))
    known = [field.alias or name for name, field in table.model_fields.items()] if table else []
    close = difflib.get_close_matches(str(key)[:100], known, n=1)
    if close:
        return f"; did you mean {dotted((*parents, close[0]))}?"
    for name in Settings.model_fields:
        other = _table((name,))
        if other and key in other.model_fields:
            return f"; did you mean {name}.{key}?"
    return ""


def _table(where: tuple[int | str, ...]) -> type[Table] | None:
    """The table at this path, if there is one."""
    table: type[Table] = Settings
    keys = iter(where)
    for key in keys:
        if isinstance(key, int):
            continue
        field = table.model_fields.get(key)
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Table)), None)
        if inner is None:
            return None
        table = inner
        if field and get_origin(field.annotation) is dict:
            next(keys, None)  # a name that is the file's own
    return table


def dotted(where: tuple[int | str, ...]) -> str:
    """The path as in TOML: `app.volumes[0]`, and what is no bare key in quotes."""
    text = ""
    for key in where:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += "." * bool(text) + (key if re.fullmatch(r"[A-Za-z0-9_-]{1,100}", key) else shown(key))
    return text or FILE


def _name(file: Path) -> str:
    return str(file) if str(file).isprintable() else repr(str(file))


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
