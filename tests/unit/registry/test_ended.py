from __future__ import annotations

import pytest
from tests.unit.registry.helpers import FakeClock, memory_store

from bucketry.oci import Digest
from bucketry.registry.ended import BATCH, EndedSessions
from bucketry.store.contract import Unavailable
from bucketry.store.faults import FaultyStore, LoseAnswer, Refuse, Rule

DIGEST = Digest.of(b"x")


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(memory_store(FakeClock()))


async def add(store: FaultyStore, ended: EndedSessions, count: int) -> None:
    for number in range(count):
        key = f"uploads/{number:06}"
        await store.inner.put(key, b"")
        ended.add(str(number), DIGEST, key)


async def test_a_session_that_ended_is_known_with_what_it_became(store: FaultyStore) -> None:
    ended = EndedSessions(store)
    ended.add("committed", DIGEST, None)
    ended.add("nothing", None, None)

    assert "committed" in ended
    assert "nothing" in ended
    assert "other" not in ended
    assert (ended.digest("committed"), ended.digest("nothing"), ended.digest("other")) == (DIGEST, None, None)


@pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 1, 3 * BATCH])
async def test_their_objects_go_a_batch_a_request(store: FaultyStore, count: int) -> None:
    ended = EndedSessions(store)
    await add(store, ended, count)

    await ended.flush()

    assert (await store.inner.list("uploads/")).objects == ()
    assert store.calls["delete_many"] == -(-count // BATCH)
    assert store.calls["delete"] == 0
    await ended.flush()
    assert store.calls["delete_many"] == -(-count // BATCH), "nothing is asked for twice"


@pytest.mark.parametrize("fault", [Refuse(), LoseAnswer()])
async def test_what_could_not_be_removed_is_tried_again(store: FaultyStore, fault: Refuse | LoseAnswer) -> None:
    ended = EndedSessions(store)
    await add(store, ended, BATCH + 5)
    store.add(Rule(fault, operation="delete_many", skip=1))
    with pytest.raises(Unavailable):
        await ended.flush()

    await ended.flush()

    assert (await store.inner.list("uploads/")).objects == ()
    assert store.calls["delete_many"] == 3


async def test_what_it_remembers_is_bounded(store: FaultyStore) -> None:
    ended = EndedSessions(store)
    for number in range(10_500):
        ended.add(str(number), DIGEST, None)

    assert len(ended._digests) == 10_000
    assert "0" not in ended
    assert "10499" in ended
