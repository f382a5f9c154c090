"""The dashboard, served by the command and used in a real browser as a person does."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import httpx
import pytest
from aftermath import Followed, edit
from browser import LOOKS, WIDTHS, Browser, chromium, pictures
from harness import Make, TestService, eventually
from hosts import SOCKET
from relay import relay
from test_history import put

from bluegreen.dashboard import VARIABLE
from bluegreen.history import pack

TOKEN = "a-token-of-24-characters"
VIP = '[vip]\naddress = "192.0.2.77"\ninterface = "lo"\n'
CLICK = "document.querySelector(arguments[0]).click()"
MINE = "document.body.dataset.mine = 'yes'"
STILL_MINE = "return document.body.dataset.mine"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


class Board:
    """`bluegreen dashboard`, at work."""

    def __init__(self, service: TestService, *options: str, listen: str = "127.0.0.1:0") -> None:
        self.process: subprocess.Popen[str] = service.start("dashboard", "--listen", listen, *options)
        assert self.process.stdout
        first = self.process.stdout.readline()
        assert f"the dashboard of {service.name} is at http://" in first, first + self.process.communicate()[1]
        self.url = first.split()[-1]

    def end(self, by: signal.Signals = signal.SIGINT) -> str:
        """It has ended as it should; what it said last."""
        self.process.send_signal(by)
        out, err = self.process.communicate(timeout=60)
        assert (self.process.returncode, err) == (0, "")
        return out


@contextlib.contextmanager
def dashboard(service: TestService, *options: str) -> Iterator[Board]:
    """A dashboard that ends with the block, by Ctrl-C."""
    board = Board(service, *options)
    try:
        yield board
    finally:
        if board.process.poll() is None:
            board.end()


def says(browser: Browser, words: str) -> None:
    """The words can be read on the page, which was not loaded for it."""
    try:
        eventually(lambda: words in browser.text, words)
    except AssertionError as error:
        raise AssertionError(f"{error}; the page says: {browser.text}") from None


def looks_well(browser: Browser, board: Board, name: str, screenshots: Path, ready: str) -> None:
    """On a phone and a desktop, in light and dark, nothing is wrong with it, and it asks nobody else for anything."""
    for device, scheme in LOOKS:
        browser.open(board.url, width=WIDTHS[device], scheme=scheme)
        says(browser, ready)
        assert not browser.overflows(), (device, scheme)
        browser.screenshot(screenshots / f"dashboard-{name}-{device}-{scheme}.png")
        browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert not browser.overflows(), (device, scheme)
        assert browser.findings() == [], (device, scheme)
        is_quiet(browser, board)


def is_quiet(browser: Browser, board: Board) -> None:
    """Nothing was complained of, and nobody else was asked for anything."""
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(board.url)] == []


def test_a_deploy_from_a_terminal_is_followed_live(make_service: Make, browser: Browser, tmp_path: Path) -> None:
    service = make_service(bake=8, app="replicas = 2", extra=VIP)
    service.deploy("v1")
    with dashboard(service) as board:
        browser.open(board.url)
        browser.run(MINE)
        for words in (
            *("v1 is live", "It serves. No rollback is possible.", service.url, "2 of 2", "deploy nothing → v1: done"),
            *(f"{service.name}-blue-2: running", "Nothing stands here.", "free", "192.0.2.77 is not held here (lo)"),
        ):
            says(browser, words)
        assert browser.title == f"{service.name}: v1 is live"
        says(browser, "v1 100 %")
        assert "Deploy" not in browser.text
        assert "Roll back" not in browser.text

        run = Followed(service, "deploy", "v2")
        run.until("verify", "done")
        says(browser, "A run is under way: ")
        says(browser, f"process {run.process.pid} (deploy v2, since ")
        says(browser, "v2 is live")
        says(browser, "not live, a run is under way")
        browser.screenshot(pictures(tmp_path) / "dashboard-under-way-desktop-light.png")
        assert run.end().code == 0
        says(browser, "It serves. A rollback to v1 is ready.")
        says(browser, "deploy v1 → v2: done")
        drawn = browser.run(
            "return ['blue', 'green', 'failed'].map(colour =>"
            " [...document.querySelectorAll('#plot .fill-' + colour)].map(bar => bar.getBoundingClientRect().x))"
        )
        old, new, failed = drawn
        assert min(old) < min(new), "v1 on the left, v2 on the right"
        assert max(old) < max(new)
        assert failed == []
        assert browser.run("return document.querySelector('#plot desc').textContent").startswith("v1 gave ")
        assert browser.run(STILL_MINE) == "yes", "the page was never loaded again"
        is_quiet(browser, board)

        looks_well(browser, board, "live", pictures(tmp_path), "answers a second · p50 ")
        browser.run(CLICK, "#runs a")
        says(browser, "Deploy v1 → v2")
        says(browser, "The hand-over")
        assert browser.findings() == []
        is_quiet(browser, board)


def test_deploy_and_rollback_by_clicking(
    make_service: Make, browser: Browser, engine: docker.DockerClient, tmp_path: Path
) -> None:
    service = make_service(bake=3)
    service.deploy("v1")
    screenshots = pictures(tmp_path)
    with dashboard(service, "--allow-actions") as board:
        browser.open(board.url)
        browser.run(MINE)
        says(browser, "v1 is live")

        def wish(release: str) -> None:
            browser.run("document.querySelector('#release').value = arguments[0]", release)
            browser.run(CLICK, "#deploy button.main")

        wish("v2")
        says(browser, "Nothing was changed yet")
        plan = service.ok("deploy", "v2", "--plan", "--json").json()
        asked = " ".join(browser.run("return document.querySelector('#ask').innerText").split())
        assert "Deploy v2?" in asked
        for step in plan["steps"]:
            assert f"{step['step']} {step['detail']}" in asked
        browser.screenshot(screenshots / "dashboard-ask-desktop-light.png")
        assert browser.findings() == []
        browser.run(CLICK, "#no")
        assert not browser.run("return document.querySelector('#ask').open")
        assert service.live() == "v1"

        wish("v2")
        says(browser, "Nothing was changed yet")
        browser.run(CLICK, "#yes")
        says(browser, "Deploy v2 is under way")
        assert browser.run("return document.querySelector('#rollback').disabled")
        says(browser, "deploy v1 → v2: done Report · Receipt")
        for words in ("blue", "switch green is in use", f"retire removed {service.name}-blue-1", "v2 is live"):
            says(browser, words)
        assert service.live() == "v2"

        says(browser, "A rollback to v1 is ready.")
        browser.run(CLICK, "#rollback")
        says(browser, "Roll back to v1?")
        browser.run(CLICK, "#yes")
        says(browser, "rollback v2 → v1: done Report · Receipt")
        assert service.live() == "v1"
        assert browser.run(STILL_MINE) == "yes"

        says(browser, "It serves. ")
        wish("v4-exits")
        says(browser, "Nothing was changed yet")
        browser.run(CLICK, "#yes")
        says(browser, "deploy v1 → v4-exits: undone")
        says(browser, "v1 still serves")
        assert "BROKEN=exits" in browser.text
        looks_well(browser, board, "undone", screenshots, "deploy v1 → v4-exits: undone Report")
        is_quiet(browser, board)

        wish("v1")
        says(browser, "There is nothing to do: v1 is live")
        assert browser.run("return document.querySelector('#yes').hidden")


def test_who_comes_second_is_told_who_holds_the_lock(make_service: Make, browser: Browser) -> None:
    service = make_service()
    service.deploy("v1", "--no-witness")
    edit(service, "seconds = 0.5", "seconds = 60")
    with dashboard(service, "--allow-actions") as board:
        browser.open(board.url)
        says(browser, "v1 is live")
        run = Followed(service, "deploy", "v2")
        run.until("bake", "started")
        says(browser, "A run is under way")
        body = "JSON.stringify({action: 'deploy', release: 'v3'})"
        headers = (
            "{'Content-Type': 'application/json', 'X-CSRF-Token': document.querySelector('meta[name=csrf]').content}"
        )
        browser.run(f"fetch('/actions', {{method: 'POST', body: {body}, headers: {headers}}})")
        says(browser, f"{service.name} is locked by ")
        says(browser, f"process {run.process.pid} (deploy v2, since ")
        says(browser, "deploy v3 ended with exit code 4")
        run.process.send_signal(signal.SIGINT)
        assert run.end().code == 130


def test_a_run_goes_on_when_the_dashboard_ends(make_service: Make) -> None:
    service = make_service(bake=4)
    service.deploy("v1")
    board = Board(service, "--allow-actions")
    page = httpx.get(board.url, trust_env=False).text
    csrf = page.partition('name="csrf" content="')[2].partition('"')[0]
    headers = {"Origin": board.url.rstrip("/"), "X-CSRF-Token": csrf}
    wish = {"action": "deploy", "release": "v2"}
    assert httpx.post(f"{board.url}actions", json=wish, headers=headers, trust_env=False).json() == {
        "title": "deploy v2"
    }
    second = httpx.post(f"{board.url}actions", json=wish, headers=headers, trust_env=False)
    assert second.status_code == 409
    assert "deploy v2 is under way, started from this dashboard as process " in second.json()["message"]
    eventually(lambda: service.status()["lock"] is not None, "the run has the lock")
    said = board.end()
    assert "deploy v2 goes on as process " in said
    process = said.partition("as process ")[2].partition(",")[0]
    assert f"process {process} (deploy v2, " in str(service.status()["lock"])
    eventually(lambda: service.status()["lock"] is None, "the run has ended")
    (latest, *_) = service.ok("history", "--json").json()
    assert (latest["to"], latest["result"], latest["failed"]) == ("v2", "done", 0)
    assert service.live() == "v2"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def another_site(directory: Path, page: str) -> Iterator[str]:
    """A page of another site."""
    (directory / "index.html").write_text(page)
    serve = functools.partial(Quiet, directory=os.fspath(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_page_of_another_site_can_do_nothing(make_service: Make, browser: Browser, tmp_path: Path) -> None:
    service = make_service()
    service.deploy("v1", "--no-witness")
    service.deploy("v2", "--no-witness")
    with dashboard(service, "--allow-actions") as board:
        browser.open(board.url)
        says(browser, "v2 is live")
        wish = json.dumps({"action": "rollback", "release": None})
        site = tmp_path / "site"
        site.mkdir()
        page = (
            "<!DOCTYPE html><title>evil</title><iframe id=frame></iframe>"
            f"<form method=post enctype=text/plain action='{board.url}actions'><input name='{wish}'></form>"
            f"<script>fetch('{board.url}actions', {{method: 'POST', mode: 'no-cors', body: '{wish}'}})"
            ".then(answer => document.title = 'sent ' + answer.type, error => document.title = 'failed')</script>"
        )
        with another_site(site, page) as url:
            browser.open(url)
            eventually(lambda: browser.title in ("sent opaque", "failed"), "the other site has sent its post")
            assert f"{board.url}actions" in browser.requests
            read = f"return fetch('{board.url}news').then(() => 'read', () => 'refused')"
            assert browser.run(read) == "refused"
            browser.run(f"document.querySelector('#frame').src = '{board.url}'")
            browser.run("document.querySelector('form').submit()")
            says(browser, "this was sent by a page of another site")
        assert httpx.get(board.url, headers={"Host": "evil.example"}, trust_env=False).status_code == 421
        browser.open(board.url)
        says(browser, "v2 is live")
        assert browser.run("return document.querySelector('#action').hidden"), "no run was started"
    assert [run["action"] for run in service.ok("history", "--json").json()] == ["deploy", "deploy"]


def test_with_a_token_people_log_in(make_service: Make, browser: Browser, tmp_path: Path) -> None:
    service = make_service()
    service.env[VARIABLE] = TOKEN
    service.deploy("v1", "--no-witness")
    with dashboard(service) as board:
        browser.open(board.url)
        says(browser, "Log in")
        assert "v1" not in browser.text
        looks_well(browser, board, "login", pictures(tmp_path), "Log in")

        def give(token: str) -> None:
            browser.run("document.querySelector('#token').value = arguments[0]", token)
            browser.run(CLICK, ".login button")

        give("not the token at all")
        says(browser, "That is not the token.")
        give(TOKEN)
        says(browser, "v1 is live")
        assert browser.run("return location.href") == board.url
        assert browser.run("return document.cookie") == ""
        browser.run(CLICK, "#logout")
        says(browser, "Log in")
        browser.open(board.url)
        says(browser, "Log in")
    refused = service.run("dashboard", "--listen", "0.0.0.0:0", "--token-file", "nothing")
    assert (refused.code, "can't be read" in refused.err) == (3, True)
    del service.env[VARIABLE]
    refused = service.run("dashboard", "--listen", "0.0.0.0:0")
    assert refused.code == 2
    assert "takes a token; nothing was started" in refused.err


def test_what_is_out_of_date_is_said_to_be_and_mends_itself(
    make_service: Make, browser: Browser, free_port: Callable[[], int], tmp_path: Path
) -> None:
    service = make_service()
    service.deploy("v1", "--no-witness")
    with relay(free_port(), SOCKET) as way:
        service.env["DOCKER_HOST"] = way.address
        with dashboard(service) as board:
            browser.open(board.url)
            browser.run(MINE)
            says(browser, "It serves. ")
            way.cut()
            says(browser, "What you see is out of date: no Docker engine answers at")
            says(browser, "Out of date, by ")
            assert "v1 is live" in browser.text, "what was found last is still there"
            browser.screenshot(pictures(tmp_path) / "dashboard-stale-desktop-light.png")
            assert browser.findings() == []
            way.mend()
            says(browser, "It serves. ")
            assert "out of date" not in browser.text
            is_quiet(browser, board)
            where = board.url.removeprefix("http://").rstrip("/")
            board.process.kill()
            board.process.communicate()
            says(browser, "The connection to the dashboard is lost.")
            says(browser, "Connection lost")
        again = Board(service, listen=where)
        try:
            says(browser, "It serves. ")
            assert browser.run(STILL_MINE) == "yes"
        finally:
            again.end(signal.SIGTERM)


def test_nothing_that_a_receipt_says_becomes_markup(
    make_service: Make, browser: Browser, engine: docker.DockerClient
) -> None:
    service = make_service()
    receipt = service.deploy("v1", "--no-witness")
    attack = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
    hostile = {
        **receipt,
        "run": "29990101-000000-abcd",
        "to": attack,
        "from": attack,
        "reason": attack,
        "who": attack,
        "steps": [{**step, "detail": attack} for step in receipt["steps"]],
    }
    put(engine, service, "50.json.gz", pack(hostile))
    put(engine, service, "51.json.gz", b"damaged")
    with dashboard(service) as board:
        browser.open(board.url)
        says(browser, f"{attack} → {attack}: done")
        says(browser, "51.json.gz is damaged")
        assert browser.title == f"{service.name}: v1 is live"
        assert browser.run("return document.querySelectorAll('img, script:not([src])').length") == 0
        browser.run(CLICK, "#runs a")
        says(browser, f"Deploy {attack}")
        assert "taken" not in browser.title.replace(attack, "")
        is_quiet(browser, board)
