"""Media types of manifests, configs and layers (image spec, "Media Types"; Docker's manifest schema 2)."""

from __future__ import annotations

import re
from typing import Final

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT: Final = "application/vnd.oci.artifact.manifest.v1+json"
"""The artifact manifest of the 1.1 release candidates: withdrawn, but artifacts of that time still exist."""

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"

OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"

OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"

OCTET_STREAM: Final = "application/octet-stream"
JSON: Final = "application/json"

IMAGES: Final[frozenset[str]] = frozenset({OCI_MANIFEST, DOCKER_MANIFEST, OCI_ARTIFACT})
"""Manifests of one image or artifact."""

INDEXES: Final[frozenset[str]] = frozenset({OCI_INDEX, DOCKER_LIST})
"""Manifests that list manifests."""

DOCKER_SCHEMA1: Final[frozenset[str]] = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
"""Docker's schema 1, which is not supported: it is signed, has no config, and no current client writes it."""

NONDISTRIBUTABLE: Final[frozenset[str]] = frozenset(
    {
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
)
"""Layers that clients fetch from elsewhere, by ``urls``: a registry need not hold them."""

_NOT_MANIFESTS: Final = DOCKER_SCHEMA1 | {OCI_CONFIG, OCI_EMPTY, DOCKER_CONFIG}
_VENDOR_JSON: Final = re.compile(r"application/vnd\.[a-z0-9!#$&^_.+-]{1,100}\+json")


def essence(content_type: str) -> str:
    """A Content-Type without parameters, in lower case, since its case says nothing (RFC 9110, 8.3.1)."""
    return content_type.partition(";")[0].strip(" \t").lower()


def is_index(media_type: str) -> bool:
    """Whether ``media_type`` (as `essence` gives it) is a known one of manifests that list manifests."""
    return media_type in INDEXES


def is_manifest(media_type: str) -> bool:
    """Whether ``media_type`` (as `essence` gives it) is a known one of manifests, indexes included."""
    return media_type in IMAGES or media_type in INDEXES


def may_be_manifest(media_type: str) -> bool:
    """Whether manifests of ``media_type`` (as `essence` gives it) are taken: known ones, and a vendor's own.

    A vendor's own is any ``application/vnd.*+json`` that is not known to be something else, such as a config.
    """
    return is_manifest(media_type) or (
        media_type not in _NOT_MANIFESTS and _VENDOR_JSON.fullmatch(media_type) is not None
    )
