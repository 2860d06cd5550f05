"""Compression of layers: on all cores, in bounded memory, and with the same result everywhere.

The tar is cut into blocks of a fixed size, which threads compress on their own, and which are joined in order:

- gzip: each block is deflated with the 32 KiB before it as its dictionary and ended on a byte; all blocks are one
  member, whose header holds neither time nor name (RFC 1952). Every gunzip reads it.
- zstd: each block is a frame (RFC 8878). containerd, docker 23 and podman read frames one after another.

So the bytes depend on the tar, the level and the version of the compressor, and not on the number of cores, nor on how
the tar arrives. zlib-ng and zstd also give the same bytes on every processor: measured for x86-64 without SSE4.2, with
SSE4.2, AVX2 and AVX-512, and for aarch64. ISA-L, which is three times faster, gives other bytes on each of these: two
machines that push one layer would store it twice, and each would miss that the other has sent it.

``python -m bench.compression`` measures the levels. It printed, for 192 MiB of programs, libraries and texts, on two
cores, beside other load (the last column: how small, compared with the peer)::

                        1 thread      2 threads  MiB a CPU s   ratio  to the peer
    zlib, level 6        43 MiB/s                          43    2.29
    gzip:1              258 MiB/s      457 MiB/s          242    1.97         83%
    gzip:2              158 MiB/s      291 MiB/s          151    2.28         94%
    gzip:3              136 MiB/s      254 MiB/s          129    2.35         97%
    gzip:4              118 MiB/s      229 MiB/s          116    2.37         98%
    gzip:6               88 MiB/s      155 MiB/s           87    2.41         99%
    zstd:1              589 MiB/s      641 MiB/s          536    2.63        104%
    zstd:3              383 MiB/s      767 MiB/s          398    2.91        111%
    zstd:9              128 MiB/s      189 MiB/s          124    3.26        116%

So gzip means level 3: as small as docker's own, within a few parts in a hundred, at several times its rate.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias, cast

from zlib_ng import zlib_ng

from bucketry.oci import media_types
from bucketry.oci.text import quoted
from bucketry.transfer.crew import closing, in_thread
from bucketry.transfer.errors import SourceDamaged

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Format: TypeAlias = Literal["gzip", "zstd", "none"]

GZIP_BLOCK: Final = 1024 * 1024
ZSTD_BLOCK: Final = 4 * 1024 * 1024
"""Bytes of a tar that are compressed at a time. Another size gives other bytes."""

MAX_WORKERS: Final = 16
"""Threads of one `compress` unless its caller says else: they hold about 10 MiB each."""

_LAYOUT: Final = 1
"""Goes up when the same compressor, at the same level, would give other bytes."""
_DICTIONARY: Final = 32 * 1024
_PIECE: Final = 1024 * 1024
_SLICE: Final = 64 * 1024
_LEVELS: Final[dict[Format, tuple[int, int, int]]] = {"gzip": (1, 3, 9), "zstd": (1, 3, 19)}
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LAST_BLOCK: Final = b"\x03\x00"
"""An empty block that ends a deflate stream: so no block needs to know that it is the last."""
_MAGIC: Final = {
    "gzip": b"\x1f\x8b\x08",
    "zstd": b"\x28\xb5\x2f\xfd",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
}
_TYPES: Final[dict[tuple[Format, bool], str]] = {
    ("none", False): media_types.OCI_LAYER,
    ("gzip", False): media_types.OCI_LAYER_GZIP,
    ("zstd", False): media_types.OCI_LAYER_ZSTD,
    ("none", True): media_types.DOCKER_LAYER,
    ("gzip", True): media_types.DOCKER_LAYER_GZIP,
}


@dataclass(frozen=True, slots=True)
class Compression:
    """How layers are compressed. ``level`` is the compressor's own; None for ``none``."""

    format: Format
    level: int | None = None

    def __post_init__(self) -> None:
        if self.format == "none":
            if self.level is not None:
                raise ValueError("none has no level: write none alone")
            return
        least, usual, most = _LEVELS[self.format]
        if self.level is None:
            object.__setattr__(self, "level", usual)
        elif not least <= self.level <= most:
            raise ValueError(f"{self.format} has levels {least} to {most}, not {self.level}")

    @classmethod
    def parse(cls, text: str) -> Compression:
        """``gzip``, ``gzip:6``, ``zstd``, ``zstd:3`` or ``none``. Raises `ValueError` that says what to write."""
        name, colon, level = text.partition(":")
        if name not in ("gzip", "zstd", "none"):
            raise ValueError(f"{quoted(text)} is no compression: write gzip, zstd or none, such as gzip:6 or zstd:3")
        if colon and not (level.isascii() and level.isdigit() and len(level) <= 2):
            raise ValueError(f"{quoted(text)} has no level after the colon: write a number, such as {name}:3")
        return cls(cast(Format, name), int(level) if colon else None)

    @property
    def form(self) -> str:
        """All that the compressed bytes depend on besides the tar: two equal forms give the same digest."""
        if self.format == "none":
            return "none"
        version = (
            zlib_ng.ZLIBNG_RUNTIME_VERSION if self.format == "gzip" else ".".join(map(str, zstd.zstd_version_info))
        )
        return f"{self.format}:{self.level}/{version}/{_LAYOUT}"

    def media_type(self, *, docker: bool = False) -> str:
        """Of a layer in an OCI manifest, or in one of Docker's, which have none for zstd: `ValueError`."""
        try:
            return _TYPES[self.format, docker]
        except KeyError:
            raise ValueError("Docker's manifests have no media type for zstd: write an OCI manifest") from None

    def __str__(self) -> str:
        return self.format if self.level is None else f"{self.format}:{self.level}"


