"""How blobs go out: by redirect or through the server, whole, in ranges, in parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response
from starlette.types import Message

from bucketry.oci import Digest
from bucketry.registry import Blob, Chunk, Registry
from bucketry.server.config import DeliveryConfig
from bucketry.server.delivery import Delivery, PathResponse
from bucketry.store.contract import Capabilities, NotFound, Unavailable
from bucketry.store.local import LocalStore
from bucketry.store.memory import MemoryStore

DATA = bytes(range(256)) * 4
REPO = "team/app"


class PresigningStore(MemoryStore):
    """As S3 is: URLs are numbered, so that one used again can be told from a new one."""

    capabilities = Capabilities(presign=True)

    def __init__(self) -> None:
        super().__init__()
        self.presigned: list[tuple[str, float, Mapping[str, str]]] = []
        self.reads: list[tuple[int, int | None]] = []
        self.closed = 0
        self.fails_after: int | None = None

    async def presign_get(self, key: str, *, expires: float, response_headers: Mapping[str, str] | None = None) -> str:
        self.presigned.append((key, expires, dict(response_headers or {})))
        return f"https://bucket.example/{key}?signature={len(self.presigned)}"

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        self.reads.append((start, stop))
        given = 0
        try:
            async for piece in super().read(key, start, stop):
                for at in range(0, len(piece), 100):
                    if self.fails_after is not None and given >= self.fails_after:
                        raise Unavailable("the store is down")
                    yield piece[at : at + 100]
                    given += 100
        finally:
            self.closed += 1


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def store() -> PresigningStore:
    return PresigningStore()


@pytest.fixture
async def registry(store: PresigningStore) -> Registry:
    return await Registry.open(store)


@pytest.fixture
async def blob(registry: Registry) -> Blob:
    return await pushed(registry, DATA)


async def pushed(registry: Registry, data: bytes) -> Blob:
    async def body() -> AsyncIterator[bytes]:
        yield data

    return await registry.uploads.push(REPO, Digest.of(data), Chunk(body(), len(data)))


THEIRS = f"docker/registry/v2/blobs/sha256/{Digest.of(DATA).hex[:2]}/{Digest.of(DATA).hex}/data"
"""Where an old registry keeps the bytes."""


async def adopted(registry: Registry) -> Blob:
    """The blob of bytes that another program wrote, which are there."""
    return await registry.blobs.publish(REPO, Digest.of(DATA), len(DATA), THEIRS, exclusive=False)


async def answer(
    delivery: Delivery,
    blob: Blob,
    range_header: str | None = None,
    *,
    client: str | None = "192.0.2.1",
    sendfile: bool = False,
) -> Response:
    return await delivery.respond(
        blob, {"etag": '"x"', "cache-control": "max-age=1"}, client=client, range_header=range_header, sendfile=sendfile
    )


async def sent(response: Response) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body, as an ASGI server gets them."""
    messages: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("nothing is to be received")

    async def send(message: Message) -> None:
        messages.append(message)

    scope: dict[str, Any] = {"type": "http", "asgi": {"spec_version": "2.4"}}
    await response(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return messages[0]["status"], headers, b"".join(each.get("body", b"") for each in messages[1:])


def proxy(registry: Registry) -> Delivery:
    return Delivery(registry, DeliveryConfig(mode="proxy"))


def redirect(registry: Registry, clock: Clock | None = None, **settings: Any) -> Delivery:
    return Delivery(registry, DeliveryConfig(redirect_from=0, **settings), clock=clock or Clock())


# Through the server


async def test_whole_blob(registry: Registry, blob: Blob) -> None:
    status, headers, body = await sent(await answer(proxy(registry), blob))
    assert (status, body) == (200, DATA)
    assert headers["content-length"] == str(len(DATA))
    assert headers["content-type"] == "application/octet-stream"
    assert headers["accept-ranges"] == "bytes"
    assert headers["etag"] == '"x"'


async def test_one_range(registry: Registry, blob: Blob, store: PresigningStore) -> None:
    status, headers, body = await sent(await answer(proxy(registry), blob, "bytes=100-299"))
    assert (status, body) == (206, DATA[100:300])
    assert headers["content-range"] == "bytes 100-299/1024"
    assert headers["content-length"] == "200"
    assert store.reads == [(100, 300)]  # No more is asked of the store than the client wants.


async def test_several_ranges(registry: Registry, blob: Blob, store: PresigningStore) -> None:
    status, headers, body = await sent(await answer(proxy(registry), blob, "bytes=0-9,500-519"))
    assert status == 206
    assert headers["content-length"] == str(len(body))
    boundary = headers["content-type"].removeprefix("multipart/byteranges; boundary=").encode()
    head = b"\r\n--%s\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes %s/1024\r\n\r\n%s"
    expected = head % (boundary, b"0-9", DATA[:10]) + head % (boundary, b"500-519", DATA[500:520])
    assert body == expected + b"\r\n--%s--\r\n" % boundary
    assert store.reads == [(0, 10), (500, 520)]


async def test_range_beyond_the_end(registry: Registry, blob: Blob) -> None:
    for delivery in (proxy(registry), redirect(registry)):
        status, headers, body = await sent(await answer(delivery, blob, "bytes=1024-"))
        assert (status, body) == (416, b"")
        assert headers["content-range"] == "bytes */1024"
        assert headers["cache-control"] == "no-store"


async def test_empty_blob_is_not_read(registry: Registry, store: PresigningStore) -> None:
    empty = await pushed(registry, b"")
    status, headers, body = await sent(await answer(proxy(registry), empty))
    assert (status, body, headers["content-length"]) == (200, b"", "0")
    assert store.reads == []


@pytest.mark.parametrize("asked", [None, "bytes=0-9", "bytes=0-9,20-29"])
async def test_store_that_cannot_begin_is_an_error_before_the_head(
    asked: str | None, registry: Registry, blob: Blob, store: PresigningStore
) -> None:
    store.fails_after = 0
    with pytest.raises(Unavailable):
        await answer(proxy(registry), blob, asked)
    store.fails_after = None
    await store.delete(blob.data)
    with pytest.raises(NotFound):
        await answer(proxy(registry), blob, asked)


async def test_store_that_ends_early_breaks_the_answer_off(
    registry: Registry, blob: Blob, store: PresigningStore
) -> None:
    store.fails_after = 500
    response = await answer(proxy(registry), blob)
    with pytest.raises(Unavailable):
        await sent(response)
    assert store.closed == 1


# By redirect


async def test_redirect_is_not_to_be_kept(registry: Registry, blob: Blob, store: PresigningStore) -> None:
    status, headers, body = await sent(await answer(redirect(registry), blob))
    assert (status, body) == (307, b"")
    assert headers["location"].startswith(f"https://bucket.example/{blob.data}?")
    assert headers["cache-control"] == "no-store"
    assert headers["content-length"] == "0"
    assert store.reads == []


async def test_single_range_is_redirected_and_several_are_not(registry: Registry, blob: Blob) -> None:
    delivery = redirect(registry)
    assert (await answer(delivery, blob, "bytes=5-")).status_code == 307
    assert (await answer(delivery, blob, "bytes=0-4,9-10")).status_code == 206
    assert (await answer(delivery, blob, "bytes=0-4,5-10")).status_code == 307  # One, in the end.


@pytest.mark.parametrize(("least", "status"), [(1023, 307), (1024, 307), (1025, 200)])
async def test_small_blobs_are_sent(least: int, status: int, registry: Registry, blob: Blob) -> None:
    delivery = Delivery(registry, DeliveryConfig(redirect_from=least))
    assert (await answer(delivery, blob)).status_code == status


async def test_url_is_used_again_for_the_first_half_of_its_life(
    registry: Registry, blob: Blob, store: PresigningStore
) -> None:
    clock = Clock()
    delivery = redirect(registry, clock, presign_expires=1200.0)
    for at, count in ((0, 1), (1, 1), (599, 1), (601, 2), (700, 2), (1202, 3)):
        clock.time = 1000.0 + at
        location = (await answer(delivery, blob)).headers["location"]
        assert location.endswith(f"signature={count}"), at
    assert {expires for _, expires, _ in store.presigned} == {1200.0}


async def test_urls_of_two_blobs_are_two(registry: Registry, blob: Blob) -> None:
    other = await pushed(registry, b"other" * 100)
    delivery = redirect(registry)
    locations = [(await answer(delivery, each)).headers["location"] for each in (blob, other, blob)]
    assert locations[0] == locations[2] != locations[1]


@pytest.mark.parametrize(
    ("mode", "client", "status"),
    [
        ("redirect", "192.0.2.1", 307),
        ("redirect", "10.9.0.1", 200),
        ("redirect", None, 307),
        ("redirect", "not an address", 307),
        ("proxy", "192.0.2.1", 200),
        ("proxy", "10.1.0.1", 307),
        ("proxy", "10.9.0.1", 200),
        ("proxy", "fd00::1", 307),
        ("proxy", "fe80::1", 200),
        ("proxy", None, 200),
        ("proxy", "not an address", 200),
    ],
)
async def test_networks_decide_before_the_mode(
    mode: Any, client: str | None, status: int, registry: Registry, blob: Blob
) -> None:
    config = DeliveryConfig(
        mode=mode, redirect_from=0, redirect_networks=("10.0.0.0/8", "fd00::/8"), proxy_networks=("10.9.0.0/16",)
    )
    delivery = Delivery(registry, config)
    for _ in range(2):
        assert (await answer(delivery, blob, client=client)).status_code == status


async def test_store_that_cannot_presign_is_always_proxied() -> None:
    registry = await Registry.open(MemoryStore())
    delivery = redirect(registry, redirect_networks=("0.0.0.0/0",))
    assert (await answer(delivery, await pushed(registry, DATA))).status_code == 200


# Files


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Registry]:
    store = LocalStore(tmp_path, fsync=False)
    await store.start()
    yield await Registry.open(store)
    await store.close()


