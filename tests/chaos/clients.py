"""What clients do, and how they go on after a failure: for tests that let something fail at every store call."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from tests.unit.registry.helpers import (
    ALICE,
    OTHER,
    PART,
    REPO,
    FakeClock,
    blob_bytes,
    image,
    noted,
    placed,
    pulled,
    push,
    sized,
    streamed,
    truth,
)

from bucketry.hashing import Checkpoints
from bucketry.oci import Digest
from bucketry.oci.errors import BlobUnknown, DigestMismatch, ManifestUnknown, UploadUnknown
from bucketry.registry import Blob, Registry

SMALL = blob_bytes(40)
LARGE = blob_bytes(4 * PART + 9)
EXACT = blob_bytes(3 * PART)
CONFIG = b"{}"
SUBJECT = image(CONFIG)
MANIFEST = image(CONFIG, SMALL, subject=SUBJECT, artifactType="application/signature")
MANIFEST_DIGEST = Digest.of(MANIFEST)


class Client(ABC):
    """What a client wants, what it was told so far, and how it goes on."""

    clock: FakeClock
    """Time passes where a client waits. Set by whoever runs it."""

    @abstractmethod
    async def prepare(self, registry: Registry) -> None:
        """What was there before, and acknowledged."""

    @abstractmethod
    async def run(self, registry: Registry) -> None:
        """From the beginning."""

    async def go_on(self, registry: Registry) -> None:
        """After a failure, by asking how far it came."""
        await self.run(registry)

    @abstractmethod
    async def check(self, registry: Registry) -> None:
        """That the registry holds what it acknowledged."""

    @abstractmethod
    def blobs(self) -> tuple[bytes, ...]:
        """Those that are published in the end."""


@dataclass
class BlobPush(Client):
    """HEAD, POST, and the blob in chunks of these sizes; what is left comes with the PUT."""

    data: bytes
    chunks: tuple[int, ...] = ()
    stream: bool = False
    session: str | None = None
    offset: int = 0
    continued: bool = False

    async def prepare(self, registry: Registry) -> None:
        """Nothing."""

    def blobs(self) -> tuple[bytes, ...]:
        return (self.data,)

    async def run(self, registry: Registry) -> None:
        try:
            await registry.blobs.stat(REPO, Digest.of(self.data))
        except BlobUnknown:
            self.session = registry.uploads.begin(REPO, ALICE).session_id
            self.offset, self.continued = 0, False
            await self._send(registry)

    async def go_on(self, registry: Registry) -> None:
        if self.session is None:
            await self.run(registry)
            return
        try:
            progress = await registry.uploads.status(REPO, ALICE, self.session, continued=self.continued)
            self.offset, self.continued = progress.offset, progress.stored
            await self._send(registry)
        except UploadUnknown:
            await self.run(registry)

    async def _send(self, registry: Registry) -> None:
        assert self.session is not None
        ends = [end for end in self.chunks if end > self.offset]
        for end in ends:
            part = self.data[self.offset : end]
            chunk = streamed(part) if self.stream else placed(part, self.offset)
            progress = await registry.uploads.append(REPO, ALICE, self.session, chunk, continued=self.continued)
            self.offset, self.continued = progress.offset, progress.stored
        rest = self.data[self.offset :]
        last = None if not rest else sized(rest) if self.offset == 0 else placed(rest, self.offset)
        await registry.uploads.commit(REPO, ALICE, self.session, Digest.of(self.data), last, continued=self.continued)

    async def check(self, registry: Registry) -> None:
        assert await pulled(registry, REPO, Digest.of(self.data)) == self.data


class SinglePost(BlobPush):
    async def run(self, registry: Registry) -> None:
        await registry.uploads.push(REPO, Digest.of(self.data), sized(self.data))

    async def go_on(self, registry: Registry) -> None:
        await self.run(registry)


class PushOfWhatAnotherHas(BlobPush):
    """The same blob is in another repository already."""

    async def prepare(self, registry: Registry) -> None:
        await push(registry, OTHER, self.data)


class Mount(Client):
    def blobs(self) -> tuple[bytes, ...]:
        return (SMALL,)

    async def prepare(self, registry: Registry) -> None:
        await push(registry, OTHER, SMALL)

    async def run(self, registry: Registry) -> None:
        assert await registry.blobs.mount(REPO, Digest.of(SMALL), OTHER) is not None

    async def check(self, registry: Registry) -> None:
        assert await pulled(registry, REPO, Digest.of(SMALL)) == SMALL


class ManifestPush(Client):
    def blobs(self) -> tuple[bytes, ...]:
        return (CONFIG, SMALL)

    async def prepare(self, registry: Registry) -> None:
        for blob in self.blobs():
            await push(registry, REPO, blob)

    async def run(self, registry: Registry) -> None:
        await registry.manifests.push(REPO, MANIFEST_DIGEST, MANIFEST, None, tags=["v1", "v2"])

    async def check(self, registry: Registry) -> None:
        for reference in (MANIFEST_DIGEST, "v1", "v2"):
            assert (await registry.manifests.get(REPO, reference)).body == MANIFEST
        page = await registry.referrers.page(REPO, Digest.of(SUBJECT))
        assert [entry.parsed for entry in page.descriptors] == [MANIFEST_DIGEST]


class ManifestDelete(ManifestPush):
    async def prepare(self, registry: Registry) -> None:
        await super().prepare(registry)
        await super().run(registry)

    async def run(self, registry: Registry) -> None:
        try:
            await registry.manifests.delete(REPO, MANIFEST_DIGEST)
        except ManifestUnknown:
            pass  # An answer that was lost, and asked for again.

    async def check(self, registry: Registry) -> None:
        after = await truth(registry.store)
        assert (after.manifests, after.tags, after.referrers) == ({}, {}, {})


class TagDelete(ManifestPush):
    async def prepare(self, registry: Registry) -> None:
        await super().prepare(registry)
        await super().run(registry)

    async def run(self, registry: Registry) -> None:
        try:
            await registry.manifests.delete(REPO, "v1")
        except ManifestUnknown:
            pass

    async def check(self, registry: Registry) -> None:
        assert set((await truth(registry.store)).tags) == {(REPO, "v2")}


class Cancel(BlobPush):
    def blobs(self) -> tuple[bytes, ...]:
        return ()

    async def prepare(self, registry: Registry) -> None:
        self.session = registry.uploads.begin(REPO, ALICE).session_id
        await registry.uploads.append(REPO, ALICE, self.session, placed(self.data, 0), continued=False)

    async def run(self, registry: Registry) -> None:
        assert self.session is not None
        try:
            await registry.uploads.cancel(REPO, ALICE, self.session)
        except UploadUnknown:
            pass

    async def go_on(self, registry: Registry) -> None:
        await self.run(registry)

    async def check(self, registry: Registry) -> None:
        assert self.session is not None
        with pytest.raises(UploadUnknown):
            await registry.uploads.status(REPO, ALICE, self.session)


class ParallelPush(Client):
    """The parts of a blob, the last first; then completed, and asked for until it is there."""

    def __init__(self, data: bytes, *, known: bool = True, with_list: bool = True, hashed: bool = False) -> None:
        self.data = data
        self.digest = Digest.of(data)
        self.known = known
        self.with_list = with_list
        self.hashed = hashed
        self.session: str | None = None
        self.part_size = 0

    async def prepare(self, registry: Registry) -> None:
        """Nothing."""

    def blobs(self) -> tuple[bytes, ...]:
        return (self.data,)

    async def run(self, registry: Registry) -> None:
        self.session = None
        begun = await registry.parallel.begin(
            REPO,
            ALICE,
            digest=self.digest if self.known else None,
            size=len(self.data) if self.known else None,
            part_size=PART,
        )
        if not isinstance(begun, Blob):
            self.session, self.part_size = begun.session_id, begun.part_size
            await self._send(registry, set())

    async def go_on(self, registry: Registry) -> None:
        if self.session is None:
            await self.run(registry)
            return
        try:
            status = await registry.parallel.status(REPO, ALICE, self.session)
            await self._send(registry, {part.number for part in status.parts}, status.state.value == "open")
        except UploadUnknown:
            await self.run(registry)

    async def _send(self, registry: Registry, there: set[int], more: bool = True) -> None:
        assert self.session is not None
        count = -(-len(self.data) // self.part_size) if more else 0
        for number in range(count, 0, -1):
            if number not in there:
                part = self.data[(number - 1) * self.part_size : number * self.part_size]
                await registry.parallel.put_part(REPO, ALICE, self.session, number, sized(part))
        await self._complete(registry, self.session)

    async def _complete(self, registry: Registry, session: str) -> None:
        body = noted(self.data).encode() if self.with_list else None
        while True:
            answer = await registry.parallel.complete(
                REPO, ALICE, session, self.digest, len(self.data), body, wait=0.01, hashed=self.hashed
            )
            if isinstance(answer, Blob):
                return
            await asyncio.sleep(0)
            self.clock.advance(16)

    async def check(self, registry: Registry) -> None:
        assert await pulled(registry, REPO, self.digest) == self.data


class ParallelPushOfWhatAnotherHas(ParallelPush):
    """Only once it is complete it turns out to be the same blob."""

    async def prepare(self, registry: Registry) -> None:
        await push(registry, OTHER, self.data)


class ParallelLie(ParallelPush):
    """Bytes of another digest than the one they are completed as."""

    def __init__(self, *, with_list: bool) -> None:
        super().__init__(LARGE, known=False, with_list=with_list)
        self.digest = Digest.of(blob_bytes(len(LARGE), seed=1))

    def blobs(self) -> tuple[bytes, ...]:
        return ()

    async def _complete(self, registry: Registry, session: str) -> None:
        body = Checkpoints(self.digest.hex, len(LARGE), PART, noted(LARGE).states).encode() if self.with_list else None
        while True:
            try:
                await registry.parallel.complete(REPO, ALICE, session, self.digest, len(LARGE), body, wait=0.01)
            except DigestMismatch:
                return
            await asyncio.sleep(0)
            self.clock.advance(16)

    async def check(self, registry: Registry) -> None:
        after = await truth(registry.store)
        assert (after.records, after.links, after.checkpoints) == ({}, {}, {})


class ParallelCancel(ParallelPush):
    def blobs(self) -> tuple[bytes, ...]:
        return ()

    async def prepare(self, registry: Registry) -> None:
        await super().run(registry)

    async def _complete(self, registry: Registry, session: str) -> None:
        """It is not completed."""

    async def run(self, registry: Registry) -> None:
        assert self.session is not None
        try:
            await registry.parallel.cancel(REPO, ALICE, self.session)
        except UploadUnknown:
            pass

    async def go_on(self, registry: Registry) -> None:
        await self.run(registry)

    async def check(self, registry: Registry) -> None:
        assert self.session is not None
        with pytest.raises(UploadUnknown):
            await registry.parallel.status(REPO, ALICE, self.session)


CLIENTS: dict[str, Callable[[], Client]] = {
    "PATCH, PUT": lambda: BlobPush(SMALL, (len(SMALL),), stream=True),
    "PATCH, PUT of several parts": lambda: BlobPush(LARGE, (len(LARGE),), stream=True),
    "PATCH, PUT of whole parts": lambda: BlobPush(EXACT, (len(EXACT),), stream=True),
    "chunks, PUT": lambda: BlobPush(SMALL, (10, 30, len(SMALL))),
    "chunks, PUT of several parts": lambda: BlobPush(LARGE, (20, 20 + 2 * PART, len(LARGE))),
    "chunks of whole parts, PUT": lambda: BlobPush(EXACT, (PART, 2 * PART, 3 * PART)),
    "chunks, PUT with the rest": lambda: BlobPush(LARGE, (20, 20 + PART)),
    "PUT": lambda: BlobPush(SMALL),
    "PUT of several parts": lambda: BlobPush(LARGE),
    "POST": lambda: SinglePost(SMALL),
    "POST of several parts": lambda: SinglePost(LARGE),
    "PATCH, PUT of what another has": lambda: PushOfWhatAnotherHas(SMALL, (len(SMALL),), stream=True),
    "PUT of several parts that another has": lambda: PushOfWhatAnotherHas(LARGE),
    "mount": Mount,
    "manifest": ManifestPush,
    "manifest delete": ManifestDelete,
    "tag delete": TagDelete,
    "cancel": lambda: Cancel(SMALL),
    "cancel of several parts": lambda: Cancel(LARGE),
    "parallel": lambda: ParallelPush(LARGE),
    "parallel, nothing known": lambda: ParallelPush(LARGE, known=False, with_list=False),
    "parallel, hashed by the client": lambda: ParallelPush(EXACT, hashed=True),
    "parallel push of what another has": lambda: ParallelPushOfWhatAnotherHas(LARGE, known=False),
    "parallel push of other bytes": lambda: ParallelLie(with_list=True),
    "parallel push of other bytes, without checkpoints": lambda: ParallelLie(with_list=False),
    "parallel cancel": lambda: ParallelCancel(LARGE),
}
