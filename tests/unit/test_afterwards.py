"""Who is told of a run that is over can neither change how it ended nor hold it up."""

from __future__ import annotations

import threading
import time

import pytest

from bluegreen import afterwards
from bluegreen.errors import Failed


def fail(error: Exception) -> object:
    raise error


def test_all_are_told_and_what_failed_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, str]] = []
    told: list[str] = []
    never = threading.Event()
    monkeypatch.setattr(afterwards, "PATIENCE", 0.2)
    afterwards.tell_all(
        {
            "slow": never.wait,
            "broken": lambda: fail(OSError("no\nway " + "x" * 999)),
            "refused": lambda: fail(Failed("it said no")),
            "fine": lambda: told.append("fine"),
        },
        lambda who, why: said.append((who, why)),
    )
    never.set()
    assert told == ["fine"]
    assert said[0] == ("slow", "not told of this run: no answer within 0.2 s")
    assert said[1][1].startswith("not told of this run: OSError: no way xxx")
    assert len(said[1][1]) < 400
    assert said[2] == ("refused", "not told of this run: it said no")


def test_all_of_them_share_one_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    waits: list[float] = []
    monkeypatch.setattr(time, "monotonic", iter([0.0, 1.0, 4.0, 9.0]).__next__)
    monkeypatch.setattr(afterwards._Call, "join", lambda self, limit: waits.append(limit))
    afterwards.tell_all(dict.fromkeys("abc", never.wait), lambda who, why: None)
    never.set()
    assert waits == [4.0, 1.0, 0.0]
