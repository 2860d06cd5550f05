"""What the tests of the registry share: a clock to set, ids to count, bodies, images, and a store's whole truth."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from bucketry.hashing import Checkpoints, NotingHasher
from bucketry.hashing import new as new_hash
from bucketry.oci import Descriptor, Digest, parse_manifest
from bucketry.oci.media_types import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from bucketry.registry import Blob, BodyInterrupted, Chunk, Registry, RegistrySettings, layout
from bucketry.registry.records import BlobRecord, BlobState, Link, decode, encode
from bucketry.store.contract import IfMatch, NotFound, PreconditionFailed, Store, StoredObject
from bucketry.store.memory import MemoryStore

PART = 64
"""Bytes of a part in these tests."""
REPO = "team/app"
OTHER = "team/other"
ALICE = "alice"
NOW = 1_700_000_000.0
DAY = 24 * 3600.0
LONG = 30 * DAY
"""After so long every session has expired and may be swept."""


class FakeClock:
    """Time stands still but where a test moves it."""

    def __init__(self, now: float = NOW) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time - NOW

    def advance(self, seconds: float) -> None:
        self.time += seconds


class CountedIds:
    """Ids in the order in which they are asked for; those of another ``replica`` are others."""

    def __init__(self, replica: int = 1) -> None:
        self._replica = replica
        self._count = 0

    def _next(self) -> int:
        self._count += 1
        return self._count

    def token(self) -> str:
        return f"{self._replica:04x}{self._next():028x}"

    def uuid(self) -> str:
        return f"00000000-0000-4000-{0x8000 + self._replica:04x}-{self._next():012x}"


def small_settings(**changes: Any) -> RegistrySettings:
    return RegistrySettings(**{"part_size": PART, "memory": 64 * PART, "parallel_parts": 4, "segment": PART, **changes})


def memory_store(clock: FakeClock, **flags: Any) -> MemoryStore:
    return MemoryStore(clock=clock.now, min_part=1, **flags)


async def open_registry(
    store: Store, clock: FakeClock, *, replica: int = 1, native_hash: bool = True, **changes: Any
) -> Registry:
    return await Registry.open(
        store, clock=clock, ids=CountedIds(replica), settings=small_settings(**changes), native_hash=native_hash
    )


def noted(data: bytes, segment: int = PART) -> Checkpoints:
    """The checkpoints of a blob, noted in passing."""
    hasher = NotingHasher(new_hash("sha256"), segment)
    hasher.update(data)
    found = hasher.checkpoints()
    assert found is not None, "libcrypto is needed"
    return found


def blob_bytes(size: int, seed: int = 0) -> bytes:
    """Bytes in which every window of eight differs from the next: what is misplaced is noticed."""
    words = (((index * 2654435761 + seed * 40503) & 0xFFFFFFFF).to_bytes(4, "big") for index in range(size // 4 + 1))
    return b"".join(words)[:size]


async def standstill() -> None:
    """Until nothing moves but by time or by the test: no work of these tests takes so many turns of the loop."""
    for _ in range(300):
        await asyncio.sleep(0)


async def pieces(data: bytes, size: int = 17) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def interrupted(data: bytes, size: int = 17) -> AsyncIterator[bytes]:
    """A body whose client goes away after ``data``."""
    async for piece in pieces(data, size):
        yield piece
    raise BodyInterrupted("the client went away")


def streamed(data: bytes) -> Chunk:
    """A body of unknown length at no stated place: what docker and podman send."""
    return Chunk(pieces(data))


def sized(data: bytes) -> Chunk:
    """A body of known length at no stated place: what crane sends, and every PUT or POST of a whole blob."""
    return Chunk(pieces(data), len(data))


def placed(data: bytes, start: int) -> Chunk:
    """A chunk with a Content-Range."""
    return Chunk(pieces(data), len(data), start)


async def bytes_of(registry: Registry, blob: Blob) -> bytes:
    return b"".join([piece async for piece in registry.blobs.read(blob)])


async def pulled(registry: Registry, repository: str, digest: Digest) -> bytes:
    return await bytes_of(registry, await registry.blobs.find(repository, digest))


async def push(registry: Registry, repository: str, data: bytes, algorithm: str = "sha256") -> Digest:
    digest = Digest.of(data, algorithm)
    await registry.uploads.push(repository, digest, sized(data))
    return digest


async def push_patch_put(
    registry: Registry, repository: str, data: bytes, *, principal: str = ALICE, digest: Digest | None = None
) -> Digest:
    """POST, one streamed PATCH, PUT."""
    digest = digest or Digest.of(data)
    session = registry.uploads.begin(repository, principal).session_id
    progress = await registry.uploads.append(repository, principal, session, streamed(data), continued=False)
    await registry.uploads.commit(repository, principal, session, digest, None, continued=progress.stored)
    return digest


async def push_chunks(
    registry: Registry, repository: str, data: bytes, chunk: int, *, principal: str = ALICE
) -> Digest:
    """POST, PATCH after PATCH with a Content-Range, PUT."""
    digest = Digest.of(data)
    session, offset, continued = registry.uploads.begin(repository, principal).session_id, 0, False
    while offset < len(data):
        progress = await registry.uploads.append(
            repository, principal, session, placed(data[offset : offset + chunk], offset), continued=continued
        )
        offset, continued = progress.offset, progress.stored
    await registry.uploads.commit(repository, principal, session, digest, None, continued=continued)
    return digest


def descriptor(data: bytes, media_type: str = OCI_LAYER, algorithm: str = "sha256") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(data, algorithm)), "size": len(data)}


def image(config: bytes, *layers: bytes, subject: bytes | None = None, **more: Any) -> bytes:
    """An image manifest; ``subject`` is the body of another manifest."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config, OCI_CONFIG),
        "layers": [descriptor(layer) for layer in layers],
        **more,
    }
    if subject is not None:
        document["subject"] = descriptor(subject, OCI_MANIFEST)
    return json.dumps(document).encode()


