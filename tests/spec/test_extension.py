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
from tests.support.api import ABSENT, Answer, Api, descriptor, follow, image, noise
from tests.support.extension import CHECKPOINTS_TYPE, DISCOVER, SEGMENT, UPLOAD_TYPE, Extension, Upload
from tests.support.fixtures import Registry
from tests.support.images import digest_of

from bucketry.hashing import Checkpoints, NotingHasher, new

KIB = 1024
LARGE = 2 * SEGMENT + 1000
"""Bytes: three parts."""


@pytest.fixture
def extension(api: Api, repository: str) -> Extension:
    return Extension(api, repository)


def checkpoints_of(data: bytes, segment: int = 64 * KIB) -> Checkpoints:
    hasher = NotingHasher(new("sha256"), segment)
    hasher.update(data)
    found = hasher.checkpoints()
    assert found is not None
    return found


def sha512_of(data: bytes) -> str:
    return "sha512:" + hashlib.sha512(data).hexdigest()


def assert_invisible(api: Api, repository: str, digest: str) -> None:
    """Nobody can tell that somebody sends these bytes."""
    path = f"/v2/{repository}/blobs/{digest}"
    assert api.get(path).error() == (404, "BLOB_UNKNOWN")
    assert api.head(path).status == 404
    assert api.get(path, range="bytes=0-0").status == 404
    assert Extension(api, repository).checkpoints(digest).error() == (404, "BLOB_UNKNOWN")
    assert api.post(f"/v2/{repository}/x/blobs/uploads/?mount={digest}&from={repository}").status == 202
    manifest = image(config={**descriptor(b""), "digest": digest})
    assert api.push_manifest(repository, "v1", manifest).error() == (404, "MANIFEST_BLOB_UNKNOWN")


def assert_blob(api: Api, repository: str, data: bytes, digest: str | None = None) -> None:
    digest = digest or digest_of(data)
    answer = api.blob(repository, digest)
    assert answer.status == 200, answer
    assert answer.body == data
    assert api.head(f"/v2/{repository}/blobs/{digest}").header("Content-Length") == str(len(data))


def assert_ended(upload: Upload) -> None:
    """The session is unknown on every request but `complete`."""
    for answer in (upload.urls([1]), upload.put_own(1, bytes(SEGMENT)), upload.cancel()):
        assert answer.error() == (404, "BLOB_UPLOAD_UNKNOWN")


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


def test_complete_may_be_sent_again(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, SEGMENT + 1000)
    digest = digest_of(data)
    upload = extension.open(size=len(data))
    upload.send(data)
    answers = [upload.finish(digest, len(data)) for _ in range(4)]
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body for answer in answers}) == 1
    for _ in range(4):  # Of any worker.
        status = upload.status()
        assert status.status == 200, status
        assert status.json()["state"] == "done"
        assert_ended(upload)
    assert upload.complete(ABSENT, len(data)).status in (400, 404)
    assert_blob(api, extension.repository, data)


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


# Sessions


def test_cancelled_session_is_unknown_and_its_parts_are_freed(extension: Extension) -> None:
    upload = extension.open(size=LARGE)
    url = upload.url(1)
    upload.put(1, noise("cancelled", SEGMENT))
    assert upload.cancel().status == 204
    for _ in range(3):
        assert_ended(upload)
        assert upload.status().error() == (404, "BLOB_UPLOAD_UNKNOWN")
        assert upload.complete(ABSENT, LARGE).error() == (404, "BLOB_UPLOAD_UNKNOWN")
    assert upload.put_to(url, noise("late", SEGMENT)) in (404, 403)


def test_session_of_another_repository_is_unknown(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, 1000)
    mine = extension.open(size=len(data))
    mine.send(data)
    theirs = Extension(api, f"{extension.repository}/b").upload(mine.session)
    for answer in (
        theirs.status(),
        theirs.urls([1]),
        theirs.put_own(1, b"other"),
        theirs.complete(digest_of(data), len(data)),
        theirs.cancel(),
    ):
        assert answer.error() == (404, "BLOB_UPLOAD_UNKNOWN")
    assert mine.finish(digest_of(data), len(data)).status == 201
    # Nor is it told apart from one that never was when it has ended.
    assert theirs.complete(digest_of(data), len(data)).error() == (404, "BLOB_UPLOAD_UNKNOWN")
    assert_invisible(api, f"{extension.repository}/b", digest_of(data))


