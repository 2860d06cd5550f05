"""A look at the store before anything is served, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import secrets
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from bucketry.server.config import Config
from bucketry.store.contract import NotFound, ReadOnly, Store, StoreError

_FORMAT_KEY = "bucketry.json"


@dataclass(frozen=True, slots=True)
class Found:
    refusal: str | None
    """Why the store must not be used, or None."""
    checked_put: bool
    """`ProbeReport.checked_put`; False where nobody tried, as the store takes no writes."""


def examine(config: Config) -> Found:
    """Raises `StoreError` where the store cannot be used.

    The process that leads the workers lives as long as they do, and would keep what the look needed: a client of S3.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(_examine, config.to_json()).result()


def _examine(config_json: bytes) -> Found:
    return asyncio.run(_probe(Config.from_json(config_json)))


async def _probe(config: Config) -> Found:
    from bucketry.store.open import open_store
    from bucketry.store.probe import probe

    store = open_store(config.store.url, config.store.options())
    await store.start()
    try:
        try:
            report = await probe(store, ids=lambda: secrets.token_hex(8), quick=True)
        except ReadOnly as error:
            if not await _holds_registry(store):
                raise
            sys.stderr.write(f"bucketry: {error}\nbucketry: so this registry can be pulled from, and takes no pushes\n")
            return Found(None, checked_put=False)
        return Found(report.refusal(), report.checked_put)
    finally:
        with contextlib.suppress(StoreError):
            await store.close()


async def _holds_registry(store: Store) -> bool:
    try:
        await store.head(_FORMAT_KEY)
    except NotFound:
        return False
    return True
