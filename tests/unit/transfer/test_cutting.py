"""A stream in parts of one size, whatever the pieces were."""

from __future__ import annotations

from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from bucketry.transfer.cutting import Cutter


async def stream(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@given(st.lists(st.binary(max_size=20), max_size=20), st.integers(1, 30), st.booleans())
async def test_parts_are_the_stream(pieces: list[bytes], size: int, again: bool) -> None:
    cutter = Cutter(stream(pieces))
    parts: list[bytes] = []
    if again:
        cutter.put_back(await cutter.fill(size))

    while await cutter.more():
        parts.append(bytes(await cutter.fill(size)))

    assert b"".join(parts) == b"".join(pieces)
    assert all(len(part) == size for part in parts[:-1])
    assert all(parts)


@given(st.lists(st.binary(max_size=20), max_size=20), st.integers(1, 30))
async def test_the_rest_is_all_that_was_not_taken(pieces: list[bytes], size: int) -> None:
    cutter = Cutter(stream(pieces))

    first = bytes(await cutter.fill(size))

    assert first + b"".join([bytes(piece) async for piece in cutter.rest()]) == b"".join(pieces)
