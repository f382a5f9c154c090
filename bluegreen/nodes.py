"""The nodes of a VIP: one on each of several hosts, in the order of the settings, or the one on the only engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bluegreen.doctor import ERROR, OK, WARNING, Finding
from bluegreen.errors import Failed, SettingsError, UsageError
from bluegreen.hosts import Host
from bluegreen.vip import Vip, asks, port, table

if TYPE_CHECKING:
    from bluegreen.service import Service


def boot(service: Service, node: int | None = None) -> list[str]:
    """Keepalived runs on every host, or on that of the node of this number; see `Vip.boot`. Says what was done."""
    settings, vip = service.settings, table(service.settings)
    if service.hosts is None:
        return [Vip(service.client, settings).boot(node)]
    if len(settings.hosts) != len(vip.priorities):
        raise SettingsError(
            f"vip.priorities: has {len(vip.priorities)} for {len(settings.hosts)} hosts: each host is a node, in the"
            " order of both"
        )
    missing = _missing(service)
    if node and not 1 <= node <= len(settings.hosts):
        raise UsageError(f"there is no node {node}: hosts has {len(settings.hosts)}")
    wanted = [host.name for host in settings.hosts if node in (None, _number(service, host.name))]
    if lost := [f"{name} can't be reached: {missing[name]}" for name in wanted if name in missing]:
        raise Failed(f"{'; '.join(lost)}; nothing was changed", hint="bluegreen vip boot --node N boots one alone")

    def one(host: Host) -> str:
        record = host.proxy.observe().record
        number = record.number if record and record.committed else None
        return f"{host.name}: {Vip(host.client, settings).boot(_number(service, host.name), number)}"

    return service.hosts.each(one, [host for host in service.hosts.members if host.name in wanted])


def status(service: Service) -> list[dict[str, Any]]:
    """What is true of the node on each host that answers, and of one that does not, why."""
    settings = service.settings
    table(settings)
    if service.hosts is None:
        return [Vip(service.client, settings).status()]

    def one(host: Host) -> dict[str, Any]:
        return {"host": host.name, "unreachable": None, **Vip(host.client, settings).status()}

    found = {each["host"]: each for each in service.hosts.each(one)}
    found |= {name: {"host": name, "unreachable": why} for name, why in _missing(service).items()}
    return [found[host.name] for host in settings.hosts]


def remove(service: Service) -> list[str]:
    """Keepalived is gone from every host, the holder's last, so that the address moves no more than it must."""
    settings = service.settings
    if service.hosts is None:
        return Vip(service.client, settings).remove()
    rows = {row["host"]: row for row in status(service)}
    members = sorted(service.hosts.there, key=lambda host: bool(rows[host.name]["held"]))
    gone = [f"{words} from {host.name}" for host in members for words in Vip(host.client, settings).remove()]
    if missing := _missing(service):
        words = "; ".join(f"{name} can't be reached: {why}" for name, why in missing.items())
        raise Failed(f"removed {', '.join(gone) or 'nothing'}; {words}", hint="again, once it answers")
    return gone


def examine(service: Service) -> Iterator[Finding]:
    """What is wrong with the nodes of several hosts as a whole."""
    settings, vip = service.settings, table(service.settings)
    count = len(settings.hosts)
    if count != len(vip.priorities):
        what = f"{len(vip.priorities)} priorities for {count} hosts"
        yield Finding(
            "vip nodes", ERROR, what, "each host is a node", "vip.priorities: one for each of hosts, in order"
        )
        return
    if not vip.peers:
        what = "vip.peers is not set, so that the nodes can't ask each other which switch they have"
        why = "a host that missed a switch takes the address as soon as it is back, and serves its old release"
        yield Finding("vip nodes", WARNING, what, why, "vip.peers: the hosts' own addresses, in order")
    rows = status(service)
    for row in rows:
        if row["unreachable"]:
            what = f"{row['host']} can't be reached: {row['unreachable']}"
            yield Finding("vip nodes", WARNING, what, "it is not known whether it holds the address", "")
    there = [row for row in rows if not row["unreachable"]]
    for row in there:
        by_order = _number(service, row["host"])
        if row["node"] not in (0, by_order):
            what = f"{row['host']} is node {row['node']}, and by the order of hosts node {by_order}"
            yield Finding("vip nodes", WARNING, what, "its priority is another node's", "bluegreen vip boot")
    yield from held(vip.ip, rows)
    yield from same_release(service.status()["hosts"], {row["host"]: row for row in there} if asks(settings) else {})
    yield from _answers(service, there)


