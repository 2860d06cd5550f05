"""The stores that the shared suite runs against: one line each in `BACKENDS`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

from bucketry.store.contract import Store
from bucketry.store.local import LocalStore
from bucketry.store.memory import MemoryStore

Open: TypeAlias = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Store]]


@dataclass(frozen=True)
class Backend:
    """A way to open an empty store, and what the contract leaves to it.

    ``open`` may ask the request for other fixtures, ``tmp_path`` or a server. ``min_part``: bytes that all parts
    but the last must have. ``refuses_stale_parts``: completing with the etag of a part that was put again fails.
    ``knows_parts``: the store remembers part size and offsets, so a put or a complete that breaks their rules is
    refused by it and not only by the caller. ``one_part_an_offset``: a part is refused where a higher number was put.
    ``byte_order``: list gives whole keys in byte order, those with ``/`` included. ``effort``: how many rounds and
    objects the tests take, as a share of what a fast store takes.
    """

    name: str
    open: Open
    min_part: int = 64 * 1024
    refuses_stale_parts: bool = True
    knows_parts: bool = True
    one_part_an_offset: bool = False
    byte_order: bool = True
    effort: float = 1.0

    def rounds(self, count: int) -> int:
        return max(2, int(count * self.effort))


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
    Backend("memory", memory),
    Backend("memory-like-a-filer", memory_like_a_filer, refuses_stale_parts=False, byte_order=False),
    Backend("memory-like-a-folder", memory_like_a_folder, one_part_an_offset=True),
    Backend("local", local, one_part_an_offset=True),
)
