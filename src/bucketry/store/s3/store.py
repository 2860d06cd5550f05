"""The contract of `bucketry.store.contract` on a bucket of S3, or of a store that speaks its protocol."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from bucketry.store import checks
from bucketry.store.contract import (
    BULK_PREFIX,
    MIN_PART,
    OCTET_STREAM,
    BucketMissing,
    Buffer,
    Capabilities,
    Condition,
    Corrupt,
    IfMatch,
    InvalidPart,
    ListedObject,
    ListPage,
    NotFound,
    ObjectInfo,
    Part,
    PendingUpload,
    PreconditionFailed,
    PresignedPut,
    StoredObject,
    StoreError,
    Unavailable,
    Unsupported,
    UploadNotFound,
)
from bucketry.store.observe import NULL_OBSERVER, StoreObserver
from bucketry.store.s3.bucket import Bucket
from bucketry.store.s3.checksums import PartTag
from bucketry.store.s3.client import Tries
from bucketry.store.s3.config import S3Settings
from bucketry.store.s3.headers import at_rest, object_info, sum_of
from bucketry.store.s3.presigning import Presigning, sums_parts
from bucketry.store.s3.uploads import list_parts, list_uploads, upload_name

# Never written. Deleting it if it has an etag that no object has tells whether conditions of deletes are heeded.
_NO_SUCH_KEY = "~bucketry/no-such-object"


class S3Store(Bucket):
    """Objects below ``settings.root`` of a bucket.

    What S3 does not promise, and neither does this: etags of equal bodies are equal (they are mostly the MD5 of the
    body), so a write that puts back the very bytes an object had before gives it its old etag too. And a completion
    may accept the etag of a part that was overwritten (SeaweedFS): a part number is to be written by one try only.

    ``clock`` gives POSIX seconds, ``monotonic`` seconds, ``random`` numbers from 0 to 1.
    """

    def __init__(
        self,
        settings: S3Settings,
        *,
        observer: StoreObserver = NULL_OBSERVER,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        random: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(settings, observer=observer, clock=clock, monotonic=monotonic, sleep=sleep, random=random)
        self._conditional_delete = settings.conditional_delete is not False

    @property
    def capabilities(self) -> Capabilities:
        """Known for sure after `start`."""
        presign = not self._settings.anonymous
        return Capabilities(
            presign=presign,
            presign_part=presign and not sums_parts(self._settings),
            checked_put=presign and self._settings.checked_put is True,
            conditional_delete=self._conditional_delete,
        )

    async def start(self) -> None:
        """Finds endpoint and credentials, and asks for one key of the bucket to see that they work.

        Raises `StoreError`: `BucketMissing` (and where the bucket is), `AccessDenied` (and where credentials were
        looked for), `Unavailable`.
        """
        if self._connected is not None:
            return
        connected = await self._connect()
        try:
            await connected.credentials.get()
            await self.list("", limit=1)
            if self._settings.conditional_delete is None:
                self._conditional_delete = await self._heeds_conditions_of_deletes()
        except BaseException:
            await self.close()
            raise

    # Reading

    async def get(self, key: str, *, limit: int = 16 * 1024 * 1024) -> StoredObject:
        checks.check_key(key)
        reply = await self._get(key, limit, Tries())
        return StoredObject(object_info(key, reply.headers, len(reply.body)), reply.body)

    async def head(self, key: str) -> ObjectInfo:
        checks.check_key(key)
        reply, size = await self._head(key)
        return object_info(key, reply.headers, size)

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        checks.check_key(key)
        checks.check_range(start, stop)
        pieces = self._read(key, start, stop)
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    # Writing

    async def put(
        self,
        key: str,
        body: Buffer,
        *,
        content_type: str = OCTET_STREAM,
        metadata: Mapping[str, str] | None = None,
        condition: Condition | None = None,
    ) -> str:
        kept = checks.check_put(key, content_type, metadata)
        headers = {"content-type": content_type, **at_rest(self._settings, bulk=checks.is_bulk(key))}
        headers |= {f"x-amz-meta-{name}": value for name, value in kept.items()}
        return await self._put(key, body, headers, sum_of(self._settings, bulk=checks.is_bulk(key)), condition)

    async def delete(self, key: str, *, condition: IfMatch | None = None) -> None:
        checks.check_own_key(key)
        if condition is not None and not self._conditional_delete:
            raise Unsupported(f"{self.url} ignores the conditions of deletes")
        await self._delete(key, condition)

    async def _heeds_conditions_of_deletes(self) -> bool:
        try:
            await self._delete(_NO_SUCH_KEY, IfMatch("0" * 32))
        except PreconditionFailed:
            return True
        except (Unavailable, BucketMissing):
            raise
        except StoreError:
            # The right to delete may be missing, or the store refuses the header.
            return False
        return False

    async def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            checks.check_own_key(key)
        await self._delete_many(keys)

    # Listing

    async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
        checks.check_list(prefix, limit)
        if after is not None and not after.startswith(prefix):
            # Where such a key stands against the prefix must not depend on the store's order.
            if after > prefix:
                return ListPage((), more=False)
            after = None
        wanted = limit
        while True:
            listing = await self._page(prefix, after, wanted)
            # What other programs put there may have names that no key has.
            found = [entry for entry in listing.entries if checks.is_key(entry.key.removeprefix(self._root))]
            if (listing.markers or len(found) < len(listing.entries)) and wanted < checks.MAX_LIST:
                # These, or markers of folders, which other tools make, took the place of objects.
                wanted = checks.MAX_LIST
                continue
            entries = found[:limit]
            more = listing.truncated or len(found) > limit
            if entries or not more:
                objects = (
                    ListedObject(entry.key.removeprefix(self._root), entry.size, entry.etag, entry.modified)
                    for entry in entries
                )
                return ListPage(tuple(objects), more)
            if not listing.last:
                raise Corrupt(f"{self.url}: list {prefix}: an empty page that is not the last one")
            after = listing.last.removeprefix(self._root)

    # Multipart uploads

    async def create_multipart(self, key: str, *, part_size: int) -> str:
        checks.check_bulk_key(key)
        checks.check_part_size(part_size, MIN_PART)
        headers = {"content-type": OCTET_STREAM, **at_rest(self._settings, bulk=True)}
        return await self._create_upload(key, headers)

    async def put_part(self, key: str, upload_id: str, number: int, body: Buffer, *, offset: int) -> str:
        checks.check_bulk_key(key)
        checks.check_part_number(number)
        return (await self._put_part(key, upload_id, number, body)).join()

    async def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        checks.check_bulk_key(key)
        request = self._request("list_parts", "GET", key, query=(("uploadId", upload_name(self.url, upload_id)),))
        try:
            return await list_parts(self._client, request, url=self.url, kind=sum_of(self._settings, bulk=True))
        except BucketMissing:
            raise
        except NotFound as error:
            raise UploadNotFound(f"{self.url}: list parts of {key}: no such upload") from error

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        checks.check_bulk_key(key)
        if not parts:
            raise InvalidPart(f"{self.url}: an upload of {key} cannot be completed without a part")
        tags = [PartTag.split(part.etag) for part in parts]
        for part, tag in zip(parts, tags, strict=True):
            if tag.size not in (None, part.size):
                raise InvalidPart(f"{self.url}: complete {key}: part {part.number} was put with {tag.size} bytes")
        numbers = [part.number for part in parts]
        total = sum(part.size for part in parts)
        # Where an earlier call completed it, that is as good: keys of bulk objects are written by one upload only.
        await self._complete_upload(key, upload_id, list(zip(numbers, tags, strict=True)), total)

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        checks.check_bulk_key(key)
        await self._abort_upload(key, upload_id)

    async def list_multiparts(self) -> Sequence[PendingUpload]:
        """Every pending upload to a bulk key below this store's root.

        MinIO tells only of uploads to a key that is given in full, so nothing here; it ends them itself after a day.
        """
        return await list_uploads(self._client, self._root, BULK_PREFIX)

    # Presigning

    async def presign_get(self, key: str, *, expires: float, response_headers: Mapping[str, str] | None = None) -> str:
        """``expires`` is 1 second to 7 days, rounded up to whole seconds. HEAD needs another signature on AWS."""
        return await self._presigning.get(key, expires, response_headers or {})

    async def presign_part(self, key: str, upload_id: str, number: int, *, expires: float) -> str:
        """As `presign_get`. Encryption and storage class are the upload's, and parts take no headers for them."""
        return await self._presigning.part(key, upload_id, number, expires)

    async def presign_put(self, key: str, *, size: int, sha256: bytes, expires: float) -> PresignedPut:
        """As `presign_get`."""
        return await self._presigning.put(key, size, sha256, expires)

    # Inside

    @property
    def _presigning(self) -> Presigning:
        return Presigning(self._settings, self._connection, self._clock)