def index(*manifests: bytes, subject: bytes | None = None, **more: Any) -> bytes:
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor(manifest, OCI_MANIFEST) for manifest in manifests],
        **more,
    }
    if subject is not None:
        document["subject"] = descriptor(subject, OCI_MANIFEST)
    return json.dumps(document).encode()


async def keys(store: Store, prefix: str = "") -> list[str]:
    found: list[str] = []
    after: str | None = None
    while True:
        page = await store.list(prefix, after=after)
        found += [listed.key for listed in page.objects]
        if not page.more:
            return found
        after = page.objects[-1].key


async def get_or_none(store: Store, key: str) -> StoredObject | None:
    try:
        return await store.get(key)
    except NotFound:
        return None


@dataclass
class Truth:
    """All a store holds, read key by key by the bucket format alone: no code of the registry's verbs is used.

    ``problems`` says what a reader could see and must not; ``lost`` which children of a manifest are missing: right
    where a user deleted them, a breach of invariant 2 everywhere else.
    """

    links: dict[tuple[str, Digest], Link] = field(default_factory=dict)
    records: dict[Digest, BlobRecord] = field(default_factory=dict)
    manifests: dict[tuple[str, Digest], bytes] = field(default_factory=dict)
    tags: dict[tuple[str, str], Digest] = field(default_factory=dict)
    markers: set[tuple[str, Digest, str]] = field(default_factory=set)
    referrers: dict[tuple[str, Digest, Digest], Descriptor] = field(default_factory=dict)
    catalog: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    data: dict[str, bytes] = field(default_factory=dict)
    checkpoints: dict[Digest, Checkpoints] = field(default_factory=dict)
    tag_bodies: dict[tuple[str, str], bytes] = field(default_factory=dict)
    multiparts: int = 0
    problems: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def orphans(self) -> list[str]:
        """Bulk objects that no record names."""
        named = {record.data for record in self.records.values() if record.state is not BlobState.GONE}
        return sorted(set(self.data) - named)

    @property
    def stray(self) -> list[Digest]:
        """What has checkpoints and no record."""
        kept = {digest for digest, record in self.records.items() if record.state is not BlobState.GONE}
        return sorted(set(self.checkpoints) - kept)

    @property
    def unlinked(self) -> list[Digest]:
        """Blobs with a record that no repository has."""
        linked = {digest for _, digest in self.links}
        kept = [digest for digest, record in self.records.items() if record.state is not BlobState.GONE]
        return sorted(set(kept) - linked)

    def blob(self, digest: Digest) -> bytes | None:
        record = self.records.get(digest)
        if record is None or record.state is BlobState.GONE:
            return None
        return self.data.get(record.data)


