"""The figures of a run, as an InfluxDB and a Prometheus take them."""

from __future__ import annotations

import json
import re
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fakes import quick_settings
from hypothesis import given
from hypothesis import strategies as st

from bluegreen import metrics
from bluegreen.errors import Failed
from bluegreen.metrics import Point, listeners, points, send, text, write
from bluegreen.model import Colour, Event, Plan, Release
from bluegreen.receipt import receipt as make_receipt
from bluegreen.settings import MetricsTable
from bluegreen.witness import Outcome, Record

PLAN = Plan("deploy", Release("v2"), Colour.GREEN, "shop:v2", Colour.BLUE, Release("v1"), (), 2)
EVENTS = [
    Event("start", "done", "local", 0.5, "shop-green-1", at=0.25),
    Event("switch", "done", "http+unix,a=b c\\", 0.1, "in use", at=1.0),
]
DASHBOARD = json.loads((Path(__file__).parents[2] / "docs/grafana/bluegreen.json").read_text())


def receipt_of(**changes: Any) -> dict[str, Any]:
    made = make_receipt("shop", "20240501-120000-abcd", PLAN, "done", EVENTS)
    figures = {"p50": 2.0, "p99": 9.5, "max": 12.0}
    nothing = {"p50": None, "p99": None, "max": None}
    return {
        **made,
        "started": "2024-05-01T12:00:00.000+00:00",
        "seconds": 12.345,
        "who": 'ann "the\\one"@laptop\nx',
        "requests": {"total": 5, "ok": 4, "failed": 1, "by_release": {"v1": 3, "v2": 1}, "failures": []},
        "latency_ms": {"before": figures, "during": figures, "after": nothing},
        **changes,
    }


def record(sent: float, label: str, *, seconds: float = 0.002, why: str = "") -> Record:
    return Record(sent, seconds, 0, Outcome(label, why, "fresh", 0 if why else 200))


def test_a_run_becomes_a_point_and_so_does_each_step() -> None:
    run, start, switch = (point.line() for point in points(receipt_of(), 100.0))
    assert run == (
        "bluegreen_run,action=deploy,release=v2,result=done,service=shop"
        ' run="20240501-120000-abcd",from="v1",who="ann \\"the\\\\one\\"@laptop x",seconds=12.345,requests=5i,'
        "failed=1i,cut=0i,leftover=0i 1714564812345"
    )
    assert start == (
        "bluegreen_step,host=local,release=v2,service=shop,state=done,step=start"
        ' run="20240501-120000-abcd",seconds=0.5 1714564800250'
    )
    assert r"host=http+unix\,a\=b\ c/,release=v2" in switch


def test_how_long_the_probes_answers_took_is_a_point() -> None:
    probes = {"tries": 4, "p50": 2.5, "p99": 40.25, "max": 40.25}
    steps = [{"step": "probe", "host": "local", "state": "done", "at": 1.5, "seconds": 0.5, "detail": ""}]
    found = [point.line() for point in points(receipt_of(probe_ms=probes, steps=steps), 100.0)]
    assert (
        'bluegreen_probe,release=v2,service=shop run="20240501-120000-abcd",'
        "tries=4i,p50_ms=2.5,p99_ms=40.25,max_ms=40.25 1714564801500"
    ) in found


def test_the_witness_becomes_a_point_a_second_and_release() -> None:
    records = [
        record(100.1, "v1"),
        record(100.9, "v1", seconds=0.004),
        record(101.0, "v2"),
        record(101.2, "v1"),
        record(101.3, "v1", why="reset"),
    ]
    lines = [point.line() for point in points(receipt_of(steps=[]), 100.0, records)][1:]
    assert lines == [
        "bluegreen_witness,outcome=ok,release=v1,service=shop"
        ' run="20240501-120000-abcd",requests=2i,p50_ms=2.0,p99_ms=4.0,max_ms=4.0 1714564800000',
        'bluegreen_witness,outcome=failed,service=shop run="20240501-120000-abcd",requests=1i 1714564801000',
        "bluegreen_witness,outcome=ok,release=v1,service=shop"
        ' run="20240501-120000-abcd",requests=1i,p50_ms=2.0,p99_ms=2.0,max_ms=2.0 1714564801000',
        "bluegreen_witness,outcome=ok,release=v2,service=shop"
        ' run="20240501-120000-abcd",requests=1i,p50_ms=2.0,p99_ms=2.0,max_ms=2.0 1714564801000',
    ]


