"""What the replicas of a real service write, and commands in them."""

from __future__ import annotations

import re
import signal
import socketserver
import threading
from collections.abc import Callable

from harness import HAPROXY, Make, eventually

PREFIX = re.compile(r"(v\d) (blue|green)-(\d) \| .*")


def test_logs_are_followed_through_a_deploy(make_service: Make) -> None:
    service = make_service(image=HAPROXY[1], app="replicas = 2")
    assert service.run("logs").code == 1
    service.deploy("v1")
    lines = service.ok("logs", "--tail", "1").out.splitlines()
    assert sorted(line.partition(" | ")[0] for line in lines) == ["v1 blue-1", "v1 blue-2"]
    assert "nothing of green is there" in service.run("logs", "--colour", "green").err

    following = service.start("logs", "--follow")
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.extend(following.stdout or ()), daemon=True)
    reader.start()
    eventually(lambda: any("v1 blue-2 | " in line for line in seen), "the lines of v1")
    service.deploy("v2")
    service.get("/version", headers={"User-Agent": "a-user-of-v2"})
    for number in (1, 2):
        eventually(lambda n=number: any(f"v2 green-{n} | " in line for line in seen), f"the lines of v2's {number}")
    following.send_signal(signal.SIGINT)
    assert following.wait(30) == 130
    reader.join(30)
    assert following.stderr
    assert following.stderr.read() == ""
    assert all(PREFIX.fullmatch(line.rstrip("\n")) for line in seen)
    following.stderr.close()
    if following.stdout:
        following.stdout.close()


def test_a_command_runs_in_every_replica_and_its_failure_is_the_commands(make_service: Make) -> None:
    service = make_service(app="replicas = 2")
    assert service.run("exec", "true").code == 1
    service.deploy("v1")
    ran = service.ok("exec", "--", "sh", "-c", "echo $RELEASE here; echo oops >&2")
    assert sorted(ran.out.splitlines()) == ["v1 blue-1 | v1 here", "v1 blue-2 | v1 here"]
    assert sorted(ran.err.splitlines()) == ["v1 blue-1 | oops", "v1 blue-2 | oops"]
    ran = service.run("exec", "--replica", "2", "sh", "-c", "printf '\\033[2Jplain'; exit 7")
    assert (ran.code, ran.out) == (7, "v1 blue-2 | plain\n")
    assert "no replica 3 of blue" in service.run("exec", "--replica", "3", "true").err


class Forwarded(socketserver.BaseRequestHandler):
    """What a fluentd would be sent by the engine; of the protocol only that names and lines stand in it as they are."""

    heard: bytearray

    def handle(self) -> None:
        while piece := self.request.recv(65536):
            self.heard += piece


def test_logs_go_to_a_fluentd_and_a_deploy_needs_none(make_service: Make, free_port: Callable[[], int]) -> None:
    port = free_port()
    options = f'{{ fluentd-address = "127.0.0.1:{port}", tag = "app.{{{{.Name}}}}" }}'
    service = make_service(extra=f'[app.logging]\ndriver = "fluentd"\noptions = {options}')
    service.deploy("v1")
    assert service.deploy("v2")["leftover"] == [], "what wrote to no fluentd has ended all the same"
    assert "v2 green-1 | " in service.ok("logs").out, "the engine keeps a copy"

    handler = type("Listener", (Forwarded,), {"heard": bytearray()})
    with socketserver.ThreadingTCPServer(("127.0.0.1", port), handler) as fluentd:
        fluentd.daemon_threads = True
        thread = threading.Thread(target=fluentd.serve_forever, args=(0.05,))
        thread.start()
        try:
            service.deploy("v3")
            eventually(lambda: f"app.{service.name}-blue-1".encode() in handler.heard, "nothing came of v3")
            eventually(lambda: b"listening on 9000" in handler.heard, "not what it wrote")
        finally:
            fluentd.shutdown()
            thread.join()
            fluentd.block_on_close = False
    assert service.live() == "v3"
