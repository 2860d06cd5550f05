from __future__ import annotations

import asyncio
import random

import pytest

from bucketry.registry.budget import MemoryBudget


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_fits_is_granted_at_once_and_what_does_not_waits() -> None:
    budget = MemoryBudget(10)
    first = await budget.reserve(6)
    waiting = asyncio.create_task(budget.reserve(5))
    await settled()
    assert (budget.used, waiting.done()) == (6, False)

    first.release()

    second = await waiting
    assert budget.used == 5
    second.release()
    assert budget.used == 0


async def test_first_come_first_served_so_that_a_large_wish_is_not_starved() -> None:
    budget = MemoryBudget(10)
    first = await budget.reserve(6)
    large = asyncio.create_task(budget.reserve(8))
    await settled()
    small = asyncio.create_task(budget.reserve(1))
    await settled()
    assert not small.done(), "it would fit, and waits behind the large one"

    first.release()
    await settled()

    assert large.done()
    assert small.done()
    assert budget.used == 9


async def test_more_than_all_is_granted_alone() -> None:
    budget = MemoryBudget(10)
    first = await budget.reserve(1)
    huge = asyncio.create_task(budget.reserve(50))
    await settled()
    assert not huge.done()

    first.release()

    (await huge).release()
    assert budget.used == 0


async def test_releasing_twice_frees_once() -> None:
    budget = MemoryBudget(10)
    kept = await budget.reserve(3)
    with await budget.reserve(4) as other:
        other.release()
        other.release()
        assert budget.used == 3

    assert budget.used == 3
    kept.release()
    assert budget.used == 0


async def test_what_was_handed_over_is_the_receivers() -> None:
    budget = MemoryBudget(10)
    with await budget.reserve(4) as mine:
        theirs = mine.hand_over()

    assert budget.used == 4
    theirs.release()
    assert budget.used == 0


@pytest.mark.parametrize("granted", [False, True])
async def test_one_who_gives_up_waiting_takes_nothing(granted: bool) -> None:
    budget = MemoryBudget(10)
    first = await budget.reserve(10)
    waiting = asyncio.create_task(budget.reserve(10))
    behind = asyncio.create_task(budget.reserve(2))
    await settled()
    if granted:
        first.release()  # Its turn has come, and it does not know yet.
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    first.release()
    await settled()

    assert behind.done()
    assert budget.used == 2


async def test_at_random_it_is_never_over_and_nobody_waits_for_ever() -> None:
    chance = random.Random(7)
    budget = MemoryBudget(20)
    over = []

    async def use(size: int, turns: int, patience: int | None) -> None:
        reserving = asyncio.ensure_future(budget.reserve(size))
        if patience is not None:
            for _ in range(patience):
                await asyncio.sleep(0)
            reserving.cancel()
        try:
            reservation = await reserving
        except asyncio.CancelledError:
            return
        over.append(budget.used > 20 and budget.used != size)
        for _ in range(turns):
            await asyncio.sleep(0)
        reservation.release()

    async with asyncio.timeout(60):
        await asyncio.gather(
            *(
                use(chance.randint(1, 25), chance.randint(0, 5), chance.choice([None, None, chance.randint(0, 40)]))
                for _ in range(500)
            )
        )

    assert not any(over)
    assert budget.used == 0
