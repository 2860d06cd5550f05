"""aiohttp, set up so that nothing happens behind our back: no redirects, no cookies, no netrc, no decompression, and
no second sending. aiohttp repeats a PUT or a DELETE by itself when a kept connection turns out to be closed; for a
conditional write that hides that the first one may have taken effect.
"""

from __future__ import annotations

import asyncio
import ssl
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from bucketry.store.contract import Buffer

PIECE = 256 * 1024
"""Bytes handed to the connection at a time: what a transport may copy of a body at once."""

_READ_BUFFER = 256 * 1024

_BREAKS = (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)
_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


class Broken(aiohttp.ClientConnectionError):
    """The connection broke after the request may have been sent."""


class Body(aiohttp.Payload):
    """A buffer that is sent slice by slice, never copied as a whole.

    ``stall`` is how many seconds the other side may take no byte: aiohttp's own read timeout begins after the body.
    ``sent`` counts the bytes that were handed to the connection.
    """

    _autoclose = True

    def __init__(self, body: Buffer, *, stall: float) -> None:
        view = memoryview(body)
        if view.nbytes and (view.format != "B" or view.ndim != 1):
            view = view.cast("B")
        super().__init__(view, content_type="application/octet-stream")
        self._size = view.nbytes
        self._stall = stall
        self.sent = 0

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        view: memoryview = self._value
        # The first slice is small: aiohttp joins it with the headers.
        size = view.nbytes
        begin, end = 0, min(size, 16 * 1024)
        while begin < size:
            async with asyncio.timeout(self._stall):
                await writer.write(view[begin:end])
            self.sent = end
            begin, end = end, min(end + PIECE, size)


class Transport:
    """Connections to one host. ``origin`` is ``scheme://host[:port]``."""

    def __init__(
        self,
        origin: str,
        *,
        connections: int,
        connect_timeout: float,
        read_timeout: float,
        context: ssl.SSLContext | None,
    ) -> None:
        """Needs a running event loop. ``context`` is what https is trusted by; see `tls_context`."""
        self._origin = URL(origin)
        self._read_timeout = read_timeout
        self._context = context
        self._session = self._new_session(connections, connect_timeout)
        # A stream lasts as long as its reader likes. Those that share connections with everything else, and are read
        # slowly, would stop it; their number is the readers' to bound.
        self._streams = self._new_session(0, connect_timeout)

    def _new_session(self, connections: int, connect_timeout: float) -> aiohttp.ClientSession:
        """``connections``: how many at once, 0 for any number."""
        context = self._context
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=context if context is not None else True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_READ_BUFFER,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=None, sock_connect=connect_timeout, sock_read=self._read_timeout
            ),
            middlewares=(_send_once,),
            proxy=proxy_for(self._origin),
        )

    async def send(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: Body | None,
        *,
        stream: bool = False,
    ) -> aiohttp.ClientResponse:
        """Sends one request, exactly once, and gives the answer's head. ``path`` and ``query`` are encoded.

        ``stream``: the answer's body is read at the pace of someone else.

        The caller releases or closes the response. Raises aiohttp's errors, `Broken` and `TimeoutError`.
        """
        url = URL.build(
            scheme=self._origin.scheme,
            authority=self._origin.raw_authority,
            path=path,
            query_string=query,
            encoded=True,
        )
        session = self._streams if stream else self._session
        return await session.request(method, url, headers=headers, data=body, allow_redirects=False)

    def body(self, content: Buffer) -> Body:
        return Body(content, stall=self._read_timeout)

    async def close(self) -> None:
        await self._session.close()
        await self._streams.close()


async def _send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except _NEVER_SENT:
        raise
    except _BREAKS as error:
        # Not one of the errors after which aiohttp would send the request again.
        raise Broken(str(error) or type(error).__name__) from error


def never_sent(error: BaseException) -> bool:
    """Whether a request that failed so cannot have reached the store."""
    return isinstance(error, _NEVER_SENT)


def tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """What certificates are checked by. Reads files: call it in a thread. Raises `ValueError` for a bad bundle."""
    try:
        return ssl.create_default_context(cafile=ca_bundle)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"ca_bundle {ca_bundle!r} cannot be used: {error}") from error


def proxy_for(url: URL) -> str | None:
    """The proxy of the environment (``HTTPS_PROXY``, ``HTTP_PROXY``, ``NO_PROXY``) for this host.

    aiohttp could find it too (``trust_env``), but would also read .netrc and overwrite the signature with it.
    """
    if url.host is None or urllib.request.proxy_bypass(url.host):
        return None
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy is None or urlsplit(proxy).scheme not in ("http", "https"):
        return None
    return proxy
