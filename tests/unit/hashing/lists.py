"""Lists of checkpoints made by the oracle alone, and the blobs that these tests try them on."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tests.unit.hashing.reference import Reference

from bucketry.hashing import Buffer, Checkpoints, NotingHasher, new

REFERENCE = Reference("sha256")

native = pytest.mark.usefixtures("native")
# The fixture only asks whether libcrypto is there, which does not change between examples.
examples = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
segments = st.sampled_from([64, 128, 192])
blobs = st.one_of(
    st.binary(max_size=700),
    st.builds(lambda n, seed: random.Random(seed).randbytes(64 * n), st.integers(0, 10), st.integers(0, 9)),
)
long_blobs = st.builds(lambda n, seed: random.Random(seed).randbytes(n), st.integers(193, 900), st.integers(0, 99))


def pattern(size: int) -> bytes:
    return bytes(n % 251 for n in range(size))


def listed(blob: bytes, segment: int) -> Checkpoints:
    """The list of a blob, by the oracle alone."""
    states, chain = b"", REFERENCE.initial
    for at in range(0, len(blob), segment):
        if at + segment < len(blob):
            chain = REFERENCE.chain(chain, blob[at : at + segment])
            states += chain
    return Checkpoints(hashlib.sha256(blob).hexdigest(), len(blob), segment, states)


def cut(checkpoints: Checkpoints, blob: bytes) -> list[bytes]:
    """What a peer gives for each segment of the list; for the last, all it has."""
    bounds = [checkpoints.bounds(i) for i in range(checkpoints.count)]
    return [*(blob[start:stop] for start, stop in bounds[:-1]), blob[bounds[-1][0] :]]


def passes(checkpoints: Checkpoints, i: int, *pieces: Buffer) -> bool:
    check = checkpoints.check(i)
    for piece in pieces:
        check.update(piece)
    return check.holds()


def failing(checkpoints: Checkpoints, blob: bytes) -> list[int]:
    """The segments that do not hold."""
    return [i for i, data in enumerate(cut(checkpoints, blob)) if not passes(checkpoints, i, data)]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def noted(blob: Buffer, segment: int) -> Checkpoints:
    hasher = NotingHasher(new("sha256"), segment)
    hasher.update(blob)
    found = hasher.checkpoints()
    assert found is not None
    return found
