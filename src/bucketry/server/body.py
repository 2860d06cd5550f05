"""The body of a request as it arrives, cut off where the client goes away or falls silent, or the server stops."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import ClassVar

from starlette.types import Message, Receive

from bucketry.registry import BodyInterrupted

LEAST_RATE = 1024
"""Bytes a second that a body brings at the least, on average over the time limit of silence.

One that trickles would hold its memory for as long as its client likes."""


AHEAD = 256 * 1024
"""Bytes that are asked for before they are needed, by the size of the last piece: while one waits for the next, each
costs the server a wake of three threads; asked for together, they come together. A frame of the chunked encoding is
a piece, and docker's have 32 KiB."""

MOST_AHEAD = 8
"""Messages that are asked for at a time, however small the last piece was: each may turn out to be as large as what is
read of a connection at once (256 KiB), and is held outside the budget until its turn."""


class ClientGone(BodyInterrupted):
    """The client closed the connection."""


class ClientSilent(BodyInterrupted):
    """No byte came for as long as the limit allows, or hardly any."""


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
    """An async iterator over the pieces of a body; ``received`` counts its bytes.

    Where ``receive`` gives futures, several messages are asked for at a time. They must then come in the order in which
    they were asked for, as granian's do where its runtime has one thread (`bucketry.server.run`).
    """

    HTTP_DISCONNECT: ClassVar[str] = "http.disconnect"

    def __init__(self, receive: Receive, drain: Drain, *, idle: float) -> None:
        self._receive = receive
        self._drain = drain
        self._idle = idle
        self._waiting_since: float | None = None
        self._waiter: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False
        self._ahead: deque[asyncio.Future[Message]] = deque()
        """Messages that were asked for, the next one first."""
        self._depth = 0
        """How many to ask for ahead: none until the first piece tells how large they are."""
        self._ended = False
        self._waited = 0.0
        """Seconds, since ``received`` was `_seen`."""
        self._seen = 0
        self.received = 0

    def wake(self) -> None:
        """Ends the wait for the next piece."""
        if self._waiting_since is not None and self._waiter is not None and not self._woken:
            self._woken = True
            self._waiter.cancel()

    def _look(self) -> None:
        """Ends a wait that is over its time. One timer a body, not one a message: a gigabyte has thousands of them."""
        loop = asyncio.get_running_loop()
        since = self._waiting_since
        if since is not None and loop.time() - since >= self._idle:
            self.wake()
            return
        self._timer = loop.call_at((loop.time() if since is None else since) + self._idle, self._look)

    def __aiter__(self) -> RequestBody:
        if not self._ended:
            self._drain.enter(self)
        return self

    async def __anext__(self) -> bytes:
        while not self._ended:
            message = await self._message()
            if message["type"] == self.HTTP_DISCONNECT:
                self._end()
                raise ClientGone("the body broke off, or its chunks are malformed")
            piece: bytes = message.get("body", b"")
            if not message.get("more_body", False):
                self._end()
            elif piece:
                self._depth = min(AHEAD // len(piece), MOST_AHEAD)
            if piece:
                self.received += len(piece)
                return piece
        raise StopAsyncIteration

    def _end(self) -> None:
        self._ended = True
        self.close()

    def close(self) -> None:
        """Nobody waits for the body any more."""
        self._drain.leave(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._ahead:
            self._ahead.popleft().cancel()

    def _next(self) -> Awaitable[Message]:
        """What gives the next message; those after it are asked for, too, where the server can be asked ahead."""
        coming = self._ahead.popleft() if self._ahead else self._receive()
        if asyncio.isfuture(coming):
            while len(self._ahead) < self._depth:
                later = self._receive()
                if not asyncio.isfuture(later):
                    break  # The client is gone, which it says each time it is asked.
                self._ahead.append(later)
        return coming

    async def _message(self) -> Message:
        """The next message. Raises `ClientSilent`, `ServerStopping`."""
        if self._drain.cut:
            self._end()
            raise ServerStopping("the server is stopping")
        coming = self._next()
        if asyncio.isfuture(coming) and coming.done():
            message: Message = coming.result()
            return message
        loop = asyncio.get_running_loop()
        self._waiter, self._waiting_since = asyncio.current_task(), loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._idle, self._look)
        try:
            message = await coming
        except asyncio.CancelledError:
            if not self._woken or self._waiter is None:
                raise
            self._waiter.uncancel()
            self._end()
            if self._drain.cut:
                raise ServerStopping("the server is stopping") from None
            raise ClientSilent(f"no byte of the request's body came for {self._idle:g} seconds") from None
        finally:
            began, self._waiting_since = self._waiting_since, None
        # Only the waits count: what a slow store costs is not the client's fault.
        self._waited += loop.time() - began
        if self._waited > self._idle:
            if self.received - self._seen < LEAST_RATE * self._waited and message.get("more_body", False):
                self._end()
                raise ClientSilent(f"the request's body came with less than {LEAST_RATE} bytes a second")
            self._waited, self._seen = 0.0, self.received
        return message

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
