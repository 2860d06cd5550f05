"""Blobs of a repository: found, told of, deleted, mounted, and published once their bytes are in the store.

What holds here (design, invariants 3 to 5):

- A repository serves a blob because it has a link to it, and for no other reason.
- Whoever tells a client that it need not upload reads the link first (renewed where it is not fresh), and looks at
  the record after. A link alone proves nothing: its writer may have lost to the collector, and died before it knew.
- A commit writes the record, then the link. Where the record is not its own fresh one it reads it again after the link.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from bucketry.hashing import MAX_ENCODED, Checkpoints
from bucketry.oci import Digest
from bucketry.oci.errors import BlobUnknown, Denied, Unsupported
from bucketry.registry import layout
from bucketry.registry.contents import Contents
from bucketry.registry.guards import FREE, TagGuard
from bucketry.registry.records import BlobRecord, BlobState, Link, decode, encode
from bucketry.registry.settings import Clock, Ids, RegistrySettings
from bucketry.registry.sharing import SharedReads
from bucketry.store.checks import is_foreign
from bucketry.store.contract import (
    IF_ABSENT,
    Condition,
    IfMatch,
    NotFound,
    PreconditionFailed,
    ReadOnly,
    Store,
    StoredObject,
    StoreError,
)
from bucketry.store.contract import Unsupported as StoreUnsupported

FRESH = 300.0
"""Seconds: a record this commit made so recently cannot have been condemned.

The collector leaves records alone that are younger than its grace period, which is at least an hour.
"""

CHECKS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob a repository may serve. ``size`` in bytes; ``data`` is the key of its bytes."""

    digest: Digest
    size: int
    data: str


