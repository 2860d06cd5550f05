"""What destinations on this machine share: partial files that a later run goes on with, locks, and room on the disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from bucketry import hashing
from bucketry.oci import MAX_MANIFEST, Descriptor, Digest
from bucketry.oci.text import quoted
from bucketry.transfer.contract import RawManifest
from bucketry.transfer.crew import in_thread
from bucketry.transfer.errors import NameUnusable, NoSpace, Refused, SourceDamaged
from bucketry.transfer.files import translated
from bucketry.transfer.local.layout import INDEX, REF_NAME

_AT_ONCE: Final = 4 * 1024 * 1024


def lock(descriptor: int, what: str) -> None:
    """Until the descriptor is closed, in whatever process. Raises `Refused` where another holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(f"another run is writing to {what}: wait until it ends, or write elsewhere") from None


def open_partial(path: Path) -> int:
    """For reading and writing; made where it is not there. A link in its place is not followed. Raises `OSError`."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def open_locked(path: Path, what: str) -> int:
    """A partial file that no other run writes to. Raises `OSError`, `Refused`."""
    while True:
        descriptor = open_partial(path)
        try:
            lock(descriptor, what)
            # The other run may have ended in between, and given the file its name: that one is not to be touched.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


async def holds(descriptor: int, offset: int, blob: Descriptor) -> bool:
    """Whether the blob's bytes are in a file, from ``offset`` on. Reads all of them, unless some were never written."""
    if not await in_thread(_is_written, descriptor, offset, blob.size):
        return False
    hasher = hashing.new(blob.parsed.algorithm)
    for start in range(0, blob.size, _AT_ONCE):
        size = min(_AT_ONCE, blob.size - start)
        if not await in_thread(_add, hasher, descriptor, offset + start, size):
            return False
    return hasher.hexdigest() == blob.parsed.hex


def _is_written(descriptor: int, offset: int, size: int) -> bool:
    if os.fstat(descriptor).st_size < offset + size:
        return False
    try:
        return not size or os.lseek(descriptor, offset, os.SEEK_HOLE) >= offset + size
    except OSError:
        return True  # A file system that cannot say: the hash does.


def _add(hasher: hashing.Hasher, descriptor: int, offset: int, size: int) -> bool:
    data = os.pread(descriptor, size, offset)
    hasher.update(data)
    return len(data) == size


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raises `NoSpace` where the disk has less than ``needed`` bytes free."""
    with translated(f"cannot write {what}"):
        found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if needed > free:
        raise NoSpace(
            f"{what} needs {needed / 2**20:,.0f} MiB more, but {folder} has {free / 2**20:,.0f} MiB free: "
            "make room, then run it again"
        )


def allocated(path: Path) -> int:
    """Bytes that a file takes on the disk; 0 where there is none."""
    with contextlib.suppress(OSError):
        return path.stat().st_blocks * 512
    return 0


def check_tag(tag: str | None) -> None:
    """Raises `NameUnusable` for a digest in the place of a tag."""
    if tag is not None and tag.startswith("@"):
        raise NameUnusable(f"{quoted(tag, 90)} is a digest: what is written has the digest it has, name it by a tag")


def blobs_of(root: RawManifest, manifests: Sequence[RawManifest]) -> list[Descriptor]:
    """All blobs of these manifests, each digest once, in order."""
    found: dict[str, Descriptor] = {}
    for manifest in (root, *manifests):
        for blob in manifest.parsed.blobs():
            known = found.setdefault(blob.digest, blob)
            if known.size != blob.size:
                raise SourceDamaged(f"the manifests give blob {blob.digest} two sizes")
    return list(found.values())


def manifests_of(root: RawManifest, manifests: Sequence[RawManifest]) -> dict[Digest, RawManifest]:
    """Each once, the root last: nobody sees it before what it names."""
    found = {manifest.digest: manifest for manifest in manifests if manifest.digest != root.digest}
    return {**found, root.digest: root}


def entries_of(root: RawManifest, tag: str | None, along: Sequence[tuple[str | None, RawManifest]]) -> list[Descriptor]:
    """What a layout's ``index.json`` lists: the image, and what refers to it, which is found by tag or by subject.

    As oras writes them, so that it finds them too. What lies below a listed manifest is not listed.
    """
    entries = {(tag, root.digest): root}
    for name, manifest in along:
        if manifest.parsed.subject is not None or (name is not None and name != tag):
            entries.setdefault((name, manifest.digest), manifest)
    return [
        manifest.descriptor
        if name is None
        else msgspec.structs.replace(manifest.descriptor, annotations={REF_NAME: name})
        for (name, _), manifest in entries.items()
    ]


def encoded_index(index: dict[str, Any], what: str) -> bytes:
    """An ``index.json``. Raises `Refused` for one that nobody would read."""
    data = msgspec.json.encode(index)
    if len(data) > MAX_MANIFEST:
        raise Refused(f"{INDEX} of {what} would have {len(data):,} bytes, and at most {MAX_MANIFEST:,} are read")
    return data


def write_synced(path: Path, data: bytes) -> None:
    """Replaces the file at once, after its bytes are on the disk. Raises `OSError`."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
            os.fchmod(descriptor, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def sync(path: Path) -> None:
    """Puts a file or folder on the disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
