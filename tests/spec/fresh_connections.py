"""Asks a server over and over, each time on a fresh connection and never twice, until its own input ends.

Run as a program: PORT AUTHORITY… It prints what it saw, in JSON.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import sys
import time

REQUEST = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
PAUSE = 0.003
"""Seconds between two: the server shall be busy, not drowned."""


def once(port: int, context: ssl.SSLContext) -> str:
    """The serial number of the certificate. Raises `OSError`, `ValueError`."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as shaken,
    ):
        shown = shaken.getpeercert()
        shaken.sendall(REQUEST)
        answer = b""
        while piece := shaken.recv(4096):
            answer += piece
    if shown is None or not answer.startswith(b"HTTP/1.1 200 "):
        raise ValueError(repr(answer[:100]))
    return str(shown["serialNumber"])


def main(port: int, authorities: list[str]) -> None:
    context = ssl.create_default_context()
    for authority in authorities:
        context.load_verify_locations(authority)
    shown: list[tuple[float, str]] = []
    failed: list[str] = []
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        began = time.monotonic()
        try:
            shown.append((began, once(port, context)))
        except (OSError, ValueError) as error:
            failed.append(f"after {time.monotonic() - began:.3f} s: {error!r}")
    json.dump({"shown": shown, "failed": failed}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
