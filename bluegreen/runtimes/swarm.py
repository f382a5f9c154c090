"""Docker Swarm: a service a colour, whose tasks the proxies reach on an attachable overlay network.

Swarm places and replaces the tasks; what is new is started in the idle colour's service, as with one engine. A service
is known by the labels that containers carry elsewhere, and by one more it is known whether a run has committed it:
labels are all that can be changed of a service without its tasks being replaced.

What runs as plain containers of the same service, on the engine that is asked, counts too: that is how a service moves
from one engine to Swarm, by a deploy like any other.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from docker.errors import APIError, DockerException, NotFound
from docker.types import Mount
from docker.utils.socket import STDERR, STDOUT
from requests import RequestException

from bluegreen.errors import Failed
from bluegreen.model import Colour, Endpoint, Line, Release, Replica, Slot
from bluegreen.prune import Found
from bluegreen.runtimes.confined import is_root, loosened_by, unprivileged
from bluegreen.runtimes.docker import DockerRuntime, Lines, _before, _stamped, _user_id, _whole_answer
from bluegreen.secret import Secrets
from bluegreen.settings import Settings
from bluegreen.words import plain

POLL = 0.3
"""Seconds between two looks at tasks that are waited for."""

FRESH = 2.0
"""Seconds for which a manager that has answered is not asked again whether it is there."""

SYSTEM = 3
"""The stream on which a manager tells why it has no lines of a task."""

GONE = 60.0
"""Seconds beyond the time to stop in which the tasks of a removed service are gone."""

NOWHERE = Endpoint("127.0.0.1", 9)
"""Stands in a proxy's file for a colour that has no tasks yet, whose addresses nobody can know before."""

ENDED = ("failed", "rejected", "complete")
"""The states of a task that has ended by itself."""

HALTED = ("paused", "rollback_started", "rollback_paused", "rollback_completed")
"""The states of an update that Swarm has stopped or taken back."""

NO_NEW_PRIVILEGES = (1, 44)
"""The version of the engine's interface from which on a service can be denied new privileges."""


class SwarmNode(NamedTuple):
    """A node as the managers see it."""

    name: str
    manager: bool
    answers: bool
    """As a manager, if it is one."""
    availability: str
    """Whether it is given tasks: active; pause: no new ones; drain: those that it had run elsewhere."""


class Managers:
    """The client of the first manager that answers, chosen anew when it no longer does. `away` are engines that can't
    be reached, each with the reason: managers may be among them."""

    def __init__(self, clients: Sequence[Any], away: Mapping[str, str] | None = None) -> None:
        self._clients = list(clients)
        self._away = dict(away or {})
        self._current: Any = None
        self._seen = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current(), name)

    def current(self) -> Any:
        """The client. Raises Failed if no manager answers, or too few do to decide anything."""
        if self._current is not None and time.monotonic() - self._seen < FRESH:
            return self._current
        heard: list[str] = []
        for client in sorted(self._clients, key=lambda each: each is not self._current):
            try:
                client.api.inspect_swarm()
            except APIError as error:
                heard.append(str(error.explanation or error))
            except (DockerException, RequestException) as error:
                heard.append(str(error))
            else:
                self._current, self._seen = client, time.monotonic()
                return client
        self._seen = 0.0
        # What a manager has to say, if there is one, tells more than that workers are none.
        words = next((each for each in heard if "not a swarm manager" not in each), "".join(heard[:1]))
        hint = "docker node ls, on a manager; docker swarm init, if there is no swarm yet"
        if all("Worker nodes" in each for each in heard):
            hint = "name a manager in hosts; or in swarm.managers, if no proxy is to run on it"
            if self._away:
                words = "; ".join(f"{name} can't be reached: {why}" for name, why in self._away.items())
                hint = "is that its engine's address, and is it running? The others that are named are workers"
        raise Failed(f"no manager of the swarm can be asked: {plain(words)}", hint=hint)


