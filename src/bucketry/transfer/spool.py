"""A layer on disk, until a registry that wants its digest first has it."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager

from bucketry.oci import Descriptor
from bucketry.transfer.contract import Buffer, Target
from bucketry.transfer.crew import in_thread
from bucketry.transfer.errors import Unreachable
from bucketry.transfer.events import Again, Done, Moved, Skipped
from bucketry.transfer.files import translated
from bucketry.transfer.work import Work

_PIECE = 1024 * 1024


class Spool:
    """A file without a name: nothing is left of it, however this process ends."""

    def __init__(self) -> None:
        with self._told():
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115

    def write(self, data: Buffer) -> None:
        """Raises `NoSpace`."""
        with self._told():
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]

    def read_at(self, start: int) -> bytes:
        with self._told():
            self._file.seek(start)
            return self._file.read(_PIECE)

    def close(self) -> None:
        self._file.close()

    def _told(self) -> AbstractContextManager[None]:
        return translated(f"a compressed layer could not be kept in {tempfile.gettempdir()}")


async def put_file(work: Work, target: Target, item: str, blob: Descriptor, spool: Spool) -> None:
    """Sends what is in the file as the blob, if it is not there."""
    if await work.patiently(item, lambda: target.has_blob(blob)):
        work.tell(Skipped(item=item, why="already there", size=blob.size))
        return
    moved = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal moved
        while piece := await in_thread(spool.read_at, moved):
            yield piece
            moved += len(piece)
            work.tell(Moved(item=item, size=len(piece)))

    async def attempt() -> None:
        nonlocal moved
        moved = 0
        await target.put_blob(blob, pieces())

    def again(error: Unreachable) -> None:
        work.tell(Again(item=item, why=str(error), size=moved))

    await work.outgoing.run(attempt, blob.size, again)
    work.tell(Done(item=item, digest=blob.digest, size=blob.size))
