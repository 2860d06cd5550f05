"""A tree of Docker's registry becomes a store, in place (docs/rfcs/0005-adoption.md).

One task walks the old tree; one a repository compares it with the notes; a bounded number of jobs take over what has
none: a manifest after all that it names, a tag after its manifest, whatever comes first in the listing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from bucketry.oci import Digest
from bucketry.oci.errors import DigestInvalid, NameInvalid, TagInvalid
from bucketry.oci.glob import RepositoryGlob
from bucketry.oci.reference import parse_repository, parse_tag
from bucketry.registry import layout
from bucketry.registry.adoption import tree
from bucketry.registry.adoption.blobs import AdoptedBlobs
from bucketry.registry.adoption.events import Began, Listener, Report, Repository, ignore
from bucketry.registry.adoption.manifests import AdoptedManifests
from bucketry.registry.adoption.notes import Notes
from bucketry.registry.adoption.once import Remembered
from bucketry.registry.adoption.requests import Requests
from bucketry.registry.adoption.roots import require_tree
from bucketry.registry.adoption.tags import AdoptedTags
from bucketry.registry.adoption.taking import Broken, Taking, Tally
from bucketry.registry.adoption.walk import walk
from bucketry.registry.records import FormatFile
from bucketry.registry.registry import FORMAT, Registry
from bucketry.registry.settings import Clock, Ids, RandomIds, RegistrySettings, SystemClock
from bucketry.store.contract import NotFound, Store

PARALLEL = 32
HASHING = 8
REMEMBERED = 32_768
COUNTED = 8
"""Times as many blobs are told apart when they are counted: one that was forgotten would be counted again."""

_END: Sequence[tree.Entry] = ()


async def open_registry(
    store: Store,
    *,
    dry_run: bool = False,
    clock: Clock | None = None,
    ids: Ids | None = None,
    settings: RegistrySettings | None = None,
) -> tuple[Registry, bool]:
    """The registry of a store, and whether there was none: it is made then, unless in a dry run.

    Raises `NewerFormat`.
    """
    clock, ids = clock or SystemClock(), ids or RandomIds()
    try:
        await store.head(layout.FORMAT_KEY)
        made = False
    except NotFound:
        made = True
    if made and dry_run:
        nothing = FormatFile(format=FORMAT, registry=ids.token(), created=clock.now())
        return Registry(store, nothing, clock=clock, ids=ids, settings=settings or RegistrySettings()), made
    return await Registry.open(store, clock=clock, ids=ids, settings=settings), made


class Adopter:
    """Takes over what another registry has in the registry's store, once for each `run`.

    ``parallel``: requests to the store under way at once, about; what one push asks for counts as one. ``hashing``:
    blobs that are hashed at once by ``verify``, which reads every adopted blob that nobody hashed yet. ``dry_run``:
    nothing is written. ``requests``: what observes the store, so that the report has counts. ``remembered``: things
    of each kind that a run keeps in mind; with more it works as right, and asks more. Only of blobs over `COUNTED`
    times as many some may be counted twice, and in a dry run of manifests.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        parallel: int = PARALLEL,
        verify: bool = False,
        hashing: int = HASHING,
        dry_run: bool = False,
        listen: Listener = ignore,
        requests: Requests | None = None,
        clock: Clock | None = None,
        remembered: int = REMEMBERED,
    ) -> None:
        if parallel < 1 or hashing < 1 or remembered < 1:
            raise ValueError("at least one request, one blob and one thing to remember")
        self._registry = registry
        self._parallel = parallel
        self._verify = verify
        self._hashing = hashing
        self._dry_run = dry_run
        self._listen = listen
        self._requests = requests
        self._clock = clock or SystemClock()
        self._remembered = remembered

    async def run(self, globs: Sequence[RepositoryGlob] = ()) -> Report:
        """Takes over what one of the globs matches, all where there is none.

        Raises `TreeMissing` and what else a store raises: what is broken in the tree is told, and not raised. It may
        be cancelled, or die, at any point: the next run goes on.
        """
        began = self._clock.monotonic()
        asked, sent = (0, 0) if self._requests is None else (self._requests.count, self._requests.sent)
        self._listen(Began(store=self._registry.store.url, verify=self._verify, dry_run=self._dry_run))
        await require_tree(self._registry.store)
        tally = Tally(self._listen, Remembered(COUNTED * self._remembered))
        taking = Taking(
            registry=self._registry,
            places=asyncio.Semaphore(self._parallel),
            tally=tally,
            remembered=self._remembered,
            verify=self._verify,
            dry_run=self._dry_run,
        )
        try:
            await _Run(taking, jobs=self._parallel, hashing=self._hashing).walk(globs)
        except BaseExceptionGroup as failures:
            first = _first(failures)
            raise first from first.__cause__
        report = tally.report(
            seconds=self._clock.monotonic() - began,
            requests=None if self._requests is None else self._requests.count - asked,
            written=None if self._requests is None else self._requests.sent - sent,
            dry_run=self._dry_run,
        )
        self._listen(report)
        return report


