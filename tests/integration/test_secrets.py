"""The app's secrets: it has them, after a restart too, and nobody else is shown them."""

from __future__ import annotations

import json
import secrets

import docker
import pytest
from aftermath import command_lines, edit, tells_none_of, things
from harness import Make, TestService, executed

# Others in each process: tests that run beside these have containers, too.
AS_FILE, AS_VARIABLE, OF_FILE = (f"{kind}-{secrets.token_hex(8)}" for kind in ("file", "variable", "of-file"))
SECRETS = """
[app.secrets]
PASSWORD = { env = "THE_PASSWORD" }
TOKEN = { env = "THE_TOKEN", as = "env" }
KEY = { file = "the.key" }
"""
READ = "import os; print(open('/run/secrets/PASSWORD').read(), os.environ['TOKEN'], open('/run/secrets/KEY').read())"


@pytest.fixture
def keeping(make_service: Make) -> TestService:
    service = make_service(extra=SECRETS)
    service.env = {"THE_PASSWORD": AS_FILE, "THE_TOKEN": AS_VARIABLE}
    key = service.directory / "the.key"
    key.write_text(OF_FILE)
    key.chmod(0o600)
    return service


def read(engine: docker.DockerClient, name: str) -> list[str]:
    """The secrets as the app finds them."""
    return str(executed(engine.containers.get(name), ["python3", "-c", READ]).output.decode()).split()


def test_the_app_has_its_secrets_and_no_trace_of_them_is_anywhere_else(
    engine: docker.DockerClient, keeping: TestService
) -> None:
    service = keeping
    plan = service.ok("deploy", "v1", "--plan")
    deploying = service.start("deploy", "v1", "--json", "--receipt", "receipt.json")
    seen = command_lines(deploying)
    ran = service.finish(deploying)
    assert ran.code == 0, ran.text
    assert any(b"receipt.json" in line for line in seen), "the command itself was seen"
    assert not [secret for secret in (AS_FILE, AS_VARIABLE, OF_FILE) if any(secret.encode() in line for line in seen)]
    blue = engine.containers.get(f"{service.name}-blue-1")
    assert read(engine, blue.name) == [AS_FILE, AS_VARIABLE, OF_FILE]
    blue.restart(timeout=10)
    assert read(engine, blue.name) == [AS_FILE, AS_VARIABLE, OF_FILE]

    outputs = [plan, ran, service.ok("status", "--json"), service.ok("proxy", "render"), service.ok("deploy", "v1")]
    findings = service.ok("doctor", "--json")
    [warning] = [each for each in findings.json() if each["check"] == "secrets" and each["level"] == "warning"]
    assert "TOKEN: handed to the app as variables" in warning["what"]
    assert "docker inspect" in warning["why"]
    assert AS_VARIABLE in json.dumps(blue.attrs), "the one place, of which doctor warns"
    (service.directory / "the.key").unlink()
    tells_none_of([AS_FILE, OF_FILE], engine, service, *outputs, findings)
    service.ok("down", "--yes")
    tells_none_of([AS_VARIABLE], engine, service, *outputs, findings)
    assert things(engine, service) == set()
    assert not engine.volumes.list(filters={"label": f"bluegreen.service={service.name}"})


def test_a_changed_secret_is_deployed_and_a_missing_one_is_named_before_anything_changes(
    engine: docker.DockerClient, keeping: TestService
) -> None:
    service = keeping
    assert service.deploy("v1")["result"] == "done"
    assert service.deploy("v1")["result"] == "unchanged"
    service.env["THE_PASSWORD"] = "another-6e1b7f"
    assert service.deploy("v1")["result"] == "done"
    green = f"{service.name}-green-1"
    assert read(engine, green)[0] == "another-6e1b7f"

    before = things(engine, service)
    del service.env["THE_PASSWORD"]
    edit(service, "the.key", "other.key")
    ran = service.run("deploy", "v2")
    assert ran.code == 3
    assert "app.secrets.PASSWORD: the variable THE_PASSWORD is not set" in ran.err
    assert f"app.secrets.KEY: {service.directory}/other.key can't be read" in ran.err
    assert things(engine, service) == before
    assert service.live() == "v1"
    assert service.ok("deploy", "v2", "--plan")


def test_an_app_that_dies_of_its_confinement_is_told_how_to_loosen_it(make_service: Make) -> None:
    program = "open('/app/log', 'w'); import runpy; runpy.run_path('server.py', run_name='__main__')"
    service = make_service(app=f"command = {json.dumps(['python3', '-c', program])}")
    ran = service.run("deploy", "v1")
    assert ran.code == 1
    assert "Read-only file system: '/app/log'" in ran.err
    assert "app.read_only = false" in ran.err
    edit(service, "port = 9000", 'port = 9000\nread_only = false\nuser = "root"')
    assert service.deploy("v1")["result"] == "done"
