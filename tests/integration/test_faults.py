"""What goes wrong around a run has an outcome that is known before, and is said in words: docs/reliability.md."""

from __future__ import annotations

import http.server
import os
import resource
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import docker
import pytest
from aftermath import Followed, edit, things
from harness import FULL, IMAGES, PREFIX, REPOSITORY, Make, TestService, eventually
from hosts import SOCKET
from relay import relay
from test_edited_files import proxy_of, sh
from test_restarts import crash, serves


def still_v1(service: TestService) -> None:
    """The old release serves, alone, and no run is unfinished."""
    eventually(lambda: serves(service, "version 1"), "v1 answers")
    status = service.status()
    assert (status["live"]["release"], status["standby"], status["unfinished"]) == ("v1", None, None)
    assert list(service.containers().values()) == ["v1"]


def test_a_slow_engine_is_waited_for(make_service: Make, free_port: Callable[[], int]) -> None:
    service = make_service()
    service.deploy("v1")
    with relay(free_port(), SOCKET) as way:
        way.delay = 0.05
        service.env["DOCKER_HOST"] = way.address
        receipt = service.deploy("v2")
    assert (receipt["result"], receipt["requests"]["failed"]) == ("done", 0)


@pytest.mark.parametrize("step", ["probe", "bake"] if FULL else ["bake"])
def test_an_engine_that_goes_away_and_comes_back_finds_the_run_undone(
    make_service: Make, free_port: Callable[[], int], step: str
) -> None:
    service = make_service(bake=60)
    edit(service, "seconds = 60", "seconds = 0")
    service.deploy("v1")
    edit(service, "seconds = 0", "seconds = 60")
    if step == "probe":
        edit(service, 'timeout = "30s"', 'timeout = "1h"')
    with relay(free_port(), SOCKET) as way:
        service.env["DOCKER_HOST"] = way.address
        run = Followed(service, "deploy", "v4-never-ready" if step == "probe" else "v2")
        run.until(step, "started")
        way.cut()
        run.until("undo", "progress")
        way.mend()
        ran = run.end()
    assert ran.code == 1, ran.text
    assert run.receipt()["result"] == "undone"
    assert "v1 still serves" in run.events[-1]["message"]
    assert "Docker engine" in run.events[-1]["message"]
    service.env.clear()
    still_v1(service)
    eventually(lambda: service.status()["lock"] is None, "the lock has ended with its lease")


def test_an_engine_that_answers_with_errors_is_told_from_one_that_is_not_there(make_service: Make) -> None:
    class Broken(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500, "the disk is on fire")

        def log_message(self, format: str, *args: object) -> None: ...

    service = make_service()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        service.env["DOCKER_HOST"] = f"tcp://127.0.0.1:{server.server_port}"
        ran = service.run("deploy", "v1")
        server.shutdown()
    assert ran.code == 1
    assert f"no Docker engine answers at {service.env['DOCKER_HOST']}" in ran.err
    assert "500 Server Error" in ran.err
    assert "Traceback" not in ran.text


WAITS = "until [ -e /tmp/go ]; do sleep 0.1; done; exec python3 server.py"
"""An app that is ready when the test lets it be."""


@pytest.mark.parametrize("image", ["nginx:stable", "haproxy:3.2"] if FULL else ["nginx:stable"])
def test_a_proxy_that_dies_before_the_switch_is_back_and_the_deploy_goes_on(
    make_service: Make, engine: docker.DockerClient, image: str
) -> None:
    service = make_service(image=image)
    service.deploy("v1")
    edit(service, "[app]", f"[app]\ncommand = ['sh', '-c', '{WAITS}']")
    run = Followed(service, "deploy", "v2")
    run.until("probe", "started")
    proxy = proxy_of(engine, service)
    crash(engine, proxy.name)
    eventually(lambda: serves(service, "version 1"), "the proxy is back")
    proxy.reload()
    assert proxy.attrs["RestartCount"] == 1
    sh(engine.containers.get(f"{service.name}-green-1"), "touch /tmp/go")
    ran = run.end()
    assert ran.code == 0, ran.text
    assert serves(service, "version 2")
    assert list(service.containers().values()) == ["v2"]


