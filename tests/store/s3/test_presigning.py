"""Presigned writes: what they carry, and what a real server lets through."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

import pytest
from tests.store.helpers import keys_of, read_all
from tests.store.s3.conftest import Start
from tests.store.s3.fake import FakeS3
from tests.store.seaweed import Seaweed

from bucketry.store.contract import MIN_PART, NotFound, Part, PresignedPut, Unsupported, UploadNotFound
from bucketry.store.s3 import S3Store

KEY = "data/7f/x"
SHA256 = hashlib.sha256(b"body").digest()


def put(url: str, body: bytes, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """A plain client, which knows no S3: status and ETag of its PUT."""
    try:
        request = urllib.request.Request(url, data=body, headers=dict(headers or {}), method="PUT")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers.get("ETag", "")
    except urllib.error.HTTPError as error:
        error.read()
        return error.code, ""


class HeldPut:
    """A PUT whose last byte is kept back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, last: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._last = last

    @classmethod
    async def begin(cls, url: str, body: bytes) -> HeldPut:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(
            f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body[:-1]
        )
        await writer.drain()
        return cls(reader, writer, body[-1:])

    async def end(self) -> int:
        self._writer.write(self._last)
        answer = await self._reader.read()
        self._writer.close()
        await self._writer.wait_closed()
        return int(answer.split(b" ", 2)[1])


# What is signed


async def test_a_part_url_is_for_that_part(fake: FakeS3) -> None:
    store = await fake.started(prefix="p", public_endpoint="https://cdn.example", session_token="TOKEN")
    parts = urlsplit(await store.presign_part(KEY, "up/load+1", 10_000, expires=59.5))
    query = dict(parse_qsl(parts.query))
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "cdn.example", "/bucket/p/data/7f/x")
    assert (query["partNumber"], query["uploadId"]) == ("10000", "up/load+1")
    assert (query["X-Amz-Expires"], query["X-Amz-SignedHeaders"]) == ("60", "host")
    assert query["X-Amz-Security-Token"] == "TOKEN"
    assert fake.asked == []


async def test_a_checked_put_signs_all_that_is_checked(fake: FakeS3) -> None:
    store = await fake.started(
        prefix="p", public_endpoint="https://cdn.example", storage_class="STANDARD_IA", sse="AES256"
    )
    signed = await store.presign_put(KEY, size=4, sha256=SHA256, expires=60)
    assert isinstance(signed, PresignedPut)
    assert signed.headers == {
        "content-length": "4",
        "content-type": "application/octet-stream",
        "if-none-match": "*",
        "x-amz-checksum-sha256": b64encode(SHA256).decode(),
        "x-amz-server-side-encryption": "AES256",
        "x-amz-storage-class": "STANDARD_IA",
    }
    parts = urlsplit(signed.url)
    query = dict(parse_qsl(parts.query))
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "cdn.example", "/bucket/p/data/7f/x")
    assert query["X-Amz-SignedHeaders"].split(";") == sorted({*signed.headers, "host"})
    assert fake.asked == []


async def test_what_cannot_be_right_is_not_presigned(fake: FakeS3) -> None:
    store = await fake.started()
    for number in (0, -1, 10_001):
        with pytest.raises(ValueError, match="part number"):
            await store.presign_part(KEY, "upload", number, expires=60)
    for upload_id in ("", "../../x"):
        with pytest.raises(UploadNotFound):
            await store.presign_part(KEY, upload_id, 1, expires=60)
    for key in ("uploads/a", "data", "data/../x"):
        with pytest.raises(ValueError):
            await store.presign_part(key, "upload", 1, expires=60)
        with pytest.raises(ValueError):
            await store.presign_put(key, size=4, sha256=SHA256, expires=60)
    for size, digest in ((-1, SHA256), (5 * 1024**3 + 1, SHA256), (4, b""), (4, SHA256.hex().encode())):
        with pytest.raises(ValueError):
            await store.presign_put(KEY, size=size, sha256=digest, expires=60)
    for expires in (0, -1, 7 * 24 * 3600 + 1):
        with pytest.raises(ValueError, match="valid for"):
            await store.presign_part(KEY, "upload", 1, expires=expires)
        with pytest.raises(ValueError, match="valid for"):
            await store.presign_put(KEY, size=4, sha256=SHA256, expires=expires)


