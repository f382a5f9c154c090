"""A terminal as a person has it: a shell in tmux, of which the screen can be read."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import pty
import re
import shlex
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harness import REPOSITORY, eventually

PROMPT = "ready> "
_numbers = itertools.count(1)


class Terminal:
    """A terminal of `columns` and `lines`, in which a shell waits for commands."""

    def __init__(self, server: str, directory: Path, columns: int, lines: int, env: Mapping[str, str]) -> None:
        self._server = server
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ}
        env = {**kept, "LANG": "C.UTF-8", "PYTHONPATH": os.fspath(REPOSITORY), "PS1": PROMPT, **env}
        shell = ["env", "-i", *(f"{name}={value}" for name, value in env.items()), 'TERM="$TERM"', "sh"]
        self._tmux(
            *("new-session", "-d", "-x", str(columns), "-y", str(lines), "-c", os.fspath(directory)),
            " ".join(part if part.startswith("TERM=") else shlex.quote(part) for part in shell),
        )
        self._tmux("set-option", "-g", "history-limit", "5000")
        eventually(lambda: self.idle, "the shell's prompt")

    def type(self, text: str, *, enter: bool = True) -> None:
        self._tmux("send-keys", "-l", "--", text)
        if enter:
            self._tmux("send-keys", "Enter")

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._tmux("send-keys", "C-c")

    @property
    def screen(self) -> list[str]:
        """What can be seen, line by line, without what is empty at the end."""
        return self._tmux("capture-pane", "-p").rstrip("\n").split("\n")

    @property
    def coloured(self) -> str:
        """The same with the escape sequences that make it look so."""
        return self._tmux("capture-pane", "-p", "-e")

    @property
    def everything(self) -> list[str]:
        """The screen and what was scrolled off it."""
        return self._tmux("capture-pane", "-p", "-S", "-").rstrip("\n").split("\n")

    @property
    def cursor(self) -> bool:
        """Whether the cursor can be seen."""
        return self._tmux("display-message", "-p", "#{cursor_flag}").strip() == "1"

    @property
    def idle(self) -> bool:
        """Whether the shell waits for a command."""
        return self.screen[-1].rstrip() == PROMPT.rstrip()

    def code(self) -> int:
        """The exit code of the last command, once it has ended."""
        eventually(lambda: self.idle, "the command's end", timeout=120)
        self.type("echo code=$?")
        eventually(lambda: self.idle and self.screen[-2].startswith("code="), "the exit code")
        return int(self.screen[-2].partition("=")[2])

    def _tmux(self, *arguments: str) -> str:
        ran = subprocess.run(
            ["tmux", "-L", self._server, "-f", os.devnull, *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout


@contextmanager
def terminal(
    directory: Path, columns: int = 80, lines: int = 40, env: Mapping[str, str] | None = None
) -> Iterator[Terminal]:
    """A terminal that is closed afterwards, with all that runs in it."""
    server = f"bluegreen-test-{os.getpid()}-{next(_numbers)}"
    try:
        yield Terminal(server, directory, columns, lines, env or {})
    finally:
        subprocess.run(["tmux", "-L", server, "kill-server"], capture_output=True, timeout=30, check=False)


@contextmanager
def pseudo_terminal(columns: int = 80, lines: int = 24) -> Iterator[Reader]:
    """Standard output is a terminal inside, of which is read here what was written to it."""
    master, slave = pty.openpty()
    with (
        Reader(master, columns, lines) as reader,
        os.fdopen(slave, "w", encoding="utf-8") as output,
        contextlib.redirect_stdout(output),
    ):
        yield reader


class Reader:
    """The other end of a pseudo-terminal: what was written to it, and what can be seen then."""

    def __init__(self, master: int, columns: int, lines: int) -> None:
        self._master = master
        self._columns = columns
        self._written = bytearray()
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._master)

    @property
    def written(self) -> str:
        return self._written.decode(errors="replace")

    def until(self, text: str) -> str:
        """All that was written, once this is in it."""
        eventually(lambda: text in self.written, f"{text!r} in {self.written!r}", timeout=30)
        return self.written

    def shown(self) -> list[str]:
        """What stands there by the few sequences that rich writes: cursor up, erase the line. Fails at others."""
        rows, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", self.written):
            if part == "\r":
                column = 0
            elif part == "\n":
                row += 1
                rows += [""] * (row + 1 - len(rows))
            elif part == "\x1b[2K":
                rows[row] = ""
            elif up := re.fullmatch(r"\x1b\[(\d+)A", part):
                row = max(0, row - int(up[1]))
            elif part[0] == "\x1b":
                assert part[-1] in "mhl", part
            else:
                rows[row] = rows[row][:column].ljust(column) + part + rows[row][column + len(part) :]
                column += len(part)
        while len(rows) > row + 1 and not rows[-1]:
            rows.pop()
        return rows

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while piece := os.read(self._master, 65536):
                self._written += piece