class SwarmRuntime(DockerRuntime):
    """The services, tasks and network of one service in a swarm; and its containers of before on the same engine."""

    def __init__(
        self,
        engines: Mapping[str, Any],
        settings: Settings,
        secrets: Callable[[], Secrets] = Secrets,
        auth: Callable[[], Mapping[str, str]] = dict,
        away: Mapping[str, str] | None = None,
    ) -> None:
        """The clients of its engines by name, in the order in which they are asked; `auth` is what nodes pull with, and
        `away` which engines can't be reached, and why."""
        self._of_managers = partial(Managers, list(engines.values()), away)
        super().__init__(self.managers(), settings, secrets)
        self._engines = dict(engines)
        self._auth = auth

    @property
    def name(self) -> str:
        return "swarm"

    def managers(self) -> Managers:
        """Asks them apart from what else asks them."""
        return self._of_managers()

    @property
    def engines(self) -> Sequence[Any]:
        """The clients of its engines, in the order in which they are asked."""
        return list(self._engines.values())

    @property
    def hosts(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def network(self) -> str:
        # Sorts after the proxy's own network, as that of containers does, and has another name than it.
        return f"bluegreen-overlay-{self._service}"

    def nodes(self) -> list[SwarmNode]:
        """The swarm's nodes, by name. What has been promoted is no manager before it has joined the others."""
        found = []
        for each in self._client.api.nodes():
            manager = each.get("ManagerStatus") or {}
            answers = each["Status"]["State"] == "ready" and manager.get("Reachability", "reachable") == "reachable"
            name, availability = each["Description"]["Hostname"], each["Spec"]["Availability"]
            found.append(SwarmNode(name, bool(manager), answers, availability))
        return sorted(found)

    def called(self, colour: Colour) -> str:
        """The name of the colour's service in Swarm."""
        return f"{self._service}-{colour}"

    def halted(self, colour: Colour) -> str:
        """What Swarm says of an update of the service that it has stopped or taken back; empty if there is none."""
        service = self._service_of(colour) or {}
        state = (service.get("UpdateStatus") or {}).get("State", "")
        return _taken_over(service) if state in HALTED else ""

    def unnamed(self) -> list[str]:
        """The nodes with a container in the service's network, such as a proxy, whose engine is none of those that are
        known; empty if one of these does not say which node it is."""
        found = self._client.api.tasks(filters={"runtime": "attachment", "desired-state": "running"})
        there = {each["NodeID"] for each in found for network in _attached(each) if self._is_own(network)}
        try:
            known = {client.info()["Swarm"]["NodeID"] for client in self._engines.values()}
        except (DockerException, RequestException):
            return []
        names = {each["ID"]: each["Description"]["Hostname"] for each in self._client.api.nodes()}
        return sorted(names[each] for each in there - known)

    def answers(self) -> bool:
        try:
            self._client.current()
        except Failed:
            return False
        return True

    def lacking(self, image: str) -> tuple[str, ...]:
        """Of the engines that are known those that have not got the image, where no registry gives it to all nodes."""
        if self._settings.registry.server:
            return ()
        return tuple(name for name, client in self._engines.items() if not _has(client, image))

    def copy(self, image: str, progress: Callable[[str], None]) -> None:
        lacking = self.lacking(image)
        for name in lacking:
            self._engines[name].images.load(self.save(image))
            progress(f"{name} has it")

    def needed_elsewhere(self) -> frozenset[str]:
        others = [
            each["Spec"]["Labels"]
            for each in self._client.api.services(filters={"label": "bluegreen.colour"})
            if each["Spec"]["Labels"].get("bluegreen.service") != self._service
        ]
        found = {labels.get("bluegreen.digest", "") for labels in others}
        return super().needed_elsewhere() | found | {each.digest for labels in others for each in _before(labels)}

    def images(self) -> Sequence[Found]:
        """Those of every engine that is known; what other nodes have pulled is theirs to keep or remove."""
        found = [image for client in self.engines for image in DockerRuntime(client, self._settings).images()]
        return list(dict.fromkeys(found))

    def remove_image(self, name: str) -> bool:
        used = {slot.release.digest for slot in self.slots().values()}
        gone = True
        for client in self.engines:
            engine = DockerRuntime(client, self._settings)
            if image := engine.image(name):
                gone = image.digest not in used and engine.remove_image(name) and gone
        return gone

    def begin(self, run: str) -> None:
        """A config of Swarm, as every manager has those; it holds nothing but labels."""
        labels = {"bluegreen.begun": self._service, "bluegreen.run": run}
        self._client.api.create_config(self._trace(run), b"begun", labels)

    def begun(self) -> tuple[str, ...]:
        found = self._client.api.configs(filters={"label": f"bluegreen.begun={self._service}"})
        return tuple(sorted(each["Spec"]["Labels"]["bluegreen.run"] for each in found))

    def ended(self, *runs: str) -> None:
        for run in runs:
            with contextlib.suppress(NotFound):
                self._client.api.remove_config(self._trace(run))

    def _trace(self, run: str) -> str:
        return f"bluegreen-run-{_digest(self._service, run)}"

    def prepare(self) -> bool:
        with contextlib.suppress(NotFound):
            attrs = self._client.api.inspect_network(self.network)
            if attrs["Scope"] != "swarm":
                raise Failed(
                    f"the network {self.network} is none of the swarm's", hint=f"docker network rm {self.network}"
                )
            return False
        ipam = None
        if self._settings.network.subnet:
            ipam = {"Driver": "default", "Config": [{"Subnet": self._settings.network.subnet}]}
        try:
            self._client.networks.create(
                self.network,
                driver="overlay",
                attachable=True,
                ipam=ipam,
                labels={"bluegreen.service": self._service},
                check_duplicate=True,
            )
        except APIError as error:
            raise Failed(f"the network {self.network} can't be made: {error.explanation or error}") from error
        return True

    def remove_network(self) -> list[str]:
        gone = []
        for name in (self.network, super().network):
            deadline = time.monotonic() + GONE
            while True:
                try:
                    self._client.networks.get(name).remove()
                except NotFound:
                    break
                except APIError as error:
                    if "not found" in str(error.explanation):
                        break  # between the look and the removal, with its last container
                    # Swarm takes a while to learn that the last container has left.
                    if "in use" not in str(error.explanation) or time.monotonic() > deadline:
                        raise
                    time.sleep(POLL)
                else:
                    gone.append(f"network {name}")
                    break
        return gone

    def endpoints(self, colour: Colour, count: int) -> tuple[Endpoint, ...]:
        """Where its tasks are: Swarm gives out their addresses when it starts them, so that there is nothing to be
        known of others."""
        slot = self.slots().get(colour)
        found = tuple(each for each in slot.endpoints if each.address) if slot else ()
        return found or (NOWHERE,)

    def start(
        self, colour: Colour, release: Release, image: str, run: str, number: int, before: tuple[Release, ...]
    ) -> tuple[Replica, ...]:
        """Returns when every task runs, or one has ended. A standby that was scaled to none and is just that is scaled
        up again; anything else is made anew."""
        labels = self._slot_labels(colour, release, run, number, before)
        standby = self._scaled_to_none(colour, release, image)
        if standby is None:
            self.remove(colour)
        try:
            if standby is None:
                made = self._post("/services/create", self._spec(colour, image, labels), self._to_pull())["ID"]
            else:
                made = standby["ID"]
                self._scale(standby, self._settings.app.replicas, labels, self._to_pull())
        except NotFound as error:
            raise Failed(f"{release} can't start: {plain(str(error.explanation))}") from error
        except DockerException as error:
            words = plain(str(getattr(error, "explanation", None) or error))
            raise Failed(f"{release} can't start: {words}", hint=loosened_by(words, self._settings.app)) from error
        return self._wait(colour, made, release)

    def _scaled_to_none(self, colour: Colour, release: Release, image: str) -> dict[str, Any] | None:
        """The colour's service, if `stand_by` has scaled it and nobody has updated it, and its tasks would be what is
        wanted now."""
        service = self._service_of(colour)
        if service is None or not _waits(service) or _taken_over(service):
            return None
        of_image = service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == image
        fits = of_image and self._slot_of(service).release == release and self.has_secrets(colour)
        return service if fits else None

    def _scale(
        self, service: Mapping[str, Any], count: int, labels: Mapping[str, str], pull: Mapping[str, str] | None = None
    ) -> None:
        """The service has so many tasks, and is on a new count of its starts: what ended before is none of this one."""
        template = service["Spec"]["TaskTemplate"]
        template = {**template, "ForceUpdate": template.get("ForceUpdate", 0) + 1}
        mode = {"Replicated": {"Replicas": count}}
        self._update(service, {**service["Spec"], "Labels": dict(labels), "TaskTemplate": template, "Mode": mode}, pull)

    def _wait(self, colour: Colour, made: str, release: Release) -> tuple[Replica, ...]:
        deadline = time.monotonic() + self._settings.swarm.start_timeout
        while True:
            service = self._client.api.inspect_service(made)
            if (words := _taken_over(service)) or not service["Spec"]["Mode"].get("Replicated"):
                raise Failed(f"{release} did not start as it was told: {words or 'it is not replicated any more'}")
            tasks = self._tasks(service)
            rejected = [each for each in tasks if _never_ran(each["Status"])]
            if rejected:
                raise self._rejected(rejected[0], release)
            replicas = self._replicas_of(service, tasks)
            wanted = service["Spec"]["Mode"]["Replicated"]["Replicas"]
            ended = any(each.exit_code is not None for each in replicas)
            if ended or (len(replicas) == wanted and all(each.running for each in replicas)):
                return replicas
            if time.monotonic() > deadline:
                states = "; ".join(sorted({each.status for each in replicas if not each.running}))
                hint = "swarm.start_timeout is how long they may take, the pull of the image on each node included"
                if "no suitable node" in states:
                    hint = (
                        "docker node ls, on a manager: is there room for both colours, by swarm.constraints,"
                        " max_per_node, reserve_memory and reserve_cpus?"
                    )
                raise Failed(
                    f"{release} can't start: {sum(each.running for each in replicas)} of {wanted} tasks run after"
                    f" {self._settings.swarm.start_timeout:g} s: {states or 'Swarm has made no others'}",
                    hint=hint,
                )
            time.sleep(POLL)

    def _rejected(self, task: Mapping[str, Any], release: Release) -> Failed:
        """The error for a task that its node has not taken."""
        words = plain(task["Status"].get("Err") or task["Status"]["Message"])
        hint = loosened_by(words, self._settings.app)
        if "No such image" in words:  # all that a node tells of a pull that failed
            node = self._client.api.inspect_node(task["NodeID"])["Description"]["Hostname"]
            words = f"the node {node} has not got its image, and can't pull it: {words}"
            hint = "does that node reach the registry, and trust its certificate? docker pull, there, says why not"
            if not self._settings.registry.server:
                hint = "without a registry only the engines that hosts and swarm.managers name are given images"
        return Failed(f"{release} can't start: {words}", hint=hint)

    def keep(self, colour: Colour) -> None:
        """A label says that it is committed. Swarm replaces tasks from the beginning on; that until here one that ends
        counts as ended, is by the way they are read."""
        service = self._service_of(colour)
        if service is None:
            super().keep(colour)
            return
        spec = service["Spec"]
        if "bluegreen.kept" not in spec["Labels"]:
            spec["Labels"] = {**spec["Labels"], "bluegreen.kept": "1"}
            self._update(service, spec)

    def slots(self) -> Mapping[Colour, Slot]:
        found = dict(super().slots())
        for service in self._services():
            slot = self._slot_of(service)
            found[slot.colour] = slot
        return found

    def replicas(self, colour: Colour) -> tuple[Replica, ...]:
        service = self._service_of(colour)
        return super().replicas(colour) if service is None else self._replicas_of(service, self._tasks(service))

    def _replica(self, container: Any) -> Replica:
        """What is left of the time before Swarm has its address on the network of that time."""
        return DockerRuntime(self._client, self._settings)._replica(container)

    def has_secrets(self, colour: Colour) -> bool:
        service = self._service_of(colour)
        if service is None:
            return super().has_secrets(colour)
        wanted = self._secrets()
        container = service["Spec"]["TaskTemplate"]["ContainerSpec"]
        variables = {f"{name}={value}" for name, value in wanted.variables.items()}
        names = {self._secret_name(name, value) for name, value in wanted.files.items()}
        given = {each["SecretName"] for each in container.get("Secrets") or []}
        return variables <= set(container.get("Env") or []) and given == names

    def log(self, replica: Replica, lines: int = 15) -> str:
        if not _is_task(replica):
            return super().log(replica, lines)
        try:
            found = [line.text for line in self._read(replica, tail=lines)]
        except (DockerException, RequestException, Failed):
            return ""
        return "\n".join(found).strip()

    def lines(
        self, replica: Replica, *, follow: bool = False, tail: int | None = None, since: float = 0
    ) -> Iterator[Line]:
        if not _is_task(replica):
            yield from super().lines(replica, follow=follow, tail=tail, since=since)
            return
        with contextlib.suppress(NotFound):
            yield from self._read(replica, follow=follow, tail=tail, since=since)

    def _read(
        self, replica: Replica, *, follow: bool = False, tail: int | None = None, since: float = 0
    ) -> Iterator[Line]:
        """By the manager, which asks the node. Reaches what is written to json-file and journald."""
        if tail == 0 and not follow:
            return
        api = self._client.api
        options: dict[str, Any] = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(follow)}
        options["tail"] = "all" if tail is None else str(tail)
        if since:
            options["since"] = f"{since:.9f}"
        response = api._get(api._url("/tasks/{0}/logs", replica.id), params=options, stream=True, timeout=None)
        api._raise_for_status(response)
        outputs = {STDOUT: Lines(), STDERR: Lines(), SYSTEM: Lines()}
        with contextlib.closing(response), _whole_answer():
            while len(head := response.raw.read(8)) == 8:
                kind, length = struct.unpack(">BxxxL", head)
                found = outputs[kind].add(response.raw.read(length))
                yield from map(_from_manager if kind == SYSTEM else _stamped, found)
        for kind, rest in outputs.items():
            yield from map(_from_manager if kind == SYSTEM else _stamped, rest.rest())

    def run(self, replica: Replica, command: Sequence[str], emit: Callable[[str, bool], None]) -> int:
        """By the engine of the task's own node, which must be among those that are known."""
        if not _is_task(replica):
            return super().run(replica, command, emit)
        try:
            task = self._client.api.inspect_task(replica.id)
        except APIError as error:
            raise Failed(f"{replica.name}: {plain(str(error.explanation or error))}") from error
        node, container = task.get("NodeID"), task["Status"].get("ContainerStatus", {}).get("ContainerID", "")
        for client in self._engines.values():
            with contextlib.suppress(DockerException, RequestException):
                if client.info()["Swarm"]["NodeID"] != node:
                    continue
                there = DockerRuntime(client, self._settings)
                return there.run(replace(replica, id=container), command, emit)
        raise Failed(
            f"{replica.name} runs on a node whose engine is not reached from here",
            hint="name the engines of all nodes, in hosts or swarm.managers",
        )

    def remove(self, colour: Colour, *, run: str | None = None) -> list[str]:
        gone = super().remove(colour, run=run)
        service = self._service_of(colour)
        if service is None:
            self._remove_unused()  # a start may have ended before there was one
            return gone
        if run not in (None, service["Spec"]["Labels"].get("bluegreen.run")):
            return gone
        tasks = self._tasks(service)
        gone += [replica.name for replica in self._replicas_of(service, tasks)]
        with contextlib.suppress(NotFound):
            self._client.api.remove_service(service["ID"])
        self._gone([each["ID"] for each in tasks])
        self._remove_unused()
        return gone

    def stand_by(self, colour: Colour) -> list[str]:
        service = self._service_of(colour)
        if self._settings.swarm.standby_replicas == "all" or service is None:
            return []
        tasks = self._tasks(service)
        names = [replica.name for replica in self._replicas_of(service, tasks)]
        wanted = service["Spec"]["Mode"]["Replicated"]["Replicas"]
        self._scale(service, 0, {**service["Spec"]["Labels"], "bluegreen.standby": str(wanted)})
        self._gone([each["ID"] for each in tasks if each["Status"]["State"] not in (*ENDED, "shutdown", "orphaned")])
        return names

    def _gone(self, tasks: Sequence[str]) -> None:
        """The tasks have ended and are gone, but for those of nodes that do not answer."""
        deadline = time.monotonic() + self._settings.app.stop_timeout + GONE
        while tasks and time.monotonic() < deadline:
            left = self._client.api.tasks(filters={"id": list(tasks)})
            ready = self._nodes()
            tasks = [each["ID"] for each in left if ready.get(each.get("NodeID", ""))]
            if tasks:
                time.sleep(POLL)

    def _remove_unused(self) -> None:
        """No secret or config is left of this service that none of its colours uses: Swarm refuses for the others."""
        api, label = self._client.api, {"label": f"bluegreen.service={self._service}"}
        for found, remove in (
            (api.secrets(filters=label), api.remove_secret),
            (api.configs(filters=label), api.remove_config),
        ):
            for each in found:
                with contextlib.suppress(APIError):
                    remove(each["ID"])

    def _services(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._client.api.services(filters={"label": f"bluegreen.service={self._service}"})
        return [each for each in found if "bluegreen.colour" in each["Spec"]["Labels"]]

    def _service_of(self, colour: Colour) -> dict[str, Any] | None:
        return next((each for each in self._services() if each["Spec"]["Labels"]["bluegreen.colour"] == colour), None)

    def _tasks(self, service: Mapping[str, Any]) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = self._client.api.tasks(filters={"service": service["ID"]})
        except NotFound:
            return []
        return found

    def _nodes(self) -> dict[str, bool]:
        """Whether each node answers its managers."""
        return {each["ID"]: each["Status"]["State"] == "ready" for each in self._client.api.nodes()}

    def _slot_of(self, service: Mapping[str, Any]) -> Slot:
        labels, waits = service["Spec"]["Labels"], _waits(service)
        return Slot(
            colour=Colour(labels["bluegreen.colour"]),
            release=Release(
                labels["bluegreen.release"],
                labels.get("bluegreen.digest", ""),
                labels.get("bluegreen.settings", ""),
                "bluegreen.floor" in labels,
            ),
            image=labels.get("bluegreen.image", ""),
            run=labels.get("bluegreen.run", ""),
            since=service["CreatedAt"][:19] + "Z",
            number=int(labels.get("bluegreen.number", 0)),
            wanted=int(labels["bluegreen.standby"]) if waits else service["Spec"]["Mode"]["Replicated"]["Replicas"],
            replicas=self._replicas_of(service, self._tasks(service)),
            kept="bluegreen.kept" in labels,
            before=_before(labels),
            scaled_to_none=waits,
        )

    def _replicas_of(self, service: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> tuple[Replica, ...]:
        """One for each task slot: the task that is to run there; while it is not committed, one that has ended."""
        places: dict[int, list[Mapping[str, Any]]] = {}
        for task in tasks:
            places.setdefault(task["Slot"], []).append(task)
        ready = self._nodes()
        wanted = service["Spec"]["Mode"]["Replicated"]["Replicas"]
        kept, taken_over = "bluegreen.kept" in service["Spec"]["Labels"], _taken_over(service)
        start = _start_of(service["Spec"]["TaskTemplate"])
        found = []
        for place in sorted(places):
            there = sorted(places[place], key=lambda each: each["CreatedAt"])
            meant = [each for each in there if each["DesiredState"] in ("running", "ready")]
            ended = [each for each in there if each["Status"]["State"] in ENDED and _start_of(each["Spec"]) == start]
            if not meant and len(places) > wanted:
                continue  # what a scale down has left to be seen for a while
            chosen = (meant or there)[-1] if kept or not ended else ended[-1]
            replica = self._replica_of(service, chosen, ready, len(ended))
            if taken_over and not kept:
                replica = replace(replica, running=False, status=taken_over)
            found.append(replica)
        return tuple(found)

    def _replica_of(
        self, service: Mapping[str, Any], task: Mapping[str, Any], ready: Mapping[str, bool], ended: int
    ) -> Replica:
        status, name = task["Status"], service["Spec"]["Name"]
        state, error = status["State"], plain(status.get("Err", ""))
        attached = [each for each in task.get("NetworksAttachments") or [] if self._is_own(each["Network"])]
        address = attached[0]["Addresses"][0].partition("/")[0] if attached and attached[0].get("Addresses") else ""
        away = not ready.get(task.get("NodeID", ""), False)
        runs = state == "running" and task["DesiredState"] == "running" and not away
        if state == "running" and away:
            error = "its node does not answer"
        code = status.get("ContainerStatus", {}).get("ExitCode", 0) if state in ENDED else None
        return Replica(
            name=f"{name}.{task['Slot']}",
            id=task["ID"],
            running=runs,
            endpoint=Endpoint(address, self._settings.app.port, follows=f"tasks.{name}"),
            status=f"{state}: {error}" if error else state,
            exit_code=code,
            restarts=ended,
            made=task["CreatedAt"],
        )

    def _is_own(self, network: Mapping[str, Any]) -> bool:
        return bool(network["Spec"]["Name"] == self.network)

    def _slot_labels(
        self, colour: Colour, release: Release, run: str, number: int, before: tuple[Release, ...]
    ) -> dict[str, str]:
        labels = {
            "bluegreen.service": self._service,
            "bluegreen.colour": str(colour),
            "bluegreen.release": release.name,
            "bluegreen.digest": release.digest,
            "bluegreen.settings": release.settings_hash,
            "bluegreen.image": self._settings.reference(release),
            "bluegreen.run": run,
            "bluegreen.number": str(number),
            "bluegreen.before": json.dumps([[each.name, each.digest, *[True] * each.floor] for each in before]),
        }
        return labels | ({"bluegreen.floor": "1"} if release.floor else {})

    def _spec(self, colour: Colour, image: str, labels: Mapping[str, str]) -> dict[str, Any]:
        """The service as the engine's interface takes it."""
        app, swarm, secrets = self._settings.app, self._settings.swarm, self._secrets()
        user = unprivileged(self._client, image, app.user)
        environment = {**app.env, **secrets.variables}
        container: dict[str, Any] = {
            "Image": image,
            "Args": list(app.command) if app.command else None,
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "User": user,
            "ReadOnly": app.read_only,
            "Init": app.init or None,
            "StopGracePeriod": round(app.stop_timeout * 1e9),
            "Mounts": [*map(_volume, app.volumes), *(_tmpfs(*each) for each in app.mounted_tmpfs.items())],
            "CapabilityDrop": ["ALL"],
            "CapabilityAdd": [f"CAP_{each}" if each != "ALL" else each for each in app.cap_add],
            "Secrets": self._secret_references(secrets.files, image, user),
            "Configs": self._config_references(),
        }
        if app.no_new_privileges and denies_privileges(self._client):
            container["Privileges"] = {"NoNewPrivileges": True}
        limits = {
            "MemoryBytes": app.memory.bytes if app.memory else None,
            "NanoCPUs": round(app.cpus * 1e9) if app.cpus else None,
            "Pids": app.pids_limit or None,
        }
        reserved = {
            "MemoryBytes": swarm.reserve_memory.bytes if swarm.reserve_memory else None,
            "NanoCPUs": round(swarm.reserve_cpus * 1e9) if swarm.reserve_cpus else None,
        }
        condition = {"on-failure": "on-failure"}.get(app.restart, "any")
        return {
            "Name": self.called(colour),
            "Labels": dict(labels),
            "TaskTemplate": {
                "ContainerSpec": _given(container),
                "Resources": {"Limits": _given(limits), "Reservations": _given(reserved)},
                "RestartPolicy": {"Condition": condition, "Delay": round(swarm.restart_delay * 1e9)},
                "Placement": {
                    "Constraints": list(swarm.constraints),
                    "Preferences": [{"Spread": {"SpreadDescriptor": each}} for each in swarm.spread],
                    "MaxReplicas": swarm.max_per_node,
                },
                "LogDriver": {"Name": app.logging.driver, "Options": dict(app.logging.wanted)},
                "Networks": [{"Target": each} for each in (self.network, *app.networks)],
            },
            "Mode": {"Replicated": {"Replicas": app.replicas}},
            "EndpointSpec": {"Mode": swarm.endpoint_mode},
        }

    def _secret_references(self, files: Mapping[str, bytes], image: str, user: str) -> list[dict[str, Any]]:
        """The secrets exist, and are for the app's user alone where they are found."""
        if not files:
            return []
        owner = str(self._number_of(user, image))
        there = {each["Spec"]["Name"]: each["ID"] for each in self._client.api.secrets()}
        found = []
        for name, value in files.items():
            called = self._secret_name(name, value)
            with _taken(f"the secret {name}"):
                made = there.get(called) or self._client.api.create_secret(called, value, self._labels_of(name))["ID"]
            place = {"Name": name, "UID": owner, "GID": "0", "Mode": 0o400}
            found.append({"SecretID": made, "SecretName": called, "File": place})
        return found

    def _config_references(self) -> list[dict[str, Any]]:
        if not self._settings.configs:
            return []
        there = {each["Spec"]["Name"]: each["ID"] for each in self._client.api.configs()}
        found = []
        for path, content in self._settings.configs.items():
            called = f"bluegreen-{_digest(self._service, path, content)}"
            with _taken(f"the config {path}"):
                made = there.get(called) or self._client.api.create_config(called, content, self._labels_of(path))["ID"]
            place = {"Name": path, "UID": "0", "GID": "0", "Mode": 0o444}
            found.append({"ConfigID": made, "ConfigName": called, "File": place})
        return found

    def _labels_of(self, name: str) -> dict[str, str]:
        return {"bluegreen.service": self._service, "bluegreen.named": name}

    def _secret_name(self, name: str, value: bytes) -> str:
        """Tells whether the content is the same, at a price that keeps a short one from being guessed by its name."""
        salt = f"{self._service}\0{name}".encode()
        return f"bluegreen-{hashlib.scrypt(value, salt=salt, n=1 << 14, r=8, p=1, dklen=20).hex()}"

    def _number_of(self, user: str, image: str) -> int:
        """The number of the user, which its image may know by a name only."""
        name = user.partition(":")[0]
        if is_root(name) or name.isdecimal():
            return int(name) if name.isdecimal() else 0
        container = self._client.containers.create(image, ["true"], user=user, labels={"bluegreen.once": self._service})
        try:
            return _user_id(container)
        finally:
            container.remove(v=True)

    def _update(
        self, service: Mapping[str, Any], spec: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        """Without `headers` the nodes keep what they were given to pull with: for anything else Swarm would replace the
        tasks."""
        self._post(f"/services/{service['ID']}/update?version={service['Version']['Index']}", spec, headers)

    def _to_pull(self) -> dict[str, str]:
        """The header with what the nodes need to pull the image."""
        auth = dict(self._auth())
        if not auth:
            return {}
        auth["serveraddress"] = self._settings.registry.server
        return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()}

    def _post(self, path: str, data: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What the manager answers."""
        api = self._client.api
        answer: dict[str, Any] = api._result(
            api._post_json(api._url("") + path, data=dict(data), headers=dict(headers or {})), True
        )
        return answer


class Node(DockerRuntime):
    """One engine of the swarm: its images, and whether it answers. What stands in a colour is the swarm's."""

    def __init__(self, client: Any, settings: Settings, name: str, whole: SwarmRuntime) -> None:
        super().__init__(client, settings, name=name)
        self._whole = whole

    @property
    def network(self) -> str:
        return self._whole.network

    def slots(self) -> Mapping[Colour, Slot]:
        return self._whole.slots()

    def begun(self) -> tuple[str, ...]:
        return ()

    def replicas(self, colour: Colour) -> tuple[Replica, ...]:
        return self._whole.replicas(colour)


@contextlib.contextmanager
def _taken(what: str) -> Iterator[None]:
    """Raises Failed if Swarm does not take what is made inside."""
    try:
        yield
    except APIError as error:
        words = str(error.explanation or error).rpartition("desc = ")[2]
        raise Failed(f"Swarm does not take {what}: {plain(words)}") from error


def _from_manager(line: str) -> Line:
    """What the manager says instead of a task, without a time: that it has not been started yet, or that its node can't
    be asked."""
    return Line(datetime.now(UTC).isoformat().replace("+00:00", "Z"), plain(line))


def _has(client: Any, image: str) -> bool:
    try:
        client.api.inspect_image(image)
    except NotFound:
        return False
    return True


def _attached(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The networks that a task is in."""
    return [each["Network"] for each in task.get("NetworksAttachments") or []]


def denies_privileges(client: Any) -> bool:
    """Whether an engine, as a manager, can deny a service's tasks new privileges."""
    return _version(client) >= NO_NEW_PRIVILEGES


def _version(client: Any) -> tuple[int, ...]:
    return tuple(map(int, client.api._version.split(".")))


def _never_ran(status: Mapping[str, Any]) -> bool:
    """Whether a node has not taken the task, or could not start its container."""
    return status["State"] == "rejected" or "starting container failed" in status.get("Err", "")


def _is_task(replica: Replica) -> bool:
    return bool(replica.endpoint.follows)


def _waits(service: Mapping[str, Any]) -> bool:
    """Whether it is a standby that was scaled to none, and nobody has scaled it up since."""
    return "bluegreen.standby" in service["Spec"]["Labels"] and not service["Spec"]["Mode"]["Replicated"]["Replicas"]


def _start_of(task: Mapping[str, Any]) -> int:
    """Which of the starts of its service a task's specification is of; see `_scale`."""
    return int(task.get("ForceUpdate", 0))


def _taken_over(service: Mapping[str, Any]) -> str:
    """What somebody has had Swarm make of the service, or Swarm by itself; empty if its tasks are as they were started,
    as a run replaces none."""
    status = service.get("UpdateStatus") or {}
    state = status.get("State", "")
    return f"Swarm says {state.replace('_', ' ')}: {plain(status.get('Message', ''))}" if state else ""


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, [])}


def _volume(value: str) -> Mount:
    return Mount.parse_mount_string(value)


def _tmpfs(path: str, options: str) -> dict[str, Any]:
    """The mount of a directory in memory. Swarm takes its size and its mode, and nothing else."""
    given = dict(each.partition("=")[::2] for each in options.split(",") if each)
    wanted: dict[str, Any] = {"Mode": int(given.get("mode", "1777"), 8)}
    if "size" in given:
        number = given["size"].rstrip("kmg")
        wanted["SizeBytes"] = (
            int(number) * {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[given["size"][len(number) :]]
        )
    return {"Type": "tmpfs", "Target": path, "TmpfsOptions": wanted}


def _digest(*parts: str | bytes) -> str:
    """40 hex digits over the parts."""
    whole = b"\0".join(each if isinstance(each, bytes) else each.encode() for each in parts)
    return hashlib.sha256(whole).hexdigest()[:40]
