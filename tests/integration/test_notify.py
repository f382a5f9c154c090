"""Webhooks of real runs, in a chat that may be slow or away."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from harness import Make


class Chat(ThreadingHTTPServer):
    """Remembers what it is told; what is told to /hangs is not answered before the end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Listener)
        self.told: list[dict[str, Any]] = []
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Listener(BaseHTTPRequestHandler):
    server: Chat

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/hangs":
            self.server.over.wait(60)
            return
        self.server.told.append(body)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def chat() -> Iterator[Chat]:
    with Chat() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def test_every_end_is_told_and_a_chat_that_hangs_or_is_away_changes_none(make_service: Make, chat: Chat) -> None:
    service = make_service(extra=f'[notify]\nwebhook = "{chat.url}/a"')
    receipt = service.deploy("v1")
    [told] = chat.told
    assert (told["run"], told["to"], told["result"]) == (receipt["run"], "v1", "done")

    service.env["BLUEGREEN_SLACK"] = f"{chat.url}/hangs"
    ran = service.run("deploy", "v4-exits")
    assert ran.code == 1
    assert "slack       not told of this run: no answer within" in ran.out
    assert (chat.told[1]["to"], chat.told[1]["result"]) == ("v4-exits", "undone")

    service.env["BLUEGREEN_SLACK"] = "http://127.0.0.1:9/secret"
    ran = service.ok("deploy", "v2")
    assert "slack       not told of this run: ConnectError" in ran.out
    assert "secret" not in ran.text
    assert service.live() == "v2"
    assert len(chat.told) == 3
