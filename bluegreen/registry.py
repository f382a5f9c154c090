"""The container registry: who logs in, what is pushed and pulled, and what a refusal means.

The engine, not this process, speaks to the registry: what it trusts decides. It reports most failures as text, in the
stream of an answer that began well.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from docker.errors import APIError, DockerException, ImageNotFound

from bluegreen.errors import Failed, SettingsError
from bluegreen.layers import Layers
from bluegreen.settings import Settings
from bluegreen.words import plain

if TYPE_CHECKING:
    import httpx

TRIES = 5
"""How often something is tried that fails in a way that may pass."""

LIMIT = 30.0
"""Seconds after which it is not tried again: the engine itself tries each part of a push for 50 s."""

LONGEST_WAIT = 20.0
"""Seconds between two tries, at most; the first pause is of one second, and each is twice the one before."""

_PLAIN_HTTP = re.compile(r"server gave HTTP response to HTTPS client")
_UNKNOWN_AUTHORITY = re.compile(r"x509:|certificate")
_ABSENT = re.compile(r"manifest unknown|name unknown|not found|no such manifest", re.IGNORECASE)
_REFUSED = re.compile(
    r"unauthorized|denied|authentication required|insufficient_scope|no basic auth|invalid_token|\b40[13]\b",
    re.IGNORECASE,
)
_PASSING = re.compile(
    r"toomanyrequests|too many requests|\b429\b|\b50[0234]\b|bad gateway|service unavailable|EOF|timeout"
    r"|connection reset|connection refused|broken pipe|use of closed network connection",
    re.IGNORECASE,
)

Progress = Callable[[str], None]
Tally = Callable[[Mapping[str, Any]], None]
Result = TypeVar("Result")


class Passing(Failed):
    """The registry failed in a way that may pass: it was cut off, overloaded, or restarting."""


@dataclass(frozen=True)
class Credentials:
    """A user and a password, and where they were found."""

    user: str
    password: str = field(repr=False)
    source: str = ""


def credentials(settings: Settings, environ: Mapping[str, str] = os.environ) -> Credentials | None:
    """The first found of: CI_REGISTRY_USER, a deploy token, CI_JOB_TOKEN, `registry.credentials`, docker's login.

    GitLab's variables count in jobs of the GitLab that has this registry (CI_REGISTRY). None if there are none at all.
    Raises SettingsError if the file can't be read, or others than its owner can read it.
    """
    table = settings.registry
    if environ.get("CI_REGISTRY", table.server).lower() == table.server:
        found = _from_gitlab("CI_REGISTRY", environ) or _from_gitlab("CI_DEPLOY", environ)
        if found:
            return found
        if environ.get("CI_JOB_TOKEN"):
            return Credentials("gitlab-ci-token", environ["CI_JOB_TOKEN"], "CI_JOB_TOKEN")
    if table.credentials:
        return _from_file(settings.root / table.credentials)
    return _from_docker(table.server)


def lasting(settings: Settings, environ: Mapping[str, str] = os.environ) -> Credentials | None:
    """What the nodes of a swarm are given, which pull again when the run is long over: a deploy token or
    `registry.credentials` before what may end with its job; else as `credentials`."""
    table = settings.registry
    own = environ.get("CI_REGISTRY", table.server).lower() == table.server
    token = _from_gitlab("CI_DEPLOY", environ) if own else None
    kept = _from_file(settings.root / table.credentials) if table.credentials and not token else None
    return token or kept or credentials(settings, environ)


def _from_gitlab(kind: str, environ: Mapping[str, str]) -> Credentials | None:
    user, password = f"{kind}_USER", f"{kind}_PASSWORD"
    if environ.get(user) and environ.get(password):
        return Credentials(environ[user], environ[password], f"{user} and {password}")
    return None


def _from_file(path: Path) -> Credentials:
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or "it is not text"
        raise SettingsError(f"registry.credentials: {path} can't be read: {words}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingsError(
            f"registry.credentials: {path} can be read by others than its owner", hint=f"chmod 600 {path}"
        )
    user, colon, password = text.partition(":")
    if not (user and colon and password) or "\n" in text:
        raise SettingsError(f"registry.credentials: {path} must hold one line, USER:PASSWORD")
    return Credentials(user, password, str(path))


def _from_docker(server: str) -> Credentials | None:
    from docker import auth

    try:
        found = auth.load_config().resolve_authconfig(server)
    except (DockerException, ValueError, OSError) as error:
        raise Failed(f"docker's login for {server} can't be read: {error}", hint=f"docker login {server}") from None
    if not found:
        return None
    user, password = found.get("username") or found.get("Username"), found.get("password") or found.get("Password")
    if not (user and password):
        return None
    return Credentials(user, password, "docker login")


def _store(server: str, given: Credentials) -> str:
    """The password is with docker's credential helper, or nowhere. Says which."""
    from docker import auth, credentials

    name = auth.load_config().get_credential_store(server)
    if not name:
        return "and nothing was stored: docker has no credential helper for it (credsStore in its config.json)"
    try:
        credentials.Store(name).store(server, given.user, given.password)
    except (credentials.StoreError, OSError) as error:
        raise Failed(f"docker's credential helper {name} could not store the password: {error}") from None
    return f"and docker's credential helper {name} has the password"


