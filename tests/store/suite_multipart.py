"""Multipart uploads."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

import pytest
from tests.store.backends import Backend
from tests.store.helpers import keys_of, read_all

from bucketry.store.contract import (
    IF_ABSENT,
    InvalidPart,
    NotFound,
    Part,
    PreconditionFailed,
    Store,
    StoreError,
    UploadNotFound,
)

KEY = "data/7f/upload"


async def put(store: Store, upload_id: str, number: int, body: bytes, offset: int) -> Part:
    etag = await store.put_part(KEY, upload_id, number, body, offset=offset)
    return Part(number, len(body), etag)


async def pending(store: Store) -> list[tuple[str, str]]:
    return [(upload.key, upload.upload_id) for upload in await store.list_multiparts()]


class Multipart:
    async def test_parts_in_any_order_make_the_object(self, store: Store, backend: Backend) -> None:
        size = backend.min_part
        body = os.urandom(2 * size + 1000)
        before = time.time()
        upload_id = await store.create_multipart(KEY, part_size=size)
        parts = [
            await put(store, upload_id, 3, body[2 * size :], 2 * size),
            await put(store, upload_id, 1, body[:size], 0),
            await put(store, upload_id, 2, body[size : 2 * size], size),
        ]
        with pytest.raises(NotFound):
            await store.head(KEY)
        assert await keys_of(store, "") == []
        (upload,) = await store.list_multiparts()
        assert (upload.key, upload.upload_id) == (KEY, upload_id)
        assert before - 120 < upload.initiated < time.time() + 120

        await store.complete_multipart(KEY, upload_id, sorted(parts, key=lambda part: part.number))
        assert (await store.head(KEY)).size == len(body)
        assert await read_all(store, KEY) == body
        assert await read_all(store, KEY, size - 3, size + 3) == body[size - 3 : size + 3]
        assert await keys_of(store, "data/") == [KEY]
        assert await pending(store) == []

    async def test_parts_go_up_in_parallel(self, store: Store, backend: Backend) -> None:
        size = backend.min_part
        count = 8 if size < 1024 * 1024 else 4
        body = os.urandom(count * size)
        upload_id = await store.create_multipart(KEY, part_size=size)
        parts = await asyncio.gather(
            *(
                put(store, upload_id, index + 1, body[index * size : (index + 1) * size], index * size)
                for index in range(count)
            )
        )
        await store.complete_multipart(KEY, upload_id, parts)
        assert await read_all(store, KEY) == body

    async def test_any_buffer_is_a_part(self, store: Store, backend: Backend) -> None:
        size = backend.min_part
        body = os.urandom(size + 9)
        upload_id = await store.create_multipart(KEY, part_size=size)
        first = await store.put_part(KEY, upload_id, 1, memoryview(body)[:size], offset=0)
        last = await store.put_part(KEY, upload_id, 2, bytearray(body[size:]), offset=size)
        await store.complete_multipart(KEY, upload_id, [Part(1, size, first), Part(2, 9, last)])
        assert await read_all(store, KEY) == body

    async def test_numbers_may_have_gaps(self, store: Store, backend: Backend) -> None:
        size = backend.min_part
        body = os.urandom(size + 1)
        upload_id = await store.create_multipart(KEY, part_size=size)
        parts = [
            await put(store, upload_id, 17, body[:size], 0),
            await put(store, upload_id, 10_000, body[size:], size),
        ]
        await store.complete_multipart(KEY, upload_id, parts)
        assert await read_all(store, KEY) == body

    async def test_one_short_part_is_enough(self, store: Store, backend: Backend) -> None:
        upload_id = await store.create_multipart(KEY, part_size=backend.min_part)
        await store.complete_multipart(KEY, upload_id, [await put(store, upload_id, 1, b"short", 0)])
        assert (await store.get(KEY)).body == b"short"

    async def test_a_part_sent_again_keeps_its_first_etag_good(self, store: Store, backend: Backend) -> None:
        """Two commits of one session send the same last part."""
        upload_id = await store.create_multipart(KEY, part_size=backend.min_part)
        parts = [await put(store, upload_id, 1, b"body", 0)]
        await put(store, upload_id, 1, b"body", 0)
        await store.complete_multipart(KEY, upload_id, parts)
        assert (await store.get(KEY)).body == b"body"

    async def test_a_second_complete_with_the_same_parts_succeeds(self, store: Store, backend: Backend) -> None:
        upload_id = await store.create_multipart(KEY, part_size=backend.min_part)
        parts = [await put(store, upload_id, 1, b"body", 0)]
        for _ in range(3):
            await store.complete_multipart(KEY, upload_id, parts)
        assert (await store.get(KEY)).body == b"body"
        with pytest.raises((UploadNotFound, InvalidPart)):
            await store.complete_multipart(KEY, upload_id, [Part(1, 5, parts[0].etag)])
        assert await pending(store) == []

    async def test_racing_completes_make_one_object(self, store: Store, backend: Backend) -> None:
        upload_id = await store.create_multipart(KEY, part_size=backend.min_part)
        parts = [await put(store, upload_id, 1, b"body", 0)]
        results = await asyncio.gather(
            *(store.complete_multipart(KEY, upload_id, parts) for _ in range(4)), return_exceptions=True
        )
        assert None in results
        assert all(result is None or isinstance(result, StoreError) for result in results)
        await store.complete_multipart(KEY, upload_id, parts)
        assert (await store.get(KEY)).body == b"body"

    async def test_after_complete_the_upload_is_no_more_and_the_object_stays(
        self, store: Store, backend: Backend
    ) -> None:
        size = backend.min_part
        body = os.urandom(size)
        upload_id = await store.create_multipart(KEY, part_size=size)
        await store.complete_multipart(KEY, upload_id, [await put(store, upload_id, 1, body, 0)])
        with pytest.raises(UploadNotFound):
            await put(store, upload_id, 2, bytes(size), 0)
        await store.abort_multipart(KEY, upload_id)
        assert (await store.get(KEY)).body == body

    async def test_nobody_changes_bytes_while_they_are_completed(self, store: Store, backend: Backend) -> None:
        size = backend.min_part
        for round_ in range(backend.rounds(10)):
            key = f"data/{round_}"
            upload_id = await store.create_multipart(key, part_size=size)
            etag = await store.put_part(key, upload_id, 5, b"G" * size, offset=0)
            results = await asyncio.gather(
                *(store.put_part(key, upload_id, number, b"B" * size, offset=0) for number in (1, 2, 3)),
                store.complete_multipart(key, upload_id, [Part(5, size, etag)]),
                *(store.put_part(key, upload_id, number, b"B" * size, offset=0) for number in (4, 3, 2)),
                return_exceptions=True,
            )
            assert results[3] is None
            allowed = (InvalidPart, UploadNotFound)
            assert all(isinstance(result, str) or result is None or isinstance(result, allowed) for result in results)
            assert (await store.get(key)).body == b"G" * size

    async def test_abort_frees_the_upload(self, store: Store, backend: Backend) -> None:
        upload_id = await store.create_multipart(KEY, part_size=backend.min_part)
        other = await store.create_multipart(KEY, part_size=backend.min_part)
        part = await put(store, upload_id, 1, b"body", 0)
        assert sorted(await pending(store)) == sorted([(KEY, upload_id), (KEY, other)])
        await store.abort_multipart(KEY, upload_id)
        await store.abort_multipart(KEY, upload_id)
        assert await pending(store) == [(KEY, other)]
        with pytest.raises(UploadNotFound):
            await put(store, upload_id, 2, b"body", 0)
        with pytest.raises(UploadNotFound):
            await store.complete_multipart(KEY, upload_id, [part])
        assert await keys_of(store, "") == []

    async def test_an_upload_that_never_was_is_not_found(self, store: Store) -> None:
        for upload_id in ("0" * 32, "../../x", "nope"):
            with pytest.raises(UploadNotFound):
                await put(store, upload_id, 1, b"body", 0)
            with pytest.raises(UploadNotFound):
                await store.complete_multipart(KEY, upload_id, [Part(1, 4, "x")])
            await store.abort_multipart(KEY, upload_id)

    async def test_complete_refuses_a_part_that_was_not_put(self, store: Store, backend: Backend) -> None:
        size = backend.min_part
        upload_id = await store.create_multipart(KEY, part_size=size)
        first = await put(store, upload_id, 1, os.urandom(size), 0)
        with pytest.raises(InvalidPart):
            await store.complete_multipart(KEY, upload_id, [first, Part(2, 5, first.etag)])
        with pytest.raises(NotFound):
            await store.head(KEY)
        await store.complete_multipart(KEY, upload_id, [first])
        assert (await store.head(KEY)).size == size

    async def test_the_old_etag_of_a_part_put_again_never_gives_a_mixture(self, store: Store, backend: Backend) -> None:
        size = backend.min_part
        upload_id = await store.create_multipart(KEY, part_size=size)
        old = await put(store, upload_id, 1, b"o" * size, 0)
        new = await put(store, upload_id, 1, b"n" * size, 0)
        assert old.etag != new.etag
        if backend.refuses_stale_parts:
            with pytest.raises(InvalidPart):
                await store.complete_multipart(KEY, upload_id, [old])
            await store.complete_multipart(KEY, upload_id, [new])
        else:
            await store.complete_multipart(KEY, upload_id, [old])
        assert await read_all(store, KEY) == b"n" * size

    async def test_a_superseded_writer_cannot_change_the_bytes(self, store: Store, backend: Backend) -> None:
        """Another request continued the upload with higher numbers; the old one wakes up and goes on."""
        size = backend.min_part
        body = os.urandom(size + 100)
        upload_id = await store.create_multipart(KEY, part_size=size)
        await put(store, upload_id, 1, b"x" * size, 0)
        parts = [await put(store, upload_id, 5, body[:size], 0), await put(store, upload_id, 6, body[size:], size)]
        late = [(1, 0), (2, 0), (4, size), (3, 2 * size)]
        for number, offset in late:
            if backend.one_part_an_offset and offset < 2 * size:
                with pytest.raises(InvalidPart):
                    await put(store, upload_id, number, b"y" * size, offset)
            else:
                await put(store, upload_id, number, b"y" * size, offset)
        await store.complete_multipart(KEY, upload_id, parts)
        assert (await store.head(KEY)).size == len(body)
        assert await read_all(store, KEY) == body

    async def test_a_longer_superseded_part_leaves_no_tail(self, store: Store, backend: Backend) -> None:
        size = backend.min_part
        upload_id = await store.create_multipart(KEY, part_size=size)
        await put(store, upload_id, 1, b"x" * size, 0)
        part = await put(store, upload_id, 2, b"short", 0)
        await store.complete_multipart(KEY, upload_id, [part])
        assert (await store.get(KEY)).body == b"short"

    async def test_one_of_two_attempts_at_an_offset_is_whole(self, store: Store, backend: Backend) -> None:
        size = backend.min_part
        for round_ in range(backend.rounds(10)):
            key = f"data/{round_}"
            upload_id = await store.create_multipart(key, part_size=size)

            async def attempt(number: int, key: str = key, upload_id: str = upload_id) -> Part | None:
                try:
                    etag = await store.put_part(key, upload_id, number, bytes([number]) * size, offset=0)
                except InvalidPart:
                    return None
                return Part(number, size, etag)

            results: Sequence[Part | None] = await asyncio.gather(*(attempt(number) for number in (2, 4, 3, 1)))
            winner = results[1]
            assert winner is not None, "the highest number is never superseded"
            await store.complete_multipart(key, upload_id, [winner])
            assert await read_all(store, key) == b"\x04" * size

    @pytest.mark.parametrize("number", [0, -1, 10_001])
    async def test_part_numbers_are_1_to_10000(self, store: Store, backend: Backend, number: int) -> None:
        upload_id = await store.create_multipart(KEY, part_size=backend.min_part)
        with pytest.raises(ValueError):
            await put(store, upload_id, number, b"x", 0)

    async def test_parts_have_a_least_size(self, store: Store, backend: Backend) -> None:
        with pytest.raises(ValueError):
            await store.create_multipart(KEY, part_size=backend.min_part - 1)
        assert await pending(store) == []

    @pytest.mark.parametrize("key", ["uploads/a", "datax/a", "data"])
    async def test_only_bulk_keys_have_multipart_uploads(self, store: Store, backend: Backend, key: str) -> None:
        with pytest.raises(ValueError):
            await store.create_multipart(key, part_size=backend.min_part)

    async def test_a_part_is_where_and_as_long_as_its_upload_says(self, store: Store, backend: Backend) -> None:
        if not backend.knows_parts:
            pytest.skip("this store does not remember part sizes and offsets")
        size = backend.min_part
        upload_id = await store.create_multipart(KEY, part_size=size)
        for length, offset in [(size + 1, 0), (size, 1), (size, -size), (1, size - 1), (1, 10_000 * size)]:
            with pytest.raises(ValueError):
                await put(store, upload_id, 1, bytes(length), offset)

    async def test_complete_refuses_parts_that_make_no_object(self, store: Store, backend: Backend) -> None:
        if not backend.knows_parts:
            pytest.skip("this store does not remember part sizes and offsets")
        size = backend.min_part
        upload_id = await store.create_multipart(KEY, part_size=size)
        first = await put(store, upload_id, 1, b"1" * size, 0)
        short = await put(store, upload_id, 2, b"2", size)
        third = await put(store, upload_id, 3, b"3" * size, 2 * size)
        for parts in (
            [],
            [short, first],
            [first, first],
            [first, third],
            [short],
            [first, short, third],
        ):
            with pytest.raises(InvalidPart):
                await store.complete_multipart(KEY, upload_id, parts)
        if backend.refuses_stale_parts:
            for wrong in (Part(1, size, short.etag), Part(1, size - 1, first.etag), Part(4, size, first.etag)):
                with pytest.raises(InvalidPart):
                    await store.complete_multipart(KEY, upload_id, [wrong])
        with pytest.raises(NotFound):
            await store.head(KEY)
        await store.complete_multipart(KEY, upload_id, [first, short])
        assert (await store.get(KEY)).body == b"1" * size + b"2"

    async def test_an_upload_belongs_to_its_key(self, store: Store, backend: Backend) -> None:
        if not backend.knows_parts:
            pytest.skip("this store does not remember which key an upload is for")
        upload_id = await store.create_multipart(KEY, part_size=backend.min_part)
        part = await put(store, upload_id, 1, b"body", 0)
        await store.put("data/other", b"same")
        for key in ("data/other", "data/none"):
            with pytest.raises(UploadNotFound):
                await store.put_part(key, upload_id, 1, b"x", offset=0)
            with pytest.raises(UploadNotFound):
                await store.complete_multipart(key, upload_id, [part])
            await store.abort_multipart(key, upload_id)
        assert await pending(store) == [(KEY, upload_id)]
        await store.complete_multipart(KEY, upload_id, [part])

    async def test_a_completed_object_can_be_deleted_and_conditions_see_it(
        self, store: Store, backend: Backend
    ) -> None:
        upload_id = await store.create_multipart(KEY, part_size=backend.min_part)
        parts = [await put(store, upload_id, 1, b"body", 0)]
        await store.complete_multipart(KEY, upload_id, parts)
        with pytest.raises(PreconditionFailed):
            await store.put(KEY, b"other", condition=IF_ABSENT)
        await store.delete(KEY)
        with pytest.raises(UploadNotFound):
            await store.complete_multipart(KEY, upload_id, parts)
        assert await keys_of(store, "") == []
