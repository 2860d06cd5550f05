"""A worker from its start to its end: opens the store and the registry, lets running uploads end, or parks them."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeAlias

import structlog
from starlette.types import Receive, Send

from bucketry.registry import Registry, RegistrySettings
from bucketry.registry.settings import RandomIds, SystemClock
from bucketry.server.auth.errors import RulesUnusable
from bucketry.server.body import Drain
from bucketry.server.config import Config
from bucketry.server.delivery import Delivery
from bucketry.server.handlers import Handlers
from bucketry.server.health import Health
from bucketry.server.metrics import Metrics
from bucketry.store.contract import Store, StoreError
from bucketry.store.open import open_store

if TYPE_CHECKING:
    from bucketry.server.auth.door import Door

_log = structlog.get_logger("bucketry.server")

PARKING_SECONDS = 8.0
"""What a worker has, beyond the grace of its requests, to park uploads and to end: less than its leader waits before it
kills it, so that it can show where it hangs."""
_SERVING_AFTER = 0.1
"""Seconds after the start, when the loop runs again: the server runs it once to start and once to serve, and uvloop
forgets the signals that it has not read when the first run ends."""

_Handler: TypeAlias = Callable[[int, FrameType | None], object] | int | None


def registry_settings(config: Config, workers: int) -> RegistrySettings:
    """The registry's part of the configuration; one of ``workers`` gets its share of the memory."""
    return RegistrySettings(
        part_size=config.upload.part_size,
        memory=config.upload.memory // workers,
        parallel_parts=config.upload.parallel_parts,
        upload_expiry=config.upload.expire,
        max_manifest=config.manifest.max_size,
        sparse=config.manifest.sparse,
        delete=config.delete.enabled,
        mount_without_source=config.mount.without_source,
        max_page=config.limits.page_size,
    )


async def _open_door(config: Config, store: Store) -> Door:
    """Raises `RulesUnusable`."""
    # Here, so that a server without rules loads nothing of it.
    from bucketry.access import AccessError
    from bucketry.server.auth.door import Door
    from bucketry.server.auth.rulebook import KEPT, Rulebook, first_book

    assert config.access.file is not None
    path = Path(config.access.file)
    access = config.access
    try:
        kept = Path(os.environ[KEPT]) if KEPT in os.environ else None
        book = await asyncio.to_thread(first_book, path, kept)
        rulebook = Rulebook(path, book, reload=access.reload, kept=kept)
        door = Door(
            rulebook,
            store,
            service=access.service,
            token_life=access.token_life,
            reload=access.reload,
            clock=SystemClock(),
            ids=RandomIds(),
        )
    except (AccessError, OSError, ValueError) as error:
        raise RulesUnusable(str(error)) from error
    rulebook.changed = door.changed
    rulebook.start()
    return door


