"""`bucketry-site.json`: what a site publishes, and what is about to leave it. Changed by compare-and-swap only.

Everything else that changes in a site (tags, lists, referrers, the page) is made from it. So whoever changed it, and
whoever finds that another did, writes those files again until what they were made from is still what is there.

- ``pending``: tags that were taken up, since when, and whose files are not known to be written. Whoever finds one
  writes it; a prune that has no such tag waits until it was written.
- ``leaving``: paths that nothing needs, since when. They are deleted by a prune after its grace.
- ``going``: paths that a prune is deleting now, since when. Whoever needs one waits, and sends it again.
- ``removals`` counts deletions: who looked at the files before, and finds another number after, looks again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from bucketry.oci import Descriptor, Digest, media_types, parse_repository, parse_tag
from bucketry.oci.errors import OCIError
from bucketry.store.contract import IF_ABSENT, IfMatch, NotFound, PreconditionFailed
from bucketry.store.site import SiteStore
from bucketry.transfer.bucket import translated
from bucketry.transfer.errors import Refused
from bucketry.transfer.site import paths

FORMAT: Final = 1

LIMIT: Final = 64 * 1024 * 1024
"""Bytes of the file, which is read and written whole: some 100,000 tags."""

_LATEST: Final = 253_402_300_799
"""POSIX seconds: the end of the year 9999, after which no date can be shown."""


class PlatformSize(msgspec.Struct, frozen=True, omit_defaults=True):
    """One image of an index. ``size``: bytes that a pull of it moves, ``platform`` as ``os/architecture[/variant]``."""

    platform: str
    digest: str
    size: int


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What is published under a tag, or under its digest alone.

    ``size``: bytes of all of it, each blob once: of an index what all platforms have together. ``platforms``: of an
    index its images, of an image itself, where they say what they run on. ``updated``: POSIX seconds.
    """

    digest: str
    media_type: str
    size: int
    updated: float
    platforms: tuple[PlatformSize, ...] = ()


class Repository(msgspec.Struct, frozen=True, omit_defaults=True):
    """``digests``: published without a tag. ``referrers``: by the digest of their subject, in the order of theirs."""

    tags: dict[str, Entry] = {}
    digests: dict[str, Entry] = {}
    referrers: dict[str, tuple[Descriptor, ...]] = {}

    @property
    def visible(self) -> bool:
        """Whether lists name it: one that is only being filled is not."""
        return bool(self.tags or self.digests)


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    format: int
    created: float
    """POSIX seconds."""
    nonce: str
    """New with every write, so that a write whose answer was lost can be told from another's."""
    repositories: dict[str, Repository] = {}
    pending: dict[str, float] = {}
    """By ``name:tag``."""
    leaving: dict[str, float] = {}
    going: dict[str, float] = {}
    removals: int = 0

    def names(self) -> list[str]:
        """The repositories that lists name, in order."""
        return sorted(name for name, repository in self.repositories.items() if repository.visible)

    def tag(self, name: str, tag: str) -> Entry | None:
        repository = self.repositories.get(name)
        return None if repository is None else repository.tags.get(tag)

    def referrers(self, name: str, subject: Digest) -> tuple[Descriptor, ...]:
        repository = self.repositories.get(name)
        return () if repository is None else repository.referrers.get(str(subject), ())


class _Format(msgspec.Struct, frozen=True):
    format: int


class Overtaken(Exception):
    """Another publish changed something meanwhile: look again."""


@dataclass(frozen=True, slots=True)
class Held:
    """The state as it was read, or written."""

    state: State
    etag: str


