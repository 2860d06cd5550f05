"""Tokens that somebody forged, or that are right but for one thing, at a server that runs.

Every form that a JWT can have: ``tests/unit/server/auth/test_jose.py``, ``test_tokens.py``, ``test_oidc.py``.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.support.access import ISSUER, World, basic, parts
from tests.unit.server.auth.forging import ED, OTHER_RSA, RSA, b64, forged, hmac_with, jwk, signed, signer, unb64


def smuggled(header: dict[str, Any], payload: dict[str, Any], raw: bytes) -> Iterator[tuple[str, str]]:
    """Tokens that say the same and are signed by somebody else. ``raw``: the public half of the registry's key."""
    mine, own = jwk(ED, header["kid"]), signer(ED)
    certificate = [base64.b64encode(b"0" * 300).decode()]
    extras: tuple[dict[str, Any], ...] = (
        {},
        {"jwk": mine},
        {"jku": "https://evil.example/jwks.json"},
        {"jku": "file:///etc/passwd"},
        {"x5c": certificate},
        {"x5u": "https://evil.example/x"},
        {"x5t": "abc"},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"zip": "DEF"},
        {"cty": "JWT"},
        {"typ": "JOSE"},
    )
    for extra in extras:
        yield f"signed by another, {extra}", forged({**header, **extra}, payload, own)
    for kid in ("../keys", "", "0", header["kid"] + "0", "../../htpasswd", "/dev/null", "' OR 1=1", "\0", "x" * 5000):
        yield f"kid {kid[:20]!r}", forged({**header, "kid": kid}, payload, own)
    for kid in (None, 1, [], {}, True):
        yield f"kid {kid!r}", forged({**header, "kid": kid}, payload, own)
    nones: tuple[object, ...] = ("none", "None", "NONE", "nOnE", "", None, [], "EdDSA ")
    for none in nones:
        yield f"alg {none!r}", forged({**header, "alg": none}, payload, lambda message: b"")
        yield f"alg {none!r} signed", forged({**header, "alg": none}, payload, own)
    for secret in (raw, b64(raw).encode(), b"", header["kid"].encode(), base64.b64encode(raw)):
        yield "HS256 by the public key", forged({**header, "alg": "HS256"}, payload, hmac_with(secret))
    for algorithm in ("RS256", "PS256", "ES256", "ES512", "Ed25519", "EdDSA", "HS512"):
        yield algorithm, forged({**header, "alg": algorithm}, payload, signer(OTHER_RSA))
    yield "no header", forged(b"", payload, own)
    yield "header twice", forged(json.dumps(header).encode()[:-1] + b',"alg":"none"}', payload, lambda message: b"")


def test_cve_2025_24976_no_token_brings_the_key_that_it_is_verified_by(world: World) -> None:
    """CVE-2025-24976: keys in headers (jwk, x5c, jku), kid as a path, alg none, HMAC by the public key."""
    repository = "public/tool"
    token = world.token("root", f"repository:{repository}:*")
    header, payload = parts(token)
    assert set(header) == {"alg", "kid", "typ"}
    _, key = world.signing_key()
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    delete = f"/v2/{repository}/manifests/latest"
    tried = 0
    for label, each in smuggled(header, payload, raw):
        for method in ("GET", "DELETE"):
            answer = world(f"Bearer {each}", method, delete)
            assert answer.error() == (401, "UNAUTHORIZED"), (label, answer)
            assert 'error="invalid_token"' in answer.header("WWW-Authenticate"), label
        tried += 1
    assert tried > 50
    assert world(None, "GET", delete).status == 200


def test_cve_2025_24976_no_id_token_brings_the_key_that_it_is_verified_by(world: World) -> None:
    """CVE-2025-24976, of the tokens that jobs bring from their issuer."""
    now = time.time()
    payload = {"iss": ISSUER, "aud": "me", "sub": "job", "iat": now, "exp": now + 600, "ref": "refs/heads/main"}
    header = {"alg": "RS256", "kid": "k1", "typ": "JWT"}
    public = json.dumps(jwk(RSA)).encode()
    right = signed(RSA, payload)
    target = "/v2/ci/app/tags/list"
    assert world(f"Bearer {right}", "GET", target).message == "there is no repository ci/app"
    for label, each in smuggled(header, payload, public):
        if label == "RS256":
            continue
        for credentials in (f"Bearer {each}", basic("x", each)):
            if len(credentials) < 8000:
                assert world(credentials, "GET", target).status in (401, 429), label


