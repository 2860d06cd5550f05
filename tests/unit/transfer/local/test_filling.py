"""Destinations that are OCI layouts: filled in place, gone on with, and never half there."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.images import (
    OCI_INDEX,
    assert_layout_holds,
    blob_path,
    make_image,
    make_index,
    write_layout,
)
from tests.support.tools import run, tool
from tests.unit.transfer.local.filled import as_packed, begin, blobs, described, fill, land, put, raw
from tests.unit.transfer.local.tars import members

from bucketry.transfer.contract import Destination, ReferringDestination, Slot
from bucketry.transfer.errors import NameUnusable, NoSpace, Refused, SourceDamaged, TransferError
from bucketry.transfer.local.docker_archive_filling import DockerArchiveFilling
from bucketry.transfer.local.layout import REF_NAME
from bucketry.transfer.local.oci_archive import OciArchive
from bucketry.transfer.local.oci_archive_filling import OciArchiveFilling
from bucketry.transfer.local.oci_layout_filling import OciLayoutFilling

IMAGE = make_image(21, (300, 300_000))
OTHER = make_image(22, (400,))
INDEX = make_index([IMAGE, make_image(23, (500,), "arm64")])


class Kind(NamedTuple):
    make: Callable[[Path], Destination]
    partial: Callable[[Path], list[Path]]
    """What is there of a run that was given up."""


KINDS = {
    "oci": Kind(OciLayoutFilling, lambda path: sorted(path.glob("blobs/*/.*.partial"))),
    "oci-archive": Kind(OciArchiveFilling, lambda path: sorted(path.parent.glob("*.partial"))),
    "docker-archive": Kind(DockerArchiveFilling, lambda path: sorted(path.parent.glob("*.partial"))),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def names(path: Path) -> dict[str | None, str]:
    entries = json.loads((path / "index.json").read_bytes())["manifests"]
    return {entry.get("annotations", {}).get(REF_NAME): entry["digest"] for entry in entries}


async def test_an_image_is_written_and_read_by_skopeo(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "out"
    destination = kind.make(path)

    written = await fill(destination, IMAGE, "v1")

    assert written == [blob.digest for blob in blobs(IMAGE)]
    scheme = destination.name.partition(":")[0]
    tag = ":v1" if scheme != "docker-archive" else ""
    found = json.loads(run([tool("skopeo"), "inspect", "--config", "--raw", f"{scheme}:{path}{tag}"]))
    assert found == json.loads(IMAGE.config.data)
    run([tool("skopeo"), "--insecure-policy", "copy", f"{scheme}:{path}{tag}", f"oci:{tmp_path / 'copied'}:v1"])
    assert kind.partial(path) == []
    assert not list(tmp_path.rglob(".new-*"))


async def test_a_layout_holds_what_was_pulled(tmp_path: Path) -> None:
    await fill(OciLayoutFilling(tmp_path / "deep" / "out"), INDEX, "v1")

    assert_layout_holds(tmp_path / "deep" / "out", INDEX)
    assert names(tmp_path / "deep" / "out") == {"v1": INDEX.digest}
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes <= {0o644, 0o644 & ~umask()}


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


async def test_an_archive_holds_what_was_pulled_whole_index_too(tmp_path: Path) -> None:
    await fill(OciArchiveFilling(tmp_path / "out.tar", "v1"), INDEX, "from the source")

    found = members((tmp_path / "out.tar").read_bytes())
    for blob in INDEX.blobs():
        assert found[f"blobs/{blob.digest.replace(':', '/')}"] == blob.data
    source = OciArchive(tmp_path / "out.tar", "v1")
    assert (await source.manifest()).media_type == OCI_INDEX


async def test_archives_are_the_same_whenever_they_are_written(kind: Kind, tmp_path: Path) -> None:
    for name in ("one", "two"):
        await fill(kind.make(tmp_path / name), IMAGE, "v1")

    if (tmp_path / "one").is_file():
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    else:
        assert (tmp_path / "one/index.json").read_bytes() == (tmp_path / "two/index.json").read_bytes()


@pytest.mark.parametrize("make", [OciLayoutFilling, OciArchiveFilling])
async def test_an_index_that_nobody_would_read_is_not_written(
    make: Callable[[Path], ReferringDestination], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bucketry.transfer.local.filling.MAX_MANIFEST", 500)
    destination = make(tmp_path / "out")
    destination.take_along([(f"about-{n}", raw(image.manifest)) for n, image in enumerate(INDEX.images)])

    with pytest.raises(Refused, match=r"index\.json of oci.* would have [56]\d\d bytes, and at most 500 are read"):
        await fill(destination, INDEX, "v1")
    await destination.abandon()
    assert not (tmp_path / "out").is_file()
    assert not (tmp_path / "out" / "index.json").exists()


class TestLayoutsThatHaveImages:
    async def test_other_images_stay(self, tmp_path: Path) -> None:
        folder = write_layout(tmp_path / "layout", OTHER, "other")
        index = json.loads((folder / "index.json").read_bytes())
        (folder / "index.json").write_text(json.dumps({**index, "annotations": {"kept": "yes"}}))

        await fill(OciLayoutFilling(folder), IMAGE, "v1")

        assert names(folder) == {"other": OTHER.digest, "v1": IMAGE.digest}
        assert json.loads((folder / "index.json").read_bytes())["annotations"] == {"kept": "yes"}

    async def test_a_tag_moves(self, tmp_path: Path) -> None:
        folder = write_layout(tmp_path / "layout", OTHER, "v1")

        await fill(OciLayoutFilling(folder, "v1"), IMAGE)

        assert names(folder) == {"v1": IMAGE.digest}

    async def test_without_a_tag_it_is_named_once(self, tmp_path: Path) -> None:
        folder = write_layout(tmp_path / "layout", OTHER, "v1")
        for _ in range(2):
            await fill(OciLayoutFilling(folder), IMAGE)

        entries = json.loads((folder / "index.json").read_bytes())["manifests"]
        assert [entry["digest"] for entry in entries] == [OTHER.digest, IMAGE.digest]

    async def test_a_whole_blob_is_skipped_and_a_damaged_one_is_not(self, tmp_path: Path) -> None:
        folder = write_layout(tmp_path / "layout", IMAGE, "v1")
        damaged = IMAGE.layers[1]
        path = blob_path(folder, damaged.digest)
        path.write_bytes(damaged.data[:-1] + b"?")

        assert await fill(OciLayoutFilling(folder), IMAGE, "v1") == [damaged.digest]
        assert_layout_holds(folder, IMAGE)

    @pytest.mark.parametrize(
        ("data", "says"),
        [(b"{", "damaged"), (b"[]", "damaged"), (b'{"manifests":{}}', "damaged"), (b'{"manifests":[1]}', "damaged")],
    )
    async def test_a_damaged_index_is_not_replaced(self, data: bytes, says: str, tmp_path: Path) -> None:
        folder = write_layout(tmp_path / "layout", OTHER, "v1")
        (folder / "index.json").write_bytes(data)
        destination = OciLayoutFilling(folder)

        with pytest.raises(SourceDamaged, match=says):
            await begin(destination, IMAGE)
        await destination.abandon()
        assert (folder / "index.json").read_bytes() == data

    async def test_a_folder_of_something_else_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("chapter 1")
        destination = OciLayoutFilling(tmp_path)

        with pytest.raises(NameUnusable, match="not empty, and no OCI layout"):
            await begin(destination, IMAGE)
        await destination.abandon()
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


async def test_a_second_writer_is_told_to_wait(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "out"
    first, second = kind.make(path), kind.make(path)
    await begin(first, IMAGE)
    slot = await first.slot(described(IMAGE.layers[0]))

    with pytest.raises(Refused, match="another run is writing to"):
        await begin(second, IMAGE)
    await second.abandon()

    assert isinstance(slot, Slot)
    assert os.path.exists(slot.path)
    await land(first, blobs(IMAGE))
    await first.finish()
    await fill(kind.make(path), IMAGE)


async def test_nothing_looks_whole_before_the_end(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "out"
    destination = kind.make(path)
    await begin(destination, IMAGE, "v1")
    await land(destination, blobs(IMAGE)[:-1])

    with pytest.raises(TransferError, match="not complete"):
        await destination.finish()
    assert not path.is_file()
    assert not (path / "index.json").exists()
    await destination.abandon()


async def test_a_later_run_goes_on_with_what_there_is(kind: Kind, tmp_path: Path) -> None:
    """What landed is not asked for again, and the bytes of what had not are where they were."""
    path = tmp_path / "out"
    destination = kind.make(path)
    await begin(destination, IMAGE, "v1")
    first, second = IMAGE.layers
    await land(destination, [first])
    slot = await destination.slot(described(second))
    assert isinstance(slot, Slot)
    put(slot, second.data, 0, 200_000)
    await destination.abandon()
    assert len(kind.partial(path)) == 1

    again = kind.make(path)
    await begin(again, IMAGE, "v1")
    assert await again.slot(described(first)) is None
    place = await again.slot(described(second))
    assert place == slot
    with open(slot.path, "rb") as file:
        file.seek(slot.offset)
        assert file.read(200_000) == second.data[:200_000]
    put(slot, second.data, 200_000)
    await again.landed(described(second))
    await land(again, [IMAGE.config])
    await again.finish()
    assert kind.partial(path) == []


async def test_a_partial_file_of_another_image_is_begun_anew(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "out"
    destination = kind.make(path)
    await begin(destination, OTHER, "v1")
    await land(destination, blobs(OTHER))
    await destination.abandon()

    assert len(await fill(kind.make(path), IMAGE, "v1")) == len(blobs(IMAGE))
    if path.is_file():
        found = members(path.read_bytes())
        assert OTHER.layers[0].data not in found.values()


async def test_a_run_that_wrote_nothing_leaves_nothing(kind: Kind, tmp_path: Path) -> None:
    destination = kind.make(tmp_path / "out")
    await begin(destination, IMAGE, "v1")
    await destination.abandon()

    assert list(tmp_path.iterdir()) == []


async def test_a_longer_partial_file_is_cut(tmp_path: Path) -> None:
    layer = IMAGE.layers[0]
    path = blob_path(tmp_path / "out", layer.digest)
    path.parent.mkdir(parents=True)
    path.with_name(f".{path.name}.partial").write_bytes(bytes(len(layer.data) + 5000))

    await fill(OciLayoutFilling(tmp_path / "out"), IMAGE, "v1")

    assert_layout_holds(tmp_path / "out", IMAGE)


async def test_a_link_in_the_place_of_a_partial_file_is_not_followed(kind: Kind, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "new"
    folder.mkdir()
    path = folder / "out"
    partial = blob_path(path, IMAGE.layers[0].digest)
    partial.parent.mkdir(parents=True)
    partial.with_name(f".{partial.name}.partial").symlink_to(victim)
    if kind is not KINDS["oci"]:
        subprocess.run(["rm", "-r", str(path)], check=True)
    path.with_name("out.partial").symlink_to(victim)

    with pytest.raises(TransferError, match="cannot write"):
        await fill(kind.make(path), IMAGE, "v1")
    assert victim.read_text() == "mine"


async def test_a_disk_without_room_is_said_before_a_byte_is_fetched(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    full = os.statvfs_result([*real[:4], 30, *real[5:]])
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    destination = kind.make(tmp_path / "out")

    with pytest.raises(NoSpace, match=r"needs \d+ MiB more, but .* has 0 MiB free: make room"):
        await begin(destination, make_image(5, (300, 300_000)))
    await destination.abandon()
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_cannot_be_written_is_said_so(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(TransferError, match=r"cannot write|there is no folder"):
        await begin(kind.make(tmp_path / "file" / "out"), IMAGE)


async def test_an_archive_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    for make in (OciArchiveFilling, DockerArchiveFilling):
        with pytest.raises(NameUnusable, match="is a folder"):
            await begin(make(tmp_path), IMAGE)


async def test_a_digest_is_no_tag(tmp_path: Path) -> None:
    for make in (OciLayoutFilling, OciArchiveFilling):
        with pytest.raises(NameUnusable, match="name it by a tag"):
            await begin(make(tmp_path / "out", f"@{IMAGE.digest}"), IMAGE)


@pytest.mark.parametrize("how", ["gzip", "zstd"])
async def test_containerd_imports_and_unpacks_it(how: str, containerd_address: str, tmp_path: Path) -> None:
    """It compares the digest of what it unpacked with the config's. The layer is of several blocks."""
    image = await as_packed(how, make_image(24, (300, 9_000_000)))
    await fill(OciArchiveFilling(tmp_path / "out.tar", f"filled.example/{how}:v1"), image)
    ctr = [tool("ctr"), "--address", containerd_address, "images"]

    run([*ctr, "import", "--snapshotter=native", tmp_path / "out.tar"])
    said = run([*ctr, "check", "--snapshotter=native"])
    run([*ctr, "rm", "--sync", f"filled.example/{how}:v1"])

    (line,) = [line for line in said.splitlines() if f"filled.example/{how}:v1" in line]
    assert image.digest in line
    assert "complete (3/3)" in line
    assert line.rstrip().endswith("true")
