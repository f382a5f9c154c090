"""The commands: each loads the settings, calls one function and shows what came of it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from bluegreen import __version__
from bluegreen.errors import BluegreenError, Interrupted, Unexpected, UsageError

F = TypeVar("F", bound=Callable[..., Any])


class Cli(click.Group):
    """Maps every error to the exit code that README promises."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.ClickException as error:
            error.show()
            sys.exit(2)
        except BluegreenError as error:
            _console().error(_logged(error) if isinstance(error, Unexpected) else error)
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            _console().error(Interrupted("interrupted", hint="bluegreen status"))
            sys.exit(Interrupted.exit_code)
        except BrokenPipeError:
            sys.stderr.close()  # whoever read our output has gone, and wants no words about it
            sys.exit(1)
        except Exception as error:
            _console().error(_logged(Unexpected(error)))
            sys.exit(Unexpected.exit_code)
        sys.exit(code if isinstance(code, int) else 0)


def _console() -> Any:
    """Loaded only where there is something to say: --help and --version have no need of it."""
    from bluegreen.console import Console

    return Console(as_json="--json" in sys.argv[1:])


def _logged(error: Unexpected) -> Unexpected:
    """The error, which now says in which file its traceback stands: one that nobody but its owner can read."""
    import tempfile
    import traceback

    text = "".join(traceback.format_exception(error.__cause__))
    state = Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser(), "bluegreen")
    for directory in (state, Path(tempfile.gettempdir())):
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, path = tempfile.mkstemp(prefix="bluegreen-error-", suffix=".log", dir=directory)
            with open(descriptor, "w", encoding="utf-8", errors="replace") as file:
                file.write(f"bluegreen {__version__}, Python {sys.version}\n{' '.join(sys.argv)}\n\n{text}")
        except (OSError, RuntimeError):  # RuntimeError: there is no home
            continue
        error.message += f"; where it came from stands in {path}"
        return error
    error.message += "; there was no place for a log file"
    return error


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-c", "--config", type=click.Path(path_type=Path), help="The settings file. [default: bluegreen.toml]")
@click.version_option(__version__, prog_name="bluegreen")
@click.pass_context
def main(context: click.Context, config: Path | None) -> None:
    """Blue-green deployments of a containerised web app, without a failed request."""
    context.obj = config


def release_argument(command: F) -> F:
    """The command takes a release that an image tag can be."""
    return click.argument("release", callback=_checked)(command)


