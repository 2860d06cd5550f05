"""The numbers of a list of checkpoints and the form it is stored in: what is read back, and what is refused."""

from __future__ import annotations

import dataclasses
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.hashing.lists import blobs, examples, flipped, listed, pattern, segments

from bucketry.hashing import MAX_LENGTH, MAX_SEGMENT, MAX_SEGMENTS, SEGMENT, Checkpoints

GOOD = listed(pattern(300), 128)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": GOOD.digest.upper()}, "hex digits"),
        ({"digest": GOOD.digest[:-1]}, "hex digits"),
        ({"digest": GOOD.digest + "\n"}, "hex digits"),
        ({"digest": "sha256:" + GOOD.digest}, "hex digits"),
        ({"size": -1}, "no SHA-256 of -1 bytes"),
        ({"size": MAX_LENGTH + 1}, "no SHA-256 of"),
        ({"size": MAX_LENGTH}, f"at most {MAX_SEGMENTS}"),
        ({"size": 256}, "64 bytes of states: 256 bytes in segments of 128 need 32"),
        ({"size": 385}, "need 96"),
        ({"size": 0}, "need 0"),
        ({"segment": 0}, "no segments of 0 bytes"),
        ({"segment": -64}, "no segments of -64 bytes"),
        ({"segment": 127}, "a multiple of 64"),
        ({"segment": MAX_SEGMENT + 64}, "no segments of"),
        ({"segment": 64}, "need 128"),
        ({"states": b""}, "0 bytes of states"),
        ({"states": GOOD.states[:-1]}, "63 bytes of states"),
        ({"states": GOOD.states + bytes(32)}, "96 bytes of states"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(GOOD, **changes)


@pytest.mark.parametrize("i", [-1, 3, 2**70])
def test_segments_that_are_not_there(i: int) -> None:
    with pytest.raises(IndexError, match=f"no segment {i}: there are 3"):
        GOOD.bounds(i)
    with pytest.raises(IndexError):
        GOOD.check(i)


def test_a_list_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GOOD.size = 1  # type: ignore[misc]
    assert GOOD.states.hex() not in repr(GOOD)


@examples
@given(blob=blobs, segment=segments, bit=st.integers(0))
def test_the_form_is_read_back_and_no_bit_is_lost(blob: bytes, segment: int, bit: int) -> None:
    checkpoints = listed(blob, segment)
    file = checkpoints.encode()
    assert Checkpoints.parse(file) == checkpoints
    changed = flipped(file, bit % (8 * len(file)))
    try:
        parsed = Checkpoints.parse(changed)
    except ValueError:
        return
    assert parsed != checkpoints
    assert parsed.encode() == changed


@settings(max_examples=300)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda version, size, segment, rest: struct.pack(">7sBQQ", b"SHA256C", version, size, segment) + rest,
            st.sampled_from([0, 1, 1, 1, 2]),
            st.one_of(st.integers(0, 1000), st.integers(0, 2**64 - 1)),
            st.one_of(st.sampled_from([0, 1, 64, 128, SEGMENT]), st.integers(0, 2**64 - 1)),
            st.binary(max_size=200),
        ),
    )
)
def test_whatever_is_read_is_a_list_or_a_value_error(data: bytes) -> None:
    try:
        parsed = Checkpoints.parse(data)
    except ValueError:
        return
    assert parsed.encode() == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes are too few"),
        (GOOD.encode()[:55], "55 bytes are too few"),
        (b"\x1f\x8b" + GOOD.encode()[2:], "begin with other bytes"),
        (GOOD.encode()[:7] + b"\2" + GOOD.encode()[8:], "version 2: only 1"),
        (GOOD.encode()[:-32], "32 bytes of states: 300 bytes in segments of 128 need 64"),
        (GOOD.encode() + b"\0", "65 bytes of states"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Checkpoints.parse(data)


def test_a_hostile_header_allocates_nothing() -> None:
    for size, segment in ((MAX_LENGTH, 64), (2**64 - 1, 2**64 - 64), (MAX_LENGTH, MAX_SEGMENT), (2**40, 64)):
        file = struct.pack(">7sBQQ32s", b"SHA256C", 1, size, segment, bytes(32))
        tracemalloc.start()
        try:
            with pytest.raises(ValueError):
                Checkpoints.parse(file)
            assert tracemalloc.get_traced_memory()[1] < 100_000
        finally:
            tracemalloc.stop()
