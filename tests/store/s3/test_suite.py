"""The contract's shared suite on a real S3 server."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.store.backends import Backend
from tests.store.seaweed import Seaweed
from tests.store.suite import StoreSuite
from tests.store.suite_multipart import KEY

from bucketry.store.contract import MIN_PART, Part, Store
from bucketry.store.s3 import S3Settings, S3Store

_prefixes = itertools.count()


class Planted(S3Store):
    """A store with another one around it, to which nothing below this one's root is foreign."""

    def __init__(self, settings: S3Settings, around: S3Store) -> None:
        super().__init__(settings)
        self.around = around
        self.root = settings.root


class S3Garden:
    def __init__(self, store: Store) -> None:
        assert isinstance(store, Planted)
        self._store = store

    async def plant(self, key: str, body: bytes) -> None:
        await self._store.around.put(self._store.root + key, body)

    async def uproot(self, key: str) -> None:
        await self._store.around.delete(self._store.root + key)


@asynccontextmanager
async def s3(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    seaweed: Seaweed = request.getfixturevalue("seaweed")
    around = S3Store(seaweed.settings(""))
    store = Planted(seaweed.settings(f"suite{next(_prefixes)}"), around)
    await around.start()
    try:
        await store.start()
        yield store
    finally:
        await store.close()
        await around.close()


S3 = Backend(
    "s3",
    s3,
    S3Garden,
    min_part=MIN_PART,
    refuses_stale_parts=False,
    knows_parts=False,
    byte_order=False,
    effort=0.1,
)


class TestS3(StoreSuite):
    @pytest.fixture(params=[S3], ids=["s3"])
    def backend(self, request: pytest.FixtureRequest) -> Backend:
        backend: Backend = request.param
        return backend

    async def test_the_old_etag_of_a_part_put_again_never_gives_a_mixture(self, store: Store, backend: Backend) -> None:
        """SeaweedFS accepts the old etag, and takes the old bytes: it kept both."""
        size = backend.min_part
        old, new = os.urandom(size), os.urandom(size)
        upload_id = await store.create_multipart(KEY, part_size=size)
        stale = Part(1, size, await store.put_part(KEY, upload_id, 1, old, offset=0))
        await store.put_part(KEY, upload_id, 1, new, offset=0)
        await store.complete_multipart(KEY, upload_id, [stale])
        assert (await store.get(KEY)).body in (old, new)
