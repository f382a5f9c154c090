"""The figures of real runs, in a real InfluxDB."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import docker
import httpx
import pytest
from harness import PREFIX, REPOSITORY, Make, eventually

DASHBOARD = json.loads((REPOSITORY / "docs/grafana/bluegreen.json").read_text())


class InfluxDB:
    """In a container, as people run it."""

    def __init__(self, engine: docker.DockerClient, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.container = engine.containers.run(
            "influxdb:1.8",
            detach=True,
            name=f"{PREFIX}-{os.getpid()}-influxdb",
            labels={"bluegreen.test": "influxdb"},
            ports={"8086/tcp": ("127.0.0.1", port)},
            environment={"INFLUXDB_REPORTING_DISABLED": "true"},
        )
        eventually(self._answers, "the InfluxDB does not answer")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ping", trust_env=False).status_code == 204
        except httpx.HTTPError:
            return False

    def rows(self, query: str) -> list[dict[str, Any]]:
        """What it answers, the tags of each series among the columns."""
        answer = httpx.get(
            f"{self.url}/query", params={"db": "fluentdb", "q": query}, timeout=30, trust_env=False
        ).json()
        [result] = answer["results"]
        assert "error" not in result, (query, result)
        return [
            {**series.get("tags", {}), **dict(zip(series["columns"], row, strict=True))}
            for series in result.get("series", [])
            for row in series["values"]
        ]


@pytest.fixture
def influxdb(engine: docker.DockerClient, free_port: Callable[[], int]) -> Iterator[InfluxDB]:
    found = InfluxDB(engine, free_port())
    yield found
    found.container.remove(force=True, v=True)


def test_what_a_deploy_did_and_what_its_witness_saw_can_be_asked_for(make_service: Make, influxdb: InfluxDB) -> None:
    service = make_service(extra=f'[metrics]\ninfluxdb = "{influxdb.url}"\ntextfile = "shop.prom"')
    service.deploy("v1")
    receipt = service.deploy("v2")
    assert service.run("deploy", "v4-exits").code == 1

    runs = influxdb.rows("SELECT * FROM bluegreen_run")
    assert [(run["action"], run["from"], run["release"], run["result"]) for run in runs] == [
        ("deploy", None, "v1", "done"),
        ("deploy", "v1", "v2", "done"),
        ("deploy", "v2", "v4-exits", "undone"),
    ]
    assert {run["service"] for run in runs} == {service.name}
    assert (runs[1]["run"], runs[1]["seconds"]) == (receipt["run"], receipt["seconds"])
    assert (runs[1]["requests"], runs[1]["failed"]) == (receipt["requests"]["total"], 0)

    steps = influxdb.rows(f"SELECT step, seconds FROM bluegreen_step WHERE run = '{receipt['run']}'")
    assert [(each["step"], each["seconds"]) for each in steps] == [
        (each["step"], each["seconds"]) for each in receipt["steps"]
    ]

    counted = influxdb.rows(
        "SELECT sum(requests) AS n, max(p99_ms) AS p99 FROM bluegreen_witness"
        f" WHERE outcome = 'ok' AND run = '{receipt['run']}' GROUP BY release"
    )
    by_release = receipt["requests"]["by_release"]
    assert {each["release"] for each in counted} == {"v1", "v2"}
    assert {each["release"]: each["n"] for each in counted}["v1"] == by_release["v1"]
    assert all(each["p99"] > 0 for each in counted)

    for query in (target["query"] for panel in DASHBOARD["panels"] for target in panel["targets"]):
        for variable, value in (
            ("$timeFilter", "time > now() - 1h"), ("$service", service.name), ("$__interval", "1s")
        ):
            query = query.replace(variable, value)
        assert influxdb.rows(query) or "failed' GROUP" in query, f"the dashboard shows nothing for {query}"

    kept = (service.directory / "shop.prom").read_text()
    assert f'bluegreen_run_end_timestamp_seconds{{service="{service.name}",action="deploy",release="v4-exits"' in kept


def test_an_influxdb_that_goes_away_is_a_warning(make_service: Make, influxdb: InfluxDB) -> None:
    service = make_service(extra=f'[metrics]\ninfluxdb = "{influxdb.url}"')
    service.deploy("v1")
    influxdb.container.stop(timeout=5)
    ran = service.ok("deploy", "v2")
    assert f"influxdb    not told of this run: {influxdb.url} can't be reached" in ran.out
    assert service.live() == "v2"
    influxdb.container.start()
    eventually(influxdb._answers, "the InfluxDB does not answer")
    influxdb.container.pause()  # its port is open, and nobody answers
    try:
        ran = service.ok("rollback")
    finally:
        influxdb.container.unpause()
    assert "influxdb    not told of this run: " in ran.out
    assert service.live() == "v1"
    service.deploy("v3")
    eventually(lambda: bool(influxdb.rows("SELECT * FROM bluegreen_run WHERE \"release\" = 'v3'")), "v3's run")
