"""Blobs read by ranges: straight from the bucket, from the registry, and from servers that know no ranges."""

from __future__ import annotations

import asyncio
import itertools
import re

import pytest
from aiohttp import web
from tests.unit.transfer.remote.samples import BLOB, BLOB_PATH, LAYER
from tests.unit.transfer.remote.scripted import Asked, Scripted, error, redirect

from bucketry.transfer.errors import ContentMismatch, NotPermitted, Refused, TransferError, Unreachable
from bucketry.transfer.remote import RemoteRepository, Session
from bucketry.transfer.remote.blob import RemoteBlob
from bucketry.transfer.remote.credentials import Credentials


def ranged(asked: Asked, data: bytes = LAYER) -> web.Response:
    wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers.get("Range", ""))
    if wanted is None:
        return web.Response(body=data)
    start, last = int(wanted[1]), int(wanted[2])
    headers = {"Content-Range": f"bytes {start}-{last}/{len(data)}"}
    return web.Response(status=206, body=data[start : last + 1], headers=headers)


async def read(blob: RemoteBlob, start: int = 0, stop: int | None = None) -> bytes:
    pieces = [piece async for piece in blob.read(start, stop)]
    assert all(0 < len(piece) <= 1024 * 1024 for piece in pieces)
    return b"".join(pieces)


class Bucket:
    """Where a registry sends readers to: by URLs that end."""

    def __init__(self, server: Scripted, stranger: Scripted) -> None:
        self.server, self.stranger = server, stranger
        self.given = 0
        self.status = 403
        server.on("GET", BLOB_PATH, self.give)

    def give(self) -> web.Response:
        self.expire()
        self.given += 1
        self.stranger.on("GET", f"/key-{self.given}", ranged)
        return redirect(f"{self.stranger.url}/key-{self.given}?X-Amz-Signature=x")

    def expire(self) -> None:
        self.stranger.on("GET", f"/key-{self.given}", lambda: web.Response(status=self.status))


@pytest.fixture
def bucket(server: Scripted, stranger: Scripted) -> Bucket:
    return Bucket(server, stranger)


@pytest.fixture
def blob(repository: RemoteRepository) -> RemoteBlob:
    return repository.blob(BLOB)


CUTS = [0, 1, 1000, 300_000, 300_001, len(LAYER)]


async def test_a_bucket_is_read_straight_after_one_question(
    bucket: Bucket, blob: RemoteBlob, server: Scripted, stranger: Scripted, login: Credentials
) -> None:
    parts = await asyncio.gather(*(read(blob, *cut) for cut in itertools.pairwise(CUTS)))

    assert b"".join(parts) == LAYER
    assert len(server.requests("GET", BLOB_PATH)) == 1
    assert len(stranger.asked) == len(CUTS) - 1
    assert {asked.authorization for asked in stranger.asked} == {None}
    assert blob.ranged


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_tasks_share_one_new_question_where_an_address_has_expired(
    bucket: Bucket, blob: RemoteBlob, server: Scripted, status: int
) -> None:
    bucket.status = status
    await read(blob, 0, 1)

    for round_ in range(2, 4):
        bucket.expire()
        parts = await asyncio.gather(*(read(blob, *cut) for cut in itertools.pairwise(CUTS)))
        assert b"".join(parts) == LAYER
        assert len(server.requests("GET", BLOB_PATH)) == round_


async def test_an_address_that_never_works_is_refused(server: Scripted, stranger: Scripted, blob: RemoteBlob) -> None:
    server.on("GET", BLOB_PATH, lambda: redirect(f"{stranger.url}/key?X-Amz-Signature=canary"))
    denied = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    stranger.on("GET", "/key", lambda: web.Response(status=403, body=denied))

    with pytest.raises(Refused, match="AccessDenied: no") as caught:
        await read(blob)

    assert "canary" not in str(caught.value)
    assert stranger.url in str(caught.value)
    assert len(server.requests("GET", BLOB_PATH)) == 2


@pytest.mark.parametrize(
    ("date", "words"),
    [
        ("Tue, 24 Nov 2026 10:00:00 GMT", "this machine's clock is 75 minutes off (ahead)"),
        ("Tue, 24 Nov 2026 12:00:00 GMT", "this machine's clock is 45 minutes off (behind)"),
        ("Tue, 24 Nov 2026 11:15:20 GMT", "the clock of {host} is off"),
        ("no date", "the clock of {host} is off"),
    ],
)
async def test_a_clock_that_is_off_is_named(
    server: Scripted,
    stranger: Scripted,
    repository: RemoteRepository,
    session: Session,
    date: str,
    words: str,
) -> None:
    session.clock = lambda: 1795518900.0  # Tue, 24 Nov 2026 11:15:00 GMT
    skewed = b"<Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large</Message></Error>"
    server.on("GET", BLOB_PATH, lambda: redirect(f"{stranger.url}/key"))
    stranger.on(
        "GET",
        "/key",
        lambda: web.Response(status=403, body=skewed, headers={"Date": date, "Content-Type": "application/xml"}),
    )

    with pytest.raises(Refused) as caught:
        await read(repository.blob(BLOB))

    assert words.format(host=server.host) in str(caught.value)


