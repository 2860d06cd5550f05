"""Tars, block by block, so that hostile ones can be made; and what ``docker save`` puts into them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from tests.support.images import Image

from bucketry.transfer.contract import SavedConfig, SavedImage

END = bytes(1024)


def entry(
    name: str,
    data: bytes = b"",
    *,
    flag: bytes = b"0",
    link: str = "",
    size: bytes | None = None,
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """A header and its padded data. ``size`` is the field as it is written, where it is not that of ``data``."""
    block = bytearray(512)
    block[: len(name.encode())] = name.encode()
    block[100:108] = b"0000644\0"
    block[124:136] = (b"%011o\0" % len(data)) if size is None else size
    block[148:156] = b" " * 8
    block[156:157] = flag
    block[157 : 157 + len(link)] = link.encode()
    block[257 : 257 + len(magic)] = magic
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data + bytes(-len(data) % 512)


def pax(flag: bytes = b"x", **records: str) -> bytes:
    """A pax extension for the next header, or for all (``g``); ``_`` in names stands for a dot."""
    data = b""
    for key, value in records.items():
        line = f" {key.replace('_', '.')}={value}\n".encode()
        length = len(line)
        while length != len(line) + len(str(length)):
            length = len(line) + len(str(length))
        data += str(length).encode() + line
    return entry("pax", data, flag=flag)


def listing(*images: Mapping[str, object]) -> bytes:
    return json.dumps(list(images)).encode()


def saved(image: Image, names: Sequence[str] = ("app:v1",), **changed: object) -> dict[str, bytes]:
    """The files of an image as Docker 20.10 saves it, by path. ``changed`` are fields of its entry."""
    config = image.config.digest.removeprefix("sha256:") + ".json"
    layers = [f"{number:064x}/layer.tar" for number in range(len(image.tars))]
    said = {"Config": config, "RepoTags": list(names), "Layers": layers, **changed}
    return {config: image.config.data, **dict(zip(layers, image.tars, strict=True)), "manifest.json": listing(said)}


def tar(files: Mapping[str, bytes], *more: bytes) -> bytes:
    return b"".join([*(entry(name, data) for name, data in files.items()), *more, END])


def written(folder: Path, data: bytes, name: str = "image.tar") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


async def read_all(image: SavedImage) -> tuple[dict[str, bytes], SavedConfig]:
    """Its layers by path, and its config."""
    layers = {}
    async for layer in image.layers():
        layers[layer.path] = b"".join([piece async for piece in layer.read()])
        assert len(layers[layer.path]) == layer.size
    return layers, await image.config()


async def pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def members(data: bytes) -> dict[str, bytes]:
    """What Python's own reader finds in a tar."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            found[member.name] = b"" if file is None else file.read()
    return found
