"""What a release may be called."""

from __future__ import annotations

import re

from bluegreen.errors import UsageError
from bluegreen.words import shown

TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
"""The tag of an image."""


def check_release_name(name: str) -> str:
    """`name`, if it can be the tag of an image. Raises UsageError for anything else."""
    if not TAG.fullmatch(name):
        raise UsageError(
            f"{shown(name)} can't be the name of a release",
            hint="it becomes the image's tag: at most 128 of a-z, A-Z, 0-9 and `_.-`, no `.` or `-` first",
        )
    return name
