"""What a front knows of a connection of HTTP/2, however its bytes come in pieces."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.server.front.frames import HEAD, MOST_OPEN, PREFACE, Http2, goaway

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, PADDED = 1, 4, 8


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


@dataclass
class Known:
    """The same, found out the simple way: from whole streams of bytes, frame by frame."""

    open: set[int] = field(default_factory=set)
    heading: int | None = None
    last: int = 0
    requests: int = 0
    goaway: bool = False


def split(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The complete frames; nothing of what is left over."""
    while len(data) >= HEAD:
        size = HEAD + int.from_bytes(data[:3], "big")
        if len(data) < size:
            return
        yield data[3], data[4], int.from_bytes(data[5:9], "big") & 0x7FFFFFFF
        data = data[size:]


def rest(data: bytes) -> bytes:
    while len(data) >= HEAD and len(data) >= (size := HEAD + int.from_bytes(data[:3], "big")):
        data = data[size:]
    return data


def known(client: bytes, server: bytes) -> Known:
    """What is to be known once the client has said this, and after it the server that."""
    found = Known()
    for kind, flags, stream in split(client.removeprefix(PREFACE)):
        if kind == HEADERS and stream > found.last:
            found.last = found.heading = stream
        elif kind == HEADERS and found.heading is None and not flags & END_HEADERS:
            found.heading = 0
        if kind in (HEADERS, CONTINUATION) and flags & END_HEADERS:
            if found.heading:
                found.open.add(found.heading)
                found.requests += 1
            found.heading = None
        if kind == RST_STREAM:
            found.open.discard(stream)
    for kind, flags, stream in split(server):
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            found.open.discard(stream)
        found.goaway |= kind == GOAWAY
    return found


KINDS = st.sampled_from((DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION, 99))
FRAMES = st.builds(
    frame, KINDS, st.integers(0, 255), st.sampled_from((0, 1, 3, 5, 7, 2**31 - 1, 2**32 - 1)), st.binary(max_size=40)
)
STREAMS = st.builds(lambda frames, tail: b"".join(frames) + tail, st.lists(FRAMES, max_size=25), st.binary(max_size=12))
CUTS = st.lists(st.integers(1, 30), min_size=1, max_size=10)


def pieces(data: bytes, sizes: Sequence[int]) -> Iterator[memoryview]:
    at, turn = 0, 0
    while at < len(data):
        step = sizes[turn % len(sizes)]
        yield memoryview(data)[at : at + step]
        at, turn = at + step, turn + 1


@given(client=STREAMS, server=STREAMS, cuts=CUTS)
def test_any_pieces_tell_the_same_as_the_whole(client: bytes, server: bytes, cuts: Sequence[int]) -> None:
    client = PREFACE + client
    http2 = Http2()
    for piece in pieces(client, cuts):
        http2.from_client(piece)
    for piece in pieces(server, cuts):
        http2.from_server(piece)
    found = known(client, server)
    assert http2.open == len(found.open)
    assert (http2.last, http2.requests, http2.said_goaway) == (found.last, found.requests, found.goaway)
    assert http2.at_rest is (rest(server) == b"")
    under_way = rest(client.removeprefix(PREFACE)) != b""
    assert http2.heading is (found.heading is not None or (under_way and not found.open))


@given(client=st.binary(max_size=300), server=st.binary(max_size=300), cuts=CUTS)
def test_garbage_is_no_error(client: bytes, server: bytes, cuts: Sequence[int]) -> None:
    http2 = Http2()
    for piece in pieces(client, cuts):
        http2.from_client(piece)
    for piece in pieces(server, cuts):
        http2.from_server(piece)
    assert 0 <= http2.open <= len(client) // HEAD


def test_preface_is_no_frame_and_what_comes_of_it_is_under_way() -> None:
    http2 = Http2()
    for byte in PREFACE[:-1]:
        http2.from_client(memoryview(bytes((byte,))))
        assert http2.heading
    http2.from_client(memoryview(PREFACE[-1:]))
    assert not http2.heading
    assert (http2.open, http2.requests, http2.last) == (0, 0, 0)


def fed(*frames: bytes) -> Http2:
    http2 = Http2()
    http2.from_client(memoryview(PREFACE + b"".join(frames)))
    return http2


