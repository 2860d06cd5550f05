"""Documents of issuers by https: small, soon, and from where the owner said."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

import aiohttp

from bucketry.oci.text import quoted
from bucketry.server.auth.keysets import KeysUnavailable, checked_url

TIMEOUT: Final = 10.0
"""Seconds for one document, all of it."""
_PIECE: Final = 16 * 1024


class HttpsFetch:
    """Follows no redirect, sends no cookie and no credentials, asks for no compression and takes none.

    ``ca``: path of the certificates that are trusted, those of the machine by default; read anew each time, which is
    rarely. ``timeout`` in seconds. Proxies that the environment names are not used. Private addresses are: an issuer
    is pinned by the owner, who may well have it on the same network.
    """

    def __init__(self, ca: str | None = None, *, timeout: float = TIMEOUT) -> None:
        self._ca = ca
        self._timeout = timeout

    async def __call__(self, url: str, *, limit: int) -> bytes:
        """Raises `KeysUnavailable`."""
        try:
            checked_url(url, query=True)
            trusted = await asyncio.to_thread(self._trusted)
            async with self._session(trusted) as session, session.get(url, allow_redirects=False) as response:
                return await self._body(response, url, limit)
        except TimeoutError:
            raise KeysUnavailable(f"{url} did not answer in {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise KeysUnavailable(f"{quoted(url, 300)} cannot be fetched: {type(error).__name__}: {error}") from None

    async def _body(self, response: aiohttp.ClientResponse, url: str, limit: int) -> bytes:
        if response.status != 200:
            raise KeysUnavailable(f"{url} answered {response.status}; only 200 is taken, and no redirect is followed")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise KeysUnavailable(f"{url} answered with a compressed body, which is not taken")
        body = bytearray()
        async for piece in response.content.iter_chunked(_PIECE):
            body += piece
            if len(body) > limit:
                raise KeysUnavailable(f"{url} answered more than {limit} bytes")
        return bytes(body)

    def _trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._ca)

    def _session(self, trusted: ssl.SSLContext) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusted, limit=1, force_close=True),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"accept": "application/json", "accept-encoding": "identity", "user-agent": "bucketry"},
            auto_decompress=False,
            trust_env=False,
        )
