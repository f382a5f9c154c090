"""The Docker engine of one host: a container a replica, on a network of the service's own."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from docker.errors import APIError, BuildError, DockerException, ImageNotFound, NotFound
from docker.types import EndpointConfig, IPAMConfig, IPAMPool, Mount
from docker.utils.socket import STDERR, STDOUT
from requests import RequestException
from urllib3.exceptions import HTTPError

from bluegreen import archive
from bluegreen.errors import Failed, SettingsError
from bluegreen.gitlab import checked_out
from bluegreen.hooks import GRACE, POLL
from bluegreen.model import Colour, Endpoint, Image, Line, OneShot, Release, Replica, Slot, Source
from bluegreen.prune import Found
from bluegreen.runtimes.confined import confined, is_root, loosened_by, unprivileged
from bluegreen.runtimes.executing import execute_in
from bluegreen.runtimes.once import output
from bluegreen.runtimes.session import Session
from bluegreen.secret import Secrets
from bluegreen.settings import SECRETS, Settings
from bluegreen.words import plain

Network = ipaddress.IPv4Network

ANSWERS = 5
"""Seconds in which an engine says that it is there, if it is."""

REMOVAL = 10
"""Seconds that the engine may take to end what a run asked of it that was killed meanwhile."""


class DockerRuntime:
    """The containers, images and network of one service on one engine."""

    def __init__(
        self,
        client: Any,
        settings: Settings,
        secrets: Callable[[], Secrets] = Secrets,
        name: str = "",
        address: str = "",
    ) -> None:
        """One of several hosts has a name, and an address by which the others reach it."""
        self._client = client
        self._name = name
        self._address = address
        self._settings = settings
        self._secrets = secrets
        self._service = settings.service
        self._subnet: Network | None = None

    @property
    def name(self) -> str:
        return self._name or str(self._client.api.base_url).replace("http+docker://localhost", "local")

    @property
    def hosts(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def network(self) -> str:
        # Sorts after the proxy's own network (bluegreen-edge-...), which must keep the published ports.
        return f"bluegreen-net-{self._service}"

    def slots(self) -> Mapping[Colour, Slot]:
        found = defaultdict(list)
        for container in self._containers():
            found[Colour(container.labels["bluegreen.colour"])].append(container)
        return {colour: self._slot(colour, containers) for colour, containers in found.items()}

    def image(self, reference: str) -> Image | None:
        try:
            attrs = self._client.api.inspect_image(reference)
        except ImageNotFound:
            return None
        digest = attrs["Id"]
        if self._settings.registry.server:
            named = (each.partition("@") for each in attrs.get("RepoDigests") or [])
            digest = next((each for repository, _, each in named if repository == self._settings.repository), "")
        labels = (attrs.get("Config") or {}).get("Labels") or {}
        source = Source(
            labels.get("bluegreen.commit", ""), labels.get("bluegreen.ref", ""), bool(labels.get("bluegreen.tag"))
        )
        return Image(reference=reference, digest=digest, size=attrs["Size"], source=source)

    def lacking(self, image: str) -> tuple[str, ...]:
        return ()

    def copy(self, image: str, progress: Callable[[str], None]) -> None:
        """There is no other host."""

    def save(self, image: str) -> Iterator[bytes]:
        found = self._client.images.get(image)
        named = next((tag for tag in found.tags if tag.rpartition(":")[0] == self._settings.repository), False)
        pieces: Iterator[bytes] = found.save(named=named)
        return pieces

    def load(self, pieces: Iterable[bytes]) -> None:
        self._client.images.load(pieces)

    def images(self) -> Sequence[Found]:
        repository = self._settings.repository
        found = []
        for attrs in self._client.api.images(name=repository):
            named = (each.partition("@") for each in attrs["RepoDigests"] or [])
            digests = [each for name, _, each in named if name == repository]
            digest = attrs["Id"] if not self._settings.registry.server else next(iter(digests), "")
            created = datetime.fromtimestamp(attrs["Created"], UTC).isoformat(timespec="milliseconds")
            tags = [each for each in attrs["RepoTags"] or [] if each.rpartition(":")[0] == repository]
            names = [*tags, *(f"{repository}@{each}" for each in digests)]
            found += [Found(name, digest, created) for name in names]
        return found

    def needed_elsewhere(self) -> frozenset[str]:
        found = self._client.containers.list(
            all=True, filters={"label": ["bluegreen.service", "bluegreen.colour"]}, ignore_removed=True
        )
        others = [each.labels for each in found if each.labels["bluegreen.service"] != self._service]
        running = {labels.get("bluegreen.digest", "") for labels in others}
        return frozenset(running | {release.digest for labels in others for release in _before(labels)})

    def remove_image(self, name: str) -> bool:
        try:
            self._client.images.remove(name)
        except ImageNotFound:
            return True
        except APIError as error:
            if error.status_code == 409:
                return False
            raise
        return True

    def build(self, release: Release, progress: Callable[[str], None]) -> Image:
        settings = self._settings.image
        context = (self._settings.root / settings.context).resolve()
        if not (context / settings.dockerfile).is_file():
            raise Failed(
                f"there is no {settings.dockerfile} in {context}", hint="set image.context or image.dockerfile"
            )
        reference = self._settings.reference(release)
        lines: list[str] = []
        try:
            stream = self._client.api.build(
                path=os.fspath(context),
                dockerfile=settings.dockerfile,
                tag=reference,
                buildargs={**settings.args, "RELEASE": release.name},
                target=settings.target or None,
                labels=self._labels(release, checked_out(context)),
                rm=True,
                forcerm=True,
                decode=True,
            )
        except RequestException:  # an OSError, too
            raise
        except OSError as error:  # the context is first packed into a temporary file
            raise Failed(
                f"{context} can't be packed for the build of {reference}: {error.strerror or error}",
                hint="is there room for temporary files? TMPDIR=DIRECTORY before the command names another place",
            ) from error
        try:
            for piece in stream:
                if "error" in piece:
                    shown = "\n".join(f"  {line}" for line in lines[-15:])
                    raise Failed(f"the build of {reference} failed: {plain(piece['error'].strip())}\n{shown}")
                for line in plain(piece.get("stream", "")).splitlines():
                    if line.strip():
                        lines.append(line)
                        if not line.startswith((" ---> ", "Removing intermediate container")):
                            progress(line)
        except (APIError, BuildError) as error:
            raise Failed(f"the build of {reference} failed: {plain(str(error))}") from error
        image = self.image(reference)
        if image is None:
            raise Failed(f"the build ended, but the engine has no {reference}")
        return image

    def _labels(self, release: Release, source: Source) -> dict[str, str]:
        labels = {"bluegreen.service": self._service, "bluegreen.release": release.name}
        if source.commit:
            labels |= {"bluegreen.commit": source.commit, "bluegreen.ref": source.ref}
            labels |= {"bluegreen.tag": "1"} if source.tag else {}
        return labels

    def begin(self, run: str) -> None:
        labels = {"bluegreen.begun": self._service, "bluegreen.run": run}
        self._client.api.create_volume(self._trace(run), labels=labels)

    def begun(self) -> tuple[str, ...]:
        found = self._client.volumes.list(filters={"label": f"bluegreen.begun={self._service}"})
        return tuple(sorted(volume.attrs["Labels"]["bluegreen.run"] for volume in found))

    def ended(self, *runs: str) -> None:
        for run in runs:
            with contextlib.suppress(NotFound):
                self._client.api.remove_volume(self._trace(run))

    def _trace(self, run: str) -> str:
        """An empty volume: the engine makes nothing that is done sooner and outlasts whoever asked for it."""
        return f"bluegreen-run-{self._service}-{run}"

    def prepare(self) -> bool:
        wanted = self._settings.network.subnet
        if (existing := self._existing_subnet()) is not None:
            if wanted and Network(wanted) != existing:
                raise SettingsError(
                    f"network.subnet: {wanted}, but the network {self.network} has {existing}",
                    hint="bluegreen down, then deploy again; or set it back",
                )
            return False
        for subnet in [Network(wanted)] if wanted else self._free_subnets():
            if wanted:
                self._refuse_overlap(subnet)
            upper = list(subnet.subnets())[1]
            pool = IPAMPool(subnet=str(subnet), iprange=str(upper), gateway=str(subnet[1]))
            try:
                self._client.networks.create(
                    self.network,
                    driver="bridge",
                    ipam=IPAMConfig(pool_configs=[pool]),
                    labels={"bluegreen.service": self._service},
                    check_duplicate=True,
                )
            except APIError as error:
                # Another service that started at the same moment may have chosen the same one.
                if "overlap" in str(error).lower() and not wanted:
                    continue
                raise Failed(f"the network {self.network} can't be made: {error.explanation or error}") from error
            self._subnet = subnet
            return True
        raise SettingsError(
            f"network.pool: no free subnet in {self._settings.network.pool}", hint="set network.pool or network.subnet"
        )

    def endpoints(self, colour: Colour, count: int) -> tuple[Endpoint, ...]:
        subnet = self._subnet or self._existing_subnet()
        if subnet is None:
            subnet = Network(self._settings.network.subnet or self._settings.network.pool)
            subnet = subnet if self._settings.network.subnet else next(subnet.subnets(new_prefix=24))
        # The upper half is for addresses that the engine gives out, the lower one for fixed ones: a quarter a colour.
        quarter = subnet.num_addresses // 4
        first = 2 if colour is Colour.BLUE else quarter
        room = quarter - 2
        if count > room:
            raise SettingsError(f"app.replicas: the subnet {subnet} has room for {room} replicas a colour, not {count}")
        port = self._settings.app.port
        return tuple(
            Endpoint(str(subnet[first + index]), port, public=self._public(colour, index)) for index in range(count)
        )

    def _public(self, colour: Colour, index: int) -> str:
        """Where the proxies of other hosts reach the replica: no two of both colours at the same port."""
        first = self._settings.app.publish
        return f"{self._address}:{first + 2 * index + (colour is Colour.GREEN)}" if first else ""

    def start(
        self, colour: Colour, release: Release, image: str, run: str, number: int, before: tuple[Release, ...]
    ) -> tuple[Replica, ...]:
        self.remove(colour)
        endpoints = self.endpoints(colour, self._settings.app.replicas)

        def one(index: int) -> None:
            container = self._in_free_place(
                f"{self._service}-{colour}-{index + 1}",
                lambda: self._create(index, endpoints[index], colour, release, image, run, number, before, arguments),
            )
            for network in self._settings.app.networks:
                self._client.networks.get(network).connect(container)
            self._hand_secrets(container)
            container.start()

        try:
            arguments = self._arguments(image)
            _each(one, range(len(endpoints)))
        except NotFound as error:
            raise Failed(f"{release} can't start: {error.explanation}") from error
        except DockerException as error:
            words = getattr(error, "explanation", None) or str(error)
            hint = loosened_by(words, self._settings.app)
            raise Failed(f"{release} can't start: {plain(words)}", hint=hint) from error
        return self.replicas(colour)

    def keep(self, colour: Colour) -> None:
        policy = {"Name": self._settings.app.restart}
        _each(lambda container: container.update(restart_policy=policy), self._containers(colour))

    def has_secrets(self, colour: Colour) -> bool:
        wanted = self._secrets()
        containers = self._containers(colour)
        if not containers:
            return False
        given = containers[0].attrs["Config"]["Env"] or []
        if not {f"{name}={value}" for name, value in wanted.variables.items()} <= set(given):
            return False
        return self._handed(containers[0]) == wanted.files

    def replicas(self, colour: Colour) -> tuple[Replica, ...]:
        return tuple(self._replica(container) for container in self._containers(colour))

    def log(self, replica: Replica, lines: int = 15) -> str:
        try:
            raw: bytes = self._client.api.logs(replica.id, tail=lines)
        except DockerException:
            return ""
        return plain(raw.decode(errors="replace")).strip()

    def lines(
        self, replica: Replica, *, follow: bool = False, tail: int | None = None, since: float = 0
    ) -> Iterator[Line]:
        options: dict[str, Any] = {"since": since} if since else {}
        try:
            pieces = self._client.api.logs(
                replica.id, stream=True, follow=follow, timestamps=True, tail="all" if tail is None else tail, **options
            )
        except NotFound:
            return
        lines = Lines()
        with contextlib.closing(pieces), _whole_answer():
            for piece in pieces:
                yield from map(_stamped, lines.add(piece))
            yield from map(_stamped, lines.rest())

    def run(self, replica: Replica, command: Sequence[str], emit: Callable[[str, bool], None]) -> int:
        api = self._client.api
        outputs = {STDOUT: Lines(), STDERR: Lines()}

        def hear(stream: int, piece: bytes) -> None:
            for line in outputs[stream].add(piece):
                emit(plain(line), stream == STDERR)

        try:
            with _whole_answer():
                code = execute_in(api, replica.id, command, hear)
        except APIError as error:
            raise Failed(f"{replica.name}: {plain(str(error.explanation or error))}") from error
        for kind, lines in outputs.items():
            for line in lines.rest():
                emit(plain(line), kind == STDERR)
        if code is None:
            raise Failed(f"{replica.name}: the engine lost {command[0]}, which may still be running")
        return int(code)

    def remove(self, colour: Colour, *, run: str | None = None) -> list[str]:
        def one(container: Any) -> None:
            try:
                # First, or a restart policy could bring it back between stop and removal. One that is ending refuses.
                with contextlib.suppress(APIError):
                    container.update(restart_policy={"Name": "no"})
                container.stop(timeout=round(self._settings.app.stop_timeout))
                container.remove(force=True, v=True)
            except NotFound:
                pass
            except APIError as error:
                if error.status_code != 409:  # removal is already in progress
                    raise

        containers = [each for each in self._containers(colour) if run in (None, each.labels.get("bluegreen.run"))]
        _each(one, containers)
        # A container's secrets go with it, but not where a person has removed it otherwise.
        labels = [f"bluegreen.service={self._service}", "bluegreen.secrets"]
        for volume in self._client.volumes.list(filters={"label": labels, "dangling": True}):
            with contextlib.suppress(APIError):
                volume.remove()
        return [container.name for container in containers]

    def stand_by(self, colour: Colour) -> list[str]:
        return []

    def run_once(self, job: OneShot, output: Callable[[bytes], None], watch: Callable[[], None]) -> int | None:
        container = None
        try:
            arguments = self._arguments(job.image)
            arguments["environment"] |= job.environment
            container = self._client.containers.create(
                job.image,
                list(job.command),
                name=f"{self._service}-hook-{job.hook}-{job.run}",
                labels={
                    "bluegreen.service": self._service,
                    "bluegreen.hook": job.hook,
                    "bluegreen.release": job.release.name,
                    "bluegreen.run": job.run,
                },
                network=self.network,
                **arguments,
            )
            for network in self._settings.app.networks:
                self._client.networks.get(network).connect(container)
            self._hand_secrets(container)
            raw = self._client.api.attach_socket(container.id, params={"stdout": 1, "stderr": 1, "stream": 1})
            with contextlib.closing(Session(raw, timeout=POLL)) as session:
                container.start()
                deadline = time.monotonic() + job.timeout
                in_time = session.listen(output, watch, until=deadline)
            while in_time:
                container.reload()
                state = container.attrs["State"]
                if state["Status"] in ("exited", "dead"):
                    return int(state["ExitCode"])
                watch()
                time.sleep(POLL)
                in_time = time.monotonic() < deadline
            return None
        except DockerException as error:
            words = getattr(error, "explanation", None) or str(error)
            raise Failed(f"the hook {job.hook} can't run in a container of {job.release}: {plain(words)}") from error
        finally:
            if container is not None:
                # What this can't remove, the undo tries again, and the next run.
                with contextlib.suppress(DockerException, RequestException):
                    _end(container)

    def remove_one_shots(self, *, run: str | None = None) -> list[str]:
        labels = [f"bluegreen.service={self._service}", "bluegreen.hook"]
        labels += [f"bluegreen.run={run}"] if run else []
        found = self._client.containers.list(all=True, filters={"label": labels}, ignore_removed=True)
        _each(_end, found)
        return [container.name for container in found]
    def answers(self) -> bool:
        try:
            return bool(self._client.api.get(f"{self._client.api.base_url}/_ping", timeout=ANSWERS).ok)
        except (DockerException, RequestException):
            return False

    def remove_network(self) -> list[str]:
        try:
            self._client.networks.get(self.network).remove()
        except NotFound:
            return []
        return [f"network {self.network}"]

    def _containers(self, colour: Colour | None = None) -> list[Any]:
        labels = [f"bluegreen.service={self._service}", "bluegreen.colour"]
        if colour:
            labels[-1] += f"={colour}"
        found: list[Any] = []

        def inspect(row: Mapping[str, Any]) -> None:
            with contextlib.suppress(NotFound):  # it has just gone
                found.append(self._client.containers.get(row["Id"]))

        _each(inspect, self._client.api.containers(all=True, filters={"label": labels}))
        return sorted(found, key=lambda container: int(container.labels.get("bluegreen.replica", 0)))

    def _create(
        self,
        index: int,
        endpoint: Endpoint,
        colour: Colour,
        release: Release,
        image: str,
        run: str,
        number: int,
        before: tuple[Release, ...],
        arguments: Mapping[str, Any],
    ) -> Any:
        app = self._settings.app
        labels = {
            "bluegreen.service": self._service,
            "bluegreen.colour": str(colour),
            "bluegreen.release": release.name,
            "bluegreen.digest": release.digest,
            "bluegreen.settings": release.settings_hash,
            "bluegreen.image": self._settings.reference(release),
            "bluegreen.run": run,
            "bluegreen.number": str(number),
            "bluegreen.replica": str(index + 1),
            "bluegreen.wanted": str(app.replicas),
            "bluegreen.before": json.dumps([[each.name, each.digest, *[True] * each.floor] for each in before]),
        }
        labels |= {"bluegreen.floor": "1"} if release.floor else {}
        return self._client.containers.create(
            image,
            app.command,
            name=f"{self._service}-{colour}-{index + 1}",
            labels=labels,
            network=self.network,
            networking_config={
                self.network: EndpointConfig(self._client.api._version, ipv4_address=endpoint.address),
            },
            stop_signal=None,
            ports={f"{app.port}/tcp": tuple(endpoint.public.split(":"))} if endpoint.public else {},
            **arguments,
        )

    def _arguments(self, image: str) -> dict[str, Any]:
        """What every container of the app has in common: what it is given, and what it may not do.

        Its secrets as files are still to be handed to it: see `_hand_secrets`.
        """
        app, secrets = self._settings.app, self._secrets()
        labels = {"bluegreen.service": self._service, "bluegreen.secrets": ""}
        return {
            "environment": {**app.env, **secrets.variables},
            "volumes": list(app.volumes),
            # Without a name, so that it goes with its container, whatever happens; and that outlasts a restart.
            "mounts": [Mount(SECRETS, None, no_copy=True, labels=labels)] if secrets.files else [],
            "mem_limit": app.memory,
            "nano_cpus": round(app.cpus * 1e9) if app.cpus else None,
            "init": app.init or None,
            "log_config": {"type": app.logging.driver, "config": app.logging.wanted},
            **confined(
                user=unprivileged(self._client, image, app.user),
                read_only=app.read_only,
                tmpfs=app.mounted_tmpfs,
                cap_add=app.cap_add,
                no_new_privileges=app.no_new_privileges,
                pids_limit=app.pids_limit or None,
            ),
        }

    def _hand_secrets(self, container: Any) -> None:
        """The app of a container that has not been started will find its secrets, as the only one who can read them."""
        files = self._secrets().files
        if not files:
            return
        container.put_archive(SECRETS, archive.pack(files, mode=0o400, owner=_user_id(container)))

    def _handed(self, container: Any) -> dict[str, bytes]:
        """The secrets that a container has as files."""
        if not any(mount["Destination"] == SECRETS for mount in container.attrs["Mounts"]):
            return {}  # what the image may have there is none of ours
        return {name.rpartition("/")[2]: value for name, value in archive.read(container, SECRETS).items()}

    def _in_free_place(self, name: str, create: Callable[[], Any]) -> Any:
        """What `create` made, though the engine may still be at what a killed run asked of it last.

        That was to make a container of the same name, or to remove it.
        """
        deadline = time.monotonic() + REMOVAL
        while True:
            try:
                return create()
            except APIError as error:
                if error.status_code != 409 or time.monotonic() > deadline:
                    raise
            for container in self._containers():
                if container.name == name:
                    with contextlib.suppress(APIError):
                        container.remove(force=True, v=True)
            time.sleep(0.2)

    def _slot(self, colour: Colour, containers: list[Any]) -> Slot:
        # By number before time: the host's clock may have been set back.
        newest = max(
            containers, key=lambda each: (int(each.labels.get("bluegreen.number", 0)), each.attrs["Created"])
        )
        labels = newest.labels
        return Slot(
            colour=colour,
            release=Release(
                labels["bluegreen.release"],
                labels.get("bluegreen.digest", ""),
                labels.get("bluegreen.settings", ""),
                "bluegreen.floor" in labels,
            ),
            image=labels.get("bluegreen.image", ""),
            run=labels.get("bluegreen.run", ""),
            since=newest.attrs["Created"][:19] + "Z",
            number=int(labels.get("bluegreen.number", 0)),
            wanted=int(labels.get("bluegreen.wanted", 1)),
            replicas=tuple(self._replica(container) for container in containers),
            kept=all(each.attrs["HostConfig"]["RestartPolicy"]["Name"] not in ("", "no") for each in containers),
            before=_before(labels),
        )

    def _replica(self, container: Any) -> Replica:
        state = container.attrs["State"]
        networks = container.attrs["NetworkSettings"]["Networks"]
        own = networks.get(self.network) or {}
        address = (own.get("IPAMConfig") or {}).get("IPv4Address") or own.get("IPAddress") or ""
        return Replica(
            name=container.name,
            id=container.id,
            running=bool(state["Running"]) and not state.get("Restarting", False),
            endpoint=Endpoint(address, self._settings.app.port, public=_published(container)),
            status=state["Status"],
            exit_code=None if state["Running"] else state["ExitCode"],
            restarts=container.attrs.get("RestartCount", 0),
            out_of_memory=bool(state.get("OOMKilled")),
        )

    def _existing_subnet(self) -> Network | None:
        try:
            attrs = self._client.api.inspect_network(self.network)
        except NotFound:
            return None
        self._subnet = Network(attrs["IPAM"]["Config"][0]["Subnet"])
        return self._subnet

    def _taken(self) -> dict[str, Network]:
        """What a new subnet must keep clear of: the engine's networks and the routes of its host."""
        taken = {}
        for network in self._client.networks.list():
            for config in (network.attrs.get("IPAM") or {}).get("Config") or []:
                subnet = ipaddress.ip_network(config["Subnet"], strict=False)
                if isinstance(subnet, Network):
                    taken[f"the network {network.name}"] = subnet
        command = ["cat", "/proc/net/route"]
        raw = output(self._client, self._settings.proxy.image, command, of=self._service, network_mode="host")
        for line in raw.decode().splitlines()[1:]:
            device, destination, _, _, _, _, _, mask = line.split()[:8]
            route = Network((_little_endian(destination), str(ipaddress.IPv4Address(_little_endian(mask)))))
            if route.prefixlen:
                taken.setdefault(f"the host's route over {device}", route)
        return taken

    def _free_subnets(self) -> Iterable[Network]:
        taken = self._taken().values()
        pool = Network(self._settings.network.pool)
        size = max(24, pool.prefixlen)
        return (subnet for subnet in pool.subnets(new_prefix=size) if not any(map(subnet.overlaps, taken)))

    def _refuse_overlap(self, subnet: Network) -> None:
        for owner, other in self._taken().items():
            if subnet.overlaps(other):
                raise SettingsError(f"network.subnet: {subnet} overlaps {owner} ({other})", hint="choose another")


