"""A server is killed, or told to stop, in the middle of a push in parallel; the other replica ends it.

The client does what it did, only at another address: nothing is begun anew.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from tests.chaos.conftest import Replica, Start, place, starter
from tests.chaos.tcp import Trouble, trouble
from tests.chaos.test_kill import BROKEN, STOPPING, arrived, assert_clean, ctrl_c, held_open, sigterm, stop
from tests.store.seaweed import Seaweed
from tests.support.api import Answer, Api, noise
from tests.support.document import document
from tests.support.extension import SEGMENT, Extension, Upload
from tests.support.images import digest_of

from bucketry.hashing import Checkpoints, NotingHasher, new

SIZE = 3 * SEGMENT + 1000
TAKEOVER = 15.0
"""Seconds of silence after which another replica takes a verification over."""


@dataclass(frozen=True)
class Ground:
    """A store with one server that stays; ``start`` gives others that will not."""

    start: Start
    stays: Api


@pytest.fixture(scope="module", params=["local", "s3"])
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    start = place(request.param, tmp_path_factory.mktemp("parallel-kill"), request)
    with start() as replica:
        yield Ground(start, replica.api)


@dataclass(frozen=True)
class SlowGround(Ground):
    """On S3, to which those that will not stay have a way of their own."""

    way: Trouble


@pytest.fixture(scope="module")
def slow_ground(tmp_path_factory: pytest.TempPathFactory, seaweed: Seaweed) -> Iterator[SlowGround]:
    folder = tmp_path_factory.mktemp("parallel-slow")
    store, env = f"s3://{seaweed.bucket}/parallel-slow", seaweed.environ()
    with trouble(seaweed.port) as way:
        start = starter(store, folder / "dies", {**env, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{way.port}"})
        with starter(store, folder, env)() as replica:
            yield SlowGround(start, replica.api, way)


def at(upload: Upload, api: Api) -> Upload:
    """The session at another server."""
    return Extension(api, upload.extension.repository).upload(upload.session)


def checkpoints_of(data: bytes) -> bytes:
    hasher = NotingHasher(new("sha256"), SEGMENT)
    hasher.update(data)
    found = hasher.checkpoints()
    assert found is not None
    return found.encode()


def assert_pulled(api: Api, repository: str, data: bytes) -> None:
    assert api.blob(repository, digest_of(data)).body == data
    found = Checkpoints.parse(Extension(api, repository).checkpoints(digest_of(data)).body)
    assert (found.digest, found.size) == (digest_of(data).removeprefix("sha256:"), len(data))


@contextmanager
def being_read_back(ground: SlowGround, repository: str, data: bytes, checkpoints: bytes | None) -> Iterator[Running]:
    """A session whose bytes a server reads back slowly, for a client that waits for it."""
    ground.way.well()
    with ExitStack() as stack:
        dies = stack.enter_context(ground.start())
        upload = Extension(dies.api, repository).open(size=len(data))
        upload.send(data)
        ground.way.slow(0.04)
        answers: list[Answer | None] = []

        def complete() -> None:
            try:
                answers.append(upload.complete(digest_of(data), len(data), checkpoints))
            except BROKEN:
                answers.append(None)

        asking = threading.Thread(target=complete)
        asking.start()
        elsewhere = at(upload, ground.stays)
        deadline = time.monotonic() + 10
        while elsewhere.status().json()["state"] != "verifying":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Running(dies, elsewhere, asking, answers)
        asking.join(20)
        ground.way.well()


@dataclass(frozen=True)
class Running:
    dies: Replica
    elsewhere: Upload
    """The session at the server that stays."""
    asking: threading.Thread
    answers: list[Answer | None]
    """What the client got, once it has something: None where its connection broke."""


def test_server_that_is_killed_while_it_reads_back_is_taken_over(slow_ground: SlowGround, repository: str) -> None:
    data = noise(repository, SIZE)
    digest, given = digest_of(data), checkpoints_of(data)
    stays = slow_ground.stays
    with being_read_back(slow_ground, repository, data, given) as running:
        time.sleep(0.5)
        elsewhere = running.elsewhere
        assert elsewhere.sent() == {1: SEGMENT, 2: SEGMENT, 3: SEGMENT, 4: 1000}
        for refused in (
            elsewhere.cancel(),
            elsewhere.urls([1]),
            elsewhere.put_own(1, data[:SEGMENT]),
            elsewhere.complete(digest_of(b"another"), len(data)),
        ):
            assert refused.error() == (400, "BLOB_UPLOAD_INVALID")
        running.dies.server.kill()
        running.asking.join(10)
        assert running.answers == [None]
        began = time.monotonic()
        first = running.elsewhere.complete(digest, len(data), given)
        assert first.status == 202
        status = running.elsewhere.status().json()
        assert (status["state"], status["digest"], status["size"]) == ("verifying", digest, len(data))
        assert stays.get(f"/v2/{repository}/blobs/{digest}").status == 404
        assert stays.head(f"/v2/{repository}/blobs/{digest}").status == 404
        answer = running.elsewhere.finish(digest, len(data), given)
        assert answer.status == 201, answer
        assert TAKEOVER - 1 < time.monotonic() - began < TAKEOVER + 10
    assert_pulled(stays, repository, data)
    assert running.elsewhere.status().json()["state"] == "done"
    assert running.elsewhere.complete(digest, len(data)).status == 201


@pytest.mark.parametrize("how", [sigterm, ctrl_c], ids=["sigterm", "ctrl-c"])
@pytest.mark.parametrize("listed", [True, False], ids=["checkpoints", "serial"])
def test_server_that_is_told_to_stop_gives_what_it_reads_back_to_another(
    slow_ground: SlowGround, repository: str, listed: bool, how: Callable[[Replica], None]
) -> None:
    data = noise(repository, SIZE)
    digest, given = digest_of(data), checkpoints_of(data) if listed else None
    with being_read_back(slow_ground, repository, data, given) as running:
        end = stop(running.dies, how)
        began = time.monotonic()
        answer = running.elsewhere.finish(digest, len(data), given)
        assert answer.status == 201, answer
        assert time.monotonic() - began < 5
        assert_pulled(slow_ground.stays, repository, data)
        running.asking.join(10)
        (asked,) = running.answers
        assert asked is not None  # A request that runs is answered before the server ends.
        assert asked.status in (201, 202)
        status, seconds = end()
        assert status == 0
        assert seconds < 5
        assert_clean(running.dies.server.log())


def test_server_that_is_killed_while_parts_arrive_loses_no_part_that_it_acknowledged(
    ground: Ground, repository: str
) -> None:
    data = noise(repository, SIZE)
    digest = digest_of(data)
    with ground.start() as dies:
        upload = Extension(dies.api, repository).open(digest=digest, size=len(data))
        parts = upload.parts(data)
        upload.put(3, parts[3])
        assert upload.put_own(1, parts[1]).status == 201
        wires = [
            held_open(dies.api, "PUT", f"{upload.path}/parts/2", parts[2], sent=SEGMENT - 100),
            held_open(dies.api, "PUT", f"{upload.path}/parts/4", parts[4], sent=10),
            held_open(dies.api, "PUT", f"{upload.path}/parts/1", noise("again", SEGMENT), sent=SEGMENT // 2),
        ]
        arrived(dies.api, 3)
        dies.server.kill()
        for wire in wires:
            with pytest.raises(BROKEN):
                wire.answer("PUT")
            wire.close()
    elsewhere = at(upload, ground.stays)
    assert elsewhere.sent() == {1: SEGMENT, 3: SEGMENT}
    refused = elsewhere.complete(digest, len(data))
    assert refused.json()["errors"][0]["detail"] == {"missing": [2, 4]}
    assert ground.stays.head(f"/v2/{repository}/blobs/{digest}").status == 404
    for number in (4, 2):
        elsewhere.put(number, parts[number])
    assert elsewhere.finish(digest, len(data), checkpoints_of(data)).status == 201
    assert_pulled(ground.stays, repository, data)


def test_part_that_comes_when_the_server_stops_is_sent_to_another(ground: Ground, repository: str) -> None:
    data = noise(repository, SEGMENT + 1000)
    with ground.start(STOPPING) as stopping:
        upload = Extension(stopping.api, repository).open(size=len(data))
        path = f"{upload.path}/parts/1"
        late = held_open(stopping.api, "PUT", path, data[:SEGMENT], sent=SEGMENT - 1)
        in_time = held_open(stopping.api, "PUT", f"{upload.path}/parts/2", data[SEGMENT:], sent=999)
        arrived(stopping.api, 2)
        end = stop(stopping, sigterm)
        time.sleep(0.3)
        in_time.send(data[-1:])
        assert in_time.answer("PUT").status == 201
        answer = late.answer("PUT")
        document().check("PUT", path, None, answer)
        assert answer.error() == (503, "UNAVAILABLE")
        assert "send it again" in answer.message
        assert int(answer.header("Retry-After")) > 0
        assert end()[0] == 0
        for wire in (late, in_time):
            wire.close()
        assert_clean(stopping.server.log())
    elsewhere = at(upload, ground.stays)
    assert elsewhere.sent() == {2: 1000}
    elsewhere.put(1, data[:SEGMENT])
    assert elsewhere.finish(digest_of(data), len(data)).status == 201
    assert_pulled(ground.stays, repository, data)


class Failover:
    """What a client does behind a load balancer: a request that broke off is sent again, to whoever is there."""

    def __init__(self, first: Api, then: Api) -> None:
        self._first = first
        self._then = then
        self.failed = False

    def request(
        self,
        method: str,
        target: str,
        body: bytes | Sequence[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        if not self.failed:
            try:
                return self._first.request(method, target, body, headers)
            except BROKEN:
                self.failed = True
        return self._then.request(method, target, body, headers)


def test_server_that_is_killed_at_any_moment_of_many_pushes(ground: Ground, repository: str) -> None:
    """Blobs of several parts are sent by several clients without a pause: all of them arrive."""
    pushed: list[tuple[str, bytes]] = []
    killed = threading.Event()

    def push(dies: Api, number: int) -> None:
        turn = 0
        while turn < 20:
            name = f"{repository}/{number}"
            data = noise(f"{name} {turn}", SEGMENT + 1000 * (number + 1))
            api = Failover(dies, ground.stays)
            upload = Extension(api, name).open(size=len(data))
            for part in random.Random(turn).sample(list(upload.parts(data).items()), 2):
                upload.put(*part)
            answer = upload.finish(digest_of(data), len(data), checkpoints_of(data))
            assert answer.status == 201, answer
            pushed.append((name, data))
            turn += 1
            if killed.is_set():
                return

    with ground.start() as dies, ThreadPoolExecutor(3) as threads:
        pushing = [threads.submit(push, dies.api, number) for number in range(3)]
        deadline = time.monotonic() + 20
        while len(pushed) < 3 and time.monotonic() < deadline and not any(each.done() for each in pushing):
            time.sleep(0.01)
        time.sleep(0.05)
        dies.server.kill()
        killed.set()
        for each in pushing:
            each.result(60)
    assert len(pushed) >= 6
    for name, data in pushed:
        assert_pulled(ground.stays, name, data)