def registry_token(world: World) -> tuple[dict[str, Any], Callable[..., str]]:
    kid, key = world.signing_key()
    _, payload = parts(world.token("root", "repository:public/tool:*"))

    def made(_header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        changed = {name: value for name, value in {**payload, **claims}.items() if value != "ABSENT"}
        return forged({"alg": "EdDSA", "kid": kid, "typ": "JWT", **(_header or {})}, changed, signer(key))

    return payload, made


def test_token_of_another_time_audience_service_or_form_is_refused(world: World) -> None:
    """Signed by the registry's very key, so what it says is all that is looked at."""
    payload, made = registry_token(world)
    now = time.time()
    target = "/v2/public/tool/manifests/latest"
    assert world(f"Bearer {made()}", "GET", target).status == 200
    wrong: dict[str, dict[str, Any]] = {
        "expired": {"exp": int(now) - 1},
        "expired long ago": {"iat": int(now) - 9000, "nbf": int(now) - 9000, "exp": int(now) - 8000},
        "not yet": {"nbf": int(now) + 200, "iat": int(now) + 200, "exp": int(now) + 400},
        "lives too long": {"exp": int(now) + 100_000},
        "lives for ever": {"exp": 10**18},
        "exp as text": {"exp": str(int(now) + 100)},
        "exp infinite": {"exp": 1e308},
        "no exp": {"exp": "ABSENT"},
        "no iat": {"iat": "ABSENT"},
        "no jti": {"jti": "ABSENT"},
        "no sub": {"sub": "ABSENT"},
        "no access": {"access": "ABSENT"},
        "other audience": {"aud": "other"},
        "audience with more": {"aud": "bucketry2"},
        "audience in capitals": {"aud": "BUCKETRY"},
        "no audience": {"aud": "ABSENT"},
        "other issuer": {"iss": "bucketry:other"},
        "issuer of jobs": {"iss": ISSUER},
        "sub that is none": {"sub": "root"},
        "sub of a group": {"sub": "group:dev"},
        "sub that looks alike": {"sub": "user:r\u043eot"},
        "sub everybody": {"sub": "authenticated"},
        "sub as a list": {"sub": ["user:root"]},
        "user who is not there": {"sub": "user:nobody"},
        "robot that is not there": {"sub": "robot:nobody"},
        "issuer that is not there": {"sub": "oidc:nobody"},
        "user with claims": {"claims": {"ref": "x"}},
        "user of another password": {"bound": "0" * 32},
        "not bound": {"bound": "ABSENT"},
        "bound to nothing": {"bound": ""},
        "certificate of nobody": {"method": "certificate"},
        "no method": {"method": "ABSENT"},
        "method made up": {"method": "magic"},
        "access as text": {"access": "repository:public/tool:*"},
        "access of another type": {"access": [{"type": "everything", "name": "", "actions": ["pull"]}]},
        "action made up": {"access": [{"type": "repository", "name": "public/tool", "actions": ["*"]}]},
        "too much access": {"access": [{"type": "repository", "name": "a", "actions": ["pull"]}] * 500},
    }
    for label, claims in wrong.items():
        answer = world(f"Bearer {made(**claims)}", "GET", target)
        assert answer.status in (401, 431), (label, answer)
    headers: tuple[dict[str, Any], ...] = ({"jwk": jwk(ED)}, {"x5c": []}, {"typ": "JOSE"}, {"cty": "JWT"})
    for header in (*headers, {"crit": ["exp"]}, {"kid": "000000"}):
        assert world(f"Bearer {made(header)}", "GET", target).status == 401, header
    right = made()
    head, body, signature = right.split(".")
    elsewhere = b64(json.dumps({**payload, "sub": "user:bob"}).encode())
    tampered = {
        "another payload": f"{head}.{elsewhere}.{signature}",
        "no signature": f"{head}.{body}.",
        "two parts": f"{head}.{body}",
        "four parts": f"{right}.{signature}",
        "cut signature": right[:-4],
        "padded": f"{right}==",
        "in a token": forged(json.loads(unb64(head)), right.encode(), signer(ED)),
        "nested": made({"cty": "JWT"}, nested=right),
        "twice": f"{right},{right}",
        "with spaces": f"{head}. {body}.{signature}",
        "in quotes": f'"{right}"',
        "huge": f"{head}.{b64(b'{' + b' ' * 20_000 + b'}')}.{signature}",
        "deep": f"{head}.{b64(b'[' * 5000)}.{signature}",
    }
    for label, each in tampered.items():
        for credentials in (f"Bearer {each}", basic("x", each)):
            assert world(credentials, "GET", target).status in (401, 429, 431), label
    assert world(f"Bearer {right}", "GET", target).status == 200


def test_token_for_bobs_things_is_none_for_alices_whatever_it_says(world: World) -> None:
    """Access in a token is what was allowed; what is allowed is asked again."""
    _, made = registry_token(world)
    world.image("alice", "a/own", "edge", "alice")
    bob = parts(world.token("bob"))[1]
    everything = [
        {"type": "repository", "name": "a/own", "actions": ["admin", "pull", "push", "overwrite", "delete"]},
        {"type": "registry", "name": "catalog", "actions": ["catalog"]},
    ]
    token = f"Bearer {made(sub='user:bob', bound=bob['bound'], access=everything)}"
    assert world(token, "GET", "/v2/").status == 200
    assert world(token, "GET", "/v2/a/own/manifests/edge").error() == (404, "NAME_UNKNOWN")
    assert world(token, "DELETE", "/v2/a/own/manifests/edge").error() == (403, "DENIED")
    assert world(token, "GET", "/v2/_catalog").error() == (403, "DENIED")
