"""The dashboard over HTTP: who may come in, from which page and by which name, and what leaves it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner
from dashboard_host import Host

import bluegreen
from bluegreen.cli import main
from bluegreen.errors import SettingsError, UsageError
from bluegreen.pages import (
    BODY_LIMIT,
    FILES,
    HEADERS,
    SESSION_SECONDS,
    SESSIONS,
    VIEWERS,
    Door,
    Pages,
    listen_address,
    read_token,
    wanted,
)

TOKEN = "a-token-of-24-characters"
HERE = "http://127.0.0.1:8090"
LOOPBACK = listen_address("127.0.0.1:8090")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr("bluegreen.pages.WRONG_TOKEN_SECONDS", 0)
    return Host(tmp_path / "bluegreen.toml")


class Client:
    """Somebody who sends requests to a dashboard that runs in this process."""

    def __init__(self, host: Host, *, token: str | None = None, names: tuple[str, ...] = (), actions: bool = False):
        self.dashboard = host.dashboard(allow_actions=actions)
        self.door = Door(LOOPBACK, token, names)
        self.app = Pages(self.dashboard, self.door).app()
        self.cookies = httpx.Cookies()

    def __call__(self, method: str, path: str, base: str = HERE, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url=base, cookies=self.cookies) as client:
                response = await client.request(method, path, **options)
                self.cookies = client.cookies
                return response

        return asyncio.run(send())

    def post(self, path: str, body: Any = None, **headers: str | None) -> httpx.Response:
        """As a page of the dashboard posts, but for the headers given; None leaves one out."""
        sent = {"origin": HERE, "x-csrf-token": self.door.csrf, "sec-fetch-site": "same-origin"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        given = {name: value for name, value in sent.items() if value is not None}
        return self("POST", path, content=json.dumps(body), headers=given)

    def log_in(self, token: str, **headers: str) -> httpx.Response:
        return self("POST", "/login", data={"token": token}, headers={"origin": HERE, **headers})


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("127.0.0.1:8090", "127.0.0.1:8090"),
        ("localhost:0", "127.0.0.1:0"),
        ("[::1]:8090", "[::1]:8090"),
        ("0.0.0.0:80", "0.0.0.0:80"),
    ],
)
def test_an_address_to_listen_at(words: str, shown: str) -> None:
    assert str(listen_address(words)) == shown


@pytest.mark.parametrize(
    "words",
    ["", "8090", ":8090", "::1:8090", "[127.0.0.1]:80", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "host:80"],
)
def test_what_is_no_address_to_listen_at(words: str) -> None:
    with pytest.raises(UsageError, match="takes an IP address and a port"):
        listen_address(words)


@pytest.mark.parametrize("words", ["0.0.0.0:8090", "[::]:8090", "192.0.2.7:8090", "[2001:db8::1]:80"])
def test_an_address_that_others_reach_takes_a_token(words: str) -> None:
    with pytest.raises(UsageError, match="takes a token; nothing was started"):
        Door(listen_address(words), None)
    assert Door(listen_address(words), TOKEN).locked


def test_a_token_is_in_a_file_of_its_owners_or_in_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="can be read by others") as refused:
        read_token(file, {})
    assert TOKEN not in str(refused.value)
    file.chmod(0o600)
    variable = {"BLUEGREEN_DASHBOARD_TOKEN": "b" * 20}
    assert read_token(file, variable) == TOKEN
    assert read_token(None, variable) == "b" * 20
    assert read_token(None, {}) is None
    with pytest.raises(SettingsError, match="can't be read"):
        read_token(tmp_path / "nothing", {})


@pytest.mark.parametrize("token", ["", " ", "short", "x" * 15, "ä" * 20, "a" * 20 + "\n" + "b" * 20])
def test_a_token_that_could_be_guessed_or_not_be_sent_is_refused(token: str) -> None:
    with pytest.raises(SettingsError, match="at least 16 characters") as refused:
        read_token(None, {"BLUEGREEN_DASHBOARD_TOKEN": token})
    assert not token.strip() or token not in refused.value.message


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST:8090", "127.0.0.1:8090", "127.9.9.9", "[::1]:9", "deploy.example"]
)
def test_a_name_of_the_dashboard(name: str) -> None:
    assert Door(LOOPBACK, None, ["Deploy.example"]).is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            None,
            "",
            "evil.example",
            "evil.example:8090",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "192.0.2.7",
        ),
        *("x@localhost", "localhost/x", "localhost:8090:1", "localhost:80x", "[::1", "127.0.0.1 ", "0.0.0.0"),
    ],
)
def test_a_name_of_another_site_that_leads_here(name: str | None) -> None:
    assert not Door(LOOPBACK, None, ["deploy.example"]).is_name(name)


def test_where_every_address_is_listened_at_each_address_is_a_name_and_no_host_name_is() -> None:
    door = Door(listen_address("0.0.0.0:8090"), TOKEN)
    assert door.is_name("192.0.2.7:8090")
    assert not door.is_name("evil.example")
    assert Door(listen_address("192.0.2.7:8090"), TOKEN).is_name("192.0.2.7:8090")
    assert not Door(listen_address("192.0.2.7:8090"), TOKEN).is_name("192.0.2.8:8090")


def test_a_request_by_another_name_gets_nothing(host: Host) -> None:
    client = Client(host)
    for path in ("/", "/news", "/login", "/dashboard.js", "/runs/x"):
        assert client("GET", path, "http://evil.example").status_code == 421
    assert client("GET", "/").status_code == 200


def test_every_answer_has_the_headers_that_keep_others_out(host: Host) -> None:
    client = Client(host, token=TOKEN)
    answers = [client("GET", path) for path in ("/", "/login", "/news", "/dashboard.css")]
    answers += [client("GET", "/", "http://evil.example"), client.post("/login", origin="http://evil.example")]
    assert [answer.status_code for answer in answers] == [303, 200, 401, 200, 421, 403]
    client.log_in(TOKEN)
    answers += [client("GET", path) for path in ("/", "/nowhere", "/runs/x")]
    assert [answer.status_code for answer in answers[-3:]] == [200, 404, 404]
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, answer
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


def test_without_the_token_there_is_nothing_to_see_but_the_login(host: Host) -> None:
    host.deploy("v1")
    client = Client(host, token=TOKEN, actions=True)
    for method, path in [
        ("GET", "/news"),
        ("GET", "/runs/x"),
        ("GET", "/dashboard.js"),
        ("GET", "/nowhere"),
        ("HEAD", "/news"),
    ]:
        assert client(method, path).status_code == 401, path
    assert client.post("/actions", {"action": "rollback", "release": None}).status_code == 401
    assert client("GET", "/").headers["location"] == "/login"
    page = client("GET", "/login")
    assert TOKEN not in page.text
    assert client.door.csrf not in page.text
    for wrong in ("Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN):
        assert client("GET", "/runs/x", headers={"authorization": wrong}).status_code == 401, wrong
    assert client("GET", "/runs/x", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 404


def test_a_login_gives_a_cookie_that_no_script_and_no_other_site_gets(host: Host) -> None:
    client = Client(host, token=TOKEN)
    wrong = client.log_in("not the token at all")
    assert wrong.status_code == 401
    assert "not the token" in wrong.text
    assert "set-cookie" not in wrong.headers
    response = client.log_in(f" {TOKEN} ")
    assert (response.status_code, response.headers["location"]) == (303, "/")
    cookie = response.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    assert client("GET", "/").status_code == 200
    assert client("GET", "/login").status_code == 303
    assert client.post("/logout").status_code == 204
    client.cookies.set("bluegreen-8090", cookie.partition("=")[2].partition(";")[0])
    assert client("GET", "/").status_code == 303, "the session is over, whoever has kept its cookie"


def test_a_login_that_came_by_https_gives_a_cookie_for_https(host: Host) -> None:
    client = Client(host, token=TOKEN)
    response = client.log_in(TOKEN, origin="https://127.0.0.1:8090")
    assert "Secure" in response.headers["set-cookie"].split("; ")


def test_logins_end_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    door = Door(LOOPBACK, TOKEN)
    first = door.enter(TOKEN)
    assert first
    assert door.knows(None, first)
    for other in (None, "", "x", first[:-1], first + "x"):
        assert not door.knows(None, other)
    later = [door.enter(TOKEN) for _ in range(SESSIONS)]
    assert not door.knows(None, first)
    assert door.knows(None, later[0])
    now += SESSION_SECONDS
    assert not door.knows(None, later[-1])


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": None},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:8091"},
        {"origin": "http://127.0.0.1:8090.evil.example"},
        {"origin": "ftp://127.0.0.1:8090"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"x_csrf_token": None},
        {"x_csrf_token": ""},
        {"x_csrf_token": "x"},
    ],
)
def test_a_post_that_no_page_of_ours_sent_is_refused(host: Host, headers: dict[str, str | None]) -> None:
    client = Client(host, actions=True)
    for path in ("/actions", "/plan", "/logout"):
        assert client.post(path, {"action": "deploy", "release": "v1"}, **headers).status_code == 403
    assert client.dashboard.action is None
    assert client.post("/actions", "nonsense").status_code == 400, "one of ours comes as far as its body"


def test_a_page_of_another_site_can_link_to_this_one_and_use_nothing_of_it(host: Host) -> None:
    client = Client(host)
    client.dashboard.viewers = VIEWERS
    for site, mode, code in [
        ("cross-site", "no-cors", 403),
        ("same-site", "cors", 403),
        ("cross-site", "navigate", 503),
        ("none", "navigate", 503),
        ("same-origin", "cors", 503),
    ]:
        assert client("GET", "/news", headers={"sec-fetch-site": site, "sec-fetch-mode": mode}).status_code == code


def test_a_bearer_of_the_token_needs_the_page_too(host: Host) -> None:
    client = Client(host, token=TOKEN, actions=True)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert client.post("/actions", "x", origin=None, **bearer).status_code == 403
    assert client.post("/actions", "x", x_csrf_token=None, **bearer).status_code == 403
    assert client.post("/actions", "x", **bearer).status_code == 400


def test_actions_are_there_only_if_they_are_allowed(host: Host) -> None:
    client = Client(host)
    for path in ("/actions", "/plan"):
        assert client.post(path, {"action": "rollback", "release": None}).status_code == 404
    page = client("GET", "/").text
    assert "Deploy" not in page
    assert "Roll back" not in page
    assert "Roll back" in Client(host, actions=True)("GET", "/").text
    assert client("DELETE", "/", headers={"origin": HERE}).status_code == 405


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"x",
            b"[]",
            b"7",
            b"{}",
            b'{"action": "down", "release": null}',
            b'{"action": "deploy", "release": null}',
        ),
        *(b'{"action": "deploy", "release": "--help"}', b'{"action": "deploy", "release": "a b"}'),
        *(b'{"action": "deploy", "release": 7}', b'{"action": ["deploy"], "release": "v1"}', b"[" * BODY_LIMIT),
        *(b'{"action": "deploy", "release": "<b>"}', b'{"action": "rollback"}', b'{"action": "deploy", "release": ""}'),
    ],
)
def test_what_is_no_action_is_refused(body: bytes) -> None:
    with pytest.raises(UsageError):
        wanted(body)


def test_what_is_an_action() -> None:
    assert wanted(b'{"action": "deploy", "release": "v2"}') == ("deploy", "v2")
    assert wanted(b'{"action": "rollback", "release": null}') == ("rollback", None)


def test_more_than_anybody_has_to_post_is_not_read(host: Host) -> None:
    client = Client(host, token=TOKEN)
    assert client.log_in("x" * (BODY_LIMIT + 1)).status_code == 401


def test_who_comes_last_is_told_that_it_is_full(host: Host) -> None:
    client = Client(host)
    client.dashboard.viewers = VIEWERS
    assert client("GET", "/news").status_code == 503


def test_the_report_of_a_run_is_a_page_in_which_nothing_of_the_receipt_is_markup(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(host)
    host.deploy("v1")
    good = host.history.receipts[0]
    attack = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    host.history.receipts[0] = {
        **good,
        "to": attack,
        "reason": attack,
        "who": attack,
        "steps": [{**step, "detail": attack} for step in good["steps"]],
    }
    page = client("GET", f"/runs/{good['run']}")
    assert page.status_code == 200
    assert "<script" not in page.text
    assert "<img" not in page.text
    assert "&lt;script&gt;" in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert client("GET", f"/runs/{good['run']}/receipt.json").json()["reason"] == attack


def test_a_receipt_that_is_not_there_or_damaged_is_told_as_plain_text(host: Host) -> None:
    client = Client(host)
    host.deploy("v1")
    run = host.history.receipts[0]["run"]
    host.history.receipts[0] = {"run": run, "<b>": "x"}
    for path, code in [(f"/runs/{run}", 500), ("/runs/<b>nothing", 404), ("/runs/nothing/receipt.json", 404)]:
        response = client("GET", path)
        assert response.status_code == code
        assert response.headers["content-type"].startswith("text/plain")


def test_the_page_asks_only_for_files_of_its_own(host: Host) -> None:
    client = Client(host, actions=True)
    page = client("GET", "/").text
    assert "style=" not in page
    assert "onclick" not in page
    for name, kind in FILES.items():
        assert f'"/{name}"' in page
        response = client("GET", f"/{name}")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(kind)
    script = client("GET", "/dashboard.js").text
    for markup in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "srcdoc", "DOMParser"):
        assert markup not in script


Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: Host) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLUEGREEN_DASHBOARD_TOKEN", raising=False)

    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(click.Group(commands=main.commands), ["dashboard", *arguments])

    return invoke


def test_the_command_refuses_what_it_must_not_serve(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(run("--listen", "0.0.0.0:0").exception, UsageError)
    assert isinstance(run("--listen", "here").exception, UsageError)
    monkeypatch.setenv("BLUEGREEN_DASHBOARD_TOKEN", "short")
    assert isinstance(run().exception, SettingsError)


def test_where_what_serves_it_is_not_installed_the_command_says_what_installs_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "bluegreen.pages")
    monkeypatch.delattr(bluegreen, "pages")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    error = run().exception
    assert isinstance(error, UsageError)
    assert "uvicorn" in error.message
    assert error.hint == "pip install 'bluegreen[dashboard]'"
