"""A tar whose members have their places before their bytes come: so these are written once, straight to their place.

The tar is ``FILE.partial`` until it is whole. A later run of the same plan finds its headers there and goes on with
what lies between them; a file of another plan is begun anew. Its bytes depend on the plan alone: no time, no owner.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bucketry.oci import Descriptor
from bucketry.transfer.contract import Slot
from bucketry.transfer.crew import in_thread
from bucketry.transfer.errors import NameUnusable
from bucketry.transfer.files import translated
from bucketry.transfer.local.filling import allocated, check_room, holds, open_locked, sync
from bucketry.transfer.local.tar import END_MARK, header, padded

_END: Final = END_MARK * 2
_PIECE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Document:
    """A member whose bytes are known."""

    path: str
    body: bytes

    @property
    def size(self) -> int:
        return len(self.body)


@dataclass(frozen=True, slots=True)
class Place:
    """A member whose bytes, those of ``blob``, are to come."""

    path: str
    blob: Descriptor

    @property
    def size(self) -> int:
        return self.blob.size


class ArchiveFilling:
    """``name`` is what messages call it. `OSError` is translated in all methods."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self.partial = path.with_name(path.name + ".partial")
        self._descriptor = -1
        self._offsets: dict[str, int] = {}
        self._spans: dict[str, tuple[int, int]] = {}
        self._end = self._planned_end = 0
        self._is_new = False

    async def begin(self, members: Sequence[Document | Place], *, more: int | None = 0) -> None:
        """``more``: bytes that will be needed beside the tar; None: whoever calls it asks `check_room` later.

        Raises `NoSpace`, `Refused`, `NameUnusable`.
        """
        await in_thread(self._begin, members, more)

    async def check_room(self, more: int, without: Collection[str] = ()) -> None:
        """As `begin` does, for a tar in which the blobs ``without`` never land. Raises `NoSpace`."""
        needed = self._planned_end - sum(stop - start for start, stop in self._left_out(without))
        with self._translated():
            await in_thread(self._check_room, needed + more)

    async def slot(self, blob: Descriptor) -> Slot | None:
        """None where an earlier run has landed it."""
        offset = self._offsets[blob.digest]
        with self._translated():
            if await holds(self._descriptor, offset, blob):
                return None
        self._is_new = False
        return Slot(str(self.partial), offset)

    async def read(self, blob: Descriptor) -> bytes:
        """A small blob that has landed."""
        with self._translated():
            return await in_thread(os.pread, self._descriptor, blob.size, self._offsets[blob.digest])

    async def pieces(self, without: Collection[str] = ()) -> AsyncIterator[bytes]:
        """All of the tar, once it is whole, but for the members whose blobs are in ``without``."""
        size = self._end + len(_END)
        begin = 0
        for end, next_begin in (*self._left_out(without), (size, size)):
            for start in range(begin, end, _PIECE):
                with self._translated():
                    piece = await in_thread(os.pread, self._descriptor, min(_PIECE, end - start), start)
                yield piece
            begin = next_begin

    async def append(self, path: str, pieces: AsyncIterator[bytes]) -> None:
        """A member whose size is not known before its end. Where it fails, the tar is as `begin` made it."""
        start = position = self._end + len(header(path, 0))
        try:
            with self._translated():
                async for piece in pieces:
                    await in_thread(self._write, position, piece)
                    position += len(piece)
                size = position - start
                await in_thread(self._write, self._end, header(path, size))
                self._end = start + padded(size)
                await in_thread(os.ftruncate, self._descriptor, self._end)
                await in_thread(self._write, self._end, _END)
        except BaseException:
            # So that a later run finds its plan, and a full disk has room again.
            with contextlib.suppress(OSError):
                self._rewind()
            raise

    async def rewind(self) -> None:
        """Takes back all that was appended."""
        if self._end != self._planned_end:
            with self._translated():
                await in_thread(self._rewind)

    async def publish(self) -> None:
        """Gives it its name, once it is on the disk."""
        with self._translated():
            await in_thread(os.fsync, self._descriptor)
            os.replace(self.partial, self._path)
            await in_thread(sync, self._path.parent)
        self.close()

    async def discard(self) -> None:
        if self._descriptor >= 0:
            with self._translated():
                await in_thread(self.partial.unlink, missing_ok=True)
        self.close()

    async def abandon(self) -> None:
        """Keeps the partial file, unless nothing can be in it."""
        if self._is_new:
            await self.discard()
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _translated(self) -> contextlib.AbstractContextManager[None]:
        return translated(f"cannot write {self._name}")

    def _rewind(self) -> None:
        self._end = self._planned_end
        os.ftruncate(self._descriptor, self._end)
        self._write(self._end, _END)

    def _left_out(self, digests: Collection[str]) -> list[tuple[int, int]]:
        """From where to where these members are, in order."""
        return sorted(self._spans[digest] for digest in digests if digest in self._spans)

    def _check_room(self, needed: int) -> None:
        check_room(self._path.parent, needed - allocated(self.partial), self._name)

    def _begin(self, members: Sequence[Document | Place], more: int | None) -> None:
        planned: list[tuple[int, bytes]] = []
        position = 0
        for member in members:
            block = header(member.path, member.size)
            planned.append((position, block))
            begin, position = position, position + len(block)
            if isinstance(member, Place):
                self._offsets[member.blob.digest] = position
                self._spans[member.blob.digest] = (begin, position + padded(member.size))
            else:
                planned.append((position, member.body))
            position += padded(member.size)
        self._end = self._planned_end = position
        planned.append((position, _END))
        if self._path.is_dir():
            raise NameUnusable(f"{self._path} is a folder: name a file")
        if not self._path.parent.is_dir():
            raise NameUnusable(f"there is no folder {self._path.parent}: make it, then run it again")
        with self._translated():
            self._descriptor = open_locked(self.partial, str(self._path))
            self._is_new = not os.fstat(self._descriptor).st_size
            try:
                if more is not None:
                    self._check_room(position + more)
                if not self._is_as_planned(planned):
                    self._is_new = True
                    os.ftruncate(self._descriptor, 0)
                    os.ftruncate(self._descriptor, position + len(_END))
                    for offset, data in planned:
                        self._write(offset, data)
            except BaseException:
                if self._is_new:
                    self.partial.unlink(missing_ok=True)
                self.close()
                raise

    def _is_as_planned(self, planned: Sequence[tuple[int, bytes]]) -> bool:
        last, mark = planned[-1]
        return os.fstat(self._descriptor).st_size == last + len(mark) and all(
            os.pread(self._descriptor, len(data), offset) == data for offset, data in planned
        )

    def _write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written
