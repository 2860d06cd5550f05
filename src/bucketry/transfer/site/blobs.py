"""The blobs of a publish: copied within the site, copied by the store they are in, or sent through this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from bucketry import hashing
from bucketry.hashing import SEGMENT
from bucketry.oci import Descriptor
from bucketry.store.contract import Store
from bucketry.store.site_parts import DEFAULT_PART, cut
from bucketry.transfer.bucket import translated
from bucketry.transfer.contract import Source
from bucketry.transfer.crew import closing, crew
from bucketry.transfer.events import Found, Note, Skipped
from bucketry.transfer.sending import Sending
from bucketry.transfer.site import paths
from bucketry.transfer.site.counting import Count, CountedSite
from bucketry.transfer.site.files import SiteFiles
from bucketry.transfer.site.gathering import Wanted
from bucketry.transfer.site.rehearsal import RehearsedSite
from bucketry.transfer.site.repository import SiteRepository
from bucketry.transfer.work import BLOBS_AT_ONCE, Work

Way: TypeAlias = Literal["already there", "copied within the site", "copied by the store", "sent"]

WAYS: tuple[Way, ...] = ("already there", "copied within the site", "copied by the store", "sent")

MOST_LOOKED_AT = 50_000
"""Files of other repositories that are listed to find a blob which need not be sent."""


@runtime_checkable
class StoredBlobs(Protocol):
    """A `Source` whose blobs are objects of a store of this process."""

    async def stored(self, blob: Descriptor) -> tuple[Store, str] | None:
        """The store and the key of the blob's bytes; None where it is not to be had so."""
        ...


