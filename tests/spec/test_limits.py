"""Clients that are slow, silent, or many: what they may cost the server and the others."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.spec.conftest import Running
from tests.support.api import EMPTY, Api, Wire, image, noise
from tests.support.images import digest_of
from tests.support.server import bucketry

TIMEOUT = 1.5
"""Seconds: of the head and of a silent body, on the strict server."""


@contextlib.contextmanager
def wires(port: int, count: int) -> Iterator[list[Wire]]:
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(Wire(port))
            stack.callback(opened[-1].close)
        yield opened


# Heads


@pytest.mark.parametrize(
    "sent", [b"", b"GET /v2/ HT", b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX-A: b"], ids=["none", "line", "headers"]
)
def test_slow_headers_are_cut_off(sent: bytes, strict: Running) -> None:
    began = time.monotonic()
    with strict.api.wire(timeout=5) as wire:
        wire.send(sent)
        wire.rest()
    assert TIMEOUT - 0.3 < time.monotonic() - began < TIMEOUT + 2


def test_headers_that_trickle_are_cut_off(strict: Running) -> None:
    began = time.monotonic()
    with strict.api.wire(timeout=5) as wire:
        wire.send(b"GET /v2/ HTTP/1.1\r\n")
        with pytest.raises(OSError):
            trickle(wire, b"X: y\r\n", seconds=TIMEOUT + 3)
        assert time.monotonic() - began < TIMEOUT + 2


def trickle(wire: Wire, piece: bytes, *, seconds: float) -> None:
    """Sends a piece ten times a second. Raises OSError where the server has closed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        wire.send(piece)
        time.sleep(0.1)


def test_idle_connection_is_kept_for_the_next_request_and_then_closed(strict: Running) -> None:
    with strict.api.wire(timeout=5) as wire:
        for _ in range(3):
            wire.begin("GET", "/v2/")
            assert wire.answer().status == 200
            time.sleep(TIMEOUT / 3)
        began = time.monotonic()
        assert wire.rest() == b""
        assert time.monotonic() - began < TIMEOUT + 2


@pytest.mark.parametrize("where", ["path", "query", "header", "many"])
def test_head_that_is_too_large_is_431(where: str, strict: Running) -> None:
    filler = "a" * 5000
    path = {"path": f"/v2/{filler}/tags/list", "query": f"/v2/?{filler}"}.get(where, "/v2/")
    headers = {"header": {"X-A": filler}, "many": {f"X-{n}": "a" * 60 for n in range(80)}}.get(where, {})
    assert strict.api.request("GET", path, headers=headers).error() == (431, "UNSUPPORTED")
    small = {name: value[:30] for name, value in headers.items()}
    assert strict.api.request("GET", "/v2/", headers=small).status == 200


# Bodies


def test_silent_patch_is_408_and_what_arrived_is_kept(strict: Running) -> None:
    api = strict.api
    location = api.begin("silent")
    began = time.monotonic()
    with api.wire(timeout=10) as wire:
        wire.begin("PATCH", location, {"Content-Length": "20"})
        wire.send(b"0123456789")
        answer = wire.answer("PATCH")
    assert TIMEOUT - 0.3 < time.monotonic() - began < TIMEOUT + 1
    assert answer.error()[0] == 408
    assert "1.5 seconds" in answer.message
    status = api.get(location)
    assert status.header("Range") == "0-9"
    location = api.patch(status.header("Location"), b"abcdefghij", content_range="10-19").header("Location")
    assert api.commit(location, digest_of(b"0123456789abcdefghij")).status == 201


def test_silent_put_after_chunks_is_408_and_what_arrived_is_kept(strict: Running) -> None:
    api = strict.api
    location = api.patch(api.begin("silent"), b"0123456789").header("Location")
    with api.wire(timeout=10) as wire:
        wire.begin("PUT", f"{location}?digest={digest_of(b'0123456789abcdefghij')}", {"Content-Length": "10"})
        wire.send(b"abc")
        assert wire.answer("PUT").status == 408
    status = api.get(location)
    assert status.header("Range") == "0-12"
    location = api.patch(status.header("Location"), b"defghij").header("Location")
    assert api.commit(location, digest_of(b"0123456789abcdefghij")).status == 201


def test_silent_manifest_is_408(strict: Running) -> None:
    with strict.api.wire(timeout=10) as wire:
        wire.begin("PUT", "/v2/silent/manifests/v1", {"Content-Length": "200"})
        wire.send(b"{")
        answer = wire.answer("PUT")
    assert answer.status == 408
    assert "is kept" not in answer.message
    assert strict.api.get("/v2/silent/manifests/v1").status == 404


def test_slow_body_that_goes_on_is_taken(strict: Running) -> None:
    """Slower than the limit of silence in all, but never silent for so long, and not at a trickle."""
    api = strict.api
    location = api.begin("slow")
    data = noise("slow", 30_000)
    with api.wire(timeout=10) as wire:
        wire.begin("PATCH", location, {"Content-Length": "30000"})
        for at in range(0, 30_000, 10_000):
            wire.send(data[at : at + 10_000])
            time.sleep(TIMEOUT * 0.6)
        answer = wire.answer("PATCH")
    assert answer.status == 202
    assert api.commit(answer.header("Location"), digest_of(data)).status == 201


