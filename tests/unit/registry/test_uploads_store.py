"""Uploads and the store below: what becomes of them where it fails, its limits, and how often it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.unit.registry.helpers import (
    ALICE,
    PART,
    REPO,
    FakeClock,
    blob_bytes,
    image,
    memory_store,
    open_registry,
    pieces,
    placed,
    pulled,
    push,
    push_chunks,
    push_patch_put,
    sized,
    standstill,
    streamed,
    truth,
)
from tests.unit.registry.pushing import LARGE, SMALL, Form, begin, offset_of, patch, put

from bucketry.oci import Digest
from bucketry.oci.errors import (
    BlobUnknown,
    OCIError,
    SizeInvalid,
    UploadUnknown,
)
from bucketry.registry import Chunk, Registry, parts, sessions, uploads
from bucketry.store.contract import MAX_PARTS, StoreError, Unavailable, UploadNotFound
from bucketry.store.faults import Delay, FaultyStore, LoseAnswer, Refuse, Rule
from bucketry.store.memory import MemoryStore

# ---- failures of the store


@pytest.mark.parametrize("operation", ["get", "put", "put_part", "create_multipart"])
@pytest.mark.parametrize("fault", [Refuse(), LoseAnswer()])
async def test_no_failure_of_the_store_takes_memory_for_good(
    registry: Registry, store: FaultyStore, operation: str, fault: Refuse | LoseAnswer
) -> None:
    """Else uploads wait for ever, once there were as many failures as there are buffers."""
    sealed, stored, chunked = begin(registry), begin(registry), begin(registry)
    await patch(registry, sealed, streamed(SMALL))
    await patch(registry, stored, streamed(LARGE))
    await patch(registry, chunked, placed(SMALL, 0))
    for skip in range(3):
        for session in (sealed, stored, chunked):
            for attempt in (
                patch(registry, session, streamed(LARGE), continued=True),
                put(registry, session, Digest.of(b"x"), streamed(LARGE)),
                put(registry, session, Digest.of(b"x")),
                push(registry, REPO, LARGE),
                push_patch_put(registry, REPO, LARGE),
            ):
                rule = Rule(fault, operation=operation, skip=skip)
                store.add(rule)
                try:
                    await attempt
                except (StoreError, OCIError):
                    pass
                store._rules.remove(rule)
                store._met.pop()
                assert registry.uploads.budget.used == 0


async def test_a_part_whose_call_was_cancelled_is_not_a_part_that_arrived(
    registry: Registry, store: FaultyStore
) -> None:
    """Else the blob would be published with a hole in it."""

    class Cancelling(MemoryStore):
        async def put_part(self, key: str, upload_id: str, number: int, body: object, *, offset: int) -> str:
            if number == 2:
                raise asyncio.CancelledError
            return await super().put_part(key, upload_id, number, body, offset=offset)  # type: ignore[arg-type]

    registry = await open_registry(Cancelling(min_part=1), FakeClock())

    with pytest.raises((StoreError, OCIError, asyncio.CancelledError)):
        await push(registry, REPO, LARGE)
    with pytest.raises(BlobUnknown):
        await registry.blobs.find(REPO, Digest.of(LARGE))


@pytest.mark.parametrize("size", [2 * PART + 1, 3 * PART])
@pytest.mark.parametrize("form", [streamed, lambda data: placed(data, 0)])
async def test_a_session_that_was_saved_keeps_its_parts_though_the_answer_was_lost(
    registry: Registry, store: FaultyStore, size: int, form: Form
) -> None:
    data = blob_bytes(size)
    session = begin(registry)
    store.add(Rule(LoseAnswer(), operation="put", prefix="uploads/"))
    with pytest.raises(Unavailable):
        await patch(registry, session, form(data))

    assert await offset_of(registry, session) == size
    assert await put(registry, session, Digest.of(data)) == data


async def test_a_commit_whose_claim_was_saved_can_be_asked_for_again_though_the_answer_was_lost(
    registry: Registry, store: FaultyStore, inner: MemoryStore
) -> None:
    session = begin(registry)
    await patch(registry, session, placed(SMALL, 0))
    store.add(Rule(LoseAnswer(), operation="put", prefix="uploads/"))
    whole = SMALL + LARGE
    with pytest.raises(Unavailable):
        await put(registry, session, Digest.of(whole), placed(LARGE, len(SMALL)))

    assert await put(registry, session, Digest.of(whole)) == whole
    assert (await truth(inner)).problems == []


@pytest.mark.parametrize("operation", ["put_part", "complete_multipart"])
async def test_a_multipart_that_the_store_ended_is_an_upload_to_begin_again(
    registry: Registry, store: FaultyStore, operation: str
) -> None:
    """R2 ends them by itself after days, and owners set lifecycle rules."""
    session = begin(registry)
    await patch(registry, session, streamed(LARGE))
    gone = Refuse(UploadNotFound("no such upload"))
    # A commit that fails on the session as this process remembers it asks the store how it stands.
    store.add(Rule(gone, operation=operation, times=2 if operation == "put_part" else 1))
    with pytest.raises(UploadUnknown, match="Start again"):
        await put(registry, session, Digest.of(LARGE))

    store.add(Rule(gone, operation=operation))
    with pytest.raises(UploadUnknown, match="Start again"):
        await push(registry, REPO, LARGE)

    await push(registry, REPO, LARGE)


@pytest.mark.parametrize("data", [SMALL, LARGE])
@pytest.mark.parametrize("prefix", ["uploads/", "blobs/", "repos/"])
@pytest.mark.parametrize("fault", [Refuse(), LoseAnswer()])
async def test_a_commit_that_failed_can_be_asked_for_again(
    registry: Registry, store: FaultyStore, inner: MemoryStore, data: bytes, prefix: str, fault: Refuse | LoseAnswer
) -> None:
    session = begin(registry)
    await patch(registry, session, streamed(data))
    store.add(Rule(fault, operation="put", prefix=prefix))
    if prefix == "uploads/" and data == SMALL:
        assert await put(registry, session, Digest.of(data)) == data  # It needs no claim.
    else:
        with pytest.raises(Unavailable):
            await put(registry, session, Digest.of(data))
        assert await put(registry, session, Digest.of(data)) == data
    assert (await truth(inner)).problems == []


# ---- part sizes and part numbers


@pytest.mark.parametrize("first", [streamed, lambda data: placed(data, 0)])
@pytest.mark.parametrize("sizes", [(PART, 2 * PART), (PART, PART // 4), (PART // 4, PART), (PART, 40), (40, PART)])
@pytest.mark.parametrize("held", [10, 40, PART, 2 * PART, 2 * PART + 30])
async def test_an_upload_goes_on_under_another_part_size(
    store: FaultyStore, clock: FakeClock, first: Form, sizes: tuple[int, int], held: int
) -> None:
    """The owner changed it while uploads were under way; sessions outlive processes."""
    before = await open_registry(store, clock, part_size=sizes[0])
    after = await open_registry(store, clock, replica=2, part_size=sizes[1])
    data = blob_bytes(held + 5 * PART)
    session = begin(before)
    await patch(before, session, first(data[:held]))

    async with asyncio.timeout(60):
        assert await patch(after, session, placed(data[held:], held), continued=True) == len(data)
        assert await put(before, session, Digest.of(data)) == data


async def test_a_blob_of_more_parts_than_a_store_takes_is_refused_with_what_to_set(clock: FakeClock) -> None:
    registry = await open_registry(memory_store(clock), clock, part_size=1, memory=100, parallel_parts=100)
    data = bytes(MAX_PARTS + 1)

    with pytest.raises(SizeInvalid, match=r"upload\.part_size"):
        await registry.uploads.push(REPO, Digest.of(data), Chunk(pieces(data, 1000)))
    assert (await truth(registry.store)).multiparts == 0

    blob = await registry.uploads.push(REPO, Digest.of(data[:-1]), Chunk(pieces(data[:-1], 1000)))
    assert blob.size == MAX_PARTS


async def test_a_length_that_can_never_fit_is_refused_before_it_is_sent(registry: Registry, store: FaultyStore) -> None:
    length = MAX_PARTS * PART + 1

    for attempt in (
        registry.uploads.push(REPO, Digest.of(b""), Chunk(pieces(LARGE), length)),
        registry.uploads.append(REPO, ALICE, begin(registry), Chunk(pieces(LARGE), length), continued=False),
    ):
        with pytest.raises(SizeInvalid, match=r"upload\.part_size"):
            await attempt
    assert store.calls["put_part"] == 0


async def test_chunks_that_use_up_the_part_numbers_are_refused_with_what_to_set(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (uploads, parts):
        monkeypatch.setattr(module, "MAX_PARTS", 100)
    session, offset = begin(registry), 0

    async def send_chunks() -> None:
        nonlocal offset
        while offset < 100 * PART:
            offset = await patch(registry, session, placed(blob_bytes(PART // 2), offset), continued=offset > 0)

    with pytest.raises(SizeInvalid, match=r"upload\.part_size"):
        await send_chunks()

    assert offset > 60 * PART // 2
    held = await registry.uploads._sessions.load(registry.uploads._check(session, REPO, ALICE))
    assert held is not None
    assert held.session.next_number <= 101
    assert registry.uploads.budget.used == 0


async def test_small_chunks_use_up_no_part_numbers_before_the_first_part(registry: Registry, clock: FakeClock) -> None:
    session = begin(registry)
    for offset in range(PART):
        await patch(registry, session, placed(LARGE[offset : offset + 1], offset), continued=offset > 0)

    await patch(registry, session, placed(LARGE[PART:], PART), continued=True)

    held = await registry.uploads._sessions.load(registry.uploads._check(session, REPO, ALICE))
    assert held is not None
    assert [number for number, _, _ in held.session.parts] == [1, 2, 3, 4, 5]
    assert await put(registry, session, Digest.of(LARGE)) == LARGE


# ---- what it costs the store


def cost(store: FaultyStore) -> tuple[int, int]:
    """Requests without the parts, and parts."""
    parts = store.calls["put_part"]
    return sum(store.calls.values()) - parts, parts


async def head(registry: Registry, data: bytes) -> None:
    with pytest.raises(BlobUnknown):
        await registry.blobs.stat(REPO, Digest.of(data))


async def test_a_small_blob_by_patch_and_put_costs_six_requests(registry: Registry, store: FaultyStore) -> None:
    await head(registry, SMALL)
    await push_patch_put(registry, REPO, SMALL)

    assert cost(store) == (6, 0)


async def test_a_small_blob_by_post_and_put_costs_at_most_six_requests(registry: Registry, store: FaultyStore) -> None:
    await head(registry, SMALL)
    await registry.uploads.commit(REPO, ALICE, begin(registry), Digest.of(SMALL), sized(SMALL), continued=False)

    assert cost(store) == (5, 0)


@pytest.mark.parametrize("extra", [0, 1])
async def test_a_large_blob_streamed_costs_eight_requests_and_its_parts(
    registry: Registry, store: FaultyStore, extra: int
) -> None:
    """One of them writes the checkpoints."""
    data = blob_bytes(20 * PART + extra)
    await head(registry, data)
    await push_patch_put(registry, REPO, data)

    assert cost(store) == (8, 20 + extra)


async def test_a_large_blob_by_put_costs_at_most_eight_requests_and_its_parts(
    registry: Registry, store: FaultyStore
) -> None:
    data = blob_bytes(20 * PART + 1)
    await head(registry, data)
    await registry.uploads.commit(REPO, ALICE, begin(registry), Digest.of(data), sized(data), continued=False)

    assert cost(store) == (7, 21)


async def test_a_large_blob_in_one_chunk_and_a_put_costs_at_most_eight_requests_and_its_parts(
    registry: Registry, store: FaultyStore
) -> None:
    data = blob_bytes(20 * PART + 1)
    await head(registry, data)
    await push_chunks(registry, REPO, data, len(data))

    assert cost(store) == (8, 21)


async def test_what_a_process_remembers_of_a_session_is_not_believed(inner: MemoryStore, clock: FakeClock) -> None:
    """Another replica took a chunk, or cancelled the upload, since this one saved it."""
    here, there = await open_registry(inner, clock), await open_registry(inner, clock)
    moved_on, cancelled = begin(here), begin(here)
    for session in (moved_on, cancelled):
        await patch(here, session, placed(LARGE, 0))
    await patch(there, moved_on, placed(SMALL, len(LARGE)), continued=True)
    await there.uploads.cancel(REPO, ALICE, cancelled)

    assert await put(here, moved_on, Digest.of(LARGE + SMALL)) == LARGE + SMALL
    with pytest.raises(UploadUnknown, match="cancelled"):
        await put(here, cancelled, Digest.of(LARGE))


async def test_a_process_remembers_few_bytes_of_sessions(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "RECENT_BYTES", PART + 7)
    for _ in range(5):
        await patch(registry, begin(registry), placed(LARGE, 0))
    recent = registry.uploads._recent
    assert recent._size == sum(len(held.tail) for held in recent._held.values()) <= PART + 7
    assert len(recent._held) > 0


async def test_another_chunk_costs_three_requests_and_its_parts(registry: Registry, store: FaultyStore) -> None:
    """It loads the session, reserves its numbers, and saves the session."""
    session = begin(registry)
    await patch(registry, session, placed(LARGE, 0))
    store.calls.clear()

    await patch(registry, session, placed(blob_bytes(100 * PART), len(LARGE)), continued=True)

    assert cost(store) == (3, 100)


async def test_a_blob_that_is_there_costs_no_upload(registry: Registry, store: FaultyStore) -> None:
    await push(registry, REPO, LARGE)
    store.calls.clear()

    await registry.blobs.stat(REPO, Digest.of(LARGE))

    assert cost(store) == (2, 0)


async def test_a_manifest_with_a_tag_costs_five_requests_and_two_a_blob(registry: Registry, store: FaultyStore) -> None:
    """Each blob's link and record; then catalog, manifest, marker, tag, and whether the manifest is still there."""
    await push(registry, REPO, SMALL)
    await push(registry, REPO, LARGE)
    store.calls.clear()

    await registry.manifests.push(REPO, "v1", image(SMALL, LARGE), None)

    assert cost(store) == (5 + 2 * 2, 0)


