"""The proxies send to the tasks of a swarm where those are now, after Swarm has moved some."""

from __future__ import annotations

import re
from dataclasses import replace

from bluegreen.hosts import Host
from bluegreen.model import Colour, Observed, Slot, SwitchRecord
from bluegreen.proxies import Proxy, Upstreams
from bluegreen.proxies.nginx import RESOLVE
from bluegreen.runtimes import Runtime
from bluegreen.settings import Settings


def upstreams(settings: Settings, runtime: Runtime) -> Upstreams:
    """Where the replicas of both colours are now."""
    return {colour: runtime.endpoints(colour, settings.app.replicas) for colour in Colour}


def follows(kind: str, version: str) -> bool:
    """Whether such a proxy learns by itself where tasks have been moved to."""
    return kind == "haproxy" or tuple(map(int, version.split("."))) >= RESOLVE


def astray(config: str, service: str, live: Slot, *, alone: bool = False) -> list[str]:
    """What the proxies' files say of the tasks that is not so any more; empty if all is as they say. `alone` tells that
    nothing runs in the other colour, whose name would be asked for in vain."""
    meant = {each.address for each in live.endpoints if each.address}
    amiss: dict[str, None] = {}
    pool = rf"^(?:upstream|backend) {re.escape(service)}_{live.colour}(?: .*?)$(.*?)(?:^\}}|^\s*$)"
    for block in re.findall(pool, config, re.MULTILINE | re.DOTALL):
        addresses = re.findall(r"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9.])", block)
        written = set(addresses) - {"127.0.0.11"}  # the engine's DNS
        amiss |= {f"{each} is missing": None for each in sorted(meant - written)}
        amiss |= {f"{each} is gone": None for each in sorted(written - meant)}
    if alone and f"tasks.{service}-{live.colour.other}:" in config:
        amiss[f"{service}-{live.colour.other} is gone"] = None
    return list(amiss)


def renew(settings: Settings, runtime: Runtime, proxy: Proxy, observed: Observed) -> list[str]:
    """The proxies send to the live colour's tasks and to no address that is none of theirs. Says what was amiss."""
    live = observed.live
    if live is None or not live.endpoints or not observed.proxy.running:
        return []
    other = observed.slots.get(live.colour.other)
    alone = other is None or other.scaled_to_none
    amiss = astray(observed.proxy.config, settings.service, live, alone=alone)
    if amiss:
        proxy.renew({**upstreams(settings, runtime), live.colour: live.endpoints}, live.colour)
    return amiss


def bring(settings: Settings, runtime: Runtime, host: Host, live: Slot, record: SwitchRecord) -> str:
    """The host's proxy serves what the others do. Says what was done. There is nothing else to be brought there."""
    new = host.proxy.boot([runtime.network])
    host.proxy.switch(replace(record, committed=True), {**upstreams(settings, runtime), live.colour: live.endpoints})
    host.proxy.commit(record)
    return f"its proxy {'is new and ' if new else ''}serves {live.release} now"
