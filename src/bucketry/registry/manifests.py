"""Manifests and tags: pushed, pulled, deleted (distribution spec, "Pushing Manifests", "Content Management").

The order of writes keeps what was acknowledged whole, whatever is interrupted: children are checked (and their
leases renewed), then the manifest, then its place among the referrers of its subject, then the marker of each tag,
then the tag. The marker of a tag that is never deleted comes before all, see `bucketry.registry.contents`.
Deleting goes the other way round, the manifest last: so whatever is interrupted, the next delete still finds what is
left to do. A push and a delete of one manifest at once see each other: the push looks for the manifest after it wrote
what belongs to it, and writes all again where it is gone; the delete looks for what belongs to it once more after it
removed the manifest, and leaves it where the manifest is back.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from bucketry.oci import Digest, Manifest, parse_manifest
from bucketry.oci.errors import (
    Denied,
    DigestMismatch,
    ManifestBlobUnknown,
    ManifestTooLarge,
    ManifestUnknown,
    Unsupported,
)
from bucketry.registry import layout
from bucketry.registry.blobs import CHECKS_AT_ONCE, Blobs
from bucketry.registry.contents import DIGEST_METADATA as DIGEST_METADATA
from bucketry.registry.contents import IN_TIME, Contents, tag_digest
from bucketry.registry.contents import PARSED_IN_THREAD as PARSED_IN_THREAD
from bucketry.registry.guards import FREE, TagGuard
from bucketry.registry.referrers import Referrers
from bucketry.registry.settings import Clock, RegistrySettings
from bucketry.registry.sharing import SharedReads
from bucketry.store.contract import (
    IF_ABSENT,
    IfMatch,
    ListedObject,
    NotFound,
    PreconditionFailed,
    Store,
    StoredObject,
    StoreError,
    Unavailable,
)
from bucketry.store.contract import (
    Unsupported as StoreUnsupported,
)

_KNOWN_REPOSITORIES = 10_000
_NAMED = 128
"""Children that are missing after which no others are looked for: 4 MiB can name tens of thousands."""
_TAG_ATTEMPTS = 5
MOST_TAGGED = 64 * 1024 * 1024
"""Bytes of all the tags of one push together, as each is the manifest again: 16 of the largest manifest."""

_A = TypeVar("_A")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as it was pushed: its exact bytes, and the media type it was pushed with."""

    digest: Digest
    media_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Pushed:
    digest: Digest
    subject: Digest | None
    """Of a manifest that refers to another ("Pushing Manifests with Subject")."""
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Writing:
    """How a manifest is written. ``kept``: tags that are not moved, and why. ``marked``: those of them that have their
    markers, and are to be written before the clock's monotonic ``end``."""

    tags: Sequence[str] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    marked: Sequence[str] = ()
    end: float = 0.0
    keeps_type: bool = False
    """Whether a manifest that is there already keeps its media type."""


class _OutOfTime(Exception):
    """The children were looked for so long ago that a delete may not believe in this push any more."""


