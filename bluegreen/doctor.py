"""What is wrong before a deploy finds it: each finding with what, why it matters, and what mends it.

A check looks and changes nothing that lasts; one that can't look says so as a finding of its own.
"""

from __future__ import annotations

import difflib
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from docker.errors import DockerException

from bluegreen import plan as planning
from bluegreen.errors import BluegreenError
from bluegreen.follow import astray, follows
from bluegreen.gitlab import policy_warnings, tags_of, words_of
from bluegreen.model import Release, Slot
from bluegreen.observe import observe
from bluegreen.probe import ask_replica
from bluegreen.proxies.nginx import KEEPALIVE_MIN, RESOLVE
from bluegreen.registry import credentials, may_push, trap
from bluegreen.runtimes.confined import confined, is_root
from bluegreen.runtimes.swarm import denies_privileges
from bluegreen.settings import Settings

if TYPE_CHECKING:
    from bluegreen.runtimes.swarm import SwarmRuntime
    from bluegreen.service import Service

OK, NOTE, WARNING, ERROR = "ok", "note", "warning", "error"

DAYS = 14
"""Days that a certificate or a token should at least be good for."""

SKEW = 30.0
"""Seconds by which clocks may differ. Registries take a token up to 60 s off (the distribution project's leeway)."""

OLDEST = (20, 10)
"""The oldest engine that bluegreen is tested on."""

ANEW = "`bluegreen down` for each service of this proxy, then deploy, which interrupts them"
"""How the proxy's container is made anew."""

WITHOUT = "bluegreen deploy RELEASE --skip-unreachable goes on without it"

CONFIGS = (
    "/etc/nginx/nginx.conf",
    "/etc/nginx/conf.d/default.conf",
    "/etc/haproxy/haproxy.cfg",
    "/usr/local/etc/haproxy/haproxy.cfg",
    "/etc/gitlab/gitlab.rb",
)
"""Where the official images and Debian's packages read their config."""


@dataclass(frozen=True)
class Finding:
    """What one check found. Only an `error` would make a deploy fail."""

    check: str
    level: str
    what: str
    why: str = ""
    mend: str = ""


Check = Callable[["Service"], Iterator[Finding]]


def examine(service: Service) -> list[Finding]:
    """What every check finds, in a fixed order; of several hosts, what each is asked for stands there for each."""
    found = [
        Finding("hosts", ERROR, f"{name} can't be reached: {words}", "a deploy would be refused", WITHOUT)
        for name, words in service.unreachable.items()
    ]
    for check in CHECKS:
        if service.hosts is None or check not in OF_A_HOST:
            found += _found(check, service)
            continue
        for host in service.hosts.members:
            alone = replace(service, client=host.client, runtime=host.runtime, proxy=host.proxy, hosts=None)
            found += [replace(each, check=f"{each.check} of {host.name}") for each in _found(check, alone)]
    return found


def _found(check: Check, service: Service) -> list[Finding]:
    name = check.__name__.strip("_").replace("_", " ")
    found = []
    try:
        for finding in check(service):
            found.append(finding)
    except (BluegreenError, DockerException, OSError) as error:
        words = error.message if isinstance(error, BluegreenError) else f"{type(error).__name__}: {error}"
        hint = error.hint if isinstance(error, BluegreenError) else ""
        found.append(Finding(name, ERROR, words, "a deploy would fail here", hint))
    return found


def hosts(service: Service) -> Iterator[Finding]:
    if service.hosts is None:
        return
    service.proxy.observe()
    for name, words in service.hosts.behind.items():
        what = f"{name} is behind: {words}"
        yield Finding("hosts", WARNING, what, "it does not serve what the others do", "bluegreen sync")


