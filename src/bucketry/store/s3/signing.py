"""AWS Signature Version 4 for S3: of headers, and of URLs.

The signing key depends on the day, the region and the secret only, so it is kept: what is left is three hashes.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import quote

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
EMPTY_PAYLOAD = hashlib.sha256(b"").hexdigest()

MAX_EXPIRES = 7 * 24 * 3600
"""Seconds: the longest life of a presigned URL."""

# Proxies change these on the way; everything else that is sent is signed.
_UNSIGNED_HEADERS = frozenset({"accept-encoding", "authorization", "connection", "expect", "user-agent"})


_plain_path = re.compile(r"[A-Za-z0-9/_.~-]*", re.ASCII).fullmatch
"""As nearly all paths are; `quote` takes ten times as long to see it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What requests are signed with. ``source`` says for people where it was found."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    source: str = "the settings"


def encode_path(path: str) -> str:
    """The path as S3 signs it: encoded once, slashes kept."""
    return path if _plain_path(path) else quote(path, safe="/-_.~")


def encode_query(pairs: Iterable[tuple[str, str]]) -> str:
    """The query in its canonical order and encoding, which is also how it is sent."""
    encoded = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


class Signer:
    """Signs for one region. ``path`` and ``query`` come encoded, by the functions above."""

    def __init__(self, region: str, service: str = "s3") -> None:
        self._region = region
        self._service = service
        self._cached: tuple[str, str, bytes] = ("", "", b"")

    def headers(
        self,
        identity: Identity,
        method: str,
        host: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        *,
        payload: str,
        now: float,
    ) -> dict[str, str]:
        """The request's headers (names in lower case) and the signature's; ``payload`` is a hex SHA-256 or
        `UNSIGNED_PAYLOAD`, ``now`` POSIX seconds."""
        stamp = _stamp(now)
        signed = {**headers, "x-amz-content-sha256": payload, "x-amz-date": stamp}
        if identity.token is not None:
            signed["x-amz-security-token"] = identity.token
        names, canonical = _canonical_headers(signed | {"host": host})
        scope = self._scope(stamp)
        signature = self._sign(identity, stamp, scope, f"{method}\n{path}\n{query}\n{canonical}\n\n{names}\n{payload}")
        signed["authorization"] = (
            f"{ALGORITHM} Credential={identity.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return signed

    def presign(
        self,
        identity: Identity,
        method: str,
        host: str,
        path: str,
        query: Iterable[tuple[str, str]],
        *,
        expires: int,
        now: float,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """The query of a URL that is valid for ``expires`` seconds from ``now``.

        Whoever uses it must send these headers (names in lower case), and no body is signed.
        """
        stamp = _stamp(now)
        scope = self._scope(stamp)
        names, canonical = _canonical_headers({**headers, "host": host})
        pairs = [
            *query,
            ("X-Amz-Algorithm", ALGORITHM),
            ("X-Amz-Credential", f"{identity.access_key}/{scope}"),
            ("X-Amz-Date", stamp),
            ("X-Amz-Expires", str(expires)),
            ("X-Amz-SignedHeaders", names),
        ]
        if identity.token is not None:
            pairs.append(("X-Amz-Security-Token", identity.token))
        encoded = encode_query(pairs)
        signature = self._sign(
            identity, stamp, scope, f"{method}\n{path}\n{encoded}\n{canonical}\n\n{names}\n{UNSIGNED_PAYLOAD}"
        )
        return f"{encoded}&X-Amz-Signature={signature}"

    def _scope(self, stamp: str) -> str:
        return f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"

    def _sign(self, identity: Identity, stamp: str, scope: str, request: str) -> str:
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"{ALGORITHM}\n{stamp}\n{scope}\n{digest}"
        return hmac.digest(self._key(identity.secret_key, stamp[:8]), text.encode(), "sha256").hex()

    def _key(self, secret: str, day: str) -> bytes:
        if self._cached[:2] != (secret, day):
            key = f"AWS4{secret}".encode()
            for word in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, word.encode(), "sha256")
            self._cached = (secret, day, key)
        return self._cached[2]


def _stamp(now: float) -> str:
    return _stamp_of(int(now))


@lru_cache(maxsize=2)
def _stamp_of(second: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))


def _canonical_headers(headers: Mapping[str, str]) -> tuple[str, str]:
    """The names, and the lines, of what is signed. Runs of blanks count as one."""
    kept = sorted(name for name in headers if name not in _UNSIGNED_HEADERS)
    return ";".join(kept), "\n".join(f"{name}:{' '.join(headers[name].split())}" for name in kept)