# ---- several things under way


async def test_parts_leave_while_the_next_ones_arrive(registry: Registry, store: FaultyStore) -> None:
    gate = asyncio.Event()
    store.add(Rule(Delay(until=gate), operation="put_part", times=None))
    sending = asyncio.create_task(push(registry, REPO, blob_bytes(20 * PART)))
    await standstill()

    assert store.calls["put_part"] == 4, "parallel_parts are on their way, and no more"
    gate.set()
    await sending


async def test_many_uploads_share_a_small_budget_and_all_end(store: FaultyStore, clock: FakeClock) -> None:
    registry = await open_registry(store, clock, memory=2 * PART)
    most = 0

    async def watched(data: bytes) -> AsyncIterator[bytes]:
        nonlocal most
        async for piece in pieces(data):
            await asyncio.sleep(0)
            most = max(most, registry.uploads.budget.used)
            yield piece

    async def upload(number: int) -> None:
        data = blob_bytes(PART * (number % 5) + number, number)
        digest = Digest.of(data)
        if number % 3 == 0:
            await registry.uploads.push(REPO, digest, Chunk(watched(data), len(data)))
        elif number % 3 == 1:
            session = begin(registry)
            progress = await registry.uploads.append(REPO, ALICE, session, Chunk(watched(data)), continued=False)
            await put(registry, session, digest, continued=progress.stored)
        else:
            session, half = begin(registry), len(data) // 2
            await patch(registry, session, Chunk(watched(data[:half]), half, 0))
            await put(registry, session, digest, Chunk(watched(data[half:])), continued=half > 0)
        assert await pulled(registry, REPO, digest) == data

    async with asyncio.timeout(60):
        await asyncio.gather(*map(upload, range(50)))

    assert 0 < most <= 2 * PART
    assert registry.uploads.budget.used == 0
