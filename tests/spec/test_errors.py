"""Every error a client can be answered with: status, code, and a message that says what to do."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from tests.spec.conftest import Running
from tests.spec.sessions import expired_session
from tests.support.api import ABSENT, EMPTY, Answer, Api, descriptor, image, noise
from tests.support.images import OCI_INDEX, digest_of
from tests.support.reading import DOCKER_MANIFEST

from bucketry.oci import errors
from bucketry.oci.errors import OCIError

BLOB = b"a blob that is there"
LARGE = 4 * 1024 * 1024 + 1
SHA512 = "sha512:" + "0" * 128


@dataclass(frozen=True)
class Case:
    """``name`` is a class of `bucketry.oci.errors`; ``says`` is a pattern that the message must hold."""

    name: str
    what: str
    ask: Callable[[Api, str], Answer]
    status: int
    code: str
    says: str


def cancelled(api: Api, repository: str) -> str:
    location = api.begin(repository)
    assert api.delete(location).status == 204
    return location


def cancelled_in_the_middle(api: Api, repository: str) -> str:
    location = api.patch(api.begin(repository), b"some bytes").header("Location")
    assert api.delete(location).status == 204
    return location


def elsewhere(api: Api, repository: str) -> str:
    """The location of a session, with another repository in it."""
    location = api.patch(api.begin(repository), BLOB).header("Location")
    assert f"/v2/{repository}/" in location
    return location.replace(f"/v2/{repository}/", f"/v2/{repository}/elsewhere/")


def forged(api: Api, repository: str) -> str:
    """The location of a session, with its last hex digit changed."""
    location = api.begin(repository)
    return location[:-1] + ("0" if location[-1] != "0" else "1")


def manifest(body: bytes, media_type: str = "") -> Callable[[Api, str], Answer]:
    def push(api: Api, repository: str) -> Answer:
        headers = {"content_type": media_type} if media_type else {}
        return api.put(f"/v2/{repository}/manifests/v1", body, **headers)

    return push


def get(path: str) -> Callable[[Api, str], Answer]:
    """``{}`` is the repository."""
    return lambda api, repository: api.get(path.format(repository))


def patch(body: bytes, content_range: str) -> Callable[[Api, str], Answer]:
    return lambda api, repository: api.patch(api.begin(repository), body, content_range=content_range)


def second_chunk(content_range: str) -> Callable[[Api, str], Answer]:
    """After a first one of 10 bytes."""

    def push(api: Api, repository: str) -> Answer:
        location = api.patch(api.begin(repository), b"0123456789", content_range="0-9").header("Location")
        return api.patch(location, b"abcdefghij", content_range=content_range)

    return push


def committed(body: bytes, digest: str) -> Callable[[Api, str], Answer]:
    """After its bytes went in a PATCH."""
    return lambda api, repository: api.commit(api.patch(api.begin(repository), body).header("Location"), digest)


def put_short(api: Api, repository: str) -> Answer:
    """A chunked body of fewer bytes than its Content-Range says."""
    return api.patch(api.begin(repository), [b"01234"], content_range="0-9")


CASES = [
    Case("NameInvalid", "capital letter", get("/v2/{}/Team/manifests/v1"), 400, "NAME_INVALID", "lower-case"),
    Case("NameInvalid", "empty part", get("/v2/{}//a/blobs/" + ABSENT), 400, "NAME_INVALID", "separator"),
    Case("NameInvalid", "tags of one", get("/v2/-{}/tags/list"), 400, "NAME_INVALID", "such as team/app"),
    Case("NameInvalid", "too long", get("/v2/{}/" + "a" * 255 + "/tags/list"), 400, "NAME_INVALID", "at most 255"),
    Case(
        "NameInvalid",
        "source of a mount",
        lambda api, repository: api.post(f"/v2/{repository}/blobs/uploads/?mount={ABSENT}&from=A"),
        400,
        "NAME_INVALID",
        "from='A'.*lower-case",
    ),
    Case("NameInvalid", "last of the catalog", get("/v2/_catalog?last=A"), 400, "NAME_INVALID", "lower-case"),
    Case("NameUnknown", "tags of nothing", get("/v2/{}/nowhere/tags/list"), 404, "NAME_UNKNOWN", "no repository"),
    Case("TagInvalid", "dash", get("/v2/{}/manifests/-v1"), 400, "MANIFEST_INVALID", "not beginning with"),
    Case("TagInvalid", "long", get("/v2/{}/manifests/" + "a" * 129), 400, "MANIFEST_INVALID", "1 to 128"),
    Case(
        "TagInvalid",
        "in ?tag=",
        lambda api, repository: api.push_manifest(repository, digest_of(image()) + "?tag=a/b", image()),
        400,
        "MANIFEST_INVALID",
        "'a/b' is not a tag",
    ),
    Case("TagInvalid", "last", get("/v2/{}/tags/list?last=%00"), 400, "MANIFEST_INVALID", "is not a tag"),
    Case("DigestInvalid", "of a blob", get("/v2/{}/blobs/sha256:abc"), 400, "DIGEST_INVALID", "exactly 64"),
    Case("DigestInvalid", "no digest", get("/v2/{}/blobs/latest"), 400, "DIGEST_INVALID", "write algorithm:hex"),
    Case(
        "DigestInvalid",
        "capitals",
        get("/v2/{}/manifests/sha256:" + "A" * 64),
        400,
        "DIGEST_INVALID",
        "lower-case hex",
    ),
    Case("DigestInvalid", "subject", get("/v2/{}/referrers/v1"), 400, "DIGEST_INVALID", "write algorithm:hex"),
    Case("DigestInvalid", "last referrer", get("/v2/{}/referrers/" + ABSENT + "?last=x"), 400, "DIGEST_INVALID", "x"),
    Case(
        "DigestInvalid",
        "commit without",
        lambda api, repository: api.put(api.begin(repository)),
        400,
        "DIGEST_INVALID",
        r"needs \?digest=",
    ),
    Case(
        "DigestInvalid",
        "mount",
        lambda api, repository: api.post(f"/v2/{repository}/blobs/uploads/?mount=x&from={repository}"),
        400,
        "DIGEST_INVALID",
        "write algorithm:hex",
    ),
    Case("UnsupportedAlgorithm", "blob", get("/v2/{}/blobs/md5:0123"), 400, "DIGEST_INVALID", "use sha256 or sha512"),
    Case(
        "UnsupportedAlgorithm",
        "commit",
        lambda api, repository: api.commit(api.begin(repository), "blake3:" + "0" * 64),
        400,
        "DIGEST_INVALID",
        "use sha256 or sha512",
    ),
    Case(
        "UnsupportedAlgorithm",
        "declared",
        lambda api, repository: api.post(f"/v2/{repository}/blobs/uploads/?digest-algorithm=md5"),
        400,
        "DIGEST_INVALID",
        "sha256 and sha512",
    ),
    Case("DigestMismatch", "commit", committed(BLOB, ABSENT), 400, "DIGEST_INVALID", "the bytes have the digest sha2"),
    Case("DigestMismatch", "sha512", committed(BLOB, SHA512), 400, "DIGEST_INVALID", "the bytes have the digest sha5"),
    Case(
        "DigestMismatch",
        "put",
        lambda api, repository: api.commit(api.begin(repository), ABSENT, BLOB),
        400,
        "DIGEST_INVALID",
        "the bytes have the digest",
    ),
    Case(
        "DigestMismatch",
        "post",
        lambda api, repository: api.post(f"/v2/{repository}/blobs/uploads/?digest={ABSENT}", BLOB),
        400,
        "DIGEST_INVALID",
        "the bytes have the digest",
    ),
    Case(
        "DigestMismatch",
        "manifest",
        lambda api, repository: api.push_manifest(repository, ABSENT, image()),
        400,
        "DIGEST_INVALID",
        "send the very bytes",
    ),
    Case("SizeInvalid", "Content-Range", patch(b"0123456789", "0-10"), 400, "SIZE_INVALID", "11 bytes.*says 10"),
    Case("SizeInvalid", "chunked body", put_short, 400, "SIZE_INVALID", "announced with 10 bytes and had 5"),
    Case("BlobUnknown", "get", get("/v2/{}/blobs/" + ABSENT), 404, "BLOB_UNKNOWN", "has no blob sha256:0"),
    Case("BlobUnknown", "get sha512", get("/v2/{}/blobs/" + SHA512), 404, "BLOB_UNKNOWN", "has no blob sha512:0"),
    Case(
        "BlobUnknown",
        "delete",
        lambda api, repository: api.delete(f"/v2/{repository}/blobs/{ABSENT}"),
        404,
        "BLOB_UNKNOWN",
        "has no blob",
    ),
    Case(
        "BlobUnknown",
        "of another repository",
        lambda api, repository: api.get(f"/v2/{repository}/x/blobs/{api.push_blob(repository, BLOB)}"),
        404,
        "BLOB_UNKNOWN",
        "/x has no blob",
    ),
    Case(
        "UploadUnknown",
        "never was",
        lambda api, repository: api.patch(f"/v2/{repository}/blobs/uploads/nothing", BLOB),
        404,
        "BLOB_UPLOAD_UNKNOWN",
        "Start again with POST",
    ),
    Case(
        "UploadUnknown",
        "status of none",
        get("/v2/{}/blobs/uploads/f1e2d3c4-0000-4000-8000-000000000000"),
        404,
        "BLOB_UPLOAD_UNKNOWN",
        "Start again with POST",
    ),
    *(
        Case(
            "UploadUnknown",
            f"{how.__name__} {method}",
            lambda api, repository, how=how, method=method: api.request(  # type: ignore[misc]
                method,
                how(api, repository) + (f"?digest={digest_of(BLOB)}" if method == "PUT" else ""),
                BLOB if method in ("PATCH", "PUT") else None,
            ),
            404,
            "BLOB_UPLOAD_UNKNOWN",
            "Start again with POST",
        )
        for how in (forged, elsewhere, cancelled, cancelled_in_the_middle)
        for method in ("GET", "PATCH", "PUT", "DELETE")
    ),
    Case("UploadInvalid", "words", patch(BLOB, "all of it"), 400, "BLOB_UPLOAD_INVALID", "write FIRST-LAST"),
    Case("UploadInvalid", "no end", patch(BLOB, "0-"), 400, "BLOB_UPLOAD_INVALID", "write FIRST-LAST"),
    Case("UploadInvalid", "backwards", patch(BLOB, "9-0"), 400, "BLOB_UPLOAD_INVALID", "write FIRST-LAST"),
    Case("UploadInvalid", "other unit", patch(BLOB, "lines 0-19/20"), 400, "BLOB_UPLOAD_INVALID", "write FIRST-LAST"),
    Case("RangeInvalid", "gap", second_chunk("20-29"), 416, "BLOB_UPLOAD_INVALID", "at byte 20.*stands at 10"),
    Case("RangeInvalid", "twice", second_chunk("0-9"), 416, "BLOB_UPLOAD_INVALID", "at byte 0.*stands at 10"),
    Case("RangeInvalid", "overlap", second_chunk("5-14"), 416, "BLOB_UPLOAD_INVALID", "at byte 5.*stands at 10"),
    Case("ManifestUnknown", "tag", get("/v2/{}/manifests/none"), 404, "MANIFEST_UNKNOWN", "has no tag none"),
    Case("ManifestUnknown", "digest", get("/v2/{}/manifests/" + ABSENT), 404, "MANIFEST_UNKNOWN", "has no manifest sh"),
    Case(
        "ManifestUnknown",
        "delete",
        lambda api, repository: api.delete(f"/v2/{repository}/manifests/none"),
        404,
        "MANIFEST_UNKNOWN",
        "has no tag none",
    ),
    Case("ManifestInvalid", "no JSON", manifest(b"hello"), 400, "MANIFEST_INVALID", "not JSON"),
    Case("ManifestInvalid", "empty", manifest(b""), 400, "MANIFEST_INVALID", "."),
    Case("ManifestInvalid", "no object", manifest(b"[]"), 400, "MANIFEST_INVALID", "object"),
    Case("ManifestInvalid", "deep", manifest(b"[" * 10_000 + b"]" * 10_000), 400, "MANIFEST_INVALID", "."),
    Case("ManifestInvalid", "no config", manifest(image(config=None)), 400, "MANIFEST_INVALID", "has no config"),
    Case("ManifestInvalid", "schema 1", manifest(image(schemaVersion=1)), 400, "MANIFEST_INVALID", "current client"),
    Case(
        "ManifestInvalid",
        "negative size",
        manifest(image(config={**descriptor(EMPTY), "size": -1})),
        400,
        "MANIFEST_INVALID",
        "size",
    ),
    Case(
        "ManifestInvalid",
        "bad digest within",
        manifest(image(layers=[], subject={**descriptor(EMPTY), "digest": "sha256:../../x"})),
        400,
        "MANIFEST_INVALID",
        "digest",
    ),
    Case(
        "ManifestInvalid",
        "two types",
        manifest(image(), DOCKER_MANIFEST),
        400,
        "MANIFEST_INVALID",
        "send the manifest's own type",
    ),
    Case("ManifestInvalid", "twice", manifest(image()[:-1] + b',"layers":[]}'), 400, "MANIFEST_INVALID", "twice"),
    Case("ManifestInvalid", "wrong case", manifest(image()[:-1] + b',"Layers":[]}'), 400, "MANIFEST_INVALID", "Layers"),
    Case("ManifestInvalid", "ambiguous", manifest(image(manifests=[])), 400, "MANIFEST_INVALID", "."),
    Case(
        "ManifestInvalid",
        "ambiguous vendor's",
        manifest(image(manifests=[], mediaType="application/vnd.x+json")),
        400,
        "MANIFEST_INVALID",
        "push the image and the index apart",
    ),
    Case("ManifestTooLarge", "declared", manifest(b" " * LARGE), 413, "MANIFEST_INVALID", "more than 4194304 bytes"),
    Case(
        "ManifestTooLarge",
        "chunked",
        lambda api, repository: api.put(f"/v2/{repository}/manifests/v1", [b" " * 65536] * 65),
        413,
        "MANIFEST_INVALID",
        "more than 4194304 bytes",
    ),
    Case(
        "ManifestBlobUnknown",
        "layer",
        manifest(image(layers=[b"nobody has this"])),
        404,
        "MANIFEST_BLOB_UNKNOWN",
        "Push them first",
    ),
    Case(
        "ManifestBlobUnknown",
        "child",
        manifest(
            b'{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%s","digest":"%s","size":2}]}'
            % (OCI_INDEX.encode(), DOCKER_MANIFEST.encode(), ABSENT.encode())
        ),
        404,
        "MANIFEST_BLOB_UNKNOWN",
        "Push them first",
    ),
    Case(
        "ParameterInvalid",
        "tag twice",
        lambda api, repository: api.push_manifest(repository, "v1?tag=v2", image()),
        400,
        "UNSUPPORTED",
        "by tag already",
    ),
    Case("RouteUnknown", "root", get("/v2/nothing"), 404, "UNSUPPORTED", "no such path"),
    Case("RouteUnknown", "extension", get("/v2/{}/_other/thing"), 404, "UNSUPPORTED", "no such path"),
    Case("RouteUnknown", "outside", get("/v1/search"), 404, "UNSUPPORTED", "below /v2/"),
    Case("RouteUnknown", "below a tag", get("/v2/{}/manifests/v1/more"), 404, "UNSUPPORTED", "no such path"),
    *(
        Case("Unsupported", f"{method} {path}", lambda api, repository, method=method, path=path: api.request(
            method, path.format(repository)), 405, "UNSUPPORTED", f"{method} is not offered here")  # type: ignore[misc]
        for method, path in (
            ("POST", "/v2/"),
            ("DELETE", "/v2/_catalog"),
            ("POST", "/v2/{}/manifests/v1"),
            ("PATCH", "/v2/{}/blobs/" + ABSENT),
            ("GET", "/v2/{}/blobs/uploads/"),
            ("POST", "/v2/{}/blobs/uploads/x"),
            ("PUT", "/v2/{}/referrers/" + ABSENT),
            ("DELETE", "/v2/{}/tags/list"),
            ("OPTIONS", "/v2/{}/tags/list"),
            ("POST", "/healthz"),
        )
    ),
    *(
        Case("ParameterInvalid", f"n={n}", get("/v2/{}/tags/list?n=" + n), 400, "UNSUPPORTED", "no number of entries")
        for n in ("-1", "x", "1.5", "0x10", "%D9%A3", "", "+1", "99999999999999999999999999")
    ),
]  # fmt: skip

ELSEWHERE = {
    "Denied": "of a read-only store: tests/chaos/test_store_faults.py",
    "Unauthorized": "no route asks for credentials yet",
    "TooManyRequests": "nothing is limited by rate yet",
}


def test_every_error_a_client_can_get_is_in_the_table() -> None:
    named = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, OCIError)}
    assert named - {"OCIError"} == {case.name for case in CASES} | set(ELSEWHERE)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.name}: {case.what}"[:80] for case in CASES])
def test_error_has_its_status_its_code_and_a_message_that_helps(case: Case, api: Api, repository: str) -> None:
    answer = case.ask(api, repository)
    assert answer.error() == (case.status, case.code), answer
    assert re.search(case.says, answer.message), answer
    assert len(answer.message) < 600
    assert answer.message.isprintable()


@pytest.mark.parametrize(
    "path",
    ["/v2/{}/manifests/none", "/v2/{}/manifests/" + ABSENT, "/v2/{}/blobs/" + ABSENT],
    ids=["tag", "digest", "blob"],
)
def test_head_of_something_unknown_is_404_without_a_body(path: str, api: Api, repository: str) -> None:
    answer = api.head(path.format(repository))
    assert answer.status == 404
    assert answer.body == b""


def test_chunk_out_of_order_is_told_where_to_go_on(api: Api, repository: str) -> None:
    first = api.patch(api.begin(repository), b"0123456789", content_range="0-9")
    refused = api.patch(first.header("Location"), b"xyz", content_range="7-9")
    assert refused.error() == (416, "BLOB_UPLOAD_INVALID")
    assert refused.header("Range") == "0-9"
    assert refused.json()["errors"][0]["detail"] == {"offset": 10}
    second = api.patch(refused.header("Location"), b"abc", content_range="10-12")
    assert second.status == 202, second
    data = b"0123456789abc"
    assert api.commit(second.header("Location"), digest_of(data)).status == 201
    assert api.blob(repository, digest_of(data)).body == data


def test_chunk_out_of_order_at_the_very_beginning_is_told_where_to_go_on(api: Api, repository: str) -> None:
    refused = api.patch(api.begin(repository), b"xyz", content_range="7-9")
    assert refused.error() == (416, "BLOB_UPLOAD_INVALID")
    assert refused.header("Range") == "0-0"
    second = api.patch(refused.header("Location"), b"abc", content_range="0-2")
    assert second.status == 202, second
    assert api.commit(second.header("Location"), digest_of(b"abc")).status == 201


def test_refused_manifest_leaves_nothing(api: Api, repository: str) -> None:
    body = image(layers=[b"nobody has this"])
    assert api.push_manifest(repository, "v1", body).status == 404
    assert api.get(f"/v2/{repository}/manifests/v1").status == 404
    assert api.get(f"/v2/{repository}/manifests/{digest_of(body)}").status == 404
    assert api.get(f"/v2/{repository}/tags/list").error() == (404, "NAME_UNKNOWN")


def test_wrong_digest_leaves_the_session_as_it_was(api: Api, repository: str) -> None:
    location = api.patch(api.begin(repository), BLOB).header("Location")
    assert api.commit(location, ABSENT).status == 400
    assert api.get(f"/v2/{repository}/blobs/{ABSENT}").status == 404
    assert api.get(f"/v2/{repository}/blobs/{digest_of(BLOB)}").status == 404
    assert api.commit(location, digest_of(BLOB)).status == 201
    assert api.blob(repository, digest_of(BLOB)).body == BLOB


def test_wrong_digest_of_a_large_blob_leaves_the_session_as_it_was(api: Api, repository: str) -> None:
    data = noise(repository, 9 * 1024 * 1024)
    location = api.patch(api.begin(repository), data).header("Location")
    assert api.commit(location, ABSENT).error() == (400, "DIGEST_INVALID")
    assert api.commit(location, digest_of(data)).status == 201
    assert api.blob(repository, digest_of(data)).body == data


def test_method_not_allowed_says_which_are(api: Api, repository: str) -> None:
    assert api.post("/v2/").header("Allow") == "GET, HEAD"
    answer = api.request("PATCH", f"/v2/{repository}/manifests/v1", b"")
    assert answer.header("Allow") == "GET, HEAD, PUT, DELETE"


# What the configuration forbids


def test_expired_session_is_unknown_on_every_method(strict: Running) -> None:
    location = expired_session(strict.folder, "team/app", seconds_ago=61)
    path = f"/v2/team/app/blobs/uploads/{location}"
    for method, query in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("PUT", f"?digest={digest_of(BLOB)}")):
        answer = strict.api.request(method, path + query, BLOB if method in ("PATCH", "PUT") else None)
        assert answer.error() == (404, "BLOB_UPLOAD_UNKNOWN"), method
        assert re.search(r"expired.*Start again with POST", answer.message), answer
    younger = expired_session(strict.folder, "team/app", seconds_ago=1)
    assert strict.api.get(f"/v2/team/app/blobs/uploads/{younger}").status == 204


@pytest.mark.parametrize("what", ["tag", "manifest", "blob"])
def test_delete_that_is_disabled_deletes_nothing(what: str, strict: Running) -> None:
    api = strict.api
    body = api.push_image("delete/disabled", "v1")
    paths = {"tag": "manifests/v1", "manifest": f"manifests/{digest_of(body)}", "blob": f"blobs/{digest_of(EMPTY)}"}
    answer = api.delete(f"/v2/delete/disabled/{paths[what]}")
    assert answer.error() == (405, "UNSUPPORTED")
    assert "delete.enabled" in answer.message
    for path in paths.values():
        assert api.get(f"/v2/delete/disabled/{path}").status == 200


def test_catalog_that_is_disabled_is_not_there(strict: Running) -> None:
    for method in ("GET", "HEAD", "POST"):
        assert strict.api.request(method, "/v2/_catalog").status == 404
    assert strict.api.get("/v2/_catalog").error() == (404, "UNSUPPORTED")


def test_manifest_limit_is_the_configured_one(strict: Running) -> None:
    strict.api.push_blob("limit", EMPTY)
    padding = 2048 - len(image(annotations={"a": ""}))
    fits = image(annotations={"a": "x" * padding})
    assert len(fits) == 2048
    assert strict.api.push_manifest("limit", "v1", fits).status == 201
    over = image(annotations={"a": "x" * (padding + 1)})
    assert strict.api.push_manifest("limit", "v2", over).error() == (413, "MANIFEST_INVALID")


def test_mount_from_anywhere_that_is_disabled_begins_an_upload(strict: Running) -> None:
    digest = strict.api.push_blob("mount/source", BLOB)
    answer = strict.api.post(f"/v2/mount/target/blobs/uploads/?mount={digest}")
    assert answer.status == 202, answer
    assert strict.api.get(f"/v2/mount/target/blobs/{digest}").status == 404
    answer = strict.api.post(f"/v2/mount/target/blobs/uploads/?mount={digest}&from=mount/source")
    assert answer.status == 201, answer
