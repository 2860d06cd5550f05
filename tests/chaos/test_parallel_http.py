"""Pushes in parallel to two servers on one store, which clients reach in turn, request by request."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.chaos.test_store_faults import small_disk
from tests.support.api import Answer, Api, noise
from tests.support.extension import SEGMENT, Extension, Upload
from tests.support.images import digest_of
from tests.support.server import assert_no_fault, bucketry
from tests.support.tools import tool

from bucketry.hashing import Checkpoints, NotingHasher, new

Replicas: TypeAlias = tuple[Api, Api]
SIZE = 2 * SEGMENT + 1000


class InTurn:
    """A load balancer that sends each request elsewhere than the one before."""

    def __init__(self, apis: Sequence[Api]) -> None:
        self._next = itertools.cycle(apis)

    def request(
        self,
        method: str,
        target: str,
        body: bytes | Sequence[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        return next(self._next).request(method, target, body, headers)


@pytest.fixture
def in_turn(replicas: Replicas, repository: str) -> Extension:
    return Extension(InTurn(replicas), repository)


def checkpoints_of(data: bytes) -> bytes:
    hasher = NotingHasher(new("sha256"), SEGMENT)
    hasher.update(data)
    found = hasher.checkpoints()
    assert found is not None
    return found.encode()


def assert_pulled(replicas: Replicas, repository: str, data: bytes) -> None:
    for api in replicas:
        assert api.blob(repository, digest_of(data)).body == data
        found = Checkpoints.parse(Extension(api, repository).checkpoints(digest_of(data)).body)
        assert found.size == len(data)


def assert_invisible(replicas: Replicas, repository: str, digest: str) -> None:
    for api in replicas:
        assert api.get(f"/v2/{repository}/blobs/{digest}").status == 404
        assert api.head(f"/v2/{repository}/blobs/{digest}").status == 404
        assert Extension(api, repository).checkpoints(digest).status == 404


@pytest.mark.parametrize("listed", [True, False], ids=["checkpoints", "serial"])
def test_each_request_reaches_another_server(
    in_turn: Extension, replicas: Replicas, repository: str, listed: bool
) -> None:
    data = noise(repository, SIZE)
    digest, given = digest_of(data), checkpoints_of(data) if listed else None
    upload = in_turn.open(digest=digest, size=len(data))
    for number, body in upload.parts(data).items():
        assert upload.complete(digest, len(data), given).error() == (400, "BLOB_UPLOAD_INVALID")
        if number % 2:
            upload.put(number, body)
        else:
            assert upload.put_own(number, body).status == 201
        assert set(upload.sent()) == set(range(1, number + 1))
        assert_invisible(replicas, repository, digest)
    for _ in range(3):
        assert upload.finish(digest, len(data), given).status == 201
        assert upload.status().json()["state"] == "done"
        assert upload.urls([1]).error() == (404, "BLOB_UPLOAD_UNKNOWN")
    assert in_turn.begin(digest=digest).json()["state"] == "present"
    assert_pulled(replicas, repository, data)


def test_session_that_failed_has_failed_on_both(in_turn: Extension, replicas: Replicas, repository: str) -> None:
    data = noise(repository, SIZE)
    digest = digest_of(data)
    upload = in_turn.open(size=len(data))
    upload.send(data[:-1] + bytes([data[-1] ^ 1]))
    answers = [upload.finish(digest, len(data), checkpoints_of(data)) for _ in range(4)]
    assert {answer.error() for answer in answers} == {(400, "DIGEST_INVALID")}
    assert len({answer.body for answer in answers}) == 1
    for _ in range(2):
        assert upload.status().json()["state"] == "failed"
        assert upload.urls([1]).error() == (400, "BLOB_UPLOAD_INVALID")
    assert_invisible(replicas, repository, digest)


def test_session_that_was_cancelled_is_so_on_both(in_turn: Extension) -> None:
    upload = in_turn.open(size=SIZE)
    upload.put(1, bytes(SEGMENT))
    assert upload.cancel().status == 204
    for _ in range(2):
        for answer in (
            upload.status(),
            upload.urls([1]),
            upload.put_own(1, bytes(SEGMENT)),
            upload.complete(digest_of(b""), SIZE),
            upload.cancel(),
        ):
            assert answer.error() == (404, "BLOB_UPLOAD_UNKNOWN")


def at_both(upload: Upload, replicas: Replicas) -> list[Upload]:
    return [Extension(api, upload.extension.repository).upload(upload.session) for api in replicas]


def test_complete_on_both_at_once_is_one_blob(in_turn: Extension, replicas: Replicas, repository: str) -> None:
    for turn in range(3):
        data = noise(f"{repository} {turn}", SIZE)
        upload = in_turn.open(size=len(data))
        upload.send(data)
        with ThreadPoolExecutor(6) as threads:
            tries = [
                threads.submit(each.finish, digest_of(data), len(data), checkpoints_of(data))
                for each in at_both(upload, replicas) * 3
            ]
            answers = [each.result() for each in tries]
        assert {answer.status for answer in answers} == {201}, answers
        assert_pulled(replicas, repository, data)


def test_complete_as_two_blobs_at_once_is_what_the_bytes_are_or_none(
    in_turn: Extension, replicas: Replicas, repository: str
) -> None:
    """Who claims first says what it is. If that was a lie, the session has failed."""
    other = digest_of(noise("other bytes", 10))
    for turn in range(4):
        data = noise(f"{repository} {turn}", SEGMENT + 1000)
        upload = in_turn.open(size=len(data))
        upload.send(data)
        one, two = at_both(upload, replicas)
        with ThreadPoolExecutor(2) as threads:
            right = threads.submit(one.finish, digest_of(data), len(data))
            wrong = threads.submit(two.finish, other, len(data))
            assert wrong.result().error()[0] == 400
            if right.result().status == 201:
                assert_pulled(replicas, repository, data)
            else:
                assert right.result().error()[0] == 400
                assert_invisible(replicas, repository, digest_of(data))
        assert_invisible(replicas, repository, other)


def test_status_while_the_other_completes_knows_the_session(
    in_turn: Extension, replicas: Replicas, repository: str
) -> None:
    """At every moment it is open, being verified, or done."""
    data = noise(repository, SIZE)
    upload = in_turn.open(size=len(data))
    upload.send(data)
    one, two = at_both(upload, replicas)
    with ThreadPoolExecutor(1) as threads:
        completing = threads.submit(one.finish, digest_of(data), len(data))
        states = []
        while not completing.done():
            answer = two.status()
            assert answer.status == 200, answer
            states.append(answer.json()["state"])
        assert completing.result().status == 201
    assert set(states) <= {"open", "verifying", "done"}
    assert states == sorted(states, key=["open", "verifying", "done"].index)
    assert two.status().json()["state"] == "done"


def test_read_only_store_takes_no_push_and_gives_checkpoints(tmp_path: Path, repository: str) -> None:
    with (
        small_disk(tmp_path / "disk", "64m") as disk,
        bucketry(str(disk / "store"), tmp_path, options=["--workers", "1"]) as server,
    ):
        extension = Extension(Api(server.port), repository)
        data = noise(repository, SEGMENT + 1000)
        digest = digest_of(data)
        extension.push(data, digest, checkpoints_of(data))
        upload = extension.open(size=len(data))
        upload.put(2, data[SEGMENT:])
        ready = extension.open(size=1000)
        ready.put(1, data[:1000])
        subprocess.run([tool("mount"), "-o", "remount,ro", disk], check=True)
        for answer in (
            extension.begin(),
            extension.begin(digest=digest_of(b"new"), size=3),
            upload.put_own(1, data[:SEGMENT]),
            ready.complete(digest_of(data[:1000]), 1000),
            upload.cancel(),
            Extension(Api(server.port), f"{repository}/b").begin(digest=digest),
        ):
            assert answer.error() == (403, "DENIED"), answer
            assert "takes no writes" in answer.message
        assert upload.status().status in (200, 403)  # A folder is locked for it, which is a write.
        assert extension.begin(digest=digest).json()["state"] == "present"
        assert Checkpoints.parse(extension.checkpoints(digest).body).size == len(data)
        subprocess.run([tool("mount"), "-o", "remount,rw", disk], check=True)
        upload.put(1, data[:SEGMENT])
        assert upload.finish(digest, len(data)).status == 201
        assert ready.finish(digest_of(data[:1000]), 1000).status == 201
        assert_no_fault(server)
