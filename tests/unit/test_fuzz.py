"""Whatever an engine, a registry or a proxy answers: no traceback ever reaches the user."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from fakes import Clock, FakeLock, FakeRuntime, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bluegreen.cli import main
from bluegreen.model import Colour, Endpoint, SwitchRecord
from bluegreen.proxies.agent import Agent
from bluegreen.reach import DRIVERS
from bluegreen.service import Service
from bluegreen.settings import Settings

# A library that gives up in the middle of an answer may leave its connection to the garbage collector, which says so.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
EXAMPLES = int(os.environ.get("BLUEGREEN_FUZZ", "30"))
fuzz = settings(
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
CODES = {0, 1, 3, 4, 5}
SETTINGS = """
service = "shop"
[app]
port = 9000
[probe]
body = "version {number}"
timeout = "1s"
[bake]
seconds = 0
"""
LABELS = {
    "bluegreen.service": "shop",
    "bluegreen.colour": "blue",
    "bluegreen.release": "v1",
    "bluegreen.digest": "sha256:1",
    "bluegreen.settings": "0123456789ab",
    "bluegreen.image": "shop:v1",
    "bluegreen.run": "run-1",
    "bluegreen.number": "1",
    "bluegreen.replica": "1",
    "bluegreen.wanted": "1",
    "bluegreen.before": '[["v0", "sha256:0"]]',
}
CONTAINER: dict[str, Any] = {
    "Id": "c1",
    "Name": "/shop-blue-1",
    "Created": "2024-05-01T12:00:00.123456789Z",
    "Config": {"Labels": LABELS, "Tty": False},
    "HostConfig": {"RestartPolicy": {"Name": "always"}, "LogConfig": {"Type": "json-file"}},
    "State": {"Running": True, "Restarting": False, "Status": "running", "ExitCode": 0},
    "NetworkSettings": {"Networks": {"bluegreen-net-shop": {"IPAMConfig": {"IPv4Address": "172.29.0.2"}}}},
    "RestartCount": 0,
}
IMAGE = {"Id": "sha256:1", "RepoTags": ["shop:v1"], "RepoDigests": [], "Size": 1, "Created": 1, "Config": {}}
NETWORK = {"Name": "bluegreen-net-shop", "Id": "n1", "IPAM": {"Config": [{"Subnet": "172.29.0.0/24"}]}}
TABLE = b"a b c d e f g h\neth0 00000000 0 1000000 0 0 0 00000000\n"
"""Read as what `df` says of the disk and as what the kernel says of its routes."""
ENGINE: dict[str, Any] = {
    r"/_ping": "OK",
    r"/version": {"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"},
    r"/info": {"SystemTime": "2024-05-01T12:00:01.5+09:00"},
    r"/containers/json": [{"Id": "c1", "Names": ["/shop-blue-1"], "Labels": LABELS}],
    r"/containers/bluegreen-proxy-[^/]+/json": None,
    r"/containers/c1/json": CONTAINER,
    r"/containers/[^/]+/json": CONTAINER,
    r"/containers/[^/]+/logs": struct.pack(">BxxxL", 1, len(TABLE)) + TABLE,
    r"/containers/create": {"Id": "c1"},
    r"/containers/[^/]+/(start|stop|update|wait|rename)": {"StatusCode": 0},
    r"/images/json": [IMAGE],
    r"/images/.+/json": IMAGE,
    r"/images/.+/push": {"status": "Pushed", "id": "layer"},
    r"/images/create": {"status": "Pull complete", "id": "layer"},
    r"/distribution/.+/json": {"Descriptor": {"digest": "sha256:" + "1" * 64}},
    r"/networks": [NETWORK],
    r"/networks/.+": NETWORK,
    r"/volumes": {"Volumes": [{"Name": "bluegreen-run-shop-r0", "Labels": {"bluegreen.run": "r0"}}]},
    r"/volumes/create": {"Name": "bluegreen-run-shop-r1"},
    r"/volumes/.+": None,
    r"/containers/[^/]+": {},
    r"/build": {"stream": "Step 1/1"},
    r"/auth": {"Status": "Login Succeeded"},
}
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def damaged(draw: Callable[..., Any], value: Any) -> Any:
    """The value with something in it missing, or something else in its place."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        rest = {name: each for name, each in value.items() if name != key}
        return rest if draw(st.integers(0, 3)) == 0 else {**rest, key: draw(damaged(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        return [draw(damaged(value[0])), *value[1:]]
    return draw(JSON)


@st.composite
def answers(draw: Callable[..., Any]) -> dict[str, tuple[int, bytes]]:
    """What an engine says instead, to some of what it is asked."""
    found = {}
    for path in draw(st.lists(st.sampled_from(sorted(ENGINE)), min_size=1, max_size=3, unique=True)):
        status = draw(st.sampled_from([200, 200, 200, 201, 204, 301, 304, 400, 401, 403, 404, 409, 429, 500, 503]))
        right = ENGINE[path] if status < 300 else {"message": "no"}
        body = draw(damaged(right).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
        found[path] = (status, body)
    return found


class Engine(BaseHTTPRequestHandler):
    """An engine with one container, that gives other answers where it is told so."""

    protocol_version = "HTTP/1.1"
    instead: ClassVar[dict[str, tuple[int, bytes]]] = {}

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        path = re.sub(r"^/v[\d.]+", "", self.path.partition("?")[0])
        known = next((pattern for pattern in ENGINE if re.fullmatch(pattern, path)), "")
        found = ENGINE.get(known)
        found = {"message": "no such thing"} if found is None else found
        right = found if isinstance(found, bytes) else json.dumps(found).encode()
        status, body = self.instead.get(known, (404 if ENGINE.get(known) is None else 200, right))
        if status in (204, 304):
            body = b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)
        self.close_connection = True

    do_GET = do_POST = do_HEAD = do_DELETE = do_PUT = _answer  # noqa: N815

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"tcp://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr("bluegreen.cli.signal.signal", lambda *_: None)
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path / "state"))
    monkeypatch.setenv("DOCKER_CONFIG", os.fspath(tmp_path / "docker"))
    monkeypatch.delenv("BLUEGREEN_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bluegreen.toml").write_text(SETTINGS)
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    return tmp_path


def check(directory: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command ends with a code that README knows, in words. Gives the code."""
    monkeypatch.setattr(sys, "argv", ["bluegreen", *arguments])
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(list(arguments))
    code, text = ended.value.code, out.getvalue() + err.getvalue()
    assert code in CODES, text
    assert "Traceback" not in text
    if "unexpected: " in err.getvalue():
        log = re.search(r"error: unexpected: .*; where it came from stands in (\S+)", err.getvalue())
        assert log, err.getvalue()
        assert code == 5
        assert "Traceback" in Path(log[1]).read_text()
    return int(code or 0)


COMMANDS = [
    ("status",),
    ("status", "--json"),
    ("deploy", "v2", "--no-witness", "--plan"),
    ("rollback", "--plan"),
    ("deploy", "v2", "--no-witness"),
    ("build", "v2"),
    ("prune",),
    ("doctor",),
    ("down", "--yes"),
]


@pytest.mark.parametrize(
    "command", [("status",), ("deploy", "v2", "--plan"), ("build", "v2"), ("prune",), ("down", "--yes")]
)
def test_an_engine_that_is_well_is_understood(
    engine: str, directory: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine)
    monkeypatch.setattr("bluegreen.service.Lock", lambda *_: FakeLock())
    Engine.instead = {}
    assert check(directory, monkeypatch, *command) == 0


@fuzz
@given(answers(), st.sampled_from(COMMANDS))
def test_whatever_an_engine_answers_the_user_is_told_in_words(
    engine: str,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    instead: dict[str, tuple[int, bytes]],
    command: tuple[str, ...],
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine)
    monkeypatch.setattr("bluegreen.service.Lock", lambda *_: FakeLock())
    Engine.instead = instead
    check(directory, monkeypatch, *command)


@fuzz
@given(answers(), st.sampled_from([("push", "v1"), ("login",), ("deploy", "v1", "--plan"), ("rollback", "--plan")]))
def test_whatever_a_registry_answers_the_user_is_told_in_words(
    engine: str,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    instead: dict[str, tuple[int, bytes]],
    command: tuple[str, ...],
) -> None:
    (directory / "bluegreen.toml").write_text(SETTINGS + '[registry]\nserver = "127.0.0.1:1"\nrepository = "a/shop"\n')
    monkeypatch.setenv("DOCKER_HOST", engine)
    monkeypatch.setenv("CI_REGISTRY_USER", "ann")
    monkeypatch.setenv("CI_REGISTRY_PASSWORD", "secret")
    Engine.instead = instead
    check(directory, monkeypatch, *command)


class Babbling(Agent):
    """Says what it likes, to every command."""

    def __init__(self, draw: Callable[[], bytes | None]) -> None:
        super().__init__(lambda command: pytest.fail(f"started {command}"))
        self._draw = draw

    def _answers(self, *calls: Sequence[str]) -> list[tuple[bytes, bytes]]:
        said = [self._draw() for _ in calls]
        return [(b"error", b"Connection refused") if each is None else (b"ok", each) for each in said]


class Somewhere:
    """Meets `Place`, for a proxy that runs."""

    name, root, services, streams, prefix, main = "proxy", "/r", "/r/services", "/r/streams", "", "/r/main.cfg"
    pid_file, bind, tls_bind, admin, owns_process, reload = "/p", "8080", "", "/r/admin", True, ()
    front = Endpoint("127.0.0.1", 8080)

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def __getattr__(self, name: str) -> Callable[..., Any]:
        given: dict[str, Any] = {"exists": True, "running": True, "master": 1, "boot": False, "service_files": ["shop"]}
        return lambda *_, **__: given.get(name, "")


RECORD = SwitchRecord(1, "run-1", None, Colour.BLUE, committed=True).to_json()
WORKERS = "7 1 nginx: worker process\n8 1 nginx: worker process is shutting down\n9 1 haproxy -W\n"
STATS = "# pxname,svname,scur,addr\nshop_blue,new1,1,172.29.0.2:9000\n"
HTTP = "HTTP/1.1 200 OK\r\n\r\n"
WORDS = ["1", "", "0\n", "1\nnginx: [emerg] no", "0\nnginx version: nginx/1.30.6", "0\nHAProxy version 3.2.26"]
SAID = st.sampled_from([*WORDS, RECORD, WORKERS, STATS, HTTP + "0123456789ab shop_blue", HTTP + "version 2"]).flatmap(
    lambda text: st.just(text.encode()) | st.integers(0, len(text)).map(lambda at: text[:at].encode())
)


@pytest.mark.parametrize("kind", sorted(DRIVERS))
@fuzz
@given(data=st.data())
def test_whatever_a_proxy_says_the_user_is_told_in_words(
    directory: Path, monkeypatch: pytest.MonkeyPatch, kind: str, data: st.DataObject
) -> None:
    world = World().has("v1", "v2")
    steps = Clock()

    def draw() -> bytes | None:
        steps.sleep(0.5)  # so that who waits for a right answer gives up
        return data.draw(SAID | st.binary(max_size=40) | st.none())

    @contextlib.contextmanager
    def opened(cls: type[Service], settings: Settings, engine: object) -> Iterator[Service]:
        runtime, place = FakeRuntime(world, settings), Somewhere(Babbling(draw))
        yield cls(settings, None, runtime, DRIVERS[kind](settings, place))

    (directory / "bluegreen.toml").write_text(SETTINGS + f'[proxy]\nkind = "{kind}"\nimage = "shop:v1"\n')
    monkeypatch.setattr(time, "monotonic", steps.monotonic)
    monkeypatch.setattr(time, "sleep", steps.sleep)
    monkeypatch.setattr("bluegreen.service.Lock", lambda *_: FakeLock())
    monkeypatch.setattr(Service, "open", classmethod(opened))
    monkeypatch.setattr("bluegreen.runtimes.connect.connect", lambda: SimpleNamespace(close=lambda: None))
    command = data.draw(st.sampled_from([("status",), ("deploy", "v2", "--no-witness"), ("proxy", "status")]))
    check(directory, monkeypatch, *command)
