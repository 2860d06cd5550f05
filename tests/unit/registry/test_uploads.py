from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import pytest
from tests.unit.registry.helpers import (
    ALICE,
    DAY,
    OTHER,
    PART,
    REPO,
    FakeClock,
    blob_bytes,
    bytes_of,
    image,
    interrupted,
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

from bucketry.oci import Digest
from bucketry.oci.errors import (
    BlobUnknown,
    DigestMismatch,
    OCIError,
    RangeInvalid,
    SizeInvalid,
    UploadUnknown,
)
from bucketry.registry import BodyInterrupted, Chunk, Registry, parts, uploads
from bucketry.store.contract import MAX_PARTS, StoreError, Unavailable, UploadNotFound
from bucketry.store.faults import Delay, FaultyStore, LoseAnswer, Refuse, Rule
from bucketry.store.memory import MemoryStore

Form: TypeAlias = Callable[[bytes], Chunk]

SIZES = [0, 1, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 1, 5 * PART, 5 * PART + 7]
SMALL = blob_bytes(40)
LARGE = blob_bytes(5 * PART + 7)


def begin(registry: Registry, algorithm: str | None = None) -> str:
    return registry.uploads.begin(REPO, ALICE, algorithm).session_id


async def patch(registry: Registry, session: str, chunk: Chunk, *, continued: bool = False) -> int:
    return (await registry.uploads.append(REPO, ALICE, session, chunk, continued=continued)).offset


async def put(
    registry: Registry, session: str, digest: Digest, chunk: Chunk | None = None, *, continued: bool = True
) -> bytes:
    """The bytes of the blob that the commit published."""
    return await bytes_of(
        registry, await registry.uploads.commit(REPO, ALICE, session, digest, chunk, continued=continued)
    )


async def offset_of(registry: Registry, session: str) -> int:
    return (await registry.uploads.status(REPO, ALICE, session)).offset


# ---- every way to push, at every size around a part


@pytest.mark.parametrize("size", SIZES)
async def test_a_single_post(registry: Registry, inner: MemoryStore, size: int) -> None:
    data = blob_bytes(size)

    digest = await push(registry, REPO, data)

    assert await pulled(registry, REPO, digest) == data
    assert (await truth(inner)).problems == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_put_of_the_whole_blob(registry: Registry, inner: MemoryStore, size: int, algorithm: str) -> None:
    data = blob_bytes(size)

    assert await put(registry, begin(registry), Digest.of(data, algorithm), sized(data), continued=False) == data

    assert (await truth(inner)).problems == []
    assert (await truth(inner)).sessions == set()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", [streamed, sized])
async def test_one_patch_and_a_put(registry: Registry, inner: MemoryStore, size: int, form: Form) -> None:
    data = blob_bytes(size)
    session = begin(registry)

    assert await patch(registry, session, form(data)) == size
    assert await put(registry, session, Digest.of(data), continued=size > 0) == data

    await registry.close()
    assert (await truth(inner)).problems == []
    assert (await truth(inner)).sessions == set()
    assert (await truth(inner)).multiparts == 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunk", [7, PART, PART + 1, 3 * PART])
async def test_chunks_with_ranges(registry: Registry, inner: MemoryStore, size: int, chunk: int) -> None:
    data = blob_bytes(size)

    digest = await push_chunks(registry, REPO, data, chunk)

    await registry.close()
    assert await pulled(registry, REPO, digest) == data
    after = await truth(inner)
    assert (after.problems, after.sessions, after.multiparts, after.orphans) == ([], set(), 0, [])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("first", [1, PART, 2 * PART + 1])
async def test_a_last_chunk_in_the_put(registry: Registry, inner: MemoryStore, size: int, first: int) -> None:
    data = blob_bytes(size + first)
    session = begin(registry)
    await patch(registry, session, placed(data[:first], 0))

    assert await put(registry, session, Digest.of(data), placed(data[first:], first)) == data

    assert (await truth(inner)).problems == []


@pytest.mark.parametrize("first", [streamed, sized])
@pytest.mark.parametrize("sizes", [(40, 10), (40, 100), (PART, 1), (PART, PART), (2 * PART, 5), (3 * PART + 9, 200)])
async def test_a_second_patch_without_a_range_goes_on_where_the_first_ended(
    registry: Registry, inner: MemoryStore, first: Form, sizes: tuple[int, int]
) -> None:
    data = blob_bytes(sum(sizes))
    session = begin(registry)
    await patch(registry, session, first(data[: sizes[0]]))

    assert await patch(registry, session, streamed(data[sizes[0] :]), continued=True) == len(data)
    assert await put(registry, session, Digest.of(data)) == data
    assert (await truth(inner)).problems == []


@pytest.mark.parametrize("size", [0, 40, PART, 3 * PART + 1])
@pytest.mark.parametrize("declared", [None, "sha256", "sha512"])
@pytest.mark.parametrize("committed", ["sha256", "sha512"])
@pytest.mark.parametrize("native", [True, False])
async def test_any_algorithm_whatever_was_declared_and_with_or_without_libcrypto(
    store: FaultyStore, clock: FakeClock, size: int, declared: str | None, committed: str, native: bool
) -> None:
    registry = await open_registry(store, clock, native_hash=native)
    data = blob_bytes(size)
    session = begin(registry, declared)
    await patch(registry, session, streamed(data))

    assert await put(registry, session, Digest.of(data, committed), continued=size > 0) == data


async def test_nothing_is_read_back_of_an_upload_whose_algorithm_was_known(
    registry: Registry, store: FaultyStore
) -> None:
    for declared in (None, "sha512"):
        for data in (SMALL, LARGE):
            session = begin(registry, declared)
            await patch(registry, session, streamed(data))
            await put(registry, session, Digest.of(data, declared or "sha256"))
    for data in (SMALL, LARGE):
        await push_chunks(registry, REPO, data, 50)
        await push(registry, REPO, data)
    # What `put` itself reads.
    assert store.calls["read"] == 4


async def test_parts_large_enough_to_be_hashed_in_threads(clock: FakeClock) -> None:
    part = 256 * 1024
    registry = await open_registry(memory_store(clock), clock, part_size=part, memory=4 * part)
    data = blob_bytes(5 * part + 3)
    session = begin(registry)
    await patch(registry, session, Chunk(pieces(data, 100_000)))

    assert await put(registry, session, Digest.of(data)) == data


# ---- chunks out of order, of the wrong length, interrupted


@pytest.mark.parametrize("start", [0, 39, 41, 1000])
async def test_a_chunk_out_of_order_says_where_the_upload_stands(registry: Registry, start: int) -> None:
    session = begin(registry)
    await patch(registry, session, placed(SMALL, 0))

    with pytest.raises(RangeInvalid) as caught:
        await patch(registry, session, placed(b"more", start), continued=True)

    assert caught.value.offset == len(SMALL)
    assert await put(registry, session, Digest.of(SMALL)) == SMALL


async def test_a_first_chunk_that_does_not_begin_at_zero_is_refused(registry: Registry) -> None:
    session = begin(registry)

    with pytest.raises(RangeInvalid) as caught:
        await patch(registry, session, placed(SMALL, 5))

    assert caught.value.offset == 0


@pytest.mark.parametrize("length", [0, 1, 39, 41, PART, 10 * PART])
@pytest.mark.parametrize("continued", [False, True])
async def test_a_body_of_another_length_than_announced_changes_nothing(
    registry: Registry, inner: MemoryStore, length: int, continued: bool
) -> None:
    session = begin(registry)
    if continued:
        await patch(registry, session, placed(SMALL, 0))

    with pytest.raises(SizeInvalid):
        await patch(registry, session, Chunk(pieces(SMALL), length, None), continued=continued)

    assert await offset_of(registry, session) == (len(SMALL) if continued else 0)
    assert registry.uploads.budget.used == 0
    with pytest.raises(SizeInvalid):
        await registry.uploads.push(REPO, Digest.of(SMALL), Chunk(pieces(SMALL), length))
    with pytest.raises(SizeInvalid):
        await put(registry, begin(registry), Digest.of(SMALL), Chunk(pieces(SMALL), length), continued=False)
    assert (await truth(inner)).records == {}


async def test_a_body_longer_than_announced_is_refused_before_it_is_read_to_its_end(registry: Registry) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while taken < 100 * PART:
            taken += 8
            yield b"12345678"

    with pytest.raises(SizeInvalid, match="20 bytes"):
        await patch(registry, begin(registry), Chunk(endless(), 20, 0))

    assert taken <= 2 * PART


async def test_a_chunk_of_nothing_tells_where_the_upload_stands_and_changes_nothing(
    registry: Registry, inner: MemoryStore
) -> None:
    session = begin(registry)
    assert await patch(registry, session, streamed(b"")) == 0
    assert (await truth(inner)).sessions == set()
    await patch(registry, session, placed(SMALL, 0))

    for continued in (True, False):
        assert await patch(registry, session, streamed(b""), continued=continued) == len(SMALL)
        with pytest.raises(RangeInvalid):
            await patch(registry, session, placed(b"", 0), continued=continued)
    await registry.uploads.cancel(REPO, ALICE, session)
    for continued in (True, False):
        with pytest.raises(UploadUnknown):
            await patch(registry, session, streamed(b""), continued=continued)


@pytest.mark.parametrize("form", [None, 0])
@pytest.mark.parametrize("got", [1, 40, PART, 2 * PART, 3 * PART + 5])
async def test_what_came_before_an_interruption_is_kept_and_gone_on_with(
    registry: Registry, inner: MemoryStore, got: int, form: int | None
) -> None:
    session = begin(registry)
    with pytest.raises(BodyInterrupted):
        await patch(registry, session, Chunk(interrupted(LARGE[:got]), None if form is None else len(LARGE), form))

    assert await offset_of(registry, session) == got
    await patch(registry, session, placed(LARGE[got:], got), continued=True)

    assert await put(registry, session, Digest.of(LARGE)) == LARGE
    assert (await truth(inner)).problems == []
    assert registry.uploads.budget.used == 0


async def test_an_interruption_before_the_first_byte_keeps_nothing(registry: Registry, inner: MemoryStore) -> None:
    session = begin(registry)

    with pytest.raises(BodyInterrupted):
        await patch(registry, session, Chunk(interrupted(b"")))

    assert (await truth(inner)).sessions == set()


async def test_a_put_that_is_interrupted_keeps_what_came_and_can_be_gone_on_with(registry: Registry) -> None:
    session = begin(registry)
    await patch(registry, session, placed(LARGE[:100], 0))
    with pytest.raises(BodyInterrupted):
        await put(registry, session, Digest.of(LARGE), Chunk(interrupted(LARGE[100:250])))

    assert await offset_of(registry, session) == 250
    assert await put(registry, session, Digest.of(LARGE), placed(LARGE[250:], 250)) == LARGE


async def test_a_single_push_that_is_interrupted_leaves_nothing(registry: Registry, inner: MemoryStore) -> None:
    with pytest.raises(BodyInterrupted):
        await registry.uploads.push(REPO, Digest.of(LARGE), Chunk(interrupted(LARGE[:200]), len(LARGE)))

    after = await truth(inner)
    assert (after.data, after.records, after.multiparts) == ({}, {}, 0)
    assert registry.uploads.budget.used == 0


async def test_a_request_that_is_cancelled_leaves_no_memory_taken(
    registry: Registry, store: FaultyStore, inner: MemoryStore
) -> None:
    gate = asyncio.Event()
    store.add(Rule(Delay(until=gate), operation="put_part", times=None))
    sending = asyncio.create_task(patch(registry, begin(registry), streamed(LARGE)))
    await standstill()
    assert registry.uploads.budget.used > 0
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending

    assert registry.uploads.budget.used == 0
    assert (await truth(inner)).multiparts == 0


# ---- the wrong digest


@pytest.mark.parametrize("data", [SMALL, LARGE, b""])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_bytes_of_another_digest_are_not_published(
    registry: Registry, inner: MemoryStore, data: bytes, algorithm: str
) -> None:
    wrong = Digest.of(b"other", algorithm)
    session = begin(registry, algorithm)
    await patch(registry, session, streamed(data))

    with pytest.raises(DigestMismatch):
        await put(registry, session, wrong, continued=len(data) > 0)
    with pytest.raises(DigestMismatch):
        await registry.uploads.push(REPO, wrong, sized(data))
    with pytest.raises(DigestMismatch):
        await put(registry, begin(registry), wrong, sized(data), continued=False)

    assert (await truth(inner)).records == {}
    with pytest.raises(BlobUnknown):
        await registry.blobs.find(REPO, wrong)
    # The session stays as it was, so that the right digest still ends it.
    assert await put(registry, session, Digest.of(data, algorithm), continued=len(data) > 0) == data


async def test_bytes_that_had_to_be_read_back_and_were_wrong_are_removed(
    registry: Registry, inner: MemoryStore
) -> None:
    session = begin(registry)
    await patch(registry, session, streamed(LARGE))

    with pytest.raises(DigestMismatch):
        await put(registry, session, Digest.of(b"other", "sha512"))

    after = await truth(inner)
    assert (after.data, after.sessions, after.multiparts, after.records) == ({}, set(), 0, {})
    with pytest.raises(UploadUnknown):
        await offset_of(registry, session)


async def test_someone_elses_digest_gives_nobody_its_bytes(registry: Registry) -> None:
    secret = await push(registry, OTHER, b"secret of another team")

    for chunk in (None, sized(b"guess")):
        with pytest.raises(DigestMismatch):
            await put(registry, begin(registry), secret, chunk, continued=False)
    with pytest.raises(DigestMismatch):
        await registry.uploads.push(REPO, secret, sized(b"guess"))
    with pytest.raises(BlobUnknown):
        await registry.blobs.find(REPO, secret)


# ---- sessions that are not there


async def test_a_session_is_the_principals_and_the_repositorys(registry: Registry) -> None:
    session = begin(registry)
    await patch(registry, session, streamed(SMALL))
    digest = Digest.of(SMALL)

    verbs = registry.uploads
    for repository, principal in ((OTHER, ALICE), (REPO, "mallory"), (REPO, "")):
        with pytest.raises(UploadUnknown):
            await verbs.status(repository, principal, session)
        with pytest.raises(UploadUnknown):
            await verbs.append(repository, principal, session, streamed(b"x"), continued=True)
        with pytest.raises(UploadUnknown):
            await verbs.commit(repository, principal, session, digest, None, continued=True)
        with pytest.raises(UploadUnknown):
            await verbs.commit(repository, principal, session, digest, sized(SMALL), continued=False)
        with pytest.raises(UploadUnknown):
            await verbs.cancel(repository, principal, session)
    assert await put(registry, session, digest) == SMALL


async def test_a_session_that_was_committed_here_is_the_principals_still(registry: Registry) -> None:
    """Asking again for a commit whose answer was lost is for the one who asked first."""
    session = begin(registry)
    await patch(registry, session, streamed(SMALL))
    await put(registry, session, Digest.of(SMALL))
    await push(registry, OTHER, SMALL)

    for repository, principal in ((OTHER, ALICE), (REPO, "mallory")):
        with pytest.raises(UploadUnknown):
            await registry.uploads.commit(repository, principal, session, Digest.of(SMALL), None, continued=True)
    assert await put(registry, session, Digest.of(SMALL)) == SMALL


async def test_an_expired_session_is_unknown(registry: Registry, clock: FakeClock) -> None:
    session = begin(registry)
    await patch(registry, session, streamed(SMALL))
    clock.advance(DAY - 1)
    assert await offset_of(registry, session) == len(SMALL)
    clock.advance(2)

    with pytest.raises(UploadUnknown, match="24 hours"):
        await offset_of(registry, session)
    with pytest.raises(UploadUnknown):
        await patch(registry, session, streamed(b"x"), continued=True)
    with pytest.raises(UploadUnknown):
        await put(registry, session, Digest.of(SMALL))


@pytest.mark.parametrize("data", [SMALL, LARGE])
async def test_a_committed_session_has_ended(registry: Registry, data: bytes) -> None:
    session = begin(registry)
    await patch(registry, session, streamed(data))
    await put(registry, session, Digest.of(data))

    with pytest.raises(UploadUnknown):
        await offset_of(registry, session)
    with pytest.raises(UploadUnknown):
        await patch(registry, session, streamed(b"x"), continued=True)
    with pytest.raises(UploadUnknown):
        await put(registry, session, Digest.of(b"other"))
    # But for the same commit, asked for again: its answer may have been lost.
    assert await put(registry, session, Digest.of(data)) == data


@pytest.mark.parametrize("data", [SMALL, LARGE])
async def test_a_session_whose_object_is_gone_does_not_begin_anew(
    registry: Registry, inner: MemoryStore, clock: FakeClock, data: bytes
) -> None:
    """Another replica ended it: what the client sends next are not the blob's first bytes, and not all of them."""
    session = begin(registry)
    await patch(registry, session, streamed(data))
    await put(registry, session, Digest.of(data))
    await registry.close()
    replica = await open_registry(inner, clock, replica=2)

    with pytest.raises(UploadUnknown):
        await replica.uploads.status(REPO, ALICE, session, continued=True)
    with pytest.raises(UploadUnknown):
        await patch(replica, session, streamed(b"more"), continued=True)
    with pytest.raises(UploadUnknown):
        await put(replica, session, Digest.of(b"more"), streamed(b"more"))
    with pytest.raises(UploadUnknown):
        await put(replica, session, Digest.of(b"other"))
    assert (await truth(inner)).sessions == set()


@pytest.mark.parametrize("first", [b"", SMALL, LARGE])
async def test_a_cancelled_session_is_unknown_on_every_replica(
    registry: Registry, inner: MemoryStore, clock: FakeClock, first: bytes
) -> None:
    replica = await open_registry(inner, clock, replica=2)
    session = begin(registry)
    if first:
        await patch(registry, session, placed(first, 0))

    await registry.uploads.cancel(REPO, ALICE, session)

    assert (await truth(inner)).multiparts == 0
    for each in (registry, replica):
        with pytest.raises(UploadUnknown):
            await offset_of(each, session)
        for continued in (False, True):
            with pytest.raises(UploadUnknown):
                await patch(each, session, streamed(SMALL), continued=continued)
            with pytest.raises(UploadUnknown):
                await put(each, session, Digest.of(SMALL), sized(SMALL), continued=continued)
        with pytest.raises(UploadUnknown):
            await put(each, session, Digest.of(first))
        with pytest.raises(UploadUnknown):
            await each.uploads.cancel(REPO, ALICE, session)
    assert (await truth(inner)).records == {}


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
    store.add(Rule(gone, operation=operation))
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

    assert cost(store) == (6, 21)


async def test_a_large_blob_in_one_chunk_and_a_put_costs_at_most_eight_requests_and_its_parts(
    registry: Registry, store: FaultyStore
) -> None:
    data = blob_bytes(20 * PART + 1)
    await head(registry, data)
    await push_chunks(registry, REPO, data, len(data))

    assert cost(store) == (8, 21)


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
