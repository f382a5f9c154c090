"""The double of GitLab answers as GitLab does, forgives nothing, and fails on demand; its registry has tests of its own
among those on the real engine."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import gitlab as python_gitlab
import httpx
import pytest
from certificates import Authority
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from gitlab_double import GitLab, running
from gitlab_registry import Front, Signer, claims
from gitlab_server import Asked, Exchange, Fault, Journal, Reset, Server
from gitlab_state import DEVELOPER, OWNER, REPORTER
from harness import eventually

PROJECT = "/api/v4/projects/root%2Fhippo_flask"
SCOPE = "repository:root/hippo_flask:pull,push"


@pytest.fixture
def double() -> Iterator[GitLab]:
    """Without a registry. Nothing is asked of it wrongly, if the test does not clear that."""
    with running() as double:
        yield double
        assert double.mistakes == []


client = functools.partial(httpx.Client, trust_env=False, verify=False)
"""Certificates of authorities, for each client anew, would take their time."""


def ask(double: GitLab, method: str, path: str, token: str | None = None, **more: Any) -> httpx.Response:
    """By the root user's token, if no other is given."""
    headers = {"PRIVATE-TOKEN": token if token is not None else double.token(double.root).value}
    with client() as rest:
        return rest.request(method, double.url + path, **{"headers": headers, **more})


def grant(double: GitLab, login: tuple[str, str] | None, *scopes: str, service: str = "container_registry") -> Any:
    """The token endpoint's answer."""
    arguments = [("service", service), ("account", login[0] if login else ""), *(("scope", s) for s in scopes)]
    with client() as docker:
        return docker.get(f"{double.url}/jwt/auth", params=arguments, auth=login)


def granted(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"token"}
    return [f"{entry['name']}:{','.join(entry['actions'])}" for entry in claims(answer.json()["token"])["access"]]


# --- Tokens for the registry.


def test_a_token_is_signed_by_the_key_that_it_names() -> None:
    signer = Signer()
    token = signer.token("root", [], now=1000, seconds=300, auth_type="none")
    signed, _, signature = token.rpartition(".")
    key = x509.load_pem_x509_certificate(signer.certificate).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    key.verify(base64.urlsafe_b64decode(signature + "=="), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert re.fullmatch(r"([A-Z2-7]{4}:){11}[A-Z2-7]{4}", signer.kid)
    assert base64.b32decode(signer.kid.replace(":", "")) == hashlib.sha256(der).digest()[:30]
    said = claims(token)
    assert (said["iss"], said["aud"], said["sub"]) == ("omnibus-gitlab-issuer", "container_registry", "root")
    assert (said["iat"], said["nbf"], said["exp"]) == (1000, 995, 1300)


def test_a_token_grants_what_its_owner_may_do(double: GitLab) -> None:
    project = double.project
    project.members |= {"reporter": REPORTER, "developer": DEVELOPER}
    everything = "repository:root/hippo_flask:pull,push,delete"
    both, reading = double.deploy_token(project), double.deploy_token(project, "read_registry")
    may = {
        ("root", double.root.password): "pull,push,delete",
        ("reporter", double.user("reporter").password): "pull",
        ("developer", double.user("developer").password): "pull,push",
        ("any name", double.token(double.root).value): "pull,push,delete",
        ("any name", double.token(double.root, "write_registry").value): "push",
        (both.username, both.value): "pull,push",
        (reading.username, reading.value): "pull",
        ("gitlab-ci-token", double.job(project, double.users["developer"]).value): "pull,push",
    }
    for login, actions in may.items():
        assert granted(grant(double, login, everything)) == [f"root/hippo_flask:{actions}"]
    assert [(repository.name, repository.path) for repository in project.repositories] == [("", "root/hippo_flask")]


def test_a_refused_action_is_no_error(double: GitLab) -> None:
    other, login = double.add_project("other/shop", public=True), ("root", double.root.password)
    for scopes in (["repository:other/shop:push,pull", SCOPE], [f"repository:other/shop:push,pull {SCOPE}"]):
        assert granted(grant(double, login, *scopes)) == ["other/shop:pull", "root/hippo_flask:pull,push"]
    assert granted(grant(double, login, "repository:nobody/nothing:pull")) == []
    assert granted(grant(double, login, "repository:root/hippo_flask/worker:push")) == ["root/hippo_flask/worker:push"]
    assert granted(grant(double, login)) == []
    assert granted(grant(double, None, "repository:other/shop:pull,push")) == ["other/shop:pull"]
    token = double.deploy_token(other)
    assert granted(grant(double, (token.username, token.value), SCOPE)) == []
    job = double.job(other, double.root)
    assert granted(grant(double, ("gitlab-ci-token", job.value), SCOPE)) == []
    double.project.job_token_allowlist.add(other.id)
    assert granted(grant(double, ("gitlab-ci-token", job.value), SCOPE)) == ["root/hippo_flask:pull"]
    double.project.registry_enabled = False
    assert granted(grant(double, login, SCOPE)) == []


def test_who_is_not_known_gets_no_token(double: GitLab) -> None:
    over, fresh = double.job(double.project, double.root), double.deploy_token(double.project)
    double.finish(over)
    expired = double.deploy_token(double.project, expired=True)
    careful = double.user("careful", two_factor=True)
    for login in (
        ("root", "wrong"),
        ("nobody", double.root.password),
        ("root", double.token(double.root, expired=True).value),
        (expired.username, expired.value),
        ("root", fresh.value),
        ("gitlab-ci-token", over.value),
        ("careful", careful.password),
    ):
        answer = grant(double, login, SCOPE)
        assert answer.status_code == 401
        assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"
    for stranger in (None, ("root", double.token(double.root, "read_api").value)):
        answer = grant(double, stranger, SCOPE)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (403, "DENIED")
    double.registry_enabled = False
    answer = grant(double, ("root", double.root.password))
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, "UNAVAILABLE")


