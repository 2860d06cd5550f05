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
    """``moves``: a tag that points to another manifest already. ``deletes``: a tag, alone or with its manifest.

    Both are held where a tag is written or deleted, not only before: of two pushes at once, one is refused.
    """

    moves: Reason = _free
    deletes: Reason = _free


FREE = TagGuard()
