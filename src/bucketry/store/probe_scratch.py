"""What the checks of the store probe work with: a part of the store to write in, and how they say what they saw."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from bucketry.store.contract import (
    BULK_PREFIX,
    MIN_PART,
    Buffer,
    Condition,
    NotFound,
    Store,
    StoreError,
)

Status: TypeAlias = Literal["ok", "missing", "broken"]
Weight: TypeAlias = Literal["must", "feature", "note"]

WRITERS, _ROUNDS = 16, 5
"""How many writers race for one key, and how often."""

_QUICK_WRITERS, _QUICK_ROUNDS = 4, 1
# SeaweedFS lets the losers of a race wait, each some seconds: every start of a server would.


class Found(Exception):
    """A check ended early: this is what it found."""

    def __init__(self, status: Status, seen: str, means: str) -> None:
        super().__init__(seen)
        self.status = status
        self.seen = seen
        self.means = means


class Scratch:
    """The store, as checks use it: it remembers what to remove. ``clock`` gives POSIX seconds.

    The id is in the last part of each key, not in a folder of its own: a local store keeps its empty folders,
    and each start of a server would leave some.
    """

    def __init__(self, store: Store, id_: str, *, quick: bool, clock: Callable[[], float]) -> None:
        self.store = store
        self.id = id_
        self.quick = quick
        self.writers = _QUICK_WRITERS if quick else WRITERS
        self.rounds = _QUICK_ROUNDS if quick else _ROUNDS
        self.clock = clock
        self.unreachable: str | None = None
        """Why presigned URLs lead nowhere from here, once one did: the next would have to be waited for too."""
        self._keys: dict[str, None] = {}
        self._uploads: dict[tuple[str, str], None] = {}

    def key(self, name: str, folder: str = "") -> str:
        """A key that is removed in the end, whoever writes it. ``folder`` is empty or ends with ``/``."""
        return self._remember(f"probe/{folder}{self.id}-{name}")

    def bulk_key(self, name: str) -> str:
        return self._remember(f"{BULK_PREFIX}~probe/{self.id}-{name}")

    def _remember(self, key: str) -> str:
        self._keys[key] = None
        return key

    async def put(self, name: str, body: Buffer, *, condition: Condition | None = None) -> str:
        return await self.store.put(self.key(name), body, condition=condition)

    async def held(self, name: str) -> bytes:
        return (await self.store.get(self.key(name))).body

    async def exists(self, key: str) -> bool:
        try:
            await self.store.head(key)
        except NotFound:
            return False
        return True

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        return b"".join([piece async for piece in self.store.read(key, start, stop)])

    async def pages(self, folder: str, limit: int) -> list[str]:
        """This probe's keys in a folder, from pages of ``limit``, in the order the store gives them."""
        keys: dict[str, None] = {}
        after = None
        while True:
            page = await self.store.list(f"probe/{folder}", after=after, limit=limit)
            for found in page.objects:
                if found.key in keys:
                    raise Found("broken", "the pages of a list give a key twice", "lists would never end")
                keys[found.key] = None
            if not page.more or not page.objects:
                # A probe that runs now, or was killed once, may have keys there too.
                return [key for key in keys if self.id in key]
            after = page.objects[-1].key

    async def create_multipart(self, key: str) -> str:
        upload_id = await self.store.create_multipart(key, part_size=MIN_PART)
        self._uploads[key, upload_id] = None
        return upload_id

    async def clean(self, patience: float) -> Answer | None:
        """Removes everything, in ``patience`` seconds; where that failed, what was seen and what to do."""
        try:
            async with asyncio.timeout(patience):
                for key, upload_id in self._uploads:
                    await self.store.abort_multipart(key, upload_id)
                await self.store.delete_many(list(self._keys))
        except (StoreError, TimeoutError) as error:
            return str(error) or "it took too long", f"remove the keys with {self.id} in them yourself"
        return None


Answer: TypeAlias = tuple[str, str]
"""What was seen, and what it means for the user."""

CheckFunction: TypeAlias = Callable[[Scratch], Awaitable[Answer]]
