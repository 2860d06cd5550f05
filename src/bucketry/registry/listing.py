"""Pages of names: the tags of a repository and the repositories of the catalog (spec, "Listing Tags")."""

from __future__ import annotations

from dataclasses import dataclass

from bucketry.oci.errors import NameUnknown
from bucketry.registry import layout
from bucketry.registry.settings import RegistrySettings
from bucketry.store.contract import NotFound, Store


@dataclass(frozen=True, slots=True)
class NamesPage:
    """``more`` says that names follow the last one."""

    names: tuple[str, ...]
    more: bool


class Listing:
    def __init__(self, store: Store, *, settings: RegistrySettings) -> None:
        self._store = store
        self._settings = settings

    async def tags(self, repository: str, *, limit: int | None = None, after: str | None = None) -> NamesPage:
        """Tags in byte order. Raises `NameUnknown` for a repository that never had a manifest."""
        prefix = layout.tags(repository)
        page = await self._page(prefix, None if after is None else prefix + after, limit)
        if not page.names:
            try:
                await self._store.head(layout.catalog(repository))
            except NotFound:
                raise NameUnknown(f"there is no repository {repository}", detail={"name": repository}) from None
        return page

    async def repositories(self, *, limit: int | None = None, after: str | None = None) -> NamesPage:
        """Repositories in the byte order of their names."""
        page = await self._page(layout.CATALOG_PREFIX, None if after is None else layout.catalog(after), limit)
        return NamesPage(tuple(map(layout.unescape_name, page.names)), page.more)

    async def _page(self, prefix: str, after: str | None, limit: int | None) -> NamesPage:
        limit = self._settings.max_page if limit is None else min(limit, self._settings.max_page)
        if limit == 0:
            return NamesPage((), False)
        page = await self._store.list(prefix, after=after, limit=limit)
        return NamesPage(tuple(held.key.removeprefix(prefix) for held in page.objects), page.more)
