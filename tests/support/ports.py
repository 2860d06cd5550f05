"""Ports and waiting."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, path: str) -> bool:
    """Whether a GET of ``path`` on 127.0.0.1 gets a 2xx."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return 200 <= connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_until(
    holds: Callable[[], bool], *, seconds: float, what: Callable[[], str], alive: Callable[[], bool]
) -> None:
    """Waits for a condition. Fails with ``what()`` after ``seconds``, or as soon as ``alive`` is false."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert alive(), f"ended while it was waited for: {what()}"
        assert time.monotonic() < deadline, f"not ready within {seconds:g} s: {what()}"
        time.sleep(0.05)
