"""Uploads in parts, against a registry that follows RFC 3, and a bucket that fails in the ways buckets do."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import msgspec
import pytest
from aiohttp import web
from tests.unit.transfer.remote.conftest import Clock
from tests.unit.transfer.remote.samples import BASIC
from tests.unit.transfer.remote.scripted import Asked, Scripted, challenge, error

from bucketry import hashing
from bucketry.hashing import Checkpoints
from bucketry.oci import Descriptor, Digest
from bucketry.transfer import wire
from bucketry.transfer.contract import PartUpload
from bucketry.transfer.errors import (
    ContentMismatch,
    NotAuthenticated,
    NotPermitted,
    PartLost,
    Refused,
    TransferError,
    Unreachable,
)
from bucketry.transfer.remote import RemoteRepository, Session
from bucketry.transfer.remote.credentials import Credentials
from bucketry.transfer.remote.extension import BATCH, STANDSTILL, ExtensionUpload

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


@pytest.fixture
def registry(server: Scripted, stranger: Scripted) -> Registry:
    return Registry(server, stranger)


async def begun(repository: RemoteRepository, size: int | None = len(DATA)) -> ExtensionUpload:
    upload = await repository.begin(digest=DIGEST, size=size)
    assert upload is not None
    return upload


async def send(upload: PartUpload, *numbers: int) -> None:
    await asyncio.gather(*(upload.put(number, part(number)) for number in numbers or range(1, PARTS + 1)))


def unheard(verified: int) -> None:
    """Nobody listens."""


# Whether there is one


async def test_the_extension_is_asked_for_once(registry: Registry, repository: RemoteRepository) -> None:
    assert await asyncio.gather(*(repository.takes_parts() for _ in range(5))) == [True] * 5
    assert len(registry.server.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(status=404),
        lambda: web.Response(status=500),
        lambda: web.Response(body=b"<html>"),
        lambda: web.Response(body=b"[" * 100_000),
        lambda: json_answer({"extensions": []}),
        lambda: json_answer({"extensions": [{"name": "_other", "description": "", "url": "", "endpoints": []}]}),
        lambda: json_answer({}),
        lambda: web.Response(status=302, headers={"Location": "javascript:"}),
    ],
)
async def test_whatever_else_a_registry_says_means_no(
    server: Scripted, repository: RemoteRepository, answer: object
) -> None:
    path = f"/v2/{wire.DISCOVER}"
    server.on("GET", path, answer)  # type: ignore[arg-type]

    assert not await repository.takes_parts()
    assert not await repository.takes_parts()

    assert len(server.requests("GET", path)) == 1


async def test_what_a_registry_that_is_down_takes_is_not_known(server: Scripted, repository: RemoteRepository) -> None:
    await server.stop()

    with pytest.raises(Unreachable):
        await repository.takes_parts()


async def test_who_is_not_let_in_at_the_door_is_told_so(server: Scripted, repository: RemoteRepository) -> None:
    server.on("GET", f"/v2/{wire.DISCOVER}", lambda: challenge("Basic realm=x"))
    server.on("GET", "/v2/", lambda: challenge("Basic realm=x"))

    with pytest.raises(NotAuthenticated):
        await repository.takes_parts()


# Beginning, and going on


async def test_an_upload_begins(registry: Registry, repository: RemoteRepository) -> None:
    upload = await repository.begin(digest=DIGEST, size=len(DATA), part_size=2000)

    assert upload is not None
    assert (upload.session, upload.part_size, upload.max_parts) == (SESSION, PART, 10_000)
    [asked] = registry.server.asked
    assert asked.json() == {"digest": str(DIGEST), "size": len(DATA), "partSize": 2000}
    assert asked.headers["Content-Type"] == wire.UPLOAD_TYPE


async def test_neither_digest_nor_size_need_be_known(registry: Registry, repository: RemoteRepository) -> None:
    assert await repository.begin() is not None
    assert registry.server.asked[0].json() == {}


async def test_what_is_there_is_not_sent(registry: Registry, repository: RemoteRepository) -> None:
    present = {"state": "present", "digest": str(DIGEST), "size": len(DATA)}
    registry.server.on("POST", f"{BASE}/uploads", lambda: json_answer(present))

    assert await repository.begin(digest=DIGEST, size=len(DATA)) is None


@pytest.mark.parametrize(
    "change", [{"session": "a/b"}, {"session": ""}, {"partSize": 0}, {"maxParts": 0}, {"partSize": "x"}, {"session": 1}]
)
async def test_a_session_that_cannot_be_is_refused(
    registry: Registry, repository: RemoteRepository, change: dict[str, object]
) -> None:
    registry.server.on("POST", f"{BASE}/uploads", lambda: json_answer({**OPENED, **change}, 201))

    with pytest.raises(Refused, match="beginning an upload to team/app"):
        await repository.begin()


async def test_an_upload_goes_on_in_another_process(registry: Registry, repository: RemoteRepository) -> None:
    await send(await begun(repository), 1, 3)

    upload = await repository.resume(SESSION)

    assert upload is not None
    assert upload.part_size == PART
    assert await upload.sent() == {1: PART, 3: PART}
    await send(upload, 2)
    assert await upload.sent() == {1: PART, 2: PART, 3: PART}


@pytest.mark.parametrize("state", ["done", "failed"])
async def test_an_upload_that_has_ended_does_not_go_on(
    registry: Registry, repository: RemoteRepository, state: str
) -> None:
    registry.server.on("GET", UPLOAD, lambda: json_answer({"state": state, "partSize": PART}))
    assert await repository.resume(SESSION) is None
    registry.server.on("GET", UPLOAD, lambda: error(404, "BLOB_UPLOAD_UNKNOWN", "the upload has ended"))
    assert await repository.resume(SESSION) is None


@pytest.mark.parametrize("text", ["", "../../v2/", "a/b", "a?b", "x" * 2000, "ü"])
async def test_what_is_no_session_is_not_asked_for(registry: Registry, repository: RemoteRepository, text: str) -> None:
    assert await repository.resume(text) is None
    assert registry.server.asked == []


# Parts


async def test_parts_go_straight_to_the_bucket_without_credentials(
    registry: Registry, repository: RemoteRepository, login: Credentials
) -> None:
    registry.headers = {"x-amz-meta-a": "b"}
    registry.server.on(
        "POST",
        f"{BASE}/uploads",
        lambda asked: registry.begin(asked) if asked.authorization == BASIC else challenge("Basic"),
    )

    await send(await begun(repository))

    assert b"".join(registry.parts[number] for number in sorted(registry.parts)) == DATA
    assert len(registry.batches) == 1
    assert registry.batches[0] == list(range(1, PARTS + 1))
    for asked in registry.bucket.asked:
        assert set(asked.headers) == {"Host", "User-Agent", "Content-Length", "x-amz-meta-a"}
    assert {asked.authorization for asked in registry.server.requests("POST", f"{UPLOAD}/urls")} == {BASIC}


async def test_parts_go_to_the_registry_itself_with_credentials(
    server: Scripted, stranger: Scripted, repository: RemoteRepository, login: Credentials
) -> None:
    registry = Registry(server, stranger, direct=False)
    registry.expires = None
    server.on(
        "POST",
        f"{BASE}/uploads",
        lambda asked: registry.begin(asked) if asked.authorization == BASIC else challenge("Basic"),
    )

    await send(await begun(repository))

    assert b"".join(registry.parts[number] for number in sorted(registry.parts)) == DATA
    assert stranger.asked == []
    assert {asked.authorization for asked in server.asked if asked.method == "PUT"} == {BASIC}


async def test_parts_may_lie_in_any_buffer(registry: Registry, repository: RemoteRepository) -> None:
    upload = await begun(repository)

    await upload.put(1, bytearray(part(1)))
    await upload.put(2, memoryview(DATA)[PART : 2 * PART])

    assert registry.parts == {1: part(1), 2: part(2)}


async def test_addresses_are_asked_for_in_batches(registry: Registry, repository: RemoteRepository) -> None:
    upload = await begun(repository, size=None)

    for number in range(1, BATCH + 3):
        await upload.put(number, b"x")

    assert registry.batches == [list(range(1, BATCH + 1)), list(range(BATCH + 1, 2 * BATCH + 1))]


async def test_addresses_are_renewed_before_they_end(
    registry: Registry, repository: RemoteRepository, clock: Clock
) -> None:
    upload = await begun(repository)
    await send(upload, 1, 2)
    registry.signature = 2

    clock.now += 571
    await send(upload, 3, 4)

    assert registry.parts.keys() == {1, 2, 3, 4}
    assert len(registry.batches) == 2
    assert not [asked for asked in registry.bucket.requests("PUT", "/bucket/3") if "Signature=1" in asked.target]


async def test_addresses_that_ended_early_are_renewed_once_for_all(
    registry: Registry, repository: RemoteRepository
) -> None:
    upload = await begun(repository)
    await send(upload, 1)
    registry.signature = 2

    await send(upload, 2, 3, 4, 5)

    assert registry.parts.keys() == {1, 2, 3, 4, 5}
    assert len(registry.batches) == 2


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (lambda: s3_error(403, "AccessDenied", "no"), Refused, "AccessDenied: no"),
        (lambda: s3_error(400, "ExpiredToken", "old"), Refused, "ExpiredToken: old"),
        (lambda: s3_error(400, "EntityTooLarge", "big"), Refused, "EntityTooLarge: big"),
        (lambda: s3_error(400, "RequestTimeout", "slow"), Unreachable, "RequestTimeout: slow"),
        (lambda: s3_error(404, "NoSuchUpload", "gone"), PartLost, "begin it again"),
        (lambda: s3_error(503, "SlowDown", "busy", {"Retry-After": "2"}), Unreachable, "SlowDown: busy"),
        (lambda: web.Response(status=500), Unreachable, "500"),
        (lambda: web.Response(status=307, headers={"Location": "http://127.0.0.1:1/"}), Refused, "307"),
    ],
)
async def test_a_bucket_that_fails_is_understood(
    registry: Registry, repository: RemoteRepository, answer: object, kind: type[TransferError], words: str
) -> None:
    upload = await begun(repository)
    registry.bucket.on("PUT", "/bucket/1", answer)  # type: ignore[arg-type]

    with pytest.raises(TransferError) as caught:
        await upload.put(1, part(1))

    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "Signature" not in str(caught.value)
    tries = len(registry.bucket.requests("PUT", "/bucket/1"))
    assert tries == (2 if "AccessDenied" in words or "ExpiredToken" in words else 1)


async def test_a_clock_that_is_off_is_named(registry: Registry, repository: RemoteRepository, session: Session) -> None:
    session.clock = lambda: 1795518900.0  # Tue, 24 Nov 2026 11:15:00 GMT
    upload = await begun(repository)
    headers = {"Date": "Tue, 24 Nov 2026 11:00:00 GMT"}
    registry.bucket.on("PUT", "/bucket/1", lambda: s3_error(403, "RequestTimeTooSkewed", "too large", headers))

    with pytest.raises(Refused, match="this machine's clock is 15 minutes off"):
        await upload.put(1, part(1))


async def test_a_connection_that_breaks_may_be_tried_again(registry: Registry, repository: RemoteRepository) -> None:
    upload = await begun(repository)

    async def drop(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    registry.bucket.raw("PUT", "/bucket/1", drop)
    with pytest.raises(Unreachable):
        await upload.put(1, part(1))

    registry.bucket._raw.clear()
    await upload.put(1, part(1))
    assert registry.parts == {1: part(1)}


@pytest.mark.parametrize("direct", [True, False])
async def test_a_session_that_has_ended_is_lost(
    server: Scripted, stranger: Scripted, repository: RemoteRepository, direct: bool
) -> None:
    Registry(server, stranger, direct=direct)
    upload = await begun(repository)
    for method, path in [("POST", "/urls"), ("POST", "/complete"), ("GET", ""), ("PUT", "/parts/1")]:
        server.on(method, UPLOAD + path, lambda: error(404, "BLOB_UPLOAD_UNKNOWN", "the upload has ended"))

    for action in (upload.put(1, b""), upload.sent(), upload.complete(DIGEST, 1, None, verified=unheard)):
        with pytest.raises(PartLost, match="the upload has ended or expired: begin it again"):
            await action
    await upload.cancel()


async def test_an_own_address_that_denies_is_not_asked_again(
    server: Scripted, stranger: Scripted, repository: RemoteRepository
) -> None:
    registry = Registry(server, stranger, direct=False)
    server.on("PUT", f"{UPLOAD}/parts/1", lambda: error(403, "DENIED", "read only"))
    upload = await begun(repository)

    with pytest.raises(NotPermitted, match=r"sending part 1 is not allowed.*read only"):
        await upload.put(1, b"")
    assert len(registry.batches) == 1


# Hostile answers


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "file:///etc/passwd", "relative/path", "//stranger.example/x", "", "?x", "/a b", "http://"],
)
async def test_an_address_that_cannot_be_is_refused(registry: Registry, repository: RemoteRepository, url: str) -> None:
    registry.server.on("POST", f"{UPLOAD}/urls", lambda: json_answer({"urls": {"1": url}}))
    upload = await begun(repository)

    with pytest.raises(Refused, match="an address that cannot be used"):
        await upload.put(1, part(1))


async def test_the_registrys_own_address_in_full_gets_no_credentials(
    registry: Registry, repository: RemoteRepository, login: Credentials
) -> None:
    """Only a URL without a host is the registry's own: a bucket may live under its name."""
    registry.server.on(
        "POST", f"{BASE}/uploads", lambda asked: registry.begin(asked) if asked.authorization else challenge("Basic")
    )
    full = f"{registry.server.url}{UPLOAD}/parts/1"
    registry.server.on("POST", f"{UPLOAD}/urls", lambda: json_answer({"urls": {"1": full}}))

    await (await begun(repository)).put(1, part(1))

    assert [asked.authorization for asked in registry.server.requests("PUT", f"{UPLOAD}/parts/1")] == [None]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "x"},
        {"content-length": "0"},
        {"Transfer-Encoding": "chunked"},
        {"a b": "c"},
        {"a": "b\r\nc: d"},
        {"": "x"},
    ],
)
async def test_a_header_that_changes_the_request_is_refused(
    registry: Registry, repository: RemoteRepository, headers: dict[str, str]
) -> None:
    registry.headers = headers
    upload = await begun(repository)

    with pytest.raises(Refused, match="a header that cannot be sent"):
        await upload.put(1, part(1))
    assert registry.bucket.asked == []


