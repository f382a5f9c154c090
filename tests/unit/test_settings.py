"""bluegreen.toml: what it may say, what is made of it, and how each problem is told."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import re
import string
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bluegreen import settings as subject
from bluegreen.errors import SettingsError, UsageError
from bluegreen.model import Release
from bluegreen.settings import Settings, Size, check_release_name, example, load, parse, schema
from bluegreen.settings.problems import dotted
from bluegreen.settings.values import duration

ROOT = Path(__file__).parents[2]
LEAST: dict[str, Any] = {"service": "shop", "app": {"port": 9000}}
HOSTILE = "\"'`;{}$\\#\n\r\t\0 \x1b\x7f\x85\u2028%<>|()"


def patient(examples: int) -> settings:
    """So many examples, however busy the machine is."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def having(path: str, value: object) -> dict[str, Any]:
    """The least settings there can be, with `value` at `path`."""
    data: dict[str, Any] = {"service": "shop", "app": {"port": 9000}}
    if path.startswith("proxy.haproxy"):
        data["proxy"] = {"kind": "haproxy"}
    *tables, key = path.split(".")
    part = data
    for table in tables:
        part = part.setdefault(table, {})
    part[key] = value
    return data


def at(path: str, value: object) -> Any:
    """What the setting at `path` is when the file says `value`."""
    found: Any = parse(having(path, value))
    for key in path.split("."):
        found = getattr(found, key)
    return found


def problems(data: dict[str, Any]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse(data)
    assert caught.value.exit_code == 3
    return [line.strip() for line in caught.value.message.splitlines()[1:]]


def refused(path: str, value: object) -> str:
    """The one problem of `value` at `path`, without the path."""
    (problem,) = problems(having(path, value))
    where, _, words = problem.partition(": ")
    assert re.sub(r"\[0\]$", "", where) == path
    return words


# What a file may say


def test_a_service_and_a_port_are_enough() -> None:
    found = parse(LEAST)
    assert found.image.repository == "shop"
    assert found.proxy.url == "http://127.0.0.1:8080"
    assert (found.proxy.address, found.proxy.port) == ("127.0.0.1", 8080)
    assert (found.app.replicas, found.app.stop_timeout) == (1, 35)
    assert (found.probe.path, found.probe.body, found.probe.interval) == ("/version", None, 0.2)
    assert (found.probe.successes, found.probe.timeout) == (3, 60)
    assert (found.retire.old, found.retire.drain_timeout, found.bake.seconds) == ("remove", 30, 5)
    assert (found.witness.rate, found.witness.connections, found.witness.timeout) == (20, 2, 10)
    assert (found.network.subnet, found.network.pool) == (None, "172.29.0.0/16")


def test_the_demos_file_has_the_tables_it_needs_and_no_others() -> None:
    data = tomllib.loads((ROOT / "bluegreen.toml").read_text())
    assert set(data) == {"service", "image", "app", "probe", "proxy"}
    found = load(ROOT / "bluegreen.toml")
    assert (found.service, found.app.port) == ("hippo_flask", 9000)
    assert found.context == ROOT / "app"
    assert found.expected_body(Release("v2")) == "version 2"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("service", "a", "a"),
        ("service", "0-" + 39 * "x", None),
        ("image.repository", "example.com:5000/root/shop", "example.com:5000/root/shop"),
        ("image.repository", "localhost/a__b-c.d", "localhost/a__b-c.d"),
        ("image.target", "run-time", "run-time"),
        ("image.args", {"A": "{{ '\n\" }}"}, {"A": "{{ '\n\" }}"}),
        ("notify.webhook", "https://a.test:8443/hooks/abc?token=x", "https://a.test:8443/hooks/abc?token=x"),
        ("metrics.influxdb", "http://127.0.0.1:8086/", "http://127.0.0.1:8086"),
        ("metrics.database", "a b", "a b"),
        ("metrics.bucket", "team/deploys", "team/deploys"),
        ("metrics.textfile", "/var/lib/shop.prom", "/var/lib/shop.prom"),
        ("notify.on", ["failed"], ("failed",)),
        ("app.port", 65535, 65535),
        ("app.replicas", 100, 100),
        ("app.env", {"_a1": "\"';{}$\n"}, {"_a1": "\"';{}$\n"}),
        ("app.command", ["python3", "", "{}"], ("python3", "", "{}")),
        ("app.networks", ["a.b", "bridge"], ("a.b", "bridge")),
        ("app.volumes", ["data:/d", "/srv:/e:ro", "da.ta:/f:rw"], ("data:/d", "/srv:/e:ro", "da.ta:/f:rw")),
        ("app.memory", "1G", "1g"),
        ("app.memory", 8 << 20, str(8 << 20)),
        ("app.cpus", 2, 2.0),
        ("app.user", "1000:www-data", "1000:www-data"),
        ("app.tmpfs", [], ()),
        ("app.tmpfs", ["/run", "/a:size=64m,mode=1777,uid=1,exec"], ("/run", "/a:size=64m,mode=1777,uid=1,exec")),
        ("app.cap_add", ["cap_net_raw", "CHOWN", "ALL"], ("NET_RAW", "CHOWN", "ALL")),
        ("app.pids_limit", 0, 0),
        ("app.restart", "on-failure", "on-failure"),
        ("app.logging.options", {"max-size": "1m"}, {"max-size": "1m"}),
        ("probe.path", "/a/b?c=d&e=%7b", "/a/b?c=d&e=%7b"),
        ("probe.host", "WWW.example.com:81", "www.example.com:81"),
        ("probe.host", "[::1]", "[::1]"),
        ("probe.body", '"{release}"; $x', '"{release}"; $x'),
        ("proxy.listen", "[0:0::1]:80", "[::1]:80"),
        ("proxy.url", "https://Example.com:8443/shop/", "https://example.com:8443/shop"),
        ("proxy.url", "http://[::1]", "http://[::1]"),
        ("proxy.hosts", ["*.Example.com", "a_b.example"], ("*.example.com", "a_b.example")),
        ("proxy.image", "example.com:5000/nginx:1.27@sha256:" + 64 * "a", None),
        ("proxy.image", "nginx", "nginx"),
        ("proxy.switch", "live", "live"),
        ("proxy.max_body", "0", "0"),
        ("network.subnet", "10.1.2.0/24", "10.1.2.0/24"),
        ("network.pool", "10.0.0.0/8", "10.0.0.0/8"),
        ("retire.old", "standby", "standby"),
        ("bake.seconds", 0, 0.0),
        ("bake.seconds", 3600, 3600.0),
        ("rollback_floor", True, True),
        ("hooks.pre_deploy.command", ["./migrate", "", "a b"], ("./migrate", "", "a b")),
        ("hooks.pre_build.command", "make | tee log", ("sh", "-c", "make | tee log")),
        ("hooks.post_deploy", {"command": "x", "on": ["rollback", "deploy"]}, Any),
        ("hooks.post_switch", {"command": "x", "run": "image", "timeout": "24h"}, Any),
    ],
)
def test_a_right_value_is_taken(path: str, value: object, expected: object) -> None:
    found = at(path, value)
    assert expected is Any or found == (value if expected is None else expected)


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:8080", "http://[::1]:8080"),
        ("192.0.2.1:8080", "http://192.0.2.1:8080"),
    ],
)
def test_the_public_address_is_what_is_listened_on(listen: str, url: str) -> None:
    assert parse(having("proxy.listen", listen)).proxy.url == url


