"""A site store that counts: requests as a service bills them, and files and bytes by what they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from bucketry.store.contract import Buffer, Condition, Store
from bucketry.store.site import Served, SiteContent, SiteFile, SiteStore, SiteUpload
from bucketry.transfer.crew import closing
from bucketry.transfer.site import paths
from bucketry.transfer.site.front import SiteInFront

PAGE: Final = 1000
"""Files in an answer to LIST, and paths in one DELETE: the most of S3."""

MOST_COPIED: Final = 5 * 1024**3
"""Bytes that one COPY takes."""

COPIED_PART: Final = 512 * 1024**2
"""Bytes of the parts of larger ones."""


@dataclass(slots=True)
class Count:
    files: int = 0
    bytes: int = 0

    def add(self, size: int, files: int = 1) -> None:
        self.files += files
        self.bytes += size


@dataclass(slots=True)
class Counts:
    """``requests``: PUT (with what begins and ends an upload in parts), COPY, LIST, GET (and HEAD), DELETE.

    ``written``: by kind, see `paths.kind`. A file that was written twice counts twice.
    """

    requests: Counter[str] = field(default_factory=Counter)
    written: dict[str, Count] = field(default_factory=dict)

    def wrote(self, path: str, size: int) -> None:
        self.written.setdefault(paths.kind(path), Count()).add(size)

    def sent(self, path: str, size: int, part_size: int | None) -> None:
        """A file that goes as parts of that size; None: whole."""
        self.requests["PUT"] += 1 if part_size is None else max(1, -(-size // part_size)) + 2
        self.wrote(path, size)

    def copied(self, path: str, size: int) -> None:
        """The source is looked at first; what is too large for one COPY goes as parts."""
        self.requests["GET"] += 1
        self.requests["COPY"] += 1 if size <= MOST_COPIED else -(-size // COPIED_PART) + 2
        self.wrote(path, size)


class CountedSite(SiteInFront):
    """The store, with every call counted once it has worked."""

    def __init__(self, site: SiteStore, counts: Counts) -> None:
        super().__init__(site)
        self.counts = counts

    async def get(self, path: str, *, limit: int = 16 * 1024 * 1024) -> SiteContent:
        self.counts.requests["GET"] += 1
        return await self._site.get(path, limit=limit)

    async def head(self, path: str) -> SiteFile:
        self.counts.requests["GET"] += 1
        return await self._site.head(path)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        self.counts.requests["GET"] += 1
        return self._site.read(path, start, stop)

    async def list(self, prefix: str) -> AsyncIterator[SiteFile]:
        count = 0
        async with closing(self._site.list(prefix)) as files:
            async for file in files:
                if count % PAGE == 0:
                    self.counts.requests["LIST"] += 1
                count += 1
                yield file
        if count == 0:
            self.counts.requests["LIST"] += 1

    async def put(self, path: str, body: Buffer, *, served: Served, condition: Condition | None = None) -> str:
        self.counts.requests["PUT"] += 1
        etag = await self._site.put(path, body, served=served, condition=condition)
        self.counts.wrote(path, len(body))
        return etag

    async def begin(self, path: str, *, size: int, served: Served, part_size: int | None = None) -> SiteUpload:
        upload = await self._site.begin(path, size=size, served=served, part_size=part_size)
        self.counts.requests["PUT"] += 1
        return CountedUpload(upload, self.counts, path, size)

    async def copy(self, source: str, path: str, *, size: int, served: Served) -> bool:
        worked = await self._site.copy(source, path, size=size, served=served)
        if worked:
            self.counts.copied(path, size)
        return worked

    async def copy_from(self, store: Store, key: str, path: str, *, size: int, served: Served) -> bool:
        worked = await self._site.copy_from(store, key, path, size=size, served=served)
        if worked:
            self.counts.copied(path, size)
        return worked

    async def twin(self, path: str, other: str) -> None:
        await self._site.twin(path, other)
        self.counts.wrote(other, 0)

    async def pointed(self, path: str) -> str | None:
        return await self._site.pointed(path)

    async def point(self, path: str, target: str, *, current: str | None) -> None:
        await self._site.point(path, target, current=current)
        self.counts.wrote(path, 0)

    async def delete_many(self, paths: Sequence[str]) -> None:
        self.counts.requests["DELETE"] += -(-len(paths) // PAGE)
        await self._site.delete_many(paths)


class CountedUpload:
    def __init__(self, upload: SiteUpload, counts: Counts, path: str, size: int) -> None:
        self._upload = upload
        self._counts = counts
        self._path = path
        self._size = size

    @property
    def part_size(self) -> int:
        return self._upload.part_size

    @property
    def max_parts(self) -> int:
        return self._upload.max_parts

    async def put(self, number: int, body: Buffer) -> None:
        self._counts.requests["PUT"] += 1
        await self._upload.put(number, body)

    async def complete(self) -> None:
        self._counts.requests["PUT"] += 1
        await self._upload.complete()
        self._counts.wrote(self._path, self._size)

    async def abort(self) -> None:
        self._counts.requests["DELETE"] += 1
        await self._upload.abort()
