"""One connection through a front: what goes through, how it ends, and what it costs who does not play along."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.server.front.conftest import Contexts, Set
from tests.unit.server.front.stage import HEAD, STUCK, Client, Stage, at_end, drained

from bucketry.server.front.frames import MOST_OPEN, PREFACE
from bucketry.server.front.relay import HANDSHAKE, READ, Buffers, Limits, Relay, State

KEPT = READ + 8 * 1024
"""A read's worth, and what TLS adds to it."""
REQUEST = b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"
SMALL = 4608
"""Bytes: the least that the kernel has for a socket."""
H2 = ("h2", "http/1.1")


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    end.close()


def test_bytes_go_through_unchanged(play: Set) -> None:
    stage, client = play()
    client.say(REQUEST)
    stage.run()
    assert drained(stage.the_worker) == REQUEST
    stage.the_worker.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    assert client.hear() == b"HTTP/1.1 200 OK\r\n\r\n"
    assert (stage.state, stage.agreements, stage.attempts, stage.shown) == (State.OPEN, 1, 1, None)


@given(seed=st.integers(0, 2**32 - 1), small=st.booleans(), up=st.integers(3, 400_000), down=st.integers(0, 400_000))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_pieces_and_whoever_is_slow(
    contexts: Contexts, seed: int, small: bool, up: int, down: int
) -> None:
    """Both directions at once, in pieces that both sides choose; nothing is lost, and little is kept on the way."""
    turns = random.Random(seed)
    asked, answer = turns.randbytes(up), turns.randbytes(down)
    stage = Stage(contexts.server(), sends=SMALL if small else None)
    client = Client(stage, contexts.client()).agree()
    got, said, answered = bytearray(), 0, 0
    while len(got) < up or len(client.got) < down:
        match turns.randrange(4):
            case 0 if said < up:
                # A client, too, keeps no more than some records.
                if len(client.unsent) < 50_000:
                    step = turns.choice((1, 100, 5_000, 60_000))
                    client.tls.write(asked[said : said + step])
                    said += len(asked[said : said + step])
                client.push(turns.choice((1, 30, 1 << 20)))
            case 1 if stage.worker is not None and answered < down:
                try:
                    answered += stage.worker.send(answer[answered : answered + turns.choice((1, 700, 200_000))])
                except BlockingIOError:
                    pass
            case 2:
                client.push()
                client.pull(turns.choice((1, 3_000, 1 << 20)))
            case 3 if stage.worker is not None:
                got += drained(stage.worker, turns.choice((1, 3_000, 1 << 20)))
        stage.run()
    assert bytes(got) == asked
    assert bytes(client.got) == answer
    # What comes from the client beside it is cipher text of one piece.
    assert stage.kept <= 2 * KEPT
    stage.close()


def test_worker_that_takes_nothing_stops_the_client(play: Set) -> None:
    stage, client = play(sends=SMALL)
    client.say(noise(2_000_000))
    for _ in range(20):
        client.push()
        stage.run()
    assert len(client.unsent) > 1_500_000
    assert 0 < stage.kept <= KEPT
    got = bytearray()
    while len(got) < 2_000_000:
        got += drained(stage.the_worker)
        client.push()
        stage.run()
    assert bytes(got) == noise(2_000_000)


def test_client_that_takes_nothing_stops_the_worker_and_is_cut_off(play: Set) -> None:
    stage, client = play(sends=SMALL)
    client.say(REQUEST)
    stage.run()
    assert stage.fill(stage.the_worker) < 500_000
    assert stage.kept <= KEPT
    stage.pass_time(STUCK - 2)
    assert stage.at(State.OPEN)
    stage.pass_time(4)
    assert stage.at(State.ENDED)
    with contextlib.suppress(ConnectionError):  # What was not read yet is lost.
        drained(stage.the_worker)
    assert at_end(stage.the_worker)


def test_slow_client_gets_the_whole_of_a_last_answer(play: Set) -> None:
    stage, client = play(sends=SMALL)
    client.say(REQUEST)
    stage.run()
    answer, sent = noise(READ), 0
    while sent < len(answer):
        try:
            sent += stage.the_worker.send(answer[sent:])
        except BlockingIOError:
            client.pull(1000)
        stage.run()
    stage.the_worker.close()
    began = stage.loop.now
    while not client.ended:
        stage.pass_time(STUCK / 2, look=STUCK / 2)
        client.pull(6000)
    assert bytes(client.got) == answer
    assert stage.loop.now - began > STUCK


