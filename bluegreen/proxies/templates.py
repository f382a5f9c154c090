"""Config files from their templates, each stamped with a hash of what it says."""

from __future__ import annotations

import hashlib
from typing import Any

STAMP = "@STAMP@"


def render(template: str, *, salt: str = "", **values: Any) -> str:
    """The template with these values. Where it asks for `stamp`, 12 hex digits over the text, and `salt`, stand."""
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
    text = environment.get_template(template).render(stamp=STAMP, **values)
    return text.replace(STAMP, hashlib.sha256((salt + text).encode()).hexdigest()[:12])


def stamp_of(text: str) -> str:
    """The stamp in a rendered file's first line."""
    return text.split("\n", 1)[0].rsplit(" ", 1)[-1]
