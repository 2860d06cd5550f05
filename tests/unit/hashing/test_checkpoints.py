from __future__ import annotations

import dataclasses
import hashlib
import random
import re
import struct
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.unit.hashing.reference import Reference

from bucketry import hashing
from bucketry.hashing import (
    MAX_ENCODED,
    MAX_LENGTH,
    MAX_SEGMENT,
    MAX_SEGMENTS,
    SEGMENT,
    Buffer,
    Checkpoints,
    Hasher,
    NotingHasher,
    NotResumable,
    libcrypto,
    new,
    restore,
)

REFERENCE = Reference("sha256")
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "sha256-checkpoints.md"

native = pytest.mark.usefixtures("native")
# The fixture only asks whether libcrypto is there, which does not change between examples.
examples = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
segments = st.sampled_from([64, 128, 192])
blobs = st.one_of(
    st.binary(max_size=700),
    st.builds(lambda n, seed: random.Random(seed).randbytes(64 * n), st.integers(0, 10), st.integers(0, 9)),
)
long_blobs = st.builds(lambda n, seed: random.Random(seed).randbytes(n), st.integers(193, 900), st.integers(0, 99))


def pattern(size: int) -> bytes:
    return bytes(n % 251 for n in range(size))


def listed(blob: bytes, segment: int) -> Checkpoints:
    """The list of a blob, by the oracle alone."""
    states, chain = b"", REFERENCE.initial
    for at in range(0, len(blob), segment):
        if at + segment < len(blob):
            chain = REFERENCE.chain(chain, blob[at : at + segment])
            states += chain
    return Checkpoints(hashlib.sha256(blob).hexdigest(), len(blob), segment, states)


def cut(checkpoints: Checkpoints, blob: bytes) -> list[bytes]:
    """What a peer gives for each segment of the list; for the last, all it has."""
    bounds = [checkpoints.bounds(i) for i in range(checkpoints.count)]
    return [*(blob[start:stop] for start, stop in bounds[:-1]), blob[bounds[-1][0] :]]


def passes(checkpoints: Checkpoints, i: int, *pieces: Buffer) -> bool:
    check = checkpoints.check(i)
    for piece in pieces:
        check.update(piece)
    return check.holds()


def failing(checkpoints: Checkpoints, blob: bytes) -> list[int]:
    """The segments that do not hold."""
    return [i for i, data in enumerate(cut(checkpoints, blob)) if not passes(checkpoints, i, data)]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def noted(blob: Buffer, segment: int) -> Checkpoints:
    hasher = NotingHasher(new("sha256"), segment)
    hasher.update(blob)
    found = hasher.checkpoints()
    assert found is not None
    return found


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


# The numbers and the form


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


# Noting them


def replay(hasher: Hasher, data: bytes, sizes: list[int]) -> None:
    at = 0
    for size in sizes:
        hasher.update(memoryview(data)[at : at + size])
        at += size
    hasher.update(data[at:])


@examples
@given(
    blob=blobs,
    segment=segments,
    sizes=st.lists(st.one_of(st.sampled_from([1, 63, 64, 65, 128, 192]), st.integers(0, 400)), max_size=8),
    algorithm=st.sampled_from(["sha256", "sha512"]),
    native_wanted=st.booleans(),
)
def test_noting_changes_no_hash(
    native: None, blob: bytes, segment: int, sizes: list[int], algorithm: str, native_wanted: bool
) -> None:
    plain = new(algorithm, native=native_wanted)
    noting: Hasher = NotingHasher(new(algorithm, native=native_wanted), segment)
    for hasher in (plain, noting):
        replay(hasher, blob, sizes)
    assert noting.algorithm == algorithm
    assert noting.length == len(blob)
    assert noting.hexdigest() == plain.hexdigest() == hashlib.new(algorithm, blob).hexdigest()
    assert noting.state() == plain.state()
    assert outcome(noting.chain) == outcome(plain.chain)
    assert isinstance(noting, NotingHasher)
    expected = listed(blob, segment) if algorithm == "sha256" and native_wanted else None
    assert noting.checkpoints() == expected
    assert (noting.states() is None) == (expected is None)


def outcome(call: Callable[[], bytes | None]) -> bytes | str | None:
    try:
        return call()
    except ValueError as error:
        return str(error)


