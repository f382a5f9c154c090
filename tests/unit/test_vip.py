"""An address that two load balancers share: its settings, Keepalived's file, and what a host says of itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bluegreen.cli import main
from bluegreen.console import Console
from bluegreen.errors import SettingsError, UsageError
from bluegreen.settings import Settings, parse
from bluegreen.vip import asks, check_command, node_of, parse_view, render, state_of

LEAST = {"address": "192.168.100.250", "interface": "eth1"}


def having(proxy: dict[str, Any] | None = None, **vip: Any) -> Settings:
    return parse({"service": "shop", "app": {"port": 9000}, "proxy": proxy or {}, "vip": LEAST | vip})


def problems(**vip: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        having(**vip)
    return [line.strip() for line in caught.value.message.splitlines()[1:]]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"address": "192.168.100.300"}, "address: '192.168.100.300' is not an address"),
    ({"address": "127.0.0.1"}, "address: '127.0.0.1' can't be the address of one machine"),
    ({"address": "224.0.0.18"}, "address: '224.0.0.18' can't be the address of one machine"),
    ({"address": "192.168.100.250/33"}, "address: '192.168.100.250/33' must have a prefix length from /1 to /32"),
    ({"address": "fe80::1%eth1"}, "address: 'fe80::1%eth1' is not an address"),
    ({"interface": "eth1:0"}, "interface: 'eth1:0' is an alias: name the interface itself, eth1"),
    ({"interface": "an interface"}, "interface: 'an interface' is not an interface"),
    ({"interface": "sixteen-letters-"}, "interface: 'sixteen-letters-' is not an interface"),
    ({"router_id": 0}, "router_id: must be at least 1"),
    ({"router_id": 256}, "router_id: must be at most 255"),
    ({"router_id": [51, 52]}, "router_id: must be one number: nodes with different ones don't hear each other"),
    ({"priorities": [100, 100]}, "priorities: 100 is there twice: which of the two holds the address"),
    ({"priorities": [200]}, "priorities: must be of two nodes at least"),
    ({"priorities": [255, 100]}, "priorities: 255 is for a router that owns the address"),
    ({"priorities": [200, 0]}, "priorities[1]: must be at least 1"),
    ({"auth_pass": "123456789"}, "auth_pass: has 9 characters, and keepalived cuts a password after 8"),
    ({"auth_pass": "1010", "version": 3, "advert": 1}, "auth_pass: does nothing with version 3"),
    ({"auth_pass": "a b"}, "auth_pass: may hold letters, digits and"),
    ({"auth_pass": "a}b"}, "auth_pass: may hold letters, digits and"),
    ({"auth_pass": 1010}, "auth_pass: must be a string"),
    ({"version": 4}, "version: must be 2 or 3"),
    ({"advert": "100ms"}, "advert: can't be 0.1 s with version 2, which counts whole seconds"),
    ({"advert": "1.5s"}, "advert: can't be 1.5 s with version 2, which counts whole seconds"),
    ({"advert": "15ms", "version": 3}, "advert: can't be 0.015 s with version 3, which counts hundredths"),
    ({"advert": "41s", "version": 3}, "advert: can't be 41 s with version 3, which counts hundredths"),
    ({"advert": "5ms", "version": 3}, "advert: must be from 10ms to 255s"),
    ({"address": "fd00::250"}, "version: must be 3 for an IPv6 address"),
    ({"peers": ["192.168.100.11"]}, "peers: has 1 addresses for 2 priorities"),
    ({"peers": ["192.168.100.11", "192.168.100.11"]}, "peers: '192.168.100.11' is there twice"),
    ({"peers": ["192.168.100.11", "192.168.100.250"]}, "peers: 192.168.100.250 is the shared address"),
    ({"peers": ["192.168.100.11", "fd00::1"]}, "peers: fd00::1 is of another IP version"),
    ({"peers": ["node1", "node2"]}, "peers[0]: 'node1' is not an address"),
    ({"image": "Keepalived"}, "image: 'Keepalived' is not an image"),
]


@pytest.mark.parametrize(("vip", "words"), REFUSED, ids=[words.partition(":")[0] for _, words in REFUSED])
def test_what_keepalived_would_cut_round_ignore_or_mistake_is_refused_with_the_reason(
    vip: dict[str, Any], words: str
) -> None:
    assert f"vip.{words}" in "\n".join(problems(**vip))


def test_every_problem_of_a_pair_is_told_at_once() -> None:
    told = problems(router_id=[1, 2], priorities=[1, 1], advert="100ms", auth_pass="123456789")
    assert [line.partition(":")[0] for line in told] == [
        f"vip.{key}" for key in ("router_id", "priorities", "advert", "auth_pass")
    ]


def test_a_password_is_never_shown() -> None:
    assert "hidden-pw" not in "\n".join(problems(auth_pass="hidden-pw"))
    assert "tiger-7" not in repr(having(auth_pass="tiger-7"))


def test_the_usual_example_is_rendered_for_both_nodes() -> None:
    settings = having(auth_pass="1010")
    files = [statements(render(settings, node)) for node in (1, 2)]
    common = {"interface eth1", "virtual_router_id 51", "advert_int 1", "version 2", "auth_type PASS", "auth_pass 1010"}
    for node, priority in ((0, 200), (1, 100)):
        assert common | {f"priority {priority}", "state BACKUP", "192.168.100.250"} <= files[node]
        assert not {"nopreempt", "unicast_peer {"} & files[node]
    assert files[0] ^ files[1] == {"priority 200", "priority 100", "router_id bluegreen-1", "router_id bluegreen-2"}


def test_a_node_speaks_from_its_own_address_to_the_others() -> None:
    settings = having(priorities=[3, 2, 1], peers=["10.0.0.1", "10.0.0.2", "10.0.0.3"], preempt=False, version=3)
    file = render(settings, 2)
    assert {"unicast_src_ip 10.0.0.2", "10.0.0.1", "10.0.0.3", "nopreempt", "priority 2"} <= statements(file)
    assert file.count("10.0.0.2") == 1


def test_subsecond_adverts_are_written_as_keepalived_reads_them() -> None:
    assert "advert_int 0.01" in statements(render(having(version=3, advert="10ms")))
    assert "advert_int 40.95" in statements(render(having(version=3, advert=40.95)))
    assert "advert_int 255" in statements(render(having(advert=255)))


@pytest.mark.parametrize("node", [0, 3, -1])
def test_there_is_no_file_for_a_node_that_is_not(node: int) -> None:
    with pytest.raises(UsageError, match=f"there is no node {node}: vip.priorities has 2"):
        render(having(), node)


def test_without_a_table_there_is_no_file() -> None:
    with pytest.raises(SettingsError, match="there is no \\[vip\\]"):
        render(parse({"service": "shop", "app": {"port": 9000}}))


LISTENS: list[tuple[dict[str, Any], str]] = [
    ({"listen": "0.0.0.0:80"}, "AF_INET,q(127.0.0.1)"),
    ({"listen": "[::]:80"}, "AF_INET6,q(::1)"),
    ({"listen": "10.0.0.1:80"}, "AF_INET,q(10.0.0.1)"),
    ({"listen": "192.168.100.250:80"}, "/ FA64A8C0:0050 0+:0000 0A /"),
]


@pytest.mark.parametrize(("proxy", "words"), LISTENS)
def test_the_check_asks_the_proxy_of_its_own_node(proxy: dict[str, Any], words: str) -> None:
    command = check_command(having(proxy))
    assert words in command
    assert not re.search(r'["$!#]', command)


def test_with_peers_the_check_needs_the_nodes_own_address() -> None:
    settings = having({"listen": "0.0.0.0:80"}, peers=["10.0.0.1", "10.0.0.2"])
    assert "q(10.0.0.2)" in check_command(settings, 2)
    assert "q(10.0.0.2)" in render(settings, 2)


def test_an_ipv6_address_that_the_proxy_alone_listens_on_is_looked_for_as_the_kernel_prints_it() -> None:
    command = check_command(having({"listen": "[fd00::250]:443"}, address="fd00::250", version=3))
    assert "/ 000000FD000000000000000050020000:01BB 0+:0000 0A /" in command
    assert command.endswith(" /proc/net/tcp6")


def test_only_a_proxy_that_speaks_plain_http_has_to_answer() -> None:
    assert "<S>" in check_command(having({"listen": "0.0.0.0:80"}))
    assert "<S>" not in check_command(having({"listen": "0.0.0.0:80", "mode": "tcp"}))
    assert "<S>" not in check_command(
        having({"listen": "0.0.0.0:443", "hosts": ["a.example"], "tls": {"certificate": "a.crt", "key": "a.key"}})
    )


def test_a_file_says_whose_it_is() -> None:
    assert node_of(render(having(), 2)) == 2
    assert node_of("# something else\n") == 0
    assert node_of("") == 0


def test_the_state_is_that_of_the_life_that_keepalived_has_now() -> None:
    begins, master = "10:00: Starting Keepalived v2.2.7\n", "10:01: (VI_51) Entering MASTER STATE\n"
    assert state_of(begins + master, held=True) == "MASTER"
    assert state_of(begins + master + begins, held=False) == "FAULT"
    assert state_of(begins + master + begins + master.replace("MASTER", "BACKUP"), held=False) == "BACKUP"
    assert state_of("long after it began\n", held=True) == "MASTER"
    assert state_of("long after it began\n", held=False) is None


def test_a_file_that_changed_has_another_first_line() -> None:
    one, other = render(having()), render(having(router_id=52))
    assert one.partition("\n")[0] != other.partition("\n")[0]


VIEW = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 192.168.100.0/24 2 0 2
        |-- 192.168.100.0
           /24 link UNICAST
        |-- 192.168.100.11
           /32 host LOCAL
        |-- 192.168.100.250
           /32 host LOCAL
        |-- 192.168.100.255
           /32 link BROADCAST
fd000000000000000000000000000250 03 40 00 80     eth1
00000000000000000000000000000001 01 80 10 80       lo
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs
    lo: 1692 20 0 0 0 0 0 0 1692 20
  eth1:11390 102 0 0 0 0 0 0 6838 68
"""