@pytest.mark.parametrize("image", ["nginx:stable", "haproxy:3.2"] if FULL else ["haproxy:3.2"])
def test_a_proxy_that_dies_after_the_switch_is_back_and_the_switch_is_taken_back(
    make_service: Make, engine: docker.DockerClient, image: str
) -> None:
    service = make_service(image=image)
    service.deploy("v1")
    edit(service, "seconds = 0.5", "seconds = 60")
    run = Followed(service, "deploy", "v2")
    run.until("bake", "started")
    crash(engine, proxy_of(engine, service).name)
    ran = run.end()
    assert ran.code == 1, ran.text
    assert "v1 still serves" in run.events[-1]["message"]
    still_v1(service)


EATS = """
import http.server, itertools
count = itertools.count()
class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if next(count) == 40:
            held = [bytes(range(256)) * 4096 for _ in range(10000)]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"version 2")
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("", 9000), App).serve_forever()
"""


def test_a_release_that_its_memory_limit_kills_after_the_switch_is_taken_back_and_says_so(make_service: Make) -> None:
    service = make_service()
    service.deploy("v1")
    edit(service, "seconds = 0.5", "seconds = 60")
    edit(service, "[app]", f"[app]\nmemory = '64m'\ncommand = ['python3', '-c', '''{EATS}''']")
    run = Followed(service, "deploy", "v2")
    ran = run.end()
    assert ran.code == 1, ran.text
    assert ("bake", "started") in [(event.get("step"), event.get("event")) for event in run.events]
    message, hint = run.events[-1]["message"], run.events[-1]["hint"]
    killed = "v2 was killed by its memory limit: app.memory is too little" in message
    # Now and then the engine does not learn why it ended.
    assert killed or ("v2 ended with exit code 137" in message and "is app.memory too little" in hint), ran.text
    assert "v1 still serves" in message
    still_v1(service)


HELD = 'ls -AR /held; md5sum $(grep -rl "" /held)'
"""A script that prints the names of the files of a proxy, and what is in them."""


@pytest.mark.parametrize("image", ["nginx:stable", "haproxy:3.2"] if FULL else ["nginx:stable"])
def test_without_room_for_the_proxys_files_nothing_is_switched(
    make_service: Make, engine: docker.DockerClient, image: str
) -> None:
    service = make_service(image=image)
    name = f"bluegreen-proxy-127.0.0.1-{service.port}"
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=256k"}
    engine.volumes.create(name, driver_opts=options, labels={"bluegreen.proxy": image.partition(":")[0]})
    # A volume in memory lasts as long as somebody has it mounted.
    holder = engine.containers.run(
        "nginx:stable", ["sleep", "600"], volumes=[f"{name}:/held"], detach=True, labels={"bluegreen.test": PREFIX}
    )
    try:
        service.deploy("v1")
        before = things(engine, service)
        sh(holder, "dd if=/dev/zero of=/held/fill bs=1k 2>/dev/null || true")
        files = sh(holder, HELD)
        edit(service, "hosts = []", 'hosts = []\nmax_body = "7m"')
        ran = service.run("deploy", "v2")
        assert ran.code == 1, ran.text
        for words in ("has no room for its files", "No space left on device", "v1 still serves"):
            assert words in ran.err
        assert things(engine, service) == before
        assert sh(holder, HELD) == files, "no file is another, or half of one"
        still_v1(service)
        sh(holder, "rm /held/fill")
        assert service.deploy("v2")["requests"]["failed"] == 0
    finally:
        holder.remove(force=True)


def test_without_room_where_the_command_runs_the_deploy_is_done_and_says_what_it_could_not_write(
    make_service: Make, tmp_path: Path
) -> None:
    service = make_service()
    file = tmp_path / "receipt.json"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            service.command("deploy", "v1", "--receipt", os.fspath(file)),
            cwd=service.directory,
            env={**os.environ, "PYTHONPATH": os.fspath(REPOSITORY)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=180,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),  # as full a disk for files
        )
    assert done.returncode == 0, done.stderr
    assert f"the receipt could not be written to {file}" in done.stderr
    assert "the output could not be written: No space left on device; what was done stands" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("*receipt*")) == [], "no half of a receipt"
    still_v1(service)

    done = subprocess.run(
        service.command("build", "v9-not-built"),
        cwd=service.directory,
        env={**os.environ, "PYTHONPATH": os.fspath(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=180,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )
    assert done.returncode == 1
    assert f"can't be packed for the build of {IMAGES}:v9-not-built" in done.stderr
    assert "TMPDIR" in done.stderr
