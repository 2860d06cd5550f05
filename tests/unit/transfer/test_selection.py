"""Which manifests are meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.transfer.fakes import Clockwork, Heard, Image, MemorySource, entry, index, raw, settings

from bucketry.oci import Digest, media_types
from bucketry.transfer.contract import RawManifest
from bucketry.transfer.errors import ImageMissing, NameUnusable, SourceDamaged
from bucketry.transfer.selection import MOST_DEEP, blobs_of, choose, parse_platform, parsed, this_platform
from bucketry.transfer.work import Work


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(settings(tmp_path), Heard(), timing=Clockwork().timing, piece=1)


def images(*platforms: str) -> tuple[MemorySource, list[RawManifest]]:
    made = [Image(platform.encode()) for platform in platforms]
    source = MemorySource(*made)
    manifests = [image.manifest for image in made]
    source.add(index(*zip(manifests, platforms, strict=True)), tag="latest")
    return source, manifests


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [
        ("linux/amd64", ["linux/amd64", "linux/arm64"], 0),
        ("linux/arm64", ["linux/amd64", "linux/arm64/v8"], 1),
        ("linux/arm64/v8", ["linux/amd64", "linux/arm64"], 1),
        ("linux/arm", ["linux/arm/v7", "linux/arm/v6"], 1),
        ("linux/arm/v7", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64"], 1),
        ("Linux/AMD64", ["linux/amd64"], 0),
    ],
)
async def test_the_image_of_a_platform(work: Work, wanted: str, there: list[str], chosen: int) -> None:
    source, manifests = images(*there)

    found = await choose(work, source, None, wanted)

    assert found.root == manifests[chosen]
    assert found.below == ()


async def test_a_platform_that_is_not_there_lists_those_that_are(work: Work) -> None:
    source, _ = images("linux/amd64", "linux/arm/v7", "unknown/unknown")

    with pytest.raises(ImageMissing, match=r"no image for linux/s390x; it has linux/amd64, linux/arm/v7$"):
        await choose(work, source, None, "linux/s390x")


async def test_an_image_alone_is_taken_for_any_platform(work: Work) -> None:
    image = Image(b"x")

    assert (await choose(work, MemorySource(image), None, "linux/s390x")).root == image.manifest


@pytest.mark.parametrize("text", ["linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64", ""])
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(NameUnusable, match="linux/amd64"):
        parse_platform(text)


@pytest.mark.parametrize(
    ("machine", "platform"),
    [("x86_64", "linux/amd64"), ("arm64", "linux/arm64"), ("armv7l", "linux/arm/v7"), ("riscv64", "linux/riscv64")],
)
def test_this_machine(monkeypatch: pytest.MonkeyPatch, machine: str, platform: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)

    assert this_platform() == platform


async def test_children_come_before_their_parents_however_deep(work: Work) -> None:
    image = Image(b"x")
    source = MemorySource(image)
    manifest = image.manifest
    chain = [manifest]
    for _ in range(MOST_DEEP - 1):
        # Each index lists all that is below it, too.
        manifest = index(*((child, "linux/amd64") for child in reversed(chain)))
        source.add(manifest)
        chain.append(manifest)
    source.add(manifest, tag="latest")

    found = await choose(work, source, None, None)

    assert list(found.all) == chain


async def test_indexes_without_end_are_refused(work: Work) -> None:
    source = MemorySource()
    manifest = Image(b"x").manifest
    source.add(manifest)
    for _ in range(MOST_DEEP + 1):
        manifest = index((manifest, "linux/amd64"))
        source.add(manifest)
    source.add(manifest, tag="latest")

    with pytest.raises(SourceDamaged, match="indexes in indexes"):
        await choose(work, source, None, None)


async def test_another_manifest_than_was_asked_for_is_damage(work: Work) -> None:
    source, manifests = images("linux/amd64")
    wanted = Digest.of(b"wanted")
    source.manifests[str(wanted)] = manifests[0]

    with pytest.raises(SourceDamaged, match=str(wanted)):
        await choose(work, source, wanted, None)


def test_a_manifest_that_is_none_is_damage() -> None:
    body = b"{"

    with pytest.raises(SourceDamaged):
        parsed(RawManifest(body, media_types.OCI_MANIFEST, Digest.of(body)))


def test_blobs_once_the_largest_first() -> None:
    one, two = Image(b"a" * 10, b"b" * 30), Image(b"b" * 30, b"c" * 20)

    found = blobs_of([one.manifest, two.manifest])

    assert [(blob.size, is_config) for blob, is_config in found] == [(30, False), (20, False), (10, False), (2, True)]


def test_one_digest_of_two_sizes_is_damage() -> None:
    image = Image(b"abc")
    layer = parsed(image.manifest).layers[0]
    config = parsed(image.manifest).config
    assert config is not None
    forged = raw(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": entry(config),
            "layers": [entry(layer) | {"size": 4}],
        }
    )

    with pytest.raises(SourceDamaged, match="3 bytes by one manifest, 4 by another"):
        blobs_of([image.manifest, forged])