# What it may not


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("service", value) for value in ("", "Shop", "-a", "_a", "a.b", "a\n", 42 * "a", 1)),
        *(
            ("image.repository", value)
            for value in ("", "Shop", "shop:v1", "a//b", "a_", "a.com:0/b", 64 * "a")
        ),
        *(
            ("image.repository", value)
            for value in ("/a", "a/", "shop@sha256:" + 64 * "a", "a/b\n", 256 * "b")
        ),
        *(("image.context", value) for value in ("", " ", "a\0", "a\nb", 1)),
        *(("image.target", value) for value in ("", "a b", "-a")),
        *(("app.port", value) for value in (0, 65536, -1, "9000", 9000.0, True)),
        ("app.port", []),
        # Hexadecimal, TOML can write a number that Python refuses to print.
        pytest.param("app.port", 16**5000, id="app.port-huge"),
        *(("app.replicas", value) for value in (0, 101)),
        *(("app.command", value) for value in ([], [""], "python3", [1], ["a\0"])),
        *(("app.networks", value) for value in (["host"], ["none"], ["a", "a"], ["container:x"], [""])),
        *(("app.volumes", value) for value in (["data"], ["./a:/b"], ["a:/b"], ["data:b"], ["data:/b:z"])),
        *(
            ("app.volumes", value)
            for value in (["data:/"], ["data:/a/.."], ["data:/a", "/x:/a/"], ["d1:/a\n"])
        ),
        *(("app.memory", value) for value in ("5m", "1t", "512mb", "1.5g", "-1m", "", 1.5, True)),
        *(("app.cpus", value) for value in (0, -1, float("inf"), float("nan"), "1", True)),
        *(("app.user", value) for value in ("", "a b", "a:b:c", "-a", ":a")),
        *(("app.tmpfs", [value]) for value in ("", "tmp", "/", "/a/../b", "/a:", "/a:suid", "/a:size=", "/a:exec,")),
        ("app.tmpfs", ["/run", "/run:exec"]),
        *(("app.cap_add", value) for value in (["NONSENSE"], [""], ["CHOWN", "CAP_CHOWN"], "ALL")),
        *(("app.pids_limit", value) for value in (-1, 1.5, "many")),
        *(("app.restart", value) for value in ("no", "", "sometimes", True)),
        ("app.logging.driver", "../x"),
        *(("probe.path", value) for value in ("", "version", "//a", "/a b", "/a\n", "/%zz", "/{x}", "/é")),
        *(
            ("probe.body", value)
            for value in ("", " ", "{version}", "{}", "{", "{{release}}", "{release!r}", "a\0")
        ),
        *(("probe.successes", value) for value in (0, 101, 1.5)),
        *(("probe.host", value) for value in ("", "a b", "a:0", "a:65536", "a;b", "*.a.com", "[::1", "::1")),
        *(("proxy.kind", value) for value in ("apache", "", 1, None)),
        *(("proxy.listen", value) for value in ("localhost:80", "127.0.0.1", "8080", ":80", "127.0.0.1:0")),
        *(
            ("proxy.listen", value)
            for value in ("127.0.0.1:65536", "127.1:80", "01.2.3.4:80", "::1:80", "[::1]")
        ),
        *(
            ("proxy.listen", value)
            for value in ("[fe80::1%eth0]:80", "[::1%;]:80", "127.0.0.1:80\n", "1.2.3.4:٣")
        ),
        *(
            ("proxy.url", value)
            for value in ("shop", "ftp://a", "http://", "http://u:p@a", "http://a/?b", "http://a#b")
        ),
        *(
            ("proxy.hosts", value)
            for value in ("a.com", ["*"], ["a.*"], ["~a"], ["a.com."], ["a.com", "A.com"])
        ),
        *(("proxy.hosts", value) for value in (["é.com"], ["a b"], [64 * "a"], [".a"], ["a:80"], ["*.*.a"])),
        *(
            ("proxy.image", value)
            for value in ("nginx:", "nginx:a b", "nginx@", "nginx@sha256:1", "nginx;")
        ),
        ("proxy.where", "moon"),
        ("proxy.switch", "hard"),
        *(("proxy.max_body", value) for value in ("1.5m", "m", "-1", "1k;", "99999999g")),
        *(
            ("network.subnet", value)
            for value in ("10.0.0.1/24", "10.0.0.0/15", "10.0.0.0/29", "10.0.0.0", "a")
        ),
        *(
            ("network.subnet", value)
            for value in ("::/64", "10.0.0.0/255.255.255.0", "127.0.0.0/24", "224.0.0.0/24")
        ),
        *(("network.pool", value) for value in ("10.0.0.0/7", "10.0.0.0/25", "169.254.0.0/16", "")),
        ("retire.old", "keep"),
        ("bake.seconds", 3601),
        *(("bake.max_error_ratio", value) for value in (-0.1, 1.1, "1%", True)),
        *(("bake.max_p99_ms", value) for value in (0, 300_001, "500ms")),
        *(("witness.rate", value) for value in (0, 1001)),
        *(("witness.connections", value) for value in (0, 51)),
        *(("rollback_floor", value) for value in ("v5", 1)),
        *(("hooks.pre_deploy.command", value) for value in ("", " ", "a\0", [], [""], [1], ["a\0"], 1, {})),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(path: str, value: object) -> None:
    words = refused(path, value)
    assert words.isprintable()
    assert len(words) < 200