def _checked(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    from bluegreen.names import check_release_name

    return None if value is None else check_release_name(value)


as_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
wait_option = click.option("--wait", default=0.0, metavar="SECONDS", help="Wait for a run that holds the lock.")
assume_plan = click.option("--plan", "only_plan", is_flag=True, help="Print what would be done, and change nothing.")


skip_unreachable = click.option(
    "--skip-unreachable", is_flag=True, help="Go on without the hosts that can't be reached."
)

overwrite = click.option(
    "--overwrite", is_flag=True, help="Push over another content that the registry has under this name."
)


def run_options(command: F) -> F:
    """The options of a command that changes what is live."""
    for option in (
        as_json,
        assume_plan,
        wait_option,
        skip_unreachable,
        click.option("--no-witness", is_flag=True, help="Send no requests of our own through the proxy."),
        click.option("--report", "report_file", type=click.Path(path_type=Path), help="Write a page to look at."),
        click.option("--receipt", "receipt_file", type=click.Path(path_type=Path), help="Write the receipt as JSON."),
    ):
        command = option(command)
    return command


def _engine(data: dict[str, Any]) -> Any:
    """Gives what connects to the engine that `docker` would use. If the settings name no others, that has begun: it
    answers while they are checked and the rest is loaded."""
    from bluegreen.runtimes.connect import connect, connecting

    return nullcontext(connect) if data.get("hosts") else connecting()


def with_service(command: F) -> F:
    """The command is called with the service of the settings file, opened, as its first argument."""

    @wraps(command)
    @click.pass_obj
    def wrapped(config: Path | None, /, **arguments: Any) -> Any:
        from bluegreen.written import read

        written = read(config)
        with _engine(written.data) as engine:
            from bluegreen.service import Service
            from bluegreen.settings import check

            with Service.open(check(written), engine) as service:
                return command(service, **arguments)

    return wrapped  # type: ignore[return-value]


@main.command()
@release_argument
@with_service
def build(service: Any, release: str) -> None:
    """Build the image of RELEASE."""
    click.echo(service.build(release, click.echo))


@main.command()
@release_argument
@overwrite
@with_service
def push(service: Any, release: str, overwrite: bool) -> None:
    """Push the image of RELEASE to the registry."""
    click.echo(service.push(release, click.echo, overwrite=overwrite))


@main.command()
@click.option("--username", help="The user. [default: the credentials that a run would use]")
@click.option("--password-stdin", is_flag=True, help="Read the password, or a token, from standard input.")
@with_service
def login(service: Any, username: str | None, password_stdin: bool) -> None:
    """Try the login to the registry. Stores a password with docker's credential helper, or not at all."""
    if password_stdin and not username:
        raise UsageError("--password-stdin needs --username")
    password = sys.stdin.read().rstrip("\r\n") if password_stdin else None
    if username and password is None:
        password = click.prompt("Password", hide_input=True)
    click.echo(service.log_in(username, password))


@main.command()
@release_argument
@run_options
@click.option("--build", "rebuild", is_flag=True, help="Build the image even if it is there.")
@overwrite
@click.option(
    "--overwrite-edits", is_flag=True, help="Write over what a person changed in the proxy's files, and keep a copy."
)
@with_service
def deploy(
    service: Any,
    release: str,
    as_json: bool,
    only_plan: bool,
    wait: float,
    no_witness: bool,
    receipt_file: Path | None,
    report_file: Path | None,
    skip_unreachable: bool,
    rebuild: bool,
    overwrite: bool,
    overwrite_edits: bool,
) -> None:
    """Take RELEASE live beside the release that serves now, and remove that once nothing is in flight to it."""
    from bluegreen.console import Console
    from bluegreen.service import Options

    console = Console(as_json=as_json)
    if only_plan:
        console.plan(service.plan_deploy(release, build=rebuild))
        return
    options = Options(
        wait=wait,
        witness=not no_witness,
        build=rebuild,
        overwrite=overwrite,
        overwrite_edits=overwrite_edits,
        skip_unreachable=skip_unreachable,
        counts=console.wants_counts,
    )
    doing = f"deploy {release}"
    _conclude(console, doing, receipt_file, report_file, lambda: service.deploy(release, options, console.event))


@main.command()
@click.argument("release", required=False, callback=_checked)
@run_options
@with_service
def rollback(
    service: Any,
    release: str | None,
    as_json: bool,
    only_plan: bool,
    wait: float,
    no_witness: bool,
    receipt_file: Path | None,
    report_file: Path | None,
    skip_unreachable: bool,
) -> None:
    """Take the previous release live again, or RELEASE."""
    from bluegreen.console import Console
    from bluegreen.service import Options

    console = Console(as_json=as_json)
    if only_plan:
        console.plan(service.plan_rollback(release))
        return
    options = Options(
        wait=wait,
        witness=not no_witness,
        skip_unreachable=skip_unreachable,
        counts=console.wants_counts,
    )
    doing = f"rollback {release or ''}".strip()
    _conclude(console, doing, receipt_file, report_file, lambda: service.rollback(release, options, console.event))


@main.command()
@click.argument("count", type=click.IntRange(1, 100))
@as_json
@wait_option
@skip_unreachable
@click.option("--no-witness", is_flag=True, help="Send no requests of our own through the proxy.")
@click.option("--receipt", "receipt_file", type=click.Path(path_type=Path), help="Write the receipt as JSON.")
@with_service
def scale(
    service: Any,
    count: int,
    as_json: bool,
    wait: float,
    skip_unreachable: bool,
    no_witness: bool,
    receipt_file: Path | None,
) -> None:
    """Run what is live in COUNT replicas, until the next deploy, which takes their number from the settings."""
    from bluegreen.console import Console
    from bluegreen.service import Options

    console = Console(as_json=as_json)
    options = Options(wait=wait, witness=not no_witness, skip_unreachable=skip_unreachable, counts=console.wants_counts)
    _conclude(console, f"scale {count}", receipt_file, None, lambda: service.scale(count, options, console.event))


@main.command()
@click.option(
    "--watch",
    "every",
    type=click.FloatRange(0.1, 3600),
    is_flag=False,
    flag_value=2.0,
    metavar="[SECONDS]",
    help="Again and again, until Ctrl-C. [default: every 2 seconds]",
)
@as_json
@with_service
def status(service: Any, every: float | None, as_json: bool) -> int:
    """Show what is live, what a rollback would bring back, and the proxy. Ends with 1 if a host is behind."""
    from bluegreen.console import Console

    console = Console(as_json=as_json)
    if every is None:
        found = service.status()
        console.status(found)
        return 1 if any(host["behind"] for host in found["hosts"]) else 0
    try:
        console.watch_status(service.status, every)
    except KeyboardInterrupt:
        return Interrupted.exit_code  # how watching ends is nothing to complain of


@main.command()
@wait_option
@skip_unreachable
@with_service
def sync(service: Any, wait: float, skip_unreachable: bool) -> None:
    """Bring every host to what is live, as one that was away when the others were switched."""
    from bluegreen.console import Console
    from bluegreen.service import Options

    click.echo("\n".join(service.sync(Options(wait=wait, skip_unreachable=skip_unreachable), Console().event)))


@main.command()
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many runs.")
@as_json
@with_service
def history(service: Any, limit: int, as_json: bool) -> None:
    """Show the latest runs: who did what from where, when, for how long, and what came of it."""
    from bluegreen.console import Console
    from bluegreen.history import line

    Console(as_json=as_json).history([line(kept) for kept in service.runs()[:limit]])


@main.command()
@click.argument("run", required=False)
@click.option("--report", "report_file", type=click.Path(path_type=Path), help="Write its page.")
@as_json
@with_service
def receipt(service: Any, run: str | None, report_file: Path | None, as_json: bool) -> None:
    """Show the receipt of RUN, or of the latest run, again."""
    from bluegreen.console import Console
    from bluegreen.errors import Failed

    found = service.receipt(run)
    if report_file:
        _keep(found, None, report_file)
    try:
        Console(as_json=as_json).receipt(found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Failed(
            f"the receipt of {found['run']} is damaged, or of another version of bluegreen: {error!r}",
            hint=f"bluegreen receipt {found['run']} --json",
        ) from error


def _colour(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    from bluegreen.model import Colour

    return Colour(value) if value else None


def _moment(context: click.Context, parameter: click.Parameter, value: str | None) -> float:
    from bluegreen.logs import moment

    return moment(value) if value else 0.0


colour_option = click.option("--colour", "--color", type=click.Choice(["blue", "green"]), callback=_colour)


@main.command()
@colour_option
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, also by a release that comes.")
@click.option("-n", "--tail", type=click.IntRange(0), help="Only the last lines of each replica. [default: all]")
@click.option("--since", metavar="TIME", callback=_moment, help="Only what was written since: 10m, 2h, or a time.")
@as_json
@with_service
def logs(service: Any, colour: Any, follow: bool, tail: int | None, since: float, as_json: bool) -> int:
    """Show what the replicas wrote, of both colours or of one, in order of time."""
    from bluegreen import logs as reading
    from bluegreen.console import Console

    console = Console(as_json=as_json)
    try:
        for line in (reading.follow if follow else reading.read)(service.runtime, colour, tail=tail, since=since):
            console.written(line)
    except KeyboardInterrupt:
        return Interrupted.exit_code  # how following ends is nothing to complain of
    return 0


@main.command("exec", context_settings={"allow_interspersed_args": False})
@colour_option
@click.option("--replica", "number", type=click.IntRange(1), metavar="N", help="Only in this one. [default: in all]")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@with_service
def exec_(service: Any, colour: Any, number: int | None, command: tuple[str, ...]) -> int:
    """Run COMMAND in the replicas of what is live, or of a colour. Ends with the code of the first that failed."""
    from bluegreen.console import Console

    code: int = service.execute(command, Console().output, colour=colour, number=number)
    return code


@main.command()
@click.option("--seconds", type=float, help="End after so long. [default: at Ctrl-C]")
@click.option("--rate", type=click.FloatRange(0, 1000, min_open=True), default=20.0, help="Requests a second.")
@as_json
@click.pass_obj
def watch(config: Path | None, seconds: float | None, rate: float, as_json: bool) -> None:
    """Ask for the version again and again, and count who answers."""
    from bluegreen.probe import public_host
    from bluegreen.settings import load
    from bluegreen.watch import watch as watch_it

    settings = load(config)
    summary = watch_it(
        settings.proxy.url,
        settings.probe.path,
        public_host(settings),
        emit=(lambda line: None) if as_json else click.echo,
        stop=threading.Event(),
        rate=rate,
        seconds=seconds,
        ca=settings.ca,
        kind=settings.probe_kind,
    )
    if as_json:
        click.echo(json.dumps(summary, ensure_ascii=False))


@main.command()
@click.option(
    "--listen", default="127.0.0.1:8090", show_default=True, metavar="IP:PORT", help="Where. Port 0: a free one."
)
@click.option("--host", "names", multiple=True, metavar="NAME", help="Another host name that browsers may use.")
@click.option("--token-file", type=click.Path(path_type=Path), help="Asks everybody for the token that the file holds.")
@click.option("--allow-actions", is_flag=True, help="Who sees the page may deploy and roll back.")
@click.pass_obj
def dashboard(
    config: Path | None, listen: str, names: tuple[str, ...], token_file: Path | None, allow_actions: bool
) -> None:
    """Serve a page that shows the service and keeps up with it, until Ctrl-C."""
    try:
        from bluegreen import pages
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the dashboard needs {error.name}, which is not installed", hint="pip install 'bluegreen[dashboard]'"
        ) from error
    from bluegreen.dashboard import Dashboard

    address = pages.listen_address(listen)
    door = pages.Door(address, pages.read_token(token_file, os.environ), names)
    pages.serve(Dashboard(config, allow_actions=allow_actions), door, address, click.echo)


@main.command()
@click.option("--service", "name", help="Its name. [default: the directory's]")
@click.option("--gitlab", is_flag=True, help="Write a .gitlab-ci.yml too, that builds and deploys.")
def init(name: str | None, gitlab: bool) -> None:
    """Write a commented bluegreen.toml."""
    from bluegreen import gitlab_ci
    from bluegreen.settings import FILE, example, load

    path = Path(FILE)
    if gitlab and Path(gitlab_ci.FILE).exists():
        raise _is_there(gitlab_ci.FILE)
    if not (gitlab and path.exists()):
        _write_new(path, example(name or Path.cwd().name.lower().replace(" ", "-")))
        click.echo(f"wrote {path}; next: look through it, then bluegreen deploy RELEASE")
    if gitlab:
        _write_new(Path(gitlab_ci.FILE), gitlab_ci.render("file", url=load(path).proxy.url))
        click.echo(f"wrote {gitlab_ci.FILE}; its comments say how its jobs get bluegreen and reach the engine")


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise _is_there(str(path)) from None


def _is_there(path: str) -> UsageError:
    return UsageError(f"{path} is there already and was left as it is")


@main.command()
@as_json
@with_service
def doctor(service: Any, as_json: bool) -> int:
    """Look for what would make a deploy or a rollback fail, and say what mends it."""
    from bluegreen.console import Console
    from bluegreen.doctor import ERROR, examine

    findings = examine(service)
    Console(as_json=as_json).findings(findings)
    return 1 if any(finding.level == ERROR for finding in findings) else 0


@main.command()
@click.option("--yes", is_flag=True, help="Remove them, and do not only list them.")
@wait_option
@as_json
@with_service
def prune(service: Any, yes: bool, wait: float, as_json: bool) -> None:
    """List the images and tags that no release needs any more, or remove them."""
    from bluegreen.console import Console
    from bluegreen.service import Options

    console = Console(as_json=as_json)
    console.prune(service.prune(Options(wait=wait), console.event, really=yes))


@main.group()
def proxy() -> None:
    """Look after the proxy itself. (Deploys do so by themselves.)"""


@proxy.command()
@with_service
def render(service: Any) -> None:
    """Print the service's file of the proxy, as the settings want it. Changes nothing."""
    click.echo(service.render_proxy(), nl=False)


@proxy.command()
@wait_option
@with_service
def boot(service: Any, wait: float) -> None:
    """Start the proxy, and make it if it is not there."""
    from bluegreen.console import Console
    from bluegreen.service import Options

    click.echo(service.boot_proxy(Console().event, Options(wait=wait)))


@proxy.command()
@wait_option
@with_service
def reload(service: Any, wait: float) -> None:
    """Test the proxy's files as they stand, and load them."""
    from bluegreen.console import Console
    from bluegreen.service import Options

    click.echo(service.reload_proxy(Console().event, Options(wait=wait)))


@proxy.command("status")
@as_json
@with_service
def proxy_status(service: Any, as_json: bool) -> None:
    """Show what the proxy says of itself and of this service."""
    from bluegreen.console import Console

    Console(as_json=as_json).proxy(service.proxy_status())


@main.group()
def vip() -> None:
    """Look after the address that two load balancers share. (Deploys leave it alone.)"""


@vip.command("render")
@click.option("--node", type=int, default=1, show_default=True, help="Which, counted from 1 as vip.priorities are.")
@click.pass_obj
def vip_render(config: Path | None, node: int) -> None:
    """Print Keepalived's file for a node, with its password. Changes nothing."""
    from bluegreen.settings import load
    from bluegreen.vip import render

    click.echo(render(load(config), node), nl=False)


@vip.command("boot")
@click.option("--node", type=int, help="Which node this host is, from 1. [default: the one that it is already]")
@with_service
def vip_boot(service: Any, node: int | None) -> None:
    """Keepalived runs on the engine's host with the file that the settings want, tested before.

    Of several hosts each is the node of its place in `hosts`, and all are booted unless one is named.
    """
    from bluegreen.nodes import boot

    for words in boot(service, node):
        click.echo(words)


@vip.command("status")
@as_json
@with_service
def vip_status(service: Any, as_json: bool) -> None:
    """Show whether the engine's host, or each of several, holds the address, and how its Keepalived does."""
    from bluegreen.console import Console
    from bluegreen.nodes import status

    rows = status(service)
    Console(as_json=as_json).vip(rows if service.hosts else rows[0])


@vip.command("remove")
@with_service
def vip_remove(service: Any) -> None:
    """Stop Keepalived on the engine's host, which hands the address over, and remove it; on several, on every one."""
    from bluegreen.nodes import remove

    gone = remove(service)
    click.echo("\n".join(f"removed {each}" for each in gone) or "nothing of it was there")


@main.group()
def gitlab() -> None:
    """Look after the GitLab server."""


PORT = click.IntRange(1, 65535)


@gitlab.command("render")
@click.option("--domain", required=True, help="The server's host name, or its IPv4 address.")
@click.option(
    "--gitlab-version", default="18.0", metavar="MAJOR.MINOR", show_default=True, help="The version of the server."
)
@click.option("--https/--http", default=None, help="How it is served. [default: https; http for an address]")
@click.option("--port", type=PORT, help="Its port. [default: 443 or 80]")
@click.option("--certificate", metavar="FILE", help="With its chain. [default: /etc/gitlab/ssl/DOMAIN.crt]")
@click.option("--key", metavar="FILE", help="The certificate's key. [default: /etc/gitlab/ssl/DOMAIN.key]")
@click.option("--redirect/--no-redirect", default=None, help="Redirect http to https. [default: redirect]")
@click.option("--redirect-port", type=PORT, help="The port of http that is redirected. [default: 80]")
@click.option("--data-directory", metavar="DIRECTORY", help="Where Git data lies, on another disk for instance.")
@click.option("--registry-port", type=PORT, help="The container registry's public port. [default: no registry]")
@click.option("--http-registry", is_flag=True, help="The registry speaks plain http though GitLab speaks https.")
@click.option("--registry-directory", metavar="DIRECTORY", help="Where the registry's images lie.")
def gitlab_render(**options: Any) -> None:
    """Print the lines of /etc/gitlab/gitlab.rb. Changes nothing."""
    from bluegreen.gitlab_server import Server

    click.echo(Server(**options).render(), nl=False)


@main.command()
@click.option("--yes", is_flag=True, help="Don't ask.")
@wait_option
@skip_unreachable
@with_service
def down(service: Any, yes: bool, wait: float, skip_unreachable: bool) -> None:
    """Remove the service: its containers, its network and its place in the proxy."""
    from bluegreen.console import Console
    from bluegreen.service import Options

    name = service.settings.service
    if not yes and not click.confirm(f"remove {name}, which then serves nothing?"):
        raise click.Abort
    gone = service.down(Console().event, Options(wait=wait, skip_unreachable=skip_unreachable))
    click.echo("\n".join(f"removed {each}" for each in gone) or f"nothing of {name} was there")


def _conclude(
    console: Any, doing: str, receipt_file: Path | None, report_file: Path | None, action: Callable[[], dict[str, Any]]
) -> None:
    """The receipt of the action is shown and, if asked for, written, as is its report, also when the action failed."""
    try:
        with console.watching(doing):
            receipt = action()
    except BluegreenError as error:
        if error.receipt:
            _keep(error.receipt, receipt_file, report_file)
            _show(console, error.receipt)
        raise
    _keep(receipt, receipt_file, report_file)
    _show(console, receipt)


def _show(console: Any, receipt: dict[str, Any]) -> None:
    """What came of the run is shown; a full disk behind the output changes nothing of that."""
    try:
        console.receipt(receipt)
    except BrokenPipeError:
        raise
    except OSError as error:
        click.echo(f"the output could not be written: {error.strerror or error}; what was done stands", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python fails to flush it at the end, and exits 120


def _keep(receipt: dict[str, Any], receipt_file: Path | None, report_file: Path | None) -> None:
    if receipt_file:
        _write("receipt", receipt_file, lambda: json.dumps(receipt, indent=2, ensure_ascii=False) + "\n")
    if report_file:
        from bluegreen.report import render

        _write("report", report_file, lambda: render(receipt))


def _write(what: str, file: Path, text: Callable[[], str]) -> None:
    """The file has the text, whole. If it can't be written that is said: it changes nothing about how the run ended."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        aside.write_text(text(), encoding="utf-8", errors="replace")
        os.replace(aside, file)
    except Exception as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        words = getattr(error, "strerror", None) or error
        click.echo(f"the {what} could not be written to {file}: {words}; what was done stands", err=True)
