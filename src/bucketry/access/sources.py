"""Who vouches for a principal from outside: issuers of ID tokens, and a token service that is not ours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer of ID tokens. Principals of it are ``oidc:<name>``.

    ``url``: what its tokens have in ``iss``, byte for byte; https. ``audience``: one of these is in ``aud``. ``keys``:
    path of a JWKS file, where none are to be fetched. ``ca``: path of the certificates that vouch for the issuer's
    host, where the system's do not.
    """

    name: str
    url: str
    audience: tuple[str, ...]
    keys: str | None = None
    ca: str | None = None


@dataclass(frozen=True, slots=True)
class TokenService:
    """A token service that is not ours.

    ``realm``: its URL, for challenges. ``service`` and ``issuer``: ``aud`` and ``iss`` of its tokens. ``jwks``: URL
    (https) or path of its keys.
    """

    realm: str
    service: str
    issuer: str
    jwks: str
