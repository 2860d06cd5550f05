"""A relay with both its ends in a test's hands: a client that speaks TLS, and a worker that takes what it likes.

Everything happens in one thread, step by step: nothing waits for anything, and time passes only where a test says so.
"""

from __future__ import annotations

import heapq
import itertools
import select
import socket
import ssl
from collections.abc import Callable

from bucketry.server.front.relay import Buffers, Limits, Relay, State

HEAD, STUCK = 30.0, 60.0


class FakeLoop:
    """Descriptors are real, time is not."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.readers: dict[int, Callable[[], object]] = {}
        self.writers: dict[int, Callable[[], object]] = {}
        self.later: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.now

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def add_writer(self, fd: int, callback: Callable[[], object]) -> None:
        self.writers[fd] = callback

    def remove_writer(self, fd: int) -> None:
        del self.writers[fd]

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        heapq.heappush(self.later, (self.now + delay, next(self._order), callback))

    def turn(self) -> bool:
        """Calls back for what is ready; whether anything was."""
        called = False
        while self.later and self.later[0][0] <= self.now:
            heapq.heappop(self.later)[2]()
            called = True
        readable, writable, _ = select.select(list(self.readers), list(self.writers), [], 0)
        for ready, callbacks in ((readable, self.readers), (writable, self.writers)):
            for fd in ready:
                # What one callback no longer waits for is not called back for.
                callback = callbacks.get(fd)
                if callback is not None:
                    callback()
                    called = True
        return called


class Stage:
    """Also the relay's host. ``kept``: the most that the relay ever kept, both ways."""

    def __init__(
        self,
        server: ssl.SSLContext,
        *,
        sends: int | None = None,
        workers: bool = True,
    ) -> None:
        """``sends``: bytes that the kernel takes on for each side. ``workers``: whether one can be connected to."""
        self.loop = FakeLoop()
        self.refusals: list[ssl.SSLError] = []
        self.ends = self.agreements = self.attempts = 0
        self.there = workers
        self.worker: socket.socket | None = None
        self.shown: bytes | None = None
        self._sends = sends
        self.client, theirs = socket.socketpair()
        self._small(self.client, theirs)
        self.client.setblocking(False)
        theirs.setblocking(False)
        self.buffers = Buffers()
        self.relay = Relay(
            theirs,
            ("192.0.2.1", 4711),
            server,
            loop=self.loop,
            host=self,
            limits=Limits(HEAD, STUCK),
            buffers=self.buffers,
        )
        self.kept = 0

    def _small(self, *sockets: socket.socket) -> None:
        if self._sends is not None:
            for each in sockets:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._sends)

    def close(self) -> None:
        self.relay.end()
        self.client.close()
        if self.worker is not None:
            self.worker.close()
        assert not self.loop.readers
        assert not self.loop.writers
        assert self.ends == 1

    # What relays ask of their host

    def refused(self, relay: Relay, error: ssl.SSLError) -> None:
        self.refusals.append(error)

    def agreed(self, relay: Relay) -> None:
        self.agreements += 1

    def connect(self, relay: Relay, certificate: bytes | None) -> socket.socket | None:
        self.attempts += 1
        self.shown = certificate
        if not self.there:
            return None
        ours, self.worker = socket.socketpair()
        self._small(ours, self.worker)
        ours.setblocking(False)
        self.worker.setblocking(False)
        return ours

    def ended(self, relay: Relay) -> None:
        self.ends += 1

    # What tests do

    def run(self) -> None:
        """Until nothing is left to do but to wait."""
        while self.loop.turn():
            self._note()
        self._note()

    def _note(self) -> None:
        held = len(self.relay._to_client) + len(self.relay._to_worker)
        self.kept = max(self.kept, held + self.relay._in.pending + self.relay._out.pending)

    def pass_time(self, seconds: float, *, look: float = 1.0) -> None:
        """With a look each second, as a front has it."""
        until = self.loop.now + seconds
        while self.loop.now < until:
            self.loop.now = min(until, self.loop.now + look)
            self.run()
            self.relay.look()
            self.run()

    @property
    def state(self) -> State:
        return self.relay.state

    def at(self, state: State) -> bool:
        return self.relay.state is state

    def fill(self, end: socket.socket) -> int:
        """Sends by ``end`` until the kernel takes no more; how many bytes."""
        sent = 0
        while True:
            try:
                sent += end.send(bytes(50_000))
            except BlockingIOError:
                return sent
            self.run()

    @property
    def the_worker(self) -> socket.socket:
        assert self.worker is not None
        return self.worker


def drained(end: socket.socket, most: int = 1 << 20) -> bytes:
    """What there is to be read now."""
    got = bytearray()
    while len(got) < most:
        try:
            piece = end.recv(most - len(got))
        except BlockingIOError:
            break
        if not piece:
            break
        got += piece
    return bytes(got)


def at_end(end: socket.socket) -> bool:
    """Whether the other side ended, and nothing is left to be read."""
    try:
        return end.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


class Client:
    """TLS by hand over the stage's socket: what is not taken is kept here."""

    def __init__(self, stage: Stage, context: ssl.SSLContext) -> None:
        self.stage = stage
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.into, self.out, server_hostname="localhost")
        self.unsent = b""
        self.got = bytearray()
        self.ended = False
        """By TLS's own last word."""

    def agree(self) -> Client:
        for _ in range(50):
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.pump()
            else:
                self.pump()
                return self
        raise AssertionError("no agreement")

    def push(self, most: int = 1 << 30) -> None:
        """Gives the kernel what it takes."""
        self.unsent += self.out.read()
        while self.unsent and most > 0:
            try:
                sent = self.stage.client.send(self.unsent[:most])
            except BlockingIOError:
                return
            self.unsent, most = self.unsent[sent:], most - sent

    def pull(self, most: int = 1 << 20) -> None:
        data = drained(self.stage.client, most)
        if data:
            self.into.write(data)
        while not self.ended:
            try:
                piece = self.tls.read(1 << 16)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLZeroReturnError:
                piece = b""
            self.ended = not piece
            self.got += piece

    def pump(self) -> None:
        self.push()
        self.stage.run()
        data = drained(self.stage.client)
        if data:
            self.into.write(data)

    def say(self, data: bytes) -> None:
        """Sends at once, as far as the kernel takes it."""
        self.tls.write(data)
        self.push()

    def hear(self) -> bytes:
        """All that came so far."""
        self.stage.run()
        self.pull()
        self.stage.run()
        self.pull()
        return bytes(self.got)
