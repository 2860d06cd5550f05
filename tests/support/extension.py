"""The parallel extension spoken by hand. Every answer is held against the OpenAPI document."""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from tests.support.api import OCTET_STREAM, Answer
from tests.support.document import document

UPLOAD_TYPE = "application/vnd.bucketry.upload.v1+json"
CHECKPOINTS_TYPE = "application/vnd.bucketry.checkpoints.v1"
DISCOVER = "/v2/_oci/ext/discover"
MIB = 1024 * 1024
SEGMENT = 8 * MIB
"""Between two checkpoints, and the shortest part, of a server as it is by default."""


class Requests(Protocol):
    """As `tests.support.api.Api` sends them."""

    def request(
        self,
        method: str,
        target: str,
        body: bytes | Sequence[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer: ...


@dataclass(frozen=True)
class Extension:
    """The extension's endpoints of one repository."""

    api: Requests
    repository: str

    def request(
        self,
        method: str,
        target: str,
        body: bytes | Sequence[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        answer = self.api.request(method, target, body, headers)
        document().check(method, target, body if isinstance(body, bytes) else None, answer)
        if answer.status >= 400:
            answer.error()
        return answer

    def post(self, target: str, **fields: Any) -> Answer:
        return self.request("POST", target, json.dumps(fields).encode(), {"Content-Type": UPLOAD_TYPE})

    @property
    def base(self) -> str:
        return f"/v2/{self.repository}/_bucketry"

    def begin(self, **fields: Any) -> Answer:
        return self.post(f"{self.base}/uploads", **fields)

    def open(self, **fields: Any) -> Upload:
        """A session, where the blob is not there."""
        answer = self.begin(**fields)
        assert answer.status == 201, answer
        opened = answer.json()
        assert opened["state"] == "open"
        assert answer.header("Location") == f"{self.base}/uploads/{opened['session']}"
        return Upload(self, opened["session"], opened["partSize"], opened["maxParts"], opened["direct"])

    def checkpoints(self, digest: str) -> Answer:
        return self.request("GET", f"{self.base}/checkpoints/{digest}")

    def upload(self, session: str) -> Upload:
        """A session by its id: what a client that was started anew has."""
        return Upload(self, session, 0, 0, direct=False)

    def push(self, data: bytes, digest: str, checkpoints: bytes | None = None) -> str:
        """A blob by the extension from its beginning to its end; the session it came by."""
        upload = self.open(size=len(data))
        upload.send(data)
        answer = upload.finish(digest, len(data), checkpoints)
        assert answer.status == 201, answer
        return upload.session


@dataclass(frozen=True)
class Upload:
    """A session."""

    extension: Extension
    session: str
    part_size: int
    max_parts: int
    direct: bool

    @property
    def path(self) -> str:
        return f"{self.extension.base}/uploads/{self.session}"

    def status(self) -> Answer:
        return self.extension.request("GET", self.path)

    def cancel(self) -> Answer:
        return self.extension.request("DELETE", self.path)

    def urls(self, parts: Iterable[int]) -> Answer:
        return self.extension.post(f"{self.path}/urls", parts=list(parts))

    def url(self, number: int) -> str:
        answer = self.urls([number])
        assert answer.status == 200, answer
        assert list(answer.json()["urls"]) == [str(number)]
        return str(answer.json()["urls"][str(number)])

    def put(self, number: int, body: bytes) -> None:
        """A part to wherever its URL leads."""
        answer = self.urls([number])
        assert answer.status == 200, answer
        told = answer.json()
        assert self.put_to(told["urls"][str(number)], body, told.get("headers")) in (200, 201)

    def put_to(self, url: str, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        """The status."""
        return put(self.extension, url, body, headers)

    def put_own(self, number: int | str, body: bytes | Sequence[bytes] | None) -> Answer:
        """A part through the registry."""
        target = f"{self.path}/parts/{number}"
        return self.extension.request("PUT", target, body, {"Content-Type": OCTET_STREAM})

    def parts(self, data: bytes) -> dict[int, bytes]:
        """The parts of a blob, by their numbers."""
        count = -(-len(data) // self.part_size)
        return {n: data[(n - 1) * self.part_size : n * self.part_size] for n in range(1, count + 1)}

    def send(self, data: bytes) -> None:
        """All parts, one after the other."""
        for number, body in self.parts(data).items():
            self.put(number, body)

    def sent(self) -> dict[int, int]:
        """Sizes of the parts that have arrived, by their numbers."""
        answer = self.status()
        assert answer.status == 200, answer
        return {part["number"]: part["size"] for part in answer.json().get("parts", [])}

    def complete(self, digest: str, size: int, checkpoints: bytes | None = None) -> Answer:
        fields: dict[str, Any] = {"digest": digest, "size": size}
        if checkpoints is not None:
            fields["checkpoints"] = base64.b64encode(checkpoints).decode()
        return self.extension.post(f"{self.path}/complete", **fields)

    def finish(self, digest: str, size: int, checkpoints: bytes | None = None, *, seconds: float = 60) -> Answer:
        """The answer once it is no longer 202."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self.complete(digest, size, checkpoints)
            if answer.status != 202:
                return answer
            assert answer.json()["state"] == "verifying"
            assert time.monotonic() < deadline, answer
            time.sleep(float(answer.header("Retry-After")))


def put(extension: Extension, url: str, body: bytes, headers: Mapping[str, str] | None = None) -> int:
    """PUTs a part to a URL of either kind, one of the bucket with the ``headers`` that came with it; the status."""
    if url.startswith("/"):
        return extension.request("PUT", url, body, {"Content-Type": OCTET_STREAM}).status
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.netloc, timeout=60)
    try:
        connection.request("PUT", f"{where.path}?{where.query}", body, dict(headers or {}))
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()