class Registry:
    """The repository of one service in its registry, as one engine reaches it."""

    def __init__(self, client: Any, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
        self._client = client
        self._settings = settings
        self._server = settings.registry.server
        self._repository = settings.repository
        self._environ = environ
        self._found: Credentials | None = None
        self._looked = False

    @property
    def _api(self) -> Any:
        return self._client.api  # asked each time, as of several managers another one may answer by now

    def digest(self, reference: str, progress: Progress = lambda words: None) -> str:
        """The digest of the manifest under this tag or digest; empty if the registry has none. Raises Failed."""

        def ask() -> str:
            try:
                answer = self._api.inspect_distribution(reference, auth_config=self.auth())
            except APIError as error:
                return self._absent(error, reference)
            return str(answer["Descriptor"]["digest"])

        return self._persistently(ask, progress)

    def _absent(self, error: APIError, reference: str) -> str:
        words = str(error.explanation or error)
        if _ABSENT.search(words) and not _REFUSED.search(words):
            return ""
        raise self._failed(words, "look for", reference) from error

    def push(
        self, reference: str, progress: Progress, *, overwrite: bool = False, counts: Tally = lambda figures: None
    ) -> str:
        """The registry has the engine's image under this tag; its digest is given. `counts` is told as `Layers` does.

        Raises Failed when the registry has another content under the tag and `overwrite` is not set, and when the push
        fails, inside its stream too.
        """
        there = self.digest(reference, progress)
        if there and there in self._own_digests(reference):
            return there
        if there and not overwrite:
            raise Failed(
                f"{reference} is in the registry already, with another content ({there[:19]})",
                hint="choose another release name, or pass --overwrite",
            )
        repository, _, tag = reference.rpartition(":")

        def send() -> str:
            digest = ""
            start = partial(self._api.push, repository, tag=tag, stream=True, decode=True, auth_config=self.auth())
            for item in self._read(start, "push", reference, progress, counts):
                digest = item.get("aux", {}).get("Digest") or digest
            if not digest:
                raise Failed(f"the push of {reference} ended without a digest")
            return digest

        return self._persistently(send, progress)

    def pull(self, reference: str, tag: str, progress: Progress, counts: Tally = lambda figures: None) -> None:
        """The engine has the image of this digest (`repository@sha256:...`), there named by `tag`. Raises Failed.

        `counts` is told as `Layers` does.
        """

        def fetch() -> None:
            start = partial(self._api.pull, reference, stream=True, decode=True, auth_config=self.auth())
            for _ in self._read(start, "pull", reference, progress, counts):
                pass

        self._persistently(fetch, progress)
        # One that only its digest names is dangling, and goes with the next `docker image prune`.
        self._api.tag(reference, self._repository, tag, force=True)

    def log_in(self, given: Credentials | None = None) -> str:
        """The registry takes these credentials, or those that a run would use. Says so, and what was stored.

        What is given goes to docker's credential helper, if there is one for this registry, and nowhere else.
        Raises Failed when the registry refuses.
        """
        found = given or self._credentials()
        if found is None:
            raise Failed(f"there are no credentials for {self._server}", hint=_login(self._server))

        def ask() -> None:
            try:
                self._api.login(found.user, found.password, registry=self._server, reauth=True)
            except APIError as error:
                raise self._failed(str(error.explanation or error), "log in to", self._server, found) from None

        self._persistently(ask, lambda words: None)
        taken = f"{self._server} takes {found.user}"
        return f"{taken}, {_store(self._server, given)}" if given else f"{taken} (from {found.source})"

    def _credentials(self) -> Credentials | None:
        if not self._looked:
            self._found, self._looked = credentials(self._settings, self._environ), True
        return self._found

    def auth(self) -> dict[str, str]:
        """What the registry is asked with: a username and a password; nothing if there are none."""
        found = self._credentials()
        return {"username": found.user, "password": found.password} if found else {}

    def lasting_auth(self) -> dict[str, str]:
        """The same for who pulls later, too; see `lasting`."""
        found = lasting(self._settings, self._environ)
        return {"username": found.user, "password": found.password} if found else {}

    def _own_digests(self, reference: str) -> set[str]:
        """The digests under which the registry has had the image that the engine has under this tag."""
        try:
            attrs = self._api.inspect_image(reference)
        except ImageNotFound:
            raise Failed(f"the engine has no {reference}", hint="bluegreen build RELEASE") from None
        named = (each.partition("@") for each in attrs.get("RepoDigests") or [])
        return {digest for repository, _, digest in named if repository == self._repository}

    def _read(
        self,
        start: Callable[[], Iterable[Mapping[str, Any]]],
        action: str,
        reference: str,
        progress: Progress,
        counts: Tally,
    ) -> Iterable[Mapping[str, Any]]:
        """The items of an answer. Raises Failed for the one that says that it failed."""
        layers = Layers(counts)
        try:
            for item in start():
                if "error" in item:
                    raise self._failed(str(item["error"]), action, reference)
                if layer := layers.add(item):
                    progress(f"{layer}: {item['status'].lower()}")
                layers.tell(now=bool(layer))
                yield item
        except APIError as error:
            raise self._failed(str(error.explanation or error), action, reference) from error

    def _failed(self, words: str, action: str, reference: str, used: Credentials | None = None) -> Failed:
        """The engine's words on a failure, with what they mean here."""
        words, server = plain(words.strip()), self._server
        if _PLAIN_HTTP.search(words):
            return Failed(
                f"{server} speaks plain http, and the engine expects https: {words}",
                hint=f"{trap(server)}",
            )
        if _UNKNOWN_AUTHORITY.search(words):
            return Failed(
                f"the engine does not trust the certificate of {server}: {words}",
                hint=f"on the engine's machine, put its authority into /etc/docker/certs.d/{server}/ca.crt",
            )
        if _REFUSED.search(words) and not self._in_trouble():
            found = used or self._credentials()
            who = f"{found.user} (from {found.source})" if found else "a client without credentials"
            hint = _rights(action, server) if found else _login(server)
            return Failed(f"{server} does not let {who} {action} {reference}: {words}", hint=hint)
        kind = Passing if _PASSING.search(words) or _REFUSED.search(words) else Failed
        return kind(f"{server} can't {action} {reference}: {words}" if action != "look for" else f"{server}: {words}")

    def _in_trouble(self) -> bool:
        """Whether the registry fails itself: the engine takes a 502 of its first page for the want of a password."""
        status = first_page(self._server)
        return status is not None and (status == 429 or status >= 500)

    def _persistently(self, work: Callable[[], Result], progress: Progress) -> Result:
        pause, begun = 1.0, time.monotonic()
        for _ in range(TRIES - 1):
            try:
                return work()
            except Passing as error:
                if time.monotonic() - begun > LIMIT:
                    raise
                progress(f"{error.message}; again in {pause:g} s")
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_WAIT)
        return work()


