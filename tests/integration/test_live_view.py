"""A deploy as a person sees it on a terminal, while it goes on and when it has ended."""

from __future__ import annotations

import re
import shlex
import time

import docker
from aftermath import edit, things
from harness import Make, TestService, eventually
from terminal import Terminal, terminal

DONE = ["start", "probe", "switch", "verify", "bake", "drain", "retire"]
BAKES = r"^  [⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] bake +\d+\.\d s  watch v"


def follow(seen: Terminal, until: str) -> list[list[str]]:
    """Every screen that was seen until this was on one."""
    screens: list[list[str]] = []
    deadline = time.monotonic() + 120
    while not (screens and re.search(until, "\n".join(screens[-1]), re.MULTILINE)):
        assert time.monotonic() < deadline, "\n".join(screens[-1])
        screen = seen.screen
        if not screens or screens[-1] != screen:
            screens.append(screen)
        time.sleep(0.03)
    return screens


def command(service: TestService, *arguments: str) -> str:
    return shlex.join(service.command(*arguments))


def test_a_deploy_is_seen_as_it_goes_on(make_service: Make) -> None:
    service = make_service(bake=2, probe='timeout = "30s"\nsuccesses = 20')  # so long that it is seen
    service.deploy("v1")
    watch(service, "v1", "v2", 80, 24, colours=True)
    watch(service, "v2", "v3", 200, 50, colours=False)


def watch(service: TestService, old: str, new: str, columns: int, lines: int, *, colours: bool) -> None:
    """The deploy of a release over another on a terminal of this size has been looked at."""
    with terminal(service.directory, columns, lines, {} if colours else {"NO_COLOR": "1"}) as seen:
        seen.type(f"clear; {command(service, 'deploy', new)}")
        screens = follow(seen, BAKES)
        assert not seen.cursor
        screens += follow(seen, rf"^ +{old} +─+ +0%$")
        screen, coloured = seen.screen, seen.coloured
        all_of_them = ["\n".join(each) for each in screens]
        for what in (r"^  . probe +\d+\.\d s  try \d+: ", rf"^ +{old} +━+ +100%$"):
            assert any(re.search(what, each, re.MULTILINE) for each in all_of_them), what
        assert re.search(rf"^. deploy {old} → {new} on \S+, \d+ s$", screen[0])
        for what in (
            *(rf"^  . {step} " for step in DONE),
            r"^  ✓ switch +\d+\.\d s  (blue|green) is in use$",
            rf"^ +{new} +━+ +100%$",
            r"^ +witness +\d+ requests, 0 failed$",
        ):
            assert re.search(what, "\n".join(screen), re.MULTILINE), what
        assert bool(re.search(r"\x1b\[[\d;]*3[0-7]m", coloured)) is colours
        tops = {each[0].rpartition(",")[0][1:] for each in screens if "→" in each[0]}
        assert len(tops) <= 2, "it stays where it is"

        assert seen.code() == 0
        text = seen.everything
        assert seen.cursor
    ended = text.index(f"deploy {old} → {new}: done")
    assert [line.split()[1] for line in text[:ended]] == DONE
    assert all(re.fullmatch(r"  ✓ [a-z]+ +\S.*  \(\d+\.\d\d s\)", line) for line in text[:ended])
    assert re.fullmatch(rf"    witness +\d+ requests, 0 failed \({new} \d+, {old} \d+\)", text[ended + 1])
    assert [line.split()[0] for line in text[ended + 1 :]][:5] == ["witness", "before", "during", "after", "switch"]
    assert text[ended + 6].startswith("ready>"), "nothing was folded, and nothing is left"
    assert not any(sign in line for line in text for sign in "━─⠋")


def test_ctrl_c_undoes_a_deploy_and_leaves_the_terminal_as_it_was(
    make_service: Make, engine: docker.DockerClient
) -> None:
    service = make_service()
    service.deploy("v1")
    edit(service, "seconds = 0.5", "seconds = 3600")
    before = things(engine, service)
    with terminal(service.directory, 80, 30) as seen:
        seen.type(f"clear; {command(service, 'deploy', 'v2')}")
        follow(seen, BAKES)
        seen.interrupt()
        assert seen.code() == 130
        assert seen.cursor
        text = [line for line in seen.everything if line]
        seen.type("echo what is typed is seen")
        eventually(lambda: "what is typed is seen" in seen.screen, "its output")
        assert any(line.endswith("echo what is typed is seen") for line in seen.screen)
    assert re.fullmatch(r"  ✗ bake +interrupted by SIGINT  \(\d+\.\d\d s\)", text[4])
    assert re.fullmatch(r"  ↩ switch +blue \(v1\) is in use again  \(\d+\.\d\d s\)", text[5])
    assert re.match(r"  ↩ start +removed ", text[6])
    assert text[7] == "deploy v1 → v2: undone"
    assert any(line.startswith("error: interrupted by SIGINT") for line in text)
    assert "v1 still serves" in text
    assert not any("━" in line or "^C" in line for line in text)
    assert things(engine, service) == before


def test_a_status_is_watched_in_its_place(make_service: Make) -> None:
    service = make_service()
    service.deploy("v1")
    with terminal(service.directory, 80, 24) as seen:
        seen.type(f"clear; {command(service, 'status', '--watch', '0.2')}")
        eventually(lambda: any("live     v1 (blue)" in line for line in seen.screen), "v1")
        service.deploy("v2")
        eventually(lambda: any("live     v2 (green)" in line for line in seen.screen), "v2")
        screen = seen.screen
        assert re.fullmatch(r"\d\d:\d\d:\d\dZ, every 0.2 s", screen[0])
        assert screen[1].startswith(service.name)
        assert not any("v1 (blue)" in line for line in screen)
        seen.interrupt()
        assert seen.code() == 130
        assert seen.cursor
        assert sum("every 0.2 s" in line for line in seen.everything) == 1
