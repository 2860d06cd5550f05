"""A server that speaks HTTPS, as tests start it, and what they ask of it and of its processes."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.ports import free_port
from tests.support.server import Server, assert_no_fault, descendants, ended, start
from tests.support.tls import Tls
from tests.support.tools import run, tool

PROGRAM = Path(sys.executable).parent / "bucketry"
LOOK = 1.0
"""Seconds between two looks at the files of the certificate."""
HERE = Path(__file__).parent


def trusting(*authorities: Path, client: tuple[Path, Path] | None = None, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for authority in authorities:
        context.load_verify_locations(authority)
    if client is not None:
        context.load_cert_chain(*client)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def serial(pem: Path) -> str:
    found = run([tool("openssl"), "x509", "-in", pem, "-noout", "-serial"])
    return found.strip().removeprefix("serial=")


@dataclass(frozen=True)
class Got:
    status: int
    headers: Mapping[str, str]
    serial: str
    """Of the certificate that the server showed."""


def connection(port: int, context: ssl.SSLContext, *, timeout: float = 20) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection("localhost", port, context=context, timeout=timeout)


def get(port: int, context: ssl.SSLContext, path: str = "/v2/", **headers: str) -> Got:
    """On a connection of its own. ``headers`` with ``_`` for ``-``."""
    fresh = connection(port, context)
    try:
        fresh.connect()
        shown = fresh.sock.getpeercert()
        assert shown is not None
        fresh.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = fresh.getresponse()
        answer.read()
        return Got(answer.status, {n.lower(): v for n, v in answer.getheaders()}, str(shown["serialNumber"]))
    finally:
        fresh.close()


def begun(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A connection that has agreed on TLS."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    return context.wrap_socket(plain, server_hostname="localhost")


def command(listen: str, store: Path, tls: Tls, options: Mapping[str, object]) -> list[str | Path]:
    settings = {"tls.cert": tls.certificate, "tls.key": tls.key, "tls.reload": f"{LOOK}s", **options}
    flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return [PROGRAM, "serve", "--listen", listen, "--store", store, *flags]


def dotted(options: Mapping[str, object]) -> dict[str, object]:
    return {name.replace("__", "."): value for name, value in options.items()}


def ready(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a request is answered, whoever asks: connections are taken before there are workers."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as shaken,
        ):
            shaken.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            shaken.recv(100)
            return True
    except ssl.SSLError:
        # A certificate is required, and whoever says so serves.
        return True
    except OSError:
        return False


@contextmanager
def serving(
    folder: Path,
    tls: Tls,
    *words: str,
    before: Sequence[str] = (),
    host: str = "127.0.0.1",
    faults: bool = False,
    env: Mapping[str, str] | None = None,
    **options: object,
) -> Iterator[Server]:
    """``options``: settings, with ``__`` for the dot. ``words``: further flags. ``before``: what starts the program.

    ``faults``: whether errors in the log are part of the test.
    """
    port = free_port()
    log = folder / "server.log"
    listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    process = start(
        [*before, *command(listen, folder / "store", tls, dotted(options)), *words],
        log,
        cwd=folder,
        env=None if env is None else {**os.environ, **env},
    )
    server = Server(process, log, port)
    with ended(server, lambda: ready(port, "::1" if ":" in host else host)):
        yield server
    if not faults:
        assert_no_fault(server)


@dataclass(frozen=True)
class Processes:
    fronts: frozenset[int]
    workers: frozenset[int]


def processes(server: Server) -> Processes:
    """Those below the leading one: fronts have the listening socket, workers have not."""
    listening = _listening(server.port)
    fronts: set[int] = set()
    workers: set[int] = set()
    for pid in descendants(server.process.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            files = {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
        if b"resource_tracker" in words or b"spawn_main" not in words:
            continue
        (fronts if files & listening else workers).add(pid)
    return Processes(frozenset(fronts), frozenset(workers))


def _listening(port: int) -> set[str]:
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[1].endswith(f":{port:04X}"):
                found.add(f"socket:[{words[9]}]")
    return found


def private_folder(server: Server) -> Path:
    """Where the workers' socket is."""
    files = {os.readlink(each) for each in Path(f"/proc/{server.process.pid}/fd").iterdir()}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        if words[-1].endswith("/workers") and f"socket:[{words[6]}]" in files:
            return Path(words[-1]).parent
    raise AssertionError("no socket of workers")


@dataclass
class Load:
    """Fresh connections without a pause, by processes of their own. Times are of the system's monotonic clock."""

    shown: list[tuple[float, str]] = field(default_factory=list)
    """When each began, and the certificate's serial number that it saw."""
    failed: list[str] = field(default_factory=list)


@contextmanager
def under_load(port: int, *authorities: Path, count: int = 2) -> Iterator[Load]:
    """What was seen is there when the block has ended. No connection is tried twice."""
    load = Load()
    words: list[str | Path] = [sys.executable, HERE / "fresh_connections.py", str(port), *authorities]
    clients = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(count)
    ]
    try:
        yield load
    finally:
        for client in clients:
            said, _ = client.communicate(timeout=30)
            found: Any = json.loads(said)
            load.shown += [(at, seen) for at, seen in found["shown"]]
            load.failed += found["failed"]
        load.shown.sort()
