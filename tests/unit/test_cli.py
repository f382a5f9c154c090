"""The commands: their help, their exit codes, and what they give to programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import Clock, FakeLock, FakeProxy, FakeRuntime, World

from bluegreen import __version__, gitlab_ci
from bluegreen.cli import main
from bluegreen.errors import (
    BluegreenError,
    Failed,
    Interrupted,
    Locked,
    NeedsPerson,
    SettingsError,
    Unexpected,
    UsageError,
)
from bluegreen.gitlab_server import Server
from bluegreen.lock import Holder
from bluegreen.proxies.agent import Answer
from bluegreen.service import Service
from bluegreen.settings import Settings

FILE = """
service = "shop"
[app]
port = 9000
[probe]
body = "version {number}"
interval = "10ms"
timeout = "1s"
[bake]
seconds = 0
"""
COMMANDS = [
    *("build", "dashboard", "deploy", "doctor", "down", "exec", "gitlab", "history", "init", "login", "logs"),
    *("proxy", "prune", "push", "receipt", "rollback", "status", "watch"),
]
PROXY = ["boot", "reload", "render", "status"]


@dataclass
class Ran:
    code: int
    out: str
    err: str


class Shell:
    """A directory with a settings file, in which commands are typed at a host in memory."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.world = World().has("v1", "v2", "v3")
        self.world.add_image("nginx:stable", "sha256:proxy")
        self.directory = directory
        self._monkeypatch, self._capsys = monkeypatch, capsys
        (directory / "bluegreen.toml").write_text(FILE)

    def __call__(self, *arguments: str) -> Ran:
        self._monkeypatch.setattr(sys, "argv", ["bluegreen", *arguments])
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = self._capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Ran(code, captured.out, captured.err)

    def deploy(self, release: str, *options: str) -> Ran:
        return self("deploy", release, "--no-witness", *options)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    shell = Shell(tmp_path, monkeypatch, capsys)
    clock = Clock()

    @contextmanager
    def opened(cls: type[Service], settings: Settings, engine: object) -> Iterator[Service]:
        yield cls(settings, None, FakeRuntime(shell.world, settings), FakeProxy(shell.world, settings))

    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr("bluegreen.service.Lock", lambda *_: FakeLock())
    monkeypatch.setattr(Service, "open", classmethod(opened))
    monkeypatch.setattr("bluegreen.runtimes.connect.connect", lambda: SimpleNamespace(close=lambda: None))
    # The command takes SIGTERM for itself; here the test run must keep it.
    monkeypatch.setattr("bluegreen.cli.signal.signal", lambda *_: None)
    for name in ("BLUEGREEN_CONFIG", "GITLAB_CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return shell


def test_help_lists_the_commands_each_with_a_line(shell: Shell) -> None:
    for flag in ("--help", "-h"):
        ran = shell(flag)
        assert ran.code == 0
        for command in COMMANDS:
            assert re.search(rf"^  {command} +\S.*\.$", ran.out, re.MULTILINE), command


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(shell: Shell, command: str) -> None:
    ran = shell(command, "--help")
    assert ran.code == 0
    assert ran.out.startswith("Usage: ")


@pytest.mark.parametrize("command", PROXY)
def test_so_has_every_command_for_the_proxy(shell: Shell, command: str) -> None:
    assert re.search(rf"^  {command} +\S.*\.$", shell("proxy", "--help").out, re.MULTILINE)
    assert shell("proxy", command, "--help").code == 0


def test_the_proxys_file_can_be_read_before_there_is_a_proxy_and_is_what_then_stands(shell: Shell) -> None:
    assert shell("proxy", "render").code == 0
    assert shell.world.proxy is None
    shell.deploy("v1")
    assert shell.world.proxy
    assert shell("proxy", "render").out == shell.world.proxy["shop"].file("shop")


def test_the_proxy_is_looked_after_without_a_deploy(shell: Shell) -> None:
    ran = shell("proxy", "reload")
    assert (ran.code, "does not run" in ran.err) == (1, True)
    assert json.loads(shell("proxy", "status", "--json").out)["exists"] is False
    assert "is made and runs" in shell("proxy", "boot").out
    assert "is made" not in shell("proxy", "boot").out
    shell.deploy("v1")
    assert shell("proxy", "reload").code == 0
    status = json.loads(shell("proxy", "status", "--json").out)
    assert (status["running"], status["service"], status["colour"]) == (True, "shop", "blue")
    assert status["record"]["committed"] is True
    shell.world.proxy_running = False
    assert "does not run" in shell("proxy", "status").out
    shell("proxy", "boot")
    assert "serves   shop: blue" in shell("proxy", "status").out


def test_prune_lists_and_with_yes_removes_what_nothing_needs(shell: Shell) -> None:
    shell.world.has("v4", "v5")
    for release in ("v2", "v3", "v4"):
        shell.deploy(release)
    with (shell.directory / "bluegreen.toml").open("a") as file:
        file.write("\n[retire]\nkeep = 1\n")
    before = dict(shell.world.images)
    ran = shell("prune")
    assert "would remove the image shop:v1\nwould remove the image shop:v2\n" in ran.out
    assert "shop:v3" not in ran.out, "what a rollback needs"
    assert "shop:v5" not in ran.out, "what may be about to be deployed"
    assert shell.world.images == before
    pruned = json.loads(shell("prune", "--yes", "--json").out)
    assert (pruned["images"], pruned["done"]) == (["shop:v1", "shop:v2"], True)
    gone = {name for name in before if name not in shell.world.images}
    assert gone == {"shop:v1", "shop:v2", "sha256:v1", "sha256:v2"}
    assert shell("rollback", "--no-witness").code == 0
    assert "there is nothing to remove" in shell("prune", "--yes").out


def test_the_version(shell: Shell) -> None:
    assert shell("--version") == Ran(0, f"bluegreen, version {__version__}\n", "")


def test_the_module_is_a_program_and_a_quick_one() -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "bluegreen", "--version"], capture_output=True, text=True
    )
    assert ran.returncode == 0
    assert __version__ in ran.stdout
    for slow in ("docker", "httpx", "jinja2", "pydantic", "tenacity"):
        assert not re.search(rf"\| +{slow}$", ran.stderr, re.MULTILINE), f"{slow} is loaded before it is needed"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["deploy"],
        ["deploy", "v2", "v3"],
        ["deploy", "v2", "--fast"],
        ["deploy", "v2", "--wait", "soon"],
        ["deploy", ""],
        ["deploy", "v2;x"],
        ["deploy", "../v2"],
        ["deploy", "v" * 200],
        ["deploy", "v2\n}"],
        ["deploy", "-v2"],
        ["rollback", "v2 x"],
        ["build", "ü"],
        ["watch", "--rate", "0"],
        ["logs", "--since", "soon"],
        ["logs", "--colour", "red"],
        ["logs", "--tail", "-1"],
        ["exec"],
        ["exec", "--replica", "0", "true"],
        ["exec", "--fast", "true"],
        ["status", "now"],
        ["gitlab", "render"],
        ["gitlab", "render", "--domain", "a'b"],
        ["gitlab", "render", "--domain", "gitlab.example.com", "--registry-port", "0"],
    ],
)
def test_a_command_line_that_cannot_be_meant_ends_with_2_and_changes_nothing(
    shell: Shell, arguments: list[str]
) -> None:
    before = shell.world.truth("shop")
    ran = shell(*arguments)
    assert ran.code == 2
    assert ran.err
    assert "Traceback" not in ran.err
    assert shell.world.truth("shop") == before


