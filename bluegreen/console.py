"""What a person sees. The only module that prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from bluegreen.errors import BluegreenError
from bluegreen.model import Event, Plan
from bluegreen.words import indent, plain

if TYPE_CHECKING:
    from bluegreen.doctor import Finding
    from bluegreen.logs import Source, Written

MARKS = {"done": "✓", "failed": "✗", "undone": "↩", "undo-failed": "✗", "leftover": "!"}
COLOURS = {"done": "green", "failed": "red", "undone": "yellow", "undo-failed": "red", "leftover": "yellow"}


class Console:
    """Lines for a person, or one JSON object a line."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def event(self, event: Event) -> None:
        if self.as_json:
            self._json(
                {
                    "event": event.state,
                    "step": event.step,
                    "host": event.host,
                    "seconds": round(event.seconds, 3),
                    "detail": event.detail,
                }
            )
        elif event.state == "progress" or (event.state == "started" and event.detail):
            self.line(f"    {event.step:8} {plain(event.detail)}")
        elif event.state in MARKS:
            mark = click.style(MARKS[event.state], fg=COLOURS[event.state])
            first, _, rest = plain(event.detail).partition("\n")
            self.line(f"  {mark} {event.step:8} {first}  ({event.seconds:.2f} s)")
            if rest:
                self.line(indent(rest, "             "))

    def line(self, text: str = "") -> None:
        """A line of text, without anything in it that the terminal would act on but our own colours."""
        click.echo(text)

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
            self.line(f"  witness  {requests['total']} " + words.format(failed=requests["failed"]))
            for failure in requests["failures"]:
                self.line(f"           {failure['count']} x {failure['why']} ({failure['connection']} connection)")
            for phase in ("before", "during", "after"):
                figures = receipt["latency_ms"][phase]
                if figures["p50"] is not None:
                    self.line(
                        f"  {phase:8} p50 {figures['p50']:.1f} ms, p99 {figures['p99']:.1f} ms, "
                        f"max {figures['max']:.1f} ms"
                    )
            switch = receipt["switch"]
            if switch["first_new_ms"] is not None:
                last = switch["last_old_ms"]
                tail = f", last old one sent {last:.0f} ms from it" if last is not None else ""
                self.line(f"  switch   first new answer {switch['first_new_ms']:.0f} ms after the flip{tail}")
        elif not receipt["witness"] and receipt["result"] not in ("unchanged",):
            self.line("  witness  none")
        if receipt["bake"]:
            figures = ((receipt["from"], receipt["bake"]["old"]), (receipt["to"], receipt["bake"]["new"]))
            self.line("  bake     " + "; ".join(f"{name} {_compared(each)}" for name, each in figures if each))
        if receipt["cut"]:
            self.line(f"  cut      {receipt['cut']} requests were still in flight when the old release was stopped")
        sockets = receipt["websockets"]
        if sockets["open"]:
            words = f"{sockets['open']} WebSockets were open at the switch, {sockets['closed']} were closed"
            self.line(f"  sockets  {words}")
        for words in receipt["leftover"]:
            self.line(f"  leftover {words}; the next run takes it up")
        for words in receipt["warnings"]:
            self.line(f"  warning  {plain(words).partition(chr(10))[0]}; this changes nothing of the result")

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
                replicas = slot["replicas"]
                self.line(
                    f"  {role:8} {slot['release']} ({slot['colour']}), {replicas['running']} of {replicas['wanted']} "
                    f"running, since {slot['since']}, {slot['digest'][:19]}"
                )
            elif role == "live":
                self.line("  live     nothing")
        if len(status["hosts"]) > 1 or any(host["behind"] for host in status["hosts"]):
            for host in status["hosts"]:
                self._host(host)
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
        self.line(f"  host     {host['name']}: {host['live'] or 'nothing'}{runs}{through}")
        if host["behind"]:
            self.line(f"           is behind: {plain(host['behind'])}; next: bluegreen sync")

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

    def vip(self, vip: dict[str, Any]) -> None:
        if self.as_json:
            self._json(vip)
            return
        held = "is held here" if vip["held"] else "is not held here"
        self.line(f"{vip['address']} {held} ({vip['interface']}, router id {vip['router_id']})")
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
        click.echo(click.style("error: ", fg="red") + plain(error.message), err=True)
        if error.hint:
            click.echo(f"  next: {plain(error.hint)}", err=True)

    def _json(self, data: Any) -> None:
        sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
        sys.stdout.flush()


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