def engine(service: Service) -> Iterator[Finding]:
    version = service.client.version()
    text = f"Docker {version['Version']} (API {version['ApiVersion']})"
    numbers = tuple(map(int, re.findall(r"\d+", version["Version"])[:2]))
    if numbers < OLDEST:
        yield Finding(
            "engine", WARNING, f"{text} is older than any that is tested", "what it does is not known", "update it"
        )
    else:
        yield Finding("engine", OK, text)
    engines = datetime.fromisoformat(service.client.info()["SystemTime"])
    yield from _clock("engine's clock", engines)


def space(service: Service) -> Iterator[Finding]:
    proxy = service.settings.proxy
    if not service.runtime.image(proxy.image):
        yield Finding("space", NOTE, f"the disk is not looked at: {proxy.image} is not here yet")
        return
    # The root of a container is on the disk that images are on, whichever machine that is.
    raw = service.client.containers.run(
        proxy.image, ["df", "-Pk", "/"], entrypoint=[], network_mode="none", remove=True, **confined()
    )
    free = int(raw.decode().splitlines()[-1].split()[3]) * 1024
    observed = observe(service.runtime, service.proxy)
    live = service.runtime.image(service.settings.content(observed.live.release.digest)) if observed.live else None
    needed = live.size if live else 100_000_000
    text = f"{free / 1e9:.1f} GB free for images; the next one may need {needed / 1e6:.0f} MB"
    if free < needed:
        yield Finding("space", ERROR, text, "a build or a pull would fill the disk", "bluegreen prune --yes")
    elif free < 3 * needed:
        yield Finding("space", WARNING, text, "a few more releases fill the disk", "bluegreen prune --yes")
    else:
        yield Finding("space", OK, text)


def proxy(service: Service) -> Iterator[Finding]:
    state, settings = service.proxy.observe(), service.settings.proxy
    if not state.exists:
        yield Finding("proxy", NOTE, f"there is no {settings.kind} at {settings.listen} yet: the first deploy makes it")
        return
    if not state.running:
        mend = "bluegreen proxy boot"
        yield Finding("proxy", WARNING, f"{service.proxy.name} does not run", "nothing is served", mend)
        return
    text = f"{settings.kind} {state.version}, switched {state.switch}"
    known = tuple(map(int, state.version.split("."))) if state.version else ()
    if settings.kind == "nginx" and known < KEEPALIVE_MIN and (service.swarm or state.switch == "reload"):
        mend, why = "take nginx 1.27.4 or newer", "a request that crosses that is lost"
        if service.swarm:
            why += "; in a swarm each run reloads it, as tasks have new addresses"
        else:
            mend += ', or proxy.switch = "auto", which switches without a reload'
        why = f"before 1.27.4 nginx closes idle connections as it reloads, and {why}"
        yield Finding("proxy", WARNING, text, why, mend)
    else:
        yield Finding("proxy", OK, text)
    for container in _container_of(service):
        image = container.attrs["Config"]["Image"]
        if image != settings.image:
            what = f"{container.name} was made from {image}, and proxy.image is {settings.image}"
            yield Finding("proxy", NOTE, what, "it stays what it was made from", ANEW)
    if state.edits:
        yield Finding(
            "proxy's files",
            WARNING,
            f"a person has edited them:\n{state.edits}",
            "a deploy refuses to write over that",
            "move the edit to [proxy] in the settings or to a file of your own; then deploy with --overwrite-edits",
        )


