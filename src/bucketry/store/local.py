"""A store in a folder of this machine, shared by any number of processes.

The work is done by `folder` and `folder_uploads`, in threads: reads and writes have their own, so that a
small read never waits behind flushes. What a file system says in `OSError` is translated here and nowhere else.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote

from bucketry.store import checks
from bucketry.store.contract import (
    MIN_PART,
    OCTET_STREAM,
    AccessDenied,
    Buffer,
    Capabilities,
    Condition,
    Corrupt,
    IfMatch,
    ListPage,
    ObjectInfo,
    Part,
    PendingUpload,
    PresignedPut,
    ReadOnly,
    StoredObject,
    StoreError,
    StoreFull,
    Unavailable,
    Unsupported,
)
from bucketry.store.folder import PIECE, Folder, OpenObject
from bucketry.store.folder_uploads import FolderUploads
from bucketry.store.observe import NULL_OBSERVER, StoreObserver

_T = TypeVar("_T")

THREADS = 16
"""For reads, and as many for writes: enough to keep a disk busy, few enough not to flood it."""


class LocalStore:
    """The contract, kept by a folder (`folder` says what is where in it).

    ``root`` is a path or a ``file:`` URL; the folder is made where it is missing. ``fsync=False`` trades the
    promise that acknowledged writes survive a power cut for speed; they survive the death of a process either
    way. ``min_part`` in bytes, for tests that want small parts. ``clock`` gives POSIX seconds, ``random`` so
    many random bytes; several processes on one folder need different ones.

    ``list`` reads the headers of the objects of its page, which hold their sizes and etags, and of bulk keys
    nothing but what the file system says. A part at an offset supersedes those of lower numbers there (see
    `MultipartStore.put_part`). A key that is also a folder of other keys is `Unsupported`: ``a`` and ``a/b``.

    A call that is cancelled ends only when its thread is done: nobody reads the caller's buffer after that.
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
        path = os.path.abspath(root if isinstance(root, Path) else _path(root))
        self._folder = Folder(path, fsync=fsync, clock=clock, random=random)
        self._uploads = FolderUploads(self._folder, min_part=min_part)
        self._observer = observer
        self._readers = ThreadPoolExecutor(THREADS, thread_name_prefix="bucketry-read")
        self._writers = ThreadPoolExecutor(THREADS, thread_name_prefix="bucketry-write")

    @property
    def url(self) -> str:
        return f"file:{quote(self._folder.root)}"

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

    async def close(self) -> None:
        """Waits for the calls that are under way. No call may follow."""
        for executor in (self._readers, self._writers):
            await asyncio.to_thread(executor.shutdown)

    def file_path(self, key: str) -> str:
        """The absolute path of a bulk object's file, which holds its bytes and nothing else."""
        checks.check_bulk_key(key)
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
        started = time.perf_counter()
        received = 0
        outcome = "ok"

        def begin() -> tuple[OpenObject, bytes]:
            opened = self._folder.open(key, start, stop)
            try:
                return opened, _piece(opened, opened.position)
            except BaseException:
                os.close(opened.fd)
                raise

        try:
            opened, piece = await self._run(self._readers, begin)
            try:
                position = opened.position
                while position < opened.end:
                    if not piece:
                        raise Corrupt(f"{self.url} {key} ended {opened.end - position} bytes early")
                    position += len(piece)
                    received += len(piece)
                    yield piece
                    if position < opened.end:
                        piece = await self._run(self._readers, partial(_piece, opened, position))
            finally:
                os.close(opened.fd)
        except OSError as error:
            translated = self._translated(error, f"read {key}")
            outcome = _outcome(translated)
            raise translated from error
        except StoreError as error:
            outcome = _outcome(error)
            raise
        finally:
            self._report("read", started, 0, received, outcome)

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
            sent=_size(body),
        )

    async def delete(self, key: str, *, condition: IfMatch | None = None) -> None:
        checks.check_key(key)
        await self._call("delete", key, self._writers, lambda: self._folder.delete(key, condition))

    async def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            checks.check_key(key)
        named = list(keys)
        await self._call("delete_many", f"{len(named)} keys", self._writers, lambda: self._folder.delete_many(named))

    async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
        checks.check_list(prefix, limit)
        return await self._call("list", prefix, self._readers, lambda: self._folder.list(prefix, after, limit))

    async def create_multipart(self, key: str, *, part_size: int) -> str:
        checks.check_bulk_key(key)
        return await self._call("create_multipart", key, self._writers, lambda: self._uploads.create(key, part_size))

    async def put_part(self, key: str, upload_id: str, number: int, body: Buffer, *, offset: int) -> str:
        return await self._call(
            "put_part",
            key,
            self._writers,
            lambda: self._uploads.put_part(key, upload_id, number, body, offset),
            sent=_size(body),
        )

    async def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        return await self._call("list_parts", key, self._readers, lambda: self._uploads.list_parts(key, upload_id))

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        await self._call(
            "complete_multipart", key, self._writers, lambda: self._uploads.complete(key, upload_id, parts)
        )

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        await self._call("abort_multipart", key, self._writers, lambda: self._uploads.abort(key, upload_id))

    async def list_multiparts(self) -> Sequence[PendingUpload]:
        return await self._call("list_multiparts", "", self._readers, self._uploads.list)

    async def presign_get(self, key: str, *, expires: float, response_headers: Mapping[str, str] | None = None) -> str:
        raise self._no_urls()

    async def presign_part(self, key: str, upload_id: str, number: int, *, expires: float) -> str:
        raise self._no_urls()

    async def presign_put(self, key: str, *, size: int, sha256: bytes, expires: float) -> PresignedPut:
        raise self._no_urls()

    def _no_urls(self) -> Unsupported:
        return Unsupported(f"{self.url} cannot presign: a folder has no server of its own")

    async def _call(
        self,
        operation: str,
        key: str,
        executor: Executor,
        work: Callable[[], _T],
        *,
        sent: int = 0,
        received: Callable[[_T], int] = lambda _: 0,
    ) -> _T:
        started = time.perf_counter()
        try:
            result = await self._run(executor, work)
        except OSError as error:
            translated = self._translated(error, f"{operation} {key}")
            self._report(operation, started, sent, 0, _outcome(translated))
            raise translated from error
        except StoreError as error:
            self._report(operation, started, sent, 0, _outcome(error))
            raise
        self._report(operation, started, sent, received(result), "ok")
        return result

    async def _run(self, executor: Executor, work: Callable[[], _T]) -> _T:
        """The result of the work, done in a thread. Once this returns or raises, the thread is through with it."""
        future = executor.submit(work)
        waiting = asyncio.wrap_future(future)
        try:
            return await waiting
        except asyncio.CancelledError:
            # What was still queued is cancelled now; what runs cannot be stopped, and is short.
            while not future.done():
                settled = asyncio.wrap_future(future)
                settled.add_done_callback(_retrieve)
                try:
                    await asyncio.wait([settled])
                except asyncio.CancelledError:
                    continue
            raise

    def _report(self, operation: str, started: float, sent: int, received: int, outcome: str) -> None:
        seconds = time.perf_counter() - started
        self._observer.request(operation, seconds=seconds, sent=sent, received=received, outcome=outcome)

    def _translated(self, error: OSError, doing: str) -> StoreError:
        where = f"{self.url}: {doing.strip()} failed"
        what = f"{error.strerror or error} ({error.filename or self._folder.root})"
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                return StoreFull(f"{where}: {what}: free space on this file system, or raise the quota")
            case errno.EROFS:
                return ReadOnly(f"{where}: {what}: mount the file system for writing")
            case errno.EACCES | errno.EPERM:
                return AccessDenied(f"{where}: {what}: give this user the right to read and write")
            case errno.EMFILE | errno.ENFILE:
                return Unavailable(f"{where}: {what}: raise the limit of open files (ulimit -n)")
            case errno.ENOTDIR | errno.EEXIST:
                return Unsupported(f"{where}: {what}: a folder cannot hold both an object and objects below its key")
            case errno.EXDEV:
                return Unsupported(f"{where}: {what}: keep the whole folder on one file system")
            case errno.ENAMETOOLONG | errno.EFBIG:
                return Unsupported(f"{where}: {what}: use another file system, or a shorter path for the folder")
            case _:
                return Unavailable(f"{where}: {what}")


def _path(root: str) -> str:
    if not root.startswith("file:"):
        return root
    path = root.removeprefix("file:")
    if path.startswith("//"):
        host, slash, rest = path[2:].partition("/")
        if host not in ("", "localhost") or not slash:
            raise ValueError(f"{root} names another machine: write file:/path, file:///path or a plain path")
        path = f"/{rest}"
    if not path:
        raise ValueError(f"{root} names no folder: write file:/path or a plain path")
    return unquote(path)


def _retrieve(future: asyncio.Future[_T]) -> None:
    """Takes note of an error that nobody is left to hear of, or asyncio would complain."""
    if not future.cancelled():
        future.exception()


def _piece(opened: OpenObject, position: int) -> bytes:
    return os.pread(opened.fd, min(PIECE, opened.end - position), position)


def _outcome(error: StoreError) -> str:
    return type(error).__name__.lower()


def _size(body: Buffer) -> int:
    return body.nbytes if isinstance(body, memoryview) else len(body)
