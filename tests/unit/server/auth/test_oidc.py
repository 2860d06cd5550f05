from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.unit.registry.helpers import NOW, FakeClock, standstill
from tests.unit.server.auth.forging import EC, ED, OTHER_RSA, RSA, b64, forged, hmac_with, jwk, key_set, signed, signer
from tests.unit.server.auth.issuer import TlsIssuer

from bucketry.access.principal import MAX_CLAIM, MAX_CLAIMS, Method, Principal
from bucketry.access.sources import Issuer
from bucketry.server.auth import jose
from bucketry.server.auth.errors import IssuerUnavailable, Reason, TokenRefused
from bucketry.server.auth.key_cache import FILE_TIMES, KeyTimes
from bucketry.server.auth.oidc import LEEWAY, LONGEST, IdTokens

AUDIENCE = "registry.example.com"
TIMES = KeyTimes()


def github(issuer: str, **changes: Any) -> dict[str, Any]:
    """As GitHub Actions gives them out."""
    now = int(NOW)
    return {
        "iss": issuer, "aud": AUDIENCE, "sub": "repo:acme/app:ref:refs/heads/main", "jti": "a1b2",
        "iat": now, "nbf": now - 300, "exp": now + 300,
        "ref": "refs/heads/main", "sha": "0" * 40, "repository": "acme/app", "repository_owner": "acme",
        "repository_owner_id": "65", "run_id": "1", "run_attempt": "2", "actor": "octocat", "workflow": "Büild ✓",
        "head_ref": "", "event_name": "push", "ref_type": "branch", "repository_visibility": "private",
        "job_workflow_ref": "acme/app/.github/workflows/ci.yml@refs/heads/main", "runner_environment": "github-hosted",
    } | changes  # fmt: skip


def kubernetes(issuer: str, **changes: Any) -> dict[str, Any]:
    """As the API server of a cluster gives them to a pod."""
    now = int(NOW)
    return {
        "iss": issuer, "aud": [AUDIENCE, "vault"], "sub": "system:serviceaccount:team:builder",
        "iat": now, "nbf": now, "exp": now + 3607, "jti": "6f2b",
        "kubernetes.io": {
            "namespace": "team",
            "node": {"name": "n1", "uid": "1"},
            "pod": {"name": "build-x7", "uid": "2"},
            "serviceaccount": {"name": "builder", "uid": "3"},
            "warnafter": now + 3600,
        },
    } | changes  # fmt: skip


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[TlsIssuer]:
    async with TlsIssuer(tmp_path, keys=[jwk(RSA, "k1"), jwk(EC, "e1"), jwk(ED, "d1")]) as issuer:
        yield issuer


@pytest.fixture
async def tokens(issuer: TlsIssuer, clock: FakeClock) -> AsyncIterator[IdTokens]:
    tokens = IdTokens([Issuer("github", issuer.url, (AUDIENCE,), ca=issuer.ca)], clock=clock)
    yield tokens
    await tokens.close()


async def refused(tokens: IdTokens, token: str) -> Reason:
    with pytest.raises(TokenRefused) as caught:
        await tokens.verify(token)
    assert all(len(part) < 12 or part not in str(caught.value) for part in token.split("."))
    return caught.value.reason


async def test_a_github_token_becomes_a_principal_with_its_claims(tokens: IdTokens, issuer: TlsIssuer) -> None:
    verified = await tokens.verify(signed(RSA, github(issuer.url)))

    principal = verified.principal
    assert (principal.kind, principal.name, principal.method) == ("oidc", "github", Method.ID_TOKEN)
    assert principal.claims["repository_owner"] == "acme"
    assert principal.claims["ref"] == "refs/heads/main"
    assert principal.claims["workflow"] == "Büild ✓"
    assert (verified.subject, verified.expires) == ("repo:acme/app:ref:refs/heads/main", NOW + 300)


async def test_a_kubernetes_token_with_several_audiences_becomes_a_principal(
    tokens: IdTokens, issuer: TlsIssuer
) -> None:
    verified = await tokens.verify(signed(EC, kubernetes(issuer.url), kid="e1"))

    assert verified.principal.claims["sub"] == "system:serviceaccount:team:builder"
    assert verified.principal.claims["kubernetes.io.namespace"] == "team"
    assert verified.principal.claims["kubernetes.io.serviceaccount.name"] == "builder"
    assert verified.principal.claims["aud"] == (AUDIENCE, "vault")


