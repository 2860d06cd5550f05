"""A verification that takes longer than a request: what it says meanwhile, and who goes on with it."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.registry.helpers import (
    ALICE,
    OTHER,
    PART,
    REPO,
    FakeClock,
    blob_bytes,
    open_registry,
    push,
    standstill,
    truth,
)
from tests.unit.registry.parallel import Client

from bucketry.oci.errors import UploadInvalid
from bucketry.registry import Blob, Registry, Stage, Verifying
from bucketry.registry.sessions import State
from bucketry.store.contract import Unavailable
from bucketry.store.faults import CrashAfter, Crashed, Delay, FaultyStore, LoseAnswer, Refuse, Rule
from bucketry.store.memory import MemoryStore

DATA = blob_bytes(5 * PART + 9)


@pytest.fixture
async def client(registry: Registry) -> Client:
    """All of whose parts have arrived."""
    made = Client(registry, DATA)
    await made.begin()
    await made.put()
    return made


# ---- what takes long


async def beat(client: Client, inner: MemoryStore, count: int = 1) -> None:
    """Until the session was written that often from now on."""
    for _ in range(count):
        nonce = (await client.stored(inner)).nonce
        while (await client.stored(inner)).nonce == nonce:
            await asyncio.sleep(0.001)


async def test_the_work_goes_on_after_the_answer(client: Client, store: FaultyStore) -> None:
    gate = asyncio.Event()
    store.add(Rule(Delay(until=gate), operation="read", skip=2, times=None))

    assert await client.complete(wait=0) == Verifying(0, len(DATA))
    await standstill()
    assert await client.complete(wait=0) == Verifying(2 * PART, len(DATA))
    status = await client.registry.parallel.status(REPO, ALICE, client.session)
    assert (status.state, status.verified, status.size) == (Stage.VERIFYING, 2 * PART, len(DATA))
    assert [part.number for part in status.parts] == [1, 2, 3, 4, 5, 6]
    gate.set()
    await standstill()

    assert isinstance(await client.complete(wait=0), Blob)


async def test_what_is_wrong_with_the_request_is_said_without_waiting(registry: Registry) -> None:
    client = Client(registry, DATA)
    await client.begin()
    await client.put([1])

    for _ in range(2):
        with pytest.raises(UploadInvalid):
            await client.complete(wait=0)


async def test_the_work_outlives_a_request_that_goes_away(client: Client, store: FaultyStore) -> None:
    gate = asyncio.Event()
    store.add(Rule(Delay(until=gate), operation="read", times=None))
    request = asyncio.create_task(client.complete())
    await standstill()

    request.cancel()
    gate.set()
    await standstill()

    assert isinstance(await client.complete(wait=0), Blob)
    assert store.calls["read"] == 6


async def test_the_session_says_how_far_it_is(client: Client, inner: MemoryStore, clock: FakeClock) -> None:
    gate = asyncio.Event()
    view = FaultyStore(inner, [Rule(Delay(until=gate), operation="read", skip=2, times=None)])
    registry = await open_registry(view, clock, replica=3, verify_beat=0.001)
    client.registry = registry
    await client.complete(wait=0)
    await standstill()
    await beat(client, inner, 2)
    other = await open_registry(inner, clock, replica=2)

    assert await client.complete(registry=other, wait=0) == Verifying(2 * PART, len(DATA))
    status = await other.parallel.status(REPO, ALICE, client.session)
    assert (status.state, status.verified) == (Stage.VERIFYING, 2 * PART)
    gate.set()
    assert isinstance(await client.complete(), Blob)
    assert isinstance(await client.complete(registry=other), Blob)


async def test_a_sign_of_life_that_cannot_be_written_stops_nothing(
    client: Client, inner: MemoryStore, clock: FakeClock
) -> None:
    gate = asyncio.Event()
    view = FaultyStore(inner, [Rule(Delay(until=gate), operation="read", times=None)])
    registry = await open_registry(view, clock, replica=3, verify_beat=0.001)
    completing = asyncio.create_task(client.complete(registry=registry))
    await standstill()
    before = view.calls["put"]
    view.add(Rule(Refuse(), operation="put", prefix="uploads/", times=3))
    view.add(Rule(LoseAnswer(), operation="put", prefix="uploads/", skip=3, times=3))
    while view.calls["put"] < before + 11:
        await asyncio.sleep(0.001)

    gate.set()

    assert isinstance(await completing, Blob)


# ---- who falls silent, or stops


async def stuck(client: Client, inner: MemoryStore, clock: FakeClock) -> FaultyStore:
    """Another replica has claimed the upload, and hangs while it reads."""
    view = FaultyStore(inner, [Rule(Delay(until=asyncio.Event()), operation="read", times=None)])
    registry = await open_registry(view, clock, replica=5)
    assert isinstance(await client.complete(registry=registry, wait=0), Verifying)
    await standstill()
    assert view.calls["complete_multipart"] == 1
    return view


async def test_a_silent_claim_is_taken_over(
    client: Client, store: FaultyStore, inner: MemoryStore, clock: FakeClock
) -> None:
    (await stuck(client, inner, clock)).crash()

    assert isinstance(await client.complete(wait=0), Verifying)
    clock.advance(14.9)
    assert isinstance(await client.complete(wait=0), Verifying)
    await standstill()
    assert store.calls["read"] == 0
    clock.advance(0.1)

    assert isinstance(await client.complete(), Blob)
    assert (await truth(inner)).problems == []


async def test_a_claim_that_lives_is_not_taken_over(client: Client, inner: MemoryStore, clock: FakeClock) -> None:
    view = FaultyStore(inner, [Rule(Delay(until=asyncio.Event()), operation="read", times=None)])
    beating = await open_registry(view, clock, replica=5, verify_beat=0.001)
    await client.complete(registry=beating, wait=0)

    for _ in range(5):
        assert isinstance(await client.complete(wait=0), Verifying)
        clock.advance(60)
        await beat(client, inner)
    assert (await client.stored(inner)).state is State.COMMITTING

    view.crash()
    await standstill()
    assert isinstance(await client.complete(wait=0), Verifying)
    clock.advance(16)
    assert isinstance(await client.complete(), Blob)


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
async def test_the_clocks_of_replicas_may_differ(
    client: Client, inner: MemoryStore, clock: FakeClock, skew: float
) -> None:
    await stuck(client, inner, clock)
    theirs = FakeClock(clock.now() + skew)
    other = await open_registry(inner, theirs, replica=2)

    assert isinstance(await client.complete(registry=other, wait=0), Verifying)
    theirs.advance(16)
    assert isinstance(await client.complete(registry=other), Blob)


async def test_who_was_taken_over_finds_the_blob(client: Client, inner: MemoryStore, clock: FakeClock) -> None:
    gate = asyncio.Event()
    view = FaultyStore(inner, [Rule(Delay(until=gate), operation="read", times=None)])
    slow = await open_registry(view, clock, replica=5)
    completing = asyncio.create_task(client.complete(registry=slow))
    await standstill()
    await client.complete(wait=0)
    clock.advance(16)
    await client.complete()

    gate.set()

    assert isinstance(await completing, Blob)
    await client.registry.close()
    after = await truth(inner)
    assert after.problems == []
    assert (after.sessions, after.orphans) == (set(), [])


async def test_who_was_taken_over_leaves_the_session_to_who_has_it(
    client: Client, store: FaultyStore, inner: MemoryStore, clock: FakeClock
) -> None:
    gate = asyncio.Event()
    view = FaultyStore(inner, [Rule(Delay(until=gate), operation="read", times=None)])
    slow = await open_registry(view, clock, replica=5)
    completing = asyncio.create_task(client.complete(registry=slow, wait=0.1))
    await standstill()
    store.add(Rule(Delay(until=asyncio.Event()), operation="read", times=None))
    await client.complete(wait=0)
    clock.advance(16)
    await client.complete(wait=0)
    await standstill()
    before = await client.stored(inner)

    gate.set()

    assert isinstance(await completing, Verifying)
    after = await client.stored(inner)
    assert (after.state, after.nonce) == (State.COMMITTING, before.nonce)
    await client.registry.close()
    assert isinstance(await client.complete(registry=slow), Blob)


@pytest.mark.parametrize("prefix", ["blobs/", "repos/"])
async def test_what_was_published_is_not_read_again(
    client: Client, inner: MemoryStore, clock: FakeClock, prefix: str
) -> None:
    """Its replica died between the record and the end of the session."""
    view = FaultyStore(inner, [Rule(CrashAfter(), operation="put", prefix=prefix)])
    with pytest.raises(Crashed):
        await client.complete(registry=await open_registry(view, clock, replica=5))
    other = FaultyStore(inner)
    registry = await open_registry(other, clock, replica=6)
    await client.complete(registry=registry, wait=0)
    clock.advance(16)

    assert isinstance(await client.complete(registry=registry), Blob)

    assert other.calls["read"] == 0
    await registry.close()
    after = await truth(inner)
    assert (after.problems, after.sessions) == ([], set())


async def test_who_was_taken_over_and_finds_no_bytes_finds_the_blob(
    client: Client, inner: MemoryStore, clock: FakeClock
) -> None:
    """The blob was pushed meanwhile, so who had taken over has deleted the bytes of this upload."""
    gate = asyncio.Event()
    view = FaultyStore(inner, [Rule(Delay(until=gate), operation="read", times=None)])
    slow = await open_registry(view, clock, replica=5)
    completing = asyncio.create_task(client.complete(registry=slow))
    await standstill()
    await client.complete(wait=0)
    clock.advance(16)
    await push(client.registry, OTHER, DATA)
    await client.complete()

    gate.set()

    assert isinstance(await completing, Blob)
    assert len((await truth(inner)).data) == 1


async def test_a_registry_that_closes_gives_its_claims_back(
    client: Client, store: FaultyStore, inner: MemoryStore, clock: FakeClock
) -> None:
    store.add(Rule(Delay(until=asyncio.Event()), operation="read", times=None))
    waiting = asyncio.create_task(client.complete())
    await standstill()

    await client.registry.close()

    assert isinstance(await waiting, Verifying)
    assert client.registry.uploads.budget.used == 0
    other = await open_registry(inner, clock, replica=2)
    assert isinstance(await client.complete(registry=other), Blob)


async def test_a_store_that_fails_while_it_is_read_can_be_tried_again(client: Client, store: FaultyStore) -> None:
    store.add(Rule(Refuse(), operation="read", skip=3))

    with pytest.raises(Unavailable):
        await client.complete()

    assert isinstance(await client.complete(), Blob)


async def test_a_session_that_is_verified_outlives_its_age(
    client: Client, inner: MemoryStore, clock: FakeClock
) -> None:
    clock.advance(20 * 3600)
    view = FaultyStore(inner, [Rule(Delay(until=asyncio.Event()), operation="read", times=None)])
    beating = await open_registry(view, clock, replica=5, verify_beat=0.001)
    await client.complete(registry=beating, wait=0)
    clock.advance(20 * 3600)
    await beat(client, inner)

    await client.registry.sweeper.sweep()

    assert len((await truth(inner)).sessions) == 1
    await beating.close()
