"""Nothing that a terminal would act on gets through."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluegreen.words import indent, plain

noise = st.text(st.sampled_from("\x1b[]0;31mAZ\\\x07\x9b\x9d\x9c\r\n\t\0\x7f\u202e\u2066x "), max_size=30) | st.text()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("version 1", "version 1"),
        ("one\ttwo\nthree", "one\ttwo\nthree"),
        ("버전 1 → ü", "버전 1 → ü"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[H", ""),
        ("\x1b[38;5;196mx\x1b[m", "x"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bcreset", "creset"),
        ("\x1b\x1b[0m[31mx", "[31mx"),
        ("\x9b31mx", "31mx"),
        ("a\0b\x08c\x7fd", "abcd"),
        ("50%\r100%\r\nend", "50%\n100%\nend"),
        ("abc\u202edef\u2069", "abcdef"),
    ],
)
def test_what_is_shown_of_a_text(text: str, shown: str) -> None:
    assert plain(text) == shown


@given(noise)
@settings(deadline=None, max_examples=60)
def test_no_control_character_but_newline_and_tab_is_left(text: str) -> None:
    shown = plain(text)
    assert not [char for char in shown if unicodedata.category(char) == "Cc" and char not in "\n\t"]
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert plain(shown) == shown


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
@settings(deadline=None, max_examples=60)
def test_text_without_controls_is_left_as_it_is(text: str) -> None:
    assert plain(text) == text


def test_every_line_is_indented() -> None:
    assert indent("a\nb", "> ") == "> a\n> b"
    assert indent("") == ""
