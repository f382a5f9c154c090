"""The figures of a run: for an InfluxDB in line protocol, and as a text file for Prometheus."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from bluegreen.errors import Failed
from bluegreen.settings import MetricsTable, Settings
from bluegreen.witness import Record, latency_ms

BATCH = 5000
"""Points in one request."""

CONNECT_TIMEOUT, TIMEOUT = 1.0, 4.0
"""Seconds in which an InfluxDB must take the connection, and each request."""

PASSWORD, TOKEN = "BLUEGREEN_INFLUXDB_PASSWORD", "BLUEGREEN_INFLUXDB_TOKEN"
"""The environment variables with the secrets."""

Value = float | int | str


@dataclass(frozen=True)
class Point:
    """Fields measured at a moment, in seconds since 1970, told apart by tags. Empty tags and fields are none."""

    name: str
    at: float
    fields: Mapping[str, Value | None]
    tags: Mapping[str, str] = field(default_factory=dict)

    def line(self) -> str:
        """The point in line protocol, with a precision of milliseconds."""
        escaped = {key: _tag(value) for key, value in sorted(self.tags.items())}
        tags = "".join(f",{key}={value}" for key, value in escaped.items() if value)
        fields = ",".join(f"{key}={_field(value)}" for key, value in self.fields.items() if value not in (None, ""))
        return f"{self.name}{tags} {fields} {round(self.at * 1000)}"


def listeners(
    settings: Settings, receipt: Mapping[str, Any], clock: float, records: Callable[[], Sequence[Record]]
) -> dict[str, Callable[[], None]]:
    """What is to be called when a run has ended: nothing if nobody keeps figures. `clock` is when it began."""
    table, found = settings.metrics, dict[str, Callable[[], None]]()
    if table.influxdb:
        found["influxdb"] = lambda: send(table, points(receipt, clock, records()))
    if table.textfile:
        found["textfile"] = partial(write, settings.root / table.textfile, receipt)
    return found


def points(receipt: Mapping[str, Any], clock: float, records: Iterable[Record] = ()) -> Iterator[Point]:
    """A point for the run, for each of its steps and for its probes, and the witness's requests, second by second.

    `clock` is when the run began by the records' clock. Each point has the tag `service`.
    """
    service, run = {"service": receipt["service"]}, {"run": receipt["run"]}
    began = datetime.fromisoformat(receipt["started"]).timestamp()
    requests = receipt["requests"]
    yield Point(
        "bluegreen_run",
        began + receipt["seconds"],
        {
            **run,
            "from": receipt["from"],
            "who": receipt["who"],
            "seconds": float(receipt["seconds"]),
            "requests": requests["total"],
            "failed": requests["failed"],
            "cut": receipt["cut"],
            "leftover": len(receipt["leftover"]),
            **{key: _float(receipt["switch"][key]) for key in ("first_new_ms", "last_old_ms")},
        },
        service | {"action": receipt["action"], "release": receipt["to"], "result": receipt["result"]},
    )
    for step in receipt["steps"]:
        yield Point(
            "bluegreen_step",
            began + step["at"],
            {**run, "seconds": float(step["seconds"])},
            service
            | {"step": step["step"], "state": step["state"], "host": step["host"], "release": receipt["to"]},
        )
    if receipt["probe_ms"]["tries"]:
        probed = {f"{key}_ms": _float(receipt["probe_ms"][key]) for key in ("p50", "p99", "max")}
        at = next((step["at"] for step in receipt["steps"] if step["step"] == "probe"), 0.0)
        tags = service | {"release": receipt["to"]}
        yield Point("bluegreen_probe", began + at, {**run, "tries": receipt["probe_ms"]["tries"], **probed}, tags)
    for (second, release), sent in sorted(_by_second(records, began - clock).items()):
        figures = {f"{name}_ms": _float(value) for name, value in latency_ms(sent).items()}
        yield Point(
            "bluegreen_witness",
            second,
            {**run, "requests": len(sent), **figures},
            service | {"outcome": "ok" if release else "failed", "release": release},
        )


def _by_second(records: Iterable[Record], offset: float) -> dict[tuple[int, str], list[Record]]:
    """The requests by the second in which they were sent and the release that answered; empty for a failure."""
    found = defaultdict(list)
    for record in records:
        release = record.outcome.label if record.outcome.ok else ""
        found[math.floor(record.sent + offset), release].append(record)
    return found


def send(table: MetricsTable, found: Iterable[Point], environ: Mapping[str, str] = os.environ) -> None:
    """The InfluxDB has the points, in batches; a database that is not there was made. Raises Failed."""
    import httpx

    if table.bucket:
        path = "/api/v2/write"
        where = {"bucket": table.bucket, **({"org": table.org} if table.org else {})}
        headers = {"Authorization": f"Token {environ[TOKEN]}"} if environ.get(TOKEN) else {}
        auth = None
    else:
        path, where, headers = "/write", {"db": table.database}, {}
        auth = (table.user, environ.get(PASSWORD, "")) if table.user else None
    timeout = httpx.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT)
    try:
        with httpx.Client(base_url=table.influxdb, headers=headers, auth=auth, timeout=timeout) as client:

            def post(lines: str) -> httpx.Response:
                return client.post(path, params={**where, "precision": "ms"}, content=lines.encode(errors="replace"))

            for batch in _batches(found):
                answer = post(batch)
                if answer.status_code == 404 and "database not found" in answer.text:
                    made = client.post("/query", params={"q": f'CREATE DATABASE "{table.database}"'})
                    answer = post(batch) if made.is_success else made
                if not answer.is_success:
                    raise Failed(f"{table.influxdb} answered {answer.status_code}: {answer.text.strip()[:200]}")
    except httpx.HTTPError as error:
        raise Failed(f"{table.influxdb} can't be reached: {error or type(error).__name__}") from None


def _batches(found: Iterable[Point]) -> Iterator[str]:
    lines = (point.line() for point in found)
    while batch := list(islice(lines, BATCH)):
        yield "\n".join(batch)


def write(file: Path, receipt: Mapping[str, Any]) -> None:
    """The file has the figures of the run, whole. Raises OSError."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        aside.write_text(text(receipt), encoding="utf-8")
        aside.chmod(0o644)  # the node exporter is somebody else
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def text(receipt: Mapping[str, Any]) -> str:
    """The figures of the run as Prometheus reads them: of the last run, as gauges."""
    service = {"service": receipt["service"]}
    run = service | {"action": receipt["action"], "release": receipt["to"], "result": receipt["result"]}
    ended = datetime.fromisoformat(receipt["started"]).timestamp() + receipt["seconds"]
    requests = receipt["requests"]
    answered = [(service | {"release": name}, count) for name, count in requests["by_release"].items()]
    taken = defaultdict[tuple[str, str, str], float](float)
    for step in receipt["steps"]:
        taken[step["step"], step["state"], step["host"]] += step["seconds"]
    latencies = [
        (service | {"phase": phase, "quantile": quantile}, figures[name] / 1000)
        for phase, figures in receipt["latency_ms"].items()
        for name, quantile in (("p50", "0.5"), ("p99", "0.99"), ("max", "1"))
        if figures[name] is not None
    ]
    gauges: list[tuple[str, str, list[tuple[dict[str, str], float]]]] = [
        ("run_end_timestamp_seconds", "When the last run ended.", [(run, ended)]),
        ("run_duration_seconds", "How long it took.", [(run, receipt["seconds"])]),
        ("run_leftover", "What it could not clean up.", [(service, len(receipt["leftover"]))]),
        ("run_cut_requests", "Requests that the old release's end cut.", [(service, receipt["cut"])]),
        (
            "step_duration_seconds",
            "How long each step took.",
            [(service | dict(zip(("step", "state", "host"), key, strict=True)), value) for key, value in taken.items()],
        ),
        ("witness_failed_requests", "The witness's requests that failed.", [(service, requests["failed"])]),
        ("witness_answered_requests", "The witness's requests that a release answered.", answered),
        ("witness_latency_seconds", "How long the witness waited.", latencies),
    ]
    lines = []
    for name, words, samples in gauges:
        if samples:
            lines += [f"# HELP bluegreen_{name} {words}", f"# TYPE bluegreen_{name} gauge"]
            lines += [f"bluegreen_{name}{{{_labels(labels)}}} {value:.15g}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')

    return ",".join(f'{key}="{escaped(value)}"' for key, value in labels.items())


def _float(value: float | None) -> float | None:
    """Never an int, which InfluxDB does not take where it has a float."""
    return None if value is None else float(value)


def _tag(value: str) -> str:
    """Escaped. A backslash can't be: at the end it would take away what ends the value."""
    words = " ".join(value.replace("\\", "/").split())
    return words.replace(",", "\\,").replace("=", "\\=").replace(" ", "\\ ")


def _field(value: Value | None) -> str:
    if isinstance(value, str):
        words = " ".join(value.split())
        return '"' + words.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{value}i" if isinstance(value, int) else f"{value}"
