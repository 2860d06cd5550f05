"""A registry that keeps nothing: it shows how fast the client of these benchmarks is by itself."""

from __future__ import annotations

import re
import socket
import sys

_READ = 1024 * 1024
_LENGTH = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)
_END_OF_CHUNKS = b"\r\n0\r\n\r\n"


def main() -> None:
    """Serves one connection after the other on a free port of 127.0.0.1, which it prints."""
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    while True:
        connection, _ = listener.accept()
        with connection:
            while _answer(connection):
                pass


def _answer(connection: socket.socket) -> bool:
    """Takes one request, and says what a registry would; False where there is none any more."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(_READ)
        if not piece:
            return False
        head += piece
    head, _, body = head.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    _discard(connection, body, None if length is None else int(length[1]), chunked=b"chunked" in head.lower())
    status = {b"HEAD": b"404 No", b"PUT": b"201 Created"}.get(head.split(b" ", 1)[0], b"202 Accepted")
    connection.sendall(b"HTTP/1.1 " + status + b"\r\nlocation: /upload\r\ncontent-length: 0\r\n\r\n")
    return True


def _discard(connection: socket.socket, begun: bytes, length: int | None, *, chunked: bool) -> None:
    buffer = bytearray(_READ)
    if chunked:
        tail = begun[-len(_END_OF_CHUNKS) :]
        while not tail.endswith(_END_OF_CHUNKS):
            size = connection.recv_into(buffer)
            if size == 0:
                return
            tail = (tail + buffer[max(0, size - len(_END_OF_CHUNKS)) : size])[-len(_END_OF_CHUNKS) :]
        return
    left = (length or 0) - len(begun)
    while left > 0:
        size = connection.recv_into(buffer)
        if size == 0:
            return
        left -= size


if __name__ == "__main__":
    main()
