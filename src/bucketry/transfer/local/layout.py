"""An OCI image layout as a source, in a folder or in a tar (image spec, "Image Layout").

``index.json`` names the images by the annotation ``org.opencontainers.image.ref.name``; all else lies under its digest.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import msgspec

from bucketry.hashing import Checkpoints
from bucketry.oci import MAX_MANIFEST, Descriptor, Digest, media_types, parse_manifest, parse_tag
from bucketry.oci.errors import OCIError, TagInvalid
from bucketry.oci.text import quoted
from bucketry.transfer.contract import BlobReader, RawManifest
from bucketry.transfer.crew import closing, in_thread
from bucketry.transfer.errors import ImageMissing, NameUnusable, SourceDamaged
from bucketry.transfer.local.reading import FileRange
from bucketry.transfer.selection import COSIGN

REF_NAME: Final = "org.opencontainers.image.ref.name"
INDEX: Final = "index.json"
MARKER: Final = "oci-layout"
MARKER_BODY: Final = b'{"imageLayoutVersion":"1.0.0"}'


_T = TypeVar("_T")


def blob_path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


class Files(Protocol):
    """Where a layout's files are. All methods block."""

    @property
    def name(self) -> str: ...

    def open(self) -> None:
        """Before anything else. Raises `ImageMissing`, `NameUnusable`, `SourceDamaged`."""
        ...

    def document(self, path: str, most: int) -> bytes | None:
        """A small file; None where there is none. Raises `SourceDamaged` where it has more than ``most`` bytes."""
        ...

    def blob(self, digest: Digest) -> AbstractContextManager[FileRange]:
        """Raises `ImageMissing` where there is none."""
        ...

    def close(self) -> None: ...


class _Marker(msgspec.Struct, rename="camel"):
    image_layout_version: str


class _Index(msgspec.Struct):
    manifests: tuple[Descriptor, ...] = ()


