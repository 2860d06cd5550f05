"""``docker-archive:FILE[:name:tag]`` as a destination: what ``docker load`` takes.

Layers stay as they are, for every Docker Engine takes gzip. Those of zstd are loaded by version 23 and later only, and
so are decompressed unless ``keep_zstd``: they land in a file beside, and are written into the archive by `finish`,
checked against the config's diff ids. The list, ``manifest.json``, comes first.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Final

from bucketry import hashing
from bucketry.oci import Descriptor, media_types
from bucketry.oci.manifest import Kind
from bucketry.oci.text import quoted
from bucketry.transfer.compress import compression_of, decompress
from bucketry.transfer.contract import RawManifest, Slot
from bucketry.transfer.crew import closing, in_thread
from bucketry.transfer.errors import NameUnusable, Refused, SourceDamaged, TransferError
from bucketry.transfer.files import translated
from bucketry.transfer.local.archive_filling import ArchiveFilling, Document, Place
from bucketry.transfer.local.filling import blobs_of, holds, open_partial
from bucketry.transfer.local.reading import FileRange, OpenFile
from bucketry.transfer.local.saved import LISTING, MAX_DOCUMENT, Entry, diff_ids, docker_name
from bucketry.transfer.local.tar import MAX_SIZE

_CONFIGS: Final = frozenset({media_types.OCI_CONFIG, media_types.DOCKER_CONFIG})


class DockerArchiveFilling:
    """A `bucketry.transfer.contract.Destination`. ``image``: what it is called once it is loaded.

    Without ``image``, the tag that `begin` is given is taken if it is a whole name. An image may have no name.
    ``partly``: that `leave_out` is called once it is known what the archive need not hold, and room is looked for then.
    """

    def __init__(self, path: Path, image: str | None = None, *, keep_zstd: bool = False, partly: bool = False) -> None:
        self._path = path
        self._image = image
        self._keep_zstd = keep_zstd
        self._partly = partly
        self.archive = ArchiveFilling(path, self.name)
        self._waiting: set[str] = set()
        self._left_out: frozenset[str] = frozenset()
        self._loose: dict[str, Path] = {}
        self._loose_sizes: dict[str, int] = {}
        self._image_manifest: RawManifest | None = None

    @property
    def name(self) -> str:
        return f"docker-archive:{self._path}" + (f":{self._image}" if self._image else "")

    async def begin(self, root: RawManifest, manifests: Sequence[RawManifest], tag: str | None) -> None:
        manifest = only_image(root, manifests, self.name)
        name = self._image or (tag if tag is not None and ("/" in tag or ":" in tag) else None)
        config = manifest.parsed.config
        assert config is not None
        blobs = [config, *(blob for blob in blobs_of(manifest, ()) if blob.digest != config.digest)]
        loose = [blob for blob in blobs[1:] if self._is_loose(blob)]
        self._loose_sizes = {blob.digest: blob.size for blob in loose}
        listing = {
            "Config": _config_path(config),
            "RepoTags": [docker_name(name)] if name else None,
            "Layers": [self._layer_path(layer) for layer in manifest.parsed.layers],
        }
        await self.archive.begin(
            [
                Document(LISTING, json.dumps([listing], separators=(",", ":")).encode()),
                Place(_config_path(config), config),
                *(Place(self._layer_path(blob), blob) for blob in blobs[1:] if blob not in loose),
            ],
            more=None if self._partly else self._beside(),
        )
        self._image_manifest = manifest
        self._waiting = {blob.digest for blob in blobs}
        self._loose = {
            blob.digest: self._path.with_name(f"{self._path.name}.{blob.parsed.hex[:12]}.partial") for blob in loose
        }

    async def slot(self, blob: Descriptor) -> Slot | None:
        loose = self._loose.get(blob.digest)
        if loose is not None:
            slot = await _loose_slot(loose, blob)
        else:
            slot = await self.archive.slot(blob)
        if slot is None:
            self._waiting.discard(blob.digest)
        return slot

    async def landed(self, blob: Descriptor) -> None:
        self._waiting.discard(blob.digest)

    async def leave_out(self, digests: Collection[str]) -> None:
        """Layers that `pieces` is to be without, and no others. Raises `NoSpace` for the rest."""
        self._waiting |= self._left_out
        self._left_out = frozenset(digests)
        self._waiting -= self._left_out
        await self.archive.check_room(self._beside(), self._left_out)

    def pieces(self) -> AsyncIterator[bytes]:
        """The archive, once it is complete, without what was left out."""
        return self.archive.pieces(self._left_out)

    async def complete(self) -> None:
        """All that `finish` does, but for giving the file its name."""
        if self._waiting:
            raise TransferError(f"{self.name} is not complete: blob {min(self._waiting)} did not land")
        assert self._image_manifest is not None
        manifest = self._image_manifest.parsed
        assert manifest.config is not None
        if not self._loose:
            return
        await self.archive.rewind()
        entry = Entry(_config_path(manifest.config), tuple(layer.digest for layer in manifest.layers))
        known = diff_ids(await self.archive.read(manifest.config), entry, self.name)
        # A layer may be in an image twice.
        for layer, diff_id in {pair[0].digest: pair for pair in zip(manifest.layers, known, strict=True)}.values():
            path = self._loose.get(layer.digest)
            if path is not None and layer.digest not in self._left_out:
                await self.archive.append(self._layer_path(layer), _checked(path, layer, str(diff_id)))

    async def finish(self) -> None:
        await self.complete()
        await self.archive.publish()
        self.remove_loose()

    def remove_loose(self) -> None:
        """What landed beside the archive, and is in it now."""
        for path in self._loose.values():
            with contextlib.suppress(OSError):
                path.unlink()

    async def abandon(self) -> None:
        for path in self._loose.values():
            with contextlib.suppress(OSError):
                if not path.stat().st_size:
                    path.unlink()
        await self.archive.abandon()

    def _beside(self) -> int:
        """Bytes that layers need which are decompressed. What they become is not known: it is this much at least."""
        return 2 * sum(size for digest, size in self._loose_sizes.items() if digest not in self._left_out)

    def _is_loose(self, layer: Descriptor) -> bool:
        return not self._keep_zstd and compression_of(layer.media_type) == "zstd"

    def _layer_path(self, layer: Descriptor) -> str:
        if layer.media_type in media_types.NONDISTRIBUTABLE:
            raise Refused(f"layer {layer.digest} is to be fetched from elsewhere, which Docker's archives cannot say")
        kind = "none" if self._is_loose(layer) else compression_of(layer.media_type)
        ending = {"gzip": ".tar.gz", "zstd": ".tar.zst"}.get(kind, ".tar")
        return layer.parsed.hex[:64] + ending


def only_image(root: RawManifest, manifests: Sequence[RawManifest], name: str) -> RawManifest:
    """Of an index, the image that was chosen; what says how it was built has no place where Docker's images go.

    ``name``: of the destination. Raises `NameUnusable`.
    """
    found = {
        manifest.digest: manifest
        for manifest in (root, *manifests)
        if manifest.parsed.kind is Kind.IMAGE and _is_image(manifest)
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise NameUnusable(f"this is no image that Docker could run, and {name} holds nothing else: use oci:")
    raise NameUnusable(
        f"{name} holds an image for one platform, and there are {len(found)}: choose one by --platform, or use oci:"
    )


def _is_image(manifest: RawManifest) -> bool:
    """Statements about builds are images too, by their config, but their layers are not (buildkit's attestations)."""
    parsed = manifest.parsed
    return (
        parsed.config is not None
        and parsed.config.media_type in _CONFIGS
        and not any(layer.media_type == "application/vnd.in-toto+json" for layer in parsed.layers)
    )


def _config_path(config: Descriptor) -> str:
    if config.size > MAX_DOCUMENT:
        raise SourceDamaged(f"the config {config.digest} has {config.size:,} bytes: at most {MAX_DOCUMENT:,} are taken")
    return f"{config.parsed.hex[:64]}.json"


async def _loose_slot(path: Path, blob: Descriptor) -> Slot | None:
    with translated(f"cannot write {path}"):
        descriptor = await in_thread(open_partial, path)
        try:
            if os.fstat(descriptor).st_size > blob.size:
                os.ftruncate(descriptor, blob.size)
            whole = await holds(descriptor, 0, blob)
        finally:
            os.close(descriptor)
    return None if whole else Slot(str(path), 0)


async def _checked(path: Path, layer: Descriptor, diff_id: str) -> AsyncIterator[bytes]:
    """The layer's tar. Raises `SourceDamaged` where it is not the one that the config names."""
    file = OpenFile(path, f"layer {layer.digest}")
    try:
        hasher = hashing.new(diff_id.partition(":")[0])
        tar = decompress(FileRange(file, 0, layer.size).read(), most=MAX_SIZE, what=file.name)
        async with closing(tar) as pieces:
            async for piece in pieces:
                await in_thread(hasher.update, piece)
                yield piece
    finally:
        file.close()
    if f"{hasher.algorithm}:{hasher.hexdigest()}" != diff_id:
        raise SourceDamaged(f"layer {quoted(layer.digest, 100)} is not the tar that the image's config names")
