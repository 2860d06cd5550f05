"""Authorities that only the tests know, and certificates of any kind by them: also those that no server should take."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)
_names = count(1)


@dataclass(frozen=True)
class Pair:
    """Files in PEM: a certificate and its key, which only its owner may read."""

    certificate: Path
    key: Path

    @property
    def chain(self) -> tuple[Path, Path]:
        """As `ssl.SSLContext.load_cert_chain` takes it."""
        return self.certificate, self.key

    def install(self, folder: Path, authority: Path) -> Path:
        """Into a folder as docker and its kin read it: ``ca.crt``, ``client.cert``, ``client.key``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ca.crt").write_bytes(authority.read_bytes())
        (folder / "client.cert").write_bytes(self.certificate.read_bytes())
        (folder / "client.key").touch(mode=0o600)
        (folder / "client.key").write_bytes(self.key.read_bytes())
        return folder


def _general(text: str) -> x509.GeneralName:
    """``DNS:a.example``, ``URI:spiffe://a/b``, ``EMAIL:a@example.com`` or ``IP:127.0.0.1``."""
    kind, _, value = text.partition(":")
    match kind:
        case "DNS":
            return x509.DNSName(value)
        case "URI":
            return x509.UniformResourceIdentifier(value)
        case "EMAIL":
            return x509.RFC822Name(value)
        case "IP":
            return x509.IPAddress(ipaddress.ip_address(value))
    raise ValueError(text)


class Authority:
    """Its own certificate is in ``file``. What it makes is below ``folder``."""

    def __init__(self, folder: Path, name: str = "authority of the tests", above: Authority | None = None) -> None:
        """``above``: the one that issued its certificate, if it is not its own."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.file = folder / "authority.crt"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        by = self if above is None else above
        made = (
            x509.CertificateBuilder(by._subject, self._subject, self._key.public_key(), x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + 30 * DAY)
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .sign(by._key, hashes.SHA256())
        )
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def client(
        self,
        common: str | None,
        *names: str,
        since: timedelta = -DAY,
        until: timedelta = 10 * DAY,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    ) -> Pair:
        """``names``: alternative ones, as `_general` reads them. ``since`` and ``until``: from now."""
        return self._make(common, names, since, until, usage)

    def server(self, *names: str) -> Pair:
        return self._make("localhost", names, -DAY, 10 * DAY, ExtendedKeyUsageOID.SERVER_AUTH)

    def revoked(self, *pairs: Pair, until: timedelta = DAY) -> bytes:
        """Its list of revoked certificates, in PEM; the next one is due ``until`` from now."""
        now = datetime.now(UTC)
        made = x509.CertificateRevocationListBuilder(self._subject, now - 2 * DAY, now + until)
        for pair in pairs:
            serial = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number
            made = made.add_revoked_certificate(
                x509.RevokedCertificateBuilder(serial, now - timedelta(hours=1)).build()
            )
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _make(
        self,
        common: str | None,
        names: Sequence[str],
        since: timedelta,
        until: timedelta,
        usage: x509.ObjectIdentifier,
    ) -> Pair:
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        subject = x509.Name([] if common is None else [x509.NameAttribute(NameOID.COMMON_NAME, common)])
        made = (
            x509.CertificateBuilder(self._subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now + since)
            .not_valid_after(now + until)
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if names:
            made = made.add_extension(x509.SubjectAlternativeName([*map(_general, names)]), critical=common is None)
        number = next(_names)
        pair = Pair(self.folder / f"{number}.crt", self.folder / f"{number}.key")
        pair.certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        pair.key.touch(mode=0o600)
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair


def context(authority: Path, client: Pair | None = None) -> ssl.SSLContext:
    """Of a client that trusts one authority, and shows a certificate where it has one."""
    made = ssl.create_default_context(cafile=authority)
    if client is not None:
        made.load_cert_chain(*client.chain)
    return made
