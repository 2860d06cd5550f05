"""A small blob by one PUT that the bucket checks: what is sent, and what each answer means (RFC 3, rule 9)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

import pytest
from aiohttp import web
from tests.unit.transfer.remote.conftest import PASSWORD, Clock
from tests.unit.transfer.remote.parts_registry import BASE, OPENED, SESSION, UPLOAD, json_answer, s3_error
from tests.unit.transfer.remote.samples import BASIC
from tests.unit.transfer.remote.scripted import Asked, Scripted, challenge

from bucketry.oci import Digest
from bucketry.transfer import wire
from bucketry.transfer.contract import CheckedTarget
from bucketry.transfer.errors import ContentMismatch, PartLost, Refused, Unreachable
from bucketry.transfer.remote import RemoteRepository
from bucketry.transfer.remote.credentials import Credentials
from bucketry.transfer.remote.extension import ExtensionUpload

DATA = bytes(range(256)) * 8
DIGEST = Digest.of(DATA)
SUM = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
HEADERS = {"content-type": "application/octet-stream", "if-none-match": "*", "x-amz-checksum-sha256": SUM}
OBJECT = "/bucket/data/ab/abcd"


class Registry:
    """A server of the extension with a bucket that checks; ``signature``: of the URLs that work now."""

    def __init__(self, server: Scripted, bucket: Scripted) -> None:
        self.server, self.bucket = server, bucket
        self.signature = 1
        self.expires = 600.0
        self.held: bytes | None = None
        self.put_up_to = len(DATA)
        server.on("GET", f"/v2/{wire.DISCOVER}", self.discover)
        server.on("POST", f"{BASE}/uploads", self.begin)
        server.on("GET", UPLOAD, lambda: json_answer({"state": "open", "partSize": 1 << 23, "size": len(DATA)}))
        server.on("POST", f"{UPLOAD}/urls", lambda: json_answer(self.put))
        server.on("POST", f"{UPLOAD}/complete", lambda: json_answer({"state": "done"}, 201))
        server.on("PUT", f"{UPLOAD}/parts/1", self.take)
        bucket.on("PUT", OBJECT, self.take_signed)

    @property
    def put(self) -> dict[str, object]:
        url = f"{self.bucket.url}{OBJECT}?X-Amz-Signature={self.signature}"
        return {"urls": {"1": url}, "expires": self.expires, "headers": HEADERS}

    def discover(self) -> web.Response:
        extension = {
            "name": "_bucketry",
            "description": "",
            "url": "",
            "endpoints": ["_bucketry/uploads"],
            "putUpTo": self.put_up_to,
        }
        return json_answer({"extensions": [extension]})

    def begin(self) -> web.Response:
        return json_answer({**OPENED, "partSize": 1 << 23, "maxParts": 1, "put": self.put}, 201, {"Location": UPLOAD})

    def take(self, asked: Asked) -> web.Response:
        self.held = asked.body
        return web.Response(status=201)

    def take_signed(self, asked: Asked) -> web.Response:
        if not asked.target.endswith(f"X-Amz-Signature={self.signature}"):
            return s3_error(403, "AccessDenied", "Request has expired")
        if asked.body != DATA:
            return s3_error(400, "BadDigest", "the checksum did not match")
        if self.held is not None:
            return s3_error(412, "PreconditionFailed", "there is one")
        self.held = asked.body
        return web.Response(headers={"ETag": '"x"'})

    @property
    def puts(self) -> list[Asked]:
        return self.bucket.requests("PUT", OBJECT)

    def asked_again(self) -> int:
        return len(self.server.requests("POST", f"{UPLOAD}/urls"))


@pytest.fixture
def registry(server: Scripted, stranger: Scripted) -> Registry:
    return Registry(server, stranger)


async def begun(repository: RemoteRepository) -> ExtensionUpload:
    upload = await repository.begin(digest=DIGEST, size=len(DATA))
    assert upload is not None
    return upload


async def test_the_registry_says_up_to_which_size(registry: Registry, repository: RemoteRepository) -> None:
    assert isinstance(repository, CheckedTarget)
    assert await repository.takes_put(len(DATA))
    assert not await repository.takes_put(len(DATA) + 1)
    assert len(registry.server.asked) == 1


async def test_a_registry_that_says_nothing_of_it_takes_none(server: Scripted, repository: RemoteRepository) -> None:
    named = {"extensions": [{"name": "_bucketry", "description": "", "url": "", "endpoints": ["_bucketry/uploads"]}]}
    server.on("GET", f"/v2/{wire.DISCOVER}", lambda: json_answer(named))
    assert await repository.takes_parts()
    assert not await repository.takes_put(1)


async def test_one_put_with_just_the_headers_that_were_signed(registry: Registry, repository: RemoteRepository) -> None:
    upload = await begun(repository)
    await upload.put(1, DATA)
    await upload.complete(DIGEST, len(DATA), None, verified=lambda size: None)

    assert registry.held == DATA
    [asked] = registry.puts
    sent = {name.lower(): value for name, value in asked.headers.items()}
    assert {name: sent[name] for name in HEADERS} == HEADERS
    assert sent["content-length"] == str(len(DATA))
    assert set(sent) - set(HEADERS) == {"host", "user-agent", "content-length"}
    assert [each.path for each in registry.server.asked] == [f"{BASE}/uploads", f"{UPLOAD}/complete"]


async def test_the_bucket_gets_no_credentials(
    registry: Registry, repository: RemoteRepository, login: Credentials
) -> None:
    registry.server.on("POST", f"{BASE}/uploads", lambda asked: needs(asked, registry.begin))
    await (await begun(repository)).put(1, DATA)
    [asked] = registry.puts
    assert asked.authorization is None
    assert PASSWORD not in asked.everything()
    assert registry.server.asked[-1].authorization == BASIC


def needs(asked: Asked, answer: Callable[[], web.Response]) -> web.Response:
    return answer() if asked.authorization == BASIC else challenge("Basic realm=x")


async def test_what_is_there_was_sent(registry: Registry, repository: RemoteRepository) -> None:
    """The answer to the first was lost."""
    upload = await begun(repository)
    registry.held = DATA
    await upload.put(1, DATA)
    assert [asked.body for asked in registry.puts] == [DATA]


async def test_of_a_part_of_many_a_precondition_that_fails_is_no_success(
    registry: Registry, repository: RemoteRepository
) -> None:
    part = {"urls": {"1": f"{registry.bucket.url}{OBJECT}"}, "expires": 600, "headers": {}}
    registry.server.on("POST", f"{BASE}/uploads", lambda: json_answer(OPENED, 201))
    registry.server.on("POST", f"{UPLOAD}/urls", lambda: json_answer(part))
    registry.bucket.on("PUT", OBJECT, lambda: s3_error(412, "PreconditionFailed", "no"))
    with pytest.raises(Refused):
        await (await begun(repository)).put(1, DATA[:1000])


async def test_other_bytes_are_other_bytes(registry: Registry, repository: RemoteRepository) -> None:
    with pytest.raises(ContentMismatch, match="BadDigest"):
        await (await begun(repository)).put(1, DATA[::-1])
    assert len(registry.puts) == 1


async def test_where_it_goes_is_asked_again_once_it_has_expired(
    registry: Registry, repository: RemoteRepository, clock: Clock
) -> None:
    upload = await begun(repository)
    clock.now += 601
    registry.signature = 2
    await upload.put(1, DATA)
    assert registry.held == DATA
    assert (registry.asked_again(), len(registry.puts)) == (1, 1)


async def test_a_bucket_that_finds_it_expired_is_asked_once_more(
    registry: Registry, repository: RemoteRepository
) -> None:
    upload = await begun(repository)
    registry.signature = 2
    await upload.put(1, DATA)
    assert registry.held == DATA
    assert (registry.asked_again(), len(registry.puts)) == (1, 2)


async def test_another_process_goes_on(registry: Registry, repository: RemoteRepository) -> None:
    upload = await repository.resume(SESSION)
    assert upload is not None
    await upload.put(1, DATA)
    assert registry.held == DATA
    [asked] = registry.server.requests("POST", f"{UPLOAD}/urls")
    assert asked.json() == {"parts": [1]}


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (409, "ConditionalRequestConflict")])
async def test_what_may_pass_is_tried_again(
    registry: Registry, repository: RemoteRepository, status: int, code: str
) -> None:
    registry.bucket.on("PUT", OBJECT, lambda: s3_error(status, code, "later"))
    upload = await begun(repository)
    with pytest.raises(Unreachable):
        await upload.put(1, DATA)
    assert registry.held is None
    assert await repository.takes_put(len(DATA))


async def test_a_bucket_that_is_not_there_for_the_client_is_there_for_the_registry(
    registry: Registry, repository: RemoteRepository
) -> None:
    await registry.bucket.stop()
    await (await begun(repository)).put(1, DATA)
    assert registry.held == DATA
    # The next ones do not even try.
    assert not await repository.takes_put(1)


async def test_a_bucket_that_was_there_before_is_tried_again(registry: Registry, repository: RemoteRepository) -> None:
    await (await begun(repository)).put(1, DATA)
    await registry.bucket.stop()
    await (await begun(repository)).put(1, DATA)
    assert await repository.takes_put(1)


async def test_an_upload_that_has_ended_is_begun_again(registry: Registry, repository: RemoteRepository) -> None:
    upload = await begun(repository)
    registry.bucket.on("PUT", OBJECT, lambda: s3_error(404, "NoSuchBucket", "gone"))
    with pytest.raises(PartLost):
        await upload.put(1, DATA)


@pytest.mark.parametrize("name", ["content-length", "Transfer-Encoding", "host", "bad name"])
async def test_headers_that_would_change_the_request_are_refused(
    registry: Registry, repository: RemoteRepository, name: str
) -> None:
    put = {**registry.put, "headers": {**HEADERS, name: "1"}}
    registry.server.on("POST", f"{BASE}/uploads", lambda: json_answer({**OPENED, "put": put}, 201))
    with pytest.raises(Refused):
        await begun(repository)
    assert registry.puts == []
