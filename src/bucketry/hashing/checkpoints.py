"""SHA-256 checkpoints: one blob's SHA-256 verified in any order and by many threads.

The chaining value of SHA-256 at every segment boundary is enough: a segment is right if it turns the value
before it into the value after it. The first value is the standard's, and the last segment must lead to the
digest. All segments right is exactly SHA-256 of the blob, whoever made the list: a forged one can only be
rejected. Some segments right is nothing, for a forger may choose the values between them. So bytes stay in
quarantine until every segment has passed.

    checkpoints = Checkpoints.parse(data)
    assert (checkpoints.digest, checkpoints.size) == (the digest and the size that are wanted)
    check = checkpoints.check(3)
    check.update(the bytes of checkpoints.bounds(3))
    check.holds()

docs/reference/sha256-checkpoints.md has the binary form, with test vectors.
"""

from __future__ import annotations

import re
import struct
import threading
from dataclasses import dataclass, field

from bucketry.hashing.resumable import Hasher, from_chain
from bucketry.hashing.state import ALGORITHMS, MAX_LENGTH, Buffer

__all__ = [
    "MAX_ENCODED",
    "MAX_SEGMENT",
    "MAX_SEGMENTS",
    "MEDIA_TYPE",
    "SEGMENT",
    "Checkpoints",
    "NotingHasher",
    "SegmentCheck",
]

MEDIA_TYPE = "application/vnd.bucketry.checkpoints.v1"
"""Of what `Checkpoints.encode` gives."""

SEGMENT = 8 * 1024 * 1024
"""Bytes between two checkpoints, unless asked otherwise: 4 KiB of states for each GiB."""

MAX_SEGMENT = 64 * 1024 * 1024
"""Bytes: the longest segment a list may have, so that one in memory is never absurd."""

MAX_SEGMENTS = 2**20
"""Segments in a list at most: 8 TiB of `SEGMENT`, and 32 MiB of states."""

_ALGORITHM = "sha256"
_BLOCK = ALGORITHMS[_ALGORITHM].block
_STATE = ALGORITHMS[_ALGORITHM].chain
_DIGEST = re.compile(r"[0-9a-f]{64}")

# The chaining value before the first byte (FIPS 180-4, section 5.3.3).
_INITIAL = bytes.fromhex("6a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19")

_MAGIC = b"SHA256C"
_VERSION = 1
_HEAD = struct.Struct(">7sBQQ32s")

