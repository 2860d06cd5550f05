"""A small S3 on a loopback port that misbehaves as a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from base64 import b64encode
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from urllib.parse import unquote
from xml.sax.saxutils import escape

from aiohttp import web

from bucketry.store.s3 import S3Settings, S3Store
from bucketry.store.s3.site import S3Site

BUCKET = "bucket"
NOW = 1_800_000_000.0

Act: TypeAlias = Callable[["FakeS3", "Asked"], Awaitable[web.StreamResponse | None]]
"""What happens instead of the usual answer; None is the usual answer after all."""


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    method: str
    target: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    request: web.Request = field(repr=False)


@dataclass(frozen=True)
class Observed:
    operation: str
    outcome: str
    sent: int
    received: int
    seconds: float


@dataclass
class Observer:
    seen: list[Observed] = field(default_factory=list)

    def request(self, operation: str, *, seconds: float, sent: int, received: int, outcome: str) -> None:
        self.seen.append(Observed(operation, outcome, sent, received, seconds))

    def outcomes(self, operation: str) -> list[str]:
        return [each.outcome for each in self.seen if each.operation == operation]


class FakeS3:
    """``objects`` holds the bucket, keys whole. ``tells_sums``: parts are listed with their SHA-256. ``script`` is
    consumed, one entry a request (the store's start included, unless ``started``); without an entry the server
    behaves."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.upload_headers: dict[str, dict[str, str]] = {}
        self.tells_sums = False
        self.script: deque[Act | None] = deque()
        self.asked: list[Asked] = []
        self.slept: list[float] = []
        self.observer = Observer()
        self.now = NOW
        self.chance: Callable[[], float] = lambda: 1.0
        self.port = 0
        self.tls: ssl.SSLContext | None = None
        self._runner: web.AppRunner | None = None
        self._stores: list[S3Store | S3Site] = []

    @property
    def endpoint(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    def methods(self) -> list[str]:
        return [asked.method for asked in self.asked]

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        for store in self._stores:
            await store.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def settings(self, **changes: Any) -> S3Settings:
        settings = S3Settings(
            bucket=BUCKET,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key="AKID",
            secret_key="SECRET",
            conditional_delete=True,
            retries=3,
            read_timeout=5,
        )
        return replace(settings, **changes)

    def store(self, **changes: Any) -> S3Store:
        """A store that does not wait between its tries, and notes how long it would have. It is closed in the end."""

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        store = S3Store(
            self.settings(**changes),
            observer=self.observer,
            clock=lambda: self.now,
            sleep=sleep,
            random=lambda: self.chance(),
        )
        self._stores.append(store)
        return store

    async def started(self, **changes: Any) -> S3Store:
        """A started store; what its start asked is forgotten, and the script begins after it."""
        script, self.script = self.script, deque()
        store = self.store(**changes)
        await store.start()
        self.asked.clear()
        self.observer.seen.clear()
        self.script = script
        return store

    async def started_site(
        self,
        *,
        conditional: bool | None = True,
        min_part: int = 4,
        copy_limit: int = 2**40,
        copy_part: int = 2**30,
        **changes: Any,
    ) -> S3Site:
        """A started site, as `started`."""

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)

        site = S3Site(
            self.settings(**changes),
            conditional=conditional,
            min_part=min_part,
            copy_limit=copy_limit,
            copy_part=copy_part,
            observer=self.observer,
            clock=lambda: self.now,
            sleep=sleep,
            random=lambda: self.chance(),
        )
        self._stores.append(site)
        script, self.script = self.script, deque()
        await site.start()
        self.asked.clear()
        self.observer.seen.clear()
        self.script = script
        return site

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(
            request.method,
            request.raw_path,
            request.path,
            dict(request.query),
            {name.lower(): value for name, value in request.headers.items()},
            await request.read(),
            request,
        )
        self.asked.append(asked)
        act = self.script.popleft() if self.script else None
        answer = await act(self, asked) if act is not None else None
        return answer if answer is not None else self.answer(asked)

    def answer(self, asked: Asked) -> web.StreamResponse:
        """What a store that behaves answers, after it did what it was asked."""
        key = asked.path.removeprefix(f"/{BUCKET}").removeprefix("/")
        if not asked.path.startswith(f"/{BUCKET}/"):
            return fault(404, "NoSuchBucket")
        query = asked.query
        if not key:
            return self._bucket(asked)
        if "uploads" in query and asked.method == "POST":
            upload_id = f"upload-{len(self.uploads) + 1}"
            self.uploads[upload_id] = {}
            self.upload_headers[upload_id] = kept_headers(asked)
            return document(
                f"<InitiateMultipartUploadResult><UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>"
            )
        if "uploadId" in query:
            return self._upload(asked, key)
        found = self.objects.get(key)
        if asked.method in ("PUT", "DELETE"):
            refused = self._refused(asked, key)
            if refused is not None:
                return refused
        if asked.method == "PUT":
            body = asked.body
            if "x-amz-copy-source" in asked.headers:
                source = self._source(asked)
                if isinstance(source, web.Response):
                    return source
                body = source
            self.objects[key] = (body, kept_headers(asked))
            if "x-amz-copy-source" in asked.headers:
                return document(f"<CopyObjectResult><ETag>{escape(etag_of(body))}</ETag></CopyObjectResult>")
            return web.Response(headers={"ETag": etag_of(body)})
        if asked.method == "DELETE":
            self.objects.pop(key, None)
            return web.Response(status=204)
        if found is None:
            return fault(404, "NoSuchKey")
        if asked.headers.get("if-match") not in (None, etag_of(found[0])):
            return fault(412, "PreconditionFailed")
        return self._object(asked, *found)

    def _refused(self, asked: Asked, key: str) -> web.Response | None:
        found = self.objects.get(key)
        if asked.headers.get("if-none-match") == "*" and found is not None:
            return fault(412, "PreconditionFailed")
        wanted = asked.headers.get("if-match")
        if wanted is not None and found is None:
            return fault(404, "NoSuchKey")  # as AWS does
        if wanted is not None and found is not None and wanted != etag_of(found[0]):
            return fault(412, "PreconditionFailed")
        return None

    def _object(self, asked: Asked, body: bytes, kept: dict[str, str]) -> web.Response:
        headers = {
            **({} if "content-type" in kept else {"Content-Type": "application/octet-stream"}),
            **kept,
            "ETag": etag_of(body),
            "Last-Modified": "Fri, 15 Jan 2027 08:00:00 GMT",
        }
        status = 200
        wanted = asked.headers.get("range")
        if wanted is not None:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1 if last else len(body), len(body))
            if start >= len(body):
                return fault(416, "InvalidRange")
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
            body, status = body[start:stop], 206
        return web.Response(status=status, body=body, headers=headers)

    def _bucket(self, asked: Asked) -> web.Response:
        if "delete" in asked.query:
            for element in asked.body.split(b"<Key>")[1:]:
                self.objects.pop(element.split(b"</Key>")[0].decode(), None)
            return document("<DeleteResult></DeleteResult>")
        prefix, after = asked.query.get("prefix", ""), asked.query.get("start-after", "")
        limit = int(asked.query.get("max-keys", "1000"))
        keys = [key for key in sorted(self.objects) if key.startswith(prefix) and key > after]
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2027-01-15T08:00:00.000Z</LastModified>"
            f"<ETag>{escape(etag_of(self.objects[key][0]))}</ETag><Size>{len(self.objects[key][0])}</Size></Contents>"
            for key in keys[:limit]
        )
        more = "true" if len(keys) > limit else "false"
        return document(
            f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>{more}</IsTruncated>'
            f"<EncodingType>url</EncodingType>{contents}</ListBucketResult>"
        )

    def _upload(self, asked: Asked, key: str) -> web.Response:
        upload_id = asked.query["uploadId"]
        parts = self.uploads.get(upload_id)
        if parts is None:
            return fault(404, "NoSuchUpload")
        if asked.method == "GET":
            return self._parts(asked, parts)
        if asked.method == "PUT" and "x-amz-copy-source" in asked.headers:
            source = self._source(asked)
            if isinstance(source, web.Response):
                return source
            parts[int(asked.query["partNumber"])] = source
            return document(f"<CopyPartResult><ETag>{escape(etag_of(source))}</ETag></CopyPartResult>")
        if asked.method == "PUT":
            parts[int(asked.query["partNumber"])] = asked.body
            return web.Response(headers={"ETag": etag_of(asked.body)})
        del self.uploads[upload_id]
        if asked.method == "DELETE":
            return web.Response(status=204)
        self.objects[key] = (b"".join(parts[number] for number in sorted(parts)), self.upload_headers.pop(upload_id))
        return document("<CompleteMultipartUploadResult><ETag>x-1</ETag></CompleteMultipartUploadResult>")

    def _source(self, asked: Asked) -> bytes | web.Response:
        """What a copy takes, or why it does not."""
        bucket, _, key = unquote(asked.headers["x-amz-copy-source"]).partition("/")
        found = self.objects.get(key)
        if bucket != BUCKET:
            return fault(404, "NoSuchBucket")
        if found is None:
            return fault(404, "NoSuchKey")
        if asked.headers.get("x-amz-copy-source-if-match") not in (None, etag_of(found[0])):
            return fault(412, "PreconditionFailed")
        ranged = asked.headers.get("x-amz-copy-source-range")
        if ranged is None:
            return found[0]
        start, _, last = ranged.removeprefix("bytes=").partition("-")
        return found[0][int(start) : int(last) + 1]

    def _parts(self, asked: Asked, parts: dict[int, bytes]) -> web.Response:
        after, limit = int(asked.query.get("part-number-marker", "0")), int(asked.query.get("max-parts", "1000"))
        numbers = [number for number in sorted(parts) if number > after]
        return parts_page(
            *((number, parts[number]) for number in numbers[:limit]),
            more=len(numbers) > limit,
            sums=self.tells_sums,
        )