@pytest.mark.parametrize("command", [["deploy", "v1"], ["rollback"], ["status"], ["down", "--yes"], ["watch"]])
def test_without_a_settings_file_or_with_a_broken_one_a_command_ends_with_3(shell: Shell, command: list[str]) -> None:
    (shell.directory / "bluegreen.toml").write_text("service = 7\nap = 1\n")
    ran = shell(*command)
    assert ran.code == 3
    assert "service: must be a string, not 7" in ran.err
    assert "did you mean app?" in ran.err
    (shell.directory / "bluegreen.toml").unlink()
    ran = shell(*command)
    assert ran.code == 3
    assert "bluegreen init" in ran.err


def test_the_settings_file_can_be_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    (shell.directory / "bluegreen.toml").rename(shell.directory / "other.toml")
    assert shell("-c", "other.toml", "status").code == 0
    assert shell("--config", "none.toml", "status").code == 3
    monkeypatch.setenv("BLUEGREEN_CONFIG", "other.toml")
    assert shell("status").code == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Failed("x"), 1),
        (BluegreenError("x"), 1),
        (UsageError("x"), 2),
        (SettingsError("x"), 3),
        (Locked("x"), 4),
        (NeedsPerson("x"), 5),
        (Interrupted("x"), 130),
        (KeyboardInterrupt(), 130),
        (RuntimeError("x"), 5),
        (Unexpected(KeyError("x")), 5),
    ],
)
def test_every_error_has_its_exit_code(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def broken(self: Service) -> None:
        raise error

    monkeypatch.setattr(Service, "status", broken)
    ran = shell("status")
    assert ran.code == code
    assert ran.err.lstrip().startswith("error: ")
    assert "Traceback" not in ran.err
    ran = shell("status", "--json")
    assert ran.code == code
    assert json.loads(ran.out)["exit_code"] == code


def test_an_error_that_nobody_foresaw_is_one_line_and_a_log_file(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(self: Service) -> None:
        raise KeyError("no\n\x1b[31msuch key")

    monkeypatch.setattr(Service, "status", broken)
    ran = shell("status")
    lines = ran.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: unexpected: KeyError: ")
    assert "\x1b" not in ran.err
    [log] = (tmp_path / "state/bluegreen").iterdir()
    assert lines[0].endswith(f"stands in {log}")
    assert "in broken" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0

    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path / "file"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: os.fspath(tmp_path / "file"))
    assert "there was no place for a log file" in shell("status").err


def test_a_deploy_its_repetition_and_a_rollback(shell: Shell) -> None:
    first = shell.deploy("v1")
    assert first.code == 0
    assert "deploy nothing → v1: done" in first.out
    assert "deploy v1 → v2: done" in shell.deploy("v2").out
    again = shell.deploy("v2")
    assert again.code == 0
    assert "unchanged (v2 is live already)" in again.out
    back = shell("rollback", "--no-witness")
    assert back.code == 0
    assert "rollback v2 → v1: done" in back.out


def test_a_deploy_that_fails_ends_with_1_and_says_what_serves(shell: Shell) -> None:
    shell.deploy("v1")
    shell.world.answers["v2"] = lambda: Answer(503, "")
    ran = shell.deploy("v2", "--receipt", "out.json")
    assert ran.code == 1
    assert "v1 still serves" in ran.err
    assert json.loads((shell.directory / "out.json").read_text())["result"] == "undone"


def test_a_deploy_while_another_runs_ends_with_4_and_names_it(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = Holder("ann@laptop, process 7", "deploy v9", "2024-05-01T12:00:00+00:00")
    monkeypatch.setattr("bluegreen.service.Lock", lambda *_: FakeLock(holder))
    ran = shell.deploy("v1")
    assert ran.code == 4
    assert "ann@laptop, process 7 (deploy v9, since 2024-05-01T12:00:00+00:00)" in ran.err


def test_a_receipt_is_written_and_left_whole(shell: Shell) -> None:
    assert shell.deploy("v1", "--receipt", "out.json").code == 0
    receipt = json.loads((shell.directory / "out.json").read_text())
    assert (receipt["result"], receipt["to"]) == ("done", "v1")
    assert sorted(os.listdir(shell.directory)) == ["bluegreen.toml", "out.json"]


def test_a_receipt_that_cannot_be_written_does_not_fail_the_deploy(shell: Shell) -> None:
    ran = shell.deploy("v1", "--receipt", "no/such/out.json")
    assert ran.code == 0
    assert "the receipt could not be written" in ran.err


def test_a_report_is_written_of_a_deploy_of_one_that_failed_and_of_a_rollback(shell: Shell) -> None:
    def reported() -> str:
        return (shell.directory / "out.html").read_text()

    assert shell.deploy("v1", "--report", "out.html").code == 0
    assert "v1 is live." in reported()
    shell.deploy("v2")
    shell.world.answers["v3"] = lambda: Answer(503, "")
    assert shell.deploy("v3", "--report", "out.html", "--receipt", "out.json").code == 1
    assert "It was undone: v2 still serves." in reported()
    assert shell("rollback", "--no-witness", "--report", "out.html").code == 0
    assert "v1 is live again." in reported()
    assert sorted(os.listdir(shell.directory)) == ["bluegreen.toml", "out.html", "out.json"]


def test_a_report_that_cannot_be_made_or_written_does_not_change_the_outcome(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shell.directory / "out.html").mkdir()
    for file in ("no/such/out.html", "out.html"):
        ran = shell.deploy("v1", "--report", file)
        assert ran.code == 0
        assert "the report could not be written" in ran.err
    monkeypatch.setattr("bluegreen.report.render", lambda receipt: receipt["no such thing"])
    ran = shell.deploy("v2", "--report", "new.html")
    assert "the report could not be written to new.html: 'no such thing'" in ran.err
    shell.world.answers["v3"] = lambda: Answer(503, "")
    assert shell.deploy("v3", "--report", "new.html").code == 1
    assert sorted(os.listdir(shell.directory)) == ["bluegreen.toml", "out.html"]


def test_json_of_every_command_that_has_it_is_json(shell: Shell) -> None:
    lines = shell.deploy("v1", "--json").out.splitlines()
    events = [json.loads(line) for line in lines]
    assert events[-1]["event"] == "receipt"
    assert (events[0]["event"], events[0]["data"]["release"]) == ("planned", "v1")
    assert {step["step"] for step in events[0]["data"]["steps"]} == {step["step"] for step in events[-1]["steps"]}
    assert [each["data"]["tries"] for each in events if each["event"] == "counts"] == [1, 2, 3]
    assert {step["state"] for step in events[-1]["steps"]} == {"done"}
    assert events[1] == {
        "event": "started",
        "step": "start",
        "host": "fake",
        "at": 0.0,
        "seconds": 0.0,
        "detail": "",
        "data": {},
    }
    plan = json.loads(shell("deploy", "v2", "--plan", "--json").out)
    assert plan["steps"][0]["step"] == "start"
    assert json.loads(shell("status", "--json").out)["live"]["release"] == "v1"
    failed = [json.loads(line) for line in shell("rollback", "--json").out.splitlines()]
    assert failed[-1]["event"] == "error"


@pytest.mark.parametrize("how", [["--watch"], ["--watch", "0.5"], ["--watch", "--json"]])
def test_a_status_is_watched_until_ctrl_c(shell: Shell, monkeypatch: pytest.MonkeyPatch, how: list[str]) -> None:
    shell.deploy("v1")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    ran = shell("status", *how)
    assert (ran.code, ran.err) == (130, "")
    assert slept == [0.5 if "0.5" in how else 2.0] * 3
    if "--json" in how:
        seen = [json.loads(line) for line in ran.out.splitlines()]
        assert [each["live"]["release"] for each in seen] == ["v1"] * 3
        assert all(each["at"] for each in seen)
    else:
        blocks = ran.out.split("\n\n")
        assert blocks.pop() == ""
        assert len(blocks) == 3
        for block in blocks:
            assert re.match(r"\d\d:\d\d:\d\dZ, every (0.5|2) s\nshop at http", block)
            assert "  live     v1 (" in block


def test_a_status_that_cannot_be_had_ends_the_watching(shell: Shell) -> None:
    (shell.directory / "bluegreen.toml").write_text("service = 7\n")
    assert shell("status", "--watch").code == 3


def test_a_plan_changes_nothing(shell: Shell) -> None:
    shell.deploy("v1")
    before = shell.world.truth("shop")
    ran = shell("deploy", "v2", "--plan")
    assert ran.code == 0
    assert "deploy v2 would:" in ran.out
    assert shell("rollback", "--plan").code == 1
    assert shell.world.truth("shop") == before


def test_build_says_what_it_built(shell: Shell) -> None:
    ran = shell("build", "v9")
    assert ran.code == 0
    assert ran.out.endswith("shop:v9 40.0 MB\n")
    shell.world.broken_builds.add("v8")
    ran = shell("build", "v8")
    assert ran.code == 1
    assert "exit code 1" in ran.err


def test_init_writes_a_file_that_loads_and_never_over_another(shell: Shell) -> None:
    path = shell.directory / "bluegreen.toml"
    ran = shell("init")
    assert ran.code == 2
    assert path.read_text() == FILE
    path.unlink()
    assert shell("init", "--service", "Bad Name").code == 2
    assert not path.exists()
    assert shell("init", "--service", "shop").code == 0
    assert shell("status").code == 0


def test_init_gitlab_writes_the_pipeline_beside_the_settings(shell: Shell) -> None:
    (shell.directory / "bluegreen.toml").unlink()
    assert shell("init", "--gitlab", "--service", "shop").code == 0
    assert (shell.directory / ".gitlab-ci.yml").read_text() == gitlab_ci.render("file")
    assert shell("status").code == 0


def test_init_gitlab_takes_the_address_from_settings_that_are_there_and_leaves_them(shell: Shell) -> None:
    settings = FILE + '[proxy]\nurl = "https://www.example.com"\n'
    (shell.directory / "bluegreen.toml").write_text(settings)
    assert shell("init", "--gitlab").code == 0
    assert (shell.directory / "bluegreen.toml").read_text() == settings
    written = (shell.directory / ".gitlab-ci.yml").read_text()
    assert written == gitlab_ci.render("file", url="https://www.example.com")


def test_init_gitlab_never_writes_over_a_pipeline_and_then_writes_nothing(shell: Shell) -> None:
    (shell.directory / "bluegreen.toml").unlink()
    (shell.directory / ".gitlab-ci.yml").write_text("mine: {}\n")
    ran = shell("init", "--gitlab", "--service", "shop")
    assert ran.code == 2
    assert ".gitlab-ci.yml is there already and was left as it is" in ran.err
    assert (shell.directory / ".gitlab-ci.yml").read_text() == "mine: {}\n"
    assert not (shell.directory / "bluegreen.toml").exists()


def test_init_gitlab_with_broken_settings_ends_with_3_and_writes_nothing(shell: Shell) -> None:
    (shell.directory / "bluegreen.toml").write_text("service = 7\n")
    assert shell("init", "--gitlab").code == 3
    assert not (shell.directory / ".gitlab-ci.yml").exists()


def test_gitlab_render_needs_no_settings_file(shell: Shell) -> None:
    (shell.directory / "bluegreen.toml").unlink()
    ran = shell("gitlab", "render", "--domain", "gitlab.example.com", "--registry-port", "8001", "--http-registry")
    assert ran.code == 0
    assert ran.out == Server(domain="gitlab.example.com", registry_port=8001, http_registry=True).render()


def test_gitlab_render_takes_every_option_of_the_server(shell: Shell) -> None:
    options: dict[str, Any] = {
        "domain": "gitlab.example.com",
        "gitlab_version": "17.11",
        "port": 8443,
        "certificate": "/tls/a.crt",
        "key": "/tls/a.key",
        "redirect_port": 8000,
        "data_directory": "/data/gitlab_data",
        "registry_port": 8001,
        "registry_directory": "/data/images",
    }
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    ran = shell("gitlab", "render", *words, "--https", "--redirect")
    assert ran == Ran(0, Server(**options, https=True, redirect=True).render(), "")
    ran = shell("gitlab", "render", "--domain", "gitlab.example.com", "--no-redirect")
    assert ran.out == Server(domain="gitlab.example.com", redirect=False).render()
    ran = shell("gitlab", "render", "--domain", "gitlab.example.com", "--http")
    assert ran.out == Server(domain="gitlab.example.com", https=False).render()


def test_gitlab_render_names_the_option_that_cannot_be(shell: Shell) -> None:
    ran = shell("gitlab", "render", "--domain", "gitlab.example.com", "--data-directory", "/a'; system('id'); '")
    assert (ran.code, ran.out) == (2, "")
    assert "--data-directory: " in ran.err


def test_down_asks_and_takes_no_for_an_answer(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.deploy("v1")
    before = shell.world.truth("shop")
    answers: list[Any] = [False, True]
    monkeypatch.setattr("bluegreen.cli.click.confirm", lambda *_, **__: answers.pop(0))
    assert shell("down").code != 0
    assert shell.world.truth("shop") == before
    ran = shell("down")
    assert ran.code == 0
    assert "removed shop-blue-1" in ran.out
    assert shell.world.containers == {}
    assert shell("down", "--yes").out == "nothing of shop was there\n"
