"""A herd that reads one key costs the store a few reads, not one each, and nobody is answered from the past."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")
Read: TypeAlias = Callable[[str], Coroutine[Any, Any, T]]


class SharedReads(Generic[T]):
    """Readers that wait for the same key share the *next* read of it: one that starts after they arrived.

    So each still sees every write that was acknowledged before it asked, as if it had read alone.
    """

    def __init__(self, read: Read[T]) -> None:
        self._read = read
        self._following: dict[str, asyncio.Future[asyncio.Task[T]] | None] = {}
        """Keys that are being read now, each with what the next read will answer, if anyone waits for it."""
        self._runs: set[asyncio.Task[None]] = set()

    async def get(self, key: str) -> T:
        """What ``read(key)`` gives or raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[asyncio.Task[T]] | None
        if key not in self._following:
            self._following[key] = None
            answer = loop.create_future()
            run = loop.create_task(self._run(key, answer))
            self._runs.add(run)
            run.add_done_callback(self._runs.discard)
        else:
            answer = self._following[key]
            if answer is None:
                answer = self._following[key] = loop.create_future()
        # A reader that goes away must not take the read from the others.
        return (await asyncio.shield(answer)).result()

    async def _run(self, key: str, answer: asyncio.Future[asyncio.Task[T]] | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            while answer is not None:
                reading = loop.create_task(self._read(key))
                await asyncio.wait((reading,))
                if not reading.cancelled():
                    reading.exception()  # Every reader may be gone: then nobody else looks at it.
                answer.set_result(reading)
                answer = self._following[key]
                self._following[key] = None
        finally:
            del self._following[key]
