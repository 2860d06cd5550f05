"""Parts on their way: their addresses, which end and are renewed, buckets that fail, and hostile answers."""

from __future__ import annotations

import pytest
from aiohttp import web
from tests.unit.transfer.remote.conftest import Clock
from tests.unit.transfer.remote.parts_registry import (
    BASE,
    DATA,
    DIGEST,
    PART,
    PARTS,
    UPLOAD,
    Registry,
    begun,
    json_answer,
    part,
    s3_error,
    send,
    unheard,
)
from tests.unit.transfer.remote.samples import BASIC
from tests.unit.transfer.remote.scripted import Scripted, challenge, error

from bucketry.transfer.errors import NotPermitted, PartLost, Refused, TransferError, Unreachable
from bucketry.transfer.remote import RemoteRepository, Session
from bucketry.transfer.remote.credentials import Credentials
from bucketry.transfer.remote.extension import BATCH

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
