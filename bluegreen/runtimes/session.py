"""A two-way conversation with a process: in a container over the engine's API, or started here."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bluegreen.errors import BluegreenError


class SessionEnded(BluegreenError):
    """The process, its container or the connection to the engine is gone."""


class Talk(ABC):
    """Lines and bytes to a process's standard input and back from its standard output.

    Every call raises SessionEnded when the other end is gone or silent for too long.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.errors = bytearray()
        """What the process wrote to its standard error."""

    def read_line(self) -> bytes:
        """The next line, without its end."""
        while (end := self._buffer.find(b"\n")) < 0:
            self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        while len(self._buffer) < count:
            self._receive()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    @abstractmethod
    def send(self, data: bytes) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _receive(self) -> None:
        """More of the process's output stands in the buffer."""


class Session(Talk):
    """With a process in a container, its outputs unmixed from the engine's frames; `timeout` is in seconds."""

    def __init__(self, raw: Any, *, timeout: float) -> None:
        super().__init__()
        self._raw = raw  # keeps the response alive, which owns the socket
        self._socket: socket.socket = getattr(raw, "_sock", raw)
        self._socket.settimeout(timeout)

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise SessionEnded(f"the connection to the container is gone: {error}") from error

    def listen(self, output: Callable[[bytes], None], watch: Callable[[], None], *, until: float) -> bool:
        """`output` has got all that the process wrote, and its other end is gone; `watch` was called now and then.

        False if that took longer than `until`, by the monotonic clock.
        """
        buffer = bytearray()
        while time.monotonic() < until:
            watch()
            try:
                piece = self._socket.recv(65536)
            except TimeoutError:
                continue
            except OSError:  # the connection is cut, which says nothing of the process
                return True
            if not piece:
                return True
            buffer += piece
            for frame in _frames(buffer):
                output(frame)
        return False

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._raw.close()
        with contextlib.suppress(OSError):
            self._socket.close()

    def _receive(self) -> None:
        kind, length = struct.unpack(">BxxxL", self._exactly(8))
        data = self._exactly(length)
        if kind == 2:
            self.errors += data
        else:
            self._buffer += data

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                piece = self._socket.recv(count - len(data))
            except OSError as error:
                raise SessionEnded(f"the connection to the container is gone: {error}") from error
            if not piece:
                words = self.errors.decode(errors="replace").strip()
                raise SessionEnded(f"the process in the container has ended{': ' + words if words else ''}")
            data += piece
        return bytes(data)


class LocalSession(Talk):
    """With a process that this one starts, here or, through ssh, elsewhere; `timeout` is in seconds."""

    def __init__(self, command: Sequence[str], *, timeout: float) -> None:
        super().__init__()
        self._timeout = timeout
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for bluegreen, which still needs it to undo
            )
        except OSError as error:
            raise SessionEnded(f"{command[0]} can't be run: {error.strerror}") from error

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            while data:
                data = data[self._process.stdin.write(data) or 0 :]
        except OSError as error:
            raise self._ended() from error

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _receive(self) -> None:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], self._timeout)[0]:
            raise SessionEnded(f"no answer within {self._timeout:g} s")
        data = self._process.stdout.read(65536)
        if not data:
            raise self._ended()
        self._buffer += data

    def _ended(self) -> SessionEnded:
        _, errors = self._process.communicate()
        words = errors.decode(errors="replace").strip()
        return SessionEnded(f"the process at the proxy's place has ended{': ' + words if words else ''}")


def _frames(buffer: bytearray) -> Iterator[bytes]:
    """What the engine's whole frames at the beginning of the buffer hold; they are taken off it."""
    while len(buffer) >= 8 and len(buffer) >= (end := 8 + int.from_bytes(buffer[4:8], "big")):
        yield bytes(buffer[8:end])
        del buffer[:end]
