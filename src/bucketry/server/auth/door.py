"""The door: from the credentials of a request to a visitor, and the token service that gives out what clients come back
with (docs/rfcs/0006-access.md; Docker's token protocol)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from bucketry.access import (
    ANONYMOUS,
    Method,
    Principal,
    Scope,
    Standing,
    TokenInvalid,
    granted,
    is_token,
    parse_scopes,
    parse_token,
)
from bucketry.oci.errors import ParameterInvalid
from bucketry.registry.access_keys import AccessKeys
from bucketry.registry.robots import Robots
from bucketry.registry.settings import Clock, Ids
from bucketry.server.auth import jose
from bucketry.server.auth.errors import Challenged, CredentialsRefused, Reason, TokenRefused
from bucketry.server.auth.external import ExternalTokens
from bucketry.server.auth.oidc import IdTokens
from bucketry.server.auth.passwords import Passwords
from bucketry.server.auth.rulebook import Book, Rulebook
from bucketry.server.auth.throttle import FailedLogins
from bucketry.server.auth.tokens import Tokens
from bucketry.server.auth.visitor import Challenge, Visitor
from bucketry.server.routes import TOKEN_PATH
from bucketry.store.contract import Store

MAX_FORM: Final = 64 * 1024
"""Bytes of a form that is posted to the token service: an ID token is the longest thing in one."""

_WRONG: Final = "the user name or the password is wrong"


@dataclass(frozen=True, slots=True)
class _Identity:
    """``bound``: stands for the credentials that were shown, where they can be others tomorrow; see `_bound`.

    ``token_id``: of the token that the registry gave out, where that was shown.
    """

    principal: Principal
    scopes: Sequence[Scope] | None = None
    bound: str = ""
    token_id: str | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """The answer of the token service, and what is told of it in the audit log."""

    body: bytes
    principal: Principal
    token_id: str
    scopes: tuple[Scope, ...]


class Door:
    """``service``: what tokens are for; a client that asks for another gets none. ``reload``: seconds that a removed
    user, a revoked robot or a changed password goes on being taken for. ``rulebook``: made by the caller.

    ``close`` ends what it began.
    """

    def __init__(
        self,
        rulebook: Rulebook,
        store: Store,
        *,
        service: str,
        token_life: float,
        reload: float,
        clock: Clock,
        ids: Ids,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        book = rulebook.book
        self._rulebook = rulebook
        self._service = service
        self._keys = AccessKeys(store, clock=clock, ids=ids, token_life=token_life)
        self._issuer = f"bucketry:{service}"
        self._tokens = Tokens(self._keys, issuer=self._issuer, service=service, clock=clock, ids=ids, life=token_life)
        self._robots = Robots(store, clock=clock, reload=reload)
        self._passwords = Passwords(key=secrets.token_bytes(32), monotonic=monotonic, remember=reload)
        self._logins = FailedLogins(monotonic=monotonic)
        self._id_tokens = IdTokens(book.access.issuers, clock=clock)
        self._clock = clock
        self._external = None if book.access.token is None else ExternalTokens(book.access.token, clock=clock)
        self._replaced: list[ExternalTokens] = []
        """They may still load keys for requests that came before."""

    def changed(self, book: Book) -> None:
        """Before a new book is in force. Raises `ValueError` where it cannot be."""
        token, external = book.access.token, self._external
        if token is None:
            external = None
        elif external is None or external.service != token:
            external = ExternalTokens(token, clock=self._clock)
        self._id_tokens.pin(book.access.issuers)
        if self._external is not None and self._external is not external:
            self._replaced.append(self._external)
        self._external = external

    async def close(self) -> None:
        await self._rulebook.close()
        await self._keys.close()
        await self._id_tokens.close()
        for external in (*self._replaced, *([] if self._external is None else [self._external])):
            await external.close()
        self._passwords.close()

    @property
    def issues_tokens(self) -> bool:
        """Whether the token service is this one, and not another."""
        return self._rulebook.book.access.token is None

    def challenge(self, origin: str) -> Challenge:
        """``origin``: scheme and host by which the client reaches the registry."""
        token = self._rulebook.book.access.token
        if token is not None:
            return Challenge(token.realm, token.service)
        return Challenge(f"{origin}{TOKEN_PATH}", self._service)

    async def enter(
        self, authorization: str | None, *, address: str, origin: str, certificate: str | bytes | None = None
    ) -> Visitor:
        """Who sends a request. Raises `Challenged` for credentials that are not taken, and what tells of a wait.

        ``certificate``: in DER, or the header of a proxy that is trusted; it counts where there are no credentials.
        """
        challenge = self.challenge(origin)
        try:
            found = await self._identity(authorization, address, certificate)
        except CredentialsRefused as error:
            raise Challenged(error.message, challenge.header(error="invalid_token"), reason=error.reason) from error
        return Visitor(found.principal, self._rulebook.book.policy, challenge, found.scopes, found.token_id)

    async def issue(
        self,
        authorization: str | None,
        parameters: Sequence[tuple[str, str]],
        *,
        address: str,
        certificate: str | bytes | None = None,
    ) -> Issued:
        """A token for what was asked and is allowed; of a stranger, for what strangers may.

        Raises `CredentialsRefused`, `ParameterInvalid`.
        """
        service = [value for name, value in parameters if name == "service"]
        if any(one != self._service for one in service):
            raise ParameterInvalid(f"this token service is for {self._service}, and for no other")
        scopes = parse_scopes([value for name, value in parameters if name == "scope"])
        found = await self._identity(authorization, address, certificate)
        if found.scopes is not None:
            raise CredentialsRefused("a token is no reason to give out another: send a password", reason=Reason.CLAIMS)
        policy, principal = self._rulebook.book.policy, found.principal
        allowed = granted(policy, principal, scopes)
        asked = {"sub", *(name for rule in policy.rules for name in rule.claims)}
        issued = await self._tokens.issue(principal, allowed, claims=asked, bound=found.bound)
        document = {
            "token": issued.token,
            "access_token": issued.token,
            "expires_in": issued.lifetime,
            "issued_at": datetime.fromtimestamp(issued.issued, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "scope": " ".join(map(str, allowed)),
        }
        return Issued(msgspec.json.encode(document), principal, issued.token_id, allowed)

    def claimed(self, authorization: str | None) -> str | None:
        """Who credentials say that they are, where there is such a one; for the audit log. It is not proven.

        A name that nobody has is not told: people type passwords where names belong.
        """
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() == "basic":
            try:
                name, secret = _basic(secret)
            except CredentialsRefused:
                return None
            if not is_token(secret) and name in self._rulebook.book.users:
                return f"user:{name}"
        if is_token(secret):
            try:
                return f"robot:{parse_token(secret).name}"
            except TokenInvalid:
                return None
        return None

    # Credentials

    async def _identity(self, authorization: str | None, address: str, certificate: str | bytes | None) -> _Identity:
        if authorization is None:
            return _Identity(ANONYMOUS) if certificate is None else self._by_certificate(certificate)
        scheme, _, rest = authorization.partition(" ")
        match scheme.lower():
            case "basic":
                name, password = _basic(rest)
                return await self._by_password(name, password, address)
            case "bearer":
                return await self._by_token(rest.strip(), address)
        raise CredentialsRefused("credentials are Basic or Bearer, and these are neither", reason=Reason.MALFORMED)

    def _by_certificate(self, shown: str | bytes) -> _Identity:
        # Here, so that a server that looks at no certificates loads nothing of it.
        from bucketry.server.auth.client_certificates import read_der, read_header

        certificate = read_header(shown) if isinstance(shown, str) else read_der(shown)
        certificate.check(datetime.fromtimestamp(self._clock.now(), UTC))
        access = self._rulebook.book.access
        principal, mapped = access.certificate(certificate.names), access.mapped(certificate.names)
        if principal is None:
            raise CredentialsRefused("the client certificate bears no name that rules could mean", reason=Reason.CLAIMS)
        return _Identity(principal, bound="" if mapped is None else _bound("certificate", mapped))

    async def _by_password(self, name: str, password: str, address: str) -> _Identity:
        """A password may be a robot's token or an ID token, whatever the name: clients have no other place for it."""
        if is_token(password):
            return await self._robot(password, address)
        issuer = jose.issuer_of(password)
        if issuer is not None and self._id_tokens.knows(issuer):
            return self._of_issuer((await self._id_tokens.verify(password)).principal)
        users = self._rulebook.book.users
        stored = users.stored(name)
        again = self._passwords.is_no_guess(name, password, stored=stored)
        attempt = self._logins.attempt(address, name, guess=not again)
        try:
            right = await self._passwords.check(
                name, password, stored=stored, verify=lambda: users.verify(name, password)
            )
        except BaseException:
            self._logins.undecided(attempt)
            raise
        if not right:
            raise CredentialsRefused(_WRONG, reason=Reason.PASSWORD)
        self._logins.succeeded(attempt)
        return _Identity(Principal("user", name, method=Method.PASSWORD), bound=_bound(stored))

    async def _by_token(self, token: str, address: str) -> _Identity:
        if is_token(token):
            return await self._robot(token, address)
        known = await self._tokens.remembered(token)
        if known is not None:
            return _Identity(await self._still(known.principal, known.bound), known.scopes, token_id=known.token_id)
        issuer = jose.issuer_of(token)
        if issuer == self._issuer:
            claims = await self._tokens.verify(token)
            return _Identity(await self._still(claims.principal, claims.bound), claims.scopes, token_id=claims.token_id)
        if issuer is not None and self._id_tokens.knows(issuer):
            return self._of_issuer((await self._id_tokens.verify(token)).principal)
        if issuer is not None and self._external is not None and self._external.knows(issuer):
            external = await self._external.verify(token)
            return _Identity(external.principal, external.scopes)
        raise TokenRefused("this token is none of this registry's, nor of anyone it trusts", reason=Reason.ISSUER)

    def _of_issuer(self, principal: Principal) -> _Identity:
        urls = [issuer.url for issuer in self._rulebook.book.access.issuers if issuer.name == principal.name]
        return _Identity(principal, bound=_bound(*urls))

    async def _robot(self, text: str, address: str) -> _Identity:
        try:
            token = parse_token(text)
        except TokenInvalid as error:
            raise CredentialsRefused(str(error), reason=Reason.MALFORMED) from None
        # By the very token: nobody keeps a robot out by failing in its name.
        attempt = self._logins.attempt(address, f"robot:{token.digest}", guess=False)
        record = await self._robots.get(token.name)
        standing = Standing.WRONG if record is None else record.standing(token, self._clock.now())
        if record is None or standing is Standing.WRONG:
            # Charged only now: one robot may send many requests at once, and nobody can guess its token.
            self._logins.attempt(address, f"robot:{token.digest}")
            raise CredentialsRefused("this token is no robot's of this registry", reason=Reason.PASSWORD)
        if standing is not Standing.GOOD:
            raise CredentialsRefused(
                f"the token of robot {token.name} is {standing.value}: ask for another",
                reason=Reason.EXPIRED if standing is Standing.EXPIRED else Reason.GONE,
            )
        self._logins.succeeded(attempt)
        return _Identity(record.principal(), bound=_bound(record.digest))

    async def _still(self, principal: Principal, bound: str) -> Principal:
        """Whoever a token was given out for, as they are now.

        Raises `TokenRefused` where they are no more, and where they are known by other credentials than those that the
        token was given out for: a password that was changed, a robot that was made anew, another issuer of that name.
        """
        book = self._rulebook.book
        match principal.kind:
            case "user":
                if principal.method is Method.CERTIFICATE:
                    users = book.access.certificates.items()
                    if any(user == principal.name and bound == _bound("certificate", name) for name, user in users):
                        return principal
                elif principal.name in book.users and bound == _bound(book.users.stored(principal.name)):
                    return principal
            case "robot":
                record = await self._robots.get(principal.name)
                now = self._clock.now()
                if (
                    record is not None
                    and record.revoked is None
                    and (record.expires is None or now < record.expires)
                    and bound == _bound(record.digest)
                ):
                    return record.principal()
            case "oidc":
                if bound and bound == self._of_issuer(principal).bound:
                    return principal
            case "certificate":
                if principal.name not in book.access.certificates:  # Else it stands for a user by now.
                    return principal
            case "anonymous":
                return principal
        raise TokenRefused(f"{principal} is not known here any more", reason=Reason.GONE)


def _bound(*credentials: str) -> str:
    """What stands for credentials in a token, which its bearer can read: they cannot be found from it.

    It is made of what is kept of them, which nobody can guess: a password's hash has a salt, a robot's token is random.
    """
    return hashlib.sha256("\0".join(("bucketry", *credentials)).encode()).hexdigest()[:32] if credentials else ""


def _basic(text: str) -> tuple[str, str]:
    """Raises `CredentialsRefused`."""
    malformed = CredentialsRefused("Basic credentials are not well formed", reason=Reason.MALFORMED)
    if len(text) > MAX_FORM:
        raise malformed
    try:
        name, colon, password = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise malformed from None
    if not colon:
        raise malformed
    return name, password


def basic(name: str, password: str) -> str:
    """As a header: of credentials that came in a form."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def grant(form: Mapping[str, str]) -> str | None:
    """The credentials in a form of OAuth2 (RFC 6749, 4.3). Raises `ParameterInvalid` for another kind of grant."""
    kind = form.get("grant_type")
    if kind != "password":
        raise ParameterInvalid("grant_type is password here: this token service gives out no refresh tokens")
    name, password = form.get("username", ""), form.get("password", "")
    return basic(name, password) if name or password else None
