"""What can't be meant is refused in words, with the setting's path and what to do, and changes nothing."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import docker
import pytest
from aftermath import edit, things
from docker.types import IPAMConfig, IPAMPool
from harness import FULL, PREFIX, Make, Ran, TestService

COMMANDS = ["build", "deploy", "down", "init", "rollback", "status", "watch"]


def refused(ran: Ran, code: int, *words: str) -> None:
    assert ran.code == code, ran.text
    for word in words:
        assert word in ran.err
    assert "Traceback" not in ran.text


def each_with_one(commands: list[list[str]], others: list[str]) -> list[tuple[list[str], str]]:
    """Each of the commands with each of the others, of which the soak has time for all; else with one, by turns."""
    if FULL:
        return list(itertools.product(commands, others))
    turns = range(max(len(commands), len(others)))
    return [(commands[turn % len(commands)], others[turn % len(others)]) for turn in turns]


@pytest.mark.parametrize(
    ("command", "where"),
    each_with_one(
        [["status"], ["deploy", "v1"], ["deploy", "v1", "--plan"], ["watch"]], ["default", "option", "variable"]
    ),
)
def test_a_missing_settings_file_is_named_and_the_way_to_get_one(
    make_service: Make, command: list[str], where: str
) -> None:
    service = make_service()
    (service.directory / "bluegreen.toml").unlink()
    if where == "default":
        refused(service.run(*command), 3, "no settings file bluegreen.toml", "bluegreen init")
    elif where == "option":
        refused(service.run("-c", "other.toml", *command), 3, "other.toml")
    else:
        service.env["BLUEGREEN_CONFIG"] = "third.toml"
        refused(service.run(*command), 3, "third.toml")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[app]\n", "[app\n", ["bluegreen.toml is not TOML", "line"]),
        ("[app]\nport", "[app]\nprot", ["app.prot: is not known; did you mean app.port?", "app.port: is missing"]),
        ("port = 9000", "port = 90000", ["app.port: must be at most 65535, not 90000"]),
        ("port = 9000", "port = 0", ["app.port: must be at least 1, not 0"]),
        ('listen = "127.0.0.1:', 'listen = "127.0.0.1:9', ["proxy.listen: "]),
        ('path = "/version"', 'path = "/v; }"', ["probe.path: "]),
        ("hosts = []", 'hosts = ["a.example; }"]', ["proxy.hosts[0]: "]),
    ],
)
def test_wrong_settings_are_refused_with_their_path(
    make_service: Make, engine: docker.DockerClient, old: str, new: str, words: list[str]
) -> None:
    service = make_service()
    edit(service, old, new)
    refused(service.run("deploy", "v1"), 3, *words)
    assert things(engine, service) == set()


def test_all_problems_are_told_at_once(make_service: Make) -> None:
    service = make_service(app='replicas = "two"\nmemory = "1x"', extra='[retire]\nold = "burn"')
    refused(service.run("status"), 3, "has 3 problems", "app.replicas: ", "app.memory: ", "retire.old: ")


@pytest.mark.parametrize(
    ("command", "release"),
    each_with_one(
        [["deploy", "--plan"], ["deploy"], ["rollback"], ["build"]],
        ["v2;x", "../v2", "", "v" * 200, "v2\n}", "v2\x1b[31m", "-v2", "v2 "],
    ),
)
def test_a_name_that_no_image_tag_can_have_is_refused(
    make_service: Make, engine: docker.DockerClient, command: list[str], release: str
) -> None:
    service = make_service()
    ran = service.run(*command, "--", release)
    refused(ran, 2, "can't be the name of a release", "the image's tag")
    assert "\x1b" not in ran.text
    assert things(engine, service) == set()


@pytest.mark.parametrize(
    "command", [["deploy"], ["build"], ["deploy", "v1", "v2"], ["deploy", "v1", "--wiat"], ["nothing"], ["watch", "x"]]
)
def test_a_command_line_that_makes_no_sense_exits_2(make_service: Make, command: list[str]) -> None:
    refused(make_service().run(*command), 2, "Usage: ", "Error: ")


def test_a_subnet_that_overlaps_is_refused_with_its_path(make_service: Make, engine: docker.DockerClient) -> None:
    subnet, pool = "10.213.77.0/24", IPAMPool(subnet="10.213.77.128/25")
    network = engine.networks.create(f"{PREFIX}-{os.getpid()}-overlap", ipam=IPAMConfig(pool_configs=[pool]))
    try:
        service = make_service(extra=f'[network]\nsubnet = "{subnet}"')
        ran = service.run("deploy", "v1")
        refused(ran, 3, f"network.subnet: {subnet} overlaps the network {network.name}")
        assert things(engine, service) == set()
    finally:
        network.remove()


def test_another_subnet_than_the_network_has_is_refused_with_its_path(
    make_service: Make, engine: docker.DockerClient
) -> None:
    service = make_service()
    service.deploy("v1")
    before = things(engine, service)
    edit(service, "[bake]", '[network]\nsubnet = "10.213.78.0/24"\n\n[bake]')
    refused(service.run("deploy", "v2"), 3, "network.subnet: 10.213.78.0/24", "v1 still serves")
    assert things(engine, service) == before


@pytest.mark.parametrize(
    ("command", "kind"),
    each_with_one(
        [["status"], ["deploy", "v1"], ["rollback"], ["down", "--yes"], ["build", "v1"]], ["socket", "port"]
    ),
)
def test_without_an_engine_the_words_say_so(make_service: Make, command: list[str], kind: str) -> None:
    service = make_service()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can have it
        address = "unix:///nonexistent/docker.sock" if kind == "socket" else f"tcp://127.0.0.1:{closed.getsockname()[1]}"
        service.env["DOCKER_HOST"] = address
        refused(service.run(*command), 1, f"no Docker engine answers at {address}", "docker info")


@pytest.mark.parametrize("address", ["nonsense", "gopher://127.0.0.1:70", "tcp://", "ssh://"])
def test_an_address_that_is_no_engines_is_refused_in_words(make_service: Make, address: str) -> None:
    service = make_service()
    service.env["DOCKER_HOST"] = address
    refused(service.run("status"), 1, "Docker", address)


def test_without_permission_on_the_socket_the_words_say_so(make_service: Make, tmp_path: Path) -> None:
    service = make_service()
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))
        server.listen()
        path.chmod(0)
        service.env["DOCKER_HOST"] = f"unix://{path}"
        service.env["HOME"] = os.fspath(tmp_path)
        command = service.command("status")
        if os.geteuid() == 0:  # root is only refused without the capability to pass over permissions
            command = ["setpriv", "--bounding-set=-dac_override", "--", *command]
        environment = {**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parents[2]), **service.env}
        done = subprocess.run(
            command, cwd=service.directory, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    ran = Ran(done.returncode, done.stdout, done.stderr)
    refused(ran, 1, f"no permission to use the Docker engine at unix://{path}", "usermod -aG docker")


@pytest.mark.parametrize("how", ["variable", "file"])
def test_an_unknown_context_is_named(make_service: Make, how: str) -> None:
    service = make_service()
    service.env["DOCKER_HOST"] = ""
    service.env["DOCKER_CONFIG"] = os.fspath(service.directory)
    name = f"{PREFIX}-no-such-context"
    if how == "variable":
        service.env["DOCKER_CONTEXT"] = name
    else:
        (service.directory / "config.json").write_text(f'{{"currentContext": "{name}"}}')
    refused(service.run("status"), 1, name, "docker context ls")


@pytest.mark.parametrize("also", ["", "v1"])
def test_a_port_that_is_taken_is_said_in_words(
    make_service: Make, engine: docker.DockerClient, free_port: Callable[[], int], also: str
) -> None:
    service = make_service()
    if also:  # a service that is live and is moved to another port keeps its place
        service.deploy(also)
    before = things(engine, service)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = free_port()
        other.bind(("127.0.0.1", port))
        other.listen()
        edit(service, f'listen = "127.0.0.1:{service.port}"', f'listen = "127.0.0.1:{port}"')
        ran = service.run("deploy", "v2")
    refused(ran, 1, f"127.0.0.1:{port} is taken by another program", "ss -ltnp", "proxy.listen")
    moved = TestService(service.name, service.directory, port)
    assert things(engine, service) | things(engine, moved) == before
    if also:  # nor does a deploy that succeeds take from the old address what serves there
        service.deploy("v2")
        assert moved.get().text.strip() == "version 2"
        assert service.get().text.strip() == "version 1"
        engine.containers.get(f"bluegreen-proxy-127.0.0.1-{service.port}").remove(force=True)
        moved.ok("down", "--yes")


def test_a_witness_that_cannot_reach_the_proxy_refuses_to_deploy_unseen(
    make_service: Make, engine: docker.DockerClient, free_port: Callable[[], int]
) -> None:
    service = make_service()
    service.deploy("v1")
    before = things(engine, service)
    edit(service, "hosts = []", f'hosts = []\nurl = "http://127.0.0.1:{free_port()}"')
    refused(service.run("deploy", "v2"), 1, "the witness can't reach the proxy", "v1 still serves", "--no-witness")
    assert things(engine, service) == before
    receipt = service.deploy("v2", "--no-witness")
    assert (receipt["result"], receipt["witness"], receipt["requests"]["total"]) == ("done", False, 0)
    assert service.get().text.strip() == "version 2"


def test_init_writes_settings_that_load_and_overwrites_none(make_service: Make) -> None:
    service = make_service()
    file = service.directory / "bluegreen.toml"
    file.unlink()
    assert "bluegreen.toml" in service.ok("init", "--service", "shop").out
    assert service.ok("status", "--json").json()["service"] == "shop"
    file.write_text("mine")
    refused(service.run("init"), 2, "bluegreen.toml is there already")
    assert file.read_text() == "mine"
    file.unlink()
    refused(service.run("init", "--service", "a;b"), 2, "can't be the name of a service")
    assert not file.exists()


def test_watch_counts_who_answers(make_service: Make) -> None:
    service = make_service()
    none = service.ok("watch", "--seconds", "0.3", "--json").json()
    assert none["failed"] == none["total"] > 0
    service.deploy("v1")
    summary = service.ok("watch", "--seconds", "1", "--json").json()
    assert summary["total"] == summary["ok"] > 0
    assert summary["failed"] == 0
    assert summary["by_answer"] == {"version 1": summary["total"]}
    assert "version 1" in service.ok("watch", "--seconds", "0.3").out


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)])
def test_every_command_explains_itself_with_no_settings_and_no_engine(
    make_service: Make, command: list[str]
) -> None:
    service = make_service()
    shutil.rmtree(service.directory)
    service.directory.mkdir()
    service.env["DOCKER_HOST"] = "unix:///nonexistent"
    ran = service.ok(*command, "--help")
    assert f"bluegreen {' '.join(command)}".strip() in ran.out.partition("\n")[0]
    if not command:
        assert all(f"\n  {name}  " in ran.out for name in COMMANDS)
