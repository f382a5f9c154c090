"""What a run did and what its users saw of it, as data."""

from __future__ import annotations

from typing import Any

from bluegreen.model import Event, Plan
from bluegreen.witness import Witness

NO_REQUESTS: dict[str, Any] = {
    "requests": {"total": 0, "ok": 0, "failed": 0, "by_release": {}, "failures": []},
    "latency_ms": {phase: {"p50": None, "p99": None, "max": None} for phase in ("before", "during", "after")},
    "switch": {"at": None, "first_new_ms": None, "last_old_ms": None},
}


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
    leftover: list[str] | None = None,
    warnings: list[str] | None = None,
    reason: str = "",
) -> dict[str, Any]:
    """The receipt of a run, in the shape that README describes. `result` is done, undone, unchanged or failed.

    `websockets` are those open to the old colour at the switch, and those that its end closed; `warnings`, what went
    wrong when all was decided, and changes nothing.
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
        "probe": probe,
        "witness": witness is not None,
        **(witness.summary() if witness else NO_REQUESTS),
        "cut": cut,
        "websockets": {"open": websockets[0], "closed": websockets[1]},
        "leftover": leftover or [],
        "warnings": warnings or [],
        "steps": [
            {
                "step": event.step,
                "host": event.host,
                "state": event.state,
                "seconds": round(event.seconds, 3),
                "detail": "\n".join(filter(None, (event.detail, event.data.get("output")))),
            }
            for event in events
            if event.state not in ("started", "progress")
        ],
    }
