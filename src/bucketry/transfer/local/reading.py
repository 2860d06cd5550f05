"""Bytes of files, and of tars in files: read where they are, in threads."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bucketry.hashing import Checkpoints
from bucketry.transfer.crew import in_thread
from bucketry.transfer.errors import ImageMissing, NameUnusable, SourceDamaged
from bucketry.transfer.files import translated
from bucketry.transfer.local.tar import BLOCK, Extension, Headers, Kind, padded, resolve

PIECE: Final = 1024 * 1024


class OpenFile:
    """A file that is open for reading; ``name`` is how messages call it."""

    def __init__(self, path: Path, name: str) -> None:
        """Raises `ImageMissing`, `NameUnusable`, `TransferError`."""
        self.name = name
        with translated(f"cannot read {name}"):
            try:
                self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError:
                raise ImageMissing(f"there is no file {path}") from None
            status = os.fstat(self._descriptor)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise NameUnusable(f"{path} is not a plain file")

    def read(self, start: int, size: int) -> bytes:
        """Just so many bytes. Raises `SourceDamaged` where the file has become shorter."""
        with translated(f"cannot read {self.name}"):
            data = os.pread(self._descriptor, size, start)
            while len(data) < size:
                more = os.pread(self._descriptor, size - len(data), start + len(data))
                if not more:
                    raise SourceDamaged(f"{self.name} ends at byte {start + len(data):,}: it was cut short")
                data += more
        return data

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(frozen=True, slots=True)
class FileRange:
    """A blob that is ``size`` bytes of a file from ``offset`` on: a `bucketry.transfer.contract.BlobReader`."""

    file: OpenFile
    offset: int
    size: int

    @property
    def ranged(self) -> bool:
        return True

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        end = self.size if stop is None else min(stop, self.size)
        for position in range(start, end, PIECE):
            yield await in_thread(self.file.read, self.offset + position, min(PIECE, end - position))

    async def checkpoints(self) -> Checkpoints | None:
        return None


@dataclass(frozen=True, slots=True)
class TarIndex:
    """What is in a tar: of each file where its bytes are, in the order of the tar; of each link what it stands for."""

    archive: str
    files: Mapping[str, FileRange]
    links: Mapping[str, str]

    def find(self, path: str) -> tuple[str, FileRange] | None:
        """The file that ``path`` is or stands for, and its own path. Raises `SourceDamaged` for links in circles."""
        own = resolve(path, self.links)
        if own is None:
            raise SourceDamaged(f"{self.archive} has links that go in circles: it is not used")
        return (own, self.files[own]) if own in self.files else None

    def document(self, path: str, most: int) -> bytes | None:
        """A small file's bytes; None where there is none. Raises `SourceDamaged` where it has more than ``most``."""
        found = self.find(path)
        if found is None:
            return None
        place = found[1]
        if place.size > most:
            raise SourceDamaged(f"{self.archive} has a {path} of {place.size:,} bytes: at most {most:,} are read")
        return place.file.read(place.offset, place.size)


def index_tar(file: OpenFile) -> TarIndex:
    """Reads all headers of a tar, and nothing else. Raises `SourceDamaged`, `TransferError`."""
    headers = Headers(file.name)
    files: dict[str, FileRange] = {}
    links: dict[str, str] = {}
    position = 0
    while True:
        if position + BLOCK > file.size:
            raise SourceDamaged(f"{file.name} ends without the mark of its end: it was cut short, or is no tar")
        member = headers.take(file.read(position, BLOCK))
        position += BLOCK
        if member is None:
            return TarIndex(file.name, files, links)
        if member.size > file.size - position:
            raise SourceDamaged(
                f"{file.name} ends too early: it was cut short, or says of a member that it has {member.size:,} bytes"
            )
        if isinstance(member, Extension):
            headers.extend(member, file.read(position, member.size))
        elif member.kind is Kind.FILE:
            files[member.name] = FileRange(file, position, member.size)
        elif member.kind is Kind.LINK:
            links[member.name] = member.target
        position += padded(member.size)
