"""A store that fails on purpose: crashes, lost answers, refusals, delays, each at a chosen call.

It stands for one process's view of a store. Two replicas are two `FaultyStore` on one store::

    shared = MemoryStore()
    first = FaultyStore(shared, [Rule(CrashAfter(), operation="put", prefix="repos/")])
    second = FaultyStore(shared)

To try a crash at every call: run once without a plan, then once with ``Rule(CrashBefore(), at=k)`` and once with
``Rule(CrashAfter(), at=k)`` for each ``k`` in ``range(len(store.log))``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from bucketry.store import checks
from bucketry.store.contract import (
    OCTET_STREAM,
    Buffer,
    Capabilities,
    Condition,
    IfMatch,
    ListPage,
    ObjectInfo,
    Part,
    PendingUpload,
    PresignedPut,
    Store,
    StoredObject,
    StoreError,
    Unavailable,
)

_T = TypeVar("_T")


class Crashed(Exception):
    """The process is dead. No `StoreError`, so that nothing which handles those lives on."""


@dataclass(frozen=True, slots=True)
class Call:
    """``number`` counts from 0. ``keys``: the key, the prefix of a list, the keys of ``delete_many``, or none."""

    number: int
    operation: str
    keys: tuple[str, ...]

    @property
    def key(self) -> str:
        """The first of the keys, or an empty text."""
        return self.keys[0] if self.keys else ""


@dataclass(frozen=True, slots=True)
class CrashBefore:
    """The process dies with the request unsent."""


@dataclass(frozen=True, slots=True)
class CrashAfter:
    """The process dies after the effect, before it has the answer; of a ``read`` it has the first piece."""


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """The effect happens, the caller gets `Unavailable`; of a ``read`` it has had the first piece."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The caller gets this error, and nothing happens."""

    error: StoreError = field(default_factory=lambda: Unavailable("refused by a planned fault"))


@dataclass(frozen=True, slots=True)
class Delay:
    """The request leaves after so many seconds, and not before the event is set. Other rules still apply then."""

    seconds: float = 0.0
    until: asyncio.Event | None = None


Fault: TypeAlias = CrashBefore | CrashAfter | LoseAnswer | Refuse | Delay


@dataclass(frozen=True, slots=True)
class Rule:
    """Which calls the fault meets: those that have all that is given.

    ``at``: the call of this number. ``operation``: calls of this name (see `StoreObserver.request`, and those of
    `Presigner`). ``prefix``: calls with a key that begins with it. Of the calls that match, ``skip`` pass first, and
    ``times`` are met (all that follow where None).
    """

    fault: Fault
    at: int | None = None
    operation: str | None = None
    prefix: str | None = None
    skip: int = 0
    times: int | None = 1

    def matches(self, call: Call) -> bool:
        return (
            (self.at is None or call.number == self.at)
            and (self.operation is None or call.operation == self.operation)
            and (self.prefix is None or any(key.startswith(self.prefix) for key in call.keys))
        )


