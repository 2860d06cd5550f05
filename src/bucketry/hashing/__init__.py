"""Hashes that can be stored and taken up again. Pure: no I/O beyond loading libcrypto, no asyncio."""

from __future__ import annotations

from bucketry.hashing.resumable import (
    ALGORITHMS,
    MAX_LENGTH,
    Buffer,
    Hasher,
    NotResumable,
    from_chain,
    new,
    restore,
)

__all__ = [
    "ALGORITHMS",
    "MAX_LENGTH",
    "Buffer",
    "Hasher",
    "NotResumable",
    "from_chain",
    "new",
    "restore",
]
