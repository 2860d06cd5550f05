"""The distribution protocol as clients speak it, on a plain socket, with as little work a byte as Python can do.

One client for every registry, so what differs is the registry.
"""

from __future__ import annotations

import hashlib
import http.client
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from bench.layers import BLOCK, KIB, Layer
from bench.processes import connection_to

CHUNK = 32 * KIB
"""Bytes of a chunk of the chunked encoding: what Go's clients copy at a time."""

_PATIENCE = 600.0
"""Seconds an answer may take."""
_READ = 1024 * KIB
_REDIRECTS = (301, 302, 303, 307, 308)
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class ProtocolError(Exception):
    """An answer that the protocol does not allow, or a connection that broke."""


class Way(Enum):
    """How a blob is pushed."""

    PATCH = "patch"
    """POST, one PATCH in the chunked encoding, PUT: docker, podman, skopeo."""
    PUT = "put"
    """POST, one PUT with a length: containerd, buildkit, oras, helm."""


class Pushed(NamedTuple):
    """Seconds of a push: of all of it, and of its last request."""

    total: float
    commit: float


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Client:
    """One kept connection to a registry on ``port`` of 127.0.0.1; by TLS where there is an authority to trust."""

    def __init__(self, port: int, authority: Path | None = None) -> None:
        self._base = f"http{'s' if authority else ''}://127.0.0.1:{port}"
        self._connection = _opened(connection_to(port, authority, timeout=_PATIENCE))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: Iterable[memoryview] = (),
        *,
        expect: tuple[int, ...],
    ) -> Answer:
        """Sends a request and gives its whole answer. Raises `ProtocolError` for another status than expected.

        ``url`` may be relative. ``headers`` say how long the body is, or that it is chunked.
        """
        connection = self._connection
        given = dict(headers or {})
        if method in ("POST", "PUT", "PATCH") and not {"content-length", "transfer-encoding"} & set(given):
            given["content-length"] = "0"
        connection.putrequest(method, self._target(url), skip_accept_encoding=True)
        for name, value in given.items():
            connection.putheader(name, value)
        try:
            connection.endheaders()
            socket_ = connection.sock
            for piece in body:
                socket_.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # It has answered before the end of the body: the answer says why.
        try:
            response = connection.getresponse()
            said = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ProtocolError(f"{method} {url}: {type(error).__name__}: {error}") from error
        if response.status not in expect:
            raise ProtocolError(f"{method} {url}: {response.status} {said[:500].decode(errors='replace')}")
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, said)

    def _target(self, url: str) -> str:
        parts = urlsplit(urljoin(self._base, url))
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def push(self, repository: str, layer: Layer, way: Way) -> Pushed:
        """Pushes a layer that the registry must not have."""
        digest = layer.digest()
        began = time.perf_counter()
        self.request("HEAD", f"/v2/{repository}/blobs/{digest}", expect=(404,))
        location = self.request("POST", f"/v2/{repository}/blobs/uploads/", expect=(202,)).headers["location"]
        kind = {"content-type": "application/octet-stream"}
        headers, body = {**kind, "content-length": str(layer.size)}, layer.blocks()
        if way is Way.PATCH:
            answer = self.request(
                "PATCH", location, {**kind, "transfer-encoding": "chunked"}, chunked(body), expect=(202,)
            )
            location = answer.headers["location"]
            headers, body = {}, iter(())
        last = time.perf_counter()
        location += f"{'&' if '?' in location else '?'}digest={digest}"
        self.request("PUT", location, headers, body, expect=(201,))
        end = time.perf_counter()
        return Pushed(end - began, end - last)

    def pull(self, repository: str, digest: str) -> float:
        """Reads a blob to its end, from wherever the registry sends us; the seconds it took.

        Raises `ProtocolError` where its bytes have another digest.
        """
        began = time.perf_counter()
        found = _hash(self._connection, f"/v2/{repository}/blobs/{digest}")
        seconds = time.perf_counter() - began
        if f"sha256:{found}" != digest:
            raise ProtocolError(f"the bytes of {digest} have the digest sha256:{found}")
        return seconds

    def put_manifest(self, repository: str, tag: str, body: bytes) -> None:
        headers = {"content-type": OCI_MANIFEST, "content-length": str(len(body))}
        self.request("PUT", f"/v2/{repository}/manifests/{tag}", headers, [memoryview(body)], expect=(201,))


def chunked(blocks: Iterable[memoryview]) -> Iterator[memoryview]:
    """Blocks of at most `layers.BLOCK` bytes in the chunked encoding, each sent in one go."""
    head = f"{CHUNK:x}\r\n".encode()
    step = len(head) + CHUNK + 2
    frame = bytearray((head + bytes(CHUNK) + b"\r\n") * (BLOCK // CHUNK))
    view = memoryview(frame)
    for block in blocks:
        whole, rest = divmod(len(block), CHUNK)
        for index in range(whole):
            begin = index * step + len(head)
            view[begin : begin + CHUNK] = block[index * CHUNK : (index + 1) * CHUNK]
        yield view[: whole * step]
        if rest:
            yield memoryview(b"%x\r\n%b\r\n" % (rest, bytes(block[whole * CHUNK :])))
    yield memoryview(b"0\r\n\r\n")


def _opened(connection: http.client.HTTPConnection) -> http.client.HTTPConnection:
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _hash(connection: http.client.HTTPConnection, target: str) -> str:
    """The SHA-256, in hex, of the body that the target, or what it redirects to, answers with."""
    connection.request("GET", target)
    response = connection.getresponse()
    if response.status in _REDIRECTS:
        response.read()
        where = urlsplit(response.getheader("location") or "")
        if where.hostname is None or where.port is None:
            raise ProtocolError(f"GET {target}: redirected to {where.geturl()!r}")
        other = _opened(http.client.HTTPConnection(where.hostname, where.port, timeout=_PATIENCE))
        try:
            return _hash(other, f"{where.path}?{where.query}")
        finally:
            other.close()
    if response.status != 200:
        raise ProtocolError(f"GET {target}: {response.status} {response.read(500).decode(errors='replace')}")
    hasher = hashlib.sha256()
    buffer = memoryview(bytearray(_READ))
    while size := response.readinto(buffer):
        hasher.update(buffer[:size])
    return hasher.hexdigest()
