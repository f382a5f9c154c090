"""The service as a page that keeps up with it: `bluegreen dashboard`.

It reads: the service is opened anew for every look, in one thread, so that no client of the engine is shared and an
engine that went away is found again; and the public address is asked a few times a second. Both only while somebody
looks. What they find goes to each open page as one stream of server-sent events.

With `--allow-actions` a deploy or a rollback can be started from the page. It is the command itself, `bluegreen deploy
RELEASE --json`, as a process in a session of its own that writes into a nameless file: simple, the same code and the
same lock as typed in a terminal, and nothing that becomes of the dashboard, Ctrl-C and `kill -9` included, reaches it.
It ends as if the dashboard were still there, and its receipt is in the history.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from docker.errors import DockerException

from bluegreen.errors import BluegreenError, Failed, Unexpected
from bluegreen.history import line
from bluegreen.model import Release
from bluegreen.probe import public_host
from bluegreen.service import Service
from bluegreen.settings import Settings, load
from bluegreen.vip import Vip
from bluegreen.witness import UNTOLD, Answer, Connector, Prober, percentiles_ms, shown, ticks
from bluegreen.words import plain

VARIABLE = "BLUEGREEN_DASHBOARD_TOKEN"

LOOK_EVERY = 1.0
"""Seconds between two looks at the service."""

SLOW_LOOK_EVERY = 10.0
"""Seconds between two looks at what takes longer and changes seldom: the history and the VIP."""

LINGER = 30.0
"""Seconds for which the looking goes on when nobody looks any more."""

RATE = 5.0
"""Requests a second to the public address."""

TIMEOUT = 2.0
"""Seconds that an answer may take."""

SECONDS = 60
"""How far back the traffic is shown."""

RUNS = 25
"""How many runs of the history are shown."""

ROWS = 200
"""How many rows of an action are kept, its first and its last ones."""

PLAN_SECONDS = 120
"""How long a plan may take."""


class Asked(NamedTuple):
    """What one request to the public address came to: who answered, or why it failed."""

    at: float
    seconds: float
    answer: str
    why: str


class Traffic:
    """The answers of the last minute at the public address. Written by one thread, read by others."""

    def __init__(self) -> None:
        self._asked: deque[Asked] = deque(maxlen=int(RATE * (SECONDS + 2)))

    def add(self, answer: Answer, kind: str) -> None:
        label = "" if answer.why else (UNTOLD if kind == "tcp" else shown(answer.body))
        self._asked.append(Asked(answer.sent, answer.seconds, label, answer.why))

    def clear(self) -> None:
        self._asked.clear()

    def shown(self, now: float, names: Mapping[str, str], colours: Mapping[str, str]) -> dict[str, Any]:
        """The whole seconds before now, each with its answers per release and its failures.

        `names` has the release of an answer, `colours` the colour of a release. Another answer stands for itself.
        """
        end = math.floor(now)
        asked = [each for each in list(self._asked) if end - SECONDS <= each.at < end]
        who = [names.get(each.answer, each.answer or "(empty)") for each in asked]
        counts = Counter(name for name, each in zip(who, asked, strict=True) if not each.why)
        releases = sorted(counts, key=lambda name: (colours.get(name) is None, who.index(name)))
        bars = [[0] * (len(releases) + 1) for _ in range(SECONDS)]
        for name, each in zip(who, asked, strict=True):
            bar = bars[math.floor(each.at) - end + SECONDS]
            bar[-1 if each.why else releases.index(name)] += 1
        latency = percentiles_ms(each.seconds for each in asked if not each.why)
        return {
            "releases": [{"name": name, "colour": colours.get(name), "count": counts[name]} for name in releases],
            "bars": bars,
            "failed": sum(bool(each.why) for each in asked),
            "failures": [
                {"why": why, "count": count} for why, count in Counter(each.why for each in asked if each.why).items()
            ],
            "p50_ms": latency["p50"],
            "p99_ms": latency["p99"],
            "rate": RATE,
        }


class View:
    """What was found at the last look at the service. Written by one thread, read by others."""

    def __init__(self, read: Callable[[], Settings], opened: Callable[[Settings], Any]) -> None:
        self._read, self._open = read, opened
        self._lock = threading.Lock()
        self._slow_at = -math.inf
        self._slow_for: object = None
        self._runs: list[dict[str, Any]] = []
        self._vips: list[dict[str, Any]] = []
        self._colours: dict[str, str] = {}
        self.settings = read()
        self.found: dict[str, Any] | None = None
        self.number = 0
        """Which find it is: it rises with every change."""
        self.at = time.monotonic() - 1000.0
        """When the last look was begun that found anything."""
        self.error = ""
        self.hint = ""

    def look(self) -> None:
        """What can be found out now is known, or why it can't. Raises nothing."""
        began = time.monotonic()
        try:
            settings = self._read()
            with self._open(settings) as service:
                found = self._found(service)
        except Exception as error:
            known = error if isinstance(error, BluegreenError) else Unexpected(error)
            self.error, self.hint = plain(known.message)[:1000], known.hint
            return
        with self._lock:
            self.settings, self.at, self.error, self.hint = settings, began, "", ""
            if found != self.found:
                self.found = found
                self.number += 1

    def age(self) -> float:
        """Seconds since the last look that found anything."""
        return time.monotonic() - self.at

    def names(self) -> tuple[dict[str, str], dict[str, str]]:
        """Which release gives which answer, and of which colour it is."""
        with self._lock:
            colours = dict(self._colours)
            expected = {name: self.settings.expected_body(Release(name)) for name in colours}
            return {shown(body): name for name, body in expected.items() if body is not None}, colours

    def _found(self, service: Service) -> dict[str, Any]:
        status = service.status()
        slots = [_slot(slot, status) for slot in service.runtime.slots().values()]
        self._look_slowly(service, (status["lock"], status["live"]))
        colours = {run["to"]: run["colour"] for run in reversed(self._runs) if run["to"] and run["colour"]}
        colours |= {slot["release"]: slot["colour"] for slot in sorted(slots, key=lambda slot: bool(slot["role"]))}
        with self._lock:
            self._colours = colours
        return {
            **status,
            "slots": sorted(slots, key=lambda slot: str(slot["colour"])),
            "vips": self._vips if service.settings.vip else [],
            "runs": self._runs,
        }

    def _look_slowly(self, service: Service, changed: object) -> None:
        """The history and the VIP are known: looked at now, if that is long ago or what is live or locked changed."""
        if changed == self._slow_for and time.monotonic() - self._slow_at < SLOW_LOOK_EVERY:
            return
        self._runs = [{**line(kept), "colour": _colour_of(kept.receipt or {})} for kept in service.runs()[:RUNS]]
        if service.settings.vip:
            self._vips = _vips(service)
        self._slow_for, self._slow_at = changed, time.monotonic()


