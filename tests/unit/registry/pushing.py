"""The requests of a push, one by one, by Alice to one repository."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tests.unit.registry.helpers import (
    ALICE,
    PART,
    REPO,
    blob_bytes,
    bytes_of,
)

from bucketry.oci import Digest
from bucketry.registry import Chunk, Registry

Form: TypeAlias = Callable[[bytes], Chunk]

SMALL = blob_bytes(40)
LARGE = blob_bytes(5 * PART + 7)


def begin(registry: Registry, algorithm: str | None = None) -> str:
    return registry.uploads.begin(REPO, ALICE, algorithm).session_id


async def patch(registry: Registry, session: str, chunk: Chunk, *, continued: bool = False) -> int:
    return (await registry.uploads.append(REPO, ALICE, session, chunk, continued=continued)).offset


async def put(
    registry: Registry, session: str, digest: Digest, chunk: Chunk | None = None, *, continued: bool = True
) -> bytes:
    """The bytes of the blob that the commit published."""
    return await bytes_of(
        registry, await registry.uploads.commit(REPO, ALICE, session, digest, chunk, continued=continued)
    )


async def offset_of(registry: Registry, session: str) -> int:
    return (await registry.uploads.status(REPO, ALICE, session)).offset
