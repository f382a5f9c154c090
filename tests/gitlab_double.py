"""A double of GitLab: its users, tokens, projects and jobs, its token endpoint for the registry, its REST API (in
gitlab_rest.py) and a real registry. It knows no more than the tests need, and forgives nothing: what a client asks
wrongly is in `mistakes`."""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import docker
import gitlab_rest
import httpx
from certificates import NOW, Authority
from gitlab_registry import SERVICE, Front, Registry, Signer, container_name
from gitlab_server import Asked, Exchange, Fault, Journal, Server, server_tls, to_json
from gitlab_state import (
    DEVELOPER,
    MAINTAINER,
    OWNER,
    REPORTER,
    AccessToken,
    Credential,
    DeployToken,
    Job,
    Project,
    Repository,
    User,
)

DENIED = (
    "HTTP Basic: Access denied. If a password was provided for Git authentication, the password was incorrect or "
    "you're required to use a token instead of a password. If a token was provided, it was either incorrect, expired, "
    "or improperly scoped."
)
_numbers = itertools.count(1)


class GitLab:
    """The double. `root` owns the project `root/hippo_flask`, whose branch `main` has one commit.

    Without an engine it has no registry, and says of it what GitLab says of one that is down.
    """

    def __init__(
        self,
        engine: docker.DockerClient | None = None,
        *,
        container_port: int = 0,
        port: int = 0,
        address: str = "127.0.0.1",
        authority: Authority | None = None,
        tls: bool = False,
        registry_tls: bool | None = None,
        certificate_days: float = 90,
        version: str = "18.5.1",
    ) -> None:
        """Listens on `address`, by https if `tls`, with a certificate of `authority` that has so many days left (fewer
        than none: it has expired). The registry is reached on `port`, by https if `registry_tls`, which is as `tls` if
        it is not given; its container is published on `container_port`."""
        self.version = version
        self.journal = Journal()
        self.lock = threading.RLock()
        self.started = datetime.now(UTC)
        self.clock = timedelta()
        """How far GitLab's clock is ahead."""
        self.registry_token_seconds: float = 300
        """How long the registry's tokens are good: negative ones have expired."""
        self.registry_enabled = True
        self.later = 0.2
        """Seconds until work is done that is not done at once."""
        self.users: dict[str, User] = {}
        self.projects: list[Project] = []
        self.access_tokens: list[AccessToken] = []
        self.deploy_tokens: list[DeployToken] = []
        self.jobs: list[Job] = []
        self.ids = itertools.count(1)
        self._timers: list[threading.Timer] = []
        self._signer = Signer()
        self.ca: Path | None = None
        """The certificate of the authority that clients must trust."""
        registry_tls = tls if registry_tls is None else registry_tls
        context = None
        if tls or registry_tls:
            assert authority, "TLS needs an authority"
            self.ca = authority.file
            start, end = NOW - timedelta(days=365), NOW + timedelta(days=certificate_days)
            context = server_tls(*authority.pair("gitlab-double", address, start=start, end=end))
        self.registry: Registry | None = None
        self._front: Front | None = None
        self._server = Server((address, 0), self._answer, self.journal, context if tls else None)
        self.url = f"{self._server.scheme}://{self._server.netloc}"
        try:
            if engine:
                realm, name = f"{self.url}/jwt/auth", container_name(next(_numbers))
                self.registry = Registry(engine, self._signer, realm, container_port, name)
                self._front = Front(container_port, self.journal, (address, port), context if registry_tls else None)
        except BaseException:
            self.stop()
            raise
        self.root = self.user("root")
        self.project = self.add_project("root/hippo_flask", root=OWNER)

    def stop(self) -> None:
        """Nothing of it is left, but what an engine has pulled or was told to push."""
        for timer in self._timers:
            timer.cancel()
            timer.join(10)
        if self._front:
            self._front.stop()
        self._server.stop()
        if self.registry:
            self.registry.remove()

    # --- What is in it.

    def user(self, username: str, *, two_factor: bool = False) -> User:
        """A user, who has no role in any project yet."""
        user = User(next(self.ids), username, self._secret("pass-"), two_factor)
        self.users[username] = user
        return user

    def add_project(self, path: str, *, public: bool = False, **members: int) -> Project:
        """A project, with the roles of its members by user name."""
        project = Project(next(self.ids), path, public, members, {"main": secrets.token_hex(20)})
        self.projects.append(project)
        return project

    def token(self, user: User, *scopes: str, expired: bool = False) -> AccessToken:
        """A personal access token, of the scope `api` if none is named."""
        now = self.now()
        token = AccessToken(
            next(self.ids),
            self._secret("glpat-"),
            user,
            frozenset(scopes or ["api"]),
            now - timedelta(days=60),
            now + timedelta(days=-1 if expired else 30),
        )
        self.access_tokens.append(token)
        return token

    def deploy_token(self, project: Project, *scopes: str, expired: bool = False) -> DeployToken:
        """A deploy token, of the scopes `read_registry` and `write_registry` if none is named."""
        token = DeployToken(
            self._secret("gldt-"),
            f"gitlab+deploy-token-{next(self.ids)}",
            project,
            frozenset(scopes or ["read_registry", "write_registry"]),
            self.now() + timedelta(days=-1 if expired else 30),
        )
        self.deploy_tokens.append(token)
        return token

    def job(self, project: Project, user: User, environment: str = "", ref: str = "main") -> Job:
        """A job that has been started; GitLab itself records the deployment to its environment."""
        with self.lock:
            job = Job(next(self.ids), self._secret("glcbt-64_"), project, user, None)
            if environment:
                target = gitlab_rest.environment_named(self, project, environment)
                job.deployment = gitlab_rest.add_deployment(
                    self, project, target, user, ref=ref, sha=project.branches[ref], tag=False, status="running"
                )
                job.deployment.job = job.id
            self.jobs.append(job)
            return job

    def finish(self, job: Job, status: str = "success") -> None:
        """The job has ended, and with it its token and its deployment."""
        with self.lock:
            job.running = False
            if job.deployment:
                gitlab_rest.change_status(self, job.project, job.deployment, status)

    def variables(self, job: Job) -> dict[str, str]:
        """What a job finds in its environment, as far as it is about GitLab."""
        project, ref = job.project, job.deployment.ref if job.deployment else "main"
        sha = project.branches[ref]
        variables = {
            "CI": "true",
            "GITLAB_CI": "true",
            "CI_API_V4_URL": f"{self.url}/api/v4",
            "CI_SERVER_URL": self.url,
            "CI_SERVER_VERSION": self.version,
            "CI_PROJECT_ID": str(project.id),
            "CI_PROJECT_PATH": project.path,
            "CI_PROJECT_NAME": project.path.rpartition("/")[2],
            "CI_PROJECT_NAMESPACE": project.path.rpartition("/")[0],
            "CI_PROJECT_URL": f"{self.url}/{project.path}",
            "CI_DEFAULT_BRANCH": "main",
            "CI_COMMIT_SHA": sha,
            "CI_COMMIT_SHORT_SHA": sha[:8],
            "CI_COMMIT_REF_NAME": ref,
            "CI_COMMIT_REF_SLUG": ref,
            "CI_COMMIT_BRANCH": ref,
            "CI_JOB_ID": str(job.id),
            "CI_JOB_TOKEN": job.value,
            "CI_JOB_URL": f"{self.url}/{project.path}/-/jobs/{job.id}",
            "GITLAB_USER_LOGIN": job.user.username,
            "GITLAB_USER_ID": str(job.user.id),
        }
        if self._front and project.registry_enabled:
            variables |= {
                "CI_REGISTRY": self._front.netloc,
                "CI_REGISTRY_IMAGE": f"{self._front.netloc}/{project.path.lower()}",
                "CI_REGISTRY_USER": "gitlab-ci-token",
                "CI_REGISTRY_PASSWORD": job.value,
            }
        if job.deployment:
            target = job.deployment.environment
            variables |= {
                "CI_ENVIRONMENT_NAME": target.name,
                "CI_ENVIRONMENT_SLUG": target.slug,
                "CI_ENVIRONMENT_TIER": target.tier,
                "CI_ENVIRONMENT_ACTION": "start",
                "CI_ENVIRONMENT_ID": str(target.id),
            }
        if self.ca:
            variables["CI_SERVER_TLS_CA_FILE"] = str(self.ca)
        return variables

    # --- What tests look at.

    @property
    def registry_server(self) -> str:
        """`host:port`, with which names of images begin."""
        assert self._front, "this double has no registry"
        return self._front.netloc

    @property
    def registry_url(self) -> str:
        assert self._front, "this double has no registry"
        return self._front.url

    @property
    def image(self) -> str:
        """The project's own image, without a tag."""
        return f"{self.registry_server}/{self.project.path.lower()}"

    @property
    def asked(self) -> list[Asked]:
        return self.journal.asked

    def asked_of(self, server: str, method: str = "", path: str = "") -> list[Asked]:
        """The requests to `token`, `rest` or `registry` with this method, in whose path this occurs."""
        return [a for a in self.asked if a.server == server and method in ("", a.method) and path in a.path]

    @property
    def mistakes(self) -> list[str]:
        return self.journal.mistakes

    @property
    def secrets(self) -> list[str]:
        """Every password and token, the registry's own included, and what headers made of them."""
        return sorted(self.journal.secrets)

    def fail(self, server: str, **fault: Any) -> Fault:
        """The next answers of `token`, `rest` or `registry` go wrong as a Fault says."""
        assert server in ("token", "rest", "registry"), server
        planned = Fault(**fault)
        self.journal.plan(server, planned)
        return planned

    # --- How it answers.

    def now(self) -> datetime:
        return datetime.now(UTC) + self.clock

    def do_later(self, work: Any) -> None:
        def locked() -> None:
            with self.lock:
                work()

        timer = threading.Timer(self.later, locked)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def project_of(self, path: str) -> tuple[Project, str] | None:
        """The project in whose part of the registry a path is, and what is left of the path."""
        for project in sorted(self.projects, key=lambda project: len(project.path), reverse=True):
            mine = project.path.lower()
            if path == mine or path.startswith(f"{mine}/"):
                return project, path[len(mine) + 1 :]
        return None

    def valid(self, token: AccessToken | DeployToken) -> bool:
        return not token.revoked and self.now() < token.expires_at

    def _secret(self, prefix: str) -> str:
        value = prefix + secrets.token_urlsafe(18)
        self.journal.secrets.add(value)
        return value

    def _answer(self, exchange: Exchange) -> None:
        path, _, query = exchange.path.partition("?")
        server = "token" if path == "/jwt/auth" else "rest"
        asked = self.journal.note(Asked(server, exchange.command, path, _single(query)))
        content = b"".join(exchange.body())
        fault = self.journal.strike(asked)
        if fault and exchange.suffer(asked, fault):
            return
        headers = {"Content-Type": "application/json", "Date": format_datetime(self.now(), usegmt=True)}
        if server == "token":
            with self.lock:
                status, body = self._grant(exchange, asked, httpx.QueryParams(query).get_list("scope"))
            exchange.reply(asked, status, to_json(body) if body is not None else b"", headers)
            return
        with self.lock:
            answer = gitlab_rest.answer(self, asked, exchange.headers, content)
        exchange.reply(
            asked, answer.status, b"" if answer.status == 204 else to_json(answer.body), {**headers, **answer.headers}
        )

    # --- The registry's tokens.

    def _grant(self, exchange: Exchange, asked: Asked, scopes: list[str]) -> tuple[int, Any]:
        if asked.method != "GET":
            self.mistakes.append(f"{asked.method} /jwt/auth: only GET is answered")
            return 404, {"error": "404 Not Found"}
        unknown = set(asked.arguments) - {"service", "account", "client_id", "offline_token", "scope"}
        if unknown:
            self.mistakes.append(f"GET /jwt/auth: unknown arguments {sorted(unknown)}")
            return 400, {"error": f"{', '.join(sorted(unknown))} is unknown"}
        if asked.arguments.get("service") != SERVICE:
            self.mistakes.append(f"GET /jwt/auth: no such service: {asked.arguments.get('service')}")
            return 404, None
        who: Credential | None = None
        if header := exchange.headers.get("Authorization"):
            name, password = self.journal.basic(header) or ("", "")
            asked.who = name or "nobody"
            who = self._login(name, password)
            if not who:
                return 401, {"errors": [{"code": "UNAUTHORIZED", "message": DENIED}]}
        if not self.registry_enabled:
            return 404, _error(404, "UNAVAILABLE", "registry not enabled")
        if isinstance(who, AccessToken | DeployToken) and not who.scopes & {"api", "read_registry", "write_registry"}:
            return 403, _error(403, "DENIED", "access forbidden")
        access = [entry for text in scopes for scope in text.split(" ") if (entry := self._granted(who, scope))]
        if not who and not access:
            return 403, _error(403, "DENIED", "access forbidden")
        kind = {User: "gitlab_or_ldap", AccessToken: "personal_access_token", DeployToken: "deploy_token", Job: "build"}
        token = self._signer.token(
            asked.who if who else "",
            access,
            now=self.now().timestamp(),
            seconds=self.registry_token_seconds,
            auth_type=kind.get(type(who), "none"),
        )
        self.journal.secrets.add(token)
        return 200, {"token": token}

    def _login(self, name: str, password: str) -> Credential | None:
        """Who it is, if the password is right."""
        if name == "gitlab-ci-token":
            return next((job for job in self.jobs if job.running and job.value == password), None)
        user = self.users.get(name)
        if user and user.password == password and not user.two_factor:
            return user
        for token in self.access_tokens:
            if token.value == password and self.valid(token):
                return token
        for deploy in self.deploy_tokens:
            if (deploy.username, deploy.value) == (name, password) and self.valid(deploy):
                return deploy
        return None

    def _granted(self, who: Credential | None, scope: str) -> dict[str, Any] | None:
        """What of a scope this one may do; None if that is nothing."""
        match = re.fullmatch(r"(repository|registry):([^:]+):([a-z*,]+)", scope)
        if not match or set(match[3].split(",")) - {"pull", "push", "delete", "*"}:
            self.mistakes.append(f"GET /jwt/auth: a scope that is none: {scope!r}")
            return None
        found = self.project_of(match[2])
        if match[1] != "repository" or not found:
            return None
        project, name = found
        allowed = self._allowed(who, project)
        actions = [action for action in match[3].split(",") if action in allowed]
        if not actions:
            return None
        if "push" in actions and match[2] not in {repository.path for repository in project.repositories}:
            project.repositories.append(Repository(next(self.ids), name, match[2], self.now()))
        meta = {"project_path": project.path.lower(), "project_id": project.id}
        return {"type": "repository", "name": match[2], "actions": actions, "meta": meta}

    def _allowed(self, who: Credential | None, project: Project) -> set[str]:
        if not project.registry_enabled:
            return set()
        public = {"pull"} if project.public else set()
        if isinstance(who, DeployToken):
            mine = {"read_registry": {"pull"}, "write_registry": {"push"}}
            granted = set[str]().union(*(mine.get(scope, set()) for scope in who.scopes))
            return public | (granted if who.project is project else set())
        if isinstance(who, Job):
            if who.project is project:
                return public | _by_role(project.role(who.user))
            listed = who.project.id in project.job_token_allowlist
            return public | (_by_role(project.role(who.user)) & {"pull"} if listed else set())
        if isinstance(who, AccessToken):
            mine = {"read_registry": {"pull"}, "write_registry": {"push"}, "api": {"pull", "push", "delete", "*"}}
            granted = set[str]().union(*(mine.get(scope, set()) for scope in who.scopes))
            return public | (granted & _by_role(project.role(who.user)))
        return public | _by_role(project.role(who))


def _by_role(role: int) -> set[str]:
    roles = {"pull": REPORTER, "push": DEVELOPER, "delete": MAINTAINER, "*": MAINTAINER}
    return {action for action, needed in roles.items() if role >= needed}


def _error(status: int, code: str, message: str) -> dict[str, Any]:
    return {"errors": [{"code": code, "message": message}], "http_status": status}


def _single(query: str) -> dict[str, Any]:
    """The arguments of a query, those given more than once as lists."""
    values = httpx.QueryParams(query)
    return {name: many[0] if len(many := values.get_list(name)) == 1 else many for name in values}


@contextlib.contextmanager
def running(*arguments: Any, **options: Any) -> Iterator[GitLab]:
    """A double for as long as it is needed."""
    double = GitLab(*arguments, **options)
    try:
        yield double
    finally:
        double.stop()
