"""What the tests of processes that die, and of stores that fail, share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.store.seaweed import Seaweed
from tests.support.api import Api
from tests.support.server import Server, bucketry

PART = 5 * 1024 * 1024
"""The smallest part, so that a few bytes are several."""

CONFIG = """
[upload]
part_size = "5MiB"
"""

_prefixes = itertools.count()


@dataclass(frozen=True)
class Replica:
    server: Server
    api: Api


Start: TypeAlias = Callable[..., AbstractContextManager[Replica]]
"""Starts one more server on the same store; ``config`` is TOML text."""


def starter(store: str, folder: Path, env: dict[str, str]) -> Start:
    number = itertools.count()

    @contextmanager
    def start(config: str = CONFIG) -> Iterator[Replica]:
        place = folder / f"server-{next(number)}"
        with bucketry(store, place, config=config, options=["--workers", "1"], env=env) as server:
            yield Replica(server, Api(server.port))

    return start


def place(kind: str, folder: Path, request: pytest.FixtureRequest) -> Start:
    """A store of its own: ``local`` or ``s3``."""
    if kind == "local":
        return starter(str(folder / "store"), folder, {})
    seaweed: Seaweed = request.getfixturevalue("seaweed")
    return starter(f"s3://{seaweed.bucket}/chaos-{next(_prefixes)}", folder, seaweed.environ())


@pytest.fixture(params=["local", "s3"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    return place(request.param, tmp_path, request)


@pytest.fixture(scope="module", params=["local", "s3"])
def replicas(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Api]]:
    """Two servers on one store, one worker each."""
    begin = place(request.param, tmp_path_factory.mktemp("replicas"), request)
    with ExitStack() as stack:
        one, two = (stack.enter_context(begin()) for _ in range(2))
        yield one.api, two.api
