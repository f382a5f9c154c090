"""The REST API of the double of GitLab: the routes that bluegreen may use, with GitLab's codes and bodies."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

import httpx
from gitlab_server import Asked
from gitlab_state import (
    DEVELOPER,
    GUEST,
    MAINTAINER,
    REPORTER,
    AccessToken,
    Deployment,
    Environment,
    Job,
    Project,
    Repository,
    User,
)

if TYPE_CHECKING:
    from gitlab_double import GitLab

PREFIX = "/api/v4"
TIERS = ("production", "staging", "testing", "development", "other")
STATUSES = ("created", "running", "success", "failed", "canceled", "skipped", "blocked")
FINISHED = ("success", "failed", "canceled")
EVENTS = {"running": "run", "success": "succeed", "failed": "drop", "canceled": "cancel"}
NAME = re.compile(r"(?!/)[A-Za-z0-9 _/${}.\-]+(?<!/)")
NAME_RULE = (
    "can contain only letters, digits, '-', '_', '/', '$', '{', '}', '.', and spaces, "
    "but it cannot start or end with '/'"
)


@dataclass
class Answer:
    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """Not done. A refusal that a right client never meets is a mistake too."""

    def __init__(self, status: int, body: dict[str, Any], mistake: bool = False) -> None:
        super().__init__(body)
        self.answer = Answer(body, status)
        self.mistake = mistake


def message(status: int, text: Any) -> Refused:
    return Refused(status, {"message": text})


NOT_FOUND = "404 Not found"


# --- Arguments: what turns a value as it was sent into the one that is meant, or says what is wrong with it.


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is invalid")
    return value


def integer(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"-?\d+", str(value)):
        raise ValueError("is invalid")
    return int(value)


def positive(value: Any) -> int:
    number = integer(value)
    if number < 1:
        raise ValueError("does not have a valid value")
    return number


def boolean(value: Any) -> bool:
    if str(value).lower() not in ("true", "false", "1", "0", "t", "f", "yes", "no", "y", "n", "on", "off"):
        raise ValueError("is invalid")
    return str(value).lower() in ("true", "1", "t", "yes", "y", "on")


def time(value: Any) -> datetime:
    try:
        parsed = datetime.fromisoformat(text(value))
    except ValueError:
        raise ValueError("is invalid") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def regex(value: Any) -> re.Pattern[str]:
    try:
        return re.compile(text(value))
    except re.error:
        raise ValueError("is an invalid regexp") from None


def age(value: Any) -> timedelta:
    match = re.fullmatch(r"(\d+)\s*(h|hours?|d|days?|weeks?|months?|years?)", text(value))
    if not match:
        raise ValueError("is invalid")
    hours = {"h": 1, "d": 24, "w": 168, "m": 720, "y": 8760}[match[2][0]]
    return timedelta(hours=int(match[1]) * hours)


def one_of(*allowed: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError("does not have a valid value")
        return text(value)

    return parse


# --- Routes.


@dataclass
class Call:
    """A request that may be answered."""

    gitlab: GitLab
    user: User | None
    token: AccessToken | None
    job: Job | None
    asked: Asked
    arguments: dict[str, Any]
    path: dict[str, str]
    in_project: Project | None = None

    @property
    def project(self) -> Project:
        assert self.in_project, "this route is about no project"
        return self.in_project

    def paged(self, rows: list[dict[str, Any]]) -> Answer:
        page, size = self.arguments.get("page", 1), min(self.arguments.get("per_page", 20), 100)
        pages = max(1, -(-len(rows) // size))
        numbers = {"first": 1, "last": pages}
        numbers |= {"prev": page - 1} if page > 1 else {}
        numbers |= {"next": page + 1} if page < pages else {}
        address = f"{self.gitlab.url}{self.asked.path}"
        query = {**self.asked.arguments, "per_page": size}
        links = [f'<{address}?{urlencode({**query, "page": at})}>; rel="{rel}"' for rel, at in numbers.items()]
        headers = {
            "X-Page": str(page),
            "X-Per-Page": str(size),
            "X-Next-Page": str(numbers.get("next", "")),
            "X-Prev-Page": str(numbers.get("prev", "")),
            "X-Total": str(len(rows)),
            "X-Total-Pages": str(pages),
            "Link": ", ".join(links),
        }
        return Answer(rows[(page - 1) * size : page * size], headers=headers)


@dataclass(frozen=True)
class Route:
    method: str
    words: tuple[str, ...]
    run: Callable[[Call], Answer]
    arguments: dict[str, Callable[[Any], Any]]
    role: int
    """In the project, if it is about one."""
    job: bool
    """A job's token will do."""

    @property
    def registry(self) -> bool:
        return "registry" in self.words

    def match(self, words: list[str]) -> dict[str, str] | None:
        """The values of its words that begin with a colon."""
        if len(words) != len(self.words):
            return None
        pairs = list(zip(self.words, words, strict=True))
        if any(mine != other for mine, other in pairs if not mine.startswith(":")):
            return None
        return {mine[1:]: unquote(other) for mine, other in pairs if mine.startswith(":")}


