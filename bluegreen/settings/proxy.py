"""[proxy], with [proxy.tls] and [proxy.host]: what carries the traffic, and where it is."""

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from bluegreen.settings.container import LoggingTable, User
from bluegreen.settings.haproxy import HAProxyTable
from bluegreen.settings.image import image_reference
from bluegreen.settings.tcp import NOT_FOR_TCP, StaticTable, TcpBalance, TcpTable
from bluegreen.settings.values import (
    LIST,
    Duration,
    Listen,
    Size,
    Table,
    Text,
    Url,
    between,
    distinct,
    is_host,
    matching,
    table,
)
from bluegreen.words import shown


def _host_pattern(value: str) -> str:
    if not is_host(value.removeprefix("*.")):
        raise ValueError(f'{shown(value)} is not a host name such as "example.com" or "*.example.com"')
    return value.lower()


def _absolute(value: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9_.@+-]+)+", value) or ".." in value.split("/"):
        raise ValueError(f'{shown(value)} is not an absolute path of letters, digits and "/_.@+-"')
    return value


_BALANCE = re.compile(
    r"roundrobin|static-rr|leastconn|source"
    r"|uri(?P<limits>(?: len [1-9][0-9]{0,3})?(?: depth [1-9][0-9]{0,2})?)"
    r"|url_param (?P<param>[A-Za-z0-9_.-]{1,64})"
    r"|hdr\((?P<header>[A-Za-z0-9-]{1,64})\)"
)


def _balance(value: str, info: ValidationInfo) -> str:
    value = value or ("leastconn" if info.data.get("mode") == "tcp" else "roundrobin")
    match = _BALANCE.fullmatch(value)
    if not match:
        raise ValueError(
            f"{shown(value)} is none of roundrobin, static-rr, leastconn, source, uri, uri len N, uri depth N,"
            " uri len N depth N, url_param NAME and hdr(NAME)"
        )
    if info.data.get("mode") == "tcp" and value not in get_args(TcpBalance):
        raise ValueError(f"{shown(value)} looks at requests; in tcp mode: {', '.join(get_args(TcpBalance))}")
    if info.data.get("kind") == "nginx":
        if match["limits"]:
            raise ValueError("uri with len or depth is HAProxy's; nginx knows uri alone")
        if match["param"] and not re.fullmatch(r"[A-Za-z0-9_]+", match["param"]):
            raise ValueError(f"nginx knows no parameter {shown(match['param'])}: only letters, digits and _")
    return value


def _says_something(data: object) -> bool:
    return any(map(_says_something, data.values())) if isinstance(data, dict) else True


IMAGES = {"nginx": "nginx:stable", "haproxy": "haproxy:3.2"}
"""The image of each kind of proxy, unless the settings name one."""


def _image_or_default(value: str, info: ValidationInfo) -> str:
    return image_reference(value or IMAGES.get(info.data.get("kind", ""), IMAGES["nginx"]))


class TlsTable(Table):
    """TLS at the proxy: the pair that clients are shown, and where."""

    certificate: Text = Field(
        description="The certificate with its chain, the server's own first: a PEM file, relative to this file."
    )
    key: Text = Field(description="Its private key without a passphrase: a PEM file, relative to this file.")
    listen: Listen | None = Field(
        default=None,
        description="Where clients reach the proxy by https: IPv4:port or [IPv6]:port. Default: proxy.listen itself.",
    )
    http2: bool = Field(default=True, description="Whether HTTP/2 is offered.")
    redirect: bool = Field(
        default=True,
        description="Whether plain http on proxy.listen is answered by a redirect to https, where `listen` is another.",
    )
    ca: Text | None = Field(
        default=None,
        description="What the witness trusts: a PEM file, relative to this file. Default: the usual authorities.",
    )


AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class HostTable(Table):
    """The proxy that a person has installed on the host."""

    directory: AbsolutePath = Field(
        default="",
        validate_default=False,
        description="The directory that the proxy reads. Default: /etc/nginx/conf.d or /etc/haproxy/conf.d.",
    )
    main: AbsolutePath = Field(
        default="",
        validate_default=False,
        description="The main config file. Default: /etc/nginx/nginx.conf, /etc/haproxy/haproxy.cfg.",
    )
    whole: bool = Field(default=False, description="Whether the main config file is bluegreen's own, to be replaced.")
    pid_file: AbsolutePath = Field(
        default="",
        validate_default=False,
        description="Where the proxy writes its process id. Default: /run/nginx.pid, /run/haproxy.pid.",
    )
    socket: AbsolutePath = Field(
        default="/run/haproxy/admin.sock", description="HAProxy's admin socket (`stats socket ... level admin`)."
    )
    streams: AbsolutePath = Field(
        default="/etc/nginx/streams.d",
        description="The directory that nginx's main config file includes in `stream`, for mode tcp and static.",
    )
    reload: Annotated[tuple[Annotated[str, matching(r"[A-Za-z0-9_./:=@+,-]+", "a word")], ...], LIST] = Field(
        default=(),
        description="The command that reloads the proxy. Default: systemctl where systemd runs, else its own way.",
    )


HOST_DEFAULTS = {
    "nginx": {"directory": "/etc/nginx/conf.d", "main": "/etc/nginx/nginx.conf", "pid_file": "/run/nginx.pid"},
    "haproxy": {
        "directory": "/etc/haproxy/conf.d",
        "main": "/etc/haproxy/haproxy.cfg",
        "pid_file": "/run/haproxy.pid",
    },
}
"""Where each kind of proxy has its files in Debian's packages."""


def _apart(values: tuple[StaticTable, ...]) -> tuple[StaticTable, ...]:
    for key in ("name", "port"):
        found = [getattr(value, key) for value in values]
        for value in found:
            if found.count(value) > 1:
                raise ValueError(f"two entries have the {key} {value}")
    return values


