"""Tokens of another token service that speaks Docker's protocol, verified by its keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bucketry.access.errors import PrincipalInvalid
from bucketry.access.principal import ANONYMOUS, Method, Principal
from bucketry.access.scopes import Scope, scopes_of_entries
from bucketry.access.sources import TokenService
from bucketry.registry import Clock
from bucketry.server.auth import jose
from bucketry.server.auth.errors import Reason, TokenRefused
from bucketry.server.auth.fetching import HttpsFetch
from bucketry.server.auth.key_cache import FILE_TIMES, KeyCache
from bucketry.server.auth.keysets import Fetch, FileKeys, KeySource, UrlKeys

LEEWAY: Final = 60.0
LONGEST: Final = 24 * 3600.0
"""Seconds that such a token may live."""


@dataclass(frozen=True, slots=True)
class ExternalClaims:
    """``principal``: ``user:<sub>``, or anonymous where the service says nobody. ``expires`` in POSIX seconds.

    ``scopes``: what its ``access`` means here; what is not understood gives nothing.
    """

    principal: Principal
    scopes: tuple[Scope, ...]
    expires: float


class ExternalTokens:
    """Verifies the tokens that a service gives out for this registry."""

    def __init__(self, service: TokenService, *, clock: Clock, fetch: Fetch | None = None) -> None:
        """Raises `ValueError` where the URL of its keys is not https."""
        times = None
        source: KeySource
        if "://" in service.jwks:
            source = UrlKeys(service.jwks, fetch or HttpsFetch())
        else:
            source, times = FileKeys(Path(service.jwks)), FILE_TIMES
        self._keys = KeyCache(source, name="the token service", clock=clock, times=times)
        self.service = service
        self._clock = clock

    def knows(self, issuer: str) -> bool:
        """Whether a token with this ``iss`` is for `verify`."""
        return issuer == self.service.issuer

    async def verify(self, token: str) -> ExternalClaims:
        """What it says. Raises `TokenRefused`, and `IssuerUnavailable` where its keys are not to be had."""
        unverified = jose.take_apart(token)
        claims = unverified.claims
        jose.check_issuer(claims, self.service.issuer)
        jose.check_audience(claims, self.service.service)
        times = jose.check_times(claims, self._clock.now(), leeway=LEEWAY, longest=LONGEST)
        principal = _principal(claims.get("sub", ""))
        jose.check_signature(unverified, await self._keys.find(unverified.kid, unverified.algorithm))
        return ExternalClaims(principal, scopes_of_entries(claims.get("access")), times.expires)

    async def close(self) -> None:
        await self._keys.close()


def _principal(subject: object) -> Principal:
    if subject == "":
        return ANONYMOUS
    try:
        if isinstance(subject, str):
            return Principal("user", subject, method=Method.EXTERNAL_TOKEN)
    except PrincipalInvalid:
        pass
    raise TokenRefused("the token's sub is no name of a user", reason=Reason.CLAIMS)
