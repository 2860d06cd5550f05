from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.registry.helpers import NOW, FakeClock
from tests.unit.server.auth.forging import EC, ED, RSA, forged, hmac_with, jwk, key_set, signed
from tests.unit.server.auth.issuer import TlsIssuer

from bucketry.access.actions import Action
from bucketry.access.principal import ANONYMOUS, Method, Principal
from bucketry.access.scopes import Scope
from bucketry.access.sources import TokenService
from bucketry.server.auth.errors import IssuerUnavailable, Reason, TokenRefused
from bucketry.server.auth.external import ExternalTokens
from bucketry.server.auth.fetching import HttpsFetch

ISSUER, SERVICE = "auth.example.com", "registry.example.com"
KID = "PYYO:TEWU:V7JH:26JV:AQTZ:LJC3:SXVJ:XGHA:34F2:2LAQ:ZRMK:Z7Q6"
"""As Docker's own library names keys."""


def claims(**changes: Any) -> dict[str, Any]:
    now = int(NOW)
    good: dict[str, Any] = {
        "iss": ISSUER, "aud": SERVICE, "sub": "alice", "iat": now, "nbf": now - 10, "exp": now + 900, "jti": "x",
        "access": [{"type": "repository", "class": "", "name": "team/app", "actions": ["pull"]}],
    }  # fmt: skip
    return {name: value for name, value in (good | changes).items() if value != "-"}


@pytest.fixture
def tokens(tmp_path: Path) -> ExternalTokens:
    (tmp_path / "jwks.json").write_bytes(key_set(jwk(RSA, KID), jwk(EC, "e")))
    service = TokenService("https://auth.example.com/token", SERVICE, ISSUER, str(tmp_path / "jwks.json"))
    return ExternalTokens(service, clock=FakeClock())


async def test_a_token_of_the_service_is_a_user_and_what_it_may(tokens: ExternalTokens) -> None:
    said = await tokens.verify(signed(RSA, claims(), kid=KID))

    assert said.principal == Principal("user", "alice")
    assert said.principal.method is Method.EXTERNAL_TOKEN
    assert said.scopes == (Scope("repository", "team/app", frozenset({Action.PULL})),)
    assert said.expires == NOW + 900


@pytest.mark.parametrize("access", [[], None, "-", "repository:a:pull", [1], [{"type": "x"}], [{}] * 150])
async def test_access_that_is_not_understood_gives_nothing(tokens: ExternalTokens, access: object) -> None:
    assert (await tokens.verify(signed(RSA, claims(access=access), kid=KID))).scopes == ()


@pytest.mark.parametrize("subject", ["", "-"])
async def test_nobody_is_anonymous(tokens: ExternalTokens, subject: str) -> None:
    assert (await tokens.verify(signed(RSA, claims(sub=subject), kid=KID))).principal == ANONYMOUS


@pytest.mark.parametrize("subject", ["а", "a b", "a:b", "*", None, 7, ["alice"], "a" * 300, "user:alice", "a\n"])
async def test_a_subject_that_is_no_name_is_refused(tokens: ExternalTokens, subject: object) -> None:
    with pytest.raises(TokenRefused) as caught:
        await tokens.verify(signed(RSA, claims(sub=subject), kid=KID))

    assert caught.value.reason is Reason.CLAIMS


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "other"}, Reason.ISSUER),
        ({"aud": "other.example.com"}, Reason.AUDIENCE),
        ({"exp": int(NOW) - 60}, Reason.EXPIRED),
        ({"nbf": int(NOW) + 61}, Reason.NOT_YET),
        ({"exp": int(NOW) + 86_401}, Reason.LIFETIME),
        ({"exp": "-"}, Reason.CLAIMS),
    ],
)
async def test_what_a_token_must_not_say_is_refused(
    tokens: ExternalTokens, changes: dict[str, Any], reason: Reason
) -> None:
    with pytest.raises(TokenRefused) as caught:
        await tokens.verify(signed(RSA, claims(**changes), kid=KID))

    assert caught.value.reason is reason


async def test_only_the_keys_of_the_service_count_cve_2025_24976(tokens: ExternalTokens) -> None:
    for forgery in (
        signed(ED, claims(), kid=KID),
        signed(ED, claims(), kid=KID, jwk=jwk(ED, KID)),
        signed(EC, claims(), kid=None, x5c=["MIIB"]) + "x",
        signed(EC, claims(), kid=KID),
        forged({"alg": "HS256", "kid": KID}, claims(), hmac_with(b"x")),
        forged({"alg": "none", "kid": KID}, claims(), lambda message: b"\0"),
    ):
        with pytest.raises(TokenRefused):
            await tokens.verify(forgery)


async def test_keys_come_from_a_url_too(tmp_path: Path) -> None:
    async with TlsIssuer(tmp_path, keys=[jwk(RSA, KID)]) as server:
        service = TokenService("https://a/token", SERVICE, ISSUER, f"{server.url}/keys")
        tokens = ExternalTokens(service, clock=FakeClock(), fetch=HttpsFetch(server.ca))
        assert tokens.knows(ISSUER)
        assert (await tokens.verify(signed(RSA, claims(), kid=KID))).principal.name == "alice"
        assert server.asked == ["/realm/keys"]
        await tokens.close()

        unreachable = ExternalTokens(service, clock=FakeClock())
        with pytest.raises(IssuerUnavailable, match="the token service"):
            await unreachable.verify(signed(RSA, claims(), kid=KID))
        await unreachable.close()


def test_keys_by_plain_http_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="https"):
        ExternalTokens(TokenService("https://a/token", SERVICE, ISSUER, "http://a/jwks"), clock=FakeClock())