async def test_ed25519_is_taken_too(tokens: IdTokens, issuer: TlsIssuer) -> None:
    assert (await tokens.verify(signed(ED, github(issuer.url), kid="d1"))).principal.name == "github"


async def test_the_issuer_is_called_once_for_many_tokens(tokens: IdTokens, issuer: TlsIssuer, clock: FakeClock) -> None:
    await asyncio.gather(*(tokens.verify(signed(RSA, github(issuer.url, jti=str(n)))) for n in range(20)))
    clock.advance(200)
    await tokens.verify(signed(RSA, github(issuer.url)))

    assert issuer.asked == ["/realm/.well-known/openid-configuration", "/realm/keys"]


async def test_rotated_keys_are_found_and_withdrawn_ones_end(
    tokens: IdTokens, issuer: TlsIssuer, clock: FakeClock
) -> None:
    await tokens.verify(signed(RSA, github(issuer.url)))
    issuer.keys = [jwk(OTHER_RSA, "k2"), jwk(RSA, "k1")]
    clock.advance(TIMES.again)
    await tokens.verify(signed(OTHER_RSA, github(issuer.url), kid="k2"))

    issuer.keys = [jwk(OTHER_RSA, "k2")]
    clock.advance(TIMES.fresh)

    later = int(clock.now())
    times = {"iat": later, "nbf": later, "exp": later + 300}
    assert await refused(tokens, signed(RSA, github(issuer.url, **times))) is Reason.KEY
    await tokens.verify(signed(OTHER_RSA, github(issuer.url, **times), kid="k2"))


async def test_while_the_issuer_is_down_known_keys_go_on_for_a_day(
    tokens: IdTokens, issuer: TlsIssuer, clock: FakeClock
) -> None:
    def token(key: Any = RSA, kid: str = "k1") -> str:
        now = int(clock.now())
        return signed(key, github(issuer.url, iat=now, nbf=now, exp=now + 300), kid=kid)

    await tokens.verify(token())
    await issuer.stop()
    for _ in range(22):
        clock.advance(3600)
        await tokens.verify(token())
    clock.advance(TIMES.again)
    with pytest.raises(IssuerUnavailable, match="github"):
        await tokens.verify(token(OTHER_RSA, "k2"))
    clock.advance(2 * 3600)
    with pytest.raises(IssuerUnavailable, match="cannot be had now"):
        await tokens.verify(token())

    await issuer.start()
    clock.advance(TIMES.again)
    await tokens.verify(token())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": int(NOW - LEEWAY)}, Reason.EXPIRED),
        ({"nbf": int(NOW + LEEWAY) + 1}, Reason.NOT_YET),
        ({"iat": int(NOW + LEEWAY) + 1}, Reason.NOT_YET),
        ({"exp": int(NOW + LONGEST) + 1}, Reason.LIFETIME),
        ({"iat": int(NOW) - 90_000, "exp": int(NOW) + 60}, Reason.LIFETIME),
        ({"exp": None}, Reason.CLAIMS),
        ({"iat": None}, Reason.CLAIMS),
        ({"exp": str(int(NOW) + 300)}, Reason.CLAIMS),
        ({"aud": "other.example.com"}, Reason.AUDIENCE),
        ({"aud": ["other.example.com", "vault"]}, Reason.AUDIENCE),
        ({"aud": f"{AUDIENCE},vault"}, Reason.AUDIENCE),
        ({"aud": f"https://{AUDIENCE}"}, Reason.AUDIENCE),
        ({"aud": {AUDIENCE: True}}, Reason.AUDIENCE),
        ({"aud": None}, Reason.AUDIENCE),
        ({"sub": None}, Reason.CLAIMS),
        ({"sub": ["a"]}, Reason.CLAIMS),
        ({"sub": "a\nb"}, Reason.CLAIMS),
        ({"sub": "a\u202eb"}, Reason.CLAIMS),
        ({"iss": None}, Reason.CLAIMS),
        ({"iss": "https://token.actions.example.com"}, Reason.ISSUER),
    ],
    ids=str,
)
async def test_what_a_token_must_not_say_is_refused_before_the_issuer_is_called(
    tokens: IdTokens, issuer: TlsIssuer, changes: dict[str, Any], reason: Reason
) -> None:
    claims = {name: value for name, value in github(issuer.url, **changes).items() if value is not None}

    assert await refused(tokens, signed(RSA, claims)) is reason

    assert issuer.asked == []


