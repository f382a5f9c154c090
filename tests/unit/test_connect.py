"""No engine, no permission, no such context: said in words, with what to do."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.errors import DockerException

from bluegreen.errors import BluegreenError
from bluegreen.runtimes.connect import connect, connecting, sweep, unreachable

# The docker SDK leaves a socket that it could not connect to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A home and an environment in which Docker is not set up."""
    for variable in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", os.fspath(tmp_path / ".docker"))
    yield tmp_path
    gc.collect()


def refusal() -> BluegreenError:
    with pytest.raises(BluegreenError) as caught:
        connect()
    assert caught.value.exit_code == 1
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        DockerException("Error while fetching server API version: ('Connection aborted.', PermissionError(13, 'P'))"),
        DockerException("dial unix /var/run/docker.sock: connect: Permission denied"),
    ],
)
def test_no_permission_is_told_with_the_group_to_join(error: Exception) -> None:
    told = unreachable("unix:///var/run/docker.sock", error)
    assert told.message == "no permission to use the Docker engine at unix:///var/run/docker.sock"
    assert "usermod -aG docker" in told.hint


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DockerException("first line\nsecond line"), "first line"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_no_engine_is_told_in_one_line(error: Exception, words: str) -> None:
    told = unreachable("tcp://10.0.0.1:2375", error)
    assert told.message == f"no Docker engine answers at tcp://10.0.0.1:2375: {words}"
    assert told.hint == "is it running? try: docker info"


def test_a_socket_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/none.sock"
    monkeypatch.setenv("DOCKER_HOST", address)
    assert refusal().message == f"no Docker engine answers at {address}: No such file or directory"


def test_a_port_on_which_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
    assert refusal().message == f"no Docker engine answers at tcp://127.0.0.1:{port}: Connection refused"


def test_something_that_is_not_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.getsockname()[1]}")
        server.settimeout(30)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        told = refusal()
        thread.join()
    assert told.message.startswith("no Docker engine answers at tcp://127.0.0.1:")
    assert "\n" not in told.message


class SlowEngine:
    """One that is asked for its version, and answers when it is told to."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix://{path}"
        self.asked, self.may_answer, self.left = threading.Event(), threading.Event(), threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(os.fspath(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            caller, _ = self._socket.accept()
            with caller:
                if not caller.recv(65536):
                    return
                self.asked.set()
                assert self.may_answer.wait(60)
                body = b'{"ApiVersion": "1.41"}'
                with contextlib.suppress(OSError):  # the command has ended
                    caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                    if not caller.recv(65536):
                        self.left.set()

    def close(self) -> None:
        self.may_answer.set()
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.address.removeprefix("unix://"))
        self._thread.join()
        self._socket.close()


@pytest.fixture
def slow_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowEngine]:
    engine = SlowEngine(tmp_path / "engine.sock")
    monkeypatch.setenv("DOCKER_HOST", engine.address)
    yield engine
    engine.close()


def test_an_engine_is_asked_before_its_client_is_needed(slow_engine: SlowEngine) -> None:
    with connecting() as fetch:
        assert slow_engine.asked.wait(60)
        slow_engine.may_answer.set()
        client = fetch()
    assert client.api.api_version == "1.41"
    assert slow_engine.left.wait(60)


def test_a_client_that_nobody_fetched_is_closed_when_the_engine_answers_at_last(slow_engine: SlowEngine) -> None:
    with connecting():
        assert slow_engine.asked.wait(60)
    assert not slow_engine.left.is_set()
    slow_engine.may_answer.set()
    assert slow_engine.left.wait(60)


def test_that_no_engine_answers_is_told_to_who_needs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with connecting() as fetch, pytest.raises(BluegreenError, match="no Docker engine answers"):
        fetch()


def command(directory: Path, settings: str) -> subprocess.CompletedProcess[str]:
    """What became of `bluegreen status` there."""
    (directory / "bluegreen.toml").write_text(settings)
    return subprocess.run(
        [sys.executable, "-m", "bluegreen", "status"], cwd=directory, capture_output=True, text=True, timeout=60
    )


def test_what_is_wrong_with_the_settings_is_told_though_the_engine_is_silent(
    slow_engine: SlowEngine, tmp_path: Path
) -> None:
    ran = command(tmp_path, "service = 7\n")
    assert (ran.returncode, slow_engine.asked.is_set()) == (3, True)
    assert "service: must be a string" in ran.stderr


def test_where_the_settings_name_the_hosts_the_engine_of_docker_is_left_alone(
    slow_engine: SlowEngine, tmp_path: Path
) -> None:
    ran = command(tmp_path, f'service = "s"\nhosts = ["unix://{tmp_path}/none.sock"]\n[app]\nport = 9000\n')
    assert ran.returncode == 1
    assert "none of the hosts can be reached" in ran.stderr
    assert not slow_engine.asked.is_set()


def test_what_it_takes_to_connect_does_without_what_takes_long_to_load() -> None:
    needed = "bluegreen.cli, bluegreen.names, bluegreen.written, bluegreen.runtimes.connect"
    code = f"import sys, {needed}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert "docker" in loaded
    assert not loaded & {"pydantic", "httpx", "jinja2", "rich", "bluegreen.settings", "bluegreen.model"}


@pytest.mark.parametrize("address", ["nonsense", "ftp://x", "tcp://", "tcp://127.0.0.1:99999", "ssh://x:99999"])
def test_an_address_that_cannot_be(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    refusal()


def test_a_context_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "nowhere")
    told = refusal()
    assert "nowhere" in told.message
    assert told.hint == "docker context ls"


def test_the_current_context_of_the_users_file_is_used(home: Path) -> None:
    config = home / ".docker"
    config.mkdir()
    (config / "config.json").write_text(json.dumps({"currentContext": "elsewhere"}))
    assert "elsewhere" in refusal().message


def test_a_users_file_that_is_broken(home: Path) -> None:
    config = home / ".docker"
    config.mkdir()
    (config / "config.json").write_text('{"currentContext": 7')
    assert "\n" not in refusal().message


SSH = """#!/bin/sh
echo "$@" > "$HOME/asked"
echo "ssh: connect to host example.invalid port 22: No route to host" >&2
exit 255
"""


def test_a_host_that_ssh_cannot_reach_is_told_in_the_words_of_ssh(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    program = home / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(SSH)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_HOST", "ssh://deploy@example.invalid:2222")
    told = refusal()
    assert "No route to host" in told.message
    assert told.hint == "try: ssh deploy@example.invalid"
    asked = (home / "asked").read_text()
    assert "-p 2222" in asked
    assert "-- deploy@example.invalid" in asked
    assert "StrictHostKeyChecking" not in asked, "host keys are checked as the user has it"


def test_what_a_killed_command_left_of_its_way_over_ssh_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path = tmp_path / "tmp"
    tmp_path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = ("bluegreen-dead", "bluegreen-alive", "bluegreen-begun", "others")
    for name in names:
        (tmp_path / name).mkdir()
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(tmp_path / "bluegreen-alive" / "docker.sock"))
        alive.listen()
        for name in ("bluegreen-dead", "others"):
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(tmp_path / name / "docker.sock"))
        (tmp_path / "bluegreen-file").touch()
        sweep()
    assert {each.name for each in tmp_path.iterdir()} == {*names, "bluegreen-file"} - {"bluegreen-dead"}
