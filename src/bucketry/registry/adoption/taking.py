"""What all parts of one run share: the store, how many requests may be under way, what is told and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from bucketry.oci import Digest
from bucketry.registry.adoption import tree
from bucketry.registry.adoption.events import Finished, Kept, Listener, Problem, Report, Taken, Verified
from bucketry.registry.adoption.once import Remembered
from bucketry.registry.registry import Registry
from bucketry.store.contract import Corrupt, NotFound

A = TypeVar("A")
T = TypeVar("T")

_COUNTED_BY = 24
"""Hex digits of a digest that tell blobs apart where only their number depends on it: many are kept in mind."""

AT_ONCE = 16
"""Children of one manifest that are looked at together."""


@dataclass(frozen=True, slots=True)
class Broken:
    """Why something is left out. ``path``: the key of what is broken.

    ``absent``: the old repository does not have it. ``deleted``: it was taken over, and deleted here since.
    """

    path: str
    reason: str
    absent: bool = False
    deleted: bool = False


class Stop(Exception):
    """Ends the taking over of one thing: it is broken."""

    def __init__(self, broken: Broken) -> None:
        super().__init__(broken.reason)
        self.broken = broken


def broken(path: str, reason: str, *, absent: bool = False, deleted: bool = False) -> Stop:
    return Stop(Broken(path, reason, absent=absent, deleted=deleted))


@dataclass(slots=True)
class Counts:
    manifests: int = 0
    tags: int = 0
    blobs: int = 0
    skipped: int = 0
    kept: int = 0
    problems: int = 0


@dataclass(slots=True)
class Tally:
    """Hears every event on its way to the listener, and adds up."""

    listen: Listener
    counted: Remembered[bytes]
    """Blobs whose bytes are in the sum, by the beginnings of their digests."""
    total: Counts = field(default_factory=Counts)
    repositories: int = 0
    blobs: int = 0
    bytes: int = 0
    verified: int = 0
    each: dict[str, Counts] = field(default_factory=dict)
    """Of the repositories that are looked at now."""

    def begin(self, repository: str) -> None:
        self.each.setdefault(repository, Counts())

    def finish(self, repository: str) -> None:
        found = self.each.pop(repository, None)
        if found is not None:
            self.listen(
                Finished(
                    repository=repository,
                    manifests=found.manifests,
                    tags=found.tags,
                    blobs=found.blobs,
                    skipped=found.skipped,
                    kept=found.kept,
                    problems=found.problems,
                )
            )

    def manifest(self, repository: str, digest: Digest, size: int) -> None:
        for counts in self._counts(repository):
            counts.manifests += 1
        self.listen(Taken(kind="manifest", repository=repository, name=str(digest), size=size))

    def blob(self, repository: str, digest: Digest, size: int) -> None:
        key = bytes.fromhex(digest.hex[:_COUNTED_BY])
        again = key in self.counted
        self.counted.add(key)
        for counts in self._counts(repository):
            counts.blobs += 1
        if not again:
            self.blobs += 1
            self.bytes += size
        self.listen(Taken(kind="blob", repository=repository, name=str(digest), size=size, again=again))

    def tag(self, repository: str, tag: str, digest: Digest, before: str | None) -> None:
        for counts in self._counts(repository):
            counts.tags += 1
        self.listen(Taken(kind="tag", repository=repository, name=tag, digest=str(digest), moved_from=before))

    def skip(self, repository: str) -> None:
        for counts in self._counts(repository):
            counts.skipped += 1

    def keep(self, repository: str, tag: str, old: Digest, here: str | None, why: str) -> None:
        for counts in self._counts(repository):
            counts.kept += 1
        self.listen(Kept(repository=repository, tag=tag, old=str(old), here=here, why=why))

    def problem(self, repository: str, path: str, reason: str) -> None:
        for counts in self._counts(repository):
            counts.problems += 1
        self.listen(Problem(path=path, reason=reason, repository=repository))

    def hashed(self, digest: Digest, size: int) -> None:
        self.verified += size
        self.listen(Verified(digest=str(digest), size=size))

    def report(self, *, seconds: float, requests: int | None, written: int | None, dry_run: bool) -> Report:
        return Report(
            repositories=self.repositories,
            manifests=self.total.manifests,
            tags=self.total.tags,
            blobs=self.blobs,
            bytes=self.bytes,
            verified=self.verified,
            skipped=self.total.skipped,
            kept=self.total.kept,
            problems=self.total.problems,
            seconds=seconds,
            requests=requests,
            written=written,
            dry_run=dry_run,
        )

    def _counts(self, repository: str) -> tuple[Counts, Counts]:
        return self.total, self.each.setdefault(repository, Counts())


@dataclass(frozen=True, slots=True)
class Taking:
    """One run. ``places``: those of requests under way; none is held while something else is waited for.

    ``remembered``: how many things of a kind the run keeps in mind.
    """

    registry: Registry
    places: asyncio.Semaphore
    tally: Tally
    remembered: int
    verify: bool
    dry_run: bool

    async def link(self, key: str, digest: Digest, what: str) -> Digest:
        """Under which digest the bytes are that the link at ``key`` speaks of. Raises `Stop`."""
        try:
            return tree.link_target(await self.body(key, limit=tree.MAX_LINK), digest)
        except NotFound:
            raise broken(key, f"the old repository has no {what} {digest}: its link is missing", absent=True) from None
        except tree.LinkBroken as error:
            raise broken(key, f"{what} {digest}: {error}") from None

    async def body(self, key: str, *, limit: int) -> bytes:
        """Of a foreign object. Raises `NotFound`, and `Stop` for one that is too long."""
        try:
            async with self.places:
                return (await self.registry.store.get(key, limit=limit)).body
        except Corrupt as error:
            raise broken(key, str(error)) from error

    async def exists(self, key: str) -> bool:
        try:
            async with self.places:
                await self.registry.store.head(key)
        except NotFound:
            return False
        return True

    async def write(self, key: str, body: bytes) -> None:
        async with self.places:
            await self.registry.store.put(key, body)


async def each(work: Callable[[A], Awaitable[T]], items: Iterable[A]) -> list[T]:
    """What ``work`` gives for each, in their order, a few at a time. What it raises ends all of it."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(item: A) -> T:
        async with turns:
            return await work(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in items]
    return [task.result() for task in tasks]
