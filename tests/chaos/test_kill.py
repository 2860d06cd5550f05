"""A server is killed, or told to stop, in the middle of everything; another one on the same store goes on.

What was acknowledged is there, what was not can be sent again, and a server that is told to stop ends in time.
"""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from tests.chaos.conftest import CONFIG, PART, Replica, Start, place
from tests.support.api import EMPTY, Answer, Api, Wire, noise
from tests.support.images import digest_of
from tests.support.server import descendants

BROKEN = (OSError, http.client.HTTPException)
"""What a client sees whose server dies."""

GRACE = 1.5
STOPPING = f"{CONFIG}[limits]\nshutdown_grace = {GRACE}\n"
PATIENT = f"{CONFIG}[limits]\nshutdown_grace = 30\n"


@dataclass(frozen=True)
class Ground:
    """A store with one server that stays; ``start`` gives others that will not."""

    start: Start
    stays: Api


@pytest.fixture(scope="module", params=["local", "s3"])
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    start = place(request.param, tmp_path_factory.mktemp("kill"), request)
    with start() as replica:
        yield Ground(start, replica.api)


def held_open(api: Api, method: str, target: str, data: bytes, *, sent: int) -> Wire:
    """A request whose body has begun, and goes no further than ``sent`` bytes."""
    wire = Wire(api.port, timeout=20)
    wire.begin(method, target, {"Content-Length": str(len(data))})
    wire.send(data[:sent])
    return wire


def arrived(api: Api, count: int) -> None:
    """Waits until a server (of one worker) has so many uploads in flight, and a moment for their bytes."""
    deadline = time.monotonic() + 10
    while api.metric("bucketry_uploads_in_flight") < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)


def assert_pulled(api: Api, repository: str, data: bytes) -> None:
    answer = api.blob(repository, digest_of(data))
    assert answer.status == 200, answer
    assert answer.body == data


def commit_rest(api: Api, location: str, data: bytes) -> Answer:
    """Goes on from where the status says that the upload stands."""
    status = api.get(location)
    assert status.status == 204, status
    end = int(status.header("Range").partition("-")[2])
    first = end + 1 if end else 0
    rest = data[first:]
    if rest:
        content_range = f"{first}-{len(data) - 1}"
        status = api.patch(status.header("Location"), rest, content_range=content_range)
        assert status.status == 202, status
    return api.commit(status.header("Location"), digest_of(data))


def test_server_that_is_killed_loses_nothing_that_it_acknowledged(ground: Ground, repository: str) -> None:
    stays = ground.stays
    data = {name: noise(f"{repository} {name}", 2 * PART + 4000) for name in ("streaming", "patched", "chunked", "put")}
    small = noise(f"{repository} small", 3000)
    with ExitStack() as stack:
        dies = stack.enter_context(ground.start())
        api = dies.api
        image = api.push_image(repository, "v1", layers=[small])
        tagged = api.push_manifest(repository, "v2", image)
        patched = api.patch(api.begin(repository), data["patched"]).header("Location")
        first = api.patch(api.begin(repository), data["chunked"][: PART + 7], content_range=f"0-{PART + 6}")
        before_put = api.patch(api.begin(repository), data["put"][:1000]).header("Location")
        streaming, fresh = api.begin(repository), api.begin(repository)
        put = f"{before_put}?digest={digest_of(data['put'])}"
        wires = [
            held_open(api, "PATCH", streaming, data["streaming"], sent=2 * PART),
            held_open(api, "PUT", put, data["put"][1000:], sent=PART + 5000),
            held_open(api, "PUT", f"{fresh}?digest={digest_of(small)}", small, sent=2000),
        ]
        arrived(api, 3)
        dies.server.kill()
        for wire in wires:
            with pytest.raises(BROKEN):
                wire.answer("PATCH")
            wire.close()
    # What was acknowledged.
    assert tagged.status == 201
    for tag in ("v1", "v2", digest_of(image)):
        assert stays.get(f"/v2/{repository}/manifests/{tag}").body == image
    assert_pulled(stays, repository, small)
    assert stays.commit(patched, digest_of(data["patched"])).status == 201
    assert_pulled(stays, repository, data["patched"])
    assert commit_rest(stays, first.header("Location"), data["chunked"]).status == 201
    assert_pulled(stays, repository, data["chunked"])
    # What was not: no half of it is to be seen, and it can be sent again, to the very same sessions.
    for name in ("streaming", "put"):
        assert stays.get(f"/v2/{repository}/blobs/{digest_of(data[name])}").status == 404
    assert stays.get(before_put).header("Range") == "0-999"
    assert stays.commit(before_put, digest_of(data["put"]), data["put"][1000:]).status == 201
    assert_pulled(stays, repository, data["put"])
    assert commit_rest(stays, streaming, data["streaming"]).status == 201
    assert_pulled(stays, repository, data["streaming"])
    assert stays.commit(fresh, digest_of(small), small).status == 201