def test_client_that_takes_a_little_now_and_then_holds_no_connection(play: Set) -> None:
    """Whatever it takes shows that it is there: only all of it together takes too long."""
    stage, client = play(sends=SMALL)
    client.say(REQUEST)
    stage.run()
    began = stage.loop.now
    while not stage.at(State.ENDED):
        stage.fill(stage.the_worker)
        stage.pass_time(STUCK / 4, look=STUCK / 4)
        client.pull(3000)
        assert stage.loop.now - began < 3 * STUCK
    assert stage.loop.now - began > STUCK
    assert len(client.got) > 3000


def test_client_that_ends_its_side_gets_its_answer(play: Set) -> None:
    stage, client = play()
    client.say(REQUEST)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    client.push()
    stage.client.shutdown(socket.SHUT_WR)
    stage.run()
    assert drained(stage.the_worker) == REQUEST
    assert at_end(stage.the_worker)
    stage.the_worker.sendall(b"answer")
    stage.the_worker.close()
    assert client.hear() == b"answer"
    assert stage.at(State.ENDED)


def test_end_waits_until_the_worker_has_all_before_it(play: Set) -> None:
    stage, client = play(sends=SMALL)
    client.tls.write(noise(300_000))
    got = bytearray()
    client.push()
    while client.unsent:
        stage.run()
        if stage.worker is not None:
            got += drained(stage.worker, 10_000)
        client.push()
    stage.client.shutdown(socket.SHUT_WR)
    while not at_end_of(stage.the_worker, got):
        stage.run()
    assert bytes(got) == noise(300_000)


def at_end_of(end: socket.socket, got: bytearray) -> bool:
    """Takes a piece of what is there; whether there is no more."""
    try:
        piece = end.recv(1 << 16)
    except BlockingIOError:
        return False
    got += piece
    return not piece


def test_answer_arrives_although_the_client_still_sends(play: Set) -> None:
    stage, client = play()
    client.say(REQUEST + noise(100_000))
    stage.run()
    drained(stage.the_worker)
    stage.the_worker.sendall(b"HTTP/1.1 413 Too Large\r\n\r\n")
    stage.the_worker.close()
    stage.run()
    assert stage.at(State.LINGERING)
    for _ in range(10):
        client.say(noise(100_000))
        stage.run()
    assert client.hear() == b"HTTP/1.1 413 Too Large\r\n\r\n"
    assert client.ended
    assert stage.at(State.LINGERING)
    stage.client.close()
    stage.run()
    assert stage.at(State.ENDED)


@pytest.mark.parametrize("flood", [False, True])
def test_nobody_lingers_for_ever(play: Set, flood: bool) -> None:
    stage, client = play()
    client.say(REQUEST)
    stage.run()
    stage.the_worker.close()
    stage.run()
    assert stage.at(State.LINGERING)
    if flood:
        for _ in range(400):
            client.say(noise(60_000))
            stage.run()
            if stage.at(State.ENDED):
                break
            client.unsent = b""
    else:
        stage.pass_time(4)
    assert stage.at(State.ENDED)


def test_worker_that_hears_no_more_has_an_answer(play: Set) -> None:
    """Its answer is there before what the client sends is refused."""
    stage, client = play(sends=SMALL)
    client.say(REQUEST)
    stage.run()
    drained(stage.the_worker)
    stage.the_worker.sendall(b"HTTP/1.1 401 Unauthorized\r\n\r\n")
    stage.the_worker.close()
    client.say(noise(200_000))
    # The client's bytes are looked at first, and cannot be passed on.
    stage.relay._client_readable()
    assert client.hear() == b"HTTP/1.1 401 Unauthorized\r\n\r\n"
    assert client.ended


def test_worker_that_resets_ends_the_connection(play: Set) -> None:
    stage, client = play()
    client.say(REQUEST)
    stage.run()
    stage.the_worker.close()  # With something unread: the other end sees a reset.
    assert client.hear() == b""
    assert client.ended