def held(address: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """By how many nodes the address is held, and whether they hear each other."""
    there = [row for row in rows if not row["unreachable"]]
    holders = [row["host"] for row in there if row["held"]]
    ready = [row["host"] for row in there if row["state"] == "BACKUP" and not row["held"]]
    if len(holders) > 1:
        yield Finding(
            "vip nodes",
            ERROR,
            f"{address} is held by {' and '.join(holders)} at once: none of them hears the others' adverts",
            "clients reach now the one and now the other",
            "VRRP (IP protocol 112) must pass between them, and the same [vip] stand on all: bluegreen vip boot",
        )
    elif not holders and len(there) == len(rows):
        mend = "bluegreen vip status; bluegreen vip boot"
        yield Finding("vip nodes", ERROR, f"{address} is held by no node", "clients reach nobody", mend)
    elif holders and ready:
        # A node that hears no adverts for three of them takes the address.
        what = f"{address} is held by {holders[0]} alone, and {' and '.join(ready)} hear{'s' * (len(ready) == 1)} it"
        yield Finding("vip nodes", OK, what)
    elif holders:
        what = f"{address} is held by {holders[0]}, and no other node stands by"
        yield Finding("vip nodes", WARNING, what, "nobody would take it over", "bluegreen vip status")


def same_release(hosts: Sequence[Mapping[str, Any]], nodes: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Whether the proxies of all hosts, as `status` has them, are at the same switch, and those nodes say so."""
    late = [host for host in hosts if host["behind"]]
    for host in late:
        what = f"{host['name']} is behind: {host['behind']}"
        yield Finding("vip nodes", WARNING, what, "it does not serve what is live", "bluegreen sync")
    if not late and len({host["switch"] for host in hosts}) > 1:
        what = "their switches differ: " + ", ".join(f"{host['name']} {host['switch']}" for host in hosts)
        yield Finding("vip nodes", WARNING, what, "a run is under way, or was killed", "bluegreen sync")
    elif not late and hosts[0]["switch"]:
        yield Finding("vip nodes", OK, f"all proxies serve {hosts[0]['live']}, switch {hosts[0]['switch']}")
    for host in hosts:
        node = nodes.get(host["name"])
        if node and node["exists"] and node["switch"] != host["switch"] and host not in late:
            what = f"{host['name']} tells the other nodes that it has switch {node['switch']}, and has {host['switch']}"
            yield Finding("vip nodes", WARNING, what, "it may stay away from the address", "bluegreen sync")


def _answers(service: Service, there: list[dict[str, Any]]) -> Iterator[Finding]:
    """Whether each node can ask the others which switch they have."""
    if service.hosts is None or not asks(service.settings):
        return
    vip = table(service.settings)
    running = {row["host"] for row in there if row["running"] and row["state"] != "FAULT"}
    reached = {vip.peers[_number(service, name) - 1]: name for name in running}
    for row in there:
        if not row["running"]:
            continue
        for words in Vip(service.hosts.named(row["host"]).client, service.settings).heard():
            peer, _, said = words.partition(" ")
            if peer in reached and said == "does not answer":
                yield Finding(
                    "vip nodes",
                    WARNING,
                    f"{reached[peer]} does not tell {row['host']} which switch it has",
                    f"{row['host']} would take the address though it missed a switch",
                    f"UDP, port {port(vip)}, must pass between the nodes",
                )


def _number(service: Service, name: str) -> int:
    """Which node the host of this name is."""
    return [host.name for host in service.settings.hosts].index(name) + 1


def _missing(service: Service) -> dict[str, str]:
    """The hosts that do not answer, each with why."""
    return {**service.unreachable, **(service.hosts.lost if service.hosts else {})}