@pytest.mark.parametrize("urls", [{}, {"2": "/x"}, {"one": "/x"}, {"-1": "/x"}])
async def test_a_part_without_an_address_is_refused(
    registry: Registry, repository: RemoteRepository, urls: dict[str, str]
) -> None:
    registry.server.on("POST", f"{UPLOAD}/urls", lambda: json_answer({"urls": urls}))
    upload = await begun(repository)

    with pytest.raises(Refused, match="no address for part 1"):
        await upload.put(1, part(1))


async def test_addresses_that_end_at_once_are_asked_for_each_time_and_work(
    registry: Registry, repository: RemoteRepository
) -> None:
    registry.expires = 0
    upload = await begun(repository)

    await send(upload, 1, 2, 3)

    assert registry.parts.keys() == {1, 2, 3}


# Completing


async def test_completing_sends_digest_size_and_checkpoints(registry: Registry, repository: RemoteRepository) -> None:
    hasher = hashing.NotingHasher(hashing.new("sha256"), 64)
    hasher.update(DATA)
    checkpoints = hasher.checkpoints()
    heard: list[int] = []
    upload = await begun(repository)

    await upload.complete(DIGEST, len(DATA), checkpoints, verified=heard.append)

    [asked] = registry.completes
    assert (asked["digest"], asked["size"]) == (str(DIGEST), len(DATA))
    if checkpoints is not None:
        assert Checkpoints.parse(base64.b64decode(asked["checkpoints"])) == checkpoints
    assert heard == [len(DATA)]


