"""The centre: a registry over a store. The HTTP server and the client both open it: two doors, one set of rules."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from bucketry.registry import layout
from bucketry.registry.blobs import Blobs
from bucketry.registry.contents import Contents
from bucketry.registry.ended import EndedSessions
from bucketry.registry.listing import Listing
from bucketry.registry.manifests import Manifests
from bucketry.registry.noting import Hashes
from bucketry.registry.parallel import Parallel
from bucketry.registry.records import FormatFile, decode, encode
from bucketry.registry.referrers import Referrers
from bucketry.registry.sessions import PARALLEL, STREAM, Kind, Sessions
from bucketry.registry.settings import Clock, Ids, RandomIds, RegistrySettings, SystemClock
from bucketry.registry.sweep import Sweeper
from bucketry.registry.uploads import Uploads
from bucketry.store.contract import IF_ABSENT, NotFound, PreconditionFailed, Store, StoreError

FORMAT = 1
FLUSH_INTERVAL = 30.0
"""Seconds between removals of sessions that ended."""

_log = structlog.get_logger("bucketry.registry")


class NewerFormat(StoreError):
    """The store was written by a newer bucketry."""


class Registry:
    """The verbs of the spec, by noun: ``blobs``, ``uploads``, ``parallel``, ``manifests``, ``referrers``, ``listing``.

    Made by `Registry.open`. ``start`` runs what a registry does by itself (sweeping); ``close`` ends it.
    The store is the caller's to start and to close.
    """

    def __init__(
        self,
        store: Store,
        format_file: FormatFile,
        *,
        clock: Clock,
        ids: Ids,
        settings: RegistrySettings,
        native_hash: bool = True,
    ) -> None:
        self.store = store
        self.settings = settings
        self._identity = format_file.registry
        contents = Contents(store, clock=clock)
        self.blobs = Blobs(store, contents, clock=clock, ids=ids, settings=settings)
        self.referrers = Referrers(store, settings=settings)
        self.manifests = Manifests(store, self.blobs, self.referrers, contents, clock=clock, settings=settings)
        self.listing = Listing(store, settings=settings)
        self.sweeper = Sweeper(store, self.blobs, clock=clock, settings=settings)
        self.ended = EndedSessions(store)
        hashes = Hashes(segment=settings.segment, native=native_hash)

        def sessions(kind: Kind) -> Sessions:
            secret = format_file.registry.encode()
            return Sessions(store, clock=clock, ids=ids, secret=secret, expiry=settings.upload_expiry, kind=kind)

        self.uploads = Uploads(store, self.blobs, sessions(STREAM), self.ended, hashes, ids=ids, settings=settings)
        self.parallel = Parallel(
            store,
            self.blobs,
            sessions(PARALLEL),
            self.ended,
            self.uploads.budget,
            hashes,
            clock=clock,
            ids=ids,
            settings=settings,
        )
        self._chores: list[asyncio.Task[None]] = []

    @classmethod
    async def open(
        cls,
        store: Store,
        *,
        clock: Clock | None = None,
        ids: Ids | None = None,
        settings: RegistrySettings | None = None,
        native_hash: bool = True,
    ) -> Registry:
        """Opens the registry in a store, or makes one there. Raises `NewerFormat`."""
        clock, ids = clock or SystemClock(), ids or RandomIds()
        format_file = await _open_format(store, clock, ids)
        return cls(
            store,
            format_file,
            clock=clock,
            ids=ids,
            settings=settings or RegistrySettings(),
            native_hash=native_hash,
        )

    def is_same(self, other: Registry) -> bool:
        """Whether both are the same registry, by whatever name its store was opened."""
        return self._identity == other._identity

    def start(self, *, sweep_interval: float) -> None:
        """Begins the chores of a long-lived registry. ``sweep_interval`` in seconds."""
        self._chores = [
            asyncio.create_task(self._repeat(FLUSH_INTERVAL, self._flush)),
            asyncio.create_task(self._repeat(sweep_interval, self._sweep)),
        ]

    async def close(self) -> None:
        for chore in self._chores:
            chore.cancel()
        for chore in self._chores:
            with contextlib.suppress(asyncio.CancelledError):
                await chore
        self._chores = []
        await self.parallel.close()
        await self._flush()

    async def _flush(self) -> None:
        try:
            await self.ended.flush()
        except StoreError as error:
            _log.warning("ended upload sessions could not be removed", error=str(error))

    async def _sweep(self) -> None:
        try:
            swept = await self.sweeper.sweep()
        except StoreError as error:
            _log.warning("abandoned upload sessions could not be swept", error=str(error))
            return
        if swept.sessions or swept.uploads:
            _log.info(
                "abandoned uploads swept",
                sessions=swept.sessions,
                multiparts=swept.uploads,
                objects=swept.data,
            )

    async def _repeat(self, interval: float, chore: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(interval)
            await chore()


async def _open_format(store: Store, clock: Clock, ids: Ids) -> FormatFile:
    while True:
        try:
            held = await store.get(layout.FORMAT_KEY)
        except NotFound:
            made = FormatFile(format=FORMAT, registry=ids.token(), created=clock.now())
            with contextlib.suppress(PreconditionFailed):
                await store.put(layout.FORMAT_KEY, encode(made), content_type="application/json", condition=IF_ABSENT)
            continue
        found = decode(held.body, FormatFile, layout.FORMAT_KEY)
        if found.format > FORMAT:
            raise NewerFormat(
                f"{store.url} has bucket format {found.format}, and this bucketry knows formats up to {FORMAT}: "
                "upgrade bucketry"
            )
        return found
