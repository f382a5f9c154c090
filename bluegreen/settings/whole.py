"""All tables together, what follows from several of them, and what is checked between them."""

import hashlib
import ipaddress
import json
import re
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from bluegreen.certificate import Pair, read_pair
from bluegreen.errors import SettingsError
from bluegreen.model import Release
from bluegreen.settings.app import AppTable
from bluegreen.settings.gitlab import GitLabTable
from bluegreen.settings.hooks import HooksTable
from bluegreen.settings.hosts import Engines
from bluegreen.settings.image import ImageTable, RegistryTable
from bluegreen.settings.metrics import MetricsTable
from bluegreen.settings.network import NetworkTable
from bluegreen.settings.notify import NotifyTable
from bluegreen.settings.proxy import ProxyTable
from bluegreen.settings.run import PLACEHOLDER, BakeTable, ProbeTable, RetireTable, WitnessTable
from bluegreen.settings.swarm import SwarmTable
from bluegreen.settings.tcp import NOT_FOR_TCP
from bluegreen.settings.values import SERVICE, Table, matching, table
from bluegreen.settings.vip import VipTable


class Settings(Table):
    """All of bluegreen.toml, checked. Two with the same content, root and file are equal."""

    service: Annotated[
        str,
        matching(SERVICE.pattern, "a service name: a-z, 0-9, _ and -, at most 41, a letter or digit first"),
    ] = Field(description="The service's name; containers, networks and upstreams carry it.")
    hosts: Engines = Field(
        default=(),
        description="The engines of the hosts that the service runs on, each with a proxy of its own, when they are"
        " several. Default: the one that `docker` would use.",
    )
    runtime: Literal["docker", "swarm"] = Field(
        default="docker",
        description="What runs the replicas: the engine of each host by itself (docker), or Docker Swarm (swarm), of"
        " which at least one of the engines is a manager.",
    )
    rollback_floor: bool = Field(
        default=False,
        description="Whether a release that is deployed with these settings can't be rolled back past, as after a"
        " migration that earlier ones can't live with.",
    )
    image: ImageTable = table()
    registry: RegistryTable = table()
    gitlab: GitLabTable = table()
    app: AppTable
    probe: ProbeTable = table()
    proxy: ProxyTable = table()
    # Behind app, against which it is checked.
    network: NetworkTable = table()
    swarm: SwarmTable = table()
    retire: RetireTable = table()
    bake: BakeTable = table()
    witness: WitnessTable = table()
    vip: VipTable | None = Field(default=None, description="The address that this load balancer shares with another.")
    hooks: HooksTable = table()
    notify: NotifyTable = table()
    metrics: MetricsTable = table()

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

    @cached_property
    def configs(self) -> dict[str, bytes]:
        """The content of each file of `swarm.configs` by its path in a replica. Raises SettingsError."""
        found = {}
        for path, name in self.swarm.configs.items():
            try:
                found[path] = (self._root / name).read_bytes()
            except OSError as error:
                raise SettingsError(f"swarm.configs: {self._root / name} can't be read: {error.strerror}") from None
        return found

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
        least = _least()
        others = ("probe", "proxy", "network", "rollback_floor", "runtime", "swarm")
        tables = {"app", *(name for name in others if getattr(self, name) != getattr(least, name))}
        apart = {"swarm": {"managers", "standby_replicas"}}
        data = _without_empty(self.model_dump(include=tables, exclude=apart, exclude_defaults=True))
        data["repository"] = self.repository
        if self.pair:
            data["certificate"] = self.pair.fingerprint
        if self.configs:
            data["configs"] = {path: hashlib.sha256(content).hexdigest() for path, content in self.configs.items()}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def scales_standby(self) -> bool:
        """Whether a standby waits without a replica, scaled to none, if it is a service of Swarm."""
        return self.runtime == "swarm" and self.retire.old == "standby" and self.swarm.standby_replicas == "none"

    @property
    def repository(self) -> str:
        """The image's repository, with the registry before it if there is one."""
        registry = self.registry
        if not registry.server:
            return self.image.repository
        return f"{registry.server}/{registry.repository or self.image.repository}"

    def sized(self, replicas: int) -> "Settings":
        """The same with so many replicas, and no standby of another number."""
        app = self.app.model_copy(update={"replicas": replicas})
        return self.model_copy(update={"app": app, "retire": self.retire.model_copy(update={"old": "remove"})})

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

    @field_validator("swarm")
    @classmethod
    def _can_be_run_by_swarm(cls, swarm: SwarmTable, info: ValidationInfo) -> SwarmTable:
        """What of the other tables Swarm can't do is refused here, where it is asked for."""
        if info.data.get("runtime") != "swarm":
            return swarm
        words = ""
        proxy, app = info.data.get("proxy"), info.data.get("app")
        if proxy and proxy.where == "host":
            words = 'proxy.where = "host" does not reach the network of a swarm: the proxy must be a container'
        elif proxy and proxy.upstreams == "all":
            words = 'proxy.upstreams = "all" is for hosts apart: in a swarm every proxy sends to all tasks anyway'
        elif twice := {each.name for each in swarm.managers} & {each.name for each in info.data.get("hosts", ())}:
            words = f"swarm.managers and hosts both name {sorted(twice)[0]!r}: those of hosts are asked anyway"
        elif app and app.publish:
            words = "app.publish has no use in a swarm: the proxies reach the tasks by their own addresses"
        elif app:
            odd = re.compile(r"(?:^|,)(?:[ug]id=|(?:no)?exec)")
            beyond = next((each for each in app.tmpfs if odd.search(each.partition(":")[2])), "")
            words = f"app.tmpfs: {beyond!r}: Swarm takes no other options than size and mode" if beyond else ""
        if words:
            raise PydanticCustomError("swarm", "{words}", {"key": "runtime", "words": words})
        return swarm

    @field_validator("proxy")
    @classmethod
    def _reached_from_everywhere(cls, proxy: ProxyTable, info: ValidationInfo) -> ProxyTable:
        if proxy.upstreams == "local" or "app" not in info.data or "hosts" not in info.data:
            return proxy
        hosts = info.data["hosts"]
        unknown = [host.name for host in hosts if not host.reached_at]
        words = ""
        if len(hosts) < 2:
            words = 'can be "all" only of several hosts'
        elif not info.data["app"].publish:
            words = 'needs app.publish to be "all": the ports at which one host reaches the replicas of another'
        elif unknown:
            words = f'needs hosts.address to be "all": nothing says where {unknown[0]} is reached by the others'
        if words:
            raise PydanticCustomError("upstreams", "{words}", {"key": "upstreams", "words": words})
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


@cache
def _least() -> Settings:
    """Those of a file that says no more than it must."""
    return Settings.model_validate({"service": "x", "app": {"port": 1}})


def _without_empty(data: dict[str, Any]) -> dict[str, Any]:
    """The same without tables that hold nothing but defaults."""
    kept = {key: _without_empty(value) if isinstance(value, dict) else value for key, value in data.items()}
    return {key: value for key, value in kept.items() if value != {}}
