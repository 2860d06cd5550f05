"""A store in a folder of this machine, shared by any number of processes.

The work is done by `folder` and `folder_uploads`, in the threads of `folder_threads`.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from bucketry.store import checks
from bucketry.store.contract import (
    MIN_PART,
    OCTET_STREAM,
    Buffer,
    Capabilities,
    Condition,
    IfMatch,
    ListPage,
    ObjectInfo,
    Part,
    PendingUpload,
    PresignedPut,
    StoredObject,
    Unsupported,
)
from bucketry.store.folder import Folder
from bucketry.store.folder_threads import FolderThreads, folder_path, size_of
from bucketry.store.folder_uploads import FolderUploads
from bucketry.store.observe import NULL_OBSERVER, StoreObserver


class LocalStore(FolderThreads):
    """The contract, kept by a folder (`folder` says what is where in it).

    ``root`` is a path or a ``file:`` URL; the folder is made where it is missing. ``fsync=False`` trades the
    promise that acknowledged writes survive a power cut for speed; they survive the death of a process either
    way. ``min_part`` in bytes, for tests that want small parts. ``clock`` gives POSIX seconds, ``random`` so
    many random bytes; several processes on one folder need different ones.

    ``list`` reads the headers of the objects of its page, which hold their sizes and etags, and of bulk keys
    nothing but what the file system says. A part at an offset supersedes those of lower numbers there (see
    `MultipartStore.put_part`). A key that is also a folder of other keys is `Unsupported`: ``a`` and ``a/b``.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        fsync: bool = True,
        min_part: int = MIN_PART,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
        observer: StoreObserver = NULL_OBSERVER,
    ) -> None:
        path = os.path.abspath(root if isinstance(root, Path) else folder_path(root))
        super().__init__(path, observer)
        self._folder = Folder(path, fsync=fsync, clock=clock, random=random)
        self._uploads = FolderUploads(self._folder, min_part=min_part)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(presign=False, conditional_delete=True)

    async def start(self) -> None:
        """Makes the folder, and removes what processes left behind that were killed more than a day ago."""

        def work() -> None:
            self._folder.start()
            self._uploads.sweep()

        try:
            await self._run(self._writers, work)
        except OSError as error:
            raise self._translated(error, "start") from error

    def file_path(self, key: str) -> str:
        """The absolute path of a bulk or foreign object's file, which holds its bytes and nothing else."""
        checks.check_plain_key(key)
        return self._folder.path(key)

    async def get(self, key: str, *, limit: int = 16 * 1024 * 1024) -> StoredObject:
        checks.check_key(key)
        return await self._call(
            "get",
            key,
            self._readers,
            lambda: self._folder.get(key, limit),
            received=lambda found: found.info.size,
        )

    async def head(self, key: str) -> ObjectInfo:
        checks.check_key(key)
        return await self._call("head", key, self._readers, lambda: self._folder.head(key))

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        checks.check_key(key)
        checks.check_range(start, stop)
        pieces = self._pieces(key, lambda: self._folder.open(key, start, stop))
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

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
        return await self._call(
            "put",
            key,
            self._writers,
            lambda: self._folder.put(key, body, content_type, kept, condition),
            sent=size_of(body),
        )

    async def delete(self, key: str, *, condition: IfMatch | None = None) -> None:
        checks.check_own_key(key)
        await self._call("delete", key, self._writers, lambda: self._folder.delete(key, condition))

    async def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            checks.check_own_key(key)
        named = list(keys)
        await self._call("delete_many", f"{len(named)} keys", self._writers, lambda: self._folder.delete_many(named))

    async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
        checks.check_list(prefix, limit)
        return await self._call("list", prefix, self._readers, lambda: self._folder.list(prefix, after, limit))

    async def create_multipart(self, key: str, *, part_size: int) -> str:
        checks.check_bulk_key(key)
        return await self._call("create_multipart", key, self._writers, lambda: self._uploads.create(key, part_size))

    async def put_part(self, key: str, upload_id: str, number: int, body: Buffer, *, offset: int) -> str:
        checks.check_bulk_key(key)
        return await self._call(
            "put_part",
            key,
            self._writers,
            lambda: self._uploads.put_part(key, upload_id, number, body, offset),
            sent=size_of(body),
        )

    async def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        checks.check_bulk_key(key)
        return await self._call("list_parts", key, self._readers, lambda: self._uploads.list_parts(key, upload_id))

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        checks.check_bulk_key(key)
        await self._call(
            "complete_multipart", key, self._writers, lambda: self._uploads.complete(key, upload_id, parts)
        )

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        checks.check_bulk_key(key)
        await self._call("abort_multipart", key, self._writers, lambda: self._uploads.abort(key, upload_id))

    async def list_multiparts(self) -> Sequence[PendingUpload]:
        return await self._call("list_multiparts", "", self._readers, self._uploads.list)

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
        return Unsupported(f"{self.url} cannot presign: a folder has no server of its own")
