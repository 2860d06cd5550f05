"""One blob on its way into a slot of a file: ranges at once, verified as they land, gone on with after a crash.

The bytes are written once, straight to their place. With checkpoints (docs/reference/sha256-checkpoints.md) each
segment is verified by itself, on all cores, and one that is wrong is fetched again alone. Without, one hash follows in
order. Either way the blob has landed only when all of it is verified.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial

from bucketry import hashing
from bucketry.hashing import SEGMENT, Checkpoints, Hasher, SegmentCheck
from bucketry.oci import Descriptor
from bucketry.transfer.contract import BlobReader, Slot, is_list_of
from bucketry.transfer.crew import closing, crew, in_thread
from bucketry.transfer.errors import ContentMismatch, Refused
from bucketry.transfer.events import Again, Moved, Resumed, Verified
from bucketry.transfer.files import translated
from bucketry.transfer.journal import Entry
from bucketry.transfer.reading import continued, is_ranged, wrong_length
from bucketry.transfer.work import Work

MIB = 1024 * 1024

AT_ONCE = MIB
"""Bytes that are written and hashed at a time."""
BUFFERS = 2 * MIB
"""Bytes that one range on its way has in memory: what is gathered, and the piece that made it enough."""

SMALLEST_SEGMENT = MIB
"""Lists with shorter segments are not used: each would be a request."""

TRIES = 3
"""Of a segment, or of a blob without checkpoints, that does not have its digest."""

RANGES_AHEAD = 64


class Landing:
    def __init__(self, work: Work, source_name: str, reader: BlobReader, blob: Descriptor, slot: Slot) -> None:
        self._work = work
        self._source_name = source_name
        self._reader = reader
        self._blob = blob
        self._item = blob.digest
        self._slot = slot
        self._file = -1

    async def land(self) -> None:
        """Returns when all bytes are in the slot, and have the blob's digest.

        Raises `ContentMismatch`, naming blob and segment; `NoSpace`; what the reader raises.
        """
        with translated(f"{self._slot.path} could not be opened"):
            self._file = os.open(self._slot.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if self._blob.size > SEGMENT and is_ranged(self._reader):
                try:
                    await self._ranged()
                    return
                except Refused:
                    if is_ranged(self._reader):
                        raise
            await self._in_order()
        finally:
            os.close(self._file)

    async def _ranged(self) -> None:
        checkpoints = await self._work.patiently(self._item, self._reader.checkpoints)
        if checkpoints is not None and self._usable(checkpoints):
            await _Checked(self, checkpoints).land()
        else:
            await _Followed(self).land()

    def _usable(self, checkpoints: Checkpoints) -> bool:
        return hashing.resumable() and is_list_of(checkpoints, self._blob) and checkpoints.segment >= SMALLEST_SEGMENT

    def entry(self, segment: int) -> Entry:
        about = (self._slot.path, str(self._slot.offset), self._blob.digest, str(self._blob.size), str(segment))
        return self._work.landings.find(*about) or self._work.landings.begin(*about, note="")

    async def _in_order(self) -> None:
        """One stream from the first byte to the last, hashed as it is written."""
        for remaining in reversed(range(TRIES)):
            target = _Range(self, 0, self._blob.size, hashing.new(self._blob.parsed.algorithm))
            await self._work.incoming.run(target.fetch, self._blob.size, self._work.again(self._item))
            if target.hasher is not None and target.hasher.hexdigest() == self._blob.parsed.hex:
                self._work.tell(Verified(item=self._item, size=self._blob.size))
                return
            self.again_or_mismatch("its bytes", self._blob.size, remaining)

    def again_or_mismatch(self, what: str, size: int, remaining: int) -> None:
        """Tells that it is fetched again, or raises."""
        if not remaining:
            raise ContentMismatch(
                f"blob {self._blob.digest} of {self._source_name} is damaged: {what} came with another digest "
                f"{TRIES} times"
            )
        self._work.tell(Again(item=self._item, why=f"{what} have another digest", size=size))

    def write(self, at: int, pieces: Sequence[bytes]) -> None:
        """Puts the pieces at ``at`` in the blob. Blocks. Raises `NoSpace`."""
        with translated(f"{self._slot.path} could not be written"):
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    written = os.pwrite(self._file, view, self._slot.offset + at)
                    view, at = view[written:], at + written

    def read(self, start: int, stop: int) -> bytes:
        """What is in the file, fewer bytes where it ends early. Blocks."""
        with translated(f"{self._slot.path} could not be read"):
            return os.pread(self._file, stop - start, self._slot.offset + start)

    @property
    def work(self) -> Work:
        return self._work

    @property
    def reader(self) -> BlobReader:
        return self._reader

    @property
    def blob(self) -> Descriptor:
        return self._blob


class _Range:
    """Bytes of a blob on their way; `fetch` goes on where it broke. ``hasher`` takes all of them, in order."""

    def __init__(
        self,
        landing: Landing,
        start: int,
        stop: int,
        hasher: Hasher | SegmentCheck | None = None,
        *,
        follow: _Follower | None = None,
        reached: Callable[[int], None] = lambda at: None,
    ) -> None:
        """``reached`` hears up to where the bytes are in the file."""
        self._landing = landing
        self._at = start
        self._start = start
        self._stop = stop
        self._hasher = hasher
        self._follow = follow
        self._reached = reached

    @property
    def hasher(self) -> Hasher | None:
        return None if isinstance(self._hasher, SegmentCheck) else self._hasher

    async def fetch(self) -> None:
        landing = self._landing
        if self._at == self._stop:
            return
        with await landing.work.budget.reserve(BUFFERS):
            held: list[bytes] = []
            size = 0
            async with closing(continued(landing.reader, self._at, self._stop)) as pieces:
                async for piece in pieces:
                    if self._at + size + len(piece) > self._stop:
                        raise wrong_length(self._start, self._stop)
                    held.append(piece)
                    size += len(piece)
                    if size >= AT_ONCE:
                        await self._take(held, size)
                        held, size = [], 0
            if held:
                await self._take(held, size)
            if self._at != self._stop:
                raise wrong_length(self._start, self._stop)

    async def _take(self, pieces: list[bytes], size: int) -> None:
        await in_thread(self._land, pieces)
        self._at += size
        self._reached(self._at)
        self._landing.work.tell(Moved(item=self._landing.blob.digest, size=size))

    def _land(self, pieces: list[bytes]) -> None:
        self._landing.write(self._at, pieces)
        if self._hasher is not None:
            for piece in pieces:
                self._hasher.update(piece)
        elif self._follow is not None:
            self._follow.offer(self._at, pieces)


class _Checked:
    """All segments of a blob, each against the checkpoints."""

    def __init__(self, landing: Landing, checkpoints: Checkpoints) -> None:
        self._landing = landing
        self._checkpoints = checkpoints
        self._entry = landing.entry(checkpoints.segment)

    async def land(self) -> None:
        async with crew(RANGES_AHEAD) as tasks:
            for i in range(self._checkpoints.count):
                await tasks.begin(self._segment, i)
        self._entry.remove()

    async def _segment(self, i: int) -> None:
        work, item = self._landing.work, self._landing.blob.digest
        start, stop = self._checkpoints.bounds(i)
        for remaining in reversed(range(TRIES)):
            check = self._checkpoints.check(i)
            # What an earlier run noted is looked at, not believed.
            at = await in_thread(self._take_up, check, start, noted(self._entry, i, start, stop))
            if at > start:
                work.tell(Resumed(item=item, size=at - start))
            missing = _Range(self._landing, at, stop, check, reached=partial(note, self._entry, i))
            if at < stop:
                await work.incoming.run(missing.fetch, stop - at, work.again(item))
            if check.holds():
                work.tell(Verified(item=item, size=stop - start))
                return
            note(self._entry, i, start)
            self._landing.again_or_mismatch(f"segment {i} (bytes {start} to {stop})", stop - start, remaining)

    def _take_up(self, check: SegmentCheck, start: int, stop: int) -> int:
        """Hashes what is in the file from ``start`` to ``stop``. Blocks. Gives where it ended."""
        while start < stop:
            piece = self._landing.read(start, min(stop, start + AT_ONCE))
            if not piece:
                break
            check.update(piece)
            start += len(piece)
        return start


def note(entry: Entry, number: int, at: int) -> None:
    """That the bytes of a range are in the file up to ``at``."""
    entry.mark(number, str(at))


def noted(entry: Entry, number: int, start: int, stop: int) -> int:
    """Up to where the bytes of a range are in the file, by what was noted."""
    text = entry.marks.get(number, "")
    at = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else start
    return min(max(start, at), stop)


class _Follower:
    """One hash that follows what lands, in order. What comes just where it is, it takes in passing."""

    def __init__(self, landing: Landing) -> None:
        self._landing = landing
        self._hasher = hashing.new(landing.blob.parsed.algorithm)
        self._lock = threading.Lock()
        self._at = 0

    def offer(self, at: int, pieces: Sequence[bytes]) -> None:
        """Bytes that were just written at ``at``. In any thread."""
        if self._lock.acquire(blocking=False):
            try:
                if at == self._at:
                    for piece in pieces:
                        self._hasher.update(piece)
                        self._at += len(piece)
            finally:
                self._lock.release()

    def catch_up(self, stop: int) -> None:
        """Reads what has landed up to ``stop`` and was not taken in passing. Blocks."""
        with self._lock:
            while self._at < stop:
                piece = self._landing.read(self._at, min(stop, self._at + AT_ONCE))
                if not piece:
                    raise ContentMismatch(f"a file became shorter while blob {self._landing.blob.digest} was written")
                self._hasher.update(piece)
                self._at += len(piece)

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()


class _Followed:
    """All ranges of a blob that has no checkpoints."""

    def __init__(self, landing: Landing) -> None:
        self._landing = landing
        self._entry = landing.entry(SEGMENT)
        self._size = landing.blob.size
        self._count = -(-self._size // SEGMENT)
        self._begin()

    def _begin(self) -> None:
        self._follower = _Follower(self._landing)
        self._landed: set[int] = set()
        self._whole = 0
        """Ranges from the first on that have landed."""
        self._news = asyncio.Event()

    async def land(self) -> None:
        for remaining in reversed(range(TRIES)):
            await self._pass()
            self._entry.remove()
            if self._follower.hexdigest() == self._landing.blob.parsed.hex:
                self._landing.work.tell(Verified(item=self._landing.blob.digest, size=self._size))
                return
            # Nobody can say which of them is wrong, nor whether it was the file of an earlier run.
            self._landing.again_or_mismatch("its bytes", self._size, remaining)
            self._entry = self._landing.entry(SEGMENT)
            self._begin()

    async def _pass(self) -> None:
        async with crew(RANGES_AHEAD) as tasks:
            following = tasks.task(self._follow())
            for number in range(self._count):
                await tasks.begin(self._range, number)
            await following

    async def _range(self, number: int) -> None:
        landing, work = self._landing, self._landing.work
        start = number * SEGMENT
        stop = min(start + SEGMENT, self._size)
        at = noted(self._entry, number, start, stop)
        if at > start and not await in_thread(landing.read, at - 1, at):
            at = start  # The file is not that long any more.
        if at > start:
            work.tell(Resumed(item=landing.blob.digest, size=at - start))
        missing = _Range(landing, at, stop, follow=self._follower, reached=partial(note, self._entry, number))
        if at < stop:
            await work.incoming.run(missing.fetch, stop - at, work.again(landing.blob.digest))
        self._landed.add(number)
        while self._whole in self._landed:
            self._landed.remove(self._whole)
            self._whole += 1
        self._news.set()

    async def _follow(self) -> None:
        hashed = 0
        while hashed < self._count:
            await self._news.wait()
            self._news.clear()
            if self._whole > hashed:
                hashed = self._whole
                await in_thread(self._follower.catch_up, min(hashed * SEGMENT, self._size))
