"""The certificate and the key that a server shows, and the authorities whose clients it lets in: read, and checked for
all that would keep a worker from starting with them. The process that leads the workers does so, before they are told.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtensionOID

from bucketry.server.sections import TlsConfig

MAX_FILE: Final = 4 * 1024 * 1024
SOON: Final = timedelta(days=7)
"""What ends within it is warned of."""

_KEYS: Final = "RSA of 2048 to 8192 bits, ECDSA of P-256 or P-384, or Ed25519"
_KNOWN: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)
"""Extensions that the server's TLS understands: it takes no certificate with another one that is critical."""


_BEGIN_LIST: Final = "-----BEGIN X509 CRL-----"
_LIST: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


class TlsUnusable(Exception):
    """One line: which setting, which file, and what is wrong. Nothing of a key or a password is in it."""


@dataclass(frozen=True, slots=True, repr=False)
class Material:
    """In PEM; ``key`` is not encrypted, whatever its file is.

    ``fingerprint`` changes when any of the files brings something else. ``warnings``: a line each.
    """

    certificate: bytes
    key: bytes
    authorities: bytes | None
    revoked: bytes | None
    fingerprint: str
    expires: datetime
    warnings: tuple[str, ...]


def read_material(config: TlsConfig, *, now: datetime) -> Material:
    """Raises `TlsUnusable`. Blocks. ``config.cert`` and ``config.key`` are there."""
    assert config.cert is not None
    assert config.key is not None
    chain_pem, key_pem = _read("tls.cert", config.cert), _read("tls.key", config.key)
    chain = _certificates("tls.cert", config.cert, chain_pem)
    key = _key(config.key, key_pem, config.key_password)
    if _public(key) != _public_of(config.cert, chain[0]):
        if any(_public(key) == _public_of(config.cert, other) for other in chain[1:]):
            raise TlsUnusable(f"tls.cert: {config.cert}: the server's own certificate comes first, then its issuers'")
        raise TlsUnusable(f"tls.key: the key in {config.key} is not that of the certificate in {config.cert}")
    leaf = chain[0]
    _usable(config.cert, leaf)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    whole = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)
    warnings = _lifetime(f"the certificate in {config.cert}", leaf, now)
    if not _has_names(leaf):
        warnings += (f"the certificate in {config.cert} names no host (subjectAltName): clients do not take it",)
    authorities = revoked = None
    if config.client_ca is not None:
        trusted = _certificates("tls.client_ca", config.client_ca, _read("tls.client_ca", config.client_ca))
        for each in trusted:
            _authority(config.client_ca, each)
            warnings += _lifetime(f"a certificate in {config.client_ca}", each, now)
        authorities = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in trusted)
        if config.client_crl is not None:
            lists = _lists(config.client_crl, _read("tls.client_crl", config.client_crl))
            warnings += _check_lists(config.client_crl, lists, trusted, now)
            revoked = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in lists)
    parts = (whole, _public(key), authorities or b"", revoked or b"")
    fingerprint = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    return Material(whole, key_pem, authorities, revoked, fingerprint, leaf.not_valid_after_utc, warnings)


