"""What keeps tags where they are: who asks may not move or delete them, or nobody may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

Reason: TypeAlias = Callable[[str], str | None]
"""Of a tag: why it is not done, in a sentence for a person; None where it may be."""


def _free(tag: str) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class TagGuard:
    """``moves``: a tag that points to another manifest already. ``deletes``: a tag, alone, with its manifest, or a part
    of what it holds (`bucketry.registry.contents`). ``holds``: whether ``deletes`` may have a reason for any tag of the
    repository; where it has not, nobody looks.

    All are held where a tag is written or something is deleted, not only before: of two pushes at once, one is refused.
    """

    moves: Reason = _free
    deletes: Reason = _free
    holds: bool = True


FREE = TagGuard(holds=False)
