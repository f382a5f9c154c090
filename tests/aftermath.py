"""What tests of failures look at: everything that a service has on the engine, and a command while it runs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import docker
from harness import FULL, IMAGES, Ran, TestService, eventually

GENTLE = {"keepalive": 8, "fresh": 3, "slow": 0, "stream": 0, "post": 0, "rate": 120 if FULL else 80}
"""A load of GET requests alone, for hosts on which other things have to happen meanwhile."""


def things(engine: docker.DockerClient, service: TestService) -> set[str]:
    """The containers (with their ids), networks and volumes of the service and of its proxy, but not its history."""
    names = {
        *(f"container {each.name} {each.short_id}" for each in engine.containers.list(all=True, ignore_removed=True)),
        *(f"network {each.name}" for each in engine.networks.list()),
        *(f"volume {each.name}" for each in engine.volumes.list()),
    }
    address = f"-127.0.0.1-{service.port}"
    mine = {name for name in names if f"{service.name}-" in f"{name.split()[1]}-" or address in name}
    return {name for name in mine if "bluegreen-history-" not in name}


def edit(service: TestService, old: str, new: str) -> None:
    """The settings file has `new` in the place of `old`."""
    file = service.directory / "bluegreen.toml"
    text = file.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the settings"
    file.write_text(text.replace(old, new))


def tells_none_of(secrets: Iterable[str], engine: docker.DockerClient, service: TestService, *ran: Ran) -> None:
    """No secret stands in what was printed or written, nor in what the engine says of what it has."""
    texts = {f"output {index}": each.text for index, each in enumerate(ran)}
    texts |= {str(path): path.read_text(errors="replace") for path in service.directory.rglob("*") if path.is_file()}
    for container in engine.containers.list(all=True, ignore_removed=True):
        texts[f"inspect {container.name}"] = json.dumps(container.attrs)
        if service.name in container.name:
            texts[f"log {container.name}"] = container.logs(tail=500).decode(errors="replace")
    texts |= {f"volume {each.name}": json.dumps(each.attrs) for each in engine.volumes.list()}
    for image in engine.api.images(name=IMAGES, quiet=True):
        with contextlib.suppress(docker.errors.ImageNotFound):
            texts[f"image {image}"] = json.dumps(engine.api.inspect_image(image))
    secrets = list(secrets)
    assert secrets
    for where, text in texts.items():
        for secret in secrets:
            assert secret not in text, where


def command_lines(process: subprocess.Popen[str]) -> set[bytes]:
    """The command lines of all processes that were seen on this machine until this one had ended."""
    seen: set[bytes] = set()
    end = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < end:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                seen.add(path.read_bytes())
    return seen


class Followed:
    """A command with --json, and the events that it has told so far."""

    def __init__(self, service: TestService, *arguments: str) -> None:
        self._file = service.directory / "followed.json"
        self.process = service.start(*arguments, "--json", "--receipt", str(self._file))
        self.events: list[dict[str, Any]] = []
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def until(self, step: str, event: str) -> None:
        """The event has come."""

        def seen() -> bool:
            over = not self._reader.is_alive()
            if any((each.get("step"), each.get("event")) == (step, event) for each in self.events):
                return True
            assert not over, f"it ended before {step} {event}: {self.end().text}"
            return False

        eventually(seen, f"{step} {event}", timeout=120)

    def end(self, timeout: float = 120) -> Ran:
        """It has ended."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._reader.join(10)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        err = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return Ran(code, "".join(self._lines), err)

    def receipt(self) -> dict[str, Any]:
        return json.loads(self._file.read_text())

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self._lines.append(line)
            self.events.append(json.loads(line))
