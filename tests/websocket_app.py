"""A WebSocket echo server that also answers /version and /headers: `websocket_app.py [RELEASE]`, with no library."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import signal
import sys

RELEASE = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("RELEASE", "v0")
MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            request, *lines = head.decode().split("\r\n")
            pairs = (line.partition(":") for line in lines if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            path = request.split()[1].partition("?")[0]
            if headers.get("upgrade", "").lower() == "websocket":
                await echo(headers, reader, writer)
                return
            body = json.dumps(headers) if path == "/headers" else f"version {RELEASE.removeprefix('v')}\n"
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            await writer.drain()
            if headers.get("connection", "").lower() == "close":
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def echo(headers: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Every text frame comes back with the release before it."""
    accept = base64.b64encode(hashlib.sha1((headers["sec-websocket-key"] + MAGIC).encode()).digest()).decode()
    writer.write(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )
    while True:
        opcode, length = await reader.readexactly(2)
        mask = await reader.readexactly(4)  # frames of a client are masked; these are shorter than 126 bytes
        data = bytes(byte ^ mask[index % 4] for index, byte in enumerate(await reader.readexactly(length & 127)))
        if opcode & 15 == 8:
            writer.write(b"\x88\x00")
            return
        answer = f"{RELEASE} {data.decode()}".encode()
        writer.write(bytes([0x81, len(answer)]) + answer)
        await writer.drain()


async def main() -> None:
    server = await asyncio.start_server(serve, "0.0.0.0", 9000)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
