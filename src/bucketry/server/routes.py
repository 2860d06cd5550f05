"""The paths of the distribution spec ("Endpoints") and of bucketry's extension, told apart from the right.

A repository's name may have any number of parts; none of them begins with ``_``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bucketry.oci import parse_repository
from bucketry.oci.errors import RouteUnknown
from bucketry.transfer import wire

TOKEN_PATH = "/token"
"""Of the registry's own token service, which is beside the API."""


class Route(Enum):
    """The values are the labels of metrics and logs."""

    BASE = "base"
    CATALOG = "catalog"
    TAGS = "tags"
    MANIFEST = "manifest"
    BLOB = "blob"
    UPLOADS = "uploads"
    UPLOAD = "upload"
    REFERRERS = "referrers"
    EXTENSIONS = "extensions"
    PARALLEL = "parallel"
    PARALLEL_UPLOAD = "parallel_upload"
    PARALLEL_URLS = "parallel_urls"
    PARALLEL_PART = "parallel_part"
    PARALLEL_COMPLETE = "parallel_complete"
    CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names. ``reference`` is a tag, a digest or a session id, not checked yet. ``part`` is a number."""

    route: Route
    repository: str = ""
    reference: str = ""
    part: int = 0


_BASE = Target(Route.BASE)
_CATALOG = Target(Route.CATALOG)
_EXTENSIONS = Target(Route.EXTENSIONS)
_NOUNS = {"manifests": Route.MANIFEST, "blobs": Route.BLOB, "referrers": Route.REFERRERS}
_VERBS = {"urls": Route.PARALLEL_URLS, "complete": Route.PARALLEL_COMPLETE}


def resolve(path: str) -> Target:
    """The target of a path that begins with ``/v2``. Raises `RouteUnknown`, `NameInvalid`."""
    rest = path.removeprefix("/v2").removeprefix("/")
    if rest == "":
        return _BASE
    if rest == "_catalog":
        return _CATALOG
    if rest == wire.DISCOVER:
        return _EXTENSIONS
    if f"/{wire.NAME}/" in rest:
        return _extension(rest)
    parts = rest.split("/")
    match parts:
        case [*name, "tags", "list"] if name:
            return Target(Route.TAGS, parse_repository("/".join(name)))
        case [*name, "blobs", "uploads"] | [*name, "blobs", "uploads", ""] if name:
            return Target(Route.UPLOADS, parse_repository("/".join(name)))
        case [*name, "blobs", "uploads", session] if name:
            return Target(Route.UPLOAD, parse_repository("/".join(name)), session)
        case [*name, ("manifests" | "blobs" | "referrers") as noun, reference] if name:
            return Target(_NOUNS[noun], parse_repository("/".join(name)), reference)
    raise _unknown()


def _extension(rest: str) -> Target:
    name, _, path = rest.partition(f"/{wire.NAME}/")
    match path.split("/"):
        case ["uploads"] | ["uploads", ""]:
            return Target(Route.PARALLEL, parse_repository(name))
        case ["uploads", session]:
            return Target(Route.PARALLEL_UPLOAD, parse_repository(name), session)
        case ["uploads", session, ("urls" | "complete") as verb]:
            return Target(_VERBS[verb], parse_repository(name), session)
        case ["uploads", session, "parts", number] if number.isascii() and number.isdigit() and len(number) < 9:
            return Target(Route.PARALLEL_PART, parse_repository(name), session, int(number))
        case ["checkpoints", digest]:
            return Target(Route.CHECKPOINTS, parse_repository(name), digest)
    raise _unknown()


def _unknown() -> RouteUnknown:
    return RouteUnknown("there is no such path in the distribution spec, nor in any extension this registry offers")