@pytest.mark.parametrize(
    ("hook", "key", "value", "words"),
    [
        ("pre_build", "run", "image", "must be 'here', not 'image'"),
        ("on_failure", "run", "image", "must be 'here', not 'image'"),
        ("pre_build", "on", ["rollback"], "is not known"),
        ("pre_deploy", "run", "host", "must be 'here' or 'image', not 'host'"),
        ("pre_deploy", "on", [], "must not be empty"),
        ("pre_deploy", "on", ["deploy", "deploy"], "'deploy' is there twice"),
        ("pre_deploy", "timeout", "0s", "must be from 1s to 24h"),
    ],
)
def test_a_hook_is_refused_where_it_could_not_run(hook: str, key: str, value: object, words: str) -> None:
    (problem,) = problems(having(f"hooks.{hook}", {"command": "x", key: value}))
    assert problem.partition("[")[0].startswith(f"hooks.{hook}.{key}")
    assert words in problem


def test_a_hook_without_a_command_is_told_so_and_hooks_run_on_a_deploy_unless_told_otherwise() -> None:
    assert problems(having("hooks.pre_deploy", {"run": "image"})) == ["hooks.pre_deploy.command: is missing"]
    hooks = parse({**LEAST, "hooks": {name: {"command": "x"} for name in ("pre_deploy", "on_failure")}}).hooks
    assert hooks.of("pre_deploy", "deploy")
    assert hooks.of("pre_deploy", "rollback") is None, "no migration runs backwards by surprise"
    assert hooks.of("on_failure", "rollback"), "a rollback that fails is for everybody to hear of"
    assert hooks.of("post_switch", "deploy") is None


def test_the_file_that_was_read_is_known(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text('service = "shop"\n[app]\nport = 1\n')
    assert load(file).file == file
    assert parse(LEAST).file is None


@pytest.mark.parametrize("path", ["image.args", "app.env"])
@pytest.mark.parametrize("key", ["", "a b", "1a", "a=b", "a\n", "é", "a.b"])
def test_what_is_no_identifier_names_no_variable(path: str, key: str) -> None:
    (problem,) = problems(having(path, {key: "x"}))
    assert problem.startswith(f"{path}.")
    assert problem.isprintable()


def test_the_release_is_no_argument_to_be_set() -> None:
    assert problems(having("image.args", {"RELEASE": "v9"})) == [
        "image.args.RELEASE: is always given: it is the release that is built"
    ]


@pytest.mark.parametrize(
    ("subnet", "replicas", "fits"),
    [("10.0.0.0/28", 3, None), ("10.0.0.0/28", 4, 27), ("10.0.0.0/26", 50, 24)],
)
def test_a_subnet_has_room_for_both_colours_in_its_lower_half(
    subnet: str, replicas: int, fits: int | None
) -> None:
    data = {"service": "a", "app": {"port": 1, "replicas": replicas}, "network": {"subnet": subnet}}
    if fits is None:
        assert parse(data).network.subnet == subnet
        return
    assert problems(data) == [
        f"network.subnet: {subnet} is too small for {replicas} replicas a colour:"
        f" it must be /{fits} or larger"
    ]
    data["network"] = {"subnet": f"10.0.0.0/{fits}"}
    assert parse(data)


def test_limits_of_a_bake_need_time_and_requests() -> None:
    limits = {"max_error_ratio": 0, "max_p99_ms": 500}
    found = parse({**LEAST, "bake": limits}).bake
    assert (found.max_error_ratio, found.max_p99_ms, found.compares) == (0.0, 500.0, True)
    assert not parse(LEAST).bake.compares
    assert problems({**LEAST, "bake": {"seconds": 0, **limits}}) == [
        "bake.max_error_ratio: needs bake.seconds above 0: there is no time to compare in",
        "bake.max_p99_ms: needs bake.seconds above 0: there is no time to compare in",
    ]
    for key, value in limits.items():
        assert problems({**LEAST, "proxy": {"mode": "tcp"}, "bake": {key: value}}) == [
            f"bake.{key}: must be left out in tcp mode, in which nobody looks into connections"
        ]
    for witness in ({}, {"timeout": "10s"}):
        (problem,) = problems({**LEAST, "bake": {"max_p99_ms": 10_000}, "witness": witness})
        assert problem == "witness.timeout: must be longer than bake.max_p99_ms, or no answer could be slower than that"


def test_a_probe_has_the_time_for_its_successes() -> None:
    (problem,) = problems({**LEAST, "probe": {"interval": "30s", "successes": 3}})
    assert problem == "probe.timeout: 60s is too short: 3 tries that lie 30s apart take 60s at least"


# How problems are told


def test_every_problem_is_told_at_once() -> None:
    data = {
        "service": "Shop",
        "colour": "red",
        "app": {"port": "9000", "prot": 1, "replicas": 9, "env": {"KEY": 1}, "volumes": ["x"]},
        "proxy": {"listen": "localhost:80", "switch": "hard"},
        "probe": {"interval": "30s"},
        "network": {"subnet": "10.0.0.1/24"},
        "bake": 5,
    }
    found = problems(data)
    assert [problem.partition(":")[0] for problem in found] == [
        "service",
        "app.port",
        "app.env.KEY",
        "app.volumes[0]",
        "app.prot",
        "probe.timeout",
        "proxy.listen",
        "proxy.switch",
        "network.subnet",
        "bake",
        "colour",
    ]
    assert "app.port: must be a whole number, not '9000'" in found
    assert "proxy.switch: must be 'auto', 'reload' or 'live', not 'hard'" in found
    assert "bake: must be a table, not 5" in found


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("app.prot", "app.port"),
        ("proxi", "proxy"),
        ("witness.conections", "witness.connections"),
        ("retire.port", "app.port"),
        ("drain_timeout", "retire.drain_timeout"),
    ],
)
def test_an_unknown_key_gets_a_suggestion(path: str, suggestion: str) -> None:
    assert refused(path, 1) == f"is not known; did you mean {suggestion}?"