def test_what_is_no_question_for_a_token_is_a_mistake(double: GitLab) -> None:
    login = ("root", double.root.password)
    assert grant(double, login, service="other").status_code == 404
    assert httpx.post(f"{double.url}/jwt/auth", auth=login, trust_env=False).status_code == 404
    url = f"{double.url}/jwt/auth?service=container_registry&scopes=x"
    assert httpx.get(url, auth=login, trust_env=False).status_code == 400
    assert granted(grant(double, login, "repository:root/hippo_flask:read")) == []
    assert len(double.mistakes) == 4
    double.mistakes.clear()


def test_the_clock_of_gitlab_is_its_own(double: GitLab) -> None:
    double.clock = timedelta(hours=1)
    answer = grant(double, ("root", double.root.password))
    for shown in (claims(answer.json()["token"])["iat"], parsedate_to_datetime(answer.headers["Date"]).timestamp()):
        assert 3000 < shown - time.time() < 4200
    double.registry_token_seconds = -60
    said = claims(grant(double, ("root", double.root.password)).json()["token"])
    assert said["nbf"] < said["iat"] < said["exp"] < double.now().timestamp() - 50


# --- REST, asked by python-gitlab.


@pytest.fixture
def api(double: GitLab) -> Iterator[python_gitlab.Gitlab]:
    with python_gitlab.Gitlab(double.url, private_token=double.token(double.root).value) as api:
        yield api


def test_server_user_token_and_project(double: GitLab, api: python_gitlab.Gitlab) -> None:
    assert api.version() == (double.version, "0123456789a")
    api.auth()
    assert api.user
    assert api.user.username == "root"
    token = api.personal_access_tokens.get("self")
    assert (token.scopes, token.active, token.revoked) == (["api"], True, False)
    project = api.projects.get("root/hippo_flask")
    assert project.path_with_namespace == "root/hippo_flask"
    assert project.container_expiration_policy["name_regex"] == ".*"
    double.project.resource_groups["production"] = "unordered"
    [group] = project.resource_groups.list(get_all=True)
    assert (group.key, group.process_mode) == ("production", "unordered")
    assert project.resource_groups.get("production").upcoming_jobs.list(get_all=True) == []


