"""What is kept of runs: bounded, and not trusted when it is read back."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluegreen.console import Console
from bluegreen.history import (
    KEPT,
    SIZE_LIMIT,
    TEXT_LIMIT,
    VOLUME_LIMIT,
    Kept,
    _entries,
    _free_place,
    line,
    pack,
    unpack,
)
from bluegreen.model import Colour, Event, Plan, Release
from bluegreen.receipt import receipt as make_receipt
from bluegreen.report import render

PLAN = Plan("deploy", Release("v2"), Colour.GREEN, "shop:v2", Colour.BLUE, Release("v1"), (), 2)


def receipt_of(run: str = "20240501-120000-abcd", **changes: Any) -> dict[str, Any]:
    return {**make_receipt("shop", run, PLAN, "done", [Event("switch", "done", "local", 0.1, "in use")]), **changes}


def kept(number: int, run: str) -> Kept:
    return Kept(f"{number:02}.json.gz", receipt_of(run))


def noise(length: int) -> str:
    """Text that does not get smaller."""
    import random

    return random.Random(7).randbytes(length // 2).hex()


def test_a_receipt_comes_back_as_it_was_kept() -> None:
    assert unpack(pack(receipt_of())) == receipt_of()


def test_one_that_is_too_large_is_kept_without_what_is_long_in_it() -> None:
    without_series = unpack(pack(receipt_of(series={"run": noise(3 * SIZE_LIMIT)})))
    assert without_series == receipt_of(series=None)
    steps = [{"step": "probe", "detail": noise(9000)} for _ in range(400)]
    data = pack(receipt_of(series={}, steps=steps, reason=noise(9 * SIZE_LIMIT), leftover=[noise(9000)] * 99))
    assert len(data) <= SIZE_LIMIT
    short = unpack(data)
    assert short
    assert (short["to"], short["result"], len(short["steps"])) == ("v2", "done", 100)


def test_what_a_terminal_would_act_on_is_not_read_back() -> None:
    back = unpack(pack(receipt_of(who="ann\x1b]0;title\x07", steps=[{"detail": "\x1b[2Jgone"}])))
    assert back
    assert (back["who"], back["steps"]) == ("ann", [{"detail": "gone"}])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        pack(receipt_of())[:-9],
        gzip.compress(b"{"),
        gzip.compress(b"[]"),
        gzip.compress(b'{"run": 7}'),
        gzip.compress(b'{"run": "../x"}'),
        gzip.compress(b'{"run": "a", "x": ' + b"[" * 100_000),
        gzip.compress(b'{"run": "\xff"}'),
        gzip.compress(b" " * (TEXT_LIMIT + 1)),
    ],
    ids=["empty", "plain", "cut", "half", "a list", "no name", "a path", "deep", "not UTF-8", "long"],
)
def test_damage_is_no_receipt(data: bytes) -> None:
    assert unpack(data) is None


@given(st.binary(max_size=200))
def test_nor_is_anything_else(data: bytes) -> None:
    unpack(data)
    unpack(gzip.compress(data))
    list(_entries(data))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(receipt_of())), JSON)
def test_a_receipt_with_anything_in_the_place_of_something_can_be_listed(key: str, value: Any) -> None:
    back = unpack(gzip.compress(json.dumps(receipt_of(**{key: value})).encode()))
    Console().history([line(Kept("00.json.gz", back))])


def test_a_list_says_who_did_what_and_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    done = receipt_of(who="ann@laptop, process 7", started="2024-05-01T12:00:00.123+00:00", seconds=12.34)
    done["requests"] = {**done["requests"], "total": 50, "failed": 1}
    undone = {**done, "run": "20240501-130000-abcd", "result": "undone", "reason": "v2 ended\nlog", "from": None}
    Console().history([line(Kept("", each)) for each in (undone, done)] + [line(Kept("02.json.gz", None))])
    assert capsys.readouterr().out.splitlines() == [
        "20240501-130000-abcd  2024-05-01 12:00:00  ↩ deploy nothing → v2: undone in 12.3 s, 1 of 50 requests failed,"
        " ann@laptop, process 7",
        "    v2 ended",
        "20240501-120000-abcd  2024-05-01 12:00:00  ✓ deploy v1 → v2: done in 12.3 s, 1 of 50 requests failed,"
        " ann@laptop, process 7",
        "02.json.gz  damaged",
    ]
    Console().history([])
    assert capsys.readouterr().out == "no run is kept\n"


def test_the_next_run_takes_a_free_place_then_a_damaged_one_then_the_oldest() -> None:
    assert _free_place([]) == "00.json.gz"
    assert _free_place([kept(0, "a"), kept(2, "b")]) == "01.json.gz"
    full = [kept(number, f"2024{(number + 40) % KEPT:03}") for number in range(KEPT)]
    assert _free_place(full) == "60.json.gz"
    assert _free_place([*full[:7], Kept("07.json.gz", None), *full[8:]]) == "07.json.gz"


def tar_of(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"history/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("history/98.json.gz")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return buffer.getvalue()


def test_only_its_own_files_are_read_and_of_half_an_archive_what_is_whole() -> None:
    good = pack(receipt_of())
    raw = tar_of(**{"00.json.gz": good, "note.txt": good, "01.json.gz": b"?", "02.json.gz": bytes(SIZE_LIMIT + 1)})
    assert [(each.file, each.run) for each in _entries(raw)] == [
        ("00.json.gz", "20240501-120000-abcd"),
        ("01.json.gz", ""),
        ("02.json.gz", ""),
        ("98.json.gz", ""),
    ]
    cut = raw[: raw.index(b"history/01.json.gz") + 700]
    assert [each.file for each in _entries(cut)][:1] == ["00.json.gz"]
    assert VOLUME_LIMIT < 10e6


def test_a_page_can_be_made_of_what_was_kept() -> None:
    back = unpack(pack(receipt_of()))
    assert back
    assert "v1 → v2" in render(back)
