"""What is remembered of runs: on the host, for every machine, and never in a deploy's way."""

from __future__ import annotations

import io
import shutil
import tarfile

import docker
import pytest
from harness import Make, TestService


def runs(service: TestService) -> list[dict[str, object]]:
    return service.ok("history", "--json").json()


def put(engine: docker.DockerClient, service: TestService, name: str, content: bytes) -> None:
    """A file in the history, by somebody else's hand."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    engine.containers.get(f"bluegreen-history-{service.name}").put_archive("/history", buffer.getvalue())


def test_what_was_done_is_seen_from_every_machine(make_service: Make) -> None:
    service = make_service()
    assert runs(service) == []
    assert "no run is kept" in service.ok("history").out
    service.deploy("v1")
    second = service.deploy("v2")
    assert service.run("deploy", "v4-exits").code == 1
    back = service.rollback()
    service.deploy("v1")  # is live already: nothing was done

    found = [(run["action"], run["from"], run["to"], run["result"]) for run in runs(service)]
    assert found == [
        ("rollback", "v2", "v1", "done"),
        ("deploy", "v2", "v4-exits", "undone"),
        ("deploy", "v1", "v2", "done"),
        ("deploy", None, "v1", "done"),
    ]
    assert runs(service)[0]["run"] == back["run"]
    assert runs(service)[2]["who"] == second["who"]
    why = str(runs(service)[1]["reason"])
    assert "BROKEN=exits" in why
    assert why.splitlines()[0] in service.ok("history").out

    elsewhere = service.directory.with_name("elsewhere")
    elsewhere.mkdir()
    shutil.copy(service.directory / "bluegreen.toml", elsewhere)
    other = TestService(service.name, elsewhere, service.port)
    assert runs(other) == runs(service)
    again = other.ok("receipt", second["run"], "--json").json()
    assert {key: value for key, value in again.items() if key != "event"} == second
    assert "deploy v1 → v2: done" in other.ok("receipt", second["run"], "--report", "page.html").out
    assert "Deploy v1 → v2" in (elsewhere / "page.html").read_text()
    assert "rollback v2 → v1: done" in other.ok("receipt").out, "the latest"
    ran = other.run("receipt", "20240501-120000-abcd")
    assert (ran.code, "no run 20240501-120000-abcd" in ran.err) == (1, True)


def test_damage_is_shown_and_stops_nothing(make_service: Make, engine: docker.DockerClient) -> None:
    service = make_service()
    first = service.deploy("v1")
    put(engine, service, "01.json.gz", b"\x1f\x8b half of something")
    put(engine, service, "note.txt", b"not ours")
    found = runs(service)
    assert [(run["run"], run["damaged"]) for run in found] == [(first["run"], False), ("01.json.gz", True)]
    assert "01.json.gz  damaged" in service.ok("history").out
    assert service.deploy("v2")["result"] == "done"

    # What the history is reached through is gone, as after `docker container prune`.
    engine.containers.get(f"bluegreen-history-{service.name}").remove()
    assert [run["to"] for run in runs(service)] == ["v2", "v1", None]

    # Somebody else's container stands in its place.
    engine.containers.get(f"bluegreen-history-{service.name}").remove()
    foreign = engine.containers.create("nginx:stable", name=f"bluegreen-history-{service.name}")
    assert "history     not told of this run: the container" in service.ok("deploy", "v3").out
    assert service.live() == "v3"
    assert service.run("history").code == 1
    service.ok("down", "--yes")
    foreign.reload()


def test_down_leaves_no_history(make_service: Make, engine: docker.DockerClient) -> None:
    service = make_service(image="haproxy:3.2")
    service.deploy("v1")
    name = f"bluegreen-history-{service.name}"
    assert engine.volumes.get(name).attrs["Labels"] == {"bluegreen.history": service.name}
    assert f"removed volume {name}" in service.ok("down", "--yes").out
    with pytest.raises(docker.errors.NotFound):
        engine.volumes.get(name)
    assert runs(service) == []
    assert service.run("receipt").code == 1
