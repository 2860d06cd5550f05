"""The one module that knows key names: bucket format 1 (docs/reference/bucket-format.md).

``~`` cannot occur in a repository name, so nothing a user names collides with anything here.
"""

from __future__ import annotations

from bucketry.oci import Digest
from bucketry.store.contract import BULK_PREFIX

FORMAT_KEY = "bucketry.json"
CATALOG_PREFIX = "catalog/"
UPLOADS_PREFIX = "uploads/"
ACCESS_KEYS_PREFIX = "access/keys/"
ROBOTS_PREFIX = "access/robots/"


def record(digest: Digest) -> str:
    """The blob record. The two hex digits spread records over a store's partitions."""
    return f"blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"


def checkpoints(digest: Digest) -> str:
    """The SHA-256 checkpoints of a blob, as `bucketry.hashing.Checkpoints.encode` gives them."""
    return f"checkpoints/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"


def data(token: str) -> str:
    """The bytes of a blob, under a random ``token`` of hex digits that one attempt made for itself."""
    return f"{BULK_PREFIX}{token[:2]}/{token}"


def link(repository: str, digest: Digest) -> str:
    return f"repos/{repository}/~blobs/{digest.algorithm}/{digest.hex}"


def manifest(repository: str, digest: Digest) -> str:
    return f"repos/{repository}/~manifests/{digest.algorithm}/{digest.hex}"


def tags(repository: str) -> str:
    return f"repos/{repository}/~tags/"


def tag(repository: str, name: str) -> str:
    return f"{tags(repository)}{name}"


def markers(repository: str) -> str:
    """The prefix of the markers of all manifests."""
    return f"repos/{repository}/~tagged/"


def tagged(repository: str, digest: Digest) -> str:
    """The prefix of the markers that say which tags may point at a manifest."""
    return f"{markers(repository)}{digest.algorithm}/{digest.hex}/"


def marked(repository: str, marker: str) -> tuple[Digest, str]:
    """The manifest and the tag that the key of a marker names."""
    algorithm, digits, name = marker.removeprefix(markers(repository)).split("/")
    return Digest(algorithm, digits), name


def referrers(repository: str, subject: Digest, algorithm: str) -> str:
    """The prefix of a subject's referrers whose own digests have this algorithm."""
    return f"repos/{repository}/~referrers/{subject.algorithm}/{subject.hex}/{algorithm}/"


def referrer(repository: str, subject: Digest, digest: Digest) -> str:
    return f"{referrers(repository, subject, digest.algorithm)}{digest.hex}"


def adopted(repository: str) -> str:
    """The prefix of the notes of what was taken over from another registry's tree (docs/rfcs/0005-adoption.md)."""
    return f"repos/{repository}/~adopted/"


def adopted_manifests(repository: str, algorithm: str) -> str:
    return f"{adopted(repository)}manifests/{algorithm}/"


def adopted_manifest(repository: str, digest: Digest) -> str:
    return f"{adopted_manifests(repository, digest.algorithm)}{digest.hex}"


def adopted_tags(repository: str) -> str:
    return f"{adopted(repository)}tags/"


def adopted_tag(repository: str, name: str) -> str:
    return f"{adopted_tags(repository)}{name}"


def upload(session_id: str) -> str:
    return f"{UPLOADS_PREFIX}{session_id}"


def access_key(kid: str) -> str:
    """A key that signs the registry's own tokens (docs/rfcs/0006-access.md)."""
    return f"{ACCESS_KEYS_PREFIX}{kid}"


def robot(name: str) -> str:
    """The record of a robot; its name has no ``/``."""
    return f"{ROBOTS_PREFIX}{name}"


# In a name "/" sorts between "." and "0". "." becomes ".-" and "/" becomes "..": no code is the beginning of another
# and they sort as what they stand for, so that a flat listing of the catalog is in the order of the names themselves.
def escape_name(name: str) -> str:
    return name.replace(".", ".-").replace("/", "..")


def unescape_name(escaped: str) -> str:
    return escaped.replace("..", "/").replace(".-", ".")


def catalog(repository: str) -> str:
    return f"{CATALOG_PREFIX}{escape_name(repository)}"