class MovingBlobs:
    """``ways``: blobs by the way they came. ``rehearsal``: what would be sent is only counted, and told to it."""

    def __init__(
        self,
        work: Work,
        site: CountedSite,
        files: SiteFiles,
        repositories: Mapping[str, SiteRepository],
        *,
        rehearsal: RehearsedSite | None,
    ) -> None:
        self._work = work
        self._site = site
        self._files = files
        self._repositories = repositories
        self._rehearsal = rehearsal
        self._told: set[str] = set()
        self._done: set[tuple[str, str]] = set()
        self._said = False
        self._holders: dict[str, list[str]] = {}
        self.ways: dict[Way, Count] = {way: Count() for way in WAYS}

    async def move(self, wanted: Mapping[str, Wanted], others: bool) -> None:
        """Until all blobs are there. ``others``: the site has repositories that were not listed."""
        work = self._work
        blobs: dict[str, tuple[Descriptor, Source]] = {}
        homes: dict[str, list[str]] = {}
        configs: set[str] = set()
        for repository in wanted.values():
            configs.update(m.parsed.config.digest for m in repository.manifests.values() if m.parsed.config)
            for digest, found in repository.blobs.items():
                blobs.setdefault(digest, found)
                homes.setdefault(digest, []).append(repository.name)
        missing = {
            blob.digest: blob.size
            for blob, _ in blobs.values()
            if not all(self._is_there(name, blob) for name in homes[blob.digest])
        }
        self._holders = self._listed_holders(missing)
        if others and missing.keys() - self._holders.keys():
            await work.patiently(paths.API, partial(self._look_around, missing))
        async with crew(BLOBS_AT_ONCE) as tasks:
            # The largest first, so that at the end not one large blob is alone on its way.
            for blob, source in sorted(blobs.values(), key=lambda item: -item[0].size):
                if blob.digest not in self._told:
                    self._told.add(blob.digest)
                    is_config = blob.digest in configs
                    work.tell(Found(item=blob.digest, kind="config" if is_config else "layer", size=blob.size))
                await tasks.begin(self._one, blob, source, homes[blob.digest])

    def _is_there(self, name: str, blob: Descriptor) -> bool:
        return self._files.has(paths.blob(name, blob.parsed), blob.size)

    def _listed_holders(self, missing: Mapping[str, int]) -> dict[str, list[str]]:
        holders: dict[str, list[str]] = {}
        if missing:
            for path, size in self._files.sizes.items():
                self._hold(holders, missing, path, size)
        return holders

    def _hold(self, holders: dict[str, list[str]], missing: Mapping[str, int], path: str, size: int) -> None:
        digest = path.rpartition("/")[2]
        if missing.get(digest) == size:
            found = paths.parse(path)
            if found is not None and found.kind == "blobs":
                holders.setdefault(digest, []).append(found.name)

    async def _look_around(self, missing: Mapping[str, int]) -> None:
        """Which other repositories have what is missing, as far as that is not a search without end."""
        holders: dict[str, list[str]] = {}
        count = 0
        with translated():
            async with closing(self._site.list(paths.API)) as files:
                async for file in files:
                    self._hold(holders, missing, file.path, file.size)
                    count += 1
                    if count >= MOST_LOOKED_AT:
                        break
        self._holders = holders

    async def _one(self, blob: Descriptor, source: Source, names: Sequence[str]) -> None:
        for name in names:
            way: Way
            if self._is_there(name, blob):
                if (name, blob.digest) in self._done:
                    continue
                way = "already there"
            elif await self._copied_within(blob, name):
                way = "copied within the site"
            elif await self._copied_by_store(blob, source, name):
                way = "copied by the store"
            else:
                await self._send(blob, source, name)
                way = "sent"
            self.ways[way].add(blob.size)
            self._done.add((name, blob.digest))
            self._files.sizes[paths.blob(name, blob.parsed)] = blob.size
            holders = self._holders.setdefault(blob.digest, [])
            if name not in holders:
                holders.append(name)
            if way != "sent":
                self._work.tell(Skipped(item=blob.digest, why=way, size=blob.size))

    async def _copied_within(self, blob: Descriptor, name: str) -> bool:
        for other in self._holders.get(blob.digest, ()):
            if other == name:
                continue
            source = paths.checkpoints(other, blob.parsed)
            size = self._files.sizes.get(source)
            if size is not None:
                await self._copy(source, paths.checkpoints(name, blob.parsed), size)
            if await self._copy(paths.blob(other, blob.parsed), paths.blob(name, blob.parsed), blob.size):
                return True
        return False

    async def _copy(self, source: str, path: str, size: int) -> bool:
        served = paths.of_digest(paths.OCTETS)

        async def attempt() -> bool:
            with translated():
                return await self._site.copy(source, path, size=size, served=served)

        if self._files.has(path, size):
            return True
        copied = await self._work.patiently(path, attempt)
        if copied:
            self._files.sizes[path] = size
        return copied

    async def _copied_by_store(self, blob: Descriptor, source: Source, name: str) -> bool:
        if not isinstance(source, StoredBlobs):
            return False
        stored = await self._work.patiently(blob.digest, partial(source.stored, blob))
        if stored is None:
            return False
        store, key = stored
        served = paths.of_digest(paths.OCTETS)
        repository = self._repositories[name]
        if blob.size > SEGMENT:
            known = await self._work.patiently(blob.digest, source.blob(blob).checkpoints)
            await self._work.patiently(blob.digest, lambda: repository.put_checkpoints(blob.parsed, known))

        async def attempt() -> bool:
            with translated():
                path = paths.blob(name, blob.parsed)
                return await self._site.copy_from(store, key, path, size=blob.size, served=served)

        return await self._work.patiently(blob.digest, attempt)

    async def _send(self, blob: Descriptor, source: Source, name: str) -> None:
        if self._site.refusal is not None and not self._said:
            self._said = True
            self._work.tell(Note(text=f"blobs go through this machine, as they cannot be copied: {self._site.refusal}"))
        if self._rehearsal is None:
            await Sending(self._work, source, self._repositories[name], mount_from=None).send(blob)
            return
        wish = self._work.settings.part(blob.size)
        least = DEFAULT_PART if self._site.keeps_headers else 1
        with translated():
            part = None if blob.size <= wish else cut(blob.size, wish, least=least).part_size
        noted = blob.parsed.algorithm == "sha256" and hashing.resumable() and blob.size > SEGMENT
        if noted:
            path, size = paths.checkpoints(name, blob.parsed), checkpoints_size(blob.size)
            if not self._files.has(path, size):
                self._foresee(path, size, None)
        self._foresee(paths.blob(name, blob.parsed), blob.size, part)

    def _foresee(self, path: str, size: int, part: int | None) -> None:
        assert self._rehearsal is not None
        self._site.counts.sent(path, size, part)
        self._rehearsal.foresee(path, size)
        self._files.sizes[path] = size


def checkpoints_size(size: int) -> int:
    """Bytes of the checkpoints that are noted of a blob of ``size`` bytes."""
    return 56 + 32 * (max(1, -(-size // SEGMENT)) - 1)
