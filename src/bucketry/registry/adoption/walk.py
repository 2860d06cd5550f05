"""The old tree, repository after repository: one flat listing, page by page, of which little is of interest."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import groupby

from bucketry.oci.glob import RepositoryGlob
from bucketry.registry.adoption import tree
from bucketry.store.contract import ListPage, Store

_WANTED = (tree.Kind.REVISION, tree.Kind.TAG)


@dataclass(frozen=True, slots=True)
class Batch:
    """Manifests and tags of one repository that came one after the other on one page."""

    repository: str
    entries: tuple[tree.Entry, ...]


async def walk(store: Store, globs: Sequence[RepositoryGlob]) -> AsyncGenerator[Batch, None]:
    """What is of repositories that one of the globs matches, of all where there is none. Each comes once.

    All keys of a repository but those of the repositories below it come one after the other, in byte order and in
    that of folders.
    """
    if not globs:
        async for batch in _walk(store, tree.REPOSITORIES):
            yield batch
        return
    for number, glob in enumerate(globs):
        prefix = tree.listing(glob.prefix) if glob.literal is None else tree.manifests(glob.literal)
        async for batch in _walk(store, prefix):
            before = any(earlier.matches(batch.repository) for earlier in globs[:number])
            if glob.matches(batch.repository) and not before:
                yield batch


async def has_any(store: Store, globs: Sequence[RepositoryGlob]) -> bool:
    """Whether `walk` finds anything. It lists up to the first that it finds."""
    async with aclosing(walk(store, globs)) as batches:
        async for _ in batches:
            return True
    return False


async def _walk(store: Store, prefix: str) -> AsyncIterator[Batch]:
    after: str | None = None
    more = True
    while more:
        page = await store.list(prefix, after=after)
        more = page.more
        if page.objects:
            after = page.objects[-1].key
        for batch in _batches(page):
            yield batch


def _batches(page: ListPage) -> list[Batch]:
    parsed = (tree.parse(listed.key, listed.etag) for listed in page.objects)
    wanted = (entry for entry in parsed if entry is not None and entry.kind in _WANTED)
    return [Batch(name, tuple(entries)) for name, entries in groupby(wanted, lambda entry: entry.repository)]
