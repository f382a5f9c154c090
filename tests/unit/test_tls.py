"""TLS at the proxy: what the settings say, what is rendered, who can read the key, and whom the witness trusts."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority

from bluegreen.errors import SettingsError
from bluegreen.model import Colour, Endpoint
from bluegreen.proxies.agent import Agent, AgentError
from bluegreen.proxies.container import ProxyContainer
from bluegreen.proxies.driver import Driver
from bluegreen.proxies.haproxy import HAProxy
from bluegreen.proxies.host import ProxyHost
from bluegreen.proxies.nginx import Nginx
from bluegreen.proxies.templates import stamp_of
from bluegreen.runtimes.connect import LOCAL
from bluegreen.runtimes.session import LocalSession
from bluegreen.settings import Settings, parse
from bluegreen.witness import Prober, Witness

UPSTREAMS = {Colour.BLUE: [Endpoint("172.29.0.2", 9000)], Colour.GREEN: [Endpoint("172.29.0.3", 9000)]}
PAIR = {"certificate": "site.crt", "key": "site.key"}
BESIDE = {**PAIR, "listen": "0.0.0.0:8443"}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path)
    made.pair("site", "shop.test", "127.0.0.1")
    return made


def settings(root: Path, **proxy: Any) -> Settings:
    return parse({"service": "shop", "app": {"port": 9000}, "proxy": proxy}, root=root)


class Nobody:
    """An agent in a place where nothing is."""

    def run(self, *command: str) -> tuple[int, str]:
        return 1, ""

    def read_there(self, paths: Iterable[str]) -> dict[str, str]:
        return {}

    def exists(self, path: str) -> bool:
        return False


def driver(found: Settings, version: str = "1.22.1") -> Driver:
    proxy = found.proxy
    place: Any = ProxyHost(found, LOCAL) if proxy.where == "host" else ProxyContainer(None, proxy)
    place.agent = Nobody()
    made = (HAProxy if proxy.kind == "haproxy" else Nginx)(found, place)
    made._version = version
    return made


def files(found: Settings, version: str = "1.22.1") -> Mapping[str, str | None]:
    made = driver(found, version)
    return made._files(made.render(UPSTREAMS, Colour.BLUE))


def listens(text: str) -> list[str]:
    """What a file listens on, and how."""
    return re.findall(r"^ *(?:listen|bind) ([^;\n]*);?$", text, re.MULTILINE)


# Settings


@pytest.mark.parametrize(
    ("tls", "listen", "redirects", "plain", "url"),
    [
        (None, None, False, True, "http://127.0.0.1:8080"),
        (PAIR, "0.0.0.0:8080", False, False, "https://127.0.0.1:8080"),
        (BESIDE, "0.0.0.0:8443", True, False, "https://127.0.0.1:8443"),
        ({**BESIDE, "redirect": False}, "0.0.0.0:8443", False, True, "https://127.0.0.1:8443"),
        ({**PAIR, "listen": "0.0.0.0:8080"}, "0.0.0.0:8080", False, False, "https://127.0.0.1:8080"),
    ],
)
def test_https_stands_alone_or_beside_plain_http(
    tmp_path: Path, tls: dict[str, Any] | None, listen: str | None, redirects: bool, plain: bool, url: str
) -> None:
    proxy = settings(tmp_path, listen="0.0.0.0:8080", **({"tls": tls} if tls else {})).proxy
    assert (proxy.tls_listen, proxy.redirects, proxy.plain, proxy.url) == (listen, redirects, plain, url)


def test_the_hash_is_another_for_another_certificate_and_reading_one_changes_no_settings(
    authority: Authority, tmp_path: Path
) -> None:
    one, same = settings(tmp_path, tls=PAIR), settings(tmp_path, tls=PAIR)
    before = one.hash
    assert one == same
    authority.pair("site", "shop.test")
    assert (one.hash, same.hash) == (before, settings(tmp_path, tls=PAIR).hash)
    assert same.hash != before


@pytest.mark.parametrize("key", ["certificate", "key"])
def test_a_pair_has_two_files(tmp_path: Path, key: str) -> None:
    with pytest.raises(SettingsError, match=rf"proxy\.tls\.{key}: is missing"):
        settings(tmp_path, tls={name: file for name, file in PAIR.items() if name != key})


# Rendering


@pytest.mark.parametrize("where", ["container", "host"])
@pytest.mark.parametrize("tls", [PAIR, BESIDE, {**BESIDE, "redirect": False}], ids=["alone", "redirected", "beside"])
def test_nginx_listens_for_https_in_its_own_file(
    authority: Authority, tmp_path: Path, where: str, tls: dict[str, Any]
) -> None:
    found = settings(tmp_path, where=where, listen="0.0.0.0:8080", hosts=["shop.test"], tls=tls)
    root = "/bluegreen" if where == "container" else "/var/lib/bluegreen"
    plain, https = ("8080", "8443") if where == "container" else ("0.0.0.0:8080", found.proxy.tls_listen)
    all_files = files(found)
    [own] = [text for path, text in all_files.items() if text and "The service shop" in text]
    inside = [] if found.proxy.plain else ["127.0.0.1:8078"]
    wanted = [f"{https} ssl http2", "127.0.0.1:8079", *inside, *([] if tls is PAIR else [plain])]
    assert sorted(listens(own)) == sorted(wanted)
    assert f"ssl_certificate_key {root}/tls/shop.key;" in own
    assert all_files[f"{root}/tls/shop.key"] == (tmp_path / "site.key").read_text()
    assert ("return 308 https://$host:8443$request_uri;" in own) is found.proxy.redirects
    assert f"proxy_set_header X-Forwarded-Proto {'$scheme' if found.proxy.plain else 'https'};" in own
    main = all_files.get(f"{root}/nginx.conf")
    assert (main is None) is (where == "host"), "on a host, the main file is the person's own"


def test_nginx_says_http2_as_its_version_has_it(authority: Authority, tmp_path: Path) -> None:
    for version, http2, wanted in (
        ("1.25.0", True, ["8443 ssl http2 default_server"]),
        ("1.25.1", True, ["8443 ssl default_server", "http2 on;"]),
        ("1.30.6", False, ["8443 ssl default_server"]),
    ):
        text = driver(settings(tmp_path, tls={**BESIDE, "http2": http2}), version).render(UPSTREAMS, Colour.BLUE)
        said = [line for line in listens(text) if "ssl" in line] + re.findall(r"^ *(http2 .*)$", text, re.MULTILINE)
        assert said == wanted, version


def test_nginx_with_a_config_of_its_own_has_nothing_plain_where_https_stands(
    authority: Authority, tmp_path: Path
) -> None:
    found = settings(tmp_path, where="host", listen="0.0.0.0:443", tls=PAIR, host={"whole": True})
    all_files = files(found)
    assert listens(all_files["/etc/nginx/nginx.conf"] or "") == ["127.0.0.1:8078"]
    assert listens(all_files["/var/lib/bluegreen/tls/unclaimed.conf"] or "") == ["0.0.0.0:443 ssl"]


@pytest.mark.parametrize("where", ["container", "host"])
@pytest.mark.parametrize("tls", [None, PAIR, BESIDE], ids=["without", "alone", "redirected"])
def test_haproxy_listens_for_https_in_the_file_that_services_share(
    authority: Authority, tmp_path: Path, where: str, tls: dict[str, Any] | None
) -> None:
    table = {"tls": tls} if tls else {}
    found = settings(tmp_path, kind="haproxy", where=where, listen="0.0.0.0:8080", **table)
    container = where == "container"
    root = "/bluegreen" if container else "/var/lib/bluegreen"
    all_files = files(found)
    main = all_files["/bluegreen/haproxy.cfg" if container else "/etc/haproxy/conf.d/bluegreen-.cfg"] or ""
    plain, https = (":8080", ":8443") if container else ("0.0.0.0:8080", found.proxy.tls_listen)
    wanted = ["127.0.0.1:8079"]
    if container or tls is not PAIR:
        wanted.append(plain)
    if tls:
        wanted += ["127.0.0.1:8078", f"{https} ssl crt {root}/tls alpn h2,http/1.1 ssl-min-ver TLSv1.2"]
    assert sorted(listens(main)) == sorted(wanted)
    pem = all_files[f"{root}/tls/shop.pem"]
    assert pem == ((tmp_path / "site.crt").read_text() + (tmp_path / "site.key").read_text() if tls else None)


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
def test_a_new_certificate_is_a_new_stamp(authority: Authority, tmp_path: Path, kind: str) -> None:
    def stamp() -> str:
        return stamp_of(driver(settings(tmp_path, kind=kind, tls=PAIR)).render(UPSTREAMS, Colour.BLUE))

    before = stamp()
    assert stamp() == before
    authority.pair("site", "shop.test")
    assert stamp() != before


@pytest.mark.parametrize(
    ("proxy", "port"),
    [
        ({"tls": BESIDE}, ":8443"),
        ({"tls": {**PAIR, "listen": "0.0.0.0:443"}}, ""),
        ({"tls": BESIDE, "url": "https://shop.test"}, ""),
        ({"tls": BESIDE, "url": "https://shop.test:444"}, ":444"),
        ({"tls": BESIDE, "url": "http://shop.test:444"}, ":8443"),
        ({"tls": PAIR}, None),
        ({}, None),
    ],
)
def test_clients_are_redirected_to_where_they_reach_it(
    authority: Authority, tmp_path: Path, proxy: dict[str, Any], port: str | None
) -> None:
    assert driver(settings(tmp_path, **proxy))._https_port() == port


# Who can read the key


def test_a_secret_file_is_for_one_user_alone_in_a_directory_of_that_user(tmp_path: Path) -> None:
    agent = Agent(lambda command: LocalSession(list(command), timeout=60))
    path = tmp_path / "tls" / "shop.key"
    with subprocess.Popen(["sleep", "60"], user=1234 if os.geteuid() == 0 else None) as process:
        try:
            agent.write(os.fspath(path), "one", only_for=process.pid)
            agent.write(os.fspath(path), "secret", only_for=process.pid)
        finally:
            process.kill()
            agent.close()
    owner = 1234 if os.geteuid() == 0 else os.geteuid()
    assert (path.read_text(), path.stat().st_mode & 0o777, path.stat().st_uid) == ("secret", 0o600, owner)
    assert (path.parent.stat().st_mode & 0o777, path.parent.stat().st_uid) == (0o700, owner)
    assert list(path.parent.iterdir()) == [path]


def test_a_secret_is_not_written_for_a_process_that_is_not_there(tmp_path: Path) -> None:
    agent = Agent(lambda command: LocalSession(list(command), timeout=60))
    try:
        with pytest.raises(AgentError, match="no process 4194305"):  # above the highest id there can be
            agent.write(os.fspath(tmp_path / "tls" / "shop.key"), "secret", only_for=4194305)
    finally:
        agent.close()
    assert list(tmp_path.iterdir()) == []


# Whom the witness trusts


class Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "9")
        self.end_headers()
        self.wfile.write(b"version 1")

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def https(directory: Path) -> Iterator[str]:
    """The address of a server that shows the pair `site`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "site.crt", directory / "site.key")
    with HTTPServer(("127.0.0.1", 0), Hello) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_witness_trusts_the_authority_of_the_settings_and_no_other(authority: Authority, tmp_path: Path) -> None:
    with https(tmp_path) as url:
        for ca, host, why in (
            (authority.file, None, ""),
            (authority.file, "shop.test", ""),
            (authority.file, "elsewhere.test", "no connection"),
            (None, None, "no connection"),
        ):
            prober = Prober(url, "/", host=host, ca=ca)
            answer = prober.ask()
            prober.close()
            assert answer.why == why, (ca, host, answer)


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_an_authority_that_can_not_be_used_is_a_problem_of_the_settings(tmp_path: Path, content: str | None) -> None:
    ca = tmp_path / "other.pem"
    if content:
        ca.write_text(content)
    for make in (
        lambda: Prober("https://127.0.0.1:1", "/", ca=ca),
        lambda: Witness(
            "https://127.0.0.1:1", "/", host=None, expected={"v1": None}, rate=1, connections=1, timeout=1, ca=ca
        ),
    ):
        with pytest.raises(SettingsError, match=r"^proxy\.tls\.ca: .* can't be used"):
            make()
