"""Parts of pending uploads, as a store lists them that may misbehave, and as a real one does."""

from __future__ import annotations

import asyncio
import hashlib
import os

import pytest
from aiohttp import web
from tests.store.helpers import bounded
from tests.store.s3.conftest import Start
from tests.store.s3.fake import FakeS3, answers, document, fault, loses_answer, parts_page, says

from bucketry.store.contract import MIN_PART, BucketMissing, Corrupt, Part, Unsupported, UploadNotFound
from bucketry.store.s3 import S3Store
from bucketry.store.s3.uploads import list_parts

KEY = "data/7f/x"


async def upload(store: S3Store, bodies: dict[int, bytes]) -> tuple[str, list[Part]]:
    upload_id = await store.create_multipart(KEY, part_size=MIN_PART)
    parts = []
    for number, body in bodies.items():
        parts.append(Part(number, len(body), await store.put_part(KEY, upload_id, number, body, offset=0)))
    return upload_id, sorted(parts, key=lambda part: part.number)


async def test_parts_are_listed_page_by_page(fake: FakeS3) -> None:
    store = await fake.started(prefix="p")
    upload_id, parts = await upload(store, {number: b"%d" % number for number in (10_000, 2, 1_500, *range(5, 1_100))})
    fake.asked.clear()
    assert list(await store.list_parts(KEY, upload_id)) == parts
    assert len(parts) == 1_098
    assert [asked.path for asked in fake.asked] == ["/bucket/p/data/7f/x"] * 2
    assert [asked.query for asked in fake.asked] == [
        {"max-parts": "1000", "uploadId": upload_id},
        {"max-parts": "1000", "part-number-marker": "1003", "uploadId": upload_id},
    ]
    assert fake.observer.outcomes("list_parts") == ["ok", "ok"]


async def test_parts_may_come_in_the_order_of_their_names(fake: FakeS3) -> None:
    store = await fake.started()
    upload_id, _ = await upload(store, {})
    fake.asked.clear()
    pages = [
        parts_page((1, b"1"), (10_000, b"last"), more=True),
        parts_page((1_001, b"x"), (9_999, b"y"), more=True),
        parts_page((9_999, b"z"), (2, b"2")),
    ]
    fake.script.extend(answers(lambda page=page: page) for page in pages)  # type: ignore[misc]
    listed = await store.list_parts(KEY, upload_id)
    assert [(part.number, part.size) for part in listed] == [(1, 1), (2, 1), (1_001, 1), (9_999, 1), (10_000, 4)]
    markers = [asked.query.get("part-number-marker") for asked in fake.asked]
    assert markers == [None, "1", "9999"]


async def test_a_list_of_parts_always_ends(fake: FakeS3) -> None:
    store = await fake.started()
    upload_id, _ = await upload(store, {})
    for page, text in [
        (lambda: parts_page((1, b""), more=True), "nothing new"),
        (lambda: parts_page(more=True), "nothing new"),
        (lambda: parts_page((0, b"")), "no part 0"),
        (lambda: parts_page((10_001, b"")), "no part 10001"),
        (lambda: document("<ListPartsResult><Part><PartNumber>1</PartNumber></Part></ListPartsResult>"), "Size"),
    ]:
        fake.script.extend([answers(page)] * 8)
        with pytest.raises(Corrupt, match=text):
            await store.list_parts(KEY, upload_id)
        fake.script.clear()


async def test_an_upload_is_missing_and_so_is_a_bucket(fake: FakeS3) -> None:
    store = await fake.started()
    for act in (says(404, "NoSuchUpload"), says(404, "NoSuchKey"), answers(lambda: web.Response(status=404))):
        fake.script.append(act)
        with pytest.raises(UploadNotFound):
            await store.list_parts(KEY, "upload")
    fake.script.append(says(404, "NoSuchBucket"))
    with pytest.raises(BucketMissing):
        await store.list_parts(KEY, "upload")


async def test_a_lost_list_is_asked_for_again(fake: FakeS3) -> None:
    store = await fake.started()
    upload_id, parts = await upload(store, {1: b"one"})
    fake.script.extend([loses_answer(), answers(lambda: fault(503, "SlowDown"))])
    assert list(await store.list_parts(KEY, upload_id)) == parts