def test_client_that_resets_ends_all(play: Set) -> None:
    stage, client = play()
    client.say(REQUEST)
    stage.run()
    drained(stage.the_worker)
    reset(stage.client)
    stage.run()
    assert at_end(stage.the_worker)
    # Of a pair of sockets it looks like an end: what is left is what the worker does.
    stage.the_worker.close()
    stage.run()
    assert stage.at(State.ENDED)


@pytest.mark.parametrize("garbage", [b"\0" * 100, b"\x16\x03\x01\x00\x05hello", b"SSH-2.0-OpenSSH\r\n"])
def test_what_is_no_tls_is_refused(play: Set, garbage: bytes) -> None:
    stage, _ = play(agree=False)
    stage.client.send(garbage)
    stage.run()
    assert len(stage.refusals) == 1
    assert stage.at(State.LINGERING)
    said = drained(stage.client)
    assert said == b"" or said[0] == 0x15  # An alert.
    stage.pass_time(4)
    assert (stage.state, stage.attempts) == (State.ENDED, 0)


def test_plain_http_is_told_what_is_spoken_here(play: Set) -> None:
    stage, _ = play(agree=False)
    stage.client.send(REQUEST)
    stage.run()
    said = drained(stage.client)
    assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"https://" in said
    assert stage.attempts == 0


def test_damaged_record_ends_both_sides_with_an_alert(play: Set) -> None:
    stage, client = play()
    client.say(REQUEST)
    stage.run()
    drained(stage.the_worker)
    client.tls.write(b"more")
    record = bytearray(client.out.read())
    record[-1] ^= 1
    stage.client.send(record)
    stage.run()
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        client.hear()
    assert at_end(stage.the_worker)


@pytest.mark.parametrize("agree", [False, True])
def test_silent_clients_are_cut_off(play: Set, agree: bool) -> None:
    stage, _ = play(agree=agree)
    limit = HEAD if agree else HANDSHAKE
    stage.pass_time(limit - 1)
    assert stage.at(State.FIRST if agree else State.AGREEING)
    stage.pass_time(3)
    assert (stage.state, stage.attempts) == (State.ENDED, 0)


def test_handshake_byte_by_byte_has_the_same_limit(play: Set) -> None:
    stage, client = play(agree=False)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    hello = client.out.read()
    for byte in hello[: int(HANDSHAKE) + 1]:
        stage.client.send(bytes((byte,)))
        stage.pass_time(1)
    stage.pass_time(1)
    assert stage.at(State.ENDED)


@pytest.mark.parametrize(("begin", "through"), [(b"PRI", False), (b"PRO", True), (b"GET", True), (PREFACE, False)])
def test_preface_of_another_version_than_agreed_on_goes_nowhere(play: Set, begin: bytes, through: bool) -> None:
    stage, client = play()
    for byte in begin:
        if not stage.at(State.ENDED):
            client.say(bytes((byte,)))
            stage.run()
    assert (stage.attempts == 1) is through
    assert stage.at(State.OPEN) is through


def test_first_two_bytes_are_no_request_and_have_a_limit(play: Set) -> None:
    stage, client = play()
    client.say(b"PR")
    stage.pass_time(HEAD - 1)
    assert (stage.state, stage.attempts) == (State.FIRST, 0)
    stage.pass_time(3)
    assert stage.at(State.ENDED)


