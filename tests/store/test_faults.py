"""A faulty store fails where it was told to, with and without the effect, and only there."""

from __future__ import annotations

import asyncio

import pytest
from tests.store.helpers import read_all

from bucketry.store.contract import (
    IF_ABSENT,
    MIN_PART,
    AccessDenied,
    NotFound,
    Part,
    PreconditionFailed,
    Store,
    StoreError,
    StoreFull,
    Unavailable,
    Unsupported,
)
from bucketry.store.faults import (
    Call,
    CrashAfter,
    CrashBefore,
    Crashed,
    Delay,
    FaultyStore,
    LoseAnswer,
    Refuse,
    Rule,
)
from bucketry.store.memory import MemoryStore


@pytest.fixture
def inner() -> MemoryStore:
    return MemoryStore(min_part=4)


async def test_without_a_plan_it_is_the_store(inner: MemoryStore) -> None:
    store = FaultyStore(inner)
    _: Store = store
    assert (store.url, store.capabilities) == (inner.url, inner.capabilities)
    await store.start()
    etag = await store.put("a", b"12345", content_type="text/plain", metadata={"a": "b"}, condition=IF_ABSENT)
    found = await store.get("a", limit=5)
    assert (found.body, found.info.etag, found.info.metadata) == (b"12345", etag, {"a": "b"})
    assert await store.head("a") == found.info
    assert await read_all(store, "a", 1, 3) == b"23"
    with pytest.raises(PreconditionFailed):
        await store.put("a", b"", condition=IF_ABSENT)
    upload_id = await store.create_multipart("data/a", part_size=4)
    part = Part(1, 3, await store.put_part("data/a", upload_id, 1, b"abc", offset=0))
    assert len(await store.list_multiparts()) == 1
    assert await store.list_parts("data/a", upload_id) == (part,)
    await store.complete_multipart("data/a", upload_id, [part])
    await store.abort_multipart("data/a", upload_id)
    assert [each.key for each in (await store.list("", after="a", limit=3)).objects] == ["data/a"]
    with pytest.raises(Unsupported):
        await store.presign_get("data/a", expires=1)
    with pytest.raises(Unsupported):
        await store.presign_part("data/a", upload_id, 1, expires=1)
    with pytest.raises(Unsupported):
        await store.presign_put("data/a", size=3, sha256=bytes(32), expires=1)
    assert store.log[-1].operation == "presign_put"
    await store.delete("a")
    await store.delete_many(["data/a", "b"])
    assert (await inner.list("")).objects == ()
    await store.close()


async def test_calls_are_numbered_and_counted(inner: MemoryStore) -> None:
    store = FaultyStore(inner)
    await store.put("a", b"")
    await store.head("a")
    await store.put("b", b"")
    await store.delete_many(["a", "b"])
    await store.list_multiparts()
    assert store.log == [
        Call(0, "put", ("a",)),
        Call(1, "head", ("a",)),
        Call(2, "put", ("b",)),
        Call(3, "delete_many", ("a", "b")),
        Call(4, "list_multiparts", ()),
    ]
    assert store.calls == {"put": 2, "head": 1, "delete_many": 1, "list_multiparts": 1}
    assert [call.key for call in store.log[2:]] == ["b", "a", ""]


async def test_a_crash_before_has_no_effect_and_ends_the_process(inner: MemoryStore) -> None:
    store = FaultyStore(inner, [Rule(CrashBefore(), at=1)])
    await store.put("a", b"")
    with pytest.raises(Crashed):
        await store.put("b", b"")
    assert store.crashed
    with pytest.raises(Crashed):
        await store.head("a")
    with pytest.raises(Crashed):
        await read_all(store, "a")
    assert [each.key for each in (await inner.list("")).objects] == ["a"]
    assert (await FaultyStore(inner).head("a")).size == 0


async def test_a_crash_after_has_its_effect_and_ends_the_process(inner: MemoryStore) -> None:
    store = FaultyStore(inner, [Rule(CrashAfter(), at=1)])
    await store.put("a", b"")
    with pytest.raises(Crashed):
        await store.put("b", b"")
    with pytest.raises(Crashed):
        await store.put("c", b"")
    assert [each.key for each in (await inner.list("")).objects] == ["a", "b"]
    assert len(store.log) == 2


def test_a_crash_is_not_handled_with_the_errors_of_stores() -> None:
    assert not issubclass(Crashed, StoreError)
    assert issubclass(Crashed, Exception)


async def test_an_error_is_an_answer_that_a_crash_loses(inner: MemoryStore) -> None:
    for fault, expected in ((CrashAfter(), Crashed), (LoseAnswer(), Unavailable)):
        with pytest.raises(expected):
            await FaultyStore(inner, [Rule(fault)]).head("none")


async def test_a_lost_answer_has_its_effect_and_the_process_lives_on(inner: MemoryStore) -> None:
    store = FaultyStore(inner, [Rule(LoseAnswer(), operation="put")])
    with pytest.raises(Unavailable):
        await store.put("a", b"x", condition=IF_ABSENT)
    assert (await store.get("a")).body == b"x"
    with pytest.raises(PreconditionFailed):
        await store.put("a", b"x", condition=IF_ABSENT)