def test_an_unknown_key_like_no_other_gets_none() -> None:
    assert refused("app.zzz", 1) == "is not known"


def test_what_is_missing_is_named_even_without_its_table() -> None:
    assert problems({}) == ["service: is missing", "app.port: is missing"]


def test_a_service_that_cannot_name_a_repository_is_told_where_to_set_one() -> None:
    (problem,) = problems({"service": "shop_", "app": {"port": 1}})
    assert problem.startswith("image.repository: 'shop_' is not an image repository")
    assert parse({"service": "shop_", "app": {"port": 1}, "image": {"repository": "shop"}})


def test_the_value_of_a_variable_is_in_no_message_and_no_repr() -> None:
    for path in ("app.env", "image.args"):
        for value in ("s3cret\0", ["s3cret"], {"s3cret": 1}):
            assert "s3cret" not in "".join(problems(having(path, {"KEY": value})))
        assert "s3cret" not in repr(parse(having(path, {"KEY": "s3cret"})))


# Where they come from


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLUEGREEN_CONFIG", raising=False)
    return tmp_path


def test_the_option_goes_before_the_variable_and_the_variable_before_the_directory(
    away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "variable", "option"):
        (away / name).mkdir()
        (away / name / "bluegreen.toml").write_text(f'service = "{name}"\napp.port = 1\n')
    monkeypatch.chdir(away / "here")
    assert load().service == "here"
    monkeypatch.setenv("BLUEGREEN_CONFIG", "")
    assert load().service == "here"
    monkeypatch.setenv("BLUEGREEN_CONFIG", "../variable/bluegreen.toml")
    assert load().service == "variable"
    found = load(Path("../option/bluegreen.toml"))
    assert found.service == "option"
    assert found.root.samefile(away / "option")
    assert found.root.is_absolute()


def test_a_missing_file_is_named_and_init_suggested(away: Path) -> None:
    for path, name in ((None, "bluegreen.toml"), (away / "no.toml", str(away / "no.toml"))):
        with pytest.raises(SettingsError) as caught:
            load(path)
        assert caught.value.message == f"there is no settings file {name}"
        assert "bluegreen init" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'service = "a"\nport = = 1\n', "line 2"),
        (b"a = 1\na = 2\n", "line 2"),
        (b'service = "a"\n\n# \xff\n', "not UTF-8 (at line 3)"),
        (b'a = "\x1b[2J"\n', "line 1"),
        (b"a = " + 5000 * b"9", "digits"),
        (b"a = " + 5000 * b"[", "nested too deeply"),
        (b"", "app.port: is missing"),
    ],
)
def test_a_broken_file_is_refused_with_the_line(away: Path, content: bytes, words: str) -> None:
    (away / "bluegreen.toml").write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load()
    assert words in caught.value.message
    assert caught.value.message.replace("\n", "").isprintable()


def test_what_is_no_file_is_refused(away: Path) -> None:
    for path in (away, away / "a" / "\0", away / (300 * "a")):
        with pytest.raises(SettingsError):
            load(path)


def test_a_byte_order_mark_does_no_harm(away: Path) -> None:
    (away / "bluegreen.toml").write_text('\ufeffservice = "a"\napp.port = 1\n')
    assert load().service == "a"


# The file that init writes


def uncommented(text: str) -> str:
    return re.sub(r"^#(?=[\w\[])", "", text, flags=re.MULTILINE)


def keys(model: type[subject.Table]) -> Iterator[str]:
    for key in model.model_fields:
        inner = table(model, key)
        if inner:
            yield from (f"{key}.{name}" for name in keys(inner))
        else:
            yield key


def own_keys(model: type[subject.Table]) -> Iterator[tuple[str, str]]:
    """Each key with the kind of its table, of which several tables may be."""
    for key in model.model_fields:
        inner = table(model, key)
        if inner:
            yield from own_keys(inner)
        else:
            yield model.__name__, key


def table(model: type[subject.Table], key: str) -> type[subject.Table] | None:
    """The table that this key holds, if it holds one."""
    annotation = model.model_fields[key].annotation
    if get_origin(annotation) is dict:  # of tables, under names of the file's own
        return None
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, subject.Table)), None)


def written(data: dict[str, Any], model: type[subject.Table] = Settings) -> Iterator[str]:
    """The path of each key of the file."""
    for key, value in data.items():
        inner = table(model, key)
        if inner:
            yield from (f"{key}.{name}" for name in written(first(value), inner))
        else:
            yield key


def first(value: Any) -> Any:
    """The table, of a list of tables the first."""
    return value[0] if isinstance(value, list | tuple) and value else value


def full_example() -> dict[str, Any]:
    """Every key of the example, with the kind that takes every one."""
    data = tomllib.loads(uncommented(example("shop")))
    assert data["proxy"]["kind"] == "nginx"
    data["proxy"]["kind"] = "haproxy"
    return data


def test_the_example_is_valid_as_it_is_and_says_no_more_than_the_defaults() -> None:
    assert parse(tomllib.loads(example("shop"))) == parse({"service": "shop", "app": {"port": 8000}})


def test_the_example_is_valid_with_every_key_and_names_every_key() -> None:
    data = full_example()
    assert parse(data)
    # One of uid and user; and in TOML, a table stands behind the keys of the one around it.
    assert sorted([*written(data), "proxy.haproxy.uid"]) == sorted(keys(Settings))


def test_the_example_shows_each_default_as_it_is() -> None:
    every, default = parse(full_example()), parse(LEAST)
    for path in keys(Settings):
        shown: Any = every
        value: Any = default
        for key in path.split("."):
            # By default there is no TLS, no load balancer, and no hook.
            shown, value = getattr(first(shown), key), getattr(value, key, None)
        if value and path not in ("app.port", "proxy.kind"):
            assert shown == value, path


