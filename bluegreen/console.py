"""What a person sees. The only module that prints."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Never

import click

from bluegreen.errors import BluegreenError
from bluegreen.model import Event, Plan
from bluegreen.words import indent, plain

if TYPE_CHECKING:
    from bluegreen.doctor import Finding
    from bluegreen.live import View
    from bluegreen.logs import Source, Written

MARKS = {"done": "✓", "failed": "✗", "undone": "↩", "undo-failed": "✗", "leftover": "!"}
COLOURS = {"done": "green", "failed": "red", "undone": "yellow", "undo-failed": "red", "leftover": "yellow"}
NAME = 11
"""Columns of a step's name, as wide as the longest."""

PASSES = ("build", "push", "pull", "start", "probe", "switch", "drain")
"""Steps whose progress is for those who watch: how they end says enough."""


class Console:
    """Lines for a person, each event's with its time where that is no terminal, or one JSON object a line."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._terminal = not as_json and _is_terminal()
        self._opening: _Opening | None = None
        in_a_job = os.environ.get("GITLAB_CI") == "true" and not (as_json or self._terminal)
        self._sections = _Sections() if in_a_job else None
        self._kept: list[str] | None = None
        """The lines that are shown later, if they are."""
        self._whole = ""
        """What a run is on as a whole, once it is known: its host, or all of several."""

    @property
    def wants_counts(self) -> bool:
        """Whether anybody looks at the witness's counts while a run goes on."""
        return self.as_json or (self._terminal and _is_able())

    @contextmanager
    def watching(self, doing: str) -> Iterator[None]:
        """What is told inside of a run is shown as it goes on, if this is a terminal. Afterwards its lines stand there,
        and the terminal is as it was, however it ended."""
        if not (self._terminal and _is_able()):
            try:
                yield
            finally:
                if self._sections:
                    self._sections.end()
            return
        self._kept = []
        self._opening = _Opening(doing)
        try:
            yield
        finally:
            kept, self._kept, opening, self._opening = self._kept, None, self._opening, None
            with suppress(OSError):  # whoever looked has gone: how the run ended is told otherwise
                opening.end()
                for line in kept:
                    self.line(line)

    def event(self, event: Event) -> None:
        if self.as_json:
            self._json(
                {
                    "event": event.state,
                    "step": event.step,
                    "host": event.host,
                    "at": round(event.at, 3),
                    "seconds": round(event.seconds, 3),
                    "detail": event.detail,
                    "data": dict(event.data),
                }
            )
            return
        if view := self._opening and self._opening.view():
            view.event(event)
            if event.state == "progress" and event.step in PASSES:
                return
        if self._sections:
            self._sections.before(event)
        if event.state == "planned":
            self._whole = event.host
        where = f"{event.host}: " if self._whole and event.host != self._whole else ""
        if event.state == "progress" or (event.state == "started" and event.detail):
            self._row(event.step, where + plain(event.detail), timed=True)
        elif event.state in MARKS:
            mark = click.style(MARKS[event.state], fg=COLOURS[event.state])
            first, newline, rest = plain(event.detail).partition("\n")
            said = f"{where}{first}" if first else where.removesuffix(": ")
            self._row(event.step, f"{said}  ({event.seconds:.2f} s){newline}{rest}", mark, timed=True)
        if self._sections:
            self._sections.after(event)

    def line(self, text: str = "") -> None:
        """A line of text, without anything in it that the terminal would act on but our own colours."""
        if self._kept is not None:
            self._kept.append(text)
        else:
            click.echo(text, color=None if _has_colours() else False)

    def _row(self, name: str, text: str, mark: str = " ", *, timed: bool = False) -> None:
        """A name and what is to be said of it; on a terminal it is folded under itself rather than at the edge."""
        head = f"  {mark} {name:{NAME}} "
        margin = " " * (NAME + 5)
        if timed and not self._terminal:
            head = f"{time.strftime('%H:%M:%SZ', time.gmtime())} {head}"
            margin += " " * 10
        lines = text.split("\n")
        if self._terminal:
            room = max(20, _width() - len(margin))
            lines = [part for line in lines for part in _folded(line, room)]
        self.line((head + ("\n" + margin).join(lines)).rstrip())

    def plan(self, plan: Plan) -> None:
        if self.as_json:
            self._json(plan.to_dict())
            return
        if plan.unchanged:
            self.line(f"nothing to do: {plan.reason}")
            return
        self.line(f"{plan.action} {plan.release} would:")
        for step in plan.steps:
            self.line(f"  {step.step:8} {step.detail}")
        self.line("the proxy's config:" if plan.diff else "the proxy's config stays as it is")
        if plan.diff:
            self.line(indent(plain(plan.diff)))
        if plan.edits:
            refused = "; without --overwrite-edits it is refused" if plan.action == "deploy" else ""
            self.line(f"a person has edited the proxy's files, which the {plan.action} would write over{refused}:")
            self.line(indent(plain(plan.edits)))
        self.line("nothing was changed; another run may come first")

    def receipt(self, receipt: dict[str, Any]) -> None:
        if self.as_json:
            self._json({"event": "receipt", **receipt})
            return
        way = f"{receipt['from'] or 'nothing'} → {receipt['to']}"
        self.line(f"{receipt['action']} {way}: {receipt['result']}" + _because(receipt))
        requests = receipt["requests"]
        if receipt["witness"] and requests["total"]:
            if receipt["probe"] == "tcp":
                words = "connections, {failed} not accepted; which release took them, they don't tell"
            else:
                shares = ", ".join(f"{name} {count}" for name, count in requests["by_release"].items())
                words = f"requests, {{failed}} failed ({shares})"
            self._row("witness", f"{requests['total']} " + words.format(failed=requests["failed"]))
            for failure in requests["failures"]:
                self._row("", f"{failure['count']} x {failure['why']} ({failure['connection']} connection)")
            for phase in ("before", "during", "after"):
                figures = receipt["latency_ms"][phase]
                if figures["p50"] is not None:
                    p50, p99, most = (f"{figures[name]:.1f} ms" for name in ("p50", "p99", "max"))
                    self._row(phase, f"p50 {p50}, p99 {p99}, max {most}")
            switch = receipt["switch"]
            if switch["first_new_ms"] is not None:
                first, last = switch["first_new_ms"], switch["last_old_ms"]
                when = f"{first:.0f} ms after the flip" if first >= 0 else f"{-first:.0f} ms before the flip was whole"
                tail = f", last old one at {last:.0f} ms" if last is not None and max(first, last) >= 0 else ""
                self._row("switch", f"first new answer {when}{tail}")
        elif not receipt["witness"] and receipt["result"] not in ("unchanged",):
            self._row("witness", "none")
        if receipt["bake"]:
            figures = ((receipt["from"], receipt["bake"]["old"]), (receipt["to"], receipt["bake"]["new"]))
            self._row("bake", "; ".join(f"{name} {_compared(each)}" for name, each in figures if each))
        if receipt["cut"]:
            self._row("cut", f"{receipt['cut']} requests were still in flight when the old release was stopped")
        sockets = receipt["websockets"]
        if sockets["open"]:
            words = f"{sockets['open']} WebSockets were open at the switch, {sockets['closed']} were closed"
            self._row("sockets", words)
        for words in receipt["leftover"]:
            self._row("leftover", f"{words}; the next run takes it up")
        for words in receipt["warnings"]:
            self._row("warning", f"{plain(words).partition(chr(10))[0]}; this changes nothing of the result")

    def status(self, status: dict[str, Any]) -> None:
        if self.as_json:
            self._json(status)
            return
        proxy = status["proxy"]
        state = f"{proxy['kind']} {proxy['version']}" if proxy["running"] else f"{proxy['kind']}, not running"
        self.line(f"{status['service']} at {proxy['address']} ({state}, switched {proxy['switch']})")
        for role in ("live", "standby"):
            slot = status[role]
            if slot:
                running, wanted = slot["replicas"]["running"], slot["replicas"]["wanted"]
                runs = "scaled to none" if role == "standby" and not running else f"{running} of {wanted} running"
                self.line(
                    f"  {role:8} {slot['release']} ({slot['colour']}), {runs}, since {slot['since']}, "
                    f"{slot['digest'][:19]}"
                )
            elif role == "live":
                self.line("  live     nothing")
        if len(status["hosts"]) > 1 or any(host["behind"] for host in status["hosts"]):
            for host in status["hosts"]:
                self._host(host)
        for node in status["nodes"]:
            self._swarm_node(node)
        rollback = status["rollback"]
        ready = f"{rollback['release']} is ready" if rollback["ready"] else "not possible"
        self.line(f"  rollback {ready}: {rollback['why']}")
        if proxy["edits"]:
            self.line("  edited   by a person: the proxy's files, over which a deploy does not write by itself:")
            self.line(indent(plain(proxy["edits"]), "           "))
        if status["unfinished"]:
            way = "is under way" if status["lock"] else "ended before its commit"
            self.line(f"  unfinished: the run {status['unfinished']} {way}")
        if status["next"] and not status["lock"]:
            self.line(f"  next     {status['next']}")
        if status["lock"]:
            self.line(f"  locked by {status['lock']}")

    def _host(self, host: dict[str, Any]) -> None:
        replicas = host["replicas"]
        runs = f" ({host['colour']}), {replicas['running']} of {replicas['wanted']} running" if replicas else ""
        through = f", {host['proxy']}" if host["proxy"] else ""
        if not host["reachable"]:
            self.line(f"  host     {host['name']} can't be reached: {plain(host['behind'])}")
            return
        self.line(f"  host     {host['name']}: {host['live'] or 'nothing'}{runs}{through}")
        if host["behind"]:
            self.line(f"           is behind: {plain(host['behind'])}; next: bluegreen sync")

    def _swarm_node(self, node: dict[str, Any]) -> None:
        """A node of a swarm, if there is anything to be said of it."""
        words = {"drain": "is drained", "pause": "is given no new replicas"}.get(node["availability"], "")
        if not node["answers"]:
            words = "does not answer" + (f", and {words}" if words else "")
        if words:
            self.line(f"  node     {node['name']}{' (manager)' if node['manager'] else ''} {words}")

    def watch_status(self, look: Callable[[], dict[str, Any]], every: float) -> Never:
        """What `look` gives is shown every so many seconds: on a terminal in its place, elsewhere block after block.

        Ends with what `look` raises, and with Ctrl-C.
        """
        block = None
        if self._terminal and _is_able():
            from bluegreen.live import Block

            block = Block()
            block.start()
        try:
            while True:
                now, status = datetime.now(UTC), look()
                if self.as_json:
                    self._json({"at": now.isoformat(timespec="milliseconds"), **status})
                else:
                    self._kept = []
                    self.status(status)
                    lines, self._kept = self._kept, None
                    lines.insert(0, f"{now:%H:%M:%SZ}, every {every:g} s")
                    if block:
                        block.show(lines)
                    else:
                        self.line("\n".join([*lines, ""]))
                time.sleep(every)
        finally:
            if block:
                block.stop(keep=True)

    def history(self, runs: Sequence[dict[str, Any]]) -> None:
        if self.as_json:
            self._json(runs)
            return
        for run in runs:
            if run["damaged"]:
                self.line(f"{run['run']}  damaged")
                continue
            mark = {"done": "✓", "undone": "↩"}.get(str(run["result"]), "✗")
            took = "" if run["seconds"] is None else f" in {run['seconds']:.1f} s"
            what = f"{run['action']} {run['from'] or 'nothing'} → {run['to']}: {run['result']}{took}"
            saw = f", {run['failed']} of {run['requests']} requests failed" if run["requests"] else ""
            when = str(run["started"])[:19].replace("T", " ")
            self.line(f"{run['run']}  {when}  {mark} " + " ".join(f"{what}{saw}, {run['who']}".split()))
            if run["reason"]:
                self.line("    " + str(run["reason"]).partition("\n")[0])
        if not runs:
            self.line("no run is kept")

    def written(self, line: Written) -> None:
        """A line of a replica."""
        if self.as_json:
            source = line.source
            self._json({"at": line.at, "release": source.release, "replica": source.replica, "line": line.text})
        else:
            self.output(line.source, line.text)

    def output(self, source: Source, text: str, is_error: bool = False) -> None:
        colour = "blue" if source.replica.startswith("blue") else "green"
        click.echo(f"{click.style(str(source), fg=colour)} | {text}", err=is_error)

    def findings(self, findings: Sequence[Finding]) -> None:
        if self.as_json:
            self._json([asdict(finding) for finding in findings])
            return
        marks = {"ok": ("✓", "green"), "note": ("·", None), "warning": ("!", "yellow"), "error": ("✗", "red")}
        for finding in findings:
            mark, colour = marks[finding.level]
            self.line(f"  {click.style(mark, fg=colour)} {finding.check}: {plain(finding.what)}")
            if finding.why:
                self.line(f"      {plain(finding.why)}")
            if finding.mend:
                self.line(f"      mend: {plain(finding.mend)}")

    def prune(self, pruned: dict[str, Any]) -> None:
        if self.as_json:
            self._json(pruned)
            return
        verb = "removed" if pruned["done"] else "would remove"
        for kind, names in (("image", pruned["images"]), ("tag", pruned["tags"])):
            for name in names:
                self.line(f"{verb} the {kind} {name}")
        if not pruned["images"] and not pruned["tags"]:
            self.line("there is nothing to remove")
        elif not pruned["done"]:
            self.line("nothing was changed; --yes removes them")
        for words in pruned["warnings"]:
            self.line(f"note: {words}")

    def proxy(self, proxy: dict[str, Any]) -> None:
        if self.as_json:
            self._json(proxy)
            return
        state = "runs" if proxy["running"] else "does not run" if proxy["exists"] else "is not there"
        self.line(f"{proxy['name']} {state}" + (f" ({proxy['kind']} {proxy['version']})" if proxy["version"] else ""))
        self.line(f"  listens  {proxy['listen']}, public as {proxy['url']}")
        self.line(f"  serves   {proxy['service']}: {proxy['colour'] or 'nothing'}, switched {proxy['switch']}")
        record = proxy["record"]
        if record:
            way = f"{record['from_colour'] or 'nothing'} → {record['to_colour']}"
            ended = "committed" if record["committed"] else "not committed"
            self.line(f"  record   {record['number']}: {way}, {ended}, {record['at']}, run {record['run']}")

    def vip(self, vip: dict[str, Any] | list[dict[str, Any]]) -> None:
        """The node on the only engine, or those on several hosts."""
        if self.as_json:
            self._json(vip)
        elif isinstance(vip, dict):
            self._node(vip)
        else:
            for row in vip:
                if row["unreachable"]:
                    self.line(f"{row['host']} can't be reached: {plain(row['unreachable'])}")
                else:
                    self._node(row)

    def _node(self, vip: dict[str, Any]) -> None:
        held = "is held here" if vip["held"] else "is not held here"
        where = f"{vip['host']}: " if "host" in vip else ""
        self.line(f"{where}{vip['address']} {held} ({vip['interface']}, router id {vip['router_id']})")
        state = "runs" if vip["running"] else "does not run" if vip["exists"] else "is not there"
        which = f", node {vip['node']} of priority {vip['priority']}" if vip["node"] else ""
        said = f", {vip['state']}" if vip["state"] else ""
        version = f" (Keepalived {vip['version']})" if vip["version"] else ""
        self.line(f"  {vip['name']} {state}{which}{said}{version}")
        if vip["exists"] and not vip["current"]:
            self.line("  its file is not what the settings want; next: bluegreen vip boot")
        if vip["complaint"]:
            self.line(f"  it says: {plain(vip['complaint'])}")

    def error(self, error: BluegreenError) -> None:
        if self.as_json:
            self._json({"event": "error", "message": error.message, "hint": error.hint, "exit_code": error.exit_code})
            return
        colour = None if _has_colours() else False
        click.echo(click.style("error: ", fg="red") + plain(error.message), err=True, color=colour)
        if error.hint:
            click.echo(f"  next: {plain(error.hint)}", err=True)

    def _json(self, data: Any) -> None:
        sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
        sys.stdout.flush()


