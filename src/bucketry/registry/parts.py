"""A body on its way into the store: hashed as it arrives, sent as parts of equal size, several in flight at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from bucketry.hashing import Hasher
from bucketry.oci.errors import SizeInvalid
from bucketry.registry.budget import MemoryBudget, Reservation
from bucketry.store.contract import MAX_PARTS, Buffer, Part, Store, StoreError, Unavailable

_HASH_IN_THREAD = 64 * 1024
"""Bytes: below, a hop to a thread costs more than the hash."""


UNRESERVED = 64 * 1024
"""Bytes that a body may bring before it waits for the budget: so a small one never waits for large ones that stall."""


class BodyInterrupted(Exception):
    """Raised by a body's iterator: the client went away or fell silent. What arrived before it is kept."""


class PartStream:
    """Buffers one part at a time; a full one leaves only when more bytes follow, so that the last is always at hand.

    ``offset`` is where ``tail`` begins in the blob; the tail's bytes are hashed already. Parts go to ``upload``
    (made when the first part leaves, where it is None). ``numbers`` gives the first and the last part number to use,
    and is asked again when they are used up; None: all that follow ``first_number``.
    """

    def __init__(
        self,
        store: Store,
        budget: MemoryBudget,
        hasher: Hasher,
        *,
        key: str,
        part_size: int,
        parallel: int,
        offset: int = 0,
        tail: Buffer = b"",
        upload: str | None = None,
        first_number: int = 1,
        numbers: Callable[[], Awaitable[tuple[int, int]]] | None = None,
        reservation: Reservation | None = None,
    ) -> None:
        self.hasher = hasher
        self.key = key
        self.upload = upload
        self.made_upload = False
        """Whether the multipart upload is this stream's own, known to nobody else yet."""
        self.shipped: list[Part] = []
        self.offset = offset
        self.next_number = first_number
        self._last_number = MAX_PARTS if numbers is None else 0
        self._numbers = numbers
        self._store = store
        self._budget = budget
        self.part_size = part_size
        self._turns = asyncio.Semaphore(parallel)
        self._sending: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._hashing: asyncio.Task[None] | None = None
        self._reservation = reservation
        self._buffer = bytearray(tail)
        self._filled = len(tail)
        self._hashed = len(tail)

    @property
    def size(self) -> int:
        """Bytes of the blob up to here."""
        return self.offset + self._filled

    def rest(self) -> memoryview:
        """The bytes that have not left."""
        return memoryview(self._buffer)[: self._filled]

    def rest_is_full(self) -> bool:
        return self._filled == self.part_size

    async def feed(self, body: AsyncIterator[bytes], *, length: int | None) -> BodyInterrupted | None:
        """Takes a body of ``length`` bytes (None: unknown) to its end, or to where it was interrupted.

        Raises `SizeInvalid` for a body longer than that (as soon as it is, so that it takes no more memory than was
        reserved for it) and for a blob of more parts than a store takes, and whatever the store raises.
        """
        if length is not None and self.size + length > MAX_PARTS * self.part_size:
            raise too_many_parts(self.part_size)
        end = None if length is None else self._filled + length
        received = 0
        try:
            async for chunk in body:
                received += len(chunk)
                if length is not None and received > length:
                    raise SizeInvalid(f"the body was announced with {length} bytes and has more")
                view = memoryview(chunk)
                while view:
                    if self.rest_is_full():
                        await self.ship()
                    if self._filled == len(self._buffer):
                        await self._make_room(end)
                    taken = view[: len(self._buffer) - self._filled]
                    self._buffer[self._filled : self._filled + len(taken)] = taken
                    self._filled += len(taken)
                    view = view[len(taken) :]
        except BodyInterrupted as interrupted:
            return interrupted
        return None

    async def _make_room(self, end: int | None) -> None:
        """A buffer for a whole part, or for all there is where that is less; the first bytes get a small one."""
        room = self.part_size
        if end is not None and not self._sending and not self.shipped:
            room = min(room, end)
        if self._reservation is None:
            small = min(UNRESERVED, self.part_size // 16)
            if self._filled < small:
                room = min(room, small)
            else:
                self._reservation = await self._budget.reserve(room)
        kept = self._buffer
        self._buffer = bytearray(room)
        self._buffer[: self._filled] = memoryview(kept)[: self._filled]

    async def ship(self) -> None:
        """Sends the buffered bytes off as the next part."""
        if self.upload is None:
            self.upload = await self._store.create_multipart(self.key, part_size=self.part_size)
            self.made_upload = True
        if self.next_number > self._last_number:
            if self._numbers is None:
                raise too_many_parts(self.part_size)
            self.next_number, self._last_number = await self._numbers()
        await self._turns.acquire()
        if self._failure is not None:
            raise self._failure
        number, self.next_number = self.next_number, self.next_number + 1
        part = self.rest()
        self._hash_rest()
        sending = asyncio.create_task(self._send(number, part, self.offset, self._hashing))
        self._sending.add(sending)
        sending.add_done_callback(partial(self._sent, self._reservation))
        self.offset += len(part)
        self._buffer, self._filled, self._hashed, self._reservation = bytearray(), 0, 0, None

    def _hash_rest(self) -> None:
        fresh = self.rest()[self._hashed :]
        self._hashed = self._filled
        if fresh:
            self._hashing = asyncio.create_task(self._hash(self._hashing, fresh))

    async def _hash(self, before: asyncio.Task[None] | None, fresh: memoryview) -> None:
        if before is not None:
            await before
        if len(fresh) < _HASH_IN_THREAD:
            self.hasher.update(fresh)
        else:
            await asyncio.to_thread(self.hasher.update, fresh)

    async def _send(self, number: int, part: memoryview, offset: int, hashing: asyncio.Task[None] | None) -> None:
        assert self.upload is not None
        etag = await self._store.put_part(self.key, self.upload, number, part, offset=offset)
        if hashing is not None:
            await hashing
        self.shipped.append(Part(number, len(part), etag))

    def _sent(self, reservation: Reservation | None, sending: asyncio.Task[None]) -> None:
        # Here and not in the task, which does not run at all where it is cancelled before it began.
        if reservation is not None:
            reservation.release()
        self._sending.discard(sending)
        self._turns.release()
        failure = Unavailable("a part was given up") if sending.cancelled() else sending.exception()
        if self._failure is None:
            self._failure = failure

    async def settle(self) -> None:
        """Waits until every part that left has arrived and every byte is hashed. Raises what a part raised."""
        self._hash_rest()
        while self._sending:
            await asyncio.wait(tuple(self._sending))
        if self._failure is not None:
            raise self._failure
        if self._hashing is not None:
            await self._hashing
        self.shipped.sort(key=lambda part: part.number)

    async def discard(self) -> None:
        """Stops what is on its way, and frees the memory. An upload of its own is aborted, as far as the store can."""
        for sending in tuple(self._sending):
            sending.cancel()
        if self._sending:
            await asyncio.wait(tuple(self._sending))
        if self._hashing is not None:
            await asyncio.wait((self._hashing,))
        self.release()
        if self.made_upload and self.upload is not None:
            try:
                await self._store.abort_multipart(self.key, self.upload)
            except StoreError:
                pass  # The sweeper finds it later; the caller has a better error to tell.

    def release(self) -> None:
        """Gives the buffer back to the budget."""
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None
        self._buffer, self._filled, self._hashed = bytearray(), 0, 0


def too_many_parts(part_size: int) -> SizeInvalid:
    """The error of a blob that needs more part numbers than a store has; each chunk may use up one of its own."""
    return SizeInvalid(
        f"the blob has more than {MAX_PARTS} parts of {part_size} bytes, or came in too many chunks: "
        "set upload.part_size higher on the registry, or send larger chunks"
    )
