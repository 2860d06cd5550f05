"""Layers for the benchmarks: random bytes that a seed and a size determine, made as they are sent, stored nowhere."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

BLOCK = 512 * KIB
"""Bytes of the largest piece."""

_POOL = 16 * MIB


@cache
def _pool() -> memoryview:
    return memoryview(random.Random("the bytes of all layers").randbytes(_POOL))


@dataclass(frozen=True, slots=True)
class Layer:
    """``size`` bytes. Its blocks are slices of one pool of random bytes, so making them costs next to nothing."""

    seed: str
    size: int

    def blocks(self) -> Iterator[memoryview]:
        """The bytes, in pieces of at most `BLOCK`."""
        pool = _pool()
        chance = random.Random(self.seed)
        left = self.size
        while left:
            size = min(left, BLOCK)
            begin = chance.randrange(_POOL - size)
            yield pool[begin : begin + size]
            left -= size

    def digest(self) -> str:
        return digest_of(self)


@cache
def digest_of(layer: Layer) -> str:
    """``sha256:…``"""
    hasher = hashlib.sha256()
    for block in layer.blocks():
        hasher.update(block)
    return f"sha256:{hasher.hexdigest()}"
