"""Objects copied by the service itself: CopyObject, and above what that takes UploadPartCopy, in parallel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from bucketry.store.contract import MIN_PART, StoreError
from bucketry.store.observe import StoreObserver
from bucketry.store.s3 import xml
from bucketry.store.s3.bucket import Bucket
from bucketry.store.s3.checksums import PartTag
from bucketry.store.s3.client import Reply, Request
from bucketry.store.s3.config import S3Settings
from bucketry.store.s3.signing import encode_path
from bucketry.store.site_parts import MAX_PART, Cut, cut

COPY_LIMIT = 5 * 1024**3
"""Bytes: the largest object that S3 copies with one request."""

COPY_PART = 512 * 1024**2
"""Bytes of a part of larger ones: a copy's speed is bounded for each part, so they are many."""

_PARALLEL_PARTS = 8


@dataclass(frozen=True, slots=True)
class CopySource:
    """An object of some bucket of the service; ``key`` is whole, ``size`` in bytes. It is copied only while it has
    that ``etag``; empty where none is known."""

    bucket: str
    key: str
    size: int
    etag: str

    def headers(self) -> dict[str, str]:
        headers = {"x-amz-copy-source": encode_path(f"{self.bucket}/{self.key}")}
        if self.etag:
            headers["x-amz-copy-source-if-match"] = xml.quote_etag(self.etag)
        return headers


class CopyingBucket(Bucket):
    """``copy_limit`` and ``copy_part`` in bytes, for tests that want small ones."""

    def __init__(
        self,
        settings: S3Settings,
        *,
        observer: StoreObserver,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]],
        random: Callable[[], float],
        copy_limit: int,
        copy_part: int,
    ) -> None:
        super().__init__(settings, observer=observer, clock=clock, monotonic=monotonic, sleep=sleep, random=random)
        self._copy_limit = copy_limit
        self._copy_part = copy_part

    async def _copy(self, source: CopySource, key: str, headers: Mapping[str, str]) -> None:
        """Makes the object ``key`` of another one, with these headers of its own.

        Raises `NotFound` and `PreconditionFailed` of the source, and what the service refuses with.
        """
        if source.size > self._copy_limit:
            await self._copy_in_parts(source, key, headers)
            return
        replaced = {**headers, **source.headers(), "x-amz-metadata-directive": "REPLACE"}
        await self._copied(self._request("copy", "PUT", key, headers=replaced))

    async def _copy_in_parts(self, source: CopySource, key: str, headers: Mapping[str, str]) -> None:
        parts = cut(source.size, self._copy_part, least=MIN_PART, most=MAX_PART)
        upload_id = await self._create_upload(key, headers, sums=False)
        gate = asyncio.Semaphore(_PARALLEL_PARTS)
        tasks = [
            asyncio.create_task(self._copy_one(source, key, upload_id, number, parts, gate))
            for number in range(1, parts.count + 1)
        ]
        try:
            tags = await asyncio.gather(*tasks)
            await self._complete_upload(key, upload_id, list(enumerate(tags, start=1)), source.size)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(StoreError):
                await self._abort_upload(key, upload_id)
            raise

    async def _copy_one(
        self, source: CopySource, key: str, upload_id: str, number: int, parts: Cut, gate: asyncio.Semaphore
    ) -> PartTag:
        start = (number - 1) * parts.part_size
        length = parts.length(number)
        ranged = {**source.headers(), "x-amz-copy-source-range": f"bytes={start}-{start + length - 1}"}
        query = (("partNumber", str(number)), ("uploadId", upload_id))
        async with gate:
            etag = await self._copied(self._request("copy_part", "PUT", key, query=query, headers=ranged))
        return PartTag(etag, length)

    async def _copied(self, request: Request) -> str:
        """Sends it, and gives the etag of what was copied. The answer may take minutes, with blanks until it comes."""

        def read(reply: Reply) -> str:
            self._require_success(request, reply)
            return xml.parse_copied(reply.body)

        return await self._client.fetch(request, read)
