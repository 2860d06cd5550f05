"""Pending multipart uploads and their parts, as S3 lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bucketry.store.contract import MAX_PARTS, Corrupt, Part, PendingUpload, Unsupported, UploadNotFound
from bucketry.store.s3 import xml
from bucketry.store.s3.checksums import PartTag, Sum
from bucketry.store.s3.client import Client, Request

LIST_PARTS = 1000
"""Parts of a page: no store gives more."""


def upload_name(url: str, upload_id: str) -> str:
    """Ids are the store's, whatever they look like; but one that climbs out of a folder is none of any store's,
    and not all stores look at it before they use it."""
    if not upload_id or ".." in upload_id:
        raise UploadNotFound(f"{url} has no upload {upload_id[:100]!r}")
    return upload_id


async def list_parts(
    client: Client, request: Request, *, url: str, kind: Sum | None, page_size: int = LIST_PARTS
) -> tuple[Part, ...]:
    """All pages; ``request`` asks for the first. Parts go with a checksum of that ``kind``, which their tags need.

    Raises `NotFound` or `UploadNotFound`; `Corrupt` for pages that would go on for ever; `Unsupported` where the
    store does not tell the checksums.
    """
    found: dict[int, Part] = {}
    modified: dict[int, float] = {}
    marker: tuple[tuple[str, str], ...] = ()
    while True:
        query = (("max-parts", str(page_size)), *marker, *request.query)
        page = await client.fetch(replace(request, query=query), lambda reply: xml.parse_parts(reply.body))
        before = len(found)
        for part in page.parts:
            if not 1 <= part.number <= MAX_PARTS:
                raise Corrupt(f"{url}: {request.what}: there is no part {part.number}")
            # SeaweedFS lists what a part was before it was put again, too, in any order, with times of whole seconds.
            if part.modified < modified.get(part.number, 0.0):
                continue
            modified[part.number] = part.modified
            tag = PartTag.listed(part.etag, part.size, kind, part.sums)
            if kind in ("crc32", "sha256") and not tag.value:
                # Completing would be refused. SeaweedFS is one that keeps them to itself.
                raise Unsupported(
                    f"{url} does not tell the checksums of parts, which checksum={kind} needs: set checksum=auto"
                )
            found[part.number] = Part(part.number, part.size, tag.join())
        if not page.truncated:
            return tuple(part for _, part in sorted(found.items()))
        # SeaweedFS has part 10000 between 1000 and 1001, and gives no other part after it.
        numbers = [part.number for part in page.parts if part.number < MAX_PARTS]
        if len(found) == before or not numbers:
            raise Corrupt(f"{url}: {request.what}: a page with nothing new that is not the last one")
        marker = (("part-number-marker", str(numbers[-1])),)


async def list_uploads(client: Client, root: str, prefix: str) -> Sequence[PendingUpload]:
    """All pages of uploads to keys below ``root`` that begin with ``prefix``; they come without the root.

    Those of other programs in the bucket are none of this store's.
    """
    found: dict[tuple[str, str], PendingUpload] = {}
    markers: tuple[tuple[str, str], ...] = ()
    while True:
        query = (
            ("encoding-type", "url"),
            ("max-uploads", "1000"),
            ("prefix", root + prefix),
            ("uploads", ""),
        )
        request = Request("list_multiparts", "list uploads", "GET", "", (*query, *markers))
        page = await client.fetch(request, lambda reply: xml.parse_uploads(reply.body))
        before = len(found)
        for upload in page.uploads:
            key = upload.key.removeprefix(root)
            found[key, upload.upload_id] = PendingUpload(key, upload.upload_id, upload.initiated)
        # A page that brings nothing new would come back for ever.
        if not page.truncated or len(found) == before:
            # Not every store heeds the prefix.
            return tuple(upload for upload in found.values() if upload.key.startswith(prefix))
        # What the store gave is given back, no more: SeaweedFS gives no key, and finds nothing by one.
        last = page.uploads[-1]
        next_key, next_id = page.next_key, page.next_upload_id
        if not (next_key or next_id):
            next_key, next_id = last.key, last.upload_id
        pairs = (("key-marker", next_key), ("upload-id-marker", next_id))
        markers = tuple((name, value) for name, value in pairs if value)
