"""Another program's tree in a real bucket: its content types, etags, uploads, and names that no key has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from tests.store.helpers import keys_of, read_all
from tests.store.s3.fake import FakeS3, answers, document
from tests.store.s3.test_seaweed import fetch
from tests.store.seaweed import Seaweed

from bucketry.store.contract import FOREIGN_PREFIX, MIN_PART, OCTET_STREAM
from bucketry.store.s3 import S3Settings, S3Store

DATA = f"{FOREIGN_PREFIX}blobs/sha256/ab/{'ab' * 32}/data"


@pytest.fixture
def theirs(seaweed: Seaweed) -> Iterator[Any]:
    """The other program's client."""
    client = seaweed.client()
    yield client
    client.close()


def at(settings: S3Settings, key: str) -> dict[str, str]:
    return {"Bucket": settings.bucket, "Key": settings.root + key}


async def test_a_blob_that_came_in_parts_is_one_object(settings: S3Settings, store: S3Store, theirs: Any) -> None:
    parts = [b"1" * MIN_PART, b"2" * MIN_PART, b"3"]
    where = at(settings, DATA)
    upload_id = theirs.create_multipart_upload(ContentType="text/html", **where)["UploadId"]
    etags = [
        theirs.upload_part(PartNumber=number, UploadId=upload_id, Body=body, **where)["ETag"]
        for number, body in enumerate(parts, 1)
    ]
    theirs.complete_multipart_upload(
        UploadId=upload_id,
        MultipartUpload={"Parts": [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]},
        **where,
    )

    info = await store.head(DATA)

    assert (info.size, info.content_type, info.metadata) == (2 * MIN_PART + 1, "text/html", {})
    assert info.etag.endswith("-3")
    [listed] = (await store.list(FOREIGN_PREFIX)).objects
    assert (listed.key, listed.size, listed.etag) == (DATA, info.size, info.etag)
    assert await read_all(store, DATA, MIN_PART - 1, MIN_PART + 1) == b"12"
    assert await read_all(store, DATA) == b"".join(parts)
    url = await store.presign_get(DATA, expires=60, response_headers={"content-type": OCTET_STREAM})
    status, body, headers = fetch(url, {"Range": f"bytes={2 * MIN_PART - 1}-"})
    assert (status, body, headers["content-type"]) == (206, b"23", OCTET_STREAM)


async def test_their_uploads_are_not_told(settings: S3Settings, store: S3Store, theirs: Any) -> None:
    where = at(settings, DATA)
    upload_id = theirs.create_multipart_upload(**where)["UploadId"]
    own = await store.create_multipart("data/7f/x", part_size=MIN_PART)
    assert [(pending.key, pending.upload_id) for pending in await store.list_multiparts()] == [("data/7f/x", own)]
    await store.abort_multipart("data/7f/x", own)
    assert "ETag" in theirs.upload_part(PartNumber=1, UploadId=upload_id, Body=b"goes on", **where)
    theirs.abort_multipart_upload(UploadId=upload_id, **where)


def uploads_page(key: str, *, more: bool) -> web.Response:
    return document(
        f"<ListMultipartUploadsResult><IsTruncated>{str(more).lower()}</IsTruncated>"
        f"<Upload><Key>{key}</Key><UploadId>1</UploadId><Initiated>2026-11-24T07:00:00Z</Initiated></Upload>"
        "</ListMultipartUploadsResult>"
    )


async def test_their_uploads_are_not_told_by_a_store_that_ignores_prefixes(fake: FakeS3) -> None:
    store = await fake.started(prefix="p")
    fake.script.append(answers(lambda: uploads_page(f"p/{DATA}", more=True)))
    fake.script.append(answers(lambda: uploads_page("p/data/7f/x", more=False)))
    assert [pending.key for pending in await store.list_multiparts()] == ["data/7f/x"]


async def test_names_that_no_key_has_are_not_listed(settings: S3Settings, store: S3Store, theirs: Any) -> None:
    keys = [f"{FOREIGN_PREFIX}repositories/{name}" for name in ("a/link", "m/link", "z/link")]
    for key in keys:
        theirs.put_object(Body=b"x", **at(settings, key))
    for index in range(5):
        for name in ("a a", "b+", "ü", "m(1)", "~%41"):
            theirs.put_object(Body=b"x", **at(settings, f"{FOREIGN_PREFIX}repositories/{name}/{index}"))
    for prefix in ("", "docker/", FOREIGN_PREFIX):
        for limit in (1, 2, 1000):
            assert await keys_of(store, prefix, limit=limit) == keys
