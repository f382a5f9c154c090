"""The double of GitLab, asked by those that it is for: the Docker engine and python-gitlab."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import gitlab as python_gitlab
import httpx
import pytest
from gitlab_double import GitLab
from gitlab_registry import trusted
from gitlab_state import REPORTER
from harness import PREFIX, eventually
from hosts import gateway

Make = Callable[..., GitLab]


def make_image(engine: docker.DockerClient, name: str, tag: str, size: int = 200_000) -> None:
    """An image with one layer, of noise."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        file = tarfile.TarInfo("noise")
        file.size = size
        tar.addfile(file, io.BytesIO(os.urandom(size)))
    engine.api.import_image_from_data(buffer.getvalue(), repository=name, tag=tag)


def push(engine: docker.DockerClient, name: str, tag: str, user: str, password: str) -> tuple[str, str]:
    """The digest, and the error in the stream."""
    login = {"username": user, "password": password}
    items = list(engine.images.push(name, tag, stream=True, decode=True, auth_config=login))
    digest = next((item["aux"]["Digest"] for item in items if "Digest" in item.get("aux", {})), "")
    return digest, next((item["error"] for item in items if "error" in item), "")


def pull(engine: docker.DockerClient, name: str, user: str, password: str) -> Any:
    return engine.images.pull(name, auth_config={"username": user, "password": password})



def test_a_push_is_found_by_rest_and_pulled_by_tag_and_digest(engine: docker.DockerClient, gitlab: Make) -> None:
    double = gitlab()
    deploy = double.deploy_token(double.project)
    for tag in ("v1", "v2"):
        make_image(engine, double.image, tag)
        digest, error = push(engine, double.image, tag, deploy.username, deploy.value)
        assert (digest[:7], error) == ("sha256:", "")
        engine.images.remove(f"{double.image}:{tag}", force=True)

    with python_gitlab.Gitlab(double.url, private_token=double.token(double.root).value) as api:
        project = api.projects.get("root/hippo_flask")
        [repository] = project.repositories.list(tags_count=True, get_all=True)
        assert (repository.path, repository.name, repository.tags_count) == ("root/hippo_flask", "", 2)
        details = repository.tags.get("v2")
        assert (details.digest, details.location) == (digest, f"{double.image}:v2")
        assert details.total_size > 200_000
        assert len(details.revision) == 64

        pull(engine, f"{double.image}:v1", deploy.username, deploy.value)
        repository.tags.delete("v2")
        assert [tag.name for tag in repository.tags.list(get_all=True)] == ["v1"]
        with pytest.raises(python_gitlab.GitlabGetError) as gone:
            repository.tags.get("v2")
        assert (gone.value.response_code, gone.value.error_message) == (404, "404 Tag Not Found")
        pull(engine, f"{double.image}@{digest}", deploy.username, deploy.value)  # as long as nothing is collected

        repository.tags.delete_in_bulk(name_regex_delete="v.*", keep_n=0)
        eventually(lambda: repository.tags.list(get_all=True) == [], "the tags' deletion", timeout=10)
        with pytest.raises(python_gitlab.GitlabDeleteError, match="at most once an hour"):
            repository.tags.delete_in_bulk(name_regex_delete="v.*")
    assert {asked.who for asked in double.asked_of("registry", "PUT", "/manifests/")} == {deploy.username}


def test_who_may_not_is_told_so_by_the_registry(engine: docker.DockerClient, gitlab: Make) -> None:
    double = gitlab()
    make_image(engine, double.image, "v1")
    assert push(engine, double.image, "v1", "root", double.root.password)[1] == ""

    reader = double.deploy_token(double.project, "read_registry")
    guest = double.user("reporter")
    double.project.members["reporter"] = REPORTER
    for name, password in ((reader.username, reader.value), ("reporter", guest.password)):
        engine.login(name, password, registry=double.registry_server, reauth=True)
        assert "denied" in push(engine, double.image, "v1", name, password)[1]
        assert pull(engine, f"{double.image}:v1", name, password)

    expired = double.deploy_token(double.project, expired=True)
    over = double.job(double.project, double.root)
    double.finish(over)
    for name, password in (("root", "wrong"), (expired.username, expired.value), ("gitlab-ci-token", over.value)):
        with pytest.raises(docker.errors.APIError, match="HTTP Basic: Access denied"):
            engine.login(name, password, registry=double.registry_server, reauth=True)
        assert "unauthorized" in push(engine, double.image, "v1", name, password)[1]
    double.registry_token_seconds = -120
    with pytest.raises(docker.errors.APIError, match="401 Unauthorized"):
        engine.login("root", double.root.password, registry=double.registry_server, reauth=True)


