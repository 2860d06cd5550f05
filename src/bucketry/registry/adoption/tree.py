"""Names in the tree that distribution (v2, v3), Harbor and GitLab write below ``docker/registry/v2/``. Pure.

The parts of it that matter here (docs/rfcs/0005-adoption.md)::

    blobs/<alg>/<hh>/<hex>/data                                  bytes: of layers, configs and manifests
    repositories/<name>/_layers/<alg>/<hex>/link                 this repository has this blob
    repositories/<name>/_manifests/revisions/<alg>/<hex>/link    this repository has this manifest
    repositories/<name>/_manifests/tags/<tag>/current/link       where the tag points

A link is a file that holds a digest and nothing else. That of a layer or a manifest says under which digest the bytes
are: the one of its path, or, where that is not SHA-256, the SHA-256 of the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from bucketry.oci import Digest
from bucketry.oci.errors import DigestInvalid
from bucketry.oci.text import quoted
from bucketry.store.contract import FOREIGN_PREFIX

ROOT: Final = FOREIGN_PREFIX
REPOSITORIES: Final = f"{ROOT}repositories/"
MAX_LINK: Final = 1024
"""Bytes: no link is longer."""


class Kind(Enum):
    LAYER = "layer"
    REVISION = "revision"
    TAG = "tag"
    OTHER = "other"
    """Uploads, the history of tags, signatures of schema 1: nothing of it is taken over."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a repository. ``name``: the digest as text of a layer or revision, as its path has it; a tag's name.

    ``etag`` is the store's.
    """

    key: str
    repository: str
    kind: Kind
    name: str
    etag: str = ""


class LinkBroken(Exception):
    """What is wrong with a link's content, in a few words."""


def parse(key: str, etag: str = "") -> Entry | None:
    """What a key below `REPOSITORIES` is; None where it belongs to no repository. Nothing is checked of its names."""
    if not key.startswith(REPOSITORIES):
        return None
    # No part of a repository's name begins so.
    repository, mark, inner = key[len(REPOSITORIES) :].partition("/_")
    if not mark:
        return None
    kind, name = Kind.OTHER, ""
    match inner.split("/"):
        case ["layers", algorithm, digits, "link"]:
            kind, name = Kind.LAYER, f"{algorithm}:{digits}"
        case ["manifests", "revisions", algorithm, digits, "link"]:
            kind, name = Kind.REVISION, f"{algorithm}:{digits}"
        case ["manifests", "tags", tag, "current", "link"]:
            kind, name = Kind.TAG, tag
    return Entry(key, repository, kind, name, etag)


def listing(names_prefix: str) -> str:
    """The prefix of all keys of the repositories whose names begin with these whole parts (all where it is empty)."""
    return f"{REPOSITORIES}{names_prefix}/" if names_prefix else REPOSITORIES


def manifests(repository: str) -> str:
    """The prefix of all manifests and tags of one repository."""
    return f"{REPOSITORIES}{repository}/_manifests/"


def layer_link(repository: str, digest: Digest) -> str:
    return f"{REPOSITORIES}{repository}/_layers/{digest.algorithm}/{digest.hex}/link"


def revision_link(repository: str, digest: Digest) -> str:
    return f"{REPOSITORIES}{repository}/_manifests/revisions/{digest.algorithm}/{digest.hex}/link"


def tag_link(repository: str, tag: str) -> str:
    return f"{REPOSITORIES}{repository}/_manifests/tags/{tag}/current/link"


def data(digest: Digest) -> str:
    return f"{ROOT}blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/data"


def parse_link(body: bytes) -> Digest:
    """The digest in a link. Raises `LinkBroken`."""
    if not body:
        raise LinkBroken("the link is empty")
    try:
        return Digest.parse(body.decode("ascii"))
    except (UnicodeDecodeError, DigestInvalid):
        raise LinkBroken(f"the link holds no digest, but {quoted(body.decode('latin-1'), 40)}") from None


def link_target(body: bytes, digest: Digest) -> Digest:
    """Under which digest the bytes are that the link of ``digest`` speaks of. Raises `LinkBroken`."""
    target = parse_link(body)
    if target.algorithm == digest.algorithm and target != digest:
        raise LinkBroken(f"the link names {target} instead")
    return target
