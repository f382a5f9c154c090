"""GitLab's view of a deploy: an environment, and a deployment that runs and then succeeds, fails or is canceled.

Nothing here changes the outcome of a deploy. What GitLab refuses, or does not answer in time, is said in a line.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluegreen.errors import BluegreenError, Interrupted, SettingsError
from bluegreen.model import Release, Source
from bluegreen.prune import Found, superfluous
from bluegreen.settings import Settings
from bluegreen.words import plain

if TYPE_CHECKING:
    import gitlab

PATIENCE = 10.0
"""Seconds that a call to GitLab may take, and that the end of a run waits for GitLab at most."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Project:
    """A project of a GitLab, and the token that may write to it."""

    url: str
    project: str
    token: str = field(repr=False)
    of_job: bool = False
    """Whether it is a CI_JOB_TOKEN."""
    ca: str = ""

    def client(self) -> gitlab.Gitlab:
        import gitlab

        return gitlab.Gitlab(
            self.url,
            private_token=self.token if not self.of_job else None,
            job_token=self.token if self.of_job else None,
            timeout=PATIENCE,
            ssl_verify=self.ca or True,
        )


def find(settings: Settings, environ: Mapping[str, str] = os.environ) -> Project | None:
    """The project of the settings, else of the job; None where there is none, or no token for it.

    The token is GITLAB_TOKEN, else that in `gitlab.token`, else CI_JOB_TOKEN. Raises SettingsError if the file can't be
    read, or others than its owner can read it.
    """
    table = settings.gitlab
    url = table.url or environ.get("CI_SERVER_URL", "")
    project = table.project or environ.get("CI_PROJECT_ID", "")
    if not (url and project):
        return None
    ca = str(settings.root / table.ca) if table.ca else environ.get("CI_SERVER_TLS_CA_FILE", "")
    if environ.get("GITLAB_TOKEN"):
        return Project(url, project, environ["GITLAB_TOKEN"], ca=ca)
    if table.token:
        return Project(url, project, _token(settings), ca=ca)
    if environ.get("CI_JOB_TOKEN"):
        return Project(url, project, environ["CI_JOB_TOKEN"], of_job=True, ca=ca)
    return None


