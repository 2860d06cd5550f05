"""Tokens as attackers and issuers make them: any header, any payload, signed by any key or by none."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def algorithm_of(key: Private) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return "RS256"
    return "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "EdDSA"


def signer(key: Private) -> Callable[[bytes], bytes]:
    algorithm = jwt.get_algorithm_by_name(algorithm_of(key))
    return lambda message: algorithm.sign(message, key)


def hmac_with(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda message: hmac.new(secret, message, hashlib.sha256).digest()


def forged(header: object, payload: object, sign: Callable[[bytes], bytes]) -> str:
    """``header`` and ``payload`` as JSON, or as the bytes they are."""
    parts = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in (header, payload)]
    message = ".".join(map(b64, parts))
    return f"{message}.{b64(sign(message.encode()))}"


def signed(key: Private, claims: Mapping[str, Any], *, kid: str | None = "k1", **header: Any) -> str:
    """A token as an issuer makes it."""
    named = {} if kid is None else {"kid": kid}
    return forged({"alg": algorithm_of(key), "typ": "JWT", **named, **header}, dict(claims), signer(key))


def jwk(key: Private, kid: str | None = "k1", **members: Any) -> dict[str, Any]:
    """The public key as an issuer publishes it."""
    algorithm = jwt.get_algorithm_by_name(algorithm_of(key))
    public = algorithm.to_jwk(key.public_key(), as_dict=True)
    public.pop("key_ops", None)
    return {**public, "use": "sig", **({} if kid is None else {"kid": kid}), **members}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()
