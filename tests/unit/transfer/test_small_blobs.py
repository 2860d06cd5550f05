"""Small blobs of a push: straight to a bucket that checks them, where there is one, and where it is worth it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.transfer.fakes import (
    Clockwork,
    Heard,
    Image,
    MemorySaved,
    MemorySource,
    MemoryTarget,
    once,
    settings,
    some_bytes,
)

from bucketry.transfer.contract import SavedImage, Source
from bucketry.transfer.errors import PartLost, SourceDamaged
from bucketry.transfer.events import Ended
from bucketry.transfer.push import push
from bucketry.transfer.sending import PUT_FROM

LEAST = some_bytes(PUT_FROM)
BELOW = some_bytes(PUT_FROM - 1, 1)
MOST = some_bytes(2 * PUT_FROM, 2)
ABOVE = some_bytes(2 * PUT_FROM + 1, 3)
PART = 8 << 20


class CheckingTarget(MemoryTarget):
    """Notes what was sent past it, by sessions of one part, and what as a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.up_to = len(MOST)
        self.asked: list[int] = []
        self.streamed: list[int] = []
        self.before_blob = self._note

    async def takes_put(self, size: int) -> bool:
        self.asked.append(size)
        return size <= self.up_to

    async def _note(self, digest: str, at: int) -> None:
        self.streamed.append(at)


async def run(tmp_path: Path, source: Source | SavedImage, target: MemoryTarget) -> Ended:
    return await push(
        source,
        target,
        tag="v1",
        settings=settings(tmp_path, part_size=PART, memory=4 * PART, compression="none"),
        listen=Heard(),
        timing=Clockwork().timing,
        clock=lambda: 1e9,
    )


@pytest.mark.parametrize("ranged", [True, False])
@pytest.mark.parametrize(
    ("layer", "direct"), [(BELOW, False), (LEAST, True), (MOST, True), (ABOVE, False)], ids=["-", "least", "most", "+"]
)
async def test_a_blob_goes_past_the_registry_from_one_size_to_another(
    tmp_path: Path, layer: bytes, direct: bool, ranged: bool
) -> None:
    image = Image(layer)
    source, target = MemorySource(image), CheckingTarget()
    source.ranged = ranged

    await run(tmp_path, source, target)

    assert target.holds(image)
    assert (target.began, target.puts) == ((1, 1) if direct else (0, 0))
    assert (len(layer) in target.streamed) is not direct
    # A config of two bytes is not even asked for.
    assert target.asked == ([] if layer is BELOW else [len(layer)])


async def test_a_layer_of_a_saved_image_goes_so_too(tmp_path: Path) -> None:
    target = CheckingTarget()
    target.up_to = PART

    await run(tmp_path, MemorySaved(MOST), target)

    assert (target.began, target.puts) == (1, 1)
    assert all(size < PUT_FROM for size in target.streamed)
    assert max(map(len, target.blobs.values())) >= len(MOST)


async def test_a_target_that_says_nothing_of_it_gets_streams(tmp_path: Path) -> None:
    image, target = Image(MOST), MemoryTarget()
    await run(tmp_path, MemorySource(image), target)
    assert target.holds(image)
    assert target.began == 0


async def test_a_source_that_is_damaged_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    image = Image(MOST)
    for ranged in (True, False):
        source, target = MemorySource(image), CheckingTarget()
        source.ranged = ranged
        source.blobs[next(digest for digest, data in source.blobs.items() if data == MOST)] = MOST[::-1]
        with pytest.raises(SourceDamaged):
            await run(tmp_path / str(ranged), source, target)
        assert (target.began, target.puts, target.sessions) == (1, 0, {})


async def test_a_session_that_ended_is_begun_anew(tmp_path: Path) -> None:
    image, target = Image(MOST), CheckingTarget()

    async def ends(session: str, number: int) -> None:
        if session == "session-1":
            del target.sessions[session]
            raise PartLost("the session ended")

    target.before_put = ends
    await run(tmp_path, MemorySource(image), target)
    assert target.holds(image)
    assert target.began == 2


async def test_a_failure_that_may_pass_is_tried_again(tmp_path: Path) -> None:
    image, target = Image(MOST), CheckingTarget()
    target.before_put = once()
    target.before_complete = once()
    await run(tmp_path, MemorySource(image), target)
    assert target.holds(image)
    assert (target.began, target.puts) == (1, 2)