def swarm(service: Service) -> Iterator[Finding]:
    if service.swarm is None:
        return
    nodes = service.swarm.nodes()
    managers = [node for node in nodes if node.manager and node.answers]
    needed = sum(node.manager for node in nodes) // 2 + 1
    away = [node.name for node in nodes if not node.answers]
    text = f"{_count(len(nodes), 'node')}, {_count(len(managers), 'manager')}"
    if away:
        why = "what ran there runs elsewhere, if there is room"
        mend = f"docker node inspect --pretty {away[0]}, on a manager, says more"
        yield Finding("swarm", WARNING, f"{text}; {', '.join(away)} does not answer", why, mend)
    elif len(managers) > 1 and len(managers) == needed:
        yield Finding("swarm", WARNING, text, "no manager may be lost: without a majority nothing can be deployed")
    else:
        yield Finding("swarm", OK, text)
    for name, reason in service.silent.items():
        yield Finding("swarm", WARNING, f"{name} can't be asked: {reason}", "another manager is, while one answers")
    observed, settings = observe(service.runtime, service.proxy), service.settings
    if observed.live and (amiss := astray(observed.proxy.config, settings.service, observed.live)):
        yield Finding(
            "swarm",
            NOTE if follows(settings.proxy.kind, observed.proxy.version) else WARNING,
            f"Swarm has moved tasks since the last run: {', '.join(amiss)}",
            "the proxies' files tell of where they were",
            "bluegreen sync",
        )
    if observed.proxy.version and not follows(settings.proxy.kind, observed.proxy.version):
        yield Finding(
            "swarm",
            WARNING,
            f"nginx {observed.proxy.version} does not follow tasks that Swarm moves",
            "it sends to where they were until it is told: by bluegreen sync, or by the next deploy",
            f"take nginx {'.'.join(map(str, RESOLVE))} or later, or HAProxy",
        )
    # With a host that can't be reached, nobody says which node it is.
    if not service.unreachable and (unnamed := service.swarm.unnamed()):
        yield Finding(
            "swarm",
            WARNING,
            f"{', '.join(unnamed)} has a container in the service's network, and hosts does not name it",
            "a proxy there is not switched: it fails once what it sends to is removed",
            "name every node with a proxy in hosts, in the settings of every machine",
        )
    if observed.live:
        yield from _not_whole(service.swarm, observed.live)
        yield from _cut_off(service, observed.live)


def _not_whole(swarm: SwarmRuntime, live: Slot) -> Iterator[Finding]:
    """What keeps what is live from being as many replicas of one release as are wanted."""
    name = f"{live.release} ({live.colour})"
    again = "bluegreen deploy RELEASE starts it anew, in the other colour"
    if words := swarm.halted(live.colour):
        why = "somebody has updated the service beside bluegreen: its replicas may not be of what is live"
        yield Finding("swarm", WARNING, f"{name}: {words}", why, again)
    if live.running < live.wanted:
        amiss = "; ".join(f"{each.name}: {each.status}" for each in live.replicas if not each.running)
        what = f"{live.running} of {live.wanted} replicas of {name} run{f': {amiss}' if amiss else ''}"
        mend = f"docker service ps --no-trunc {swarm.called(live.colour)}, on a manager, says why"
        yield Finding("swarm", WARNING, what, "the rest carry the load", mend)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _cut_off(service: Service, live: Slot) -> Iterator[Finding]:
    """What the proxies do not reach of what Swarm says runs: with the network cut between two nodes, it hears of both
    by way of the others."""
    members = [(host.name, host.proxy) for host in service.hosts.there] if service.hosts else [("", service.proxy)]
    running = [each for each in live.replicas if each.running]
    for name, proxy in members:
        asked = {each.name: ask_replica(service.settings, live.release, proxy, each.endpoint) for each in running}
        failed = {replica: words for replica, words in asked.items() if words}
        if failed:
            yield Finding(
                "swarm",
                WARNING,
                f"{f'the proxy of {name}' if name else 'the proxy'} gets no right answer from"
                f" {'; '.join(f'{replica}: {words}' for replica, words in failed.items())}",
                "it serves with the others; a deploy whose replicas it does not reach is undone",
                "between all nodes UDP 4789, TCP and UDP 7946 must pass; docker node ps tells where a replica runs",
            )


def certificate(service: Service) -> Iterator[Finding]:
    pair = service.settings.pair
    if pair:
        yield from _days("proxy.tls.certificate", pair.until, "clients will refuse it")


