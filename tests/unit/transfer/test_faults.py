"""Whatever breaks, and wherever a run ends: what arrives is right, and the next run goes on from there."""

from __future__ import annotations

import asyncio
import random
import tempfile
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.transfer.fakes import (
    MIB,
    Clockwork,
    FolderDestination,
    Heard,
    Image,
    MemorySaved,
    MemorySource,
    MemoryTarget,
    checkpoints_of,
    some_bytes,
)
from tests.unit.transfer.fakes import settings as settings_in

from bucketry.hashing import SEGMENT
from bucketry.oci import Digest
from bucketry.transfer.contract import SavedImage, Source
from bucketry.transfer.errors import ContentMismatch, PartLost, TransferError, Unreachable
from bucketry.transfer.events import Ended
from bucketry.transfer.pull import pull
from bucketry.transfer.push import push

PART = 16 * 1024
BIG = some_bytes(40 * PART + 77)
SMALL = some_bytes(5_000, 1)
BLOB = some_bytes(2 * SEGMENT + 3 * MIB + 5)
DIGEST = str(Digest.of(BLOB))
LIST = checkpoints_of(BLOB, MIB)

AFTER = st.integers(0, 700)
"""Turns of the loop until a run is ended."""


async def send(source: Source | SavedImage, target: MemoryTarget, folder: Path, heard: Heard | None = None) -> Ended:
    return await push(
        source,
        target,
        tag="v1",
        settings=settings_in(folder, part_size=PART, parallel=4),
        listen=heard or Heard(),
        timing=Clockwork().timing,
        clock=lambda: 1e9,
    )


async def fetch(source: Source, destination: FolderDestination, folder: Path) -> Ended:
    return await pull(
        source,
        destination,
        reference="latest",
        settings=settings_in(folder, parallel=4),
        listen=Heard(),
        whole=True,
        timing=Clockwork().timing,
        clock=lambda: 1e9,
    )


async def ended_after(turns: int, run: Callable[[], Awaitable[Ended]]) -> bool:
    """Whether the run was ended, after so many turns of the loop, by what leaves it no time for anything but that."""
    task = asyncio.ensure_future(run())
    for _ in range(turns):
        if task.done():
            break
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


def chaos(seed: int, share: float) -> Callable[[str, int], Awaitable[None]]:
    """A hook that is late, and fails, by chance."""
    dice = random.Random(seed)

    async def hook(where: str, at: int) -> None:
        for _ in range(dice.randrange(6)):
            await asyncio.sleep(0)
        if dice.random() < share:
            raise Unreachable("by chance", retry_after=dice.choice([None, 0.1, 5.0]))

    return hook


@settings(max_examples=40, deadline=None)
@given(first=AFTER, second=AFTER, seed=st.integers(0, 1000), ranged=st.booleans())
async def test_a_push_that_ends_anywhere_is_gone_on_with(first: int, second: int, seed: int, ranged: bool) -> None:
    image = Image(BIG, SMALL)
    source, target = MemorySource(image), MemoryTarget()
    source.ranged = ranged
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for turns in (first, second):
            target.before_put = chaos(seed, 0.1)
            source.before_read = chaos(seed + 1, 0.1)
            await ended_after(turns, lambda: send(source, target, folder))
            assert target.sending == source.reading == 0
        there = sum(len(part) for state in target.sessions.values() for part in state.parts.values())
        there += sum(map(len, target.blobs.values()))
        before = target.received

        await send(source, target, folder)

        assert target.holds(image)
        assert target.by_tag == {"v1": image.manifest}
        # All that is there is used, whichever run sent it.
        assert target.received - before == sum(map(len, image.blobs.values())) - there


