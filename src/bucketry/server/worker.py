"""What a worker process runs. What it needs is imported there: the process that leads the workers needs none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bucketry.server.config import Config

if TYPE_CHECKING:
    from bucketry.server.app import App


def load_app(config_json: bytes, workers: int) -> App:
    """The application of one of ``workers`` processes. The configuration comes as `Config.to_json` made it."""
    from bucketry.server.app import App
    from bucketry.server.lifetime import Lifetime
    from bucketry.server.log import configure
    from bucketry.server.metrics import Metrics

    config = Config.from_json(config_json)
    configure(config.log)
    metrics = Metrics()
    return App(config, Lifetime(config, workers, metrics), metrics)
