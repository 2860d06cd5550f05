"""What a server may start with: certificates, keys and authorities, read and refused."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from tests.support.certificates import Authority

from bucketry.server.certificates import Material, TlsUnusable, read_material
from bucketry.server.sections import TlsConfig
from bucketry.server.tls import Certificates

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
PASSWORD = "canary-key-password"


def pem(key: Any, password: str | None = None) -> bytes:
    how = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password.encode())
    data: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    return data


def certificate(
    key: Any,
    *,
    since: datetime = NOW - DAY,
    until: datetime = NOW + 90 * DAY,
    authority: bool = False,
    names: bool = True,
    more: x509.ExtensionType | None = None,
) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry.example")])
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), since, until
    ).add_extension(x509.BasicConstraints(authority, None), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("registry.example")]), critical=False)
    if more is not None:
        builder = builder.add_extension(more, critical=True)
    signed = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


KEY, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
CERT, OTHER_CERT = certificate(KEY), certificate(OTHER)


def config(folder: Path, cert: bytes = CERT, key: bytes | None = None, **more: Any) -> TlsConfig:
    (folder / "cert.pem").write_bytes(cert)
    (folder / "key.pem").write_bytes(pem(KEY) if key is None else key)
    return TlsConfig(cert=str(folder / "cert.pem"), key=str(folder / "key.pem"), **more)


def read(found: TlsConfig) -> Material:
    return read_material(found, now=NOW)


@pytest.mark.parametrize(
    "key",
    [KEY, ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate(),
     rsa.generate_private_key(65537, 2048)],
    ids=["P-256", "P-384", "Ed25519", "RSA"],
)  # fmt: skip
def test_keys_that_are_served_with(key: Any, tmp_path: Path) -> None:
    material = read(config(tmp_path, certificate(key) + OTHER_CERT, pem(key)))
    assert material.certificate.count(b"BEGIN CERTIFICATE") == 2
    assert material.warnings == ()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "out.pem").write_bytes(material.certificate + material.key)
    context.load_cert_chain(tmp_path / "out.pem")


def test_key_with_a_password_is_read(tmp_path: Path) -> None:
    material = read(config(tmp_path, key=pem(KEY, PASSWORD), key_password=PASSWORD))
    assert material.key == pem(KEY)
    assert PASSWORD not in repr(material)
    assert "PRIVATE" not in repr(material)


Spoil = Callable[[Path], TlsConfig]


def without(name: str) -> Spoil:
    def spoil(folder: Path) -> TlsConfig:
        found = config(folder)
        (folder / name).unlink()
        return found

    return spoil


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without("cert.pem"), "tls.cert: cannot read .*cert.pem: No such file"),
        (without("key.pem"), "tls.key: cannot read .*key.pem: No such file"),
        (lambda folder: config(folder, b"what"), "tls.cert: there is no certificate in PEM in .*cert.pem"),
        (lambda folder: config(folder, pem(KEY)), "tls.cert: there is no certificate in PEM in .*cert.pem"),
        (lambda folder: config(folder, CERT[:200] + CERT[300:]), "tls.cert: a certificate in .* is damaged"),
        (lambda folder: config(folder, key=b"what"), "tls.key: there is no private key in PEM in .*key.pem"),
        (lambda folder: config(folder, key=pem(OTHER)), "key.pem is not that of the certificate in .*cert.pem"),
        (lambda folder: config(folder, OTHER_CERT + CERT), "the server's own certificate comes first"),
        (lambda folder: config(folder, key=pem(KEY, PASSWORD)), "is encrypted: say its password by tls.key_password"),
        (
            lambda folder: config(folder, key=pem(KEY, PASSWORD), key_password="wrong"),
            "or tls.key_password is not its password",
        ),
        (
            lambda folder: config(folder, key=pem(ec.generate_private_key(ec.SECP521R1()))),
            "is of a kind that is not served with: take RSA",
        ),
        (
            lambda folder: config(folder, certificate(KEY, more=x509.OCSPNoCheck())),
            "critical extension that is not known: 1.3.6.1.5.5.7.48.1.5",
        ),
        (
            lambda folder: config(folder, client_certificates="required", client_ca=str(folder / "cert.pem")),
            "holds a certificate that is no authority's .CN=registry.example.",
        ),
        (
            lambda folder: config(folder, client_certificates="required", client_ca=str(folder / "none.pem")),
            "tls.client_ca: cannot read .*none.pem",
        ),
    ],
)
def test_what_cannot_be_served_with_is_named_in_one_line(spoil: Spoil, says: str, tmp_path: Path) -> None:
    with pytest.raises(TlsUnusable, match=says) as refused:
        read(spoil(tmp_path))
    said = str(refused.value)
    assert "\n" not in said
    assert PASSWORD not in said


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"until": NOW - timedelta(hours=1)}, "expired on 2026-11-24 11:00 UTC"),
        ({"since": NOW + DAY}, "is valid from 2026-11-25 12:00 UTC on only"),
        ({"since": NOW - 60 * DAY, "until": NOW + DAY}, "expires on 2026-11-25 12:00 UTC"),
        ({"names": False}, "names no host"),
    ],
)
def test_what_clients_will_not_take_is_warned_of(made: dict[str, Any], says: str, tmp_path: Path) -> None:
    (warning,) = read(config(tmp_path, certificate(KEY, **made))).warnings
    assert says in warning


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, level: str, event: str, **fields: object) -> None:
        self.lines.append((level, " ".join([event, *map(str, fields.values())])))


def opened(folder: Path, log: Log) -> Certificates:
    return Certificates(config(folder), say=log, now=lambda: NOW)


def test_new_files_are_taken_up_when_they_fit(tmp_path: Path) -> None:
    log = Log()
    certificates = opened(tmp_path, log)
    first = certificates.keys
    assert (first.certificate, first.key) == (CERT, pem(KEY))
    assert not certificates.look()

    (tmp_path / "cert.pem").write_bytes(OTHER_CERT)
    assert not certificates.look()
    assert [level for level, _ in log.lines] == ["warning"]
    assert "is not that of the certificate" in log.lines[0][1]
    assert certificates.keys == first
    assert not certificates.take()
    assert len(log.lines) == 1  # What is known to be wrong is said once.

    (tmp_path / "key.pem").write_bytes(pem(OTHER))
    assert certificates.look()
    assert not certificates.look()
    assert (certificates.keys.certificate, certificates.keys.key) == (OTHER_CERT, pem(OTHER))


def test_files_that_bring_the_same_are_no_news(tmp_path: Path) -> None:
    certificates = opened(tmp_path, Log())
    (tmp_path / "cert.pem").unlink()
    assert not certificates.look()
    (tmp_path / "cert.pem").write_bytes(CERT)
    assert not certificates.look()


# Lists of revoked certificates


def revoking(folder: Path, *pems: bytes) -> TlsConfig:
    """Of a server that takes clients of the authority of `clients_of`, and has such a file of lists."""
    clients_of(folder)
    (folder / "lists.pem").write_bytes(b"".join(pems))
    asked: dict[str, Any] = {"client_certificates": "required", "client_ca": str(clients_of(folder).file)}
    return config(folder, client_crl=str(folder / "lists.pem"), **asked)


@cache
def clients_of(folder: Path) -> Authority:
    return Authority(folder / "clients", "clients")


def test_lists_are_taken_that_are_of_the_authorities(tmp_path: Path) -> None:
    clients = clients_of(tmp_path)
    lists = clients.revoked(clients.client("gone"))
    other = Authority(tmp_path / "other", "others").revoked()
    material = read_material(revoking(tmp_path, b"of last week\n", lists, other), now=datetime.now(UTC))
    assert material.revoked == lists + other
    assert material.warnings == ()
    changed = read_material(revoking(tmp_path, clients.revoked()), now=datetime.now(UTC))
    assert changed.fingerprint != material.fingerprint


def test_lists_that_nobody_could_be_let_in_by_are_refused(tmp_path: Path) -> None:
    clients = clients_of(tmp_path)
    same_name = Authority(tmp_path / "other", "clients")
    for pems, says in (
        ((b"",), "there is no list of revoked certificates in PEM"),
        ((clients.file.read_bytes(),), "there is no list of revoked certificates in PEM"),
        ((clients.revoked().replace(b"MI", b"MM"),), "a list of revoked certificates in .* is damaged"),
        ((same_name.revoked(),), r"holds no list of an authority in tls.client_ca \(CN=clients\)"),
    ):
        with pytest.raises(TlsUnusable, match=says):
            read_material(revoking(tmp_path, *pems), now=datetime.now(UTC))


def test_an_authority_that_may_be_revoked_itself_needs_the_one_above(tmp_path: Path) -> None:
    clients = clients_of(tmp_path)
    below = Authority(tmp_path / "below", "below", clients)
    lists = clients.revoked() + below.revoked()
    found = revoking(tmp_path, lists)
    both = clients.file.read_bytes() + below.file.read_bytes()
    (tmp_path / "authorities.pem").write_bytes(both)
    read_material(msgspec.structs.replace(found, client_ca=str(tmp_path / "authorities.pem")), now=datetime.now(UTC))
    with pytest.raises(TlsUnusable, match=r"whether CN=below, in tls.client_ca, is revoked itself cannot be known"):
        read_material(msgspec.structs.replace(found, client_ca=str(below.file)), now=datetime.now(UTC))


def test_a_list_that_is_out_of_date_is_warned_of(tmp_path: Path) -> None:
    lists = clients_of(tmp_path).revoked(until=-timedelta(minutes=1))
    (warning,) = read_material(revoking(tmp_path, lists), now=datetime.now(UTC)).warnings
    assert "none of its clients is let in until it is" in warning
