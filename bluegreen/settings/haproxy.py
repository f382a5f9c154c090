"""[proxy.haproxy]: what only HAProxy has, much of it under the words of its own file."""

import ipaddress
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from bluegreen.settings.values import (
    HOST_NAME,
    LIST,
    URL_PATH,
    Duration,
    Published,
    Table,
    between,
    distinct,
    duration,
    is_host,
    listen_address,
    matching,
    table,
    url_path,
)
from bluegreen.words import shown


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


_CRYPT = matching(
    r"\$[56]\$(?:rounds=[0-9]{4,6}\$)?[A-Za-z0-9./]{1,16}\$[A-Za-z0-9./]{43,86}",
    "a password's hash as `openssl passwd -6` prints it",
)
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
        default=1.0,
        description='The time between two checks: "1s", or a whole number of milliseconds (1000). With many replicas it'
        " is longer: 20 ms for each, and as it is here again after a check that has found another state.",
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
    def _inserted(self) -> Self:
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
    def _closed(self) -> Self:
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
    timeouts: TimeoutsTable = table()
    check: CheckTable = table()
    server: ServerTable = table()
    cookie: CookieTable = table()
    stats: StatsTable = table()

    @model_validator(mode="after")
    def _one_user(self) -> Self:
        if self.uid is not None and self.user is not None:
            raise PydanticCustomError("twice", "names the same as user: leave one out", {"key": "uid"})
        return self