def test_the_life_of_an_environment(api: python_gitlab.Gitlab) -> None:
    environments = api.projects.get("root/hippo_flask", lazy=True).environments
    made = environments.create({"name": "production/eu", "external_url": "https://shop.test"})
    assert (made.state, made.tier, made.external_url) == ("available", "production", "https://shop.test")
    assert re.fullmatch(r"production-eu-[0-9a-f]{6}", made.slug)
    with pytest.raises(python_gitlab.GitlabCreateError) as taken:
        environments.create({"name": "production/eu"})
    assert taken.value.response_code == 400
    assert taken.value.error_message["name"] == ["has already been taken"]
    with pytest.raises(python_gitlab.GitlabCreateError, match="can contain only letters"):
        environments.create({"name": "/production"})
    environments.update(made.id, {"external_url": "https://eu.shop.test", "tier": "staging"})
    [found] = environments.list(name="production/eu", get_all=True)
    assert (found.external_url, found.tier) == ("https://eu.shop.test", "staging")
    with pytest.raises(python_gitlab.GitlabDeleteError) as refused:
        made.delete()
    assert refused.value.response_code == 403
    made.stop()
    assert environments.get(made.id).state == "stopped"
    assert environments.get(made.id).last_deployment is None
    made.delete()
    with pytest.raises(python_gitlab.GitlabGetError) as gone:
        environments.get(made.id)
    assert (gone.value.response_code, gone.value.error_message) == (404, "404 Not found")


def test_the_life_of_a_deployment(double: GitLab, api: python_gitlab.Gitlab) -> None:
    project = api.projects.get("root/hippo_flask", lazy=True)
    record = {"sha": double.project.branches["main"], "ref": "main", "tag": False, "status": "running"}
    made = project.deployments.create({"environment": "production", **record})
    [environment] = project.environments.list(get_all=True)
    assert (made.iid, made.status, made.environment["id"], made.deployable) == (1, "running", environment.id, None)
    for event, status in (("run", "running"), (None, "success"), ("succeed", "success"), (None, "failed")):
        made.status = status
        if event:
            with pytest.raises(python_gitlab.GitlabUpdateError) as wrong:
                made.save()
            assert wrong.value.error_message == {"status": [f'cannot transition via "{event}"']}
        else:
            made.save()
            assert project.deployments.get(made.id).status == status
    second = project.deployments.create({"environment": "production", **record, "status": "success"})
    assert project.environments.get(environment.id).last_deployment["id"] == second.id
    for name in ("sha", "ref"):
        with pytest.raises(python_gitlab.GitlabCreateError) as absent:
            project.deployments.create({"environment": "production", **record, name: "f" * 40})
        assert list(absent.value.error_message) == [name]
    listed = project.deployments.list(environment="production", order_by="id", sort="desc", get_all=True)
    assert [deployment.id for deployment in listed] == [second.id, made.id]
    refused = ask(double, "DELETE", f"{PROJECT}/deployments/{second.id}")
    assert (refused.status_code, "currently deployed" in refused.json()["message"]) == (400, True)
    assert ask(double, "DELETE", f"{PROJECT}/deployments/{made.id}").status_code == 204


def test_a_job_records_its_deployment_and_nobody_else_changes_it(double: GitLab) -> None:
    job = double.job(double.project, double.root, "production")
    with python_gitlab.Gitlab(double.url, job_token=job.value) as api:
        deployments = api.projects.get(double.project.id, lazy=True).deployments
        [mine] = deployments.list(get_all=True)
        assert (mine.status, mine.deployable["id"]) == ("running", job.id)
        mine.status = "success"
        with pytest.raises(python_gitlab.GitlabUpdateError) as refused:
            mine.save()
        assert refused.value.response_code == 403
        double.finish(job, "failed")
        assert double.project.deployments[0].status == "failed"
        with pytest.raises(python_gitlab.GitlabAuthenticationError):
            deployments.list(get_all=True)


