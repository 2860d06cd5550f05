"""Who gets credentials, and what is made of them.

The rule: credentials for a registry go to that registry's own origin (scheme, host and port), and to the token
service that it names, if that is reached

- over https, where the registry itself was reached over https or is on this machine: TLS says that the name is the
  registry's word, and that the service is the one it names;
- at the registry's own origin;
- over plain http on this machine, where the registry is on this machine and reached so too.

Everybody else gets none: a host that a redirect or an upload's ``Location`` leads to, and what that host says in a
``WWW-Authenticate`` of its own. An attacker who could choose the token service would otherwise read the password: one
who sits on a plain http connection, one who controls a bucket or a mirror. From https to http nothing secret goes,
not even a request for a token. Docker and others follow the same split: a registry may name any service over https,
because it is trusted with the password anyway, and many (Docker Hub, GitLab) run theirs under another name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import msgspec
from yarl import URL

from bucketry.transfer.errors import NotAuthenticated, NotPermitted, Refused, TransferError, Unreachable
from bucketry.transfer.remote.address import is_loopback, resolve, same_origin, shown
from bucketry.transfer.remote.answer import LATER, Answer
from bucketry.transfer.remote.challenges import Challenge
from bucketry.transfer.remote.credentials import Credentials, CredentialSource

if TYPE_CHECKING:
    from bucketry.transfer.remote.session import Session

CLIENT: Final = "bucketry"
"""How this program calls itself to token services."""

MAX_TOKEN: Final = 16 * 1024
"""Characters in a token; servers take no longer headers."""

_MAX_ANSWER: Final = 256 * 1024
_LIFETIME: Final = 60.0
"""Seconds that a token lives where its service does not say (Docker's token specification)."""
_MAX_LIFETIME: Final = 24 * 3600.0
_MARGIN: Final = 10.0


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a request is for: ``repository``, by which credentials are chosen, and the ``scopes`` a token must have."""

    repository: str = ""
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    until: float


def refusal(registry: URL, realm: URL) -> str | None:
    """Why the token service ``realm`` must get nothing secret of ``registry``; None where it may."""
    if same_origin(registry, realm):
        return None
    here = is_loopback(registry.host or "")
    if realm.scheme == "https":
        if registry.scheme == "https" or here:
            return None
        return "it was named over plain http, where anybody on the way could have named it"
    if here and registry.scheme == "http" and is_loopback(realm.host or ""):
        return None
    return "it is reached over plain http, where anybody on the way can read what is sent"


class Authorizer:
    """The ``Authorization`` headers for one registry."""

    def __init__(self, session: Session, host: str, origin: URL, source: CredentialSource) -> None:
        self._session = session
        self._host = host
        self._origin = origin
        self._source = source
        self._challenge: Challenge | None = None
        self._known: dict[str, Credentials | None] = {}
        self._extra: dict[Purpose, tuple[str, ...]] = {}
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._secrets: set[str] = set()
        self._finding = asyncio.Lock()
        self._asking: dict[tuple[str, ...], asyncio.Lock] = {}

    @property
    def challenged(self) -> bool:
        """Whether the registry has said how it wants to be convinced."""
        return self._challenge is not None

    async def credentials(self, repository: str) -> Credentials | None:
        """Looked up once: a helper is a program to start. Raises `Misconfigured`."""
        async with self._finding:
            if repository not in self._known:
                found = await self._source.find(self._host, repository)
                self._known[repository] = found
                if found is not None:
                    self._secrets.update(found.secrets())
            return self._known[repository]

    def who(self, purpose: Purpose) -> str:
        """Whose word goes with requests, for messages."""
        found = self._known.get(purpose.repository)
        return "without credentials" if found is None else f"with the credentials from {found.origin}"

    async def header(self, purpose: Purpose) -> str | None:
        """For the next request; None as long as nobody asked for one."""
        return None if self._challenge is None else await self._answer(self._challenge, purpose)

    async def respond(self, challenges: Sequence[Challenge], purpose: Purpose, sent: str | None, *, again: bool) -> str:
        """The header for another try, after a 401 of the registry itself to a request with the header ``sent``.

        ``again``: that header was this method's own answer. Raises `NotAuthenticated`, `NotPermitted`,
        `Unreachable`, `Refused`, `Misconfigured`.
        """
        challenge = _choose(challenges)
        if challenge is None:
            raise self._not_understood(challenges)
        self._challenge = challenge
        if sent is not None and challenge.scheme == "basic":
            raise await self.refused(purpose)
        more = self._wants_more(challenge, purpose)
        if again and not more:
            raise await self.refused(purpose)
        if sent is not None:
            self.forget(sent)
            if more:
                self._extra[purpose] = more
        return await self._answer(challenge, purpose)

    def _wants_more(self, challenge: Challenge, purpose: Purpose) -> tuple[str, ...]:
        """Scopes that a token lacked, as the registry says: all of its, where some are new; else none."""
        if challenge.get("error") != "insufficient_scope":
            return ()
        named = tuple((challenge.get("scope") or "").split())
        return named if set(named) - {*purpose.scopes, *self._extra.get(purpose, ())} else ()

    def learn(self, challenges: Sequence[Challenge]) -> None:
        """What the registry says of itself without having been asked for anything."""
        self._challenge = _choose(challenges) or self._challenge

    def forget(self, sent: str) -> None:
        """A token that is not taken any more."""
        for key, token in list(self._tokens.items()):
            if sent == f"Bearer {token.text}":
                del self._tokens[key]

    async def refused(self, purpose: Purpose) -> NotAuthenticated:
        """The error for a registry that does not take what it was given, twice."""
        found = await self.credentials(purpose.repository)
        if found is None:
            what = f" for {purpose.repository}" if purpose.repository else ""
            return NotAuthenticated(f"{self._host} asks for credentials{what}: bucketry login {self._host}")
        if self._challenge is not None and self._challenge.scheme == "bearer" and found.registry_token is None:
            # The token service took them.
            return NotPermitted(
                f"{self._host}: the credentials from {found.origin} do not allow this"
                f"{f' in {purpose.repository}' if purpose.repository else ''}"
            )
        return self._wrong(found)

    def hide(self, text: str) -> str:
        """``text`` without any secret that this registry was, or could be, given."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            if len(secret) >= 4:
                text = text.replace(secret, "***")
        return text

    def _wrong(self, found: Credentials) -> NotAuthenticated:
        return NotAuthenticated(f"wrong credentials for {self._host}, from {found.origin}: bucketry login {self._host}")

    def _not_understood(self, challenges: Sequence[Challenge]) -> NotAuthenticated:
        schemes = ", ".join(sorted({challenge.scheme for challenge in challenges}))[:80]
        asks = f"asks for {schemes}" if schemes else "does not say how"
        return NotAuthenticated(f"{self._host} wants credentials and {asks}: only Basic and Bearer are known here")

    async def _answer(self, challenge: Challenge, purpose: Purpose) -> str:
        found = await self.credentials(purpose.repository)
        if challenge.scheme == "basic":
            basic = None if found is None else found.basic()
            if basic is None:
                raise await self._missing(found, purpose)
            return f"Basic {basic}"
        if found is not None and found.registry_token is not None:
            return f"Bearer {found.registry_token}"
        scopes = tuple(dict.fromkeys((*purpose.scopes, *self._extra.get(purpose, ()))))
        scopes = scopes or tuple((challenge.get("scope") or "").split())
        return f"Bearer {(await self._token(challenge, scopes, found)).text}"

    async def _missing(self, found: Credentials | None, purpose: Purpose) -> NotAuthenticated:
        if found is None:
            return await self.refused(purpose)
        return NotAuthenticated(
            f"{self._host} asks for a user and a password, and {found.origin} has a token: bucketry login {self._host}"
        )

    async def _token(self, challenge: Challenge, scopes: tuple[str, ...], found: Credentials | None) -> _Token:
        realm, service = challenge.get("realm") or "", challenge.get("service") or ""
        whose = ("", "") if found is None else (found.origin, found.username)
        key = (realm, service, *whose, *scopes)
        async with self._asking.setdefault(key, asyncio.Lock()):
            token = self._tokens.get(key)
            if token is None or token.until <= self._session.monotonic():
                token = self._tokens[key] = await self._fetch(realm, service, scopes, found)
                self._secrets.add(token.text)
        return token

    async def _fetch(self, realm: str, service: str, scopes: tuple[str, ...], found: Credentials | None) -> _Token:
        try:
            url = resolve(self._origin, realm)
        except ValueError as error:
            raise Refused(f"{self._host} names a token service that cannot be: {error}") from None
        why = refusal(self._origin, url)
        if why is not None:
            raise Refused(f"{self._host} names the token service {shown(url)}, which gets no credentials: {why}")
        identity = None if found is None else found.identity_token
        if identity is not None:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": CLIENT,
                "scope": " ".join(scopes),
                "refresh_token": identity,
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = await self._session.send("POST", url, headers=headers, body=urlencode(form).encode())
        else:
            query = [("service", service)] if service else []
            query += [("scope", scope) for scope in scopes]
            headers = {}
            basic = None if found is None else found.basic()
            if found is not None and basic is not None:
                headers["Authorization"] = f"Basic {basic}"
                query.append(("account", found.username))
            answer = await self._session.send("GET", url.extend_query(query), headers=headers)
        async with answer:
            if answer.status != 200:
                raise await self._denied(answer, url, found)
            return self._read(await answer.read(_MAX_ANSWER), url)

    async def _denied(self, answer: Answer, url: URL, found: Credentials | None) -> TransferError:
        trouble = await answer.trouble(self.hide)
        text = trouble.text
        service = f"{self._host}: its token service {shown(url)}"
        if answer.status in LATER:
            return Unreachable(f"{service}: {text}", retry_after=answer.retry_after())
        if answer.status == 403 and found is not None:
            return NotPermitted(f"{service} gives no token with the credentials from {found.origin}: {text}")
        if answer.status in (400, 401, 403):
            if found is None:
                return NotAuthenticated(f"{self._host} asks for credentials: bucketry login {self._host}")
            return self._wrong(found)
        if 300 <= answer.status < 400:
            return Refused(f"{service} sends on to another address, where no credentials go")
        return Refused(f"{service}: {text}")

    def _read(self, body: bytes | None, url: URL) -> _Token:
        """``{"token" | "access_token", "expires_in"}``"""
        strange = f"{self._host}: its token service {shown(url)} gives no token that can be used"
        try:
            document: object = msgspec.json.decode(body or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Refused(strange) from None
        fields = document if isinstance(document, dict) else {}
        text = fields.get("token") or fields.get("access_token")
        if not isinstance(text, str) or not 0 < len(text) <= MAX_TOKEN or not all("!" <= c <= "~" for c in text):
            raise Refused(strange)
        seconds = fields.get("expires_in")
        lifetime = min(seconds, _MAX_LIFETIME) if isinstance(seconds, int | float) and seconds > 0 else _LIFETIME
        return _Token(text, self._session.monotonic() + max(lifetime - _MARGIN, lifetime / 2))


def _choose(challenges: Sequence[Challenge]) -> Challenge | None:
    """Bearer where it can be answered, else Basic."""
    for challenge in challenges:
        if challenge.scheme == "bearer" and challenge.get("realm"):
            return challenge
    return next((challenge for challenge in challenges if challenge.scheme == "basic"), None)
