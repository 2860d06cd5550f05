"""One registry: requests with its credentials, redirects followed by hand, and what its refusals mean."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from yarl import URL

from bucketry.transfer.contract import Buffer
from bucketry.transfer.errors import (
    ContentMismatch,
    ImageMissing,
    NotAuthenticated,
    NotPermitted,
    Refused,
    TransferError,
    Unreachable,
)
from bucketry.transfer.remote.address import resolve, same_origin, shown
from bucketry.transfer.remote.answer import LATER, Answer, Trouble
from bucketry.transfer.remote.auth import Authorizer, Purpose
from bucketry.transfer.remote.challenges import parse_challenges
from bucketry.transfer.remote.credentials import CredentialSource
from bucketry.transfer.remote.payload import Stream

if TYPE_CHECKING:
    from bucketry.transfer.remote.session import Session

MAX_REDIRECTS: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
MAX_SKEW: Final = 120.0
"""Seconds that a clock may be off before it is mentioned."""

_MISMATCH: Final = frozenset({"DIGEST_INVALID", "SIZE_INVALID"})


class Endpoint:
    """The registry ``host``, whose API is at ``origin``, below ``root`` (empty, or ``/…``). Made by `Session`."""

    def __init__(self, session: Session, host: str, origin: URL, source: CredentialSource, *, root: str = "") -> None:
        self.session = session
        self.host = host
        self.origin = origin
        self._root = root
        self._auth = Authorizer(session, host, origin, source)
        self._looked = False
        self._looking = asyncio.Lock()

    def url(self, target: str | URL) -> URL:
        """``target``: a path, encoded, with its query; or an address in full."""
        return target if isinstance(target, URL) else self.origin.join(URL(self._root + target, encoded=True))

    def owns(self, url: URL) -> bool:
        """Whether an address is the registry's own, and may have its credentials."""
        return same_origin(self.origin, url)

    async def request(
        self,
        method: str,
        target: str | URL,
        purpose: Purpose,
        *,
        headers: Mapping[str, str] | None = None,
        body: Buffer | Stream | None = None,
        follow: bool = True,
    ) -> Answer:
        """An answer, whatever its status but 401 of the registry itself: that is `NotAuthenticated` here.

        Credentials go along where the address is the registry's own. With ``follow`` a redirect is followed: of GET
        and HEAD to anywhere, of others within the registry. Raises `TransferError`.
        """
        url = self.url(target)
        answer = await self._send(method, url, purpose, headers, body)
        if not follow:
            return answer
        for _ in range(MAX_REDIRECTS):
            if answer.status not in REDIRECTS:
                return answer
            to = self.location(answer)
            await answer.discard()
            if method not in ("GET", "HEAD") and (not self.owns(to) or answer.status < 307 or isinstance(body, Stream)):
                raise Refused(f"{self.host} sends a {method} on to {shown(to)}, which is not done here")
            if answer.foreign:
                # What a stranger leads to is a stranger's, even where it leads back.
                answer = await self._send_foreign(method, to, headers, body)
            else:
                answer = await self._send(method, to, purpose, headers, body)
        answer.close()
        raise Refused(f"{self.host} redirects without end")

    def location(self, answer: Answer) -> URL:
        """Where an answer leads to. Raises `Refused`."""
        try:
            return resolve(answer.url, answer.headers.get("Location", ""))
        except ValueError as error:
            raise Refused(f"{self.host} names an address that cannot be used: {error}") from None

    async def failure(self, answer: Answer, doing: str) -> TransferError:
        """The error that an answer is; it is closed. ``doing``: what failed, such as "reading team/app:v1"."""
        return self.error(answer, doing, await answer.trouble(self.hide))

    def error(self, answer: Answer, doing: str, trouble: Trouble) -> TransferError:
        """As `failure`, for an answer whose body has been read."""
        text = trouble.text
        what = f"{self.host}: {doing}"
        if answer.foreign:
            what = f"{what}, at {shown(answer.url)}"
        if answer.status in LATER:
            return Unreachable(f"{what}: {text}", retry_after=answer.retry_after())
        if answer.foreign:
            return Refused(f"{what}: {text}{self._clock(answer, trouble) if answer.status in (400, 401, 403) else ''}")
        if answer.status == 401:
            return NotAuthenticated(f"{what}: {text}")
        if answer.status == 403:
            return NotPermitted(f"{what} is not allowed {answer.who}: {text}")
        if answer.status == 404:
            return ImageMissing(f"{what}: not found ({text})")
        if _MISMATCH & set(trouble.codes):
            return ContentMismatch(f"{what}: {text}")
        return Refused(f"{what}: {text}")

    def hide(self, text: str) -> str:
        """``text`` without secrets that this registry was given: a stranger's words may repeat them."""
        return self._auth.hide(text)

    async def check(self) -> bool:
        """Whether the registry asks for credentials. Raises `NotAuthenticated` where it does not take them."""
        async with await self.request("GET", "/v2/", Purpose()) as answer:
            if answer.status != 200:
                raise await self.failure(answer, "logging in")
        return self._auth.challenged

    def _clock(self, answer: Answer, trouble: Trouble) -> str:
        """What a clock may have to do with it. The registry's credentials were not sent, so they have nothing."""
        skew = answer.skew()
        if skew is not None and abs(skew) >= MAX_SKEW:
            side = "ahead" if skew > 0 else "behind"
            return f"; this machine's clock is {abs(skew) / 60:.0f} minutes off ({side}): set it"
        if "RequestTimeTooSkewed" in trouble.codes:
            return f"; the clock of {self.host} is off"
        return f" (the credentials of {self.host} are not sent there)"

    async def _send(
        self,
        method: str,
        url: URL,
        purpose: Purpose,
        headers: Mapping[str, str] | None,
        body: Buffer | Stream | None,
    ) -> Answer:
        if not self.owns(url):
            return await self._send_foreign(method, url, headers, body)
        sent = await self._auth.header(purpose)
        answer = await self._once(method, url, headers, body, sent)
        if answer.status in (403, 404) and sent is None and await self._look(purpose):
            await answer.discard()
            sent = await self._auth.header(purpose)
            answer = await self._once(method, url, headers, body, sent)
        for again in (False, True):
            if answer.status != 401:
                break
            challenges = parse_challenges(answer.headers.getall("WWW-Authenticate", ()))
            await answer.discard()
            if isinstance(body, Stream):
                # The token ended between two requests. Its body is gone, so the caller begins once more.
                self._auth.learn(challenges)
                self._auth.forget(sent or "")
                raise Unreachable(f"{self.host} wants to be asked again: a token ended")
            # To be let in, and then once more to be let in with what else is wanted: no third time.
            sent = await self._auth.respond(challenges, purpose, sent, again=again)
            answer = await self._once(method, url, headers, body, sent)
        if answer.status == 401:
            await answer.discard()
            raise await self._auth.refused(purpose)
        answer.who = self._auth.who(purpose)
        return answer

    async def _send_foreign(
        self, method: str, url: URL, headers: Mapping[str, str] | None, body: Buffer | Stream | None
    ) -> Answer:
        answer = await self.session.send(method, url, headers=headers, body=body)
        answer.foreign = True
        return answer

    async def _look(self, purpose: Purpose) -> bool:
        """Whether a registry that did not ask for credentials, and denies something, asks for them at its door.

        Some answer anonymous requests for what is private as if it did not exist.
        """
        async with self._looking:
            if not self._looked:
                async with await self.session.send("GET", self.url("/v2/")) as answer:
                    if answer.status == 401:
                        self._auth.learn(parse_challenges(answer.headers.getall("WWW-Authenticate", ())))
                self._looked = True
        # Only now: a helper is a program to start, and may be broken where nobody needs it.
        return self._auth.challenged and await self._auth.credentials(purpose.repository) is not None

    async def _once(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str] | None,
        body: Buffer | Stream | None,
        authorization: str | None,
    ) -> Answer:
        given = dict(headers or {})
        if authorization is not None:
            given["Authorization"] = authorization
        return await self.session.send(method, url, headers=given, body=body)