async def truth(store: Store) -> Truth:
    found = Truth(multiparts=len(await store.list_multiparts()))
    for key in await keys(store):
        held = await get_or_none(store, key)
        if held is not None:
            _note(found, key, held)
    _judge(found)
    return found


def _note(found: Truth, key: str, held: StoredObject) -> None:
    first, _, rest = key.partition("/")
    if first == "data":
        found.data[key] = held.body
    elif first == "blobs":
        algorithm, _, digits = rest.split("/")
        found.records[Digest(algorithm, digits)] = decode(held.body, BlobRecord, key)
    elif first == "checkpoints":
        algorithm, _, digits = rest.split("/")
        found.checkpoints[Digest(algorithm, digits)] = Checkpoints.parse(held.body)
    elif first == "catalog":
        found.catalog.add(layout.unescape_name(rest))
    elif first == "uploads":
        found.sessions.add(rest)
    elif first == "repos":
        repository, _, inner = rest.partition("/~")
        kind, *names = inner.split("/")
        if kind == "blobs":
            found.links[repository, Digest(*names)] = decode(held.body, Link, key)
        elif kind == "manifests":
            found.manifests[repository, Digest(*names)] = held.body
        elif kind == "tags":
            digest = Digest.parse(held.info.metadata["digest"])
            found.tags[repository, names[0]] = digest
            found.tag_bodies[repository, names[0]] = held.body
        elif kind == "tagged":
            found.markers.add((repository, Digest(*names[:2]), names[2]))
        elif kind == "referrers":
            entry = msgspec.json.decode(held.body, type=Descriptor)
            found.referrers[repository, Digest(*names[:2]), Digest(*names[2:])] = entry
        else:
            found.problems.append(f"{key} is nothing that the bucket format knows")
    elif key != layout.FORMAT_KEY:
        found.problems.append(f"{key} is nothing that the bucket format knows")


def _judge(found: Truth) -> None:
    say = found.problems.append
    for digest, record in found.records.items():
        body = found.data.get(record.data)
        if record.state is BlobState.GONE:
            continue
        if body is None:
            say(f"the record of {digest} names bytes that are not there")
        elif Digest.of(body, digest.algorithm) != digest or len(body) != record.size:
            say(f"the record of {digest} names other bytes: {Digest.of(body, digest.algorithm)}")
        elif record.segment and digest not in found.checkpoints:
            say(f"the record of {digest} speaks of checkpoints that are not there")
        elif digest in found.checkpoints and found.checkpoints[digest].segment != record.segment:
            say(f"the record of {digest} speaks of checkpoints every {record.segment} bytes")
        elif digest in found.checkpoints and found.checkpoints[digest] != noted(body, record.segment):
            say(f"the checkpoints of {digest} are wrong")
    for (repository, digest), link in found.links.items():
        body = found.data.get(link.data)
        if body is None:
            say(f"{repository} links {digest} to bytes that are not there")
        elif Digest.of(body, digest.algorithm) != digest or len(body) != link.size:
            say(f"{repository} links {digest} to other bytes: {Digest.of(body, digest.algorithm)}")
        named = found.records.get(digest)
        if named is None or named.state is BlobState.GONE or named.data != link.data:
            say(f"{repository} links {digest} past its record")
    for (repository, digest), body in found.manifests.items():
        if Digest.of(body, digest.algorithm) != digest:
            say(f"manifest {digest} of {repository} has other bytes")
        if repository not in found.catalog:
            say(f"{repository} has a manifest and is not in the catalog")
        parsed = parse_manifest(body, None)
        if parsed.subject is not None and (repository, parsed.subject.parsed, digest) not in found.referrers:
            say(f"manifest {digest} of {repository} is not among the referrers of its subject")
        if "sparse" in parsed.annotations:
            continue
        for blob in parsed.blobs():
            if (repository, blob.parsed) not in found.links:
                found.lost.append(f"manifest {digest} of {repository} has lost its blob {blob.digest}")
        for child in parsed.children():
            if (repository, child.parsed) not in found.manifests:
                found.lost.append(f"index {digest} of {repository} has lost its manifest {child.digest}")
    for (repository, tag), digest in found.tags.items():
        if found.manifests.get((repository, digest)) != found.tag_bodies[repository, tag]:
            say(f"tag {tag} of {repository} points to {digest}, which is not there by its digest")
        if (repository, digest, tag) not in found.markers:
            say(f"tag {tag} of {repository} has no marker: a delete by digest will not find it")
    for repository, subject, digest in found.referrers:
        if (repository, digest) not in found.manifests:
            say(f"{digest} is listed as a referrer of {subject} in {repository} and is not there")


