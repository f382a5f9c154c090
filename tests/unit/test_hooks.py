"""A command that is called here: what is told of it, and that it ends, with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import REPOSITORY, eventually

from bluegreen import hooks
from bluegreen.errors import Failed, Interrupted
from bluegreen.hooks import KEPT, TOLD, WIDTH, Output, run_here

FOR_EVER = 600.0
"""Longer than any test; what needs so long would be ended by the test's own deadline."""


def call(script: str, directory: Path, timeout: float = FOR_EVER, **options: Any) -> tuple[int | None, Output]:
    output = Output(lambda line: None)
    arguments = {"environment": {}, "watch": lambda: None, **options}
    code = run_here("test", ["sh", "-c", script], directory=directory, timeout=timeout, output=output.feed, **arguments)
    output.close()
    return code, output


def gone(pid: int) -> bool:
    """The process has ended; one that nobody has waited for yet has ended, too."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z"
    return True


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Callable[[], list[int]]]:
    """The processes that wrote their ids, a line each, to the file `pids`. None is left after the test."""
    file = tmp_path / "pids"

    def read() -> list[int]:
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    yield read
    for pid in read():
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_command_is_run_in_its_directory_with_its_environment_and_nothing_to_read(tmp_path: Path) -> None:
    code, output = call('cat; pwd; echo "$BLUEGREEN_HOOK $HOME" >&2', tmp_path, environment={"BLUEGREEN_HOOK": "a b"})
    assert code == 0
    assert output.last == f"{tmp_path}\na b {os.environ['HOME']}"


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", -9), ("exec >&- 2>&-; exit 3", 3)])
def test_how_a_command_ended_is_known(tmp_path: Path, script: str, code: int) -> None:
    assert call(script, tmp_path)[0] == code


def test_a_command_that_is_not_there_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"the hook pre_deploy can't run \./nothing in .*: No such file"):
        run_here(
            "pre_deploy",
            ["./nothing"],
            directory=tmp_path,
            environment={},
            timeout=1,
            output=lambda data: None,
            watch=lambda: None,
        )


@pytest.mark.parametrize("deaf", ["", "trap '' TERM; "])
def test_an_interrupt_or_a_timeout_ends_the_whole_group_also_one_that_will_not_hear(
    tmp_path: Path, pids: Callable[[], list[int]], deaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "GRACE", 0.3)
    inner = "echo $$ >> pids; while :; do sleep 600; done"
    script = f"{deaf}sleep 600 & echo $! >> pids; sh -c '{inner}' & echo $$ >> pids; wait"

    def interrupt() -> None:
        if len(pids()) == 3:  # all of them run
            raise Interrupted("now")

    with pytest.raises(Interrupted):
        call(script, tmp_path, watch=interrupt)
    assert len(pids()) == 3
    eventually(lambda: all(map(gone, pids())), "all of them end")
    assert call(f"{deaf}echo begun; sleep 600", tmp_path, timeout=0.2)[0] is None


def test_what_is_left_in_the_background_is_not_waited_for(tmp_path: Path, pids: Callable[[], list[int]]) -> None:
    code, output = call("sleep 600 & echo $! > pids; echo done", tmp_path)
    assert (code, output.last) == (0, "done")
    assert not gone(pids()[0]), "it is the user's own"


def test_a_background_process_that_writes_on_does_not_hold_the_run_up(
    tmp_path: Path, pids: Callable[[], list[int]]
) -> None:
    code, _ = call("yes & echo $! > pids; exit 4", tmp_path)
    assert code == 4
    eventually(lambda: gone(pids()[0]), "it ends as nobody reads it any more")


def test_a_command_that_writes_without_end_is_ended_in_time(tmp_path: Path) -> None:
    told: list[str] = []
    output = Output(told.append)
    code = run_here(
        "test",
        ["sh", "-c", "yes"],
        directory=tmp_path,
        environment={},
        timeout=0.5,
        output=output.feed,
        watch=lambda: None,
    )
    assert code is None
    assert len(told) == TOLD + 1
    assert "writes on" in told[-1]
    assert output.last == "\n".join(["y"] * KEPT)


def test_lines_are_told_as_they_come_and_nothing_in_them_moves_a_terminal() -> None:
    told: list[str] = []
    output = Output(told.append)
    output.feed(b"one\ntw")
    assert told == ["one"]
    output.feed(b"o\r\n\n\x1b[31mred\x1b[0m 10%\r20%\rend \xff")
    output.close()
    assert told == ["one", "two", "red 10%", "20%", "end \ufffd"]
    assert output.last == "\n".join(told)


def test_a_line_without_end_is_cut_and_takes_no_memory() -> None:
    told: list[str] = []
    output = Output(told.append)
    for _ in range(100):
        output.feed(b"x" * 65536)
    assert len(output._rest) <= 4 * WIDTH
    output.feed(b"\nnext\n")
    assert told == ["x" * WIDTH + "…", "next"]


def test_the_death_of_this_process_ends_the_command_and_all_that_it_started(
    tmp_path: Path, pids: Callable[[], list[int]]
) -> None:
    script = "sleep 600 & echo $! >> pids; echo $$ >> pids; wait"
    program = f"""
from pathlib import Path
from bluegreen import hooks
tie = hooks._lifeline
def tied(group):
    lifeline = tie(group)
    Path("tied").touch()
    return lifeline
hooks._lifeline = tied
hooks.run_here("test", ["sh", "-c", {script!r}], directory=Path("."), environment={{}}, timeout=600,
               output=lambda data: None, watch=lambda: None)
"""
    environment = {**os.environ, "PYTHONPATH": os.fspath(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment)
    try:
        eventually(lambda: len(pids()) == 2 and (tmp_path / "tied").exists(), "the command runs")
    finally:
        process.kill()
        process.wait()
    eventually(lambda: all(map(gone, pids())), "both end")
