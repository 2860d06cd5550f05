"""What goes on in a connection of HTTP/2, from the heads of its frames alone (RFC 9113, sections 3.4, 4.1 and 6).

Nothing is decoded and nothing refused: that is the server's, to which every byte goes on as it is. Known is only what
tells an idle client, or one that sends the head of a request without ever ending it, from one that is served.
"""

from __future__ import annotations

from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD: Final = 9
"""Bytes before each frame's payload: 3 of its length, type, flags, 4 of the stream."""
MOST_OPEN: Final = 1_000
"""Streams that a client may hold open before it is up to no good: servers allow 200, and clients begin with 100."""

_DATA: Final = 0
_HEADERS: Final = 1
_RST_STREAM: Final = 3
_GOAWAY: Final = 7
_CONTINUATION: Final = 9
_END_STREAM: Final = 1
_END_HEADERS: Final = 4


class _Frames:
    """Splits a stream of frames, however it comes in pieces, and hands on each head once its payload is there."""

    def __init__(self, skip: int) -> None:
        self._head = bytearray()
        self._left = skip
        """Bytes of the payload that are still to come; at first, of what comes before the first frame."""
        self.begun = skip > 0

    @property
    def between(self) -> bool:
        """Whether nothing is under way: the last frame is complete, and the next has not begun."""
        return not self.begun and not self._head

    def feed(self, data: memoryview) -> list[bytes]:
        """The heads of the frames that are complete now, in their order."""
        complete: list[bytes] = []
        at, size = 0, len(data)
        while True:
            if self.begun:
                step = min(self._left, size - at)
                at += step
                self._left -= step
                if self._left:
                    return complete
                self.begun = False
                if self._head:
                    complete.append(bytes(self._head))
                    self._head.clear()
            if at >= size:
                return complete
            step = min(HEAD - len(self._head), size - at)
            self._head += data[at : at + step]
            at += step
            if len(self._head) < HEAD:
                return complete
            self._left = int.from_bytes(self._head[:3], "big")
            self.begun = True


class Http2:
    """One connection. The client's bytes begin with the preface."""

    def __init__(self) -> None:
        self._client = _Frames(len(PREFACE))
        self._server = _Frames(0)
        self._open: set[int] = set()
        self._answers: dict[int, float | None] = {}
        """Streams whose answers are under way, and when each was first seen to stand still; None: it has moved."""
        self._ending: int | None = None
        """The stream whose request head goes on in the next frame (CONTINUATION)."""
        self.last = 0
        """The highest stream that the client began."""
        self.requests = 0
        """Heads of requests that were complete, so far."""
        self.said_goaway = False

    @property
    def open(self) -> int:
        """Requests whose heads are complete, and whose answers are not."""
        return len(self._open)

    @property
    def excessive(self) -> bool:
        """Whether there are more of them than any client needs: nothing is to be fed any more."""
        return len(self._open) > MOST_OPEN

    @property
    def heading(self) -> bool:
        """Whether the head of a request is under way, or, where no request is open, anything at all."""
        return self._ending is not None or not (self._open or self._client.between)

    @property
    def at_rest(self) -> bool:
        """Whether a frame of the front's own may be put behind what the server has sent."""
        return self._server.between

    def from_client(self, data: memoryview) -> None:
        for head in self._client.feed(data):
            if self.excessive:
                return
            kind, flags, stream = _read(head)
            if kind == _HEADERS:
                if stream > self.last:
                    self.last = stream
                    self._ending = stream
                elif self._ending is None and not flags & _END_HEADERS:
                    self._ending = 0  # Trailers: of a stream that is known.
                if flags & _END_HEADERS:
                    self._complete()
            elif kind == _CONTINUATION and flags & _END_HEADERS:
                self._complete()
            elif kind == _RST_STREAM:
                self._end(stream)
            elif kind == _DATA and stream in self._answers:
                self._answers[stream] = None

    def from_server(self, data: memoryview) -> None:
        for head in self._server.feed(data):
            kind, flags, stream = _read(head)
            if kind == _RST_STREAM or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
                self._end(stream)
            elif kind in (_DATA, _HEADERS) and stream in self._open:
                self._answers[stream] = None
            elif kind == _GOAWAY:
                self.said_goaway = True

    def still(self, now: float) -> float:
        """For how long the one of the answers under way has stood still that does so for longest: it is not taken.

        The server may wait for its client's window without end. What it has not begun to answer may take its time.
        """
        for stream, since in self._answers.items():
            if since is None:
                self._answers[stream] = now
        return now - min((since for since in self._answers.values() if since is not None), default=now)

    def _end(self, stream: int) -> None:
        self._open.discard(stream)
        self._answers.pop(stream, None)

    def _complete(self) -> None:
        if self._ending:
            self._open.add(self._ending)
            self.requests += 1
        self._ending = None


def _read(head: bytes) -> tuple[int, int, int]:
    """Type, flags, stream."""
    return head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF


def goaway(last: int) -> bytes:
    """A frame that says: requests up to stream ``last`` were taken, later ones may be sent again elsewhere."""
    return bytes((0, 0, 8, _GOAWAY, 0, 0, 0, 0, 0)) + last.to_bytes(4, "big") + bytes(4)
