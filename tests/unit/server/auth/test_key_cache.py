from __future__ import annotations

import asyncio

import pytest
from tests.unit.registry.helpers import FakeClock, standstill
from tests.unit.server.auth.forging import EC, ED, OTHER_RSA, RSA, jwk, key_set

from bucketry.server.auth.errors import IssuerUnavailable, Reason, TokenRefused
from bucketry.server.auth.key_cache import FILE_TIMES, KeyCache, KeyTimes
from bucketry.server.auth.keysets import KeySet, KeysUnavailable, parse_key_set

TIMES = KeyTimes()
ALG = "RS256"


class Source:
    """An issuer whose keys and moods the test sets."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.down = False
        self.loads = 0
        self.open = asyncio.Event()
        self.open.set()

    async def load(self) -> KeySet:
        self.loads += 1
        await self.open.wait()
        if self.down:
            raise KeysUnavailable("it is down")
        return parse_key_set(self.body, "source")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def source() -> Source:
    return Source(key_set(jwk(RSA, "one")))


@pytest.fixture
def cache(source: Source, clock: FakeClock) -> KeyCache:
    return KeyCache(source, name="github", clock=clock)


async def unknown(cache: KeyCache, kid: str = "two") -> None:
    with pytest.raises(TokenRefused, match="github has no such key") as caught:
        await cache.find(kid, ALG)
    assert caught.value.reason is Reason.KEY


async def test_nobody_is_called_where_known_keys_are_enough(cache: KeyCache, source: Source, clock: FakeClock) -> None:
    for _ in range(54):
        for _ in range(20):
            assert (await cache.find("one", ALG)).kid == "one"
        clock.advance(60)

    assert source.loads == 1


async def test_many_at_once_make_one_call(cache: KeyCache, source: Source) -> None:
    found = await asyncio.gather(*(cache.find("one", ALG) for _ in range(50)))

    assert len({id(key) for key in found}) == 1
    assert source.loads == 1


async def test_a_new_key_is_found_and_an_unknown_one_asked_for_at_most_once_a_minute(
    cache: KeyCache, source: Source, clock: FakeClock
) -> None:
    await cache.find("one", ALG)
    await unknown(cache)
    assert source.loads == 1, "they were fetched a moment ago"
    source.body = key_set(jwk(RSA, "one"), jwk(OTHER_RSA, "two"))
    clock.advance(TIMES.again)

    assert (await cache.find("two", ALG)).kid == "two"

    before = source.loads
    for _ in range(120):
        await unknown(cache, "three")
        clock.advance(1)
    assert source.loads - before <= 2


async def test_shortly_before_their_hour_is_over_keys_are_renewed_beside_a_request(
    cache: KeyCache, source: Source, clock: FakeClock
) -> None:
    await cache.find("one", ALG)
    clock.advance(TIMES.fresh - TIMES.ahead)
    source.open.clear()

    assert (await cache.find("one", ALG)).kid == "one", "it waited for its issuer"

    await standstill()
    assert source.loads == 2
    source.open.set()
    await standstill()
    clock.advance(TIMES.ahead)
    await cache.find("one", ALG)
    assert source.loads == 2


async def test_a_key_that_was_withdrawn_ends_with_its_hour(cache: KeyCache, source: Source, clock: FakeClock) -> None:
    await cache.find("one", ALG)
    source.body = key_set(jwk(OTHER_RSA, "two"))
    clock.advance(TIMES.fresh)

    await unknown(cache, "one")

    assert (await cache.find("two", ALG)).kid == "two"


async def test_known_keys_go_on_for_a_day_while_the_issuer_is_down(
    cache: KeyCache, source: Source, clock: FakeClock
) -> None:
    await cache.find("one", ALG)
    source.down = True
    clock.advance(TIMES.fresh)
    assert (await cache.find("one", ALG)).kid == "one"

    source.open.clear()
    for _ in range(int((TIMES.stale - TIMES.fresh) / 600)):
        assert (await cache.find("one", ALG)).kid == "one", "it waited for an issuer that is known to be down"
        clock.advance(600)
    source.open.set()
    await standstill()
    clock.advance(TIMES.again)

    with pytest.raises(IssuerUnavailable, match="github cannot be had now") as caught:
        await cache.find("one", ALG)
    assert caught.value.retry_after > 0
    assert "it is down" not in str(caught.value), "whoever sent a token is told where the keys are"


async def test_while_the_issuer_is_down_it_is_asked_at_most_once_a_minute(
    cache: KeyCache, source: Source, clock: FakeClock
) -> None:
    await cache.find("one", ALG)
    source.down = True
    clock.advance(TIMES.fresh)
    for _ in range(600):
        await cache.find("one", ALG)
        with pytest.raises(IssuerUnavailable):
            await cache.find("two", ALG)
        clock.advance(1)
        await asyncio.sleep(0)

    assert source.loads <= 12


async def test_an_issuer_that_comes_back_is_noticed(cache: KeyCache, source: Source, clock: FakeClock) -> None:
    source.down = True
    with pytest.raises(IssuerUnavailable) as caught:
        await cache.find("one", ALG)
    with pytest.raises(IssuerUnavailable):
        await cache.find("one", ALG)
    assert source.loads == 1
    source.down = False
    clock.advance(caught.value.retry_after)

    assert (await cache.find("one", ALG)).kid == "one"


async def test_a_key_is_found_by_id_and_algorithm_together(clock: FakeClock) -> None:
    cache = KeyCache(Source(key_set(jwk(RSA, "k"), jwk(EC, "k"), jwk(ED, "d"))), name="x", clock=clock)

    assert (await cache.find("k", "RS256")).algorithm == "RS256"
    assert (await cache.find("k", "ES256")).algorithm == "ES256"
    for kid, algorithm in (("k", "EdDSA"), ("d", "RS256"), ("k", "HS256"), ("k", "none"), ("K", "RS256")):
        with pytest.raises(TokenRefused):
            await cache.find(kid, algorithm)


async def test_without_an_id_only_the_one_key_of_an_algorithm_fits(clock: FakeClock) -> None:
    one = KeyCache(Source(key_set(jwk(RSA, None), jwk(ED, "d"))), name="x", clock=clock)
    two = KeyCache(Source(key_set(jwk(RSA, "a"), jwk(OTHER_RSA, "b"))), name="x", clock=clock)

    assert (await one.find("", "RS256")).algorithm == "RS256"
    with pytest.raises(TokenRefused):
        await two.find("", "RS256")


async def test_one_that_goes_away_does_not_take_the_keys_from_others(cache: KeyCache, source: Source) -> None:
    source.open.clear()
    leaving = asyncio.create_task(cache.find("one", ALG))
    staying = asyncio.create_task(cache.find("one", ALG))
    await standstill()
    leaving.cancel()
    await standstill()
    source.open.set()

    assert (await staying).kid == "one"
    assert source.loads == 1


async def test_closing_ends_a_load(cache: KeyCache, source: Source) -> None:
    source.open.clear()
    waiting = asyncio.create_task(cache.find("one", ALG))
    await standstill()

    await cache.close()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not cache.is_loading


async def test_keys_of_a_file_are_read_again_and_a_broken_file_changes_nothing(
    source: Source, clock: FakeClock
) -> None:
    cache = KeyCache(source, name="file", clock=clock, times=FILE_TIMES)
    await cache.find("one", ALG)
    source.body = b"broken"
    for _ in range(100):
        clock.advance(TIMES.stale)
        assert (await cache.find("one", ALG)).kid == "one"
        await standstill()
    source.body = key_set(jwk(OTHER_RSA, "two"))
    clock.advance(FILE_TIMES.fresh)
    await cache.find("one", ALG)
    await standstill()

    assert (await cache.find("two", ALG)).kid == "two"
    with pytest.raises(TokenRefused):
        await cache.find("one", ALG)
