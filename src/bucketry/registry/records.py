"""The small JSON objects of bucket format 1: what a blob's record and a repository's link to it say."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

import msgspec

from bucketry.store.contract import Corrupt


class BlobState(Enum):
    LIVE = "live"
    CONDEMNED = "condemned"
    """The collector found no link and will look again: whoever links it meanwhile makes it live (invariant 3)."""
    GONE = "gone"
    """The bytes may be deleted at any time: as good as absent."""


class BlobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``blobs/<alg>/<hh>/<hex>``: where the bytes of a digest are. Changed by compare-and-swap only."""

    state: BlobState
    size: int
    data: str
    """The key of the bytes."""
    nonce: str
    """New with every write, so that a write whose answer was lost can be told from another's (invariant 7)."""
    created: float
    segment: int = 0
    """Bytes between SHA-256 checkpoints; 0 where the blob has none."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """``repos/<name>/~blobs/<alg>/<hex>``: this repository may serve this blob. Its age is its lease."""

    size: int
    data: str
    nonce: str


class FormatFile(msgspec.Struct, frozen=True, kw_only=True):
    """``bucketry.json``: made once."""

    format: int
    registry: str
    """A random id. It keys the check that makes session ids unguessable, so it is not public."""
    created: float


T = TypeVar("T")


def encode(record: msgspec.Struct) -> bytes:
    return msgspec.json.encode(record)


def decode(body: bytes, kind: type[T], key: str) -> T:
    """Raises `Corrupt`, which names the key, for anything that is not a ``kind``."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise Corrupt(f"{key} is not a valid {kind.__name__}: {error}. Was it written by another program?") from error
