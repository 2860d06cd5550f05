"""Manifests of the old tree, pushed: checked like any other, after all that they name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from bucketry.oci import Descriptor, Digest, Manifest, media_types, parse_manifest
from bucketry.oci.errors import ManifestInvalid, OCIError
from bucketry.registry import layout
from bucketry.registry.adoption import tree
from bucketry.registry.adoption.blobs import AdoptedBlobs
from bucketry.registry.adoption.notes import VERIFIED
from bucketry.registry.adoption.once import Once, Remembered
from bucketry.registry.adoption.taking import Broken, Stop, Taking, broken, each
from bucketry.registry.manifests import PARSED_IN_THREAD
from bucketry.store.contract import NotFound

MAX_DEPTH = 16
"""Levels of indexes in indexes."""


class AdoptedManifests:
    def __init__(self, taking: Taking, blobs: AdoptedBlobs) -> None:
        self._taking = taking
        self._blobs = blobs
        self._taken: Remembered[tuple[str, Digest]] = Remembered(taking.remembered)
        """Those that have a note of this run."""
        self._here: Remembered[tuple[str, Digest]] = Remembered(taking.remembered)
        """Those that were here before."""
        self._takes: Once[tuple[str, Digest], Broken | None] = Once()
        self._looks: Once[tuple[str, Digest], Broken | None] = Once()

    async def take(self, repository: str, digest: Digest, *, fresh: bool, depth: int = 0) -> Broken | None:
        """Takes over a manifest that had no note when the notes were listed. Why it cannot, else.

        ``fresh``: nothing of the repository had a note. ``depth``: indexes that it is in.
        """
        key = (repository, digest)
        if key in self._taken:
            return None
        if self._taken.forgot and await self._taking.exists(layout.adopted_manifest(repository, digest)):
            return None
        found = await self._takes.do(key, lambda: self._taken_over(repository, digest, fresh, depth))
        if found is None:
            self._taken.add(key)
        return found

    async def ensure(self, repository: str, digest: Digest, *, fresh: bool, depth: int = 0) -> Broken | None:
        """Takes over a manifest that an index or a tag names, unless it is here. Why it cannot, else."""
        key = (repository, digest)
        if key in self._taken or key in self._here:
            return None
        return await self._looks.do(key, lambda: self._look(repository, digest, fresh, depth))

    async def verify(self, repository: str, digest: Digest) -> Broken | None:
        """Hashes the blobs of a manifest that was taken over without."""
        try:
            async with self._taking.places:
                held = await self._taking.registry.manifests.get(repository, digest)
        except OCIError:
            return None  # Deleted here.
        manifest = parse_manifest(held.body, held.media_type)
        blobs = [*manifest.blobs(), *_elsewhere(manifest)]
        bad = [one for one in await each(lambda blob: self._blobs.verify(repository, blob), blobs) if one is not None]
        if bad:
            reason = f"manifest {digest}, which was taken over, has what is broken: {bad[0].reason}{_more(bad)}"
            return replace(bad[0], reason=reason)
        await self._note(repository, digest)
        return None

    async def _look(self, repository: str, digest: Digest, fresh: bool, depth: int) -> Broken | None:
        if await self._taking.exists(layout.manifest(repository, digest)):
            self._here.add((repository, digest))
            return None
        if not fresh and await self._taking.exists(layout.adopted_manifest(repository, digest)):
            link = tree.revision_link(repository, digest)
            return Broken(link, f"manifest {digest} was deleted here", deleted=True)
        return await self.take(repository, digest, fresh=fresh, depth=depth)

    async def _taken_over(self, repository: str, digest: Digest, fresh: bool, depth: int) -> Broken | None:
        link = tree.revision_link(repository, digest)
        try:
            if depth > MAX_DEPTH:
                raise broken(link, f"manifest {digest} is in more than {MAX_DEPTH} indexes, one in the other")
            await self._take(repository, digest, link, fresh, depth)
        except Stop as stop:
            return stop.broken
        return None

    async def _take(self, repository: str, digest: Digest, link: str, fresh: bool, depth: int) -> None:
        target = await self._taking.link(link, digest, "manifest")
        data = tree.data(target)
        body, manifest = await self._read(data, digest)

        async def child(entry: Descriptor) -> Broken | None:
            return await self.ensure(repository, entry.parsed, fresh=fresh, depth=depth + 1)

        async def blob(entry: Descriptor) -> Broken | None:
            return await self._blobs.ensure(repository, entry, fresh=fresh)

        await self._require(link, digest, manifest.children(), await each(child, manifest.children()))
        await self._require(link, digest, manifest.blobs(), await each(blob, manifest.blobs()))
        # Layers that clients fetch from elsewhere: some registries were given them all the same.
        await each(blob, _elsewhere(manifest))
        if not self._taking.dry_run:
            try:
                async with self._taking.places:
                    await self._taking.registry.manifests.push(repository, digest, body, None)
            except OCIError as error:
                raise broken(link, f"manifest {digest}: {error.message}") from error
        self._taking.tally.manifest(repository, digest, len(body))
        await self._note(repository, digest)

    async def _read(self, data: str, digest: Digest) -> tuple[bytes, Manifest]:
        try:
            body = await self._taking.body(data, limit=self._taking.registry.settings.max_manifest)
        except NotFound:
            raise broken(data, f"the data of manifest {digest} is missing") from None
        if len(body) > PARSED_IN_THREAD:
            found, manifest = await asyncio.to_thread(_parse, body, digest.algorithm)
        else:
            found, manifest = _parse(body, digest.algorithm)
        if found != digest:
            raise broken(data, f"the data of manifest {digest} has other bytes: {len(body)} of the digest {found}")
        if isinstance(manifest, ManifestInvalid):
            raise broken(data, f"manifest {digest}: {manifest.message}")
        return body, manifest

    async def _require(
        self, link: str, digest: Digest, named: Sequence[Descriptor], found: Sequence[Broken | None]
    ) -> None:
        """Raises `Stop` unless all that is named is there, or may be absent."""
        sparse = self._taking.registry.settings.sparse
        bad = [
            (entry, why)
            for entry, why in zip(named, found, strict=True)
            if why is not None and not (sparse and why.absent)
        ]
        if not bad:
            return
        _, why = bad[0]
        raise broken(why.path, f"manifest {digest} is left out: {why.reason}{_more(bad)}")

    async def _note(self, repository: str, digest: Digest) -> None:
        if not self._taking.dry_run:
            note = VERIFIED if self._taking.verify else b""
            await self._taking.write(layout.adopted_manifest(repository, digest), note)


def _parse(body: bytes, algorithm: str) -> tuple[Digest, Manifest | ManifestInvalid]:
    # The old tree keeps no media type: the body says it, or its shape does.
    try:
        manifest = parse_manifest(body, None)
    except ManifestInvalid as error:
        return Digest.of(body, algorithm), error
    return Digest.of(body, algorithm), manifest


def _more(bad: Sequence[object]) -> str:
    """That the first is not all."""
    return "" if len(bad) == 1 else f" (and {len(bad) - 1} more)"


def _elsewhere(manifest: Manifest) -> Sequence[Descriptor]:
    return [layer for layer in manifest.layers if layer.media_type in media_types.NONDISTRIBUTABLE]
