"""Switches under load: what fails, what is stale, how soon the new release answers, and what the neighbours wait."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import peers
from asker import Asked, Asker, Flip, flip, near_and_away
from bare import FLIP_HAPROXY
from distance import distance
from figures import Bar, Plot, Section, Target, Zero, at_most, in_turn, median, number, percentile, spread
from ground import HAPROXY, NGINX, NGINX_OLD, Ground, Service, moment
from harness import executed
from load import Load

PAUSE = 1.5
"""Seconds between two switches by hand, and at both ends of a turn."""


class Switched(Protocol):
    """Something that serves v1 or v2, and can be switched."""

    name: str
    url: str

    def switch(self) -> tuple[str, str, float, float]: ...


@dataclass
class Ours:
    """bluegreen: a switch is a whole deploy. The switch is called when its step begins."""

    service: Service
    name: str
    zero: bool
    """Whether it promises that nothing fails."""
    live: str = "v1"
    witness_requests: int = 0
    witness_failed: int = 0

    @property
    def url(self) -> str:
        return self.service.url

    def switch(self) -> tuple[str, str, float, float]:
        old, new = self.live, peers.OTHER[self.live]
        ran = self.service.command_of("deploy", new)
        self.live = new
        self.witness_requests += ran.receipt["requests"]["total"]
        self.witness_failed += ran.receipt["requests"]["failed"]
        return old, new, ran.begun("switch"), moment(ran.receipt["switch"]["at"])


@contextlib.contextmanager
def ours(ground: Ground, proxy: str, switch: str, zero: bool = True) -> Iterator[Ours]:
    with ground.service(proxy, switch, bake=0.5) as service:
        service.command_of("deploy", "v1")
        yield Ours(service, f"bluegreen, {proxy} {switch}", zero)


@dataclass
class Seen:
    """All that was seen of one subject."""

    is_ours: bool = False
    live: bool = False
    must_be_zero: bool = False
    requests: int = 0
    failed: int = 0
    switches: int = 0
    flips: list[Flip] = field(default_factory=list)
    near: list[float] = field(default_factory=list)
    away: list[float] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)

    def add_load(self, load: Any) -> None:
        self.requests += load.total
        self.failed += load.failed
        for outcome, count in load.by_outcome.items():
            if outcome != "ok":
                self.outcomes[outcome] = self.outcomes.get(outcome, 0) + count

    def add_asked(self, asked: list[Asked]) -> None:
        self.requests += len(asked)
        wrong = [each for each in asked if each.wrong]
        self.failed += len(wrong)
        for each in wrong:
            self.outcomes[each.wrong] = self.outcomes.get(each.wrong, 0) + 1

    @property
    def stale(self) -> int:
        return sum(each.stale for each in self.flips)

    @property
    def first_new(self) -> list[float]:
        return [each.first_new for each in self.flips if each.first_new is not None]

    @property
    def last_old(self) -> list[float]:
        return [each.last_old for each in self.flips if each.last_old is not None]


def turn(subject: Switched, seen: Seen, count: int, rate: float) -> None:
    """So many switches under load."""
    moments = []
    with (
        Load(subject.url, keepalive=50, fresh=10, slow=6, stream=2, rate=rate, seconds=600) as load,
        Asker(subject.url, rate / 6) as asker,
    ):
        load.wait_for_requests(100)
        time.sleep(PAUSE)
        for _ in range(count):
            moments.append(subject.switch())
            time.sleep(PAUSE)
        asked = asker.stop()
        result = load.stop()
    seen.switches += count
    seen.add_load(result)
    seen.add_asked(asked)
    for number_, (old, new, called, returned) in enumerate(moments):
        until = moments[number_ + 1][2] if number_ + 1 < len(moments) else float("inf")
        seen.flips.append(flip(asked, old, new, called, returned, until))
    near, away = near_and_away(asked, [returned for _, _, _, returned in moments])
    seen.near += near
    seen.away += away


def under_load(ground: Ground) -> Section:
    """Failed, stale, first new and last old over switches, and p99 near them, of bluegreen and of others in turn."""
    makers: list[Any] = [
        lambda: ours(ground, NGINX, "live"),
        lambda: ours(ground, HAPROXY, "live"),
        lambda: peers.nginx_reload(ground, NGINX),
        lambda: peers.haproxy_api(ground),
    ]
    if not ground.quick:
        makers += [
            lambda: ours(ground, NGINX, "reload"),
            lambda: ours(ground, HAPROXY, "reload"),
            lambda: ours(ground, NGINX_OLD, "live"),
            lambda: peers.nginx_reload(ground, NGINX_OLD),
            lambda: peers.haproxy_reload(ground),
            lambda: peers.caddy(ground),
            lambda: peers.script(ground, NGINX),
            lambda: peers.recreate(ground),
        ]
    rate = float(ground.pick(1200, 600))
    turns, each = ground.pick(2, 1), ground.pick(4, 2)
    found: dict[str, Seen] = {}
    with contextlib.ExitStack() as stack:
        subjects: list[Switched] = [stack.enter_context(make()) for make in makers]
        jobs: dict[str, Callable[[], None]] = {}
        for subject in subjects:
            seen = found[subject.name] = Seen()
            if isinstance(subject, Ours):
                seen.is_ours, seen.must_be_zero = True, subject.zero
                seen.live = subject.name.endswith("live")
            jobs[subject.name] = _job(ground, subject, seen, each, rate)
        in_turn(turns, jobs)
    return _section(found, turns * each, rate)


def _job(ground: Ground, subject: Switched, seen: Seen, each: int, rate: float) -> Callable[[], None]:
    def job() -> None:
        turn(subject, seen, each, rate)
        ground.say(f"  {subject.name}: {seen.failed} of {seen.requests} failed, {seen.stale} stale")

    return job


def _section(found: dict[str, Seen], count: int, rate: float) -> Section:
    section = Section(
        "Switches under load",
        f"50 keep-alive, 10 fresh, 6 slow (3 s) and 2 streaming clients that never retry, {number(rate)} requests/s at"
        f" most, a fifth of those on kept connections POST; switches of each, in turns: {count}. bluegreen's are"
        " whole deploys, with the old containers removed; those by hand only point the proxy at another container, but"
        " for the script and Compose, which replace containers too. The times count from the moment when the switch"
        " was called (of bluegreen: when its step `switch` began, which writes and checks the proxy's files first);"
        " stale is what was sent after it had returned, and answered by the old release. p99 is that of requests for"
        " the version within 1 s of a switch, and of all others. The longer runs of `make soak` are in"
        " [docs/zero-loss.md](../docs/zero-loss.md).",
        [
            "",
            "failed / requests",
            "how",
            "first new, ms",
            "last old sent, ms",
            "stale a switch",
            "p99 near, ms",
            "p99 away, ms",
        ],
    )
    for name, seen in found.items():
        near = percentile(seen.near, 0.99) if seen.near else None
        away = percentile(seen.away, 0.99) if seen.away else None
        section.rows.append(
            [
                name,
                f"{number(seen.failed)} / {number(seen.requests)}",
                ", ".join(f"{what} {n}" for what, n in sorted(seen.outcomes.items())),
                spread(seen.first_new),
                spread(seen.last_old),
                number(seen.stale / max(1, seen.switches)),
                "-" if near is None else number(near),
                "-" if away is None else number(away),
            ]
        )
        if not seen.is_ours:
            continue
        if seen.must_be_zero:
            section.zeros.append(Zero(f"{name}: failed of {number(seen.requests)} requests", seen.failed))
        section.targets.append(
            Target(
                f"{name}: failed requests over {seen.switches} switches",
                "0",
                f"{number(seen.failed)} of {number(seen.requests)}",
                seen.failed == 0,
            )
        )
        if seen.live:
            section.zeros.append(Zero(f"{name}: stale answers", seen.stale))
            section.targets.append(Target(f"{name}: stale answers", "0", number(seen.stale), seen.stale == 0))
        if near and away:
            section.targets.append(
                at_most(
                    f"{name}: p99 within 1 s of a switch against away from it",
                    near / away,
                    1.5,
                    reason=f"{number(near)} ms near a switch, {number(away)} ms away from it. A deploy starts and ends"
                    " containers beside the load, on the same cores, which a switch by hand does not.",
                )
            )
    bars = [
        Bar(name, (float(seen.failed),), seen.is_ours, f"{number(seen.failed)} of {number(seen.requests)}")
        for name, seen in found.items()
    ]
    section.plots.append(
        Plot("failed.svg", f"Failed requests over {count} switches under load", "requests", tuple(bars))
    )
    return section


def far_clients(ground: Ground) -> Section:
    """Failed requests where clients are 20 ms away: those that cross the close of an idle connection."""
    makers: list[Any] = [lambda: ours(ground, NGINX, "live"), lambda: peers.nginx_reload(ground, NGINX)]
    if not ground.quick:
        makers += [
            lambda: ours(ground, HAPROXY, "live"),
            lambda: ours(ground, NGINX, "reload"),
            lambda: ours(ground, HAPROXY, "reload"),
            lambda: peers.nginx_reload(ground, NGINX_OLD),
            lambda: peers.haproxy_reload(ground),
        ]
    turns, each = ground.pick(2, 1), ground.pick(2, 1)
    found: dict[str, Seen] = {}
    with contextlib.ExitStack() as stack:
        jobs = {}
        for make in makers:
            subject = stack.enter_context(make())
            where = subject.url.removeprefix("http://")
            port = stack.enter_context(distance(ground.port(), where, 20))
            seen = found[subject.name] = Seen(is_ours=isinstance(subject, Ours))
            jobs[subject.name] = _far_job(ground, subject, seen, port, each)
        in_turn(turns, jobs)
    section = Section(
        "Clients that are 20 ms away",
        f"200 clients with a kept connection each and 5 requests/s, behind a relay with a round trip of 20 ms;"
        f" switches of each, in turns: {turns * each}. A proxy that closes idle connections as it reloads loses the"
        " requests that cross the close.",
        ["", "failed / requests", "how", "failed a switch"],
    )
    for name, seen in found.items():
        section.rows.append(
            [
                name,
                f"{number(seen.failed)} / {number(seen.requests)}",
                ", ".join(f"{what} {n}" for what, n in sorted(seen.outcomes.items())),
                number(seen.failed / max(1, seen.switches)),
            ]
        )
        if seen.is_ours:
            measured = f"{number(seen.failed)} of {number(seen.requests)}"
            section.targets.append(Target(f"{name}: failed at 20 ms", "0", measured, seen.failed == 0))
            section.zeros.append(Zero(f"{name}: failed with clients at 20 ms", seen.failed))
    bars = [
        Bar(name, (seen.failed / max(1, seen.switches),), seen.is_ours, number(seen.failed / max(1, seen.switches)))
        for name, seen in found.items()
    ]
    plot = Plot("far.svg", "Failed requests a switch, 200 clients 20 ms away", "requests a switch", tuple(bars))
    section.plots.append(plot)
    return section


def _far_job(ground: Ground, subject: Switched, seen: Seen, port: int, each: int) -> Callable[[], None]:
    def job() -> None:
        options = {"keepalive": 200, "fresh": 0, "slow": 0, "stream": 0, "rate": 1000.0, "post": 0.0}
        with Load(f"http://127.0.0.1:{port}", seconds=600, **options) as load:
            load.wait_for_requests(400)
            time.sleep(PAUSE)
            for _ in range(each):
                subject.switch()
                time.sleep(PAUSE)
            seen.add_load(load.stop())
        seen.switches += each
        ground.say(f"  {subject.name}: {seen.failed} of {seen.requests} failed")

    return job


def by_hand(ground: Ground) -> Section:
    """The flip alone, by bluegreen's driver and by hand on the same proxy, in turn."""
    section = Section(
        "The flip alone",
        "On one proxy, with both releases running: flipped by bluegreen's driver (which notes what it does, flips, and"
        " asks the proxy what it serves) and by hand (an exec: the same file, or the same command to the runtime API),"
        " in turn, while about 400 requests/s ask who answers. Times count from the call.",
        ["", "flips", "first new, ms", "last old sent, ms", "returned, ms", "stale"],
    )
    count = ground.pick(12, 4)
    for proxy in ground.proxies:
        with ground.service(proxy, "live", old="standby") as service:
            service.command_of("deploy", "v1")
            service.command_of("deploy", "v2")
            seen, took = _flips(service, count)
            service.command_of("rollback")
        for name, each in seen.items():
            section.rows.append(
                [
                    f"{proxy}, {name}",
                    str(len(each.flips)),
                    spread(each.first_new),
                    spread(each.last_old),
                    spread(took[name]),
                    number(each.stale),
                ]
            )
        ours_, hand = seen["bluegreen"], seen["by hand"]
        section.zeros.append(Zero(f"flip of {proxy} by bluegreen: stale answers", ours_.stale))
        for what, mine, theirs in (
            ("first new answer", ours_.first_new, hand.first_new),
            ("last old request", ours_.last_old, hand.last_old),
        ):
            section.targets.append(
                at_most(
                    f"{proxy}: from the flip to the {what}, against the same by hand",
                    _median(mine) / max(_median(theirs), 0.1),
                    2,
                )
            )
    return section


