"""A server whose store is down, silent, slow, read-only or full: what its clients are told, and that it recovers."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.chaos.tcp import Trouble, trouble
from tests.store.seaweed import Seaweed
from tests.support.api import ABSENT, EMPTY, Answer, Api, Wire, image, noise
from tests.support.images import digest_of
from tests.support.server import Server, bucketry
from tests.support.tools import missing, root_only, tool

from bucketry.oci import Digest
from bucketry.registry import layout
from bucketry.store.local import LocalStore

MIB = 1024 * 1024
DEADLINE = 1.5
CONFIG = f"""
[store]
deadline = {DEADLINE}
connect_timeout = 0.5
read_timeout = 1
max_connections = 8
[upload]
part_size = "5MiB"
[delivery]
mode = "proxy"
"""


@dataclass(frozen=True)
class Ground:
    server: Server
    api: Api
    store: Trouble


@pytest.fixture(scope="module")
def shared_ground(tmp_path_factory: pytest.TempPathFactory, seaweed: Seaweed) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("faults")
    with trouble(seaweed.port) as proxy:
        env = {**seaweed.environ(), "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{proxy.port}"}
        store = f"s3://{seaweed.bucket}/faults"
        with bucketry(store, folder, config=CONFIG, options=["--workers", "1"], env=env) as server:
            yield Ground(server, Api(server.port), proxy)


@pytest.fixture
def ground(shared_ground: Ground) -> Iterator[Ground]:
    """Its store is well before and after, and the log of what came between is one that an owner can read."""
    before = len(shared_ground.server.log())
    yield shared_ground
    shared_ground.store.well()
    wait_for(lambda: shared_ground.api.get("/readyz").status == 200)
    assert_readable(shared_ground.server.log()[before:])


def assert_readable(log: str) -> None:
    assert "Traceback" not in log, log[-4000:]
    for line in log.splitlines():
        json.loads(line)


def wait_for(holds: Callable[[], bool], *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def everything(api: Api, repository: str, location: str, begun: str) -> dict[str, Callable[[], Answer]]:
    """A request of each kind that needs the store."""
    large = noise("everything", 11 * MIB)
    small = digest_of(b"small")
    at = f"/v2/{repository}"
    return {
        "manifest by tag": lambda: api.get(f"{at}/manifests/v1"),
        "head of a manifest": lambda: api.head(f"{at}/manifests/v1"),
        "manifest by digest": lambda: api.get(f"{at}/manifests/{ABSENT}"),
        "push of a manifest": lambda: api.push_manifest(repository, "v2", image()),
        "delete of a tag": lambda: api.delete(f"{at}/manifests/v1"),
        "blob": lambda: api.get(f"{at}/blobs/{digest_of(EMPTY)}"),
        "head of a blob": lambda: api.head(f"{at}/blobs/{digest_of(EMPTY)}"),
        "delete of a blob": lambda: api.delete(f"{at}/blobs/{digest_of(EMPTY)}"),
        "mount": lambda: api.post(f"{at}/x/blobs/uploads/?mount={digest_of(EMPTY)}&from={repository}"),
        "small blob": lambda: api.post(f"{at}/blobs/uploads/?digest={small}", b"small"),
        "large blob": lambda: api.post(f"{at}/blobs/uploads/?digest={digest_of(large)}", large),
        "first chunk": lambda: api.patch(begun, b"small"),
        "streamed blob": lambda: api.patch(begun, [large]),
        "later chunk": lambda: api.patch(location, b"more"),
        "commit": lambda: api.commit(location, digest_of(b"begun")),
        "status": lambda: api.get(location),
        "cancel": lambda: api.delete(location),
        "tags": lambda: api.get(f"{at}/tags/list"),
        "catalog": lambda: api.get("/v2/_catalog"),
        "referrers": lambda: api.get(f"{at}/referrers/{ABSENT}"),
    }


@pytest.mark.parametrize("fault", ["down", "silent"])
def test_store_that_is_away_is_503_in_bounded_time_and_then_all_goes_on(
    fault: str, ground: Ground, repository: str
) -> None:
    api = ground.api
    manifest = api.push_image(repository, "v1")
    location = api.patch(api.begin(repository), b"begun").header("Location")
    asked = everything(api, repository, location, api.begin(repository))
    (ground.store.down if fault == "down" else ground.store.silent)()

    def timed(ask: Callable[[], Answer]) -> tuple[Answer, float]:
        began = time.monotonic()
        return ask(), time.monotonic() - began

    with ThreadPoolExecutor(len(asked) + 1) as threads:
        pending = {name: threads.submit(timed, ask) for name, ask in asked.items()}
        ready = threads.submit(timed, lambda: api.get("/readyz"))
        assert api.get("/healthz").status == 200
        assert api.get("/v2/").status == 200
        assert api.get("/metrics").status == 200
        answers = {name: answer.result(30) for name, answer in pending.items()}
    for name, (answer, seconds) in answers.items():
        assert answer.status == 503, (name, answer)
        assert 1 <= int(answer.header("Retry-After")) <= 60
        assert seconds < DEADLINE + 4, name
        if not name.startswith("head"):
            assert answer.error() == (503, "UNAVAILABLE")
            assert "cannot reach its store" in answer.message
            assert "try again" in answer.message
            assert "127.0.0.1" not in answer.message  # Where the store is, is nobody's business.
    not_ready, seconds = ready.result(30)
    assert not_ready.status == 503
    assert seconds < DEADLINE + 4
    assert str(ground.store.port) in not_ready.json()["problems"]["store"]
    ground.store.well()
    wait_for(lambda: api.get("/readyz").status == 200)
    assert api.get(f"/v2/{repository}/manifests/v1").body == manifest
    assert api.commit(location, digest_of(b"begun")).status == 201
    assert api.blob(repository, digest_of(b"begun")).body == b"begun"
    assert api.get(f"/v2/{repository}/manifests/v2").status == 404
    assert api.push_manifest(repository, "v2", image()).status == 201


def test_store_that_goes_away_in_the_middle_of_an_upload(ground: Ground, repository: str) -> None:
    api = ground.api
    data = noise(repository, 22 * MIB)
    location = api.begin(repository)
    with api.wire() as wire:
        wire.begin("PATCH", location, {"Content-Length": str(len(data))})
        wire.send(data[: 11 * MIB])
        time.sleep(0.2)
        ground.store.down()
        wire.send(data[11 * MIB :])
        answer = wire.answer("PATCH")
    assert answer.error() == (503, "UNAVAILABLE")
    assert api.metric("bucketry_upload_buffer_bytes") == 0
    ground.store.well()
    assert api.get(f"/v2/{repository}/blobs/{digest_of(data)}").status == 404
    again = api.patch(location, data)
    assert again.status == 202, again
    assert api.commit(again.header("Location"), digest_of(data)).status == 201
    assert api.blob(repository, digest_of(data)).body == data


def test_connections_to_the_store_that_break_off_are_made_anew(ground: Ground, repository: str) -> None:
    api = ground.api
    data = noise(repository, 22 * MIB)
    location = api.begin(repository)
    with api.wire() as wire:
        wire.begin("PATCH", location, {"Content-Length": str(len(data))})
        for at in range(0, len(data), 4 * MIB):
            wire.send(data[at : at + 4 * MIB])
            ground.store.break_off()
        answer = wire.answer("PATCH")
    assert answer.status == 202, answer
    ground.store.break_off()
    assert api.commit(answer.header("Location"), digest_of(data)).status == 201
    with api.wire() as wire:
        wire.begin("GET", f"/v2/{repository}/blobs/{digest_of(data)}")
        response = http.client.HTTPResponse(wire.socket)
        response.begin()
        pulled = response.read(MIB)
        ground.store.break_off()
        pulled += response.read()
    assert digest_of(pulled) == digest_of(data)


def test_store_that_goes_away_in_the_middle_of_a_download_ends_the_connection(ground: Ground, repository: str) -> None:
    """A client must not take what it got for all."""
    api = ground.api
    digest = api.push_blob(repository, noise(repository, 22 * MIB))
    for asked in ({}, {"Range": f"bytes=0-{10 * MIB},{11 * MIB}-"}):
        with api.wire() as wire:
            wire.begin("GET", f"/v2/{repository}/blobs/{digest}", asked)
            response = http.client.HTTPResponse(wire.socket)
            response.begin()
            assert response.status in (200, 206)
            response.read(1000)
            ground.store.down()
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                response.read()
            response.close()
        assert "the answer broke off" in ground.server.log()
        ground.store.well()
        wait_for(lambda: api.get("/readyz").status == 200)
    assert digest_of(api.blob(repository, digest).body) == digest


def test_client_that_leaves_a_download_leaves_nothing_behind(ground: Ground, repository: str) -> None:
    api = ground.api
    digest = api.push_blob(repository, noise(repository, 22 * MIB))
    for asked in ({}, {"Range": f"bytes=0-{10 * MIB},{11 * MIB}-"}, {"Range": "bytes=5-"}):
        for leave in (Wire.reset, Wire.close) * 2:
            wire = Wire(api.port)
            wire.begin("GET", f"/v2/{repository}/blobs/{digest}", asked)
            assert wire.socket.recv(100).startswith(b"HTTP/1.1 20")
            leave(wire)
    wait_for(lambda: api.metric("bucketry_http_requests_in_flight") == 1)
    # Nor do they keep the connections to the store, of which there are 8.
    assert digest_of(api.blob(repository, digest).body) == digest


def test_slow_store_is_waited_for(ground: Ground, repository: str) -> None:
    api = ground.api
    ground.store.slow(0.005)
    manifest = api.push_image(repository, "v1", layers=[noise(repository, 6 * MIB)])
    assert api.get(f"/v2/{repository}/manifests/v1").body == manifest


# Folders


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, in memory."""
    root_only("mount")
    folder.mkdir()
    mount = tool("mount")
    if subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        missing("mount: this machine does not let root mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run([tool("umount"), "--lazy", folder], check=True)


def test_full_disk_is_told_and_leaves_nothing_half_written(tmp_path: Path, repository: str) -> None:
    config = '[upload]\npart_size = "5MiB"\n'
    with (
        small_disk(tmp_path / "disk", "24m") as disk,
        bucketry(str(disk / "store"), tmp_path, config=config, options=["--workers", "1"]) as server,
    ):
        api = Api(server.port)
        kept = noise("kept", 8 * MIB)
        manifest = api.push_image(repository, "v1", layers=[kept])
        large = noise("too large", 30 * MIB)
        location = api.begin(repository)
        tries: list[Callable[[], Answer]] = [
            lambda: api.post(f"/v2/{repository}/blobs/uploads/?digest={digest_of(large)}", large),
            lambda: api.commit(api.begin(repository), digest_of(large), large),
            lambda: api.patch(location, large),
        ]
        for attempt in tries:
            answer = attempt()
            assert answer.status == 507, answer
            assert answer.json()["errors"][0]["code"] == "UNAVAILABLE"
            assert "make room" in answer.message
            assert math.ceil(float(answer.header("Retry-After"))) >= 1
            assert api.get(f"/v2/{repository}/blobs/{digest_of(large)}").status == 404
        # What they had written is gone again: there is room for as much as before.
        fits = noise("fits", 10 * MIB)
        assert api.push_blob(repository, fits) == digest_of(fits)
        filler = disk / "filler"
        with pytest.raises(OSError):
            filler.write_bytes(bytes(30 * MIB))
        answer = api.push_manifest(repository, "v2", image(annotations={"a": "x" * 100_000}))
        assert answer.status == 507, answer
        assert (
            api.post(f"/v2/{repository}/blobs/uploads/?digest={digest_of(b'x' * 100_000)}", b"x" * 100_000).status
            == 507
        )
        # A full store can still be pulled from, and be made room in.
        assert api.get("/readyz").status == 200
        assert api.get(f"/v2/{repository}/manifests/v1").body == manifest
        assert api.blob(repository, digest_of(kept)).body == kept
        assert api.get(f"/v2/{repository}/manifests/v2").status == 404
        assert api.get(f"/v2/{repository}/tags/list").json()["tags"] == ["v1"]
        filler.unlink()
        assert api.push_manifest(repository, "v2", image(annotations={"a": "x" * 100_000})).status == 201
        assert "Traceback" not in server.log()


def test_read_only_folder_can_be_pulled_from_and_takes_nothing(tmp_path: Path, repository: str) -> None:
    with small_disk(tmp_path / "disk", "32m") as disk:
        with bucketry(str(disk / "store"), tmp_path, options=["--workers", "1"]) as server:
            api = Api(server.port)
            data = noise("read-only", 300_000)
            manifest = api.push_image(repository, "v1", layers=[data])
            location = api.patch(api.begin(repository), b"begun").header("Location")
            asyncio.run(age_link(disk / "store", repository, digest_of(data)))
            subprocess.run([tool("mount"), "-o", "remount,ro", disk], check=True)
            assert_only_pulls(api, repository, manifest, data, location)
            assert "Traceback" not in server.log()
        # A server that starts on it serves it too, and says so.
        with bucketry(str(disk / "store"), tmp_path / "again", options=["--workers", "1"]) as server:
            assert "can be pulled from, and takes no pushes" in server.log()
            assert_only_pulls(Api(server.port), repository, manifest, data, location)
            assert "Traceback" not in server.log()


async def age_link(folder: Path, repository: str, digest: str) -> None:
    """Makes a blob's link a day old: a HEAD would renew its lease."""
    store = LocalStore(folder, clock=lambda: time.time() - 86400)
    await store.start()
    key = layout.link(repository, Digest.parse(digest))
    await store.put(key, (await store.get(key)).body)
    await store.close()


def assert_only_pulls(api: Api, repository: str, manifest: bytes, data: bytes, location: str) -> None:
    tries: list[Callable[[], Answer]] = [
        lambda: api.push_manifest(repository, "v2", manifest),
        lambda: api.post(f"/v2/{repository}/blobs/uploads/?digest={digest_of(b'new')}", b"new"),
        lambda: api.patch(api.begin(repository), b"new"),
        lambda: api.patch(api.begin(repository), noise("new", 20 * MIB)),
        lambda: api.commit(location, digest_of(b"begun")),
        lambda: api.delete(location),
        lambda: api.post(f"/v2/{repository}/x/blobs/uploads/?mount={digest_of(data)}&from={repository}"),
        lambda: api.delete(f"/v2/{repository}/manifests/v1"),
        lambda: api.delete(f"/v2/{repository}/manifests/{digest_of(manifest)}"),
        lambda: api.delete(f"/v2/{repository}/blobs/{digest_of(data)}"),
    ]
    for attempt in tries:
        answer = attempt()
        assert answer.error() == (403, "DENIED"), answer
        assert "takes no writes" in answer.message
    assert api.get("/readyz").status == 200
    assert api.get(f"/v2/{repository}/manifests/v1").body == manifest
    assert api.head(f"/v2/{repository}/blobs/{digest_of(data)}").status == 200
    assert api.get(f"/v2/{repository}/blobs/{digest_of(data)}").body == data
    assert api.get("/v2/_catalog").json() == {"repositories": [repository]}


def test_folder_that_is_taken_away_is_told_and_comes_back(tmp_path: Path, repository: str) -> None:
    folder, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    with bucketry(str(folder), tmp_path, options=["--workers", "1"]) as server:
        api = Api(server.port)
        manifest = api.push_image(repository, "v1")
        os.rename(folder, elsewhere)
        not_ready = api.get("/readyz")
        assert not_ready.status == 503
        assert str(folder) in not_ready.json()["problems"]["store"]
        os.rename(elsewhere, folder)
        assert api.get("/readyz").status == 200
        assert api.get(f"/v2/{repository}/manifests/v1").body == manifest
