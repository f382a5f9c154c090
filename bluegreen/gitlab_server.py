"""The lines of /etc/gitlab/gitlab.rb for a GitLab server, in the form that its version wants.

What the settings mean is in GitLab's documentation of the Linux package ("Configure SSL", "NGINX settings", "Configure
Git data") and of the container registry's administration. `git_data_dirs` was deprecated in 17.8 and removed in 18.0.

All text that is rendered stands in Ruby's single quotes and is checked here against what it may hold, not against what
it may not: no quote, backslash, `#`, newline or NUL gets through.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from bluegreen.errors import UsageError
from bluegreen.proxies import templates

INNER_PORTS = {5000: "the registry itself", 8080: "GitLab's own Puma"}
"""Ports of the server's loopback address that are taken inside, with who has them."""

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_VERSION = re.compile(r"([1-9][0-9])\.[0-9]{1,2}(?:\.[0-9]{1,3})?")
_PATH = re.compile(r"(?:/[A-Za-z0-9_.@+-]+)+")
_OLDEST = 13

_Must = Callable[[object, str, str], None]
"""Takes whether something holds, the option, and what is to be said of it if it does not."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """What is said of a GitLab server, each as the option of that name; None is the option's default.

    Raises UsageError, with every problem and its option in the message, for what can't be.
    """

    domain: str
    gitlab_version: str = "18.0"
    https: bool | None = None
    port: int | None = None
    certificate: str | None = None
    key: str | None = None
    redirect: bool | None = None
    redirect_port: int | None = None
    data_directory: str | None = None
    registry_port: int | None = None
    http_registry: bool = False
    registry_directory: str | None = None

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            raise UsageError("\n  ".join([f"there is no gitlab.rb for {len(problems)} of the options:", *problems]))

    @property
    def tls(self) -> bool:
        """Whether GitLab is served by https."""
        return not _is_address(self.domain) if self.https is None else self.https

    @property
    def registry_tls(self) -> bool:
        """Whether the registry is; never without a certificate, which GitLab has with https only."""
        return self.tls and not self.http_registry

    @property
    def url(self) -> str:
        """The address of GitLab, without a port that goes without saying."""
        usual = 443 if self.tls else 80
        port = f":{self.port}" if self.port not in (None, usual) else ""
        return f"{'https' if self.tls else 'http'}://{self.domain.lower()}{port}"

    @property
    def registry(self) -> str:
        """The registry as it begins the name of an image: `host:port`."""
        return f"{self.domain.lower()}:{self.registry_port}"

    @property
    def storage(self) -> bool:
        """Whether this version takes the place of Git data from Gitaly's own configuration."""
        return int(self.gitlab_version.partition(".")[0]) >= 18

    def render(self) -> str:
        """The lines, ending with a newline; `gitlab-ctl reconfigure` puts them into effect."""
        return templates.render(
            "gitlab.rb.j2",
            server=self,
            certificate=self.certificate or f"/etc/gitlab/ssl/{self.domain.lower()}.crt",
            key=self.key or f"/etc/gitlab/ssl/{self.domain.lower()}.key",
            redirect=self.redirect is not False,
            redirect_port=self.redirect_port or 80,
        )

    def _problems(self) -> list[str]:
        """Every problem, each beginning with the name of its option."""
        found: list[str] = []

        def must(holds: object, option: str, words: str) -> None:
            if not holds:
                found.append(f"--{option}: {words}")

        domain = self.domain.lower()
        named = len(domain) <= 253 and _NAME.fullmatch(domain) and not re.fullmatch(r"[0-9.]+", domain)
        must(named or _is_address(domain), "domain", f"{self.domain[:60]!r} is no host name and no IPv4 address")
        version = _VERSION.fullmatch(self.gitlab_version)
        must(
            version and int(version[1]) >= _OLDEST,
            "gitlab-version",
            f"{self.gitlab_version[:20]!r} is no version such as 17.11 or 18.5, from {_OLDEST}.0 on",
        )
        for option in ("certificate", "key", "data-directory", "registry-directory"):
            path = getattr(self, option.replace("-", "_"))
            must(
                path is None or _is_path(path),
                option,
                f'{str(path)[:60]!r} is no absolute path of letters, digits and "/_.@+-"',
            )
        must(
            not (self.data_directory or "").endswith("/repositories"),
            "data-directory",
            "is the directory in which GitLab makes `repositories`, so leave that off",
        )
        must((self.certificate is None) == (self.key is None), "key", "goes with --certificate, and that with --key")
        if not self.tls:
            for option in ("certificate", "redirect", "redirect-port"):
                must(not getattr(self, option.replace("-", "_")), option, "goes with --https only")
        if self.redirect is False:
            must(self.redirect_port is None, "redirect-port", "goes with --redirect only")
        if self.registry_port is None:
            must(not self.http_registry, "http-registry", "goes with --registry-port only")
            must(self.registry_directory is None, "registry-directory", "goes with --registry-port only")
        self._ports(must)
        return found

    def _ports(self, must: _Must) -> None:
        """No port is given to two."""
        taken = dict(INNER_PORTS)
        redirects = self.tls and self.redirect is not False
        for option, port in (
            ("port", self.port or (443 if self.tls else 80)),
            ("redirect-port", (self.redirect_port or 80) if redirects else None),
            ("registry-port", self.registry_port),
        ):
            if port is not None:
                must(port not in taken, option, f"{port} is taken by {taken.get(port)}")
                taken.setdefault(port, f"--{option}")


def _is_address(text: str) -> bool:
    try:
        return str(ipaddress.IPv4Address(text)) == text
    except ValueError:
        return False


def _is_path(text: str) -> bool:
    return len(text) <= 250 and bool(_PATH.fullmatch(text)) and not {".", ".."} & set(text.split("/"))