class Lifetime:
    """The life of one worker, and who may end it: the process that leads it, by SIGTERM, or by its own end.

    The server's runtime must be told once only that it stops. Its handler puts a message into a channel that has room
    for one, of which one is taken: it waits for room, with the interpreter's lock held, from the second call on while
    the app still starts, from the third when it runs, and then no line of Python runs in the process any more. A
    Ctrl-C gives several calls: the terminal sends it to every process, the leader sends SIGTERM, people press it again,
    and uvloop may report one signal twice when two come together. So a worker that is led ignores SIGINT, which its
    leader gets, too, and `_stop` lets the one through that it sends itself.

    Whatever else might hang in a worker that ends: after the grace and `PARKING_SECONDS` it writes where each of its
    threads is to stderr, and exits with 1. Nothing is lost by it: all state is in the store, and an upload that was
    not parked goes on from its last part there.
    """

    def __init__(self, config: Config, workers: int, metrics: Metrics) -> None:
        self._config = config
        self._workers = workers
        self._metrics = metrics
        self._store: Store | None = None
        self._registry: Registry | None = None
        self._cut: asyncio.TimerHandle | None = None
        self._giving_up: asyncio.Task[None] | None = None
        self._servers_handler: _Handler = None
        """Of SIGINT, where this is a worker that is led."""
        self._serving = False
        self.drain = Drain()
        self.door: Door | None = None
        """None where there are no rules."""
        self.handlers: Handlers | None = None
        """None until the registry is open."""
        self.health = Health(lambda: self._store, self.drain)

    async def run(self, receive: Receive, send: Send) -> None:
        """The lifespan protocol of ASGI."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._take_signals()
                try:
                    await self._open()
                except RulesUnusable as error:
                    _log.error("the rules cannot be used", file=self._config.access.file, error=str(error))
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                except StoreError as error:
                    _log.error("the store cannot be used", store=self._config.store.url, error=str(error))
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                asyncio.get_running_loop().call_later(_SERVING_AFTER, self._serve)
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _open(self) -> None:
        config = self._config
        store = open_store(
            config.store.url, config.store.options(), observer=self._metrics, checked_put=config.store.checked_put
        )
        await store.start()
        registry = await Registry.open(store, settings=registry_settings(config, self._workers))
        registry.start(sweep_interval=config.upload.sweep_interval)
        if config.access.file is not None:
            self.door = await _open_door(config, store)
        self._store, self._registry = store, registry
        self.handlers = Handlers(
            registry,
            Delivery(registry, config.delivery),
            public_url=config.server.public_url,
            catalog=config.catalog.enabled,
            presign_expires=config.delivery.presign_expires,
        )

    def _take_signals(self) -> None:
        """From the start on: a store may take its time to answer, and who waits for it may press Ctrl-C."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        parent = multiprocessing.parent_process()
        if parent is not None:
            self._servers_handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
            # Its end can be read where it died of SIGKILL, too: a worker that nobody leads must not hold the port.
            loop.add_reader(parent.sentinel, self._orphaned)

    def _stop(self) -> None:
        """Lets running requests end; after the grace, cuts off the bodies that still come, and parks their uploads."""
        if self.drain.stopping:
            return
        self.drain.stopping = True
        grace = self._config.limits.shutdown_grace
        if self._servers_handler is not None:
            # A thread that needs no lock of the interpreter, which may be what never comes free.
            faulthandler.dump_traceback_later(grace + PARKING_SECONDS, exit=True, file=2)
        loop = asyncio.get_running_loop()
        self._cut = loop.call_later(grace, self.drain.cut_off)
        if self._registry is not None:
            # Those who wait for a verification are answered at once, and ask a replica that stays.
            self._giving_up = loop.create_task(self._registry.parallel.close())
        if self._serving:
            self._stop_accepting()

    def _serve(self) -> None:
        self._serving = True
        if self.drain.stopping:
            self._stop_accepting()

    def _stop_accepting(self) -> None:
        """Sends this process SIGINT, the server's signal to stop accepting and to wait for what is running: once.

        The server's handler is put in for that alone: Python calls it before `signal.raise_signal` returns, and the
        loop has been woken by then.
        """
        if self._servers_handler is not None:
            signal.signal(signal.SIGINT, self._servers_handler)
        signal.raise_signal(signal.SIGINT)
        if self._servers_handler is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _orphaned(self) -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            asyncio.get_running_loop().remove_reader(parent.sentinel)
        self._stop()

    async def _close(self) -> None:
        if self._cut is not None:
            self._cut.cancel()
        if self._giving_up is not None:
            await self._giving_up
        if self.door is not None:
            await self.door.close()
        if self._registry is not None:
            await self._registry.close()
        if self._store is not None:
            with contextlib.suppress(StoreError):
                await self._store.close()

    def sample(self, metrics: Metrics) -> None:
        """Brings the gauges that are looked up, not counted, up to date."""
        if self._registry is not None:
            metrics.buffered.set(self._registry.uploads.budget.used)
