"""A dry run writes nothing, and says just what a run would do then."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.sites import MemorySite
from tests.unit.registry.helpers import FakeClock, memory_store, open_registry
from tests.unit.transfer.fakes import Clockwork, Heard, Image, MemorySource, settings, some_bytes
from tests.unit.transfer.site.worlds import World, everything, image

from bucketry.hashing import SEGMENT
from bucketry.store.contract import Store
from bucketry.store.local import LocalStore
from bucketry.store.site import Served
from bucketry.store.site_folder import FolderSite
from bucketry.transfer.bucket import BucketRepository
from bucketry.transfer.errors import NameUnusable, TransferError
from bucketry.transfer.push import push
from bucketry.transfer.site.counting import Counts
from bucketry.transfer.site.gathering import ImageToPublish
from bucketry.transfer.site.publishing import Published, publish
from bucketry.transfer.site.rehearsal import RehearsedSite
from bucketry.transfer.site.repository import SiteRepository

Run = Callable[[World, MemorySite, bool], Awaitable[Published]]
MIB = 1024 * 1024


@dataclass
class Scenario:
    """``before`` makes the site, ``run`` is what is rehearsed and then done."""

    name: str
    before: Callable[[World], Awaitable[object]]
    run: Run

    def __str__(self) -> str:
        return self.name


async def nothing(world: World) -> None:
    return


def scenarios() -> list[Scenario]:
    all_of_it, other = everything(), MemorySource(image(1))
    large = MemorySource(Image(some_bytes(SEGMENT + 5), some_bytes(20 * MIB, 1)))

    async def there(world: World) -> None:
        await world.publish((all_of_it.source, "app", "latest"), (other, "b", "latest"))

    async def left(world: World) -> None:
        await there(world)
        await world.publish((other, "app", "latest"), prune=True)
        world.now += 4000

    return [
        Scenario(
            "a new site", nothing, lambda w, s, d: w.publish((all_of_it.source, "app", "latest"), site=s, dry_run=d)
        ),
        Scenario("again", there, lambda w, s, d: w.publish((all_of_it.source, "app", "latest"), site=s, dry_run=d)),
        Scenario("another tag", there, lambda w, s, d: w.publish((other, "app", "latest"), site=s, dry_run=d)),
        Scenario(
            "another repository", there, lambda w, s, d: w.publish((all_of_it.source, "c", "latest"), site=s, dry_run=d)
        ),
        Scenario("a prune", there, lambda w, s, d: w.publish((other, "app", "latest"), site=s, dry_run=d, prune=True)),
        Scenario(
            "a prune at once",
            there,
            lambda w, s, d: w.publish((other, "app", "latest"), site=s, dry_run=d, prune=True, grace=0),
        ),
        Scenario(
            "a later prune", left, lambda w, s, d: w.publish((other, "app", "latest"), site=s, dry_run=d, prune=True)
        ),
        Scenario(
            "in parts",
            nothing,
            lambda w, s, d: w.publish((large, "app", "latest"), site=s, dry_run=d, part_size=None, memory=64 * MIB),
        ),
    ]


@pytest.mark.parametrize("keeps_headers", [True, False], ids=["bucket", "folder"])
@pytest.mark.parametrize("scenario", scenarios(), ids=str)
async def test_what_is_said_is_what_happens(tmp_path: Path, scenario: Scenario, keeps_headers: bool) -> None:
    world = World(tmp_path, keeps_headers)
    await scenario.before(world)
    before = dict(world.disk.files)
    site = world.site()

    said = await scenario.run(world, site, True)

    assert world.disk.files == before
    assert {operation for operation, _ in site.log} <= {"get", "head", "list", "read", "pointed"}
    assert said.dry_run
    done = await scenario.run(world, world.site(), False)
    assert said.requests == done.requests
    assert said.written == done.written
    assert said.ways == done.ways
    assert said.leaving == done.leaving
    assert said.removed == done.removed
    gone = before.keys() - world.disk.files.keys()
    assert said.removed == {path: before[path].size for path in gone}
    assert said.state.repositories == done.state.repositories
    assert said.storage == (
        sum(file.size for file in before.values()),
        sum(file.size for file in world.disk.files.values()),
    )


async def test_a_blob_is_not_read_for_it(tmp_path: Path) -> None:
    source = MemorySource(Image(some_bytes(MIB)))
    await World(tmp_path).publish((source, "app", "latest"), dry_run=True)
    assert source.read_bytes == 2, "the config, for what the image runs on"


async def test_refusals_are_the_same(tmp_path: Path) -> None:
    world = World(tmp_path, keeps_headers=False)
    source = MemorySource(image(1))
    with pytest.raises(NameUnusable):
        await world.publish((source, "app", "latest"), (source, "app/tags/list", "latest"), dry_run=True)


@pytest.mark.parametrize("beside", [True, False], ids=["beside", "elsewhere"])
async def test_the_way_of_a_copy_is_known_beforehand(tmp_path: Path, beside: bool) -> None:
    # Services take no parts as small as these.
    world, clock = World(tmp_path, keeps_headers=False), FakeClock()
    store = memory_store(clock)
    repository = BucketRepository(await open_registry(store, clock), "app", name="memory:/app")
    await _pushed(repository, tmp_path)
    site = world.site()
    site.beside = (store,) if beside else ()

    said = await world.publish((repository, "app", "latest"), site=site, dry_run=True)
    done = await world.publish((repository, "app", "latest"), site=site)

    assert said.ways == done.ways
    assert said.ways["copied by the store" if beside else "sent"].files == 3
    assert said.requests == done.requests


async def test_of_a_folder_and_a_folder(tmp_path: Path) -> None:
    clock = FakeClock()
    store: Store = LocalStore(tmp_path / "store", fsync=False, min_part=64)
    await store.start()
    repository = BucketRepository(await open_registry(store, clock), "app", name="app")
    await _pushed(repository, tmp_path)
    root = tmp_path / "www"
    site = FolderSite(root, fsync=False)
    await site.start()
    images = [ImageToPublish(repository, "app", "latest", "latest")]

    async def run(dry_run: bool) -> Published:
        return await publish(
            images,
            site,
            settings=settings(tmp_path),
            listen=Heard(),
            dry_run=dry_run,
            clock=lambda: 1e9,
            ids=secrets_of_one_length,
        )

    said = await run(True)
    assert not root.exists()
    done = await run(False)

    assert said.ways == done.ways
    assert said.written == done.written
    await site.close()
    await store.close()


def secrets_of_one_length() -> str:
    return secrets.token_hex(4)


async def _pushed(repository: BucketRepository, tmp_path: Path) -> None:
    made = Image(some_bytes(300_000), some_bytes(100, 1))
    await push(
        MemorySource(made),
        repository,
        tag="latest",
        settings=settings(tmp_path),
        listen=Heard(),
        timing=Clockwork().timing,
    )


async def test_nothing_can_be_sent_to_a_rehearsal(tmp_path: Path) -> None:
    site = RehearsedSite(World(tmp_path).site())
    repository = SiteRepository(site, "app")
    with pytest.raises(TransferError, match="only looked at"):
        await repository.begin(digest=image(1).manifest.digest, size=5)
    etag = await site.put("v2/x/blobs/y", b"12345", served=Served())
    assert (await site.head("v2/x/blobs/y")).etag == etag
    assert b"".join([piece async for piece in site.read("v2/x/blobs/y", 1, 3)]) == b"23"


def test_copies_above_the_limit_are_counted_as_parts() -> None:
    counts = Counts()
    counts.copied("v2/x/blobs/sha256:y", 5 * 1024**3)
    assert counts.requests["COPY"] == 1
    counts.copied("v2/x/blobs/sha256:y", 5 * 1024**3 + 1)
    assert counts.requests["COPY"] == 1 + 11 + 2
