"""Webhooks that are told how a run ended: one that takes JSON, and one as Slack has them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from bluegreen.errors import Failed
from bluegreen.history import summary
from bluegreen.settings import Settings, check_secret_url

TIMEOUT = 4.0
"""Seconds that a webhook may take for each part of its answer."""

VARIABLES = {"webhook": "BLUEGREEN_WEBHOOK", "slack": "BLUEGREEN_SLACK"}
"""Environment variables, each of which comes before the setting."""

MARKS = {"done": "✅", "undone": "↩️", "failed": "❌"}


def find(settings: Settings, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The addresses of the webhooks that there are, by their kind. Raises SettingsError if a variable has none."""
    found = {"webhook": settings.notify.webhook, "slack": settings.notify.slack}
    given = {kind: check_secret_url(environ[name], name) for kind, name in VARIABLES.items() if environ.get(name)}
    return {kind: url for kind, url in (found | given).items() if url}


def listeners(
    hooks: Mapping[str, str], settings: Settings, receipt: Mapping[str, Any]
) -> dict[str, Callable[[], None]]:
    """What is to be called when a run has ended so: nothing if nobody wants to know."""
    if receipt["result"] not in settings.notify.on:
        return {}
    return {kind: partial(_post, url, BODIES[kind](receipt)) for kind, url in hooks.items()}


def as_json(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """What a webhook is sent: the run in numbers, and in words as `text`."""
    return {
        "service": receipt["service"],
        **summary(receipt),
        "digest": receipt["digest"],
        "url": receipt["proxy"]["url"] if receipt["proxy"] else None,
        "text": _text(receipt),
    }


def as_slack(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """The words alone, in which nothing is a link or a mention."""
    words = _text(receipt).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": f"{MARKS[receipt['result']]} {words}"}


BODIES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"webhook": as_json, "slack": as_slack}


def _text(receipt: Mapping[str, Any]) -> str:
    requests = receipt["requests"]
    what = f"{receipt['service']}: {receipt['action']} {receipt['from'] or 'nothing'} → {receipt['to']}"
    took = "" if receipt["seconds"] is None else f" in {receipt['seconds']:.0f} s"
    saw = f", {requests['failed']} of {requests['total']} requests failed" if receipt["witness"] else ""
    why = receipt["reason"].partition("\n")[0][:300]
    return f"{what} {receipt['result']}{took}{saw}, by {receipt['who']}" + (f": {why}" if why else "")


def _post(url: str, body: dict[str, Any]) -> None:
    """The webhook has taken it. Raises Failed, without the address, which may be a secret."""
    import httpx

    try:
        answer = httpx.post(url, json=body, timeout=TIMEOUT)
    except httpx.TimeoutException:
        raise Failed(f"no answer within {TIMEOUT:g} s") from None
    except httpx.HTTPError as error:
        raise Failed(f"{type(error).__name__}: {error}".replace(url, "its address")) from None
    if not answer.is_success:
        raise Failed(f"it answered {answer.status_code}")
