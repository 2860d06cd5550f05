"""Manifests: what a registry must understand of one, and what it refuses.

Taken are OCI images and indexes, Docker schema 2 images and lists, the withdrawn OCI artifact manifest, and
any vendor's own ``application/vnd.*+json`` whose body has the shape of an image or an index. Fields outside
the spec are nobody's business here: the exact bytes are what is stored.

Refused is what two readers could understand differently, because the registry keeps alive only the blobs it
saw: a media type in the body that differs from the Content-Type, an image that is also an index
(GHSA-qq97-vm5h-rrhg), a field given twice, and a field in the wrong case, which Go's decoder takes for the
right one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from bucketry.oci import media_types
from bucketry.oci.descriptor import Descriptor
from bucketry.oci.digest import Digest
from bucketry.oci.errors import ManifestInvalid, ManifestTooLarge
from bucketry.oci.fields import Fields
from bucketry.oci.text import quoted

MAX_MANIFEST: Final = 4 * 1024 * 1024
"""Bytes of the largest manifest. The spec asks registries to take at least this many."""


class Kind(Enum):
    """What a manifest is made of: a config and layers, or other manifests."""

    IMAGE = "image"
    INDEX = "index"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the registry knows of a manifest. `parse_manifest` makes them.

    ``media_type`` is in lower case, without parameters. ``layers`` of an artifact manifest are its
    ``blobs``; an index has no ``config`` and no ``layers``, an image no ``manifests``. ``artifact_type`` is
    never empty.
    """

    media_type: str
    kind: Kind
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None
    artifact_type: str | None
    annotations: Mapping[str, str]

    def blobs(self) -> tuple[Descriptor, ...]:
        """The blobs a repository must hold before it takes this manifest, each digest once.

        Config and layers, without the layers that clients fetch from elsewhere. Of an index: the entries that
        cannot be manifests by their media type; build caches list layers so.
        """
        held = [layer for layer in self.layers if layer.media_type not in media_types.NONDISTRIBUTABLE]
        loose = [entry for entry in self.manifests if not _may_be_manifest(entry)]
        return _once([*self._configs(), *held, *loose])

    def children(self) -> tuple[Descriptor, ...]:
        """The manifests of an index, each digest once; see `blobs` for entries that cannot be manifests."""
        return _once(entry for entry in self.manifests if _may_be_manifest(entry))

    def references(self) -> tuple[Descriptor, ...]:
        """All content that belongs to this manifest, each digest once: what a collector must keep.

        Unlike in `blobs` and `children`, layers that clients may fetch from elsewhere are among them: they
        may have been pushed all the same. The subject is not: a referrer does not keep its subject.
        """
        return _once([*self._configs(), *self.layers, *self.manifests])

    def referrer(self, digest: Digest, size: int) -> Descriptor:
        """This manifest, of ``digest`` and ``size`` bytes, as an entry of its subject's referrers.

        Its artifact type is the manifest's own; else, for an image, its config's media type; else there is
        none (distribution spec, "Listing Referrers").
        """
        artifact_type = self.artifact_type
        if artifact_type is None and self.config is not None:
            artifact_type = self.config.media_type
        return Descriptor(
            media_type=self.media_type,
            digest=str(digest),
            size=size,
            annotations=dict(self.annotations) or None,
            artifact_type=artifact_type,
        )

    def _configs(self) -> tuple[Descriptor, ...]:
        return () if self.config is None else (self.config,)


def _may_be_manifest(entry: Descriptor) -> bool:
    return media_types.may_be_manifest(media_types.essence(entry.media_type))


