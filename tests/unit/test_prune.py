"""What may go and what stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bluegreen.model import Colour, Plan, Release
from bluegreen.prune import Found, outdated, superfluous


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


def deployed(release: str, *before: str) -> Plan:
    """The plan that takes this release live, after these."""
    history = tuple(Release(name, f"sha256:{name}" if name else "") for name in before)
    return Plan("deploy", Release(release, f"sha256:{release}"), Colour.BLUE, "", None, None, history, 1)


def test_a_deploy_outdates_what_the_service_ran_before_the_releases_that_it_keeps() -> None:
    assert outdated(deployed("v6", "v5", "v4", "v3", "v2", "v1"), 3) == {"sha256:v2", "sha256:v1"}
    assert outdated(deployed("v3", "v2", "v1"), 3) == frozenset()
    assert outdated(deployed("v1", "v2", "v3", "v1", "v2", "v4", ""), 2) == {"sha256:v4"}, "what came back stays"
