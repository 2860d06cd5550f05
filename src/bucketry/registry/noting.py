"""The hash of an upload and the checkpoints it leaves in passing: kept in the session, published with the blob."""

from __future__ import annotations

import msgspec

from bucketry import hashing
from bucketry.hashing import Checkpoints, Hasher, NotingHasher
from bucketry.registry.sessions import Session

_STATE = 32
"""Bytes of a chaining value of SHA-256."""


class Hashes:
    """Makes the hashers of a registry. ``segment``: bytes between two checkpoints."""

    def __init__(self, *, segment: int, native: bool) -> None:
        self.native = native
        self._segment = segment

    @property
    def resumable(self) -> bool:
        """Whether a hash can be taken up in the middle here."""
        return self.native and hashing.resumable()

    def new(self, algorithm: str) -> Hasher:
        return NotingHasher(hashing.new(algorithm, native=self.native), self._segment)

    def restored(self, session: Session) -> Hasher | None:
        """The hash of a session's bytes; None where it was not kept, or cannot be taken up here.

        Without the states of the bytes before it notes nothing: a blob without checkpoints is as good as any.
        """
        if session.hash is None:
            return None
        try:
            hasher = hashing.restore(session.algorithm, session.hash, native=self.native)
        except hashing.NotResumable:
            return None
        if session.states is None or not session.segment:
            return hasher
        return NotingHasher(hasher, session.segment, session.states)


def kept(session: Session, hasher: Hasher, size: int) -> Session:
    """The session with a hash of its ``size`` bytes: all of it, or nothing where it has not seen every byte."""
    whole = hasher.length == size
    noting = hasher if whole and isinstance(hasher, NotingHasher) else None
    return msgspec.structs.replace(
        session,
        algorithm=hasher.algorithm,
        hash=hasher.state() if whole else None,
        segment=0 if noting is None else noting.segment,
        states=None if noting is None else noting.states(),
    )


def checkpoints(hasher: Hasher) -> Checkpoints | None:
    """Those of the bytes so far as a whole blob; None where there are none, or none are needed."""
    noted = hasher.checkpoints() if isinstance(hasher, NotingHasher) else None
    return None if noted is None or noted.count == 1 else noted


def to_keep(given: Checkpoints, segment: int) -> Checkpoints | None:
    """What is stored of a client's checkpoints that held: as this registry's own where that costs nothing."""
    best = coarser(given, segment)
    return None if best.count == 1 else best


def coarser(given: Checkpoints, segment: int) -> Checkpoints:
    """The same list with the longer ``segment`` where that only leaves states out; else as it is."""
    every = segment // given.segment
    if every < 2 or segment % given.segment:
        return given
    count = max(1, -(-given.size // segment))
    ends = range(every - 1, every * (count - 1), every)
    states = b"".join(given.states[end * _STATE : (end + 1) * _STATE] for end in ends)
    return Checkpoints(given.digest, given.size, segment, states)
