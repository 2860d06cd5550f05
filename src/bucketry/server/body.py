"""The body of a request as it arrives, cut off where the client goes away or falls silent, or the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

from starlette.types import Receive

from bucketry.registry import BodyInterrupted


class ClientGone(BodyInterrupted):
    """The client closed the connection."""


class ClientSilent(BodyInterrupted):
    """No byte came for as long as the limit allows."""


class ServerStopping(BodyInterrupted):
    """The server ends and can wait no longer."""


class Drain:
    """The bodies that are being read, so that a server that stops can cut them off: what they brought is kept."""

    def __init__(self) -> None:
        self._bodies: set[RequestBody] = set()
        self.stopping = False
        """The server was told to stop."""
        self.cut = False
        """The grace is over: no body is waited for any more."""

    def enter(self, body: RequestBody) -> None:
        self._bodies.add(body)

    def leave(self, body: RequestBody) -> None:
        self._bodies.discard(body)

    def cut_off(self) -> None:
        self.cut = True
        for body in tuple(self._bodies):
            body.wake()


class RequestBody:
    """An async iterator over the pieces of a body; ``received`` counts its bytes."""

    HTTP_DISCONNECT: ClassVar[str] = "http.disconnect"

    def __init__(self, receive: Receive, drain: Drain, *, idle: float) -> None:
        self._receive = receive
        self._drain = drain
        self._idle = idle
        self._waiting: asyncio.Timeout | None = None
        self._ended = False
        self.received = 0

    def wake(self) -> None:
        """Ends the wait for the next piece."""
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._drain.enter(self)
        try:
            while not self._ended:
                if self._drain.cut:
                    raise ServerStopping("the server is stopping")
                try:
                    async with asyncio.timeout(self._idle) as self._waiting:
                        message = await self._receive()
                except TimeoutError:
                    self._ended = True
                    if self._drain.cut:
                        raise ServerStopping("the server is stopping") from None
                    raise ClientSilent(f"no byte of the request's body came for {self._idle:g} seconds") from None
                finally:
                    self._waiting = None
                if message["type"] == self.HTTP_DISCONNECT:
                    raise ClientGone("the client closed the connection in the middle of the body")
                self._ended = not message.get("more_body", False)
                piece: bytes = message.get("body", b"")
                if piece:
                    self.received += len(piece)
                    yield piece
        finally:
            self._drain.leave(self)

    async def discard(self, limit: int) -> None:
        """Takes the rest in, up to ``limit`` bytes of it, so that a client that is still sending reads its answer.

        A connection that is closed on it may be reset before it does.
        """
        most = self.received + limit
        try:
            async for _ in self:
                if self.received > most:
                    return
        except BodyInterrupted:
            return

    async def whole(self, limit: int) -> bytes | None:
        """All of it, or None where it has more than ``limit`` bytes; no more than that is kept in memory."""
        pieces: list[bytes] = []
        async for piece in self:
            if self.received > limit:
                return None
            pieces.append(piece)
        return b"".join(pieces)
