"""What `watch` promises, against servers on this machine."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bluegreen import watch as module
from bluegreen.watch import watch

COUNTS = r"(?P<answer>.+?)  x(?P<good>\d+)  (?P<failed>\d+) failed(?: \(.+\))?"
LINE = rf"\d\d:\d\d:\d\d  {COUNTS}  p50 (?:[\d.]+ ms|-)"


class App(ThreadingHTTPServer):
    """Answers with `status` and `body`; a status of 0 closes the connection without a word."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.status, self.body = 200, "version 1"
        self.hosts: list[str | None] = []
        self.connections = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: Any, address: Any) -> None:
        self.connections += 1
        super().process_request(request, address)


class Answering(BaseHTTPRequestHandler):
    server: App
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.hosts.append(self.headers["Host"])
        if not self.server.status:
            self.close_connection = True
            return
        body = self.server.body.encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def app() -> Iterator[App]:
    with App() as app:
        thread = threading.Thread(target=app.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield app
        app.shutdown()
        thread.join()


class Watch:
    """`watch` in a thread of its own."""

    def __init__(self, url: str, **options: Any) -> None:
        self.lines: list[str] = []
        self.summary: dict[str, Any] = {}
        self.stop = threading.Event()
        self._options = {"host": None, "rate": 200.0, "timeout": 3.0, "path": "/version"} | options
        self._thread = threading.Thread(target=self._run, args=(url,))
        self._thread.start()

    def _run(self, url: str) -> None:
        self.summary = watch(url, emit=self.lines.append, stop=self.stop, **self._options)

    def end(self) -> dict[str, Any]:
        self.stop.set()
        return self.wait()

    def wait(self) -> dict[str, Any]:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.summary

    @property
    def spans(self) -> list[re.Match[str]]:
        return [match for line in self.lines if (match := re.fullmatch(LINE, line))]


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def answered(app: App, number: int) -> None:
    """Waits until the app has answered so many more requests."""
    goal = len(app.hosts) + number
    until(lambda: len(app.hosts) >= goal)


def test_it_ends_on_stop_with_a_summary_that_adds_up(app: App) -> None:
    watching = Watch(app.url)
    answered(app, 20)
    summary = watching.end()
    assert summary["total"] == summary["ok"] == len(app.hosts)
    assert summary["failed"] == 0
    assert summary["by_answer"] == {"version 1": summary["total"]}
    assert summary["failures"] == []
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"] <= summary["latency_ms"]["max"]
    assert set(summary) == {"total", "ok", "failed", "by_answer", "failures", "latency_ms"}
    assert f"{summary['total']} requests, {summary['total']} ok, 0 failed" in watching.lines
    assert f"  version 1  x{summary['total']}" in watching.lines
    assert re.fullmatch(r"  p50 [\d.]+ ms  p99 [\d.]+ ms  max [\d.]+ ms", watching.lines[-1])


def test_it_ends_by_itself_after_the_seconds_given(app: App) -> None:
    watching = Watch(app.url, seconds=0.2, rate=50.0)
    assert 1 <= watching.wait()["total"] <= 10
    assert not watching.stop.is_set()


def test_every_request_has_a_connection_of_its_own_and_the_host_that_was_asked_for(app: App) -> None:
    watching = Watch(app.url, host="app.example.org")
    answered(app, 10)
    summary = watching.end()
    assert app.connections == summary["total"]
    assert set(app.hosts) == {"app.example.org"}


def test_a_change_of_the_answer_is_a_line_at_once_and_no_line_mixes_two(app: App) -> None:
    watching = Watch(app.url)
    answered(app, 10)
    app.body = "version 2"
    until(lambda: watching.spans)
    first = watching.spans[0]
    assert first["answer"] == "version 1"
    answered(app, 10)
    summary = watching.end()
    counted: dict[str, int] = {}
    for span in watching.spans:
        counted[span["answer"]] = counted.get(span["answer"], 0) + int(span["good"])
    assert counted == summary["by_answer"]
    assert set(counted) == {"version 1", "version 2"}


def test_a_line_comes_every_second_while_nothing_changes(app: App) -> None:
    watching = Watch(app.url, rate=50.0)
    until(lambda: len(watching.spans) >= 2)
    assert {span["answer"] for span in watching.spans} == {"version 1"}
    assert all(span["failed"] == "0" for span in watching.spans)
    watching.end()


def test_failures_are_counted_by_kind_and_do_not_end_it(app: App) -> None:
    watching = Watch(app.url)
    answered(app, 5)
    app.status = 502
    answered(app, 5)
    app.status = 0
    answered(app, 5)
    app.status = 200
    answered(app, 5)
    summary = watching.end()
    kinds = {failure["why"]: failure["count"] for failure in summary["failures"]}
    assert set(kinds) == {"status 502", "reset on a fresh connection"}
    assert sum(kinds.values()) == summary["failed"] == summary["total"] - summary["ok"]
    assert sum(int(span["failed"]) for span in watching.spans) == summary["failed"]
    assert f"  failed: status 502  x{kinds['status 502']}" in watching.lines


def test_nobody_there_is_shown_as_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    watching = Watch(url, seconds=0.1)
    summary = watching.wait()
    assert summary["ok"] == 0
    assert summary["latency_ms"] == {"p50": None, "p99": None, "max": None}
    assert [failure["why"] for failure in summary["failures"]] == ["refused"]
    assert f"no answer  x0  {summary['failed']} failed (refused)  p50 -" in watching.lines[0]


def test_an_answer_that_could_move_the_cursor_is_shown_harmless(app: App) -> None:
    app.body = "\x1b[2J\nversion 1"
    watching = Watch(app.url, seconds=0.1)
    assert list(watching.wait()["by_answer"]) == ["�[2J version 1"]
    assert not any("\x1b" in line or "\n" in line for line in watching.lines)


def test_ctrl_c_ends_it_with_the_summary(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: module.Prober) -> module.Answer:
        if len(app.hosts) == 3:
            raise KeyboardInterrupt
        return ask(self)

    ask = module.Prober.ask
    monkeypatch.setattr(module.Prober, "ask", interrupted)
    lines: list[str] = []
    summary = watch(app.url, "/", None, emit=lines.append, stop=threading.Event(), rate=200)
    assert summary["total"] == 3
    assert "3 requests, 3 ok, 0 failed" in lines


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="rate"):
        watch("http://x", "/", None, emit=print, stop=threading.Event(), rate=0)
