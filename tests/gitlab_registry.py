"""The registry of the double of GitLab: a real one in a container, the front through which it is reached, and the
tokens that it believes."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.client
import io
import itertools
import json
import os
import secrets
import ssl
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import docker
import httpx
from certificates import NOW
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID
from gitlab_server import BLOCK, Asked, Exchange, Fault, Journal, Reset, Server, to_json, trouble
from harness import PREFIX, eventually

IMAGE = "registry:2"
SERVICE = "container_registry"
ISSUER = "omnibus-gitlab-issuer"
KINDS = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
]
HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}


@functools.cache
def _signing_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Signer:
    """The key with which GitLab signs the tokens for its registry."""

    def __init__(self) -> None:
        self._key = _signing_key()  # one for all doubles: it takes its time
        public = self._key.public_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=1))
            .not_valid_after(NOW + timedelta(days=9))
            .sign(self._key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
        self.kid = ":".join(text[start : start + 4] for start in range(0, len(text), 4))

    def token(self, subject: str, access: list[dict[str, Any]], *, now: float, seconds: float, auth_type: str) -> str:
        """A token that is good for so many seconds; it has expired if they are negative."""
        start = now + min(seconds, 0) * 2
        claims = {
            "access": access,
            "jti": secrets.token_hex(16),
            "aud": SERVICE,
            "sub": subject,
            "iss": ISSUER,
            "iat": int(start),
            "nbf": int(start - 5),
            "exp": int(now + seconds),
            "auth_type": auth_type,
        }
        signed = b".".join(_url64(to_json(part)) for part in ({"alg": "RS256", "typ": "JWT", "kid": self.kid}, claims))
        signature = self._key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        return (signed + b"." + _url64(signature)).decode()


def _url64(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def claims(token: str) -> dict[str, Any]:
    """What a token says; who signed it is not looked at."""
    payload = token.split(".")[1]
    said: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return said


@dataclass(frozen=True)
class Details:
    """What a tag stands for. Of an image for several platforms only the digest is known."""

    digest: str
    revision: str | None = None
    created: str | None = None
    size: int | None = None


class Registry:
    """Debian's docker-registry in a container, and what GitLab itself asks it."""

    def __init__(self, engine: docker.DockerClient, signer: Signer, realm: str, port: int, name: str) -> None:
        self.port = port
        self._signer = signer
        self.container: Any = engine.containers.create(
            IMAGE,
            name=name,
            labels={"bluegreen.test": PREFIX},
            ports={"5000/tcp": ("127.0.0.1", port)},
            environment={
                "REGISTRY_AUTH": "token",
                "REGISTRY_AUTH_TOKEN_REALM": realm,
                "REGISTRY_AUTH_TOKEN_SERVICE": SERVICE,
                "REGISTRY_AUTH_TOKEN_ISSUER": ISSUER,
                "REGISTRY_AUTH_TOKEN_ROOTCERTBUNDLE": "/etc/docker/registry/token.crt",
                "REGISTRY_STORAGE_DELETE_ENABLED": "true",
            },
        )
        self._api = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)
        try:
            self.container.put_archive("/etc/docker/registry", _tar("token.crt", signer.certificate))
            self.start()
        except BaseException:
            self.remove()
            raise

    def start(self) -> None:
        self.container.start()
        eventually(self.answers, "the registry's first answer", timeout=30)

    def stop(self) -> None:
        """As if killed; what was pushed stays."""
        self.container.kill()
        self.container.wait(timeout=30)

    def remove(self) -> None:
        self._api.close()
        with contextlib.suppress(docker.errors.APIError):
            self.container.remove(force=True, v=True)

    def answers(self) -> bool:
        try:
            return self._api.get("/v2/").status_code == 401
        except httpx.TransportError:
            return False

    def tags(self, path: str) -> list[str]:
        answer = self._ask("GET", path, "tags/list")
        return sorted(answer.json()["tags"] or []) if answer.status_code == 200 else []

    def details(self, path: str, tag: str) -> Details | None:
        """None if there is no such tag."""
        answer = self._ask("GET", path, f"manifests/{tag}", headers={"Accept": ", ".join(KINDS)})
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        digest, manifest = answer.headers["Docker-Content-Digest"], answer.json()
        if "config" not in manifest:
            return Details(digest)
        config = self._ask("GET", path, f"blobs/{manifest['config']['digest']}").raise_for_status().json()
        return Details(
            digest,
            manifest["config"]["digest"].removeprefix("sha256:"),
            config.get("created"),
            sum(layer["size"] for layer in manifest["layers"]),
        )

    def untag(self, path: str, tag: str) -> None:
        """The tag is gone, and its image is still there by digest.

        This registry deletes only manifests, so the tag is first moved to one of nothing, as GitLab itself does.
        """
        config = to_json({"nothing": secrets.token_hex(8)})
        digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
        upload = self._ask("POST", path, "blobs/uploads/").raise_for_status().headers["Location"]
        headers = self._headers(path)
        self._api.put(
            httpx.URL(upload).copy_merge_params({"digest": digest}), content=config, headers=headers
        ).raise_for_status()
        manifest = {
            "schemaVersion": 2,
            "mediaType": KINDS[0],
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": len(config),
                "digest": digest,
            },
            "layers": [],
        }
        put = self._ask("PUT", path, f"manifests/{tag}", content=to_json(manifest), headers={"Content-Type": KINDS[0]})
        placeholder = put.raise_for_status().headers["Docker-Content-Digest"]
        self._ask("DELETE", path, f"manifests/{placeholder}").raise_for_status()

    def _ask(self, method: str, path: str, what: str, headers: dict[str, str] | None = None, **more: Any) -> Any:
        return self._api.request(
            method, f"/v2/{path}/{what}", headers={**self._headers(path), **(headers or {})}, **more
        )

    def _headers(self, path: str) -> dict[str, str]:
        access = [{"type": "repository", "name": path, "actions": ["pull", "push", "delete"]}]
        token = self._signer.token("", access, now=time.time(), seconds=60, auth_type="none")
        return {"Authorization": f"Bearer {token}"}


