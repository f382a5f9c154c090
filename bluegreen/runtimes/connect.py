"""A client for the engine that `docker` itself would talk to."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import docker
from docker.errors import DockerException

from bluegreen.errors import BluegreenError, SettingsError
from bluegreen.words import cause

if TYPE_CHECKING:  # the settings take longer to load than an engine to answer: see `connecting`
    from bluegreen.settings import EngineTable

TIMEOUT = 60
"""Seconds that a call may take before the engine counts as gone; builds and stops ask for more."""

HEAD_START = 0.02
"""Seconds in which an engine may answer before other work begins beside it, as one on this machine does. A thread that
works beside a busy one gets its turn only 5 ms after each time that it has waited."""

LOCAL = "unix:///var/run/docker.sock"
"""Where an engine is when nothing says otherwise."""


def connect(host: EngineTable | None = None, root: Path = Path()) -> docker.DockerClient:
    """A client whose engine has answered: the host's, else that of DOCKER_HOST, else of the context, else the local
    socket. `root` is the directory that the paths of the settings are relative to.

    Raises BluegreenError with what to do when no engine answers or its socket refuses this user.
    """
    where, tls = address_of(host, root) if host else address()
    try:
        # Each asks the engine for its version; that it answers needs no further call.
        if where.startswith("ssh://"):
            return docker.DockerClient(base_url=_forward(where, strict=host is not None), timeout=TIMEOUT)
        return docker.DockerClient(base_url=where, tls=with_own_authority(tls), timeout=TIMEOUT)
    except (DockerException, OSError, ValueError) as error:
        raise unreachable(where, error) from error


@contextlib.contextmanager
def connecting() -> Iterator[Callable[[], docker.DockerClient]]:
    """`connect` has begun, while there is more to do before its client is needed; what is given waits for that.

    An engine on another machine takes some round trips. A client that nobody came to fetch is closed.
    """
    opened: Future[docker.DockerClient] = Future()

    def open_it() -> None:
        try:
            opened.set_result(connect())
        except Exception as error:  # it is for whoever wants the client
            opened.set_exception(error)

    # A daemon, as a command that ends before it needs the engine does not wait for one that is silent.
    Thread(target=open_it, daemon=True).start()
    wait([opened], timeout=HEAD_START)
    try:
        yield opened.result
    finally:
        opened.add_done_callback(_close)


def _close(opened: Future[docker.DockerClient]) -> None:
    if not opened.exception():
        opened.result().close()


def address_of(host: EngineTable, root: Path) -> tuple[str, Any]:
    """Where the engine of one of several hosts is, and what TLS needs for it."""
    if "://" not in host.engine:
        return _of_context(_directory(), host.engine)
    if not host.engine.startswith("tcp://") or not host.tls:
        return host.engine, None
    given = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
    directory = root / host.certificates if host.certificates else Path(given)
    try:
        tls = _tls(directory, skip=False)
    except DockerException as error:
        raise unreachable(host.engine, error) from error
    if tls is None:
        raise SettingsError(
            f"hosts: there are no certificates for {host.engine} in {directory}",
            hint="dockerd's --tlsverify needs ca.pem, cert.pem and key.pem; or ask for what is open to all who reach"
            f' it: {{ engine = "{host.engine}", tls = false }}',
        )
    return host.engine, tls


def address() -> tuple[str, Any]:
    """The engine that `docker` itself would choose, and what TLS needs for it.

    Not by the SDK, which knows nothing of DOCKER_CONTEXT and finds no context where there is no config.json.
    """
    host = os.environ.get("DOCKER_HOST", "")
    if host:
        try:
            return host, docker.utils.kwargs_from_env().get("tls")
        except DockerException as error:  # certificates that are not there
            raise unreachable(host, error) from error
    return _of_context(_directory(), os.environ.get("DOCKER_CONTEXT", ""))


def _directory() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))


def _of_context(directory: Path, name: str) -> tuple[str, Any]:
    """What the context says; without a name, the current one."""
    config = directory / "config.json"
    try:
        if not name and config.exists():
            name = json.loads(config.read_text()).get("currentContext", "")
        if name in ("", "default"):
            return LOCAL, None
        place = hashlib.sha256(name.encode()).hexdigest()
        meta = directory / "contexts" / "meta" / place / "meta.json"
        if not meta.exists():
            raise BluegreenError(f"the Docker context {name} does not exist", hint="docker context ls")
        endpoint = json.loads(meta.read_text())["Endpoints"]["docker"]
        host = endpoint.get("Host") or LOCAL
        tls = _tls(directory / "contexts" / "tls" / place / "docker", skip=bool(endpoint.get("SkipTLSVerify")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DockerException) as error:
        raise BluegreenError(f"the Docker context {name or 'of ' + str(config)} can't be read: {error}") from error
    return host, tls if host.startswith("tcp://") else None


def _tls(directory: Path, *, skip: bool) -> Any:
    """TLS with the certificates of a context; None where it has none and asks for no TLS."""
    authority, cert, key = (directory / f"{name}.pem" for name in ("ca", "cert", "key"))
    if not skip and not authority.exists() and not cert.exists():
        return None
    return docker.tls.TLSConfig(
        client_cert=(str(cert), str(key)) if cert.exists() else None,
        ca_cert=str(authority) if authority.exists() else None,
        verify=not skip,
    )


def with_own_authority(tls: Any) -> Any:
    """The same TLS, in which REQUESTS_CA_BUNDLE does not take the place of the engine's own authority."""
    if not tls:
        return tls
    configure = tls.configure_client

    def configured(client: Any) -> None:
        configure(client)
        client.trust_env = False

    tls.configure_client = configured
    return tls


def unreachable(address: str, error: Exception) -> BluegreenError:
    """The error in words that fit its cause: no permission, or no engine."""
    text = str(error)
    if isinstance(error, PermissionError) or "PermissionError" in text or "Permission denied" in text:
        return BluegreenError(
            f"no permission to use the Docker engine at {address}",
            hint="run as root, or add yourself to its group: sudo usermod -aG docker $USER, then log in again",
        )
    return BluegreenError(
        f"no Docker engine answers at {address}: {cause(error)}",
        hint="is it running? try: docker info",
    )


def sweep() -> None:
    """The directories are gone whose socket nobody serves any more, as their command was killed."""
    for directory in Path(tempfile.gettempdir()).glob("bluegreen-*"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(directory / "docker.sock"))
            except ConnectionRefusedError:
                shutil.rmtree(directory, ignore_errors=True)
            except OSError:  # there is none (yet), or it is somebody else's
                pass


def _forward(address: str, *, strict: bool = False) -> str:
    """The address of a local socket that ssh forwards to the engine's socket on the host of `address`.

    One ssh process serves every connection of the run. Its remote command is a `cat` of our pipe, so that it ends
    with this process however that ends. Host keys are checked as ssh is told to check them.
    """
    parts = urlsplit(address)
    if not parts.hostname:
        raise BluegreenError(f"no Docker engine can be at {address}: it names no host", hint="docker context ls")
    sweep()
    directory = tempfile.TemporaryDirectory(prefix="bluegreen-")
    atexit.register(directory.cleanup)
    local = Path(directory.name) / "docker.sock"
    # One of several hosts is trusted with what the others run, so that its key must be known.
    known = ["-o", "StrictHostKeyChecking=yes"] if strict else []
    command = ["ssh", "-T", *known, "-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
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
