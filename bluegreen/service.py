"""A service where it runs: with the drivers that reach it, and all that can be asked of it and done to it."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from docker.errors import APIError, ImageNotFound

from bluegreen import mend, notify, prune, wanted
from bluegreen import plan as planning
from bluegreen.engine import Interrupts
from bluegreen.errors import Failed, SettingsError
from bluegreen.flow import Flow
from bluegreen.gitlab import Project, find, prune_tags
from bluegreen.history import History, Kept
from bluegreen.hooks import Output, call_here, conclude
from bluegreen.hosts import Host, Hosts, HostsHistory, HostsLock, HostsRegistry
from bluegreen.lock import Holder, Lock
from bluegreen.logs import Source, run_in
from bluegreen.model import Colour, Event, Image, Observed, Plan, Release
from bluegreen.observe import observe
from bluegreen.proxies import Proxy, Upstreams
from bluegreen.proxies.hosts import HostsProxy
from bluegreen.reach import in_words, managers, reach
from bluegreen.registry import Credentials, Registry
from bluegreen.runtimes import Runtime
from bluegreen.runtimes.connect import connect
from bluegreen.runtimes.hosts import HostsRuntime
from bluegreen.runtimes.swarm import Managers, Node, SwarmRuntime
from bluegreen.secret import Secrets, read_secrets
from bluegreen.settings import Settings
from bluegreen.status import proxy_status_of, status_of
from bluegreen.steps import PreBuild
from bluegreen.swarm_lock import SwarmLock
from bluegreen.vip import holds

AnyLock = Lock | HostsLock | SwarmLock
Emit = Callable[[Event], None]
Planner = Callable[[Observed], Plan]


@dataclass(frozen=True)
class Options:
    """What the command line adds to the settings for one run."""

    wait: float = 0
    """Seconds to wait for the lock."""
    witness: bool = True
    build: bool = False
    """Build the image even if it is there."""
    overwrite: bool = False
    """Give the registry's tag of this release to another content."""
    overwrite_edits: bool = False
    """Write over what a person has changed in the proxy's files."""
    skip_unreachable: bool = False
    """Go on without the hosts that can't be reached."""
    counts: bool = False
    """Tell the witness's counts while the run goes on, for somebody who looks at it."""


