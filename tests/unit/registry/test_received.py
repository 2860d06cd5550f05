from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.unit.registry.helpers import blob_bytes, interrupted, pieces, standstill

from bucketry.oci.errors import SizeInvalid
from bucketry.registry import BodyInterrupted, Chunk, MemoryBudget
from bucketry.registry.received import receive

PART = 1024
DATA = blob_bytes(1000)


async def taken(
    chunk: Chunk, *, budget: MemoryBudget | None = None, most: int = PART, exact: int | None = None
) -> bytes:
    budget = budget or MemoryBudget(10 * PART)
    try:
        async with receive(chunk, budget, most=most, exact=exact) as body:
            return bytes(body)
    finally:
        assert budget.used == 0


@pytest.mark.parametrize("length", [None, len(DATA)])
@pytest.mark.parametrize("exact", [None, len(DATA)])
@pytest.mark.parametrize("size", [1, 17, 64, 999, 1000])
async def test_a_body_in_whatever_pieces(length: int | None, exact: int | None, size: int) -> None:
    assert await taken(Chunk(pieces(DATA, size), length), exact=exact) == DATA


async def test_a_part_may_be_full() -> None:
    assert await taken(Chunk(pieces(DATA, 100)), most=len(DATA)) == DATA


@pytest.mark.parametrize("length", [0, 999, 1001, 5000])
async def test_another_length_than_announced_is_refused(length: int) -> None:
    with pytest.raises(SizeInvalid):
        await taken(Chunk(pieces(DATA), length), most=10_000)


@pytest.mark.parametrize("length", [None, len(DATA)])
@pytest.mark.parametrize("exact", [999, 1001])
async def test_another_length_than_its_place_has_is_refused(length: int | None, exact: int) -> None:
    with pytest.raises(SizeInvalid):
        await taken(Chunk(pieces(DATA), length), exact=exact)


async def test_no_bytes_are_no_part() -> None:
    for length in (None, 0):
        with pytest.raises(SizeInvalid):
            await taken(Chunk(pieces(b""), length))


async def test_too_long_is_refused_before_it_is_read() -> None:
    read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read = True
        yield b"x"

    with pytest.raises(SizeInvalid):
        await taken(Chunk(body(), PART + 1))

    assert not read


async def test_an_endless_body_is_refused_once_it_is_too_long() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 64
            yield bytes(64)

    with pytest.raises(SizeInvalid):
        await taken(Chunk(endless()))

    assert read <= PART + 64


async def test_nothing_is_kept_of_a_body_that_is_interrupted() -> None:
    with pytest.raises(BodyInterrupted):
        await taken(Chunk(interrupted(DATA), 2000), most=2000)


async def test_what_is_buffered_is_reserved_and_waits_for_the_budget() -> None:
    budget = MemoryBudget(PART)
    held = await budget.reserve(PART)
    waiting = asyncio.create_task(taken(Chunk(pieces(DATA), len(DATA)), budget=MemoryBudget(PART)))
    assert await waiting == DATA

    async def within() -> int:
        async with receive(Chunk(pieces(DATA), len(DATA)), budget, most=PART, exact=None):
            return budget.used

    blocked = asyncio.create_task(within())
    await standstill()
    assert not blocked.done()
    held.release()
    assert await blocked == len(DATA)
    assert budget.used == 0


async def test_a_small_body_waits_for_nobody() -> None:
    budget = MemoryBudget(PART)
    await budget.reserve(PART)

    async with receive(Chunk(pieces(DATA[:60])), budget, most=PART, exact=None) as body:
        assert bytes(body) == DATA[:60]


async def test_a_part_that_is_in_memory_already_is_not_copied() -> None:
    budget = MemoryBudget(PART)
    await budget.reserve(PART)

    async with receive(Chunk(pieces(DATA, len(DATA)), len(DATA)), budget, most=PART, exact=None) as body:
        assert isinstance(body, memoryview)
        assert body.obj is not None
        assert bytes(body) == DATA
        assert budget.used == PART
