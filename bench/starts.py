"""How long the command takes to start: all of it for --version and --help, else until its first call to the engine."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from figures import Section, at_most, in_turn, ratio, spread
from ground import QUICK, Ground

EMPTY = """import click

@click.group()
@click.version_option("1")
def main():
    pass

main()
"""
IMPORTS = """import click, docker, os, socket
with socket.socket(socket.AF_UNIX) as engine:
    engine.connect(os.environ["DOCKER_HOST"].removeprefix("unix://"))
    engine.sendall(b"x")
"""
PYDANTIC = IMPORTS.replace("import click, docker,", "import click, docker, pydantic.main,")


VERSION = b'{"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}'


class NoEngine:
    """A socket that notes when it was first called, and hangs up."""

    def __init__(self, path: Path, *, tells_version: bool = False) -> None:
        """With `tells_version`, a question for that is answered, and what is noted is the call after it."""
        self.address = f"unix://{path}"
        self._tells_version = tells_version
        self.called: float | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(os.fspath(path))
        self._socket.listen(16)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._socket.accept()
                threading.Thread(target=self._listen, args=(caller,), daemon=True).start()

    def _listen(self, caller: socket.socket) -> None:
        with caller, contextlib.suppress(OSError):
            while self._answered(caller, request := caller.recv(65536)):
                pass
            if request and self.called is None:
                self.called = time.monotonic()

    def _answered(self, caller: socket.socket, request: bytes) -> bool:
        """Whether it was a question that is answered."""
        if not self._tells_version or not request.startswith(b"GET /version "):
            return False
        caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(VERSION) + VERSION)
        return True

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def no_engine(directory: Path, *, tells_version: bool = False) -> Iterator[NoEngine]:
    name = "version.sock" if tells_version else "no-engine.sock"
    made = NoEngine(directory / name, tells_version=tells_version)
    try:
        yield made
    finally:
        made.close()


def bluegreen(*arguments: str) -> list[str]:
    """The command as it is installed."""
    return [os.fspath(Path(sys.executable).with_name("bluegreen")), *arguments]


def whole(command: Sequence[str], directory: Path) -> float:
    """Milliseconds from start to end; it succeeds."""
    start = time.monotonic()
    subprocess.run(command, cwd=directory, stdout=subprocess.DEVNULL, check=True, stdin=subprocess.DEVNULL)
    return (time.monotonic() - start) * 1000


def first_call(command: Sequence[str], directory: Path, engine: NoEngine) -> float:
    """Milliseconds from its start to its first call to the engine."""
    engine.called = None
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=directory,
        env={**os.environ, "DOCKER_HOST": engine.address},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    process.wait(60)
    if engine.called is None:
        raise RuntimeError(f"{' '.join(command)} did not call the engine")
    return (engine.called - start) * 1000


def start_up(ground: Ground) -> Section:
    """Start-up against an empty click program, and against importing click and docker alone."""
    turns = ground.pick(25, 5)
    directory = ground.directory / "start"
    directory.mkdir()
    for name, text in (("empty.py", EMPTY), ("imports.py", IMPORTS), ("pydantic_too.py", PYDANTIC)):
        (directory / name).write_text(text)
    (directory / "bluegreen.toml").write_text(f'service = "s"\n[image]\nrepository = "{QUICK}"\n[app]\nport = 9000\n')
    empty, imports = [sys.executable, "empty.py"], [sys.executable, "imports.py"]
    section = Section(
        "Start-up",
        "Milliseconds of each command and of what it is held against, in turn. `--version` and `--help`: from start to"
        " end. The others: until the first call to the engine, of which a socket notes the moment. Importing click and"
        " docker alone is measured to the same point: a program that imports both and calls that socket. The first call"
        " connects: it asks for the engine's version, and while that comes, pydantic, the settings and the rest are"
        " loaded. When all of that is done is told by the second call, for comparison.",
        ["", "ms", "against", "ms", "ratio"],
    )
    with no_engine(directory) as engine, no_engine(directory, tells_version=True) as second:
        define = "beside click nothing is loaded but json and the commands' own module; the rest is to define them."
        for option in ("--version", "--help"):
            found = in_turn(
                turns,
                {
                    "ours": lambda option=option: whole(bluegreen(option), directory),
                    "empty": lambda option=option: whole([*empty, option], directory),
                },
            )
            _row(section, f"`bluegreen {option}`", found["ours"], "an empty click program", found["empty"], 1.5, define)
        commands = {"status": ["status"], "rollback": ["rollback"], "deploy": ["deploy", "v1"]}
        jobs = {
            name: (lambda words=words: first_call(bluegreen(*words), directory, engine))
            for name, words in commands.items()
        }
        jobs |= {
            f"{name}, second": (lambda words=words: first_call(bluegreen(*words), directory, second))
            for name, words in commands.items()
        }
        jobs["imports"] = lambda: first_call(imports, directory, engine)
        jobs["pydantic"] = lambda: first_call([sys.executable, "pydantic_too.py"], directory, engine)
        found = in_turn(turns, jobs)
    against = "importing click, docker"
    reason = (
        "beside click and docker nothing is loaded before it but tomllib, the commands' own module and what connects."
    )
    for name in commands:
        _row(section, f"`bluegreen {name}` to its first call", found[name], against, found["imports"], 1.3, reason)
    compared = {f"{name}, second": f"`bluegreen {name}` to its second call" for name in commands}
    for name, what in (compared | {"pydantic": "importing click, docker, pydantic"}).items():
        times = ratio(found[name], found["imports"])
        section.rows.append(
            [f"{what} (for comparison)", spread(found[name]), against, spread(found["imports"]), f"{times:.2f}"]
        )
    return section


def _row(
    section: Section, what: str, ours: list[float], against: str, theirs: list[float], limit: float, reason: str
) -> None:
    measured = ratio(ours, theirs)
    section.rows.append([what, spread(ours), against, spread(theirs), f"{measured:.2f}"])
    section.targets.append(at_most(f"{what} against {against}", measured, limit, reason=reason))
