"""Pushing over HTTP: every way of the spec to bring a blob, what a session says of itself, mounts, tags, referrers."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable

import pytest
from tests.support.api import EMPTY, Answer, Api, descriptor, follow, image, noise
from tests.support.images import OCI_INDEX, OCI_MANIFEST, digest_of

MIB = 1024 * 1024
PART = 5 * MIB
"""Of a multipart upload, by default."""

SIZES = {"one byte": 1, "small": 70_000, "a part": PART, "a part and a byte": PART + 1, "three parts": 3 * PART - 5}


@pytest.fixture(scope="module")
def bytes_of() -> Callable[[str], bytes]:
    made: dict[str, bytes] = {}
    return lambda size: made.setdefault(size, noise(size, SIZES[size]))


def sha512_of(data: bytes) -> str:
    return "sha512:" + hashlib.sha512(data).hexdigest()


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def assert_created(answer: Answer, api: Api, repository: str, digest: str, data: bytes) -> None:
    """The answer says where the blob is, and there are its bytes."""
    assert answer.status == 201, answer
    assert answer.header("Docker-Content-Digest") == digest
    assert answer.header("Location") == f"/v2/{repository}/blobs/{digest}"
    pulled = api.get(answer.header("Location"))
    assert (follow(pulled) if pulled.status == 307 else pulled).body == data
    head = api.head(answer.header("Location"))
    assert (head.status, head.header("Content-Length")) == (200, str(len(data)))


# One request, two, or many


@pytest.mark.parametrize("size", SIZES)
def test_post_with_digest_and_body(size: str, bytes_of: Callable[[str], bytes], api: Api, repository: str) -> None:
    data = bytes_of(size)
    answer = api.post(f"/v2/{repository}/blobs/uploads/?digest={digest_of(data)}", data)
    assert_created(answer, api, repository, digest_of(data), data)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", SIZES)
def test_post_then_put_with_body(
    size: str, chunked: bool, bytes_of: Callable[[str], bytes], api: Api, repository: str
) -> None:
    data = bytes_of(size)
    answer = api.commit(api.begin(repository), digest_of(data), pieces(data, 100_000) if chunked else data)
    assert_created(answer, api, repository, digest_of(data), data)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", SIZES)
def test_post_then_one_patch_then_put(
    size: str, chunked: bool, bytes_of: Callable[[str], bytes], api: Api, repository: str
) -> None:
    data = bytes_of(size)
    patched = api.patch(api.begin(repository), pieces(data, 100_000) if chunked else data)
    assert patched.status == 202, patched
    assert patched.header("Range") == f"0-{len(data) - 1}"
    answer = api.commit(patched.header("Location"), digest_of(data))
    assert_created(answer, api, repository, digest_of(data), data)


@pytest.mark.parametrize("form", ["{}-{}", "bytes {}-{}/{}", "bytes {}-{}/*", "bytes={}-{}"])
def test_chunks_with_content_range_in_any_form(form: str, api: Api, repository: str) -> None:
    data = noise(form, 30_000)
    location = api.begin(repository)
    for first in (0, 10_000, 20_000):
        answer = api.patch(
            location, data[first : first + 10_000], content_range=form.format(first, first + 9_999, 30_000)
        )
        assert answer.status == 202, answer
        assert answer.header("Range") == f"0-{first + 9_999}"
        location = answer.header("Location")
    assert_created(api.commit(location, digest_of(data)), api, repository, digest_of(data), data)


@pytest.mark.parametrize("size", [1, 4095, 3 * MIB, PART, PART + 1])
def test_chunks_of_any_size_without_content_range(size: int, api: Api, repository: str) -> None:
    data = noise(size, min(20 * MIB, size * 5) + 7)
    location = api.begin(repository)
    for piece in pieces(data, size):
        answer = api.patch(location, piece)
        assert answer.status == 202, answer
        location = answer.header("Location")
    assert_created(api.commit(location, digest_of(data)), api, repository, digest_of(data), data)


def test_last_chunk_in_the_put(api: Api, repository: str) -> None:
    data = noise("last", 2 * PART + 100)
    location = api.begin(repository)
    location = api.patch(location, data[: PART + 50], content_range=f"0-{PART + 49}").header("Location")
    answer = api.commit(location, digest_of(data), data[PART + 50 :], content_range=f"{PART + 50}-{len(data) - 1}")
    assert_created(answer, api, repository, digest_of(data), data)


def test_last_chunk_in_the_put_to_the_first_location(api: Api, repository: str) -> None:
    """A client that keeps the first Location is no reason to lose what it sent."""
    data = noise("first location", 20_000)
    location = api.begin(repository)
    assert api.patch(location, data[:15_000]).status == 202
    assert_created(api.commit(location, digest_of(data), data[15_000:]), api, repository, digest_of(data), data)


def test_one_patch_then_put_to_the_first_location(api: Api, repository: str) -> None:
    data = noise("same location", 20_000)
    location = api.begin(repository)
    assert api.patch(location, data).status == 202
    assert_created(api.commit(location, digest_of(data)), api, repository, digest_of(data), data)


def test_empty_blob_in_every_way(api: Api, repository: str) -> None:
    digest = digest_of(b"")
    ways: list[Callable[[], Answer]] = [
        lambda: api.post(f"/v2/{repository}/blobs/uploads/?digest={digest}", b""),
        lambda: api.commit(api.begin(repository), digest),
        lambda: api.commit(api.patch(api.begin(repository), b"").header("Location"), digest),
        lambda: api.commit(api.begin(repository), digest, [b""]),
    ]
    for way in ways:
        assert_created(way(), api, repository, digest, b"")
        assert api.delete(f"/v2/{repository}/blobs/{digest}").status == 202


def test_post_with_a_digest_and_no_body_begins_a_session(api: Api, repository: str) -> None:
    data = noise("two steps", 5000)
    answer = api.post(f"/v2/{repository}/blobs/uploads/?digest={digest_of(data)}")
    assert answer.status == 202
    answer = api.commit(answer.header("Location"), digest_of(data), data)
    assert_created(answer, api, repository, digest_of(data), data)


def test_blob_that_is_there_can_be_pushed_again(api: Api, repository: str) -> None:
    data = noise("again", 100)
    for _ in range(3):
        api.push_blob(repository, data)
    assert api.blob(repository, digest_of(data)).body == data


# sha512


@pytest.mark.parametrize("size", ["small", "three parts"])
def test_sha512_that_was_declared(size: str, bytes_of: Callable[[str], bytes], api: Api, repository: str) -> None:
    data = bytes_of(size)
    begun = api.post(f"/v2/{repository}/blobs/uploads/?digest-algorithm=sha512")
    patched = api.patch(begun.header("Location"), data)
    answer = api.commit(patched.header("Location"), sha512_of(data))
    assert "Warning" not in answer.headers
    assert_created(answer, api, repository, sha512_of(data), data)


@pytest.mark.parametrize("size", ["small", "three parts"])
def test_sha512_that_was_not_declared_works_with_a_warning(
    size: str, bytes_of: Callable[[str], bytes], api: Api, repository: str
) -> None:
    data = bytes_of(size)
    patched = api.patch(api.begin(repository), data)
    answer = api.commit(patched.header("Location"), sha512_of(data))
    assert re.fullmatch('299 - ".*digest-algorithm=sha512"', answer.header("Warning"))
    assert_created(answer, api, repository, sha512_of(data), data)
    assert api.get(f"/v2/{repository}/blobs/{digest_of(data)}").status == 404


def test_sha512_in_one_request(api: Api, repository: str) -> None:
    data = noise("sha512", 1000)
    answer = api.post(f"/v2/{repository}/blobs/uploads/?digest={sha512_of(data)}", data)
    assert_created(answer, api, repository, sha512_of(data), data)


# Sessions


def test_begin_says_where_to_go_on(api: Api, repository: str) -> None:
    answer = api.post(f"/v2/{repository}/blobs/uploads/")
    assert answer.status == 202
    assert answer.header("Range") == "0-0"
    assert answer.header("Location").startswith(f"/v2/{repository}/blobs/uploads/")
    assert int(answer.header("OCI-Chunk-Min-Length")) > 0
    assert re.fullmatch("[0-9a-f-]{36}", answer.header("Docker-Upload-UUID"))
    assert api.post(f"/v2/{repository}/blobs/uploads").status == 202  # Without the slash too.


def test_status_tells_how_far_an_upload_is(api: Api, repository: str) -> None:
    location = api.begin(repository)
    status = api.get(location)
    assert (status.status, status.header("Range")) == (204, "0-0")
    location = api.patch(location, b"0123456789").header("Location")
    for _ in range(2):
        status = api.get(location)
        assert (status.status, status.header("Range")) == (204, "0-9")
        location = status.header("Location")
    assert api.patch(location, b"abc").header("Range") == "0-12"


def test_cancel_ends_a_session_with_its_parts(api: Api, repository: str) -> None:
    location = api.patch(api.begin(repository), noise("cancel", 2 * PART)).header("Location")
    assert api.delete(location).status == 204
    assert api.get(location).error() == (404, "BLOB_UPLOAD_UNKNOWN")
    assert api.delete(location).error() == (404, "BLOB_UPLOAD_UNKNOWN")
    assert api.commit(location, digest_of(noise("cancel", 2 * PART))).error() == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("size", ["small", "three parts"])
def test_commit_that_is_asked_again_says_the_same(
    size: str, bytes_of: Callable[[str], bytes], api: Api, repository: str
) -> None:
    """On any worker: the answer to the first may have been lost."""
    data = bytes_of(size)
    location = api.patch(api.begin(repository), data).header("Location")
    for _ in range(6):
        assert_created(api.commit(location, digest_of(data)), api, repository, digest_of(data), data)
    assert api.commit(location, sha512_of(b"other")).status in (400, 404)
    assert api.blob(repository, digest_of(data)).body == data


def test_session_that_was_committed_takes_nothing_that_changes_the_blob(api: Api, repository: str) -> None:
    data = noise("committed", 50_000)
    location = api.patch(api.begin(repository), data).header("Location")
    assert api.commit(location, digest_of(data)).status == 201
    for _ in range(4):
        assert api.patch(location, b"more").status in (202, 404, 416)  # A worker may not know yet: a session anew.
        assert api.blob(repository, digest_of(data)).body == data
    api.delete(location)
    assert api.blob(repository, digest_of(data)).body == data


@pytest.mark.parametrize("arrived", [10, 100_000, PART + 1000], ids=["bytes", "less than a part", "more than a part"])
def test_patch_that_broke_off_goes_on_where_it_stopped(arrived: int, api: Api, repository: str) -> None:
    data = noise("broken", PART + 200_000)
    location = api.begin(repository)
    with api.wire() as wire:
        wire.begin("PATCH", location, {"Content-Length": str(len(data))})
        wire.send(data[:arrived])
        time.sleep(0.3)
        wire.reset()
    deadline = time.monotonic() + 10
    while (status := api.get(location)).header("Range") == "0-0" and time.monotonic() < deadline:
        time.sleep(0.05)
    kept = int(status.header("Range").partition("-")[2]) + 1
    assert 0 < kept <= arrived
    if arrived < PART:
        assert kept == arrived
    answer = api.patch(status.header("Location"), data[kept:], content_range=f"{kept}-{len(data) - 1}")
    assert answer.status == 202, answer
    assert_created(api.commit(answer.header("Location"), digest_of(data)), api, repository, digest_of(data), data)


def test_put_that_broke_off_leaves_nothing(api: Api, repository: str) -> None:
    data = noise("broken put", 100_000)
    location = api.begin(repository)
    with api.wire() as wire:
        wire.begin("PUT", f"{location}?digest={digest_of(data)}", {"Content-Length": str(len(data))})
        wire.send(data[:50_000])
        time.sleep(0.2)
        wire.reset()
    assert api.get(f"/v2/{repository}/blobs/{digest_of(data)}").status == 404
    assert_created(api.commit(location, digest_of(data), data), api, repository, digest_of(data), data)


def test_client_that_expects_100_continue_gets_it_where_its_body_is_wanted(api: Api, repository: str) -> None:
    with api.wire() as wire:
        head = {"Content-Length": "10", "Expect": "100-continue"}
        wire.begin("PATCH", api.begin(repository), head)
        assert wire.socket.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        wire.send(b"0123456789")
        assert wire.answer("PATCH").status == 202


def test_client_that_expects_100_continue_is_refused_before_its_body(api: Api, repository: str) -> None:
    with api.wire(timeout=5) as wire:
        head = {"Content-Length": "10", "Expect": "100-continue"}
        wire.begin("PATCH", f"/v2/{repository}/blobs/uploads/none", head)
        assert wire.socket.recv(1000).startswith(b"HTTP/1.1 404 ")


# Mounts


@pytest.mark.parametrize("size", ["small", "three parts"])
def test_mount_takes_a_blob_over(size: str, bytes_of: Callable[[str], bytes], api: Api, repository: str) -> None:
    data = bytes_of(size)
    digest = api.push_blob(repository, data)
    answer = api.post(f"/v2/{repository}/to/blobs/uploads/?mount={digest}&from={repository}")
    assert_created(answer, api, f"{repository}/to", digest, data)
    assert api.delete(f"/v2/{repository}/blobs/{digest}").status == 202
    assert api.blob(f"{repository}/to", digest).body == data


def test_mount_without_a_source_takes_it_from_anywhere(api: Api, repository: str) -> None:
    data = noise(repository, 1000)
    digest = api.push_blob(repository, data)
    answer = api.post(f"/v2/{repository}/to/blobs/uploads/?mount={digest}")
    assert_created(answer, api, f"{repository}/to", digest, data)


def test_mount_of_what_is_not_there_begins_an_upload(api: Api, repository: str) -> None:
    data = noise(repository, 1000)
    digest = digest_of(data)
    for query in (f"mount={digest}", f"mount={digest}&from={repository}/nowhere"):
        answer = api.post(f"/v2/{repository}/blobs/uploads/?{query}")
        assert answer.status == 202, answer
        assert_created(api.commit(answer.header("Location"), digest, data), api, repository, digest, data)
        assert api.delete(f"/v2/{repository}/blobs/{digest}").status == 202
        assert api.post(f"/v2/{repository}/blobs/uploads/?mount={digest}&from={repository}").status == 202


# Manifests


def test_push_by_digest_with_tags(api: Api, repository: str) -> None:
    api.push_blob(repository, EMPTY)
    body = image(annotations={"of": repository})
    answer = api.push_manifest(repository, f"{digest_of(body)}?tag=v1&tag=v1.0&tag=latest", body)
    assert answer.status == 201, answer
    assert answer.header("OCI-Tag") == "v1, v1.0, latest"
    assert answer.header("Location") == f"/v2/{repository}/manifests/{digest_of(body)}"
    for tag in ("v1", "v1.0", "latest"):
        assert api.get(f"/v2/{repository}/manifests/{tag}").body == body
    assert api.get(f"/v2/{repository}/tags/list").json() == {"name": repository, "tags": ["latest", "v1", "v1.0"]}


def test_push_of_a_referrer_says_its_subject(api: Api, repository: str) -> None:
    subject = api.push_image(repository, "v1")
    body = image(subject=descriptor(subject, OCI_MANIFEST), artifactType="application/vnd.x.signature")
    answer = api.push_manifest(repository, digest_of(body), body)
    assert answer.status == 201, answer
    assert answer.header("OCI-Subject") == digest_of(subject)
    listed = api.get(f"/v2/{repository}/referrers/{digest_of(subject)}")
    assert listed.header("Content-Type") == OCI_INDEX
    (entry,) = listed.json()["manifests"]
    assert (entry["digest"], entry["artifactType"]) == (digest_of(body), "application/vnd.x.signature")
    assert api.delete(f"/v2/{repository}/manifests/{digest_of(body)}").status == 202
    assert api.get(f"/v2/{repository}/referrers/{digest_of(subject)}").json()["manifests"] == []


def test_subject_that_is_missing_is_no_error(api: Api, repository: str) -> None:
    api.push_blob(repository, EMPTY)
    body = image(subject=descriptor(b"not there", OCI_MANIFEST))
    assert api.push_manifest(repository, "signature", body).header("OCI-Subject") == digest_of(b"not there")


def test_manifest_of_four_mebibytes_is_taken(api: Api, repository: str) -> None:
    api.push_blob(repository, EMPTY)
    padding = 4 * MIB - len(image(annotations={"a": ""}))
    body = image(annotations={"a": "x" * padding})
    assert len(body) == 4 * MIB
    assert api.push_manifest(repository, "big", body).status == 201
    assert api.put(f"/v2/{repository}/manifests/chunked", pieces(body, 65536), content_type=OCI_MANIFEST).status == 201
    for tag in ("big", "chunked"):
        assert api.get(f"/v2/{repository}/manifests/{tag}").body == body
