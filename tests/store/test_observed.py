"""Backends without a network report each call as one request."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import cast

import pytest
from tests.store.helpers import read_all

from bucketry.store.contract import IF_ABSENT, NotFound, Part, PreconditionFailed, Store, UploadNotFound
from bucketry.store.local import LocalStore
from bucketry.store.memory import MemoryStore


class Recorder:
    def __init__(self) -> None:
        self.requests: list[tuple[str, int, int, str]] = []

    def request(self, operation: str, *, seconds: float, sent: int, received: int, outcome: str) -> None:
        assert 0 <= seconds < 60
        self.requests.append((operation, sent, received, outcome))


@pytest.mark.parametrize("name", ["memory", "local"])
async def test_each_call_is_reported_with_its_bytes_and_its_outcome(name: str, tmp_path: Path) -> None:
    seen = Recorder()
    store: Store
    store = (
        MemoryStore(min_part=4, observer=seen) if name == "memory" else LocalStore(tmp_path, min_part=4, observer=seen)
    )
    await store.start()
    await store.put("a", b"12345")
    with pytest.raises(PreconditionFailed):
        await store.put("a", memoryview(b"1234"), condition=IF_ABSENT)
    await store.get("a")
    await store.head("a")
    with pytest.raises(NotFound):
        await store.get("b")
    assert await read_all(store, "a", 1, 4) == b"234"
    with pytest.raises(NotFound):
        await read_all(store, "b")
    await store.list("x/")
    upload_id = await store.create_multipart("data/a", part_size=4)
    etag = await store.put_part("data/a", upload_id, 1, b"123", offset=0)
    await store.list_multiparts()
    await store.list_parts("data/a", upload_id)
    await store.complete_multipart("data/a", upload_id, [Part(1, 3, etag)])
    await store.abort_multipart("data/a", upload_id)
    with pytest.raises(UploadNotFound):
        await store.put_part("data/a", upload_id, 1, b"12", offset=0)
    await store.delete("a")
    await store.delete_many(["a", "data/a"])
    await store.close()
    assert seen.requests == [
        ("put", 5, 0, "ok"),
        ("put", 4, 0, "preconditionfailed"),
        ("get", 0, 5, "ok"),
        ("head", 0, 0, "ok"),
        ("get", 0, 0, "notfound"),
        ("read", 0, 3, "ok"),
        ("read", 0, 0, "notfound"),
        ("list", 0, 0, "ok"),
        ("create_multipart", 0, 0, "ok"),
        ("put_part", 3, 0, "ok"),
        ("list_multiparts", 0, 0, "ok"),
        ("list_parts", 0, 0, "ok"),
        ("complete_multipart", 0, 0, "ok"),
        ("abort_multipart", 0, 0, "ok"),
        ("put_part", 2, 0, "uploadnotfound"),
        ("delete", 0, 0, "ok"),
        ("delete_many", 0, 0, "ok"),
    ]


async def test_a_read_that_is_left_early_is_reported_with_what_was_read(tmp_path: Path) -> None:
    seen = Recorder()
    store = LocalStore(tmp_path, observer=seen)
    await store.start()
    await store.put("data/a", bytes(3 * 1024 * 1024))
    pieces = cast("AsyncGenerator[bytes, None]", store.read("data/a"))
    async with aclosing(pieces):
        await anext(pieces)
    await store.close()
    assert seen.requests[1:] == [("read", 0, 1024 * 1024, "ok")]
