"""Which manifests of a source are meant: a whole index or one platform of it, with or without what refers to them."""

from __future__ import annotations

import platform as machine
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from bucketry.oci import Descriptor, Digest, Kind, Manifest, Platform
from bucketry.oci.errors import OCIError
from bucketry.transfer.contract import RawManifest, Source
from bucketry.transfer.crew import crew
from bucketry.transfer.errors import ImageMissing, NameUnusable, SourceDamaged, TransferError
from bucketry.transfer.work import Work

MOST_MANIFESTS = 20_000
"""Of one transfer. Each may have 4 MiB, and no image comes near."""
MOST_DEEP = 8
"""Indexes in indexes, and referrers of referrers."""

_TAGS_TOLD = 10

COSIGN = ("sig", "att", "sbom")
"""Ends of the tags under which cosign keeps signatures, attestations and SBOMs."""

_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "i686": "386", "i386": "386"}
_ARM = {"armv5": "v5", "armv6": "v6", "armv7": "v7", "armv8": "v7"}


def parse_platform(text: str) -> Platform:
    """``os/architecture[/variant]``. Raises `NameUnusable`."""
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(part and part.isprintable() and " " not in part for part in parts):
        raise NameUnusable(f"{text[:80]!r} is not a platform: write os/architecture, such as linux/amd64")
    return Platform(os=parts[0].lower(), architecture=parts[1].lower(), variant=parts[2] if len(parts) == 3 else None)


def this_platform() -> str:
    """Of images that run here. Containers are Linux, whatever this machine is."""
    name = machine.machine().lower()
    for prefix, variant in _ARM.items():
        if name.startswith(prefix):
            return f"linux/arm/{variant}"
    return f"linux/{_MACHINES.get(name, name)}"


@dataclass(frozen=True, slots=True)
class Chosen:
    """``below``: the manifests below the root, children before their parents. ``of_index``: it was chosen of one."""

    root: RawManifest
    below: tuple[RawManifest, ...]
    of_index: bool = False

    @property
    def all(self) -> tuple[RawManifest, ...]:
        return (*self.below, self.root)

    def blobs(self) -> tuple[tuple[Descriptor, bool], ...]:
        """Each blob of the manifests once, and whether it is a config."""
        return blobs_of(self.all)


def blobs_of(manifests: Iterable[RawManifest]) -> tuple[tuple[Descriptor, bool], ...]:
    """Each blob of the manifests once, the largest first, and whether it is a config.

    So that at the end not one large blob is alone on its way.
    """
    found: dict[str, tuple[Descriptor, bool]] = {}
    for manifest in manifests:
        known = parsed(manifest)
        for blob in known.blobs():
            held = found.setdefault(
                blob.digest, (blob, known.config is not None and blob.digest == known.config.digest)
            )
            if held[0].size != blob.size:
                raise SourceDamaged(
                    f"blob {blob.digest} has {held[0].size} bytes by one manifest, {blob.size} by another"
                )
    return tuple(sorted(found.values(), key=lambda item: -item[0].size))


def parsed(manifest: RawManifest) -> Manifest:
    """Raises `SourceDamaged` for a manifest that is none."""
    try:
        return manifest.parsed
    except OCIError as error:
        raise SourceDamaged(f"manifest {manifest.digest}: {error.message}") from error


async def choose(work: Work, source: Source, reference: Digest | str | None, platform: str | None) -> Chosen:
    """The manifest of the reference; of an index that of ``platform`` where it is given, else all below it.

    Raises `ImageMissing`, `SourceDamaged`, `NameUnusable`.
    """
    try:
        root = await work.first(str(reference or source.name), lambda: source.manifest(reference))
    except ImageMissing as error:
        raise await missing(source, error) from error
    if isinstance(reference, Digest):
        _check_digest(source, root, reference)
    of_index = False
    if platform is not None:
        wanted = parse_platform(platform)
        for _ in range(MOST_DEEP):
            if parsed(root).kind is not Kind.INDEX:
                break
            entry = pick(source, parsed(root), wanted, platform)
            root = await _manifest(work, source, entry.parsed)
            of_index = True
    return Chosen(root, await _below(work, source, root), of_index)


async def with_referrers(work: Work, source: Source, manifests: Iterable[RawManifest]) -> tuple[RawManifest, ...]:
    """What refers to the manifests, and to that in turn, with all below it: children first, subjects before them."""
    seen = {manifest.digest for manifest in manifests}
    subjects = list(seen)
    found: list[RawManifest] = []
    for _ in range(MOST_DEEP):
        following: list[Digest] = []
        for subject in sorted(subjects):
            for referrer in await work.patiently(str(subject), partial(source.referrers, subject)):
                if referrer.parsed in seen:
                    continue
                root = await _manifest(work, source, referrer.parsed)
                for manifest in (*await _below(work, source, root), root):
                    if manifest.digest not in seen:
                        seen.add(manifest.digest)
                        following.append(manifest.digest)
                        found.append(manifest)
                _check_count(len(seen))
        if not following:
            break
        subjects = following
    return tuple(found)


