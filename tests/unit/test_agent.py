"""The agent in the proxy's container: what it says is understood, and what it is told is done."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError
from harness import eventually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bluegreen.model import Endpoint
from bluegreen.proxies.agent import Agent, AgentError
from bluegreen.proxies.container import ProxyContainer
from bluegreen.runtimes.session import Session, SessionEnded, Talk
from bluegreen.settings import ProxyTable

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
BLUE, GREEN = Endpoint("172.29.1.2", 9000), Endpoint("172.29.1.64", 9000)
patient = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def no_process(command: Sequence[str]) -> Talk:
    raise AssertionError(command)


class Scripted(Agent):
    """Gives one answer to whatever it is asked."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(no_process)
        self._answer = answer
        self.asked: list[tuple[str, ...]] = []

    def call(self, verb: str, *arguments: str) -> bytes:
        self.asked.append((verb, *arguments))
        return self._answer


def row(n: int, local: str, remote: str, state: str, timer: str = "00:00000000") -> str:
    return f"   {n}: {local} {remote} {state} 00000000:00000000 {timer} 00000000  101        0 1234 1 0 20 4 0 10 -1\n"


def hexed(endpoint: Endpoint) -> str:
    return f"{socket.inet_aton(endpoint.address)[::-1].hex().upper()}:{endpoint.port:04X}"


def test_the_kernel_writes_an_address_backwards() -> None:
    assert hexed(BLUE) == "02011DAC:2328"


@pytest.mark.parametrize(
    ("state", "counts"),
    [("01", 1), ("02", 1), ("03", 1), ("04", 1), ("05", 0), ("06", 0), ("07", 0), ("08", 0), ("09", 1), ("0A", 0)],
)
def test_connections_are_counted_in_the_states_that_may_hold_a_request(state: str, counts: int) -> None:
    table = HEADER + row(0, "03011DAC:A1B2", hexed(BLUE), state)
    assert Scripted(table.encode()).connections([BLUE]) == counts


def test_only_connections_to_these_endpoints_are_counted() -> None:
    rows = [
        row(0, "00000000:1F90", "00000000:0000", "0A"),
        row(1, "03011DAC:A1B2", hexed(BLUE), "01"),
        row(2, "03011DAC:A1B3", hexed(BLUE), "01"),
        row(3, "03011DAC:A1B4", hexed(GREEN), "01"),
        row(4, "03011DAC:A1B5", hexed(Endpoint("172.29.1.2", 9001)), "01"),
        row(5, hexed(BLUE), "03011DAC:A1B6", "01"),
    ]
    agent = Scripted((HEADER + "".join(rows)).encode())
    assert agent.connections([BLUE]) == 2
    assert agent.connections([BLUE, GREEN]) == 3
    assert agent.connections([]) == 0


def test_those_that_the_kernel_keeps_alive_are_told_from_the_others() -> None:
    rows = [
        row(0, "03011DAC:A1B2", hexed(BLUE), "01", timer="00:00000000"),
        row(1, "03011DAC:A1B3", hexed(BLUE), "01", timer="02:000A8C1F"),
        row(2, "03011DAC:A1B4", hexed(BLUE), "01", timer="01:00000014"),
        row(3, "03011DAC:A1B5", hexed(GREEN), "01", timer="02:000A8C1F"),
        row(4, "03011DAC:A1B6", hexed(BLUE), "05", timer="02:000A8C1F"),
    ]
    agent = Scripted((HEADER + "".join(rows)).encode())
    assert agent.kept_alive([BLUE]) == 1
    assert agent.kept_alive([BLUE, GREEN]) == 2


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nversion 1\n", 200, "version 1"),
        (b"HTTP/1.0 200 OK\r\n\r\n  version 1\r\n", 200, "version 1"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", 503, ""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nver\r\n6\r\nsion 1\r\n0\r\n\r\n",
            200,
            "version 1",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, "x"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        (b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe", 200, "\N{REPLACEMENT CHARACTER}" * 2),
    ],
)
def test_an_http_answer_is_understood(raw: bytes, status: int, body: str) -> None:
    answer = Scripted(raw).get(BLUE, "/version", host="a.example", timeout=5)
    assert (answer.status, answer.body) == (status, body)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nver",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nver",
    ],
)
def test_what_is_no_whole_http_answer_is_an_error_in_words(raw: bytes) -> None:
    with pytest.raises(AgentError, match=r"not an HTTP answer: .+"):
        Scripted(raw).get(BLUE, "/version", host="a.example", timeout=5)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda rest: b"HTTP/1.1 200 OK\r\n" + rest))