async def test_completing_asks_again_until_it_is_done(
    registry: Registry, repository: RemoteRepository, clock: Clock
) -> None:
    registry.polls = 3
    heard: list[int] = []
    upload = await begun(repository)

    await upload.complete(DIGEST, len(DATA), None, verified=heard.append)

    assert heard == [1000, 2000, 3000, len(DATA)]
    assert clock.slept == [3.0, 3.0, 3.0]
    assert len(registry.completes) == 4
    assert {json.dumps(each) for each in registry.completes} == {json.dumps({"digest": str(DIGEST), "size": len(DATA)})}


async def test_verification_that_stands_still_is_given_up(
    registry: Registry, repository: RemoteRepository, clock: Clock
) -> None:
    registry.server.on(
        "POST",
        f"{UPLOAD}/complete",
        lambda: json_answer({"state": "verifying", "verified": 7}, 202, {"Retry-After": "60"}),
    )
    upload = await begun(repository)

    with pytest.raises(Unreachable, match="stands still"):
        await upload.complete(DIGEST, len(DATA), None, verified=unheard)

    assert STANDSTILL <= sum(clock.slept) <= STANDSTILL + 120


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            lambda: error(400, "DIGEST_INVALID", "another digest", detail={"segments": [1]}),
            ContentMismatch,
            "another digest",
        ),
        (
            lambda: error(400, "BLOB_UPLOAD_INVALID", "parts", detail={"missing": [3, 7]}),
            Unreachable,
            "parts are missing (3, 7)",
        ),
        (
            lambda: error(400, "SIZE_INVALID", "parts", detail={"parts": [2]}),
            Unreachable,
            "parts have another size (2)",
        ),
        (lambda: json_answer({"state": "failed", "error": "it\x1b broke"}, 202), ContentMismatch, "it broke"),
        (lambda: error(503, "UNAVAILABLE", "later", headers={"Retry-After": "9"}), Unreachable, "later"),
        (lambda: error(400, "BLOB_UPLOAD_INVALID", "no"), Refused, "no"),
        (lambda: web.Response(status=202, body=b"<html>"), Refused, "not understood"),
    ],
)
async def test_what_goes_wrong_at_the_end_is_told_apart(
    registry: Registry, repository: RemoteRepository, answer: object, kind: type[TransferError], words: str
) -> None:
    upload = await begun(repository)
    registry.server.on("POST", f"{UPLOAD}/complete", answer)  # type: ignore[arg-type]

    with pytest.raises(TransferError) as caught:
        await upload.complete(DIGEST, len(DATA), None, verified=unheard)

    assert type(caught.value) is kind
    assert words in str(caught.value)


