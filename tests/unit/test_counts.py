"""The witness's counts while a run goes on."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from harness import eventually

from bluegreen.counts import counts_told
from bluegreen.model import Event
from bluegreen.witness import Witness


@pytest.fixture
def witness() -> Iterator[Witness]:
    """One that looks whether connections are accepted, as they are."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        witness = Witness(url, "/", host=None, expected={"v2": None}, rate=50, connections=0, timeout=1, kind="tcp")
        yield witness
        witness.stop()


def test_counts_are_told_from_the_first_request_on_and_not_afterwards(witness: Witness) -> None:
    told: list[Event] = []
    with counts_told(witness, "local", told.append):
        witness.start()
        eventually(lambda: len(told) > 1, "two events")
    count = len(told)
    witness.stop()
    assert {(event.step, event.state, event.host) for event in told} == {("witness", "counts", "local")}
    totals = [event.data["total"] for event in told]
    assert totals[0] > 0
    assert totals == sorted(totals)
    assert told[-1].data["probe"] == "tcp"
    assert told[-1].data["by_release"]["v2"] == 0, "a connection does not tell"
    assert witness.counts()["total"] == witness.summary()["requests"]["total"]
    assert len(told) == count


def test_without_a_witness_there_is_nothing_to_tell() -> None:
    told: list[Event] = []
    with counts_told(None, "local", told.append):
        pass
    assert told == []


def test_the_telling_ends_with_what_happens_inside(witness: Witness) -> None:
    told: list[Event] = []
    with pytest.raises(KeyboardInterrupt), counts_told(witness, "local", told.append):
        raise KeyboardInterrupt
    witness.start()
    eventually(lambda: witness.counts()["total"] > 2, "requests")
    assert told == []