def test_a_job_pushes_by_the_command_line_of_docker(engine: docker.DockerClient, gitlab: Make, tmp_path: Path) -> None:
    double = gitlab()
    variables = double.variables(double.job(double.project, double.root, "production"))
    make_image(engine, variables["CI_REGISTRY_IMAGE"], "v1")

    def run(*arguments: str, typed: str = "") -> str:
        environment = {**os.environ, "DOCKER_CONFIG": os.fspath(tmp_path)}
        done = subprocess.run(["docker", *arguments], input=typed, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    login = ["login", "-u", variables["CI_REGISTRY_USER"], "--password-stdin", variables["CI_REGISTRY"]]
    assert "Login Succeeded" in run(*login, typed=variables["CI_REGISTRY_PASSWORD"])
    assert "digest: sha256:" in run("push", f"{double.image}:v1")
    left = json.loads((tmp_path / "config.json").read_text())["auths"][double.registry_server]["auth"]
    assert left in double.secrets
    assert variables["CI_JOB_TOKEN"] in double.secrets
    assert [deployment.status for deployment in double.project.deployments] == ["running"]


def test_faults_come_when_they_are_asked_for(engine: docker.DockerClient, gitlab: Make) -> None:
    double = gitlab()
    registry = double.registry
    assert registry
    make_image(engine, double.image, "v1", 2_000_000)
    login = ("root", double.root.password)

    double.fail("token", status=429, retry_after=1)
    assert "429" in push(engine, double.image, "v1", *login)[1]
    double.fail("registry", status=429, retry_after=1, method="PUT", path="/manifests/")
    assert "toomanyrequests" in push(engine, double.image, "v1", *login)[1]
    double.fail("registry", status=502, method="PUT", path="/manifests/")
    assert "502 Bad Gateway" in push(engine, double.image, "v1", *login)[1]

    def restart() -> None:
        registry.stop()
        registry.start()

    make_image(engine, double.image, "v2", 2_000_000)
    double.fail("registry", action=restart, reset=True, method="PATCH", after=500_000)
    # The engine itself begins an upload anew, after 5 s.
    assert push(engine, double.image, "v2", *login)[1] == ""
    assert not double.journal.planned()
    assert registry.tags("root/hippo_flask") == ["v2"]


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_elsewhere_than_on_loopback_the_engine_wants_tls_that_it_trusts(
    engine: docker.DockerClient, gitlab: Make, tls: bool
) -> None:
    double = gitlab(address=gateway(engine), tls=tls)
    make_image(engine, double.image, "v1")
    login = ("root", double.root.password)
    error = push(engine, double.image, "v1", *login)[1]
    if not tls:
        assert "server gave HTTP response to HTTPS client" in error
        return
    assert "certificate signed by unknown authority" in error
    assert double.ca
    with trusted(engine, double.registry_server, double.ca):
        digest, error = push(engine, double.image, "v1", *login)
        assert error == ""
        assert pull(engine, f"{double.image}@{digest}", *login)
    with python_gitlab.Gitlab(
        double.url, oauth_token=double.token(double.root).value, ssl_verify=os.fspath(double.ca)
    ) as api:
        assert api.version()[0] == double.version


def test_nothing_is_left(engine: docker.DockerClient, gitlab: Make) -> None:
    double = gitlab(registry_tls=True)
    assert double.registry
    assert double.url.startswith("http://")
    assert double.registry_url.startswith("https://")
    volumes = {mount["Name"] for mount in engine.containers.get(double.registry.container.id).attrs["Mounts"]}
    double.stop()
    assert not engine.containers.list(all=True, filters={"name": f"{PREFIX}-registry-{os.getpid()}-"})
    assert not volumes & {volume.name for volume in engine.volumes.list()}
    for url in (double.url, double.registry_url):
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, verify=False, trust_env=False)