def test_server_that_is_killed_at_any_moment_of_many_pushes(ground: Ground, repository: str) -> None:
    """Clients push images without a pause; whatever they were told is there is there, and the others go in again."""
    acknowledged: dict[str, bytes] = {}
    stopped = threading.Event()

    def push(api: Api, number: int) -> None:
        turn = 0
        while not stopped.is_set():
            name = f"{repository}/{number}"
            layers = [noise(f"{name} {turn}", 3000), noise(f"{name} {turn} large", PART + 4000)]
            try:
                manifest = push_image(api, name, f"t{turn}", layers)
            except BROKEN:
                return
            acknowledged[f"{name}/manifests/t{turn}"] = manifest
            turn += 1

    with ground.start() as dies, ThreadPoolExecutor(4) as threads:
        pushing = [threads.submit(push, dies.api, number) for number in range(4)]
        deadline = time.monotonic() + 10
        while len(acknowledged) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        dies.server.kill()
        stopped.set()
        for each in pushing:
            each.result(30)
    assert len(acknowledged) >= 6
    for path, manifest in acknowledged.items():
        name, _, tag = path.partition("/manifests/")
        assert ground.stays.get(f"/v2/{path}").body == manifest
        turn = tag[1:]
        for data in (EMPTY, noise(f"{name} {turn}", 3000), noise(f"{name} {turn} large", PART + 4000)):
            assert_pulled(ground.stays, name, data)
    for number in range(4):
        name = f"{repository}/{number}"
        push_image(ground.stays, name, "again", [noise(name, 3000), noise(f"{name} large", PART + 4000)])
        # A tag never shows a manifest that is not whole.
        for tag in ground.stays.get(f"/v2/{name}/tags/list").json()["tags"]:
            body = ground.stays.get(f"/v2/{name}/manifests/{tag}")
            assert digest_of(body.body) == body.header("Docker-Content-Digest")
            for layer in (body.json()["config"], *body.json()["layers"]):
                head = ground.stays.head(f"/v2/{name}/blobs/{layer['digest']}")
                assert head.header("Content-Length") == str(layer["size"])


def push_image(api: Api, repository: str, tag: str, layers: list[bytes]) -> bytes:
    """As docker does it: POST, PATCH, PUT for each layer. Raises `BROKEN` where the server dies."""
    for layer in layers:
        location = api.patch(api.begin(repository), [layer]).header("Location")
        assert api.commit(location, digest_of(layer)).status == 201
    return api.push_image(repository, tag, layers=layers)


@pytest.mark.parametrize("delay", [0.0, 0.02])
def test_commit_whose_server_is_killed_is_asked_again_of_another(ground: Ground, repository: str, delay: float) -> None:
    data = noise(repository, 2 * PART + 4000)
    answers: list[int] = []

    def commit(api: Api, location: str) -> None:
        try:
            answers.append(api.commit(location, digest_of(data)).status)
        except BROKEN:
            answers.append(0)

    with ground.start() as dies:
        location = dies.api.patch(dies.api.begin(repository), data).header("Location")
        committing = threading.Thread(target=commit, args=(dies.api, location))
        committing.start()
        time.sleep(delay)
        dies.server.kill()
        committing.join(20)
    assert answers in ([201], [0])
    if answers == [201]:
        assert_pulled(ground.stays, repository, data)
    assert ground.stays.commit(location, digest_of(data)).status == 201
    assert_pulled(ground.stays, repository, data)


# Told to stop


def stop(replica: Replica, how: Callable[[Replica], None]) -> Callable[[], tuple[int, float]]:
    """Tells a server to stop; the function waits for its end and gives its exit status and the seconds it took."""
    began = time.monotonic()
    how(replica)
    return lambda: (replica.server.process.wait(20), time.monotonic() - began)


def sigterm(replica: Replica) -> None:
    replica.server.process.send_signal(signal.SIGTERM)


