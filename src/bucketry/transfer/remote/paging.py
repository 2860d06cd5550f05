"""Lists that come in pages: the header ``Link`` (distribution spec, "Listing Tags", "Listing Referrers")."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Final

from yarl import URL

from bucketry.transfer.errors import Refused
from bucketry.transfer.remote.address import resolve, shown
from bucketry.transfer.remote.answer import Answer
from bucketry.transfer.remote.auth import Purpose
from bucketry.transfer.remote.endpoint import Endpoint

MAX_PAGES: Final = 10_000

_LINK: Final = re.compile(r"<([^>]*+)>([^,]*+)")
_NEXT: Final = re.compile(r';\s*+rel\s*+=\s*+"?next"?', re.IGNORECASE)


async def pages(endpoint: Endpoint, first: str, purpose: Purpose, doing: str) -> AsyncGenerator[Answer]:
    """One answer after the other, whatever the status; each is closed when the next is asked for.

    Pages are those of the registry itself: a ``Link`` to another host is `Refused`, and so is a list that comes back
    to a page it had, or does not end within `MAX_PAGES`.
    """
    url: URL | None = endpoint.url(first)
    seen: set[URL] = set()
    while url is not None:
        if url in seen or len(seen) >= MAX_PAGES:
            raise Refused(f"{endpoint.host}: {doing}: the list has no end")
        seen.add(url)
        async with await endpoint.request("GET", url, purpose) as answer:
            yield answer
            url = following(endpoint, answer, doing)


def following(endpoint: Endpoint, answer: Answer, doing: str) -> URL | None:
    """The next page; None where this is the last. Raises `Refused`."""
    links = [link for header in answer.headers.getall("Link", ()) for link in _LINK.finditer(header)]
    for link in links:
        if _NEXT.search(link[2]) is None:
            continue
        try:
            url = resolve(answer.url, link[1])
        except ValueError as error:
            raise Refused(f"{endpoint.host}: {doing}: the next page cannot be: {error}") from None
        if not endpoint.owns(url):
            raise Refused(
                f"{endpoint.host}: {doing}: the next page is said to be at {shown(url)}, where none is asked for"
            )
        return url
    return None


async def whole(endpoint: Endpoint, answer: Answer, limit: int, doing: str) -> bytes:
    """A page's body. Raises `Refused` above ``limit`` bytes, and `Unreachable`."""
    body = await answer.read(limit)
    if body is None:
        raise Refused(f"{endpoint.host}: {doing}: a page of more than {limit} bytes")
    return body
