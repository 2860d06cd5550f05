"""Blobs of the old tree, linked: a record that names their bytes where they are, and a link of the repository."""

from __future__ import annotations

import asyncio

from bucketry.hashing import Checkpoints
from bucketry.oci import Descriptor, Digest
from bucketry.oci.errors import BlobUnknown, DigestMismatch
from bucketry.registry import layout
from bucketry.registry.adoption import tree
from bucketry.registry.adoption.once import Once, Remembered
from bucketry.registry.adoption.taking import Broken, Stop, Taking, broken
from bucketry.registry.budget import MemoryBudget
from bucketry.registry.noting import Hashes
from bucketry.registry.readback import ReadBack
from bucketry.registry.records import BlobRecord, BlobState, decode
from bucketry.store.checks import is_foreign
from bucketry.store.contract import Corrupt, NotFound

_BUFFERS = 1024 * 1024
"""Bytes that one blob's hashing may buffer."""


class AdoptedBlobs:
    """``hashing``: blobs that are hashed at once."""

    def __init__(self, taking: Taking, *, hashing: int) -> None:
        self._taking = taking
        self._store = taking.registry.store
        self._linking: Once[tuple[str, Digest, int], Broken | None] = Once()
        self._linked: Remembered[tuple[str, Digest, int]] = Remembered(taking.remembered)
        self._checking: Once[tuple[str, Digest, int], Broken | Checkpoints | None] = Once()
        self._good: Remembered[tuple[str, Digest, int]] = Remembered(taking.remembered)
        self._hashing = asyncio.Semaphore(hashing)
        segment = taking.registry.settings.segment
        self._read_back = ReadBack(
            self._store,
            MemoryBudget(hashing * _BUFFERS),
            Hashes(segment=segment, native=True),
            readers=1,
            segment=segment,
        )

    async def ensure(self, repository: str, blob: Descriptor, *, fresh: bool) -> Broken | None:
        """Gives the repository the blob, where it has not got it. Why it cannot, else."""
        key = (repository, blob.parsed, blob.size)
        if key in self._linked:
            return None
        found = await self._linking.do(key, lambda: self._link(repository, blob, fresh=fresh))
        if found is None:
            self._linked.add(key)
        return found

    async def verify(self, repository: str, blob: Descriptor) -> Broken | None:
        """Hashes a blob that the repository has already, if its bytes are adopted ones that nobody hashed yet."""
        digest = blob.parsed
        record = await self._record(digest)
        if record is None or not _unproven(record) or not await self._has(repository, digest, record.size):
            return None
        found = await self._good_data(record.data, digest, record.size)
        if isinstance(found, Broken):
            return found
        if found is not None and not self._taking.dry_run:
            try:
                await self._publish(repository, digest, record.size, record.data, found)
            except Stop as stop:
                return stop.broken
        return None

    async def _link(self, repository: str, blob: Descriptor, *, fresh: bool) -> Broken | None:
        digest, size = blob.parsed, blob.size
        # Of a repository that nothing was taken over of yet, a link would be one request more for each blob.
        if not fresh and await self._has(repository, digest, size):
            return await self.verify(repository, blob) if self._taking.verify else None
        try:
            target = await self._taking.link(tree.layer_link(repository, digest), digest, "blob")
            data = tree.data(target)
            found = await self._good_data(data, digest, size)
            if isinstance(found, Broken):
                raise Stop(found)
            if not self._taking.dry_run:
                await self._publish(repository, digest, size, data, found)
        except Stop as stop:
            # What is broken there may have been pushed here.
            return None if fresh and await self._has(repository, digest, size) else stop.broken
        self._taking.tally.blob(repository, digest, size)
        return None

    async def _publish(
        self, repository: str, digest: Digest, size: int, data: str, checkpoints: Checkpoints | None
    ) -> None:
        blobs = self._taking.registry.blobs
        try:
            async with self._taking.places:
                await blobs.publish(repository, digest, size, data, exclusive=False, checkpoints=checkpoints)
        except NotFound:
            raise broken(data, f"the data of blob {digest} is missing") from None

    async def _has(self, repository: str, digest: Digest, size: int) -> bool:
        try:
            async with self._taking.places:
                found = await self._taking.registry.blobs.find(repository, digest)
        except BlobUnknown:
            return False
        return found.size == size

    async def _record(self, digest: Digest) -> BlobRecord | None:
        """That of a blob whose bytes can be read."""
        key = layout.record(digest)
        try:
            async with self._taking.places:
                held = await self._store.get(key)
        except NotFound:
            return None
        record = decode(held.body, BlobRecord, key)
        return None if record.state is BlobState.GONE else record

    async def _good_data(self, data: str, digest: Digest, size: int) -> Broken | Checkpoints | None:
        """What is wrong with the bytes at ``data``; the checkpoints, where they were hashed just now."""
        key = (data, digest, size)
        if key in self._good:
            return None
        found = await self._checking.do(key, lambda: self._check(data, digest, size))
        if not isinstance(found, Broken):
            self._good.add(key)
        return found

    async def _check(self, data: str, digest: Digest, size: int) -> Broken | Checkpoints | None:
        try:
            async with self._taking.places:
                there = (await self._store.head(data)).size
            if there != size:
                return Broken(data, f"the data of blob {digest} has {there} bytes, and {size} are expected")
            if not self._taking.verify:
                return None
            record = await self._record(digest)
            if record is not None and not _unproven(record):
                return None
            async with self._hashing:
                return await self._read_back.verify(
                    data, digest, size, None, lambda count: self._taking.tally.hashed(digest, count)
                )
        except NotFound:
            return Broken(data, f"the data of blob {digest} is missing")
        except DigestMismatch as error:
            return Broken(data, f"the data of blob {digest} has other bytes: {error.message}")
        except Corrupt as error:
            return Broken(data, f"the data of blob {digest} cannot be read: {error}")


def _unproven(record: BlobRecord) -> bool:
    """Whether nobody has hashed the bytes that the record names.

    Checkpoints come of hashing, and what was pushed here was hashed. Of adopted blobs that are too small for
    checkpoints nobody can tell: they are hashed again, unless the note of their manifest says that they were.
    """
    return is_foreign(record.data) and record.segment == 0
