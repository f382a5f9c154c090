"""The kinds of values that several tables take, and what a table is.

What is rendered into a proxy's file is checked against what it may hold, not against what it may not:
no quote, brace, semicolon, `$`, newline or NUL gets through.
"""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import core_schema

from bluegreen.words import shown

SERVICE = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_ADDRESS_AND_PORT = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*)(?::(?P<port>[0-9]{1,5}))?")
_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,6})?)(?P<unit>ms|s|m|h)")
_SIZE = re.compile(r"(?P<number>[0-9]{1,15})(?P<unit>[kmg]?)")
URL_PATH = re.compile(r"/(?:[A-Za-z0-9/_.~!&*+,=:@?-]|%[0-9A-Fa-f]{2})*")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


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


def _published(value: str) -> str:
    value = listen_address(value)
    if int(value.rpartition(":")[2]) in _TAKEN:
        raise ValueError(f"{shown(value)}: the ports {', '.join(map(str, _TAKEN))} are taken inside the proxy")
    return value


_TAKEN = (8078, 8079, 8080, 8443)
"""The ports that are the proxy's own inside its container."""

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


def table(description: str | None = None) -> Any:
    """A table that may be left out: it is then what it is where it stands empty.

    Checked as part of the whole, as it stands there. Made by its own class, it would be built for that a second time,
    which takes half as long again.
    """
    return Field(default_factory=dict, validate_default=True, description=description)


class Table(BaseModel):
    """A table of the settings file: frozen, and with no key but its own."""

    # Deferred, the models are built only by a command that loads the file.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, defer_build=True)
