"""The digest of a layer's tar, while the layer passes as it is."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import pytest

from bucketry.oci import Digest
from bucketry.transfer.compress import Compression, compress
from bucketry.transfer.diff import DiffHash
from bucketry.transfer.errors import SourceDamaged

TAR = bytes(range(256)) * 8_000


async def stream(data: bytes, size: int = 300_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def through(data: bytes, *, packed: bool, size: int = 300_000) -> tuple[bytes, Digest]:
    diff = DiffHash(packed=packed)
    same = b"".join([piece async for piece in diff.through(stream(data, size))])
    return same, diff.diff_id()


@pytest.mark.parametrize("size", [1_000, 300_000, 10_000_000])
async def test_a_plain_layer(size: int) -> None:
    assert await through(TAR, packed=False, size=size) == (TAR, Digest.of(TAR))


async def test_an_empty_layer() -> None:
    assert await through(b"", packed=False) == (b"", Digest.of(b""))


@pytest.mark.parametrize("name", ["gzip", "zstd"])
@pytest.mark.parametrize("size", [1_000, 300_000])
async def test_a_packed_layer_passes_as_it_is(name: str, size: int) -> None:
    packed = b"".join([piece async for piece in compress(Compression.parse(name), stream(TAR))])

    assert await through(packed, packed=True, size=size) == (packed, Digest.of(TAR))


@pytest.mark.parametrize("cut", [20, -4])
async def test_a_packed_layer_that_is_cut_short(cut: int) -> None:
    with pytest.raises(SourceDamaged):
        await through(gzip.compress(TAR)[:cut], packed=True)


async def test_whoever_stops_early_leaves_no_task() -> None:
    diff = DiffHash(packed=True)
    pieces = diff.through(stream(gzip.compress(TAR), 1_000))

    await anext(pieces)
    await pieces.aclose()  # type: ignore[attr-defined]

    assert len(asyncio.all_tasks()) == 1