async def test_whole_file_is_left_to_the_server(local: Registry, tmp_path: Path) -> None:
    blob = await pushed(local, DATA)
    response = await answer(Delivery(local, DeliveryConfig()), blob, sendfile=True)
    assert isinstance(response, PathResponse)
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    async def receive() -> Message:
        raise AssertionError

    await response({"type": "http"}, receive, send)
    assert dict(messages[0]["headers"])[b"content-length"] == b"1024"
    assert messages[1]["type"] == "http.response.pathsend"
    assert Path(messages[1]["path"]).read_bytes() == DATA


@pytest.mark.parametrize(
    ("offered", "wanted", "asked"), [(False, True, None), (True, False, None), (True, True, "bytes=0-99")]
)
async def test_file_is_read_where_it_cannot_be_left_to_the_server(
    offered: bool, wanted: bool, asked: str | None, local: Registry
) -> None:
    blob = await pushed(local, DATA)
    delivery = Delivery(local, DeliveryConfig(file_sendfile=wanted))
    response = await answer(delivery, blob, asked, sendfile=offered)
    assert not isinstance(response, PathResponse)
    assert (await sent(response))[2] == (DATA if asked is None else DATA[:100])


async def test_file_that_is_gone_is_an_error_before_the_head(local: Registry, tmp_path: Path) -> None:
    blob = await pushed(local, DATA)
    await local.store.delete(blob.data)
    with pytest.raises(NotFound):
        await answer(Delivery(local, DeliveryConfig()), blob, sendfile=True)


