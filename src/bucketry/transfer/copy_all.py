"""Copy whole registries: every repository of one home to another, every tag, with what refers to it.

A tag whose manifest is at the target already is done: a registry that has acknowledged a manifest has all of it. So a
run that was stopped goes on with two requests for each tag that is there.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from bucketry.oci.glob import RepositoryGlob
from bucketry.transfer.contract import RawManifest, Source
from bucketry.transfer.copy import choose_all
from bucketry.transfer.crew import crew
from bucketry.transfer.errors import ImageMissing, NameUnusable, TransferError, Unreachable
from bucketry.transfer.events import (
    Again,
    Began,
    Done,
    Ended,
    Event,
    Found,
    Listener,
    Moved,
    Note,
    Read,
    Resumed,
    Skipped,
    Verified,
)
from bucketry.transfer.homes import Home, Repository
from bucketry.transfer.pool import SYSTEM, Timing
from bucketry.transfer.push import move
from bucketry.transfer.settings import TransferSettings
from bucketry.transfer.work import Work

REPOSITORIES_AT_ONCE: Final = 4
TAGS_AT_ONCE: Final = 64
"""Of one repository: what they name is in memory together."""
LOOKS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class CopiedAll:
    """``failed``: repositories that are not, or not wholly, there, and why."""

    ended: Ended
    repositories: int
    tags: int
    failed: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Count:
    repositories: int = 0
    tags: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


async def copy_all(
    source: Home,
    target: Home,
    *,
    globs: Sequence[RepositoryGlob],
    settings: TransferSettings,
    listen: Listener,
    timing: Timing = SYSTEM,
    clock: Callable[[], float] = time.time,
) -> CopiedAll:
    """Until every repository that a glob matches (without globs: every one) was gone through.

    Events are of repositories: each is an item of its own. What fails in one repository is noted, and the others go
    on. Raises `TransferError`: `Unreachable` where either side has stopped answering, `ImageMissing` where no
    repository is meant, `NameUnusable` where it would copy what it has just copied. ``clock``: POSIX seconds.
    """
    if target.inside(source):
        raise NameUnusable(f"{target.name} is in {source.name}: it would be copied into itself")
    work = Work(settings, listen, timing=timing, clock=clock, piece=settings.part(0))
    work.tell(Began(action="copy", source=source.name, target=target.name))
    count = _Count()

    async def one(name: str) -> None:
        count.repositories += 1
        part = _Part(work, name)
        try:
            tags = await _repository(part, source, target, name)
        except Unreachable:
            raise
        except TransferError as error:
            count.failed.append((name, str(error)))
            work.tell(Note(text=f"{name}: {error}"))
        else:
            count.tags += tags

    async with crew(REPOSITORIES_AT_ONCE) as tasks, aclosing(_meant(source, globs)) as names:
        async for name in names:
            await tasks.begin(one, name)
    if not count.repositories:
        raise ImageMissing(f"{source.name} has no repository {_named(globs)}: there is nothing to copy")
    ended = work.ended("", None)
    return CopiedAll(ended, count.repositories, count.tags, tuple(count.failed))


async def _meant(source: Home, globs: Sequence[RepositoryGlob]) -> AsyncGenerator[str]:
    """A registry is only asked for its repositories where that is needed: many do not tell."""
    literals = [glob.literal for glob in globs if glob.literal is not None]
    for name in dict.fromkeys(literals):
        yield name
    patterns = [glob for glob in globs if glob.literal is None]
    if globs and not patterns:
        return
    async with aclosing(source.repositories()) as names:
        async for name in names:
            if name not in literals and (not globs or any(glob.matches(name) for glob in patterns)):
                yield name


def _named(globs: Sequence[RepositoryGlob]) -> str:
    return "at all" if not globs else " or ".join(glob.pattern for glob in globs)


class _Part:
    """The work on one repository, which is one item to whoever listens."""

    def __init__(self, work: Work, name: str) -> None:
        self._whole = work
        self._name = name
        self._size = 0
        self._sizes: dict[str, int] = {}
        self._moved = 0
        self._there = 0
        self.work = work.heard_by(self._hear)

    def _hear(self, event: Event) -> None:
        match event:
            case Found() if event.size is not None:
                self._size += event.size - self._sizes.get(event.item, 0)
                self._sizes[event.item] = event.size
                self._whole.tell(Found(item=self._name, kind="repository", size=self._size))
            case Moved():
                self._moved += event.size
                if self._moved > self._size:  # A manifest is sent once for each of its tags, and was found once.
                    self._size = self._moved
                    self._whole.tell(Found(item=self._name, kind="repository", size=self._size))
                self._whole.tell(Moved(item=self._name, size=event.size))
            case Again():
                self._moved -= event.size
                self._whole.tell(Again(item=self._name, why=event.why, size=event.size))
            case Resumed():
                self._whole.tell(Resumed(item=self._name, size=event.size))
            case Skipped():
                self._size -= self._sizes.pop(event.item, 0)
                self._there += event.size or 0
                self._whole.tell(Found(item=self._name, kind="repository", size=self._size))
            case Note():
                self._whole.tell(Note(text=f"{self._name}: {event.text}"))
            case Read() | Verified() | Done() | Began() | Ended() | Found():
                pass

    def begin(self) -> None:
        self._whole.tell(Found(item=self._name, kind="repository"))

    def end(self) -> None:
        if self._moved or self._size:
            self._whole.tell(Done(item=self._name, digest="", size=self._size))
        else:
            self._whole.tell(Skipped(item=self._name, why="already there", size=self._there))


async def _repository(part: _Part, source: Home, target: Home, name: str) -> int:
    """How many tags it has."""
    work = part.work
    whence, whither = source.repository(name), target.repository(name)
    part.begin()
    await work.first(whither.name, whither.takes_parts)
    mount_from = target.mount_from(source, name)
    tags = await work.first(name, whence.tags)
    for at in range(0, len(tags), TAGS_AT_ONCE):
        missing = await _missing(work, whence, whither, tags[at : at + TAGS_AT_ONCE])
        if missing:
            chosen = await choose_all(work, whence, missing, work.settings.platform)
            await move(work, whence, whither, chosen, mount_from=mount_from)
    part.end()
    return len(tags)


async def _missing(work: Work, source: Source, target: Repository, tags: Sequence[str]) -> list[str]:
    """Those that the target does not have as they are in the source.

    With one platform chosen the target has other manifests than the source; with referrers, there may be new ones of
    an image that is there. Then all are gone through; what is there is not sent in any case.
    """
    if work.settings.platform is not None or work.settings.referrers:
        return list(tags)
    same: set[str] = set()

    async def look(tag: str) -> None:
        there = await _manifest(work, target, tag)
        if there is not None and there.digest == (await work.patiently(tag, lambda: source.manifest(tag))).digest:
            same.add(tag)
            work.tell(Skipped(item=str(there.digest), why="already there", size=len(there.body)))

    async with crew(LOOKS_AT_ONCE) as tasks:
        for tag in tags:
            await tasks.begin(look, tag)
    return [tag for tag in tags if tag not in same]


async def _manifest(work: Work, repository: Repository, tag: str) -> RawManifest | None:
    try:
        return await work.patiently(tag, lambda: repository.manifest(tag))
    except ImageMissing:
        return None
