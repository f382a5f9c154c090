"""Every step, with what it does and how it is undone, top to bottom; then the recipes, which are the whole product."""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from bluegreen.bake import Comparison
from bluegreen.drain import drain
from bluegreen.errors import Failed, NeedsPerson
from bluegreen.hooks import Output, call_here, conclude, short
from bluegreen.hosts import HostsRegistry
from bluegreen.model import Colour, Endpoint, Event, Observed, OneShot, Plan, Release, Replica, Slot, SwitchRecord
from bluegreen.probe import ask_proxy, ask_replica, dead, last_lines, wait_until_right
from bluegreen.proxies import Proxy, Upstreams
from bluegreen.prune import outdated
from bluegreen.registry import Registry
from bluegreen.runtimes import Runtime
from bluegreen.runtimes.confined import loosened_by
from bluegreen.settings import Settings
from bluegreen.witness import Witness
from bluegreen.words import plain

AT_ONCE = 4
"""In how many groups the replicas of a host are probed at once, if they are more than so many."""

VERIFY_TIMEOUT = 15.0
"""Seconds in which the proxy must answer with the new version; a switch takes effect in well under one."""

BAKE_INTERVAL = 0.2
"""Seconds between two looks at a release that bakes."""

OUT_OF_MEMORY = 2.0
"""Seconds after the end of a container in which the engine learns that its memory limit was why."""

TAKE_BACK = 15.0
"""Seconds in which an old replica must answer right: after a restart of the engine it has only just been started."""

REASON = 4000
"""How many characters of why a run failed the hook on_failure is given."""


@dataclass
class Run:
    """One deploy or rollback under way: what it works with, and what it has made that an undo takes away."""

    id: str
    settings: Settings
    runtime: Runtime
    proxy: Proxy
    observed: Observed
    plan: Plan
    release: Release
    emit: Callable[[Event], None]
    registry: Registry | HostsRegistry | None = None
    overwrite: bool = False
    """Whether a release name that the registry has with another content may be given to this one."""
    witness: Witness | None = None
    comparison: Comparison | None = None
    """How the new release does beside the old one, where the settings have limits for that."""
    made_network: bool = False
    made_proxy: bool = False
    record: SwitchRecord | None = None
    """The record of its switch."""
    probes: list[float] = field(default_factory=list)
    """The seconds that each answer to the probe took, wrong ones included."""
    left: int = 0
    """Connections that were at work on the old colour when the drain gave up."""
    cut: int = 0
    """Those of them that the old colour's end cut."""
    websockets_open: int = 0
    """WebSockets that were open to the old colour at the switch."""
    websockets_closed: int = 0
    """Those of them that the old colour's end closed."""
    leftover: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """What went wrong and changes nothing: hooks that failed when all was decided."""
    heed: Callable[[], None] = lambda: None
    """Raises what should end a step before its time: Ctrl-C or SIGTERM has come, or the lock is lost."""

    @property
    def old(self) -> Slot | None:
        """What was live before this run."""
        return self.observed.live

    @property
    def old_endpoints(self) -> tuple[Endpoint, ...]:
        """Where requests to the old colour may be: where it was when the run began and, if it is followed, is now."""
        if self.old is None:
            return ()
        now = self.runtime.endpoints(self.old.colour, self.settings.app.replicas) if self.old.follows else ()
        return tuple(dict.fromkeys((*self.old.endpoints, *now)))

    @property
    def image(self) -> str:
        """What the containers are made from: the content, not the tag, which may be moved."""
        if self.plan.action != "deploy" or not self.release.digest:
            return self.plan.image
        return self.settings.content(self.release.digest)

    def upstreams(self) -> Upstreams:
        """Both slots, each with the replicas that it has or is about to have."""
        wanted = self.settings.app.replicas
        old = self.old
        slots: dict[Colour, tuple[Endpoint, ...]] = {
            colour: self.runtime.endpoints(colour, wanted) for colour in Colour
        }
        if old and not old.follows:
            slots[old.colour] = old.endpoints
        slots[self.plan.colour] = tuple(replica.endpoint for replica in self.new_replicas())
        return slots

    def prepare(self) -> None:
        """The service's network exists, and whether it is of this run's making is known."""
        before = self.made_network
        self.made_network = before or not self.observed.slots  # should it end half way
        self.made_network = self.runtime.prepare() or before

    def new_replicas(self) -> tuple[Replica, ...]:
        return self.runtime.replicas(self.plan.colour)

    def look_alive(self) -> tuple[Replica, ...]:
        """Every replica of the new colour, which all run. Raises Failed with the last words of one that does not."""
        replicas = self.new_replicas()
        for replica in replicas:
            if not replica.running:
                raise dead(self.settings, self.release, self._why_ended(replica), self.runtime.log(replica))
        if not replicas:
            raise Failed(f"the containers of {self.release} are gone")
        return replicas

    def _why_ended(self, replica: Replica) -> Replica:
        """The replica as the engine knows it once it has had the time to hear of its memory limit."""
        deadline = time.monotonic() + OUT_OF_MEMORY
        while replica.exit_code == 137 and not replica.out_of_memory and time.monotonic() < deadline:
            time.sleep(BAKE_INTERVAL)
            replica = next((each for each in self.new_replicas() if each.id == replica.id), replica)
        return replica

    def progress(self, step: str, host: str = "") -> Callable[[str], None]:
        return lambda words: self.emit(Event(step, "progress", host or self.runtime.name, detail=words))

    def counts(self, step: str, host: str = "") -> Callable[[Mapping[str, Any]], None]:
        return lambda figures: self.emit(Event(step, "counts", host or self.runtime.name, data=figures))


