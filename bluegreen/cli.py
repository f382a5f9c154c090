"""The commands: each loads the settings, calls one function and shows what came of it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from bluegreen import __version__
from bluegreen.errors import BluegreenError, Interrupted, UsageError

F = TypeVar("F", bound=Callable[..., Any])


class Cli(click.Group):
    """Maps every error to the exit code that README promises."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        from bluegreen.console import Console

        console = Console(as_json="--json" in sys.argv[1:])
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.ClickException as error:
            error.show()
            sys.exit(2)
        except BluegreenError as error:
            console.error(error)
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            console.error(Interrupted("interrupted", hint="bluegreen status"))
            sys.exit(Interrupted.exit_code)
        except BrokenPipeError:
            sys.stderr.close()  # whoever read our output has gone, and wants no words about it
            sys.exit(1)
        except Exception as error:
            if os.environ.get("BLUEGREEN_DEBUG"):
                raise
            words = f"unexpected: {type(error).__name__}: {error}"
            console.error(BluegreenError(words, hint="BLUEGREEN_DEBUG=1 before the command shows where"))
            sys.exit(BluegreenError.exit_code)
        sys.exit(code if isinstance(code, int) else 0)


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
    from bluegreen.settings import check_release_name

    return None if value is None else check_release_name(value)


as_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
assume_plan = click.option("--plan", "only_plan", is_flag=True, help="Print what would be done, and change nothing.")


def run_options(command: F) -> F:
    """The options of a command that changes what is live."""
    for option in (
        as_json,
        assume_plan,
        click.option("--wait", default=0.0, metavar="SECONDS", help="Wait for a run that holds the lock."),
        click.option("--no-witness", is_flag=True, help="Send no requests of our own through the proxy."),
        click.option("--receipt", "receipt_file", type=click.Path(path_type=Path), help="Write the receipt as JSON."),
    ):
        command = option(command)
    return command


def with_service(command: F) -> F:
    """The command is called with the service of the settings file, opened, as its first argument."""

    @wraps(command)
    @click.pass_obj
    def wrapped(config: Path | None, /, **arguments: Any) -> Any:
        from bluegreen.service import Service
        from bluegreen.settings import load

        with Service.open(load(config)) as service:
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
@run_options
@click.option("--build", "rebuild", is_flag=True, help="Build the image even if it is there.")
@with_service
def deploy(
    service: Any,
    release: str,
    as_json: bool,
    only_plan: bool,
    wait: float,
    no_witness: bool,
    receipt_file: Path | None,
    rebuild: bool,
) -> None:
    """Take RELEASE live beside the release that serves now, and remove that once nothing is in flight to it."""
    from bluegreen.console import Console
    from bluegreen.service import Options

    console = Console(as_json=as_json)
    if only_plan:
        console.plan(service.plan_deploy(release, build=rebuild))
        return
    options = Options(wait=wait, witness=not no_witness)
    _conclude(console, receipt_file, lambda: service.deploy(release, options, console.event, build=rebuild))


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
) -> None:
    """Take the previous release live again, or RELEASE."""
    from bluegreen.console import Console
    from bluegreen.service import Options

    console = Console(as_json=as_json)
    if only_plan:
        console.plan(service.plan_rollback(release))
        return
    options = Options(wait=wait, witness=not no_witness)
    _conclude(console, receipt_file, lambda: service.rollback(release, options, console.event))


@main.command()
@as_json
@with_service
def status(service: Any, as_json: bool) -> None:
    """Show what is live, what a rollback would bring back, and the proxy."""
    from bluegreen.console import Console

    Console(as_json=as_json).status(service.status())


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
@click.option("--service", "name", help="Its name. [default: the directory's]")
def init(name: str | None) -> None:
    """Write a commented bluegreen.toml."""
    from bluegreen.settings import example

    path = Path("bluegreen.toml")
    name = name or Path.cwd().name.lower().replace(" ", "-")
    text = example(name)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} is there already and was left as it is") from None
    click.echo(f"wrote {path}; next: look through it, then bluegreen deploy RELEASE")


@main.command()
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--wait", default=0.0, metavar="SECONDS", help="Wait for a run that holds the lock.")
@with_service
def down(service: Any, yes: bool, wait: float) -> None:
    """Remove the service: its containers, its network and its place in the proxy."""
    from bluegreen.console import Console
    from bluegreen.service import Options

    name = service.settings.service
    if not yes and not click.confirm(f"remove {name}, which then serves nothing?"):
        raise click.Abort
    gone = service.down(Console().event, Options(wait=wait))
    click.echo("\n".join(f"removed {each}" for each in gone) or f"nothing of {name} was there")


def _conclude(console: Any, file: Path | None, action: Callable[[], dict[str, Any]]) -> None:
    """The receipt of the action is shown and, if asked for, written, also when the action failed."""
    try:
        receipt = action()
    except BluegreenError as error:
        if error.receipt:
            _write(file, error.receipt)
            console.receipt(error.receipt)
        raise
    _write(file, receipt)
    console.receipt(receipt)


def _write(file: Path | None, receipt: dict[str, Any]) -> None:
    if file is None:
        return
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        aside.write_text(json.dumps(receipt, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(aside, file)
    except OSError as error:
        click.echo(f"the receipt could not be written: {error}", err=True)
