"""Segments judged by their checkpoints, in any order: what holds, and what fails whoever forged it."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.unit.hashing.lists import (
    blobs,
    cut,
    examples,
    failing,
    flipped,
    listed,
    long_blobs,
    native,
    noted,
    passes,
    pattern,
    segments,
)

from bucketry import hashing
from bucketry.hashing import (
    MAX_ENCODED,
    MAX_LENGTH,
    MAX_SEGMENT,
    MAX_SEGMENTS,
    SEGMENT,
    Checkpoints,
    NotResumable,
    libcrypto,
)

# What holds, and what does not


@examples
@given(blob=blobs, segment=segments, random=st.randoms(use_true_random=False))
def test_every_segment_holds_in_any_order_and_any_pieces(
    native: None, blob: bytes, segment: int, random: random.Random
) -> None:
    checkpoints = listed(blob, segment)
    order = list(enumerate(cut(checkpoints, blob)))
    random.shuffle(order)
    for i, data in order:
        at = sorted(random.randrange(len(data) + 1) for _ in range(3))
        kind = random.choice([bytes, bytearray, memoryview])
        pieces = [kind(data[start:stop]) for start, stop in zip([0, *at], [*at, len(data)], strict=True)]
        assert passes(checkpoints, i, *pieces)


@examples
@given(blob=blobs, segment=segments, draw=st.data())
def test_a_flipped_bit_fails_its_segment_and_no_other(
    native: None, blob: bytes, segment: int, draw: st.DataObject
) -> None:
    assume(blob)
    bit = draw.draw(st.integers(0, 8 * len(blob) - 1))
    assert failing(listed(blob, segment), flipped(blob, bit)) == [bit // 8 // segment]


@native
def test_every_bit_of_a_blob_counts() -> None:
    blob = pattern(200)
    checkpoints = listed(blob, 64)
    assert [failing(checkpoints, flipped(blob, bit)) for bit in range(8 * 200)] == [
        [bit // 8 // 64] for bit in range(8 * 200)
    ]


@examples
@given(blob=blobs, segment=segments, change=st.integers(1, 300), fill=st.binary(min_size=300, max_size=300))
def test_a_truncated_or_a_longer_blob_fails(native: None, blob: bytes, segment: int, change: int, fill: bytes) -> None:
    checkpoints = listed(blob, segment)
    assert failing(checkpoints, blob + fill[:change]) == [checkpoints.count - 1]
    if change <= len(blob):
        kept = len(blob) - change
        full = kept // segment
        assert failing(checkpoints, blob[:kept]) == list(range(full, checkpoints.count))


@examples
@given(blob=long_blobs, other=long_blobs, segment=segments)
def test_states_of_another_blob_fail(native: None, blob: bytes, other: bytes, segment: int) -> None:
    assume(blob != other)
    theirs = listed(other, segment)
    assert failing(theirs, blob)
    mine = listed(blob, segment)
    if mine.states != theirs.states and mine.count == theirs.count:
        assert failing(dataclasses.replace(mine, states=theirs.states), blob)


@examples
@given(blob=long_blobs, segment=segments, draw=st.data())
def test_exchanged_states_and_exchanged_segments_fail(
    native: None, blob: bytes, segment: int, draw: st.DataObject
) -> None:
    checkpoints = listed(blob, segment)
    full = len(blob) // segment
    assume(full >= 3)
    one, two = sorted(draw.draw(st.lists(st.integers(0, full - 2), min_size=2, max_size=2, unique=True)))
    states = [checkpoints.states[at : at + 32] for at in range(0, len(checkpoints.states), 32)]
    states[one], states[two] = states[two], states[one]
    swapped = dataclasses.replace(checkpoints, states=b"".join(states))
    assert failing(swapped, blob) == sorted({one, one + 1, two, two + 1})

    data = cut(checkpoints, blob)
    assert not passes(checkpoints, one, data[two])
    assert not passes(checkpoints, two, data[one])
    data[one], data[two] = data[two], data[one]
    assert failing(checkpoints, b"".join(data)) == [one, two]


@examples
@given(blob=long_blobs, segment=segments, draw=st.data())
def test_a_forged_state_fails_the_segments_around_it(
    native: None, blob: bytes, segment: int, draw: st.DataObject
) -> None:
    checkpoints = listed(blob, segment)
    bit = draw.draw(st.integers(0, 8 * len(checkpoints.states) - 1))
    forged = dataclasses.replace(checkpoints, states=flipped(checkpoints.states, bit))
    assert failing(forged, blob) == [bit // 256, bit // 256 + 1]


@examples
@given(blob=blobs, segment=segments, bit=st.integers(0, 255))
def test_another_digest_fails_the_last_segment(native: None, blob: bytes, segment: int, bit: int) -> None:
    checkpoints = listed(blob, segment)
    digest = flipped(bytes.fromhex(checkpoints.digest), bit).hex()
    assert failing(dataclasses.replace(checkpoints, digest=digest), blob) == [checkpoints.count - 1]


@examples
@given(blob=long_blobs, segment=segments, draw=st.data())
def test_a_forger_passes_all_segments_but_one_and_never_all(
    native: None, blob: bytes, segment: int, draw: st.DataObject
) -> None:
    """Why a partial check proves nothing: he may choose the segment that gives him away."""
    true = listed(blob, segment)
    evil = bytes(byte ^ 1 for byte in blob)
    theirs = listed(evil, segment)
    given_away = draw.draw(st.integers(0, true.count - 1))
    start, _ = true.bounds(given_away)
    forged = dataclasses.replace(true, states=theirs.states[: 32 * given_away] + true.states[32 * given_away :])
    shown = evil[:start] + blob[start:]
    if given_away:
        assert failing(forged, shown) == [given_away]
    # To the end with his own bytes: then it is the digest that he does not reach.
    assert failing(dataclasses.replace(theirs, digest=true.digest), evil) == [true.count - 1]


@native
def test_sizes_in_the_header_that_are_not_the_blobs_fail() -> None:
    blob = pattern(300)
    checkpoints = listed(blob, 128)
    for size in range(257, 385):
        # The last segment is cut as the header says; the true blob has what it has.
        claimed = dataclasses.replace(checkpoints, size=size)
        assert failing(claimed, blob) == ([] if size == 300 else [2])
        assert failing(claimed, (blob + bytes(84))[:size]) == ([] if size == 300 else [2])


@native
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 127, 128, 129, 191, 192, 193, 256])
def test_around_the_boundaries(size: int) -> None:
    blob = pattern(size)
    checkpoints = noted(blob, 64)

    assert checkpoints == listed(blob, 64)
    assert checkpoints.count == max(1, -(-size // 64))
    assert len(checkpoints.states) == 32 * (checkpoints.count - 1)
    assert checkpoints.bounds(0) == (0, min(64, size))
    assert checkpoints.bounds(checkpoints.count - 1)[1] == size
    assert failing(checkpoints, blob) == []
    assert failing(checkpoints, blob + b"\0") == [checkpoints.count - 1]


@native
def test_the_empty_blob_has_one_empty_segment() -> None:
    checkpoints = Checkpoints(hashlib.sha256().hexdigest(), 0, SEGMENT, b"")
    assert (checkpoints.count, checkpoints.bounds(0)) == (1, (0, 0))
    assert passes(checkpoints, 0)
    assert passes(checkpoints, 0, b"", b"")
    assert not passes(checkpoints, 0, b"\0")
    assert not passes(Checkpoints(hashlib.sha256(b"x").hexdigest(), 0, SEGMENT, b""), 0)


@native
def test_a_segment_is_judged_by_what_came_so_far() -> None:
    blob = pattern(300)
    check = listed(blob, 128).check(1)
    assert not check.holds()
    check.update(blob[128:200])
    assert not check.holds()
    check.update(blob[200:256])
    assert check.holds()
    assert check.holds()
    check.update(b"")
    assert check.holds()
    check.update(b"\0")
    assert not check.holds()


@native
@pytest.mark.parametrize("i", [0, 1, 2])
def test_more_than_a_segment_never_holds_and_never_raises(i: int) -> None:
    blob = pattern(300)
    checkpoints = listed(blob, 128)
    start, stop = checkpoints.bounds(i)
    check = checkpoints.check(i)
    check.update(blob[start:stop] + b"x")
    assert not check.holds()
    # What would have been right by itself does not make up for it.
    check.update(blob[start:stop])
    check.update(b"")
    check.update(bytes(1_000_000))
    assert not check.holds()


@native
def test_a_segment_at_the_end_of_the_longest_message_takes_no_more() -> None:
    size = MAX_LENGTH
    assert size // MAX_SEGMENT > MAX_SEGMENTS  # no list reaches it
    longest = Checkpoints("0" * 64, MAX_SEGMENT * MAX_SEGMENTS, MAX_SEGMENT, bytes(32 * (MAX_SEGMENTS - 1)))
    check = longest.check(MAX_SEGMENTS - 1)
    check.update(b"x")
    assert not check.holds()
    assert len(longest.encode()) == MAX_ENCODED


@native
def test_many_threads_check_one_list() -> None:
    blob = random.Random(1).randbytes(3_000_001)
    checkpoints = noted(blob, 64 * 1024)
    data = cut(checkpoints, blob)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda i: passes(checkpoints, i, data[i]), range(checkpoints.count)))
        bad = flipped(blob, 8 * 1_500_000)
        found = pool.map(lambda i: passes(checkpoints, i, cut(checkpoints, bad)[i]), range(checkpoints.count))
        assert [i for i, held in enumerate(found) if not held] == [1_500_000 // 65536]


@pytest.fixture
def no_libcrypto(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    load = sys.modules["bucketry.hashing.resumable"]._load
    load.cache_clear()
    monkeypatch.setattr(libcrypto, "load", lambda: None)
    yield
    load.cache_clear()


def test_without_libcrypto_nothing_can_be_checked(no_libcrypto: None) -> None:
    assert not hashing.resumable()
    for size in (0, 10, 300):
        checkpoints = listed(pattern(size), 64)
        for i in range(checkpoints.count):
            with pytest.raises(NotResumable):
                checkpoints.check(i)
        with pytest.raises(IndexError):
            checkpoints.check(checkpoints.count)
    assert Checkpoints.parse(checkpoints.encode()) == checkpoints


def test_the_fallback_can_be_asked_for() -> None:
    with pytest.raises(NotResumable):
        listed(pattern(300), 64).check(1, native=False)


# Noting them


def test_the_public_names() -> None:
    assert hashing.SEGMENT == 8 * 1024 * 1024
    assert hashing.MEDIA_TYPE == "application/vnd.bucketry.checkpoints.v1"
    assert hashing.resumable() in (True, False)
    assert all(hasattr(hashing, name) for name in hashing.__all__)
