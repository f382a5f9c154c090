"""A command of the user's, run here: bounded in time and in words, and ended with all that it started."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bluegreen.errors import Failed
from bluegreen.settings import HookTable, Settings
from bluegreen.words import indent, plain

GRACE = 5.0
"""Seconds between the SIGTERM and the SIGKILL of a hook that has to end."""

POLL = 0.1
"""Seconds between two looks at whether a hook has to end."""

KEPT = 15
"""How many of a hook's last lines stand in the receipt."""

TOLD = 1000
"""How many lines are told while a hook runs; of what comes then, only the last are kept."""

WIDTH = 500
"""How much of a line is told."""

REST = 1 << 20
"""How many bytes are still read of a hook that has ended, as what it left in the background may write for ever."""

# Ends the group when this process dies, however it does, as that closes the lifeline's input.
LIFELINE = 'read -r _; kill -TERM -"$1"; sleep "$2"; kill -KILL -"$1"'


class Output:
    """What a hook writes, told line by line, and its last lines."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._rest = b""
        self._told = 0
        self._last: deque[str] = deque(maxlen=KEPT)

    @property
    def last(self) -> str:
        return "\n".join(self._last)

    def feed(self, data: bytes) -> None:
        *lines, rest = re.split(rb"[\r\n]", self._rest + data)
        if self._told > TOLD:
            lines = [line for line in lines if line.strip()][-KEPT:]
        for line in lines:
            self._line(line)
        self._rest = rest[: 4 * WIDTH]  # a character has four bytes at most

    def close(self) -> None:
        """The last line has been told, too."""
        self._line(self._rest)
        self._rest = b""

    def _line(self, raw: bytes) -> None:
        line = plain(raw.decode(errors="replace")).rstrip()
        if not line:
            return
        line = line if len(line) <= WIDTH else f"{line[:WIDTH]}…"
        self._last.append(line)
        self._told += 1
        if self._told <= TOLD:
            self._tell(line)
        elif self._told == TOLD + 1:
            self._tell(f"it writes on; its last {KEPT} lines will be shown")


def call_here(
    name: str,
    hook: HookTable,
    settings: Settings,
    environment: Mapping[str, str],
    output: Output,
    watch: Callable[[], None],
) -> int | None:
    """The hook has ended, in the directory of the settings file, which a bluegreen that it calls reads, too."""
    file = {"BLUEGREEN_CONFIG": str(settings.file)} if settings.file else {}
    return run_here(
        name,
        hook.command,
        directory=settings.root,
        environment={**environment, **file},
        timeout=hook.timeout,
        output=output.feed,
        watch=watch,
    )


def conclude(name: str, hook: HookTable, code: int | None, output: Output) -> str:
    """Says that the hook has ended well. Raises Failed with its last lines if it has not."""
    if code == 0:
        return f"`{short(hook.words)}` is done"
    last = f"\n{indent(output.last)}" if output.last else ""
    raise Failed(f"the hook {name} failed: `{short(hook.words)}` {_ended(code, hook.timeout)}{last}")


def short(words: str) -> str:
    """The words on one line that a person can take in."""
    line = " ".join(plain(words).split())
    return line if len(line) <= 60 else f"{line[:59]}…"


def _ended(code: int | None, timeout: float) -> str:
    if code is None:
        return f"had not ended after {timeout:g} s and was ended"
    if code > 0:
        return f"ended with exit code {code}"
    known = {int(number): number.name for number in signal.Signals}
    return f"was ended by {known.get(-code, f'signal {-code}')}"


def run_here(
    hook: str,
    command: Sequence[str],
    *,
    directory: Path,
    environment: Mapping[str, str],
    timeout: float,
    output: Callable[[bytes], None],
    watch: Callable[[], None],
) -> int | None:
    """The hook's command has ended. Gives its exit code, below 0 for a signal; None if it was ended after its timeout.

    `watch` is called a few times a second; what it raises ends the command, and is raised. Whatever ends it ends its
    whole process group, and so does the death of this process. What a command that ends by itself has left in the
    background is not waited for. Raises Failed if it can't be run.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for bluegreen, which then ends the group
        )
    except OSError as error:
        raise Failed(f"the hook {hook} can't run {command[0]} in {directory}: {error.strerror}") from error
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    lifeline = None
    try:
        lifeline = _lifeline(process.pid)
        deadline = time.monotonic() + timeout
        while process.poll() is None:
            watch()
            if time.monotonic() >= deadline:
                return None
            _read(pipe, process, output)
        return process.returncode
    finally:
        if process.poll() is None:
            _end(process, pipe, output)
        _read_rest(pipe, output)
        process.stdout.close()
        if lifeline:
            lifeline.kill()
            lifeline.communicate()


def _lifeline(group: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["sh", "-c", LIFELINE, "sh", str(group), f"{GRACE:g}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _read(pipe: int, process: subprocess.Popen[bytes], output: Callable[[bytes], None]) -> None:
    """What has been written is told; a moment has passed if it was nothing."""
    if not select.select([pipe], [], [], POLL)[0]:
        return
    data = os.read(pipe, 65536)
    if data:
        output(data)
    elif process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL)  # it has closed its output, and may have ended
    else:
        time.sleep(POLL)


def _read_rest(pipe: int, output: Callable[[bytes], None]) -> None:
    read = 0
    while read < REST and select.select([pipe], [], [], 0)[0]:
        data = os.read(pipe, 65536)
        if not data:
            return
        output(data)
        read += len(data)


def _end(process: subprocess.Popen[bytes], pipe: int, output: Callable[[bytes], None]) -> None:
    """The process and all of its group have ended, by themselves or, after GRACE seconds, not."""
    deadline = time.monotonic() + GRACE
    there = _signal(process, signal.SIGTERM)
    while there and time.monotonic() < deadline:
        _read(pipe, process, output)
        process.poll()
        there = _signal(process, 0)
    _signal(process, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)


def _signal(process: subprocess.Popen[bytes], number: int) -> bool:
    """The process's group has got the signal; False if nobody is left in it."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
