"""Push, pull and copy with a bucket itself: the registry is opened in this process."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.registry.helpers import FakeClock, memory_store, open_registry
from tests.unit.transfer.fakes import (
    Clockwork,
    FolderDestination,
    Heard,
    Image,
    MemorySaved,
    MemorySource,
    descriptor,
    settings,
    some_bytes,
)

from bucketry.hashing import SEGMENT
from bucketry.oci import Digest
from bucketry.store import contract as store
from bucketry.store.faults import FaultyStore
from bucketry.transfer.bucket import BucketRepository, of_store
from bucketry.transfer.contract import HashedUpload, SavedImage, Source, Target
from bucketry.transfer.copy import copy
from bucketry.transfer.errors import (
    ContentMismatch,
    ImageMissing,
    NoSpace,
    NotPermitted,
    PartLost,
    Refused,
    SourceDamaged,
    TransferError,
    Unreachable,
)
from bucketry.transfer.events import Ended, Resumed
from bucketry.transfer.pull import pull
from bucketry.transfer.push import push

BIG = some_bytes(1_000_000)
SMALL = some_bytes(500, 1)
PARTS = 65_536


class World:
    """A bucket, its two replicas, and a clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FaultyStore(memory_store(self.clock))

    async def repository(self, name: str = "team/app", *, replica: int = 1) -> BucketRepository:
        registry = await open_registry(
            self.store, self.clock, replica=replica, memory=64 * PARTS, part_size=PARTS, segment=PARTS
        )
        return BucketRepository(registry, name, name=f"memory:/{name}")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def repository(world: World) -> AsyncIterator[BucketRepository]:
    opened = await world.repository()
    yield opened
    await opened.close()


async def run(source: Source | SavedImage, target: Target, tmp_path: Path, heard: Heard | None = None) -> Ended:
    return await push(
        source,
        target,
        tag="latest",
        settings=settings(tmp_path),
        listen=heard or Heard(),
        timing=Clockwork().timing,
        clock=lambda: 1e9,
    )


async def test_an_image_goes_there_and_back(tmp_path: Path, world: World, repository: BucketRepository) -> None:
    image = Image(BIG, SMALL)
    destination = FolderDestination(tmp_path / "to")

    await run(MemorySource(image), repository, tmp_path)
    ended = await pull(
        repository, destination, reference="latest", settings=settings(tmp_path), listen=Heard(), whole=True
    )

    assert destination.holds(image)
    assert ended.digest == str(image.manifest.digest)
    assert await repository.tags() == ["latest"]


async def test_nothing_is_read_back_that_was_hashed_here(
    tmp_path: Path, world: World, repository: BucketRepository
) -> None:
    data = some_bytes(SEGMENT + 1000)
    await run(MemorySource(Image(data)), repository, tmp_path)

    assert world.store.calls["read"] == 0
    found = await repository.blob(descriptor(data)).checkpoints()
    assert found is not None
    assert found.size == len(data)


async def test_a_session_of_an_earlier_run_is_read_back(tmp_path: Path, world: World) -> None:
    first, heard = await world.repository(), Heard()
    image = Image(BIG)
    parts = 0
    put = world.store.put_part

    async def die(*args: object, **kwargs: object) -> str:
        nonlocal parts
        parts += 1
        if parts == 9:
            task.cancel()
        return await put(*args, **kwargs)  # type: ignore[arg-type]

    world.store.put_part = die  # type: ignore[method-assign]
    task = asyncio.create_task(run(MemorySource(image), first, tmp_path))
    with pytest.raises(asyncio.CancelledError):
        await task
    world.store.put_part = put  # type: ignore[method-assign]
    world.store.calls.clear()
    second = await world.repository(replica=2)

    await run(MemorySource(image), second, tmp_path, heard)

    assert heard.total(Resumed) >= 7 * PARTS
    assert world.store.calls["read"] > 0
    assert b"".join([piece async for piece in second.blob(descriptor(BIG)).read()]) == BIG
    await first.close()
    await second.close()


