"""What a worker process runs."""

from __future__ import annotations

from bucketry.server.app import App
from bucketry.server.config import Config
from bucketry.server.lifetime import Lifetime
from bucketry.server.log import configure
from bucketry.server.metrics import Metrics


def load_app(config_json: bytes, workers: int) -> App:
    """The application of one of ``workers`` processes. The configuration comes as `Config.to_json` made it."""
    config = Config.from_json(config_json)
    configure(config.log)
    metrics = Metrics()
    return App(config, Lifetime(config, workers, metrics), metrics)
