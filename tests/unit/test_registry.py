"""Who logs in to a registry, and what its refusals mean."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError
from fakes import Clock, quick_settings

from bluegreen.errors import Failed, SettingsError
from bluegreen.registry import TRIES, Credentials, Registry, credentials, lasting
from bluegreen.settings import Settings

SERVER = "gitlab.test:8001"
TAG = f"{SERVER}/root/shop:v2"
DIGEST = "sha256:" + "d" * 64
OTHER = "sha256:" + "e" * 64
SECRET = "s3cr3t-v4lue"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return clock


def settings(**table: Any) -> Settings:
    return quick_settings(registry={"server": SERVER, "repository": "root/shop", **table})


def docker_login(user: str, password: str, server: str = SERVER) -> None:
    import os

    directory = Path(os.environ["DOCKER_CONFIG"])
    directory.mkdir(exist_ok=True)
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    (directory / "config.json").write_text(json.dumps({"auths": {server: {"auth": token}}}))


ENVIRON = {
    "CI_REGISTRY": SERVER,
    "CI_REGISTRY_USER": "registry",
    "CI_REGISTRY_PASSWORD": "one",
    "CI_DEPLOY_USER": "deploy",
    "CI_DEPLOY_PASSWORD": "two",
    "CI_JOB_TOKEN": "three",
}


def test_the_first_source_that_is_there_is_used(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("file:fo:ur\n")
    file.chmod(0o600)
    docker_login("docker", "five")
    found = settings(credentials=str(file))
    environ = dict(ENVIRON)
    users = []
    for gone in (["CI_REGISTRY_USER"], ["CI_DEPLOY_PASSWORD"], ["CI_JOB_TOKEN"], []):
        used = credentials(found, environ)
        assert used
        users.append((used.user, used.password))
        for name in gone:
            del environ[name]
    assert users == [("registry", "one"), ("deploy", "two"), ("gitlab-ci-token", "three"), ("file", "fo:ur")]
    used = credentials(settings(), {})
    assert used
    assert (used.user, used.password, used.source) == ("docker", "five", "docker login")


def test_who_pulls_later_is_given_what_outlives_the_job(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("file:four\n")
    file.chmod(0o600)
    with_file, job = settings(credentials=str(file)), {k: v for k, v in ENVIRON.items() if "DEPLOY" not in k}
    found = [lasting(with_file, ENVIRON), lasting(with_file, job), lasting(settings(), job)]
    assert [each and each.user for each in found] == ["deploy", "file", "registry"]
    assert lasting(settings(), {}) is None
    elsewhere = lasting(with_file, {**ENVIRON, "CI_REGISTRY": "other.test:5050"})
    assert elsewhere
    assert elsewhere.user == "file", "a token of another registry's GitLab"


def test_without_any_there_are_none() -> None:
    assert credentials(settings(), {}) is None
    docker_login("docker", "five", "elsewhere.test")
    assert credentials(settings(), {}) is None


def test_a_jobs_variables_are_for_its_own_gitlabs_registry_alone() -> None:
    assert credentials(settings(), {**ENVIRON, "CI_REGISTRY": "other.test:5050"}) is None
    found = credentials(settings(), {**ENVIRON, "CI_REGISTRY": SERVER.upper()})
    assert found
    assert found.user == "registry"


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("user:password", 0o644, "can be read by others"),
        ("user:password", 0o640, "can be read by others"),
        ("userpassword", 0o600, "one line, USER:PASSWORD"),
        (":password", 0o600, "one line, USER:PASSWORD"),
        ("user:", 0o600, "one line, USER:PASSWORD"),
        (f"user:{SECRET}\nmore", 0o600, "one line, USER:PASSWORD"),
        (None, 0, "can't be read"),
    ],
)
def test_a_file_of_credentials_is_one_line_for_its_owner(
    tmp_path: Path, text: str | None, mode: int, words: str
) -> None:
    file = tmp_path / "credentials"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(SettingsError, match=words) as caught:
        credentials(settings(credentials=str(file)), {})
    assert caught.value.message.startswith("registry.credentials: ")
    assert SECRET not in caught.value.message


def test_a_password_is_not_in_what_is_printed_of_credentials() -> None:
    assert SECRET not in repr(Credentials("user", SECRET, "here"))


class Api:
    """As much of the engine as a registry uses. `answers` are given one after the other; an error is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Any]] = []
        self.digests = [f"{SERVER}/root/shop@{DIGEST}"]
        self.api = self

    def _next(self, call: str, auth: Any) -> Any:
        self.asked.append((call, auth))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def inspect_distribution(self, reference: str, auth_config: Any) -> Any:
        return self._next("look", auth_config)

    def push(self, repository: str, tag: str, stream: bool, decode: bool, auth_config: Any) -> Any:
        assert (f"{repository}:{tag}", stream, decode) == (TAG, True, True)
        return iter(self._next("push", auth_config))

    def pull(self, reference: str, stream: bool, decode: bool, auth_config: Any) -> Iterator[Any]:
        return iter(self._next("pull", auth_config))

    def tag(self, reference: str, repository: str, tag: str, force: bool) -> None:
        self.asked.append(("tag", f"{repository}:{tag}"))

    def login(self, user: str, password: str, registry: str, reauth: bool) -> Any:
        return self._next("login", (user, password, registry, reauth))

    def inspect_image(self, reference: str) -> Any:
        return {"RepoDigests": self.digests}