@examples
@given(blob=blobs, segment=segments, stops=st.lists(st.integers(0, 700), max_size=4))
def test_it_goes_on_where_another_stopped(native: None, blob: bytes, segment: int, stops: list[int]) -> None:
    hasher = NotingHasher(new("sha256"), segment)
    at = 0
    for stop in [*sorted(min(stop, len(blob)) for stop in stops), len(blob)]:
        hasher.update(blob[at:stop])
        at = stop
        states, state = hasher.states(), hasher.state()
        assert states is not None
        assert state is not None
        assert len(states) == at // segment * 32
        hasher = NotingHasher(restore("sha256", state), segment, states)
        assert hasher.states() == states
    assert hasher.checkpoints() == listed(blob, segment)


@native
def test_a_boundary_at_exactly_the_length_is_noted_and_is_no_checkpoint_of_the_whole() -> None:
    blob = pattern(256)
    hasher = NotingHasher(new("sha256"), 128)
    hasher.update(blob)
    assert hasher.states() == REFERENCE.chain(REFERENCE.initial, blob[:128]) + REFERENCE.chain(REFERENCE.initial, blob)
    assert hasher.checkpoints() == listed(blob, 128)
    hasher.update(b"more")
    assert hasher.checkpoints() == listed(blob + b"more", 128)
    assert hasher.segment == 128
    assert NotingHasher(new("sha256")).segment == SEGMENT


@native
@pytest.mark.parametrize("size", [1, 32, 64, 96, 128, 256, 300])
def test_updates_that_end_at_boundaries_are_noted_without_being_asked(size: int) -> None:
    blob = pattern(640)
    hasher = NotingHasher(new("sha256"), 128)
    for at in range(0, len(blob), size):
        hasher.update(blob[at : at + size])
    assert hasher.checkpoints() == listed(blob, 128)


@native
@pytest.mark.parametrize("length", [0, 127, 128, 129, 256, 300])
def test_states_that_cannot_be_this_hashs_are_refused(length: int) -> None:
    def restored() -> Hasher:
        hasher = new("sha256")
        hasher.update(pattern(length))
        return hasher

    known = NotingHasher(new("sha256"), 128)
    known.update(pattern(length))
    states = known.states()
    assert states is not None
    assert NotingHasher(restored(), 128, states).states() == states
    for wrong in (states + bytes(32), states + b"\0", states[:-32], states[:-1]):
        if wrong != states:
            with pytest.raises(ValueError, match=f"{len(wrong)} bytes of states: {length} bytes hashed"):
                NotingHasher(restored(), 128, wrong)
    if length in (128, 256):
        with pytest.raises(ValueError, match="states of another hash"):
            NotingHasher(restored(), 128, flipped(states, 8 * len(states) - 1))


@pytest.mark.parametrize("segment", [0, -64, 1, 63, 65, MAX_SEGMENT + 64])
def test_segments_that_cannot_be_are_refused(segment: int) -> None:
    for hasher in (new("sha256"), new("sha256", native=False), new("sha512")):
        with pytest.raises(ValueError, match=f"no segments of {segment} bytes"):
            NotingHasher(hasher, segment)


@pytest.mark.parametrize(("algorithm", "native_wanted"), [("sha256", False), ("sha512", False), ("sha512", True)])
def test_where_nothing_can_be_noted_there_is_none(algorithm: str, native_wanted: bool) -> None:
    started = new(algorithm, native=native_wanted)
    started.update(bytes(100))
    hasher = NotingHasher(started, 64, b"whatever was noted elsewhere")
    hasher.update(bytes(100))
    assert hasher.states() is None
    assert hasher.checkpoints() is None
    copy = hasher.copy()
    assert copy.states() is None
    assert copy.hexdigest() == hasher.hexdigest() == hashlib.new(algorithm, bytes(200)).hexdigest()


@native
def test_a_copy_of_a_noting_hasher_is_independent() -> None:
    hasher = NotingHasher(new("sha256"), 64)
    hasher.update(bytes(64))
    copy = hasher.copy()
    hasher.update(b"left" * 32)
    copy.update(b"right" * 32)
    assert hasher.checkpoints() == listed(bytes(64) + b"left" * 32, 64)
    assert copy.checkpoints() == listed(bytes(64) + b"right" * 32, 64)


@native
def test_more_segments_than_a_list_may_have_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bucketry.hashing.checkpoints.MAX_SEGMENTS", 3)
    hasher = NotingHasher(new("sha256"), 64)
    hasher.update(bytes(192))
    assert hasher.checkpoints() is not None
    hasher.update(b"x")
    assert hasher.checkpoints() is None
    assert hasher.hexdigest() == hashlib.sha256(bytes(192) + b"x").hexdigest()


