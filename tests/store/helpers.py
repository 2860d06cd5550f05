"""What the store tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from bucketry.store.contract import ListedObject, PreconditionFailed, Store

_T = TypeVar("_T")


async def read_all(store: Store, key: str, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([piece async for piece in store.read(key, start, stop)])


async def list_all(store: Store, prefix: str, *, limit: int = 1000) -> list[ListedObject]:
    """All pages, each checked: never over the limit, never empty with more to come."""
    found: list[ListedObject] = []
    after: str | None = None
    while True:
        page = await store.list(prefix, after=after, limit=limit)
        assert len(page.objects) <= limit
        found += page.objects
        if not page.more:
            return found
        assert page.objects, "an empty page says that there is more"
        after = page.objects[-1].key


async def keys_of(store: Store, prefix: str, *, limit: int = 1000) -> list[str]:
    return [listed.key for listed in await list_all(store, prefix, limit=limit)]


async def winners(attempts: Iterable[Awaitable[_T]]) -> list[_T]:
    """The results of the racing attempts that did not fail their precondition; any other error is raised."""
    results = await asyncio.gather(*attempts, return_exceptions=True)
    won: list[_T] = []
    for result in results:
        if isinstance(result, PreconditionFailed):
            continue
        if isinstance(result, BaseException):
            raise result
        won.append(result)
    return won


async def bounded(work: Iterable[Awaitable[object]], at_once: int = 32) -> None:
    """Awaits all of it, so many at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(each: Awaitable[object]) -> None:
        async with gate:
            await each

    await asyncio.gather(*(one(each) for each in work))
