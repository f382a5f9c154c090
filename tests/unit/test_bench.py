"""The benchmark's pure parts: its figures, its page, its plots, and what it reads out of what others say."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from asker import Asked, flip, near_and_away
from figures import (
    Bar,
    Plot,
    Section,
    Target,
    Zero,
    at_most,
    failed,
    in_turn,
    median,
    number,
    percentile,
    ratio,
    spread,
)
from plots import svg
from results import markdown, table
from said import requests_a_second, version


def test_figures_have_three_digits_that_count() -> None:
    assert [number(value) for value in (0, 0.214, 1.526, 15.26, 152.6, 1526.3, 1_000_000)] == [
        "0",
        "0.21",
        "1.53",
        "15.3",
        "153",
        "1,526",
        "1,000,000",
    ]


def test_a_spread_is_the_median_and_the_ends() -> None:
    assert spread([3, 1, 2]) == "2 (1 to 3)"
    assert spread([2, 2]) == "2"
    assert spread([]) == "-"
    assert spread(iter([1, 2])) == "1.50 (1 to 2)"


def test_a_ratio_is_one_of_medians() -> None:
    assert ratio([2, 4, 100], [1, 2, 3]) == 2


def test_a_percentile_is_a_value_that_was_there() -> None:
    values = list(range(1, 101))
    assert percentile(values, 0.99) == 100
    assert percentile(values, 0.5) == 51
    assert percentile([7], 0.99) == 7


@pytest.mark.parametrize("what", [median, lambda values: percentile(values, 0.5)])
def test_without_values_there_is_no_figure(what: object) -> None:
    with pytest.raises(ValueError, match="no values"):
        what([])  # type: ignore[operator]


def test_what_is_compared_is_measured_in_turn() -> None:
    order: list[str] = []

    def measure(name: str) -> int:
        order.append(name)
        return len(order)

    found = in_turn(3, {"a": lambda: measure("a"), "b": lambda: measure("b")})
    assert order == ["a", "b"] * 3
    assert found == {"a": [1, 3, 5], "b": [2, 4, 6]}


def test_why_a_target_was_missed_is_told_only_if_it_was() -> None:
    assert at_most("start", 1.2, 1.3, reason="slow") == Target("start", "at most 1.30x", "1.20x", True)
    assert at_most("start", 1.4, 1.3, reason="slow") == Target("start", "at most 1.30x", "1.40x", False, "slow")
    assert at_most("memory", 90, 80, unit=" MB").measured == "90 MB"


def test_counts_that_must_be_0_are_found() -> None:
    sections = [Section("a", "", [], zeros=[Zero("lost", 0)]), Section("b", "", [], zeros=[Zero("stale", 2)])]
    assert failed(sections) == [Zero("stale", 2)]


def test_a_table_holds_every_cell() -> None:
    assert table(["a", "b"], [["1", "x|y"]]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |\n"


def page(*zeros: Zero) -> str:
    plot = Plot("lost.svg", "Lost", "requests", (Bar("ours", (0.0,), True),))
    section = Section(
        "Switches",
        "How it was done.",
        ["who", "lost"],
        [["ours", "0"]],
        [
            Target("lost", "0", "0", True),
            Target("start", "at most 1x", "2x", False, "imports"),
            Target("far", "?", "-", None),
        ],
        list(zeros),
        [plot],
    )
    return markdown([section], {"date": "today"}, "make bench")


def test_the_page_tells_the_machine_the_targets_and_what_was_missed() -> None:
    text = page(Zero("lost", 0))
    assert "| date | today |" in text
    assert "1 of 3 were reached. Of the counts that must be 0, all 1 are." in text
    assert "| start | at most 1x | 2x | **no** |" in text
    assert "- **start** (2x): imports" in text
    assert "![Lost](plots/lost.svg)" in text
    assert "## Switches\n\nHow it was done.\n" in text
    assert "make bench` failed" not in text


def test_the_page_says_which_counts_are_not_0() -> None:
    assert "- lost: 3" in page(Zero("lost", 3), Zero("stale", 0))
    assert "1 of 2 are not" in page(Zero("lost", 3), Zero("stale", 0))


def test_the_same_figures_give_the_same_page() -> None:
    assert page() == page()


def test_a_plot_is_whole_and_within_its_frame() -> None:
    bars = (Bar("ours <1>", (1.0, 2.0, 3.0), True), Bar("by hand", (4.0,), words="4 of 100"), Bar("none", ()))
    root = ET.fromstring(svg(Plot("p.svg", "A & B", "ms", bars)))
    words = ["".join(each.itertext()) for each in root if each.tag.endswith("text")]
    assert words[0] == "A & B"
    assert {"ours <1>", "by hand", "none", "2", "4 of 100", "-"} <= set(words)
    assert words[-1].startswith("ms, linear scale")
    width = float(root.attrib["width"])
    boxes = [each for each in root if each.tag.endswith("rect")][1:]
    assert [each.attrib["fill"] for each in boxes] == ["#1f7a4d", "#8a94a3"]
    assert all(float(each.attrib["x"]) + float(each.attrib["width"]) < width for each in boxes)
    assert float(boxes[0].attrib["width"]) * 2 == pytest.approx(float(boxes[1].attrib["width"]))


def test_values_far_apart_are_drawn_on_a_logarithmic_scale() -> None:
    root = ET.fromstring(svg(Plot("p.svg", "p", "requests", (Bar("a", (0.0,)), Bar("b", (1.0,)), Bar("c", (1e5,))))))
    widths = [float(each.attrib["width"]) for each in root if each.tag.endswith("rect")][1:]
    assert widths == sorted(widths)
    assert widths[1] > 10
    assert "logarithmic" in ET.tostring(root, "unicode")


def asked(sent: float, release: str, took: float = 0.01, wrong: str = "") -> Asked:
    return Asked(sent, sent + took, release, wrong)


def test_a_flip_counts_from_its_call_and_stale_from_its_return() -> None:
    found = flip(
        [asked(9.9, "v1"), asked(10.02, "v1"), asked(10.04, "v2"), asked(10.06, "v1"), asked(20.0, "v1")],
        "v1",
        "v2",
        called=10.0,
        returned=10.05,
        until=15.0,
    )
    assert found.first_new == pytest.approx(50)
    assert found.last_old == pytest.approx(60)
    assert found.stale == 1


def test_a_flip_that_nobody_saw_tells_nothing() -> None:
    found = flip([], "v1", "v2", 10.0, 10.1, float("inf"))
    assert (found.first_new, found.last_old, found.stale) == (None, None, 0)


def test_answers_near_a_switch_are_told_from_the_others() -> None:
    near, away = near_and_away([asked(9.5, "v1", 0.1), asked(5, "v1", 0.2), asked(10, "v1", wrong="reset")], [10.0])
    assert near == [pytest.approx(100)]
    assert away == [pytest.approx(200)]


def test_what_wrk_says_is_read_and_its_errors_are_not_hidden() -> None:
    said = "  15301 requests in 1.00s, 2MB read\nRequests/sec:  15231.07\n"
    assert requests_a_second(said) == (15231.07, 15301)
    for words in (said + "Non-2xx or 3xx responses: 4\n", said + "Socket errors: read 3\n", "Requests/sec: 1\n", ""):
        with pytest.raises(RuntimeError):
            requests_a_second(words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("nginx version: nginx/1.30.6", "1.30.6"),
        ("HAProxy version 3.2.26-1", "3.2.26"),
        ("2.6.2", "2.6.2"),
        ("", "unknown"),
    ],
)
def test_a_version_is_found_in_what_a_program_says(words: str, told: str) -> None:
    assert version(words) == told
