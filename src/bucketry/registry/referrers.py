"""Referrers: the manifests of a repository that name another as their subject (spec, "Listing Referrers")."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from bucketry.oci import ALGORITHMS, Descriptor, Digest
from bucketry.registry import layout
from bucketry.registry.records import decode
from bucketry.registry.settings import RegistrySettings
from bucketry.store.contract import ListedObject, NotFound, Store

_READS_AT_ONCE = 16
_READ_AHEAD = 100
"""Descriptors read at a time while a filter looks for matches."""


@dataclass(frozen=True, slots=True)
class ReferrersPage:
    """``last`` is what the next page follows; None where there is no more."""

    descriptors: tuple[Descriptor, ...]
    last: Digest | None


class Referrers:
    def __init__(self, store: Store, *, settings: RegistrySettings) -> None:
        self._store = store
        self._settings = settings

    async def add(self, repository: str, subject: Digest, digest: Digest, descriptor: Descriptor) -> None:
        await self._store.put(
            layout.referrer(repository, subject, digest),
            msgspec.json.encode(descriptor),
            content_type="application/json",
        )

    async def remove(self, repository: str, subject: Digest, digest: Digest) -> None:
        await self._store.delete(layout.referrer(repository, subject, digest))

    async def page(
        self,
        repository: str,
        subject: Digest,
        *,
        artifact_type: str | None = None,
        limit: int | None = None,
        after: Digest | None = None,
    ) -> ReferrersPage:
        """Referrers of ``subject``, of ``artifact_type`` where it is given, in the order of their digests.

        Their annotations are the pushers', so a page also ends where its entries together outgrow a manifest.
        """
        limit = self._settings.max_page if limit is None else min(limit, self._settings.max_page)
        found: list[Descriptor] = []
        size = 0
        if limit == 0:
            return ReferrersPage((), None)
        for algorithm in sorted(ALGORITHMS):
            if after is not None and algorithm < after.algorithm:
                continue
            prefix = layout.referrers(repository, subject, algorithm)
            last = after.hex if after is not None and after.algorithm == algorithm else None
            more = True
            while more:
                page = await self._store.list(
                    prefix, after=None if last is None else prefix + last, limit=min(_READ_AHEAD, limit)
                )
                more = page.more
                for batch in _batches(page.objects, self._settings.max_manifest):
                    for listed, descriptor in zip(batch, await self._read(batch), strict=True):
                        if len(found) == limit:
                            return ReferrersPage(tuple(found), found[-1].parsed)
                        last = listed.key.removeprefix(prefix)
                        if descriptor is None or artifact_type not in (None, descriptor.artifact_type):
                            continue
                        size += listed.size
                        if found and size > self._settings.max_manifest:
                            return ReferrersPage(tuple(found), found[-1].parsed)
                        found.append(descriptor)
        return ReferrersPage(tuple(found), None)

    async def _read(self, batch: Sequence[ListedObject]) -> list[Descriptor | None]:
        """The descriptors, None for a referrer that was deleted meanwhile."""
        turns = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(key: str) -> Descriptor | None:
            async with turns:
                try:
                    held = await self._store.get(key)
                except NotFound:
                    return None
                return decode(held.body, Descriptor, key)

        return await asyncio.gather(*(read(listed.key) for listed in batch))


def _batches(objects: Sequence[ListedObject], limit: int) -> Iterator[list[ListedObject]]:
    """The objects in order, as many at a time as have at most ``limit`` bytes together, and at least one."""
    batch: list[ListedObject] = []
    size = 0
    for listed in objects:
        if batch and size + listed.size > limit:
            yield batch
            batch, size = [], 0
        batch.append(listed)
        size += listed.size
    if batch:
        yield batch
