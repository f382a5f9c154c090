"""[image] and [registry]: what a release's image is built from, what it is called, and what it goes through."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from bluegreen.names import TAG
from bluegreen.settings.values import Identifier, Table, Text, Value, authority, matching
from bluegreen.words import shown

_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")


def repository_name(value: str) -> str:
    first, slash, rest = value.partition("/")
    registry = bool(slash) and (first == "localhost" or "." in first or ":" in first)
    path = rest if registry else value
    if ":" in path or "@" in path:
        raise ValueError(f"{shown(value)} must be without a tag or digest: the release is the tag")
    if value != value.lower():
        raise ValueError(f"{shown(value)} must be in lower case")
    if registry:
        try:
            authority(first)
        except ValueError:
            path = ""
    if len(value) > 255 or not _REPOSITORY.fullmatch(path) or re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError(f'{shown(value)} is not an image repository such as "shop" or "example.com:5000/shop"')
    return value


def _registry_server(value: str) -> str:
    if value != value.lower():
        raise ValueError(f"{shown(value)} must be in lower case")
    first, _, _ = value.partition(":")
    if "." not in value and ":" not in value and first != "localhost":
        raise ValueError(f'{shown(value)} is not a registry such as "gitlab.example.com:8001"')
    return authority(value)


def _repository_path(value: str) -> str:
    if len(value) > 200 or not _REPOSITORY.fullmatch(value):
        raise ValueError(f'{shown(value)} is not a repository in a registry, such as "root/hippo_flask"')
    return value


def image_reference(value: str) -> str:
    name, _, digest = value.partition("@")
    # A colon after the last slash begins the tag; one before it, a registry's port.
    cut = name.find(":", name.rfind("/") + 1)
    name, tag = (name[:cut], name[cut + 1 :]) if cut >= 0 else (name, "latest")
    try:
        repository_name(name)
        valid = bool(TAG.fullmatch(tag)) and ("@" not in value or bool(re.fullmatch(r"sha256:[0-9a-f]{64}", digest)))
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f'{shown(value)} is not an image such as "nginx:stable"')
    return value


def _argument_name(value: str) -> str:
    if value == "RELEASE":
        raise ValueError("is always given: it is the release that is built")
    return value


Image = Annotated[str, AfterValidator(image_reference)]


class ImageTable(Table):
    """How the image of a release is built."""

    context: Text = Field(default=".", description="The directory that is built, relative to this file.")
    dockerfile: Text = Field(default="Dockerfile", description="The Dockerfile, relative to the context.")
    repository: Annotated[str, AfterValidator(repository_name)] = Field(
        default="",
        description="The image's repository, in lower case, with a registry or without;"
        " the tag is the release. Default: the service's name.",
    )
    args: dict[Annotated[Identifier, AfterValidator(_argument_name)], Value] = Field(
        default_factory=dict, repr=False, description="Build arguments. RELEASE is always given beside these."
    )
    target: Annotated[str, matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", "a build stage")] | None = Field(
        default=None, description="The stage of the Dockerfile that is built. Default: the last."
    )


class RegistryTable(Table):
    """The registry that the image goes through, such as GitLab's."""

    server: Annotated[str, AfterValidator(_registry_server)] = Field(
        default="", validate_default=False, description="Where it is: host or host:port, in lower case. Default: none."
    )
    repository: Annotated[str, AfterValidator(_repository_path)] = Field(
        default="", validate_default=False, description="The repository in it. Default: image.repository."
    )
    credentials: Text = Field(
        default="",
        validate_default=False,
        description="A file, relative to this one and for its owner alone, with one line: USER:PASSWORD.",
    )
