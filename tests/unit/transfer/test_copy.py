"""Copy: several images, what they share, and what refers to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.transfer.fakes import Heard, Image, MemorySource, MemoryTarget, index, settings, some_bytes

from bucketry.transfer.copy import copy
from bucketry.transfer.errors import ImageMissing

BIG = some_bytes(400_000)


async def test_all_tags_and_what_they_share_once(tmp_path: Path) -> None:
    one, two = Image(BIG), Image(BIG, b"more")
    source, target = MemorySource(one, two), MemoryTarget()
    source.add(one.manifest, tag="v1")
    source.add(one.manifest, tag="stable")
    source.add(index((one.manifest, "linux/amd64"), (two.manifest, "linux/arm64")), tag="latest")

    await copy(source, target, tag=None, tags=await source.tags(), settings=settings(tmp_path), listen=Heard())

    assert target.by_tag == source.by_tag
    assert target.received == len(BIG) + len(b"more") + len(b"{}")


async def test_one_platform_of_every_tag(tmp_path: Path) -> None:
    one, two = Image(BIG), Image(b"more")
    source, target = MemorySource(one, two), MemoryTarget()
    source.add(index((one.manifest, "linux/amd64"), (two.manifest, "linux/arm64")), tag="latest")

    await copy(
        source,
        target,
        tag=None,
        tags=["latest"],
        settings=settings(tmp_path, platform="linux/arm64"),
        listen=Heard(),
    )

    assert target.by_tag == {"latest": two.manifest}


async def test_no_tags_are_told(tmp_path: Path) -> None:
    with pytest.raises(ImageMissing, match="no tags"):
        await copy(MemorySource(), MemoryTarget(), tag=None, tags=[], settings=settings(tmp_path), listen=Heard())


async def test_what_refers_to_an_image_goes_along_even_in_a_loop(tmp_path: Path) -> None:
    image = Image(BIG)
    signature = Image(b"signature", subject=image.manifest.descriptor)
    countersigned = Image(b"countersignature", subject=signature.manifest.descriptor)
    source, target = MemorySource(image), MemoryTarget()
    for referrer in (signature, countersigned):
        source.add(referrer.manifest, blobs=referrer.blobs)
    source.referring[str(image.manifest.digest)] = [signature.manifest.descriptor]
    # A registry that lies: no digest can be below itself.
    source.referring[str(signature.manifest.digest)] = [
        countersigned.manifest.descriptor,
        signature.manifest.descriptor,
        image.manifest.descriptor,
    ]

    without = MemoryTarget()
    await copy(source, target, tag="v1", settings=settings(tmp_path, referrers=True), listen=Heard())
    await copy(source, without, tag="v1", settings=settings(tmp_path), listen=Heard())

    assert target.holds(signature)
    assert target.holds(countersigned)
    assert target.put_order[-1] == "v1"
    assert set(without.manifests) == {str(image.manifest.digest)}


async def test_what_cosign_keeps_beside_an_image_goes_along_under_its_tags(tmp_path: Path) -> None:
    image, child, unsigned = Image(BIG), Image(b"child"), Image(b"unsigned")
    whole = index((image.manifest, "linux/amd64"), (child.manifest, "linux/arm64"))
    source, target = MemorySource(image, child, unsigned), MemoryTarget()
    source.add(whole, tag="latest")
    expected = {"v1": whole}
    for of, end in ((whole, "sig"), (child.manifest, "sig"), (child.manifest, "sbom")):
        beside = Image(f"{of.digest} {end}".encode())
        tag = f"sha256-{of.digest.hex}.{end}"
        source.add(beside.manifest, tag=tag, blobs=beside.blobs)
        expected[tag] = beside.manifest
    source.add(unsigned.manifest, tag=f"sha256-{unsigned.manifest.digest.hex}.sig")

    await copy(source, target, tag="v1", settings=settings(tmp_path, referrers=True), listen=Heard())

    assert target.by_tag == expected


async def test_an_index_that_lists_an_index(tmp_path: Path) -> None:
    image = Image(BIG)
    inner = index((image.manifest, "linux/amd64"))
    source, target = MemorySource(image), MemoryTarget()
    source.add(inner)
    source.add(index((inner, "linux/amd64"), (image.manifest, "linux/amd64")), tag="latest")

    await copy(source, target, tag="v1", settings=settings(tmp_path), listen=Heard())

    # The target refuses what comes before its children.
    assert len(target.manifests) == 3
