"""Bodies of requests: a buffer that is sent where it lies, and a stream of a known length."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from bucketry.transfer.contract import Buffer
from bucketry.transfer.errors import SourceDamaged

PIECE: Final = 256 * 1024
"""Bytes handed to a connection at a time: what it may copy of a body at once."""

_FIRST: Final = 16 * 1024
"""Bytes of the first piece, which is joined with the headers."""

_TYPE: Final = "application/octet-stream"


class Whole(aiohttp.Payload):
    """A buffer, sent slice by slice and never copied as a whole. It can be sent again.

    ``stall``: seconds that the other side may take no byte; a read timeout begins only after the body.
    """

    _autoclose = True

    def __init__(self, body: Buffer, *, stall: float) -> None:
        view = memoryview(body)
        if view.nbytes and (view.format != "B" or view.ndim != 1):
            view = view.cast("B")
        super().__init__(view, content_type=_TYPE)
        self._size = view.nbytes
        self._stall = stall

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        view: memoryview = self._value
        begin, end = 0, min(view.nbytes, _FIRST)
        while begin < view.nbytes:
            async with asyncio.timeout(self._stall):
                await writer.write(view[begin:end])
            begin, end = end, min(end + PIECE, view.nbytes)


class Stream(aiohttp.Payload):
    """Exactly ``size`` bytes from an iterator. It can be sent once.

    ``failure`` is what the iterator raised, or that it gave another number of bytes: the connection is given up then,
    and whoever sees that looks here for the reason.
    """

    _autoclose = True

    def __init__(self, pieces: AsyncIterator[bytes], size: int, *, stall: float) -> None:
        super().__init__(pieces, content_type=_TYPE)
        self._size = size
        self._stall = stall
        self.failure: Exception | None = None

    @property
    def begun(self) -> bool:
        return self._consumed

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a stream is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._consumed = True
        size, sent = self._size or 0, 0
        while (piece := await self._next()) is not None:
            sent += len(piece)
            if sent > size:
                raise self._damaged(f"the source gave more than the {size} bytes it spoke of")
            with memoryview(piece) as view:
                for begin in range(0, len(view), PIECE):
                    async with asyncio.timeout(self._stall):
                        await writer.write(view[begin : begin + PIECE])
        if sent < size:
            raise self._damaged(f"the source gave {sent} bytes, and spoke of {size}")

    async def _next(self) -> bytes | None:
        pieces: AsyncIterator[bytes] = self._value
        try:
            return await anext(pieces, None)
        except Exception as error:
            self.failure = error
            raise

    def _damaged(self, message: str) -> SourceDamaged:
        self.failure = SourceDamaged(message)
        return self.failure
