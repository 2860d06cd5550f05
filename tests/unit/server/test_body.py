"""Bodies of requests: their pieces, their limits, and what cuts them off. Time passes only where all wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from selectors import BaseSelector, SelectorKey

import pytest
from starlette.types import Message

from bucketry.server.body import (
    AHEAD,
    LEAST_RATE,
    MOST_AHEAD,
    ClientGone,
    ClientSilent,
    Drain,
    RequestBody,
    ServerStopping,
)

LONG = 60.0
TICK = 1e-6
"""Seconds that each turn of the loop takes: clocks do not stand still."""


@pytest.fixture(autouse=True)
async def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's time is the test's own: where nothing is left to do but to wait, it is that much later at once.

    So a machine that is busy changes no silence and no rate, and nothing here takes its time.
    """
    loop = asyncio.get_running_loop()
    selector: BaseSelector = loop._selector  # type: ignore[attr-defined]
    select, now = selector.select, loop.time()

    def jump(timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        nonlocal now
        if timeout is None:
            return select(None)
        now += max(timeout, TICK)
        return select(0)

    monkeypatch.setattr(selector, "select", jump)
    monkeypatch.setattr(loop, "time", lambda: now)


def piece(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


GONE: Message = {"type": "http.disconnect"}


class Client:
    """Sends messages; a number among them is so many seconds of silence, and after the last one it is silent."""

    def __init__(self, *script: Message | float) -> None:
        self._script = list(script)
        self.asked = 0

    async def receive(self) -> Message:
        self.asked += 1
        while self._script:
            step = self._script.pop(0)
            if not isinstance(step, float | int):
                return step
            await asyncio.sleep(step)
        await asyncio.Event().wait()
        raise AssertionError


def body_of(*script: Message | float, idle: float = LONG, drain: Drain | None = None) -> RequestBody:
    return RequestBody(Client(*script).receive, drain or Drain(), idle=idle)


async def pieces(body: RequestBody) -> list[bytes]:
    return [each async for each in body]


async def test_pieces_come_as_they_arrive_and_are_counted() -> None:
    body = body_of(piece(b"ab"), piece(b""), piece(b"cde"), piece(b"f", more=False))
    assert await pieces(body) == [b"ab", b"cde", b"f"]
    assert body.received == 6


async def test_nothing_is_asked_for_after_the_end() -> None:
    client = Client(piece(b"ab", more=False))
    body = RequestBody(client.receive, Drain(), idle=LONG)
    assert await pieces(body) == [b"ab"]
    assert await pieces(body) == []
    await body.discard(100)
    assert client.asked == 1


async def test_message_without_fields_is_an_empty_body() -> None:
    assert await pieces(body_of({"type": "http.request"})) == []


async def test_client_that_goes_away_is_told_after_what_it_sent() -> None:
    body = body_of(piece(b"ab"), GONE)
    reader = aiter(body)
    assert await anext(reader) == b"ab"
    with pytest.raises(ClientGone):
        await anext(reader)


async def test_client_that_falls_silent_is_cut_off_and_not_waited_for_again() -> None:
    client = Client(piece(b"ab"))
    body = RequestBody(client.receive, Drain(), idle=0.05)
    with pytest.raises(ClientSilent, match=r"0\.05 seconds"):
        await pieces(body)
    await asyncio.wait_for(body.discard(1000), 0.02)
    assert (body.received, client.asked) == (2, 2)


async def test_silence_begins_anew_with_each_piece() -> None:
    data = bytes(1000)
    body = body_of(0.03, piece(data), 0.03, piece(data), 0.03, piece(data, more=False), idle=0.06)
    assert len(await pieces(body)) == 3


async def test_body_that_trickles_is_cut_off_though_it_is_never_silent_for_long() -> None:
    script: list[Message | float] = []
    for _ in range(50):
        script += [0.01, piece(b"x")]
    body = body_of(*script, idle=0.1)
    with pytest.raises(ClientSilent, match=f"less than {LEAST_RATE} bytes a second"):
        await pieces(body)
    assert body.received < 20


async def test_last_piece_of_a_slow_body_is_taken() -> None:
    body = body_of(0.04, piece(b"x"), 0.04, piece(b"y"), 0.04, piece(b"z", more=False), idle=0.1)
    assert b"".join(await pieces(body)) == b"xyz"


async def test_time_that_the_server_takes_is_not_the_clients() -> None:
    body = body_of(piece(b"x"), piece(b"y"), piece(b"z", more=False), idle=0.05)
    found = b""
    async for each in body:
        await asyncio.sleep(0.06)
        found += each
    assert found == b"xyz"


@pytest.mark.parametrize("limit", [0, 5, 6])
async def test_whole_is_none_beyond_the_limit(limit: int) -> None:
    body = body_of(piece(b"abc"), piece(b"def"), piece(b"", more=False))
    assert await body.whole(limit) == (b"abcdef" if limit == 6 else None)


async def test_whole_of_an_endless_body_ends_at_the_limit() -> None:
    async def endless() -> Message:
        return piece(bytes(1000))

    body = RequestBody(endless, Drain(), idle=LONG)
    assert await body.whole(10_000) is None
    assert body.received == 11_000


async def test_discard_takes_no_more_than_its_limit() -> None:
    async def endless() -> Message:
        return piece(bytes(1000))

    body = RequestBody(endless, Drain(), idle=LONG)
    await body.discard(10_000)
    assert body.received == 11_000


@pytest.mark.parametrize("script", [[GONE], [piece(b"a"), GONE], [0.2]], ids=["gone", "gone later", "silent"])
async def test_discard_of_a_body_that_ends_badly_is_quiet(script: list[Message | float]) -> None:
    await body_of(*script, idle=0.05).discard(1000)


async def test_body_that_is_waited_for_is_cut_off_when_the_server_can_wait_no_longer() -> None:
    drain = Drain()
    body = body_of(piece(b"ab"), drain=drain)
    reading = asyncio.create_task(pieces(body))
    await asyncio.sleep(0.01)
    assert not reading.done()
    drain.cut_off()
    with pytest.raises(ServerStopping):
        await asyncio.wait_for(reading, 1)
    await asyncio.wait_for(body.discard(1000), 0.1)


async def test_body_that_begins_after_the_cut_is_not_read() -> None:
    drain = Drain()
    drain.cut_off()
    with pytest.raises(ServerStopping):
        await pieces(body_of(piece(b"ab"), drain=drain))


async def test_pieces_between_which_the_server_was_cut_off_are_the_last() -> None:
    drain = Drain()
    body = body_of(piece(b"ab"), piece(b"cd", more=False), drain=drain)
    reader = aiter(body)
    assert await anext(reader) == b"ab"
    drain.cut_off()
    with pytest.raises(ServerStopping):
        await anext(reader)


@pytest.mark.parametrize(
    "end",
    [lambda body: None, lambda body: body.wake()],
    ids=["ended", "woken"],
)
async def test_wake_of_a_body_that_waits_for_nothing_does_nothing(end: Callable[[RequestBody], None]) -> None:
    body = body_of(piece(b"ab", more=False))
    end(body)
    assert await pieces(body) == [b"ab"]
    body.wake()


async def test_drain_forgets_bodies_that_ended() -> None:
    drain = Drain()
    body = body_of(piece(b"ab", more=False), drain=drain)
    await pieces(body)
    drain.cut_off()  # There is none to wake.
    drain.leave(body)


class Server:
    """Gives futures, as granian does; those that are asked for ahead wait until messages are `put`."""

    def __init__(self, *messages: Message) -> None:
        self._messages = list(messages)
        self._asked: list[asyncio.Future[Message]] = []
        self.asked = 0

    def receive(self) -> asyncio.Future[Message]:
        self.asked += 1
        asked: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        self.put()
        return asked

    def put(self, *messages: Message) -> None:
        self._messages += messages
        while self._messages and self._asked:
            asked = self._asked.pop(0)
            if not asked.done():
                asked.set_result(self._messages.pop(0))

    def waiting(self) -> int:
        return sum(not asked.done() for asked in self._asked)


async def test_server_that_can_be_asked_ahead_is_asked_for_no_more_than_the_limit() -> None:
    server = Server(piece(b"a" * (AHEAD // 4)))
    reader = aiter(RequestBody(server.receive, Drain(), idle=LONG))
    assert len(await anext(reader)) == AHEAD // 4
    assert server.asked == 1  # The first piece tells how large they are.
    coming = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    assert server.waiting() == 1 + 4
    server.put(piece(b"b" * AHEAD * 2))
    assert len(await coming) == AHEAD * 2
    coming = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    assert server.waiting() == 4  # Large pieces are not asked for ahead, beyond what was.
    coming.cancel()


async def test_pieces_that_were_asked_for_ahead_keep_their_order() -> None:
    wanted = [bytes([number]) * 10 for number in range(200)]
    server = Server(*map(piece, wanted), piece(b"", more=False))
    assert await pieces(RequestBody(server.receive, Drain(), idle=LONG)) == wanted


async def test_what_was_asked_for_ahead_is_given_up_with_the_body() -> None:
    server = Server(piece(b"a"), piece(b"b"))
    body = RequestBody(server.receive, Drain(), idle=LONG)
    reader = aiter(body)
    assert [await anext(reader), await anext(reader)] == [b"a", b"b"]
    assert server.waiting() == MOST_AHEAD
    body.close()
    assert server.waiting() == 0


async def test_reader_that_stops_early_leaves_what_was_asked_for_ahead_to_the_next() -> None:
    server = Server(piece(b"a"), piece(b"b"), piece(b"c"), piece(b"d", more=False))
    body = RequestBody(server.receive, Drain(), idle=LONG)
    reader = aiter(body)
    assert [await anext(reader), await anext(reader)] == [b"a", b"b"]
    assert await pieces(body) == [b"c", b"d"]


async def test_silence_among_pieces_asked_for_ahead_ends_the_body() -> None:
    server = Server(piece(b"a"), piece(b"b"))
    body = RequestBody(server.receive, Drain(), idle=0.05)
    with pytest.raises(ClientSilent):
        await pieces(body)
    assert body.received == 2
    assert server.waiting() == 0
