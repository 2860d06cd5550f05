"""Pull: an image or an index from a repository into files: a layout, an archive, a Docker Engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bucketry.oci import Descriptor, Digest
from bucketry.transfer.contract import Destination, Held, RawManifest, ReferringDestination, Source
from bucketry.transfer.crew import crew
from bucketry.transfer.errors import NameUnusable
from bucketry.transfer.events import Began, Done, Ended, Found, Listener, Note, Skipped
from bucketry.transfer.landing import BUFFERS, Landing
from bucketry.transfer.pool import SYSTEM, Timing
from bucketry.transfer.selection import Chosen, blobs_of, choose, tagged_beside, this_platform, with_referrers
from bucketry.transfer.settings import TransferSettings
from bucketry.transfer.work import BLOBS_AT_ONCE, Work


async def pull(
    source: Source,
    destination: Destination,
    *,
    reference: Digest | str | None,
    settings: TransferSettings,
    listen: Listener,
    whole: bool = False,
    tag: str | None = None,
    then: str | None = None,
    timing: Timing = SYSTEM,
    clock: Callable[[], float] = time.time,
) -> Ended:
    """Until all is in the destination, verified, and visible. Source and destination stay the caller's.

    Of an index the image of ``settings.platform`` is pulled, by default that of this machine, or all with ``whole``.
    ``settings.referrers`` is for a `ReferringDestination`.
    ``tag``: what it is called at the destination; None: ``reference``, where that is a tag. ``then``: what a person
    types to use it. ``clock``: POSIX seconds. Raises `TransferError`; where it fails or is cancelled, the destination
    keeps what a later run goes on with.
    """
    work = Work(settings, listen, timing=timing, clock=clock, piece=BUFFERS)
    referring = destination if isinstance(destination, ReferringDestination) else None
    if settings.referrers and referring is None:
        raise no_place(destination.name)
    work.tell(Began(action="pull", source=source.name, target=destination.name))
    platform = settings.platform or (None if whole else this_platform())
    chosen = await choose(work, source, reference, platform)
    if tag is None and isinstance(reference, str):
        tag = reference
    manifests = {manifest.digest: manifest for manifest in chosen.all}
    if settings.referrers and referring is not None:
        along = await _along(work, source, chosen)
        referring.take_along(along)
        manifests.update((manifest.digest, manifest) for _, manifest in along)
    for manifest in manifests.values():
        work.tell(Found(item=str(manifest.digest), kind="manifest", size=len(manifest.body)))
    # What a layer waits for may be its config: that goes before all of them, and waits for none.
    blobs = sorted(blobs_of(manifests.values()), key=lambda found: not found[1])
    for blob, is_config in blobs:
        work.tell(Found(item=blob.digest, kind="config" if is_config else "layer", size=blob.size))
    filling = _Filling(work, source, destination)
    try:
        await destination.begin(chosen.root, chosen.below, tag)
        await filling.fill([blob for blob, _ in blobs])
        while gone := await destination.finish():
            work.tell(Note(text=f"{destination.name}: what was there is gone since, and is fetched"))
            await filling.fill(gone)
    except BaseException:
        await destination.abandon()
        raise
    for manifest in manifests.values():
        work.tell(Done(item=str(manifest.digest), digest=str(manifest.digest), size=len(manifest.body)))
    return work.ended(str(chosen.root.digest), then)


def no_place(destination: str) -> NameUnusable:
    """Why ``destination`` cannot get what refers to an image."""
    return NameUnusable(
        f"{destination} has no place for signatures and SBOMs: with --referrers pull to oci:DIR or oci-archive:FILE, "
        "or copy to another registry"
    )


async def _along(work: Work, source: Source, chosen: Chosen) -> Sequence[tuple[str | None, RawManifest]]:
    """What refers to what was chosen, each manifest once for each tag."""
    tagged = await tagged_beside(work, source, chosen.all)
    named = {manifest.digest for _, manifest in tagged} | {manifest.digest for manifest in chosen.all}
    untagged = await with_referrers(work, source, chosen.all)
    along = (*((None, manifest) for manifest in untagged if manifest.digest not in named), *tagged)
    if not along and chosen.of_index:
        work.tell(Note(text="nothing refers to this image by itself: --all-platforms takes what refers to the index"))
    return along


class _Filling:
    def __init__(self, work: Work, source: Source, destination: Destination) -> None:
        self._work = work
        self._source = source
        self._destination = destination
        self._held: dict[str, Skipped] = {}

    async def fill(self, blobs: Sequence[Descriptor]) -> None:
        async with crew(BLOBS_AT_ONCE) as tasks:
            for blob in blobs:
                await tasks.begin(self._land, blob)

    async def _land(self, blob: Descriptor) -> None:
        if blob.digest in self._held:
            self._work.take_back(self._held.pop(blob.digest))
        slot = await self._destination.slot(blob)
        if slot is None:
            self._work.tell(Skipped(item=blob.digest, why="already there", size=blob.size))
            return
        if isinstance(slot, Held):
            skipped = self._held[blob.digest] = Skipped(item=blob.digest, why=slot.why, size=blob.size)
            self._work.tell(skipped)
            return
        await Landing(self._work, self._source.name, self._source.blob(blob), blob, slot).land()
        await self._destination.landed(blob)
        self._work.tell(Done(item=blob.digest, digest=blob.digest, size=blob.size))
