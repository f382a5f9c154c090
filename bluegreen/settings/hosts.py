"""hosts: the engines of a service that runs on several hosts."""

import ipaddress
import re
from collections import Counter
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from bluegreen.settings.values import LIST, Table, matching
from bluegreen.words import shown

_CONTEXT = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"


def _engine(value: str) -> str:
    if re.fullmatch(_CONTEXT, value):
        return value
    parts = urlsplit(value)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return value
    if parts.scheme == "ssh" and parts.hostname and port != -1 and not parts.password:
        return value
    if parts.scheme == "tcp" and parts.hostname and port and port != -1 and not parts.path.strip("/"):
        return value
    raise ValueError(
        f'{shown(value)} is none of "unix:///var/run/docker.sock", "ssh://user@host", "tcp://host:2376" and the name of'
        " a Docker context"
    )


def _address(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value)) if value else ""
    except ValueError:
        raise ValueError(f'{shown(value)} is not an address such as "192.168.100.11"') from None


def _table(value: object) -> object:
    return {"engine": value} if isinstance(value, str) else value


class EngineTable(Table):
    """One host: where its engine is."""

    engine: Annotated[str, AfterValidator(_engine)] = Field(
        description="The address of its engine as `docker` takes it (unix, ssh, tcp), or a Docker context's name."
    )
    name: Annotated[str, matching(rf"{_CONTEXT}", "a name: letters, digits and _.+-, a letter or digit first")] = Field(
        default="",
        validate_default=True,
        description="What it is called. Default: its host's name, or the context's, or local.",
    )
    address: Annotated[str, AfterValidator(_address)] = Field(
        default="",
        description='For proxy.upstreams = "all": the IPv4 address at which the other hosts reach it. Default: that of'
        " the engine, if it is one.",
    )
    certificates: str = Field(
        default="",
        description="A directory with ca.pem, cert.pem and key.pem for tcp. Default: that of DOCKER_CERT_PATH, else"
        " ~/.docker.",
    )
    tls: bool = Field(
        default=True,
        description="Whether tcp is by TLS, and no other. Whoever reaches an engine without it is root on its host.",
    )

    @field_validator("name", mode="before")
    @classmethod
    def _called_as_it_is_reached(cls, value: object, info: ValidationInfo) -> object:
        if value:
            return value
        engine = info.data.get("engine", "local")
        return urlsplit(engine).hostname or ("local" if "://" in engine else engine)


    @property
    def reached_at(self) -> str:
        """The address at which the other hosts reach it; empty if that is not known."""
        host = urlsplit(self.engine).hostname or ""
        return self.address or (host if re.fullmatch(r"[0-9.]+", host) else "")


def _apart(values: tuple[EngineTable, ...]) -> tuple[EngineTable, ...]:
    for what, named in (("engine", [each.engine for each in values]), ("name", [each.name for each in values])):
        twice = [each for each, count in Counter(named).items() if count > 1]
        if twice:
            mend = "" if what == "engine" else ': give them names: { engine = "...", name = "..." }'
            raise ValueError(f"two have the {what} {shown(twice[0])}{mend}")
    return values


Engines = Annotated[
    tuple[Annotated[EngineTable, BeforeValidator(_table, json_schema_input_type=str | EngineTable)], ...],
    LIST,
    AfterValidator(_apart),
]
