"""The dashboard over HTTP: who may see it, its pages, and the server. Needs the extra `dashboard`.

Without a token only a loopback address serves it. What changes anything is taken from pages of its own alone: the Host
header has to be a name of this dashboard, Origin has to be the same, and a secret of the page has to come along.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import re
import secrets
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import jinja2
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from bluegreen.dashboard import SECONDS, TIMEOUT, VARIABLE, Dashboard
from bluegreen.errors import BluegreenError, Failed, SettingsError, UsageError
from bluegreen.names import check_release_name
from bluegreen.report import render
from bluegreen.words import plain

TOKEN_LENGTH = 16
"""Characters that a token has, at least."""

SESSION_SECONDS = 12 * 3600
"""How long a login lasts, at most; the end of the dashboard ends it, too."""

SESSIONS = 64
"""How many logins are remembered; the next takes the place of the oldest."""

WRONG_TOKEN_SECONDS = 0.5
"""How long the answer to a wrong token takes."""

VIEWERS = 32
"""How many pages can be open at once: fewer than there are threads that could answer them."""

BODY_LIMIT = 4096
"""Bytes of what is posted."""

FRESH = 3.0
"""Seconds: a page that has just been opened waits so long for what was found no longer ago."""

NEWS_EVERY = 0.5
"""Seconds between two events of a stream."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src"
    " 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every response that does not say otherwise."""

REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""Of a report, which is one file with its style in it and runs nothing."""

FILES = {"dashboard.js": "text/javascript", "dashboard.css": "text/css", "dashboard.svg": "image/svg+xml"}
OPEN_PATHS = ("/login", "/dashboard.css", "/dashboard.svg")
"""What somebody may see who is not logged in."""


class Address(NamedTuple):
    """Where the dashboard listens."""

    ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


def listen_address(words: str) -> Address:
    """The address that 127.0.0.1:8090, localhost:8090 or [::1]:8090 names. Raises UsageError for anything else."""
    host, _, port = words.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = Address(ipaddress.ip_address(bare), int(port) if port.isascii() and port.isdigit() else -1)
    except ValueError:
        address = None
    if address is None or not 0 <= address.port <= 65535 or (address.ip.version == 6) != (bare != host):
        raise UsageError(f"--listen {words}: it takes an IP address and a port, such as 127.0.0.1:8090 or [::1]:8090")
    return address


def read_token(file: Path | None, environ: Mapping[str, str]) -> str | None:
    """The token in the file, else in the variable; None without both. Raises SettingsError for one that will not do."""
    if file is None:
        token, where = environ.get(VARIABLE), VARIABLE
    else:
        where = str(file)
        try:
            mode, token = file.stat().st_mode, file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file} can't be read: {getattr(error, 'strerror', None) or 'not text'}") from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SettingsError(f"{file} can be read by others than its owner", hint=f"chmod 600 {file}")
    if token is None:
        return None
    token = token.strip()
    if len(token) < TOKEN_LENGTH or not (token.isascii() and token.isprintable()):
        raise SettingsError(
            f"{where}: a token has at least {TOKEN_LENGTH} characters of ASCII", hint="openssl rand -hex 24"
        )
    return token


class Door:
    """Who may come in, and by which name of the host.

    Raises UsageError where an address that others reach would be without a token.
    """

    def __init__(self, address: Address, token: str | None, names: Iterable[str] = ()) -> None:
        if token is None and not address.ip.is_loopback:
            raise UsageError(
                f"--listen {address}: others reach that, so it takes a token; nothing was started",
                hint=f"{VARIABLE} or --token-file, or listen on 127.0.0.1 and come by ssh -L",
            )
        self._address = address
        self._token = token
        self._names = {name.lower() for name in names}
        self._sessions: dict[str, float] = {}
        self.csrf = secrets.token_urlsafe(32)
        """What a page of ours gives back with every post, and no other page can know."""

    @property
    def locked(self) -> bool:
        return self._token is not None

    @property
    def cookie(self) -> str:
        """Its name; cookies know no ports, and several dashboards may run on one host."""
        return f"bluegreen-{self._address.port}"

    def is_name(self, host: str | None) -> bool:
        """Whether the Host header is a name of this dashboard, and of no other site that leads here (DNS rebinding)."""
        name = _host_name(host or "")
        if name is None:
            return False
        if name == "localhost" or name in self._names:
            return True
        try:
            ip = ipaddress.ip_address(name)
        except ValueError:
            return False
        return ip.is_loopback or ip == self._address.ip or self._address.ip.is_unspecified

    def is_ours(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of this dashboard sent what has this Origin header."""
        return bool(host) and origin in (f"http://{host}", f"https://{host}")

    def knows(self, authorization: str | None, cookie: str | None) -> bool:
        """Whether who sent these headers may come in."""
        if self._token is None:
            return True
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and same(token.strip(), self._token):
            return True
        ends = next((ends for session, ends in self._sessions.items() if same(session, cookie or "")), 0.0)
        return time.monotonic() < ends

    def enter(self, token: str) -> str | None:
        """A new session for who has the token; None for anybody else."""
        if self._token is None or not same(token, self._token):
            return None
        while len(self._sessions) >= SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        session = secrets.token_urlsafe(32)
        self._sessions[session] = time.monotonic() + SESSION_SECONDS
        return session

    def leave(self, cookie: str | None) -> None:
        """The session is over."""
        self._sessions.pop(cookie or "", None)


