"""The parts of a pending upload, and URLs to put them by."""

from __future__ import annotations

import asyncio
import hashlib
import os

import pytest
from tests.store.backends import Backend
from tests.store.helpers import read_all

from bucketry.store.contract import Part, Store, Unsupported, UploadNotFound

KEY = "data/7f/parts"


class Parts:
    async def test_the_parts_that_are_listed_make_the_object(self, store: Store, backend: Backend) -> None:
        size = backend.min_part
        body = os.urandom(2 * size + 77)
        upload_id = await store.create_multipart(KEY, part_size=size)
        assert list(await store.list_parts(KEY, upload_id)) == []
        put = []
        for number, begin in ((40, 2 * size), (3, 0), (20, size)):
            piece = body[begin : begin + size]
            etag = await store.put_part(KEY, upload_id, number, piece, offset=begin)
            put.append(Part(number, len(piece), etag))
        listed = await store.list_parts(KEY, upload_id)
        assert list(listed) == sorted(put, key=lambda part: part.number)
        await store.complete_multipart(KEY, upload_id, listed)
        assert await read_all(store, KEY) == body

    async def test_parts_have_the_sizes_that_were_put(self, store: Store, backend: Backend) -> None:
        """Whoever lists them judges them: a client may have sent anything by a URL."""
        size = backend.min_part
        upload_id = await store.create_multipart(KEY, part_size=size)
        for index, length in enumerate((size, 1, size - 1, 0)):
            await store.put_part(KEY, upload_id, index + 1, bytes(length), offset=index * size)
        assert [(part.number, part.size) for part in await store.list_parts(KEY, upload_id)] == [
            (1, size),
            (2, 1),
            (3, size - 1),
            (4, 0),
        ]

    async def test_a_part_put_again_is_listed_once_as_it_is_now(self, store: Store, backend: Backend) -> None:
        upload_id = await store.create_multipart(KEY, part_size=backend.min_part)
        await store.put_part(KEY, upload_id, 1, b"first", offset=0)
        if store.url.startswith("s3:"):
            # SeaweedFS lists both, in any order, and only the second they were put in tells them apart.
            await asyncio.sleep(1.1)
        await store.put_part(KEY, upload_id, 1, b"and second", offset=0)
        listed = await store.list_parts(KEY, upload_id)
        assert [(part.number, part.size) for part in listed] == [(1, 10)]
        await store.complete_multipart(KEY, upload_id, listed)
        assert (await store.get(KEY)).body == b"and second"

    async def test_parts_are_of_one_upload(self, store: Store, backend: Backend) -> None:
        one, other = [await store.create_multipart(KEY, part_size=backend.min_part) for _ in range(2)]
        await store.put_part(KEY, one, 1, b"one", offset=0)
        await store.put_part(KEY, other, 2, b"other", offset=0)
        assert [(part.number, part.size) for part in await store.list_parts(KEY, one)] == [(1, 3)]
        assert [(part.number, part.size) for part in await store.list_parts(KEY, other)] == [(2, 5)]

    async def test_only_a_pending_upload_has_parts(self, store: Store, backend: Backend) -> None:
        completed, aborted = [await store.create_multipart(KEY, part_size=backend.min_part) for _ in range(2)]
        etag = await store.put_part(KEY, completed, 1, b"body", offset=0)
        with pytest.raises(UploadNotFound):
            await store.list_parts("data/other", completed)
        await store.complete_multipart(KEY, completed, [Part(1, 4, etag)])
        await store.abort_multipart(KEY, aborted)
        for upload_id in (completed, aborted, "0" * 32, "../../x", "nope", ""):
            with pytest.raises(UploadNotFound):
                await store.list_parts(KEY, upload_id)

    async def test_parts_are_listed_while_others_arrive(self, store: Store, backend: Backend) -> None:
        size, count = backend.min_part, 4
        upload_id = await store.create_multipart(KEY, part_size=size)
        body = os.urandom(count * size)

        async def put(index: int) -> None:
            piece = body[index * size : (index + 1) * size]
            await store.put_part(KEY, upload_id, index + 1, piece, offset=index * size)

        async def watch() -> None:
            seen: set[int] = set()
            while len(seen) < count:
                listed = await store.list_parts(KEY, upload_id)
                numbers = [part.number for part in listed]
                assert numbers == sorted(set(numbers))
                assert seen <= set(numbers), "what was there is gone"
                assert all(part.size == size for part in listed)
                seen = set(numbers)

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            tasks.create_task(watch())
            for index in range(count):
                tasks.create_task(put(index))
        await store.complete_multipart(KEY, upload_id, await store.list_parts(KEY, upload_id))
        assert await read_all(store, KEY) == body

    async def test_a_store_without_urls_says_so(self, store: Store, backend: Backend) -> None:
        upload_id = await store.create_multipart(KEY, part_size=backend.min_part)
        able = store.capabilities
        if able.presign_part:
            assert "://" in await store.presign_part(KEY, upload_id, 1, expires=60)
        else:
            with pytest.raises(Unsupported):
                await store.presign_part(KEY, upload_id, 1, expires=60)
        sha256 = hashlib.sha256(b"body").digest()
        if able.presign:
            assert "://" in (await store.presign_put(KEY, size=4, sha256=sha256, expires=60)).url
        else:
            assert not able.presign_part
            assert not able.checked_put
            with pytest.raises(Unsupported):
                await store.presign_put(KEY, size=4, sha256=sha256, expires=60)
