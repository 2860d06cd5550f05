"""Sources, targets and destinations in memory, whose faults a test injects."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bucketry.hashing import Checkpoints, NotingHasher, new
from bucketry.oci import Descriptor, Digest, media_types
from bucketry.transfer.contract import (
    Buffer,
    RawManifest,
    SavedConfig,
    SavedLayer,
    Slot,
)
from bucketry.transfer.errors import ContentMismatch, ImageMissing, PartLost, Unreachable
from bucketry.transfer.events import Event, Moved, Resumed, Skipped
from bucketry.transfer.pool import Timing
from bucketry.transfer.settings import TransferSettings

MIB = 1024 * 1024


@dataclass
class Heard:
    """A listener that remembers."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def total(self, kind: type[Moved] | type[Resumed]) -> int:
        return sum(event.size for event in self.events if isinstance(event, kind))

    def skipped(self) -> list[str]:
        return [event.item for event in self.events if isinstance(event, Skipped)]


class Clockwork:
    """Time that passes only when it is slept."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.timing = Timing(self.monotonic, self.sleep, random.Random(seed).random)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def settings(tmp_path: Path, **changes: object) -> TransferSettings:
    values: dict[str, object] = {"cache": tmp_path / "cache", "memory": 16 * MIB, "part_size": 64 * 1024, **changes}
    return TransferSettings(**values)  # type: ignore[arg-type]


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def descriptor(data: bytes, media_type: str = media_types.OCI_LAYER_GZIP) -> Descriptor:
    return Descriptor(media_type=media_type, digest=str(Digest.of(data)), size=len(data))


def checkpoints_of(data: bytes, segment: int) -> Checkpoints:
    hasher = NotingHasher(new("sha256"), segment)
    hasher.update(data)
    found = hasher.checkpoints()
    assert found is not None
    return found


def raw(document: Mapping[str, object]) -> RawManifest:
    body = json.dumps(document).encode()
    return RawManifest(body, str(document["mediaType"]), Digest.of(body))


def entry(blob: Descriptor, **more: object) -> dict[str, object]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size, **more}


class Image:
    """An image of these layers, and all its blobs by digest."""

    def __init__(self, *layers: bytes, config: bytes = b"{}", subject: Descriptor | None = None) -> None:
        self.blobs = {str(Digest.of(data)): data for data in (*layers, config)}
        document: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": entry(descriptor(config, media_types.OCI_CONFIG)),
            "layers": [entry(descriptor(layer)) for layer in layers],
        }
        if subject is not None:
            document["subject"] = entry(subject)
        self.manifest = raw(document)


def index(*images: tuple[RawManifest, str]) -> RawManifest:
    entries = []
    for manifest, platform in images:
        system, architecture, *variant = platform.split("/")
        shown = {"os": system, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        entries.append(entry(manifest.descriptor, platform=shown))
    return raw({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries})


@dataclass
class MemoryReader:
    source: MemorySource
    blob: Descriptor

    @property
    def ranged(self) -> bool:
        return self.source.ranged

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        source = self.source
        data = source.blobs[self.blob.digest]
        stop = len(data) if stop is None else min(stop, len(data))
        assert start == 0 or source.ranged
        source.reading += 1
        source.most_reading = max(source.most_reading, source.reading)
        try:
            await source.before_read(self.blob.digest, start)
            at = start
            while at < stop:
                await asyncio.sleep(0)
                piece = data[at : min(stop, at + source.piece)]
                source.read_bytes += len(piece)
                yield source.change(self.blob.digest, at, piece)
                at += len(piece)
                await source.after_piece(self.blob.digest, at)
        finally:
            source.reading -= 1

    async def checkpoints(self) -> Checkpoints | None:
        return self.source.checkpoints.get(self.blob.digest)


async def nothing(digest: str, at: int) -> None:
    return


class MemorySource:
    """``before_read``, ``after_piece`` and ``change`` are hooks for faults."""

    def __init__(self, *images: Image, name: str = "memory/source") -> None:
        self.name = name
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, RawManifest] = {}
        self.by_tag: dict[str, RawManifest] = {}
        self.referring: dict[str, list[Descriptor]] = {}
        self.checkpoints: dict[str, Checkpoints] = {}
        self.ranged = True
        self.piece = 16 * 1024
        self.reading = 0
        self.most_reading = 0
        self.read_bytes = 0
        self.before_read: Callable[[str, int], Awaitable[None]] = nothing
        self.after_piece: Callable[[str, int], Awaitable[None]] = nothing
        self.change: Callable[[str, int, bytes], bytes] = lambda digest, at, piece: piece
        for image in images:
            self.add(image.manifest, tag="latest", blobs=image.blobs)

    def add(self, manifest: RawManifest, *, tag: str | None = None, blobs: Mapping[str, bytes] | None = None) -> None:
        self.blobs.update(blobs or {})
        self.manifests[str(manifest.digest)] = manifest
        if tag is not None:
            self.by_tag[tag] = manifest

    async def manifest(self, reference: Digest | str | None = None) -> RawManifest:
        wanted = "latest" if reference is None else str(reference)
        found = self.manifests.get(wanted) or self.by_tag.get(wanted)
        if found is None:
            raise ImageMissing(f"no {wanted} here")
        return found

    async def tags(self) -> Sequence[str]:
        return sorted(self.by_tag)

    async def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        return self.referring.get(str(subject), [])

    def blob(self, blob: Descriptor) -> MemoryReader:
        return MemoryReader(self, blob)

    async def close(self) -> None:
        return


@dataclass
class SessionState:
    part_size: int
    parts: dict[int, bytes] = field(default_factory=dict)
    digest: Digest | None = None


class MemoryUpload:
    def __init__(self, target: MemoryTarget, session: str) -> None:
        self.target = target
        self.session = session

    @property
    def state(self) -> SessionState:
        try:
            return self.target.sessions[self.session]
        except KeyError:
            raise PartLost("the session ended") from None

    @property
    def part_size(self) -> int:
        return self.target.sessions[self.session].part_size

    max_parts = 10_000

    async def sent(self) -> Mapping[int, int]:
        return {number: len(body) for number, body in self.state.parts.items()}

    async def put(self, number: int, body: Buffer) -> None:
        target = self.target
        target.sending += len(body)
        target.most_sending = max(target.most_sending, target.sending)
        target.puts += 1
        try:
            await target.before_put(self.session, number)
            await asyncio.sleep(0)
            state = self.state
            assert len(body) <= state.part_size
            target.received += len(body)
            state.parts[number] = bytes(body)
            target.order.append(number)
            await target.after_put(self.session, number)
        finally:
            target.sending -= len(body)

    async def complete(
        self, digest: Digest, size: int, checkpoints: Checkpoints | None, *, verified: Callable[[int], None]
    ) -> None:
        await self.target.before_complete(self.session, 0)
        state = self.state
        data = b"".join(state.parts[number] for number in sorted(state.parts))
        if Digest.of(data, digest.algorithm) != digest or len(data) != size:
            del self.target.sessions[self.session]
            raise ContentMismatch(f"the bytes are {Digest.of(data)}")
        if checkpoints is not None:
            assert (checkpoints.digest, checkpoints.size) == (digest.hex, size)
            for i in range(checkpoints.count):
                check = checkpoints.check(i)
                check.update(data[slice(*checkpoints.bounds(i))])
                assert check.holds()
        self.target.completed_with.append(checkpoints)
        verified(size // 2)
        verified(size)
        self.target.blobs[str(digest)] = data
        del self.target.sessions[self.session]

    async def cancel(self) -> None:
        self.target.sessions.pop(self.session, None)


class HashedMemoryUpload(MemoryUpload):
    async def complete_hashed(self, digest: Digest, size: int, checkpoints: Checkpoints | None) -> None:
        self.target.trusted += 1
        await self.complete(digest, size, checkpoints, verified=lambda size: None)


class MemoryTarget:
    """``before_put``, ``after_put`` and ``before_complete`` are hooks for faults: session, number of the part."""

    pull_command: str | None = "docker pull memory/target"

    def __init__(self, *, name: str = "memory/target", parts: bool = True, hashed: bool = False) -> None:
        self.name = name
        self.parts = parts
        self.hashed = hashed
        self.forced_part_size: int | None = None
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, RawManifest] = {}
        self.by_tag: dict[str, RawManifest] = {}
        self.sessions: dict[str, SessionState] = {}
        self.elsewhere: dict[str, dict[str, bytes]] = {}
        self.began = 0
        self.puts = 0
        self.received = 0
        self.trusted = 0
        self.sending = 0
        self.most_sending = 0
        self.order: list[int] = []
        self.put_order: list[str] = []
        self.completed_with: list[Checkpoints | None] = []
        self.before_put: Callable[[str, int], Awaitable[None]] = nothing
        self.after_put: Callable[[str, int], Awaitable[None]] = nothing
        self.before_complete: Callable[[str, int], Awaitable[None]] = nothing
        self.before_blob: Callable[[str, int], Awaitable[None]] = nothing

    async def takes_parts(self) -> bool:
        return self.parts

    async def has_blob(self, blob: Descriptor, *, mount_from: str | None = None) -> bool:
        if blob.digest not in self.blobs and mount_from is not None:
            held = self.elsewhere.get(mount_from, {})
            if blob.digest in held:
                self.blobs[blob.digest] = held[blob.digest]
        return blob.digest in self.blobs

    async def begin(
        self, *, digest: Digest | None = None, size: int | None = None, part_size: int | None = None
    ) -> MemoryUpload | None:
        if digest is not None and str(digest) in self.blobs:
            return None
        self.began += 1
        session = f"session-{self.began}"
        self.sessions[session] = SessionState(self.forced_part_size or part_size or 64 * 1024)
        return self._upload(session)

    async def resume(self, session: str) -> MemoryUpload | None:
        return self._upload(session) if session in self.sessions else None

    def _upload(self, session: str) -> MemoryUpload:
        return HashedMemoryUpload(self, session) if self.hashed else MemoryUpload(self, session)

    async def put_blob(self, blob: Descriptor, body: AsyncIterator[bytes]) -> None:
        data = b""
        async for piece in body:
            data += piece
            self.received += len(piece)
            await self.before_blob(blob.digest, len(data))
        if str(Digest.of(data, blob.parsed.algorithm)) != blob.digest:
            raise ContentMismatch(f"not {blob.digest}")
        self.blobs[blob.digest] = data

    async def has_manifest(self, digest: Digest) -> bool:
        return str(digest) in self.manifests

    async def put_manifest(self, manifest: RawManifest, tag: str | None = None) -> None:
        known = manifest.parsed
        for blob in known.blobs():
            assert blob.digest in self.blobs, f"{blob.digest} is missing"
        for child in known.children():
            assert child.digest in self.manifests, f"{child.digest} is missing"
        self.manifests[str(manifest.digest)] = manifest
        self.put_order.append(tag or str(manifest.digest))
        if tag is not None:
            self.by_tag[tag] = manifest

    async def close(self) -> None:
        return

    def holds(self, image: Image) -> bool:
        return all(self.blobs.get(digest) == data for digest, data in image.blobs.items())


class MemorySaved:
    """A saved image; ``known``: whether it knows its diff ids before it is read."""

    def __init__(self, *layers: bytes, name: str = "saved:image", known: bool = False) -> None:
        self.name = name
        self.stream = {f"layer-{i}.tar": data for i, data in enumerate(layers)}
        self.order = list(self.stream)
        self.known = known
        self.claimed: dict[str, Digest] = {}
        """By path, where the config says something else than the truth."""
        self.cut: dict[str, int] = {}
        self.aliases: dict[str, str] = {}
        self.read_paths: list[str] = []
        self.piece = 50_000
        self.before_piece: Callable[[str, int], Awaitable[None]] = nothing
        self.unpacked: dict[str, bytes] = {}

    def diff_id(self, path: str) -> Digest:
        path = self.aliases.get(path, path)
        return self.claimed.get(path) or Digest.of(self.unpacked.get(path, self.stream[path]))

    async def diff_ids(self) -> Sequence[Digest]:
        return tuple(map(self.diff_id, self.order)) if self.known else ()

    async def layers(self) -> AsyncIterator[SavedLayer]:
        for path, data in sorted(self.stream.items(), reverse=True):
            known = self.diff_id(path) if self.known else None
            yield SavedLayer(path, len(data), partial(self._read, path), known)

    async def _read(self, path: str) -> AsyncIterator[bytes]:
        self.read_paths.append(path)
        data = self.stream[path][: self.cut.get(path)]
        for at in range(0, len(data), self.piece):
            await self.before_piece(path, at)
            await asyncio.sleep(0)
            yield data[at : at + self.piece]

    async def config(self) -> SavedConfig:
        diff_ids = tuple(map(self.diff_id, self.order))
        document = {"rootfs": {"type": "layers", "diff_ids": list(map(str, diff_ids))}}
        return SavedConfig(json.dumps(document).encode(), tuple(self.order), diff_ids, ("image:latest",), self.aliases)

    async def close(self) -> None:
        return


class FolderDestination:
    """A file a blob in a folder: ``<hex>.partial`` until it landed, then ``<hex>``."""

    name = "folder"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun: tuple[RawManifest, Sequence[RawManifest], str | None] | None = None
        self.finished = False
        self.abandoned = False

    async def begin(self, root: RawManifest, manifests: Sequence[RawManifest], tag: str | None) -> None:
        self.folder.mkdir(exist_ok=True)
        self.begun = (root, manifests, tag)

    def whole(self, digest: str) -> Path:
        return self.folder / Digest.parse(digest).hex

    def partial(self, digest: str) -> Path:
        return self.whole(digest).with_suffix(".partial")

    async def slot(self, blob: Descriptor) -> Slot | None:
        if self.whole(blob.digest).exists():
            return None
        path = self.partial(blob.digest)
        if not path.exists():
            path.write_bytes(b"head")
        return Slot(str(path), 4)

    async def landed(self, blob: Descriptor) -> None:
        data = self.partial(blob.digest).read_bytes()[4:]
        assert hashlib.new(blob.parsed.algorithm, data).hexdigest() == blob.parsed.hex, "what landed was not verified"
        assert len(data) == blob.size
        os.replace(self.partial(blob.digest), self.whole(blob.digest))

    async def finish(self) -> None:
        self.finished = True

    async def abandon(self) -> None:
        self.abandoned = True

    def holds(self, *images: Image) -> bool:
        return self.finished and all(
            self.whole(digest).exists() and self.whole(digest).read_bytes()[4:] == data
            for image in images
            for digest, data in image.blobs.items()
        )


def once(error: Callable[[], Exception] = lambda: Unreachable("it broke")) -> Callable[[str, int], Awaitable[None]]:
    """A hook that fails the first time for each place."""
    seen: set[tuple[str, int]] = set()

    async def hook(where: str, at: int) -> None:
        if (where, at) not in seen:
            seen.add((where, at))
            raise error()

    return hook