MAX_ENCODED = _HEAD.size + _STATE * (MAX_SEGMENTS - 1)
"""Bytes: the longest `Checkpoints.encode`. Who fetches a list needs to read no more."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The states of one blob's SHA-256 at its segment boundaries.

    Nothing in it is to be trusted, and need not be: whoever uses it compares ``digest`` (and ``size``, where it
    is known) with those of the blob that is wanted, and takes no byte before `check` held for every segment.

    ValueError where the numbers do not fit together.
    """

    digest: str
    """The blob's SHA-256: 64 lower-case hex digits."""
    size: int
    """Bytes of the blob, at most `MAX_LENGTH`."""
    segment: int
    """Bytes of a segment, but for the last, which may be shorter: a multiple of 64, at most `MAX_SEGMENT`."""
    states: bytes = field(repr=False)
    """The chaining value after each segment but the last: ``32 * (count - 1)`` bytes."""

    def __post_init__(self) -> None:
        if _DIGEST.fullmatch(self.digest) is None:
            raise ValueError(f"not a SHA-256 in 64 lower-case hex digits: {self.digest[:80]!r}")
        if not 0 <= self.size <= MAX_LENGTH:
            raise ValueError(f"no SHA-256 of {self.size} bytes: 0 to {MAX_LENGTH}")
        _require_segment(self.segment)
        if self.count > MAX_SEGMENTS:
            raise ValueError(f"{self.count} segments of {self.segment} bytes: at most {MAX_SEGMENTS}")
        expected = _STATE * (self.count - 1)
        if len(self.states) != expected:
            raise ValueError(
                f"{len(self.states)} bytes of states: {self.size} bytes in segments of {self.segment} need {expected}"
            )

    @classmethod
    def parse(cls, data: bytes) -> Checkpoints:
        """What `encode` gave. ValueError says what is wrong with anything else."""
        if len(data) < _HEAD.size:
            raise ValueError(f"not SHA-256 checkpoints: {len(data)} bytes are too few")
        magic, version, size, segment, digest = _HEAD.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError("not SHA-256 checkpoints: they begin with other bytes")
        if version != _VERSION:
            raise ValueError(f"SHA-256 checkpoints of version {version}: only {_VERSION} is known here")
        return cls(digest.hex(), size, segment, bytes(data[_HEAD.size :]))

    def encode(self) -> bytes:
        """The form for files and wires, of type `MEDIA_TYPE`: ``56 + 32 * (count - 1)`` bytes."""
        head = _HEAD.pack(_MAGIC, _VERSION, self.size, self.segment, bytes.fromhex(self.digest))
        return head + self.states

    @property
    def count(self) -> int:
        """Segments, at least 1: an empty blob has one of 0 bytes."""
        return _count(self.size, self.segment)

    def bounds(self, i: int) -> tuple[int, int]:
        """Where segment ``i`` begins in the blob, and where it ends (exclusive). IndexError: no such segment."""
        if not 0 <= i < self.count:
            raise IndexError(f"no segment {i}: there are {self.count}")
        start = i * self.segment
        return start, min(start + self.segment, self.size)

    def check(self, i: int, *, native: bool = True) -> SegmentCheck:
        """A check of segment ``i`` that has seen nothing yet. Many may be under way at once, also of the same one.

        IndexError: no such segment. `NotResumable` where `resumable` is false, or with ``native=False``: hash the
        blob from its first byte there.
        """
        start, stop = self.bounds(i)
        before = self.states[(i - 1) * _STATE : i * _STATE] if i else _INITIAL
        hasher = from_chain(_ALGORITHM, before, start, native=native)
        last = i == self.count - 1
        after = bytes.fromhex(self.digest) if last else self.states[i * _STATE : (i + 1) * _STATE]
        return SegmentCheck(hasher, stop, after, last=last)


class SegmentCheck:
    """One segment of a blob against its `Checkpoints`. Made by `Checkpoints.check`.

    That it holds proves the segment only together with all the others.
    """

    __slots__ = ("_after", "_excess", "_hasher", "_last", "_stop")

    def __init__(self, hasher: Hasher, stop: int, after: bytes, *, last: bool) -> None:
        self._hasher = hasher
        self._stop = stop
        self._after = after
        self._last = last
        self._excess = False

    def update(self, data: Buffer) -> None:
        """Take the next bytes of the segment, where they lie, hashing without the GIL.

        With more than the segment has, it never holds. That is no error here, for it is a peer that decides how
        much it sends. BufferError for a memoryview that is not contiguous.
        """
        if self._hasher.length + _size(data) > self._stop:
            self._excess = True
        else:
            self._hasher.update(data)

    def holds(self) -> bool:
        """Whether all bytes of the segment were seen, no more, and they lead from its state to the next."""
        hasher = self._hasher.copy()  # of one moment, should another thread go on
        if self._excess or hasher.length != self._stop:
            return False
        reached = bytes.fromhex(hasher.hexdigest()) if self._last else hasher.chain()
        return reached == self._after


