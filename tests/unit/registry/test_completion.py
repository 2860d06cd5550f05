"""From the last part to the blob: nothing but the bytes of its digest, whoever completes, and however often."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.unit.registry.helpers import (
    ALICE,
    LONG,
    OTHER,
    PART,
    REPO,
    FakeClock,
    blob_bytes,
    memory_store,
    noted,
    open_registry,
    pulled,
    push,
    sized,
    standstill,
    truth,
)
from tests.unit.registry.parallel import Client, presigning_store

from bucketry.hashing import Checkpoints
from bucketry.oci import Digest
from bucketry.oci.errors import BlobUnknown, DigestMismatch, SizeInvalid, UploadInvalid, UploadUnknown
from bucketry.registry import Blob, Registry, Stage
from bucketry.registry.sessions import State
from bucketry.store.contract import Unavailable
from bucketry.store.faults import Delay, FaultyStore, LoseAnswer, Rule
from bucketry.store.memory import MemoryStore

DATA = blob_bytes(5 * PART + 9)
DIGEST = Digest.of(DATA)


@pytest.fixture
async def client(registry: Registry) -> Client:
    """All of whose parts have arrived."""
    made = Client(registry, DATA)
    await made.begin()
    await made.put()
    return made


async def check_failed(client: Client, inner: MemoryStore, clock: FakeClock) -> None:
    """That it says so on every replica, nothing is visible, and nothing is left."""
    after = await truth(inner)
    assert (after.records, after.links, after.data, after.checkpoints, after.multiparts) == ({}, {}, {}, {}, 0)
    other = await open_registry(inner, clock, replica=9)
    for registry in (client.registry, other):
        status = await registry.parallel.status(REPO, ALICE, client.session)
        assert status.state is Stage.FAILED
        assert status.error is not None
        assert status.parts == ()
        with pytest.raises(DigestMismatch) as caught:
            await client.complete(registry=registry)
        assert caught.value.message == status.error
        with pytest.raises(UploadInvalid, match="failed"):
            await registry.parallel.urls(REPO, ALICE, client.session, [1], expires=60)
        with pytest.raises(BlobUnknown):
            await registry.blobs.find(REPO, DIGEST)
    clock.advance(LONG)
    await other.sweeper.sweep()
    assert (await truth(inner)).sessions == set()


# ---- other bytes


@pytest.mark.parametrize("with_list", [True, False])
@pytest.mark.parametrize("number", range(1, 7))
async def test_a_flipped_bit_in_any_part(
    registry: Registry, inner: MemoryStore, clock: FakeClock, number: int, with_list: bool
) -> None:
    client = Client(registry, DATA)
    await client.begin()
    await client.put([other for other in range(1, 7) if other != number])
    changed = bytearray(client.parts[number])
    changed[3] ^= 4
    await registry.parallel.put_part(REPO, ALICE, client.session, number, sized(bytes(changed)))

    with pytest.raises(DigestMismatch) as caught:
        await client.complete(with_list=with_list)

    assert isinstance(caught.value.detail, dict)
    assert caught.value.detail.get("segments") == ([number - 1] if with_list else None)
    await check_failed(client, inner, clock)


async def test_a_forged_list_of_good_bytes(client: Client, inner: MemoryStore, clock: FakeClock) -> None:
    with pytest.raises(DigestMismatch) as caught:
        await client.complete(checkpoints=replace(noted(DATA), states=bytes(5 * 32)).encode())

    assert isinstance(caught.value.detail, dict)
    assert caught.value.detail["segments"]
    await check_failed(client, inner, clock)


async def test_the_bytes_and_states_of_another_blob(registry: Registry, inner: MemoryStore, clock: FakeClock) -> None:
    other = blob_bytes(len(DATA), seed=1)
    client = Client(registry, other)
    await client.begin(known=False, part_size=PART)
    await client.put()
    client.data, client.digest = DATA, DIGEST
    forged = Checkpoints(DIGEST.hex, len(DATA), PART, noted(other).states)

    with pytest.raises(DigestMismatch) as caught:
        await client.complete(checkpoints=forged.encode())

    assert "5. Nothing was kept" in caught.value.message
    await check_failed(client, inner, clock)


async def test_whoever_does_not_have_the_bytes_gets_no_link_to_them(registry: Registry, clock: FakeClock) -> None:
    """Not by completing a session under the digest of a blob of another repository."""
    strict = await open_registry(registry.store, clock, replica=2, mount_without_source=False)
    await push(strict, OTHER, DATA)
    client = Client(strict, blob_bytes(len(DATA), seed=1))
    client.digest = DIGEST
    await client.begin()
    await client.put()

    with pytest.raises(DigestMismatch):
        await client.complete(checkpoints=noted(DATA).encode())

    with pytest.raises(BlobUnknown):
        await strict.blobs.find(REPO, DIGEST)
    assert await pulled(strict, OTHER, DIGEST) == DATA


async def test_a_failed_upload_may_be_cancelled(registry: Registry, inner: MemoryStore) -> None:
    client = Client(registry, DATA)
    await client.begin()
    await client.put()
    with pytest.raises(DigestMismatch):
        await client.complete(checkpoints=replace(noted(DATA), states=bytes(5 * 32)).encode())

    await registry.parallel.cancel(REPO, ALICE, client.session)

    await registry.close()
    assert (await truth(inner)).sessions == set()


# ---- parts that are sent late


@pytest.mark.parametrize("stale", [True, False])
@pytest.mark.parametrize("late", [bytes(PART), DATA[: PART - 1], DATA[:PART]])
@pytest.mark.parametrize("at", ["list_parts", "put", "complete_multipart"])
async def test_a_part_that_is_overwritten_while_the_upload_is_completed(
    clock: FakeClock, late: bytes, stale: bool, at: str
) -> None:
    """Whatever the store makes of it, what is published is what was hashed."""
    inner = memory_store(clock, accept_stale_parts=stale)
    store = FaultyStore(inner)
    registry = await open_registry(store, clock)
    client = Client(registry, DATA)
    await client.begin()
    await client.put()
    session = await client.stored(inner)
    assert session.data is not None
    assert session.upload is not None
    gate = asyncio.Event()
    store.add(Rule(Delay(until=gate), operation=at))

    completing = asyncio.create_task(client.complete())
    await standstill()
    await inner.put_part(session.data, session.upload, 1, late, offset=0)
    gate.set()

    if late == DATA[:PART]:
        assert isinstance(await completing, Blob)
    else:
        with pytest.raises((DigestMismatch, SizeInvalid)):
            await completing
        assert (await truth(inner)).records == {}
        if (await client.stored(inner)).state is State.OPEN:
            await client.put([1])
            await client.complete()
        else:
            await check_failed(client, inner, clock)
    assert (await truth(inner)).problems == []


async def test_a_last_part_that_grew_is_no_part_of_the_blob(clock: FakeClock) -> None:
    """Its first bytes are right, so every segment of the list holds."""
    inner = memory_store(clock, accept_stale_parts=True)
    store = FaultyStore(inner)
    client = Client(await open_registry(store, clock), DATA)
    await client.begin()
    await client.put()
    session = await client.stored(inner)
    assert session.data is not None
    assert session.upload is not None
    gate = asyncio.Event()
    store.add(Rule(Delay(until=gate), operation="complete_multipart"))

    completing = asyncio.create_task(client.complete())
    await standstill()
    await inner.put_part(session.data, session.upload, 6, DATA[5 * PART :] + b"more", offset=5 * PART)
    gate.set()

    with pytest.raises(DigestMismatch, match="another length"):
        await completing
    await check_failed(client, inner, clock)


async def test_parts_that_never_stop_arriving_are_told(clock: FakeClock) -> None:
    inner = memory_store(clock)
    store = FaultyStore(inner)
    client = Client(await open_registry(store, clock), DATA)
    await client.begin()
    await client.put()
    session = await client.stored(inner)
    assert session.data is not None
    assert session.upload is not None
    gates = [asyncio.Event() for _ in range(3)]
    for skip, gate in enumerate(gates):
        store.add(Rule(Delay(until=gate), operation="complete_multipart", skip=skip))
    completing = asyncio.create_task(client.complete())

    for count, gate in enumerate(gates):
        await standstill()
        await inner.put_part(session.data, session.upload, 1, bytes([count]) * PART, offset=0)
        gate.set()

    with pytest.raises(UploadInvalid, match="complete it again"):
        await completing
    await client.put([1])
    assert isinstance(await client.complete(), Blob)


async def test_no_part_is_taken_once_the_upload_is_completed(
    client: Client, store: FaultyStore, inner: MemoryStore, clock: FakeClock
) -> None:
    gate = asyncio.Event()
    store.add(Rule(Delay(until=gate), operation="read", times=None))
    other = await open_registry(inner, clock, replica=2)
    completing = asyncio.create_task(client.complete())
    await standstill()

    for registry in (client.registry, other):
        for body in (client.parts[1], bytes(PART)):
            with pytest.raises(UploadInvalid, match="being completed"):
                await registry.parallel.put_part(REPO, ALICE, client.session, 1, sized(body))
        with pytest.raises(UploadInvalid, match="being completed"):
            await registry.parallel.urls(REPO, ALICE, client.session, [1], expires=60)
        with pytest.raises(UploadInvalid, match="being verified"):
            await registry.parallel.cancel(REPO, ALICE, client.session)
    gate.set()
    await completing

    for registry in (client.registry, other):
        with pytest.raises(UploadUnknown):
            await registry.parallel.put_part(REPO, ALICE, client.session, 1, sized(bytes(PART)))
    assert await pulled(other, REPO, DIGEST) == DATA


# ---- several at once


@pytest.mark.parametrize("replicas", [1, 2])
async def test_two_completions_at_once_are_one(
    client: Client, inner: MemoryStore, clock: FakeClock, replicas: int
) -> None:
    other = await open_registry(inner, clock, replica=2) if replicas == 2 else client.registry

    answers = await asyncio.gather(*(client.complete(registry=each) for each in (client.registry, other) * 3))

    assert {answer.digest for answer in answers if isinstance(answer, Blob)} == {DIGEST}
    assert all(isinstance(answer, Blob) for answer in answers)
    await client.registry.close()
    after = await truth(inner)
    assert after.problems == []
    assert (after.sessions, after.orphans) == (set(), [])


async def test_it_is_read_back_once_however_many_ask(client: Client, store: FaultyStore) -> None:
    await asyncio.gather(*(client.complete() for _ in range(5)))

    assert store.calls["read"] == 6
    assert store.calls["complete_multipart"] == 1


async def test_one_session_cannot_become_two_blobs(client: Client, store: FaultyStore, inner: MemoryStore) -> None:
    client = Client(client.registry, DATA)
    await client.begin(known=False, part_size=PART)
    await client.put()
    gate = asyncio.Event()
    store.add(Rule(Delay(until=gate), operation="read", times=None))
    completing = asyncio.create_task(client.complete())
    await standstill()

    with pytest.raises(UploadInvalid, match="cannot become"):
        await client.complete(digest=Digest.of(DATA, "sha512"), checkpoints=None)
    gate.set()
    await completing
    with pytest.raises(UploadUnknown):
        await client.complete(digest=Digest.of(DATA, "sha512"), checkpoints=None)

    assert set((await truth(inner)).records) == {DIGEST}


async def test_the_same_blob_in_two_sessions_is_kept_once(
    client: Client, registry: Registry, inner: MemoryStore
) -> None:
    second = Client(registry, DATA)
    await second.begin(known=False, part_size=PART)
    await second.put()

    blobs = await asyncio.gather(client.complete(), second.complete())

    assert len({blob.data for blob in blobs if isinstance(blob, Blob)}) == 1
    await registry.close()
    after = await truth(inner)
    assert after.problems == []
    assert (len(after.data), after.sessions) == (1, set())


async def test_at_most_so_many_blobs_are_read_back_at_once(inner: MemoryStore, clock: FakeClock) -> None:
    gate = asyncio.Event()
    store = FaultyStore(inner, [Rule(Delay(until=gate), operation="read", times=None)])
    registry = await open_registry(store, clock, verify_at_once=2, verify_readers=3)
    clients = [Client(registry, blob_bytes(len(DATA), seed=seed)) for seed in range(4)]
    for each in clients:
        await each.begin()
        await each.put()

    completing = [asyncio.create_task(each.complete()) for each in clients]
    await standstill()

    assert store.calls["read"] == 2 * 3
    assert store.calls["complete_multipart"] == 4
    gate.set()
    assert all(isinstance(blob, Blob) for blob in await asyncio.gather(*completing))


# ---- what is asked again


async def test_the_same_completion_is_answered_again(client: Client, inner: MemoryStore, clock: FakeClock) -> None:
    first = await client.complete()
    other = await open_registry(inner, clock, replica=2)

    assert await client.complete() == first
    assert await client.complete(registry=other) == first
    await client.registry.close()
    third = await open_registry(inner, clock, replica=3)
    assert await client.complete(registry=third) == first
    await third.blobs.delete(REPO, DIGEST)
    with pytest.raises(UploadUnknown):
        await client.complete(registry=await open_registry(inner, clock, replica=4))


@pytest.mark.parametrize(
    ("operation", "prefix"),
    [
        ("put", "uploads/"),
        ("complete_multipart", "data/"),
        ("put", "checkpoints/"),
        ("put", "blobs/"),
        ("put", "repos/"),
    ],
)
@pytest.mark.parametrize("skip", [0, 1])
async def test_a_lost_answer_is_no_reason_to_wait(
    client: Client, store: FaultyStore, inner: MemoryStore, operation: str, prefix: str, skip: int
) -> None:
    """The claim that was written is this process's own."""
    store.add(Rule(LoseAnswer(), operation=operation, prefix=prefix, skip=skip))
    for _ in range(2):
        try:
            answer = await client.complete()
        except Unavailable:
            continue
        assert isinstance(answer, Blob)
    after = await truth(inner)
    assert after.problems == []
    assert set(after.records) == {DIGEST}


