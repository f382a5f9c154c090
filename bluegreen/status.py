"""What is true now, as data: the service for those who run it, and its proxy."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bluegreen import plan as planning
from bluegreen.errors import BluegreenError
from bluegreen.model import Observed, Slot
from bluegreen.observe import observe
from bluegreen.steps import is_standby
from bluegreen.wanted import kept, published

if TYPE_CHECKING:
    from bluegreen.hosts import Host
    from bluegreen.service import Service


def status_of(service: Service) -> dict[str, Any]:
    """What is true now, in the shape that README describes."""
    observed = observe(service.runtime, service.proxy)
    settled = planning.after_recovery(observed)
    holder = service.lock().holder()
    proxy = observed.proxy
    return {
        "service": service.settings.service,
        "live": _slot(observed.live, observed) if observed.live else None,
        "standby": _slot(observed.standby, observed) if observed.standby else None,
        "rollback": _readiness(service, settled),
        "proxy": {
            "kind": service.settings.proxy.kind,
            "version": proxy.version,
            "address": service.settings.proxy.url,
            "switch": proxy.switch,
            "running": proxy.running,
            "edits": proxy.edits or None,
        },
        "unfinished": observed.unfinished or None,
        "next": planning.next_run(service.settings, observed) or None,
        "lock": str(holder) if holder else None,
        "hosts": _each_host(service, observed),
        "nodes": [node._asdict() for node in service.swarm.nodes()] if service.swarm else [],
    }


def proxy_status_of(service: Service) -> dict[str, Any]:
    """What the proxy says of itself and of this service."""
    state, settings = service.proxy.observe(), service.settings.proxy
    record = state.record
    return {
        "name": service.proxy.name,
        "kind": settings.kind,
        "where": settings.where,
        "version": state.version,
        "exists": state.exists,
        "running": state.running,
        "listen": settings.listen,
        "url": settings.url,
        "switch": state.switch,
        "service": service.settings.service,
        "colour": str(state.colour) if state.colour else None,
        "record": asdict(record) if record else None,
    }


def _each_host(service: Service, observed: Observed) -> list[dict[str, Any]]:
    """What is true of each host: what it serves, and why that is not what is live, if it is not."""
    hosts = service.hosts
    if hosts is None:
        live = observed.live
        name = live.release.name if live else None
        return [{"name": service.runtime.name, "live": name, "reachable": True, "behind": None}]

    def one(host: Host) -> dict[str, Any]:
        here = observe(host.runtime, host.proxy)
        record, slot = here.proxy.record, here.live
        return {
            "name": host.name,
            "reachable": True,
            "live": slot.release.name if slot else None,
            "colour": str(slot.colour) if slot else None,
            "replicas": {"running": slot.running, "wanted": slot.wanted} if slot else None,
            "switch": record.number if record else None,
            "proxy": f"{service.settings.proxy.kind} {here.proxy.version}" if here.proxy.running else None,
            "behind": hosts.behind.get(host.name),
        }

    found = {each["name"]: each for each in hosts.each(one)}
    missing = {**service.unreachable, **hosts.lost}
    nothing = {"live": None, "colour": None, "replicas": None, "switch": None, "proxy": None}
    found |= {name: {"name": name, "reachable": False, **nothing, "behind": words} for name, words in missing.items()}
    return [found[host.name] for host in service.settings.hosts]


def _readiness(service: Service, observed: Observed) -> dict[str, Any]:
    """Which release a rollback would go to, and whether it can, and from what."""
    target = planning.rollback_target(observed)
    if target is None:
        why = f"{observed.live.release} has no release before it" if observed.live else "nothing is live"
        return {"release": None, "ready": False, "how": None, "why": why}
    floor = planning.floor_above(observed, target)
    if floor:
        return {"release": target.name, "ready": False, "how": None, "why": planning.beyond(floor)}
    if observed.standby and is_standby(observed, target):
        why = f"{observed.standby.colour} runs it"
        return {"release": target.name, "ready": True, "how": "standby", "why": why}
    if kept(service, target):
        return {"release": target.name, "ready": True, "how": "image", "why": "its image is kept"}
    try:
        if published(service, target):
            return {"release": target.name, "ready": True, "how": "registry", "why": "the registry has its image"}
        why = f"its image {target.digest[:19]} is gone"
    except BluegreenError as error:
        why = f"its image {target.digest[:19]} is not on the engine, and {error.message}"
    return {"release": target.name, "ready": False, "how": None, "why": why}


def _slot(slot: Slot, observed: Observed) -> dict[str, Any]:
    record = observed.proxy.record
    switched = record.at if record and record.to_colour is slot.colour and not record.undone else ""
    return {
        "colour": str(slot.colour),
        "release": slot.release.name,
        "image": slot.image,
        "digest": slot.release.digest,
        "floor": slot.release.floor,
        "since": switched or slot.since,
        "replicas": {"running": slot.running, "wanted": slot.wanted},
    }
