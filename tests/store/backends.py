"""The stores that the shared suite runs against: one line each in `BACKENDS`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias
from urllib.parse import unquote

import pytest

from bucketry.store.contract import Store
from bucketry.store.local import LocalStore
from bucketry.store.memory import MemoryStore


class Garden(Protocol):
    """What another program does in a store: below `bucketry.store.contract.FOREIGN_PREFIX`, and past the contract."""

    async def plant(self, key: str, body: bytes) -> None: ...

    async def uproot(self, key: str) -> None: ...


Open: TypeAlias = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Store]]


@dataclass(frozen=True)
class Backend:
    """A way to open an empty store, and what the contract leaves to it.

    ``open`` may ask the request for other fixtures, ``tmp_path`` or a server; ``garden`` is of a store it opened.
    ``min_part``: bytes that all parts but the last must have. ``refuses_stale_parts``: completing with the etag of a
    part that was put again fails. ``knows_parts``: the store remembers part size and offsets, so a put or a complete
    that breaks their rules is refused by it and not only by the caller. ``one_part_an_offset``: a part is refused where
    a higher number was put. ``byte_order``: list gives whole keys in byte order, those with ``/`` included. ``effort``:
    how many rounds and objects the tests take, as a share of what a fast store takes.
    """

    name: str
    open: Open
    garden: Callable[[Store], Garden]
    min_part: int = 64 * 1024
    refuses_stale_parts: bool = True
    knows_parts: bool = True
    one_part_an_offset: bool = False
    byte_order: bool = True
    effort: float = 1.0

    def rounds(self, count: int) -> int:
        return max(2, int(count * self.effort))


class MemoryGarden:
    def __init__(self, store: Store) -> None:
        assert isinstance(store, MemoryStore)
        self._store = store

    async def plant(self, key: str, body: bytes) -> None:
        self._store.plant(key, body)

    async def uproot(self, key: str) -> None:
        self._store.uproot(key)


class LocalGarden:
    """Files, written as anybody writes them."""

    def __init__(self, store: Store) -> None:
        self._root = Path(unquote(store.url.removeprefix("file:")))

    async def plant(self, key: str, body: bytes) -> None:
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    async def uproot(self, key: str) -> None:
        (self._root / key).unlink(missing_ok=True)


@asynccontextmanager
async def memory(_: pytest.FixtureRequest) -> AsyncIterator[Store]:
    yield MemoryStore(min_part=64 * 1024)


@asynccontextmanager
async def memory_like_a_filer(_: pytest.FixtureRequest) -> AsyncIterator[Store]:
    yield MemoryStore(min_part=64 * 1024, accept_stale_parts=True, directory_order=True)


@asynccontextmanager
async def memory_like_a_folder(_: pytest.FixtureRequest) -> AsyncIterator[Store]:
    yield MemoryStore(min_part=64 * 1024, one_part_an_offset=True)


@asynccontextmanager
async def local(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    folder: Path = request.getfixturevalue("tmp_path")
    store = LocalStore(folder / "store", min_part=64 * 1024)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


BACKENDS: tuple[Backend, ...] = (
    Backend("memory", memory, MemoryGarden),
    Backend("memory-like-a-filer", memory_like_a_filer, MemoryGarden, refuses_stale_parts=False, byte_order=False),
    Backend("memory-like-a-folder", memory_like_a_folder, MemoryGarden, one_part_an_offset=True),
    Backend("local", local, LocalGarden, one_part_an_offset=True),
)