def test_session_of_the_standard_protocol_is_none_of_the_extension(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, 1000)
    location = api.patch(api.begin(extension.repository), data).header("Location")
    for session in (location.rpartition("/")[2], location.rpartition("/")[2].removesuffix(".more")):
        theirs = extension.upload(session)
        for answer in (
            theirs.status(),
            theirs.urls([1]),
            theirs.put_own(1, b"other"),
            theirs.complete(digest_of(data), len(data)),
            theirs.cancel(),
        ):
            assert answer.error() == (404, "BLOB_UPLOAD_UNKNOWN")
    assert api.commit(location, digest_of(data)).status == 201


def test_session_of_the_extension_is_none_of_the_standard_protocol(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, 1000)
    upload = extension.open(size=len(data))
    upload.send(data)
    for suffix in ("", ".more"):
        location = f"/v2/{extension.repository}/blobs/uploads/{upload.session}{suffix}"
        for answer in (
            api.get(location),
            api.patch(location, b"other"),
            api.commit(location, digest_of(data)),
            api.commit(location, digest_of(b"other"), b"other"),
            api.delete(location),
        ):
            assert answer.error() == (404, "BLOB_UPLOAD_UNKNOWN")
    assert upload.finish(digest_of(data), len(data)).status == 201


# Parts that do not fit


def test_missing_parts_are_named(extension: Extension) -> None:
    size = 300 * SEGMENT
    upload = extension.open(size=size, partSize=SEGMENT)
    upload.put(7, noise("seven", SEGMENT))
    for _ in range(2):
        answer = upload.complete(ABSENT, size)
        assert answer.error() == (400, "BLOB_UPLOAD_INVALID")
        missing = answer.json()["errors"][0]["detail"]["missing"]
        assert missing == [*range(1, 7), *range(8, 102)][:100]
        assert "299 of 300" in answer.message
    assert upload.sent() == {7: SEGMENT}


def test_part_of_a_wrong_length_through_the_registry_is_refused(extension: Extension) -> None:
    upload = extension.open(size=SEGMENT + 1000)
    for number, size in ((1, SEGMENT - 1), (1, SEGMENT + 1), (1, 1000), (2, 999), (2, 1001), (2, 0), (1, 0)):
        body = b"a" * size
        for sent in (body, [body[:70_000], body[70_000:]] if size > 70_000 else [body] if body else []):
            answer = upload.put_own(number, sent)
            assert answer.error() == (400, "SIZE_INVALID"), (number, size)
    assert upload.sent() == {}
    open_end = extension.open()
    assert open_end.put_own(1, b"a" * (open_end.part_size + 1)).error() == (400, "SIZE_INVALID")
    assert open_end.put_own(1, b"").error() == (400, "SIZE_INVALID")
    assert open_end.sent() == {}


def test_parts_of_wrong_lengths_in_the_store_are_named(extension: Extension, api: Api) -> None:
    """With a size that is told last, and in a bucket, any length may arrive."""
    data = noise(extension.repository, LARGE)
    upload = extension.open(partSize=SEGMENT)
    for number, body in ((1, data[: SEGMENT - 10]), (2, data[SEGMENT : 2 * SEGMENT]), (3, data[2 * SEGMENT :] + b"x")):
        upload.put(number, body)
    refused = upload.complete(digest_of(data), len(data))
    assert refused.error() == (400, "SIZE_INVALID")
    assert refused.json()["errors"][0]["detail"] == {
        "parts": [
            {"number": 1, "size": SEGMENT - 10, "expected": SEGMENT},
            {"number": 3, "size": 1001, "expected": 1000},
        ]
    }
    assert_invisible(api, extension.repository, digest_of(data))
    time.sleep(1.1)  # SeaweedFS tells a part that was put again by its second.
    for number in (1, 3):
        upload.put(number, upload.parts(data)[number])
    assert upload.finish(digest_of(data), len(data)).status == 201
    assert_blob(api, extension.repository, data)


def test_part_beyond_the_end_is_refused_by_complete(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, 1000)
    upload = extension.open()
    upload.put(1, data)
    upload.put(2, b"x")
    assert upload.complete(digest_of(data), len(data)).error() == (400, "SIZE_INVALID")
    assert upload.finish(digest_of(data + b"x"), len(data) + 1).status == 400
    assert_invisible(api, extension.repository, digest_of(data))


