"""Compression: every reader takes it, it is the same everywhere, and it is bounded."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import hashlib
import json
import lzma
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.images import OCI_MANIFEST, Blob, Image, make_image, to_json, write_layout
from tests.support.tools import run, tool

from bucketry.oci import media_types
from bucketry.transfer.compress import (
    GZIP_BLOCK,
    ZSTD_BLOCK,
    Compression,
    Format,
    compress,
    compression_of,
    decompress,
    is_compressed,
)
from bucketry.transfer.errors import SourceDamaged

MIB = 1024 * 1024
ROOT = Path(__file__).parents[3]
BOTH = ["gzip", "gzip:1", "gzip:9", "zstd", "zstd:1"]


def text(size: int, seed: int = 1) -> bytes:
    """Bytes that compress about as a layer does."""
    source = random.Random(seed)
    words = [source.randbytes(source.randrange(3, 12)) for _ in range(5000)]
    found = bytearray()
    while len(found) < size:
        found += b" ".join(source.choices(words, k=2000))
    return bytes(found[:size])


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def all_of(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def compressed(how: str, data: bytes, *, size: int = 100_000, workers: int | None = 2) -> bytes:
    return await all_of(compress(Compression.parse(how), pieces(data, size), workers=workers))


async def decompressed(data: bytes, *, most: int = 2**40, size: int = 100_000) -> bytes:
    return await all_of(decompress(pieces(data, size), most=most))


def told(program: str, *arguments: str, data: bytes) -> bytes:
    return subprocess.run([tool(program), *arguments], input=data, capture_output=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("size", [0, 1, 511, GZIP_BLOCK - 1, GZIP_BLOCK, GZIP_BLOCK + 1, 2 * ZSTD_BLOCK + 7])
@pytest.mark.parametrize("how", BOTH)
async def test_what_was_compressed_comes_back(how: str, size: int) -> None:
    data = text(size)

    packed = await compressed(how, data)

    assert await decompressed(packed) == data
    if how.startswith("gzip"):
        assert gzip.decompress(packed) == data


async def test_gzip_reads_it() -> None:
    data = text(9 * MIB)

    assert told("gzip", "-dc", data=await compressed("gzip", data)) == data
    assert told("gzip", "-t", data=await compressed("gzip", b"")) == b""


@pytest.mark.parametrize("how", ["gzip", "zstd"])
async def test_the_libraries_of_container_engines_read_it(how: str, tmp_path: Path) -> None:
    """skopeo, podman, containerd and docker have the same two."""
    image = make_image(51, (2 * ZSTD_BLOCK + 1000, 0))
    media_type = Compression.parse(how).media_type()
    layers = tuple([Blob(await compressed(how, tar), media_type) for tar in image.tars])
    document = {**json.loads(image.manifest.data), "layers": [layer.descriptor() for layer in layers]}
    packed = Image(to_json(document, OCI_MANIFEST), image.config, layers, image.tars, "amd64")
    layout = write_layout(tmp_path / "layout", packed, "v1")

    skopeo = [tool("skopeo"), "--insecure-policy", "copy", "--dest-decompress"]
    run([*skopeo, f"oci:{layout}:v1", f"dir:{tmp_path / 'out'}"])

    for digest, tar in zip(image.diff_ids, image.tars, strict=True):
        assert (tmp_path / "out" / digest.removeprefix("sha256:")).read_bytes() == tar


async def test_a_gzip_header_has_no_time_and_no_name_and_all_is_one_member() -> None:
    packed = await compressed("gzip", text(3 * MIB))

    assert packed[:10] == bytes.fromhex("1f8b08000000000000ff")
    # The last four bytes are the size of the last member (RFC 1952, 2.3.1).
    assert int.from_bytes(packed[-4:], "little") == 3 * MIB


@pytest.mark.parametrize("how", BOTH)
async def test_neither_cores_nor_pieces_change_a_byte(how: str) -> None:
    data = text(2 * ZSTD_BLOCK + 12345)

    first = await compressed(how, data, workers=1, size=1000)

    assert await compressed(how, data, workers=2, size=MIB) == first
    assert await compressed(how, data, workers=7, size=len(data)) == first
    assert await compressed(how, data, workers=None, size=333_333) == first


@pytest.mark.parametrize(
    ("how", "digest"),
    [
        ("gzip", "f0112618d5aaf0a1"),
        ("gzip:6", "c864509ce9c3061c"),
        ("zstd", "96265ecf45e73901"),
    ],
)
async def test_a_release_gives_the_digests_it_always_gave(how: str, digest: str) -> None:
    """Where this fails, the compressor has changed: layers that were pushed before will be stored once more."""
    packed = await compressed(how, text(ZSTD_BLOCK + MIB + 5))

    assert hashlib.sha256(packed).hexdigest()[:16] == digest


@settings(max_examples=25, deadline=None)
@given(
    data=st.binary(max_size=300),
    repeats=st.integers(1, 9000),
    how=st.sampled_from(["gzip", "zstd"]),
    size=st.integers(1000, 200_000),
)
def test_any_bytes_come_back(data: bytes, repeats: int, how: str, size: int) -> None:
    async def there_and_back() -> bytes:
        return await decompressed(await compressed(how, data * repeats), size=size)

    assert asyncio.run(there_and_back()) == data * repeats


async def test_blocks_share_what_was_before_them() -> None:
    """A block alone would have to spell out again what its neighbour began with."""
    source = random.Random(3).randbytes(20_000)
    data = (source * 60)[: GZIP_BLOCK + 20_000]

    whole = await compressed("gzip", data)
    first = await compressed("gzip", data[:GZIP_BLOCK])

    assert len(whole) - len(first) < 1000


async def test_none_passes_the_bytes_on() -> None:
    assert await compressed("none", b"as it is") == b"as it is"


async def test_no_more_is_read_than_the_blocks_in_flight() -> None:
    """The source waits while nobody takes what is ready."""
    read = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(64):
            read += GZIP_BLOCK
            yield bytes(GZIP_BLOCK)

    output = compress(Compression.parse("gzip"), source(), workers=2)
    await anext(output)
    await anext(output)
    await asyncio.sleep(0.2)

    assert read <= 6 * GZIP_BLOCK
    assert len(await all_of(output)) < GZIP_BLOCK
    assert read == 64 * GZIP_BLOCK


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("compress")]


async def test_who_stops_taking_leaves_no_thread_and_an_ended_source() -> None:
    ended = False

    async def source() -> AsyncIterator[bytes]:
        nonlocal ended
        try:
            while True:
                yield text(MIB)
        finally:
            ended = True

    async def take() -> None:
        async for _ in compress(Compression.parse("gzip:9"), source(), workers=2):
            pass

    task = asyncio.create_task(take())
    await asyncio.sleep(0.3)
    assert workers()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ended
    for _ in range(200):
        if not workers():
            break
        await asyncio.sleep(0.02)
    assert workers() == []


async def test_a_source_that_fails_is_heard() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield text(3 * MIB)
        raise SourceDamaged("the archive ends too early")

    with pytest.raises(SourceDamaged, match="ends too early"):
        await all_of(compress(Compression.parse("gzip"), source()))


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
class TestDecompression:
    async def make(self, kind: str, data: bytes) -> bytes:
        if kind in ("gzip", "zstd"):
            return await compressed(kind, data)
        return bz2.compress(data) if kind == "bzip2" else lzma.compress(data)

    async def test_it_is_known_by_its_first_bytes(self, kind: str) -> None:
        assert is_compressed((await self.make(kind, b"some tar"))[:6]) == kind

    async def test_pieces_of_any_size_do(self, kind: str) -> None:
        data = text(300_000)
        packed = await self.make(kind, data)

        assert await decompressed(packed, size=97) == data
        assert await decompressed(packed, size=MIB) == data

    async def test_pieces_are_small_however_much_a_byte_becomes(self, kind: str) -> None:
        packed = await self.make(kind, bytes(40 * MIB))

        sizes = [len(piece) async for piece in decompress(pieces(packed), most=2**40)]

        assert sum(sizes) == 40 * MIB
        assert max(sizes) <= MIB

    async def test_a_bomb_is_refused_before_it_is_blown_up(self, kind: str) -> None:
        packed = await self.make(kind, bytes(40 * MIB))
        taken: list[int] = []

        async def take() -> None:
            async for piece in decompress(pieces(packed), most=3 * MIB):
                taken.append(len(piece))

        with pytest.raises(SourceDamaged, match="more than 3,145,728 bytes"):
            await take()
        assert sum(taken) <= 3 * MIB

    async def test_what_is_cut_short_is_refused(self, kind: str) -> None:
        packed = await self.make(kind, text(300_000))

        for stop in (7, len(packed) // 2, len(packed) - 1):
            with pytest.raises(SourceDamaged, match="cut short"):
                await decompressed(packed[:stop])

    async def test_a_damaged_head_is_refused(self, kind: str) -> None:
        packed = bytearray(await self.make(kind, text(50_000)))
        packed[6:40] = bytes(34)

        with pytest.raises(SourceDamaged, match=r"damaged|cut short|other bytes"):
            await decompressed(bytes(packed))

    async def test_streams_one_after_another_are_one(self, kind: str) -> None:
        one, two = await self.make(kind, b"one " * 1000), await self.make(kind, b"two")

        assert await decompressed(one + two, size=11) == b"one " * 1000 + b"two"

    async def test_zeros_behind_it_are_padding_and_other_bytes_are_not(self, kind: str) -> None:
        packed = await self.make(kind, b"a tar")

        assert await decompressed(packed + bytes(1000), size=64) == b"a tar"
        for rest in (b"more", bytes(100) + b"more"):
            with pytest.raises(SourceDamaged, match=r"other bytes|damaged|cut short"):
                await decompressed(packed + rest, size=64)


async def test_many_small_members_take_no_time() -> None:
    """Each ends a stream: were what is behind it copied every time, this would take minutes."""
    member = gzip.compress(b"x", mtime=0)

    async with asyncio.timeout(20):
        assert await decompressed(member * 40_000, size=MIB) == b"x" * 40_000


@pytest.mark.parametrize("data", [b"", b"abc", b"a plain tar, as it is"])
async def test_what_is_not_compressed_comes_as_it_is(data: bytes) -> None:
    assert await decompressed(data, size=2) == data


@pytest.mark.parametrize(
    ("written", "format_", "level", "shown"),
    [
        ("gzip", "gzip", 3, "gzip:3"),
        ("gzip:6", "gzip", 6, "gzip:6"),
        ("zstd", "zstd", 3, "zstd:3"),
        ("zstd:19", "zstd", 19, "zstd:19"),
        ("none", "none", None, "none"),
    ],
)
def test_a_compression_is_written_so(written: str, format_: Format, level: int | None, shown: str) -> None:
    found = Compression.parse(written)

    assert (found.format, found.level, str(found)) == (format_, level, shown)
    assert found == Compression(format_, level)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("", "write gzip, zstd or none"),
        ("f0112618d5aaf0a1", "write gzip, zstd or none"),
        ("brotli:3", "write gzip, zstd or none"),
        ("gzip:", "no level after the colon"),
        ("gzip:fast", "such as gzip:3"),
        ("gzip:-1", "no level after the colon"),
        ("gzip:³", "no level after the colon"),
        ("gzip:0", "levels 1 to 9"),
        ("gzip:10", "levels 1 to 9"),
        ("zstd:20", "levels 1 to 19"),
        ("zstd:99999999999999999999", "no level after the colon"),
        ("none:1", "none has no level"),
    ],
)
def test_another_is_refused_with_what_to_write(written: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Compression.parse(written)


def test_forms_differ_where_the_bytes_do() -> None:
    forms: Sequence[str] = [Compression.parse(how).form for how in ("none", "gzip", "gzip:6", "zstd", "zstd:9")]

    assert len(set(forms)) == len(forms)
    assert Compression.parse("gzip").form == Compression.parse("gzip:3").form


def test_media_types_follow_the_compression() -> None:
    assert Compression.parse("gzip").media_type() == media_types.OCI_LAYER_GZIP
    assert Compression.parse("zstd").media_type() == media_types.OCI_LAYER_ZSTD
    assert Compression.parse("none").media_type() == media_types.OCI_LAYER
    assert Compression.parse("gzip").media_type(docker=True) == media_types.DOCKER_LAYER_GZIP
    assert Compression.parse("none").media_type(docker=True) == media_types.DOCKER_LAYER
    with pytest.raises(ValueError, match="OCI manifest"):
        Compression.parse("zstd").media_type(docker=True)


@pytest.mark.parametrize(
    ("media_type", "format_"),
    [
        (media_types.OCI_LAYER, "none"),
        (media_types.OCI_LAYER_GZIP, "gzip"),
        (media_types.OCI_LAYER_ZSTD, "zstd"),
        (media_types.DOCKER_LAYER, "none"),
        (media_types.DOCKER_LAYER_GZIP, "gzip"),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", "zstd"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "gzip"),
        ("Application/X.Tar+GZIP; charset=x", "gzip"),
    ],
)
def test_a_media_type_says_how_its_layer_is_compressed(media_type: str, format_: Format) -> None:
    assert compression_of(media_type) == format_


def test_the_measurement_runs() -> None:
    """Small, so its numbers mean nothing."""
    command = [sys.executable, "-m", "bench.compression", "--size", "1", "--rounds", "1"]

    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout

    assert "zlib, level 6" in said
    assert "zstd:9" in said
