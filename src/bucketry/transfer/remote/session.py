"""Connections to registries and buckets: one pool for a process, TLS, proxies, and no surprises.

aiohttp is set up so that it follows no redirect, keeps no cookie, reads no netrc, decompresses nothing, and adds no
header by itself. Whoever sends decides what goes with a request; credentials are `endpoint`'s alone.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

from bucketry import __version__
from bucketry.transfer.contract import Buffer
from bucketry.transfer.errors import Misconfigured
from bucketry.transfer.remote.address import authority_of, is_loopback, registry_origin
from bucketry.transfer.remote.answer import Answer, translated
from bucketry.transfer.remote.credentials import CredentialSource
from bucketry.transfer.remote.endpoint import Endpoint
from bucketry.transfer.remote.payload import Stream, Whole

CERTIFICATES: Final = (
    Path("~/.config/containers/certs.d"),
    Path("/etc/docker/certs.d"),
    Path("/etc/containers/certs.d"),
)
"""Folders with one folder a host: ``*.crt`` are CAs to trust, ``NAME.cert`` and ``NAME.key`` a client certificate."""

_USER_AGENT: Final = f"bucketry/{__version__}"
_MAX_HEADER: Final = 32 * 1024
_READ_BUFFER: Final = 256 * 1024


class Session:
    """The connections of a process, and what it knows of each registry. Made anywhere, used in one event loop.

    ``insecure``: plain http to every registry; without it, to this machine's own names and addresses only (unless
    there are certificates for them). ``connections``: at most, to one host; a transfer between two repositories of one
    host needs one for each end of each piece. ``connect_timeout`` in seconds; ``read_timeout``: seconds in which
    nothing comes, or nothing is taken. ``certificates``: as `CERTIFICATES`.
    """

    def __init__(
        self,
        credentials: CredentialSource,
        *,
        insecure: bool = False,
        connections: int = 128,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        certificates: Sequence[Path] = CERTIFICATES,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._credentials = credentials
        self._insecure = insecure
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=connect_timeout, sock_read=read_timeout
        )
        self._stall = read_timeout
        self._certificates = tuple(Path(os.path.expanduser(folder)) for folder in certificates)
        self._endpoints: dict[str, Endpoint] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._proxies: dict[tuple[str, str], str | None] = {}
        self._loading = asyncio.Lock()
        self._client: aiohttp.ClientSession | None = None
        self.monotonic = monotonic
        self.clock = clock
        self.sleep = sleep

    def registry(self, host: str, credentials: CredentialSource | None = None) -> Endpoint:
        """The registry ``host`` (host or host:port, as in a reference), the same object each time.

        With ``credentials``, one of its own, which uses those and no others.
        """
        if credentials is not None:
            return Endpoint(self, host, self._origin(host), credentials)
        endpoint = self._endpoints.get(host)
        if endpoint is None:
            endpoint = self._endpoints[host] = Endpoint(self, host, self._origin(host), self._credentials)
        return endpoint

    def site(self, host: str, *, plain: bool, root: str) -> Endpoint:
        """A published site at ``host``, below the path ``root`` (empty, or ``/…``); ``plain``: over http.

        Raises `Misconfigured` for plain http to another machine, without ``insecure``.
        """
        origin = registry_origin(host, plain=plain)
        if plain and not self._insecure and not is_loopback(origin.host or ""):
            raise Misconfigured(f"http://{host} is read without TLS: write https://{host}, or allow it with --insecure")
        return Endpoint(self, host, origin, self._credentials, root=root)

    async def send(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str] | None = None,
        body: Buffer | Stream | None = None,
    ) -> Answer:
        """Sends one request, with these headers only, and gives the answer's head, whatever its status is.

        Raises `Unreachable`, `Refused`, `Misconfigured`; of a `Stream` what its source raised.
        """
        context = await self._context(url) if url.scheme == "https" else None
        client = self._opened()
        data = body if body is None or isinstance(body, Stream) else Whole(body, stall=self._stall)
        try:
            with translated(authority_of(url)):
                response = await client.request(
                    method,
                    url,
                    headers={"User-Agent": _USER_AGENT, **(headers or {})},
                    data=data,
                    allow_redirects=False,
                    proxy=self._proxy(url),
                    ssl=context if context is not None else True,
                )
        except Exception:
            if isinstance(body, Stream) and body.failure is not None:
                raise body.failure from None
            raise
        return Answer(response, at=self.clock())

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    def stream(self, pieces: AsyncIterator[bytes], size: int) -> Stream:
        return Stream(pieces, size, stall=self._stall)

    def _opened(self) -> aiohttp.ClientSession:
        if self._client is None:
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=self._connections),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=_READ_BUFFER,
                max_line_size=_MAX_HEADER,
                max_field_size=_MAX_HEADER,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                timeout=self._timeout,
            )
        return self._client

    def _origin(self, host: str) -> URL:
        secure = registry_origin(host, plain=False)
        plain = self._insecure or (is_loopback(secure.host or "") and self._folder(host) is None)
        return registry_origin(host, plain=True) if plain else secure

    def _folder(self, authority: str) -> Path | None:
        return next((folder / authority for folder in self._certificates if (folder / authority).is_dir()), None)

    async def _context(self, url: URL) -> ssl.SSLContext:
        """What certificates of a host are checked by. Read once, off the loop."""
        authority = authority_of(url)
        async with self._loading:
            if authority not in self._contexts:
                folder = self._folder(authority)
                # Hosts without a folder share one: it takes a while to make.
                name = authority if folder is not None else ""
                if name not in self._contexts:
                    self._contexts[name] = await asyncio.to_thread(_load, folder)
                self._contexts[authority] = self._contexts[name]
            return self._contexts[authority]

    def _proxy(self, url: URL) -> str | None:
        known = (url.scheme, url.host or "")
        if known not in self._proxies:
            self._proxies[known] = _proxy_for(url)
        return self._proxies[known]


def _load(folder: Path | None) -> ssl.SSLContext:
    """The system's CAs, or those of SSL_CERT_FILE, and those of a host's folder. Raises `Misconfigured`."""
    context = ssl.create_default_context()
    named = os.environ.get(ssl.get_default_verify_paths().openssl_cafile_env)
    if named:
        # OpenSSL says nothing where this file is missing or broken, and then trusts nobody.
        _trust(context, Path(named))
    if folder is None:
        return context
    for file in sorted(folder.glob("*.crt")):
        _trust(context, file)
    for file in sorted(folder.glob("*.cert")):
        _show(context, file, file.with_suffix(".key"))
    for key in sorted(folder.glob("*.key")):
        if not key.with_suffix(".cert").exists():
            raise Misconfigured(
                f"{key} is there without {key.with_suffix('.cert').name}, the certificate that it is of"
            )
    return context


def _show(context: ssl.SSLContext, file: Path, key: Path) -> None:
    """A client certificate. Raises `Misconfigured`."""

    def ask() -> str:
        # OpenSSL would ask at the terminal, beside what is shown there, and in the middle of a job of CI.
        raise Misconfigured(f"{key} is encrypted: put a key there that is not, and that only you may read")

    try:
        if sys.platform != "win32" and key.stat().st_mode & stat.S_IROTH:
            raise Misconfigured(f"{key} can be read by everybody on this machine: chmod 600 {key}")
        context.load_cert_chain(file, key, ask)
    except FileNotFoundError as error:
        missing = file if error.filename is None and not file.exists() else key
        raise Misconfigured(f"{missing} is not there: a client certificate is {file.name} and {key.name}") from None
    except PermissionError:
        raise Misconfigured(f"{file} or {key.name} cannot be read by you: Permission denied") from None
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"{file} and {key.name} are no client certificate: {error.strerror or error}") from None


def _trust(context: ssl.SSLContext, file: Path) -> None:
    try:
        context.load_verify_locations(file)
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"{file} holds no certificates to trust: {error.strerror or error}") from None


def _proxy_for(url: URL) -> str | None:
    """The proxy of the environment (``HTTPS_PROXY``, ``HTTP_PROXY``, ``NO_PROXY``) for an address.

    None for this machine's own names and addresses, which a proxy would take for its own. aiohttp could find it too
    (``trust_env``), but would also read .netrc, and send what is there.
    """
    host = url.host or ""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(url.scheme)
    return proxy if proxy is not None and proxy.startswith(("http://", "https://")) else None