def compression_of(media_type: str) -> Format:
    """By the end of a layer's media type: OCI's ``+gzip`` and ``+zstd``, Docker's ``.gzip`` and ``.zstd``."""
    name = media_types.essence(media_type)
    if name.endswith(("+gzip", ".gzip")):
        return "gzip"
    return "zstd" if name.endswith(("+zstd", ".zstd")) else "none"


def is_compressed(first_bytes: bytes) -> str | None:
    """``gzip``, ``zstd``, ``bzip2`` or ``xz``, by the first six bytes; None for anything else, such as a tar."""
    return next((name for name, magic in _MAGIC.items() if first_bytes.startswith(magic)), None)


async def compress(
    compression: Compression, pieces: AsyncIterator[bytes], *, workers: int | None = None
) -> AsyncIterator[bytes]:
    """``pieces`` compressed, in pieces of at most about a block. ``none`` passes them on.

    Holds ``workers`` + 2 blocks and what they became; ``pieces`` is asked for no more than that, and ended in any case.
    ``workers``: threads, by default one a core, at most `MAX_WORKERS`.
    """
    async with closing(pieces):
        if compression.format == "none":
            async for piece in pieces:
                yield piece
            return
        assert compression.level is not None
        threads = workers or min(_cores(), MAX_WORKERS)
        if compression.format == "gzip":
            blocks = _gzip(compression.level, pieces, threads)
        else:
            blocks = _zstd(compression.level, pieces, threads)
        async with closing(blocks):
            async for block in blocks:
                yield block


async def decompress(pieces: AsyncIterator[bytes], *, most: int, what: str = "the layer") -> AsyncIterator[bytes]:
    """What gzip, zstd, bzip2 or xz made of ``pieces``, in pieces of at most 1 MiB; what is not compressed as it is.

    Raises `SourceDamaged` where the bytes are cut short or damaged, or give more than ``most`` bytes. ``pieces`` is
    ended in any case. ``what`` is what messages call it.
    """
    given = 0
    async with closing(pieces):
        head = b""
        async for piece in pieces:
            head += piece
            if len(head) >= 6:
                break
        kind = is_compressed(head)
        output = _whole(head, pieces) if kind is None else _inflated(kind, head, pieces, what)
        async with closing(output):
            async for piece in output:
                given += len(piece)
                if given > most:
                    raise SourceDamaged(f"{what} has more than {most:,} bytes when it is decompressed: refused")
                yield piece


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