class FaultyStore:
    """The wrapped store, with faults by plan. Of several rules that meet a call the first that is no delay counts.

    ``log``: the calls in the order in which they were made. ``calls``: how many there were of each operation.
    ``start`` and ``close`` go through, uncounted.
    """

    def __init__(self, inner: Store, plan: Iterable[Rule] = ()) -> None:
        self.inner = inner
        self.log: list[Call] = []
        self.calls: Counter[str] = Counter()
        self._rules: list[Rule] = []
        self._met: list[int] = []
        self._dead = False
        for rule in plan:
            self.add(rule)

    def add(self, rule: Rule) -> None:
        """From now on. Its ``skip`` and ``times`` count from the next call."""
        self._rules.append(rule)
        self._met.append(0)

    def crash(self) -> None:
        """The process dies now: calls under way, and all that follow, raise `Crashed`."""
        self._dead = True

    @property
    def crashed(self) -> bool:
        return self._dead

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    async def start(self) -> None:
        await self.inner.start()

    async def close(self) -> None:
        await self.inner.close()

    async def get(self, key: str, *, limit: int = 16 * 1024 * 1024) -> StoredObject:
        return await self._call("get", (key,), lambda: self.inner.get(key, limit=limit))

    async def head(self, key: str) -> ObjectInfo:
        return await self._call("head", (key,), lambda: self.inner.head(key))

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        fault = await self._before("read", (key,))
        pieces = self.inner.read(key, start, stop)
        try:
            async for piece in pieces:
                self._check()
                yield piece
                self._check()
                if fault is not None:
                    break
            self._after("read", fault)
        finally:
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()

    async def put(
        self,
        key: str,
        body: Buffer,
        *,
        content_type: str = OCTET_STREAM,
        metadata: Mapping[str, str] | None = None,
        condition: Condition | None = None,
    ) -> str:
        checks.check_own_key(key)
        return await self._call(
            "put",
            (key,),
            lambda: self.inner.put(key, body, content_type=content_type, metadata=metadata, condition=condition),
        )

    async def delete(self, key: str, *, condition: IfMatch | None = None) -> None:
        checks.check_own_key(key)
        await self._call("delete", (key,), lambda: self.inner.delete(key, condition=condition))

    async def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            checks.check_own_key(key)
        await self._call("delete_many", tuple(keys), lambda: self.inner.delete_many(keys))

    async def list(self, prefix: str, *, after: str | None = None, limit: int = 1000) -> ListPage:
        return await self._call("list", (prefix,), lambda: self.inner.list(prefix, after=after, limit=limit))

    async def create_multipart(self, key: str, *, part_size: int) -> str:
        checks.check_bulk_key(key)
        return await self._call(
            "create_multipart", (key,), lambda: self.inner.create_multipart(key, part_size=part_size)
        )

    async def put_part(self, key: str, upload_id: str, number: int, body: Buffer, *, offset: int) -> str:
        checks.check_bulk_key(key)
        return await self._call(
            "put_part", (key,), lambda: self.inner.put_part(key, upload_id, number, body, offset=offset)
        )

    async def list_parts(self, key: str, upload_id: str) -> Sequence[Part]:
        checks.check_bulk_key(key)
        return await self._call("list_parts", (key,), lambda: self.inner.list_parts(key, upload_id))

    async def complete_multipart(self, key: str, upload_id: str, parts: Sequence[Part]) -> None:
        checks.check_bulk_key(key)
        await self._call("complete_multipart", (key,), lambda: self.inner.complete_multipart(key, upload_id, parts))

    async def abort_multipart(self, key: str, upload_id: str) -> None:
        checks.check_bulk_key(key)
        await self._call("abort_multipart", (key,), lambda: self.inner.abort_multipart(key, upload_id))

    async def list_multiparts(self) -> Sequence[PendingUpload]:
        return await self._call("list_multiparts", (), self.inner.list_multiparts)

    async def presign_get(self, key: str, *, expires: float, response_headers: Mapping[str, str] | None = None) -> str:
        return await self._call(
            "presign_get",
            (key,),
            lambda: self.inner.presign_get(key, expires=expires, response_headers=response_headers),
        )

    async def presign_part(self, key: str, upload_id: str, number: int, *, expires: float) -> str:
        checks.check_bulk_key(key)
        return await self._call(
            "presign_part", (key,), lambda: self.inner.presign_part(key, upload_id, number, expires=expires)
        )

    async def presign_put(self, key: str, *, size: int, sha256: bytes, expires: float) -> PresignedPut:
        checks.check_bulk_key(key)
        return await self._call(
            "presign_put",
            (key,),
            lambda: self.inner.presign_put(key, size=size, sha256=sha256, expires=expires),
        )

    async def _call(self, operation: str, keys: tuple[str, ...], work: Callable[[], Awaitable[_T]]) -> _T:
        fault = await self._before(operation, keys)
        try:
            result = await work()
        except StoreError:
            # An answer too, and lost like any other.
            self._after(operation, fault)
            raise
        self._after(operation, fault)
        return result

    async def _before(self, operation: str, keys: tuple[str, ...]) -> CrashAfter | LoseAnswer | None:
        """What is still to happen after the effect."""
        self._check()
        call = Call(len(self.log), operation, keys)
        self.log.append(call)
        self.calls[operation] += 1
        for fault in self._planned(call):
            match fault:
                case Delay():
                    if fault.until is not None:
                        await fault.until.wait()
                    if fault.seconds:
                        await asyncio.sleep(fault.seconds)
                    self._check()
                case CrashBefore():
                    self._dead = True
                    self._check()
                case Refuse():
                    raise fault.error
                case _:
                    return fault
        return None

    def _planned(self, call: Call) -> Sequence[Fault]:
        """The delays that apply, and then at most one other fault."""
        delays: tuple[Fault, ...] = ()
        others: tuple[Fault, ...] = ()
        for index, rule in enumerate(self._rules):
            is_delay = isinstance(rule.fault, Delay)
            if not rule.matches(call) or (others and not is_delay):
                continue
            met = self._met[index]
            self._met[index] += 1
            if met < rule.skip or (rule.times is not None and met >= rule.skip + rule.times):
                continue
            if is_delay:
                delays += (rule.fault,)
            else:
                others = (rule.fault,)
        return delays + others

    def _after(self, operation: str, fault: CrashAfter | LoseAnswer | None) -> None:
        if isinstance(fault, CrashAfter):
            self._dead = True
        self._check()
        if isinstance(fault, LoseAnswer):
            raise Unavailable(f"{self.url}: the answer to {operation} was lost by a planned fault")

    def _check(self) -> None:
        if self._dead:
            raise Crashed(f"this process crashed at call {len(self.log)} by a planned fault")
