"""How far a push or a pull is, over all its layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

EVERY = 0.2
"""Seconds between two words on it, at least."""

ENDED = ("Pushed", "Layer already exists", "Pull complete", "Already exists")
MOVING = ("Pushing", "Downloading")
ARRIVED = ("Verifying Checksum", "Download complete", "Extracting", *ENDED)


class Layers:
    """Adds up the items that an engine sends of a push or a pull, and tells `counts` of them.

    Told are `layers` (how many are known of), `ended`, and the `bytes` that have gone over of the `size` of those whose
    size is known; layers that were there already count with none.
    """

    def __init__(self, counts: Callable[[Mapping[str, Any]], None]) -> None:
        self._counts = counts
        self._states: dict[str, str] = {}
        self._bytes: dict[str, tuple[int, int]] = {}
        self._told = 0.0

    def add(self, item: Mapping[str, Any]) -> str:
        """Takes an item, and gives its layer if that has just ended, else nothing."""
        layer, status = str(item.get("id", "")), str(item.get("status", ""))
        if not layer or status.startswith("Pulling from"):  # whose id is the tag
            return ""
        ended = status in ENDED and self._states.get(layer) != status
        self._states[layer] = status
        detail = item.get("progressDetail") or {}
        if status in MOVING and detail.get("total"):
            size = int(detail["total"])
            self._bytes[layer] = min(int(detail.get("current", 0)), size), size
        elif status in ARRIVED and layer in self._bytes:
            self._bytes[layer] = (self._bytes[layer][1],) * 2
        return layer if ended else ""

    def tell(self, *, now: bool) -> None:
        """Tells the figures, at once or if it was not done just before."""
        clock = time.monotonic()
        if now or clock - self._told >= EVERY:
            self._told = clock
            self._counts(self.figures())

    def figures(self) -> dict[str, int]:
        return {
            "layers": len(self._states),
            "ended": sum(state in ENDED for state in self._states.values()),
            "bytes": sum(done for done, _ in self._bytes.values()),
            "size": sum(size for _, size in self._bytes.values()),
        }