class LayoutSource:
    """A `bucketry.transfer.contract.Source`. ``tag``: the image that ``name`` says, else the only one there is.

    ``tag`` may be a digest after an ``@``.
    """

    def __init__(self, files: Files, name: str, tag: str | None) -> None:
        self._files = files
        self._name = name
        self._tag = tag
        self._lock = threading.Lock()
        self._entries: tuple[Descriptor, ...] | None = None
        self._subjects: dict[str, list[Descriptor]] | None = None

    @property
    def name(self) -> str:
        return self._name

    async def manifest(self, reference: Digest | str | None = None) -> RawManifest:
        return await in_thread(self._manifest, reference if reference is not None else self._own_reference())

    async def tags(self) -> Sequence[str]:
        entries = await in_thread(self._index)
        return sorted({tag for entry in entries if (tag := _tag(entry)) is not None})

    async def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        return await in_thread(self._referrers, subject)

    def blob(self, blob: Descriptor) -> BlobReader:
        return _LayoutBlob(self, blob)

    async def close(self) -> None:
        self._files.close()
        self._entries = self._subjects = None

    def open_blob(self, blob: Descriptor) -> AbstractContextManager[FileRange]:
        self._index()
        return self._files.blob(blob.parsed)

    def _own_reference(self) -> Digest | str | None:
        if self._tag is None or not self._tag.startswith("@"):
            return self._tag
        try:
            return Digest.parse(self._tag[1:])
        except OCIError as error:
            raise NameUnusable(error.message) from error

    def _index(self) -> tuple[Descriptor, ...]:
        with self._lock:
            if self._entries is None:
                self._files.open()
                self._check_version()
                found = self._files.document(INDEX, MAX_MANIFEST)
                if found is None:
                    raise ImageMissing(f"{self._files.name} has no {INDEX}: there is no image in it")
                self._entries = self._decode(INDEX, found, _Index).manifests
            return self._entries

    def _check_version(self) -> None:
        marker = self._files.document(MARKER, MAX_MANIFEST)
        if marker is None:
            raise ImageMissing(f"{self._files.name} is no OCI layout: it has no file {MARKER}")
        version = self._decode(MARKER, marker, _Marker).image_layout_version
        if version.partition(".")[0] != "1":
            raise NameUnusable(f"{self._files.name} is an OCI layout of version {quoted(version)}: 1.0.0 can be read")

    def _decode(self, path: str, data: bytes, form: type[_T]) -> _T:
        try:
            return msgspec.json.decode(data, type=form)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SourceDamaged(f"{path} of {self._files.name} is damaged: {error}") from error

    def _manifest(self, reference: Digest | str | None) -> RawManifest:
        entries = self._index()
        if isinstance(reference, Digest):
            named = [entry for entry in entries if entry.digest == str(reference)]
            return self._read(reference, named[0] if named else None)
        entry = self._only(entries) if reference is None else self._tagged(entries, reference)
        return self._read(entry.parsed, entry)

    def _read(self, digest: Digest, entry: Descriptor | None) -> RawManifest:
        body = self._files.document(blob_path(digest), MAX_MANIFEST)
        if body is None:
            raise ImageMissing(f"{self._files.name} has no manifest {digest}")
        if Digest.of(body, digest.algorithm) != digest or (entry is not None and entry.size != len(body)):
            raise SourceDamaged(f"manifest {digest} of {self._files.name} is damaged: its bytes are others")
        try:
            parsed = parse_manifest(body, entry.media_type if entry is not None else None)
        except OCIError as error:
            raise SourceDamaged(f"manifest {digest} of {self._files.name} is damaged: {error.message}") from error
        return RawManifest(body, parsed.media_type, digest)

    def _only(self, entries: Sequence[Descriptor]) -> Descriptor:
        found = _distinct(entries)
        if len(found) > 1:
            # Signatures and the like lie beside the image that they are about.
            found = [entry for entry in found if not self._is_about_another(entry)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise ImageMissing(f"{self._files.name} has no image in it")
        raise NameUnusable(f"{self._files.name} has {len(found)} images: add one of {_shown(found)} after a colon")

    def _tagged(self, entries: Sequence[Descriptor], tag: str) -> Descriptor:
        found = _distinct([entry for entry in entries if _ref_name(entry) == tag])
        found = found or _distinct([entry for entry in entries if _tag(entry) == tag])
        if not found:
            raise ImageMissing(f"{self._files.name} has no image {quoted(tag)}: it has {_shown(entries) or 'none'}")
        if len(found) > 1:
            raise NameUnusable(f"{self._files.name} has {len(found)} images {quoted(tag)}: {_shown(found)}")
        return found[0]

    def _is_about_another(self, entry: Descriptor) -> bool:
        if _is_referrers_tag(_ref_name(entry)) or _is_cosign_tag(_ref_name(entry)):
            return True
        try:
            return self._read(entry.parsed, entry).parsed.subject is not None
        except (ImageMissing, SourceDamaged):
            return False  # It is damaged all the same when it is asked for.

    def _referrers(self, subject: Digest) -> Sequence[Descriptor]:
        if self._subjects is None:
            self._subjects = {}
            for entry in _distinct(self._index()):
                self._note_referrer(entry)
        return self._subjects.get(str(subject), [])

    def _note_referrer(self, entry: Descriptor) -> None:
        assert self._subjects is not None
        try:
            manifest = self._read(entry.parsed, entry)
        except (ImageMissing, SourceDamaged):
            return
        if manifest.parsed.subject is not None:
            about = self._subjects.setdefault(manifest.parsed.subject.digest, [])
            about.append(manifest.parsed.referrer(manifest.digest, len(manifest.body)))
        tag = _ref_name(entry)
        if tag is not None and _is_referrers_tag(tag):
            about = self._subjects.setdefault(tag.replace("-", ":", 1), [])
            known = {other.digest for other in about}
            about.extend(other for other in manifest.parsed.children() if other.digest not in known)


@dataclass(frozen=True, slots=True)
class _LayoutBlob:
    """A file is open only while it is read: an image may have more layers than a process may open files."""

    source: LayoutSource
    blob: Descriptor

    @property
    def ranged(self) -> bool:
        return True

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        opened = await in_thread(self.source.open_blob, self.blob)
        with opened as place:
            if place.size != self.blob.size:
                raise SourceDamaged(
                    f"blob {self.blob.digest} of {self.source.name} is damaged: "
                    f"it has {place.size:,} bytes instead of {self.blob.size:,}"
                )
            async with closing(place.read(start, stop)) as pieces:
                async for piece in pieces:
                    yield piece

    async def checkpoints(self) -> Checkpoints | None:
        return None


def _ref_name(entry: Descriptor) -> str | None:
    return (entry.annotations or {}).get(REF_NAME)


def _tag(entry: Descriptor) -> str | None:
    """Some programs write the image's whole name there."""
    name = _ref_name(entry)
    if name is None:
        return None
    try:
        return parse_tag(name.rpartition("/")[2].rpartition(":")[2])
    except TagInvalid:
        return None


def _is_referrers_tag(tag: str | None) -> bool:
    """Distribution spec, "Referrers Tag Schema"."""
    if tag is None:
        return False
    try:
        Digest.parse(tag.replace("-", ":", 1))
    except OCIError:
        return False
    return True


def _is_cosign_tag(tag: str | None) -> bool:
    """A digest and an ending: what cosign keeps where there are no referrers."""
    name, _, ending = (tag or "").rpartition(".")
    return ending in COSIGN and _is_referrers_tag(name)


def _distinct(entries: Sequence[Descriptor]) -> list[Descriptor]:
    return list({entry.digest: entry for entry in entries if _may_be_image(entry)}.values())


def _may_be_image(entry: Descriptor) -> bool:
    return media_types.may_be_manifest(media_types.essence(entry.media_type))


def _shown(entries: Sequence[Descriptor]) -> str:
    names = [quoted(_ref_name(entry) or entry.digest) for entry in entries]
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