async def test_a_refusal_has_no_effect(inner: MemoryStore) -> None:
    store = FaultyStore(inner, [Rule(Refuse(StoreFull("full")), operation="put"), Rule(Refuse(), operation="head")])
    with pytest.raises(StoreFull, match="full"):
        await store.put("a", b"x")
    with pytest.raises(NotFound):
        await store.get("a")
    with pytest.raises(Unavailable):
        await store.head("a")


async def test_a_read_breaks_after_its_first_piece(inner: MemoryStore) -> None:
    await inner.put("data/a", bytes(3 * 1024 * 1024))
    for fault, expected in ((CrashAfter(), Crashed), (LoseAnswer(), Unavailable)):
        store = FaultyStore(inner, [Rule(fault, operation="read")])
        pieces = store.read("data/a")
        assert len(await anext(pieces)) == 1024 * 1024
        with pytest.raises(expected):
            await anext(pieces)
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)


async def test_a_process_that_dies_reads_no_further_piece(inner: MemoryStore) -> None:
    await inner.put("data/a", bytes(3 * 1024 * 1024))
    store = FaultyStore(inner)
    pieces = store.read("data/a")
    await anext(pieces)
    store.crash()
    with pytest.raises(Crashed):
        await anext(pieces)


async def test_a_delay_waits_for_its_event(inner: MemoryStore) -> None:
    go = asyncio.Event()
    store = FaultyStore(inner, [Rule(Delay(until=go), operation="put", prefix="slow/")])
    slow = asyncio.create_task(store.put("slow/a", b""))
    await store.put("fast/a", b"")
    for _ in range(5):
        await asyncio.sleep(0)
    assert [each.key for each in (await inner.list("")).objects] == ["fast/a"]
    assert not slow.done()
    go.set()
    await slow
    await store.put("slow/b", b"")
    assert len((await inner.list("slow/")).objects) == 2


async def test_what_is_delayed_can_still_fail_by_another_rule(inner: MemoryStore) -> None:
    store = FaultyStore(
        inner, [Rule(CrashAfter(), at=0), Rule(Delay(0.001), times=None), Rule(Refuse(), operation="put")]
    )
    with pytest.raises(Crashed):
        await store.put("a", b"")
    assert (await inner.head("a")).size == 0


async def test_calls_under_way_die_with_their_process(inner: MemoryStore) -> None:
    go = asyncio.Event()
    store = FaultyStore(inner, [Rule(Delay(until=go), prefix="a")])
    waiting = asyncio.create_task(store.put("a", b""))
    answering = asyncio.create_task(store.put("b", b""))
    await asyncio.sleep(0)
    store.crash()
    go.set()
    for task in (waiting, answering):
        with pytest.raises(Crashed):
            await task
    assert [each.key for each in (await inner.list("")).objects] == ["b"]


async def test_rules_choose_by_operation_prefix_and_count(inner: MemoryStore) -> None:
    error = AccessDenied("no")
    store = FaultyStore(inner, [Rule(Refuse(error), operation="put", prefix="x/", skip=1, times=2)])
    outcomes = []
    for key in ("x/1", "y/1", "x/2", "x/3", "x/4"):
        await store.delete(key)
        try:
            await store.put(key, b"")
        except AccessDenied:
            outcomes.append(key)
    assert outcomes == ["x/2", "x/3"]
    store.add(Rule(Refuse(error), operation="delete_many", prefix="z/", times=None))
    for _ in range(3):
        with pytest.raises(AccessDenied):
            await store.delete_many(["x/1", "z/1"])
    await store.delete_many(["x/1"])


async def test_every_call_of_a_run_can_be_the_one_that_crashes(inner: MemoryStore) -> None:
    async def work(store: Store) -> None:
        etag = await store.put("a", b"1", condition=IF_ABSENT)
        assert (await store.get("a")).info.etag == etag
        await store.put("b", b"2")
        await store.delete("a")

    clean = FaultyStore(MemoryStore())
    await work(clean)
    states = set()
    for fault in (CrashBefore(), CrashAfter()):
        for at in range(len(clean.log)):
            shared = MemoryStore()
            with pytest.raises(Crashed):
                await work(FaultyStore(shared, [Rule(fault, at=at)]))
            states.add("".join([each.key for each in (await shared.list("")).objects]))
    assert states == {"", "a", "ab", "b"}


async def test_a_call_that_nobody_may_make_meets_no_fault_and_is_not_counted() -> None:
    """A plan must not hide that the caller is wrong."""
    inner = MemoryStore()
    inner.plant("docker/registry/v2/a", b"theirs")
    store = FaultyStore(inner, [Rule(Refuse(Unavailable("down")), times=None)])
    for call in (
        store.put("docker/registry/v2/a", b"ours"),
        store.delete("docker/registry/v2/a"),
        store.delete_many(["a", "docker/registry/v2/a"]),
        store.create_multipart("docker/registry/v2/a", part_size=MIN_PART),
        store.abort_multipart("docker/registry/v2/a", "x"),
    ):
        with pytest.raises(ValueError):
            await call
    assert store.log == []
    assert (await inner.get("docker/registry/v2/a")).body == b"theirs"
