"""What the tests of a running server share: servers that start once, and a repository of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.store.seaweed import Seaweed
from tests.support.access import PASSWORDS, World, basic, files
from tests.support.api import Api
from tests.support.extension import Extension
from tests.support.fixtures import Registry
from tests.support.server import Server, assert_no_fault, bucketry


@pytest.fixture
def api(registry: Registry) -> Api:
    """bucketry as it is by default (several workers): on a folder, and on S3 with redirects."""
    return Api(int(registry.host.rpartition(":")[2]))


@pytest.fixture
def extension(api: Api, repository: str) -> Extension:
    return Extension(api, repository)


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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server of two workers for the tests of one file; what they send by way of secrets is not in its logs."""
    folder = tmp_path_factory.mktemp("access")
    options = ("--access", str(files(folder)), "--workers", "2", "--set", f"access.audit={folder / 'audit.log'}")
    config = "[limits]\nheader_timeout = 1.5\nbody_idle_timeout = 1.5\n"
    with bucketry(str(folder / "store"), folder / "server", options=options, config=config) as server:
        found = World(Api(server.port), server, folder)
        assert found.image("root", "public/tool", "latest", "public").status == 201
        yield found
        assert_no_fault(server)
        log = server.log() + (folder / "audit.log").read_text()
        for secret in (*PASSWORDS.values(), *(basic(name, word)[6:] for name, word in PASSWORDS.items())):
            assert secret not in log
        assert "eyJ" not in log.replace("eyJ...", "")
