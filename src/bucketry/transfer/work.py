"""What the pieces of one transfer have in common: turns, memory, what is remembered, what is told."""

from __future__ import annotations

import copy
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bucketry.registry.budget import MemoryBudget
from bucketry.transfer.buffers import Buffers
from bucketry.transfer.errors import Unreachable
from bucketry.transfer.events import Again, Ended, Event, Listener, Moved, Read, Resumed, Skipped, Verified
from bucketry.transfer.journal import Journal
from bucketry.transfer.layer_cache import LayerCache
from bucketry.transfer.pool import SYSTEM, Climb, Pool, Timing, patiently
from bucketry.transfer.settings import TransferSettings

T = TypeVar("T")

FIRST_RETRIES = 2
"""Of the first request to somebody: who is not there is said within seconds, not after more than a minute."""

BLOBS_AT_ONCE = 32
"""Blobs that are looked at, or on their way, at once; their pieces have turns of their own."""


class Work:
    """``incoming`` and ``outgoing`` give turns to pieces that are read and that are sent, ``budget`` their memory."""

    def __init__(
        self,
        settings: TransferSettings,
        listen: Listener,
        *,
        timing: Timing = SYSTEM,
        clock: Callable[[], float] = time.time,
        piece: int,
    ) -> None:
        self.settings = settings
        self.timing = timing
        self.budget = MemoryBudget(settings.memory)
        self.buffers = Buffers(settings.memory)
        most = max(1, settings.memory // piece)
        self.incoming = Pool(Climb(parallel=settings.parallel, most=most), retries=settings.retries, timing=timing)
        self.outgoing = Pool(Climb(parallel=settings.parallel, most=most), retries=settings.retries, timing=timing)
        self.sessions = Journal(settings.cache / "pushes", clock=clock)
        self.landings = Journal(settings.cache / "pulls", clock=clock)
        self.layers = LayerCache(settings.cache)
        self._listen = listen
        self._began = timing.monotonic()
        self._moved = 0
        self._skipped = 0

    def heard_by(self, listen: Listener) -> Work:
        """A part of this work that somebody else listens to; turns, memory and what is remembered are shared."""
        part = copy.copy(self)
        part._listen = listen
        part._moved = part._skipped = 0
        return part

    def tell(self, event: Event) -> None:
        if isinstance(event, Moved):
            self._moved += event.size
        elif isinstance(event, Again):
            self._moved -= event.size
        elif isinstance(event, Skipped):
            self._skipped += event.size or 0
        elif isinstance(event, Resumed):
            self._skipped += event.size
        self._listen(event)

    def take_back(self, skipped: Skipped) -> None:
        """What was told to be skipped travels after all."""
        self._skipped -= skipped.size or 0

    def again(self, item: str) -> Callable[[Unreachable], None]:
        """What tells that a piece of the item is tried again, of which nothing was counted."""
        return lambda error: self.tell(Again(item=item, why=str(error)))

    async def patiently(self, item: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """A request that moves no bytes worth counting, tried again like a piece."""
        return await patiently(attempt, retries=self.settings.retries, timing=self.timing, again=self.again(item))

    async def first(self, item: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """The first request to somebody: as `patiently`, but nothing is lost yet, so it is given up sooner."""
        retries = min(FIRST_RETRIES, self.settings.retries)
        return await patiently(attempt, retries=retries, timing=self.timing, again=self.again(item))

    def ended(self, digest: str, pull: str | None) -> Ended:
        event = Ended(
            digest=digest,
            moved=self._moved,
            skipped=self._skipped,
            seconds=self._timing_since(),
            parallel=max(self.incoming.peak, self.outgoing.peak),
            pull=pull,
        )
        self._listen(event)
        return event

    def _timing_since(self) -> float:
        return max(0.0, self.timing.monotonic() - self._began)


class Counted:
    """Turns a number that only grows ("so many bytes are verified") into events of what was added."""

    def __init__(self, work: Work, item: str, event: type[Verified] | type[Read]) -> None:
        self._work = work
        self._item = item
        self._event = event
        self._told = 0

    def __call__(self, total: int) -> None:
        if total > self._told:
            self._work.tell(self._event(item=self._item, size=total - self._told))
            self._told = total
