"""A publish makes of images plain files that any client can read, and no more than it says."""

from __future__ import annotations

from pathlib import Path

from tests.support.sites import problems
from tests.unit.registry.helpers import FakeClock, memory_store, open_registry
from tests.unit.transfer.fakes import Clockwork, Heard, Image, MemorySource, settings, some_bytes

from bucketry.store.site_folder import FolderSite
from bucketry.transfer.bucket import BucketRepository
from bucketry.transfer.push import push
from bucketry.transfer.site.gathering import ImageToPublish
from bucketry.transfer.site.publishing import publish


async def test_an_image_of_a_bucket_becomes_files_of_a_folder(tmp_path: Path) -> None:
    clock = FakeClock()
    registry = await open_registry(memory_store(clock), clock)
    image = Image(some_bytes(300_000), some_bytes(500, 1))
    repository = BucketRepository(registry, "team/app", name="memory:/team/app")
    await push(
        MemorySource(image),
        repository,
        tag="v1",
        settings=settings(tmp_path),
        listen=Heard(),
        timing=Clockwork().timing,
    )
    site = FolderSite(tmp_path / "www", fsync=False)
    await site.start()

    published = await publish(
        [ImageToPublish(repository, "app", "v1", "v1")], site, settings=settings(tmp_path), listen=Heard()
    )
    await site.close()

    root = tmp_path / "www"
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    files = {path: body for path, body in files.items() if not path.startswith(".bucketry-")}
    assert problems(files, twins=True) == []
    assert files["v2/app/manifests/v1"] == image.manifest.body
    assert all(files[f"v2/app/blobs/{digest}"] == data for digest, data in image.blobs.items())
    assert published.ended.digest == str(image.manifest.digest)
