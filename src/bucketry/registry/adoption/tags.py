"""Tags of the old tree, and what becomes of one that is here already (docs/rfcs/0005-adoption.md)."""

from __future__ import annotations

import re

from bucketry.oci import Digest
from bucketry.oci.errors import DigestInvalid, ManifestUnknown
from bucketry.registry import layout
from bucketry.registry.adoption import tree
from bucketry.registry.adoption.manifests import AdoptedManifests
from bucketry.registry.adoption.notes import Note
from bucketry.registry.adoption.taking import Stop, Taking
from bucketry.registry.manifests import DIGEST_METADATA
from bucketry.store.contract import (
    IF_ABSENT,
    Condition,
    IfMatch,
    NotFound,
    PreconditionFailed,
    Unsupported,
)

_CONTENT = re.compile(r'"?[0-9a-f]{32}"?')
"""Etags that tell the content of an object, as those of S3 do: a link and its note have the same, then."""

MOVED_HERE = "the tag was pushed or moved here"
DELETED_HERE = "the tag was deleted here"
MANIFEST_DELETED = "its manifest was deleted here"


class AdoptedTags:
    def __init__(self, taking: Taking, manifests: AdoptedManifests) -> None:
        self._taking = taking
        self._store = taking.registry.store
        self._manifests = manifests

    async def take(self, entry: tree.Entry, note: Note | None, *, fresh: bool) -> None:
        """``note``: the one that was listed."""
        repository, tag = entry.repository, entry.name
        if note is not None and note.etag == entry.etag and _CONTENT.fullmatch(note.etag):
            self._taking.tally.skip(repository)
            return
        try:
            old = tree.parse_link(await self._taking.body(entry.key, limit=tree.MAX_LINK))
        except NotFound:
            return  # Deleted there meanwhile.
        except (tree.LinkBroken, Stop) as error:
            self._taking.tally.problem(repository, entry.key, f"tag {tag}: {error}")
            return
        noted = None if note is None else await self._noted(repository, tag)
        if noted == str(old):
            self._taking.tally.skip(repository)
            return
        why = await self._manifests.ensure(repository, old, fresh=fresh)
        if why is not None and not why.deleted:
            reason = f"tag {tag} points to a manifest that is left out: {why.reason}"
            self._taking.tally.problem(repository, entry.key, reason)
            return
        if why is not None:
            await self._keep(repository, tag, old, MANIFEST_DELETED)
        elif noted is None:
            await self._make(repository, tag, old)
        else:
            await self._move(repository, tag, old, noted)
        if not self._taking.dry_run:
            await self._taking.write(layout.adopted_tag(repository, tag), str(old).encode())

    async def _make(self, repository: str, tag: str, old: Digest) -> None:
        """A tag that was never taken over: there is none here, or it was pushed here."""
        while True:
            # Where nothing is to be written, it has to be looked at.
            here, _ = await self._here(repository, tag) if self._taking.dry_run else (None, "")
            if here is None:
                try:
                    await self._write(repository, tag, old, IF_ABSENT, before=None)
                    return
                except PreconditionFailed:
                    here, _ = await self._here(repository, tag)
            if here == str(old):
                self._taking.tally.tag(repository, tag, old, None)
                return
            if here is not None:
                self._taking.tally.keep(repository, tag, old, here, MOVED_HERE)
                return

    async def _move(self, repository: str, tag: str, old: Digest, noted: str) -> None:
        """A tag that was at ``noted`` when it was taken over."""
        while True:
            here, etag = await self._here(repository, tag)
            if here is None:
                self._taking.tally.keep(repository, tag, old, None, DELETED_HERE)
            elif here == str(old):
                self._taking.tally.tag(repository, tag, old, noted)
            elif here != noted:
                self._taking.tally.keep(repository, tag, old, here, MOVED_HERE)
            else:
                try:
                    await self._write(repository, tag, old, IfMatch(etag), before=noted)
                except PreconditionFailed:
                    continue
            return

    async def _write(self, repository: str, tag: str, digest: Digest, condition: Condition, before: str | None) -> None:
        """As `Manifests.push` does, but for the condition: nobody's push in between is overwritten.

        Raises `PreconditionFailed`.
        """
        if self._taking.dry_run:
            self._taking.tally.tag(repository, tag, digest, before)
            return
        try:
            async with self._taking.places:
                held = await self._taking.registry.manifests.get(repository, digest)
        except ManifestUnknown:
            await self._keep(repository, tag, digest, MANIFEST_DELETED)
            return
        await self._taking.write(layout.tagged(repository, digest) + tag, b"")
        key = layout.tag(repository, tag)
        async with self._taking.places:
            etag = await self._store.put(
                key,
                held.body,
                content_type=held.media_type,
                metadata={DIGEST_METADATA: str(digest)},
                condition=condition,
            )
        if await self._taking.exists(layout.manifest(repository, digest)):
            self._taking.tally.tag(repository, tag, digest, before)
            return
        await self._withdraw(key, etag)
        await self._keep(repository, tag, digest, MANIFEST_DELETED)

    async def _withdraw(self, key: str, etag: str) -> None:
        """Deletes a tag whose manifest was deleted while it was written, and no tag that is another's."""
        try:
            async with self._taking.places:
                await self._store.delete(key, condition=IfMatch(etag))
        except PreconditionFailed:
            pass
        except Unsupported:
            async with self._taking.places:
                await self._store.delete(key)

    async def _keep(self, repository: str, tag: str, old: Digest, why: str) -> None:
        here, _ = await self._here(repository, tag)
        self._taking.tally.keep(repository, tag, old, here, why)

    async def _here(self, repository: str, tag: str) -> tuple[str | None, str]:
        """The digest that the tag has in this registry, and its etag; an empty digest where it has lost it."""
        try:
            async with self._taking.places:
                held = await self._store.get(layout.tag(repository, tag))
        except NotFound:
            return None, ""
        return held.info.metadata.get(DIGEST_METADATA, ""), held.info.etag

    async def _noted(self, repository: str, tag: str) -> str | None:
        try:
            async with self._taking.places:
                body = (await self._store.get(layout.adopted_tag(repository, tag), limit=tree.MAX_LINK)).body
            return str(Digest.parse(body.decode("latin-1")))
        except (NotFound, DigestInvalid):
            return None
