"""A saved image on its way to a target: its layers are compressed, hashed and sent at once, as they come.

What a layer's digest will be is not known before its last byte. So its parts go to a session that was begun without
one; an image that comes again is known by what was noted of its layers before (`bucketry.transfer.layer_cache`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from bucketry import hashing
from bucketry.hashing import NotingHasher
from bucketry.oci import Descriptor, Digest, media_types
from bucketry.registry.budget import Reservation
from bucketry.transfer.compress import decompress, is_compressed
from bucketry.transfer.contract import (
    HashedUpload,
    PartUpload,
    RawManifest,
    SavedConfig,
    SavedImage,
    SavedLayer,
    Target,
)
from bucketry.transfer.crew import Crew, closing, crew, in_thread
from bucketry.transfer.cutting import Cutter
from bucketry.transfer.diff import MOST, DiffHash
from bucketry.transfer.errors import ContentMismatch, Refused, SourceDamaged
from bucketry.transfer.events import Done, Found, Moved, Read, Resumed, Skipped
from bucketry.transfer.journal import Entry
from bucketry.transfer.sending import complete, goes_by_put, put, releasing
from bucketry.transfer.spool import Spool, put_file
from bucketry.transfer.work import Work

LARGE = 4
"""Parts that a layer has, as it comes, where its session is begun before it was compressed to see."""

MOST_LAYERS = 10_000

_MEDIA_TYPES = {"gzip": media_types.OCI_LAYER_GZIP, "zstd": media_types.OCI_LAYER_ZSTD}


class Compressing(Protocol):
    """How layers are compressed. The same bytes lead to the same bytes, as long as ``form`` is the same."""

    @property
    def form(self) -> str: ...

    @property
    def media_type(self) -> str: ...

    def __call__(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class _Layer:
    diff_id: Digest
    blob: Descriptor


class SavedSending:
    def __init__(self, work: Work, saved: SavedImage, target: Target, compressing: Compressing) -> None:
        self._work = work
        self._saved = saved
        self._target = target
        self._compressing = compressing
        self._by_path: dict[str, _Layer] = {}
        self._there: dict[Digest, _Layer] = {}
        self._takes_parts = False

    async def send(self) -> RawManifest:
        """The image's manifest, once everything it names is there. Raises `SourceDamaged`."""
        work, saved = self._work, self._saved
        self._takes_parts = await work.patiently(self._target.name, self._target.takes_parts)
        diff_ids = await saved.diff_ids()
        for diff_id in dict.fromkeys(diff_ids):
            await self._look_for(diff_id)
        all_there = bool(diff_ids) and all(diff_id in self._there for diff_id in diff_ids)
        count = 0
        async with crew() as tasks, closing(saved.layers()) as layers:
            async for layer in layers:
                count += 1
                if count > MOST_LAYERS:
                    raise SourceDamaged(f"{saved.name} has more than {MOST_LAYERS} layers")
                work.tell(Found(item=layer.path, kind="layer"))
                if all_there:
                    work.tell(Skipped(item=layer.path, why="already there"))
                else:
                    await self._layer(tasks, layer)
        config = await saved.config()
        manifest = self._manifest(config)
        await self._config(config)
        return manifest

    async def _look_for(self, diff_id: Digest) -> _Layer | None:
        """The layer, where it was compressed before and the target has it."""
        if diff_id in self._there:
            return self._there[diff_id]
        known = self._work.layers.get(diff_id, self._compressing.form)
        if known is None:
            return None
        blob = Descriptor(media_type=self._compressing.media_type, digest=known.digest, size=known.size)
        if not await self._work.patiently(str(diff_id), lambda: self._target.has_blob(blob)):
            return None
        self._there[diff_id] = _Layer(diff_id, blob)
        return self._there[diff_id]

    async def _layer(self, tasks: Crew, layer: SavedLayer) -> None:
        if layer.diff_id is not None:
            there = await self._look_for(layer.diff_id)
            if there is not None:
                self._by_path[layer.path] = there
                self._work.tell(Skipped(item=layer.path, why="already there", size=there.blob.size))
                return
        first = b""
        read = layer.read()
        async with closing(read):
            # As many bytes as tell what it is.
            while len(first) < 6 and (piece := await anext(read, b"")):
                first += piece
            raw = self._whole(layer, first, read)
            packed = is_compressed(first)
            if packed in _MEDIA_TYPES:
                hashed = DiffHash(packed=True)
                media_type = _MEDIA_TYPES[packed]
                pieces = hashed.through(raw)
            else:
                hashed = DiffHash(packed=False)
                media_type = self._compressing.media_type
                # bzip2 and xz have no media type of their own.
                pieces = self._compressing(hashed.through(raw if packed is None else decompress(raw, most=MOST)))
            async with closing(pieces):
                going = _LayerSending(self, tasks, layer, hashed, pieces, media_type, ours=packed not in _MEDIA_TYPES)
                await (going.as_parts() if self._takes_parts else going.by_file())

    async def _whole(self, layer: SavedLayer, first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        size = 0
        piece = first
        while piece:
            size += len(piece)
            self._work.tell(Read(item=layer.path, size=len(piece)))
            yield piece
            piece = await anext(rest, b"")
        if size != layer.size:
            raise SourceDamaged(
                f"{self._saved.name} is damaged: layer {layer.path} ends after {size} of {layer.size} bytes"
            )

    def landed(self, layer: SavedLayer, diff_id: Digest, blob: Descriptor, *, ours: bool) -> None:
        """Notes a layer that is there. ``ours``: it was compressed here."""
        self._by_path[layer.path] = _Layer(diff_id, blob)
        if ours:
            self._there[diff_id] = self._by_path[layer.path]
            self._work.layers.add(diff_id, self._compressing.form, blob.parsed, blob.size)

    def _manifest(self, config: SavedConfig) -> RawManifest:
        if len(config.layers) != len(config.diff_ids):
            raise SourceDamaged(
                f"{self._saved.name} is damaged: {len(config.layers)} layers, {len(config.diff_ids)} in its config"
            )
        layers = [self._checked_layer(config, i) for i in range(len(config.layers))]
        body = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": media_types.OCI_MANIFEST,
                "config": _entry(media_types.OCI_CONFIG, str(Digest.of(config.config)), len(config.config)),
                "layers": [_entry(layer.media_type, layer.digest, layer.size) for layer in layers],
            },
            separators=(",", ":"),
        ).encode()
        return RawManifest(body, media_types.OCI_MANIFEST, Digest.of(body))

    def _checked_layer(self, config: SavedConfig, i: int) -> Descriptor:
        path, diff_id = config.layers[i], config.diff_ids[i]
        layer = self._by_path.get(path) or self._by_path.get(config.aliases.get(path, ""))
        layer = layer or self._there.get(diff_id)
        if layer is None:
            raise SourceDamaged(f"{self._saved.name} is damaged: layer {path} is missing")
        if layer.diff_id != diff_id:
            raise SourceDamaged(
                f"{self._saved.name} is damaged: layer {path} has digest {layer.diff_id}, its config says {diff_id}"
            )
        return layer.blob

    async def _config(self, config: SavedConfig) -> None:
        digest = Digest.of(config.config)
        blob = Descriptor(media_type=media_types.OCI_CONFIG, digest=str(digest), size=len(config.config))
        self._work.tell(Found(item=blob.digest, kind="config", size=blob.size))
        await put_small(self._work, self._target, blob.digest, blob, config.config)

    @property
    def work(self) -> Work:
        return self._work

    @property
    def target(self) -> Target:
        return self._target

    @property
    def source_name(self) -> str:
        return self._saved.name

    @property
    def form(self) -> str:
        return self._compressing.form