def ctrl_c(replica: Replica) -> None:
    """As a terminal does it: to every process of the group, workers too."""
    pid = replica.server.process.pid
    for each in (pid, *descendants(pid)):
        os.kill(each, signal.SIGINT)


def ctrl_c_again_and_again(replica: Replica) -> None:
    """As who cannot wait."""
    for _ in range(5):
        ctrl_c(replica)
        time.sleep(0.05)


def assert_clean(log: str) -> None:
    assert "Traceback" not in log, log[-3000:]
    assert "unexpected" not in log, log[-3000:]


def test_server_that_is_told_to_stop_lets_running_requests_end(ground: Ground, repository: str) -> None:
    data = noise(repository, 2 * PART + 4000)
    with ExitStack() as stack:
        stopping = stack.enter_context(ground.start(PATIENT))
        api = stopping.api
        digest = api.push_blob(repository, data)
        location = api.begin(repository)
        wire = held_open(api, "PATCH", location, data, sent=PART + 10)
        download = stack.enter_context(api.wire())
        # Several ranges, which no store is asked to send: so large that they do not fit into the sockets on the way.
        download.begin("GET", f"/v2/{repository}/blobs/{digest}", {"Range": f"bytes=0-{PART},{PART + 9}-{len(data)}"})
        assert download.socket.recv(100).startswith(b"HTTP/1.1 206")
        arrived(api, 1)
        end = stop(stopping, sigterm)
        time.sleep(0.5)
        with pytest.raises(BROKEN):
            api.get("/v2/")  # Nobody new is let in.
        wire.send(data[PART + 10 :])
        answer = wire.answer("PATCH")
        assert answer.status == 202
        assert answer.header("Range") == f"0-{len(data) - 1}"
        assert len(download.rest()) > len(data) - 8
        wire.close()
        status, seconds = end()
        assert (status, seconds < 10) == (0, True)
        assert_clean(stopping.server.log())
    assert ground.stays.commit(answer.header("Location"), digest_of(data)).status == 201
    assert_pulled(ground.stays, repository, data)


@pytest.mark.parametrize(
    "how", [sigterm, ctrl_c, ctrl_c_again_and_again], ids=["sigterm", "ctrl-c", "ctrl-c again and again"]
)
def test_server_whose_grace_is_over_parks_uploads_for_another(
    ground: Ground, repository: str, how: Callable[[Replica], None]
) -> None:
    large, small = noise(f"{repository} large", 2 * PART + 4000), noise(f"{repository} small", 5000)
    with ground.start(STOPPING) as stopping:
        api = stopping.api
        locations = [api.begin(repository) for _ in range(3)]
        started = api.patch(locations[2], small[:1000]).header("Location")
        sessions = [
            (locations[0], large, held_open(api, "PATCH", locations[0], large, sent=PART + 5000), PART + 5000),
            (locations[1], small, held_open(api, "PATCH", locations[1], small, sent=3000), 3000),
            (started, small, held_open(api, "PATCH", started, small[1000:], sent=2000), 3000),
        ]
        idle = Wire(api.port)
        idle.begin("GET", "/v2/")
        assert idle.answer().status == 200
        arrived(api, 3)
        end = stop(stopping, how)
        for _, _, wire, _ in sessions:
            answer = wire.answer("PATCH")
            assert answer.error() == (503, "UNAVAILABLE")
            assert int(answer.header("Retry-After")) > 0
            assert "status of the upload" in answer.message
            wire.close()
        status, seconds = end()
        assert status == 0
        assert GRACE - 0.2 < seconds < GRACE + 5
        idle.close()
        assert_clean(stopping.server.log())
    for location, data, _, kept in sessions:
        status_of = ground.stays.get(location)
        assert status_of.header("Range") == f"0-{kept - 1}"
        assert commit_rest(ground.stays, location, data).status == 201
        assert_pulled(ground.stays, repository, data)


@pytest.mark.parametrize("how", [sigterm, ctrl_c], ids=["sigterm", "ctrl-c"])
def test_idle_server_stops_at_once(ground: Ground, how: Callable[[Replica], None]) -> None:
    with ground.start(PATIENT) as stopping, stopping.api.wire() as idle:
        idle.begin("GET", "/v2/")
        assert idle.answer().status == 200
        status, seconds = stop(stopping, how)()
        assert status == 0
        assert seconds < 5
        assert_clean(stopping.server.log())
