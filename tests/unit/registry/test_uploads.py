"""Uploads as a client sees them: every way to push, chunks, interruptions, wrong digests, sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.unit.registry.helpers import (
    ALICE,
    DAY,
    OTHER,
    PART,
    REPO,
    FakeClock,
    blob_bytes,
    interrupted,
    memory_store,
    open_registry,
    pieces,
    placed,
    pulled,
    push,
    push_chunks,
    sized,
    standstill,
    streamed,
    truth,
)
from tests.unit.registry.pushing import LARGE, SMALL, Form, begin, offset_of, patch, put

from bucketry.oci import Digest
from bucketry.oci.errors import (
    BlobUnknown,
    DigestMismatch,
    RangeInvalid,
    SizeInvalid,
    UploadUnknown,
)
from bucketry.registry import BodyInterrupted, Chunk, Registry
from bucketry.store.faults import Delay, FaultyStore, Rule
from bucketry.store.memory import MemoryStore

SIZES = [0, 1, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 1, 5 * PART, 5 * PART + 7]


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
