"""What a person writes into the proxy's files, or breaks there, is not lost in silence and not loaded untested."""

from __future__ import annotations

from typing import Any

import docker
import pytest
from aftermath import edit, things
from harness import FULL, Make, TestService, executed

SAMPLE = [("nginx:stable", "live", ".conf"), ("haproxy:3.2", "reload", ".cfg")]
NOTE = "# the night shift was here"


def proxy_of(engine: docker.DockerClient, service: TestService) -> Any:
    return engine.containers.get(f"bluegreen-proxy-127.0.0.1-{service.port}")


def sh(container: Any, script: str) -> str:
    """What a person's script prints in the proxy's container."""
    code, words = executed(container, ["sh", "-ec", script])
    assert code == 0, words.decode()
    return words.decode()


@pytest.mark.parametrize(("image", "switch", "suffix"), SAMPLE)
def test_a_persons_edit_is_shown_and_stays_until_it_is_said_that_it_may_go(
    make_service: Make, engine: docker.DockerClient, image: str, switch: str, suffix: str
) -> None:
    service = make_service(image=image, switch=switch)
    service.deploy("v1")
    proxy, file = proxy_of(engine, service), f"/bluegreen/services/{service.name}{suffix}"
    sh(proxy, f"echo '{NOTE}' >>{file}")
    before, edited = things(engine, service), sh(proxy, f"cat {file}")

    ran = service.run("deploy", "v2")
    assert ran.code == 1, ran.text
    for words in ("a person has edited", "nothing was changed", "v1 still serves", f"+{NOTE}", "--overwrite-edits"):
        assert words in ran.err
    assert things(engine, service) == before
    assert sh(proxy, f"cat {file}") == edited
    assert f"+{NOTE}" in service.ok("deploy", "v2", "--plan").out
    assert f"+{NOTE}" in service.status()["proxy"]["edits"]
    assert f"+{NOTE}" in service.run("doctor").out
    service.ok("proxy", "reload")
    assert NOTE in sh(proxy, f"cat {file}"), "a reload loads the files as they stand"

    receipt = service.deploy("v2", "--overwrite-edits")
    assert (receipt["from"], receipt["requests"]["failed"]) == ("v1", 0)
    assert NOTE not in sh(proxy, f"cat {file}")
    assert service.status()["proxy"]["edits"] is None
    assert NOTE in sh(proxy, "cat /bluegreen/edited/*"), "a copy is kept"

    sh(proxy, f"echo '{NOTE}' >>{file}")
    ran = service.ok("rollback")
    assert "is written over; a copy of the file is kept in /bluegreen/edited" in ran.out
    assert f"+{NOTE}" in ran.out
    assert service.get().text.strip() == "version 1"


BROKEN = [
    *([("nginx:stable", "live", "proxy_pas http://nowhere;", "proxy_pas")] if FULL else []),
    ("nginx:stable", "reload", "server {", "end of file"),  # 1.22 may lose a request as it reloads: RELOAD_CLOSES
    ("haproxy:3.2", "live", "backend nowhere\n    no such word", "somebodys.cfg:2"),
]


@pytest.mark.parametrize(("image", "switch", "garbage", "said"), BROKEN)
def test_a_config_that_somebody_has_broken_is_told_in_the_proxys_words_and_not_loaded(
    make_service: Make, engine: docker.DockerClient, image: str, switch: str, garbage: str, said: str
) -> None:
    service = make_service(image=image, switch=switch)
    service.deploy("v1")
    proxy = proxy_of(engine, service)
    other = f"/bluegreen/services/somebodys{'.conf' if 'nginx' in image else '.cfg'}"
    sh(proxy, f"cat >{other} <<'END'\n{garbage}\nEND\n")
    before = things(engine, service)
    # Another limit makes it necessary to load something: a switch in place alone needs nothing of that file.
    edit(service, "hosts = []", 'hosts = []\nmax_body = "7m"')
    ran = service.run("deploy", "v2")
    assert ran.code == 1, ran.text
    for words in ("refuses the new config, and the old one is back", said, "v1 still serves"):
        assert words in ran.err, ran.err
    assert things(engine, service) == before
    assert service.get().text.strip() == "version 1"
    status = service.status()
    assert (status["live"]["release"], status["unfinished"], status["proxy"]["edits"]) == ("v1", None, None)
    ran = service.run("proxy", "reload")
    assert ran.code == 1
    assert said in ran.err
    sh(proxy, f"rm {other}")
    assert service.deploy("v2")["requests"]["failed"] == 0


def test_a_reload_that_fails_at_the_switch_leaves_the_old_file_and_the_old_release(
    make_service: Make, engine: docker.DockerClient
) -> None:
    service = make_service(image="nginx:stable", switch="reload")
    service.deploy("v1")
    proxy, file = proxy_of(engine, service), f"/bluegreen/services/{service.name}.conf"
    before, stood, pid = things(engine, service), sh(proxy, f"cat {file}"), sh(proxy, "cat /tmp/nginx.pid")
    sh(proxy, "echo nonsense >/tmp/nginx.pid")
    ran = service.run("deploy", "v2")
    assert ran.code == 1, ran.text
    assert "nginx does not reload: " in ran.err
    assert "v1 still serves" in ran.err
    assert sh(proxy, f"cat {file}") == stood
    assert things(engine, service) == before
    assert service.get().text.strip() == "version 1"
    assert service.status()["unfinished"] is None
    sh(proxy, f"echo {pid.strip()} >/tmp/nginx.pid")
    assert service.deploy("v2")["requests"]["failed"] == 0


def test_without_its_admin_socket_haproxy_is_not_switched_and_serves_on(
    make_service: Make, engine: docker.DockerClient
) -> None:
    service = make_service(image="haproxy:3.2", switch="live")
    service.deploy("v1")
    before, proxy = things(engine, service), proxy_of(engine, service)
    sh(proxy, "rm /tmp/bluegreen-admin.sock")
    ran = service.run("deploy", "v2")
    assert ran.code == 1, ran.text
    for words in ("does not answer at its admin socket", "v1 still serves", f"docker restart {proxy.name}"):
        assert words in ran.err
    assert things(engine, service) == before
    assert service.get().text.strip() == "version 1"
    assert service.status()["unfinished"] is None
    proxy.restart(timeout=5)
    assert service.deploy("v2")["from"] == "v1"
