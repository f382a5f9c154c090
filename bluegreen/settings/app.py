"""[app]: how a replica runs, with its secrets, volumes and limits."""

import posixpath
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from bluegreen.settings.container import LoggingTable, User
from bluegreen.settings.values import (
    LIST,
    Duration,
    Identifier,
    Size,
    Table,
    Text,
    Value,
    between,
    distinct,
    printable,
    table,
)
from bluegreen.words import shown

_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_VOLUME = re.compile(r"(?P<source>/[^:]*|[A-Za-z0-9][A-Za-z0-9_.-]+):(?P<target>/[^:]*)(?::(?:ro|rw))?")


def _memory(value: Size) -> Size:
    if value.bytes < 6 << 20:
        raise ValueError("must be at least 6m, as the engine takes no less")
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


def _entry_point(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or not value[0]:
        raise ValueError('must begin with a program, such as ["python3", "server.py"]')
    return value


SECRETS = "/run/secrets"
"""The directory in the container in which an app finds its secrets, each in a file of its name."""


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
    def _one_place(self) -> Self:
        if sum(each is not None for each in (self.env, self.file, self.gitlab)) != 1:
            raise PydanticCustomError("place", "must name one place: env, file or gitlab")
        return self


class AppTable(Table):
    """How a replica of the app runs."""

    port: int = Field(ge=1, le=65535, description="The port that the app listens on in its container.")
    replicas: int = Field(default=1, ge=1, le=100, description="How many containers a colour has.")
    publish: int = Field(
        default=0,
        ge=0,
        le=65435,
        description='For proxy.upstreams = "all": the first of the ports of its host at which other hosts reach the'
        " replicas, two for each. Default: none.",
    )
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
    logging: LoggingTable = table()
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
    def _room_for_secrets(self) -> Self:
        for name, secret in self.secrets.items():
            if secret.as_ == "env" and name in self.env:
                words = f"{name} is in app.env, too"
                raise PydanticCustomError("secret", "{words}", {"key": "secrets", "words": words})
        taken = {*map(_target, self.volumes), *(each.partition(":")[0] for each in self.tmpfs)}
        if SECRETS in taken and any(secret.as_ == "file" for secret in self.secrets.values()):
            words = f"need {SECRETS} for themselves, where a volume or tmpfs stands"
            raise PydanticCustomError("secret", "{words}", {"key": "secrets", "words": words})
        return self
