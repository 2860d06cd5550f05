"""Every way to push a blob leaves its SHA-256 checkpoints."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.registry.helpers import (
    ALICE,
    LONG,
    OTHER,
    PART,
    REPO,
    FakeClock,
    blob_bytes,
    keys,
    noted,
    open_registry,
    placed,
    push,
    push_chunks,
    push_patch_put,
    sized,
    streamed,
    truth,
)

from bucketry.hashing import Checkpoints
from bucketry.oci import Digest
from bucketry.oci.errors import BlobUnknown
from bucketry.registry import Registry, layout
from bucketry.registry.noting import Hashes, checkpoints, coarser, kept
from bucketry.registry.records import BlobRecord, decode
from bucketry.registry.sessions import Session, parse
from bucketry.store.contract import IfMatch
from bucketry.store.faults import CrashAfter, Crashed, FaultyStore, Refuse, Rule
from bucketry.store.memory import MemoryStore

SEGMENT = 3 * PART
LARGE = blob_bytes(20 * PART + 9)
DIGEST = Digest.of(LARGE)


@pytest.fixture
async def registry(store: FaultyStore, clock: FakeClock) -> Registry:
    return await open_registry(store, clock, segment=SEGMENT)


async def record_of(store: MemoryStore, digest: Digest) -> BlobRecord:
    held = await store.get(layout.record(digest))
    return decode(held.body, BlobRecord, held.info.key)


async def check(registry: Registry, inner: MemoryStore, data: bytes, repository: str = REPO) -> None:
    """That the blob's checkpoints are there, are right, and are told of."""
    body = await registry.blobs.checkpoints(repository, Digest.of(data))
    assert Checkpoints.parse(body) == noted(data, SEGMENT)
    assert (await record_of(inner, Digest.of(data))).segment == SEGMENT
    assert (await truth(inner)).problems == []


# ---- every way to push


async def test_a_single_post(registry: Registry, inner: MemoryStore) -> None:
    await push(registry, REPO, LARGE)

    await check(registry, inner, LARGE)


async def test_a_put(registry: Registry, inner: MemoryStore) -> None:
    session = registry.uploads.begin(REPO, ALICE).session_id

    await registry.uploads.commit(REPO, ALICE, session, DIGEST, sized(LARGE), continued=False)

    await check(registry, inner, LARGE)


async def test_a_streamed_patch_and_a_put(registry: Registry, inner: MemoryStore) -> None:
    await push_patch_put(registry, REPO, LARGE)

    await check(registry, inner, LARGE)


@pytest.mark.parametrize("chunk", [7, PART - 1, PART, SEGMENT, SEGMENT + 1, 5 * PART])
async def test_chunk_after_chunk(registry: Registry, inner: MemoryStore, chunk: int) -> None:
    await push_chunks(registry, REPO, LARGE, chunk)

    await check(registry, inner, LARGE)


async def test_each_chunk_on_another_replica(inner: MemoryStore, clock: FakeClock) -> None:
    replicas = [await open_registry(inner, clock, replica=number, segment=SEGMENT) for number in range(1, 4)]
    session = replicas[0].uploads.begin(REPO, ALICE).session_id
    for at, start in enumerate(range(0, len(LARGE), 100)):
        chunk = placed(LARGE[start : start + 100], start)
        await replicas[at % 3].uploads.append(REPO, ALICE, session, chunk, continued=start > 0)

    await replicas[0].uploads.commit(REPO, ALICE, session, DIGEST, None, continued=True)

    await check(replicas[0], inner, LARGE)


async def test_a_session_keeps_the_segment_it_began_with(inner: MemoryStore, clock: FakeClock) -> None:
    """As long as replicas of two configurations are at work."""
    one = await open_registry(inner, clock, replica=1, segment=SEGMENT)
    two = await open_registry(inner, clock, replica=2, segment=PART)
    session = one.uploads.begin(REPO, ALICE).session_id
    await one.uploads.append(REPO, ALICE, session, placed(LARGE[:500], 0), continued=False)
    await two.uploads.append(REPO, ALICE, session, placed(LARGE[500:], 500), continued=True)

    await two.uploads.commit(REPO, ALICE, session, DIGEST, None, continued=True)

    await check(two, inner, LARGE)


async def test_parts_longer_than_segments_in_one_object(inner: MemoryStore, clock: FakeClock) -> None:
    """No part of such a blob ever left before its commit, or it is sealed."""
    registry = await open_registry(inner, clock, part_size=100 * PART, memory=1000 * PART, segment=SEGMENT)
    other = blob_bytes(len(LARGE), seed=1)

    await push_patch_put(registry, REPO, LARGE)
    await push_chunks(registry, REPO, other, 50)

    await check(registry, inner, LARGE)
    await check(registry, inner, other)


