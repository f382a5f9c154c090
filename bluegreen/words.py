"""Text as a person may see it."""

from __future__ import annotations

import re

# C0 and C1 controls but newline and tab, and the escape sequences that terminals act on, whole.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """The text without anything that a terminal would act on."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def indent(text: str, by: str = "  ") -> str:
    return "\n".join(by + line for line in text.splitlines())
