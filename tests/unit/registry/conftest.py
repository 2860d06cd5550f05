"""A registry over a store in memory, with a clock that the test sets."""

from __future__ import annotations

import pytest
from tests.unit.registry.helpers import FakeClock, memory_store, open_registry

from bucketry.registry import Registry
from bucketry.store.faults import FaultyStore
from bucketry.store.memory import MemoryStore


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def inner(clock: FakeClock) -> MemoryStore:
    """What the bucket holds, whatever a process sees of it."""
    return memory_store(clock)


@pytest.fixture
def store(inner: MemoryStore) -> FaultyStore:
    """The registry's own view of the bucket: it counts calls, and fails where a test says so."""
    return FaultyStore(inner)


@pytest.fixture
async def registry(store: FaultyStore, clock: FakeClock) -> Registry:
    opened = await open_registry(store, clock)
    store.log.clear()
    store.calls.clear()
    return opened
