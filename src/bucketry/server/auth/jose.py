"""Signed tokens (JWS in compact form, RFC 7515), taken apart so that no two readers can differ about them.

Nothing in a token says how it is verified. Its algorithm and key id only choose among keys that were there before, each
of which has its one algorithm; ``jwk``, ``jku``, ``x5c`` and ``x5u`` are never looked at (CVE-2025-24976); what
changes the meaning of a token (``crit``, ``b64``, ``zip``, ``enc``) is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeAlias

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from bucketry.server.auth.errors import Reason, TokenRefused

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

_KINDS: Final[Mapping[str, type]] = {
    "RS256": RSAPublicKey,
    "ES256": EllipticCurvePublicKey,
    "EdDSA": Ed25519PublicKey,
}
ALGORITHMS: Final = frozenset(_KINDS)

MAX_TOKEN: Final = 16 * 1024
"""Characters of a token. Those of GitHub have 2,000, those of GitLab up to 4,000."""
MAX_HEADER: Final = 4 * 1024
MAX_KID: Final = 256
MAX_DEPTH: Final = 8
"""Levels of objects and arrays in a token, the outermost included."""
MAX_BRACKETS: Final = 400
"""Opening brackets, those in texts too: what the reader nests is bounded before it reads."""
LONGEST_TIME: Final = 1 << 40
"""POSIX seconds: larger ones are no time."""

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_CHANGING: Final = ("crit", "b64", "zip", "enc")
_JWS: Final = jwt.PyJWS(algorithms=sorted(ALGORITHMS))


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A key and the one algorithm that it is used with. ``kid`` is empty where the key has none.

    Raises `ValueError` where the key is of another kind than the algorithm's.
    """

    kid: str
    algorithm: str
    key: PublicKey = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.key, _KINDS[self.algorithm]):
            raise ValueError(f"this is no key for {self.algorithm}")


@dataclass(frozen=True, slots=True)
class Unverified:
    """A token taken apart, of which nothing may be believed yet. ``kid`` is empty where it names no key."""

    token: str = field(repr=False)
    header: Mapping[str, Any] = field(repr=False)
    algorithm: str
    kid: str
    claims: Mapping[str, Any] = field(repr=False)


def take_apart(token: str) -> Unverified:
    """Raises `TokenRefused` for what is no signed token with claims."""
    if len(token) > MAX_TOKEN:
        raise TokenRefused(f"the token has more than {MAX_TOKEN} characters", reason=Reason.TOO_LARGE)
    segments = token.split(".", 3)
    if len(segments) != 3:
        raise TokenRefused("this is no signed token: it has not three parts", reason=Reason.MALFORMED)
    if len(segments[0]) > MAX_HEADER:
        raise TokenRefused(f"the token's header has more than {MAX_HEADER} characters", reason=Reason.TOO_LARGE)
    header = read_object(_bytes(segments[0], "header"), "the token's header")
    claims = read_object(_bytes(segments[1], "payload"), "the token's payload")
    _bytes(segments[2], "signature")
    for name in _CHANGING:
        if name in header:
            raise TokenRefused(f"the token's header has {name}, which is not taken", reason=Reason.MALFORMED)
    algorithm, kid = header.get("alg"), header.get("kid", "")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenRefused(
            "the token's algorithm is not taken: it must be one of " + ", ".join(sorted(ALGORITHMS)),
            reason=Reason.ALGORITHM,
        )
    if not isinstance(kid, str) or len(kid) > MAX_KID:
        raise TokenRefused("the token's key id is none", reason=Reason.MALFORMED)
    return Unverified(token, header, algorithm, kid, claims)


def issuer_of(secret: str) -> str | None:
    """Who a password or bearer token says that it was issued by, where it has the form of a signed token.

    It is believed for one thing only: by whom it is to be verified.
    """
    if not secret.startswith("eyJ"):
        return None
    try:
        issuer = take_apart(secret).claims.get("iss")
    except TokenRefused:
        return None
    return issuer if isinstance(issuer, str) else None


def check_signature(unverified: Unverified, key: VerifyKey) -> None:
    """Raises `TokenRefused` unless that key signed these very bytes by its own algorithm."""
    if unverified.algorithm != key.algorithm:
        raise TokenRefused("the token's algorithm is not that of its key", reason=Reason.ALGORITHM)
    try:
        _JWS.decode_complete(unverified.token, key.key, algorithms=[key.algorithm])
    except (jwt.InvalidTokenError, jwt.InvalidKeyError):
        raise TokenRefused("the token's signature is wrong", reason=Reason.SIGNATURE) from None


