"""bluegreen.toml itself: reading it, writing a first one, and its schema for editors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bluegreen.errors import SettingsError, UsageError
from bluegreen.settings.problems import problem
from bluegreen.settings.values import SERVICE
from bluegreen.settings.whole import Settings
from bluegreen.words import shown
from bluegreen.written import FILE, Written, read

_TEMPLATE = Path(__file__).parents[1] / "templates" / FILE


def load(path: Path | None = None) -> Settings:
    """The settings in `path`, else where `read` finds them.

    Raises SettingsError, with every problem in its message, when the file is missing, broken or asks for what
    can't be.
    """
    return check(read(path))


def check(written: Written) -> Settings:
    """The settings that stand in a file. Raises SettingsError, with every problem in its message."""
    settings = parse(written.data, root=written.file.parent, name=written.name)
    settings._file = written.file
    return settings


def parse(data: Mapping[str, Any], *, root: Path | None = None, name: str = FILE) -> Settings:
    """The settings in `data`, as TOML gives them. Raises SettingsError, with every problem in its message."""
    try:
        settings = Settings.model_validate(dict(data))
    except ValidationError as error:
        problems = [problem(found) for found in error.errors(include_url=False)]
    except RecursionError:
        raise SettingsError(f"{name} is nested too deeply") from None
    else:
        settings._root = root or Path()
        return settings
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise SettingsError("\n  ".join([f"{name} has {count}:", *problems]))


def example(service: str) -> str:
    """The commented settings file that `bluegreen init` writes. Raises UsageError for an impossible name."""
    if not SERVICE.fullmatch(service):
        raise UsageError(
            f"{shown(service)} can't be the name of a service",
            hint="use a-z, 0-9, `_` and `-`, at most 41, with a letter or digit first",
        )
    return _TEMPLATE.read_text(encoding="utf-8").replace("SERVICE", service)


def schema() -> dict[str, Any]:
    """The JSON Schema of the settings file, for editors."""
    found = _without_null(Settings.model_json_schema())
    assert isinstance(found, dict)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": FILE}


def _without_null(part: object) -> object:
    """`part` of a schema without what TOML has not: null, and defaults that stand for something computed."""
    if isinstance(part, list):
        return [_without_null(item) for item in part if item != {"type": "null"}]
    if not isinstance(part, dict):
        return part
    kept = {key: _without_null(value) for key, value in part.items() if key != "default" or value not in (None, "")}
    match kept.get("anyOf"):
        case [dict(only)]:
            del kept["anyOf"]
            kept = {**only, **kept}
    return kept
