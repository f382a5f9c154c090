"""The app that the demo and the tests deploy, as a process of its own and without Docker."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SERVER = Path(__file__).parents[2] / "app" / "server.py"


class App:
    def __init__(self, **env: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            env=os.environ | {"RELEASE": "v2", "BROKEN": "", "PORT": str(self.port)} | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=8)
        try:
            connection.request("GET" if body is None else "POST", path, body)
            answer = connection.getresponse()
            assert answer.getheader("X-Release") == "v2"
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture
def start() -> Iterator[Callable[..., App]]:
    apps: list[App] = []

    def started(**env: str) -> App:
        apps.append(App(**env))
        assert "listening" in apps[-1].line()
        return apps[-1]

    yield started
    for app in apps:
        app.process.kill()
        app.process.wait()
        assert app.process.stdout
        app.process.stdout.close()


def test_routes(start: Callable[..., App]) -> None:
    app = start()
    assert app.ask("/version") == (200, b"version 2\n")
    assert app.ask("/health") == (200, b"ok\n")
    assert app.ask("/slow?seconds=0") == (200, b"version 2\n")
    status, stream = app.ask("/stream?seconds=0.25")
    assert status == 200
    assert stream.startswith(b"0 version 2\n1 version 2\n")
    assert b'"Host":"127.0.0.1' in app.ask("/headers")[1].replace(b": ", b":")
    big = os.urandom(5_000_000)
    assert app.ask("/echo", big) == (200, big)


@pytest.mark.parametrize("path", ["/slow?seconds=0.6", "/stream?seconds=0.6"])
def test_sigterm_finishes_what_is_in_flight(start: Callable[..., App], path: str) -> None:
    app = start()
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=8)
    with socket.create_connection(("127.0.0.1", app.port), timeout=8) as idle:
        connection.request("GET", path)  # sent, so it counts as in flight, accepted already or not
        app.process.send_signal(signal.SIGTERM)
        assert "finishing" in app.line()
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.read().endswith(b"version 2\n")
        assert app.process.wait(8) == 0
        assert idle.recv(1) == b""
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        app.ask("/version")


def test_sigterm_lets_a_half_sent_upload_end(start: Callable[..., App]) -> None:
    app = start()
    with socket.create_connection(("127.0.0.1", app.port), timeout=8) as upload:
        upload.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        app.process.send_signal(signal.SIGTERM)
        assert "finishing" in app.line()
        time.sleep(0.3)
        upload.sendall(b"def")
        answer = b"".join(iter(lambda: upload.recv(4096), b""))
    assert b"Connection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\nabcdef")
    assert app.process.wait(8) == 0


def test_never_ready(start: Callable[..., App]) -> None:
    app = start(BROKEN="never-ready")
    assert app.ask("/version")[0] == 503
    assert app.ask("/version")[0] == 503


def test_wrong_version(start: Callable[..., App]) -> None:
    assert start(BROKEN="wrong-version").ask("/version") == (200, b"version 0\n")


def test_fails_where_no_probe_asks(start: Callable[..., App]) -> None:
    app = start(BROKEN="fails")
    assert app.ask("/version") == (200, b"version 2\n")
    assert app.ask("/health") == (200, b"ok\n")
    assert [app.ask(path)[0] for path in ("/headers", "/slow", "/nothing")] == [500] * 3
    assert app.ask("/echo", b"x")[0] == 500


def test_dies_between_answers(start: Callable[..., App]) -> None:
    app = start(BROKEN="dies", DIES_AFTER="0.3")
    assert app.ask("/version") == (200, b"version 2\n")
    # Under way when the time comes, and answered whole.
    assert app.ask("/slow?seconds=0.6") == (200, b"version 2\n")
    assert app.process.wait(8) == 1
    assert "BROKEN=dies" in app.line()


def test_exits_at_once() -> None:
    app = App(BROKEN="exits")
    output, _ = app.process.communicate(timeout=8)
    assert app.process.returncode == 1
    assert "RuntimeError" in output