async def test_a_registry_that_sends_the_bytes_itself_is_read_by_many(server: Scripted, blob: RemoteBlob) -> None:
    waiting = 0
    together = asyncio.Event()

    async def slow(asked: Asked) -> web.Response:
        nonlocal waiting
        waiting += 1
        if len(server.asked) > 1 and waiting == 4:
            together.set()
        if len(server.asked) > 1:
            async with asyncio.timeout(5):
                await together.wait()
        return ranged(asked)

    server.on("GET", BLOB_PATH, slow)
    await read(blob, 0, 1)
    waiting = 0

    parts = await asyncio.gather(*(read(blob, at, at + 1000) for at in range(0, 4000, 1000)))

    assert b"".join(parts) == LAYER[:4000]


async def test_a_whole_blob_is_asked_for_without_a_range(server: Scripted, blob: RemoteBlob) -> None:
    server.on("GET", BLOB_PATH, ranged)

    assert await read(blob) == LAYER
    assert "Range" not in server.asked[0].headers
    assert server.asked[0].headers["Accept-Encoding"] == "identity"
    assert blob.ranged


async def test_nothing_is_asked_for_where_nothing_is_wanted(server: Scripted, blob: RemoteBlob) -> None:
    assert await read(blob, 5, 5) == b""
    assert await read(blob, len(LAYER)) == b""
    assert server.asked == []


async def test_a_server_without_ranges_is_read_from_the_beginning_only(server: Scripted, blob: RemoteBlob) -> None:
    server.on("GET", BLOB_PATH, lambda: web.Response(body=LAYER))

    with pytest.raises(Refused, match="whole blobs only"):
        await read(blob, 1000, 2000)

    assert not blob.ranged
    assert await read(blob, 0, 1000) == LAYER[:1000]
    assert await read(blob) == LAYER


@pytest.mark.parametrize(
    "content_range",
    [
        f"bytes 0-999/{len(LAYER)}",
        f"bytes 1000-2000/{len(LAYER)}",
        "bytes 1000-1999",
        "",
        "pages 1000-1999/2",
        f"bytes 1000-{'9' * 40}/{len(LAYER)}",
    ],
)
async def test_another_range_is_refused(server: Scripted, blob: RemoteBlob, content_range: str) -> None:
    headers = {"Content-Range": content_range} if content_range else {}
    server.on("GET", BLOB_PATH, lambda: web.Response(status=206, body=LAYER[1000:2000], headers=headers))

    with pytest.raises(Refused, match="another range"):
        await read(blob, 1000, 2000)


@pytest.mark.parametrize("data", [LAYER + b"x", LAYER[:-1]])
async def test_a_blob_of_another_size_is_another_blob(server: Scripted, blob: RemoteBlob, data: bytes) -> None:
    server.on("GET", BLOB_PATH, lambda asked: ranged(asked, data))

    with pytest.raises(ContentMismatch, match=f"it has {len(data)} bytes there, and {len(LAYER)} are expected"):
        await read(blob)
    with pytest.raises(ContentMismatch):
        await read(blob, 10, 20)


@pytest.mark.parametrize("sent", [0, 1, 500])
@pytest.mark.parametrize("length", [True, False])
async def test_a_body_that_ends_early_may_be_tried_again(
    server: Scripted, blob: RemoteBlob, sent: int, length: bool
) -> None:
    async def short(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=206, headers={"Content-Range": f"bytes 0-999/{len(LAYER)}"})
        if length:
            response.content_length = 1000
        await response.prepare(request)
        await response.write(LAYER[:sent])
        if length:
            assert request.transport is not None
            request.transport.close()
        return response

    server.raw("GET", BLOB_PATH, short)

    with pytest.raises(Unreachable):
        await read(blob, 0, 1000)


async def test_more_than_was_asked_for_is_not_handed_on(server: Scripted, blob: RemoteBlob) -> None:
    headers = {"Content-Range": f"bytes 0-999/{len(LAYER)}"}
    server.on("GET", BLOB_PATH, lambda: web.Response(status=206, body=LAYER[:5000], headers=headers))

    assert await read(blob, 0, 1000) == LAYER[:1000]


async def test_a_reader_that_leaves_frees_the_connection(server: Scripted, blob: RemoteBlob) -> None:
    left = asyncio.Event()

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(LAYER)
        await response.prepare(request)
        await response.write(LAYER[:1000])
        try:
            while True:
                await asyncio.sleep(0.01)
                if request.transport is None or request.transport.is_closing():
                    left.set()
                    return response
        except asyncio.CancelledError:
            left.set()
            raise

    server.raw("GET", BLOB_PATH, endless)
    pieces = blob.read()
    assert await anext(pieces) == LAYER[:1000]
    await pieces.aclose()  # type: ignore[attr-defined]

    async with asyncio.timeout(5):
        await left.wait()


@pytest.mark.parametrize(
    ("status", "kind"), [(404, TransferError), (403, NotPermitted), (416, Refused), (500, Unreachable)]
)
async def test_an_error_of_the_registry_is_said(
    server: Scripted, blob: RemoteBlob, status: int, kind: type[TransferError]
) -> None:
    server.on("GET", BLOB_PATH, lambda: error(status, "BLOB_UNKNOWN", "because"))

    with pytest.raises(kind, match=f"reading {BLOB.digest}.*because"):
        await read(blob, 0, 10)
