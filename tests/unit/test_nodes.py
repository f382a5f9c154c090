"""The nodes of a VIP on several hosts: what they tell each other, and what is found of them as a whole."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import eventually

from bluegreen.doctor import Finding
from bluegreen.errors import Failed, SettingsError, UsageError
from bluegreen.nodes import boot, examine, held, same_release
from bluegreen.settings import parse

SCRIPT = resources.files("bluegreen").joinpath("templates/switches.pl").read_bytes()
IMPATIENT = SCRIPT.replace(b"PATIENCE => 4", b"PATIENCE => 2")
assert IMPATIENT != SCRIPT


class Node:
    """A node's files, at an address of the loopback interface, and what answers the others."""

    def __init__(self, directory: Path, port: int, own: int, *peers: int) -> None:
        self.directory = directory
        (directory / "switches").mkdir(parents=True)
        (directory / "switches.pl").write_bytes(IMPATIENT)
        self.lines = [f"port {port}", f"own 127.0.0.{own}", *(f"peer 127.0.0.{peer}" for peer in peers)]
        self.proxy("/bin/true")
        self._serving = subprocess.Popen(self._command("serve"))

    def _command(self, doing: str) -> list[str]:
        return ["/usr/bin/perl", str(self.directory / "switches.pl"), doing]

    def proxy(self, check: str) -> None:
        """What the node asks its proxy with."""
        (self.directory / "nodes").write_text("".join(f"{line}\n" for line in [*self.lines, f"check {check}"]))

    def has(self, **switches: int) -> None:
        for service, number in switches.items():
            (self.directory / "switches" / service).write_text(f"{number}\n")

    def check(self) -> tuple[int, list[str]]:
        """How it ended, and what it said."""
        env = {**os.environ, "TMPDIR": str(self.directory)}
        ran = subprocess.run(self._command("check"), capture_output=True, text=True, timeout=30, env=env)
        return ran.returncode, ran.stdout.splitlines()

    def stop(self) -> None:
        self._serving.kill()
        self._serving.wait()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.21", 0))
        port = free.getsockname()[1]
    nodes = Node(tmp_path / "one", port, 21, 22), Node(tmp_path / "two", port, 22, 21)
    try:
        eventually(lambda: all("does not answer" not in node.check()[1][0] for node in nodes), "both answer")
        yield nodes
    finally:
        for node in nodes:
            node.stop()


def test_whoever_is_behind_stays_away_and_never_both(pair: tuple[Node, Node]) -> None:
    one, two = pair
    assert (one.check()[0], two.check()[0]) == (0, 0)
    one.has(shop=4, blog=2)
    two.has(shop=5, blog=2)
    assert one.check() == (1, ["127.0.0.22 is ahead: shop 5"])
    assert two.check() == (0, ["127.0.0.21 is not ahead"])
    # Each has missed what the other has: somebody has to answer.
    one.has(blog=3)
    assert (one.check()[0], two.check()[0]) == (0, 0)
    one.has(shop=5)
    assert (one.check()[0], two.check()[0]) == (0, 1)
    two.has(blog=3)
    assert (one.check()[0], two.check()[0]) == (0, 0)
    two.has(wiki=1)
    assert (one.check()[0], two.check()[0]) == (1, 0)
    two.has(wiki=0)  # it is down
    assert (one.check()[0], two.check()[0]) == (0, 0)


def test_a_node_whose_proxy_does_not_answer_keeps_nobody_away(pair: tuple[Node, Node]) -> None:
    one, two = pair
    two.has(shop=5)
    assert one.check()[0] == 1
    two.proxy("/bin/false")
    eventually(lambda: one.check() == (1, ["127.0.0.22 does not answer"]), "one has asked in vain")
    # Once is not enough: a node that has just come up might not have been heard yet.
    assert [one.check()[0] for _ in range(2)] == [1, 0]


def row(host: str, state: str | None, *, unreachable: str | None = None) -> dict[str, Any]:
    return {"host": host, "unreachable": unreachable, "held": state == "MASTER", "state": state, "exists": True}


def told(found: Iterator[Finding]) -> list[tuple[str, str]]:
    return [(each.level, each.what) for each in found]


HELD: list[tuple[list[str | None], str, str]] = [
    (["MASTER", "BACKUP"], "ok", "10.0.0.9 is held by n1 alone, and n2 hears it"),
    (["BACKUP", "MASTER", "BACKUP"], "ok", "10.0.0.9 is held by n2 alone, and n1 and n3 hear it"),
    (["MASTER", "FAULT"], "warning", "10.0.0.9 is held by n1, and no other node stands by"),
    (["MASTER", "MASTER"], "error", "10.0.0.9 is held by n1 and n2 at once: none of them hears the others' adverts"),
    (["FAULT", None], "error", "10.0.0.9 is held by no node"),
]


@pytest.mark.parametrize(("states", "level", "words"), HELD)
def test_the_address_is_held_by_one_node_that_the_others_hear(states: list[str | None], level: str, words: str) -> None:
    assert told(held("10.0.0.9", [row(f"n{n}", state) for n, state in enumerate(states, 1)])) == [(level, words)]


def test_who_holds_the_address_is_not_known_while_a_node_can_not_be_reached() -> None:
    assert told(held("10.0.0.9", [row("n1", "FAULT"), {"host": "n2", "unreachable": "no route"}])) == []


def host(name: str, switch: int | None, behind: str | None = None) -> dict[str, Any]:
    return {"name": name, "live": "v2", "switch": switch, "behind": behind}


def test_all_proxies_are_at_the_same_switch_and_their_nodes_say_so() -> None:
    hosts, nodes = [host("n1", 7), host("n2", 7)], {"n1": {"exists": True, "switch": 7}}
    assert told(same_release(hosts, nodes)) == [("ok", "all proxies serve v2, switch 7")]
    nodes = {"n1": {"exists": True, "switch": 6}, "n2": {"exists": False, "switch": None}}
    assert told(same_release(hosts, nodes))[1:] == [
        ("warning", "n1 tells the other nodes that it has switch 6, and has 7")
    ]
    late = [host("n1", 6, "its switch 6 is older than 7"), host("n2", 7)]
    assert told(same_release(late, {})) == [("warning", "n1 is behind: its switch 6 is older than 7")]
    assert told(same_release([host("n1", 7), host("n2", 8)], {})) == [("warning", "their switches differ: n1 7, n2 8")]
    assert told(same_release([host("n1", None), host("n2", None)], {})) == []


def service(**vip: Any) -> Any:
    table = {"address": "10.0.0.9", "interface": "eth1", **vip}
    raw = {"service": "shop", "app": {"port": 9000}, "hosts": ["ssh://one", "ssh://two"], "vip": table}
    hosts = SimpleNamespace(lost={}, members=[])
    return SimpleNamespace(settings=parse(raw), hosts=hosts, unreachable={"two": "no route to host"})


def test_every_host_is_a_node() -> None:
    with pytest.raises(SettingsError, match=r"^vip\.priorities: has 3 for 2 hosts"):
        boot(service(priorities=[3, 2, 1]))
    with pytest.raises(UsageError, match="there is no node 3: hosts has 2"):
        boot(service(), 3)
    assert told(examine(service(priorities=[3, 2, 1]))) == [("error", "3 priorities for 2 hosts")]


def test_no_node_is_booted_while_one_of_them_can_not_be_reached() -> None:
    with pytest.raises(Failed, match="two can't be reached: no route to host; nothing was changed"):
        boot(service())
