"""Publish: images become plain files of a site, in an order that is safe at every instant.

Blobs with their checkpoints; manifests by digest, children first; referrers; then the state takes the tags up; then
the tags; then lists and pages, made from the state as it is then (docs/rfcs/0004-published-site.md).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec

from bucketry.oci import Descriptor, Digest
from bucketry.store.site import SiteStore
from bucketry.transfer.contract import RawManifest
from bucketry.transfer.crew import crew
from bucketry.transfer.errors import Refused, TransferError
from bucketry.transfer.events import Began, Done, Ended, Found, Listener, Moved, Note, Skipped
from bucketry.transfer.pool import SYSTEM, Timing
from bucketry.transfer.selection import parsed
from bucketry.transfer.settings import TransferSettings
from bucketry.transfer.site import paths
from bucketry.transfer.site.blobs import MovingBlobs, Way
from bucketry.transfer.site.counting import Count, CountedSite, Counts
from bucketry.transfer.site.derived import AT_ONCE, Deriving, PagesOf, no_pages
from bucketry.transfer.site.files import SiteFiles
from bucketry.transfer.site.gathering import ImageToPublish, Wanted, entry_of, gather
from bucketry.transfer.site.leaving import PATIENCE, Leaving, is_told
from bucketry.transfer.site.refusals import check_collisions, check_destination, check_manifests, check_names
from bucketry.transfer.site.rehearsal import RehearsedSite
from bucketry.transfer.site.repository import SiteRepository
from bucketry.transfer.site.state import FORMAT, Entry, Held, Overtaken, Repository, State, StateFile
from bucketry.transfer.work import Work

GRACE: Final = 3600.0
"""Seconds between what nothing needs any more and its deletion: pulls under way end, and caches of tags expire."""

_LOOKS: Final = 100
"""Times that all is looked at again because others write or delete meanwhile, before that is told."""


def _token() -> str:
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish did, or, of a dry run, what it would do.

    ``state``: what is published then. ``ways``: blobs, by the way they came. ``written``: files and bytes by kind
    (`paths.kind`); twins have no bytes of their own. ``requests``: to the site's place, see `Counts`. ``leaving``:
    paths that a later prune deletes. ``removed``: paths that were deleted, and their bytes. ``storage``: of a dry run,
    the bytes of all files of the site before and after; what is a hard link counts as what it links to.
    """

    state: State
    ended: Ended
    dry_run: bool
    ways: Mapping[Way, Count]
    written: Mapping[str, Count]
    requests: Mapping[str, int]
    leaving: tuple[str, ...]
    removed: Mapping[str, int]
    storage: tuple[int, int] | None = None


async def publish(
    images: Sequence[ImageToPublish],
    site: SiteStore,
    *,
    settings: TransferSettings,
    listen: Listener,
    prune: bool = False,
    grace: float = GRACE,
    dry_run: bool = False,
    referrers: bool = True,
    pages: PagesOf = no_pages,
    timing: Timing = SYSTEM,
    clock: Callable[[], float] = time.time,
    ids: Callable[[], str] = _token,
) -> Published:
    """Until all images are there, whole, under their tags, and everything that names them. The site stays open.

    ``prune``: nothing else stays published; what nobody needs then is deleted by a prune ``grace`` seconds later.
    ``dry_run``: nothing is written. ``referrers``: take signatures, SBOMs and the like along, and what cosign keeps
    under tags. ``pages``: further files, made from what is published. ``clock``: POSIX seconds. ``ids`` gives what
    nobody gave before. Raises `TransferError`; `Refused` and `NameUnusable` before anything is written.
    """
    check_names(images)
    work = Work(settings, listen, timing=timing, clock=clock, piece=settings.part(0))
    rehearsal = RehearsedSite(site) if dry_run else None
    counted = CountedSite(site if rehearsal is None else rehearsal, Counts())
    sources = ", ".join(dict.fromkeys(image.source.name for image in images))
    work.tell(Began(action="publish", source=sources, target=site.url))
    state = StateFile(counted, ids=ids)
    held = await check_destination(work, counted, state)
    wanted = await gather(work, images, referrers=referrers)
    known = held.state if held is not None else State(format=FORMAT, created=clock(), nonce="")
    check_manifests(wanted.values(), keeps_headers=site.keeps_headers)
    others = [page.path for page in pages(known)]
    check = partial(check_collisions, wanted=wanted.values(), others=others, keeps_headers=site.keeps_headers)
    check(known)
    if held is None:
        held = await work.patiently(site.url, lambda: state.create(clock()))
    run = _Publishing(work, counted, state, wanted, pages, clock, grace if prune else None, rehearsal, check)
    try:
        held = await run.run(held)
    finally:
        await run.close()
    last = wanted[images[-1].name]
    root = last.tags[images[-1].tag] if images[-1].tag is not None else last.digests[-1]
    return Published(
        state=held.state,
        ended=work.ended(str(root), None),
        dry_run=dry_run,
        ways=run.moving.ways,
        written=counted.counts.written,
        requests=dict(counted.counts.requests),
        leaving=tuple(sorted(held.state.leaving)),
        removed=run.leaving.removed,
        storage=await rehearsal.storage() if rehearsal is not None else None,
    )


