"""What ``docker save`` writes about the images in an archive: ``manifest.json``, and the configs it names. No I/O.

The list has one entry an image. A name in it is taken as Docker takes it: ``app`` is ``docker.io/library/app:latest``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from bucketry.oci import Digest, ImageReference
from bucketry.oci.errors import OCIError
from bucketry.oci.reference import DEFAULT_REGISTRY, DEFAULT_TAG
from bucketry.oci.text import quoted
from bucketry.transfer.errors import ImageMissing, NameUnusable, SourceDamaged

LISTING: Final = "manifest.json"
MAX_DOCUMENT: Final = 8 * 1024 * 1024
"""Bytes of the largest list or config."""

_CONFIG_NAME: Final = re.compile(r"(?:blobs/sha256/|sha256:)?([0-9a-f]{64})(?:\.json)?")


class Entry(msgspec.Struct, frozen=True, rename="pascal"):
    """An image in ``manifest.json``. Paths as they are written there."""

    config: str
    layers: tuple[str, ...] = ()
    repo_tags: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return self.repo_tags or ()


class _RawEntry(msgspec.Struct, rename="pascal"):
    config: str
    layers: tuple[str, ...] | None = None
    repo_tags: tuple[str, ...] | None = None


class _RootFS(msgspec.Struct):
    diff_ids: tuple[str, ...] | None = None


class _Config(msgspec.Struct):
    rootfs: _RootFS


def parse_listing(data: bytes, archive: str) -> tuple[Entry, ...]:
    """Raises `SourceDamaged`."""
    try:
        found = msgspec.json.decode(data, type=tuple[_RawEntry, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SourceDamaged(f"{LISTING} in {archive} is damaged: {error}") from error
    return tuple(Entry(raw.config, raw.layers or (), raw.repo_tags) for raw in found)


def choose(entries: Sequence[Entry], wanted: str | None, archive: str) -> Entry:
    """The image that ``wanted`` names, in full or by its tag alone; without it, the only one.

    Raises `ImageMissing`, and `NameUnusable` where more than one image could be meant.
    """
    if not entries:
        raise ImageMissing(f"{archive} has no image in it")
    if wanted is None:
        if len(entries) == 1:
            return entries[0]
        raise NameUnusable(f"{archive} has {len(entries)} images: add one of {_shown(entries)} after a colon")
    found = [entry for entry in entries if _full_name(wanted) in map(_full_name, entry.names)]
    if not found:
        found = [entry for entry in entries if wanted in (name.rpartition(":")[2] for name in entry.names)]
    if len(found) == 1:
        return found[0]
    if found:
        raise NameUnusable(f"{quoted(wanted)} could be {_shown(found)} in {archive}: write one of them in full")
    raise ImageMissing(f"{archive} has no image {quoted(wanted)}: it has {_shown(entries)}")


def diff_ids(config: bytes, entry: Entry, archive: str) -> tuple[Digest, ...]:
    """Of the image's layers, out of its config, which must be the one that its file's name says.

    Raises `SourceDamaged`.
    """
    named = _CONFIG_NAME.fullmatch(entry.config.removeprefix("./"))
    if named is not None and Digest.of(config).hex != named[1]:
        raise SourceDamaged(f"the config in {archive} is not the one that its name says: it is not used")
    try:
        written = msgspec.json.decode(config, type=_Config).rootfs.diff_ids or ()
        found = tuple(map(Digest.parse, written))
    except (msgspec.MsgspecError, UnicodeDecodeError, OCIError) as error:
        raise SourceDamaged(f"the config in {archive} is damaged: {error}") from error
    if len(found) != len(entry.layers):
        raise SourceDamaged(
            f"the image in {archive} has {len(entry.layers)} layers, but its config has {len(found)}: it is not used"
        )
    return found


def inside(path: str, archive: str) -> str:
    """A path of ``manifest.json`` as `bucketry.transfer.local.tar.Member.name` writes it. Raises `SourceDamaged`."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or not parts:
        raise SourceDamaged(f"{LISTING} in {archive} names {quoted(path)}, which is outside of it: it is not used")
    return "/".join(parts)


def docker_name(text: str) -> str:
    """A name as Docker shows it, with its tag: ``app`` is ``app:latest``. Raises `NameUnusable`."""
    try:
        reference = ImageReference.parse(text)
    except OCIError as error:
        raise NameUnusable(error.message) from error
    if reference.digest is not None:
        raise NameUnusable(f"{quoted(text)} has a digest: Docker keeps an image that is loaded under a tag, name:tag")
    if reference.registry == DEFAULT_REGISTRY:
        name = reference.repository.removeprefix("library/")
    else:
        name = f"{reference.registry}/{reference.repository}"
    return f"{name}:{reference.tag or DEFAULT_TAG}"


def _full_name(text: str) -> str:
    try:
        return docker_name(text)
    except NameUnusable:
        return text


def _shown(entries: Sequence[Entry]) -> str:
    names = [name for entry in entries for name in entry.names[:3]]
    unnamed = sum(not entry.names for entry in entries)
    shown = ", ".join(quoted(name) for name in names[:10]) + (", ..." if len(names) > 10 else "")
    return " and ".join([*([shown] if shown else []), *([f"{unnamed} without a name"] if unnamed else [])])
