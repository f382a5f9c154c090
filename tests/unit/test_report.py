"""The report: what a person looks for is in it, whatever came of the run, and nothing that would leave the page."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluegreen import report
from bluegreen.model import Colour, Event, Plan, Release
from bluegreen.receipt import Start, receipt
from bluegreen.report import HEIGHT, MINUS, answerers, duration, render, ticks, when
from bluegreen.witness import FRESH, UNTOLD, Answer, Witness

V1, V2 = Release("v1", "sha256:11"), Release("v2", "sha256:22")
PLAN = Plan("deploy", V2, Colour.GREEN, "shop:v2", Colour.BLUE, V1, (), 2)
FIRST = Plan("deploy", V1, Colour.BLUE, "shop:v1", None, None, (), 1)
BACK = Plan("rollback", V1, Colour.BLUE, "shop:v1", Colour.GREEN, V2, (), 3)
TOLD = {"v1": "version 1", "v2": "version 2"}
START = Start(1000.0, datetime(2026, 5, 1, 12, 0, 3, tzinfo=UTC), "ann@laptop, process 7")
PROXY = {"kind": "nginx", "version": "1.26.3", "url": "https://www.example.com", "switch": "live"}
VOID = {"meta", "line", "rect", "path", "br"}


class Page(HTMLParser):
    """What a page says and is made of. Fails on a tag that is not closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())

    def all(self, name: str) -> list[str]:
        return [value for _, attributes in self.attributes if (value := attributes.get(name))]


def witness(
    expected: dict[str, str | None] | None = None,
    *,
    begins: float = 1.0,
    ends: float = 9.0,
    flips: tuple[tuple[float, str], ...] = ((4.0, "v2"),),
    failing: tuple[float, float] = (0, 0),
    kind: str = "http",
) -> Witness:
    """One that was answered ten times a second, by the release that each switch brought in. Times are the run's."""
    expected = dict(TOLD) if expected is None else expected
    made = Witness("http://x", "/version", host=None, expected=expected, rate=10, connections=1, timeout=1, kind=kind)
    made._tally.started = START.clock + begins
    for at, release in flips:
        made.switched(release, START.clock + at)
    for tenth in range(round(begins * 10), round(ends * 10)):
        at = tenth / 10
        now = next((release for moment, release in reversed(flips) if moment <= at), next(iter(expected)))
        label = now if expected.get(now) else UNTOLD
        if failing[0] <= at < failing[1]:
            made._tally.add(Answer(START.clock + at, 0.02, FRESH, 503, "", "status 503"), "", "status 503")
        else:
            made._tally.add(Answer(START.clock + at, 0.004, FRESH, 200, "", ""), label, "")
    return made


STEPS = [
    Event("start", "started", "local", at=1),
    Event("start", "done", "local", 1.5, "shop-green-1", at=1),
    Event("switch", "done", "local", 0.1, "green is in use", at=3.9),
    Event("bake", "done", "local", 4.0, "nothing went wrong", at=4.1),
]
FAILED = [
    *STEPS[:3],
    Event("bake", "failed", "local", 0.5, "it answers no more\nthe last lines of shop-green-1:\n  Boom", at=4.1),
    Event("switch", "undone", "local", 0.3, "blue is in use again", at=4.6),
]


@pytest.fixture(autouse=True)
def _nine_seconds_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: START.clock + 9.5)


def made(plan: Plan = PLAN, result: str = "done", events: list[Event] | None = None, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"start": START, "proxy": PROXY, "witness": witness(), **more}
    return receipt("shop", "run-7", plan, result, STEPS if events is None else events, **given)


@cache
def outcomes() -> dict[str, tuple[dict[str, Any], str]]:
    """Receipts of all kinds, each with a sentence that its page must have."""
    taken_back = witness(flips=((4.0, "v2"), (6.0, "v1")), failing=(4.2, 5.0))
    unserved = witness({"v1": "version 1"}, begins=4, flips=((4.0, "v1"),))
    twice = replace(PLAN, from_release=Release("v2", "sha256:2"))
    never = witness(flips=())
    tcp = witness({"v1": None, "v2": None}, kind="tcp", failing=(2, 2.1))
    old = made()
    for name in ("started", "seconds", "who", "image", "digest", "colours", "proxy", "series"):
        del old[name]
    return {
        "done": (made(), "v2 is live. None of the witness's 80 requests failed."),
        "rollback": (made(BACK), "v1 is live again."),
        "first": (made(FIRST, witness=unserved), "Deploy nothing → v1"),
        "undone": (
            made(result="undone", events=FAILED, witness=taken_back, reason=FAILED[3].detail),
            "It was undone: v1 still serves. 8 of the witness's 80 requests failed.",
        ),
        "undone before the switch": (made(result="undone", events=FAILED[:2], witness=never), "v1 still serves."),
        "a first one undone": (made(FIRST, "undone", witness=unserved), "nothing is served, as before"),
        "failed": (made(result="failed", reason="it could not be undone"), "a person is needed"),
        "unchanged": (
            made(replace(PLAN, reason="v2 is live already"), "unchanged", [], witness=None),
            "There was nothing to do. v2 is live already",
        ),
        "recovered": (made(replace(BACK, reason="the unfinished run r6 was undone"), witness=None), "r6 was undone"),
        "no witness": (made(witness=None), "No witness looked on"),
        "a silent witness": (made(witness=witness(begins=1, ends=1)), "The witness had nothing to ask yet."),
        "tcp": (made(witness=tcp, probe="tcp"), "1 of the witness's 80 connections failed."),
        "untold": (made(witness=witness({"v1": None, "v2": None})), "don't tell which release gave them"),
        "the same name": (made(twice, witness=witness({"v2": "version 2"})), "Both releases are called v2"),
        "all failed": (made(witness=witness(failing=(0, 9))), "80 of the witness's 80 requests failed."),
        "left over": (
            made(cut=3, websockets=(5, 2), leftover=["retire: busy"]),
            "end cut: 3. WebSockets open at the switch: 5; closed by the old release's end: 2. Left over: retire: busy",
        ),
        "warned": (
            made(warnings=["the hook post_deploy failed: x"]),
            "the hook post_deploy failed: x; this changes nothing of the result.",
        ),
        "of an older version": (old, "v2 is live."),
    }


