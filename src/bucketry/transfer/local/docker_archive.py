"""``docker-archive:FILE[:name:tag]``: what ``docker save``, ``podman save`` and ``skopeo copy`` write.

Their old form has ``<id>/layer.tar``, with links where a layer comes twice, the new one ``blobs/sha256/<hex>``; both
have ``manifest.json``, which says it all. The archive is read where it lies: its headers once, then the layers of one
image. An archive that is compressed as a whole is decompressed twice, once to find ``manifest.json``, once for the
layers: nothing of it goes to the disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from bucketry.oci import Digest
from bucketry.oci.text import quoted
from bucketry.transfer.compress import decompress, is_compressed
from bucketry.transfer.contract import SavedConfig, SavedLayer
from bucketry.transfer.crew import in_thread
from bucketry.transfer.errors import ImageMissing, SourceDamaged
from bucketry.transfer.local.reading import FileRange, OpenFile, TarIndex, index_tar
from bucketry.transfer.local.saved import LISTING, MAX_DOCUMENT, Entry, choose, diff_ids, inside, parse_listing
from bucketry.transfer.local.saved_stream import SavedStream
from bucketry.transfer.local.tar import MAX_SIZE, resolve


class Contents(Protocol):
    """What is in an archive, wherever its bytes are."""

    archive: str

    def document(self, path: str) -> bytes | None: ...
    def own_path(self, path: str) -> str | None:
        """Of the layer that ``path`` is, or stands for."""
        ...


@dataclass(frozen=True, slots=True)
class SavedParts:
    """One image of an archive: its config as the contract wants it, and the layers' diff ids by their own paths."""

    config: SavedConfig
    diff_ids: Mapping[str, Digest]


def find_image(contents: Contents, wanted: str | None) -> SavedParts:
    """Raises `ImageMissing`, `NameUnusable`, `SourceDamaged`."""
    archive = contents.archive
    listing = contents.document(LISTING)
    if listing is None:
        if contents.document("oci-layout") is not None:
            raise ImageMissing(f"{archive} is an OCI layout without Docker's {LISTING}: write oci-archive: before it")
        raise ImageMissing(f"{archive} has no {LISTING}: it is not what docker save or podman save writes")
    entry = choose(parse_listing(listing, archive), wanted, archive)
    config = contents.document(inside(entry.config, archive))
    if config is None:
        raise SourceDamaged(f"{archive} has no {quoted(entry.config)}, the image's config: it is not used")
    return _parts(contents, entry, config)


def _parts(contents: Contents, entry: Entry, config: bytes) -> SavedParts:
    found = diff_ids(config, entry, contents.archive)
    layers = tuple(inside(path, contents.archive) for path in entry.layers)
    aliases: dict[str, str] = {}
    by_path: dict[str, Digest] = {}
    for path, diff_id in zip(layers, found, strict=True):
        own = contents.own_path(path)
        if own is None:
            raise SourceDamaged(f"{contents.archive} lists the layer {quoted(path)}, but has none: it is not used")
        if own != path:
            aliases[path] = own
        if by_path.setdefault(own, diff_id) != diff_id:
            raise SourceDamaged(f"{contents.archive} gives one layer, {quoted(own)}, two digests: it is not used")
    return SavedParts(SavedConfig(config, layers, found, entry.names, aliases), by_path)


class DockerArchive:
    """A `bucketry.transfer.contract.SavedImage`. ``image``: which one, by its name or its tag; else the only one."""

    def __init__(self, path: Path, image: str | None = None) -> None:
        self._path = path
        self._image = image
        self._found: _Found | None = None

    @property
    def name(self) -> str:
        return f"docker-archive:{self._path}" + (f":{self._image}" if self._image else "")

    async def diff_ids(self) -> Sequence[Digest]:
        return (await self._open()).parts.config.diff_ids

    async def layers(self) -> AsyncIterator[SavedLayer]:
        found = await self._open()
        if found.index is None:
            stream = SavedStream(_decompressed(found.file), found.file.name)
            try:
                async for layer in stream.layers(found.parts.diff_ids):
                    yield replace(layer, diff_id=found.parts.diff_ids[layer.path])
            finally:
                await stream.close()
            return
        for path, place in found.index.files.items():
            if path in found.parts.diff_ids:
                yield SavedLayer(path, place.size, place.read, found.parts.diff_ids[path])

    async def config(self) -> SavedConfig:
        return (await self._open()).parts.config

    async def close(self) -> None:
        if self._found is not None:
            self._found.file.close()
            self._found = None

    async def _open(self) -> _Found:
        if self._found is None:
            file = await in_thread(OpenFile, self._path, str(self._path))
            try:
                self._found = await _look(file, self._image)
            except BaseException:
                file.close()
                raise
        return self._found


@dataclass(frozen=True, slots=True)
class _Found:
    file: OpenFile
    parts: SavedParts
    index: TarIndex | None
    """None where the archive is compressed."""


async def _look(file: OpenFile, image: str | None) -> _Found:
    head = await in_thread(file.read, 0, min(6, file.size))
    if is_compressed(head) is None:
        index = await in_thread(index_tar, file)
        return _Found(file, await in_thread(find_image, _Indexed(index), image), index)
    stream = SavedStream(_decompressed(file), file.name)
    try:
        async for _ in stream.layers(_NOTHING):
            pass
    finally:
        await stream.close()
    return _Found(file, find_image(Streamed(stream, file.name), image), None)


_NOTHING: Container[str] = frozenset()


def _decompressed(file: OpenFile) -> AsyncIterator[bytes]:
    return decompress(FileRange(file, 0, file.size).read(), most=MAX_SIZE, what=file.name)


class _Indexed:
    def __init__(self, index: TarIndex) -> None:
        self.archive = index.archive
        self._index = index

    def document(self, path: str) -> bytes | None:
        return self._index.document(path, MAX_DOCUMENT)

    def own_path(self, path: str) -> str | None:
        found = self._index.find(path)
        return None if found is None else found[0]


class Streamed:
    """The contents of a stream that has ended."""

    def __init__(self, stream: SavedStream, archive: str) -> None:
        self.archive = archive
        self._stream = stream
        self._layers = frozenset(stream.layers_seen)

    def document(self, path: str) -> bytes | None:
        own = resolve(path, self._stream.links)
        return None if own is None else self._stream.documents.get(own)

    def own_path(self, path: str) -> str | None:
        own = resolve(path, self._stream.links)
        return own if own in self._layers else None
