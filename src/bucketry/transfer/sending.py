"""One blob of a known digest on its way from a source to a target: as parts, or whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from bucketry import hashing
from bucketry.hashing import Checkpoints, NotingHasher
from bucketry.oci import Descriptor
from bucketry.registry.budget import Reservation
from bucketry.transfer.contract import BlobReader, Buffer, CheckedTarget, HashedUpload, PartUpload, Source, Target
from bucketry.transfer.crew import closing, crew, in_thread
from bucketry.transfer.errors import ContentMismatch, PartLost, Refused, SourceDamaged, TransferError, Unreachable
from bucketry.transfer.events import Again, Done, Moved, Note, Read, Resumed, Skipped, Verified
from bucketry.transfer.journal import Entry
from bucketry.transfer.reading import is_ranged, read_range, steadily
from bucketry.transfer.work import Counted, Work

PIECES_AHEAD = 64
"""Parts of one blob that wait for memory or a turn, as tasks."""

_SESSIONS = 3
"""Sessions begun for one blob before what ended them is told."""

_HASH_IN_THREAD = 256 * 1024

PUT_FROM = 256 * 1024
"""Bytes: a smaller blob goes through the registry, though the bucket would take it: that is one request less. From
here on the bytes on their way twice cost more than it (measured: docs/rfcs/0003-parallel-extension.md)."""


class InOrder:
    """Hashes the parts of a blob in order, as they come in any order."""

    def __init__(self, hasher: NotingHasher) -> None:
        self.hasher = hasher
        self._at = 0
        self._turns: dict[int, asyncio.Future[None]] = {}

    async def take(self, start: int, body: Buffer) -> None:
        """Waits for all that is before ``start``, then hashes ``body``."""
        if start != self._at:
            turn = self._turns[start] = asyncio.get_running_loop().create_future()
            await turn
        await in_thread(self.hasher.update, body)
        self._at = start + len(body)
        following = self._turns.pop(self._at, None)
        if following is not None and not following.done():
            following.set_result(None)


class Sending:
    """``mount_from``: a repository at the target's side where the source's blobs may be mounted from."""

    def __init__(self, work: Work, source: Source, target: Target, *, mount_from: str | None) -> None:
        self._work = work
        self._source = source
        self._target = target
        self._mount_from = mount_from

    async def send(self, blob: Descriptor) -> None:
        """Until the blob is at the target. Raises `SourceDamaged` where the source's bytes have another digest."""
        work, item = self._work, blob.digest
        if await work.patiently(item, lambda: self._target.has_blob(blob, mount_from=self._mount_from)):
            work.tell(Skipped(item=item, why="already there", size=blob.size))
            return
        if blob.size > work.settings.part(blob.size):
            in_parts = await work.patiently(item, self._target.takes_parts)
        else:
            in_parts = await goes_by_put(work, self._target, blob)
        if in_parts:
            await self._as_parts(blob)
        else:
            await self._whole(blob)

    async def _whole(self, blob: Descriptor) -> None:
        reader = self._source.blob(blob)
        item = blob.digest
        moved = 0
        failures: list[TransferError] = []

        async def body() -> AsyncIterator[bytes]:
            # What goes wrong on the reading side may come out of the target as an error of its own.
            nonlocal moved
            try:
                hasher = hashing.new(blob.parsed.algorithm)
                async with closing(reader.read()) as pieces:
                    async for piece in pieces:
                        if len(piece) < _HASH_IN_THREAD:
                            hasher.update(piece)
                        else:
                            await in_thread(hasher.update, piece)
                        yield piece
                        moved += len(piece)
                        self._work.tell(Moved(item=item, size=len(piece)))
                if hasher.length != blob.size or hasher.hexdigest() != blob.parsed.hex:
                    raise damaged(self._source, blob, hasher.length)
            except (Unreachable, SourceDamaged) as error:
                failures.append(error)
                raise

        async def attempt() -> None:
            nonlocal moved
            moved = 0
            failures.clear()
            async with closing(body()) as pieces:
                try:
                    await self._target.put_blob(blob, pieces)
                except TransferError as error:
                    if failures and error is not failures[-1]:
                        raise failures[-1] from error
                    raise

        def again(error: Unreachable) -> None:
            self._work.tell(Again(item=item, why=str(error), size=moved))

        await self._work.outgoing.run(attempt, blob.size, again)
        self._work.tell(Done(item=item, digest=blob.digest, size=blob.size))

    async def _as_parts(self, blob: Descriptor) -> None:
        for remaining in reversed(range(_SESSIONS)):
            entry = self._work.sessions.find(self._target.name, blob.digest)
            resumed = entry is not None
            try:
                await self._session(blob, entry)
            except PartLost as error:
                self._forget(blob)
                if not remaining:
                    raise
                self._work.tell(Note(text=f"the upload of {blob.digest} ended ({error}) and begins anew"))
            except ContentMismatch:
                self._forget(blob)
                # An earlier run may have sent other bytes. This one hashed, or was told by checkpoints, what it sent.
                if not resumed or not remaining:
                    raise
            else:
                return

    def _forget(self, blob: Descriptor) -> None:
        entry = self._work.sessions.find(self._target.name, blob.digest)
        if entry is not None:
            entry.remove()

    async def _session(self, blob: Descriptor, entry: Entry | None) -> None:
        work, item, target = self._work, blob.digest, self._target
        upload: PartUpload | None = None
        sent: dict[int, int] | None = None
        if entry is not None:
            session = entry.note
            upload = await work.patiently(item, lambda: target.resume(session))
        if upload is not None:
            sent = dict(await work.patiently(item, upload.sent))
        else:
            upload = await work.patiently(
                item,
                lambda: target.begin(digest=blob.parsed, size=blob.size, part_size=work.settings.part(blob.size)),
            )
            if upload is None:
                work.tell(Skipped(item=item, why="already there", size=blob.size))
                return
            entry = work.sessions.begin(target.name, blob.digest, note=upload.session)
        await _PartsOfBlob(work, self._source, upload, blob, sent).send()
        if entry is not None:
            entry.remove()
        work.tell(Done(item=item, digest=blob.digest, size=blob.size))


