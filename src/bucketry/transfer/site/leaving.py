"""What leaves a site: noted when nothing needs it, deleted by a prune that comes later, never while somebody needs it.

A deletion is announced in the state (``going``) before it begins, and struck out when it is done. A publish that needs
what is going waits until it is gone, and sends it again; where that takes longer than any deletion may, the process
that announced it has died, and the publish strikes it out itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

import msgspec

from bucketry.transfer.site import paths
from bucketry.transfer.site.files import SiteFiles
from bucketry.transfer.site.state import Held, State, StateFile
from bucketry.transfer.work import Work

LEASE: Final = 30.0
"""Seconds after it looked at what is going, within which a process begins to delete."""
PATIENCE: Final = 180.0
"""Seconds after which what is going is deleted by nobody any more: a lease, and the longest that a request takes."""
_LOOK: Final = 1.0

MOST_LEAVING: Final = 100_000
"""Paths that are noted at once; the state is read and written whole."""

_RANKS: Final = {"lists": 0, "tags": 1, "twins": 2, "referrers": 3, "manifests": 4, "blobs": 5, "checkpoints": 6}


class Leaving:
    """``removed``: paths that were deleted here, and their sizes where they are known."""

    def __init__(self, work: Work, files: SiteFiles, state: StateFile) -> None:
        self._work = work
        self._files = files
        self._state = state
        self.removed: dict[str, int] = {}

    async def unlocked(self, held: Held, needed: Collection[str]) -> Held:
        """Waits until nothing of what is needed is being deleted."""
        began = self._work.timing.monotonic()
        while not held.state.going.keys().isdisjoint(needed):
            if self._work.timing.monotonic() - began > PATIENCE:
                return await self.struck_out(held, needed, deleted=True)
            await self._work.timing.sleep(_LOOK)
            held = await self._again(held)
        return held

    async def _again(self, held: Held) -> Held:
        found = await self._work.patiently(paths.STATE, self._state.read)
        return found or held

    async def struck_out(self, held: Held, gone: Collection[str], *, deleted: bool = False) -> Held:
        """``deleted``: count it as a deletion, since somebody may have begun with it."""

        def apply(state: State) -> State:
            going = {path: since for path, since in state.going.items() if path not in gone}
            if len(going) == len(state.going):
                return state
            return msgspec.structs.replace(state, going=going, removals=state.removals + deleted)

        return await self._work.patiently(paths.STATE, lambda: self._state.change(held, apply))

    def noted(self, state: State, needed: Collection[str], now: float) -> dict[str, float]:
        """The paths of digests that are there and nobody needs, since when."""
        leaving: dict[str, float] = {}
        for path in self._files.sizes:
            if path not in needed and len(leaving) < MOST_LEAVING:
                found = paths.parse(path)
                if found is not None and found.by_digest:
                    leaving[path] = state.leaving.get(path, now)
        return leaving

    def at_once(self, state: State) -> Iterable[str]:
        """The tags and lists that are there, though the state has none of them."""
        for path in self._files.sizes:
            found = paths.parse(path)
            if found is not None and not found.by_digest and not is_told(state, path):
                yield path

    async def delete(self, held: Held, gone: Collection[str]) -> Held:
        """What of ``gone`` the state says is going."""
        while left := sorted(held.state.going.keys() & set(gone), key=_rank):
            done = await self._files_deleted(left, self._work.timing.monotonic)
            held = await self.struck_out(held, frozenset(done))
        return held

    async def _files_deleted(self, left: list[str], monotonic: Callable[[], float]) -> list[str]:
        began = monotonic()
        sizes = {path: self._files.sizes.get(path, 0) for path in left}
        done = await self._files.delete(left, while_=lambda: monotonic() - began < LEASE)
        self.removed.update((path, sizes[path]) for path in done)
        return done


def is_told(state: State, path: str) -> bool:
    """Whether the state says that a tag's file, or a list of tags, is there."""
    found = paths.parse(path)
    repository = state.repositories.get(found.name) if found is not None else None
    if found is None or repository is None or not repository.visible:
        return False
    return found.kind == "lists" or paths.tag_of(path) in repository.tags


def _rank(path: str) -> tuple[int, str]:
    found = paths.parse(path)
    return (_RANKS[found.kind] if found is not None else 0, path)
