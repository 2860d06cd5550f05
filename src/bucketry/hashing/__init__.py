"""Hashes that can be stored and taken up again, and checked by many. Pure: no I/O beyond loading libcrypto, no asyncio.

Here ``resumable`` is the function; the module of that name is in ``sys.modules`` alone.
"""

from __future__ import annotations

from bucketry.hashing.checkpoints import (
    MAX_ENCODED,
    MAX_SEGMENT,
    MAX_SEGMENTS,
    MEDIA_TYPE,
    SEGMENT,
    Checkpoints,
    NotingHasher,
    SegmentCheck,
)
from bucketry.hashing.resumable import (
    ALGORITHMS,
    MAX_LENGTH,
    Buffer,
    Hasher,
    NotResumable,
    from_chain,
    new,
    restore,
    resumable,
)

__all__ = [
    "ALGORITHMS",
    "MAX_ENCODED",
    "MAX_LENGTH",
    "MAX_SEGMENT",
    "MAX_SEGMENTS",
    "MEDIA_TYPE",
    "SEGMENT",
    "Buffer",
    "Checkpoints",
    "Hasher",
    "NotResumable",
    "NotingHasher",
    "SegmentCheck",
    "from_chain",
    "new",
    "restore",
    "resumable",
]
