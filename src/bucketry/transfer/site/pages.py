"""The files of a site that belong to no repository: the page for people and, in a folder, what web servers are told."""

from __future__ import annotations

from collections.abc import Iterable

from bucketry.transfer.site import paths
from bucketry.transfer.site.derived import PagesOf, SitePage
from bucketry.transfer.site.page import page
from bucketry.transfer.site.snippets import caddyfile, nginx
from bucketry.transfer.site.state import State

_TEXT = "text/plain; charset=utf-8"


def pages_for(*, keeps_headers: bool) -> PagesOf:
    """What `bucketry.transfer.site.publishing.publish` takes. ``keeps_headers``: of the site, see `SiteStore`."""

    def pages(state: State) -> Iterable[SitePage]:
        yield SitePage(paths.PAGE, page(state), paths.HTML)
        if not keeps_headers:
            yield SitePage(paths.NGINX, nginx().encode(), _TEXT)
            yield SitePage(paths.CADDY, caddyfile().encode(), _TEXT)

    return pages