ROUTES: list[Route] = []
PAGES: dict[str, Callable[[Any], Any]] = {"page": positive, "per_page": positive}
COUNTS: dict[str, Callable[[Any], Any]] = {"tags": boolean, "tags_count": boolean}


def route(
    method: str,
    path: str,
    arguments: dict[str, Callable[[Any], Any]] | None = None,
    *,
    role: int = GUEST,
    job: bool = False,
) -> Callable[[Callable[[Call], Answer]], Callable[[Call], Answer]]:
    """The function answers this; names of arguments that must be there end in `*`."""

    def add(run: Callable[[Call], Answer]) -> Callable[[Call], Answer]:
        ROUTES.append(Route(method, tuple(path.strip("/").split("/")), run, arguments or {}, role, job))
        return run

    return add


def answer(gitlab: GitLab, asked: Asked, headers: Message, content: bytes) -> Answer:
    """What GitLab answers; what a right client would not have asked is noted."""
    try:
        return _answer(gitlab, asked, headers, content)
    except Refused as refused:
        if refused.mistake:
            gitlab.mistakes.append(f"{asked.method} {asked.path}: {json.dumps(refused.answer.body)}")
        return refused.answer


def _answer(gitlab: GitLab, asked: Asked, headers: Message, content: bytes) -> Answer:
    words = asked.path.removeprefix(PREFIX).strip("/").split("/")
    found = [(route, match) for route in ROUTES if (match := route.match(words)) is not None]
    if not asked.path.startswith(f"{PREFIX}/") or not found:
        raise Refused(404, {"error": "404 Not Found"}, mistake=True)
    right = [pair for pair in found if pair[0].method == asked.method]
    if not right:
        raise Refused(405, {"error": "405 Not Allowed"}, mistake=True)
    [(chosen, path)] = right
    call = Call(gitlab, None, None, None, asked, {}, path)
    _authenticate(call, chosen, headers)
    asked.arguments |= _body(headers, content)
    call.arguments = _arguments(chosen, asked.arguments)
    for name, value in path.items():
        if name.endswith("_id") and not value.isdigit():
            raise Refused(400, {"error": f"{name} is invalid"}, mistake=True)
    if chosen.words[0] == "projects":
        _authorize(call, chosen)
    return chosen.run(call)


def _body(headers: Message, content: bytes) -> dict[str, Any]:
    kind = headers.get("Content-Type", "").partition(";")[0]
    if not content:
        return {}
    if kind == "application/x-www-form-urlencoded":
        return dict(httpx.QueryParams(content.decode()).multi_items())
    if kind != "application/json":
        raise Refused(415, {"error": "The provided content-type is not supported."}, mistake=True)
    try:
        body = json.loads(content)
    except ValueError:
        raise Refused(400, {"error": "message body does not match declared format"}, mistake=True) from None
    if not isinstance(body, dict):
        raise Refused(400, {"error": "message body does not match declared format"}, mistake=True)
    return body


def _arguments(route: Route, given: dict[str, Any]) -> dict[str, Any]:
    known = {name.rstrip("*"): parse for name, parse in route.arguments.items()}
    needed = [name.rstrip("*") for name in route.arguments if name.endswith("*")]
    wrong = [f"{name} is missing" for name in needed if name not in given]
    parsed: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            wrong.append(f"{name} is unknown")
        elif value is None:
            parsed[name] = None
        else:
            try:
                parsed[name] = known[name](value)
            except ValueError as error:
                wrong.append(f"{name} {error}")
    if wrong:
        raise Refused(400, {"error": ", ".join(wrong)}, mistake=True)
    return parsed


