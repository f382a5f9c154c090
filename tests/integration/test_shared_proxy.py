"""Two services behind one proxy, told apart by host name: neither harms the other."""

from __future__ import annotations

import json
import random
from typing import Any

import docker
import httpx
import pytest
from evidence import SWITCHES, log
from harness import IMAGES, Make, TestService
from load import Load

COUNT = 10 if SWITCHES >= 10 else 2
A, B = "a.example", "b.example"


@pytest.fixture
def pair(make_service: Make) -> tuple[TestService, TestService]:
    """Two services of one proxy, neither of them deployed."""
    a = make_service(hosts=[A])
    return a, make_service(hosts=[B], port=a.port)


def _load(service: TestService, host: str) -> Load:
    return Load(service.url, host=host, rate=200, seconds=1800)


def _get(service: TestService, host: str, path: str = "/version") -> str:
    return service.get(path, headers={"Host": host}).raise_for_status().text


def test_the_first_deploy_of_a_second_service_costs_the_first_one_nothing(
    pair: tuple[TestService, TestService],
) -> None:
    a, b = pair
    a.deploy("v1")
    with _load(a, A) as load:
        before = load.wait_for_requests(300).total
        b.deploy("v2")  # the proxy joins another network and reads another file
        load.wait_for_requests(before + 300)
        result = load.stop()
    assert result.failed == 0, result.explain()
    assert set(result.by_release) == {"v1"}
    assert (_get(a, A), _get(b, B)) == ("version 1\n", "version 2\n")


def test_deploys_of_one_service_and_its_end_cost_neither_a_request(pair: tuple[TestService, TestService]) -> None:
    a, b = pair
    a.deploy("v1")
    b.deploy("v3")
    receipts = []
    with _load(b, B) as load_b:
        with _load(a, A) as load_a:
            so_far = load_a.wait_for_requests(200).total
            for number in range(COUNT):
                receipts.append(a.deploy(f"v{2 - number % 2}"))
                so_far = load_a.wait_for_requests(so_far + 300).total
            of_a = load_a.stop()
        before = load_b.snapshot().total
        a.ok("down", "--yes")
        load_b.wait_for_requests(before + 300)
        of_b = load_b.stop()
    log(
        f"nginx {b.status()['proxy']['version']}, shared proxy: {COUNT} deploys of one service of two, then its end;"
        f" {of_a.total} requests to it, {of_a.failed} failed; {of_b.total} to the other, {of_b.failed} failed"
    )
    assert of_a.failed == 0, of_a.explain()
    assert of_b.failed == 0, of_b.explain()
    assert set(of_a.by_release) == {"v1", "v2"}
    assert set(of_b.by_release) == {"v3"}
    assert [receipt["requests"]["failed"] for receipt in receipts] == [0] * COUNT
    assert a.containers() == {}
    assert a.get(headers={"Host": A}).status_code == 404
    assert _get(b, B) == "version 3\n"


def test_the_app_sees_the_clients_host_and_address_and_gets_large_bodies_and_nothing_else(
    pair: tuple[TestService, TestService], engine: docker.DockerClient
) -> None:
    a, b = pair
    a.deploy("v1")
    b.deploy("v2")
    told = _seen_by_app(engine, a.port, B)
    seen = {name.lower(): value for name, value in told["seen"]["headers"].items()}
    assert seen["host"] == B
    assert seen["x-forwarded-for"] == told["client"], "what the client claims is not believed"
    assert seen["x-real-ip"] == told["client"]
    assert seen["x-forwarded-proto"] == "http"
    assert seen["x-forwarded-host"] == B

    body = random.randbytes(5_000_000)
    echo = httpx.post(f"{a.url}/echo", content=body, headers={"Host": A}, timeout=30, trust_env=False)
    assert echo.status_code == 200
    assert echo.content == body

    for host in ("c.example", "127.0.0.1", f"x.{A}"):
        assert a.get(headers={"Host": host}).status_code == 404, "no service claims it"


def _seen_by_app(engine: docker.DockerClient, port: int, host: str) -> dict[str, Any]:
    """What the app was told of a request from another container, and that container's address."""
    proxy = f"bluegreen-proxy-127.0.0.1-{port}"
    program = f"""
import json, socket, urllib.request
lies = {{"X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6", "X-Forwarded-Proto": "https"}}
lies["X-Forwarded-Host"] = "evil.example"
request = urllib.request.Request("http://{proxy}:8080/headers", headers={{**lies, "Host": "{host}"}})
seen = json.load(urllib.request.urlopen(request, timeout=30))
print(json.dumps({{"client": socket.gethostbyname(socket.gethostname()), "seen": seen}}))
"""
    out = engine.containers.run(
        f"{IMAGES}:v1",
        ["python3", "-c", program],
        network=f"bluegreen-edge-127.0.0.1-{port}",
        labels={"bluegreen.test": "client"},
        remove=True,
    )
    return json.loads(out)
