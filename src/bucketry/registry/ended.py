"""Sessions that ended here: refused at once, and removed from the store many at a time, off the client's path."""

from __future__ import annotations

from collections import OrderedDict

from bucketry.oci import Digest
from bucketry.store.contract import Store

_REMEMBERED = 10_000
BATCH = 1000
"""Objects a store removes in one request."""


class EndedSessions:
    """A convenience, not a guarantee: what this process forgets, the store and the sweeper still know."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._digests: OrderedDict[str, Digest | None] = OrderedDict()
        self._keys: list[str] = []

    def add(self, session_id: str, digest: Digest | None, key: str | None) -> None:
        """``digest``: what was committed, if anything; ``key``: the session's object, if it has one."""
        self._digests[session_id] = digest
        self._digests.move_to_end(session_id)
        if len(self._digests) > _REMEMBERED:
            self._digests.popitem(last=False)
        if key is not None:
            self._keys.append(key)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._digests

    def digest(self, session_id: str) -> Digest | None:
        return self._digests.get(session_id)

    async def flush(self) -> None:
        """Removes their objects from the store."""
        while self._keys:
            batch = self._keys[:BATCH]
            await self._store.delete_many(batch)
            del self._keys[: len(batch)]
