"""A two-way conversation with a process in a container, over the engine's API."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

from bluegreen.errors import BluegreenError


class SessionEnded(BluegreenError):
    """The process, its container or the connection to the engine is gone."""


class Session:
    """Bytes to a process's standard input and back from its outputs, unmixed from the engine's frames.

    Every call raises SessionEnded when the other end is gone or silent for longer than `timeout` seconds.
    """

    def __init__(self, raw: Any, *, timeout: float) -> None:
        self._raw = raw  # keeps the response alive, which owns the socket
        self._socket: socket.socket = getattr(raw, "_sock", raw)
        self._socket.settimeout(timeout)
        self._buffer = bytearray()
        self.errors = bytearray()
        """What the process wrote to its standard error."""

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise SessionEnded(f"the connection to the container is gone: {error}") from error

    def read_line(self) -> bytes:
        """The next line of standard output, without its end."""
        while (end := self._buffer.find(b"\n")) < 0:
            self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes of standard output."""
        while len(self._buffer) < count:
            self._receive()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

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
