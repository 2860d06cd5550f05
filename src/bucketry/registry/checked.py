"""Small blobs by one PUT that the store itself checks, so that nothing is read back (RFC 3, rule 9).

The signature of the PUT holds the blob's size, its SHA-256, and that there is no object yet. So what is at the
session's key has the digest that was announced, and never changes: nobody needs to claim the session. Any number of
requests, of any replicas, may complete it at once, and each publishes the same bytes.

For the same reason nobody but the sweeper deletes any: another request may be about to publish them. A session whose
bytes are of no use stays until it is swept, long after its id, and every URL for it, has expired.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from bucketry import hashing
from bucketry.oci import Digest
from bucketry.oci.errors import BlobUnknown, DigestMismatch, UploadInvalid, UploadUnknown
from bucketry.registry import layout
from bucketry.registry.blobs import Blob, Blobs
from bucketry.registry.chunks import check_digest
from bucketry.registry.completion import Asked
from bucketry.registry.ended import EndedSessions
from bucketry.registry.sessions import CHECKED, PARALLEL, Session, Sessions, State, Ticket, translated
from bucketry.registry.settings import Clock, Ids, RegistrySettings
from bucketry.store.contract import IF_ABSENT, Buffer, NotFound, Part, PreconditionFailed, Store

MOST_EXPIRES = 1800.0
"""Seconds a URL is good for, at most. No collector removes bytes within an hour of their record: a PUT that comes
again finds them, and leaves nothing behind."""
_REMEMBERED = 1_000
_HASH_IN_THREAD = 64 * 1024
"""Bytes: below, a hop to a thread costs more than the hash."""


@dataclass(frozen=True, slots=True)
class SignedPut:
    """Where to PUT a blob, for ``expires`` seconds; ``headers`` must go with it, exactly these."""

    url: str
    headers: Mapping[str, str]
    """Names in lower case, content-length among them."""
    expires: float


class CheckedPuts:
    """``ticket``: of a session that is one of these: `is_checked`."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        sessions: Sessions,
        ended: EndedSessions,
        *,
        clock: Clock,
        ids: Ids,
        settings: RegistrySettings,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._sessions = sessions
        self._ended = ended
        self._clock = clock
        self._ids = ids
        self._settings = settings
        self._begun: OrderedDict[str, Session] = OrderedDict()
        """Sessions that began here and have not ended here. They say all that `complete` asks the store for."""

    @property
    def most(self) -> int:
        """Bytes of the longest blob that goes so; 0 where none does. It is a segment: a longer one has checkpoints,
        which nobody here would see."""
        return self._settings.segment if self._store.capabilities.checked_put else 0

    def takes(self, digest: Digest | None, size: int | None) -> bool:
        return digest is not None and digest.algorithm == "sha256" and size is not None and 0 < size <= self.most

    async def begin(
        self, repository: str, principal: str, digest: Digest, size: int, *, part_size: int, expires: float
    ) -> tuple[str, SignedPut]:
        """The id of a new session, and where its blob goes."""
        session_id = self._sessions.begin(repository, principal, CHECKED)
        ticket = self._sessions.check(session_id, repository, principal)
        session = Session(
            nonce="",
            repository=repository,
            data=layout.data(self._ids.token()),
            part_size=part_size,
            digest=str(digest),
            expected=size,
        )
        # Before anybody can put bytes there: the sweeper finds them by it.
        held = await self._sessions.save(ticket.key, session, b"", None)
        self._begun[session_id] = held.session
        if len(self._begun) > _REMEMBERED:
            self._begun.popitem(last=False)
        return session_id, await self.sign(ticket, held.session, expires)

    async def sign(self, ticket: Ticket, session: Session, expires: float) -> SignedPut:
        data, digest, size = _told(session)
        remaining = ticket.created + self._settings.upload_expiry - self._clock.now()
        expires = max(1.0, min(expires, remaining, MOST_EXPIRES))
        put = await self._store.presign_put(data, size=size, sha256=bytes.fromhex(digest.hex), expires=expires)
        return SignedPut(put.url, put.headers, expires)

    async def put(self, session: Session, body: Buffer) -> Part:
        """Takes the blob in place of the store, and checks it as the store does. Raises `DigestMismatch`."""
        data, digest, size = _told(session)
        hasher = hashing.new(digest.algorithm)
        if size < _HASH_IN_THREAD:
            hasher.update(body)
        else:
            await asyncio.to_thread(hasher.update, body)
        check_digest(digest, hasher.hexdigest())
        try:
            return Part(1, size, await self._store.put(data, body, condition=IF_ABSENT))
        except PreconditionFailed:
            return Part(1, size, (await self._store.head(data)).etag)

    async def arrived(self, session: Session) -> list[Part]:
        data, _, size = _told(session)
        try:
            found = await self._store.head(data)
        except NotFound:
            return []
        return [Part(1, found.size, found.etag)] if found.size == size else []

    async def complete(self, ticket: Ticket, digest: Digest, size: int) -> Blob:
        """See `bucketry.registry.parallel.Parallel.complete`. One that is cancelled meanwhile may still succeed."""
        session = self._begun.get(ticket.session_id)
        if session is None:
            held = await self._sessions.load(ticket)
            if held is None:
                return await self._published(ticket, digest)
            session = held.session
        if session.state is not State.OPEN:
            raise PARALLEL.unknown("the upload was cancelled")
        Asked(digest, size).check_same(session.digest, session.expected)
        data, _, _ = _told(session)
        try:
            found = await self._store.head(data)
        except NotFound:
            if self._begun.pop(ticket.session_id, None) is not None:
                return await self.complete(ticket, digest, size)  # It may have ended elsewhere.
            raise UploadInvalid(
                f"the {size} bytes have not arrived: send them, and complete the upload again", detail={"missing": [1]}
            ) from None
        if found.size != size:
            # No store that was probed does that.
            raise DigestMismatch(
                f"the object has {found.size} bytes, and {digest} was announced with {size}: the store took what it "
                "was told to refuse, so its owner must not have store.checked_put = true",
                detail={"expected": str(digest)},
            )
        try:
            with translated(PARALLEL):
                blob = await self._blobs.publish(ticket.repository, digest, size, data, exclusive=False)
        except UploadUnknown:
            return await self._published(ticket, digest)  # What was there a moment ago was swept, or collected.
        self.forget(ticket)
        # Where the blob has other bytes by now, these are left to the sweeper, which finds them by the session.
        self._ended.add(ticket.session_id, digest, ticket.key if blob.data == data else None)
        return blob

    def forget(self, ticket: Ticket) -> None:
        self._begun.pop(ticket.session_id, None)

    async def _published(self, ticket: Ticket, digest: Digest) -> Blob:
        try:
            return await self._blobs.stat(ticket.repository, digest)
        except BlobUnknown:
            raise PARALLEL.unknown("the upload has ended") from None


def is_checked(ticket: Ticket) -> bool:
    return ticket.algorithm == CHECKED


def _told(session: Session) -> tuple[str, Digest, int]:
    """Key, digest and size, as they were at the beginning."""
    assert session.data is not None
    assert session.digest is not None
    assert session.expected is not None
    return session.data, Digest.parse(session.digest), session.expected
