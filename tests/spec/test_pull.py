"""Pulling: whole, in ranges, conditionally; through the server and by redirects; and what ends a right to it."""

from __future__ import annotations

import email.parser
import re
import time

import pytest
from tests.spec.conftest import Running
from tests.support.api import EMPTY, Answer, Api, descriptor, follow, image, noise
from tests.support.images import OCI_INDEX, OCI_MANIFEST, digest_of
from tests.support.reading import DOCKER_LIST, DOCKER_MANIFEST

SMALL = noise("small", 100_000)
"""Sent by the server on every store: a redirect would take longer."""
LARGE = noise("large", 700_000)
REPOSITORY = "tests/test-pull/shared"


@pytest.fixture
def small(api: Api) -> str:
    """The path of a blob that is there."""
    return f"/v2/{REPOSITORY}/blobs/{api.push_blob(REPOSITORY, SMALL)}"


@pytest.fixture
def large(api: Api) -> str:
    return f"/v2/{REPOSITORY}/blobs/{api.push_blob(REPOSITORY, LARGE)}"


def parts_of(answer: Answer) -> list[tuple[str, bytes]]:
    """Content-Range and bytes of each part of a multipart/byteranges answer, as a MIME parser sees them."""
    assert answer.status == 206, answer
    assert answer.header("Content-Length") == str(len(answer.body))
    head = f"Content-Type: {answer.header('Content-Type')}\r\n\r\n".encode()
    message = email.parser.BytesParser().parsebytes(head + answer.body)
    assert message.get_content_type() == "multipart/byteranges"
    parts = []
    for part in message.get_payload():
        assert not isinstance(part, str)
        assert part["Content-Type"] == "application/octet-stream"
        # A parser of mail rewrites line ends in a payload: the bytes are cut out of the body itself.
        range_header = part["Content-Range"]
        begin = answer.body.index(f"Content-Range: {range_header}\r\n\r\n".encode()) + len(range_header) + 19
        first, last = map(int, re.fullmatch(r"bytes (\d+)-(\d+)/\d+", range_header).groups())  # type: ignore[union-attr]
        parts.append((range_header, answer.body[begin : begin + last - first + 1]))
        assert answer.body[begin + last - first + 1 :].startswith(b"\r\n--")
    return parts


def headers_of(answer: Answer) -> dict[str, str]:
    """Without those that speak of one answer, or of the connection."""
    ignored = {"date", "x-request-id", "connection", "server"}
    return {name.lower(): value for name, value in answer.headers.items() if name.lower() not in ignored}


# Ranges


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-9", 0, 10),
        ("bytes=500-999", 500, 1000),
        ("bytes=99999-99999", 99_999, 100_000),
        ("bytes=99990-", 99_990, 100_000),
        ("bytes=0-", 0, 100_000),
        ("bytes=-1", 99_999, 100_000),
        ("bytes=-100000", 0, 100_000),
        ("bytes=-100001", 0, 100_000),
        ("bytes=10-99999999999", 10, 100_000),
        ("Bytes=5-6", 5, 7),
        ("bytes= 5-6", 5, 7),
        ("bytes=5-6,", 5, 7),
    ],
)
def test_one_range_is_those_very_bytes(asked: str, start: int, stop: int, api: Api, small: str) -> None:
    answer = api.get(small, range=asked)
    assert answer.status == 206, answer
    assert answer.body == SMALL[start:stop]
    assert answer.header("Content-Range") == f"bytes {start}-{stop - 1}/100000"
    assert answer.header("Content-Length") == str(stop - start)
    assert answer.header("Accept-Ranges") == "bytes"
    assert answer.header("Content-Type") == "application/octet-stream"


@pytest.mark.parametrize("asked", ["bytes=100000-", "bytes=100000-100001", "bytes=-0", "bytes=200000-,300000-"])
def test_range_beyond_the_end_is_416_with_the_size(asked: str, api: Api, small: str) -> None:
    answer = api.get(small, range=asked)
    assert answer.status == 416
    assert answer.header("Content-Range") == "bytes */100000"
    # A cache must not answer the next client, who asks for all, with it.
    assert "max-age" not in answer.headers.get("Cache-Control", "")


@pytest.mark.parametrize("asked", ["lines=0-9", "bytes", "bytes=a-b", "bytes=-", "0-9", "bytes=1-2-3", "bytes=0x1-2"])
def test_range_that_means_nothing_is_ignored(asked: str, api: Api, small: str) -> None:
    answer = api.get(small, range=asked)
    assert answer.status == 200
    assert answer.body == SMALL


