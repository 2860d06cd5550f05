"""Pull: what lands is verified, what broke is fetched again, and no more than that."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.transfer.fakes import (
    MIB,
    Clockwork,
    FolderDestination,
    Heard,
    Image,
    MemorySource,
    checkpoints_of,
    index,
    nothing,
    once,
    settings,
    some_bytes,
)

from bucketry.hashing import SEGMENT, Checkpoints
from bucketry.oci import Digest
from bucketry.transfer.errors import ContentMismatch, NoSpace, Unreachable
from bucketry.transfer.events import Again, Ended, Moved, Resumed, Verified
from bucketry.transfer.pull import pull
from bucketry.transfer.settings import TransferSettings

BIG = some_bytes(3 * SEGMENT + 12_345)
DIGEST = str(Digest.of(BIG))
SMALL = some_bytes(30_000, 1)
LIST = checkpoints_of(BIG, MIB)


async def run(
    source: MemorySource,
    destination: FolderDestination,
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
