"""The new release compared with the old one while it bakes: the proxy's own count of what users were answered, and how
long the witness waited."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from bluegreen.model import Counts, Plan
from bluegreen.proxies import Proxy
from bluegreen.settings import BakeTable
from bluegreen.witness import Record, Witness, percentiles_ms

ENOUGH = 10
"""The number of errors, or of answers slower than the limit, that decides: a few that came first by chance must not."""

FEW = 3
"""The number of requests of which more than half decide at the end of a bake that saw no more: one of two must not."""

WORSE = 1.5
"""How many times the old release's figure the new one's must be to count as worse: two counts of the same are never
quite the same."""


@dataclass(frozen=True)
class Figures:
    """What was seen of one release: its users' requests, None where they are not counted, and the witness's waits."""

    users: Counts | None = None
    waits_ms: tuple[float, ...] = ()

    @property
    def error_ratio(self) -> float | None:
        """The share of errors; None without a request."""
        return self.users.errors / self.users.requests if self.users and self.users.requests else None

    @property
    def p99_ms(self) -> float | None:
        return percentiles_ms(wait / 1000 for wait in self.waits_ms)["p99"]

    def to_dict(self) -> dict[str, Any]:
        ratio = self.error_ratio
        return {
            "requests": self.users.requests if self.users else None,
            "errors": self.users.errors if self.users else None,
            "error_ratio": None if ratio is None else round(ratio, 5),
            "p99_ms": self.p99_ms,
        }


def harm(limits: BakeTable, old: Figures, new: Figures, names: tuple[str, str], *, over: bool) -> str | None:
    """Why the new release is to be taken back, with the numbers that decide; None if it is not.

    Its share of errors must be above `max_error_ratio`, or its p99 above `max_p99_ms`; and above 1.5 times the old
    release's, where that is known: what was as bad before, the new one has not made. That takes 10 errors, or 10
    answers slower than the limit; once the bake is `over`, more than half of 3 requests or more will do. Until then, a
    p99 takes 100 requests besides: of fewer it is no more than the slowest, and what has just started is slow at first.
    """
    return _errors(limits.max_error_ratio, old, new, names, over) or _slow(limits.max_p99_ms, old, new, names, over)


def _errors(limit: float | None, old: Figures, new: Figures, names: tuple[str, str], over: bool) -> str | None:
    users, ratio, before = new.users, new.error_ratio, old.error_ratio
    if limit is None or users is None or ratio is None or not _enough(users.errors, users.requests, over):
        return None
    if ratio <= limit or not _worse(ratio, before):
        return None
    compared = f"; {names[0]} before it: {_share(old)}" if before is not None else ""
    return f"{names[1]} answered users with {_share(new)}; bake.max_error_ratio allows {100 * limit:g}%{compared}"


def _slow(limit: float | None, old: Figures, new: Figures, names: tuple[str, str], over: bool) -> str | None:
    p99, before, number = new.p99_ms, old.p99_ms, len(new.waits_ms)
    if limit is None or p99 is None or (number < 100 and not over):
        return None
    slow = sum(wait > limit for wait in new.waits_ms)
    if p99 <= limit or not _worse(p99, before) or not _enough(slow, number, over):
        return None
    compared = f"; {names[0]} before it: {before:.0f} ms" if before is not None else ""
    return (
        f"{names[1]} has a p99 of {p99:.0f} ms in {number} requests of the witness;"
        f" bake.max_p99_ms allows {limit:g} ms{compared}"
    )


def _enough(bad: int, number: int, over: bool) -> bool:
    return bad >= ENOUGH or (over and number >= FEW and 2 * bad > number)


def _worse(new: float, old: float | None) -> bool:
    return old is None or new > WORSE * old


def _share(figures: Figures) -> str:
    users, ratio = figures.users or Counts(), figures.error_ratio or 0.0
    return f"{users.errors} errors in {users.requests} requests ({ratio:.2%})"


class Comparison:
    """What a run finds out of both releases: of the old one from `begin` to `switching`, of the new one from `switched`
    to the last `look`.

    Users' requests are those that the proxy counted less the witness's and the run's own, which would make the share of
    errors small where users are few.
    """

    def __init__(self, limits: BakeTable, plan: Plan, proxy: Proxy, witness: Witness | None) -> None:
        self._limits, self._plan, self._proxy, self._witness = limits, plan, proxy, witness
        self._since = 0.0
        self._last = Counts()
        self._old = Figures()
        self._new: Figures | None = None
        self._counted = Counts()
        self._asked = 0
        self.decided: str | None = None
        """Why the switch was taken back."""

    def begin(self) -> None:
        """The old release is watched from now on."""
        self._since, self._last = time.monotonic(), self._count(old=True)

    def switching(self) -> None:
        """The old release is not watched any more: it is about to give up its place."""
        if self._plan.from_colour is None:
            return
        counted = self._count(old=True).since(self._last)
        self._old = Figures(self._users(counted, self._own(self._since)), _waits(self._own(0.0)))

    def switched(self) -> None:
        """The new release is watched from now on."""
        self._since, self._last, self._new = time.monotonic(), self._count(), Figures()

    def asked(self, times: int) -> None:
        """So many of the requests to the new release were the run's own."""
        self._asked += times

    def look(self, *, over: bool) -> str | None:
        """Why the new release is to be taken back by all that was seen so far, or None; `over` is at the bake's end."""
        seen = self._count()
        self._counted += seen.since(self._last)
        self._last = seen
        own = self._own(self._since)
        self._new = Figures(self._users(self._counted.without(Counts(self._asked)), own), _waits(own))
        names = str(self._plan.from_release), str(self._plan.release)
        self.decided = harm(self._limits, self._old, self._new, names, over=over)
        return self.decided

    def summary(self) -> dict[str, Any] | None:
        """The numbers and the limits in the shape of the receipt; None if there was no switch."""
        if self._new is None:
            return None
        return {
            "seconds": self._limits.seconds,
            "limits": {"max_error_ratio": self._limits.max_error_ratio, "max_p99_ms": self._limits.max_p99_ms},
            "old": self._old.to_dict() if self._plan.from_release else None,
            "new": self._new.to_dict(),
            "decided": self.decided,
        }

    def _count(self, *, old: bool = False) -> Counts:
        """What the proxy has counted of a colour, if it is to count at all."""
        colour = self._plan.from_colour if old else self._plan.colour
        if colour is None or self._limits.max_error_ratio is None:
            return Counts()
        return self._proxy.counts()[colour]

    def _own(self, since: float) -> list[Record]:
        """The witness's requests from then on."""
        return self._witness.answered(since) if self._witness else []

    def _users(self, counted: Counts, own: list[Record]) -> Counts | None:
        """What was counted of users' requests, if it was counted at all."""
        if self._limits.max_error_ratio is None:
            return None
        return counted.without(Counts(len(own), sum(record.outcome.status >= 500 for record in own)))


def _waits(records: list[Record]) -> tuple[float, ...]:
    return tuple(1000 * record.seconds for record in records)
