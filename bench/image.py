"""An image of one large layer as an OCI layout: what the transfer scenarios push."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from bench.layers import MIB, Layer

TAG = "bench"
_TAR_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Image:
    """``folder`` is the layout, ``layer`` the file of its one layer, ``size`` that file's bytes."""

    folder: Path
    layer: Path
    size: int
    digest: str
    """Of the layer."""


def make_image(folder: Path, layer: Layer) -> Image:
    """A layer that holds one file of random bytes, as a tar in gzip without compression, which is what random bytes
    come to: every client takes it for a compressed layer."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    digest, diff_id, size = _write_layer(blobs / "layer", layer)
    file = (blobs / "layer").rename(blobs / digest.partition(":")[2])
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created_by": "bench"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _blob(blobs, config, "application/vnd.oci.image.config.v1+json"),
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size}],
    }
    entry = _blob(blobs, manifest, "application/vnd.oci.image.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": TAG}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return Image(folder, file, size, digest)


def _blob(blobs: Path, value: object, media_type: str) -> dict[str, object]:
    body = json.dumps(value).encode()
    digest = hashlib.sha256(body).hexdigest()
    (blobs / digest).write_bytes(body)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(body)}


def _write_layer(path: Path, layer: Layer) -> tuple[str, str, int]:
    """Digest, diff id and bytes of the file."""
    compressor = zlib.compressobj(0, zlib.DEFLATED, 31)
    outside, inside, size = hashlib.sha256(), hashlib.sha256(), 0
    entry = tarfile.TarInfo("layer.bin")
    entry.size = layer.size
    padding = -layer.size % _TAR_BLOCK
    with path.open("wb", buffering=4 * MIB) as file:

        def add(piece: bytes | memoryview) -> None:
            nonlocal size
            inside.update(piece)
            put(compressor.compress(piece))

        def put(packed: bytes) -> None:
            nonlocal size
            outside.update(packed)
            size += file.write(packed)

        add(entry.tobuf(tarfile.USTAR_FORMAT))
        for block in layer.blocks():
            add(block)
        add(bytes(padding + 2 * _TAR_BLOCK))
        put(compressor.flush())
    return f"sha256:{outside.hexdigest()}", f"sha256:{inside.hexdigest()}", size