@patient
def test_no_bytes_are_more_than_an_error(raw: bytes) -> None:
    try:
        answer = Scripted(raw).get(BLUE, "/", host="h", timeout=1)
    except AgentError:
        return
    assert 100 <= answer.status <= 999


def test_a_request_is_one_get_on_its_own_connection() -> None:
    agent = Scripted(b"HTTP/1.1 200 OK\r\n\r\n")
    agent.get(BLUE, "/version?x=1", host="a.example", timeout=2.5)
    verb, address, port, seconds, request = agent.asked[0]
    assert (verb, address, port, seconds) == ("tcp", "172.29.1.2", "9000", "2.5")
    lines = request.split("\r\n")
    assert lines[0] == "GET /version?x=1 HTTP/1.1"
    assert {"Host: a.example", "Connection: close"} <= set(lines)
    assert request.endswith("\r\n\r\n")


class Engine:
    """As much of a docker client as the agent uses: its process runs here, and speaks in the engine's frames."""

    def __init__(self) -> None:
        self.api = self
        self.started: list[subprocess.Popen[bytes]] = []
        self._ends: list[Callable[[], None]] = []

    def session(self, command: Sequence[str]) -> Session:
        return Session(self._start(command), timeout=60)

    def _start(self, command: Sequence[str]) -> Any:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        mine, theirs = self._pair()
        self.started.append(process)

        def forward() -> None:
            assert process.stdin
            while data := mine.recv(65536):
                process.stdin.write(data)
                process.stdin.flush()
            process.stdin.close()

        def back() -> None:
            assert process.stdout
            while data := os.read(process.stdout.fileno(), 65536):
                mine.sendall(struct.pack(">BxxxL", 1, len(data)) + data)
            mine.shutdown(1)

        threads = [threading.Thread(target=quietly(work)) for work in (forward, back)]
        for thread in threads:
            thread.start()

        def end() -> None:
            process.kill()
            process.wait()
            for each in (theirs, mine):
                quietly(lambda each=each: each.shutdown(2))()
            for thread in threads:
                thread.join(10)
            for each in (theirs, mine, process.stdin, process.stdout):
                quietly(each.close)()  # type: ignore[union-attr]

        self._ends.append(end)
        return theirs

    @staticmethod
    def _pair() -> tuple[socket.socket, socket.socket]:
        return socket.socketpair()

    def close(self) -> None:
        for end in self._ends:
            end()


def quietly(work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        except (OSError, ValueError):
            return

    return run


needs_perl = pytest.mark.skipif(shutil.which("perl") is None, reason="no perl here; Debian always has it")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def agent(engine: Engine) -> Iterator[Agent]:
    agent = Agent(engine.session)
    yield agent
    agent.close()


@needs_perl
@given(content=st.text(), name=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=30))
@patient
def test_a_file_is_read_as_it_was_written_whatever_is_in_it(
    agent: Agent, tmp_path: Path, content: str, name: str
) -> None:
    path = tmp_path / f"x{name}"
    agent.write(os.fspath(path), content)
    assert path.read_bytes() == content.encode()
    assert agent.read(os.fspath(path)) == content
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"
    agent.remove(os.fspath(path))
    assert not path.exists()


@needs_perl
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=4))
@patient
def test_arguments_arrive_as_they_were_sent(agent: Agent, arguments: list[str]) -> None:
    script = 'for a in "$@"; do printf "="; printf "%s" "$a" | od -An -v -tx1 | tr -d " \\n"; echo; done'
    code, text = agent.run("sh", "-c", script, "sh", *arguments)
    assert code == 0
    assert [bytes.fromhex(line.removeprefix("=")).decode() for line in text.split("\n")] == arguments