def test_several_ranges_are_byte_equal_parts(api: Api, small: str) -> None:
    answer = api.get(small, range="bytes=0-9, 50000-50099 ,-10")
    assert parts_of(answer) == [
        ("bytes 0-9/100000", SMALL[:10]),
        ("bytes 50000-50099/100000", SMALL[50_000:50_100]),
        ("bytes 99990-99999/100000", SMALL[-10:]),
    ]


def test_several_ranges_are_joined_where_they_overlap_and_dropped_beyond_the_end(api: Api, small: str) -> None:
    answer = api.get(small, range="bytes=20-29,0-9,5-14,200000-300000,15-15")
    assert parts_of(answer) == [("bytes 0-15/100000", SMALL[:16]), ("bytes 20-29/100000", SMALL[20:30])]


def test_several_ranges_that_are_one_are_answered_as_one(api: Api, small: str) -> None:
    answer = api.get(small, range="bytes=0-9,10-19")
    assert answer.status == 206
    assert answer.body == SMALL[:20]
    assert answer.header("Content-Range") == "bytes 0-19/100000"
    assert answer.header("Content-Type") == "application/octet-stream"


def test_several_ranges_of_a_large_blob_are_never_redirected(api: Api, large: str) -> None:
    """Object stores answer them with the whole object."""
    answer = api.get(large, range="bytes=0-99,600000-699999")
    assert parts_of(answer) == [
        ("bytes 0-99/700000", LARGE[:100]),
        ("bytes 600000-699999/700000", LARGE[600_000:]),
    ]


def test_empty_blob_is_pulled(api: Api, repository: str) -> None:
    path = f"/v2/{repository}/blobs/{api.push_blob(repository, b'')}"
    answer = api.get(path)
    assert (answer.status, answer.body, answer.header("Content-Length")) == (200, b"", "0")
    assert api.get(path, range="bytes=0-0").status == 416
    assert api.head(path).header("Content-Length") == "0"


# Conditions


def test_blob_has_an_etag_and_is_304_for_who_has_it(api: Api, small: str, large: str) -> None:
    for path in (small, large):
        tag = f'"{path.rpartition("/")[2]}"'
        assert api.get(path).header("ETag") == tag
        for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            for method in ("GET", "HEAD"):
                answer = api.request(method, path, headers={"If-None-Match": condition})
                assert (answer.status, answer.body) == (304, b""), (method, condition)
                assert answer.header("ETag") == tag
        assert api.get(path, if_none_match='"other"').status in (200, 307)
        assert api.get(path, if_none_match=tag.strip('"')).status in (200, 307)


def test_manifest_has_an_etag_and_is_304_for_who_has_it(api: Api, repository: str) -> None:
    body = api.push_image(repository, "v1")
    tag = f'"{digest_of(body)}"'
    for reference in ("v1", digest_of(body)):
        path = f"/v2/{repository}/manifests/{reference}"
        assert api.get(path).header("ETag") == tag
        for method in ("GET", "HEAD"):
            answer = api.request(method, path, headers={"If-None-Match": tag})
            assert (answer.status, answer.body) == (304, b"")
            assert answer.header("Docker-Content-Digest") == digest_of(body)
        assert api.get(path, if_none_match='"sha256:other"').body == body


def test_tag_that_moved_is_not_304(api: Api, repository: str) -> None:
    first = api.push_image(repository, "v1")
    second = api.push_image(repository, "v1", layers=[b"changed"])
    answer = api.get(f"/v2/{repository}/manifests/v1", if_none_match=f'"{digest_of(first)}"')
    assert (answer.status, answer.body) == (200, second)
    assert answer.header("Cache-Control") == "no-cache"


@pytest.mark.parametrize(
    ("condition", "status"),
    [("the etag", 206), ('"other"', 200), ("W/the etag", 200), ("Tue, 24 Nov 2026 00:00:00 GMT", 200)],
)
def test_if_range_gives_the_range_of_the_same_and_the_whole_of_another(
    condition: str, status: int, api: Api, small: str
) -> None:
    tag = f'"{small.rpartition("/")[2]}"'
    answer = api.get(small, range="bytes=10-19", if_range=condition.replace("the etag", tag))
    assert answer.status == status
    assert answer.body == (SMALL[10:20] if status == 206 else SMALL)


# HEAD, headers and types


