"""Publishing to real folders, from registries in folders and from elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from tests.support.sites import problems
from tests.unit.registry.helpers import FakeClock, open_registry
from tests.unit.transfer.fakes import Clockwork, Heard, Image, MemorySource, settings, some_bytes
from tests.unit.transfer.site.worlds import docker_image, everything, image

from bucketry.store.local import LocalStore
from bucketry.store.site_folder import FolderSite
from bucketry.transfer.bucket import BucketRepository
from bucketry.transfer.push import push
from bucketry.transfer.site.gathering import ImageToPublish
from bucketry.transfer.site.publishing import Published, publish

PARTS = 65_536


def files(root: Path) -> dict[str, bytes]:
    """What a web server would serve; of a link, what it points to."""
    found = {
        path.relative_to(root).as_posix(): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }
    return {path: body for path, body in found.items() if not path.startswith(".bucketry-")}


async def published(tmp_path: Path, root: Path, *images: ImageToPublish, **more: object) -> Published:
    """By a process of its own."""
    site = FolderSite(root, fsync=False)
    await site.start()
    try:
        return await publish(
            images,
            site,
            settings=settings(tmp_path),
            listen=Heard(),
            timing=Clockwork().timing,
            **more,  # type: ignore[arg-type]
        )
    finally:
        await site.close()


async def test_blobs_of_a_registry_beside_are_linked(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store", fsync=False, min_part=PARTS)
    await store.start()
    registry = await open_registry(store, FakeClock(), part_size=PARTS, memory=64 * PARTS)
    repository = BucketRepository(registry, "team/app", name="team/app")
    made, root = Image(some_bytes(300_000), some_bytes(500, 1)), tmp_path / "www"
    await push(
        MemorySource(made), repository, tag="v1", settings=settings(tmp_path), listen=Heard(), timing=Clockwork().timing
    )

    done = await published(tmp_path, root, ImageToPublish(repository, "app", "v1", "v1"))
    await store.close()

    assert problems(files(root), twins=True) == []
    assert files(root)["v2/app/manifests/v1"] == made.manifest.body
    assert all(files(root)[f"v2/app/blobs/{digest}"] == data for digest, data in made.blobs.items())
    assert done.ways["copied by the store"].files == 3
    linked = [root / f"v2/app/blobs/{digest}" for digest in made.blobs]
    assert [path.stat().st_nlink for path in linked] == [2, 2, 2]


async def test_a_folder_is_published_to_again_and_pruned(tmp_path: Path) -> None:
    root, all_of_it, (docker, blobs) = tmp_path / "www", everything(), docker_image(7)
    other = MemorySource()
    other.add(docker, tag="latest", blobs=blobs)
    await published(tmp_path, root, ImageToPublish(all_of_it.source, "team/app", "latest", "latest"))
    before = files(root)
    assert problems(before, twins=True) == []

    again = await published(tmp_path, root, ImageToPublish(all_of_it.source, "team/app", "latest", "latest"))
    assert again.written == {}
    assert files(root) == before

    await published(tmp_path, root, ImageToPublish(other, "team/app", "latest", "latest"))
    assert problems(files(root), twins=True) == []
    assert files(root)["v2/team/app/manifests/~/latest"] == str(docker.digest).encode()

    await published(tmp_path, root, ImageToPublish(other, "b", "latest", "latest"), prune=True, grace=0)
    alone = tmp_path / "alone"
    await published(tmp_path, alone, ImageToPublish(other, "b", "latest", "latest"))
    assert files(root).keys() == files(alone).keys()
    assert not (root / "v2" / "team").exists()


async def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    root = tmp_path / "www"
    images = [ImageToPublish(MemorySource(image(n)), f"app{n % 3}", f"v{n}", "latest") for n in range(9)]

    await asyncio.gather(*(published(tmp_path, root, each) for each in images))

    found = files(root)
    assert problems(found, twins=True) == []
    assert json.loads(found["v2/_catalog"]) == {"repositories": ["app0", "app1", "app2"]}
    assert json.loads(found["v2/app1/tags/list"]) == {"name": "app1", "tags": ["v1", "v4", "v7"]}
