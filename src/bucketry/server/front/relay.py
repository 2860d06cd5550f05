"""One connection of a client: its TLS on one side, the plain bytes to a worker on the other.

Whatever one side does not take is kept, and nothing more is read from the other side until it has: so each connection
keeps at most a read's worth each way. All is done in callbacks of the event loop, which never wait.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, cast

from bucketry.server.front.frames import PREFACE, Http2, goaway

READ: Final = 64 * 1024
"""Bytes at once."""
_PIECE: Final = 16 * 1024
"""Bytes that OpenSSL gets at once: its buffers never shrink, and an idle connection that once was busy keeps them."""
HANDSHAKE: Final = 10.0
"""Seconds in which a client agrees on TLS."""
_SLOWEST: Final = 8 * 1024
"""Bytes a second at which a client takes what is there for it: a byte now and then would hold a connection for days."""
_LINGER: Final = 2.0
"""Seconds, and bytes, that a client may go on sending after it was sent the answer that ends its connection."""
_LINGER_BYTES: Final = 16 * 1024 * 1024
_MOST_KEPT: Final = 2 * READ
"""Bytes for a client that takes none: above, nothing is read of what it sends, which could make more of them."""
_RETRY: Final = 0.02
_RARELY: Final = 1.0
"""Seconds until a worker is asked again that could not take a connection: each time twice as many, up to so many."""
_PLAIN: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This port speaks HTTPS: begin the address with https://\n"
)
_TOLD: Final = 3
"""Bytes that tell the preface of HTTP/2 from every request of HTTP/1.1: there is no method that begins with PRI."""


class Loop(Protocol):
    """What a relay asks of an event loop."""

    def time(self) -> float: ...
    def add_reader(self, fd: int, callback: Callable[[], object]) -> object: ...
    def remove_reader(self, fd: int) -> object: ...
    def add_writer(self, fd: int, callback: Callable[[], object]) -> object: ...
    def remove_writer(self, fd: int) -> object: ...
    def call_later(self, delay: float, callback: Callable[[], object]) -> object: ...


class Host(Protocol):
    """What a relay asks of the front that it belongs to."""

    def refused(self, relay: Relay, error: ssl.SSLError) -> None:
        """A client that there is no agreement on TLS with."""

    def agreed(self, relay: Relay) -> None:
        """There is TLS with this client."""

    def connect(self, relay: Relay, certificate: bytes | None) -> socket.socket | None:
        """A connection to a worker, or None where it cannot be made now; the client's certificate, in DER."""

    def ended(self, relay: Relay) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. ``head``: for the head of a request, and that a connection may be idle; ``stuck``: for a client that
    takes nothing of what it is sent."""

    head: float
    stuck: float


class Buffers:
    """What all connections of a process read into: nothing stays in it from one callback to the next."""

    def __init__(self) -> None:
        self.read = memoryview(bytearray(READ))
        self.plain = memoryview(bytearray(2 * READ))


class State(enum.Enum):
    AGREEING = "agreeing on TLS"
    FIRST = "waiting for the client's first bytes"
    OPEN = "open"
    ENDING = "the worker ended it: what is left goes to the client"
    LINGERING = "what the client still sends is dropped"
    ENDED = "ended"


class Relay:
    def __init__(
        self,
        client: socket.socket,
        address: tuple[str, int],
        context: ssl.SSLContext,
        *,
        loop: Loop,
        host: Host,
        limits: Limits,
        buffers: Buffers,
    ) -> None:
        """``client``: does not block, and is the relay's from now on."""
        self.address = address
        self.certificate: str | None = None
        """The host's own note of the one that the client showed."""
        self._client = client
        self._worker: socket.socket | None = None
        self._loop = loop
        self._host = host
        self._limits = limits
        self._buffers = buffers
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._state = State.AGREEING
        self._since = loop.time()
        """When the state began; in an open connection of HTTP/2, when a request was open last."""
        self._to_client = b""
        self._to_worker = b""
        self._client_done = False
        """It sends nothing more."""
        self._worker_deaf = False
        """It takes nothing more; what it said before may still be there to be read."""
        self._http2: Http2 | None = None
        self._requests = 0
        """Those over HTTP/2, at the last look."""
        self._stuck_since: float | None = None
        """When the client last took something, while there is more for it."""
        self._behind_since = self._since
        """When it was last seen to have taken all, and the bytes that it took since."""
        self._taken = 0
        self._retry = _RETRY
        self._dropped = 0
        self._watched: dict[tuple[int, bool], Callable[[], object]] = {}
        self._watch()

    @property
    def state(self) -> State:
        return self._state

    @property
    def connected(self) -> bool:
        """Whether there is a connection to a worker."""
        return self._worker is not None

    def look(self) -> None:
        """Ends what has lasted too long. To be called about once a second."""
        now = self._loop.time()
        waited = now - self._since
        if self._stuck_since is None:
            self._behind_since, self._taken = now, 0
        elif (
            now - self._stuck_since > self._limits.stuck
            or now - self._behind_since > self._limits.stuck + self._taken / _SLOWEST
        ):
            self.end()
            return
        match self._state:
            case State.AGREEING if waited > HANDSHAKE:
                self.end()
            case State.FIRST if waited > self._limits.head:
                self.end()
            case State.LINGERING if waited > _LINGER:
                self.end()
            case State.OPEN if self._http2 is not None:
                self._look_at_requests(self._http2, now)

    def stop(self) -> None:
        """The server stops: a client that has sent nothing yet is not waited for."""
        if self._state in (State.AGREEING, State.FIRST):
            self.end()

    def end(self) -> None:
        """At once, whatever is under way."""
        if self._state is State.ENDED:
            return
        self._state = State.ENDED
        self._watch()
        self._client.close()
        if self._worker is not None:
            self._worker.close()
        self._host.ended(self)

    # From the client

    def _client_readable(self) -> None:
        try:
            size = self._client.recv_into(self._buffers.read)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.end()
            return
        if self._state is State.LINGERING:
            self._dropped += size
            if size == 0 or self._dropped > _LINGER_BYTES:
                self.end()
        elif self._state is State.ENDING or self._worker_deaf:
            if size == 0:
                self._client_done = True
                self._watch()
        elif size == 0:
            self._client_ended()
        else:
            self._decrypt(self._buffers.read[:size])

    def _agree(self) -> bool | None:
        """Whether there is TLS now; None where there will be none."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return None if self._state is State.ENDED else False
        except ssl.SSLError as error:
            self._host.refused(self, error)
            self._say_last(_PLAIN if error.reason == "HTTP_REQUEST" else self._out.read())
            return None
        self._enter(State.FIRST)
        self._host.agreed(self)
        if self._tls.selected_alpn_protocol() == "h2":
            self._http2 = Http2()
        return True

    def _decrypt(self, data: memoryview) -> None:
        plain, size, ended = self._buffers.plain, 0, False
        for at in range(0, len(data), _PIECE):
            self._in.write(data[at : at + _PIECE])
            if self._state is State.AGREEING and (agreed := self._agree()) is not True:
                if agreed is None:
                    return
                continue
            try:
                while not ended:
                    taken = cast(int, self._tls.read(READ, plain[size:]))  # With a buffer it is a number of bytes.
                    size += taken
                    ended = taken == 0
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                ended = True
            except ssl.SSLError:
                # OpenSSL has written why.
                self._say_last(self._out.read())
                return
            if ended:
                break
        self._flush()
        if size and self._state is not State.ENDED:
            self._forward(plain[:size])
        if ended and self._state is not State.ENDED:
            self._client_ended()

    def _forward(self, data: memoryview) -> None:
        if self._http2 is not None:
            self._http2.from_client(data)
            if self._http2.excessive:
                self.end()
                return
        if self._state is State.FIRST:
            self._to_worker += bytes(data)
            self._begin()
            return
        assert self._worker is not None
        try:
            sent = self._worker.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._no_more_to_worker()
            return
        if sent < len(data):
            self._to_worker = bytes(data[sent:])
            self._watch()

    def _begin(self) -> None:
        """Has the first bytes of the client taken to a worker, once they are no riddle to it."""
        if self._state is not State.FIRST:
            return
        # The HTTP server tells the version by these few, for which it has no limit of time: it must be the agreed one.
        if not self._told:
            return
        begin = PREFACE if self._http2 is not None else PREFACE[:_TOLD]
        if self._to_worker.startswith(begin) is (self._http2 is None):
            self.end()
            return
        self._worker = self._host.connect(self, self._tls.getpeercert(binary_form=True))
        if self._worker is None:
            self._watch()
            self._loop.call_later(self._retry, self._begin)
            self._retry = min(2 * self._retry, _RARELY)
            return
        self._enter(State.OPEN)
        self._worker_writable()

    def _client_ended(self) -> None:
        self._client_done = True
        if self._worker is None:
            if self._told:
                # It has said all it has to say, and no worker could take it yet.
                self._watch()
            else:
                self.end()
            return
        if not self._to_worker:
            self._shut_worker()
        self._watch()

    # To the worker

    def _worker_writable(self) -> None:
        assert self._worker is not None
        try:
            self._to_worker = self._to_worker[self._worker.send(self._to_worker) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._no_more_to_worker()
            return
        if not self._to_worker and self._client_done:
            self._shut_worker()
        self._watch()

    def _no_more_to_worker(self) -> None:
        self._to_worker, self._worker_deaf = b"", True
        self._watch()

    def _shut_worker(self) -> None:
        assert self._worker is not None
        with contextlib.suppress(OSError):
            self._worker.shutdown(socket.SHUT_WR)

    # From the worker

    def _worker_readable(self) -> None:
        assert self._worker is not None
        try:
            size = self._worker.recv_into(self._buffers.read)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            size = 0
        if size == 0:
            self._say_last(self._farewell())
            return
        data = self._buffers.read[:size]
        if self._http2 is not None:
            self._http2.from_server(data)
        if self._encrypt(data):
            self._flush()

    def _encrypt(self, data: memoryview | bytes) -> bool:
        sealed = [self._to_client]
        try:
            while len(data):
                data = data[self._tls.write(data[:_PIECE]) :]
                sealed.append(self._out.read())
        except ssl.SSLError:
            self.end()
            return False
        self._to_client = b"".join(sealed)
        return True

    # To the client

    def _flush(self) -> None:
        """Sends what there is for the client, as far as it takes it."""
        if self._out.pending:
            self._to_client += self._out.read()
        if self._to_client:
            self._client_writable()

    def _client_writable(self) -> None:
        try:
            sent = self._client.send(self._to_client)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.end()
            return
        self._to_client = self._to_client[sent:]
        self._taken += sent
        if not self._to_client:
            self._stuck_since = None
        elif sent or self._stuck_since is None:
            self._stuck_since = self._loop.time()
        if self._state is State.ENDING and not self._to_client:
            self._linger()
        else:
            self._watch()

    # The end

    def _look_at_requests(self, http2: Http2, now: float) -> None:
        if http2.still(now) > self._limits.stuck:
            self._go_away(http2)
        elif http2.requests != self._requests or (http2.open and not http2.heading):
            self._requests, self._since = http2.requests, now
        elif now - self._since > self._limits.head * (2 if http2.heading else 1):
            self._go_away(http2)

    def _go_away(self, http2: Http2) -> None:
        if not http2.at_rest or http2.said_goaway or self._encrypt(goaway(http2.last)):
            self._say_last(self._farewell())

    def _farewell(self) -> bytes:
        """TLS's own last word."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        return self._out.read()

    def _say_last(self, data: bytes) -> None:
        """What else the client is told; all that it sends from now on is dropped."""
        self._to_client += data
        self._to_worker = b""
        self._enter(State.ENDING)
        if self._worker is not None:
            self._watch()
            self._worker.close()
            self._worker = None
        if self._to_client:
            self._client_writable()
        else:
            self._linger()

    def _linger(self) -> None:
        """What the client has not read yet would be lost if its connection were closed while it still sends."""
        if self._client_done:
            self.end()
            return
        try:
            self._client.shutdown(socket.SHUT_WR)
        except OSError:
            self.end()
            return
        self._enter(State.LINGERING)

    def _enter(self, state: State) -> None:
        self._state = state
        self._since = self._loop.time()
        self._watch()

    def _watch(self) -> None:
        """Tells the event loop what is waited for now."""
        wanted: dict[tuple[int, bool], Callable[[], object]] = {}
        if self._state is not State.ENDED:
            client = self._client.fileno()
            if not self._client_done and not self._to_worker_waits and len(self._to_client) <= _MOST_KEPT:
                wanted[client, False] = self._client_readable
            if self._to_client:
                wanted[client, True] = self._client_writable
            if self._worker is not None and self._state is State.OPEN:
                worker = self._worker.fileno()
                if not self._to_client:
                    wanted[worker, False] = self._worker_readable
                if self._to_worker:
                    wanted[worker, True] = self._worker_writable
        if wanted.keys() == self._watched.keys():
            return
        for descriptor, writing in self._watched.keys() - wanted.keys():
            (self._loop.remove_writer if writing else self._loop.remove_reader)(descriptor)
        for (descriptor, writing), callback in wanted.items():
            if (descriptor, writing) not in self._watched:
                (self._loop.add_writer if writing else self._loop.add_reader)(descriptor, callback)
        self._watched = wanted

    @property
    def _to_worker_waits(self) -> bool:
        """Whether there is something for the worker that more must not be put behind."""
        return self._told if self._state is State.FIRST else bool(self._to_worker)

    @property
    def _told(self) -> bool:
        """Whether the client's first bytes, which are kept, tell the version of HTTP."""
        return len(self._to_worker) >= (_TOLD if self._http2 is None else len(PREFACE))
