"""Bytes in the store against a digest, and every way to lie about them."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.registry.helpers import PART, FakeClock, blob_bytes, memory_store, noted, standstill

from bucketry import hashing
from bucketry.hashing import Checkpoints
from bucketry.oci import Digest
from bucketry.oci.errors import DigestMismatch, ParameterInvalid
from bucketry.registry import MemoryBudget, layout
from bucketry.registry.noting import Hashes
from bucketry.registry.readback import MAX_STATES, MIN_SEGMENT, ReadBack
from bucketry.store.contract import Corrupt, NotFound, Store, Unavailable
from bucketry.store.faults import Delay, FaultyStore, Refuse, Rule
from bucketry.store.memory import MemoryStore

KEY = layout.data("ab12")
DATA = blob_bytes(9 * PART + 7)
COUNT = 10


def read_back(
    store: Store, *, readers: int = 4, segment: int = PART, native: bool = True, budget: MemoryBudget | None = None
) -> ReadBack:
    hashes = Hashes(segment=segment, native=native)
    return ReadBack(store, budget or MemoryBudget(64 * PART), hashes, readers=readers, segment=segment)


async def verified(
    stored: bytes, digest: Digest, size: int, given_list: Checkpoints | None, *, native: bool = True
) -> tuple[Checkpoints | None, int]:
    """What is known of the object afterwards, and how many bytes were said to hold."""
    store = memory_store(FakeClock())
    await store.put(KEY, stored)
    held = 0

    def heard(count: int) -> None:
        nonlocal held
        held += count

    found = await read_back(store, native=native).verify(KEY, digest, size, given_list, heard)
    return found, held


# ---- what holds


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART, len(DATA)])
@pytest.mark.parametrize("with_list", [True, False])
async def test_the_bytes_of_a_digest_hold_and_their_checkpoints_are_known(size: int, with_list: bool) -> None:
    data = blob_bytes(size)

    found = await verified(data, Digest.of(data), size, noted(data) if with_list else None)

    assert found == (noted(data) if size > PART else None, size)


async def test_what_sha512_names_is_read_from_its_first_byte_and_has_no_checkpoints() -> None:
    assert await verified(DATA, Digest.of(DATA, "sha512"), len(DATA), None) == (None, len(DATA))


async def test_without_libcrypto_a_list_is_of_no_use_and_none_is_believed() -> None:
    assert await verified(DATA, Digest.of(DATA), len(DATA), noted(DATA), native=False) == (None, len(DATA))
    forged = replace(noted(DATA), states=bytes(32 * (COUNT - 1)))
    assert await verified(DATA, Digest.of(DATA), len(DATA), forged, native=False) == (None, len(DATA))


@pytest.mark.parametrize(
    ("segment", "kept"), [(PART, 3 * PART), (3 * PART, 3 * PART), (2 * PART, 2 * PART), (6 * PART, 6 * PART)]
)
async def test_a_list_is_kept_in_this_registrys_segments_where_they_are_known(segment: int, kept: int) -> None:
    store = memory_store(FakeClock())
    await store.put(KEY, DATA)

    found = await read_back(store, segment=3 * PART).verify(
        KEY, Digest.of(DATA), len(DATA), noted(DATA, segment), lambda _: None
    )

    assert found == noted(DATA, kept)


async def test_a_list_of_one_long_segment_gives_way_to_what_is_noted_here() -> None:
    assert (await verified(DATA, Digest.of(DATA), len(DATA), noted(DATA, 64 * PART)))[0] == noted(DATA)


async def test_a_list_whose_segments_are_too_short_to_keep_leaves_none_where_none_are_needed() -> None:
    store = memory_store(FakeClock())
    await store.put(KEY, DATA)

    found = await read_back(store, segment=100 * PART).verify(
        KEY, Digest.of(DATA), len(DATA), noted(DATA), lambda _: None
    )

    assert found is None


# ---- what does not


@settings(max_examples=60)
@given(st.integers(0, len(DATA) * 8 - 1), st.booleans())
def test_a_flipped_bit_in_any_segment(bit: int, with_list: bool) -> None:
    changed = bytearray(DATA)
    changed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(DigestMismatch) as caught:
        asyncio.run(verified(bytes(changed), Digest.of(DATA), len(DATA), noted(DATA) if with_list else None))

    assert isinstance(caught.value.detail, dict)
    assert caught.value.detail["expected"] == str(Digest.of(DATA))
    if with_list:
        assert caught.value.detail["segments"] == [bit // 8 // PART]
        assert caught.value.detail["segment"] == PART


@settings(max_examples=60)
@given(st.integers(0, 32 * (COUNT - 1) - 1), st.integers(1, 255))
def test_a_forged_state(at: int, change: int) -> None:
    states = bytearray(noted(DATA).states)
    states[at] ^= change

    with pytest.raises(DigestMismatch) as caught:
        asyncio.run(verified(DATA, Digest.of(DATA), len(DATA), replace(noted(DATA), states=bytes(states))))

    assert isinstance(caught.value.detail, dict)
    assert set(caught.value.detail["segments"]) <= {at // 32, at // 32 + 1}


@settings(max_examples=30)
@given(st.integers(0, COUNT - 1), st.integers(0, COUNT - 1))
def test_segments_that_changed_places(one: int, other: int) -> None:
    if one == other or COUNT - 1 in (one, other):
        return
    cut = [DATA[start : start + PART] for start in range(0, len(DATA), PART)]
    cut[one], cut[other] = cut[other], cut[one]

    with pytest.raises(DigestMismatch):
        asyncio.run(verified(b"".join(cut), Digest.of(DATA), len(DATA), noted(DATA)))


@pytest.mark.parametrize("with_list", [True, False])
@pytest.mark.parametrize("stored", [DATA[:-1], DATA[: 9 * PART], DATA + b"\0", DATA + DATA, b""])
async def test_a_truncated_or_longer_object_is_not_even_read(stored: bytes, with_list: bool) -> None:
    inner = memory_store(FakeClock())
    await inner.put(KEY, stored)
    store = FaultyStore(inner)

    with pytest.raises(DigestMismatch, match=f"make {len(stored)} bytes"):
        await read_back(store).verify(
            KEY, Digest.of(DATA), len(DATA), noted(DATA) if with_list else None, lambda _: None
        )

    assert store.calls["read"] == 0


async def test_the_bytes_and_states_of_another_blob() -> None:
    """A list that fits the stored bytes, but for the digest at its end."""
    other = blob_bytes(len(DATA), seed=1)
    forged = Checkpoints(Digest.of(DATA).hex, len(DATA), PART, noted(other).states)

    with pytest.raises(DigestMismatch) as caught:
        await verified(other, Digest.of(DATA), len(DATA), forged)

    assert isinstance(caught.value.detail, dict)
    assert caught.value.detail["segments"] == [COUNT - 1]


async def test_only_segments_that_were_begun_are_read_once_one_is_bad() -> None:
    inner = memory_store(FakeClock())
    await inner.put(KEY, bytes(len(DATA)))
    store = FaultyStore(inner)

    with pytest.raises(DigestMismatch):
        await read_back(store, readers=2).verify(KEY, Digest.of(DATA), len(DATA), noted(DATA), lambda _: None)

    assert store.calls["read"] <= 3


# ---- lists that are refused before anything is read


def listed(data: bytes, digest: Digest | None = None, size: int = len(DATA), *, segment: int = PART) -> Checkpoints:
    return read_back(memory_store(FakeClock()), segment=segment).parse_list(data, digest or Digest.of(DATA), size)


def test_a_list_of_this_blob_is_taken() -> None:
    assert listed(noted(DATA).encode()) == noted(DATA)


def test_a_list_of_another_blob() -> None:
    other = blob_bytes(len(DATA), seed=1)

    with pytest.raises(DigestMismatch, match=Digest.of(other).hex):
        listed(noted(other).encode())


def test_a_list_of_another_size() -> None:
    given_list = Checkpoints(Digest.of(DATA).hex, len(DATA) + 1, PART, noted(DATA).states)

    with pytest.raises(ParameterInvalid, match=f"{len(DATA) + 1} bytes"):
        listed(given_list.encode())


def test_a_list_for_sha512() -> None:
    with pytest.raises(ParameterInvalid, match="SHA-256"):
        listed(noted(DATA).encode(), Digest.of(DATA, "sha512"))


@settings(max_examples=100)
@given(st.binary(max_size=200) | st.binary(max_size=50).map(lambda end: noted(DATA).encode() + end))
def test_what_is_no_list(data: bytes) -> None:
    if data != noted(DATA).encode():
        with pytest.raises(ParameterInvalid, match="not valid"):
            listed(data)


@pytest.mark.parametrize("cut", [0, 1, 10, 56, -1, -32])
def test_a_list_that_was_cut(cut: int) -> None:
    with pytest.raises(ParameterInvalid, match="not valid"):
        listed(noted(DATA).encode()[:cut])


def test_segments_so_short_that_a_blob_costs_absurdly_many_reads() -> None:
    size = 10 * MIN_SEGMENT
    data = bytes(size)
    for segment in (64, MIN_SEGMENT - 64):
        with pytest.raises(ParameterInvalid, match=str(MIN_SEGMENT)):
            listed(noted(data, segment).encode(), Digest.of(data), size, segment=hashing.SEGMENT)
    taken = noted(data, MIN_SEGMENT)
    assert listed(taken.encode(), Digest.of(data), size, segment=hashing.SEGMENT) == taken


def test_more_states_than_are_kept_with_a_session() -> None:
    size = MIN_SEGMENT * (MAX_STATES + 1)
    given_list = Checkpoints("0" * 64, size, MIN_SEGMENT, bytes(32 * MAX_STATES))

    with pytest.raises(ParameterInvalid, match=f"at most {MAX_STATES}"):
        listed(given_list.encode(), Digest("sha256", "0" * 64), size)


# ---- how it is read


async def test_segments_are_read_at_once_and_no_more_than_the_readers() -> None:
    inner = memory_store(FakeClock())
    await inner.put(KEY, DATA)
    gate = asyncio.Event()
    store = FaultyStore(inner, [Rule(Delay(until=gate), operation="read", times=None)])
    budget = MemoryBudget(64 * PART)

    reading = asyncio.create_task(
        read_back(store, readers=3, budget=budget).verify(KEY, Digest.of(DATA), len(DATA), noted(DATA), lambda _: None)
    )
    await standstill()

    assert store.calls["read"] == 3
    assert budget.used == 3 * 2 * PART, "each holds two batches"
    gate.set()
    assert await reading == noted(DATA)
    assert (store.calls["read"], budget.used) == (COUNT, 0)


async def test_readers_wait_for_memory() -> None:
    store = memory_store(FakeClock())
    await store.put(KEY, DATA)
    budget = MemoryBudget(2 * PART)
    held = await budget.reserve(2 * PART)

    reading = asyncio.create_task(
        read_back(store, budget=budget).verify(KEY, Digest.of(DATA), len(DATA), noted(DATA), lambda _: None)
    )
    await standstill()

    assert not reading.done()
    held.release()
    assert await reading == noted(DATA)
    assert budget.used == 0


@pytest.mark.parametrize("error", [Unavailable("slow"), NotFound("gone"), Corrupt("short")])
@pytest.mark.parametrize("with_list", [True, False])
async def test_an_error_of_the_store_ends_all_readers(error: Exception, with_list: bool) -> None:
    inner = memory_store(FakeClock())
    await inner.put(KEY, DATA)
    assert isinstance(error, Unavailable | NotFound | Corrupt)
    skip = 2 if with_list else 0
    store = FaultyStore(inner, [Rule(Refuse(error), operation="read", skip=skip)])
    budget = MemoryBudget(64 * PART)

    with pytest.raises(type(error)):
        await read_back(store, budget=budget).verify(
            KEY, Digest.of(DATA), len(DATA), noted(DATA) if with_list else None, lambda _: None
        )

    assert budget.used == 0
    assert len(asyncio.all_tasks()) == 1


async def test_it_can_be_given_up(inner: MemoryStore) -> None:
    await inner.put(KEY, DATA)
    store = FaultyStore(inner, [Rule(Delay(until=asyncio.Event()), operation="read", times=None)])
    budget = MemoryBudget(64 * PART)
    reading = asyncio.create_task(
        read_back(store, budget=budget).verify(KEY, Digest.of(DATA), len(DATA), noted(DATA), lambda _: None)
    )
    await standstill()

    reading.cancel()

    with pytest.raises(asyncio.CancelledError):
        await reading
    assert budget.used == 0
    assert len(asyncio.all_tasks()) == 1


async def test_large_batches_are_hashed_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(4 * 1024 * 1024)
    store = memory_store(FakeClock())
    await store.put(KEY, data)
    seen: set[str] = set()
    update = hashing.SegmentCheck.update

    def spy(check: hashing.SegmentCheck, piece: bytes) -> None:
        seen.add(threading.current_thread().name)
        update(check, piece)

    monkeypatch.setattr(hashing.SegmentCheck, "update", spy)
    budget = MemoryBudget(64 * 1024 * 1024)

    await read_back(store, segment=1024 * 1024, budget=budget).verify(
        KEY, Digest.of(data), len(data), noted(data, 1024 * 1024), lambda _: None
    )

    assert seen
    assert threading.main_thread().name not in seen