def _tar(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        file = tarfile.TarInfo(name)
        file.size, file.mode = len(content), 0o644
        tar.addfile(file, io.BytesIO(content))
    return buffer.getvalue()


class Front:
    """The registry's public address: passes everything on as it comes, if no fault is due."""

    def __init__(
        self, upstream: int, journal: Journal, address: tuple[str, int], tls: ssl.SSLContext | None = None
    ) -> None:
        self._upstream = upstream
        self._journal = journal
        self._server = Server(address, self._answer, journal, tls)
        self.netloc = self._server.netloc
        self.url = f"{self._server.scheme}://{self.netloc}"

    def stop(self) -> None:
        self._server.stop()

    def _answer(self, exchange: Exchange) -> None:
        path, _, query = exchange.path.partition("?")
        arguments = dict(httpx.QueryParams(query).multi_items())
        who = _subject(exchange.headers.get("Authorization", ""))
        asked = self._journal.note(Asked("registry", exchange.command, path, arguments, who))
        fault = self._journal.strike(asked)
        if fault and exchange.suffer(asked, fault):
            return
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._upstream, timeout=60)) as connection:
            try:
                answer = self._ask(exchange, connection, asked)
            except (OSError, http.client.HTTPException):
                exchange.reply(asked, 502, *trouble("registry", Fault(status=502)))
            except Struck as struck:
                exchange.reply(asked, struck.fault.status, *trouble("registry", struck.fault))
            else:
                asked.status = answer.status
                _pass_back(exchange, answer)

    def _ask(
        self, exchange: Exchange, connection: http.client.HTTPConnection, asked: Asked
    ) -> http.client.HTTPResponse:
        connection.connect()
        connection.putrequest(exchange.command, exchange.path, skip_host=True, skip_accept_encoding=True)
        for name, value in exchange.headers.items():
            if name.lower() not in HOP_BY_HOP:
                connection.putheader(name, value)
        connection.putheader("X-Forwarded-Proto", self.url.partition(":")[0])
        chunked = "Transfer-Encoding" in exchange.headers
        if chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        # One that will have no more of a body has perhaps said why.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.endheaders(self._watched(exchange, asked), encode_chunked=chunked)
        return connection.getresponse()

    def _watched(self, exchange: Exchange, asked: Asked) -> Iterator[bytes]:
        """The request's body, until a fault is due."""
        passed = 0
        for block in exchange.body():
            yield block
            passed += len(block)
            if fault := self._journal.strike(asked, passed):
                exchange.endure(fault)
                if fault.status:
                    raise Struck(fault)


class Struck(Exception):
    """A fault in the middle of a body, to be answered."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault


def _pass_back(exchange: Exchange, answer: http.client.HTTPResponse) -> None:
    exchange.send_response_only(answer.status, answer.reason)
    for name, value in answer.getheaders():
        if name.lower() not in HOP_BY_HOP:
            exchange.send_header(name, value)
    bodyless = exchange.command == "HEAD" or answer.status in (204, 304)
    chunked = not bodyless and answer.getheader("Content-Length") is None
    if chunked:
        exchange.send_header("Transfer-Encoding", "chunked")
    exchange.end_headers()
    try:
        while not bodyless and (block := answer.read(BLOCK)):
            exchange.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
    except (OSError, http.client.HTTPException):
        raise Reset from None
    if chunked:
        exchange.wfile.write(b"0\r\n\r\n")


def _subject(authorization: str) -> str:
    with contextlib.suppress(ValueError, IndexError, KeyError):
        return claims(authorization.partition(" ")[2])["sub"] or "nobody"
    return "nobody"


def remove_images(engine: docker.DockerClient, wanted: Callable[[str], bool]) -> None:
    """No image has a name any more whose server is wanted."""
    for image in engine.api.images():  # `images.list` asks about each again, and fails when another test removes one
        for name in itertools.chain(image["RepoTags"] or [], image["RepoDigests"] or []):
            server, slash, _ = name.partition("/")
            if slash and wanted(server):
                with contextlib.suppress(docker.errors.APIError):
                    engine.images.remove(name, force=True)


@contextlib.contextmanager
def trusted(engine: docker.DockerClient, server: str, ca: Path) -> Iterator[None]:
    """The engine, on whatever machine, believes this authority about the registry, and about its realm."""

    def shell(script: str) -> None:
        engine.containers.run(
            "nginx:stable",
            ["sh", "-ec", script],
            environment={"DIRECTORY": f"/trusted/{server}", "CA": ca.read_text()},
            volumes=["/etc/docker/certs.d:/trusted"],
            labels={"bluegreen.test": PREFIX},
            remove=True,
        )

    shell('mkdir -p "$DIRECTORY" && printf %s "$CA" >"$DIRECTORY/ca.crt"')
    try:
        yield
    finally:
        shell('rm -r "$DIRECTORY"')


def container_name(number: int) -> str:
    return f"{PREFIX}-registry-{os.getpid()}-{number}"
