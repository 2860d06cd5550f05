"""What is done with a folder's files, in threads: reads and writes have their own, so that a small read never waits
behind flushes. What a file system says in `OSError` is translated here and nowhere else.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import TypeVar
from urllib.parse import quote, unquote

from bucketry.store.contract import (
    AccessDenied,
    Buffer,
    Corrupt,
    ReadOnly,
    StoreError,
    StoreFull,
    Unavailable,
    Unsupported,
)
from bucketry.store.folder import PIECE, OpenObject
from bucketry.store.observe import StoreObserver

_T = TypeVar("_T")

THREADS = 16
"""For reads, and as many for writes: enough to keep a disk busy, few enough not to flood it."""


class FolderThreads:
    """The asynchronous half of what keeps files in the folder ``root``, an absolute path.

    A call that is cancelled ends only when its thread is done: nobody reads the caller's buffer after that.
    """

    def __init__(self, root: str, observer: StoreObserver) -> None:
        self._root = root
        self._observer = observer
        self._readers = ThreadPoolExecutor(THREADS, thread_name_prefix="bucketry-read")
        self._writers = ThreadPoolExecutor(THREADS, thread_name_prefix="bucketry-write")

    @property
    def url(self) -> str:
        return f"file:{quote(self._root)}"

    async def close(self) -> None:
        """Waits for the calls that are under way. No call may follow."""
        for executor in (self._readers, self._writers):
            await asyncio.to_thread(executor.shutdown)

    async def _pieces(self, key: str, opened_by: Callable[[], OpenObject]) -> AsyncGenerator[bytes, None]:
        """The bytes of the file that the function opens, in pieces."""
        started = time.perf_counter()
        received = 0
        outcome = "ok"

        def begin() -> tuple[OpenObject, bytes]:
            opened = opened_by()
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
        what = f"{error.strerror or error} ({error.filename or self._root})"
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


def folder_path(root: str) -> str:
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


def size_of(body: Buffer) -> int:
    return body.nbytes if isinstance(body, memoryview) else len(body)