class _Run:
    def __init__(self, taking: Taking, *, jobs: int, hashing: int) -> None:
        self._taking = taking
        self._tally = taking.tally
        self._blobs = AdoptedBlobs(taking, hashing=hashing)
        self._manifests = AdoptedManifests(taking, self._blobs)
        self._tags = AdoptedTags(taking, self._manifests)
        # A job waits for others' work only where that has begun, so that all of them come to an end.
        self._jobs = asyncio.Semaphore(jobs)
        self._open = asyncio.Semaphore(jobs)
        """Repositories that may be looked at at the same time."""

    async def walk(self, globs: Sequence[RepositoryGlob]) -> None:
        seen: Remembered[str] = Remembered(self._taking.remembered)
        name: str | None = None
        queue: asyncio.Queue[Sequence[tree.Entry]] | None = None
        async with asyncio.TaskGroup() as group:
            async for batch in walk(self._taking.registry.store, globs):
                if queue is None or batch.repository != name:
                    if queue is not None:
                        await queue.put(_END)
                    name, queue = batch.repository, asyncio.Queue(1)
                    if name not in seen:
                        self._tally.repositories += 1
                        seen.add(name)
                    await self._open.acquire()
                    task = group.create_task(self._repository(name, queue))
                    task.add_done_callback(lambda _: self._open.release())
                await queue.put(batch.entries)
            if queue is not None:
                await queue.put(_END)

    async def _repository(self, name: str, queue: asyncio.Queue[Sequence[tree.Entry]]) -> None:
        """Takes over what comes by the queue, to its end."""
        self._tally.begin(name)
        self._tally.listen(Repository(repository=name))
        notes: Notes | None = None
        async with asyncio.TaskGroup() as group:
            while entries := await queue.get():
                try:
                    parse_repository(name)
                except NameInvalid as error:
                    self._tally.problem(name, f"{tree.REPOSITORIES}{name[:200]}", error.message)
                    continue
                if notes is None:
                    async with self._taking.places:
                        notes = await Notes.open(self._taking.registry.store, name)
                for entry in entries:
                    job = await self._job(entry, notes)
                    if job is not None:
                        await self._jobs.acquire()
                        group.create_task(job()).add_done_callback(lambda _: self._jobs.release())
        self._tally.finish(name)

    async def _job(self, entry: tree.Entry, notes: Notes) -> Callable[[], Coroutine[Any, Any, None]] | None:
        """What is to be done for an entry; None where that is nothing."""
        if entry.kind is tree.Kind.TAG:
            try:
                parse_tag(entry.name)
            except TagInvalid as error:
                self._tally.problem(entry.repository, entry.key, error.message)
                return None
            return partial(self._tags.take, entry, await notes.tag(entry.name), fresh=notes.fresh)
        try:
            digest = Digest.parse(entry.name)
        except DigestInvalid as error:
            self._tally.problem(entry.repository, entry.key, error.message)
            return None
        note = await notes.manifest(digest.algorithm, digest.hex)
        if note is None:
            return partial(self._take, entry, digest, fresh=notes.fresh)
        if self._taking.verify and note.size == 0:
            return partial(self._prove, entry, digest)
        self._tally.skip(entry.repository)
        return None

    async def _take(self, entry: tree.Entry, digest: Digest, *, fresh: bool) -> None:
        found = await self._manifests.take(entry.repository, digest, fresh=fresh)
        # A link that is gone was deleted there after it was listed.
        if found is not None and not (found.absent and found.path == entry.key):
            self._problem(entry.repository, found)

    async def _prove(self, entry: tree.Entry, digest: Digest) -> None:
        found = await self._manifests.verify(entry.repository, digest)
        if found is None:
            self._tally.skip(entry.repository)
        else:
            self._problem(entry.repository, found)

    def _problem(self, repository: str, found: Broken) -> None:
        self._tally.problem(repository, found.path, found.reason)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
