"""The body of a part, whole in memory: bounded by the part's size and by the budget."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bucketry.oci.errors import SizeInvalid
from bucketry.registry.budget import MemoryBudget, Reservation
from bucketry.registry.chunks import Chunk
from bucketry.registry.parts import UNRESERVED
from bucketry.store.contract import Buffer


@asynccontextmanager
async def receive(chunk: Chunk, budget: MemoryBudget, *, most: int, exact: int | None) -> AsyncIterator[Buffer]:
    """The body, which has at least one byte, at most ``most``, and ``exact`` where that is known.

    Raises `SizeInvalid` as soon as it is clear; `BodyInterrupted` as the body does, and nothing is kept of it.
    """
    wanted = exact if exact is not None else chunk.length
    if chunk.length is not None:
        _check_size(chunk.length, most=most, exact=exact)
    room = most if wanted is None else wanted
    small = min(UNRESERVED, most // 16)
    buffer: Buffer = b""
    reservation: Reservation | None = None
    filled = 0
    try:
        async for piece in chunk.body:
            if filled + len(piece) > room:
                raise SizeInvalid(f"the body has more than the {room} bytes that it may have")
            if not filled and len(piece) == room:
                buffer = piece  # All of it is in memory already.
            else:
                if reservation is None and filled + len(piece) > small:
                    reservation = await budget.reserve(room)
                    buffer = _longer(buffer, filled, room)
                elif filled + len(piece) > len(buffer):
                    buffer = _longer(buffer, filled, min(room, max(small, filled + len(piece))))
                assert isinstance(buffer, bytearray)
                buffer[filled : filled + len(piece)] = piece
            filled += len(piece)
        if chunk.length is not None and filled != chunk.length:
            raise SizeInvalid(f"the body was announced with {chunk.length} bytes and had {filled}")
        _check_size(filled, most=most, exact=exact)
        yield memoryview(buffer)[:filled]
    finally:
        if reservation is not None:
            reservation.release()


def _longer(buffer: Buffer, filled: int, size: int) -> bytearray:
    longer = bytearray(size)
    longer[:filled] = memoryview(buffer)[:filled]
    return longer


def _check_size(size: int, *, most: int, exact: int | None) -> None:
    if exact is not None and size != exact:
        raise SizeInvalid(f"the part has {size} bytes, and {exact} belong there", detail={"expected": exact})
    if not 0 < size <= most:
        raise SizeInvalid(f"the part has {size} bytes: parts of this upload have 1 to {most}", detail={"most": most})