def test_body_that_trickles_is_cut_off(strict: Running) -> None:
    """Never silent for long, and yet it would hold its memory for hours."""
    began = time.monotonic()
    with strict.api.wire(timeout=5) as wire:
        wire.begin("PATCH", strict.api.begin("trickle"), {"Content-Length": "1000000"})
        with pytest.raises(OSError):
            trickle(wire, b"x", seconds=TIMEOUT * 2 + 4)
    assert time.monotonic() - began < TIMEOUT * 2 + 3


# Many


@pytest.fixture(scope="module")
def small_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One worker, whose memory is two parts; few connections."""
    folder = tmp_path_factory.mktemp("memory")
    config = (
        '[upload]\npart_size = "8MiB"\nmemory = "16MiB"\n'
        "[limits]\nbody_idle_timeout = 20\nmax_connections = 64\nheader_timeout = 2\n"
    )
    with bucketry(str(folder / "store"), folder, config=config, options=["--workers", "1"]) as server:
        yield Running(Api(server.port, timeout=8), server, folder)


def test_stalled_uploads_do_not_keep_small_ones_from_coming_in(small_memory: Running) -> None:
    api = small_memory.api
    with wires(small_memory.server.port, 6) as stalled:
        for number, wire in enumerate(stalled):
            wire.begin("PATCH", api.begin("stalled"), {"Transfer-Encoding": "chunked"})
            wire.chunk(noise(number, 200_000))
        time.sleep(0.2)
        assert api.metric("bucketry_upload_buffer_bytes") == 16 * 1024 * 1024
        began = time.monotonic()
        api.push_blob("stalled", b"small")
        answer = api.patch(api.begin("stalled"), [b"small, chunked, and of no announced length"])
        assert answer.status == 202
        assert time.monotonic() - began < 5
    deadline = time.monotonic() + 5
    while api.metric("bucketry_upload_buffer_bytes") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert api.metric("bucketry_upload_buffer_bytes") == 0
    data = noise("after", 20_000_000)
    assert api.push_blob("stalled", data) == digest_of(data)


def test_stalled_manifests_do_not_keep_others_from_coming_in(small_memory: Running) -> None:
    api = small_memory.api
    api.push_blob("manifests", EMPTY)
    with wires(small_memory.server.port, 20) as stalled:
        for wire in stalled:
            wire.begin("PUT", "/v2/manifests/manifests/stalled", {"Content-Length": str(4 * 1024 * 1024)})
            wire.send(b"{")
        time.sleep(0.2)
        began = time.monotonic()
        assert api.push_manifest("manifests", "v1", image()).status == 201
        assert time.monotonic() - began < 5


def test_connections_beyond_the_limit_wait_for_their_turn(small_memory: Running) -> None:
    api = small_memory.api
    with wires(small_memory.server.port, 100):
        assert api.get("/v2/").status == 200  # When the silent ones have been closed.
    assert api.get("/v2/").status == 200


def test_hundreds_of_idle_connections_disturb_nobody(api: Api) -> None:
    with wires(api.port, 400) as idle:
        for wire in idle[::10]:
            wire.send(b"GET /v2/ HTTP/1.1\r\n")
        began = time.monotonic()
        for _ in range(10):
            assert api.get("/v2/").status == 200
        assert time.monotonic() - began < 5


def test_requests_on_one_connection_are_answered_in_order(api: Api) -> None:
    with api.wire() as wire:
        for number in range(20):
            wire.begin("GET", f"/v2/pipelined/tags/list?n={number}", {"X-Request-Id": f"r{number}"})
        assert [wire_answer(wire) for _ in range(20)] == [f"r{number}" for number in range(20)]


def wire_answer(wire: Wire) -> str:
    """The request id of the next of several answers on a connection."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += wire.socket.recv(1)
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
    length = int(fields["content-length"])
    while length:
        length -= len(wire.socket.recv(length))
    return fields["x-request-id"]


def test_upload_memory_is_bounded_however_many_push_at_once(small_memory: Running) -> None:
    """24 bodies of 10 MB that have all begun, on a server that may hold two parts."""
    api = small_memory.api
    data = [noise(f"many {number}", 10_000_000) for number in range(3)]

    def finish(wire: Wire, body: bytes) -> int:
        wire.send(body[100_000:])
        return wire.answer("POST").status

    with wires(small_memory.server.port, 24) as pushing, ThreadPoolExecutor(24) as threads:
        for number, wire in enumerate(pushing):
            body = data[number % 3]
            path = f"/v2/many/{number}/blobs/uploads/?digest={digest_of(body)}"
            wire.begin("POST", path, {"Content-Length": "10000000"})
            wire.send(body[:100_000])
        assert api.metric("bucketry_upload_buffer_bytes") == 16 * 1024 * 1024
        answers = [threads.submit(finish, wire, data[number % 3]) for number, wire in enumerate(pushing)]
        assert {answer.result(30) for answer in answers} == {201}
    for number in range(24):
        assert api.head(f"/v2/many/{number}/blobs/{digest_of(data[number % 3])}").status == 200
