from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.oci.errors import SizeInvalid, UploadInvalid
from bucketry.registry.partition import (
    MAX_BLOB,
    MAX_PART,
    USUAL_PARTS,
    check_parts,
    expected_size,
    part_count,
    part_size_for,
)
from bucketry.store.contract import MAX_PARTS, MIN_PART, Part

MIB = 1024 * 1024
SEGMENT = 8 * MIB


def chosen(size: int | None, wish: int | None = None, *, least: int = MIN_PART, most: int | None = None) -> int:
    return part_size_for(size, wish, segment=SEGMENT, least=least, most=most)


@pytest.mark.parametrize(
    ("size", "wish", "expected"),
    [
        (None, None, 16 * MIB),
        (0, None, 8 * MIB),
        (1, None, 8 * MIB),
        (512 * MIB, None, 8 * MIB),
        (4096 * MIB, None, 16 * MIB),
        (16 * 1024 * MIB, None, 64 * MIB),
        (200 * 1024 * MIB, None, 64 * MIB),
        (None, 1, 8 * MIB),
        (None, 8 * MIB + 1, 16 * MIB),
        (None, 1024 * MIB, 64 * MIB),
        (None, -5, 8 * MIB),
        (100 * 1024 * MIB, 5 * MIB, 16 * MIB),
        (1024**4, None, 112 * MIB),
        (MAX_BLOB, None, 528 * MIB),
    ],
)
def test_part_sizes(size: int | None, wish: int | None, expected: int) -> None:
    assert chosen(size, wish) == expected


@given(
    st.none() | st.integers(0, MAX_BLOB),
    st.none() | st.integers(0, 2**40),
    st.integers(MIN_PART, 256 * MIB),
)
def test_a_blob_fits_and_its_parts_are_of_whole_segments(size: int | None, wish: int | None, least: int) -> None:
    part_size = chosen(size, wish, least=least)

    assert part_size % SEGMENT == 0
    assert part_size >= least
    if size is not None:
        assert part_count(size, part_size) <= MAX_PARTS
    if size is None or size <= MAX_PART * MAX_PARTS:
        assert part_size <= max(MAX_PART, least + SEGMENT)
    if wish is None and size is not None and part_size > max(least, SEGMENT) + SEGMENT and part_size < MAX_PART:
        assert part_count(size, part_size) > USUAL_PARTS // 2


@pytest.mark.parametrize("size", [-1, MAX_BLOB + 1])
def test_a_size_that_cannot_be(size: int) -> None:
    with pytest.raises(SizeInvalid):
        chosen(size)


def test_parts_that_are_buffered_fit_into_the_memory() -> None:
    assert chosen(None, 64 * MIB, most=30 * MIB) == 24 * MIB
    assert chosen(None, most=96 * MIB) == 16 * MIB
    assert chosen(None, most=1 * MIB) == 8 * MIB, "one of the smallest is always taken"
    with pytest.raises(SizeInvalid, match=r"upload\.memory"):
        chosen(1024**4, most=96 * MIB)


def parts_of(size: int, part_size: int) -> list[Part]:
    return [
        Part(number, expected_size(number, part_size, size), f"etag-{number}")
        for number in range(1, part_count(size, part_size) + 1)
    ]


@given(st.integers(0, 1000), st.integers(1, 64))
def test_the_parts_of_a_blob_are_taken_in_order(size: int, part_size: int) -> None:
    parts = parts_of(size, part_size)
    shuffled = random.Random(size).sample(parts, len(parts))

    assert check_parts(shuffled, part_size, size) == tuple(parts)
    assert sum(part.size for part in parts) == size


@given(st.integers(2, 1000), st.integers(1, 64), st.data())
def test_what_is_missing_is_told(size: int, part_size: int, data: st.DataObject) -> None:
    parts = parts_of(size, part_size)
    missing = data.draw(st.sets(st.sampled_from([part.number for part in parts]), min_size=1))

    with pytest.raises(UploadInvalid) as caught:
        check_parts([part for part in parts if part.number not in missing], part_size, size)

    assert caught.value.detail == {"missing": sorted(missing)[:100]}


@given(st.integers(2, 1000), st.integers(1, 64), st.data())
def test_a_part_of_another_size_is_refused(size: int, part_size: int, data: st.DataObject) -> None:
    parts = parts_of(size, part_size)
    at = data.draw(st.integers(0, len(parts) - 1))
    right = parts[at].size
    wrong = data.draw(st.integers(0, 2 * part_size).filter(lambda found: found != right))
    parts[at] = Part(at + 1, wrong, "x")

    with pytest.raises(SizeInvalid) as caught:
        check_parts(parts, part_size, size)

    assert caught.value.detail == {"parts": [{"number": at + 1, "size": wrong, "expected": right}]}


def test_more_parts_than_the_blob_has_are_refused() -> None:
    with pytest.raises(SizeInvalid, match="part 4 has 10 bytes, and 0 belong there"):
        check_parts([*parts_of(30, 10), Part(4, 10, "x")], 10, 30)
    with pytest.raises(SizeInvalid):
        check_parts([Part(1, 10, "x")], 10, 0)


def test_more_bytes_than_parts_can_have_are_refused_at_once() -> None:
    with pytest.raises(SizeInvalid, match="10000 parts of 10"):
        check_parts([], 10, 10 * MAX_PARTS + 1)
