"""ID tokens of pinned issuers: GitHub Actions, GitLab CI, Kubernetes, any that speaks OpenID Connect.

An issuer is pinned by its URL, letter by letter, and by an audience. Everything that needs no key is checked first,
so a token that cannot be good asks nobody for keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from bucketry.access.principal import Method, Principal, claims_of
from bucketry.access.sources import Issuer
from bucketry.oci.text import quoted
from bucketry.registry import Clock
from bucketry.server.auth import jose
from bucketry.server.auth.errors import Reason, TokenRefused
from bucketry.server.auth.fetching import HttpsFetch
from bucketry.server.auth.key_cache import FILE_TIMES, KeyCache
from bucketry.server.auth.keysets import Fetch, FileKeys, IssuerKeys

LEEWAY: Final = 60.0
"""Seconds by which an issuer's clock may differ."""
LONGEST: Final = 24 * 3600.0
"""Seconds that an ID token may live."""
MAX_SUBJECT: Final = 1024


@dataclass(frozen=True, slots=True)
class VerifiedIdToken:
    """``subject``: its ``sub``, for the audit log. ``expires`` in POSIX seconds."""

    principal: Principal
    subject: str
    expires: float


_Source: TypeAlias = tuple[str, str | None, str | None]


@dataclass(frozen=True, slots=True)
class _Pinned:
    name: str
    url: str
    audiences: tuple[str, ...]
    keys: KeyCache


class IdTokens:
    """Verifies ID tokens of some issuers, which `pin` replaces; keys that are known stay known."""

    def __init__(
        self, issuers: Iterable[Issuer], *, clock: Clock, fetch: Callable[[str | None], Fetch] = HttpsFetch
    ) -> None:
        """``fetch`` gives what fetches by https, for a path of certificates to trust."""
        self._fetch = fetch
        self._clock = clock
        self._caches: dict[_Source, KeyCache] = {}
        self._pinned: tuple[_Pinned, ...] = ()
        self._retired: list[KeyCache] = []
        self.pin(issuers)

    def pin(self, issuers: Iterable[Issuer]) -> None:
        """From now on these. Raises `ValueError` for a URL that is not https, and changes nothing then."""
        caches: dict[_Source, KeyCache] = {}
        pinned = []
        for issuer in issuers:
            source = (issuer.url, issuer.keys, issuer.ca)
            cache = caches.get(source) or self._caches.get(source) or self._cache(issuer)
            caches[source] = cache
            pinned.append(_Pinned(issuer.name, issuer.url, issuer.audience, cache))
        # What they still load ends by itself, or with `close`.
        gone = [cache for source, cache in self._caches.items() if source not in caches]
        self._retired = [cache for cache in (*self._retired, *gone) if cache.is_loading]
        self._caches, self._pinned = caches, tuple(pinned)

    def _cache(self, issuer: Issuer) -> KeyCache:
        if issuer.keys is not None:
            return KeyCache(FileKeys(Path(issuer.keys)), name=issuer.name, clock=self._clock, times=FILE_TIMES)
        return KeyCache(IssuerKeys(issuer.url, self._fetch(issuer.ca)), name=issuer.name, clock=self._clock)

    def knows(self, issuer: str) -> bool:
        """Whether a token with this ``iss`` is for `verify`."""
        return any(pinned.url == issuer for pinned in self._pinned)

    async def verify(self, token: str) -> VerifiedIdToken:
        """Whose it is. Raises `TokenRefused`, and `IssuerUnavailable` where its keys are not to be had."""
        unverified = jose.take_apart(token)
        claims = unverified.claims
        issuer = jose.text_claim(claims, "iss", 2048)
        same = [pinned for pinned in self._pinned if pinned.url == issuer]
        if not same:
            raise TokenRefused(f"{quoted(issuer)} is no issuer that this registry trusts", reason=Reason.ISSUER)
        jose.check_audience(claims, *(audience for one in same for audience in one.audiences))
        pinned = next(one for one in same if jose.has_audience(claims, *one.audiences))
        times = jose.check_times(claims, self._clock.now(), leeway=LEEWAY, longest=LONGEST)
        subject = jose.text_claim(claims, "sub", MAX_SUBJECT)
        jose.check_signature(unverified, await pinned.keys.find(unverified.kid, unverified.algorithm))
        principal = Principal("oidc", pinned.name, claims_of(claims), Method.ID_TOKEN)
        return VerifiedIdToken(principal, subject, times.expires)

    async def close(self) -> None:
        for cache in (*self._caches.values(), *self._retired):
            await cache.close()
