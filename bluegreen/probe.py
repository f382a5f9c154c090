"""Is this replica ready, and is it the right version?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from bluegreen.errors import Failed
from bluegreen.model import Endpoint, Release, Replica
from bluegreen.proxies import Proxy
from bluegreen.proxies.agent import AgentError, Answer
from bluegreen.runtimes.confined import loosened_by
from bluegreen.runtimes.session import SessionEnded
from bluegreen.settings import Settings
from bluegreen.words import indent, plain

FIRST = 0.05
"""Seconds until the second try."""

PATIENCE = 0.05
"""The part of the time waited so far that the next wait takes, up to `probe.interval`: what starts fast is seen at
once, and what starts slowly is not asked all the time."""

IN_A_ROW = 0.02
"""Seconds between tries once an answer was right: a rollback waits for them."""

ONE_TRY = 5.0
"""Seconds that one answer may take."""


def mismatch(settings: Settings, release: Release, answer: Answer) -> str:
    """Why the answer is not that of a ready replica of the release; empty if it is."""
    if not 200 <= answer.status < 300:
        return f"{settings.probe.path} answered {answer.status}"
    expected = settings.expected_body(release)
    if expected is not None and answer.body != expected.strip():
        return f"{settings.probe.path} answered {plain(answer.body)[:80]!r}, not {expected.strip()!r}"
    return ""


def ask_replica(settings: Settings, release: Release, proxy: Proxy, endpoint: Endpoint) -> str:
    """One try at one replica, from the proxy's place: why the answer is not the right one, or empty."""
    if settings.probe_kind == "tcp":
        return _connect(lambda: proxy.connect_to(endpoint, ONE_TRY), str(endpoint))
    host = settings.probe.host or str(endpoint)
    return _ask(settings, release, lambda: proxy.get_from(endpoint, settings.probe.path, host, ONE_TRY))


def ask_proxy(settings: Settings, release: Release, proxy: Proxy) -> str:
    """One try through the proxy, as clients come: why the answer is not the right one, or empty."""
    if settings.probe_kind == "tcp":
        return _connect(lambda: proxy.connect(ONE_TRY), settings.proxy.listen)
    host = public_host(settings) or settings.proxy.listen
    return _ask(settings, release, lambda: proxy.get(settings.probe.path, host, ONE_TRY))


def public_host(settings: Settings) -> str | None:
    """A host name by which the proxy knows the service; None if it takes any."""
    if settings.proxy.hosts:
        return settings.proxy.hosts[0].replace("*", "any")
    return settings.probe.host


def _ask(settings: Settings, release: Release, get: Callable[[], Answer]) -> str:
    try:
        return mismatch(settings, release, get())
    except (AgentError, SessionEnded) as error:  # a proxy that died is back in a moment
        return f"{settings.probe.path}: {error.message}"


def _connect(connect: Callable[[], None], where: str) -> str:
    try:
        connect()
    except (AgentError, SessionEnded) as error:
        return f"a connection to {where}: {error.message}"
    return ""


def wait_until_right(
    settings: Settings,
    release: Release,
    ask_once: Callable[[], str],
    *,
    timeout: float,
    look: Callable[[], object],
    progress: Callable[[str], None] = lambda words: None,
    counts: Callable[[Mapping[str, Any]], None] = lambda figures: None,
) -> int:
    """The right answer has come `probe.successes` times in a row. Gives the number of tries.

    `counts` is told of every try: `tries`, `in_a_row` of `wanted`, and `reason`, why this one was not right.
    Raises Failed with the last reason after `timeout` seconds, and whatever `look` raises, which is called after
    every answer that was not right, to see whether waiting still makes sense.
    """
    import tenacity

    tries = in_a_row = 0
    told = ""

    def once() -> bool:
        nonlocal tries, in_a_row, told
        reason = ask_once()
        tries += 1
        in_a_row = 0 if reason else in_a_row + 1
        if reason and reason != told:
            progress(reason)
            told = reason
        counts({"tries": tries, "in_a_row": in_a_row, "wanted": settings.probe.successes, "reason": reason})
        if reason:
            look()
        return in_a_row >= settings.probe.successes

    def pause(state: tenacity.RetryCallState) -> float:
        if in_a_row:
            return IN_A_ROW
        return min(settings.probe.interval, max(FIRST, PATIENCE * (state.seconds_since_start or 0.0)))

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda ready: not ready),
        stop=tenacity.stop_after_delay(timeout),
        wait=pause,
        sleep=time.sleep,
    )
    try:
        retrying(once)
    except tenacity.RetryError as error:
        raise Failed(f"{release} was not ready after {timeout:g} s: {told or 'the answers kept changing'}") from error
    return tries


def dead(settings: Settings, release: Release, replica: Replica, log: str) -> Failed:
    """The error for a replica that runs no more, with what it wrote last."""
    ending = f"{release} ended with exit code {replica.exit_code}"
    if replica.exit_code is None:
        ending = f"{release} does not run: {replica.status}"
    if replica.out_of_memory:
        ending = f"{release} was killed by its memory limit: app.memory is too little for it"
    hint = loosened_by(log, settings.app)
    if replica.exit_code == 137 and settings.app.memory and not replica.out_of_memory and not hint:
        # Swarm never says it; an engine lost it for 4 of 60 containers that were killed so, twelve at a time (20.10).
        hint = "is app.memory too little for it? The engine does not always tell whether that is what killed it"
    return Failed(f"{ending} (container {replica.name})\n{last_lines(replica, log)}", hint=hint)


def last_lines(replica: Replica, log: str) -> str:
    """What a replica wrote last, for a person."""
    return f"the last lines of {replica.name}:\n{indent(log) or '  (none)'}"