class NotingHasher:
    """A `Hasher` that notes SHA-256's chaining value at every multiple of ``segment`` bytes, in passing.

    It hashes what the hasher it is given hashes, whatever the algorithm, and has that one to itself. Nothing is
    noted (`states` and `checkpoints` are None) where that is not SHA-256, or is the fallback.

    ``states``: those noted before, for a hasher that goes on after ``length`` bytes: 32 for every boundary up
    to ``length``, one at exactly ``length`` included. Ignored where nothing is noted.

    ValueError for a segment that is not a multiple of 64 from 64 to `MAX_SEGMENT`, and for states that cannot be
    those of this hasher. Threads may share one: its calls run one after the other.
    """

    __slots__ = ("_hasher", "_lock", "_noted", "_segment")

    def __init__(self, hasher: Hasher, segment: int = SEGMENT, states: bytes = b"") -> None:
        _require_segment(segment)
        self._hasher = hasher
        self._segment = segment
        self._lock = threading.Lock()
        self._noted: bytearray | None = None
        # Only a state, unlike a chaining value, may be asked for at any length.
        if hasher.algorithm == _ALGORITHM and hasher.state() is not None:
            _require_states(hasher, segment, states)
            self._noted = bytearray(states)

    @property
    def algorithm(self) -> str:
        """``sha256`` or ``sha512``."""
        return self._hasher.algorithm

    @property
    def segment(self) -> int:
        """Bytes between two states."""
        return self._segment

    @property
    def length(self) -> int:
        """As `Hasher.length`."""
        with self._lock:
            return self._hasher.length

    def update(self, data: Buffer) -> None:
        """As `Hasher.update`: nothing is copied, and an error changes nothing."""
        with self._lock:
            if self._noted is None:
                self._hasher.update(data)
                return
            self._note()
            room = self._segment - self._hasher.length % self._segment
            size = _size(data)
            if size <= room:  # most updates: nothing to slice
                self._hasher.update(data)
                return
            with memoryview(data) as given:
                if not given.c_contiguous:
                    raise BufferError("what is hashed must be contiguous")
                with given.cast("B") as view:
                    at = 0
                    while at < size:
                        self._note()
                        with view[at : at + room] as piece:
                            self._hasher.update(piece)
                        at, room = at + room, self._segment

    def hexdigest(self) -> str:
        """As `Hasher.hexdigest`."""
        with self._lock:
            return self._hasher.hexdigest()

    def state(self) -> bytes | None:
        """As `Hasher.state`: of the hash alone. What was noted is stored beside it."""
        with self._lock:
            return self._hasher.state()

    def chain(self) -> bytes | None:
        """As `Hasher.chain`."""
        with self._lock:
            return self._hasher.chain()

    def states(self) -> bytes | None:
        """32 bytes for every boundary so far, one at exactly ``length`` included; None where nothing is noted."""
        with self._lock:
            return self._states()

    def checkpoints(self) -> Checkpoints | None:
        """Of the bytes so far as the whole blob.

        None where nothing is noted, and for more than `MAX_SEGMENTS` segments.
        """
        with self._lock:
            states, size, digest = self._states(), self._hasher.length, self._hasher.hexdigest()
        count = _count(size, self._segment)
        if states is None or count > MAX_SEGMENTS:
            return None
        # Where the blob ends at a boundary, the state there is none between segments: the digest says it.
        return Checkpoints(digest, size, self._segment, states[: _STATE * (count - 1)])

    def copy(self) -> NotingHasher:
        """The same hash and states so far; from here on the two are independent."""
        with self._lock:
            return NotingHasher(self._hasher.copy(), self._segment, self._states() or b"")

    def _states(self) -> bytes | None:
        if self._noted is None:
            return None
        self._note()
        return bytes(self._noted)

    def _note(self) -> None:
        """Note the boundary the hash is at, unless that was done.

        Whoever goes on from a boundary calls this first, so an interrupt behind an update loses no state.
        """
        assert self._noted is not None
        boundaries, beyond = divmod(self._hasher.length, self._segment)
        if not beyond and len(self._noted) < boundaries * _STATE:
            chain = self._hasher.chain()
            assert chain is not None, "a hasher with a state has a chaining value"
            self._noted += chain


def _count(size: int, segment: int) -> int:
    return max(1, -(-size // segment))


def _size(data: Buffer) -> int:
    return data.nbytes if isinstance(data, memoryview) else len(data)


def _require_segment(segment: int) -> None:
    if not 0 < segment <= MAX_SEGMENT or segment % _BLOCK:
        raise ValueError(f"no segments of {segment} bytes: a multiple of {_BLOCK}, {_BLOCK} to {MAX_SEGMENT}")


def _require_states(hasher: Hasher, segment: int, states: bytes) -> None:
    boundaries, beyond = divmod(hasher.length, segment)
    if len(states) != boundaries * _STATE:
        raise ValueError(
            f"{len(states)} bytes of states: {hasher.length} bytes hashed in segments of {segment} "
            f"need {boundaries * _STATE}"
        )
    if boundaries and not beyond and states[-_STATE:] != hasher.chain():
        raise ValueError("states of another hash: the last is not the chaining value of this one")
