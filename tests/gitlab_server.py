"""What the double of GitLab and the front of its registry stand on: servers that note all they are asked, and fail on
demand."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import socket
import ssl
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

BLOCK = 32 * 1024
JSON = {"Content-Type": "application/json"}
TLS_HANDSHAKE = b"\x16"
PATIENCE = 60
"""Seconds that a connection may say nothing."""


@dataclass
class Asked:
    """One request."""

    server: str
    """`token`, `rest` or `registry`."""
    method: str
    path: str
    """Without the query, as it was sent: what was escaped is."""
    arguments: dict[str, Any]
    who: str = "nobody"
    status: int = 0
    """Of the answer; 0 while there is none, and if the connection was reset."""


@dataclass
class Fault:
    """How the next answers go wrong."""

    status: int = 0
    """Answered instead."""
    reset: bool = False
    """No answer: the connection is reset."""
    delay: float = 0
    """Seconds that it takes longer."""
    action: Callable[[], object] | None = None
    """Done before that."""
    after: int = 0
    """It happens when so many bytes of a request's body have gone through to the registry."""
    retry_after: int | None = None
    times: int = 1
    method: str = ""
    """Only requests with this method."""
    path: str = ""
    """Only requests in whose path this occurs."""


@dataclass
class Journal:
    """What was asked, what of it was a client's mistake, and what is to go wrong."""

    asked: list[Asked] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    _faults: list[tuple[str, Fault]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, asked: Asked) -> Asked:
        with self._lock:
            self.asked.append(asked)
        return asked

    def plan(self, server: str, fault: Fault) -> None:
        with self._lock:
            self._faults.append((server, fault))

    def planned(self) -> list[Fault]:
        """The faults that have not happened."""
        with self._lock:
            return [fault for _, fault in self._faults if fault.times]

    def strike(self, asked: Asked, passed: int = 0) -> Fault | None:
        """The fault that happens to this request now, of whose body `passed` bytes have gone through."""
        with self._lock:
            for server, fault in self._faults:
                fits = server == asked.server and fault.method in ("", asked.method) and fault.path in asked.path
                # One at the beginning is for the beginning: a request that has passed it is not struck later.
                when = passed == 0 if fault.after == 0 else passed >= fault.after
                if fault.times and fits and when:
                    fault.times -= 1
                    return fault
        return None

    def basic(self, value: str) -> tuple[str, str] | None:
        """The name and the password of an Authorization header."""
        kind, _, text = value.partition(" ")
        if kind.lower() != "basic":
            return None
        with contextlib.suppress(ValueError):
            name, _, password = base64.b64decode(text, validate=True).decode().partition(":")
            self.secrets.add(text)
            return name, password
        return None


class Reset(Exception):
    """The connection is to be reset."""


class Exchange(BaseHTTPRequestHandler):
    """A request and its answer."""

    protocol_version = "HTTP/1.1"
    timeout = PATIENCE
    rfile: io.BufferedReader
    disable_nagle_algorithm = True
    server: Server

    def handle_one_request(self) -> None:
        """Who speaks TLS to a server of plain http is answered as other servers do, not left to wait."""
        if self.rfile.peek(1)[:1] == TLS_HANDSHAKE:
            self.rfile.read1()
            self.wfile.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            self.close_connection = True
            return
        super().handle_one_request()

    def _answer(self) -> None:
        self._body = self._blocks()
        try:
            self.server.answer(self)
        except Reset:
            self._reset()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer  # noqa: N815

    def body(self) -> Iterator[bytes]:
        """What of the request's body has not been read yet."""
        return self._body

    def _blocks(self) -> Iterator[bytes]:
        try:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                yield from self._read(int(self.headers.get("Content-Length") or 0))
                return
            while size := int(self.rfile.readline(1000).partition(b";")[0], 16):
                yield from self._read(size)
                self.rfile.readline(1000)
            while self.rfile.readline(BLOCK).strip():
                pass
        except (OSError, ValueError):  # the client is gone, or speaks no http
            raise Reset from None

    def _read(self, size: int) -> Iterator[bytes]:
        while size:
            block = self.rfile.read(min(size, BLOCK))
            if not block:
                raise ConnectionError
            size -= len(block)
            yield block

    def reply(self, asked: Asked, status: int, content: bytes, headers: dict[str, str]) -> None:
        """The whole answer; what was not read of the request is thrown away."""
        for _ in self.body():
            pass
        asked.status = status
        self.send_response_only(status)
        if "Date" not in headers:
            self.send_header("Date", self.date_time_string())
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(content)

    def endure(self, fault: Fault) -> None:
        """The fault has happened, but for its answer."""
        if fault.action:
            fault.action()
        self.server.stopping.wait(fault.delay)
        if fault.reset:
            raise Reset

    def suffer(self, asked: Asked, fault: Fault) -> bool:
        """The fault has happened; whether it was answered."""
        self.endure(fault)
        if fault.status:
            self.reply(asked, fault.status, *trouble(asked.server, fault))
        return bool(fault.status)

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def trouble(server: str, fault: Fault) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a server in trouble: of a limiter, of GitLab, or of the proxy before it."""
    retry = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    if fault.status == 429 and server == "registry":
        return b'{"errors":[{"code":"TOOMANYREQUESTS","message":"too many requests"}]}', {**JSON, **retry}
    if fault.status == 429 and fault.retry_after is None:
        return b'{"message":{"error":"This endpoint has been requested too many times. Try again later."}}', JSON
    if fault.status == 429:
        limits = {"RateLimit-Limit": "60", "RateLimit-Observed": "61", "RateLimit-Remaining": "0"}
        limits["RateLimit-Reset"] = str(int(time.time()) + (fault.retry_after or 0))
        return b"Retry later\n", {"Content-Type": "text/plain", **retry, **limits}
    if fault.status == 500:
        return b'{"message":"500 Internal Server Error"}', JSON
    page = f"<html>\n<head><title>{fault.status} GitLab is not responding</title></head>\n<body></body>\n</html>\n"
    return page.encode(), {"Content-Type": "text/html", **retry}


class Server(ThreadingHTTPServer):
    """Has every request answered in a thread of its own, until it is stopped."""

    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        answer: Callable[[Exchange], None],
        journal: Journal,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(address, Exchange)
        self.answer = answer
        self.stopping = threading.Event()
        self._journal = journal
        self._open: set[socket.socket] = set()
        if tls:
            # The handshake is made in the connection's own thread, at its first read.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.scheme = "https" if tls else "http"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def netloc(self) -> str:
        return f"{self.server_address[0]!s}:{self.server_address[1]}"

    def server_bind(self) -> None:
        """Without asking for the name of the address, which takes long where no name server answers."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._open.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is none of our business; a double that breaks is a test that fails."""
        if not isinstance(sys.exc_info()[1], OSError):
            self._journal.mistakes.append(f"the double broke: {traceback.format_exc()}")

    def stop(self) -> None:
        """Nothing of it is left: no socket, no connection."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        self._thread.join(10)
        deadline = time.monotonic() + 5
        while self._open and time.monotonic() < deadline:
            for connection in list(self._open):
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
            time.sleep(0.01)


def server_tls(certificate: os.PathLike[str], key: os.PathLike[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def to_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
