"""What the tests of a running server share: servers that start once, and a repository of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.store.seaweed import Seaweed
from tests.support.api import Api
from tests.support.fixtures import Registry
from tests.support.server import Server, bucketry


@pytest.fixture
def api(registry: Registry) -> Api:
    """bucketry as it is by default (several workers): on a folder, and on S3 with redirects."""
    return Api(int(registry.host.rpartition(":")[2]))


@dataclass(frozen=True)
class Running:
    """A server of its own, with what a test needs to look behind it."""

    api: Api
    server: Server
    folder: Path
    """Of its store, where that is a folder."""


STRICT = """
[upload]
expire = 60
[manifest]
max_size = 2048
[delete]
enabled = false
[catalog]
enabled = false
[mount]
without_source = false
[limits]
page_size = 3
header_timeout = 1.5
body_idle_timeout = 1.5
request_head = 4096
"""


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Nothing but pulls and pushes is allowed here, and every limit is low; one worker on a folder."""
    folder = tmp_path_factory.mktemp("strict")
    with bucketry(str(folder / "store"), folder, config=STRICT, options=["--workers", "1"]) as server:
        yield Running(Api(server.port), server, folder / "store")


PROXY = """
[server]
trusted_proxies = ["127.0.0.0/8"]
[delivery]
mode = "proxy"
redirect_networks = ["10.0.0.0/8", "fd00::/8"]
proxy_networks = ["10.9.0.0/16"]
"""


@pytest.fixture(scope="session")
def proxying(tmp_path_factory: pytest.TempPathFactory, seaweed: Seaweed) -> Iterator[Running]:
    """bucketry on S3 that sends blobs itself, but to clients of some networks; one worker."""
    folder = tmp_path_factory.mktemp("proxying")
    store = f"s3://{seaweed.bucket}/proxying"
    with bucketry(store, folder, config=PROXY, options=["--workers", "1"], env=seaweed.environ()) as server:
        yield Running(Api(server.port), server, folder)
