"""One host is brought to what the others serve: it was away when they were switched, or is new."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bluegreen.drain import drain
from bluegreen.errors import Failed, NeedsPerson
from bluegreen.hosts import Host
from bluegreen.model import Colour, Event, Observed, Plan, Slot, SwitchRecord
from bluegreen.observe import observe
from bluegreen.settings import Settings
from bluegreen.steps import Drain, Probe, Retire, Run, Start, Step, Switch, Verify, unfit


def bring(settings: Settings, host: Host, live: Slot, record: SwitchRecord, emit: Callable[[Event], None]) -> str:
    """The host serves what is live, in its colour and with the number of its switch, and nothing of before is left but
    a standby. Says what was done. Raises what a step raises, with what the host served untouched.

    No request to the host fails: the release is started beside what it serves, probed, switched to, and that drained.
    """
    observed = _look(host)
    if observed.proxy.exists and not observed.proxy.running:
        host.proxy.boot([])
        observed = _look(host)
    serving = observed.live
    if serving and serving.colour is live.colour and not _same(serving, live):
        # What it serves stands in the very colour that is wanted: it makes room by way of the other one.
        _move(settings, host, observed, live, live.colour.other, replace(record, number=record.number - 1), emit)
        observed = _look(host)
    if observed.proxy.colour is not live.colour:
        _move(settings, host, observed, live, live.colour, record, emit)
        words = f"{live.release} serves there now" + (f", in the place of {serving.release}" if serving else "")
    else:
        if reason := unfit(settings, host.runtime, host.proxy, live):
            raise Failed(
                f"{host.name} can't be brought to {live.release}, which it is switched to: {reason}",
                hint="bluegreen status; docker ps there tells what runs",
            )
        host.runtime.keep(live.colour)
        host.proxy.commit(record)
        words = f"{live.release} serves there, and its switch is known to be that of all"
    _tidy(settings, host, live.colour.other)
    return words


def _look(host: Host) -> Observed:
    return observe(host.runtime, host.proxy)


def _same(one: Slot, other: Slot) -> bool:
    return (one.run, one.release) == (other.run, other.release)


def _move(
    settings: Settings,
    host: Host,
    observed: Observed,
    live: Slot,
    colour: Colour,
    record: SwitchRecord,
    emit: Callable[[Event], None],
) -> None:
    """The host serves the release in this colour, with the record's number and run; what it served before has ended,
    or is its standby."""
    old = observed.live
    plan = Plan(
        action="deploy",
        release=live.release,
        colour=colour,
        image=live.image,
        from_colour=old.colour if old else None,
        from_release=old.release if old else None,
        before=live.before,
        number=record.number,
    )
    run = Run(live.run, settings, host.runtime, host.proxy, observed, plan, live.release, emit)
    standing = observed.slots.get(colour)
    there = standing is not None and _same(standing, live) and standing.running == standing.wanted
    steps: list[Step] = [*([] if there else [Start()]), Probe(), Switch(), Verify()]
    begun: list[Step] = []
    try:
        for step in steps:
            begun.append(step)
            emit(Event(step.name, "progress", host.name, detail=step.do(run)))
    except BaseException as error:
        left = []
        for step in reversed(begun):
            try:
                step.undo(run)
            except Exception as failure:  # an undo that fails must not keep the others from being tried
                left.append(f"{step.name}: {failure}")
        if left:
            raise NeedsPerson(
                f"{error}\nand on {host.name} it could not be undone: {'; '.join(left)}", hint="bluegreen status"
            ) from error
        raise
    assert run.record is not None
    host.runtime.keep(colour)
    host.proxy.commit(replace(run.record, run=record.run, committed=True))
    if old:
        for step in (Drain(), Retire()):
            emit(Event(step.name, "progress", host.name, detail=step.do(run)))


def _tidy(settings: Settings, host: Host, idle: Colour) -> None:
    """What a run has left in the idle colour that never became live, or should have been removed, is gone."""
    slot = _look(host).slots.get(idle)
    if slot and (not slot.kept or settings.retire.old == "remove"):
        endpoints = [replica.endpoint for replica in slot.replicas if replica.running]
        drain(host.proxy, endpoints, timeout=settings.retire.drain_timeout)
        host.runtime.remove(idle)
