"""Fills a destination as the engine does, with images that tests make."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from tests.support.images import OCI_MANIFEST, Blob, Image, Index, to_json
from tests.unit.transfer.local.tars import pieces

from bucketry.oci import Descriptor, Digest
from bucketry.transfer.compress import Compression, compress
from bucketry.transfer.contract import Destination, RawManifest, Slot


def raw(blob: Blob) -> RawManifest:
    return RawManifest(blob.data, blob.media_type, Digest.of(blob.data))


def described(blob: Blob) -> Descriptor:
    return Descriptor(media_type=blob.media_type, digest=blob.digest, size=len(blob.data))


def blobs(*images: Image) -> list[Blob]:
    """Configs and layers, each once."""
    return list({blob.digest: blob for image in images for blob in (image.config, *image.layers)}.values())


def put(slot: Slot, data: bytes, start: int = 0, stop: int | None = None) -> None:
    with open(slot.path, "r+b") as file:
        file.seek(slot.offset + start)
        file.write(data[start:stop])


async def begin(destination: Destination, content: Image | Index, tag: str | None = None) -> None:
    below = [raw(image.manifest) for image in content.images] if isinstance(content, Index) else []
    await destination.begin(raw(content.manifest), below, tag)


async def fill(destination: Destination, content: Image | Index, tag: str | None = None) -> list[str]:
    """All of it. Gives the digests that had to be written."""
    await begin(destination, content, tag)
    written = await land(destination, blobs(*(content.images if isinstance(content, Index) else [content])))
    await destination.finish()
    return written


async def land(destination: Destination, wanted: Sequence[Blob]) -> list[str]:
    written = []
    for blob in wanted:
        slot = await destination.slot(described(blob))
        if isinstance(slot, Slot):
            assert os.path.exists(slot.path)
            put(slot, blob.data)
            await destination.landed(described(blob))
            written.append(blob.digest)
    return written


async def as_packed(how: str, image: Image, *, tars: tuple[bytes, ...] | None = None) -> Image:
    """The image with its layers compressed anew, or with other tars in their place."""
    compression = Compression.parse(how)
    layers = []
    for tar in tars or image.tars:
        data = b"".join([piece async for piece in compress(compression, pieces(tar, 50_000))])
        layers.append(Blob(data, compression.media_type()))
    document = json.loads(image.manifest.data)
    document["layers"] = [layer.descriptor() for layer in layers]
    return Image(to_json(document, OCI_MANIFEST), image.config, tuple(layers), image.tars, image.architecture)