def _authenticate(call: Call, route: Route, headers: Message) -> None:
    """Who asks. An unknown credential is refused; a job's, where none is taken, counts as nobody's."""
    gitlab = call.gitlab
    for name in ("private_token", "job_token", "access_token"):
        if name in call.asked.arguments:
            call.asked.arguments[name] = "…"
            raise Refused(400, {"error": f"{name} in a URL: it lands in access logs"}, mistake=True)
    bearer = headers.get("Authorization", "")
    value = headers.get("PRIVATE-TOKEN") or (bearer[7:] if bearer.startswith("Bearer ") else "")
    job_value = headers.get("JOB-TOKEN") or (value if "PRIVATE-TOKEN" not in headers else "")
    job = next((job for job in gitlab.jobs if job.value == job_value), None)
    token = next((token for token in gitlab.access_tokens if token.value == value), None)
    if job:
        call.asked.who = "gitlab-ci-token"
        if not job.running:
            raise message(401, "401 Unauthorized")
        if route.job:
            call.job, call.user = job, job.user
    elif token:
        call.asked.who = token.user.username
        if not gitlab.valid(token):
            words = "Token was revoked. You have to re-authorize from the user."
            if not token.revoked:
                words = "Token is expired. You can either do re-authorization or token refresh."
            raise Refused(401, {"error": "invalid_token", "error_description": words})
        call.token, call.user = token, token.user
        _check_scope(call, route)
    elif value or job_value or bearer:
        raise message(401, "401 Unauthorized")
    if not call.user and not (route.words == ("projects", ":id") and route.method == "GET"):
        raise message(401, "401 Unauthorized")


def _check_scope(call: Call, route: Route) -> None:
    assert call.token
    enough = {"api"} | ({"read_api"} if route.method == "GET" else set())
    if route.words[0] in ("user", "version"):
        enough.add("read_user")
    if call.token.scopes & enough or route.words[0] == "personal_access_tokens":
        return
    words = "The request requires higher privileges than provided by the access token."
    raise Refused(403, {"error": "insufficient_scope", "error_description": words, "scope": " ".join(sorted(enough))})


def _authorize(call: Call, route: Route) -> None:
    """May this one do that in the project?"""
    key = call.path["id"]
    project = next((p for p in call.gitlab.projects if key in (str(p.id), p.path)), None)
    role = project.role(call.user) if project else 0
    job = call.job
    if (
        job
        and project
        and job.project is not project
        and (route.registry or job.project.id not in project.job_token_allowlist or not role)
    ):
        raise message(403, "403 Forbidden")
    if not project or not (role or project.public):
        raise message(404, "404 Project Not Found")
    reading = route.method == "GET" and route.role <= REPORTER and project.public
    if role < route.role and not reading:
        raise message(403, "403 Forbidden")
    if route.registry and not project.registry_enabled:
        raise message(403, "403 Forbidden")
    call.in_project = project


# --- The server, the user, the project.


@route("GET", "/version")
def _version(call: Call) -> Answer:
    return Answer({"version": call.gitlab.version, "revision": "0123456789a"})


@route("GET", "/user")
def _user(call: Call) -> Answer:
    assert call.user
    return Answer({**_show_user(call, call.user), "created_at": stamp(call.gitlab.started), "is_admin": False})


@route("GET", "/personal_access_tokens/self")
def _token_self(call: Call) -> Answer:
    assert call.token
    token = call.token
    return Answer(
        {
            "id": token.id,
            "name": f"token {token.id}",
            "revoked": token.revoked,
            "created_at": stamp(token.created_at),
            "description": None,
            "scopes": sorted(token.scopes),
            "user_id": token.user.id,
            "last_used_at": stamp(call.gitlab.now()),
            "active": True,
            "expires_at": token.expires_at.date().isoformat(),
        }
    )


@route("GET", "/projects/:id", {"statistics": boolean, "license": boolean, "with_custom_attributes": boolean})
def _project(call: Call) -> Answer:
    project = call.project
    shown = {
        **_show_project(call, project),
        "visibility": "public" if project.public else "private",
        "default_branch": "main",
        "archived": False,
        "container_registry_enabled": project.registry_enabled,
        "container_registry_access_level": "enabled" if project.registry_enabled else "disabled",
        "container_expiration_policy": {
            **project.expiration_policy,
            "next_run_at": stamp(call.gitlab.now() + timedelta(days=1)),
        },
    }
    if call.user:
        role = project.role(call.user)
        shown["permissions"] = {
            "project_access": {"access_level": role, "notification_level": 3} if role else None,
            "group_access": None,
        }
    if project.registry_enabled and call.gitlab.registry:
        shown["container_registry_image_prefix"] = f"{call.gitlab.registry_server}/{project.path.lower()}"
    return Answer(shown)