class Blobs:
    def __init__(self, store: Store, contents: Contents, *, clock: Clock, ids: Ids, settings: RegistrySettings) -> None:
        self._store = store
        self._contents = contents
        self._clock = clock
        self._ids = ids
        self._settings = settings
        self._reads: SharedReads[StoredObject] = SharedReads(store.get)

    async def find(self, repository: str, digest: Digest) -> Blob:
        """The blob, to be read. Raises `BlobUnknown`."""
        link, _ = await self._link(repository, digest)
        return Blob(digest, link.size, link.data)

    def read(self, blob: Blob, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from ``start`` up to, not including, ``stop``."""
        return self._store.read(blob.data, start, stop)

    async def presign(self, blob: Blob, *, expires: float, headers: Mapping[str, str]) -> str:
        """A URL at the store by which anyone may read the blob for ``expires`` seconds."""
        return await self._store.presign_get(blob.data, expires=expires, response_headers=headers)

    async def stat(self, repository: str, digest: Digest) -> Blob:
        """The blob, for a client that will skip its upload because of this answer. Raises `BlobUnknown`.

        So the link's lease is renewed where it is not fresh, and the answer never comes from a cache.
        """
        key = layout.link(repository, digest)
        while True:
            link, held = await self._link(repository, digest)
            etag = held.info.etag
            if self._clock.now() - held.info.modified >= self._settings.lease_renewal:
                renewed = msgspec.structs.replace(link, nonce=self._ids.token())
                try:
                    etag = await self._store.put(key, encode(renewed), condition=IfMatch(etag))
                except PreconditionFailed:
                    continue
                except ReadOnly:
                    pass  # Nobody pushes here who could skip an upload, and nobody collects.
            if await self._confirmed(digest, link.data):
                return Blob(digest, link.size, link.data)
            await self._withdraw(key, etag)
            raise _unknown(repository, digest)

    async def missing(self, repository: str, digests: Iterable[Digest]) -> list[Digest]:
        """Those the repository does not have; the leases of the others are renewed, as a manifest will name them."""
        turns = asyncio.Semaphore(CHECKS_AT_ONCE)

        async def absent(digest: Digest) -> bool:
            async with turns:
                try:
                    await self.stat(repository, digest)
                except BlobUnknown:
                    return True
                return False

        wanted = list(digests)
        gone = await asyncio.gather(*map(absent, wanted))
        return [digest for digest, is_gone in zip(wanted, gone, strict=True) if is_gone]

    async def delete(self, repository: str, digest: Digest, *, guard: TagGuard = FREE) -> None:
        """Ends the repository's right to serve the blob; other repositories keep theirs.

        Raises `BlobUnknown`, and `Denied` where a tag that the guard keeps holds the blob: then nothing has gone, but
        for a moment where such a tag is pushed at the same time.
        """
        if not self._settings.delete:
            raise Unsupported("this registry does not delete: its owner set delete.enabled = false")
        link, _ = await self._link(repository, digest)
        async with self._contents.turn(repository, guard):
            await self._contents.require_free(repository, digest, guard)
            await self._store.delete(layout.link(repository, digest))
            try:
                await self._contents.require_free(repository, digest, guard)
            except (Denied, StoreError):
                # Where nobody could look, too: a tag may have come. None is put back only where a collector took the
                # bytes in between.
                with suppress(StoreError):
                    await self._put_settled(repository, Blob(digest, link.size, link.data))
                raise

    async def mount(self, repository: str, digest: Digest, source: str | None) -> Blob | None:
        """Links a blob that ``source`` (or, where allowed, any repository) has. None where it cannot be: upload it."""
        if source is None:
            if not self._settings.mount_without_source:
                return None
            record = await self._revive(digest)
            if record is None:
                return None
            found = Blob(digest, record.size, record.data)
        else:
            try:
                found = await self.find(source, digest)
            except BlobUnknown:
                return None
        return await self._put_settled(repository, found)

    async def checkpoints(self, repository: str, digest: Digest) -> bytes:
        """The blob's SHA-256 checkpoints (`bucketry.hashing.Checkpoints.encode`). Raises `BlobUnknown`."""
        await self._link(repository, digest)
        try:
            return (await self._store.get(layout.checkpoints(digest), limit=MAX_ENCODED)).body
        except NotFound:
            raise BlobUnknown(
                f"there are no checkpoints of {digest}: it is too small to need them, or was pushed without. "
                "Verify it from its first byte.",
                detail={"digest": str(digest)},
            ) from None

    async def publish(
        self,
        repository: str,
        digest: Digest,
        size: int,
        data: str,
        *,
        exclusive: bool,
        checkpoints: Checkpoints | None = None,
    ) -> Blob:
        """Makes bytes that are in the store, and were hashed, a blob of the repository.

        ``exclusive`` says that nobody else can ever name ``data``: where the blob exists already, these bytes
        are deleted. Otherwise they are left to whoever knows who may name them. Foreign bytes are never exclusive.
        """
        if exclusive and is_foreign(data):
            raise ValueError(f"bytes of another program are not to be deleted: {data}")
        key = layout.record(digest)
        if checkpoints is not None:
            await self._store.put(layout.checkpoints(digest), checkpoints.encode())
        segment = 0 if checkpoints is None else checkpoints.segment
        while True:
            began = self._clock.monotonic()
            record, fresh = await self._make_record(key, size, data, segment)
            await self._put_link(layout.link(repository, digest), record.size, record.data)
            if fresh and self._clock.monotonic() - began < FRESH:
                break
            if await self._confirmed(digest, record.data):
                break
        if exclusive and record.data != data:
            await self._store.delete(data)
        return Blob(digest, record.size, record.data)

    async def published_data(self, digest: Digest) -> str | None:
        """The key of the digest's bytes, or None where no record names any."""
        try:
            held = await self._store.get(layout.record(digest))
        except NotFound:
            return None
        record = decode(held.body, BlobRecord, held.info.key)
        return None if record.state is BlobState.GONE else record.data

    async def _link(self, repository: str, digest: Digest) -> tuple[Link, StoredObject]:
        try:
            held = await self._reads.get(layout.link(repository, digest))
        except NotFound:
            raise _unknown(repository, digest) from None
        return decode(held.body, Link, held.info.key), held

    async def _put_link(self, key: str, size: int, data: str, condition: Condition | None = None) -> str:
        """The new link's etag."""
        body = encode(Link(size=size, data=data, nonce=self._ids.token()))
        return await self._store.put(key, body, condition=condition)

    async def _put_settled(self, repository: str, found: Blob) -> Blob | None:
        """Links bytes that some repository had; None, and no such link, where they are not the digest's any more.

        A link that is there and holds is not touched: these bytes may be older ones, and it would go with them.
        """
        key = layout.link(repository, found.digest)
        try:
            etag = await self._put_link(key, found.size, found.data, IF_ABSENT)
        except PreconditionFailed:
            try:
                return await self.stat(repository, found.digest)
            except BlobUnknown:
                etag = await self._put_link(key, found.size, found.data)
        if await self._confirmed(found.digest, found.data):
            return found
        await self._withdraw(key, etag)
        return None

    async def _confirmed(self, digest: Digest, data: str) -> bool:
        """Whether a link to ``data`` that is in place holds: looked at before, the record might still be condemned."""
        record = await self._revive(digest)
        return record is not None and record.data == data

    async def _withdraw(self, key: str, etag: str) -> None:
        """Removes a link that does not hold, and no link that another request put in its place."""
        try:
            await self._store.delete(key, condition=IfMatch(etag))
        except (PreconditionFailed, StoreUnsupported, ReadOnly):
            pass  # Where the store cannot, the link stays: nobody is told that its blob is there.

    async def _make_record(self, key: str, size: int, data: str, segment: int) -> tuple[BlobRecord, bool]:
        """A live record for the bytes, and whether this call made it live with these very bytes."""
        ours = BlobRecord(
            state=BlobState.LIVE,
            size=size,
            data=data,
            nonce=self._ids.token(),
            created=self._clock.now(),
            segment=segment,
        )
        while True:
            try:
                await self._store.put(key, encode(ours), condition=IF_ABSENT)
            except PreconditionFailed:
                pass
            else:
                return ours, True
            try:
                held = await self._store.get(key)
            except NotFound:
                continue
            record = decode(held.body, BlobRecord, key)
            # Checkpoints that were just written are those that the record speaks of, whoever made it.
            noted = segment or record.segment
            if record.state is BlobState.LIVE and record.segment == noted:
                return record, False
            if record.state is BlobState.GONE:
                if record.data == data and not is_foreign(data):
                    # Published before, and given up since: whoever did is about to delete them. Foreign ones stay.
                    raise NotFound(f"{self._store.url}: the bytes {data} were collected")
                # Rare, and the session may be a day old: these bytes must still be there before a record names them.
                await self._store.head(data)
                revived = ours
            else:
                revived = msgspec.structs.replace(record, state=BlobState.LIVE, nonce=self._ids.token(), segment=noted)
            try:
                await self._store.put(key, encode(revived), condition=IfMatch(held.info.etag))
            except PreconditionFailed:
                continue
            return revived, False

    async def _revive(self, digest: Digest) -> BlobRecord | None:
        """The live record, rescued where it was condemned; None where the digest has no bytes any more."""
        key = layout.record(digest)
        while True:
            try:
                held = await self._store.get(key)
            except NotFound:
                return None
            record = decode(held.body, BlobRecord, key)
            if record.state is BlobState.LIVE:
                return record
            if record.state is BlobState.GONE:
                return None
            revived = msgspec.structs.replace(record, state=BlobState.LIVE, nonce=self._ids.token())
            try:
                await self._store.put(key, encode(revived), condition=IfMatch(held.info.etag))
            except PreconditionFailed:
                continue
            return revived


def _unknown(repository: str, digest: Digest) -> BlobUnknown:
    return BlobUnknown(f"{repository} has no blob {digest}", detail={"digest": str(digest)})
