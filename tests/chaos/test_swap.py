"""Invariant 1: what is hashed is what is committed, whatever requests come at once, late, again or with other bytes.

Two requests for one upload session, on two replicas: the first stops before one of its store calls while the second
runs to its end, for every call, every pair of requests and every state of the session.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.chaos.race import Held, PartBook
from tests.unit.registry.helpers import (
    ALICE,
    PART,
    REPO,
    FakeClock,
    blob_bytes,
    open_registry,
    placed,
    pulled,
    sized,
    standstill,
    streamed,
    truth,
)

from bucketry.oci import Digest
from bucketry.oci.errors import DigestMismatch, OCIError, RangeInvalid, UploadInvalid, UploadUnknown
from bucketry.registry import Blob, Chunk, Progress, Registry
from bucketry.store.contract import Buffer

FLAVOURS: dict[str, dict[str, bool]] = {
    "strict": {},
    "accepts stale parts": {"accept_stale_parts": True},
    "one part an offset": {"one_part_an_offset": True},
}
"""Stores that differ within the contract."""

REFUSALS = (UploadUnknown, RangeInvalid, UploadInvalid, DigestMismatch)


@dataclass(frozen=True)
class Upload:
    """A session as its client knows it: what it has sent, and whether it was told so."""

    session: str
    content: bytes
    continued: bool


State = Callable[[Registry], Awaitable[Upload]]


def state(*chunks: int, stream: bool = False) -> State:
    async def make(registry: Registry) -> Upload:
        session, content = registry.uploads.begin(REPO, ALICE).session_id, b""
        for number, size in enumerate(chunks):
            data = blob_bytes(size, number)
            chunk = streamed(data) if stream else placed(data, len(content))
            await registry.uploads.append(REPO, ALICE, session, chunk, continued=bool(content))
            content += data
        return Upload(session, content, bool(content))

    return make


STATES: dict[str, State] = {
    "begun": state(),
    "a tail": state(20),
    "sealed": state(30, stream=True),
    "parts and a tail": state(2 * PART + 20),
    "parts and a tail of several chunks": state(30, PART, 50),
    "whole parts": state(2 * PART),
    "streamed whole parts": state(3 * PART, stream=True),
}


@dataclass(frozen=True)
class Act:
    """One request. ``adds``: what the session holds more when it was taken (None: it is no chunk).

    ``commits``: the bytes whose digest it gives (None: it is no commit). ``right``: alone, it succeeds.
    """

    name: str
    send: Callable[[Registry, Upload], Awaitable[Any]]
    adds: bytes | None = None
    commits: Callable[[Upload], bytes] | None = None
    right: bool = True


def append(name: str, data: bytes, *, placed_: bool) -> Act:
    async def send(registry: Registry, upload: Upload) -> Progress:
        chunk = placed(data, len(upload.content)) if placed_ else streamed(data)
        return await registry.uploads.append(REPO, ALICE, upload.session, chunk, continued=upload.continued)

    return Act(name, send, adds=data)


def replay(name: str, data: bytes, *, continued: bool) -> Act:
    """The first chunk again, with other bytes."""

    async def send(registry: Registry, upload: Upload) -> Progress:
        return await registry.uploads.append(
            REPO, ALICE, upload.session, placed(data, 0), continued=continued and upload.continued
        )

    return Act(name, send, adds=data, right=False)


def commit(
    name: str,
    content: Callable[[Upload], bytes],
    *,
    last: bytes | None = None,
    algorithm: str = "sha256",
    right: bool = True,
) -> Act:
    async def send(registry: Registry, upload: Upload) -> Blob:
        chunk: Chunk | None = None
        if last is not None:
            chunk = placed(last, len(upload.content)) if upload.content else sized(last)
        return await registry.uploads.commit(
            REPO, ALICE, upload.session, Digest.of(content(upload), algorithm), chunk, continued=upload.continued
        )

    return Act(name, send, commits=content, right=right)


async def _cancel(registry: Registry, upload: Upload) -> None:
    await registry.uploads.cancel(REPO, ALICE, upload.session)


SHORT, LONG = blob_bytes(15, 101), blob_bytes(3 * PART + 5, 102)
OTHER_SHORT, OTHER_LONG = blob_bytes(15, 201), blob_bytes(3 * PART + 5, 202)

ACTS = [
    append("a short chunk", SHORT, placed_=True),
    append("a long chunk", LONG, placed_=True),
    append("a long chunk without a place", OTHER_LONG, placed_=False),
    replay("the first chunk again, short", OTHER_SHORT, continued=False),
    replay("the first chunk again, long", OTHER_LONG, continued=False),
    replay("the first chunk again, told of the first", OTHER_LONG, continued=True),
    commit("commit", lambda upload: upload.content),
    commit("commit by sha512", lambda upload: upload.content, algorithm="sha512"),
    commit("commit of what the other sends", lambda upload: upload.content + LONG, right=False),
    commit("commit of other bytes", lambda _: b"other", right=False),
    commit("commit with a short rest", lambda upload: upload.content + OTHER_SHORT, last=OTHER_SHORT),
    commit("commit with a long rest", lambda upload: upload.content + OTHER_LONG, last=OTHER_LONG),
    commit("commit with a wrong rest", lambda upload: upload.content + SHORT, last=OTHER_LONG, right=False),
    Act("cancel", _cancel),
]
PAIRS = list(itertools.product(ACTS, ACTS))


async def check(inner: PartBook, clock: FakeClock, upload: Upload, outcomes: list[tuple[Act, Any]]) -> None:
    """Every request succeeded truthfully or was refused by the right error, and the session is what they say."""
    found = await truth(inner)
    assert found.problems == []
    assert inner.swapped == []
    taken: list[tuple[int, bytes]] = []
    for act, outcome in outcomes:
        if isinstance(outcome, Blob):
            assert act.commits is not None
            content = act.commits(upload)
            assert outcome.digest == Digest.of(content, outcome.digest.algorithm)
            assert found.blob(outcome.digest) == content
            assert (REPO, outcome.digest) in found.links
        elif isinstance(outcome, Progress):
            assert act.adds is not None
            taken.append((outcome.offset, act.adds))
        else:
            assert outcome is None or isinstance(outcome, REFUSALS), (act.name, outcome)
    if all(act.right for act, _ in outcomes):
        assert any(not isinstance(outcome, OCIError) for _, outcome in outcomes), outcomes
    wanted = {outcome.digest for _, outcome in outcomes if isinstance(outcome, Blob)}
    assert set(found.records) == wanted, "nothing was published that was not acknowledged"

    content = upload.content
    for offset, added in sorted(taken):
        content += added
        assert offset == len(content), "each acknowledged chunk is there, in the order of the offsets"
    await check_session(inner, clock, upload, content, [act for act, _ in outcomes], outcomes)


async def check_session(
    inner: PartBook,
    clock: FakeClock,
    upload: Upload,
    content: bytes,
    acts: list[Act],
    outcomes: list[tuple[Act, Any]],
) -> None:
    registry = await open_registry(inner, clock, replica=9)
    cancelled = any(act.name == "cancel" and outcome is None for act, outcome in outcomes)
    continued = bool(content)
    try:
        progress = await registry.uploads.status(REPO, ALICE, upload.session, continued=continued)
        if not any(act.commits for act in acts):
            assert progress.offset == len(content)
        blob = await registry.uploads.commit(REPO, ALICE, upload.session, Digest.of(content), None, continued=continued)
    except (UploadUnknown, UploadInvalid):
        assert cancelled or any(act.commits for act in acts)
    except DigestMismatch:
        # The session holds more than the client knows: only a commit that failed after it was claimed can do that.
        assert any(act.commits for act in acts)
    else:
        assert not cancelled or any(isinstance(outcome, Progress) for _, outcome in outcomes)
        assert blob.digest == Digest.of(content)
        assert await pulled(registry, REPO, blob.digest) == content
    found = await truth(inner)
    assert found.problems == []
    assert inner.swapped == []


async def race(
    name: str, first: Act, second: Act, stops: tuple[int | None, int | None], flavour: str
) -> tuple[bool, list[tuple[Act, Any]]]:
    """The first runs to its stop, then the second to its own, then the first to its end, then the second.

    Whether the first reached its stop, and what became of both.
    """
    clock = FakeClock()
    inner = PartBook(clock=clock.now, min_part=1, **FLAVOURS[flavour])
    upload = await STATES[name](await open_registry(inner, clock))
    one = await Held.on(inner, clock, 2, stops[0])
    two = await Held.on(inner, clock, 3, stops[1])
    await one.begin(lambda registry: first.send(registry, upload))
    reached = one.stopped
    await two.begin(lambda registry: second.send(registry, upload))
    outcome = await one.end()
    outcomes = [(first, outcome), (second, await two.end())]
    await check(inner, clock, upload, outcomes)
    return reached, outcomes


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("first", ACTS, ids=lambda act: act.name)
async def test_a_request_that_stops_while_another_runs(name: str, first: Act) -> None:
    flavours = itertools.cycle(FLAVOURS)
    for second in ACTS:
        for stop in range(40):
            reached, _ = await race(name, first, second, (stop, None), next(flavours))
            if not reached:
                break
        assert not reached


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", STATES)
async def test_two_requests_that_stop_for_each_other(name: str, flavour: str) -> None:
    chance = random.Random(f"{name} {flavour}")
    for _ in range(120):
        first, second = chance.choice(PAIRS)
        await race(name, first, second, (chance.randrange(9), chance.randrange(9)), flavour)


class LateStore(PartBook):
    """Parts of ``late`` requests arrive after their senders were given up, when the test says so."""

    def __init__(self, **flags: Any) -> None:
        super().__init__(**flags)
        self.late = False
        self.arrive = asyncio.Event()
        self._on_their_way: list[asyncio.Task[str]] = []

    async def put_part(self, key: str, upload_id: str, number: int, body: Buffer, *, offset: int) -> str:
        sending = super().put_part(key, upload_id, number, bytes(body), offset=offset)
        if not self.late:
            return await sending

        async def arrive() -> str:
            await self.arrive.wait()
            return await sending

        task = asyncio.create_task(arrive())
        self._on_their_way.append(task)
        return await asyncio.shield(task)

    async def all_arrive(self) -> int:
        """How many the store took; the others came too late."""
        self.arrive.set()
        results = await asyncio.gather(*self._on_their_way, return_exceptions=True)
        return sum(isinstance(result, str) for result in results)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", [name for name in STATES if "parts" in name])
@pytest.mark.parametrize("first", [act for act in ACTS if act.right], ids=lambda act: act.name)
async def test_parts_that_arrive_after_their_request_was_given_up(name: str, first: Act, flavour: str) -> None:
    """The client went away, and went on with another replica; what it had sent before gets there at any time later."""
    taken = 0
    for stop in range(30):
        clock = FakeClock()
        inner = LateStore(clock=clock.now, min_part=1, **FLAVOURS[flavour])
        upload = await STATES[name](await open_registry(inner, clock))
        inner.late = True
        gone = asyncio.create_task(_awaited(first.send(await open_registry(inner, clock, replica=2), upload)))
        await standstill()
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        inner.late = False

        other = await Held.on(inner, clock, 3, stop)
        await other.begin(lambda registry, upload=upload: _finish(registry, upload, first))  # type: ignore[misc]
        reached = other.stopped
        taken += await inner.all_arrive()
        outcome = await other.end()

        found = await truth(inner)
        assert found.problems == []
        assert inner.swapped == []
        if isinstance(outcome, bytes):
            assert found.blob(Digest.of(outcome)) == outcome
        else:
            assert isinstance(outcome, REFUSALS), outcome
            assert first.commits or first.name == "cancel"
        if not reached:
            break
    assert not reached
    assert taken > 0 or first.name in ("a short chunk", "cancel") or "whole parts" in name


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


async def _finish(registry: Registry, upload: Upload, first: Act) -> bytes:
    """Asks where the upload stands, sends another chunk from there, and commits. What was committed."""
    progress = await registry.uploads.status(REPO, ALICE, upload.session, continued=True)
    content = upload.content if progress.offset == len(upload.content) else upload.content + (first.adds or b"")
    assert progress.offset == len(content)
    more = blob_bytes(3 * PART + 40, 303)
    await registry.uploads.append(REPO, ALICE, upload.session, placed(more, len(content)), continued=True)
    content += more
    await registry.uploads.commit(REPO, ALICE, upload.session, Digest.of(content), None, continued=True)
    return content