class Lines:
    """Pieces of an output put together to lines."""

    LIMIT = 1 << 20
    """Bytes after which a line ends that has no end."""

    def __init__(self) -> None:
        self._begun = b""

    def add(self, piece: bytes) -> list[str]:
        """The lines that have ended with this piece."""
        *whole, self._begun = (self._begun + piece).split(b"\n")
        if len(self._begun) > self.LIMIT:
            whole, self._begun = [*whole, self._begun], b""
        return [line.decode(errors="replace") for line in whole]

    def rest(self) -> list[str]:
        """The line that was begun, if there is one."""
        return self.add(b"\n") if self._begun else []


@contextlib.contextmanager
def _whole_answer() -> Iterator[None]:
    """Raises Failed if the engine's answer, which is read inside, breaks off."""
    try:
        yield
    except APIError:  # an answer, and an OSError too
        raise
    except (HTTPError, OSError) as error:
        raise Failed(f"the engine's answer broke off: {error}", hint="is it running? try: docker info") from error


def _stamped(line: str) -> Line:
    at, _, text = line.partition(" ")
    return Line(at, plain(text))


def _before(labels: Mapping[str, str]) -> tuple[Release, ...]:
    """The releases that a container's one replaced, latest first."""
    before = json.loads(labels.get("bluegreen.before", "[]"))
    return tuple(Release(name, digest, floor=bool(floor)) for name, digest, *floor in before)


