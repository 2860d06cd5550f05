"""Turns: as many at once as make it faster, tried again by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.transfer.fakes import MIB, Clockwork

from bucketry.transfer.errors import PartLost, Refused, Unreachable
from bucketry.transfer.pool import FIRST_PARALLEL, LONGEST_ASKED, Climb, Pool, Timing, backoff, patiently


def drive(climb: Climb, rate: Callable[[int], float], pieces: int) -> list[int]:
    """The limits that a network reaches that moves ``rate(parallel)`` bytes a second with so many at once."""
    limits = []
    for _ in range(pieces):
        at_once = climb.limit
        seconds = 8 * MIB * at_once / rate(at_once)
        climb.finished(8 * MIB, seconds, era=climb.era, beside=at_once, saturated=True)
        limits.append(climb.limit)
    return limits


def test_where_each_connection_is_slow_it_climbs_to_the_most() -> None:
    climb = Climb(most=64)

    limits = drive(climb, lambda at_once: at_once * 10 * MIB, 120)

    assert limits[0] == FIRST_PARALLEL
    assert limits[-1] == 64


def test_a_few_windows_are_enough_to_use_fast_links() -> None:
    climb = Climb(most=64)

    assert max(drive(climb, lambda at_once: at_once * 10 * MIB, 20)) >= 18


def test_where_the_link_is_full_it_stays_near_what_fills_it() -> None:
    climb = Climb(most=64)

    limits = drive(climb, lambda at_once: min(at_once, FIRST_PARALLEL) * 10 * MIB, 400)

    assert max(limits) <= 2 * FIRST_PARALLEL
    # Most of the time it is where it began; now and then it looks whether more would help by now.
    assert limits.count(FIRST_PARALLEL) > 300


def test_a_link_that_becomes_faster_is_found_out() -> None:
    climb = Climb(most=64)
    drive(climb, lambda at_once: 80 * MIB, 100)

    assert drive(climb, lambda at_once: at_once * 20 * MIB, 200)[-1] > 20


def test_a_slowdown_backs_off() -> None:
    climb = Climb(most=64)
    drive(climb, lambda at_once: at_once * 10 * MIB, 120)
    before = climb.limit

    drive(climb, lambda at_once: 1 * MIB, 40)

    assert climb.limit < before


def test_errors_back_off_once_for_those_that_fail_together() -> None:
    climb = Climb(most=64)
    era = climb.era

    for _ in range(8):
        climb.failed(era)

    assert climb.limit == FIRST_PARALLEL * 3 // 4
    for _ in range(50):
        climb.failed(climb.era)
    assert climb.limit == 2


def test_a_number_that_was_given_stays() -> None:
    climb = Climb(parallel=5, most=64)

    drive(climb, lambda at_once: at_once * 10 * MIB, 100)
    climb.failed(climb.era)

    assert climb.limit == 5


def test_memory_is_a_bound() -> None:
    climb = Climb(most=3)

    drive(climb, lambda at_once: at_once * 10 * MIB, 100)

    assert climb.limit == 3
    assert Climb(parallel=64, most=3).limit == 3


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(0, 64 * MIB), st.floats(0, 100), st.integers(1, 64), st.booleans(), st.booleans()),
        max_size=300,
    ),
    st.integers(1, 64),
)
def test_whatever_happens_the_limit_is_one_to_the_most(
    pieces: list[tuple[int, float, int, bool, bool]], most: int
) -> None:
    climb = Climb(most=most)

    for size, seconds, beside, saturated, failed in pieces:
        if failed:
            climb.failed(climb.era)
        climb.finished(size, seconds, era=climb.era, beside=beside, saturated=saturated)
        assert 1 <= climb.limit <= most


@given(st.integers(1, 1000), st.floats(0, 1))
def test_waits_grow_and_have_an_end(failures: int, chance: float) -> None:
    wait = backoff(failures, None, chance)

    assert 0.375 <= wait <= 37.5
    assert backoff(failures, 40.0, chance) == 40.0
    assert backoff(failures, 1e9, chance) == LONGEST_ASKED


def pool(parallel: int, clock: Clockwork, retries: int = 8) -> Pool:
    return Pool(Climb(parallel=parallel), retries=retries, timing=clock.timing)


async def test_no_more_than_the_limit_run_at_once_in_the_order_they_came() -> None:
    turns, running, most, order = pool(3, Clockwork()), 0, 0, []

    async def piece(number: int) -> None:
        nonlocal running, most
        order.append(number)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    await asyncio.gather(*(turns.run(partial(piece, i), 1) for i in range(20)))

    assert most == turns.peak == 3
    assert order == sorted(order)


async def test_what_waits_to_be_tried_again_holds_no_turn() -> None:
    clock = Clockwork()
    turns = pool(1, clock)
    ran: list[str] = []
    asleep = asyncio.Event()
    wake = asyncio.Event()

    async def sleep(seconds: float) -> None:
        asleep.set()
        await wake.wait()

    turns = Pool(Climb(parallel=1), retries=3, timing=Timing(clock.monotonic, sleep, lambda: 0.5))

    async def fails_once() -> None:
        ran.append("first")
        if len(ran) == 1:
            raise Unreachable("later")

    async def other() -> None:
        ran.append("other")
        wake.set()

    first = asyncio.create_task(turns.run(fails_once, 1))
    await asleep.wait()
    await turns.run(other, 1)
    await first

    assert ran == ["first", "other", "first"]


async def test_the_other_side_says_how_long_to_wait() -> None:
    clock, failures = Clockwork(), [3.0, 60.0]
    heard: list[str] = []

    async def attempt() -> str:
        if failures:
            raise Unreachable("busy", retry_after=failures.pop(0))
        return "done"

    assert await pool(1, clock).run(attempt, 1, lambda error: heard.append(str(error))) == "done"
    assert clock.slept == [3.0, 60.0]
    assert heard == ["busy", "busy"]


@pytest.mark.parametrize("error", [Refused("no"), PartLost("gone")])
async def test_what_does_not_pass_is_not_tried_again(error: Exception) -> None:
    clock = Clockwork()

    async def attempt() -> None:
        raise error

    with pytest.raises(type(error)):
        await patiently(attempt, retries=8, timing=clock.timing)

    assert clock.slept == []


@pytest.mark.parametrize("chance", [0.0, 0.999])
async def test_eight_retries_last_more_than_a_minute_whatever_the_dice_say(chance: float) -> None:
    clock = Clockwork()

    async def attempt() -> None:
        raise Unreachable("down")

    with pytest.raises(Unreachable):
        await patiently(attempt, retries=8, timing=Timing(clock.monotonic, clock.sleep, lambda: chance))
    assert 60 < clock.now < 150


async def test_turns_of_those_that_were_cancelled_go_to_others() -> None:
    turns, release = pool(1, Clockwork()), asyncio.Event()

    async def hold() -> None:
        await release.wait()

    async def nothing() -> None:
        return

    holder = asyncio.create_task(turns.run(hold, 1))
    waiting = [asyncio.create_task(turns.run(nothing, 1)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    release.set()
    await asyncio.sleep(0)
    waiting[1].cancel()

    await asyncio.wait_for(asyncio.gather(holder, *waiting, return_exceptions=True), 5)
    await asyncio.wait_for(turns.run(nothing, 1), 5)