@pytest.mark.parametrize("number", [0, 10_001, 99_999_999])
def test_part_number_that_none_can_have_is_refused(extension: Extension, number: int) -> None:
    upload = extension.open()
    assert upload.put_own(number, b"a").error() == (400, "UNSUPPORTED")
    assert upload.urls([1, number]).error() == (400, "UNSUPPORTED")
    known = extension.open(size=1000)
    assert known.put_own(2, b"a").error() == (400, "UNSUPPORTED")
    assert known.urls([2]).error() == (400, "UNSUPPORTED")


def test_complete_as_something_else_than_announced_leaves_the_session_open(extension: Extension, api: Api) -> None:
    data = noise(extension.repository, 1000)
    digest = digest_of(data)
    upload = extension.open(digest=digest, size=len(data))
    upload.send(data)
    assert upload.complete(digest_of(b"x"), len(data)).error() == (400, "BLOB_UPLOAD_INVALID")
    assert upload.complete(digest, len(data) - 1).error() == (400, "SIZE_INVALID")
    assert upload.status().json()["state"] == "open"
    assert upload.finish(digest, len(data)).status == 201
    assert_blob(api, extension.repository, data)


# Checkpoints


def forged_state(data: bytes) -> bytes:
    good = bytearray(checkpoints_of(data).encode())
    good[56 + 2 * 32] ^= 1
    return bytes(good)


def forged_states(data: bytes) -> bytes:
    """A list that is right for other bytes, under the digest of these."""
    other = checkpoints_of(bytes(len(data)))
    return Checkpoints(checkpoints_of(data).digest, len(data), other.segment, other.states).encode()


@pytest.mark.parametrize("forge", [forged_state, forged_states])
def test_forged_checkpoints_fail_the_session(extension: Extension, api: Api, forge: Callable[[bytes], bytes]) -> None:
    data = noise(extension.repository, 1024 * KIB)
    digest = digest_of(data)
    upload = extension.open(size=len(data))
    upload.send(data)
    answer = upload.finish(digest, len(data), forge(data))
    assert answer.error() == (400, "DIGEST_INVALID")
    assert answer.json()["errors"][0]["detail"]["segments"]
    assert_invisible(api, extension.repository, digest)
    assert extension.push(data, digest, checkpoints_of(data).encode())
    assert_blob(api, extension.repository, data)


def test_other_bytes_with_checkpoints_that_fit_them_are_refused(extension: Extension, api: Api) -> None:
    """Bytes and states of another blob, all of which fit, but for the digest in the end."""
    data, other = noise(extension.repository, 300 * KIB), noise("other bytes", 300 * KIB)
    theirs = checkpoints_of(other)
    forged = Checkpoints(checkpoints_of(data).digest, len(data), theirs.segment, theirs.states)
    upload = extension.open(size=len(data))
    upload.send(other)
    answer = upload.finish(digest_of(data), len(data), forged.encode())
    assert answer.error() == (400, "DIGEST_INVALID")
    assert answer.json()["errors"][0]["detail"]["segments"] == [4]
    assert_invisible(api, extension.repository, digest_of(data))


def test_checkpoints_that_cannot_be_of_the_blob_are_refused_before_anything_is_read(
    extension: Extension, api: Api
) -> None:
    data = noise(extension.repository, 300 * KIB)
    digest = digest_of(data)
    good = checkpoints_of(data)
    encoded = good.encode()
    upload = extension.open(size=len(data))
    upload.send(data)
    wrong = {
        "empty": b"",
        "short": encoded[:-1],
        "long": encoded + b"\0",
        "no list": noise("no list", 4000),
        "version": encoded[:7] + b"\2" + encoded[8:],
        "of another size": checkpoints_of(data[:-1]).encode()[:24] + encoded[24:],
        "too short segments": checkpoints_of(data, 64).encode(),
        "odd segments": Checkpoints(good.digest, 10, 64 * KIB, b"").encode(),
    }
    for name, each in wrong.items():
        assert upload.complete(digest, len(data), each).error() == (400, "UNSUPPORTED"), name
    other = checkpoints_of(noise("another blob", len(data))).encode()
    assert upload.complete(digest, len(data), other).error() == (400, "DIGEST_INVALID")
    assert upload.status().json()["state"] == "open"
    assert_invisible(api, extension.repository, digest)
    assert upload.finish(digest, len(data), encoded).status == 201
    assert_blob(api, extension.repository, data)