class StateFile:
    """Each call is one attempt, to be made again. ``ids`` gives what nobody gave before. Raises `TransferError`."""

    def __init__(self, site: SiteStore, *, ids: Callable[[], str]) -> None:
        self._site = site
        self._ids = ids

    async def read(self) -> Held | None:
        """None where there is no site. Raises `Refused` for a newer format, and for what is no state."""
        with translated():
            try:
                found = await self._site.get(paths.STATE, limit=LIMIT)
            except NotFound:
                return None
        return Held(decode(found.body, f"{self._site.url}: {paths.STATE}"), found.file.etag)

    async def create(self, now: float) -> Held:
        """A site that publishes nothing yet, or the one that somebody else has made meanwhile."""
        state = State(format=FORMAT, created=now, nonce=self._ids())
        with translated():
            try:
                return Held(state, await self._put(state, None))
            except PreconditionFailed:
                pass
        return await self._again()

    async def change(self, held: Held, apply: Callable[[State], State]) -> Held:
        """The state as ``apply`` makes it of what is there then, which may be called several times.

        What it raises comes out. Where it changes nothing, nothing is asked or written.
        """
        while True:
            wanted = apply(held.state)
            if wanted == held.state:
                return held
            try:
                return await self.swap(held, wanted)
            except Overtaken:
                held = await self._again()

    async def swap(self, held: Held, wanted: State) -> Held:
        """Raises `Overtaken` where the state is not the one that is held any more."""
        wanted = msgspec.structs.replace(wanted, nonce=self._ids())
        with translated():
            try:
                return Held(wanted, await self._put(wanted, held.etag))
            except PreconditionFailed as error:
                raise Overtaken from error

    async def _put(self, state: State, etag: str | None) -> str:
        body = encode(state)
        if len(body) > LIMIT:
            # Nobody could read it again.
            raise Refused(
                f"{self._site.url}: {paths.STATE} would have {len(body):,} bytes, and the most is {LIMIT:,}: "
                "publish fewer images there, or to several sites"
            )
        return await self._site.put(
            paths.STATE,
            body,
            served=paths.changing(paths.JSON),
            condition=IF_ABSENT if etag is None else IfMatch(etag),
        )

    async def _again(self) -> Held:
        found = await self.read()
        if found is None:
            raise Refused(f"{self._site.url}: {paths.STATE} was deleted meanwhile: publish again")
        return found


def encode(state: State) -> bytes:
    return msgspec.json.format(msgspec.json.encode(state, order="sorted"), indent=1) + b"\n"


def decode(body: bytes, what: str) -> State:
    """Raises `Refused`, which names ``what`` it was read from."""
    try:
        known = msgspec.json.decode(body, type=_Format).format
        if known > FORMAT:
            raise Refused(f"{what} has format {known}, and this bucketry knows {FORMAT}: use a newer bucketry")
        state = msgspec.json.decode(body, type=State)
        _check(state)
    except (msgspec.MsgspecError, ValueError, OCIError, RecursionError) as error:
        raise Refused(f"{what} is not what bucketry wrote ({error}): put it back, or publish elsewhere") from error
    return state


def _check(state: State) -> None:
    """That every name in it may be made a path, and all that is told of images can be: it is acted on, and shown."""
    if state.format < 1:
        raise ValueError(f"format {state.format}")
    for name, repository in state.repositories.items():
        parse_repository(name)
        for tag in repository.tags:
            parse_tag(tag)
        entries: Mapping[str, Entry] = {**repository.tags, **repository.digests}
        for digest in (*(entry.digest for entry in entries.values()), *repository.digests, *repository.referrers):
            Digest.parse(digest)
        for entry in entries.values():
            if not media_types.may_be_manifest(media_types.essence(entry.media_type)):
                raise ValueError(f"{entry.media_type[:100]!r} is no media type of a manifest")
            if not 0 <= entry.updated <= _LATEST:
                raise ValueError(f"{entry.updated} is no time of a change")
    for pending in state.pending:
        name, _, tag = pending.rpartition(":")
        parse_repository(name)
        parse_tag(tag)
    for path in (*state.leaving, *state.going):
        if paths.parse(path) is None:
            raise ValueError(f"{path[:100]!r} is no file of a repository")
