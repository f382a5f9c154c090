"""What replicas write, and commands run in them, each line with its release and replica."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import Container, FakeProxy, FakeRuntime, World, quick_settings

from bluegreen import logs
from bluegreen.errors import Failed, UsageError
from bluegreen.model import Colour, Endpoint, Line, Release, Replica
from bluegreen.observe import observe
from bluegreen.runtimes.docker import Lines
from bluegreen.settings import Settings

SETTINGS = quick_settings()
BLUE, GREEN = Colour.BLUE, Colour.GREEN


def place(world: World, colour: Colour, number: int, release: str, *lines: str) -> Container:
    name = f"shop-{colour}-{number}"
    where = Endpoint(f"172.29.1.{number + 60 * (colour is GREEN)}", 9000)
    made = Container(name, "shop", colour, Release(release), f"shop:{release}", "r", 1, 2, (), where)
    made.lines = list(lines)
    world.containers[name] = made
    return made


@pytest.fixture
def world() -> World:
    world = World()
    place(world, BLUE, 1, "v1", "one", "three")
    place(world, BLUE, 2, "v1", "two", "four")
    place(world, GREEN, 1, "v2", "other\nsecond half")
    return world


def shown(lines: Iterator[logs.Written]) -> list[str]:
    return [f"{line.source} | {line.text}" for line in lines]


def test_lines_of_all_replicas_come_in_order_of_time_with_who_wrote_them(world: World) -> None:
    runtime = FakeRuntime(world, SETTINGS)
    assert shown(logs.read(runtime, None)) == [
        "v1 blue-1 | one",
        "v1 blue-2 | two",
        "v2 green-1 | other",
        "v2 green-1 | second half",
        "v1 blue-1 | three",
        "v1 blue-2 | four",
    ]
    assert shown(logs.read(runtime, BLUE, tail=1)) == ["v1 blue-1 | three", "v1 blue-2 | four"]


def test_with_nothing_there_that_is_said() -> None:
    runtime = FakeRuntime(World(), SETTINGS)
    with pytest.raises(Failed, match="no replica is there"):
        logs.read(runtime, None)
    with pytest.raises(Failed, match="nothing of green is there"):
        logs.read(runtime, GREEN)


class Talking(FakeRuntime):
    """Its replicas write until they are told to end."""

    def __init__(self, world: World, settings: Settings) -> None:
        super().__init__(world, settings)
        self.ended = {name: threading.Event() for name in ("shop-blue-1", "shop-blue-2", "shop-green-1")}
        self.asked: list[tuple[str, Any]] = []

    def lines(
        self, replica: Replica, *, follow: bool = False, tail: int | None = None, since: float = 0
    ) -> Iterator[Line]:
        self.asked.append((replica.name, tail))
        yield from super().lines(replica, tail=tail)
        if follow:
            self.ended[replica.name].wait(10)
            yield Line("2024-05-01T12:01:00.000000000Z", "the last")


def test_following_takes_up_new_replicas_and_those_that_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOOK_INTERVAL", 0.02)
    monkeypatch.setattr(logs, "TOGETHER", 0.01)
    green = world.containers.pop("shop-green-1")
    runtime = Talking(world, SETTINGS)
    found = logs.follow(runtime, None, tail=1)
    first = sorted(shown(itertools.islice(found, 2)))
    assert first == ["v1 blue-1 | three", "v1 blue-2 | four"]

    world.containers["shop-green-1"] = green
    assert shown(itertools.islice(found, 2)) == ["v2 green-1 | other", "v2 green-1 | second half"]
    world.containers["shop-blue-2"].running = False
    runtime.ended["shop-blue-2"].set()
    assert shown(itertools.islice(found, 1)) == ["v1 blue-2 | the last"]

    before = len(runtime.asked)
    runtime.ended["shop-blue-1"].set()  # its engine ended the stream, but it runs: nothing is shown twice
    assert shown(itertools.islice(found, 1)) == ["v1 blue-1 | the last"]
    world.containers["shop-blue-1"].lines = ["x"] * 59 + ["came back", "and on"]
    monkeypatch.setattr(runtime, "lines", lambda replica, **_: iter([Line("2024-05-01T12:02:00Z", "came back")]))
    assert shown(itertools.islice(found, 1)) == ["v1 blue-1 | came back"]
    assert ("shop-blue-2", None) not in runtime.asked[before:], "one that has ended is not read again"
    assert ("shop-green-1", None) in runtime.asked, "all of a new one"
    runtime.ended["shop-green-1"].set()


def run_in(world: World, *command: str, **which: Any) -> tuple[int, list[str]]:
    runtime = FakeRuntime(world, SETTINGS)
    said: list[str] = []
    code = logs.run_in(
        runtime,
        observe(runtime, FakeProxy(world, SETTINGS)),
        command,
        lambda source, text, is_error: said.append(f"{source} | {text}" + " !" * is_error),
        **which,
    )
    return code, sorted(said)


def test_a_command_runs_in_every_replica_or_in_one(world: World) -> None:
    assert run_in(world, "echo", "hi", colour=BLUE) == (0, ["v1 blue-1 | hi", "v1 blue-2 | hi"])
    assert run_in(world, "echo", "a\nb", colour=BLUE, number=2) == (0, ["v1 blue-2 | a", "v1 blue-2 | b"])
    assert run_in(world, "dance", colour=GREEN) == (127, ["v2 green-1 | dance: not found !"])
    assert run_in(world, "false", colour=BLUE)[0] == 1


def test_it_needs_a_replica_that_runs(world: World) -> None:
    with pytest.raises(Failed, match="nothing is live"):
        run_in(world, "echo")
    with pytest.raises(Failed, match=r"no replica 3 of blue \(v1\) is running"):
        run_in(world, "echo", colour=BLUE, number=3)
    world.containers["shop-green-1"].running = False
    with pytest.raises(Failed, match=r"no replica of green \(v2\) is running"):
        run_in(world, "echo", colour=GREEN)
    del world.containers["shop-green-1"]
    with pytest.raises(Failed, match="nothing of green is there"):
        run_in(world, "echo", colour=GREEN)


def test_a_moment_is_some_time_ago_or_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    assert [logs.moment(text) for text in ("90s", "10m", "2h", "1d")] == [999_910, 999_400, 992_800, 913_600]
    assert logs.moment("2024-05-01T12:00:00") == logs.moment("2024-05-01T14:00:00+02:00") == 1_714_564_800
    assert logs.moment("999999999d") == 1.0
    for text in ("", "10", "yesterday", "-5m", "5 m"):
        with pytest.raises(UsageError, match="is not a time such as"):
            logs.moment(text)


def test_pieces_of_an_output_become_lines() -> None:
    lines = Lines()
    assert lines.add(b"a\nb") == ["a"]
    assert lines.add("ü".encode()[:1]) == []
    assert lines.add("ü".encode()[1:] + b"\n\n") == ["bü", ""]
    assert lines.rest() == []
    assert lines.add(b"\xff") == []
    assert lines.rest() == ["\ufffd"]
    assert [len(line) for line in lines.add(b"x" * (Lines.LIMIT + 1))] == [Lines.LIMIT + 1]
