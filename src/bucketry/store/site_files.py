"""A site's files in a folder: the blocking half of `FolderSite`. Processes may share the folder.

Files are where their paths say, plain. What is being written is in ``.bucketry-tmp``, the locks in
``.bucketry-locks``, both made with the first write. Files are never written in place, so a hard link to one stays what
it is. Folders that become empty are removed: whoever writes holds the lock of the folders shared meanwhile, and looks
whether any were removed since it last made sure that they are on disk.

A file system's errors leave this module as `OSError`; `FolderSite` gives them their names.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from bucketry.store.contract import (
    BULK_PREFIX,
    Buffer,
    Condition,
    NotFound,
    ObjectInfo,
    PreconditionFailed,
    StoreError,
)
from bucketry.store.folder import LOCKS, PIECE, TEMPORARY, Folder
from bucketry.store.object_file import NO_FILE, bulk_info, set_modified, write_all
from bucketry.store.site import PRIVATE, PathTaken, SiteFile, is_path, pointer

_SLICE = 256 * 1024 * 1024  # bytes copied by one call, which cannot be interrupted

_NO_LINK = (
    errno.EXDEV,
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
    errno.ENOENT,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
    errno.ENOSYS,
)
_NO_RANGE_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.EBADF)


@dataclass(slots=True)
class Copying:
    """A file that is copied, slice by slice: ``offset`` bytes of ``size`` are done."""

    source: int
    target: int
    temporary: str
    size: int
    offset: int = 0

    def step(self) -> bool:
        """Copies a slice; False where the source ended early."""
        stop = min(self.size, self.offset + _SLICE)
        while self.offset < stop:
            copied = _copy_range(self.source, self.target, self.offset, stop - self.offset)
            if copied == 0:
                return False
            self.offset += copied
        return True

    def drop(self) -> None:
        """Closes the files, and removes what was not made a file of the site."""
        for fd in (self.source, self.target):
            os.close(fd)
        with suppress(FileNotFoundError):
            os.unlink(self.temporary)


class SiteFiles(Folder):
    """Keys are the paths of the site, as they are."""

    private: ClassVar[tuple[str, ...]] = (TEMPORARY, LOCKS)

    def __init__(self, root: str, *, fsync: bool, clock: Callable[[], float], random: Callable[[int], bytes]) -> None:
        super().__init__(root, fsync=fsync, clock=clock, random=random)
        self._removals = b""
        self._mode: int | None = None

    def path(self, key: str) -> str:
        return f"{self.root}/{key}"

    def start(self) -> None:
        """Removes what killed processes left behind; makes nothing."""
        if os.path.lexists(self.root) and not os.path.isdir(self.root):
            raise StoreError(f"file:{self.root} is a file, not a folder: name a folder, or a path where none is")
        try:
            os.scandir(self.root).close()
            self._sweep()
        except FileNotFoundError:
            return
        except NotADirectoryError as error:
            raise StoreError(
                f"file:{self.root} would be below a file: name a folder, or a path where none is"
            ) from error
        except OSError as error:
            # A folder that takes no writes can still be read.
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM) or not os.access(self.root, os.R_OK):
                raise

    def files(self, prefix: str) -> Generator[SiteFile, None, None]:
        """Folders behind symbolic links are not looked into; a link to one beside it is told as such.

        What is neither a file nor a folder is told without an etag: it cannot be read, but it is there.
        """
        pending = [prefix]
        while pending:
            folder = pending.pop()
            try:
                entries = os.scandir(f"{self.root}/{folder}")
            except OSError as error:
                if error.errno not in NO_FILE:
                    raise
                continue
            with entries:
                for entry in entries:
                    if entry.name.startswith(PRIVATE):
                        continue
                    path = folder + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{path}/")
                        continue
                    target = _pointed(entry)
                    if target is not None:
                        yield SiteFile(path, 0, pointer(target))
                        continue
                    try:
                        info = bulk_info(path, entry.stat())
                    except OSError as error:
                        if error.errno not in (*NO_FILE, errno.ELOOP):
                            raise
                        # A file was removed meanwhile.
                        if not entry.is_file(follow_symlinks=False):
                            yield SiteFile(path, 0, "")
                        continue
                    yield SiteFile(path, info.size, info.etag)

    def delete_many(self, keys: list[str]) -> None:
        if not os.path.isdir(self.root):
            return
        for key in keys:
            self._remove(key, None)
        left = set()
        with self.locked("folders", "", fcntl.LOCK_EX) as fd:
            # First, so that nobody takes a folder for one that is there, whenever this process is killed.
            os.pwrite(fd, self.random(16), 0)
            for folder in sorted({os.path.dirname(self.path(key)) for key in keys}, key=len, reverse=True):
                while len(folder) > len(self.root) and _is_removed(folder):
                    folder = os.path.dirname(folder)
                left.add(folder)
        for folder in left:
            with suppress(FileNotFoundError, NotADirectoryError):
                self.sync_folder(folder)

    # Whole files

    def place(self, key: str, source: str, condition: Condition | None = None) -> None:
        with self.locked("folders", "", fcntl.LOCK_SH) as fd:
            removals = os.pread(fd, 16, 0)
            if removals != self._removals:
                self._known = {self.root}
                self._removals = removals
            try:
                super().place(key, source, condition)
            except NotADirectoryError as error:
                raise self._conflict(key) from error

    def take(self, file: str, key: str, size: int | None, *, link: bool) -> Copying | bool:
        """Makes the file ``key`` a hard link to another file; where that cannot be, begins a copy.

        False where there is no such file, or none of ``size`` bytes.
        """
        try:
            source = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in (*NO_FILE, errno.ELOOP):
                raise
            return False
        copying = False
        try:
            status = os.fstat(source)
            if not stat.S_ISREG(status.st_mode) or size not in (None, status.st_size):
                return False
            temporary = self.temporary()
            if link and self._is_for_readers(status) and _link(file, temporary, status):
                try:
                    # Its writer may not have flushed it.
                    self.sync_file(source)
                    self.place(key, temporary)
                finally:
                    # A rename of one link over another of the same file leaves both.
                    with suppress(FileNotFoundError):
                        os.unlink(temporary)
                return True
            target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            copying = True
            return Copying(source, target, temporary, status.st_size)
        finally:
            if not copying:
                os.close(source)

    def finish(self, copying: Copying, key: str) -> None:
        set_modified(copying.target, self.clock())
        self.sync_file(copying.target)
        self.place(key, copying.temporary)

    def pointed(self, key: str) -> str | None:
        try:
            target = os.readlink(self.path(key))
        except OSError as error:
            if error.errno not in (*NO_FILE, errno.EINVAL):
                raise
            return None
        return target if "/" not in target and is_path(target) else None

    def point(self, key: str, target: str, current: str | None) -> None:
        """Makes ``key`` a symbolic link to a name beside it."""
        temporary = self.temporary()
        os.symlink(target, temporary)
        try:
            # All who make links hold it, and `place` holds it only where it is asked to replace.
            with self.locked("link", key):
                if self.pointed(key) != current:
                    raise PreconditionFailed(f"{self._name(key)} was changed meanwhile")
                if current is None and os.path.lexists(self.path(key)):
                    raise self._conflict(key)
                self.place(key, temporary)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    # Files in parts

    def create(self, size: int) -> str:
        """An empty temporary file that will have so many bytes; gives its path."""
        temporary = self.temporary()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.ftruncate(fd, size)
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
        return temporary

    def write(self, temporary: str, body: Buffer, offset: int) -> None:
        fd = os.open(temporary, os.O_WRONLY)
        try:
            write_all(fd, memoryview(body).cast("B"), offset)
        finally:
            os.close(fd)

    def complete(self, temporary: str, key: str) -> None:
        fd = os.open(temporary, os.O_WRONLY)
        try:
            set_modified(fd, self.clock())
            self.sync_file(fd)
        finally:
            os.close(fd)
        self.place(key, temporary)

    def abort(self, temporary: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(temporary)

    # Where this folder differs from a store's

    def make_private(self) -> None:
        missing = []
        path = self.root
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        os.makedirs(self.root, exist_ok=True)
        for made in reversed(missing):
            self.sync_folder(os.path.dirname(made))
        super().make_private()

    def require_root(self) -> None:
        """A site whose folder is not there yet is an empty one."""

    def _open(self, key: str, size: int) -> tuple[int, ObjectInfo, int, bytes]:
        try:
            # A pipe that someone left there is not waited for.
            fd = os.open(self.path(key), os.O_RDONLY | os.O_NONBLOCK)
            try:
                return fd, bulk_info(key, os.fstat(fd)), 0, b""
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            if error.errno not in NO_FILE:
                raise
            raise NotFound(f"{self._name(key)} does not exist") from error

    def _write_temporary(
        self, key: str, body: Buffer, content_type: str, metadata: Mapping[str, str]
    ) -> tuple[str, str]:
        # Without a header, as a store keeps its bulk objects.
        return super()._write_temporary(f"{BULK_PREFIX}{key}", body, content_type, metadata)

    def _exists(self, key: str, path: str) -> StoreError:
        if os.path.islink(path) and not os.path.isfile(path):
            return self._conflict(key)
        return super()._exists(key, path)

    def _conflict(self, key: str) -> PathTaken:
        if os.path.islink(self.path(key)):
            return PathTaken(
                f"{self._name(key)} is a symbolic link to elsewhere, which bucketry did not make: remove it"
            )
        return PathTaken(f"{self._name(key)}: one path cannot be a file and a folder at once")

    def _is_for_readers(self, status: os.stat_result) -> bool:
        """Whether all may read a file who may read what this process makes: a web server is another user."""
        if self._mode is None:
            temporary = self.create(0)
            self._mode = os.stat(temporary).st_mode
            os.unlink(temporary)
        return not self._mode & 0o444 & ~status.st_mode


def _pointed(entry: os.DirEntry[str]) -> str | None:
    """The name beside it that an entry links to, if that is what it is: of a file, or of a link elsewhere, None."""
    if not entry.is_symlink() or entry.is_file():
        return None
    try:
        target = os.readlink(entry.path)
    except OSError:
        return None  # Removed meanwhile.
    return target if "/" not in target and is_path(target) else None


def _is_removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        # Not empty, or not to be removed by us: an empty folder harms nobody.
        return False
    return True


def _link(file: str, target: str, status: os.stat_result) -> bool:
    """Whether ``target`` is now a link to the very file that was opened."""
    try:
        os.link(file, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return False
    if os.path.samestat(os.lstat(target), status):
        return True
    os.unlink(target)
    return False


def _copy_range(source: int, target: int, offset: int, count: int) -> int:
    """Copies at least a byte, inside the file system where it can; 0 at the source's end."""
    if hasattr(os, "copy_file_range"):
        try:
            copied = os.copy_file_range(source, target, count, offset, offset)
        except OSError as error:
            if error.errno not in _NO_RANGE_COPY:
                raise
        else:
            if copied:
                return copied
            # Some file systems say 0 of files that have more.
    piece = os.pread(source, min(PIECE, count), offset)
    write_all(target, memoryview(piece), offset)
    return len(piece)
