"""Whatever is asked for, Ruby takes the gitlab.rb that is rendered, and reads in it what was asked for."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import FULL, PREFIX
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bluegreen.gitlab_server import Server

EXAMPLES = int(os.environ.get("RENDERED_EXAMPLES", "100" if FULL else "20"))

RUBY = r"""
require 'json'
require 'open3'

# Stands where GitLab evaluates the file: a call with a value is kept, one without gives the table of that name.
class Recorder < BasicObject
  def said = @said ||= {}

  def method_missing(name, *values)
    values.empty? ? (said[name.to_s] ||= {}) : said[name.to_s] = values.first
  end
end

$stdout.sync = true
while (line = $stdin.gets)
  text = JSON.parse(line).first
  words, = Open3.capture2e('ruby', '-wc', stdin_data: text)
  recorder = Recorder.new
  recorder.instance_eval(text)
  puts JSON.generate([words, recorder.said])
end
"""

Read = Callable[[str], tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def read(engine: Any) -> Iterator[Read]:
    """What `ruby -wc` says of a file, and the values that the file sets."""
    container = ["docker", "run", "--rm", "-i", "--label", f"bluegreen.test={PREFIX}", "--network", "none"]
    ruby = subprocess.Popen(
        [*container, "ruby:3.3-slim", "ruby", "-e", RUBY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert ruby.stdin
    assert ruby.stdout

    def ask(text: str) -> tuple[str, dict[str, Any]]:
        assert ruby.stdin
        assert ruby.stdout
        print(json.dumps([text]), file=ruby.stdin, flush=True)
        words, values = json.loads(ruby.stdout.readline())
        return words, values

    yield ask
    ruby.stdin.close()
    ruby.wait(30)
    ruby.stdout.close()


LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
NAMES = st.builds("{}.{}.example".format, LABELS, LABELS)
ADDRESSES = st.ip_addresses(v=4).map(str)
PATHS = st.from_regex(r"(/[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]{0,12}){1,4}", fullmatch=True).filter(
    lambda path: not path.endswith("/repositories")
)
PORTS = st.integers(1, 65535).filter(lambda port: port not in (80, 443, 5000, 8080))
VERSIONS = st.builds("{}.{}".format, st.integers(13, 25), st.integers(0, 11)) | st.sampled_from(["17.11.7", "18.5.0"])


@st.composite
def servers(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of a server, and what its gitlab.rb must set."""
    tls = draw(st.booleans())
    port, redirect_port, registry_port = draw(st.lists(PORTS, min_size=3, max_size=3, unique=True))
    domain, version = draw(NAMES | ADDRESSES), draw(VERSIONS)
    options: dict[str, Any] = {"domain": domain, "gitlab_version": version, "https": tls}
    scheme = "https" if tls else "http"
    own_port = draw(st.sampled_from([None, 443 if tls else 80, port]))
    options["port"] = own_port
    wanted: dict[str, Any] = {"external_url": f"{scheme}://{domain}{f':{port}' if own_port == port else ''}"}
    certificate = {
        "ssl_certificate": f"/etc/gitlab/ssl/{domain}.crt",
        "ssl_certificate_key": f"/etc/gitlab/ssl/{domain}.key",
    }
    if tls:
        if draw(st.booleans()):
            options["certificate"], options["key"] = draw(PATHS), draw(PATHS)
            certificate = {"ssl_certificate": options["certificate"], "ssl_certificate_key": options["key"]}
        wanted["letsencrypt"] = {"enabled": False}
        wanted["nginx"] = {**certificate, "redirect_http_to_https": True, "redirect_http_to_https_port": 80}
        match draw(st.sampled_from(["", "none", "port"])):
            case "none":
                options["redirect"] = False
                wanted["nginx"] = {**certificate, "redirect_http_to_https": False}
            case "port":
                options["redirect_port"] = redirect_port
                wanted["nginx"]["redirect_http_to_https_port"] = redirect_port
    if draw(st.booleans()):
        data = options["data_directory"] = draw(PATHS)
        if int(version.partition(".")[0]) < 18:
            wanted["git_data_dirs"] = {"default": {"path": data}}
        else:
            storage = [{"name": "default", "path": f"{data}/repositories"}]
            wanted["gitaly"] = {"configuration": {"storage": storage}}
    if draw(st.booleans()):
        options["registry_port"] = registry_port
        plain = options["http_registry"] = draw(st.booleans())
        wanted["registry_external_url"] = f"{'http' if plain or not tls else 'https'}://{domain}:{registry_port}"
        if tls and not plain:
            wanted["registry_nginx"] = certificate
        if draw(st.booleans()):
            options["registry_directory"] = draw(PATHS)
            wanted["gitlab_rails"] = {"registry_path": options["registry_directory"]}
    return options, wanted


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(drawn=servers())
def test_ruby_reads_in_it_exactly_what_was_asked_for(read: Read, drawn: tuple[dict[str, Any], dict[str, Any]]) -> None:
    options, wanted = drawn
    assert read(Server(**options).render()) == ("Syntax OK\n", wanted)