def stamp(when: datetime | None) -> str | None:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z" if when else None


def _show_user(call: Call, user: User) -> dict[str, Any]:
    return {
        "id": user.id,
        "username": user.username,
        "name": user.username.title(),
        "state": "active",
        "avatar_url": None,
        "web_url": f"{call.gitlab.url}/{user.username}",
    }


def _show_project(call: Call, project: Project) -> dict[str, Any]:
    return {
        "id": project.id,
        "description": None,
        "name": project.path.rpartition("/")[2],
        "name_with_namespace": project.path.replace("/", " / "),
        "path": project.path.rpartition("/")[2],
        "path_with_namespace": project.path,
        "created_at": stamp(call.gitlab.started),
        "web_url": f"{call.gitlab.url}/{project.path}",
    }


# --- Environments.

WRITABLE: dict[str, Callable[[Any], Any]] = {
    "external_url": text,
    "tier": one_of(*TIERS),
    "description": text,
    "auto_stop_setting": one_of("always", "with_action"),
}
SLUG = "slug is automatically generated and cannot be changed"


@route(
    "GET",
    "/projects/:id/environments",
    {**PAGES, "name": text, "search": text, "states": one_of("available", "stopping", "stopped")},
    role=REPORTER,
    job=True,
)
def _environments(call: Call) -> Answer:
    wanted = call.arguments
    if "name" in wanted and "search" in wanted:
        raise Refused(400, {"error": "name, search are mutually exclusive"}, mistake=True)
    if len(wanted.get("search", "long")) < 3:
        raise message(400, "400 Bad request - Search query is less than 3 characters")
    rows = [
        {**_show_environment(environment), "project": _show_project(call, call.project)}
        for environment in call.project.environments
        if wanted.get("name", environment.name) == environment.name
        and wanted.get("search", "").lower() in environment.name.lower()
        and wanted.get("states", environment.state) == environment.state
    ]
    return call.paged(rows)


@route("POST", "/projects/:id/environments", {"name*": text, "slug": text, **WRITABLE}, role=DEVELOPER, job=True)
def _create_environment(call: Call) -> Answer:
    if "slug" in call.arguments:
        raise Refused(400, {"error": SLUG}, mistake=True)
    name = call.arguments.pop("name")
    if any(environment.name == name for environment in call.project.environments):
        taken = ["has already been taken"]
        raise message(400, {"name": taken, "slug": taken})
    _check_environment(name, call.arguments)
    environment = environment_named(call.gitlab, call.project, name)
    _write(call, environment)
    return Answer({**_show_environment(environment), "project": _show_project(call, call.project)}, 201)


@route("GET", "/projects/:id/environments/:environment_id", role=REPORTER, job=True)
def _environment(call: Call) -> Answer:
    environment = _found_environment(call)
    last = call.project.deployed(environment)
    shown = _show_deployment(call, last) if last else None
    if shown:
        del shown["environment"]
    return Answer({**_show_environment(environment), "last_deployment": shown, "cluster_agent": None})


@route("PUT", "/projects/:id/environments/:environment_id", {"slug": text, **WRITABLE}, role=DEVELOPER, job=True)
def _change_environment(call: Call) -> Answer:
    environment = _found_environment(call)
    if "slug" in call.arguments:
        raise Refused(400, {"error": SLUG}, mistake=True)
    _check_environment(environment.name, call.arguments)
    _write(call, environment)
    return Answer({**_show_environment(environment), "project": _show_project(call, call.project)})


@route("POST", "/projects/:id/environments/stop_stale", {"before*": time}, role=MAINTAINER, job=True)
def _stop_stale(call: Call) -> Answer:
    now, before = call.gitlab.now(), call.arguments["before"]
    if not now - timedelta(days=3650) <= before <= now - timedelta(days=7):
        raise message(400, "400 Bad request - Invalid Date")
    for environment in call.project.environments:
        if environment.updated_at < before:
            environment.state = "stopped"
    return Answer({"message": "Successfully requested stop for all stale environments"})


@route("POST", "/projects/:id/environments/:environment_id/stop", {"force": boolean}, role=DEVELOPER, job=True)
def _stop_environment(call: Call) -> Answer:
    environment = _found_environment(call)
    runs = environment.on_stop and not call.arguments.get("force")
    environment.state = "stopping" if runs else "stopped"
    environment.updated_at = call.gitlab.now()
    return Answer({**_show_environment(environment), "project": _show_project(call, call.project)})