def test_head_of_a_manifest_has_the_headers_of_get(api: Api, repository: str) -> None:
    body = api.push_image(repository, "v1")
    for reference in ("v1", digest_of(body)):
        path = f"/v2/{repository}/manifests/{reference}"
        get, head = api.get(path), api.head(path)
        assert (head.status, head.body) == (200, b"")
        assert headers_of(head) == headers_of(get)
        assert head.header("Content-Length") == str(len(body))
        assert head.header("Docker-Content-Digest") == digest_of(body)


def test_head_of_a_blob_has_the_headers_of_get(api: Api, small: str) -> None:
    get, head = api.get(small), api.head(small)
    assert (get.status, head.status, head.body) == (200, 200, b"")
    assert headers_of(head) == headers_of(get)
    assert head.header("Docker-Content-Digest") == small.rpartition("/")[2]


def test_head_of_a_large_blob_says_its_size_and_is_no_redirect(api: Api, large: str) -> None:
    head = api.head(large)
    assert (head.status, head.body) == (200, b"")
    assert head.header("Content-Length") == "700000"


def index(media_type: str, manifest: bytes, child_type: str) -> bytes:
    entry = str(descriptor(manifest, child_type)).replace("'", '"')
    return f'{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{entry}]}}'.encode()


@pytest.mark.parametrize(
    "media_type",
    [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST, "application/vnd.acme.thing.v1+json"],
)
def test_manifest_keeps_its_type_and_every_byte(media_type: str, api: Api, repository: str) -> None:
    api.push_blob(repository, EMPTY)
    body = b" \n" + image(mediaType=media_type) + b"\n\n"
    if media_type in (OCI_INDEX, DOCKER_LIST):
        child = api.push_image(repository, "child")
        body = b" \n" + index(media_type, child, OCI_MANIFEST) + b"\n\n"
    pushed = api.push_manifest(repository, "v1", body, media_type)
    assert pushed.status == 201, pushed
    assert pushed.header("Docker-Content-Digest") == digest_of(body)
    for path in ("v1", digest_of(body), pushed.header("Location").rpartition("/")[2]):
        answer = api.get(f"/v2/{repository}/manifests/{path}", accept="application/json")
        assert answer.body == body
        assert answer.header("Content-Type") == media_type
        assert api.head(f"/v2/{repository}/manifests/{path}").header("Content-Type") == media_type


# Redirects


def test_large_blob_is_redirected_to_the_bucket_and_small_ones_are_not(
    s3_registry: object, request: pytest.FixtureRequest
) -> None:
    api = Api(int(request.getfixturevalue("s3_registry").host.rpartition(":")[2]))
    digest = api.push_blob(REPOSITORY, LARGE)
    answer = api.get(f"/v2/{REPOSITORY}/blobs/{digest}")
    assert (answer.status, answer.body) == (307, b"")
    assert answer.header("Docker-Content-Digest") == digest
    assert digest.partition(":")[2] not in answer.header("Location")
    # Whoever keeps the redirect must not keep it for longer than the URL lives.
    assert "immutable" not in answer.headers.get("Cache-Control", "")
    whole = follow(answer)
    assert (whole.status, whole.body) == (200, LARGE)
    assert whole.header("Content-Type") == "application/octet-stream"
    part = follow(answer, range="bytes=699990-")
    assert (part.status, part.body) == (206, LARGE[-10:])
    # A client that resumes (containerd fetches parts in parallel so) is redirected as well.
    ranged = api.get(f"/v2/{REPOSITORY}/blobs/{digest}", range="bytes=1000-")
    assert ranged.status == 307
    assert follow(ranged, range="bytes=1000-").body == LARGE[1000:]
    small = api.push_blob(REPOSITORY, SMALL)
    assert api.get(f"/v2/{REPOSITORY}/blobs/{small}").status == 200


def test_range_beyond_the_end_of_a_large_blob_is_416_and_no_redirect(api: Api, large: str) -> None:
    answer = api.get(large, range="bytes=700000-")
    assert answer.status == 416
    assert answer.header("Content-Range") == "bytes */700000"


@pytest.mark.parametrize(
    ("client", "status"),
    [
        ("192.0.2.1", 200),
        ("10.1.2.3", 307),
        ("10.9.2.3", 200),
        ("fd00::1", 307),
        ("2001:db8::1", 200),
        ("10.1.2.3, 192.0.2.1", 200),
        ("192.0.2.1, 10.1.2.3", 307),
        ("10.1.2.3, 127.0.0.1", 307),
        ("", 200),
        ("nonsense", 200),
        ("::ffff:10.1.2.3", 307),
    ],
)
def test_delivery_goes_by_the_network_of_the_client(client: str, status: int, proxying: Running) -> None:
    """`proxy`, but 10.0.0.0/8 and fd00::/8 are redirected, and of these 10.9.0.0/16 is not."""
    digest = proxying.api.push_blob("networks", LARGE)
    answer = proxying.api.get(f"/v2/networks/blobs/{digest}", **({"x_forwarded_for": client} if client else {}))
    assert answer.status == status, answer
    assert (follow(answer) if status == 307 else answer).body == LARGE


