"""The contract of `bucketry.store.site` on a bucket of S3, or of a store that speaks its protocol."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

from bucketry.store.checks import check_key, check_range
from bucketry.store.contract import (
    IF_ABSENT,
    MAX_PARTS,
    OCTET_STREAM,
    AccessDenied,
    BucketMissing,
    Buffer,
    Condition,
    Corrupt,
    IfAbsent,
    IfMatch,
    NotFound,
    PreconditionFailed,
    Store,
    StoreError,
    Unavailable,
    Unsupported,
)
from bucketry.store.observe import NULL_OBSERVER, StoreObserver
from bucketry.store.s3.bucket import Bucket
from bucketry.store.s3.checksums import PartTag
from bucketry.store.s3.client import Reply, Tries
from bucketry.store.s3.config import S3Settings
from bucketry.store.s3.copying import COPY_LIMIT, COPY_PART, CopyingBucket, CopySource
from bucketry.store.s3.endpoint import is_aws
from bucketry.store.s3.headers import at_rest, sum_of
from bucketry.store.s3.store import S3Store
from bucketry.store.s3.xml import strip_etag
from bucketry.store.site import (
    PRIVATE,
    Served,
    SiteContent,
    SiteFile,
    check_path,
    check_prefix,
    check_served,
)
from bucketry.store.site_parts import DEFAULT_PART, Cut, cut

LARGE = 128 * 1024
"""Bytes: from that size on files get the storage class of the settings. Colder classes bill smaller ones as if they had
it, and manifests and tags are small and read often."""


class S3Site(CopyingBucket):
    """Files below ``settings.root`` of a bucket. Who may read them is the bucket's policy, not an ACL of theirs.

    ``conditional``: whether the service heeds conditions; None: found out before the first conditional write, with a
    file that nobody sees. ``min_part``, ``copy_limit`` and ``copy_part`` in bytes, for tests that want small ones.
    ``clock`` gives POSIX seconds, ``monotonic`` seconds, ``random`` numbers from 0 to 1, ``nonce`` random bytes.

    What a killed process left of an upload is ended by nobody here: a lifecycle rule of the bucket does that.
    Etags of equal bodies are equal on most services: a write that puts back what was there before brings its etag back.
    """

    def __init__(
        self,
        settings: S3Settings,
        *,
        conditional: bool | None = None,
        min_part: int = DEFAULT_PART,
        copy_limit: int = COPY_LIMIT,
        copy_part: int = COPY_PART,
        observer: StoreObserver = NULL_OBSERVER,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        random: Callable[[], float] = random.random,
        nonce: Callable[[int], bytes] = os.urandom,
    ) -> None:
        super().__init__(
            settings,
            observer=observer,
            clock=clock,
            monotonic=monotonic,
            sleep=sleep,
            random=random,
            copy_limit=copy_limit,
            copy_part=copy_part,
        )
        self._min_part = min_part
        self._nonce = nonce
        self._conditional = conditional
        self._probing = asyncio.Lock()
        self._refusal: str | None = None
        self._refused: set[str] = set()

    @property
    def conditional(self) -> bool:
        """Known for sure after the first conditional write."""
        return self._conditional is not False

    @property
    def keeps_headers(self) -> bool:
        return True

    @property
    def refusal(self) -> str | None:
        return self._refusal

    async def start(self) -> None:
        """Finds endpoint and credentials, and asks for one name of the bucket to see that they work.

        Raises `StoreError` as `S3Store.start`. Who comes without credentials may be one who may read but not list.
        """
        if self._connected is not None:
            return
        connected = await self._connect()
        try:
            await connected.credentials.get()
            try:
                await self._page("", None, 1)
            except AccessDenied:
                if not self._settings.anonymous:
                    raise
        except BaseException:
            await self.close()
            raise

    # Reading

    async def get(self, path: str, *, limit: int = 16 * 1024 * 1024) -> SiteContent:
        check_path(path)
        reply = await self._get(path, limit, Tries())
        return SiteContent(_file(path, reply, len(reply.body)), reply.body)

    async def head(self, path: str) -> SiteFile:
        check_path(path)
        reply, size = await self._head(path)
        return _file(path, reply, size)

    async def read(self, path: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        check_path(path)
        check_range(start, stop)
        pieces = self._read(path, start, stop)
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    async def list(self, prefix: str) -> AsyncIterator[SiteFile]:
        check_prefix(prefix)
        after: str | None = None
        while True:
            page = await self._page(prefix, after, 1000)
            for entry in page.entries:
                path = entry.key.removeprefix(self._root)
                # What ends with a slash is the mark of a folder (see `answer_folder`).
                if not path.startswith(PRIVATE) and f"/{PRIVATE}" not in path and not path.endswith("/"):
                    yield SiteFile(path, entry.size, entry.etag)
            if not page.truncated:
                return
            if not page.last:
                raise Corrupt(f"{self.url}: list {prefix}: an empty page that is not the last one")
            after = page.last.removeprefix(self._root)

    # Writing

    async def put(self, path: str, body: Buffer, *, served: Served, condition: Condition | None = None) -> str:
        """As `S3Store.put`: bodies of conditional writes are unique, since lost answers are settled by them."""
        check_path(path)
        if condition is not None and not await self._is_conditional():
            await self._require(path, condition)
            condition = None
        return await self._write(path, body, served, condition)

    async def begin(self, path: str, *, size: int, served: Served, part_size: int | None = None) -> S3SiteUpload:
        """``part_size`` is at least 8 MiB, and all parts but the last have it, as R2 demands."""
        check_path(path)
        parts = cut(size, part_size, least=self._min_part)
        headers = self._headers(served, size)
        # No service takes an upload without parts.
        upload_id = await self._create_upload(path, headers) if size else ""
        return S3SiteUpload(self, path, parts, upload_id, served)

    async def copy(self, source: str, path: str, *, size: int, served: Served) -> bool:
        check_path(source)
        check_path(path)
        return await self._copy_of(self, source, path, size, served)

    async def copy_from(self, store: Store, key: str, path: str, *, size: int, served: Served) -> bool:
        """Of an `S3Store` at the same endpoint, whose bucket these credentials may read.

        What they may not, or the service cannot, is said in `refusal`; no more copies of that store are then asked for.
        """
        check_key(key)
        check_path(path)
        if not isinstance(store, S3Store) or not self._is_beside(store):
            return False
        return await self._copy_of(store, key, path, size, served)

    def takes_from(self, store: Store) -> bool:
        """Whether `copy_from` asks the service for it at all: what it may not read is known only then."""
        return isinstance(store, S3Store) and self._is_beside(store)

    async def twin(self, path: str, other: str) -> None:
        raise Unsupported(f"{self.url} serves files with their own headers, and so has no twins")

    async def pointed(self, path: str) -> str | None:
        return None

    async def point(self, path: str, target: str, *, current: str | None) -> None:
        raise Unsupported(f"{self.url} serves files with their own headers, and so has no links")

    async def delete_many(self, paths: Sequence[str]) -> None:
        for path in paths:
            check_path(path)
        await self._delete_many(paths)

    @property
    def flat(self) -> bool:
        """Whether a slash in a name is a character like any other, as on AWS. Once started.

        Others may keep files in folders: rclone lists nothing below ``v2/`` any more where an object of that name was
        sent, though it refused it.
        """
        return is_aws(urlsplit(self._connection.endpoint).hostname or "")

    async def answer_folder(self, prefix: str, *, served: Served) -> bool:
        """Sees to it that who asks for ``prefix``, which ends with ``/``, is answered, with nothing in the body.

        Clients ask so whether there is a registry. To be asked of services that are `flat`. True where an object was
        made for it; False where there is an answer, or the service takes no such name. It is no file of the site, and
        is not listed.
        """
        check_prefix(prefix)
        try:
            await self._client.call(self._request("head", "HEAD", prefix), tries=Tries(once=True))
        except (NotFound, AccessDenied):
            # Who may not list is refused what is missing.
            pass
        except StoreError:
            return False
        else:
            return False
        request = self._request("put", "PUT", prefix, headers=self._headers(served, 0), body=b"")
        try:
            await self._client.call(request, tries=Tries(once=True))
        except StoreError:
            return False
        return True

    # Who may read

    def address(self, path: str) -> str:
        """The http(s) URL of a file at the service itself, at ``settings.public_endpoint`` where there is one."""
        check_path(path)
        public = self._connection.public
        return f"{public.origin}{public.key_path(self._root + path)}"

    async def is_public(self, path: str) -> bool:
        """Whether anyone may read a file, by an unsigned request for it. Raises `NotFound`.

        S3 tells only who may list a bucket that a file is missing; everyone else is refused it.
        """
        check_path(path)
        settings = self._settings
        stranger = Bucket(
            replace(
                settings,
                endpoint=settings.public_endpoint or settings.endpoint,
                anonymous=True,
                access_key=None,
                secret_key=None,
                session_token=None,
            ),
            observer=self._observer,
            clock=self._clock,
            monotonic=self._monotonic,
            sleep=self._sleep,
            random=self._random,
        )
        try:
            await stranger._connect()
            request = stranger._request("get", "GET", path, headers={"range": "bytes=0-0"}, accept=(416,))
            stream = await stranger._client.open(request, tries=Tries())
            stream.finish()
        except AccessDenied:
            return False
        finally:
            await stranger.close()
        return True

    # Inside

    def _headers(self, served: Served, size: int) -> dict[str, str]:
        check_served(served)
        headers = {"content-type": served.content_type, **at_rest(self._settings, bulk=size >= LARGE)}
        if served.cache_control is not None:
            headers["cache-control"] = served.cache_control
        return headers

    async def _write(self, path: str, body: Buffer, served: Served, condition: Condition | None) -> str:
        headers = self._headers(served, memoryview(body).nbytes)
        return await self._put(path, body, headers, sum_of(self._settings, bulk=False), condition)

    def _is_beside(self, store: S3Store) -> bool:
        connected = store._connected
        return connected is not None and connected.endpoint == self._connection.endpoint

    async def _copy_of(self, source: Bucket, key: str, path: str, size: int, served: Served) -> bool:
        headers = self._headers(served, size)
        if source.url in self._refused:
            return False
        try:
            reply, found = await source._head(key)
            if found != size:
                return False
            etag = strip_etag(reply.headers.get("ETag", ""))
            whole = CopySource(source._settings.bucket, source._root + key, size, etag)
            await self._copy(whole, path, headers)
        except BucketMissing:
            raise
        except (NotFound, PreconditionFailed):
            # It went, or was replaced.
            return False
        except StoreError as error:
            # A plain StoreError is a request that the service does not take as it is.
            if not isinstance(error, AccessDenied | Unsupported) and type(error) is not StoreError:
                raise
            self._refusal = str(error)
            self._refused.add(source.url)
            return False
        return True

    async def _require(self, path: str, condition: Condition) -> None:
        """What the service would do, if it heeded conditions: a writer between this and the write is not noticed."""
        try:
            etag = (await self.head(path)).etag
        except NotFound:
            if isinstance(condition, IfMatch):
                raise PreconditionFailed(f"{self.url}: put {path}: there is no such object") from None
            return
        if isinstance(condition, IfAbsent) or etag != condition.etag:
            raise PreconditionFailed(f"{self.url}: put {path}: the object is not as the write expects it")

    async def _is_conditional(self) -> bool:
        async with self._probing:
            if self._conditional is None:
                self._conditional = await self._heeds_conditions()
        return self._conditional

    async def _heeds_conditions(self) -> bool:
        path = f"{PRIVATE}probe-{self._nonce(8).hex()}"
        served = Served()
        try:
            if await self._happens(path, IfMatch("0" * 32)):
                return False
            await self._write(path, b"a probe of conditional writes", served, None)
            return not await self._happens(path, IF_ABSENT)
        except (Unavailable, AccessDenied, NotFound):
            raise
        except StoreError:
            # It refuses the headers.
            return False
        finally:
            with suppress(StoreError):
                await self._delete(path, None)

    async def _happens(self, path: str, condition: Condition) -> bool:
        """Whether a write happens whose condition does not hold."""
        try:
            await self._write(path, self._nonce(16), Served(), condition)
        except PreconditionFailed:
            return False
        return True


class S3SiteUpload:
    """A multipart upload; of an empty file nothing, until it is complete."""

    def __init__(self, site: S3Site, path: str, parts: Cut, upload_id: str, served: Served) -> None:
        self._site = site
        self._path = path
        self._parts = parts
        self._upload_id = upload_id
        self._served = served
        self._tags: dict[int, PartTag] = {}
        self._over = False

    @property
    def part_size(self) -> int:
        return self._parts.part_size

    @property
    def max_parts(self) -> int:
        return MAX_PARTS

    async def put(self, number: int, body: Buffer) -> None:
        self._parts.check(number, body)
        if self._upload_id:
            self._tags[number] = await self._site._put_part(self._path, self._upload_id, number, body)

    async def complete(self) -> None:
        self._parts.require_all(set(self._tags), f"{self._site.url} {self._path}")
        if self._upload_id:
            tags = sorted(self._tags.items())
            await self._site._complete_upload(self._path, self._upload_id, tags, self._parts.size)
        else:
            await self._site._write(self._path, b"", self._served, None)
        self._over = True

    async def abort(self) -> None:
        if self._over:
            return
        self._over = True
        if self._upload_id:
            await self._site._abort_upload(self._path, self._upload_id)


def _file(path: str, reply: Reply, size: int) -> SiteFile:
    headers = reply.headers
    served = Served(headers.get("Content-Type", OCTET_STREAM), headers.get("Cache-Control"))
    return SiteFile(path, size, strip_etag(headers.get("ETag", "")), served)