def _vips(service: Service) -> list[dict[str, Any]]:
    """What each host says of the VIP; why, where it can't be told."""

    def one(name: str, client: Any) -> dict[str, Any]:
        try:
            return {"host": name, "error": "", **Vip(client, service.settings).status()}
        except (BluegreenError, DockerException) as error:
            return {"host": name, "error": plain(str(error))[:500]}

    if service.hosts is None:
        return [one(service.runtime.name, service.client)]
    return service.hosts.each(lambda host: one(host.name, host.client))


def _slot(slot: Any, status: Mapping[str, Any]) -> dict[str, Any]:
    """What stands in a colour, and as what: live, on standby, or neither."""
    colour = str(slot.colour)
    roles = [role for role in ("live", "standby") if status[role] and status[role]["colour"] == colour]
    return {
        "colour": colour,
        "release": slot.release.name,
        "digest": slot.release.digest,
        "image": slot.image,
        "role": roles[0] if roles else "",
        "since": slot.since,
        "wanted": slot.wanted,
        "running": slot.running,
        "replicas": [
            {"name": each.name, "running": each.running, "status": each.status, "restarts": each.restarts}
            for each in slot.replicas
        ],
    }


def _colour_of(receipt: Mapping[str, Any]) -> str | None:
    """In which colour the release of a run went live, if the receipt tells; it is not trusted to."""
    colours = receipt.get("colours")
    colour = colours.get("to") if isinstance(colours, dict) else None
    return colour if colour in ("blue", "green") and isinstance(receipt.get("to"), str) else None


