"""Stores that break the contract, each in one way, and the word of it that the probe should find out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence

from bucketry.store.contract import (
    OCTET_STREAM,
    Buffer,
    Capabilities,
    Condition,
    IfAbsent,
    IfMatch,
    ListPage,
    NotFound,
    Part,
    PendingUpload,
    PreconditionFailed,
    StoredObject,
    Unsupported,
    UploadNotFound,
)
from bucketry.store.memory import MemoryStore


class IgnoresIfAbsent(MemoryStore):
    async def put(
        self,
        key: str,
        body: Buffer,
        *,
        content_type: str = OCTET_STREAM,
        metadata: Mapping[str, str] | None = None,
        condition: Condition | None = None,
    ) -> str:
        kept = None if isinstance(condition, IfAbsent) else condition
        return await super().put(key, body, content_type=content_type, metadata=metadata, condition=kept)


class IgnoresIfMatch(MemoryStore):
    async def put(
        self,
        key: str,
        body: Buffer,
        *,
        content_type: str = OCTET_STREAM,
        metadata: Mapping[str, str] | None = None,
        condition: Condition | None = None,
    ) -> str:
        kept = None if isinstance(condition, IfMatch) else condition
        return await super().put(key, body, content_type=content_type, metadata=metadata, condition=kept)


class LooksThenWrites(MemoryStore):
    """Right when nobody races: conditions are checked before the write, not with it."""

    async def put(
        self,
        key: str,
        body: Buffer,
        *,
        content_type: str = OCTET_STREAM,
        metadata: Mapping[str, str] | None = None,
        condition: Condition | None = None,
    ) -> str:
        try:
            etag: str | None = (await self.head(key)).etag
        except NotFound:
            etag = None
        if isinstance(condition, IfAbsent) and etag is not None:
            raise PreconditionFailed("exists")
        if isinstance(condition, IfMatch) and etag != condition.etag:
            raise PreconditionFailed("changed")
        return await super().put(key, body, content_type=content_type, metadata=metadata)


class MakesWhatIfMatchForbids(MemoryStore):
    """If-Match on a missing key makes the object."""

    async def put(
        self,
        key: str,
        body: Buffer,
        *,
        content_type: str = OCTET_STREAM,
        metadata: Mapping[str, str] | None = None,
        condition: Condition | None = None,
    ) -> str:
        if isinstance(condition, IfMatch):
            try:
                await self.head(key)
            except NotFound:
                condition = None
        return await super().put(key, body, content_type=content_type, metadata=metadata, condition=condition)


class RefusesAndWrites(MemoryStore):
    async def put(
        self,
        key: str,
        body: Buffer,
        *,
        content_type: str = OCTET_STREAM,
        metadata: Mapping[str, str] | None = None,
        condition: Condition | None = None,
    ) -> str:
        try:
            return await super().put(key, body, content_type=content_type, metadata=metadata, condition=condition)
        except PreconditionFailed:
            await super().put(key, body, content_type=content_type, metadata=metadata)
            raise


class AnswersAnotherEtag(MemoryStore):
    async def put(
        self,
        key: str,
        body: Buffer,
        *,
        content_type: str = OCTET_STREAM,
        metadata: Mapping[str, str] | None = None,
        condition: Condition | None = None,
    ) -> str:
        return "x" + await super().put(key, body, content_type=content_type, metadata=metadata, condition=condition)


class ForgetsMetadata(MemoryStore):
    async def put(
        self,
        key: str,
        body: Buffer,
        *,
        content_type: str = OCTET_STREAM,
        metadata: Mapping[str, str] | None = None,
        condition: Condition | None = None,
    ) -> str:
        return await super().put(key, body, content_type=content_type, condition=condition)


class ForgetsContentTypes(MemoryStore):
    async def put(
        self,
        key: str,
        body: Buffer,
        *,
        content_type: str = OCTET_STREAM,
        metadata: Mapping[str, str] | None = None,
        condition: Condition | None = None,
    ) -> str:
        return await super().put(key, body, metadata=metadata, condition=condition)


class ReadsFromACache(MemoryStore):
    """The first read of a key is remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, StoredObject] = {}

    async def get(self, key: str, *, limit: int = 16 * 1024 * 1024) -> StoredObject:
        if not key.startswith("probe/strong/"):
            return await super().get(key, limit=limit)
        if key not in self.cache:
            self.cache[key] = await super().get(key, limit=limit)
        return self.cache[key]


class ListsLate(MemoryStore):
    """A list is the one of the time before."""

    def __init__(self) -> None:
        super().__init__()
        self.page = ListPage((), more=False)

    async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
        page, self.page = self.page, await super().list(prefix, after=after, limit=limit)
        return page


