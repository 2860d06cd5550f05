from __future__ import annotations

import asyncio

import pytest
from tests.unit.registry.helpers import (
    ALICE,
    DAY,
    LONG,
    OTHER,
    PART,
    REPO,
    FakeClock,
    blob_bytes,
    open_registry,
    placed,
    pulled,
    push,
    sized,
    streamed,
    truth,
)

from bucketry.oci import Digest
from bucketry.registry import Registry
from bucketry.registry.sweep import MARGIN, Swept
from bucketry.store.faults import FaultyStore
from bucketry.store.memory import MemoryStore

SMALL = blob_bytes(40)
LARGE = blob_bytes(3 * PART + 5)


async def begun(registry: Registry, *data: bytes, stream: bool = False) -> str:
    """A session with these chunks."""
    session, offset = registry.uploads.begin(REPO, ALICE).session_id, 0
    for chunk in data:
        await registry.uploads.append(
            REPO, ALICE, session, streamed(chunk) if stream else placed(chunk, offset), continued=offset > 0
        )
        offset += len(chunk)
    return session


async def commit(registry: Registry, session: str, digest: Digest) -> None:
    await registry.uploads.commit(REPO, ALICE, session, digest, None, continued=True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("data", [SMALL, LARGE])
async def test_an_abandoned_session_ends_with_all_it_held(
    registry: Registry, inner: MemoryStore, clock: FakeClock, data: bytes, stream: bool
) -> None:
    await begun(registry, data, stream=stream)
    clock.advance(DAY + MARGIN + 1)

    swept = await registry.sweeper.sweep()

    after = await truth(inner)
    assert (swept.sessions, after.sessions, after.data, after.multiparts) == (1, set(), {}, 0)


async def test_a_session_that_may_still_be_used_is_left_alone(
    registry: Registry, inner: MemoryStore, clock: FakeClock
) -> None:
    for data in (SMALL, LARGE):
        await begun(registry, data)
    clock.advance(DAY + MARGIN - 1)

    assert await registry.sweeper.sweep() == Swept(0, 0, 0)
    assert len((await truth(inner)).sessions) == 2


async def test_a_multipart_of_no_session_is_aborted(registry: Registry, inner: MemoryStore, clock: FakeClock) -> None:
    """Its request died before a session named it."""
    await inner.create_multipart("data/ab/abc", part_size=PART)
    clock.advance(DAY + MARGIN + 1)
    await inner.create_multipart("data/ab/def", part_size=PART)

    assert await registry.sweeper.sweep() == Swept(0, 1, 0)
    assert [pending.key for pending in await inner.list_multiparts()] == ["data/ab/def"]


@pytest.mark.parametrize("committed", ["sha256", "sha512"])
@pytest.mark.parametrize("declared", [None, "sha256", "sha512"])
@pytest.mark.parametrize("data", [b"", SMALL, LARGE])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("native", [True, False])
async def test_the_bytes_of_a_published_blob_outlive_its_session(
    store: FaultyStore,
    inner: MemoryStore,
    clock: FakeClock,
    data: bytes,
    declared: str | None,
    committed: str,
    stream: bool,
    native: bool,
) -> None:
    """The process died after the commit, before it removed the session: whatever digest the bytes are known by."""
    registry = await open_registry(store, clock, native_hash=native)
    session = registry.uploads.begin(REPO, ALICE, declared).session_id
    progress = await registry.uploads.append(
        REPO, ALICE, session, streamed(data) if stream else placed(data, 0), continued=False
    )
    digest = Digest.of(data, committed)
    await registry.uploads.commit(REPO, ALICE, session, digest, None, continued=progress.stored)
    clock.advance(LONG)
    other = await open_registry(inner, clock, replica=2)

    await other.sweeper.sweep()

    assert await pulled(other, REPO, digest) == data
    after = await truth(inner)
    assert (after.sessions, after.problems) == (set(), [])


async def test_bytes_that_another_push_made_needless_go_with_the_session(
    registry: Registry, inner: MemoryStore, clock: FakeClock
) -> None:
    session = await begun(registry, SMALL, stream=True)
    await push(registry, OTHER, SMALL)
    await commit(registry, session, Digest.of(SMALL))
    assert len((await truth(inner)).orphans) == 1
    clock.advance(LONG)

    await (await open_registry(inner, clock, replica=2)).sweeper.sweep()

    after = await truth(inner)
    assert (after.orphans, after.problems, after.sessions) == ([], [], set())


@pytest.mark.parametrize("data", [SMALL, LARGE])
async def test_a_cancelled_session_is_swept_too(
    registry: Registry, inner: MemoryStore, clock: FakeClock, data: bytes
) -> None:
    session = await begun(registry, data, stream=True)
    await registry.uploads.cancel(REPO, ALICE, session)
    clock.advance(LONG)

    await registry.sweeper.sweep()

    after = await truth(inner)
    assert (after.sessions, after.data, after.multiparts) == (set(), {}, 0)


async def test_a_session_that_cannot_be_read_is_removed(
    registry: Registry, inner: MemoryStore, clock: FakeClock
) -> None:
    await inner.put("uploads/damaged", b"no session")
    clock.advance(LONG)

    assert (await registry.sweeper.sweep()).sessions == 1
    assert (await truth(inner)).sessions == set()


async def test_more_sessions_than_a_page_are_all_swept(
    registry: Registry, inner: MemoryStore, clock: FakeClock
) -> None:
    for _ in range(1203):
        await registry.uploads.append(
            REPO, ALICE, registry.uploads.begin(REPO, ALICE).session_id, placed(b"x", 0), continued=False
        )
    clock.advance(LONG)

    assert (await registry.sweeper.sweep()).sessions == 1203
    assert (await truth(inner)).sessions == set()


async def test_sweepers_at_once_do_no_harm(registry: Registry, inner: MemoryStore, clock: FakeClock) -> None:
    others = [await open_registry(inner, clock, replica=replica) for replica in range(2, 5)]
    kept = await begun(registry, LARGE, stream=True)
    await commit(registry, kept, Digest.of(LARGE))
    for _ in range(10):
        await begun(registry, SMALL, LARGE)
    clock.advance(LONG)

    await asyncio.gather(*(each.sweeper.sweep() for each in (registry, *others)))

    after = await truth(inner)
    assert (after.sessions, after.multiparts, after.problems, after.orphans) == (set(), 0, [], [])
    assert await pulled(registry, REPO, Digest.of(LARGE)) == LARGE


async def test_a_session_under_way_is_not_harmed_by_a_sweep_for_others(
    registry: Registry, inner: MemoryStore, clock: FakeClock
) -> None:
    await begun(registry, LARGE)
    clock.advance(DAY)
    session = await begun(registry, LARGE)
    clock.advance(MARGIN + 1)

    await registry.sweeper.sweep()

    await registry.uploads.commit(REPO, ALICE, session, Digest.of(LARGE + SMALL), sized(SMALL), continued=True)
    assert await pulled(registry, REPO, Digest.of(LARGE + SMALL)) == LARGE + SMALL
