"""A client's certificate in a proxy's header: its forms, its names, and what is no certificate."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.server.auth.client_certificates import MAX_HEADER, MAX_NAMES, read_header
from bucketry.server.auth.errors import CredentialsRefused, Reason

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = ec.generate_private_key(ec.SECP256R1())


def make(common: list[str], alternative: list[x509.GeneralName]) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each) for each in common])
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), 1, NOW - DAY, NOW + DAY)
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    return builder.sign(KEY, hashes.SHA256())


CERTIFICATE = make(
    ["builder, CN=admin"],
    [
        x509.DNSName("CI.example"),
        x509.UniformResourceIdentifier("spiffe://acme/ci"),
        x509.RFC822Name("ci@acme.example"),
    ],
)
DER = CERTIFICATE.public_bytes(serialization.Encoding.DER)
PEM = CERTIFICATE.public_bytes(serialization.Encoding.PEM).decode()
BASE64 = base64.b64encode(DER).decode()


@pytest.mark.parametrize(
    "header", [f":{BASE64}:", BASE64, quote(PEM), quote(PEM, safe=""), f" {BASE64} ", PEM.replace("\n", " ")]
)
def test_every_form_gives_the_names_in_their_order(header: str) -> None:
    assert read_header(header).names == (
        "CN=builder, CN=admin",
        "DNS:CI.example",
        "URI:spiffe://acme/ci",
        "EMAIL:ci@acme.example",
    )


@pytest.mark.parametrize(
    "header",
    [
        "",
        ":",
        "::",
        "CN=admin",
        "O=acme,CN=admin",
        f"{BASE64},{BASE64}",
        f":{BASE64}:, :{BASE64}:",
        quote(PEM + PEM),
        quote(PEM[:-30]),
        BASE64[:-8],
        base64.b64encode(DER + DER).decode(),
        "é",
        "A" * (MAX_HEADER + 1),
        base64.b64encode(
            make(["a"], [x509.DNSName(f"a{i}.example") for i in range(MAX_NAMES)]).public_bytes(
                serialization.Encoding.DER
            )
        ).decode(),
    ],
)
def test_what_is_not_one_certificate_is_refused(header: str) -> None:
    with pytest.raises(CredentialsRefused) as refused:
        read_header(header)
    assert refused.value.reason is Reason.MALFORMED


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: base64.b64encode(data).decode()))
@settings(max_examples=200)
def test_nothing_but_a_refusal_comes_of_any_text(header: str) -> None:
    with pytest.raises(CredentialsRefused):
        read_header(header)


def test_a_certificate_counts_within_its_time_only() -> None:
    found = read_header(BASE64)
    found.check(NOW)
    for moment, reason in ((NOW - 2 * DAY, Reason.NOT_YET), (NOW + 2 * DAY, Reason.EXPIRED)):
        with pytest.raises(CredentialsRefused) as refused:
            found.check(moment)
        assert refused.value.reason is reason


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x12"),  # a version that there is not
        (b"\x0c\x11builder, CN=admin", b"\x03\x11\0uilder, CN=admin"),  # a name that is a bit string
    ],
)
def test_a_certificate_that_is_well_formed_and_no_certificate_is_refused(right: bytes, wrong: bytes) -> None:
    assert DER.count(right) >= 1
    with pytest.raises(CredentialsRefused):
        read_header(base64.b64encode(DER.replace(right, wrong)).decode())


def test_what_is_odd_in_a_certificate_writes_no_line_into_the_log() -> None:
    # pytest makes errors of warnings.
    number = b"\xa0\x03\x02\x01\x02\x02\x01"
    assert DER.count(number + b"\x01") == 1
    odd = DER.replace(number + b"\x01", number + b"\xff")
    assert read_header(base64.b64encode(odd).decode()).names == read_header(BASE64).names
