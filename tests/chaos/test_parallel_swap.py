"""Invariant 1 for parts in any order: what is read back is what is published, whatever requests and late parts come.

Requests for one parallel session on two or three replicas, each stopped before one of its store calls while others run;
and parts with other bytes that arrive by a URL in between. In the end another replica brings the session to its end.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.chaos.race import Held
from tests.unit.registry.helpers import (
    ALICE,
    OTHER,
    PART,
    REPO,
    FakeClock,
    blob_bytes,
    memory_store,
    noted,
    open_registry,
    pulled,
    push,
    sized,
    standstill,
    truth,
)

from bucketry.oci import Digest
from bucketry.oci.errors import DigestMismatch, SizeInvalid, UploadInvalid, UploadUnknown
from bucketry.registry import Blob, Opened, Registry, Verifying
from bucketry.registry.sessions import Session, State, parse
from bucketry.store.contract import UploadNotFound
from bucketry.store.memory import MemoryStore

FLAVOURS: dict[str, dict[str, bool]] = {"strict": {}, "accepts stale parts": {"accept_stale_parts": True}}
REFUSALS = (UploadUnknown, UploadInvalid, DigestMismatch, SizeInvalid)

RIGHT = blob_bytes(2 * PART + 9)
WRONG = RIGHT[:PART] + blob_bytes(PART, 77) + RIGHT[2 * PART :]
DIGEST = Digest.of(RIGHT)

Act = Callable[[Registry, str], Awaitable[Any]]


def put(content: bytes, number: int) -> Act:
    async def act(registry: Registry, session: str) -> Any:
        part = content[(number - 1) * PART : number * PART]
        await registry.parallel.put_part(REPO, ALICE, session, number, sized(part))

    return act


def complete(content: bytes, *, with_list: bool) -> Act:
    async def act(registry: Registry, session: str) -> Any:
        body = noted(content).encode() if with_list else None
        return await registry.parallel.complete(REPO, ALICE, session, Digest.of(content), len(content), body, wait=0.02)

    return act


async def cancel(registry: Registry, session: str) -> Any:
    await registry.parallel.cancel(REPO, ALICE, session)


async def push_it(registry: Registry, session: str) -> Any:
    """The same blob, by the spec's way, to another repository."""
    await push(registry, OTHER, RIGHT)


ACTS: dict[str, Act] = {
    "complete": complete(RIGHT, with_list=True),
    "complete without checkpoints": complete(RIGHT, with_list=False),
    "complete as the wrong bytes": complete(WRONG, with_list=True),
    "put the part again": put(RIGHT, 2),
    "put the part with other bytes": put(WRONG, 2),
    "cancel": cancel,
    "push": push_it,
}


async def begun(inner: MemoryStore, clock: FakeClock) -> str:
    registry = await open_registry(inner, clock)
    opened = await registry.parallel.begin(REPO, ALICE, part_size=PART)
    assert isinstance(opened, Opened)
    for number in (1, 2, 3):
        await put(RIGHT, number)(registry, opened.session_id)
    return opened.session_id


async def session_of(inner: MemoryStore, session: str) -> Session | None:
    key = f"uploads/{session.partition('.')[0]}"
    if key not in inner._objects:
        return None
    held = await inner.get(key)
    return parse(key, held.body, held.info.etag).session


async def swap(inner: MemoryStore, session: str, body: bytes) -> None:
    """A part that comes by a URL."""
    found = await session_of(inner, session)
    if found is None or found.data is None or found.upload is None:
        return
    try:
        await inner.put_part(found.data, found.upload, 2, body, offset=PART)
    except UploadNotFound:
        pass


async def finish(inner: MemoryStore, clock: FakeClock, session: str, outcomes: list[Any]) -> None:
    """Nothing is published that is not what it says; and the session comes to an end, one or the other."""
    found = await truth(inner)
    assert found.problems == []
    blobs = {outcome.digest for outcome in outcomes if isinstance(outcome, Blob)}
    for outcome in outcomes:
        assert outcome is None or isinstance(outcome, (Blob, Verifying, *REFUSALS)), outcome
    registry = await open_registry(inner, clock, replica=9)
    last: Any = Verifying(0, 0)
    for _ in range(6):
        state = await session_of(inner, session)
        content = WRONG if state is not None and state.digest == str(Digest.of(WRONG)) else RIGHT
        try:
            last = await complete(content, with_list=True)(registry, session)
        except REFUSALS as error:
            last = error
        if not isinstance(last, Verifying):
            break
        clock.advance(16)
        await standstill()
    assert not isinstance(last, Verifying), "it comes to an end"
    await registry.close()
    found = await truth(inner)
    assert found.problems == []
    for digest in blobs:
        assert await pulled(registry, REPO, digest) in (RIGHT, WRONG)
    if isinstance(last, Blob):
        assert (REPO, last.digest) in found.links
    else:
        state = await session_of(inner, session)
        assert state is None or state.state in (State.CANCELLED, State.FAILED, State.DONE, State.OPEN)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("late", [None, WRONG[PART : 2 * PART], RIGHT[PART : PART + 10]], ids=["", "other", "short"])
@pytest.mark.parametrize("first", ACTS)
async def test_a_request_that_stops_while_others_run(first: str, late: bytes | None, flavour: str) -> None:
    for second in ACTS:
        for stop in range(40):
            clock = FakeClock()
            inner = memory_store(clock, **FLAVOURS[flavour])
            session = await begun(inner, clock)
            one = await Held.on(inner, clock, 2, stop)
            two = await Held.on(inner, clock, 3, None)
            await one.begin(lambda registry, session=session: ACTS[first](registry, session))  # type: ignore[misc]
            reached = one.stopped
            if late is not None:
                await swap(inner, session, late)
            await two.begin(lambda registry, session=session, act=second: ACTS[act](registry, session))  # type: ignore[misc]
            outcomes = [await two.end(), await one.end()]
            await finish(inner, clock, session, outcomes)
            if not reached:
                break
        assert not reached


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_three_requests_that_stop_for_each_other(flavour: str, seed: int) -> None:
    chance = random.Random(f"{flavour} {seed}")
    for _ in range(25):
        clock = FakeClock()
        inner = memory_store(clock, **FLAVOURS[flavour])
        session = await begun(inner, clock)
        acts = [chance.choice(list(ACTS)) for _ in range(3)]
        replicas = [await Held.on(inner, clock, 2 + at, chance.randrange(14)) for at in range(3)]
        for replica, act in zip(replicas, acts, strict=True):
            await replica.begin(lambda registry, session=session, act=act: ACTS[act](registry, session))  # type: ignore[misc]
            if chance.random() < 0.3:
                await swap(inner, session, chance.choice([WRONG, RIGHT])[PART : 2 * PART])
            if chance.random() < 0.3:
                clock.advance(16)
        outcomes = [await replica.end() for replica in chance.sample(replicas, 3)]
        await finish(inner, clock, session, outcomes)
