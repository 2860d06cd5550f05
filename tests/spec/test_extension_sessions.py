"""Sessions of the parallel extension: whose they are, how they end, and parts that do not fit."""

from __future__ import annotations

import time

import pytest
from tests.support.api import ABSENT, Api, noise
from tests.support.checked_blobs import LARGE, assert_blob, assert_invisible
from tests.support.extension import SEGMENT, Extension, Upload
from tests.support.images import digest_of


def assert_ended(upload: Upload) -> None:
    """The session is unknown on every request but `complete`."""
    for answer in (upload.urls([1]), upload.put_own(1, bytes(SEGMENT)), upload.cancel()):
        assert answer.error() == (404, "BLOB_UPLOAD_UNKNOWN")


# A push


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
