"""Notes of what was taken over of a repository, read along with the listing of the old tree.

Both are in the same order on every real store, so the notes cost one list request for each thousand, and memory for one
page. Where a name comes out of order it is looked up by itself: slower, and as right.
"""

from __future__ import annotations

from dataclasses import dataclass

from bucketry.registry import layout
from bucketry.store.contract import ListedObject, NotFound, Store

VERIFIED = b"verified"
"""The body of a manifest's note, where every blob of it was hashed; else it is empty."""


@dataclass(frozen=True, slots=True)
class Note:
    """``size`` of its body in bytes."""

    size: int
    etag: str


class Cursor:
    """The names right below a prefix: those come in byte order on every store."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._page: list[ListedObject] = []
        """In the other direction: what comes next is at its end."""
        self._after: str | None = None
        self._more = True
        self._asked = ""

    async def find(self, name: str) -> Note | None:
        if name <= self._asked:
            return await self._look_up(name)
        self._asked = name
        key = self._prefix + name
        while True:
            while self._page and self._page[-1].key < key:
                self._page.pop()
            if self._page:
                found = self._page[-1]
                return Note(found.size, found.etag) if found.key == key else None
            if not self._more:
                return None
            page = await self._store.list(self._prefix, after=self._after)
            self._more = page.more
            self._page = list(reversed(page.objects))
            if page.objects:
                self._after = page.objects[-1].key

    async def _look_up(self, name: str) -> Note | None:
        try:
            found = await self._store.head(self._prefix + name)
        except NotFound:
            return None
        return Note(found.size, found.etag)


class Notes:
    """Those of one repository. ``fresh``: there was none when it was opened, so that none is looked for."""

    def __init__(self, store: Store, repository: str, *, fresh: bool) -> None:
        self._store = store
        self._repository = repository
        self.fresh = fresh
        self._manifests: dict[str, Cursor] = {}
        self._tags = Cursor(store, layout.adopted_tags(repository))

    @classmethod
    async def open(cls, store: Store, repository: str) -> Notes:
        page = await store.list(layout.adopted(repository), limit=1)
        return cls(store, repository, fresh=not page.objects)

    async def manifest(self, algorithm: str, digits: str) -> Note | None:
        if self.fresh:
            return None
        cursor = self._manifests.get(algorithm)
        if cursor is None:
            cursor = Cursor(self._store, layout.adopted_manifests(self._repository, algorithm))
            self._manifests[algorithm] = cursor
        return await cursor.find(digits)

    async def tag(self, name: str) -> Note | None:
        return None if self.fresh else await self._tags.find(name)
