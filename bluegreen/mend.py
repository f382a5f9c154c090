"""What earlier runs have left or missed, made good while this one holds the lock: an unfinished run is undone,
leftovers go, hosts that are behind are brought to what is live, and the proxies follow the tasks of a swarm."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from docker.errors import DockerException
from requests import RequestException

from bluegreen import follow
from bluegreen import plan as planning
from bluegreen.errors import BluegreenError, Failed
from bluegreen.model import Event, Observed, Slot
from bluegreen.observe import observe
from bluegreen.steps import finish, recover
from bluegreen.sync import bring

if TYPE_CHECKING:
    from bluegreen.hosts import Host
    from bluegreen.service import AnyLock, Service

Emit = Callable[[Event], None]


def undo_unfinished(service: Service, observed: Observed, lock: AnyLock, tell: Emit) -> str:
    """The unfinished run is undone, or finished; see `recover`. Says what was done."""
    detail = f"the run {observed.unfinished} ended before its commit"
    return _told(
        service, lock, tell, detail, lambda: recover(service.settings, service.runtime, service.proxy, observed)
    )


def remove_leftover(service: Service, observed: Observed, lock: AnyLock, tell: Emit) -> bool:
    """What a run left that ended after its commit is gone. Gives whether there was any such thing."""
    left = planning.leftover(service.settings, observed)
    if left is None:
        return False
    detail = f"{left.release} ({left.colour}) was left over"
    _told(service, lock, tell, detail, lambda: finish(service.settings, service.runtime, service.proxy, left))
    return True


def forget(service: Service, runs: Sequence[str]) -> None:
    """There is no trace of these runs any more."""
    if runs:
        service.runtime.ended(*runs)


def _told(service: Service, lock: AnyLock, tell: Emit, detail: str, do: Callable[[], str]) -> str:
    host, started = service.runtime.name, time.monotonic()
    lock.check()
    tell(Event("recover", "started", host, detail=detail))
    words = do()
    tell(Event("recover", "done", host, time.monotonic() - started, words))
    return words


def bring_hosts(service: Service, observed: Observed, lock: AnyLock, tell: Emit) -> list[str]:
    """Every host that is behind serves what the others do. Says of each what was done."""
    hosts, live, record = service.hosts, observed.live, observed.proxy.record
    if hosts:
        hosts.tell()
    if hosts is None or not hosts.behind or live is None or record is None:
        return []
    done = []
    for name, why in list(hosts.behind.items()):
        host, started = hosts.named(name), time.monotonic()
        lock.check()
        tell(Event("sync", "started", name, detail=f"{name} is behind: {why}"))
        if service.swarm:
            words = follow.bring(service.settings, service.swarm, host, live, record)
        else:
            _hand_image(service, host, live)
            words = bring(service.settings, host, live, record, tell)
        tell(Event("sync", "done", name, time.monotonic() - started, words))
        done.append(f"{name}: {words}")
    return done


def _hand_image(service: Service, host: Host, live: Slot) -> None:
    """The host has the image of what is live, if any of the hosts or the registry has it."""
    content = service.settings.content(live.release.digest)
    if host.runtime.image(content):
        return
    if host.registry:
        host.registry.pull(content, live.release.name, lambda words: None)
        return
    assert service.hosts
    source = next((each for each in service.hosts.current if each.runtime.image(content)), None)
    if source is None:
        raise Failed(f"{host.name} can't be brought to {live.release}: no host has its image any more")
    host.runtime.load(source.runtime.save(content))


def follow_tasks(service: Service, observed: Observed, lock: AnyLock, tell: Emit) -> list[str]:
    """The proxies send to the tasks of a swarm where those are now. Says what was amiss."""
    if service.swarm is None or observed.half_made:
        return []
    started = time.monotonic()
    lock.check()
    amiss = follow.renew(service.settings, service.swarm, service.proxy, observed)
    if not amiss:
        return []
    words = f"the proxies send to the tasks where they are now: {', '.join(amiss)}"
    tell(Event("sync", "done", service.runtime.name, time.monotonic() - started, words))
    return [words]


def settle(service: Service, lock: AnyLock, tell: Emit) -> list[str]:
    """The proxies of a swarm know no more of what a run has removed. Says what could not be done."""
    try:
        if service.swarm:
            follow_tasks(service, observe(service.runtime, service.proxy), lock, tell)
    except (BluegreenError, DockerException, RequestException) as error:
        return [f"the proxies' files: {error}"]
    return []
