"""TLS at the proxy: a deploy over https, HTTP/2, the redirect, and the pairs that are refused."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
from certificates import NOW, Authority
from harness import FULL, Make, TestService, executed

PROXIES = ["nginx:1.22", "nginx:stable", "haproxy:2.6", "haproxy:3.2"]
CURRENT = ["nginx:stable", "haproxy:3.2"]
Secure = Callable[..., tuple[str, TestService]]
current = pytest.mark.parametrize("image", CURRENT)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def secure(make_service: Make, authority: Authority, free_port: Callable[[], int]) -> Secure:
    """Makes a service with TLS, beside its https address."""

    def make(*, separate: bool = True, names: tuple[str, ...] = ("127.0.0.1", "shop.test"), **options: Any) -> Any:
        authority.pair("site", *names)
        port = free_port() if separate else None
        where = f'listen = "127.0.0.1:{port}"' if separate else ""
        service = make_service(
            **options,
            extra=f"""
[proxy.tls]
certificate = "../site.crt"
key = "../site.key"
ca = "../ca.pem"
{where}
""",
        )
        return f"https://127.0.0.1:{port or service.port}", service

    return make


def ask(authority: Authority, url: str, *, host: str | None = None, http2: bool = False) -> httpx.Response:
    context = ssl.create_default_context(cafile=authority.file)
    with httpx.Client(verify=context, http1=not http2, http2=http2, trust_env=False, timeout=30) as client:
        headers = {"Host": host} if host else {}
        return client.get(url, headers=headers, extensions={"sni_hostname": host} if host else {})


@pytest.mark.parametrize(
    ("image", "separate"),
    list(itertools.product(PROXIES, [True, False]))
    if FULL
    else [("nginx:1.22", True), ("haproxy:2.6", False)],
)
def test_a_release_takes_over_by_https_without_a_failed_request(
    secure: Secure, authority: Authority, engine: docker.DockerClient, image: str, separate: bool
) -> None:
    url, service = secure(image=image, separate=separate)
    assert service.deploy("v1")["result"] == "done"
    assert ask(authority, f"{url}/version").text.strip() == "version 1"

    receipt = service.deploy("v2")
    assert receipt["result"] == "done"
    assert receipt["requests"]["failed"] == 0
    assert receipt["requests"]["by_release"]["v1"] > 0
    assert receipt["requests"]["by_release"]["v2"] > 0
    assert ask(authority, f"{url}/version").text.strip() == "version 2"

    answer = ask(authority, f"{url}/version", http2=True)
    assert (answer.http_version, answer.text.strip()) == ("HTTP/2", "version 2")
    if separate:
        answer = service.get("/version?a=b")
        assert (answer.status_code, answer.headers["location"]) == (308, f"{url}/version?a=b")
    else:
        with pytest.raises(httpx.HTTPError):
            service.get().raise_for_status()
    seen = json.loads(service.ok("watch", "--seconds", "0.5", "--json").out)
    assert (seen["failed"], set(seen["by_answer"])) == (0, {"version 2"})
    assert service.rollback()["requests"]["failed"] == 0
    nobody_reads_the_key(engine, service, Path(authority.file).with_name("site.key").read_text())


def nobody_reads_the_key(engine: docker.DockerClient, service: TestService, key: str) -> None:
    """It stands in no label and no log, and in files of the proxy that are for its user alone."""
    secret = key.splitlines()[1]
    proxy = engine.containers.get(f"bluegreen-proxy-127.0.0.1-{service.port}")
    listed = executed(proxy, ["sh", "-c", "stat -c '%a %u %n' /bluegreen/tls/*; stat -c %u /proc/1"]).output
    *files, owner = listed.decode().splitlines()
    assert files
    assert {file.split()[0] for file in files} == {"600"}
    assert {file.split()[1] for file in files} == {owner}
    search = ["grep", "-rsl", "--", secret, "/bluegreen", "/tmp"]
    found = executed(proxy, search).output.decode().split()
    assert [Path(file).parent.name for file in found] == ["tls"]
    assert executed(proxy, search, user="4321").output == b""
    assert secret not in json.dumps(proxy.attrs)
    assert secret not in proxy.logs().decode()
    for name in service.containers():
        assert secret not in json.dumps(engine.containers.get(name).attrs)
    for file in service.directory.iterdir():
        assert secret not in file.read_text()


@pytest.mark.parametrize("image", CURRENT if FULL else ["haproxy:3.2"])
def test_the_app_is_told_of_https_by_the_proxy_and_not_by_its_client(
    secure: Secure, authority: Authority, tmp_path: Path, image: str
) -> None:
    app = f"""command = ["python3", "/srv/ws.py"]
