"""Where the values of the app's secrets come from, and that nobody is told of them who should not be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gitlab_double import DEVELOPER, MAINTAINER, GitLab, running
from gitlab_state import Variable

from bluegreen.errors import Failed, SettingsError
from bluegreen.gitlab import Project
from bluegreen.secret import Secrets, in_scope, read_secrets
from bluegreen.settings import Settings, parse

VALUE = "correct horse battery staple"


def having(root: Path | None = None, **secrets: dict[str, str]) -> Settings:
    return parse({"service": "shop", "app": {"port": 1, "secrets": secrets}}, root=root)


def missing(settings: Settings, project: Project | None = None, **environ: str) -> list[str]:
    """Why each secret can't be had."""
    with pytest.raises(SettingsError) as caught:
        read_secrets(settings, project, environ)
    assert caught.value.exit_code == 3
    assert VALUE not in caught.value.message
    return [line.strip() for line in caught.value.message.splitlines()[1:]]


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_without_any_nothing_is_looked_for() -> None:
    assert read_secrets(having(), None, {}) == Secrets()


def test_a_secret_is_what_the_variable_or_the_file_holds_to_the_last_byte(tmp_path: Path) -> None:
    write(tmp_path / "key", b"\0\xff-----\n")
    found = read_secrets(having(tmp_path, A={"env": "HERE"}, B={"file": "key"}), None, {"HERE": f" {VALUE}\n"})
    assert found.files == {"A": f" {VALUE}\n".encode(), "B": b"\0\xff-----\n"}
    assert found.variables == {}


def test_as_a_variable_it_is_without_the_newline_that_ends_a_file(tmp_path: Path) -> None:
    write(tmp_path / "one", b"a\nb\n\n")
    found = read_secrets(having(tmp_path, A={"file": "one", "as": "env"}), None, {})
    assert (found.files, found.variables) == ({}, {"A": "a\nb\n"})


def test_every_secret_that_can_not_be_had_is_named_with_the_place(tmp_path: Path) -> None:
    write(tmp_path / "open", VALUE.encode(), 0o640)
    write(tmp_path / "empty", b"")
    write(tmp_path / "bytes", b"\xff" + VALUE.encode())
    write(tmp_path / "nul", b"\0" + VALUE.encode())
    secrets: dict[str, dict[str, str]] = {
        "GOOD": {"env": "GOOD"},
        "UNSET": {"env": "NOT_SET"},
        "EMPTY": {"env": "EMPTY"},
        "GONE": {"file": "gone"},
        "OPEN": {"file": "open"},
        "NOTHING": {"file": "empty"},
        "BYTES": {"file": "bytes", "as": "env"},
        "NUL": {"file": "nul", "as": "env"},
        "GITLAB": {"gitlab": "KEY"},
    }
    assert missing(having(tmp_path, **secrets), None, GOOD=VALUE, EMPTY="") == [
        "app.secrets.UNSET: the variable NOT_SET is not set, or empty, where bluegreen runs",
        "app.secrets.EMPTY: the variable EMPTY is not set, or empty, where bluegreen runs",
        f"app.secrets.GONE: {tmp_path}/gone can't be read: No such file or directory",
        f"app.secrets.OPEN: {tmp_path}/open can be read by others than its owner: chmod 600 {tmp_path}/open",
        f"app.secrets.NOTHING: {tmp_path}/empty is empty",
        'app.secrets.BYTES: is not text, and so can\'t be a variable: as = "file"',
        'app.secrets.NUL: holds a NUL, and so can\'t be a variable: as = "file"',
        "app.secrets.GITLAB: no project, or no token for it, is known to look for the variable KEY:"
        " set gitlab.url, gitlab.project and GITLAB_TOKEN",
    ]


def test_no_value_is_in_what_prints_of_them() -> None:
    found = read_secrets(having(A={"env": "A"}, B={"env": "A", "as": "env"}), None, {"A": VALUE})
    assert VALUE not in repr(found)
    assert VALUE not in str(found)


# GitLab's


@pytest.fixture
def double() -> Iterator[GitLab]:
    with running() as double:
        yield double
        assert double.mistakes == []


def project(double: GitLab, role: int = MAINTAINER, *scopes: str) -> Project:
    user = double.user("deployer")
    double.project.members["deployer"] = role
    return Project(double.url, double.project.path, double.token(user, *scopes).value)


