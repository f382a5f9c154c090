"""A client of a shared address: pings it and requests it ten times a second, never twice the same, and counts.

Runs alone (`python3 -c`), in a container beside the hosts. Says who answers, and at SIGTERM what it counted, as JSON.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import sys
import threading
import time

EVERY = 0.1
"""Seconds between two pings, and between two requests."""

TIMEOUT = 2.0
"""Seconds after which a ping or a request is lost."""


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo(number: int) -> bytes:
    body = os.getpid() & 0xFFFF, number & 0xFFFF
    return struct.pack("!BBHHH", 8, 0, checksum(struct.pack("!BBHHH", 8, 0, 0, *body)), *body)


class Pings:
    """Echo requests sent, and those of them that came back."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sent = 0
        self.came: set[int] = set()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.socket.settimeout(0.2)

    def send(self) -> None:
        number = self.sent
        self.sent += 1
        with contextlib.suppress(OSError):  # nobody has the address at this moment: no answer will come
            self.socket.sendto(echo(number), (self.address, 0))

    def receive(self, done: threading.Event) -> None:
        while not done.is_set():
            try:
                packet = self.socket.recv(1024)
            except OSError:
                continue
            start = (packet[0] & 15) * 4
            kind, _, _, identifier, number = struct.unpack("!BBHHH", packet[start : start + 8])
            if kind == 0 and identifier == os.getpid() & 0xFFFF:
                self.came.add(number)


class Requests:
    """GET requests, each on a connection of its own; who answered them, in the order in which they were sent."""

    def __init__(self, address: str, path: str) -> None:
        self.address = address
        self.path = path
        self.answers: list[str] = []
        self.last = ""
        self.threads: list[threading.Thread] = []

    def send(self) -> None:
        self.answers.append("")
        thread = threading.Thread(target=self.ask, args=(len(self.answers) - 1,), daemon=True)
        self.threads.append(thread)
        thread.start()

    def ask(self, number: int) -> None:
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", self.path, headers={"Connection": "close"})
            response = connection.getresponse()
            body = response.read().decode().strip()
            answer = self.answers[number] = body if response.status == 200 else ""
            if answer and answer != self.last:
                self.last = answer
                print("answers", answer, flush=True)


def longest(missing: list[bool]) -> int:
    """The most of them missing in a row."""
    most = row = 0
    for each in missing:
        row = row + 1 if each else 0
        most = max(most, row)
    return most


def turns(answers: list[str]) -> list[str]:
    """Who answered, each as often as the answers went over to them; what was lost is left out."""
    seen: list[str] = []
    for each in filter(None, answers):
        if not seen or seen[-1] != each:
            seen.append(each)
    return seen


def main(address: str, path: str = "/") -> None:
    stop, done = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    pings, requests = Pings(address), Requests(address, path)
    receiver = threading.Thread(target=pings.receive, args=(done,), daemon=True)
    receiver.start()
    due = time.monotonic()
    while not stop.is_set():
        pings.send()
        requests.send()
        due += EVERY
        stop.wait(max(0.0, due - time.monotonic()))
    for thread in requests.threads:
        thread.join(2 * TIMEOUT)
    done.wait(TIMEOUT)
    done.set()
    lost = [number not in pings.came for number in range(pings.sent)]
    failed = [not answer for answer in requests.answers]
    print(
        json.dumps(
            {
                "pings": pings.sent,
                "pings_lost": sum(lost),
                "pings_lost_in_a_row": longest(lost),
                "requests": len(failed),
                "requests_failed": sum(failed),
                "requests_failed_in_a_row": longest(failed),
                "turns": turns(requests.answers),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
