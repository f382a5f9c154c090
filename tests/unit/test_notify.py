"""Webhooks: what they are told, and that an address, which may be a secret, is never shown."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from fakes import quick_settings

from bluegreen import notify
from bluegreen.errors import Failed, SettingsError
from bluegreen.model import Colour, Plan, Release
from bluegreen.receipt import receipt as make_receipt

PLAN = Plan("deploy", Release("v2", "sha256:2"), Colour.GREEN, "shop:v2", Colour.BLUE, Release("v1"), (), 2)


def receipt_of(result: str = "done", reason: str = "", **changes: Any) -> dict[str, Any]:
    made = make_receipt("shop", "20240501-120000-abcd", PLAN, result, [], reason=reason, proxy={"url": "http://shop"})
    return {**made, "seconds": 12.4, "who": "ann@laptop, process 7", "witness": True, **changes}


class Hook(BaseHTTPRequestHandler):
    """Remembers what is posted."""

    posted: list[tuple[str, str, Any]]
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posted.append((self.path, self.headers["Content-Type"], json.loads(body)))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[type[Hook]]:
    kind = type("AHook", (Hook,), {"posted": []})
    with HTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        kind.url = f"http://127.0.0.1:{server.server_port}"
        yield kind
        server.shutdown()
        thread.join()


def tell(hooks: dict[str, str], receipt: dict[str, Any], **table: Any) -> None:
    for listener in notify.listeners(hooks, quick_settings(notify=table), receipt).values():
        listener()


def test_a_webhook_gets_the_run_as_json_and_slack_the_words(hook: Any) -> None:
    tell({"webhook": f"{hook.url}/a?b=c", "slack": f"{hook.url}/s"}, receipt_of("undone", "v2 <!here> & so\nlog"))
    (path, kind, body), (_, _, slack) = sorted(hook.posted)
    assert (path, kind) == ("/a?b=c", "application/json")
    text = "shop: deploy v1 → v2 undone in 12 s, 0 of 0 requests failed, by ann@laptop, process 7: v2 <!here> & so"
    assert body == {
        "service": "shop",
        "run": "20240501-120000-abcd",
        "action": "deploy",
        "from": "v1",
        "to": "v2",
        "result": "undone",
        "reason": "v2 <!here> & so\nlog",
        "started": None,
        "seconds": 12.4,
        "who": "ann@laptop, process 7",
        "requests": 0,
        "failed": 0,
        "digest": "sha256:2",
        "url": "http://shop",
        "text": text,
    }
    assert slack == {"text": "↩️ " + text.replace("&", "&amp;").replace("<!here>", "&lt;!here&gt;")}


def test_only_the_ends_that_are_asked_for_are_told(hook: Any) -> None:
    for result in ("done", "undone", "failed"):
        tell({"slack": hook.url}, receipt_of(result), on=["failed"])
    [(_, _, body)] = hook.posted
    assert body["text"].startswith("❌ shop: deploy v1 → v2 failed")
    tell({"slack": hook.url}, receipt_of("unchanged"))
    assert len(hook.posted) == 1


def test_what_goes_wrong_is_said_without_the_address(hook: Any) -> None:
    hook.status = 410
    with pytest.raises(Failed, match=r"^it answered 410$"):
        tell({"slack": hook.url}, receipt_of())
    with pytest.raises(Failed) as caught:
        tell({"webhook": "http://127.0.0.1:9/secret"}, receipt_of())
    assert "Connection refused" in caught.value.message
    assert "secret" not in caught.value.message


def test_a_variable_comes_before_the_setting() -> None:
    settings = quick_settings(notify={"webhook": "https://a.test/1", "slack": "https://b.test/2?x=y"})
    assert notify.find(settings, {}) == {"webhook": "https://a.test/1", "slack": "https://b.test/2?x=y"}
    given = {"BLUEGREEN_SLACK": "https://c.test/3", "BLUEGREEN_WEBHOOK": ""}
    assert notify.find(settings, given)["slack"] == "https://c.test/3"
    assert notify.find(quick_settings(), {}) == {}
    with pytest.raises(SettingsError, match=r"^BLUEGREEN_SLACK: is not an address") as caught:
        notify.find(settings, {"BLUEGREEN_SLACK": "hooks.test/secret"})
    assert "secret" not in caught.value.message
    assert "b.test" not in repr(settings)
