"""What the double of GitLab knows: users, tokens, projects, environments, deployments and what is in the registry."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

GUEST, REPORTER, DEVELOPER, MAINTAINER, OWNER = 10, 20, 30, 40, 50


@dataclass
class User:
    id: int
    username: str
    password: str
    two_factor: bool = False
    """The password alone is not enough for the registry."""


@dataclass
class AccessToken:
    """A personal, project or group access token."""

    id: int
    value: str
    user: User
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime
    revoked: bool = False


@dataclass
class DeployToken:
    value: str
    username: str
    project: Project
    scopes: frozenset[str]
    expires_at: datetime
    revoked: bool = False


@dataclass
class Job:
    """A CI job and its token, which is good while it runs."""

    id: int
    value: str
    project: Project
    user: User
    deployment: Deployment | None
    running: bool = True


@dataclass
class Environment:
    id: int
    name: str
    slug: str
    tier: str
    created_at: datetime
    updated_at: datetime
    external_url: str | None = None
    description: str | None = None
    auto_stop_setting: str = "always"
    state: str = "available"
    on_stop: bool = False
    """Has a job that stops it."""


@dataclass
class Deployment:
    id: int
    iid: int
    environment: Environment
    ref: str
    sha: str
    tag: bool
    status: str
    user: User
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
    job: int | None = None
    """The id of the CI job whose record it is."""


@dataclass
class Repository:
    """A path in the registry to which a push was allowed once."""

    id: int
    name: str
    path: str
    created_at: datetime
    status: str | None = None
    swept_at: datetime | None = None
    """When tags were last deleted by a pattern."""


@dataclass
class Variable:
    """A CI/CD variable of a project."""

    key: str
    value: str
    environment_scope: str = "*"
    masked: bool = False
    hidden: bool = False
    """Masked, and shown to nobody any more."""


@dataclass
class Project:
    id: int
    path: str
    public: bool
    members: dict[str, int]
    """Roles by user name."""
    branches: dict[str, str]
    """Commits by name."""
    tags: dict[str, str] = field(default_factory=dict)
    environments: list[Environment] = field(default_factory=list)
    deployments: list[Deployment] = field(default_factory=list)
    repositories: list[Repository] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    resource_groups: dict[str, str] = field(default_factory=dict)
    """Process modes by key."""
    job_token_allowlist: set[int] = field(default_factory=set)
    protected_tags: set[str] = field(default_factory=set)
    registry_enabled: bool = True
    expiration_policy: dict[str, Any] = field(
        default_factory=lambda: {
            "cadence": "1d",
            "enabled": False,
            "keep_n": 10,
            "older_than": "90d",
            "name_regex": ".*",
            "name_regex_keep": None,
        }
    )

    @property
    def commits(self) -> set[str]:
        return {*self.branches.values(), *self.tags.values()}

    def role(self, user: User | None) -> int:
        return self.members.get(user.username, 0) if user else 0

    def deployed(self, environment: Environment) -> Deployment | None:
        """The last successful deployment to an environment."""
        found = [d for d in self.deployments if d.environment is environment and d.status == "success"]
        return max(found, key=lambda d: (d.finished_at, d.id)) if found else None


Credential = User | AccessToken | DeployToken | Job
