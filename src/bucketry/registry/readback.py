"""Bytes in the store against a digest: in parallel where the client gave checkpoints, from the first byte where not.

Whatever list a client gives, only bytes of that digest pass: a forged one can only be refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Protocol, cast

from bucketry.hashing import MAX_SEGMENT, Checkpoints
from bucketry.oci import Digest
from bucketry.oci.errors import DigestMismatch, ParameterInvalid
from bucketry.registry import noting
from bucketry.registry.budget import MemoryBudget
from bucketry.registry.chunks import check_digest
from bucketry.registry.noting import Hashes
from bucketry.store.contract import Store

MIN_SEGMENT = 64 * 1024
"""Bytes: a client's list has no shorter segments, as each costs a read of its own."""
MAX_STATES = 2**17
"""Segments of a client's list: 1 TiB of the usual length, and 4 MiB of states."""

_BATCH = 256 * 1024
"""Bytes: about so many are hashed at a time, while as many arrive."""
_HASH_IN_THREAD = 64 * 1024
"""Bytes: below, a hop to a thread costs more than the hash."""


class _Takes(Protocol):
    def update(self, data: bytes) -> None: ...


class ReadBack:
    """``readers``: segments that are read at once. Each holds two batches of the memory budget."""

    def __init__(self, store: Store, budget: MemoryBudget, hashes: Hashes, *, readers: int, segment: int) -> None:
        self._store = store
        self._budget = budget
        self._hashes = hashes
        self._readers = readers
        self._segment = segment

    def parse_list(self, data: bytes, digest: Digest, size: int) -> Checkpoints:
        """A client's checkpoints for a blob. Raises `ParameterInvalid`, `DigestMismatch`: nothing is read for it."""
        if digest.algorithm != "sha256":
            raise ParameterInvalid(f"checkpoints are of SHA-256, and {digest} is not: complete without them")
        try:
            given = Checkpoints.parse(data)
        except ValueError as error:
            raise ParameterInvalid(f"the checkpoints are not valid: {error}") from error
        if given.digest != digest.hex:
            raise DigestMismatch(
                f"the checkpoints are of sha256:{given.digest}, not of {digest}",
                detail={"expected": str(digest), "actual": f"sha256:{given.digest}"},
            )
        if given.size != size:
            raise ParameterInvalid(f"the checkpoints are of a blob of {given.size} bytes, not of {size}")
        if not min(MIN_SEGMENT, self._segment) <= given.segment or given.count > MAX_STATES:
            raise ParameterInvalid(
                f"the checkpoints are {given.count}, every {given.segment} bytes: segments of {MIN_SEGMENT} to "
                f"{MAX_SEGMENT} bytes are taken, at most {MAX_STATES} of them"
            )
        return given

    async def verify(
        self, data: str, digest: Digest, size: int, given: Checkpoints | None, verified: Callable[[int], None]
    ) -> Checkpoints | None:
        """Reads the object ``data`` to its end; the checkpoints that are known of it then, where there are any.

        ``verified`` hears of each so many bytes that held. Raises `DigestMismatch`, `NotFound`.
        """
        found = await self._store.head(data)
        if found.size != size:
            raise DigestMismatch(
                f"the parts make {found.size} bytes, and {digest} was announced with {size}: "
                "a part was sent again meanwhile with another length",
                detail={"expected": str(digest)},
            )
        if given is None or given.count == 1 or not self._hashes.resumable:
            hasher = self._hashes.new(digest.algorithm)
            await self._hash(hasher, data, 0, size, verified)
            check_digest(digest, hasher.hexdigest())
            return noting.checkpoints(hasher)
        await self._in_segments(data, given, verified)
        return noting.to_keep(given, self._segment)

    async def _in_segments(self, data: str, given: Checkpoints, verified: Callable[[int], None]) -> None:
        """Raises `DigestMismatch` with the numbers of segments that do not hold: of those that were begun by then."""
        numbers = iter(range(given.count))
        bad: list[int] = []

        async def read_on() -> None:
            for number in numbers:
                if bad:
                    return
                check = given.check(number)
                start, stop = given.bounds(number)
                await self._hash(check, data, start, stop, lambda _: None)
                if check.holds():
                    verified(stop - start)
                else:
                    bad.append(number)

        readers = [asyncio.create_task(read_on()) for _ in range(min(self._readers, given.count))]
        try:
            await asyncio.gather(*readers)
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.wait(readers)
        if bad:
            raise DigestMismatch(
                f"the bytes are not those of sha256:{given.digest}, or the checkpoints are not: of segments of "
                f"{given.segment} bytes, counted from 0, these do not hold: {', '.join(map(str, sorted(bad)))}. "
                "Nothing was kept under that digest.",
                detail={
                    "expected": f"sha256:{given.digest}",
                    "segment": given.segment,
                    "segments": sorted(bad),
                },
            )

    async def _hash(self, hasher: _Takes, data: str, start: int, stop: int, verified: Callable[[int], None]) -> None:
        """Hashes a range, one batch while the next arrives."""
        most = min(_BATCH, stop - start)
        with await self._budget.reserve(2 * most):
            hashing: asyncio.Task[None] | None = None
            try:
                async for batch in self._batches(data, start, stop, most):
                    if hashing is not None:
                        await hashing
                    hashing = asyncio.create_task(_update(hasher, batch))
                    verified(len(batch))
                if hashing is not None:
                    await hashing
            finally:
                if hashing is not None:
                    await asyncio.wait((hashing,))

    async def _batches(self, data: str, start: int, stop: int, most: int) -> AsyncIterator[bytes]:
        """The range in pieces of up to ``most`` bytes, or as the store gives them where those are longer."""
        pieces: list[bytes] = []
        size = 0
        # Every backend's is a generator: closing it frees the connection.
        async with aclosing(cast("_Closable", self._store.read(data, start, stop))) as read:
            async for piece in read:
                if pieces and size + len(piece) > most:
                    yield b"".join(pieces)
                    pieces, size = [], 0
                pieces.append(piece)
                size += len(piece)
        if pieces:
            yield b"".join(pieces)


class _Closable(Protocol):
    def __aiter__(self) -> AsyncIterator[bytes]: ...
    async def __anext__(self) -> bytes: ...
    async def aclose(self) -> None: ...


async def _update(hasher: _Takes, batch: bytes) -> None:
    if len(batch) < _HASH_IN_THREAD:
        hasher.update(batch)
    else:
        await asyncio.to_thread(hasher.update, batch)
