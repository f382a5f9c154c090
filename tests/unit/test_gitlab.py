"""What GitLab is told of a deploy, and that it never changes how one ends."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fakes import quick_settings
from gitlab_double import DEVELOPER, REPORTER, GitLab, running

import bluegreen.gitlab as subject
from bluegreen.errors import Failed, Interrupted, SettingsError
from bluegreen.gitlab import Project, checked_out, deployment, find, policy_would_remove, records_itself
from bluegreen.model import Source
from bluegreen.prune import Found

URL = "https://shop.example"


@pytest.fixture
def double() -> Iterator[GitLab]:
    with running() as double:
        yield double
        assert double.mistakes == []


def project(double: GitLab, role: int = DEVELOPER) -> Project:
    user = double.user("deployer")
    double.project.members["deployer"] = role
    return Project(double.url, double.project.path, double.token(user).value)


def source(double: GitLab) -> Source:
    return Source(double.project.branches["main"], "main")


def recorded(double: GitLab) -> list[tuple[str, str, str]]:
    return [(each.environment.name, each.sha, each.status) for each in double.project.deployments]


def test_a_deployment_runs_and_succeeds_in_an_environment_that_is_made(double: GitLab) -> None:
    told: list[str] = []
    with deployment(project(double), "production", URL, source(double), told.append):
        pass
    assert recorded(double) == [("production", source(double).commit, "success")]
    [environment] = double.project.environments
    assert environment.external_url == URL
    assert told == []


@pytest.mark.parametrize(
    ("error", "status"), [(Failed("no"), "failed"), (Interrupted("no"), "canceled"), (KeyboardInterrupt(), "canceled")]
)
def test_what_ends_a_deploy_ends_the_deployment_and_is_raised_on(
    double: GitLab, error: BaseException, status: str
) -> None:
    with (
        pytest.raises(type(error)) as caught,
        deployment(project(double), "production", URL, source(double), lambda words: None),
    ):
        raise error
    assert caught.value is error
    assert [each[2] for each in recorded(double)] == [status]


def test_a_known_environment_is_used_and_its_address_kept_true(double: GitLab) -> None:
    found = project(double)
    for url in (URL, "https://elsewhere.example"):
        with deployment(found, "review/a b", url, source(double), lambda words: None):
            pass
    [environment] = double.project.environments
    assert (environment.name, environment.external_url) == ("review/a b", "https://elsewhere.example")
    assert [each[2] for each in recorded(double)] == ["success"] * 2


def test_a_gitlab_that_refuses_is_said_and_nothing_more(double: GitLab) -> None:
    told: list[str] = []
    with deployment(project(double, REPORTER), "production", URL, source(double), told.append):
        pass
    assert recorded(double) == []
    assert len(told) == 1
    assert told[0].startswith("GitLab was not told of the success: 403")
    assert not any(secret in told[0] for secret in double.secrets)


def test_a_commit_that_gitlab_does_not_know_is_said(double: GitLab) -> None:
    told: list[str] = []
    with deployment(project(double), "production", URL, Source("0" * 40, "main"), told.append):
        pass
    assert "400" in told[0]
    assert "sha" in told[0]


def test_a_gitlab_that_is_down_or_answers_nonsense_is_said(double: GitLab) -> None:
    found, told = project(double), list[str]()
    double.fail("rest", status=502, times=1)
    with deployment(found, "production", URL, source(double), told.append):
        pass
    assert "502" in told[0]
    double.stop()
    with deployment(found, "production", URL, source(double), told.append):
        pass
    assert told[1] == "GitLab was not told of the success: ConnectionError"


def test_a_slow_gitlab_is_not_waited_for(double: GitLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "PATIENCE", 0.2)
    found, told = project(double), list[str]()
    double.fail("rest", delay=2, times=9)
    with deployment(found, "production", URL, source(double), told.append):
        pass
    assert told
    assert "success" in told[0]


def test_without_a_commit_it_is_not_told_and_says_so(double: GitLab) -> None:
    told: list[str] = []
    with deployment(project(double), "production", URL, Source(), told.append):
        pass
    assert told == ["GitLab is not told: no commit is known for this image"]
    assert double.asked == []


def test_a_jobs_token_records_too(double: GitLab) -> None:
    job = double.job(double.project, double.root)
    found = find(quick_settings(), double.variables(job))
    assert found
    assert found.of_job
    with deployment(found, "production", URL, source(double), lambda words: None):
        pass
    assert [each[2] for each in recorded(double)] == ["success"]


def test_a_job_with_an_environment_records_itself_unless_its_action_says_otherwise(double: GitLab) -> None:
    job = double.job(double.project, double.root, environment="production")
    assert records_itself(double.variables(job))
    assert not records_itself({**double.variables(job), "CI_ENVIRONMENT_ACTION": "access"})
    assert not records_itself(double.variables(double.job(double.project, double.root)))
    assert not records_itself({})


def test_the_token_is_the_variable_then_the_file_then_the_jobs(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    file.chmod(0o600)
    table = {"url": "https://gitlab.test", "project": "root/shop"}
    with_file = quick_settings(gitlab={**table, "token": str(file)})
    environ = {"GITLAB_TOKEN": "from-variable", "CI_JOB_TOKEN": "from-job"}
    tokens = []
    for found in (find(with_file, environ), find(with_file, {"CI_JOB_TOKEN": "from-job"})):
        assert found
        tokens.append((found.token, found.of_job))
        assert found.token not in repr(found)
    found = find(quick_settings(gitlab=table), {"CI_JOB_TOKEN": "from-job"})
    assert found
    assert [*tokens, (found.token, found.of_job)] == [
        ("from-variable", False), ("from-file", False), ("from-job", True)
    ]
    assert find(quick_settings(gitlab=table), {}) is None
    assert find(quick_settings(), environ) is None
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="can be read by others"):
        find(with_file, {})


def test_the_commit_is_the_jobs_or_the_checkouts(tmp_path: Path) -> None:
    assert checked_out(tmp_path, {}) == Source()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "init", "-q", "-b", "main", tmp_path], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    found = checked_out(tmp_path, {})
    assert (len(found.commit), found.ref, found.tag) == (40, "main", False)
    subprocess.run([*git, "tag", "v1.0"], check=True)
    subprocess.run([*git, "checkout", "-q", "--detach"], check=True)
    assert checked_out(tmp_path, {}) == Source(found.commit, "v1.0", tag=True)
    job = {"CI_COMMIT_SHA": "a" * 40, "CI_COMMIT_REF_NAME": "v2.0", "CI_COMMIT_TAG": "v2.0"}
    assert checked_out(tmp_path, job) == Source("a" * 40, "v2.0", tag=True)


NOW = datetime(2024, 6, 1, tzinfo=UTC)
TAGS = [Found(f"v{n}", f"sha256:{n}", f"2024-0{n}-01T00:00:00.000+00:00") for n in range(1, 6)]


@pytest.mark.parametrize(
    ("policy", "goes"),
    [
        ({"name_regex": ".*"}, True),
        ({"name_regex_delete": ".*"}, True),
        ({"name_regex": "v"}, False),
        ({"name_regex": "v2"}, True),
        ({}, False),
        ({"name_regex": ".*", "name_regex_keep": "v[12]"}, False),
        ({"name_regex": ".*", "name_regex_keep": "v"}, True),
        ({"name_regex": ".*", "keep_n": 3}, True),
        ({"name_regex": ".*", "keep_n": 4}, False),
        ({"name_regex": ".*", "older_than": "90d"}, True),
        ({"name_regex": ".*", "older_than": "150d"}, False),
    ],
)
def test_what_a_cleanup_policy_would_delete(policy: dict[str, object], goes: bool) -> None:
    assert policy_would_remove(policy, TAGS, "v2", NOW) is goes
