"""Objects in a folder of this machine: the blocking half of `LocalStore`. Processes may share the folder.

What is where, below the root::

    <path of a key>           the object, see `paths`, `object_file`, and of foreign ones `foreign_files`
    .bucketry-tmp/            what is being written
    .bucketry-locks/          striped lock files
    .bucketry-uploads/        multipart uploads, see `folder_uploads`

An object appears by a link or a rename of a file that was written and flushed before, so it is whole from
its first moment on, whoever is killed when. Whatever replaces or removes an object by a condition holds the
lock of its key. A file system's errors leave this module as `OSError`; `LocalStore` gives them their names.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import ClassVar

from bucketry.store import foreign_files
from bucketry.store.checks import is_bulk, is_foreign
from bucketry.store.contract import (
    BucketMissing,
    Buffer,
    Condition,
    Corrupt,
    IfAbsent,
    IfMatch,
    ListedObject,
    ListPage,
    NotFound,
    ObjectInfo,
    PreconditionFailed,
    StoredObject,
    StoreError,
    Unavailable,
    Unsupported,
)
from bucketry.store.folder_walk import walk
from bucketry.store.object_file import (
    HEADER_READ,
    NO_FILE,
    bulk_info,
    first_line,
    parse,
    set_modified,
    write_all,
)
from bucketry.store.paths import key_to_path

TEMPORARY = ".bucketry-tmp"
LOCKS = ".bucketry-locks"
UPLOADS = ".bucketry-uploads"

_MODES = {TEMPORARY: 0o773}
"""Less the umask. Others cannot list what is being written, and its names cannot be guessed: some of it will be in a
folder that they cannot enter."""

PIECE = 1024 * 1024
"""Bytes read at once."""

_FIRST_READ = 64 * 1024  # a small object whole, in one system call
_STRIPES = 256
_ABANDONED = 24 * 3600.0  # seconds after which nobody still writes a temporary file
_KNOWN_FOLDERS = 65536
_FOREIGN_READS = 4  # of a file that its program may be writing meanwhile

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)


@dataclass(frozen=True, slots=True)
class OpenObject:
    """A file open for reading: its bytes from ``position`` up to ``end`` were asked for."""

    fd: int
    position: int
    end: int


class _Torn(Corrupt):
    """A file has not the size that it had a moment ago, or that its header says."""


class Folder:
    """``clock`` gives POSIX seconds, ``random`` that many random bytes."""

    private: ClassVar[tuple[str, ...]] = (TEMPORARY, LOCKS, UPLOADS)

    def __init__(self, root: str, *, fsync: bool, clock: Callable[[], float], random: Callable[[int], bytes]) -> None:
        self.root = root
        self.fsync = fsync
        self.clock = clock
        self.random = random
        # Folders whose own entries are on disk, as far as this process knows. Nobody removes folders.
        self._known: set[str] = {root}

    # Objects

    def path(self, key: str) -> str:
        return f"{self.root}/{key_to_path(key)}"

    def get(self, key: str, limit: int) -> StoredObject:
        if not is_foreign(key):
            return self._get(key, limit)
        for _ in range(_FOREIGN_READS):
            with suppress(_Torn):
                return self._get(key, limit)
        raise Unavailable(f"{self._name(key)} changes while it is read: try again")

    def _get(self, key: str, limit: int) -> StoredObject:
        """Raises `_Torn`."""
        fd, info, start, data = self._open(key, _FIRST_READ)
        try:
            if info.size > limit:
                raise Corrupt(f"{self._name(key)} has {info.size} bytes, more than the {limit} expected")
            # One byte more than there should be shows a file that is too long.
            missing = start + info.size + 1 - len(data)
            pieces = [data]
            while missing > 0 and (piece := os.read(fd, missing)):
                pieces.append(piece)
                missing -= len(piece)
            body = b"".join(pieces)[start:]
            if len(body) != info.size:
                raise _Torn(f"{self._name(key)} is not {info.size} bytes long as it should be: restore it")
            return StoredObject(info, body)
        finally:
            os.close(fd)

    def head(self, key: str) -> ObjectInfo:
        fd, info, _, _ = self._open(key, HEADER_READ)
        os.close(fd)
        return info

    def open(self, key: str, start: int, stop: int | None) -> OpenObject:
        """The caller closes the file."""
        fd, info, skip, _ = self._open(key, HEADER_READ)
        end = info.size if stop is None else min(stop, info.size)
        return OpenObject(fd, skip + start, skip + max(start, end))

    def put(
        self,
        key: str,
        body: Buffer,
        content_type: str,
        metadata: Mapping[str, str],
        condition: Condition | None,
    ) -> str:
        path = self.path(key)
        # Most lost races are lost here, before anything is written.
        self._require(key, path, condition)
        temporary, etag = self._write_temporary(key, body, content_type, metadata)
        try:
            self.place(key, temporary, condition)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        return etag

    def place(self, key: str, source: str, condition: Condition | None = None) -> None:
        """Makes a whole, flushed file the object of a key: by link or rename, then flushes its folder."""
        path = self.path(key)
        folder = os.path.dirname(path)
        self.make_folder(folder)
        try:
            self._move(key, source, path, condition)
        except FileNotFoundError:
            # Someone removed folders below us by hand: forget what was known of them, and make them again.
            self._known = {self.root}
            self.make_folder(folder)
            self._move(key, source, path, condition)
        except OSError as error:
            if error.errno in (errno.EISDIR, errno.ENOTEMPTY):
                raise self._conflict(key) from error
            raise
        self.sync_folder(folder)

    def delete(self, key: str, condition: IfMatch | None) -> None:
        self._remove(key, condition)
        self._sync_parent(key)

    def delete_many(self, keys: list[str]) -> None:
        for key in keys:
            self._remove(key, None)
        for key in {os.path.dirname(self.path(key)): key for key in keys}.values():
            self._sync_parent(key)

    def list(self, prefix: str, after: str | None, limit: int) -> ListPage:
        objects: list[ListedObject] = []
        for key, path in walk(self.root, prefix, after):
            listed = self._listed(key, path)
            if listed is None:
                continue
            if len(objects) == limit:
                return ListPage(tuple(objects), more=True)
            objects.append(listed)
        if not objects:
            self.require_root()
        return ListPage(tuple(objects), more=False)

    # The folder itself

    def start(self) -> None:
        """Makes the root and the private folders, and removes what killed processes left behind."""
        if os.path.lexists(self.root) and not os.path.isdir(self.root):
            raise StoreError(f"file:{self.root} is a file, not a folder: name a folder, or a path where none is")
        os.makedirs(self.root, exist_ok=True)
        os.scandir(self.root).close()
        try:
            self.make_private()
            self._sweep()
        except OSError as error:
            # A folder that takes no writes can still be served from.
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise

    def make_private(self) -> None:
        made = False
        for name in self.private:
            try:
                os.mkdir(f"{self.root}/{name}", _MODES.get(name, 0o777))
                made = True
            except FileExistsError:
                continue
            except FileNotFoundError:
                self.require_root()
                raise
        if made:
            self.sync_folder(self.root)

    def require_root(self) -> None:
        if not os.path.isdir(self.root):
            raise BucketMissing(f"the folder {self.root} is gone: mount or restore it, or start again to make it")

    def make_folder(self, path: str) -> None:
        """Makes a folder below the root, with its parents, each flushed before anything relies on it."""
        if path in self._known:
            return
        parent = os.path.dirname(path)
        self.make_folder(parent)
        try:
            os.mkdir(path)
        except FileExistsError as error:
            if not os.path.isdir(path):
                key = os.path.relpath(path, self.root)
                raise self._conflict(key) from error
        except FileNotFoundError:
            self.require_root()
            raise
        # Even where another process made it: that one may not have flushed it yet.
        self.sync_folder(parent)
        if len(self._known) >= _KNOWN_FOLDERS:
            self._known = {self.root}
        self._known.add(path)

    def sync_folder(self, path: str) -> None:
        if not self.fsync:
            return
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as error:
            # Some network file systems flush folders by themselves and know no call for it.
            if error.errno not in _NO_DIRECTORY_SYNC:
                raise
        finally:
            os.close(fd)

    def sync_file(self, fd: int) -> None:
        if self.fsync:
            os.fsync(fd)

    def temporary(self) -> str:
        """A path where nothing is, in a folder that is there."""
        if not os.path.isdir(f"{self.root}/{TEMPORARY}"):
            self.make_private()
        return f"{self.root}/{TEMPORARY}/{self.random(16).hex()}"

    @contextmanager
    def locked(self, kind: str, name: str, how: int = fcntl.LOCK_EX) -> Iterator[int]:
        """Holds one of a kind's striped locks, against other threads and other processes; gives its open file.

        The kernel frees the locks of a process that dies.
        """
        path = f"{self.root}/{LOCKS}/{kind}-{zlib.crc32(name.encode()) % _STRIPES:02x}"
        flags = os.O_RDWR | os.O_CREAT
        try:
            fd = os.open(path, flags, 0o666)
        except FileNotFoundError:
            self.make_private()
            fd = os.open(path, flags, 0o666)
        try:
            fcntl.flock(fd, how)
            yield fd
        finally:
            os.close(fd)

    def _sweep(self) -> None:
        before = self.clock() - _ABANDONED
        with os.scandir(f"{self.root}/{TEMPORARY}") as entries:
            for entry in entries:
                # Another process may sweep, or finish its file, at the same time.
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < before:
                        remove_tree(entry.path)

    # How objects are written and removed

    def _require(self, key: str, path: str, condition: Condition | None) -> None:
        if isinstance(condition, IfAbsent) and os.path.lexists(path):
            raise self._exists(key, path)
        if isinstance(condition, IfMatch):
            try:
                etag = self.head(key).etag
            except NotFound as error:
                raise PreconditionFailed(f"{self._name(key)} was removed meanwhile") from error
            if etag != condition.etag:
                raise PreconditionFailed(f"{self._name(key)} was changed meanwhile")

    def _exists(self, key: str, path: str) -> StoreError:
        if os.path.isdir(path):
            return self._conflict(key)
        # The caller may acknowledge something on the strength of this object: it must not vanish any more.
        self.sync_folder(os.path.dirname(path))
        return PreconditionFailed(f"{self._name(key)} exists already")

    def _write_temporary(
        self, key: str, body: Buffer, content_type: str, metadata: Mapping[str, str]
    ) -> tuple[str, str]:
        view = memoryview(body).cast("B")
        modified = self.clock()
        etag = self.random(16).hex()
        temporary = self.temporary()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            if is_bulk(key):
                write_all(fd, view, 0)
                set_modified(fd, modified)
                etag = bulk_info(key, os.fstat(fd)).etag
            else:
                line = first_line(ObjectInfo(key, len(view), etag, modified, content_type, metadata))
                write_all(fd, memoryview(line), 0)
                write_all(fd, view, len(line))
            self.sync_file(fd)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            os.close(fd)
        return temporary, etag

    def _move(self, key: str, source: str, path: str, condition: Condition | None) -> None:
        if isinstance(condition, IfAbsent):
            try:
                os.link(source, path)
            except FileExistsError as error:
                raise self._exists(key, path) from error
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # No hard links here. All who write this folder come this way then, so the lock is enough.
            else:
                os.unlink(source)
                return
        with self.locked("key", key):
            self._require(key, path, condition)
            os.replace(source, path)

    def _remove(self, key: str, condition: IfMatch | None) -> None:
        path = self.path(key)
        with self.locked("key", key):
            self._require(key, path, condition)
            try:
                os.unlink(path)
            except OSError as error:
                # macOS says EPERM of a folder.
                if error.errno not in NO_FILE and not os.path.isdir(path):
                    raise

    def _sync_parent(self, key: str) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            self.sync_folder(os.path.dirname(self.path(key)))

    # How objects are read

    def _name(self, key: str) -> str:
        return f"file:{self.root} {key}"

    def _conflict(self, key: str) -> StoreError:
        return Unsupported(f"{self._name(key)}: a folder cannot hold both an object and objects below its key")

    def _open(self, key: str, size: int) -> tuple[int, ObjectInfo, int, bytes]:
        """An open file, what it holds, where its body begins, and of one with a header up to ``size`` bytes."""
        path = self.path(key)
        try:
            fd = foreign_files.open_file(self.root, key) if is_foreign(key) else os.open(path, os.O_RDONLY)
            try:
                if is_bulk(key) or is_foreign(key):
                    return fd, bulk_info(key, os.fstat(fd)), 0, b""
                data = os.read(fd, size)
                parsed = parse(key, data)
                if parsed is None:
                    raise Corrupt(f"{path} was not written by bucketry, or is damaged: move it away, or restore it")
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            if error.errno not in NO_FILE:
                raise
            self.require_root()
            raise NotFound(f"{self._name(key)} does not exist") from error
        return fd, *parsed, data

    def _listed(self, key: str, path: str) -> ListedObject | None:
        """None of an object that was removed meanwhile, and of a stranger's file."""
        try:
            if is_bulk(key) or is_foreign(key):
                info = bulk_info(key, os.stat(path, follow_symlinks=False))
                return ListedObject(key, info.size, info.etag, info.modified)
            fd = os.open(path, os.O_RDONLY)
            try:
                parsed = parse(key, os.read(fd, HEADER_READ))
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno not in NO_FILE:
                raise
            return None
        if parsed is None:
            return None
        return ListedObject(key, parsed[0].size, parsed[0].etag, parsed[0].modified)


def remove_tree(path: str) -> None:
    """Removes a file, or a folder with what is in it; what resists is left to the next sweep."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            os.unlink(path)
