"""Which layers of an image a Docker Engine has: those that need not be in the archive which it loads.

It keeps a layer under all that lie below it. So it has one where one of its images begins with the same layers up to
it (image spec, "Layer ChainID").
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from bucketry.transfer.crew import crew
from bucketry.transfer.errors import Refused
from bucketry.transfer.local.docker_engine import DockerEngine, ListedImage

MOST_IMAGES: Final = 1000
"""That are looked at: those of the same name first, then the newest."""
SECONDS: Final = 15.0
"""That a layer may wait for the answer: an engine under load is slow, and to fetch a layer is no harm."""
_AT_ONCE: Final = 8


async def layers_held(
    engine: DockerEngine, diff_ids: Sequence[str], name: str, *, seconds: float = SECONDS, most: int = MOST_IMAGES
) -> int:
    """How many layers of an image, from the first on, the engine has, as far as is seen within ``seconds``.

    ``diff_ids``: of all its layers, in order. ``name``: what it will be called, with its tag. Raises `Unreachable`.
    """
    longest = 0

    async def look(image: ListedImage) -> None:
        nonlocal longest
        found = await engine.find(image.id)
        if found is not None:
            longest = max(longest, _common(found.diff_ids, diff_ids))

    try:
        async with asyncio.timeout(seconds):
            images = sorted(await engine.images(), key=lambda image: (not _is_alike(image, name), -image.created))
            async with crew(_AT_ONCE) as tasks:
                for image in images[:most]:
                    if longest == len(diff_ids):
                        break
                    await tasks.begin(look, image)
    except (TimeoutError, Refused):
        pass  # What was seen holds, and the rest is fetched.
    return longest


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _is_alike(image: ListedImage, name: str) -> bool:
    repository = name.rpartition(":")[0]
    return any(tag.rpartition(":")[0] == repository for tag in image.repo_tags or ())