def kept_headers(asked: Asked) -> dict[str, str]:
    """Those of a request that its object is served with."""
    return {
        name: value
        for name, value in asked.headers.items()
        if name.startswith("x-amz-meta-") or name in ("content-type", "cache-control")
    }


def parts_page(*parts: tuple[int, bytes], more: bool = False, sums: bool = False) -> web.Response:
    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag_of(body))}</ETag><Size>{len(body)}</Size>"
        + (f"<ChecksumSHA256>{b64encode(hashlib.sha256(body).digest()).decode()}</ChecksumSHA256>" if sums else "")
        + "</Part>"
        for number, body in parts
    )
    truncated = "true" if more else "false"
    return document(f"<ListPartsResult><IsTruncated>{truncated}</IsTruncated>{listed}</ListPartsResult>")


def etag_of(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def document(xml: str, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=f'<?xml version="1.0" encoding="UTF-8"?>\n{xml}'.encode(), content_type="application/xml"
    )


def fault(status: int, code: str, message: str = "said the store", *, more: str = "") -> web.Response:
    return document(f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>", status)


# Acts


def says(status: int, code: str, *, headers: dict[str, str] | None = None, more: str = "") -> Act:
    """Answers with an error, and does nothing."""

    async def act(server: FakeS3, asked: Asked) -> web.StreamResponse:
        answer = fault(status, code, more=more)
        answer.headers.update(headers or {})
        return answer

    return act


def answers(make: Callable[[], web.StreamResponse]) -> Act:
    async def act(server: FakeS3, asked: Asked) -> web.StreamResponse:
        return make()

    return act


def first(do: Callable[[FakeS3], None]) -> Act:
    """Something else happens right before the request takes effect."""

    async def act(server: FakeS3, asked: Asked) -> None:
        do(server)

    return act


def loses_answer(then: Callable[[FakeS3], None] = lambda server: None) -> Act:
    """The request takes effect, then something else happens, and the connection breaks without an answer."""

    async def act(server: FakeS3, asked: Asked) -> web.StreamResponse:
        answer = server.answer(asked)
        then(server)
        return hang_up(asked, answer)

    return act


def loses_request() -> Act:
    """The connection breaks before anything happened."""

    async def act(server: FakeS3, asked: Asked) -> web.StreamResponse:
        return hang_up(asked, web.Response())

    return act


def hang_up(asked: Asked, answer: web.StreamResponse) -> web.StreamResponse:
    assert asked.request.transport is not None
    asked.request.transport.abort()
    return answer


def fails_after(status: int, code: str) -> Act:
    """The request takes effect, and the answer says that it failed."""

    async def act(server: FakeS3, asked: Asked) -> web.StreamResponse:
        server.answer(asked)
        return fault(status, code)

    return act


def breaks_off(after: int, then: Callable[[FakeS3], None] = lambda server: None) -> Act:
    """The head and so many bytes of the body come, then something else happens and the connection breaks."""

    async def act(server: FakeS3, asked: Asked) -> web.StreamResponse:
        usual = server.answer(asked)
        assert isinstance(usual, web.Response)
        assert isinstance(usual.body, bytes)
        answer = web.StreamResponse(status=usual.status, headers=usual.headers)
        answer.content_length = len(usual.body)
        await answer.prepare(asked.request)
        await answer.write(usual.body[:after])
        then(server)
        # A reset would let the other side lose what it has not read yet.
        assert asked.request.transport is not None
        asked.request.transport.close()
        return answer

    return act


def stays_silent(seconds: float) -> Act:
    async def act(server: FakeS3, asked: Asked) -> None:
        await asyncio.sleep(seconds)

    return act