async def test_an_upload_is_given_up(registry: Registry, repository: RemoteRepository) -> None:
    upload = await begun(repository)
    await upload.cancel()
    assert len(registry.server.requests("DELETE", UPLOAD)) == 1

    registry.server.on("DELETE", UPLOAD, lambda: error(500, "UNKNOWN", "no"))
    with pytest.raises(Unreachable):
        await upload.cancel()


async def test_wrong_credentials_are_said_at_the_beginning(
    registry: Registry, repository: RemoteRepository, login: Credentials
) -> None:
    registry.server.on("POST", f"{BASE}/uploads", lambda: challenge("Basic realm=x"))

    with pytest.raises(NotAuthenticated, match="wrong credentials"):
        await repository.begin()


# Checkpoints

SEGMENT = 64 * 1024
BLOB_DATA = bytes(5 * SEGMENT + 17)


def listed(data: bytes = BLOB_DATA, segment: int = SEGMENT) -> bytes:
    """A list of the right form; its states are nobody's business here."""
    count = max(1, -(-len(data) // segment))
    return Checkpoints(Digest.of(data).hex, len(data), segment, bytes(32 * (count - 1))).encode()


def described(data: bytes = BLOB_DATA, algorithm: str = "sha256") -> Descriptor:
    return Descriptor(media_type="x/y", digest=str(Digest.of(data, algorithm)), size=len(data))


CHECKPOINTS = f"{BASE}/checkpoints/{described().digest}"


async def test_checkpoints_are_fetched(registry: Registry, repository: RemoteRepository) -> None:
    registry.server.on("GET", CHECKPOINTS, lambda: web.Response(body=listed(), content_type=wire.CHECKPOINTS_TYPE))

    assert await repository.blob(described()).checkpoints() == Checkpoints.parse(listed())


@pytest.mark.parametrize(
    "answer",
    [
        lambda: error(404, "BLOB_UNKNOWN", "none"),
        lambda: error(503, "UNAVAILABLE", "later"),
        lambda: error(403, "DENIED", "no"),
        lambda: web.Response(body=b""),
        lambda: web.Response(body=b"<html>"),
        lambda: web.Response(body=listed()[:-1]),
        lambda: web.Response(body=listed() + b"x"),
        lambda: web.Response(body=listed(bytes(5 * SEGMENT + 18))),
        lambda: web.Response(body=listed(b"x" * len(BLOB_DATA))),
        lambda: web.Response(body=listed(segment=SEGMENT // 2)),
        lambda: web.Response(body=bytes(10_000_000)),
    ],
)
async def test_checkpoints_that_are_of_no_use_are_none(
    registry: Registry, repository: RemoteRepository, answer: object
) -> None:
    registry.server.on("GET", CHECKPOINTS, answer)  # type: ignore[arg-type]

    assert await repository.blob(described()).checkpoints() is None


async def test_no_checkpoints_are_asked_for_where_there_can_be_none(
    server: Scripted, repository: RemoteRepository
) -> None:
    assert await repository.blob(described(algorithm="sha512")).checkpoints() is None
    assert server.asked == []
    assert await repository.blob(described()).checkpoints() is None
    assert {asked.path for asked in server.asked} == {f"/v2/{wire.DISCOVER}", "/v2/"}


def test_the_script_says_what_the_wire_says() -> None:
    """The scripted registry of these tests speaks the same format as the real one."""
    assert msgspec.convert(OPENED, wire.Opened).session == SESSION
    assert msgspec.convert(DISCOVERED, wire.Extensions).extensions[1].name == wire.NAME


async def test_a_site_that_has_checkpoints_alone_is_read_and_takes_no_parts(
    registry: Registry, repository: RemoteRepository
) -> None:
    named = {"name": "_bucketry", "description": "", "url": "", "endpoints": ["_bucketry/checkpoints"]}
    registry.server.on("GET", "/v2/_oci/ext/discover", lambda: json_answer({"extensions": [named]}))
    registry.server.on("GET", CHECKPOINTS, lambda: web.Response(body=listed(), content_type=wire.CHECKPOINTS_TYPE))

    assert await repository.blob(described()).checkpoints() == Checkpoints.parse(listed())
    assert not await repository.takes_parts()