def _token(settings: Settings) -> str:
    path = settings.root / settings.gitlab.token
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or "it is not text"
        raise SettingsError(f"gitlab.token: {path} can't be read: {words}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingsError(f"gitlab.token: {path} can be read by others than its owner", hint=f"chmod 600 {path}")
    if not text or len(text.split()) > 1:
        raise SettingsError(f"gitlab.token: {path} must hold a token and nothing else")
    return text


def records_itself(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this job makes GitLab record a deployment: one with `environment:`, unless its action says otherwise."""
    return bool(environ.get("CI_ENVIRONMENT_NAME")) and environ.get("CI_ENVIRONMENT_ACTION", "start") in ("", "start")


def checked_out(directory: Path, environ: Mapping[str, str] = os.environ) -> Source:
    """The commit of the job, or of the git checkout that `directory` is in; nothing where there is neither."""
    if environ.get("CI_COMMIT_SHA"):
        ref, tag = environ.get("CI_COMMIT_REF_NAME", ""), environ.get("CI_COMMIT_TAG")
        return Source(environ["CI_COMMIT_SHA"], ref, bool(tag))
    commit = _git(directory, "rev-parse", "HEAD")
    branch = _git(directory, "symbolic-ref", "--short", "-q", "HEAD")
    tag = "" if branch else _git(directory, "describe", "--exact-match", "--tags")
    return Source(commit, branch or tag, bool(tag)) if commit and (branch or tag) else Source()


def _git(directory: Path, *arguments: str) -> str:
    try:
        ran = subprocess.run(["git", "-C", directory, *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""


@contextlib.contextmanager
def deployment(project: Project, environment: str, external_url: str, source: Source, say: Say) -> Iterator[None]:
    """GitLab shows a running deployment meanwhile, and afterwards how it ended. The environment is made if missing."""
    if not source.commit:
        say("GitLab is not told: no commit is known for this image")
        yield
        return
    begun = _Call(lambda: _begin(project, environment, external_url, source))

    def end(status: str) -> None:
        try:
            number = begun.result()
            _Call(lambda: _end(project, number, status)).result()
        except Exception as error:
            say(f"GitLab was not told of the {status}: {words_of(error)}")

    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        end("canceled")
        raise
    except BaseException:
        end("failed")
        raise
    end("success")


class _Call(threading.Thread):
    """A call to GitLab that nobody waits for longer than for PATIENCE, also not the end of the program."""

    def __init__(self, work: Callable[[], int]) -> None:
        super().__init__(name="gitlab", daemon=True)
        self._work = work
        self._number = 0
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._number = self._work()
        except Exception as error:
            self._error = error

    def result(self) -> int:
        """What the work gave. Raises its error, or TimeoutError."""
        self.join(PATIENCE)
        if self.is_alive():
            raise TimeoutError(f"it did not answer within {PATIENCE:g} s")
        if self._error:
            raise self._error
        return self._number


def _begin(project: Project, environment: str, external_url: str, source: Source) -> int:
    """A deployment is running; its number."""
    api = project.client().projects.get(project.project, lazy=True)
    found = api.environments.list(name=environment, get_all=True)
    if not found:
        api.environments.create({"name": environment, "external_url": external_url})
    elif found[0].external_url != external_url:
        api.environments.update(found[0].get_id(), {"external_url": external_url})
    made = api.deployments.create(
        {
            "environment": environment,
            "sha": source.commit,
            "ref": source.ref,
            "tag": source.tag,
            "status": "running",
        }
    )
    return int(str(made.get_id()))


def _end(project: Project, number: int, status: str) -> int:
    api = project.client().projects.get(project.project, lazy=True)
    api.deployments.update(number, {"status": status})
    return number


def words_of(error: BaseException) -> str:
    """What GitLab said, without what was sent to it."""
    import gitlab

    if isinstance(error, BluegreenError | TimeoutError):
        return str(error)
    if isinstance(error, gitlab.GitlabError):
        words = plain(f"{error.response_code or ''} {error.error_message}".strip())
        return words + (" (was it pushed?)" if "commit does not exist" in words else "")
    return type(error).__name__


def tags_of(project: Project, repository: str) -> list[Found]:
    """The tags of the repository, which is written with its registry. Raises gitlab.GitlabError."""
    found = _repository(project, repository)
    if found is None:
        return []
    details = [found.tags.get(each.name) for each in found.tags.list(get_all=True)]
    return [Found(each.name, each.digest or "", each.created_at or "") for each in details]


def _repository(project: Project, repository: str) -> Any:
    api = project.client().projects.get(project.project, lazy=True)
    return next((each for each in api.repositories.list(get_all=True) if each.location == repository), None)


def prune_tags(
    project: Project, repository: str, needed: Collection[str], target: Release | None, *, really: bool
) -> tuple[list[str], list[str]]:
    """The tags that no release needs, gone if `really`; and what a person should know, such as that GitLab failed.

    `needed` are digests. `latest` stays.
    """
    import gitlab
    import requests

    gone: list[str] = []
    try:
        tags = tags_of(project, repository)
        warnings = policy_warnings(project, tags, target)
        found = _repository(project, repository) if really else None
        for tag in superfluous([each for each in tags if each.name != "latest"], needed):
            if found:
                found.tags.delete(tag.name)
            gone.append(tag.name)
    except (gitlab.GitlabError, requests.RequestException) as error:
        return gone, [f"GitLab's registry could not be pruned: {words_of(error)}"]
    return gone, warnings


_OLDER = {"d": 1, "day": 1, "days": 1, "month": 30, "months": 30, "h": 1 / 24}


def policy_would_remove(policy: Mapping[str, Any], tags: Sequence[Found], name: str, now: datetime) -> bool:
    """Whether a cleanup policy deletes this tag at its next run: it matches, is old enough, and is not spared.

    GitLab's rules: the name matches `name_regex` whole, not `name_regex_keep`; `latest` and the newest `keep_n` stay.
    """
    found = next((tag for tag in tags if tag.name == name), None)
    if found is None or name == "latest":
        return False
    pattern = policy.get("name_regex_delete") or policy.get("name_regex") or ""
    matching = [tag for tag in tags if pattern and re.fullmatch(pattern, tag.name)]
    if found not in matching or re.fullmatch(policy.get("name_regex_keep") or r"(?!)", name):
        return False
    newest = sorted(matching, key=lambda tag: tag.created, reverse=True)[: policy.get("keep_n") or 0]
    age = re.fullmatch(r"(\d+)\s*([a-z]+)", policy.get("older_than") or "0d")
    limit = timedelta(days=int(age[1]) * _OLDER.get(age[2], 1)) if age else timedelta()
    return found not in newest and now - datetime.fromisoformat(found.created) > limit


def policy_warnings(project: Project, tags: Sequence[Found], target: Release | None) -> list[str]:
    """What to know of the project's cleanup policy: that it would delete what a rollback needs.

    A job's token may not read the policy: then nothing is known, and nothing said. Raises gitlab.GitlabError.
    """
    if target is None or project.of_job:
        return []
    policy = project.client().projects.get(project.project).attributes.get("container_expiration_policy") or {}
    if not policy.get("enabled") or not policy_would_remove(policy, tags, target.name, datetime.now(UTC)):
        return []
    return [
        f"GitLab's cleanup policy would delete the tag {target.name}, which a rollback needs: add it to name_regex_keep"
        " (Settings, Packages and registries), or keep more tags"
    ]
