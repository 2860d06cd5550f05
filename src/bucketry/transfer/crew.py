"""Tasks that stand or fall together, and work in threads that nobody leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Crew:
    """Begins tasks; at most ``most`` of them at once, where it is given."""

    def __init__(self, group: asyncio.TaskGroup, most: int | None) -> None:
        self._group = group
        self._places = None if most is None else asyncio.Semaphore(most)

    async def begin(self, work: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Waits for a free place, then begins the task."""
        if self._places is None:
            self._group.create_task(work(*args, **kwargs))
            return
        await self._places.acquire()
        places = self._places
        self._group.create_task(work(*args, **kwargs)).add_done_callback(lambda task: places.release())

    def task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begins it at once, whatever ``most`` says."""
        return self._group.create_task(work)


@asynccontextmanager
async def crew(most: int | None = None) -> AsyncIterator[Crew]:
    """Ends when all its tasks have. The first failure, of a task or of the body, cancels the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            yield Crew(group, most)
    except BaseExceptionGroup as failures:
        first = _first(failures)
        raise first from first.__cause__


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `asyncio.to_thread`, but where it is cancelled it waits for the thread: what that uses may be freed after."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            try:
                await asyncio.wait((running,))
            except asyncio.CancelledError:
                continue
        if not running.cancelled():
            running.exception()
        raise


@asynccontextmanager
async def closing(pieces: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Closes an iterator where it can be closed: what it holds is freed at once, not when it is collected."""
    try:
        yield pieces
    finally:
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()
