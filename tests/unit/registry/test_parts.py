from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.registry.helpers import FakeClock, blob_bytes, interrupted, memory_store, pieces, standstill

from bucketry import hashing
from bucketry.oci import Digest
from bucketry.oci.errors import SizeInvalid
from bucketry.registry import BodyInterrupted, MemoryBudget
from bucketry.registry.parts import PartStream
from bucketry.store.contract import Unavailable
from bucketry.store.faults import Delay, FaultyStore, Refuse, Rule

PART = 32


class Bench:
    """A stream, and what the store and the budget see of it."""

    def __init__(self, *, memory: int = 8 * PART, parallel: int = 3, **options: Any) -> None:
        self.store = FaultyStore(memory_store(FakeClock()))
        self.budget = MemoryBudget(memory)
        self.most = 0
        self.stream = PartStream(
            self.store,
            self.budget,
            hashing.new("sha256"),
            key="data/ab/abc",
            part_size=PART,
            parallel=parallel,
            **options,
        )

    async def body(self, data: bytes, size: int = 7) -> AsyncIterator[bytes]:
        async for piece in pieces(data, size):
            self.most = max(self.most, self.budget.used)
            yield piece

    async def complete(self) -> bytes:
        """What the store has when the rest was shipped, as the object it makes."""
        if self.stream.rest():
            await self.stream.ship()
        await self.stream.settle()
        assert self.stream.upload is not None
        await self.store.complete_multipart(self.stream.key, self.stream.upload, self.stream.shipped)
        return (await self.store.get(self.stream.key)).body


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5 * PART), st.integers(1, 3 * PART), st.booleans(), st.integers(1, 4))
def test_any_body_in_any_pieces_is_hashed_and_sent_as_it_is(size: int, piece: int, told: bool, parallel: int) -> None:
    data = blob_bytes(size)

    async def run() -> None:
        bench = Bench(parallel=parallel)
        stream = bench.stream
        assert await stream.feed(bench.body(data, piece), length=size if told else None) is None
        await stream.settle()
        assert stream.size == size
        # A full part leaves only when more follows: the last one is always at hand.
        assert len(stream.shipped) == max(0, (size - 1) // PART)
        assert bytes(stream.rest()) == data[len(stream.shipped) * PART :]
        if size > PART:
            assert await bench.complete() == data
        else:
            assert (stream.upload, bench.store.log) == (None, [])
            await stream.settle()
        assert Digest("sha256", stream.hasher.hexdigest()) == Digest.of(data)
        stream.release()
        assert bench.budget.used == 0

    asyncio.run(run())


async def test_parts_that_arrive_out_of_order_are_named_in_order() -> None:
    bench = Bench()
    gate = asyncio.Event()
    bench.store.add(Rule(Delay(until=gate), operation="put_part"))
    data = blob_bytes(4 * PART + 1)
    feeding = asyncio.create_task(bench.stream.feed(bench.body(data), length=None))
    await standstill()
    gate.set()
    await feeding

    assert await bench.complete() == data
    assert [part.number for part in bench.stream.shipped] == [1, 2, 3, 4, 5]


async def test_no_more_parts_are_under_way_than_allowed_and_no_more_memory_is_taken() -> None:
    bench = Bench(parallel=2)
    gate = asyncio.Event()
    bench.store.add(Rule(Delay(until=gate), operation="put_part", times=None))
    feeding = asyncio.create_task(bench.stream.feed(bench.body(blob_bytes(20 * PART)), length=None))
    await standstill()

    assert bench.store.calls["put_part"] == 2
    assert bench.budget.used == 3 * PART
    gate.set()
    await feeding
    await bench.stream.settle()
    bench.stream.release()
    assert bench.budget.used == 0
    assert bench.most <= 3 * PART


async def test_a_budget_of_one_part_is_enough() -> None:
    bench = Bench(memory=PART)
    data = blob_bytes(10 * PART + 5)
    await bench.stream.feed(bench.body(data), length=None)

    assert await bench.complete() == data
    assert 0 < bench.most <= PART


async def test_a_small_body_reserves_no_more_than_it_has() -> None:
    bench = Bench()
    await bench.stream.feed(bench.body(bytes(10)), length=10)

    assert bench.budget.used <= 10


async def test_a_stream_goes_on_where_another_ended() -> None:
    data = blob_bytes(5 * PART)
    hasher = hashing.new("sha256")
    first = Bench()
    await first.stream.feed(first.body(data[: 2 * PART + 10]), length=None)
    await first.stream.settle()
    asked: list[int] = []

    async def numbers() -> tuple[int, int]:
        asked.append(7 + 2 * len(asked))
        return asked[-1], asked[-1] + 1

    hasher.update(data[: 2 * PART + 10])
    second = PartStream(
        first.store,
        first.budget,
        hasher,
        key=first.stream.key,
        part_size=PART,
        parallel=2,
        offset=2 * PART,
        tail=first.stream.rest(),
        upload=first.stream.upload,
        first_number=3,
        numbers=numbers,
    )
    await second.feed(pieces(data[2 * PART + 10 :]), length=None)
    await second.ship()
    await second.settle()
    assert second.upload is not None
    await first.store.complete_multipart(second.key, second.upload, first.stream.shipped + second.shipped)

    assert (await first.store.get(second.key)).body == data
    assert [part.number for part in second.shipped] == [7, 8, 9]
    assert asked == [7, 9]
    assert second.hasher.hexdigest() == Digest.of(data).hex
    assert not second.made_upload, "it is not this stream's to abort"


async def test_an_interruption_is_handed_back_with_what_came_before() -> None:
    bench = Bench()

    interruption = await bench.stream.feed(interrupted(blob_bytes(50)), length=1000)

    assert isinstance(interruption, BodyInterrupted)
    assert bench.stream.size == 50


@pytest.mark.parametrize("length", [0, 1, PART, 99])
async def test_more_than_was_announced_is_refused(length: int) -> None:
    bench = Bench()

    with pytest.raises(SizeInvalid, match=str(length)):
        await bench.stream.feed(bench.body(blob_bytes(100), 100), length=length)


@pytest.mark.parametrize("part", [0, 1, 2])
async def test_a_part_that_fails_ends_the_stream_and_frees_all(part: int) -> None:
    bench = Bench(parallel=2)
    bench.store.add(Rule(Refuse(), operation="put_part", skip=part))

    async def send() -> None:
        await bench.stream.feed(bench.body(blob_bytes(10 * PART)), length=None)
        await bench.stream.settle()

    with pytest.raises(Unavailable):
        await send()
    assert bench.store.calls["put_part"] <= part + 3, "nothing is sent for long after a failure"

    await bench.stream.discard()

    assert bench.budget.used == 0
    assert await bench.store.inner.list_multiparts() == ()


@pytest.mark.parametrize("moment", range(40))
async def test_a_stream_that_is_given_up_at_any_moment_frees_all(moment: int) -> None:
    bench = Bench(parallel=2)
    feeding = asyncio.create_task(bench.stream.feed(bench.body(blob_bytes(10 * PART)), length=None))
    for _ in range(moment):
        await asyncio.sleep(0)
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)

    await bench.stream.discard()

    assert bench.budget.used == 0
    if bench.stream.upload is not None:  # Else its id was on the way: the sweeper finds it.
        assert await bench.store.inner.list_multiparts() == ()


async def test_discarding_when_the_store_is_down_frees_the_memory_all_the_same() -> None:
    bench = Bench()
    await bench.stream.feed(bench.body(blob_bytes(3 * PART)), length=None)
    bench.store.add(Rule(Refuse(), operation="abort_multipart"))

    await bench.stream.discard()

    assert bench.budget.used == 0
