"""OCI layouts as sources, in folders and in tars."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.images import OCI_INDEX, OCI_MANIFEST, Blob, blob_path, make_image, make_index, to_json, write_layout
from tests.support.tools import run, tool
from tests.unit.transfer.local.filled import described
from tests.unit.transfer.local.tars import entry, tar, written

from bucketry.oci import Descriptor, Digest
from bucketry.transfer.contract import BlobReader
from bucketry.transfer.errors import ImageMissing, NameUnusable, SourceDamaged, TransferError
from bucketry.transfer.local.layout import LayoutSource
from bucketry.transfer.local.oci_archive import OciArchive
from bucketry.transfer.local.oci_layout import OciLayout

IMAGE = make_image(11, (300, 3_000_000))
OTHER = make_image(12, (400,))
Open = Callable[[Path, str | None], LayoutSource]


def as_tar(folder: Path) -> Path:
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        archive.add(folder, arcname=".")
    return path


@pytest.fixture(params=["oci", "oci-archive"])
def opened(request: pytest.FixtureRequest) -> Open:
    """Opens a layout's folder, the second time as a tar."""

    def open_it(folder: Path, tag: str | None = None) -> LayoutSource:
        return OciLayout(folder, tag) if request.param == "oci" else OciArchive(as_tar(folder), tag)

    return open_it


def change_index(folder: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    path = folder / "index.json"
    found = json.loads(path.read_bytes())
    found["manifests"] = change(found["manifests"])
    path.write_text(json.dumps(found))


def add(folder: Path, blob: Blob, name: str | None = None) -> None:
    """Adds a manifest to a layout."""
    path = blob_path(folder, blob.digest)
    path.write_bytes(blob.data)
    named = {"annotations": {"org.opencontainers.image.ref.name": name}} if name else {}
    change_index(folder, lambda entries: [*entries, {**blob.descriptor(), **named}])


def signature(subject: Blob | None, kind: str = "application/x.signature") -> Blob:
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest.of(b"{}").__str__(), "size": 2}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind, "config": empty, "layers": [empty]}
    return to_json({**document, "subject": subject.descriptor()} if subject else document, OCI_MANIFEST)


