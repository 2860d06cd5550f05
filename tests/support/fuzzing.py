"""A fast HTTP/1.1 client for requests that are wrong: raw sockets, many at once, and every answer is looked at.

Requests go out in the order in which they are made, over a few connections in turn: while the server works on one, the
next is made. A request whose framing may be broken has a connection to itself. One thread does it all, so a seed makes
the same requests again, as far as the answers are the same.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CONNECTIONS: Final = 8
LONE: Final = 24
"""Requests with a connection of their own that are under way at once."""
PATIENCE: Final = 20.0
"""Seconds that an answer may take: whatever is asked for is done in a fraction of one."""
HALF_OPEN: Final = 0.05
"""Seconds until a client with nothing more to say closes its half of a connection of its own."""

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_CLOSES: Final = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
_STATUS: Final = re.compile(rb"(?:^|\n|\})HTTP/1\.[01] ([0-9]{3}) ")


@dataclass(slots=True)
class Reply:
    """``status`` 0: none came. ``head``: with the status line, and the line feed of its last header."""

    status: int
    head: bytes = b""
    body: bytes = b""

    def header(self, name: bytes) -> str | None:
        """The value of the first header of that name, which is given in lower case."""
        for line in self.head.split(b"\r\n"):
            found, colon, value = line.partition(b":")
            if colon and found.lower() == name:
                return value.strip().decode("latin-1")
        return None


@dataclass(slots=True)
class Shot:
    """A request. ``kind``: what was done to it, or ``valid``. ``name``: what it asks for. ``lone``: its framing may be
    broken. ``good``: the statuses of a success. ``then`` is given the answer. ``rude``: closed without a word."""

    raw: bytes
    kind: str
    name: str
    method: str = "GET"
    lone: bool = False
    good: tuple[int, ...] = ()
    then: Callable[[Reply], None] | None = None
    rude: bool = False


@dataclass
class Tally:
    """What came of all requests."""

    look: Callable[[Shot, Reply], str | None]
    """What is wrong with an answer, in words."""
    sent: int = 0
    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    """By kind."""
    valid: dict[str, Counter[int]] = field(default_factory=dict)
    """The same of good requests by name."""
    successes: Counter[str] = field(default_factory=Counter)
    """Of good requests by name."""
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def take(self, shot: Shot, reply: Reply, seconds: float) -> None:
        self.sent += 1
        self.slowest = max(self.slowest, seconds)
        self.statuses.setdefault(shot.kind, Counter())[reply.status] += 1
        if shot.kind == "valid":
            self.valid.setdefault(shot.name, Counter())[reply.status] += 1
            self.successes[shot.name] += reply.status in shot.good
        wrong = self.look(shot, reply)
        if wrong is not None:
            self.fault(shot, wrong)
        if shot.then is not None and reply.status in shot.good:
            shot.then(reply)

    def fault(self, shot: Shot, what: str) -> None:
        shown = (
            repr(shot.raw) if len(shot.raw) <= 6000 else f"{shot.raw[:5000]!r} and {len(shot.raw) - 5000} bytes more"
        )
        self.faults.append(f"request {self.sent} ({shot.kind}, {shot.name}): {what}\n    {shown}")

    def classes(self, kind: str) -> dict[str, int]:
        """How many answers of a kind were 2xx, 4xx and so on; ``0xx``: closed without any."""
        found: Counter[str] = Counter()
        for status, count in self.statuses.get(kind, Counter()).items():
            found[f"{status // 100}xx"] += count
        return dict(sorted(found.items()))

    def total(self) -> dict[int, int]:
        total: Counter[int] = Counter()
        for counts in self.statuses.values():
            total.update(counts)
        return dict(sorted(total.items()))


class _Closed(Exception):
    """``clean``: before a byte of an answer."""

    def __init__(self, *, clean: bool) -> None:
        super().__init__()
        self.clean = clean


class _Line:
    """A connection that is used again and again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._buffer = bytearray()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._buffer.clear()

    def send(self, raw: bytes) -> None:
        if self._socket is None:
            self._socket = _connected(self._port)
        # A server that has answered already may have closed: what it said is still to be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(raw)

    def reply(self, method: str) -> Reply:
        """Raises `_Closed`, `TimeoutError`."""
        while True:
            end = self._until(b"\r\n\r\n")
            head = bytes(self._buffer[: end + 2])
            del self._buffer[: end + 4]
            status = int(head[9:12])
            if status >= 200:
                break
        body = self._body(method, status, head)
        if _CLOSES.search(head):
            self.close()
        return Reply(status, head, body)

    def _body(self, method: str, status: int, head: bytes) -> bytes:
        if method == "HEAD" or status in (204, 304):
            return b""
        length = _LENGTH.search(head)
        if length is not None:
            return self._take(int(length[1]))
        pieces = []
        if _CHUNKED.search(head):
            while size := int(self._take(self._until(b"\r\n") + 2), 16):
                pieces.append(self._take(size))
                self._take(2)
            self._take(2)
            return b"".join(pieces)
        with suppress(_Closed):
            while True:
                self._more()
        return self._take(len(self._buffer))

    def _until(self, mark: bytes) -> int:
        while (end := self._buffer.find(mark)) < 0:
            self._more()
        return end

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _more(self) -> None:
        assert self._socket is not None
        try:
            piece = self._socket.recv(1 << 18)
        except ConnectionError:
            piece = b""
        if not piece:
            clean = not self._buffer
            self._socket.close()
            self._socket = None
            raise _Closed(clean=clean)
        self._buffer += piece