async def test_without_credentials_no_write_is_presigned(fake: FakeS3) -> None:
    store = await fake.started(anonymous=True, access_key=None, secret_key=None)
    assert not store.capabilities.presign
    assert not store.capabilities.presign_part
    with pytest.raises(Unsupported):
        await store.presign_part(KEY, "upload", 1, expires=60)
    with pytest.raises(Unsupported):
        await store.presign_put(KEY, size=4, sha256=SHA256, expires=60)


@pytest.mark.parametrize("checksum", ["md5", "crc32", "sha256"])
async def test_where_every_part_needs_a_checksum_no_part_is_presigned(fake: FakeS3, checksum: str) -> None:
    store = await fake.started(checksum=checksum)
    assert store.capabilities.presign
    assert not store.capabilities.presign_part
    with pytest.raises(Unsupported, match="checksum=auto"):
        await store.presign_part(KEY, "upload", 1, expires=60)
    assert (await store.presign_put(KEY, size=4, sha256=SHA256, expires=60)).headers["x-amz-checksum-sha256"]


# On a real server: parts


@pytest.mark.parametrize("changes", [{}, {"sse": "AES256", "storage_class": "STANDARD_IA"}])
async def test_a_plain_client_puts_a_part(start: Start, seaweed: Seaweed, changes: dict[str, str]) -> None:
    store = await start(**changes)
    body = os.urandom(MIN_PART + 9)
    upload_id = await store.create_multipart(KEY, part_size=MIN_PART)
    url = await store.presign_part(KEY, upload_id, 2, expires=60)
    assert url.startswith(f"{seaweed.endpoint}/{seaweed.bucket}/")
    status, etag = await asyncio.to_thread(put, url, body[:MIN_PART])
    assert status == 200
    (listed,) = await store.list_parts(KEY, upload_id)
    assert (listed.number, listed.size) == (2, MIN_PART)
    assert etag.strip('"') == listed.etag.partition(";")[0]
    await store.put_part(KEY, upload_id, 3, body[MIN_PART:], offset=MIN_PART)
    await store.complete_multipart(KEY, upload_id, await store.list_parts(KEY, upload_id))
    assert await read_all(store, KEY) == body


async def test_a_forged_part_url_is_refused(store: S3Store) -> None:
    upload_id = await store.create_multipart(KEY, part_size=MIN_PART)
    other = await store.create_multipart(KEY, part_size=MIN_PART)
    url = await store.presign_part(KEY, upload_id, 2, expires=60)
    for forged in (
        url.replace("partNumber=2", "partNumber=3"),
        url.replace(upload_id, other),
        url.replace(KEY, "data/7f/y"),
        url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"),
        url.partition("?")[0],
        url[:-1],
    ):
        assert forged != url
        assert (await asyncio.to_thread(put, forged, b"x"))[0] == 403
    assert await store.list_parts(KEY, upload_id) == await store.list_parts(KEY, other) == ()


async def test_a_part_url_ends(start: Start) -> None:
    store = await start(clock=lambda: time.time() - 120)
    upload_id = await store.create_multipart(KEY, part_size=MIN_PART)
    late = await store.presign_part(KEY, upload_id, 1, expires=60)
    assert (await asyncio.to_thread(put, late, b"x"))[0] == 403
    assert (await asyncio.to_thread(put, await store.presign_part(KEY, upload_id, 1, expires=600), b"x"))[0] == 200


async def test_a_part_of_no_upload_is_refused(store: S3Store) -> None:
    upload_id = await store.create_multipart(KEY, part_size=MIN_PART)
    for key, wrong in (("data/7f/y", upload_id), (KEY, "0" * 32)):
        url = await store.presign_part(key, wrong, 1, expires=60)
        assert (await asyncio.to_thread(put, url, b"x"))[0] == 404
    assert await keys_of(store, "") == []


async def test_a_part_that_comes_after_the_end_changes_nothing(store: S3Store) -> None:
    body = os.urandom(200_000)
    upload_id = await store.create_multipart(KEY, part_size=MIN_PART)
    etag = await store.put_part(KEY, upload_id, 1, body, offset=0)
    urls = [await store.presign_part(KEY, upload_id, number, expires=60) for number in (1, 2)]
    aborted = await store.create_multipart("data/7f/y", part_size=MIN_PART)
    urls.append(await store.presign_part("data/7f/y", aborted, 1, expires=60))
    # Two that wait for the end with all but a byte sent, and two that begin after it.
    held = [await HeldPut.begin(url, b"evil" * 50_000) for url in urls]
    assert await store.list_parts("data/7f/y", aborted) == ()
    await store.complete_multipart(KEY, upload_id, await store.list_parts(KEY, upload_id))
    await store.abort_multipart("data/7f/y", aborted)
    statuses = [await each.end() for each in held]
    for url in urls:
        statuses.append((await asyncio.to_thread(put, url, b"evil"))[0])
    assert statuses == [404] * 6
    assert await read_all(store, KEY) == body
    with pytest.raises(NotFound):
        await store.head("data/7f/y")
    assert await keys_of(store, "") == [KEY]
    assert await store.list_multiparts() == ()
    # Completing again is no way in either.
    await store.complete_multipart(KEY, upload_id, [Part(1, len(body), etag)])
    assert await read_all(store, KEY) == body


