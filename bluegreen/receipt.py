"""What a run did and what its users saw of it, as data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bluegreen.model import Event, Plan, Release
from bluegreen.witness import Witness, percentiles_ms

NO_REQUESTS: dict[str, Any] = {
    "requests": {"total": 0, "ok": 0, "failed": 0, "by_release": {}, "failures": []},
    "latency_ms": {phase: {"p50": None, "p99": None, "max": None} for phase in ("before", "during", "after")},
    "switch": {"at": None, "first_new_ms": None, "last_old_ms": None},
}


@dataclass(frozen=True)
class Start:
    """When a run began, by `time.monotonic` and as a UTC time, and who began it."""

    clock: float
    at: datetime
    who: str


def receipt(
    service: str,
    run: str,
    plan: Plan,
    result: str,
    events: list[Event],
    *,
    probe: str = "http",
    witness: Witness | None = None,
    cut: int = 0,
    websockets: tuple[int, int] = (0, 0),
    bake: dict[str, Any] | None = None,
    probes: Sequence[float] = (),
    leftover: list[str] | None = None,
    warnings: list[str] | None = None,
    reason: str = "",
    start: Start | None = None,
    release: Release | None = None,
    proxy: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The receipt of a run, in the shape that README describes. `result` is done, undone, unchanged or failed.

    `websockets` are those open to the old colour at the switch, and those that its end closed; `warnings`, what went
    wrong when all was decided, and changes nothing.
    `release` is the plan's with what the run has learnt of it, such as the digest of an image that it built.
    `bake` is how the two releases compared, if they were; `probes`, the seconds that each answer to the probe took.
    With the probe "tcp" its requests are connections, of which only is known that they were accepted or not.
    """
    return {
        "service": service,
        "run": run,
        "action": plan.action,
        "from": plan.from_release.name if plan.from_release else None,
        "to": plan.release.name,
        "result": result,
        "reason": reason or plan.reason,
        "started": start.at.isoformat(timespec="milliseconds") if start else None,
        "seconds": round(time.monotonic() - start.clock, 3) if start else None,
        "who": start.who if start else None,
        "image": plan.image,
        "digest": (release or plan.release).digest,
        "colours": {"from": plan.from_colour and str(plan.from_colour), "to": str(plan.colour)},
        "proxy": proxy,
        "probe": probe,
        "witness": witness is not None,
        **(witness.summary() if witness else NO_REQUESTS),
        "probe_ms": {"tries": len(probes), **percentiles_ms(probes)},
        "series": witness.series(start.clock) if witness and start else None,
        "bake": bake,
        "cut": cut,
        "websockets": {"open": websockets[0], "closed": websockets[1]},
        "leftover": leftover or [],
        "warnings": warnings or [],
        "steps": [
            {
                "step": event.step,
                "host": event.host,
                "state": event.state,
                "at": round(event.at, 3),
                "seconds": round(event.seconds, 3),
                "detail": "\n".join(filter(None, (event.detail, event.data.get("output")))),
            }
            for event in events
            if event.state not in ("started", "progress")
        ],
    }
