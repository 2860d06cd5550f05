from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import msgspec
import pytest
from tests.unit.registry.helpers import NOW, CountedIds, FakeClock, memory_store

from bucketry.registry import layout
from bucketry.registry.access_keys import (
    DAY,
    LEAST_INTERVAL,
    MARGIN,
    REFRESH,
    SIGNING,
    AccessKey,
    AccessKeys,
    KeyRecord,
)
from bucketry.store.contract import Corrupt, ListPage, Store, Unavailable
from bucketry.store.faults import FaultyStore, LoseAnswer, Rule
from bucketry.store.memory import MemoryStore

LIFE = 300.0


class Counting(MemoryStore):
    """Counts its listings, and is down while ``down``."""

    listings = 0
    down = False

    async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
        self.listings += 1
        if self.down:
            raise Unavailable("down")
        return await super().list(prefix, after=after, limit=limit)


class Sleeper:
    """Moves the clock instead of waiting."""

    def __init__(self, clock: FakeClock) -> None:
        self.slept: list[float] = []
        self._clock = clock

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)
        self._clock.advance(seconds)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Counting:
    return Counting(clock=clock.now)


def keys_of(store: Store, clock: FakeClock, replica: int = 1) -> AccessKeys:
    return AccessKeys(store, clock=clock, ids=CountedIds(replica), token_life=LIFE, sleep=Sleeper(clock))


async def stored(store: Store) -> Sequence[str]:
    return [listed.key for listed in (await store.list(layout.ACCESS_KEYS_PREFIX)).objects]


def pub(key: AccessKey | None) -> bytes | None:
    return None if key is None else key.public.public_bytes_raw()


async def test_the_first_who_signs_makes_a_key_named_by_its_day(store: Counting, clock: FakeClock) -> None:
    key = await keys_of(store, clock).signing()

    assert key.kid == f"{int(NOW // DAY):06d}"
    assert await stored(store) == [layout.access_key(key.kid)]
    assert key.born == NOW


@pytest.mark.parametrize("replicas", [2, 8])
async def test_replicas_that_find_none_at_once_agree_on_one(store: Counting, clock: FakeClock, replicas: int) -> None:
    each = [keys_of(store, clock, number) for number in range(replicas)]

    made = await asyncio.gather(*(keys.signing() for keys in each for _ in range(3)))

    assert len({pub(key) for key in made}) == 1
    assert len(await stored(store)) == 1


async def test_a_key_of_another_replica_is_found_when_its_token_comes(store: Counting, clock: FakeClock) -> None:
    reader, maker = keys_of(store, clock, 1), keys_of(store, clock, 2)
    assert await reader.verifying("019675") is None
    clock.advance(LEAST_INTERVAL)
    key = await maker.signing()

    assert pub(await reader.verifying(key.kid)) == pub(key)


async def test_a_key_signs_for_thirty_days_and_is_then_replaced(store: Counting, clock: FakeClock) -> None:
    keys = keys_of(store, clock)
    first = await keys.signing()
    clock.advance(SIGNING)
    assert (await keys.signing()).kid == first.kid

    clock.advance(1)
    second = await keys.signing()

    assert second.kid != first.kid
    assert pub(second) != pub(first)
    assert pub(await keys.verifying(first.kid)) == pub(first)


async def test_an_old_key_is_taken_for_an_hour_more_than_tokens_live_then_deleted(
    store: Counting, clock: FakeClock
) -> None:
    keys, other = keys_of(store, clock, 1), keys_of(store, clock, 2)
    first = await keys.signing()
    clock.advance(SIGNING + 1)
    second = await keys.signing()
    clock.advance(LIFE + MARGIN - 1)
    assert pub(await other.verifying(first.kid)) == pub(first)

    clock.advance(1)

    assert await keys.verifying(first.kid) is None
    assert await other.verifying(first.kid) is None
    clock.advance(REFRESH)
    assert pub(await keys.signing()) == pub(second)
    assert await stored(store) == [layout.access_key(second.kid)]


async def test_a_clock_that_is_far_ahead_deletes_no_key_that_has_no_successor(
    store: Counting, clock: FakeClock
) -> None:
    await keys_of(store, clock).signing()
    ahead = FakeClock(NOW + 400 * DAY)

    assert await keys_of(store, ahead, 2).verifying(f"{int(ahead.now() // DAY):06d}") is None

    assert len(await stored(store)) == 1


async def test_a_deleted_key_ends_on_every_replica_within_a_minute(store: Counting, clock: FakeClock) -> None:
    keys, other = keys_of(store, clock, 1), keys_of(store, clock, 2)
    key = await keys.signing()
    assert await other.verifying(key.kid) is not None
    await store.delete(layout.access_key(key.kid))
    clock.advance(REFRESH)

    assert await other.verifying(key.kid) is None
    again = await keys.signing()

    assert again.kid == key.kid
    assert pub(again) != pub(key)
    clock.advance(REFRESH)
    assert pub(await other.verifying(key.kid)) == pub(again)


async def test_a_key_that_was_replaced_under_its_name_is_another_within_a_minute(
    store: Counting, clock: FakeClock
) -> None:
    keys = keys_of(store, clock)
    key = await keys.signing()
    await store.delete(layout.access_key(key.kid))
    other = await keys_of(store, clock, 2).signing()
    assert (other.kid, pub(other)) != (key.kid, pub(key))

    clock.advance(REFRESH)

    assert pub(await keys.verifying(key.kid)) == pub(other)


