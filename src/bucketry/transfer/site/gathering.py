"""What is to be published, read from its sources: manifests, what refers to them, and all their blobs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from bucketry.oci import Descriptor, Digest, Kind, Platform, media_types
from bucketry.transfer.contract import RawManifest, Source
from bucketry.transfer.crew import closing, crew
from bucketry.transfer.errors import ImageMissing, NameUnusable
from bucketry.transfer.selection import blobs_of, choose, parsed, tagged_beside, with_referrers
from bucketry.transfer.site import paths
from bucketry.transfer.site.state import Entry, PlatformSize
from bucketry.transfer.work import Work

_CONFIG = 4 * 1024 * 1024
"""Bytes of a config that is read for what it runs on."""

_PLATFORM = re.compile(r"[\w.+/-]{1,200}", re.ASCII)
"""Whoever made an image says what it runs on, and people read it on the page."""

_IMAGES_AT_ONCE = 8
"""That are read; each may ask for several things at once."""


@dataclass(frozen=True, slots=True)
class ImageToPublish:
    """``reference`` of ``source`` (None: what its name says) as ``name:tag`` of the site.

    Without a tag it is published under its digest alone. The source stays open.
    """

    source: Source
    name: str
    tag: str | None
    reference: Digest | str | None = None


@dataclass(slots=True)
class Wanted:
    """Of one repository of the site. ``manifests``: children before their parents. ``tags``: also cosign's, beside.

    ``referrers``: of each subject that one of the manifests names. ``blobs``: where each can be read from, and whether
    it is a config.
    """

    name: str
    manifests: dict[Digest, RawManifest] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)
    digests: list[Digest] = field(default_factory=list)
    referrers: dict[Digest, dict[str, Descriptor]] = field(default_factory=dict)
    blobs: dict[str, tuple[Descriptor, Source]] = field(default_factory=dict)

    def add(self, manifest: RawManifest, source: Source) -> None:
        if manifest.digest in self.manifests:
            return
        self.manifests[manifest.digest] = manifest
        known = parsed(manifest)
        for blob in known.blobs():
            self.blobs.setdefault(blob.digest, (blob, source))
        if known.subject is not None:
            entry = known.referrer(manifest.digest, len(manifest.body))
            self.referrers.setdefault(known.subject.parsed, {})[entry.digest] = entry

    def subjects(self) -> Iterable[Digest]:
        """Whose referrers are told: all manifests, and the subjects that they name, there or not."""
        return dict.fromkeys((*self.manifests, *self.referrers))

    def paths(self, *, twins: bool) -> Iterator[str]:
        """All files that the site must have of it; of its tags all that it may have."""
        yield paths.tags(self.name)
        for tag in self.tags:
            yield from paths.of_tag(self.name, tag, twins=twins)
        for digest, manifest in self.manifests.items():
            yield paths.manifest(self.name, digest)
            if twins:
                yield paths.twin(self.name, digest, manifest.media_type)
        for subject in self.subjects():
            yield paths.referrers(self.name, subject)
        for blob, _ in self.blobs.values():
            yield paths.blob(self.name, blob.parsed)
            yield paths.checkpoints(self.name, blob.parsed)


@dataclass(frozen=True, slots=True)
class _Read:
    """One image as its source has it: the manifests, and the tags that cosign has beside."""

    root: Digest
    manifests: tuple[RawManifest, ...]
    tags: tuple[tuple[str, Digest], ...] = ()


async def gather(work: Work, images: Sequence[ImageToPublish], *, referrers: bool) -> dict[str, Wanted]:
    """By the repository's name, in order. Raises `TransferError`; `NameUnusable` for a tag of two images."""
    read: dict[int, _Read] = {}

    async def one(number: int, image: ImageToPublish) -> None:
        read[number] = await _read(work, image, referrers=referrers)

    async with crew(_IMAGES_AT_ONCE) as tasks:
        for number, image in enumerate(images):
            await tasks.begin(one, number, image)
    # A blob is sent once, by one of the sizes that it is said to have: they are all the same, or this raises.
    blobs_of(manifest for each in read.values() for manifest in each.manifests)
    found: dict[str, Wanted] = {}
    for number, image in enumerate(images):
        wanted, image_read = found.setdefault(image.name, Wanted(image.name)), read[number]
        for manifest in image_read.manifests:
            wanted.add(manifest, image.source)
        if image.tag is None:
            wanted.digests.append(image_read.root)
        for tag, digest in (*([] if image.tag is None else [(image.tag, image_read.root)]), *image_read.tags):
            _tag(wanted, tag, digest)
    return dict(sorted(found.items()))