class _Opening:
    """A view on its way: rich takes a while to load, in which the run begins."""

    def __init__(self, title: str) -> None:
        self._view: View | None = None
        self._thread = threading.Thread(target=self._open, args=(title,), name="opening", daemon=True)
        self._thread.start()

    def view(self) -> View | None:
        """The view, once it is there; None if it can't be had."""
        self._thread.join()
        return self._view

    def end(self) -> None:
        if view := self.view():
            view.stop()

    def _open(self, title: str) -> None:
        with suppress(Exception):  # a run needs no view
            from bluegreen.live import View

            view = View(title)
            view.start()
            self._view = view


class _Sections:
    """A section of GitLab's job log for each step, which can be collapsed there and shows how long it took.

    By https://docs.gitlab.com/ci/jobs/job_logs/: the carriage return and what follows it hide the mark where it is not
    understood.
    """

    def __init__(self) -> None:
        self._planned: dict[str, str] = {}
        self._whole = self._open = ""
        self._hosts: set[str] = set()

    def before(self, event: Event) -> None:
        if event.state == "planned":
            self._planned = {step["step"]: plain(step["detail"]) for step in event.data["steps"]}
            self._whole = event.host
        elif event.state == "started":
            if self._open != event.step:
                self.end()
                words = self._planned.get(event.step, "")
                self._mark("start", event.step, f"{event.step:{NAME}} {words}".rstrip())
                self._open = event.step
            self._hosts.add(event.host)

    def after(self, event: Event) -> None:
        if event.state in ("done", "failed") and event.step == self._open:
            self._hosts.discard(event.host)
            if not self._hosts or event.host == self._whole:
                self.end()

    def end(self) -> None:
        """No section is open."""
        if self._open:
            self._mark("end", self._open, "")
        self._open = ""
        self._hosts.clear()

    @staticmethod
    def _mark(which: str, step: str, header: str) -> None:
        # Of this process alone: a job may call several commands, and names are unique in a job.
        name = f"bluegreen_{os.getpid()}_{step}"
        with suppress(OSError):
            sys.stdout.write(f"\x1b[0Ksection_{which}:{time.time():.0f}:{name}\r\x1b[0K{header}\n")
            sys.stdout.flush()


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _is_able() -> bool:
    """Whether the terminal can be drawn on."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return utf8 and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def _has_colours() -> bool:
    """Whether colours are wanted where there is a terminal; see https://no-color.org."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _width() -> int:
    return shutil.get_terminal_size().columns


def _folded(line: str, room: int) -> list[str]:
    """The line in parts of `room` columns at most, indented as it is. A number stays with its unit."""
    if len(line) <= room:
        return [line]
    margin = line[: len(line) - len(line.lstrip())][: room // 2]
    whole = re.sub(r"(?<=\d) (?=(s|ms|MB)\b)", "\xa0", line)
    parts = textwrap.wrap(whole, room, subsequent_indent=margin, break_on_hyphens=False)
    return [part.replace("\xa0", " ") for part in parts]


def _compared(figures: dict[str, Any]) -> str:
    """What a bake found out of a release."""
    words = []
    if figures["requests"] is not None:
        share = "" if figures["error_ratio"] is None else f" ({figures['error_ratio']:.2%})"
        words.append(f"{figures['errors']} errors in {figures['requests']} requests{share}")
    if figures["p99_ms"] is not None:
        words.append(f"p99 {figures['p99_ms']:.1f} ms")
    return ", ".join(words) or "not seen"


def _because(receipt: dict[str, Any]) -> str:
    if receipt["result"] in ("unchanged", "done") and receipt["reason"]:
        return f" ({receipt['reason']})"
    return ""