def test_a_job_token_works_where_it_may(double: GitLab) -> None:
    job, other = double.job(double.project, double.root), double.add_project("other/shop", root=OWNER)

    def status(path: str, header: str = "JOB-TOKEN") -> int:
        value = f"Bearer {job.value}" if header == "Authorization" else job.value
        return ask(double, "GET", f"/api/v4{path}", headers={header: value}).status_code

    mine, others = f"/projects/{double.project.id}", f"/projects/{other.id}"
    assert status(f"{mine}/environments") == 200
    assert status(f"{mine}/environments", "Authorization") == 200
    assert status(f"{mine}/registry/repositories") == 200
    assert status(f"{mine}/resource_groups") == 401
    assert (status("/user"), status("/version"), status(mine)) == (401, 401, 404)
    assert (status(f"{others}/environments"), status(f"{others}/registry/repositories")) == (403, 403)
    other.job_token_allowlist.add(double.project.id)
    assert (status(f"{others}/environments"), status(f"{others}/registry/repositories")) == (200, 403)


def test_who_may_not_is_refused_as_gitlab_does(double: GitLab) -> None:
    reporter, stranger = double.user("reporter"), double.user("stranger")
    double.project.members["reporter"] = REPORTER
    for token, method, status, body in (
        ("glpat-unknown", "GET", 401, {"message": "401 Unauthorized"}),
        (double.deploy_token(double.project).value, "GET", 401, {"message": "401 Unauthorized"}),
        (double.token(stranger).value, "GET", 404, {"message": "404 Project Not Found"}),
        (double.token(reporter).value, "POST", 403, {"message": "403 Forbidden"}),
    ):
        answer = ask(double, method, f"{PROJECT}/environments", token, json={"name": "x"} if method == "POST" else None)
        assert (answer.status_code, answer.json()) == (status, body)
    assert ask(double, "GET", f"{PROJECT}/environments", headers={}).status_code == 401
    expired = ask(double, "GET", PROJECT, double.token(double.root, expired=True).value)
    assert (expired.status_code, expired.json()["error"]) == (401, "invalid_token")
    reading = double.token(double.root, "read_api").value
    assert ask(double, "GET", PROJECT, reading).status_code == 200
    scope = ask(double, "POST", f"{PROJECT}/environments", reading, json={"name": "x"})
    assert (scope.status_code, scope.json()["error"], scope.json()["scope"]) == (403, "insufficient_scope", "api")


@pytest.mark.parametrize(
    ("method", "path", "arguments", "status", "error"),
    [
        ("GET", "/api/v4/projects/root/hippo_flask", None, 404, "404 Not Found"),
        ("GET", "/api/v4/nothing", None, 404, "404 Not Found"),
        ("DELETE", f"{PROJECT}/environments", None, 405, "405 Not Allowed"),
        ("POST", f"{PROJECT}/environments", {}, 400, "name is missing"),
        ("POST", f"{PROJECT}/environments", {"name": "x", "slug": "y"}, 400, "slug is automatically generated"),
        ("POST", f"{PROJECT}/environments", {"name": 5}, 400, "name is invalid"),
        ("POST", f"{PROJECT}/environments", {"name": "x", "tier": "prod"}, 400, "tier does not have a valid value"),
        ("POST", f"{PROJECT}/environments", {"name": "x", "url": "y"}, 400, "url is unknown"),
        ("GET", f"{PROJECT}/environments/production", None, 400, "environment_id is invalid"),
        ("GET", f"{PROJECT}/environments?per_page=0", None, 400, "per_page does not have a valid value"),
        ("GET", f"{PROJECT}/environments?private_token=x", None, 400, "private_token in a URL"),
        (
            "POST",
            f"{PROJECT}/deployments",
            {"environment": "x", "ref": "main", "tag": "perhaps", "status": "done"},
            400,
            "sha is missing, tag is invalid, status does not have a valid value",
        ),
        ("GET", f"{PROJECT}/deployments?updated_after=2024-01-01T00:00:00Z", None, 400, "must be paired"),
        ("GET", f"{PROJECT}/deployments?order_by=finished_at", None, 400, "must be combined"),
        ("DELETE", f"{PROJECT}/registry/repositories/1/tags?name_regex_delete=(", None, 400, "invalid regexp"),
    ],
)
def test_what_a_right_client_never_asks_is_a_mistake(
    double: GitLab, method: str, path: str, arguments: Any, status: int, error: str
) -> None:
    answer = ask(double, method, path, json=arguments)
    said = answer.json()
    assert answer.status_code == status
    assert error in (said.get("error") or said.get("message"))
    assert len(double.mistakes) == 1
    assert path.partition("?")[0] in double.mistakes[0]
    double.mistakes.clear()


