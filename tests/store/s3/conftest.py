"""Stores on a real server and on a scripted one."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from tests.store.s3.fake import FakeS3
from tests.store.seaweed import Seaweed

from bucketry.store.s3 import S3Settings, S3Store

Start: TypeAlias = Callable[..., Awaitable[S3Store]]

_prefixes = itertools.count()


@pytest.fixture
def settings(seaweed: Seaweed) -> S3Settings:
    """The real server, below a prefix that nobody else uses."""
    return seaweed.settings(f"t{next(_prefixes)}")


@pytest.fixture
async def start(settings: S3Settings) -> AsyncIterator[Start]:
    """Starts stores with these settings, changed as the arguments say, and closes them in the end."""
    stores: list[S3Store] = []

    async def start(clock: Callable[[], float] = time.time, **changes: Any) -> S3Store:
        stores.append(S3Store(replace(settings, **changes), clock=clock))
        await stores[-1].start()
        return stores[-1]

    yield start
    for store in stores:
        await store.close()


@pytest.fixture
async def store(start: Start) -> S3Store:
    return await start()


@pytest.fixture
async def fake() -> AsyncIterator[FakeS3]:
    server = FakeS3()
    await server.start()
    try:
        yield server
    finally:
        await server.close()
