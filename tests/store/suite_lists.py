"""Lists: order, pages, what is in them and what is not."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from tests.store.backends import Backend
from tests.store.helpers import bounded, keys_of, list_all

from bucketry.store.contract import NotFound, Store

NESTED = [
    "n/a",
    "n/a-b",
    "n/a.b",
    "n/a0",
    "n/aB",
    "n/ab/c",
    "n/ab/d/e",
    "n/ab/d/f",
    "n/ab-c/x",
    "n/ab.c/x",
    "n/ab0",
    "n/aC/x",
    "n/b/~/A",
    "n/b/~/a",
    "n/b/~x/1",
    "n/b/~y",
    "n/z",
]


class Lists:
    async def test_an_empty_store_lists_nothing(self, store: Store) -> None:
        for prefix in ("", "a/", "data/", "a/b/c/"):
            page = await store.list(prefix)
            assert (page.objects, page.more) == ((), False)

    async def test_flat_names_come_in_byte_order(self, store: Store) -> None:
        names = [
            "-",
            ".a",
            "0",
            "9",
            "A",
            "AA",
            "Aa",
            "Z",
            "a",
            "a-",
            "a.",
            "a0",
            "aA",
            "aa",
            "a~",
            "b",
            "z",
            "~",
            "~a",
        ]
        shuffled = [f"t/{name}" for name in names]
        Random(1).shuffle(shuffled)
        await bounded(store.put(key, b"x") for key in shuffled)
        assert await keys_of(store, "t/") == [f"t/{name}" for name in sorted(names)]

    async def test_pages_of_every_size_give_each_key_once(self, store: Store) -> None:
        keys = [f"p/{index:02}" for index in range(13)]
        await bounded(store.put(key, b"x") for key in keys)
        for limit in (1, 2, 5, 12, 13, 14, 1000):
            assert await keys_of(store, "p/", limit=limit) == keys

    async def test_more_says_exactly_whether_there_is_more(self, store: Store) -> None:
        for index in range(4):
            await store.put(f"p/{index}", b"x")
        await store.put("q/0", b"x")
        assert (await store.list("p/", limit=3)).more
        assert not (await store.list("p/", limit=4)).more
        assert not (await store.list("p/", after="p/1", limit=2)).more
        assert (await store.list("p/", after="p/1", limit=1)).more

    async def test_a_list_goes_on_after_a_key_that_need_not_exist(self, store: Store) -> None:
        await bounded(store.put(f"p/{name}", b"x") for name in "bdf")
        for after, expected in [
            ("p/a", "bdf"),
            ("p/b", "df"),
            ("p/c", "df"),
            ("p/d.5", "f"),
            ("p/f", ""),
            ("p/zz", ""),
        ]:
            page = await store.list("p/", after=after)
            assert [listed.key for listed in page.objects] == [f"p/{name}" for name in expected]
            assert not page.more

    async def test_a_deleted_key_still_marks_where_the_next_page_begins(self, store: Store) -> None:
        await bounded(store.put(f"p/{index}", b"x") for index in range(6))
        page = await store.list("p/", limit=3)
        await store.delete_many([listed.key for listed in page.objects])
        rest = await store.list("p/", after=page.objects[-1].key)
        assert [listed.key for listed in rest.objects] == ["p/3", "p/4", "p/5"]

    async def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(self, store: Store) -> None:
        for key in ("a/1", "ab/2", "a-/3", "a.b/4", "A/5", "b/a/6"):
            await store.put(key, b"x")
        assert await keys_of(store, "a/") == ["a/1"]
        assert await keys_of(store, "b/") == ["b/a/6"]
        assert await keys_of(store, "A/") == ["A/5"]

    async def test_everything_deeper_is_listed_in_one_order_on_every_page(self, store: Store, backend: Backend) -> None:
        await bounded(store.put(key, b"x") for key in NESTED)
        await store.put("o", b"x")
        whole = await keys_of(store, "n/")
        assert sorted(whole) == sorted(NESTED)
        if backend.byte_order:
            assert whole == sorted(NESTED)
        for limit in (1, 2, 3, 7):
            assert await keys_of(store, "n/", limit=limit) == whole
        everything = await keys_of(store, "")
        assert sorted(everything) == sorted([*NESTED, "o"])
        assert await keys_of(store, "", limit=2) == everything
        below = await keys_of(store, "n/ab/")
        assert below == ["n/ab/c", "n/ab/d/e", "n/ab/d/f"]

    async def test_a_list_says_what_head_says(self, store: Store) -> None:
        await store.put("l/a", b"12345", content_type="text/plain", metadata={"a": "b" * 1500})
        await store.put("l/b", b"")
        await store.put("data/c", b"123")
        for prefix in ("l/", "data/"):
            for listed in (await store.list(prefix)).objects:
                info = await store.head(listed.key)
                assert (listed.key, listed.size, listed.etag) == (info.key, info.size, info.etag)
                assert abs(listed.modified - info.modified) < 1.5

    async def test_a_page_holds_up_to_a_thousand(self, store: Store, backend: Backend) -> None:
        keys = (
            [f"m/{index:04}" for index in range(1100)]
            if backend.effort >= 0.5
            else [f"m/{index:04}" for index in range(1001)]
        )
        await bounded(store.put(key, b"") for key in keys)
        page = await store.list("m/")
        assert [listed.key for listed in page.objects] == keys[:1000]
        assert page.more
        page = await store.list("m/", after=keys[999])
        assert [listed.key for listed in page.objects] == keys[1000:]
        assert not page.more

    @pytest.mark.parametrize("limit", [0, -1, 1001])
    async def test_a_limit_is_1_to_1000(self, store: Store, limit: int) -> None:
        with pytest.raises(ValueError):
            await store.list("a/", limit=limit)

    @pytest.mark.parametrize("prefix", ["a", "/", "a//", "../", "a/../", "ä/"])
    async def test_a_prefix_ends_with_a_slash(self, store: Store, prefix: str) -> None:
        with pytest.raises(ValueError):
            await store.list(prefix)

    async def test_what_stays_is_listed_whole_while_others_come_and_go(self, store: Store, backend: Backend) -> None:
        stays = [f"s/{index:03}" for index in range(0, 60, 2)]
        await bounded(store.put(key, b"x") for key in stays)
        done = asyncio.Event()

        async def churn() -> None:
            for round_ in range(backend.rounds(10)):
                comes = [f"s/{index:03}" for index in range(1, 60, 2)]
                await bounded(store.put(key, f"{round_}".encode()) for key in comes)
                await store.delete_many(comes)
            done.set()

        async def watch() -> None:
            while not done.is_set():
                found = await list_all(store, "s/", limit=7)
                keys = [listed.key for listed in found]
                assert keys == sorted(set(keys))
                assert set(stays) <= set(keys)

        await asyncio.gather(churn(), watch())
        assert await keys_of(store, "s/") == stays
        with pytest.raises(NotFound):
            await store.head("s/001")
