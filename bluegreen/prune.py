"""What may go: images and tags that no release needs any more. What is live, or could come back, stays."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bluegreen.model import Observed, Plan


@dataclass(frozen=True)
class Found:
    """An image on an engine, or a tag in a registry: the name to remove it by, its digest, and when it was made."""

    name: str
    digest: str
    created: str


def kept(observed: Observed, keep: int) -> frozenset[str]:
    """The digests of what is live, of the standby, and of the last `keep` releases before the live one."""
    slots = list(observed.slots.values())
    before = observed.live.before[:keep] if observed.live else ()
    return frozenset({slot.release.digest for slot in slots} | {release.digest for release in before})


def outdated(plan: Plan, keep: int) -> frozenset[str]:
    """The digests of releases that the service ran, and that are too far back once the plan has been carried out."""
    needed = {"", plan.release.digest} | {release.digest for release in plan.before[:keep]}
    return frozenset(release.digest for release in plan.before[keep:]) - needed


def superfluous(found: Sequence[Found], needed: Collection[str]) -> list[Found]:
    """What may go, oldest first: what is neither needed nor newer than all that is, as it may be about to be deployed.

    Nothing may, while nothing that is needed was found: then this is not the place that the releases come from.
    """
    newest = max((each.created for each in found if each.digest in needed), default="")
    old = [each for each in found if each.digest not in needed and each.created < newest]
    return sorted(old, key=lambda each: each.created)
