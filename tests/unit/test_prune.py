"""What may go and what stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bluegreen.prune import Found, superfluous


def found(*digests: str) -> list[Found]:
    """Tags with these digests, one made after the other."""
    return [Found(f"v{n}", digest, f"2024-05-{n:02}T00:00:00.000Z") for n, digest in enumerate(digests, 1)]


def test_what_is_needed_stays_and_so_does_what_is_newer() -> None:
    tags = found("a", "b", "c", "d", "e")
    assert [each.name for each in superfluous(tags, {"b", "d"})] == ["v1", "v3"]


def test_nothing_goes_where_nothing_is_known() -> None:
    assert superfluous(found("a", "b"), {"x"}) == []
    assert superfluous(found("a", "b"), set()) == []
    assert superfluous([], {"x"}) == []


def test_every_name_of_what_is_needed_stays() -> None:
    assert [each.name for each in superfluous(found("a", "b", "a"), {"a"})] == ["v2"]


@given(st.lists(st.sampled_from("abcdef"), max_size=12), st.sets(st.sampled_from("abcdef")))
def test_never_does_anything_go_that_is_needed(digests: list[str], needed: set[str]) -> None:
    assert not {each.digest for each in superfluous(found(*digests), needed)} & needed