@route("DELETE", "/projects/:id/environments/:environment_id", role=DEVELOPER, job=True)
def _delete_environment(call: Call) -> Answer:
    environment = _found_environment(call)
    if environment.state != "stopped":
        raise message(403, "403 Forbidden")
    call.project.environments.remove(environment)
    call.project.deployments[:] = [d for d in call.project.deployments if d.environment is not environment]
    return Answer(None, 204)


def _found_environment(call: Call) -> Environment:
    wanted = int(call.path["environment_id"])
    for environment in call.project.environments:
        if environment.id == wanted:
            return environment
    raise message(404, NOT_FOUND)


def _check_environment(name: str, arguments: dict[str, Any]) -> None:
    wrong: dict[str, list[str]] = {}
    if not name:
        wrong["name"] = ["can't be blank"]
    elif len(name) > 255:
        wrong["name"] = ["is too long (maximum is 255 characters)"]
    elif not NAME.fullmatch(name):
        wrong["name"] = [NAME_RULE]
    url = arguments.get("external_url")
    if url and not re.match(r"https?://[^\s/]+", url):
        wrong["external_url"] = ["is blocked: Only allowed schemes are http, https"]
    if wrong:
        raise message(400, wrong)


def _write(call: Call, environment: Environment) -> None:
    for name, value in call.arguments.items():
        setattr(environment, name, value)
    environment.updated_at = call.gitlab.now()


def environment_named(gitlab: GitLab, project: Project, name: str) -> Environment:
    """The environment, made if there was none."""
    for environment in project.environments:
        if environment.name == name:
            return environment
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if slug != name or len(slug) > 24:
        slug = f"{slug[:17].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    environment = Environment(next(gitlab.ids), name, slug, _tier(name), gitlab.now(), gitlab.now())
    project.environments.append(environment)
    return environment


def _tier(name: str) -> str:
    """What GitLab takes an environment for by its name."""
    guesses = {
        "development": r"dev|review|trunk",
        "testing": r"test|tst|int|ac(ce|)pt|qa|qc|control|quality",
        "staging": r"st(a|)g|mod(e|)l|pre|demo|non",
        "production": r"pr(o|)d|live",
    }
    return next((tier for tier, words in guesses.items() if re.search(words, name, re.IGNORECASE)), "other")


def _show_environment(environment: Environment) -> dict[str, Any]:
    return {
        "id": environment.id,
        "name": environment.name,
        "slug": environment.slug,
        "external_url": environment.external_url,
        "description": environment.description,
        "state": environment.state,
        "tier": environment.tier,
        "created_at": stamp(environment.created_at),
        "updated_at": stamp(environment.updated_at),
        "auto_stop_at": None,
        "auto_stop_setting": environment.auto_stop_setting,
        "kubernetes_namespace": None,
        "flux_resource_path": None,
    }


# --- Deployments.

ORDERS = ("id", "iid", "created_at", "updated_at", "finished_at", "ref")


@route(
    "GET",
    "/projects/:id/deployments",
    {
        **PAGES,
        "environment": text,
        "status": one_of(*STATUSES),
        "order_by": one_of(*ORDERS),
        "sort": one_of("asc", "desc"),
        "updated_after": time,
        "updated_before": time,
        "finished_after": time,
        "finished_before": time,
    },
    role=REPORTER,
    job=True,
)
def _deployments(call: Call) -> Answer:
    wanted = call.arguments
    order, status = wanted.get("order_by", "id"), wanted.get("status")
    updated = {"updated_after", "updated_before"} & set(wanted)
    finished = {"finished_after", "finished_before"} & set(wanted)
    reason = ""
    if updated and finished:
        reason = "Both `updated_at` filter and `finished_at` filter can not be specified"
    elif updated and order != "updated_at":
        reason = "`updated_at` filter and `updated_at` sorting must be paired"
    elif finished and (order != "finished_at" or status != "success"):
        reason = "`finished_at` filter must be combined with `success` status filter and `finished_at` sorting."
    elif order == "finished_at" and not finished and status not in FINISHED:
        reason = "`finished_at` sorting must be combined with `finished_at` filters or a finished status filter."
    if reason:
        raise Refused(400, {"message": f"400 Bad request - {reason}"}, mistake=True)

    def wants(deployment: Deployment) -> bool:
        when = deployment.finished_at if finished else deployment.updated_at
        after = wanted.get("finished_after") or wanted.get("updated_after")
        before = wanted.get("finished_before") or wanted.get("updated_before")
        return (
            wanted.get("environment", deployment.environment.name) == deployment.environment.name
            and status in (None, deployment.status)
            and not (after and (when is None or when < after))
            and not (before and (when is None or when > before))
        )

    rows = [deployment for deployment in call.project.deployments if wants(deployment)]
    rows.sort(key=lambda deployment: (getattr(deployment, order), deployment.id), reverse=wanted.get("sort") == "desc")
    return call.paged([_show_deployment(call, deployment) for deployment in rows])


