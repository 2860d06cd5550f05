"""Reads go on where a connection broke, and never mix two objects."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import pytest
from aiohttp import web
from tests.store.helpers import read_all
from tests.store.s3.fake import FakeS3, answers, breaks_off, loses_request, says, stays_silent

from bucketry.store.contract import Corrupt, NotFound, Unavailable

MIB = 1024 * 1024
BODY = os.urandom(3 * MIB + 17)


def ranges(fake: FakeS3) -> list[str | None]:
    return [asked.headers.get("range") for asked in fake.asked]


async def test_a_broken_connection_goes_on_at_its_offset(fake: FakeS3) -> None:
    store = await fake.started()
    fake.objects["a"] = (BODY, {})
    fake.script.extend([breaks_off(MIB), breaks_off(MIB // 2), loses_request(), says(503, "SlowDown")])
    assert await read_all(store, "a") == BODY
    assert len(fake.asked) == 5
    assert fake.asked[0].headers.get("if-match") is None
    assert all("if-match" in asked.headers for asked in fake.asked[1:])
    assert ranges(fake)[0] is None
    offsets = [int(str(each).removeprefix("bytes=").split("-")[0]) for each in ranges(fake)[1:]]
    assert 0 < offsets[0] <= MIB
    assert offsets == sorted(offsets)
    assert fake.observer.outcomes("read") == ["unavailable"] * 4 + ["ok"]
    received = [seen.received for seen in fake.observer.seen]
    assert sum(received) - received[3] == len(BODY), "the 503 has a body of its own"


@pytest.mark.parametrize(("start", "stop"), [(0, 2 * MIB), (5, None), (MIB, 3 * MIB), (7, 2 * MIB + 9)])
async def test_a_broken_range_goes_on_and_keeps_its_end(fake: FakeS3, start: int, stop: int | None) -> None:
    store = await fake.started()
    fake.objects["a"] = (BODY, {})
    fake.script.extend([breaks_off(1000), breaks_off(2000)])
    assert await read_all(store, "a", start, stop) == BODY[start:stop]
    assert all(str(each).endswith("-" if stop is None else f"-{stop - 1}") for each in ranges(fake))


async def test_an_object_that_changed_meanwhile_is_corrupt(fake: FakeS3) -> None:
    store = await fake.started()
    fake.objects["a"] = (BODY, {})

    def change(server: FakeS3) -> None:
        server.objects["a"] = (bytes(len(BODY)), {})

    fake.script.append(breaks_off(MIB, then=change))
    with pytest.raises(Corrupt, match="changed while it was read"):
        await read_all(store, "a")


async def test_an_object_that_went_meanwhile_is_corrupt_and_not_merely_missing(fake: FakeS3) -> None:
    store = await fake.started()
    fake.objects["a"] = (BODY, {})
    fake.script.append(breaks_off(MIB, then=lambda server: server.objects.clear()))
    with pytest.raises(Corrupt, match="changed while it was read"):
        await read_all(store, "a")


async def test_a_store_that_never_brings_a_byte_is_given_up(fake: FakeS3) -> None:
    store = await fake.started(retries=2)
    fake.objects["a"] = (BODY, {})
    fake.script.extend([breaks_off(MIB), *[breaks_off(0)] * 3])
    with pytest.raises(Unavailable, match="broke"):
        await read_all(store, "a")
    assert len(fake.asked) == 3, "the last bytes came with the first, which is followed by two more"


async def test_each_piece_that_arrives_grants_new_tries(fake: FakeS3) -> None:
    store = await fake.started(retries=1)
    fake.objects["a"] = (BODY, {})
    fake.script.extend([breaks_off(100_000)] * 20)
    assert await read_all(store, "a") == BODY
    assert len(fake.asked) == 21


async def test_silence_in_the_middle_is_a_broken_connection(fake: FakeS3) -> None:
    store = await fake.started(read_timeout=0.1)
    fake.objects["a"] = (BODY, {})

    async def stall(server: FakeS3, asked: object) -> web.StreamResponse:
        request = server.asked[-1].request
        answer = web.StreamResponse(headers={"ETag": '"x"'})
        answer.content_length = len(BODY)
        await answer.prepare(request)
        await answer.write(BODY[:1000])
        await stays_silent(0.4)(server, server.asked[-1])
        return answer

    fake.script.append(stall)
    fake.script.append(answers(lambda: part(1000, len(BODY))))
    assert await read_all(store, "a") == BODY


def part(start: int, stop: int, *, body: bytes | None = None, content_range: str | None = None) -> web.Response:
    content_range = content_range or f"bytes {start}-{stop - 1}/{len(BODY)}"
    headers = {"Content-Range": content_range, "ETag": '"x"'}
    return web.Response(status=206, body=BODY[start:stop] if body is None else body, headers=headers)


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(body=BODY, headers={"ETag": '"x"'}),
        lambda: part(11, 21),
        lambda: part(10, 22),
        lambda: part(10, 20, content_range="bytes */5"),
        lambda: part(10, 20, content_range="items 10-19/30"),
        lambda: part(10, 20, body=bytes(11)),
    ],
)
async def test_another_range_than_was_asked_for_is_corrupt(fake: FakeS3, answer: object) -> None:
    store = await fake.started(retries=0)
    fake.script.append(answers(answer))  # type: ignore[arg-type]
    with pytest.raises(Corrupt):
        await read_all(store, "a", 10, 20)
    assert fake.observer.outcomes("read") == ["corrupt"]


async def test_a_store_that_ends_early_is_corrupt(fake: FakeS3) -> None:
    store = await fake.started(retries=1)
    fake.script.extend([answers(lambda: part(10, 20, body=b"")) for _ in range(2)])
    with pytest.raises(Corrupt, match="ended early"):
        await read_all(store, "a", 10, 20)


async def test_a_body_without_a_length_is_read_to_its_end(fake: FakeS3) -> None:
    store = await fake.started()

    async def chunked(server: FakeS3, asked: object) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"ETag": '"x"'})
        answer.enable_chunked_encoding()
        await answer.prepare(server.asked[-1].request)
        await answer.write(BODY[:MIB])
        await answer.write(BODY[MIB:])
        return answer

    fake.script.extend([chunked, chunked])
    assert await read_all(store, "a") == BODY
    assert (await store.get("a")).body == BODY
    assert fake.observer.outcomes("read") == ["ok"]


async def test_what_is_beyond_the_end_is_nothing(fake: FakeS3) -> None:
    store = await fake.started()
    fake.objects["a"] = (b"12345", {})
    assert await read_all(store, "a", 5) == b""
    assert await read_all(store, "a", 7, 9) == b""
    assert await read_all(store, "a", 3, 9) == b"45"
    assert await read_all(store, "a", 2, 2) == b""
    with pytest.raises(NotFound):
        await read_all(store, "b", 2, 2)
    assert fake.observer.outcomes("read") == ["ok"] * 3


async def test_a_short_object_is_not_mistaken_for_one_that_shrank(fake: FakeS3) -> None:
    store = await fake.started(retries=1)
    fake.script.extend([breaks_off(100), says(416, "InvalidRange")])
    fake.objects["a"] = (BODY, {})
    with pytest.raises(Corrupt, match="became shorter"):
        await read_all(store, "a")


async def test_without_an_etag_nothing_is_pieced_together(fake: FakeS3) -> None:
    store = await fake.started()

    async def no_etag(server: FakeS3, asked: object) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.content_length = 100
        await answer.prepare(server.asked[-1].request)
        await answer.write(BODY[:10])
        transport = server.asked[-1].request.transport
        assert transport is not None
        transport.abort()
        return answer

    fake.script.append(no_etag)
    with pytest.raises(Unavailable):
        await read_all(store, "a")
    assert len(fake.asked) == 1


async def test_leaving_early_frees_the_connection_and_is_no_failure(fake: FakeS3) -> None:
    store = await fake.started(max_connections=1)
    fake.objects["a"] = (bytes(16 * MIB), {})
    for _ in range(3):
        pieces = cast("AsyncGenerator[bytes, None]", store.read("a"))
        async with aclosing(pieces):
            assert len(await anext(pieces)) > 0
    assert await read_all(store, "a", 0, 5) == bytes(5)
    assert fake.observer.outcomes("read") == ["ok"] * 4
    assert fake.observer.seen[0].received < 8 * MIB, "the rest was not fetched"


async def test_a_whole_read_keeps_its_connection(fake: FakeS3) -> None:
    store = await fake.started(max_connections=1)
    fake.objects["a"] = (BODY, {})
    ports = set()
    for _ in range(4):
        assert await read_all(store, "a", 1) == BODY[1:]
        transport = fake.asked[-1].request.transport
        assert transport is not None
        ports.add(transport.get_extra_info("peername"))
    assert len(ports) == 1