class Action:
    """A run that was started here, as a process of its own, and what it has told so far.

    It lives on without us: it is in a session of its own, and no pipe ties it to whoever reads what it writes.
    """

    def __init__(self, arguments: list[str], title: str) -> None:
        self.title = title
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (for as long as this action is known)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bluegreen", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment(os.environ),
        )
        self._lock = threading.Lock()
        self._read_to = 0
        self._rest = b""
        self.story = Story()

    @property
    def process(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    def told(self) -> dict[str, Any]:
        """What it has told so far, and how it ended if it has."""
        with self._lock:
            code = self._process.poll()  # first: whatever it wrote before its end is there then
            while piece := os.pread(self._file.fileno(), 1 << 16, self._read_to):
                self._read_to += len(piece)
                *lines, self._rest = (self._rest + piece).split(b"\n")
                for each in lines:
                    self.story.add(each.decode(errors="replace"))
            return {
                "id": f"{self.process}-{self._read_to}-{code}",
                "title": self.title,
                "process": self.process,
                "running": code is None,
                "code": code,
                **self.story.told(),
            }


@dataclass
class Story:
    """What the lines of `bluegreen deploy --json` come to: a row for each step, the error, the receipt."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    receipt: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    words: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """The line is told of; what is no event is kept as words."""
        try:
            event = json.loads(text)
            state = event["event"]
            if state == "receipt":
                self.receipt = event
            elif state == "error":
                self.error = {"message": plain(str(event["message"])), "hint": plain(str(event["hint"]))}
            else:
                self._add(state, str(event["step"]), str(event["host"]), float(event["seconds"]), str(event["detail"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            if text.strip():
                self.words = [*self.words[-49:], plain(text)[:500]]

    def told(self) -> dict[str, Any]:
        receipt = self.receipt
        return {
            "steps": [*self.rows],
            "error": self.error,
            "words": [*self.words],
            "receipt": {key: receipt.get(key) for key in ("run", "action", "from", "to", "result", "reason")}
            if receipt
            else None,
        }

    def _add(self, state: str, step: str, host: str, seconds: float, detail: str) -> None:
        detail = plain(detail)[:4000]
        running = next(
            (row for row in reversed(self.rows) if (row["step"], row["host"], row["state"]) == (step, host, "started")),
            None,
        )
        if state == "started" or running is None:
            self.rows.append({"step": step, "host": host, "state": state, "seconds": seconds, "detail": detail})
            if len(self.rows) > ROWS:
                del self.rows[ROWS // 2]
        elif state == "progress":
            running["detail"] = detail or running["detail"]
        else:
            running.update(state=state, seconds=seconds, detail=detail)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a run gets of our environment: all but our token, which is none of its hooks' business."""
    return {name: value for name, value in environ.items() if name != VARIABLE}


class Dashboard:
    """One service's dashboard: what was found, who looks at it, and the run that was started here last."""

    def __init__(
        self, config: Path | None, *, allow_actions: bool = False, opened: Callable[[Settings], Any] = Service.open
    ) -> None:
        self.config, self.allow_actions, self.opened = config, allow_actions, opened
        self.view = View(lambda: load(config), opened)
        self.traffic = Traffic()
        self.action: Action | None = None
        self.stop = threading.Event()
        self.viewers = 0
        self._seen = -math.inf
        self._starting = threading.Lock()

    def is_watched(self) -> bool:
        """Whether anybody looks, or did a moment ago."""
        if self.viewers:
            self._seen = time.monotonic()
        return time.monotonic() - self._seen < LINGER

    def keep_looking(self) -> None:
        """Looks at the service again and again while it is watched, until told to stop."""
        while not self.stop.wait(0.1):
            if self.is_watched():
                self.view.look()
                self.stop.wait(LOOK_EVERY)

    def keep_asking(self) -> None:
        """Asks the public address again and again while it is watched, until told to stop."""
        prober: Prober | Connector | None = None
        asked: object = None
        for _ in ticks(RATE, self.stop):
            if not self.is_watched():
                self.traffic.clear()
                continue
            settings = self.view.settings
            kind = settings.probe_kind
            wanted = (settings.proxy.url, settings.probe.path, public_host(settings), settings.ca, kind)
            if wanted != asked:
                if prober:
                    prober.close()
                url, path, host, ca, _ = wanted
                try:
                    prober = (
                        Connector(url, timeout=TIMEOUT)
                        if kind == "tcp"
                        else Prober(url, path, host=host, timeout=TIMEOUT, ca=ca)
                    )
                except BluegreenError as error:
                    prober = None
                    self.traffic.add(Answer(time.monotonic(), 0.0, "fresh", 0, "", error.message), kind)
                    continue
                asked = wanted
            if prober:
                self.traffic.add(prober.ask(), kind)
        if prober:
            prober.close()

    def news(self, seen: MutableMapping[str, Any]) -> dict[str, Any]:
        """What a page that has `seen` so much has to be told; `seen` is brought up to it."""
        view = self.view
        names, colours = view.names()
        told: dict[str, Any] = {
            "age": round(view.age(), 1),
            "error": view.error,
            "hint": view.hint,
            "traffic": self.traffic.shown(time.monotonic(), names, colours),
        }
        if seen.get("state") != view.number:
            seen["state"] = view.number
            told["state"] = view.found
        action = self.action.told() if self.action else None
        if action and seen.get("action") != action["id"]:
            seen["action"] = action["id"]
            told["action"] = action
        return told

    def plan(self, action: str, release: str | None) -> dict[str, Any]:
        """What `bluegreen ACTION --plan` says: a plan, or an error in words."""
        command = [sys.executable, "-m", "bluegreen", *self._arguments(action, release, "--plan")]
        try:
            ran = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PLAN_SECONDS,
                env=environment(os.environ),
            )
            lines = ran.stdout.decode(errors="replace").splitlines()
            found: dict[str, Any] = json.loads(lines[-1])
        except subprocess.TimeoutExpired as error:
            raise Failed(f"there was no plan after {PLAN_SECONDS} s") from error
        except (ValueError, IndexError) as error:
            words = plain(ran.stderr.decode(errors="replace")).strip()[-1000:]
            raise Failed(f"the plan can't be read: {words or 'it is empty'}") from error
        return found

    def begin(self, action: str, release: str | None) -> Action:
        """A run is under way. Raises Failed if one that was started here still is; the lock sees to the others."""
        with self._starting:
            if self.action and self.action.is_running():
                raise Failed(
                    f"{self.action.title} is under way, started from this dashboard as process {self.action.process}"
                )
            title = f"{action} {release or ''}".strip()
            self.action = Action(self._arguments(action, release), title)
            return self.action

    def receipt(self, run: str) -> dict[str, Any]:
        """The receipt of the run. Raises BluegreenError if none is kept."""
        ours = self.action.story.receipt if self.action else None
        if ours and ours.get("run") == run:
            return {key: value for key, value in ours.items() if key != "event"}
        with self.opened(load(self.config)) as service:
            found: dict[str, Any] = service.receipt(run)
            return found

    def _arguments(self, action: str, release: str | None, *more: str) -> list[str]:
        config = ["-c", os.fspath(self.config)] if self.config else []
        return [*config, action, "--json", *more, *(["--", release] if release else [])]
