"""What `bluegreen doctor` finds before a deploy does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from harness import PREFIX, Make


@pytest.fixture
def traps(engine: docker.DockerClient, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Two load balancers as people start them by hand: one's config goes nowhere, the other's keeps its inode."""
    file = tmp_path / "nginx.conf"
    file.write_text("events {}\n")
    made = {}
    for trap, target in (("misspelt", "/etc/nginx/nginx.cof"), ("inode", "/etc/nginx/nginx.conf")):
        made[trap] = engine.containers.run(
            "nginx:stable",
            ["sleep", "600"],
            entrypoint=[],
            name=f"{PREFIX}-{os.getpid()}-{trap}",
            volumes=[f"{file}:{target}:ro"],
            labels={"bluegreen.test": PREFIX},
            detach=True,
        )
    yield {trap: container.name for trap, container in made.items()}
    for container in made.values():
        container.remove(force=True)


def test_a_healthy_service_has_no_errors_and_what_a_reload_of_an_old_nginx_may_lose_is_said(
    make_service: Make, traps: dict[str, str]
) -> None:
    service = make_service(image="nginx:1.22", switch="reload")
    before = json.loads(service.ok("doctor", "--json").out)
    assert {finding["level"] for finding in before if finding["check"] == "proxy"} == {"note"}
    service.deploy("v1")
    service.deploy("v2")
    findings = json.loads(service.ok("doctor", "--json").out)
    by_check = {finding["check"]: finding for finding in findings}
    fine = ("engine", "engine's clock", "space", "stopping", "confinement", "rollback")
    assert {"ok"} == {by_check[name]["level"] for name in fine}
    assert by_check["proxy"]["level"] == "warning"
    assert "nginx 1.22" in by_check["proxy"]["what"]
    assert "1.27.4" in by_check["proxy"]["mend"]

    mounts = {trap: [f for f in findings if name in f["what"]] for trap, name in traps.items()}
    [misspelt], [inode] = mounts["misspelt"], mounts["inode"]
    assert "looks misspelt: /etc/nginx/nginx.conf" in misspelt["why"]
    assert "inode" in inode["why"]
    assert "/etc/nginx" in inode["mend"]
    file = service.directory / "bluegreen.toml"
    file.write_text(file.read_text().replace("nginx:1.22", "nginx:stable"))
    noted = [each["what"] for each in service.ok("doctor", "--json").json() if each["level"] == "note"]
    assert any("was made from nginx:1.22, and proxy.image is nginx:stable" in what for what in noted), noted
    shown = service.ok("doctor").out
    assert "mend: " in shown
    assert traps["misspelt"] in shown


def test_what_would_make_a_deploy_fail_ends_with_1(make_service: Make) -> None:
    service = make_service(extra='[registry]\nserver = "127.0.0.1:9"')
    service.env = {"DOCKER_CONFIG": str(service.directory / "none")}
    ran = service.run("doctor", "--json")
    assert ran.code == 1
    [error] = [finding for finding in json.loads(ran.out) if finding["level"] == "error"]
    assert error["check"] == "registry"
    assert "127.0.0.1:9" in error["what"]