class DeletesLate(MemoryStore):
    async def delete(self, key: str, *, condition: IfMatch | None = None) -> None:
        if condition is not None:
            await super().delete(key, condition=condition)


class ListsTheFirstPageAlways(MemoryStore):
    async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
        return await super().list(prefix, limit=limit)


class LosesAKeyBetweenPages(MemoryStore):
    async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
        page = await super().list(prefix, after=after, limit=limit)
        return ListPage(page.objects[1:], page.more) if after is not None else page


class SortsWithoutCase(MemoryStore):
    async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
        page = await super().list(prefix, limit=1000)
        objects = sorted(page.objects, key=lambda found: found.key.lower())
        objects = [found for found in objects if after is None or found.key.lower() > after.lower()]
        return ListPage(tuple(objects[:limit]), len(objects) > limit)


class IgnoresRanges(MemoryStore):
    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        async for piece in super().read(key):
            yield piece


class HasNoMultipart(MemoryStore):
    async def create_multipart(self, key: str, *, part_size: int) -> str:
        raise Unsupported("not implemented")


class ShowsPartsAtOnce(MemoryStore):
    async def put_part(self, key: str, upload_id: str, number: int, body: Buffer, *, offset: int) -> str:
        await self.put(key, body)
        return await super().put_part(key, upload_id, number, body, offset=offset)


class JoinsPartsBackwards(MemoryStore):
    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        await super().complete_multipart(key, upload_id, parts)
        if len(parts) > 1:
            await self.put(key, b"".join(reversed([piece async for piece in self.read(key)])))


class DeletesTooMany(MemoryStore):
    async def delete_many(self, keys: Sequence[str]) -> None:
        page = await self.list("probe/many/")
        await super().delete_many([*keys, *(found.key for found in page.objects)])


MUST: list[tuple[type[MemoryStore], str, str]] = [
    (AnswersAnotherEtag, "round trip", "another etag"),
    (IgnoresIfAbsent, "write if absent", "16 of 16 writers"),
    (LooksThenWrites, "write if absent", "told they had won"),
    (RefusesAndWrites, "write if absent", "not the one whose bytes are there"),
    (IgnoresIfMatch, "write if unchanged", "16 of 16 writers"),
    (LooksThenWrites, "write if unchanged", "told they had won"),
    (MakesWhatIfMatchForbids, "write if unchanged", "made an object where there was none"),
    (ReadsFromACache, "reads see writes", "as it was before"),
    (ListsLate, "reads see writes", "a list after a write"),
    (DeletesLate, "reads see writes", "a deleted object can still be seen"),
    (ForgetsMetadata, "metadata", "metadata"),
    (ForgetsContentTypes, "metadata", "application/octet-stream"),
    (ListsTheFirstPageAlways, "list", "a key twice"),
    (LosesAKeyBetweenPages, "list", "every key"),
    (SortsWithoutCase, "list", "byte order"),
    (IgnoresRanges, "ranges", "other ones"),
    (HasNoMultipart, "multipart", "not implemented"),
    (ShowsPartsAtOnce, "multipart", "before it is completed"),
    (JoinsPartsBackwards, "multipart in parallel", "other bytes"),
    (DeletesTooMany, "delete many", "not just those named"),
]


class CompletesOnce(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.completed: set[str] = set()

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        if upload_id in self.completed:
            raise UploadNotFound(f"no upload {upload_id}")
        await super().complete_multipart(key, upload_id, parts)
        self.completed.add(upload_id)


class DeletesAnyway(MemoryStore):
    async def delete(self, key: str, *, condition: IfMatch | None = None) -> None:
        await super().delete(key)


class CannotDeleteConditionally(MemoryStore):
    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(conditional_delete=False)


class NeverAborts(MemoryStore):
    async def abort_multipart(self, key: str, upload_id: str) -> None:
        pass


class HidesUploads(MemoryStore):
    async def list_multiparts(self) -> Sequence[PendingUpload]:
        return ()


class ListsNoParts(MemoryStore):
    async def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        raise Unsupported("not implemented")


class ListsPartsWithoutSizes(MemoryStore):
    async def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        return [Part(part.number, 0, part.etag) for part in await super().list_parts(key, upload_id)]


class ListsPartsForEver(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.listed: dict[str, Sequence[Part]] = {}

    async def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        if upload_id not in self.listed:
            self.listed[upload_id] = await super().list_parts(key, upload_id)
        return self.listed[upload_id]


class AcceptsStaleParts(MemoryStore):
    def __init__(self) -> None:
        super().__init__(accept_stale_parts=True)


class RunsAnHourAhead(MemoryStore):
    def __init__(self) -> None:
        super().__init__(clock=lambda: time.time() + 3600)


class RunsAnHourBehind(MemoryStore):
    def __init__(self) -> None:
        super().__init__(clock=lambda: time.time() - 3600)
