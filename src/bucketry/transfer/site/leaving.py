"""What leaves a site: noted when nothing needs it, deleted by a prune that comes later, never while somebody needs it.

A deletion is announced in the state (``going``) before it begins, and struck out when it is done. A publish that needs
what is going waits until it is gone, and sends it again. In the same way tags are announced (``pending``) before their
files are written, and a prune waits until those that it would drop are. Where that takes longer than it may, whoever
announced it has died, and who waited goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import msgspec

from bucketry.transfer.events import Note
from bucketry.transfer.site import paths
from bucketry.transfer.site.files import SiteFiles
from bucketry.transfer.site.state import Held, State, StateFile
from bucketry.transfer.work import Work

LEASE: Final = 30.0
"""Seconds after it looked at what is going, within which a process begins to delete."""
PATIENCE: Final = 180.0
"""Seconds after which nobody goes on with what was announced: a lease, and the longest that a request takes."""
STALE: Final = 3600.0
"""Seconds after which that is known without waiting, though clocks of machines differ."""
_LOOK: Final = 1.0

MOST_LEAVING: Final = 100_000
"""Paths that are noted at once; the state is read and written whole."""

_RANKS: Final = {
    "lists": 0,
    "pointers": 1,
    "tags": 1,
    "twins": 2,
    "referrers": 3,
    "manifests": 4,
    "blobs": 5,
    "checkpoints": 6,
}


class Leaving:
    """``removed``: paths that were there and were deleted here, and their sizes. ``patience`` in seconds: 0 for who
    only looks, and so is in nobody's way."""

    def __init__(
        self,
        work: Work,
        files: SiteFiles,
        state: StateFile,
        clock: Callable[[], float],
        *,
        patience: float = PATIENCE,
    ) -> None:
        self._work = work
        self._clock = clock
        self._files = files
        self._state = state
        self._patience = patience
        self.removed: dict[str, int] = {}

    async def unlocked(self, held: Held, needed: Collection[str]) -> Held:
        """Waits until nothing of what is needed is being deleted."""

        def busy(state: State) -> Mapping[str, float]:
            return {path: since for path, since in state.going.items() if path in needed}

        held, dead = await self._waited(held, busy, "until a prune has deleted what is published again here")
        return await self.struck_out(held, dead, deleted=True) if dead else held

    async def quiet(self, held: Held, kept: Callable[[str], bool]) -> tuple[Held, Mapping[str, float]]:
        """Waits until the files of all tags are written that are not kept; those that nobody will write any more."""

        def busy(state: State) -> Mapping[str, float]:
            return {tag: since for tag, since in state.pending.items() if not kept(tag)}

        return await self._waited(held, busy, "for another publish, to drop its tags")

    async def _waited(
        self, held: Held, busy: Callable[[State], Mapping[str, float]], why: str
    ) -> tuple[Held, Mapping[str, float]]:
        """Until nothing is announced any more, or by nobody who lives: what that is."""
        began = self._work.timing.monotonic()
        told = False
        while found := busy(held.state):
            late = self._work.timing.monotonic() - began >= self._patience
            if late or all(self._clock() - since > STALE for since in found.values()):
                return held, found
            if not told:
                told = True
                self._work.tell(Note(text=f"waits up to {self._patience / 60:.0f} minutes {why}"))
            await self._work.timing.sleep(_LOOK)
            again = await self._work.patiently(paths.STATE, self._state.read)
            held = held if again is None else again
        return held, {}

    async def struck_out(self, held: Held, gone: Collection[str], *, deleted: bool = False) -> Held:
        """``deleted``: count it as a deletion, since somebody may have begun with it."""

        def apply(state: State) -> State:
            going = {path: since for path, since in state.going.items() if path not in gone}
            if len(going) == len(state.going):
                return state
            return msgspec.structs.replace(state, going=going, removals=state.removals + deleted)

        return await self._work.patiently(paths.STATE, lambda: self._state.change(held, apply))

    def noted(self, state: State, needed: Collection[str], now: float) -> dict[str, float]:
        """The paths of digests that are there and nobody needs, since when: not since what is yet to come, as a clock
        that went wrong may have said."""
        leaving: dict[str, float] = {}
        for path in self._files.sizes:
            if path not in needed and len(leaving) < MOST_LEAVING:
                found = paths.parse(path)
                if found is not None and found.by_digest:
                    leaving[path] = min(state.leaving.get(path, now), now)
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
        # What was never seen may be there: it was written since.
        sizes = {path: self._files.sizes[path] for path in left if path in self._files.sizes}
        done = await self._files.delete(left, while_=lambda: monotonic() - began < LEASE)
        self.removed.update((path, sizes[path]) for path in done if path in sizes)
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
