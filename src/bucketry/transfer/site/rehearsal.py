"""A site that is only looked at: what would be written is remembered, and nothing is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol, runtime_checkable

from bucketry.store.contract import (
    Buffer,
    Condition,
    Corrupt,
    IfAbsent,
    LocalFiles,
    NotFound,
    PreconditionFailed,
    Store,
    Unsupported,
)
from bucketry.store.site import Served, SiteContent, SiteFile, SiteStore, SiteUpload, pointer, target_of
from bucketry.transfer.crew import closing
from bucketry.transfer.site.front import SiteInFront

_KEPT: Final = 4 * 1024 * 1024
"""Bytes: larger bodies are not looked at again."""


@runtime_checkable
class TakingSite(Protocol):
    """A site that knows beforehand whether it would take files of a store by itself."""

    def takes_from(self, store: Store) -> bool: ...


class RehearsedSite(SiteInFront):
    """A `SiteStore` in front of one that is there, and is only read. What was put here is seen here alone."""

    def __init__(self, site: SiteStore) -> None:
        super().__init__(site)
        self._written: dict[str, SiteFile] = {}
        self._bodies: dict[str, bytes] = {}
        self._deleted: set[str] = set()
        self._count = 0

    async def get(self, path: str, *, limit: int = 16 * 1024 * 1024) -> SiteContent:
        file = self._own(path)
        if file is None:
            return await self._site.get(path, limit=limit)
        if path not in self._bodies:
            raise Corrupt(f"{self.url} {path} would be there, but was not kept")
        return SiteContent(file, self._bodies[path])

    async def head(self, path: str) -> SiteFile:
        return self._own(path) or await self._site.head(path)

    def foresee(self, path: str, size: int) -> None:
        """A file that would be sent."""
        self._write(path, size, Served(), None)

    async def storage(self) -> tuple[int, int]:
        """Bytes of all files as they are, and as they would be."""
        before = after = 0
        async for file in self._site.list(""):
            before += file.size
            if file.path not in self._written and file.path not in self._deleted:
                after += file.size
        return before, after + sum(file.size for file in self._written.values())

    def _own(self, path: str) -> SiteFile | None:
        if path in self._deleted:
            raise NotFound(f"{self.url} {path} would have been deleted")
        return self._written.get(path)

    async def read(self, path: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        if self._own(path) is not None:
            yield (await self.get(path)).body[start:stop]
            return
        async with closing(self._site.read(path, start, stop)) as pieces:
            async for piece in pieces:
                yield piece

    async def list(self, prefix: str) -> AsyncIterator[SiteFile]:
        async with closing(self._site.list(prefix)) as files:
            async for file in files:
                if file.path not in self._written and file.path not in self._deleted:
                    yield file
        for path, file in list(self._written.items()):
            if path.startswith(prefix):
                yield file

    async def put(self, path: str, body: Buffer, *, served: Served, condition: Condition | None = None) -> str:
        if condition is not None:
            try:
                found = (await self.head(path)).etag
            except NotFound:
                found = None
            if found is not None if isinstance(condition, IfAbsent) else found != condition.etag:
                raise PreconditionFailed(f"{self.url} {path} would not be written: another is there")
        return self._write(path, len(body), served, bytes(body) if len(body) <= _KEPT else None)

    def _write(self, path: str, size: int, served: Served, body: bytes | None) -> str:
        self._count += 1
        etag = f"rehearsed-{self._count}"
        self._deleted.discard(path)
        self._written[path] = SiteFile(path, size, etag, served if self.keeps_headers else None)
        self._bodies.pop(path, None)
        if body is not None:
            self._bodies[path] = body
        return etag

    async def begin(self, path: str, *, size: int, served: Served, part_size: int | None = None) -> SiteUpload:
        raise Unsupported(f"{self.url} is only looked at: nothing is sent there")

    async def copy(self, source: str, path: str, *, size: int, served: Served) -> bool:
        self._write(path, size, served, self._bodies.get(source))
        return True

    async def copy_from(self, store: Store, key: str, path: str, *, size: int, served: Served) -> bool:
        if not self._foreseen(store):
            return False
        self._write(path, size, served, None)
        return True

    def _foreseen(self, store: Store) -> bool:
        """Whether the site would take a file of the store by itself."""
        if isinstance(self._site, TakingSite):
            return self._site.takes_from(store)
        if isinstance(store, LocalFiles):
            return not self.keeps_headers
        return self.keeps_headers and store.url.partition(":")[0] == self.url.partition(":")[0]

    async def twin(self, path: str, other: str) -> None:
        found = await self.head(path)
        self._write(other, found.size, Served(), self._bodies.get(path))

    async def pointed(self, path: str) -> str | None:
        if path in self._deleted:
            return None
        own = self._written.get(path)
        return await self._site.pointed(path) if own is None else target_of(own.etag)

    async def point(self, path: str, target: str, *, current: str | None) -> None:
        if await self.pointed(path) != current:
            raise PreconditionFailed(f"{self.url} {path} would not be written: another is there")
        self._deleted.discard(path)
        self._written[path] = SiteFile(path, 0, pointer(target))

    async def delete_many(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._written.pop(path, None)
            self._bodies.pop(path, None)
            self._deleted.add(path)