@route(
    "POST",
    "/projects/:id/deployments",
    {"environment*": text, "sha*": text, "ref*": text, "tag*": boolean, "status*": one_of(*EVENTS)},
    role=DEVELOPER,
    job=True,
)
def _create_deployment(call: Call) -> Answer:
    assert call.user
    wanted, project = call.arguments, call.project
    wrong = {}
    if wanted["sha"] not in project.commits:
        wrong["sha"] = ["The commit does not exist"]
    if wanted["ref"] not in (project.tags if wanted["tag"] else project.branches):
        wrong["ref"] = ["The branch or tag does not exist"]
    if wrong:
        raise message(400, wrong)
    _check_environment(wanted["environment"], {})
    environment = environment_named(call.gitlab, project, wanted.pop("environment"))
    return Answer(_show_deployment(call, add_deployment(call.gitlab, project, environment, call.user, **wanted)), 201)


@route("GET", "/projects/:id/deployments/:deployment_id", role=REPORTER, job=True)
def _deployment(call: Call) -> Answer:
    return Answer(_show_deployment(call, _found_deployment(call)))


@route("PUT", "/projects/:id/deployments/:deployment_id", {"status*": one_of(*EVENTS)}, role=DEVELOPER, job=True)
def _change_deployment(call: Call) -> Answer:
    deployment = _found_deployment(call)
    if deployment.job:
        raise message(403, "403 Forbidden")
    change_status(call.gitlab, call.project, deployment, call.arguments["status"])
    return Answer(_show_deployment(call, deployment))


@route("DELETE", "/projects/:id/deployments/:deployment_id", role=MAINTAINER, job=True)
def _delete_deployment(call: Call) -> Answer:
    deployment = _found_deployment(call)
    if deployment.status == "running":
        raise message(400, "400 Bad request - Cannot destroy running deployment")
    if call.project.deployed(deployment.environment) is deployment:
        raise message(400, "400 Bad request - Deployment currently deployed to environment")
    call.project.deployments.remove(deployment)
    return Answer(None, 204)


@route("GET", "/projects/:id/deployments/:deployment_id/merge_requests", PAGES, role=REPORTER, job=True)
def _merge_requests(call: Call) -> Answer:
    _found_deployment(call)
    return call.paged([])


def _found_deployment(call: Call) -> Deployment:
    wanted = int(call.path["deployment_id"])
    for deployment in call.project.deployments:
        if deployment.id == wanted:
            return deployment
    raise message(404, NOT_FOUND)


def add_deployment(
    gitlab: GitLab,
    project: Project,
    environment: Environment,
    user: User,
    *,
    ref: str,
    sha: str,
    tag: bool,
    status: str,
) -> Deployment:
    iid = max((deployment.iid for deployment in project.deployments), default=0) + 1
    now = gitlab.now()
    deployment = Deployment(next(gitlab.ids), iid, environment, ref, sha, tag, "created", user, now, now)
    project.deployments.append(deployment)
    change_status(gitlab, project, deployment, status)
    return deployment


def change_status(gitlab: GitLab, project: Project, deployment: Deployment, status: str) -> None:
    """As GitLab's machine of states lets it."""
    allowed = deployment.status in ("created", "blocked") if status == "running" else deployment.status != status
    if not allowed:
        raise message(400, {"status": [f'cannot transition via "{EVENTS[status]}"']})
    deployment.status = status
    deployment.updated_at = gitlab.now()
    deployment.finished_at = deployment.updated_at if status in FINISHED else None
    if status == "success":
        deployment.environment.state = "available"


