"""What is in flight at a switch comes to its proper end before the old release is taken away."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from evidence import LongRequests, switched_at
from harness import MODES, Make, TestService, eventually, ways


@pytest.mark.parametrize(("image", "switch"), ways(0))
def test_slow_requests_uploads_and_streams_begun_before_a_switch_are_answered_whole(
    make_service: Make, image: str, switch: str
) -> None:
    service = make_service(image=image, switch=switch)
    service.deploy("v1")
    (old,) = service.containers()
    with _stop_of(old) as stops, LongRequests(service.url, slow=8, upload=5, stream=6) as requests:
        receipt = _deploy_under(requests, service)
        sent = requests.stop()
    assert not [request for request in sent if request.wrong]

    at = switched_at(receipt)
    by_old = [request for request in sent if request.release == "v1"]
    held = [request for request in by_old if request.across(at)]
    assert {"slow", "stream"} <= {request.kind for request in held}, "the old release answers what it had begun"
    begun = max(request.sent for request in by_old)
    uploads = [request for request in sent if request.kind == "upload" and request.sent < begun < at < request.answered]
    assert uploads, "an upload was on its way when the switch came"

    # A request of 8 s is at work in the app 8 s after it was sent, at least: the stop came later.
    (stopped, *_) = stops
    assert all(request.sent + request.seconds <= stopped for request in by_old if request.kind != "stream")
    assert all(request.sent + request.seconds - 0.2 <= stopped for request in by_old)
    assert receipt["cut"] == 0
    assert receipt["requests"]["failed"] == 0
    assert set(service.containers().values()) == {"v2"}


@pytest.mark.parametrize("switch", MODES)
def test_what_is_cut_when_the_drain_limit_is_over_is_counted_and_the_deploy_is_done(
    make_service: Make, switch: str
) -> None:
    service = make_service(switch=switch, app='stop_timeout = "1s"', extra='[retire]\ndrain_timeout = "1s"')
    service.deploy("v1")
    with LongRequests(service.url, slow=8) as requests:
        receipt = _deploy_under(requests, service)
        sent = requests.stop()
    cut = [request for request in sent if request.wrong]
    assert receipt["result"] == "done"
    assert cut
    assert receipt["cut"] >= len(cut), "each one is counted, in whatever way the switch is made"
    assert all(request.sent < switched_at(receipt) for request in cut), "nobody else is harmed"
    assert set(service.containers().values()) == {"v2"}
    assert service.get().text == "version 2\n"


def _deploy_under(requests: LongRequests, service: TestService) -> dict[str, Any]:
    """The receipt of v2's deploy. The sending ends when v2 answers."""
    file = service.directory / "receipt.json"
    deploying = service.start("deploy", "v2", "--receipt", str(file))
    eventually(lambda: service.get().text == "version 2\n", "v2 answers")
    requests.quiet()
    ran = service.finish(deploying)
    assert ran.code == 0, ran.text
    return json.loads(file.read_text())


@contextlib.contextmanager
def _stop_of(container: str) -> Iterator[list[float]]:
    """When the container was asked to stop (wall clock), complete at the end of the block."""
    times: list[float] = []
    with contextlib.closing(docker.from_env()) as client:
        events = client.events(decode=True, filters={"container": container, "event": ["kill", "destroy"]})

        def collect() -> None:
            for event in events:
                if event["Action"] == "destroy":
                    return
                times.append(event["timeNano"] / 1e9)

        thread = threading.Thread(target=collect, daemon=True)
        thread.start()
        try:
            yield times
            thread.join(30)
            assert not thread.is_alive(), f"{container} was not removed"
        finally:
            events.close()
