"""Conditions: exactly one of any number of racing writers wins."""

from __future__ import annotations

import asyncio

import pytest
from tests.store.backends import Backend
from tests.store.helpers import winners

from bucketry.store.contract import (
    IF_ABSENT,
    IfMatch,
    NotFound,
    PreconditionFailed,
    Store,
    Unsupported,
)

WRITERS = 16


class Conditions:
    @pytest.mark.parametrize("key", ["a/b", "data/b"])
    async def test_if_absent_writes_only_what_is_not_there(self, store: Store, key: str) -> None:
        etag = await store.put(key, b"one", condition=IF_ABSENT)
        with pytest.raises(PreconditionFailed):
            await store.put(key, b"two", condition=IF_ABSENT)
        found = await store.get(key)
        assert (found.body, found.info.etag) == (b"one", etag)
        await store.delete(key)
        await store.put(key, b"three", condition=IF_ABSENT)
        assert (await store.get(key)).body == b"three"

    async def test_if_match_writes_only_over_what_it_names(self, store: Store) -> None:
        first = await store.put("a", b"one")
        second = await store.put("a", b"two", condition=IfMatch(first))
        assert second != first
        with pytest.raises(PreconditionFailed):
            await store.put("a", b"three", condition=IfMatch(first))
        found = await store.get("a")
        assert (found.body, found.info.etag) == (b"two", second)

    async def test_if_match_takes_the_etag_of_every_answer(self, store: Store) -> None:
        await store.put("l/a", b"1")
        await store.put("l/a", b"2", condition=IfMatch((await store.get("l/a")).info.etag))
        await store.put("l/a", b"3", condition=IfMatch((await store.head("l/a")).etag))
        await store.put("l/a", b"4", condition=IfMatch((await store.list("l/")).objects[0].etag))
        assert (await store.get("l/a")).body == b"4"

    async def test_if_match_on_a_missing_object_fails(self, store: Store) -> None:
        etag = await store.put("a", b"one")
        await store.delete("a")
        with pytest.raises(PreconditionFailed):
            await store.put("a", b"two", condition=IfMatch(etag))
        with pytest.raises(PreconditionFailed):
            await store.put("never/was", b"two", condition=IfMatch(etag))
        with pytest.raises(NotFound):
            await store.head("a")

    @pytest.mark.parametrize("prefix", ["race/", "data/race-"])
    async def test_one_of_many_creators_wins(self, store: Store, backend: Backend, prefix: str) -> None:
        async def create(key: str, index: int) -> tuple[int, str]:
            return index, await store.put(key, f"writer {index} of {key}".encode(), condition=IF_ABSENT)

        for round_ in range(backend.rounds(20)):
            key = f"{prefix}{round_}"
            won = await winners(create(key, index) for index in range(WRITERS))
            assert len(won) == 1
            found = await store.get(key)
            assert found.body == f"writer {won[0][0]} of {key}".encode()
            assert found.info.etag == won[0][1]

    async def test_one_of_many_replacers_wins(self, store: Store, backend: Backend) -> None:
        async def replace(index: int, round_: int, etag: str) -> tuple[int, str]:
            return index, await store.put("a", f"{round_} {index}".encode(), condition=IfMatch(etag))

        etag = await store.put("a", b"start")
        for round_ in range(backend.rounds(20)):
            won = await winners(replace(index, round_, etag) for index in range(WRITERS))
            assert len(won) == 1
            found = await store.get("a")
            assert found.body == f"{round_} {won[0][0]}".encode()
            assert found.info.etag == won[0][1]
            etag = found.info.etag

    async def test_a_counter_changed_by_compare_and_swap_loses_no_increment(
        self, store: Store, backend: Backend
    ) -> None:
        await store.put("counter", b"0 start")

        async def count(name: str, times: int) -> None:
            done = 0
            while done < times:
                found = await store.get("counter")
                body = f"{int(found.body.split()[0]) + 1} {name} {done}".encode()
                try:
                    await store.put("counter", body, condition=IfMatch(found.info.etag))
                except PreconditionFailed:
                    continue
                done += 1

        times = backend.rounds(20)
        await asyncio.gather(*(count(f"w{index}", times) for index in range(8)))
        assert int((await store.get("counter")).body.split()[0]) == 8 * times

    async def test_unconditional_writers_never_hide_behind_a_condition(self, store: Store, backend: Backend) -> None:
        """Between the check of a condition and its write nothing else is written."""
        for round_ in range(backend.rounds(30)):
            key = f"u/{round_}"
            etag = await store.put(key, b"old")
            conditional, plain = await asyncio.gather(
                winners([store.put(key, b"conditional", condition=IfMatch(etag))]), store.put(key, b"plain")
            )
            # Plain first: the condition fails. Plain last: it wins. Never is plain lost to the condition.
            found = await store.get(key)
            assert (found.body, found.info.etag) == (b"plain", plain), conditional

    async def test_a_conditional_delete_removes_only_what_it_names(self, store: Store) -> None:
        if not store.capabilities.conditional_delete:
            with pytest.raises(Unsupported):
                await store.delete("a", condition=IfMatch("x"))
            return
        first = await store.put("a", b"one")
        second = await store.put("a", b"two")
        with pytest.raises(PreconditionFailed):
            await store.delete("a", condition=IfMatch(first))
        assert (await store.get("a")).body == b"two"
        await store.delete("a", condition=IfMatch(second))
        with pytest.raises(NotFound):
            await store.head("a")
        with pytest.raises(PreconditionFailed):
            await store.delete("a", condition=IfMatch(second))

    async def test_a_replacer_and_a_conditional_deleter_do_not_both_win(self, store: Store, backend: Backend) -> None:
        if not store.capabilities.conditional_delete:
            pytest.skip("this store has no conditional delete")

        async def delete(key: str, etag: str) -> str:
            await store.delete(key, condition=IfMatch(etag))
            return "deleted"

        async def replace(key: str, etag: str, index: int) -> str:
            await store.put(key, f"new {index}".encode(), condition=IfMatch(etag))
            return f"new {index}"

        for round_ in range(backend.rounds(20)):
            key = f"d/{round_}"
            etag = await store.put(key, b"old")
            won = await winners(
                delete(key, etag) if index % 2 else replace(key, etag, index) for index in range(WRITERS)
            )
            assert len(won) == 1
            if won == ["deleted"]:
                with pytest.raises(NotFound):
                    await store.get(key)
            else:
                assert (await store.get(key)).body == won[0].encode()

    async def test_creation_and_deletion_make_a_lock(self, store: Store, backend: Backend) -> None:
        """Whoever creates the object holds the lock until it deletes the object, and nobody else does."""
        holding = 0

        async def work(name: str, times: int) -> None:
            nonlocal holding
            for turn in range(times):
                while True:
                    try:
                        etag = await store.put("lock", f"{name} {turn}".encode(), condition=IF_ABSENT)
                        break
                    except PreconditionFailed:
                        await asyncio.sleep(0)
                holding += 1
                assert holding == 1
                await asyncio.sleep(0.001)
                assert (await store.get("lock")).info.etag == etag
                holding -= 1
                if store.capabilities.conditional_delete:
                    await store.delete("lock", condition=IfMatch(etag))
                else:
                    await store.delete("lock")

        times = backend.rounds(6)
        await asyncio.gather(*(work(f"w{index}", times) for index in range(6)))
        with pytest.raises(NotFound):
            await store.head("lock")