def same(one: str, other: str) -> bool:
    """Whether they are equal, in a time that does not tell how alike they are."""
    return hmac.compare_digest(one.encode(errors="replace"), other.encode(errors="replace"))


def _host_name(host: str) -> str | None:
    """The host in a Host header, without its port and brackets; None if it is not quite one."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9a-zA-Z_.-]+))(?::[0-9]{1,5})?", host)
    return (match[1] or match[2]).lower() if match else None


@cache
def _template(name: str) -> jinja2.Template:
    loader = jinja2.PackageLoader("bluegreen")
    return jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, autoescape=True).get_template(name)


def _file(name: str) -> bytes:
    return (Path(__file__).parent / "templates" / name).read_bytes()


Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Guard:
    """Lets through to the pages what may come in, and puts HEADERS on whatever goes out."""

    def __init__(self, app: Any, door: Door) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope)

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self.refusal(request) or self._app
        await answer(scope, receive, with_headers)

    def refusal(self, request: Request) -> Response | None:
        """The answer to a request that may not come in; None for one that may."""
        door, headers, path = self._door, request.headers, request.scope["path"]
        host = headers.get("host")
        if not door.is_name(host):
            return PlainTextResponse("this is no name of this dashboard; see --host\n", 421)
        reads = request.method in ("GET", "HEAD")
        site, mode = headers.get("sec-fetch-site", "same-origin"), headers.get("sec-fetch-mode")
        followed = reads and (site == "none" or mode == "navigate")  # typed, or a link to here: seen by nobody else
        if (site != "same-origin" and not followed) or not (reads or door.is_ours(headers.get("origin"), host)):
            return PlainTextResponse("this was sent by a page of another site\n", 403)
        if path not in OPEN_PATHS and not door.knows(headers.get("authorization"), request.cookies.get(door.cookie)):
            if path == "/" and request.method in ("GET", "HEAD"):
                return RedirectResponse("/login", 303)
            return PlainTextResponse("a token is needed\n", 401)
        if request.method == "POST" and path != "/login" and not same(headers.get("x-csrf-token", ""), door.csrf):
            return PlainTextResponse("this page is of an earlier start of the dashboard: load it again\n", 403)
        return None


class Pages:
    """What the dashboard answers to those whom the guard let through."""

    def __init__(self, dashboard: Dashboard, door: Door) -> None:
        self._dashboard, self._door = dashboard, door

    def app(self) -> Guard:
        routes = [
            Route("/", self.page),
            Route("/login", self.login_page),
            Route("/login", self.log_in, methods=["POST"]),
            Route("/logout", self.log_out, methods=["POST"]),
            Route("/news", self.news),
            Route("/runs/{run}", self.report),
            Route("/runs/{run}/receipt.json", self.receipt),
            *(Route(f"/{name}", self.file) for name in FILES),
        ]
        if self._dashboard.allow_actions:
            routes += [
                Route("/plan", self.plan, methods=["POST"]),
                Route("/actions", self.act, methods=["POST"]),
            ]
        return Guard(Starlette(routes=routes), self._door)

    async def page(self, request: Request) -> Response:
        settings, allow = self._dashboard.view.settings, self._dashboard.allow_actions
        return _html(
            "dashboard.html.j2",
            service=settings.service,
            url=settings.proxy.url,
            allow_actions=allow,
            locked=self._door.locked,
            csrf=self._door.csrf,
            seconds=SECONDS,
        )

    async def login_page(self, request: Request) -> Response:
        if self._door.knows(None, request.cookies.get(self._door.cookie)):
            return RedirectResponse("/", 303)
        return _html("dashboard-login.html.j2", service=self._dashboard.view.settings.service, wrong=False)

    async def log_in(self, request: Request) -> Response:
        fields = parse_qs((await _body(request)).decode(errors="replace"), max_num_fields=10)
        session = self._door.enter(fields.get("token", [""])[0].strip())
        if session is None:
            await asyncio.sleep(WRONG_TOKEN_SECONDS)
            service = self._dashboard.view.settings.service
            return _html("dashboard-login.html.j2", 401, service=service, wrong=True)
        response = RedirectResponse("/", 303)
        secure = request.headers.get("origin", "").startswith("https:")
        response.set_cookie(
            self._door.cookie, session, max_age=SESSION_SECONDS, httponly=True, samesite="strict", secure=secure
        )
        return response

    async def log_out(self, request: Request) -> Response:
        self._door.leave(request.cookies.get(self._door.cookie))
        response = Response(status_code=204)
        response.delete_cookie(self._door.cookie, httponly=True, samesite="strict")
        return response

    async def file(self, request: Request) -> Response:
        name = request.scope["path"][1:]
        return Response(_file(name), media_type=FILES[name])

    async def news(self, request: Request) -> Response:
        if self._dashboard.viewers >= VIEWERS:
            return PlainTextResponse("too many look already\n", 503)
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[str]:
        dashboard, seen = self._dashboard, dict[str, Any]()
        dashboard.viewers += 1
        try:
            yield "retry: 1000\n\n"
            begun = time.monotonic()
            while dashboard.view.age() > FRESH and time.monotonic() - begun < FRESH and not dashboard.stop.is_set():
                await asyncio.sleep(0.1)  # what was found when somebody looked last is about to be found anew
            while not dashboard.stop.is_set():
                told = await run_in_threadpool(dashboard.news, seen)
                yield f"data: {json.dumps(told)}\n\n"
                await asyncio.sleep(NEWS_EVERY)
        finally:
            dashboard.viewers -= 1

    async def report(self, request: Request) -> Response:
        run = request.path_params["run"]
        try:
            found = await run_in_threadpool(self._dashboard.receipt, run)
            page = await run_in_threadpool(render, found)
        except BluegreenError as error:
            return PlainTextResponse(f"{plain(error.message)}\n", 404)
        except Exception as error:  # of another version, or damaged: a template may stumble over anything
            return PlainTextResponse(f"the receipt can't be shown: {plain(repr(error))}\n", 500)
        return HTMLResponse(page, headers={"Content-Security-Policy": REPORT_POLICY})

    async def receipt(self, request: Request) -> Response:
        try:
            found = await run_in_threadpool(self._dashboard.receipt, request.path_params["run"])
        except BluegreenError as error:
            return PlainTextResponse(f"{plain(error.message)}\n", 404)
        return JSONResponse(found)

    async def plan(self, request: Request) -> Response:
        return await self._answer(request, self._dashboard.plan)

    async def act(self, request: Request) -> Response:
        return await self._answer(request, lambda *wanted: {"title": self._dashboard.begin(*wanted).title})

    async def _answer(self, request: Request, do: Callable[[str, str | None], dict[str, Any]]) -> Response:
        """What was done for a request that wants an action, or why not."""
        try:
            return JSONResponse(await run_in_threadpool(do, *wanted(await _body(request))))
        except BluegreenError as error:
            code = 400 if isinstance(error, UsageError) else 409
            return JSONResponse({"event": "error", "message": plain(error.message), "hint": error.hint}, code)


def wanted(body: bytes) -> tuple[str, str | None]:
    """The action and the release of a request's body. Raises UsageError for anything that is not quite that."""
    try:
        asked = json.loads(body)
        action, release = asked["action"], asked["release"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError("this is no action") from None
    if action not in ("deploy", "rollback") or not (
        isinstance(release, str) or (release is None and action != "deploy")
    ):
        raise UsageError("this is no action")
    return action, None if release is None else check_release_name(release)


async def _body(request: Request) -> bytes:
    """What was posted. Of more than anybody needs only the beginning, which then is wrong."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_LIMIT:
            break
    return body[:BODY_LIMIT]


def _html(name: str, code: int = 200, **words: Any) -> Response:
    return HTMLResponse(_template(name).render(**words), code)


def serve(dashboard: Dashboard, door: Door, address: Address, say: Callable[[str], None]) -> None:
    """Serves until Ctrl-C or SIGTERM, then says what still goes on. Raises Failed if it can't listen."""
    listener = _listen(address)
    server = uvicorn.Server(
        uvicorn.Config(
            Pages(dashboard, door).app(),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=3,
        )
    )
    threads = [
        threading.Thread(target=target, name=target.__name__, daemon=True)
        for target in (dashboard.keep_looking, dashboard.keep_asking)
    ]
    for thread in threads:
        thread.start()
    bound = Address(address.ip, listener.getsockname()[1])
    say(f"the dashboard of {dashboard.view.settings.service} is at http://{bound}/")

    async def until_told() -> None:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not (server.should_exit or serving.done()):
            await asyncio.sleep(0.1)
        dashboard.stop.set()  # the streams end, which the server waits for
        await serving

    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(until_told())
    finally:
        dashboard.stop.set()
        listener.close()
    for thread in threads:
        thread.join(2 * TIMEOUT)
    action = dashboard.action
    if action and action.is_running():
        say(
            f"{action.title} goes on as process {action.process}, and ends without this dashboard; see bluegreen status"
        )


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if address.ip.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address.ip), address.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise Failed(
            f"--listen {address}: {error.strerror or error}", hint="another port: --listen 127.0.0.1:0"
        ) from error
    return listener
