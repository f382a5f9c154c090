"""What the tests of a switch go by beside the load: single long requests told apart, and a log of what was measured."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

PIECE = b"a piece of an upload\n" * 1000
PIECES = 20

SWITCHES = int(os.environ.get("BLUEGREEN_SWITCHES", "0"))
"""How many switches a long test makes; 0 for as many as the normal suite has time for."""


@dataclass
class Request:
    """One long request: when it was sent and answered (wall clock), by which release, and what was wrong with it."""

    kind: str
    seconds: float
    sent: float = 0.0
    answered: float = 0.0
    release: str = ""
    wrong: str = ""

    def send(self, address: tuple[str, int]) -> None:
        """It was sent once, on a connection of its own, and its answer judged."""
        connection = http.client.HTTPConnection(*address, timeout=60)
        self.sent = time.time()
        try:
            if self.kind == "upload":
                headers = {"Content-Length": str(len(PIECE) * PIECES)}
                connection.request("POST", "/echo", body=self._pieces(), headers=headers)
            else:
                connection.request("GET", f"/{self.kind}?seconds={self.seconds:g}")
            response = connection.getresponse()
            body = response.read()
            self.release = response.headers.get("X-Release", "")
            self.wrong = self._judge(response.status, body)
        except (OSError, http.client.HTTPException) as error:
            self.wrong = f"{type(error).__name__}: {error}"
        finally:
            self.answered = time.time()
            connection.close()

    def across(self, moment: float) -> bool:
        """Whether it was in flight at that moment of the wall clock."""
        return self.sent < moment < self.answered

    def _pieces(self) -> Iterator[bytes]:
        for _ in range(PIECES):
            time.sleep(self.seconds / PIECES)
            yield PIECE

    def _judge(self, status: int, body: bytes) -> str:
        """What is wrong with the answer; empty if it is whole and from one release throughout."""
        version = f"version {self.release.removeprefix('v')}\n"
        if status != 200:
            return f"status {status}"
        if self.kind == "upload":
            return "" if body == PIECE * PIECES else f"{len(body)} other bytes"
        if self.kind == "slow":
            return "" if body.decode() == version else f"{body!r}"
        lines = body.decode().splitlines(keepends=True)
        if lines != [f"{number} {version}" for number in range(len(lines))]:
            return f"not one release's lines: {body[-100:]!r}"
        # The last line comes less than 0.1 s before the stream's time is over, and never earlier.
        return "" if time.time() - self.sent > self.seconds - 0.2 else f"over after {len(lines)} lines"


class LongRequests:
    """Sends one request of each kind every half second, so that some are in flight at whatever moment a switch comes.

    The kinds (slow, stream, upload) are given with their seconds. Nothing is sent again.
    """

    def __init__(self, url: str, **kinds: float) -> None:
        parts = urlsplit(url)
        self._address = (str(parts.hostname), int(parts.port or 80))
        self._kinds = kinds
        self._requests: list[Request] = []
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._pump = threading.Thread(target=self._send_all)

    def __enter__(self) -> Self:
        self._pump.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def quiet(self) -> None:
        """No more is sent."""
        self._stop.set()
        self._pump.join()

    def stop(self) -> list[Request]:
        """All that were sent, when the last one has ended."""
        self.quiet()
        for thread in self._threads:
            thread.join()
        return self._requests

    def _send_all(self) -> None:
        while not self._stop.wait(0.5):
            for kind, seconds in self._kinds.items():
                request = Request(kind, seconds)
                thread = threading.Thread(target=request.send, args=(self._address,))
                self._requests.append(request)
                self._threads.append(thread)
                thread.start()


def switched_at(receipt: dict[str, Any]) -> float:
    """When the switch of the receipt had taken effect, by the wall clock."""
    return datetime.fromisoformat(receipt["switch"]["at"]).timestamp()


def log(words: str) -> None:
    """What was measured is printed and, where BLUEGREEN_SOAK_LOG names a file, written there too."""
    line = f"{datetime.now(UTC):%Y-%m-%d %H:%M}Z  {words}"
    print(f"\n{line}")
    if file := os.environ.get("BLUEGREEN_SOAK_LOG"):
        with Path(file).open("a") as lines:
            lines.write(line + "\n")
