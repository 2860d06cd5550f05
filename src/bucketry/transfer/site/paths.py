"""The one module that knows the paths of a published site (docs/rfcs/0004-published-site.md). No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from bucketry.oci import Digest, media_types
from bucketry.store.site import Served, is_path
from bucketry.transfer import wire

STATE: Final = "bucketry-site.json"
PAGE: Final = "index.html"
NGINX: Final = "bucketry-nginx.conf"
CADDY: Final = "Caddyfile"
API: Final = "v2/"
CATALOG: Final = "v2/_catalog"
DISCOVER: Final = f"{API}{wire.DISCOVER}"
"""By which a client learns that there are checkpoints."""

JSON: Final = "application/json"
HTML: Final = "text/html; charset=utf-8"
OCTETS: Final = "application/octet-stream"

FOREVER: Final = "public, max-age=31536000, immutable"
"""Of what is named by its digest."""
SHORTLY: Final = "public, max-age=60"
"""Of what changes: tags, lists, referrers, the page."""

KINDS: Final = {
    media_types.OCI_MANIFEST: "oci-manifest",
    media_types.OCI_INDEX: "oci-index",
    media_types.DOCKER_MANIFEST: "docker-manifest",
    media_types.DOCKER_LIST: "docker-list",
}
"""The ends of the twins' names, by media type. Manifests of other types cannot be told apart in a folder.

In a folder a manifest has a twin whose name says its digest and its media type, in a folder of its own below ``~``; a
tag has a link to that folder, so that whoever follows it finds out both.
"""


def repository(name: str) -> str:
    """The prefix of all that belongs to a repository (and of repositories below it)."""
    return f"{API}{name}/"


def manifests(name: str) -> str:
    return f"{API}{name}/manifests/"


def manifest(name: str, reference: Digest | str) -> str:
    return f"{manifests(name)}{reference}"


def twins(name: str) -> str:
    return f"{manifests(name)}~/"


def twin(name: str, digest: Digest, media_type: str) -> str:
    """Raises `KeyError` for a media type that has no kind."""
    return f"{twins(name)}{digest}/{digest}.{KINDS[media_type]}"


def pointer(name: str, tag: str) -> str:
    """The link of a tag to the folder that its manifest's twin is in."""
    return f"{twins(name)}{tag}"


def blobs(name: str) -> str:
    return f"{API}{name}/blobs/"


def blob(name: str, digest: Digest) -> str:
    return f"{blobs(name)}{digest}"


def checkpoints(name: str, digest: Digest) -> str:
    """Where the parallel extension of a registry has them, too."""
    return f"{API}{name}/_bucketry/checkpoints/{digest}"


def referrers(name: str, subject: Digest) -> str:
    return f"{API}{name}/referrers/{subject}"


def tags(name: str) -> str:
    return f"{API}{name}/tags/list"


def of_digest(content_type: str) -> Served:
    """How a file is served that is named by its digest."""
    return Served(content_type, FOREVER)


def changing(content_type: str) -> Served:
    """How a file is served that may be another one tomorrow."""
    return Served(content_type, SHORTLY)


_OF_DIGESTS: Final = {
    "manifests": "manifests",
    "manifests/~": "pointers",
    "blobs": "blobs",
    "referrers": "referrers",
    "_bucketry/checkpoints": "checkpoints",
}
_FILE: Final = re.compile(
    r"v2/(?P<name>[^~]+)/(?:(?P<folder>manifests/~|manifests|blobs|referrers|_bucketry/checkpoints)/(?P<leaf>[^/~]+)"
    r"|tags/list)"
)
_TWIN: Final = re.compile(r"v2/(?P<name>[^~]+)/manifests/~/(?P<digest>[^/~]+:[^/~]+)/(?P=digest)\.[a-z-]+")


@dataclass(frozen=True, slots=True)
class OfRepository:
    """What a path says: of which repository, what it is, and whether its name is that of a digest for ever."""

    name: str
    kind: str
    by_digest: bool


def parse(path: str) -> OfRepository | None:
    """None for a path that no repository of a site has: the page, the catalog, and whatever is not ours."""
    found = _TWIN.fullmatch(path)
    if found is not None and is_path(path):
        return OfRepository(found["name"], "twins", by_digest=True)
    found = _FILE.fullmatch(path)
    if found is None or not is_path(path):
        return None
    folder, leaf = found["folder"], found["leaf"]
    if folder is None:
        return OfRepository(found["name"], "lists", by_digest=False)
    by_digest = ":" in leaf
    kind = _OF_DIGESTS[folder]
    return OfRepository(found["name"], "tags" if kind == "manifests" and not by_digest else kind, by_digest)


def kind(path: str) -> str:
    """As which kind of file a path is counted: blobs, checkpoints, manifests, twins, referrers, tags, pointers, lists,
    pages."""
    found = parse(path)
    if found is not None:
        return found.kind
    return "state" if path == STATE else "lists" if path == CATALOG else "pages"


def of_tag(name: str, tag: str, *, twins: bool) -> tuple[str, ...]:
    """The files that a tag has."""
    return (manifest(name, tag), pointer(name, tag)) if twins else (manifest(name, tag),)


def folders(name: str) -> tuple[str, ...]:
    """The folders that the files of a repository are in, from the outermost, without the ``/`` at the end."""
    parts = repository(name).rstrip("/").split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    below = ("manifests", "manifests/~", "blobs", "referrers", "tags", "_bucketry", "_bucketry/checkpoints")
    return (*above, *(f"{repository(name)}{folder}" for folder in below))


def tag_of(path: str) -> str:
    """Of the path of a tag's file, or of its link."""
    return path.rpartition("/")[2]
