"""Text as a person may see it."""

from __future__ import annotations

import re

# C0 and C1 controls but newline and tab, and the escape sequences that terminals act on, whole.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_SHOWN = 40


def plain(text: str) -> str:
    """The text without anything that a terminal would act on."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def indent(text: str, by: str = "  ") -> str:
    return "\n".join(by + line for line in text.splitlines())


def shown(value: object) -> str:
    """`value` on one line, with escapes for what does not print, cut at 40 characters."""
    if isinstance(value, str):
        text = repr(value[: _SHOWN + 1])
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, int):
        text = str(value) if abs(value) < 10**_SHOWN else "a huge number"
    else:
        text = str(value) if isinstance(value, float) else type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def cause(error: BaseException) -> str:
    """Why a call over a network failed, on one line: what the system said of it, not what libraries made of that."""
    found, each = "", error
    for _ in range(10):
        found = (each.strerror if isinstance(each, OSError) else "") or found
        below = each.__cause__ or each.__context__
        if below is None:
            break
        each = below
    return (found or str(error) or type(error).__name__).splitlines()[0]
