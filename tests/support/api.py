"""The distribution API spoken by hand: nothing is quoted, followed, repeated or put right on the way.

`Api` sends whole requests, each on a connection of its own; `Wire` is a connection on which a test says every byte,
and waits in the middle where it wants to.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import Any

from tests.support.images import OCI_MANIFEST, digest_of

OCTET_STREAM = "application/octet-stream"
EMPTY = b"{}"
ABSENT = "sha256:" + "0" * 64
"""A digest that nothing has."""


@dataclass(frozen=True)
class Answer:
    """What a server said. ``headers`` by their names in any case."""

    status: int
    headers: Message
    body: bytes

    def header(self, name: str) -> str:
        """A header that must be there."""
        value = self.headers[name]
        assert value is not None, f"no {name} in {self}"
        return str(value)

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> tuple[int, str]:
        """Status and code of an answer in the spec's error form, which is checked."""
        assert self.headers["Content-Type"] == "application/json", self
        document = self.json()
        assert list(document) == ["errors"], self
        (first,) = document["errors"]
        assert set(first) <= {"code", "message", "detail"}, self
        return self.status, first["code"]

    @property
    def message(self) -> str:
        """The message of an answer in the spec's error form."""
        return str(self.json()["errors"][0]["message"])

    def __str__(self) -> str:
        return f"{self.status} {dict(self.headers)} {self.body[:500]!r}"


class Wire:
    """A connection. ``timeout`` in seconds, of each step."""

    def __init__(self, port: int, *, timeout: float = 20) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def begin(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> None:
        """The head of a request; a body may follow."""
        lines = [f"{method} {target} HTTP/1.1", "Host: registry.test"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def chunk(self, data: bytes) -> None:
        """A piece of a chunked body; the empty one ends it."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def answer(self, method: str = "GET") -> Answer:
        """The next answer, which is to a ``method`` request. Raises what `http.client` does where there is none."""
        response = http.client.HTTPResponse(self.socket, method=method)
        response.begin()
        return Answer(response.status, response.headers, response.read())

    def rest(self) -> bytes:
        """All that still comes until the server closes; TimeoutError where it does not."""
        received = bytearray()
        try:
            while piece := self.socket.recv(65536):
                received += piece
        except ConnectionError:
            pass
        return bytes(received)

    def reset(self) -> None:
        """Ends the connection the hard way, as a process that dies does not even do."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()

    def close(self) -> None:
        self.socket.close()


@dataclass(frozen=True)
class Api:
    """A registry on a port of 127.0.0.1."""

    port: int
    timeout: float = 60

    @contextmanager
    def wire(self, *, timeout: float = 20) -> Iterator[Wire]:
        wire = Wire(self.port, timeout=timeout)
        try:
            yield wire
        finally:
            wire.close()

    def request(
        self,
        method: str,
        target: str,
        body: bytes | Sequence[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """A list of bytes goes out as a chunked body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        try:
            chunked = isinstance(body, list)
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if chunked:
                connection.putheader("Transfer-Encoding", "chunked")
            elif body is not None or method in ("PUT", "POST", "PATCH"):
                assert body is None or isinstance(body, bytes)
                connection.putheader("Content-Length", str(len(body or b"")))
            connection.endheaders(body, encode_chunked=chunked)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, target: str, **headers: str) -> Answer:
        """``headers`` with ``_`` for ``-``."""
        return self.request("GET", target, headers=_named(headers))

    def head(self, target: str, **headers: str) -> Answer:
        return self.request("HEAD", target, headers=_named(headers))

    def delete(self, target: str) -> Answer:
        return self.request("DELETE", target)

    def post(self, target: str, body: bytes | None = None) -> Answer:
        return self.request("POST", target, body)

    def patch(self, target: str, body: bytes | Sequence[bytes], **headers: str) -> Answer:
        return self.request("PATCH", target, body, _named({"content_type": OCTET_STREAM, **headers}))

    def put(self, target: str, body: bytes | Sequence[bytes] | None = None, **headers: str) -> Answer:
        return self.request("PUT", target, body, _named(headers))

    def begin(self, repository: str) -> str:
        """A new upload's location."""
        answer = self.post(f"/v2/{repository}/blobs/uploads/")
        assert answer.status == 202, answer
        return answer.header("Location")

    def commit(self, location: str, digest: str, body: bytes | Sequence[bytes] | None = None, **headers: str) -> Answer:
        mark = "&" if "?" in location else "?"
        return self.put(f"{location}{mark}digest={digest}", body, **headers)

    def push_blob(self, repository: str, data: bytes) -> str:
        """Its digest."""
        digest = digest_of(data)
        answer = self.post(f"/v2/{repository}/blobs/uploads/?digest={digest}", data)
        if answer.status == 202:  # of no bytes
            answer = self.commit(answer.header("Location"), digest)
        assert answer.status == 201, answer
        return digest

    def push_manifest(self, repository: str, reference: str, body: bytes, media_type: str = OCI_MANIFEST) -> Answer:
        return self.put(f"/v2/{repository}/manifests/{reference}", body, content_type=media_type)

    def push_image(self, repository: str, tag: str, *, layers: Sequence[bytes] = ()) -> bytes:
        """A manifest with an empty config and these layers, pushed with all it names; its bytes."""
        for blob in (EMPTY, *layers):
            self.push_blob(repository, blob)
        manifest = image(layers=layers)
        answer = self.push_manifest(repository, tag, manifest)
        assert answer.status == 201, answer
        return manifest

    def blob(self, repository: str, digest: str) -> Answer:
        """A blob, by way of the redirect where there is one."""
        answer = self.get(f"/v2/{repository}/blobs/{digest}")
        return follow(answer) if answer.status == 307 else answer

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            sample, _, value = line.rpartition(" ")
            family, _, given = sample.partition("{")
            if family == name and all(f'{label}="{wanted}"' in given for label, wanted in labels.items()):
                total += float(value)
        return total


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def follow(answer: Answer, **headers: str) -> Answer:
    """Where a redirect leads, as a client that knows nothing of the registry gets it."""
    scheme, _, rest = answer.header("Location").partition("://")
    assert scheme == "http", answer
    host, _, target = rest.partition("/")
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request("GET", f"/{target}", headers=_named(headers))
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def image(*, layers: Sequence[bytes] = (), **fields: Any) -> bytes:
    """A manifest of an image, with an empty config; ``fields`` replace its own, or are added."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(EMPTY, "application/vnd.oci.empty.v1+json"),
        "layers": [descriptor(layer) for layer in layers],
        **fields,
    }
    return json.dumps(document).encode()


def descriptor(data: bytes, media_type: str = OCTET_STREAM) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def noise(seed: int | str, size: int) -> bytes:
    """Bytes that nothing else has, the same every time."""
    return random.Random(seed).randbytes(size)
