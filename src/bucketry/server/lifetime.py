"""A worker from its start to its end: opens the store and the registry, lets running uploads end, or parks them."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal

import structlog
from starlette.types import Receive, Send

from bucketry.registry import Registry, RegistrySettings
from bucketry.server.body import Drain
from bucketry.server.config import Config
from bucketry.server.delivery import Delivery
from bucketry.server.handlers import Handlers
from bucketry.server.health import Health
from bucketry.server.metrics import Metrics
from bucketry.store.contract import Store, StoreError
from bucketry.store.open import open_store

_log = structlog.get_logger("bucketry.server")


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


class Lifetime:
    def __init__(self, config: Config, workers: int, metrics: Metrics) -> None:
        self._config = config
        self._workers = workers
        self._metrics = metrics
        self._store: Store | None = None
        self._registry: Registry | None = None
        self._cut: asyncio.TimerHandle | None = None
        self._giving_up: asyncio.Task[None] | None = None
        self.drain = Drain()
        self.handlers: Handlers | None = None
        """None until the registry is open."""
        self.health = Health(lambda: self._store, self.drain)

    async def run(self, receive: Receive, send: Send) -> None:
        """The lifespan protocol of ASGI."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._open()
                except StoreError as error:
                    _log.error("the store cannot be used", store=self._config.store.url, error=str(error))
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
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
        self._store, self._registry = store, registry
        self.handlers = Handlers(
            registry,
            Delivery(registry, config.delivery),
            public_url=config.server.public_url,
            catalog=config.catalog.enabled,
            presign_expires=config.delivery.presign_expires,
        )
        loop = asyncio.get_running_loop()
        # The server takes SIGINT as its signal to stop accepting and to wait for what is running.
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        parent = multiprocessing.parent_process()
        if parent is not None:
            # Its end can be read where it died of SIGKILL, too: a worker that nobody leads must not hold the port.
            loop.add_reader(parent.sentinel, self._orphaned)

    def _stop(self) -> None:
        """Lets running requests end; after the grace, cuts off the bodies that still come, and parks their uploads."""
        if self.drain.stopping:
            return
        self.drain.stopping = True
        loop = asyncio.get_running_loop()
        self._cut = loop.call_later(self._config.limits.shutdown_grace, self.drain.cut_off)
        if self._registry is not None:
            # Those who wait for a verification are answered at once, and ask a replica that stays.
            self._giving_up = loop.create_task(self._registry.parallel.close())
        os.kill(os.getpid(), signal.SIGINT)

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
        if self._registry is not None:
            await self._registry.close()
        if self._store is not None:
            with contextlib.suppress(StoreError):
                await self._store.close()

    def sample(self, metrics: Metrics) -> None:
        """Brings the gauges that are looked up, not counted, up to date."""
        if self._registry is not None:
            metrics.buffered.set(self._registry.uploads.budget.used)