@given(st.text(max_size=20), st.text(max_size=20))
def test_whatever_a_value_holds_a_point_is_one_line_of_three_parts(tag: str, words: str) -> None:
    line = Point("m", 1.0, {"words": words, "count": 1}, {"service": "shop", "tag": tag}).line()
    assert "\n" not in line
    quoted = r'"(?:[^"\\]|\\["\\])*"'
    assert re.fullmatch(rf"m,service=shop(?:,tag=(?:[^,= \\]|\\[,= ])+)? (?:words={quoted},)?count=1i 1000", line)


class Influx(BaseHTTPRequestHandler):
    """Answers as it is told, and remembers what came."""

    came: list[tuple[str, dict[str, Any], str, str | None]]
    answers: list[tuple[int, str]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        where = urlsplit(self.path)
        query = {key: value for key, [value] in parse_qs(where.query).items()}
        self.came.append((where.path, query, body, self.headers["Authorization"]))
        status, words = self.answers.pop(0) if self.answers else (204, "")
        self.send_response(status)
        self.send_header("Content-Length", str(len(words)))
        self.end_headers()
        self.wfile.write(words.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def influx() -> Iterator[Any]:
    kind: Any = type("AnInflux", (Influx,), {"came": [], "answers": []})
    with HTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        kind.url = f"http://127.0.0.1:{server.server_port}"
        yield kind
        server.shutdown()
        thread.join()


def some(count: int) -> Iterator[Point]:
    return (Point("m", number, {"x": number}, {"service": "shop"}) for number in range(count))


def test_points_are_sent_in_batches(influx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BATCH", 2)
    send(MetricsTable(influxdb=influx.url), some(5), {})
    assert [body.count("\n") + 1 for _, _, body, _ in influx.came] == [2, 2, 1]
    assert {(path, query["db"], query["precision"]) for path, query, _, _ in influx.came} == {
        ("/write", "fluentdb", "ms")
    }
    assert influx.came[0][2] == "m,service=shop x=0i 0\nm,service=shop x=1i 1000"


def test_a_database_that_is_not_there_is_made(influx: Any) -> None:
    influx.answers[:] = [(404, '{"error":"database not found: \\"a b\\""}'), (200, "{}")]
    table = MetricsTable(influxdb=influx.url, database="a b", user="ann")
    send(table, some(1), {"BLUEGREEN_INFLUXDB_PASSWORD": "secret"})
    assert [(path, query.get("q")) for path, query, _, _ in influx.came] == [
        ("/write", None),
        ("/query", 'CREATE DATABASE "a b"'),
        ("/write", None),
    ]
    assert {who for *_, who in influx.came} == {"Basic YW5uOnNlY3JldA=="}


def test_the_api_of_2_gets_a_bucket_and_a_token(influx: Any) -> None:
    table = MetricsTable(influxdb=influx.url, bucket="deploys", org="example")
    send(table, some(1), {"BLUEGREEN_INFLUXDB_TOKEN": "secret"})
    [(path, query, _, who)] = influx.came
    assert (path, query) == ("/api/v2/write", {"bucket": "deploys", "org": "example", "precision": "ms"})
    assert who == "Token secret"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([(401, "unauthorized")], "answered 401: unauthorized"),
        ([(404, "database not found"), (403, "not allowed")], "answered 403: not allowed"),
        ([(404, "database not found"), (200, ""), (404, "database not found")], "answered 404: database not found"),
        ([(400, "partial write: " + "x" * 999)], "answered 400: partial write: x"),
    ],
)
def test_what_it_refuses_is_said(influx: Any, answers: list[tuple[int, str]], words: str) -> None:
    influx.answers[:] = answers
    with pytest.raises(Failed) as caught:
        send(MetricsTable(influxdb=influx.url), some(1), {})
    assert words in caught.value.message
    assert len(caught.value.message) < 300
    assert not influx.answers


def test_one_that_is_away_is_said() -> None:
    with pytest.raises(Failed, match=r"http://127.0.0.1:9 can't be reached: .*Connection refused"):
        send(MetricsTable(influxdb="http://127.0.0.1:9"), some(1), {})


def test_without_settings_nobody_is_told() -> None:
    assert listeners(quick_settings(), receipt_of(), 0.0, list) == {}
    both = quick_settings(metrics={"influxdb": "http://127.0.0.1:9", "textfile": "a.prom"})
    assert set(listeners(both, receipt_of(), 0.0, list)) == {"influxdb", "textfile"}


SAMPLE = re.compile(r'(bluegreen_\w+)\{(?:\w+="(?:[^"\\\n]|\\[\\n"])*",?)+\} (\S+)')


def test_prometheus_reads_the_last_run() -> None:
    lines = text(receipt_of(service='a"\\\nb')).splitlines()
    samples = [match for line in lines if (match := SAMPLE.fullmatch(line))]
    assert len(samples) + sum(line.startswith(("# HELP ", "# TYPE ")) for line in lines) == len(lines)
    assert all(float(match[2]) >= 0 for match in samples)
    typed = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert {match[1] for match in samples} == set(typed)
    assert len(typed) == len(set(typed))
    assert 'service="a\\"\\\\\\nb"' in lines[2]
    mine = text(receipt_of())
    run = '{service="shop",action="deploy",release="v2",result="done"}'
    assert f"bluegreen_run_end_timestamp_seconds{run} 1714564812.345\n" in mine
    assert 'bluegreen_witness_answered_requests{service="shop",release="v1"} 3\n' in mine
    assert 'bluegreen_witness_latency_seconds{service="shop",phase="before",quantile="0.99"} 0.0095\n' in mine
    assert 'phase="after"' not in mine


def test_a_step_that_was_done_twice_is_one_sample() -> None:
    twice = [{"step": "probe", "state": "done", "host": "local", "at": 0, "seconds": 1.5, "detail": ""}] * 2
    assert text(receipt_of(steps=twice)).count('bluegreen_step_duration_seconds{service="shop",step="probe"') == 1


def test_the_text_file_is_replaced_whole_and_others_may_read_it(tmp_path: Path) -> None:
    file = tmp_path / "shop.prom"
    file.write_text("before")
    write(file, receipt_of())
    assert file.read_text() == text(receipt_of())
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "shop.prom", receipt_of())


def test_the_dashboard_asks_for_what_is_written() -> None:
    records = [record(100.1, "v1"), record(100.2, "v1", why="reset")]
    switch = {"at": None, "first_new_ms": 1.0, "last_old_ms": 0.5}
    known: dict[str, set[str]] = {}
    for point in points(receipt_of(switch=switch), 100.0, records):
        known.setdefault(point.name, {"time"}).update(point.tags, point.fields)
    asked = [target["query"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    asked += [each["query"] for each in DASHBOARD["annotations"]["list"]]
    assert {re.findall(r'FROM "(\w+)"', query)[0] for query in asked} == set(known)
    for query in asked:
        [name] = re.findall(r'FROM "(\w+)"', query)
        given = set(re.findall(r'AS "(\w+)"', query))
        assert set(re.findall(r'"(\w+)"', query)) - {name} - given <= known[name], query
        assert '"service" =~ /^$service$/' in query