def _once(descriptors: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
    unique: dict[str, Descriptor] = {}
    for descriptor in descriptors:
        unique.setdefault(descriptor.digest, descriptor)
    return tuple(unique.values())


def parse_manifest(body: bytes, content_type: str | None) -> Manifest:
    """The manifest in ``body``, sent with the Content-Type header ``content_type``.

    Where the header is missing or generic (``application/json``, ``application/octet-stream``), the body's
    ``mediaType`` decides. Where that is missing too, the shape does: what has ``manifests`` is an OCI
    index, the rest OCI images (distribution spec, "Pushing Manifests").

    Raises `ManifestInvalid` (above `MAX_MANIFEST` bytes `ManifestTooLarge`), and nothing else, whatever the
    bytes are.
    """
    if len(body) > MAX_MANIFEST:
        raise ManifestTooLarge(f"the manifest has {len(body)} bytes: at most {MAX_MANIFEST} are allowed")
    fields = Fields.read(body)
    media_type = _media_type(fields, content_type)
    _check_schema(fields, media_type)
    if media_type == media_types.OCI_ARTIFACT:
        fields.refuse("config", "layers", "manifests", why=f"{media_type} lists its content in blobs")
        return _manifest(fields, media_type, Kind.IMAGE, layers=fields.descriptors("blobs"))
    if fields.has("manifests") and (fields.has("layers") or fields.has("config")):
        raise ManifestInvalid(
            "the manifest is ambiguous: it has manifests, as an index, and layers or config, as an image; "
            "push the image and the index apart"
        )
    if _is_index(fields, media_type):
        fields.require("manifests", "an index lists its manifests there (an empty list is fine)")
        return _manifest(fields, media_type, Kind.INDEX, manifests=fields.descriptors("manifests"))
    config = fields.descriptor("config")
    if config is None:
        raise ManifestInvalid(
            "the manifest has no config: an image needs one; an artifact without a config of its own takes "
            f"the empty descriptor, {media_types.OCI_EMPTY}"
        )
    fields.require("layers", "an image lists its layers there (an empty list is fine)")
    return _manifest(fields, media_type, Kind.IMAGE, config=config, layers=fields.descriptors("layers"))


def _manifest(
    fields: Fields,
    media_type: str,
    kind: Kind,
    *,
    config: Descriptor | None = None,
    layers: tuple[Descriptor, ...] = (),
    manifests: tuple[Descriptor, ...] = (),
) -> Manifest:
    return Manifest(
        media_type=media_type,
        kind=kind,
        config=config,
        layers=layers,
        manifests=manifests,
        subject=fields.descriptor("subject"),
        artifact_type=fields.text("artifactType") or None,
        annotations=MappingProxyType(fields.annotations()),
    )


def _media_type(fields: Fields, content_type: str | None) -> str:
    header = media_types.essence(content_type or "")
    if header in (media_types.JSON, media_types.OCTET_STREAM):
        header = ""
    written = media_types.essence(fields.text("mediaType") or "")
    if header and written and header != written:
        raise ManifestInvalid(
            f"the Content-Type is {quoted(header)}, but the manifest's mediaType is {quoted(written)}: "
            "send the manifest's own type as its Content-Type"
        )
    guess = media_types.OCI_INDEX if fields.has("manifests") else media_types.OCI_MANIFEST
    return header or written or guess


def _check_schema(fields: Fields, media_type: str) -> None:
    version = fields.integer("schemaVersion")
    if version == 1 or media_type in media_types.DOCKER_SCHEMA1 or fields.has("fsLayers"):
        raise ManifestInvalid("Docker schema 1 manifests are not supported: push the image again with a current client")
    if not media_types.may_be_manifest(media_type):
        raise ManifestInvalid(
            f"{quoted(media_type)} is no manifest this registry knows: send an OCI image manifest or index, "
            "a Docker schema 2 manifest or list, or one of their shape with a type of the form "
            "application/vnd.<name>+json"
        )
    # The withdrawn artifact manifest is the only one that has no schemaVersion.
    if version != 2 and not (version is None and media_type == media_types.OCI_ARTIFACT):
        shown = "missing" if version is None else str(version)
        raise ManifestInvalid(f"schemaVersion is {shown}: it must be 2")


def _is_index(fields: Fields, media_type: str) -> bool:
    if media_types.is_index(media_type):
        fields.refuse("layers", "config", why=f"{media_type} is an index")
        return True
    if media_types.is_manifest(media_type):
        fields.refuse("manifests", why=f"{media_type} is an image")
        return False
    return fields.has("manifests")