def vip(service: Service) -> Iterator[Finding]:
    """The node on every host, and then all of them together."""
    if service.settings.vip is None:
        return
    from bluegreen.nodes import examine as examine_all
    from bluegreen.nodes import status

    for row in status(service):
        if service.hosts is None:
            yield from _node(service, row)
        elif not row["unreachable"]:
            for each in _node(service, row):
                yield replace(each, what=f"{row['host']}: {each.what}")
    if service.hosts:
        yield from examine_all(service)


def _node(service: Service, state: dict[str, Any]) -> Iterator[Finding]:
    from bluegreen.vip import OLDEST as OLDEST_KEEPALIVED

    listen = service.settings.proxy.listen
    address = state["address"]
    every = "[::]" if ":" in address else "0.0.0.0"  # noqa: S104
    if service.settings.proxy.address not in ("0.0.0.0", "::", address):  # noqa: S104
        mend = f'proxy.listen = "{every}:{service.settings.proxy.port}"'
        yield Finding("vip", ERROR, f"the proxy listens on {listen}", f"nothing would answer at {address}", mend)
    if not state["nonlocal_bind"] and service.settings.proxy.address == address:
        version = 6 if ":" in address else 4
        yield Finding(
            "vip",
            WARNING if state["held"] else ERROR,
            f"the proxy listens on {listen} alone, and ip_nonlocal_bind is off",
            "it does not start on the node that does not hold the address",
            f'proxy.listen = "{every}:{service.settings.proxy.port}"; or'
            f" sysctl -w net.ipv{version}.ip_nonlocal_bind=1, and the same in a file below /etc/sysctl.d",
        )
    if not state["interface_there"]:
        what = f"this host has no interface {state['interface']}"
        yield Finding("vip", ERROR, what, "nobody here can hold the address", "set vip.interface")
    held = f"{address} is {'held' if state['held'] else 'not held'} by this node"
    if not state["exists"]:
        mend = "bluegreen vip boot --node N; or vip render for one that is installed on the host"
        yield Finding("vip", NOTE, f"{held}; there is no Keepalived of bluegreen's here", "", mend)
        return
    if not state["running"]:
        mend = "bluegreen vip boot"
        yield Finding("vip", WARNING, f"{held}; {state['name']} does not run", "it can't take the address over", mend)
        return
    text = f"{held}; Keepalived {state['version']} as node {state['node']}, {state['state'] or 'in no known state'}"
    if state["state"] == "FAULT":
        why, mend = "the proxy does not answer, or the interface is down", "bluegreen proxy status"
        if service.hosts:
            why, mend = f"{why}, or it missed a switch", "bluegreen status; bluegreen sync"
        yield Finding("vip", WARNING, text, why, mend)
    elif not state["current"]:
        why = "its file is not what the settings want"
        yield Finding("vip", WARNING, text, why, "bluegreen vip boot")
    elif state["version"] and tuple(map(int, state["version"].split(".")[:2])) < OLDEST_KEEPALIVED:
        why = "before 2.0 it may not notice that the network went and came back, and keeps a state that is not true"
        yield Finding("vip", WARNING, text, why, "an image with a newer one: vip.image")
    else:
        yield Finding("vip", OK, text)
    if state["complaint"]:
        why = "nodes that don't take each other's word both hold the address"
        yield Finding("vip", WARNING, f"Keepalived says: {state['complaint']}", why, "the same [vip] on every node")


