"""Ranges, and streams that break."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.transfer.fakes import (
    Clockwork,
    Heard,
    MemoryReader,
    MemorySource,
    descriptor,
    once,
    settings,
    some_bytes,
)

from bucketry.transfer.errors import Unreachable
from bucketry.transfer.events import Again
from bucketry.transfer.reading import continued, read_range, steadily
from bucketry.transfer.work import Work

DATA = some_bytes(100_000)


def reader(*, ranged: bool = True) -> MemoryReader:
    source = MemorySource()
    source.blobs[descriptor(DATA).digest] = DATA
    source.ranged = ranged
    return source.blob(descriptor(DATA))


async def test_a_range() -> None:
    assert await read_range(reader(), 10, 70_000) == DATA[10:70_000]
    assert await read_range(reader(), 5, 5) == b""


@pytest.mark.parametrize("change", [lambda piece: piece[:-1], lambda piece: piece + b"x"])
async def test_a_range_of_another_length_is_tried_again(change: object) -> None:
    broken = reader()
    broken.source.change = lambda digest, at, piece: change(piece)  # type: ignore[operator]

    with pytest.raises(Unreachable, match="another number"):
        await read_range(broken, 0, 1_000)


@pytest.mark.parametrize("ranged", [True, False])
async def test_what_comes_before_is_passed_over(ranged: bool) -> None:
    found = b"".join([piece async for piece in continued(reader(ranged=ranged), 40_000, 90_000)])

    assert found[:50_000] == DATA[40_000:90_000]


@pytest.mark.parametrize("ranged", [True, False])
async def test_a_stream_goes_on_where_it_broke(tmp_path: Path, ranged: bool) -> None:
    heard, clock = Heard(), Clockwork()
    broken = reader(ranged=ranged)
    broken.source.after_piece = once()
    work = Work(settings(tmp_path, retries=1), heard, timing=clock.timing, piece=1)

    found = b"".join([piece async for piece in steadily(work, "item", broken, len(DATA))])

    assert found == DATA
    # There was progress each time, so one retry each was enough.
    assert sum(isinstance(event, Again) for event in heard.events) == 7


async def test_a_stream_that_ends_early_for_good(tmp_path: Path) -> None:
    work = Work(settings(tmp_path, retries=2), Heard(), timing=Clockwork().timing, piece=1)

    with pytest.raises(Unreachable, match="ended after 100000 of 100001"):
        async for _ in steadily(work, "item", reader(), len(DATA) + 1):
            pass