def test_a_variable_of_the_project_is_that_of_the_environment(double: GitLab) -> None:
    double.project.variables += [
        Variable("KEY", "everywhere"),
        Variable("KEY", VALUE, "production"),
        Variable("KEY", "staging", "staging"),
        *(Variable(f"OTHER_{number}", "more than a page") for number in range(30)),
        Variable("LAST", "last", masked=True),
    ]
    settings = having(KEY={"gitlab": "KEY"}, LAST={"gitlab": "LAST", "as": "env"})
    found = read_secrets(settings, project(double), {"KEY": "not this one"})
    assert (found.files, found.variables) == ({"KEY": VALUE.encode()}, {"LAST": "last"})
    assert len(double.asked_of("rest", "GET", "/variables")) == 2, "one list, of two pages, for all of them"


def test_a_variable_that_gitlab_does_not_give_is_told_with_the_reason(double: GitLab) -> None:
    double.project.variables += [
        Variable("HIDDEN", VALUE, hidden=True),
        Variable("EMPTY", ""),
        Variable("ELSEWHERE", VALUE, "staging"),
    ]
    names = ("HIDDEN", "EMPTY", "ELSEWHERE")
    where = f"root/hippo_flask on {double.url}"
    assert missing(having(**{name: {"gitlab": name} for name in names}), project(double)) == [
        f"app.secrets.HIDDEN: the variable HIDDEN of {where} is hidden: GitLab shows it to nobody but its jobs",
        f"app.secrets.EMPTY: the variable EMPTY of {where} is empty",
        f"app.secrets.ELSEWHERE: {where} has no variable ELSEWHERE for the environment production",
    ]


@pytest.mark.parametrize(("role", "scopes"), [(DEVELOPER, ["api"]), (MAINTAINER, ["read_registry"])])
def test_who_may_not_read_variables_is_told_what_it_takes(double: GitLab, role: int, scopes: list[str]) -> None:
    double.project.variables.append(Variable("KEY", VALUE))
    [problem] = missing(having(KEY={"gitlab": "KEY"}), project(double, role, *scopes))
    assert "can't be read: 403" in problem
    assert "a token of scope api, of a Maintainer" in problem


def test_a_gitlab_that_does_not_answer_is_no_fault_of_the_settings(double: GitLab) -> None:
    found = replace(project(double), url="http://127.0.0.1:9")
    with pytest.raises(Failed, match="the variables of root/hippo_flask on") as caught:
        read_secrets(having(KEY={"gitlab": "KEY"}), found, {})
    assert found.token not in caught.value.message


def test_a_job_without_another_token_has_what_gitlab_gave_it(tmp_path: Path) -> None:
    job = Project("https://gitlab.example", "7", "job-token", of_job=True)
    checkout = tmp_path / "shop"
    (tmp_path / "shop.tmp").mkdir()
    write(tmp_path / "shop.tmp" / "FILE", VALUE.encode(), 0o666)
    environ = {"CI_PROJECT_DIR": os.fspath(checkout), "KEY": "plain", "FILE": f"{checkout}.tmp/FILE"}
    found = read_secrets(having(KEY={"gitlab": "KEY"}, FILE={"gitlab": "FILE"}), job, environ)
    assert found.files == {"KEY": b"plain", "FILE": VALUE.encode()}
    [problem] = missing(having(KEY={"gitlab": "KEY"}), job)
    assert problem.startswith("app.secrets.KEY: GitLab gave this job no variable KEY")


@pytest.mark.parametrize(
    ("scopes", "environment", "expected"),
    [
        (["*"], "production", "*"),
        (["*", "production"], "production", "production"),
        (["*", "review/*", "review/feature-*"], "review/feature-1", "review/feature-*"),
        (["review/*"], "production", None),
        (["prod.ction"], "production", None),
        ([], "production", None),
    ],
)
def test_the_narrowest_scope_that_fits_wins(scopes: list[str], environment: str, expected: str | None) -> None:
    found: Any = in_scope([Variable("KEY", "x", scope) for scope in scopes], "KEY", environment)
    assert (found.environment_scope if found else None) == expected
    assert in_scope([Variable("KEY", "x")], "OTHER", environment) is None
