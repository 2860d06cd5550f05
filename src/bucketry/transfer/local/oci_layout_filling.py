"""``oci:DIR[:tag]`` as a destination: blobs by digest, and an ``index.json`` that keeps the images it had.

A blob on its way is ``blobs/<algorithm>/.<hex>.partial``. It gets its name when all its bytes are verified and on the
disk; ``index.json`` is replaced last. So what has a name is whole, whenever the machine stops.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from bucketry.oci import MAX_MANIFEST, Descriptor, Digest
from bucketry.transfer.contract import RawManifest, Slot
from bucketry.transfer.crew import in_thread
from bucketry.transfer.errors import NameUnusable, SourceDamaged, TransferError
from bucketry.transfer.files import translated
from bucketry.transfer.local.filling import (
    allocated,
    blobs_of,
    check_room,
    check_tag,
    encoded_index,
    entries_of,
    holds,
    lock,
    manifests_of,
    open_partial,
    sync,
    write_synced,
)
from bucketry.transfer.local.layout import INDEX, MARKER, MARKER_BODY, REF_NAME, blob_path

_EMPTY: Final = b'{"schemaVersion":2,"manifests":[]}'


class OciLayoutFilling:
    """A `bucketry.transfer.contract.ReferringDestination`. ``tag`` goes before the one that `begin` is given."""

    def __init__(self, folder: Path, tag: str | None = None) -> None:
        self._folder = folder
        self._tag = tag
        self._along: tuple[tuple[str | None, RawManifest], ...] = ()
        self._new_entries: list[Descriptor] = []
        self._manifests: dict[Digest, RawManifest] = {}
        self._waiting: set[str] = set()
        self._locked = -1
        self._made: list[Path] = []

    @property
    def name(self) -> str:
        return f"oci:{self._folder}" + (f":{self._tag}" if self._tag else "")

    def take_along(self, referring: Sequence[tuple[str | None, RawManifest]]) -> None:
        self._along = tuple(referring)

    async def begin(self, root: RawManifest, manifests: Sequence[RawManifest], tag: str | None) -> None:
        check_tag(self._tag)
        manifests = (*manifests, *(manifest for _, manifest in self._along))
        self._manifests = manifests_of(root, manifests)
        self._tag = self._tag or tag
        self._new_entries = entries_of(root, self._tag, self._along)
        blobs = blobs_of(root, manifests)
        self._waiting = {blob.digest for blob in blobs}
        await in_thread(self._begin, blobs)

    async def slot(self, blob: Descriptor) -> Slot | None:
        path = self._path(blob.parsed)
        with translated(f"cannot write {path}"):
            if await self._is_whole(path, blob):
                self._waiting.discard(blob.digest)
                return None
            return Slot(str(await in_thread(self._prepare, blob)), 0)

    async def landed(self, blob: Descriptor) -> None:
        with translated(f"cannot write {self._path(blob.parsed)}"):
            await in_thread(self._land, blob)
        self._waiting.discard(blob.digest)

    async def finish(self) -> None:
        if self._waiting:
            raise TransferError(f"{self.name} is not complete: blob {min(self._waiting)} did not land")
        with translated(f"cannot write {self._folder}"):
            await in_thread(self._finish)
        self._unlock()

    async def abandon(self) -> None:
        """Keeps whole blobs, and partial files in which there is something."""
        if self._locked < 0:
            return
        await in_thread(self._tidy)
        self._unlock()

    def _path(self, digest: Digest) -> Path:
        return self._folder / blob_path(digest)

    def _partial(self, digest: Digest) -> Path:
        path = self._path(digest)
        return path.with_name(f".{path.name}.partial")

    def _begin(self, blobs: Sequence[Descriptor]) -> None:
        with translated(f"cannot write {self._folder}"):
            self._make(self._folder)
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                lock(descriptor, str(self._folder))
            except BaseException:
                os.close(descriptor)
                raise
            self._locked = descriptor
            inside = {path.name for path in self._folder.iterdir()} - {"blobs"}
        if inside and MARKER not in inside:
            raise NameUnusable(f"{self._folder} is not empty, and no OCI layout: name another folder")
        self._entries()
        needed = sum(self._missing(blob) for blob in blobs) + sum(len(m.body) for m in self._manifests.values())
        check_room(self._folder, needed, self.name)

    def _make(self, folder: Path) -> None:
        """Makes the folder and those above it, and notes which."""
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            self._made.append(path)

    def _missing(self, blob: Descriptor) -> int:
        if self._path(blob.parsed).exists():
            return 0
        return max(0, blob.size - allocated(self._partial(blob.parsed)))

    async def _is_whole(self, path: Path, blob: Descriptor) -> bool:
        try:
            descriptor = await in_thread(os.open, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return os.fstat(descriptor).st_size == blob.size and await holds(descriptor, 0, blob)
        finally:
            os.close(descriptor)

    def _prepare(self, blob: Descriptor) -> Path:
        partial = self._partial(blob.parsed)
        self._make(partial.parent)
        descriptor = open_partial(partial)
        try:
            if os.fstat(descriptor).st_size > blob.size:
                os.ftruncate(descriptor, blob.size)
        finally:
            os.close(descriptor)
        return partial

    def _land(self, blob: Descriptor) -> None:
        partial = self._partial(blob.parsed)
        sync(partial)
        os.replace(partial, self._path(blob.parsed))

    def _finish(self) -> None:
        for digest, manifest in self._manifests.items():
            path = self._path(digest)
            self._make(path.parent)
            write_synced(path, manifest.body)
        for folder in {self._path(digest).parent for digest in self._manifests} | {self._folder / "blobs"}:
            sync(folder)
        if not (self._folder / MARKER).exists():
            write_synced(self._folder / MARKER, MARKER_BODY)
        # Read again: who keeps no lock may have added an image meanwhile.
        index = self._entries()
        index["manifests"] = [*self._kept(index["manifests"]), *self._new_entries]
        write_synced(self._folder / INDEX, encoded_index(index, self.name))
        sync(self._folder)

    def _entries(self) -> dict[str, Any]:
        """``index.json`` as it is, with the fields that nobody knows here. Raises `SourceDamaged`."""
        path = self._folder / INDEX
        with translated(f"cannot read {path}"):
            data = path.read_bytes() if path.exists() else _EMPTY
        try:
            found = msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            found = None
        if len(data) > MAX_MANIFEST or not isinstance(found, dict) or not _are_entries(found.get("manifests")):
            raise SourceDamaged(f"{path} is damaged: put it right, or name another folder")
        return found

    def _kept(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """All but those that had a tag that is given anew, or, without a tag, are these very ones without one."""
        names = {(entry.annotations or {}).get(REF_NAME) for entry in self._new_entries} - {None}
        untagged = {entry.digest for entry in self._new_entries if entry.annotations is None}
        return [
            entry
            for entry in entries
            if (entry.get("digest") not in untagged if _ref_name(entry) is None else _ref_name(entry) not in names)
        ]

    def _tidy(self) -> None:
        with contextlib.suppress(OSError):
            for partial in self._folder.glob("blobs/*/.*.partial"):
                if not partial.stat().st_size:
                    partial.unlink()
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()  # One that is not empty stays.
        self._made.clear()

    def _unlock(self) -> None:
        if self._locked >= 0:
            os.close(self._locked)
            self._locked = -1


def _are_entries(found: object) -> bool:
    return isinstance(found, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("annotations") or {}, dict) for entry in found
    )


def _ref_name(entry: dict[str, Any]) -> object:
    return (entry.get("annotations") or {}).get(REF_NAME)
