"""Stores on a real server and on a scripted one."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable

import pytest
from tests.store.s3.fake import FakeS3
from tests.store.seaweed import Seaweed, seaweed

from bucketry.store.s3 import S3Settings, S3Store

__all__ = ["seaweed"]

_prefixes = itertools.count()


@pytest.fixture
def settings(seaweed: Seaweed) -> S3Settings:
    """The real server, below a prefix that nobody else uses."""
    return seaweed.settings(f"t{next(_prefixes)}")


@pytest.fixture
async def store(settings: S3Settings) -> AsyncIterator[S3Store]:
    store = S3Store(settings)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def fake() -> AsyncIterator[FakeS3]:
    server = FakeS3()
    await server.start()
    try:
        yield server
    finally:
        await server.close()


@pytest.fixture
async def on_fake(fake: FakeS3) -> AsyncIterator[Callable[..., S3Store]]:
    """Makes stores on the scripted server, which are closed in the end. Arguments are those of `FakeS3.store`."""
    stores: list[S3Store] = []

    def make(**changes: object) -> S3Store:
        stores.append(fake.store(**changes))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()
