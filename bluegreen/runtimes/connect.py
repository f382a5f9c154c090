"""A client for the engine that `docker` itself would talk to."""

from __future__ import annotations

import atexit
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
from docker.errors import DockerException

from bluegreen.errors import BluegreenError

TIMEOUT = 60
"""Seconds that a call may take before the engine counts as gone; builds and stops ask for more."""


def connect() -> docker.DockerClient:
    """A client whose engine has answered: that of DOCKER_HOST, else of the current context, else the local socket.

    Raises BluegreenError with what to do when no engine answers or its socket refuses this user.
    """
    address, tls = _address()
    try:
        if address.startswith("ssh://"):
            client = docker.DockerClient(base_url=_forward(address), timeout=TIMEOUT)
        elif "DOCKER_HOST" in os.environ:
            client = docker.from_env(timeout=TIMEOUT)
        else:
            client = docker.DockerClient(base_url=address, tls=tls, timeout=TIMEOUT)
        client.ping()
    except (DockerException, OSError) as error:
        raise unreachable(address, error) from error
    return client


def _address() -> tuple[str, Any]:
    address = os.environ.get("DOCKER_HOST", "")
    if address:
        return address, None
    try:
        context = docker.ContextAPI.get_current_context()
    except Exception as error:  # a broken ~/.docker/config.json raises whatever its content provokes
        raise BluegreenError(f"the current Docker context can't be read: {error}") from error
    if context is None:
        name = os.environ.get("DOCKER_CONTEXT") or "of ~/.docker/config.json"
        raise BluegreenError(f"the Docker context {name} does not exist", hint="docker context ls")
    return context.Host or "unix:///var/run/docker.sock", context.TLSConfig


def unreachable(address: str, error: Exception) -> BluegreenError:
    """The error in words that fit its cause: no permission, or no engine."""
    text = str(error)
    if isinstance(error, PermissionError) or "PermissionError" in text or "Permission denied" in text:
        return BluegreenError(
            f"no permission to use the Docker engine at {address}",
            hint="run as root, or add yourself to its group: sudo usermod -aG docker $USER, then log in again",
        )
    return BluegreenError(
        f"no Docker engine answers at {address}: {text.splitlines()[0] if text else type(error).__name__}",
        hint="is it running? try: docker info",
    )


def _forward(address: str) -> str:
    """The address of a local socket that ssh forwards to the engine's socket on the host of `address`.

    One ssh process serves every connection of the run. Its remote command is a `cat` of our pipe, so that it ends
    with this process however that ends. Host keys are checked as ssh is told to check them.
    """
    parts = urlsplit(address)
    directory = tempfile.TemporaryDirectory(prefix="bluegreen-")
    atexit.register(directory.cleanup)
    local = Path(directory.name) / "docker.sock"
    command = ["ssh", "-T", "-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
    command += ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
    command += ["-L", f"{local}:{parts.path or '/var/run/docker.sock'}"]
    if parts.port:
        command += ["-p", str(parts.port)]
    target = f"{parts.username}@{parts.hostname}" if parts.username else str(parts.hostname)
    process = subprocess.Popen(
        [*command, "--", target, "echo ready; exec cat >/dev/null"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for bluegreen, which still needs the connection to undo
    )
    atexit.register(process.kill)
    assert process.stdout is not None
    assert process.stderr is not None
    if process.stdout.readline().strip() != b"ready":
        words = process.stderr.read().decode(errors="replace").strip().splitlines()
        raise BluegreenError(
            f"ssh can't reach {target}: {words[-1] if words else 'it ended without a word'}", hint=f"try: ssh {target}"
        )
    deadline = time.monotonic() + 10
    while not local.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return f"unix://{local}"
