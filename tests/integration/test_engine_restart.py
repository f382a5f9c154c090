"""After its engine or its whole host went down and came back, a host serves what was live, with no command typed."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator

import docker
import httpx
import pytest
from aftermath import Followed, edit
from harness import FULL, MODES, PAIRS, PREFIX, eventually, executed
from hosts import APPS, Host, HostService, running_host, write_settings

pytestmark = pytest.mark.xdist_group("engine-restart")

SECRET = "correct horse battery staple"

# Stands in for the host's init: starts the engine again when it has ended, and ends it before a reboot. What ran before
# is left to the engine to find, as by systemd, which kills neither containerd nor containers with it.
INIT = """
trap 'kill "$!"; wait "$!"; exit 0' TERM
host-entrypoint & wait "$!"
while sleep 0.5; do
    dockerd -H unix:///var/run/docker.sock -H tcp://0.0.0.0:2375 --tls=false & wait "$!"
done
"""


@pytest.fixture(scope="module")
def host(engine: docker.DockerClient, releases: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with running_host(engine, tmp_path_factory.mktemp("host"), ["sh", "-c", INIT]) as host:
        yield host


@pytest.fixture(scope="module")
def services(host: Host, tmp_path_factory: pytest.TempPathFactory) -> list[HostService]:
    """One for each proxy and way to switch, with a proxy of its own."""
    made = []
    ways = list(itertools.product(("nginx:stable", "haproxy:3.2"), MODES)) if FULL else PAIRS[1]
    for index, (image, switch) in enumerate(ways):
        name = f"{PREFIX}-{os.getpid()}-{image.partition(':')[0]}-{switch}"
        service = HostService(name, tmp_path_factory.mktemp(switch), 8080 + index, host=host)
        subnet = APPS.replace(".0/24", f".{64 * index}/26")
        write_settings(service, f"0.0.0.0:{service.port}", image=image, url=service.url, switch=switch, subnet=subnet)
        with (service.directory / "bluegreen.toml").open("a") as file:
            file.write('\n[app.secrets]\nPASSWORD = { env = "PASSWORD" }\n')
        service.env = {"DOCKER_HOST": host.tcp, "PASSWORD": SECRET}
        made.append(service)
    return made


def restart(host: Host) -> None:
    """The engine is told to end, and stops every container."""
    host.signal("TERM", host.dockerd())


def kill(host: Host) -> None:
    """The engine dies, and its containers run on without it."""
    host.signal("KILL", host.dockerd())


def reboot(host: Host) -> None:
    host.container.restart(timeout=60)


def cut_power(host: Host) -> None:
    host.container.kill()
    host.container.start()


EVENTS = [restart, kill, reboot, cut_power]


@pytest.mark.parametrize("event", EVENTS)
def test_what_was_live_is_served_again_with_no_command_typed(
    host: Host, services: list[HostService], event: Callable[[Host], None]
) -> None:
    if not FULL:  # the one and the other by turns
        services = services[EVENTS.index(event) % 2 :][:1]
    for service in services:
        service.env["DOCKER_HOST"] = host.tcp
        if live(service) != ("v1", "blue"):
            service.ok("down", "--yes")
            service.deploy("v1")
        service.deploy("v2")  # takes the second colour: the first one is what a proxy would fall back to

    engine, started = host.dockerd(), starts(host, services)
    event(host)
    eventually(lambda: event is reboot or event is cut_power or host.dockerd() not in (0, engine), "a new engine")
    host.wait()
    for service in services:
        eventually(lambda service=service: version(service) == "version 2", f"{service.name} serves v2 again", 120)
    assert all(starts(host, services)[name] != before for name, before in started.items()), "nothing was restarted"

    for service in services:
        service.env["DOCKER_HOST"] = host.tcp
        assert secrets(host, service) == [SECRET]
        status = service.status()
        assert (status["live"]["release"], status["live"]["colour"]) == ("v2", "green")
        assert status["live"]["replicas"] == {"running": 1, "wanted": 1}
        assert status["rollback"]["release"] == "v1"
        assert status["rollback"]["ready"]
        assert status["proxy"]["running"]
        assert status["unfinished"] is None
        assert status["lock"] is None

        receipt = service.rollback()
        assert (receipt["result"], receipt["to"]) == ("done", "v1")
        assert receipt["requests"]["failed"] == 0, receipt["requests"]
        assert version(service) == "version 1"


@contextlib.contextmanager
def live_restore(host: Host) -> Iterator[None]:
    """The engine lets containers run on while it is away."""
    set_to = "mkdir -p /etc/docker; echo '{\"live-restore\": %s}' >/etc/docker/daemon.json; kill -HUP $(pidof dockerd)"

    def is_on() -> bool:
        with host.engine() as client:
            return bool(client.info()["LiveRestoreEnabled"])

    host.sh(set_to % "true")
    eventually(is_on, "live-restore is on")
    try:
        yield
    finally:
        host.sh(set_to % "false")


IN_THE_MIDDLE = [(restart, False, 0), (restart, True, 1), (cut_power, False, 1)]


@pytest.mark.parametrize(
    ("event", "restores", "index"),
    [(event, restores, index) for event, restores, _ in IN_THE_MIDDLE for index in range(4)] if FULL else IN_THE_MIDDLE,
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_in_the_middle_of_a_deploy_the_old_release_serves_again_and_the_next_command_goes_on(
    host: Host, services: list[HostService], event: Callable[[Host], None], restores: bool, index: int
) -> None:
    service = services[index]
    host.wait()
    service.env["DOCKER_HOST"] = host.tcp  # which was another before the engine restarted
    service.ok("down", "--yes")
    service.deploy("v1")
    edit(service, "seconds = 0.5", "seconds = 3600")
    with live_restore(host) if restores else contextlib.nullcontext():
        engine = host.dockerd()
        run = Followed(service, "deploy", "v2")
        run.until("bake", "started")
        started = starts(host, [service])
        if event is restart:
            event(host)
            ran = run.end()
            assert host.dockerd() != engine
            assert ran.code == 1, ran.text
            assert run.receipt()["result"] == "undone"
            assert "v1 still serves" in run.events[-1]["message"]
            assert ("undo", "progress") in [(each.get("step"), each.get("event")) for each in run.events]
            assert (starts(host, [service]).items() <= started.items()) is restores, "what is left has run on, or not"
        else:
            run.process.kill()  # it ran on that host
            event(host)
            host.wait()
            run.end()
        eventually(lambda: version(service) == "version 1", "v1 is served again", 120)
    edit(service, "seconds = 3600", "seconds = 0.5")
    service.env["DOCKER_HOST"] = host.tcp
    status = service.status()
    assert bool(status["unfinished"]) is (event is not restart)
    receipt = service.deploy("v2", "--wait", "60")
    assert (receipt["from"], receipt["requests"]["failed"]) == ("v1", 0)
    assert list(service.containers().values()) == ["v2"]
    assert service.status()["unfinished"] is None


def live(service: HostService) -> tuple[str, str] | None:
    slot = service.status()["live"]
    return (slot["release"], slot["colour"]) if slot else None


def version(service: HostService) -> str:
    try:
        return service.get().text.strip()
    except httpx.HTTPError:
        return ""


def secrets(host: Host, service: HostService) -> list[str]:
    """The secret of each container, as the app finds it."""
    with host.engine() as client:
        found = [client.containers.get(name) for name in service.containers()]
        return [str(executed(each, ["cat", "/run/secrets/PASSWORD"]).output.decode()) for each in found]


def starts(host: Host, services: list[HostService]) -> dict[str, str]:
    """When each container of the services was last started."""
    with host.engine() as client:
        return {
            name: client.containers.get(name).attrs["State"]["StartedAt"]
            for service in services
            for name in service.containers()
        }
