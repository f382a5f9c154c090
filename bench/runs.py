"""What bluegreen itself adds to a deploy and a rollback: time, memory, round trips, time per replica."""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
import time
from collections.abc import Callable

from bare import bare
from distance import distance
from figures import Bar, Plot, Section, Target, at_most, in_turn, median, number, ratio, spread
from ground import APP, NGINX, QUICK, Ground, Ran, Service

NOT_OURS = ("build", "push", "pull", "probe", "bake", "drain")
"""Steps that wait for something else: the app's start, what the settings say, what is in flight."""

MOST_MEGABYTES = 80
ROUND_TRIP = 40
"""Milliseconds between the command and the engine in `far_engine`."""


def own(ran: Ran) -> float:
    """Seconds that a run took, without what is not its own."""
    return ran.receipt["seconds"] - ran.step(*NOT_OURS)


def own_time(ground: Ground) -> Section:
    """A deploy and a rollback against the bare calls that they need, in turn, and the memory of the command."""
    section = Section(
        "A run's own time",
        "Without build, pull, the app's start, the bake and the drain. Against it, in turn, the bare calls to the same"
        " engine and the same kind of proxy (`bench/bare.py`): take the lock, look, create, start, ask three times,"
        " flip, ask three times, stop and remove, give the lock back. Start-up is in neither; the whole command, with"
        " all of it, is in the last column but one. Nothing is in flight, so that there is nothing to drain.",
        ["", "runs", "own, s", "bare calls, s", "ratio", "whole command, s", "memory, MB"],
    )
    turns = ground.pick(5, 2)
    memory: list[float] = []
    for proxy in ground.proxies:
        for action in ("deploy", "rollback"):
            ours, hand, ran = _against_bare(ground, proxy, action, turns)
            memory += [each.megabytes for each in ran]
            mine = [own(each) if action == "deploy" else each.receipt["seconds"] - each.step("drain") for each in ran]
            section.rows.append(
                [
                    f"{action}, {proxy} live",
                    str(len(ran)),
                    spread(mine),
                    spread(hand),
                    f"{ratio(mine, hand):.2f}",
                    spread(ours),
                    spread(each.megabytes for each in ran),
                ]
            )
            steps = {step["step"]: [] for step in ran[0].receipt["steps"]}
            for each in ran:
                for step in each.receipt["steps"]:
                    steps.setdefault(step["step"], []).append(step["seconds"])
            told = ", ".join(f"{name} {number(median(times))}" for name, times in steps.items() if name not in NOT_OURS)
            rest = median(each.receipt["seconds"] - each.step(*steps) for each in ran)
            what = "a rollback from standby" if action == "rollback" else "a deploy's own time"
            section.targets.append(
                at_most(
                    f"{proxy}: {what} against the bare calls that it needs",
                    ratio(mine, hand),
                    2,
                    reason=f"of its {number(median(mine))} s, steps: {told}; before the first step and after the last,"
                    f" where it takes the lock and looks at the engine and the proxy: {number(rest)}.",
                )
            )
    section.targets.append(at_most("memory of the command, one host", max(memory), MOST_MEGABYTES, unit=" MB"))
    return section


def _against_bare(ground: Ground, proxy: str, action: str, turns: int) -> tuple[list[float], list[float], list[Ran]]:
    """Seconds of the whole command, of the bare calls, and the runs."""
    kind = proxy.partition(":")[0]
    old = "remove" if action == "deploy" else "standby"
    with (
        ground.service(proxy, "live", old=old) as service,
        ground.service(proxy, "live", old=old) as beside,
        contextlib.ExitStack() as stack,
    ):
        for each in (service, beside):
            each.command_of("deploy", "v1")
            if action == "rollback":
                each.command_of("deploy", "v2")
        calls = bare(ground.client, beside, kind, APP)
        stack.callback(calls.close)
        ran: list[Ran] = []
        releases = iter(["v2", "v1"] * turns)
        others = iter(["v2", "v1"] * turns)

        def ours() -> float:
            ran.append(service.command_of("deploy", next(releases)) if action == "deploy" else _rollback(service))
            return ran[-1].seconds

        def by_hand() -> float:
            return calls.deploy(next(others)) if action == "deploy" else calls.rollback()

        found = in_turn(turns, {"ours": ours, "bare": by_hand})
    return found["ours"], found["bare"], ran


def _rollback(service: Service) -> Ran:
    """To the standby, by its name, so that it can be done again and again."""
    standby = service.status()["standby"]["release"]
    return service.command_of("rollback", standby)


def seen_ready(ground: Ground) -> Section:
    """From an app's first right answer, by somebody who asks every few milliseconds, until the probe has seen it."""
    turns = ground.pick(6, 2)
    section = Section(
        "An app that is ready is seen as ready",
        "From the first right answer that somebody got who asked the new container every 5 ms, to the end of the step"
        " `probe`, which wants three right answers in a row. The app takes about half a second to start.",
        ["", "runs", "ms later", "tries of the probe"],
    )
    for proxy in ground.proxies:
        later: list[float] = []
        tries: list[float] = []
        with ground.service(proxy, "live") as service:
            service.command_of("deploy", "v1")
            calls = bare(ground.client, service, proxy.partition(":")[0], APP)
            for turn in range(turns):
                release = f"v{2 - turn % 2}"
                address = calls.addresses["green" if turn % 2 == 0 else "blue"]
                with _first_right(address, release) as first:
                    ran = service.command_of("deploy", release)
                step = next(each for each in ran.receipt["steps"] if each["step"] == "probe")
                ended = ran.begun("probe") + step["seconds"]
                later.append((ended - first[0]) * 1000)
                tries.append(float(step["detail"].split("after ")[1].split()[0]))
        section.rows.append([f"{proxy} live", str(turns), spread(later), spread(tries)])
        section.targets.append(at_most(f"{proxy}: ready and seen as ready", median(later), 100, unit=" ms"))
    return section


