"""Push: an image, an index or a saved image, to a repository of a registry or of a bucket."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeGuard, cast

from bucketry.oci import Digest
from bucketry.transfer.compress import Compression, compress
from bucketry.transfer.contract import RawManifest, SavedImage, Source, Target
from bucketry.transfer.crew import crew
from bucketry.transfer.errors import NameUnusable
from bucketry.transfer.events import Began, Done, Ended, Found, Listener, Moved, Note, Skipped
from bucketry.transfer.pool import SYSTEM, Timing
from bucketry.transfer.saved import SavedSending
from bucketry.transfer.selection import Chosen, blobs_of, choose, tagged_beside, with_referrers
from bucketry.transfer.sending import Sending
from bucketry.transfer.settings import TransferSettings
from bucketry.transfer.work import BLOBS_AT_ONCE, Work


async def push(
    source: Source | SavedImage,
    target: Target,
    *,
    tag: str | None,
    settings: TransferSettings,
    listen: Listener,
    reference: Digest | str | None = None,
    mount_from: str | None = None,
    timing: Timing = SYSTEM,
    clock: Callable[[], float] = time.time,
) -> Ended:
    """Until everything is there, under ``tag`` where it is given. Source and target stay open.

    Of an index all is pushed, or the image of ``settings.platform``. ``reference``: None for what the source's name
    says. ``mount_from``: a repository at the target's side that holds the source's blobs. ``clock``: POSIX seconds.
    Raises `TransferError`. Where it is cancelled, what was sent is kept for a later run.
    """
    work = new_work(target, settings, listen, timing=timing, clock=clock)
    work.tell(Began(action="push", source=source.name, target=target.name))
    await note_parts(work, target)
    if is_saved(source):
        root = await SavedSending(work, source, target, _compressing(settings)).send()
        await put_manifests(work, target, (root,), {root.digest: (tag,)})
        return ended(work, target, root, tag)
    source = cast(Source, source)
    chosen = await choose(work, source, reference, settings.platform)
    await move(work, source, target, [(tag, chosen)], mount_from=mount_from)
    return ended(work, target, chosen.root, tag)


def is_saved(source: Source | SavedImage) -> TypeGuard[SavedImage]:
    return hasattr(source, "layers")


def new_work(
    target: Target, settings: TransferSettings, listen: Listener, *, timing: Timing, clock: Callable[[], float]
) -> Work:
    return Work(settings, listen, timing=timing, clock=clock, piece=settings.part(0))


async def note_parts(work: Work, target: Target) -> None:
    if not await work.first(target.name, target.takes_parts):
        work.tell(Note(text=f"{target.name} has no parallel extension: layers travel whole, several at once"))


async def move(
    work: Work,
    source: Source,
    target: Target,
    chosen: Sequence[tuple[str | None, Chosen]],
    *,
    mount_from: str | None,
) -> None:
    """All that was chosen, each under its tag, with what refers to it where that is wanted."""
    manifests = _once(manifest for _, image in chosen for manifest in image.all)
    names: dict[Digest, list[str | None]] = {}
    for tag, image in chosen:
        names.setdefault(image.root.digest, []).append(tag)
    if work.settings.referrers:
        referring = await with_referrers(work, source, manifests)
        beside = await tagged_beside(work, source, manifests)
        for tag, manifest in beside:
            names.setdefault(manifest.digest, []).append(tag)
        manifests = _once((*manifests, *referring, *(manifest for _, manifest in beside)))
    await _send_blobs(work, source, target, manifests, mount_from=mount_from)
    await put_manifests(work, target, manifests, names)


def _once(manifests: Iterable[RawManifest]) -> tuple[RawManifest, ...]:
    """Each once, where it comes first: what is below another stays before it."""
    return tuple({manifest.digest: manifest for manifest in manifests}.values())


async def _send_blobs(
    work: Work, source: Source, target: Target, manifests: Sequence[RawManifest], *, mount_from: str | None
) -> None:
    sending = Sending(work, source, target, mount_from=mount_from)
    blobs = blobs_of(manifests)
    for blob, is_config in blobs:
        work.tell(Found(item=blob.digest, kind="config" if is_config else "layer", size=blob.size))
    async with crew(BLOBS_AT_ONCE) as tasks:
        for blob, _ in blobs:
            await tasks.begin(sending.send, blob)


async def put_manifests(
    work: Work,
    target: Target,
    manifests: Sequence[RawManifest],
    tags: Mapping[Digest, Sequence[str | None]],
) -> None:
    """In the order given, so children first; those that have tags after all others, under each of them.

    A subject and what refers to it may come in any order.
    """
    tagged = [manifest for manifest in manifests if any(tags.get(manifest.digest, ()))]
    for manifest in manifests:
        item = str(manifest.digest)
        work.tell(Found(item=item, kind="manifest", size=len(manifest.body)))
        if manifest in tagged:
            continue
        if await work.patiently(item, partial(target.has_manifest, manifest.digest)):
            work.tell(Skipped(item=item, why="already there", size=len(manifest.body)))
            continue
        await _put(work, target, manifest, None)
    for manifest in tagged:
        for tag in dict.fromkeys(tags[manifest.digest]):
            if tag is not None:
                await _put(work, target, manifest, tag)


async def _put(work: Work, target: Target, manifest: RawManifest, tag: str | None) -> None:
    item = str(manifest.digest)
    await work.patiently(item, lambda: target.put_manifest(manifest, tag))
    work.tell(Moved(item=item, size=len(manifest.body)))
    work.tell(Done(item=item, digest=item, size=len(manifest.body)))


def ended(work: Work, target: Target, root: RawManifest, tag: str | None) -> Ended:
    pull = target.pull_command
    if pull is not None:
        pull = f"{pull}@{root.digest}" if tag is None else f"{pull}:{tag}"
    return work.ended(str(root.digest), pull)


@dataclass(frozen=True, slots=True)
class _Compressing:
    compression: Compression

    @property
    def form(self) -> str:
        return self.compression.form

    @property
    def media_type(self) -> str:
        return self.compression.media_type()

    def __call__(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        return compress(self.compression, pieces)


def _compressing(settings: TransferSettings) -> _Compressing:
    try:
        return _Compressing(Compression.parse(settings.compression))
    except ValueError as error:
        raise NameUnusable(str(error)) from error
