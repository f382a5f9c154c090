"""A way to the engine that a test can make slow, cut and mend."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator


class Relay:
    """Passes connections to a port of the loopback address on to a unix socket."""

    def __init__(self, port: int, to: str) -> None:
        self.address = f"tcp://127.0.0.1:{port}"
        self.delay = 0.0
        """Seconds by which every piece of an answer is held back."""
        self._port, self._to = port, to
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.mend()

    def mend(self) -> None:
        """It takes connections."""
        listener = socket.create_server(("127.0.0.1", self._port))
        self._listener = listener
        threading.Thread(target=self._accept, args=[listener], daemon=True).start()

    def cut(self) -> None:
        """Every connection is cut, and new ones are refused."""
        with self._lock:
            ends, self._listener = [*self._open, self._listener], None
        for end in ends:
            if end:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(self._to)
                with self._lock:
                    self._open |= {client, engine}
                threading.Thread(target=self._pump, args=[client, engine, False], daemon=True).start()
                threading.Thread(target=self._pump, args=[engine, client, True], daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if is_answer and self.delay:
                    time.sleep(self.delay)
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def relay(port: int, to: str) -> Iterator[Relay]:
    """A relay, cut at the end."""
    made = Relay(port, to)
    try:
        yield made
    finally:
        made.cut()