def stopping(service: Service) -> Iterator[Finding]:
    settings = service.settings
    observed = observe(service.runtime, service.proxy)
    if not observed.live:
        return
    image = observed.live.release.digest
    attrs = service.client.api.inspect_image(settings.content(image))
    config = attrs.get("Config") or {}
    command = [*(config.get("Entrypoint") or []), *(settings.app.command or config.get("Cmd") or [])]
    if command[:2] in (["/bin/sh", "-c"], ["sh", "-c"]) and not command[-1].lstrip().startswith("exec "):
        yield Finding(
            "stopping",
            WARNING,
            f"{observed.live.release} is started by a shell: {' '.join(command)[:80]}",
            "the shell does not pass SIGTERM on, so that every stop is a kill after app.stop_timeout",
            'write CMD in its exec form: CMD ["python3", "server.py"]',
        )
    environment = dict(each.partition("=")[::2] for each in config.get("Env") or []) | dict(settings.app.env)
    words = " ".join([*command, environment.get("GUNICORN_CMD_ARGS", "")])
    graceful = re.search(r"--graceful-timeout[= ](\d+)", words)
    limit = float(graceful[1]) if graceful else 30.0 if "gunicorn" in words else 0.0
    if settings.app.stop_timeout <= limit:
        yield Finding(
            "stopping",
            WARNING,
            f"app.stop_timeout is {settings.app.stop_timeout:g} s, and the server takes {limit:g} s to end gracefully",
            "requests that the server still works on are killed",
            f'app.stop_timeout = "{limit + 5:g}s"',
        )
    else:
        yield Finding("stopping", OK, f"{settings.app.stop_timeout:g} s from SIGTERM to SIGKILL")


def confinement(service: Service) -> Iterator[Finding]:
    """What containers may do beyond what they need by default, by the settings and by how they were made."""
    loosened = loosenings(service.settings)
    if service.swarm and service.settings.app.no_new_privileges and not denies_privileges(service.client):
        loosened.append("app.no_new_privileges: only from Docker 25 on can Swarm deny replicas new privileges")
    for what in loosened:
        yield Finding("confinement", NOTE, what)
    own = {"label": f"bluegreen.service={service.settings.service}"}
    made = {
        "deploy the next release": service.client.containers.list(filters=own, ignore_removed=True),
        ANEW: _container_of(service),
    }
    unconfined = [
        (container.name, mend)
        for mend, containers in made.items()
        for container in containers
        if not container.attrs["HostConfig"]["CapDrop"]
    ]
    for name, mend in unconfined:
        what = f"{name} was made by an older bluegreen, and may do all that the engine allows by default"
        yield Finding("confinement", WARNING, what, "whoever breaks into it gets further", mend)
    if not loosened and not unconfined:
        yield Finding("confinement", OK, "not root, no capabilities, no new privileges, a read-only root")


def _container_of(service: Service) -> list[Any]:
    """The proxy's running container, if it has one."""
    filters = {"label": "bluegreen.proxy", "name": f"^{service.proxy.name}$"}
    return list(service.client.containers.list(filters=filters, ignore_removed=True))


def loosenings(settings: Settings) -> list[str]:
    """The settings that let containers do what they may not by default, each with what it means."""
    app, proxy = settings.app, settings.proxy
    sockets = [volume for volume in app.volumes if "docker.sock" in volume]
    found = {
        "app.user: it runs as root": app.user is not None and is_root(app.user),
        "app.read_only: it can change its own program": not app.read_only,
        f"app.cap_add: it has {', '.join(app.cap_add)}": bool(app.cap_add),
        "app.no_new_privileges: a setuid program can make it root": not app.no_new_privileges,
        "app.pids_limit: it can take all processes of the host": not app.pids_limit,
        f"app.volumes: with {', '.join(sockets)} it is root on the host": bool(sockets),
    }
    if proxy.where == "container":
        found["proxy.user: it runs as root"] = proxy.user is not None and is_root(proxy.user)
        found["proxy.read_only: it can change its own program"] = not proxy.read_only
    return [each for each, is_so in found.items() if is_so]


def secrets(service: Service) -> Iterator[Finding]:
    table = service.settings.app.secrets
    if not table:
        return
    shown = sorted(name for name, secret in table.items() if secret.as_ == "env")
    if shown:
        yield Finding(
            "secrets",
            WARNING,
            f"{', '.join(shown)}: handed to the app as variables",
            "`docker inspect` shows those, and every process that the app starts has them",
            'leave out as = "env", and have the app read /run/secrets/NAME',
        )
    service.secrets()
    yield Finding("secrets", OK, f"{len(table)} can be had")