@dataclass(slots=True)
class _Lone:
    """A request on a connection of its own."""

    shot: Shot
    socket: socket.socket
    left: memoryview
    began: float
    received: bytearray = field(default_factory=bytearray)
    shut: bool = False


class Volley:
    """Sends shots and tells a `Tally` what came of them. ``close`` waits for those that are under way."""

    def __init__(self, port: int, tally: Tally) -> None:
        self._port = port
        self._tally = tally
        self._lines = [_Line(port) for _ in range(CONNECTIONS)]
        self._waiting: deque[tuple[_Line, Shot, float]] = deque()
        self._free = deque(self._lines)
        self._lone: dict[int, _Lone] = {}
        self._poll = select.poll()

    def fire(self, shots: Iterable[Shot]) -> None:
        for number, shot in enumerate(shots):
            if shot.lone:
                while len(self._lone) >= LONE:
                    self._turn(5)
                self._open(shot)
            else:
                if not self._free:
                    self._finish_oldest()
                line = self._free.popleft()
                line.send(shot.raw)
                self._waiting.append((line, shot, time.perf_counter()))
            if self._lone and number % 4 == 0:
                self._turn(0)

    def close(self) -> None:
        while self._waiting:
            self._finish_oldest()
        while self._lone:
            self._turn(20)
        for line in self._lines:
            line.close()

    def _finish_oldest(self) -> None:
        line, shot, began = self._waiting.popleft()
        try:
            try:
                reply = line.reply(shot.method)
            except _Closed as closed:
                if not closed.clean:
                    raise
                # An idle connection may be closed at any time: once more, on a new one.
                line.close()
                line.send(shot.raw)
                reply = line.reply(shot.method)
        except (_Closed, TimeoutError, ValueError) as error:
            line.close()
            reply = Reply(0)
            self._tally.fault(shot, f"there was no whole answer ({error!r})")
        self._free.append(line)
        self._tally.take(shot, reply, time.perf_counter() - began)

    def _open(self, shot: Shot) -> None:
        opened = _connected(self._port)
        opened.setblocking(False)
        lone = _Lone(shot, opened, memoryview(shot.raw), time.perf_counter())
        self._lone[opened.fileno()] = lone
        self._poll.register(opened, select.POLLIN | select.POLLOUT)
        self._push(lone)

    def _push(self, lone: _Lone) -> None:
        try:
            while lone.left:
                lone.left = lone.left[lone.socket.send(lone.left) :]
        except BlockingIOError:
            return
        except ConnectionError:
            lone.left = memoryview(b"")
        if lone.shot.rude:
            self._end(lone)
            return
        self._poll.modify(lone.socket, select.POLLIN)

    def _turn(self, milliseconds: int) -> None:
        for descriptor, event in self._poll.poll(milliseconds):
            lone = self._lone[descriptor]
            if event & select.POLLOUT and lone.left:
                self._push(lone)
            if event & ~select.POLLOUT and descriptor in self._lone:
                self._pull(lone)
        now = time.perf_counter()
        for lone in list(self._lone.values()):
            age = now - lone.began
            if age > PATIENCE:
                self._tally.fault(lone.shot, f"the connection was still open after {PATIENCE:g} seconds")
                self._end(lone)
            elif age > HALF_OPEN and not lone.shut and not lone.left:
                lone.shut = True
                with suppress(OSError):
                    lone.socket.shutdown(socket.SHUT_WR)

    def _pull(self, lone: _Lone) -> None:
        try:
            piece = lone.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except ConnectionError:
            piece = b""
        lone.received += piece
        if not piece:
            self._end(lone)

    def _end(self, lone: _Lone) -> None:
        self._poll.unregister(lone.socket)
        del self._lone[lone.socket.fileno()]
        if lone.shot.rude:
            # A reset, as of a client that died.
            lone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        lone.socket.close()
        received = bytes(lone.received)
        found = [int(status) for status in _STATUS.findall(received)]
        # Several requests may have been read out of one: the worst of what was said to any counts.
        status = max((one for one in found if one >= 200), default=0)
        self._tally.take(lone.shot, Reply(status, received), time.perf_counter() - lone.began)


def _connected(port: int) -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


# The process that is fired at


@dataclass(frozen=True, slots=True)
class Footprint:
    """``memory``: bytes that a process alone has, and its part of what it shares (PSS)."""

    memory: int
    files: int

    def __str__(self) -> str:
        return f"{self.memory / (1 << 20):.1f} MiB, {self.files} open files"


def footprint(pid: int) -> Footprint | None:
    """None where there is no /proc that tells."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return None
    found = re.search(r"^Pss: +([0-9]+) kB$", text, re.MULTILINE)
    return None if found is None else Footprint(int(found[1]) * 1024, files)
