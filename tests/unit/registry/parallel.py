"""A client of the extension, for tests: parts in any order, through the registry or straight to the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.unit.registry.helpers import ALICE, REPO, FakeClock, noted, sized

from bucketry.oci import Digest
from bucketry.registry import Blob, Opened, Registry, Verifying
from bucketry.registry.sessions import Session, parse
from bucketry.store.contract import Capabilities
from bucketry.store.memory import MemoryStore


class PresigningStore(MemoryStore):
    """A store in memory that gives URLs out; a test that has one calls ``put_part`` on the store itself."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(presign=True, presign_part=True)

    async def presign_part(self, key: str, upload_id: str, number: int, *, expires: float) -> str:
        return f"https://store.test/{key}?upload={upload_id}&part={number}&expires={expires:g}"


def presigning_store(clock: FakeClock, **flags: Any) -> PresigningStore:
    return PresigningStore(clock=clock.now, min_part=1, **flags)


class Client:
    """One upload."""

    def __init__(self, registry: Registry, data: bytes, *, repository: str = REPO, principal: str = ALICE) -> None:
        self.registry = registry
        self.data = data
        self.digest = Digest.of(data)
        self.repository = repository
        self.principal = principal
        self.opened: Opened | None = None

    @property
    def session(self) -> str:
        assert self.opened is not None
        return self.opened.session_id

    @property
    def key(self) -> str:
        return f"uploads/{self.session.partition('.')[0]}"

    @property
    def parts(self) -> Mapping[int, bytes]:
        assert self.opened is not None
        size = self.opened.part_size
        return {start // size + 1: self.data[start : start + size] for start in range(0, len(self.data), size)}

    async def begin(self, *, known: bool = True, part_size: int | None = None) -> Opened:
        digest, size = (self.digest, len(self.data)) if known else (None, None)
        begun = await self.registry.parallel.begin(
            self.repository, self.principal, digest=digest, size=size, part_size=part_size
        )
        assert isinstance(begun, Opened)
        self.opened = begun
        return begun

    async def put(self, numbers: Iterable[int] | None = None) -> None:
        """Sends these parts (all of them), the last first."""
        parts = self.parts
        for number in sorted(parts if numbers is None else numbers, reverse=True):
            await self.registry.parallel.put_part(
                self.repository, self.principal, self.session, number, sized(parts[number])
            )

    async def complete(self, *, wait: float = 5.0, with_list: bool = True, **changes: Any) -> Blob | Verifying:
        registry = changes.pop("registry", self.registry)
        named = {
            "digest": self.digest,
            "size": len(self.data),
            "checkpoints": noted(self.data).encode() if with_list else None,
            **changes,
        }
        answer = await registry.parallel.complete(self.repository, self.principal, self.session, **named, wait=wait)
        assert isinstance(answer, Blob | Verifying)
        return answer

    async def stored(self, store: MemoryStore) -> Session:
        held = await store.get(self.key)
        return parse(self.key, held.body, held.info.etag).session
