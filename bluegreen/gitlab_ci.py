"""The pipeline that deploys with GitLab CI: one template, as a project's own file, to include, and as a component.

How a component project is laid out and what `spec: inputs:` may hold is in GitLab's "CI/CD components" and "CI/CD
inputs"; the keywords are those of its CI/CD YAML reference.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

from bluegreen.proxies import templates

FILE = ".gitlab-ci.yml"

Form = Literal["file", "include", "component"]
"""A project's own `.gitlab-ci.yml`, a file for `include:`, or a component, whose inputs are filled in by GitLab."""

PUBLISHED: dict[str, Form] = {
    "bluegreen.gitlab-ci.yml": "include",
    "templates/bluegreen/template.yml": "component",
}
"""The files below `ci/`, laid out as in a component project, each with its form."""

INPUTS = {
    "prefix": ("", "What the names of the jobs begin with, so that one pipeline can have the component twice."),
    "build-stage": ("build", "The stage in which the image is built."),
    "deploy-stage": ("deploy", "The stage of the other jobs."),
    "environment": ("production", "The name of GitLab's environment; jobs of one environment queue."),
    "url": ("http://127.0.0.1:8080", "Where users reach the service; GitLab shows it as a link."),
    "release": ("$CI_COMMIT_SHORT_SHA", "The name of the release. It must be another one for every commit."),
    "config": ("bluegreen.toml", "The settings file."),
    "package": ("", "What pip installs where no bluegreen is: a version of your own index, git+https://..., a wheel."),
    "image": ("python:3.13", "The image of the jobs, for runners that use Docker."),
}
"""The inputs of the component: the default of each, with which the other two forms are written, and what it means."""


def render(form: Form, **inputs: str) -> str:
    """The pipeline in this form, ending with a newline; `inputs` replace the defaults of INPUTS.

    With the inputs at the same values, GitLab makes the same jobs of all three forms.
    """
    values = {name: inputs.get(name, default) for name, (default, _) in INPUTS.items()}

    def value(name: str) -> str:
        """The value of an input as a YAML scalar."""
        return json.dumps(f"$[[ inputs.{name} ]]" if form == "component" else values[name])

    def job(name: str, before: str = "") -> str:
        """The name of a job as a YAML scalar."""
        prefix = "$[[ inputs.prefix ]]" if form == "component" else values["prefix"]
        full = f"{before}{prefix}{name}"
        return json.dumps(full) if "$" in full else full

    spec = {name: (json.dumps(values[name]), words) for name, (_, words) in INPUTS.items()}
    return templates.render("gitlab-ci.yml.j2", form=form, value=value, job=job, spec=spec)


def publish(directory: Path) -> None:
    """The files of PUBLISHED are below the directory, as this version renders them."""
    for name, form in PUBLISHED.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(form), encoding="utf-8")


if __name__ == "__main__":
    publish(Path(sys.argv[1]))
