"""The pair of certificate and key, and what is refused before a proxy gets it."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from certificates import NOW, Authority

from bluegreen.certificate import read_pair
from bluegreen.errors import SettingsError


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize(
    ("names", "hosts"),
    [
        (["shop.test"], []),
        ([], []),
        (["shop.test"], ["shop.test"]),
        (["shop.test"], ["elsewhere.test", "shop.test"]),
        (["SHOP.test"], ["shop.test"]),
        (["*.shop.test"], ["a.shop.test"]),
        (["*.shop.test"], ["*.shop.test"]),
        (["127.0.0.1"], ["127.0.0.1"]),
    ],
)
def test_a_pair_that_is_right_is_given_as_it_is(authority: Authority, names: list[str], hosts: list[str]) -> None:
    certificate, key = authority.pair("site", *names)
    pair = read_pair(certificate, key, hosts)
    assert (pair.certificate, pair.key) == (certificate.read_text(), key.read_text())


@pytest.mark.parametrize(
    ("names", "host"),
    [
        ([], "shop.test"),
        (["shop.test"], "www.shop.test"),
        (["*.shop.test"], "shop.test"),
        (["*.shop.test"], "a.b.shop.test"),
        (["a.shop.test"], "*.shop.test"),
    ],
)
def test_a_certificate_that_covers_no_host_is_refused(authority: Authority, names: list[str], host: str) -> None:
    with pytest.raises(SettingsError, match=r"^proxy\.tls\.certificate: .*covers none of proxy\.hosts"):
        read_pair(*authority.pair("site", *names), [host])


def test_only_the_time_between_its_two_dates_is_right(authority: Authority) -> None:
    start, end = (NOW + timedelta(days=days) for days in (-1, 1))
    certificate, key = authority.pair("site", start=start, end=end)
    for now in (start + timedelta(seconds=1), end - timedelta(seconds=1)):
        assert read_pair(certificate, key, [], now=now)
    for now, words in ((start - timedelta(seconds=1), "not valid before"), (end + timedelta(seconds=1), "expired at")):
        with pytest.raises(SettingsError, match=rf"^proxy\.tls\.certificate: .* {words}"):
            read_pair(certificate, key, [], now=now)


def test_the_certificate_is_the_first_of_its_chain(authority: Authority) -> None:
    certificate, key = authority.pair("site", "shop.test")
    own, above = certificate.read_text(), authority.file.read_text()
    certificate.write_text(own + above)
    assert read_pair(certificate, key, ["shop.test"]).certificate == own + above
    certificate.write_text(above + own)
    with pytest.raises(SettingsError, match="is not the key of") as caught:
        read_pair(certificate, key, ["shop.test"])
    assert "a chain begins with the server's own certificate" in caught.value.hint


def test_a_key_that_will_not_do_is_refused_and_never_told(authority: Authority) -> None:
    certificate, key = authority.pair("site")
    locked = authority.pair("locked", passphrase=b"secret")[1]
    other = authority.pair("other")[1]
    nonsense = key.with_name("nonsense")
    nonsense.write_text("-----BEGIN PRIVATE KEY-----\nMIGHAgEAMB\n-----END PRIVATE KEY-----\n")
    for file, words in (
        (locked, "has a passphrase"),
        (other, "is not the key of"),
        (nonsense, "is not a private key in PEM"),
        (certificate, "is not a private key in PEM"),
        (key.with_name("nowhere"), "can't be read: No such file"),
    ):
        with pytest.raises(SettingsError, match=rf"^proxy\.tls\.key: .*{words}") as caught:
            read_pair(certificate, file, [])
        told = f"{caught.value.message} {caught.value.hint}"
        assert not any(line in told for line in key.read_text().splitlines())


@pytest.mark.parametrize("text", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_refused(authority: Authority, text: str) -> None:
    certificate, key = authority.pair("site")
    certificate.write_text(text)
    with pytest.raises(SettingsError, match=r"^proxy\.tls\.certificate: .* is not a certificate in PEM"):
        read_pair(certificate, key, [])


def test_the_fingerprint_is_another_for_another_certificate_and_shows_no_key(authority: Authority) -> None:
    one, two = (read_pair(*authority.pair(name), []) for name in ("one", "two"))
    assert one.fingerprint != two.fingerprint
    assert one.key not in repr(one)
    assert os.fspath(authority.file.parent) not in repr(one)
