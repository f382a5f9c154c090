"""Several replicas of a colour: all take part, and one that dies is passed over."""

from __future__ import annotations

import time

import docker
import pytest
from aftermath import GENTLE
from harness import FULL, RELOAD_CLOSES, Make, TestService, eventually, ways
from load import Load


def met(service: TestService) -> set[str]:
    """The replicas that answer: beside other clients, whom a proxy serves in between, one may be missed many times."""
    return {service.get().headers["X-Replica"] for _ in range(60)}


@pytest.mark.parametrize(("image", "switch"), ways(0, RELOAD_CLOSES))
def test_a_replica_that_dies_is_passed_over_and_a_deploy_replaces_them_all(
    make_service: Make, engine: docker.DockerClient, image: str, switch: str
) -> None:
    service = make_service(image=image, switch=switch, app="replicas = 3")
    service.deploy("v1")
    assert service.status()["live"]["replicas"] == {"running": 3, "wanted": 3}
    assert len(met(service)) == 3
    one = engine.containers.get(f"{service.name}-blue-2")
    with Load(service.url, **GENTLE) as load:
        load.wait_for_requests(100)
        before = time.time()
        one.kill()  # as by hand: the engine does not start it again
        after = time.time()
        load.wait_for_requests(load.snapshot().total + 300)
        assert service.status()["live"]["replicas"] == {"running": 2, "wanted": 3}
        assert len(met(service)) == 2
        one.start()
        eventually(lambda: len(met(service)) == 3, "the replica that is back takes requests again")
        receipt = service.deploy("v2")
        load.wait_for_requests(load.snapshot().total + 300)
        result = load.stop()
    # Of an answer that had begun, half is with the client already: no protocol lets a proxy ask another replica for it.
    cut = [failure for failure in result.failures if failure["outcome"] == "truncated"]
    begun = [each for each in cut if each["sent_at"] <= after and each["sent_at"] + each["seconds"] >= before]
    assert result.failed == len(begun) <= 1, result.explain()
    assert set(result.by_release) == {"v1", "v2"}
    assert receipt["requests"]["failed"] == 0
    assert list(service.containers().values()) == ["v2"] * 3
    assert len(met(service)) == 3


@pytest.mark.parametrize(("image", "switch"), [*([("nginx:stable", "live")] if FULL else []), ("haproxy:3.2", "live")])
def test_more_and_fewer_replicas_of_what_is_live_lose_no_request(
    make_service: Make, engine: docker.DockerClient, image: str, switch: str
) -> None:
    service = make_service(image=image, switch=switch, app="replicas = 2")
    service.deploy("v1")
    service.deploy("v2")
    with Load(service.url, **GENTLE) as load:
        load.wait_for_requests(100)
        for count in (4, 1):
            service.ok("scale", str(count))
            assert service.status()["live"]["replicas"] == {"running": count, "wanted": count}
            assert len(met(service)) == count
        assert "v2 has 1 replicas already" in service.ok("scale", "1").out
        load.wait_for_requests(load.snapshot().total + 100)
        result = load.stop()
    assert (result.failed, set(result.by_release)) == (0, {"v2"}), result.explain()
    ready = service.status()["rollback"]
    assert (ready["release"], ready["how"]) == ("v1", "image")
    assert service.deploy("v2")["result"] == "done", "in the number of the settings again"
    assert len(met(service)) == 2