KINDS = [
    *("done", "rollback", "first", "undone", "undone before the switch", "a first one undone", "failed", "unchanged"),
    *("recovered", "no witness", "a silent witness", "tcp", "untold", "the same name", "all failed", "left over"),
    *("warned", "of an older version"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_came_of_a_run_its_page_says_so_and_is_whole(kind: str) -> None:
    given, sentence = outcomes()[kind]
    page = Page(render(given))
    assert sentence in page.text
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    for names in page.all("aria-labelledby") + page.all("aria-describedby"):
        assert set(names.split()) <= set(ids)
    assert page.tags["h1"] == 1
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b(?! of the)|undefined", page.text)


def test_every_kind_is_tried() -> None:
    assert list(outcomes()) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_on_the_page_runs_or_is_fetched(kind: str) -> None:
    html = render(outcomes()[kind][0])
    page = Page(html)
    assert not set(page.tags) & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use"}
    names = {name for _, attributes in page.attributes for name in attributes}
    assert not names & {"src", "srcset", "href", "xlink:href", "background", "action", "style"}
    assert not any(name.startswith("on") for name in names)
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_has_words_for_those_who_do_not_see_it(kind: str) -> None:
    page = Page(render(outcomes()[kind][0]))
    figures = [attributes for tag, attributes in page.attributes if tag == "svg" and "viewbox" not in attributes]
    for attributes in figures:
        assert attributes["role"] == "img"
        assert attributes.get("aria-label") or attributes.get("aria-labelledby")
    assert page.tags["figure"] == page.tags["desc"]
    assert page.tags["table"] >= page.tags["figure"]


def test_what_a_person_looks_for_is_there() -> None:
    text = Page(render(made(release=V2))).text
    for words in (
        "shop · 1 May 2026, 12:00:03 UTC",
        "Deploy v1 → v2",
        "Requests 80",
        "Failed 0",
        "First answer of v2 4.0 ms after the switch",
        "Last request to v1 100 ms before the switch",
        "The whole run 9.50 s",
        "before 4.0 ms 4.0 ms 4.0 ms",
        "start , done from 1.00 s to 2.50 s of the run 1.50 s shop-green-1",
        "Release v2 (green)",
        "In place of v1 (blue)",
        "Image shop:v2",
        "Digest sha256:22",
        "nginx 1.26.3, switched live",
        "By ann@laptop, process 7",
        "Run run-7",
    ):
        assert words in text, words
    assert "Requests that failed" not in text
    assert "Worth knowing" not in text


def test_the_hand_over_is_drawn_and_told() -> None:
    given = made()
    html = render(given)
    page = Page(html)
    bars = [attributes for _, attributes in page.attributes if "bar" in (attributes.get("class") or "").split()]
    old = [float(str(each["x"])[:-1]) for each in bars if "fill-blue" in str(each["class"])]
    new = [float(str(each["x"])[:-1]) for each in bars if "fill-green" in str(each["class"])]
    assert len(old) == 12
    assert len(new) == 20
    assert max(old) < min(new)
    assert html.count(f'<line class="switch" x1="{min(new)}%"') == 2, "in both figures, where the new one begins"
    assert "v1 gave 30 answers, v2 gave 50 answers; 0 requests failed. The switch to v2 is at 0 s." in page.text
    assert f"{MINUS}3 s 3 0 0 {MINUS}2.75 s 2 0 0 " in page.text, "the first rows of its table"


def test_a_switch_that_was_taken_back_is_shown_with_its_failures() -> None:
    page = Page(render(outcomes()["undone"][0]))
    assert "The switch back to v1 is at +2 s." in page.text
    assert "status 503 fresh 8 3.20 s" in page.text
    assert "fill-failed" in " ".join(page.all("class"))


def test_a_switch_back_that_nobody_has_answered_after_is_still_drawn() -> None:
    given = made(witness=witness(begins=1.15, ends=8.85))
    series = given["series"]
    back = {"at": series["run"]["last"] + 0.15, "release": "v1"}
    figure = report.figure(series["run"], [*series["switches"], back], "v1", answerers(given))
    assert [switch.release for switch in figure.switches] == ["v2", "v1"]
    assert figure.switches[-1].x <= 100


@pytest.mark.parametrize("kind", KINDS)
def test_no_bar_leaves_its_figure_and_all_bars_add_up(kind: str) -> None:
    given = outcomes()[kind][0]
    series = given.get("series")
    if not series:
        return
    who = answerers(given)
    figure = report.figure(series["run"], series["switches"], given["from"], who)
    assert sum(bar.failed + sum(bar.answers) for bar in figure.bars) == given["requests"]["total"]
    for bar in figure.bars:
        assert 0 <= bar.x < bar.x + bar.width <= 100.01
        for _, y, height in bar.parts:
            assert height > 0
            assert -0.1 <= y <= HEIGHT - height + 0.2
    assert all(0 <= x <= 100 for x, _ in figure.scale.marks())
    assert 2 <= len(figure.scale.marks()) <= 9


def test_spans_that_were_watched_in_part_are_drawn_narrow_and_not_low() -> None:
    given = made(witness=witness(begins=1.15, ends=8.85))
    figure = report.figure(given["series"]["run"], given["series"]["switches"], "v1", answerers(given))
    inner = figure.bars[1:-1]
    heights = [[sum(height for *_, height in bar.parts) for bar in bars] for bars in (inner, figure.bars)]
    assert min(heights[0]) == min(heights[1])
    assert figure.bars[0].width < inner[0].width > figure.bars[-1].width


def test_a_long_run_shows_the_hand_over_close_by_and_the_whole_run_too() -> None:
    given = made(witness=witness(ends=400, flips=((390.0, "v2"),)))
    page = Page(render(given))
    assert "The hand-over" in page.text
    assert "The whole run: answers per release over time" in page.text
    assert page.tags["rect"] < 700


def test_what_a_step_said_is_there_with_all_its_lines_and_open_where_it_failed() -> None:
    html = render(made(result="undone", events=FAILED))
    assert re.search(r">it answers no more\s*<details open>\s*<summary>", html)
    assert "<pre>the last lines of shop-green-1:\n  Boom</pre>" in html
    hook = Event("hook", "done", "local", 0.5, "migrated\n0001 OK\n0002 OK", at=1)
    assert re.search(r">migrated\s*<details>\s*<summary>", render(made(events=[hook])))
    assert "undo switch" in html


EVIL = "\x1b[31m</pre></title></style><script>alert(1)</script>\"'><img src=http://evil.example/x>&amp;\x00\ud800"


def test_what_others_wrote_is_shown_as_text_and_never_as_markup() -> None:
    given = made(
        events=[Event("bake", "failed", "local", 0.5, f"{EVIL}\n{EVIL}", at=4)],
        result="undone",
        reason=f"{EVIL}\n{EVIL}",
        leftover=[EVIL],
        warnings=[EVIL],
        start=replace(START, who=EVIL),
        proxy=dict.fromkeys(PROXY, EVIL),
    )
    given["requests"]["failures"] = [{"at": 1.0, "why": EVIL, "connection": EVIL, "count": 1}]
    clean = Page(render(made(result="undone", events=[Event("bake", "failed", "local", 0.5, "a\nb")], reason="a\nb")))
    page = Page(render(given))
    assert page.tags["script"] == page.tags["img"] == 0
    assert page.tags["style"] == clean.tags["style"] == 1
    assert page.text.count("<script>alert(1)</script>") >= 6
    assert not set(page.text) & set("\x1b\x00")


@given(st.floats(0.0001, 1e9))
def test_a_scale_reaches_the_highest_value_in_a_few_round_steps(highest: float) -> None:
    marks = ticks(highest)
    assert marks[0] == 0
    assert marks[-1] >= highest * 0.99
    assert 3 <= len(marks) <= 5


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.00 s"), (0.594, "0.59 s"), (42.4, "42 s"), (99.4, "99 s"), (99.6, "1 min 40 s"), (3600, "60 min 0 s")],
)
def test_durations_are_told_as_people_do(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_time_is_told_in_utc_and_what_is_none_is_left() -> None:
    assert when("2026-05-01T14:00:03.123+02:00") == "1 May 2026, 12:00:03 UTC"
    assert when("yesterday") == "yesterday"


def test_how_two_releases_compared_is_a_table() -> None:
    old = {"requests": 120, "errors": 0, "error_ratio": 0.0, "p99_ms": 8.0}
    bake = {"seconds": 5, "limits": {}, "old": old, "new": {**old, "requests": None, "errors": None}, "decided": None}
    page = Page(render(made(bake=bake)))
    assert "The two releases compared" in page.text
    assert "Within what is allowed" in page.text
    assert "v2 is worse" in Page(render(made(bake={**bake, "decided": "v2 is worse"}))).text
    older = made()
    del older["bake"]
    assert "compared" not in Page(render(older)).text