def sign(payload: bytes, key: Ed25519PrivateKey, kid: str) -> str:
    """A token with this payload, by EdDSA; its header has ``alg``, ``kid`` and ``typ``."""
    return _JWS.encode(payload, key, algorithm="EdDSA", headers={"kid": kid})


def read_object(body: bytes, what: str) -> dict[str, Any]:
    """The JSON object in ``body``: no name twice at any level, no NaN, no half characters, not nested deep.

    ``body`` is of a bounded size. Raises `TokenRefused`, whose message begins with ``what``.
    """
    if body.count(b"{") + body.count(b"[") > MAX_BRACKETS:
        raise TokenRefused(f"{what} nests too much", reason=Reason.TOO_LARGE)
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_members, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        # The reader's own message would repeat what it read.
        raise TokenRefused(
            f"{what} is no JSON object that can be read in one way only", reason=Reason.MALFORMED
        ) from None
    if not isinstance(value, dict):
        raise TokenRefused(f"{what} is no JSON object", reason=Reason.MALFORMED)
    if not _plain(value, MAX_DEPTH):
        raise TokenRefused(
            f"{what} nests deeper than {MAX_DEPTH} levels, or has no text where it should", reason=Reason.MALFORMED
        )
    return value


def text_claim(claims: Mapping[str, Any], name: str, most: int) -> str:
    """A claim that must be there, as text of 1 to ``most`` printable characters."""
    value = claims.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= most or not value.isprintable():
        raise TokenRefused(
            f"the token's {name} is missing, or is no text of at most {most} characters", reason=Reason.CLAIMS
        )
    return value


def check_issuer(claims: Mapping[str, Any], issuer: str) -> None:
    if claims.get("iss") != issuer:
        raise TokenRefused("the token was issued by somebody else", reason=Reason.ISSUER)


def has_audience(claims: Mapping[str, Any], *audiences: str) -> bool:
    """Whether ``aud`` is one of these, or is a list with one."""
    given = claims.get("aud")
    return any(member in audiences for member in (given if isinstance(given, list) else [given]))


def check_audience(claims: Mapping[str, Any], *audiences: str) -> None:
    if not has_audience(claims, *audiences):
        raise TokenRefused(
            f"the token is not for this registry: its audience must be {' or '.join(audiences)}",
            reason=Reason.AUDIENCE,
        )


@dataclass(frozen=True, slots=True)
class Times:
    """POSIX seconds."""

    issued: float
    not_before: float
    expires: float


def check_times(
    claims: Mapping[str, Any], now: float, *, leeway: float, longest: float, expiry_leeway: float | None = None
) -> Times:
    """``exp`` and ``iat`` must be there; ``nbf`` counts as ``iat`` where it is not.

    ``leeway``: seconds that clocks may differ (``expiry_leeway``: at its end, if not the same). ``longest``: seconds
    that ``exp`` may be away from ``iat`` and from now.
    """
    expires, issued = _time(claims, "exp"), _time(claims, "iat")
    not_before = _time(claims, "nbf") if "nbf" in claims else issued
    if now >= expires + (leeway if expiry_leeway is None else expiry_leeway):
        raise TokenRefused("the token has expired: get a new one", reason=Reason.EXPIRED)
    if max(not_before, issued) > now + leeway:
        raise TokenRefused("the token is not valid yet: is a clock wrong?", reason=Reason.NOT_YET)
    if expires - issued > longest or expires - now > longest + leeway or expires <= issued:
        raise TokenRefused(
            f"the token's exp is not within {longest:.0f} seconds after its iat and now", reason=Reason.LIFETIME
        )
    return Times(issued, not_before, expires)


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST_TIME:
        raise TokenRefused(f"the token's {name} is missing, or is no time", reason=Reason.CLAIMS)
    return float(value)


def _bytes(segment: str, part: str) -> bytes:
    # One text for one sequence of bytes: no padding, no other alphabet, no bits left over.
    if _SEGMENT.fullmatch(segment) is not None:
        try:
            raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        except binascii.Error:
            raw = b""
        if raw and base64.urlsafe_b64encode(raw).rstrip(b"=") == segment.encode():
            return raw
    raise TokenRefused(f"the token's {part} is not base64url", reason=Reason.MALFORMED)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name is there twice")
    return members


def _no_constant(text: str) -> NoReturn:
    raise ValueError("this is no JSON")


def _plain(value: object, levels: int) -> bool:
    """Whether it nests no deeper, all numbers are finite, and all texts can be written again."""
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return levels > 0 and all(_plain(name, 0) and _plain(member, levels - 1) for name, member in value.items())
    if isinstance(value, list):
        return levels > 0 and all(_plain(member, levels - 1) for member in value)
    return True