@settings(max_examples=30, deadline=None)
@given(first=AFTER, second=AFTER, seed=st.integers(0, 1000), known=st.booleans(), parts=st.booleans())
async def test_a_push_of_a_saved_image_that_ends_anywhere_is_gone_on_with(
    first: int, second: int, seed: int, known: bool, parts: bool
) -> None:
    target = MemoryTarget(parts=parts)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for turns in (first, second):
            target.before_put = chaos(seed, 0.1)
            await ended_after(turns, lambda: send(MemorySaved(BIG, SMALL, known=known), target, folder))
            assert target.sending == 0
        there = sum(len(part) for state in target.sessions.values() for part in state.parts.values())
        before, in_blobs = target.received, sum(map(len, target.blobs.values()))

        await send(MemorySaved(BIG, SMALL, known=known), target, folder)

        layers = [target.blobs[layer.digest] for layer in target.by_tag["v1"].parsed.layers]
        assert [zlib.decompress(layer, wbits=31) for layer in layers] == [BIG, SMALL]
        total = sum(map(len, target.blobs.values()))
        if known and parts:
            # A part that had arrived, but whose mark was not written yet, is sent again: four were on their way.
            assert target.received - before <= total - in_blobs - there + 4 * PART


@settings(max_examples=25, deadline=None)
@given(
    first=AFTER,
    second=AFTER,
    seed=st.integers(0, 1000),
    checkpoints=st.booleans(),
    damage=st.booleans(),
)
async def test_a_pull_that_ends_anywhere_is_gone_on_with(
    first: int, second: int, seed: int, checkpoints: bool, damage: bool
) -> None:
    image = Image(BLOB, SMALL)
    source = MemorySource(image)
    source.piece = 300_000
    if checkpoints:
        source.checkpoints[DIGEST] = LIST
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        destination = FolderDestination(folder / "to")
        for turns in (first, second):
            source.after_piece = chaos(seed, 0.03)
            await ended_after(turns, lambda: fetch(source, destination, folder))
            assert source.reading == 0
        source.after_piece = chaos(seed, 0)
        path = destination.partial(DIGEST)
        if damage and path.exists():
            data = bytearray(path.read_bytes())
            data[4 + dice.randrange(len(data) - 4) if len(data) > 4 else 0] ^= 1
            path.write_bytes(data)
            damage = len(data) > 4

        await fetch(source, destination, folder)

        assert destination.holds(image)


@settings(max_examples=15, deadline=None)
@given(at=st.integers(0, len(LIST.states) - 1), bit=st.integers(0, 7))
async def test_a_forged_list_is_refused_wherever_it_was_changed(at: int, bit: int) -> None:
    forged = bytearray(LIST.states)
    forged[at] ^= 1 << bit
    source = MemorySource(Image(BLOB))
    source.piece = MIB
    source.checkpoints[DIGEST] = type(LIST)(LIST.digest, LIST.size, LIST.segment, bytes(forged))
    with tempfile.TemporaryDirectory() as name:
        destination = FolderDestination(Path(name) / "to")
        error = await failure_of(fetch(source, destination, Path(name)))

        assert isinstance(error, ContentMismatch)
        assert not destination.whole(DIGEST).exists()


@settings(max_examples=15, deadline=None)
@given(at=st.integers(0, len(BLOB) - 1), bit=st.integers(0, 7), checkpoints=st.booleans(), ranged=st.booleans())
async def test_a_bit_that_is_wrong_anywhere_is_refused(at: int, bit: int, checkpoints: bool, ranged: bool) -> None:
    wrong = bytearray(BLOB)
    wrong[at] ^= 1 << bit
    source = MemorySource(Image(BLOB))
    source.piece, source.ranged = MIB, ranged
    source.blobs[DIGEST] = bytes(wrong)
    if checkpoints:
        source.checkpoints[DIGEST] = LIST
    with tempfile.TemporaryDirectory() as name:
        destination = FolderDestination(Path(name) / "to")
        error = await failure_of(fetch(source, destination, Path(name)))

        assert isinstance(error, ContentMismatch)
        assert not destination.whole(DIGEST).exists()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), ends=st.integers(1, 40))
async def test_sessions_may_end_in_the_middle(seed: int, ends: int) -> None:
    image = Image(BIG)
    source, target = MemorySource(image), MemoryTarget()
    by_chance = chaos(seed, 0.05)
    count = 0

    async def hook(session: str, number: int) -> None:
        nonlocal count
        await by_chance(session, number)
        count += 1
        if count == ends:
            target.sessions.clear()
            raise PartLost("the session ended")

    target.before_put = hook
    with tempfile.TemporaryDirectory() as name:
        await send(source, target, Path(name))

    assert target.holds(image)


async def failure_of(run: Awaitable[Ended]) -> TransferError | None:
    try:
        await run
    except TransferError as error:
        return error
    return None