volumes = ["{Path(__file__).parents[1] / "websocket_app.py"}:/srv/ws.py:ro"]"""
    url, service = secure(image=image, app=app)
    service.deploy("v1")
    context = ssl.create_default_context(cafile=authority.file)
    answer = httpx.get(f"{url}/headers", headers={"X-Forwarded-Proto": "gopher"}, verify=context, trust_env=False)
    assert answer.json()["x-forwarded-proto"] == "https"


@pytest.mark.parametrize("image", PROXIES if FULL else ["nginx:stable"])
def test_a_pair_that_will_not_do_is_refused_and_the_old_release_still_serves(
    secure: Secure, authority: Authority, image: str
) -> None:
    url, service = secure(image=image, hosts=["shop.test"])
    service.deploy("v1")
    before = service.containers()

    def refused(setting: str, words: str) -> None:
        for arguments in (["deploy", "v2"], ["deploy", "v2", "--plan"]):
            ran = service.run(*arguments)
            assert ran.code == 3, ran.text
            assert f"{setting}: " in ran.text
            assert words in ran.text
            assert "PRIVATE" not in ran.text
        assert service.containers() == before
        assert ask(authority, f"{url}/version", host="shop.test").text.strip() == "version 1"

    authority.pair("site", "shop.test", start=NOW - timedelta(days=2), end=NOW - timedelta(days=1))
    refused("proxy.tls.certificate", "expired")
    authority.pair("site", "shop.test", start=NOW + timedelta(hours=1))
    refused("proxy.tls.certificate", "not valid before")
    authority.pair("site", "elsewhere.test")
    refused("proxy.tls.certificate", "covers none of proxy.hosts")
    right = authority.pair("site", "shop.test")
    right[1].write_text(authority.pair("other", "shop.test")[1].read_text())
    refused("proxy.tls.key", "is not the key of")


@pytest.mark.parametrize("image", CURRENT if FULL else ["nginx:stable"])
def test_a_new_pair_is_in_use_after_a_deploy_of_the_same_release(
    secure: Secure, authority: Authority, image: str
) -> None:
    url, service = secure(image=image)
    service.deploy("v1")
    port = int(url.rpartition(":")[2])
    assert shown(port) == (authority.file.parent / "site.crt").read_text()
    assert service.deploy("v1")["result"] == "unchanged"
    authority.pair("site", "127.0.0.1", "shop.test")
    receipt = service.deploy("v1")
    assert (receipt["result"], receipt["requests"]["failed"]) == ("done", 0)
    assert shown(port) == (authority.file.parent / "site.crt").read_text()


def shown(port: int, host: str | None = None) -> str:
    """The certificate that the proxy shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as plain,
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        return ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True) or b"")


@current
def test_each_service_of_a_proxy_shows_its_own_certificate(
    secure: Secure, make_service: Make, authority: Authority, image: str
) -> None:
    url, first = secure(image=image, hosts=["shop.test"], names=("shop.test",))
    first.deploy("v1")
    authority.pair("second", "blog.test")
    tls = first.directory.joinpath("bluegreen.toml").read_text().partition("[proxy.tls]")[2]
    second = make_service(
        image=image,
        port=first.port,
        hosts=["blog.test"],
        extra="[proxy.tls]" + tls.replace("site.", "second."),
    )
    second.deploy("v2")
    assert ask(authority, f"{url}/version", host="shop.test").text.strip() == "version 1"
    assert ask(authority, f"{url}/version", host="blog.test").text.strip() == "version 2"

    port = int(url.rpartition(":")[2])
    for host, name in (("shop.test", "site"), ("blog.test", "second")):
        assert shown(port, host) == (authority.file.parent / f"{name}.crt").read_text()
    if image.startswith("nginx"):
        with pytest.raises(ssl.SSLError):
            shown(port, "nobody.test")
    else:
        assert httpx.get(f"{url}/version", verify=False, trust_env=False).status_code == 404

    third = make_service(image=image, port=first.port, hosts=["plain.test"])
    third.deploy("v3")  # without TLS, it takes nothing from the others
    assert ask(authority, f"{url}/version", host="shop.test").text.strip() == "version 1"
    assert third.get(headers={"Host": "plain.test"}).text.strip() == "version 3"

    second.ok("down", "--yes")
    first.ok("down", "--yes")
    assert third.get(headers={"Host": "plain.test"}).text.strip() == "version 3"


@pytest.mark.parametrize("image", CURRENT if FULL else ["haproxy:3.2"])
def test_tls_is_not_added_to_a_proxy_that_does_not_publish_its_port(
    make_service: Make, authority: Authority, free_port: Callable[[], int], image: str
) -> None:
    service = make_service(image=image)
    service.deploy("v1")
    authority.pair("site", "127.0.0.1")
    port = free_port()
    file = service.directory / "bluegreen.toml"
    file.write_text(
        file.read_text()
        + f"""
[proxy.tls]
certificate = "../site.crt"
key = "../site.key"
ca = "../ca.pem"
listen = "127.0.0.1:{port}"
"""
    )
    ran = service.run("deploy", "v2", "--no-witness")
    assert ran.code == 1
    assert f"does not publish 127.0.0.1:{port} for https" in ran.text
    assert "bluegreen down" in ran.text
    assert service.get().text.strip() == "version 1"
