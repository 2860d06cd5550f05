"""Requests that are no well-formed HTTP: lengths that lie, encodings that contradict each other, heads without end."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from tests.spec.fuzz_requests import Draft
from tests.support.fuzzing import Shot

_LENGTHS: Final = (
    *(
        "-1",
        "+5",
        "5, 5",
        "5, 6",
        "0x5",
        "",
        " ",
        "5.0",
        "5e0",
        "99999999999999999999",
        "18446744073709551616",
        "5\x0b",
    ),
    *("5;", "٥".encode().decode("latin-1"), "1 0", "05", "000000000000000000000005", "NaN", "9223372036854775807"),
)
_ENCODINGS: Final = (
    *(
        "chunked, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "identity",
        "xchunked",
        "chunked\t",
        "\x0bchunked",
        "Chunked",
    ),
    *("", "chunked;q=1", ", chunked", "chunked\r\n ", '"chunked"', "chunked\x00", "trailers"),
)
_CHUNKS: Final = (
    *(
        b"-1\r\nx\r\n0\r\n\r\n",
        b"0x2\r\nab\r\n0\r\n\r\n",
        b"g\r\n",
        b"\r\n",
        b"2\r\nabc\r\n0\r\n\r\n",
        b"2\nab\n0\n\n",
        b"0\r\n",
    ),
    *(
        b"ffffffffffffffff\r\nx",
        b"10000000000000000\r\nx",
        b"2;a=b;c\r\nab\r\n0\r\n\r\n",
        b"2" + b";x" * 20_000 + b"\r\nab\r\n",
    ),
    *(
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"0" * 400 + b"2\r\nab\r\n0\r\n\r\n",
        b"",
    ),
    *(b"2\r\nab", b"2\r\nab\r\n", b" 2\r\nab\r\n0\r\n\r\n", b"2 \r\nab\r\n0\r\n\r\n", b"5\r\nab\r\n0\r\n\r\n"),
)
_LINES: Final = (
    *(
        "GET /v2/ HTTP/1.0",
        "GET /v2/ HTTP/0.9",
        "GET /v2/",
        "GET /v2/ HTTP/2.0",
        "GET /v2/ HTTP/1.2",
        "GET /v2/ HTTP/1.1 ",
    ),
    *(
        "GET  /v2/ HTTP/1.1",
        "GET\t/v2/\tHTTP/1.1",
        " GET /v2/ HTTP/1.1",
        "GET /v2/ http/1.1",
        "GET /v2/ x HTTP/1.1",
        "",
    ),
    *(
        "GET http://evil.example/v2/ HTTP/1.1",
        "GET * HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET v2/ HTTP/1.1",
        "GET //v2/ HTTP/1.1",
    ),
    *(
        "CONNECT 127.0.0.1:22 HTTP/1.1",
        "CONNECT /v2/ HTTP/1.1",
        "GET /v2/#x HTTP/1.1",
        "GET /v2/\x00 HTTP/1.1",
        "\x16\x03\x01",
    ),
    *(
        "GET http:///v2/ HTTP/1.1",
        "GET ftp://x/v2/ HTTP/1.1",
        "GET /v2/\x7f HTTP/1.1",
        "PRI * HTTP/2.0",
        "GET https: HTTP/1.1",
    ),
    *(
        "G" * 9000 + " / HTTP/1.1",
        "GET /v2/" + "a" * 70_000 + " HTTP/1.1",
        "GET /v2/\xff\xfe HTTP/1.1",
        'GET /v2/" HTTP/1.1',
    ),
)
_FIELDS: Final = (
    *(
        "Host: a\r\nHost: b",
        "X Y: z",
        "X : y",
        ": x",
        "X",
        "X: a\r\n b",
        "X: \x00",
        "X: a\nY: b",
        "X: a\rY: b",
        "X\x00: a",
    ),
    *(
        "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ),
    *("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", "Connection: close"),
    *(
        "X: " + "a" * 40_000,
        "X: " + "a" * 300_000,
        "\r\n".join(f"X{n}: y" for n in range(250)),
        "é: x",
        "X: \x7f",
        "\tX: y",
    ),
    *(
        "Expect: 100-continue\r\nContent-Length: 9",
        "Transfer-Encoding: chunked\r\nExpect: 100-continue",
        "Content-Length: 3",
    ),
)


def _split(draft: Draft, source: random.Random) -> tuple[bytes, bytes]:
    """The head of a request without anything that frames its body, and a body."""
    if draft.method in ("GET", "HEAD") and source.random() < 0.5:
        draft.method = "PUT"
    body = draft.body if draft.body is not None and len(draft.body) < 5000 else b'{"size":5}'
    return draft.head().encode("latin-1", "replace"), body


def _lengths(source: random.Random, draft: Draft) -> bytes:
    head, body = _split(draft, source)
    right = str(len(body))
    text = source.choice((*_LENGTHS, str(len(body) + 5), str(max(0, len(body) - 3)), f"{right}, {right}"))
    lines = [text] if source.random() < 0.7 else source.choice(([right, text], [text, right], [right, right]))
    return head + b"".join(f"\r\nContent-Length: {line}".encode("latin-1") for line in lines) + b"\r\n\r\n" + body


def _encodings(source: random.Random, draft: Draft) -> bytes:
    head, body = _split(draft, source)
    lines = [f"Transfer-Encoding: {source.choice((*_ENCODINGS, 'chunked'))}"]
    if source.random() < 0.4:
        lines.append(source.choice((f"Content-Length: {len(body)}", "Content-Length: 0", "Transfer-Encoding: chunked")))
        source.shuffle(lines)
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if source.random() < 0.5 else source.choice(_CHUNKS)
    return head + "".join(f"\r\n{line}" for line in lines).encode("latin-1") + b"\r\n\r\n" + chunks


def _lines(source: random.Random, draft: Draft) -> bytes:
    _, rest = draft.raw().split(b"\r\n", 1)
    return source.choice(_LINES).encode("latin-1") + b"\r\n" + rest


def _fields(source: random.Random, draft: Draft) -> bytes:
    first, rest = draft.raw().split(b"\r\n", 1)
    return b"\r\n".join((first, source.choice(_FIELDS).encode("latin-1"), rest))


def _bytes(source: random.Random, draft: Draft) -> bytes:
    """Some bytes of a good request are others, mostly of its head."""
    raw = bytearray(draft.raw())
    end = raw.find(b"\r\n\r\n") + 4
    for _ in range(source.choice((1, 1, 2, 8))):
        at = source.randrange(min(end, len(raw)) if source.random() < 0.9 else len(raw))
        match source.randrange(4):
            case 0:
                raw[at : at + 1] = b""
            case 1:
                raw[at:at] = source.randbytes(source.choice((1, 2, 30)))
            case _:
                raw[at] = source.choice((0, 10, 13, 32, 127, 128, 255, raw[at] ^ (1 << source.randrange(8))))
    return bytes(raw)


def _broken_off(source: random.Random, draft: Draft) -> bytes:
    raw = draft.raw()
    return raw[: source.randrange(len(raw))]


def _several(source: random.Random, draft: Draft) -> bytes:
    """More than was asked for: what follows is another request, or is none."""
    return draft.raw() + source.choice((b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n", b"x" * 100, draft.raw(), b"\r\n\r\n"))


_WAYS: Final[tuple[Callable[[random.Random, Draft], bytes], ...]] = (
    *(_lengths, _encodings, _lines, _fields, _bytes, _bytes, _broken_off, _several),
)


def broken(source: random.Random, draft: Draft) -> Shot:
    """A request for a connection of its own."""
    raw = source.choice(_WAYS)(source, draft)
    rude = source.random() < 0.1
    return Shot(raw, "framing", draft.name, draft.method, lone=True, rude=rude)
