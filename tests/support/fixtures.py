"""Fixtures: content for a registry, and the registries that clients are driven against."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.store.seaweed import Seaweed
from tests.support.images import KIB, Image, Index, make_image, make_index
from tests.support.reading import Reader
from tests.support.server import assert_no_fault, bucketry

OTHER_REGISTRY = "CLIENT_TESTS_REGISTRY"
"""Names (``host:port``, plain HTTP) a registry to drive the clients against instead of bucketry.

A client test that fails there as well has found a bug of the client, or of the test.
"""


@dataclass(frozen=True)
class Registry:
    """A running registry. ``host`` is ``127.0.0.1:port``; ``kind`` local, s3, or other."""

    host: str
    kind: str

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def reader(self) -> Reader:
        return Reader(self.url)

    @property
    def localhost(self) -> str:
        """The same by name: clients that take plain HTTP for granted take it there."""
        return self.host.replace("127.0.0.1", "localhost")


@pytest.fixture(scope="session")
def local_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """bucketry on a folder."""
    folder = tmp_path_factory.mktemp("local")
    with bucketry(str(folder / "store"), folder) as server:
        yield Registry(server.host, "local")
        assert_no_fault(server)


@pytest.fixture(scope="session")
def s3_registry(tmp_path_factory: pytest.TempPathFactory, seaweed: Seaweed) -> Iterator[Registry]:
    """bucketry on SeaweedFS; clients are redirected to the bucket for blobs."""
    folder = tmp_path_factory.mktemp("s3")
    with bucketry(f"s3://{seaweed.bucket}/clients", folder, env=seaweed.environ()) as server:
        yield Registry(server.host, "s3")
        assert_no_fault(server)


@pytest.fixture(params=["local", "s3"])
def registry(request: pytest.FixtureRequest) -> Registry:
    """A registry that other tests use too: content goes into `repository`."""
    other = os.environ.get(OTHER_REGISTRY)
    if other:
        return Registry(other, "other")
    chosen: Registry = request.getfixturevalue(f"{request.param}_registry")
    return chosen


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository's name that no other test uses, with a path, a dash and a dot."""
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return f"tests/{request.node.path.stem.replace('_', '-')}/{name}/v1.0"


@pytest.fixture(scope="session")
def image() -> Image:
    """Three layers, the last of 30 MiB: more than one part of a multipart upload."""
    return make_image(seed=1)


@pytest.fixture(scope="session")
def small_image() -> Image:
    return make_image(seed=2, sizes=(5 * KIB,))


@pytest.fixture(scope="session")
def index() -> Index:
    """Two platforms, which share no layer."""
    return make_index(
        [
            make_image(seed=3, sizes=(100, 300 * KIB), architecture="amd64"),
            make_image(seed=4, sizes=(100, 300 * KIB), architecture="arm64"),
        ]
    )
