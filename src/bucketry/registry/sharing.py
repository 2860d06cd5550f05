"""A herd that reads one key costs the store a few reads, not one each, and nobody is answered from the past."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")
Read: TypeAlias = Callable[[str], Coroutine[Any, Any, T]]


class SharedReads(Generic[T]):
    """Readers that wait for the same key share the *next* read of it: one that starts after they arrived.

    So each still sees every write that was acknowledged before it asked, as if it had read alone.
    """

    def __init__(self, read: Read[T]) -> None:
        self._read = read
        self._following: dict[str, list[asyncio.Future[asyncio.Task[T]]]] = {}
        """Keys that are being read now, each with those that wait for the next read."""
        self._readings: set[asyncio.Task[T]] = set()

    async def get(self, key: str) -> T:
        """What ``read(key)`` gives or raises."""
        # A future of its own: a reader that goes away must not take the read from the others.
        answer: asyncio.Future[asyncio.Task[T]] = asyncio.get_running_loop().create_future()
        following = self._following.get(key)
        if following is None:
            self._following[key] = []
            self._begin(key, [answer])
        else:
            following.append(answer)
        return (await answer).result()

    def _begin(self, key: str, readers: list[asyncio.Future[asyncio.Task[T]]]) -> None:
        reading = asyncio.get_running_loop().create_task(self._read(key))
        self._readings.add(reading)
        reading.add_done_callback(partial(self._end, key, readers))

    def _end(self, key: str, readers: list[asyncio.Future[asyncio.Task[T]]], reading: asyncio.Task[T]) -> None:
        self._readings.discard(reading)
        if not reading.cancelled():
            reading.exception()  # Every reader may be gone: then nobody else looks at it.
        for answer in readers:
            if not answer.done():
                answer.set_result(reading)
        following = self._following.pop(key)
        if following:
            self._following[key] = []
            self._begin(key, following)
