"""Checkpoints over HTTP: those that come with a push, forged ones, and those that every blob has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.api import ABSENT, Api, follow, noise
from tests.support.checked_blobs import KIB, LARGE, assert_blob, assert_invisible, assert_verifies, checkpoints_of
from tests.support.extension import CHECKPOINTS_TYPE, SEGMENT, Extension
from tests.support.images import digest_of

from bucketry.hashing import Checkpoints


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
