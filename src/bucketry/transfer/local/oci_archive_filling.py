"""``oci-archive:FILE[:tag]`` as a destination: documents first, then each blob in its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bucketry.oci import Descriptor
from bucketry.transfer.contract import RawManifest, Slot
from bucketry.transfer.errors import TransferError
from bucketry.transfer.local.archive_filling import ArchiveFilling, Document, Place
from bucketry.transfer.local.filling import blobs_of, check_tag, encoded_index, entries_of, manifests_of
from bucketry.transfer.local.layout import INDEX, MARKER, MARKER_BODY, blob_path


class OciArchiveFilling:
    """A `bucketry.transfer.contract.ReferringDestination`. ``tag`` goes before the one that `begin` is given.

    A file of that name is replaced when all is there.
    """

    def __init__(self, path: Path, tag: str | None = None) -> None:
        self._path = path
        self._tag = tag
        self._archive = ArchiveFilling(path, self.name)
        self._along: tuple[tuple[str | None, RawManifest], ...] = ()
        self._waiting: set[str] = set()

    @property
    def name(self) -> str:
        return f"oci-archive:{self._path}" + (f":{self._tag}" if self._tag else "")

    def take_along(self, referring: Sequence[tuple[str | None, RawManifest]]) -> None:
        self._along = tuple(referring)

    async def begin(self, root: RawManifest, manifests: Sequence[RawManifest], tag: str | None) -> None:
        check_tag(self._tag)
        entries = entries_of(root, self._tag or tag, self._along)
        index = encoded_index({"schemaVersion": 2, "manifests": entries}, self.name)
        manifests = (*manifests, *(manifest for _, manifest in self._along))
        blobs = blobs_of(root, manifests)
        self._waiting = {blob.digest for blob in blobs}
        held = manifests_of(root, manifests)
        await self._archive.begin(
            [
                Document(MARKER, MARKER_BODY),
                Document(INDEX, index),
                *(Document(blob_path(digest), manifest.body) for digest, manifest in held.items()),
                *(Place(blob_path(blob.parsed), blob) for blob in blobs),
            ]
        )

    async def slot(self, blob: Descriptor) -> Slot | None:
        slot = await self._archive.slot(blob)
        if slot is None:
            self._waiting.discard(blob.digest)
        return slot

    async def landed(self, blob: Descriptor) -> None:
        self._waiting.discard(blob.digest)

    async def finish(self) -> None:
        if self._waiting:
            raise TransferError(f"{self.name} is not complete: blob {min(self._waiting)} did not land")
        await self._archive.publish()

    async def abandon(self) -> None:
        await self._archive.abandon()
