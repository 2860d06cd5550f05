"""Bodies of very many small frames, which the server takes several at a time: none changes its place."""

from __future__ import annotations

import http.client
import random
from concurrent.futures import ThreadPoolExecutor

from tests.support.api import Api, noise
from tests.support.images import digest_of

CONNECTIONS = 4
SIZE = 24 * 1024 * 1024


def chunked(data: bytes, seed: int) -> bytes:
    """In the chunked encoding, in frames of mostly a few KiB."""
    sizes = random.Random(seed)
    framed, at = bytearray(), 0
    while at < len(data):
        piece = data[at : at + sizes.choice((1, 700, 3000, 4096, 8192))]
        framed += b"%x\r\n%b\r\n" % (len(piece), piece)
        at += len(piece)
    return bytes(framed + b"0\r\n\r\n")


def test_bodies_of_small_frames_arrive_in_order(api: Api, repository: str) -> None:
    blobs = [noise(f"frames {number}", SIZE) for number in range(CONNECTIONS)]
    framed = [chunked(data, seed) for seed, data in enumerate(blobs)]

    def push(number: int) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
        target = f"{api.begin(repository)}?digest={digest_of(blobs[number])}"
        connection.putrequest("PUT", target)
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        connection.sock.sendall(framed[number])
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        assert list(pool.map(push, range(CONNECTIONS))) == [(201, b"")] * CONNECTIONS