def registry(service: Service) -> Iterator[Finding]:
    found, settings = service.registry, service.settings
    if found is None:
        return
    server = settings.registry.server
    yield from _registry_tls(service, server)
    used = credentials(settings)
    if used is None:
        why = "only a public image can be pulled"
        yield Finding("registry login", WARNING, f"no credentials for {server}", why, f"docker login {server}")
    else:
        yield Finding("registry login", OK, found.log_in())
    reference = settings.reference(Release("bluegreen-doctor"))
    found.digest(reference)
    yield Finding("registry pull", OK, f"{settings.repository} may be pulled")
    allowed = may_push(server, settings.repository, used)
    if allowed is None:
        yield Finding("registry push", NOTE, f"this machine can't ask {server} whether a push is allowed")
    elif allowed:
        yield Finding("registry push", OK, f"{settings.repository} may be pushed to")
    else:
        yield Finding(
            "registry push",
            ERROR,
            f"{used.user if used else 'nobody'} may not push to {settings.repository}",
            "a deploy that builds would fail; one of a release that is there would not",
            "a token with read_registry and write_registry, of a user who is Developer at least",
        )


def _registry_tls(service: Service, server: str) -> Iterator[Finding]:
    host, _, port = server.partition(":")
    known = (service.client.info().get("RegistryConfig") or {}).get("IndexConfigs") or {}
    insecure = known.get(server, {}).get("Secure") is False
    context = ssl.create_default_context()
    ca = Path(f"/etc/docker/certs.d/{server}/ca.crt")
    if ca.exists():
        context.load_verify_locations(ca)
    try:
        with (
            socket.create_connection((host, int(port or 443)), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            until = ssl.cert_time_to_seconds(str((wrapped.getpeercert() or {})["notAfter"]))
            yield from _days("registry certificate", datetime.fromtimestamp(until, UTC), "the engine will refuse it")
    except ssl.SSLCertVerificationError as error:
        yield Finding(
            "registry certificate",
            WARNING,
            f"this machine does not trust {server}: {error.verify_message}",
            "the engine may not either",
            f"put its authority into /etc/docker/certs.d/{server}/ca.crt on the engine's machine",
        )
    except ssl.SSLError:
        local = host == "localhost" or host.startswith("127.")
        if insecure or local:
            yield Finding("registry scheme", NOTE, f"{server} speaks plain http, which the engine allows for it")
        else:
            why = "the engine expects https"
            yield Finding("registry scheme", ERROR, f"{server} speaks plain http", why, trap(server))
    except OSError as error:
        yield Finding(
            "registry scheme", NOTE, f"this machine does not reach {server} ({error}); the engine's view is what counts"
        )


def gitlab(service: Service) -> Iterator[Finding]:
    import gitlab as sdk
    import requests

    project = service.project
    if project is None:
        return
    client = project.client()
    if project.of_job:
        yield Finding("GitLab", OK, f"{project.url}, with the job's own token")
        return
    try:
        answer = client.http_request("get", "/version")
        version = answer.json().get("version", "unknown")
        token = client.personal_access_tokens.get("self")
        target = planning.rollback_target(observe(service.runtime, service.proxy))
        policies = policy_warnings(project, tags_of(project, service.settings.repository), target)
    except (sdk.GitlabError, requests.RequestException) as error:
        yield Finding(
            "GitLab",
            WARNING,
            f"{project.url}: {words_of(error)}",
            "deployments will not be recorded; deploys go on",
            "check gitlab.url, gitlab.project and the token",
        )
        return
    yield Finding("GitLab", OK, f"{project.url}, version {version}")
    if "api" not in token.scopes:
        yield Finding(
            "GitLab token",
            WARNING,
            f"the token {token.name} has the scopes {', '.join(token.scopes)}",
            "deployments can't be recorded",
            "a token with the scope api, of a user who is Developer at least",
        )
    if token.expires_at:
        until = datetime.fromisoformat(token.expires_at).replace(tzinfo=UTC)
        yield from _days("GitLab token", until, "deployments will not be recorded")
    if "Date" in answer.headers:
        yield from _clock("GitLab's clock", parsedate_to_datetime(answer.headers["Date"]))
    for words in policies:
        yield Finding("cleanup policy", WARNING, words, "a rollback would fail", "see name_regex_keep")


def mounts(service: Service) -> Iterator[Finding]:
    """Config files of proxies and of GitLab, in whatever containers, that are mounted in a way that bites."""
    for container in service.client.containers.list(ignore_removed=True):
        for mount in container.attrs.get("Mounts") or []:
            target = mount.get("Destination", "")
            if mount.get("Type") != "bind":
                continue
            near = difflib.get_close_matches(target, CONFIGS, n=1, cutoff=0.92)
            where = f"{container.name}: {mount.get('Source')} is mounted to {target}"
            if near and target not in CONFIGS:
                yield Finding(
                    "mounts", WARNING, where, f"that looks misspelt: {near[0]} is what is read", "correct the path"
                )
            elif target in CONFIGS and PurePosixPath(target).suffix:
                yield Finding(
                    "mounts",
                    WARNING,
                    where,
                    "a single file that is mounted keeps its inode: an editor that replaces it changes nothing inside,"
                    " and a reload reads the old one",
                    f"mount the directory {PurePosixPath(target).parent}",
                )


def hooks(service: Service) -> Iterator[Finding]:
    import shutil

    for name, hook in service.settings.hooks:
        if hook is None or hook.run != "here":
            continue
        program = hook.command[0]
        place = service.settings.root / program if "/" in program else program
        if shutil.which(place):
            yield Finding("hooks", OK, f"{name}: {hook.words}")
        else:
            yield Finding(
                "hooks",
                ERROR,
                f"{name}: {program} is no program that can be run here",
                "the hook would fail",
                f"chmod +x {place}, or correct hooks.{name}.command" if "/" in program else f"install {program}",
            )


def rollback(service: Service) -> Iterator[Finding]:
    ready = service.status()["rollback"]
    if ready["ready"]:
        yield Finding("rollback", OK, f"{ready['release']} can come back: {ready['why']}")
    elif ready["release"]:
        words = f"{ready['release']} can't come back: {ready['why']}"
        observed = observe(service.runtime, service.proxy)
        target = planning.rollback_target(observed)
        if target and planning.floor_above(observed, target):
            yield Finding("rollback", NOTE, words)
            return
        yield Finding("rollback", WARNING, words, "a rollback would fail", f"bluegreen push {ready['release']}")


def _days(check: str, until: datetime, why: str) -> Iterator[Finding]:
    left = (until - datetime.now(UTC)).days
    words = f"good until {until:%Y-%m-%d}, {left} days"
    if until < datetime.now(UTC):
        yield Finding(check, ERROR, f"expired on {until:%Y-%m-%d}", why, "renew it")
    elif left < DAYS:
        yield Finding(check, WARNING, words, why, "renew it")
    else:
        yield Finding(check, OK, words)


def _clock(check: str, theirs: datetime) -> Iterator[Finding]:
    off = (theirs - datetime.now(UTC)).total_seconds()
    if abs(off) > SKEW:
        yield Finding(
            check,
            WARNING,
            f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} this machine's",
            "tokens and certificates are refused when clocks disagree",
            "set the clocks: timedatectl set-ntp true",
        )
    else:
        yield Finding(check, OK, "agrees with this machine's")


CHECKS: tuple[Check, ...] = (
    hosts,
    engine,
    space,
    proxy,
    swarm,
    certificate,
    vip,
    stopping,
    confinement,
    secrets,
    registry,
    gitlab,
    hooks,
    rollback,
    mounts,
)

OF_A_HOST = {engine, space, proxy, confinement, registry, mounts}
"""What is asked of every host, where there are several."""
