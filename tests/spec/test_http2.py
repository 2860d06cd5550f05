"""HTTP/2 in front of the workers: real clients, and those that play by no rules. Frames are written by hand."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.spec.https import connection, get, serving, trusting
from tests.support.api import noise
from tests.support.images import assert_layout_holds, digest_of, make_image, write_layout
from tests.support.ports import wait_until
from tests.support.server import Server
from tests.support.tls import Tls, make_tls
from tests.support.tools import run, search_path, tool

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW = 4
HEAD = 2.0
"""Seconds that a head may take, and that a connection may be idle."""
SILENT = 3.0
"""Seconds that a body may be silent, and that an answer is not taken."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def field(name: str, value: str) -> bytes:
    """As it is, into no table (RFC 7541, section 6.2.2)."""
    assert max(len(name), len(value)) < 127
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


def head(method: str, path: str, **more: str) -> bytes:
    fields = {":method": method, ":scheme": "https", ":authority": "localhost", ":path": path}
    return b"".join(field(*each) for each in (*fields.items(), *((n.replace("_", "-"), v) for n, v in more.items())))


HELLO = PREFACE + frame(SETTINGS, 0, 0)
GET = head("GET", "/v2/")


@dataclass(frozen=True)
class Secure:
    server: Server
    tls: Tls
    context: ssl.SSLContext
    """Of clients that offer HTTP/2."""
    plain: ssl.SSLContext
    """Of those that do not."""

    def begun(self) -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", self.server.port), timeout=20)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        shaken = self.context.wrap_socket(raw, server_hostname="localhost")
        assert shaken.selected_alpn_protocol() == "h2"
        return shaken

    def answers(self) -> float:
        """Seconds until somebody else was answered."""
        began = time.monotonic()
        assert get(self.server.port, self.plain).status == 200
        return time.monotonic() - began


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("http2")
    tls = make_tls(folder / "tls")
    options: dict[str, Any] = {
        "tls__http2": "true",
        "limits__header_timeout": f"{HEAD}s",
        "limits__body_idle_timeout": f"{SILENT}s",
        "log__format": "json",
    }
    with serving(folder, tls, "--workers", "1", **options) as server:
        both = trusting(tls.authority, alpn=("h2", "http/1.1"))
        yield Secure(server, tls, both, trusting(tls.authority))


@dataclass
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