async def test_parts_that_race_with_the_end_never_change_what_was_read(store: S3Store) -> None:
    """Whatever the end made of them: once it was answered, the object stays as it is."""
    for round_ in range(10):
        key = f"data/7f/race{round_}"
        upload_id = await store.create_multipart(key, part_size=MIN_PART)
        await store.put_part(key, upload_id, 1, b"G" * 50_000, offset=0)
        listed = await store.list_parts(key, upload_id)
        url = await store.presign_part(key, upload_id, 1, expires=60)
        held = [await HeldPut.begin(url, b"E" * 50_000) for _ in range(3)]
        results = await asyncio.gather(
            store.complete_multipart(key, upload_id, listed), *(each.end() for each in held), return_exceptions=True
        )
        assert set(results[1:]) <= {200, 404}
        if results[0] is None:
            found = await read_all(store, key)
            assert found in (b"G" * 50_000, b"E" * 50_000), "a mixture"
            assert (await asyncio.to_thread(put, url, b"late"))[0] == 404
            assert await read_all(store, key) == found


# On a real server: whole objects


@pytest.mark.parametrize("changes", [{}, {"sse": "AES256", "storage_class": "STANDARD_IA"}, {"checksum": "sha256"}])
async def test_a_checked_put_takes_those_bytes_once(start: Start, changes: dict[str, str]) -> None:
    store = await start(**changes)
    body, other = os.urandom(70_000), os.urandom(70_000)
    signed = await store.presign_put(KEY, size=len(body), sha256=hashlib.sha256(body).digest(), expires=60)
    assert (await asyncio.to_thread(put, signed.url, other, signed.headers))[0] == 400
    with pytest.raises(NotFound):
        await store.head(KEY)
    assert (await asyncio.to_thread(put, signed.url, body, signed.headers))[0] == 200
    for again in (body, other):
        assert (await asyncio.to_thread(put, signed.url, again, signed.headers))[0] == 412
    found = await store.get(KEY)
    assert found.body == body
    assert found.info.content_type == "application/octet-stream"


async def test_a_checked_put_needs_each_of_its_headers(store: S3Store) -> None:
    body = b"the body"
    signed = await store.presign_put(KEY, size=len(body), sha256=hashlib.sha256(body).digest(), expires=60)
    other = b"The Body"
    changed = [
        (other, {**signed.headers, "x-amz-checksum-sha256": b64encode(hashlib.sha256(other).digest()).decode()}),
        (body, {**signed.headers, "if-none-match": '"x"'}),
        (body[:-1], {**signed.headers, "content-length": str(len(body) - 1)}),
    ]
    for name in ("x-amz-checksum-sha256", "if-none-match"):
        changed.append((body, {key: value for key, value in signed.headers.items() if key != name}))
    for sent, headers in changed:
        assert (await asyncio.to_thread(put, signed.url, sent, headers))[0] == 403
    with pytest.raises(NotFound):
        await store.head(KEY)


async def test_of_racing_checked_puts_one_wins(store: S3Store) -> None:
    body = os.urandom(1000)
    signed = await store.presign_put(KEY, size=1000, sha256=hashlib.sha256(body).digest(), expires=60)
    answers = await asyncio.gather(*(asyncio.to_thread(put, signed.url, body, signed.headers) for _ in range(6)))
    assert sorted(status for status, _ in answers) == [200] + [412] * 5
    assert (await store.get(KEY)).body == body


async def test_an_empty_object_can_be_put(store: S3Store) -> None:
    signed = await store.presign_put(KEY, size=0, sha256=hashlib.sha256(b"").digest(), expires=60)
    assert (await asyncio.to_thread(put, signed.url, b"", signed.headers))[0] == 200
    assert (await store.get(KEY)).body == b""
