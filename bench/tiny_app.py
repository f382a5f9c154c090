"""An app that answers what `tests/load.py` asks, and costs next to nothing: only the standard library, no threads.

On SIGTERM it takes no more connections, closes each after its next answer, and ends when nothing has been in flight for
a moment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

RELEASE = os.environ.get("RELEASE", "v0")
VERSION = f"version {RELEASE.removeprefix('v')}\n".encode()
LINGER = 0.1
"""Seconds of quiet before the end, for a request that is on its way when the last answer leaves."""

connections: set[Connection] = set()
leaving = False


class Connection(asyncio.Protocol):
    """One connection: one request after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.unread, self.busy = transport, b"", False
        connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self.unread += data
        self.serve()

    def serve(self) -> None:
        """Answers the next request if it is here in full."""
        head, end, rest = self.unread.partition(b"\r\n\r\n")
        if self.busy or not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self.unread, self.busy = rest[length:], True
        self.last = leaving or headers.get("connection", "").lower() == "close"
        parts = urlsplit(target)
        seconds = float(parse_qs(parts.query).get("seconds", ["0"])[0])
        if parts.path == "/stream":
            self.write(self.head(b"Transfer-Encoding: chunked"))
            self.stream(0, time.monotonic() + seconds)
        elif parts.path == "/slow":
            asyncio.get_running_loop().call_later(seconds, self.answer, VERSION)
        else:
            self.answer(rest[:length] if method == "POST" else VERSION)

    def head(self, more: bytes) -> bytes:
        close = b"Connection: close\r\n" if self.last else b""
        return b"HTTP/1.1 200 OK\r\nX-Release: %b\r\n%b%b\r\n\r\n" % (RELEASE.encode(), close, more)

    def answer(self, body: bytes) -> None:
        self.write(self.head(b"Content-Length: %d" % len(body)) + body)
        self.done()

    def stream(self, number: int, until: float) -> None:
        line = b"%d %b" % (number, VERSION)
        self.write(b"%x\r\n%b\r\n" % (len(line), line))
        if time.monotonic() + 0.1 <= until:
            asyncio.get_running_loop().call_later(0.1, self.stream, number + 1, until)
        else:
            self.write(b"0\r\n\r\n")
            self.done()

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def done(self) -> None:
        self.busy = False
        if self.last:
            self.transport.close()
        else:
            self.serve()


async def main() -> None:
    global leaving
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    ask: Callable[[], None] = asked.set
    loop.add_signal_handler(signal.SIGTERM, ask)
    server = await loop.create_server(Connection, "0.0.0.0", 9000, backlog=4096)
    await asked.wait()
    leaving = True
    await asyncio.sleep(0)  # what has connected is accepted first
    server.close()
    quiet = loop.time()
    while loop.time() - quiet < LINGER:
        await asyncio.sleep(0.02)
        if any(each.busy or each.unread for each in connections):
            quiet = loop.time()


if __name__ == "__main__":
    asyncio.run(main())
