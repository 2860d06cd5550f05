"""Two requests at once, in every interleaving of their store calls that a test asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from tests.unit.registry.helpers import FakeClock, open_registry

from bucketry.registry import Registry
from bucketry.store.contract import Buffer, Store
from bucketry.store.faults import Delay, FaultyStore, Rule
from bucketry.store.memory import MemoryStore

Request: TypeAlias = Callable[[Registry], Awaitable[Any]]


class Held:
    """A replica whose request stops before one of its store calls (None: before none) until it is let go."""

    def __init__(self, registry: Registry, view: FaultyStore, at: int | None) -> None:
        self._registry = registry
        self.view = view
        self._gate = asyncio.Event()
        self._stop = None if at is None else len(view.log) + at
        self._task: asyncio.Task[Any] | None = None
        if self._stop is not None:
            view.add(Rule(Delay(until=self._gate), at=self._stop))

    @classmethod
    async def on(cls, store: Store, clock: FakeClock, replica: int, at: int | None, **settings: Any) -> Held:
        view = FaultyStore(store)
        return cls(await open_registry(view, clock, replica=replica, **settings), view, at)

    async def begin(self, request: Request) -> None:
        """Until it stops, or is done."""

        async def work() -> Any:
            return await request(self._registry)

        self._task = asyncio.create_task(work())
        while not self._task.done() and not self.stopped:
            await asyncio.sleep(0)

    @property
    def stopped(self) -> bool:
        """Whether the call was reached."""
        return self._stop is not None and len(self.view.log) > self._stop

    async def end(self) -> Any:
        """What the request gives, or the exception it raises."""
        self._gate.set()
        assert self._task is not None
        return (await asyncio.gather(self._task, return_exceptions=True))[0]


class PartBook(MemoryStore):
    """Notes which bytes were written under each part number, to see whether two attempts ever used the same one."""

    def __init__(self, **flags: Any) -> None:
        super().__init__(**flags)
        self.written: dict[tuple[str, int], set[bytes]] = {}

    async def put_part(self, key: str, upload_id: str, number: int, body: Buffer, *, offset: int) -> str:
        self.written.setdefault((upload_id, number), set()).add(bytes(body))
        return await super().put_part(key, upload_id, number, body, offset=offset)

    @property
    def swapped(self) -> list[tuple[str, int]]:
        """Part numbers that were written with different bytes."""
        return [place for place, bodies in self.written.items() if len(bodies) > 1]