def assert_verifies(found: Checkpoints, data: bytes) -> None:
    """A client that has the blob and its list is content."""
    assert (f"sha256:{found.digest}", found.size) == (digest_of(data), len(data))
    for number in range(found.count):
        check = found.check(number)
        start, stop = found.bounds(number)
        check.update(data[start:stop])
        assert check.holds(), number


def pushed_by_docker(api: Api, repository: str, data: bytes) -> None:
    location = api.patch(api.begin(repository), [data[:70_000], data[70_000:]]).header("Location")
    assert api.commit(location, digest_of(data)).status == 201


def pushed_in_chunks(api: Api, repository: str, data: bytes) -> None:
    location = api.begin(repository)
    middle = SEGMENT - 500
    for start, stop in ((0, middle), (middle, len(data))):
        location = api.patch(location, data[start:stop], content_range=f"{start}-{stop - 1}").header("Location")
    assert api.commit(location, digest_of(data)).status == 201


def pushed_in_one_post(api: Api, repository: str, data: bytes) -> None:
    api.push_blob(repository, data)


def pushed_by_the_extension(api: Api, repository: str, data: bytes) -> None:
    Extension(api, repository).push(data, digest_of(data))


def pushed_with_checkpoints(api: Api, repository: str, data: bytes) -> None:
    Extension(api, repository).push(data, digest_of(data), checkpoints_of(data).encode())


@pytest.mark.parametrize(
    "push",
    [pushed_by_docker, pushed_in_chunks, pushed_in_one_post, pushed_by_the_extension, pushed_with_checkpoints],
)
def test_blob_has_checkpoints_whoever_pushed_it(
    extension: Extension, api: Api, push: Callable[[Api, str, bytes], None]
) -> None:
    data = noise(extension.repository, LARGE)
    digest = digest_of(data)
    push(api, extension.repository, data)
    answer = extension.checkpoints(digest)
    assert answer.status == 200, answer
    assert answer.header("Content-Type") == CHECKPOINTS_TYPE
    assert answer.header("Cache-Control") == "no-cache"
    found = Checkpoints.parse(answer.body)
    assert found.segment == SEGMENT
    assert_verifies(found, data)
    # Of every repository that has the blob, and of no other.
    elsewhere = Extension(api, f"{extension.repository}/elsewhere")
    assert elsewhere.checkpoints(digest).error() == (404, "BLOB_UNKNOWN")
    assert elsewhere.begin(digest=digest).json()["state"] == "present"
    assert elsewhere.checkpoints(digest).body == answer.body
    assert api.delete(f"/v2/{extension.repository}/blobs/{digest}").status == 202
    for _ in range(3):
        assert extension.checkpoints(digest).error() == (404, "BLOB_UNKNOWN")
    assert elsewhere.checkpoints(digest).status == 200


def test_range_of_a_blob_is_verified_by_its_checkpoint(extension: Extension, api: Api) -> None:
    """A pull in parallel: each segment by its range, straight from where the blob is."""
    data = noise(extension.repository, LARGE)
    digest = digest_of(data)
    extension.push(data, digest)
    found = Checkpoints.parse(extension.checkpoints(digest).body)
    for number in reversed(range(found.count)):
        start, stop = found.bounds(number)
        asked = f"bytes={start}-{stop - 1}"
        answer = api.get(f"/v2/{extension.repository}/blobs/{digest}", range=asked)
        if answer.status == 307:
            answer = follow(answer, range=asked)
        assert answer.status == 206
        check = found.check(number)
        check.update(answer.body)
        assert check.holds()


def test_checkpoints_of_what_is_no_blob(extension: Extension, api: Api) -> None:
    small = api.push_blob(extension.repository, b"small")
    assert extension.checkpoints(small).error() == (404, "BLOB_UNKNOWN")
    assert extension.checkpoints(ABSENT).error() == (404, "BLOB_UNKNOWN")
    for digest in ("sha256:xyz", "latest", "md5:" + "0" * 32):
        assert extension.checkpoints(digest).error() == (400, "DIGEST_INVALID")


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