@pytest.mark.parametrize(("switch", "on"), [("0", False), ("1", True)])
def test_what_a_host_says_of_its_network_is_understood(switch: str, on: bool) -> None:
    view = parse_view(f"{VIEW}{switch}\n")
    assert view.addresses == {"192.168.100.11", "192.168.100.250", "fd00::250", "::1"}
    assert view.interfaces == {"lo", "eth1"}
    assert view.nonlocal_bind is on


def test_the_first_node_is_rendered_unless_another_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bluegreen.toml"
    file.write_text('service = "shop"\n[app]\nport = 9000\n[vip]\naddress = "192.168.100.250"\ninterface = "eth1"\n')
    run = CliRunner()
    first = run.invoke(main, ["-c", str(file), "vip", "render"], standalone_mode=False).output
    other = run.invoke(main, ["-c", str(file), "vip", "render", "--node", "2"], standalone_mode=False).output
    assert (node_of(first), node_of(other)) == (1, 2)


def test_the_status_of_a_node_is_said_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    state = {"name": "bluegreen-vip-10.0.0.9", "address": "10.0.0.9", "interface": "eth1", "router_id": 51}
    Console().vip(
        state
        | {"held": True, "exists": True, "running": True, "node": 1, "priority": 200, "state": "MASTER"}
        | {"version": "2.2.7", "current": False, "complaint": "(VI_51) received an invalid passwd!"}
    )
    assert capsys.readouterr().out.splitlines() == [
        "10.0.0.9 is held here (eth1, router id 51)",
        "  bluegreen-vip-10.0.0.9 runs, node 1 of priority 200, MASTER (Keepalived 2.2.7)",
        "  its file is not what the settings want; next: bluegreen vip boot",
        "  it says: (VI_51) received an invalid passwd!",
    ]
    absent = {"held": False, "exists": False, "running": False, "node": 0, "priority": None, "state": None}
    Console().vip(state | absent | {"version": None, "current": False, "complaint": None})
    assert capsys.readouterr().out.splitlines() == [
        "10.0.0.9 is not held here (eth1, router id 51)",
        "  bluegreen-vip-10.0.0.9 is not there",
    ]


