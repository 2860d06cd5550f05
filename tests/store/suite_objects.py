"""Objects: put, get, head, read, delete."""

from __future__ import annotations

import asyncio
import os
import string
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import pytest
from tests.store.backends import Backend
from tests.store.helpers import bounded, keys_of, read_all

from bucketry.store.contract import (
    OCTET_STREAM,
    Corrupt,
    NotFound,
    Store,
    Unsupported,
)

MIB = 1024 * 1024

BAD_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/..",
    "./a",
    "a/./b",
    "a b",
    "a\n",
    "a\0",
    "a\\b",
    "a%2fb",
    "^a",
    "ä",
    "x" * 901,
]


class Objects:
    async def test_an_object_is_read_back_with_all_that_was_put(self, store: Store) -> None:
        before = time.time()
        etag = await store.put("a/b", b"body", content_type="text/plain", metadata={"digest": "sha256:0", "n-2": "x y"})
        found = await store.get("a/b")
        assert found.body == b"body"
        assert found.info == await store.head("a/b")
        info = found.info
        assert (info.key, info.size, info.etag) == ("a/b", 4, etag)
        assert info.content_type == "text/plain"
        assert info.metadata == {"digest": "sha256:0", "n-2": "x y"}
        assert before - 120 < info.modified < time.time() + 120

    async def test_an_object_without_type_and_metadata_has_the_default_and_none(self, store: Store) -> None:
        await store.put("a", b"x")
        info = await store.head("a")
        assert info.content_type == OCTET_STREAM
        assert info.metadata == {}

    async def test_an_object_may_be_empty(self, store: Store) -> None:
        for key in ("empty", "data/empty"):
            etag = await store.put(key, b"")
            found = await store.get(key, limit=0)
            assert (found.body, found.info.size, found.info.etag) == (b"", 0, etag)
            assert await read_all(store, key) == b""
            assert (await store.head(key)).size == 0

    @pytest.mark.parametrize("key", ["a/b", "data/b"])
    async def test_any_buffer_is_a_body(self, store: Store, key: str) -> None:
        for body in (b"bytes", bytearray(b"bytearray"), memoryview(b"a memoryview")[2:6]):
            await store.put(key, body)
            assert (await store.get(key)).body == bytes(body)

    async def test_every_write_changes_the_etag_even_with_the_same_bytes_of_others(self, store: Store) -> None:
        first = await store.put("a", b"one")
        second = await store.put("a", b"two")
        assert first != second
        assert (await store.head("a")).etag == second

    async def test_a_write_replaces_body_type_and_metadata(self, store: Store) -> None:
        await store.put("a", b"long old body", content_type="text/plain", metadata={"old": "1"})
        await store.put("a", b"new", metadata={"new": "2"})
        found = await store.get("a")
        assert found.body == b"new"
        assert found.info.metadata == {"new": "2"}
        assert found.info.content_type == OCTET_STREAM

    @pytest.mark.parametrize("key", ["none", "data/none", "not/there/either"])
    async def test_what_is_not_there_is_not_found(self, store: Store, key: str) -> None:
        with pytest.raises(NotFound):
            await store.get(key)
        with pytest.raises(NotFound):
            await store.head(key)
        pieces = store.read(key)
        with pytest.raises(NotFound):
            await anext(pieces)

    async def test_a_prefix_of_keys_is_no_object(self, store: Store) -> None:
        await store.put("a/b/c", b"x")
        for call in (store.get("a/b"), store.head("a/b"), anext(store.read("a/b"))):
            with pytest.raises(NotFound):
                await call
        await store.delete("a/b")
        assert (await store.get("a/b/c")).body == b"x"

    async def test_below_an_object_is_no_object(self, store: Store) -> None:
        await store.put("a/b", b"x")
        with pytest.raises(NotFound):
            await store.get("a/b/c")
        await store.delete("a/b/c")
        assert (await store.get("a/b")).body == b"x"

    @pytest.mark.parametrize("key", ["a", "data/a"])
    async def test_get_gives_up_on_an_object_over_the_limit(self, store: Store, key: str) -> None:
        await store.put(key, b"12345")
        assert (await store.get(key, limit=5)).body == b"12345"
        with pytest.raises(Corrupt):
            await store.get(key, limit=4)

    async def test_every_character_of_keys_is_kept_apart(self, store: Store) -> None:
        allowed = string.ascii_letters + string.digits + "._~-"
        keys = [f"k/x{character}" for character in allowed] + [
            "k/AbC/dEf",
            "k/abc/def",
            "k/ABC/DEF",
            "k/aBc/DeF",
            "k/.hidden",
            "k/...",
            "k/..a",
            "k/-",
            "k/~",
            "k/" + allowed,
        ]
        await bounded(store.put(key, key.encode()) for key in keys)
        for key in keys:
            assert (await store.get(key)).body == key.encode()
        assert sorted(await keys_of(store, "k/")) == sorted(keys)

    @pytest.mark.parametrize(
        "key",
        [
            "/".join(["k" * 99] * 9),
            "tags/" + "T" * 128,
            "n/" + "." * 255,
            "n/" + "aB" * 127 + ".",
            "data/" + "Q." * 100,
        ],
    )
    async def test_long_keys_are_kept(self, store: Store, key: str) -> None:
        await store.put(key, b"x")
        assert (await store.get(key)).body == b"x"
        assert await keys_of(store, "") == [key]
        assert await keys_of(store, key[: key.rindex("/") + 1]) == [key]
        await store.delete(key)
        assert await keys_of(store, "") == []

    @pytest.mark.parametrize("key", BAD_KEYS)
    async def test_what_is_no_key_is_refused(self, store: Store, key: str) -> None:
        for call in (
            store.get(key),
            store.head(key),
            anext(store.read(key)),
            store.put(key, b""),
            store.delete(key),
            store.delete_many([key]),
            store.create_multipart("data/" + key, part_size=16 * MIB),
        ):
            with pytest.raises(ValueError):
                await call

    async def test_metadata_up_to_two_kib_is_kept(self, store: Store) -> None:
        printable = "".join(map(chr, range(0x21, 0x7F)))
        metadata = {"a": printable, "b-0": 'quote" back\\slash', "c": ""}
        metadata["c"] = "x" * (2048 - sum(len(name) + len(value) for name, value in metadata.items()))
        await store.put("a", b"body", metadata=metadata)
        found = await store.get("a")
        assert found.info.metadata == metadata
        assert found.body == b"body"
        metadata["c"] += "x"
        with pytest.raises(ValueError):
            await store.put("a", b"body", metadata=metadata)

    @pytest.mark.parametrize(
        "metadata", [{"Upper": "x"}, {"": "x"}, {"a_b": "x"}, {"a": "ä"}, {"a": "x\ny"}, {"a": " x"}, {"a": "x "}]
    )
    async def test_other_metadata_is_refused(self, store: Store, metadata: dict[str, str]) -> None:
        with pytest.raises(ValueError):
            await store.put("a", b"", metadata=metadata)

    async def test_bulk_keys_take_no_metadata_and_no_type(self, store: Store) -> None:
        with pytest.raises(ValueError):
            await store.put("data/a", b"", metadata={"a": "b"})
        with pytest.raises(ValueError):
            await store.put("data/a", b"", content_type="text/plain")
        with pytest.raises(NotFound):
            await store.head("data/a")

    @pytest.mark.parametrize("key", ["large", "data/large"])
    async def test_any_range_is_read_in_pieces_of_a_mib_at_most(self, store: Store, key: str) -> None:
        body = os.urandom(3 * MIB + 5)
        await store.put(key, body)
        size = len(body)
        for start, stop in [
            (0, None),
            (0, size),
            (0, 1),
            (size - 1, None),
            (size - 1, size),
            (MIB - 1, MIB + 1),
            (5, 2 * MIB + 7),
            (MIB, 3 * MIB),
            (17, None),
            (7, 7),
        ]:
            pieces = [piece async for piece in store.read(key, start, stop)]
            assert b"".join(pieces) == body[start:stop]
            assert all(0 < len(piece) <= MIB for piece in pieces)
        assert (await store.get(key)).body == body

    @pytest.mark.parametrize(("start", "stop"), [(-1, None), (2, 1), (0, -1)])
    async def test_what_is_no_range_is_refused(self, store: Store, start: int, stop: int | None) -> None:
        await store.put("a", b"12345")
        with pytest.raises(ValueError):
            await read_all(store, "a", start, stop)

    async def test_a_read_may_be_left_early(self, store: Store) -> None:
        await store.put("data/a", bytes(3 * MIB))
        for _ in range(5):
            pieces = cast("AsyncGenerator[bytes, None]", store.read("data/a"))
            async with aclosing(pieces):
                assert len(await anext(pieces)) > 0
        assert len(await read_all(store, "data/a")) == 3 * MIB

    async def test_a_large_object_is_kept(self, store: Store) -> None:
        body = os.urandom(9 * MIB + 1)
        await store.put("data/a", memoryview(body))
        assert (await store.head("data/a")).size == len(body)
        assert await read_all(store, "data/a") == body

    async def test_a_reader_sees_the_old_object_or_the_new_one_whole(self, store: Store, backend: Backend) -> None:
        sizes = {letter: 200_000 + 37 * letter for letter in b"abcdefgh"}
        await store.put("a", bytes([97]) * sizes[97], metadata={"letter": "97"})
        done = asyncio.Event()

        async def write() -> None:
            for round_ in range(backend.rounds(60)):
                letter = b"abcdefgh"[round_ % 8]
                await store.put("a", bytes([letter]) * sizes[letter], metadata={"letter": str(letter)})
            done.set()

        async def read(by_get: bool) -> int:
            count = 0
            while not done.is_set():
                if by_get:
                    found = await store.get("a")
                    body = found.body
                    assert found.info.metadata == {"letter": str(body[0])}
                else:
                    body = await read_all(store, "a")
                assert body == bytes([body[0]]) * sizes[body[0]]
                count += 1
                await asyncio.sleep(0)
            return count

        _, *counts = await asyncio.gather(write(), read(True), read(True), read(False), read(False))
        assert sum(filter(None, counts)) > 0

    async def test_a_read_that_began_goes_on_with_the_object_it_began_with(self, store: Store) -> None:
        await store.put("a", b"a" * (MIB + 3))
        pieces = cast("AsyncGenerator[bytes, None]", store.read("a"))
        async with aclosing(pieces):
            first = await anext(pieces)
            await store.put("a", b"b" * (MIB + 3))
            rest = b"".join([piece async for piece in pieces])
        assert first + rest == b"a" * (MIB + 3)

    async def test_whoever_reads_after_a_write_sees_it(self, store: Store, backend: Backend) -> None:
        async def one(name: str) -> None:
            for round_ in range(backend.rounds(20)):
                body = f"{name} {round_}".encode()
                etag = await store.put(f"r/{name}", body)
                assert (await store.get(f"r/{name}")).body == body
                assert (await store.head(f"r/{name}")).etag == etag
                page = await store.list("r/")
                assert (f"r/{name}", etag) in [(listed.key, listed.etag) for listed in page.objects]
                if round_ % 3 == 2:
                    await store.delete(f"r/{name}")
                    with pytest.raises(NotFound):
                        await store.head(f"r/{name}")

        await asyncio.gather(*(one(f"w{index:02}") for index in range(8)))

    @pytest.mark.parametrize("key", ["a/b", "data/b"])
    async def test_a_deleted_object_is_gone_and_may_come_back(self, store: Store, key: str) -> None:
        await store.put(key, b"one")
        await store.delete(key)
        with pytest.raises(NotFound):
            await store.get(key)
        assert await keys_of(store, "") == []
        await store.delete(key)
        await store.put(key, b"two")
        assert (await store.get(key)).body == b"two"

    async def test_many_are_deleted_missing_ones_included(self, store: Store, backend: Backend) -> None:
        keys = [f"d{index % 3}/{index:04}" for index in range(backend.rounds(1200))]
        await bounded(store.put(key, b"x") for key in keys)
        await store.put("d0/stays", b"x")
        await store.put("data/goes", b"x")
        await store.delete_many([])
        await store.delete_many([*keys, "d1/never-was", "nor/this", "data/goes", keys[0]])
        assert await keys_of(store, "") == ["d0/stays"]

    async def test_a_store_that_cannot_presign_says_so(self, store: Store) -> None:
        await store.put("data/a", b"x")
        if store.capabilities.presign:
            assert "://" in await store.presign_get("data/a", expires=60)
        else:
            with pytest.raises(Unsupported):
                await store.presign_get("data/a", expires=60)
