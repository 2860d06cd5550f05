"""Push of a saved image: compressed, hashed and sent at once, and gone on with after a crash."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import json
import zlib
from pathlib import Path

import pytest
from tests.unit.transfer.fakes import (
    Clockwork,
    Heard,
    MemorySaved,
    MemoryTarget,
    nothing,
    once,
    settings,
    some_bytes,
)

from bucketry.oci import Digest, media_types
from bucketry.transfer.errors import NameUnusable, NoSpace, Refused, SourceDamaged
from bucketry.transfer.events import Ended, Moved, Resumed
from bucketry.transfer.push import push
from bucketry.transfer.settings import TransferSettings

TARS = (some_bytes(900_000), b"tar" * 300_000, some_bytes(4_000, 2))


async def run(saved: MemorySaved, target: MemoryTarget, chosen: TransferSettings, heard: Heard | None = None) -> Ended:
    return await push(
        saved,
        target,
        tag="v1",
        settings=chosen,
        listen=heard or Heard(),
        timing=Clockwork().timing,
        clock=lambda: 1e9,
    )


def layers_of(target: MemoryTarget) -> list[bytes]:
    return [target.blobs[layer.digest] for layer in target.by_tag["v1"].parsed.layers]


@pytest.mark.parametrize("parts", [True, False])
@pytest.mark.parametrize("known", [True, False])
async def test_layers_arrive_compressed_in_the_order_of_the_config(tmp_path: Path, parts: bool, known: bool) -> None:
    saved, target, heard = MemorySaved(*TARS, known=known), MemoryTarget(parts=parts), Heard()

    ended = await run(saved, target, settings(tmp_path), heard)

    manifest = target.by_tag["v1"].parsed
    assert [zlib.decompress(layer, wbits=31) for layer in layers_of(target)] == list(TARS)
    assert {layer.media_type for layer in manifest.layers} == {media_types.OCI_LAYER_GZIP}
    assert manifest.config is not None
    assert manifest.config.media_type == media_types.OCI_CONFIG
    assert target.blobs[manifest.config.digest] == (await saved.config()).config
    assert ended.moved == target.received + len(target.by_tag["v1"].body) == heard.total(Moved)
    assert target.sessions == {}
    assert all(target.completed_with)


async def test_the_same_image_is_the_same_manifest(tmp_path: Path) -> None:
    one, two = MemoryTarget(), MemoryTarget(parts=False)
    again = MemorySaved(*TARS)
    again.piece = 7_001

    first = await run(MemorySaved(*TARS), one, settings(tmp_path / "one"))
    second = await run(again, two, settings(tmp_path / "two", part_size=100_000))

    assert first.digest == second.digest
    assert one.blobs == two.blobs


@pytest.mark.parametrize("name", ["gzip:1", "zstd", "none"])
async def test_the_compression_that_was_asked_for(tmp_path: Path, name: str) -> None:
    target = MemoryTarget()

    await run(MemorySaved(*TARS), target, settings(tmp_path, compression=name))

    kind = {"gzip:1": "+gzip", "zstd": "+zstd", "none": ".tar"}[name]
    assert all(layer.media_type.endswith(kind) for layer in target.by_tag["v1"].parsed.layers)
    if name == "none":
        assert layers_of(target) == list(TARS)


async def test_a_compression_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(NameUnusable, match="lzma"):
        await run(MemorySaved(*TARS), MemoryTarget(), settings(tmp_path, compression="lzma"))


async def test_what_is_compressed_already_stays_as_it_is(tmp_path: Path) -> None:
    packed = gzip.compress(TARS[0], mtime=1) + gzip.compress(TARS[1], mtime=2)
    saved, target = MemorySaved(packed, TARS[2]), MemoryTarget()
    saved.unpacked["layer-0.tar"] = TARS[0] + TARS[1]

    await run(saved, target, settings(tmp_path))

    assert layers_of(target)[0] == packed


async def test_what_no_registry_has_a_type_for_is_packed_anew(tmp_path: Path) -> None:
    saved, target = MemorySaved(bz2.compress(TARS[1])), MemoryTarget()
    saved.unpacked["layer-0.tar"] = TARS[1]

    await run(saved, target, settings(tmp_path))

    assert zlib.decompress(layers_of(target)[0], wbits=31) == TARS[1]


@pytest.mark.parametrize("packed", [True, False])
async def test_a_layer_that_is_not_the_one_of_the_config_is_refused(tmp_path: Path, packed: bool) -> None:
    saved, target = MemorySaved(gzip.compress(TARS[0]) if packed else TARS[0]), MemoryTarget()
    saved.claimed["layer-0.tar"] = Digest.of(b"another")

    with pytest.raises(SourceDamaged, match=r"layer-0\.tar"):
        await run(saved, target, settings(tmp_path))

    assert target.by_tag == {}


@pytest.mark.parametrize("parts", [True, False])
async def test_a_layer_that_ends_early_is_refused(tmp_path: Path, parts: bool) -> None:
    saved, target = MemorySaved(*TARS), MemoryTarget(parts=parts)
    saved.cut["layer-1.tar"] = 500_000

    with pytest.raises(SourceDamaged, match="500000 of 900000"):
        await run(saved, target, settings(tmp_path))


async def test_a_packed_layer_that_is_damaged_is_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(TARS[0]))
    packed[len(packed) // 2] ^= 255

    with pytest.raises(SourceDamaged):
        await run(MemorySaved(bytes(packed)), MemoryTarget(), settings(tmp_path))


async def test_a_second_push_compresses_nothing_that_is_known_to_be_there(tmp_path: Path) -> None:
    target, heard = MemoryTarget(), Heard()
    await run(MemorySaved(*TARS, known=True), target, settings(tmp_path))
    before = target.received
    saved = MemorySaved(*TARS, known=True)

    ended = await run(saved, target, settings(tmp_path), heard)

    assert target.received == before
    assert ended.moved == len(target.by_tag["v1"].body)
    assert saved.read_paths == []
    assert len(heard.skipped()) >= len(TARS)


async def test_a_second_push_elsewhere_sends_all(tmp_path: Path) -> None:
    first, second = MemoryTarget(), MemoryTarget(name="elsewhere")
    await run(MemorySaved(*TARS, known=True), first, settings(tmp_path))

    await run(MemorySaved(*TARS, known=True), second, settings(tmp_path))

    assert second.blobs == first.blobs


async def test_one_layer_that_changed_is_all_that_is_read(tmp_path: Path) -> None:
    target = MemoryTarget()
    await run(MemorySaved(*TARS, known=True), target, settings(tmp_path))
    saved = MemorySaved(*TARS[:2], some_bytes(300_000, 7), known=True)

    await run(saved, target, settings(tmp_path))

    assert saved.read_paths == ["layer-2.tar"]
    assert len(target.by_tag["v1"].parsed.layers) == 3


async def test_a_damaged_cache_is_no_cache(tmp_path: Path) -> None:
    target = MemoryTarget()
    await run(MemorySaved(*TARS, known=True), target, settings(tmp_path))
    (tmp_path / "cache" / "layers.json").write_bytes(b"{\xff")

    saved = MemorySaved(*TARS, known=True)
    await run(saved, target, settings(tmp_path))

    assert len(saved.read_paths) == 3
    assert len(json.loads((tmp_path / "cache" / "layers.json").read_bytes())["layers"]) == 3


async def test_an_alias_is_the_layer_that_it_stands_for(tmp_path: Path) -> None:
    saved, target = MemorySaved(TARS[0], TARS[1]), MemoryTarget()
    saved.order = ["layer-0.tar", "link.tar", "layer-1.tar"]
    saved.aliases = {"link.tar": "layer-1.tar"}

    await run(saved, target, settings(tmp_path))

    first, second, third = target.by_tag["v1"].parsed.layers
    assert second == third != first


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [None, 40_000])
async def test_what_was_sent_before_a_crash_is_not_sent_again(tmp_path: Path, known: bool, size: int | None) -> None:
    tar = some_bytes(3_000_000)
    target, heard = MemoryTarget(), Heard()
    target.forced_part_size = size

    async def die(session: str, number: int) -> None:
        if target.received > len(tar) * 0.6:
            task.cancel()

    target.after_put = die
    task = asyncio.create_task(run(MemorySaved(tar, known=known), target, settings(tmp_path)))
    with pytest.raises(asyncio.CancelledError):
        await task
    before = target.received
    target.after_put = nothing

    await run(MemorySaved(tar, known=known), target, settings(tmp_path), heard)

    assert zlib.decompress(layers_of(target)[0], wbits=31) == tar
    assert target.received - before < 0.6 * len(tar)
    assert heard.total(Resumed) > 0.4 * len(tar)
    assert target.began == 1
    assert list((tmp_path / "cache" / "pushes").iterdir()) == []


async def test_another_layer_in_the_place_of_one_that_was_half_sent_is_sent_whole(tmp_path: Path) -> None:
    one, other = some_bytes(2_000_000), some_bytes(2_000_000, 5)
    target, heard = MemoryTarget(), Heard()

    async def die(session: str, number: int) -> None:
        if number == 20:
            task.cancel()

    target.after_put = die
    task = asyncio.create_task(run(MemorySaved(one), target, settings(tmp_path)))
    with pytest.raises(asyncio.CancelledError):
        await task
    target.after_put = nothing

    # Of the same name, path and size, so taken for the same at first.
    await run(MemorySaved(other), target, settings(tmp_path), heard)

    assert zlib.decompress(layers_of(target)[0], wbits=31) == other
    assert heard.total(Resumed) == 0


async def test_parts_that_fail_once_each_are_sent_again(tmp_path: Path) -> None:
    target = MemoryTarget()
    target.before_put = once()
    target.before_complete = once()

    await run(MemorySaved(*TARS), target, settings(tmp_path))

    assert [zlib.decompress(layer, wbits=31) for layer in layers_of(target)] == list(TARS)


async def test_whole_layers_are_sent_again_from_the_file(tmp_path: Path) -> None:
    target, heard = MemoryTarget(parts=False), Heard()
    target.before_blob = once()

    ended = await run(MemorySaved(*TARS), target, settings(tmp_path), heard)

    assert [zlib.decompress(layer, wbits=31) for layer in layers_of(target)] == list(TARS)
    assert ended.moved == sum(map(len, target.blobs.values())) + len(target.by_tag["v1"].body)


async def test_part_size_and_memory_hold(tmp_path: Path) -> None:
    target = MemoryTarget()

    async def slow(session: str, number: int) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    target.before_put = slow
    await run(
        MemorySaved(some_bytes(9_000_000), some_bytes(5_000_000, 1)),
        target,
        settings(tmp_path, memory=4 * 1024 * 1024, part_size=1024 * 1024, parallel=64),
    )

    # One buffer is being filled while the others are on their way.
    assert target.most_sending <= 4 * 1024 * 1024


async def test_a_failure_for_good_leaves_no_task(tmp_path: Path) -> None:
    target = MemoryTarget()

    async def refuse(session: str, number: int) -> None:
        if number == 3:
            raise Refused("never")

    target.before_put = refuse
    with pytest.raises(Refused, match="never"):
        await run(MemorySaved(*TARS), target, settings(tmp_path))

    assert len(asyncio.all_tasks()) == 1


async def test_a_bucket_of_this_process_need_not_read_back(tmp_path: Path) -> None:
    target = MemoryTarget(hashed=True)

    await run(MemorySaved(TARS[0]), target, settings(tmp_path))

    assert target.trusted == 1


async def test_a_full_disk_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            return

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **options: Full())

    with pytest.raises(NoSpace, match="No space left"):
        await run(MemorySaved(*TARS), MemoryTarget(parts=False), settings(tmp_path))
