"""bluegreen.toml as it is written: found and read, and not checked yet."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from bluegreen.errors import SettingsError

FILE = "bluegreen.toml"
VARIABLE = "BLUEGREEN_CONFIG"


class Written(NamedTuple):
    """What stands in a settings file."""

    file: Path
    """Absolute."""
    name: str
    """The file's name as it was given, for messages."""
    data: dict[str, Any]


def read(path: Path | None = None) -> Written:
    """What stands in `path`, else in the file that BLUEGREEN_CONFIG names, else in ./bluegreen.toml.

    Raises SettingsError when the file is missing or no TOML.
    """
    file = path or Path(os.environ.get(VARIABLE) or FILE)
    name = str(file) if str(file).isprintable() else repr(str(file))
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SettingsError(
            f"there is no settings file {name}",
            hint=f"write one with `bluegreen init`, or name it with -c or {VARIABLE}",
        ) from None
    except OSError as error:
        raise SettingsError(f"{name} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{name} is not TOML: not UTF-8 (at line {line})") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{name} is not TOML: {_one_line(str(error))}") from None
    except RecursionError:
        raise SettingsError(f"{name} is nested too deeply") from None
    except ValueError as error:
        # A number with thousands of digits, or a NUL in the file's own name.
        raise SettingsError(f"{name} can't be read: {_one_line(str(error))}") from None
    return Written(file.absolute(), name, data)


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
