"""The flow that every run takes: lock, observe, make good what was left, plan, engine, receipt."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from bluegreen import mend, metrics, notify
from bluegreen import plan as planning
from bluegreen.afterwards import tell_all
from bluegreen.bake import Comparison
from bluegreen.counts import counts_told
from bluegreen.engine import Interrupts, call_on_failure, execute, interrupts
from bluegreen.errors import BluegreenError, Failed, NeedsPerson, Unexpected
from bluegreen.gitlab import checked_out, deployment, records_itself
from bluegreen.lock import Holder
from bluegreen.model import PASSING, Event, Observed, Plan
from bluegreen.probe import public_host
from bluegreen.reach import engine_failed
from bluegreen.receipt import Start, receipt
from bluegreen.steps import Run, verify
from bluegreen.wanted import with_lacking
from bluegreen.witness import Witness

if TYPE_CHECKING:
    from bluegreen.service import AnyLock, Options, Service


@dataclass
class Flow:
    """One run of one command."""

    service: Service
    doing: str
    """The command, as others are told of it who find the service locked."""
    options: Options
    emit: Callable[[Event], None]
    id: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}")
    start: Start = field(init=False)
    _telling: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.start = Start(time.monotonic(), datetime.now(UTC), Holder.me(self.doing).who)

    def run(
        self, look: Callable[[], Observed], planner: Callable[[Observed], Plan], *, recovery_suffices: bool = False
    ) -> dict[str, Any]:
        """What was planned from the last look is done, and its receipt is returned. The error of a run that failed
        carries its receipt too. With `recovery_suffices` it is enough that an unfinished run has been undone."""
        service = self.service
        _ = service.settings.pair  # refused before anything is changed
        threading.Thread(target=_warm_up, name="imports", daemon=True).start()
        with (
            interrupts() as state,
            service.locked(self.doing, self.options, self.tell, state, self.id) as lock,
            self._traced(),
        ):
            for name in service.runtime.remove_one_shots():  # of a run that was killed: we hold the lock
                self._say("recover", f"removed {name}, which a killed run had left")
            if service.hosts:
                service.hosts.emit = self.tell
            observed = service.look(look, lock, self.tell).apart_from(self.id)
            killed = observed.begun
            if observed.unfinished:
                before = observed
                words = mend.undo_unfinished(service, before, lock, self.tell)
                observed = replace(look(), begun=())
                if not observed.proxy.edits:  # with traffic at stake they did not keep it from being mended
                    self._tell_of_edits(before)
                if recovery_suffices and observed.live and observed.live.colour is before.settled_colour:
                    mend.remove_leftover(service, observed, lock, self.tell)
                    mend.forget(service, killed)
                    mend.bring_hosts(service, observed, lock, self.tell)
                    plan = planning.plan_rollback(service.settings, observed, observed.live.release.name)
                    plan = replace(plan, reason=f"the unfinished run {before.unfinished} was undone: {words}")
                    return self._told(self._receipt(plan, "done", observed))
            mend.forget(service, killed)
            brought = mend.bring_hosts(service, observed, lock, self.tell)
            if brought or mend.follow_tasks(service, observed, lock, self.tell):
                observed = look().apart_from(self.id)
            observed = with_lacking(service, observed)
            plan = planner(observed)
            if plan.unchanged:
                removed = mend.remove_leftover(service, observed, lock, self.tell)
                return self._receipt(plan, "done" if removed else "unchanged", observed)
            return self._execute(plan, observed, lock, state)

    def _execute(self, plan: Plan, observed: Observed, lock: AnyLock, state: Interrupts) -> dict[str, Any]:
        """The plan's steps are done, and the receipt is returned. Raises, with all undone that was done, if not."""
        service, host = self.service, self.service.runtime.name
        if any(step.step == "start" for step in plan.steps):
            service.secrets()  # refused before anything is changed
        if plan.action == "deploy" and not self.options.overwrite_edits:
            self._refuse_edits(observed)
        self._tell_of_edits(observed)
        hosts = list(observed.hosts) if len(observed.hosts) > 1 else [host]
        self.tell(Event("plan", "planned", host, data={"run": self.id, **plan.outline(), "hosts": hosts}))

        def heed() -> None:
            state.heed()
            lock.check()

        witness = self._witness(plan, observed) if self.options.witness else None
        run = Run(
            id=self.id,
            settings=service.settings,
            runtime=service.runtime,
            proxy=service.proxy,
            observed=observed,
            plan=plan,
            release=plan.release,
            emit=self.tell,
            registry=service.registry,
            overwrite=self.options.overwrite,
            witness=witness,
            heed=heed,
        )
        if service.hosts:
            service.hosts.verify = partial(verify, run)
        if service.settings.bake.compares and any(step.step == "bake" for step in plan.steps):
            run.comparison = Comparison(service.settings.bake, plan, service.proxy, witness)
        try:
            with self._recorded(observed), counts_told(witness if self.options.counts else None, host, self.tell):
                execute(run, lock, state)
            run.leftover += mend.settle(service, lock, self.tell)
        except Exception as error:
            raise self._failure(error, run) from error
        finally:
            if witness:
                witness.stop()
        return self._receipt_of(run, "done")

    def tell(self, event: Event) -> None:
        """Whoever watches is told, with the time since the start of the run; what happened is kept for the receipt."""
        event = replace(event, at=max(0.0, time.monotonic() - event.seconds - self.start.clock))
        # Who read the output has gone, or its disk is full: the run and its undo go on.
        with self._telling, suppress(OSError):
            if event.state not in PASSING:
                self.service.events.append(event)
            self.emit(event)

    def _say(self, step: str, words: str) -> None:
        self.tell(Event(step, "progress", self.service.runtime.name, detail=words))

    @contextmanager
    def _traced(self) -> Iterator[None]:
        """Should the run be killed in here, whoever comes next finds that it had begun: a rollback then keeps what is
        live, and goes no further."""
        runtime = self.service.runtime
        try:
            runtime.begin(self.id)
            yield
        finally:
            with suppress(Exception):  # what is left of it does no harm, and the next run takes it away
                runtime.ended(self.id)

    def _refuse_edits(self, observed: Observed) -> None:
        """Raises Failed, nothing having been changed, if a person has edited what the run would write over."""
        if not observed.proxy.edits:
            return
        serves = f"{observed.live.release} still serves" if observed.live else "nothing is served, as before"
        raise Failed(
            f"a person has edited {self.service.settings.service}'s files in {self.service.proxy.name}, and this deploy"
            f" would write over that; nothing was changed, and {serves}\n{observed.proxy.edits}",
            hint="move the edit to [proxy] in the settings or to a file of your own, then deploy again with"
            " --overwrite-edits, which keeps a copy",
        )

    def _tell_of_edits(self, observed: Observed) -> None:
        edits, where = observed.proxy.edits, observed.proxy.kept_in
        if edits:
            self._say("proxy", f"a person's edit is written over; a copy of the file is kept in {where}\n{edits}")

    def _witness(self, plan: Plan, observed: Observed) -> Witness:
        """A witness that is at work if there is somebody to answer. Raises Failed if it can't reach the proxy."""
        settings = self.service.settings
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

    @contextmanager
    def _recorded(self, observed: Observed) -> Iterator[None]:
        """GitLab has a deployment of what happens inside, if it is to have one and does not make one itself."""
        project, settings = self.service.project, self.service.settings
        if project is None or records_itself():
            yield
            return
        source = observed.image.source if observed.image else checked_out(settings.context)
        say = partial(self._say, "gitlab")
        with deployment(project, settings.gitlab.environment, settings.proxy.url, source, say):
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

    def _receipt_of(self, run: Run, result: str, reason: str = "") -> dict[str, Any]:
        receipt = self._receipt(
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
        return self._told(receipt, run.witness)

    def _receipt(self, plan: Plan, result: str, observed: Observed, **more: Any) -> dict[str, Any]:
        settings, proxy = self.service.settings, self.service.settings.proxy
        return receipt(
            settings.service,
            self.id,
            plan,
            result,
            self.service.events,
            probe=settings.probe_kind,
            start=self.start,
            proxy={
                "kind": proxy.kind,
                "version": observed.proxy.version,
                "url": proxy.url,
                "switch": observed.proxy.switch,
            },
            **more,
        )

    def _told(self, receipt: dict[str, Any], witness: Witness | None = None) -> dict[str, Any]:
        """The receipt, once everybody who is to be told of the run has been. Whoever can't be is only a warning."""
        service = self.service
        listeners: dict[str, Callable[[], object]] = {}
        if service.history:
            listeners["history"] = partial(service.history.keep, receipt)
        listeners |= notify.listeners(service.webhooks, service.settings, receipt)
        records: Callable[[], Sequence[Any]] = witness.records if witness else list
        listeners |= metrics.listeners(service.settings, receipt, self.start.clock, records)
        tell_all(listeners, self._say)
        return receipt


def _warm_up() -> None:
    """The later steps' libraries are loaded while the engine works on what it was asked: a rollback is urgent."""
    import httpx  # noqa: F401
    import jinja2  # noqa: F401
    import tenacity  # noqa: F401