def _read(setting: str, path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise TlsUnusable(f"{setting}: cannot read {path}: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise TlsUnusable(f"{setting}: {path} has more than {MAX_FILE} bytes")
    return data


def _certificates(setting: str, path: str, data: bytes) -> list[x509.Certificate]:
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise TlsUnusable(f"{setting}: there is no certificate in PEM in {path} (-----BEGIN CERTIFICATE-----)")
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise TlsUnusable(f"{setting}: a certificate in {path} is damaged") from None


def _key(path: str, data: bytes, password: str | None) -> PrivateKeyTypes:
    encrypted = b"ENCRYPTED" in data
    if encrypted and password is None:
        raise TlsUnusable(f"tls.key: the key in {path} is encrypted: say its password by tls.key_password")
    try:
        key = serialization.load_pem_private_key(
            data, password.encode() if encrypted and password is not None else None
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if encrypted:
            raise TlsUnusable(
                f"tls.key: the key in {path} is damaged, or tls.key_password is not its password"
            ) from None
        raise TlsUnusable(f"tls.key: there is no private key in PEM in {path} that can be read") from None
    match key:
        case rsa.RSAPrivateKey() if 2048 <= key.key_size <= 8192:
            return key
        case ec.EllipticCurvePrivateKey() if isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
            return key
        case ed25519.Ed25519PrivateKey():
            return key
    raise TlsUnusable(f"tls.key: the key in {path} is of a kind that is not served with: take {_KEYS}")


def _public(key: PrivateKeyTypes) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _public_of(path: str, certificate: x509.Certificate) -> bytes:
    try:
        return certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, UnsupportedAlgorithm):
        raise TlsUnusable(f"tls.cert: a certificate in {path} has a key of a kind that is not known") from None


def _usable(path: str, certificate: x509.Certificate) -> None:
    """What the workers' TLS would not start with."""
    if certificate.version is not x509.Version.v3:
        raise TlsUnusable(f"tls.cert: the certificate in {path} is of version 1, and TLS takes version 3 only")
    for extension in _extensions("tls.cert", path, certificate):
        if extension.critical and extension.oid not in _KNOWN:
            raise TlsUnusable(
                f"tls.cert: the certificate in {path} has a critical extension that is not known: "
                f"{extension.oid.dotted_string}"
            )


def _authority(path: str, certificate: x509.Certificate) -> None:
    _extensions("tls.client_ca", path, certificate)
    try:
        is_one = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_one = False
    if not is_one:
        raise TlsUnusable(
            f"tls.client_ca: {path} holds a certificate that is no authority's ({_subject(certificate)}): clients are "
            "let in by who signed theirs"
        )


def _lists(path: str, data: bytes) -> list[x509.CertificateRevocationList]:
    found = _LIST.findall(data)
    if not found:
        raise TlsUnusable(f"tls.client_crl: there is no list of revoked certificates in PEM in {path} ({_BEGIN_LIST})")
    try:
        return [x509.load_pem_x509_crl(each) for each in found]
    except ValueError:
        raise TlsUnusable(f"tls.client_crl: a list of revoked certificates in {path} is damaged") from None


def _check_lists(
    path: str, lists: list[x509.CertificateRevocationList], trusted: list[x509.Certificate], now: datetime
) -> tuple[str, ...]:
    """What is to be warned of. An authority whose lists are missing is refused, as all its clients would be."""
    warnings: tuple[str, ...] = ()
    for authority in trusted:
        if not any(authority.issuer == each.subject for each in trusted):
            # OpenSSL asks for the list that it would be on itself, and has nobody to verify that by.
            raise TlsUnusable(
                f"tls.client_crl: whether {_subject(authority)}, in tls.client_ca, is revoked itself cannot be known: "
                "put the authority that issued it there, too, and that one's list here"
            )
        own = [each for each in lists if each.issuer == authority.subject and _signed(each, authority)]
        if not own:
            raise TlsUnusable(
                f"tls.client_crl: {path} holds no list of an authority in tls.client_ca ({_subject(authority)}), so "
                "none of its clients could be let in"
            )
        due = max((each.next_update_utc or datetime.max.replace(tzinfo=UTC)) for each in own)
        if due < now:
            warnings += (
                f"the list of revoked certificates of {_subject(authority)} in {path} was due to be replaced on "
                f"{_day(due)}: none of its clients is let in until it is",
            )
    return warnings


def _signed(each: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return each.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _extensions(setting: str, path: str, certificate: x509.Certificate) -> x509.Extensions:
    try:
        return certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise TlsUnusable(f"{setting}: a certificate in {path} has extensions that cannot be read") from None


def _subject(certificate: x509.Certificate) -> str:
    try:
        return ascii(certificate.subject.rfc4514_string())[1:-1][:100]
    except ValueError:
        return "its subject cannot be read"


def _has_names(certificate: x509.Certificate) -> bool:
    return any(each.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME for each in certificate.extensions)


def _lifetime(what: str, certificate: x509.Certificate, now: datetime) -> tuple[str, ...]:
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if until < now:
        return (f"{what} expired on {_day(until)}: clients do not take it",)
    if since > now:
        return (f"{what} is valid from {_day(since)} on only: clients do not take it yet",)
    if until - now < SOON and until - since > SOON:
        return (f"{what} expires on {_day(until)}",)
    return ()


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
