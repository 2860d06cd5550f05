"""Pull: an image or an index from a repository into files: a layout, an archive, a Docker Engine."""

from __future__ import annotations

import time
from collections.abc import Callable

from bucketry.oci import Descriptor, Digest
from bucketry.transfer.contract import Destination, Source
from bucketry.transfer.crew import crew
from bucketry.transfer.events import Began, Done, Ended, Found, Listener, Skipped
from bucketry.transfer.landing import BUFFERS, Landing
from bucketry.transfer.pool import SYSTEM, Timing
from bucketry.transfer.selection import choose, this_platform
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
    ``tag``: what it is called at the destination; None: ``reference``, where that is a tag. ``then``: what a person
    types to use it. ``clock``: POSIX seconds. Raises `TransferError`; where it fails or is cancelled, the destination
    keeps what a later run goes on with.
    """
    work = Work(settings, listen, timing=timing, clock=clock, piece=BUFFERS)
    work.tell(Began(action="pull", source=source.name, target=destination.name))
    platform = settings.platform or (None if whole else this_platform())
    chosen = await choose(work, source, reference, platform)
    if tag is None and isinstance(reference, str):
        tag = reference
    for manifest in chosen.all:
        work.tell(Found(item=str(manifest.digest), kind="manifest", size=len(manifest.body)))
    blobs = chosen.blobs()
    for blob, is_config in blobs:
        work.tell(Found(item=blob.digest, kind="config" if is_config else "layer", size=blob.size))
    try:
        await destination.begin(chosen.root, chosen.below, tag)
        async with crew(BLOBS_AT_ONCE) as tasks:
            for blob, _ in blobs:
                await tasks.begin(_land, work, source, destination, blob)
        await destination.finish()
    except BaseException:
        await destination.abandon()
        raise
    for manifest in chosen.all:
        work.tell(Done(item=str(manifest.digest), digest=str(manifest.digest), size=len(manifest.body)))
    return work.ended(str(chosen.root.digest), then)


async def _land(work: Work, source: Source, destination: Destination, blob: Descriptor) -> None:
    slot = await destination.slot(blob)
    if slot is None:
        work.tell(Skipped(item=blob.digest, why="already there", size=blob.size))
        return
    await Landing(work, source.name, source.blob(blob), blob, slot).land()
    await destination.landed(blob)
    work.tell(Done(item=blob.digest, digest=blob.digest, size=blob.size))
