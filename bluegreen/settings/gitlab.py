"""[gitlab]: where deployments are recorded."""

from typing import Annotated

from pydantic import Field

from bluegreen.settings.values import Table, Text, Url, matching

_ENVIRONMENT = r"[A-Za-z0-9_.-](?:[A-Za-z0-9_. /-]{0,253}[A-Za-z0-9_.-])?"


class GitLabTable(Table):
    """The GitLab project that deployments are recorded in."""

    url: Url = Field(
        default="", validate_default=False, description="GitLab's address. Default: CI_SERVER_URL in a job, else none."
    )
    project: Annotated[str, matching(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", "a project")] = Field(
        default="", validate_default=False, description="The project's path or number. Default: CI_PROJECT_ID in a job."
    )
    environment: Annotated[str, matching(_ENVIRONMENT, "an environment's name, such as production")] = Field(
        default="production", description="The environment that deployments go to."
    )
    token: Text = Field(
        default="",
        validate_default=False,
        description="A file, relative to this one and for its owner alone, with an access token of scope api.",
    )
    ca: Text = Field(
        default="", validate_default=False, description="A private authority that GitLab's certificate is from."
    )