@dataclass
class Service:
    """The service of a settings file, with the drivers that reach it."""

    settings: Settings
    client: Any
    runtime: Runtime
    proxy: Proxy
    registry: Registry | HostsRegistry | None = None
    project: Project | None = None
    """The GitLab project that deployments are recorded in."""
    history: History | HostsHistory | None = None
    """The receipts that are kept with the service."""
    webhooks: dict[str, str] = field(default_factory=dict)
    """The webhooks that are told of runs; see `notify.find`."""
    events: list[Event] = field(default_factory=list)
    """What its runs have told, in order."""
    secrets: Callable[[], Secrets] = Secrets
    """Gives the app's secrets, or raises SettingsError; see `read_secrets`."""
    hosts: Hosts | None = None
    """The hosts, if the settings name them."""
    unreachable: dict[str, str] = field(default_factory=dict)
    """Those of them whose engine did not answer at the start, each with why."""
    swarm: SwarmRuntime | None = None
    """The runtime, if it is a swarm."""
    silent: dict[str, str] = field(default_factory=dict)
    """The managers without a proxy whose engine did not answer at the start, each with why."""

    @classmethod
    @contextmanager
    def open(cls, settings: Settings, engine: Callable[[], Any] = connect) -> Iterator[Service]:
        """The service on its hosts, or on the engine that `docker` would use, of which `engine` gives a client; what
        was opened is closed afterwards.

        Raises BluegreenError when no engine answers.
        """
        project = find(settings)
        secrets = cache(partial(read_secrets, settings, project))
        with ExitStack() as stack:
            stack.enter_context(in_words())
            members, unreachable = reach(settings, secrets, stack, engine)
            first = members[0]
            service = cls(settings, first.client, first.runtime, first.proxy, first.registry, project, first.history)
            service.secrets, service.unreachable = secrets, unreachable
            if settings.hosts:
                service._become_several(Hosts(members))
            if settings.runtime == "swarm":
                service._become_swarm(members, stack)
            service.webhooks = notify.find(settings)
            yield service

    def _become_several(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.runtime = HostsRuntime(hosts, self.settings)
        self.proxy = HostsProxy(hosts, self.settings, last=partial(holds, settings=self.settings))
        self.registry = HostsRegistry(hosts) if self.registry else None
        self.history = HostsHistory(hosts)

    def _become_swarm(self, members: Sequence[Host], stack: ExitStack) -> None:
        first, self.silent = managers(self.settings, stack)
        engines = first | {host.name or "local": host.client for host in members}
        # By the manager, which builds and looks into images: the nodes pull for themselves what they are to run.
        away = {**self.silent, **self.unreachable}
        registry = Registry(Managers(list(engines.values()), away), self.settings) if self.registry else None
        auth = registry.lasting_auth if registry else dict
        whole = SwarmRuntime(engines, self.settings, self.secrets, auth, away)
        for host in members:
            host.runtime = Node(host.client, self.settings, host.name, whole)
        self.runtime, self.swarm, self.registry = whole, whole, registry

    def deploy(self, name: str, options: Options, emit: Emit) -> dict[str, Any]:
        """The release is live, and its receipt is returned. The error of a run that failed carries its receipt too."""
        return Flow(self, f"deploy {name}", options, emit).run(
            lambda: wanted.for_deploy(self, name, build=options.build),
            lambda observed: planning.plan_deploy(self.settings, observed, name, build=options.build),
        )

    def rollback(self, name: str | None, options: Options, emit: Emit) -> dict[str, Any]:
        """The previous release, or the one named, is live again, and the receipt is returned."""
        return Flow(self, f"rollback {name or ''}".strip(), options, emit).run(
            lambda: wanted.for_rollback(self, name),
            lambda observed: planning.plan_rollback(self.settings, observed, name),
            recovery_suffices=name is None,
        )

    def scale(self, count: int, options: Options, emit: Emit) -> dict[str, Any]:
        """What is live runs in so many replicas, on each host if they are several, and the receipt is returned.

        By way of the other colour, so that what carries no traffic yet is probed, and what ends is drained.
        """

        with Service.open(self.settings.sized(count)) as sized:
            look, planner = partial(wanted.for_scale, sized), partial(planning.plan_scale, sized.settings)
            return Flow(sized, f"scale {count}", options, emit).run(look, planner)

    def plan_deploy(self, name: str, *, build: bool = False) -> Plan:
        """What `deploy` would do now. Takes no lock and changes nothing, so that it may be overtaken."""
        observed = wanted.for_deploy(self, name, build=build, preview=True)
        return self._preview(observed, lambda seen: planning.plan_deploy(self.settings, seen, name, build=build))

    def plan_rollback(self, name: str | None) -> Plan:
        """What `rollback` would do now; see `plan_deploy`."""
        observed = wanted.for_rollback(self, name)
        return self._preview(observed, lambda seen: planning.plan_rollback(self.settings, seen, name))

    def build(self, name: str, progress: Callable[[str], None]) -> str:
        """The release's image is on the engine. Gives its name and size."""
        image = self._build(name, progress)
        return f"{image.reference} {image.size / 1e6:.1f} MB"

    def push(self, name: str, progress: Callable[[str], None], *, overwrite: bool = False) -> str:
        """The registry has the release's image, which is given by its digest.

        It is built unless the engine or the registry has it. Raises Failed; see `Registry.push`.
        """
        registry, reference = self._need_registry(), self.settings.reference(Release(name))
        if not self.runtime.image(reference):
            published = registry.digest(reference, progress)
            if published:
                return self.settings.content(published)
            self._build(name, progress)
        return self.settings.content(registry.push(reference, progress, overwrite=overwrite))

    def _build(self, name: str, progress: Callable[[str], None]) -> Image:
        """The image is built, outside of a run, and the hook pre_build was called before."""
        hook, release = self.settings.hooks.pre_build, Release(name)
        if hook:
            environment = {
                "BLUEGREEN_HOOK": PreBuild.name,
                "BLUEGREEN_SERVICE": self.settings.service,
                "BLUEGREEN_ACTION": "build",
                "BLUEGREEN_RELEASE": name,
                "BLUEGREEN_IMAGE": self.settings.reference(release),
            }
            output = Output(progress)
            code = call_here(PreBuild.name, hook, self.settings, environment, output, lambda: None)
            output.close()
            conclude(PreBuild.name, hook, code, output)
        return self.runtime.build(release, progress)

    def log_in(self, user: str | None, password: str | None) -> str:
        """The registry takes the user, or the credentials that a run would use; see `Registry.log_in`."""
        given = Credentials(user, password, "the command line and its input") if user and password else None
        return self._need_registry().log_in(given)

    def _need_registry(self) -> Registry | HostsRegistry:
        if self.registry is None:
            raise SettingsError("registry.server: it is not set, so there is no registry", hint="set it in [registry]")
        return self.registry

    def prune(self, options: Options, emit: Emit, *, really: bool) -> dict[str, Any]:
        """The images and tags that no release needs any more are gone, or, unless `really`, only listed.

        Tags are those in the registry of the GitLab project, where there is one.
        """
        with self.locked("prune", options, emit) if really else nullcontext():
            observed = observe(self.runtime, self.proxy)
            observed = planning.after_recovery(observed)
            needed = prune.kept(observed, self.settings.retire.keep) | self.runtime.needed_elsewhere()
            images = prune.superfluous(self.runtime.images(), needed)
            gone = [each.name for each in images if not really or self.runtime.remove_image(each.name)]
            tags: list[str] = []
            warnings: list[str] = []
            if self.project and self.registry:
                target = planning.rollback_target(observed)
                tags, warnings = prune_tags(self.project, self.settings.repository, needed, target, really=really)
        return {
            "service": self.settings.service,
            "done": really,
            "kept": sorted(needed),
            "images": gone,
            "tags": tags,
            "warnings": warnings,
        }

    def status(self) -> dict[str, Any]:
        """What is true now, in the shape that README describes."""
        return status_of(self)

    def sync(self, options: Options, emit: Emit) -> list[str]:
        """Every host that can be reached serves what is live. Says what was done."""
        if self.hosts is None and self.swarm is None:
            raise SettingsError("hosts: there is only one host, so there is nothing to bring to what others serve")
        with self.locked("sync", options, emit) as lock:
            if self.hosts:
                self.hosts.emit = emit
            look = partial(observe, self.runtime, self.proxy)
            observed = self.look(look, lock, emit)
            if observed.unfinished:
                mend.undo_unfinished(self, observed, lock, emit)
                mend.forget(self, observed.begun)
                observed = look()
            done = [
                *mend.bring_hosts(self, observed, lock, emit),
                *mend.follow_tasks(self, observed, lock, emit),
            ]
        return done or ["every host serves what is live"]

    def runs(self) -> list[Kept]:
        """What is kept of the latest runs, the latest first."""
        return self.history.runs() if self.history else []

    def receipt(self, run: str | None) -> dict[str, Any]:
        """The receipt of a run, or of the latest one. Raises Failed if none is kept, or it is damaged."""
        found = [kept for kept in self.runs() if run in (None, kept.run)]
        if not found:
            what = f"no run {run}" if run else "no run"
            raise Failed(f"{what} is kept in the history of {self.settings.service}", hint="bluegreen history")
        receipt = found[0].receipt
        if receipt is None:
            raise Failed(f"all that is kept of {self.settings.service} is damaged", hint="bluegreen history")
        return receipt

    def execute(self, command: Sequence[str], emit: Callable[[Source, str, bool], None], **which: Any) -> int:
        """The command has run in the replicas of what is live; see `logs.run_in`."""
        return run_in(self.runtime, observe(self.runtime, self.proxy), command, emit, **which)

    def render_proxy(self) -> str:
        """The service's file of the proxy as the settings want it, with what is live in use; blue before the first run.

        Raises Failed while the proxy's version, on which the file depends, can't be known.
        """
        observed = observe(self.runtime, self.proxy)
        colour = observed.live.colour if observed.live else Colour.BLUE
        return self.proxy.render(self._upstreams(observed), colour)

    def boot_proxy(self, emit: Emit, options: Options) -> str:
        """The proxy runs and reaches the service's network. Says whether it is new."""
        with self.locked("proxy boot", options, emit) as lock:
            lock.check()
            self.runtime.prepare()
            new = self.proxy.boot([self.runtime.network])
            return f"{self.proxy.name} {'is made and runs' if new else 'runs'}"

    def reload_proxy(self, emit: Emit, options: Options) -> str:
        """The proxy has loaded its files as they stand. Raises Failed, and nothing was loaded, if it refuses them."""
        with self.locked("proxy reload", options, emit) as lock:
            lock.check()
            self.proxy.reload()
            return f"{self.proxy.name} has loaded its files, and its workers from before are leaving"

    def proxy_status(self) -> dict[str, Any]:
        """What the proxy says of itself and of this service."""
        return proxy_status_of(self)

    def down(self, emit: Emit, options: Options) -> list[str]:
        """Nothing of this service is left but its images; the proxy stays while it serves another. Says what went."""
        with self.locked("down", options, emit) as lock:
            self.look(lambda: observe(self.runtime, self.proxy), lock, emit)
            gone = [name for colour in Colour for name in self.runtime.remove(colour)]
            gone += [*self.runtime.remove_one_shots(), *self.proxy.remove(), *self.runtime.remove_network()]
            mend.forget(self, self.runtime.begun())
            return [*gone, *(self.history.remove() if self.history else [])]

    def _preview(self, observed: Observed, planner: Planner) -> Plan:
        observed = wanted.with_lacking(self, observed)
        unfinished = observed.unfinished
        plan = planner(planning.after_recovery(observed))
        if unfinished:
            words = f"the run {unfinished} ended before its commit: {planning.first(self.settings, observed)}"
            plan = planning.with_recovery(plan, words)
        elif plan.unchanged and planning.leftover(self.settings, observed):
            plan = planning.with_recovery(plan, planning.first(self.settings, observed))
        if plan.unchanged:
            return plan
        try:
            config = self.proxy.render(self._upstreams(observed), plan.colour)
        except Failed:  # without the proxy's image its version, and so its config, isn't known yet
            return plan
        lines = difflib.unified_diff(
            observed.proxy.config.splitlines(), config.splitlines(), "as it is", "as it will be", lineterm=""
        )
        return replace(plan, diff="\n".join(lines), edits=observed.proxy.edits)

    def _upstreams(self, observed: Observed) -> Upstreams:
        """Where both colours are, or will be."""
        replicas = self.settings.app.replicas
        upstreams = {colour: self.runtime.endpoints(colour, replicas) for colour in Colour}
        if observed.live:
            upstreams[observed.live.colour] = observed.live.endpoints
        return upstreams

    def lock(self) -> AnyLock:
        """The lock that all who change this service take, whichever host they ask."""
        if self.swarm:
            return SwarmLock(self.swarm.managers(), self.settings.service)
        if self.hosts:
            return HostsLock(self.hosts)
        return Lock(self.client, self.settings.service, self.settings.proxy.image)

    @contextmanager
    def locked(
        self,
        doing: str,
        options: Options,
        emit: Emit,
        state: Interrupts | None = None,
        run: str = "",
    ) -> Iterator[AnyLock]:
        """This run holds the service's lock. What may take long on the way to it can be interrupted.

        Raises Failed, and nothing was changed, if one of several hosts can't be reached and is not to be left out.
        """
        for name, words in self.unreachable.items():
            if not options.skip_unreachable:
                raise Failed(
                    f"{name} can't be reached, and nothing was changed: {words}",
                    hint="--skip-unreachable goes on without it; bluegreen sync brings it to what is live later",
                )
            emit(Event("hosts", "progress", name, detail=f"{name} is left out: {words}"))
        if state:
            state.arm()
        self._have_proxy_image()
        if state:
            state.disarm()
        lock = self.lock()

        def waiting(holder: Holder) -> None:
            emit(Event("lock", "progress", self.runtime.name, detail=f"waiting for {holder}"))

        sleep = state.sleep if state else time.sleep
        lock.take(doing, run=run, wait=options.wait, waiting=waiting, sleep=sleep)
        try:
            yield lock
        finally:
            lock.release()

    def look(self, look: Callable[[], Observed], lock: AnyLock, emit: Emit) -> Observed:
        """What is true now; the proxy runs if there is one. What can't be found out is said to have changed nothing."""
        try:
            observed = look()
        except Failed as error:
            error.message += "; nothing was changed"
            raise
        if observed.proxy.running or not observed.proxy.exists:
            return observed
        lock.check()
        emit(Event("proxy", "progress", self.runtime.name, detail=f"{self.proxy.name} is down: starting it"))
        self.proxy.boot([])
        return look()

    def _have_proxy_image(self) -> None:
        if self.hosts:
            self.hosts.each(lambda host: self._have_proxy_image_on(host.client, host.runtime, f" of {host.name}"))
        else:
            self._have_proxy_image_on(self.client, self.runtime)

    def _have_proxy_image_on(self, client: Any, runtime: Runtime, where: str = "") -> None:
        reference = self.settings.proxy.image
        if runtime.image(reference):
            return
        try:
            client.images.pull(reference)
        except (ImageNotFound, APIError) as error:
            raise Failed(
                f"proxy.image: {reference} is not on the engine{where} and can't be pulled:"
                f" {error.explanation or error}",
                hint=f"docker pull {reference}, or set proxy.image",
            ) from error
