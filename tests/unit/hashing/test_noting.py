"""Noting the states while a blob is hashed: no hash changes, and the list is the very one that the oracle makes."""

from __future__ import annotations

import hashlib
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hashing.lists import REFERENCE, blobs, examples, flipped, listed, native, noted, pattern, segments

from bucketry.hashing import MAX_SEGMENT, SEGMENT, Buffer, Hasher, NotingHasher, new, restore


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
