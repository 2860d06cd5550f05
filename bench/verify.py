"""``python -m bench.verify``: one blob's SHA-256 by hashlib, in one pass, against its checkpoints by threads.

In memory, so that nothing but hashing is measured. bench.results has its words for servers: here the peer is
hashlib.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import re
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench.layers import MIB
from bench.results import NO_TARGET, Row, Target, table
from bucketry.hashing import SEGMENT, Checkpoints, NotingHasher, new, resumable

_TARGET = Target(ratio=1.7)
_NOTE = "the peer is hashlib, serial, over the same bytes in memory; each round takes all of them in turn"
_PIECE = 16 * MIB
"""Bytes that are random; the rest repeats them at other addresses, which is all that a cache cares for."""


def main() -> int:
    arguments = _parse()
    if not resumable():
        print("bench: no usable libcrypto, without which there are no checkpoints", file=sys.stderr)
        return 2
    size: int = arguments.size * MIB
    cores = _cores()
    facts = {
        "machine": f"{cores} cores, {_cpu()}, {platform.system()} {platform.release()}",
        "load": f"{os.getloadavg()[0]:.2f} in the last minute, as this began",
        "with": f"Python {platform.python_version()}, its hashlib on {ssl.OPENSSL_VERSION}",
        "sizes": f"{arguments.size} MiB in segments of {SEGMENT // MIB} MiB, {arguments.rounds} rounds; medians, and "
        "[least-most] of the rounds",
    }
    for name, fact in facts.items():
        print(f"{name.ljust(8)}  {fact}")
    print(flush=True)
    blob = _blob(size)
    checkpoints = _noted(blob)
    facts["forgery"] = _forgery(checkpoints, blob)

    began, busy = time.monotonic(), _busy()
    threads = [1, 2, *([cores] if cores > 2 else [])]
    peer: list[float] = []
    noting: list[float] = []
    rates: dict[int, list[float]] = {count: [] for count in threads}
    for _ in range(arguments.rounds):
        peer.append(_rate(size, lambda: hashlib.sha256(blob).hexdigest() == checkpoints.digest))
        noting.append(_rate(size, lambda: _noted(blob) == checkpoints))
        for count in threads:
            rates[count].append(_rate(size, partial(_verify, checkpoints, blob, count)))
    rows = _rows(peer, noting, rates, cores)
    facts["others"] = _others(time.monotonic() - began, busy, _busy())
    print(table(rows))
    print(f"\n{facts['forgery']}\n{facts['others']}", flush=True)
    if arguments.json is not None:
        report = {"facts": facts, "rows": [row.as_dict() for row in rows]}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.verify", description="Compares verification from SHA-256 checkpoints with hashlib."
    )
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the blob, in memory (default: 1024)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON too")
    arguments = parser.parse_args()
    if arguments.size < 1 or arguments.rounds < 1:
        parser.error("--size and --rounds: at least 1")
    return arguments


def _rows(
    peer: Sequence[float], noting: Sequence[float], rates: Mapping[int, Sequence[float]], cores: int
) -> Sequence[Row]:
    def row(name: str, values: Sequence[float], target: Target = NO_TARGET) -> Row:
        return Row(name, "MiB/s", peer, values, target, more_is_better=True, note=_NOTE)

    return [
        row("hashing in one pass, checkpoints noted", noting),
        *(
            row(
                f"verification from checkpoints, {count} thread{'s' if count > 1 else ''}",
                values,
                _TARGET if count == 2 <= cores else NO_TARGET,
            )
            for count, values in rates.items()
        ),
    ]


def _blob(size: int) -> bytearray:
    piece = random.Random(1).randbytes(min(size, _PIECE))
    blob = bytearray(piece) * -(-size // len(piece))
    del blob[size:]
    return blob


def _noted(blob: bytearray) -> Checkpoints:
    hasher = NotingHasher(new("sha256"))
    hasher.update(blob)
    found = hasher.checkpoints()
    assert found is not None, "libcrypto is usable"
    return found


def _verify(checkpoints: Checkpoints, blob: bytearray, threads: int) -> bool:
    """Whether all segments hold. Each thread takes the next segment as soon as it is done with one."""
    with memoryview(blob) as view, ThreadPoolExecutor(threads) as pool:
        return all(pool.map(lambda i: _holds(checkpoints, view, i), range(checkpoints.count)))


def _holds(checkpoints: Checkpoints, view: memoryview, i: int) -> bool:
    start, stop = checkpoints.bounds(i)
    check = checkpoints.check(i)
    with view[start:stop] as data:
        check.update(data)
    return check.holds()


def _forgery(checkpoints: Checkpoints, blob: bytearray) -> str:
    """That what is measured is a verification: it finds a bit that was flipped."""
    at = len(blob) // 3
    blob[at] ^= 1
    if _verify(checkpoints, blob, 2):
        raise AssertionError(f"a flipped bit at byte {at} was not found")
    blob[at] ^= 1
    return f"A flipped bit at byte {at} was found, before anything was measured."


def _rate(size: int, right: Callable[[], bool]) -> float:
    """MiB a second."""
    began = time.perf_counter()
    if not right():
        raise AssertionError("the bytes are right, and were said to be wrong")
    return size / MIB / (time.perf_counter() - began)


def _busy() -> float | None:
    """CPU seconds that other processes have taken of all cores since the machine started; None where not told."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _idle, _waiting, *interrupts_and_stolen = map(int, fields[1:9])
    ticks = user + nice + system + sum(interrupts_and_stolen)
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def _others(seconds: float, before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "What other processes took meanwhile is not known here."
    share = max(0.0, 100 * (after - before) / (seconds * (os.cpu_count() or 1)))
    return f"Meanwhile other processes took {share:.0f}% of the machine: above a few, the ratios say little."


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _cpu() -> str:
    """The model, and whether it has instructions for SHA, on which the rates depend most."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    instructions = re.search(r"\b(sha_ni|sha2)\b", text) is not None
    return f"{model[1] if model else platform.machine()} ({'with' if instructions else 'without'} SHA instructions)"


if __name__ == "__main__":
    sys.exit(main())
