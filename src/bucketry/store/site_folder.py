"""A site in a folder of this machine: plain files, for any web server to serve.

A web server that serves the root should not serve dotfiles: what begins with ``.bucketry-`` is being written, or is a
lock. Headers are the server's business, and so `Served` is checked here and then forgotten.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from bucketry.store import foreign_files
from bucketry.store.checks import check_range, is_foreign
from bucketry.store.contract import (
    MAX_PARTS,
    OCTET_STREAM,
    AccessDenied,
    Buffer,
    Condition,
    LocalFiles,
    NotFound,
    Store,
    StoreError,
)
from bucketry.store.folder_threads import FolderThreads, folder_path, size_of
from bucketry.store.observe import NULL_OBSERVER, StoreObserver
from bucketry.store.site import (
    PathTaken,
    Served,
    SiteContent,
    SiteFile,
    check_path,
    check_prefix,
    check_served,
    check_target,
)
from bucketry.store.site_files import Copying, SiteFiles
from bucketry.store.site_parts import Cut, cut

_LISTED_AT_ONCE = 1000


class FolderSite(FolderThreads):
    """The contract of `bucketry.store.site`, kept by a folder.

    ``root`` is a path or a ``file:`` URL; the folder is made with the first write. ``fsync=False`` trades the promise
    that acknowledged writes survive a power cut for speed. ``min_part`` in bytes, for tests that want small parts.
    ``clock`` gives POSIX seconds, ``random`` so many random bytes; processes on one folder need different ones.

    Files are made with the process's umask: a web server of another user needs one that lets others read. A blob of a
    store that does not is copied, not linked, and so is one of the tree of another program, which writes in place.
    An etag comes back where a file is replaced, and then linked again to a file that it was a link to before.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        fsync: bool = True,
        min_part: int = 1,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
        observer: StoreObserver = NULL_OBSERVER,
    ) -> None:
        path = os.path.abspath(root if isinstance(root, Path) else folder_path(root))
        super().__init__(path, observer)
        self._files = SiteFiles(path, fsync=fsync, clock=clock, random=random)
        self._min_part = min_part
        self._refusal: str | None = None

    @property
    def conditional(self) -> bool:
        return True

    @property
    def keeps_headers(self) -> bool:
        return False

    @property
    def refusal(self) -> str | None:
        return self._refusal

    async def start(self) -> None:
        """Removes what processes left behind that were killed more than a day ago."""
        await self._call("start", "", self._writers, self._files.start)

    # Reading

    async def get(self, path: str, *, limit: int = 16 * 1024 * 1024) -> SiteContent:
        check_path(path)
        found = await self._call(
            "get", path, self._readers, lambda: self._files.get(path, limit), received=lambda found: found.info.size
        )
        return SiteContent(SiteFile(path, found.info.size, found.info.etag), found.body)

    async def head(self, path: str) -> SiteFile:
        check_path(path)
        info = await self._call("head", path, self._readers, lambda: self._files.head(path))
        return SiteFile(path, info.size, info.etag)

    async def read(self, path: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        check_path(path)
        check_range(start, stop)
        pieces = self._pieces(path, lambda: self._files.open(path, start, stop))
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    async def list(self, prefix: str) -> AsyncIterator[SiteFile]:
        check_prefix(prefix)
        files = self._files.files(prefix)
        try:
            while some := await self._call(
                "list", prefix, self._readers, lambda: tuple(islice(files, _LISTED_AT_ONCE))
            ):
                for file in some:
                    yield file
        finally:
            files.close()

    # Writing

    async def put(self, path: str, body: Buffer, *, served: Served, condition: Condition | None = None) -> str:
        check_path(path)
        check_served(served)
        return await self._call(
            "put",
            path,
            self._writers,
            lambda: self._files.put(path, body, OCTET_STREAM, {}, condition),
            sent=size_of(body),
        )

    async def begin(self, path: str, *, size: int, served: Served, part_size: int | None = None) -> FolderUpload:
        check_path(path)
        check_served(served)
        parts = cut(size, part_size, least=self._min_part)
        made: list[str] = []
        try:
            await self._call("create_multipart", path, self._writers, lambda: made.append(self._files.create(size)))
        except BaseException:
            # It was cancelled while the file was made.
            for temporary in made:
                self._files.abort(temporary)
            raise
        return FolderUpload(self, path, parts, made[0])

    async def copy(self, source: str, path: str, *, size: int, served: Served) -> bool:
        """A hard link; a copy where the file system has none."""
        check_path(source)
        check_path(path)
        check_served(served)
        return await self._take(self._files.path(source), path, size, link=True)

    async def copy_from(self, store: Store, key: str, path: str, *, size: int, served: Served) -> bool:
        """A hard link to the blob's file, or a copy (see above). `refusal` says what could not be read, and why."""
        check_path(path)
        check_served(served)
        if not isinstance(store, LocalFiles):
            return False
        file = store.file_path(key)
        foreign = is_foreign(key)
        if foreign and foreign_files.is_behind_link(file.removesuffix(f"/{key}"), key):
            return False
        try:
            return await self._take(file, path, size, link=not foreign)
        except AccessDenied as error:
            if os.access(file, os.R_OK):
                raise
            self._refusal = str(error)
            return False

    async def twin(self, path: str, other: str) -> None:
        check_path(path)
        check_path(other)
        if not await self._take(self._files.path(path), other, None, link=True):
            raise NotFound(f"{self.url} {path} does not exist")

    async def pointed(self, path: str) -> str | None:
        check_path(path)
        return await self._call("pointed", path, self._readers, lambda: self._files.pointed(path))

    async def point(self, path: str, target: str, *, current: str | None) -> None:
        check_path(path)
        check_target(target)
        await self._call("point", path, self._writers, lambda: self._files.point(path, target, current))

    async def delete_many(self, paths: Sequence[str]) -> None:
        for path in paths:
            check_path(path)
        named = list(paths)
        await self._call("delete_many", f"{len(named)} files", self._writers, lambda: self._files.delete_many(named))

    # Inside

    async def _take(self, file: str, path: str, size: int | None, *, link: bool) -> bool:
        begun: list[Copying] = []

        def take() -> bool:
            taken = self._files.take(file, path, size, link=link)
            if isinstance(taken, bool):
                return taken
            begun.append(taken)
            return False

        try:
            if await self._call("copy", path, self._writers, take):
                return True
            for copying in begun:
                while copying.offset < copying.size:
                    if not await self._call("copy", path, self._writers, copying.step):
                        return False
                await self._call("copy", path, self._writers, partial(self._files.finish, copying, path))
                return True
            return False
        finally:
            for copying in begun:
                copying.drop()

    async def _write(self, path: str, temporary: str, body: Buffer, offset: int) -> None:
        await self._call(
            "put_part",
            path,
            self._writers,
            lambda: self._files.write(temporary, body, offset),
            sent=size_of(body),
        )

    async def _complete(self, path: str, temporary: str) -> None:
        await self._call("complete_multipart", path, self._writers, lambda: self._files.complete(temporary, path))

    async def _abort(self, path: str, temporary: str) -> None:
        await self._call("abort_multipart", path, self._writers, lambda: self._files.abort(temporary))

    def _translated(self, error: OSError, doing: str) -> StoreError:
        if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
            return PathTaken(f"{self.url}: {doing}: {error.filename}: one path cannot be a file and a folder at once")
        return super()._translated(error, doing)


class FolderUpload:
    """A temporary file, each part written where it belongs."""

    def __init__(self, site: FolderSite, path: str, parts: Cut, temporary: str) -> None:
        self._site = site
        self._path = path
        self._parts = parts
        self._temporary = temporary
        self._put: set[int] = set()
        self._over = False

    @property
    def part_size(self) -> int:
        return self._parts.part_size

    @property
    def max_parts(self) -> int:
        return MAX_PARTS

    async def put(self, number: int, body: Buffer) -> None:
        offset = self._parts.check(number, body)
        await self._site._write(self._path, self._temporary, body, offset)
        self._put.add(number)

    async def complete(self) -> None:
        self._parts.require_all(self._put, f"{self._site.url} {self._path}")
        await self._site._complete(self._path, self._temporary)
        self._over = True

    async def abort(self) -> None:
        if not self._over:
            self._over = True
            await self._site._abort(self._path, self._temporary)
