"""How the bytes of a blob reach the client: from the bucket by a redirect, or through the server."""

from __future__ import annotations

import ipaddress
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from functools import lru_cache

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from bucketry.registry import Blob, Registry
from bucketry.server.config import DeliveryConfig
from bucketry.server.ranges import ByteRange, Unsatisfiable, parse_range
from bucketry.store.checks import is_foreign
from bucketry.store.contract import OCTET_STREAM, LocalFiles

_CACHED_URLS = 10_000
IMMUTABLE = "max-age=31536000, immutable"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class PathResponse(Response):
    """A whole file, handed to the server to send: its bytes never enter Python."""

    def __init__(self, path: str, headers: Mapping[str, str]) -> None:
        super().__init__(None, 200, headers)
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.pathsend", "path": self._path})


class Delivery:
    def __init__(
        self, registry: Registry, config: DeliveryConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._config = config
        self._clock = clock
        self._presigns = registry.store.capabilities.presign
        self._redirected = _networks(config.redirect_networks)
        self._proxied = _networks(config.proxy_networks)
        self._urls: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._wants_redirect = lru_cache(maxsize=4096)(self._wants_redirect_uncached)

    async def respond(
        self, blob: Blob, headers: Mapping[str, str], *, client: str | None, range_header: str | None, sendfile: bool
    ) -> Response:
        """The answer to a GET. ``headers`` go into it, whatever way the bytes take."""
        try:
            ranges = parse_range(range_header, blob.size)
        except Unsatisfiable:
            headers = {**headers, "cache-control": "no-store", "content-range": f"bytes */{blob.size}"}
            return Response(None, 416, headers)
        several = ranges is not None and len(ranges) > 1
        if blob.size >= self._config.redirect_from and not several and self._wants_redirect(client):
            # Not to be kept: the URL ends long before the blob does, and it is as good as a password.
            headers = {**headers, "cache-control": "no-store", "location": await self._url(blob)}
            return Response(None, 307, {**headers, "content-length": "0"})
        headers = {**headers, "content-type": OCTET_STREAM, "accept-ranges": "bytes"}
        if ranges is None:
            return await self._whole(blob, headers, sendfile)
        if several:
            return await self._several(blob, headers, ranges)
        only = ranges[0]
        headers["content-length"] = str(only.size)
        headers["content-range"] = f"bytes {only.start}-{only.stop - 1}/{blob.size}"
        return StreamingResponse(await _begun(self._registry.blobs.read(blob, only.start, only.stop)), 206, headers)

    async def _whole(self, blob: Blob, headers: dict[str, str], sendfile: bool) -> Response:
        headers["content-length"] = str(blob.size)
        if blob.size == 0:
            return Response(b"", 200, headers)
        store = self._registry.store
        if sendfile and self._config.file_sendfile and isinstance(store, LocalFiles):
            path = store.file_path(blob.data)
            if _is_file(path):
                return PathResponse(path, headers)
        return StreamingResponse(await _begun(self._registry.blobs.read(blob)), 200, headers)

    async def _several(self, blob: Blob, headers: dict[str, str], ranges: list[ByteRange]) -> Response:
        """``multipart/byteranges``, which object stores do not speak and zstd:chunked clients ask for."""
        boundary = secrets.token_hex(16)
        heads = [
            f"\r\n--{boundary}\r\nContent-Type: {OCTET_STREAM}\r\n"
            f"Content-Range: bytes {part.start}-{part.stop - 1}/{blob.size}\r\n\r\n".encode()
            for part in ranges
        ]
        end = f"\r\n--{boundary}--\r\n".encode()

        async def body() -> AsyncIterator[bytes]:
            for head, part in zip(heads, ranges, strict=True):
                yield head
                async for piece in self._registry.blobs.read(blob, part.start, part.stop):
                    yield piece
            yield end

        headers["content-type"] = f"multipart/byteranges; boundary={boundary}"
        headers["content-length"] = str(sum(map(len, heads)) + sum(part.size for part in ranges) + len(end))
        pieces = body()
        head = await anext(pieces)
        return StreamingResponse(await _begun(pieces, head), 206, headers)

    async def _url(self, blob: Blob) -> str:
        """A presigned URL, used again for the first half of its life."""
        now = self._clock()
        known = self._urls.get(blob.data)
        if known is not None and known[1] > now:
            return known[0]
        expires = self._config.presign_expires
        # Adopted bytes have the content type that the old registry gave them; own ones have the right one.
        headers = {"content-type": OCTET_STREAM} if is_foreign(blob.data) else {}
        url = await self._registry.blobs.presign(blob, expires=expires, headers=headers)
        self._urls[blob.data] = (url, now + expires / 2)
        self._urls.move_to_end(blob.data)
        if len(self._urls) > _CACHED_URLS:
            self._urls.popitem(last=False)
        return url

    def _wants_redirect_uncached(self, client: str | None) -> bool:
        if not self._presigns:
            return False
        if client is not None and (self._proxied or self._redirected):
            try:
                address = ipaddress.ip_address(client)
            except ValueError:
                return self._config.mode == "redirect"
            if any(address in network for network in self._proxied):
                return False
            if any(address in network for network in self._redirected):
                return True
        return self._config.mode == "redirect"


async def _begun(pieces: AsyncIterator[bytes], head: bytes = b"") -> AsyncIterator[bytes]:
    """The same pieces, after ``head``, with the first at hand: a store that has none is an answer of its own."""
    first = await anext(pieces)

    async def body() -> AsyncIterator[bytes]:
        yield head + first
        async for piece in pieces:
            yield piece

    return body()


def _is_file(path: str) -> bool:
    """Where it is not, the store says so in its own words when it is asked to read it."""
    return os.path.isfile(path)


def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
