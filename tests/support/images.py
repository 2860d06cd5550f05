"""Images made from nothing but a seed: no network, and the same bytes every time.

They are real ones (gzipped tars, a config whose ``diff_ids`` fit), so that clients which unpack take
them too. An OCI image layout carries them to and from clients.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"

KIB, MIB = 1024, 1024 * 1024
SIZES = (300, 200 * KIB, 30 * MIB)
"""Bytes in the layers of an image: one object, one object, several parts of a multipart upload."""


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Blob:
    """Bytes with a media type: a layer, a config, a manifest."""

    data: bytes
    media_type: str

    @property
    def digest(self) -> str:
        return digest_of(self.data)

    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


@dataclass(frozen=True)
class Image:
    """``tars`` are the layers before compression; their digests are the config's ``diff_ids``."""

    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]
    tars: tuple[bytes, ...]
    architecture: str

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def diff_ids(self) -> list[str]:
        return [digest_of(tar) for tar in self.tars]

    def files(self) -> dict[str, bytes]:
        """Path, relative to the root, to bytes, of each plain file in the layers."""
        found: dict[str, bytes] = {}
        for data in self.tars:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for member in tar.getmembers():
                    file = tar.extractfile(member) if member.isfile() else None
                    if file is not None:
                        found[member.name] = file.read()
        return found

    def blobs(self) -> Iterator[Blob]:
        """All of it, the manifest last."""
        yield self.config
        yield from self.layers
        yield self.manifest


@dataclass(frozen=True)
class Index:
    manifest: Blob
    images: tuple[Image, ...]

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def blobs(self) -> Iterator[Blob]:
        for image in self.images:
            yield from image.blobs()
        yield self.manifest


Content: TypeAlias = Image | Index


def to_json(document: Mapping[str, Any], media_type: str) -> Blob:
    return Blob(json.dumps(document, separators=(",", ":")).encode(), media_type)


def make_tar(source: random.Random, name: str, size: int) -> bytes:
    """A tar of a folder, a file of ``size`` incompressible bytes, and a link to it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        folder = tarfile.TarInfo(f"srv/{name}")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        file = tarfile.TarInfo(f"srv/{name}/data")
        file.size, file.mode = size, 0o644
        tar.addfile(file, io.BytesIO(source.randbytes(size)))
        link = tarfile.TarInfo(f"srv/{name}/link")
        link.type, link.linkname = tarfile.SYMTYPE, "data"
        tar.addfile(link)
    return packed.getvalue()


def make_image(seed: int, sizes: Sequence[int] = SIZES, architecture: str = "amd64") -> Image:
    source = random.Random(seed)
    tars = tuple(make_tar(source, f"layer-{number}", size) for number, size in enumerate(sizes))
    layers = tuple(Blob(gzip.compress(tar, compresslevel=1, mtime=0), OCI_LAYER) for tar in tars)
    config = to_json(
        {
            "created": "2020-01-01T00:00:00Z",
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/srv/layer-0/data"], "Labels": {"seed": str(seed)}},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": f"layer {i}"} for i in range(len(tars))],
        },
        OCI_CONFIG,
    )
    manifest = to_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.descriptor(),
            "layers": [layer.descriptor() for layer in layers],
        },
        OCI_MANIFEST,
    )
    return Image(manifest, config, layers, tars, architecture)


def make_index(images: Sequence[Image]) -> Index:
    manifests = [
        {**image.manifest.descriptor(), "platform": {"architecture": image.architecture, "os": "linux"}}
        for image in images
    ]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    return Index(to_json(document, OCI_INDEX), tuple(images))


def write_layout(folder: Path, content: Content, tag: str) -> Path:
    """Makes an OCI image layout that holds ``content`` under ``tag``, and gives its folder."""
    for blob in content.blobs():
        path = blob_path(folder, blob.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob.data)
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    named = {**content.manifest.descriptor(), "annotations": {"org.opencontainers.image.ref.name": tag}}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    return folder


def blob_path(layout: Path, digest: str) -> Path:
    algorithm, _, hexadecimal = digest.partition(":")
    return layout / "blobs" / algorithm / hexadecimal


def write_docker_archive(path: Path, image: Image, name: str) -> Path:
    """Makes what ``docker load`` takes: a tar of a config, plain layers, and a list that names them."""
    layers = [f"{number}/layer.tar" for number in range(len(image.tars))]
    config = image.config.digest.removeprefix("sha256:") + ".json"
    listing = json.dumps([{"Config": config, "RepoTags": [name], "Layers": layers}]).encode()
    files = {
        config: image.config.data,
        **dict(zip(layers, image.tars, strict=True)),
        "manifest.json": listing,
    }
    with tarfile.open(path, mode="w") as tar:
        for file_name, data in files.items():
            entry = tarfile.TarInfo(file_name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def assert_layout_holds(layout: Path, content: Content) -> None:
    """Every blob of ``content`` lies in the layout, byte by byte, and its index names the manifest."""
    for blob in content.blobs():
        path = blob_path(layout, blob.digest)
        assert path.is_file(), f"{layout} lacks {blob.media_type} {blob.digest}"
        assert path.read_bytes() == blob.data, f"{path} is not what was pushed"
    named = [entry["digest"] for entry in json.loads((layout / "index.json").read_text())["manifests"]]
    assert content.digest in named
