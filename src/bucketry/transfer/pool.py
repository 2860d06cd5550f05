"""Pieces of all layers share one pool: as many at once as make it faster, each tried again by itself."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from bucketry.transfer.errors import PartLost, Unreachable
from bucketry.transfer.settings import MOST_PARALLEL

T = TypeVar("T")

FIRST_PARALLEL = 16
"""Measured with connections of 10 MiB/s: a layer of 512 MiB is half over before a climb from 8 has helped."""
LEAST_PARALLEL = 2
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
LONGEST_ASKED = 300.0
"""Seconds: the most that the other side's "ask again later" is followed."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The clock and the dice: ``monotonic`` in seconds, ``random`` from 0 to below 1."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random


SYSTEM = Timing()


def backoff(failures: int, retry_after: float | None, chance: float) -> float:
    """Seconds to wait after so many failures (1 or more); ``chance`` from 0 to 1 spreads those that failed together."""
    wait = min(FIRST_WAIT * 2.0 ** min(failures - 1, 16), LONGEST_WAIT) * (0.75 + 0.5 * chance)
    return wait if retry_after is None else max(wait, min(retry_after, LONGEST_ASKED))


async def patiently(
    attempt: Callable[[], Awaitable[T]],
    *,
    retries: int,
    timing: Timing,
    again: Callable[[Unreachable], None] = lambda error: None,
) -> T:
    """What ``attempt`` gives, tried again after `Unreachable` (but not `PartLost`), which is raised at last."""
    failures = 0
    while True:
        try:
            return await attempt()
        except PartLost:
            raise
        except Unreachable as error:
            failures += 1
            if failures > retries:
                raise
            again(error)
            wait = backoff(failures, error.retry_after, timing.random())
        await timing.sleep(wait)


class Climb:
    """How many pieces may be on their way, from what is measured: more, as long as that makes it faster.

    Each piece says how fast it was and how many were on their way beside it; the product is the rate of all. It is
    looked at in windows, of pieces that began after the last change.
    """

    WORTH = 0.25
    """The share of what more pieces at once could bring that must come: half as many more, an eighth faster."""
    SLOWDOWN = 0.6
    WORTH_MEASURING = 1024 * 1024
    """Bytes: smaller pieces tell of latency alone."""
    REST = 6
    """Windows after a climb that did not help, or an error, before the next one."""

    def __init__(self, *, parallel: int | None = None, most: int = MOST_PARALLEL) -> None:
        self._fixed = parallel is not None
        self._most = max(1, most)
        self.limit = max(1, min(FIRST_PARALLEL if parallel is None else parallel, self._most))
        self.era = 0
        """Changes with the limit: a piece of an earlier era says nothing of this one."""
        self._before: int | None = None
        self._reached = 0.0
        self._rest = 0
        self._doubling = True
        self._begin()

    def _begin(self) -> None:
        self._pieces = 0
        self._bytes = 0
        self._seconds = 0.0
        self._beside = 0.0

    def finished(self, size: int, seconds: float, *, era: int, beside: float, saturated: bool) -> None:
        """A piece of ``size`` bytes arrived. ``saturated``: others waited for their turn."""
        if self._fixed or era != self.era or not saturated or size < self.WORTH_MEASURING:
            return
        self._pieces += 1
        self._bytes += size
        self._seconds += max(seconds, 1e-6)
        self._beside += beside
        if self._pieces < max(4, self.limit // 2):
            return
        rate = self._bytes / self._seconds * (self._beside / self._pieces)
        self._begin()
        self._judge(rate)

    def _judge(self, rate: float) -> None:
        before = self._before
        if before is not None and rate < self._reached * (1 + self.WORTH * (self.limit / before - 1)):
            self._change(before)
            self._rest, self._doubling = self.REST, False
        elif before is None and rate < self._reached * self.SLOWDOWN:
            self._change(max(LEAST_PARALLEL, self.limit * 3 // 4))
            self._reached, self._rest = rate, self.REST
        elif before is None and self._rest:
            self._rest -= 1
            self._reached = max(rate, self._reached * 0.9)
        else:
            self._reached = rate
            # Twice as many while that helps, so that a layer is not over before the link is used.
            step = self.limit if self._doubling else max(2, self.limit // 2)
            higher = min(self._most, self.limit + step)
            if higher > self.limit:
                lower = self.limit
                self._change(higher)
                self._before = lower
            else:
                self._before = None

    def failed(self, era: int) -> None:
        """A piece failed: fewer at once. Those that fail together count once."""
        if self._fixed or era != self.era:
            return
        self._change(max(min(LEAST_PARALLEL, self._most), self.limit * 3 // 4))
        self._rest, self._doubling = self.REST, False

    def _change(self, limit: int) -> None:
        self.limit, self._before = limit, None
        self.era += 1
        self._begin()


class Pool:
    """Turns for pieces, first come, first served."""

    def __init__(self, climb: Climb, *, retries: int, timing: Timing = SYSTEM) -> None:
        self._climb = climb
        self._retries = retries
        self._timing = timing
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.peak = 0
        """The most pieces that were on their way at once."""

    async def run(
        self, attempt: Callable[[], Awaitable[T]], size: int, again: Callable[[Unreachable], None] = lambda error: None
    ) -> T:
        """What ``attempt`` gives, for a piece of ``size`` bytes, in a turn of its own each time it is tried.

        It is tried again as by `patiently`; ``again`` is told before the wait.
        """

        async def once() -> T:
            await self._turn()
            era, beside, began = self._climb.era, self._running, self._timing.monotonic()
            try:
                result = await attempt()
            except Unreachable:
                self._climb.failed(era)
                raise
            else:
                self._climb.finished(
                    size,
                    self._timing.monotonic() - began,
                    era=era,
                    beside=(beside + self._running) / 2,
                    saturated=bool(self._waiting),
                )
                return result
            finally:
                self._running -= 1
                self._wake()

        return await patiently(once, retries=self._retries, timing=self._timing, again=again)

    async def _turn(self) -> None:
        if self._waiting or self._running >= self._climb.limit:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._running -= 1
                self._wake()
                raise
        else:
            self._running += 1
        self.peak = max(self.peak, self._running)

    def _wake(self) -> None:
        while self._waiting and self._running < self._climb.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._running += 1
                turn.set_result(None)