class Manifests:
    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        referrers: Referrers,
        contents: Contents,
        *,
        clock: Clock,
        settings: RegistrySettings,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._referrers = referrers
        self._contents = contents
        self._clock = clock
        self._settings = settings
        self._reads: SharedReads[StoredObject] = SharedReads(store.get)
        self._in_catalog: OrderedDict[str, None] = OrderedDict()

    async def get(self, repository: str, reference: Digest | str) -> StoredManifest:
        """By digest or tag, in one read. Raises `ManifestUnknown`."""
        if isinstance(reference, Digest):
            held = await self._read(layout.manifest(repository, reference), repository, reference)
            return StoredManifest(reference, held.info.content_type, held.body)
        held = await self._read(layout.tag(repository, reference), repository, reference)
        return StoredManifest(tag_digest(held.info), held.info.content_type, held.body)

    async def push(
        self,
        repository: str,
        reference: Digest | str,
        body: bytes,
        content_type: str | None,
        *,
        tags: Sequence[str] = (),
        guard: TagGuard = FREE,
    ) -> Pushed:
        """Keeps a manifest under its digest, and under ``reference`` and ``tags`` where they are tags.

        Raises `ManifestTooLarge`, `ManifestInvalid`, `DigestMismatch`, `ManifestBlobUnknown`, and `Denied` for a tag
        that the guard keeps where it is: nothing is tagged then, unless another push takes a tag at the same time.
        Where tags may hold what they name, the same bytes are not given another media type either: `Denied`.
        """
        if len(body) > self._settings.max_manifest:
            raise ManifestTooLarge(
                f"the manifest has more than {self._settings.max_manifest} bytes, which is the most this registry takes"
            )
        algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
        if len(body) > PARSED_IN_THREAD:
            manifest, digest = await asyncio.to_thread(_parse, body, content_type, algorithm)
        else:
            manifest, digest = _parse(body, content_type, algorithm)
        if isinstance(reference, Digest):
            if digest != reference:
                raise DigestMismatch(
                    f"the manifest's digest is {digest}, not {reference}: send the very bytes that were hashed",
                    detail={"expected": str(reference), "actual": str(digest)},
                )
        else:
            tags = (reference, *tags)
        names = tuple(dict.fromkeys(tags))
        if len(names) * len(body) > MOST_TAGGED:
            raise ManifestTooLarge(
                f"{len(names)} tags of a manifest of {len(body)} bytes are more than one push writes: push at most "
                f"{MOST_TAGGED // len(body)} of them at a time"
            )
        kept = {name: why for name in names if (why := guard.moves(name) or guard.deletes(name)) is not None}
        await _each(lambda one: self._require_same(repository, *one, digest), kept.items())
        fixed = [name for name in names if guard.deletes(name) is not None]
        keeps_type = guard.holds and not _says_its_type(body)
        subject = None if manifest.subject is None else manifest.subject.parsed
        for attempt in range(_TAG_ATTEMPTS):
            end = self._clock.monotonic() + IN_TIME
            await _each(lambda tag: self._mark(repository, digest, tag, body, manifest.media_type), fixed)
            if fixed or not attempt:
                await self._require_children(repository, manifest)
            await self._list_repository(repository)
            try:
                await self._write(
                    repository, digest, manifest, body, _Writing(names, kept, fixed, end, keeps_type=keeps_type)
                )
            except _OutOfTime:
                continue
            # Someone may have deleted the manifest before what belongs to it was there to be deleted with it.
            alone = not names and subject is None
            if alone or await self._exists(layout.manifest(repository, digest)):
                return Pushed(digest, subject, names)
        raise Unavailable(
            f"manifest {digest} of {repository} is deleted again and again while it is pushed, or the store is too slow"
        )

    async def delete(self, repository: str, reference: Digest | str, *, guard: TagGuard = FREE) -> None:
        """A tag alone, or a manifest with every tag that points to it.

        Raises `ManifestUnknown`, and `Denied` where a tag would go that the guard keeps, or something that such a tag
        holds: then nothing has gone, but for other tags of a manifest that such a tag is put on at the same time.
        """
        if not self._settings.delete:
            raise Unsupported("this registry does not delete: its owner set delete.enabled = false")
        if not isinstance(reference, Digest):
            await self._read(layout.tag(repository, reference), repository, reference)
            _require_free(guard, reference)
            await self._store.delete(layout.tag(repository, reference))
            return
        key = layout.manifest(repository, reference)
        try:
            held = await self._read(key, repository, reference)
        except ManifestUnknown:
            await self._delete_left(repository, reference, guard)  # By a delete that was interrupted.
            raise
        manifest = parse_manifest(held.body, held.info.content_type)
        subject = manifest.subject
        async with self._contents.turn(repository, guard):
            await self._contents.require_free(repository, reference, guard)
            try:
                if subject is not None:
                    await self._referrers.remove(repository, subject.parsed, reference)
                async for page in self._markers(repository, reference):
                    await _each(lambda name: self._delete_tag(repository, name, reference, guard), map(_tag_of, page))
                await self._store.delete(key)
            except Denied:  # A tag came meanwhile.
                await self._restore(repository, reference, manifest, held.body)
                raise
            try:
                await self._contents.require_free(repository, reference, guard)
            except (Denied, StoreError):
                # Where nobody could look, too: a tag may have come.
                with suppress(StoreError):
                    await self._restore(repository, reference, manifest, held.body)
                raise
        await self._delete_left(repository, reference, guard)
        if subject is not None:
            await self._delete_left_referrer(repository, subject.parsed, reference)

    async def _mark(self, repository: str, digest: Digest, tag: str, body: bytes, media_type: str) -> None:
        await self._store.put(layout.tagged(repository, digest) + tag, body, content_type=media_type)

    async def _write(self, repository: str, digest: Digest, manifest: Manifest, body: bytes, writing: _Writing) -> None:
        """Raises `_OutOfTime`."""
        await self._put_manifest(repository, digest, manifest.media_type, body, writing.keeps_type)
        if manifest.subject is not None:
            await self._referrers.add(repository, manifest.subject.parsed, digest, manifest.referrer(digest, len(body)))
        for tag in writing.tags:
            is_marked = tag in writing.marked
            if not is_marked:
                await self._store.put(layout.tagged(repository, digest) + tag, b"")
            end = writing.end if is_marked else None
            await self._put_tag(repository, tag, digest, manifest.media_type, body, writing.kept.get(tag), end)

    async def _put_manifest(
        self, repository: str, digest: Digest, media_type: str, body: bytes, keeps_type: bool
    ) -> None:
        key = layout.manifest(repository, digest)
        while True:
            try:
                await self._store.put(key, body, content_type=media_type, condition=IF_ABSENT if keeps_type else None)
                return
            except PreconditionFailed:
                if not keeps_type:
                    raise
            try:
                found = (await self._store.head(key)).content_type
            except NotFound:
                continue
            if found != media_type:
                raise Denied(
                    f"{repository} has manifest {digest} as {found}, and has immutable tags, so what is there keeps "
                    f"its media type: push it with the Content-Type {found}",
                    detail={"digest": str(digest), "mediaType": found},
                )
            return

    async def _put_tag(
        self,
        repository: str,
        tag: str,
        digest: Digest,
        media_type: str,
        body: bytes,
        why: str | None,
        end: float | None,
    ) -> None:
        """``why``: the reason not to move it, if it points to another manifest. ``end``: the last moment to write it.

        Raises `_OutOfTime`.
        """
        while True:
            if end is not None and self._clock.monotonic() >= end:
                raise _OutOfTime
            try:
                await self._store.put(
                    layout.tag(repository, tag),
                    body,
                    content_type=media_type,
                    metadata={DIGEST_METADATA: str(digest)},
                    condition=None if why is None else IF_ABSENT,
                )
            except PreconditionFailed:
                if why is None:
                    raise
                if await self._require_same(repository, tag, why, digest):
                    return
            else:
                return

    async def _require_same(self, repository: str, tag: str, why: str, digest: Digest) -> bool:
        """Whether a tag that must not be moved is there. Raises `Denied` where it points to another manifest."""
        try:
            held = await self._store.get(layout.tag(repository, tag))
        except NotFound:
            return False
        if tag_digest(held.info) != digest:
            raise Denied(why, detail={"tag": tag})
        return True

    async def _markers(self, repository: str, digest: Digest) -> AsyncIterator[tuple[ListedObject, ...]]:
        """Those of the manifest's tags, page by page."""
        prefix = layout.tagged(repository, digest)
        after: str | None = None
        more = True
        while more:
            page = await self._store.list(prefix, after=after)
            more = page.more
            if page.objects:
                after = page.objects[-1].key
                yield page.objects

    async def _delete_tag(self, repository: str, tag: str, digest: Digest, guard: TagGuard) -> None:
        """Deletes a tag, if it points to ``digest``: a marker alone proves nothing, as tags move."""
        key = layout.tag(repository, tag)
        while (etag := await self._pointing(key, digest)) is not None:
            _require_free(guard, tag)
            if await self._delete_unchanged(key, etag):
                return

    async def _delete_left(self, repository: str, digest: Digest, guard: TagGuard) -> None:
        """Deletes the markers, and the tags that a push wrote before it could see that the manifest is gone.

        What is here was written before the manifest is looked for: so where that is not back, none of it belongs to a
        push that put it back. A push that ended just before the manifest went has been acknowledged: where the guard
        keeps its tag, the manifest is put back. Raises `Denied` then.
        """
        async for markers in self._markers(repository, digest):
            tags = [layout.tag(repository, _tag_of(marker)) for marker in markers]
            etags = await _each(lambda tag: self._pointing(tag, digest), tags)
            if await self._exists(layout.manifest(repository, digest)):
                return
            left: list[tuple[ListedObject, str, str | None]] = []
            for marker, tag, etag in zip(markers, tags, etags, strict=True):
                why = guard.deletes(_tag_of(marker))
                if why is not None and etag is not None:
                    if await self._put_back(repository, digest, _tag_of(marker)):
                        raise Denied(why, detail={"tag": _tag_of(marker)})
                elif why is None or not self._contents.is_under_way(marker):
                    # Else its push, which does not write the marker again, is about to write manifest and tag.
                    left.append((marker, tag, etag))
            await _each(self._delete_marked, left)

    async def _put_back(self, repository: str, digest: Digest, tag: str) -> bool:
        """Whether the tag still points to the manifest, which is then there again: a tag holds all of it."""
        try:
            held = await self._store.get(layout.tag(repository, tag))
        except NotFound:
            return False
        if tag_digest(held.info) != digest:
            return False
        await self._restore(repository, digest, parse_manifest(held.body, held.info.content_type), held.body)
        return True

    async def _restore(self, repository: str, digest: Digest, manifest: Manifest, body: bytes) -> None:
        """Puts back a manifest that was deleted, and its place among the referrers of its subject."""
        with suppress(Denied):  # Somebody has pushed it since, with another media type: theirs is in force.
            await self._write(repository, digest, manifest, body, _Writing(keeps_type=True))

    async def _delete_marked(self, left: tuple[ListedObject, str, str | None]) -> None:
        """Deletes a tag, where it has an etag, and its marker, unless they changed."""
        marker, tag, etag = left
        if etag is None or await self._delete_unchanged(tag, etag):
            try:
                await self._store.delete(marker.key, condition=IfMatch(marker.etag))
            except (PreconditionFailed, StoreUnsupported):
                pass  # A marker too many does no harm, one that a tag needs and has not does.

    async def _delete_left_referrer(self, repository: str, subject: Digest, digest: Digest) -> None:
        """The same of the place among the referrers of a subject."""
        key = layout.referrer(repository, subject, digest)
        try:
            etag = (await self._store.head(key)).etag
        except NotFound:
            return
        if not await self._exists(layout.manifest(repository, digest)):
            await self._delete_unchanged(key, etag)

    async def _pointing(self, key: str, digest: Digest) -> str | None:
        """The etag of a tag that points to ``digest``; None for one that does not, or is not there."""
        try:
            held = await self._store.get(key)
        except NotFound:
            return None
        return held.info.etag if tag_digest(held.info) == digest else None

    async def _delete_unchanged(self, key: str, etag: str) -> bool:
        """Whether the object still was as it was read, and is deleted. Some stores cannot tell, and delete it."""
        try:
            await self._store.delete(key, condition=IfMatch(etag))
        except PreconditionFailed:
            return False
        except StoreUnsupported:
            await self._store.delete(key)
        return True

    async def _require_children(self, repository: str, manifest: Manifest) -> None:
        """Raises `ManifestBlobUnknown`, naming what is missing, unless the owner allows sparse manifests."""
        absent: list[Digest] = []
        for blobs in _batches([blob.parsed for blob in manifest.blobs()]):
            absent += await self._blobs.missing(repository, blobs)
            if len(absent) >= _NAMED and not self._settings.sparse:
                break
        if self._settings.sparse:
            return
        for children in _batches([child.parsed for child in manifest.children()]):
            if len(absent) >= _NAMED:
                break
            there = await _each(lambda child: self._exists(layout.manifest(repository, child)), children)
            absent += [child for child, found in zip(children, there, strict=True) if not found]
        if absent:
            count = f"at least {_NAMED}" if len(absent) > _NAMED else len(absent)
            raise ManifestBlobUnknown(
                f"{repository} does not have {count} of the blobs and manifests that the manifest names: "
                f"{', '.join(map(str, absent[:5]))}{', …' if len(absent) > 5 else ''}. Push them first, or let the "
                "registry's owner set manifest.sparse = true.",
                detail={"digests": [str(digest) for digest in absent[:_NAMED]]},
            )

    async def _list_repository(self, repository: str) -> None:
        """Puts the repository into the catalog, once."""
        if repository in self._in_catalog:
            return
        try:
            await self._store.put(layout.catalog(repository), repository.encode(), condition=IF_ABSENT)
        except PreconditionFailed:
            pass
        self._in_catalog[repository] = None
        if len(self._in_catalog) > _KNOWN_REPOSITORIES:
            self._in_catalog.popitem(last=False)

    async def _exists(self, key: str) -> bool:
        try:
            await self._store.head(key)
        except NotFound:
            return False
        return True

    async def _read(self, key: str, repository: str, reference: Digest | str) -> StoredObject:
        try:
            return await self._reads.get(key)
        except NotFound:
            kind = "manifest" if isinstance(reference, Digest) else "tag"
            raise ManifestUnknown(f"{repository} has no {kind} {reference}", detail={kind: str(reference)}) from None


async def _each(work: Callable[[_A], Awaitable[_T]], items: Iterable[_A]) -> list[_T]:
    """What ``work`` gives for each, a few at a time."""
    turns = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def one(item: _A) -> _T:
        async with turns:
            return await work(item)

    return await asyncio.gather(*map(one, items))


def _batches(digests: Sequence[Digest]) -> Iterator[Sequence[Digest]]:
    return (digests[at : at + _NAMED] for at in range(0, len(digests), _NAMED))


def _require_free(guard: TagGuard, tag: str) -> None:
    why = guard.deletes(tag)
    if why is not None:
        raise Denied(why, detail={"tag": tag})


def _tag_of(marker: ListedObject) -> str:
    return marker.key.rpartition("/")[2]


def _parse(body: bytes, content_type: str | None, algorithm: str) -> tuple[Manifest, Digest]:
    return parse_manifest(body, content_type), Digest.of(body, algorithm)


class _Typed(msgspec.Struct, rename="camel"):
    media_type: str | None = None


def _says_its_type(body: bytes) -> bool:
    """Whether the media type of a manifest that was taken follows from its bytes, whatever it is pushed as."""
    return bool(msgspec.json.decode(body, type=_Typed).media_type)