def _show_deployment(call: Call, deployment: Deployment) -> dict[str, Any]:
    environment = deployment.environment
    deployable = None
    if deployment.job:
        deployable = {
            "id": deployment.job,
            "name": "deploy",
            "stage": "deploy",
            "status": deployment.status,
            "ref": deployment.ref,
            "tag": deployment.tag,
            "web_url": f"{call.gitlab.url}/{call.project.path}/-/jobs/{deployment.job}",
            "commit": {"id": deployment.sha, "short_id": deployment.sha[:8]},
            "pipeline": {"id": deployment.job, "ref": deployment.ref, "sha": deployment.sha},
            "user": _show_user(call, deployment.user),
        }
    return {
        "id": deployment.id,
        "iid": deployment.iid,
        "ref": deployment.ref,
        "sha": deployment.sha,
        "status": deployment.status,
        "created_at": stamp(deployment.created_at),
        "updated_at": stamp(deployment.updated_at),
        "user": _show_user(call, deployment.user),
        "environment": {
            "id": environment.id,
            "name": environment.name,
            "slug": environment.slug,
            "external_url": environment.external_url,
            "created_at": stamp(environment.created_at),
            "updated_at": stamp(environment.updated_at),
        },
        "deployable": deployable,
    }


# --- The container registry.

BULK: dict[str, Callable[[Any], Any]] = {
    "name_regex_delete": regex,
    "name_regex": regex,
    "name_regex_keep": regex,
    "keep_n": integer,
    "older_than": age,
}
HOURLY = "This request has already been made. You can run this at most once an hour for a given container repository"
REPOSITORIES = "/projects/:id/registry/repositories"


@route("GET", REPOSITORIES, {**PAGES, **COUNTS}, role=REPORTER, job=True)
def _repositories(call: Call) -> Answer:
    return call.paged([_show_repository(call, repository) for repository in call.project.repositories])


@route("GET", "/registry/repositories/:repository_id", {**COUNTS, "size": boolean})
def _repository(call: Call) -> Answer:
    for project in call.gitlab.projects:
        for repository in project.repositories:
            if repository.id == int(call.path["repository_id"]):
                if project.role(call.user) < REPORTER and not project.public:
                    raise message(403, "403 Forbidden")
                call.in_project = project
                return Answer(_show_repository(call, repository))
    raise message(404, NOT_FOUND)


@route("DELETE", f"{REPOSITORIES}/:repository_id", role=MAINTAINER, job=True)
def _delete_repository(call: Call) -> Answer:
    repository, project, registry = _found_repository(call), call.project, _registry(call)
    repository.status = "delete_scheduled"

    def delete() -> None:
        for tag in registry.tags(repository.path):
            registry.untag(repository.path, tag)
        project.repositories.remove(repository)

    call.gitlab.do_later(delete)
    return Answer(202, 202)


@route(
    "GET",
    f"{REPOSITORIES}/:repository_id/tags",
    {**PAGES, "pagination": text, "sort": text, "last": text},
    role=REPORTER,
    job=True,
)
def _tags(call: Call) -> Answer:
    repository = _found_repository(call)
    if call.arguments.get("pagination") == "keyset":
        raise message(405, "405 Method Not Allowed")
    return call.paged([_show_tag(call, repository, tag) for tag in _registry(call).tags(repository.path)])


@route("GET", f"{REPOSITORIES}/:repository_id/tags/:tag_name", role=REPORTER, job=True)
def _tag(call: Call) -> Answer:
    repository, tag = _found_repository(call), call.path["tag_name"]
    details = _registry(call).details(repository.path, tag)
    if not details:
        raise message(404, "404 Tag Not Found")
    return Answer(
        {
            **_show_tag(call, repository, tag),
            "revision": details.revision,
            "short_revision": details.revision[:9] if details.revision else None,
            "digest": details.digest,
            "created_at": _registry_stamp(details.created),
            "total_size": details.size,
        }
    )


@route("DELETE", f"{REPOSITORIES}/:repository_id/tags/:tag_name", role=DEVELOPER, job=True)
def _delete_tag(call: Call) -> Answer:
    repository, tag = _found_repository(call), call.path["tag_name"]
    if tag in call.project.protected_tags:
        raise message(403, "403 Forbidden")
    if tag not in _registry(call).tags(repository.path):
        raise message(404, "404 Tag Not Found")
    _registry(call).untag(repository.path, tag)
    return Answer(200)


