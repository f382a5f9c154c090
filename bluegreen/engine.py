"""Runs a plan: steps in order, undo in reverse, the commit, and then the cleanup, which only goes forward."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

import requests

from bluegreen.errors import BluegreenError, HostLost, Interrupted, NeedsPerson
from bluegreen.hosts import HostsLock
from bluegreen.lock import Lock
from bluegreen.model import Event
from bluegreen.runtimes.session import SessionEnded
from bluegreen.steps import RECIPES, Hook, OnFailure, Run, Step
from bluegreen.swarm_lock import SwarmLock
from bluegreen.words import cause

PATIENCE = 60.0
"""Seconds for which an engine that went away is waited for; a restart takes 1 to 30, with all containers to stop."""

AWAY = (requests.ConnectionError, requests.Timeout, SessionEnded)
"""What comes of asking an engine that is about to end, though it may still answer the next call."""

LOOK = 0.5
"""Seconds between two looks whether it is back."""


class Interrupts:
    """Ctrl-C and SIGTERM: they end the run where it can be undone, and are only noted where it can't."""

    def __init__(self) -> None:
        self.armed = False
        self.noted = ""

    def arrive(self, number: int, frame: FrameType | None) -> None:
        self.noted = signal.Signals(number).name
        if self.armed:
            self.armed = False
            raise Interrupted(f"interrupted by {self.noted}")

    def arm(self) -> None:
        """From now on one of them raises Interrupted, at once if it has come already."""
        self.heed()
        self.armed = True

    def disarm(self) -> None:
        self.armed = False

    def heed(self) -> None:
        """Raises Interrupted if one of them has come."""
        if self.noted:
            raise Interrupted(f"interrupted by {self.noted}")

    def sleep(self, seconds: float) -> None:
        """Sleeps, and raises Interrupted as soon as one of them comes."""
        self.arm()
        time.sleep(seconds)
        self.disarm()


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Ctrl-C and SIGTERM go to the Interrupts inside, and where they went before after it."""
    state = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return
    previous = {number: signal.signal(number, state.arrive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield state
    finally:
        for number, action in previous.items():
            signal.signal(number, action)


def execute(run: Run, lock: Lock | HostsLock | SwarmLock, state: Interrupts) -> None:
    """The plan has run to its end; what could not be cleaned up after the commit stands in `run.leftover`.

    Raises the error of the step that failed, after all has been undone, or NeedsPerson if that did not succeed.
    """
    planned = {step.step for step in run.plan.steps}
    before, after = ([step() for step in part if step.name in planned] for part in RECIPES[run.plan.action])
    begun: list[Step] = []
    try:
        lock.check()
        if run.old:
            run.proxy.have_room()
        state.arm()
        for step in before:
            lock.check()
            begun.append(step)
            if not step.waits:
                state.disarm()
            _perform(step, run)
            state.arm()
        lock.check()
        state.disarm()
        _commit(run)
    except BaseException as error:
        state.disarm()
        _undo(run, begun, error)
        raise
    for step in after:
        if run.leftover and not isinstance(step, Hook):
            continue
        try:
            lock.check()
            _perform(step, run)
        except Exception as error:  # the release is live: whatever goes wrong now is for the next run to clean up
            words = error.message if isinstance(error, BluegreenError) else f"{type(error).__name__}: {error}"
            if isinstance(step, Hook):  # but no other run calls this one's hooks
                run.warnings.append(words if step.name in words else f"{step.name}: {words}")
                continue
            run.leftover.append(f"{step.name}: {words}")
            run.emit(Event(step.name, "leftover", run.runtime.name, detail=words))


def call_on_failure(run: Run, result: str, reason: str) -> None:
    """The hook on_failure has been called, if there is one; what goes wrong with it is told and changes nothing."""
    if not OnFailure.describe(run.plan, run.settings, run.observed):
        return
    try:
        _perform(OnFailure(result, reason), run)
    except Exception as error:
        run.warnings.append(error.message if isinstance(error, BluegreenError) else str(error))


def _perform(step: Step, run: Run) -> None:
    started = time.monotonic()
    host = run.runtime.name
    run.emit(Event(step.name, "started", host))
    try:
        detail = step.do(run)
    except BaseException as error:
        words = error.message if isinstance(error, BluegreenError) else str(error) or type(error).__name__
        run.emit(Event(step.name, "failed", host, time.monotonic() - started, words))
        raise
    data = {"output": step.output} if step.output else {}
    run.emit(Event(step.name, "done", host, time.monotonic() - started, detail, data))


def _commit(run: Run) -> None:
    assert run.record is not None
    run.runtime.keep(run.plan.colour)
    run.record = replace(run.record, committed=True)
    run.proxy.commit(run.record)
    if run.witness:
        run.witness.committed()


def _undo_step(step: Step, run: Run, deadline: float) -> str:
    """The step is undone. What fails because the engine is away is tried again when it is back, until the deadline."""
    told = ""
    while True:
        _await_engine(run, deadline)
        try:
            return step.undo(run)
        except Exception as error:
            lost = isinstance(error, (*AWAY, HostLost)) or not run.runtime.answers()
            if not lost or time.monotonic() > deadline:
                raise
            if (words := cause(error)) != told:
                told = words
                detail = f"not undone yet: {words}; trying again"
                run.emit(Event(step.name, "progress", run.runtime.name, detail=detail))
            time.sleep(LOOK)


def _await_engine(run: Run, deadline: float) -> None:
    """The engine answers, or has been waited for long enough."""
    if time.monotonic() >= deadline or run.runtime.answers():
        return
    words = f"the Docker engine does not answer: waiting for it, {PATIENCE:g} s at most, to undo what was done"
    run.emit(Event("undo", "progress", run.runtime.name, detail=words))
    while time.monotonic() < deadline and not run.runtime.answers():
        time.sleep(LOOK)


def _undo(run: Run, begun: list[Step], cause: BaseException) -> None:
    failures = []
    host = run.runtime.name
    deadline = time.monotonic() + PATIENCE
    for step in reversed(begun):
        started = time.monotonic()
        try:
            detail = _undo_step(step, run, deadline)
        except Exception as error:  # an undo that fails must not keep the others from being tried
            words = error.message if isinstance(error, BluegreenError) else f"{type(error).__name__}: {error}"
            failures.append(f"{step.name}: {words}")
            run.emit(Event(step.name, "undo-failed", host, time.monotonic() - started, words))
            continue
        if detail:
            run.emit(Event(step.name, "undone", host, time.monotonic() - started, detail))
    if failures:
        words = cause.message if isinstance(cause, BluegreenError) else str(cause)
        raise NeedsPerson(
            f"{words}\nand it could not be undone: {'; '.join(failures)}", hint="bluegreen status"
        ) from cause
