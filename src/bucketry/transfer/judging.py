"""Whether a store may hold a registry, found out while the first push to it is already on its way.

A store is looked at before it is written to (`bucketry.store.probe`): one that ignores the conditions of a write is
refused. On a new registry the look and the first parts may go at once, as nobody sees those: what makes anything
visible waits for `Judging.passed`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from bucketry.store.contract import Store
from bucketry.store.probe import probe
from bucketry.transfer.errors import Refused, TransferError


async def judge(store: Store, *, clock: Callable[[], float]) -> None:
    """Raises `Refused` for a store on which two pushes could overwrite each other unseen, and `StoreError`."""
    report = await probe(store, ids=lambda: secrets.token_hex(8), quick=True, clock=clock)
    refusal = report.refusal()
    if refusal is not None:
        raise Refused(refusal)


class Judging:
    """``look`` raises `Refused`, or another `TransferError` where it could not look: then it is called again."""

    def __init__(self, look: Callable[[], Awaitable[object]]) -> None:
        self._look = look
        self._task = self._begin()

    def _begin(self) -> asyncio.Task[None]:
        async def run() -> None:
            await self._look()

        return asyncio.create_task(run())

    async def passed(self) -> None:
        """Raises what ``look`` raised."""
        if self._task.done() and isinstance(self._failure(), TransferError) and not self.refused:
            self._task = self._begin()
        await asyncio.shield(self._task)

    def _failure(self) -> BaseException | None:
        return None if self._task.cancelled() else self._task.exception()

    @property
    def refused(self) -> bool:
        return self._task.done() and isinstance(self._failure(), Refused)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))
        self._failure()  # Somebody has looked at it, or nobody waits for it any more.