@pytest.mark.parametrize("service", ["", "Shop", 'a"\nb = 1', "../a"])
def test_no_example_is_written_for_an_impossible_service(service: str) -> None:
    with pytest.raises(UsageError):
        example(service)


# What is made of them


@pytest.mark.parametrize(
    ("body", "release", "expected"),
    [
        (None, "v2", None),
        ("version {number}", "v2", "version 2"),
        ("version {number}", "v2.0-rc1", "version 2.0-rc1"),
        ("version {number}", "2", "version 2"),
        ("{release} {number}\n", "v12", "v12 12"),
        ("ok", "v1", "ok"),
    ],
)
def test_the_expected_body_tells_the_release(body: str | None, release: str, expected: str | None) -> None:
    data = having("probe.body", body) if body else LEAST
    assert parse(data).expected_body(Release(release)) == expected


def test_the_hash_follows_what_decides_how_a_release_runs_and_is_routed() -> None:
    before = parse(LEAST).hash
    assert re.fullmatch("[0-9a-f]{12}", before)
    for path, value in (
        ("image.repository", "other"),
        ("app.replicas", 2),
        ("app.env", {"A": "1"}),
        ("app.memory", "1g"),
        ("probe.path", "/health"),
        ("proxy.hosts", ["a.com"]),
        ("network.subnet", "10.0.0.0/24"),
        ("rollback_floor", True),
    ):
        assert parse(having(path, value)).hash != before, path


def test_an_image_is_its_repository_with_the_release_as_its_tag() -> None:
    found = parse(having("image.repository", "example.com:5000/shop"))
    assert found.reference(Release("v2")) == "example.com:5000/shop:v2"


def test_the_hash_follows_nothing_else() -> None:
    before = parse(LEAST).hash
    for path, value in (
        ("image.context", "app"),
        ("retire.old", "standby"),
        ("bake.seconds", 60),
        ("bake.max_error_ratio", 0.5),
        ("witness.rate", 1),
        ("app.stop_timeout", "35s"),
        ("image.repository", "shop"),
        ("proxy.url", "http://127.0.0.1:8080"),
        ("rollback_floor", False),
        ("hooks.pre_deploy.command", "./migrate"),
    ):
        assert parse(having(path, value)).hash == before, path
    one = parse(having("app.env", {"A": "1", "B": "2"}))
    assert one.hash == parse(having("app.env", {"B": "2", "A": "1"})).hash


def test_the_hash_is_that_of_earlier_versions_for_the_same_content() -> None:
    least = {"service": "s", "app": {"port": 9000}}
    assert parse(least).hash == "d6708246a006"
    assert parse({**least, "proxy": {"haproxy": {}}, "probe": {}}).hash == "d6708246a006"
    swarm = {**least, "runtime": "swarm", "registry": {"server": "a.b:5000"}}
    assert parse(swarm).hash == "b60a4a2bca65"


def test_settings_do_not_change() -> None:
    found = parse(LEAST)
    for part, key in ((found, "service"), (found.app, "port"), (found.proxy, "new")):
        with pytest.raises(ValueError, match=r"frozen|no field"):
            setattr(part, key, 1)


def test_the_schema_describes_every_key_and_has_no_null() -> None:
    found = schema()
    json.dumps(found)
    assert found["required"] == ["service", "app"]
    assert "null" not in json.dumps(found)
    tables = found["$defs"].values()
    for table in (found, *tables):
        assert table["additionalProperties"] is False
        assert table["description"]
        for key, field in table["properties"].items():
            assert "description" in field or "$ref" in field, key
    assert sum(
        "$ref" not in field for table in (found, *tables) for field in table["properties"].values()
    ) == len(set(own_keys(Settings))) + len(["proxy.static"]) + sum(
        len(table.model_fields) for table in (subject.SecretTable, subject.EngineTable)
    )


# Release names


@pytest.mark.parametrize("name", ["v1", "2", "_", "v1.2.3-rc_1", "Latest", 128 * "a"])
def test_a_tag_is_a_release_name(name: str) -> None:
    assert check_release_name(name) == name


@pytest.mark.parametrize(
    "name", ["v2;x", "../v2", "", 200 * "a", "v2\n}", "v2\n", ".a", "-a", "v 2", "ü", "\x1b[2J", "a/b"]
)
def test_what_no_tag_can_be_is_no_release_name(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_release_name(name)
    assert caught.value.exit_code == 2
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 80


# Durations and sizes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("200ms", 0.2), ("2s", 2), ("5m", 300), ("1h", 3600), ("1.5s", 1.5), (7, 7), (0.25, 0.25), ("0.5m", 30)],
)
def test_a_duration_becomes_seconds(text: object, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "5",
        "s",
        "1 s",
        "1d",
        "-1s",
        "1s\n",
        "٣s",
        "1e3s",
        ".5s",
        "1m30s",
        True,
        None,
        [],
        float("nan"),
        10**400,
    ],
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration(value)


@pytest.mark.parametrize(
    ("path", "least", "below", "most", "above"),
    [
        ("retire.drain_timeout", "1s", "999ms", "1h", "61m"),
        ("probe.interval", "10ms", "9ms", "20s", "61s"),
        ("probe.timeout", "500ms", "99ms", "1h", 3601),
        ("proxy.read_timeout", "1s", 0, "24h", "25h"),
        ("app.stop_timeout", "1s", -1, "1h", "2h"),
        ("witness.timeout", "100ms", "0s", "5m", "6m"),
    ],
)
def test_a_duration_has_its_bounds(
    path: str, least: object, below: object, most: object, above: object
) -> None:
    assert at(path, least) < at(path, most)
    assert refused(path, below).startswith("must be from")
    assert refused(path, above).startswith("must be from")


@patient(80)
@given(st.integers(1, 10**9 - 1), st.sampled_from(["ms", "s", "m", "h"]))
def test_any_number_with_a_unit_is_that_many(number: int, unit: str) -> None:
    factor = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]
    assert duration(f"{number}{unit}") == pytest.approx(number * factor)


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("7", 7), ("2k", 2048), ("100m", 104857600), ("1g", 1 << 30)]
)
def test_a_size_is_its_text_and_knows_its_bytes(text: str, count: int) -> None:
    found = at("proxy.max_body", text)
    assert isinstance(found, Size)
    assert (found, found.bytes) == (text, count)


