"""How fast layers are compressed before a push, and how small they become: ``python -m bench.compression``.

The peer is Python's zlib at level 6, the level of docker's own gzip, on one thread, as docker compresses a layer.
The data is a tar of this machine's programs, libraries and texts, or the tar that ``--tar`` names.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import os
import sysconfig
import tarfile
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.layers import MIB
from bucketry.transfer.compress import Compression, compress

WAYS: Final = ("gzip:1", "gzip:2", "gzip:3", "gzip:4", "gzip:6", "zstd:1", "zstd:3", "zstd:9")
PEER: Final = "zlib, level 6"
FOLDERS: Final = ("/usr/lib", "/usr/bin", "/usr/share", sysconfig.get_path("stdlib"))
_LARGEST: Final = 32 * MIB
"""Bytes of a file that is taken: one large file should not be all there is."""


@dataclass(frozen=True, slots=True)
class Run:
    """``seconds`` of wall-clock time, ``cpu`` seconds of all threads, for ``read`` bytes that became ``written``."""

    seconds: float
    cpu: float
    read: int
    written: int
    digest: str = ""

    @property
    def rate(self) -> float:
        return self.read / MIB / self.seconds

    @property
    def per_cpu(self) -> float:
        """MiB a second of one core that has nothing else to do: other load changes it little."""
        return self.read / MIB / self.cpu

    @property
    def ratio(self) -> float:
        return self.read / self.written


def files(size: int) -> Iterator[Path]:
    """Files of about ``size`` bytes: as many from each folder, in the order of their names."""
    for folder in FOLDERS:
        left = size // len(FOLDERS)
        for parent, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                path = Path(parent, name)
                if left > 0 and path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                    length = path.stat().st_size
                    if length < _LARGEST:
                        left -= length
                        yield path
            if left <= 0:
                break


def sample(size: int) -> bytes:
    """A tar of this machine's files, cut at ``size`` bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in files(size):
            archive.add(path, recursive=False)
    return packed.getvalue()[:size]


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), MIB):
        yield data[start : start + MIB]


async def run(how: str, data: bytes, threads: int) -> Run:
    hasher = hashlib.sha256()
    written = 0
    wall, cpu = time.perf_counter(), time.process_time()
    chunks = [chunk async for chunk in compress(Compression.parse(how), pieces(data), workers=threads)]
    took = time.perf_counter() - wall, time.process_time() - cpu
    for chunk in chunks:
        written += len(chunk)
        hasher.update(chunk)
    return Run(*took, read=len(data), written=written, digest=hasher.hexdigest())


def peer(data: bytes) -> Run:
    """Of an eighth of the data, in slices from all of it: the peer is slow."""
    sliced = [data[start : start + MIB] for start in range(0, len(data), 8 * MIB)]
    compressor = zlib.compressobj(6, zlib.DEFLATED, 31)
    wall, cpu = time.perf_counter(), time.process_time()
    written = sum(len(compressor.compress(piece)) for piece in sliced) + len(compressor.flush())
    return Run(time.perf_counter() - wall, time.process_time() - cpu, sum(map(len, sliced)), written)


def same_slices(data: bytes) -> bytes:
    """What the peer compresses, to compare ratios of the same bytes."""
    return b"".join(data[start : start + MIB] for start in range(0, len(data), 8 * MIB))


async def measure(data: bytes, rounds: int) -> None:
    cores = len(os.sched_getaffinity(0))
    part = same_slices(data)
    theirs = max((peer(data) for _ in range(rounds)), key=lambda one: one.rate)
    print(f"{len(data) / MIB:,.0f} MiB, {cores} cores, best of {rounds}; ratio to the peer's: of the same bytes\n")
    print(f"{'':14} {'1 thread':>14} {f'{cores} threads':>14} {'MiB a CPU s':>12} {'ratio':>7} {'to the peer':>12}")
    print(f"{PEER:14} {theirs.rate:8.0f} MiB/s {'':14} {theirs.per_cpu:12.0f} {theirs.ratio:7.2f}")
    for how in WAYS:
        one = max([await run(how, data, 1) for _ in range(rounds)], key=lambda each: each.rate)
        all_ = max([await run(how, data, cores) for _ in range(rounds)], key=lambda each: each.rate)
        if one.digest != all_.digest:
            raise SystemExit(f"{how} gave other bytes on {cores} threads")
        ratio = (await run(how, part, cores)).ratio / theirs.ratio
        print(
            f"{how:14} {one.rate:8.0f} MiB/s {all_.rate:8.0f} MiB/s {all_.per_cpu:12.0f} "
            f"{all_.ratio:7.2f} {ratio:11.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compression", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tar", type=Path, help="measure with the bytes of this file")
    parser.add_argument("--size", type=int, default=256, help="MiB of them (256)")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is measured (2)")
    options = parser.parse_args()
    size = options.size * MIB
    if options.tar is None:
        data = sample(size)
    else:
        with options.tar.open("rb") as file:
            data = file.read(size)
    asyncio.run(measure(data, options.rounds))


if __name__ == "__main__":
    main()
