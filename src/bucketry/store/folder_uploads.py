"""Multipart uploads in a folder: the blocking half of `LocalStore`'s parts.

``.bucketry-uploads/<upload id>/`` holds

- ``upload.json``: key, part size, when it began;
- ``bytes``: the object to be, each part at its offset, so that completing it is a rename and never a copy;
- ``parts``: a record for each offset, of the part whose bytes are there;
- ``lock``: held shared by those who write parts, exclusively by the one who completes or aborts.

An upload is pending as long as ``bytes`` is there; a folder without it is on its way out.

A part is acknowledged once its bytes and then its record are flushed. Who overwrites a part first marks its
record, so that after a crash in between nobody takes the mixture for the part that was there before.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from bucketry.store import checks
from bucketry.store.contract import Buffer, Corrupt, InvalidPart, Part, PendingUpload, UploadNotFound
from bucketry.store.folder import UPLOADS, Folder, remove_tree
from bucketry.store.object_file import set_modified, write_all

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)

# number, size, etag, whether the bytes are all there; a checksum; padding to a divisor of a disk's sector.
_RECORD = struct.Struct(">IQ16s?")
_CHECKSUM = struct.Struct(">I")
_RECORD_SIZE = 64


class _Begun(msgspec.Struct):
    key: str
    part_size: int
    initiated: float


_decode_begun = msgspec.json.Decoder(_Begun).decode


@dataclass(frozen=True, slots=True)
class _Record:
    number: int
    size: int
    etag: bytes
    whole: bool

    def is_again(self, number: int, size: int) -> bool:
        return self.whole and (self.number, self.size) == (number, size)

    def pack(self) -> bytes:
        packed = _RECORD.pack(self.number, self.size, self.etag, self.whole)
        return (packed + _CHECKSUM.pack(zlib.crc32(packed))).ljust(_RECORD_SIZE, b"\0")


@dataclass(frozen=True, slots=True)
class _Upload:
    begun: _Begun
    path: str
    bytes_fd: int
    parts_fd: int

    def record(self, index: int) -> _Record | None:
        data = os.pread(self.parts_fd, _RECORD_SIZE, index * _RECORD_SIZE)
        packed = data[: _RECORD.size]
        if len(data) < _RECORD_SIZE or not any(data):
            return None
        if data[_RECORD.size : _RECORD.size + _CHECKSUM.size] != _CHECKSUM.pack(zlib.crc32(packed)):
            raise Corrupt(f"{self.path}/parts is damaged: abort this upload and send the blob again")
        return _Record(*_RECORD.unpack(packed))


class FolderUploads:
    def __init__(self, folder: Folder, *, min_part: int) -> None:
        self._folder = folder
        self._min_part = min_part

    def create(self, key: str, part_size: int) -> str:
        checks.check_part_size(part_size, self._min_part)
        upload_id = self._folder.random(16).hex()
        begun = _Begun(key, part_size, self._folder.clock())
        self._folder.make_private()
        temporary = self._folder.temporary()
        os.mkdir(temporary)
        try:
            for name, body in (
                ("upload.json", msgspec.json.encode(begun)),
                ("bytes", b""),
                ("parts", b""),
                ("lock", b""),
            ):
                fd = os.open(f"{temporary}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                try:
                    write_all(fd, memoryview(body), 0)
                    self._folder.sync_file(fd)
                finally:
                    os.close(fd)
            self._folder.sync_folder(temporary)
            os.rename(temporary, self._path(upload_id))
        except BaseException:
            remove_tree(temporary)
            raise
        self._folder.sync_folder(f"{self._folder.root}/{UPLOADS}")
        return upload_id

    def put_part(self, key: str, upload_id: str, number: int, body: Buffer, offset: int) -> str:
        view = memoryview(body).cast("B")
        # Shared, and held until the bytes are written: nobody may touch them once the object is complete.
        with self._locked(upload_id, fcntl.LOCK_SH), self._pending(key, upload_id) as upload:
            part_size = upload.begun.part_size
            checks.check_part(number, len(view), offset=offset, part_size=part_size)
            index = offset // part_size
            with self._folder.locked("part", f"{upload_id}/{index}"):
                before = upload.record(index)
                if before is not None and before.number > number:
                    raise InvalidPart(
                        f"part {number} of upload {upload_id} at {offset} was superseded by part "
                        f"{before.number}: another request continued this upload"
                    )
                if before is not None and before.is_again(number, len(view)) and _holds(upload, view, offset):
                    # Two commits of one state send the same last part: neither takes the other's away.
                    return before.etag.hex()
                etag = self._folder.random(16)
                record = _Record(number, len(view), etag, whole=False)
                if before is not None:
                    self._write_record(upload, index, record)
                write_all(upload.bytes_fd, view, offset)
                self._folder.sync_file(upload.bytes_fd)
                self._write_record(upload, index, _Record(number, len(view), etag, whole=True))
            return etag.hex()

    def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        with self._locked(upload_id, fcntl.LOCK_SH), self._pending(key, upload_id) as upload:
            count = os.fstat(upload.parts_fd).st_size // _RECORD_SIZE
            records = (self._settled(upload, upload_id, index) for index in range(count))
            return tuple(
                Part(record.number, record.size, record.etag.hex())
                for record in sorted(filter(None, records), key=lambda record: record.number)
                if record.whole
            )

    def complete(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        total = sum(part.size for part in parts)
        try:
            with self._locked(upload_id, fcntl.LOCK_EX):
                with self._pending(key, upload_id) as upload:
                    self._verify(upload, upload_id, parts)
                    # Bytes of a superseded writer may be behind the end.
                    os.ftruncate(upload.bytes_fd, total)
                    set_modified(upload.bytes_fd, self._folder.clock())
                    self._folder.sync_file(upload.bytes_fd)
                    self._folder.place(key, f"{upload.path}/bytes")
                remove_tree(upload.path)
        except UploadNotFound:
            if not self._completed(key, upload_id, total):
                raise

    def abort(self, key: str, upload_id: str) -> None:
        with suppress(UploadNotFound), self._locked(upload_id, fcntl.LOCK_EX):
            with self._pending(key, upload_id) as upload:
                os.unlink(f"{upload.path}/bytes")
            remove_tree(upload.path)

    def list(self) -> Sequence[PendingUpload]:
        found: list[PendingUpload] = []
        for upload_id in self._ids():
            path = self._path(upload_id)
            with suppress(FileNotFoundError):
                os.stat(f"{path}/bytes")
                begun = _read_begun(path)
                found.append(PendingUpload(begun.key, upload_id, begun.initiated))
        return tuple(found)

    def sweep(self) -> None:
        """Removes what a process left that was killed after it had completed or aborted an upload."""
        for upload_id in self._ids():
            path = self._path(upload_id)
            if not os.path.lexists(f"{path}/bytes"):
                remove_tree(path)

    def _path(self, upload_id: str) -> str:
        return f"{self._folder.root}/{UPLOADS}/{upload_id}"

    def _ids(self) -> Sequence[str]:
        try:
            names = os.listdir(f"{self._folder.root}/{UPLOADS}")
        except FileNotFoundError:
            self._folder.require_root()
            return ()
        return sorted(name for name in names if _ID.fullmatch(name))

    def _missing(self, upload_id: str) -> UploadNotFound:
        return UploadNotFound(f"file:{self._folder.root} has no upload {upload_id[:64]}: it was completed or aborted")

    @contextmanager
    def _locked(self, upload_id: str, how: int) -> Iterator[None]:
        if _ID.fullmatch(upload_id) is None:
            raise self._missing(upload_id)
        try:
            fd = os.open(f"{self._path(upload_id)}/lock", os.O_RDWR)
        except FileNotFoundError as error:
            self._folder.require_root()
            raise self._missing(upload_id) from error
        try:
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def _pending(self, key: str, upload_id: str) -> Iterator[_Upload]:
        """The upload, which whoever holds its lock sees either pending or gone."""
        path = self._path(upload_id)
        opened: list[int] = []
        try:
            try:
                begun = _read_begun(path)
                opened.append(os.open(f"{path}/bytes", os.O_RDWR))
                opened.append(os.open(f"{path}/parts", os.O_RDWR))
            except FileNotFoundError as error:
                raise self._missing(upload_id) from error
            if begun.key != key:
                raise self._missing(upload_id)
            yield _Upload(begun, path, *opened)
        finally:
            for fd in opened:
                os.close(fd)

    def _settled(self, upload: _Upload, upload_id: str, index: int) -> _Record | None:
        try:
            return upload.record(index)
        except Corrupt:
            # It may have been read while it was written.
            with self._folder.locked("part", f"{upload_id}/{index}"):
                return upload.record(index)

    def _write_record(self, upload: _Upload, index: int, record: _Record) -> None:
        write_all(upload.parts_fd, memoryview(record.pack()), index * _RECORD_SIZE)
        self._folder.sync_file(upload.parts_fd)

    def _verify(self, upload: _Upload, upload_id: str, parts: Sequence[Part]) -> None:
        if not parts:
            raise InvalidPart(f"upload {upload_id} cannot be completed without a part")
        if any(left.number >= right.number for left, right in pairwise(parts)):
            raise InvalidPart(f"the parts of upload {upload_id} are not named in the order of their numbers")
        for index, named in enumerate(parts):
            record = upload.record(index)
            if (
                record is None
                or not record.whole
                or (record.number, record.size, record.etag.hex())
                != (
                    named.number,
                    named.size,
                    named.etag,
                )
            ):
                raise InvalidPart(f"part {named.number} of upload {upload_id} is not the one that was named")
            if index < len(parts) - 1 and record.size != upload.begun.part_size:
                raise InvalidPart(f"part {named.number} of upload {upload_id} is short and not the last")

    def _completed(self, key: str, upload_id: str, total: int) -> bool:
        """Whether an earlier call completed the upload, whose answer then was lost."""
        if _ID.fullmatch(upload_id) is None or os.path.lexists(f"{self._path(upload_id)}/bytes"):
            return False
        path = self._folder.path(key)
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if status.st_size != total:
            return False
        # That call may have been killed before it had flushed the folder and cleaned up.
        self._folder.sync_folder(os.path.dirname(path))
        remove_tree(self._path(upload_id))
        return True


def _holds(upload: _Upload, view: memoryview, offset: int) -> bool:
    """Whether the file has just these bytes there."""
    return os.pread(upload.bytes_fd, len(view), offset) == view


def _read_begun(path: str) -> _Begun:
    with open(f"{path}/upload.json", "rb") as file:
        try:
            return _decode_begun(file.read())
        except msgspec.MsgspecError as error:
            raise Corrupt(f"{path}/upload.json is damaged: remove the folder {path}") from error
