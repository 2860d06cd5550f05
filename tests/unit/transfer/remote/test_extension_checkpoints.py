"""Checkpoints as a client asks for them: those that are of use, and those that are as good as none."""

from __future__ import annotations

import pytest
from aiohttp import web
from tests.unit.transfer.remote.parts_registry import BASE, Registry
from tests.unit.transfer.remote.scripted import Scripted, error

from bucketry.hashing import Checkpoints
from bucketry.oci import Descriptor, Digest
from bucketry.transfer import wire
from bucketry.transfer.remote import RemoteRepository

SEGMENT = 64 * 1024
BLOB_DATA = bytes(5 * SEGMENT + 17)


def listed(data: bytes = BLOB_DATA, segment: int = SEGMENT) -> bytes:
    """A list of the right form; its states are nobody's business here."""
    count = max(1, -(-len(data) // segment))
    return Checkpoints(Digest.of(data).hex, len(data), segment, bytes(32 * (count - 1))).encode()


def described(data: bytes = BLOB_DATA, algorithm: str = "sha256") -> Descriptor:
    return Descriptor(media_type="x/y", digest=str(Digest.of(data, algorithm)), size=len(data))


CHECKPOINTS = f"{BASE}/checkpoints/{described().digest}"


async def test_checkpoints_are_fetched(registry: Registry, repository: RemoteRepository) -> None:
    registry.server.on("GET", CHECKPOINTS, lambda: web.Response(body=listed(), content_type=wire.CHECKPOINTS_TYPE))

    assert await repository.blob(described()).checkpoints() == Checkpoints.parse(listed())


@pytest.mark.parametrize(
    "answer",
    [
        lambda: error(404, "BLOB_UNKNOWN", "none"),
        lambda: error(503, "UNAVAILABLE", "later"),
        lambda: error(403, "DENIED", "no"),
        lambda: web.Response(body=b""),
        lambda: web.Response(body=b"<html>"),
        lambda: web.Response(body=listed()[:-1]),
        lambda: web.Response(body=listed() + b"x"),
        lambda: web.Response(body=listed(bytes(5 * SEGMENT + 18))),
        lambda: web.Response(body=listed(b"x" * len(BLOB_DATA))),
        lambda: web.Response(body=listed(segment=SEGMENT // 2)),
        lambda: web.Response(body=bytes(10_000_000)),
    ],
)
async def test_checkpoints_that_are_of_no_use_are_none(
    registry: Registry, repository: RemoteRepository, answer: object
) -> None:
    registry.server.on("GET", CHECKPOINTS, answer)  # type: ignore[arg-type]

    assert await repository.blob(described()).checkpoints() is None


async def test_no_checkpoints_are_asked_for_where_there_can_be_none(
    server: Scripted, repository: RemoteRepository
) -> None:
    assert await repository.blob(described(algorithm="sha512")).checkpoints() is None
    assert server.asked == []
    assert await repository.blob(described()).checkpoints() is None
    assert {asked.path for asked in server.asked} == {f"/v2/{wire.DISCOVER}", "/v2/"}