@pytest.mark.parametrize("part_size", [PART, 100 * PART])
async def test_a_blob_that_is_read_back_because_it_was_declared_as_another(
    inner: MemoryStore, clock: FakeClock, part_size: int
) -> None:
    registry = await open_registry(inner, clock, part_size=part_size, memory=1000 * PART, segment=SEGMENT)
    session = registry.uploads.begin(REPO, ALICE, "sha512").session_id
    await registry.uploads.append(REPO, ALICE, session, streamed(LARGE), continued=False)

    await registry.uploads.commit(REPO, ALICE, session, DIGEST, None, continued=True)

    await check(registry, inner, LARGE)


async def test_what_is_closed_with_a_last_chunk_at_hand_and_was_declared_as_another(
    inner: MemoryStore, clock: FakeClock
) -> None:
    registry = await open_registry(inner, clock, part_size=100 * PART, memory=1000 * PART, segment=SEGMENT)
    session = registry.uploads.begin(REPO, ALICE, "sha512").session_id
    await registry.uploads.append(REPO, ALICE, session, placed(LARGE[:500], 0), continued=False)

    await registry.uploads.commit(REPO, ALICE, session, DIGEST, placed(LARGE[500:], 500), continued=True)

    await check(registry, inner, LARGE)


async def test_a_commit_that_is_tried_again(inner: MemoryStore, clock: FakeClock) -> None:
    first = FaultyStore(inner, [Rule(CrashAfter(), operation="complete_multipart")])
    registry = await open_registry(first, clock, replica=1, segment=SEGMENT)
    session = registry.uploads.begin(REPO, ALICE).session_id
    await registry.uploads.append(REPO, ALICE, session, streamed(LARGE), continued=False)
    with pytest.raises(Crashed):
        await registry.uploads.commit(REPO, ALICE, session, DIGEST, None, continued=True)

    other = await open_registry(inner, clock, replica=2, segment=SEGMENT)
    await other.uploads.commit(REPO, ALICE, session, DIGEST, None, continued=True)

    await check(other, inner, LARGE)


# ---- none where none are needed, or can be


@pytest.mark.parametrize("size", [0, 1, SEGMENT - 1, SEGMENT])
async def test_a_blob_of_one_segment_has_none_and_costs_nothing(
    registry: Registry, store: FaultyStore, inner: MemoryStore, size: int
) -> None:
    digest = await push(registry, REPO, blob_bytes(size))

    assert (await record_of(inner, digest)).segment == 0
    assert [call for call in store.log if call.key.startswith("checkpoints/")] == []
    with pytest.raises(BlobUnknown, match="no checkpoints"):
        await registry.blobs.checkpoints(REPO, digest)


async def test_one_byte_more_has_some(registry: Registry, inner: MemoryStore) -> None:
    data = blob_bytes(SEGMENT + 1)

    await push(registry, REPO, data)

    await check(registry, inner, data)
    assert len(await registry.blobs.checkpoints(REPO, Digest.of(data))) == 56 + 32


async def test_sha512_and_a_machine_without_libcrypto_leave_none(inner: MemoryStore, clock: FakeClock) -> None:
    registry = await open_registry(inner, clock, segment=SEGMENT)
    fallback = await open_registry(inner, clock, replica=2, segment=SEGMENT, native_hash=False)
    digest = await push(registry, REPO, LARGE, "sha512")
    await push_patch_put(fallback, REPO, LARGE)

    for each in (digest, DIGEST):
        with pytest.raises(BlobUnknown, match="no checkpoints"):
            await registry.blobs.checkpoints(REPO, each)
    assert await keys(inner, "checkpoints/") == []
    assert (await truth(inner)).problems == []


async def test_a_session_of_before_they_were_noted_goes_on_without(registry: Registry, inner: MemoryStore) -> None:
    session = registry.uploads.begin(REPO, ALICE).session_id
    await registry.uploads.append(REPO, ALICE, session, placed(LARGE[:500], 0), continued=False)
    (key,) = await keys(inner, "uploads/")
    held = await inner.get(key)
    tail = parse(key, held.body, held.info.etag).tail
    line = msgspec.json.decode(held.body.partition(b"\n")[0])
    for name in ("segment", "states", "expected", "verification"):
        del line[name]
    await inner.put(key, msgspec.json.encode(line) + b"\n" + tail, condition=IfMatch(held.info.etag))

    await registry.uploads.append(REPO, ALICE, session, placed(LARGE[500:], 500), continued=True)
    await registry.uploads.commit(REPO, ALICE, session, DIGEST, None, continued=True)

    assert (await record_of(inner, DIGEST)).segment == 0
    assert await keys(inner, "checkpoints/") == []


# ---- with a record that is there


