"""What the tests on the real engine work with: a service, and the command run on it as a user types it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import docker
import httpx

REPOSITORY = Path(__file__).parents[1]
PREFIX = "bgtest"
IMAGES = "bluegreen-test/hippo_flask"
NGINX = ["nginx:1.22", "nginx:stable"]
HAPROXY = ["haproxy:2.6", "haproxy:3.2"]
MODES = ["live", "reload"]
ALL_WAYS = [(image, mode) for image in [*NGINX, *HAPROXY] for mode in MODES]
PAIRS = [
    [("nginx:1.22", "live"), ("haproxy:2.6", "reload")],
    [("nginx:stable", "reload"), ("haproxy:3.2", "live")],
    [("nginx:1.22", "reload"), ("haproxy:2.6", "live")],
    [("nginx:stable", "live"), ("haproxy:3.2", "reload")],
]
"""Every way once, in pairs of an nginx and a HAProxy. A kind of test takes one pair; all together meet all ways."""
FULL = bool(os.environ.get("BLUEGREEN_SWITCHES"))
"""Whether this is the soak, which tries every combination."""


def ways(turn: int, *but: tuple[str, str]) -> list[tuple[str, str]]:
    """The proxies and ways to switch that a kind of test runs on: a pair of them, in the soak all `but` these."""
    return [way for way in (ALL_WAYS if FULL else PAIRS[turn % len(PAIRS)]) if way not in but]


RELOAD_CLOSES = ("nginx:1.22", "reload")
"""Before 1.27.4 nginx closes idle connections as it reloads, and a request may be on its way on one of them."""

FIRST_PORT = int(os.environ.get("BLUEGREEN_TEST_PORT", "20000"))
PORTS = range(FIRST_PORT, FIRST_PORT + 9000)
"""Below the range from which the kernel gives ports to clients. Two checkouts tested at once take different ones."""

RELEASES = {
    "v1": "",
    "v2": "",
    "v3": "",
    "v4-never-ready": "never-ready",
    "v4-wrong-version": "wrong-version",
    "v4-exits": "exits",
    "v4-dies": "dies",
    "v4-fails": "fails",
    "v4-slow": "slow",
}
"""The releases that tests deploy, and what is broken in them."""


@dataclass
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class TestService:
    """A settings file in a directory of its own, and the command run on it."""

    __test__ = False

    name: str
    directory: Path
    port: int
    env: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "bluegreen", *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command, running."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": os.fspath(REPOSITORY), **self.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that started the tests in the background would have them ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = 180) -> Ran:
        out, err = process.communicate(timeout=timeout)
        return Ran(process.returncode, out, err)

    def run(self, *arguments: str, timeout: float = 180) -> Ran:
        """The command has run to its end, whatever that was."""
        return self.finish(self.start(*arguments), timeout)

    def ok(self, *arguments: str) -> Ran:
        """The command has succeeded."""
        ran = self.run(*arguments)
        assert ran.code == 0, f"bluegreen {' '.join(arguments)} ended with {ran.code}:\n{ran.text}"
        return ran

    def deploy(self, release: str, *arguments: str) -> dict[str, Any]:
        """The release is live; its receipt."""
        return self._receipt("deploy", release, *arguments)

    def rollback(self, *arguments: str) -> dict[str, Any]:
        return self._receipt("rollback", *arguments)

    def status(self) -> dict[str, Any]:
        return self.ok("status", "--json").json()

    def live(self) -> str | None:
        live = self.status()["live"]
        return live["release"] if live else None

    def get(self, path: str = "/version", **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, trust_env=False, **options)

    def containers(self) -> dict[str, str]:
        """The service's containers by name, each with its release."""
        with contextlib.closing(docker.from_env()) as client:
            label = f"bluegreen.service={self.name}"
            found = client.containers.list(all=True, filters={"label": label}, ignore_removed=True)
            return {container.name: container.labels["bluegreen.release"] for container in found}

    def _receipt(self, *arguments: str) -> dict[str, Any]:
        file = self.directory / "receipt.json"
        self.ok(*arguments, "--receipt", os.fspath(file))
        return json.loads(file.read_text())


class Executed(NamedTuple):
    """How a command in a container ended, and what it said."""

    exit_code: int
    output: bytes


def executed(container: Any, command: Sequence[str], *, stderr: bool = True, user: str = "") -> Executed:
    """A command has run in a container.

    Not by the SDK's `exec_run`, whose socket lacks what came in one piece with the answer's head.
    """
    api = container.client.api
    run = api.exec_create(container.id, list(command), stderr=stderr, user=user)["Id"]
    url, how = api._url("/exec/{0}/start", run), {"Detach": False, "Tty": False}
    output = b""
    with contextlib.closing(api._post_json(url, data=how, stream=True)) as response:
        api._raise_for_status(response)
        while len(head := response.raw.read(8)) == 8:
            output += response.raw.read(int.from_bytes(head[4:]))
    eventually(lambda: not api.exec_inspect(run)["Running"], f"{command[0]} has ended")
    return Executed(api.exec_inspect(run)["ExitCode"], output)


Make = Callable[..., TestService]


def eventually(condition: Callable[[], bool], what: str, timeout: float = 60) -> None:
    """The condition has come true. Fails with `what` if it does not within a generous time."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {timeout:g} s: {what}"
        time.sleep(0.05)
