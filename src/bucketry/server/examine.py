"""A look at the store before anything is served, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import secrets
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bucketry.server.config import Config
from bucketry.store.contract import Corrupt, NotFound, ReadOnly, Store, StoreError

_FORMAT_KEY = "bucketry.json"
_SITE_KEY = "bucketry-site.json"


@dataclass(frozen=True, slots=True)
class Found:
    refusal: str | None
    """Why the store, the rules or the audit log must not be used, or None."""
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


def _read_rules(path: Path) -> str | None:
    """Why the rules cannot be used, or None; warnings are printed."""
    from bucketry.access import AccessError
    from bucketry.server.auth.rulebook import read_book

    try:
        book = read_book(path)
    except AccessError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or path}: {error.strerror}"
    for warning in book.warnings:
        sys.stderr.write(f"bucketry: warning: {warning}\n")
    return None


async def _probe(config: Config) -> Found:
    from bucketry.store.open import open_store
    from bucketry.store.probe import probe

    if config.access.file is not None:
        wrong = _read_rules(Path(config.access.file))
        if wrong is not None:
            return Found(wrong, checked_put=False)
    if config.access.audit is not None:
        from bucketry.server.audit import refusal

        wrong = refusal(config.access.audit)
        if wrong is not None:
            return Found(wrong, checked_put=False)
    store = open_store(config.store.url, config.store.options())
    await store.start()
    try:
        if not await _is_there(store, _FORMAT_KEY) and await _is_there(store, _SITE_KEY):
            return Found(
                f"{store.url} is a published site, which needs no registry to be pulled from: serve another bucket, "
                "folder or prefix",
                checked_put=False,
            )
        try:
            report = await probe(store, ids=lambda: secrets.token_hex(8), quick=True)
        except ReadOnly as error:
            if not await _is_there(store, _FORMAT_KEY):
                raise
            sys.stderr.write(f"bucketry: {error}\nbucketry: so this registry can be pulled from, and takes no pushes\n")
            return Found(None, checked_put=False)
        if config.access.file is not None:
            from bucketry.registry.access_folder import exposure

            exposed = exposure(store)
            if exposed is not None:
                sys.stderr.write(f"bucketry: warning: {exposed}\n")
        return Found(report.refusal(), report.checked_put)
    finally:
        with contextlib.suppress(StoreError):
            await store.close()


async def _is_there(store: Store, key: str) -> bool:
    try:
        await store.head(key)
    except NotFound:
        return False
    except Corrupt:
        return True  # A plain file in a folder, which a site has.
    return True
