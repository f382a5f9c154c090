"""Whatever the settings say, the proxy takes the files that are rendered from them, without a word."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest
from certificates import Authority
from harness import FULL, executed
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import bluegreen
from bluegreen.model import Colour, Endpoint
from bluegreen.proxies.agent import AgentError
from bluegreen.proxies.container import ProxyContainer
from bluegreen.proxies.haproxy import HAProxy
from bluegreen.proxies.nginx import Nginx
from bluegreen.settings import Settings, parse

SOURCE = Path(bluegreen.__file__).parent
EXAMPLES = int(os.environ.get("RENDERED_EXAMPLES", "100" if FULL else "20"))
VERSIONS = ["haproxy:2.6", *(["haproxy:3.0"] if FULL else []), "haproxy:3.2", "nginx:1.22", "nginx:stable"]



@st.composite
def some(draw: st.DrawFn, table: dict[str, st.SearchStrategy[Any]]) -> dict[str, Any]:
    """Half of the keys, a coin for each: `optional` of fixed_dictionaries mostly leaves most of them out."""
    return {key: draw(values) for key, values in table.items() if draw(st.booleans())}


NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,10}", fullmatch=True)
WORDS = st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True)
PATHS = st.sampled_from(["/health", "/a/b.c", "/v?a=1&b=%20", "/-/ready", "/" + "x" * 200])
TIMES = st.integers(10, 86_400_000).map(lambda number: f"{number}ms")
LONG = st.integers(1000, 86_400_000).map(lambda number: f"{number}ms")
COUNTS = st.integers(1, 1_000_000)
SMALL = st.integers(1, 100)
HASH = "$6$saltsalt$fCrh8nUGWG1kaWS0cBxg4tHqtdI/.vguU6L92utUDE2uuLboegIJMic.sfv7QYLSrG3dfTzYL584/rt2BJn400"

PLAIN_BALANCE = (
    st.sampled_from(["roundrobin", "static-rr", "leastconn", "source", "uri"])
    | st.from_regex(r"url_param [A-Za-z0-9_]{1,12}", fullmatch=True)
    | NAMES.map(lambda name: f"hdr({name})")
)
HAPROXY_BALANCE = (
    PLAIN_BALANCE
    | st.builds("uri len {}".format, st.integers(1, 9999))
    | st.builds("uri depth {}".format, SMALL.filter(lambda number: number < 100))
    | st.builds("uri len {} depth {}".format, st.integers(1, 9999), st.integers(1, 99))
    | WORDS.map(lambda name: f"url_param {name}")
)

LOGS = st.builds(
    lambda target, facility, level: " ".join(filter(None, (target, facility, level))),
    st.sampled_from(["127.0.0.1:514", "[::1]:514", "/dev/log", "/var/run/log.sock", "stdout", "stderr"]),
    st.sampled_from(["local0", "daemon", "auth2", "kern", "alert"]),
    st.sampled_from(["", "info", "emerg", "debug", "err"]),
)
MODE = st.sampled_from(["insert", "rewrite", "prefix"])
COOKIES = st.fixed_dictionaries({"name": WORDS}, optional={"mode": MODE}) | st.fixed_dictionaries(
    {"name": WORDS},
    optional={
        "domain": st.sampled_from(["example.com", ".example.com"]),
        "httponly": st.booleans(),
        "secure": st.booleans(),
        "maxidle": LONG,
        "maxlife": LONG,
    },
)
USER = {"user": WORDS, "password": st.just(HASH)}
URI = {"uri": st.sampled_from(["/admin", "/a/b", "/_stats"])}
STATS = (
    st.just({})
    | st.fixed_dictionaries(URI | USER)
    | st.fixed_dictionaries(URI | {"bind": st.sampled_from(["127.0.0.1:8404", "[::1]:1936"])})
    | st.fixed_dictionaries(URI | USER | {"bind": st.just("0.0.0.0:8404")})
)
TIMEOUTS = ["connect", "client", "server", "http_request", "http_keep_alive", "queue", "tunnel", "check"]
HAPROXY = some(
    {
        "daemon": st.booleans(),
        "log": st.lists(LOGS, max_size=3, unique=True),
        "log_send_hostname": st.booleans() | NAMES.map(lambda name: f"{name}0"),
        "uid": st.integers(1, 65000),
        "node": WORDS,
        "maxconn": COUNTS,
        "frontend_maxconn": COUNTS,
        "httpchk": st.booleans() | PATHS,
        "log_health_checks": st.booleans(),
        "forwardfor": st.booleans(),
        "httpclose": st.booleans(),
        "timeouts": st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(TIMEOUTS, TIMES),
        ),
        "check": st.fixed_dictionaries(
            {}, optional={"inter": TIMES | st.integers(10, 86_400_000), "rise": SMALL, "fall": SMALL}
        ),
        "server": st.fixed_dictionaries(
            {}, optional={"weight": st.integers(1, 256), "maxconn": COUNTS, "cookie_prefix": WORDS}
        ),
        "cookie": COOKIES,
        "stats": STATS,
    },
)


HOSTS = ["example.com", "*.example.com", "a_b.example", "*.c.d", "x" * 63 + ".de"]
TLS = st.fixed_dictionaries(
    {"certificate": st.just("site.crt"), "key": st.just("site.key")},
    optional={
        "listen": st.sampled_from(["0.0.0.0:443", "[::1]:8443", "127.0.0.1:80"]),
        "http2": st.booleans(),
        "redirect": st.booleans(),
    },
)


CONNECTIONS = ["roundrobin", "static-rr", "leastconn", "source"]
SILENCE = st.integers(1000, 86_400_000).map(lambda number: f"{number}ms")
ACCEPTANCE = st.integers(100, 60_000).map(lambda number: f"{number}ms")
SERVERS = st.sampled_from(["192.168.0.200:6443", "192.168.0.201:6443", "10.0.0.1:1", "[fd00::1]:65535"])
STATIC = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["masters", "a", "0-x_y", "s" * 41]),
            "listen": st.sampled_from(["0.0.0.0:6443", "[::]:5432", "127.0.0.1:1"]),
            "servers": st.lists(SERVERS, min_size=1, unique=True),
        },
        optional={
            "balance": st.sampled_from(CONNECTIONS),
            "timeout": SILENCE,
            "connect_timeout": ACCEPTANCE,
        },
    ),
    max_size=3,
    unique_by=(lambda entry: entry["name"], lambda entry: entry["listen"]),
)


def proxy(kind: str, mode: str) -> st.SearchStrategy[dict[str, Any]]:
    """A `[proxy]` table that sets any of its keys."""
    live = kind == "haproxy" or mode == "http"
    table: dict[str, st.SearchStrategy[Any]] = {
        "listen": st.sampled_from(["127.0.0.1:80", "[::1]:8080", "webfarm 10.101.22.76:80"]),
        "switch": st.sampled_from(["auto", "live", "reload"] if live else ["auto", "reload"]),
        "static": STATIC,
    }
    if mode == "http":
        table |= {
            "hosts": st.lists(st.sampled_from(HOSTS), unique=True),
            "balance": HAPROXY_BALANCE if kind == "haproxy" else PLAIN_BALANCE,
            "max_body": st.sampled_from(["0", "1", "512k", "100M", "2g", "1048576g"]),
            "read_timeout": LONG,
            "tls": TLS,
        }
    else:
        table["balance"] = st.sampled_from(CONNECTIONS)
        table["tcp"] = st.fixed_dictionaries({}, optional={"timeout": SILENCE, "connect_timeout": ACCEPTANCE})
    if kind == "haproxy":
        table["haproxy"] = HAPROXY if mode == "http" else HAPROXY.map(for_connections)
    return some(table).map(lambda drawn: {"kind": kind, "mode": mode, **drawn})


def for_connections(table: dict[str, Any]) -> dict[str, Any]:
    """HAProxy's options without those that look into requests."""
    kept = {key: value for key, value in table.items() if key not in ("cookie", "httpclose")}
    return kept if "bind" in kept.get("stats", {}) else {key: kept[key] for key in kept if key != "stats"}


