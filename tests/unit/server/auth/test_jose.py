"""Whatever is sent: it is read in one way only, or refused; never anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.server.auth.forging import EC, ED, RSA, algorithm_of, b64, forged, jwk, signed

from bucketry.server.auth import jose
from bucketry.server.auth.errors import TokenRefused
from bucketry.server.auth.jose import VerifyKey, check_signature, issuer_of, read_object, take_apart
from bucketry.server.auth.keysets import KeysUnavailable, parse_key_set

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=5)
members = st.sampled_from(["kty", "n", "e", "crv", "x", "y", "d", "kid", "alg", "use", "key_ops", "k", "x5c"])
KEYS = {key["kid"]: key for key in (jwk(RSA, "RS256"), jwk(EC, "ES256"), jwk(ED, "EdDSA"))}


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@settings(max_examples=50)
@given(objects)
def test_what_can_be_read_is_read_as_it_was_written(value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    if depth(value) > jose.MAX_DEPTH:
        with pytest.raises(TokenRefused):
            read_object(body, "it")
    else:
        assert read_object(body, "it") == value


@settings(max_examples=50)
@given(objects, texts, values, values)
def test_a_name_that_comes_twice_is_refused_at_every_level(
    inner: dict[str, Any], name: str, one: object, other: object
) -> None:
    twice = "{" + f"{json.dumps(name)}:{json.dumps(one)},{json.dumps(name)}:{json.dumps(other)}" + "}"
    for body in (twice, f'{{"a":{twice}}}', f'{{"a":[{json.dumps(inner)},{twice}]}}'):
        with pytest.raises(TokenRefused):
            read_object(body.encode(), "it")


@settings(max_examples=100)
@given(st.binary(max_size=200))
@example(b"[" * 399 + b"{")
@example(b'{"a":' * 390)
@example(b'{"a":1' + b"0" * 10_000 + b"}")
@example(b'{"a":"\\udc00"}')
@example(b'{"\\ud800":1}')
def test_no_bytes_do_anything_but_be_refused_or_read(body: bytes) -> None:
    try:
        value = read_object(body, "it")
    except TokenRefused:
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@settings(max_examples=100)
@given(st.one_of(st.text(), st.lists(st.binary(max_size=40).map(b64), max_size=5).map(".".join)))
@example("eyJhbGciOiJub25lIn0.e30.")
@example("." * 16_000)
@example("é.é.é")
def test_no_text_does_anything_but_be_refused_or_taken_apart(text: str) -> None:
    assert issuer_of(text) is None
    with pytest.raises(TokenRefused):
        take_apart(text)


@settings(max_examples=50)
@given(st.dictionaries(texts | st.sampled_from(["alg", "kid", "typ", "jwk", "crit"]), values), objects)
def test_no_header_and_no_claims_do_anything_else(header: dict[str, Any], claims: dict[str, Any]) -> None:
    token = forged(header | {"alg": "RS256", "kid": "k"}, claims, lambda message: b"x" * 256)
    try:
        unverified = take_apart(token)
    except TokenRefused:
        return
    assert unverified.claims == claims
    for key in (VerifyKey("k", "RS256", RSA.public_key()), VerifyKey("k", "EdDSA", ED.public_key())):
        with pytest.raises(TokenRefused):
            check_signature(unverified, key)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_set_of_keys_does_anything_but_be_refused_or_read(data: st.DataObject) -> None:
    entries = data.draw(
        st.lists(
            st.sampled_from(sorted(KEYS)).flatmap(
                lambda name: st.dictionaries(members, values | st.binary(max_size=300).map(b64), max_size=3).map(
                    lambda changes: KEYS[name] | changes
                )
            ),
            max_size=4,
        )
    )
    try:
        found = parse_key_set(json.dumps({"keys": entries}).encode(), "here")
    except KeysUnavailable:
        return
    assert found
    assert all(key.algorithm in jose.ALGORITHMS for key in found.values())


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=["RS256", "ES256", "EdDSA"])
def test_a_signature_holds_for_its_key_and_its_algorithm_only(key: Any) -> None:
    unverified = take_apart(signed(key, {"a": 1}))
    for algorithm in jose.ALGORITHMS:
        for other in (RSA, EC, ED):
            if algorithm_of(other) != algorithm:
                with pytest.raises(ValueError, match="no key for"):
                    VerifyKey("k1", algorithm, other.public_key())
            elif other is key:
                check_signature(unverified, VerifyKey("k1", algorithm, other.public_key()))
            else:
                with pytest.raises(TokenRefused, match="not that of its key"):
                    check_signature(unverified, VerifyKey("k1", algorithm, other.public_key()))


@pytest.mark.parametrize("signature", [b"\0" * 64, b"\xff" * 64, b"\0" * 63, b"\0" * 65, b"\0", bytes(32) + b"\1" * 32])
def test_degenerate_signatures_hold_for_no_key(signature: bytes) -> None:
    for algorithm, key in (("ES256", EC), ("EdDSA", ED), ("RS256", RSA)):
        token = forged({"alg": algorithm, "kid": "k"}, {"a": 1}, lambda message: signature)
        with pytest.raises(TokenRefused, match="signature is wrong"):
            check_signature(take_apart(token), VerifyKey("k", algorithm, key.public_key()))
