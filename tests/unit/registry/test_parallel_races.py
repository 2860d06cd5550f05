"""A request that has seen a session open, while another replica completes it, still knows the session."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.registry.helpers import ALICE, PART, REPO, FakeClock, blob_bytes, open_registry, standstill
from tests.unit.registry.parallel import Client

from bucketry.oci import Digest
from bucketry.oci.errors import UploadInvalid, UploadUnknown
from bucketry.registry import Blob, Registry, Stage
from bucketry.store.faults import Delay, FaultyStore, Rule
from bucketry.store.memory import MemoryStore

DATA = blob_bytes(2 * PART + 9)


@pytest.fixture
async def client(registry: Registry) -> Client:
    made = Client(registry, DATA)
    await made.begin()
    await made.put()
    return made


async def held(inner: MemoryStore, clock: FakeClock) -> tuple[Registry, asyncio.Event]:
    """A replica that stops before it asks which parts there are."""
    gate = asyncio.Event()
    return await open_registry(FaultyStore(inner, [Rule(Delay(until=gate), operation="list_parts")]), clock), gate


async def test_complete_finds_the_blob(client: Client, inner: MemoryStore, clock: FakeClock) -> None:
    late, gate = await held(inner, clock)
    completing = asyncio.create_task(client.complete(registry=late))
    await standstill()
    assert isinstance(await client.complete(), Blob)
    gate.set()
    assert isinstance(await completing, Blob)


async def test_complete_as_another_blob_is_told_so(client: Client, inner: MemoryStore, clock: FakeClock) -> None:
    client.opened = None
    await client.begin(known=False)
    await client.put()
    late, gate = await held(inner, clock)
    other = Digest.of(b"another")
    completing = asyncio.create_task(client.complete(registry=late, digest=other, with_list=False))
    await standstill()
    assert isinstance(await client.complete(), Blob)
    gate.set()
    with pytest.raises(UploadInvalid):
        await completing


async def test_status_says_done(client: Client, inner: MemoryStore, clock: FakeClock) -> None:
    late, gate = await held(inner, clock)
    asking = asyncio.create_task(late.parallel.status(REPO, ALICE, client.session))
    await standstill()
    await client.complete()
    gate.set()
    assert (await asking).state is Stage.DONE
    for registry in (client.registry, late):
        assert (await registry.parallel.status(REPO, ALICE, client.session)).state is Stage.DONE
    await client.registry.ended.flush()
    for registry in (client.registry, late):
        with pytest.raises(UploadUnknown):
            await registry.parallel.status(REPO, ALICE, client.session)


async def test_session_whose_parts_are_gone_has_ended(client: Client, inner: MemoryStore) -> None:
    """A sweeper takes the parts before the session."""
    session = await client.stored(inner)
    assert session.data is not None
    assert session.upload is not None
    await inner.abort_multipart(session.data, session.upload)
    with pytest.raises(UploadUnknown):
        await client.complete()
    with pytest.raises(UploadUnknown):
        await client.registry.parallel.status(REPO, ALICE, client.session)
