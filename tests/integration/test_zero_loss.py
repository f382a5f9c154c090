"""A switch under load loses no request: the promise that the whole product is for."""

from __future__ import annotations

import pytest
from evidence import SWITCHES, LongRequests, log, switched_at
from harness import Make
from load import Load

COUNT = SWITCHES or 2
LONG = COUNT >= 20
PER_SWITCH = 2500 if LONG else 500
"""Requests from the start of one deploy until the next may start, at least."""
RATE = 400 if LONG else 200

SAMPLE = [
    ("nginx:1.22", "live"),
    ("nginx:stable", "reload"),
    ("haproxy:2.6", "live"),
    ("haproxy:3.2", "reload"),
]
REST = [("nginx:stable", "live"), ("haproxy:2.6", "reload"), ("haproxy:3.2", "live")]
"""Not nginx 1.22 by reload: before 1.27.4 nginx closes idle connections as it reloads."""

KINDS = {"keepalive", "post", "fresh", "slow", "stream"}


@pytest.mark.parametrize(("image", "mode"), [*SAMPLE, *(REST if LONG else [])])
def test_no_request_fails_while_releases_are_switched_under_load(make_service: Make, image: str, mode: str) -> None:
    service = make_service(image=image, switch=mode)
    service.deploy("v1")
    receipts = []
    with Load(service.url, seconds=1800, rate=RATE) as load, LongRequests(service.url, slow=3, stream=2) as long:
        so_far = load.wait_for_requests(200).total
        for number in range(COUNT):
            receipts.append(service.deploy(f"v{2 - number % 2}"))
            so_far = load.wait_for_requests(so_far + PER_SWITCH).total
        result = load.stop()
        requests = long.stop()
        version = service.status()["proxy"]["version"]

    seen = sum(receipt["requests"]["total"] for receipt in receipts)
    lost = sum(receipt["requests"]["failed"] for receipt in receipts)
    wrong = [request for request in requests if request.wrong]
    log(
        f"{image.partition(':')[0]} {version}, {mode}: {COUNT} switches, {result.total} requests of the load,"
        f" {result.failed} failed,"
        f" in {result.seconds:.0f} s; ok by release: {_counts(result.by_release)};"
        f" by kind: {_counts({kind: n['total'] for kind, n in result.by_kind.items()})};"
        f" {len(requests)} long ones followed one by one, {len(wrong)} failed; witness: {seen}, {lost} failed"
    )
    assert result.failed == 0, result.explain()
    assert not wrong
    assert lost == 0, [receipt["requests"] for receipt in receipts]
    assert [receipt["result"] for receipt in receipts] == ["done"] * COUNT

    # It was a real load: all kinds, both releases, enough of it, and long requests in flight across every switch.
    assert {kind for kind, n in result.by_kind.items() if n["ok"]} == KINDS
    assert set(result.by_release) == {"v1", "v2"}
    assert result.total >= (50_000 if LONG else COUNT * PER_SWITCH)
    for receipt in receipts:
        at = switched_at(receipt)
        held = {request.kind for request in requests if request.release == receipt["from"] and request.across(at)}
        assert held == {"slow", "stream"}, f"nothing of the old release was in flight at {receipt['switch']['at']}"


def _counts(of: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(of.items()))
