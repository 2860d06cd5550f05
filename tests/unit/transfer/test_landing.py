"""One blob on its way into a file: to its place, whatever is around it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.transfer.fakes import (
    MIB,
    Clockwork,
    Heard,
    MemorySource,
    checkpoints_of,
    descriptor,
    settings,
    some_bytes,
)

from bucketry.hashing import SEGMENT
from bucketry.oci import Descriptor, Digest
from bucketry.transfer.contract import Slot
from bucketry.transfer.errors import Refused, TransferError, Unreachable
from bucketry.transfer.journal import Journal
from bucketry.transfer.landing import Landing, note, noted
from bucketry.transfer.work import Work

DATA = some_bytes(SEGMENT + 2 * MIB + 3)


def landing(tmp_path: Path, source: MemorySource, blob: Descriptor, slot: Slot, **changes: object) -> Landing:
    work = Work(settings(tmp_path, **changes), Heard(), timing=Clockwork().timing, piece=1)
    return Landing(work, "source", source.blob(blob), blob, slot)


def source_of(data: bytes, digest: str) -> MemorySource:
    source = MemorySource()
    source.piece = 200_000
    source.blobs[digest] = data
    return source


@pytest.mark.parametrize("offset", [0, 1, 4096])
@pytest.mark.parametrize("checkpoints", [True, False])
async def test_what_is_around_the_slot_stays(tmp_path: Path, offset: int, checkpoints: bool) -> None:
    path = tmp_path / "archive"
    path.write_bytes(b"#" * (offset + len(DATA) + 100))
    source = source_of(DATA, descriptor(DATA).digest)
    if checkpoints:
        source.checkpoints[descriptor(DATA).digest] = checkpoints_of(DATA, MIB)

    await landing(tmp_path, source, descriptor(DATA), Slot(str(path), offset)).land()

    assert path.read_bytes() == b"#" * offset + DATA + b"#" * 100


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [0, 1, SEGMENT, SEGMENT + 1])
async def test_a_blob_of_any_size_and_algorithm(tmp_path: Path, algorithm: str, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    digest = str(Digest.of(DATA[:size], algorithm))
    blob = Descriptor(media_type="application/octet-stream", digest=digest, size=size)

    await landing(tmp_path, source_of(DATA[:size], digest), blob, Slot(str(path), 0)).land()

    assert path.read_bytes() == DATA[:size]


async def test_a_registry_that_turns_out_to_give_no_ranges_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    source = source_of(DATA, descriptor(DATA).digest)

    async def found_out(digest: str, start: int) -> None:
        if start:
            source.ranged = False
            raise Refused("it sends whole blobs only")

    source.before_read = found_out
    await landing(tmp_path, source, descriptor(DATA), Slot(str(path), 0)).land()

    assert path.read_bytes() == DATA


async def test_segments_too_short_to_be_requests_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    source = source_of(DATA, descriptor(DATA).digest)
    source.checkpoints[descriptor(DATA).digest] = checkpoints_of(DATA, 64 * 1024)
    reads = 0

    async def count(digest: str, start: int) -> None:
        nonlocal reads
        reads += 1

    source.before_read = count
    await landing(tmp_path, source, descriptor(DATA), Slot(str(path), 0)).land()

    assert reads == 2


async def test_a_source_that_gives_more_than_was_asked_for_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    source = source_of(DATA, descriptor(DATA).digest)
    source.change = lambda digest, at, piece: piece + b"more"

    with pytest.raises(Unreachable, match="another number of bytes"):
        await landing(tmp_path, source, descriptor(DATA), Slot(str(path), 0), retries=1).land()

    assert len(path.read_bytes()) <= len(DATA)


async def test_a_slot_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="nowhere could not be opened"):
        await landing(
            tmp_path, source_of(DATA, descriptor(DATA).digest), descriptor(DATA), Slot(str(tmp_path / "nowhere"), 0)
        ).land()


@pytest.mark.parametrize(
    ("text", "at"), [("150", 150), ("99", 100), ("201", 200), ("", 100), ("x", 100), ("-5", 100), ("9" * 50, 100)]
)
def test_what_was_noted_is_within_its_range(tmp_path: Path, text: str, at: int) -> None:
    entry = Journal(tmp_path).begin("a", note="")
    entry.mark(3, text)

    assert noted(entry, 3, 100, 200) == at
    assert noted(entry, 4, 100, 200) == 100
    note(entry, 3, 180)
    assert noted(entry, 3, 100, 200) == 180
