"""Deploys by way of a registry: a real one, with GitLab's tokens, over plain http, TLS, and through its failures."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import docker
import pytest
from aftermath import command_lines, tells_none_of
from gitlab_double import GitLab
from gitlab_registry import trusted
from harness import REPOSITORY, Make, Ran, TestService
from hosts import gateway

GitLabs = Callable[..., GitLab]


@pytest.fixture
def shop(make_service: Make) -> Callable[..., TestService]:
    """Makes services whose image goes through a GitLab's registry, with a deploy token that may push."""

    def make(double: GitLab, *scopes: str, expired: bool = False, extra: str = "") -> TestService:
        service = make_service(
            extra=f'[registry]\nserver = "{double.registry_server}"\nrepository = "root/hippo_flask"\n{extra}'
        )
        token = double.deploy_token(double.project, *scopes, expired=expired)
        service.env = {"CI_REGISTRY_USER": token.username, "CI_REGISTRY_PASSWORD": token.value}
        service.env |= {"DOCKER_CONFIG": str(service.directory / "no-docker-config")}
        return service

    return make


def running_image(engine: docker.DockerClient, service: TestService) -> str:
    """What the service's container was made from."""
    [name] = service.containers()
    return str(engine.containers.get(name).attrs["Config"]["Image"])


def untag(engine: docker.DockerClient, double: GitLab) -> None:
    """The engine has no image of the double's repository, but those that containers use."""
    for image in engine.api.images(name=double.image):
        for name in [*(image["RepoTags"] or []), *(image["RepoDigests"] or [])]:
            with contextlib.suppress(docker.errors.APIError):
                engine.images.remove(name)


def tells_no_secret(double: GitLab, engine: docker.DockerClient, service: TestService, *ran: Ran) -> None:
    """No secret of GitLab's stands anywhere that a person may look."""
    tells_none_of(double.secrets, engine, service, *ran)


def events(service: TestService, release: str) -> list[dict[str, Any]]:
    """What a deploy has told a program; the last is its receipt."""
    return [json.loads(line) for line in service.ok("deploy", release, "--json").out.splitlines()]


def all_layers(told: list[dict[str, Any]], step: str) -> int:
    """How many layers were counted to the end, with all of their bytes."""
    last = [each["data"] for each in told if (each["event"], each.get("step")) == ("counts", step)][-1]
    assert (last["ended"], last["bytes"]) == (last["layers"], last["size"])
    return int(last["layers"])


def test_a_release_is_pushed_once_and_runs_by_its_digest_also_where_it_has_to_be_pulled(
    engine: docker.DockerClient, gitlab: GitLabs, shop: Callable[..., TestService]
) -> None:
    double = gitlab()
    service = shop(double)
    first = service.deploy("v1")
    assert [step["step"] for step in first["steps"]][:3] == ["build", "push", "start"]
    digest = double.registry.details("root/hippo_flask", "v1").digest if double.registry else ""
    assert running_image(engine, service) == f"{double.image}@{digest}"
    assert service.status()["live"]["digest"] == digest
    assert service.deploy("v1")["result"] == "unchanged"

    told = events(service, "v2")
    assert told[-1]["requests"]["failed"] == 0
    assert all_layers(told, "push") > 0
    assert service.status()["rollback"]["how"] == "image"
    untag(engine, double)  # as on a host that never had v1
    assert service.status()["rollback"]["how"] == "registry"
    back = service.rollback()
    assert [step["step"] for step in back["steps"]][:2] == ["pull", "start"]
    assert back["requests"]["failed"] == 0
    assert running_image(engine, service) == f"{double.image}@{digest}"
    assert f"{double.image}:v1" in engine.images.get(f"{double.image}@{digest}").tags

    untag(engine, double)
    told = events(service, "v2")
    assert [step["step"] for step in told[-1]["steps"]][:2] == ["pull", "start"], "it is there, and is not built again"
    assert all_layers(told, "pull") > 0
    tells_no_secret(double, engine, service)


