"""A stream of pieces of any size, cut into parts of one size."""

from __future__ import annotations

from collections.abc import AsyncIterator


class Cutter:
    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._held: list[memoryview] = []

    async def more(self) -> bool:
        """Whether a byte follows. It is waited for."""
        while not self._held:
            piece = await anext(self._pieces, None)
            if piece is None:
                return False
            if piece:
                self._held.append(memoryview(piece))
        return True

    async def fill(self, size: int) -> bytearray:
        """The next ``size`` bytes; fewer only at the end."""
        body = bytearray(size)
        filled = 0
        while filled < size and await self.more():
            piece = self._held.pop()
            taken = piece[: size - filled]
            body[filled : filled + len(taken)] = taken
            filled += len(taken)
            if len(taken) < len(piece):
                self._held.append(piece[len(taken) :])
        del body[filled:]
        return body

    def put_back(self, body: bytearray) -> None:
        """``body`` comes next, again."""
        if body:
            self._held.append(memoryview(body))

    async def rest(self) -> AsyncIterator[memoryview]:
        while await self.more():
            yield self._held.pop()
