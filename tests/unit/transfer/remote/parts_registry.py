"""A registry that follows RFC 3, and a bucket that fails in the ways buckets do."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web
from tests.unit.transfer.remote.scripted import Asked, Scripted

from bucketry.oci import Digest
from bucketry.transfer import wire
from bucketry.transfer.contract import PartUpload
from bucketry.transfer.remote import RemoteRepository
from bucketry.transfer.remote.extension import ExtensionUpload

PART = 1000
DATA = bytes(range(250)) * 41
DIGEST = Digest.of(DATA)
PARTS = -(-len(DATA) // PART)
SESSION = "v1.session-id_~"
BASE = "/v2/team/app/_bucketry"
UPLOAD = f"{BASE}/uploads/{SESSION}"


def part(number: int) -> bytes:
    return DATA[(number - 1) * PART : number * PART]


class Registry:
    """The server of the extension: on ``direct``, parts go to ``bucket`` by URLs that end."""

    def __init__(self, server: Scripted, bucket: Scripted, *, direct: bool = True) -> None:
        self.server, self.bucket, self.direct = server, bucket, direct
        self.parts: dict[int, bytes] = {}
        self.batches: list[list[int]] = []
        self.signature = 1
        """Of the URLs that work; those of before have ended."""
        self.expires: float | None = 600
        self.headers: dict[str, str] = {}
        self.polls = 0
        self.completes: list[Any] = []
        server.on("GET", f"/v2/{wire.DISCOVER}", lambda: json_answer(DISCOVERED))
        server.on("POST", f"{BASE}/uploads", self.begin)
        server.on("GET", UPLOAD, self.status)
        server.on("DELETE", UPLOAD, lambda: web.Response(status=204))
        server.on("POST", f"{UPLOAD}/urls", self.urls)
        server.on("POST", f"{UPLOAD}/complete", self.complete)
        for number in range(1, 10 * PARTS):
            server.on("PUT", f"{UPLOAD}/parts/{number}", self.put)
            bucket.on("PUT", f"/bucket/{number}", self.put_signed)

    def begin(self, asked: Asked) -> web.Response:
        return json_answer(OPENED, 201, {"Location": UPLOAD})

    def status(self) -> web.Response:
        parts = [{"number": number, "size": len(body)} for number, body in sorted(self.parts.items())]
        return json_answer({"state": "open", "partSize": PART, "parts": parts})

    def urls(self, asked: Asked) -> web.Response:
        numbers = asked.json()["parts"]
        self.batches.append(numbers)
        if self.direct:
            urls = {n: f"{self.bucket.url}/bucket/{n}?X-Amz-Signature={self.signature}" for n in numbers}
        else:
            urls = {n: f"{UPLOAD}/parts/{n}" for n in numbers}
        answer = {"urls": urls, "headers": self.headers}
        return json_answer(answer if self.expires is None else {**answer, "expires": self.expires})

    def put(self, asked: Asked) -> web.Response:
        self.parts[int(asked.path.rpartition("/")[2])] = asked.body
        return web.Response(status=201)

    def put_signed(self, asked: Asked) -> web.Response:
        if not asked.target.endswith(f"X-Amz-Signature={self.signature}"):
            return s3_error(403, "AccessDenied", "Request has expired")
        self.put(asked)
        return web.Response(headers={"ETag": '"x"'})

    def complete(self, asked: Asked) -> web.Response:
        self.completes.append(asked.json())
        if self.polls:
            self.polls -= 1
            done = len(self.completes) * 1000
            return json_answer({"state": "verifying", "verified": done}, 202, {"Retry-After": "3"})
        return json_answer({"state": "done"}, 201)


DISCOVERED = {
    "extensions": [
        {"name": "_oci", "description": "", "url": "", "endpoints": ["_oci/ext/discover"]},
        {
            "name": "_bucketry",
            "description": "",
            "url": "",
            "endpoints": ["_bucketry/uploads", "_bucketry/checkpoints"],
            "new": 1,
        },
    ]
}
OPENED = {
    "state": "open",
    "session": SESSION,
    "partSize": PART,
    "maxParts": 10_000,
    "segment": 8 << 20,
    "direct": True,
}


def json_answer(document: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=json.dumps(document), status=status, content_type=wire.UPLOAD_TYPE, headers=headers or {})


def s3_error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return web.Response(body=body, status=status, content_type="application/xml", headers=headers or {})


async def begun(repository: RemoteRepository, size: int | None = len(DATA)) -> ExtensionUpload:
    upload = await repository.begin(digest=DIGEST, size=size)
    assert upload is not None
    return upload


async def send(upload: PartUpload, *numbers: int) -> None:
    await asyncio.gather(*(upload.put(number, part(number)) for number in numbers or range(1, PARTS + 1)))


def unheard(verified: int) -> None:
    """Nobody listens."""
