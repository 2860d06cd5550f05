"""The checks of the store probe that are about presigned URLs: they do what a client of the registry does."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bucketry.store.contract import UploadNotFound
from bucketry.store.probe_scratch import Answer, Found, Scratch

PRESIGNED_GET, PRESIGNED_PART, PRESIGNED_PUT = "presigned GET", "presigned part", "presigned PUT"
"""The names of these checks."""

_NO_URLS = "this store has no URLs of its own"

_PROXY = 'set delivery.mode = "proxy"'

_CHECKSUM, _IF_ABSENT = "x-amz-checksum-sha256", "if-none-match"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    content_type: str

    @property
    def taken(self) -> bool:
        return 200 <= self.status < 300


async def presigned_get(scratch: Scratch) -> Answer:
    if not scratch.store.capabilities.presign:
        raise Found("missing", _NO_URLS, "blobs are sent through the server")
    body = bytes(range(256))
    key = scratch.bulk_key("presign")
    await scratch.store.put(key, body)
    url = await scratch.store.presign_get(key, expires=60, response_headers={"content-type": "application/x-probe"})
    answer = await _ask(scratch, "GET", url, f"{_PROXY}, or store.public_endpoint", {"range": "bytes=10-19"})
    if answer.status != 206 or answer.body != body[10:20]:
        seen = (
            f"a presigned URL answers {answer.status} and {len(answer.body)} bytes "
            "where 206 and 10 bytes were asked for"
        )
        raise Found("broken", seen, _PROXY)
    if answer.content_type != "application/x-probe":
        return f"with ranges; the content type stays {answer.content_type}", "clients fetch blobs from the bucket"
    return "with ranges and a content type", "clients fetch blobs from the bucket"


async def presigned_part(scratch: Scratch) -> Answer:
    """Whether a part that a client puts counts, and counts no more once its upload was completed."""
    means = "clients do not send large blobs straight to the bucket"
    able = scratch.store.capabilities
    if not able.presign_part:
        seen = "every part is to go with a checksum (store.checksum)" if able.presign else _NO_URLS
        raise Found("missing", seen, means)
    store, key, body = scratch.store, scratch.bulk_key("presigned-part"), b"by whoever has the URL"
    upload_id = await scratch.create_multipart(key)
    url = await store.presign_part(key, upload_id, 3, expires=60)
    answer = await _ask(scratch, "PUT", url, means, body=body)
    if not answer.taken:
        raise Found("missing", f"the store answers {answer.status} to a presigned part", means)
    listed = await store.list_parts(key, upload_id)
    if [(part.number, part.size) for part in listed] != [(3, len(body))]:
        raise Found("broken", "a presigned part is not listed as it was sent", means)
    await store.complete_multipart(key, upload_id, listed)
    if await scratch.read(key) != body:
        raise Found("broken", "a completed upload has other bytes than its presigned part", means)
    late = await _ask(scratch, "PUT", url, means, body=b"too late")
    if await scratch.read(key) != body:
        raise Found("broken", "a part that came after its upload was completed changed the object", means)
    if late.taken:
        # Some store may keep such a part for itself; then it is litter, and listed.
        await store.abort_multipart(key, upload_id)
        try:
            await store.list_parts(key, upload_id)
        except UploadNotFound:
            pass
        else:
            raise Found("broken", "a part that came after its upload was completed stays for ever", means)
    return "sent, listed and completed; one that came late changed nothing", (
        "clients send large blobs straight to the bucket"
    )


async def presigned_put(scratch: Scratch) -> Answer:
    """Whether everything that `Presigner.presign_put` signs is enforced: what is tried here, somebody will try."""
    means = "clients do not send small blobs straight to the bucket"
    if not scratch.store.capabilities.presign:
        raise Found("missing", _NO_URLS, means)
    key = scratch.bulk_key("presigned-put")
    body = b"the bytes that were signed for"
    other = body[::-1]
    signed = await scratch.store.presign_put(key, size=len(body), sha256=hashlib.sha256(body).digest(), expires=60)

    async def put(sent: bytes, headers: Mapping[str, str] = signed.headers) -> _Answer:
        return await _ask(scratch, "PUT", signed.url, means, headers, sent)

    unsummed = {name: value for name, value in signed.headers.items() if name != _CHECKSUM}
    unconditional = {name: value for name, value in signed.headers.items() if name != _IF_ABSENT}
    own = {**signed.headers, _CHECKSUM: b64encode(hashlib.sha256(other).digest()).decode()}
    for headers, how in (
        (signed.headers, "with the checksum of others"),
        (unsummed, "without the checksum that was signed"),
        (own, "with another checksum than was signed"),
    ):
        if (await put(other, headers)).taken or await scratch.exists(key):
            raise Found("broken", f"a presigned PUT takes bytes {how}", means)
    first = await put(body)
    if not first.taken:
        raise Found("missing", f"the store answers {first.status} to a presigned PUT with a checksum", means)
    if await scratch.read(key) != body:
        raise Found("broken", "an object has other bytes than its presigned PUT", means)
    for headers, how in (
        (signed.headers, "though there is an object (If-None-Match)"),
        (unconditional, "without the If-None-Match that was signed"),
    ):
        if (await put(body, headers)).taken:
            raise Found("broken", f"a presigned PUT is taken twice, {how}", means)
    return "only those bytes, and only once", "clients send small blobs straight to the bucket, and none is read back"


async def _ask(
    scratch: Scratch,
    method: Literal["GET", "PUT"],
    url: str,
    means: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> _Answer:
    """As a client of the registry does, which has nothing but the URL. ``means``: where nothing answers there."""
    # Only here, and only where a store can: the probe is part of every start of the server.
    import aiohttp
    from yarl import URL

    if scratch.unreachable is None:
        timeout = aiohttp.ClientTimeout(total=5 if scratch.quick else 20)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
                session.request(
                    method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False
                ) as answer,
            ):
                return _Answer(answer.status, await answer.content.read(1024), answer.content_type)
        except (aiohttp.ClientError, TimeoutError) as error:
            scratch.unreachable = str(error) or type(error).__name__
    raise Found("broken", f"a presigned URL could not be reached from here: {scratch.unreachable}", means)
