"""What a tag holds: its manifest, all that this names, and what that names in turn. Under a tag that is kept
(`TagGuard.deletes`) none of it is deleted.

Nothing is written down of what is held. A delete lists the repository's markers, and looks through the manifests of
those whose tags are kept. That, and a push of such a tag at once, see each other:

- The push writes the tag's marker first, with the manifest in it, and looks for what the manifest names after.
- The delete looks before, removes, and looks once more; where a tag came meanwhile that holds what it removed, it puts
  that back, and is refused. So where the second look did not find the marker, the push finds the child gone.
- Between its marker and its tag a push cannot be told from one that failed. So a marker holds what it names while its
  tag may still come: the push writes the tag within `IN_TIME` of the marker, or begins again; the delete believes a
  marker without a tag for `UNDER_WAY`. A tag that is there and points elsewhere does not come to this manifest, as it
  is kept there.

A push that does not know of the rules (straight to the bucket) leaves an empty marker, which holds nothing by itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import WeakValueDictionary

from bucketry.oci import Digest, Manifest, parse_manifest
from bucketry.oci.errors import Denied
from bucketry.registry import layout
from bucketry.registry.guards import TagGuard
from bucketry.registry.settings import Clock
from bucketry.store.contract import Corrupt, ListedObject, NotFound, ObjectInfo, Store, StoredObject

DIGEST_METADATA = "digest"
"""Of a tag: the digest of the manifest that it points to."""

PARSED_IN_THREAD = 256 * 1024
"""Bytes: a larger manifest takes long enough to parse that other requests would wait for it."""

IN_TIME = 300.0
"""Seconds after a marker within which the push writes its tag."""

UNDER_WAY = 3600.0
"""Seconds for which a marker without its tag is believed: much longer, for slow writes and clocks that differ."""

READS_AT_ONCE = 16
"""Manifests that are read at the same time, by all deletes of this process together."""

LOOKS_AT_ONCE = 16
"""Deletes that look at the same time: each has a page of markers, and the digests of what it looked through."""

LOOKS_OF_ONE = 4
"""Of these, deletes in one repository."""

REMEMBERED = 100_000
"""Digests that are remembered as named by manifests, about 15 MB of them."""

_A = TypeVar("_A")


@dataclass(frozen=True, slots=True)
class _Named:
    """What a manifest names. As bytes, which take a third of the memory; their length tells the algorithm."""

    digests: frozenset[bytes]
    children: tuple[Digest, ...]
    """Of the digests those that may be manifests."""

    @property
    def size(self) -> int:
        return 1 + len(self.digests) + len(self.children)


@dataclass(slots=True)
class _Look:
    """A search for what holds ``wanted``, at ``now``. Manifests that were looked through: those that hold it, and those
    that do not."""

    repository: str
    wanted: Digest
    now: float
    holding: set[Digest] = field(default_factory=set)
    free: set[Digest] = field(default_factory=set)

    def knows(self, manifest: Digest) -> bool:
        return manifest in self.holding or manifest in self.free

    def note(self, manifest: Digest, named: _Named) -> bool:
        """Whether it is known by now if the manifest holds what is wanted: what is below it need not be looked at."""
        if _raw(self.wanted) in named.digests:
            self.holding.add(manifest)
        elif not named.children:
            self.free.add(manifest)
        return self.knows(manifest)


class Contents:
    """What the tags of repositories hold. What is remembered of manifests follows from their bytes, so it is never
    old; who holds them is read anew each time."""

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._turns = asyncio.Semaphore(READS_AT_ONCE)
        self._large = asyncio.Semaphore(1)
        self._looks = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._looks_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._remembered: OrderedDict[Digest, _Named] = OrderedDict()
        self._size = 0

    async def require_free(self, repository: str, digest: Digest, guard: TagGuard) -> None:
        """Raises `Denied` where a tag that is kept holds the blob or manifest."""
        refusal = await self.refusal(repository, digest, guard)
        if refusal is not None:
            raise refusal

    async def refusal(self, repository: str, digest: Digest, guard: TagGuard) -> Denied | None:
        """Why the blob or manifest is not deleted: a tag that is kept holds it.

        One request for each 1,000 markers of the repository, and one for each manifest below tags that are kept which
        is not remembered; none where no tag of the repository may be kept.
        """
        if not guard.holds:
            return None
        look = _Look(repository, digest, self._clock.now())
        after: str | None = None
        more = True
        while more:
            page = await self._store.list(layout.markers(repository), after=after)
            more = page.more
            if page.objects:
                after = page.objects[-1].key
            for batch in _batches(list(_kept(repository, page.objects, guard).items())):
                for top, markers in await self._holding(look, batch):
                    holder = await self._holder(look, top, markers)
                    if holder is not None:
                        return _denied(digest, *holder, guard)
        return None

    @asynccontextmanager
    async def turn(self, repository: str, guard: TagGuard) -> AsyncIterator[None]:
        """A delete takes its turn for both of its looks: between them what it removed may be missing to somebody.

        Few look at once, so that memory is bounded, and fewer of one repository, so that others need not wait for it.
        """
        if not guard.holds:
            yield
            return
        own = self._looks_of.setdefault(repository, asyncio.Semaphore(LOOKS_OF_ONE))
        async with own, self._looks:
            yield

    def is_under_way(self, marker: ListedObject) -> bool:
        """Whether a push may still be about to write the tag of a marker that has none."""
        return _is_under_way(marker, self._clock.now())

    async def _holding(
        self, look: _Look, tops: Sequence[tuple[Digest, Sequence[ListedObject]]]
    ) -> list[tuple[Digest, Sequence[ListedObject]]]:
        """Those of the manifests, which have these markers, that are what is wanted, or hold it."""
        left = [one for one in tops if one[0] != look.wanted and not look.knows(one[0])]
        found = await self._several(look.repository, [top for top, _ in left], dict(left))
        for (top, _), named in zip(left, found, strict=True):
            if named is not None and not look.note(top, named):
                await self._search(look, top, named)
        return [one for one in tops if one[0] == look.wanted or one[0] in look.holding]

    async def _holder(self, look: _Look, top: Digest, markers: Sequence[ListedObject]) -> tuple[str, bool] | None:
        """The tag of one of the manifest's ``markers`` that is kept there, and whether it is there yet."""
        for marker in markers:
            _, tag = layout.marked(look.repository, marker.key)
            try:
                pointed = tag_digest(await self._store.head(layout.tag(look.repository, tag)))
            except NotFound:
                if _is_under_way(marker, look.now):
                    return tag, False
            else:
                if pointed == top:
                    return tag, True
        return None

    async def _search(self, look: _Look, top: Digest, named: _Named) -> None:
        """Finds out whether ``top`` holds what is wanted. Manifests that are not there name nothing.

        Depth first, so that whether a manifest holds it is known before the next that has it below: however many share
        it, a look goes through it once.
        """
        path: list[tuple[Digest, list[Digest]]] = []
        current, opened = top, named
        while True:
            below = await self._below(look, opened)
            if below is None:
                look.holding.update((current, *(above for above, _ in path)))
                return
            path.append((current, below))
            while True:
                while path and not path[-1][1]:
                    look.free.add(path.pop()[0])
                if not path:
                    return
                current = path[-1][1].pop()
                (found,) = await self._several(look.repository, [current], {})
                if found is not None:
                    opened = found
                    break

    async def _below(self, look: _Look, named: _Named) -> list[Digest] | None:
        """What else is to be opened of what a manifest names; None where something there holds what is wanted."""
        below: list[Digest] = []
        for batch in _batches([child for child in named.children if child not in look.free]):
            await asyncio.sleep(0)  # What is remembered is soon gone through, and others have a turn.
            if not look.holding.isdisjoint(batch):
                return None
            for child, found in zip(batch, await self._several(look.repository, batch, {}), strict=True):
                if found is None:
                    continue
                if not look.note(child, found):
                    below.append(child)
                elif child in look.holding:
                    return None
        return below

    async def _several(
        self, repository: str, manifests: Sequence[Digest], markers: Mapping[Digest, Sequence[ListedObject]]
    ) -> list[_Named | None]:
        """What each of these names, those that are not remembered read at the same time."""
        found = [self._recalled(digest) for digest in manifests]
        absent = [at for at, named in enumerate(found) if named is None]
        if absent:
            read = await asyncio.gather(
                *(self._named(repository, manifests[at], markers.get(manifests[at], ())) for at in absent)
            )
            for at, named in zip(absent, read, strict=True):
                found[at] = named
        return found

    async def _named(self, repository: str, digest: Digest, markers: Sequence[ListedObject]) -> _Named | None:
        """``markers``: of the manifest, where it is at the top."""
        async with self._turns:
            held = await self._read(repository, digest, markers)
            if held is None:
                return None
            if len(held.body) > PARSED_IN_THREAD:
                async with self._large:  # Each may take many times its size while it is parsed.
                    named = await asyncio.to_thread(_names, held)
            else:
                named = _names(held)
        self._remember(digest, named)
        return named

    def _recalled(self, digest: Digest) -> _Named | None:
        named = self._remembered.get(digest)
        if named is not None:
            self._remembered.move_to_end(digest)
        return named

    async def _read(self, repository: str, digest: Digest, markers: Sequence[ListedObject]) -> StoredObject | None:
        """The manifest; where it is gone, or not there yet, what a tag or a marker has of it."""
        try:
            return await self._store.get(layout.manifest(repository, digest))
        except NotFound:
            pass
        for marker in markers:
            _, tag = layout.marked(repository, marker.key)
            with suppress(NotFound):
                held = await self._store.get(layout.tag(repository, tag))
                if tag_digest(held.info) == digest:
                    return held
            if marker.size:
                with suppress(NotFound):
                    held = await self._store.get(marker.key)
                    if held.body:  # Another push may have written it anew.
                        return held
        return None

    def _remember(self, digest: Digest, named: _Named) -> None:
        if digest in self._remembered or named.size > REMEMBERED:
            return
        self._remembered[digest] = named
        self._size += named.size
        while self._size > REMEMBERED:
            _, oldest = self._remembered.popitem(last=False)
            self._size -= oldest.size