@native
def test_what_cannot_be_hashed_changes_nothing() -> None:
    hasher = NotingHasher(new("sha256"), 64)
    hasher.update(b"kept")
    for bad, error in (
        (memoryview(bytes(1000))[::2], BufferError),
        (memoryview(bytes(20))[::2], BufferError),
        ("text" * 100, TypeError),
        (12, TypeError),
    ):
        with pytest.raises(error):
            hasher.update(bad)  # type: ignore[arg-type]
    assert hasher.length == 4
    assert hasher.hexdigest() == hashlib.sha256(b"kept").hexdigest()


@native
def test_every_kind_of_view_is_noted_by_its_bytes() -> None:
    data = memoryview(pattern(960))
    for view in (data, data.cast("I"), data.cast("B", (24, 40)), data[5:], memoryview(bytearray(data)), data[:0]):
        hasher = NotingHasher(new("sha256"), 64)
        hasher.update(view)
        assert hasher.checkpoints() == listed(bytes(view), 64)


@native
def test_nothing_is_copied_and_no_buffer_is_held() -> None:
    size = 4 * 1024 * 1024
    array = bytearray(size)
    hasher = NotingHasher(new("sha256"), 64 * 1024)
    checkpoints = noted(array, size // 2)
    check = checkpoints.check(1)
    tracemalloc.start()
    try:
        hasher.update(array)
        check.update(memoryview(array)[size // 2 :])
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()
    assert check.holds()
    array.append(0)


class Interrupted:
    """A hasher whose next update ends in an interrupt, its bytes hashed."""

    def __init__(self, hasher: Hasher) -> None:
        self._hasher = hasher
        self.interrupts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hasher, name)

    def update(self, data: Buffer) -> None:
        self._hasher.update(data)
        if self.interrupts:
            self.interrupts -= 1
            raise KeyboardInterrupt


@native
@pytest.mark.parametrize("first", [64, 100, 200])
def test_an_interrupt_behind_an_update_loses_no_state(first: int) -> None:
    inner: Any = Interrupted(new("sha256"))
    hasher = NotingHasher(inner, 64)
    inner.interrupts = 1
    with pytest.raises(KeyboardInterrupt):
        hasher.update(pattern(first))
    assert hasher.length == 64  # of a longer update, the first piece
    hasher.update(pattern(300)[64:])
    assert hasher.checkpoints() == listed(pattern(300), 64)


@native
def test_threads_may_share_a_noting_hasher() -> None:
    hasher = NotingHasher(new("sha256"), 64 * 1024)
    barrier = threading.Barrier(4)

    def work(_: int) -> None:
        barrier.wait(timeout=30)
        for _ in range(20):
            hasher.update(bytes(50_000))
            found = hasher.checkpoints()
            assert found is not None
            assert found.size % 50_000 == 0

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert hasher.checkpoints() == noted(bytes(4_000_000), 64 * 1024)


def test_the_public_names() -> None:
    assert hashing.SEGMENT == 8 * 1024 * 1024
    assert hashing.MEDIA_TYPE == "application/vnd.bucketry.checkpoints.v1"
    assert hashing.resumable() in (True, False)
    assert all(hasattr(hashing, name) for name in hashing.__all__)


# The page that others implement it from


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Vector:
    size: int
    segment: int
    digest: str
    states: tuple[str, ...]
    file: bytes


def fields(block: str) -> tuple[dict[str, str], tuple[str, ...]]:
    values: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        found = re.fullmatch(r"(\S.*?)?\s+([0-9a-f]+)", line)
        assert found is not None, line
        name = found[1] or name
        values[name] = values.get(name, "") + found[2]
    states = tuple(value for name, value in values.items() if name.startswith("state"))
    assert [name for name in values if name.startswith("state")] == [f"state {n + 1}" for n in range(len(states))]
    return values, states


def vectors() -> list[Vector]:
    found = [fields(block) for block in blocks("text")]
    return [
        Vector(int(each["size"]), int(each["segment"]), each["digest"], states, bytes.fromhex(each["file"]))
        for each, states in found
        if "size" in each
    ]


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """The page's own implementation, in plain Python."""
    compression, verification = (block for block in blocks("python") if "bucketry" not in block)
    names: dict[str, Any] = {}
    exec(compile(compression + verification, str(PAGE), "exec"), names)
    return names


def test_the_pages_vectors_are_right() -> None:
    assert [(vector.size, vector.segment) for vector in vectors()] == [
        (0, 64), (64, 64), (65, 64), (128, 64), (200, 64), (300, 128),
    ]  # fmt: skip
    for vector in vectors():
        oracle = listed(pattern(vector.size), vector.segment)
        assert vector.digest == oracle.digest
        assert "".join(vector.states) == oracle.states.hex()
        assert vector.file == oracle.encode()
        assert Checkpoints.parse(vector.file) == oracle


@native
def test_the_pages_vectors_verify_here() -> None:
    for vector in vectors():
        blob = pattern(vector.size)
        assert noted(blob, vector.segment).encode() == vector.file
        assert failing(Checkpoints.parse(vector.file), blob) == []


def test_the_pages_example_agrees(example: dict[str, Any]) -> None:
    for vector in vectors():
        blob, wanted = pattern(vector.size), bytes.fromhex(vector.digest)
        assert example["holds"](vector.file, wanted, blob)
        assert not example["holds"](vector.file, bytes(32), blob)
        assert not example["holds"](vector.file, wanted, blob + b"\0")
        assert not example["holds"](vector.file, wanted, blob[:-1] if blob else b"x")
        for bit in range(0, 8 * len(vector.file), 37):
            assert not example["holds"](flipped(vector.file, bit), wanted, blob)
        for bit in range(0, 8 * len(blob), 97):
            assert not example["holds"](vector.file, wanted, flipped(blob, bit))


@native
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(blob=st.binary(max_size=300), segment=segments, seed=st.integers(0), draw=st.data())
def test_the_pages_example_and_this_implementation_judge_alike(
    example: dict[str, Any], blob: bytes, segment: int, seed: int, draw: st.DataObject
) -> None:
    changes = st.sampled_from([lambda data: data, lambda data: flipped(data, seed % (8 * len(data)))])
    file = draw.draw(changes)(listed(blob, segment).encode())
    if blob:
        blob = draw.draw(changes)(blob)
    try:
        parsed = Checkpoints.parse(file)
    except ValueError:
        assert not example["holds"](file, file[24:56], blob)
        return
    assert example["holds"](file, bytes.fromhex(parsed.digest), blob) == (
        parsed.size == len(blob) and failing(parsed, blob) == []
    )


def test_what_the_page_says_is_rejected_is(example: dict[str, Any]) -> None:
    last = vectors()[-1]
    blob, wanted, file = pattern(last.size), bytes.fromhex(last.digest), last.file

    def header(*, size: int = 300, segment: int = 128) -> bytes:
        return file[:8] + size.to_bytes(8, "big") + segment.to_bytes(8, "big") + file[24:]

    assert header() == file
    refused = [
        *(flipped(file, 8 * at) for at in range(8)),
        header(size=256), header(size=385),
        header(segment=0), header(segment=127), header(segment=MAX_SEGMENT + 64),
        file[:-32], file + bytes(32), file[:-1], file + b"\0",
    ]  # fmt: skip
    for each in refused:
        with pytest.raises(ValueError):
            Checkpoints.parse(each)
        assert not example["holds"](each, wanted, blob)
    for size in (257, 384):
        assert Checkpoints.parse(header(size=size)).size == size


@native
def test_the_pages_forgery_passes_two_segments_of_three() -> None:
    _, (state,) = next(found for found in map(fields, blocks("text")) if "size" not in found[0])
    true = Checkpoints.parse(vectors()[-1].file)
    forged = dataclasses.replace(true, states=bytes.fromhex(state) + true.states[32:])
    assert failing(forged, bytes(128) + pattern(300)[128:]) == [1]


@native
def test_the_pages_use_of_bucketry_works() -> None:
    (block,) = (block for block in blocks("python") if "bucketry" in block)
    names: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    assert names["check"].holds()


def test_the_pages_numbers_are_this_implementations() -> None:
    text = PAGE.read_text()
    assert f"at most {MAX_SEGMENTS}" in text
    assert f"from 64 to {MAX_SEGMENT} " in text
    assert f"no more than {MAX_ENCODED} bytes" in text
    assert f"8 MiB ({SEGMENT})" in text
    assert f"`{hashing.MEDIA_TYPE}`" in text
    words = " ".join(re.findall("[0-9a-f]{8}", REFERENCE.initial.hex()))
    assert f"`{words}`" in text