def test_lists_come_in_pages(double: GitLab, api: python_gitlab.Gitlab) -> None:
    environments = api.projects.get("root/hippo_flask", lazy=True).environments
    for number in range(25):
        environments.create({"name": f"review {number}"})
    names = {environment.name for environment in environments.list(iterator=True, per_page=10)}
    assert len(names) == 25
    first = ask(double, "GET", f"{PROJECT}/environments?per_page=10&search=review")
    assert [first.headers[name] for name in ("X-Next-Page", "X-Prev-Page", "X-Total", "X-Total-Pages")] == [
        "2", "", "25", "3",
    ]  # fmt: skip
    assert 'page=2>; rel="next"' in first.headers["Link"]
    third = ask(double, "GET", f"{PROJECT}/environments?per_page=10&page=3")
    assert (len(third.json()), third.headers["X-Next-Page"]) == (5, "")
    assert len(ask(double, "GET", f"{PROJECT}/environments").json()) == 20


def test_without_a_registry_gitlab_says_that_it_is_down(double: GitLab) -> None:
    assert granted(grant(double, ("root", double.root.password), SCOPE))
    [repository] = double.project.repositories
    answer = ask(double, "GET", f"{PROJECT}/registry/repositories/{repository.id}/tags")
    assert answer.status_code == 503
    double.project.registry_enabled = False
    assert ask(double, "GET", f"{PROJECT}/registry/repositories").status_code == 403


def test_everything_asked_is_on_record_and_every_secret_known(double: GitLab) -> None:
    token, password = double.token(double.root).value, double.root.password
    ask(double, "POST", f"{PROJECT}/environments?tier=other", token, json={"name": "production"})
    jwt = grant(double, ("root", password), SCOPE).json()["token"]
    [asked] = double.asked_of("rest", "POST", "/environments")
    assert asked == Asked(
        "rest", "POST", f"{PROJECT}/environments", {"tier": "other", "name": "production"}, "root", 201
    )
    [asked] = double.asked_of("token")
    assert (asked.who, asked.arguments["scope"], asked.status) == ("root", SCOPE, 200)
    assert {token, password, jwt, base64.b64encode(f"root:{password}".encode()).decode()} <= set(double.secrets)


# --- Faults.


def test_faults_come_as_often_as_planned_where_they_are_planned(double: GitLab) -> None:
    double.fail("rest", status=429, retry_after=7, times=2)
    double.fail("rest", status=503, method="POST")
    double.fail("token", status=502)
    for _ in range(2):
        answer = ask(double, "GET", "/api/v4/version")
        assert (answer.status_code, answer.headers["Retry-After"], answer.text) == (429, "7", "Retry later\n")
    assert ask(double, "GET", "/api/v4/version").status_code == 200
    assert ask(double, "POST", f"{PROJECT}/environments", json={"name": "x"}).status_code == 503
    assert grant(double, None).headers["Content-Type"] == "text/html"
    assert double.journal.planned() == []
    assert ask(double, "GET", f"{PROJECT}/environments").json() == []

    double.fail("rest", reset=True)
    with pytest.raises(httpx.ReadError):
        ask(double, "GET", "/api/v4/version")
    double.fail("rest", delay=5)
    with pytest.raises(httpx.ReadTimeout):
        ask(double, "GET", "/api/v4/version", timeout=httpx.Timeout(30, read=0.1))
    assert ask(double, "GET", "/api/v4/version").status_code == 200