@pytest.mark.parametrize("begin", [b"G", REQUEST, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"])
def test_http2_that_is_agreed_on_must_be_spoken(play: Set, begin: bytes) -> None:
    stage, client = play(alpn=H2)
    client.say(begin)
    stage.run()
    if begin != b"G":
        assert (stage.state, stage.attempts) == (State.ENDED, 0)
        return
    stage.pass_time(HEAD + 2)
    assert (stage.state, stage.attempts) == (State.ENDED, 0)


def test_worker_that_is_not_there_yet_is_waited_for_with_patience(play: Set) -> None:
    stage, client = play(workers=False)
    client.say(REQUEST)
    stage.pass_time(10, look=0.01)
    assert 10 <= stage.attempts <= 18
    stage.there = True
    client.say(b"more")
    stage.pass_time(2)
    assert drained(stage.the_worker) == REQUEST + b"more"


def test_client_that_has_said_all_waits_for_a_worker_as_well(play: Set) -> None:
    stage, client = play(workers=False)
    client.say(REQUEST)
    stage.client.shutdown(socket.SHUT_WR)
    stage.pass_time(1)
    assert stage.at(State.FIRST)
    stage.there = True
    stage.pass_time(2)
    assert drained(stage.the_worker) == REQUEST
    assert at_end(stage.the_worker)


def test_no_worker_for_as_long_as_a_head_may_take_is_the_end(play: Set) -> None:
    stage, client = play(workers=False)
    client.say(REQUEST)
    stage.pass_time(HEAD + 2)
    assert stage.at(State.ENDED)
    stage.pass_time(5)
    assert stage.worker is None


def test_server_that_stops_waits_for_nobody_who_has_said_nothing(play: Set) -> None:
    silent, _ = play()
    silent.relay.stop()
    assert silent.at(State.ENDED)
    busy, client = play()
    client.say(REQUEST)
    busy.run()
    busy.relay.stop()
    assert busy.at(State.OPEN)


class Echoing:
    """TLS of a client that has the server say something for all it sends, as updates of keys do."""

    def __init__(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self._in, self._out = incoming, outgoing

    def do_handshake(self) -> None:
        self._in.read()

    def selected_alpn_protocol(self) -> None:
        return None

    def read(self, size: int, into: memoryview) -> int:
        self._out.write(self._in.read())
        raise ssl.SSLWantReadError

    def unwrap(self) -> None:
        return None


class EchoingContext:
    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **_: Any) -> Echoing:
        return Echoing(incoming, outgoing)


def test_client_that_has_tls_talk_and_does_not_listen_is_no_longer_heard() -> None:
    stage = Stage(EchoingContext(), sends=SMALL)  # type: ignore[arg-type]
    stage.client.send(b"hello")
    assert stage.fill(stage.client) < 2_000_000
    assert stage.kept <= 4 * READ
    stage.pass_time(STUCK + 2)
    assert stage.at(State.ENDED)
    stage.close()


# HTTP/2


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


DATA, HEADERS, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 4, 6, 7, 9
END_STREAM, END_HEADERS = 1, 4
HELLO = PREFACE + frame(SETTINGS, 0, 0)


def goaways(client: Client) -> list[int]:
    """Of all that a client got: the last stream that each says."""
    data, found = client.hear(), []
    while data:
        size = int.from_bytes(data[:3], "big")
        if data[3] == GOAWAY:
            found.append(int.from_bytes(data[9:13], "big"))
        data = data[9 + size :]
    return found


def speaking_http2(play: Set) -> tuple[Stage, Client]:
    stage, client = play(alpn=H2)
    assert client.tls.selected_alpn_protocol() == "h2"
    client.say(HELLO)
    stage.run()
    assert drained(stage.the_worker) == HELLO
    stage.the_worker.sendall(frame(SETTINGS, 0, 0))
    return stage, client


def test_idle_http2_is_told_that_it_ends(play: Set) -> None:
    stage, client = speaking_http2(play)
    stage.pass_time(HEAD - 1)
    assert stage.at(State.OPEN)
    stage.pass_time(2)
    assert goaways(client) == [0]
    assert client.ended
    stage.pass_time(4)
    assert stage.at(State.ENDED)


def test_pings_and_settings_do_not_keep_a_connection_open(play: Set) -> None:
    stage, client = speaking_http2(play)
    for _ in range(int(HEAD) + 2):
        client.say(frame(PING, 0, 0, bytes(8)) + frame(SETTINGS, 0, 0))
        stage.pass_time(1)
    assert goaways(client) == [0]


def test_open_request_keeps_it_open_and_its_end_counts_anew(play: Set) -> None:
    stage, client = speaking_http2(play)
    client.say(frame(HEADERS, END_HEADERS, 1))
    stage.pass_time(10 * HEAD)
    assert stage.at(State.OPEN)
    stage.the_worker.sendall(frame(HEADERS, END_HEADERS | END_STREAM, 1))
    stage.pass_time(HEAD - 1)
    assert stage.at(State.OPEN)
    client.say(frame(HEADERS, END_HEADERS, 3))
    stage.run()
    stage.the_worker.sendall(frame(HEADERS, END_HEADERS | END_STREAM, 3))
    stage.pass_time(HEAD - 1)
    assert stage.at(State.OPEN)
    stage.pass_time(3)
    assert goaways(client) == [3]


def test_answer_for_which_there_is_no_window_ends_the_connection(play: Set) -> None:
    """Other requests do not help it."""
    stage, client = speaking_http2(play)
    client.say(frame(HEADERS, END_HEADERS | END_STREAM, 1))
    stage.run()
    stage.the_worker.sendall(frame(HEADERS, END_HEADERS, 1))
    for stream in range(3, 2 * int(STUCK) - 1, 2):
        client.say(frame(HEADERS, END_HEADERS | END_STREAM, stream))
        stage.pass_time(1)
        stage.the_worker.sendall(frame(HEADERS, END_HEADERS | END_STREAM, stream))
    assert stage.at(State.OPEN)
    stage.pass_time(4)
    assert goaways(client) == [2 * int(STUCK) - 3]


@pytest.mark.parametrize("beside", [False, True])
def test_head_that_never_ends_is_cut_off(play: Set, beside: bool) -> None:
    """Beside a request that is open, too: behind such a head nothing else can be said."""
    stage, client = speaking_http2(play)
    if beside:
        client.say(frame(HEADERS, END_HEADERS, 1))
        stage.pass_time(5)
    client.say(frame(HEADERS, 0, 3))
    for _ in range(int(2 * HEAD) + 2):
        client.say(frame(CONTINUATION, 0, 3, b"x"))
        stage.pass_time(1)
    assert goaways(client) == [3]


def test_frame_that_never_ends_is_cut_off(play: Set) -> None:
    stage, client = speaking_http2(play)
    client.say(frame(HEADERS, END_HEADERS, 1, bytes(100))[:-1])
    stage.pass_time(2 * HEAD + 2)
    assert goaways(client) == [0]


def test_nothing_is_put_into_the_middle_of_a_frame(play: Set) -> None:
    stage, client = speaking_http2(play)
    part = frame(PING, 1, 0, bytes(8))[:-3]
    stage.the_worker.sendall(part)
    stage.pass_time(HEAD + 2)
    assert client.hear() == frame(SETTINGS, 0, 0) + part
    assert client.ended


def test_own_goaway_is_not_said_after_the_servers(play: Set) -> None:
    stage, client = speaking_http2(play)
    stage.the_worker.sendall(frame(GOAWAY, 0, 0, bytes(8)))
    stage.pass_time(HEAD + 2)
    assert goaways(client) == [0]
    assert client.ended


def test_more_streams_than_any_client_needs_are_the_end(play: Set) -> None:
    stage, client = speaking_http2(play)
    for stream in range(1, 2 * MOST_OPEN + 4, 2):
        client.say(frame(HEADERS, END_HEADERS, stream))
        stage.run()
        if stage.at(State.ENDED):
            break
        drained(stage.the_worker)
    assert stage.at(State.ENDED)


def test_nothing_of_one_connection_is_seen_by_another(contexts: Contexts) -> None:
    """They read into the same buffers."""
    stages = [Stage(contexts.server()) for _ in range(2)]
    for stage in stages[1:]:
        stage.relay._buffers = stages[0].buffers
    clients = [Client(stage, contexts.client()).agree() for stage in stages]
    for turn in range(20):
        for number, client in enumerate(clients):
            client.say(b"%d:%d;" % (number, turn) * (1 + 17 * turn))
        for stage in stages:
            stage.run()
        for number, stage in enumerate(stages):
            assert drained(stage.the_worker) == b"%d:%d;" % (number, turn) * (1 + 17 * turn)
    for stage in stages:
        stage.close()


def test_relay_that_is_ended_twice_ends_once(contexts: Contexts) -> None:
    stage = Stage(contexts.server())
    stage.relay.end()
    stage.relay.end()
    stage.relay.look()
    assert stage.ends == 1
    assert isinstance(stage.relay, Relay)
    assert isinstance(stage.buffers, Buffers)
    assert Limits(1, 2).stuck == 2
    stage.close()
