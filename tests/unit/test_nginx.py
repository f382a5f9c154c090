"""The file that nginx gets, and the order in which a switch is written down."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from fakes import quick_settings

from bluegreen.errors import Failed
from bluegreen.model import Colour, Counts, Endpoint, SwitchRecord
from bluegreen.proxies import driver as drivers
from bluegreen.proxies.agent import AgentError, Answer
from bluegreen.proxies.container import PORT, ProxyContainer
from bluegreen.proxies.driver import STATUS_PORT
from bluegreen.proxies.nginx import Nginx, counted
from bluegreen.proxies.templates import unsealed
from bluegreen.settings import Settings

BLUE, GREEN = Colour.BLUE, Colour.GREEN
POOLS = {BLUE: (Endpoint("172.29.1.2", 9000),), GREEN: (Endpoint("172.29.1.64", 9000), Endpoint("172.29.1.65", 9000))}
FILE, STATE = "/bluegreen/services/shop.conf", "/bluegreen/state/shop"


class Agent:
    """An nginx in memory: files, and workers that serve the file of the last reload."""

    def __init__(self, version: str = "1.26.3") -> None:
        self.files: dict[str, str] = {}
        self.loaded: str | None = None
        self.version = version
        self.refuses = ""
        self.does_not_reload = False
        self.reloads = 0
        self.calls = itertools.count()
        self.crash_at: int | None = None

    def _call(self) -> None:
        if next(self.calls) == self.crash_at:
            raise KeyboardInterrupt

    def read(self, path: str) -> str:
        self._call()
        if path not in self.files:
            raise AgentError(f"{path}: No such file or directory")
        return self.files[path]

    def read_there(self, paths: Iterable[str]) -> dict[str, str]:
        return {path: self.read(path) for path in paths if self.exists(path)}

    def exists(self, path: str) -> bool:
        self._call()
        return path in self.files

    def write(self, path: str, content: str) -> None:
        self._call()
        self.files[path] = content

    def remove(self, *paths: str) -> None:
        self._call()
        for path in paths:
            self.files.pop(path, None)

    def run(self, *command: str) -> tuple[int, str]:
        self._call()
        if command == ("nginx", "-v"):
            return 0, f"nginx version: nginx/{self.version}"
        if "-t" in command and self.refuses and self.refuses in self.files[FILE]:
            return 1, f'host not found in upstream "{self.refuses}"'
        if "reload" in command:
            if self.does_not_reload:
                return 1, "nginx: [error] no pid"
            self.reloads += 1
            self.loaded = self.files.get(FILE)
        return 0, ""

    def children(self, parent: int) -> dict[int, str]:
        return {100 + self.reloads: "nginx: worker process"} if parent == 1 else {}

    def get(self, endpoint: Endpoint, path: str, *, host: str, timeout: float) -> Answer:
        if endpoint.port != STATUS_PORT or self.loaded is None:
            raise AgentError("Connection refused")
        assert host == "shop.bluegreen"
        returned = re.search(r'return 200 "(\w+) \$bluegreen_pool', self.loaded)
        pools = re.findall(r"set \$bluegreen_pool (shop_\w+);", self.loaded)
        assert returned
        pool = pools[1] if len(set(pools)) == 2 and f"{STATE}/green" in self.files else pools[0]
        trial = "_first" if f"{STATE}/trial" in self.files else ""
        return Answer(200, f"{returned[1]} {pool}{trial}")

    def colour(self) -> str:
        return self.get(Endpoint("127.0.0.1", STATUS_PORT), "/", host="shop.bluegreen", timeout=1).body.split(" ")[1]

    def close(self) -> None:
        pass


class Container(ProxyContainer):
    """The place of an nginx that is always up."""

    def __init__(self, agent: Agent, settings: Settings) -> None:
        super().__init__(None, settings.proxy)
        self.agent = agent  # type: ignore[assignment]

    def exists(self) -> bool:
        return True

    def running(self) -> bool:
        return True

    def log(self) -> str:
        return ""


def driver(agent: Agent | None = None, **tables: Any) -> Nginx:
    settings = quick_settings(**tables)
    return Nginx(settings, Container(agent or Agent(), settings))  # type: ignore[arg-type]


def blocks(text: str) -> dict[str, list[str]]:
    """The blocks at the top of a file, with their lines. Fails where braces are not in balance."""
    found: dict[str, list[str]] = {}
    depth, head = 0, ""
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        if depth == 0:
            assert line.endswith("{"), line
            head = line.removesuffix("{").strip()
            head = head if head not in found else f"{head} again"
            found[head] = []
        else:
            found[head].append(line)
        depth += line.count("{") - line.count("}")
        assert depth >= 0
    assert depth == 0
    return found


def servers(upstream: list[str]) -> list[tuple[str, bool]]:
    lines = [line for line in upstream if line.startswith("server ")]
    return [(line.split()[1].rstrip(";"), " backup" in line) for line in lines]


@pytest.mark.parametrize("switch", ["live", "reload"])
def test_both_colours_stand_in_the_file_each_alone_and_each_with_the_other_behind(switch: str) -> None:
    found = blocks(driver(proxy={"switch": switch}).render(POOLS, BLUE))
    blue = [("172.29.1.2:9000", False)]
    green = [("172.29.1.64:9000", False), ("172.29.1.65:9000", False)]
    assert servers(found["upstream shop_blue"]) == blue
    assert servers(found["upstream shop_green"]) == green
    assert servers(found["upstream shop_blue_first"]) == [*blue, *((each, True) for each, _ in green)]
    assert servers(found["upstream shop_green_first"]) == [*green, *((each, True) for each, _ in blue)]
    for name in ("shop_blue", "shop_green", "shop_blue_first", "shop_green_first"):
        assert servers(found[f"upstream {name}_ws"]) == servers(found[f"upstream {name}"])
        assert "keepalive 64;" in found[f"upstream {name}"]
        assert "keepalive 64;" not in found[f"upstream {name}_ws"], "a WebSocket is never on a connection from before"
    assert len(found) == 11


def test_live_a_flip_does_not_change_the_file_so_that_nothing_is_reloaded() -> None:
    nginx = driver(proxy={"switch": "live"})
    assert nginx.render(POOLS, BLUE) == nginx.render(POOLS, GREEN)
    assert f"if (-f {STATE}/green)" in nginx.render(POOLS, BLUE)


def test_by_reload_the_colour_stands_in_the_file() -> None:
    nginx = driver(proxy={"switch": "reload"})
    for colour in Colour:
        text = nginx.render(POOLS, colour)
        assert set(re.findall(r"set \$bluegreen_pool (shop_\w+);", text)) == {f"shop_{colour}"}
        assert "/green)" not in text


@pytest.mark.parametrize(
    ("hosts", "name", "default"),
    [
        ([], "_", True),
        (["a.example"], "a.example", False),
        (["a.example", "*.b.example"], "a.example *.b.example", False),
    ],
)
def test_a_service_answers_to_its_host_names_or_to_all(hosts: list[str], name: str, default: bool) -> None:
    server = blocks(driver(proxy={"hosts": hosts}).render(POOLS, BLUE))["server"]
    assert f"server_name {name};" in server
    assert f"listen {PORT}{' default_server' if default else ''};" in server


@pytest.mark.parametrize(
    ("version", "has"), [("1.22.1", False), ("1.27.3", False), ("1.27.4", True), ("1.28.0", True), ("1.30", True)]
)
def test_the_cure_for_the_keep_alive_race_stands_where_nginx_knows_it(version: str, has: bool) -> None:
    assert ("keepalive_min_timeout" in driver(Agent(version)).render(POOLS, BLUE)) is has


def test_settings_stand_in_the_file() -> None:
    text = driver(proxy={"max_body": "5m", "read_timeout": "90s"}).render(POOLS, BLUE)
    server = blocks(text)["server"]
    assert "client_max_body_size 5m;" in server
    assert "proxy_read_timeout 90000ms;" in server


def test_clients_are_told_apart_and_their_word_on_where_they_come_from_is_not_believed() -> None:
    server = blocks(driver().render(POOLS, BLUE))["server"]
    assert "proxy_set_header Host $http_host;" in server
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in server
    assert "proxy_set_header X-Forwarded-Proto $scheme;" in server
    assert not any("non_idempotent" in line for line in server), "a POST is never retried"


def test_nobody_outside_is_told_what_is_served() -> None:
    server = blocks(driver().render(POOLS, BLUE))["server again"]
    assert f"listen 127.0.0.1:{STATUS_PORT};" in server
    assert any(line.startswith("server_name shop.bluegreen;") for line in server)


def stamp(text: str) -> str:
    first = text.splitlines()[0]
    found = re.fullmatch(r"# The service shop, written by bluegreen\. ([0-9a-f]{12})", first)
    assert found, first
    assert text.count(found[1]) == 2
    return found[1]


@pytest.mark.parametrize(
    "tables",
    [
        {"proxy": {"switch": "reload"}},
        {"proxy": {"hosts": ["a.example"]}},
        {"proxy": {"max_body": "1m"}},
        {"proxy": {"read_timeout": "5s"}},
    ],
)
def test_the_stamp_changes_with_the_content_and_only_then(tables: dict[str, Any]) -> None:
    plain = driver().render(POOLS, BLUE)
    assert plain == driver().render(POOLS, BLUE)
    assert stamp(driver(**tables).render(POOLS, BLUE)) != stamp(plain)
    assert stamp(driver().render({**POOLS, GREEN: POOLS[GREEN][:1]}, BLUE)) != stamp(plain)
    assert stamp(driver(probe={"path": "/health"}).render(POOLS, BLUE)) == stamp(plain)


def record(number: int, to: Colour, *, committed: bool, first: bool = False) -> SwitchRecord:
    return SwitchRecord(number, f"run-{number}", None if first else to.other, to, committed)


def serving_blue(agent: Agent, switch: str) -> Nginx:
    nginx = driver(agent, proxy={"switch": switch})
    nginx.prepare(POOLS, None)
    nginx.switch(record(1, BLUE, committed=False, first=True), POOLS)
    nginx.commit(record(1, BLUE, committed=True, first=True))
    return nginx


def test_live_a_switch_reloads_nothing_and_in_trial_the_old_colour_stands_behind() -> None:
    agent = Agent()
    nginx = serving_blue(agent, "live")
    assert (agent.reloads, agent.colour()) == (1, "shop_blue")
    nginx.prepare(POOLS, BLUE)
    nginx.switch(record(2, GREEN, committed=False), POOLS)
    assert (agent.reloads, agent.colour()) == (1, "shop_green_first")
    nginx.commit(record(2, GREEN, committed=True))
    assert (agent.reloads, agent.colour()) == (1, "shop_green")


def test_changed_addresses_are_loaded_before_the_flip_that_needs_them() -> None:
    agent = Agent()
    nginx = serving_blue(agent, "live")
    moved = {**POOLS, GREEN: (Endpoint("172.29.1.99", 9000),)}
    nginx.prepare(moved, BLUE)
    assert (agent.reloads, agent.colour()) == (2, "shop_blue")
    assert agent.loaded
    assert "172.29.1.99:9000" in agent.loaded


@pytest.mark.parametrize("switch", ["live", "reload"])
@pytest.mark.parametrize("way", ["forward", "back"])
def test_a_crash_at_any_point_of_a_switch_leaves_a_record_that_tells_the_truth(switch: str, way: str) -> None:
    """Either the record is of an unfinished run, or what it says is what is served, and no trial goes on."""
    for moment in itertools.count():
        agent = Agent()
        nginx = serving_blue(agent, switch)
        if way == "back":
            nginx.prepare(POOLS, BLUE)
            nginx.switch(record(2, GREEN, committed=False), POOLS)
        agent.calls, agent.crash_at = itertools.count(), moment
        crashed = False
        try:
            if way == "forward":
                nginx.prepare(POOLS, BLUE)
                nginx.switch(record(2, GREEN, committed=False), POOLS)
                nginx.commit(record(2, GREEN, committed=True))
            else:
                nginx.switch(record(3, BLUE, committed=True), POOLS)
                nginx.commit(record(3, BLUE, committed=True))
        except KeyboardInterrupt:
            crashed = True
        agent.crash_at = None
        state = driver(agent, proxy={"switch": switch}).observe()
        assert state.record, moment
        assert state.edits == "", "what a crash leaves is not taken for a person's edit"
        assert not state.record.committed or state.record.to_colour is state.colour, moment
        if state.record.committed:
            assert not agent.colour().endswith("_first"), moment
        if not crashed:
            assert state.record == record(
                2 if way == "forward" else 3, GREEN if way == "forward" else BLUE, committed=True
            )
            assert moment > 3
            return


def test_a_refused_file_is_not_loaded_and_the_one_from_before_is_back() -> None:
    agent = Agent()
    nginx = serving_blue(agent, "live")
    before = agent.files[FILE]
    agent.refuses = "nonsense"
    with pytest.raises(Failed, match="nginx refuses the new config, and the old one is back: host not found"):
        nginx.prepare({**POOLS, GREEN: (Endpoint("nonsense", 1),)}, BLUE)
    assert agent.files[FILE] == agent.loaded == before


def test_a_file_that_cannot_be_loaded_is_put_back() -> None:
    agent = Agent()
    nginx = serving_blue(agent, "live")
    before = agent.files[FILE]
    agent.does_not_reload = True
    with pytest.raises(Failed, match="nginx does not reload"):
        nginx.prepare({**POOLS, GREEN: (Endpoint("172.29.1.99", 1),)}, BLUE)
    assert agent.files[FILE] == before


def test_answers_are_written_down_only_where_they_are_compared() -> None:
    assert "access_log" not in driver().render(POOLS, BLUE)
    text = driver(bake={"seconds": 5, "max_error_ratio": 0.01}).render(POOLS, BLUE)
    (line,) = re.findall(r"^ *(access_log .*)", text, re.MULTILINE)
    assert line == f"access_log {STATE}.answers shop.answers if=$bluegreen_logged_shop;"
    assert text.index(line) > text.index("server {"), "it is the log of the service's own requests"


def test_each_line_of_the_log_is_an_answer_of_the_colour_in_use() -> None:
    lines = {
        "shop_blue 200 200": 90,
        "shop_blue 404 404": 5,
        "shop_blue_ws 101 101": 2,
        "shop_blue 502 502, 502": 3,
        "shop_green_first 200 502, 200": 4,
        "shop_green_first_ws 101 101": 1,
        "shop_green_first 500 500 : 200": 1,
        "shop_green 499 -": 2,
        "shop_blue_blue 500 500": 7,
    }
    assert counted(lines, "shop") == {BLUE: Counts(100, 3), GREEN: Counts(8, 5)}


def test_a_record_that_cannot_be_read_is_none() -> None:
    agent = Agent()
    serving_blue(agent, "live")
    agent.files[f"{STATE}/record"] = "half a rec"
    state = driver(agent).observe()
    assert (state.colour, state.record) == (BLUE, None)


def test_a_service_whose_name_begins_like_another_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "ANSWERS", 0.1)
    agent = Agent()
    serving_blue(agent, "live")

    def other(endpoint: Endpoint, path: str, *, host: str, timeout: float) -> Answer:
        return Answer(200, "abc shop_two_blue")

    agent.get = other  # type: ignore[method-assign]
    with pytest.raises(Failed, match="does not say what it serves"):
        driver(agent).observe()


WRITTEN, KEPT = (f"/bluegreen/{place}/bluegreen-services-shop.conf" for place in ("written", "edited"))


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("server {", "server {\n    gzip on;", 1),
        lambda text: text + "    gzip on;\n",
        lambda text: "    gzip on;\n" + text,
        lambda text: unsealed(text) + "    gzip on;\n",
    ],
    ids=["inside", "after", "before", "without the seal"],
)
def test_an_edit_is_seen_shown_and_kept_when_it_is_written_over(edit: Callable[[str], str]) -> None:
    agent = Agent()
    nginx = serving_blue(agent, "live")
    agent.files[FILE] = edited = edit(agent.files[FILE])
    diff = driver(agent).observe().edits
    assert [line for line in diff.splitlines() if line[0] in "+-" and FILE not in line] == ["+    gzip on;"]
    nginx.prepare(POOLS, BLUE)
    assert driver(agent).observe().edits == ""
    assert agent.files[KEPT] == edited


def test_an_edit_is_still_there_and_still_seen_after_the_file_that_would_replace_it_was_refused() -> None:
    agent = Agent()
    nginx = serving_blue(agent, "live")
    agent.files[FILE] += "# mine\n"
    edited, agent.refuses = agent.files[FILE], "nonsense"
    with pytest.raises(Failed, match="nginx refuses"):
        nginx.prepare({**POOLS, GREEN: (Endpoint("nonsense", 1),)}, BLUE)
    assert agent.files[FILE] == edited
    assert "+# mine" in driver(agent).observe().edits


def test_a_file_from_before_there_were_seals_is_no_edit() -> None:
    agent = Agent()
    serving_blue(agent, "live")
    agent.files[FILE] = unsealed(agent.files[FILE])
    del agent.files[WRITTEN]
    assert driver(agent).observe().edits == ""
