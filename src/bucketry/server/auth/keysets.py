"""Sets of public keys (JWKS, RFC 7517), read within limits; where they come from: an issuer, a URL, a file."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from bucketry.server.auth import jose
from bucketry.server.auth.errors import TokenRefused
from bucketry.server.auth.jose import PublicKey, VerifyKey

MAX_DOCUMENT: Final = 256 * 1024
"""Bytes of a set of keys, and of a discovery document."""
MAX_KEYS: Final = 100
LEAST_RSA: Final = 2048
"""Bits."""
MOST_RSA: Final = 8192
"""Bits: the work of one signature is bounded."""
MOST_EXPONENT: Final = 1 << 32

_MEMBERS: Final = {"RS256": ("kty", "n", "e"), "ES256": ("kty", "crv", "x", "y"), "EdDSA": ("kty", "crv", "x")}
_WRITTEN: Final = {"RS256": ("RS256",), "ES256": ("ES256",), "EdDSA": ("EdDSA", "Ed25519")}
"""How an algorithm may be named in a key (RFC 9864 gives the last one its other name)."""
_LONGEST_MEMBER: Final = MOST_RSA // 6 + 8

KeySet: TypeAlias = Mapping[tuple[str, str], VerifyKey]
"""By key id (empty where a key has none) and algorithm."""


class KeysUnavailable(Exception):
    """No keys could be had. The message says from where, and why."""


class KeySource(Protocol):
    async def load(self) -> KeySet:
        """The keys of now. Raises `KeysUnavailable`."""
        ...


class Fetch(Protocol):
    async def __call__(self, url: str, *, limit: int) -> bytes:
        """The document at an https URL, of at most ``limit`` bytes. Raises `KeysUnavailable`."""
        ...


def parse_key_set(body: bytes, where: str) -> KeySet:
    """The keys that a token can be verified with: RSA, P-256 and Ed25519, for signatures. Others are passed over.

    Raises `KeysUnavailable` where there is none, for more than `MAX_KEYS`, and where an id says two keys.
    """
    listed = _object(body, where).get("keys")
    if not isinstance(listed, list):
        raise KeysUnavailable(f"{where} is no set of keys: it has no list of keys")
    if len(listed) > MAX_KEYS:
        raise KeysUnavailable(f"{where} has {len(listed)} keys, more than {MAX_KEYS}")
    found: dict[tuple[str, str], VerifyKey] = {}
    for entry in listed:
        key = _key(entry) if isinstance(entry, dict) else None
        if key is None:
            continue
        name = (key.kid, key.algorithm)
        if key.kid and name in found:
            raise KeysUnavailable(f"{where} has two keys with one id")
        found[name] = key
    if not found:
        raise KeysUnavailable(f"{where} has no key for " + ", ".join(sorted(jose.ALGORITHMS)))
    return found


def _object(body: bytes, where: str) -> dict[str, Any]:
    if len(body) > MAX_DOCUMENT:
        raise KeysUnavailable(f"{where} has more than {MAX_DOCUMENT} bytes")
    try:
        return jose.read_object(body, where)
    except TokenRefused as error:
        raise KeysUnavailable(error.message) from None


def _key(entry: Mapping[str, Any]) -> VerifyKey | None:
    """None for a key of another kind or use, and for one that is none."""
    algorithm = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}.get(str(entry.get("kty")))
    if algorithm is None or entry.get("alg", algorithm) not in _WRITTEN[algorithm]:
        return None
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    kid = entry.get("kid", "")
    # Only what the public key is made of: private members, certificates and URLs are not even passed on.
    members = {name: entry.get(name) for name in _MEMBERS[algorithm]}
    texts = (kid, *members.values())
    if any(not isinstance(text, str) or len(text) > _LONGEST_MEMBER for text in texts) or len(kid) > jose.MAX_KID:
        return None
    try:
        key = jwt.PyJWK(members, algorithm).key
    except (jwt.PyJWTError, ValueError):
        return None
    return VerifyKey(kid, algorithm, key) if _usable(key) else None


def _usable(key: PublicKey | object) -> bool:
    if isinstance(key, RSAPublicKey):
        return LEAST_RSA <= key.key_size <= MOST_RSA and key.public_numbers().e <= MOST_EXPONENT
    if isinstance(key, EllipticCurvePublicKey):
        return isinstance(key.curve, SECP256R1)
    return isinstance(key, Ed25519PublicKey)


class FileKeys:
    """A set of keys in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self) -> KeySet:
        try:
            body = await asyncio.to_thread(self._read)
        except OSError as error:
            raise KeysUnavailable(f"{self._path} cannot be read: {error.strerror or error}") from None
        return parse_key_set(body, str(self._path))

    def _read(self) -> bytes:
        with self._path.open("rb") as file:
            return file.read(MAX_DOCUMENT + 1)


class UrlKeys:
    """A set of keys at an https URL that the owner gave."""

    def __init__(self, url: str, fetch: Fetch) -> None:
        self._url = checked_url(url)
        self._fetch = fetch

    async def load(self) -> KeySet:
        return parse_key_set(await self._fetch(self._url, limit=MAX_DOCUMENT), self._url)


class IssuerKeys:
    """The keys of an OpenID issuer: those that its discovery document names (OpenID Connect Discovery 1.0, 4)."""

    def __init__(self, issuer: str, fetch: Fetch) -> None:
        self._issuer = checked_url(issuer)
        self._fetch = fetch

    async def load(self) -> KeySet:
        where = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
        document = _object(await self._fetch(where, limit=MAX_DOCUMENT), where)
        if document.get("issuer") != self._issuer:
            raise KeysUnavailable(f"{where} is not about {self._issuer}: its issuer is another")
        keys = document.get("jwks_uri")
        if not isinstance(keys, str):
            raise KeysUnavailable(f"{where} has no jwks_uri")
        try:
            keys = checked_url(keys, query=True)
        except ValueError as error:
            raise KeysUnavailable(f"{where}: its jwks_uri is not taken: {error}") from None
        return parse_key_set(await self._fetch(keys, limit=MAX_DOCUMENT), keys)


def checked_url(url: str, *, query: bool = False) -> str:
    """``url``, where it is an https URL without credentials and fragment, and without a query if ``query`` is not set.

    Raises `ValueError`.

    Any host is taken, private addresses too: an issuer is pinned by the owner, and that of a Kubernetes cluster is on
    the owner's own network. So its discovery document is trusted to name a host, too.
    """
    if len(url) > 2048 or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("it is no URL")
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("it must begin with https://")
    if "@" in parts.netloc or "#" in url or ("?" in url and not query):
        raise ValueError("it must have no credentials, no query and no fragment")
    try:
        parts.port  # noqa: B018 (reading it is the check)
    except ValueError:
        raise ValueError("its port is none") from None
    return url
