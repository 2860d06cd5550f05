"""Ends upload sessions that were abandoned, and frees what they hold: sessions, parts, bytes that nobody published."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from bucketry import hashing
from bucketry.oci import ALGORITHMS, Digest
from bucketry.registry import layout
from bucketry.registry.blobs import Blobs
from bucketry.registry.sessions import Session, State, parse
from bucketry.registry.settings import Clock, RegistrySettings
from bucketry.store.checks import is_bulk
from bucketry.store.contract import Corrupt, NotFound, Store

MARGIN = 3600.0
"""Seconds beyond its expiry before a session is swept: no request that began before may still be at work."""


@dataclass(frozen=True, slots=True)
class Swept:
    sessions: int
    uploads: int
    """Multipart uploads that were aborted."""
    data: int
    """Bulk objects that were deleted."""


class Sweeper:
    """Safe to run anywhere, any number at once."""

    def __init__(self, store: Store, blobs: Blobs, *, clock: Clock, settings: RegistrySettings) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._settings = settings

    async def sweep(self) -> Swept:
        expired = self._clock.now() - self._settings.upload_expiry - MARGIN
        sessions = uploads = data = 0
        after: str | None = None
        more = True
        while more:
            page = await self._store.list(layout.UPLOADS_PREFIX, after=after)
            more = page.more
            for listed in page.objects:
                after = listed.key
                if listed.modified >= expired:
                    continue
                aborted, deleted = await self._end(listed.key)
                sessions, uploads, data = sessions + 1, uploads + aborted, data + deleted
        for pending in await self._store.list_multiparts():
            # The old registry of an adopted store has uploads of its own under way.
            if pending.initiated < expired and is_bulk(pending.key):
                await self._store.abort_multipart(pending.key, pending.upload_id)
                uploads += 1
        return Swept(sessions, uploads, data)

    async def _end(self, key: str) -> tuple[int, int]:
        """Removes a session; how many multipart uploads and bulk objects went with it."""
        aborted = deleted = 0
        try:
            held = await self._store.get(key, limit=1 << 40)
            session = parse(key, held.body, held.info.etag).session
        except NotFound:
            return 0, 0
        except Corrupt:
            session = None
        if session is not None and session.data is not None:
            if session.upload is not None:
                await self._store.abort_multipart(session.data, session.upload)
                aborted = 1
            if not await self._published(session):
                await self._store.delete(session.data)
                deleted = 1
        if session is not None and session.digest is not None and session.state is State.COMMITTING:
            digest = Digest.parse(session.digest)
            # They are written before the record. Another upload of the same bytes may lose its own to this, just
            # before it writes the record: then the blob is one without checkpoints, and no worse.
            if await self._blobs.published_data(digest) is None:
                await self._store.delete(layout.checkpoints(digest))
        await self._store.delete(key)
        return aborted, deleted

    async def _published(self, session: Session) -> bool:
        """Whether a record names the session's bytes, by any digest that a commit can have given them."""
        digests: list[Digest] = []
        if session.digest is not None:
            digests.append(Digest.parse(session.digest))
        if session.sealed and session.data is not None:
            digests += await self._digests(session.data)
        for digest in digests:
            if await self._blobs.published_data(digest) == session.data:
                return True
        return False

    async def _digests(self, data: str) -> list[Digest]:
        """Every digest of the bytes, none where they are gone. A commit of a sealed session claims nothing, so it may
        have been of another algorithm than the one they were hashed with."""
        hashers = [hashing.new(algorithm) for algorithm in sorted(ALGORITHMS)]
        try:
            async for piece in self._store.read(data):
                for hasher in hashers:
                    await asyncio.to_thread(hasher.update, piece)
        except NotFound:
            return []
        return [Digest(hasher.algorithm, hasher.hexdigest()) for hasher in hashers]
