"""Copy: images and indexes from one repository to another, byte for byte, with their tags and what refers to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bucketry.oci import Digest
from bucketry.transfer.contract import Source, Target
from bucketry.transfer.crew import crew
from bucketry.transfer.errors import ImageMissing
from bucketry.transfer.events import Began, Ended, Listener
from bucketry.transfer.pool import SYSTEM, Timing
from bucketry.transfer.push import ended, move, new_work, note_parts
from bucketry.transfer.selection import Chosen, choose
from bucketry.transfer.settings import TransferSettings
from bucketry.transfer.work import Work


async def copy(
    source: Source,
    target: Target,
    *,
    tag: str | None,
    settings: TransferSettings,
    listen: Listener,
    reference: Digest | str | None = None,
    tags: Sequence[str] | None = None,
    mount_from: str | None = None,
    timing: Timing = SYSTEM,
    clock: Callable[[], float] = time.time,
) -> Ended:
    """Until everything is there. As `bucketry.transfer.push.push` of a source, but of several images with ``tags``.

    ``tags``: each of these is copied under its own name, and ``reference`` and ``tag`` are not looked at; what they
    have in common travels once. The digest of the answer is that of the last. Raises `TransferError`.
    """
    work = new_work(target, settings, listen, timing=timing, clock=clock)
    work.tell(Began(action="copy", source=source.name, target=target.name))
    await note_parts(work, target)
    if tags is None:
        chosen = [(tag, await choose(work, source, reference, settings.platform))]
    else:
        chosen = await choose_all(work, source, tags, settings.platform)
    await move(work, source, target, chosen, mount_from=mount_from)
    last, image = chosen[-1]
    return ended(work, target, image.root, last)


async def choose_all(
    work: Work, source: Source, tags: Sequence[str], platform: str | None
) -> list[tuple[str | None, Chosen]]:
    """What each tag names, in the order of the tags, each tag once. Raises `ImageMissing`."""
    if not tags:
        raise ImageMissing(f"{source.name} has no tags: there is nothing to copy")
    found: dict[str, Chosen] = {}

    async def find(tag: str) -> None:
        found[tag] = await choose(work, source, tag, platform)

    async with crew(8) as tasks:
        for tag in dict.fromkeys(tags):
            await tasks.begin(find, tag)
    return [(tag, found[tag]) for tag in dict.fromkeys(tags)]
