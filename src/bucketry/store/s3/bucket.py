"""Requests to the objects of one bucket, as a store and a site make them alike."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

from bucketry.store.contract import (
    BucketMissing,
    Buffer,
    Condition,
    Corrupt,
    IfMatch,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unavailable,
    Unsupported,
    UploadNotFound,
)
from bucketry.store.observe import StoreObserver
from bucketry.store.s3 import xml
from bucketry.store.s3.checksums import HEADERS, PartTag, Sum, checksum
from bucketry.store.s3.client import Client, Failed, Reply, Request, Tries
from bucketry.store.s3.config import S3Settings
from bucketry.store.s3.connection import Connection, connect
from bucketry.store.s3.credentials import Surroundings, look_around
from bucketry.store.s3.headers import conditions, sum_of
from bucketry.store.s3.reading import read_object
from bucketry.store.s3.transport import tls_context
from bucketry.store.s3.uploads import upload_name

DELETE_BATCH = 1000
"""Keys of one DeleteObjects request."""

_PARALLEL_DELETES = 16


class Bucket:
    """Objects below ``settings.root``; keys come without it, and checked.

    ``clock`` gives POSIX seconds, ``monotonic`` seconds, ``random`` numbers from 0 to 1.
    """

    def __init__(
        self,
        settings: S3Settings,
        *,
        observer: StoreObserver,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]],
        random: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._observer = observer
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._random = random
        self._root = settings.root
        self._connected: Connection | None = None
        self._deletes_many = True

    @property
    def url(self) -> str:
        return self._settings.url

    async def close(self) -> None:
        connected, self._connected = self._connected, None
        if connected is not None:
            await connected.credentials.close()
            await connected.transport.close()

    async def _connect(self) -> Connection:
        """Finds endpoint and credentials; nothing is sent yet."""
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
        return connected

    def _look_around(self) -> tuple[Surroundings, ssl.SSLContext | None]:
        around = look_around(self._settings, clock=self._clock)
        secure = around.endpoint.startswith("https:")
        return around, tls_context(around.ca_bundle) if secure else None

    @property
    def _connection(self) -> Connection:
        if self._connected is None:
            raise RuntimeError("the store is not started")
        return self._connected

    @property
    def _client(self) -> Client:
        return self._connection.client

    # Objects

    async def _get(self, key: str, limit: int, tries: Tries) -> Reply:
        return await self._client.call(self._request("get", "GET", key), limit=limit, tries=tries)

    async def _head(self, key: str) -> tuple[Reply, int]:
        """The answer, and the object's size in bytes."""
        reply = await self._client.call(self._request("head", "HEAD", key))
        length = reply.headers.get("Content-Length", "")
        if not length.isdigit():
            raise Corrupt(f"{self.url}: head {key}: the answer names no size")
        return reply, int(length)

    async def _read(self, key: str, start: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        if stop == start:
            await self._head(key)
            return
        request = self._request("read", "GET", key, accept=(416,))
        pieces = read_object(self._client, request, start, stop, url=self.url)
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    async def _put(
        self, key: str, body: Buffer, headers: Mapping[str, str], kind: Sum | None, condition: Condition | None
    ) -> str:
        """Gives the etag. ``kind``: the checksum to go with the body."""
        headers = {**headers, **conditions(condition)}
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
            return xml.strip_etag(found.headers.get("ETag", ""))
        raise Unavailable(
            f"{self.url}: put {key}: an answer was lost, and the write may or may not have happened: {error}"
        ) from error

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

    async def _delete_many(self, keys: Sequence[str]) -> None:
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

    async def _page(self, prefix: str, after: str | None, limit: int) -> xml.Listing:
        """Keys in it are whole."""
        return await self._client.fetch(
            self._listing(prefix, after, limit), lambda reply: xml.parse_listing(reply.body)
        )

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

    async def _create_upload(self, key: str, headers: Mapping[str, str], *, sums: bool = True) -> str:
        """Gives its id. ``sums``: parts will come with the checksum that the settings ask for."""
        headers = dict(headers)
        if sums and self._settings.checksum in ("crc32", "sha256"):
            headers["x-amz-checksum-algorithm"] = self._settings.checksum.upper()
        request = self._request("create_multipart", "POST", key, query=(("uploads", ""),), headers=headers)
        return await self._client.fetch(request, lambda reply: xml.parse_upload_id(reply.body))

    async def _put_part(self, key: str, upload_id: str, number: int, body: Buffer) -> PartTag:
        query = (("partNumber", str(number)), ("uploadId", upload_name(self.url, upload_id)))
        kind = sum_of(self._settings, bulk=True)
        value = "" if kind is None else await checksum(kind, body)
        headers = {} if kind is None else {HEADERS[kind]: value}
        request = self._request("put_part", "PUT", key, query=query, headers=headers, body=body)
        try:
            reply = await self._client.call(request)
        except BucketMissing:
            raise
        except NotFound as error:
            raise UploadNotFound(f"{self.url}: put part {number} of {key}: no such upload") from error
        return PartTag(self._etag(request, reply), memoryview(body).nbytes, kind, value)

    async def _complete_upload(self, key: str, upload_id: str, tags: Sequence[tuple[int, PartTag]], size: int) -> None:
        """``tags`` with the numbers of their parts; ``size`` bytes in all. Raises `UploadNotFound` where there is no
        such upload, unless the object has that size: then an earlier try completed it."""
        request = self._request(
            "complete_multipart",
            "POST",
            key,
            query=(("uploadId", upload_name(self.url, upload_id)),),
            headers={"content-type": "application/xml"},
            body=xml.completion((number, tag.etag, tag.element) for number, tag in tags),
        )

        def read(reply: Reply) -> None:
            self._require_success(request, reply)
            xml.parse_completed(reply.body)

        try:
            await self._client.fetch(request, read)
        except BucketMissing:
            raise
        except (UploadNotFound, NotFound) as error:
            if await self._size(key) != size:
                raise UploadNotFound(f"{self.url}: complete {key}: there is no such upload") from error

    async def _size(self, key: str) -> int | None:
        try:
            return (await self._head(key))[1]
        except NotFound:
            return None

    async def _abort_upload(self, key: str, upload_id: str) -> None:
        try:
            query = (("uploadId", upload_name(self.url, upload_id)),)
            await self._client.call(self._request("abort_multipart", "DELETE", key, query=query))
        except BucketMissing:
            raise
        except (UploadNotFound, NotFound):
            return

    # Requests

    def _require_success(self, request: Request, reply: Reply) -> None:
        """Raises `Failed` for an error behind the head of a success, which comes at once where the work takes long."""
        fault = xml.parse_fault(reply.body)
        if fault is not None:
            raise Failed(self._client.judge.fault(request.what, 200, reply.headers, fault))

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