class Step(ABC):
    """One step of a run. `do` is idempotent; `undo` tolerates a `do` that never ran or got half way."""

    name = ""
    waits = False
    """Whether it makes nothing that a Ctrl-C in the middle could leave behind, so that it may end there."""
    output = ""
    """The last lines of what it called, for the receipt."""

    @staticmethod
    @abstractmethod
    def describe(plan: Plan, settings: Settings, observed: Observed) -> str:
        """What the step will do in a run of this plan, or empty if the run has no need of it."""

    @abstractmethod
    def do(self, run: Run) -> str:
        """Does it, and says in a few words what came of it."""

    def undo(self, run: Run) -> str:
        """Puts back what `do` changed, and says what; empty if there was nothing."""
        return ""


class Build(Step):
    name = "build"
    waits = True

    @staticmethod
    def describe(plan: Plan, settings: Settings, observed: Observed) -> str:
        if observed.image or observed.published:
            return ""
        return f"build {plan.image} from {settings.image.context}"

    def do(self, run: Run) -> str:
        image = run.runtime.build(run.release, run.progress(self.name))
        run.release = replace(run.release, digest=image.digest)
        return f"{image.reference}, {image.size / 1e6:.1f} MB"


class Push(Step):
    name = "push"
    waits = True

    @staticmethod
    def describe(plan: Plan, settings: Settings, observed: Observed) -> str:
        return "" if observed.published or not settings.registry.server else f"push {plan.image}"

    def do(self, run: Run) -> str:
        assert run.registry is not None
        digest = run.registry.push(
            run.plan.image, run.progress(self.name), overwrite=run.overwrite, counts=run.counts(self.name)
        )
        run.release = replace(run.release, digest=digest)
        return f"{run.plan.image} is {digest[:19]}"


class Pull(Step):
    name = "pull"
    waits = True

    @staticmethod
    def describe(plan: Plan, settings: Settings, observed: Observed) -> str:
        if observed.published and not observed.image:
            return f"pull {settings.content(plan.release.digest)}"
        pushed = settings.registry.server and not observed.published
        return f"pull {plan.image} on every host" if pushed and len(observed.hosts) > 1 else ""

    def do(self, run: Run) -> str:
        assert run.registry is not None
        content = run.settings.content(run.release.digest)
        run.registry.pull(content, run.release.name, run.progress(self.name), run.counts(self.name))
        return f"{run.release} is here as {run.release.digest[:19]}"


class Copy(Step):
    """Where there is no registry, the images of several hosts travel from one to the others."""

    name = "copy"
    waits = True

    @staticmethod
    def describe(plan: Plan, settings: Settings, observed: Observed) -> str:
        engines = max(1, len(settings.hosts)) + len(settings.swarm.managers) if settings.runtime == "swarm" else 1
        alone = len(observed.hosts) == 1 and engines < 2
        if settings.registry.server or alone or (observed.image and not observed.lacking):
            return ""
        return f"copy {plan.image} to {', '.join(observed.lacking or observed.hosts[1:]) or 'every engine'}"

    def do(self, run: Run) -> str:
        run.runtime.copy(run.image, run.progress(self.name))
        return "every host has it"