def registry(*answers: Any, environ: dict[str, str] | None = None) -> tuple[Registry, Api]:
    api = Api(*answers)
    user = {"CI_REGISTRY_USER": "ci", "CI_REGISTRY_PASSWORD": SECRET} if environ is None else environ
    return Registry(api, settings(), user), api


def refusal(words: str) -> APIError:
    return APIError("500 Server Error", explanation=words)


ABSENT = refusal(f"manifest unknown: manifest tagged by v2 is not found in {SERVER}")
FOUND = {"Descriptor": {"digest": DIGEST}}
PUSHED = [
    {"status": "Preparing", "id": "aaa"},
    {"status": "Pushing", "id": "aaa", "progressDetail": {"current": 1, "total": 2}},
    {"status": "Pushed", "id": "aaa"},
    {"status": "Layer already exists", "id": "bbb"},
    {"aux": {"Tag": "v2", "Digest": DIGEST, "Size": 1}},
]


def test_the_digest_of_a_tag_or_nothing() -> None:
    found, api = registry(FOUND, ABSENT)
    assert found.digest(TAG) == DIGEST
    assert found.digest(TAG) == ""
    assert api.asked[0] == ("look", {"username": "ci", "password": SECRET})


def test_a_push_tells_of_its_layers_and_gives_the_digest() -> None:
    found, _ = registry(ABSENT, PUSHED)
    told: list[str] = []
    counted: list[Mapping[str, Any]] = []
    assert found.push(TAG, told.append, counts=counted.append) == DIGEST
    assert told == ["aaa: pushed", "bbb: layer already exists"]
    assert counted[-1] == {"layers": 2, "ended": 2, "bytes": 2, "size": 2}


def test_what_the_registry_has_already_is_not_pushed_again() -> None:
    found, api = registry(FOUND)
    assert found.push(TAG, print) == DIGEST
    assert [call for call, _ in api.asked] == ["look"]


def test_another_content_under_the_same_name_is_refused_unless_asked_for() -> None:
    other = {"Descriptor": {"digest": OTHER}}
    found, _ = registry(other)
    with pytest.raises(Failed, match="is in the registry already") as caught:
        found.push(TAG, print)
    assert "--overwrite" in caught.value.hint
    found, _ = registry(other, PUSHED)
    assert found.push(TAG, lambda words: None, overwrite=True) == DIGEST


def test_a_push_that_fails_inside_its_stream_is_a_failure() -> None:
    found, _ = registry(ABSENT, [*PUSHED[:2], {"error": "denied: requested access to the resource is denied"}])
    with pytest.raises(Failed, match=r"does not let ci .*push") as caught:
        found.push(TAG, print)
    assert "write_registry" in caught.value.hint
    found, _ = registry(ABSENT, PUSHED[:-1])
    with pytest.raises(Failed, match="without a digest"):
        found.push(TAG, lambda words: None)


PASSING = [
    "toomanyrequests: Too Many Requests",
    "received unexpected HTTP status: 502 Bad Gateway",
    "received unexpected HTTP status: 503 Service Unavailable",
    "Get https://gitlab.test:8001/v2/: read tcp 10.0.0.1:1->10.0.0.2:8001: read: connection reset by peer",
    "Put https://gitlab.test:8001/v2/: EOF",
]


@pytest.mark.parametrize("words", PASSING)
def test_what_may_pass_is_tried_again_after_a_longer_pause_each_time(clock: Clock, words: str) -> None:
    found, _ = registry(refusal(words), ABSENT, [{"error": words}], [{"error": words}], PUSHED)
    told: list[str] = []
    begun = clock.monotonic()
    assert found.push(TAG, told.append) == DIGEST
    assert clock.monotonic() - begun == 1 + 1 + 2
    assert [line.rpartition("; ")[2] for line in told if "again in" in line] == ["again in 1 s"] * 2 + ["again in 2 s"]