def trap(server: str) -> str:
    """What lets an engine use a registry that speaks plain http, and what is better."""
    return (
        f'give the registry TLS; or on the engine\'s machine add {{"insecure-registries": ["{server}"]}} to '
        "/etc/docker/daemon.json and run: systemctl reload docker"
    )


def _login(server: str) -> str:
    return f"docker login {server}; or a file that registry.credentials names"


def _rights(action: str, server: str) -> str:
    if action == "push":
        return "a token needs read_registry and write_registry, and its user at least Developer in the project"
    if action == "log in to":
        return f"check the user's name and the password, or the token and its last day; then: docker login {server}"
    return "a token needs read_registry, and its user at least Reporter in the project"


def first_page(server: str) -> int | None:
    """The status of the registry's first page, asked by this process; None if it does not reach it."""
    import httpx

    for scheme in ("https", "http"):
        with contextlib.suppress(httpx.HTTPError, OSError), _client(server) as client:
            return client.get(f"{scheme}://{server}/v2/").status_code
    return None


def _client(server: str) -> httpx.Client:
    """One that trusts what an engine on this machine would trust."""
    import httpx

    context = ssl.create_default_context()
    authority = Path(f"/etc/docker/certs.d/{server}/ca.crt")
    if authority.exists():
        context.load_verify_locations(authority)
    return httpx.Client(verify=context, timeout=10, trust_env=False)


def may_push(server: str, repository: str, used: Credentials | None) -> bool | None:
    """Whether the registry lets these credentials begin a push; None where this machine can't find out.

    Asked by this process, as the engine has no such question. The upload that it begins is given up at once.
    By the distribution project's token protocol: https://distribution.github.io/distribution/spec/auth/token/
    """
    import httpx

    path = repository.removeprefix(f"{server}/")
    auth = httpx.BasicAuth(used.user, used.password) if used else None
    for scheme in ("https", "http"):
        address = f"{scheme}://{server}/v2/{path}/blobs/uploads/"
        try:
            with _client(server) as client:
                answer, headers = client.post(address), dict[str, str]()
                challenge = answer.headers.get("WWW-Authenticate", "")
                if challenge.lower().startswith("bearer "):
                    asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
                    scope = {"service": asked["service"], "scope": f"repository:{path}:pull,push"}
                    granted = client.get(asked["realm"], params=scope, auth=auth)
                    if granted.status_code in (401, 403):
                        return False
                    headers = {"Authorization": f"Bearer {granted.json()['token']}"}
                    answer = client.post(address, headers=headers)
                elif challenge and auth:
                    answer = client.post(address, auth=auth)
                if answer.status_code == 202 and "Location" in answer.headers:
                    client.delete(httpx.URL(address).join(answer.headers["Location"]), headers=headers)
                return {202: True, 401: False, 403: False}.get(answer.status_code)
        except (httpx.HTTPError, OSError, KeyError, ValueError):
            continue
    return None
