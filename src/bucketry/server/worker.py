"""What a worker process runs. What it needs is imported there: the process that leads the workers needs none of it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

from bucketry.server.config import Config, LogConfig

if TYPE_CHECKING:
    from bucketry.server.app import App


def load_app(config_json: bytes, workers: int, front: str | None = None) -> App:
    """The application of one of ``workers`` processes. The configuration comes as `Config.to_json` made it.

    ``front``: the folder of those that speak TLS, where such do.
    """
    config = Config.from_json(config_json)
    prepare_log(config.log)
    from bucketry.server.app import App
    from bucketry.server.lifetime import Lifetime
    from bucketry.server.metrics import Metrics

    metrics = Metrics()
    return App(config, Lifetime(config, workers, metrics), metrics, front=front)


def prepare_log(config: LogConfig) -> ModuleType:
    """structlog, set up for this process."""
    with _without("rich"):
        import structlog
    from bucketry.server.log import configure

    configure(config)
    return structlog


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
    """Imports in the block get an `ImportError` for a module that is not loaded yet.

    structlog would load rich for tracebacks in colours: 4 MiB in every worker. Python's own tracebacks do.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
