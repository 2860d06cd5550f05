"""The contract of `bucketry.store.contract` on a bucket of S3, or of a store that speaks its protocol."""

from __future__ import annotations

import asyncio
import random
import ssl
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
from bucketry.store.s3 import xml
from bucketry.store.s3.checksums import HEADERS, PartTag, checksum
from bucketry.store.s3.client import Client, Failed, Reply, Request, Tries
from bucketry.store.s3.config import S3Settings
from bucketry.store.s3.connection import Connection, connect
from bucketry.store.s3.credentials import Surroundings, look_around
from bucketry.store.s3.headers import at_rest, conditions, object_info, sum_of
from bucketry.store.s3.presigning import Presigning, sums_parts
from bucketry.store.s3.reading import read_object
from bucketry.store.s3.transport import tls_context
from bucketry.store.s3.uploads import list_parts, list_uploads, upload_name

DELETE_BATCH = 1000
"""Keys of one DeleteObjects request."""

_PARALLEL_DELETES = 16

# Never written. Deleting it if it has an etag that no object has tells whether conditions of deletes are heeded.
_NO_SUCH_KEY = "~bucketry/no-such-object"


class S3Store:
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
        self._settings = settings
        self._observer = observer
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._random = random
        self._root = settings.root
        self._connected: Connection | None = None
        self._conditional_delete = settings.conditional_delete is not False
        self._deletes_many = True

    @property
    def url(self) -> str:
        return self._settings.url

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
        try:
            around, context = await asyncio.to_thread(self._look_around)
            connected = connect(
                self._settings,
                around,
                context,
                observer=self._observer,
                clock=self._clock,
                monotonic=self._monotonic,
                sleep=self._sleep,
                random=self._random,
            )
        except ValueError as error:
            raise StoreError(f"{self.url} cannot be used: {error}") from error
        self._connected = connected
        try:
            await connected.credentials.get()
            await self.list("", limit=1)
            if self._settings.conditional_delete is None:
                self._conditional_delete = await self._heeds_conditions_of_deletes()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        connected, self._connected = self._connected, None
        if connected is not None:
            await connected.credentials.close()
            await connected.transport.close()

    # Reading

    async def get(self, key: str, *, limit: int = 16 * 1024 * 1024) -> StoredObject:
        checks.check_key(key)
        return await self._get(key, limit, Tries())

    async def _get(self, key: str, limit: int, tries: Tries) -> StoredObject:
        reply = await self._client.call(self._request("get", "GET", key), limit=limit, tries=tries)
        return StoredObject(object_info(key, reply.headers, len(reply.body)), reply.body)

    async def head(self, key: str) -> ObjectInfo:
        checks.check_key(key)
        reply = await self._client.call(self._request("head", "HEAD", key))
        length = reply.headers.get("Content-Length", "")
        if not length.isdigit():
            raise Corrupt(f"{self.url}: head {key}: the answer names no size")
        return object_info(key, reply.headers, int(length))

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        checks.check_key(key)
        checks.check_range(start, stop)
        if stop == start:
            await self.head(key)
            return
        request = self._request("read", "GET", key, accept=(416,))
        pieces = read_object(self._client, request, start, stop, url=self.url)
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
        headers = {"content-type": content_type, **at_rest(self._settings, key), **conditions(condition)}
        headers |= {f"x-amz-meta-{name}": value for name, value in kept.items()}
        kind = sum_of(self._settings, key)
        if kind is not None:
            headers[HEADERS[kind]] = await checksum(kind, body)
        tries = Tries()
        request = self._request("put", "PUT", key, headers=headers, body=body)
        try:
            reply = await self._client.call(request, tries=tries)
        except BucketMissing:
            raise
        except (PreconditionFailed, NotFound, Unavailable) as error:
            if condition is None:
                raise
            if tries.uncertain:
                return await self._settle(key, body, error)
            if isinstance(error, NotFound):
                # AWS answers If-Match so where there is no object.
                raise PreconditionFailed(f"{self.url}: put {key}: there is no such object") from error
            raise
        return self._etag(request, reply)

    async def _settle(self, key: str, body: Buffer, error: StoreError) -> str:
        """A conditional write whose answer was lost, and which was refused or got no answer when it was repeated:
        it happened if the object has its body now. If it has not, somebody may have replaced it since."""
        try:
            found = await self._get(key, memoryview(body).nbytes, Tries(once=isinstance(error, Unavailable)))
        except (NotFound, Corrupt, Unavailable):
            found = None
        if found is not None and found.body == memoryview(body).cast("B"):
            return found.info.etag
        raise Unavailable(
            f"{self.url}: put {key}: an answer was lost, and the write may or may not have happened: {error}"
        ) from error

    async def delete(self, key: str, *, condition: IfMatch | None = None) -> None:
        checks.check_own_key(key)
        if condition is not None and not self._conditional_delete:
            raise Unsupported(f"{self.url} ignores the conditions of deletes")
        await self._delete(key, condition)

    async def _delete(self, key: str, condition: IfMatch | None) -> None:
        tries = Tries()
        request = self._request("delete", "DELETE", key, headers=conditions(condition))
        try:
            await self._client.call(request, tries=tries)
        except BucketMissing:
            raise
        except (NotFound, PreconditionFailed) as error:
            if condition is None and isinstance(error, NotFound):
                return
            if condition is not None and tries.uncertain:
                # Gone, or another one: by this request, or by somebody else's.
                raise Unavailable(
                    f"{self.url}: delete {key}: an answer was lost, and the deletion may or may not have happened"
                ) from error
            if isinstance(error, NotFound):
                raise PreconditionFailed(f"{self.url}: delete {key}: there is no such object") from error
            raise

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
        for begin in range(0, len(keys), DELETE_BATCH):
            batch = keys[begin : begin + DELETE_BATCH]
            if self._deletes_many and len(batch) > 1:
                try:
                    await self._delete_batch(batch)
                    continue
                except Unsupported:
                    self._deletes_many = False
            for first in range(0, len(batch), _PARALLEL_DELETES):
                some = batch[first : first + _PARALLEL_DELETES]
                ends = await asyncio.gather(*(self._delete(key, None) for key in some), return_exceptions=True)
                for end in ends:
                    if end is not None:
                        raise end

    async def _delete_batch(self, keys: Sequence[str]) -> None:
        body = xml.deletion([self._root + key for key in keys])
        # The one request that S3 takes only with a checksum, and this one is known to all.
        headers = {"content-type": "application/xml", HEADERS["md5"]: await checksum("md5", body)}
        request = Request("delete_many", f"delete {len(keys)} objects", "POST", "", (("delete", ""),), headers, body)

        def read(reply: Reply) -> None:
            for key, fault in xml.parse_deletions(reply.body):
                if fault.code != "NoSuchKey":
                    raise Failed(self._client.judge.fault(f"delete {key}", 200, {}, fault))

        await self._client.fetch(request, read)

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
            listing = await self._client.fetch(
                self._listing(prefix, after, wanted), lambda reply: xml.parse_listing(reply.body)
            )
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

    def _listing(self, prefix: str, after: str | None, limit: int) -> Request:
        query = [
            ("encoding-type", "url"),
            ("list-type", "2"),
            ("max-keys", str(limit)),
            ("prefix", self._root + prefix),
        ]
        if after is not None:
            query.append(("start-after", self._root + after))
        return Request("list", f"list {prefix or '/'}", "GET", "", tuple(query))

    # Multipart uploads

    async def create_multipart(self, key: str, *, part_size: int) -> str:
        checks.check_bulk_key(key)
        checks.check_part_size(part_size, MIN_PART)
        headers = {"content-type": OCTET_STREAM, **at_rest(self._settings, key)}
        if self._settings.checksum in ("crc32", "sha256"):
            headers["x-amz-checksum-algorithm"] = self._settings.checksum.upper()
        request = self._request("create_multipart", "POST", key, query=(("uploads", ""),), headers=headers)
        return await self._client.fetch(request, lambda reply: xml.parse_upload_id(reply.body))

    async def put_part(self, key: str, upload_id: str, number: int, body: Buffer, *, offset: int) -> str:
        checks.check_bulk_key(key)
        checks.check_part_number(number)
        query = (("partNumber", str(number)), ("uploadId", upload_name(self.url, upload_id)))
        kind = sum_of(self._settings, key)
        value = "" if kind is None else await checksum(kind, body)
        headers = {} if kind is None else {HEADERS[kind]: value}
        request = self._request("put_part", "PUT", key, query=query, headers=headers, body=body)
        try:
            reply = await self._client.call(request)
        except BucketMissing:
            raise
        except NotFound as error:
            raise UploadNotFound(f"{self.url}: put part {number} of {key}: no such upload") from error
        return PartTag(self._etag(request, reply), memoryview(body).nbytes, kind, value).join()

    async def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        checks.check_bulk_key(key)
        request = self._request("list_parts", "GET", key, query=(("uploadId", upload_name(self.url, upload_id)),))
        try:
            return await list_parts(self._client, request, url=self.url, kind=sum_of(self._settings, key))
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
        body = xml.completion((part.number, tag.etag, tag.element) for part, tag in zip(parts, tags, strict=True))
        request = self._request(
            "complete_multipart",
            "POST",
            key,
            query=(("uploadId", upload_name(self.url, upload_id)),),
            headers={"content-type": "application/xml"},
            body=body,
        )

        def read(reply: Reply) -> None:
            # The head of a success comes first, and whether it was one later.
            fault = xml.parse_fault(reply.body)
            if fault is not None:
                raise Failed(self._client.judge.fault(request.what, 200, reply.headers, fault))
            xml.parse_completed(reply.body)

        try:
            await self._client.fetch(request, read)
        except (UploadNotFound, NotFound) as error:
            if isinstance(error, BucketMissing):
                raise
            # An earlier call, or try, may have completed it: keys of bulk objects are written by one upload only.
            if await self._size(key) != sum(part.size for part in parts):
                raise UploadNotFound(f"{self.url}: complete {key}: there is no such upload") from error

    async def _size(self, key: str) -> int | None:
        try:
            return (await self.head(key)).size
        except NotFound:
            return None

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        checks.check_bulk_key(key)
        try:
            query = (("uploadId", upload_name(self.url, upload_id)),)
            request = self._request("abort_multipart", "DELETE", key, query=query)
            await self._client.call(request)
        except BucketMissing:
            raise
        except (UploadNotFound, NotFound):
            return

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
    def _connection(self) -> Connection:
        if self._connected is None:
            raise RuntimeError("the store is not started")
        return self._connected

    @property
    def _client(self) -> Client:
        return self._connection.client

    @property
    def _presigning(self) -> Presigning:
        return Presigning(self._settings, self._connection, self._clock)

    def _look_around(self) -> tuple[Surroundings, ssl.SSLContext | None]:
        around = look_around(self._settings, clock=self._clock)
        secure = around.endpoint.startswith("https:")
        return around, tls_context(around.ca_bundle) if secure else None

    def _request(
        self,
        operation: str,
        method: str,
        key: str,
        *,
        query: tuple[tuple[str, str], ...] = (),
        headers: Mapping[str, str] | None = None,
        body: Buffer | None = None,
        accept: tuple[int, ...] = (),
    ) -> Request:
        what = f"{operation.replace('_', ' ')} {key}"
        return Request(operation, what, method, self._root + key, query, headers, body, accept)

    def _etag(self, request: Request, reply: Reply) -> str:
        etag = xml.strip_etag(reply.headers.get("ETag", ""))
        if not etag:
            raise Corrupt(f"{self.url}: {request.what}: the answer names no etag")
        return etag
