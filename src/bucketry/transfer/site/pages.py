"""The files of a site that belong to no repository.

The page for people; what tells clients of checkpoints; in a folder, what web servers are told.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bucketry.transfer import wire
from bucketry.transfer.site import paths
from bucketry.transfer.site.derived import PagesOf, SitePage
from bucketry.transfer.site.page import page
from bucketry.transfer.site.snippets import caddyfile, nginx
from bucketry.transfer.site.state import State

_TEXT = "text/plain; charset=utf-8"

_EXTENSIONS = wire.Extensions(
    extensions=(
        wire.Extension(
            name=wire.NAME,
            description="SHA-256 checkpoints of blobs, by which pieces are verified (version 1)",
            url="docs/rfcs/0003-parallel-extension.md",
            endpoints=(wire.CHECKPOINTS,),
        ),
    )
)


def pages_for(*, keeps_headers: bool) -> PagesOf:
    """What `bucketry.transfer.site.publishing.publish` takes. ``keeps_headers``: of the site, see `SiteStore`."""

    def pages(state: State) -> Iterable[SitePage]:
        yield SitePage(paths.PAGE, page(state), paths.HTML)
        yield SitePage(paths.DISCOVER, msgspec.json.encode(_EXTENSIONS), paths.JSON)
        if not keeps_headers:
            yield SitePage(paths.NGINX, nginx().encode(), _TEXT)
            yield SitePage(paths.CADDY, caddyfile().encode(), _TEXT)

    return pages
