"""What a real S3 server makes of it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
import urllib.error
import urllib.request

import pytest
from tests.store.helpers import bounded, keys_of, read_all
from tests.store.s3.conftest import Start
from tests.store.seaweed import Seaweed

from bucketry.store.contract import (
    IF_ABSENT,
    MIN_PART,
    AccessDenied,
    BucketMissing,
    Condition,
    Corrupt,
    IfMatch,
    NotFound,
    Part,
    PreconditionFailed,
    Unsupported,
)
from bucketry.store.s3 import S3Settings, S3Store

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def fetch(url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, dict[str, str]]:
    """A plain client, which knows no S3."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=10) as answer:
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        return error.code, error.read(), {}


async def test_one_of_many_racing_writers_wins(store: S3Store) -> None:
    async def write(index: int, condition: Condition) -> bool:
        try:
            await store.put("k", f"writer {index} under {condition}".encode(), condition=condition)
        except PreconditionFailed:
            return False
        return True

    assert sum(await asyncio.gather(*(write(index, IF_ABSENT) for index in range(8)))) == 1
    etag = (await store.head("k")).etag
    assert sum(await asyncio.gather(*(write(index, IfMatch(etag)) for index in range(8)))) == 1


async def test_an_etag_is_that_of_the_body_so_equal_bodies_have_equal_ones(store: S3Store) -> None:
    """Which is why callers make the bodies of conditional writes unique."""
    first = await store.put("k", b"same")
    await store.put("k", b"other")
    assert await store.put("k", b"same", metadata={"but": "other metadata"}) == first


async def test_parts_out_of_order_with_gaps_and_a_second_completion(store: S3Store) -> None:
    body = os.urandom(2 * MIN_PART + 77)
    upload_id = await store.create_multipart("data/x", part_size=MIN_PART)
    numbers = {9: body[2 * MIN_PART :], 2: body[:MIN_PART], 5: body[MIN_PART : 2 * MIN_PART]}
    etags = {
        number: await store.put_part("data/x", upload_id, number, memoryview(part), offset=0)
        for number, part in numbers.items()
    }
    parts = [Part(number, len(numbers[number]), etags[number]) for number in sorted(numbers)]
    await store.complete_multipart("data/x", upload_id, parts)
    await store.complete_multipart("data/x", upload_id, parts)
    digest = hashlib.sha256()
    async for piece in store.read("data/x"):
        digest.update(piece)
    assert digest.digest() == hashlib.sha256(body).digest()
    assert await read_all(store, "data/x", MIN_PART - 5, 2 * MIN_PART + 5) == body[MIN_PART - 5 : 2 * MIN_PART + 5]


async def test_the_old_etag_of_an_overwritten_part_is_accepted(store: S3Store) -> None:
    """AWS refuses it. Here both versions of the part are kept, and the one that is named is taken: so the bytes are
    those of the etag, but nothing may rely on either. A part number is written by one try only."""
    upload_id = await store.create_multipart("data/x", part_size=MIN_PART)
    stale = await store.put_part("data/x", upload_id, 1, b"old", offset=0)
    await store.put_part("data/x", upload_id, 1, b"new", offset=0)
    await store.complete_multipart("data/x", upload_id, [Part(1, 3, stale)])
    assert (await store.get("data/x")).body in (b"old", b"new")


@pytest.mark.parametrize("checksum", ["none", "md5", "crc32", "sha256"])
@pytest.mark.parametrize("sign_payload", [False, True])
async def test_every_checksum_is_taken(start: Start, checksum: str, sign_payload: bool) -> None:
    store = await start(checksum=checksum, sign_payload=sign_payload)
    body = os.urandom(300_000)
    await store.put("a", body)
    await store.put("data/a", body)
    upload_id = await store.create_multipart("data/x", part_size=MIN_PART)
    etag = await store.put_part("data/x", upload_id, 3, body, offset=0)
    await store.complete_multipart("data/x", upload_id, [Part(3, len(body), etag)])
    for key in ("a", "data/a", "data/x"):
        assert await read_all(store, key) == body


