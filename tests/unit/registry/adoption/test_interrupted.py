"""A run that dies, or is refused, at any store call: nothing half is seen, and the next run does the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.unit.registry.adoption.helpers import Heard, OldRegistry, adopt, manifest_of, old_tree, state
from tests.unit.registry.helpers import FakeClock, blob_bytes, image, index, memory_store, open_registry, standstill

from bucketry.oci import Digest
from bucketry.registry.adoption.events import Taken
from bucketry.store.contract import AccessDenied, StoreError, Unavailable
from bucketry.store.faults import CrashAfter, CrashBefore, Crashed, Fault, FaultyStore, LoseAnswer, Refuse, Rule
from bucketry.store.memory import MemoryStore

REPO, OTHER = "team/app", "team"
CONFIG, LAYER, SHARED = b'{"config": 1}', blob_bytes(300, 2), blob_bytes(200, 1)
AMD, ARM = image(CONFIG, LAYER, SHARED), image(CONFIG, SHARED)
INDEX = index(AMD, ARM)
SIGNATURE = image(CONFIG, subject=INDEX, artifactType="application/vnd.example.signature")
EXPECTED = {(REPO, "v1"): Digest.of(INDEX), (REPO, "arm"): Digest.of(ARM), (OTHER, "v1"): Digest.of(ARM)}

FAULTS: dict[str, Callable[[], Fault]] = {
    "dies before": CrashBefore,
    "dies after": CrashAfter,
    "answer lost": LoseAnswer,
    "refused": Refuse,
}


def old_store(clock: FakeClock) -> MemoryStore:
    store = memory_store(clock)
    old = OldRegistry(store)
    for blob in (CONFIG, LAYER, SHARED):
        old.blob(REPO, blob)
    for blob in (CONFIG, SHARED):
        old.blob(OTHER, blob)
    old.manifest(REPO, INDEX, "v1")
    old.manifest(REPO, AMD)
    old.manifest(REPO, ARM, "arm")
    old.manifest(REPO, SIGNATURE)
    old.manifest(OTHER, ARM, "v1")
    return store


async def calls_of(clock: FakeClock, parallel: int) -> int:
    store = old_store(clock)
    view = FaultyStore(store)
    await adopt(view, clock, parallel=parallel)
    return len(view.log)


@pytest.mark.parametrize("parallel", [1, 8])
@pytest.mark.parametrize("fault", FAULTS)
async def test_nothing_half_is_seen_and_the_next_run_does_the_rest(clock: FakeClock, fault: str, parallel: int) -> None:
    count = await calls_of(clock, parallel)
    assert count > 60
    interrupted = 0
    for at in range(count):
        store = old_store(clock)
        before = await old_tree(store)
        view = FaultyStore(store, [Rule(FAULTS[fault](), at=at)])
        try:
            await adopt(view, clock, parallel=parallel)
        except (Crashed, Unavailable):
            interrupted += 1
        seen = await state(store)
        # A push writes a manifest before its place among the referrers, and is not done before both.
        assert [each for each in seen.problems if "is not among the referrers" not in each] == seen.lost == [], at
        assert seen.tags.items() <= EXPECTED.items()

        heard = Heard()
        await adopt(store, clock, heard=heard, replica=8)

        assert heard.problems == []
        assert heard.kept == []
        found = await state(store)
        assert found.problems == found.lost == [], at
        assert found.tags == EXPECTED
        assert len(found.manifests) == 5
        assert (REPO, Digest.of(INDEX), Digest.of(SIGNATURE)) in found.referrers
        assert await old_tree(store) == before
        last = await adopt(store, clock, replica=9)
        assert (last.manifests, last.tags, last.blobs, last.skipped) == (0, 0, 0, 8)
    assert interrupted > count / 2


async def test_a_reader_sees_only_whole_images_all_the_while(clock: FakeClock) -> None:
    store = old_store(clock)
    reader = await open_registry(store, clock, replica=2)
    running = asyncio.create_task(adopt(store, clock, replica=3, parallel=4))
    looks = 0
    while not running.done():
        looks += 1
        seen = await state(store)
        assert seen.lost == []
        for repository, tag in seen.tags:
            await manifest_of(reader, repository, tag)
        for repository, digest in seen.manifests:
            await manifest_of(reader, repository, digest)
    assert looks > 1
    assert (await running).problems == 0


async def test_two_runs_at_once_come_to_the_same(clock: FakeClock) -> None:
    store = old_store(clock)
    await asyncio.gather(*(adopt(store, clock, replica=replica) for replica in (2, 3, 4)))
    found = await state(store)
    assert found.problems == found.lost == []
    assert found.tags == EXPECTED


@pytest.mark.parametrize("operation", ["list", "get", "head", "put"])
async def test_a_store_that_refuses_ends_the_run_with_its_reason(clock: FakeClock, operation: str) -> None:
    store = old_store(clock)
    await open_registry(store, clock)
    denied = AccessDenied("not allowed")
    view = FaultyStore(store, [Rule(Refuse(denied), operation=operation, skip=1, times=None)])
    with pytest.raises(StoreError, match="not allowed"):
        await adopt(view, clock)
    await standstill()


async def test_a_run_that_is_cancelled_ends_at_once(clock: FakeClock) -> None:
    store = old_store(clock)
    heard = Heard()
    running = asyncio.create_task(adopt(store, clock, heard=heard))
    while not heard.all(Taken):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    said = len(heard.events)
    await standstill()
    assert len(heard.events) == said
    found = await state(store)
    assert found.problems == found.lost == []
