"""The registry's own tokens: JWTs by EdDSA, a few minutes long, that say who, how, and what was asked for and allowed.

They are no proof that it is allowed now: rules, users and robots are looked at again when one is used.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import msgspec

from bucketry.access.actions import Action
from bucketry.access.errors import PrincipalInvalid
from bucketry.access.principal import Method, Principal
from bucketry.access.scopes import MAX_SCOPES, Scope
from bucketry.oci.reference import MAX_NAME
from bucketry.registry import Clock, Ids
from bucketry.registry.access_keys import AccessKey, is_kid
from bucketry.server.auth import jose
from bucketry.server.auth.errors import Reason, TokenRefused

LIFE: Final = 300.0
"""Seconds that a token lives."""
LONGEST_LIFE: Final = 3600.0
"""Seconds that any token of ours may live, whatever it was set to when it was made."""
LEEWAY: Final = 60.0
"""Seconds by which another replica's clock may be ahead."""
MAX_CACHED: Final = 4096

_HEADER: Final = frozenset({"alg", "kid", "typ"})


class Keys(Protocol):
    """`bucketry.registry.access_keys.AccessKeys`."""

    async def signing(self) -> AccessKey: ...

    async def verifying(self, kid: str) -> AccessKey | None: ...

    async def replaced(self, key: AccessKey) -> AccessKey | None: ...


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a verified token says. Times in POSIX seconds.

    ``principal``: with the claims that were put in, and how it was authenticated for the token; without a robot's own
    list, which is to be looked up again. ``scopes``: what was asked for and allowed. ``bound``: as it was issued.
    """

    principal: Principal
    scopes: tuple[Scope, ...]
    token_id: str
    issued: float
    expires: float
    bound: str = ""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """``lifetime`` in seconds; ``issued`` in POSIX seconds."""

    token: str = field(repr=False)
    token_id: str
    issued: float
    lifetime: int


@dataclass(frozen=True, slots=True)
class _Verified:
    claims: TokenClaims
    key: AccessKey
    not_before: float


class Tokens:
    """Issues tokens for ``service`` in the name of ``issuer``, and verifies those of every replica.

    ``life`` in whole seconds, at most `LONGEST_LIFE`. Verified tokens are remembered by their hash, so that the next
    request with one costs no signature; expiry and key are looked at each time.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        issuer: str,
        service: str,
        clock: Clock,
        ids: Ids,
        life: float = LIFE,
        cached: int = MAX_CACHED,
    ) -> None:
        if not 1 <= life <= LONGEST_LIFE:
            raise ValueError(f"a token lives 1 to {LONGEST_LIFE:.0f} seconds, not {life}")
        self._keys = keys
        self._issuer = issuer
        self._service = service
        self._clock = clock
        self._ids = ids
        self._life = int(life)
        self._cached = cached
        self._cache: OrderedDict[bytes, _Verified] = OrderedDict()

    async def issue(
        self,
        principal: Principal,
        scopes: Sequence[Scope],
        *,
        claims: Container[str] | None = None,
        bound: str = "",
    ) -> IssuedToken:
        """A token for what was already decided. ``claims``: which of the principal's go in (those that rules ask for).
        ``bound``: what stands for the credentials that were shown, at most 64 characters; whoever takes the token can
        tell by it whether they are still the same.

        Raises `TokenRefused` (too large) where it would be over a limit.
        """
        key = await self._keys.signing()
        now = int(self._clock.now())
        token_id = self._ids.token()
        kept = {name: value for name, value in principal.claims.items() if claims is None or name in claims}
        payload = {
            "iss": self._issuer,
            "aud": self._service,
            "sub": str(principal),
            "method": principal.method.value,
            "access": [scope.entry() for scope in scopes],
            "iat": now,
            "nbf": now,
            "exp": now + self._life,
            "jti": token_id,
            **({"claims": kept} if kept else {}),
            **({"bound": bound} if bound else {}),
        }
        token = jose.sign(msgspec.json.encode(payload), key.private, key.kid)
        # What would not be taken is not given out.
        if len(token) > jose.MAX_TOKEN or len(scopes) > MAX_SCOPES:
            raise TokenRefused(
                "a token with all of this would be too large: ask for fewer repositories", reason=Reason.TOO_LARGE
            )
        _content(jose.take_apart(token).claims)
        return IssuedToken(token, token_id, float(now), self._life)

    async def verify(self, token: str) -> TokenClaims:
        """What the token says. Raises `TokenRefused`, and `StoreError` where its key is to be had and is not."""
        if len(token) > jose.MAX_TOKEN or not token.isascii():
            raise TokenRefused("this is no token", reason=Reason.TOO_LARGE if token.isascii() else Reason.MALFORMED)
        remembered = await self.remembered(token)
        if remembered is not None:
            return remembered
        self._cache[_name(token)] = verified = await self._verify(token)
        while len(self._cache) > self._cached:
            self._cache.popitem(last=False)
        return verified.claims

    async def remembered(self, token: str) -> TokenClaims | None:
        """What `verify` gives for a token that it has taken before, and still does; None for all others.

        It takes a few microseconds, so it may be asked of everything that may be a token of ours.
        """
        if len(token) > jose.MAX_TOKEN or not token.isascii():
            return None
        known = self._cache.get(_name(token))
        if known is None:
            return None
        if await self._holds(known):
            return known.claims
        self._cache.pop(_name(token), None)
        return None

    async def _holds(self, known: _Verified) -> bool:
        now = self._clock.now()
        if not known.not_before - LEEWAY <= now < known.claims.expires:
            return False
        # The same object: a key that was deleted, or replaced under its id, is another one.
        return await self._keys.verifying(known.key.kid) is known.key

    async def _verify(self, token: str) -> _Verified:
        unverified = jose.take_apart(token)
        header, claims = unverified.header, unverified.claims
        if set(header) != _HEADER or header["typ"] != "JWT" or unverified.algorithm != "EdDSA":
            raise TokenRefused("this is no token of this registry", reason=Reason.MALFORMED)
        if not is_kid(unverified.kid):
            raise TokenRefused("the token's key is none of this registry", reason=Reason.KEY)
        # What needs no key is looked at first: junk costs no look into the store.
        jose.check_issuer(claims, self._issuer)
        jose.check_audience(claims, self._service)
        times = jose.check_times(claims, self._clock.now(), leeway=LEEWAY, expiry_leeway=0, longest=LONGEST_LIFE)
        principal, scopes = _content(claims)
        bound = jose.text_claim(claims, "bound", 64) if "bound" in claims else ""
        token_id = jose.text_claim(claims, "jti", 64)
        key = await self._keys.verifying(unverified.kid)
        if key is None:
            raise TokenRefused("the token's key is none of this registry, or no more", reason=Reason.KEY)
        try:
            _check_signature(unverified, key)
        except TokenRefused:
            # Keys have the name of the day: another replica may have signed with one that is younger than ours.
            key = await self._keys.replaced(key)
            if key is None:
                raise
            _check_signature(unverified, key)
        content = TokenClaims(principal, scopes, token_id, times.issued, times.expires, bound)
        return _Verified(content, key, times.not_before)


def _check_signature(unverified: jose.Unverified, key: AccessKey) -> None:
    jose.check_signature(unverified, jose.VerifyKey(key.kid, "EdDSA", key.public))


def _name(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["repository", "registry"]
    name: str
    actions: frozenset[Action]


class _Content(msgspec.Struct, frozen=True):
    sub: str
    method: Method
    access: tuple[_Entry, ...]
    claims: dict[str, str | tuple[str, ...]] = {}


def _content(claims: Mapping[str, Any]) -> tuple[Principal, tuple[Scope, ...]]:
    """Who and what. Actions are taken as ours by name: ``push`` is not ``overwrite``, as it is in what clients ask."""
    try:
        content = msgspec.convert(claims, _Content)
        principal = Principal.parse(content.sub, claims=content.claims, method=content.method)
    except (msgspec.ValidationError, PrincipalInvalid):
        raise TokenRefused("the token does not say who may do what", reason=Reason.CLAIMS) from None
    if len(content.access) > MAX_SCOPES or any(len(entry.name) > MAX_NAME for entry in content.access):
        raise TokenRefused("the token's access is over its limits", reason=Reason.CLAIMS)
    return principal, tuple(Scope(entry.type, entry.name, entry.actions) for entry in content.access)