def test_by_https_only_who_knows_the_authority_gets_an_answer(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with running(authority=authority, tls=True) as double:
        token = double.token(double.root).value
        with python_gitlab.Gitlab(double.url, private_token=token, ssl_verify=os.fspath(authority.file)) as api:
            assert api.version()[0] == double.version
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(double.url, trust_env=False)
    with running(authority=authority, tls=True, certificate_days=-1) as double:
        trusting = ssl.create_default_context(cafile=authority.file)
        with pytest.raises(httpx.ConnectError, match="certificate has expired"):
            httpx.get(double.url, trust_env=False, verify=trusting)


def test_a_double_that_breaks_says_so(double: GitLab) -> None:
    del double.project.members
    with pytest.raises(httpx.RemoteProtocolError):
        ask(double, "GET", PROJECT)
    [mistake] = double.mistakes
    assert "AttributeError" in mistake
    double.mistakes.clear()


# --- The front of the registry, before a server that says what came through to it.


class Upstream:
    """In the registry's place: keeps bodies, and answers with what it was told."""

    def __init__(self, journal: Journal) -> None:
        self.bodies: list[bytes] = []
        self.content = b"answer"
        self.server = Server(("127.0.0.1", 0), self._answer, journal)

    def _answer(self, exchange: Exchange) -> None:
        pieces = []
        try:
            for piece in exchange.body():
                pieces.append(piece)
        except Reset:
            self.bodies.append(b"".join(pieces))
            raise
        self.bodies.append(b"".join(pieces))
        exchange.reply(Asked("upstream", "", "", {}), 202, self.content, {"Host-Was": exchange.headers["Host"]})


@pytest.fixture
def journal() -> Iterator[Journal]:
    journal = Journal()
    yield journal
    assert journal.mistakes == []


@pytest.fixture
def upstream(journal: Journal) -> Iterator[Upstream]:
    upstream = Upstream(journal)
    yield upstream
    upstream.server.stop()


@pytest.fixture
def front(journal: Journal, upstream: Upstream) -> Iterator[Front]:
    front = Front(upstream.server.server_address[1], journal, ("127.0.0.1", 0))
    yield front
    front.stop()


def plan(journal: Journal, **fault: Any) -> None:
    journal.plan("registry", Fault(**fault))


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
@pytest.mark.parametrize("chunked", [True, False])
def test_the_front_passes_everything_on(front: Front, upstream: Upstream, size: int, chunked: bool) -> None:
    body = b"x" * size
    upstream.content = body
    content = (body[start : start + 100_000] for start in range(0, size, 100_000)) if chunked else body
    with client() as engine:
        for _ in range(2):
            answer = engine.patch(f"{front.url}/v2/x?a=b", content=content)
            content = body
            assert (answer.status_code, answer.content) == (202, body)
            assert answer.headers["Host-Was"] == front.netloc
        head = engine.head(f"{front.url}/v2/x")
        assert (head.status_code, head.headers["Content-Length"]) == (202, str(size))
    assert upstream.bodies == [body, body, b""]


def test_a_push_breaks_in_the_middle(front: Front, journal: Journal, upstream: Upstream) -> None:
    body = b"x" * 5_000_000
    with client() as engine:
        plan(journal, reset=True, method="PATCH", after=1_000_000)
        with pytest.raises(httpx.TransportError):
            engine.patch(front.url, content=body)
        plan(journal, status=429, retry_after=3, method="PATCH", after=2_000_000)
        answer = engine.patch(front.url, content=body)
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "3")
        assert engine.put(front.url, content=body).status_code == 202
        plan(journal, action=upstream.server.stop, after=1_000_000)
        for _ in range(2):
            assert engine.patch(front.url, content=body).status_code == 502
    eventually(lambda: len(upstream.bodies) >= 3, "the end of what was cut off")
    *cut, whole = sorted(map(len, upstream.bodies))
    assert whole == 5_000_000
    assert all(0 < size < 4_000_000 for size in cut)
    assert [asked.status for asked in journal.asked] == [0, 429, 202, 502, 502]


def test_tls_to_a_server_of_plain_http_is_answered_in_plain_http(front: Front) -> None:
    with socket.create_connection(("127.0.0.1", int(front.netloc.rpartition(":")[2])), timeout=10) as client:
        client.sendall(b"\x16\x03\x01\x00\x05hello")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
