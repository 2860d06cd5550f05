"""Parts in any order on real stores: a folder, and an S3 server that takes stale etags."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.store.seaweed import Seaweed
from tests.unit.registry.helpers import ALICE, REPO, FakeClock, noted, pieces, pulled, truth

from bucketry.hashing import Checkpoints
from bucketry.oci import Digest
from bucketry.oci.errors import DigestMismatch, UploadUnknown
from bucketry.registry import Blob, Chunk, Opened, Registry, RegistrySettings, Verifying
from bucketry.registry.sessions import parse
from bucketry.store.contract import MIN_PART, Store, UploadNotFound
from bucketry.store.faults import Delay, FaultyStore, Rule
from bucketry.store.local import LocalStore
from bucketry.store.s3 import S3Store

SETTINGS = RegistrySettings(part_size=MIN_PART, segment=MIN_PART)
_prefixes = itertools.count()


def layer(seed: int) -> bytes:
    """Two parts and a rest."""
    return b"".join((seed * 10**9 + word).to_bytes(64, "big") for word in range(2 * MIN_PART // 64)) + b"the rest"


DATA = layer(1)
DIGEST = Digest.of(DATA)
PARTS = {1: DATA[:MIN_PART], 2: DATA[MIN_PART : 2 * MIN_PART], 3: DATA[2 * MIN_PART :]}


@pytest.fixture(params=["local", "s3"])
async def inner(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store: Store
    if request.param == "local":
        store = LocalStore(tmp_path / "store")
    else:
        seaweed: Seaweed = request.getfixturevalue("seaweed")
        store = S3Store(seaweed.settings(f"parallel-stores-{next(_prefixes)}"))
    await store.start()
    yield store
    await store.close()


class Upload:
    """A session all of whose parts have arrived: straight at the store where that has URLs."""

    def __init__(self, registry: Registry, opened: Opened) -> None:
        self.registry = registry
        self.session = opened.session_id

    @classmethod
    async def of(cls, registry: Registry) -> Upload:
        opened = await registry.parallel.begin(REPO, ALICE)
        assert isinstance(opened, Opened)
        assert opened.part_size == 2 * MIN_PART
        opened = await registry.parallel.begin(REPO, ALICE, digest=DIGEST, size=len(DATA), part_size=MIN_PART)
        assert isinstance(opened, Opened)
        assert opened.part_size == MIN_PART
        upload = cls(registry, opened)
        await asyncio.gather(*(upload.put(number, body) for number, body in sorted(PARTS.items(), reverse=True)))
        return upload

    async def put(self, number: int, body: bytes) -> None:
        urls = await self.registry.parallel.urls(REPO, ALICE, self.session, [number], expires=60)
        if urls is None:
            chunk = Chunk(pieces(body, 1024 * 1024), len(body))
            await self.registry.parallel.put_part(REPO, ALICE, self.session, number, chunk)
            return
        assert await put_to(urls[number], body) == 200

    async def complete(self, registry: Registry | None = None, *, wait: float = 20.0) -> Blob | Verifying:
        return await (registry or self.registry).parallel.complete(
            REPO, ALICE, self.session, DIGEST, len(DATA), noted(DATA, MIN_PART).encode(), wait=wait
        )


async def put_to(url: str, body: bytes) -> int:
    async with aiohttp.ClientSession() as client, client.put(url, data=io.BytesIO(body)) as answer:
        await answer.read()
        return answer.status


async def test_a_blob_in_parts(inner: Store) -> None:
    registry = await Registry.open(inner, settings=SETTINGS)
    upload = await Upload.of(registry)
    status = await registry.parallel.status(REPO, ALICE, upload.session)
    assert [(part.number, part.size) for part in status.parts] == [(number, len(PARTS[number])) for number in PARTS]

    blob = await upload.complete()

    assert isinstance(blob, Blob)
    assert await pulled(registry, REPO, DIGEST) == DATA
    assert Checkpoints.parse(await registry.blobs.checkpoints(REPO, DIGEST)) == noted(DATA, MIN_PART)
    assert await upload.complete() == blob
    await registry.close()
    assert await upload.complete(await Registry.open(inner, settings=SETTINGS)) == blob


async def test_a_part_that_is_overwritten_once_the_parts_were_listed(inner: Store) -> None:
    """As by a URL that somebody kept. One store takes the part's old etag, with the bytes that it was of."""
    view = FaultyStore(inner)
    registry = await Registry.open(view, settings=SETTINGS)
    upload = await Upload.of(registry)
    held = await inner.get(f"uploads/{upload.session.partition('.')[0]}")
    session = parse(held.info.key, held.body, held.info.etag).session
    assert session.data is not None
    assert session.upload is not None
    gate = asyncio.Event()
    view.add(Rule(Delay(until=gate), operation="complete_multipart"))

    completing = asyncio.create_task(upload.complete())
    while not view.calls["complete_multipart"]:
        await asyncio.sleep(0.01)
    await inner.put_part(session.data, session.upload, 2, layer(2)[MIN_PART : 2 * MIN_PART], offset=MIN_PART)
    gate.set()

    try:
        blob = await completing
    except DigestMismatch:
        pass
    else:
        assert isinstance(blob, Blob)
        assert await pulled(registry, REPO, DIGEST) == DATA
        return
    with pytest.raises(DigestMismatch):
        await upload.complete(await Registry.open(inner, settings=SETTINGS))
    found = await truth(inner)
    assert (found.records, found.links, found.data) == ({}, {}, {})


async def test_a_part_that_arrives_after_all_changes_nothing(inner: Store) -> None:
    registry = await Registry.open(inner, settings=SETTINGS)
    upload = await Upload.of(registry)
    urls = await registry.parallel.urls(REPO, ALICE, upload.session, [1, 2, 3], expires=60)
    held = await inner.get(f"uploads/{upload.session.partition('.')[0]}")
    session = parse(held.info.key, held.body, held.info.etag).session
    assert session.data is not None
    assert session.upload is not None
    await upload.complete()

    for number in PARTS:
        late = bytes(len(PARTS[number]))
        if urls is not None:
            assert await put_to(urls[number], late) >= 400
        with pytest.raises(UploadNotFound):
            await inner.put_part(session.data, session.upload, number, late, offset=(number - 1) * MIN_PART)
        chunk = Chunk(pieces(late, 1024 * 1024), len(late))
        with pytest.raises(UploadUnknown):
            await registry.parallel.put_part(REPO, ALICE, upload.session, number, chunk)

    assert await pulled(registry, REPO, DIGEST) == DATA


async def test_a_replica_that_dies_while_it_reads_back(inner: Store) -> None:
    clock = FakeClock(await _now(inner))
    view = FaultyStore(inner, [Rule(Delay(until=asyncio.Event()), operation="read", skip=1, times=None)])
    dying = await Registry.open(view, settings=SETTINGS)
    upload = await Upload.of(dying)
    assert isinstance(await upload.complete(wait=0.5), Verifying)
    view.crash()
    other = await Registry.open(inner, clock=clock, settings=SETTINGS)
    assert isinstance(await upload.complete(other, wait=0), Verifying)
    clock.advance(16)

    assert isinstance(await upload.complete(other), Blob)

    assert await pulled(other, REPO, DIGEST) == DATA


async def _now(store: Store) -> float:
    """By the store's clock."""
    await store.put("probe/now", b"")
    info = await store.head("probe/now")
    await store.delete("probe/now")
    return info.modified
