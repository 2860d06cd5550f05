"""The probe's checks of presigned URLs find out a store that does not enforce what was signed."""

from __future__ import annotations

import hashlib
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import parse_qsl

import pytest
from aiohttp import web
from tests.store.s3.fake import Asked, FakeS3, etag_of, fault

from bucketry.store.memory import MemoryStore
from bucketry.store.probe_presigned import presigned_get, presigned_part, presigned_put
from bucketry.store.probe_scratch import Answer, CheckFunction, Found, Scratch
from bucketry.store.s3.signing import Identity, Signer

IDENTITY = Identity("AKID", "SECRET")


@dataclass
class Enforces:
    """What a store looks at when somebody comes with a presigned URL."""

    signature: bool = True
    checksums: bool = True
    conditions: bool = True
    presigned_puts: bool = True
    late_parts: bool = True
    """False: a part that comes after its upload was completed is written into the object."""

    ends: bool = True
    """False: a part that comes after its upload was completed begins an upload of that id."""

    sizes: bool = True
    """False: a presigned part loses its last byte."""


class Checking(FakeS3):
    """An S3 that checks what was presigned as far as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.enforces = Enforces()

    def answer(self, asked: Asked) -> web.StreamResponse:
        if asked.method != "PUT" or "X-Amz-Signature" not in asked.query:
            return super().answer(asked)
        key = asked.path.removeprefix("/bucket/")
        if not self.enforces.presigned_puts:
            return fault(501, "NotImplemented")
        if self.enforces.signature and not self._signed(asked):
            return fault(403, "SignatureDoesNotMatch")
        upload_id = asked.query.get("uploadId")
        if upload_id is not None:
            return self._presigned_part(asked, key, upload_id)
        if self.enforces.conditions and asked.headers.get("if-none-match") == "*" and key in self.objects:
            return fault(412, "PreconditionFailed")
        wanted = asked.headers.get("x-amz-checksum-sha256")
        if not self.enforces.checksums:
            wanted = None
        if wanted not in (None, b64encode(hashlib.sha256(asked.body).digest()).decode()):
            return fault(400, "BadDigest")
        self.objects[key] = (asked.body, {"content-type": "application/octet-stream"})
        return web.Response(headers={"ETag": etag_of(asked.body)})

    def _presigned_part(self, asked: Asked, key: str, upload_id: str) -> web.StreamResponse:
        if upload_id not in self.uploads:
            if not self.enforces.late_parts:
                self.objects[key] = (asked.body, {})
                return web.Response(headers={"ETag": etag_of(asked.body)})
            if self.enforces.ends:
                return fault(404, "NoSuchUpload")
        body = asked.body if self.enforces.sizes else asked.body[:-1]
        self.uploads.setdefault(upload_id, {})[int(asked.query["partNumber"])] = body
        return web.Response(headers={"ETag": etag_of(body)})

    def _signed(self, asked: Asked) -> bool:
        path, _, query = asked.target.partition("?")
        pairs = dict(parse_qsl(query))
        names = pairs["X-Amz-SignedHeaders"].split(";")
        if any(name not in asked.headers for name in names):
            return False
        again = Signer("us-east-1").presign(
            IDENTITY,
            asked.method,
            asked.headers["host"],
            path,
            [(name, value) for name, value in pairs.items() if not name.startswith("X-Amz-")],
            expires=int(pairs["X-Amz-Expires"]),
            now=self.now,
            headers={name: asked.headers[name] for name in names if name != "host"},
        )
        return dict(parse_qsl(again)) == pairs


@pytest.fixture
async def server() -> AsyncIterator[Checking]:
    server = Checking()
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def run(check: CheckFunction, server: Checking, **changes: str) -> Answer:
    store = await server.started(**changes)
    scratch = Scratch(store, "0" * 16, quick=True, clock=time.time)
    try:
        return await check(scratch)
    finally:
        assert await scratch.clean(5) is None
        assert server.objects == {}
        assert server.uploads == {}


async def test_a_store_that_enforces_what_was_signed_passes(server: Checking) -> None:
    assert (await run(presigned_put, server))[0] == "only those bytes, and only once"
    assert "came late changed nothing" in (await run(presigned_part, server))[0]
    assert (await run(presigned_put, server, sse="AES256", storage_class="STANDARD_IA", prefix="p"))[0]
    assert (await run(presigned_part, server, sse="AES256", storage_class="STANDARD_IA", prefix="p"))[0]


@pytest.mark.parametrize(
    ("check", "enforces", "status", "words"),
    [
        (presigned_put, Enforces(checksums=False), "broken", "with the checksum of others"),
        (presigned_put, Enforces(signature=False), "broken", "without the checksum that was signed"),
        (presigned_put, Enforces(conditions=False), "broken", "though there is an object"),
        (presigned_put, Enforces(presigned_puts=False), "missing", "answers 501"),
        (presigned_part, Enforces(presigned_puts=False), "missing", "answers 501"),
        (presigned_part, Enforces(late_parts=False), "broken", "came after its upload was completed changed"),
        (presigned_part, Enforces(sizes=False), "broken", "not listed as it was sent"),
    ],
)
async def test_a_store_that_lets_something_through_is_found_out(
    server: Checking, check: CheckFunction, enforces: Enforces, status: str, words: str
) -> None:
    server.enforces = enforces
    with pytest.raises(Found, match=words) as found:
        await run(check, server)
    assert found.value.status == status
    assert "straight to the bucket" in found.value.means


async def test_a_late_part_that_is_taken_and_can_be_removed_is_no_fault(server: Checking) -> None:
    server.enforces = Enforces(ends=False)
    assert "came late changed nothing" in (await run(presigned_part, server))[0]


@pytest.mark.parametrize("checksum", ["md5", "sha256"])
async def test_where_parts_need_checksums_they_are_not_presigned(server: Checking, checksum: str) -> None:
    with pytest.raises(Found, match=r"store\.checksum") as found:
        await run(presigned_part, server, checksum=checksum)
    assert found.value.status == "missing"
    assert (await run(presigned_put, server, checksum=checksum))[0]


async def test_an_endpoint_that_leads_nowhere_is_tried_once(server: Checking) -> None:
    store = await server.started(public_endpoint="http://127.0.0.1:1")
    scratch = Scratch(store, "0" * 16, quick=True, clock=time.time)
    for check in (presigned_get, presigned_part, presigned_put):
        with pytest.raises(Found, match="could not be reached from here") as found:
            await check(scratch)
        assert found.value.status == "broken"
    assert scratch.unreachable is not None
    assert await scratch.clean(5) is None


async def test_a_store_without_urls_is_not_asked_for_any() -> None:
    store = MemoryStore()
    for check in (presigned_get, presigned_part, presigned_put):
        with pytest.raises(Found, match="no URLs of its own") as found:
            await check(Scratch(store, "0" * 16, quick=True, clock=time.time))
        assert found.value.status == "missing"
    assert (await store.list("")).objects == ()
    assert await store.list_multiparts() == ()
