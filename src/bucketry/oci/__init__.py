"""OCI's nouns: digests, references, descriptors, manifests. Pure: no I/O, no asyncio.

The spec's errors are in `bucketry.oci.errors`, media types in `bucketry.oci.media_types`.
"""

from __future__ import annotations

from bucketry.oci.descriptor import Descriptor, Platform
from bucketry.oci.digest import ALGORITHMS, Digest
from bucketry.oci.manifest import MAX_MANIFEST, Kind, Manifest, parse_manifest
from bucketry.oci.reference import ImageReference, parse_reference, parse_repository, parse_tag

__all__ = [
    "ALGORITHMS",
    "MAX_MANIFEST",
    "Descriptor",
    "Digest",
    "ImageReference",
    "Kind",
    "Manifest",
    "Platform",
    "parse_manifest",
    "parse_reference",
    "parse_repository",
    "parse_tag",
]
