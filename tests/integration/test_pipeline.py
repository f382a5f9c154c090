"""The pipeline that `init --gitlab` writes, run by gitlab-ci-local, which checks it against GitLab's schema first."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from harness import REPOSITORY, Make, TestService

from bluegreen.gitlab_ci import PUBLISHED

CI_LOCAL = REPOSITORY / ".lab/ci-local/node_modules/.bin/gitlab-ci-local"


@dataclass
class Project:
    """A git repository of the reference app, with the pipeline's jobs as GitLab would run them."""

    service: TestService
    path: str
    """Where the jobs find their commands."""

    @property
    def directory(self) -> Path:
        return self.service.directory

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=self.directory, check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, words: str) -> str:
        """What stands in the directory is committed; the name of its release."""
        self.git("add", "--all")
        self.git("commit", "-q", "--allow-empty", "-m", words)
        return self.git("rev-parse", "HEAD")[:8]

    def ci_local(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [CI_LOCAL, "--force-shell-executor", "--no-color", *arguments],
            cwd=self.directory,
            env={**os.environ, "PATH": self.path, "PYTHONPATH": os.fspath(REPOSITORY), **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def run(self, *jobs: str) -> str:
        """The jobs have succeeded; what they said."""
        ran = self.ci_local(*jobs)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def preview(self) -> Any:
        """The jobs as they are run, with everything included and extended."""
        ran = self.ci_local("--preview")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return yaml.safe_load(ran.stdout)

    def receipt(self, job: str) -> dict[str, Any]:
        """The receipt among the job's artifacts."""
        return json.loads(self.artifact(job, "receipt.json"))

    def artifact(self, job: str, name: str) -> str:
        return (self.directory / ".gitlab-ci-local/artifacts" / job / name).read_text()

    def serves(self) -> str:
        """The release that a user meets."""
        answer = self.service.get()
        assert answer.status_code == 200
        return answer.text.strip().removeprefix("version ")


@pytest.fixture
def project(tmp_path: Path, make_service: Make, engine: docker.DockerClient) -> Iterator[Project]:
    """A fresh repository of the app, to which `bluegreen init --gitlab` has been said."""
    commands = tmp_path / "bin"
    commands.mkdir()
    command = commands / "bluegreen"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m bluegreen "$@"\n')
    command.chmod(0o755)
    service = make_service()
    (service.directory / "bluegreen.toml").unlink()
    app = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "app", service.directory, ignore=app, dirs_exist_ok=True)
    project = Project(service, f"{commands}:{os.environ['PATH']}")
    project.git("init", "-q", "-b", "main")
    (service.directory / ".gitignore").write_text(".gitlab-ci-local/\nreceipt.json\nreport.html\n__pycache__/\n")
    (service.directory / ".dockerignore").write_text("*\n!server.py\n!requirements.txt\n")
    service.ok("init", "--gitlab", "--service", service.name)
    settings = service.directory / "bluegreen.toml"
    text = settings.read_text()
    for line, ours in (
        ("port = 8000", "port = 9000"),
        ('#body = "version {number}"', 'body = "version {number}"'),
        ('#listen = "127.0.0.1:8080"', f'listen = "127.0.0.1:{service.port}"'),
        ("#seconds = 5", "seconds = 0.5"),
    ):
        assert text.count(f"\n{line}") >= 1, line
        text = text.replace(f"\n{line}", f"\n{ours}", 1)
    settings.write_text(text)
    yield project
    service.run("down", "--yes")
    for image in engine.api.images(service.name):
        for tag in image["RepoTags"] or []:
            with contextlib.suppress(docker.errors.APIError):
                engine.images.remove(tag)


def test_build_deploy_deploy_and_rollback(project: Project) -> None:
    first = project.commit("one")
    project.run("build")
    project.run("deploy")
    assert project.serves() == first

    with (project.directory / "server.py").open("a") as file:
        file.write("# two\n")
    second = project.commit("two")
    project.run("deploy", "--needs")
    assert project.serves() == second
    receipt = project.receipt("deploy")
    assert (receipt["from"], receipt["to"], receipt["result"]) == (first, second, "done")
    assert receipt["requests"]["failed"] == 0
    assert f"{second} is live." in project.artifact("deploy", "report.html")

    project.run("rollback")
    assert project.serves() == first
    receipt = project.receipt("rollback")
    assert (receipt["from"], receipt["to"], receipt["result"]) == (second, first, "done")
    assert f"{first} is live again." in project.artifact("rollback", "report.html")

    ran = project.ci_local("rollback", "--variable", f"ROLLBACK_TO={second}")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert project.serves() == second


def test_the_deploy_job_of_an_old_commit_alone_brings_its_release_back(
    project: Project, engine: docker.DockerClient
) -> None:
    """GitLab's "Rollback environment" runs that job again, and no other, when its artifacts may be gone."""
    first = project.commit("one")
    project.run("deploy", "--needs")
    (project.directory / "receipt.json").unlink()
    with (project.directory / "server.py").open("a") as file:
        file.write("# two\n")
    second = project.commit("two")
    project.run("deploy", "--needs")
    assert project.serves() == second

    engine.images.remove(f"{project.service.name}:{first}", force=True)
    shutil.rmtree(project.directory / ".gitlab-ci-local")
    project.git("checkout", "-q", "-B", "main", "HEAD~1")
    project.run("deploy")
    assert project.serves() == first
    assert project.receipt("deploy")["from"] == second


def test_a_deploy_that_fails_fails_its_job_and_leaves_its_receipt_and_report(project: Project) -> None:
    first = project.commit("one")
    project.run("deploy", "--needs")
    dockerfile = project.directory / "Dockerfile"
    dockerfile.write_text(dockerfile.read_text().replace("ARG BROKEN=\n", "ARG BROKEN=exits\n"))
    broken = project.commit("two")
    ran = project.ci_local("deploy", "--needs")
    assert ran.returncode == 1
    assert f"{first} still serves" in ran.stdout
    assert project.serves() == first
    receipt = project.receipt("deploy")
    assert (receipt["to"], receipt["result"]) == (broken, "undone")
    assert f"It was undone: {first} still serves." in project.artifact("deploy", "report.html")


def test_nothing_but_images_is_left_by_stop(project: Project) -> None:
    project.commit("one")
    project.run("deploy", "--needs")
    assert project.service.containers()
    project.run("stop")
    assert project.service.containers() == {}


def test_a_machine_without_bluegreen_gets_it_by_pip(
    project: Project, tmp_path: Path, engine: docker.DockerClient
) -> None:
    release = project.commit("one")
    source = tmp_path / "source"
    shutil.copytree(
        REPOSITORY / "bluegreen", source / "bluegreen", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, source / name)
    project.path = os.pathsep.join(
        each for each in os.environ["PATH"].split(os.pathsep) if not (Path(each) / "bluegreen").exists()
    )
    ran = project.ci_local("build", PYTHONPATH="")
    assert ran.returncode == 1
    assert "BLUEGREEN_PACKAGE: is empty" in ran.stdout + ran.stderr
    ran = project.ci_local("build", "--variable", f"BLUEGREEN_PACKAGE={source}", PYTHONPATH="")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert engine.images.get(f"{project.service.name}:{release}")
    assert project.git("status", "--short") == "", "nothing of it is in the checkout, which may be what is built"


def test_included_or_as_a_component_it_makes_the_same_jobs(project: Project) -> None:
    written = project.directory / ".gitlab-ci.yml"
    jobs = project.preview()
    for name in PUBLISHED:
        (project.directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "ci" / name, project.directory / name)
    component = "$CI_SERVER_FQDN/$CI_PROJECT_PATH/bluegreen@$CI_COMMIT_SHA"
    for include in ({"local": "bluegreen.gitlab-ci.yml"}, {"component": component}):
        written.write_text(yaml.safe_dump({"include": [include]}))
        project.commit("another form")
        assert project.preview() == jobs

    staging = {"prefix": "staging-", "environment": "staging", "config": "staging.toml"}
    written.write_text(yaml.safe_dump({"include": [{"component": component, "inputs": staging}, include]}))
    project.commit("both")
    both = project.preview()
    assert {name: job for name, job in both.items() if not name.startswith("staging-")} == jobs
    assert both["staging-deploy"]["resource_group"] == "staging"
    assert both["staging-deploy"]["needs"][0]["job"] == "staging-build"