async def read(reader: BlobReader, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([piece async for piece in reader.read(start, stop)])


async def test_an_image_is_read_whole_and_in_ranges(opened: Open, tmp_path: Path) -> None:
    source = opened(write_layout(tmp_path / "layout", IMAGE, "v1"), "v1")

    manifest = await source.manifest()
    assert (manifest.body, str(manifest.digest)) == (IMAGE.manifest.data, IMAGE.digest)
    for layer in (IMAGE.config, *IMAGE.layers):
        reader = source.blob(described(layer))
        assert reader.ranged
        assert await read(reader) == layer.data
        assert await read(reader, 100, 250) == layer.data[100:250]
        assert await read(reader, 7) == layer.data[7:]
        assert await reader.checkpoints() is None
    assert max([len(piece) async for piece in source.blob(described(IMAGE.layers[1])).read()]) <= 1024 * 1024
    await source.close()


async def test_images_of_an_index_are_found_by_digest(opened: Open, tmp_path: Path) -> None:
    index = make_index([IMAGE, OTHER])
    source = opened(write_layout(tmp_path / "layout", index, "v1"), None)

    assert (await source.manifest()).media_type == OCI_INDEX
    for image in index.images:
        found = await source.manifest(Digest.parse(image.digest))
        assert (found.body, found.media_type) == (image.manifest.data, OCI_MANIFEST)
        by_name = opened(tmp_path / "layout", f"@{image.digest}")
        assert (await by_name.manifest()).body == image.manifest.data
    with pytest.raises(NameUnusable, match="not a digest"):
        await opened(tmp_path / "layout", "@v1").manifest()


async def test_tags_choose_and_are_listed(opened: Open, tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "layout", IMAGE, "v1")
    write_layout(tmp_path / "other", OTHER, "v2")
    for blob in OTHER.blobs():
        blob_path(folder, blob.digest).write_bytes(blob.data)
    add(folder, OTHER.manifest, "docker.io/library/app:v2")
    add(folder, IMAGE.manifest, "also-v1")
    source = opened(folder, None)

    assert await source.tags() == ["also-v1", "v1", "v2"]
    assert str((await source.manifest("v1")).digest) == IMAGE.digest
    assert str((await source.manifest("v2")).digest) == OTHER.digest
    assert str((await source.manifest("docker.io/library/app:v2")).digest) == OTHER.digest
    with pytest.raises(NameUnusable, match=r"has 2 images: add one of 'also-v1', 'docker\.io/library/app:v2'"):
        await source.manifest()
    with pytest.raises(ImageMissing, match="no image 'v3': it has"):
        await source.manifest("v3")


async def test_the_only_image_needs_no_tag_though_its_signature_lies_beside_it(opened: Open, tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "layout", IMAGE, "v1")
    add(folder, signature(IMAGE.manifest))
    source = opened(folder, None)

    assert str((await source.manifest()).digest) == IMAGE.digest


async def test_two_images_of_one_name_are_refused(opened: Open, tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "layout", IMAGE, "v1")
    add(folder, signature(None), "v1")

    with pytest.raises(NameUnusable, match="has 2 images 'v1'"):
        await opened(folder, "v1").manifest()


async def test_referrers_are_found_by_subject_and_by_the_tag_scheme(opened: Open, tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "layout", IMAGE, "v1")
    by_subject, by_tag, both = (signature(IMAGE.manifest, f"application/x.{n}") for n in range(3))
    of_another = signature(OTHER.manifest)
    for blob in (by_subject, both, of_another):
        add(folder, blob)
    blob_path(folder, by_tag.digest).write_bytes(by_tag.data)
    listed = to_json(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [by_tag.descriptor(), both.descriptor()]}, OCI_INDEX
    )
    add(folder, listed, IMAGE.digest.replace(":", "-"))
    source = opened(folder, None)

    found = await source.referrers(Digest.parse(IMAGE.digest))

    assert [each.digest for each in found] == [by_subject.digest, both.digest, by_tag.digest]
    assert found[0].artifact_type == "application/x.0"
    assert [each.digest for each in await source.referrers(Digest.parse(OTHER.digest))] == [of_another.digest]
    assert await source.referrers(Digest.of(b"none")) == []
    assert str((await source.manifest()).digest) == IMAGE.digest


def damage(what: str, folder: Path) -> None:
    index, layout = folder / "index.json", folder / "oci-layout"
    manifest = blob_path(folder, IMAGE.digest)
    match what:
        case "no marker":
            layout.unlink()
        case "another version":
            layout.write_text('{"imageLayoutVersion":"2.0.0"}')
        case "a damaged marker":
            layout.write_text("{}")
        case "no index":
            index.unlink()
        case "a damaged index":
            index.write_text('{"manifests":[{"digest":"sha256:1"}]}')
        case "an index that is no text":
            index.write_bytes(b"\xff\xfe")
        case "an empty index":
            index.write_text('{"schemaVersion":2}')
        case "a huge index":
            index.write_bytes(b" " * 5_000_000)
        case "no manifest":
            manifest.unlink()
        case "another manifest":
            manifest.write_bytes(OTHER.manifest.data)
        case "another size":
            change_index(folder, lambda entries: [{**entries[0], "size": 1}])
        case "a manifest of another type":
            change_index(folder, lambda entries: [{**entries[0], "mediaType": OCI_INDEX}])


DAMAGES: dict[str, tuple[type[TransferError], str]] = {
    "no marker": (ImageMissing, "no OCI layout: it has no file oci-layout"),
    "another version": (NameUnusable, r"of version '2\.0\.0'"),
    "a damaged marker": (SourceDamaged, "oci-layout of .* is damaged"),
    "no index": (ImageMissing, r"has no index\.json"),
    "a damaged index": (SourceDamaged, r"index\.json of .* is damaged"),
    "an index that is no text": (SourceDamaged, r"index\.json of .* is damaged"),
    "an empty index": (ImageMissing, "no image in it"),
    "a huge index": (SourceDamaged, "4,194,304"),
    "no manifest": (ImageMissing, "has no manifest sha256:"),
    "another manifest": (SourceDamaged, "its bytes are others"),
    "another size": (SourceDamaged, "its bytes are others"),
    "a manifest of another type": (SourceDamaged, "is damaged"),
}