class _PartsOfBlob:
    def __init__(
        self, work: Work, source: Source, upload: PartUpload, blob: Descriptor, sent: dict[int, int] | None
    ) -> None:
        """``sent``: what is there of a session of an earlier run; None for a new one."""
        self._work = work
        self._source = source
        self._reader: BlobReader = source.blob(blob)
        self._upload = upload
        self._blob = blob
        self._item = blob.digest
        self._size = upload.part_size
        self._count = max(1, -(-blob.size // self._size))
        if self._count > upload.max_parts:
            raise Refused(
                f"blob {blob.digest} of {blob.size} bytes has more than {upload.max_parts} parts of "
                f"{self._size} bytes: ask for larger parts"
            )
        self._fresh = sent is None
        self._there = {n for n, size in (sent or {}).items() if 1 <= n <= self._count and size == self._length(n)}

    def _length(self, number: int) -> int:
        return min(self._size, self._blob.size - (number - 1) * self._size)

    async def send(self) -> None:
        work, blob, upload = self._work, self._blob, self._upload
        if self._there:
            work.tell(Resumed(item=self._item, size=sum(map(self._length, self._there))))
        own = isinstance(upload, HashedUpload) and self._fresh
        # One part is hashed before a list of its states would have come.
        alone = self._count == 1
        checkpoints = None if alone else await work.patiently(self._item, self._reader.checkpoints)
        hashes = await self._move(hashed=checkpoints is None or own)
        if hashes is not None:
            await self._check(hashes)
            checkpoints = hashes.hasher.checkpoints()
        await complete(work, self._item, upload, blob, checkpoints, own=own)

    async def _check(self, hashes: InOrder) -> None:
        """Of all parts. Raises `SourceDamaged`."""
        if hashes.hasher.hexdigest() != self._blob.parsed.hex:
            await self._work.patiently(self._item, self._upload.cancel)
            raise damaged(self._source, self._blob)

    async def _move(self, *, hashed: bool) -> InOrder | None:
        """Until every part arrived; with the hash of all, where it is wanted."""

        def new_hash() -> InOrder | None:
            return InOrder(NotingHasher(hashing.new(self._blob.parsed.algorithm))) if hashed else None

        hashes = new_hash()
        if is_ranged(self._reader):
            try:
                await self._ranged(hashes)
            except Refused:
                if is_ranged(self._reader):
                    raise
                hashes = new_hash()
            else:
                return hashes
        await self._in_order(hashes)
        return hashes

    async def _ranged(self, hashes: InOrder | None) -> None:
        async with crew(PIECES_AHEAD) as tasks:
            for number in range(1, self._count + 1):
                if number not in self._there or hashes is not None:
                    await tasks.begin(self._part, number, hashes)

    async def _part(self, number: int, hashes: InOrder | None) -> None:
        start, length = (number - 1) * self._size, self._length(number)
        with await self._work.budget.reserve(length):
            body = self._work.buffers.take(length)
            await self._work.incoming.run(
                partial(read_range, self._reader, start, start + length, body), length, self._work.again(self._item)
            )
            self._work.tell(Read(item=self._item, size=length))
            async with crew() as both:
                if hashes is not None and self._count > 1:
                    both.task(hashes.take(start, body))
                elif hashes is not None:
                    # Before a bucket refuses other bytes, in words of its own.
                    await hashes.take(start, body)
                    await self._check(hashes)
                putting = None
                if number not in self._there:
                    putting = both.task(put(self._work, self._item, self._upload, number, body))
            if putting is None or putting.result():
                self._work.buffers.give(body)

    async def _in_order(self, hashes: InOrder | None) -> None:
        async with crew() as tasks, closing(self._pieces()) as pieces:
            rest = memoryview(b"")
            for number in range(1, self._count + 1):
                length = self._length(number)
                reservation = await self._work.budget.reserve(length)
                try:
                    body = bytearray(length)
                    filled = 0
                    while filled < length:
                        if not rest:
                            rest = memoryview(await anext(pieces, b""))
                            if not rest:
                                raise damaged(self._source, self._blob, (number - 1) * self._size + filled)
                        taken = rest[: length - filled]
                        body[filled : filled + len(taken)] = taken
                        filled, rest = filled + len(taken), rest[len(taken) :]
                    self._work.tell(Read(item=self._item, size=length))
                    if hashes is not None:
                        await hashes.take((number - 1) * self._size, body)
                        if self._count == 1:
                            await self._check(hashes)
                    if number in self._there:
                        continue
                    sending = tasks.task(put(self._work, self._item, self._upload, number, body))
                    handed = reservation.hand_over()
                    sending.add_done_callback(releasing(handed))
                finally:
                    reservation.release()

    def _pieces(self) -> AsyncIterator[bytes]:
        return steadily(self._work, self._item, self._reader, self._blob.size)


async def goes_by_put(work: Work, target: Target, blob: Descriptor) -> bool:
    """Whether the blob goes straight to a bucket that checks it: a session whose part 1 is all of it."""
    if blob.size < PUT_FROM or blob.parsed.algorithm != "sha256" or not isinstance(target, CheckedTarget):
        return False
    return await work.patiently(blob.digest, partial(target.takes_put, blob.size))


async def put(
    work: Work,
    item: str,
    upload: PartUpload,
    number: int,
    body: Buffer,
    *,
    note: Callable[[], None] = lambda: None,
) -> bool:
    """Sends a part, notes that it arrived, and only then tells it: what was told is not sent again.

    Whether it arrived at once: else a connection that was given up may still look at ``body``.
    """
    at_once = True

    def again(error: Unreachable) -> None:
        nonlocal at_once
        at_once = False
        work.again(item)(error)

    await work.outgoing.run(partial(upload.put, number, body), len(body), again)
    note()
    work.tell(Moved(item=item, size=len(body)))
    return at_once


async def complete(
    work: Work,
    item: str,
    upload: PartUpload,
    blob: Descriptor,
    checkpoints: Checkpoints | None,
    *,
    own: bool,
) -> None:
    """``own``: all parts were hashed here, in this session, so that a bucket of this process need not read them."""
    verified = Counted(work, item, Verified)
    if own and isinstance(upload, HashedUpload):
        await work.patiently(item, partial(upload.complete_hashed, blob.parsed, blob.size, checkpoints))
    else:
        await work.patiently(item, partial(upload.complete, blob.parsed, blob.size, checkpoints, verified=verified))
    verified(blob.size)


def releasing(reservation: Reservation) -> Callable[[asyncio.Task[Any]], None]:
    """For the end of a task: a task that is cancelled before it began runs no line of its own."""
    return lambda task: reservation.release()


def damaged(source: Source, blob: Descriptor, size: int | None = None) -> SourceDamaged:
    """``size``: how many bytes came, where that is known."""
    short = size is not None and size != blob.size
    found = f"has {size} bytes instead of {blob.size}" if short else "has other bytes than its digest says"
    return SourceDamaged(f"{source.name} is damaged: blob {blob.digest} {found}; make it, or fetch it, again")
