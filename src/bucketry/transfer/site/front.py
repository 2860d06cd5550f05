"""What stands in front of a site store, and is one itself: the part that is the same for all."""

from __future__ import annotations

from bucketry.store.site import SiteStore


class SiteInFront:
    """Says of itself what the site behind it says. What is read and written is the subclass's business."""

    def __init__(self, site: SiteStore) -> None:
        self._site = site

    @property
    def url(self) -> str:
        return self._site.url

    @property
    def conditional(self) -> bool:
        return self._site.conditional

    @property
    def keeps_headers(self) -> bool:
        return self._site.keeps_headers

    @property
    def refusal(self) -> str | None:
        return self._site.refusal

    async def start(self) -> None:
        await self._site.start()

    async def close(self) -> None:
        await self._site.close()