# Whatever is thrown at them

RENDERED = [
    ("service", "shop"),
    ("image.repository", "shop"),
    ("probe.path", "/version"),
    ("probe.host", "example.com"),
    ("proxy.kind", "nginx"),
    ("proxy.listen", "127.0.0.1:80"),
    ("proxy.url", "http://example.com"),
    ("proxy.hosts", "example.com"),
    ("proxy.where", "container"),
    ("proxy.image", "nginx:stable"),
    ("proxy.switch", "auto"),
    ("proxy.max_body", "100m"),
    ("proxy.read_timeout", "60s"),
    ("proxy.balance", "hdr(X-User)"),
    ("proxy.balance", "url_param user"),
    ("proxy.haproxy.log", "127.0.0.1:514 local0 info"),
    ("proxy.haproxy.log", "/dev/log daemon"),
    ("proxy.haproxy.log_send_hostname", "lb1"),
    ("proxy.haproxy.user", "haproxy"),
    ("proxy.haproxy.node", "lb1"),
    ("proxy.haproxy.httpchk", "/health"),
    ("proxy.haproxy.timeouts.connect", "2s"),
    ("proxy.haproxy.check.inter", "1s"),
    ("proxy.haproxy.server.cookie_prefix", "portal_"),
    ("proxy.haproxy.cookie.name", "SERVERID"),
    ("proxy.haproxy.cookie.mode", "insert"),
    ("proxy.haproxy.cookie.domain", "example.com"),
    ("proxy.haproxy.cookie.maxlife", "1h"),
    ("app.networks", "shop"),
    ("app.user", "app"),
    ("network.subnet", "10.0.0.0/24"),
    ("network.pool", "10.0.0.0/16"),
]


@contextlib.contextmanager
def refusal_in_words() -> Iterator[None]:
    """Lets pass what is refused as it should be, in words that print."""
    try:
        yield
    except (SettingsError, UsageError) as error:
        if not error.message.replace("\n", "").isprintable():
            raise


def hostile_in(found: object) -> set[str]:
    """The hostile characters in a value; a percent sign may stand before two hexadecimal digits."""
    text = re.sub("%[0-9A-Fa-f]{2}", "", "".join(found) if isinstance(found, tuple) else str(found))
    if re.fullmatch(r"hdr\([A-Za-z0-9-]+\)|url_param [A-Za-z0-9_.-]+|uri( (len|depth) [0-9]+)*", text):
        return set()
    if re.fullmatch(r"[0-9a-z/.:\[\]-]+ [a-z0-9]+( [a-z]+)?", text):  # a log target
        return set()
    return {char for char in text if char in HOSTILE or not char.isascii()}


def in_list(path: str, value: str) -> object:
    return [value] if path in ("proxy.hosts", "app.networks", "proxy.haproxy.log") else value


@pytest.mark.parametrize(("path", "right"), RENDERED)
def test_a_hostile_character_is_refused_wherever_it_stands(path: str, right: str) -> None:
    assert at(path, in_list(path, right))
    for char in HOSTILE.replace("%", ""):
        for value in (right + char, char + right, right[:3] + char + right[3:], right + char + right):
            assert refused(path, in_list(path, value)).isprintable()


Where = tuple[str | int, ...]


def strings(data: dict[str, Any], above: Where = ()) -> Iterator[tuple[Where, str]]:
    """Every string of the tables, and of the lists in them, with its path."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from strings(value, (*above, key))
        elif isinstance(first(value), dict):
            yield from strings(first(value), (*above, key, 0))
        elif isinstance(value, str):
            yield (*above, key), value
        elif isinstance(value, list):
            yield from (((*above, key), item) for item in value)


FULL = full_example()
FILES = [f"proxy.tls.{key}" for key in ("certificate", "key", "ca")]
"""Files of this machine, which the proxy never gets the names of."""
ELSEWHERE = (*FILES, "proxy.logging.options")
"""What stands in no file of the proxy; the latter is the engine's."""
PROXY_STRINGS = [
    (path, text)
    for path, text in strings(FULL["proxy"], ("proxy",))
    if not dotted(path).startswith(ELSEWHERE)
]
HOSTILE_TEXTS = ["{{ 7*7 }}", "{% raw %}", "\n  server x 192.0.2.1:80", ";\n}", "$host", "${HOME}", " #", " if TRUE"]


def test_every_string_option_is_among_those_that_are_tried() -> None:
    tried = {".".join(key for key in path if isinstance(key, str)) for path, _ in PROXY_STRINGS}
    assert {"proxy.haproxy.stats.password", "proxy.haproxy.cookie.domain", "proxy.haproxy.timeouts.check"} <= tried
    silent = {key for key in keys(Settings) if key.startswith("proxy.")} - tried
    data = parse(full_example()).model_dump()
    for path in silent - {"proxy.haproxy.uid", *ELSEWHERE}:
        value: Any = data
        for key in path.split("."):
            value = first(value)[key]
        assert isinstance(value, bool | int | float), path


def replaced(part: Any, path: Where, value: str) -> Any:
    """`part` with this value at the path, in a list if one stood there; what is beside the path is shared."""
    if not path:
        return [value] if isinstance(part, list) else value
    found = copy.copy(part)
    found[path[0]] = replaced(part[path[0]], path[1:], value)
    return found


