"""One blob on its way: hashed in order, whatever order its parts come in."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.transfer.fakes import (
    Clockwork,
    Heard,
    MemorySource,
    MemoryTarget,
    descriptor,
    settings,
    some_bytes,
)

from bucketry.hashing import NotingHasher, new
from bucketry.oci import Digest
from bucketry.transfer.errors import Refused
from bucketry.transfer.sending import InOrder, Sending
from bucketry.transfer.work import Work

DATA = some_bytes(500_000)


@given(st.integers(0, 10_000), st.integers(1, 100))
async def test_parts_are_hashed_in_order_whatever_order_they_come_in(seed: int, size: int) -> None:
    data = some_bytes(1_000)
    starts = list(range(0, len(data), size))
    random.Random(seed).shuffle(starts)
    hashes = InOrder(NotingHasher(new("sha256"), 64))

    await asyncio.gather(*(hashes.take(start, data[start : start + size]) for start in starts))

    assert hashes.hasher.hexdigest() == Digest.of(data).hex
    assert hashes.hasher.checkpoints() is not None


def sending(tmp_path: Path, source: MemorySource, target: MemoryTarget, **changes: object) -> Sending:
    work = Work(settings(tmp_path, **changes), Heard(), timing=Clockwork().timing, piece=1)
    return Sending(work, source, target, mount_from=None)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 500_000])
async def test_a_blob_of_any_size_and_algorithm(tmp_path: Path, algorithm: str, size: int) -> None:
    data = DATA[:size]
    source, target = MemorySource(), MemoryTarget()
    digest = str(Digest.of(data, algorithm))
    source.blobs[digest] = data
    blob = type(descriptor(data))(media_type="application/octet-stream", digest=digest, size=size)

    await sending(tmp_path, source, target).send(blob)

    assert target.blobs == {digest: data}
    assert target.puts == (-(-size // 65_536) if size > 65_536 else 0)


@pytest.mark.parametrize("forced", [1_000, 300_000, 10_000_000])
async def test_the_target_decides_how_long_parts_are(tmp_path: Path, forced: int) -> None:
    source, target = MemorySource(), MemoryTarget()
    source.blobs[descriptor(DATA).digest] = DATA
    target.forced_part_size = forced

    await sending(tmp_path, source, target).send(descriptor(DATA))

    assert target.blobs == {descriptor(DATA).digest: DATA}
    assert target.puts == -(-len(DATA) // forced)


async def test_more_parts_than_there_can_be_are_told(tmp_path: Path) -> None:
    source, target = MemorySource(), MemoryTarget()
    source.blobs[descriptor(DATA).digest] = DATA
    target.forced_part_size = 49

    with pytest.raises(Refused, match="larger parts"):
        await sending(tmp_path, source, target).send(descriptor(DATA))


async def test_a_registry_that_turns_out_to_give_no_ranges_is_read_in_order(tmp_path: Path) -> None:
    source, target = MemorySource(), MemoryTarget()
    source.blobs[descriptor(DATA).digest] = DATA

    async def found_out(digest: str, start: int) -> None:
        if start:
            source.ranged = False
            raise Refused("it sends whole blobs only")

    source.before_read = found_out
    await sending(tmp_path, source, target).send(descriptor(DATA))

    assert target.blobs == {descriptor(DATA).digest: DATA}