class Start(Step):
    name = "start"

    @staticmethod
    def describe(plan: Plan, settings: Settings, observed: Observed) -> str:
        idle = observed.slots.get(plan.colour)
        if plan.action == "rollback" and idle and is_standby(observed, plan.release):
            return ""
        count = settings.app.replicas
        where = f" on each of {', '.join(observed.hosts)}" if len(observed.hosts) > 1 else ""
        where = " in the swarm" if settings.runtime == "swarm" else where
        words = f"start {count} container{'s' if count > 1 else ''}{where} of {plan.release} as {plan.colour}"
        if idle and idle.scaled_to_none and idle.release.is_same(plan.release):
            words += ", which is scaled to none"
        elif idle:
            words += f", in the place of {idle.release}"
        if not observed.proxy.exists:
            words += f", and {settings.proxy.kind} on {settings.proxy.listen}"
        return words

    def do(self, run: Run) -> str:
        run.prepare()
        run.made_proxy = not run.observed.proxy.exists
        run.proxy.boot([run.runtime.network])
        if run.comparison:
            run.comparison.begin()
        idle = run.observed.slots.get(run.plan.colour)
        if idle and idle.running:  # a run that ended before its drain may have left it at work
            endpoints = [replica.endpoint for replica in idle.replicas if replica.running]
            drain(run.proxy, endpoints, timeout=run.settings.retire.drain_timeout, progress=run.progress(self.name))
        replicas = run.runtime.start(run.plan.colour, run.release, run.image, run.id, run.plan.number, run.plan.before)
        return ", ".join(replica.name for replica in replicas)

    def undo(self, run: Run) -> str:
        if run.record and run.old:
            proxy = run.proxy.observe()
            if proxy.exists and (not proxy.running or proxy.colour is run.plan.colour):
                raise NeedsPerson(f"{run.release} still carries the traffic, so it runs on", hint="bluegreen status")
        gone = run.runtime.remove(run.plan.colour, run=run.id)
        if run.made_proxy:
            gone += run.proxy.remove()
        if run.made_network:
            gone += run.runtime.remove_network()
        return f"removed {', '.join(gone)}" if gone else ""


class Probe(Step):
    name = "probe"
    waits = True

    @staticmethod
    def describe(plan: Plan, settings: Settings, observed: Observed) -> str:
        if settings.probe_kind == "tcp":
            return f"connect until it is accepted {settings.probe.successes} times in a row"
        expected = settings.expected_body(plan.release)
        answer = f"{expected!r}" if expected is not None else "2xx"
        return f"ask {settings.probe.path} until it answers {answer} {settings.probe.successes} times in a row"

    def do(self, run: Run) -> str:
        of_hosts: dict[str, list[Replica]] = {}
        for replica in run.look_alive():
            of_hosts.setdefault(replica.endpoint.host, []).append(replica)
        groups = [group for replicas in of_hosts.values() for group in _shared_out(replicas)]
        if len(groups) == 1:
            return f"ready after {self._ready(run, groups[0], run.look_alive)} tries"
        return f"ready after {self._at_once(run, groups)} tries"

    def _ready(self, run: Run, replicas: Sequence[Replica], look: Callable[[], object]) -> int:
        """Each of them is ready, after so many tries in all."""
        tries = 0
        for replica in replicas:
            try:
                tries += wait_until_right(
                    run.settings,
                    run.release,
                    partial(self._ask, run, replica),
                    timeout=run.settings.probe.timeout,
                    look=look,
                    progress=run.progress(self.name, replica.endpoint.host),
                    counts=run.counts(self.name, replica.endpoint.host),
                )
            except Failed as error:
                if "the last lines of" in error.message:
                    raise
                log = run.runtime.log(replica)
                hint = loosened_by(log, run.settings.app)
                raise Failed(f"{error.message}\n{last_lines(replica, log)}", hint=hint) from error
        return tries

    def _ask(self, run: Run, replica: Replica) -> str:
        started = time.monotonic()
        try:
            return ask_replica(run.settings, run.release, run.proxy, replica.endpoint)
        finally:
            run.probes.append(time.monotonic() - started)

    def _at_once(self, run: Run, groups: Sequence[Sequence[Replica]]) -> int:
        """The same of several groups at once, while this thread looks whether all of them are alive."""
        over = threading.Event()

        def look() -> None:
            if over.is_set():
                raise Failed("it is over")

        with ThreadPoolExecutor(len(groups)) as pool:
            asking = [pool.submit(self._ready, run, replicas, look) for replicas in groups]
            try:
                while (waited := wait(asking, timeout=0.1, return_when=FIRST_EXCEPTION)).not_done:
                    for each in waited.done:
                        each.result()
                    run.look_alive()
                return sum(each.result() for each in asking)
            finally:
                over.set()


