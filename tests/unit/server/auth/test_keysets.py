from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tests.unit.server.auth.forging import EC, ED, OTHER_RSA, RSA, b64, jwk, key_set

from bucketry.server.auth.keysets import (
    MAX_DOCUMENT,
    MAX_KEYS,
    FileKeys,
    IssuerKeys,
    KeysUnavailable,
    UrlKeys,
    checked_url,
    parse_key_set,
)

ISSUER = "https://issuer.example.com/realm"


def names(body: bytes) -> set[tuple[str, str]]:
    return set(parse_key_set(body, "here"))


def test_the_three_kinds_of_keys_are_taken_each_with_its_one_algorithm() -> None:
    body = key_set(jwk(RSA, "r"), jwk(EC, "e"), jwk(ED, "d"), jwk(OTHER_RSA, "r2", alg="RS256"))

    assert names(body) == {("r", "RS256"), ("e", "ES256"), ("d", "EdDSA"), ("r2", "RS256")}


GOOD = jwk(RSA, "good")


@pytest.mark.parametrize(
    "other",
    [
        {"kty": "oct", "k": b64(b"secret" * 8), "alg": "HS256", "kid": "x"},
        {"kty": "oct", "k": b64(b"secret" * 8), "alg": "RS256", "kid": "x"},
        jwk(OTHER_RSA, "x", alg="RS512"),
        jwk(OTHER_RSA, "x", alg="PS256"),
        jwk(OTHER_RSA, "x", alg="RSA-OAEP"),
        jwk(OTHER_RSA, "x", alg="HS256"),
        jwk(OTHER_RSA, "x", alg="none"),
        jwk(OTHER_RSA, "x", use="enc"),
        jwk(OTHER_RSA, "x", key_ops=["encrypt"]),
        jwk(OTHER_RSA, "x", key_ops="verify"),
        jwk(rsa.generate_private_key(65537, 1024), "x"),
        jwk(EC, "x", crv="P-384"),
        jwk(EC, "x", crv=7),
        jwk(EC, "x", y=b64(bytes(32))),
        jwk(ED, "x", crv="Ed448"),
        jwk(ED, "x", x="AAAA"),
        jwk(OTHER_RSA, "x", n="!"),
        jwk(OTHER_RSA, "x", n=""),
        jwk(OTHER_RSA, "x", n=b64(b"\xff" * 2000)),
        jwk(OTHER_RSA, "x", n=b64(b"\xff" * 256), e=b64(b"\xff" * 200)),
        jwk(OTHER_RSA, "x", e=b64(b"\x00")),
        jwk(OTHER_RSA, "x", e=None),
        jwk(OTHER_RSA, "x", n=["a"]),
        jwk(OTHER_RSA, "k" * 257),
        {**jwk(OTHER_RSA), "kid": 7},
        {"kty": "RSA", "kid": "x"},
        {"kty": ["RSA"], "kid": "x"},
        {},
        "text",
        None,
        [],
    ],
    ids=count(),
)
def test_a_key_that_no_token_can_be_verified_with_is_passed_over(other: Any) -> None:
    assert names(json.dumps({"keys": [other, GOOD]}).encode()) == {("good", "RS256")}
    with pytest.raises(KeysUnavailable, match="here has no key"):
        parse_key_set(json.dumps({"keys": [other]}).encode(), "here")


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()], ids=lambda curve: curve.name)
def test_other_curves_are_passed_over(curve: ec.EllipticCurve) -> None:
    entry = jwk(EC, "x") | {"crv": "P-384" if curve.name == "secp384r1" else "secp256k1"}

    assert names(key_set(entry, GOOD)) == {("good", "RS256")}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"x", b"[]", b"null", b"{}", b'{"keys":{}}', b'{"keys":null}', b'{"keys":[]}', b'{"keys":[],"keys":[]}',
        b"\xff", b"<html></html>", b" " * (MAX_DOCUMENT + 1), b'{"keys":' + b"[" * 1000 + b"]" * 1000 + b"}",
        key_set(*(jwk(ED, f"k{number}") for number in range(MAX_KEYS + 1))),
        key_set(jwk(RSA, "same"), jwk(OTHER_RSA, "same")),
    ],
    ids=count(),
)  # fmt: skip
def test_what_is_no_set_of_keys_is_refused_with_its_place(body: bytes) -> None:
    with pytest.raises(KeysUnavailable, match="here") as caught:
        parse_key_set(body, "here")

    assert len(str(caught.value)) < 200