async def put_small(work: Work, target: Target, item: str, blob: Descriptor, body: bytes | memoryview) -> None:
    """A blob that is in memory, if it is not there."""
    if await work.patiently(item, lambda: target.has_blob(blob)):
        work.tell(Skipped(item=item, why="already there", size=blob.size))
        return

    by_put = await goes_by_put(work, target, blob)

    async def attempt() -> None:
        if not by_put:
            await target.put_blob(blob, _pieces(body))
            return
        upload = await target.begin(digest=blob.parsed, size=blob.size, part_size=work.settings.part(blob.size))
        if upload is not None:
            await upload.put(1, body)
            await upload.complete(blob.parsed, blob.size, None, verified=lambda size: None)

    await work.outgoing.run(attempt, blob.size, work.again(item))
    work.tell(Moved(item=item, size=blob.size))
    work.tell(Done(item=item, digest=blob.digest, size=blob.size))


class _LayerSending:
    """One layer: its stream is read to the end here; what is on its way then goes on while the next layer is read."""

    def __init__(
        self,
        sending: SavedSending,
        tasks: Crew,
        layer: SavedLayer,
        hashed: DiffHash,
        pieces: AsyncIterator[bytes],
        media_type: str,
        *,
        ours: bool,
    ) -> None:
        self._sending = sending
        self._work = sending.work
        self._target = sending.target
        self._tasks = tasks
        self._layer = layer
        self._hashed = hashed
        self._ours = ours
        self._cutter = Cutter(pieces)
        self._media_type = media_type
        self._hasher = NotingHasher(hashing.new("sha256"))
        self._item = layer.path
        self._puts: list[asyncio.Task[None]] = []
        self._own = False

    def _blob(self) -> Descriptor:
        digest = f"sha256:{self._hasher.hexdigest()}"
        return Descriptor(media_type=self._media_type, digest=digest, size=self._hasher.length)

    async def by_file(self) -> None:
        """The registry wants the digest first: through a file that has no name, in the order of the stream."""
        spool = Spool()
        try:
            async for piece in self._cutter.rest():
                await in_thread(self._hasher.update, piece)
                await in_thread(spool.write, piece)
            blob, diff_id = self._blob(), self._hashed.diff_id()
        except BaseException:
            spool.close()
            raise
        self._tasks.task(self._send_file(spool, blob, diff_id)).add_done_callback(lambda task: spool.close())

    async def _send_file(self, spool: Spool, blob: Descriptor, diff_id: Digest) -> None:
        await put_file(self._work, self._target, self._item, blob, spool)
        self._sending.landed(self._layer, diff_id, blob, ours=self._ours)

    def _about(self) -> tuple[str, ...]:
        layer = self._layer
        what = f"{self._sending.source_name} {layer.path} {layer.size}" if layer.diff_id is None else str(layer.diff_id)
        return (self._target.name, what, self._sending.form if self._ours else "as it is")

    async def as_parts(self) -> None:
        work = self._work
        wish = work.settings.part(self._layer.size)
        entry = work.sessions.find(*self._about())
        upload, sent = await self._resume(entry)
        if upload is None and self._layer.size <= LARGE * wish:
            reservation = await work.budget.reserve(wish)
            try:
                body = await self._cutter.fill(wish)
                if not await self._cutter.more():
                    await self._small(body, reservation)
                    return
                self._cutter.put_back(body)
            finally:
                # What was put back is counted again with the parts it goes into.
                reservation.release()
        if upload is None:
            upload = await work.patiently(self._item, lambda: self._target.begin(part_size=wish))
            if upload is None:
                raise Refused(f"{self._target.name} says of a blob whose digest it was not told that it is there")
            entry, sent = work.sessions.begin(*self._about(), note=upload.session), {}
            self._own = isinstance(upload, HashedUpload)
        assert entry is not None
        await self._parts(upload, entry, sent)

    async def _resume(self, entry: Entry | None) -> tuple[PartUpload | None, dict[int, int]]:
        if entry is None:
            return None, {}
        session = entry.note
        upload = await self._work.patiently(self._item, lambda: self._target.resume(session))
        if upload is None:
            entry.remove()
            return None, {}
        return upload, dict(await self._work.patiently(self._item, upload.sent))

    async def _small(self, body: bytearray, reservation: Reservation) -> None:
        await in_thread(self._hasher.update, body)
        sending = self._tasks.task(self._send_small(bytes(body), self._blob(), self._hashed.diff_id()))
        sending.add_done_callback(releasing(reservation.hand_over()))

    async def _send_small(self, body: bytes, blob: Descriptor, diff_id: Digest) -> None:
        await put_small(self._work, self._target, self._item, blob, body)
        self._sending.landed(self._layer, diff_id, blob, ours=self._ours)

    async def _parts(self, upload: PartUpload, entry: Entry, sent: dict[int, int]) -> None:
        work = self._work
        number = 0
        while await self._cutter.more():
            number += 1
            if number > upload.max_parts:
                raise Refused(
                    f"layer {self._item} has more than {upload.max_parts} parts of {upload.part_size} bytes: "
                    "ask for larger parts"
                )
            reservation = await work.budget.reserve(upload.part_size)
            try:
                body = await self._cutter.fill(upload.part_size)
                await in_thread(self._hasher.update, body)
                # All bytes up to here have this digest: it tells whether an earlier run sent the same.
                so_far = self._hasher.hexdigest()
                if sent.get(number) == len(body) and entry.marks.get(number) == so_far:
                    work.tell(Resumed(item=self._item, size=len(body)))
                    continue
                putting = self._tasks.task(self._put(upload, entry, number, body, so_far))
                putting.add_done_callback(releasing(reservation.hand_over()))
                self._puts.append(putting)
            finally:
                reservation.release()
        self._tasks.task(self._finish(upload, entry, self._blob(), self._hashed.diff_id()))

    async def _put(self, upload: PartUpload, entry: Entry, number: int, body: bytearray, so_far: str) -> None:
        await put(self._work, self._item, upload, number, body, note=partial(entry.mark, number, so_far))

    async def _finish(self, upload: PartUpload, entry: Entry, blob: Descriptor, diff_id: Digest) -> None:
        # The crew gives up everything where one of them fails, this task too.
        await asyncio.gather(*self._puts)
        self._puts.clear()
        checkpoints = self._hasher.checkpoints()
        try:
            await complete(self._work, self._item, upload, blob, checkpoints, own=self._own)
        except ContentMismatch as error:
            entry.remove()
            raise ContentMismatch(f"{error}; its upload begins anew when this is run again") from error
        self._sending.landed(self._layer, diff_id, blob, ours=self._ours)
        entry.remove()
        self._work.tell(Done(item=self._item, digest=blob.digest, size=blob.size))


async def _pieces(body: bytes | memoryview) -> AsyncIterator[bytes]:
    view = memoryview(body)
    for start in range(0, len(view), 1024 * 1024):
        yield bytes(view[start : start + 1024 * 1024])


def _entry(media_type: str, digest: str, size: int) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": digest, "size": size}
