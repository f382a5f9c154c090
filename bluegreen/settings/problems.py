"""What is wrong, in words: each problem with its path, and what may have been meant."""

from __future__ import annotations

import re
from typing import Any, get_args, get_origin

from pydantic_core import ErrorDetails

from bluegreen.settings.values import Table
from bluegreen.settings.whole import Settings
from bluegreen.words import shown
from bluegreen.written import FILE

_SECRET = (
    *(("app", "env"), ("app", "secrets"), ("image", "args")),
    *(("notify", "webhook"), ("notify", "slack"), ("vip", "auth_pass")),
)
"""Tables whose values are never shown in a message."""


def problem(found: ErrorDetails) -> str:
    """What pydantic found, on a line of its own for each key: `path: words`."""
    where: tuple[int | str, ...] = found["loc"]
    context = found.get("ctx", {})
    if where and where[-1] == "[key]":
        where = where[:-1]
    if "key" in context:
        where = (*where, context["key"])
    kind = found["type"]
    if kind == "missing" and (table := _table(where)):
        needed = [key for key, field in table.model_fields.items() if field.is_required()]
        return "\n  ".join(f"{dotted((*where, key))}: is missing" for key in needed)
    return f"{dotted(where)}: {_words(kind, where, found, context)}"


_KINDS = {
    "missing": "is missing",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def _words(kind: str, where: tuple[int | str, ...], found: ErrorDetails, context: dict[str, Any]) -> str:
    if kind == "extra_forbidden":
        return f"is not known{_suggestion(where)}"
    if kind == "value_error":
        return str(context["error"])
    if kind not in _KINDS:
        return found["msg"]
    words = _KINDS[kind].format(**context)
    if kind == "missing" or any(where[: len(table)] == table for table in _SECRET):
        return words
    return f"{words}, not {shown(found['input'])}"


def _suggestion(where: tuple[int | str, ...]) -> str:
    import difflib  # only an unknown key needs it

    *parents, key = where
    table = _table(tuple(parents))
    known = [field.alias or name for name, field in table.model_fields.items()] if table else []
    # What another table has under this very name is meant, rather than what only looks like it.
    elsewhere = any((other := _table((name,))) and key in other.model_fields for name in Settings.model_fields)
    close = [] if elsewhere else difflib.get_close_matches(str(key)[:100], known, n=1)
    if close:
        return f"; did you mean {dotted((*parents, close[0]))}?"
    for name in Settings.model_fields:
        other = _table((name,))
        if other and key in other.model_fields:
            return f"; did you mean {name}.{key}?"
    return ""


def _table(where: tuple[int | str, ...]) -> type[Table] | None:
    """The table at this path, if there is one."""
    table: type[Table] = Settings
    keys = iter(where)
    for key in keys:
        if isinstance(key, int):
            continue
        field = table.model_fields.get(key)
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Table)), None)
        if inner is None:
            return None
        table = inner
        if field and get_origin(field.annotation) is dict:
            next(keys, None)  # a name that is the file's own
    return table


def dotted(where: tuple[int | str, ...]) -> str:
    """The path as in TOML: `app.volumes[0]`, and what is no bare key in quotes."""
    text = ""
    for key in where:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += "." * bool(text) + (key if re.fullmatch(r"[A-Za-z0-9_-]{1,100}", key) else shown(key))
    return text or FILE