async def test_a_saved_image(tmp_path: Path, world: World, repository: BucketRepository) -> None:
    await run(MemorySaved(BIG, SMALL), repository, tmp_path)

    manifest = (await repository.manifest()).parsed
    layer = b"".join([piece async for piece in repository.blob(manifest.layers[0]).read()])
    assert zlib.decompress(layer, wbits=31) == BIG
    assert world.store.calls["read"] == 1


async def test_a_blob_of_another_repository_does_not_travel(tmp_path: Path, world: World) -> None:
    one, two = await world.repository("one"), await world.repository("two")
    image = Image(BIG, SMALL)
    await run(MemorySource(image), one, tmp_path)
    world.store.calls.clear()

    ended = await copy(one, two, tag="v2", settings=settings(tmp_path), listen=Heard())

    assert world.store.calls["put_part"] == 0
    assert ended.skipped == len(BIG) + len(SMALL) + 2
    assert (await two.manifest("v2")).body == image.manifest.body
    await one.close()
    await two.close()


async def test_referrers_are_found(tmp_path: Path, repository: BucketRepository) -> None:
    image = Image(SMALL)
    signature = Image(b"signed", config=b"{}", subject=image.manifest.descriptor)
    source = MemorySource(image)
    source.add(signature.manifest, blobs=signature.blobs)
    source.referring[str(image.manifest.digest)] = [signature.manifest.descriptor]

    await copy(source, repository, tag="v1", settings=settings(tmp_path, referrers=True), listen=Heard())

    assert [found.digest for found in await repository.referrers(image.manifest.digest)] == [
        str(signature.manifest.digest)
    ]


async def test_what_is_not_there_is_said_so(repository: BucketRepository) -> None:
    with pytest.raises(ImageMissing, match="nosuch"):
        await repository.manifest("nosuch")
    with pytest.raises(ImageMissing):
        await anext(repository.blob(descriptor(BIG)).read())
    assert not await repository.has_blob(descriptor(BIG))
    assert not await repository.has_manifest(Digest.of(b"x"))
    assert await repository.resume("nonsense") is None
    assert await repository.blob(descriptor(BIG)).checkpoints() is None


async def test_a_blob_of_another_digest_is_refused(repository: BucketRepository) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x" * len(SMALL)

    with pytest.raises(ContentMismatch):
        await repository.put_blob(descriptor(SMALL), body())


async def test_the_readers_failure_is_the_one_that_is_told(tmp_path: Path, repository: BucketRepository) -> None:
    source = MemorySource(Image(SMALL))
    source.change = lambda digest, at, piece: bytes(len(piece))

    with pytest.raises(SourceDamaged):
        await run(source, repository, tmp_path)


async def test_an_upload_that_was_cancelled_is_lost(repository: BucketRepository) -> None:
    upload = await repository.begin(digest=Digest.of(BIG), size=len(BIG))
    assert upload is not None
    assert isinstance(upload, HashedUpload)
    await upload.put(1, BIG[: upload.part_size])
    assert await upload.sent() == {1: upload.part_size}

    await upload.cancel()
    await upload.cancel()

    with pytest.raises(PartLost):
        await upload.sent()
    assert await repository.resume(upload.session) is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (store.Unavailable("busy", retry_after=7), Unreachable),
        (store.StoreFull("full"), NoSpace),
        (store.Corrupt("cut"), Unreachable),
        (store.UploadNotFound("gone"), PartLost),
        (store.BucketMissing("no bucket"), ImageMissing),
        (store.ReadOnly("read only"), NotPermitted),
        (store.Unsupported("no"), Refused),
    ],
)
def test_errors_of_the_store_are_told_in_the_transfers_words(
    error: store.StoreError, kind: type[TransferError]
) -> None:
    found = of_store(error)

    assert type(found) is kind
    assert str(found) == str(error)
    if isinstance(error, store.Unavailable) and isinstance(found, Unreachable):
        assert found.retry_after == 7