def tag_digest(info: ObjectInfo) -> Digest:
    """What a tag points to."""
    digest = info.metadata.get(DIGEST_METADATA)
    if digest is None:
        raise Corrupt(f"{info.key} does not say which digest it points to: the store lost its metadata")
    return Digest.parse(digest)


def _kept(repository: str, markers: Iterable[ListedObject], guard: TagGuard) -> dict[Digest, list[ListedObject]]:
    """The markers of tags that are kept, by their manifests."""
    found: dict[Digest, list[ListedObject]] = {}
    for marker in markers:
        digest, tag = layout.marked(repository, marker.key)
        if guard.deletes(tag) is not None:
            found.setdefault(digest, []).append(marker)
    return found


def _batches(items: Sequence[_A]) -> Iterator[Sequence[_A]]:
    return (items[at : at + READS_AT_ONCE] for at in range(0, len(items), READS_AT_ONCE))


def _is_under_way(marker: ListedObject, now: float) -> bool:
    return marker.size > 0 and now - marker.modified < UNDER_WAY


def _names(held: StoredObject) -> _Named:
    manifest: Manifest = parse_manifest(held.body, held.info.content_type)
    digests = frozenset(_raw(reference.parsed) for reference in manifest.references())
    return _Named(digests, tuple(child.parsed for child in manifest.children()))


def _raw(digest: Digest) -> bytes:
    return bytes.fromhex(digest.hex)


def _denied(digest: Digest, tag: str, is_there: bool, guard: TagGuard) -> Denied:
    whose = f"the tag {tag}" if is_there else f"the tag {tag}, which is being pushed, or was within the last hour"
    return Denied(f"{digest} belongs to {whose}: {guard.deletes(tag)}", detail={"tag": tag, "digest": str(digest)})
