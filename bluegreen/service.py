"""A service on its host: the flow that every run takes, and what can be asked without one.

settings -> lock -> observe -> plan -> engine -> events
"""

from __future__ import annotations

import difflib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

from docker.errors import APIError, DockerException, ImageNotFound
from requests import RequestException

from bluegreen import follow, metrics, notify, prune
from bluegreen import plan as planning
from bluegreen.afterwards import tell_all
from bluegreen.bake import Comparison
from bluegreen.counts import counts_told
from bluegreen.engine import Interrupts, call_on_failure, execute, interrupts
from bluegreen.errors import BluegreenError, Failed, NeedsPerson, SettingsError, Unexpected
from bluegreen.gitlab import (
    Project,
    checked_out,
    deployment,
    find,
    prune_tags,
    records_itself,
)
from bluegreen.history import History, Kept
from bluegreen.hooks import Output, call_here, conclude
from bluegreen.hosts import Host, Hosts, HostsHistory, HostsLock, HostsRegistry
from bluegreen.lock import Holder, Lock
from bluegreen.logs import Source, run_in
from bluegreen.model import PASSING, Colour, Event, Image, Observed, Plan, Release, Slot
from bluegreen.observe import observe
from bluegreen.probe import public_host
from bluegreen.proxies import Proxy, Upstreams
from bluegreen.proxies.hosts import HostsProxy
from bluegreen.reach import engine_failed, in_words, managers, reach
from bluegreen.receipt import Start, receipt
from bluegreen.registry import Credentials, Registry
from bluegreen.runtimes import Runtime
from bluegreen.runtimes.hosts import HostsRuntime
from bluegreen.runtimes.swarm import Managers, Node, SwarmRuntime
from bluegreen.secret import Secrets, read_secrets
from bluegreen.settings import Settings
from bluegreen.steps import PreBuild, Run, finish, is_standby, recover, verify
from bluegreen.swarm_lock import SwarmLock
from bluegreen.sync import bring
from bluegreen.vip import holds
from bluegreen.witness import Witness

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
    start: Start | None = None
    """When the last run began."""
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
    def open(cls, settings: Settings) -> Iterator[Service]:
        """The service on its hosts, or on the engine that `docker` would use; what was opened is closed afterwards.

        Raises BluegreenError when no engine answers.
        """
        project = find(settings)
        secrets = cache(partial(read_secrets, settings, project))
        with ExitStack() as stack:
            stack.enter_context(in_words())
            members, unreachable = reach(settings, secrets, stack)
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
        registry = Registry(Managers(list(engines.values())), self.settings) if self.registry else None
        whole = SwarmRuntime(engines, self.settings, self.secrets, registry.lasting_auth if registry else dict)
        for host in members:
            host.runtime = Node(host.client, self.settings, host.name, whole)
        self.runtime, self.swarm, self.registry = whole, whole, registry

    def deploy(self, name: str, options: Options, emit: Emit) -> dict[str, Any]:
        """The release is live, and its receipt is returned. The error of a run that failed carries its receipt too."""
        return self._run(
            f"deploy {name}",
            lambda: self._observe_for_deploy(name, build=options.build),
            lambda observed: planning.plan_deploy(self.settings, observed, name, build=options.build),
            options,
            emit,
        )

    def rollback(self, name: str | None, options: Options, emit: Emit) -> dict[str, Any]:
        """The previous release, or the one named, is live again, and the receipt is returned."""
        return self._run(
            f"rollback {name or ''}".strip(),
            lambda: self._observe_for_rollback(name),
            lambda observed: planning.plan_rollback(self.settings, observed, name),
            options,
            emit,
            recovery_suffices=name is None,
        )

    def scale(self, count: int, options: Options, emit: Emit) -> dict[str, Any]:
        """What is live runs in so many replicas, on each host if they are several, and the receipt is returned.

        By way of the other colour, so that what carries no traffic yet is probed, and what ends is drained.
        """

        with Service.open(self.settings.sized(count)) as sized:
            planner = partial(planning.plan_scale, sized.settings)
            return sized._run(f"scale {count}", sized._observe_for_scale, planner, options, emit)

    def plan_deploy(self, name: str, *, build: bool = False) -> Plan:
        """What `deploy` would do now. Takes no lock and changes nothing, so that it may be overtaken."""
        observed = self._observe_for_deploy(name, build=build, preview=True)
        return self._preview(observed, lambda seen: planning.plan_deploy(self.settings, seen, name, build=build))

    def plan_rollback(self, name: str | None) -> Plan:
        """What `rollback` would do now; see `plan_deploy`."""
        observed = self._observe_for_rollback(name)
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
        with self._locked("prune", options, emit) if really else nullcontext():
            observed = observe(self.runtime, self.proxy)
            observed = planning.after_recovery(observed) if observed.unfinished else observed
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
        observed = observe(self.runtime, self.proxy)
        settled = planning.after_recovery(observed) if observed.unfinished else observed
        holder = self._lock().holder()
        proxy = observed.proxy
        return {
            "service": self.settings.service,
            "live": _slot(observed.live, observed) if observed.live else None,
            "standby": _slot(observed.standby, observed) if observed.standby else None,
            "rollback": self._readiness(settled),
            "proxy": {
                "kind": self.settings.proxy.kind,
                "version": proxy.version,
                "address": self.settings.proxy.url,
                "switch": proxy.switch,
                "running": proxy.running,
                "edits": proxy.edits or None,
            },
            "unfinished": observed.unfinished or None,
            "next": planning.next_run(self.settings, observed) or None,
            "lock": str(holder) if holder else None,
            "hosts": self._each_host(observed),
        }

    def _each_host(self, observed: Observed) -> list[dict[str, Any]]:
        """What is true of each host: what it serves, and why that is not what is live, if it is not."""
        if self.hosts is None:
            live = observed.live
            name = live.release.name if live else None
            return [{"name": self.runtime.name, "live": name, "reachable": True, "behind": None}]

        def one(host: Host) -> dict[str, Any]:
            here = observe(host.runtime, host.proxy)
            record, slot = here.proxy.record, here.live
            return {
                "name": host.name,
                "reachable": True,
                "live": slot.release.name if slot else None,
                "colour": str(slot.colour) if slot else None,
                "replicas": {"running": slot.running, "wanted": slot.wanted} if slot else None,
                "switch": record.number if record else None,
                "proxy": f"{self.settings.proxy.kind} {here.proxy.version}" if here.proxy.running else None,
                "behind": self.hosts.behind.get(host.name) if self.hosts else None,
            }

        found = {each["name"]: each for each in self.hosts.each(one)}
        missing = {**self.unreachable, **self.hosts.lost}
        nothing = {"live": None, "colour": None, "replicas": None, "switch": None, "proxy": None}
        found |= {
            name: {"name": name, "reachable": False, **nothing, "behind": words} for name, words in missing.items()
        }
        return [found[host.name] for host in self.settings.hosts]

    def sync(self, options: Options, emit: Emit) -> list[str]:
        """Every host that can be reached serves what is live. Says what was done."""
        if self.hosts is None and self.swarm is None:
            raise SettingsError("hosts: there is only one host, so there is nothing to bring to what others serve")
        with self._locked("sync", options, emit) as lock:
            if self.hosts:
                self.hosts.emit = emit
            look = partial(observe, self.runtime, self.proxy)
            observed = self._look(look, lock, emit)
            if observed.unfinished:
                self._recover(observed, lock, emit)
                self.runtime.ended(*observed.begun)
                observed = look()
            done = [*self._bring(observed, lock, emit), *self._renew(observed, lock, emit)]
        return done or ["every host serves what is live"]

    def _bring(self, observed: Observed, lock: AnyLock, tell: Emit) -> list[str]:
        """Every host that is behind serves what the others do. Says of each what was done."""
        live, record = observed.live, observed.proxy.record
        if self.hosts:
            self.hosts.tell()
        if self.hosts is None or not self.hosts.behind or live is None or record is None:
            return []
        done = []
        for name, why in list(self.hosts.behind.items()):
            host, started = self.hosts.named(name), time.monotonic()
            lock.check()
            tell(Event("sync", "started", name, detail=f"{name} is behind: {why}"))
            if self.swarm:
                words = follow.bring(self.settings, self.swarm, host, live, record)
                tell(Event("sync", "done", name, time.monotonic() - started, words))
                done.append(f"{name}: {words}")
                continue
            self._hand_image(host, live)
            words = bring(self.settings, host, live, record, tell)
            tell(Event("sync", "done", name, time.monotonic() - started, words))
            done.append(f"{name}: {words}")
        return done

    def _renew(self, observed: Observed, lock: AnyLock, tell: Emit) -> list[str]:
        """The proxies send to the tasks of a swarm where those are now. Says what was amiss."""
        if self.swarm is None or observed.half_made:
            return []
        started = time.monotonic()
        lock.check()
        amiss = follow.renew(self.settings, self.swarm, self.proxy, observed)
        if amiss:
            words = f"the proxies send to the tasks where they are now: {', '.join(amiss)}"
            tell(Event("sync", "done", self.runtime.name, time.monotonic() - started, words))
            return [words]
        return []

    def _settle(self, lock: AnyLock, tell: Emit) -> list[str]:
        """The proxies of a swarm know no more of what a run has removed. Says what could not be done."""
        try:
            if self.swarm:
                self._renew(observe(self.runtime, self.proxy), lock, tell)
        except (BluegreenError, DockerException, RequestException) as error:
            return [f"the proxies' files: {error}"]
        return []

    def _hand_image(self, host: Host, live: Slot) -> None:
        """The host has the image of what is live, if any of the hosts or the registry has it."""
        content = self.settings.content(live.release.digest)
        if host.runtime.image(content):
            return
        if host.registry:
            host.registry.pull(content, live.release.name, lambda words: None)
            return
        assert self.hosts
        sources = [each for each in self.hosts.current if each.runtime.image(content)]
        if not sources:
            raise Failed(f"{host.name} can't be brought to {live.release}: no host has its image any more")
        host.runtime.load(sources[0].runtime.save(content))

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
        with self._locked("proxy boot", options, emit) as lock:
            lock.check()
            self.runtime.prepare()
            new = self.proxy.boot([self.runtime.network])
            return f"{self.proxy.name} {'is made and runs' if new else 'runs'}"

    def reload_proxy(self, emit: Emit, options: Options) -> str:
        """The proxy has loaded its files as they stand. Raises Failed, and nothing was loaded, if it refuses them."""
        with self._locked("proxy reload", options, emit) as lock:
            lock.check()
            self.proxy.reload()
            return f"{self.proxy.name} has loaded its files, and its workers from before are leaving"

    def proxy_status(self) -> dict[str, Any]:
        """What the proxy says of itself and of this service."""
        state, settings = self.proxy.observe(), self.settings.proxy
        record = state.record
        return {
            "name": self.proxy.name,
            "kind": settings.kind,
            "where": settings.where,
            "version": state.version,
            "exists": state.exists,
            "running": state.running,
            "listen": settings.listen,
            "url": settings.url,
            "switch": state.switch,
            "service": self.settings.service,
            "colour": str(state.colour) if state.colour else None,
            "record": asdict(record) if record else None,
        }

    def down(self, emit: Emit, options: Options) -> list[str]:
        """Nothing of this service is left but its images; the proxy stays while it serves another. Says what went."""
        with self._locked("down", options, emit) as lock:
            self._look(lambda: observe(self.runtime, self.proxy), lock, emit)
            gone = [name for colour in Colour for name in self.runtime.remove(colour)]
            gone += [*self.runtime.remove_one_shots(), *self.proxy.remove(), *self.runtime.remove_network()]
            self._forget(self.runtime.begun())
            return [*gone, *(self.history.remove() if self.history else [])]

    def _run(
        self,
        doing: str,
        look: Callable[[], Observed],
        planner: Planner,
        options: Options,
        emit: Emit,
        *,
        recovery_suffices: bool = False,
    ) -> dict[str, Any]:
        _ = self.settings.pair  # refused before anything is changed
        run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
        host = self.runtime.name
        start = self.start = Start(time.monotonic(), datetime.now(UTC), Holder.me(doing).who)

        threading.Thread(target=_warm_up, name="imports", daemon=True).start()

        telling = threading.Lock()

        def tell(event: Event) -> None:
            event = replace(event, at=max(0.0, time.monotonic() - event.seconds - start.clock))
            # Who read the output has gone, or its disk is full: the run and its undo go on.
            with telling, suppress(OSError):
                if event.state not in PASSING:
                    self.events.append(event)
                emit(event)

        with (
            interrupts() as state,
            self._locked(doing, options, tell, state, run_id) as lock,
            self._traced(run_id),
        ):
            for name in self.runtime.remove_one_shots():  # of a run that was killed: we hold the lock
                tell(Event("recover", "progress", host, detail=f"removed {name}, which a killed run had left"))
            if self.hosts:
                self.hosts.emit = tell
            observed = self._look(look, lock, tell).apart_from(run_id)
            killed = observed.begun
            if observed.unfinished:
                unfinished, before = observed.unfinished, observed
                words = self._recover(observed, lock, tell)
                observed = replace(look(), begun=())
                if not observed.proxy.edits:  # with traffic at stake they did not keep it from being mended
                    self._tell_of_edits(before, tell)
                if recovery_suffices and observed.live and observed.live.colour is before.settled_colour:
                    self._finish(observed, lock, tell)
                    self._forget(killed)
                    self._bring(observed, lock, tell)
                    plan = planning.plan_rollback(self.settings, observed, observed.live.release.name)
                    plan = replace(plan, reason=f"the unfinished run {unfinished} was undone: {words}")
                    return self._told(self._receipt(run_id, plan, "done", observed), tell)
            self._forget(killed)
            if self._bring(observed, lock, tell) or self._renew(observed, lock, tell):
                observed = look().apart_from(run_id)
            observed = self._with_lacking(observed)
            plan = planner(observed)
            if plan.unchanged:
                return self._receipt(run_id, plan, self._finish(observed, lock, tell), observed)
            if any(step.step == "start" for step in plan.steps):
                self.secrets()  # refused before anything is changed
            if plan.action == "deploy" and not options.overwrite_edits:
                self._refuse_edits(observed)
            self._tell_of_edits(observed, tell)
            hosts = list(observed.hosts) if len(observed.hosts) > 1 else [host]
            tell(Event("plan", "planned", host, data={"run": run_id, **plan.outline(), "hosts": hosts}))

            def heed() -> None:
                state.heed()
                lock.check()

            witness = self._witness(plan, observed) if options.witness else None
            run = Run(
                id=run_id,
                settings=self.settings,
                runtime=self.runtime,
                proxy=self.proxy,
                observed=observed,
                plan=plan,
                release=plan.release,
                emit=tell,
                registry=self.registry,
                overwrite=options.overwrite,
                witness=witness,
                heed=heed,
            )
            if self.hosts:
                self.hosts.verify = partial(verify, run)
            if self.settings.bake.compares and any(step.step == "bake" for step in plan.steps):
                run.comparison = Comparison(self.settings.bake, plan, self.proxy, witness)
            try:
                with (
                    self._recorded(observed, tell),
                    counts_told(witness if options.counts else None, host, tell),
                ):
                    execute(run, lock, state)
                run.leftover += self._settle(lock, tell)
            except Exception as error:
                raise self._failure(error, run) from error
            finally:
                if witness:
                    witness.stop()
            return self._receipt_of(run, "done")

    @contextmanager
    def _traced(self, run: str) -> Iterator[None]:
        """Should the run be killed in here, whoever comes next finds that it had begun: a rollback then keeps what is
        live, and goes no further."""
        try:
            self.runtime.begin(run)
            yield
        finally:
            with suppress(Exception):  # what is left of it does no harm, and the next run takes it away
                self.runtime.ended(run)

    def _forget(self, runs: Sequence[str]) -> None:
        if runs:
            self.runtime.ended(*runs)

    def _refuse_edits(self, observed: Observed) -> None:
        """Raises Failed, nothing having been changed, if a person has edited what the run would write over."""
        if not observed.proxy.edits:
            return
        serves = f"{observed.live.release} still serves" if observed.live else "nothing is served, as before"
        raise Failed(
            f"a person has edited {self.settings.service}'s files in {self.proxy.name}, and this deploy would write"
            f" over that; nothing was changed, and {serves}\n{observed.proxy.edits}",
            hint="move the edit to [proxy] in the settings or to a file of your own, then deploy again with"
            " --overwrite-edits, which keeps a copy",
        )

    def _tell_of_edits(self, observed: Observed, tell: Emit) -> None:
        edits, where = observed.proxy.edits, observed.proxy.kept_in
        if edits:
            words = f"a person's edit is written over; a copy of the file is kept in {where}\n{edits}"
            tell(Event("proxy", "progress", self.runtime.name, detail=words))

    def _recover(self, observed: Observed, lock: AnyLock, tell: Emit) -> str:
        """The unfinished run is undone, or finished; see `recover`. Says what was done."""
        host, started = self.runtime.name, time.monotonic()
        lock.check()
        tell(Event("recover", "started", host, detail=f"the run {observed.unfinished} ended before its commit"))
        words = recover(self.settings, self.runtime, self.proxy, observed)
        tell(Event("recover", "done", host, time.monotonic() - started, words))
        return words

    def _finish(self, observed: Observed, lock: AnyLock, tell: Emit) -> str:
        """What a run left that ended after its commit is gone. Gives the result of a run that had only that to do."""
        left = planning.leftover(self.settings, observed)
        if left is None:
            return "unchanged"
        host, started = self.runtime.name, time.monotonic()
        lock.check()
        tell(Event("recover", "started", host, detail=f"{left.release} ({left.colour}) was left over"))
        words = finish(self.settings, self.runtime, self.proxy, left)
        tell(Event("recover", "done", host, time.monotonic() - started, words))
        return "done"

    @contextmanager
    def _recorded(self, observed: Observed, tell: Emit) -> Iterator[None]:
        """GitLab has a deployment of what happens inside, if it is to have one and does not make one itself."""
        if self.project is None or records_itself():
            yield
            return
        source = observed.image.source if observed.image else checked_out(self.settings.context)

        def say(words: str) -> None:
            tell(Event("gitlab", "progress", self.runtime.name, detail=words))

        settings = self.settings
        with deployment(self.project, settings.gitlab.environment, settings.proxy.url, source, say):
            yield

    def _failure(self, error: Exception, run: Run) -> BluegreenError:
        """The error with what is true now and the receipt of the run that it ended."""
        if not isinstance(error, BluegreenError):
            error = engine_failed(error)
        if run.witness:
            run.witness.stop()
        undone = not isinstance(error, NeedsPerson)
        result = "undone" if undone else "failed"
        call_on_failure(run, result, error.message)
        error.receipt = self._receipt_of(run, result, error.message)
        if undone:
            error.message += "; " if isinstance(error, Unexpected) else "\n"
            error.message += f"{run.old.release} still serves" if run.old else "nothing is served, as before"
        return error

    def _receipt(self, run_id: str, plan: Plan, result: str, observed: Observed, **more: Any) -> dict[str, Any]:
        proxy = self.settings.proxy
        return receipt(
            self.settings.service,
            run_id,
            plan,
            result,
            self.events,
            probe=self.settings.probe_kind,
            start=self.start,
            proxy={
                "kind": proxy.kind,
                "version": observed.proxy.version,
                "url": proxy.url,
                "switch": observed.proxy.switch,
            },
            **more,
        )

    def _told(self, receipt: dict[str, Any], tell: Emit, witness: Witness | None = None) -> dict[str, Any]:
        """The receipt, once everybody who is to be told of the run has been. Whoever can't be is only a warning."""
        listeners: dict[str, Callable[[], object]] = {}
        if self.history:
            listeners["history"] = partial(self.history.keep, receipt)
        listeners |= notify.listeners(self.webhooks, self.settings, receipt)
        if self.start:
            records = witness.records if witness else list
            listeners |= metrics.listeners(self.settings, receipt, self.start.clock, records)
        tell_all(listeners, lambda who, words: tell(Event(who, "progress", self.runtime.name, detail=words)))
        return receipt

    def _receipt_of(self, run: Run, result: str, reason: str = "") -> dict[str, Any]:
        receipt = self._receipt(
            run.id,
            run.plan,
            result,
            run.observed,
            release=run.release,
            witness=run.witness,
            cut=run.cut,
            websockets=(run.websockets_open, run.websockets_closed),
            bake=run.comparison.summary() if run.comparison else None,
            probes=run.probes,
            leftover=run.leftover,
            warnings=run.warnings,
            reason=reason,
        )
        return self._told(receipt, run.emit, run.witness)

    def _witness(self, plan: Plan, observed: Observed) -> Witness:
        """A witness that is at work if there is somebody to answer. Raises Failed if it can't reach the proxy."""
        settings = self.settings
        releases = [plan.release, *([plan.from_release] if plan.from_release else [])]
        # In tcp mode a connection that is kept alive stays with the old release, which would wait for it to end.
        kept = settings.witness.connections if settings.proxy.mode == "http" else 0
        witness = Witness(
            settings.proxy.url,
            settings.probe.path,
            host=public_host(settings),
            expected={release.name: settings.expected_body(release) for release in releases},
            rate=settings.witness.rate,
            connections=kept,
            timeout=settings.witness.timeout,
            ca=settings.ca,
            kind=settings.probe_kind,
        )
        if observed.live:
            reason = witness.reachable()
            if reason:
                raise Failed(
                    f"the witness can't reach the proxy: {reason}; {observed.live.release} still serves",
                    hint="set proxy.url to where this machine reaches it, or pass --no-witness",
                )
            witness.start()
        return witness

    def _preview(self, observed: Observed, planner: Planner) -> Plan:
        observed = self._with_lacking(observed)
        unfinished = observed.unfinished
        plan = planner(planning.after_recovery(observed) if unfinished else observed)
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

    def _with_lacking(self, observed: Observed) -> Observed:
        """With which of several hosts have not got the image."""
        return replace(observed, lacking=self.runtime.lacking(observed.image.reference)) if observed.image else observed

    def _observe_for_deploy(self, name: str, *, build: bool, preview: bool = False) -> Observed:
        reference = self.settings.reference(Release(name))
        published = self.registry.digest(reference) if self.registry and not build else ""
        observed = observe(
            self.runtime, self.proxy, self.settings.content(published) if published else reference, published
        )
        return replace(observed, secrets_changed=self._secrets_changed(observed, preview=preview))

    def _secrets_changed(self, observed: Observed, *, preview: bool) -> bool | None:
        """Whether what is live has not the app's secrets as they are now. Where those can't be had, a preview does
        without: None. Raises SettingsError otherwise."""
        if not self.settings.app.secrets:
            return False
        live = (planning.after_recovery(observed) if observed.unfinished else observed).live
        try:
            self.secrets()
            return live is not None and not self.runtime.has_secrets(live.colour)
        except BluegreenError:
            if preview:
                return None
            raise

    def _observe_for_scale(self) -> Observed:
        observed = observe(self.runtime, self.proxy)
        live = (planning.after_recovery(observed) if observed.unfinished else observed).live
        if live is None:
            return observed
        return replace(observed, image=self._kept(live.release), published=self._published(live.release))

    def _observe_for_rollback(self, name: str | None) -> Observed:
        observed = observe(self.runtime, self.proxy)
        settled = planning.after_recovery(observed) if observed.unfinished else observed
        target = planning.rollback_target(settled, name)
        if target is None or is_standby(settled, target):
            return observed
        return replace(observed, image=self._kept(target), published=self._published(target))

    def _kept(self, release: Release) -> Image | None:
        """The image that the engine has of a release that ran: also of one from before there was a registry."""
        if not release.digest:
            return self.runtime.image(self.settings.reference(release))
        image = self.runtime.image(self.settings.content(release.digest)) or self.runtime.image(release.digest)
        return replace(image, digest=release.digest) if image else None

    def _published(self, release: Release) -> str:
        """The digest under which the registry has what the engine has not; empty if it has not either."""
        if self.registry is None or self._kept(release):
            return ""
        reference = self.settings.content(release.digest) if release.digest else self.settings.reference(release)
        return self.registry.digest(reference)

    def _readiness(self, observed: Observed) -> dict[str, Any]:
        target = planning.rollback_target(observed)
        if target is None:
            why = f"{observed.live.release} has no release before it" if observed.live else "nothing is live"
            return {"release": None, "ready": False, "how": None, "why": why}
        floor = planning.floor_above(observed, target)
        if floor:
            return {"release": target.name, "ready": False, "how": None, "why": planning.beyond(floor)}
        standby = observed.standby
        if standby and planning.same(standby.release, target):
            return {"release": target.name, "ready": True, "how": "standby", "why": f"{standby.colour} runs it"}
        if self._kept(target):
            return {"release": target.name, "ready": True, "how": "image", "why": "its image is kept"}
        try:
            if self._published(target):
                return {"release": target.name, "ready": True, "how": "registry", "why": "the registry has its image"}
            why = f"its image {target.digest[:19]} is gone"
        except BluegreenError as error:
            why = f"its image {target.digest[:19]} is not on the engine, and {error.message}"
        return {"release": target.name, "ready": False, "how": None, "why": why}

    def _lock(self) -> AnyLock:
        if self.swarm:
            return SwarmLock(Managers(self.swarm.engines), self.settings.service)
        if self.hosts:
            return HostsLock(self.hosts)
        return Lock(self.client, self.settings.service, self.settings.proxy.image)

    @contextmanager
    def _locked(
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
        lock = self._lock()

        def waiting(holder: Holder) -> None:
            emit(Event("lock", "progress", self.runtime.name, detail=f"waiting for {holder}"))

        sleep = state.sleep if state else time.sleep
        lock.take(doing, run=run, wait=options.wait, waiting=waiting, sleep=sleep)
        try:
            yield lock
        finally:
            lock.release()

    def _look(self, look: Callable[[], Observed], lock: AnyLock, emit: Emit) -> Observed:
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


def _warm_up() -> None:
    """The later steps' libraries are loaded while the engine works on what it was asked: a rollback is urgent."""
    import httpx  # noqa: F401
    import jinja2  # noqa: F401
    import tenacity  # noqa: F401


def _slot(slot: Slot, observed: Observed) -> dict[str, Any]:
    record = observed.proxy.record
    return {
        "colour": str(slot.colour),
        "release": slot.release.name,
        "image": slot.image,
        "digest": slot.release.digest,
        "floor": slot.release.floor,
        "since": record.at if record and record.to_colour is slot.colour and record.at else slot.since,
        "replicas": {"running": slot.running, "wanted": slot.wanted},
    }
