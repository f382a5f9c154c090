"""The values of the app's secrets, found where the settings say when a run needs them, and kept nowhere here."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bluegreen.errors import Failed, SettingsError
from bluegreen.gitlab import Project, words_of
from bluegreen.settings import Settings


@dataclass(frozen=True)
class Secrets:
    """The values by name: those that the app gets as files, and those that it gets as variables."""

    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


def read_secrets(settings: Settings, project: Project | None, environ: Mapping[str, str] = os.environ) -> Secrets:
    """Every secret of the settings. Raises SettingsError that names each which can't be had, and where it was looked
    for; Failed if GitLab does not answer. No message holds anything of a value."""
    problems: list[str] = []
    files: dict[str, bytes] = {}
    variables: dict[str, str] = {}
    from_gitlab = _FromGitLab(project, settings.gitlab.environment, environ)
    for name, secret in settings.app.secrets.items():
        where = f"app.secrets.{name}"
        try:
            if secret.env is not None:
                value = _from_environment(environ, secret.env)
            elif secret.file is not None:
                value = _from_file(settings.root / secret.file)
            else:
                value = from_gitlab.find(secret.gitlab or "")
            if secret.as_ == "file":
                files[name] = value
            else:
                variables[name] = _as_variable(value)
        except _Missing as missing:
            problems.append(f"{where}: {missing}")
    if problems:
        raise SettingsError("\n  ".join(["the app's secrets can't be had:", *problems]))
    return Secrets(files, variables)


class _Missing(Exception):
    """Why a value can't be had, without anything of it."""


def _from_environment(environ: Mapping[str, str], name: str) -> bytes:
    if not environ.get(name):
        raise _Missing(f"the variable {name} is not set, or empty, where bluegreen runs")
    return environ[name].encode(errors="surrogateescape")


def _from_file(path: Path) -> bytes:
    try:
        mode, value = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise _Missing(f"{path} can't be read: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise _Missing(f"{path} can be read by others than its owner: chmod 600 {path}")
    if not value:
        raise _Missing(f"{path} is empty")
    return value


def _as_variable(value: bytes) -> str:
    """The value as a variable holds it: as in a shell, without the newline that ends a file."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise _Missing('is not text, and so can\'t be a variable: as = "file"') from None
    if "\0" in text:
        raise _Missing('holds a NUL, and so can\'t be a variable: as = "file"')
    return text.removesuffix("\n")


class _FromGitLab:
    """The CI/CD variables of a project: in a job that has no other token, what GitLab gave the job of them."""

    def __init__(self, project: Project | None, environment: str, environ: Mapping[str, str]) -> None:
        self._project = project
        self._environment = environment
        self._environ = environ
        self._variables: list[Any] | None = None

    def find(self, key: str) -> bytes:
        project = self._project
        if project is None:
            raise _Missing(
                f"no project, or no token for it, is known to look for the variable {key}:"
                " set gitlab.url, gitlab.project and GITLAB_TOKEN"
            )
        if project.of_job:
            return self._given_to_job(key)
        if self._variables is None:
            self._variables = _all_variables(project)
        found = in_scope(self._variables, key, self._environment)
        where = f"{project.project} on {project.url}"
        if found is None:
            raise _Missing(f"{where} has no variable {key} for the environment {self._environment}")
        if getattr(found, "hidden", False) or found.value is None:
            raise _Missing(f"the variable {key} of {where} is hidden: GitLab shows it to nobody but its jobs")
        if not found.value:
            raise _Missing(f"the variable {key} of {where} is empty")
        return str(found.value).encode()

    def _given_to_job(self, key: str) -> bytes:
        value = self._environ.get(key)
        if not value:
            raise _Missing(
                f"GitLab gave this job no variable {key}: is it of this project, protected on an unprotected branch, or"
                " of another environment?"
            )
        # Of the type `file`: the variable names a file beside the checkout, which holds the value.
        if value == f"{self._environ.get('CI_PROJECT_DIR')}.tmp/{key}":
            try:
                return Path(value).read_bytes()
            except OSError as error:
                raise _Missing(f"{value} can't be read: {error.strerror}") from None
        return value.encode(errors="surrogateescape")


def _all_variables(project: Project) -> list[Any]:
    import gitlab
    import requests

    try:
        api = project.client().projects.get(project.project, lazy=True)
        return list(api.variables.list(get_all=True))
    except (gitlab.GitlabError, requests.RequestException) as error:
        words = f"the variables of {project.project} on {project.url} can't be read: {words_of(error)}"
        code = getattr(error, "response_code", None)
        if code is None or code >= 500:
            raise Failed(words) from None
        raise _Missing(f"{words}; it takes a token of scope api, of a Maintainer") from None


def in_scope(variables: Iterable[Any], key: str, environment: str) -> Any | None:
    """The variable that a job of this environment would get: of those whose scope fits, the one of the narrowest."""

    def scope(variable: Any) -> str:
        return getattr(variable, "environment_scope", None) or "*"

    fitting = [
        each
        for each in variables
        if each.key == key and re.fullmatch(re.escape(scope(each)).replace(r"\*", ".*"), environment)
    ]
    return max(fitting, key=lambda each: (scope(each) == environment, len(scope(each))), default=None)
