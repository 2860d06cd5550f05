"""The parallel extension as clients speak it (docs/rfcs/0003-parallel-extension.md), on a folder and on S3.

Every answer is held against docs/reference/extension.openapi.json on its way: see `tests.support.extension`.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.spec.conftest import Running
from tests.support.api import ABSENT, Answer, Api, noise
from tests.support.checked_blobs import KIB, LARGE, assert_blob, assert_invisible, assert_verifies, checkpoints_of
from tests.support.extension import DISCOVER, SEGMENT, UPLOAD_TYPE, Extension
from tests.support.fixtures import Registry
from tests.support.images import digest_of

from bucketry.hashing import Checkpoints


def sha512_of(data: bytes) -> str:
    return "sha512:" + hashlib.sha512(data).hexdigest()


# Who has it


def test_registry_says_that_it_has_the_extension(extension: Extension) -> None:
    answer = extension.request("GET", DISCOVER)
    (found,) = [each for each in answer.json()["extensions"] if each["name"] == "_bucketry"]
    assert "_bucketry/uploads" in found["endpoints"]
    assert answer.header("Content-Type") == "application/json"


def test_parts_go_to_the_bucket_where_it_presigns(extension: Extension, registry: Registry) -> None:
    upload = extension.open(size=LARGE)
    answer = upload.urls(range(1, upload.max_parts + 1))
    urls = answer.json()["urls"]
    assert sorted(urls, key=int) == ["1", "2", "3"]
    if registry.kind == "s3":
        assert upload.direct
        assert answer.json()["expires"] > 60
        assert all(url.startswith("http://") and registry.host not in url for url in urls.values())
    else:
        assert not upload.direct
        assert urls["3"] == f"{upload.path}/parts/3"
        assert "expires" not in answer.json()
    assert answer.header("Cache-Control") == "no-store"


# A push


@pytest.mark.parametrize("listed", [True, False], ids=["checkpoints", "serial"])
def test_parts_are_sent_at_the_same_time_in_any_order(extension: Extension, api: Api, listed: bool) -> None:
    data = noise(extension.repository, LARGE)
    digest = digest_of(data)
    upload = extension.open(digest=digest, size=len(data))
    parts = list(upload.parts(data).items())
    assert len(parts) == upload.max_parts == 3
    random.Random(extension.repository).shuffle(parts)
    with ThreadPoolExecutor(3) as threads:
        assert set(threads.map(lambda part: upload.put(*part), parts)) == {None}
    assert upload.sent() == {1: SEGMENT, 2: SEGMENT, 3: 1000}
    answer = upload.finish(digest, len(data), checkpoints_of(data).encode() if listed else None)
    assert answer.status == 201, answer
    assert answer.json() == {"state": "done", "digest": digest, "size": len(data), "verified": len(data)}
    assert answer.header("Location") == f"/v2/{extension.repository}/blobs/{digest}"
    assert answer.header("Docker-Content-Digest") == digest
    assert_blob(api, extension.repository, data)


def test_digest_and_size_may_come_last(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, LARGE)
    upload = extension.open()
    assert upload.part_size == 2 * SEGMENT
    assert upload.max_parts == 10_000
    upload.send(data)
    assert upload.finish(digest_of(data), len(data), checkpoints_of(data).encode()).status == 201
    assert_blob(api, extension.repository, data)


def test_wish_for_longer_parts_is_heard(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, LARGE)
    upload = extension.open(size=len(data), partSize=9_000_000)
    assert upload.part_size == 2 * SEGMENT
    upload.send(data)
    assert upload.finish(digest_of(data), len(data)).status == 201
    assert_blob(api, extension.repository, data)


def test_client_that_was_started_anew_asks_which_parts_are_there(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, LARGE)
    first = extension.open(size=len(data))
    first.put(3, first.parts(data)[3])
    first.put(1, first.parts(data)[1])
    again = extension.upload(first.session)
    status = again.status().json()
    assert status == {
        "state": "open",
        "partSize": SEGMENT,
        "parts": [{"number": 1, "size": SEGMENT}, {"number": 3, "size": 1000}],
        "size": len(data),
        "verified": 0,
    }
    refused = again.complete(digest_of(data), len(data))
    assert refused.error() == (400, "BLOB_UPLOAD_INVALID")
    assert refused.json()["errors"][0]["detail"] == {"missing": [2]}
    again.put(2, first.parts(data)[2])
    assert again.finish(digest_of(data), len(data)).status == 201
    assert_blob(api, extension.repository, data)


def test_part_that_is_sent_again_replaces_the_first(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, SEGMENT + 1000)
    upload = extension.open(size=len(data))
    upload.put(1, noise("other bytes", SEGMENT))
    upload.put(2, data[SEGMENT:])
    time.sleep(1.1)  # SeaweedFS tells a part that was put again by its second.
    upload.put(1, data[:SEGMENT])
    upload.put(2, data[SEGMENT:])
    assert upload.finish(digest_of(data), len(data)).status == 201
    assert_blob(api, extension.repository, data)


@pytest.mark.parametrize("size", [0, 1, 64 * KIB, SEGMENT, SEGMENT + 1])
def test_blob_of_any_size(extension: Extension, api: Api, size: int) -> None:
    data = noise(f"{extension.repository} {size}", size)
    upload = extension.open(size=size)
    upload.send(data)
    answer = upload.finish(digest_of(data), size, checkpoints_of(data, SEGMENT).encode())
    assert answer.status == 201, answer
    assert_blob(api, extension.repository, data)
    assert extension.checkpoints(digest_of(data)).status == (200 if size > SEGMENT else 404)


def test_blob_of_sha512_is_read_back_from_its_first_byte(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, SEGMENT + 1000)
    digest = sha512_of(data)
    upload = extension.open(digest=digest, size=len(data))
    upload.send(data)
    assert upload.complete(digest, len(data), checkpoints_of(data).encode()).status == 400
    assert upload.finish(digest, len(data)).status == 201
    assert_blob(api, extension.repository, data, digest)
    assert extension.checkpoints(digest).status == 404


def test_complete_by_many_at_once_is_one_blob(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, LARGE)
    upload = extension.open(size=len(data))
    upload.send(data)
    with ThreadPoolExecutor(8) as threads:
        tries = [threads.submit(upload.finish, digest_of(data), len(data)) for _ in range(8)]
        assert {each.result().status for each in tries} == {201}
    assert_blob(api, extension.repository, data)


# What is there already


def test_blob_of_the_repository_need_not_be_sent(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, 5000)
    digest = api.push_blob(extension.repository, data)
    for fields in ({}, {"size": len(data)}, {"partSize": 1}):
        answer = extension.begin(digest=digest, **fields)
        assert answer.status == 200
        assert answer.json() == {"state": "present", "digest": digest, "size": len(data)}


def test_blob_of_another_repository_is_mounted(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, 5000)
    digest = api.push_blob(f"{extension.repository}/source", data)
    assert_invisible(api, extension.repository, digest)
    assert extension.begin(digest=digest).json()["state"] == "present"
    assert_blob(api, extension.repository, data)


def test_bytes_under_the_digest_of_another_repositorys_blob_are_refused(extension: Extension, api: Api) -> None:
    """Who knows a digest has not got its bytes: naming it must link nothing."""
    known = noise(f"{extension.repository} known", 5000)
    digest = api.push_blob(f"{extension.repository}/source", known)
    upload = extension.open(size=len(known))
    upload.send(noise("other bytes", len(known)))
    assert upload.finish(digest, len(known)).error() == (400, "DIGEST_INVALID")
    assert_invisible(api, extension.repository, digest)
    assert_blob(api, f"{extension.repository}/source", known)


def test_blob_that_somebody_else_pushed_meanwhile_is_one_blob(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, SEGMENT + 1000)
    upload = extension.open(digest=digest_of(data), size=len(data))
    upload.send(data)
    api.push_blob(extension.repository, data)
    assert upload.finish(digest_of(data), len(data)).status == 201
    assert_blob(api, extension.repository, data)


# Nobody sees bytes before they are verified


def test_bytes_are_seen_by_nobody_before_they_are_verified(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, LARGE)
    digest = digest_of(data)
    upload = extension.open(digest=digest, size=len(data))
    assert_invisible(api, extension.repository, digest)
    for number, body in upload.parts(data).items():
        assert upload.complete(digest, len(data)).status == 400
        assert_invisible(api, extension.repository, digest)
        upload.put(number, body)
        assert_invisible(api, extension.repository, digest)
    assert upload.complete(digest_of(b"another"), len(data)).error() == (400, "BLOB_UPLOAD_INVALID")
    assert upload.complete(digest, len(data), checkpoints_of(data).encode()[:-1]).status == 400
    assert_invisible(api, extension.repository, digest)
    assert upload.finish(digest, len(data)).status == 201
    assert_blob(api, extension.repository, data)


@pytest.mark.parametrize("listed", [True, False], ids=["checkpoints", "serial"])
def test_other_bytes_fail_the_session_and_are_seen_by_nobody(
    extension: Extension, api: Api, repository: str, listed: bool
) -> None:
    data = noise(repository, SEGMENT + 1000)
    digest = digest_of(data)
    upload = extension.open(digest=digest, size=len(data))
    bad = bytearray(data)
    bad[3 * 64 * KIB + 5] ^= 1
    upload.send(bytes(bad))
    given = checkpoints_of(data).encode() if listed else None
    answers = [upload.finish(digest, len(data), given) for _ in range(3)]
    for answer in answers:
        assert answer.error() == (400, "DIGEST_INVALID")
        detail = answer.json()["errors"][0]["detail"]
        assert detail["expected"] == digest
        assert 3 in detail["segments"] if listed else "segments" not in detail
    status = upload.status().json()
    assert status["state"] == "failed"
    assert status["error"] == answers[0].message
    assert "parts" not in status
    assert upload.urls([1]).error() == (400, "BLOB_UPLOAD_INVALID")
    assert upload.put_own(1, data[:SEGMENT]).error() == (400, "BLOB_UPLOAD_INVALID")
    for each in (digest, digest_of(bytes(bad))):
        assert_invisible(api, repository, each)
    assert upload.cancel().status == 204
    assert upload.status().error() == (404, "BLOB_UPLOAD_UNKNOWN")
    assert extension.push(data, digest)
    assert_blob(api, repository, data)


def test_late_put_by_an_old_url_changes_nothing(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, SEGMENT + 1000)
    digest = digest_of(data)
    upload = extension.open(size=len(data))
    urls = upload.urls([1, 2]).json()["urls"]
    upload.send(data)
    assert upload.finish(digest, len(data)).status == 201
    for number, url in urls.items():
        upload.put_to(url, noise("late", SEGMENT if number == "1" else 1000))
        upload.put_to(url, b"short")
    assert_blob(api, extension.repository, data)
    assert upload.finish(digest, len(data)).status == 201
    found = Checkpoints.parse(extension.checkpoints(digest).body)
    assert_verifies(found, data)


def test_parts_that_are_sent_while_the_upload_is_completed_change_nothing_that_is_committed(
    extension: Extension, api: Api
) -> None:
    data = noise(extension.repository, LARGE)
    digest = digest_of(data)
    other = noise("other bytes", SEGMENT)
    for _ in range(3):
        upload = extension.open(size=len(data))
        url = upload.url(2)
        upload.send(data)
        with ThreadPoolExecutor(2) as threads:
            late = threads.submit(lambda: [upload.put_to(url, other) for _ in range(3)])  # noqa: B023 (ends here)
            answer = upload.finish(digest, len(data))
            late.result()
        if answer.status == 201:
            assert_blob(api, extension.repository, data)
            assert api.delete(f"/v2/{extension.repository}/blobs/{digest}").status == 202
        else:
            assert answer.error()[0] == 400
            assert_invisible(api, extension.repository, digest)


# What is not there


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/uploads/x/",
        "/uploads/x/y",
        "/uploads/x/parts",
        "/uploads/x/parts/",
        "/uploads/x/parts/one",
        "/uploads/x/parts/-1",
        "/uploads/x/parts/1.5",
        "/uploads/x/parts/999999999",
        "/uploads/x/parts/1/2",
        "/uploads/x/complete/",
        "/uploads/x/urls/1",
        "/checkpoints",
        "/checkpoints/sha256/00",
        "/discover",
        "/blobs/" + ABSENT,
        "/_bucketry/uploads",
    ],
)
def test_unknown_path_below_the_extension_is_404_in_the_specs_form(extension: Extension, api: Api, path: str) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        answer = api.request(method, extension.base + path)
        assert answer.error()[0] in (400, 404), answer
        assert answer.error()[1] in ("UNSUPPORTED", "DIGEST_INVALID", "NAME_INVALID", "BLOB_UPLOAD_UNKNOWN"), answer
    assert api.head(extension.base + path).status in (400, 404)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/uploads", "POST"),
        ("/uploads/", "POST"),
        ("/uploads/x", "GET, DELETE"),
        ("/uploads/x/urls", "POST"),
        ("/uploads/x/parts/1", "PUT"),
        ("/uploads/x/complete", "POST"),
        ("/checkpoints/" + ABSENT, "GET"),
    ],
)
def test_method_that_is_not_offered_is_405_in_the_specs_form(
    extension: Extension, api: Api, path: str, allowed: str
) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
        if method not in allowed.split(", "):
            answer = api.request(method, extension.base + path)
            assert answer.status == 405
            assert answer.header("Allow") == allowed
            assert method == "HEAD" or answer.error() == (405, "UNSUPPORTED")
    assert api.post(DISCOVER).header("Allow") == "GET"


@pytest.mark.parametrize(
    "ask",
    [
        lambda extension: extension.begin(),
        lambda extension: extension.upload("x").status(),
        lambda extension: extension.upload("x").urls([1]),
        lambda extension: extension.upload("x").put_own(1, b"a"),
        lambda extension: extension.upload("x").complete(ABSENT, 1),
        lambda extension: extension.upload("x").cancel(),
        lambda extension: extension.checkpoints(ABSENT),
    ],
    ids=["begin", "status", "urls", "part", "complete", "cancel", "checkpoints"],
)
@pytest.mark.parametrize("name", ["A", "a..b", "a//b", "-"])
def test_name_that_is_none_is_refused(api: Api, name: str, ask: Callable[[Extension], Answer]) -> None:
    assert ask(Extension(api, name)).error() == (400, "NAME_INVALID")


# What the configuration forbids


def test_blob_is_not_mounted_where_the_source_must_be_named(strict: Running) -> None:
    digest = strict.api.push_blob("extension/source", b"a blob of another")
    extension = Extension(strict.api, "extension/target")
    assert extension.begin(digest=digest).status == 201
    assert strict.api.get(f"/v2/extension/target/blobs/{digest}").status == 404


def test_media_types_are_those_of_version_1(extension: Extension) -> None:
    upload = extension.open(size=1)
    for answer in (upload.status(), upload.urls([1])):
        assert answer.header("Content-Type") == UPLOAD_TYPE