def _median(values: list[float]) -> float:
    return median(values) if values else 0.0


def _flips(service: Service, count: int) -> tuple[dict[str, Seen], dict[str, list[float]]]:
    from bluegreen.model import Colour, SwitchRecord
    from bluegreen.observe import observe
    from bluegreen.service import Service as Opened
    from bluegreen.settings import load

    seen = {"bluegreen": Seen(), "by hand": Seen()}
    took: dict[str, list[float]] = {name: [] for name in seen}
    moments: list[tuple[str, str, str, float, float]] = []
    settings = load(service.directory / "bluegreen.toml")
    with Opened.open(settings) as opened:
        observed = observe(opened.runtime, opened.proxy)
        upstreams = {colour: slot.endpoints for colour, slot in observed.slots.items()}
        release = {colour: slot.release.name for colour, slot in observed.slots.items()}
        assert observed.live is not None
        live, begun = observed.live.colour, observed.proxy.record
        assert begun is not None
        number_ = begun.number
        proxy = opened.client.containers.get(opened.proxy.name)
        root = "/bluegreen"

        def ours_(to: Colour) -> None:
            opened.proxy.switch(
                SwitchRecord(number=number_, run="bench", from_colour=to.other, to_colour=to, committed=False),
                upstreams,
            )

        def hand(to: Colour) -> None:
            green = f"{root}/state/{service.name}/green"
            if settings.proxy.kind == "nginx":
                code, words = executed(proxy, ["touch", green] if to is Colour.GREEN else ["rm", green])
            else:
                order = f"set map {root}/live.map {service.name} {service.name}_{to}"
                code, words = executed(proxy, ["perl", "-e", FLIP_HAPROXY, "/tmp/bluegreen-admin.sock", order])
            assert code == 0, words

        with Asker(service.url, 400) as asker:
            time.sleep(0.5)
            for turn_ in range(2 * count):
                name, do = [("bluegreen", ours_), ("by hand", hand)][turn_ // 2 % 2]
                number_ += 1
                to = live.other
                called = time.time()
                do(to)
                returned = time.time()
                moments.append((name, release[live], release[to], called, returned))
                live = to
                time.sleep(0.4)
            asked = asker.stop()
        # As a run would leave it.
        if live is not observed.live.colour:
            number_ += 1
            ours_(observed.live.colour)
            opened.proxy.commit(
                SwitchRecord(
                    number=number_, run="bench", from_colour=live, to_colour=observed.live.colour, committed=True
                )
            )
    for index, (name, old, new, called, returned) in enumerate(moments):
        until = moments[index + 1][3] if index + 1 < len(moments) else float("inf")
        seen[name].flips.append(flip(asked, old, new, called, returned, until))
        took[name].append((returned - called) * 1000)
    return seen, took
