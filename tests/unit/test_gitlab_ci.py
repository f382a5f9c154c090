"""The pipeline: its three forms agree, and what must never change in it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from bluegreen.gitlab_ci import INPUTS, PUBLISHED, publish, render

CI = Path(__file__).parents[2] / "ci"
TEMPLATES = {form: CI / name for name, form in PUBLISHED.items()}


def filled_in(component: str, **inputs: str) -> dict[str, Any]:
    """The jobs of a component, its inputs filled in as GitLab does it."""
    header, body = yaml.safe_load_all(component)
    values = {name: given["default"] for name, given in header["spec"]["inputs"].items()} | inputs

    def fill(part: Any) -> Any:
        if isinstance(part, dict):
            return {fill(key): fill(value) for key, value in part.items()}
        if isinstance(part, list):
            return [fill(each) for each in part]
        if isinstance(part, str):
            return re.sub(r"\$\[\[ inputs\.([a-z-]+) ]]", lambda match: values[match[1]], part)
        return part

    filled = fill(body)
    assert isinstance(filled, dict)
    return filled


@pytest.fixture
def jobs() -> dict[str, Any]:
    found = yaml.safe_load(render("file"))
    assert isinstance(found, dict)
    return found


def test_the_three_forms_make_the_same_jobs(jobs: dict[str, Any]) -> None:
    assert yaml.safe_load(TEMPLATES["include"].read_text()) == jobs
    assert filled_in(TEMPLATES["component"].read_text()) == jobs


def test_they_do_so_with_other_values_too() -> None:
    inputs = {
        "prefix": "staging-",
        "build-stage": "make",
        "deploy-stage": "out",
        "environment": "staging",
        "url": "https://staging.example.com:8443",
        "release": "$CI_COMMIT_TAG",
        "config": "staging.toml",
        "package": "git+https://git.example.com/ops/bluegreen.git@v1",
        "image": "registry.example.com/python:3.12",
    }
    assert set(inputs) == set(INPUTS)
    jobs = yaml.safe_load(render("file", **inputs))
    assert filled_in(render("component"), **inputs) == jobs
    names = {".staging-bluegreen", "staging-build", "staging-deploy", "staging-rollback", "staging-stop"}
    assert set(jobs) == names


def test_the_files_below_ci_are_what_this_version_renders(tmp_path: Path) -> None:
    publish(tmp_path)
    for name in PUBLISHED:
        assert (CI / name).read_text() == (tmp_path / name).read_text(), "run `make ci`"


def test_the_component_lies_where_a_component_project_made_of_ci_has_it() -> None:
    assert TEMPLATES["component"].relative_to(CI) == Path("templates/bluegreen/template.yml")


def test_the_readme_of_ci_has_every_input() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| `(.*)` \| (.*) \|$", (CI / "README.md").read_text(), re.MULTILINE)
    assert rows == [(name, default or '""', words) for name, (default, words) in INPUTS.items()]


def test_a_component_uses_every_input_it_declares() -> None:
    _, _, body = render("component").partition("\n---\n")
    assert set(re.findall(r"\$\[\[ inputs\.([a-z-]+) ]]", body)) == set(INPUTS)


def test_only_the_build_may_be_ended_by_a_newer_commit(jobs: dict[str, Any]) -> None:
    assert jobs[".bluegreen"]["interruptible"] is False
    interruptible = {name: job.get("interruptible", False) for name, job in jobs.items() if name != ".bluegreen"}
    assert interruptible == {"build": True, "deploy": False, "rollback": False, "stop": False}


def test_whatever_changes_the_environment_queues_for_it(jobs: dict[str, Any]) -> None:
    for name in ("deploy", "rollback", "stop"):
        assert jobs[name]["resource_group"] == jobs[name]["environment"]["name"] == "production"
    assert "resource_group" not in jobs["build"]


def test_the_environment_can_be_opened_and_stopped(jobs: dict[str, Any]) -> None:
    environment = jobs["deploy"]["environment"]
    assert (environment["url"], environment["on_stop"]) == ("$BLUEGREEN_URL", "stop")
    assert jobs["stop"]["environment"]["action"] == "stop"
    assert jobs["stop"]["rules"][0]["if"] == jobs[".bluegreen"]["rules"][0]["if"], "GitLab wants them for both jobs"


def test_only_a_deploy_is_recorded_as_a_deployment_of_its_commit(jobs: dict[str, Any]) -> None:
    assert "action" not in jobs["deploy"]["environment"]
    assert jobs["rollback"]["environment"]["action"] == "access"


def test_rollback_and_stop_wait_for_a_person_and_block_nobody(jobs: dict[str, Any]) -> None:
    for name in ("rollback", "stop"):
        assert jobs[name]["needs"] == []
        assert [(rule["when"], rule["allow_failure"]) for rule in jobs[name]["rules"]] == [("manual", True)]


def test_a_deploy_job_alone_brings_its_commit_back(jobs: dict[str, Any]) -> None:
    assert jobs["deploy"]["needs"] == [{"job": "build", "artifacts": False}]
    assert jobs[".bluegreen"]["variables"]["RELEASE"] == "$CI_COMMIT_SHORT_SHA"
    assert jobs["deploy"]["script"] == [
        'bluegreen deploy "$RELEASE" --wait 600 --receipt receipt.json --report report.html'
    ]


def test_report_and_receipt_are_kept_also_when_the_job_fails(jobs: dict[str, Any]) -> None:
    for name in ("deploy", "rollback"):
        artifacts = jobs[name]["artifacts"]
        assert (artifacts["when"], artifacts["paths"]) == ("always", ["report.html", "receipt.json"])
        assert re.fullmatch(r"[A-Za-z0-9_ -]{1,100}", artifacts["expose_as"])


def test_no_credential_is_written_down() -> None:
    for form in ("file", "include", "component"):
        text = "\n".join(line for line in render(form).splitlines() if not line.lstrip().startswith("#"))
        assert not re.search(r"(?i)password|token|secret|_key|login", text)


@pytest.mark.parametrize(
    ("config", "pushes"),
    [
        ('service = "shop"\n', False),
        ('service = "shop"\n#[registry]\n#server = "gitlab.example.com:8001"\n', False),
        ('service = "shop"\n[registry]\nserver = "gitlab.example.com:8001"\n', True),
    ],
)
def test_a_build_is_pushed_where_a_registry_is_set(
    jobs: dict[str, Any], tmp_path: Path, config: str, pushes: bool
) -> None:
    (tmp_path / "bluegreen.toml").write_text(config)
    said = subprocess.run(
        ["sh", "-euc", 'bluegreen() { echo "$*"; }\n' + "\n".join(jobs["build"]["script"])],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "RELEASE": "1a2b3c4d", "BLUEGREEN_CONFIG": "bluegreen.toml"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert said == ["push 1a2b3c4d" if pushes else "build 1a2b3c4d"], "what is pushed is built, unless it is there"


@pytest.mark.parametrize(("given", "words"), [("", []), ("1a2b3c4d", ["1a2b3c4d"])])
def test_a_rollback_takes_the_release_that_a_person_names(
    jobs: dict[str, Any], given: str, words: list[str]
) -> None:
    said = subprocess.run(
        ["sh", "-euc", 'bluegreen() { printf "%s\\n" "$@"; }\n' + "\n".join(jobs["rollback"]["script"])],
        env={"PATH": "/usr/bin:/bin", "ROLLBACK_TO": given},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert said == ["rollback", *words, "--wait", "600", "--receipt", "receipt.json", "--report", "report.html"]