async def test_an_unknown_key_is_looked_for_at_most_once_a_second(store: Counting, clock: FakeClock) -> None:
    keys = keys_of(store, clock)
    known = await keys.signing()
    clock.advance(5)
    before, began = store.listings, clock.now()

    for _ in range(50):
        clock.advance(0.01)
        assert await asyncio.gather(*(keys.verifying(f"{int(known.kid) - 1:06d}") for _ in range(20))) == [None] * 20

    assert store.listings - before <= (clock.now() - began) / LEAST_INTERVAL + 1


@pytest.mark.parametrize(
    "kid",
    [
        "", "../keys", "..", "19675/../019675", "access/keys/019675", "019675\n", "019675 ", "０19675", "٠١٩٦٧٥",
        "1" * 5, "1" * 7, "-19675", "+19675", "bucketry.json", "999999", "000000", "019700", "019600", "0" * 100_000,
    ],
)  # fmt: skip
async def test_what_no_key_can_be_named_costs_no_look(store: Counting, clock: FakeClock, kid: str) -> None:
    keys = keys_of(store, clock)

    assert await keys.verifying(kid) is None

    assert store.listings == 0


async def test_known_keys_go_on_while_the_store_is_down(store: Counting, clock: FakeClock) -> None:
    keys = keys_of(store, clock)
    key = await keys.signing()
    store.down = True
    clock.advance(REFRESH)
    before = store.listings

    for _ in range(5):
        assert await keys.verifying(key.kid) is not None
        assert (await keys.signing()).kid == key.kid

    assert store.listings == before + 1
    clock.advance(LEAST_INTERVAL)
    with pytest.raises(Unavailable):
        await keys.verifying(f"{int(key.kid) - 1:06d}")
    store.down = False
    clock.advance(LEAST_INTERVAL)
    assert await keys.verifying(f"{int(key.kid) - 1:06d}") is None


async def test_without_keys_a_store_that_is_down_is_told(store: Counting, clock: FakeClock) -> None:
    store.down = True

    with pytest.raises(Unavailable):
        await keys_of(store, clock).signing()


BAD = [
    b"", b"{", b"[]", b"null", b'{"algorithm":"EdDSA"}',
    json.dumps({"algorithm": "HS256", "seed": "A" * 43, "created": NOW}).encode(),
    json.dumps({"algorithm": "EdDSA", "seed": "AAAA", "created": NOW}).encode(),
    json.dumps({"algorithm": "EdDSA", "seed": "s3cret!" * 6, "created": NOW}).encode(),
    b"x" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("body", BAD)
async def test_an_object_that_is_no_key_is_passed_over(store: Counting, clock: FakeClock, body: bytes) -> None:
    bad = f"{int(NOW // DAY) - 1:06d}"
    await store.put(layout.access_key(bad), body)
    await store.put(layout.ACCESS_KEYS_PREFIX + "README", b"hello")
    keys = keys_of(store, clock)

    key = await keys.signing()

    assert key.kid != bad
    assert pub(await keys.verifying(key.kid)) == pub(key)
    assert await keys.verifying(bad) is None


async def test_an_object_in_the_way_of_a_new_key_is_told_without_what_is_in_it(
    store: Counting, clock: FakeClock
) -> None:
    await store.put(layout.access_key(f"{int(NOW // DAY):06d}"), b'{"seed": "s3cret"}')

    with pytest.raises(Corrupt, match="delete it") as caught:
        await keys_of(store, clock).signing()

    assert "s3cret" not in str(caught.value)


async def test_a_key_dated_ahead_signs_no_longer_than_others(store: Counting, clock: FakeClock) -> None:
    fast = FakeClock(NOW + 20 * DAY)
    await keys_of(store, fast).signing()
    clock.advance(SIGNING + 2)

    assert (await keys_of(store, clock, 2).signing()).born == clock.now()


async def test_a_write_whose_answer_was_lost_makes_one_key(clock: FakeClock) -> None:
    inner = memory_store(clock)
    keys = keys_of(FaultyStore(inner, [Rule(LoseAnswer(), operation="put")]), clock)
    with pytest.raises(Unavailable):
        await keys.signing()

    clock.advance(LEAST_INTERVAL)

    assert pub(await keys.signing()) == pub(await keys_of(inner, clock, 2).signing())


async def test_one_that_goes_away_does_not_take_the_keys_from_others(store: Counting, clock: FakeClock) -> None:
    keys = keys_of(store, clock)
    leaving = asyncio.create_task(keys.signing())
    staying = asyncio.create_task(keys.signing())
    await asyncio.sleep(0)
    leaving.cancel()

    assert (await staying).kid
    await keys.close()


async def test_no_representation_shows_a_secret(store: Counting, clock: FakeClock) -> None:
    key = await keys_of(store, clock).signing()
    body = (await store.get(layout.access_key(key.kid))).body
    record = msgspec.json.decode(body, type=KeyRecord)

    assert record.seed not in repr(record) + repr(key)
    assert "rivate" not in repr(key)
