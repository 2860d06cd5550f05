"""A look at a store, while something else is on its way."""

from __future__ import annotations

import asyncio
import time

import pytest

from bucketry.store.memory import MemoryStore
from bucketry.transfer.errors import Refused, Unreachable
from bucketry.transfer.judging import Judging, judge


async def test_a_good_store_passes() -> None:
    judging = Judging(lambda: judge(MemoryStore(), clock=time.time))

    await judging.passed()
    await judging.passed()

    assert not judging.refused
    await judging.close()


async def test_a_refusal_is_told_each_time() -> None:
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        raise Refused("no")

    judging = Judging(look)
    for _ in range(2):
        with pytest.raises(Refused):
            await judging.passed()

    assert judging.refused
    assert looks == 1
    await judging.close()


async def test_a_look_that_failed_is_made_again() -> None:
    failures = [Unreachable("later")]

    async def look() -> None:
        if failures:
            raise failures.pop()

    judging = Judging(look)
    with pytest.raises(Unreachable):
        await judging.passed()
    await judging.passed()

    assert not judging.refused


async def test_whoever_waits_may_give_up_and_the_look_goes_on() -> None:
    release = asyncio.Event()
    judging = Judging(release.wait)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(judging.passed(), 0.01)
    release.set()

    await judging.passed()


async def test_closing_ends_the_look() -> None:
    judging = Judging(asyncio.Event().wait)

    await judging.close()

    assert not judging.refused
    assert len(asyncio.all_tasks()) == 1
