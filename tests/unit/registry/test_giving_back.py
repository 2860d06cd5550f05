"""A registry that closes gives back what it verifies, whatever it is about at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.unit.registry.helpers import PART, FakeClock, blob_bytes, open_registry, truth
from tests.unit.registry.parallel import Client

from bucketry.registry import Blob, Registry, Verifying
from bucketry.store.faults import FaultyStore
from bucketry.store.memory import MemoryStore

DATA = blob_bytes(2 * PART + 9)
TURNS = 3
"""Of the event loop, before a call has its effect, and again before its answer is there."""


class Afar(FaultyStore):
    """A store whose answers take a while: who is cancelled meanwhile does not learn what he did."""

    async def _call(self, operation: str, keys: tuple[str, ...], work: Callable[[], Awaitable[Any]]) -> Any:
        await turns(TURNS)
        answer = await super()._call(operation, keys, work)
        await turns(TURNS)
        return answer


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def completed(client: Client, store: MemoryStore, clock: FakeClock, *, turn: int) -> bool:
    """Whether a request was done when its replica closed at that turn. If not, another one is asked at once."""
    dying = await open_registry(Afar(store), clock, replica=5)
    asking = asyncio.create_task(client.complete(registry=dying))
    await turns(turn)
    done = asking.done()
    await dying.close()
    assert isinstance(await asking, Blob | Verifying)
    assert dying.uploads.budget.used == 0
    # Who is asked when it is closed says that it is not the one to ask.
    assert isinstance(await client.complete(registry=dying), Blob | Verifying)
    other = await open_registry(store, clock, replica=6)
    assert isinstance(await client.complete(registry=other, wait=3), Blob)
    await other.close()
    after = await truth(store)
    assert (after.problems, after.orphans) == ([], [])
    return done


@pytest.mark.parametrize("first", range(8))
async def test_what_a_registry_verifies_when_it_closes_another_one_does_at_once(
    registry: Registry, inner: MemoryStore, clock: FakeClock, first: int
) -> None:
    turn, done = first, False
    while not done:
        client = Client(registry, DATA + bytes([turn % 256]) * 3)
        await client.begin()
        await client.put()
        done = await completed(client, inner, clock, turn=turn)
        turn += 8
        assert turn < 2000
    assert turn > 40


@pytest.mark.parametrize("between", range(1, 12, 2))
async def test_a_registry_may_be_closed_again_while_it_closes(
    registry: Registry, inner: MemoryStore, clock: FakeClock, between: int
) -> None:
    for turn in range(20, 60, 4):
        client = Client(registry, DATA + bytes([turn]))
        await client.begin()
        await client.put()
        dying = await open_registry(Afar(inner), clock, replica=5)
        asking = asyncio.create_task(client.complete(registry=dying))
        await turns(turn)
        closing = asyncio.create_task(dying.parallel.close())
        await turns(between)
        await dying.parallel.close()
        await closing
        assert isinstance(await asking, Blob | Verifying)
        other = await open_registry(inner, clock, replica=6)
        assert isinstance(await client.complete(registry=other, wait=3), Blob)
