"""The paths of the distribution spec ("Endpoints"), told apart from the right: a name may have any number of parts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bucketry.oci import parse_repository
from bucketry.oci.errors import RouteUnknown


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


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names. ``reference`` is a tag, a digest or a session id, not checked yet."""

    route: Route
    repository: str = ""
    reference: str = ""


_BASE = Target(Route.BASE)
_CATALOG = Target(Route.CATALOG)
_NOUNS = {"manifests": Route.MANIFEST, "blobs": Route.BLOB, "referrers": Route.REFERRERS}


def resolve(path: str) -> Target:
    """The target of a path that begins with ``/v2``. Raises `RouteUnknown`, `NameInvalid`."""
    rest = path.removeprefix("/v2").removeprefix("/")
    if rest == "":
        return _BASE
    if rest == "_catalog":
        return _CATALOG
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
    raise RouteUnknown("there is no such path in the distribution spec, nor in any extension this registry offers")