def test_what_does_not_pass_is_a_failure_in_the_end() -> None:
    found, api = registry(*[refusal(PASSING[1])] * 10)
    with pytest.raises(Failed, match="502"):
        found.digest(TAG)
    assert len(api.asked) == TRIES


@pytest.mark.parametrize(
    "words",
    [
        "unauthorized: HTTP Basic: Access denied",
        "denied: requested access to the resource is denied",
        "pull access denied for root/shop, repository does not exist or may require 'docker login'",
        "no basic auth credentials",
        "errors: denied, insufficient_scope",
    ],
)
def test_a_refusal_is_final_and_says_who_asked_for_what(words: str) -> None:
    found, api = registry(refusal(words), environ={"CI_JOB_TOKEN": SECRET})
    with pytest.raises(Failed) as caught:
        found.pull(f"{SERVER}/root/shop@{DIGEST}", "v2", print)
    assert "does not let gitlab-ci-token (from CI_JOB_TOKEN) pull" in caught.value.message
    assert "read_registry" in caught.value.hint
    assert SECRET not in caught.value.message + caught.value.hint
    assert len(api.asked) == 1


def test_plain_http_is_answered_with_the_lines_for_this_server() -> None:
    words = f'Get "https://{SERVER}/v2/": http: server gave HTTP response to HTTPS client'
    found, _ = registry(refusal(words))
    with pytest.raises(Failed, match="speaks plain http") as caught:
        found.digest(TAG)
    assert f'{{"insecure-registries": ["{SERVER}"]}}' in caught.value.hint
    assert "/etc/docker/daemon.json" in caught.value.hint


def test_an_unknown_authority_is_answered_with_the_place_for_its_certificate() -> None:
    found, _ = registry(refusal("x509: certificate signed by unknown authority"))
    with pytest.raises(Failed, match="does not trust the certificate") as caught:
        found.digest(TAG)
    assert f"/etc/docker/certs.d/{SERVER}/ca.crt" in caught.value.hint


def test_what_is_pulled_by_its_digest_has_its_tag_too() -> None:
    found, api = registry([{"status": "Pull complete", "id": "aaa"}])
    found.pull(f"{SERVER}/root/shop@{DIGEST}", "v2", print)
    assert api.asked[-1] == ("tag", TAG)


def test_a_login_uses_what_a_run_would_use_and_stores_nothing() -> None:
    found, api = registry({"Status": "Login Succeeded"})
    assert found.log_in() == f"{SERVER} takes ci (from CI_REGISTRY_USER and CI_REGISTRY_PASSWORD)"
    assert api.asked == [("login", ("ci", SECRET, SERVER, True))]
    found, _ = registry({"Status": "Login Succeeded"})
    assert "nothing was stored" in found.log_in(Credentials("me", SECRET, "here"))
    found, _ = registry(refusal("unauthorized: HTTP Basic: Access denied"))
    with pytest.raises(Failed, match=r"does not let me \(from here\) log in to"):
        found.log_in(Credentials("me", SECRET, "here"))
    found, _ = registry(environ={})
    with pytest.raises(Failed, match="no credentials"):
        found.log_in()


HELPER = """#!/bin/sh
# Speaks docker's protocol of credential helpers: a verb, and JSON or the server's name on standard input.
case $1 in
store) cat >"$HELPER_FILE" ;;
get) cat >/dev/null; cat "$HELPER_FILE" ;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a credential helper, which docker's config names for all servers, keeps what it is given."""
    program = tmp_path / "bin" / "docker-credential-safe"
    program.parent.mkdir()
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("HELPER_FILE", str(tmp_path / "kept"))
    config = tmp_path / "docker" / "config.json"
    config.parent.mkdir()
    config.write_text('{"credsStore": "safe"}')
    return tmp_path / "kept"


def test_what_is_given_to_login_goes_to_dockers_credential_helper_and_nowhere_else(helper: Path) -> None:
    found, _ = registry({"Status": "Login Succeeded"}, environ={})
    assert "credential helper safe has the password" in found.log_in(Credentials("me", SECRET, "here"))
    assert json.loads(helper.read_text()) == {"ServerURL": SERVER, "Username": "me", "Secret": SECRET}
    elsewhere = [path for path in helper.parent.rglob("*") if path.is_file() and path != helper]
    assert not [path for path in elsewhere if SECRET in path.read_text()]
    used = credentials(settings(), {})
    assert used
    assert (used.user, used.password) == ("me", SECRET)


def test_nothing_is_given_to_the_helper_when_the_registry_refuses(helper: Path) -> None:
    found, _ = registry(refusal("unauthorized: HTTP Basic: Access denied"), environ={})
    with pytest.raises(Failed):
        found.log_in(Credentials("me", SECRET, "here"))
    assert not helper.exists()