async def test_a_blob_without_gets_them_from_who_pushes_it_again(inner: MemoryStore, clock: FakeClock) -> None:
    fallback = await open_registry(inner, clock, replica=2, native_hash=False)
    await push(fallback, OTHER, LARGE)
    before = await record_of(inner, DIGEST)

    registry = await open_registry(inner, clock, segment=SEGMENT)
    await push(registry, REPO, LARGE)

    await check(registry, inner, LARGE)
    await check(registry, inner, LARGE, OTHER)
    after = await record_of(inner, DIGEST)
    assert (after.data, after.created) == (before.data, before.created)
    assert after.nonce != before.nonce


async def test_a_record_keeps_them_where_who_pushes_again_has_none(inner: MemoryStore, clock: FakeClock) -> None:
    registry = await open_registry(inner, clock, segment=SEGMENT)
    await push(registry, OTHER, LARGE)

    fallback = await open_registry(inner, clock, replica=2, native_hash=False)
    await push(fallback, REPO, LARGE)

    await check(registry, inner, LARGE)


async def test_the_record_is_written_after_them(registry: Registry, store: FaultyStore, inner: MemoryStore) -> None:
    store.add(Rule(Refuse(), operation="put", prefix="checkpoints/"))

    with pytest.raises(Exception, match="refused"):
        await push(registry, REPO, LARGE)

    assert (await truth(inner)).records == {}
    await push(registry, REPO, LARGE)
    await check(registry, inner, LARGE)


async def test_whoever_has_no_link_gets_none(registry: Registry, store: FaultyStore) -> None:
    await push(registry, OTHER, LARGE)
    store.log.clear()

    with pytest.raises(BlobUnknown, match="has no blob"):
        await registry.blobs.checkpoints(REPO, DIGEST)

    assert [call.key for call in store.log] == [layout.link(REPO, DIGEST)]


async def test_those_of_a_commit_that_died_go_with_its_session(inner: MemoryStore, clock: FakeClock) -> None:
    view = FaultyStore(inner, [Rule(CrashAfter(), operation="put", prefix="checkpoints/")])
    registry = await open_registry(view, clock, segment=SEGMENT)
    with pytest.raises(Crashed):
        await push_patch_put(registry, REPO, LARGE)
    assert (await truth(inner)).stray == [DIGEST]
    clock.advance(LONG)

    await (await open_registry(inner, clock, replica=2)).sweeper.sweep()

    after = await truth(inner)
    assert (after.checkpoints, after.sessions, after.data) == ({}, set(), {})


# ---- the pure parts


SIZES = st.integers(0, 12 * PART)


@given(SIZES, st.integers(1, 6), st.integers(1, 8))
def test_coarser_leaves_states_out_or_changes_nothing(size: int, blocks: int, times: int) -> None:
    data, segment = blob_bytes(size), blocks * 64
    given_list = noted(data, segment)

    assert coarser(given_list, segment * times) == noted(data, segment * times)
    assert coarser(given_list, segment + 64) == (noted(data, 128) if segment == 64 else given_list)
    assert coarser(given_list, segment - 64) == given_list


@given(SIZES, SIZES, st.integers(1, 4))
def test_a_hash_goes_on_from_a_session_with_what_it_noted(first: int, second: int, blocks: int) -> None:
    hashes = Hashes(segment=64 * blocks, native=True)
    data = blob_bytes(first + second)
    hasher = hashes.new("sha256")
    hasher.update(data[:first])
    session = kept(Session(nonce="", repository=REPO), hasher, first)
    stored = msgspec.json.decode(msgspec.json.encode(session), type=Session)

    goes_on = Hashes(segment=64, native=True).restored(stored)
    assert goes_on is not None
    goes_on.update(data[first:])

    assert goes_on.hexdigest() == hashlib.sha256(data).hexdigest()
    expected = noted(data, 64 * blocks)
    assert checkpoints(goes_on) == (expected if expected.count > 1 else None)


def test_a_hash_that_has_not_seen_every_byte_is_not_kept() -> None:
    hasher = Hashes(segment=PART, native=True).new("sha256")
    hasher.update(b"abc")

    session = kept(Session(nonce="", repository=REPO), hasher, 4)

    assert (session.hash, session.states, session.segment) == (None, None, 0)


def test_without_libcrypto_nothing_is_kept_or_taken_up() -> None:
    native = Hashes(segment=PART, native=True)
    hasher = native.new("sha256")
    hasher.update(LARGE)
    session = kept(Session(nonce="", repository=REPO), hasher, len(LARGE))
    fallback = Hashes(segment=PART, native=False)

    assert native.resumable
    assert not fallback.resumable
    assert fallback.restored(session) is None
    other = fallback.new("sha256")
    other.update(LARGE)
    assert other.hexdigest() == hashlib.sha256(LARGE).hexdigest()
    assert kept(session, other, len(LARGE)).hash is None
    assert checkpoints(other) is None
