"""Distance: passes TCP connections on to a TCP address or a unix socket, each way later by half of a round trip.

A program: python distance.py PORT TARGET MS, where TARGET is host:port or a path; ends when its standard input does.
A close travels as long as the data, so that what crosses it is lost as over a real network. `distance` runs it in a
process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def distance(port: int, target: str, ms: float) -> Iterator[int]:
    """The port of the loopback address behind which the target is so far away."""
    command = [sys.executable, "-I", __file__, str(port), target, f"{ms:g}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "far\n":
            raise RuntimeError("the relay did not start")
        yield port
    finally:
        process.kill()
        process.communicate()


class Side(asyncio.Protocol):
    """One side of a connection; what comes in there leaves at its peer later."""

    def __init__(self, peer: Side | None = None) -> None:
        self.peer = peer or Side(self)
        self.reaches_out = peer is None
        self.transport: asyncio.Transport | None = None
        self.held: list[bytes | None] = []
        """What came for this side before it was connected; an empty piece is the end of the data, None of all."""
        self.heard_all = self.said_all = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.reaches_out:  # the hand-shake takes a round trip too
            asyncio.get_running_loop().call_later(2 * LATER, asyncio.ensure_future, self.reach())
        for piece in self.held:
            self.take(piece)

    async def reach(self) -> None:
        loop, host, port = asyncio.get_running_loop(), *TARGET.rpartition(":")[::2]
        try:
            if "/" in TARGET:
                await loop.create_unix_connection(lambda: self.peer, TARGET)
            else:
                await loop.create_connection(lambda: self.peer, host, int(port))
        except OSError:
            self.take(None)

    def data_received(self, data: bytes) -> None:
        self.pass_on(data)

    def eof_received(self) -> bool:
        self.heard_all = True
        self.pass_on(b"")
        return not self.said_all

    def connection_lost(self, error: Exception | None) -> None:
        self.pass_on(None)

    def pass_on(self, piece: bytes | None) -> None:
        asyncio.get_running_loop().call_later(LATER, self.peer.take, piece)

    def take(self, piece: bytes | None) -> None:
        if self.transport is None:
            self.held.append(piece)
        elif self.transport.is_closing():
            return
        elif piece:
            self.transport.write(piece)
        elif piece is None or self.heard_all:
            self.transport.close()
        else:
            self.said_all = True
            with contextlib.suppress(OSError):
                self.transport.write_eof()


async def main() -> None:
    loop = asyncio.get_running_loop()
    await loop.create_server(Side, "127.0.0.1", int(sys.argv[1]), backlog=512)
    print("far", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    TARGET, LATER = sys.argv[2], float(sys.argv[3]) / 2000
    asyncio.run(main())