@pytest.mark.parametrize("end", ["/", "/.", "%20", "?", "#", "\u200b", "ﾠ"])
async def test_an_issuer_is_the_pinned_one_letter_by_letter(tokens: IdTokens, issuer: TlsIssuer, end: str) -> None:
    for url in (issuer.url + end, issuer.url.upper(), issuer.url.replace("https", "http"), issuer.url[:-1]):
        assert await refused(tokens, signed(RSA, github(url))) in (Reason.ISSUER, Reason.CLAIMS)
    assert issuer.asked == []


async def test_a_clock_may_differ_by_a_minute(tokens: IdTokens, issuer: TlsIssuer) -> None:
    now = int(NOW)
    for times in ({"iat": now - 300, "exp": now - 59}, {"iat": now + 60, "nbf": now + 60}):
        await tokens.verify(signed(RSA, github(issuer.url, **times)))


async def test_forged_signatures_are_refused(tokens: IdTokens, issuer: TlsIssuer) -> None:
    claims = github(issuer.url)
    public = json.dumps(jwk(RSA, "k1")).encode()
    good = signed(RSA, claims)
    header, _, signature = good.split(".")
    other = b64(json.dumps(claims | {"repository_owner": "evil"}).encode())

    assert await refused(tokens, signed(OTHER_RSA, claims)) is Reason.SIGNATURE
    assert await refused(tokens, f"{header}.{other}.{signature}") is Reason.SIGNATURE
    for kid in ("k1", "e1", "d1"):
        for key in (RSA, EC, ED):
            if {"k1": RSA, "e1": EC, "d1": ED}[kid] is not key:
                assert await refused(tokens, signed(key, claims, kid=kid)) is Reason.KEY
        for algorithm in ("HS256", "none", "RS512", "PS256", "ES384"):
            forgery = forged({"alg": algorithm, "kid": kid}, claims, hmac_with(public))
            assert await refused(tokens, forgery) is Reason.ALGORITHM


async def test_keys_that_a_token_brings_along_are_never_looked_at_cve_2025_24976(
    tokens: IdTokens, issuer: TlsIssuer
) -> None:
    claims = github(issuer.url)
    for smuggled in ({"jwk": jwk(OTHER_RSA)}, {"jku": f"{issuer.url}/evil"}, {"x5u": f"{issuer.url}/evil"}):
        assert await refused(tokens, signed(OTHER_RSA, claims, **smuggled)) is Reason.SIGNATURE
        assert await refused(tokens, signed(OTHER_RSA, claims, kid="evil", **smuggled)) is Reason.KEY
    assert f"{issuer.url}/evil" not in issuer.asked
    # A certificate's thumbprint beside, as some issuers send it, changes nothing.
    await tokens.verify(signed(RSA, claims, x5t="abc", x5c=["MIIB"]))


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"b64": False}, {"zip": "DEF"}, {"enc": "A128GCM"}])
async def test_headers_that_change_what_a_token_means_are_refused(
    tokens: IdTokens, issuer: TlsIssuer, header: dict[str, Any]
) -> None:
    assert await refused(tokens, signed(RSA, github(issuer.url), **header)) is Reason.MALFORMED


async def test_doubled_claims_and_huge_tokens_are_refused(tokens: IdTokens, issuer: TlsIssuer) -> None:
    body = json.dumps(github(issuer.url)).encode()
    doubled = body[:-1] + b',"repository_owner":"evil"}'
    header = {"alg": "RS256", "kid": "k1"}

    assert await refused(tokens, forged(header, doubled, signer(RSA))) is Reason.MALFORMED
    assert await refused(tokens, "a" * 1024 * 1024) is Reason.TOO_LARGE
    nested = body[:-1] + b',"x":' + b"[" * 1000 + b"]" * 1000 + b"}"
    assert await refused(tokens, forged(header, nested, signer(RSA))) is Reason.TOO_LARGE
    assert issuer.asked == []