@st.composite
def drawn(draw: st.DrawFn, kind: str, mode: str, root: Path) -> Settings:
    """Any settings there can be of a service with this proxy."""
    data = {
        "service": draw(st.sampled_from(["shop", "a", "0-x_y", "bluegreen", "s" * 41])),
        "app": {"port": draw(st.integers(1, 65535)), "replicas": draw(st.integers(1, 3))},
        "proxy": draw(proxy(kind, mode)),
        "retire": {"drain_timeout": draw(st.integers(1, 3600))},
    }
    if draw(st.booleans()):
        data["probe"] = {"path": draw(PATHS), "host": draw(st.sampled_from(["example.com:81", "[::1]", "a"]))}
        data["probe"]["kind"] = "http"
    return parse(data, root=root)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pair `site` lies, for every host that is drawn."""
    directory = tmp_path_factory.mktemp("tls")
    Authority(directory).pair("site", *HOSTS)
    return directory


Check = Callable[[Settings], str]


@pytest.fixture(scope="module", params=VERSIONS)
def check(request: pytest.FixtureRequest, engine: docker.DockerClient) -> Iterator[tuple[str, Check]]:
    """The kind of proxy, and what its own test says of all the files that settings make: nothing, or a complaint."""
    image: str = request.param
    kind = image.partition(":")[0]
    container = engine.containers.run(
        image,
        ["sleep", "1800"],
        entrypoint=[],
        user="0",
        network_mode="none",
        detach=True,
        init=True,
        auto_remove=True,  # should this run be killed
    )
    try:
        version = executed(container, [kind, "-v"]).output.decode().rpartition("/")[2].split()[0]
        built = executed(container, [kind, "-V"]).output.decode() if kind == "nginx" else ""

        def run(found: Settings) -> str:
            files = rendered(found, version, built)
            container.put_archive("/", archive(files))
            return complaint(container, kind, files)

        yield kind, run
    finally:
        with contextlib.suppress(docker.errors.APIError):
            container.remove(force=True, v=True)


class Nobody:
    """An agent in a place where no file is yet, and nginx was built in this way."""

    def __init__(self, built: str) -> None:
        self._built = built

    def run(self, *command: str) -> tuple[int, str]:
        return (0, self._built) if command == ("nginx", "-V") else (1, "")

    def read(self, path: str) -> str:
        raise AgentError(f"{path}: No such file or directory")


def rendered(found: Settings, version: str, built: str) -> Mapping[str, str]:
    """The files of both colours, as the driver writes them."""
    replicas = found.app.replicas
    blue, green = (
        [Endpoint(f"172.29.0.{number + offset}", found.app.port) for number in range(1, replicas + 1)]
        for offset in (0, 10)
    )
    place: Any = ProxyContainer(None, found.proxy)
    place.agent = Nobody(built)
    place.service_files = lambda suffix: []
    driver = DRIVERS[found.proxy.kind](found, place)
    driver._version = version
    text = driver.render({Colour.BLUE: blue, Colour.GREEN: green}, Colour.GREEN)
    maps = {f"/bluegreen/{name}.map": "" for name in ("hosts", "domains", "live")}
    return {**maps, **{path: content for path, content in driver._files(text).items() if content is not None}}


DRIVERS = {"nginx": Nginx, "haproxy": HAProxy}


def archive(files: Mapping[str, str]) -> bytes:
    """A tar with /bluegreen as these files make it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, text in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(text.encode()), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def complaint(container: Any, kind: str, files: Mapping[str, str]) -> str:
    """What the proxy says of the files, which are gone afterwards."""
    command = "nginx -t -q -c /bluegreen/nginx.conf" if kind == "nginx" else HAPROXY_TEST
    state = "mkdir -p /bluegreen/state"  # which is there from the proxy's first start on
    ran = executed(container, ["sh", "-c", f"{state}; {command}; code=$?; rm -rf /bluegreen; exit $code"])
    words = ran.output.decode(errors="replace").strip()
    complains = ran.exit_code or re.search(r"warn|alert|emerg|deprecated", words, re.IGNORECASE)
    return f"{words}\n(exit code {ran.exit_code})\n" + "\n".join(files.values()) if complains else ""


