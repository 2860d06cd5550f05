"""Sites in a bucket: where the service misbehaves (a scripted one), and what only a bucket has (a real one)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.store.rclone import run_rclone
from tests.store.s3.fake import (
    BUCKET,
    Act,
    Asked,
    FakeS3,
    etag_of,
    fails_after,
    first,
    loses_answer,
    says,
)
from tests.store.seaweed import Seaweed

from bucketry.store.contract import (
    IF_ABSENT,
    AccessDenied,
    BucketMissing,
    Condition,
    IfMatch,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from bucketry.store.s3 import S3Settings
from bucketry.store.s3.site import LARGE, S3Site
from bucketry.store.site import Served

TAG = Served("application/vnd.oci.image.index.v1+json", "public, max-age=60")
SOURCE = "v2/a/blobs/sha256:00"
TARGET = "v2/b/blobs/sha256:00"
MIB = 1024 * 1024

OpenSite = Callable[..., Awaitable[S3Site]]


def puts(key: str, body: bytes) -> Callable[[FakeS3], None]:
    def do(server: FakeS3) -> None:
        server.objects[key] = (body, {})

    return do


def etag(body: bytes) -> str:
    return etag_of(body).strip('"')


# Writing


async def test_paths_are_encoded_once_and_headers_go_with_the_file(fake: FakeS3) -> None:
    site = await fake.started_site(prefix="pre/fix", sse="aws:kms", sse_kms_key_id="key", storage_class="STANDARD_IA")
    await site.put("v2/a~b/manifests/sha256:0@x", b"{}", served=TAG)
    (asked,) = fake.asked
    assert asked.target == "/bucket/pre/fix/v2/a~b/manifests/sha256%3A0%40x"
    assert asked.headers["content-type"] == TAG.content_type
    assert asked.headers["cache-control"] == TAG.cache_control
    assert asked.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert asked.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key"
    assert "content-md5" in asked.headers
    assert "x-amz-storage-class" not in asked.headers, "manifests are small and read often"
    assert site.address("a:b") == f"{fake.endpoint}/bucket/pre/fix/a%3Ab"


async def test_a_large_file_gets_the_storage_class(fake: FakeS3) -> None:
    site = await fake.started_site(storage_class="STANDARD_IA")
    await site.put("a", bytes(LARGE), served=TAG)
    upload = await site.begin("b", size=LARGE, served=TAG)
    await upload.abort()
    assert await site.copy("a", "c", size=LARGE, served=TAG)
    for asked in fake.asked:
        wanted = "STANDARD_IA" if asked.method in ("PUT", "POST") else None
        assert asked.headers.get("x-amz-storage-class") == wanted


@pytest.mark.parametrize("checksum", ["crc32", "sha256"])
async def test_parts_go_with_the_checksum_of_the_settings(fake: FakeS3, checksum: Any) -> None:
    site = await fake.started_site(checksum=checksum)
    upload = await site.begin("a", size=6, served=TAG, part_size=4)
    await upload.put(2, b"56")
    await upload.put(1, b"1234")
    await upload.complete()
    begun, *parts, completed = fake.asked
    assert begun.headers["x-amz-checksum-algorithm"] == checksum.upper()
    assert all(f"x-amz-checksum-{checksum}" in part.headers for part in parts)
    assert completed.body.count(f"<Checksum{checksum.upper()}>".encode()) == 2
    assert fake.objects["a"] == (b"123456", {"content-type": TAG.content_type, "cache-control": TAG.cache_control})


@pytest.mark.parametrize("condition", [IF_ABSENT, IfMatch(etag(b"old"))], ids=["if-absent", "if-match"])
@pytest.mark.parametrize("lost", [loses_answer(), fails_after(500, "InternalError")])
async def test_a_lost_answer_is_settled_by_reading_back(fake: FakeS3, condition: Condition, lost: Act) -> None:
    site = await fake.started_site()
    if condition is not IF_ABSENT:
        fake.objects["a"] = (b"old", {})
    fake.script.append(lost)
    assert await site.put("a", b"ours, with a nonce", served=TAG, condition=condition) == etag(b"ours, with a nonce")
    assert fake.methods() == ["PUT", "PUT", "GET"]


async def test_what_cannot_be_settled_is_said_to_be_open(fake: FakeS3) -> None:
    site = await fake.started_site()
    fake.script.append(loses_answer(puts("a", b"theirs")))
    with pytest.raises(Unavailable, match="may or may not have happened"):
        await site.put("a", b"ours", served=TAG, condition=IF_ABSENT)


async def test_a_completion_whose_answer_was_lost_counts(fake: FakeS3) -> None:
    site = await fake.started_site()
    upload = await site.begin("a", size=3, served=TAG)
    await upload.put(1, b"123")
    fake.script.append(loses_answer())
    await upload.complete()
    assert fake.objects["a"][0] == b"123"


# Services that do not heed conditions


async def test_that_conditions_are_heeded_is_found_out_once(fake: FakeS3) -> None:
    site = await fake.started_site(conditional=None)
    await site.put("a", b"1", served=TAG)
    assert fake.methods() == ["PUT"], "nobody asked for a condition yet"
    await asyncio.gather(*(site.put(f"b{index}", b"2", served=TAG, condition=IF_ABSENT) for index in range(3)))
    probes = [asked for asked in fake.asked if "/.bucketry-probe-" in asked.path]
    assert [asked.method for asked in probes] == ["PUT", "PUT", "PUT", "DELETE"]
    assert site.conditional
    assert sorted(fake.objects) == ["a", "b0", "b1", "b2"]


@pytest.mark.parametrize("ignored", ["if-match", "if-none-match"])
async def test_without_conditions_they_are_checked_before_the_write(fake: FakeS3, ignored: str) -> None:
    site = await fake.started_site(conditional=None)
    ignore = ignores(ignored)
    fake.script.extend([ignore] * 20)
    one = await site.put("a", b"1", served=TAG, condition=IF_ABSENT)
    assert not site.conditional
    with pytest.raises(PreconditionFailed):
        await site.put("a", b"2", served=TAG, condition=IF_ABSENT)
    with pytest.raises(PreconditionFailed):
        await site.put("a", b"2", served=TAG, condition=IfMatch("x"))
    with pytest.raises(PreconditionFailed):
        await site.put("b", b"2", served=TAG, condition=IfMatch(one))
    await site.put("a", b"3", served=TAG, condition=IfMatch(one))
    assert {key: body for key, (body, _) in fake.objects.items()} == {"a": b"3"}


async def test_a_service_that_refuses_conditions_has_none(fake: FakeS3) -> None:
    site = await fake.started_site(conditional=None)
    fake.script.append(says(501, "NotImplemented"))
    await site.put("a", b"1", served=TAG, condition=IF_ABSENT)
    assert not site.conditional


async def test_who_may_not_write_finds_out_nothing(fake: FakeS3) -> None:
    site = await fake.started_site(conditional=None)
    fake.script.append(says(403, "AccessDenied"))
    with pytest.raises(AccessDenied):
        await site.put("a", b"1", served=TAG, condition=IF_ABSENT)
    await site.put("a", b"1", served=TAG, condition=IF_ABSENT)
    assert site.conditional


async def test_a_probe_is_no_file_of_the_site(fake: FakeS3) -> None:
    site = await fake.started_site()
    for key in (".bucketry-probe-1", "a/.bucketry-x", "a/b", "somebody else's", "folder/"):
        fake.objects[key] = (b"x", {})
    assert [file.path async for file in site.list("")] == ["a/b", "somebody else's"]


# Copies


async def test_a_copy_names_its_source_and_its_own_headers(fake: FakeS3) -> None:
    site = await fake.started_site(prefix="p")
    store = await fake.started(prefix="s")
    fake.objects["s/data/7f/x"] = (b"12345", {"content-type": "x/y"})
    assert await site.copy_from(store, "data/7f/x", TARGET, size=5, served=TAG)
    assert fake.objects[f"p/{TARGET}"] == (b"12345", served_headers(TAG))
    assert await site.copy(TARGET, "v2/c:d", size=5, served=TAG)
    head, copied, _, again = fake.asked
    assert (head.method, head.path) == ("HEAD", "/bucket/s/data/7f/x")
    assert copied.headers["x-amz-copy-source"] == f"{BUCKET}/s/data/7f/x"
    assert copied.headers["x-amz-copy-source-if-match"] == etag_of(b"12345")
    assert copied.headers["x-amz-metadata-directive"] == "REPLACE"
    assert again.headers["x-amz-copy-source"] == f"{BUCKET}/p/v2/b/blobs/sha256%3A00"
    assert "x-amz-copy-source" in signed_headers(again)


async def test_above_the_limit_a_copy_is_made_of_ranges(fake: FakeS3) -> None:
    body = os.urandom(11 * MIB + 3)
    fake.objects[SOURCE] = (body, {})
    site = await fake.started_site(copy_limit=len(body) - 1, copy_part=5 * MIB)
    assert await site.copy(SOURCE, TARGET, size=len(body), served=TAG)
    assert fake.objects[TARGET] == (body, served_headers(TAG))
    ranges = [asked.headers["x-amz-copy-source-range"] for asked in fake.asked if asked.method == "PUT"]
    end = len(body) - 1
    assert sorted(ranges) == [f"bytes=0-{5 * MIB - 1}", f"bytes={10 * MIB}-{end}", f"bytes={5 * MIB}-{10 * MIB - 1}"]
    assert all(
        asked.headers["x-amz-copy-source-if-match"] == etag_of(body) for asked in fake.asked if asked.method == "PUT"
    )
    exactly = await fake.started_site(copy_limit=len(body), copy_part=5 * MIB)
    assert await exactly.copy(SOURCE, TARGET, size=len(body), served=TAG)
    assert fake.methods() == ["HEAD", "PUT"]


@pytest.mark.parametrize("limit", [2**40, 1], ids=["whole", "in parts"])
async def test_an_error_behind_the_head_of_a_success_is_an_error(fake: FakeS3, limit: int) -> None:
    fake.objects[SOURCE] = (b"12345", {})
    site = await fake.started_site(copy_limit=limit)
    fake.script.extend([None] * (1 if limit > 5 else 2))
    fake.script.extend([says(200, "InternalError")] * 2)
    assert await site.copy(SOURCE, TARGET, size=5, served=TAG)
    assert len(fake.slept) == 2, "it was tried again"
    fake.script.extend([None] * (1 if limit > 5 else 2))
    fake.script.extend([says(200, "InternalError")] * 4)
    with pytest.raises(Unavailable):
        await site.copy(SOURCE, "other", size=5, served=TAG)
    assert "other" not in fake.objects
    assert fake.uploads == {}


async def test_an_answer_may_take_its_time_with_blanks(fake: FakeS3) -> None:
    fake.objects[SOURCE] = (b"12345", {})
    site = await fake.started_site(read_timeout=0.4)
    fake.script.extend([None, blanks_first(6, 0.15)])
    started = time.monotonic()
    assert await site.copy(SOURCE, TARGET, size=5, served=TAG)
    assert time.monotonic() - started > 0.4, "longer than it may be silent"
    assert fake.methods() == ["HEAD", "PUT"]


@pytest.mark.parametrize("limit", [2**40, 1], ids=["whole", "in parts"])
@pytest.mark.parametrize(
    "refused", [says(403, "AccessDenied"), says(501, "NotImplemented"), says(400, "InvalidRequest")]
)
async def test_a_copy_that_is_refused_says_why_and_is_not_asked_for_again(
    fake: FakeS3, refused: Act, limit: int
) -> None:
    site = await fake.started_site(copy_limit=limit)
    store = await fake.started()
    fake.objects["data/x"] = (b"12345", {})
    fake.script.extend([None, refused] if limit > 5 else [None, None, refused])
    assert not await site.copy_from(store, "data/x", TARGET, size=5, served=TAG)
    assert site.refusal is not None
    assert "said the store" in site.refusal
    assert fake.uploads == {}, "nothing is left behind"
    fake.asked.clear()
    assert not await site.copy_from(store, "data/x", TARGET, size=5, served=TAG)
    assert fake.asked == []
    assert TARGET not in fake.objects


@pytest.mark.parametrize("limit", [2**40, 1], ids=["whole", "in parts"])
async def test_a_source_that_changes_or_goes_meanwhile_is_not_copied(fake: FakeS3, limit: int) -> None:
    site = await fake.started_site(copy_limit=limit)
    for do in (puts(SOURCE, b"54321"), lambda server: server.objects.pop(SOURCE)):
        fake.objects[SOURCE] = (b"12345", {})
        fake.script.extend([None, first(do)])
        assert not await site.copy(SOURCE, TARGET, size=5, served=TAG)
        assert TARGET not in fake.objects
        assert fake.uploads == {}
    assert site.refusal is None


async def test_a_copy_whose_answer_was_lost_is_made_again(fake: FakeS3) -> None:
    fake.objects[SOURCE] = (b"12345", {})
    site = await fake.started_site()
    fake.script.extend([None, loses_answer()])
    assert await site.copy(SOURCE, TARGET, size=5, served=TAG)


async def test_a_cancelled_copy_leaves_no_upload(fake: FakeS3) -> None:
    body = bytes(11 * MIB)
    fake.objects[SOURCE] = (body, {})
    site = await fake.started_site(copy_limit=1, copy_part=5 * MIB)
    reached = asyncio.Event()

    async def hangs(server: FakeS3, asked: Asked) -> None:
        reached.set()
        await asyncio.sleep(1)

    fake.script.extend([None, None, None, hangs, None])
    task = asyncio.create_task(site.copy(SOURCE, TARGET, size=len(body), served=TAG))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fake.uploads == {}


async def test_a_missing_bucket_is_told(fake: FakeS3) -> None:
    site = await fake.started_site()
    fake.objects[SOURCE] = (b"12345", {})
    fake.script.extend([None, says(404, "NoSuchBucket")])
    with pytest.raises(BucketMissing):
        await site.copy(SOURCE, TARGET, size=5, served=TAG)


async def test_a_store_of_another_endpoint_is_not_asked(fake: FakeS3) -> None:
    site = await fake.started_site()
    elsewhere = FakeS3()
    await elsewhere.start()
    try:
        store = await elsewhere.started()
        elsewhere.objects["data/x"] = (b"12345", {})
        assert not await site.copy_from(store, "data/x", TARGET, size=5, served=TAG)
        assert elsewhere.asked == fake.asked == []
    finally:
        await elsewhere.close()


# Who may read


@pytest.mark.parametrize(
    ("answer", "public"),
    [(None, True), (says(416, "InvalidRange"), True), (says(403, "AccessDenied"), False), (says(401, "X"), False)],
)
async def test_whether_anyone_may_read_is_asked_without_a_signature(
    fake: FakeS3, answer: Act | None, public: bool
) -> None:
    site = await fake.started_site()
    fake.objects[SOURCE] = (b"12345", {})
    fake.script.append(answer)
    assert await site.is_public(SOURCE) is public
    (asked,) = fake.asked
    assert "authorization" not in asked.headers
    assert asked.target == site.address(SOURCE).removeprefix(fake.endpoint)


async def test_what_is_missing_is_neither_public_nor_private(fake: FakeS3) -> None:
    site = await fake.started_site()
    with pytest.raises(NotFound):
        await site.is_public(SOURCE)


async def test_the_address_is_the_public_endpoints(fake: FakeS3) -> None:
    site = await fake.started_site(public_endpoint="https://s3.example", addressing="path")
    assert site.address(SOURCE) == "https://s3.example/bucket/v2/a/blobs/sha256%3A00"


async def test_who_may_read_but_not_list_can_start_without_credentials(fake: FakeS3) -> None:
    fake.objects[SOURCE] = (b"12345", {})
    for anonymous in (True, False):
        site = S3Site(fake.settings(anonymous=True, access_key=None, secret_key=None) if anonymous else fake.settings())
        fake.script.append(says(403, "AccessDenied"))
        if not anonymous:
            with pytest.raises(AccessDenied):
                await site.start()
            continue
        await site.start()
        try:
            assert (await site.get(SOURCE)).body == b"12345"
        finally:
            await site.close()


# A real one


@pytest.fixture
async def open_site(seaweed: Seaweed, settings: S3Settings) -> AsyncIterator[OpenSite]:
    sites: list[S3Site] = []

    async def open_site(**changes: Any) -> S3Site:
        sites.append(S3Site(seaweed.settings(settings.prefix, **changes.pop("settings", {})), **changes))
        await sites[-1].start()
        return sites[-1]

    yield open_site
    for site in sites:
        await site.close()


async def test_anyone_gets_the_headers_that_were_put(
    seaweed: Seaweed, settings: S3Settings, open_site: OpenSite
) -> None:
    site = await open_site(min_part=5 * MIB)
    body = b"{}"
    blob = Served("application/octet-stream", "public, max-age=31536000, immutable")
    await site.put("v2/a/manifests/t", body, served=TAG)
    upload = await site.begin("v2/a/blobs/sha256:0", size=2, served=blob)
    await upload.put(1, body)
    await upload.complete()
    assert await site.copy("v2/a/blobs/sha256:0", "v2/b/blobs/sha256:0", size=2, served=blob)
    assert not await site.is_public("v2/a/manifests/t")
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{seaweed.bucket}/{settings.prefix}/*",
    }
    client = seaweed.client()
    try:
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        client.put_bucket_policy(Bucket=seaweed.bucket, Policy=policy)
        try:
            assert await site.is_public("v2/a/manifests/t")
            for path, served in (
                ("v2/a/manifests/t", TAG),
                ("v2/a/blobs/sha256:0", blob),
                ("v2/b/blobs/sha256:0", blob),
            ):
                status, headers, got = await asyncio.to_thread(fetch, site.address(path))
                assert (status, got) == (200, body)
                assert (headers["content-type"], headers["cache-control"]) == (
                    served.content_type,
                    served.cache_control,
                )
        finally:
            client.delete_bucket_policy(Bucket=seaweed.bucket)
    finally:
        client.close()


async def test_a_large_copy_is_made_of_ranges_by_the_service(open_site: OpenSite) -> None:
    site = await open_site(min_part=5 * MIB, copy_limit=6 * MIB, copy_part=5 * MIB)
    body = os.urandom(11 * MIB + 5)
    upload = await site.begin(SOURCE, size=len(body), served=Served(), part_size=5 * MIB)
    await asyncio.gather(
        *(upload.put(n + 1, body[n * 5 * MIB : (n + 1) * 5 * MIB]) for n in range(3)),
    )
    await upload.complete()
    assert await site.copy(SOURCE, TARGET, size=len(body), served=TAG)
    content = await site.get(TARGET, limit=2**30)
    assert content.body == body
    assert content.file.served == TAG


async def test_a_bucket_that_the_credentials_may_not_write_is_told(seaweed: Seaweed, open_site: OpenSite) -> None:
    site = await open_site()
    await site.put(SOURCE, b"12345", served=TAG)
    reader = await open_site(
        settings={"access_key": seaweed.reader_access_key, "secret_key": seaweed.reader_secret_key}
    )
    assert not await reader.copy(SOURCE, TARGET, size=5, served=TAG)
    assert reader.refusal is not None
    assert "AccessDenied" in reader.refusal
    with pytest.raises(AccessDenied):
        await reader.put(TARGET, b"x", served=TAG)


async def test_a_server_without_conditions_is_checked_before_the_write(tmp_path: Path) -> None:
    with run_rclone(tmp_path) as server:
        settings = S3Settings(
            bucket=server.bucket,
            endpoint=server.endpoint,
            region="us-east-1",
            access_key=server.access_key,
            secret_key=server.secret_key,
        )
        site = S3Site(settings)
        await site.start()
        try:
            etag = await site.put("a/b", b"1", served=TAG, condition=IF_ABSENT)
            assert not site.conditional
            for condition in (IF_ABSENT, IfMatch("0" * 32)):
                with pytest.raises(PreconditionFailed):
                    await site.put("a/b", b"2", served=TAG, condition=condition)
            await site.put("a/b", b"3", served=TAG, condition=IfMatch(etag))
            assert (await site.get("a/b")).body == b"3"
            assert [file.path async for file in site.list("")] == ["a/b"]
        finally:
            await site.close()


# Helpers


def served_headers(served: Served) -> dict[str, str | None]:
    return {"content-type": served.content_type, "cache-control": served.cache_control}


def signed_headers(asked: Asked) -> list[str]:
    found = re.search(r"SignedHeaders=([^,]+)", asked.headers["authorization"])
    assert found is not None
    return found[1].split(";")


def ignores(header: str) -> Act:
    """Answers as if the header had not come."""

    async def act(server: FakeS3, asked: Asked) -> web.StreamResponse:
        asked.headers.pop(header, None)
        return server.answer(asked)

    return act


def blanks_first(count: int, seconds: float) -> Act:
    """The head comes at once, then so many blanks, and the answer behind them."""

    async def act(server: FakeS3, asked: Asked) -> web.StreamResponse:
        usual = server.answer(asked)
        assert isinstance(usual, web.Response)
        assert isinstance(usual.body, bytes)
        answer = web.StreamResponse(headers={"Content-Type": "application/xml"})
        await answer.prepare(asked.request)
        for _ in range(count):
            await answer.write(b" ")
            await asyncio.sleep(seconds)
        await answer.write(usual.body)
        return answer

    return act


def fetch(url: str) -> tuple[int, Any, bytes]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.status, answer.headers, answer.read()
