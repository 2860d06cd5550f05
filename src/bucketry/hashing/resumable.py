"""SHA-256 and SHA-512 whose state can be stored, and taken up by another process or machine.

Two implementations give the same digests:

- *native*: libcrypto's SHA-2 through ctypes (`bucketry.hashing.libcrypto`), its state in the open;
- *fallback*: `hashlib`, where no usable libcrypto was found. Its ``state()`` and ``chain()`` give None.

``new(algorithm)`` takes the native one where there is one. ``native=False`` asks for the fallback: so tests
see what a machine without libcrypto sees. `bucketry.hashing.state` describes the stored form of a state.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from typing import TYPE_CHECKING, Protocol

from bucketry.hashing.state import (
    ALGORITHMS,
    MAX_LENGTH,
    Buffer,
    between_blocks,
    parameters,
    too_long,
    unpack,
)

if TYPE_CHECKING:
    from bucketry.hashing.libcrypto import Engine

__all__ = [
    "ALGORITHMS",
    "MAX_LENGTH",
    "Buffer",
    "Hasher",
    "NotResumable",
    "from_chain",
    "new",
    "restore",
    "resumable",
]


class NotResumable(RuntimeError):
    """A good state or chaining value that cannot be taken up here, for want of a usable libcrypto.

    Hash the bytes again from the first one, or take it up on a machine where `resumable` is true.
    """


class Hasher(Protocol):
    """A hash under way. Threads may share one: its calls run one after the other."""

    @property
    def algorithm(self) -> str:
        """``sha256`` or ``sha512``."""
        ...

    @property
    def length(self) -> int:
        """Bytes hashed so far, those before a `restore` or a `from_chain` included."""
        ...

    def update(self, data: Buffer) -> None:
        """Hash ``data`` where it lies, without the GIL.

        BufferError for a memoryview that is not contiguous, ValueError where ``length`` would pass
        `MAX_LENGTH`; neither changes the hash.
        """
        ...

    def hexdigest(self) -> str:
        """The digest of the bytes so far, in lower-case hex. More updates may follow."""
        ...

    def state(self) -> bytes | None:
        """All that is needed to go on elsewhere (`restore`), at most 205 bytes; None in the fallback."""
        ...

    def chain(self) -> bytes | None:
        """The chaining value, 32 or 64 bytes (`from_chain`); None in the fallback.

        ValueError, in the fallback too, where ``length`` is not a multiple of the block in `ALGORITHMS`.
        """
        ...

    def copy(self) -> Hasher:
        """The same hash so far; from here on the two are independent."""
        ...


def resumable() -> bool:
    """Whether states can be exported and taken up here. The first call looks for libcrypto and tests it."""
    return _engine() is not None


def new(algorithm: str, *, native: bool = True) -> Hasher:
    """A hash of nothing yet. ``native=False``: the fallback, even where libcrypto is usable.

    ValueError for an algorithm that is not in `ALGORITHMS`.
    """
    parameters(algorithm)
    engine = _engine() if native else None
    return _Fallback(algorithm) if engine is None else engine.new(algorithm)


def restore(algorithm: str, state: bytes, *, native: bool = True) -> Hasher:
    """Go on from what ``state()`` gave, in whatever process and on whatever machine.

    ValueError for a state that is malformed, damaged, of another algorithm or of another version.
    `NotResumable` for a good state where `resumable` is false, or with ``native=False``.
    """
    chain, length, pending = unpack(algorithm, state)
    return _resume(algorithm, chain, length, pending, native=native)


def from_chain(algorithm: str, chain: bytes, length: int, *, native: bool = True) -> Hasher:
    """Go on from the chaining value after ``length`` bytes, a multiple of the block size.

    ValueError for a chaining value or a length that cannot be; at length 0 that is any but the initial value.
    `NotResumable` where `resumable` is false, or with ``native=False``.
    """
    _, block, chain_size = parameters(algorithm)
    if len(chain) != chain_size:
        raise ValueError(f"a {algorithm} chaining value is {chain_size} bytes, not {len(chain)}")
    if length > MAX_LENGTH:
        raise too_long(algorithm, length)
    if length < 0 or length % block:
        raise between_blocks(algorithm, length)
    return _resume(algorithm, chain, length, b"", native=native)


def _resume(algorithm: str, chain: bytes, length: int, pending: bytes, *, native: bool) -> Hasher:
    engine = _engine() if native else None
    if engine is None:
        raise NotResumable(f"no usable libcrypto to resume a {algorithm} hash with: hash it from the start")
    return engine.resume(algorithm, chain, length, pending)


_loading = threading.Lock()


def _engine() -> Engine | None:
    with _loading:  # the cache alone would let two threads load at once
        return _load()


@functools.cache
def _load() -> Engine | None:
    try:
        from bucketry.hashing import libcrypto
    except ImportError:  # a Python built without ctypes
        return None
    return libcrypto.load()


class _Fallback:
    """hashlib: the same digests, nothing to export."""

    __slots__ = ("_algorithm", "_hash", "_length", "_lock")

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self._length = 0
        self._lock = threading.Lock()

    @property
    def algorithm(self) -> str:
        return self._algorithm

    @property
    def length(self) -> int:
        with self._lock:
            return self._length

    def update(self, data: Buffer) -> None:
        with self._lock:
            self._hash.update(data)
            self._length += data.nbytes if isinstance(data, memoryview) else len(data)

    def hexdigest(self) -> str:
        with self._lock:
            return self._hash.hexdigest()

    def state(self) -> None:
        return None

    def chain(self) -> None:
        if self.length % ALGORITHMS[self._algorithm].block:
            raise between_blocks(self._algorithm, self.length)

    def copy(self) -> _Fallback:
        other = _Fallback(self._algorithm)
        with self._lock:
            other._hash, other._length = self._hash.copy(), self._length
        return other
