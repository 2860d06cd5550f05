"""The contract where the store, or the way to it, misbehaves. A real store is in test_seaweed and test_suite."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp import web
from tests.store.helpers import keys_of
from tests.store.s3.fake import (
    FakeS3,
    answers,
    document,
    etag_of,
    fails_after,
    fault,
    first,
    loses_answer,
    loses_request,
    says,
)

from bucketry.store.contract import (
    IF_ABSENT,
    MIN_PART,
    AccessDenied,
    BucketMissing,
    Condition,
    Corrupt,
    IfMatch,
    InvalidPart,
    NotFound,
    Part,
    PreconditionFailed,
    StoreError,
    StoreFull,
    Unavailable,
    Unsupported,
    UploadNotFound,
)
from bucketry.store.s3 import S3Store

KEY = "data/7f/x"


def puts(key: str, body: bytes) -> Callable[[FakeS3], None]:
    def do(server: FakeS3) -> None:
        server.objects[key] = (body, {})

    return do


def removes(key: str) -> Callable[[FakeS3], None]:
    def do(server: FakeS3) -> None:
        server.objects.pop(key, None)

    return do


def etag(body: bytes) -> str:
    return etag_of(body).strip('"')


# Conditional writes whose answer was lost


@pytest.mark.parametrize("condition", [IF_ABSENT, IfMatch(etag(b"old"))], ids=["if-absent", "if-match"])
@pytest.mark.parametrize("lost", [loses_answer(), fails_after(500, "InternalError"), fails_after(503, "SlowDown")])
async def test_a_lost_answer_is_settled_by_reading_back(fake: FakeS3, condition: Condition, lost: object) -> None:
    store = await fake.started()
    if condition is not IF_ABSENT:
        fake.objects["a"] = (b"old", {})
    fake.script.append(lost)  # type: ignore[arg-type]
    assert await store.put("a", b"ours, with a nonce", condition=condition) == etag(b"ours, with a nonce")
    assert fake.methods() == ["PUT", "PUT", "GET"]
    assert fake.observer.outcomes("put") == ["unavailable", "preconditionfailed"]


async def test_aws_says_404_where_the_object_of_an_if_match_went(fake: FakeS3) -> None:
    store = await fake.started()
    with pytest.raises(PreconditionFailed):
        await store.put("a", b"new", condition=IfMatch("x"))
    with pytest.raises(PreconditionFailed):
        await store.delete("a", condition=IfMatch("x"))


@pytest.mark.parametrize("other", [b"theirs", b"ours!"], ids=["theirs", "longer"])
async def test_without_a_lost_answer_a_refusal_is_a_refusal(fake: FakeS3, other: bytes) -> None:
    store = await fake.started()
    fake.objects["a"] = (other, {})
    with pytest.raises(PreconditionFailed):
        await store.put("a", b"ours", condition=IF_ABSENT)
    assert fake.methods() == ["PUT"], "nothing to settle"


@pytest.mark.parametrize(
    "then",
    [puts("a", b"theirs"), puts("a", b"theirs, which is longer"), removes("a")],
    ids=["replaced", "replaced by a longer one", "removed"],
)
async def test_what_cannot_be_settled_is_said_to_be_open(fake: FakeS3, then: Callable[[FakeS3], None]) -> None:
    """Somebody may have replaced our write, or ours may never have happened: nobody can tell."""
    store = await fake.started()
    fake.objects["a"] = (b"old", {})
    fake.script.append(loses_answer(then))
    with pytest.raises(Unavailable, match="may or may not have happened"):
        await store.put("a", b"ours", condition=IfMatch(etag(b"old")))


async def test_a_request_that_never_arrived_leaves_nothing_open(fake: FakeS3) -> None:
    store = await fake.started()
    fake.script.append(loses_request())
    assert await store.put("a", b"ours", condition=IF_ABSENT) == etag(b"ours")
    fake.script.append(says(429, "TooManyRequests"))
    with pytest.raises(PreconditionFailed):
        await store.put("a", b"other", condition=IF_ABSENT)


async def test_a_conflict_of_conditional_writes_is_tried_again(fake: FakeS3) -> None:
    store = await fake.started()
    fake.script.extend([says(409, "ConditionalRequestConflict"), says(409, "OperationAborted")])
    assert await store.put("a", b"ours", condition=IF_ABSENT) == etag(b"ours")
    conflict = says(409, "ConditionalRequestConflict")
    fake.script.extend([conflict, first(puts("b", b"theirs"))])
    with pytest.raises(PreconditionFailed):
        await store.put("b", b"ours", condition=IF_ABSENT)


async def test_a_write_that_happened_counts_even_where_no_try_was_answered(fake: FakeS3) -> None:
    store = await fake.started(retries=1)
    fake.script.extend([fails_after(503, "SlowDown"), says(503, "SlowDown")])
    assert await store.put("a", b"ours", condition=IF_ABSENT) == etag(b"ours")
    fake.script.extend([says(503, "SlowDown")] * 2)
    with pytest.raises(Unavailable, match="may or may not"):
        await store.put("b", b"ours", condition=IF_ABSENT)
    fake.script.extend([says(503, "SlowDown")] * 3)
    with pytest.raises(Unavailable, match="may or may not"):
        await store.put("b", b"ours", condition=IF_ABSENT)
    assert not fake.script, "the reading back was tried once, on a store that is down"


async def test_a_settling_read_that_is_denied_is_told(fake: FakeS3) -> None:
    store = await fake.started()
    fake.script.extend([loses_answer(), None, says(403, "AccessDenied")])
    with pytest.raises(AccessDenied):
        await store.put("a", b"ours", condition=IF_ABSENT)


async def test_unconditional_writes_are_simply_repeated(fake: FakeS3) -> None:
    store = await fake.started()
    fake.script.append(loses_answer(puts("a", b"theirs")))
    await store.put("a", b"ours")
    assert fake.objects["a"][0] == b"ours"
    fake.script.append(loses_answer())
    await store.delete("a")
    assert fake.methods() == ["PUT", "PUT", "DELETE", "DELETE"]


async def test_a_lost_conditional_delete_is_open(fake: FakeS3) -> None:
    store = await fake.started()
    fake.objects["a"] = (b"old", {})
    fake.script.append(loses_answer())
    with pytest.raises(Unavailable, match="may or may not have happened"):
        await store.delete("a", condition=IfMatch(etag(b"old")))
    fake.objects["a"] = (b"old", {})
    fake.script.append(loses_request())
    await store.delete("a", condition=IfMatch(etag(b"old")))
    assert fake.objects == {}


@pytest.mark.parametrize("name", ["put", "delete", "get", "list", "abort_multipart", "put_part", "complete_multipart"])
async def test_a_missing_bucket_is_never_a_missing_object(fake: FakeS3, name: str) -> None:
    store = await fake.started()
    fake.script.append(says(404, "NoSuchBucket"))
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "put": lambda: store.put("a", b"", condition=IfMatch("x")),
        "delete": lambda: store.delete("a"),
        "get": lambda: store.get("a"),
        "list": lambda: store.list(""),
        "abort_multipart": lambda: store.abort_multipart(KEY, "x"),
        "put_part": lambda: store.put_part(KEY, "x", 1, b"", offset=0),
        "complete_multipart": lambda: store.complete_multipart(KEY, "x", [Part(1, 1, "x")]),
    }
    with pytest.raises(BucketMissing):
        await calls[name]()


# Multipart uploads


async def upload(store: S3Store, *bodies: bytes) -> tuple[str, list[Part]]:
    upload_id = await store.create_multipart(KEY, part_size=MIN_PART)
    parts = []
    for number, body in enumerate(bodies, 1):
        parts.append(Part(number, len(body), await store.put_part(KEY, upload_id, number, body, offset=0)))
    return upload_id, parts


async def test_a_completion_whose_answer_was_lost_is_found_by_its_size(fake: FakeS3) -> None:
    store = await fake.started()
    upload_id, parts = await upload(store, b"one", b"two")
    fake.asked.clear()
    fake.script.append(loses_answer())
    await store.complete_multipart(KEY, upload_id, parts)
    assert fake.methods() == ["POST", "POST", "HEAD"]
    await store.complete_multipart(KEY, upload_id, parts)
    with pytest.raises(UploadNotFound):
        await store.complete_multipart(KEY, upload_id, parts[:1])
    fake.objects.clear()
    with pytest.raises(UploadNotFound):
        await store.complete_multipart(KEY, upload_id, parts)


async def test_a_success_that_turns_out_to_be_an_error_is_one(fake: FakeS3) -> None:
    store = await fake.started()
    upload_id, parts = await upload(store, b"one")
    fake.script.append(answers(lambda: fault(200, "InternalError")))
    await store.complete_multipart(KEY, upload_id, parts)
    assert fake.observer.outcomes("complete_multipart") == ["unavailable", "ok"]
    upload_id, parts = await upload(store, b"one")
    fake.script.append(answers(lambda: fault(200, "InvalidPart")))
    with pytest.raises(InvalidPart):
        await store.complete_multipart(KEY, upload_id, parts)
    assert fake.observer.outcomes("complete_multipart")[-1] == "invalidpart"


async def test_a_completion_that_ends_in_garbage_is_asked_for_again(fake: FakeS3) -> None:
    store = await fake.started()
    upload_id, parts = await upload(store, b"one")

    async def cut(server: FakeS3, asked: object) -> web.StreamResponse:
        server.answer(server.asked[-1])
        return web.Response(body=b"<?xml version='1.0'?>\n   <CompleteMultipartUploadRes")

    fake.script.append(cut)
    await store.complete_multipart(KEY, upload_id, parts)
    assert fake.objects[KEY][0] == b"one"


async def test_parts_that_are_not_what_was_put_are_refused_here(fake: FakeS3) -> None:
    store = await fake.started()
    upload_id, parts = await upload(store, b"one")
    fake.asked.clear()
    for wrong in ([], [Part(1, 4, parts[0].etag)]):
        with pytest.raises(InvalidPart):
            await store.complete_multipart(KEY, upload_id, wrong)
    assert fake.asked == []
    for upload_id in ("", "../../x"):
        with pytest.raises(UploadNotFound):
            await store.put_part(KEY, upload_id, 1, b"", offset=0)
        with pytest.raises(UploadNotFound):
            await store.complete_multipart(KEY, upload_id, parts)
        await store.abort_multipart(KEY, upload_id)
    assert fake.asked == []


async def test_aborting_what_is_no_more_is_no_error(fake: FakeS3) -> None:
    store = await fake.started()
    upload_id, _ = await upload(store, b"one")
    fake.script.append(loses_answer())
    await store.abort_multipart(KEY, upload_id)
    await store.abort_multipart(KEY, upload_id)
    with pytest.raises(UploadNotFound):
        await store.put_part(KEY, upload_id, 2, b"x", offset=0)


async def test_an_upload_without_an_id_is_corrupt(fake: FakeS3) -> None:
    store = await fake.started(retries=0)
    fake.script.append(answers(lambda: document("<InitiateMultipartUploadResult/>")))
    with pytest.raises(Corrupt):
        await store.create_multipart(KEY, part_size=MIN_PART)


def uploads_page(*ids: str, more: str = "") -> web.Response:
    uploads = "".join(
        f"<Upload><Key>p/{KEY}</Key><UploadId>{each}</UploadId><Initiated>2026-11-24T07:00:00Z</Initiated></Upload>"
        for each in ids
    )
    truncated = "true" if more else "false"
    return document(
        f"<ListMultipartUploadsResult><IsTruncated>{truncated}</IsTruncated>{more}{uploads}</ListMultipartUploadsResult>"
    )


@pytest.mark.parametrize(
    ("more", "markers"),
    [
        (
            "<NextKeyMarker>p/data/7f/x</NextKeyMarker><NextUploadIdMarker>2</NextUploadIdMarker>",
            {"key-marker": "p/data/7f/x", "upload-id-marker": "2"},
        ),
        ("<NextUploadIdMarker>2</NextUploadIdMarker>", {"upload-id-marker": "2"}),
        ("<x/>", {"key-marker": "p/data/7f/x", "upload-id-marker": "2"}),
    ],
)
async def test_uploads_are_listed_page_by_page(fake: FakeS3, more: str, markers: dict[str, str]) -> None:
    store = await fake.started(prefix="p")
    fake.script.append(answers(lambda: uploads_page("1", "2", more=more)))
    fake.script.append(answers(lambda: uploads_page("2", "3")))
    found = await store.list_multiparts()
    assert [(each.key, each.upload_id) for each in found] == [(KEY, "1"), (KEY, "2"), (KEY, "3")]
    assert found[0].initiated == 1795503600.0
    assert fake.asked[0].query["prefix"] == "p/data/"  # Those of other programs are none of this store's.
    sent = {name: value for name, value in fake.asked[1].query.items() if name.endswith("-marker")}
    assert sent == markers


async def test_a_list_of_uploads_that_goes_in_circles_ends(fake: FakeS3) -> None:
    store = await fake.started(prefix="p")
    fake.script.extend([answers(lambda: uploads_page("1", more="<x/>"))] * 5)
    assert len(await store.list_multiparts()) == 1
    assert len(fake.asked) == 2


# Deleting many, listing


async def test_many_are_deleted_a_thousand_at_a_time(fake: FakeS3) -> None:
    store = await fake.started(prefix="p")
    keys = [f"k{index}" for index in range(2345)]
    for key in [*keys, "stays"]:
        fake.objects[f"p/{key}"] = (b"", {})
    await store.delete_many(keys)
    assert list(fake.objects) == ["p/stays"]
    assert fake.methods() == ["POST"] * 3
    for asked in fake.asked:
        assert asked.headers["content-md5"] == base64.b64encode(hashlib.md5(asked.body).digest()).decode()


async def test_where_many_cannot_be_deleted_at_once_they_go_one_by_one(fake: FakeS3) -> None:
    store = await fake.started()
    for round_ in range(2):
        keys = [f"{round_}/{index}" for index in range(40)]
        for key in keys:
            fake.objects[key] = (b"", {})
        fake.script.append(says(501, "NotImplemented") if round_ == 0 else None)
        await store.delete_many(keys)
        assert fake.objects == {}
    assert fake.methods() == ["POST"] + ["DELETE"] * 80
    fake.script.append(says(403, "AccessDenied"))
    with pytest.raises(AccessDenied):
        await store.delete_many(keys)


async def test_a_key_that_could_not_be_deleted_is_tried_again_or_told(fake: FakeS3) -> None:
    store = await fake.started()

    def result(code: str) -> web.Response:
        return document(f"<DeleteResult><Error><Key>b</Key><Code>{code}</Code></Error></DeleteResult>")

    fake.script.extend([answers(lambda: result("InternalError")), answers(lambda: result("NoSuchKey"))])
    await store.delete_many(["a", "b"])
    assert fake.observer.outcomes("delete_many") == ["unavailable", "ok"]
    fake.script.append(answers(lambda: result("AccessDenied")))
    with pytest.raises(AccessDenied, match="delete b"):
        await store.delete_many(["a", "b"])


async def test_lists_ask_below_the_prefix_and_answer_without_it(fake: FakeS3) -> None:
    store = await fake.started(prefix="p")
    for key in ("p/a/1", "p/a/2", "p/a/3", "p/ab", "a/4", "pa/5"):
        fake.objects[key] = (b"12", {})
    assert await keys_of(store, "a/", limit=2) == ["a/1", "a/2", "a/3"]
    assert fake.asked[0].query["prefix"] == "p/a/"
    assert fake.asked[1].query["start-after"] == "p/a/2"
    page = await store.list("", limit=1)
    assert (page.objects[0].key, page.objects[0].size, page.objects[0].etag) == ("a/1", 2, etag(b"12"))
    assert page.more


async def test_pages_of_folder_markers_are_passed_over(fake: FakeS3) -> None:
    store = await fake.started()
    for key in ("a/", "a/b/", "a/c/", "a/x", "a/y/"):
        fake.objects[key] = (b"", {})
    assert await keys_of(store, "a/", limit=1) == ["a/x"]
    assert await keys_of(store, "a/", limit=2) == ["a/x"]
    assert (await store.list("a/b/")).objects == ()
    for index in range(1005):
        fake.objects[f"m/{index:04}/"] = (b"", {})
    fake.objects["m/z"] = (b"", {})
    assert await keys_of(store, "m/", limit=1) == ["m/z"]


@pytest.mark.parametrize(("after", "found"), [("a", ["b/1"]), ("a/zz", ["b/1"]), ("c", []), ("b0", []), ("b/1", [])])
async def test_after_may_be_outside_of_what_is_listed(fake: FakeS3, after: str, found: list[str]) -> None:
    store = await fake.started()
    fake.objects["b/1"] = (b"", {})
    assert [each.key for each in (await store.list("b/", after=after)).objects] == found


async def test_an_empty_page_with_more_is_corrupt(fake: FakeS3) -> None:
    store = await fake.started(retries=0)
    fake.script.append(
        answers(lambda: document("<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"))
    )
    with pytest.raises(Corrupt):
        await store.list("")


# What is sent along


async def test_encryption_and_class_are_asked_for_where_objects_are_made(fake: FakeS3) -> None:
    store = await fake.started(sse="aws:kms", sse_kms_key_id="arn:aws:kms:x:1:key/2", storage_class="STANDARD_IA")
    await store.put("a", b"")
    await store.put("data/a", b"")
    upload_id, parts = await upload(store, b"one")
    await store.complete_multipart(KEY, upload_id, parts)
    await store.get("a")
    sent = [
        (
            asked.headers.get("x-amz-server-side-encryption"),
            asked.headers.get("x-amz-server-side-encryption-aws-kms-key-id"),
            asked.headers.get("x-amz-storage-class"),
        )
        for asked in fake.asked
    ]
    kms = ("aws:kms", "arn:aws:kms:x:1:key/2")
    assert sent == [(*kms, None), (*kms, "STANDARD_IA"), (*kms, "STANDARD_IA"), *[(None, None, None)] * 3]


@pytest.mark.parametrize(
    ("mode", "small", "bulk"),
    [
        ("auto", "content-md5", None),
        ("none", None, None),
        ("md5", "content-md5", "content-md5"),
        ("crc32", "x-amz-checksum-crc32", "x-amz-checksum-crc32"),
        ("sha256", "x-amz-checksum-sha256", "x-amz-checksum-sha256"),
    ],
)
async def test_checksums_go_with_the_bodies_that_are_to_have_one(
    fake: FakeS3, mode: str, small: str | None, bulk: str | None
) -> None:
    store = await fake.started(checksum=mode)
    await store.put("a", b"body")
    await store.put("data/a", b"body")
    upload_id, parts = await upload(store, b"body")
    await store.complete_multipart(KEY, upload_id, parts)

    def sums(index: int) -> list[str]:
        names = fake.asked[index].headers
        return [name for name in names if name == "content-md5" or re.fullmatch("x-amz-checksum-(crc32|sha256)", name)]

    assert [sums(index) for index in (0, 1, 3)] == [[small] if small else [], *[[bulk] if bulk else []] * 2]
    flexible = mode in ("crc32", "sha256")
    assert fake.asked[2].headers.get("x-amz-checksum-algorithm") == (mode.upper() if flexible else None)
    element = {"crc32": b"<ChecksumCRC32>", "sha256": b"<ChecksumSHA256>"}.get(mode)
    completion = fake.asked[4].body
    assert (element in completion) if element else b"Checksum" not in completion
    assert not any("trailer" in name for asked in fake.asked for name in asked.headers)


async def test_a_full_store_is_told_at_once(fake: FakeS3) -> None:
    store = await fake.started()
    fake.script.append(says(507, "XMinioStorageFull"))
    with pytest.raises(StoreFull):
        await store.put("a", b"")
    assert len(fake.asked) == 1


async def test_an_answer_without_an_etag_or_a_size_is_corrupt(fake: FakeS3) -> None:
    store = await fake.started()
    fake.script.append(answers(lambda: web.Response()))
    with pytest.raises(Corrupt, match="no etag"):
        await store.put("a", b"")

    async def no_size(server: FakeS3, asked: object) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"ETag": '"x"'})
        answer.enable_chunked_encoding()
        await answer.prepare(server.asked[-1].request)
        return answer

    fake.script.append(no_size)
    with pytest.raises(Corrupt, match="no size"):
        await store.head("a")


# Start, close, presign


async def test_the_start_tells_what_is_wrong(fake: FakeS3) -> None:
    for act, error, text in [
        (says(404, "NoSuchBucket"), BucketMissing, "no bucket 'bucket' at http://127.0.0.1"),
        (says(403, "SignatureDoesNotMatch"), AccessDenied, "credentials are from the settings"),
        (says(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-1"}), BucketMissing, "eu-west-1"),
    ]:
        store = fake.store()
        fake.script.append(act)
        with pytest.raises(error, match=text) as raised:
            await store.start()
        assert "\n" not in str(raised.value)
        with pytest.raises(RuntimeError, match="not started"):
            await store.get("a")


async def test_start_and_close_may_be_repeated(fake: FakeS3) -> None:
    store = fake.store()
    await store.close()
    await store.start()
    await store.start()
    assert fake.methods() == ["GET"]
    await store.close()
    await store.close()
    await store.start()
    await store.put("a", b"x")


async def test_a_bad_endpoint_is_told_at_the_start(fake: FakeS3) -> None:
    store = fake.store(addressing="virtual")
    with pytest.raises(StoreError, match=r"cannot be used: .*virtual"):
        await store.start()


@pytest.mark.parametrize(
    ("act", "heeded"),
    [
        (says(412, "PreconditionFailed"), True),
        (says(404, "NoSuchKey"), True),
        (answers(lambda: web.Response(status=204)), False),
        (says(403, "AccessDenied"), False),
        (says(501, "NotImplemented"), False),
        (says(400, "InvalidArgument"), False),
    ],
)
async def test_whether_deletes_heed_conditions_is_found_out(fake: FakeS3, act: object, heeded: bool) -> None:
    """MinIO is one that deletes all the same."""
    store = fake.store(conditional_delete=None)
    fake.script.extend([None, act])  # type: ignore[list-item]
    await store.start()
    assert store.capabilities.conditional_delete == heeded
    assert fake.asked[1].headers["if-match"] == '"' + "0" * 32 + '"'
    if not heeded:
        asked = len(fake.asked)
        with pytest.raises(Unsupported):
            await store.delete("a", condition=IfMatch("x"))
        assert len(fake.asked) == asked, "never sent where it would not be heeded"


async def test_presigned_urls_carry_what_is_asked_for(fake: FakeS3) -> None:
    store = await fake.started(prefix="p", public_endpoint="https://cdn.example", session_token="TOKEN")
    url = await store.presign_get(
        "data/7f/x",
        expires=59.5,
        response_headers={"Content-Type": "application/octet-stream", "cache-control": "max-age=60, immutable"},
    )
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    assert (parts.scheme, parts.netloc, parts.path) == ("https", "cdn.example", "/bucket/p/data/7f/x")
    assert query["X-Amz-Expires"] == "60"
    assert query["X-Amz-Security-Token"] == "TOKEN"
    assert query["response-content-type"] == "application/octet-stream"
    assert query["response-cache-control"] == "max-age=60, immutable"
    assert fake.asked == []
    with pytest.raises(ValueError, match="x-evil"):
        await store.presign_get("a", expires=60, response_headers={"x-evil": "1"})
    for expires in (0, -1, 7 * 24 * 3600 + 1):
        with pytest.raises(ValueError):
            await store.presign_get("a", expires=expires)


async def test_without_credentials_nothing_is_presigned(fake: FakeS3) -> None:
    store = await fake.started(anonymous=True, access_key=None, secret_key=None)
    assert not store.capabilities.presign
    with pytest.raises(Unsupported):
        await store.presign_get("a", expires=60)


async def test_what_the_store_says_of_an_object_is_passed_on(fake: FakeS3) -> None:
    store = await fake.started()
    headers = {"content-type": "text/x", "x-amz-meta-digest": "sha256:0", "X-Amz-Meta-Upper": "a  b"}
    fake.objects["a"] = (b"body", headers)
    for info in ((await store.get("a")).info, await store.head("a")):
        assert (info.key, info.size, info.etag, info.content_type) == ("a", 4, etag(b"body"), "text/x")
        assert info.metadata == {"digest": "sha256:0", "upper": "a  b"}
        assert info.modified == 1_800_000_000.0
    with pytest.raises(NotFound):
        await store.head("b")