# Adopted blobs


@pytest.fixture
async def foreign(registry: Registry, store: PresigningStore) -> Blob:
    store.plant(THEIRS, DATA, content_type="text/html")
    return await adopted(registry)


async def test_adopted_blob_is_sent_like_any_other(registry: Registry, foreign: Blob) -> None:
    status, headers, body = await sent(await answer(proxy(registry), foreign))
    assert (status, body, headers["content-type"]) == (200, DATA, "application/octet-stream")
    status, headers, body = await sent(await answer(proxy(registry), foreign, "bytes=-24"))
    assert (status, body, headers["content-range"]) == (206, DATA[1000:], "bytes 1000-1023/1024")
    status, _, body = await sent(await answer(proxy(registry), foreign, "bytes=0-9,500-519"))
    assert (status, DATA[:10] in body, DATA[500:520] in body) == (206, True, True)


async def test_adopted_blob_is_redirected_to_with_the_type_of_a_blob(
    registry: Registry, foreign: Blob, store: PresigningStore
) -> None:
    """Whatever the old registry, or who copied its bucket, said of the object."""
    status, headers, _ = await sent(await answer(redirect(registry), foreign))
    assert status == 307
    assert headers["location"].startswith(f"https://bucket.example/{THEIRS}?")
    [(key, _, response_headers)] = store.presigned
    assert (key, response_headers) == (THEIRS, {"content-type": "application/octet-stream"})


async def test_adopted_file_is_left_to_the_server(local: Registry, tmp_path: Path) -> None:
    file = tmp_path / THEIRS
    file.parent.mkdir(parents=True)
    file.write_bytes(DATA)
    blob = await adopted(local)
    delivery = Delivery(local, DeliveryConfig())
    response = await answer(delivery, blob, sendfile=True)
    assert isinstance(response, PathResponse)
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    async def receive() -> Message:
        raise AssertionError

    await response({"type": "http"}, receive, send)
    assert messages[1] == {"type": "http.response.pathsend", "path": str(file)}
    assert (await sent(await answer(delivery, blob, "bytes=5-14", sendfile=True)))[2] == DATA[5:15]
    file.unlink()
    with pytest.raises(NotFound):
        await answer(delivery, blob, sendfile=True)