HAPROXY_TEST = "haproxy -c -dW -f /bluegreen/haproxy.cfg -f /bluegreen/services"


@pytest.mark.parametrize("mode", ["http", "tcp"])
def test_the_proxy_takes_any_settings_without_a_warning(check: tuple[str, Check], root: Path, mode: str) -> None:
    kind, said = check

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # each example is a process in a container: to shrink one would take minutes
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(drawn(kind, mode, root))
    def holds(found: Settings) -> None:
        assert said(found) == ""

    holds()


def test_the_proxy_takes_the_whole_example_without_a_warning(check: tuple[str, Check], root: Path) -> None:
    kind, said = check
    text = (SOURCE / "templates" / "bluegreen.toml").read_text()
    data = tomllib.loads(re.sub(r"^#(?=[\w\[])", "", text, flags=re.MULTILINE).replace("SERVICE", "shop"))
    data["proxy"]["kind"] = kind
    if kind == "nginx":
        del data["proxy"]["haproxy"]
    data["proxy"]["tls"] |= {"certificate": "site.crt", "key": "site.key"}
    data["proxy"]["hosts"] = ["example.com"]
    assert said(parse(data, root=root)) == ""


def test_the_proxy_takes_the_seeds_load_balancer_of_connections_without_a_warning(check: tuple[str, Check]) -> None:
    kind, said = check
    servers = [f"192.168.0.{number}:6443" for number in (200, 201, 202)]
    static = {"name": "masters", "listen": "0.0.0.0:6443", "servers": servers}
    for mode in ("http", "tcp"):
        proxy_table = {"kind": kind, "mode": mode, "static": [static]}
        assert said(parse({"service": "shop", "app": {"port": 9000}, "proxy": proxy_table})) == ""


@pytest.mark.parametrize("check", [image for image in VERSIONS if image.startswith("haproxy")], indirect=True)
def test_the_seeds_options_give_what_the_seed_has(check: tuple[str, Check]) -> None:
    _, said = check
    assert said(parse(tomllib.loads(SEED))) == ""


SEED = """
service = "webfarm"
app = { port = 80, replicas = 2 }

[proxy]
kind = "haproxy"
listen = "webfarm 10.101.22.76:80"
balance = "roundrobin"

[proxy.haproxy]
daemon = true
log = ["127.0.0.1:514 local0"]
log_send_hostname = true
uid = 99
node = "lb1"
maxconn = 4096
frontend_maxconn = 2000
httpchk = true
log_health_checks = true
forwardfor = true
httpclose = true
cookie = { name = "SERVERID", mode = "rewrite" }
check = { inter = 1000, rise = 2, fall = 5 }
server = { cookie_prefix = "admin_portal_" }
stats = { uri = "/admin", bind = "127.0.0.1:8404" }
"""