@pytest.mark.parametrize("what", DAMAGES)
async def test_what_is_damaged_is_refused(what: str, opened: Open, tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "layout", IMAGE, "v1")
    damage(what, folder)
    error, says = DAMAGES[what]

    with pytest.raises(error, match=says):
        await opened(folder, None).manifest()


async def test_a_blob_that_is_missing_or_of_another_size_is_refused(opened: Open, tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "layout", IMAGE, "v1")
    blob_path(folder, IMAGE.layers[0].digest).unlink()
    os.truncate(blob_path(folder, IMAGE.layers[1].digest), 1000)
    source = opened(folder, None)

    with pytest.raises(ImageMissing, match="has no blob sha256:"):
        await read(source.blob(described(IMAGE.layers[0])))
    with pytest.raises(SourceDamaged, match="it has 1,000 bytes instead of"):
        await read(source.blob(described(IMAGE.layers[1])))


async def test_a_blob_with_other_bytes_is_given_as_it_is_for_its_reader_to_find(opened: Open, tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "layout", IMAGE, "v1")
    layer = IMAGE.layers[0]
    other = bytes(len(layer.data))
    blob_path(folder, layer.digest).write_bytes(other)

    assert await read(opened(folder, None).blob(described(layer))) == other


async def test_more_layers_are_read_than_files_may_be_open(tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "layout", IMAGE, "v1")
    source = OciLayout(folder)
    open_files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    readers = [source.blob(described(IMAGE.layers[0])) for _ in range(5000)]

    assert await read(readers[-1]) == IMAGE.layers[0].data
    assert open_files == 0 or len(os.listdir("/proc/self/fd")) <= open_files


async def test_what_is_no_layout_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ImageMissing, match="there is no folder"):
        await OciLayout(tmp_path / "none").manifest()
    with pytest.raises(NameUnusable, match="write oci-archive: before it"):
        await OciLayout(written(tmp_path, tar({}))).manifest()
    with pytest.raises(ImageMissing, match="there is no file"):
        await OciArchive(tmp_path / "none.tar").manifest()
    with pytest.raises(NameUnusable, match="not a plain file"):
        await OciArchive(tmp_path).manifest()


async def test_an_archive_that_is_compressed_as_a_whole_is_refused(tmp_path: Path) -> None:
    path = as_tar(write_layout(tmp_path / "layout", IMAGE, "v1"))
    run([tool("gzip"), path])

    with pytest.raises(NameUnusable, match="compressed as a whole, by gzip: decompress it first, with gunzip"):
        await OciArchive(path.with_suffix(".tar.gz")).manifest()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (entry("blobs/../../x", b"data"), "outside of it"),
        (entry("blobs", flag=b"2", link="/var/lib"), "outside of it"),
        (entry("index.json", b"{}"), "twice"),
        (entry("x", size=b"%011o\0" % 2**32), "4,294,967,296 bytes"),
    ],
)
async def test_a_hostile_archive_is_refused(more: bytes, says: str, tmp_path: Path) -> None:
    data = tar({"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": b'{"manifests":[]}'}, more)

    with pytest.raises(SourceDamaged, match=says):
        await OciArchive(written(tmp_path, data)).manifest()


async def test_what_skopeo_writes_is_read(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", IMAGE, "v1")
    skopeo = [tool("skopeo"), "--insecure-policy", "copy", f"oci:{layout}:v1"]
    run([*skopeo, f"oci:{tmp_path / 'copied'}:v2"])
    run([*skopeo, f"oci-archive:{tmp_path / 'copied.tar'}:v2"])

    for source in (OciLayout(tmp_path / "copied", "v2"), OciArchive(tmp_path / "copied.tar", "v2")):
        manifest = await source.manifest()
        for blob in manifest.parsed.blobs():
            assert Digest.of(await read(source.blob(blob))) == blob.parsed
        config: Descriptor | None = manifest.parsed.config
        assert config is not None
        assert config.digest == IMAGE.config.digest
        await source.close()
