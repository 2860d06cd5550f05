"""What goes over the wire, and what it costs."""

from __future__ import annotations

import array
import asyncio
import gc
import os
import socket
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import aiohttp
import pytest
from tests.store.s3.fake import FakeS3, says
from yarl import URL

from bucketry.store.contract import Unavailable
from bucketry.store.s3.transport import PIECE, Body, Transport, proxy_for, tls_context

MIB = 1024 * 1024


def transport(port: int, *, read_timeout: float = 5.0) -> Transport:
    return Transport(
        f"http://127.0.0.1:{port}", connections=8, connect_timeout=5.0, read_timeout=read_timeout, context=None
    )


@contextmanager
def never_reading() -> Iterator[int]:
    """A port that takes connections and reads nothing from them."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


async def test_a_store_that_stops_taking_a_body_is_given_up() -> None:
    """aiohttp's own read timeout only begins once the body is sent."""
    with never_reading() as port:
        wire = transport(port, read_timeout=0.2)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await wire.send("PUT", "/b/k", "", {}, wire.body(bytes(32 * MIB)))
        assert time.monotonic() - started < 3
        await wire.close()


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1, 16 * 1024 + PIECE, 2 * MIB + 1])
async def test_every_buffer_arrives_as_it_is(fake: FakeS3, size: int) -> None:
    content = os.urandom(size)
    wire = transport(fake.port)
    for body in (content, bytearray(content), memoryview(b"x" + content)[1:], memoryview(array.array("b", content))):
        sent = wire.body(body)
        response = await wire.send("PUT", "/bucket/k", "", {}, sent)
        assert response.status == 200
        response.release()
        assert fake.asked[-1].body == content
        assert fake.asked[-1].headers["content-length"] == str(size)
        assert "transfer-encoding" not in fake.asked[-1].headers
        assert sent.sent == size
    await wire.close()


async def test_wide_items_are_counted_in_bytes(fake: FakeS3) -> None:
    numbers = array.array("q", range(10_000))
    wire = transport(fake.port)
    (await wire.send("PUT", "/bucket/k", "", {}, wire.body(memoryview(numbers)))).release()
    assert fake.asked[-1].body == numbers.tobytes()
    await wire.close()


async def test_paths_and_queries_go_out_as_they_are_encoded(fake: FakeS3) -> None:
    wire = transport(fake.port)
    path, query = "/bucket/a%20b/%7Ec/d+e%2Ff/..%2F./x~", "a=%2B%20%3D&b=&c=%C3%A4"
    (await wire.send("GET", path, query, {}, None)).release()
    assert fake.asked[-1].target == f"{path}?{query}"
    await wire.close()


async def sink() -> tuple[asyncio.Server, int]:
    """Reads requests without keeping them, so that only the client's memory is measured."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                while length > 0:
                    length -= len(await reader.read(min(length, 65536)))
                writer.write(b'HTTP/1.1 200 OK\r\nETag: "x"\r\nContent-Length: 0\r\n\r\n')
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def test_a_part_is_never_copied_as_a_whole() -> None:
    server, port = await sink()
    wire = transport(port)
    content = bytearray(8 * MIB)
    tracemalloc.start()
    try:
        (await wire.send("PUT", "/b/warm", "", {}, wire.body(b"x"))).release()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        response = await wire.send("PUT", "/b/k", "", {}, wire.body(memoryview(content)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    response.release()
    assert peak - before < 2 * MIB
    await wire.close()
    server.close()
    await server.wait_closed()


async def test_a_buffer_is_free_again_once_it_was_sent(fake: FakeS3) -> None:
    store = await fake.started()
    buffer = bytearray(b"x" * MIB)
    await store.put("data/a", memoryview(buffer))
    gc.collect()
    buffer.clear()  # BufferError where anybody still holds a view
    buffer += b"y" * MIB
    fake.script.extend([says(503, "SlowDown")] * 10)
    with pytest.raises(Unavailable):
        await store.put("data/a", memoryview(buffer))
    gc.collect()
    buffer.clear()


async def test_headers_cannot_be_smuggled_in() -> None:
    wire = transport(1)
    with pytest.raises((ValueError, aiohttp.ClientError)):
        await wire.send("GET", "/b/k", "", {"x-amz-meta-a": "b\r\nX-Evil: 1"}, None)
    await wire.close()


def test_a_body_knows_its_size() -> None:
    assert Body(memoryview(array.array("q", [1, 2])), stall=1).size == 16
    assert Body(b"", stall=1).size == 0
    assert Body(b"abc", stall=1).decode() == "abc"


@pytest.mark.parametrize(
    ("environ", "url", "proxy"),
    [
        ({}, "https://s3.example", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https://s3.example", "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "http://s3.example", None),
        ({"HTTP_PROXY": "http://proxy:3128"}, "http://s3.example", "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "example"}, "https://s3.example", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, "https://s3.example", None),
        ({"HTTPS_PROXY": "socks5://proxy:1080"}, "https://s3.example", None),
    ],
)
def test_the_environments_proxy_is_used(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], url: str, proxy: str | None
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name.lower(), value)
    assert proxy_for(URL(url)) == proxy


def test_a_bundle_that_cannot_be_read_is_told(tmp_path: object) -> None:
    with pytest.raises(ValueError, match="ca_bundle"):
        tls_context(f"{tmp_path}/none.pem")
    empty = f"{tmp_path}/empty.pem"
    with open(empty, "w"):
        pass
    with pytest.raises(ValueError, match="ca_bundle"):
        tls_context(empty)
    assert tls_context(None).check_hostname
