"""The bytes of a blob from its reader: a range at once, or all of them in spite of connections that break."""

from __future__ import annotations

from collections.abc import AsyncIterator

from bucketry.transfer.contract import BlobReader
from bucketry.transfer.crew import closing
from bucketry.transfer.errors import Unreachable
from bucketry.transfer.pool import backoff
from bucketry.transfer.work import Work


def is_ranged(reader: BlobReader) -> bool:
    """Now: a registry may say that it gives ranges, and be found to send everything."""
    return reader.ranged


async def read_range(reader: BlobReader, start: int, stop: int, body: bytearray | None = None) -> bytearray:
    """Into ``body``, which has just that size, where it is given.

    Raises `Unreachable` where the reader gave fewer or more bytes.
    """
    body = bytearray(stop - start) if body is None else body
    filled = 0
    async with closing(reader.read(start, stop)) as pieces:
        async for piece in pieces:
            end = filled + len(piece)
            if end > len(body):
                break
            body[filled:end] = piece
            filled = end
        else:
            if filled == len(body):
                return body
    raise wrong_length(start, stop)


def wrong_length(start: int, stop: int) -> Unreachable:
    return Unreachable(f"bytes {start} to {stop} were asked for, and another number of bytes came")


async def continued(reader: BlobReader, start: int, stop: int) -> AsyncIterator[bytes]:
    """Bytes ``start`` to ``stop``, of a reader that may have to begin at 0 for that."""
    begin = start if reader.ranged else 0
    skip = start - begin
    async with closing(reader.read(begin, stop)) as pieces:
        async for piece in pieces:
            if skip >= len(piece):
                skip -= len(piece)
                continue
            yield piece[skip:] if skip else piece
            skip = 0


async def steadily(work: Work, item: str, reader: BlobReader, size: int) -> AsyncIterator[bytes]:
    """The ``size`` bytes of a blob in order. What breaks is gone on with where it broke, so often without progress."""
    at = 0
    failures = 0
    while at < size:
        try:
            async with closing(continued(reader, at, size)) as pieces:
                async for piece in pieces:
                    at += len(piece)
                    failures = 0
                    yield piece
            if at < size:
                raise Unreachable(f"the source ended after {at} of {size} bytes")
        except Unreachable as error:
            failures += 1
            if failures > work.settings.retries:
                raise
            work.again(item)(error)
            await work.timing.sleep(backoff(failures, error.retry_after, work.timing.random()))