def test_as_many_keys_as_are_allowed_are_taken_with_certificates_beside() -> None:
    assert len(names(key_set(*(jwk(ED, f"k{number}", x5c=["MIIB"]) for number in range(MAX_KEYS))))) == MAX_KEYS


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example.com", "file:///etc/passwd", "https://", "https:///path", "//host", "issuer.example.com",
        "https://user:pass@host", "https://host?x", "https://host#x", "https://host?", "https://host#",
        "https://host:port", "https://hóst",
        "https://host/a b", "https://host/\n", "ftp://host", "", "https://" + "a" * 3000,
    ],
)  # fmt: skip
def test_only_plain_https_urls_are_taken(url: str) -> None:
    with pytest.raises(ValueError):
        checked_url(url)


@pytest.mark.parametrize("url", ["https://10.0.0.1:6443", "https://[::1]:1/x", "https://kubernetes.default.svc"])
def test_an_issuer_may_be_on_the_owners_own_network(url: str) -> None:
    assert checked_url(url) == url


class Web:
    """Documents by URL; notes what was asked."""

    def __init__(self, **documents: object) -> None:
        self.asked: list[str] = []
        self.documents = documents

    async def __call__(self, url: str, *, limit: int) -> bytes:
        self.asked.append(url)
        for name, value in self.documents.items():
            if url.endswith(name):
                return value if isinstance(value, bytes) else json.dumps(value).encode()
        raise KeysUnavailable(f"{url} answered 404")


def discovery(**changes: object) -> dict[str, object]:
    return {"issuer": ISSUER, "jwks_uri": "https://keys.example.com/jwks", "more": 1} | changes


async def test_an_issuers_keys_may_be_at_a_url_with_a_query() -> None:
    web = Web(**{"openid-configuration": discovery(jwks_uri="https://a/keys?p=x"), "keys?p=x": key_set(GOOD)})

    assert set(await IssuerKeys(ISSUER, web).load()) == {("good", "RS256")}


async def test_an_issuer_names_its_keys() -> None:
    web = Web(**{"openid-configuration": discovery(), "jwks": key_set(GOOD)})

    assert set(await IssuerKeys(ISSUER, web).load()) == {("good", "RS256")}

    assert web.asked == [f"{ISSUER}/.well-known/openid-configuration", "https://keys.example.com/jwks"]


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (discovery(issuer=ISSUER + "/"), "is not about"),
        (discovery(issuer="https://evil.example.com"), "is not about"),
        (discovery(issuer=None), "is not about"),
        (discovery(jwks_uri=None), "no jwks_uri"),
        (discovery(jwks_uri=["https://a/jwks"]), "no jwks_uri"),
        (discovery(jwks_uri="http://keys.example.com/jwks"), "must begin with https"),
        (discovery(jwks_uri="file:///etc/jwks"), "must begin with https"),
        (discovery(jwks_uri="https://user@host/jwks"), "no credentials"),
        (discovery(jwks_uri="https://host/jwks#x"), "no fragment"),
        (b"[]", "no JSON object"),
        (b"{" * 500, "nests too much"),
    ],
)
async def test_a_discovery_document_is_checked(document: object, complaint: str) -> None:
    web = Web(**{"openid-configuration": document, "jwks": key_set(GOOD)})

    with pytest.raises(KeysUnavailable, match=complaint):
        await IssuerKeys(ISSUER, web).load()

    assert len(web.asked) == 1


async def test_keys_come_from_a_url_or_a_file(tmp_path: Path) -> None:
    web = Web(**{"jwks.json": key_set(GOOD)})
    (tmp_path / "jwks.json").write_bytes(key_set(GOOD))

    assert set(await UrlKeys("https://auth.example.com/jwks.json", web).load()) == {("good", "RS256")}
    assert set(await FileKeys(tmp_path / "jwks.json").load()) == {("good", "RS256")}


async def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    large.write_bytes(b" " * (MAX_DOCUMENT + 10))
    for path in (tmp_path / "absent.json", tmp_path, large):
        with pytest.raises(KeysUnavailable, match=path.name):
            await FileKeys(path).load()
