"""Buffers of parts, used again: the heap gets holes where large ones come and go."""

from __future__ import annotations

from collections import defaultdict

LEAST = 1024 * 1024
"""Bytes: smaller ones are left to the heap."""


class Buffers:
    """``most``: bytes that are kept for others. Whoever takes a buffer has reserved its size before."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = 0
        self._free: dict[int, list[bytearray]] = defaultdict(list)

    def take(self, size: int) -> bytearray:
        """A buffer of that size, with any bytes in it."""
        free = self._free.get(size)
        if free:
            self._kept -= size
            return free.pop()
        # What is kept of other sizes and what is reserved must not add up.
        self._free.clear()
        self._kept = 0
        return bytearray(size)

    def give(self, buffer: bytearray) -> None:
        """Whoever gives it is sure that nobody looks at it any more."""
        size = len(buffer)
        if LEAST <= size <= self._most - self._kept:
            self._kept += size
            self._free[size].append(buffer)
