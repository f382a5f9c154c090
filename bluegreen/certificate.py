"""The certificate and the private key that a proxy shows its clients, checked before they get there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bluegreen.errors import SettingsError

CERTIFICATE, KEY = "proxy.tls.certificate", "proxy.tls.key"


@dataclass(frozen=True)
class Pair:
    """A certificate with its chain, and its key, both in PEM."""

    certificate: str
    key: str = field(repr=False)
    until: datetime
    """Its last moment."""

    @property
    def fingerprint(self) -> str:
        """Says nothing about the key, which is another only where the certificate is another too."""
        return hashlib.sha256(self.certificate.encode()).hexdigest()


def read_pair(certificate: Path, key: Path, hosts: Sequence[str], *, now: datetime | None = None) -> Pair:
    """The pair in these two files, which is valid now and, where there are `hosts`, covers one of them at least.

    Raises SettingsError, with the path of the setting, for anything else. No message holds anything of the key.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    pem, secret = _read(CERTIFICATE, certificate), _read(KEY, key)
    try:
        leaf = x509.load_pem_x509_certificates(pem)[0]
        names = _names(leaf)
        public = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError(f"{CERTIFICATE}: {certificate} is not a certificate in PEM") from None
    try:
        own = load_pem_private_key(secret, password=None).public_key()
    except TypeError:
        raise SettingsError(
            f"{KEY}: {key} has a passphrase, which a proxy can't give",
            hint=f"write it without one: openssl pkey -in {key} -out FILE, readable to you alone",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError(f"{KEY}: {key} is not a private key in PEM") from None
    if own.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != public:
        raise SettingsError(
            f"{KEY}: {key} is not the key of the first certificate in {certificate}",
            hint="a chain begins with the server's own certificate",
        )
    now = now or datetime.now(UTC)
    if now > leaf.not_valid_after_utc:
        raise SettingsError(f"{CERTIFICATE}: {certificate} expired at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if now < leaf.not_valid_before_utc:
        raise SettingsError(
            f"{CERTIFICATE}: {certificate} is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        )
    if hosts and not any(_covers(name, host) for name in names for host in hosts):
        raise SettingsError(
            f"{CERTIFICATE}: {certificate} is for {', '.join(names) or 'no host'}, and covers none of proxy.hosts: "
            + ", ".join(hosts)
        )
    return Pair(pem.decode("ascii", "ignore"), secret.decode("ascii", "ignore"), leaf.not_valid_after_utc)


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{setting}: {path} can't be read: {error.strerror}") from None


def _names(leaf: object) -> list[str]:
    """What the certificate is for. The common name counts no more: clients don't look at it."""
    from cryptography import x509

    assert isinstance(leaf, x509.Certificate)
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [
        *(name.lower() for name in names.get_values_for_type(x509.DNSName)),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    ]


def _covers(name: str, host: str) -> bool:
    """Whether a certificate for `name` is right for `host`; a star stands for one label."""
    if name.startswith("*.") and not host.startswith("*."):
        return name[2:] == host.partition(".")[2]
    return name == host
