"""Pull: what lands is verified, what broke is fetched again, and no more than that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.transfer.fakes import (
    MIB,
    Clockwork,
    FolderDestination,
    Heard,
    Image,
    MemorySource,
    MemoryTarget,
    checkpoints_of,
    index,
    nothing,
    once,
    raw,
    settings,
    some_bytes,
)

from bucketry.hashing import SEGMENT, Checkpoints
from bucketry.oci import Descriptor, Digest
from bucketry.transfer.contract import Destination, RawManifest, Slot
from bucketry.transfer.copy import copy
from bucketry.transfer.errors import ContentMismatch, NameUnusable, NoSpace, Unreachable
from bucketry.transfer.events import Again, Ended, Moved, Note, Resumed, Verified
from bucketry.transfer.local.layout import LayoutSource
from bucketry.transfer.local.oci_archive import OciArchive
from bucketry.transfer.local.oci_archive_filling import OciArchiveFilling
from bucketry.transfer.local.oci_layout import OciLayout
from bucketry.transfer.local.oci_layout_filling import OciLayoutFilling
from bucketry.transfer.pull import pull
from bucketry.transfer.settings import TransferSettings
from bucketry.transfer.work import BLOBS_AT_ONCE

BIG = some_bytes(3 * SEGMENT + 12_345)
DIGEST = str(Digest.of(BIG))
SMALL = some_bytes(30_000, 1)
LIST = checkpoints_of(BIG, MIB)


async def run(
    source: MemorySource,
    destination: Destination,
    chosen: TransferSettings,
    heard: Heard | None = None,
    *,
    whole: bool = False,
) -> Ended:
    return await pull(
        source,
        destination,
        reference="latest",
        settings=chosen,
        listen=heard or Heard(),
        whole=whole,
        timing=Clockwork().timing,
        clock=lambda: 1e9,
    )


def source_of(*images: Image, checkpoints: bool = True, ranged: bool = True) -> MemorySource:
    source = MemorySource(*images)
    source.piece = 256 * 1024
    source.ranged = ranged
    if checkpoints:
        source.checkpoints[DIGEST] = LIST
    return source


@pytest.mark.parametrize("checkpoints", [True, False])
@pytest.mark.parametrize("ranged", [True, False])
async def test_an_image_lands_whole(tmp_path: Path, checkpoints: bool, ranged: bool) -> None:
    image, heard = Image(BIG, SMALL), Heard()
    source, destination = source_of(image, checkpoints=checkpoints, ranged=ranged), FolderDestination(tmp_path / "to")

    ended = await run(source, destination, settings(tmp_path), heard)

    assert destination.holds(image)
    assert destination.begun == (image.manifest, (), "latest")
    assert ended.moved == heard.total(Moved) == len(BIG) + len(SMALL) + 2 == source.read_bytes
    assert sum(event.size for event in heard.events if isinstance(event, Verified)) == ended.moved


@pytest.mark.parametrize("checkpoints", [True, False])
@pytest.mark.parametrize("ranged", [True, False])
async def test_every_read_may_break_once_at_every_piece(tmp_path: Path, checkpoints: bool, ranged: bool) -> None:
    image = Image(BIG, SMALL)
    source = source_of(image, checkpoints=checkpoints, ranged=ranged)
    source.piece = MIB
    source.after_piece = once()
    destination = FolderDestination(tmp_path / "to")

    await run(source, destination, settings(tmp_path, retries=100))

    assert destination.holds(image)
    if ranged:
        # What had arrived when it broke was kept, but for the less than a write's worth that was held.
        assert source.read_bytes < 2.2 * len(BIG)


async def test_a_bit_that_flips_once_in_every_segment_costs_that_segment_again(tmp_path: Path) -> None:
    image, heard = Image(BIG), Heard()
    source, destination = source_of(image), FolderDestination(tmp_path / "to")
    flipped: set[int] = set()

    def flip(digest: str, at: int, piece: bytes) -> bytes:
        if digest != DIGEST or at // MIB in flipped:
            return piece
        flipped.add(at // MIB)
        return bytes([piece[0] ^ 1]) + piece[1:]

    source.change = flip
    ended = await run(source, destination, settings(tmp_path), heard)

    assert destination.holds(image)
    assert sum(isinstance(event, Again) for event in heard.events) == LIST.count
    assert source.read_bytes == 2 * len(BIG) + 2
    assert ended.moved == len(BIG) + 2


async def test_only_the_segment_that_is_wrong_is_fetched_again(tmp_path: Path) -> None:
    image = Image(BIG)
    source, destination = source_of(image), FolderDestination(tmp_path / "to")
    reads: list[int] = []

    async def note(digest: str, start: int) -> None:
        reads.append(start)

    source.before_read = note
    source.change = lambda digest, at, piece: bytes(len(piece)) if at == 5 * MIB and reads.count(at) == 1 else piece
    await run(source, destination, settings(tmp_path))

    assert destination.holds(image)
    assert {start for start in reads if reads.count(start) > 1} - {0} == {5 * MIB}
    assert source.read_bytes == len(BIG) + MIB + 2


@pytest.mark.parametrize("at", [0, 7 * MIB, len(BIG) - 1])
async def test_bytes_that_stay_wrong_land_nowhere(tmp_path: Path, at: int) -> None:
    source, destination = source_of(Image(BIG)), FolderDestination(tmp_path / "to")

    def flip(digest: str, start: int, piece: bytes) -> bytes:
        i = at - start
        if digest == DIGEST and 0 <= i < len(piece):
            return piece[:i] + bytes([piece[i] ^ 64]) + piece[i + 1 :]
        return piece

    source.change = flip
    with pytest.raises(ContentMismatch, match=f"{DIGEST}.*segment {at // MIB} "):
        await run(source, destination, settings(tmp_path))

    assert not destination.whole(DIGEST).exists()
    assert destination.abandoned
    assert not destination.finished


@pytest.mark.parametrize("checkpoints", [True, False])
@pytest.mark.parametrize("ranged", [True, False])
async def test_a_blob_that_is_another_lands_nowhere(tmp_path: Path, checkpoints: bool, ranged: bool) -> None:
    source = source_of(Image(BIG), checkpoints=checkpoints, ranged=ranged)
    source.blobs[DIGEST] = some_bytes(len(BIG), 9)
    destination = FolderDestination(tmp_path / "to")

    with pytest.raises(ContentMismatch, match=DIGEST):
        await run(source, destination, settings(tmp_path))

    assert not destination.whole(DIGEST).exists()


@pytest.mark.parametrize("size", [len(BIG) - 1, len(BIG) + 1])
@pytest.mark.parametrize("checkpoints", [True, False])
@pytest.mark.parametrize("ranged", [True, False])
async def test_a_shorter_or_longer_blob_lands_nowhere(
    tmp_path: Path, size: int, checkpoints: bool, ranged: bool
) -> None:
    source = source_of(Image(BIG), checkpoints=checkpoints, ranged=ranged)
    source.blobs[DIGEST] = (BIG + b"x")[:size]
    if not ranged or size < len(BIG):
        source.change = lambda digest, at, piece: piece
    destination = FolderDestination(tmp_path / "to")

    if size > len(BIG):
        # Only what was asked for is read: the byte beyond is nobody's.
        await run(source, destination, settings(tmp_path))
        assert destination.holds(Image(BIG))
    else:
        with pytest.raises(Unreachable):
            await run(source, destination, settings(tmp_path, retries=1))
        assert not destination.whole(DIGEST).exists()


async def test_forged_checkpoints_are_rejected(tmp_path: Path) -> None:
    forged = bytearray(LIST.states)
    forged[100] ^= 1
    source = source_of(Image(BIG))
    source.checkpoints[DIGEST] = Checkpoints(LIST.digest, LIST.size, LIST.segment, bytes(forged))
    destination = FolderDestination(tmp_path / "to")

    with pytest.raises(ContentMismatch, match="segment"):
        await run(source, destination, settings(tmp_path))

    assert not destination.whole(DIGEST).exists()


async def test_checkpoints_of_another_blob_prove_nothing(tmp_path: Path) -> None:
    other = some_bytes(len(BIG), 5)
    source = source_of(Image(BIG))
    source.blobs[DIGEST] = other
    source.checkpoints[DIGEST] = checkpoints_of(other, MIB)
    destination = FolderDestination(tmp_path / "to")

    with pytest.raises(ContentMismatch):
        await run(source, destination, settings(tmp_path))

    assert not destination.whole(DIGEST).exists()


@pytest.mark.parametrize("checkpoints", [True, False])
async def test_a_second_run_fetches_only_what_is_missing(tmp_path: Path, checkpoints: bool) -> None:
    image, heard = Image(BIG), Heard()
    source, destination = source_of(image, checkpoints=checkpoints), FolderDestination(tmp_path / "to")

    async def die(digest: str, at: int) -> None:
        if source.read_bytes > len(BIG) * 0.75:
            task.cancel()

    source.after_piece = die
    task = asyncio.create_task(run(source, destination, settings(tmp_path, parallel=2)))
    with pytest.raises(asyncio.CancelledError):
        await task
    source.after_piece = nothing
    source.read_bytes = 0

    await run(source, destination, settings(tmp_path), heard)

    assert destination.holds(image)
    assert source.read_bytes < 0.6 * len(BIG)
    # The config may have landed before.
    assert heard.total(Resumed) + source.read_bytes - len(BIG) in (0, 2)
    assert list((tmp_path / "cache" / "pulls").iterdir()) == []


@pytest.mark.parametrize("checkpoints", [True, False])
async def test_what_changed_between_two_runs_is_found(tmp_path: Path, checkpoints: bool) -> None:
    image = Image(BIG)
    source, destination = source_of(image, checkpoints=checkpoints), FolderDestination(tmp_path / "to")

    async def die(digest: str, at: int) -> None:
        if source.read_bytes > len(BIG) * 0.75:
            task.cancel()

    source.after_piece = die
    task = asyncio.create_task(run(source, destination, settings(tmp_path, parallel=1)))
    with pytest.raises(asyncio.CancelledError):
        await task
    source.after_piece = nothing
    path = destination.partial(DIGEST)
    data = bytearray(path.read_bytes())
    data[4 + 2 * MIB] ^= 1
    path.write_bytes(data)

    await run(source, destination, settings(tmp_path))

    assert destination.holds(image)


async def test_buffers_fit_into_the_memory(tmp_path: Path) -> None:
    source, destination = source_of(Image(BIG)), FolderDestination(tmp_path / "to")

    await run(source, destination, settings(tmp_path, memory=4 * MIB, parallel=64))

    assert destination.holds(Image(BIG))
    assert source.most_reading <= 2  # of 2 MiB each


async def test_what_is_there_is_not_fetched(tmp_path: Path) -> None:
    image = Image(BIG, SMALL)
    source, destination = source_of(image), FolderDestination(tmp_path / "to")
    await run(source, destination, settings(tmp_path))
    source.read_bytes = 0

    ended = await run(source, destination, settings(tmp_path))

    assert source.read_bytes == 0
    assert ended.skipped == len(BIG) + len(SMALL) + 2


async def test_a_whole_index_or_the_image_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    one, two = Image(SMALL), Image(BIG, config=b'{"os": "linux"}')
    both = index((one.manifest, "linux/arm64/v8"), (two.manifest, "linux/amd64"))
    source = source_of(one, two)
    source.add(both, tag="latest")
    here, everywhere = FolderDestination(tmp_path / "one"), FolderDestination(tmp_path / "all")

    await run(source, here, settings(tmp_path))
    await run(source, everywhere, settings(tmp_path), whole=True)

    assert here.begun == (one.manifest, (), "latest")
    assert here.holds(one)
    assert not here.whole(DIGEST).exists()
    assert everywhere.begun == (both, (one.manifest, two.manifest), "latest")
    assert everywhere.holds(one, two)


async def test_a_full_disk_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    destination = FolderDestination(tmp_path / "to")

    with pytest.raises(NoSpace, match="No space left"):
        await run(source_of(Image(BIG)), destination, settings(tmp_path))

    assert destination.abandoned


class AfterConfigs(FolderDestination):
    """Where a layer goes is known only when the config is there."""

    def __init__(self, folder: Path, config: str) -> None:
        super().__init__(folder)
        self.config = config
        self.known = asyncio.Event()

    async def slot(self, blob: Descriptor) -> Slot | None:
        if blob.digest != self.config:
            await self.known.wait()
        return await super().slot(blob)

    async def landed(self, blob: Descriptor) -> None:
        await super().landed(blob)
        if blob.digest == self.config:
            self.known.set()


async def test_layers_may_wait_for_their_config_however_many_they_are(tmp_path: Path) -> None:
    image = Image(*(some_bytes(100, n) for n in range(BLOBS_AT_ONCE + 8)))
    source, destination = source_of(image), AfterConfigs(tmp_path / "to", str(Digest.of(b"{}")))

    async with asyncio.timeout(10):
        await run(source, destination, settings(tmp_path))

    assert destination.holds(image)


# What refers to an image

KINDS: dict[str, tuple[Callable[[Path], Destination], Callable[[Path], LayoutSource]]] = {
    "oci": (OciLayoutFilling, OciLayout),
    "oci-archive": (OciArchiveFilling, OciArchive),
}


def signed() -> tuple[MemorySource, dict[str, RawManifest], set[str]]:
    """An image that is signed in all ways, and what is to be in a repository that it was copied to: tags, manifests."""
    image = Image(SMALL)
    source = source_of(image)
    signature = Image(b"signature", subject=image.manifest.descriptor)
    countersigned = Image(b"countersigned", subject=signature.manifest.descriptor)
    platform = Image(b"for one platform")
    several = index((platform.manifest, "linux/amd64"))
    about = {**json.loads(several.body), "subject": json.loads(signature.manifest.body)["subject"]}
    several = raw(about)
    cosigned = Image(b"cosigned")
    tag = f"sha256-{image.manifest.digest.hex}.sig"
    for made in (signature, countersigned, platform):
        source.add(made.manifest, blobs=made.blobs)
    source.add(several)
    source.add(cosigned.manifest, tag=tag, blobs=cosigned.blobs)
    source.referring[str(image.manifest.digest)] = [signature.manifest.descriptor, several.descriptor]
    source.referring[str(signature.manifest.digest)] = [countersigned.manifest.descriptor]
    manifests = {image.manifest, signature.manifest, countersigned.manifest, platform.manifest, several}
    by_tag = {"v1": image.manifest, tag: cosigned.manifest}
    return source, by_tag, {str(manifest.digest) for manifest in (*manifests, cosigned.manifest)}


@pytest.mark.parametrize("kind", KINDS)
async def test_what_refers_to_an_image_comes_along_into_a_layout_and_out_of_it(kind: str, tmp_path: Path) -> None:
    make, opened = KINDS[kind]
    source, by_tag, manifests = signed()
    chosen = settings(tmp_path, referrers=True)

    for _ in range(2):
        await run(source, make(tmp_path / "out"), chosen)

    layout, target = opened(tmp_path / "out"), MemoryTarget()
    # The image needs no tag, though others lie beside it.
    await copy(layout, target, tag="v1", settings=chosen, listen=Heard())
    assert target.by_tag == by_tag
    assert set(target.manifests) == manifests
    for digest, known in source.referring.items():
        found = await layout.referrers(Digest.parse(digest))
        assert [each.digest for each in found] == [each.digest for each in known]
    await layout.close()
    if kind == "oci":
        entries = json.loads((tmp_path / "out" / "index.json").read_bytes())["manifests"]
        assert len(entries) == 5  # Pulled twice, listed once; what is below another is not listed.


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_comes_along_that_was_not_asked_for(kind: str, tmp_path: Path) -> None:
    make, opened = KINDS[kind]
    source, by_tag, _ = signed()

    await run(source, make(tmp_path / "out"), settings(tmp_path))

    layout, target = opened(tmp_path / "out"), MemoryTarget()
    await copy(layout, target, tag="v1", settings=settings(tmp_path, referrers=True), listen=Heard())
    assert len(target.manifests) == 1
    assert target.by_tag == {"v1": by_tag["v1"]}
    await layout.close()


async def test_a_destination_without_a_place_for_it_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    source, _, _ = signed()
    destination, heard = FolderDestination(tmp_path / "to"), Heard()

    with pytest.raises(NameUnusable, match=r"folder has no place for signatures and SBOMs: .*pull to oci:DIR or"):
        await run(source, destination, settings(tmp_path, referrers=True), heard)

    assert (heard.events, destination.begun) == ([], None)


async def test_of_an_index_that_may_be_signed_as_a_whole_it_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    image, heard = Image(SMALL), Heard()
    both, signature = index((image.manifest, "linux/amd64")), Image(b"signature")
    source = source_of(image)
    source.add(both, tag="latest")
    source.add(signature.manifest, tag=f"sha256-{both.digest.hex}.sig", blobs=signature.blobs)

    await run(source, OciLayoutFilling(tmp_path / "one"), settings(tmp_path, referrers=True), heard)
    await run(source, OciLayoutFilling(tmp_path / "all"), settings(tmp_path, referrers=True), heard, whole=True)

    (note,) = [event.text for event in heard.events if isinstance(event, Note)]
    assert "--all-platforms" in note
    assert len(await OciLayout(tmp_path / "one").tags()) == 1
    assert len(await OciLayout(tmp_path / "all").tags()) == 2
