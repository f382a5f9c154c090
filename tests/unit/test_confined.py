"""Who containers run as, and what a person is told when an app can't live with what it may not do."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import quick_settings

from bluegreen.doctor import loosenings
from bluegreen.runtimes.confined import NOBODY, confined, is_root, loosened_by, unprivileged


class Engine:
    """An engine with one image."""

    def __init__(self, user: str | None) -> None:
        self.api = self
        self._user = user

    def inspect_image(self, image: str) -> dict[str, Any]:
        return {"Config": None if self._user is None else {"User": self._user}}


@pytest.mark.parametrize(
    ("wanted", "own", "expected"),
    [
        (None, "", NOBODY),
        (None, None, NOBODY),
        (None, "root", NOBODY),
        (None, "0:0", NOBODY),
        (None, "root:app", NOBODY),
        (None, "app", "app"),
        (None, "10001:10001", "10001:10001"),
        ("root", "app", "root"),
        ("1000", "", "1000"),
    ],
)
def test_nobody_is_root_who_is_not_meant_to_be(wanted: str | None, own: str | None, expected: str) -> None:
    assert unprivileged(Engine(own), "shop:v1", wanted) == expected


@pytest.mark.parametrize(
    ("user", "expected"),
    [("", True), ("root", True), ("0", True), ("00:5", True), ("root:app", True), ("app", False), ("10:0", False)],
)
def test_root_is_known_by_name_and_number(user: str, expected: bool) -> None:
    assert is_root(user) is expected


def test_without_a_word_a_container_may_do_nothing_special() -> None:
    found = confined()
    assert (found["cap_drop"], found["cap_add"]) == (["ALL"], [])
    assert found["security_opt"] == ["no-new-privileges"]
    assert found["read_only"] is True


@pytest.mark.parametrize(
    ("words", "app", "hint"),
    [
        ("OSError: [Errno 30] Read-only file system: '/app/x'", {}, "app.tmpfs"),
        ("Error: EROFS: read-only file system, open '/app/x'", {}, "app.read_only = false"),
        ("PermissionError: [Errno 13] Permission denied: '/data'", {}, f"or {NOBODY} instead of root"),
        ("PermissionError: [Errno 13] Permission denied: '/data'", {"user": "app"}, "runs as app"),
        ("chown: /data: Operation not permitted", {"user": "root"}, "app.cap_add"),
        ("RuntimeError: can't start new thread", {}, "raise app.pids_limit"),
        ("Read-only file system", {"read_only": False}, ""),
        ("can't start new thread", {"pids_limit": 0}, ""),
        ("KeyError: 'DATABASE_URL'", {}, ""),
        ("", {}, ""),
    ],
)
def test_last_words_that_tell_of_the_confinement_name_the_setting(words: str, app: dict[str, Any], hint: str) -> None:
    found = loosened_by(words, quick_settings(app=app).app)
    assert hint in found
    assert bool(found) == bool(hint)


def test_what_is_loosened_is_listed_and_nothing_else() -> None:
    assert loosenings(quick_settings()) == []
    app = {"user": "root", "read_only": False, "cap_add": ["NET_RAW"], "no_new_privileges": False, "pids_limit": 0}
    app["volumes"] = ["/run/docker.sock:/run/docker.sock", "data:/data"]
    proxy = {"user": "root", "read_only": False}
    found = loosenings(quick_settings(app=app, proxy=proxy))
    assert [each.partition(":")[0] for each in found] == [
        "app.user",
        "app.read_only",
        "app.cap_add",
        "app.no_new_privileges",
        "app.pids_limit",
        "app.volumes",
        "proxy.user",
        "proxy.read_only",
    ]
    assert loosenings(quick_settings(app={"user": "app"}, proxy={"user": "nginx"})) == []
