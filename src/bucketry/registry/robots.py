"""Robots in the store: one record each, made once, read again every few seconds while it is used."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from bucketry.access.errors import AccessError
from bucketry.access.principal import check_name
from bucketry.access.robots import RobotRecord
from bucketry.registry import layout
from bucketry.registry.access_folder import make_access_folder
from bucketry.registry.settings import Clock
from bucketry.registry.sharing import SharedReads
from bucketry.store.contract import IF_ABSENT, Condition, Corrupt, IfMatch, NotFound, PreconditionFailed, Store

MAX_RECORD: Final = 256 * 1024
"""Bytes of a record."""
MAX_CACHED: Final = 4096
"""Robots that are remembered, and as many names that there are none of."""
_AT_ONCE: Final = 16
_JSON: Final = "application/json"

_log = structlog.get_logger("bucketry.registry")


class RobotExists(AccessError):
    pass


class RobotUnknown(AccessError):
    pass


@dataclass(frozen=True, slots=True)
class _Cached:
    record: RobotRecord | None
    read: float
    """When the read began, by the monotonic clock."""


class Robots:
    """The robots of one store. ``reload``: seconds that a record, or that there is none, is remembered by `get`.

    All methods raise `StoreError`, and those that take a name `PrincipalInvalid` for what is none.
    """

    def __init__(self, store: Store, *, clock: Clock, reload: float, cached: int = MAX_CACHED) -> None:
        self._store = store
        self._clock = clock
        self._reload = reload
        self._cached = cached
        # Apart, so that whoever makes names up does not make the registry forget those that there are.
        self._present: OrderedDict[str, _Cached] = OrderedDict()
        self._absent: OrderedDict[str, _Cached] = OrderedDict()
        self._writes = 0
        self._reads = SharedReads(self._read)

    async def get(self, name: str) -> RobotRecord | None:
        """The record, not older than ``reload`` seconds, or None. Raises `Corrupt` where it cannot be read."""
        check_name("robot", name)
        now = self._clock.monotonic()
        for cache in (self._present, self._absent):
            held = cache.get(name)
            if held is not None and now - held.read < self._reload:
                cache.move_to_end(name)
                return held.record
        return (await self._reads.get(name)).record

    async def create(self, record: RobotRecord) -> None:
        """Writes a new robot; in the place of one of its name only where that has expired or was revoked.

        Raises `RobotExists`; of any number that are made at once under a name, one is.
        """
        key = layout.robot(check_name("robot", record.name))
        condition: Condition = IF_ABSENT
        try:
            stored = await self._store.get(key, limit=MAX_RECORD)
        except NotFound:
            pass
        else:
            if not self._is_over(_decoded(key, stored.body)):
                raise _exists(record.name)
            condition = IfMatch(stored.info.etag)
        await asyncio.to_thread(make_access_folder, self._store)
        try:
            await self._store.put(key, record.encode(), content_type=_JSON, condition=condition)
        except PreconditionFailed:
            raise _exists(record.name) from None
        finally:
            self._changed(record.name)

    async def revoke(self, name: str) -> RobotRecord:
        """Ends a robot's token for good, here at once, elsewhere within ``reload`` seconds. Gives its last record.

        The record stays, as revoked, until another robot is made with its name. Raises `RobotUnknown`.
        """
        key = layout.robot(check_name("robot", name))
        try:
            while True:
                try:
                    stored = await self._store.get(key, limit=MAX_RECORD)
                except NotFound:
                    raise RobotUnknown(f"there is no robot {name}") from None
                record = _decoded(key, stored.body)
                if record.revoked is not None:
                    return record
                revoked = msgspec.structs.replace(record, revoked=self._clock.now())
                condition = IfMatch(stored.info.etag)
                try:
                    await self._store.put(key, revoked.encode(), content_type=_JSON, condition=condition)
                except PreconditionFailed:
                    continue
                return revoked
        finally:
            self._changed(name)

    async def list(self) -> tuple[RobotRecord, ...]:
        """All of them, by name, revoked and expired ones too. Records that cannot be read are logged and left out."""
        names: list[str] = []
        after: str | None = None
        more = True
        while more:
            page = await self._store.list(layout.ROBOTS_PREFIX, after=after)
            more = page.more
            for listed in page.objects:
                after = listed.key
                names.append(listed.key.removeprefix(layout.ROBOTS_PREFIX))
        found: list[RobotRecord] = []
        for start in range(0, len(names), _AT_ONCE):
            batch = await asyncio.gather(*(self._listed(name) for name in names[start : start + _AT_ONCE]))
            found += [record for record in batch if record is not None]
        return tuple(found)

    async def _listed(self, name: str) -> RobotRecord | None:
        try:
            return (await self._read(name)).record
        except Corrupt as error:
            _log.error("a robot cannot be used", error=str(error))
            return None

    async def _read(self, name: str) -> _Cached:
        began, writes = self._clock.monotonic(), self._writes
        key = layout.robot(name)
        try:
            record = _decoded(key, (await self._store.get(key, limit=MAX_RECORD)).body)
        except NotFound:
            record = None
        held = _Cached(record, began)
        if writes != self._writes:
            return held  # It may have been read before the write that ended meanwhile.
        self._forget(name)
        cache = self._absent if record is None else self._present
        cache[name] = held
        while len(cache) > self._cached:
            cache.popitem(last=False)
        return held

    def _is_over(self, record: RobotRecord) -> bool:
        return record.revoked is not None or (record.expires is not None and record.expires <= self._clock.now())

    def _changed(self, name: str) -> None:
        self._writes += 1
        self._forget(name)

    def _forget(self, name: str) -> None:
        self._present.pop(name, None)
        self._absent.pop(name, None)


def _decoded(key: str, body: bytes) -> RobotRecord:
    try:
        record = RobotRecord.decode(body)
    except AccessError as error:
        raise Corrupt(f"{key} is no record of a robot: {error}") from None
    if layout.robot(record.name) != key:
        raise Corrupt(f"{key} is the record of another robot: was it copied? Delete it")
    return record


def _exists(name: str) -> RobotExists:
    return RobotExists(f"there is a robot {name} already: revoke it first, or choose another name")
