"""Files of a site that are made from its state: referrers, tags, lists, pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from bucketry.oci import Descriptor, Digest, media_types
from bucketry.store.site import SiteStore
from bucketry.transfer.contract import RawManifest
from bucketry.transfer.crew import crew
from bucketry.transfer.site import paths
from bucketry.transfer.site.files import SiteFiles
from bucketry.transfer.site.gathering import Wanted
from bucketry.transfer.site.repository import SiteRepository
from bucketry.transfer.site.state import Entry, State
from bucketry.transfer.work import Work

AT_ONCE = 16
"""Small files that are written at once."""


@dataclass(frozen=True, slots=True)
class SitePage:
    """A file that no repository has, such as the page for people. ``content_type`` as it is served."""

    path: str
    body: bytes
    content_type: str


PagesOf: TypeAlias = Callable[[State], Iterable[SitePage]]
"""The pages of a site in this state: of each state the same bytes, and all of them each time."""


def no_pages(state: State) -> Iterable[SitePage]:
    return ()


class Deriving:
    """Each says whether anything was written. All raise `Overtaken` where another writer was quicker."""

    def __init__(
        self, work: Work, site: SiteStore, files: SiteFiles, wanted: Mapping[str, Wanted], pages: PagesOf
    ) -> None:
        self._work = work
        self._site = site
        self._files = files
        self._wanted = wanted
        self._pages = pages
        self.tagged: set[tuple[str, str]] = set()
        """Tags whose files are there, or were written here."""

    async def referrers(self, state: State) -> bool:
        """Of all manifests that are wanted, and of all subjects that these name.

        First those that have no such file yet, whom nobody can name before this: then who is named by what follows
        has one.
        """
        wrote = False

        async def one(name: str, subject: Digest) -> None:
            nonlocal wrote
            body = index_of(state.referrers(name, subject))
            if await self._files.replace(
                paths.referrers(name, subject), body, paths.changing(media_types.OCI_INDEX), fixed=_EMPTY_SIZE
            ):
                wrote = True

        subjects = [(name, each) for name, wanted in self._wanted.items() for each in wanted.subjects()]
        there = [each for each in subjects if paths.referrers(*each) in self._files.sizes]
        for some in ([each for each in subjects if paths.referrers(*each) not in self._files.sizes], there):
            async with crew(AT_ONCE) as tasks:
                for name, subject in some:
                    await tasks.begin(one, name, subject)
        return wrote

    async def tags(self, state: State, tags: Iterable[tuple[str, str]]) -> bool:
        """The files of these tags, of those that the state has."""
        wrote = False

        async def one(name: str, tag: str, entry: Entry) -> None:
            nonlocal wrote
            if await self._tag(name, tag, entry):
                wrote = True
            self.tagged.add((name, tag))

        async with crew(AT_ONCE) as tasks:
            for name, tag in sorted(tags):
                entry = state.tag(name, tag)
                if entry is not None:
                    await tasks.begin(one, name, tag, entry)
        return wrote

    async def _tag(self, name: str, tag: str, entry: Entry) -> bool:
        manifest = await self._manifest(name, Digest.parse(entry.digest))
        path = paths.manifest(name, tag)
        wrote = await self._files.replace(path, manifest.body, paths.changing(entry.media_type))
        if not self._site.keeps_headers:
            # What a server finds by the tag is where this leads to, in one step.
            wrote |= await self._files.point(paths.pointer(name, tag), entry.digest)
        return wrote

    async def _manifest(self, name: str, digest: Digest) -> RawManifest:
        wanted = self._wanted.get(name)
        held = wanted.manifests.get(digest) if wanted is not None else None
        if held is not None:
            return held
        repository = SiteRepository(self._site, name)
        return await self._work.patiently(str(digest), lambda: repository.manifest(digest))

    async def lists(self, state: State, names: Iterable[str]) -> bool:
        """The tags of these repositories, of those that are visible; then what names repositories."""
        wrote = False
        visible = state.names()
        for name in sorted(set(names).intersection(visible)):
            listed = {"name": name, "tags": sorted(state.repositories[name].tags)}
            wrote |= await self._json(paths.tags(name), listed)
        wrote |= await self._json(paths.CATALOG, {"repositories": visible})
        for page in self._pages(state):
            wrote |= await self._files.replace(page.path, page.body, paths.changing(page.content_type))
        return wrote

    async def _json(self, path: str, document: Mapping[str, Any]) -> bool:
        return await self._files.replace(path, msgspec.json.encode(document), paths.changing(paths.JSON))


def index_of(referrers: Iterable[Descriptor]) -> bytes:
    """What a client gets that asks for referrers (distribution spec, "Listing Referrers")."""
    document = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": list(referrers)}
    return msgspec.json.encode(document)


_EMPTY_SIZE = len(index_of(()))