def _user_id(container: Any) -> int:
    """The number of the user that a container runs as, which its image may know by a name only."""
    name = container.attrs["Config"]["User"].partition(":")[0]
    if is_root(name):
        return 0
    if name.isdecimal():
        return int(name)
    [passwd] = archive.read(container, "/etc/passwd").values()
    rows = (line.split(":") for line in passwd.decode(errors="replace").splitlines())
    # The engine knows no other user either, and will say so.
    return next((int(row[2]) for row in rows if row[0] == name and len(row) > 2 and row[2].isdecimal()), 0)


def _little_endian(word: str) -> int:
    return int.from_bytes(bytes.fromhex(word), "little")


def _end(container: Any) -> None:
    """The container has ended, in GRACE seconds or by force, and is gone."""
    try:
        container.stop(timeout=round(GRACE))
        container.remove(force=True, v=True)
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != 409:  # removal is already in progress
            raise


def _published(container: Any) -> str:
    """The address and port of the host by which others reach the container; empty if they don't."""
    bound = container.attrs["HostConfig"].get("PortBindings") or {}
    found = next((each[0] for each in bound.values() if each), None)
    return f"{found['HostIp']}:{found['HostPort']}" if found else ""


def _each(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """`work` has been done for every item, up to eight at once; the first error is raised when all have ended."""
    items = list(items)
    if len(items) < 2:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(max_workers=8) as pool:
        for future in [pool.submit(work, item) for item in items]:
            future.result()