@contextlib.contextmanager
def _first_right(address: str, release: str):  # type: ignore[no-untyped-def]
    """A list that gets the moment of the first right answer of the app at this address."""
    found: list[float] = []
    over = threading.Event()
    right = f"version {release.removeprefix('v')}".encode()

    def look() -> None:
        while not over.is_set() and not found:
            connection = http.client.HTTPConnection(address, 9000, timeout=0.03)  # nobody may be there yet
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.connect()
                connection.sock.settimeout(5)
                connection.request("GET", "/version")
                if connection.getresponse().read().strip() == right:
                    found.append(time.time())
            connection.close()
            time.sleep(0.005)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join(5)


def far_engine(ground: Ground) -> Section:
    """A deploy and a rollback with the engine 40 ms away, against the same with no distance, in turn."""
    turns = ground.pick(4, 1)
    socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://").removeprefix("tcp://")
    found: dict[str, list[float]] = {}
    with (
        ground.service(NGINX, "live", old="standby") as service,
        distance(ground.port(), socket, 0) as near,
        distance(ground.port(), socket, ROUND_TRIP) as far,
    ):
        service.command_of("deploy", "v1")
        releases = iter(["v2", "v3"] * (2 * turns))

        def job(action: str, port: int) -> Callable[[], float]:
            def run() -> float:
                words = [next(releases)] if action == "deploy" else []
                env = {"DOCKER_HOST": f"tcp://127.0.0.1:{port}", "DOCKER_TLS_VERIFY": ""}
                return service.command_of(action, *words, env=env).seconds

            return run

        found = in_turn(
            turns,
            {
                f"{action} {where}": job(action, port)
                for where, port in (("near", near), ("far", far))
                for action in ("deploy", "rollback")
            },
        )
    section = Section(
        f"The engine {ROUND_TRIP} ms away",
        f"The whole command through a relay with a round trip of 0 and of {ROUND_TRIP} ms, in turn; with nginx, live,"
        " and the old release kept as standby. Round trips: how many of them the difference is.",
        ["", "near, s", "far, s", "1.5x near and 10 round trips, s", "round trips"],
    )
    for action in ("deploy", "rollback"):
        near_, far_ = found[f"{action} near"], found[f"{action} far"]
        limit = 1.5 * median(near_) + 10 * ROUND_TRIP / 1000
        trips = (median(far_) - median(near_)) / (ROUND_TRIP / 1000)
        section.rows.append([action, spread(near_), spread(far_), number(limit), number(trips)])
        section.targets.append(
            Target(
                f"{action} over {ROUND_TRIP} ms",
                f"at most {number(limit)} s (1.5x the local time and 10 round trips)",
                f"{number(median(far_))} s",
                median(far_) <= limit,
                f"the difference to the local time is {number(trips)} round trips: what is asked of the proxy goes"
                " one order after the other over one connection, and each waits for its answer.",
            )
        )
    return section


def replicas(ground: Ground) -> Section:
    """The time of a deploy over the number of replicas."""
    counts = (1, 5) if ground.quick else (1, 10, 50)
    section = Section(
        "Replicas",
        "A deploy's own time with an app that costs next to nothing; the old replicas are stopped and removed in it."
        " Per further replica: how much more each took than those of the row above.",
        ["replicas", "own time, s", "per replica, s", "per further replica, s"],
    )
    turns = ground.pick(2, 1)
    found: dict[int, list[float]] = {}
    further: dict[int, float] = {}
    before: int | None = None
    for count in counts:
        with ground.service(NGINX, "live", app=QUICK, replicas=count) as service:
            service.command_of("deploy", "v1")
            ran = [service.command_of("deploy", f"v{2 - turn % 2}") for turn in range(turns)]
        found[count] = [each.receipt["seconds"] - each.step("bake", "drain") for each in ran]
        if before is not None:
            further[count] = (median(found[count]) - median(found[before])) / (count - before)
        section.rows.append(
            [
                str(count),
                spread(found[count]),
                number(median(found[count]) / count),
                number(further[count]) if count in further else "",
            ]
        )
        ground.say(f"  {count} replicas: {median(found[count]):.2f} s")
        before = count
    most = counts[-1]
    measured = median(found[most]) / median(found[1])
    section.targets.append(
        Target(
            f"time of {most} replicas against that of one",
            f"linear or better: at most {most}x",
            f"{number(measured)}x",
            measured <= most,
        )
    )
    bars = [Bar(f"{count} replicas", tuple(found[count])) for count in counts]
    section.plots.append(Plot("replicas.svg", "A deploy's own time over replicas", "seconds", tuple(bars)))
    return section