class Collector:
    """The later garbage collector, as far as invariant 3 says how it must behave."""

    def __init__(self, store: Store, clock: FakeClock, *, grace: float = 3600.0) -> None:
        self._store = store
        self._clock = clock
        self._grace = grace

    async def condemn(self, digest: Digest) -> str | None:
        """The etag of the condemned record; None where it was left alone."""
        held = await get_or_none(self._store, layout.record(digest))
        if held is None:
            return None
        record = decode(held.body, BlobRecord, held.info.key)
        if record.state is not BlobState.LIVE or self._clock.now() - record.created < self._grace:
            return None
        return await self._swap(held, record, BlobState.CONDEMNED)

    async def linked(self, digest: Digest) -> bool:
        ending = f"/~blobs/{digest.algorithm}/{digest.hex}"
        return any(key.endswith(ending) for key in await keys(self._store, "repos/"))

    async def finish(self, digest: Digest) -> bool:
        """Lists the links of a condemned blob, and ends it where there is none. Whether its bytes are deleted."""
        held = await get_or_none(self._store, layout.record(digest))
        if held is None:
            return False
        record = decode(held.body, BlobRecord, held.info.key)
        if record.state is not BlobState.CONDEMNED:
            return False
        try:
            if await self.linked(digest):
                await self._swap(held, record, BlobState.LIVE)
                return False
            await self._swap(held, record, BlobState.GONE)
        except PreconditionFailed:
            return False
        await self._store.delete(record.data)
        return True

    async def collect(self, digest: Digest) -> bool:
        await self.condemn(digest)
        return await self.finish(digest)

    async def expire(self, repository: str, digest: Digest, *, lease: float = 7200.0) -> bool:
        """Removes a link that no manifest of its repository needs and nobody renewed. Whether it was removed."""
        prefix = f"repos/{repository}/~manifests/"
        for key in await keys(self._store, prefix):
            held = await get_or_none(self._store, key)
            if held is not None and any(
                needed.parsed == digest for needed in parse_manifest(held.body, held.info.content_type).references()
            ):
                return False
        link = await get_or_none(self._store, layout.link(repository, digest))
        if link is None or self._clock.now() - link.info.modified < lease:
            return False
        try:
            await self._store.delete(link.info.key, condition=IfMatch(link.info.etag))
        except PreconditionFailed:
            return False
        return True

    async def _swap(self, held: StoredObject, record: BlobRecord, state: BlobState) -> str:
        changed = msgspec.structs.replace(record, state=state, nonce=f"collector-{held.info.etag}")
        return await self._store.put(held.info.key, encode(changed), condition=IfMatch(held.info.etag))
