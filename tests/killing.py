"""The command, which ends itself by `kill -9` at one moment of its talk with the engine: run this file in its place.

An event is a request to the engine, or an order to the agent at the proxy's place. It has three moments: `before` it is
sent, `inside` it, sent but not answered, and `after` its answer came. BLUEGREEN_TEST_KILL says at which moment of which
event to die ("inside 2 POST /containers/create": the second one), and BLUEGREEN_TEST_EVENTS names a file to which every
event is written as it begins. The product knows nothing of this.
"""

from __future__ import annotations

import collections
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from docker.transport.unixconn import UnixHTTPConnection

from bluegreen.cli import main
from bluegreen.proxies.agent import Agent

MOMENTS = ("before", "inside", "after")
ID = re.compile(r"\b[0-9a-f]{64}\b")


def changes(event: str) -> bool:
    """Whether anything is different after the event."""
    method, _, what = event.partition(" ")
    if method == "agent":
        return what.startswith(("write", "replace", "remove", "unix set", "run nginx -s", "run sh -c kill"))
    return method != "GET"


class Killer:
    """Counts events by name, and dies at the one that is asked for."""

    def __init__(self, wanted: str, file: str) -> None:
        self._wanted = wanted
        self._file = Path(file) if file else None
        self._seen: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def begins(self, event: str) -> str:
        """The event has its number."""
        with self._lock:
            self._seen[event] += 1
            numbered = f"{self._seen[event]} {event}"
            if self._file:
                with self._file.open("a") as lines:
                    lines.write(numbered + "\n")
        return numbered

    def at(self, moment: str, numbered: str) -> None:
        if self._wanted == f"{moment} {numbered}":
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def event(self, name: str) -> Iterator[str]:
        numbered = self.begins(name)
        self.at("before", numbered)
        yield numbered
        self.at("after", numbered)


def request_to_engine(method: str, url: str) -> str:
    """The same words for the same request, whatever its containers are called today."""
    path, _, query = url.partition("?")
    name = re.search(r"name=[^&]*?-(lock|blue|green|proxy)\b", query)
    path = ID.sub("ID", re.sub(r"^/v[0-9.]+", "", path))
    return f"{method} {path}{' ' + name[1] if name else ''}"


def order_to_agent(verb: str, arguments: tuple[str, ...]) -> str:
    match verb, arguments:
        case "unix", (_, _, command):
            return "agent unix " + " ".join(command.split()[:2])
        case "run", words:
            return "agent run " + re.sub(r"\d+", "N", " ".join(words))
        case "tcp" | "connect" | "ps", _:
            return f"agent {verb}"
        case _, (path, *_):
            return f"agent {verb} " + re.sub(r"/[^/]*bgtest-[^/.]*", "/SERVICE", path)
    return f"agent {verb}"


def patched(killer: Killer) -> None:
    request, answer = UnixHTTPConnection.request, UnixHTTPConnection.getresponse
    send = Agent.call

    def counted_request(self: Any, method: str, url: str, *rest: Any, **more: Any) -> Any:
        self.killing = killer.begins(request_to_engine(method, url))
        killer.at("before", self.killing)
        return request(self, method, url, *rest, **more)

    def counted_answer(self: Any, *rest: Any, **more: Any) -> Any:
        killer.at("inside", self.killing)
        response = answer(self, *rest, **more)
        killer.at("after", self.killing)
        return response

    def counted_call(self: Any, verb: str, *arguments: str) -> bytes:
        with killer.event(order_to_agent(verb, arguments)) as numbered:
            session = self._session
            if session is None:
                return send(self, verb, *arguments)
            read_line = session.read_line

            def counted_line() -> bytes:
                killer.at("inside", numbered)
                return bytes(read_line())

            session.read_line = counted_line
            try:
                return send(self, verb, *arguments)
            finally:
                session.read_line = read_line

    UnixHTTPConnection.request = counted_request
    UnixHTTPConnection.getresponse = counted_answer
    Agent.call = counted_call  # type: ignore[method-assign]


if __name__ == "__main__":
    patched(Killer(os.environ.get("BLUEGREEN_TEST_KILL", ""), os.environ.get("BLUEGREEN_TEST_EVENTS", "")))
    main()