@pytest.mark.parametrize(("path", "right"), PROXY_STRINGS)
def test_no_hostile_value_gets_into_a_proxys_file(path: Where, right: str) -> None:
    where, whole = dotted(path), {key: FULL[key] for key in ("service", "app", "proxy")}
    texts = [*HOSTILE_TEXTS, *HOSTILE.replace("$", "").replace("%", "")]
    for hostile in texts:
        for value in (right + hostile, hostile + right, right[:3] + hostile + right[3:]):
            data = replaced(whole, path, value)
            assert any(problem.startswith(where) for problem in problems(data)), (value, problems(data))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("proxy.balance", "uri len 20"),
        ("proxy.balance", "uri depth 3"),
        ("proxy.balance", "uri len 20 depth 3"),
        ("proxy.balance", "url_param a-b"),
        ("proxy.balance", "ip_hash"),
        ("proxy.balance", "hdr()"),
        ("proxy.listen", "web;farm 10.101.22.76:80"),
        ("proxy.haproxy.log", ["127.0.0.1:514"]),
        ("proxy.haproxy.log", ["loghost:514 local0"]),
        ("proxy.haproxy.log", ["stdout local9"]),
        ("proxy.haproxy.log", ["stdout local0 loud"]),
        ("proxy.haproxy.log_send_hostname", 1),
        ("proxy.haproxy.uid", 0),
        ("proxy.haproxy.httpchk", "health"),
        ("proxy.haproxy.httpchk", 1),
        ("proxy.haproxy.maxconn", 0),
        ("proxy.haproxy.forwardfor", "yes"),
        ("proxy.haproxy.check.inter", 9),
        ("proxy.haproxy.check.inter", True),
        ("proxy.haproxy.timeouts.connect", 0),
        ("proxy.haproxy.server.weight", 257),
        ("proxy.haproxy.cookie.mode", "passive"),
        ("proxy.haproxy.stats.bind", "127.0.0.1:8079"),
        ("proxy.haproxy.stats.uri", "/admin"),
        ("proxy.haproxy.stats.user", "admin"),
        ("proxy.haproxy.stats.password", "secret"),
    ],
)
def test_what_a_proxy_would_not_take_is_refused(path: str, value: object) -> None:
    try:
        refused(path, value)
    except AssertionError:
        # What is missing beside it is told with its own path.
        (problem,) = problems(having(path, value))
        assert problem.startswith("proxy.haproxy.stats.password: is missing")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("proxy.listen", "webfarm 10.101.22.76:80", "10.101.22.76:80"),
        ("proxy.balance", "url_param user_id", "url_param user_id"),
        ("proxy.haproxy.check.inter", 1000, 1.0),
        ("proxy.haproxy.check.inter", "1s", 1.0),
        ("proxy.haproxy.log", ["stdout local0 info"], ("stdout local0 info",)),
        ("proxy.haproxy.log_send_hostname", True, True),
        ("proxy.haproxy.httpchk", "/health", "/health"),
        ("proxy.haproxy.timeouts.connect", 1, 1.0),
    ],
)
def test_haproxys_ways_to_say_it_are_taken(path: str, value: object, expected: object) -> None:
    assert at(path, value) == expected


def test_haproxys_own_options_are_refused_with_nginx_and_its_limits_of_uri_are_not_with_haproxy() -> None:
    (problem,) = problems({**LEAST, "proxy": {"haproxy": {"check": {"rise": 2}}}})
    assert problem == "proxy.haproxy: goes with proxy.kind = 'haproxy' only, not with 'nginx'"
    assert parse({**LEAST, "proxy": {"haproxy": {"check": {}}}}) == parse(LEAST)
    assert parse({**LEAST, "proxy": {"kind": "haproxy", "balance": "uri len 20 depth 3"}})


def test_the_page_of_statistics_is_never_open_to_the_world() -> None:
    hashed = "$6$saltsalt$" + 86 * "a"
    for stats, key in (
        ({"uri": "/admin"}, "uri"),
        ({"uri": "/admin", "bind": "0.0.0.0:8404"}, "uri"),
        ({"uri": "/admin", "bind": "192.0.2.1:8404", "user": "admin"}, "password"),
        ({"uri": "/admin", "bind": "127.0.0.1:8404", "password": hashed}, "user"),
    ):
        (problem,) = problems(having("proxy.haproxy.stats", stats))
        assert problem.startswith(f"proxy.haproxy.stats.{key}: ")
        assert hashed not in problem
    for stats in (
        {"uri": "/admin", "bind": "[::1]:8404"},
        {"uri": "/admin", "user": "admin", "password": hashed},
        {"uri": "/admin", "bind": "0.0.0.0:8404", "user": "admin", "password": hashed},
    ):
        found = parse(having("proxy.haproxy.stats", stats))
        assert hashed not in repr(found)


def test_a_cookies_attributes_go_with_insert_only_and_one_user_is_enough() -> None:
    for mode in ("rewrite", "prefix"):
        (problem,) = problems(having("proxy.haproxy.cookie", {"name": "A", "mode": mode, "secure": True}))
        assert problem == "proxy.haproxy.cookie.secure: goes with mode = 'insert' only"
    (problem,) = problems(having("proxy.haproxy", {"uid": 99, "user": "haproxy"}))
    assert problem.startswith("proxy.haproxy.uid: ")


@pytest.mark.parametrize(("path", "right"), RENDERED)
def test_template_and_proxy_syntax_is_refused(path: str, right: str) -> None:
    for hostile in ("{{ 7*7 }}", "{% raw %}", "a;\n}", "${x}", "$host", "~^a", "a\0", "a b"):
        for value in (hostile, right + hostile):
            assert refused(path, in_list(path, value))


@patient(300)
@given(
    st.sampled_from(RENDERED),
    st.text(st.sampled_from(HOSTILE + string.ascii_letters + "0123456789.-_:/*[]@~") | st.characters()),
    st.integers(0, 20),
    st.booleans(),
)
def test_no_string_that_is_rendered_holds_a_hostile_character(
    field: tuple[str, str], noise: str, place: int, alone: bool
) -> None:
    path, right = field
    value = noise if alone else right[:place] + noise + right[place:]
    with refusal_in_words():
        found = at(path, in_list(path, value))
        assert not hostile_in(found) - hostile_in(right), "but what a right one has, as a space between two words"


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.datetimes()
    | st.dates()
    | st.times()
    | st.sampled_from(["1s", "/a", "shop", "10.0.0.0/24", "127.0.0.1:80", "{release}", 10**4000, -(10**4000)])
)
WORDS = st.sampled_from(["KEY", "a", "", "a\n", *keys(Settings)]) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=3,
)
TABLES = {
    name: st.dictionaries(st.sampled_from(list(field.annotation.model_fields)) | WORDS, VALUES, max_size=4)
    | VALUES
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, subject.Table)
}


