"""Upload sessions of another time, made with the secret that a store keeps."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec

from bucketry.registry import RandomIds, SystemClock, layout
from bucketry.registry.sessions import Sessions
from bucketry.store.local import LocalStore


class Past(SystemClock):
    def __init__(self, seconds_ago: float) -> None:
        self._behind = seconds_ago

    def now(self) -> float:
        return time.time() - self._behind


def expired_session(folder: Path, repository: str, *, seconds_ago: float) -> str:
    """The id of a session that the registry in ``folder`` gave to a nameless client so long ago."""

    async def make() -> str:
        store = LocalStore(folder)
        await store.start()
        try:
            secret = msgspec.json.decode((await store.get(layout.FORMAT_KEY)).body)["registry"]
            sessions = Sessions(
                store, clock=Past(seconds_ago), ids=RandomIds(), secret=secret.encode(), expiry=seconds_ago
            )
            return sessions.begin(repository, "", None)
        finally:
            await store.close()

    return asyncio.run(make())