def frames(data: bytes) -> list[Frame]:
    found = []
    while len(data) >= 9:
        size = int.from_bytes(data[:3], "big")
        found.append(Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def heard(client: ssl.SSLSocket, until: Callable[[bytes], bool] = lambda _: False) -> bytes:
    """All that comes until the server ends the connection, or ``until`` holds for it."""
    got = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while not until(got) and (piece := client.recv(65536)):
            got += piece
    return got


def answered(stream: int) -> Callable[[bytes], bool]:
    return lambda data: any(each.stream == stream and each.flags & END_STREAM for each in frames(data))


def of_kind(kind: int) -> Callable[[bytes], bool]:
    return lambda data: any(each.kind == kind for each in frames(data))


def test_requests_are_answered(secure: Secure) -> None:
    with secure.begun() as client:
        client.sendall(HELLO + b"".join(frame(HEADERS, END_HEADERS | END_STREAM, stream, GET) for stream in (1, 3, 5)))
        got = heard(client, lambda data: all(answered(stream)(data) for stream in (1, 3, 5)))
        assert {each.stream for each in frames(got) if each.kind == HEADERS} == {1, 3, 5}


def dripping(client: ssl.SSLSocket, first: bytes, drip: bytes, pause: float) -> bytes:
    """Says one thing, and then another again and again; what came until the server had enough."""
    client.sendall(first)
    ended = threading.Event()

    def go_on() -> None:
        with contextlib.suppress(OSError):
            while not ended.wait(pause):
                client.sendall(drip)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        return heard(client)
    finally:
        ended.set()
        thread.join()


OPENED = HELLO + frame(HEADERS, 0, 1, GET[:10])
IDLE: dict[str, tuple[bytes, bytes, bool]] = {
    "silent": (b"", b"", False),
    "a part of the preface": (PREFACE[:10], b"", False),
    "the preface by bytes": (PREFACE[:1], b"", False),
    "preface only": (PREFACE, b"", True),
    "settings only": (HELLO, b"", True),
    "pings": (HELLO, frame(PING, 0, 0, bytes(8)), True),
    "acknowledgements": (HELLO, frame(SETTINGS, ACK, 0) * 3, False),
    "windows": (HELLO, frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"), True),
    "a frame that does not end": (HELLO + frame(HEADERS, 4, 1, GET)[:-1], b"", False),
    "a head that does not go on": (OPENED, b"", False),
    "a head in many pieces": (OPENED, frame(CONTINUATION, 0, 1, b""), False),
    "a head byte by byte": (OPENED, frame(CONTINUATION, 0, 1, b"x"), False),
}
"""What a client says first, what it then goes on saying, and whether it is told GOAWAY."""


def test_idle_clients_are_cut_off_whatever_they_say(secure: Secure) -> None:
    took: dict[str, float] = {}
    told: dict[str, bool] = {}

    def play(name: str) -> None:
        first, drip, _ = IDLE[name]
        with secure.begun() as client:
            began = time.monotonic()
            got = dripping(client, first, drip, 0.1) if drip else dripping(client, first, b"", 30)
            took[name] = time.monotonic() - began
            told[name] = of_kind(GOAWAY)(got)

    threads = [threading.Thread(target=play, args=(name,)) for name in IDLE]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert took.keys() == IDLE.keys()
    assert max(took.values()) < 2 * HEAD + 3, took
    assert all(told[name] for name, (_, _, says) in IDLE.items() if says), told
    # Idle ones have their time.
    assert all(took[name] > HEAD - 0.5 for name, (_, _, says) in IDLE.items() if says), took


def lines(secure: Secure, path: str) -> list[str]:
    return [line for line in secure.server.log().splitlines() if path in line]


def logged(secure: Secure, path: str, word: str) -> None:
    wait_until(
        lambda: any(word in line for line in lines(secure, path)),
        seconds=5, what=lambda: f"{word} in {lines(secure, path)}", alive=secure.server.alive,
    )  # fmt: skip


def test_body_that_falls_silent_gets_its_answer(secure: Secure) -> None:
    path = f"/v2/silent/blobs/uploads/?digest={digest_of(b'x' * 100)}"
    with secure.begun() as client:
        client.sendall(HELLO + frame(HEADERS, END_HEADERS, 1, head("POST", path, content_length="100")))
        client.sendall(frame(DATA, 0, 1, b"ab"))
        began = time.monotonic()
        got = heard(client, answered(1))
        assert answered(1)(got)
        assert SILENT - 0.5 < time.monotonic() - began < SILENT + 3
    logged(secure, "/v2/silent/", '"status":408')


def test_nobody_is_told_to_go_on(secure: Secure) -> None:
    """What the server says first is its answer: the front goes by that. A client that would wait for more does not."""
    path = f"/v2/expects/blobs/uploads/?digest={digest_of(b'x' * 100)}"
    with secure.begun() as client:
        asks = head("POST", path, content_length="100", expect="100-continue")
        client.sendall(HELLO + frame(HEADERS, END_HEADERS, 1, asks))
        client.settimeout(1)
        got = b""
        with contextlib.suppress(TimeoutError):
            while piece := client.recv(65536):
                got += piece
        assert not of_kind(HEADERS)(got)
        client.settimeout(20)
        client.sendall(frame(DATA, END_STREAM, 1, b"x" * 100))
        assert answered(1)(heard(client, answered(1)))
    logged(secure, "/v2/expects/", '"status":201')


def test_reader_that_gives_no_window_is_let_go(secure: Secure) -> None:
    blob = noise("window", 3_000_000)
    push = connection(secure.server.port, secure.plain)
    push.request("POST", f"/v2/window/blobs/uploads/?digest={digest_of(blob)}", blob)
    assert push.getresponse().status == 201
    push.close()
    with secure.begun() as client:
        none = frame(SETTINGS, 0, 0, INITIAL_WINDOW.to_bytes(2, "big") + bytes(4))
        ask = frame(HEADERS, END_HEADERS | END_STREAM, 1, head("GET", f"/v2/window/blobs/{digest_of(blob)}"))
        client.sendall(PREFACE + none + ask)
        began = time.monotonic()
        got = heard(client)
        assert SILENT - 0.5 < time.monotonic() - began < SILENT + 6
        assert of_kind(GOAWAY)(got)
        assert sum(len(each.payload) for each in frames(got) if each.kind == DATA) == 0


def flood(secure: Secure, first: bytes, piece: bytes, times: int) -> float:
    """Sends without listening, as fast as it goes; the longest that somebody else waited meanwhile, in seconds."""
    slowest = 0.0
    with secure.begun() as client:
        client.settimeout(3)

        def send() -> None:
            with contextlib.suppress(OSError):
                client.sendall(first)
                for _ in range(times):
                    client.sendall(piece)

        thread = threading.Thread(target=send)
        thread.start()
        while thread.is_alive():
            slowest = max(slowest, secure.answers())
        thread.join()
    return max(slowest, secure.answers())


def requests(streams: range, *, reset: bool) -> bytes:
    end = frame(RST_STREAM, 0, 1, b"\0\0\0\x08")
    said = bytearray()
    for stream in streams:
        said += frame(HEADERS, END_HEADERS | END_STREAM, stream, GET)
        if reset:
            said += end[:5] + stream.to_bytes(4, "big") + end[9:]
    return bytes(said)


@pytest.mark.parametrize("kind", ["requests reset at once", "settings", "pings", "requests without end"])
def test_flood_of_one_client_keeps_nobody_waiting(secure: Secure, kind: str) -> None:
    first, piece, times = {
        "requests reset at once": (HELLO, requests(range(1, 40_001, 2), reset=True), 1),
        "settings": (HELLO, frame(SETTINGS, 0, 0) * 1000, 10),
        "pings": (HELLO, frame(PING, 0, 0, bytes(8)) * 1000, 100),
        "requests without end": (HELLO, requests(range(1, 20_001, 2), reset=False), 1),
    }[kind]
    assert flood(secure, first, piece, times) < 6
    assert secure.answers() < 3


def test_client_that_was_told_to_go_comes_again_without_an_error(secure: Secure, tmp_path: Path) -> None:
    """curl keeps its connection for the next request, which comes when the server has ended it."""
    url = f"https://localhost:{secure.server.port}/v2/"
    words = (
        "-sS",
        "--http2",
        "--cacert",
        secure.tls.authority,
        "--rate",
        "15/m",
        "-o",
        tmp_path / "a",
        "-o",
        os.devnull,
    )
    said = run([tool("curl"), *words, "-w", "%{http_version} %{http_code} %{num_connects}\n", url, url])
    assert said.splitlines() == ["2 200 1"] * 2


def test_curl_pushes_and_pulls(secure: Secure, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(noise("curl", 30_000_000))
    digest = digest_of(blob.read_bytes())
    curl = (tool("curl"), "-sS", "--http2", "--cacert", secure.tls.authority, "-w", "%{http_version} %{http_code}\n")
    base = f"https://localhost:{secure.server.port}/v2/curl/blobs"
    octets = ("-H", "Content-Type: application/octet-stream")
    push = (*octets, "--data-binary", f"@{blob}", f"{base}/uploads/?digest={digest}")
    assert run([*curl, *push]).splitlines()[-1] == "2 201"
    assert run([*curl, "-o", tmp_path / "got", f"{base}/{digest}"]) == "2 200\n"
    assert (tmp_path / "got").read_bytes() == blob.read_bytes()


def test_clients_in_go_push_and_pull(secure: Secure, tmp_path: Path) -> None:
    image = make_image(72, (300_000, 5_000_000, 40_000))
    layout = write_layout(tmp_path / "layout", image, "v1")
    name = f"localhost:{secure.server.port}/team/go"
    trusts = {"SSL_CERT_FILE": str(secure.tls.authority), "PATH": search_path(), "HOME": str(tmp_path)}
    crane, oras = tool("crane"), tool("oras")
    run([crane, "push", layout, f"{name}:crane"], env=trusts)
    run([crane, "pull", "--format=oci", f"{name}:crane", tmp_path / "crane"], env=trusts)
    assert_layout_holds(tmp_path / "crane", image)
    run(
        [oras, "cp", "--from-plain-http=false", "--to-oci-layout", f"{name}:crane", f"{tmp_path / 'oras'}:v1"],
        env=trusts,
    )
    assert_layout_holds(tmp_path / "oras", image)
