"""A published site in a bucket or a folder, opened to be read."""

from __future__ import annotations

from bucketry.oci import Digest
from bucketry.store.open import StoreOptions
from bucketry.store.site import SiteStore
from bucketry.store.site_open import open_site
from bucketry.transfer.bucket import translated
from bucketry.transfer.site.repository import SiteRepository


class OpenedSite(SiteRepository):
    """A repository of a site that is closed with it."""

    def __init__(self, site: SiteStore, repository: str, *, reference: Digest | str, name: str) -> None:
        super().__init__(site, repository, reference=reference, name=name)
        self._opened = site

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            with translated():
                await self._opened.close()


async def open_to_read(
    url: str, options: StoreOptions, repository: str, *, reference: Digest | str, name: str
) -> OpenedSite:
    """Raises `TransferError`."""
    with translated():
        site = open_site(url, options)
        await site.start()
    return OpenedSite(site, repository, reference=reference, name=name)
