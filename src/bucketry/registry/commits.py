"""The end of an upload: its bytes are whole in the store, or at hand, and become a blob."""

from __future__ import annotations

import asyncio

from bucketry.hashing import Checkpoints
from bucketry.oci import Digest
from bucketry.oci.errors import DigestMismatch, UploadInvalid
from bucketry.registry import noting
from bucketry.registry.blobs import Blob, Blobs
from bucketry.registry.chunks import check_digest
from bucketry.registry.ended import EndedSessions
from bucketry.registry.noting import Hashes
from bucketry.registry.parts import PartStream
from bucketry.registry.sessions import Session, Ticket
from bucketry.store.contract import Store


class Commits:
    def __init__(self, store: Store, blobs: Blobs, ended: EndedSessions, hashes: Hashes) -> None:
        self._store = store
        self._blobs = blobs
        self._ended = ended
        self._hashes = hashes

    async def buffered(self, ticket: Ticket, stream: PartStream, digest: Digest) -> Blob:
        """All of the blob is at hand, so it is one object, and whatever algorithm was asked for can be computed."""
        await stream.settle()
        hasher = stream.hasher
        if hasher.algorithm != digest.algorithm or hasher.length != stream.size:
            hasher = self._hashes.new(digest.algorithm)
            await asyncio.to_thread(hasher.update, stream.rest())
        check_digest(digest, hasher.hexdigest())
        await self._store.put(stream.key, stream.rest())
        size = stream.size
        stream.release()
        noted = noting.checkpoints(hasher)
        blob = await self._blobs.publish(ticket.repository, digest, size, stream.key, exclusive=True, checkpoints=noted)
        self._ended.add(ticket.session_id, digest, ticket.key)
        return blob

    async def sealed(self, ticket: Ticket, session: Session, digest: Digest) -> Blob:
        """The blob is one object already."""
        assert session.data is not None
        return await self._publish(ticket, session, session.data, digest, await self._verify(session, digest))

    async def claimed(self, ticket: Ticket, session: Session, digest: Digest) -> Blob:
        """Completes a claimed session: the first time, or again after a commit whose answer was lost."""
        if session.digest != str(digest):
            raise UploadInvalid(f"the session is being committed as {session.digest}, and cannot become {digest}")
        assert session.data is not None
        assert session.upload is not None
        await self._store.complete_multipart(session.data, session.upload, session.stored_parts())
        try:
            noted = await self._verify(session, digest)
        except DigestMismatch:
            # It was read back, so the session was claimed already: its bytes are of no use to anyone.
            await self._store.delete_many([session.data, ticket.key])
            self._ended.add(ticket.session_id, None, None)
            raise
        return await self._publish(ticket, session, session.data, digest, noted)

    async def _publish(
        self, ticket: Ticket, session: Session, data: str, digest: Digest, noted: Checkpoints | None
    ) -> Blob:
        blob = await self._blobs.publish(
            ticket.repository, digest, session.size, data, exclusive=False, checkpoints=noted
        )
        # Where the blob was there already, the session stays: it names bytes that only the sweeper may delete, as
        # another request may be committing them by another digest.
        self._ended.add(ticket.session_id, digest, ticket.key if blob.data == data else None)
        return blob

    async def _verify(self, session: Session, digest: Digest) -> Checkpoints | None:
        """Compares the digest with the session's hash, or, where that is of no help, with the stored bytes.

        Gives the checkpoints that were noted on the way.
        """
        assert session.data is not None
        hasher = self._hashes.restored(session) if session.algorithm == digest.algorithm else None
        if hasher is None:
            hasher = self._hashes.new(digest.algorithm)
            async for piece in self._store.read(session.data):
                await asyncio.to_thread(hasher.update, piece)
        check_digest(digest, hasher.hexdigest())
        return noting.checkpoints(hasher)
