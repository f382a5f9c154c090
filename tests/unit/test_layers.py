"""How far a push or a pull is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bluegreen.layers import Layers


def item(layer: str, status: str, current: int | None = None, total: int | None = None) -> dict[str, Any]:
    return {"id": layer, "status": status, "progressDetail": {"current": current, "total": total} if total else {}}


def test_a_pull_is_added_up_over_its_layers() -> None:
    told: list[Mapping[str, Any]] = []
    layers = Layers(told.append)
    assert layers.add({"status": "Pulling from shop", "id": "v2"}) == "", "no layer, though it has an id"
    for each in (
        *(item("a", "Pulling fs layer"), item("b", "Waiting"), item("c", "Already exists")),
        *(item("a", "Downloading", 10, 100), item("b", "Downloading", 50, 60), item("a", "Download complete")),
        *(item("a", "Extracting", 3, 100), {"status": "Digest: sha256:0"}, {"status": "Status: Downloaded"}),
    ):
        layers.add(each)
    assert layers.figures() == {"layers": 3, "ended": 1, "bytes": 150, "size": 160}
    assert layers.add(item("a", "Pull complete")) == "a"
    assert layers.add(item("a", "Pull complete")) == "", "it has ended already"
    layers.tell(now=True)
    assert told[-1]["ended"] == 2


def test_a_push_whose_layer_grows_over_its_size_is_no_more_than_whole() -> None:
    layers = Layers(lambda figures: None)
    layers.add(item("a", "Preparing"))
    layers.add(item("a", "Pushing", 130, 100))
    layers.add(item("b", "Layer already exists"))
    assert layers.figures() == {"layers": 2, "ended": 1, "bytes": 100, "size": 100}
    layers.add(item("a", "Pushed"))
    assert layers.figures()["ended"] == 2


def test_figures_are_not_told_more_often_than_anybody_could_look() -> None:
    told: list[Mapping[str, Any]] = []
    layers = Layers(told.append)
    for number in range(1000):
        layers.add(item("a", "Downloading", number, 1000))
        layers.tell(now=False)
    assert 1 <= len(told) < 500
    layers.tell(now=True)
    assert told[-1]["bytes"] == 999
