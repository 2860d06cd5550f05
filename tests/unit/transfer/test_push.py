"""Push from a source: what travels, in which order, and what goes wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.transfer.fakes import (
    MIB,
    Clockwork,
    Heard,
    Image,
    MemorySource,
    MemoryTarget,
    checkpoints_of,
    index,
    once,
    settings,
    some_bytes,
)

from bucketry.oci import Digest
from bucketry.transfer.contract import Source
from bucketry.transfer.errors import ContentMismatch, ImageMissing, Refused, SourceDamaged, Unreachable
from bucketry.transfer.events import Again, Ended, Moved, Note, Resumed
from bucketry.transfer.push import push
from bucketry.transfer.settings import TransferSettings

BIG = some_bytes(1_500_000)
SMALL = some_bytes(3_000, 1)


async def run(
    source: Source,
    target: MemoryTarget,
    chosen: TransferSettings,
    heard: Heard | None = None,
    **more: str | None,
) -> Ended:
    return await push(
        source,
        target,
        tag=more.get("tag", "v1"),
        mount_from=more.get("mount_from"),
        settings=chosen,
        listen=heard or Heard(),
        timing=Clockwork().timing,
        clock=lambda: 1e9,
    )


@pytest.mark.parametrize("ranged", [True, False])
@pytest.mark.parametrize("parts", [True, False])
async def test_an_image_arrives_whole(tmp_path: Path, ranged: bool, parts: bool) -> None:
    image = Image(BIG, SMALL)
    source, target, heard = MemorySource(image), MemoryTarget(parts=parts), Heard()
    source.ranged = ranged

    ended = await run(source, target, settings(tmp_path), heard)

    assert target.holds(image)
    assert target.by_tag == {"v1": image.manifest}
    assert ended.moved == heard.total(Moved) == len(BIG) + len(SMALL) + 2 + len(image.manifest.body)
    assert ended.pull == "docker pull memory/target:v1"
    assert target.sessions == {}
    assert any(isinstance(event, Note) for event in heard.events) is not parts


async def test_parts_travel_at_once_and_out_of_order(tmp_path: Path) -> None:
    source, target = MemorySource(Image(BIG)), MemoryTarget()

    async def odd_ones_later(session: str, number: int) -> None:
        for _ in range(number % 2 * 20):
            await asyncio.sleep(0)

    target.before_put = odd_ones_later
    ended = await run(source, target, settings(tmp_path))

    assert target.holds(Image(BIG))
    assert target.order != sorted(target.order)
    assert ended.parallel >= 4


async def test_no_more_than_the_memory_is_buffered(tmp_path: Path) -> None:
    source, target = MemorySource(Image(some_bytes(12 * MIB))), MemoryTarget()

    async def slow(session: str, number: int) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    target.before_put = slow
    await run(source, target, settings(tmp_path, memory=4 * MIB, part_size=MIB, parallel=64))

    assert target.most_sending == 4 * MIB
    # Four parts, and the config, which is no part.
    assert source.most_reading <= 5


async def test_every_part_and_every_read_may_fail_once(tmp_path: Path) -> None:
    image, heard = Image(BIG, SMALL), Heard()
    source, target = MemorySource(image), MemoryTarget()
    source.before_read = once()
    target.before_put = once()
    target.before_complete = once()

    await run(source, target, settings(tmp_path), heard)

    assert target.holds(image)
    assert sum(isinstance(event, Again) for event in heard.events) > 2 * len(BIG) // (64 * 1024)


async def test_a_stream_that_breaks_is_gone_on_with(tmp_path: Path) -> None:
    image = Image(BIG)
    source, target = MemorySource(image), MemoryTarget()
    source.ranged = False
    source.after_piece = once()

    await run(source, target, settings(tmp_path))

    assert target.holds(image)
    assert target.puts == -(-len(BIG) // (64 * 1024))


async def test_a_part_that_fails_for_good_ends_all(tmp_path: Path) -> None:
    source, target = MemorySource(Image(BIG, some_bytes(700_000, 3))), MemoryTarget()

    async def refuse(session: str, number: int) -> None:
        if number == 5:
            raise Refused("never")

    target.before_put = refuse
    with pytest.raises(Refused, match="never"):
        await run(source, target, settings(tmp_path))

    assert len(asyncio.all_tasks()) == 1
    assert target.by_tag == {}


async def test_a_server_that_stays_away_is_given_a_minute(tmp_path: Path) -> None:
    source, target, clock = MemorySource(Image(BIG)), MemoryTarget(), Clockwork()

    async def down(session: str, number: int) -> None:
        raise Unreachable("nobody there")

    target.before_put = down
    with pytest.raises(Unreachable, match="nobody there"):
        await push(
            source, target, tag="v1", settings=settings(tmp_path, parallel=1), listen=Heard(), timing=clock.timing
        )

    assert clock.now > 60


async def test_what_is_there_is_skipped_and_what_is_elsewhere_mounted(tmp_path: Path) -> None:
    image, heard = Image(BIG, SMALL), Heard()
    source, target = MemorySource(image), MemoryTarget()
    target.elsewhere["other"] = {str(Digest.of(BIG)): BIG}
    target.blobs[str(Digest.of(SMALL))] = SMALL

    ended = await run(source, target, settings(tmp_path), heard, mount_from="other")

    assert target.holds(image)
    assert target.puts == 0
    assert ended.skipped == len(BIG) + len(SMALL)


async def test_a_second_run_sends_nothing(tmp_path: Path) -> None:
    image = Image(BIG, SMALL)
    source, target = MemorySource(image), MemoryTarget()
    await run(source, target, settings(tmp_path))
    before = target.received

    await run(source, target, settings(tmp_path))

    assert target.received == before


@pytest.mark.parametrize("at", [1, 4, 11])
async def test_what_was_sent_before_a_crash_is_not_sent_again(tmp_path: Path, at: int) -> None:
    image, heard = Image(BIG), Heard()
    source, target = MemorySource(image), MemoryTarget()

    async def die(session: str, number: int) -> None:
        if len(target.order) == at:
            task.cancel()

    target.after_put = die
    task = asyncio.create_task(run(source, target, settings(tmp_path)))
    with pytest.raises(asyncio.CancelledError):
        await task
    sent = target.received
    assert 0 < sent < len(BIG)
    target.after_put = MemoryTarget().after_put

    await run(source, target, settings(tmp_path), heard)

    assert target.holds(image)
    assert target.received == len(BIG) + 2
    # The config, which is no part, may have been sent too.
    assert sent - heard.total(Resumed) in (0, 2)
    assert list((tmp_path / "cache" / "pushes").iterdir()) == []


async def test_a_session_that_ended_begins_anew(tmp_path: Path) -> None:
    image, heard = Image(BIG), Heard()
    source, target = MemorySource(image), MemoryTarget()

    async def lose(session: str, number: int) -> None:
        if session == "session-1" and number == 6:
            target.sessions.clear()

    target.before_put = lose
    await run(source, target, settings(tmp_path), heard)

    assert target.holds(image)
    assert target.began == 2


async def test_parts_of_another_run_that_are_wrong_are_sent_again(tmp_path: Path) -> None:
    image = Image(BIG)
    source, target = MemorySource(image), MemoryTarget()

    async def die(session: str, number: int) -> None:
        if number == 9:
            task.cancel()

    target.after_put = die
    task = asyncio.create_task(run(source, target, settings(tmp_path)))
    with pytest.raises(asyncio.CancelledError):
        await task
    target.after_put = MemoryTarget().after_put
    state = target.sessions["session-1"]
    number = min(state.parts)
    state.parts[number] = bytes(len(state.parts[number]))

    await run(source, target, settings(tmp_path))

    assert target.holds(image)


@pytest.mark.parametrize("ranged", [True, False])
@pytest.mark.parametrize("layer", [BIG, SMALL], ids=["parts", "whole"])
async def test_a_source_whose_bytes_are_others_is_damaged(tmp_path: Path, ranged: bool, layer: bytes) -> None:
    source, target = MemorySource(Image(layer)), MemoryTarget()
    source.ranged = ranged
    source.change = lambda digest, at, piece: bytes(len(piece)) if at == 0 and len(piece) > 2 else piece

    with pytest.raises(SourceDamaged, match="memory/source is damaged"):
        await run(source, target, settings(tmp_path))

    assert target.sessions == {}
    assert target.by_tag == {}


async def test_checkpoints_of_the_source_are_handed_over(tmp_path: Path) -> None:
    image = Image(BIG)
    source, target = MemorySource(image), MemoryTarget()
    given = checkpoints_of(BIG, 64 * 1024)
    source.checkpoints[str(Digest.of(BIG))] = given

    await run(source, target, settings(tmp_path))

    assert target.completed_with == [given]


async def test_bytes_that_are_not_those_of_the_handed_over_checkpoints_are_found(tmp_path: Path) -> None:
    source, target = MemorySource(Image(BIG)), MemoryTarget()
    source.checkpoints[str(Digest.of(BIG))] = checkpoints_of(BIG, 64 * 1024)
    source.change = lambda digest, at, piece: bytes(len(piece)) if at == 0 and len(piece) > 2 else piece

    with pytest.raises(ContentMismatch):
        await run(source, target, settings(tmp_path))


async def test_a_bucket_of_this_process_need_not_read_back(tmp_path: Path) -> None:
    source, target = MemorySource(Image(BIG)), MemoryTarget(hashed=True)
    # Handed over, they would prove nothing of what this process sent.
    source.checkpoints[str(Digest.of(BIG))] = checkpoints_of(BIG, 64 * 1024)

    await run(source, target, settings(tmp_path))

    assert target.trusted == 1


async def test_a_session_of_an_earlier_run_is_read_back(tmp_path: Path) -> None:
    source, target = MemorySource(Image(BIG)), MemoryTarget(hashed=True)

    async def die(session: str, number: int) -> None:
        task.cancel()

    target.before_put = die
    task = asyncio.create_task(run(source, target, settings(tmp_path)))
    with pytest.raises(asyncio.CancelledError):
        await task
    target.before_put = MemoryTarget().before_put

    await run(source, target, settings(tmp_path))

    assert target.trusted == 0
    assert target.holds(Image(BIG))


async def test_an_index_goes_children_first_and_its_tag_last(tmp_path: Path) -> None:
    one, two = Image(BIG, SMALL), Image(SMALL, config=b'{"os": "linux"}')
    whole = index((one.manifest, "linux/amd64"), (two.manifest, "linux/arm64"))
    source, target = MemorySource(one, two), MemoryTarget()
    source.add(whole, tag="latest")

    await run(source, target, settings(tmp_path))

    assert target.put_order[-1] == "v1"
    assert set(target.put_order[:-1]) == {str(one.manifest.digest), str(two.manifest.digest)}
    assert target.holds(one)
    assert target.holds(two)


async def test_one_platform_of_an_index(tmp_path: Path) -> None:
    one, two = Image(BIG), Image(SMALL, config=b'{"os": "linux"}')
    whole = index((one.manifest, "linux/amd64"), (two.manifest, "linux/arm64/v8"))
    source, target = MemorySource(one, two), MemoryTarget()
    source.add(whole, tag="latest")

    ended = await run(source, target, settings(tmp_path, platform="linux/arm64"))

    assert ended.digest == str(two.manifest.digest)
    assert target.by_tag == {"v1": two.manifest}
    assert str(Digest.of(BIG)) not in target.blobs
    with pytest.raises(ImageMissing, match="linux/amd64, linux/arm64/v8"):
        await run(source, target, settings(tmp_path, platform="windows/amd64"))


async def test_without_a_tag_it_is_pulled_by_its_digest(tmp_path: Path) -> None:
    image = Image(SMALL)
    target = MemoryTarget()

    ended = await run(MemorySource(image), target, settings(tmp_path), tag=None)

    assert target.by_tag == {}
    assert ended.pull == f"docker pull memory/target@{image.manifest.digest}"
