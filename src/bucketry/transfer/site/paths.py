"""The one module that knows the paths of a published site (docs/rfcs/0004-published-site.md). No I/O."""

from __future__ import annotations

from typing import Final

from bucketry.oci import Digest, media_types
from bucketry.store.site import Served

STATE: Final = "bucketry-site.json"
PAGE: Final = "index.html"
NGINX: Final = "bucketry-nginx.conf"
CADDY: Final = "Caddyfile"
API: Final = "v2/"
CATALOG: Final = "v2/_catalog"

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
"""The ends of the twins' names, by media type. Manifests of other types cannot be told apart in a folder."""


def repository(name: str) -> str:
    """The prefix of all that belongs to a repository (and of repositories below it)."""
    return f"{API}{name}/"


def manifests(name: str) -> str:
    return f"{API}{name}/manifests/"


def manifest(name: str, reference: Digest | str) -> str:
    return f"{manifests(name)}{reference}"


def twins(name: str) -> str:
    return f"{manifests(name)}~/"


def twin(name: str, reference: Digest | str, media_type: str) -> str:
    """Raises `KeyError` for a media type that has no kind."""
    return f"{twins(name)}{reference}.{KINDS[media_type]}"


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