# ---- hashed by the caller


async def test_what_this_process_hashed_is_not_read_back(client: Client, store: FaultyStore) -> None:
    blob = await client.registry.parallel.complete(
        REPO, ALICE, client.session, DIGEST, len(DATA), noted(DATA).encode(), wait=5, hashed=True
    )

    assert isinstance(blob, Blob)
    assert (store.calls["read"], store.calls["head"]) == (0, 0)
    assert Checkpoints.parse(await client.registry.blobs.checkpoints(REPO, DIGEST)) == noted(DATA)


@pytest.mark.parametrize(("size", "segment"), [(10, 64), (5 * PART, 64 * PART)])
async def test_a_list_of_one_segment_is_not_kept(
    registry: Registry, inner: MemoryStore, size: int, segment: int
) -> None:
    client = Client(registry, blob_bytes(size))
    await client.begin()
    await client.put()

    await registry.parallel.complete(
        REPO, ALICE, client.session, client.digest, size, noted(client.data, segment).encode(), wait=5, hashed=True
    )

    after = await truth(inner)
    assert (after.problems, after.checkpoints) == ([], {})


async def test_what_another_process_began_is_read_back(client: Client, inner: MemoryStore, clock: FakeClock) -> None:
    view = FaultyStore(inner)
    other = await open_registry(view, clock, replica=2)

    await other.parallel.complete(REPO, ALICE, client.session, DIGEST, len(DATA), None, wait=5, hashed=True)

    assert view.calls["read"] == 1


async def test_what_may_have_come_by_a_url_is_read_back(clock: FakeClock) -> None:
    store = presigning_store(clock)
    registry = await open_registry(store, clock)
    client = Client(registry, DATA)
    await client.begin()
    await client.put()
    await registry.parallel.urls(REPO, ALICE, client.session, [1], expires=60)
    session = await client.stored(store)
    assert session.data is not None
    assert session.upload is not None
    await store.put_part(session.data, session.upload, 1, bytes(PART), offset=0)

    with pytest.raises(DigestMismatch):
        await registry.parallel.complete(
            REPO, ALICE, client.session, DIGEST, len(DATA), noted(DATA).encode(), wait=5, hashed=True
        )


async def test_a_claim_that_is_taken_up_again_is_read_back_whoever_hashed_it(
    client: Client, store: FaultyStore, inner: MemoryStore
) -> None:
    store.add(Rule(LoseAnswer(), operation="put", prefix="uploads/"))
    for _ in range(2):
        try:
            await client.registry.parallel.complete(
                REPO, ALICE, client.session, DIGEST, len(DATA), None, wait=5, hashed=True
            )
        except Unavailable:
            continue

    assert store.calls["read"] == 1
    assert (await truth(inner)).problems == []