@needs_perl
def test_a_file_is_replaced_whole_and_its_directory_made(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "state" / "record"
    agent.write(os.fspath(path), "one")
    first = path.stat()
    agent.write(os.fspath(path), "two")
    assert path.read_text() == "two"
    assert path.stat().st_ino != first.st_ino, "renamed into place, not written over"
    assert path.stat().st_mode & 0o777 == 0o644


@needs_perl
def test_the_lines_of_a_log_are_counted_on_from_look_to_look(agent: Agent, tmp_path: Path) -> None:
    log, wanted = tmp_path / "log", tmp_path / "counted-"
    (tmp_path / "counted-1234").touch()
    assert agent.tally(str(log), str(wanted)) == {}, "nobody has written yet"
    assert len(list(tmp_path.glob("counted-*"))) == 2, "wanted for now and for the next hundred seconds"
    assert not (tmp_path / "counted-1234").exists()
    log.write_text("a 200\nb 500\na 200\na 5")
    assert agent.tally(str(log), str(wanted)) == {"a 200": 2, "b 500": 1}, "a line that has no end yet is not there"
    with log.open("a") as file:
        file.write("02\n")
    assert agent.tally(str(log), str(wanted)) == {"a 200": 2, "b 500": 1, "a 502": 1}
    log.write_text("c 200\n")
    assert agent.tally(str(log), str(wanted)) == {"a 200": 2, "b 500": 1, "a 502": 1, "c 200": 1}, "begun anew"


def test_a_log_does_not_grow_for_ever(agent: Agent, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("a") as file:  # as nginx does it: at the end, wherever that is
        for number in range(1, 4):
            file.write("shop_blue 200 200\n" * 60_000)
            file.flush()
            assert agent.tally(str(log), str(tmp_path / "counted-")) == {"shop_blue 200 200": number * 60_000}
            assert log.stat().st_size == 0


@needs_perl
def test_files_are_read_together_those_that_are_there(agent: Agent, tmp_path: Path) -> None:
    here, empty, gone = (os.fspath(tmp_path / name) for name in ("here", "empty", "gone"))
    agent.write(here, "words\nmore\n")
    agent.write(empty, "")
    assert agent.read_there([empty, gone, here]) == {empty: "", here: "words\nmore\n"}
    assert agent.read_there([gone]) == agent.read_there([]) == {}
    with socket.socket(socket.AF_UNIX) as no_file:
        no_file.bind(os.fspath(tmp_path / "socket"))
        with pytest.raises(AgentError, match="No such device"):
            agent.read_there([os.fspath(tmp_path / "socket"), here])
    assert agent.read(here) == "words\nmore\n", "every answer was read, so that the next call gets its own"


def test_what_is_there_and_what_is_not(agent: Agent, tmp_path: Path) -> None:
    path = os.fspath(tmp_path / "file")
    assert not agent.exists(path)
    agent.write(path, "")
    assert agent.exists(path)
    assert agent.read(path) == ""
    agent.remove(path, path)
    agent.remove(path)
    assert not agent.exists(path)


@needs_perl
@pytest.mark.parametrize(
    ("verb", "arguments", "words"),
    [
        ("read", ["/no/such/file"], "/no/such/file: No such file or directory"),
        ("write", ["/proc/no/such", "x"], "/proc/no: No such file or directory"),
        ("remove", ["/proc/self/status"], "/proc/self/status: Operation not permitted"),
        ("tcp", ["127.0.0.1", "9", "1", "x"], "Connection refused"),
        ("unix", ["/no/socket", "1", "x"], "/no/socket: "),
        ("dance", [], "no such verb: dance"),
    ],
)
def test_what_cannot_be_done_is_told_in_words_and_the_next_call_works(
    agent: Agent, engine: Engine, verb: str, arguments: list[str], words: str
) -> None:
    agent.exists("/")
    processes = len(engine.started)
    with pytest.raises(AgentError) as caught:
        agent.call(verb, *arguments)
    assert caught.value.message.startswith(words)
    assert not caught.value.message.endswith("\n")
    assert agent.exists("/")
    assert len(engine.started) == processes, "the same process goes on"


@needs_perl
def test_a_command_gives_its_exit_code_and_both_its_outputs(agent: Agent) -> None:
    assert agent.run("sh", "-c", "echo out; echo err >&2; exit 7") == (7, "out\nerr")
    assert agent.run("true") == (0, "")
    assert agent.run("cat") == (0, ""), "it has no input"
    assert agent.run("/no/such/program")[0] == 127


@needs_perl
def test_processes_are_listed_with_their_command_lines(agent: Agent, engine: Engine) -> None:
    with subprocess.Popen(["sleep", "98.765"]) as process:
        try:
            # Between fork and exec the child still has this program's own command line.
            eventually(
                lambda: agent.children(os.getpid()).get(process.pid) == "sleep 98.765", "it is listed as what it runs"
            )
        finally:
            process.kill()
    assert os.getpid() in agent.children(os.getppid())


@needs_perl
def test_an_exchange_over_tcp_gives_all_that_comes_back(agent: Agent) -> None:
    body = b"x" * 300_000
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                heard.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        thread = threading.Thread(target=serve)
        thread.start()
        answer = agent.get(Endpoint("127.0.0.1", server.getsockname()[1]), "/version", host="a.example", timeout=30)
        thread.join()
    assert answer.status == 200
    assert answer.body == body.decode()
    assert heard[0].startswith(b"GET /version HTTP/1.1\r\nHost: a.example\r\n")


@needs_perl
def test_an_exchange_over_tcp_that_never_ends_is_given_up(agent: Agent) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(AgentError, match=r"no answer within 0\.1 s"):
        agent.get(Endpoint("127.0.0.1", server.getsockname()[1]), "/", host="h", timeout=0.1)


@needs_perl
def test_an_exchange_over_a_unix_socket(agent: Agent, tmp_path: Path) -> None:
    path = os.fspath(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(connection.recv(100)[::-1])

        thread = threading.Thread(target=serve)
        thread.start()
        assert agent.call("unix", path, "30", "show stat\n") == b"\ntats wohs"
        thread.join()


@needs_perl
def test_a_process_that_is_gone_is_told_and_the_next_call_starts_another(engine: Engine) -> None:
    agent = Agent(engine.session)
    assert agent.exists("/")
    engine.started[-1].kill()
    with pytest.raises(SessionEnded):
        agent.exists("/")
    assert agent.exists("/")
    agent.close()


def test_a_container_that_does_not_run_is_told_in_words() -> None:
    class Refusing:
        api: Any
        containers: Any

        def exec_create(self, *arguments: Any, **options: Any) -> None:
            raise APIError("conflict", explanation="container proxy is not running")

    client = Refusing()
    client.api = client
    client.containers = SimpleNamespace(get=lambda name: SimpleNamespace(labels={}))
    with pytest.raises(SessionEnded, match="does not run: container proxy is not running"):
        ProxyContainer(client, ProxyTable()).agent.exists("/")


@needs_perl
@pytest.mark.parametrize("order", ["write {} new%20and%20lo", "write {} new", "remove {}"])
def test_an_order_that_was_cut_is_not_obeyed(tmp_path: Path, order: str) -> None:
    """As when its sender is killed in the middle of sending it."""
    file = tmp_path / "file"
    file.write_text("old")
    program = resources.files("bluegreen").joinpath("templates/agent.pl").read_text()
    ran = subprocess.run(["perl", "-e", program], input=order.format(file).encode(), capture_output=True, timeout=60)
    assert (ran.stdout, ran.stderr) == (b"", b"")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "old"


def test_the_program_is_perl_that_compiles_without_a_warning() -> None:
    program = resources.files("bluegreen").joinpath("templates/agent.pl").read_text()
    done = subprocess.run(["perl", "-wc", "-e", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.strip() == "-e syntax OK"


def test_what_the_engine_says_where_the_process_could_not_start_is_no_answer_of_it() -> None:
    class Stillborn(Talk):
        def send(self, data: bytes) -> None: ...
        def close(self) -> None: ...
        def _receive(self) -> None:
            self._buffer += b"runtime exec failed: unable to start container process\r\n"

    with pytest.raises(SessionEnded, match="did not start: runtime exec failed: unable to start container process"):
        Agent(lambda command: Stillborn()).exists("/")
