"""The endless curl loop as a command: who answers, how often, how fast, until told to stop."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bluegreen.witness import Answer, Connector, Prober, Tally, latency_ms, percentiles_ms, shown, ticks


def watch(
    url: str,
    path: str,
    host: str | None,
    *,
    emit: Callable[[str], None],
    stop: threading.Event,
    rate: float = 20.0,
    seconds: float | None = None,
    timeout: float = 5.0,
    ca: Path | None = None,
    kind: str = "http",
) -> dict[str, Any]:
    """Sends `rate` requests a second on fresh connections until `stop`, Ctrl-C or the end of `seconds`.

    Emits a plain line every second and whenever the answer changes, and at the end a summary in a few lines.
    Returns that summary: `total`, `ok`, `failed`, `by_answer`, `failures` and `latency_ms` {`p50`, `p99`,
    `max`}. `timeout` is in seconds. A request that fails is counted and never raises. With the kind `tcp` it
    opens connections and sends nothing on them. Raises ValueError for a rate that is not above 0.
    """
    if rate <= 0:
        raise ValueError("a rate has to be above 0")
    tally, span = Tally(), _Span()
    prober: Prober | Connector = (
        Connector(url, timeout=timeout) if kind == "tcp" else Prober(url, path, host=host, timeout=timeout, ca=ca)
    )
    with contextlib.closing(prober), contextlib.suppress(KeyboardInterrupt):
        for _ in ticks(rate, stop, seconds=seconds):
            answer = prober.ask()
            label = "" if answer.why else shown(answer.body) or "(empty)"
            tally.add(answer, label, answer.why)
            if span.answers and label and span.label not in ("", label):
                emit(span.line())
                span = _Span()
            span.add(answer, label)
            if time.monotonic() - span.began >= 1.0:
                emit(span.line())
                span = _Span()
    if span.answers:
        emit(span.line())
    summary = {
        **tally.totals(),
        "by_answer": tally.by_label(),
        "failures": tally.failures(),
        "latency_ms": latency_ms(tally.records()),
    }
    for line in _summary_lines(summary):
        emit(line)
    return summary


class _Span:
    """What came since the last line: one answer, and what failed beside it."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.label = ""
        self.answers: list[Answer] = []

    def add(self, answer: Answer, label: str) -> None:
        self.label = label or self.label
        self.answers.append(answer)

    def line(self) -> str:
        failures = [answer.why for answer in self.answers if answer.why]
        kinds = f" ({', '.join(dict.fromkeys(failures))})" if failures else ""
        p50 = _ms(percentiles_ms(answer.seconds for answer in self.answers if answer.status)["p50"])
        good = len(self.answers) - len(failures)
        clock = time.strftime("%H:%M:%S")
        return f"{clock}  {self.label or 'no answer'}  x{good}  {len(failures)} failed{kinds}  p50 {p50}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _summary_lines(summary: dict[str, Any]) -> list[str]:
    latency = summary["latency_ms"]
    return [
        f"{summary['total']} requests, {summary['ok']} ok, {summary['failed']} failed",
        *(f"  {answer}  x{count}" for answer, count in summary["by_answer"].items()),
        *(f"  failed: {kind['why']}  x{kind['count']}" for kind in summary["failures"]),
        f"  p50 {_ms(latency['p50'])}  p99 {_ms(latency['p99'])}  max {_ms(latency['max'])}",
    ]
