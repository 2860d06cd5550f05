"""A reverse proxy that hands one request after the other to its backends in turn.

With two server processes behind it, every request of a push (the next PATCH of an upload included)
reaches another process than the one before: what a load balancer without sticky sessions does, at its worst.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from tests.support.ports import free_port

HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""RFC 9110, section 7.6.1: they speak of one connection, and this proxy has two."""


@dataclass
class RoundRobin:
    """The proxy's address, and how many requests each backend (``host:port``) has got."""

    port: int
    requests: Counter[str] = field(default_factory=Counter)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"


def end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP)


class Forwarder:
    def __init__(self, backends: Sequence[str], state: RoundRobin, session: aiohttp.ClientSession) -> None:
        self._turn = itertools.cycle(backends)
        self._state = state
        self._session = session

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request: bodies stream both ways, Host is kept, redirects are the client's business."""
        backend = next(self._turn)
        self._state.requests[backend] += 1
        headers = end_to_end(request.headers)
        headers.pop("Expect", None)  # this side has answered it
        response: web.StreamResponse | None = None
        try:
            async with self._session.request(
                request.method,
                f"http://{backend}{request.raw_path}",
                headers=headers,
                data=self._body(request) if request.can_read_body else None,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            ) as answer:
                response = web.StreamResponse(
                    status=answer.status, reason=answer.reason, headers=end_to_end(answer.headers)
                )
                await response.prepare(request)
                if request.method != "HEAD":
                    async for piece in answer.content.iter_any():
                        await response.write(piece)
                await response.write_eof()
                return response
        except aiohttp.ClientError as error:
            if response is None:
                return web.Response(status=502, text=f"{backend}: {error}")
            # The answer has begun and cannot be finished: the client must see that it is cut off.
            if request.transport is not None:
                request.transport.abort()
            return response

    async def _body(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        async for piece in request.content.iter_any():
            yield piece


async def serve(backends: Sequence[str], state: RoundRobin, started: threading.Event, ended: asyncio.Event) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        forwarder = Forwarder(backends, state, session)
        runner = web.ServerRunner(web.Server(forwarder.handle, access_log=None), shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", state.port).start()
        started.set()
        await ended.wait()
        await runner.cleanup()


@contextmanager
def round_robin(*backends: str) -> Iterator[RoundRobin]:
    """A proxy before these ``host:port`` backends, in a thread of its own."""
    state = RoundRobin(free_port())
    started = threading.Event()
    ended = asyncio.Event()
    loop = asyncio.new_event_loop()

    def main() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve(backends, state, started, ended))

    thread = threading.Thread(target=main, name="round-robin", daemon=True)
    thread.start()
    try:
        assert started.wait(10), "the proxy did not start"
        yield state
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
