"""What `MemoryStore` can be told to do differently, and that races interleave in it."""

from __future__ import annotations

import asyncio

import pytest
from tests.store.helpers import keys_of

from bucketry.store.contract import MIN_PART, InvalidPart, Part, Store
from bucketry.store.memory import MemoryStore


def test_it_is_a_store() -> None:
    store: Store = MemoryStore()
    assert store.url == "memory:"


async def test_parts_are_those_of_s3_by_default() -> None:
    store = MemoryStore()
    with pytest.raises(ValueError):
        await store.create_multipart("data/a", part_size=MIN_PART - 1)
    await store.create_multipart("data/a", part_size=MIN_PART)


async def test_a_stale_etag_is_refused_unless_told_to_take_it() -> None:
    for accept in (False, True):
        store = MemoryStore(min_part=4, accept_stale_parts=accept)
        upload_id = await store.create_multipart("data/a", part_size=4)
        old = await store.put_part("data/a", upload_id, 1, b"old!", offset=0)
        await store.put_part("data/a", upload_id, 1, b"new", offset=0)
        complete = store.complete_multipart("data/a", upload_id, [Part(1, 4, old)])
        if accept:
            await complete
            assert (await store.get("data/a")).body == b"new"
        else:
            with pytest.raises(InvalidPart):
                await complete


async def test_a_lower_part_is_kept_beside_a_higher_one_unless_told_otherwise() -> None:
    for one in (False, True):
        store = MemoryStore(min_part=4, one_part_an_offset=one)
        upload_id = await store.create_multipart("data/a", part_size=4)
        await store.put_part("data/a", upload_id, 2, b"high", offset=0)
        if one:
            with pytest.raises(InvalidPart):
                await store.put_part("data/a", upload_id, 1, b"low!", offset=0)
        else:
            etag = await store.put_part("data/a", upload_id, 1, b"low!", offset=0)
            await store.complete_multipart("data/a", upload_id, [Part(1, 4, etag)])
            assert (await store.get("data/a")).body == b"low!"


async def test_directory_order_puts_what_is_below_a_name_before_its_longer_siblings() -> None:
    for directory, expected in ((False, ["a-b", "a/b", "a/c/d", "a0"]), (True, ["a/b", "a/c/d", "a-b", "a0"])):
        store = MemoryStore(directory_order=directory)
        for key in ("a0", "a/c/d", "a-b", "a/b"):
            await store.put(key, b"")
        assert await keys_of(store, "", limit=1) == expected
        assert await keys_of(store, "a/") == ["a/b", "a/c/d"]


async def test_a_write_and_the_read_before_it_are_not_one_step() -> None:
    """Without a condition, increments are lost: so a caller that forgets it is found out."""
    store = MemoryStore()
    await store.put("a", b"0")

    async def increment() -> None:
        value = int((await store.get("a")).body)
        await store.put("a", str(value + 1).encode())

    await asyncio.gather(*(increment() for _ in range(5)))
    assert int((await store.get("a")).body) < 5


async def test_an_effect_may_happen_though_its_answer_never_arrives() -> None:
    store = MemoryStore()
    task = asyncio.create_task(store.put("a", b"x"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await store.get("a")).body == b"x"


async def test_times_are_of_the_given_clock() -> None:
    now = 1000.0
    store = MemoryStore(clock=lambda: now)
    await store.put("a", b"")
    await store.create_multipart("data/a", part_size=MIN_PART)
    now = 2000.0
    assert (await store.head("a")).modified == 1000.0
    assert (await store.list_multiparts())[0].initiated == 1000.0


async def test_only_what_is_foreign_is_planted() -> None:
    store = MemoryStore(directory_order=True)
    store.plant("docker/registry/v2/a/b", b"x", content_type="text/html")
    assert (await store.head("docker/registry/v2/a/b")).content_type == "text/html"
    store.uproot("docker/registry/v2/a/b")
    store.uproot("docker/registry/v2/a/b")
    assert await keys_of(store, "") == []
    for key in ("a", "data/a", "docker/registry/v2", "docker/registry/v2/../a"):
        with pytest.raises(ValueError):
            store.plant(key, b"x")
        with pytest.raises(ValueError):
            store.uproot(key)