async def _read(work: Work, image: ImageToPublish, *, referrers: bool) -> _Read:
    chosen = await choose(work, image.source, image.reference, work.settings.platform)
    if not referrers:
        return _Read(chosen.root.digest, chosen.all)
    referring = await with_referrers(work, image.source, chosen.all)
    beside = await tagged_beside(work, image.source, chosen.all)
    return _Read(
        chosen.root.digest,
        (*chosen.all, *referring, *(manifest for _, manifest in beside)),
        tuple((tag, manifest.digest) for tag, manifest in beside if tag is not None),
    )


def _tag(wanted: Wanted, tag: str, digest: Digest) -> None:
    held = wanted.tags.setdefault(tag, digest)
    if held != digest:
        raise NameUnusable(f"two images are to be {wanted.name}:{tag}: {held} and {digest}; give one another tag")


async def entry_of(work: Work, wanted: Wanted, root: Digest, now: float) -> Entry:
    """What is told of the image in the site."""
    manifest = wanted.manifests[root]
    sizes: list[PlatformSize] = []
    if parsed(manifest).kind is Kind.INDEX:
        for child in parsed(manifest).children():
            platform = _text(child.platform)
            if platform and child.parsed in wanted.manifests:
                sizes.append(PlatformSize(platform, child.digest, _size(wanted, child.parsed)))
    elif platform := await _of_config(work, wanted, manifest):
        sizes.append(PlatformSize(platform, str(root), _size(wanted, root)))
    return Entry(str(root), manifest.media_type, _size(wanted, root), now, tuple(sizes))


def _size(wanted: Wanted, root: Digest) -> int:
    """Bytes of a manifest and of all below it, each once."""
    sizes: dict[str, int] = {}
    waiting = [root]
    while waiting:
        manifest = wanted.manifests.get(waiting.pop())
        if manifest is None or str(manifest.digest) in sizes:
            continue
        sizes[str(manifest.digest)] = len(manifest.body)
        sizes.update((blob.digest, blob.size) for blob in parsed(manifest).blobs())
        waiting += [child.parsed for child in parsed(manifest).children()]
    return sum(sizes.values())


async def _of_config(work: Work, wanted: Wanted, manifest: RawManifest) -> str:
    """What an image runs on, as its config says; empty where it is none of an image, or says nothing."""
    config = parsed(manifest).config
    if config is None or config.media_type not in (media_types.OCI_CONFIG, media_types.DOCKER_CONFIG):
        return ""
    if config.size > _CONFIG or config.digest not in wanted.blobs:
        return ""
    source = wanted.blobs[config.digest][1]

    async def read() -> bytes:
        async with closing(source.blob(config).read()) as pieces:
            return b"".join([piece async for piece in pieces])

    try:
        body = await work.patiently(config.digest, read)
    except ImageMissing:
        return ""  # Whoever sends it says so.
    if Digest.of(body, config.parsed.algorithm) != config.parsed:
        return ""
    try:
        return _text(msgspec.json.decode(body, type=Platform))
    except msgspec.MsgspecError:
        return ""


def _text(platform: Platform | None) -> str:
    """Empty for what runs nowhere, such as attestations, and for what is no name of a platform."""
    if platform is None or "unknown" in (platform.os, platform.architecture) or not platform.os:
        return ""
    text = "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)
    return text if _PLATFORM.fullmatch(text) else ""
