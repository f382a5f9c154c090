"""gitlab.rb: the form that a version wants, and what is refused. Ruby reads it in tests/integration."""

from __future__ import annotations

from typing import Any

import pytest

from bluegreen.errors import UsageError
from bluegreen.gitlab_server import Server


def lines(**options: Any) -> list[str]:
    """The rendered lines that say something."""
    rendered = Server(**{"domain": "gitlab.example.com", **options}).render()
    return [line for line in rendered.splitlines() if line and not line.startswith("#")]


def test_a_domain_is_served_by_https_to_which_http_is_redirected() -> None:
    assert lines() == [
        "external_url 'https://gitlab.example.com'",
        "nginx['ssl_certificate'] = '/etc/gitlab/ssl/gitlab.example.com.crt'",
        "nginx['ssl_certificate_key'] = '/etc/gitlab/ssl/gitlab.example.com.key'",
        "letsencrypt['enabled'] = false",
        "nginx['redirect_http_to_https'] = true",
        "nginx['redirect_http_to_https_port'] = 80",
    ]


def test_an_address_is_served_by_plain_http_and_so_is_its_registry() -> None:
    assert lines(domain="192.168.0.10", registry_port=8001) == [
        "external_url 'http://192.168.0.10'",
        "registry_external_url 'http://192.168.0.10:8001'",
    ]


@pytest.mark.parametrize("version", ["13.0", "16.11.10", "17.11"])
def test_before_18_git_data_is_moved_by_git_data_dirs(version: str) -> None:
    rendered = lines(gitlab_version=version, data_directory="/data/gitlab_data")
    assert rendered[-1] == "git_data_dirs({ 'default' => { 'path' => '/data/gitlab_data' } })"
    assert not any("gitaly" in line for line in rendered)


@pytest.mark.parametrize("version", ["18.0", "18.5", "19.2.1"])
def test_from_18_on_by_gitalys_own_configuration_to_the_same_place(version: str) -> None:
    rendered = lines(gitlab_version=version, data_directory="/data/gitlab_data")
    assert "    { name: 'default', path: '/data/gitlab_data/repositories' }," in rendered
    assert not any("git_data_dirs" in line for line in rendered)


def test_the_registry_has_a_port_of_its_own_and_gitlabs_certificate() -> None:
    rendered = lines(registry_port=8001, certificate="/tls/a.crt", key="/tls/a.key", registry_directory="/data/images")
    assert rendered[-4:] == [
        "registry_external_url 'https://gitlab.example.com:8001'",
        "registry_nginx['ssl_certificate'] = '/tls/a.crt'",
        "registry_nginx['ssl_certificate_key'] = '/tls/a.key'",
        "gitlab_rails['registry_path'] = '/data/images'",
    ]


def test_a_registry_of_plain_http_comes_with_what_the_engines_must_be_told() -> None:
    rendered = Server(domain="gitlab.example.com", registry_port=8001, http_registry=True).render()
    assert "registry_external_url 'http://gitlab.example.com:8001'\n" in rendered
    assert '{ "insecure-registries": ["gitlab.example.com:8001"] }' in rendered
    assert "registry_nginx" not in rendered


HOSTILE = ["a'b", 'a"b', "a\nb", "a\n", "a#{`id`}", "a\\", "a\0", "a b", "", "ü", "a;b", "a`id`", "=begin", "'+`id`+'"]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "option", ["domain", "gitlab-version", "certificate", "key", "data-directory", "registry-directory"]
)
def test_text_that_ruby_might_read_as_more_than_text_is_refused(option: str, value: str) -> None:
    options: dict[str, Any] = {"domain": "gitlab.example.com", "registry_port": 8001}
    for text in {value, "/" + value} if value else {value}:
        with pytest.raises(UsageError) as refused:
            Server(**{**options, option.replace("-", "_"): text})
        assert f"--{option}: " in refused.value.message
        assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"domain": "gitlab_1.example.com"}, "--domain: "),
        ({"domain": "-a.example.com"}, "--domain: "),
        ({"domain": "a..b"}, "--domain: "),
        ({"domain": "https://a"}, "--domain: "),
        ({"domain": "192.168.0.256"}, "--domain: "),
        ({"domain": "::1"}, "--domain: "),
        ({"domain": "a." * 130 + "a"}, "--domain: "),
        ({"gitlab_version": "18"}, "--gitlab-version: "),
        ({"gitlab_version": "12.9"}, "--gitlab-version: "),
        ({"gitlab_version": "18.5.0.1"}, "--gitlab-version: "),
        ({"data_directory": "data"}, "--data-directory: "),
        ({"data_directory": "/"}, "--data-directory: "),
        ({"data_directory": "/data/"}, "--data-directory: "),
        ({"data_directory": "/data/../etc"}, "--data-directory: "),
        ({"data_directory": "/data/./x"}, "--data-directory: "),
        ({"data_directory": "/data/git-data/repositories"}, "--data-directory: is the directory in which"),
        ({"certificate": "/tls/a.crt"}, "--key: goes with --certificate"),
        ({"key": "/tls/a.key"}, "--key: goes with --certificate"),
        ({"https": False, "certificate": "/a", "key": "/b"}, "--certificate: goes with --https"),
        ({"https": False, "redirect": True}, "--redirect: goes with --https"),
        ({"domain": "10.0.0.1", "redirect_port": 81}, "--redirect-port: goes with --https"),
        ({"redirect": False, "redirect_port": 81}, "--redirect-port: goes with --redirect"),
        ({"http_registry": True}, "--http-registry: goes with --registry-port"),
        ({"registry_directory": "/data/images"}, "--registry-directory: goes with --registry-port"),
        ({"registry_port": 5000}, "--registry-port: 5000 is taken by the registry itself"),
        ({"registry_port": 443}, "--registry-port: 443 is taken by --port"),
        ({"registry_port": 80}, "--registry-port: 80 is taken by --redirect-port"),
        ({"port": 80}, "--redirect-port: 80 is taken by --port"),
        ({"port": 8080}, "--port: 8080 is taken by GitLab's own Puma"),
    ],
)
def test_what_cannot_be_is_refused_with_the_options_name(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError) as refused:
        Server(**{"domain": "gitlab.example.com", **options})
    assert problem in refused.value.message


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(UsageError) as refused:
        Server(domain="a'b", gitlab_version="x", data_directory="y", registry_port=5000)
    for option in ("domain", "gitlab-version", "data-directory", "registry-port"):
        assert f"--{option}: " in refused.value.message
