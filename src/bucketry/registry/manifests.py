"""Manifests and tags: pushed, pulled, deleted (distribution spec, "Pushing Manifests", "Content Management").

The order of writes keeps what was acknowledged whole, whatever is interrupted: children are checked (and their
leases renewed), then the manifest, then its place among the referrers of its subject, then the marker of each tag,
then the tag.
Deleting goes the other way round by what a reader sees: the manifest first, then the tags that point to it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from bucketry.oci import Digest, Kind, Manifest, parse_manifest
from bucketry.oci.errors import (
    DigestMismatch,
    ManifestBlobUnknown,
    ManifestTooLarge,
    ManifestUnknown,
    Unsupported,
)
from bucketry.registry import layout
from bucketry.registry.blobs import CHECKS_AT_ONCE, Blobs
from bucketry.registry.referrers import Referrers
from bucketry.registry.settings import Clock, RegistrySettings
from bucketry.registry.sharing import SharedReads
from bucketry.store.contract import (
    IF_ABSENT,
    Corrupt,
    IfMatch,
    NotFound,
    PreconditionFailed,
    Store,
    StoredObject,
)
from bucketry.store.contract import (
    Unsupported as StoreUnsupported,
)

DIGEST_METADATA = "digest"
PARSED_IN_THREAD = 256 * 1024
"""Bytes: a larger manifest takes long enough to parse that other requests would wait for it."""
_KNOWN_REPOSITORIES = 10_000
_TAG_ATTEMPTS = 5


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
    ) -> Pushed:
        """Keeps a manifest under its digest, and under ``reference`` and ``tags`` where they are tags.

        Raises `ManifestTooLarge`, `ManifestInvalid`, `DigestMismatch`, `ManifestBlobUnknown`.
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
        await self._require_children(repository, manifest)
        await self._list_repository(repository)
        names = tuple(dict.fromkeys(tags))
        for _ in range(_TAG_ATTEMPTS):
            await self._write(repository, digest, manifest, body, names)
            # Someone may have deleted the manifest by digest before our tags were there to be deleted with it.
            if not names or await self._exists(layout.manifest(repository, digest)):
                break
        subject = None if manifest.subject is None else manifest.subject.parsed
        return Pushed(digest, subject, names)

    async def delete(self, repository: str, reference: Digest | str) -> None:
        """A tag alone, or a manifest with every tag that points to it. Raises `ManifestUnknown`."""
        if not self._settings.delete:
            raise Unsupported("this registry does not delete: its owner set delete.enabled = false")
        if not isinstance(reference, Digest):
            await self._read(layout.tag(repository, reference), repository, reference)
            await self._store.delete(layout.tag(repository, reference))
            return
        key = layout.manifest(repository, reference)
        held = await self._read(key, repository, reference)
        manifest = parse_manifest(held.body, held.info.content_type)
        await self._store.delete(key)
        await self._delete_tags(repository, reference)
        if manifest.subject is not None:
            await self._referrers.remove(repository, manifest.subject.parsed, reference)

    async def _write(
        self, repository: str, digest: Digest, manifest: Manifest, body: bytes, tags: Sequence[str]
    ) -> None:
        await self._store.put(layout.manifest(repository, digest), body, content_type=manifest.media_type)
        if manifest.subject is not None:
            await self._referrers.add(repository, manifest.subject.parsed, digest, manifest.referrer(digest, len(body)))
        for tag in tags:
            await self._store.put(layout.tagged(repository, digest) + tag, b"")
            await self._store.put(
                layout.tag(repository, tag),
                body,
                content_type=manifest.media_type,
                metadata={DIGEST_METADATA: str(digest)},
            )

    async def _delete_tags(self, repository: str, digest: Digest) -> None:
        prefix = layout.tagged(repository, digest)
        after: str | None = None
        while True:
            page = await self._store.list(prefix, after=after)
            for marker in page.objects:
                await self._delete_tag_of(repository, marker.key.removeprefix(prefix), digest)
            await self._store.delete_many([marker.key for marker in page.objects])
            if not page.more:
                return
            after = page.objects[-1].key

    async def _delete_tag_of(self, repository: str, tag: str, digest: Digest) -> None:
        """Deletes a tag, if it points to ``digest``: a marker alone proves nothing, as tags move."""
        key = layout.tag(repository, tag)
        while True:
            try:
                held = await self._store.get(key)
            except NotFound:
                return
            if _tag_digest(held) != digest:
                return
            try:
                await self._store.delete(key, condition=IfMatch(held.info.etag))
            except PreconditionFailed:
                continue
            except StoreUnsupported:
                await self._store.delete(key)
            return

    async def _require_children(self, repository: str, manifest: Manifest) -> None:
        await self._blobs.require(repository, {blob.parsed for blob in manifest.blobs()})
        if manifest.kind is not Kind.INDEX or self._settings.sparse_indexes:
            return
        turns = asyncio.Semaphore(CHECKS_AT_ONCE)

        async def missing(digest: Digest) -> Digest | None:
            async with turns:
                return None if await self._exists(layout.manifest(repository, digest)) else digest

        children = {child.parsed for child in manifest.children()}
        absent = [d for d in await asyncio.gather(*map(missing, children)) if d is not None]
        if absent:
            raise ManifestBlobUnknown(
                f"the index names {len(absent)} manifest(s) that {repository} does not have: "
                f"{', '.join(map(str, absent[:5]))}{', …' if len(absent) > 5 else ''}. Push them first, or let the "
                "registry's owner set manifest.sparse_indexes = true.",
                detail={"digests": [str(digest) for digest in absent]},
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


def _parse(body: bytes, content_type: str | None, algorithm: str) -> tuple[Manifest, Digest]:
    return parse_manifest(body, content_type), Digest.of(body, algorithm)


def _tag_digest(held: StoredObject) -> Digest:
    digest = held.info.metadata.get(DIGEST_METADATA)
    if digest is None:
        raise Corrupt(f"{held.info.key} does not say which digest it points to: the store lost its metadata")
    return Digest.parse(digest)