async def test_checksums_of_parts_come_with_the_list(fake: FakeS3) -> None:
    store = await fake.started(checksum="sha256")
    upload_id, parts = await upload(store, {1: b"one", 2: b"two"})
    with pytest.raises(Unsupported, match="checksum=auto"):
        await store.list_parts(KEY, upload_id)
    fake.tells_sums = True
    assert list(await store.list_parts(KEY, upload_id)) == parts
    await store.complete_multipart(KEY, upload_id, await store.list_parts(KEY, upload_id))
    assert fake.asked[-1].body.count(b"<ChecksumSHA256>") == 2


async def test_a_checksum_that_nobody_asked_for_is_left_alone(fake: FakeS3) -> None:
    """AWS makes one of its own where it got none, and does not want it back."""
    store = await fake.started()
    fake.tells_sums = True
    upload_id, parts = await upload(store, {1: b"one"})
    assert list(await store.list_parts(KEY, upload_id)) == parts


# On a real server


async def test_a_real_server_lists_page_by_page(store: S3Store) -> None:
    upload_id = await store.create_multipart(KEY, part_size=MIN_PART)
    numbers = [1, 2, 999, 1_000, 1_001, 9_999, 10_000]
    await bounded(store.put_part(KEY, upload_id, number, b"x" * number, offset=0) for number in reversed(numbers))
    whole = await store.list_parts(KEY, upload_id)
    assert [(part.number, part.size) for part in whole] == [(number, number) for number in numbers]
    request = store._request("list_parts", "GET", KEY, query=(("uploadId", upload_id),))
    for size in range(2, 8):
        found = await list_parts(store._client, request, url=store.url, kind=None, page_size=size)
        assert found == tuple(whole)


async def test_a_real_server_lists_more_than_a_page_of_parts(store: S3Store) -> None:
    upload_id = await store.create_multipart(KEY, part_size=MIN_PART)
    await bounded(store.put_part(KEY, upload_id, number, b"x", offset=0) for number in range(1, 1_051))
    assert [part.number for part in await store.list_parts(KEY, upload_id)] == list(range(1, 1_051))
    await store.abort_multipart(KEY, upload_id)


async def test_a_part_put_again_with_another_length_is_listed_as_it_is_now(store: S3Store) -> None:
    """SeaweedFS lists both; which came later its times say, in whole seconds."""
    upload_id = await store.create_multipart(KEY, part_size=MIN_PART)
    for size in (10, 11, 12):
        await store.put_part(KEY, upload_id, 1, os.urandom(size), offset=0)
        await asyncio.sleep(1.05)
    (listed,) = await store.list_parts(KEY, upload_id)
    assert listed.size == 12
    await store.complete_multipart(KEY, upload_id, [listed])
    assert (await store.head(KEY)).size == 12


@pytest.mark.parametrize("checksum", ["none", "md5"])
async def test_a_real_server_completes_what_it_lists(start: Start, checksum: str) -> None:
    store = await start(checksum=checksum, sse="AES256", storage_class="STANDARD_IA")
    body = os.urandom(MIN_PART + 1)
    upload_id = await store.create_multipart(KEY, part_size=MIN_PART)
    await store.put_part(KEY, upload_id, 9_999, body[:MIN_PART], offset=0)
    await store.put_part(KEY, upload_id, 10_000, body[MIN_PART:], offset=MIN_PART)
    await store.complete_multipart(KEY, upload_id, await store.list_parts(KEY, upload_id))
    read = hashlib.sha256()
    async for piece in store.read(KEY):
        read.update(piece)
    assert read.digest() == hashlib.sha256(body).digest()


@pytest.mark.parametrize("checksum", ["crc32", "sha256"])
async def test_a_real_server_that_keeps_checksums_to_itself_is_found_out(start: Start, checksum: str) -> None:
    store = await start(checksum=checksum)
    upload_id = await store.create_multipart(KEY, part_size=MIN_PART)
    assert await store.list_parts(KEY, upload_id) == ()
    await store.put_part(KEY, upload_id, 1, b"body", offset=0)
    with pytest.raises(Unsupported, match="checksum=auto"):
        await store.list_parts(KEY, upload_id)