@patient(80)
@given(
    st.fixed_dictionaries({}, optional={"service": st.just("shop") | VALUES, **TABLES}),
    st.dictionaries(WORDS, VALUES, max_size=2),
)
def test_any_table_is_settings_or_a_settings_error(data: dict[str, Any], more: dict[str, Any]) -> None:
    with refusal_in_words():
        found = parse(more | data)
        assert found.hash
        assert repr(found)


@patient(200)
@given(st.text())
def test_any_release_name_is_a_tag_or_a_usage_error(name: str) -> None:
    with refusal_in_words():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", check_release_name(name))


def test_deep_nesting_is_a_settings_error() -> None:
    deep: Any = 1
    for _ in range(3000):
        deep = {"a": deep}
    for path in ("app", "service", "x", "app.env", "image.args"):
        assert problems(having(path, deep))


@pytest.mark.parametrize(
    ("secret", "where", "words"),
    [
        ({}, "", "must name one place: env, file or gitlab"),
        ({"env": "A", "file": "a"}, "", "must name one place: env, file or gitlab"),
        ({"env": "a b"}, ".env", "'a b' is not a name of letters, digits and _"),
        ({"env": "A", "as": "label"}, ".as", "must be 'file' or 'env'"),
        ({"flie": "a", "env": "A"}, ".flie", "is not known; did you mean app.secrets.PASSWORD.file?"),
        ({"env": "A", "ass": "env"}, ".ass", "is not known; did you mean app.secrets.PASSWORD.as?"),
    ],
)
def test_a_secret_is_found_in_one_place(secret: dict[str, str], where: str, words: str) -> None:
    (problem,) = problems(having("app.secrets", {"PASSWORD": secret}))
    assert problem.replace('"', "'") == f"app.secrets.PASSWORD{where}: {words}"


def test_a_value_that_is_written_where_its_place_belongs_is_in_no_message() -> None:
    assert problems(having("app.secrets", {"PASSWORD": "hunter2"})) == ["app.secrets.PASSWORD: must be a table"]


def test_secrets_have_their_directory_and_their_names_for_themselves() -> None:
    secrets = {"PASSWORD": {"env": "PASSWORD"}}
    for key, value in (("volumes", ["data:/run/secrets"]), ("tmpfs", ["/run/secrets:exec"])):
        (problem,) = problems(having("app", {"port": 1, "secrets": secrets, key: value}))
        assert problem.startswith("app.secrets: need /run/secrets for themselves")
    named = {"PASSWORD": {"env": "PASSWORD", "as": "env"}}
    (problem,) = problems(having("app", {"port": 1, "secrets": named, "env": {"PASSWORD": "x"}}))
    assert problem == "app.secrets: PASSWORD is in app.env, too"
    assert parse(having("app", {"port": 1, "secrets": named, "volumes": ["data:/run/secrets"]}))


def test_where_a_volume_stands_there_is_no_directory_in_memory() -> None:
    assert parse(LEAST).app.mounted_tmpfs == {"/tmp": ""}
    app = {"port": 1, "tmpfs": ["/tmp", "/run:size=1m,exec"], "volumes": ["scratch:/tmp"]}
    assert parse(having("app", app)).app.mounted_tmpfs == {"/run": "size=1m,exec"}


def test_a_log_is_rotated_where_it_is_written_to_the_engines_disk() -> None:
    for logging, wanted in (
        ({}, {"max-size": "10m", "max-file": "3"}),
        ({"driver": "local", "options": {"max-file": "9"}}, {"max-size": "10m", "max-file": "9"}),
        ({"driver": "journald", "options": {"tag": "shop"}}, {"tag": "shop"}),
        ({"driver": "fluentd", "options": {"tag": "shop"}}, {"fluentd-async": "true", "tag": "shop"}),
        ({"driver": "fluentd", "options": {"fluentd-async": "false"}}, {"fluentd-async": "false"}),
    ):
        assert parse(having("app.logging", logging)).app.logging.wanted == wanted


def test_what_loosens_the_confinement_changes_the_hash() -> None:
    before = parse(LEAST).hash
    for key, value in (
        ("read_only", False),
        ("tmpfs", []),
        ("cap_add", ["CHOWN"]),
        ("no_new_privileges", False),
        ("pids_limit", 0),
        ("init", True),
        ("restart", "unless-stopped"),
        ("user", "root"),
        ("logging", {"driver": "local"}),
        ("secrets", {"A": {"env": "A"}}),
    ):
        assert parse(having(f"app.{key}", value)).hash != before, key


def test_a_release_is_what_a_body_is_filled_with() -> None:
    release = dataclasses.replace(Release("v{number}"), digest="sha256:1")
    assert parse(having("probe.body", "{release}")).expected_body(release) == "v{number}"


@pytest.mark.parametrize("key", ["webhook", "slack"])
@pytest.mark.parametrize("value", ["", "secret", "ftp://secret/", "http:///secret", "http://a.test/secret x", 7])
def test_an_address_that_may_be_a_secret_is_not_shown(key: str, value: object) -> None:
    words = refused(f"notify.{key}", value)
    assert words in ("must be a string", 'is not an address such as "https://chat.example.com/hooks/abc"')


def test_who_is_told_does_not_change_what_a_release_is() -> None:
    assert parse(having("notify.slack", "https://a.test/b")).hash == parse(LEAST).hash
    assert refused("notify.on", ["sometimes"]).startswith("must be 'done', 'undone' or 'failed'")
    assert "is there twice" in refused("notify.on", ["done", "done"])


def test_the_figures_go_to_a_database_or_to_a_bucket() -> None:
    assert at("metrics.database", "fluentdb") == "fluentdb"
    assert refused("metrics.org", "example") == "goes with metrics.bucket only"
    assert parse(having("metrics", {"bucket": "b", "org": "example"})).metrics.org == "example"
    for name in ('a"', "a;b", "", " a", "a\n"):
        assert "is not the name of a database" in refused("metrics.database", name)
    assert "is not a file whose name ends" in refused("metrics.textfile", "/var/lib/shop.txt")
    assert parse(having("metrics.influxdb", "http://a")).hash == parse(LEAST).hash
