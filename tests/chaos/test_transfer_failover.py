"""A server is killed under bucketry's client: the client finishes at the other replica, behind the same address."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from tests.chaos.conftest import CONFIG, Replica, Start, place, starter
from tests.chaos.tcp import Trouble, trouble
from tests.store.seaweed import Seaweed
from tests.support.extension import Extension
from tests.support.images import MIB, Image, make_image, write_docker_archive, write_layout
from tests.support.moving import Mover, Running, moved, mover
from tests.support.ports import wait_until
from tests.support.reading import Reader
from tests.support.server import assert_no_fault

SIZE = 40 * MIB
SLOW = 0.006
"""Seconds a piece of 64 KiB: about 10 MiB a second and connection."""
AT_ONCE = ("--parallel", "2", "--part-size", "5MiB")
READ_BACK = (
    CONFIG
    + """
[store]
public_endpoint = "{}"
"""
)
"""The client's way to the bucket is never slow."""
TAKEOVER = 15.0
"""Seconds of silence after which another replica takes a verification over."""


@pytest.fixture(scope="module")
def image() -> Image:
    return make_image(seed=51, sizes=(300, SIZE))


@dataclass(frozen=True)
class Pair:
    """Two servers on one store. ``front`` leads to the first of them, until it is told otherwise."""

    first: Replica
    second: Replica
    front: Trouble

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.front.port}"

    @property
    def reader(self) -> Reader:
        return Reader(self.second.server.url)

    def fail_over(self) -> None:
        """The first dies, and it takes a moment until that is noticed."""
        self.first.server.kill()
        time.sleep(0.5)
        self.front.lead_to(self.second.server.port)


@contextmanager
def pair(first: Start, second: Start) -> Iterator[Pair]:
    with first() as one, second() as two, trouble(one.server.port) as front:
        yield Pair(one, two, front)
        assert_no_fault(two.server)


@contextmanager
def pushing(client: Mover, source: str, name: str) -> Iterator[Running]:
    with client.start("push", source, name, *AT_ONCE) as running:
        yield running
        outcome = running.end(seconds=60)
    assert outcome.status == 0, outcome.said


def source_of(kind: str, image: Image, folder: Path) -> str:
    if kind == "archive":
        return f"docker-archive:{write_docker_archive(folder / 'image.tar', image, 'app:v1')}"
    return f"oci:{write_layout(folder / 'built', image, 'v1')}:v1"


@pytest.mark.parametrize(("store", "source"), [("local", "archive"), ("local", "layout"), ("s3", "archive")])
def test_a_push_goes_on_when_the_server_dies_while_parts_are_sent(
    store: str, source: str, image: Image, request: pytest.FixtureRequest, repository: str, tmp_path: Path
) -> None:
    start = place(store, tmp_path, request)
    client = mover(tmp_path / "client")
    with pair(start, start) as replicas:
        # On S3 the parts go to the bucket itself: only what is said about them goes this way.
        replicas.front.slow(SLOW if store == "local" else 0)
        with pushing(client, source_of(source, image, tmp_path), f"{replicas.host}/{repository}:v1") as running:
            running.wait_moved(SIZE // 4)
            replicas.fail_over()
            replicas.front.slow(0)
        replicas.reader.assert_same_image(repository, "v1", image)
    # Parts that had arrived were not sent again.
    assert moved(running.events) < SIZE + 3 * 5 * MIB
    assert not list((client.cache / "pushes").iterdir())


def test_a_push_goes_on_when_the_server_dies_while_it_reads_back(
    image: Image, seaweed: Seaweed, repository: str, tmp_path: Path
) -> None:
    """The bucket has all bytes, and one server was about to say whether they are right."""
    store, env = f"s3://{seaweed.bucket}/transfer-read-back", seaweed.environ()
    client = mover(tmp_path / "client")
    with trouble(seaweed.port) as way:
        first = starter(store, tmp_path / "dies", {**env, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{way.port}"})
        with pair(partial(first, READ_BACK.format(seaweed.endpoint)), starter(store, tmp_path, env)) as replicas:
            source = source_of("layout", image, tmp_path)
            with pushing(client, source, f"{replicas.host}/{repository}:v1") as running:
                running.wait_moved(SIZE // 2)
                way.slow(0.2)
                upload = Extension(replicas.second.api, repository).upload(session_of(client))
                wait_until(
                    lambda: upload.status().json()["state"] == "verifying",
                    seconds=20,
                    what=running.said,
                    alive=lambda: running.process.poll() is None,
                )
                began = time.monotonic()
                replicas.fail_over()
            seconds = time.monotonic() - began
            replicas.reader.assert_same_image(repository, "v1", image)
    assert TAKEOVER - 6 < seconds < TAKEOVER + 10
    assert moved(running.events) < SIZE + MIB, "bytes that were there were sent again"


def session_of(client: Mover) -> str:
    """The session of the push that is under way, as the client notes it for a later run."""
    (entry,) = (client.cache / "pushes").iterdir()
    return str(json.loads(entry.read_bytes().split(b"\n")[0])["note"])


@pytest.mark.parametrize("store", ["local", "s3"])
def test_a_pull_goes_on_when_the_server_dies(
    store: str, image: Image, request: pytest.FixtureRequest, repository: str, tmp_path: Path
) -> None:
    start = place(store, tmp_path, request)
    client = mover(tmp_path / "client")
    with pair(start, start) as replicas:
        name = f"{replicas.host}/{repository}:v1"
        client("push", source_of("layout", image, tmp_path), name)
        replicas.front.slow(SLOW if store == "local" else 0)
        with client.start("pull", name, f"oci:{tmp_path / 'pulled'}:v1", *AT_ONCE) as running:
            running.wait_moved(SIZE // 4 if store == "local" else 1)
            replicas.fail_over()
            replicas.front.slow(0)
            outcome = running.end()
        assert outcome.status == 0, outcome.said
        assert outcome.digest == image.digest
        assert moved(outcome.events) < SIZE + 3 * MIB
        client("push", f"oci:{tmp_path / 'pulled'}:v1", f"{name}-again")
        replicas.reader.assert_holds(repository, "v1-again", image)
