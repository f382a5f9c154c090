"""[notify]: who is told how a run ended."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from bluegreen.errors import SettingsError
from bluegreen.settings.values import LIST, URL_PATH, Table, authority, distinct


def _secret_url(value: str) -> str:
    """An address that may hold a secret, and so is never shown."""
    match = re.fullmatch(r"https?://([^/?]*)(/.*)?", value)
    try:
        if not match or len(value) > 2000 or not URL_PATH.fullmatch(match[2] or "/"):
            raise ValueError
        authority(match[1])
    except ValueError:
        raise ValueError('is not an address such as "https://chat.example.com/hooks/abc"') from None
    return value


def check_secret_url(value: str, name: str) -> str:
    """`value`, which the variable `name` has. Raises SettingsError, which does not show it, if it is no address."""
    try:
        return _secret_url(value)
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from None


class NotifyTable(Table):
    """Who is told how a run ended."""

    webhook: Annotated[str, AfterValidator(_secret_url)] = Field(
        default="", validate_default=False, repr=False, description="An address to which JSON is posted."
    )
    slack: Annotated[str, AfterValidator(_secret_url)] = Field(
        default="",
        validate_default=False,
        repr=False,
        description="An incoming webhook of Slack, or of a chat that takes the same, such as Mattermost.",
    )
    on: Annotated[tuple[Literal["done", "undone", "failed"], ...], LIST, AfterValidator(distinct)] = Field(
        default=("done", "undone", "failed"), description="Which ends they are told of."
    )