def _shared_out(replicas: Sequence[Replica]) -> list[Sequence[Replica]]:
    """The replicas of one host in groups that are probed at once: one group while they are few."""
    return [replicas] if len(replicas) <= AT_ONCE else [replicas[each::AT_ONCE] for each in range(AT_ONCE)]


class Switch(Step):
    name = "switch"

    @staticmethod
    def describe(plan: Plan, settings: Settings, observed: Observed) -> str:
        origin = f"from {plan.from_colour} ({plan.from_release}) " if plan.from_release else ""
        return f"{observed.proxy.switch}: all new requests {origin}to {plan.colour} ({plan.release})"

    def do(self, run: Run) -> str:
        old = run.old
        upstreams = run.upstreams()
        if run.comparison:
            run.comparison.switching()  # before a reload, with which some proxies begin their counters anew
        run.proxy.prepare(upstreams, old.colour if old else None)
        run.record = SwitchRecord(
            number=run.plan.number,
            run=run.id,
            from_colour=old.colour if old else None,
            to_colour=run.plan.colour,
            committed=False,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        if run.witness:
            run.witness.switching()
        run.proxy.switch(run.record, upstreams)
        if run.witness:
            run.witness.switched(run.release.name)
            run.witness.start()  # at a first deploy there was nobody to answer before
        if run.comparison:
            run.comparison.switched()
        run.websockets_open = run.proxy.websockets(run.old_endpoints) if old else 0
        return f"{run.plan.colour} is in use"

    def undo(self, run: Run) -> str:
        record, old = run.record, run.old
        if record is None:
            return ""
        if old is None:
            run.proxy.remove()
            return f"{run.settings.service} is out of the proxy"
        back = put_back(run.settings, run.runtime, run.proxy, replace(record, number=record.number + 1), old)
        if run.witness:
            run.witness.switched(old.release.name)
        drain(
            run.proxy,
            [replica.endpoint for replica in run.new_replicas() if replica.running],
            timeout=run.settings.retire.drain_timeout,
            progress=run.progress(self.name),
        )
        run.proxy.commit(back)
        return f"{old.colour} ({old.release}) is in use again"


class Verify(Step):
    name = "verify"
    waits = True

    @staticmethod
    def describe(plan: Plan, settings: Settings, observed: Observed) -> str:
        if settings.probe_kind == "tcp":
            return f"connect through the proxy until it is accepted {settings.probe.successes} times in a row"
        return f"ask for {settings.probe.path} through the proxy until {plan.release} answers"

    def do(self, run: Run) -> str:
        tries = verify(run, run.proxy)
        run.look_alive()  # the others answer for one that has just died
        judge(run)
        if run.comparison:
            run.comparison.asked(tries)
        who = "the proxy's port" if run.settings.probe_kind == "tcp" else f"{run.release}"
        return f"{who} answered {run.settings.probe.successes} times in a row, after {tries} tries"


def verify(run: Run, proxy: Proxy) -> int:
    """The new release answers through the proxy, after so many tries. Raises Failed if it does not, or is dead."""

    def look() -> None:
        run.look_alive()
        judge(run)

    return wait_until_right(
        run.settings,
        run.release,
        partial(ask_proxy, run.settings, run.release, proxy),
        timeout=VERIFY_TIMEOUT,
        look=look,
    )


class Bake(Step):
    name = "bake"
    waits = True

    @staticmethod
    def describe(plan: Plan, settings: Settings, observed: Observed) -> str:
        if not settings.bake.seconds:
            return ""
        limits = {"max_error_ratio": settings.bake.max_error_ratio, "max_p99_ms": settings.bake.max_p99_ms}
        within = ", ".join(f"{key} = {limit:g}" for key, limit in limits.items() if limit is not None)
        return f"watch {plan.release} for {settings.bake.seconds:g} s" + (f", within {within}" if within else "")

    def do(self, run: Run) -> str:
        if run.settings.bake.max_p99_ms is not None and run.witness is None:
            run.progress(self.name)("without a witness nobody measures bake.max_p99_ms")
        deadline = time.monotonic() + run.settings.bake.seconds
        latest = deadline + run.settings.witness.timeout
        # The old colour takes what the new one refuses, so that clients may see nothing of its end: each is asked too.
        refused: dict[str, str] = {}
        while True:
            over = time.monotonic() >= deadline
            run.look_alive()
            judge(run)
            compare(run, over=over)
            for replica in run.new_replicas():
                reason = ask_replica(run.settings, run.release, run.proxy, replica.endpoint)
                if reason and replica.name in refused:
                    run.look_alive()
                    raise Failed(
                        f"{replica.name} does not answer right any more: {reason}\n"
                        + last_lines(replica, run.runtime.log(replica))
                    )
                refused = {name: why for name, why in refused.items() if name != replica.name}
                if reason:
                    refused[replica.name] = reason
            # On a busy machine a short bake might end before a witness that began with it has heard anything.
            heard = run.witness is None or run.witness.counts()["total"] or time.monotonic() >= latest
            if over and not refused and heard:
                break
            time.sleep(BAKE_INTERVAL)
        return "nothing went wrong"


class Drain(Step):
    name = "drain"

    @staticmethod
    def describe(plan: Plan, settings: Settings, observed: Observed) -> str:
        if not plan.from_release:
            return ""
        limit = settings.retire.drain_timeout
        return f"wait until nothing is in flight to {plan.from_release}, {limit:g} s at most"

    def do(self, run: Run) -> str:
        limit = run.settings.retire.drain_timeout
        run.left = drain(run.proxy, run.old_endpoints, timeout=limit, progress=run.progress(self.name))
        return f"{run.left} still in flight after {limit:g} s" if run.left else "nothing in flight"


class Retire(Step):
    name = "retire"

    @staticmethod
    def describe(plan: Plan, settings: Settings, observed: Observed) -> str:
        if not plan.from_release:
            return ""
        if settings.retire.old == "standby":
            if settings.scales_standby and observed.live and observed.live.follows:
                return f"scale {plan.from_release} ({plan.from_colour}) to none, as standby"
            return f"keep {plan.from_release} running as standby"
        return f"stop and remove {plan.from_release} ({plan.from_colour})"

    def do(self, run: Run) -> str:
        old = run.old
        assert old is not None
        standby, scaled = run.settings.retire.old == "standby", run.settings.scales_standby and old.follows
        if scaled or not standby:
            run.cut = run.left
            run.websockets_closed = run.proxy.websockets(run.old_endpoints) if run.left else 0
        if not standby:
            return f"removed {', '.join(run.runtime.remove(old.colour))}"
        run.runtime.stand_by(old.colour)
        return f"{old.release} {'is on standby, scaled to none' if scaled else 'runs on as standby'}"


class Prune(Step):
    name = "prune"

    @staticmethod
    def describe(plan: Plan, settings: Settings, observed: Observed) -> str:
        keep = settings.retire.keep
        return f"remove the images of releases before the last {keep}" if outdated(plan, keep) else ""

    def do(self, run: Run) -> str:
        needed = {run.release.digest, *(slot.release.digest for slot in run.observed.slots.values())}
        doomed = outdated(run.plan, run.settings.retire.keep) - needed - run.runtime.needed_elsewhere()
        names = [each.name for each in run.runtime.images() if each.digest in doomed]
        gone = [name for name in names if run.runtime.remove_image(name)]
        return f"removed {', '.join(gone)}" if gone else "nothing to remove"


class Hook(Step):
    """A command of the user's, called at the moment that the name tells."""

    @classmethod
    def describe(cls, plan: Plan, settings: Settings, observed: Observed) -> str:
        hook = settings.hooks.of(cls.name, plan.action)
        if hook is None:
            return ""
        return f"run {short(hook.words)}" + (f" in a container of {plan.release}" if hook.run == "image" else "")

    def do(self, run: Run) -> str:
        hook = run.settings.hooks.of(self.name, run.plan.action)
        assert hook is not None
        environment, output = self.environment(run), Output(run.progress(self.name))
        try:
            if hook.run == "image":
                run.prepare()
                job = OneShot(self.name, hook.command, run.release, run.image, run.id, hook.timeout, environment)
                code = run.runtime.run_once(job, output.feed, lambda: self.watch(run))
            else:
                code = call_here(self.name, hook, run.settings, environment, output, lambda: self.watch(run))
        finally:
            output.close()
            self.output = output.last
        return conclude(self.name, hook, code, output)

    def undo(self, run: Run) -> str:
        hook = run.settings.hooks.of(self.name, run.plan.action)
        gone = run.runtime.remove_one_shots(run=run.id) if hook and hook.run == "image" else []
        return f"removed {', '.join(gone)}" if gone else ""

    def watch(self, run: Run) -> None:
        """Raises what ends the hook before its time."""
        run.heed()

    def environment(self, run: Run) -> dict[str, str]:
        """What the hook is told of the run."""
        return {
            "BLUEGREEN_HOOK": self.name,
            "BLUEGREEN_SERVICE": run.settings.service,
            "BLUEGREEN_ACTION": run.plan.action,
            "BLUEGREEN_RUN": run.id,
            # With those in whose hooks this run was started, as they all hold their locks.
            "BLUEGREEN_RUNS": f"{os.environ.get('BLUEGREEN_RUNS', '')} {run.id}".strip(),
            "BLUEGREEN_RELEASE": run.release.name,
            "BLUEGREEN_FROM": run.old.release.name if run.old else "",
            "BLUEGREEN_COLOUR": str(run.plan.colour),
            "BLUEGREEN_IMAGE": run.image,
            "BLUEGREEN_URL": run.settings.proxy.url,
        }


class PreBuild(Hook):
    name = "pre_build"

    @classmethod
    def describe(cls, plan: Plan, settings: Settings, observed: Observed) -> str:
        return super().describe(plan, settings, observed) if Build.describe(plan, settings, observed) else ""


class PreDeploy(Hook):
    name = "pre_deploy"

    def undo(self, run: Run) -> str:
        words = [super().undo(run)]
        if run.made_network:  # and no Start came to it, whose undo removes it with what stands on it
            words += run.runtime.remove_network()
        return ", ".join(filter(None, words))


class PostSwitch(Hook):
    name = "post_switch"

    def watch(self, run: Run) -> None:
        super().watch(run)
        judge(run)


class PostDeploy(Hook):
    """After the commit: it is not interrupted, as nothing else would be."""

    name = "post_deploy"

    def watch(self, run: Run) -> None:
        """It has its time."""


class OnFailure(Hook):
    """Called when a run has been undone, or could not be; in no recipe, as that is no part of a plan."""

    name = "on_failure"

    def __init__(self, result: str, reason: str) -> None:
        self._told = {"BLUEGREEN_RESULT": result, "BLUEGREEN_REASON": plain(reason)[:REASON]}

    def watch(self, run: Run) -> None:
        """It has its time, also when the run was interrupted."""

    def environment(self, run: Run) -> dict[str, str]:
        return super().environment(run) | self._told


Recipe = tuple[tuple[type[Step], ...], tuple[type[Step], ...]]

# Between the two parts lies the commit: before it all can be undone, after it the run only goes forward.
DEPLOY: Recipe = (
    (PreBuild, Build, Push, Pull, Copy, PreDeploy, Start, Probe, Switch, Verify, PostSwitch, Bake),
    (Drain, Retire, Prune, PostDeploy),
)
ROLLBACK: Recipe = (Pull, Copy, PreDeploy, Start, Probe, Switch, Verify, PostSwitch), (Drain, Retire, PostDeploy)
# The live release in another size, by way of the other colour: where it can't be chosen which replicas end.
SCALE: Recipe = (Pull, Copy, Start, Probe, Switch, Verify), (Drain, Retire)
RECIPES = {"deploy": DEPLOY, "rollback": ROLLBACK, "scale": SCALE}


def is_standby(observed: Observed, release: Release) -> bool:
    """Whether the standby is this release, ready to take traffic."""
    standby = observed.standby
    return standby is not None and not standby.scaled_to_none and standby.release.is_same(release)


def judge(run: Run) -> None:
    """Raises Failed if what the witness has seen takes the switch back."""
    reason = run.witness.verdict() if run.witness else None
    if reason:
        raise Failed(f"the witness saw harm done by {run.release}: {reason}")


def compare(run: Run, *, over: bool) -> None:
    """Raises Failed if the new release does worse than the old one and than the settings allow."""
    reason = run.comparison.look(over=over) if run.comparison else None
    if reason:
        raise Failed(reason)


def put_back(settings: Settings, runtime: Runtime, proxy: Proxy, record: SwitchRecord, old: Slot) -> SwitchRecord:
    """All new requests go to the old colour again, and the record that says so is given, to be committed once the
    other one is drained: requests on their way to it may need the old one to take them over.

    Raises NeedsPerson, having changed nothing, when the old colour does not pass its probe.
    """
    proxy.boot([])  # it may have died, which may be why the switch is taken back
    reason = unfit(settings, runtime, proxy, old)
    if reason:
        raise NeedsPerson(f"{old.release} can't take the traffic back: {reason}", hint="bluegreen status")
    return _switch_back(settings, runtime, proxy, record, old)


def _switch_back(settings: Settings, runtime: Runtime, proxy: Proxy, record: SwitchRecord, old: Slot) -> SwitchRecord:
    upstreams = _upstreams(settings, runtime)
    if not old.follows:
        upstreams[old.colour] = old.endpoints
    back = replace(record, from_colour=old.colour.other, to_colour=old.colour, committed=True, undone=True)
    proxy.switch(back, upstreams)
    return back


def _upstreams(settings: Settings, runtime: Runtime) -> dict[Colour, tuple[Endpoint, ...]]:
    """Where the replicas of each colour are, or would be if there were any."""
    slots = runtime.slots()
    standing = {colour: slots[colour].endpoints if colour in slots else () for colour in Colour}
    wanted = settings.app.replicas
    return {colour: found or runtime.endpoints(colour, wanted) for colour, found in standing.items()}


def unfit(settings: Settings, runtime: Runtime, proxy: Proxy, slot: Slot) -> str:
    """Why the slot can't carry the traffic: the first of its replicas that does not pass its probe; empty if all do.

    Of the tasks of a swarm one suffices that every proxy reaches: Swarm replaces those of a node that is lost or cut
    off, and the proxies leave them out until then.
    """
    replicas = runtime.replicas(slot.colour)
    if any(replica.endpoint.follows for replica in replicas):
        return _none_fit(settings, runtime, proxy, slot)
    deadline = time.monotonic() + TAKE_BACK
    for replica in replicas:
        while reason := ask_replica(settings, slot.release, proxy, replica.endpoint):
            if time.monotonic() >= deadline:
                return f"{replica.name}: {reason}"
            time.sleep(BAKE_INTERVAL)
    return "" if replicas else "its containers are gone"


def _none_fit(settings: Settings, runtime: Runtime, proxy: Proxy, slot: Slot) -> str:
    """Why not even one of the slot's replicas passes its probe; empty if one does."""
    deadline = time.monotonic() + TAKE_BACK
    while True:
        reasons = []
        for replica in runtime.replicas(slot.colour):
            reason = ask_replica(settings, slot.release, proxy, replica.endpoint)
            if not reason:
                return ""
            reasons.append(f"{replica.name}: {reason}")
        if time.monotonic() >= deadline:
            return "; ".join(reasons) or "its tasks are gone"
        time.sleep(BAKE_INTERVAL)


def recover(settings: Settings, runtime: Runtime, proxy: Proxy, observed: Observed) -> str:
    """The run that ended before its commit is undone, by whichever machine comes next. Says what was done.

    It is finished instead if it had switched, what was live before can't take the traffic back, or nothing was, and
    what it started passes its probe, or nothing runs at all. Raises NeedsPerson, having changed nothing, when it is
    not clear that what runs is better left or put back.
    """
    record, idle = observed.proxy.record, observed.idle
    if not observed.half_made:
        return "it had changed nothing yet"
    if record is None or record.committed:
        assert idle is not None
        gone = _end(settings, runtime, proxy, record, idle.colour, idle.run)
        return f"removed what {idle.release} had started ({', '.join(gone)})"
    old = observed.slots.get(record.from_colour) if record.from_colour else None
    switched = observed.proxy.colour is record.to_colour
    if switched:
        reason = unfit(settings, runtime, proxy, old) if old else "nothing else is there"
        if reason and (words := _stay(settings, runtime, proxy, observed, record, old, reason)):
            return words
    if record.from_colour is None:
        gone = proxy.remove() + runtime.remove(record.to_colour, run=record.run)
        return f"nothing was live before: removed {', '.join(gone)}"
    if old is None:  # somebody has removed it, and with it what was served
        back = replace(record, from_colour=record.to_colour, to_colour=record.from_colour, committed=True, undone=True)
        proxy.note(back)
        gone = runtime.remove(record.to_colour, run=record.run)
        return f"what was live has been removed; removed {', '.join(gone) or 'nothing'}"
    # Its traffic never left it, if it was not switched: then it needs no probe to keep it, and has been live all along.
    at = record.at if switched else ""
    back = _switch_back(settings, runtime, proxy, replace(record, number=record.number + 1, at=at), old)
    gone = _end(settings, runtime, proxy, back, record.to_colour, record.run)
    return f"{old.release} ({old.colour}) takes all traffic{'; removed ' + ', '.join(gone) if gone else ''}"


def _stay(
    settings: Settings,
    runtime: Runtime,
    proxy: Proxy,
    observed: Observed,
    record: SwitchRecord,
    old: Slot | None,
    reason: str,
) -> str:
    """The unfinished run is committed, as there is nothing to go back to for this `reason`, and what was done is said.

    Empty, and nothing was done, if it is a first one whose release does not pass its probe. See `recover` for what
    is raised.
    """
    new = observed.slots.get(record.to_colour)
    why = _unfit_whole(settings, runtime, proxy, new) if new else "its containers are gone"
    if why and record.from_colour is None:
        return ""
    who = f"{old.release}, " if old else ""
    also = f", and {new.release if new else record.to_colour} does not answer right either: {why}" if why else ""
    if why and old and any(slot.running for slot in observed.slots.values()):
        raise NeedsPerson(f"there is no going back: {who}{reason}{also}", hint="bluegreen status")
    # It passes its probe; or what was live is gone for good, or nothing runs: what comes next can only be better.
    if not observed.proxy.everywhere:
        proxy.boot([runtime.network])
        proxy.switch(record, _upstreams(settings, runtime))
    runtime.keep(record.to_colour)
    proxy.commit(replace(record, committed=True))
    return f"{new.release if new else 'what was'} ({record.to_colour}) stays live: {who}{reason}{also}"


def finish(settings: Settings, runtime: Runtime, proxy: Proxy, idle: Slot) -> str:
    """What a run that ended after its commit had yet to remove, or to scale to none, is drained, and has ended. Says
    what that was."""
    _drain_idle(settings, runtime, proxy, idle.colour)
    if settings.retire.old == "standby":
        return f"scaled {idle.release} to none: {', '.join(runtime.stand_by(idle.colour))}"
    return f"removed {', '.join(runtime.remove(idle.colour))}"


def _end(
    settings: Settings, runtime: Runtime, proxy: Proxy, record: SwitchRecord | None, colour: Colour, run: str
) -> list[str]:
    """Nothing is in flight to the idle colour, it gets no request any more, and what the run started there is gone."""
    _drain_idle(settings, runtime, proxy, colour)
    if record:
        proxy.commit(record)
    return runtime.remove(colour, run=run)


def _drain_idle(settings: Settings, runtime: Runtime, proxy: Proxy, colour: Colour) -> None:
    standing = [each.endpoint for each in runtime.replicas(colour) if each.running]
    if standing and proxy.observe().running:  # without a proxy there is no traffic
        drain(proxy, standing, timeout=settings.retire.drain_timeout)


def _unfit_whole(settings: Settings, runtime: Runtime, proxy: Proxy, slot: Slot) -> str:
    """The same of a slot of which no replica may be missing."""
    if slot.running < slot.wanted:
        return f"{slot.running} of {slot.wanted} replicas run"
    return unfit(settings, runtime, proxy, slot)
