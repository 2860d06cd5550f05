"""Tasks that stand or fall together, and threads that nobody leaves behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from bucketry.transfer.crew import closing, crew, in_thread
from bucketry.transfer.errors import Refused


async def test_the_first_failure_cancels_the_rest_and_is_raised_itself() -> None:
    ended: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("waits")

    async def fails() -> None:
        try:
            raise OSError("below")
        except OSError as error:
            raise Refused("no") from error

    async def both() -> None:
        async with crew() as tasks:
            await tasks.begin(waits)
            await tasks.begin(fails)

    with pytest.raises(Refused, match="no") as raised:
        await both()

    assert ended == ["waits"]
    assert isinstance(raised.value.__cause__, OSError)


async def test_a_failure_inside_a_failure() -> None:
    async def inner() -> None:
        async with crew() as tasks:
            await tasks.begin(innermost)

    async def innermost() -> None:
        async with crew() as tasks:
            await tasks.begin(fails)

    async def fails() -> None:
        raise Refused("deep")

    with pytest.raises(Refused, match="deep"):
        await inner()


async def test_at_most_so_many_at_once() -> None:
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    async with crew(3) as tasks:
        for _ in range(20):
            await tasks.begin(work)

    assert most == 3


async def test_a_body_that_waits_for_a_place_is_cancelled_by_a_failure() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise Refused("no")

    async def waits() -> None:
        async with crew(1) as tasks:
            await tasks.begin(fails)
            await tasks.begin(asyncio.Event().wait)

    with pytest.raises(Refused):
        await waits()


async def test_cancelling_waits_for_the_thread() -> None:
    ended = threading.Event()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        time.sleep(0.05)
        ended.set()

    task = asyncio.create_task(in_thread(work))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ended.is_set()


async def test_what_a_thread_raises_is_raised() -> None:
    def work() -> None:
        raise Refused("no")

    with pytest.raises(Refused):
        await in_thread(work)


async def test_closing_closes_at_once() -> None:
    closed = False

    async def pieces() -> AsyncIterator[int]:
        nonlocal closed
        try:
            yield 1
            yield 2
        finally:
            closed = True

    async with closing(pieces()) as numbers:
        assert await anext(numbers) == 1

    assert closed
