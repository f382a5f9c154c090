"""A command that is called here: what is told of it, and that it ends, with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeProxy, FakeRuntime, World
from harness import REPOSITORY, eventually

from bluegreen import doctor, hooks
from bluegreen.errors import Failed, Interrupted
from bluegreen.hooks import KEPT, TOLD, WIDTH, Output, run_here
from bluegreen.service import Service
from bluegreen.settings import load

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


def test_a_command_that_writes_without_end_is_told_up_to_a_limit_and_ended_in_time(tmp_path: Path) -> None:
    told: list[str] = []
    output = Output(told.append)

    def enough() -> None:
        if len(told) > TOLD:
            raise Interrupted("now")

    with pytest.raises(Interrupted):
        run_here(
            "test",
            ["yes"],
            directory=tmp_path,
            environment={},
            timeout=FOR_EVER,
            output=output.feed,
            watch=enough,
        )
    assert call("yes", tmp_path, timeout=0.1)[0] is None
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


def test_an_image_that_is_built_without_a_run_has_its_hook_called_too(tmp_path: Path) -> None:
    file = tmp_path / "bluegreen.toml"
    told = "echo $BLUEGREEN_HOOK $BLUEGREEN_ACTION $BLUEGREEN_RELEASE; echo $BLUEGREEN_CONFIG"
    told += "; test $BLUEGREEN_RELEASE = v9"
    file.write_text(f'service = "shop"\n[app]\nport = 1\n[hooks.pre_build]\ncommand = "{told}"\n')
    settings, world, lines = load(file), World(), []
    service = Service(settings, None, FakeRuntime(world, settings), FakeProxy(world, settings))
    service.build("v9", lines.append)
    assert lines[:2] == ["pre_build build v9", str(file)]
    assert "shop:v9" in world.images
    with pytest.raises(Failed, match=r"the hook pre_build failed: .* ended with exit code 1"):
        service.build("v8", lines.append)
    assert "shop:v8" not in world.images


def test_doctor_finds_a_hook_that_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "there.sh").write_text("#!/bin/sh\n")
    (tmp_path / "there.sh").chmod(0o755)
    file = tmp_path / "bluegreen.toml"
    commands = {"pre_deploy": ["./there.sh"], "post_switch": ["./missing.sh"], "post_deploy": ["no-such-program"]}
    tables = "".join(f"[hooks.{name}]\ncommand = {json.dumps(command)}\n" for name, command in commands.items())
    file.write_text(f'service = "shop"\n[app]\nport = 1\n{tables}[hooks.on_failure]\ncommand = "anything | goes"\n')
    settings, world = load(file), World()
    service = Service(settings, None, FakeRuntime(world, settings), FakeProxy(world, settings))
    found = {finding.what.partition(":")[0]: finding.level for finding in doctor.hooks(service)}
    assert found == {"pre_deploy": "ok", "post_switch": "error", "post_deploy": "error", "on_failure": "ok"}
