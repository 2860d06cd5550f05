"""Work that several wait for is done once, and that it was done is remembered, of the last so many."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Remembered(Generic[K]):
    """The last ``most`` keys. ``forgot`` says whether there were more: what is not in it may have been then."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys: OrderedDict[K, None] = OrderedDict()
        self.forgot = False

    def __contains__(self, key: K) -> bool:
        if key not in self._keys:
            return False
        self._keys.move_to_end(key)
        return True

    def add(self, key: K) -> None:
        self._keys[key] = None
        self._keys.move_to_end(key)
        if len(self._keys) > self._most:
            self._keys.popitem(last=False)
            self.forgot = True


class Once(Generic[K, T]):
    """Whoever asks while the work for a key is under way waits for that: nobody waits for a free place meanwhile."""

    def __init__(self) -> None:
        self._under_way: dict[K, asyncio.Task[T]] = {}

    async def do(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What ``work`` gives, and raises to all that wait for it.

        Who is cancelled while it waits ends the work for all: whatever cancels one here ends the whole run.
        """
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(work())
            self._under_way[key] = task
            task.add_done_callback(lambda ended: self._end(key, ended))
        return await task

    def _end(self, key: K, task: asyncio.Task[T]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # Who waited may have been cancelled just now: then nobody else looks at it.
