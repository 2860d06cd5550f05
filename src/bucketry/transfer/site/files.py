"""The files of a site as a publish knows them: listed once, and replaced only where they are other ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from bucketry.store.contract import IF_ABSENT, Condition, IfMatch, NotFound, PreconditionFailed
from bucketry.store.site import Served, SiteContent, SiteFile, SiteStore, pointer, target_of
from bucketry.transfer.bucket import translated
from bucketry.transfer.site.counting import PAGE
from bucketry.transfer.site.state import LIMIT, Overtaken
from bucketry.transfer.work import Work


class SiteFiles:
    """``sizes``: of the files that were listed, and of those written since; shared with whoever writes.

    Files that change (`replace`) are compared with what is there: by their size where that tells, else by their bytes.
    """

    def __init__(self, site: SiteStore, work: Work) -> None:
        self.site = site
        self.sizes: dict[str, int] = {}
        self._work = work
        self._etags: dict[str, str] = {}
        self._prefixes: tuple[str, ...] = ()
        self._listed = False
        self._bodies: dict[str, tuple[bytes, str]] = {}

    async def look(self, prefixes: Iterable[str]) -> None:
        """Lists what is below these prefixes, and forgets all that was known before."""
        self.sizes.clear()
        self._etags.clear()
        self._bodies.clear()
        self._prefixes = ()
        chosen: list[str] = []
        for prefix in sorted(prefixes):
            if not chosen or not prefix.startswith(chosen[-1]):
                chosen.append(prefix)
        for prefix in chosen:
            await self._work.patiently(prefix, partial(self._list, prefix))
        self._prefixes = tuple(chosen)
        self._listed = True

    async def _list(self, prefix: str) -> None:
        with translated():
            async for file in self.site.list(prefix):
                self.sizes[file.path] = file.size
                if file.etag:
                    self._etags[file.path] = file.etag

    def doubt(self) -> None:
        """Somebody else writes here, too: what is compared from now on is what is there then."""
        self._listed = False
        self._bodies.clear()

    def has(self, path: str, size: int) -> bool:
        return self.sizes.get(path) == size

    async def get(self, path: str) -> SiteContent | None:
        async def attempt() -> SiteContent | None:
            with translated():
                try:
                    return await self.site.get(path, limit=LIMIT)
                except NotFound:
                    return None

        return await self._work.patiently(path, attempt)

    async def replace(self, path: str, body: bytes, served: Served, *, fixed: int | None = None) -> bool:
        """Makes the file this one; False where it was. Raises `Overtaken` where another writer was quicker.

        ``fixed``: a size that only one body can have there, which so needs not be compared.
        """
        if self._bodies.get(path) == (body, served.content_type):
            return False
        condition: Condition
        listed = self._listed and path.startswith(self._prefixes)
        size = self.sizes.get(path) if listed else None
        if listed and size == len(body) == fixed:
            return False
        if listed and size != len(body):
            etag = self._etags.get(path)
            condition = IF_ABSENT if etag is None else IfMatch(etag)
        else:
            found = await self.get(path)
            if found is not None and found.body == body and _same(found.file, served):
                self._bodies[path] = (body, served.content_type)
                return False
            condition = IF_ABSENT if found is None else IfMatch(found.file.etag)
        etag = await self._work.patiently(path, partial(self._put, path, body, served, condition))
        self.sizes[path], self._etags[path] = len(body), etag
        self._bodies[path] = (body, served.content_type)
        return True

    async def _put(self, path: str, body: bytes, served: Served, condition: Condition) -> str:
        with translated():
            try:
                return await self.site.put(path, body, served=served, condition=condition)
            except PreconditionFailed as error:
                self.doubt()
                raise Overtaken from error

    async def point(self, path: str, target: str) -> bool:
        """Makes a link lead to a name beside it; False where it did. Raises `Overtaken` as `replace`."""
        if self._listed and path.startswith(self._prefixes):
            current = target_of(self._etags.get(path, ""))
        else:
            current = await self._work.patiently(path, partial(self._pointed, path))
        if current == target:
            return False
        await self._work.patiently(path, partial(self._point, path, target, current))
        self.sizes[path], self._etags[path] = 0, pointer(target)
        return True

    async def _pointed(self, path: str) -> str | None:
        with translated():
            return await self.site.pointed(path)

    async def _point(self, path: str, target: str, current: str | None) -> None:
        with translated():
            try:
                await self.site.point(path, target, current=current)
            except PreconditionFailed as error:
                self.doubt()
                raise Overtaken from error

    async def delete(self, gone: Sequence[str], *, while_: Callable[[], bool] = lambda: True) -> list[str]:
        """Those that were deleted: as many as could be while ``while_`` held."""
        done: list[str] = []
        for begin in range(0, len(gone), PAGE):
            if not while_():
                break
            batch = gone[begin : begin + PAGE]
            await self._work.patiently(batch[0], partial(self._delete, batch))
            done += batch
        for path in done:
            self.sizes.pop(path, None)
            self._etags.pop(path, None)
            self._bodies.pop(path, None)
        return done

    async def _delete(self, batch: Sequence[str]) -> None:
        with translated():
            await self.site.delete_many(batch)


def _same(file: SiteFile, served: Served) -> bool:
    return file.served is None or file.served.content_type == served.content_type
