"""hippo_flask, the app that the demo and the tests deploy: a few routes, and an orderly end on SIGTERM."""

import os
import signal
import sys

BROKEN = os.environ.get("BROKEN", "")  # "", "never-ready", "wrong-version", "exits", "dies", "fails" or "slow"

if BROKEN == "exits":
    sys.exit(
        "hippo_flask: starting\n"
        "Traceback (most recent call last):\n"
        '  File "/app/server.py", line 1, in <module>\n'
        "RuntimeError: built with BROKEN=exits: cannot start\n"
        "hippo_flask: giving up"
    )

# First of all: PID 1 ignores a SIGTERM that it has not asked for, and the imports take a moment.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

import itertools  # noqa: E402
import logging  # noqa: E402
import select  # noqa: E402
import socket  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402

from flask import Flask, Response, jsonify, request  # noqa: E402
from waitress import wasyncore  # noqa: E402
from waitress.channel import HTTPChannel  # noqa: E402
from waitress.server import create_server  # noqa: E402

RELEASE = os.environ.get("RELEASE", "v0")
VERSION = f"version {'0' if BROKEN == 'wrong-version' else RELEASE.removeprefix('v')}\n"
REPLICA = socket.gethostname()
DIES_AFTER = float(os.environ.get("DIES_AFTER", "3"))  # seconds after the first good answer of /version
SLOWNESS = 0.8  # seconds that BROKEN=slow takes longer for every answer
LINGER = 0.1  # seconds of quiet before the end, for a request that is on its way when the last answer leaves

app = Flask(__name__)
dies_at: float | None = None


def text(body: str | Iterator[str], status: int = 200) -> Response:
    return Response(body, status, content_type="text/plain; charset=utf-8")


def seconds() -> float:
    return min(max(request.args.get("seconds", 1.0, type=float), 0.0), 3600.0)


@app.before_request
def fail() -> Response | None:
    if BROKEN == "fails" and request.path not in ("/version", "/health"):
        return text("built with BROKEN=fails\n", 500)
    if BROKEN == "slow":
        time.sleep(SLOWNESS)
    return None


@app.after_request
def name_release(response: Response) -> Response:
    response.headers["X-Release"] = RELEASE
    response.headers["X-Replica"] = REPLICA
    return response


@app.get("/version")
def version() -> Response:
    global dies_at
    if BROKEN == "never-ready":
        return text("not ready\n", 503)
    if BROKEN == "dies" and dies_at is None:
        dies_at = time.monotonic() + DIES_AFTER
    return text(VERSION)


@app.get("/health")
def health() -> Response:
    return text("ok\n")


@app.get("/slow")
def slow() -> Response:
    time.sleep(seconds())
    return text(VERSION)


@app.get("/stream")
def stream() -> Response:
    def chunks(until: float) -> Iterator[str]:
        for n in itertools.count():
            yield f"{n} {VERSION}"
            if time.monotonic() + 0.1 > until:
                return
            time.sleep(0.1)

    return text(chunks(time.monotonic() + seconds()))


@app.post("/echo")
def echo() -> Response:
    return Response(request.get_data(), content_type=request.content_type or "application/octet-stream")


@app.get("/headers")
def headers() -> Response:
    return jsonify(headers=dict(request.headers), remote=request.remote_addr)


class Channel(HTTPChannel):
    """Closes after its answer once the server is leaving, so that the client sends no more on it."""

    def service(self) -> None:
        if self.server.leaving:
            self.requests[0].headers["CONNECTION"] = "close"
        super().service()

    def busy(self) -> bool:
        # In this order: a worker takes its request off the list after the last byte of the answer is queued.
        return bool(self.requests or self.total_outbufs_len or self.request)


def leave(server) -> None:
    """Stop listening, without losing those who have connected and not been accepted yet."""
    server.leaving = True
    while select.select([server.socket], [], [], 0)[0]:
        server.handle_accept()
    wasyncore.dispatcher.close(server)  # server.close() would end the workers' way to wake this loop too


def serve(port: int) -> int:
    server = create_server(
        app,
        host="0.0.0.0",
        port=port,
        threads=32,
        connection_limit=2000,
        channel_timeout=120,  # longer than a proxy keeps an idle connection, or a POST meets a closed one
        _start=False,
    )
    server.channel_class = Channel
    server.leaving = False
    server.accept_connections()
    asked = False

    def ask(*_) -> None:
        nonlocal asked
        asked = True
        server.pull_trigger()  # the loop below sleeps on through a signal

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    print(f"hippo_flask {RELEASE}: listening on {server.effective_port}", flush=True)

    code, quiet_since = 0, None
    while True:
        wasyncore.loop(timeout=0.02 if server.leaving else 0.2, use_poll=True, map=server._map, count=1)
        now = time.monotonic()
        if server.leaving:
            if any(channel.busy() for channel in list(server.active_channels.values())):
                quiet_since = None
            elif quiet_since is None:
                quiet_since = now
            elif now - quiet_since >= LINGER:
                print(f"hippo_flask {RELEASE}: nothing is in flight, exit {code}", flush=True)
                return code
        elif asked:
            print(f"hippo_flask {RELEASE}: asked to stop, finishing what is in flight", flush=True)
            leave(server)
        elif dies_at is not None and now >= dies_at:
            # It takes no more connections and ends when no answer would be cut in half.
            print(f"hippo_flask {RELEASE}: built with BROKEN=dies: ending", file=sys.stderr, flush=True)
            code = 1
            leave(server)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    sys.exit(serve(int(os.environ.get("PORT", "9000"))))
