"""The hosts of a service, reached: a client of each engine, and the drivers that stand on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from docker.errors import DockerException
from requests import RequestException

from bluegreen.errors import BluegreenError, Failed, SettingsError, Unexpected
from bluegreen.history import History
from bluegreen.hosts import Host
from bluegreen.lock import Lock
from bluegreen.proxies.container import ProxyContainer
from bluegreen.proxies.driver import Driver
from bluegreen.proxies.haproxy import HAProxy
from bluegreen.proxies.host import ProxyHost
from bluegreen.proxies.nginx import Nginx
from bluegreen.proxies.place import Place
from bluegreen.registry import Registry
from bluegreen.runtimes.connect import address, address_of, connect
from bluegreen.runtimes.docker import DockerRuntime
from bluegreen.secret import Secrets
from bluegreen.settings import EngineTable, Settings
from bluegreen.vip import Vip, asks
from bluegreen.words import cause

DRIVERS: dict[str, type[Driver]] = {driver.kind: driver for driver in (Nginx, HAProxy)}


def reach(
    settings: Settings, secrets: Callable[[], Secrets], stack: ExitStack, engine: Callable[[], Any] = connect
) -> tuple[list[Host], dict[str, str]]:
    """The hosts that can be reached, all of them asked at once, and why the others can't be.

    `engine` gives a client of the engine that `docker` would use, for where the settings name no hosts.
    Raises BluegreenError if none can. What was opened is closed with the stack.
    """
    if not settings.hosts:
        where, _ = address()
        return [_host(settings, secrets, stack, None, where, engine())], {}
    members: list[Host] = []
    unreachable: dict[str, str] = {}
    for host, opened in _opened(settings.hosts, settings):
        try:
            client = opened.result()
        except SettingsError:
            raise
        except BluegreenError as error:
            unreachable[host.name] = error.message
        else:
            where, _ = address_of(host, settings.root)
            members.append(_host(settings, secrets, stack, host, where, client))
    if not members:
        words = "; ".join(f"{name}: {why}" for name, why in unreachable.items())
        raise BluegreenError(f"none of the hosts can be reached: {words}", hint="are their engines running?")
    return members, unreachable


def managers(settings: Settings, stack: ExitStack) -> tuple[dict[str, Any], dict[str, str]]:
    """A client of each engine of `swarm.managers` that can be reached, by name, and why the others can't be."""
    found: dict[str, Any] = {}
    unreachable: dict[str, str] = {}
    for manager, opened in _opened(settings.swarm.managers, settings):
        try:
            found[manager.name] = opened.result()
        except SettingsError:
            raise
        except BluegreenError as error:
            unreachable[manager.name] = error.message
        else:
            stack.callback(found[manager.name].close)
    return found, unreachable


def _opened(engines: Sequence[EngineTable], settings: Settings) -> Iterator[tuple[EngineTable, Future[Any]]]:
    """Each of the engines with its client, or why there is none; all of them were asked at once."""
    with ThreadPoolExecutor(max(1, len(engines))) as pool:
        opening = [pool.submit(connect, engine, settings.root) for engine in engines]
    return zip(engines, opening, strict=True)


def _host(
    settings: Settings,
    secrets: Callable[[], Secrets],
    stack: ExitStack,
    engine: EngineTable | None,
    where: str,
    client: Any,
) -> Host:
    """One host with its drivers, whose engine is at the address, and in this table if there are several."""
    name, reached_at = (engine.name, engine.reached_at) if engine else ("", "")
    stack.callback(client.close)
    proxy = settings.proxy
    place: Place = ProxyHost(settings, where) if proxy.where == "host" else ProxyContainer(client, proxy)
    driver = DRIVERS[proxy.kind](settings, place)
    if asks(settings):
        driver.tell = Vip(client, settings).tell
    host = Host(
        name,
        client,
        DockerRuntime(client, settings, secrets, name, reached_at),
        driver,
        Registry(client, settings) if settings.registry.server else None,
        History(client, settings.service, proxy.image),
        Lock(client, settings.service, proxy.image),
        tell=driver.tell,
    )
    stack.callback(host.proxy.close)
    return host


@contextmanager
def in_words() -> Iterator[None]:
    """What a library raises in here about an engine is raised as an error in words."""
    try:
        yield
    except (DockerException, RequestException) as error:
        raise engine_failed(error) from error


def engine_failed(error: Exception) -> BluegreenError:
    """The error of a library in words."""
    if isinstance(error, DockerException):  # first, as an answer of the engine is both
        words = str(getattr(error, "explanation", None) or error)
        hint = "docker node ls, on a manager: do more than half of the managers answer?" if "rpc error" in words else ""
        return Failed(f"the Docker engine says: {words}", hint=hint)
    if isinstance(error, RequestException) and isinstance(error, ValueError):
        return Failed(f"the Docker engine's answer can't be read: {error}")
    if isinstance(error, RequestException):
        return Failed(f"the Docker engine does not answer: {cause(error)}", hint="is it running? try: docker info")
    return Unexpected(error)