@pytest.mark.parametrize("checksum", ["md5", "sha256"])
async def test_a_body_that_does_not_match_its_checksum_is_refused(
    start: Start, checksum: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wrong(kind: str, body: bytes) -> str:
        return {"md5": "AAAAAAAAAAAAAAAAAAAAAA==", "sha256": "A" * 43 + "="}[kind]

    monkeypatch.setattr("bucketry.store.s3.bucket.checksum", wrong)
    store = await start(checksum=checksum, retries=1)
    with pytest.raises(Corrupt, match="changed on their way"):
        await store.put("data/a", b"body")
    with pytest.raises(NotFound):
        await store.head("data/a")


async def test_encryption_and_storage_class_are_taken(start: Start) -> None:
    store = await start(sse="AES256", storage_class="STANDARD_IA")
    await store.put("a", b"body")
    await store.put("data/a", b"body")
    assert [(await store.get(key)).body for key in ("a", "data/a")] == [b"body", b"body"]


async def test_metadata_and_content_type_are_kept(store: S3Store) -> None:
    metadata = {"digest": "sha256:" + "0" * 64, "two-words": "a  b", "all": "".join(map(chr, range(0x21, 0x7F)))}
    await store.put("m", b"{}", content_type=MANIFEST, metadata=metadata)
    info = await store.head("m")
    assert (info.content_type, info.metadata) == (MANIFEST, metadata)
    assert abs(info.modified - time.time()) < 5


async def test_a_plain_client_fetches_by_a_presigned_url(store: S3Store, seaweed: Seaweed) -> None:
    body = os.urandom(100_000)
    await store.put("data/x", body)
    headers = {"content-type": "application/x-test", "cache-control": "max-age=31536000, immutable"}
    url = await store.presign_get("data/x", expires=60, response_headers=headers)
    assert url.startswith(f"{seaweed.endpoint}/{seaweed.bucket}/")
    status, found, said = await asyncio.to_thread(fetch, url)
    assert (status, found) == (200, body)
    assert said["content-type"] == "application/x-test"
    assert said["cache-control"] == "max-age=31536000, immutable"
    status, found, said = await asyncio.to_thread(fetch, url, {"Range": "bytes=10-19"})
    assert (status, found, said["content-range"]) == (206, body[10:20], "bytes 10-19/100000")
    status, found, _ = await asyncio.to_thread(fetch, url, {"Range": "bytes=99990-"})
    assert (status, found) == (206, body[99_990:])
    for forged in (url.replace("data/x", "data/y"), url.replace("application%2Fx-test", "text%2Fhtml"), url[:-1]):
        assert (await asyncio.to_thread(fetch, forged))[0] == 403


async def test_a_presigned_url_ends(start: Start) -> None:
    store = await start(clock=lambda: time.time() - 120)
    await store.put("data/x", b"x")
    assert (await asyncio.to_thread(fetch, await store.presign_get("data/x", expires=60)))[0] == 403
    assert (await asyncio.to_thread(fetch, await store.presign_get("data/x", expires=600)))[0] == 200


async def test_many_urls_a_second_are_presigned(store: S3Store) -> None:
    started = time.perf_counter()
    for index in range(2000):
        await store.presign_get(f"data/{index}", expires=600, response_headers={"content-type": "application/x"})
    assert 2000 / (time.perf_counter() - started) > 5000


async def test_lists_of_more_than_a_page_are_whole_and_go(store: S3Store) -> None:
    keys = [f"l/{index:05}" for index in range(1100)]
    await bounded(store.put(key, b"") for key in keys)
    assert await keys_of(store, "l/") == keys
    assert await keys_of(store, "l/", limit=333) == keys
    await store.delete_many([*keys, "l/never-was"])
    assert await keys_of(store, "l/") == []


async def test_pages_go_on_in_directory_order(store: S3Store) -> None:
    keys = ["d/a-b", "d/a/b", "d/a/c/d", "d/a.b/c", "d/a0", "d/b/~/x", "d/b~"]
    await bounded(store.put(key, b"") for key in keys)
    whole = await keys_of(store, "d/")
    assert sorted(whole) == sorted(keys)
    for limit in (1, 2, 3):
        assert await keys_of(store, "d/", limit=limit) == whole


async def test_below_an_object_a_page_may_lose_keys(store: S3Store) -> None:
    """What SeaweedFS does not keep of the contract: where one key is a folder of another, a page that ends with the
    first loses the second. No key of bucketry's format is a folder of another."""
    for key in ("o/a", "o/a/b", "o/c"):
        await store.put(key, b"")
    assert sorted(await keys_of(store, "o/")) == ["o/a", "o/a/b", "o/c"]
    by_one = await keys_of(store, "o/", limit=1)
    assert {"o/a", "o/c"} <= set(by_one)


async def test_a_folder_marker_is_no_object(store: S3Store, settings: S3Settings, seaweed: Seaweed) -> None:
    client = seaweed.client()
    client.put_object(Bucket=seaweed.bucket, Key=f"{settings.prefix}/f/", Body=b"")
    client.close()
    await store.put("f/x", b"")
    await store.put("f/y", b"")
    for limit in (1, 2, 3):
        assert await keys_of(store, "f/", limit=limit) == ["f/x", "f/y"]


async def test_stores_below_other_prefixes_see_nothing_of_each_other(start: Start, store: S3Store) -> None:
    other = await start(prefix="another/prefix")
    await store.put("a", b"one")
    upload_id = await store.create_multipart("data/x", part_size=MIN_PART)
    assert await keys_of(other, "") == []
    assert list(await other.list_multiparts()) == []
    assert [upload.upload_id for upload in await store.list_multiparts()] == [upload_id]


async def test_a_missing_bucket_is_told(seaweed: Seaweed) -> None:
    store = S3Store(seaweed.settings("", bucket="no-such-bucket"))
    with pytest.raises(BucketMissing, match=f"no bucket 'no-such-bucket' at {seaweed.endpoint}"):
        await store.start()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"secret_key": "wrong"}, "the secret key is wrong"),
        ({"access_key": "NOBODY"}, "does not know this access key"),
    ],
)
async def test_wrong_credentials_are_told(seaweed: Seaweed, changes: dict[str, str], says: str) -> None:
    with pytest.raises(AccessDenied, match=says):
        await S3Store(seaweed.settings("", **changes)).start()


