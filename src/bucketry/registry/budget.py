"""One budget for the part buffers of all uploads: memory is bounded by configuration, not by input (invariant 8)."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType


class MemoryBudget:
    """Bytes that uploads reserve before they buffer. First come, first served, so a large wish is not starved."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def reserve(self, size: int) -> Reservation:
        """Waits until ``size`` bytes are free. More than the whole budget is granted when nothing else is in use."""
        if not self._waiting and self._fits(size):
            self.used += size
            return Reservation(self, size)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free(size)
            else:
                self._grant()
            raise
        return Reservation(self, size)

    def _fits(self, size: int) -> bool:
        return self.used + size <= self.total or self.used == 0

    def _free(self, size: int) -> None:
        self.used -= size
        self._grant()

    def _grant(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if turn.cancelled():
                self._waiting.popleft()
                continue
            if not self._fits(size):
                return
            self._waiting.popleft()
            self.used += size
            turn.set_result(None)


class Reservation:
    """Part of a budget; ``release`` may be called more than once."""

    def __init__(self, budget: MemoryBudget, size: int) -> None:
        self._budget = budget
        self._size = size

    def release(self) -> None:
        size, self._size = self._size, 0
        if size:
            self._budget._free(size)

    def hand_over(self) -> Reservation:
        """The same bytes as a reservation of the callee's; this one holds none any more."""
        size, self._size = self._size, 0
        return Reservation(self._budget, size)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
