"""Credentials, forms and scopes that are too large, too slow or too many."""

from __future__ import annotations

import base64
import contextlib
import socket
import time
from urllib.parse import urlencode

from tests.support.access import PASSWORDS, World, basic
from tests.support.api import Answer


def test_huge_credentials_are_refused_and_the_server_goes_on(world: World) -> None:
    for size in (1_000, 20_000, 200_000, 3_000_000):
        for scheme in ("Basic", "Bearer", "Digest", ""):
            value = base64.b64encode(b"x:" + b"y" * size).decode()
            try:
                answer = world(f"{scheme} {value}".strip(), "GET", "/v2/")
            except OSError:
                continue  # It was cut off while it was sent.
            assert answer.status in (400, 401, 413, 431, 429), (size, scheme, answer)
    assert world("root", "GET", "/v2/").status == 200
    several = "\r\n".join(["GET /v2/ HTTP/1.1", "Host: x", *[f"Authorization: {basic('a', 'b')}"] * 50, "", ""])
    with world.api.wire() as wire:
        wire.send(several.encode())
        assert wire.answer().status in (400, 401, 429)


def test_of_several_credentials_none_is_taken(world: World) -> None:
    """What is in front of the registry may have looked at another one than the registry would."""
    for first, second in ((basic("alice", PASSWORDS["alice"]), basic("bob", "x")), (basic("bob", "x"), "Bearer x")):
        lines = ["GET /v2/ HTTP/1.1", "Host: x", f"Authorization: {first}", f"Authorization: {second}", "", ""]
        with world.api.wire() as wire:
            wire.send("\r\n".join(lines).encode())
            assert wire.answer().status in (400, 401)


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def test_forms_that_are_too_large_or_none(world: World) -> None:
    def post(body: bytes, **headers: str) -> Answer:
        return world(None, "POST", "/token", body, {**FORM, **headers})

    for body in (
        b"a=" + b"x" * 70_000,
        b"a=" + b"x" * 3_000_000,
        b"&".join([b"a=b"] * 10_000),
        b"",
        b"\xff\xfe",
        b"grant_type",
        b"=&=&=",
        b"%zz=%",
        b"grant_type=password&" * 300,
        b'{"grant_type": "password"}',
        b"grant_type=client_credentials",
    ):
        assert post(body).status == 400, body[:40]
    assert world(None, "POST", "/token", b"{}", {"Content-Type": "application/json"}).status == 400
    assert world(None, "POST", "/token", b"grant_type=password").status == 400
    pieces = [b"a=" + b"x" * 30_000] * 20
    assert world.api.request("POST", "/token", pieces, FORM).status == 400
    right = urlencode({"grant_type": "password", "username": "alice", "password": PASSWORDS["alice"]}).encode()
    answer = post(right + b"&scope=repository:a/x:pull&service=bucketry")
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert post(right + b"&service=other").status == 400
    for method in ("PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
        assert world("alice", method, "/token").status == 405, method


def test_bodies_to_the_token_service_that_stall_or_trickle_are_cut_off(world: World) -> None:
    began = time.monotonic()
    with world.api.wire() as wire:
        wire.begin("POST", "/token", {**FORM, "Content-Length": "1000"})
        wire.send(b"grant_type=pass")
        assert wire.answer("POST").status == 408
    with world.api.wire() as wire:
        wire.begin("POST", "/token", {**FORM, "Transfer-Encoding": "chunked"})
        wire.socket.setblocking(False)
        answered = b""
        while not answered and time.monotonic() - began < 20:
            wire.chunk(b"x")
            time.sleep(0.05)
            with contextlib.suppress(BlockingIOError):
                answered = wire.socket.recv(100)
        assert answered.startswith(b"HTTP/1.1 408 ")
    stalled = [socket.create_connection(("127.0.0.1", world.server.port)) for _ in range(60)]
    try:
        for each in stalled:
            each.sendall(b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\nContent-Type: ")
            each.sendall(b"application/x-www-form-urlencoded\r\n\r\na=")
        assert world("alice", "GET", "/token").status == 200
    finally:
        for each in stalled:
            each.close()


def test_ten_thousand_scopes_are_refused(world: World) -> None:
    scopes = [("scope", f"repository:a/r{number}:pull") for number in range(10_000)]
    answers = [
        world("alice", "GET", f"/token?{urlencode(scopes)}"),
        world("alice", "GET", f"/token?{urlencode(scopes[:101])}"),
        world("alice", "GET", f"/token?{urlencode({'scope': ' '.join(scope for _, scope in scopes[:101])})}"),
        world("alice", "POST", "/token", urlencode(scopes).encode(), FORM),
        world("alice", "POST", "/token", urlencode({"scope": " ".join(s for _, s in scopes)}).encode(), FORM),
    ]
    assert [answer.status for answer in answers][1:] == [400] * 4
    assert answers[0].status in (400, 414, 431)
    assert world("alice", "GET", f"/token?{urlencode(scopes[:100])}").status == 200