async def tagged_beside(
    work: Work, source: Source, manifests: Iterable[RawManifest]
) -> tuple[tuple[str | None, RawManifest], ...]:
    """What cosign keeps of the manifests where registries have no referrers: tags made of their digests, and what is
    there, with all below it, which has no tag."""
    found: dict[str, Chosen] = {}

    async def look(tag: str) -> None:
        try:
            found[tag] = await choose(work, source, tag, None)
        except ImageMissing:
            pass

    async with crew(8) as tasks:
        for manifest in manifests:
            for suffix in COSIGN:
                await tasks.begin(look, f"{manifest.digest.algorithm}-{manifest.digest.hex}.{suffix}")
    return tuple(
        (tag if manifest is chosen.root else None, manifest)
        for tag, chosen in sorted(found.items())
        for manifest in chosen.all
    )


async def _manifest(work: Work, source: Source, reference: Digest | str | None) -> RawManifest:
    found = await work.patiently(str(reference or source.name), lambda: source.manifest(reference))
    if isinstance(reference, Digest):
        _check_digest(source, found, reference)
    return found


async def missing(source: Source, error: ImageMissing) -> ImageMissing:
    """The same, with the tags that are there: a tag is mistyped more often than missing."""
    if "it has" in str(error) or "@" in source.name:
        return error
    try:
        tags = await source.tags()
    except TransferError:
        return error
    named = ", ".join(tags[:_TAGS_TOLD]) + (f" and {len(tags) - _TAGS_TOLD} more" if len(tags) > _TAGS_TOLD else "")
    return ImageMissing(f"{error}; its tags: {named}") if tags else error


def _check_digest(source: Source, found: RawManifest, wanted: Digest) -> None:
    if found.digest != wanted:
        raise SourceDamaged(f"{source.name} gave manifest {found.digest} where {wanted} was asked for")


async def _below(work: Work, source: Source, root: RawManifest) -> tuple[RawManifest, ...]:
    """All manifests below the root, each once, children before their parents."""
    known = {root.digest: root}
    wanted = _children(root)
    deep = 0
    while wanted := [digest for digest in dict.fromkeys(wanted) if digest not in known]:
        deep += 1
        if deep > MOST_DEEP:
            raise SourceDamaged(f"{source.name} has indexes in indexes, more than {MOST_DEEP} deep")
        _check_count(len(known) + len(wanted))
        level = await _fetch(work, source, wanted)
        known.update((manifest.digest, manifest) for manifest in level)
        wanted = [child for manifest in level for child in _children(manifest)]
    ordered: dict[Digest, RawManifest] = {}

    def visit(manifest: RawManifest) -> None:
        # A digest is below itself only in theory, so this ends; nothing is deeper than the levels above.
        for child in _children(manifest):
            if child not in ordered:
                visit(known[child])
        ordered.setdefault(manifest.digest, manifest)

    visit(root)
    del ordered[root.digest]
    return tuple(ordered.values())


def _children(manifest: RawManifest) -> list[Digest]:
    return [entry.parsed for entry in parsed(manifest).children()]


async def _fetch(work: Work, source: Source, digests: list[Digest]) -> list[RawManifest]:
    fetched: dict[Digest, RawManifest] = {}

    async def fetch(digest: Digest) -> None:
        fetched[digest] = await _manifest(work, source, digest)

    async with crew(8) as tasks:
        for digest in digests:
            await tasks.begin(fetch, digest)
    return [fetched[digest] for digest in digests]


def _check_count(count: int) -> None:
    if count > MOST_MANIFESTS:
        raise SourceDamaged(f"the image has more than {MOST_MANIFESTS} manifests")


def pick(source: Source, index: Manifest, wanted: Platform, text: str) -> Descriptor:
    """The entry of the index for a platform; ``text`` is how a person wrote it. Raises `ImageMissing`."""
    fitting = [
        entry
        for entry in index.children()
        if entry.platform is not None
        and (entry.platform.os, entry.platform.architecture) == (wanted.os, wanted.architecture)
        and (wanted.variant is None or _variant(entry.platform) in {wanted.variant, None})
    ]
    if not fitting:
        there = sorted({_shown(entry.platform) for entry in index.children() if entry.platform is not None})
        known = [name for name in there if not name.startswith("unknown")]
        raise ImageMissing(
            f"{source.name} has no image for {text}; it has {', '.join(known[:20]) or 'none that names its platform'}"
        )
    # The one that asks least of the machine, or just what was asked for.
    return min(fitting, key=lambda entry: (_variant(entry.platform) != wanted.variant, _variant(entry.platform) or ""))


def _variant(platform: Platform | None) -> str | None:
    if platform is None or (platform.architecture == "arm64" and platform.variant == "v8"):
        return None
    return platform.variant


def _shown(platform: Platform | None) -> str:
    if platform is None:
        return ""
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)