class ProxyTable(Table):
    """The proxy that carries the traffic."""

    kind: Literal["nginx", "haproxy"] = Field(default="nginx", description="Which proxy.")
    mode: Literal["http", "tcp"] = Field(
        default="http",
        description="What is carried: HTTP requests, or TCP connections of any kind (tcp; one service an address).",
    )
    listen: Listen = Field(
        default="127.0.0.1:8080", description="Where clients reach the proxy: IPv4:port or [IPv6]:port."
    )
    # Before url, which follows from it.
    tls: TlsTable | None = Field(default=None, description="TLS at the proxy. Default: none.")
    url: Url = Field(
        default="",
        validate_default=True,
        description="The public address, which the witness asks. Default: http:// and what `listen` says;"
        " with TLS, https:// and what `tls.listen` says.",
    )
    hosts: Annotated[tuple[Annotated[str, AfterValidator(_host_pattern)], ...], LIST, AfterValidator(distinct)] = Field(
        default=(),
        description='The host names that this service answers to, such as "*.example.com". Default: all.',
    )
    where: Literal["container", "host"] = Field(
        default="container", description="Where the proxy runs: in a container of its own, or installed on the host."
    )
    image: Annotated[str, AfterValidator(_image_or_default)] = Field(
        default="",
        validate_default=True,
        description="The image of the proxy's container. Default: nginx:stable or haproxy:3.2.",
    )
    user: User | None = Field(
        default=None,
        description="Who runs the proxy, from when its container is made. Default: the image's own user; 65532:65532 if"
        " that is root.",
    )
    read_only: bool = Field(
        default=True, description="Whether its container's root file system is read-only, from when it is made."
    )
    logging: LoggingTable = table("Of its container, from when it is made.")
    switch: Literal["auto", "reload", "live"] = Field(
        default="auto",
        description="How traffic is switched: in place (live), by a reload, or live if the proxy can (auto).",
    )
    balance: Annotated[str, AfterValidator(_balance)] = Field(
        default="",
        validate_default=True,
        description="How requests are spread over the replicas: roundrobin (the default), static-rr, leastconn (that of"
        " tcp mode), source, uri, url_param NAME or hdr(NAME); with HAProxy also uri len N, uri depth N or both.",
    )
    upstreams: Literal["local", "all"] = Field(
        default="local",
        description="With several hosts: whether each proxy sends to the replicas of its own host only, or of all.",
    )
    max_body: Size = Field(default=Size("100m"), description="The largest request body; 0 for no limit.")
    read_timeout: Annotated[Duration, between("1s", "24h")] = Field(
        default=60.0, description="How long the app may be silent in the middle of an answer."
    )
    host: HostTable = table()
    tcp: TcpTable = table()
    haproxy: HAProxyTable = table()
    static: Annotated[tuple[StaticTable, ...], LIST, AfterValidator(_apart)] = Field(
        default=(), description="Plain TCP load balancers in front of fixed servers, carried by the same proxy."
    )

    @field_validator("host")
    @classmethod
    def _where_it_is(cls, value: HostTable, info: ValidationInfo) -> HostTable:
        defaults = HOST_DEFAULTS[info.data.get("kind", "nginx")]
        return value.model_copy(update={key: getattr(value, key) or path for key, path in defaults.items()})

    @property
    def address(self) -> str:
        """The address of `listen`, an IPv6 one without its brackets."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port of `listen`."""
        return int(self.listen.rpartition(":")[2])

    @property
    def tls_listen(self) -> str | None:
        """Where the proxy speaks TLS; None if it does not."""
        return (self.tls.listen or self.listen) if self.tls else None

    @property
    def redirects(self) -> bool:
        """Whether `listen` only redirects to https."""
        return self.tls is not None and self.tls.redirect and self.tls_listen != self.listen

    @property
    def plain(self) -> bool:
        """Whether the service is served by plain http."""
        return not self.redirects and self.tls_listen != self.listen

    @property
    def live(self) -> bool:
        """Whether traffic is switched in place."""
        return self.switch != "reload" and not (self.kind == "nginx" and self.mode == "tcp")

    @field_validator("tls", "hosts", "max_body", "read_timeout")
    @classmethod
    def _only_for_requests(cls, value: object, info: ValidationInfo) -> object:
        if value and info.data.get("mode") == "tcp":
            raise ValueError(NOT_FOR_TCP)
        return value

    @field_validator("switch")
    @classmethod
    def _possible(cls, value: str, info: ValidationInfo) -> str:
        if value == "live" and (info.data.get("kind"), info.data.get("mode")) == ("nginx", "tcp"):
            raise ValueError("can't be live with nginx in tcp mode, which only a reload switches: use reload or auto")
        return value

    @field_validator("haproxy")
    @classmethod
    def _only_for_haproxy(cls, value: HAProxyTable, info: ValidationInfo) -> HAProxyTable:
        if info.data.get("kind") == "nginx" and _says_something(value.model_dump(exclude_unset=True)):
            raise ValueError("goes with proxy.kind = 'haproxy' only, not with 'nginx'")
        if info.data.get("mode") == "tcp":
            for key, wrong in (("httpclose", value.httpclose), ("cookie", value.cookie.name)):
                if wrong:
                    raise PydanticCustomError("tcp", NOT_FOR_TCP, {"key": key})
            if value.stats.uri and not value.stats.bind:
                raise PydanticCustomError("tcp", "needs a bind of its own in tcp mode", {"key": "stats"})
        return value

    @field_validator("static")
    @classmethod
    def _beside_the_service(cls, value: tuple[StaticTable, ...], info: ValidationInfo) -> tuple[StaticTable, ...]:
        tls, haproxy = info.data.get("tls"), info.data.get("haproxy")
        stats = haproxy.stats.bind if haproxy else None
        for entry in value:
            if entry.listen in (info.data.get("listen"), tls and tls.listen):
                raise ValueError(f"{entry.name} listens on {entry.listen}, as the service does")
            if stats and stats.rpartition(":")[2] == str(entry.port):
                raise ValueError(f"{entry.name} listens on port {entry.port}, as proxy.haproxy.stats.bind does")
        return value

    @field_validator("url", mode="before")
    @classmethod
    def _from_listen(cls, value: object, info: ValidationInfo) -> object:
        if value != "":
            return value
        # Without a `listen` that is right, its problem is the one to tell.
        listen, tls = info.data.get("listen", "localhost:80"), info.data.get("tls")
        host, _, port = ((tls and tls.listen) or listen).rpartition(":")
        reached = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104
        return f"{'https' if tls else 'http'}://{reached}:{port}"