@pytest.mark.parametrize(("seconds", "says"), [(3600, "ahead of"), (-3600, "behind")])
async def test_a_wrong_clock_is_told(seaweed: Seaweed, seconds: int, says: str) -> None:
    store = S3Store(seaweed.settings(""), clock=lambda: time.time() + seconds)
    with pytest.raises(AccessDenied, match=rf"(3599|3600|3601) seconds {says}"):
        await store.start()


async def test_who_may_only_read_cannot_write(seaweed: Seaweed, store: S3Store, start: Start) -> None:
    await store.put("a", b"x")
    reader = await start(access_key=seaweed.reader_access_key, secret_key=seaweed.reader_secret_key)
    assert (await reader.get("a")).body == b"x"
    assert not reader.capabilities.conditional_delete
    for call in (reader.put("b", b""), reader.delete("a"), reader.create_multipart("data/x", part_size=MIN_PART)):
        with pytest.raises(AccessDenied, match="the settings"):
            await call
    with pytest.raises(Unsupported):
        await reader.delete("a", condition=IfMatch("x"))


async def test_the_environment_is_enough(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweed.environ().items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    store = S3Store(S3Settings.from_url(f"s3://{seaweed.bucket}/from/environ"))
    await store.start()
    await store.put("a", b"x")
    assert (await store.get("a")).body == b"x"
    assert store.capabilities.conditional_delete
    await store.close()


async def test_parallel_readers_and_writers_share_few_connections(start: Start) -> None:
    store = await start(max_connections=4)
    bodies = {f"k{index}": os.urandom(20_000) for index in range(40)}
    await asyncio.gather(*(store.put(key, body) for key, body in bodies.items()))
    found = await asyncio.gather(*(store.get(key) for key in bodies))
    assert [each.body for each in found] == list(bodies.values())
