"""Manifests and tags: pushed, pulled, deleted (distribution spec, "Pushing Manifests", "Content Management").

The order of writes keeps what was acknowledged whole, whatever is interrupted: children are checked (and their
leases renewed), then the manifest, then its place among the referrers of its subject, then the marker of each tag,
then the tag.
Deleting goes the other way round, the manifest last: so whatever is interrupted, the next delete still finds what is
left to do. A push and a delete of one manifest at once see each other: the push looks for the manifest after it wrote
what belongs to it, and writes all again where it is gone; the delete looks for what belongs to it once more after it
removed the manifest, and leaves it where the manifest is back.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

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
from bucketry.registry.guards import FREE, TagGuard
from bucketry.registry.referrers import Referrers
from bucketry.registry.settings import Clock, RegistrySettings
from bucketry.registry.sharing import SharedReads
from bucketry.store.contract import (
    IF_ABSENT,
    Corrupt,
    IfMatch,
    ListedObject,
    NotFound,
    PreconditionFailed,
    Store,
    StoredObject,
    Unavailable,
)
from bucketry.store.contract import (
    Unsupported as StoreUnsupported,
)

DIGEST_METADATA = "digest"
PARSED_IN_THREAD = 256 * 1024
"""Bytes: a larger manifest takes long enough to parse that other requests would wait for it."""
_KNOWN_REPOSITORIES = 10_000
_NAMED = 128
"""Children that are missing after which no others are looked for: 4 MiB can name tens of thousands."""
_TAG_ATTEMPTS = 5

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


class Manifests:
    def __init__(
        self, store: Store, blobs: Blobs, referrers: Referrers, *, clock: Clock, settings: RegistrySettings
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._referrers = referrers
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
        return StoredManifest(_tag_digest(held), held.info.content_type, held.body)

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
        kept = [(name, why) for name in names if (why := guard.moves(name)) is not None]
        await _each(lambda one: self._require_same(repository, *one, digest), kept)
        await self._require_children(repository, manifest)
        await self._list_repository(repository)
        subject = None if manifest.subject is None else manifest.subject.parsed
        for _ in range(_TAG_ATTEMPTS):
            await self._write(repository, digest, manifest, body, names, dict(kept))
            # Someone may have deleted the manifest before what belongs to it was there to be deleted with it.
            alone = not names and subject is None
            if alone or await self._exists(layout.manifest(repository, digest)):
                return Pushed(digest, subject, names)
        raise Unavailable(f"manifest {digest} of {repository} is deleted again and again while it is pushed")

    async def delete(self, repository: str, reference: Digest | str, *, guard: TagGuard = FREE) -> None:
        """A tag alone, or a manifest with every tag that points to it.

        Raises `ManifestUnknown`, and `Denied` where a tag would go that the guard keeps: then no tag has gone, but for
        those of a manifest that such a tag is put on at the same time.
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
        if guard is not FREE:
            async for page in self._markers(repository, reference):
                names = map(_tag_of, page)
                await _each(lambda name: self._require_deletable(repository, name, reference, guard), names)
        subject = parse_manifest(held.body, held.info.content_type).subject
        if subject is not None:
            await self._referrers.remove(repository, subject.parsed, reference)
        async for page in self._markers(repository, reference):
            await _each(lambda name: self._delete_tag(repository, name, reference, guard), map(_tag_of, page))
        await self._store.delete(key)
        await self._delete_left(repository, reference, guard)
        if subject is not None:
            await self._delete_left_referrer(repository, subject.parsed, reference)

    async def _write(
        self,
        repository: str,
        digest: Digest,
        manifest: Manifest,
        body: bytes,
        tags: Sequence[str],
        kept: Mapping[str, str],
    ) -> None:
        """``kept``: tags that are not moved, and why."""
        await self._store.put(layout.manifest(repository, digest), body, content_type=manifest.media_type)
        if manifest.subject is not None:
            await self._referrers.add(repository, manifest.subject.parsed, digest, manifest.referrer(digest, len(body)))
        for tag in tags:
            await self._store.put(layout.tagged(repository, digest) + tag, b"")
            await self._put_tag(repository, tag, digest, manifest.media_type, body, kept.get(tag))

    async def _put_tag(
        self, repository: str, tag: str, digest: Digest, media_type: str, body: bytes, why: str | None
    ) -> None:
        """``why``: the reason not to move it, if it points to another manifest."""
        while True:
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
        if _tag_digest(held) != digest:
            raise Denied(why, detail={"tag": tag})
        return True

    async def _require_deletable(self, repository: str, tag: str, digest: Digest, guard: TagGuard) -> None:
        why = guard.deletes(tag)
        if why is not None and await self._pointing(layout.tag(repository, tag), digest) is not None:
            raise Denied(why, detail={"tag": tag})

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
            for tag in (_tag_of(marker) for marker, etag in zip(markers, etags, strict=True) if etag is not None):
                why = guard.deletes(tag)
                if why is not None and await self._put_back(repository, digest, tag):
                    raise Denied(why, detail={"tag": tag})
            await _each(self._delete_marked, zip(markers, tags, etags, strict=True))

    async def _put_back(self, repository: str, digest: Digest, tag: str) -> bool:
        """Whether the tag still points to the manifest, which is then there again: a tag holds all of it."""
        try:
            held = await self._store.get(layout.tag(repository, tag))
        except NotFound:
            return False
        if _tag_digest(held) != digest:
            return False
        await self._write(repository, digest, parse_manifest(held.body, held.info.content_type), held.body, (), {})
        return True

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
        return held.info.etag if _tag_digest(held) == digest else None

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


def _tag_digest(held: StoredObject) -> Digest:
    digest = held.info.metadata.get(DIGEST_METADATA)
    if digest is None:
        raise Corrupt(f"{held.info.key} does not say which digest it points to: the store lost its metadata")
    return Digest.parse(digest)
