"""``/healthz``: the process answers. ``/readyz``: it can serve, or what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from starlette.responses import Response

from bucketry.registry import layout
from bucketry.server.body import Drain
from bucketry.store.contract import Store, StoreError

CHECK_TIMEOUT = 5.0


class Health:
    def __init__(self, store: Callable[[], Store | None], drain: Drain) -> None:
        self._store = store
        self._drain = drain

    def alive(self) -> Response:
        return _answer(200, {"status": "ok"})

    async def ready(self) -> Response:
        """200, or 503 with the checks that failed, in words for the owner."""
        problems = {}
        store = self._store()
        if self._drain.stopping:
            problems["server"] = "it was told to stop"
        if store is None:
            problems["server"] = "it is starting"
        else:
            try:
                async with asyncio.timeout(CHECK_TIMEOUT):
                    await store.get(layout.FORMAT_KEY)
            except StoreError as error:
                problems["store"] = f"{type(error).__name__}: {error}"
            except TimeoutError:
                problems["store"] = f"{store.url} did not answer within {CHECK_TIMEOUT:g} seconds"
        if problems:
            return _answer(503, {"status": "not ready", "problems": problems})
        return _answer(200, {"status": "ok"})


def _answer(status: int, body: object) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