class _LookAgain(Exception):
    """Others deleted files, or are about to, since this run looked at what is there."""


class _Publishing:
    def __init__(
        self,
        work: Work,
        site: CountedSite,
        state: StateFile,
        wanted: Mapping[str, Wanted],
        pages: PagesOf,
        clock: Callable[[], float],
        grace: float | None,
        rehearsal: RehearsedSite | None,
        check: Callable[[State], None],
    ) -> None:
        self._work = work
        self._site = site
        self._state = state
        self._wanted = wanted
        self._clock = clock
        self._grace = grace
        self._check = check
        self._files = SiteFiles(site, work)
        self._repositories = {name: SiteRepository(site, name, sizes=self._files.sizes) for name in wanted}
        self._needed = frozenset(path for each in wanted.values() for path in each.paths(twins=not site.keeps_headers))
        self._entries: dict[tuple[str, Digest], Entry] = {}
        self._dropped: set[str] = set()
        self._deriving = Deriving(work, site, self._files, wanted, pages)
        self.moving = MovingBlobs(work, site, self._files, self._repositories, rehearsal=rehearsal)
        patience = PATIENCE if rehearsal is None else 0.0
        self.leaving = Leaving(work, self._files, state, clock, patience=patience)

    async def close(self) -> None:
        for repository in self._repositories.values():
            with suppress(TransferError):
                await repository.close()

    async def run(self, held: Held) -> Held:
        await self._describe(held.state)
        for _ in range(_LOOKS):
            try:
                held = await self.leaving.unlocked(held, self._needed)
                abandoned: Mapping[str, float] = {}
                if self._grace is not None:
                    held, abandoned = await self.leaving.quiet(held, self._keeps)
                held = await self._taken_up(held, abandoned)
                break
            except (_LookAgain, Overtaken):
                held = await self._read()
        else:
            raise self._too_busy()
        if not self._site.conditional:
            # Known for sure only once something was written.
            self._work.tell(Note(text=f"{self._site.url} heeds no conditions: never publish twice there at once"))
        for _ in range(_LOOKS):
            try:
                return await self._settled(held)
            except Overtaken:
                self._files.doubt()
                held = await self._read()
        raise self._too_busy()

    def _too_busy(self) -> Refused:
        return Refused(f"{self._site.url}: others publish and prune all the while: run it again when they are done")

    async def _read(self) -> Held:
        found = await self._work.patiently(paths.STATE, self._state.read)
        if found is None:
            raise Refused(f"{self._site.url}: {paths.STATE} was deleted meanwhile: publish again")
        return found

    async def _describe(self, state: State) -> None:
        """What is told of each image: of one that is published already, what was told before."""
        known = {
            entry.digest: entry
            for repository in state.repositories.values()
            for entry in (*repository.tags.values(), *repository.digests.values())
        }

        async def describe(name: str, wanted: Wanted, digest: Digest) -> None:
            entry = known.get(str(digest)) or await entry_of(self._work, wanted, digest, self._clock())
            self._entries[name, digest] = entry

        async with crew(AT_ONCE) as tasks:
            for name, wanted in self._wanted.items():
                for digest in dict.fromkeys((*wanted.tags.values(), *wanted.digests)):
                    await tasks.begin(describe, name, wanted, digest)

    def _keeps(self, pending: str) -> bool:
        """Whether a tag that is written just now stays."""
        name, _, tag = pending.rpartition(":")
        return name in self._wanted and tag in self._wanted[name].tags

    async def _taken_up(self, held: Held, abandoned: Mapping[str, float]) -> Held:
        """Until the state says that the images are published. Raises `_LookAgain`, `Overtaken`.

        ``abandoned``: tags that are pending, and that nobody will write any more.
        """
        removals = held.state.removals
        prefixes = [paths.API] if self._grace is not None else [paths.repository(name) for name in self._wanted]
        await self._files.look(prefixes)
        elsewhere = self._grace is None and not set(held.state.names()) <= self._wanted.keys()
        await self.moving.move(self._wanted, others=elsewhere)
        await self._put_manifests()

        def check(state: State) -> None:
            # Nothing is deleted that was not announced before, with a new number.
            if state.removals != removals:
                raise _LookAgain
            # A tag that was taken up and cannot be written would be in everybody's way.
            self._check(state)

        def claim(state: State) -> State:
            check(state)
            return self._with_referrers(state)

        held = await self._change(held, claim)
        claimed = held.state
        await self._deriving.referrers(claimed)

        def take_up(state: State) -> State:
            check(state)
            for name, wanted in self._wanted.items():
                if any(state.referrers(name, each) != claimed.referrers(name, each) for each in wanted.subjects()):
                    raise _LookAgain
            if self._grace is not None and any(
                not self._keeps(tag) and abandoned.get(tag) != since for tag, since in state.pending.items()
            ):
                raise _LookAgain
            return self._with_tags(state)

        return await self._change(held, take_up)

    async def _change(self, held: Held, apply: Callable[[State], State]) -> Held:
        return await self._work.patiently(paths.STATE, lambda: self._state.change(held, apply))

    async def _put_manifests(self) -> None:
        for name, wanted in self._wanted.items():
            for wave in _waves(wanted.manifests.values()):
                async with crew(AT_ONCE) as tasks:
                    for manifest in wave:
                        await tasks.begin(self._put_manifest, name, manifest)

    async def _put_manifest(self, name: str, manifest: RawManifest) -> None:
        item, size = str(manifest.digest), len(manifest.body)
        self._work.tell(Found(item=item, kind="manifest", size=size))
        there = self._files.has(paths.manifest(name, manifest.digest), size)
        if there and not self._site.keeps_headers:
            there = self._files.has(paths.twin(name, manifest.digest, manifest.media_type), size)
        if there:
            self._work.tell(Skipped(item=item, why="already there", size=size))
            return
        await self._work.patiently(item, partial(self._repositories[name].put_manifest, manifest))
        self._work.tell(Moved(item=item, size=size))
        self._work.tell(Done(item=item, digest=item, size=size))

    def _with_referrers(self, state: State) -> State:
        """With those that are wanted, besides what is there; a repository that lists do not name yet may be made."""
        repositories = dict(state.repositories)
        for name, wanted in self._wanted.items():
            there = state.repositories.get(name, Repository())
            referrers = dict(there.referrers)
            for subject, entries in wanted.referrers.items():
                known = {entry.digest: entry for entry in referrers.get(str(subject), ())}
                referrers[str(subject)] = _ordered({**known, **entries}.values())
            if referrers != there.referrers:
                repositories[name] = msgspec.structs.replace(there, referrers=referrers)
        if repositories == state.repositories:
            return state
        leaving = {path: since for path, since in state.leaving.items() if path not in self._needed}
        return msgspec.structs.replace(state, repositories=repositories, leaving=leaving)

    def _with_tags(self, state: State) -> State:
        prune, now = self._grace is not None, self._clock()
        repositories = {} if prune else dict(state.repositories)
        pending = dict(state.pending)
        for name, wanted in self._wanted.items():
            there = state.repositories.get(name, Repository())
            tags = {tag: self._entry(name, digest, there.tags.get(tag), now) for tag, digest in wanted.tags.items()}
            digests = {
                str(digest): self._entry(name, digest, there.digests.get(str(digest)), now) for digest in wanted.digests
            }
            pending.update({f"{name}:{tag}": now for tag, entry in tags.items() if entry != there.tags.get(tag)})
            if prune:
                exact = {str(each): _ordered(entries.values()) for each, entries in wanted.referrers.items()}
                repositories[name] = Repository(tags, digests, exact)
            else:
                repositories[name] = Repository({**there.tags, **tags}, {**there.digests, **digests}, there.referrers)
        leaving = {path: since for path, since in state.leaving.items() if path not in self._needed}
        if prune:
            leaving = self.leaving.noted(state, self._needed, now)
            dropped = [
                (name, tag)
                for name, repository in state.repositories.items()
                for tag in repository.tags
                if name not in repositories or tag not in repositories[name].tags
            ]
            for name, tag in dropped:
                pending.pop(f"{name}:{tag}", None)
            twins = not self._site.keeps_headers
            self._dropped.update(path for name, tag in dropped for path in paths.of_tag(name, tag, twins=twins))
            self._dropped.update(paths.tags(name) for name in state.repositories if name not in repositories)
        return msgspec.structs.replace(state, repositories=repositories, pending=pending, leaving=leaving)

    def _entry(self, name: str, digest: Digest, there: Entry | None, now: float) -> Entry:
        if there is not None and there.digest == str(digest):
            return there
        return msgspec.structs.replace(self._entries[name, digest], updated=now)

    async def _settled(self, held: Held) -> Held:
        """Until all that is made from the state is as it says. Raises `Overtaken`, and is called again then."""
        state = held.state
        pending = {(name, tag) for name, _, tag in (each.rpartition(":") for each in state.pending)}
        mine = {(name, tag) for name, wanted in self._wanted.items() for tag in wanted.tags}
        wrote = await self._deriving.tags(state, pending | mine)
        if self._grace is not None:
            wrote |= await self._deriving.referrers(state)
        wrote |= await self._deriving.lists(state, {*self._wanted, *(name for name, _ in pending)})
        gone = self._gone(state)
        going = {**state.going, **dict.fromkeys(gone, self._clock())}
        wanted = msgspec.structs.replace(
            state,
            pending={},
            going=going,
            leaving={path: since for path, since in state.leaving.items() if path not in going},
            removals=state.removals + bool(gone),
        )
        if wanted != state:
            held = await self._work.patiently(paths.STATE, partial(self._state.swap, held, wanted))
            return await self.leaving.delete(held, gone)
        if wrote and (await self._read()).etag != held.etag:
            raise Overtaken
        return held

    def _gone(self, state: State) -> Collection[str]:
        """What is deleted now: tags that the state has not (any more), and, by a prune, what left long enough ago."""
        twins = not self._site.keeps_headers
        gone = {
            path
            for name, tag in self._deriving.tagged
            if state.tag(name, tag) is None
            for path in paths.of_tag(name, tag, twins=twins)
        }
        if self._grace is None:
            return gone
        now = self._clock()
        gone.update(self.leaving.at_once(state))
        gone.update(path for path in self._dropped if not is_told(state, path))
        gone.update(path for path, since in state.leaving.items() if since + self._grace <= now)
        # What another prune was deleting, and did not end: nobody needs it.
        gone.update(state.going)
        return gone


def _ordered(referrers: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
    return tuple(sorted(referrers, key=lambda entry: entry.digest))


def _waves(manifests: Iterable[RawManifest]) -> list[list[RawManifest]]:
    """Children before their parents: those of a wave may be written at once. They come in such an order."""
    depths: dict[Digest, int] = {}
    waves: list[list[RawManifest]] = []
    for manifest in manifests:
        depth = max((depths.get(child.parsed, -1) + 1 for child in parsed(manifest).children()), default=0)
        depths[manifest.digest] = depth
        while len(waves) <= depth:
            waves.append([])
        waves[depth].append(manifest)
    return waves
