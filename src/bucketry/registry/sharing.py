"""A herd that reads one key costs the store a few reads, not one each, and nobody is answered from the past."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")
Read: TypeAlias = Callable[[str], Coroutine[Any, Any, T]]


GATHER = 0.002
"""Seconds, at most, that a herd is let gather between two reads of its key."""


class _Herd(Generic[T]):
    """Those that wait for the next read of a key, while it is read, or while they gather for it."""

    __slots__ = ("expected", "gathering", "waiting")

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[asyncio.Task[T]]] = []
        self.gathering: asyncio.TimerHandle | None = None
        """Set between two reads."""
        self.expected = 0
        """How many are worth no more waiting: as many as were here when the last read ended."""


class SharedReads(Generic[T]):
    """Readers that wait for the same key share the *next* read of it: one that starts after they arrived.

    So each still sees every write that was acknowledged before it asked, as if it had read alone. A reader that is
    alone does not wait. Where there is a herd, most of those that were just answered are back in a moment (a client
    asks again, or another of its kind does): until as many are there, or `GATHER` is over, the next read waits. Else
    the first one back would have a read for itself, and all others another one.
    """

    def __init__(self, read: Read[T]) -> None:
        self._read = read
        self._herds: dict[str, _Herd[T]] = {}
        """Of keys that are being read now, or are about to be."""
        self._readings: set[asyncio.Task[T]] = set()

    async def get(self, key: str) -> T:
        """What ``read(key)`` gives or raises."""
        # A future of its own: a reader that goes away must not take the read from the others.
        answer: asyncio.Future[asyncio.Task[T]] = asyncio.get_running_loop().create_future()
        herd = self._herds.get(key)
        if herd is None:
            self._herds[key] = _Herd()
            self._begin(key, [answer])
        else:
            herd.waiting.append(answer)
            if herd.gathering is not None and len(herd.waiting) >= herd.expected:
                self._gathered(key, herd)
        return (await answer).result()

    def _begin(self, key: str, readers: list[asyncio.Future[asyncio.Task[T]]]) -> None:
        reading = asyncio.get_running_loop().create_task(self._read(key))
        self._readings.add(reading)
        reading.add_done_callback(partial(self._end, key, readers))

    def _gathered(self, key: str, herd: _Herd[T]) -> None:
        if herd.gathering is not None:
            herd.gathering.cancel()
            herd.gathering = None
        readers, herd.waiting = herd.waiting, []
        if readers:
            self._begin(key, readers)
        else:
            del self._herds[key]

    def _end(self, key: str, readers: list[asyncio.Future[asyncio.Task[T]]], reading: asyncio.Task[T]) -> None:
        self._readings.discard(reading)
        if not reading.cancelled():
            reading.exception()  # Every reader may be gone: then nobody else looks at it.
        for answer in readers:
            if not answer.done():
                answer.set_result(reading)
        herd = self._herds[key]
        herd.expected = len(herd.waiting) + len(readers)
        if herd.expected == 1:
            del self._herds[key]
            return
        herd.gathering = asyncio.get_running_loop().call_later(GATHER, self._gathered, key, herd)
