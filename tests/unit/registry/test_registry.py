from __future__ import annotations

import asyncio
import json

import pytest
import structlog
from tests.unit.registry.helpers import (
    ALICE,
    LONG,
    REPO,
    CountedIds,
    FakeClock,
    blob_bytes,
    open_registry,
    placed,
    push_patch_put,
    small_settings,
    truth,
)

from bucketry.registry import NewerFormat, RandomIds, Registry, SystemClock, layout
from bucketry.store.contract import Corrupt, Unavailable
from bucketry.store.faults import FaultyStore, LoseAnswer, Refuse, Rule
from bucketry.store.memory import MemoryStore


async def test_the_first_to_open_makes_the_registry_and_all_others_find_it(
    inner: MemoryStore, clock: FakeClock
) -> None:
    opened = await asyncio.gather(*(open_registry(inner, clock, replica=replica) for replica in range(1, 9)))

    made = json.loads((await inner.get(layout.FORMAT_KEY)).body)
    assert (made["format"], made["created"]) == (1, clock.now())
    session = opened[0].uploads.begin(REPO, ALICE).session_id
    for each in opened:
        assert (await each.uploads.status(REPO, ALICE, session)).offset == 0


async def test_a_newer_format_is_refused_with_what_to_do(inner: MemoryStore, clock: FakeClock) -> None:
    await inner.put(layout.FORMAT_KEY, b'{"format":2,"registry":"r","created":0,"more":[]}')

    with pytest.raises(NewerFormat, match=r"format 2.*upgrade bucketry"):
        await open_registry(inner, clock)


async def test_a_format_that_cannot_be_read_is_corrupt(inner: MemoryStore, clock: FakeClock) -> None:
    await inner.put(layout.FORMAT_KEY, b"hello")

    with pytest.raises(Corrupt, match=layout.FORMAT_KEY):
        await open_registry(inner, clock)


async def test_opening_again_after_a_lost_answer_finds_the_same_registry(inner: MemoryStore, clock: FakeClock) -> None:
    with pytest.raises(Unavailable):
        await open_registry(FaultyStore(inner, [Rule(LoseAnswer(), operation="put")]), clock)
    made = (await inner.get(layout.FORMAT_KEY)).body

    await open_registry(inner, clock, replica=2)

    assert (await inner.get(layout.FORMAT_KEY)).body == made


async def test_opening_a_store_that_has_a_registry_writes_nothing(inner: MemoryStore, clock: FakeClock) -> None:
    await open_registry(inner, clock)
    view = FaultyStore(inner)

    await open_registry(view, clock, replica=2)

    assert dict(view.calls) == {"get": 1}


async def test_clock_and_ids_have_defaults(inner: MemoryStore) -> None:
    registry = await Registry.open(inner, settings=small_settings())

    first, second = (registry.uploads.begin(REPO, ALICE).session_id for _ in range(2))

    assert first != second
    assert (await registry.uploads.status(REPO, ALICE, first)).offset == 0


def test_the_systems_ids_and_clock_are_what_they_say() -> None:
    ids = RandomIds()
    assert len({ids.token() for _ in range(100)}) == 100
    assert len(ids.token()) == 32
    assert int(ids.token(), 16) >= 0
    assert ids.uuid()[14] == "4"
    assert len({ids.uuid() for _ in range(100)}) == 100
    clock = SystemClock()
    assert clock.now() > 1.6e9
    assert clock.monotonic() <= clock.monotonic()
    assert CountedIds(1).token() != CountedIds(2).token()


async def test_closing_removes_the_sessions_that_ended(registry: Registry, inner: MemoryStore) -> None:
    for size in (10, 1000):
        await push_patch_put(registry, REPO, blob_bytes(size))
    assert len((await truth(inner)).sessions) == 2

    await registry.close()

    assert (await truth(inner)).sessions == set()


async def test_the_chores_sweep_and_outlive_a_store_that_is_down(
    registry: Registry, store: FaultyStore, inner: MemoryStore, clock: FakeClock
) -> None:
    await registry.uploads.append(
        REPO, ALICE, registry.uploads.begin(REPO, ALICE).session_id, placed(b"x", 0), continued=False
    )
    clock.advance(LONG)
    store.add(Rule(Refuse(), operation="list", times=3))
    with structlog.testing.capture_logs() as logs:
        registry.start(sweep_interval=0.001)
        async with asyncio.timeout(60):
            while (await truth(inner)).sessions:
                await asyncio.sleep(0.001)
        await registry.close()

    events = [entry["event"] for entry in logs]
    assert events.count("abandoned upload sessions could not be swept") == 3
    assert "abandoned uploads swept" in events


async def test_closing_a_store_that_is_down_is_no_failure(registry: Registry, store: FaultyStore) -> None:
    await push_patch_put(registry, REPO, b"x")
    store.add(Rule(Refuse(), operation="delete_many", times=None))

    with structlog.testing.capture_logs() as logs:
        await registry.close()

    assert [entry["log_level"] for entry in logs] == ["warning"]
