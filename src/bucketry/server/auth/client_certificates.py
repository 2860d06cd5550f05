"""The certificate of a client, from its connection or from a proxy that passes it on in a header: the names it bears.

The whole certificate is read and not a proxy's words for its subject, as those have as many forms as there are proxies,
and a name with a comma in it could be read as two.
"""

from __future__ import annotations

import base64
import binascii
import warnings
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from bucketry.server.auth.errors import CredentialsRefused, Reason

MAX_HEADER: Final = 16 * 1024
MAX_NAMES: Final = 100
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
_UNREADABLE: Final = (
    ValueError,
    TypeError,  # of a name that is written as a bit string
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """``names``: as rules write them, the subject's common names first, then the alternative names in their order."""

    names: tuple[str, ...]
    since: datetime
    until: datetime

    def check(self, now: datetime) -> None:
        """Raises `CredentialsRefused` where it is not valid now, which the proxy should have seen."""
        if now > self.until:
            raise CredentialsRefused("the client certificate has expired", reason=Reason.EXPIRED)
        if now < self.since:
            raise CredentialsRefused("the client certificate is not valid yet", reason=Reason.NOT_YET)


@lru_cache(maxsize=1024)
def read_header(value: str) -> ClientCertificate:
    """``value``: ``:BASE64:`` (RFC 9440), base64 of DER, or PEM with percent-encoding (nginx's escaped certificate).

    Raises `CredentialsRefused`.
    """
    try:
        return _read(_der(value))
    except _UNREADABLE:
        raise CredentialsRefused(
            "the header of the client certificate holds none that can be read", reason=Reason.MALFORMED
        ) from None


@lru_cache(maxsize=1024)
def read_der(data: bytes) -> ClientCertificate:
    """Of a connection: verified by an authority of the owner's. Raises `CredentialsRefused`."""
    try:
        return _read(data)
    except _UNREADABLE:
        raise CredentialsRefused(
            "the client certificate has names that cannot be read", reason=Reason.MALFORMED
        ) from None


def _read(der: bytes) -> ClientCertificate:
    """Raises what `_UNREADABLE` names."""
    with warnings.catch_warnings():
        # What is odd and still read (a serial number below one, a country of three letters) would be told on standard
        # error, between the lines of the log.
        warnings.simplefilter("ignore")
        certificate = x509.load_der_x509_certificate(der)
        return ClientCertificate(_names(certificate), certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def _der(value: str) -> bytes:
    """Raises `ValueError`."""
    if len(value) > MAX_HEADER:
        raise ValueError("too long")
    data = value.strip().encode("ascii", "strict")
    if data.startswith(b":") and data.endswith(b":") and len(data) > 1:
        data = data[1:-1]
    elif b"%" in data or data.startswith(_BEGIN):
        data = unquote_to_bytes(data).strip()
        if data.startswith(_BEGIN):
            inner, end, rest = data.removeprefix(_BEGIN).partition(_END)
            # A second one could be an issuer's: which of them is the client's must not be a guess.
            if not end or rest.strip():
                raise ValueError("not one certificate")
            data = b"".join(inner.split())
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Raises `ValueError`, and what a certificate's extensions do."""
    common = [each.value for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    names = [f"CN={each}" for each in common if isinstance(each, str)]
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        alternative = x509.SubjectAlternativeName([])
    for name in alternative:
        match name:
            case x509.DNSName():
                names.append(f"DNS:{name.value}")
            case x509.UniformResourceIdentifier():
                names.append(f"URI:{name.value}")
            case x509.RFC822Name():
                names.append(f"EMAIL:{name.value}")
    if len(names) > MAX_NAMES:
        raise ValueError("too many names")
    return tuple(names)