@route("DELETE", f"{REPOSITORIES}/:repository_id/tags", BULK, role=MAINTAINER, job=True)
def _delete_tags(call: Call) -> Answer:
    wanted, registry, now = call.arguments, _registry(call), call.gitlab.now()
    pattern = wanted.get("name_regex_delete") or wanted.get("name_regex")
    if not pattern:
        missing = "name_regex_delete, name_regex are missing, at least one parameter must be provided"
        raise Refused(400, {"error": missing}, mistake=True)
    repository = _found_repository(call)
    if repository.swept_at and now - repository.swept_at < timedelta(hours=1):
        raise message(400, HOURLY)
    repository.swept_at = now
    kept = {"latest", *call.project.protected_tags}

    def delete() -> None:
        found = {}
        for tag in registry.tags(repository.path):
            keep = wanted.get("name_regex_keep")
            if tag not in kept and pattern.fullmatch(tag) and not (keep and keep.fullmatch(tag)):
                found[tag] = registry.details(repository.path, tag)
        newest = sorted(found, key=lambda tag: found[tag].created or "", reverse=True)
        for tag in newest[wanted.get("keep_n") or 0 :]:
            created = found[tag].created
            if "older_than" in wanted and (not created or _moment(created) > now - wanted["older_than"]):
                continue
            registry.untag(repository.path, tag)

    call.gitlab.do_later(delete)
    return Answer(202, 202)


def _found_repository(call: Call) -> Repository:
    for repository in call.project.repositories:
        if repository.id == int(call.path["repository_id"]):
            return repository
    raise message(404, NOT_FOUND)


def _registry(call: Call) -> Any:
    """The registry itself, if it is up."""
    registry = call.gitlab.registry
    if not registry or not registry.answers():
        raise message(503, "503 Service Unavailable - Container registry is not available")
    return registry


def _show_repository(call: Call, repository: Repository) -> dict[str, Any]:
    shown = {
        "id": repository.id,
        "name": repository.name,
        "path": repository.path,
        "project_id": call.project.id,
        "location": f"{call.gitlab.registry_server}/{repository.path}",
        "created_at": stamp(repository.created_at),
        "cleanup_policy_started_at": stamp(repository.swept_at),
        "status": repository.status,
    }
    if call.arguments.get("tags") or call.arguments.get("tags_count"):
        tags = _registry(call).tags(repository.path)
        shown["tags_count"] = len(tags)
        if call.arguments.get("tags"):
            shown["tags"] = [_show_tag(call, repository, tag) for tag in tags]
    if call.arguments.get("size"):
        found = [_registry(call).details(repository.path, tag) for tag in _registry(call).tags(repository.path)]
        shown["size"] = sum(details.size or 0 for details in found if details)
    return shown


def _show_tag(call: Call, repository: Repository, tag: str) -> dict[str, Any]:
    path = f"{repository.path}:{tag}"
    return {"name": tag, "path": path, "location": f"{call.gitlab.registry_server}/{path}"}


def _moment(created: str) -> datetime:
    """Docker gives nanoseconds, or no fraction at all."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", created))


def _registry_stamp(created: str | None) -> str | None:
    return stamp(_moment(created)) if created else None


# --- CI/CD variables, to be read only.


@route("GET", "/projects/:id/variables", PAGES, role=MAINTAINER)
def _variables(call: Call) -> Answer:
    rows = [
        {
            "variable_type": "env_var",
            "key": variable.key,
            "value": None if variable.hidden else variable.value,
            "protected": False,
            "masked": variable.masked or variable.hidden,
            "hidden": variable.hidden,
            "raw": False,
            "environment_scope": variable.environment_scope,
            "description": None,
        }
        for variable in call.project.variables
    ]
    return call.paged(rows)


# --- Resource groups, to be read only.


@route("GET", "/projects/:id/resource_groups", PAGES, role=REPORTER)
def _resource_groups(call: Call) -> Answer:
    return call.paged([_show_group(call, key) for key in call.project.resource_groups])


@route("GET", "/projects/:id/resource_groups/:key", role=REPORTER)
def _resource_group(call: Call) -> Answer:
    return Answer(_show_group(call, call.path["key"]))


@route("GET", "/projects/:id/resource_groups/:key/upcoming_jobs", PAGES, role=REPORTER)
def _upcoming_jobs(call: Call) -> Answer:
    _show_group(call, call.path["key"])
    return call.paged([])


def _show_group(call: Call, key: str) -> dict[str, Any]:
    groups = call.project.resource_groups
    if key not in groups:
        raise message(404, NOT_FOUND)
    return {
        "id": list(groups).index(key) + 1,
        "key": key,
        "process_mode": groups[key],
        "created_at": stamp(call.gitlab.started),
        "updated_at": stamp(call.gitlab.started),
    }