def test_no_secret_is_seen_in_the_list_of_processes_nor_in_a_traceback(
    engine: docker.DockerClient, gitlab: GitLabs, shop: Callable[..., TestService]
) -> None:
    double = gitlab()
    service = shop(double, extra=f'[gitlab]\nurl = "{double.url}"\nproject = "root/hippo_flask"\n')
    service.env |= {"GITLAB_TOKEN": double.token(double.root).value, "XDG_STATE_HOME": os.fspath(service.directory)}
    deploying = service.start("deploy", "v1", "--receipt", "receipt.json")
    seen = command_lines(deploying)
    ran = service.finish(deploying)
    assert ran.code == 0, ran.text
    assert any(b"receipt.json" in line for line in seen), "the command itself was seen"
    assert not [secret for secret in double.secrets if any(secret.encode() in line for line in seen)]
    # An error that nobody expected, with its traceback.
    program = "import bluegreen.cli, bluegreen.registry as r; r.Registry.digest = None; bluegreen.cli.main()"
    ran = service.finish(
        subprocess.Popen(
            [sys.executable, "-c", program, "deploy", "v2"],
            cwd=service.directory,
            env={**os.environ, "PYTHONPATH": os.fspath(REPOSITORY), **service.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    assert ran.code == 5
    [log] = (service.directory / "bluegreen").glob("*.log")
    assert "Traceback" not in ran.text
    assert "registry.digest" in log.read_text()
    assert not [secret for secret in double.secrets if secret in log.read_text()]
    tells_no_secret(double, engine, service, ran)


def test_a_name_that_has_another_content_is_refused_unless_told_to_overwrite(
    engine: docker.DockerClient, gitlab: GitLabs, shop: Callable[..., TestService]
) -> None:
    double = gitlab()
    service = shop(double, extra="")
    service.deploy("v1")
    service.ok("push", "v1")  # the same content
    settings = service.directory / "bluegreen.toml"
    settings.write_text(settings.read_text().replace("[app]", '[image.args]\nBROKEN = "dies"\n\n[app]', 1))
    before = service.containers()
    ran = service.run("deploy", "v1", "--build")
    assert ran.code == 1
    assert "is in the registry already, with another content" in ran.err
    assert "--overwrite" in ran.err
    assert service.containers() == before
    assert "@sha256:" in service.ok("push", "v1", "--overwrite").out


@pytest.mark.parametrize(
    ("scopes", "expired", "action", "rights"),
    [
        (["read_registry"], False, "push", "write_registry"),
        (["read_registry", "write_registry"], True, "look for", "read_registry"),
    ],
    ids=["no push scope", "expired"],
)
def test_who_may_not_is_told_who_and_what(
    engine: docker.DockerClient,
    gitlab: GitLabs,
    shop: Callable[..., TestService],
    scopes: list[str],
    expired: bool,
    action: str,
    rights: str,
) -> None:
    double = gitlab()
    service = shop(double, *scopes, expired=expired)
    ran = service.run("deploy", "v1")
    assert ran.code == 1
    user = service.env["CI_REGISTRY_USER"]
    assert f"does not let {user} (from CI_REGISTRY_USER and CI_REGISTRY_PASSWORD) {action}" in ran.err
    assert rights in ran.err
    assert service.containers() == {}
    tells_no_secret(double, engine, service, ran)


def test_a_wrong_password_is_final_though_another_source_would_do(
    engine: docker.DockerClient, gitlab: GitLabs, shop: Callable[..., TestService]
) -> None:
    double = gitlab()
    service = shop(double)
    right = double.job(double.project, double.root)
    service.env |= {"CI_REGISTRY_PASSWORD": "wrong-password", "CI_JOB_TOKEN": right.value}
    for command in (["login"], ["deploy", "v1"]):
        ran = service.run(*command)
        assert ran.code == 1
        assert f"does not let {service.env['CI_REGISTRY_USER']}" in ran.err
        assert "wrong-password" not in ran.text
    assert {asked.who for asked in double.asked_of("token")} <= {service.env["CI_REGISTRY_USER"], "nobody"}
    del service.env["CI_REGISTRY_USER"]
    assert "takes gitlab-ci-token (from CI_JOB_TOKEN)" in service.ok("login").out
    assert service.deploy("v1")["result"] == "done"
    tells_no_secret(double, engine, service)


def test_what_passes_is_waited_for(
    engine: docker.DockerClient, gitlab: GitLabs, shop: Callable[..., TestService]
) -> None:
    double = gitlab()
    service = shop(double)
    double.fail("registry", status=502, method="GET", path="/manifests/")
    double.fail("registry", status=429, retry_after=1, method="POST", path="/blobs/uploads/")
    double.fail("registry", reset=True, method="PUT", path="/manifests/")
    receipt = service.deploy("v1")
    assert receipt["result"] == "done"
    assert [fault for fault in double.journal.planned() if fault.times] == []


def test_a_registry_that_dies_in_the_middle_of_a_push_fails_the_deploy_and_the_old_release_serves(
    engine: docker.DockerClient, gitlab: GitLabs, shop: Callable[..., TestService]
) -> None:
    double = gitlab()
    service = shop(double)
    service.deploy("v1")
    settings = service.directory / "bluegreen.toml"
    settings.write_text(settings.read_text().replace("[app]", '[image.args]\nBROKEN = "exits"\n\n[app]', 1))
    assert double.registry
    double.fail("registry", reset=True, times=1000, method="PATCH", action=double.registry.stop)
    ran = service.run("deploy", "v2")
    assert ran.code == 1, ran.text
    assert "can't push" in ran.err
    assert "v1 still serves" in ran.err
    assert service.get().text.strip() == "version 1"
    tells_no_secret(double, engine, service, ran)


def test_over_tls_with_a_private_authority_that_the_engine_has_to_know(
    engine: docker.DockerClient, gitlab: GitLabs, shop: Callable[..., TestService]
) -> None:
    double = gitlab(tls=True, address=gateway(engine), certificate_days=5)
    service = shop(double)
    ran = service.run("deploy", "v1")
    assert ran.code == 1
    assert "does not trust the certificate" in ran.err
    assert f"/etc/docker/certs.d/{double.registry_server}/ca.crt" in ran.err
    assert double.ca
    with trusted(engine, double.registry_server, double.ca):
        assert service.deploy("v1")["result"] == "done"
        found = {each["check"]: each["level"] for each in json.loads(service.ok("doctor", "--json").out)}
    assert (found["registry certificate"], found["registry push"]) == ("warning", "ok")


def test_plain_http_elsewhere_than_on_loopback_is_answered_with_the_lines_to_write(
    engine: docker.DockerClient, gitlab: GitLabs, shop: Callable[..., TestService]
) -> None:
    double = gitlab(address=gateway(engine))
    service = shop(double)
    line = f'{{"insecure-registries": ["{double.registry_server}"]}}'
    ran = service.run("deploy", "v1")
    assert ran.code == 1
    assert line in ran.err
    examined = service.run("doctor")
    assert examined.code == 1
    assert line in examined.out


def test_prune_removes_old_images_and_tags_and_never_the_way_back(
    engine: docker.DockerClient, gitlab: GitLabs, shop: Callable[..., TestService]
) -> None:
    double = gitlab()
    service = shop(double, extra=f'[gitlab]\nurl = "{double.url}"\nproject = "root/hippo_flask"\n[retire]\nkeep = 1\n')
    service.env["GITLAB_TOKEN"] = double.token(double.root).value
    service.ok("build", "v0")
    for release in ("v1", "v2", "v3"):
        receipt = service.deploy(release)
    assert receipt["steps"][-1]["step"] == "prune"
    assert f"{double.image}:v1" in receipt["steps"][-1]["detail"], "what the service ran goes with a deploy"
    planned = service.ok("prune", "--json").json()
    assert planned["tags"] == ["v1"]
    assert planned["images"] == [f"{double.image}:v0"]
    again = service.ok("prune", "--json").json()
    assert (again["images"], again["tags"]) == (planned["images"], planned["tags"]), "nothing was changed"
    done = service.ok("prune", "--yes", "--json").json()
    assert (done["images"], done["tags"]) == (planned["images"], planned["tags"])
    assert double.registry
    assert double.registry.tags("root/hippo_flask") == ["v2", "v3"]
    untag(engine, double)
    assert service.rollback()["to"] == "v2"


def test_a_cleanup_policy_that_would_delete_the_way_back_is_said(
    gitlab: GitLabs, shop: Callable[..., TestService]
) -> None:
    double = gitlab()
    service = shop(double, extra=f'[gitlab]\nurl = "{double.url}"\nproject = "root/hippo_flask"\n')
    service.env["GITLAB_TOKEN"] = double.token(double.root).value
    service.deploy("v1")
    service.deploy("v2")
    assert service.ok("prune", "--json").json()["warnings"] == []
    double.project.expiration_policy |= {"enabled": True, "keep_n": None, "older_than": None, "name_regex": "v.*"}
    [warning] = service.ok("prune", "--json").json()["warnings"]
    assert "cleanup policy would delete the tag v1" in warning
    found = {each["check"]: each["level"] for each in json.loads(service.ok("doctor", "--json").out)}
    assert found["cleanup policy"] == "warning"


def test_a_deploy_is_recorded_in_gitlab(
    engine: docker.DockerClient, gitlab: GitLabs, shop: Callable[..., TestService]
) -> None:
    double = gitlab()
    service = shop(double)
    commit = double.project.branches["main"]
    job = double.job(double.project, double.root)
    service.env |= double.variables(job)
    service.deploy("v1")
    service.deploy("v2")
    assert [(each.environment.name, each.sha, each.status) for each in double.project.deployments] == [
        ("production", commit, "success")
    ] * 2
    assert double.project.environments[0].external_url == service.url
    ran = service.run("deploy", "v4-exits")
    assert ran.code in (0, 1)
    tells_no_secret(double, engine, service, ran)


def test_a_job_with_an_environment_is_not_recorded_twice(
    engine: docker.DockerClient, gitlab: GitLabs, shop: Callable[..., TestService]
) -> None:
    double = gitlab()
    service = shop(double)
    job = double.job(double.project, double.root, environment="production")
    service.env |= double.variables(job)
    service.deploy("v1")
    double.finish(job)
    [only] = double.project.deployments
    assert (only.job, only.status) == (job.id, "success")