async def test_claims_are_bounded_texts_and_lists_of_texts(tokens: IdTokens, issuer: TlsIssuer) -> None:
    token = signed(
        RSA,
        github(issuer.url, groups=["a", "b"], many=["x"] * 300, long="x" * (MAX_CLAIM + 1), number=1.5, nothing=None),
    )

    claims = (await tokens.verify(token)).principal.claims

    assert claims["groups"] == ("a", "b")
    assert not {"many", "long", "number", "nothing"} & set(claims)
    assert sum(1 if isinstance(value, str) else len(value) for value in claims.values()) <= MAX_CLAIMS
    assert all(isinstance(value, str | tuple) for value in claims.values())


@pytest.mark.parametrize(
    "mood",
    [
        {"status": 500}, {"status": 302, "headers": {"location": "/realm/keys"}}, {"answer": b"<html>"},
        {"answer": b"x" * 300_000}, {"discovery": {"issuer": "https://evil.example.com"}},
        {"discovery": {"jwks_uri": "http://127.0.0.1/keys"}}, {"keys": []},
        {"keys": [{"kty": "oct", "kid": "k1", "k": "AAAA"}]},
        {"keys": [jwk(ED, f"k{number}") for number in range(101)]},
    ],
    ids=count(),
)  # fmt: skip
async def test_an_issuer_that_answers_what_it_must_not_lets_nobody_in(
    tokens: IdTokens, issuer: TlsIssuer, mood: dict[str, Any]
) -> None:
    for name, value in mood.items():
        setattr(issuer, name, value)

    with pytest.raises(IssuerUnavailable, match="the keys of github cannot be had now"):
        await tokens.verify(signed(RSA, github(issuer.url)))


async def test_two_audiences_of_one_issuer_are_two_names(issuer: TlsIssuer, clock: FakeClock) -> None:
    one = Issuer("ci", issuer.url, (AUDIENCE,), ca=issuer.ca)
    tokens = IdTokens([one, replace(one, name="release", audience=("release", "r"))], clock=clock)

    assert (await tokens.verify(signed(RSA, github(issuer.url)))).principal.name == "ci"
    for audience in ("release", "r", ["x", "release"]):
        assert (await tokens.verify(signed(RSA, github(issuer.url, aud=audience)))).principal.name == "release"
    assert await refused(tokens, signed(RSA, github(issuer.url, aud="x"))) is Reason.AUDIENCE
    assert len(issuer.asked) == 2
    await tokens.close()


async def test_issuers_can_be_replaced_and_known_keys_stay_known(
    tokens: IdTokens, issuer: TlsIssuer, clock: FakeClock
) -> None:
    token = signed(RSA, github(issuer.url))
    await tokens.verify(token)
    pinned = Issuer("actions", issuer.url, (AUDIENCE,), ca=issuer.ca)

    tokens.pin([pinned])
    assert (await tokens.verify(token)).principal.name == "actions"
    assert len(issuer.asked) == 2
    with pytest.raises(ValueError, match="https"):
        tokens.pin([replace(pinned, url="http://a.example.com")])
    assert tokens.knows(issuer.url)

    tokens.pin([])
    assert not tokens.knows(issuer.url)
    assert await refused(tokens, token) is Reason.ISSUER


async def test_keys_from_a_file_ask_nobody_and_are_read_again(tmp_path: Path, clock: FakeClock) -> None:
    url, path = "https://kubernetes.default.svc.cluster.local", tmp_path / "jwks.json"
    path.write_bytes(key_set(jwk(RSA, "k1")))
    tokens = IdTokens([Issuer("cluster", url, (AUDIENCE,), keys=str(path))], clock=clock)
    await tokens.verify(signed(RSA, kubernetes(url)))

    path.write_bytes(key_set(jwk(EC, "e1")))
    clock.advance(FILE_TIMES.fresh)

    assert await refused(tokens, signed(RSA, kubernetes(url))) is Reason.KEY
    verified = await tokens.verify(signed(EC, kubernetes(url), kid="e1"))
    assert verified.principal == Principal("oidc", "cluster", dict(verified.principal.claims))
    path.write_bytes(b"broken")
    clock.advance(FILE_TIMES.fresh)
    await tokens.verify(signed(EC, kubernetes(url), kid="e1"))
    await standstill()
    await tokens.close()


def test_the_issuer_of_a_password_is_told_without_belief(clock: FakeClock) -> None:
    assert jose.issuer_of(signed(OTHER_RSA, github("https://a"))) == "https://a"
    assert jose.issuer_of(signed(OTHER_RSA, {"iss": ["https://a"]})) is None
