"""Chunks: what a request brings of a blob, and what is checked of it whatever the store says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from bucketry.oci import Digest
from bucketry.oci.errors import DigestMismatch, RangeInvalid, SizeInvalid


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an upload stands: ``offset`` bytes are held; ``stored`` says whether the store has the session yet."""

    session_id: str
    offset: int
    stored: bool


@dataclass(frozen=True, slots=True)
class Chunk:
    """A body and what the request says of it.

    ``start`` is where it begins in the blob (None: where the session stands); ``length`` its bytes (None: unknown).
    """

    body: AsyncIterator[bytes]
    length: int | None = None
    start: int | None = None


def check_length(chunk: Chunk, received: int) -> None:
    """Raises `SizeInvalid`."""
    if chunk.length is not None and received != chunk.length:
        raise SizeInvalid(f"the body was announced with {chunk.length} bytes and had {received}")


def check_start(chunk: Chunk, offset: int) -> None:
    """Raises `RangeInvalid`."""
    if chunk.start is not None and chunk.start != offset:
        raise RangeInvalid(
            f"the chunk begins at byte {chunk.start}, and the upload stands at {offset}: chunks go in order",
            offset=offset,
        )


def check_digest(digest: Digest, found: str) -> None:
    """Raises `DigestMismatch`."""
    if digest.hex != found:
        raise DigestMismatch(
            f"the bytes have the digest {digest.algorithm}:{found}, not {digest}: "
            "they changed on the way, or the digest is of other bytes. Nothing was kept under that digest.",
            detail={"expected": str(digest), "actual": f"{digest.algorithm}:{found}"},
        )
