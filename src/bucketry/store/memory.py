"""A store in this process's memory: for tests, for trying things out, the contract's shortest reading."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right, insort
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeVar

from bucketry.store import checks
from bucketry.store.contract import (
    FOREIGN_PREFIX,
    MIN_PART,
    OCTET_STREAM,
    Buffer,
    Capabilities,
    Condition,
    Corrupt,
    IfAbsent,
    IfMatch,
    InvalidPart,
    ListedObject,
    ListPage,
    NotFound,
    ObjectInfo,
    Part,
    PendingUpload,
    PreconditionFailed,
    PresignedPut,
    StoredObject,
    StoreError,
    Unsupported,
    UploadNotFound,
)
from bucketry.store.observe import NULL_OBSERVER, StoreObserver

_PIECE = 1024 * 1024

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Part:
    body: bytes
    etag: str
    offset: int


@dataclass(slots=True)
class _Upload:
    key: str
    part_size: int
    initiated: float
    parts: dict[int, _Part] = field(default_factory=dict)


class MemoryStore:
    """The contract, kept by a dict. Every call lets other tasks run before its effect and before its answer.

    The flags make it behave like real stores that differ within the contract, so that tests hold on them all:

    - ``accept_stale_parts``: ``complete_multipart`` takes a part's old etag, with the newest bytes.
    - ``one_part_an_offset``: of the parts put at one offset only the highest number counts; a lower one that
      comes later is refused with `InvalidPart` (as `LocalStore` does).
    - ``directory_order``: ``list`` sorts name by name, so that ``a/b`` comes before ``a-b``.

    ``min_part`` in bytes, for tests that want small parts. ``clock`` gives POSIX seconds.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        min_part: int = MIN_PART,
        accept_stale_parts: bool = False,
        one_part_an_offset: bool = False,
        directory_order: bool = False,
        observer: StoreObserver = NULL_OBSERVER,
    ) -> None:
        self._clock = clock
        self._min_part = min_part
        self._accept_stale_parts = accept_stale_parts
        self._one_part_an_offset = one_part_an_offset
        self._directory_order = directory_order
        self._observer = observer
        self._objects: dict[str, StoredObject] = {}
        self._sorted: list[tuple[str, str]] = []
        self._uploads: dict[str, _Upload] = {}
        self._count = 0

    @property
    def url(self) -> str:
        return "memory:"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(presign=False, conditional_delete=True)

    def plant(self, key: str, body: Buffer, *, content_type: str = OCTET_STREAM) -> None:
        """What another program does: writes a foreign object, at once. No call of the contract can."""
        self._check_foreign(key)
        self._set(key, bytes(body), content_type, {})

    def uproot(self, key: str) -> None:
        """What another program does: removes a foreign object, at once, if it is there."""
        self._check_foreign(key)
        self._remove(key)

    def _check_foreign(self, key: str) -> None:
        checks.check_key(key)
        if not checks.is_foreign(key):
            raise ValueError(f"not a foreign key: {key!r}; they begin with {FOREIGN_PREFIX!r}")

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def get(self, key: str, *, limit: int = 16 * 1024 * 1024) -> StoredObject:
        checks.check_key(key)

        def work() -> StoredObject:
            found = self._find(key)
            if found.info.size > limit:
                raise Corrupt(f"{self.url} {key} has {found.info.size} bytes, more than the {limit} expected")
            return found

        return await self._call("get", work, received=lambda found: found.info.size)

    async def head(self, key: str) -> ObjectInfo:
        checks.check_key(key)
        return await self._call("head", lambda: self._find(key).info)

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        checks.check_key(key)
        checks.check_range(start, stop)
        body = (
            await self._call("read", lambda: self._find(key), received=lambda found: len(found.body[start:stop]))
        ).body
        end = len(body) if stop is None else min(stop, len(body))
        for begin in range(start, end, _PIECE):
            yield body[begin : min(begin + _PIECE, end)]
            await asyncio.sleep(0)

    async def put(
        self,
        key: str,
        body: Buffer,
        *,
        content_type: str = OCTET_STREAM,
        metadata: Mapping[str, str] | None = None,
        condition: Condition | None = None,
    ) -> str:
        kept = checks.check_put(key, content_type, metadata)

        def work() -> str:
            self._require(key, condition)
            return self._set(key, bytes(body), content_type, kept)

        return await self._call("put", work, sent=_size(body))

    async def delete(self, key: str, *, condition: IfMatch | None = None) -> None:
        checks.check_own_key(key)

        def work() -> None:
            self._require(key, condition)
            self._remove(key)

        await self._call("delete", work)

    async def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            checks.check_own_key(key)

        def work() -> None:
            for key in keys:
                self._remove(key)

        await self._call("delete_many", work)

    async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
        checks.check_list(prefix, limit)
        return await self._call("list", lambda: self._page(prefix, after, limit))

    async def create_multipart(self, key: str, *, part_size: int) -> str:
        checks.check_bulk_key(key)
        checks.check_part_size(part_size, self._min_part)

        def work() -> str:
            upload_id = f"upload-{self._next()}"
            self._uploads[upload_id] = _Upload(key, part_size, self._clock())
            return upload_id

        return await self._call("create_multipart", work)

    async def put_part(self, key: str, upload_id: str, number: int, body: Buffer, *, offset: int) -> str:
        checks.check_bulk_key(key)

        def work() -> str:
            upload = self._upload(key, upload_id)
            checks.check_part(number, _size(body), offset=offset, part_size=upload.part_size)
            before = upload.parts.get(number)
            if before is not None and (before.offset, before.body) == (offset, bytes(body)):
                return before.etag
            if self._one_part_an_offset:
                others = [other for other, part in upload.parts.items() if part.offset == offset]
                if any(other > number for other in others):
                    raise InvalidPart(f"part {number} of {upload_id} was superseded by part {max(others)}")
                for other in others:
                    del upload.parts[other]
            etag = self._next()
            upload.parts[number] = _Part(bytes(body), etag, offset)
            return etag

        return await self._call("put_part", work, sent=_size(body))

    async def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        checks.check_bulk_key(key)

        def work() -> Sequence[Part]:
            parts = self._upload(key, upload_id).parts
            return tuple(Part(number, len(part.body), part.etag) for number, part in sorted(parts.items()))

        return await self._call("list_parts", work)

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        checks.check_bulk_key(key)

        def work() -> None:
            if upload_id not in self._uploads:
                # A caller that lost the first answer asks again: the object of these parts is there.
                found = self._objects.get(key)
                if found is not None and found.info.size == sum(part.size for part in parts):
                    return
            upload = self._upload(key, upload_id)
            body = b"".join(part.body for part in self._chosen(upload, upload_id, parts))
            del self._uploads[upload_id]
            self._set(key, body, OCTET_STREAM, {})

        await self._call("complete_multipart", work)

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        checks.check_bulk_key(key)

        def work() -> None:
            upload = self._uploads.get(upload_id)
            if upload is not None and upload.key == key:
                del self._uploads[upload_id]

        await self._call("abort_multipart", work)

    async def list_multiparts(self) -> Sequence[PendingUpload]:
        return await self._call(
            "list_multiparts",
            lambda: tuple(
                PendingUpload(upload.key, upload_id, upload.initiated) for upload_id, upload in self._uploads.items()
            ),
        )

    async def presign_get(self, key: str, *, expires: float, response_headers: Mapping[str, str] | None = None) -> str:
        checks.check_key(key)
        raise self._no_urls()

    async def presign_part(self, key: str, upload_id: str, number: int, *, expires: float) -> str:
        checks.check_bulk_key(key)
        raise self._no_urls()

    async def presign_put(self, key: str, *, size: int, sha256: bytes, expires: float) -> PresignedPut:
        checks.check_presigned_put(key, size, sha256)
        raise self._no_urls()

    def _no_urls(self) -> Unsupported:
        return Unsupported(f"{self.url} cannot presign: there is no server behind it")

    async def _call(
        self,
        operation: str,
        work: Callable[[], _T],
        *,
        sent: int = 0,
        received: Callable[[_T], int] = lambda _: 0,
    ) -> _T:
        """One request: others run before it takes effect, and again before its answer arrives."""
        started = time.perf_counter()
        await asyncio.sleep(0)
        try:
            result = work()
        except StoreError as error:
            await asyncio.sleep(0)
            self._report(operation, started, sent, 0, type(error).__name__.lower())
            raise
        await asyncio.sleep(0)
        self._report(operation, started, sent, received(result), "ok")
        return result

    def _report(self, operation: str, started: float, sent: int, received: int, outcome: str) -> None:
        seconds = time.perf_counter() - started
        self._observer.request(operation, seconds=seconds, sent=sent, received=received, outcome=outcome)

    def _next(self) -> str:
        self._count += 1
        return f"{self._count:x}"

    def _find(self, key: str) -> StoredObject:
        found = self._objects.get(key)
        if found is None:
            raise NotFound(f"{self.url} has no {key}")
        return found

    def _require(self, key: str, condition: Condition | None) -> None:
        found = self._objects.get(key)
        if isinstance(condition, IfAbsent) and found is not None:
            raise PreconditionFailed(f"{self.url} {key} exists already")
        if isinstance(condition, IfMatch) and (found is None or found.info.etag != condition.etag):
            raise PreconditionFailed(f"{self.url} {key} was changed or removed meanwhile")

    def _order(self, key: str) -> str:
        return key.replace("/", "\0") if self._directory_order else key

    def _set(self, key: str, body: bytes, content_type: str, metadata: dict[str, str]) -> str:
        if key not in self._objects:
            insort(self._sorted, (self._order(key), key))
        info = ObjectInfo(key, len(body), self._next(), self._clock(), content_type, metadata)
        self._objects[key] = StoredObject(info, body)
        return info.etag

    def _remove(self, key: str) -> None:
        if self._objects.pop(key, None) is not None:
            self._sorted.pop(bisect_right(self._sorted, (self._order(key), key)) - 1)

    def _page(self, prefix: str, after: str | None, limit: int) -> ListPage:
        begin = bisect_right(self._sorted, (self._order(prefix), ""))
        if after is not None:
            begin = max(begin, bisect_right(self._sorted, (self._order(after), after)))
        objects: list[ListedObject] = []
        for _, key in self._sorted[begin : begin + limit + 1]:
            if not key.startswith(prefix):
                break
            info = self._objects[key].info
            objects.append(ListedObject(key, info.size, info.etag, info.modified))
        return ListPage(tuple(objects[:limit]), more=len(objects) > limit)

    def _upload(self, key: str, upload_id: str) -> _Upload:
        upload = self._uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise UploadNotFound(f"{self.url} has no upload {upload_id} of {key}: it was completed or aborted")
        return upload

    def _chosen(self, upload: _Upload, upload_id: str, parts: Sequence[Part]) -> Sequence[_Part]:
        """The parts that were put, as named; raises `InvalidPart` where they are not the contract's."""
        if not parts:
            raise InvalidPart(f"upload {upload_id} cannot be completed without a part")
        if any(left.number >= right.number for left, right in pairwise(parts)):
            raise InvalidPart(f"the parts of upload {upload_id} are not named in the order of their numbers")
        chosen: list[_Part] = []
        for index, named in enumerate(parts):
            part = upload.parts.get(named.number)
            if part is not None and self._accept_stale_parts:
                named = replace(named, etag=part.etag, size=len(part.body))
            if part is None or part.etag != named.etag or len(part.body) != named.size:
                raise InvalidPart(f"part {named.number} of upload {upload_id} is not the one that was named")
            if index < len(parts) - 1 and named.size != upload.part_size:
                raise InvalidPart(f"part {named.number} of upload {upload_id} is short and not the last")
            if part.offset != index * upload.part_size:
                raise InvalidPart(f"part {named.number} of upload {upload_id} was put at offset {part.offset}")
            chosen.append(part)
        return chosen


def _size(body: Buffer) -> int:
    return body.nbytes if isinstance(body, memoryview) else len(body)