async def _blocks(pieces: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """The same bytes in blocks of ``size``; the last is shorter, and never empty."""
    held: list[bytes] = []
    length = 0
    async for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length < size:
            continue
        joined = b"".join(held)
        whole = length - length % size
        for start in range(0, whole, size):
            yield joined[start : start + size]
        held = [joined[whole:]]
        length -= whole
    if length:
        yield b"".join(held)


async def _ordered(
    jobs: AsyncIterator[Callable[[], tuple[bytes, int, int]]], threads: int
) -> AsyncIterator[tuple[bytes, int, int]]:
    """The results of jobs, in their order, of which ``threads`` run at once and two more wait or have ended."""
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(threads, thread_name_prefix="compress")
    running: deque[asyncio.Future[tuple[bytes, int, int]]] = deque()
    try:
        async for job in jobs:
            running.append(loop.run_in_executor(executor, job))
            while running and (len(running) >= threads + 2 or running[0].done()):
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for job_left in running:
            job_left.cancel()
        # A thread in the middle of a block ends by itself, soon; nobody waits for what it makes.
        executor.shutdown(wait=False, cancel_futures=True)


async def _gzip(level: int, pieces: AsyncIterator[bytes], threads: int) -> AsyncIterator[bytes]:
    async def jobs() -> AsyncIterator[Callable[[], tuple[bytes, int, int]]]:
        before = b""
        async for block in _blocks(pieces, GZIP_BLOCK):
            yield _Deflate(level, block, before)
            before = block[-_DICTIONARY:]

    checksum = length = 0
    yield _GZIP_HEADER
    async with closing(_ordered(jobs(), threads)) as results:
        async for data, check, size in results:
            checksum = zlib_ng.crc32_combine(checksum, check, size)
            length += size
            yield data
    yield _LAST_BLOCK + checksum.to_bytes(4, "little") + (length % 2**32).to_bytes(4, "little")


async def _zstd(level: int, pieces: AsyncIterator[bytes], threads: int) -> AsyncIterator[bytes]:
    async def jobs() -> AsyncIterator[Callable[[], tuple[bytes, int, int]]]:
        empty = True
        async for block in _blocks(pieces, ZSTD_BLOCK):
            yield _Frame(level, block)
            empty = False
        if empty:
            yield _Frame(level, b"")

    async with closing(_ordered(jobs(), threads)) as results:
        async for data, _, _ in results:
            yield data


@dataclass(frozen=True, slots=True)
class _Deflate:
    """One block of a gzip member: what it became, its CRC-32, its size."""

    level: int
    block: bytes
    before: bytes

    def __call__(self) -> tuple[bytes, int, int]:
        # A compressor for each block: one that is used again may give other bytes (zlib-ng issue 2100).
        preset = {"zdict": self.before} if self.before else {}
        deflate = zlib_ng.compressobj(self.level, zlib_ng.DEFLATED, -15, 8, zlib_ng.Z_DEFAULT_STRATEGY, **preset)
        data = deflate.compress(self.block) + deflate.flush(zlib_ng.Z_SYNC_FLUSH)
        return data, zlib_ng.crc32(self.block), len(self.block)


@dataclass(frozen=True, slots=True)
class _Frame:
    level: int
    block: bytes

    def __call__(self) -> tuple[bytes, int, int]:
        return zstd.compress(self.block, self.level), 0, len(self.block)


class _Decompressor(Protocol):
    """What zlib, zstd, bz2 and lzma have in common once gzip's is wrapped."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """zlib's decompressor with the others' habit of keeping what it has not used."""

    def __init__(self) -> None:
        self._inflate = zlib_ng.decompressobj(31)
        self._more = False

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.eof and not self._more and not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        output = self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)
        # A full piece may have left bytes inside zlib, though all input is used.
        self._more = len(output) == max_length
        return output


def _zstd_decompressor() -> _Decompressor:
    return zstd.ZstdDecompressor()


_DECOMPRESSORS: Final[dict[str, Callable[[], _Decompressor]]] = {
    "gzip": _Gunzip,
    "zstd": _zstd_decompressor,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=256 * 1024 * 1024),
}
_ERRORS: Final = (cast(type[Exception], zlib_ng.error), zstd.ZstdError, lzma.LZMAError, OSError, EOFError, ValueError)
"""What decompressors raise. bz2 raises OSError and ValueError."""


async def _whole(head: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if head:
        yield head
    async for piece in pieces:
        yield piece


async def _inflated(kind: str, head: bytes, pieces: AsyncIterator[bytes], what: str) -> AsyncIterator[bytes]:
    inflater = _Inflater(kind, what)
    inflater.feed(head)
    while True:
        while output := await in_thread(inflater.step):
            yield output
        try:
            inflater.feed(await anext(pieces))
        except StopAsyncIteration:
            break
    if not inflater.at_end:
        raise SourceDamaged(f"the {kind} data of {what} ends too early: it was cut short")


class _Inflater:
    """One stream after another: members of gzip, frames of zstd, streams of bzip2 and xz."""

    def __init__(self, kind: str, what: str) -> None:
        self._kind = kind
        self._what = what
        self._stream: _Decompressor | None = _DECOMPRESSORS[kind]()
        self._input = b""
        self._start = 0
        self._padding = False

    @property
    def at_end(self) -> bool:
        """Whether the last stream has ended, once ``step`` gives nothing."""
        return self._stream is None

    def feed(self, data: bytes) -> None:
        """After ``step`` has given nothing."""
        self._input, self._start = data, 0

    def step(self) -> bytes:
        """At most a piece: a few bytes can become thousands as many. Empty: more input is needed.

        Raises `SourceDamaged`.
        """
        output: list[bytes] = []
        room = _PIECE
        while room:
            hungry = self._stream is None or self._stream.needs_input
            if hungry and self._start == len(self._input):
                break
            if self._stream is None and not self._next_stream():
                break
            assert self._stream is not None
            # A slice at a time: each stream's end costs a copy of what is behind it.
            data = self._input[self._start : self._start + _SLICE] if hungry else b""
            try:
                part = self._stream.decompress(data, room)
            except _ERRORS as error:
                raise SourceDamaged(f"the {self._kind} data of {self._what} is damaged: {error}") from error
            self._start += len(data)
            if self._stream.eof:
                self._start -= len(self._stream.unused_data)
                self._stream = None
            output.append(part)
            room -= len(part)
        return b"".join(output)

    def _next_stream(self) -> bool:
        """Begins it; False where only padding is left: tools fill up with zeros after the last stream."""
        if self._padding or self._input[self._start] == 0:
            self._padding = True
            if self._input[self._start :].strip(b"\0"):
                raise SourceDamaged(f"{self._what} has other bytes behind its {self._kind} data")
            self._start = len(self._input)
            return False
        self._stream = _DECOMPRESSORS[self._kind]()
        return True
