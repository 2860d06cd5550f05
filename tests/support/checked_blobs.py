"""Blobs and their checkpoints as a client of the extension looks at them: who sees them, and who does not."""

from __future__ import annotations

from tests.support.api import Api, descriptor, image
from tests.support.extension import SEGMENT, Extension
from tests.support.images import digest_of

from bucketry.hashing import Checkpoints, NotingHasher, new

KIB = 1024
LARGE = 2 * SEGMENT + 1000
"""Bytes: three parts."""


def checkpoints_of(data: bytes, segment: int = 64 * KIB) -> Checkpoints:
    hasher = NotingHasher(new("sha256"), segment)
    hasher.update(data)
    found = hasher.checkpoints()
    assert found is not None
    return found


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


def assert_verifies(found: Checkpoints, data: bytes) -> None:
    """A client that has the blob and its list is content."""
    assert (f"sha256:{found.digest}", found.size) == (digest_of(data), len(data))
    for number in range(found.count):
        check = found.check(number)
        start, stop = found.bounds(number)
        check.update(data[start:stop])
        assert check.holds(), number
