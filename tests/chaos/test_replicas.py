"""Any number of replicas and a collector on one store: what one acknowledged holds for all, and for ever.

The collector here follows invariant 3: it condemns by compare-and-swap, lists links, and only then ends a blob.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
from tests.chaos.race import Held
from tests.unit.registry.helpers import (
    ALICE,
    OTHER,
    PART,
    REPO,
    Collector,
    FakeClock,
    blob_bytes,
    image,
    index,
    memory_store,
    open_registry,
    placed,
    pulled,
    push,
    push_chunks,
    push_patch_put,
    truth,
)

from bucketry.oci import Digest
from bucketry.oci.errors import BlobUnknown, ManifestBlobUnknown, ManifestUnknown, OCIError
from bucketry.registry import Blob, Registry
from bucketry.store.contract import NotFound
from bucketry.store.faults import CrashAfter, CrashBefore, Crashed, Rule
from bucketry.store.memory import MemoryStore

HOUR = 3600.0
DATA = blob_bytes(50)
DIGEST = Digest.of(DATA)
MANIFEST = image(DATA)

Write: TypeAlias = Callable[[Registry], Awaitable[Any]]


@dataclass(frozen=True)
class Writer:
    """A request after whose success the repository has the blob. ``linked``: it has a link, of long ago, before."""

    name: str
    write: Write
    linked: bool


async def _needed(work: Awaitable[Blob | None]) -> Blob:
    """A mount that could not be is an upload that the client has yet to begin."""
    blob = await work
    if blob is None:
        raise BlobUnknown("not mounted")
    return blob


WRITERS = [
    Writer("POST", lambda registry: push(registry, REPO, DATA), False),
    Writer("PATCH, PUT", lambda registry: push_patch_put(registry, REPO, DATA), False),
    Writer("chunks", lambda registry: push_chunks(registry, REPO, DATA, 20), True),
    Writer("mount", lambda registry: _needed(registry.blobs.mount(REPO, DIGEST, None)), False),
    Writer("mount onto a link", lambda registry: _needed(registry.blobs.mount(REPO, DIGEST, OTHER)), True),
    Writer("mount from", lambda registry: _needed(registry.blobs.mount(REPO, DIGEST, OTHER)), False),
    Writer("HEAD", lambda registry: registry.blobs.stat(REPO, DIGEST), True),
    Writer("manifest", lambda registry: registry.manifests.push(REPO, "v1", MANIFEST, None), True),
]


async def old_blob(inner: MemoryStore, clock: FakeClock, repositories: Sequence[str]) -> None:
    """A blob of three hours ago that no manifest needs."""
    registry = await open_registry(inner, clock, replica=8)
    for repository in repositories:
        await push(registry, repository, DATA)
    clock.advance(3 * HOUR)


async def collect(store: Any, clock: FakeClock) -> None:
    collector = Collector(store, clock)
    for repository in (OTHER, REPO):
        await collector.expire(repository, DIGEST)
    await collector.collect(DIGEST)


async def use(registry: Registry) -> None:
    """What the next client does: it pushes an image, and skips the blob where it is told that it is there."""
    try:
        await registry.blobs.stat(REPO, DIGEST)
    except BlobUnknown:
        await push(registry, REPO, DATA)
    await registry.manifests.push(REPO, "v2", MANIFEST, None)


async def check(inner: MemoryStore, clock: FakeClock, *, acknowledged: bool) -> None:
    registry = await open_registry(inner, clock, replica=9)
    if acknowledged:
        assert await pulled(registry, REPO, DIGEST) == DATA
        assert (await truth(inner)).problems == []
    await use(registry)
    await collect(inner, clock)
    clock.advance(5 * HOUR)
    await collect(inner, clock)
    assert await pulled(registry, REPO, DIGEST) == DATA
    found = await truth(inner)
    # A link elsewhere may be left by a process that died; nobody is told of its blob.
    assert [problem for problem in found.problems if not problem.startswith(OTHER)] == []
    assert found.lost == []


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.name)
@pytest.mark.parametrize("order", ["writer first", "collector first"])
async def test_a_link_and_the_collector_see_each_other(writer: Writer, order: str) -> None:
    for stop in range(40):
        for other_stop in range(16):
            clock = FakeClock()
            inner = memory_store(clock)
            await old_blob(inner, clock, (OTHER, REPO) if writer.linked else (OTHER,))
            writing = await Held.on(inner, clock, 2, stop)
            collecting = await Held.on(inner, clock, 3, other_stop)
            runs: list[tuple[Held, Callable[[Registry], Awaitable[Any]]]] = [
                (writing, writer.write),
                (collecting, lambda registry, clock=clock: collect(registry.store, clock)),  # type: ignore[misc]
            ]
            if order == "collector first":
                runs.reverse()
            for held, request in runs:
                await held.begin(request)
            reached = runs[1][0].stopped, writing.stopped
            for held, _ in runs:
                outcome = await held.end()
                if held is writing:
                    written = outcome
            assert not isinstance(written, Exception) or isinstance(written, OCIError), written

            await check(inner, clock, acknowledged=not isinstance(written, Exception))
            if not reached[0]:
                break
        if not reached[1]:
            break


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.name)
@pytest.mark.parametrize("fault", [CrashBefore(), CrashAfter()])
async def test_a_writer_that_dies_while_the_collector_works_leaves_nothing_that_misleads(
    writer: Writer, fault: CrashBefore | CrashAfter
) -> None:
    """It stops, the collector runs to its end, and it dies at this call or a later one."""
    for stop in range(20):
        for death in range(stop, stop + 4):
            clock = FakeClock()
            inner = memory_store(clock)
            await old_blob(inner, clock, (OTHER, REPO) if writer.linked else (OTHER,))
            writing = await Held.on(inner, clock, 2, stop)
            writing.view.add(Rule(fault, at=len(writing.view.log) + death))
            await writing.begin(writer.write)
            reached = writing.stopped
            await collect(inner, clock)
            outcome = await writing.end()
            assert not isinstance(outcome, Exception) or isinstance(outcome, OCIError | Crashed)

            await check(inner, clock, acknowledged=not isinstance(outcome, Exception))
        if not reached:
            break
    assert not reached


async def test_each_chunk_reaches_another_replica_and_the_last_one_died() -> None:
    clock = FakeClock()
    inner = memory_store(clock)
    replica = 1
    for natives in ((True, True), (True, False), (False, False)):
        for chunk in (7, PART, 2 * PART + 1):
            data = blob_bytes(5 * PART + 11, chunk)
            session = (await open_registry(inner, clock, replica=replica)).uploads.begin(REPO, ALICE).session_id
            offset = 0
            while offset < len(data):
                replica += 1
                registry = await open_registry(inner, clock, replica=replica, native_hash=natives[replica % 2])
                part = data[offset : offset + chunk]
                progress = await registry.uploads.append(
                    REPO, ALICE, session, placed(part, offset), continued=offset > 0
                )
                offset = progress.offset
            last = await open_registry(inner, clock, replica=replica + 1, native_hash=natives[0])
            await last.uploads.commit(REPO, ALICE, session, Digest.of(data), None, continued=True)
            assert await pulled(last, REPO, Digest.of(data)) == data
    assert (await truth(inner)).problems == []


async def test_what_one_replica_acknowledged_the_others_serve_at_once() -> None:
    clock = FakeClock()
    inner = memory_store(clock)
    replicas = [await open_registry(inner, clock, replica=replica) for replica in range(1, 5)]
    await push(replicas[0], REPO, DATA)
    for version in range(12):
        body = image(DATA, annotations={"version": str(version)})
        writer, *readers = replicas[version % 4 :] + replicas[: version % 4]
        # Readers that are under way already must not give the others something older.
        early = [asyncio.create_task(_body(reader)) for reader in readers]
        await asyncio.sleep(0)
        await writer.manifests.push(REPO, "latest", body, None)
        late = await asyncio.gather(*(_body(reader) for reader in readers for _ in range(5)))
        assert set(late) == {body}
        await asyncio.gather(*early)
    await replicas[0].manifests.delete(REPO, Digest.of(body))
    for reader in replicas:
        assert await _body(reader) is None


async def _body(registry: Registry) -> bytes | None:
    try:
        return (await registry.manifests.get(REPO, "latest")).body
    except ManifestUnknown:
        return None


# ---- everything at once


class Household:
    """Clients of several replicas, a collector and a sweeper, on one store, in rounds between which hours pass."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = FakeClock()
        self.inner = memory_store(self.clock)
        self.replicas: list[Registry] = []
        self.blobs = [blob_bytes(self.chance.choice([0, 30, PART, 3 * PART + 1]), number) for number in range(8)]
        self.repositories = [REPO, OTHER, "third/repo"]
        self.acknowledged: dict[tuple[str, Digest], bytes] = {}
        """Manifests that were, and that nobody deleted."""

    async def open(self) -> None:
        for replica in range(1, 4):
            self.replicas.append(await open_registry(self.inner, self.clock, replica=replica, memory=4 * PART))

    async def round(self) -> None:
        work: list[Awaitable[Any]] = [self.client(number) for number in range(5)]
        work += [self.collector(), self.replicas[0].sweeper.sweep(), *(each.ended.flush() for each in self.replicas)]
        await asyncio.gather(*work)
        found = await truth(self.inner)
        assert found.problems == []
        assert found.lost == []
        for (repository, digest), body in self.acknowledged.items():
            assert found.manifests.get((repository, digest)) == body

    async def client(self, number: int) -> None:
        for _ in range(self.chance.randrange(20)):
            await asyncio.sleep(0)
        registry = self.chance.choice(self.replicas)
        # Each client has its repository and manifests to itself, so that it knows what it was told.
        repository = self.repositories[number % 3]
        mine = [key for key in self.acknowledged if key[0] == repository]
        if number < 3 and mine and self.chance.random() < 0.3:
            key = self.chance.choice(mine)
            if key[1].algorithm == "sha256":
                del self.acknowledged[key]
                await registry.manifests.delete(repository, key[1])
            return
        config, *layers = self.chance.sample(self.blobs, 3)
        for blob in (config, *layers):
            await self.push_blob(repository, blob)
        body = image(config, *layers, annotations={"client": str(number), "n": str(self.chance.random())})
        await self.chance.choice(self.replicas).manifests.push(repository, f"client-{number}", body, None)
        self.acknowledged[repository, Digest.of(body)] = body
        if self.chance.random() < 0.3:
            listed = index(body, annotations={"client": str(number)})
            digest = Digest.of(listed, "sha512")
            await self.chance.choice(self.replicas).manifests.push(repository, digest, listed, None)
            # Its child stays as long as it does: it is nobody's to delete.
            self.acknowledged[repository, digest] = listed
            del self.acknowledged[repository, Digest.of(body)]

    async def push_blob(self, repository: str, blob: bytes) -> None:
        """As a client does: HEAD, mount, else an upload by one of its ways."""
        digest = Digest.of(blob)
        try:
            await self.chance.choice(self.replicas).blobs.stat(repository, digest)
            return
        except BlobUnknown:
            pass
        source = self.chance.choice([None, *self.repositories])
        if await self.chance.choice(self.replicas).blobs.mount(repository, digest, source) is not None:
            return
        registry = self.chance.choice(self.replicas)
        if self.chance.random() < 0.5:
            await push(registry, repository, blob)
        else:
            await push_patch_put(registry, repository, blob)

    async def collector(self) -> None:
        collector = Collector(self.inner, self.clock)
        for blob in self.chance.sample(self.blobs, len(self.blobs)):
            digest = Digest.of(blob)
            for repository in self.repositories:
                await collector.expire(repository, digest)
            await collector.condemn(digest)
            for _ in range(self.chance.randrange(30)):
                await asyncio.sleep(0)
            await collector.finish(digest)


@pytest.mark.parametrize("seed", range(8))
async def test_clients_collector_and_sweeper_at_once(seed: int) -> None:
    household = Household(seed)
    await household.open()
    for _ in range(25):
        await household.round()
        household.clock.advance(household.chance.choice([0, HOUR / 2, 3 * HOUR, 30 * HOUR]))
    for registry in household.replicas:
        await registry.close()


async def test_a_manifest_is_not_acknowledged_when_its_blob_goes_before_it_is_written() -> None:
    """The link expires while the push asks for its other blobs: it renews what it has seen, so the manifest holds."""
    clock = FakeClock()
    inner = memory_store(clock)
    await old_blob(inner, clock, (REPO,))
    await collect(inner, clock)
    registry = await open_registry(inner, clock)

    with pytest.raises(ManifestBlobUnknown):
        await registry.manifests.push(REPO, "v1", MANIFEST, None)
    with pytest.raises(BlobUnknown):
        await registry.blobs.find(REPO, DIGEST)
    with pytest.raises(NotFound):
        await inner.head(f"repos/{REPO}/~tags/v1")
