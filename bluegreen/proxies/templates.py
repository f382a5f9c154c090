"""Config files from their templates, each stamped with a hash of what it says."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from typing import Any

STAMP = "@STAMP@"

SEAL = "# By this bluegreen tells whether a person has edited the file: sha256:"
"""How the last line of an installed file begins, before the digest of the lines above."""


def render(template: str, *, salt: str = "", **values: Any) -> str:
    """The template with these values. Where it asks for `stamp`, 12 hex digits over the text, and `salt`, stand."""
    text: str = _environment().get_template(template).render(stamp=STAMP, **values)
    return text.replace(STAMP, hashlib.sha256((salt + text).encode()).hexdigest()[:12])


@cache
def _environment() -> Any:
    """One for all files, as a run renders each of its templates several times."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bluegreen"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 -- not HTML, and the settings admit no character that a proxy would read as structure
    )
    environment.filters["ms"] = lambda seconds: f"{round(seconds * 1000)}ms"
    return environment


def stamp_of(text: str) -> str:
    """The stamp in a rendered file's first line."""
    return text.split("\n", 1)[0].rsplit(" ", 1)[-1]


def sealed(text: str) -> str:
    """The text with a last line that holds the digest of the others."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}{SEAL}{digest}\n"


def unsealed(text: str) -> str:
    """The text without its seal."""
    return re.sub(f"^{re.escape(SEAL)}.*\n?", "", text, flags=re.MULTILINE)


def seal_holds(text: str) -> bool | None:
    """Whether a file is as it was sealed; None for one without a seal."""
    return text == sealed(unsealed(text)) if SEAL in text else None