def test_forwarded_address_of_a_stranger_counts_for_nothing(api: Api, large: str, strict: Running) -> None:
    """Without trusted_proxies the log names the connection's address."""
    assert strict.api.get("/v2/", x_forwarded_for="10.1.2.3", x_request_id="stranger").status == 200
    deadline = time.monotonic() + 5
    while '"stranger"' not in strict.server.log() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "10.1.2.3" not in strict.server.log()


def test_proxied_large_blob_is_whole_and_in_ranges(proxying: Running) -> None:
    data = noise("proxied", 3_000_000)
    path = f"/v2/proxied/blobs/{proxying.api.push_blob('proxied', data)}"
    assert proxying.api.get(path).body == data
    answer = proxying.api.get(path, range="bytes=1048570-2097160")
    assert (answer.status, answer.body) == (206, data[1_048_570:2_097_161])
    assert parts_of(proxying.api.get(path, range="bytes=0-0,1048570-2097160"))[1][1] == data[1_048_570:2_097_161]
    get, head = proxying.api.get(path), proxying.api.head(path)
    assert headers_of(get) == headers_of(head)


# What ends a right


def test_blob_that_was_deleted_is_gone_at_once(api: Api, repository: str) -> None:
    """From the cache of presigned URLs too, and from the one repository only."""
    path = f"/v2/{repository}/blobs/{api.push_blob(repository, LARGE)}"
    other = f"/v2/{repository}/other/blobs/{api.push_blob(f'{repository}/other', LARGE)}"
    for _ in range(4):
        assert api.get(path).status in (200, 307)
    assert api.delete(path).status == 202
    for _ in range(4):  # Every worker.
        assert api.get(path).error() == (404, "BLOB_UNKNOWN")
        assert api.get(path, range="bytes=0-1,5-6").status == 404
        assert api.get(path, if_none_match="*").status == 404
        assert api.head(path).status == 404
    assert api.delete(path).error() == (404, "BLOB_UNKNOWN")
    assert api.blob(f"{repository}/other", other.rpartition("/")[2]).body == LARGE
    api.push_blob(repository, LARGE)
    assert api.blob(repository, path.rpartition("/")[2]).body == LARGE


def test_manifest_that_was_deleted_is_gone_at_once_with_its_tags(api: Api, repository: str) -> None:
    body = api.push_image(repository, "v1")
    for tag in ("v2", "v3"):
        assert api.push_manifest(repository, tag, body).status == 201
    other = api.push_image(repository, "other", layers=[b"a layer"])
    assert api.delete(f"/v2/{repository}/manifests/v3").status == 202
    assert api.get(f"/v2/{repository}/manifests/v3").error() == (404, "MANIFEST_UNKNOWN")
    assert api.get(f"/v2/{repository}/manifests/{digest_of(body)}").status == 200
    assert api.delete(f"/v2/{repository}/manifests/{digest_of(body)}").status == 202
    for reference in ("v1", "v2", digest_of(body)):
        for _ in range(3):
            assert api.get(f"/v2/{repository}/manifests/{reference}").error() == (404, "MANIFEST_UNKNOWN")
    assert api.get(f"/v2/{repository}/tags/list").json()["tags"] == ["other"]
    assert api.get(f"/v2/{repository}/manifests/other").body == other


# What should not happen


def test_blob_whose_bytes_the_store_lost_is_an_error_before_any_byte(strict: Running) -> None:
    data = noise("lost", 54_321)
    path = f"/v2/lost/blobs/{strict.api.push_blob('lost', data)}"
    assert strict.api.get(path).body == data
    for file in strict.folder.rglob("*"):
        if file.is_file() and file.stat().st_size == len(data):
            file.unlink()
    for asked in ("", "bytes=0-9", "bytes=0-9,20-29"):
        answer = strict.api.get(path, **({"range": asked} if asked else {}))
        assert answer.error() == (500, "UNKNOWN")
        assert "its owner must look at its log" in answer.message
    assert "Traceback" not in strict.server.log()