def test_of_several_hosts_each_has_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    state = {"name": "bluegreen-vip-10.0.0.9", "address": "10.0.0.9", "interface": "eth1", "router_id": 51}
    node = {"held": True, "exists": True, "running": True, "node": 1, "priority": 200, "state": "MASTER"}
    more = {"version": "2.2.7", "current": True, "complaint": None, "switch": 7}
    rows = [
        {"host": "one", "unreachable": None} | state | node | more,
        {"host": "two", "unreachable": "no route to host"},
    ]
    Console().vip(rows)
    assert capsys.readouterr().out.splitlines() == [
        "one: 10.0.0.9 is held here (eth1, router id 51)",
        "  bluegreen-vip-10.0.0.9 runs, node 1 of priority 200, MASTER (Keepalived 2.2.7)",
        "two can't be reached: no route to host",
    ]
    Console(as_json=True).vip(rows)
    assert json.loads(capsys.readouterr().out) == rows


HOSTS = ["ssh://root@one", "ssh://root@two"]
PEERS = ["10.0.0.1", "10.0.0.2"]


def with_hosts(**vip: Any) -> Settings:
    raw = {"service": "shop", "app": {"port": 9000}, "hosts": HOSTS, "vip": LEAST | {"peers": PEERS} | vip}
    return parse(raw)


def test_nodes_of_several_hosts_ask_each_other_for_their_switches() -> None:
    file = render(with_hosts(), 2, contained=True)
    assert {"switches", "init_fail", 'script "/usr/bin/perl /bluegreen/switches.pl check"'} <= statements(file)


def test_nobody_is_asked_on_one_engine_or_where_it_is_not_known_who_the_others_are() -> None:
    assert not asks(having(peers=PEERS))
    assert not asks(with_hosts(peers=[]))
    for settings in (having(peers=PEERS), with_hosts(peers=[])):
        assert "switches" not in render(settings, contained=True)


def test_a_keepalived_that_is_installed_on_the_host_has_nothing_to_ask_with() -> None:
    assert "switches" not in render(with_hosts(), 2)


def statements(file: str) -> set[str]:
    return {line.strip() for line in file.splitlines() if not line.strip().startswith("#")}
