from __future__ import annotations

import asyncio
import random

import pytest

from bucketry.registry import sharing
from bucketry.registry.sharing import SharedReads


class Source:
    """A value that changes, and reads of it that take as long as the test says."""

    def __init__(self) -> None:
        self.value = 0
        self.reads = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def read(self, key: str) -> int:
        self.reads += 1
        seen = self.value
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return seen


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_herd_costs_two_reads() -> None:
    source = Source()
    shared = SharedReads(source.read)
    readers = [asyncio.create_task(shared.get("k")) for _ in range(100)]
    await turn()
    source.gate.set()

    assert await asyncio.gather(*readers) == [0] * 100
    assert source.reads <= 2


async def test_who_asks_after_a_write_sees_it_though_an_older_read_is_under_way() -> None:
    source = Source()
    shared = SharedReads(source.read)
    early = asyncio.create_task(shared.get("k"))
    await turn()
    source.value = 1
    late = [asyncio.create_task(shared.get("k")) for _ in range(10)]
    await turn()
    source.gate.set()

    assert await early == 0
    assert await asyncio.gather(*late) == [1] * 10
    assert source.reads == 2


async def test_nothing_is_kept_between_reads() -> None:
    source = Source()
    source.gate.set()
    shared = SharedReads(source.read)

    assert await shared.get("k") == 0
    source.value = 5
    assert await shared.get("k") == 5
    await turn()
    assert shared._herds == {}
    assert shared._readings == set()


async def test_a_herd_that_comes_back_gathers_for_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one read for the first that is back, and one for all others."""
    monkeypatch.setattr(sharing, "GATHER", 0.3)
    source = Source()
    source.gate.set()
    shared = SharedReads(source.read)

    async def client() -> None:
        for _ in range(10):
            await shared.get("k")

    async with asyncio.timeout(20):
        await asyncio.gather(*(client() for _ in range(8)))

    assert source.reads == 1 + 10  # the first one alone, then all that were there


async def test_who_does_not_come_back_is_not_waited_for_long() -> None:
    source = Source()
    source.gate.set()
    shared = SharedReads(source.read)
    await asyncio.gather(*(shared.get("k") for _ in range(8)))

    async with asyncio.timeout(20):
        assert await shared.get("k") == 0
        while shared._herds:
            await asyncio.sleep(sharing.GATHER)


async def test_who_is_alone_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "GATHER", 60.0)
    source = Source()
    source.gate.set()
    shared = SharedReads(source.read)

    async with asyncio.timeout(20):
        for _ in range(20):
            await shared.get("k")

    assert source.reads == 20
    await turn()
    assert shared._herds == {}


async def test_keys_do_not_wait_for_each_other() -> None:
    source = Source()

    async def read(key: str) -> int:
        return await source.read(key) if key == "slow" else 7

    shared = SharedReads(read)
    slow = asyncio.create_task(shared.get("slow"))
    await turn()

    assert await shared.get("fast") == 7
    source.gate.set()
    assert await slow == 0


async def test_an_error_is_everyones_and_ends_there() -> None:
    source = Source()
    source.error = ValueError("down")
    shared = SharedReads(source.read)
    readers = [asyncio.create_task(shared.get("k")) for _ in range(3)]
    await turn()
    source.gate.set()
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert [str(result) for result in results] == ["down"] * 3

    source.error = None
    assert await shared.get("k") == 0


@pytest.mark.parametrize("gone", [0, 1, 2])
async def test_a_reader_that_goes_away_takes_the_read_from_nobody(gone: int) -> None:
    source = Source()
    shared = SharedReads(source.read)
    readers = []
    for _ in range(3):
        readers.append(asyncio.create_task(shared.get("k")))
        await turn()
    readers[gone].cancel()
    await turn()
    source.gate.set()

    results = await asyncio.gather(*readers, return_exceptions=True)

    assert [result == 0 for result in results] == [index != gone for index in range(3)]


async def test_an_error_that_nobody_waits_for_any_more_is_no_complaint() -> None:
    source = Source()
    source.error = ValueError("down")
    shared = SharedReads(source.read)
    reader = asyncio.create_task(shared.get("k"))
    await turn()
    reader.cancel()
    source.gate.set()
    await turn()

    assert shared._herds == {}


async def test_at_random_nobody_is_answered_from_before_he_asked() -> None:
    chance = random.Random(3)
    value = 0

    async def read(key: str) -> int:
        for _ in range(chance.randint(0, 3)):
            await asyncio.sleep(0)
        seen = value
        for _ in range(chance.randint(0, 3)):
            await asyncio.sleep(0)
        return seen

    shared = SharedReads(read)

    async def reader() -> None:
        for _ in range(20):
            at_least = value
            assert await shared.get("k") >= at_least
            for _ in range(chance.randint(0, 2)):
                await asyncio.sleep(0)

    async def writer() -> None:
        nonlocal value
        for _ in range(100):
            value += 1
            await asyncio.sleep(0)

    await asyncio.gather(writer(), *(reader() for _ in range(20)))