def test_request_is_open_from_the_end_of_its_head_to_the_end_of_its_answer() -> None:
    http2 = fed(frame(HEADERS, 0, 1, b"x"))
    assert (http2.open, http2.heading, http2.requests, http2.last) == (0, True, 0, 1)
    http2.from_client(memoryview(frame(CONTINUATION, 0, 1)))
    assert http2.heading
    http2.from_client(memoryview(frame(CONTINUATION, END_HEADERS, 1)))
    assert (http2.open, http2.heading, http2.requests) == (1, False, 1)
    http2.from_client(memoryview(frame(DATA, END_STREAM, 1, b"body")))
    http2.from_server(memoryview(frame(HEADERS, END_HEADERS, 1)))
    http2.from_server(memoryview(frame(DATA, 0, 1, b"answer")))
    assert http2.open == 1
    http2.from_server(memoryview(frame(DATA, END_STREAM, 1)))
    assert http2.open == 0


def test_answer_of_a_head_alone_ends_its_request() -> None:
    http2 = fed(frame(HEADERS, END_HEADERS | END_STREAM, 1))
    http2.from_server(memoryview(frame(HEADERS, END_HEADERS | END_STREAM, 1)))
    assert http2.open == 0


@pytest.mark.parametrize("by_server", [False, True])
def test_reset_ends_a_request_whoever_says_it(by_server: bool) -> None:
    http2 = fed(frame(HEADERS, END_HEADERS, 1), frame(HEADERS, END_HEADERS, 3))
    reset = memoryview(frame(RST_STREAM, 0, 3, bytes(4)))
    (http2.from_server if by_server else http2.from_client)(reset)
    assert (http2.open, http2.requests) == (1, 2)


def test_answer_that_does_not_move_is_told_by_its_time() -> None:
    http2 = fed(*(frame(HEADERS, END_HEADERS, stream) for stream in (1, 3, 5)))
    assert http2.still(10) == 0
    # What has not begun may take its time.
    assert http2.still(1000) == 0
    for stream in (1, 3):
        http2.from_server(memoryview(frame(HEADERS, END_HEADERS, stream)))
    assert http2.still(1001) == 0
    http2.from_server(memoryview(frame(DATA, 0, 3, b"a")))
    assert http2.still(1011) == 10
    http2.from_client(memoryview(frame(DATA, 0, 1, b"a")))
    assert http2.still(1012) == 1
    http2.from_server(memoryview(frame(DATA, END_STREAM, 3)))
    assert http2.still(1022) == 10
    http2.from_client(memoryview(frame(RST_STREAM, 0, 1, bytes(4))))
    assert (http2.still(1030), http2.open) == (0, 1)


def test_trailers_are_no_request_of_their_own() -> None:
    http2 = fed(frame(HEADERS, END_HEADERS, 1), frame(HEADERS, END_STREAM, 1))
    assert (http2.open, http2.heading, http2.requests) == (1, True, 1)
    http2.from_client(memoryview(frame(CONTINUATION, END_HEADERS, 1)))
    assert (http2.open, http2.requests) == (1, 1)


def test_padding_and_the_reserved_bit_change_nothing() -> None:
    http2 = fed(frame(HEADERS, END_HEADERS | PADDED, 1 | 1 << 31, b"\x05head" + bytes(5)))
    assert (http2.open, http2.last) == (1, 1)


def test_payload_of_the_greatest_length_is_passed_over_and_not_kept() -> None:
    http2 = fed()
    head = (2**24 - 1).to_bytes(3, "big") + bytes((DATA, 0, 0, 0, 0, 1))
    http2.from_client(memoryview(head))
    piece = memoryview(frame(HEADERS, END_HEADERS, 1) * 6000)
    tracemalloc.start()
    left = 2**24 - 1
    while left:
        step = min(left, len(piece))
        http2.from_client(piece[:step])
        left -= step
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (http2.open, http2.heading) == (0, False)
    assert peak < 16 * 1024


def test_streams_beyond_all_measure_are_told_and_not_counted_on() -> None:
    http2 = fed(*(frame(HEADERS, END_HEADERS, 2 * number + 1) for number in range(MOST_OPEN)))
    assert (http2.open, http2.excessive) == (MOST_OPEN, False)
    http2.from_client(memoryview(b"".join(frame(HEADERS, END_HEADERS, 10_000 + n) for n in range(50_000))))
    assert (http2.open, http2.excessive) == (MOST_OPEN + 1, True)


def test_streams_that_are_reset_at_once_are_never_too_many() -> None:
    http2 = fed(*(frame(HEADERS, END_HEADERS, s) + frame(RST_STREAM, 0, s, bytes(4)) for s in range(1, 9000, 2)))
    assert not http2.excessive
    assert (http2.open, http2.requests) == (0, 4500)


def test_own_goaway_is_a_frame_that_names_the_last_stream() -> None:
    said = goaway(7)
    assert list(split(said)) == [(GOAWAY, 0, 0)]
    assert said[HEAD:] == bytes((0, 0, 0, 7, 0, 0, 0, 0))
    http2 = Http2()
    http2.from_server(memoryview(said))
    assert http2.said_goaway
    assert http2.at_rest
