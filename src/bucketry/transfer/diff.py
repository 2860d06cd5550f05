"""Diff ids: the digest of a layer's uncompressed tar, whatever form it comes in (image spec, "Layer DiffID")."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from bucketry import hashing
from bucketry.oci import Digest
from bucketry.transfer.compress import decompress
from bucketry.transfer.crew import closing, in_thread

MOST: Final = 2**44
"""Bytes of a layer's tar: 16 TiB."""

_HASH_IN_THREAD: Final = 256 * 1024


class DiffHash:
    """Hashes a layer while it passes. ``packed``: what passes is compressed, and is unpacked on the side for it."""

    def __init__(self, *, packed: bool) -> None:
        self._packed = packed
        self._hasher = hashing.new("sha256")

    def diff_id(self) -> Digest:
        """Once all of it passed."""
        return Digest("sha256", self._hasher.hexdigest())

    async def through(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same pieces. Raises `SourceDamaged` where they cannot be unpacked. Ends ``pieces`` when it ends."""
        async with closing(pieces), closing(self._unpacking(pieces) if self._packed else self._hashing(pieces)) as same:
            async for piece in same:
                yield piece

    async def _hashing(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in pieces:
            await self._take(piece)
            yield piece

    async def _unpacking(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        given: asyncio.Queue[bytes] = asyncio.Queue(1)
        unpacking = asyncio.create_task(self._unpack(given))
        try:
            async for piece in pieces:
                if piece:
                    await _give(given, piece, unpacking)
                    yield piece
            await _give(given, b"", unpacking)
            await unpacking
        finally:
            unpacking.cancel()
            await asyncio.wait((unpacking,))

    async def _unpack(self, given: asyncio.Queue[bytes]) -> None:
        async def packed() -> AsyncIterator[bytes]:
            while piece := await given.get():
                yield piece

        async with closing(decompress(packed(), most=MOST)) as pieces:
            async for piece in pieces:
                await self._take(piece)

    async def _take(self, piece: bytes) -> None:
        if len(piece) < _HASH_IN_THREAD:
            self._hasher.update(piece)
        else:
            await in_thread(self._hasher.update, piece)


async def _give(queue: asyncio.Queue[bytes], piece: bytes, taker: asyncio.Task[None]) -> None:
    """Puts the piece into the queue, unless nobody will take it any more: then raises why."""
    giving = asyncio.ensure_future(queue.put(piece))
    try:
        await asyncio.wait((giving, taker), return_when=asyncio.FIRST_COMPLETED)
    finally:
        giving.cancel()
    if taker.done():
        taker.result()
