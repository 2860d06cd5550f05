"""A repository of a site is read as any other, and takes nothing that was not verified."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.sites import MemorySite, SiteDisk
from tests.unit.transfer.fakes import (
    Clockwork,
    FolderDestination,
    Heard,
    Image,
    MemorySource,
    MemoryTarget,
    descriptor,
    settings,
    some_bytes,
)
from tests.unit.transfer.site.worlds import World, docker_image, everything, image

from bucketry.hashing import SEGMENT
from bucketry.oci import Digest, media_types
from bucketry.store.contract import Unavailable, UploadNotFound
from bucketry.store.site import Served
from bucketry.transfer.contract import HashedUpload, RawManifest, Source, Target
from bucketry.transfer.copy import copy
from bucketry.transfer.errors import ContentMismatch, ImageMissing, Refused, SourceDamaged, Unreachable
from bucketry.transfer.pull import pull
from bucketry.transfer.push import new_work
from bucketry.transfer.sending import Sending
from bucketry.transfer.site.repository import WHOLE, SiteRepository

FOLDER_OR_BUCKET = pytest.mark.parametrize("keeps_headers", [True, False], ids=["bucket", "folder"])
MIB = 1024 * 1024


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@FOLDER_OR_BUCKET
async def test_a_site_is_pulled_and_copied_from(tmp_path: Path, keeps_headers: bool) -> None:
    world, made = World(tmp_path, keeps_headers), Image(some_bytes(SEGMENT + 7), some_bytes(500, 1))
    await world.publish((MemorySource(made), "team/app", "latest"), part_size=None, memory=64 * MIB)
    site = world.site()
    source: Source = SiteRepository(site, "team/app")
    destination, target = FolderDestination(tmp_path / "to"), MemoryTarget()

    await pull(source, destination, reference="latest", settings=settings(tmp_path), listen=Heard(), whole=True)
    await copy(source, target, tag="copied", settings=settings(tmp_path), listen=Heard(), reference="latest")

    assert destination.holds(made)
    assert target.by_tag["copied"].body == made.manifest.body
    assert target.holds(made)
    assert target.completed_with[0] is not None
    assert sum(operation == "read" for operation, _ in site.log) > 4, "a large layer is read in ranges"


@FOLDER_OR_BUCKET
async def test_what_refers_to_an_image_is_found(tmp_path: Path, keeps_headers: bool) -> None:
    world, all_of_it = World(tmp_path, keeps_headers), everything()
    await world.publish((all_of_it.source, "app", "latest"))
    source, target = SiteRepository(world.site(), "app"), MemoryTarget()

    await copy(
        source, target, tag="latest", settings=settings(tmp_path, referrers=True), listen=Heard(), reference="latest"
    )

    assert target.manifests.keys() == {str(each.digest) for each in all_of_it.manifests()}
    assert await source.referrers(Digest.of(b"nobody")) == ()


@FOLDER_OR_BUCKET
@pytest.mark.parametrize("stated", [True, False], ids=["by the state", "by its files"])
async def test_manifests_come_with_their_media_type(tmp_path: Path, keeps_headers: bool, stated: bool) -> None:
    """Also one whose body does not say it."""
    world, (docker, blobs), all_of_it = World(tmp_path, keeps_headers), docker_image(1), everything()
    document = json.loads(image(3).manifest.body)
    del document["mediaType"]
    body = json.dumps(document).encode()
    bare = RawManifest(body, media_types.DOCKER_MANIFEST, Digest.of(body))
    source = all_of_it.source
    source.add(docker, tag="docker", blobs=blobs)
    source.add(bare, tag="bare", blobs=image(3).blobs)
    await world.publish((source, "app", "latest"), (source, "app", "docker"), (source, "app", "bare"))
    if not stated:
        world.watched = False
        del world.disk.files["bucketry-site.json"]
    repository = SiteRepository(world.site(), "app")

    for tag, expected in (("latest", all_of_it.index), ("docker", docker), ("bare", bare)):
        assert await repository.manifest(tag) == expected
        assert await repository.manifest(expected.digest) == expected
    assert await repository.tags() == ["bare", "docker", "latest", f"sha256-{all_of_it.index.digest.hex}.sig"]
    assert (await repository.manifest()).digest == all_of_it.index.digest


async def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    world, made = World(tmp_path), image(1)
    await world.publish((MemorySource(made), "app", "latest"))
    repository = SiteRepository(world.site(), "app")

    with pytest.raises(ImageMissing, match="publishes no app:v2"):
        await repository.manifest("v2")
    with pytest.raises(ImageMissing, match="publishes no app@sha256"):
        await repository.manifest(Digest.of(b"x"))
    with pytest.raises(ImageMissing, match="publishes no other"):
        await SiteRepository(world.site(), "other").tags()
    with pytest.raises(ImageMissing):
        await SiteRepository(MemorySite(), "app").tags()
    with pytest.raises(ImageMissing):
        await SiteRepository(MemorySite(), "app").manifest("v1")
    with pytest.raises(ImageMissing):
        [piece async for piece in repository.blob(descriptor(b"nothing")).read()]
    assert await repository.blob(descriptor(b"nothing")).checkpoints() is None


async def test_damage_is_noticed(tmp_path: Path) -> None:
    world, made = World(tmp_path), image(1)
    await world.publish((MemorySource(made), "app", "latest"))
    world.watched = False
    repository, digest = SiteRepository(world.site(), "app"), made.manifest.digest

    def overwrite(path: str, body: bytes) -> None:
        world.disk.set(path, body, Served())

    state = world.files()["bucketry-site.json"]
    overwrite("bucketry-site.json", state.replace(b"image.manifest.v1", b"image.index.v1"))
    with pytest.raises(SourceDamaged, match=r"is damaged: manifest .* the Content-Type is"):
        await repository.manifest("latest")
    overwrite("bucketry-site.json", state)
    overwrite(f"v2/app/manifests/{digest}", b"{}")
    with pytest.raises(SourceDamaged, match="other bytes"):
        await repository.manifest("latest")
    overwrite(f"v2/app/referrers/{digest}", b'{"manifests":[{"digest":"x"}]}')
    with pytest.raises(SourceDamaged, match="referrers"):
        await repository.referrers(digest)
    del world.disk.files["bucketry-site.json"]
    overwrite("v2/app/tags/list", b"[]")
    with pytest.raises(SourceDamaged, match="tags/list"):
        await repository.tags()
    overwrite("v2/app/manifests/latest", b"no manifest")
    with pytest.raises(SourceDamaged, match="latest"):
        await repository.manifest("latest")


async def test_ranges_are_ranges(tmp_path: Path) -> None:
    world, data = World(tmp_path), some_bytes(10_000)
    await world.publish((MemorySource(Image(data)), "app", "latest"))
    reader = SiteRepository(world.site(), "app").blob(descriptor(data))
    assert reader.ranged
    for start, stop in ((0, None), (5, 9), (9_990, 20_000), (7, 7)):
        assert b"".join([piece async for piece in reader.read(start, stop)]) == data[start:stop]


def target(site: MemorySite) -> SiteRepository:
    made = SiteRepository(site, "app")
    checked: Target = made
    assert checked.name == "memory:site//app"
    assert checked.pull_command == "bucketry pull memory:site//app"
    return made


@pytest.mark.parametrize("size", [0, 5, WHOLE, WHOLE + 1, 2 * WHOLE + 12_345])
async def test_a_blob_in_one_stream(size: int) -> None:
    site, data = MemorySite(), some_bytes(size)
    repository, blob = target(site), descriptor(data)
    assert not await repository.has_blob(blob)

    await repository.put_blob(blob, pieces(data))

    assert site.disk.files[f"v2/app/blobs/{blob.digest}"].body == data
    assert await repository.has_blob(blob)
    found = await repository.blob(blob).checkpoints()
    assert (found is not None) == (size > SEGMENT)
    assert site.uploads == set()


@pytest.mark.parametrize("size", [1000, WHOLE + 1000])
@pytest.mark.parametrize("change", ["other", "less", "more"])
async def test_other_bytes_are_never_seen(size: int, change: str) -> None:
    site, data = MemorySite(), some_bytes(size)
    came = {"other": some_bytes(size, 1), "less": data[:-1], "more": data + b"x"}[change]

    with pytest.raises(ContentMismatch):
        await target(site).put_blob(descriptor(data), pieces(came))

    assert site.disk.files == {}
    assert site.uploads == set()


async def test_parts_are_taken_in_any_order_and_become_a_blob_once_hashed() -> None:
    site, data = MemorySite(), some_bytes(150_000)
    repository, blob = target(site), descriptor(data)
    upload = await repository.begin(digest=blob.parsed, size=len(data), part_size=65_536)
    assert isinstance(upload, HashedUpload)
    for number in (3, 1, 2):
        await upload.put(number, data[(number - 1) * 65_536 : number * 65_536])
    assert await upload.sent() == {1: 65_536, 2: 65_536, 3: 150_000 - 131_072}
    assert site.disk.files == {}

    with pytest.raises(Refused, match="hashed on its way"):
        await upload.complete(blob.parsed, len(data), None, verified=lambda size: None)
    assert site.disk.files == {}
    await upload.complete_hashed(blob.parsed, len(data), None)

    assert site.disk.files[f"v2/app/blobs/{blob.digest}"].body == data


async def test_an_upload_is_of_its_digest_alone() -> None:
    site, data = MemorySite(), some_bytes(1000)
    repository, blob = target(site), descriptor(data)
    upload = await repository.begin(digest=blob.parsed, size=len(data))
    assert upload is not None
    await upload.put(1, data)
    with pytest.raises(ContentMismatch):
        await upload.complete_hashed(Digest.of(b"other"), len(data), None)
    with pytest.raises(ContentMismatch):
        await upload.complete_hashed(blob.parsed, len(data) + 1, None)
    with pytest.raises(Refused, match="only once its digest is known"):
        await repository.begin(size=5)
    assert site.disk.files == {}


async def test_uploads_of_other_runs_are_not_gone_on_with() -> None:
    repository: Target = target(MemorySite())
    assert await repository.resume("of this process alone") is None


async def test_what_did_not_end_is_freed() -> None:
    site, data = MemorySite(), some_bytes(1000)
    repository = target(site)
    first = await repository.begin(digest=Digest.of(data), size=1000)
    await repository.begin(digest=Digest.of(b"x"), size=1000)
    assert first is not None
    assert len(site.uploads) == 2
    await first.cancel()
    assert len(site.uploads) == 1
    await repository.close()
    assert site.uploads == set()


async def test_a_completion_whose_answer_was_lost_is_not_sent_again(tmp_path: Path) -> None:
    """The upload is gone then, and the blob is there."""
    site, data = MemorySite(), some_bytes(300_000)
    completed = 0

    async def lost(operation: str, path: str) -> None:
        nonlocal completed
        if operation == "complete":
            completed += 1
            if completed == 1:
                raise Unavailable("lost")

    async def gone(operation: str, path: str) -> None:
        if operation == "complete" and completed:
            raise UploadNotFound("no such upload")

    site.after, site.before = lost, gone
    source = MemorySource(Image(data))
    work = new_work(MemoryTarget(), settings(tmp_path), Heard(), timing=Clockwork().timing, clock=lambda: 1e9)

    await Sending(work, source, target(site), mount_from=None).send(descriptor(data))

    assert site.disk.files[f"v2/app/blobs/{descriptor(data).digest}"].body == data
    assert sum(operation == "put_part" for operation, _ in site.log) == 5


@FOLDER_OR_BUCKET
async def test_a_manifest_comes_with_its_twin(keeps_headers: bool) -> None:
    site = MemorySite(SiteDisk(), keeps_headers=keeps_headers)
    repository, manifest = target(site), image(1).manifest
    assert not await repository.has_manifest(manifest.digest)

    await repository.put_manifest(manifest)

    assert await repository.has_manifest(manifest.digest)
    twin = site.disk.files.get(f"v2/app/manifests/~/{manifest.digest}/{manifest.digest}.oci-manifest")
    assert (twin is None) == keeps_headers
    assert twin is None or twin.body == manifest.body
    with pytest.raises(Refused, match="bucketry publish"):
        await repository.put_manifest(manifest, "latest")


async def test_a_store_that_is_down_can_be_asked_again() -> None:
    site = MemorySite()

    async def down(operation: str, path: str) -> None:
        raise Unavailable("down", retry_after=7)

    site.before = down
    with pytest.raises(Unreachable) as raised:
        await target(site).put_blob(descriptor(b"x"), pieces(b"x"))
    assert raised.value.retry_after == 7
